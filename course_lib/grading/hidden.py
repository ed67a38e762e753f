"""Inputs that nobody has seen: an exercise's cases, drawn from a seed that is chosen at grading time.

An exercise's cases are a few written by hand and many drawn by a ``torch.Generator`` with a fixed
seed, so that a student's check repeats. ``fresh`` draws the same kinds of cases from another seed.
"""

import hashlib
from unittest import mock

import torch

from course_lib.exercises.calls import call, first_unmet
from course_lib.exercises.exercise import Exercise


def fresh(exercise: Exercise, seed: int) -> tuple[tuple, ...]:
    """The exercise's cases, drawn anew.

    What the statement does not allow, and what the exercise's own right answer (``expected``) does
    not solve, is left out.

    Examples:
        >>> from course_lib.exercises import EXERCISES
        >>> [len(fresh(EXERCISES["magnitude_mask"], seed)[20][0].shape) for seed in (1, 1)]
        [4, 4]
    """

    class Generator(torch.Generator):
        def manual_seed(self, own: int) -> torch.Generator:
            both = hashlib.sha256(f"{exercise.name} {own} {seed}".encode()).digest()
            return super().manual_seed(int.from_bytes(both[:4]))

    # The exercises' modules make their generators by this name, and with no other do they draw.
    with mock.patch.object(torch, "Generator", Generator):
        drawn = list(exercise.cases())
    return tuple(inputs for inputs in drawn if _is_sound(exercise, inputs))


def _is_sound(exercise: Exercise, inputs: tuple) -> bool:
    if exercise.legal(*inputs):
        return False
    if exercise.expected is None:
        return True
    return first_unmet(exercise, call(exercise.expected, inputs)) is None
