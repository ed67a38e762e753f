"""The commands: what they print, and the exit code that a script can go by."""

import contextlib
import errno
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from course_lib.grading import __main__ as module
from course_lib.grading import batch, doctor, sandbox, selftest
from course_lib.grading.__main__ import main

from .test_batch import hand_in


@pytest.fixture
def here(monkeypatch, bwrap):
    """Grade in this process, in the sandbox that all tests share."""
    for place in (batch, module):
        monkeypatch.setattr(place, "sandbox", lambda settings: bwrap)
        monkeypatch.setattr(place, "close", lambda: None)


def test_make_writes_all_editions_and_says_where(tmp_path, capsys):
    assert main(["make", "criteria", "-o", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for edition in ("source", "release", "instructor", "solutions"):
        (line,) = [line for line in said.splitlines() if line.startswith(f"{edition}: ")]
        assert Path(line.removeprefix(f"{edition}: ")).is_file()
    assert main(["make", "criteria", "-o", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["make", "criteria", "-o", str(tmp_path), "--lessons", str(tmp_path)]) == 2
    assert "There is no lesson" in capsys.readouterr().err


def test_make_an_exam_and_grade_it_with_its_seed(here, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("ada\n\n bob \n")
    command = ["make", "exam", "-o", str(tmp_path / "made"), "--students", str(names)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "2 students have numbers of their own." in said
    (seed,) = re.findall(r"--seed (\d+)", said)
    run = ["run", str(tmp_path / "made" / "personal"), "exam", "-o", str(tmp_path / "out")]
    for wrong in ([], ["--seed", str(int(seed) + 1)]):
        assert main([*run, *wrong]) == 2
        assert "--seed must be the one that `make exam` printed" in capsys.readouterr().err
    assert main([*run, "--seed", seed]) == 0
    assert "2 graded." in capsys.readouterr().out


def test_run_grades_and_says_where(here, tmp_path, capsys):
    hand_in(tmp_path / "in", "ada")
    results = str(tmp_path / "out")
    assert main(["run", str(tmp_path / "in"), "motivation", "-o", results]) == 0
    said = capsys.readouterr().out
    assert "1 students, motivation, sandbox bwrap, seed " in said
    assert "1 graded." in said
    assert f"The grades are in {results}{os.sep}grades.csv." in said


def test_a_drawn_seed_is_kept_by_resume(here, tmp_path, capsys):
    hand_in(tmp_path / "in", "ada")
    command = ["run", str(tmp_path / "in"), "motivation", "-o", str(tmp_path / "out")]
    main(command)
    hand_in(tmp_path / "in", "bob")
    assert main(command) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert "2 graded." in capsys.readouterr().out


def test_what_needs_a_human_is_listed(here, tmp_path, capsys):
    hand_in(tmp_path / "in", "ada", b"\x1b[2J")
    command = [
        "run",
        str(tmp_path / "in"),
        "motivation",
        "-o",
        str(tmp_path / "out"),
        "--seed",
        "3",
    ]
    assert main(command) == 3
    said = capsys.readouterr().out
    assert "needs a human: 'ada': unreadable. 'The file is not a notebook" in said


def test_shards_and_merge(here, tmp_path, capsys):
    for student in ("ada", "bob", "eve"):
        hand_in(tmp_path / "in", student)
    command = ["run", str(tmp_path / "in"), "motivation"]
    for index in (1, 2):
        shard = [*command, "-o", str(tmp_path / f"part{index}"), "--shard", f"{index}/2"]
        assert main(shard) == 2
        assert "--shard needs --seed" in capsys.readouterr().err
        assert main([*shard, "--seed", "5"]) == 0
    parts = [str(tmp_path / f"part{index}") for index in (1, 2)]
    assert main(["merge", *parts, "-o", str(tmp_path / "all")]) == 0
    assert "3 graded." in capsys.readouterr().out
    for wrong in ("0/2", "3/2", "x", "1/x"):
        given = [*command, "-o", str(tmp_path / "x"), "--shard", wrong, "--seed", "5"]
        assert main(given) == 2
        assert f"from 1 to N, got {wrong!r}" in capsys.readouterr().err


def test_wrong_use_has_code_2(tmp_path, capsys):
    assert main(["run", str(tmp_path / "none"), "motivation", "-o", str(tmp_path / "x")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    for command in ([], ["run"], ["run", "x", "no-such", "-o", "y"]):
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == 2


def test_a_full_disk_and_an_unwritable_folder_have_code_2(here, monkeypatch, tmp_path, capsys):
    hand_in(tmp_path / "in", "ada")
    hand_in(tmp_path / "in", "bob")
    command = ["run", str(tmp_path / "in"), "motivation", "-o"]
    (tmp_path / "file").write_text("x")
    assert main([*command, str(tmp_path / "file/out")]) == 2
    assert "cannot be written: Not a directory." in capsys.readouterr().err
    sync, synced = os.fsync, []

    def full(handle):
        synced.append(handle)
        if len(synced) > 2:  # run.json and the first student are on the disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(batch.os, "fsync", full)
        assert main([*command, str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said == "Stopped: No space left on device. What was graded is kept.\n"
    assert not (tmp_path / "out/grades.csv").exists()
    assert main([*command, str(tmp_path / "out"), "--resume"]) == 0
    assert "2 graded." in capsys.readouterr().out


def test_no_sandbox_has_code_4(monkeypatch, tmp_path, capsys):
    hand_in(tmp_path / "in", "ada")
    monkeypatch.setattr(sandbox.os, "geteuid", lambda: 0)
    assert main(["run", str(tmp_path / "in"), "motivation", "-o", str(tmp_path / "out")]) == 4
    assert "students' code never runs as root" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_doctor_names_the_sandbox_that_run_would_use(monkeypatch, capsys):
    found = [doctor.Finding("bwrap", "It is not installed."), doctor.Finding("landlock")]
    monkeypatch.setattr(doctor, "examine", lambda user: found)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("`run` would use landlock.\n")
    monkeypatch.setattr(doctor, "examine", lambda user: found[:1])
    assert main(["doctor"]) == 4
    assert "No submissions can be graded" in capsys.readouterr().out


def test_selftest_says_what_it_tried(bwrap, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(module, "Sandbox", lambda *_, **__: contextlib.nullcontext(bwrap))
    command = ["selftest", "motivation", "--seeds", "1"]
    known = selftest.known("motivation")[::40]
    monkeypatch.setattr(selftest, "known", lambda *_: known)
    assert main(command) == 0
    assert "0 wrong verdicts." in capsys.readouterr().out
    known[0] = replace(known[0], right=not known[0].right)
    assert main(command) == 3
    assert "which is" in capsys.readouterr().out
    monkeypatch.undo()
    assert main([*command, "--answers", str(tmp_path)]) == 2
    assert "give their folder with --answers" in capsys.readouterr().err


def test_the_commands_on_the_page_for_instructors_are_commands():
    page = (Path(__file__).parents[2] / "book/grading.md").read_text("utf-8")
    shown = re.findall(r"^python -m course_lib\.grading (.+)$", page, re.MULTILINE)
    commands = "run merge feedback export doctor selftest"
    assert {line.split()[0] for line in shown} == set(commands.split())
    for line in shown:
        assert module._parser().parse_args(shlex.split(line)).do
    for word in ("graded", "missing", "unreadable", "infra_error"):
        assert f"| `{word}` |" in page
    assert set(batch.STATUSES) == {"graded", "missing", "unreadable", "infra_error"}
