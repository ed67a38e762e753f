"""The check runner: try a function on many inputs and explain the first property that fails.

Inputs come small first, so the counterexample that is shown is about the smallest there is.
An exercise is data (`Exercise`, `Property`); the exercises themselves are in `exercises.py`.
"""

import contextlib
import copy
import html
import io
import random
import reprlib
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

LONGEST_TEXT = 2000  # characters of any text that comes from the student's code
LONGEST_TENSOR = 24  # entries; a larger tensor is described, not printed


@dataclass(frozen=True)
class Property:
    """One thing a right answer does.

    `demand(returned, *inputs)` is None where it holds, else what it asks for on this input, in
    words. It may assume the properties that stand before it, so the type of `returned` comes first.
    """

    says: str
    demand: Callable[..., str | None]
    hint: str


@dataclass(frozen=True)
class Exercise:
    """An exercise: `cases()` yields tuples of inputs, an ordinary one first, then by size.

    `refuses(*inputs)` is true for the inputs that must end in a ValueError.
    """

    name: str
    signature: str
    section: str
    cases: Callable[[], Iterable[tuple]]
    properties: tuple[Property, ...]
    refuses: Callable[..., bool] = lambda *inputs: False

    @property
    def function(self) -> str:
        """The function's name, from its signature."""
        return self.signature.split("(")[0]


# Three properties that are not about the returned value: `_demand` knows them.
RUNS = Property(
    "runs on every input",
    lambda *_: None,
    "Copy the call under “Input” into a cell of its own and run it: "
    "there you see the whole traceback.",
)
REFUSES = Property(
    "raises a ValueError where there is no answer",
    lambda *_: None,
    "Before you compute anything, ask whether an answer exists; if not, "
    "raise ValueError(...) with a message that says why.",
)
UNCHANGED = Property(
    "leaves its input as it was",
    lambda *_: None,
    "Look for an assignment into the input (x[...] = ...) or for a method that ends in an "
    "underscore (abs_, mul_): both change the caller's tensor. Work on a copy (x.clone()).",
)


@dataclass
class Call:
    """One call of the student's function: what went in, what came out."""

    inputs: tuple
    after: tuple  # the inputs as the call left them
    returned: Any = None
    error: BaseException | None = None
    printed: str = ""


@dataclass(frozen=True)
class Failure:
    """The first property that fails and the call that shows it, all in words."""

    broken: Property
    facts: tuple[tuple[str, str], ...]


class CheckFailed(AssertionError):
    """A failed check under nbgrader; notebooks show its message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


@dataclass(frozen=True, repr=False)
class Result:
    """What a check found; prints as plain words and, in a notebook, as HTML."""

    exercise: Exercise
    inputs_tried: int
    holds: tuple[Property, ...] = ()
    failure: Failure | None = None
    stub: bool = False

    @property
    def passed(self) -> bool:
        """True when every property held on every input."""
        return self.failure is None and not self.stub

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
                ("Already written?", "It returned nothing: is a return missing?"),
                ("Reread", self.exercise.section),
            ]
        if self.passed:
            return []
        return [("Hint", self.failure.broken.hint), ("Reread", self.exercise.section)]

    def __str__(self) -> str:
        lines = [self._headline()]
        lines += [f"  holds: {prop.says}" for prop in self.holds]
        if self.failure:
            lines.append(f"  FAILS: {self.failure.broken.says}")
            for label, text in self.failure.facts:
                indented = text.replace("\n", "\n" + " " * 15)
                lines.append(f"    {label + ':':<10} {indented}")
        lines += [f"  {label}: {text}" for label, text in self._advice()]
        return "\n".join([*lines, f"  {CLOSING}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        says = html.escape
        items = [f"<li>holds: {says(prop.says)}</li>" for prop in self.holds]
        if self.failure:
            items.append(f"<li><strong>fails: {says(self.failure.broken.says)}</strong></li>")
        facts = "".join(
            f"<dt>{says(label)}</dt><dd><code style='white-space:pre-wrap;overflow-wrap:anywhere'>"
            f"{says(text)}</code></dd>"
            for label, text in (self.failure.facts if self.failure else ())
        )
        advice = "".join(
            f"<p><strong>{says(label)}</strong> {says(text)}</p>" for label, text in self._advice()
        )
        return (
            f"<section class='course-check' aria-label='Check of {says(self.exercise.name)}' "
            "style='border-left:.25em solid;padding-left:1em'>"
            f"<p><strong>{says(self._headline())}</strong></p>"
            + (f"<ul>{''.join(items)}</ul>" if items else "")
            + (f"<dl>{facts}</dl>" if facts else "")
            + f"{advice}<p><small>{CLOSING}</small></p></section>"
        )


CLOSING = "Public checks only; grading uses other inputs."


def run(exercise: Exercise, function: Callable) -> Result:
    """Call `function` on every case and report the first property, in their order, that fails."""
    properties = (RUNS, *exercise.properties)
    failure, tried = None, 0
    with _own_random_numbers():
        for inputs in exercise.cases():
            call = _call(function, inputs)
            tried += 1
            if tried == 1 and _is_stub(call):
                return Result(exercise, tried, stub=True)
            for index, prop in enumerate(properties):
                if demand := _demand(prop, call, exercise.refuses(*inputs)):
                    # Later cases can now only matter for the properties before this one.
                    properties, failure = properties[:index], Failure(prop, _facts(call, demand))
                    break
    return Result(exercise, tried, properties, failure)


def _demand(prop: Property, call: Call, must_raise: bool) -> str | None:
    """What `prop` asks for that `call` did not give; None when it holds."""
    if prop is RUNS:
        return None if must_raise or call.error is None else "an answer, not an exception"
    if prop is REFUSES:
        refused = isinstance(call.error, ValueError)
        return "a ValueError: no answer exists here" if must_raise and not refused else None
    if prop is UNCHANGED:
        return None if _same(call.inputs, call.after) else "the input after the call as before it"
    return None if must_raise else prop.demand(call.returned, *call.inputs)
