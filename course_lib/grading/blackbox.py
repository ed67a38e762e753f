"""Grade one notebook: its functions run in the sandbox, and everything else happens outside.

The judges are those of ``check``. First come the inputs on which a student's own ``check`` ran, and
then inputs that nobody has seen. An exercise is solved if every property holds on all of them, so
whoever returns the right output has solved it, by whatever means, and a lookup table has not.
"""

import builtins
import copy
import hashlib
import keyword
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from course_lib.exercises.calls import call, in_words, plain, same
from course_lib.exercises.exercise import IN_TIME, RUNS, Exercise, OutOfTime, show
from course_lib.grading import checks, sandbox, wire
from course_lib.grading.checks import Progress, Result
from course_lib.grading.extract import Answers
from course_lib.grading.hidden import fresh
from course_lib.grading.sandbox import Child, Ended, Sandbox, TimeUp
from course_lib.grading.session import memory_limit, time_limit

checks.MACHINE |= {__file__, sandbox.__file__, wire.__file__}
_LARGEST_QUESTION = 4_000_000  # bytes that an answer may hand to one of our functions
_MOST_QUESTIONS = 20_000  # of one exercise
_REMEMBERED = 64  # replies per case
_AT_ONCE = 32_000  # bytes, which a socket takes without waiting for the other side
_SLOWER = 10  # times our own answer may a student's be
_AHEAD = 4, 1_024  # answers that go unasked with a case, and the most with any message
_HIDDEN = 24  # inputs at most: a table of the public ones knows none of them


@dataclass
class Case:
    """One input of an exercise, and the replies to it that were found right.

    ``packed`` is what is sent before its answer is read: it and the cases that are asked with it, or
    nothing where it was asked with an earlier one.
    """

    inputs: tuple
    number: int
    packed: bytes
    functions: list[Callable]
    right: set[bytes] = field(default_factory=set)


@dataclass(frozen=True)
class Plan:
    """An exercise and its inputs for one run: the public ones, and those nobody has seen.

    An answer may compute for ``seconds`` if those are more than the sandbox's own.
    """

    exercise: Exercise
    public: tuple[Case, ...]
    hidden: tuple[Case, ...]
    seconds: int = 0


def plan(exercise: Exercise, seed: int) -> Plan:
    """Pack the exercise's inputs; hidden are some of those drawn from ``seed`` that are not public."""
    known = list(exercise.cases())
    drawn = [inputs for inputs in fresh(exercise, seed) if not any(same(inputs, k) for k in known)]
    if len(drawn) > _HIDDEN:
        some = random.Random(seed).sample(range(len(drawn)), _HIDDEN)
        drawn = [drawn[position] for position in sorted(some)]
    public = [_packed(exercise, inputs, number) for number, inputs in enumerate(known, 1)]
    start = len(public) + 1
    hidden = [_packed(exercise, inputs, number) for number, inputs in enumerate(drawn, start)]
    return Plan(exercise, _together(public), _together(hidden), _seconds(exercise, known + drawn))


def _seconds(exercise: Exercise, cases: list[tuple]) -> int:
    """Ten times what our own answer computes here and now, so that a slow machine harms nobody."""
    if exercise.expected is None:
        return 0
    began = time.process_time()
    for inputs in cases:
        call(exercise.expected, inputs)
    return math.ceil(_SLOWER * (time.process_time() - began))


def _together(cases: list[Case]) -> tuple[Case, ...]:
    """The same cases, asked many at a time; one whose functions are called back is asked alone."""
    first = None
    for case in cases:
        fits = first and len(first.packed) + len(case.packed) <= _AT_ONCE
        if case.functions:
            first = None
        elif first and fits:
            first.packed, case.packed = first.packed + case.packed, b""
        else:
            first = case
    return tuple(cases)


def _packed(exercise: Exercise, inputs: tuple, number: int) -> Case:
    functions: list[Callable] = []
    question = {"id": number, "call": exercise.function, "args": list(inputs)}
    return Case(inputs, number, wire.pack(question, functions), functions)


def grade(box: Sandbox, plan: Plan, answers: Answers) -> dict[str, Any]:
    """What one notebook is worth in one exercise, as data that JSON can hold.

    ``public`` and ``hidden`` say whether every property holds on these inputs. ``hidden`` is None
    where it was not tried, because public inputs failed. ``report`` is what ``check`` would print.

    Raises:
        Gone: the sandbox has ended; no fault of the notebook's.
    """
    name = plan.exercise.function
    if name in answers.absent:
        return _record(False, None, f"{name} was not found: {answers.absent[name]}.")
    with box.fork(plan.seconds) as child:
        attempt = _Attempt(child, plan.exercise)
        notes = attempt.load(answers)
        public = attempt.judge(plan.public, notes)
        hidden = None
        if public.passed:
            hidden = attempt.judge(plan.hidden, notes) if plan.hidden else public
    last = public if hidden is None else hidden
    record = _record(public.passed, hidden and hidden.passed, str(last), last)
    return record | {"seconds": child.used.seconds if child.used else 0.0}


def _record(public: bool, hidden: bool | None, words: str, found: Result | None = None) -> dict:
    broken = found.broken if found else None
    return {
        "public": public,
        "hidden": hidden,
        "report": plain(words.removesuffix(checks.CLOSING).rstrip()),
        "property": broken.says if broken else None,
        "facts": [list(fact) for fact in found.facts] if found else [],
        "stub": bool(found and found.stub),
        "seconds": 0.0,
    }


class _Attempt:
    """The calls of one exercise in one fork."""

    def __init__(self, child: Child, exercise: Exercise) -> None:
        self.child, self.exercise = child, exercise
        self.questions, self.raised = 0, list[BaseException]()
        self.failed: BaseException | None = None  # before the first call
        self.script: list[tuple[str, dict]] = []  # our functions' questions in the case before
        self.first = _AHEAD[0]  # of them, how many are answered with the next case

    def load(self, answers: Answers) -> tuple[str, ...]:
        """Load the definitions; the notes say which of them failed."""
        statements = [
            [s.cell, s.line, s.source] for s in answers.statements[self.exercise.function]
        ]
        try:
            reply = wire.unpack(*self.child.answer({"id": 0, "load": statements}))
            errors = [_words_of(error) for error in reply["errors"][:5]]
        except (KeyError, TypeError, AttributeError):
            self.failed = wire.Violation("an answer to a question that was not asked")
            return ()
        except (Ended, TimeUp, wire.Violation) as error:
            self.failed = error
            return ()
        return tuple(f"When your notebook was read: {words}" for words in errors)

    def judge(self, cases: tuple[Case, ...], notes: tuple[str, ...]) -> Result:
        """What ``check`` would say about these inputs."""
        done = Progress((RUNS, *self.exercise.properties))
        try:
            with memory_limit(), time_limit(4 * self.child.most, patience=math.inf):
                for case in cases:
                    done.inputs, done.tried = case.inputs, done.tried + 1
                    self._try(case, done)
                    if not done.holds:
                        break
        except (OutOfTime, TimeUp):
            limit = f"all answers within {self.child.most:g} seconds; this is input {done.tried}"
            shown = f"{self.exercise.function}({', '.join(map(show, done.inputs))})"
            done.broken, done.holds = IN_TIME, ()
            done.facts = (("Input", shown), ("Expected", limit))
        return Result(
            self.exercise, done.tried, done.holds, done.broken, done.facts, done.stub, notes
        )

    def _try(self, case: Case, done: Progress) -> None:
        """Ask about one case and weigh the reply, unless it is one that is known to be right."""
        whole, before, digest = len(done.holds), done.broken, b""
        try:
            frame = self._asked(case)
        except (Ended, wire.Violation) as error:
            made = call(_raises(error), case.inputs)
        else:
            digest = hashlib.sha256(b"%d " % len(frame[0]) + frame[0] + frame[1]).digest()
            if digest in case.right:
                return
            made = call(lambda *copies: self._returned(frame, case, copies), case.inputs)
        checks.weigh(self.exercise, made, done)
        nothing_new = len(done.holds) == whole == len(self.exercise.properties) + 1
        if digest and nothing_new and done.broken is before and len(case.right) < _REMEMBERED:
            case.right.add(digest)

    def _asked(self, case: Case) -> tuple[bytes, bytes]:
        """The reply to a case; until it comes, the answer may call the functions it was given."""
        if self.failed:
            raise self.failed
        if not case.functions:
            return self.child.ask(case.packed)
        functions = copy.deepcopy(case.functions)  # some of them count their calls
        at, most, said = 0, self.first, case.packed
        while True:
            known = self.script[at : at + most]
            kept = copy.deepcopy(functions) if known else functions
            marks, told = self._ahead(known, functions)
            frame = self.child.ask(marks + said + b"".join(told))
            message = wire.unpack(*frame)
            if "ask" not in message or message.get("id") != case.number:
                return frame
            used = self._used(message, frame, len(told))
            if used < len(told):  # our functions have answered what was not asked
                functions = kept
                for _, question in known[:used]:
                    self._told(question, functions)
            said = self._told(message, functions)
            self._remember(at + used, frame, message)
            at, most = at + used + 1, min(2 * most, _AHEAD[1])

    def _ahead(self, known: list[tuple], functions: list[Callable]) -> tuple[bytes, list[bytes]]:
        """Answers to questions that were asked about the case before, and a frame of their marks.

        Most answers to a bug hunt ask the same of every function. Waiting for each question takes
        longer than answering it, so these answers go along; those that fit in ``_AT_ONCE``.
        """
        told, size = [], 0
        for _, question in known:
            told.append(self._told(question, functions))
            size += len(told[-1])
            if size > _AT_ONCE:
                break
        marks = [mark for mark, _ in known[: len(told)]]
        return wire.pack({"ahead": marks}) if marks else b"", told

    def _used(self, message: dict[str, Any], frame: tuple[bytes, bytes], most: int) -> int:
        """How many of ``most`` answers that went ahead were of use before this question."""
        used = message.get("used")
        if type(used) is not int or not 0 <= used <= most:
            raise wire.Violation("a call of a function that cannot be read")
        self.questions += used + 1
        if self.questions > _MOST_QUESTIONS or len(frame[1]) > _LARGEST_QUESTION:
            raise wire.Violation("too many or too large calls of the function it was given")
        return used

    def _remember(self, at: int, frame: tuple[bytes, bytes], question: dict[str, Any]) -> None:
        """Note question number ``at`` of a case, which may be asked about the next one, too."""
        if not self.first:
            return
        mark = wire.mark(*frame)
        if at < len(self.script) and self.script[at][0] != mark:
            del self.script[at:]
            self.first = _AHEAD[0] if at else 0  # each case is asked something else
        if at == len(self.script) < _AHEAD[1] and sum(map(len, frame)) <= _AT_ONCE:
            self.script.append((mark, question))

    def _told(self, question: dict[str, Any], functions: list[Callable]) -> bytes:
        """Call one of our functions for the answer, and pack what it returned."""
        try:
            function = functions[question["ask"]]
            before, named = list(question["args"]), dict(question["named"])
        except (LookupError, TypeError, ValueError):
            raise wire.Violation("a call of a function that there is not") from None
        args, named = wire.copied(before), wire.copied(named)
        reply: dict[str, Any] = {"id": 0}
        try:
            reply["returned"] = function(*args, **named)
        except Exception as error:  # noqa: BLE001 (a wrong function may raise anything)
            self.raised.append(error)
            reply |= {"raised": wire.built_in(error), "text": in_words(error)[:500]}
            reply["number"] = len(self.raised) - 1
        return wire.pack(reply | {"after": None if wire.same(before, args) else args})

    def _returned(self, frame: tuple[bytes, bytes], case: Case, copies: tuple) -> Any:
        """Return or raise what the answer did, and leave ``copies`` as it left its inputs.

        Raises:
            wire.Violation: a reply that is none.
        """
        reply = wire.unpack(*frame)
        if reply.get("id") != case.number:
            raise wire.Violation("an answer to a question that was not asked")
        if "refused" in reply:
            raise wire.Violation(f"{reply['refused']}"[:200])
        after = reply.get("after")
        try:
            if after is not None:
                wire.put_back(copies, tuple(after))
        except Exception:  # noqa: BLE001 (shapes and types that do not fit)
            raise wire.Violation("inputs that cannot be read") from None
        if isinstance(reply.get("printed"), str):
            print(reply["printed"], end="")
        if "returned" in reply:
            return _with_slopes(reply["returned"], reply.get("slopes"), copies)
        error = reply.get("raised")
        if not isinstance(error, dict):
            raise wire.Violation("a reply that cannot be read")
        number = error.get("number")
        if type(number) is int and 0 <= number < len(self.raised):
            raise self.raised[number]
        raise _error(error)


def _raises(error: BaseException) -> Callable:
    def remote(*_: Any) -> None:
        raise error

    return remote


class _Joined(torch.autograd.Function):
    """A value that was computed elsewhere, joined to its inputs by the gradient computed there."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slopes: list[Tensor], *leaves: Tensor) -> Tensor:
        """Give the value."""
        ctx.slopes = slopes
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> Any:
        """Give the gradients."""
        return None, None, *(incoming[0] * slope for slope in ctx.slopes)


def _with_slopes(value: Any, slopes: Any, copies: tuple) -> Any:
    """What was returned, so that its gradient can be asked for if the answer had one."""
    leaves = [x for x in copies if isinstance(x, Tensor) and x.requires_grad]
    if not isinstance(value, Tensor) or not isinstance(slopes, list):
        return value
    fits = [type(s) is Tensor and s.shape == x.shape for s, x in zip(slopes, leaves, strict=False)]
    if value.numel() != 1 or len(slopes) != len(leaves) or not all(fits):
        return value
    return _Joined.apply(value.detach(), slopes, *leaves)


def _words_of(error: dict[str, Any]) -> str:
    """An error of the student's code in words, with its line."""
    return plain("\n".join(str(error.get(part, "")) for part in ("text", "line")).strip())


def _error(error: dict[str, Any]) -> BaseException:
    """An exception of our own that has the kind and the words of the one in the sandbox."""
    base = getattr(builtins, str(error.get("kind")), None)
    kind: type[BaseException] = Ended  # also for KeyboardInterrupt, which would stop the grader
    if isinstance(base, type) and issubclass(base, Exception | SystemExit):
        kind = base
    name, _, _ = str(error.get("text")).partition(": ")
    words = _words_of(error)
    named = name.isidentifier() and not keyword.iskeyword(name)
    members = {
        "__init__": lambda self: None,
        "__str__": lambda self: words.removeprefix(f"{name}: "),
        "__module__": "answer",
    }
    made: Any = type(name[:80] if named else "Error", (kind,), members)
    return made()
