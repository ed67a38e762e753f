"""The check runner: try a function on many inputs and explain the first property that fails.

Small inputs come first, so the counterexample that is shown is a small one. An exercise is data
(``exercises.exercise``).
"""

import contextlib
import html
import random
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from course_lib.exercises.calls import Call, call, in_words, plain, same, unmet
from course_lib.exercises.exercise import RUNS, Exercise, Property, show

CLOSING = "Public checks only; grading uses other inputs."


class CheckFailed(AssertionError):
    """A failed check under nbgrader; notebooks show its message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


@dataclass(frozen=True, repr=False)
class Result:
    """What a check found, printed as plain text and, in a notebook, as HTML.

    ``broken`` is the first property that fails, and ``facts`` is the counterexample: (label, text).
    """

    exercise: Exercise
    inputs_tried: int
    holds: tuple[Property, ...] = ()
    broken: Property | None = None
    facts: tuple[tuple[str, str], ...] = ()
    stub: bool = False

    @property
    def passed(self) -> bool:
        """True when every property held on every input."""
        return self.broken is None and not self.stub

    def _headline(self) -> str:
        name = self.exercise.name
        if self.stub:
            return f"{name}: nothing to check yet"
        if self.passed:
            return f"{name}: passed, every property holds on all {self.inputs_tried} inputs"
        total = len(self.exercise.properties) + 1
        return f"{name}: not yet, {len(self.holds)} of {total} properties hold so far"

    def _advice(self) -> list[tuple[str, str]]:
        if self.stub:
            return [
                ("Next", f"fill in the body of {self.exercise.signature} and run this cell again."),
                ("Already filled in", "is a return missing, or a NotImplementedError left over?"),
                ("Reread", self.exercise.section),
            ]
        if self.broken is None:
            return []
        return [("Hint", self.broken.hint), ("Reread", self.exercise.section)]

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
            f"<dt>{label}</dt><dd>{('{}' if label == 'Expected' else code).format(says(text))}</dd>"
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


def run(exercise: Exercise, function: Callable) -> Result:
    """Call ``function`` on every case and report the first of the properties that fails."""
    properties = (RUNS, *exercise.properties)
    broken, facts, tried = None, (), 0
    with _own_random_numbers():
        for inputs in exercise.cases():
            made = call(function, inputs)
            tried += 1
            if tried == 1 and _is_stub(made):
                return Result(exercise, tried, stub=True)
            for index, prop in enumerate(properties):
                if demand := unmet(prop, made, exercise.refuses(*inputs)):
                    # Later cases can now only matter for the properties before this one.
                    properties, broken = properties[:index], prop
                    facts = _facts(exercise, made, demand)
                    break
            if not properties:
                break
    return Result(exercise, tried, properties, broken, facts)


def _is_stub(made: Call) -> bool:
    """Whether the body is still empty: ``...``, ``pass`` or NotImplementedError."""
    if made.error is not None:
        return isinstance(made.error, NotImplementedError)
    return made.returned is None or made.returned is ...


def _facts(exercise: Exercise, made: Call, demand: str) -> tuple[tuple[str, str], ...]:
    """The counterexample as (label, text) pairs; ``plain`` cleans text from the student's code."""
    facts = [("Input", f"{exercise.function}({', '.join(map(show, made.inputs))})")]
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


def _error_in_words(error: BaseException) -> str:
    """The error, and the last line of the student's own code in its traceback."""
    words = in_words(error)
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first frame is `_call`
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f"{words}\nin line {own[-1].lineno} of your code: {own[-1].line}" if own else words


@contextlib.contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Within the block, the same random numbers in every check; the reader's generators keep
    their state."""
    python, numpy_ = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_)
