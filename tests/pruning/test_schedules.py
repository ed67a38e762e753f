"""Sparsity over time: formulas, ends, refusals."""

import math
from itertools import pairwise

import pytest

from course_lib.pruning import schedules


@pytest.mark.parametrize("schedule", [schedules.linear, schedules.geometric, schedules.cubic])
def test_schedules_begin_at_nothing_rise_and_end_exactly(schedule):
    s = schedule(0.95, 7)
    values = [s(t) for t in range(-1, 10)]
    assert values[:2] == [0, 0] and values[8:] == [0.95] * 3
    assert all(a <= b for a, b in pairwise(values))


def test_schedules_are_their_formulas():
    assert schedules.linear(0.8, 4)(1) == pytest.approx(0.2)
    left = [1 - schedules.geometric(0.9, 5)(t) for t in range(6)]
    ratios = [b / a for a, b in pairwise(left)]
    assert ratios == pytest.approx([0.1 ** (1 / 5)] * 5)
    assert schedules.cubic(0.5, 10)(5) == pytest.approx(0.5 * (1 - 0.5**3))
    once = schedules.one_shot(0.7)
    assert [once(t) for t in range(3)] == [0, 0.7, 0.7]


BAD = [
    (lambda: schedules.linear(1.2, 3), ValueError, "final must be in"),
    (lambda: schedules.linear(math.nan, 3), ValueError, "final must be in.*nan"),
    (lambda: schedules.linear("half", 3), TypeError, "final must be a number.*'half'"),
    (lambda: schedules.geometric(True, 3), TypeError, "final must be a number.*True"),
    (lambda: schedules.cubic(0.5, 0), ValueError, "steps must be a positive integer, got 0"),
    (lambda: schedules.cubic(0.5, 2.0), ValueError, "steps must be a positive integer, got 2.0"),
    (lambda: schedules.one_shot(None), TypeError, "final must be a number.*None"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input_names_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()
