"""Grade many synthetic submissions: once in one go, and once killed (-9) again and again and resumed.

    python tests/grading/many.py 10000 --kills 5

A third of the submissions are mangled or hostile. Nothing may be lost or counted twice, the two tables
of grades must be the same byte for byte, and memory must not grow.
"""

import argparse
import contextlib
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from course_lib.exercises import EXERCISES
from course_lib.grading import batch
from course_lib.grading.extract import extract
from course_lib.grading.selftest import known, notebook

USER = ["--user", "nobody"] if os.geteuid() == 0 else []

#: Bodies of functions that want something else than to answer.
HOSTILE = (
    "import os; os._exit(0)",
    "import sys; sys.exit(0)",
    "import os; os.kill(-1, 9)",
    "import os\n    while True: os.fork()",
    "return [0] * 10**10",
    "import ctypes; ctypes.string_at(0)",
    "print('x' * 10**7); raise KeyboardInterrupt",
    "import socket; socket.create_connection(('127.0.0.1', 22))",
    "open('/tmp/x', 'w').write('x' * 10**9)",
    "import torch; torch.equal = torch.allclose = lambda *x: True; return torch.ones(1)",
    "import sys; sys.modules.clear(); raise SystemExit",
    "return type('Yes', (), {'__eq__': lambda *x: True})()",
    "raise ValueError('=HYPERLINK(1)<script>\\x1b[2J')",
    "return f(*x) if (f := globals()['OWN']) else 0",
    "while True: pass",
)


def hand_in(submitted: Path, number: int, assignment: str) -> None:
    """Write ``number`` submissions: right and wrong answers, and a third that are neither."""
    answers: dict[str, list[str]] = {}
    for answer in known(assignment):
        if not answer.foreign:
            function = EXERCISES[answer.exercise].function
            used = extract(answer.notebook, [function]).statements[function]
            answers.setdefault(answer.exercise, []).append("\n".join(s.source for s in used))
    for student in range(number):
        good = [found[student * 7 % len(found)] for found in answers.values()]
        place = submitted / f"student{student:05}" / assignment
        place.mkdir(parents=True)
        if student % 3:
            (place / f"{assignment}.ipynb").write_bytes(notebook(*good))
        else:
            _spoiled(place, student // 3, good, [EXERCISES[name].function for name in answers])


def _spoiled(place: Path, number: int, good: list[str], functions: list[str]) -> None:
    """Write a submission that is damaged in one of many ways, or hostile."""
    path, content = place / f"{place.name}.ipynb", notebook(*good)
    cells = json.loads(content)["cells"]
    damages = (
        content[: -1 - number % 50],
        b"",
        b"\xff\xfe" + content,
        content.replace(b'"code"', b'"markdown"'),
        notebook(*good[1:]),
        notebook(good[0] + " (", *good[1:]),
        notebook(*good, *good),
        notebook("def another(): return 1"),
        json.dumps({"nbformat": 3, "worksheets": [{"cells": cells}]}).encode(),
        notebook("%matplotlib inline\n" + good[0], *good[1:], "while True: pass"),
    )
    if number % 2:
        body, name = HOSTILE[number // 2 % len(HOSTILE)], functions[number % len(functions)]
        path.write_bytes(notebook(*good, f"OWN = 1\ndef {name}(*x):\n    {body}"))
    elif (kind := number // 2 % (len(damages) + 4)) == 0:
        path.symlink_to("/etc/passwd")
    elif kind == 1:
        (place / "a.ipynb").write_bytes(content)
        (place / "b.ipynb").write_bytes(content)
    elif kind == 2:
        path.mkdir()
    elif kind > 3:  # 3 hands in an empty folder
        path.write_bytes(damages[kind - 4])


@dataclass
class Run:
    """A run of the command: its seconds, and what ``_used`` says of it as it went on.

    Of the processes that were there when it was killed, ``ended`` counts all, and ``survivors`` those
    that went on without it.
    """

    results: Path
    seconds: float = 0.0
    samples: list[dict[str, float]] = field(default_factory=list)
    ended: int = 0
    survivors: int = 0

    def lines(self) -> int:
        path = self.results / "results.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def go_on(self, command: list[str], until: int | None = None) -> None:
        """Run the command to its end, or kill it when there are ``until`` records."""
        started = time.perf_counter()
        resume = ["--resume"] if (self.results / "run.json").exists() else []
        done = subprocess.Popen(
            [*command, "-o", str(self.results), *resume], stdout=subprocess.DEVNULL
        )
        for turn in count(1):
            try:
                done.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                if turn % 50 == 0:
                    at = {"seconds": time.perf_counter() - started, "records": self.lines()}
                    self.samples.append(at | _used(done.pid))
                if until is not None and self.lines() >= until:
                    below = psutil.Process(done.pid).children(recursive=True)
                    done.kill()
                    left = psutil.wait_procs(below, timeout=20)[1]
                    self.ended += len(below)
                    self.survivors += sum(map(_lives, left))
        self.seconds += time.perf_counter() - started
        assert done.returncode in (0, 3, -9), done.returncode


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _used(pid: int) -> dict[str, float]:
    """What a process and all below it have computed, and the memory that no other process has."""
    used = {"cpu": 0.0, "MB": 0.0}
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            used["cpu"] += sum(process.cpu_times()[:4])  # with those of children that have ended
            used["MB"] += process.memory_full_info().uss / 1e6
    return used


def command(folder: Path, assignment: str) -> list[str]:
    """The command that grades what lies in ``folder``."""
    start = [sys.executable, "-m", "course_lib.grading", "run", str(folder / "submitted")]
    return [*start, assignment, "--seed", "7", "--seconds", "2", *USER]


def killed(folder: Path, number: int, assignment: str, jobs: list[int]) -> Run:
    """Grade ``number`` submissions by as many runs as ``jobs`` holds, killing all but the last."""
    run = Run(folder / "killed")
    for turn, processes in enumerate(jobs, 1):
        until = turn * number // len(jobs) if turn < len(jobs) else None
        run.go_on([*command(folder, assignment), "--jobs", str(processes)], until)
    return run


def differences(whole: Run, stopped: Run, number: int) -> list[str]:
    """What is not as it should be in the results of the two runs."""
    found = []
    for run in (whole, stopped):
        students = [record["student"] for record in batch.records(run.results)]
        if sorted(students) != [f"student{n:05}" for n in range(number)]:
            found.append(
                f"{run.results.name}: {len(students)} records, {len(set(students))} students"
            )
        if run.survivors:
            found.append(f"{run.results.name}: {run.survivors} processes outlived a run")
    one, other = ((run.results / "grades.csv").read_bytes() for run in (whole, stopped))
    if one != other:
        found.append("the two tables of grades differ")
    return found


def figures(number: int, run: Run) -> dict[str, str]:
    """What a run of ``number`` submissions has needed, once the sandboxes had started.

    Of a short run, memory is left out: it says nothing about whether memory grows.
    """
    warm = [sample for sample in run.samples if sample["records"]]
    first, last = warm[0], max(warm, key=itemgetter("cpu"))
    cpu = (last["cpu"] - first["cpu"]) / max(last["records"] - first["records"], 1)
    third = len(warm) // 3
    memory = [
        f"{statistics.median(sample['MB'] for sample in part):.0f}" if third > 2 else ""
        for part in (warm[:third], warm[-third:])
    ]
    return {
        "Submissions": f"{number:,}",
        "Computing, ms each": f"{1000 * cpu:.0f}",
        "Two cores, per second": f"{2 / cpu:.1f}",
        "Memory in the first third, MB": memory[0],
        "in the last third, MB": memory[1],
    }


def tabulate(path: Path, assignment: str, row: dict[str, str]) -> None:
    """Put a row for an assignment into the table in ``path``, which the book shows."""
    rows = {}
    if path.exists():
        with path.open(newline="") as file:
            rows = {found["Assignment"]: found for found in csv.DictReader(file)}
    rows[assignment] = {"Assignment": assignment} | row
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[assignment]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows))


def main() -> None:
    """Say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--assignment", default="criteria")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", type=Path, help="where to note it, such as book/grading.csv")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        submitted, jobs = Path(folder) / "submitted", given.jobs
        hand_in(submitted, given.number, given.assignment)
        whole = Run(Path(folder) / "whole")
        whole.go_on([*command(Path(folder), given.assignment), "--jobs", str(jobs)])
        stopped = killed(Path(folder), given.number, given.assignment, [jobs] * (given.kills + 1))
        wrong = differences(whole, stopped, given.number)
        records = batch.records(whole.results)
    row = figures(given.number, whole)
    print(f"{given.assignment}, {given.jobs} processes: {row}")
    print(
        f"  in one go: {whole.seconds:.0f} s; killed {given.kills} times: {stopped.seconds:.0f} s"
    )
    warm = sorted(record["seconds_in_all"] for record in records if record["exercises"])
    print(
        f"  a submission: {statistics.median(warm):.3f} s in the middle, {warm[-1]:.1f} s at most"
    )
    inside = sum(part["seconds"] for r in records for part in r["exercises"].values())
    print(f"  the students' processes computed for {inside:.0f} s in all")
    print(f"  {dict(Counter(record['status'] for record in records))}")
    if given.table and not wrong:
        tabulate(given.table, given.assignment, row)
    print(
        *wrong or ["  nothing lost, nothing twice, the tables are the same byte for byte"],
        sep="\n  ",
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
