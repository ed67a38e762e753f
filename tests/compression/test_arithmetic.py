"""The arithmetic coder against a coder of exact fractions, against the entropy, and on damaged data."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.compression import arithmetic

QUIET = settings(deadline=None, max_examples=100, database=None, derandomize=True)


def bits(symbols, counts):
    """The bound: the sum of log2(total / count) over the message."""
    total = sum(counts)
    return sum(math.log2(total / counts[s]) for s in symbols)


def interval(symbols, counts):
    """The oracle: the message's interval in exact fractions, without any limit of precision."""
    low, width, total = Fraction(0), Fraction(1), sum(counts)
    for s in symbols:
        low += width * Fraction(sum(counts[:s]), total)
        width *= Fraction(counts[s], total)
    return low, width


def number(data):
    return Fraction(int.from_bytes(data, "big"), 256 ** len(data))


def test_every_short_message_lies_in_its_exact_interval():
    """Counts whose total is a power of two divide without rounding: then the interval of the coder
    is the exact one, and so is each of all messages of up to seven symbols."""
    counts = [5, 1, 0, 2]
    for n in range(1, 8):
        for code in range(3**n):
            message = [(0, 1, 3)[code // 3**i % 3] for i in range(n)]
            data = arithmetic.encode(message, counts)
            low, width = interval(message, counts)
            assert low <= number(data) <= number(data + b"\xff" * 9) < low + width
            assert arithmetic.decode(data, counts, n) == (message, len(data))


MESSAGES = st.lists(st.integers(0, 9), max_size=400)


@QUIET
@given(MESSAGES, st.binary(max_size=9))
def test_decode_undoes_encode_whatever_follows(message, rest):
    counts = np.bincount([*message, 4], minlength=10)  # NumPy's integers are counts, too
    data = arithmetic.encode(np.array(message, dtype=np.int64), counts)
    assert arithmetic.decode(data + rest, counts, len(message)) == (message, len(data))
    assert len(data) <= (bits(message, counts.tolist()) + 16) / 8 + 1e-6


@QUIET
@given(MESSAGES.filter(bool), st.lists(st.integers(1, 2**28), min_size=10, max_size=10))
def test_any_counts_will_do(message, counts):
    """Not those of the message itself: its number lies, up to rounding, in the exact interval."""
    data = arithmetic.encode(message, counts)
    assert arithmetic.decode(data, counts, len(message)) == (message, len(data))
    low, width = interval(message, counts)
    slack = len(message) * Fraction(sum(counts), arithmetic.NARROW)
    assert low - slack <= number(data) < low + width
    assert len(data) <= (bits(message, counts) + 17) / 8


def skewed(n, share, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random(n) < share).astype(int)


LONG = {
    "skewed": (skewed(200_000, 0.001), 2),
    "sparse": (skewed(200_000, 0.02), 2),
    "level": (np.random.default_rng(1).integers(0, 7, 30_000), 7),
    "2^16 symbols": (np.random.default_rng(2).permutation(2**16), 2**16),
    "2^16 symbols, most unused": (np.array([0, 65_535] * 5000), 2**16),
    "carries": (np.array([1] * 5000 + [0]), 2),
}


@pytest.mark.parametrize("kind", LONG)
def test_length_is_the_entropy(kind):
    message, alphabet = LONG[kind]
    counts = np.bincount(message, minlength=alphabet).tolist()
    data = arithmetic.encode(message, counts)
    assert arithmetic.decode(data, counts, len(message)) == (message.tolist(), len(data))
    entropy = bits(message.tolist(), counts) / 8  # bytes
    assert entropy <= len(data) <= entropy * 1.001 + 2
    if entropy > 100:
        assert len(data) <= 1.03 * entropy


def test_long_carries():
    """Counts that leave the lower end just below a carry, as often as the coder meets one."""
    rng = random.Random(0)
    for n in range(1, 300):
        counts = [1, rng.choice([3, 255, 65_535, 2**32 - 1])]
        message = [1] * n + [0] * (n % 3) + [1] * (n % 5)
        data = arithmetic.encode(message, counts)
        assert arithmetic.decode(data, counts, len(message)) == (message, len(data)), n


def test_a_carry_out_of_the_last_two_bytes():
    """A message (found by search) whose lower end, rounded up, is a whole byte more."""
    assert arithmetic.decode(arithmetic.encode([0, 2, 1], [36, 11, 1]), [36, 11, 1], 3)[0] == [
        0,
        2,
        1,
    ]


def test_what_is_certain_costs_nothing():
    assert arithmetic.encode([], [1, 2]) == b""
    assert arithmetic.encode([1] * 1000, [0, 7, 0]) == b""
    assert arithmetic.decode(b"rest", [0, 7, 0], 3) == ([1, 1, 1], 0)
    assert arithmetic.decode(b"rest", [1, 2], 0) == ([], 0)


def test_cut_and_foreign_data_are_refused():
    message = skewed(3000, 0.1)
    data = arithmetic.encode(message, [9, 1])
    for n in range(len(data)):
        with pytest.raises(ValueError, match="bytes too early"):
            arithmetic.decode(data[:n], [9, 1], 3000)
    with pytest.raises(ValueError, match="no message has"):
        arithmetic.decode(b"\xff" * 20, [1, 1, 1], 20)


@pytest.mark.parametrize(
    "counts", [[], [0, 0], [-1, 2], [1.0, 1], [2**32, 1], [math.nan], ["1"], np.array([0.5])]
)
def test_counts_that_are_none_are_refused(counts):
    for use in (
        lambda: arithmetic.encode([0], counts),
        lambda: arithmetic.decode(b"\0" * 9, counts, 1),
    ):
        with pytest.raises(ValueError, match="counts must"):
            use()


@pytest.mark.parametrize("symbols", [[2], [-1], [3], [0.0], [[0]], ["a"]])
def test_symbols_that_have_no_count_are_refused(symbols):
    with pytest.raises(ValueError, match="symbols must"):
        arithmetic.encode(symbols, [1, 1, 0])
    for count in (-1, 1.0, True):
        with pytest.raises(ValueError, match="count must"):
            arithmetic.decode(b"\0" * 9, [1, 1], count)
