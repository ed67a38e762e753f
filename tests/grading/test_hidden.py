"""Inputs drawn anew: of the same kinds, other values, the same for the same seed."""

from dataclasses import replace

import pytest
import torch

from course_lib.exercises import EXERCISES
from course_lib.exercises.calls import same
from course_lib.grading.hidden import fresh

#: A bug hunt's cases are its functions; they are the same in every run.
DRAWN = [
    name
    for name, exercise in EXERCISES.items()
    if not exercise.candidates and len(list(exercise.cases())) > 21
]


@pytest.mark.parametrize("name", DRAWN)
def test_most_cases_are_new_and_repeat_with_their_seed(name):
    exercise = EXERCISES[name]
    public, first = list(exercise.cases()), fresh(exercise, 1)
    assert len(first) >= 0.8 * len(public)
    new = [inputs for inputs in first if not any(same(inputs, known) for known in public)]
    assert len(new) >= 0.3 * len(public)
    assert all(same(a, b) for a, b in zip(first, fresh(exercise, 1), strict=True))
    other = fresh(exercise, 2)
    assert not all(same(a, b) for a, b in zip(first, other, strict=False))


def test_generators_are_as_before_afterwards():
    fresh(EXERCISES["magnitude_mask"], 5)
    assert torch.Generator().manual_seed(3).initial_seed() == 3
    public = list(EXERCISES["magnitude_mask"].cases())
    assert all(same(a, b) for a, b in zip(public, EXERCISES["magnitude_mask"].cases(), strict=True))


def test_what_the_statement_forbids_is_left_out():
    exercise = EXERCISES["magnitude_mask"]
    bad = (torch.tensor([float("nan")]), 0.5)
    good = (torch.tensor([1.0]), 0.5)
    assert fresh(replace(exercise, cases=lambda: iter([bad, good])), 1) == (good,)


def test_what_the_right_answer_does_not_solve_is_left_out():
    exercise = EXERCISES["noisy_outputs"]
    assert len(fresh(exercise, 1)) == len(list(exercise.cases()))
    assert fresh(replace(exercise, expected=lambda *_: None), 1) == ()
