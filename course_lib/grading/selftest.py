"""Try the grader on answers whose verdict is known: right ones, and the mistakes that people make.

They are functions in ``tests/grading/answers/<assignment>.py``, listed there in the dictionaries
``RIGHT`` and ``WRONG`` by exercise. They belong to the repository and not to the package, because
students install the package. Each goes through extraction, sandbox and judges as a notebook would,
and through ``check`` as well, and the verdicts must be the same.
"""

import ast
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from course_lib.exercises import EXERCISES
from course_lib.grading import blackbox, checks
from course_lib.grading.extract import Answers, extract
from course_lib.grading.sandbox import Sandbox

FOLDER = Path(__file__).parents[2] / "tests/grading/answers"
_LISTS = ("RIGHT", "WRONG", "HUNTS")


class NoAnswers(ValueError):
    """There are no answers to try; the message says where they are expected."""


@dataclass(frozen=True)
class Known:
    """An answer to ``exercise`` that is known to be right or wrong, as a notebook.

    ``name`` is what it is called in the lists. ``foreign`` says that it calls the course's library,
    which the sandbox does not have, so that only ``check`` can try it.
    """

    exercise: str
    name: str
    right: bool
    notebook: bytes
    foreign: bool


def known(assignment: str, folder: Path = FOLDER) -> list[Known]:
    """The answers to an assignment, read as text.

    Raises:
        NoAnswers: the folder does not hold them.
    """
    path = folder / f"{assignment}.py"
    try:
        tree = ast.parse(path.read_text("utf-8"))
        common = (folder / "common.py").read_text("utf-8")
    except OSError as error:
        raise NoAnswers(
            f"{error.filename} cannot be read: {error.strerror}. The answers are a part of the "
            "course's repository; give their folder with --answers."
        ) from None
    foreign, places, kept = _definitions(tree)
    found = []
    for group, right in (("RIGHT", True), ("WRONG", False)):
        for exercise, names in _listed(tree, group).items():
            function = EXERCISES[exercise].function
            for name in names:
                answer = f"def {function}(*inputs):\n    return ({name})(*inputs)"
                content = notebook(common, *kept, answer)
                away = _reaches(name, places, foreign)
                found.append(Known(exercise, name, right, content, away))
    return found


def notebook(*sources: str) -> bytes:
    """The bytes of a notebook with these code cells."""
    cells = [{"cell_type": "code", "metadata": {}, "source": s, "outputs": []} for s in sources]
    content = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
    return json.dumps(content).encode()


def _definitions(tree: ast.Module) -> tuple[set[str], dict[str, list[ast.stmt]], list[str]]:
    """Names from the course's library, the statements behind each name, and what students would have."""
    foreign, places, kept = set[str](), dict[str, list[ast.stmt]](), list[str]()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course_lib"):
            foreign |= {alias.asname or alias.name for alias in node.names}
            continue
        names = [getattr(node, "name", "")]
        if isinstance(node, ast.Assign):
            names = [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        for name in names:
            places.setdefault(name, []).append(node)
        relative = isinstance(node, ast.ImportFrom) and node.level
        if not relative and not set(_LISTS) & set(names):
            kept.append(ast.unparse(node))
    return foreign, places, kept


def _listed(tree: ast.Module, group: str) -> dict[str, list[str]]:
    """The entries of ``RIGHT`` or ``WRONG`` as {exercise: [expression, ...]}."""
    found: Any = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == group
    )
    entries = {}
    for key, value in zip(found.keys, found.values, strict=True):
        items = value.elts if group == "RIGHT" else [item.elts[0] for item in value.elts]
        entries[ast.literal_eval(key)] = [ast.unparse(item) for item in items]
    return entries


def _reaches(expression: str, places: dict[str, list[ast.stmt]], foreign: set[str]) -> bool:
    """Whether an answer uses a name that comes from the course's library."""
    seen, waiting = set[str](), list[ast.AST]([ast.parse(expression)])
    while waiting:
        for node in ast.walk(waiting.pop()):
            if isinstance(node, ast.Name) and node.id not in seen:
                seen.add(node.id)
                waiting += places.get(node.id, [])
    return bool(seen & foreign)


class Tried:
    """The verdicts on the answers to one exercise: how many were tried, and which are wrong."""

    def __init__(self, box: Sandbox, exercise: str, seeds: Iterable[int]) -> None:
        self.box, self.exercise = box, EXERCISES[exercise]
        first, *others = (blackbox.plan(self.exercise, seed) for seed in seeds)
        # An answer's verdict on public inputs is the same for every seed.
        self.plans = [first, *(replace(plan, public=()) for plan in others)]
        self.answers, self.gradings, self.inputs = 0, 0, 0
        self.wrong: list[str] = []

    def add(self, answer: Known) -> None:
        """Grade an answer with every seed, and compare with what is known and with ``check``."""
        self.answers += 1
        read = extract(answer.notebook, [self.exercise.function])
        said = checks.run(self.exercise, _loaded(read, self.exercise.function)).passed
        if said is not answer.right:
            self._note(answer, f"check says {_word(said)}")
        # A mistake fails on public inputs, so hidden ones are not tried.
        for number, plan in enumerate(self.plans if answer.right else self.plans[:1]):
            found = blackbox.grade(self.box, plan, read)
            self.gradings += 1
            self.inputs += len(plan.public) + len(plan.hidden)
            if found["public"] is not said:
                self._note(answer, f"check says {_word(said)}, and the black box does not")
            if answer.right and not found["hidden"]:
                self._note(answer, f"is refused on inputs of seed {number}: {found['property']}")

    def _note(self, answer: Known, what: str) -> None:
        kind = "right" if answer.right else "a mistake"
        self.wrong.append(f"{answer.exercise}: {answer.name}, which is {kind}: {what}.")

    def __str__(self) -> str:
        return (
            f"{self.exercise.name}: {self.answers} answers, {self.gradings} gradings, "
            f"{len(self.wrong)} wrong verdicts."
        )


def _word(passed: bool) -> str:
    return "right" if passed else "wrong"


def _loaded(answers: Answers, function: str) -> Any:
    """The answer as a function of this process. It is the course's own code."""
    space: dict[str, Any] = {"__name__": "answer"}
    for statement in answers.statements[function]:
        exec(compile(statement.source, "answer", "exec"), space)  # noqa: S102
    return space[function]


def run(box: Sandbox, answers: list[Known], seeds: int) -> Iterator[Tried]:
    """Try all answers that the sandbox can run; one result for each exercise.

    Raises:
        ValueError: fewer than one seed.
    """
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1, got {seeds}")
    for exercise in dict.fromkeys(answer.exercise for answer in answers):
        tried = Tried(box, exercise, range(seeds))
        for answer in answers:
            if answer.exercise == exercise and not answer.foreign:
                tried.add(answer)
        yield tried
