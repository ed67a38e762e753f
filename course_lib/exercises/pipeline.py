"""The exercises of the lesson Pipeline."""

import math
from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor

from course_lib.exercises.common import gone_after, hunt, kind, lowest_removed
from course_lib.exercises.exercise import REFUSES, Exercise, Property, show

_MOMENTS = (0.0, 0.07, 0.37, 0.66, 0.93)  # none on a step of the schedules below


def _linear(t: float) -> float:
    """t -> 1 - t"""
    return 1 - t


def _stepped(t: float) -> float:
    """t -> 1 before t = 0.3, then 0.1, and 0.01 from t = 0.8 on"""
    return (1.0, 0.1, 0.01)[(t >= 0.3) + (t >= 0.8)]


def _cosine(t: float) -> float:
    """t -> (1 + cos(pi t)) / 2"""
    return (1 + math.cos(math.pi * t)) / 2


def _warming(t: float) -> float:
    """t -> 10 t up to t = 0.1, then (1 - t) / 0.9"""
    return 10 * t if t < 0.1 else (1 - t) / 0.9


def _replay_cases() -> Iterator[tuple[Callable, float]]:
    yield _linear, 0.5
    yield from product((_linear, _stepped, _cosine, _warming), (1.0, 0.5, 0.25, 0.75, 0.1))


def _differs(replay: Callable, schedule: Callable, fraction: float, t: float) -> str | None:
    """What the replayed schedule should be at t and is not. The student wrote it, and it may raise."""
    expected = schedule(1 - fraction + fraction * t)
    try:
        got = replay(t)
        if math.isclose(got, expected, rel_tol=1e-6, abs_tol=1e-9):
            return None
    except (ArithmeticError, LookupError, NameError, TypeError, ValueError) as error:
        got = f"{type(error).__name__}: {error}"
    return f"{expected:g} at t = {t:g} of the retraining; here it is {show(got)}"


REPLAY = Exercise(
    name="replay",
    signature="replay(schedule, fraction)",
    section="lesson Pipeline, section “Definition → code”",
    cases=_replay_cases,
    properties=(
        Property(
            "returns a function",
            lambda replay, *_: None if callable(replay) else f"a function, got {kind(replay)}",
            "A schedule is a function of t. Define one inside yours and return it: "
            "return lambda t: ...",
        ),
        Property(
            "replays all of the training at fraction 1",
            lambda replay, schedule, fraction: (
                next(filter(None, (_differs(replay, schedule, 1.0, t) for t in _MOMENTS)), None)
                if fraction == 1
                else None
            ),
            "At fraction 1 retraining is training once more: the answer is the schedule itself.",
        ),
        Property(
            "begins at the rate that training had when the last fraction began",
            lambda replay, schedule, fraction: _differs(replay, schedule, fraction, 0.0),
            "When the last fraction begins, how much of the training is done? That is where t = 0 "
            "of the retraining lies.",
        ),
        Property(
            "runs through the last fraction, no slower and no faster",
            lambda replay, schedule, fraction: next(
                filter(None, (_differs(replay, schedule, fraction, t) for t in _MOMENTS)), None
            ),
            "While t goes from 0 to 1, training goes through `fraction` of itself only.",
        ),
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
            "trains for as many epochs a round as the budget allows",
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

EXERCISES = (REPLAY, KILLS_WRONG_ROUNDS, PLAN)
