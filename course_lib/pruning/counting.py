"""Exact counts: which n scores stay, also when scores are equal.

At sparsity s, exactly ``round(s * n)`` of n weights are removed. Of equal scores the earlier one
stays: the earlier layer, and within a layer the earlier entry, row by row.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from numbers import Real

import numpy as np
import torch
from torch import Tensor

LARGE = 1_000_000  # from here on a sample brackets the cut first
SAMPLE = 65_536

Arrays = dict[str, np.ndarray]


def keep_top(scores: Tensor, n_keep: int) -> Tensor:
    """True at the ``n_keep`` highest of (n,) scores; of equal scores at the cut, the first stay.

    Examples:
        >>> keep_top(torch.tensor([1.0, 3.0, 1.0, 2.0]), 3)
        tensor([ True,  True, False,  True])
    """
    n = len(scores)
    if n_keep in (0, n):
        return torch.full((n,), n_keep > 0, device=scores.device)
    cut = scores.kthvalue(n - n_keep + 1).values  # the lowest score that stays
    keep = scores > cut
    tied = (scores == cut).nonzero().squeeze(1)
    keep[tied[: n_keep - int(keep.count_nonzero())]] = True
    return keep


def keep_top_over(
    scores: Mapping[str, Tensor], n_keep: int, within: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The ``n_keep`` highest scores of all layers together: parameter name -> mask.

    The layers are not joined in memory. A sample gives two bounds, and the cut very probably lies
    between them. One pass finds the scores above both bounds, and only the few scores between them
    have to be ordered. If the sample misled, the pass is repeated without bounds. All of this runs
    on the CPU in NumPy, whose comparisons take half of torch's time there.

    Source: Floyd & Rivest 1975, for the idea of the sample.

    Args:
        within: earlier masks of all layers. What they removed stays removed.

    Raises:
        ValueError: NaN among the scores.
    """
    flat, alive = _arrays(scores), None if within is None else _arrays(within)
    for bounds in (_bounds(flat, alive, n_keep), _limits(flat)):
        keep, places, above = _split(flat, alive, bounds)
        between = sum(len(at) for at in places.values())
        if above <= n_keep <= above + between:
            break
    values = np.concatenate([flat[name][at] for name, at in places.items()])
    chosen = keep_top(torch.from_numpy(values), n_keep - above).numpy()
    for name, at in places.items():
        keep[name][at], chosen = chosen[: len(at)], chosen[len(at) :]
    return {
        name: torch.from_numpy(keep[name]).view(s.shape).to(s.device) for name, s in scores.items()
    }


def _arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    """Each tensor row by row, (n,), in one type that NumPy has; a view where possible."""
    dtype = next(iter(tensors.values())).dtype
    for x in tensors.values():
        dtype = torch.promote_types(dtype, x.dtype)
    if dtype.is_floating_point and dtype.itemsize < 4:
        dtype = torch.float32  # holds every half-precision number
    return {
        name: x.detach().to("cpu", dtype).contiguous().view(-1).numpy()
        for name, x in tensors.items()
    }


def _limits(flat: Arrays) -> tuple[np.generic, np.generic]:
    """The lowest and the highest value that a score can have."""
    dtype = next(iter(flat.values())).dtype
    if dtype.kind == "f":
        return dtype.type(-np.inf), dtype.type(np.inf)
    return dtype.type(np.iinfo(dtype).min), dtype.type(np.iinfo(dtype).max)


def _bounds(flat: Arrays, alive: Arrays | None, n_keep: int) -> tuple[np.generic, np.generic]:
    """Two scores between which the cut very probably lies, from a sample."""
    low, high = _limits(flat)
    n = sum(len(x) for x in flat.values())
    if n < LARGE:
        return low, high
    step = n // SAMPLE
    every = {name: x[::step] for name, x in flat.items()}
    if alive is not None:
        every = {name: x[alive[name][::step]] for name, x in every.items()}
        n = sum(np.count_nonzero(x) for x in alive.values())
    sample = np.concatenate(list(every.values()))
    stay = n_keep / max(n, 1)
    # Four standard deviations of the rank that the cut has in a random sample.
    slack = 2 + math.ceil(4 * math.sqrt(len(sample) * stay * (1 - stay)))
    rank = round((1 - stay) * len(sample))
    if rank - slack >= 0:
        low = np.partition(sample, rank - slack)[rank - slack]
    if rank + slack < len(sample):
        high = np.partition(sample, rank + slack)[rank + slack]
    return low, high


def _split(
    flat: Arrays, alive: Arrays | None, bounds: tuple[np.generic, np.generic]
) -> tuple[Arrays, Arrays, int]:
    """Masks of the scores above the bounds, positions of those between, and the number above."""
    low, high = bounds
    keep, places, above = {}, {}, 0
    for name, x in flat.items():
        keep[name] = x > high
        between = np.flatnonzero((x < low) == keep[name])  # neither; NaN, too, is neither
        if unknown := np.count_nonzero(np.isnan(x[between])):
            raise ValueError(f"scores[{name!r}] must be numbers, got {unknown} NaN")
        if alive is not None:
            keep[name] &= alive[name]
            between = between[alive[name][between]]
        places[name] = between
        above += int(np.count_nonzero(keep[name]))
    return keep, places, above


def whole_numbers(parts: Mapping[str, float | Fraction], total: int) -> dict[str, int]:
    """Round parts to integers that add up to ``total``; the largest remainders are rounded up.

    Examples:
        >>> whole_numbers({"a": 1.5, "b": 2.2, "c": 0.3}, 4)
        {'a': 2, 'b': 2, 'c': 0}
    """
    down = {name: math.floor(part) for name, part in parts.items()}
    by_remainder = sorted(parts, key=lambda name: down[name] - parts[name])
    for name in by_remainder[: total - sum(down.values())]:
        down[name] += 1
    return down


def fraction(scores: Mapping[str, Tensor], count: int) -> float:
    """The sparsity at which exactly ``count`` weights of ``scores`` are removed.

    Raises:
        ValueError: a count outside [0, number of weights].

    Examples:
        >>> fraction({"weight": torch.zeros(2, 5)}, 1)
        0.1
    """
    n = sum(s.numel() for s in scores.values())
    if not 0 <= count <= n:
        raise ValueError(f"count must be between 0 and {n}, the weights in scores, got {count!r}")
    return count / n


def check_sparsity(argument: str, value: float) -> float:
    """The fraction removed, as a float.

    Raises:
        ValueError: a value outside [0, 1].
        TypeError: a value that is no number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument} must be a number in [0, 1], got {value!r}")
    if not 0 <= value <= 1:  # also refuses NaN
        raise ValueError(f"{argument} must be in [0, 1] (the fraction removed), got {value!r}")
    return float(value)  # counts of millions need more digits than NumPy's float32 has
