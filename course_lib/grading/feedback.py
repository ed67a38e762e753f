"""Pages for the students, and one for the instructor: static, offline, readable on a phone.

A page holds no script, and its policy allows none. Every text that came from a student is escaped and
was cut before it was stored. A student sees the counterexample of a public input. Of hidden inputs he
or she sees only that they failed, until ``reveal``: whoever may hand in again would otherwise learn
the inputs one by one.
"""

import html
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from course_lib.exercises import EXERCISES
from course_lib.grading import leaderboard
from course_lib.grading.batch import exercise_names, score, solved

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; --line: #8888; --yes: #1a7f5a; --no: #b3402e; --soft: #8882; }}
@media (prefers-color-scheme: dark) {{ :root {{ --yes: #4cc38a; --no: #ff8f73; }} }}
body {{ font: 1.05rem/1.55 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1.2rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin: 0 0 .4rem; overflow-wrap: anywhere; }}
section {{ border-left: .3rem solid var(--no); padding: .2rem 0 .2rem 1rem; margin: 1.6rem 0; }}
section.yes {{ border-color: var(--yes); }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .7rem;
  border-radius: .4rem; font-size: .9rem; }}
table {{ border-collapse: collapse; width: 100%; }} .wide {{ overflow-x: auto; }}
th, td {{ text-align: left; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }}
.bar {{ background: var(--soft); border-radius: .3rem; height: 1.1rem; margin: .3rem 0; }}
.bar div {{ background: var(--yes); border-radius: .3rem; height: 100%; }}
</style></head><body><main>
"""
_END = "</main></body></html>\n"


def page(record: dict[str, Any], *, reveal: bool = False) -> str:
    """The page of one student.

    Args:
        reveal: whether the counterexamples of hidden inputs are shown.
    """
    says = html.escape
    title = f"{record['assignment']}: {_points(record)}"
    parts = [_HEAD.format(title=says(title)), f"<h1>{says(title)}</h1>"]
    parts.append(f"<p>{says(_shown(record['student']))}</p>")
    if record["status"] != "graded":
        parts.append(f"<p>There is no score. {says(_shown(record['why']))}</p>")
    for name, part in record["exercises"].items():
        parts.append(_section(name, part, reveal=reveal))
    if record["flags"]:
        notes = "".join(f"<li>{says(_shown(f.partition(': ')[2]))}</li>" for f in record["flags"])
        parts.append(f"<h2>About the notebook</h2><ul>{notes}</ul>")
    return "".join(parts) + _END


def _section(name: str, part: dict[str, Any], *, reveal: bool) -> str:
    says, done = html.escape, solved(part)
    if "card" in part:
        words = f"<p>{says(part['report'])}</p>"
    elif done:
        words = "<p>Solved: every property holds, also on inputs that nobody had seen.</p>"
    elif part["public"] and not reveal:
        words = (
            "<p>Not solved yet. Your function passes on the inputs of <code>check</code>, and it fails "
            "on others of the same kind. Read the statement again: what does it ask for that your "
            "function does only by chance?</p>"
        )
    else:
        words = f"<pre>{says(_shown(part['report']))}</pre>"
    mark = "✓ solved" if done else "✗ not yet"
    signature = EXERCISES[name].signature if name in EXERCISES else name
    return (
        f"<section class='{'yes' if done else 'no'}'><h2>{mark} · {says(signature)}</h2>"
        f"{words}</section>"
    )


def overview(found: list[dict[str, Any]]) -> str:
    """The instructor's page: how each exercise went, what failed most, and who needs a look."""
    says = html.escape
    assignment = found[0]["assignment"] if found else "no submissions"
    graded = [record for record in found if record["status"] == "graded"]
    parts = [_HEAD.format(title=says(assignment)), f"<h1>{says(assignment)}</h1>"]
    counts = Counter(record["status"] for record in found)
    parts.append(f"<p>{', '.join(f'{n} {status}' for status, n in counts.items())}.</p>")
    if graded:
        parts.append(_histogram(graded))
        parts.append(_leaderboard(graded))
        parts += [_exercise(name, graded) for name in exercise_names(graded[0])]
    odd = [r for r in found if r["status"] != "graded" or r["flags"]]
    if odd:
        rows = "".join(
            f"<tr><td>{says(_shown(r['student']))}</td><td>{says(r['status'])}</td>"
            f"<td>{says(_shown(' '.join(filter(None, [r['why'], *r['flags']]))))}</td></tr>"
            for r in odd
        )
        parts.append(
            "<h2>To look at</h2><div class='wide'><table><tr><th>student</th><th>status</th>"
            f"<th>why</th></tr>{rows}</table></div>"
        )
    return "".join(parts) + _END


def _histogram(graded: list[dict[str, Any]]) -> str:
    most = len(exercise_names(graded[0]))
    counts = Counter(score(record) for record in graded)
    bars = "".join(
        f"<tr><td>{points} of {most}</td><td style='width:70%'>{_bar(counts[points] / len(graded))}"
        f"</td><td>{counts[points]}</td></tr>"
        for points in range(most, -1, -1)
    )
    return f"<h2>Points</h2><table><tr><th>points</th><th></th><th>students</th></tr>{bars}</table>"


def _leaderboard(graded: list[dict[str, Any]]) -> str:
    """The entries of the practical, the best first; nothing where there are none."""
    parts = {r["student"]: r["exercises"].get("leaderboard", {}) for r in graded}
    cards = {student: part["card"] for student, part in parts.items() if "card" in part}
    if not cards:
        return ""
    rows = "".join(
        f"<tr><td>{rank}</td><td>{html.escape(_shown(name))}</td>"
        f"<td>{cards[name]['accuracy']:.2f}</td><td>{cards[name]['bytes']:,}</td>"
        f"<td>{cards[name]['macs']:,}</td></tr>"
        for rank, name in enumerate(leaderboard.ranked(cards), 1)
    )
    head = "<th></th><th>student</th><th>right, %</th><th>bytes</th><th>multiplications</th>"
    return f"<h2>Leaderboard</h2><div class='wide'><table><tr>{head}</tr>{rows}</table></div>"


def _exercise(name: str, graded: list[dict[str, Any]]) -> str:
    says = html.escape
    parts = [record["exercises"][name] for record in graded]
    right = sum(map(solved, parts))
    lookups = sum(bool(part["public"] and part["hidden"] is False) for part in parts)
    broken = Counter(part["property"] for part in parts if part["property"])
    words = f"{right} of {len(parts)} solved it"
    if lookups:
        words += f"; {lookups} only on the public inputs"
    stubs = sum(part["stub"] for part in parts)
    if stubs:
        words += f"; {stubs} left it empty"
    seconds = median(part["seconds"] for part in parts)
    text = f"<section class='{'yes' if 2 * right >= len(parts) else 'no'}'><h2>{says(name)}</h2>"
    text += f"{_bar(right / len(parts))}<p>{words}. In the middle, one took {seconds:.2f} s.</p>"
    if broken:
        rows = "".join(f"<tr><td>{says(p)}</td><td>{n}</td></tr>" for p, n in broken.most_common(5))
        text += f"<table><tr><th>fails first</th><th>students</th></tr>{rows}</table>"
        first = broken.most_common(1)[0][0]
        example = next(part for part in parts if part["property"] == first)
        facts = "\n".join(f"{label}: {value}" for label, value in example["facts"])
        if facts:
            text += f"<p>For example:</p><pre>{says(_shown(facts))}</pre>"
    return text + "</section>"


def _bar(share: float) -> str:
    return f"<div class='bar'><div style='width:{100 * share:.0f}%'></div></div>"


def _points(record: dict[str, Any]) -> str:
    points = score(record)
    most = len(exercise_names(record))
    return "no score" if points is None else f"{points} of {most} solved"


def _shown(text: str) -> str:
    """Text that an encoding can hold."""
    return text.encode(errors="backslashreplace").decode()


def write(found: list[dict[str, Any]], out: Path, *, reveal: bool = False) -> Path:
    """Write ``overview.html`` and a page for each student; the overview's path is returned.

    A page is named by the student's folder name. Where that is no safe name of a file, it gets a
    number, and ``names.txt`` says whose it is.
    """
    students = out / "students"
    students.mkdir(parents=True, exist_ok=True)
    numbered = []
    for number, record in enumerate(found, 1):
        name = record["student"]
        if not (name.isascii() and name.replace("-", "").replace("_", "").isalnum()):
            name = f"student-{number:05}"
            numbered.append(f"{name}.html\t{_shown(record['student'])}")
        (students / f"{name}.html").write_text(page(record, reveal=reveal), "utf-8")
    if numbered:
        (out / "names.txt").write_text("\n".join(numbered) + "\n", "utf-8")
    (out / "overview.html").write_text(overview(found), "utf-8")
    return out / "overview.html"
