"""Instant feedback for the exercises: ``check("magnitude_mask", magnitude_mask)``."""

import os
from collections.abc import Callable

from course_lib.exercises import EXERCISES
from course_lib.exercises.accept import plain_data, precision
from course_lib.grading.checks import CheckFailed, Result, run

__all__ = ["carry_on", "check"]


def check(name: str, function: Callable) -> Result:
    """Try ``function``, an answer to the exercise ``name``, on inputs from tiny to large.

    The result shows which properties hold. For the first one that does not, it shows an input on
    which it fails. The function runs in the reader's own kernel and can do whatever the reader can.
    Settings and functions of PyTorch and NumPy that it changes are put back and named. It is
    interrupted after 20 seconds, and by Ctrl-C at any time; on Windows and outside the main thread
    there is no such limit. On Linux, a request for gigabytes of memory is an error.

    Raises:
        ValueError: an unknown name.
        TypeError: ``function`` cannot be called.
        CheckFailed: the check failed, where nbgrader executes the notebook; nowhere else.

    Examples:
        >>> import torch
        >>> def magnitude_mask(weight, sparsity):
        ...     return weight.abs() > weight.abs().quantile(sparsity)
        >>> check("magnitude_mask", magnitude_mask).passed
        False
    """
    graded = os.environ.get("NBGRADER_EXECUTION")  # before the answer runs, which could delete it
    result = _checked(name, function)
    if graded and not result.passed:
        raise CheckFailed(str(result))
    return result


def _checked(name: str, function: Callable) -> Result:
    if name not in EXERCISES:
        raise ValueError(f"name: no exercise {name!r}; there are {', '.join(EXERCISES)}")
    if not callable(function):
        raise TypeError(
            f"function: expected the function itself, as in check({name!r}, "
            f"{EXERCISES[name].function}), got a value of type {type(function).__name__}"
        )
    return run(EXERCISES[name], function)


def carry_on(name: str, function: Callable) -> Callable:
    """``function`` if it passes the check of the exercise ``name``, else the course's own answer.

    What your function returns reaches the next cells as the check saw it, as plain data: NumPy's arrays
    are tensors there. A line says which of the two the next cells use, so a notebook runs to its end, whatever is solved.

    Raises:
        ValueError, TypeError: as ``check``; an exercise without an answer of the course's.

    Examples:
        >>> import torch
        >>> mine = carry_on("conv_bn_relu", lambda x, weight, norm: x)
        conv_bn_relu is not solved yet: from here on the course's version is used.
    """
    expected = EXERCISES[name].expected if name in EXERCISES else None
    if name in EXERCISES and expected is None:
        raise ValueError(f"name: the exercise {name!r} has no answer to carry on with")
    if _checked(name, function).passed:
        print(f"{name} is solved: from here on your version is used.")
        return lambda *inputs: plain_data(function(*inputs), precision(inputs))
    print(f"{name} is not solved yet: from here on the course's version is used.")
    return expected  # pyright: ignore
