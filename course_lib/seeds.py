"""Where all random numbers come from: a seed, and one offset that shifts every seed at once.

The environment variable ``COURSE_OFFSET`` holds the offset, an integer from 0 to 2,000. With 0, or
without the variable, a seed is used as it is. With another offset, the same code draws other initial
weights, images, minibatches, noise and masks: ``book/replicate.py`` asks with it whether a claim
hangs on the numbers that were drawn.
"""

import os

import torch

# Torch's generator on the CPU looks at the low 32 bits of a seed only. With this distance, the seeds
# below a million, and those from 2³¹ to a million above it, lead to different numbers under all the
# offsets.
DISTANCE = 1_000_003
LAST = 2000


def check(seed: int) -> None:
    """Raise TypeError unless the seed is an integer, ValueError unless 64 bits can hold it."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must be from -2**63 to 2**63 - 1, got {seed}")


def offset() -> int:
    """The number in ``COURSE_OFFSET``, or 0.

    Raises:
        ValueError: anything but an integer from 0 to 2,000.
    """
    text = os.environ.get("COURSE_OFFSET", "0")
    if not (text.isascii() and text.isdigit() and int(text) <= LAST):
        raise ValueError(f"COURSE_OFFSET must be an integer from 0 to {LAST}, got {text!r}")
    return int(text)


def shifted(seed: int) -> int:
    """The seed to use for this seed under the offset.

    Raises:
        TypeError, ValueError: a seed as ``check`` refuses it, an offset as ``offset`` does.

    Examples:
        >>> shifted(7)
        7
    """
    check(seed)
    now = offset()
    return (seed + DISTANCE * now) % 2**32 if now else seed


def generator(seed: int) -> torch.Generator:
    """A generator on the CPU that starts from the shifted seed.

    Raises:
        TypeError, ValueError: as ``shifted``.

    Examples:
        >>> float(torch.rand((), generator=generator(0)))
        0.496...
    """
    return torch.Generator().manual_seed(shifted(seed))
