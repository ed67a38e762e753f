"""The exercises of the lesson Criteria."""

import math
from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor

from course_lib.exercises.common import (
    COUNT_HINT,
    SPARSITIES,
    TIE_HINT,
    draw,
    hunt,
    larger_gone,
    later_kept,
    lowest_removed,
    not_a_mask,
    number,
    pick,
    wrong_count,
)
from course_lib.exercises.exercise import REFUSES, UNCHANGED, Exercise, Property


def _magnitude_cases() -> Iterator[tuple[Tensor, float]]:
    for weight, sparsity in (
        ([1.0, -2.0], 0.5),
        ([5.0], 1.0),
        ([1.0, 1.0], 0.5),
        ([2.0, 1.0], 0.0),
        ([5.0], 0.5),
        ([0.0, 0.0, 0.0], 0.3),
        ([0.5, -0.5, 0.5, 0.25], 0.5),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.5),
        ([[0.0, 0.0, 0.0], [0.0, 0.0, -0.5]], 0.1),
        ([[[[-3.0, -1.0, -2.0]]], [[[2.0, 1.0, 3.0]]]], 0.75),
    ):
        yield torch.tensor(weight), sparsity
    generator = torch.Generator().manual_seed(0)
    for dims in (1, 2, 3, 4) * 12:
        shape = tuple(pick(3, generator) for _ in range(dims))
        yield draw(shape, generator), pick(SPARSITIES, generator)
    yield torch.randn(300, 100, generator=generator), 0.9
    yield draw((32, 16, 5, 5), generator), 0.7


MAGNITUDE_MASK = Exercise(
    name="magnitude_mask",
    signature="magnitude_mask(weight, sparsity)",
    section="lesson Criteria, section “Definition → code”",
    cases=_magnitude_cases,
    properties=(
        Property(
            "returns a torch.bool tensor of the weight's shape",
            lambda mask, weight, sparsity: not_a_mask(mask, weight),
            "A comparison of tensors gives torch.bool; a mask made on the flat weight is brought "
            "back to its form by reshape(weight.shape).",
        ),
        Property(
            "removes exactly round(sparsity * n) weights",
            lambda mask, weight, sparsity: wrong_count(mask.flatten(), sparsity),
            COUNT_HINT,
        ),
        Property(
            "removes the weights with the smallest magnitude",
            lambda mask, weight, sparsity: larger_gone(
                weight.abs().flatten(), mask.flatten(), "magnitude"
            ),
            "Magnitude is the distance from zero, so -2 is larger than 1; and True means keep.",
        ),
        Property(
            "keeps the earlier of equal magnitudes",
            lambda mask, weight, sparsity: later_kept(
                weight.abs().flatten(), mask.flatten(), "magnitude"
            ),
            TIE_HINT,
        ),
        UNCHANGED,
    ),
)


def buggy_magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """a function that compares with a threshold and so removes all weights tied with it"""
    count = round(sparsity * weight.numel())
    if count == 0:
        return torch.ones_like(weight, dtype=torch.bool)
    threshold = weight.abs().flatten().kthvalue(count).values
    return weight.abs() > threshold


def weak_mask_test(mask_fn: Callable[[Tensor, float], Tensor]) -> bool:
    """The test that every wrong mask function of the bug hunt passes."""
    weight = torch.linspace(0.01, 1.0, 100)
    keep = mask_fn(weight, 0.9)
    large_stay = weight[keep].min() > weight[~keep].max()
    about_ten_percent = abs(keep.float().mean() - 0.1) < 0.02
    return bool(large_stay and about_ten_percent)


def _mask_by_stable_sort(weight, sparsity):
    """a correct function that sorts the magnitudes"""
    return lowest_removed(weight.abs(), round(sparsity * weight.numel()))


def _mask_by_python(weight, sparsity):
    """a correct function that works on Python lists"""
    size = [abs(value) for value in weight.flatten().tolist()]
    order = sorted(range(len(size)), key=lambda i: (size[i], -i))
    gone = set(order[: round(sparsity * len(size))])
    return torch.tensor([i not in gone for i in range(len(size))]).reshape(weight.shape)


def _mask_by_threshold_and_fill(weight, sparsity):
    """a correct function that compares with a threshold and then shares out the ties"""
    size = weight.abs().flatten()
    places = size.numel() - round(sparsity * size.numel())
    if places == 0:
        return torch.zeros_like(weight, dtype=torch.bool)
    cut = size.sort(descending=True).values[places - 1]
    above, tied = size > cut, size == cut
    return (above | (tied & (tied.cumsum(0) <= places - above.sum()))).reshape(weight.shape)


def _mask_one_too_many(weight, sparsity):
    """a function that removes one weight too many"""
    count = round(sparsity * weight.numel())
    return lowest_removed(weight.abs(), min(count + 1, weight.numel()))


def _mask_by_quantile(weight, sparsity):
    """a function that cuts at the quantile, which goes wrong when magnitudes are equal"""
    size = weight.abs().float()
    return size > size.quantile(sparsity)


def _mask_signed(weight, sparsity):
    """a function that forgets the absolute value and so removes the most negative weights"""
    return lowest_removed(weight, round(sparsity * weight.numel()))


def _mask_rounded_up(weight, sparsity):
    """a function that rounds the number of weights up"""
    return lowest_removed(weight.abs(), math.ceil(sparsity * weight.numel() - 1e-9))


def _mask_rounded_down(weight, sparsity):
    """a function that rounds the number of weights down"""
    return lowest_removed(weight.abs(), int(sparsity * weight.numel() + 1e-9))


def _mask_in_place(weight, sparsity):
    """a function that also sets the removed weights to zero in the tensor it was given"""
    keep = _mask_by_stable_sort(weight, sparsity)
    weight.detach()[~keep] = 0
    return keep


def _mask_nothing_is_everything(weight, sparsity):
    """a function that removes everything at sparsity 0"""
    count = round(sparsity * weight.numel())
    return lowest_removed(weight.abs(), count if count else weight.numel())


_MASK_ALARM = (
    "A false alarm. It removes exactly round(sparsity * n) weights (Python's round: 2.5 becomes 2), "
    "the smallest, and among equals the later ones: which line of your test asks for more?"
)

KILLS_WRONG_MASKS = hunt(
    name="kills_wrong_masks",
    signature="is_magnitude_mask(mask_fn)",
    section="lesson Criteria, section “Definition → code”, the tie rule",
    right=(_mask_by_stable_sort, _mask_by_python, _mask_by_threshold_and_fill),
    alarm=_MASK_ALARM,
    wrong={
        buggy_magnitude_mask: "When does a threshold hit more weights than it should? "
        "Try a weight with many equal magnitudes, and count.",
        _mask_one_too_many: "“About as many” is not a count: compare with round(sparsity * n).",
        _mask_by_quantile: "Try magnitudes that are all equal: how many are above their quantile?",
        _mask_signed: "Your weights should look like a layer's: try negative ones as well.",
        _mask_rounded_up: "Try a sparsity at which sparsity * n lies a little above a "
        "whole number.",
        _mask_rounded_down: "Try a sparsity at which sparsity * n lies a little below a "
        "whole number.",
        _mask_in_place: "A function has effects beside its result: "
        "compare the weight after the call with a copy from before it.",
        _mask_nothing_is_everything: "Try the ends of the range of sparsity as well.",
    },
)


def _csr_bytes(shape: tuple[int, int], kept: int) -> int:
    """Bytes of a CSR matrix: float32 values and int32 columns, and int32 row pointers."""
    return 4 * kept + 4 * kept + 4 * (shape[0] + 1)


def _budget_cases() -> Iterator[tuple[tuple[int, int], int]]:
    yield from (
        ((2, 4), 44),
        ((1, 1), 16),
        ((1, 1), 8),
        ((1, 1), 7),
        ((2, 3), 11),
        ((2, 3), 12),
        ((2, 3), 19),
        ((2, 3), 59),
        ((2, 3), 60),
        ((2, 3), 10_000),
        ((3, 2), 39),
        ((1, 8), 48),
        ((8, 1), 48),
    )
    for shape in product((1, 2, 3), (1, 2, 4)):
        yield from ((shape, budget) for budget in range(4, _csr_bytes(shape, 12), 9))
    yield from (((300, 784), 200_000), ((784, 300), 1_000_000), ((4096, 4096), 30_000_001))


def _removed(sparsity: float, shape: tuple[int, int]) -> int:
    return round(sparsity * shape[0] * shape[1])


def _no_whole_weight(sparsity: float, shape: tuple[int, int], _: int) -> str | None:
    n = shape[0] * shape[1]
    if abs(sparsity * n - _removed(sparsity, shape)) < 1e-6:
        return None
    return f"a multiple of 1/{n}; here {sparsity * n:g} of {n} weights would go"


def _does_not_fit(sparsity: float, shape: tuple[int, int], budget: int) -> str | None:
    kept = shape[0] * shape[1] - _removed(sparsity, shape)
    needed = _csr_bytes(shape, kept)
    if needed <= budget:
        return None
    return f"at most {budget} bytes; with {kept} weights it has {needed}"


def _not_the_smallest(sparsity: float, shape: tuple[int, int], budget: int) -> str | None:
    kept = shape[0] * shape[1] - _removed(sparsity, shape)
    if kept == shape[0] * shape[1] or _csr_bytes(shape, kept + 1) > budget:
        return None
    return (
        f"as many weights as fit; with {kept + 1} instead of {kept} the matrix "
        f"has {_csr_bytes(shape, kept + 1)} bytes, within {budget}"
    )


SPARSITY_FOR = Exercise(
    name="sparsity_for",
    signature="sparsity_for(shape, budget)",
    section="lesson Criteria, section “What did it save?”",
    cases=_budget_cases,
    refuses=lambda shape, budget: budget < _csr_bytes(shape, 0),
    properties=(
        number("returns a number from 0 to 1"),
        Property(
            "removes a whole number of weights",
            _no_whole_weight,
            "Work out first, in whole numbers, how many weights may stay (// divides without a "
            "remainder); make a fraction of it only at the end.",
        ),
        Property(
            "fits the matrix into the budget",
            _does_not_fit,
            "Write down the three arrays of CSR and how long each is. Which grow with the kept "
            "weights, and which one has one entry more than there are rows?",
        ),
        Property(
            "removes no more than it has to",
            _not_the_smallest,
            "Every entry of the three arrays takes 4 bytes. Are you counting one that is not "
            "stored, or rounding in the wrong direction?",
        ),
        REFUSES,
    ),
)

EXERCISES = (MAGNITUDE_MASK, KILLS_WRONG_MASKS, SPARSITY_FOR)
