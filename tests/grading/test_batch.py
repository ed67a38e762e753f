"""A batch loses nothing and counts nothing twice, whatever the submissions and the machine do."""

import csv
import errno
import io
import os
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor

import pytest
import torch
from distributed import Client, LocalCluster

from course_lib.grading import batch as module
from course_lib.grading.batch import (
    Settings,
    Task,
    Unusable,
    grades,
    merge,
    run,
    tasks,
)
from course_lib.grading.sandbox import Gone

from .submissions import cell, notebook

RIGHT = (
    "def joules(weights, macs, bits, images):\n    return 1",  # wrong
    "def smallest():\n    return ()",
    "def mended_file_bytes(sizes, bits):\n    return (sum(sizes) * bits + 7) // 8",
)
SETTINGS = Settings("motivation", seed=11)


@pytest.fixture
def graded_here(monkeypatch, bwrap):
    """Grade in this process, in the sandbox that all tests share."""
    monkeypatch.setattr(module, "sandbox", lambda settings: bwrap)
    monkeypatch.setattr(module, "close", lambda: None)


def hand_in(folder, student, content=None, name="motivation.ipynb"):
    place = folder / student / "motivation"
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(notebook(*RIGHT) if content is None else content)


@pytest.fixture
def submitted(tmp_path):
    """Yield a folder with good, broken and hostile submissions, one or two of each."""
    folder = tmp_path / "submitted"
    for student in ("ada", "bob", "=cmd|'calc'!A0", "<script>alert(1)", "zoë"):
        hand_in(folder, student)
    hand_in(folder, "cut", notebook(*RIGHT)[:-30])
    hand_in(folder, "empty", b"")
    hand_in(folder, "other", notebook("def magnitude_mask(w, s): return w"))
    hand_in(folder, "markdown", notebook(*(cell(text, cell_type="markdown") for text in RIGHT)))
    hand_in(folder, "one missing", notebook(*RIGHT[1:]))
    hand_in(folder, "syntax", notebook(RIGHT[0] + " (", *RIGHT[1:]))
    hand_in(folder, "twice", notebook(*RIGHT, *RIGHT))
    hand_in(folder, "renamed", name="motivation (1).ipynb")
    hand_in(folder, "copy beside it")
    hand_in(folder, "copy beside it", name="motivation-Copy1.ipynb")
    hand_in(folder, "two", name="a.ipynb")
    hand_in(folder, "two", name="b.ipynb")
    hand_in(
        folder, "dies", notebook(RIGHT[0].replace("return 1", "import os; os._exit(1)"), *RIGHT[1:])
    )
    (folder / "nothing").mkdir()
    (folder / "no notebook/motivation").mkdir(parents=True)
    (folder / "no notebook/motivation/notes.txt").write_text("x")
    (folder / "zip/motivation").mkdir(parents=True)
    (folder / "zip/motivation/motivation.zip").write_bytes(b"PK\x03\x04../../etc/passwd")
    (folder / "link").symlink_to(folder / "ada")
    (folder / "linked file/motivation").mkdir(parents=True)
    (folder / "linked file/motivation/motivation.ipynb").symlink_to(
        folder / "ada/motivation/motivation.ipynb"
    )
    (folder / "file.txt").write_text("no student")
    (folder / ".hidden").mkdir()
    return folder


EXPECTED = {
    "ada": "graded", "bob": "graded", "zoë": "graded", "=cmd|'calc'!A0": "graded",
    "<script>alert(1)": "graded", "cut": "unreadable", "empty": "unreadable",
    "other": "unreadable", "markdown": "unreadable", "one missing": "graded", "syntax": "graded",
    "twice": "graded", "renamed": "graded", "copy beside it": "graded", "two": "unreadable",
    "dies": "graded", "nothing": "missing", "no notebook": "missing", "zip": "missing",
    "link": "unreadable", "linked file": "unreadable",
}  # fmt: skip


def table(results):
    return list(csv.DictReader(io.StringIO((results / "grades.csv").read_text("utf-8"))))


def test_torch_computes_in_one_thread_while_it_grades(submitted, monkeypatch, graded_here):
    """Several graders on one machine would wait for each other's threads."""
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr(module, "_tried", lambda *_: seen.append(torch.get_num_threads()) or {})
    torch.set_num_threads(2)
    try:
        for task in tasks(submitted, "motivation"):
            module.grade(task, SETTINGS)
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_each_submission_has_its_status_and_the_batch_goes_on(graded_here, submitted, tmp_path):
    results = tmp_path / "results"
    found = list(run(tasks(submitted, "motivation"), SETTINGS, results))
    assert {record["student"]: record["status"] for record in found} == EXPECTED
    assert all(
        record["why"].endswith((".", "?")) for record in found if record["status"] != "graded"
    )
    by_student = {row["student_id"].removeprefix("'"): row for row in table(results)}
    assert by_student.keys() == EXPECTED.keys()
    for student, row in by_student.items():
        assert (row["score"] != "") == (EXPECTED[student] == "graded")
        assert row["max_score"] == "3"
    assert by_student["ada"]["score"] == by_student["twice"]["score"] == "1"
    assert by_student["dies"]["score"] == by_student["syntax"]["score"] == "1"
    assert by_student["one missing"]["flags"] == "not-found"
    assert by_student["syntax"]["flags"] == "cell-left-out not-found"
    assert by_student["twice"]["flags"] == "defined-twice"
    assert by_student["renamed"]["flags"] == "renamed"
    assert by_student["copy beside it"]["flags"] == "more-notebooks"


def test_no_cell_of_the_table_is_a_formula_or_a_student_s_text(graded_here, tmp_path):
    content = notebook(
        RIGHT[0].replace("return 1", "raise ValueError('=HYPERLINK(1)')"), *RIGHT[1:]
    )
    hand_in(tmp_path, "=1+1", content)
    list(run(tasks(tmp_path, "motivation"), SETTINGS, tmp_path / "results"))
    text = (tmp_path / "results/grades.csv").read_text()
    assert "HYPERLINK" not in text
    assert ",'=1+1," in text
    assert "HYPERLINK" in (tmp_path / "results/results.jsonl").read_text()


def test_students_who_hand_in_nothing_odd_have_no_flags(graded_here, tmp_path):
    hand_in(tmp_path, "ada")
    (record,) = run(tasks(tmp_path, "motivation"), SETTINGS, tmp_path / "results")
    assert record["flags"] == []
    assert record["exercises"]["mended_file_bytes"]["hidden"] is True
    assert record["exercises"]["joules"] == record["exercises"]["joules"] | {
        "public": False,
        "hidden": None,
    }


class Killed(BaseException):
    pass


def test_killed_at_any_place_and_resumed_the_table_is_the_same(graded_here, submitted, tmp_path):
    """Five times stopped between any two steps, with half a line on the disk, and resumed."""
    wanted = tasks(submitted, "motivation")
    list(run(wanted, SETTINGS, tmp_path / "whole"))
    results, resume, graded = tmp_path / "stopped", False, []
    for stop in (3, 1, 6, 0, 4):
        partly = run(wanted, SETTINGS, results, resume=resume)
        graded += [next(partly)["student"] for _ in range(stop)]
        partly.close()
        if (results / "results.jsonl").exists():
            with open(results / "results.jsonl", "ab") as file:
                file.write(b'{"student": "half a li')
        resume = (results / "run.json").exists()
    graded += [record["student"] for record in run(wanted, SETTINGS, results, resume=True)]
    assert sorted(graded) == sorted(EXPECTED)  # each once
    assert (results / "grades.csv").read_bytes() == (tmp_path / "whole/grades.csv").read_bytes()


def test_a_changed_submission_is_graded_again_and_counts_once(graded_here, tmp_path):
    hand_in(tmp_path / "in", "ada", notebook("def smallest(): return ()"))
    list(run(tasks(tmp_path / "in", "motivation"), SETTINGS, tmp_path / "out"))
    hand_in(tmp_path / "in", "ada")
    again = list(run(tasks(tmp_path / "in", "motivation"), SETTINGS, tmp_path / "out", resume=True))
    assert len(again) == 1
    assert [row["score"] for row in table(tmp_path / "out")] == ["1"]


def test_what_was_handed_in_last_counts_whatever_came_before(graded_here, tmp_path):
    """A first version that comes back, a notebook that goes and one that cannot be opened."""
    folder, seen = tmp_path / "in", []
    file, first = folder / "ada/motivation/motivation.ipynb", notebook("def smallest(): return ()")

    def graded(resume=True):
        list(run(tasks(folder, "motivation"), SETTINGS, tmp_path / "out", resume=resume))
        (row,) = table(tmp_path / "out")
        seen.append((row["status"], row["score"]))

    hand_in(folder, "ada", first)
    graded(resume=False)
    for content in (notebook(*RIGHT), first):
        file.write_bytes(content)
        graded()
    file.unlink()
    graded()
    file.symlink_to("elsewhere")
    graded()
    file.unlink()
    hand_in(folder, "ada")
    graded()
    assert seen == [
        ("graded", "0"),
        ("graded", "1"),
        ("graded", "0"),
        ("missing", ""),
        ("unreadable", ""),
        ("graded", "1"),
    ]


def test_shards_hold_every_student_once_and_merge_to_the_same_table(
    graded_here, submitted, tmp_path
):
    wanted = tasks(submitted, "motivation")
    list(run(wanted, SETTINGS, tmp_path / "whole"))
    parts = []
    for index in (1, 2, 3):
        part = [task for task in wanted if module.in_shard(task.student, index, 3)]
        parts.append(tmp_path / f"part{index}")
        list(run(part, SETTINGS, parts[-1]))
    merge(parts, tmp_path / "merged")
    assert (tmp_path / "merged/grades.csv").read_bytes() == (
        tmp_path / "whole/grades.csv"
    ).read_bytes()
    list(run(wanted[:1], Settings("motivation", seed=12), tmp_path / "other"))
    with pytest.raises(Unusable, match="other is a part of another run: it has another seed"):
        merge([*parts, tmp_path / "other"], tmp_path / "again")
    with pytest.raises(Unusable, match="merged holds a run already"):
        merge(parts, tmp_path / "merged")


def test_a_part_that_was_stopped_is_not_merged(tmp_path):
    """Its students would be missing from the table, and nobody would notice."""
    wanted = [Task(name, None, "missing", "x.") for name in "abc"]
    parts = [tmp_path / "part1", tmp_path / "part2"]
    list(run(wanted[:1], SETTINGS, parts[0]))
    stopped = run(wanted[1:2], SETTINGS, parts[1])
    next(stopped)
    stopped.close()
    with pytest.raises(Unusable, match="part2 is not finished: run it again with --resume"):
        merge(parts, tmp_path / "all")
    list(run(wanted[1:2], SETTINGS, parts[1], resume=True))
    stopped = run(wanted[1:], SETTINGS, parts[1], resume=True)  # a student came late
    next(stopped)
    stopped.close()
    with pytest.raises(Unusable, match="part2 is not finished"):
        merge(parts, tmp_path / "all")
    list(run(wanted[1:], SETTINGS, parts[1], resume=True))
    merge(parts, tmp_path / "all")
    assert [row["student_id"] for row in table(tmp_path / "all")] == ["a", "b", "c"]


def test_any_executor_does_and_the_order_does_not_matter(submitted, tmp_path, user):
    wanted = [task for task in tasks(submitted, "motivation") if not task.notebook]
    list(run(wanted, SETTINGS, tmp_path / "one"))
    list(run(wanted[::-1], SETTINGS, tmp_path / "two", executor=lambda: ThreadPoolExecutor(3)))
    assert (tmp_path / "one/grades.csv").read_bytes() == (tmp_path / "two/grades.csv").read_bytes()


class Dies(module.Here):
    """An executor that dies when it is given one student's work."""

    def submit(self, fn, /, *args, **kwargs):
        if args[0].student == "fatal":
            future = Future()
            future.set_exception(BrokenExecutor("a process ended abruptly"))
            return future
        return super().submit(fn, *args, **kwargs)


def test_a_grader_process_that_dies_costs_only_its_own_student(tmp_path):
    wanted = [Task(name, None, "missing", "x.") for name in ("a", "fatal", "b", "c")]
    found = list(run(wanted, SETTINGS, tmp_path, executor=Dies))
    statuses = {record["student"]: record["status"] for record in found}
    assert statuses == {"a": "missing", "b": "missing", "c": "missing", "fatal": "infra_error"}
    assert len(found) == 4
    (row,) = [row for row in table(tmp_path) if row["student_id"] == "fatal"]
    assert (row["status"], row["score"]) == ("infra_error", "")
    again = list(run(wanted, SETTINGS, tmp_path, resume=True))  # what failed is tried once more
    assert [(record["student"], record["status"]) for record in again] == [("fatal", "missing")]
    assert [row["status"] for row in table(tmp_path)] == ["missing"] * 4


def test_a_sandbox_that_dies_is_replaced_once_and_then_nobody_s_zero(monkeypatch, bwrap, tmp_path):
    hand_in(tmp_path / "in", "ada")
    closed, died = [], []
    grade = module.blackbox.grade

    def dies(times):
        def graded(*args):
            if len(died) < times:
                died.append(1)
                raise Gone("the sandbox has ended")
            return grade(*args)

        return graded

    monkeypatch.setattr(module, "sandbox", lambda settings: bwrap)
    monkeypatch.setattr(module, "close", lambda: closed.append(1))
    wanted = tasks(tmp_path / "in", "motivation")
    monkeypatch.setattr(module.blackbox, "grade", dies(1))
    (record,) = run(wanted, SETTINGS, tmp_path / "one")
    assert record["status"] == "graded"
    assert closed
    died.clear()
    monkeypatch.setattr(module.blackbox, "grade", dies(2))
    (record,) = run(wanted, SETTINGS, tmp_path / "two")
    assert record["status"] == "infra_error"
    assert [row["score"] for row in table(tmp_path / "two")] == [""]


def test_what_cannot_begin_says_what_to_change(tmp_path):
    wanted = [Task("ada", None, "missing", "x.")]
    with pytest.raises(Unusable, match="There is no folder"):
        tasks(tmp_path / "nowhere", "motivation")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        Unusable, match=r"holds no folders; <student>/motivation/\*.ipynb is expected"
    ):
        tasks(tmp_path / "empty", "motivation")
    list(run(wanted, SETTINGS, tmp_path / "out"))
    with pytest.raises(Unusable, match="holds a run already: add --resume"):
        next(run(wanted, SETTINGS, tmp_path / "out"))
    with pytest.raises(Unusable, match="holds a run with another seed"):
        next(run(wanted, Settings("motivation", 12), tmp_path / "out", resume=True))
    (tmp_path / "file").write_text("x")
    with pytest.raises(Unusable, match="cannot be written"):
        next(run(wanted, SETTINGS, tmp_path / "file"))
    (tmp_path / "out/run.json").write_text("{")
    with pytest.raises(Unusable, match="run.json cannot be read"):
        next(run(wanted, SETTINGS, tmp_path / "out", resume=True))


def test_a_full_disk_stops_the_run_and_keeps_what_was_written(monkeypatch, tmp_path):
    wanted = [Task(name, None, "missing", "x.") for name in "abc"]
    started = run(wanted, SETTINGS, tmp_path)
    next(started)
    kept = (tmp_path / "results.jsonl").read_bytes()

    def full(handle):
        os.ftruncate(handle, len(kept) + 20)  # a part of the line was written
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            list(started)
    assert [record["student"] for record in run(wanted, SETTINGS, tmp_path, resume=True)] == [
        "b",
        "c",
    ]
    assert (tmp_path / "results.jsonl").read_bytes().startswith(kept)


def test_names_that_no_encoding_holds_do_not_stop_the_table(tmp_path):
    wanted = [Task(os.fsdecode(b"b\xffd"), None, "missing", "x.")]
    list(run(wanted, SETTINGS, tmp_path))
    assert "b\\udcffd" in (tmp_path / "grades.csv").read_text()


def test_grades_of_nobody_are_an_empty_table():
    assert grades([]).startswith("assignment,student_id,status,score,max_score,")


def test_a_dask_cluster_does_the_work_and_is_left_when_a_run_stops(submitted, tmp_path, user):
    wanted = [task for task in tasks(submitted, "motivation") if task.student in ("ada", "cut")]
    settings = Settings("motivation", seed=11, user=user)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        stopped = run(wanted, settings, tmp_path / "out", executor=client.get_executor)
        next(stopped)
        stopped.close()
        list(run(wanted, settings, tmp_path / "out", resume=True, executor=client.get_executor))
    assert [(row["status"], row["score"]) for row in table(tmp_path / "out")] == [
        ("graded", "1"),
        ("unreadable", ""),
    ]
