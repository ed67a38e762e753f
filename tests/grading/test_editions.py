"""The editions of an assignment: one source, the answers where they belong and nowhere else."""

import ast
import json
import re

import nbformat
import pytest

from course_lib.exercises import EXERCISES, PUZZLES
from course_lib.exercises.exercise import Lines, WrongLine
from course_lib.exercises.notes import NOTES
from course_lib.grading import batch, blackbox, editions, sandbox
from course_lib.grading.batch import Unusable
from course_lib.grading.editions import EDITIONS, LESSONS, Cell, plain, solved, write
from course_lib.grading.extract import extract

from .conftest import USER

ASSIGNMENTS = {
    name: found for name, found in batch.assignments().items() if editions.path_of(name).exists()
}
SHORTEST = 16  # characters of a line that gives something away


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Yield assignment -> edition -> the notebook's file."""
    out = tmp_path_factory.mktemp("editions")
    return {
        name: dict(zip(EDITIONS, write(editions.lesson(name), name, out), strict=True))
        for name in ASSIGNMENTS
    }


def sources(path):
    return [cell["source"] for cell in json.loads(path.read_text("utf-8"))["cells"]]


def lines(code):
    """The lines of code that are long enough to be recognised, without comments and spaces."""
    shortened = (re.sub(r"\s+", "", line.split("#")[0]) for line in code.splitlines())
    return {line for line in shortened if len(line) >= SHORTEST}


def giveaways(assignment):
    """The lines of an assignment's solutions that its release may not show, and other secrets."""
    cells = editions.lesson(assignment)
    public = lines("\n".join(cell.source for cell in cells))
    secret = lines("\n".join(cell.solution for cell in cells)) - public
    names = {exercise.name for exercise in ASSIGNMENTS[assignment]}
    for puzzle in (p for p in PUZZLES if p.name in names):
        if isinstance(puzzle, WrongLine):
            secret.add(re.sub(r"\s+", "", puzzle.why))
        if isinstance(puzzle, Lines):
            secret |= lines("\n".join(puzzle.lines())) - public
    return secret | {re.sub(r"\s+", "", NOTES[name].hear) for name in names}


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_no_answer_is_in_the_students_notebook(made, assignment):
    release = json.loads(made[assignment]["release"].read_text("utf-8"))
    assert not any(cell.get("outputs") for cell in release["cells"])
    shown = re.sub(r"\s+", "", "".join(sources(made[assignment]["release"])))
    secret = giveaways(assignment)
    assert len(secret) > 8
    assert not [line for line in secret if line in shown]
    assert "defsolution" not in shown and "order_lines" not in shown
    # the same secrets are in the edition with the solutions, so this test could fail
    with_answers = re.sub(r"\s+", "", "".join(sources(made[assignment]["instructor"])))
    assert any(line in with_answers for line in secret)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_editions_are_notebooks_with_one_answer_and_one_check_per_exercise(made, assignment):
    exercises = {exercise.name: exercise for exercise in ASSIGNMENTS[assignment]}
    for edition, path in made[assignment].items():
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        about = [c.metadata["nbgrader"] for c in notebook.cells if "nbgrader" in c.metadata]
        answers = [part["grade_id"] for part in about if part["solution"]]
        assert answers == [
            part["grade_id"].removesuffix("_check") for part in about if part["grade"]
        ]
        assert set(answers) == set(exercises)
        assert notebook.metadata["course"] == {"assignment": assignment, "edition": edition}
        for cell in notebook.cells:
            if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("solution"):
                defined = [n.name for n in ast.parse(cell.source).body if hasattr(n, "name")]
                assert defined[-1] == exercises[cell.id].function
            if cell.cell_type == "markdown":
                assert ":::" not in cell.source and "](../" not in cell.source


@pytest.fixture(scope="module")
def patient(bwrap):
    """Yield a sandbox whose forks may compute for longer than those of other tests."""
    with sandbox.Sandbox("bwrap", user=USER, seconds=30) as box:
        yield box


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_solutions_are_right_and_a_release_is_empty(made, patient, assignment):
    """The black box, which has no course library, accepts every solution on hidden inputs, too."""
    for edition, right in (("source", True), ("release", False)):
        functions = [exercise.function for exercise in ASSIGNMENTS[assignment]]
        answers = extract(made[assignment][edition].read_bytes(), functions)
        assert not answers.flags
        for exercise in ASSIGNMENTS[assignment]:
            found = blackbox.grade(patient, blackbox.plan(exercise, 5), answers)
            assert batch.solved(found) == right, found["report"]
            assert found["stub"] != right


def test_the_instructors_edition_holds_times_questions_and_mistakes(made):
    text = "\n".join(sources(made["criteria"]["instructor"]))
    for name in ("magnitude_mask", "mask_goes_wrong", "kills_wrong_masks"):
        notes = NOTES[name]
        assert f"about {notes.minutes} minutes" in text
        assert f"*Ask:* {notes.ask}" in text and f"*Listen for:* {notes.hear}" in text
    assert "- `return weight.abs() > threshold` It removes every weight" in text
    assert text.count("A false alarm.") == 1  # five right functions, one hint
    assert "*Ask:*" not in "\n".join(sources(made["criteria"]["solutions"]))


def test_every_exercise_has_common_mistakes():
    for exercise in EXERCISES.values():
        found = editions.mistakes(exercise)
        assert len(found) >= 2, exercise.name
        assert len(set(found)) == len(found)


def test_an_answer_stands_where_the_dots_were():
    cell = Cell(
        'x = 1\n\n\ndef f(a):\n    """Doc."""\n    ...', task="f", solution="b = a\nreturn b"
    )
    assert solved(cell) == 'x = 1\n\n\ndef f(a):\n    """Doc."""\n    b = a\n    return b'
    assert "    ### BEGIN SOLUTION\n    b = a\n    return b\n    ### END SOLUTION" in solved(
        cell, marked=True
    )
    short = Cell("def f(): ...  # as in: 1", task="f", solution="return 2")
    assert solved(short) == "def f():  # as in: 1\n    return 2"


SOLUTION = '''
def helper(x):
    return math.pi


def solution_a(weights, macs, bits, images):
    """Why."""
    return helper(weights)


assert check("joules", solution_a).passed'''
LESSON = [
    ("markdown", "# Title\n\nWords."),
    ("code", "import math\nimport os\n\nfrom course_lib.grading import check"),
    ("markdown", "## Exercises\n\nOne.\n\nOr order these lines:"),
    ("code", 'teaching.order_lines("joules")'),
    ("code", 'def joules(weights, macs, bits, images):\n    ...\n\n\ncheck("joules", joules)'),
    ("code", SOLUTION.strip()),
    ("markdown", "### C · Use it\n\nLater."),
]


def a_lesson(folder, cells=LESSON):
    content = [{"cell_type": kind, "source": text, "metadata": {}} for kind, text in cells]
    (folder / "motivation.ipynb").write_text(json.dumps({"cells": content}))
    return folder


def test_a_lesson_becomes_an_assignment(tmp_path):
    first, imports, text, answer, check, last = editions.lesson("motivation", a_lesson(tmp_path))
    assert first.source.startswith("# Exercises: Title\n")
    assert imports.source == "import math\nfrom course_lib.grading import check"
    assert text.source == "One."
    assert answer.solution.endswith("# Why.\nreturn helper(weights)")
    assert answer.solution.startswith("def helper(x):\n    return math.pi")
    assert check.source == 'check("joules", joules)' and check.checks
    assert last.source.startswith("### C · Use it") and "Later" not in last.source


def test_a_lesson_that_cannot_be_used_says_so(tmp_path):
    with pytest.raises(Unusable, match="There is no lesson .*motivation.ipynb"):
        editions.lesson("motivation", tmp_path)
    with pytest.raises(Unusable, match="joules has no cell that solves it"):
        editions.lesson("motivation", a_lesson(tmp_path, LESSON[:-2] + LESSON[-1:]))
    (tmp_path / "motivation.ipynb").write_text("no json")
    with pytest.raises(Unusable, match="There is no lesson"):
        editions.lesson("motivation", tmp_path)


def test_nothing_of_yours_is_overwritten(tmp_path):
    cells = editions.lesson("motivation")
    source = write(cells, "motivation", tmp_path)[0]
    source.write_text("mine")
    (tmp_path / "nbgrader_config.py").write_text("mine")
    with pytest.raises(Unusable, match="is there already: choose another folder"):
        write(cells, "motivation", tmp_path)
    write(editions.lesson("criteria"), "criteria", tmp_path)
    assert source.read_text() == (tmp_path / "nbgrader_config.py").read_text() == "mine"


def test_plain_text_needs_nothing_of_the_book():
    assert plain("See [a](b.md) and [c](https://d.org).") == "See *a* and [c](https://d.org)."
    folded = plain(":::{dropdown} Hint\nThink.\n:::")
    assert folded == "<details><summary>Hint</summary>\n\nThink.\n\n</details>"


def test_an_unknown_edition_is_refused():
    with pytest.raises(ValueError, match="edition: expected one of source"):
        editions.notebook([], "criteria", "student")


def test_every_lesson_is_found():
    names = {path.name for path in LESSONS.glob("*.ipynb")}
    assert {editions.path_of(name).name for name in ASSIGNMENTS} == names
