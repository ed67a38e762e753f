r"""Arithmetic coding: a message becomes one number, and a frequent symbol costs less than one bit.

A code word of Huffman's has whole bits, and at least one. Arithmetic coding has no code words. It
starts from the interval of all numbers from 0 to 1. Each symbol replaces the interval by a part of it,
whose share is the symbol's share p of all counts. After the last symbol the interval is as long as the
product of these shares. A number inside it, which names the whole message, has about as many bits as

.. math:: \sum_{\text{symbols}} \log_2 \frac{1}{p}
          \;=\; n H \quad \text{if the counts are those of the } n \text{ symbols of the message}

The model is static: the decoder knows the counts before it begins. Module ``coding`` writes them into
its file.

The interval is kept as two integers, its lower end and its width of at most 56 bits. Whenever the
width falls below 2^48, the first byte of the lower end leaves for the output (a carry may still add
one to it), and all else moves up by a byte. The division is rounded down, so a symbol costs more
bits than it should: less than total · 2^−48 / log 2 of them, where the total is the sum of the counts.
Two bytes end the message.

Source: Martin 1979, "Range encoding"; Witten, Neal & Cleary 1987, "Arithmetic coding for data
compression".
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

BITS = 56  # of the interval's width at most; Python's integers are fast up to 60
NARROW = 1 << BITS - 8  # below this width a byte moves out
LARGEST_TOTAL = 1 << 32  # so that rounding costs at most 2^−16 of a symbol's bits
END = 2  # bytes after the last symbol: enough, whatever follows them


def encode(symbols: np.ndarray | Sequence[int], counts: Sequence[int]) -> bytes:
    """The message as bytes: two bytes more, at most, than the sum of log2(total / count) over it.

    Args:
        symbols: integers from 0 to ``len(counts) − 1``, (n,).
        counts: how often each symbol occurs, or any other weights of this proportion.

    Returns:
        The bytes. No symbols, or counts with only one symbol, give no bytes.

    Raises:
        ValueError: counts that are not integers of at least 0, or whose sum is not from 1 to 2^32; a
            symbol without a count, or one that is not an integer.

    Examples:
        >>> message = np.array([0] * 990 + [1] * 10)  # 0.081 bits of entropy per symbol
        >>> data = encode(message, [990, 10])
        >>> len(data)  # Huffman's code needs a bit per symbol, which is 125 bytes
        12
        >>> found, used = decode(data + b"whatever follows", [990, 10], count=1000)
        >>> found == message.tolist(), used
        (True, 12)
    """
    sizes, starts = _parts(counts)
    message = _message(symbols, sizes)
    total, low, width, data = starts[-1], 0, 1 << BITS, bytearray()
    if not message or total in sizes:
        return b""
    for symbol in message:
        step = width // total
        low += step * starts[symbol]
        width = step * sizes[symbol]
        if low >> BITS:
            low -= 1 << BITS
            _carry(data)
        while width < NARROW:
            data.append(low >> BITS - 8)
            low = low << 8 & (1 << BITS) - 1
            width <<= 8
    rest = BITS - 8 * END
    low = -(-low >> rest)  # rounded up: whatever follows stays in the interval
    if low >> 8 * END:
        low -= 1 << 8 * END
        _carry(data)
    return bytes(data) + low.to_bytes(END, "big")


def _carry(data: bytearray) -> None:
    """Add one to the number that the bytes are."""
    at = len(data) - 1
    while data[at] == 255:
        data[at] = 0
        at -= 1
    data[at] += 1


def decode(data: bytes, counts: Sequence[int], count: int) -> tuple[list[int], int]:
    """The ``count`` symbols of a message, and the number of bytes that they take.

    Args:
        data: the bytes of ``encode``, and anything behind them.
        counts: as they were given to ``encode``.

    Raises:
        ValueError: counts that ``encode`` refuses; data that end too early, or that no message has;
            a ``count`` that is not 0 or a positive integer.
    """
    if type(count) is not int or count < 0:
        raise ValueError(f"count must be 0 or a positive integer, got {count!r}")
    sizes, starts = _parts(counts)
    total = starts[-1]
    if count == 0 or total in sizes:  # nothing to be told apart
        return [sizes.index(max(sizes))] * count, 0
    first = BITS // 8
    value = int.from_bytes(data[:first].ljust(first, b"\0"), "big")  # less the interval's lower end
    width, at, symbols = 1 << BITS, first, []
    for _ in range(count):
        step = width // total
        if value >= step * total:
            raise ValueError("data hold bytes that no message has")
        symbol = bisect_right(starts, value // step) - 1
        symbols.append(symbol)
        value -= step * starts[symbol]
        width = step * sizes[symbol]
        while width < NARROW:
            value = value << 8 | (data[at] if at < len(data) else 0)
            width <<= 8
            at += 1
    used = at - first + END
    if used > len(data):
        raise ValueError(f"data end {used - len(data)} bytes too early")
    return symbols, used


def _parts(counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Each symbol's part of the total: its size and its start. The total stands behind the starts."""
    if not all(isinstance(n, int | np.integer) and n >= 0 for n in counts) or not (
        1 <= sum(map(int, counts)) <= LARGEST_TOTAL
    ):
        raise ValueError(
            "counts must be integers of at least 0 with a sum from 1 to 2^32, "
            f"got {list(counts)[:20]!r}"
        )
    sizes = list(map(int, counts))  # Python's: NumPy's would overflow
    return sizes, [0, *accumulate(sizes)]


def _message(symbols: np.ndarray | Sequence[int], sizes: list[int]) -> list[int]:
    message = np.asarray(symbols)
    if message.ndim != 1 or len(message) and message.dtype.kind not in "iub":
        raise ValueError(
            f"symbols must be a row of integers, got {message.dtype} of shape {message.shape}"
        )
    used = np.unique(message).tolist()
    if used and (used[0] < 0 or used[-1] >= len(sizes) or not all(sizes[s] for s in used)):
        raise ValueError(f"symbols must have counts, got {used[:20]} for {sizes[:20]}")
    return message.tolist()
