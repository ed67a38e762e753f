"""The check runner: try a function on many inputs and explain the first property that fails.

Small inputs come first, so the counterexample that is shown is a small one. An exercise is data
(``exercises.exercise``).
"""

import html
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from course_lib.exercises import calls
from course_lib.exercises.accept import plain_data, precision
from course_lib.exercises.calls import Call, call, in_words, plain, same, unmet
from course_lib.exercises.common import peculiar
from course_lib.exercises.exercise import (
    ANSWERS,
    IN_MEMORY,
    IN_TIME,
    LEGAL,
    REFUSES,
    RUNS,
    Candidate,
    Exercise,
    OutOfTime,
    Property,
    show,
)
from course_lib.grading.session import memory_limit, standard_session, time_limit

SECONDS = 20  # that an answer may take for all inputs together
MACHINE = {__file__, calls.__file__}  # files whose lines are nobody's answer
_WORDS = ("Numbers", "Expected")  # facts that are no code
CLOSING = "Public checks only; grading uses other inputs."


class CheckFailed(AssertionError):
    """A failed check under nbgrader; notebooks show its message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


@dataclass(frozen=True, repr=False)
class Result:
    """What a check found, printed as plain text and, in a notebook, as HTML.

    ``broken`` is the first property that fails, and ``facts`` is the counterexample: (label, text).
    ``notes`` say what the answer did to the session.
    """

    exercise: Exercise
    inputs_tried: int
    holds: tuple[Property, ...] = ()
    broken: Property | None = None
    facts: tuple[tuple[str, str], ...] = ()
    stub: bool = False
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True when every property held on every input."""
        return self.broken is None and not self.stub

    def _headline(self) -> str:
        name = self.exercise.name
        if self.stub:
            return f"{name}: nothing to check yet"
        if self.passed:
            tried = "its input" if self.inputs_tried == 1 else f"all {self.inputs_tried} inputs"
            return f"{name}: passed, every property holds on {tried}"
        total = len(self.exercise.properties) + 1
        return f"{name}: not yet, {len(self.holds)} of {total} properties hold so far"

    def _advice(self) -> list[tuple[str, str]]:
        notes = [("Note", note) for note in self.notes]
        if self.stub:
            return [
                ("Next", f"fill in the body of {self.exercise.signature} and run this cell again."),
                ("Already filled in", "is a return missing, or a NotImplementedError left over?"),
                ("Reread", self.exercise.section),
            ]
        if self.broken is None:
            return notes
        return [("Hint", self.broken.hint), ("Reread", self.exercise.section), *notes]

    def __str__(self) -> str:
        lines = [self._headline()]
        lines += [f"  holds: {prop.says}" for prop in self.holds]
        if self.broken:
            lines.append(f"  FAILS: {self.broken.says}")
        for label, text in self.facts:
            indented = text.replace("\n", "\n" + " " * 15)
            lines.append(f"    {label + ':':<10} {indented}")
        lines += [f"  {label}: {text}" for label, text in self._advice()]
        return "\n".join([*lines, f"  {CLOSING}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        says = html.escape
        items = [f"<li>holds: {says(prop.says)}</li>" for prop in self.holds]
        if self.broken:
            items.append(f"<li><strong>fails: {says(self.broken.says)}</strong></li>")
        code = "<code style='white-space:pre-wrap;overflow-wrap:anywhere'>{}</code>"
        facts = "".join(
            f"<dt>{label}</dt><dd>{('{}' if label in _WORDS else code).format(says(text))}</dd>"
            for label, text in self.facts
        )
        advice = "".join(
            f"<p><strong>{says(label)}:</strong> {says(text)}</p>" for label, text in self._advice()
        )
        return (
            f"<div class='course-check' role='group' aria-label='Check of {says(self.exercise.name)}' "
            "style='border-left:.25em solid;padding-left:1em'>"
            f"<p><strong>{says(self._headline())}</strong></p>"
            + (f"<ul>{''.join(items)}</ul>" if items else "")
            + (f"<dl>{facts}</dl>" if facts else "")
            + f"{advice}<p><small>{CLOSING}</small></p></div>"
        )


@dataclass
class Progress:
    """How far a check has come; ``weigh`` takes it further."""

    holds: tuple[Property, ...]  # on the inputs tried so far, or up to the one that is broken
    inputs: tuple = ()
    tried: int = 0
    stub: bool = False
    broken: Property | None = None
    facts: tuple[tuple[str, str], ...] = ()


def run(exercise: Exercise, function: Callable, *, seconds: float = SECONDS) -> Result:
    """Call ``function`` on every case and report the first of the properties that fails."""
    done, changed = Progress((RUNS, *exercise.properties)), dict[str, None]()
    with standard_session() as tidy:
        unusual = tidy()

        def tidied(answer: Callable) -> Callable:
            """``answer``, and after each call the session as it was before."""

            def called(*inputs: Any, **named: Any) -> Any:
                try:
                    return answer(*inputs, **named)
                finally:
                    changed.update(dict.fromkeys(tidy()))

            return called

        try:
            with memory_limit(), time_limit(seconds) as limited:
                _try_all(exercise, function, tidied, done)
        except OutOfTime:
            done.broken, done.holds = IN_TIME, ()
            late = f"all answers within {seconds:g} seconds; this is input {done.tried}"
            done.facts = (("Input", _typed(exercise, done.inputs)), ("Expected", late))
            limited = True
    return Result(
        exercise,
        done.tried,
        done.holds,
        done.broken,
        done.facts,
        done.stub,
        notes=_notes(unusual, list(changed), limited),
    )


def _try_all(exercise: Exercise, function: Callable, tidied: Callable, done: Progress) -> None:
    """Call ``function`` on the cases as long as a property can still fail; ``done`` is filled in."""
    for inputs in exercise.cases():
        done.inputs = inputs
        done.tried += 1
        made = call(tidied(function), inputs)
        if callable(made.plain) and not issubclass(type(made.plain), type):
            # The answer is a function itself, and a property will call it.
            made.plain = _gives_plain_data(tidied(made.plain))
        weigh(exercise, made, done)
        if not done.holds:
            return


def weigh(exercise: Exercise, made: Call, done: Progress) -> None:
    """Find the first property in ``done.holds`` that this call breaks, and keep those before it."""
    if done.tried == 1 and _is_stub(made):
        done.stub, done.holds = True, ()
        return
    if exercise.candidates:
        _settle_crash(exercise, made)
    must_raise = exercise.refuses(*made.inputs)
    for index, prop in enumerate(done.holds):
        if demand := unmet(prop, made, must_raise):
            # Later cases can now only matter for the properties before this one.
            done.broken, demand = _diagnosis(exercise, prop, made, demand)
            done.holds, done.facts = done.holds[:index], _facts(exercise, made, demand)
            return


def _gives_plain_data(function: Callable) -> Callable:
    return lambda *inputs, **named: plain_data(function(*inputs, **named), precision(inputs))


def _settle_crash(exercise: Exercise, made: Call) -> None:
    """An error while a wrong function is tried, its own or the comparison's, refuses that function.

    A misspelt name is the reader's own mistake and stays an error.
    """
    wrong = any(c.function is made.inputs[0] and not c.right for c in exercise.candidates)
    if wrong and isinstance(made.error, Exception) and not isinstance(made.error, NameError):
        made.error, made.returned, made.plain = None, False, False


def _crashed(exercise: Exercise, error: BaseException | None) -> Candidate | None:
    """The candidate whose code raised ``error``, or None if it came from somewhere else."""
    frames = traceback.walk_tb(error.__traceback__) if error else ()
    codes = {frame.f_code for frame, _ in frames}
    return next((c for c in exercise.candidates if c.function.__code__ in codes), None)


def _diagnosis(exercise: Exercise, prop: Property, made: Call, demand: str) -> tuple[Property, str]:
    """The property to name and what to ask for: an error has more than one possible cause."""
    error = made.error
    if prop is not RUNS or error is None:
        return prop, demand
    if isinstance(error, MemoryError) or "can't allocate memory" in in_words(error):
        return IN_MEMORY, "an answer that fits into the memory"
    if _crashed(exercise, error):
        return LEGAL, "your test to call this function only with inputs that the statement allows"
    if isinstance(error, ValueError) and REFUSES in exercise.properties:
        told = f": {show(exercise.expected(*made.inputs))}" if exercise.expected else ""
        return ANSWERS, f"an answer, because there is one here{told}"
    return RUNS, demand


def _notes(unusual: list[str], changed: list[str], limited: bool) -> tuple[str, ...]:
    """What the reader should know about the session."""
    found = [
        (unusual, "Not as usual in this session: {}. The check used the usual."),
        (changed, "Your function changed {}. The check put it back after each call."),
    ]
    notes = [says.format(_listed(names)) for names, says in found if names]
    if not limited:
        notes.append("Here nothing stops a function that never ends: interrupt it by hand.")
    return tuple(notes)


def _listed(names: list[str]) -> str:
    """The names in words; of many, the first."""
    more = [f"{len(names) - 6} more"] if len(names) > 6 else []
    *first, last = [*names[:6], *more]
    return f"{', '.join(first)} and {last}" if first else last


def _is_stub(made: Call) -> bool:
    """Whether the body is still empty: ``...``, ``pass`` or NotImplementedError."""
    if made.error is not None:
        return isinstance(made.error, NotImplementedError)
    return made.returned is None or made.returned is ...


def _facts(exercise: Exercise, made: Call, demand: str) -> tuple[tuple[str, str], ...]:
    """The counterexample as (label, text) pairs; ``plain`` cleans text from the student's code."""
    facts = [("Input", _typed(exercise, made.inputs))]
    if numbers := peculiar(made.inputs):
        facts.append(("Numbers", numbers))
    if made.error is None:
        facts.append(("Returned", plain(show(made.returned))))
    else:
        facts.append(("Raised", plain(_error_in_words(made.error))))
    if not same(made.inputs, made.after):
        facts.append(("Then", f"the input had become {plain(', '.join(map(show, made.after)))}"))
    facts.append(("Expected", plain(demand)))
    if made.printed:
        facts.append(("Printed", plain(made.printed.rstrip())))
    return tuple(facts)


def _typed(exercise: Exercise, inputs: tuple) -> str:
    """The call as one would type it."""
    return f"{exercise.function}({', '.join(map(show, inputs))})"


def _error_in_words(error: BaseException) -> str:
    """The error, and the last line of the student's own code in its traceback."""
    words = in_words(error)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename not in MACHINE]
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f"{words}\nin line {own[-1].lineno} of your code: {own[-1].line}" if own else words
