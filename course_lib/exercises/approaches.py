"""The exercises of the lesson Approaches."""

from collections.abc import Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import draw, held, kind, rescaled, smallest_input
from course_lib.exercises.exercise import (
    REFUSES,
    UNCHANGED,
    Exercise,
    Lines,
    Property,
    WrongLine,
    show,
)

SECTION = "lesson Approaches, section “Definition → code”"
TOLERANCE = 1e-6  # of squared distances; the lesson states it, and float32 needs a tenth of it


def _low_rank_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:rank]


def _matrices() -> Iterator[tuple[Tensor, int]]:
    yield torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double(), 1
    yield torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]]).double(), 1
    yield torch.tensor([[1.0, 1.0], [0.0, 1.0]]).double(), 1
    yield torch.tensor([[-3.0]]).double(), 1
    yield torch.tensor([[0.5]]).double(), 1
    yield torch.tensor([[2.0, 2.5], [2.0, 1.5]]).double(), 1  # its mean matters
    generator = torch.Generator().manual_seed(6)
    for shape, ranks in (
        ((3, 4), (1, 2, 3)),
        ((5, 2), (1, 2)),
        ((6, 6), (1, 3, 6)),
        ((1, 3), (1,)),
        ((3, 1), (1,)),
    ):
        weight = draw(shape, generator).double()
        for rank in ranks:
            yield weight, rank
    yield torch.ones(4, 3).double(), 2  # of rank one: nothing is lost
    yield torch.zeros(2, 3).double(), 1
    yield torch.zeros(3, 4).double(), 2  # an answer may shrink what is zero to rank one
    yield torch.eye(4).double(), 2  # all singular values are equal
    for shape, rank in (((12, 9), 4), ((9, 12), 8), ((40, 30), 7)):
        yield torch.randn(shape, generator=generator).double(), rank
    scales = (2.0**-80, 2.0**-10, 2.0**10, 2.0**80)
    yield from rescaled((torch.randn(5, 7, generator=generator).double(), 2), 0, scales=scales)
    yield torch.eye(3).double() * 2.0**-20, 3
    for shape, rank in (((2, 5), 0), ((2, 5), -1), ((2, 5), 3), ((5, 2), 3), ((3, 3), 4)):
        yield torch.ones(shape).double(), rank


def _no_factors(returned: object, weight: Tensor, rank: int) -> str | None:
    n_out, n_in = weight.shape
    wanted = f"a tuple of two float tensors of shapes ({n_out}, {rank}) and ({rank}, {n_in})"
    if not isinstance(returned, tuple) or len(returned) != 2:
        return f"{wanted}, got {kind(returned)}"
    if not all(isinstance(f, Tensor) and f.is_floating_point() for f in returned):
        return f"{wanted}, got {', '.join(kind(f) for f in returned)}"
    shapes = [tuple(f.shape) for f in returned]
    if shapes != [(n_out, rank), (rank, n_in)]:
        return f"{wanted}, got {shapes[0]} and {shapes[1]}"
    finite = all(f.isfinite().all() for f in returned)
    return None if finite else f"{wanted} with finite entries"


def _too_far(returned: tuple[Tensor, Tensor], weight: Tensor, rank: int) -> str | None:
    left, right = (f.double() for f in returned)
    error = float(((weight - left @ right) ** 2).sum())
    least = float((torch.linalg.svdvals(weight)[rank:] ** 2).sum())
    if error <= least + TOLERANCE * float((weight**2).sum()):
        return None
    return f"a product whose squared distance is {least:.4g}, the least possible; here {error:.4g}"


LOW_RANK_FACTORS = Exercise(
    name="low_rank_factors",
    signature="low_rank_factors(weight, rank)",
    section=SECTION,
    cases=_matrices,
    refuses=lambda weight, rank: not 1 <= rank <= min(weight.shape),
    expected=_low_rank_factors,
    properties=(
        Property(
            "returns a pair of factors of the right shapes",
            _no_factors,
            "The first is (outputs, rank), the second is (rank, inputs). torch.linalg.svd(weight, "
            "full_matrices=False) gives U, S and Vᵀ; `rank` columns and as many rows are kept.",
        ),
        Property(
            "is as near to the weight as a product of that rank can be",
            _too_far,
            "The singular values belong into the product once: all of them left, all right, or a "
            "square root on either side. The largest ones are kept.",
        ),
        UNCHANGED,
        REFUSES,
    ),
)


def buggy_full_kernel(depthwise: Tensor, pointwise: Tensor) -> Tensor:
    """The full kernel (n, m, k, k) of a separable convolution: wrong."""
    n, m = pointwise.shape[:2]
    k = depthwise.shape[-1]
    filters = depthwise.reshape(m, 1, k, k)
    mix = pointwise.reshape(n, m, 1, 1)
    return mix * filters


def _full_kernel(depthwise: Tensor, pointwise: Tensor) -> Tensor:
    return pointwise * depthwise.transpose(0, 1)


def _kernels() -> Iterator[tuple[Tensor, Tensor]]:
    yield torch.tensor([2.0, 3.0]).reshape(2, 1, 1, 1), torch.eye(2).reshape(2, 2, 1, 1)
    yield torch.tensor([[[[2.0]]]]), torch.tensor([[[[-3.0]]]])
    generator = torch.Generator().manual_seed(7)
    for n, m, k in (
        *((2, 1, 1), (1, 2, 1), (2, 2, 1), (3, 2, 1), (2, 3, 1), (1, 1, 2), (2, 1, 2), (1, 2, 2)),
        *((2, 2, 2), (3, 3, 2), (2, 2, 3), (4, 2, 3), (2, 4, 3), (3, 3, 3), (5, 3, 1), (5, 5, 5)),
    ):
        yield draw((m, 1, k, k), generator), draw((n, m, 1, 1), generator)
    for n, m, k in ((4, 4, 3), (8, 3, 3), (3, 8, 3)):
        filters = torch.randn(m, 1, k, k, generator=generator)
        yield filters, torch.randn(n, m, 1, 1, generator=generator)
    case = draw((3, 1, 3, 3), generator), draw((3, 3, 1, 1), generator)
    yield case[0].double(), 100 * case[1].double()
    yield from rescaled(case, 0, scales=(2.0**20,))
    yield case[0] * 2.0**-60, case[1] * 2.0**60  # the kernel is as before


def _illegal_kernels(depthwise: Tensor, pointwise: Tensor) -> str | None:
    """None for two kernels that the statement allows, else what it allows."""
    k, m = depthwise.shape[-1], pointwise.shape[1]
    fit = depthwise.shape == (m, 1, k, k) and pointwise.shape == (len(pointwise), m, 1, 1)
    if fit and depthwise.numel() and pointwise.numel():
        both = depthwise.is_floating_point() and pointwise.is_floating_point()
        if both and depthwise.isfinite().all() and pointwise.isfinite().all():
            return None
    return "two tensors of finite floats, of shapes (m, 1, k, k) and (n, m, 1, 1)"


def _no_kernel(returned: object, depthwise: Tensor, pointwise: Tensor) -> str | None:
    shape = (*pointwise.shape[:2], *depthwise.shape[2:])
    wanted = f"a tensor of finite floats of shape {shape}"
    if not isinstance(returned, Tensor):
        return f"{wanted}, got {kind(returned)}"
    if returned.shape != shape or not returned.is_floating_point():
        return f"{wanted}, got {held(returned)} of shape {tuple(returned.shape)}"
    return None if returned.isfinite().all() else wanted


def _other_kernel(returned: Tensor, depthwise: Tensor, pointwise: Tensor) -> str | None:
    expected = _full_kernel(depthwise.double(), pointwise.double())
    off = (returned.double() - expected).abs()
    if (off <= 1e-6 * (1 + expected.abs())).all():
        return None
    o, i, y, x = (off == off.max()).nonzero()[0].tolist()
    return f"{show(expected)}; entry [{o}, {i}, {y}, {x}] is {expected[o, i, y, x]:g}"


MENDED_FULL_KERNEL = Exercise(
    name="mended_full_kernel",
    signature="mended_full_kernel(depthwise, pointwise)",
    section=SECTION,
    cases=_kernels,
    legal=_illegal_kernels,
    expected=_full_kernel,
    properties=(
        Property(
            "returns a float tensor of shape (n, m, k, k)",
            _no_kernel,
            "The full convolution has one k×k filter for each output channel o and each input "
            "channel i.",
        ),
        Property(
            "gives input channel i its own filter, times the weight with which output o mixes it",
            _other_kernel,
            "Entry [o, i, y, x] is pointwise[o, i] * depthwise[i, 0, y, x]: which of the four "
            "axes of `depthwise` should count the input channels after the reshape?",
        ),
        UNCHANGED,
    ),
)

SMALLEST_KERNEL = smallest_input(
    name="smallest_kernel",
    wrong=buggy_full_kernel,
    judged_by=MENDED_FULL_KERNEL,
    at_most=4,
    hint="Filters of one entry are enough. How many input channels does it take until the place of "
    "the filters' axis matters? Work the shape of the product out for one output channel.",
)


def _factors_to_order(weight, rank):
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    if rank < 1 or rank > len(s):
        raise ValueError("there is no such rank")
    return u[:, :rank] * s[:rank], vt[:rank]


PUZZLES = (
    Lines(
        name="low_rank_factors",
        function=_factors_to_order,
        distractors={
            "if rank < 1 or rank > len(weight):": "a matrix has no more singular values than its "
            "shorter side.",
            "return u[:, -rank:] * s[-rank:], vt[-rank:]": "the singular values come in falling "
            "order, so this keeps the smallest.",
            "return u[:, :rank], vt[:rank]": "without the singular values the product has another "
            "size.",
            "return u[:, :rank] * s[:rank], s[:rank, None] * vt[:rank]": "here each singular value "
            "enters the product twice.",
        },
    ),
    WrongLine(
        name="mended_full_kernel",
        function=buggy_full_kernel,
        wrong="filters = depthwise.reshape(m, 1, k, k)",
        why="here the filters lie along the axis of the output channels. They belong to the input "
        "channels, so the shape should be (1, m, k, k). With n = m no error shows it.",
        others={
            "n, m = pointwise.shape[:2]": "outputs come first in torch's kernels.",
            "k = depthwise.shape[-1]": "the filters are square.",
            "mix = pointwise.reshape(n, m, 1, 1)": "one weight for each output and input, for all "
            "places of the filter.",
            "return mix * filters": "the product is right, if the axes of both mean the same.",
        },
    ),
)
EXERCISES = (LOW_RANK_FACTORS, SMALLEST_KERNEL, MENDED_FULL_KERNEL)
