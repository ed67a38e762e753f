"""The exercises of the lesson Criteria."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import (
    SPARSITIES,
    TIE_HINT,
    draw,
    hunt,
    larger_gone,
    later_kept,
    lowest_removed,
    not_a_mask,
    pick,
    repeated,
    rescaled,
    smallest_input,
)
from course_lib.exercises.exercise import UNCHANGED, Exercise, Lines, Property, WrongLine


def _magnitude_cases() -> Iterator[tuple[Tensor, float]]:
    for weight, sparsity in (
        ([1.0, -2.0], 0.5),
        ([5.0], 1.0),
        ([5.0], 0.9),
        ([1.0, 1.0], 0.5),
        ([2.0, 1.0], 0.0),
        ([5.0], 0.5),
        ([0.0, 0.0, 0.0], 0.3),
        ([-1.0, -3.0, 2.0], 0.9),
        ([0.5, -0.5, 0.5, 0.25], 0.5),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.5),
        ([-7.0, 0.0, -7.0, 1.0, 0.0], 0.7),
        ([[0.0, 0.0, 0.0], [0.0, 0.0, -0.5]], 0.1),
        ([[1.0, -2.0], [0.0, 3.0]], 1.0),
        ([1.00002, 1.00001], 0.5),
        ([-1e-30, 2e-30], 0.5),  # their squares are 0
        ([[[1.0, 1.0]], [[1.0, 1.0]]], 0.5),
        ([[[[-3.0, -1.0, -2.0]]], [[[2.0, 1.0, 3.0]]]], 0.75),
    ):
        yield torch.tensor(weight), sparsity
    generator = torch.Generator().manual_seed(0)
    for dims in (1, 2, 3, 4) * 12:
        shape = tuple(pick(3, generator) for _ in range(dims))
        # Powers of two: small and large weights keep their ties.
        scale = 2.0 ** pick((0, 0, -14, 10), generator)
        yield draw(shape, generator) * scale, pick((*SPARSITIES, 0.99), generator)
    for shape in ((5,), (3, 2), (2, 2, 2)) * 2:
        yield from rescaled((draw(shape, generator), pick((0.3, 0.5, 0.7), generator)), 0)
    yield torch.tensor([1.0, 1.0 + 1e-12, 1.0], dtype=torch.float64), 0.7
    yield torch.randn(24, 15, generator=generator), 0.9
    yield repeated((draw((3, 2, 2, 1), generator), 0.905), 50)


def _gone(sparsity: float, n: int) -> int:
    """How many of n weights go: the last one stays unless everything was asked for."""
    return min(round(sparsity * n), n - 1 if sparsity < 1 else n)


def _legal(weight: Tensor, sparsity: float) -> str | None:
    if weight.numel() == 0 or weight.ndim == 0:
        return "a weight with at least one entry"
    if not weight.is_floating_point():
        return "a weight of floats"
    if not weight.isfinite().all():
        return "a weight whose entries are finite"
    return None if 0 <= sparsity <= 1 else "a sparsity from 0 to 1"


def _wrong_count(keep: Tensor, weight: Tensor, sparsity: float) -> str | None:
    n, removed, count = keep.numel(), int((~keep).sum()), round(sparsity * keep.numel())
    wanted = _gone(sparsity, n)
    if removed == wanted:
        return None
    words = f"round({sparsity:g} * {n}) = {count} of {n} weights removed"
    if wanted < count:
        words = f"one weight kept, because {sparsity:g} is below 1, so {wanted} of {n} removed"
    # Who rounds another way may remove as many as should stay, but not the largest.
    inverted = torch.equal(~keep, lowest_removed(weight.abs(), wanted))
    upside_down = " (True means keep: is the mask upside down?)" if inverted else ""
    return f"{words}, not {removed}{upside_down}"


MAGNITUDE_MASK = Exercise(
    name="magnitude_mask",
    signature="magnitude_mask(weight, sparsity)",
    section="lesson Criteria, section “Definition → code”",
    cases=_magnitude_cases,
    legal=_legal,
    properties=(
        Property(
            "returns a torch.bool tensor of the weight's shape",
            lambda mask, weight, sparsity: not_a_mask(mask, weight),
            "A comparison of tensors gives torch.bool; a mask made on the flat weight is brought "
            "back to its form by reshape(weight.shape).",
        ),
        Property(
            "removes exactly as many weights as the statement says",
            _wrong_count,
            "Comparing with a threshold removes all weights that are tied with it, or none of them. "
            "Count first, with Python's round; below sparsity 1, one weight stays in any case. Then "
            "choose that many positions.",
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
    n = weight.numel()
    count = min(round(sparsity * n), n - 1 if sparsity < 1 else n)
    if count == 0:
        return torch.ones_like(weight, dtype=torch.bool)
    threshold = weight.abs().flatten().kthvalue(count).values
    return weight.abs() > threshold


SMALLEST = smallest_input(
    name="mask_goes_wrong",
    wrong=buggy_magnitude_mask,
    judged_by=MAGNITUDE_MASK,
    at_most=2,
    hint="Say for your input how many weights should go, what the threshold is, and how many "
    "weights are above it. When are that too few?",
)


def weak_mask_test(mask_fn: Callable[[Tensor, float], Tensor]) -> bool:
    """The test that every wrong mask function of the bug hunt passes."""
    weight = torch.linspace(0.01, 1.0, 100)
    keep = mask_fn(weight, 0.9).bool()
    large_stay = weight[keep].min() > weight[~keep].max()
    about_ten_percent = abs(keep.float().mean() - 0.1) < 0.02
    return bool(large_stay and about_ten_percent)


# The functions of the bug hunt. Right ones first.


def _mask_by_stable_sort(weight, sparsity):
    """a correct function that sorts the magnitudes"""
    return lowest_removed(weight.abs(), _gone(sparsity, weight.numel()))


def _mask_by_python(weight, sparsity):
    """a correct function that works on Python lists"""
    size = [abs(value) for value in weight.flatten().tolist()]
    order = sorted(range(len(size)), key=lambda i: (size[i], -i))
    gone = set(order[: _gone(sparsity, len(size))])
    return torch.tensor([i not in gone for i in range(len(size))]).reshape(weight.shape)


def _mask_by_threshold_and_fill(weight, sparsity):
    """a correct function that compares with a threshold and then shares out the ties"""
    size = weight.abs().flatten()
    places = size.numel() - _gone(sparsity, size.numel())
    if places == 0:
        return torch.zeros_like(weight, dtype=torch.bool)
    cut = size.sort(descending=True).values[places - 1]
    above, tied = size > cut, size == cut
    return (above | (tied & (tied.cumsum(0) <= places - above.sum()))).reshape(weight.shape)


def _mask_one_too_many(weight, sparsity):
    """a function that removes one weight too many"""
    return lowest_removed(weight.abs(), min(_gone(sparsity, weight.numel()) + 1, weight.numel()))


def _mask_by_quantile(weight, sparsity):
    """a function that cuts at the quantile, which goes wrong when magnitudes are equal"""
    size = weight.abs().float()
    return size > size.quantile(sparsity)


def _mask_signed(weight, sparsity):
    """a function that forgets the absolute value and so removes the most negative weights"""
    return lowest_removed(weight, _gone(sparsity, weight.numel()))


def _mask_signed_vector(weight, sparsity):
    """a function that takes the magnitudes of a matrix, and of a vector the values"""
    return _mask_by_stable_sort(weight - weight.min() if weight.ndim == 1 else weight, sparsity)


def _mask_rounded_up(weight, sparsity):
    """a function that rounds the number of weights up"""
    n = weight.numel()
    return lowest_removed(weight.abs(), min(math.ceil(sparsity * n - 1e-9), n - (sparsity < 1)))


def _mask_rounded_down(weight, sparsity):
    """a function that rounds the number of weights down"""
    return lowest_removed(weight.abs(), int(sparsity * weight.numel() + 1e-9))


def _mask_half_rounded_up(weight, sparsity):
    """a function that rounds halves up, which Python's round does not"""
    n = weight.numel()
    return lowest_removed(weight.abs(), min(int(sparsity * n + 0.5), n - (sparsity < 1)))


def _mask_nothing_left(weight, sparsity):
    """a function that takes the last weight of a small layer below sparsity 1"""
    return lowest_removed(weight.abs(), round(sparsity * weight.numel()))


def _mask_later_of_ties(weight, sparsity):
    """a function that keeps the later of equal magnitudes"""
    return _mask_by_stable_sort(weight.flatten().flip(0), sparsity).flip(0).reshape(weight.shape)


def _mask_of_bytes(weight, sparsity):
    """a function that returns zeros and ones of type torch.uint8"""
    return _mask_by_stable_sort(weight, sparsity).byte()


def _mask_flat(weight, sparsity):
    """a function that returns the mask of a matrix as one long row"""
    return _mask_by_stable_sort(weight, sparsity).flatten()


def _mask_of_rounded(weight, sparsity):
    """a function that rounds magnitudes to hundredths, so that small ones become equal"""
    return _mask_by_stable_sort((weight * 100).round(), sparsity)


def _mask_without_small(weight, sparsity):
    """a function that takes all magnitudes below 0.01 for equal"""
    size = weight.abs()
    return _mask_by_stable_sort(size.masked_fill(size < 0.01, 0), sparsity)


def _mask_by_row(weight, sparsity):
    """a function that divides each row of a matrix by its norm first"""
    if weight.ndim < 2:
        return _mask_by_stable_sort(weight, sparsity)
    rows = weight.flatten(1).abs()
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return _mask_by_stable_sort(rows, sparsity).reshape(weight.shape)


def _mask_without_zero(weight, sparsity):
    """a function that asks for the zeroth smallest magnitude at sparsity 0, and crashes"""
    weight.abs().flatten().kthvalue(_gone(sparsity, weight.numel()))
    return _mask_by_stable_sort(weight, sparsity)


def _mask_in_place(weight, sparsity):
    """a function that also sets the removed weights to zero in the tensor it was given"""
    keep = _mask_by_stable_sort(weight, sparsity)
    weight.detach()[~keep] = 0
    return keep


def _mask_nothing_is_everything(weight, sparsity):
    """a function that removes everything at sparsity 0"""
    count = _gone(sparsity, weight.numel())
    return lowest_removed(weight.abs(), count if count else weight.numel())


def _mask_without_sparsity(weight, sparsity):
    """a function that takes a sparsity of 0 for one that was not given, and removes half"""
    return _mask_by_stable_sort(weight, sparsity or 0.5)


def _mask_keeps_one(weight, sparsity):
    """a function that keeps one weight at sparsity 1 too"""
    n = weight.numel()
    return lowest_removed(weight.abs(), min(round(sparsity * n), n - 1))


KILLS_WRONG_MASKS = hunt(
    name="kills_wrong_masks",
    signature="is_magnitude_mask(mask_fn)",
    section="lesson Criteria, exercise A: everything that it demands",
    right=(_mask_by_stable_sort, _mask_by_python, _mask_by_threshold_and_fill),
    alarm="A false alarm. The function does all that exercise A demands: which line of your test "
    "asks for more? (Python's round makes 2 of 2.5. The input must not change, also not by you.)",
    wrong={
        buggy_magnitude_mask: "When does a threshold hit more weights than it should? "
        "Try a weight with many equal magnitudes, and count.",
        _mask_one_too_many: "“About as many” is not a count: compare with the number demanded.",
        _mask_by_quantile: "Try magnitudes that are all equal: how many are above their quantile?",
        _mask_signed: "Your weights should look like a layer's: try negative ones as well.",
        _mask_rounded_up: "Try a sparsity at which sparsity * n lies a little above a "
        "whole number.",
        _mask_rounded_down: "Try a sparsity at which sparsity * n lies a little below a "
        "whole number.",
        _mask_half_rounded_up: "Try 5 weights and sparsity 0.5. What is round(2.5) in Python?",
        _mask_nothing_left: "Try one weight and sparsity 0.9.",
        _mask_later_of_ties: "Which of two equal magnitudes stays? Counting does not tell.",
        _mask_of_bytes: "Compare the dtype as well: equal entries are not equal tensors.",
        _mask_flat: "Try a matrix, and compare the shape as well.",
        _mask_of_rounded: "Try weights like those of a trained layer, some below 0.01.",
        _mask_without_small: "Try a layer whose weights are all below 0.01, and no two alike.",
        _mask_by_row: "Try a matrix whose rows differ in size, with the smallest entries all in one.",
        _mask_without_zero: "Try the ends of the range of sparsity as well.",
        _mask_in_place: "A function has effects beside its result: "
        "compare the weight after the call with a copy from before it.",
        _mask_without_sparsity: "Try the ends of the range of sparsity as well.",
        _mask_keeps_one: "Try sparsity 1: everything goes, also from a layer of one weight.",
        _mask_nothing_is_everything: "Try the ends of the range of sparsity as well.",
        _mask_signed_vector: "Try vectors and matrices, both of them with negative weights.",
    },
)

EXERCISES = (MAGNITUDE_MASK, SMALLEST, KILLS_WRONG_MASKS)


def _mask_to_order(weight, sparsity):
    size = weight.abs().flatten()
    order = size.argsort(descending=True, stable=True)
    most = len(order) - 1 if sparsity < 1 else len(order)
    gone = min(round(sparsity * len(order)), most)
    kept = order[: len(order) - gone]
    keep = torch.zeros_like(size, dtype=torch.bool).index_fill(0, kept, True)
    return keep.reshape(weight.shape)


PUZZLES = (
    Lines(
        "magnitude_mask",
        _mask_to_order,
        {
            "size = weight.flatten()": "This takes -2 for less than 1. Magnitude is the distance "
            "from zero.",
            "order = size.argsort(stable=True)": "The smallest would come first, and the line that "
            "makes `kept` takes what comes first.",
            "gone = min(int(sparsity * len(order)), most)": "`int` always rounds down; the "
            "statement asks for `round`.",
            "kept = order[:gone]": "`gone` is how many go, not how many stay.",
        },
    ),
    WrongLine(
        "magnitude_mask",
        buggy_magnitude_mask,
        wrong="return weight.abs() > threshold",
        why="It removes every weight that is tied with the threshold, however many there are.",
        others={
            "count = min(round(sparsity * n), n - 1 if sparsity < 1 else n)": "That is the number "
            "that has to go.",
            "if count == 0:": "Without it, `kthvalue(0)` would be an error.",
            "threshold = weight.abs().flatten().kthvalue(count).values": "That is the largest "
            "magnitude that goes. The number of weights that have it is another matter.",
        },
    ),
)
