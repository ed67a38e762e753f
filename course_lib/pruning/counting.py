"""Exact counts: which n of the scores stay, ties included.

Asked for a sparsity s over n weights, exactly ``round(s * n)`` go: among equal scores the earlier
entry (in the order of the layers, then row by row) stays.
"""

import math
from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor


def keep_top(scores: Tensor, n_keep: int) -> Tensor:
    """True at the ``n_keep`` highest of (n,) scores; of those equal at the cut, the first stay."""
    n = len(scores)
    if n_keep in (0, n):
        return torch.full((n,), n_keep > 0, device=scores.device)
    cut = _kth_smallest(scores, n - n_keep + 1)  # the lowest score that stays
    keep = scores > cut
    tied = (scores == cut).nonzero().squeeze(1)
    keep[tied[: n_keep - int(keep.count_nonzero())]] = True
    return keep


def _kth_smallest(x: Tensor, k: int) -> Tensor:
    """The k-th smallest (from 1) of (n,) numbers, exactly.

    On millions of numbers a sample first brackets the answer, so that only the few numbers inside
    the bracket have to be ordered (Floyd & Rivest 1975). A sample that misses costs time, nothing
    else.
    """
    n = len(x)
    if n >= 1_000_000:
        sample = x[:: n // 65_536].sort().values
        rank, slack = k * len(sample) // n, 4 * math.isqrt(len(sample))
        low, high = sample[max(0, rank - slack)], sample[min(len(sample) - 1, rank + slack)]
        below = int((x < low).count_nonzero())
        inside = x[(x >= low) & (x <= high)]
        if below < k <= below + len(inside):
            return inside.kthvalue(k - below).values
    return x.kthvalue(k).values


def whole_numbers(parts: Mapping[str, float], total: int) -> dict[str, int]:
    """Round parts to whole numbers that add up to ``total``: those with the largest remainders go
    up."""
    down = {name: math.floor(part) for name, part in parts.items()}
    by_remainder = sorted(parts, key=lambda name: down[name] - parts[name])
    for name in by_remainder[: total - sum(down.values())]:
        down[name] += 1
    return down


def fraction(scores: Mapping[str, Tensor], count: int) -> float:
    """The sparsity at which exactly ``count`` weights of ``scores`` go: for those who think in
    numbers of weights."""
    n = sum(s.numel() for s in scores.values())
    if not 0 <= count <= n:
        raise ValueError(f"count must be between 0 and {n}, the weights in scores, got {count!r}")
    return count / n


def check_sparsity(argument: str, value: float) -> float:
    """The fraction removed as a float.

    Raises:
        ValueError: outside [0, 1]. TypeError: no number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument} must be a number in [0, 1], got {value!r}")
    if not 0 <= value <= 1:  # also refuses NaN
        raise ValueError(f"{argument} must be in [0, 1] (the fraction removed), got {value!r}")
    return float(value)  # counts of millions need more digits than NumPy's float32 has
