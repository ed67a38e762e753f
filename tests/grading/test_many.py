"""A run of the command that is killed (-9) twice loses nothing; `many.py` does it with thousands."""

from course_lib.grading import batch

from .many import HOSTILE, Run, differences, figures, hand_in, killed, tabulate


def test_killed_runs_lose_nothing_and_count_nothing_twice(bwrap, monkeypatch, tmp_path):
    """Killed with two processes, then with one, and finished; then once in this process."""
    hand_in(tmp_path / "submitted", 60, "motivation")
    stopped = killed(tmp_path, 60, "motivation", [2, 1, 1])
    assert stopped.ended >= 6  # two graders and a sandbox of each; then one sandbox
    monkeypatch.setattr(batch, "sandbox", lambda settings: bwrap)
    monkeypatch.setattr(batch, "close", lambda: None)
    wanted = batch.tasks(tmp_path / "submitted", "motivation")
    settings = batch.Settings("motivation", 7, seconds=2)
    found = list(batch.run(wanted, settings, tmp_path / "whole"))
    assert differences(Run(tmp_path / "whole"), stopped, 60) == []
    assert {record["status"] for record in found} == {"graded", "missing", "unreadable"}


def test_a_lost_and_a_repeated_record_would_be_seen(tmp_path):
    """The comparison itself can fail."""
    wanted = [batch.Task(f"student{n:05}", None, "missing", "x.") for n in range(3)]
    settings = batch.Settings("motivation", 7)
    runs = []
    for name in ("whole", "killed"):
        list(batch.run(wanted, settings, tmp_path / name))
        runs.append(Run(tmp_path / name))
    assert differences(*runs, 3) == []
    lines = (tmp_path / "killed/results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "killed/results.jsonl").write_text("".join([*lines, lines[0]]))
    assert differences(*runs, 3) == ["killed: 4 records, 3 students"]
    (tmp_path / "killed/results.jsonl").write_text("".join(lines[1:]))
    batch.write_grades(tmp_path / "killed")
    assert differences(*runs, 3) == [
        "killed: 2 records, 2 students",
        "the two tables of grades differ",
    ]


def test_every_kind_of_damage_is_handed_in(tmp_path):
    hand_in(tmp_path, 3 * 2 * len(HOSTILE), "motivation")
    folders = sorted(path / "motivation" for path in tmp_path.iterdir())
    files = [path for folder in folders for path in folder.iterdir() if path.is_file()]
    texts = {path.read_bytes() for path in files if not path.is_symlink()}
    assert b"" in texts
    assert any(path.is_symlink() for folder in folders for path in folder.iterdir())
    for body in HOSTILE:
        escaped = body.encode("unicode_escape").replace(b"\\\\", b"\\")[:20]
        assert any(escaped in text for text in texts), body


def test_the_figures_begin_with_the_first_record_and_end_before_the_processes_do(tmp_path):
    """The sandboxes take 30 s of computing to start; at the end, their processes are gone."""
    told = [(0, 20.0, 500), *((10 + n, 30.0 + n / 5, 100 + n) for n in range(9)), (30, 1.0, 40)]
    samples = [dict(zip(("records", "cpu", "MB"), at, strict=True)) for at in told]
    row = figures(30, Run(tmp_path, samples=samples))
    assert list(row.values()) == ["30", "200", "10.0", "101", "107"]
    assert list(figures(30, Run(tmp_path, samples=samples[:6])).values())[3:] == ["", ""]


def test_a_table_keeps_the_rows_of_other_assignments(tmp_path):
    path = tmp_path / "table.csv"
    for name, number in (("b", "1"), ("a", "2"), ("b", "3,000")):
        tabulate(path, name, {"Submissions": number})
    assert path.read_text() == 'Assignment,Submissions\na,2\nb,"3,000"\n'
