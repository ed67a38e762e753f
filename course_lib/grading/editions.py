"""Assignments from the lessons: for students, for instructors, and with the solutions.

A lesson is written once. Its exercises are cells that end in ``check("name", function)``, and each has
a cell that ends in ``assert check("name", solution).passed``. From these, and from what the exercises'
specs and ``exercises.notes`` say, ``make`` writes four notebooks in nbgrader's form and folders:
``source``, from which nbgrader itself can make a release, ``release`` for the students, ``instructor``
and ``solutions``.
"""

import ast
import base64
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import course_lib
from course_lib.exercises import EXERCISES, PUZZLES
from course_lib.exercises.exercise import Exercise, Lines, WrongLine, code_of
from course_lib.exercises.notes import NOTES
from course_lib.grading.batch import Unusable

#: Where the lessons are, in a copy of the course.
LESSONS = Path(course_lib.__file__).parents[1] / "notebooks"
EDITIONS = ("source", "release", "instructor", "solutions")

_CHECK = re.compile(r"^check\(\"(\w+)\", (\w+)\)\s*\Z", re.MULTILINE)
_SOLVED = re.compile(r"^assert check\(\"(\w+)\", (\w+)\)\.passed\s*\Z", re.MULTILINE)
_PUZZLE = re.compile(r"^teaching\.(order_lines|wrong_line)\(\"(\w+)\"\)")
_FOLD = re.compile(r"^:::\{dropdown\} (.*?)\n(.*?)\n:::$", re.MULTILINE | re.DOTALL)
_BOX = re.compile(r"^:::\{(\w+)\}\n(.*?)\n:::$", re.MULTILINE | re.DOTALL)
_DRAWING = re.compile(r"!\[([^\]]*)\]\(\.\./img/([\w.-]+)\)")
_OWN_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|attachment:)[^)]*\)")
_NBGRADER = """\
# Settings for nbgrader, as `python -m course_lib.grading make` writes them.
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "pruning"
c.ClearSolutions.code_stub = {"python": "..."}
c.ExecutePreprocessor.timeout = 60
"""


@dataclass(frozen=True)
class Cell:
    """One cell of an assignment, for all editions.

    ``task`` is the exercise that ``source`` answers or, where ``checks`` is True, the one it checks.
    ``solution`` is what stands in ``source`` in place of the dots of its last function. ``notes`` are
    for the instructor.
    """

    source: str
    kind: str = "code"
    task: str = ""
    checks: bool = False
    solution: str = ""
    notes: str = ""


# ---- from a lesson


def lesson(assignment: str, folder: Path = LESSONS) -> list[Cell]:
    """The cells of the assignment that belongs to a lesson: its exercises, and what they need.

    Raises:
        Unusable: there is no such lesson, or an exercise in it has no solution.
    """
    path = path_of(assignment, folder)
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Unusable(f"There is no lesson {path}; name the lessons' folder: --lessons.") from None
    sources = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    solutions = _solutions([source for source, kind in sources if kind == "code"])
    part, alone = _exercises(sources)
    made = [_first(sources[0][0])] if alone else []
    made += [shown for cell in _without_puzzles(part) for shown in _cells(*cell, solutions)]
    if alone:
        made.insert(1, _imports(sources, made))
        made.append(_last())
    return made


def path_of(assignment: str, folder: Path = LESSONS) -> Path:
    """The file of an assignment's lesson, whether it is there or not."""
    name = f"{assignment.replace('_', '-')}.ipynb"
    return folder / ("pruning-practical.ipynb" if assignment == "practical" else name)


def _exercises(sources: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], bool]:
    """The cells with the exercises, and whether they are only a part of the lesson.

    Of a lesson these are A and B: C needs the networks that the lesson trains.
    """
    texts = [source if kind == "markdown" else "" for source, kind in sources]
    start = next((i for i, t in enumerate(texts) if t.startswith("## Exercises")), None)
    if start is None:
        return sources, False
    end = next(i for i, t in enumerate(texts) if i > start and t.startswith(("### C", "## ")))
    head = sources[start][0].removeprefix("## Exercises").strip()
    return [(head, "markdown"), *sources[start + 1 : end]], True


def _without_puzzles(part: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The cells, and for a puzzle the function that it shows; the lines in order are the answer."""
    for (source, kind), (after, _) in zip(part, [*part[1:], ("", "")], strict=True):
        puzzle, later = _PUZZLE.match(source), _PUZZLE.match(after)
        if puzzle and puzzle[1] == "wrong_line":
            yield f"```python\n{code_of(_puzzle(WrongLine, puzzle[2]).function)}\n```", "markdown"
        elif not puzzle:
            if later and later[1] == "order_lines" and source.endswith(":"):
                source = source.rpartition("\n\n")[0]  # the sentence that announces it
            yield source, kind


def _puzzle(kind: type, name: str) -> Any:
    return next((p for p in PUZZLES if isinstance(p, kind) and p.name == name), None)


def _cells(source: str, kind: str, solutions: dict[str, str]) -> Iterator[Cell]:
    """What an assignment has in place of a lesson's cell."""
    if kind == "markdown":
        yield Cell(plain(source), kind)
    elif found := _CHECK.search(source):
        name = found[1]
        if name not in solutions:
            raise Unusable(f"The exercise {name} has no cell that solves it.")
        yield Cell(source[: found.start()].strip(), task=name, solution=solutions[name])
        yield Cell(found[0].strip(), task=name, checks=True, notes=notes(EXERCISES[name]))
    elif not _SOLVED.search(source):
        yield Cell(source)


def plain(text: str) -> str:
    """A lesson's text as Markdown that every notebook program shows.

    Examples:
        >>> plain("See [history](history.ipynb).")
        'See *history*.'
    """
    text = _OWN_LINK.sub(r"*\1*", text)
    text = _FOLD.sub(r"<details><summary>\1</summary>\n\n\2\n\n</details>\n", text)
    return _BOX.sub(lambda m: f"**{m[1].capitalize()}.** {m[2]}", text).strip()


def _first(text: str) -> Cell:
    title = text.split("\n", 1)[0].removeprefix("# ")
    return Cell(
        f"# Exercises: {title}\n\nThese exercises belong to a lesson, and the lesson comes first: "
        "where a text says “above”, it means the lesson. Write each function in its cell, and run "
        "the cell with `check` behind it. Do not rename the functions: whoever grades them finds "
        "them by name. You may add cells and functions of your own.",
        "markdown",
    )


def _last() -> Cell:
    return Cell(
        "### C · Use it\n\nThis exercise needs the networks that the lesson trains. Copy your "
        "functions into the lesson's notebook, and go on there. It is not graded.",
        "markdown",
    )


def _imports(sources: list[tuple[str, str]], made: list[Cell]) -> Cell:
    """The lesson's imports that the exercises or their solutions use, and torch."""
    codes = [f"{cell.source} {cell.solution}" for cell in made if cell.kind == "code"]
    used, lines = {"torch", *re.findall(r"\w+", " ".join(codes))}, []
    for node in _nodes([source for source, kind in sources if kind == "code"]):
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [a for a in node.names if (a.asname or a.name) in used]
            lines += [ast.unparse(node)] if node.names else []
    return Cell("\n".join(dict.fromkeys(lines)))


def _nodes(codes: Iterable[str]) -> Iterator[ast.stmt]:
    for code in codes:
        yield from ast.parse(code).body


# ---- solutions


def _solutions(codes: list[str]) -> dict[str, str]:
    """For each exercise the body of its solution, with the helpers that it uses."""
    cells = [(found, code) for code in codes if (found := _SOLVED.search(code))]
    renamed = {found[2]: EXERCISES[found[1]].function for found, _ in cells}
    places = {
        node.name: (node, code)
        for _, code in cells
        for node in ast.parse(code).body
        if isinstance(node, ast.FunctionDef)
    }
    return {
        found[1]: _renamed(_body_with_helpers(found[2], places, set(renamed)), renamed)
        for found, _ in cells
    }


def _body_with_helpers(name: str, places: dict[str, Any], answers: set[str]) -> str:
    body, helpers, waiting = _body(*places[name]), dict[str, str](), [places[name][0]]
    while waiting:
        used = {n.id for n in ast.walk(waiting.pop()) if isinstance(n, ast.Name)}
        for helper in sorted(used & places.keys() - answers - helpers.keys()):
            node, code = places[helper]
            helpers[helper] = f"{ast.get_source_segment(code, node)}\n\n"
            waiting.append(node)
    return "".join(helpers.values()) + body


def _body(node: ast.FunctionDef, code: str) -> str:
    """The text of a function's body; a docstring becomes a comment."""
    lines, start = code.splitlines(), node.lineno
    comment = ast.get_docstring(node)
    if not lines[start - 1].rstrip().endswith(":") and "#" not in lines[start - 1]:
        start = node.body[0].lineno - 1  # a head of several lines
    if comment:
        start = node.body[0].end_lineno or start
    body = textwrap.dedent("\n".join(lines[start : node.end_lineno]))
    return "\n".join([*(f"# {line}" for line in (comment or "").splitlines()), body])


def _renamed(code: str, names: dict[str, str]) -> str:
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.sub(rf"\b({pattern})\b", lambda m: names[m[1]], code).strip("\n")


def solved(cell: Cell, *, marked: bool = False) -> str:
    """The source of an answer's cell with its solution, perhaps between nbgrader's marks."""
    lines = cell.source.splitlines()
    function = [n for n in ast.parse(cell.source).body if isinstance(n, ast.FunctionDef)][-1]
    dots = function.body[-1]
    body = cell.solution
    if marked:
        body = f"### BEGIN SOLUTION\n{body}\n### END SOLUTION"
    body = textwrap.indent(body, "    ")
    at = dots.lineno - 1
    if dots.lineno == function.lineno:  # def smallest(): ...  # as in: ...
        before, after = lines[at][: dots.col_offset], lines[at][dots.end_col_offset :]
        body = f"{before.rstrip()}{after.rstrip()}\n{body}"
    return "\n".join([*lines[:at], body, *lines[dots.end_lineno :]])


# ---- the editions


def notebook(cells: list[Cell], assignment: str, edition: str) -> dict[str, Any]:
    """The notebook of one edition, as data that JSON can hold.

    Raises:
        ValueError: ``edition`` is none of ``EDITIONS``.
    """
    if edition not in EDITIONS:
        raise ValueError(f"edition: expected one of {', '.join(EDITIONS)}, got {edition!r}")
    found = []
    for cell in cells:
        if cell.solution and edition != "release":
            cell = replace(cell, source=solved(cell, marked=edition == "source"))
        found.append(_written(cell, f"cell-{len(found) + 1}"))
        if cell.notes and edition == "instructor":
            found.append(_written(Cell(cell.notes, "markdown"), f"{cell.task}-notes"))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"course": {"assignment": assignment, "edition": edition}, "kernelspec": kernel}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": about, "cells": found}


def _written(cell: Cell, own: str) -> dict[str, Any]:
    """A cell as nbformat 4.5 and nbgrader's schema 3 have it."""
    metadata: dict[str, Any] = {}
    if cell.task:
        own = f"{cell.task}_check" if cell.checks else cell.task
        metadata["nbgrader"] = {
            "schema_version": 3,
            "grade_id": own,
            "grade": cell.checks,
            "solution": not cell.checks,
            "locked": cell.checks,
            "task": False,
        } | ({"points": 1, "cell_type": "code"} if cell.checks else {})
    source = _DRAWING.sub(r"![\1](attachment:\2)", cell.source)
    about = {"cell_type": cell.kind, "id": own, "metadata": metadata, "source": source}
    if drawings := _DRAWING.findall(cell.source):
        about["attachments"] = {name: _drawing(name) for _, name in drawings}
    return about | ({"outputs": [], "execution_count": None} if cell.kind == "code" else {})


def _drawing(name: str) -> dict[str, str]:
    """A drawing of the course as a notebook carries it."""
    kind = "image/svg+xml" if name.endswith(".svg") else "image/png"
    content = (LESSONS.parent / "img" / name).read_bytes()
    return {kind: base64.b64encode(content).decode()}


def notes(exercise: Exercise) -> str:
    """What an instructor may want to know about an exercise, as Markdown.

    The time is an estimate and the question is a suggestion (``exercises.notes``). The mistakes are
    those of the exercise's properties and puzzles.
    """
    said = NOTES[exercise.name]
    return boxed(
        f"`{exercise.signature}`, about {said.minutes} minutes",
        [("Ask", said.ask), ("Listen for", said.hear)],
        mistakes(exercise),
    )


def boxed(title: str, parts: list[tuple[str, str]], wrong: list[str]) -> str:
    """An instructor's notes as a quotation in Markdown."""
    lines = [f"**For instructors: {title}.**", *(f"*{label}:* {text}" for label, text in parts)]
    lines += ["*Common mistakes:*", "\n".join(f"- {mistake}" for mistake in wrong)]
    return "> " + "\n\n".join(lines).replace("\n", "\n> ").replace("> \n", ">\n")


def mistakes(exercise: Exercise) -> list[str]:
    """The mistakes that people make in an exercise, from its spec and its puzzles."""
    wrong, order = _puzzle(WrongLine, exercise.name), _puzzle(Lines, exercise.name)
    found = [f"`{wrong.wrong}` {_sentence(wrong.why)}"] if wrong else []
    if order:
        found += [f"`{line.strip()}` {_sentence(why)}" for line, why in order.distractors.items()]
    by_hint: dict[str, list[str]] = {}
    for prop in exercise.properties:
        by_hint.setdefault(prop.hint, []).append(f"“{prop.says}”")
    return found + [f"Not {', '.join(says)}: {hint}" for hint, says in by_hint.items()]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def write(cells: list[Cell], assignment: str, out: Path) -> list[Path]:
    """Write all editions of an assignment into ``out``, and nbgrader's settings beside them.

    Returns:
        The files, in the order of ``EDITIONS``.

    Raises:
        Unusable: the assignment is there already, perhaps with changes of yours.
    """
    paths = [_path(out, assignment, edition) for edition in EDITIONS]
    if there := next((path for path in paths if path.exists()), None):
        raise Unusable(f"{there} is there already: choose another folder, or remove it.")
    for path, edition in zip(paths, EDITIONS, strict=True):
        save(notebook(cells, assignment, edition), path)
    settings = out / "nbgrader_config.py"
    if not settings.exists():
        settings.write_text(_NBGRADER, "utf-8")
    return paths


def _path(out: Path, assignment: str, edition: str) -> Path:
    folder = out / edition
    return (folder / assignment if edition in EDITIONS[:2] else folder) / f"{assignment}.ipynb"


def save(content: dict[str, Any], path: Path) -> None:
    """Write a notebook, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
