"""The exam as notebooks: everybody's own numbers, graded against them, and no answer inside."""

import ast
import json

import nbformat
import numpy as np
import pytest

from course_lib.exercises.exam import ITEMS, variant
from course_lib.grading import batch as module
from course_lib.grading import editions
from course_lib.grading.batch import Settings, Unusable, latest, run, score, tasks
from course_lib.grading.checks import CheckFailed
from course_lib.grading.exam import SPECIMEN, cells, fits, form, write
from course_lib.grading.export import as_moodle
from course_lib.grading.feedback import page

SEED = 7


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Yield a folder with an exam for two students."""
    folder = tmp_path_factory.mktemp("exam")
    write(folder, ["ada", "zoë x"], SEED)
    return folder


def hand_in(folder, student, owner, *, solved=True):
    """Hand in as ``student`` what ``owner`` made of his or her exam."""
    made = editions.notebook(cells(owner, SEED), "exam", "solutions" if solved else "release")
    editions.save(made, folder / student / "exam" / "exam.ipynb")


def test_each_student_has_numbers_and_nobody_an_answer(out):
    for student in ("ada", "zoë x"):
        path = out / "personal" / student / "exam" / "exam.ipynb"
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        text = "\n".join(cell.source for cell in notebook.cells)
        assert variant(student, SEED) in text
        for number, item in enumerate(ITEMS, 1):
            numbers = item.numbers(student, SEED)
            shown = next(
                c.source for c in notebook.cells if c.source.startswith(f"numbers_{number} ")
            )
            assert ast.literal_eval(shown.partition(" = ")[2]) == numbers
            assert f"return {item.answer(**numbers)!r}" not in text
            assert item.why not in text
            assert not any(words in text for words in item.mistakes)


def test_the_editions_hold_the_specimen_and_the_instructors_one_what_mistakes_give(out):
    source, release = (out / e / "exam" / "exam.ipynb" for e in ("source", "release"))
    assert "BEGIN SOLUTION" in source.read_text("utf-8")
    assert "return (" not in release.read_text("utf-8")
    text = json.loads((out / "instructor" / "exam.ipynb").read_text("utf-8"))["cells"]
    notes = "\n".join(cell["source"] for cell in text if cell["id"].endswith("-notes"))
    for item in ITEMS:
        numbers = item.numbers(SPECIMEN, SEED)
        assert f"`{item.answer(**numbers)}`. {item.why}" in notes
        for words, mistake in item.mistakes.items():
            assert f"- If one {words}: `{mistake(**numbers)}`." in notes


def test_an_exam_is_graded_by_its_students_numbers(monkeypatch, bwrap, tmp_path):
    monkeypatch.setattr(module, "sandbox", lambda settings: bwrap)
    hand_in(tmp_path / "in", "ada", "ada")
    hand_in(tmp_path / "in", "bob", "bob", solved=False)
    hand_in(tmp_path / "in", "eve", "ada")  # copied
    wanted = tasks(tmp_path / "in", "exam")
    assert fits(wanted, SEED)
    list(run(wanted, Settings("exam", SEED), tmp_path / "out"))
    ada, bob, eve = latest(tmp_path / "out")
    assert (score(ada), score(bob)) == (10, 0)
    assert score(eve) <= 3  # ten independent draws; few items have as few as ten answers
    assert "ada,10" in as_moodle([ada])
    shown = page(eve)
    assert "another value" in shown
    rights = [item.answer(**item.numbers("eve", SEED)) for item in ITEMS]
    wrong = [
        r for r, part in zip(rights, eve["exercises"].values(), strict=True) if part["property"]
    ]
    assert wrong and not any(f"Expected: {right}" in shown for right in wrong)


def test_a_wrong_seed_is_noticed_before_everybody_fails(tmp_path):
    hand_in(tmp_path, "ada", "ada")
    wanted = tasks(tmp_path, "exam")
    assert not fits(wanted, SEED + 1)
    assert fits([], SEED)  # nothing to grade is no reason to stop
    (tmp_path / "ada" / "exam" / "exam.ipynb").unlink()
    (tmp_path / "ada" / "exam" / "exam.ipynb").symlink_to("/etc/passwd")
    assert not fits(tasks(tmp_path, "exam"), SEED)


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\nb", "\x00"])
def test_a_name_that_is_no_folder_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(Unusable, match="cannot be the name of a student's folder"):
        write(tmp_path, ["ada", name], SEED)
    assert not list(tmp_path.iterdir())


def test_form_tells_the_form_and_not_the_answer(monkeypatch):
    assert form("exam_1", (7, 7)) == "exam_1: a tuple of whole numbers, as asked for."
    assert form("exam_1", [7, 7]) == form("exam_1", (7, 7))  # the grader, too, takes a list
    assert form("exam_3", np.int64(3)) == form("exam_3", 3)
    assert form("exam_1", None) == "exam_1: expected a tuple of whole numbers, got NoneType."
    with pytest.raises(ValueError, match="expected one of exam_1 to exam_10, got 'exam_11'"):
        form("exam_11", 1)
    monkeypatch.setenv("NBGRADER_EXECUTION", "validate")
    assert form("exam_3", 5)
    with pytest.raises(CheckFailed, match="expected a whole number"):
        form("exam_3", 5.5)
