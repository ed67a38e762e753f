"""The exercises of the lesson Deep Compression."""

from collections.abc import Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import (
    draw,
    dyadic,
    held,
    kind,
    pick,
    precise,
    repeated,
    rescaled,
    smallest_input,
)
from course_lib.exercises.exercise import UNCHANGED, Exercise, Lines, Property, WrongLine, show

_SECTION = "lesson Deep Compression, section “Definition → code”"

Entries = tuple[tuple[int, float], ...]  # (zeros before it, value)


# ---- A · the entries of the file: distances, values and fillers


def relative_entries(positions: list[int], values: list[float], bits: int) -> list:
    """Rising positions and their values -> (zeros before, value) pairs, fillers included."""
    entries = []
    for before, position, value in zip([-1, *positions], positions, values):
        fillers, rest = divmod(position - before - 1, 2**bits)
        entries += [(2**bits - 1, 0.0)] * fillers
        entries.append((rest, value))
    return entries


def _positions() -> Iterator[tuple[list[int], list[float], int]]:
    """Rising positions, their values and the bits; short lists first."""
    yield [1, 4, 15], [0.5, -1.0, 0.25], 3
    for positions, bits in (
        ([0], 3), ([3], 2), ([4], 2), ([5], 2), ([8], 2), ([0, 1, 2], 1), ([2], 1), ([], 4),
        ([7, 8], 3), ([0, 8], 3), ([0, 9], 3), ([30], 3), ([31], 3), ([32], 3), ([9, 40], 4),
    ):  # fmt: skip
        yield positions, [0.5 + n for n in range(len(positions))], bits
    generator = torch.Generator().manual_seed(5)
    for bits in (1, 2, 3, 4, 5) * 4:
        steps = torch.randint(1, 20, (6,), generator=generator)
        values = torch.randint(1, 9, (6,), generator=generator) / 4
        yield (steps.cumsum(0) - 1).tolist(), (values - 3).where(values != 3, 1.0).tolist(), bits
    yield [500, 2000], [1 / 3, -1.0], 10
    yield [70_000], [0.5], 8
    far = torch.randint(1, 60, (400,), generator=generator).cumsum(0) - 1
    yield far.tolist(), [1.0 + n % 7 for n in range(400)], 5


def _no_pairs(returned: object, positions: list[int], values: list[float], bits: int) -> str | None:
    wanted = "a list of pairs (zeros before, value): a whole number and a number"
    if type(returned) is not tuple:
        return f"{wanted}; got {kind(returned)}"
    for entry in returned:
        pair = type(entry) is tuple and len(entry) == 2
        if not pair or type(entry[0]) is not int or type(entry[1]) not in (int, float):
            return f"{wanted}; got the entry {show(entry)}"
    return None


def _out_of_range(
    returned: Entries, positions: list[int], values: list[float], bits: int
) -> str | None:
    bad = [zeros for zeros, _ in returned if not 0 <= zeros < 2**bits]
    return f"numbers of zeros from 0 to {2**bits - 1}, not {bad[0]}" if bad else None


def _reached(returned: Entries) -> dict[int, float]:
    """Position -> value of every entry, fillers too."""
    found, stand = {}, -1
    for zeros, value in returned:
        stand += zeros + 1
        found[stand] = value
    return found


def _misses(returned: Entries, positions: list[int], values: list[float], bits: int) -> str | None:
    reached = _reached(returned)
    missed = [p for p in positions if p not in reached]
    if missed:
        return f"an entry at position {missed[0]}; these entries stand at {[*reached][:12]}"
    return None


def _wrong_values(
    returned: Entries, positions: list[int], values: list[float], bits: int
) -> str | None:
    wanted = dict(zip(positions, values, strict=True))
    for position, value in _reached(returned).items():
        if abs(value - wanted.get(position, 0.0)) > 1e-6:
            what = "its weight's value" if position in wanted else "a filler, which holds 0"
            return f"the value {wanted.get(position, 0.0)} at {position}, {what}; not {value}"
    return None


def _others(returned: Entries, positions: list[int], values: list[float], bits: int) -> str | None:
    wanted = relative_entries(positions, values, bits)
    if [zeros for zeros, _ in returned] == [zeros for zeros, _ in wanted]:
        return None
    if len(returned) > len(wanted):
        return f"{len(wanted)} entries, fillers included, as few as do; not {len(returned)}"
    return f"fillers as late as they can stand, so {show(wanted[:8])}"


RELATIVE_ENTRIES = Exercise(
    name="relative_entries",
    signature="relative_entries(positions, values, bits)",
    section=_SECTION,
    cases=_positions,
    expected=relative_entries,
    properties=(
        Property(
            "returns a list of pairs",
            _no_pairs,
            "One pair per entry: entries = [] at the start, entries.append((zeros, value)) on the "
            "way. Without positions the list is empty.",
        ),
        Property(
            "writes only numbers that fit into the bits",
            _out_of_range,
            "With b bits the largest number is 2**b - 1. If more zeros lie before the next weight, "
            "put a filler first: it stands for 2**b - 1 zeros and for itself, one zero more.",
        ),
        Property(
            "reaches every position",
            _misses,
            "From an entry at position p, the number d leads to p + d + 1. Before the first entry "
            "you stand at -1. After a filler, you stand at the filler.",
        ),
        Property(
            "gives each weight its value, and fillers 0",
            _wrong_values,
            "Fillers come before the weight that they help to reach, and their value is 0.",
        ),
        Property(
            "puts a filler only where no number is large enough, as far on as the bits allow",
            _others,
            "A filler is needed when 2**b or more zeros lie before the weight, and not when it is "
            "one fewer. It has 2**b - 1 zeros before it, and the weight has what is left.",
        ),
        UNCHANGED,
    ),
)


# ---- B · the gradient of a centroid

RICH = 16  # weights from which on an answer that equals a known mistake hardly does so by chance


def buggy_centroid_gradient(gradient: Tensor, index: Tensor, k: int) -> Tensor:
    """(k,): the gradients of the centroids, from those of the weights."""
    sums = gradient.new_zeros(k)
    kept = index >= 0
    sums[index[kept]] += gradient[kept]
    return sums


def centroid_gradient(gradient: Tensor, index: Tensor, k: int) -> Tensor:
    """The same with every weight counted: the right answer to the bug hunt."""
    kept = index >= 0
    return gradient.new_zeros(k).index_add(0, index[kept], gradient[kept])


def _illegal_clusters(gradient: Tensor, index: Tensor, k: int) -> str | None:
    """None for inputs that the statement allows, else what it allows."""
    fine = gradient.is_floating_point() and gradient.isfinite().all() and gradient.dim() > 0
    if (
        fine
        and index.shape == gradient.shape
        and index.dtype == torch.int64
        and type(k) is int
        and k > 0
    ):
        return (
            None if ((index >= -1) & (index < k)).all() else f"an index from -1 to k - 1 = {k - 1}"
        )
    return "finite floats, integers of the same shape, and a whole k from 1 on"


def _clusters() -> Iterator[tuple[Tensor, Tensor, int]]:
    for gradient, index, k in (
        ([1.0, 3.0, 2.0], [0, 2, 1], 3),
        ([2.0], [0], 1),
        ([1.0, 1.0], [0, 0], 1),
        ([1.0, -3.0], [1, 1], 2),
        ([1.0, 4.0], [0, -1], 1),
        ([1.0, 4.0], [-1, -1], 2),
        ([0.0, 0.0], [0, 1], 2),
        ([[1.0, 2.0], [4.0, 0.5]], [[0, 1], [1, 0]], 3),
    ):
        yield torch.tensor(gradient), torch.tensor(index), k
    generator = torch.Generator().manual_seed(3)
    for shape in ((4,), (2, 3), (3, 2), (5, 4), (2, 2, 2), (2, 2, 1, 3)) * 3:
        k = pick(5, generator)
        yield draw(shape, generator), torch.randint(-1, k, shape, generator=generator), k
    yield torch.tensor([2000.0, -1.0]), torch.tensor([0, 1]), 2
    yield torch.tensor([1.0, 2.0, 4.0]), torch.tensor([199, 299, 199]), 300
    case = draw((3, 4), generator), torch.randint(-1, 4, (3, 4), generator=generator), 4
    yield from rescaled(case, 0)
    yield precise(case)
    yield repeated(case, 900)
    yield (
        dyadic((40, 30), generator),
        torch.randint(-1, 15, (40, 30), generator=generator),
        15,
    )


def _not_k_numbers(returned: object, gradient: Tensor, index: Tensor, k: int) -> str | None:
    wanted = f"a tensor of shape ({k},), one number per cluster"
    if not isinstance(returned, Tensor):
        return f"{wanted}, got {kind(returned)}"
    if returned.shape != (k,) or returned.dtype == torch.bool:
        return f"{wanted}, got {held(returned)} of shape {tuple(returned.shape)}"
    return None


def _far(returned: Tensor, wanted: Tensor) -> bool:
    return not torch.allclose(returned.double(), wanted.double(), rtol=1e-4, atol=1e-4)


def _overwritten(returned: Tensor, gradient: Tensor, index: Tensor, k: int) -> str | None:
    wanted = centroid_gradient(gradient, index, k)
    if not _far(returned, wanted) or gradient.numel() < RICH:
        return None
    if _far(returned, buggy_centroid_gradient(gradient.float(), index, k)):
        return None
    return f"{show(wanted)}; here the last weight of a cluster replaces those before it"


def _wrong_sums(returned: Tensor, gradient: Tensor, index: Tensor, k: int) -> str | None:
    wanted = centroid_gradient(gradient, index, k)
    return show(wanted) if _far(returned, wanted) else None


MENDED_GRADIENT = Exercise(
    name="mended_gradient",
    signature="mended_gradient(gradient, index, k)",
    section=f"{_SECTION}, tuning",
    cases=_clusters,
    legal=_illegal_clusters,
    expected=centroid_gradient,
    properties=(
        Property(
            "returns one number per cluster",
            _not_k_numbers,
            "There are k numbers, also if some clusters have no weight; their gradient is 0.",
        ),
        Property(
            "counts every weight of a cluster",
            _overwritten,
            "An assignment to sums[index] that names a place twice keeps only one of the two, with "
            "+= too. index_add adds both.",
        ),
        Property(
            "is the sum over the cluster's weights, without the pruned ones",
            _wrong_sums,
            "A sum, not a mean; over all rows; and where the index is -1 the weight is pruned, so "
            "its gradient counts for no centroid.",
        ),
        UNCHANGED,
    ),
)

SMALLEST_GRADIENT = smallest_input(
    name="smallest_gradient",
    wrong=buggy_centroid_gradient,
    judged_by=MENDED_GRADIENT,
    at_most=4,
    hint="The function is right as long as no cluster has more than one weight.",
)

PUZZLES = (
    Lines(
        name="relative_entries",
        function=relative_entries,
        distractors={
            "for before, position, value in zip([0, *positions], positions, values):": "before the "
            "first entry one stands at -1, so that position 0 has no zeros before it.",
            "    fillers, rest = divmod(position - before, 2**bits)": "from 4 to 6 there is one zero, "
            "not two.",
            "    fillers, rest = divmod(position - before - 1, 2**bits - 1)": "a filler stands for "
            "the zeros before it and is a zero itself, 2**bits in all.",
            "    entries += [(2**bits, 0.0)] * fillers": "with b bits the largest number is 2**b - 1.",
        },
    ),
    WrongLine(
        name="mended_gradient",
        function=buggy_centroid_gradient,
        wrong="sums[index[kept]] += gradient[kept]",
        why="if a cluster is named twice, this keeps the gradient of one weight and drops the "
        "others. `sums.index_add_(0, index[kept], gradient[kept])` adds them all.",
        others={
            "sums = gradient.new_zeros(k)": "there is one sum per cluster, and an empty cluster keeps 0.",
            "kept = index >= 0": "pruned weights, at −1, belong to no cluster.",
        },
    ),
)
EXERCISES = (RELATIVE_ENTRIES, SMALLEST_GRADIENT, MENDED_GRADIENT)
