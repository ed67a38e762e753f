"""Run the lessons on fresh random numbers and note which claims hold: book/replication.json.

    python book/replicate.py --sets 20
    python book/replicate.py --sets 3 --lessons criteria history --jobs 1

Set n is the whole lesson with COURSE_OFFSET=n: other initial weights, images, minibatches and masks.
The file is written after each run. A run that it holds, made with the lesson's present code, is
skipped, so that the command may be stopped and called again. A claim that fails is noted, and the
lesson goes on; any other error ends that run and is noted with it.
"""

import argparse
import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from _ext import replication
from build import toc_notebooks
from kernels import Room, cores, run_one, until_done
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 900  # seconds a cell may take; other work may share the machine
LONGEST = 200  # characters of an error


def read(root: Path, name: str):
    """Return a notebook and the hash of its claims with the code that they depend on."""
    notebook = nbformat.read(root / name, as_version=4)
    return notebook, replication.of_claims(notebook.cells)


def missing(root: Path, names: list[str], sets: int) -> list[tuple[str, int]]:
    """Return the runs (notebook, set) that the file does not hold with the present code."""
    lessons, now = replication.load(root), {name: read(root, name)[1] for name in names}
    runs = {name: lessons.get(Path(name).stem, {}).get("runs", {}) for name in names}
    return [
        (name, number)
        for number in range(1, sets + 1)
        for name in names
        if runs[name].get(str(number), {}).get("hash") != now[name]
    ]


async def run(root: Path, name: str, number: int, bar: tqdm) -> None:
    """Run a notebook with one set of random numbers and add what it claims to the file.

    Raises:
        RuntimeError: it stopped for a reason that is not the notebook's, such as too little memory.
    """
    notebook, digest = read(root, name)
    own = {"COURSE_OFFSET": str(number), "COURSE_REPLICATE": "1"}
    error = None
    try:
        await run_one(root, name, notebook, TIMEOUT, Room(bar), own)
    except RuntimeError as stopped:
        if not isinstance(stopped.__cause__, CellExecutionError):
            raise
        error = shortened(str(stopped).split(":")[0], stopped.__cause__)
    found = replication.claims(notebook.cells)
    lessons = replication.load(root)  # as it is now: another run may have written
    lesson = lessons.setdefault(Path(name).stem, {"claims": {}, "runs": {}})
    add(lesson, number, found)
    lesson["runs"][str(number)] = {"error": error, "hash": digest}
    if error is None:  # sentences that are no longer in the lesson
        stated = {claim["statement"] for _, claim in found}
        lesson["claims"] = {s: c for s, c in lesson["claims"].items() if s in stated}
    write(root, lessons)


def shortened(cell: str, error: CellExecutionError) -> str:
    """Return what stopped a notebook, and where, in a line: "cell 7: AssertionError: assert x > 0"."""
    traceback = re.sub(r"\x1b\[[\d;]*m", "", error.traceback)
    line = re.search(r"^-+> \d+ *(.*)", traceback, re.MULTILINE)  # of the notebook
    said = error.evalue.strip() or (line[1] if line else "")
    return " ".join(f"{cell}: {error.ename}: {said}".split())[:LONGEST]


def add(lesson: dict, number: int, found: list[tuple[str, dict]]) -> None:
    """Put the claims of one set into a lesson's record, in place of those of other code."""
    for digest, claim in found:
        about = {key: claim[key] for key in ("unit", "relation", "margin")} | {"hash": digest}
        known = lesson["claims"].get(claim["statement"])
        if known is None or known["about"] != about:
            known = lesson["claims"][claim["statement"]] = {"about": about, "sets": {}}
        known["sets"][str(number)] = {
            "effect": float(f"{claim['mean']:.4g}"),
            "half_width": float(f"{claim['half_width']:.2g}"),
            "holds": claim["holds"],
        }


def write(root: Path, lessons: dict) -> None:
    """Write the file, whole or not at all: one line per claim and set."""
    path = root / "book/replication.json"
    unfinished = path.with_suffix(".part")
    unfinished.write_text("\n".join(lines(lessons)) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def lines(value: dict, indent: int = 0) -> Iterator[str]:
    """Yield the lines of JSON for dictionaries in dictionaries, sorted; the innermost are one line."""
    yield "{"
    # set 2 before set 10
    keys = sorted(value, key=lambda key: (int(key) if key.isdigit() else 0, key))
    for position, key in enumerate(keys):
        inner = value[key]
        if any(isinstance(v, dict) for v in inner.values()) or not inner:
            first, *rest = lines(inner, indent + 1)
        else:
            first, *rest = [json.dumps(inner, sort_keys=True, ensure_ascii=False)]
        text = [f"{' ' * (indent + 1)}{json.dumps(key, ensure_ascii=False)}: {first}", *rest]
        yield from text[:-1]
        yield text[-1] + ("," if position < len(keys) - 1 else "")
    yield " " * indent + "}"


def replicate(root: Path, names: list[str], sets: int, jobs: int) -> dict[str, str]:
    """Run what is missing, in as many processes as `jobs`; returns what could not be run, and why."""
    missing_runs, room, failed = missing(root, names, sets), asyncio.Semaphore(jobs), {}
    cells = {n: sum(c.cell_type == "code" for c in read(root, n)[0].cells) for n, _ in missing_runs}

    async def one(name: str, number: int, bar: tqdm) -> None:
        async with room:
            try:
                await run(root, name, number, bar)
            except RuntimeError as error:
                failed[f"{Path(name).stem}, set {number}"] = str(error)

    async def everything() -> None:
        total = sum(cells[name] for name, _ in missing_runs)
        with tqdm(total=total, unit="cell", smoothing=0, disable=None) as bar:
            await asyncio.gather(*(one(name, number, bar) for name, number in missing_runs))

    until_done(everything())
    return failed


def summary(root: Path, names: list[str]) -> Iterator[str]:
    """Yield a line for each claim that failed in a set, and for each run that stopped."""
    lessons = replication.load(root)
    for stem in (Path(name).stem for name in names):
        lesson = lessons.get(stem, {"claims": {}, "runs": {}})
        for statement, claim in lesson["claims"].items():
            held = [s["holds"] for s in claim["sets"].values()]
            if not all(held):
                yield f"{stem}: {sum(held)} of {len(held)}: {statement}"
        for number, done in lesson["runs"].items():
            if done["error"]:
                yield f"{stem}, set {number} stopped: {done['error']}"


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Read the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    lessons = {Path(name).stem: name for name in toc_notebooks(root)}
    parser.add_argument("--sets", type=int, default=20, help="sets of random numbers")
    parser.add_argument("--lessons", nargs="+", choices=lessons, default=[*lessons], metavar="NAME")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes side by side")
    asked = parser.parse_args(arguments)
    if not 1 <= asked.sets <= 2000 or asked.jobs < 1:
        parser.error("--sets must be from 1 to 2000, --jobs at least 1")
    names = [lessons[stem] for stem in asked.lessons]
    failed = replicate(root, names, asked.sets, asked.jobs)
    print(*summary(root, names), sep="\n")
    for run_, error in failed.items():
        print(f"{run_} could not be run: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nStopped. Finished runs are kept: run it again to go on.", file=sys.stderr)
        sys.exit(130)
