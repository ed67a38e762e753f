"""The pages: what a student may see, and nothing of a student's that is more than text."""

import re
from functools import partial

import pytest

from course_lib.grading import __main__ as module
from course_lib.grading.__main__ import main
from course_lib.grading.feedback import page, write
from course_lib.grading.overview import overview

from .test_export import FOUND, record

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J\ud800"


def full(student, why="", **parts):
    known = record(student) | {"why": why, "flags": [f"renamed: {EVIL}"]}
    for name, part in known["exercises"].items():
        part |= {"property": None, "facts": [], "stub": False, "seconds": 0.25} | parts.get(
            name, {}
        )
    return known


FAILED = {"public": False, "hidden": None, "report": EVIL, "property": "runs on every input"}
FAILED |= {"facts": [["Raised", EVIL], ["Input", "joules(1)"]]}
HIDDEN = {"public": True, "hidden": False, "report": "joules(SECRET)", "property": "counts"}
HIDDEN |= {"facts": [["Input", "joules(SECRET)"]]}


def test_a_solved_exercise_and_one_that_is_not():
    text = page(full("ada", smallest_file=FAILED))
    assert "<title>motivation: 2 of 3 solved</title>" in text
    assert text.count("✓ solved") == 2
    assert text.count("✗ not yet") == 1
    assert "mended_file_bytes(sizes, bits)" in text


def test_hidden_inputs_are_not_shown_until_revealed():
    known = full("ada", joules=HIDDEN)
    assert "SECRET" not in page(known)
    assert "fails on others of the same kind" in re.sub(r"\s+", " ", page(known))
    assert "SECRET" in page(known, reveal=True)


@pytest.mark.parametrize("made", [partial(page, reveal=True), lambda record: overview([record])])
def test_text_of_a_student_is_only_text(made):
    text = made(full(EVIL, why=EVIL, joules=FAILED))
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text
    assert "default-src 'none'" in text
    text.encode()  # no half of a character


def test_without_a_score_there_is_the_reason():
    assert "There is no score. The file is empty." in page(FOUND[2])


def test_files_have_safe_names_and_a_list_says_whose_they_are(tmp_path):
    write([full("ada"), full("..\\evil"), full("a b")], tmp_path)
    assert sorted(path.name for path in (tmp_path / "students").iterdir()) == [
        "ada.html",
        "student-00002.html",
        "student-00003.html",
    ]
    assert "student-00002.html\t..\\evil" in (tmp_path / "names.txt").read_text()


def test_the_command(monkeypatch, tmp_path, capsys):

    monkeypatch.setattr(module, "latest", lambda results: [full("ada", joules=HIDDEN)])
    assert main(["feedback", str(tmp_path), "-o", str(tmp_path / "out")]) == 0
    assert "overview.html" in capsys.readouterr().out
    assert "SECRET" not in (tmp_path / "out/students/ada.html").read_text()


def test_a_page_fits_a_phone_and_has_no_scroll(browser, tmp_path):
    write([full("ada", joules=FAILED | {"report": "x" * 500})], tmp_path)
    context = browser.new_context(viewport={"width": 390, "height": 800})
    shown = context.new_page()
    shown.goto((tmp_path / "students/ada.html").as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
