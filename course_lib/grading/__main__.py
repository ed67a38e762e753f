"""The grader's commands: ``python -m course_lib.grading run submitted/ criteria -o results/``."""

import argparse
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from course_lib.grading import doctor, editions, exam, export, feedback, jail, selftest
from course_lib.grading.batch import (
    Here,
    Settings,
    Unusable,
    assignments,
    close,
    in_shard,
    latest,
    merge,
    run,
    sandbox,
    tasks,
)
from course_lib.grading.sandbox import SECONDS, WALLS, NoSandbox, Sandbox

Command = Callable[[str, Callable, str], argparse.ArgumentParser]  # name, what it does, help

DONE, WRONG_USE, NEEDS_A_HUMAN, NO_SANDBOX = 0, 2, 3, 4


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for and return the exit code.

    0: all is graded. 2: the command cannot be carried out as it is. 3: some submissions need a human;
    they are listed. 4: there is no sandbox.
    """
    given = _parser().parse_args(arguments)
    try:
        return given.do(given)
    except (Unusable, ValueError) as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    except NoSandbox as error:
        print(error, file=sys.stderr)
        return NO_SANDBOX
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"Stopped: {error.strerror}{where}. What was graded is kept.", file=sys.stderr)
        return WRONG_USE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m course_lib.grading", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, do: Callable, says: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=says, description=says)
        made.set_defaults(do=do)
        return made

    for add in (_add_make, _add_run_and_merge, _add_export_and_feedback, _add_selftest_and_doctor):
        add(command)
    return parser


def _add_make(command: Command) -> None:
    write = command("make", _make, "Write an assignment: for students, instructors, solved.")
    write.add_argument("assignment", choices=assignments(), metavar="assignment")
    write.add_argument("-o", dest="out", type=Path, required=True, help="a folder for all editions")
    write.add_argument("--lessons", type=Path, default=editions.LESSONS, help="the lessons' folder")
    write.add_argument("--students", type=Path, help="for the exam: a file with a name per line")
    write.add_argument("--seed", type=int, help="of the exam's numbers; drawn, if not given")


def _add_run_and_merge(command: Command) -> None:
    grade = command("run", _run, "Grade the submissions of an assignment.")
    grade.add_argument("submitted", type=Path, help="the folder of <student>/<assignment>/*.ipynb")
    grade.add_argument("assignment", choices=assignments(), metavar="assignment")
    grade.add_argument("--jobs", type=int, default=1, help="processes at a time (1)")
    grade.add_argument("--shard", metavar="I/N", help="only the I-th of N parts of the students")
    grade.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    grade.add_argument("--sandbox", choices=WALLS, help="the first that works, if not given")
    grade.add_argument("--seed", type=int, help="of the hidden inputs; drawn, if not given")
    least = f"at least, per exercise ({SECONDS})"
    grade.add_argument("--seconds", type=int, default=SECONDS, help=least)
    _add_user(grade)
    joined = command("merge", _merge, "Put the results of several shards together.")
    joined.add_argument("parts", type=Path, nargs="+")
    for made in (grade, joined):
        made.add_argument(
            "-o", dest="results", type=Path, required=True, help="a folder for results"
        )


def _add_export_and_feedback(command: Command) -> None:
    out = command("export", _export, "Write the grades for a learning platform.")
    out.add_argument("results", type=Path)
    out.add_argument("--to", choices=export.PLATFORMS, required=True)
    out.add_argument("--template", type=Path, help="for Canvas: the table that it has exported")
    out.add_argument("-o", dest="out", type=Path, help="a folder; RESULTS, if not given")
    pages = command("feedback", _feedback, "Write a page for each student, and an overview.")
    pages.add_argument("results", type=Path)
    pages.add_argument("--reveal", action="store_true", help="show where hidden inputs failed")
    pages.add_argument("-o", dest="out", type=Path, required=True, help="a folder for the pages")


def _add_selftest_and_doctor(command: Command) -> None:
    known = command("selftest", _selftest, "Try the grader on answers whose verdict is known.")
    known.add_argument("assignment", choices=assignments(), metavar="assignment")
    known.add_argument("--seeds", type=int, default=20, help="of hidden inputs (20)")
    known.add_argument("--answers", type=Path, default=selftest.FOLDER, help="their folder")
    known.add_argument("--sandbox", choices=WALLS, help="the first that works, if not given")
    _add_user(known)
    _add_user(command("doctor", _doctor, "Find out which sandbox holds on this machine."))


def _add_user(made: argparse.ArgumentParser) -> None:
    made.add_argument("--user", help="whom students' code becomes, if you are root")


def _make(given: argparse.Namespace) -> int:
    if given.assignment == "exam":
        seed = secrets.randbelow(2**48) if given.seed is None else given.seed
        names = given.students.read_text("utf-8-sig").split("\n") if given.students else []
        students = [name.strip() for name in names if name.strip()]
        paths = exam.write(given.out, students, seed)
        print(f"Grade it with --seed {seed}. {len(students)} students have numbers of their own.")
    else:
        cells = editions.lesson(given.assignment, given.lessons)
        paths = editions.write(cells, given.assignment, given.out)
    for edition, path in zip(editions.EDITIONS, paths, strict=True):
        print(f"{edition}: {path}")
    return DONE


def _run(given: argparse.Namespace) -> int:
    wanted = tasks(given.submitted, given.assignment)
    if given.shard:
        index, count = _shard(given)
        wanted = [task for task in wanted if in_shard(task.student, index, count)]
    seed = _seed(given)
    if given.assignment == "exam" and not exam.fits(wanted, seed):
        raise Unusable("--seed must be the one that `make exam` printed: it fits no notebook here.")
    if given.jobs < 1 or given.seconds < 1:
        raise Unusable("--jobs and --seconds must be at least 1.")
    settings = Settings(given.assignment, seed, given.seconds, given.sandbox, given.user)
    settings = replace(settings, wall=sandbox(settings).wall)
    if given.jobs > 1:
        close()  # each process has one of its own
    print(f"{len(wanted)} students, {given.assignment}, sandbox {settings.wall}, seed {seed}")
    started, window = time.monotonic(), 2 * given.jobs if given.jobs > 1 else 1
    done = run(
        wanted,
        settings,
        given.results,
        resume=given.resume,
        executor=_pool(given.jobs),
        window=window,
    )
    for count, _ in enumerate(done, 1):
        if count % 100 == 0:
            rate = count / (time.monotonic() - started)
            print(f"{count} graded, {rate:.1f} per second", flush=True)
    close()
    return _summary(given.results)


def _pool(jobs: int) -> Callable[[], Executor]:
    if jobs == 1:
        return Here
    # Each process starts clean, without the sockets of its brothers, and none outlives this one.
    context, ready = get_context("spawn"), jail.dies_with_parent
    return lambda: ProcessPoolExecutor(jobs, mp_context=context, initializer=ready)


def _shard(given: argparse.Namespace) -> tuple[int, int]:
    index, _, count = given.shard.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise Unusable(f"--shard: expected I/N with I from 1 to N, got {given.shard!r}.")
    if given.seed is None:
        raise Unusable(
            "--shard needs --seed, the same for all shards, so that inputs are the same."
        )
    return int(index), int(count)


def _seed(given: argparse.Namespace) -> int:
    if given.seed is not None:
        return given.seed
    known = given.results / "run.json"
    if given.resume and known.exists():
        return Settings.read(known).seed
    return secrets.randbelow(2**48)


def _merge(given: argparse.Namespace) -> int:
    merge(given.parts, given.results)
    return _summary(given.results)


def _summary(results: Path) -> int:
    found = latest(results)
    counts = Counter(record["status"] for record in found)
    print(", ".join(f"{count} {status}" for status, count in counts.items()) + ".")
    print(f"The grades are in {results / 'grades.csv'}.")
    odd = [record for record in found if record["status"] in ("unreadable", "infra_error")]
    for record in odd:
        print(f"needs a human: {record['student']!a}: {record['status']}. {record['why']!a}")
    return NEEDS_A_HUMAN if odd else DONE


def _export(given: argparse.Namespace) -> int:
    out = given.out or given.results
    left = export.write(latest(given.results), given.to, out, given.template)
    for sentence in left:
        print(f"needs a human: {sentence}")
    return NEEDS_A_HUMAN if left else DONE


def _feedback(given: argparse.Namespace) -> int:
    print(f"Begin with {feedback.write(latest(given.results), given.out, reveal=given.reveal)}.")
    return DONE


def _selftest(given: argparse.Namespace) -> int:
    answers = selftest.known(given.assignment, given.answers)
    left, wrong = sum(answer.foreign for answer in answers), 0
    print(f"{left} of {len(answers)} answers call the course's library and are left out.")
    with Sandbox(given.sandbox, user=given.user) as box:
        for tried in selftest.run(box, answers, given.seeds):
            print(tried, *tried.wrong, sep="\n  ", flush=True)
            wrong += len(tried.wrong)
    return NEEDS_A_HUMAN if wrong else DONE


def _doctor(given: argparse.Namespace) -> int:
    findings = doctor.examine(given.user)
    print(*findings, sep="\n")
    usable = [finding for finding in findings if finding.holds]
    if not usable:
        print("No submissions can be graded on this machine.")
        return NO_SANDBOX
    print(f"`run` would use {usable[0].wall}.")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
