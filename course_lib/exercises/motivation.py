"""The exercises of the lesson Motivation."""

import math
from collections.abc import Iterator

import torch

from course_lib.exercises.common import kind, pick, smallest_input
from course_lib.exercises.exercise import REFUSES, Exercise, Lines, Property, WrongLine

SECTION = "lesson Motivation, section “Definition → code”"
DRAM, MULTIPLY, ADD = 640e-12, 3.7e-12, 0.9e-12  # joules; reading is for 32 bits


def _energy_cases() -> Iterator[tuple[int, int, int, int]]:
    yield 1_000_000, 2_000_000, 32, 1
    yield from ((0, 1_000, 32, 1), (0, 1_000, 8, 64), (0, 7, 3, 2), (0, 0, 32, 1))  # no weights
    yield from ((1_000, 0, 32, 1), (1, 2, 32, 1), (25_100, 3, 32, 1))  # words, one image
    yield from ((1_000, 0, 16, 1), (320, 0, 1, 1), (32, 5, 64, 1), (64, 0, 3, 1))  # full words
    yield from ((1, 0, 1, 1), (3, 0, 8, 1), (11, 0, 3, 1), (33, 0, 1, 1), (7, 7, 5, 1))  # part full
    yield from ((9, 0, 7, 1), (17, 1, 2, 1), (1, 0, 33, 1))
    yield from ((1_000, 1_000, 32, 64), (64, 0, 1, 4), (7, 0, 32, 64), (3, 1, 8, 2), (5, 2, 5, 3))
    yield from ((1, 0, 32, 2_049), (0, 1, 1, 2_049))  # many images
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        yield tuple(pick(n, generator) for n in (50, 50, 40, 20))
    yield from ((10**9, 10**9, 32, 1), (671 * 10**9, 37 * 10**9, 4, 100))
    yield from ((-1, 0, 32, 1), (0, -1, 32, 1), (10, 10, 0, 1), (10, 10, 32, 0))  # no such pass
    yield from ((10, 10, -8, 1), (10, 10, 32, -1), (-4, 3, -8, 2), (4, -3, 8, -2), (0, 0, 0, 0))
    yield from ((-1, 5, 1, 1), (5, -1, 1, 1), (1, 1, -1, -1))


def _no_pass(weights: int, macs: int, bits: int, images: int) -> bool:
    return min(weights, macs) < 0 or min(bits, images) < 1


def _no_number(returned: object, *_: object) -> str | None:
    if isinstance(returned, bool) or not isinstance(returned, int | float):
        return f"a number, got {kind(returned)}"
    return None if math.isfinite(returned) else "a finite number"


def _joules(weights: int, macs: int, bits: int, images: int) -> float:
    words = -(-weights * bits // 32)
    return words * DRAM / images + macs * (MULTIPLY + ADD)


def _off(returned: float, *inputs: int) -> str | None:
    expected = _joules(*inputs)
    close = math.isclose(returned, expected, rel_tol=1e-6, abs_tol=1e-20)
    return None if close else f"{expected:.6g}"


NUMBER = Property(
    "returns a finite number",
    _no_number,
    "Let every path through your function end in a return of one number.",
)

JOULES = Exercise(
    name="joules",
    signature="joules(weights, macs, bits, images)",
    section=SECTION,
    cases=_energy_cases,
    refuses=_no_pass,
    expected=_joules,
    properties=(
        NUMBER,
        Property(
            "counts a multiplication and an addition for each multiply–accumulate of an image",
            lambda returned, *inputs: _off(returned, *inputs) if inputs[0] == 0 else None,
            "One multiply–accumulate is one float multiplication and one float addition: two lines "
            "of the table. Each image needs all of them, in 32-bit floats. A picojoule is 1e-12 J.",
        ),
        Property(
            "reads each 32-bit weight once from DRAM",
            lambda returned, *inputs: (
                _off(returned, *inputs) if inputs[2] == 32 and inputs[3] == 1 else None
            ),
            "Reading and arithmetic add up. Reading costs per weight, arithmetic per "
            "multiply–accumulate: the two counts need not be equal.",
        ),
        Property(
            "reads packed weights in whole words of 32 bits",
            lambda returned, *inputs: _off(returned, *inputs) if inputs[3] == 1 else None,
            "How many bits do all weights have together, and how many words hold them? A weight may "
            "lie across two words, and the last word is read whole.",
        ),
        Property(
            "shares the reading among the images, and nothing else",
            _off,
            "The words are read once for all images, so each image pays its share of the reading. "
            "The arithmetic of one image is its own.",
        ),
        REFUSES,
    ),
)


def buggy_file_bytes(sizes: tuple[int, ...], bits: int) -> int:
    """Bytes of a file of layers with `sizes` weights of `bits` bits, without gaps: wrong."""
    total = 0
    for count in sizes:
        total += math.ceil(count * bits / 8)
    return total


def _file_cases() -> Iterator[tuple[tuple[int, ...], int]]:
    yield (50, 10), 32
    yield from (
        ((3,), 3),
        ((1,), 1),
        ((9,), 1),
        ((5,), 4),
        ((8,), 1),
        ((7,), 5),
        ((), 4),
        ((0,), 3),
    )
    yield from (((1, 1), 4), ((3, 5), 4), ((1, 1, 1), 1), ((4, 4), 1), ((8, 9), 1), ((0, 3), 4))
    yield from (((1, 0, 1), 2), ((1,) * 8, 1), ((1,) * 9, 1), ((5, 5), 5), ((2, 2, 2, 2), 3))
    yield from (((9, 1), 9), ((1, 1), 12), ((1, 9), 1), ((5, 3, 2), 7))
    yield from (((1,), 64), ((8,) * 11, 8), ((2**24, 1), 8), ((2**19, 1), 2**14))
    generator = torch.Generator().manual_seed(2)
    for layers in (1, 2, 3, 4, 5) * 6:
        yield tuple(pick(12, generator) for _ in range(layers)), pick(16, generator)
    yield (19_601, 5_001, 501), 4
    yield (1_000_003, 10_007), 3


def _illegal_file(sizes: tuple[int, ...], bits: int) -> str | None:
    """None for layers that the statement allows, else what it allows."""
    if all(type(n) is int and n >= 0 for n in sizes) and type(bits) is int and bits >= 1:
        return None
    return "a tuple of whole numbers from 0 on, and a whole number of bits from 1 on"


def _no_count(returned: object, *_: object) -> str | None:
    if isinstance(returned, bool) or not isinstance(returned, int | float):
        return f"a number, got {kind(returned)}"
    return None if returned == returned // 1 else f"a whole number, got {returned!r}"


def _file_bytes(sizes: tuple[int, ...], bits: int) -> int:
    return -(-sum(sizes) * bits // 8)


def _other_bytes(returned: float, sizes: tuple[int, ...], bits: int) -> str | None:
    expected = _file_bytes(sizes, bits)
    return None if returned == expected else f"{expected} bytes, for {sum(sizes) * bits} bits"


MENDED_FILE_BYTES = Exercise(
    name="mended_file_bytes",
    signature="mended_file_bytes(sizes, bits)",
    section=SECTION,
    cases=_file_cases,
    legal=_illegal_file,
    expected=_file_bytes,
    properties=(
        Property(
            "returns a whole number",
            _no_count,
            "A file has no part of a byte: the last one is stored whole.",
        ),
        Property(
            "fills up the last byte of a single layer, and takes no bytes for no weights",
            lambda returned, sizes, bits: (
                _other_bytes(returned, sizes, bits) if len(sizes) < 2 else None
            ),
            "Count the bits, divide by eight, and round up. One bit takes a byte, eight bits take "
            "the same byte.",
        ),
        Property(
            "lets the next layer begin where the last one ends",
            _other_bytes,
            "Without gaps, a byte may hold the end of one layer and the beginning of the next. How "
            "often is there something to round?",
        ),
    ),
)

SMALLEST_FILE = smallest_input(
    name="smallest_file",
    wrong=buggy_file_bytes,
    judged_by=MENDED_FILE_BYTES,
    at_most=2,
    hint="With one layer, only the end of the file is rounded, and that is right. What happens at "
    "the border between two layers, and with how many bits does a layer end inside a byte?",
)


def _joules_to_order(weights, macs, bits, images):
    if min(weights, macs) < 0 or min(bits, images) < 1:
        raise ValueError("there is no such pass")
    reading = math.ceil(weights * bits / 32) * 640e-12 / images
    return reading + macs * (3.7e-12 + 0.9e-12)


PUZZLES = (
    Lines(
        name="joules",
        function=_joules_to_order,
        distractors={
            "reading = weights * bits / 32 * 640e-12 / images": "the last word is read whole, even "
            "if weights fill only a part of it.",
            "reading = math.ceil(weights * bits / 32 / images) * 640e-12": "the words are read "
            "once. Their energy is shared, and a share need not be whole.",
            "return reading + macs * 3.7e-12": "a multiply–accumulate is a multiplication and an "
            "addition.",
            "return reading + macs * (3.7e-12 + 0.9e-12) / images": "each image needs all the "
            "arithmetic. Only the reading is shared.",
        },
    ),
    WrongLine(
        name="mended_file_bytes",
        function=buggy_file_bytes,
        wrong="total += math.ceil(count * bits / 8)",
        why="every layer is rounded up, so every layer but the last may leave a gap. Add up the bits, "
        "and round once at the end.",
        others={
            "total = 0": "a file without layers takes 0 bytes.",
            "for count in sizes:": "every layer has to be counted.",
            "return total": "right if `total` counts the bytes of the whole file.",
        },
    ),
)
EXERCISES = (JOULES, SMALLEST_FILE, MENDED_FILE_BYTES)
