"""The instructor's page: the class as a picture, and for each exercise what failed first.

The picture has a row for each exercise and a column for each student, the best on the left. Who has
the same results stands side by side, so a dark block is what the class can do, and what it cannot do
yet is the light one. Fills differ in pattern and in brightness, so the picture can also be read
without colours. The page holds no script, needs no network, and every text of a student's is escaped.
"""

import html
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from course_lib.grading import leaderboard
from course_lib.grading.batch import exercise_names, score, solved

#: What became of a student's exercise, from the best, and how the picture's key names it.
STATES = {
    "solved": "solved",
    "public": "right only on the inputs of check",
    "failed": "wrong, or no answer that can be judged",
    "empty": "empty or missing",
}
#: What is said to a student about an exercise that is solved.
SOLVED = "Solved: every property holds, also on inputs that nobody had seen."
_ALONE = 80  # students who get a field each; of more, equal neighbours share one
_NAMED = 40  # students in a list of names
_STYLE = Path(__file__).with_name("pages.css").read_text("utf-8")
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
"""

Records = list[dict[str, Any]]


def frame(title: str, *parts: str) -> str:
    """A whole page that holds ``parts``, which are HTML; the title is text."""
    head = f"{_HEAD}<title>{safe(title)}</title><style>{_STYLE}</style></head><body><main>"
    return "\n".join(
        [head, f"<h1>{safe(title)}</h1>", *filter(None, parts), "</main></body></html>\n"]
    )


def safe(text: str) -> str:
    """Text as HTML that shows it, also where an encoding could not hold it.

    Examples:
        >>> safe("<b>")
        '&lt;b&gt;'
    """
    return html.escape(text.encode(errors="backslashreplace").decode())


def pages(found: Records) -> dict[str, str]:
    """The file name of each student's page, without ``.html``.

    It is the student's folder name, or a number where that is no safe name of a file.

    Examples:
        >>> pages([{"student": "ada"}, {"student": "../bob"}])
        {'ada': 'ada', '../bob': 'student-00002'}
    """
    names = {}
    for number, record in enumerate(found, 1):
        name = record["student"]
        plain = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        names[name] = name if plain else f"student-{number:05}"
    return names


def state(part: dict[str, Any]) -> str:
    """Which of ``STATES`` a part of a record is in."""
    if solved(part):
        return "solved"
    if part["public"]:
        return "public"
    return "empty" if part["stub"] or not part["property"] else "failed"


def overview(found: Records) -> str:
    """The page about all records of one run."""
    graded = [record for record in found if record["status"] == "graded"]
    counts = Counter(record["status"] for record in found)
    words = ", ".join(f"{n} {status}" for status, n in counts.items())
    parts = [f"<p>{safe(words)}.</p>"]
    if graded:
        links = pages(found)
        parts += [_picture(graded), _points(graded)]
        parts += [_exercise(name, graded, links) for name in exercise_names(graded[0])]
        parts.append(_leaderboard(graded))
    parts.append(_to_look_at(found))
    return frame(found[0]["assignment"] if found else "no submissions", *parts)


def _picture(graded: Records) -> str:
    """A row for each exercise, a column for each student."""
    names = exercise_names(graded[0])

    def order(record: dict[str, Any]) -> tuple:
        states = [list(STATES).index(state(record["exercises"][name])) for name in names]
        return -(score(record) or 0), states

    students = sorted(graded, key=order)
    rows = "\n".join(_row(name, students) for name in names)
    key = "".join(f"<li><i class='{kind}'></i>{says}</li>" for kind, says in STATES.items())
    return (
        f"<section class='card'><h2>The class</h2><p class='faint'>Each column is one of "
        f"{len(graded)} students, those with most points on the left.</p>\n{rows}\n"
        f"<ul class='key'>{key}</ul></section>"
    )


def _row(name: str, students: Records) -> str:
    states = [(state(record["exercises"][name]), record["student"]) for record in students]
    counts = Counter(kind for kind, _ in states)
    words = "; ".join(f"{counts[kind]} {says}" for kind, says in STATES.items() if counts[kind])
    if len(states) <= _ALONE:
        fields = [f"<i class='{k}' title='{safe(who)}: {STATES[k]}'></i>" for k, who in states]
    else:
        runs = [(kind, len(list(same))) for kind, same in groupby(kind for kind, _ in states)]
        fields = [f"<i class='{kind}' style='flex-grow:{length}'></i>" for kind, length in runs]
    dense = " dense" if len(states) > _ALONE else ""
    return (
        f"<div class='row'><code>{safe(name)}</code><div class='class{dense}' role='img' "
        f"aria-label='{safe(f'{name}: {words}')}'>{''.join(fields)}</div>"
        f"<b>{counts['solved']}<span class='faint'> of {len(states)}</span></b></div>"
    )


def _points(graded: Records) -> str:
    """How many students have how many points, as columns."""
    most = len(exercise_names(graded[0]))
    counts = Counter(score(record) for record in graded)
    tallest = max(counts.values())
    words = ", ".join(f"{counts[points]} students with {points}" for points in range(most + 1))
    columns = "".join(
        f"<span>{counts[points] or ''}<i style='height:{75 * counts[points] / tallest:.0f}%'></i>"
        f"{points}</span>"
        for points in range(most + 1)
    )
    return (
        f"<section class='card'><h2>Points</h2><div class='points' role='img' "
        f"aria-label='{words}'>{columns}</div>"
        f"<p class='faint'>points of {most}; above each column, how many students</p></section>"
    )


def _leaderboard(graded: Records) -> str:
    """The best entries of the practical, in order; nothing where there are none."""
    parts = {r["student"]: r["exercises"].get("leaderboard", {}) for r in graded}
    cards = {student: part["card"] for student, part in parts.items() if "card" in part}
    if not cards:
        return ""
    best = leaderboard.ranked(cards)[:_NAMED]
    rows = "".join(
        f"<tr><td>{rank}</td><td>{safe(name)}</td><td>{cards[name]['accuracy']:.2f}</td>"
        f"<td>{cards[name]['bytes']:,}</td><td>{cards[name]['macs']:,}</td></tr>"
        for rank, name in enumerate(best, 1)
    )
    head = "<th></th><th>student</th><th>right, %</th><th>bytes</th><th>multiplications</th>"
    table = f"<div class='wide'><table><tr>{head}</tr>{rows}</table></div>"
    words = f"<p class='faint'>The best {len(best)} of {len(cards)} entries.</p>"
    return f"<section class='card'><h2>Leaderboard</h2>{words}{table}</section>"


def _exercise(name: str, graded: Records, links: dict[str, str]) -> str:
    """One exercise: how many solved it, what failed first and whose it was, and an example."""
    parts = {record["student"]: record["exercises"][name] for record in graded}
    seconds = [part["seconds"] for part in parts.values()]
    right = sum(map(solved, parts.values()))
    broken = Counter(part["property"] for part in parts.values() if part["property"])
    share, middle = 100 * right / len(parts), median(seconds)
    text = [
        f"<section class='card'><div class='title'><h2><code>{safe(name)}</code></h2>",
        f"<b>{share:.0f} % solved it</b></div><p class='faint'>One answer took {middle:.2f} s in ",
        f"the middle, and at most {max(seconds):.2f} s.</p>",
    ]
    if broken:
        text.append("<p>What failed first, and whose it was:</p>")
    for says, count in broken.most_common(5):
        whose = [student for student, part in parts.items() if part["property"] == says]
        text.append(
            f"<details><summary>{safe(says)} <b>{count}</b><span class='bar'>"
            f"<i style='width:{100 * count / len(parts):.1f}%'></i></span></summary>"
            f"<p>{_linked(whose, links)}</p></details>"
        )
    if broken:
        commonest = broken.most_common(1)[0][0]
        text.append(_example(next(p for p in parts.values() if p["property"] == commonest)))
    return "".join(text) + "</section>"


def _linked(students: list[str], links: dict[str, str]) -> str:
    shown = [f"<a href='students/{links[who]}.html'>{safe(who)}</a>" for who in students[:_NAMED]]
    more = len(students) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _example(part: dict[str, Any]) -> str:
    """The counterexample of one answer: what went in, what came out, what was expected."""
    kinds = {"Returned": "got", "Raised": "got", "Expected": "want"}
    rows = "".join(
        f"<dt>{safe(label)}</dt><dd class='{kinds.get(label, '')}'><code>{safe(value)}</code></dd>"
        for label, value in part["facts"]
    )
    return f"<p>An example of the commonest:</p><dl class='example'>{rows}</dl>" if rows else ""


def _to_look_at(found: Records) -> str:
    """Who has no score, and whose notebook was unusual, the first of these first."""
    odd = [record for record in found if record["status"] != "graded" or record["flags"]]
    odd.sort(key=lambda record: record["status"] == "graded")
    items = "".join(
        f"<li><b>{safe(record['student'])}</b> <span class='faint'>{safe(record['status'])}</span><br>"
        f"{'<br>'.join(map(safe, _reasons(record)))}</li>"
        for record in odd
    )
    words = "<p class='faint'>Who has no score comes first.</p>"
    return (
        f"<section class='card'><h2>To look at</h2>{words}<ul class='odd'>{items}</ul></section>"
        if odd
        else ""
    )


def _reasons(record: dict[str, Any]) -> Iterable[str]:
    return filter(None, [record["why"], *(flag.partition(": ")[2] for flag in record["flags"])])
