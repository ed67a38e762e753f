"""The exercises of the lesson Approaches."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import draw, hunt, kind
from course_lib.exercises.exercise import REFUSES, UNCHANGED, Exercise, Property

SECTION = "lesson Approaches, section “Definition → code”"


def _matrices() -> Iterator[tuple[Tensor, int]]:
    yield torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double(), 1
    yield torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]]).double(), 1
    generator = torch.Generator().manual_seed(6)
    for shape, ranks in (
        ((3, 4), (1, 2, 3)),
        ((5, 2), (1, 2)),
        ((6, 6), (1, 3, 6)),
        ((1, 3), (1,)),
    ):
        weight = draw(shape, generator).double()
        for rank in ranks:
            yield weight, rank
    yield torch.ones(4, 3).double(), 2  # of rank one: nothing is lost
    for rank in (0, -1, 3):
        yield torch.ones(2, 5).double(), rank


def _no_factors(returned: object, weight: Tensor, rank: int) -> str | None:
    n_out, n_in = weight.shape
    wanted = f"two tensors of shapes ({n_out}, {rank}) and ({rank}, {n_in})"
    if not isinstance(returned, tuple) or len(returned) != 2:
        return f"{wanted}, got {kind(returned)}"
    if not all(isinstance(f, Tensor) for f in returned):
        return f"{wanted}, got {', '.join(kind(f) for f in returned)}"
    shapes = [tuple(f.shape) for f in returned]
    if shapes != [(n_out, rank), (rank, n_in)]:
        return f"{wanted}, got {shapes[0]} and {shapes[1]}"
    finite = all(f.isfinite().all() for f in returned)
    return None if finite else f"{wanted} with finite entries"


def _too_far(returned: tuple[Tensor, Tensor], weight: Tensor, rank: int) -> str | None:
    left, right = (f.detach().double() for f in returned)
    error = float(((weight - left @ right) ** 2).sum())
    least = float((torch.linalg.svdvals(weight)[rank:] ** 2).sum())
    if error <= least + 1e-6 * float((weight**2).sum()) + 1e-12:
        return None
    return f"a product whose squared distance is {least:.4g}, the least possible; here {error:.4g}"


LOW_RANK = Exercise(
    name="low_rank",
    signature="low_rank(weight, rank)",
    section=SECTION,
    cases=_matrices,
    refuses=lambda weight, rank: not 1 <= rank <= min(weight.shape),
    properties=(
        Property(
            "returns a pair of factors of the right shapes",
            _no_factors,
            "Left is (outputs, rank), right is (rank, inputs). torch.linalg.svd(weight, "
            "full_matrices=False) gives U, S and Vᵀ; keep the first `rank` columns and rows.",
        ),
        Property(
            "is as near to the weight as a product of that rank can be",
            _too_far,
            "The singular values belong into the product once: all of them left, all right, or a "
            "square root on either side.",
        ),
        UNCHANGED,
        REFUSES,
    ),
)


def buggy_separable_cost(k: int, m: int, n: int, f: int) -> int:
    """a function that lets the depthwise part run once an output channel"""
    return k * k * n * f * f + m * n * f * f


def weak_cost_test(fn: Callable[[int, int, int, int], int]) -> bool:
    """The test that every wrong cost of the bug hunt passes."""
    return fn(3, 9, 9, 1) == 162


def _cost_by_formula(k, m, n, f):
    """a correct function that adds the two products"""
    return k * k * m * f * f + m * n * f * f


def _cost_by_factor(k, m, n, f):
    """a correct function that takes out the common factor"""
    return m * f**2 * (k**2 + n)


def _cost_by_loop(k, m, n, f):
    """a correct function that adds up position by position"""
    return sum(m * (k * k) + sum(m for _ in range(n)) for _ in range(f * f))


def _cost_side_once(k, m, n, f):
    """a function that multiplies by the output's side once, not by its area"""
    return m * f * (k * k + n)


def _cost_pointwise_once(k, m, n, f):
    """a function that lets the 1×1 part run at one position only"""
    return k * k * m * f * f + m * n


def _cost_kernel_side(k, m, n, f):
    """a function that takes three times the kernel's side for its area"""
    return 3 * k * m * f * f + m * n * f * f


def _cost_without_channels(k, m, n, f):
    """a function in which the 1×1 part connects each channel to one only, and the rest is a square"""
    return (k * k + m) * m * f * f


KILLS_WRONG_COSTS = hunt(
    name="kills_wrong_costs",
    signature="is_separable_cost(fn)",
    section=SECTION,
    right=(_cost_by_formula, _cost_by_factor, _cost_by_loop),
    alarm="A false alarm. Work your expected value out again: a k×k filter on each of m channels, "
    "then n sums over m channels, at each of f × f positions.",
    wrong={
        buggy_separable_cost: "There is one k×k filter for each input channel. Which test has m ≠ n?",
        _cost_side_once: "An output of side 1 has area 1: try a larger one.",
        _cost_pointwise_once: "An output of side 1 has one position: try a larger one.",
        _cost_kernel_side: "Try a kernel that is not 3×3.",
        _cost_without_channels: "Try as many input channels as you like, but not as many outputs.",
    },
)


def _budgets() -> Iterator[tuple[int, int, float]]:
    yield 100, 200, 0.5
    yield from ((10, 10, 0.5), (10, 10, 0.2), (10, 10, 1.0), (64, 1568, 0.25), (4, 12, 0.75))
    yield from ((300, 784, 0.1), (7, 3, 0.5), (1, 1, 1.0), (2, 2, 1.0), (2, 2, 0.9))
    yield from ((1000, 1000, 0.001), (5, 50, 0.9))


def _fits(rank: int, n_out: int, n_in: int, fraction: float) -> bool:
    return rank * (n_out + n_in) <= fraction * n_out * n_in


LARGEST_RANK = Exercise(
    name="largest_rank",
    signature="largest_rank(n_out, n_in, fraction)",
    section=SECTION,
    cases=_budgets,
    refuses=lambda n_out, n_in, fraction: not _fits(1, n_out, n_in, fraction),
    properties=(
        Property(
            "returns a whole number from 1 on",
            lambda r, *_: (
                None if type(r) is int and r >= 1 else f"an int from 1 on, got {r!r} ({kind(r)})"
            ),
            "A rank is a whole number: // or int(...).",
        ),
        Property(
            "stays within the budget",
            lambda r, *layer: (
                None if _fits(r, *layer) else "fewer weights; rank r costs r (n_out + n_in)"
            ),
            "Two factors: (n_out, r) and (r, n_in). Round down, not to the nearest.",
        ),
        Property(
            "uses the budget up",
            lambda r, *layer: (
                f"rank {r + 1} at least, which fits too" if _fits(r + 1, *layer) else None
            ),
            "Divide the budget by the weights of one rank.",
        ),
        REFUSES,
    ),
)

EXERCISES = (LOW_RANK, KILLS_WRONG_COSTS, LARGEST_RANK)
