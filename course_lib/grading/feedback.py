"""A page for each student: static, offline, readable on a phone.

A page holds no script, and its policy allows none. Every text that came from a student is escaped and
was cut before it was stored. A student sees the counterexample of a public input. Of hidden inputs he
or she sees only that they failed, until ``reveal``: whoever may hand in again would otherwise learn
the inputs one by one.
"""

from pathlib import Path
from typing import Any

from course_lib.exercises import EXERCISES
from course_lib.grading.batch import exercise_names, score, solved
from course_lib.grading.overview import SOLVED, frame, overview, pages, safe


def page(record: dict[str, Any], *, reveal: bool = False) -> str:
    """The page of one student.

    Args:
        reveal: whether the counterexamples of hidden inputs are shown.
    """
    parts = [f"<p>{safe(record['student'])}</p>"]
    if record["status"] != "graded":
        parts.append(f"<p>There is no score. {safe(record['why'])}</p>")
    for name, part in record["exercises"].items():
        parts.append(_section(name, part, reveal=reveal))
    if record["flags"]:
        notes = "".join(f"<li>{safe(flag.partition(': ')[2])}</li>" for flag in record["flags"])
        parts.append(f"<h2>About the notebook</h2><ul>{notes}</ul>")
    return frame(f"{record['assignment']}: {_points(record)}", *parts)


def _section(name: str, part: dict[str, Any], *, reveal: bool) -> str:
    done = solved(part)
    if "card" in part:
        words = f"<p>{safe(part['report'])}</p>"
    elif done:
        words = f"<p>{SOLVED}</p>"
    elif part["public"] and not reveal:
        words = (
            "<p>Not solved yet. Your function passes on the inputs of <code>check</code>, and it fails "
            "on others of the same kind. Read the statement again: what does it ask for that your "
            "function does only by chance?</p>"
        )
    else:
        words = f"<pre>{safe(part['report'])}</pre>"
    mark = "✓ solved" if done else "✗ not yet"
    signature = EXERCISES[name].signature if name in EXERCISES else name
    return (
        f"<section class='task{' yes' if done else ''}'><h2>{mark} · {safe(signature)}</h2>"
        f"{words}</section>"
    )


def _points(record: dict[str, Any]) -> str:
    points = score(record)
    most = len(exercise_names(record))
    return "no score" if points is None else f"{points} of {most} solved"


def write(found: list[dict[str, Any]], out: Path, *, reveal: bool = False) -> Path:
    """Write ``overview.html`` and a page for each student; the overview's path is returned.

    A page is named by the student's folder name. Where that is no safe name of a file, it gets a
    number, and ``names.txt`` says whose it is.
    """
    students, names = out / "students", pages(found)
    students.mkdir(parents=True, exist_ok=True)
    for record in found:
        text = page(record, reveal=reveal)
        (students / f"{names[record['student']]}.html").write_text(text, "utf-8")
    numbered = [f"{name}.html\t{who}" for who, name in names.items() if name != who]
    if numbered:
        text = "\n".join(numbered) + "\n"
        (out / "names.txt").write_text(text, "utf-8", errors="backslashreplace")
    (out / "overview.html").write_text(overview(found), "utf-8")
    return out / "overview.html"
