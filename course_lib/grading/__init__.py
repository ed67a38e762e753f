"""Instant feedback for the exercises: `check("magnitude_mask", magnitude_mask)`."""

import os
from collections.abc import Callable

from course_lib.exercises import EXERCISES
from course_lib.grading.checks import CheckFailed, Result, run

__all__ = ["check"]


def check(name: str, function: Callable) -> Result:
    """Try `function`, an answer to the exercise `name`, on inputs from tiny to large.

    The result shows which properties hold and, for the first that does not, an input that shows it.
    It does not protect anyone from anything: the function runs here, in the reader's own kernel,
    and one that never returns has to be interrupted by hand.

    Raises ValueError for an unknown name and TypeError for something that cannot be called.
    A failed check raises too (CheckFailed), but only where nbgrader executes the notebook.
    """
    if name not in EXERCISES:
        raise ValueError(f"name: no exercise {name!r}; there are {', '.join(EXERCISES)}")
    if not callable(function):
        raise TypeError(
            f"function: expected the function itself, as in check({name!r}, "
            f"{EXERCISES[name].function}), got a value of type {type(function).__name__}"
        )
    result = run(EXERCISES[name], function)
    if os.environ.get("NBGRADER_EXECUTION") and not result.passed:
        raise CheckFailed(str(result))
    return result
