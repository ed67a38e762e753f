"""The exercises of the lesson Search for shapes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import draw, held, kind, smallest_input
from course_lib.exercises.exercise import UNCHANGED, Exercise, Lines, Property, WrongLine, show

_SECTION = "lesson Search for shapes, section “Definition → code”"
NUMBER_BYTES = 4  # of a scale, and of a bias


# ---- A · what a chain of linear layers takes


def chain_bytes(sizes: list[int], bits: list[int]) -> int:
    """Bytes of a chain of linear layers whose weights take these bits, with scales and biases."""
    total = 0
    for inputs, outputs, width in zip(sizes, sizes[1:], bits):
        weights = (inputs * outputs * width + 7) // 8
        total += weights + outputs * 2 * NUMBER_BYTES
    return total


def _chains() -> Iterator[tuple[list[int], list[int]]]:
    yield [4, 2], [8]
    yield [3, 1], [2]
    yield [1, 1], [3]
    yield [4, 2, 3], [4, 2]
    yield [3, 3, 3], [3, 3]
    yield [5, 1, 5, 1], [2, 3, 16]
    yield [1, 9], [1]
    yield [7, 3, 2], [32, 64]
    yield [196, 100, 60, 40, 10], [2, 3, 4, 8]
    yield [196, 25, 15, 10, 10], [2, 2, 2, 2]
    yield [100_000, 3], [3]
    yield [50_001, 50_001], [3]  # more than 2**31 bits, and not a whole number of bytes
    yield [100_003, 100_003], [3]  # more than 2**31 bytes
    generator = torch.Generator().manual_seed(3)
    for depth in (1, 2, 2, 3, 4, 5):
        sizes = torch.randint(1, 30, (depth + 1,), generator=generator).tolist()
        yield sizes, torch.randint(1, 17, (depth,), generator=generator).tolist()


def _no_whole_number(returned: object, *_: object) -> str | None:
    if type(returned) is int or (type(returned) is float and returned.is_integer()):
        return None
    return f"a whole number of bytes, got {show(returned) if type(returned) is float else kind(returned)}"


def _split(sizes: list[int], bits: list[int]) -> tuple[list[int], int]:
    """The bits of each layer's weights, and the bytes of all scales and biases."""
    weights = [a * b * n for a, b, n in zip(sizes, sizes[1:], bits, strict=False)]
    return weights, 2 * NUMBER_BYTES * sum(sizes[1:])


def _no_scales(returned: float, sizes: list[int], bits: list[int]) -> str | None:
    wanted, (_, others) = chain_bytes(sizes, bits), _split(sizes, bits)
    if returned in (wanted - others, wanted - others // 2):
        return f"{wanted}: every output channel has a scale and a bias of 4 bytes each"
    return None


def _not_whole_bytes(returned: float, sizes: list[int], bits: list[int]) -> str | None:
    weights, others = _split(sizes, bits)
    wanted, total = chain_bytes(sizes, bits), sum(weights)
    if returned != wanted and returned in (
        others + -(-total // 8),
        others + total // 8,
        others + sum(n // 8 for n in weights),
        others + sum(round(n / 8) for n in weights),
    ):
        return (
            f"{wanted}: the weights of each layer begin a new byte, and the last one is filled up"
        )
    return None


def _wrong_bytes(returned: float, sizes: list[int], bits: list[int]) -> str | None:
    wanted = chain_bytes(sizes, bits)
    return str(wanted) if returned != wanted else None


CHAIN_BYTES = Exercise(
    name="chain_bytes",
    signature="chain_bytes(sizes, bits)",
    section=_SECTION,
    cases=_chains,
    expected=chain_bytes,
    properties=(
        Property(
            "returns a whole number of bytes",
            _no_whole_number,
            "An int. Round up within each layer; // divides whole numbers.",
        ),
        Property(
            "counts a scale and a bias per output channel",
            _no_scales,
            "Every output channel needs its scale to be read again, and every layer has biases. Both "
            "are 4-byte numbers, whatever the weights take.",
        ),
        Property(
            "fills up the last byte of each layer's weights",
            _not_whole_bytes,
            "Three weights of 3 bits are 9 bits, which take 2 bytes. Round up layer by layer, "
            "before you add.",
        ),
        Property(
            "is the number of bytes",
            _wrong_bytes,
            "Layer l has sizes[l] inputs, sizes[l + 1] outputs and bits[l] bits per weight.",
        ),
        UNCHANGED,
    ),
)


# ---- B · a population that half of the children never enter


def buggy_survivors(mutated: Tensor, crossed: Tensor, count: int) -> Tensor:
    """Positions of the best children: first all mutated ones, then the crossed ones."""
    scores = torch.cat([mutated, crossed])
    children = scores[:count]
    order = children.argsort(descending=True, stable=True)
    return order[:count]


def right_survivors(mutated: Tensor, crossed: Tensor, count: int) -> Tensor:
    """The same for all children: the right answer to the bug hunt."""
    scores = torch.cat([mutated, crossed])
    return scores.argsort(descending=True, stable=True)[:count]


def _children() -> Iterator[tuple[Tensor, Tensor, int]]:
    def children(mutated, crossed, count):
        return torch.tensor(mutated), torch.tensor(crossed), count

    yield children([2.0], [1.0], 1)
    yield children([1.0], [2.0], 1)
    yield children([1.0], [2.0], 2)
    yield children([1.0, 3.0], [2.0], 2)
    yield children([1.0, 1.0], [1.0, 1.0], 3)
    yield children([1.0, 3.0, 1.0], [3.0, 0.0], 2)
    yield children([-1.0, -2.0], [-0.5, -3.0], 2)
    yield children([0.0, -1e-30], [1e-30, 0.0], 3)
    yield children([], [1.0, 2.0], 1)
    yield children([0.0], [0.0, 0.0], 2)
    yield children([2.0, 3.0, 3.0], [], 2)
    generator = torch.Generator().manual_seed(4)
    for n, m, count in ((3, 3, 2), (2, 4, 3), (4, 2, 5), (5, 5, 5), (1, 6, 4), (20, 30, 25)) * 2:
        yield draw((n,), generator), draw((m,), generator), count
    yield (
        torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64),
        torch.tensor([1.0 + 2e-12], dtype=torch.float64),
        2,
    )
    many = (torch.arange(40) % 3).float()
    yield many, many.flip(0), 50
    yield torch.randn(100, generator=generator), torch.randn(80, generator=generator), 90


def _illegal_children(mutated: Tensor, crossed: Tensor, count: int) -> str | None:
    if mutated.dim() == crossed.dim() == 1 and mutated.is_floating_point():
        scores = torch.cat([mutated, crossed])
        whole = type(count) is int and 1 <= count <= len(scores)
        if whole and crossed.dtype == mutated.dtype and scores.isfinite().all():
            return None
    return "two tensors (n,) and (m,) of finite floats of one type, and a count from 1 to n + m"


def _no_positions(returned: object, mutated: Tensor, crossed: Tensor, count: int) -> str | None:
    wanted = f"a whole-number tensor of shape ({count},)"
    if not isinstance(returned, Tensor):
        return f"{wanted}, got {kind(returned)}"
    if returned.shape != (count,):
        return f"{wanted}, got shape {tuple(returned.shape)}"
    if returned.dtype == torch.bool or returned.is_floating_point() or returned.is_complex():
        return f"{wanted}, got {held(returned)}"
    low, high, n = int(returned.min()), int(returned.max()), len(mutated) + len(crossed)
    if low < 0 or high >= n or len(returned.unique()) < count:
        return f"{count} different positions from 0 to {n - 1}, got {show(returned)}"
    return None


def _left_out(returned: Tensor, mutated: Tensor, crossed: Tensor, count: int) -> str | None:
    wanted = right_survivors(mutated, crossed, count)
    got_best, best = (torch.cat([mutated, crossed])[at].sort()[0] for at in (returned, wanted))
    if torch.equal(got_best, best):
        return None
    return f"the positions {show(wanted)}: these children have higher scores than {show(returned)}"


def _wrong_order(returned: Tensor, mutated: Tensor, crossed: Tensor, count: int) -> str | None:
    wanted = right_survivors(mutated, crossed, count)
    return None if torch.equal(returned.long(), wanted) else f"{show(wanted)}, in this order"


MENDED_SURVIVORS = Exercise(
    name="mended_survivors",
    signature="mended_survivors(mutated, crossed, count)",
    section=_SECTION,
    cases=_children,
    legal=_illegal_children,
    expected=right_survivors,
    properties=(
        Property(
            "returns count different positions",
            _no_positions,
            "Position 0 is the first mutated child, and the crossed ones follow behind the last "
            "mutated one. Return a tensor of whole numbers.",
        ),
        Property(
            "chooses the children with the highest scores, whoever made them",
            _left_out,
            "Rank all children before you cut the list to count.",
        ),
        Property(
            "has the best first, and of equal scores the earlier position",
            _wrong_order,
            "argsort(descending=True, stable=True) keeps the order of equal scores.",
        ),
        UNCHANGED,
    ),
)

SMALLEST_SURVIVORS = smallest_input(
    name="smallest_survivors",
    wrong=buggy_survivors,
    judged_by=MENDED_SURVIVORS,
    at_most=2,
    hint="One child of each kind is enough. Which of the two has to be better, and how many survive?",
)

PUZZLES = (
    Lines(
        name="chain_bytes",
        function=chain_bytes,
        distractors={
            "weights = inputs * outputs * width // 8": "a part of a byte takes a whole byte, so this "
            "has to be rounded up.",
            "total += weights + inputs * 2 * NUMBER_BYTES": "scales and biases belong to output channels.",
            "for inputs, outputs, width in zip(sizes, sizes, bits):": "a layer's outputs are the next "
            "entry of sizes.",
        },
    ),
    WrongLine(
        name="mended_survivors",
        function=buggy_survivors,
        wrong="children = scores[:count]",
        why="the list is cut before it is ranked. With as many mutated children as survivors, no "
        "crossed child is ever among them, however good it is.",
        others={
            "scores = torch.cat([mutated, crossed])": "all children are in this list, so nothing is "
            "lost here.",
            "order = children.argsort(descending=True, stable=True)": "this ranks what it gets, with "
            "the best first. What does it get?",
            "return order[:count]": "count positions are wanted.",
        },
    ),
)
EXERCISES = (CHAIN_BYTES, SMALLEST_SURVIVORS, MENDED_SURVIVORS)
