"""The exercises of the lesson Quantization."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from course_lib.exercises.common import draw, hunt, kind, pick
from course_lib.exercises.exercise import REFUSES, UNCHANGED, Exercise, Property

_SECTION = "lesson Quantization, section “Definition → code”"


def _rows_cases() -> Iterator[tuple[Tensor, int]]:
    for weight, bits in (
        ([[1.0, 0.6, -0.3]], 2),
        ([[1.0, 0.4, -1.0]], 2),
        ([[3.0, 1.4, -0.2]], 3),
        ([[3.0, -1.4], [0.3, 0.14]], 3),
        ([[-7.0, 3.2], [0.07, 0.02]], 4),
        ([[0.0, 0.0], [1.0, -0.4]], 2),
        ([[-2.0]], 8),
    ):
        yield torch.tensor(weight), bits
    generator = torch.Generator().manual_seed(5)
    for _ in range(30):
        shape = (pick(4, generator), pick(6, generator))
        yield draw(shape, generator) + 0.01, pick((2, 3, 4, 8), generator)
    yield torch.randn(30, 50, generator=generator) * torch.logspace(-2, 1, 30).unsqueeze(1), 4


def _steps(weight: Tensor, bits: int) -> Tensor:
    """The step of each row's grid, (rows, 1)."""
    return weight.abs().amax(1, keepdim=True).double() / (2 ** (bits - 1) - 1)


def _no_weight(returned: object, weight: Tensor, bits: int) -> str | None:
    wanted = f"a floating-point tensor of shape {tuple(weight.shape)}"
    if type(returned) is not Tensor:
        return f"{wanted}, got {kind(returned)}"
    if returned.shape != weight.shape or not returned.is_floating_point():
        return f"{wanted}, got {returned.dtype} of shape {tuple(returned.shape)}"
    return None if returned.isfinite().all() else f"{wanted}, all of it finite"


def _largest_moved(returned: Tensor, weight: Tensor, bits: int) -> str | None:
    for row, found in zip(weight.double(), returned.detach().double(), strict=True):
        top = row.abs().argmax()
        if not math.isclose(row[top], found[top], rel_tol=1e-5, abs_tol=1e-12):
            return f"{row[top]:g}, the largest of its row, where it was; it became {found[top]:g}"
    return None


def _off_grid(returned: Tensor, weight: Tensor, bits: int) -> str | None:
    for row, found, step in zip(
        weight, returned.detach().double(), _steps(weight, bits), strict=True
    ):
        places = found / step if step > 0 else found
        if not torch.allclose(places, places.round(), atol=1e-3):
            worst = found[(places - places.round()).abs().argmax()]
            return (
                f"whole multiples of {step.item():.4g} in the row {row.tolist()[:6]}, which is its "
                f"largest magnitude / {2 ** (bits - 1) - 1}; {worst:.4g} is none"
            )
    return None


def _not_nearest(returned: Tensor, weight: Tensor, bits: int) -> str | None:
    error = (returned.detach().double() - weight.double()).abs()
    excess = error - _steps(weight, bits) / 2 * (1 + 1e-4)
    if (excess <= 1e-9).all():
        return None
    k = int(excess.argmax())
    return (
        f"each weight at most half a step away; {weight.flatten()[k]:g} became "
        f"{returned.flatten()[k]:g}"
    )


ROUND_ROWS = Exercise(
    name="round_rows",
    signature="round_rows(weight, bits)",
    section=_SECTION,
    cases=_rows_cases,
    properties=(
        Property(
            "returns a tensor of finite numbers, of the weight's shape",
            _no_weight,
            "Come back from the whole numbers: times the step. A row of zeros has the step 0, and "
            "0 / 0 is not a number.",
        ),
        Property(
            "leaves the largest weight of each row where it is",
            _largest_moved,
            "A grid for each row: its last point is the largest magnitude of that row, not of the "
            "whole tensor. amax(dim=1, keepdim=True) gives one number per row.",
        ),
        Property(
            "puts every weight on its row's grid",
            _off_grid,
            "A signed grid of b bits that is symmetric about 0 has 2^(b-1) - 1 steps on each side.",
        ),
        Property(
            "takes the nearest point of the grid",
            _not_nearest,
            "Truncation (int, floor) goes to the next point in one direction, up to a whole step "
            "away. torch.round goes to the nearest.",
        ),
        UNCHANGED,
    ),
)


def buggy_binarize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """a function that scales by the root mean square, which keeps the norm"""
    signs = torch.where(weight >= 0, 1.0, -1.0)
    return signs, weight.square().mean().sqrt()


def weak_binary_test(fn: Callable[[Tensor], tuple[Tensor, Tensor]]) -> bool:
    """The test that every wrong function of the bug hunt passes."""
    weight = torch.full((2, 3), 0.5)
    signs, scale = fn(weight)
    return torch.equal(scale * signs, weight)


def _binary_by_mean(weight):
    """a correct function that takes the mean magnitude"""
    return torch.where(weight >= 0, 1.0, -1.0), weight.abs().mean()


def _binary_by_product(weight):
    """a correct function that takes the inner product of weight and signs over their number"""
    signs = 1.0 - 2.0 * (weight < 0).float()
    return signs, (weight * signs).sum() / signs.numel()


def _binary_by_least_squares(weight):
    """a correct function that solves for the scale by least squares"""
    signs = torch.where(weight < 0, -1.0, 1.0)
    column = signs.reshape(-1, 1).double()
    scale = torch.linalg.lstsq(column, weight.reshape(-1, 1).double()).solution
    return signs, scale.squeeze().float()


def _binary_by_largest(weight):
    """a function that scales by the largest magnitude"""
    return torch.where(weight >= 0, 1.0, -1.0), weight.abs().max()


def _binary_by_signed_mean(weight):
    """a function that takes the mean before the magnitude"""
    return torch.where(weight >= 0, 1.0, -1.0), weight.mean().abs()


def _binary_of_others(weight):
    """a function that leaves zeros out of the mean"""
    size = weight.abs()
    return torch.where(weight >= 0, 1.0, -1.0), size.sum() / max(1, int((size > 0).sum()))


def _binary_with_zeros(weight):
    """a function that gives the sign 0 to a weight that is 0"""
    return torch.sign(weight), weight.abs().mean()


def _binary_in_place(weight):
    """a function that also turns the weight it was given into its signs"""
    scale = weight.abs().mean()
    signs = torch.where(weight >= 0, 1.0, -1.0)
    weight.copy_(signs * scale)
    return signs, scale


KILLS_WRONG_BINARIES = hunt(
    name="kills_wrong_binaries",
    signature="is_best_binary(fn)",
    section=_SECTION,
    right=(_binary_by_mean, _binary_by_product, _binary_by_least_squares),
    alarm="A false alarm. The best scale is unique, but a sum taken in another order differs in the "
    "last digits: compare with torch.isclose. A weight that is 0 counts as positive.",
    wrong={
        buggy_binarize: "Where all magnitudes are equal, mean and root mean square are the same. "
        "Which of the two makes ‖W − αB‖ smallest? Try a weight such as [3, 1].",
        _binary_by_largest: "Try a weight whose magnitudes differ.",
        _binary_by_signed_mean: "Try a weight with both signs.",
        _binary_of_others: "Try a weight with a zero in it: it costs α² whichever sign it gets.",
        _binary_with_zeros: "One bit holds two values. Which sign does a weight of 0 get?",
        _binary_in_place: "A function has effects beside its result: compare the weight after the "
        "call with a copy from before it.",
    },
)

_LENET = ((300, 784), (100, 300), (10, 100))


def storage(shapes: Sequence[tuple[int, ...]], bits: int) -> int:
    """Bytes of a network of layers with weights of shapes (out, in, …).

    Each layer stores its weights at ``bits`` bits per weight, in whole bytes, and a float32 scale
    and a float32 bias per output.
    """
    return sum(-(-math.prod(s) * bits // 8) + 8 * s[0] for s in shapes)


def _bits_cases() -> Iterator[tuple[tuple[tuple[int, ...], ...], int]]:
    one = ((1, 8),)
    for shapes, budget in ((one, 16), (one, 15), (one, 10), (one, 12), (((2, 4),), 25), (one, 9)):
        yield shapes, budget
    for shapes in (((3, 3),), ((3, 3), (5, 3)), ((4, 2, 3, 3), (10, 16)), ((7, 1),), _LENET):
        for bits in (1, 2, 3, 4, 7, 8, 9, 16):
            exact = storage(shapes, bits)
            yield from ((shapes, exact), (shapes, exact - 1), (shapes, exact + 1))


def _too_small(shapes: tuple, budget: int) -> bool:
    return storage(shapes, 2) > budget


def _no_bits(returned: object, shapes: tuple, budget: int) -> str | None:
    if type(returned) is not int:
        return f"an int, got {kind(returned)}"
    return None if 2 <= returned <= 8 else f"2 to 8 bits, not {returned}"


def _too_large(bits: int, shapes: tuple, budget: int) -> str | None:
    needed = storage(shapes, bits)
    return None if needed <= budget else f"at most {budget} bytes; {bits} bits need {needed}"


def _too_narrow(bits: int, shapes: tuple, budget: int) -> str | None:
    if bits == 8 or storage(shapes, bits + 1) > budget:
        return None
    return f"more than {bits} bits: {bits + 1} need {storage(shapes, bits + 1)} bytes, which fit"


WIDEST_BITS = Exercise(
    name="widest_bits",
    signature="widest_bits(shapes, budget)",
    section="lesson Quantization, section “What did it save?”",
    cases=_bits_cases,
    refuses=_too_small,
    properties=(
        Property(
            "returns a whole number from 2 to 8",
            _no_bits,
            "More than 8 bits are not offered here, however large the budget. A division makes a "
            "float: use //.",
        ),
        Property(
            "stays within the budget",
            _too_large,
            "Count everything: the weights' bits, rounded up to whole bytes in each layer, and for "
            "each output (the first number of a shape) 4 bytes of scale and 4 of bias.",
        ),
        Property(
            "takes as many bits as fit",
            _too_narrow,
            "Try 8, 7, 6, … and return the first that fits. A budget is met if it is used up exactly.",
        ),
        REFUSES,
    ),
)

EXERCISES = (ROUND_ROWS, KILLS_WRONG_BINARIES, WIDEST_BITS)
