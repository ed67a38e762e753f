"""The demonstration for instructors, and the page that tells them what to do."""

import csv
import re
import shlex
import shutil
import sys
from pathlib import Path

import grade_demo
import nbformat

from course_lib.grading import __main__ as commands
from course_lib.grading import batch, editions

from ..conftest import missing

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book/instructors.md").read_text("utf-8")


def test_twenty_students_get_what_they_deserve(tmp_path, monkeypatch, capsys):
    if not shutil.which("bwrap"):
        missing("no bubblewrap")
    monkeypatch.setattr(sys, "argv", ["grade_demo.py", str(tmp_path / "demo")])
    grade_demo.main()
    assert "Twenty students in" in capsys.readouterr().out
    with open(tmp_path / "demo/results/grades.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["graded"] * 18 + ["unreadable"] * 2
    assert [row["score"] for row in rows] == [*"333333332222222203", "", ""]
    pages = {path.stem for path in (tmp_path / "demo/feedback/students").glob("*.html")}
    assert pages == {f"student{number:02}" for number in range(1, 21)}
    assert "18 graded, 2 unreadable." in (tmp_path / "demo/feedback/overview.html").read_text()
    moodle = (tmp_path / "demo/results/moodle.csv").read_text().splitlines()
    assert len(moodle) == 19  # whoever has no score is left out


def test_the_commands_for_instructors_are_commands():
    shown = re.findall(r"^python -m course_lib\.grading (.+)$", PAGE, re.MULTILINE)
    assert {line.split()[0] for line in shown} == {"make", "doctor", "run", "feedback", "export"}
    for line in shown:
        assert commands._parser().parse_args(shlex.split(line)).do
    assert "grade-demo: .venv/ready" in (ROOT / "Makefile").read_text()


def test_every_assignment_named_for_the_term_is_one():
    named = set(re.findall(r"\| `(\w+)` \|$", PAGE, re.MULTILINE))
    assert len(named) == 13 and named < set(batch.assignments())
    for name in set(batch.assignments()) - {"exam"}:
        path = editions.path_of(name)
        if path.name in PAGE:
            assert nbformat.read(path, 4).cells
    for edition in editions.EDITIONS:
        assert f"| `{edition}" in PAGE
