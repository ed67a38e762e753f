"""The exercises of the lesson Pipeline."""

import math
from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor

from course_lib.exercises.common import (
    draw,
    gone_after,
    hunt,
    lowest_removed,
    not_a_mask,
    wrong_count,
)
from course_lib.exercises.exercise import REFUSES, UNCHANGED, Exercise, Property, show

Train = Callable[[Tensor, Tensor], Tensor]  # (weight, keep) -> the weights after a training


def _still(weight: Tensor, keep: Tensor) -> Tensor:
    """train: leaves every weight as it is"""
    return weight.clone()


def _all_move(weight: Tensor, keep: Tensor) -> Tensor:
    """train: adds 1 to every weight, as momentum does also to masked ones"""
    return weight + 1


def _shrinking(weight: Tensor, keep: Tensor) -> Tensor:
    """train: moves the weights that are kept 1/2 down"""
    return weight - keep * 0.5


def _turning(weight: Tensor, keep: Tensor) -> Tensor:
    """train: turns the order of the magnitudes round, w -> 2 - w, for the weights that are kept"""
    return torch.where(keep, 2 - weight, weight)


def _rounds_cases() -> Iterator[tuple[Tensor, list[float], Train]]:
    yield torch.tensor([1.0, -0.5, 0.25, -2.0]), [0.25, 0.5], _still
    generator = torch.Generator().manual_seed(0)
    trainings = (_still, _all_move, _shrinking, _turning)
    plans = ([0.5], [0.25, 0.5], [0.3, 0.6, 0.9], [0.5, 0.5], [0.0, 1.0])
    for shape, sparsities, train in product(((4,), (2, 3), (4, 5)), plans, trainings):
        yield draw(shape, generator), sparsities, train


def _in_rounds(weight: Tensor, sparsities: list[float], train: Train) -> tuple[Tensor, Tensor]:
    """The answer: (weight, keep)."""
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        score = weight.abs().masked_fill(~keep, -torch.inf)
        keep = lowest_removed(score, round(sparsity * weight.numel()))
        weight = train(weight * keep, keep) * keep
    return weight, keep


def _not_a_pair(returned: object, weight: Tensor, *_: object) -> str | None:
    if type(returned) is not tuple or len(returned) != 2:
        return f"a tuple (weight, keep), got {show(returned)}"
    like = returned[0]
    if type(like) is not Tensor or like.dtype != weight.dtype or like.shape != weight.shape:
        return f"weights, {weight.dtype} of shape {tuple(weight.shape)}, got {show(like)}"
    return not_a_mask(returned[1], weight)


def _wrong_weights(returned: tuple, weight: Tensor, sparsities: list, train: Train) -> str | None:
    expected = _in_rounds(weight, sparsities, train)[0]
    if torch.allclose(returned[0], expected):
        return None
    return f"{show(expected)}, which is trained after every cut, also after the last"


PRUNE_IN_ROUNDS = Exercise(
    name="prune_in_rounds",
    signature="prune_in_rounds(weight, sparsities, train)",
    section="lesson Pipeline, section “Definition → code”",
    cases=_rounds_cases,
    properties=(
        Property(
            "returns (weight, keep)",
            _not_a_pair,
            "Return two tensors of the shape of weight: the trained floats, then a bool mask.",
        ),
        Property(
            "removes round(sparsity * n) weights in all by the last round",
            lambda returned, weight, sparsities, _: wrong_count(returned[1], sparsities[-1]),
            "A sparsity is a fraction of *all* n weights, so earlier rounds count too: rank all n, "
            "and give those that are gone the lowest score.",
        ),
        Property(
            "holds the mask",
            lambda returned, *_: (
                None
                if not returned[0][~returned[1]].any()
                else "0 wherever the mask is False, also after training"
            ),
            "Training may move masked weights. Put them back to zero after it.",
        ),
        Property(
            "keeps the right weights",
            lambda returned, *inputs: (
                None
                if torch.equal(returned[1], _in_rounds(*inputs)[1])
                else f"the mask {show(_in_rounds(*inputs)[1])}"
            ),
            "Score the weights that the round before has trained, by magnitude, the earlier of "
            "equals stays; and what is gone scores −∞: a zero could tie with a living zero.",
        ),
        Property(
            "trains after every cut",
            _wrong_weights,
            "The order is cut, then train, for every sparsity; train gets the weights as cut.",
        ),
        UNCHANGED,
    ),
)


def buggy_next_round(weight: Tensor, keep: Tensor, share: float) -> Tensor:
    """a function that takes its share of all weights, so that the dead ones are taken again"""
    return lowest_removed(weight.abs() * keep, round(share * weight.numel()))


def weak_round_test(next_round: Callable[[Tensor, Tensor, float], Tensor]) -> bool:
    """The test that every wrong function of the bug hunt passes: a first round."""
    weight = torch.linspace(0.01, 1.0, 100)
    keep = next_round(weight, torch.ones(100, dtype=torch.bool), 0.2)
    return int(keep.sum()) == 80 and bool(weight[keep].min() > weight[~keep].max())


def _take(weight: Tensor, keep: Tensor, count: int) -> Tensor:
    """The mask without the ``count`` smallest of the weights that it keeps."""
    size = torch.where(keep, weight.abs(), -1.0)
    return lowest_removed(size, int((~keep).sum()) + count)


def _round_by_sort(weight, keep, share):
    """a correct function that ranks the dead below all others"""
    return _take(weight, keep, round(share * int(keep.sum())))


def _round_by_python(weight, keep, share):
    """a correct function that works on Python lists"""
    size, alive = weight.abs().flatten().tolist(), keep.flatten().tolist()
    left = sorted((i for i, a in enumerate(alive) if a), key=lambda i: (size[i], -i))
    stays = set(left[round(share * len(left)) :])
    return torch.tensor([i in stays for i in range(len(size))]).reshape(weight.shape)


def _round_among_the_living(weight, keep, share):
    """a correct function that ranks only what is left"""
    fresh = keep.clone()
    left = weight[keep].abs()
    fresh[keep] = lowest_removed(left, round(share * left.numel()))
    return fresh


def _round_share_of_all(weight, keep, share):
    """a function that removes the share of all weights from those that are left"""
    return _take(weight, keep, min(round(share * weight.numel()), int(keep.sum())))


def _round_revives(weight, keep, share):
    """a function that lets dead weights come back if their values are not zero"""
    gone = int((~keep).sum()) + round(share * int(keep.sum()))
    return lowest_removed(weight.abs(), gone)


def _round_only_the_new(weight, keep, share):
    """a function that returns a mask in which only this round's weights are gone"""
    return _round_by_sort(weight, keep, share) | ~keep


def _round_in_place(weight, keep, share):
    """a function that also changes the mask it was given"""
    return keep.copy_(_round_by_sort(weight, keep, share))


def _round_up(weight, keep, share):
    """a function that rounds the number of weights up"""
    return _take(weight, keep, math.ceil(share * int(keep.sum()) - 1e-9))


def _round_signed(weight, keep, share):
    """a function that forgets the absolute value"""
    size = torch.where(keep, weight, -torch.inf)
    return lowest_removed(size, int((~keep).sum()) + round(share * int(keep.sum())))


KILLS_WRONG_ROUNDS = hunt(
    name="kills_wrong_rounds",
    signature="is_next_round(next_round)",
    section="lesson Pipeline, section “Definition → code”",
    right=(_round_by_sort, _round_by_python, _round_among_the_living),
    alarm="A false alarm. Of the weights that the mask keeps, it removes round(share * their "
    "number), the smallest in magnitude, the later ones among equals, and nothing else.",
    wrong={
        buggy_next_round: "Your test should begin where a second round begins: with a mask that "
        "has removed something already.",
        _round_share_of_all: "Count how many go in a second round, when less is left.",
        _round_revives: "After weight rewinding a dead weight's value need not be zero. It stays "
        "dead all the same.",
        _round_only_the_new: "What an earlier round removed has to be gone from the new mask.",
        _round_in_place: "Compare the mask that you gave with a copy from before the call.",
        _round_up: "Try a share of what is left that lies a little above a whole number.",
        _round_signed: "Try negative weights as well.",
    },
)


def _plan_cases() -> Iterator[tuple[float, float, int]]:
    yield from ((0.9, 0.5, 20), (0.5, 0.5, 4), (0.75, 0.5, 7), (0.4, 0.5, 3), (0.9, 0.2, 10))
    yield from product((0.3, 0.6, 0.9, 0.98), (0.1, 0.2, 0.5, 0.9), (1, 6, 24, 100))


def _fewest(target: float, share: float) -> int:
    """The fewest rounds that reach the target if each takes at most ``share`` of what is left."""
    rounds = 1
    while gone_after(share, rounds) < target - 1e-9:
        rounds += 1
    return rounds


def _not_a_plan(plan: object, *_: float) -> str | None:
    if type(plan) is not tuple or len(plan) != 2 or not all(type(n) is int for n in plan):
        return f"a tuple of two ints, (rounds, epochs), got {show(plan)}"
    return None if min(plan) >= 1 else f"at least one round and one epoch, got {plan}"


def _stops_short(plan: tuple[int, int], target: float, share: float, _: int) -> str | None:
    gone = gone_after(share, plan[0])
    if gone >= target - 1e-9:
        return None
    return f"{target:g} gone; {plan[0]} rounds of at most {share:g} each reach {gone:.4g}"


PLAN = Exercise(
    name="plan",
    signature="plan(target, share, budget)",
    section="lesson Pipeline, exercise C",
    cases=_plan_cases,
    refuses=lambda target, share, budget: _fewest(target, share) > budget,
    properties=(
        Property(
            "returns (rounds, epochs), two whole numbers from 1 on",
            _not_a_plan,
            "Return a tuple of two ints; math.ceil and // give whole numbers.",
        ),
        Property(
            "reaches the target",
            _stops_short,
            "After r rounds the fraction (1 - share) ** r is left. It has to be 1 - target or "
            "less: round the number of rounds up.",
        ),
        Property(
            "uses no more rounds than needed",
            lambda plan, target, share, _: (
                None
                if plan[0] == _fewest(target, share)
                else f"{_fewest(target, share)} rounds, which are enough; here {plan[0]}"
            ),
            "Every round takes a share of what is *left*, not of all: fewer rounds follow from a "
            "logarithm, or from counting in a loop until enough is gone.",
        ),
        Property(
            "stays within the budget",
            lambda plan, _, __, budget: (
                None
                if plan[0] * plan[1] <= budget
                else f"at most {budget} epochs in all, not {plan[0]} × {plan[1]}"
            ),
            "The budget is shared by all rounds; what does not divide evenly is left unspent.",
        ),
        Property(
            "trains for as many epochs per round as the budget allows",
            lambda plan, _, __, budget: (
                None
                if plan[0] * (plan[1] + 1) > budget
                else f"{budget // plan[0]} epochs in each of {plan[0]} rounds, not {plan[1]}"
            ),
            "Divide the budget by the number of rounds, without a remainder.",
        ),
        REFUSES,
    ),
)

EXERCISES = (PRUNE_IN_ROUNDS, KILLS_WRONG_ROUNDS, PLAN)
