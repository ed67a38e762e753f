"""The exercises of the lesson Pipeline."""

import copy
from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor

from course_lib.exercises.common import (
    COUNT_HINT,
    draw,
    larger_gone,
    later_kept,
    not_a_mask,
    precise,
    repeated,
    rescaled,
    smallest_input,
    wrong_count,
)
from course_lib.exercises.exercise import (
    UNCHANGED,
    Exercise,
    Lines,
    Property,
    WrongLine,
    show,
)

Train = Callable[[Tensor, Tensor], Tensor]  # (weight, keep) -> the weights after a training
_SECTION = "lesson Pipeline, section “Definition → code”"


# ---- A · the loop


def prune_in_rounds(weight: Tensor, sparsities: list[float], train: Train) -> tuple[Tensor, Tensor]:
    """(weight, keep) after the last round."""
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        score = weight.abs().masked_fill(~keep, -torch.inf)
        order = score.flatten().argsort(descending=True, stable=True)
        gone = order[len(order) - round(sparsity * len(order)) :]
        keep = torch.ones_like(order).index_fill(0, gone, 0).bool().view_as(keep)
        weight = train(weight * keep, keep) * keep
    return weight, keep


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


def _reading(weight: Tensor, keep: Tensor) -> Tensor:
    """train: adds 1/8 of (the sum of all weights + the number kept) to each weight"""
    return weight + (weight.sum() + keep.sum()) / 8


def _by_row(weight: Tensor, keep: Tensor) -> Tensor:
    """train: adds 1, 2, 3, … to the first, second, third row"""
    return weight + torch.arange(1, len(weight) + 1).view(-1, *[1] * (weight.dim() - 1))


def _creeping(weight: Tensor, keep: Tensor) -> Tensor:
    """train: adds 1/1024 to every weight, also to masked ones"""
    return weight + 2.0**-10


class _Counting:
    """train: adds 1 to each weight when it is called first, 2 the second time, and so on"""

    calls = 0

    def __call__(self, weight: Tensor, keep: Tensor) -> Tensor:
        self.calls += 1
        return weight + self.calls

    def __eq__(self, other: object) -> bool:  # an answer may call it, and so changes it
        return isinstance(other, _Counting)

    def __repr__(self) -> str:
        return "counting"


def _rounds_cases() -> Iterator[tuple[Tensor, list[float], Train]]:
    yield torch.tensor([1.0, -0.5, 0.25, -2.0]), [0.25, 0.5], _still
    generator = torch.Generator().manual_seed(0)
    trainings = (_still, _all_move, _shrinking, _turning, _reading)
    plans = ([0.5], [0.25, 0.5], [0.3, 0.6, 0.9], [0.5, 0.5], [0.0, 0.5], [0.5, 1.0])
    for shape, sparsities, train in product(((4,), (2, 3), (5,), (4, 5)), plans, trainings):
        yield draw(shape, generator), sparsities, train
    for shape in ((4,), (2, 3)):
        yield draw(shape, generator), [0.5], _by_row
        yield draw(shape, generator), [0.25, 0.5], _creeping
        yield draw(shape, generator).abs(), [0.25, 0.25, 0.5], _Counting()
    for train in (_still, _shrinking, _turning):
        yield from rescaled((draw((2, 4), generator), [0.25, 0.5, 0.6], train), 0)
    for _ in range(3):
        yield precise((draw((3, 4), generator), [0.25, 0.5], _still), 0)
    yield torch.tensor([0.5]), [0.0, 0.3], _all_move
    yield torch.zeros(4), [0.3, 0.5], _still
    yield draw((13,), generator), [i / 13 for i in range(13)], _turning
    yield draw((2, 3, 2, 2), generator), [0.0, 0.2, 0.4, 0.6, 0.8], _turning
    yield repeated((draw((7, 3), generator), [0.305, 0.6], _still), 20)
    for train in (_turning, _reading):
        size = (1 + torch.randperm(120, generator=generator)) * 129 / 4096  # no near ties
        sign = 2 * torch.randint(2, (120,), generator=generator) - 1
        yield (size * sign).view(12, 10), [0.4, 0.6, 0.75, 0.9], train


def _not_a_pair(returned: object, weight: Tensor, *_: object) -> str | None:
    if not isinstance(returned, tuple) or len(returned) != 2:
        return f"a tuple (weight, keep), got {show(returned)}"
    like = returned[0]
    if not isinstance(like, Tensor) or not like.is_floating_point() or like.shape != weight.shape:
        return f"first the weights, floats of shape {tuple(weight.shape)}, got {show(like)}"
    return not_a_mask(returned[1], weight)


def _wrong_mask(returned: tuple, *inputs) -> str | None:
    expected = prune_in_rounds(*copy.deepcopy(inputs))[1]
    return None if torch.equal(returned[1], expected) else f"the mask {show(expected)}"


def _wrong_weights(returned: tuple, weight: Tensor, sparsities: list, train: Train) -> str | None:
    expected = prune_in_rounds(weight, sparsities, copy.deepcopy(train))[0]
    near = 1e-6 * float(expected.abs().max())
    if torch.allclose(returned[0], expected, rtol=1e-5, atol=near):
        return None
    return f"the weights {show(expected)}"


PRUNE_IN_ROUNDS = Exercise(
    name="prune_in_rounds",
    signature="prune_in_rounds(weight, sparsities, train)",
    section=_SECTION,
    cases=_rounds_cases,
    expected=prune_in_rounds,
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
            "and give those that are gone the lowest score. Python's round gives the number.",
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
            _wrong_mask,
            "Score the weights that the round before has trained, by magnitude, the earlier of "
            "equals stays; and what is gone scores −∞: a zero could tie with a living zero. train "
            "gets the weights with zeros where the new mask is False, and this mask.",
        ),
        Property(
            "trains once after every cut",
            _wrong_weights,
            "The order is cut, then train, once for every sparsity, also for one that removes "
            "nothing. train gets the weights with zeros where the new mask is False, and this mask.",
        ),
        UNCHANGED,
    ),
)


# ---- B · a share of all weights, where a share of the remaining ones was asked for


def buggy_next_round(weight: Tensor, keep: Tensor, share: float) -> Tensor:
    """The mask of the next round, with the number of removed weights wrong."""
    size = weight.abs().masked_fill(~keep, -1)
    order = size.flatten().argsort(descending=True, stable=True)
    removed = round(share * weight.numel())
    gone = order[weight.numel() - removed :]
    return torch.ones_like(order).index_fill(0, gone, 0).bool().view_as(keep)


def next_round(weight: Tensor, keep: Tensor, share: float) -> Tensor:
    """The right answer: what was gone before is gone, and a share of the rest."""
    n_left = int(keep.sum()) - round(share * int(keep.sum()))
    size = weight.abs().masked_fill(~keep, -1).flatten()
    stays = size.argsort(descending=True, stable=True)[:n_left]
    return torch.zeros_like(size, dtype=torch.bool).index_fill(0, stays, True).view_as(keep)


def _next_cases() -> Iterator[tuple[Tensor, Tensor, float]]:
    yield torch.tensor([1.0, -0.5, 0.25, -2.0]), torch.ones(4).bool(), 0.5
    yield torch.tensor([9.0, -2.0, 1.0, -3.0]), torch.tensor([False, True, True, True]), 0.4
    yield torch.tensor([0.0, 0.0, 0.0]), torch.tensor([False, True, True]), 0.5
    yield torch.tensor([1.0, 2.0]), torch.tensor([False, False]), 0.5
    yield torch.tensor([5.0]), torch.tensor([True]), 1.0
    yield torch.tensor([3.0, -1.0]), torch.tensor([True, False]), 0.5  # round(0.5) is 0
    for tiny in ([2e-30, 1e-30], [1e-30, -2e-30]):  # their squares are 0
        yield torch.tensor(tiny), torch.tensor([True, True]), 0.5
    generator = torch.Generator().manual_seed(1)
    shares = (0.2, 0.5, 0.1, 0.0, 1.0, 0.25, 0.7)
    for shape, share in product(((3,), (5,), (2, 4), (3, 1, 3), (4, 6)), shares):
        yield draw(shape, generator), torch.rand(shape, generator=generator) > 0.35, share
    for share in (0.3, 0.5, 0.7) * 2:
        keep = torch.rand((3, 4), generator=generator) > 0.35
        yield from rescaled((draw((3, 4), generator), keep, share), 0)
        yield precise((draw((3, 4), generator), keep, share), 0)
    keep = torch.rand(12, 10, generator=generator) > 0.5
    yield torch.randn(12, 10, generator=generator), keep, 0.36
    yield repeated((draw((12, 2), generator), keep[:, :2], 0.305), 25)


def _illegal_round(weight: Tensor, keep: Tensor, share: float) -> str | None:
    """None for inputs that the statement allows, else what it allows."""
    floats = weight.is_floating_point() and weight.isfinite().all() and weight.numel()
    fits = keep.dtype == torch.bool and keep.shape == weight.shape
    if floats and fits and 0 <= share <= 1:
        return None
    return "at least one weight, all finite floats; a bool mask of their shape; a share in [0, 1]"


def _revives(fresh: Tensor, weight: Tensor, keep: Tensor, share: float) -> str | None:
    return (
        "False wherever keep is False; here a weight comes back" if (fresh & ~keep).any() else None
    )


def _wrong_share(fresh: Tensor, weight: Tensor, keep: Tensor, share: float) -> str | None:
    alive, left = int(keep.sum()), int(fresh.sum())
    go = round(share * alive)
    if alive - left == go:
        return None
    return f"round({share:g} * {alive}) = {go} of the {alive} remaining weights gone, not {alive - left}"


MENDED_NEXT_ROUND = Exercise(
    name="mended_next_round",
    signature="mended_next_round(weight, keep, share)",
    section=_SECTION,
    cases=_next_cases,
    legal=_illegal_round,
    expected=next_round,
    properties=(
        Property(
            "returns a bool mask of the weight's shape",
            lambda fresh, weight, *_: not_a_mask(fresh, weight),
            "Return a new tensor of bool, of the shape of weight and keep.",
        ),
        Property(
            "lets nothing come back",
            _revives,
            "What keep has removed stays removed, whatever its weight is now.",
        ),
        Property("removes round(share * number left) more", _wrong_share, COUNT_HINT),
        Property(
            "removes the smallest magnitudes",
            lambda fresh, weight, keep, _: larger_gone(
                weight.abs()[keep], fresh[keep], "magnitude"
            ),
            "Rank by weight.abs(), among the weights that keep still has.",
        ),
        Property(
            "keeps the earlier of equal magnitudes",
            lambda fresh, weight, keep, _: later_kept(weight.abs()[keep], fresh[keep], "magnitude"),
            "Positions are numbered row by row. Sort with stable=True from large to small, and "
            "keep the first ones.",
        ),
        UNCHANGED,
    ),
)

SMALLEST_NEXT_ROUND = smallest_input(
    name="smallest_next_round",
    wrong=buggy_next_round,
    judged_by=MENDED_NEXT_ROUND,
    at_most=4,
    hint="With a mask that keeps everything, the number is right. Begin where a second round begins.",
)

PUZZLES = (
    Lines(
        name="prune_in_rounds",
        function=prune_in_rounds,
        distractors={
            "    score = weight.abs()": "a removed weight would be ranked again, and could come "
            "back or tie with a living zero.",
            "    gone = order[len(order) - round(sparsity * int(keep.sum())) :]": "the sparsity is "
            "a fraction of all weights, not of the remaining ones.",
            "    weight = train(weight, keep) * keep": "the removed weights have to be zero before "
            "the training, too.",
            "    weight = train(weight * keep, keep)": "training may move the removed weights, so "
            "they have to be set to zero again.",
        },
    ),
    WrongLine(
        name="mended_next_round",
        function=buggy_next_round,
        wrong="removed = round(share * weight.numel())",
        why="this is a share of all weights. Those that are gone rank lowest, so they fill the "
        "number in every later round, and nothing new is pruned. It should be the number that is "
        "gone, plus the share of the number that is left.",
        others={
            "size = weight.abs().masked_fill(~keep, -1)": "the removed weights get the lowest rank, "
            "below a living zero. That is needed to keep them out.",
            "order = size.flatten().argsort(descending=True, stable=True)": "the largest come "
            "first, and stable keeps equal ones in their order.",
            "gone = order[weight.numel() - removed :]": "the last ones of the order are the smallest.",
        },
    ),
)
EXERCISES = (PRUNE_IN_ROUNDS, SMALLEST_NEXT_ROUND, MENDED_NEXT_ROUND)
