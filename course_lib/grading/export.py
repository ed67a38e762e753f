"""The results in the form that a learning platform reads.

A submission without a score is left out or left empty everywhere, so that no platform counts it as a
zero. The forms follow the platforms' documentation. Only nbgrader was tried itself.
"""

import csv
import io
import json
from pathlib import Path
from typing import Any

from course_lib.grading.batch import Unusable, cell, grades, score, solved, table
from course_lib.grading.overview import SOLVED

_CANVAS_IDS = ("SIS Login ID", "SIS User ID", "ID")


def as_moodle(found: list[dict[str, Any]]) -> str:
    """A table for Moodle's import of grades: one row per student, matched by ID number."""
    rows = [["ID number", found[0]["assignment"] if found else "assignment"]]
    rows += [[cell(r["student"]), str(score(r))] for r in found if score(r) is not None]
    return table(rows)


def as_canvas(found: list[dict[str, Any]], template: str) -> tuple[str, list[str]]:
    """Canvas's own table of grades with the assignment's column filled in.

    Canvas imports what it has exported: ``template`` is that export. Students are matched by the
    columns "SIS Login ID", "SIS User ID" and "ID", and the column is the one whose name begins with
    the assignment's name.

    Returns:
        The table, and the students who are not in it.

    Raises:
        Unusable: the template is not such a table.
    """
    rows = list(csv.reader(io.StringIO(template)))
    if not rows or not (ids := [name for name in _CANVAS_IDS if name in rows[0]]):
        raise Unusable(f"The template has none of the columns {', '.join(_CANVAS_IDS)}.")
    assignment = found[0]["assignment"] if found else ""
    columns = [i for i, name in enumerate(rows[0]) if name.lower().startswith(assignment.lower())]
    if len(columns) != 1:
        raise Unusable(
            f"The template has {len(columns)} columns whose name begins with {assignment!r}; make one "
            "assignment of that name in Canvas, and export again."
        )
    scores = {record["student"]: score(record) for record in found}
    matched = set()
    for row in rows[1:]:
        names = {row[rows[0].index(name)] for name in ids if rows[0].index(name) < len(row)}
        for student in names & scores.keys():
            matched.add(student)
            if scores[student] is not None and columns[0] < len(row):
                row[columns[0]] = str(scores[student])
    return table(rows), sorted(scores.keys() - matched)


def as_gradescope(record: dict[str, Any]) -> dict[str, Any]:
    """What Gradescope's ``results.json`` holds for one submission.

    Raises:
        Unusable: a submission without a score, which Gradescope would show as zero.
    """
    if score(record) is None:
        raise Unusable(f"{record['student']!a} has no score: {record['status']}. {record['why']!a}")
    tests = []
    for name, part in record["exercises"].items():
        for kind in ("public", "hidden"):
            tests.append(
                {
                    "name": f"{name} ({kind} inputs)",
                    "status": "passed" if part[kind] else "failed",
                    "output": part["report"] if kind == "public" and not part["public"] else "",
                    "visibility": "visible",
                }
            )
    points = {"score": score(record), "tests": tests, "stdout_visibility": "hidden"}
    return points | {"output": record["why"]}


def into_nbgrader(found: list[dict[str, Any]], database: Path) -> list[str]:
    """Write the scores into nbgrader's gradebook, so that its formgrader and its feedback show them.

    The gradebook knows the submissions after ``nbgrader generate_assignment`` and ``nbgrader autograde
    --no-execute``, which runs nothing of a student's. Each grade is that of the exercise's check, and
    no grade waits for a person. Under each answer stands a comment. The practical's leaderboard has no
    cell, so its point is not among them.

    Returns:
        What an instructor should know, as sentences.

    Raises:
        Unusable: nbgrader is not installed, or ``database`` is none of its gradebooks.
    """
    try:
        from nbgrader.api import Gradebook, MissingEntry  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise Unusable('--to nbgrader needs nbgrader: pip install "nbgrader>=0.9.6".') from None
    if not database.is_file():
        raise Unusable(f"There is no gradebook {database}: nbgrader's autograde makes one.")
    left = []
    with Gradebook(f"sqlite:///{database.resolve()}") as book:
        for record in found:
            student, unknown = record["student"], list[str]()
            if score(record) is None:
                left.append(f"{student!a} has no score: {record['status']}. {record['why']!a}")
                continue
            for name, part in record["exercises"].items():
                at = record["assignment"], record["assignment"], student
                try:
                    grade = book.find_grade(f"{name}_check", *at)
                    book.find_comment(name, *at).auto_comment = _comment(part)
                except MissingEntry:
                    unknown.append(name)
                else:
                    grade.auto_score, grade.needs_manual_grade = float(solved(part)), False
            if unknown:
                left.append(
                    f"{student!a}: nbgrader's gradebook has no check of {', '.join(unknown)}"
                )
        book.db.commit()
    return left


def _comment(part: dict[str, Any]) -> str:
    """What nbgrader shows under an answer: the course's own words, and no text of a student's."""
    if solved(part):
        return SOLVED
    if part["public"]:
        return "Right on the inputs of check, and wrong on others of the same kind."
    return f"Fails first: {part['property']}." if part["property"] else "No answer was found."


PLATFORMS = ("csv", "canvas", "moodle", "gradescope", "nbgrader")


def write(found: list[dict[str, Any]], to: str, out: Path, template: Path | None) -> list[str]:
    """Write the results for the platform ``to`` into the folder ``out``.

    Args:
        to: one of ``PLATFORMS``.
        template: for Canvas, the table of grades that it has exported.

    Returns:
        What an instructor should know, as sentences.

    Raises:
        Unusable: a missing or wrong template; nbgrader or its ``gradebook.db`` is not there.
    """
    if to not in PLATFORMS:
        raise Unusable(f"to: expected one of {', '.join(PLATFORMS)}, got {to!r}")
    if to == "canvas" and template is None:
        raise Unusable(
            "--to canvas needs --template: the table of grades that Canvas has exported."
        )
    if to == "nbgrader":
        return into_nbgrader(found, out / "gradebook.db")
    out.mkdir(parents=True, exist_ok=True)
    if to == "canvas" and template:
        text, unmatched = as_canvas(found, template.read_text("utf-8-sig"))
        (out / "canvas.csv").write_text(text, "utf-8")
        return [f"{student!a} is not in Canvas's table" for student in unmatched]
    if to == "gradescope":
        return _each_for_gradescope(found, out)
    text = grades(found) if to == "csv" else as_moodle(found)
    (out / f"{to}.csv").write_text(text, "utf-8", errors="backslashreplace")
    return []


def _each_for_gradescope(found: list[dict[str, Any]], out: Path) -> list[str]:
    left, names = [], {}
    for number, record in enumerate(found, 1):
        try:
            text = json.dumps(as_gradescope(record), indent=1)
        except Unusable as error:
            left.append(str(error))
            continue
        names[f"{number:05}.json"] = record["student"]
        (out / f"{number:05}.json").write_text(text, "utf-8")
    (out / "students.json").write_text(json.dumps(names, indent=1), "utf-8")
    return left
