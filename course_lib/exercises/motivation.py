"""The exercises of the lesson Motivation."""

import math
from collections.abc import Callable, Iterator

from course_lib.exercises.common import hunt, kind
from course_lib.exercises.exercise import REFUSES, Exercise, Property

SECTION = "lesson Motivation, section “Definition → code”"
DRAM, MULTIPLY, ADD = 640e-12, 3.7e-12, 0.9e-12  # joules; reading is for 32 bits


def _energy_cases() -> Iterator[tuple[float, float, float]]:
    yield 1_000_000, 2_000_000, 32
    yield 0, 1_000, 32
    yield 1_000, 0, 32
    for weights, macs, bits in ((1000, 0, 16), (1000, 0, 8), (320, 0, 1), (25_100, 25_100, 4)):
        yield weights, macs, bits
    yield 10**9, 10**9, 32
    yield 60e6, 720e6, 8
    for weights, macs, bits in ((-1, 0, 32), (0, -1, 32), (10, 10, 0), (10, 10, -8)):
        yield weights, macs, bits


def _no_number(returned: object, *_: object) -> str | None:
    if isinstance(returned, bool) or not isinstance(returned, int | float):
        return f"a number, got {kind(returned)}"
    return None if math.isfinite(returned) else "a finite number"


def _off(returned: float, expected: float) -> str | None:
    close = math.isclose(returned, expected, rel_tol=1e-6, abs_tol=1e-20)
    return None if close else f"{expected:.6g}"


def _joules(weights: float, macs: float, bits: float) -> float:
    return weights * bits / 32 * DRAM + macs * (MULTIPLY + ADD)


NUMBER = Property(
    "returns a finite number",
    _no_number,
    "Let every path through your function end in a return of an int or a float.",
)

JOULES = Exercise(
    name="joules",
    signature="joules(weights, macs, bits)",
    section=SECTION,
    cases=_energy_cases,
    refuses=lambda weights, macs, bits: weights < 0 or macs < 0 or bits <= 0,
    properties=(
        NUMBER,
        Property(
            "counts a multiplication and an addition for each multiply–accumulate",
            lambda returned, weights, macs, bits: (
                _off(returned, _joules(weights, macs, bits)) if weights == 0 else None
            ),
            "One multiply–accumulate is one float multiplication and one float addition: two lines "
            "of the table. A picojoule is 1e-12 joules.",
        ),
        Property(
            "reads each 32-bit weight once from DRAM",
            lambda returned, weights, macs, bits: (
                _off(returned, _joules(weights, macs, bits)) if bits == 32 else None
            ),
            "Reading and arithmetic add up. Reading costs per weight, arithmetic per "
            "multiply–accumulate: the two counts need not be equal.",
        ),
        Property(
            "lets narrower weights cost less to read, and as much to multiply",
            lambda returned, *inputs: _off(returned, _joules(*inputs)),
            "The table's price of a memory access is for 32 bits; a weight of 8 bits is a quarter of "
            "one. The arithmetic stays in 32-bit floats here.",
        ),
        REFUSES,
    ),
)


def buggy_file_bytes(parameters: int, bits: int) -> int:
    """a function that drops the last byte when it is not full"""
    return parameters * bits // 8


def weak_bytes_test(fn: Callable[[int, int], int]) -> bool:
    """The test that every wrong size of the bug hunt passes."""
    return fn(1000, 32) == 4000 and fn(64, 8) == 64


def _bytes_by_ceil(parameters, bits):
    """a correct function that rounds up"""
    return math.ceil(parameters * bits / 8)


def _bytes_by_remainder(parameters, bits):
    """a correct function that adds a byte for a remainder"""
    full, rest = divmod(parameters * bits, 8)
    return full + (rest > 0)


def _bytes_by_integers(parameters, bits):
    """a correct function that rounds up with integers alone"""
    return (parameters * bits + 7) // 8


def _bytes_each_rounded(parameters, bits):
    """a function that rounds each parameter up to whole bytes"""
    return parameters * math.ceil(bits / 8)


def _bytes_plus_one(parameters, bits):
    """a function that adds a byte when there is a remainder of a whole weight, not of a byte"""
    return parameters * bits // 8 + (parameters * bits % 32 > 0)


def _bytes_nearest(parameters, bits):
    """a function that rounds to the nearest byte"""
    return math.floor(parameters * bits / 8 + 0.5)


def _bytes_at_least_one(parameters, bits):
    """a function that gives every parameter eight bits at least"""
    return math.ceil(parameters * max(bits, 8) / 8)


KILLS_WRONG_SIZES = hunt(
    name="kills_wrong_sizes",
    signature="is_file_bytes(fn)",
    section=SECTION,
    right=(_bytes_by_ceil, _bytes_by_remainder, _bytes_by_integers),
    alarm="A false alarm. Work out your expected values again: bits in all, divided by eight, "
    "rounded up to a whole byte.",
    wrong={
        buggy_file_bytes: "Three weights of three bits are nine bits. How many bytes hold them?",
        _bytes_each_rounded: "Weights of 4 bits are packed two to a byte; weights of 1 bit eight to one.",
        _bytes_plus_one: "Try a number of bits that fills bytes, but not words of four bytes.",
        _bytes_at_least_one: "Eight weights of one bit are one byte, not eight.",
        _bytes_nearest: "Try a remainder of one bit, and one of seven.",
    },
)


def _mlp_bytes(k: int) -> int:
    """float32 bytes of 196 → 2k → k → 10, biases included."""
    return 4 * (196 * 2 * k + 2 * k + 2 * k * k + k + 10 * k + 10)


def _width_cases() -> Iterator[tuple[int]]:
    yield (100_000,)
    for k in (1, 2, 7, 50, 51, 400):
        for off in (-1, 0, 1):
            yield (_mlp_bytes(k) + off,)
    yield from ((0,), (40,), (10**7,))


WIDEST = Exercise(
    name="widest",
    signature="widest(budget)",
    section=SECTION,
    cases=_width_cases,
    refuses=lambda budget: budget < _mlp_bytes(1),
    properties=(
        Property(
            "returns a whole number from 1 on",
            lambda k, _: (
                None if type(k) is int and k >= 1 else f"an int from 1 on, got {k!r} ({kind(k)})"
            ),
            "Units are whole: int(...) or //.",
        ),
        Property(
            "stays within the budget",
            lambda k, budget: (
                None
                if _mlp_bytes(k) <= budget
                else f"a network of at most {budget:,} bytes; this one takes {_mlp_bytes(k):,}"
            ),
            "Four bytes a parameter, and each layer has biases too: 2k + k + 10 of them.",
        ),
        Property(
            "uses the budget up",
            lambda k, budget: (
                None
                if _mlp_bytes(k + 1) > budget
                else f"k = {k + 1} at least, which takes {_mlp_bytes(k + 1):,} of {budget:,} bytes"
            ),
            "Count upwards and stop one too late, or solve the quadratic and check its neighbour.",
        ),
        REFUSES,
    ),
)

EXERCISES = (JOULES, KILLS_WRONG_SIZES, WIDEST)
