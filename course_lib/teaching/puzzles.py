"""Two puzzles about the code of an exercise, which need no kernel.

``wrong_line`` shows a function and asks for the line that is wrong; ``order_lines`` shuffles the
lines of a right function among lines that are mistakes. Both are made from the functions that the
lesson's module in ``course_lib.exercises`` lists in ``PUZZLES``. Without JavaScript, the first is a
list of disclosures, and the second shows the solution behind one.
"""

import html
import random
from typing import TypeVar

from IPython.display import HTML

from course_lib.exercises import EXERCISES, PUZZLES
from course_lib.exercises.exercise import Lines, WrongLine
from course_lib.teaching import page

Puzzle = TypeVar("Puzzle", WrongLine, Lines)


def wrong_line(name: str) -> HTML:
    """“Click the wrong line”: the lines of a function, each with its own feedback.

    Args:
        name: of a ``WrongLine`` among the puzzles of the lessons.

    Raises:
        ValueError: there is no such puzzle, or a line it names is not in its function.
    """
    puzzle = _find(WrongLine, name)
    rows = []
    for number, line in enumerate(puzzle.lines(), start=1):
        right = line.strip() == puzzle.wrong
        kind, verdict = ("right", "Right:") if right else ("wrong", "Not this one:")
        why = (
            puzzle.why
            if right
            else puzzle.others.get(line.strip(), "This line is as it should be.")
        )
        rows.append(
            f'<details name="wrong-line-{name}"><summary><span class="number">{number}</span> '
            f'{_code(line)}</summary><p class="{kind}"><strong>{verdict}</strong> '
            f"{_said(why)}</p></details>"
        )
    return HTML(
        page.html(
            '<div class="course-lines" data-course="answers">\n'
            f'<div role="group" aria-labelledby="wrong-line-{name}">\n'
            f'<p id="wrong-line-{name}"><strong>Click the wrong line.</strong> Exactly one line of '
            "this function is wrong. Click a line, and you read whether it is that one.</p>\n"
            + "\n".join(rows)
            + "\n</div>\n</div>"
        )
    )


def order_lines(name: str) -> HTML:
    """“Order the lines”: the lines of a right function, shuffled, and some that are mistakes.

    The order in which they stand at first depends on the name alone.

    Args:
        name: of a ``Lines`` among the puzzles of the lessons.

    Raises:
        ValueError: there is no such puzzle, or its function or distractors are not fit for one.
    """
    puzzle = _find(Lines, name)
    lines = puzzle.lines()
    shown = _shuffled(name, lines + list(puzzle.distractors))
    rows = [f'<li data-line="{number}">{_code(line)}</li>' for number, line in enumerate(shown)]
    head = f"def {EXERCISES[name].signature}:"
    solution = "\n".join([head, *(f"    {line}" for line in lines)])
    mistakes = {shown.index(line): _said(why) for line, why in puzzle.distractors.items()}
    extra = len(mistakes)
    count = f"{extra} of them hold a mistake" if extra > 1 else "one of them holds a mistake"
    return HTML(
        page.html(
            f'<div class="course-order" id="order-{name}" data-course="order" role="group"'
            f' aria-labelledby="order-{name}-text">\n'
            f'<p id="order-{name}-text"><strong>Order the lines.</strong> These lines make the '
            f"function, but they are shuffled, and {count}. Take those out, and put the others in "
            "order. The indentation is given.</p>\n"
            f'<p class="head">{_code(head)}</p>\n'
            f'<ol class="kept" role="list">\n{chr(10).join(rows)}\n</ol>\n'
            f"<details><summary>Show the right order</summary><pre>{html.escape(solution)}</pre>"
            "</details>\n"
            + page.data({"answer": [shown.index(line) for line in lines], "mistakes": mistakes})
            + "\n</div>"
        )
    )


def _find(kind: type[Puzzle], name: str) -> Puzzle:
    """The puzzle of this kind and name."""
    found = {puzzle.name: puzzle for puzzle in PUZZLES if isinstance(puzzle, kind)}
    if name not in found:
        raise ValueError(f"name must be one of {sorted(found)}, got {name!r}")
    return found[name]


def _shuffled(name: str, lines: list[str]) -> list[str]:
    """The lines in an order that depends on the name, and in which the first one is not first."""
    shown, numbers = list(lines), random.Random(name)
    while shown[0] == lines[0]:
        numbers.shuffle(shown)
    return shown


def _code(line: str) -> str:
    """A line as code; the style sheet indents it, so that a long one can be wrapped."""
    indent = len(line) - len(line.lstrip())
    return f'<code style="--indent: {indent}ch">{html.escape(line.strip())}</code>'


def _said(why: str) -> str:
    """Feedback as a sentence: with a capital letter and a full stop."""
    end = "" if why.endswith((".", "?", "!")) else "."
    return page.inline(why[:1].upper() + why[1:] + end)
