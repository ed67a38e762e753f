"""Twenty invented students, from nothing to feedback: `make grade-demo` calls this.

It writes an assignment, hands in what students hand in (right, wrong, empty, broken and hostile
notebooks), grades them in the sandbox, and writes the tables and the pages.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from course_lib.grading import editions
from course_lib.grading.__main__ import main as grading

ROOT = Path(__file__).resolve().parent.parent
ASSIGNMENT = "motivation"

Notebook = dict


def edited(notebook: Notebook, name: str, old: str, new: str) -> Notebook:
    """Return the notebook with other words in the answer `name`."""
    cells = [dict(cell) for cell in notebook["cells"]]
    cell = next(cell for cell in cells if cell["id"] == name)
    assert old in cell["source"], (name, old)
    cell["source"] = cell["source"].replace(old, new)
    return notebook | {"cells": cells}


def without(notebook: Notebook, name: str) -> Notebook:
    """Return the notebook without the answer `name`."""
    return notebook | {"cells": [cell for cell in notebook["cells"] if cell["id"] != name]}


def class_of_twenty() -> dict[str, bytes]:
    """Return what each student hands in; two of the files are no notebooks any more."""
    cells = editions.lesson(ASSIGNMENT)
    right = editions.notebook(cells, ASSIGNMENT, "solutions")
    empty = editions.notebook(cells, ASSIGNMENT, "release")
    kinds: list[tuple[int, Callable[[], Notebook]]] = [
        (8, lambda: right),
        (
            3,
            lambda: edited(
                right, "joules", "math.ceil(weights * bits / 32)", "weights * bits / 32"
            ),
        ),
        (2, lambda: edited(right, "mended_file_bytes", "math.ceil(sum(sizes)", "int(sum(sizes)")),
        (1, lambda: edited(right, "smallest_file", "(1, 1), 4", "(50, 10), 32")),
        (1, lambda: without(right, "mended_file_bytes")),
        (
            1,
            lambda: edited(right, "joules", "    if min", "    import os; os._exit(0)\n    if min"),
        ),
        (1, lambda: empty),
        (1, lambda: right | {"cells": right["cells"] * 2}),
    ]
    whole = [json.dumps(make()).encode() for count, make in kinds for _ in range(count)]
    whole += [whole[0][:700], b""]
    return {f"student{number:02}": content for number, content in enumerate(whole, 1)}


def demo(out: Path) -> Path:
    """Do a round of an assignment in the empty folder `out` and return the overview's path."""
    run("make", ASSIGNMENT, "-o", out / "course")
    for student, content in class_of_twenty().items():
        place = out / "submitted" / student / ASSIGNMENT
        place.mkdir(parents=True)
        (place / f"{ASSIGNMENT}.ipynb").write_bytes(content)
    user = ("--user", "nobody") if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
    run("run", out / "submitted", ASSIGNMENT, "-o", out / "results", "--seed", 1, *user)
    run("export", out / "results", "--to", "moodle")
    run("feedback", out / "results", "-o", out / "feedback")
    return out / "feedback" / "overview.html"


def run(*words: object) -> None:
    """Print a command of the grader and do it; that some files need a human is no failure."""
    print("\n$ python -m course_lib.grading", *words, flush=True)
    code = grading([str(word) for word in words])
    if code not in (0, 3):
        sys.exit(code)


def main() -> None:
    """Do the demonstration in a new folder, or in the book's, whose last one is removed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="a new folder")
    out = parser.parse_args().out
    if out is None:
        out = ROOT / "book/_build/grade-demo"
        shutil.rmtree(out, ignore_errors=True)  # of the last time; it is ours
    elif out.exists():
        parser.error(f"{out} is there already: choose another folder.")
    began = time.monotonic()
    overview = demo(out)
    print(f"\nTwenty students in {time.monotonic() - began:.0f} seconds. Open {overview}.")


if __name__ == "__main__":
    main()
