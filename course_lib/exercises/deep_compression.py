"""The exercises of the lesson Deep Compression."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import draw, hunt, kind
from course_lib.exercises.exercise import REFUSES, UNCHANGED, Exercise, Property


def _positions() -> Iterator[tuple[list[int], int]]:
    """Ascending positions and index bits; short lists first."""
    yield [1, 4, 15], 3
    for positions, bits in (
        ([0], 3), ([3], 2), ([4], 2), ([5], 2), ([8], 2), ([0, 1, 2], 1), ([2], 0), ([], 4),
        ([7, 8], 3), ([0, 8], 3), ([0, 9], 3), ([30], 3), ([31], 3), ([32], 3),
    ):  # fmt: skip
        yield positions, bits
    generator = torch.Generator().manual_seed(5)
    for bits in (1, 2, 3, 4, 5) * 4:
        steps = torch.randint(1, 20, (6,), generator=generator)
        yield (steps.cumsum(0) - 1).tolist(), bits
    yield (torch.randint(1, 60, (400,), generator=generator).cumsum(0) - 1).tolist(), 5


def _not_a_list(returned: object, *_) -> str | None:
    if not isinstance(returned, list) or any(type(d) is not int for d in returned):
        found = kind(returned)
        if isinstance(returned, list):
            found = f"a list with {kind(next(d for d in returned if type(d) is not int))} in it"
        return f"a list of whole numbers, got {found}"
    return None


def _out_of_range(returned: list[int], positions: list[int], bits: int) -> str | None:
    bad = [d for d in returned if not 0 <= d < 2**bits]
    return f"numbers from 0 to {2**bits - 1}, not {bad[0]}" if bad else None


def _reached(distances: list[int]) -> list[int]:
    found, stand = [], -1
    for d in distances:
        stand += d + 1
        found.append(stand)
    return found


def _misses(returned: list[int], positions: list[int], bits: int) -> str | None:
    missed = sorted(set(positions) - set(_reached(returned)))
    if missed:
        return f"an entry at position {missed[0]}; these distances reach {_reached(returned)[:12]}"
    return None


def _too_many(returned: list[int], positions: list[int], bits: int) -> str | None:
    needed, stand = 0, -1
    for p in positions:
        needed += -(-(p - stand) // 2**bits)
        stand = p
    return None if len(returned) == needed else f"{needed} entries, fillers included, as few as do"


RELATIVE_DISTANCES = Exercise(
    name="relative_distances",
    signature="relative_distances(positions, bits)",
    section="lesson Deep Compression, section “Definition → code”",
    cases=_positions,
    properties=(
        Property(
            "returns a list of whole numbers",
            _not_a_list,
            "One number for each entry: found = [] at the start, found.append(...) on the way.",
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
            "uses no more entries than it has to",
            _too_many,
            "Fillers cost bytes. One is needed only when 2**b or more zeros lie before the weight.",
        ),
        UNCHANGED,
    ),
)


def buggy_centroid_gradient(gradient: Tensor, index: Tensor, k: int) -> Tensor:
    """a function that lets the last weight of a cluster overwrite the others"""
    sums = torch.zeros(k)
    kept = index >= 0
    sums[index[kept]] += gradient[kept]
    return sums


def weak_gradient_test(fn: Callable[[Tensor, Tensor, int], Tensor]) -> bool:
    """The test that every wrong gradient of the bug hunt passes."""
    gradient, index = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[0, 2, 1]])
    return fn(gradient, index, 3).tolist() == [1.0, 2.0, 3.0]


def _gradient_by_index_add(gradient, index, k):
    """a correct function that adds by index"""
    kept = index >= 0
    return torch.zeros(k).index_add(0, index[kept], gradient[kept])


def _gradient_by_loop(gradient, index, k):
    """a correct function that sums cluster by cluster"""
    return torch.stack([gradient[index == c].sum() for c in range(k)])


def _gradient_by_one_hot(gradient, index, k):
    """a correct function that multiplies by the indicator of the formula"""
    return (index.flatten() == torch.arange(k)[:, None]).float() @ gradient.flatten()


def _gradient_mean(gradient, index, k):
    """a function that takes the mean over a cluster's weights"""
    sizes = torch.stack([(index == c).sum() for c in range(k)])
    return _gradient_by_loop(gradient, index, k) / sizes.clamp(min=1)


def _gradient_of_pruned_too(gradient, index, k):
    """a function that counts the pruned weights, cluster −1, to the last cluster"""
    return torch.zeros(k).index_add(0, index.flatten() % k, gradient.flatten())


def _gradient_shorter(gradient, index, k):
    """a function that returns no number for clusters after the last that has a weight"""
    return _gradient_by_loop(gradient, index, int(index.max()) + 1)


def _gradient_of_first_row(gradient, index, k):
    """a function that looks at the first row only"""
    return _gradient_by_loop(gradient[0], index[0], k)


def _gradient_in_place(gradient, index, k):
    """a function that also sets the gradient of pruned weights to zero in the tensor it was given"""
    gradient[index < 0] = 0
    return _gradient_by_loop(gradient, index, k)


KILLS_WRONG_GRADIENTS = hunt(
    name="kills_wrong_gradients",
    signature="is_centroid_gradient(fn)",
    section="lesson Deep Compression, section “Definition → code”, sharing",
    right=(_gradient_by_index_add, _gradient_by_loop, _gradient_by_one_hot),
    alarm="A false alarm. Sums in another order differ in their last bits: compare with a tolerance.",
    wrong={
        buggy_centroid_gradient: "In the weak test every cluster has one weight. Give one cluster "
        "two.",
        _gradient_mean: "Sum and mean are the same for clusters of one weight, and for sums of zero.",
        _gradient_of_pruned_too: "Where the index is −1 the weight is pruned: its gradient counts "
        "for no centroid. Is there one in your test, with a gradient that is not zero?",
        _gradient_shorter: "Ask for more clusters than have weights.",
        _gradient_of_first_row: "Try a weight matrix with more than one row.",
        _gradient_in_place: "A function has effects beside its result: compare the gradient after "
        "the call with a copy from before it.",
    },
)


def _file_bytes(kept: int, index_bits: int, bits: int) -> float:
    return kept * (bits + index_bits) / 8 + 4 * 2**bits


def _budgets() -> Iterator[tuple[int, int, int]]:
    """Weights kept, index bits, bytes."""
    yield 22_000, 5, 27_000
    for kept, index_bits, budget in (
        (8, 0, 9), (8, 0, 8), (8, 3, 12), (8, 3, 11), (16, 4, 26), (16, 4, 25), (100, 5, 74),
        (0, 4, 8), (0, 4, 64), (0, 4, 7), (3, 1, 9), (1000, 0, 20_000),
    ):  # fmt: skip
        yield kept, index_bits, budget
    generator = torch.Generator().manual_seed(7)
    for _ in range(25):
        kept, budget = torch.randint(1, 30_000, (2,), generator=generator).tolist()
        yield kept, int(draw((1,), generator).abs() * 8), budget


def _not_bits(returned: object, *_) -> str | None:
    if type(returned) is not int or returned < 1:
        return (
            f"a whole number from 1 on, got {returned if type(returned) is int else kind(returned)}"
        )
    return None


def _over(returned: int, kept: int, index_bits: int, budget: int) -> str | None:
    used = _file_bytes(kept, index_bits, min(returned, 64))
    return f"at most {budget} bytes; {returned} bits need {used:g}" if used > budget else None


def _under(returned: int, kept: int, index_bits: int, budget: int) -> str | None:
    used = _file_bytes(kept, index_bits, returned + 1)
    return f"more bits: {returned + 1} still fit, with {used:g} bytes" if used <= budget else None


BITS_FOR = Exercise(
    name="bits_for",
    signature="bits_for(kept, index_bits, budget)",
    section="lesson Deep Compression, section “Definition → code”",
    cases=_budgets,
    refuses=lambda kept, index_bits, budget: _file_bytes(kept, index_bits, 1) > budget,
    properties=(
        Property(
            "returns a whole number of bits, at least one",
            _not_bits,
            "Count up from one bit for as long as the next fits.",
        ),
        Property(
            "stays within the budget",
            _over,
            "A weight costs its own bits and those of its index, eight bits make a byte, and the "
            "codebook holds 2**bits numbers of four bytes.",
        ),
        Property(
            "spends what it may",
            _under,
            "Would one bit more still fit? Exactly at the budget is within it.",
        ),
        REFUSES,
    ),
)

EXERCISES = (RELATIVE_DISTANCES, KILLS_WRONG_GRADIENTS, BITS_FOR)
