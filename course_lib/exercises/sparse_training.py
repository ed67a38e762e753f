"""The exercises of the lesson Sparse training."""

from collections.abc import Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import (
    draw,
    not_a_mask,
    pick,
    precise,
    repeated,
    rescaled,
    smallest_input,
)
from course_lib.exercises.exercise import (
    UNCHANGED,
    Exercise,
    Lines,
    Property,
    WrongLine,
    show,
)
from course_lib.pruning.sparse_training import drop_each_sign

_SECTION = "lesson Sparse training, section “Definition → code”"


# ---- A · one step of SET


def set_step(weight: Tensor, mask: Tensor, fraction: float, luck: Tensor) -> tuple[Tensor, Tensor]:
    """(weight, mask) after the step."""
    kept = mask.clone()
    for part in (mask & (weight >= 0), mask & (weight < 0)):
        size = weight.abs().masked_fill(~part, -1).flatten()
        order = size.argsort(descending=True, stable=True)[: int(part.sum())]
        stay = len(order) - int(fraction * len(order))
        kept.view(-1)[order[stay:]] = False
    chance = luck.masked_fill(kept, -1).flatten()
    best = chance.argsort(descending=True, stable=True)
    grown = best[: int(mask.sum() - kept.sum())]
    new = kept.flatten().index_fill(0, grown, True).view_as(mask)
    return weight * kept, new


def _networks() -> Iterator[tuple[Tensor, Tensor, float, Tensor]]:
    """Weights, masks, fractions, luck; some active weights are zero, and there are ties."""
    weight = torch.tensor([0.5, -0.25, 0.0, 2.0, -4.0, 0.0, 1.0, -3.0])
    luck = torch.tensor([0.1, 0.2, 0.9, 0.3, 0.4, 0.8, 0.7, 0.6])
    yield weight, weight != 0, 0.5, luck
    yield torch.tensor([1.0, 1.0, 0.0]), torch.tensor([True, True, False]), 0.5, luck[:3]
    yield torch.tensor([1.0, 2.0]), torch.tensor([True, True]), 0.5, luck[:2]
    yield torch.tensor([1.0, 0.0, -2.0]), torch.tensor([True, True, True]), 0.5, luck[:3]
    yield torch.tensor([0.0, 0.0]), torch.tensor([False, False]), 0.5, luck[:2]
    yield torch.tensor([-2.0]), torch.tensor([True]), 1.0, luck[:1]
    yield torch.tensor([3.0, 1.0, 0.0, 0.0]), torch.arange(4) < 2, 0.5, torch.full((4,), 0.5)
    generator = torch.Generator().manual_seed(3)
    for trial in range(60):
        shape = (1 + trial // 12, pick((2, 3, 4, 6), generator))
        weight = draw(shape, generator)  # about a ninth of the active ones are zero
        mask = torch.rand(shape, generator=generator) < 0.7
        luck = torch.randint(0, 8, shape, generator=generator) / 8
        yield weight * mask, mask, pick((0.0, 0.25, 0.35, 0.5, 0.75, 1.0), generator), luck
    # Numbers that differ by little, or are small; luck may be 1 where nothing is free.
    close = torch.tensor([1e-30, 2e-30, 3.0, 4.0, 0.0, 0.0])
    luck = torch.tensor([0.1, 0.1, 1.0, 0.2, 0.50001, 0.50002])
    yield close, close != 0, 0.25, luck
    yield torch.tensor([2.0, 1.0, 0.0]), torch.arange(3) < 2, 0.5, torch.tensor([1.0, 0.0, 0.0])
    ladder = torch.arange(1.0, 101.0)  # int(0.29 * 100) is 28
    yield ladder, ladder > 0, 0.29, torch.rand(100, generator=generator)
    yield ladder[:8], ladder[:8] > 0, 0.375, torch.arange(8.0) / 8  # three, and not 37 % of eight
    mask = torch.rand(2, 3, 2, 2, generator=generator) < 0.6
    weight, luck = torch.randn(2, 2, 3, 2, 2, generator=generator).unbind(0)
    yield weight * mask, mask, 0.5, torch.sigmoid(luck)
    for fraction in (0.3, 0.5, 0.75):
        mask = torch.rand(4, 4, generator=generator) < 0.7
        luck = torch.randint(0, 8, (4, 4), generator=generator) / 8
        yield from rescaled((draw((4, 4), generator) * mask, mask, fraction, luck), 0)
        yield precise((draw((4, 4), generator) * mask, mask, fraction, luck), 0)
    yield repeated((draw((4, 4), generator) * mask, mask, 0.305, luck), 15)
    mask = torch.rand(20, 15, generator=generator) < 0.3
    weight, luck = torch.randn(2, 20, 15, generator=generator).unbind(0)
    yield weight * mask, mask, 0.3, torch.sigmoid(luck)


def _not_a_step(returned: object, weight: Tensor, *_: object) -> str | None:
    if not isinstance(returned, tuple) or len(returned) != 2:
        return f"a tuple (weight, mask), got {show(returned)}"
    like = returned[0]
    if not isinstance(like, Tensor) or not like.is_floating_point() or like.shape != weight.shape:
        return f"first the weights, floats of shape {tuple(weight.shape)}, got {show(like)}"
    return not_a_mask(returned[1], weight)


def _wrong_total(returned: tuple, _: Tensor, mask: Tensor, *__: object) -> str | None:
    before, after = int(mask.sum()), int(returned[1].sum())
    return None if before == after else f"{before} active weights, as before, not {after}"


def _dropped_others(returned: tuple, weight: Tensor, mask: Tensor, fraction: float, _: Tensor):
    gone = drop_each_sign(weight, mask, fraction) & ~returned[1]
    if not gone.any():
        return None
    places = gone.flatten().nonzero().flatten().tolist()
    return (
        f"{show(weight[gone])} kept (in the flattened tensor: places {show(places)}); of the n "
        f"weights of that sign, int({fraction:g} * n) others go first"
    )


def _grown_elsewhere(returned: tuple, *inputs) -> str | None:
    expected = set_step(*inputs)[1]
    return None if torch.equal(returned[1], expected) else f"the mask {show(expected)}"


def _wrong_values(returned: tuple, *inputs) -> str | None:
    """In float32: who makes the tensor from a list has rounded."""
    expected = set_step(*inputs)[0]
    same = torch.equal(returned[0].float(), expected.float())
    return None if same else f"the weights {show(expected)}"


SET_STEP = Exercise(
    name="set_step",
    signature="set_step(weight, mask, fraction, luck)",
    section=_SECTION,
    cases=_networks,
    expected=set_step,
    properties=(
        Property(
            "returns (weight, mask)",
            _not_a_step,
            "Return two tensors of the weight's shape: floats, then a bool mask. Build the mask "
            "from mask.clone(): it has the right shape and type.",
        ),
        Property(
            "leaves as many weights active as there were",
            _wrong_total,
            "Count what you drop from each sign, add the two, and grow exactly as many.",
        ),
        Property(
            "drops nothing but the smallest of each sign",
            _dropped_others,
            "Handle the two signs one after the other: each loses int(fraction * its own number), "
            "those closest to zero, and of equal ones the later. An active zero is a positive one.",
        ),
        Property(
            "grows the free positions with the highest luck",
            _grown_elsewhere,
            "Free is every position that is not active after the drop, those just dropped included. "
            "Of equal luck, the earlier position grows.",
        ),
        Property(
            "keeps the values of the weights that stayed, and no others",
            _wrong_values,
            "What was dropped is zero, and what grows starts at zero, also where one was just "
            "dropped. So the weights follow the mask between drop and growth. And count: did "
            "int(fraction * n) of each sign go?",
        ),
        UNCHANGED,
    ),
)


# ---- B · the drop of a published library


def buggy_drop(weight: Tensor, fraction: float) -> Tensor:
    """The mask after the drop, with the negative weights wrong."""
    order = weight.argsort()
    negative, positive = int((weight < 0).sum()), int((weight > 0).sum())
    first = len(weight) - positive
    keep = weight != 0
    keep[order[first : first + int(fraction * positive)]] = False
    keep[order[int(fraction * negative) :]] = False
    return keep


def drop(weight: Tensor, fraction: float) -> Tensor:
    """The right answer."""
    keep = weight != 0
    for sign in (1, -1):
        places = (weight * sign > 0).nonzero().flatten()
        order = places[weight[places].abs().argsort()]
        keep[order[: int(fraction * len(places))]] = False
    return keep


def _drop_cases() -> Iterator[tuple[Tensor, float]]:
    yield torch.tensor([1.0, 2.0, -3.0, -4.0]), 0.5
    yield torch.tensor([1.0]), 0.5
    yield torch.tensor([-1.0]), 1.0
    yield torch.tensor([0.0, 0.0, 0.0]), 0.5
    yield torch.tensor([1.0, 2, 3, 4, -9, -8, -7, -6, -5, -10] + 4 * [0.0]), 0.5
    generator = torch.Generator().manual_seed(4)
    for trial in range(50):
        n = 1 + trial // 3
        size = (1 + torch.randperm(n, generator=generator)) / 4
        weight = size * torch.randint(-1, 2, (n,), generator=generator)
        yield weight, pick((0.0, 0.2, 0.25, 0.35, 0.5, 0.75, 1.0), generator)
    for tiny in ([2e-30, 1e-30], [-2e-30, -1e-30]):
        yield torch.tensor(tiny), 0.5
    for fraction in (0.25, 0.5):
        signs = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0, 0.0])
        sizes = (1 + torch.randperm(9, generator=generator)) / 4
        yield from rescaled((signs * sizes, fraction), 0)
        yield precise((signs * sizes, fraction), 0)
    yield torch.arange(1.0, 101.0), 0.29  # int(0.29 * 100) is 28
    yield torch.arange(1.0, 9.0), 0.375  # three, and not 37 % of eight
    yield torch.randn(300, generator=generator), 0.3
    signs = torch.randint(0, 2, (1000,), generator=generator) * 2 - 1
    yield (1 + torch.randperm(1000, generator=generator)) / 4 * signs, 0.2
    yield torch.randn(9, generator=generator).abs(), 0.5
    yield -torch.randn(9, generator=generator).abs(), 0.5


def _illegal_drop(weight: Tensor, fraction: float) -> str | None:
    """None for inputs that the statement allows, else what it allows."""
    floats = weight.is_floating_point() and weight.isfinite().all()
    if floats and weight.dim() == 1 and weight.numel() and 0 <= fraction <= 1:
        values = weight[weight != 0].tolist()
        if len(set(values)) == len(values):
            return None
    return (
        "a weight of one dimension with at least one finite entry, no two of which are equal, but "
        "for zeros; a fraction in [0, 1]"
    )


def _wrong_numbers(keep: Tensor, weight: Tensor, fraction: float) -> str | None:
    for sign, word in ((1, "positive"), (-1, "negative")):
        n, left = int((weight * sign > 0).sum()), int((keep & (weight * sign > 0)).sum())
        go = int(fraction * n)
        if n - left != go:
            return f"int({fraction:g} * {n}) = {go} of the {n} {word} weights gone, not {n - left}"
    return None


def _wrong_choice(keep: Tensor, weight: Tensor, fraction: float) -> str | None:
    expected = drop(weight, fraction)
    if torch.equal(keep, expected):
        return None
    return f"the weights {show(weight[expected])} kept, not {show(weight[keep])}"


MENDED_DROP = Exercise(
    name="mended_drop",
    signature="mended_drop(weight, fraction)",
    section=_SECTION,
    cases=_drop_cases,
    legal=_illegal_drop,
    expected=drop,
    properties=(
        Property(
            "returns a bool mask of the weight's shape",
            lambda keep, weight, _: not_a_mask(keep, weight),
            "A comparison, such as weight != 0, makes a bool tensor of the right shape.",
        ),
        Property(
            "is False where the weight is zero",
            lambda keep, weight, _: (
                None
                if not keep[weight == 0].any()
                else f"False at all {int((weight == 0).sum())} zeros"
            ),
            "Begin with weight != 0 and only ever set entries to False.",
        ),
        Property(
            "drops int(fraction * n) of the n weights of each sign",
            _wrong_numbers,
            "In the order from the most negative weight to the largest, the negative ones come "
            "first, then the zeros. Where do the negative ones end that are closest to zero?",
        ),
        Property(
            "drops those closest to zero",
            _wrong_choice,
            "The negative weights closest to zero are the last of the negative ones in the order, "
            "not the first.",
        ),
        UNCHANGED,
    ),
)

SMALLEST_DROP = smallest_input(
    name="smallest_drop",
    wrong=buggy_drop,
    judged_by=MENDED_DROP,
    at_most=1,
    hint="Go through the lines with one weight. Which of them drops it, and should it?",
)

PUZZLES = (
    Lines(
        name="set_step",
        function=set_step,
        distractors={
            "    size = weight.abs().masked_fill(~mask, -1).flatten()": "both signs would be ranked "
            "together.",
            "for part in (mask & (weight > 0), mask & (weight < 0)):": "an active weight of zero "
            "would belong to no part, and would never be dropped.",
            "chance = luck.masked_fill(mask, -1).flatten()": "a place that was just dropped is free, "
            "too.",
            "return weight * new, new": "a place that was dropped and grew again would keep its old "
            "value.",
        },
    ),
    WrongLine(
        name="mended_drop",
        function=buggy_drop,
        wrong="keep[order[int(fraction * negative) :]] = False",
        why="this drops everything from there to the end, the positive weights too, and leaves "
        "only the most negative ones. The part to drop ends where the negative weights end, and "
        "begins int(fraction * negative) places before.",
        others={
            "order = weight.argsort()": "the order goes from the most negative weight over the "
            "zeros to the largest.",
            "first = len(weight) - positive": "the positive weights are the last in the order; the "
            "first of them is here.",
            "keep = weight != 0": "an inactive weight is zero, and it stays inactive.",
            "keep[order[first : first + int(fraction * positive)]] = False": "the positive weights "
            "begin at first, the smallest ahead.",
        },
    ),
)
EXERCISES = (SET_STEP, SMALLEST_DROP, MENDED_DROP)
