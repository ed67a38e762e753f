"""One call of an answer, and what a property asks for that the call did not give."""

import contextlib
import copy
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from course_lib.exercises.accept import Unreadable, plain_data, precision
from course_lib.exercises.exercise import (
    REFUSES,
    RUNS,
    UNCHANGED,
    Exercise,
    OutOfTime,
    Property,
    Slope,
)

LONGEST_TEXT = 2000  # characters of any text that comes from the student's code


@dataclass
class Call:
    """One call of a function: what went in, what came out."""

    inputs: tuple
    after: tuple  #: the inputs as the call left them
    returned: Any = None
    plain: Any = None  #: what was returned as plain data (``accept.plain_data``)
    error: BaseException | None = None
    printed: str = ""
    unreadable: str | None = None  #: what an answer must be that cannot become plain data


def call(function: Callable, inputs: tuple) -> Call:
    """Call ``function`` on copies of ``inputs``; what it raises or prints is kept, not shown.

    Raises:
        KeyboardInterrupt, OutOfTime: and nothing else. Even ``exit()`` is kept.
    """
    copies = copy.deepcopy(inputs)
    made = Call(inputs, copies)
    with captured(made):
        try:
            made.returned = function(*copies)
        except (KeyboardInterrupt, OutOfTime):
            raise
        except BaseException as error:  # noqa: BLE001 (even exit())
            made.error = error
    try:
        made.plain = plain_data(made.returned, precision(inputs) if inputs else None)
    except Unreadable as error:
        made.unreadable = str(error)
    return made


@contextlib.contextmanager
def captured(made: Call) -> Iterator[None]:
    """Within the block, everything that Python prints goes to ``made.printed``."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            yield
        finally:
            made.printed += text.getvalue()


def unmet(prop: Property, made: Call, must_raise: bool) -> str | None:
    """What ``prop`` asks for that the call did not give; None if it holds."""
    if prop is RUNS:
        return None if must_raise or made.error is None else "an answer, not an exception"
    if prop is REFUSES:
        refused = isinstance(made.error, ValueError)
        return "a ValueError, because no answer exists here" if must_raise and not refused else None
    if prop is UNCHANGED:
        return None if same(made.inputs, made.after) else "its input as it was before the call"
    if must_raise:
        return None
    if made.unreadable:
        return made.unreadable
    with captured(made):  # a property may call a function that was returned
        try:
            if isinstance(prop, Slope):
                return _unmet_slope(prop, made)
            return prop.demand(made.plain, *made.inputs)
        except (KeyboardInterrupt, OutOfTime):
            raise
        except BaseException as error:  # noqa: BLE001 (a returned function may raise anything)
            return f"an answer that can be examined; here that raised {in_words(error)}"


def _unmet_slope(prop: Slope, made: Call) -> str | None:
    leaves = [x for x in made.after if isinstance(x, Tensor) and x.requires_grad]
    if not leaves:
        return None
    if not (isinstance(made.returned, Tensor) and made.returned.requires_grad):
        return "a tensor that torch can take the gradient of; this answer has none"
    slopes = torch.autograd.grad(made.returned, leaves, allow_unused=True, materialize_grads=True)
    return prop.demand(slopes, *made.inputs)


def in_words(error: BaseException) -> str:
    """The error's type and message as plain text; a message that raises is left out."""
    try:
        return plain(f"{type(error).__name__}: {error}")
    except (KeyboardInterrupt, OutOfTime):
        raise
    except BaseException:  # noqa: BLE001 (the error's own __str__)
        return "An error that cannot be shown"


def plain(text: str) -> str:
    """Text from the student's code, without control characters and at most 2 kB long."""
    cut = text[:LONGEST_TEXT] + (" … (cut)" if len(text) > LONGEST_TEXT else "")
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in cut
    )


def first_unmet(exercise: Exercise, made: Call) -> str | None:
    """What the first property of ``exercise`` that the call breaks asks for; None if all hold."""
    must_raise = exercise.refuses(*made.inputs)
    for prop in (RUNS, *exercise.properties):
        if demand := unmet(prop, made, must_raise):
            return demand
    return None


def same(before: Any, after: Any) -> bool:
    """Whether two inputs are equal, tensors entry by entry and dicts in order."""
    if type(before) is not type(after):
        return False
    if isinstance(before, Tensor):
        return _state(before) == _state(after) and torch.equal(before, after)
    if isinstance(before, dict):
        return list(before) == list(after) and all(same(before[k], after[k]) for k in before)
    if isinstance(before, tuple | list):
        return len(before) == len(after) and all(map(same, before, after))
    return before == after


def _state(tensor: Tensor) -> tuple:
    return tensor.dtype, tensor.layout, tensor.device, tensor.shape
