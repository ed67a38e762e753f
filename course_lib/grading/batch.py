"""Grade all submissions of an assignment, and lose none of them, whatever happens to this machine.

Each submission that is done is one line of ``results.jsonl``, written to the disk before the next one
counts. A run that was stopped goes on with ``resume``; a run on many machines is cut into shards and
merged. ``grades.csv`` is made from these lines and depends on nothing but the submissions and the
seed. A submission that could not be graded has a status and no score: it is never a zero.
"""

import csv
import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from course_lib import __version__, exercises
from course_lib.exercises import LESSONS, exam
from course_lib.exercises.exercise import Exercise
from course_lib.grading import blackbox, leaderboard
from course_lib.grading.extract import Answers, Unreadable, extract, read
from course_lib.grading.sandbox import SECONDS, Gone, Sandbox

#: What can become of a submission; only the first has a score.
STATUSES = ("graded", "missing", "unreadable", "infra_error")

PRACTICAL = "practical"  # the assignment that has a leaderboard


class Unusable(ValueError):
    """A run that cannot begin; the message says what to change."""


@dataclass(frozen=True)
class Task:
    """One student's submission: the notebook, or the reason why there is none to read."""

    student: str
    notebook: str | None
    status: str = ""
    why: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What holds for all submissions of a run.

    ``wall`` and ``user`` are those of ``sandbox.Sandbox``; ``spec`` is a hash of the judges' code.
    """

    assignment: str
    seed: int
    seconds: int = SECONDS
    wall: str | None = None
    user: str | None = None
    spec: str = ""

    def shared(self) -> dict[str, Any]:
        """What must be the same in all parts of a run."""
        return {k: v for k, v in asdict(self).items() if k not in ("wall", "user")}

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """The settings in a ``run.json``.

        Raises:
            Unusable: a file that is none.
        """
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise Unusable(f"{path} cannot be read: {error}.") from None


# ---- what there is to grade


def assignments() -> dict[str, tuple[Exercise, ...]]:
    """The assignments, one per lesson and the exam, and the exercises of each."""
    by_lesson = {lesson.__name__.rpartition(".")[2]: lesson.EXERCISES for lesson in LESSONS}
    return by_lesson | {"exam": exam.EXERCISES}


def tasks(submitted: Path, assignment: str) -> list[Task]:
    """The submissions in nbgrader's layout, ``<student>/<assignment>/*.ipynb``, by student.

    Raises:
        Unusable: there is no such folder, or no student in it.
    """
    if not submitted.is_dir():
        raise Unusable(f"There is no folder {submitted}.")
    entries = sorted(os.scandir(submitted), key=lambda entry: entry.name)
    students = [entry for entry in entries if not entry.name.startswith(".") and _holds(entry)]
    if not students:
        raise Unusable(f"{submitted} holds no folders; <student>/{assignment}/*.ipynb is expected.")
    return [_task(entry, assignment) for entry in students]


def _holds(entry: os.DirEntry) -> bool:
    return entry.is_symlink() or entry.is_dir(follow_symlinks=False)


def _task(entry: os.DirEntry, assignment: str) -> Task:
    folder = Path(entry.path) / assignment
    if entry.is_symlink() or folder.is_symlink():
        return Task(entry.name, None, "unreadable", "The folder is a link; links are not followed.")
    if not folder.is_dir():
        return Task(entry.name, None, "missing", f"There is no folder {assignment}.")
    try:
        names = sorted(n for n in os.listdir(folder) if n.endswith(".ipynb") and n[0] != ".")
    except OSError as error:
        return Task(entry.name, None, "unreadable", f"The folder cannot be read: {error.strerror}.")
    usual = f"{assignment}.ipynb"
    if usual in names:
        more = len(names) - 1
        flags = (f"more-notebooks: {more} besides {usual}, not graded",) if more else ()
        return Task(entry.name, str(folder / usual), flags=flags)
    if len(names) == 1:
        flags = (f"renamed: the notebook is not called {usual}",)
        return Task(entry.name, str(folder / names[0]), flags=flags)
    if names:
        why = f"There are {len(names)} notebooks, and none of them is called {usual}."
        return Task(entry.name, None, "unreadable", why)
    return Task(entry.name, None, "missing", f"The folder {assignment} holds no notebook.")


def in_shard(student: str, index: int, count: int) -> bool:
    """Whether a student belongs to shard ``index`` of ``count``, counted from 1.

    Examples:
        >>> [in_shard("ada", index, 3) for index in (1, 2, 3)].count(True)
        1
    """
    digest = hashlib.sha256(student.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8]) % count == index - 1


# ---- one submission, in whatever process an executor gives it

_process = threading.local()


def grade(task: Task, settings: Settings) -> dict[str, Any]:
    """The record of one submission. A sandbox that breaks is replaced once."""
    started = time.monotonic()
    record = {
        "student": task.student,
        **settings.shared(),
        "version": __version__,
        "status": task.status,
        "why": task.why,
        "flags": list(task.flags),
        "sha256": "",
        "exercises": {},
    }
    if task.notebook:
        with _one_thread():
            record |= _graded(task, settings, record["flags"])
    return record | {"seconds_in_all": round(time.monotonic() - started, 3)}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within the block torch computes in one thread: its threads would wait for those of other
    graders and of the sandbox, and the numbers would depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _graded(task: Task, settings: Settings, flags: list[str]) -> dict[str, Any]:
    plans = _plans(settings, task.student)
    found: dict[str, Any] = {"sha256": ""}
    try:
        content = read(Path(task.notebook or ""))
        found["sha256"] = _digest(content, task, settings.assignment)
        answers = extract(content, [plan.exercise.function for plan in plans])
    except Unreadable as error:
        return found | {"status": "unreadable", "why": str(error)}
    try:
        results = {plan.exercise.name: _tried(settings, plan, answers) for plan in plans}
    except Gone:
        close()
        why = "The sandbox ended twice. Run again with --resume."
        return found | {"status": "infra_error", "why": why}
    if settings.assignment == PRACTICAL:
        results["leaderboard"] = leaderboard.grade(_entry(task), settings.seed)
    flags = [*flags, *answers.flags]
    return found | {"status": "graded", "exercises": results, "flags": flags}


def _entry(task: Task) -> Path:
    """Where a student's entry to the leaderboard should lie."""
    return Path(task.notebook or "").with_name(leaderboard.FILE)


def _digest(content: bytes, task: Task, assignment: str) -> str:
    """A hash of what is graded: of the notebook and, in the practical, of the entry beside it."""
    digest = hashlib.sha256(content)
    if assignment == PRACTICAL:
        try:
            digest.update(leaderboard.content_of(_entry(task)))
        except leaderboard.Refused as error:
            digest.update(str(error).encode())
    return digest.hexdigest()


def _tried(settings: Settings, plan: blackbox.Plan, answers: Answers) -> dict[str, Any]:
    try:
        return blackbox.grade(sandbox(settings), plan, answers)
    except Gone:
        close()
        return blackbox.grade(sandbox(settings), plan, answers)


def _plans(settings: Settings, student: str) -> list[blackbox.Plan]:
    own = settings.assignment == "exam"  # each student's numbers are others
    key = settings.assignment, settings.seed, student if own else ""
    if getattr(_process, "key", None) != key:
        chosen = assignments()[settings.assignment]
        if own:
            chosen = exam.exercises(student, settings.seed)
        _process.plans = [blackbox.plan(exercise, settings.seed) for exercise in chosen]
        _process.key = key
    return _process.plans


def sandbox(settings: Settings) -> Sandbox:
    """This process's sandbox; it is started once.

    Raises:
        NoSandbox, ValueError: as ``Sandbox`` does.
    """
    key = settings.wall, settings.user, settings.seconds
    if getattr(_process, "sandbox", None) is None or _process.sandbox_key != key:
        close()
        wall, user, seconds = key
        _process.sandbox, _process.sandbox_key = Sandbox(wall, user=user, seconds=seconds), key
    return _process.sandbox


def close() -> None:
    """End this process's sandbox."""
    if getattr(_process, "sandbox", None) is not None:
        _process.sandbox.close()
        _process.sandbox = None


# ---- all of them


def spec() -> str:
    """A hash of the code that decides about right and wrong."""
    digest = hashlib.sha256()
    folders = Path(exercises.__file__).parent, Path(__file__).parent
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


class Here(Executor):
    """An executor that does the work at once, in this process."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Call ``fn`` and return a future that is done."""
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 (as every executor does)
            future.set_exception(error)
        return future


def run(
    wanted: list[Task],
    settings: Settings,
    results: Path,
    *,
    resume: bool = False,
    executor: Callable[[], Executor] = Here,
    window: int = 4,
) -> Iterator[dict[str, Any]]:
    """Grade the submissions in ``wanted`` that ``results`` does not hold yet.

    Args:
        results: the folder for ``run.json``, ``results.jsonl`` and, at the end, ``grades.csv``.
        resume: go on with the run that is in there.
        executor: makes the executor that does the work; another one is made if it breaks. Any of
            ``concurrent.futures`` does, and also ``distributed.Client(...).get_executor``, where
            each worker has one thread.
        window: how many submissions are handed out at a time.

    Yields:
        Each record, once it is on the disk.

    Raises:
        Unusable: ``results`` holds another run, or cannot be written.
        OSError: the disk is full. What was written before is kept.
    """
    settings = replace(settings, spec=spec())
    results = _opened(results, settings, resume)
    last = {record["student"]: record for record in latest(results)}
    wanted = [task for task in wanted if not _is_done(task, last.get(task.student))]
    with open(results / "results.jsonl", "ab") as file:
        for record in _all_graded(wanted, settings, executor, window):
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            yield record
    write_grades(results)


def _is_done(task: Task, last: dict[str, Any] | None) -> bool:
    """Whether a student's last record is of the same file, or of the same reason for none."""
    if last is None or last["status"] == "infra_error":
        return False
    why = task.why
    if task.notebook:
        try:
            content = read(Path(task.notebook))
            return last["sha256"] == _digest(content, task, last["assignment"])
        except Unreadable as error:
            why = str(error)
    return not last["sha256"] and last["why"] == why


def _all_graded(
    wanted: list[Task], settings: Settings, executor: Callable[[], Executor], window: int
) -> Iterator[dict[str, Any]]:
    """The records as they come. What was under way when an executor died is tried once more, alone."""
    left, suspects, waiting = iter(wanted), list[Task](), dict[Future, Task]()
    pool = executor()
    try:
        while True:
            while len(waiting) < window and (task := next(left, None)):
                waiting[pool.submit(grade, task, settings)] = task
            if not waiting:
                break
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            died = [f for f in finished if isinstance(f.exception(), BrokenExecutor)]
            for future in [f for f in waiting if f in finished and f not in died]:
                yield _result(future, waiting.pop(future), settings)
            if died:
                suspects += waiting.values()
                waiting, pool = {}, executor()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=False)  # not every executor can be told to cancel
    for task in suspects:
        with executor() as alone:
            yield _result(alone.submit(grade, task, settings), task, settings)


def _result(future: Future, task: Task, settings: Settings) -> dict[str, Any]:
    error = future.exception()
    if error is None:
        return future.result()
    if not isinstance(error, Exception):
        raise error
    failed = replace(
        task, notebook=None, status="infra_error", why=f"{type(error).__name__}: {error}"
    )
    return grade(failed, settings)


# ---- the files


def _opened(results: Path, settings: Settings, resume: bool) -> Path:
    """The folder, ready for new lines; a line that was cut off when a run was killed is removed."""
    about = json.dumps(settings.shared())
    head, lines = results / "run.json", results / "results.jsonl"
    try:
        results.mkdir(parents=True, exist_ok=True)
        if head.exists() and not resume:
            raise Unusable(
                f"{results} holds a run already: add --resume, or choose another folder."
            )
        if head.exists() and (other := _difference(Settings.read(head), settings)):
            raise Unusable(f"{results} holds a run with another {other}: choose another folder.")
        if lines.exists():
            whole = lines.read_bytes()
            os.truncate(lines, whole.rfind(b"\n") + 1)
        _replace(head, about)
        (results / "grades.csv").unlink(missing_ok=True)
    except OSError as error:
        raise Unusable(f"{results} cannot be written: {error.strerror}.") from None
    return results


def _difference(one: Settings, other: Settings) -> str:
    pairs = zip(one.shared().items(), other.shared().values(), strict=True)
    names = [key for (key, mine), theirs in pairs if mine != theirs]
    return " and ".join("version of the judges" if name == "spec" else name for name in names)


def _replace(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def records(results: Path) -> list[dict[str, Any]]:
    """The records in a folder, in the order in which they were written.

    Raises:
        Unusable: there are none, or a line that is none.
    """
    path = results / "results.jsonl"
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        return [json.loads(line) for line in lines if line]
    except (OSError, ValueError) as error:
        raise Unusable(f"{path} cannot be read: {error}.") from None


def latest(results: Path) -> list[dict[str, Any]]:
    """The last record of every student, by name."""
    by_student = {record["student"]: record for record in records(results)}
    return [by_student[student] for student in sorted(by_student)]


def write_grades(results: Path) -> None:
    """Write ``grades.csv``, which says that a run has come to its end."""
    _replace(results / "grades.csv", grades(latest(results)))


def grades(found: Iterable[dict[str, Any]]) -> str:
    """The table of grades as CSV. No text of a student's is in it, and no cell is a formula."""
    found = list(found)
    names = list(dict.fromkeys(n for record in found for n in exercise_names(record)))
    columns = "assignment student_id status score max_score".split()
    columns += [f"{name}.{part}" for name in names for part in ("public", "hidden")]
    columns += "flags submission_sha256 spec_sha256 seed grader_version".split()
    rows = [columns]
    for record in found:
        parts = [
            record["exercises"].get(name, {}).get(p) for name in names for p in ("public", "hidden")
        ]
        flags = sorted({flag.split(":")[0] for flag in record["flags"]})
        row = [record["assignment"], record["student"], record["status"], score(record)]
        row += [len(names), *("" if part is None else int(part) for part in parts), " ".join(flags)]
        row += [record[key] for key in ("sha256", "spec", "seed", "version")]
        rows.append([cell(value) for value in row])
    return table(rows)


def table(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def exercise_names(record: dict[str, Any]) -> list[str]:
    """The names of the exercises of a record's assignment."""
    names = [exercise.name for exercise in assignments()[record["assignment"]]]
    return [*names, "leaderboard"] if record["assignment"] == PRACTICAL else names


def score(record: dict[str, Any]) -> int | None:
    """How many exercises are solved; None unless the submission was graded."""
    if record["status"] != "graded":
        return None
    return sum(map(solved, record["exercises"].values()))


def solved(part: dict[str, Any]) -> bool:
    """Whether an exercise is solved: every property holds, on public inputs and on hidden ones."""
    return bool(part["public"] and part["hidden"])


def cell(value: Any) -> str:
    """A value as a cell of a table, and never as a formula of a spreadsheet."""
    text = "" if value is None else str(value)
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def merge(parts: Iterable[Path], results: Path) -> None:
    """Put the results of several shards into one folder.

    Raises:
        Unusable: shards of different runs, or one that has not come to its end.
    """
    parts = list(parts)
    heads = [Settings.read(part / "run.json") for part in parts]
    for part, head in zip(parts, heads, strict=True):
        if other := _difference(heads[0], head):
            raise Unusable(f"{part} is a part of another run: it has another {other}.")
        if not (part / "grades.csv").exists():
            raise Unusable(f"{part} is not finished: run it again with --resume.")
    if (results / "run.json").exists():
        raise Unusable(f"{results} holds a run already: choose another folder.")
    found = [record for part in parts for record in latest(part)]
    results.mkdir(parents=True, exist_ok=True)
    _replace(results / "results.jsonl", "".join(json.dumps(record) + "\n" for record in found))
    _replace(results / "run.json", json.dumps(heads[0].shared()))
    write_grades(results)
