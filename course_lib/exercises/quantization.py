"""The exercises of the lesson Quantization."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import (
    draw,
    held,
    hunt,
    kind,
    oracle,
    pick,
    rescaled,
    smallest_input,
)
from course_lib.exercises.exercise import UNCHANGED, Exercise, Lines, Property, WrongLine, show

_SECTION = "lesson Quantization, section “Definition → code”"


# ---- A · whole numbers and a step for each row


def round_rows(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(out, in) -> whole numbers (out, in) and the step of each row's grid (out,)."""
    largest = weight.abs().amax(1)
    largest[largest == 0] = 2 ** (bits - 1) - 1
    steps = largest / (2 ** (bits - 1) - 1)
    numbers = (weight / steps[:, None]).round()
    return numbers.to(torch.int8), steps


def _rows_cases() -> Iterator[tuple[Tensor, int]]:
    for weight, bits in (
        ([[1.0, 0.6, -0.3]], 2),
        ([[1.0, 0.4, -1.0]], 2),
        ([[3.0, 1.4, -0.2]], 3),
        ([[3.0, -1.4], [0.3, 0.14]], 3),
        ([[-7.0, 3.2], [0.07, 0.02]], 4),
        ([[0.5], [-2.0], [0.25]], 3),
        ([[0.0, 0.0], [1.0, -0.4]], 2),
        ([[-2.0]], 8),
        ([[0.0]], 5),
        ([[1e-6, -4e-7], [3e4, 1e4]], 5),
        ([[1e-10, -4e-11], [1e-35, 7e-36]], 3),
    ):
        yield torch.tensor(weight), bits
    generator = torch.Generator().manual_seed(5)
    for _ in range(30):
        shape = (pick(4, generator), pick(6, generator))
        yield draw(shape, generator) + 0.01, pick((2, 3, 4, 5, 6, 7, 8), generator)
    for bits in (2, 4, 8):
        yield from rescaled((draw((3, 4), generator) + 0.01, bits), 0)
    yield (draw((3, 4), generator) + 0.01).double(), 6
    yield torch.randn(30, 50, generator=generator) * torch.logspace(-2, 1, 30).unsqueeze(1), 4


def _illegal_weight(weight: Tensor, bits: int) -> str | None:
    """None for a weight and bits that the statement allows, else what it allows."""
    if weight.dim() == 2 and weight.numel() and weight.isfinite().all() and 2 <= bits <= 8:
        return None
    return "a matrix of finite floats that is not empty, and 2 to 8 bits"


def _no_pair(returned: object, weight: Tensor, bits: int) -> str | None:
    wanted = f"(numbers, steps) of shapes {tuple(weight.shape)} and ({len(weight)},)"
    if not isinstance(returned, tuple):
        return f"{wanted}, both of them tensors; got {kind(returned)}"
    if len(returned) != 2 or not all(isinstance(part, Tensor) for part in returned):
        return f"{wanted}, both of them tensors; got {', '.join(map(kind, returned))}"
    numbers, steps = returned
    if numbers.shape != weight.shape or steps.shape != weight.shape[:1]:
        return f"{wanted}, got {tuple(numbers.shape)} and {tuple(steps.shape)}"
    if numbers.dtype != torch.int64 or not steps.is_floating_point():  # any integers are int64 here
        return f"{wanted}, integers and floats; got {held(numbers)} and {held(steps)}"
    return None


def _wrong_steps(returned: tuple[Tensor, Tensor], weight: Tensor, bits: int) -> str | None:
    top = 2 ** (bits - 1) - 1
    for row, step in zip(weight.double(), returned[1].tolist(), strict=True):
        largest = row.abs().max().item()
        wanted = largest / top if largest else 1.0
        if not abs(step - wanted) <= 1e-5 * wanted:
            says = f"the row's largest magnitude {largest:g} / {top}" if largest else "all are 0"
            return f"the step {wanted:.6g} for the row {show(row[:6])} ({says}), not {step:.6g}"
    return None


def _not_nearest(returned: tuple[Tensor, Tensor], weight: Tensor, bits: int) -> str | None:
    numbers, steps = returned
    exact = weight.double() / steps.double()[:, None]
    off = (numbers.double() - exact).abs()
    if (off <= 0.5 + 1e-4).all():
        return None
    k = int(off.argmax())
    w, q, x = (t.flatten()[k].item() for t in (weight, numbers, exact))
    return f"the nearest whole number: {w:.6g} is {x:.3f} steps, so {round(x)}, not {q}"


ROUND_ROWS = Exercise(
    name="round_rows",
    signature="round_rows(weight, bits)",
    section=_SECTION,
    cases=_rows_cases,
    legal=_illegal_weight,
    expected=round_rows,
    properties=(
        Property(
            "returns whole numbers like the weight, and one step for each row",
            _no_pair,
            "Two tensors, numbers first. round() leaves floats; .to(torch.int8) makes integers of "
            "them. The steps have one axis, without keepdim.",
        ),
        Property(
            "takes the step from the largest magnitude of each row",
            _wrong_steps,
            "A symmetric grid of b bits has 2^(b-1) - 1 steps on each side of 0, and its last point "
            "is the row's largest magnitude. In a row of zeros that magnitude is 0, and its step "
            "is 1.",
        ),
        Property(
            "takes the nearest whole number",
            _not_nearest,
            "Truncation (int, floor, .to(torch.int8) alone) goes to the next number in one "
            "direction, up to a whole step away. round() goes to the nearest. Does each row have "
            "its own step?",
        ),
        UNCHANGED,
    ),
)


# ---- B · the best binary approximation


def buggy_binarize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """a function that scales by the root mean square, which keeps the norm"""
    signs = torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype)
    scale = weight.square().mean().sqrt()
    return signs, scale


def weak_binary_test(fn: Callable[[Tensor], tuple[Tensor, Tensor]]) -> bool:
    """The test that every wrong function of the bug hunt passes."""
    weight = torch.ones(6)
    signs, scale = fn(weight)
    return torch.equal(abs(scale) * signs, weight)


def _binary_by_mean(weight):
    """a correct function that takes the mean magnitude"""
    return _signs(weight), weight.abs().mean()


def _signs(weight):
    return torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype)


def _binary_by_product(weight):
    """a correct function that takes the inner product of weight and signs over their number"""
    signs = 1 - 2 * (weight < 0).to(weight.dtype)
    return signs, (weight * signs).sum() / signs.numel()


def _binary_by_least_squares(weight):
    """a correct function that solves for the scale by least squares"""
    signs = _signs(weight)
    column = signs.reshape(-1, 1).double()
    scale = torch.linalg.lstsq(column, weight.reshape(-1, 1).double()).solution
    return signs, scale.squeeze().to(weight.dtype)


def _binary_by_largest(weight):
    """a function that scales by the largest magnitude"""
    return _signs(weight), weight.abs().max()


def _binary_by_median(weight):
    """a function that scales by the median magnitude"""
    return _signs(weight), weight.abs().median()


def _binary_by_signed_mean(weight):
    """a function that takes the mean before the magnitude"""
    return _signs(weight), weight.mean().abs()


def _binary_below_zero(weight):
    """a function that returns the scale with the other sign"""
    return _signs(weight), -weight.abs().mean()


def _binary_of_others(weight):
    """a function that leaves zeros out of the mean"""
    size = weight.abs()
    return _signs(weight), size.sum() / max(1, int((size > 0).sum()))


def _binary_with_zeros(weight):
    """a function that gives the sign 0 to a weight that is 0"""
    return torch.sign(weight), weight.abs().mean()


def _binary_normalised(weight):
    """a function that divides the weight by its largest magnitude first"""
    size = weight.abs()
    return _signs(weight), (size / size.max().clamp(min=1e-30)).mean()


def _binary_rounded(weight):
    """a function that rounds the scale to two decimals"""
    return _signs(weight), (100 * weight.abs().mean()).round() / 100


def _binary_in_half(weight):
    """a function that computes the scale in 16 bits"""
    return _signs(weight), weight.abs().mean().half().to(weight.dtype)


def _binary_of_the_first_row(weight):
    """a function that takes the scale from the first row of a matrix"""
    first = weight[0] if weight.dim() > 1 else weight
    return _signs(weight), first.abs().mean()


def _binary_of_the_first_eight(weight):
    """a function that takes the scale from the first eight weights"""
    return _signs(weight), weight.flatten()[:8].abs().mean()


def _binary_flat(weight):
    """a function that returns the signs of a matrix as one row"""
    return _signs(weight).flatten(), weight.abs().mean()


def _binary_in_integers(weight):
    """a function that returns the signs as integers, not in the dtype of the weight"""
    return _signs(weight).long(), weight.abs().mean()


def _binary_in_double(weight):
    """a function that returns the signs as 64-bit floats, not in the dtype of the weight"""
    return _signs(weight).double(), weight.abs().mean()


def _binary_of_sorted(weight):
    """a function that sorts the weight first, so that its signs stand in other places"""
    return _signs(weight.flatten().sort().values).view(weight.shape), weight.abs().mean()


def _binary_of_a_list(weight):
    """a function that works on a list of numbers, and crashes on a matrix"""
    return _signs(weight), torch.tensor([abs(w) for w in weight.tolist()]).mean()


def _binary_in_place(weight):
    """a function that also turns the weight it was given into its signs"""
    scale = weight.abs().mean()
    signs = _signs(weight)
    weight.copy_(signs * scale)
    return signs, scale


KILLS_WRONG_BINARIES = hunt(
    name="kills_wrong_binaries",
    signature="is_best_binary(fn)",
    section=_SECTION,
    right=(_binary_by_mean, _binary_by_product, _binary_by_least_squares),
    alarm="A false alarm. The best scale is unique, but a sum taken in another order differs in the "
    "last digits: compare with a tolerance, such as 1e-5 of the scale. A weight that is 0 counts as "
    "positive.",
    wrong={
        buggy_binarize: "Where all magnitudes are equal, mean and root mean square are the same. "
        "Which of the two makes ‖W − αB‖ smallest? Try a weight such as [3, 1].",
        _binary_by_largest: "Try a weight whose magnitudes differ.",
        _binary_by_median: "The median of [3, 1] is one of the two, and the mean is not.",
        _binary_by_signed_mean: "Try a weight with both signs.",
        _binary_below_zero: "Compare the scale itself, not its magnitude.",
        _binary_of_others: "Try a weight with a zero in it: it costs α² whichever sign it gets.",
        _binary_with_zeros: "One bit holds two values. Which sign does a weight of 0 get?",
        _binary_normalised: "Try a weight whose largest magnitude is not 1.",
        _binary_rounded: "Compare the scale to five decimals, on a weight whose mean magnitude has "
        "more than two.",
        _binary_in_half: "Compare the scale to five decimals, on a weight such as [3, -1, 0], whose "
        "mean magnitude is no short fraction.",
        _binary_of_the_first_row: "Try a matrix whose rows differ.",
        _binary_of_the_first_eight: "Try a weight with more than eight entries.",
        _binary_flat: "Try a matrix, and compare the shapes.",
        _binary_in_integers: "torch.equal finds 1 and 1.0 equal. Compare the dtypes, too.",
        _binary_in_double: "Compare the dtypes on a weight of 32-bit floats, too.",
        _binary_of_sorted: "Try a weight with both signs, and compare the signs place by place.",
        _binary_of_a_list: "An error is no answer: let your test return False where fn raises one.",
        _binary_in_place: "A function has effects beside its result: compare the weight after the "
        "call with a copy from before it.",
    },
)


def _illegal_floats(weight: Tensor) -> str | None:
    """None for a weight that the statement allows, else what it allows."""
    fine = weight.is_floating_point() and weight.numel() > 0 and weight.isfinite().all()
    return None if fine else "a tensor of finite floats with at least one entry"


SMALLEST_BINARY = smallest_input(
    name="smallest_binary",
    wrong=buggy_binarize,
    judged_by=oracle(
        signature="best_binary(weight)",
        section=_SECTION,
        right=_binary_by_mean,
        case=(torch.tensor([3.0, -1.0]),),
        legal=_illegal_floats,
    ),
    at_most=2,
    hint="One weight is reached exactly, by either scale. When do the mean magnitude and the root "
    "mean square of two weights differ?",
)

PUZZLES = (
    Lines(
        name="round_rows",
        function=round_rows,
        distractors={
            "largest = weight.abs().amax(0)": "that is the largest of each column.",
            "steps = largest / 2 ** (bits - 1)": "the positive side has one point fewer than that, "
            "and the largest weight would fall beyond it.",
            "numbers = (weight / steps).round()": "a row of steps divides the columns; [:, None] "
            "makes a column of them, which divides the rows.",
            "numbers = (weight / steps[:, None]).floor()": "floor goes down, up to a whole step "
            "away. The nearest number is asked for.",
        },
    ),
    WrongLine(
        name="kills_wrong_binaries",
        function=buggy_binarize,
        wrong="scale = weight.square().mean().sqrt()",
        why="this scale keeps the norm of W. The distance ‖W − αB‖ is smallest for the mean "
        "magnitude, which is lower unless all magnitudes are equal.",
        others={
            "signs = torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype)": "these are the best "
            "signs, and 0 counts as positive. They also have the dtype of the weight.",
        },
    ),
)
EXERCISES = (ROUND_ROWS, SMALLEST_BINARY, KILLS_WRONG_BINARIES)
