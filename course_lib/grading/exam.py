"""The exam as notebooks: one for each student, with numbers of his or her own.

What the items are stands in ``exercises.exam``. A student's notebook holds no answer and no way to
compare with one: ``form`` only says whether a returned value has the form that was asked for.
"""

import os
import pprint
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from course_lib.exercises.accept import plain_data
from course_lib.exercises.exam import ITEMS, Item, misformed, variant
from course_lib.grading import editions
from course_lib.grading.batch import Task, Unusable
from course_lib.grading.checks import CheckFailed
from course_lib.grading.editions import Cell
from course_lib.grading.extract import Unreadable, read

SPECIMEN = "specimen"  # whose numbers the editions for all hold


def form(name: str, returned: Any) -> str:
    """Whether an answer has the form that is asked for; not whether it is right.

    Raises:
        ValueError: an unknown name.
        CheckFailed: another form, where nbgrader executes the notebook; nowhere else.

    Examples:
        >>> form("exam_3", 3.5)
        'exam_3: expected a whole number.'
    """
    item = next((item for item in ITEMS if item.name == name), None)
    if item is None:
        raise ValueError(f"name: expected one of exam_1 to exam_{len(ITEMS)}, got {name!r}")
    right = item.answer(**item.numbers(SPECIMEN, 0))
    wrong = misformed(plain_data(returned), right, item.form)
    said = f"{name}: expected {wrong}." if wrong else f"{name}: {item.form}, as asked for."
    if wrong and os.environ.get("NBGRADER_EXECUTION"):
        raise CheckFailed(said)
    return said


HEAD = """import math

import torch

try:
    from course_lib.grading.exam import form
except ImportError:  # a machine without the course's library

    def form(name, returned):
        print(f"{name}: {returned!r}")"""


def cells(student: str, seed: int) -> list[Cell]:
    """The cells of one student's exam."""
    minutes = sum(item.minutes for item in ITEMS)
    head = (
        f"# Exam\n\nTen items, one point each, about {minutes} minutes. The numbers are yours alone: "
        f"variant `{variant(student, seed)}`.\n\nEach function gets your numbers and returns one "
        "answer. Work it out by hand and return it, or let the function compute it. Do not rename "
        "the functions, and use Python, NumPy and PyTorch only: the grader has no `course_lib`. "
        "`form` says whether your answer has the form that is asked for. It does not say whether it "
        "is right. A float may be off by a thousandth of its size."
    )
    made = [
        Cell(head, "markdown"),
        Cell(HEAD),
    ]
    for number, item in enumerate(ITEMS, 1):
        made += _cells(number, item, item.numbers(student, seed))
    return made


def _cells(number: int, item: Item, numbers: dict[str, Any]) -> list[Cell]:
    shown = f"numbers_{number} = {pprint.pformat(numbers, width=72, sort_dicts=False)}"
    right = item.answer(**numbers)
    stub = f'def {item.name}({", ".join(numbers)}):\n    """Return {item.form}."""\n    ...'
    solution = f"# {item.why}\nreturn {right!r}"
    check = f'form("{item.name}", {item.name}(**numbers_{number}))'
    return [
        Cell(f"## {number} · {item.lesson}\n\n{item.statement}", "markdown"),
        Cell(shown),
        Cell(stub, task=item.name, solution=solution),
        Cell(check, task=item.name, checks=True, notes=_notes(item, numbers)),
    ]


def _notes(item: Item, numbers: dict[str, Any]) -> str:
    wrong = [f"If one {words}: `{mistake(**numbers)}`." for words, mistake in item.mistakes.items()]
    return editions.boxed(
        f"`{item.name}`, about {item.minutes} minutes",
        [("With these numbers", f"`{item.answer(**numbers)}`. {item.why}")],
        wrong,
    )


def fits(tasks: Iterable[Task], seed: int) -> bool:
    """Whether a notebook among ``tasks`` is that of its student, with this seed; or there is none."""
    marks = [_fits(task, seed) for task in tasks if task.notebook]
    return any(marks) or not marks


def _fits(task: Task, seed: int) -> bool:
    try:
        return variant(task.student, seed).encode() in read(Path(task.notebook or ""))
    except Unreadable:
        return False


def write(out: Path, students: Iterable[str], seed: int) -> list[Path]:
    """Write the editions with the specimen's numbers, and a notebook for each student.

    The students' are in ``personal/<student>/exam``, the layout in which they are handed in.

    Raises:
        Unusable: the exam is there already, or a name that is no name of a folder.
    """
    students = list(students)
    for student in students:
        if not student.isprintable() or "/" in student or student[:1] in ("", "."):
            raise Unusable(f"{student!a} cannot be the name of a student's folder.")
    paths = editions.write(cells(SPECIMEN, seed), "exam", out)
    for student in students:
        personal = editions.notebook(cells(student, seed), "exam", "release")
        editions.save(personal, out / "personal" / student / "exam" / "exam.ipynb")
    return paths
