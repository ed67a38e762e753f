"""How likely it is that a right answer is refused: the table on the page about grading.

Nothing that an answer does is random, so a right answer can only fail where a drawn input makes its
rounding count. `book/chance.csv` says for each exercise why it does not.
"""

import csv
import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from course_lib.exercises import EXERCISES, language_models, objective, practical
from course_lib.exercises.calls import call, first_unmet
from course_lib.exercises.common import apart
from course_lib.grading import leaderboard
from course_lib.grading.hidden import fresh

ROOT = Path(__file__).resolve().parents[2]
with open(ROOT / "book/chance.csv", newline="") as file:
    TABLE = list(csv.DictReader(file))
WHY = {name: row["why"] for row in TABLE for name in row["exercises"].split()}
UNIT = 2.0**-24  # the largest relative error of one operation in float32
SEEDS = (11, 12)


def test_every_exercise_stands_in_the_table_once():
    listed = [name for row in TABLE for name in row["exercises"].split()]
    assert sorted(listed) == sorted([*EXERCISES, "leaderboard"])


def in_double(value):
    """The same inputs in float64."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: in_double(part) for name, part in value.items()}
    return value


def ten_times_off(exercise, inputs):
    """The right answer with ten times the error that single precision makes."""
    exact = exercise.expected(*map(in_double, inputs))
    rounded = exercise.expected(*inputs)
    if not isinstance(exact, torch.Tensor):
        return exact + 10 * (float(rounded) - exact)
    return exact + 10 * (rounded.double() - exact).detach()


@pytest.mark.parametrize("name", [name for name, why in WHY.items() if why.startswith("wide")])
def test_a_band_is_ten_times_as_wide_as_the_rounding(name):
    exercise = EXERCISES[name]
    for inputs in [case for seed in SEEDS for case in fresh(exercise, seed)]:
        if exercise.refuses(*inputs):
            continue
        made = call(lambda *copies: ten_times_off(exercise, copies), inputs)
        assert first_unmet(exercise, made) is None, inputs


def test_logits_are_hardly_ever_too_large():
    """Up to 8 × 6.5 they lose less than the tolerance; 140 normal numbers are drawn in two exercises."""
    largest, temperature = 8 * 6.5, 4
    assert temperature**2 * 3 * UNIT * 2 * largest / temperature < 1e-4
    assert 140 * math.erfc(6.5 / math.sqrt(2)) < 2e-8


EXACT = [name for name, why in WHY.items() if why.startswith("exact") and EXERCISES[name].expected]


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_answer_is_the_same_in_double_precision(name):
    exercise = EXERCISES[name]
    for inputs in fresh(exercise, SEEDS[0]):
        made = call(lambda *copies: exercise.expected(*map(in_double, copies)), inputs)
        assert first_unmet(exercise, made) is None, inputs


def test_scores_that_are_ranked_are_further_apart_than_their_rounding():
    """A norm of n numbers is off by n/2 + 1 units at most, and its product with a weight by one more."""
    tokens = 90
    assert 2 * (tokens / 2 + 2) * UNIT < 2.0**-14
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        weight, inputs = language_models._drawn(4, 60, tokens, generator)
        assert apart(language_models._scores(weight, inputs))
        weight, squares = language_models._without_ties(16, generator)
        assert apart(weight * squares.sqrt())
        problem = objective._without_ties(9, 1.0, 4, [0.5, 1.0], objective._Warm, generator)
        assert objective._is_clear(*problem)
    close = torch.tensor([1.0, 1.0 + 2.0**-16, 0.25]), 1, [], None
    assert not objective._is_clear(*close)  # type: ignore


def test_verdicts_and_speedups_are_the_same_in_single_precision():
    for seed in range(40):
        for ours, theirs, margin, t in fresh(EXERCISES["verdict"], seed):
            d = torch.tensor(ours) - torch.tensor(theirs)
            low, high = (float(d.mean() + s * t * d.std() / len(d) ** 0.5) for s in (-1, 1))
            said = "greater" if low > 0 else "less" if high < 0 else None
            said = said or ("equal" if -margin < low and high < margin else "open")
            assert said == practical.verdict(ours, theirs, margin, t)
        for ours, theirs, margin, t in fresh(EXERCISES["verdict"], seed)[-10:]:  # those drawn
            d = torch.tensor(ours, dtype=torch.float64) - torch.tensor(theirs)
            ends = practical._interval(d, t)
            assert min(abs(end - edge) for end in ends for edge in (-margin, 0, margin)) > 9e-4
        for *_, before, after in fresh(EXERCISES["report_card"], seed):
            at = torch.tensor([0.25, 0.75])
            (q1, q3), (new_q1, new_q3) = (torch.tensor(x).quantile(at) for x in (before, after))
            one = practical.report_card({}, torch.ones(1, 1), torch.tensor([0]), before, after)
            assert bool(new_q3 < q1 or q3 < new_q1) == (one["speedup"] != 1)


def descended(weight, bias, z, labels, rate, steps):
    """The layer after gradient descent on all rows, in single precision."""
    layer, both = torch.cat([weight, bias[:, None]], 1), torch.cat([z, torch.ones(len(z), 1)], 1)
    for _ in range(steps):
        p = (both @ layer.T).softmax(1) - F.one_hot(labels, len(bias))
        layer -= rate * p.T @ both / len(z)
    return layer[:, :-1], layer[:, -1]


def test_gradient_descent_closes_enough_of_the_gap():
    """With a learning rate r up to 1 / L, t steps end at most d² / (2 r t) above any layer's loss.

    d is the distance to that layer. L bounds the curvature: half of the inputs' largest one, because
    that of soft-max is at most one half. So with r t = 100 such an answer is never refused.
    """
    exercise, largest = EXERCISES["fine_tune"], 0.5
    for weight, bias, z, labels in [case for seed in SEEDS for case in fresh(exercise, seed)]:
        both = torch.cat([z, torch.ones(len(z), 1)], 1).double()
        assert largest <= 1 / (0.5 * torch.linalg.eigvalsh(both.T @ both / len(z))[-1])
        near = practical.fine_tune(*practical.fine_tune(weight, bias, z, labels), z, labels)
        squares = sum((a - b).square().sum() for a, b in zip(near, (weight, bias), strict=True))
        before = practical._loss((weight, bias), z, labels)
        after = practical._loss(near, z, labels) + float(squares) / (2 * 100)
        least, _ = practical._lowest(weight, bias, z, labels)
        assert before - after > 0.78 * (before - least)  # three quarters are asked
        for rate, steps in ((largest, 200), (0.1, 1000)):
            tuned = partial(descended, rate=rate, steps=steps)
            made = call(tuned, (weight, bias, z, labels))
            assert first_unmet(exercise, made) is None


def test_a_draw_far_from_its_best_layer_is_drawn_again():
    weight, bias, z, labels = fresh(EXERCISES["fine_tune"], SEEDS[0])[0]
    assert practical._descent_is_sure(weight, bias, z, labels)
    assert not practical._descent_is_sure(weight + 50 * torch.eye(2), bias, z, labels)
    assert not practical._descent_is_sure(weight, bias, 3 * z, labels)
    best = descended(weight, bias, z, labels, 0.5, 300)
    assert not practical._descent_is_sure(*best, z, labels)


def test_least_squares_has_one_answer():
    for seed in range(100):
        z, _ = fresh(EXERCISES["refit"], seed)[2]
        both = torch.cat([z, torch.ones(len(z), 1)], 1)
        assert torch.linalg.cond(both.double()) < 300


def below(share, wanted=leaderboard.ENOUGH / 100, count=leaderboard.FRESH):
    """The chance that a network that is right on a `share` of all digits is so on too few of `count`."""
    logs = math.log(share), math.log1p(-share)
    ways = (
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        for k in range(count)
    )
    terms = (w + k * logs[0] + (count - k) * logs[1] for k, w in enumerate(ways))
    return math.fsum(math.exp(t) for k, t in enumerate(terms) if k < round(wanted * count))


def test_an_entry_a_little_above_the_line_has_its_point():
    (says,) = (row["chance"] for row in TABLE if row["exercises"] == "leaderboard")
    share = float(re.findall(r"([\d.]+) %", says)[0]) / 100
    assert below(share) < 1e-6 < below(share - 1e-3)
    assert below(0.25, 0.5, 2) == pytest.approx(0.75**2)
