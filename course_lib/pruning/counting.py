"""Exact counts: which n scores stay, also when scores are equal.

At sparsity s, exactly ``round(s * n)`` of n weights are removed. Of equal scores the earlier one
stays: the earlier layer, and within a layer the earlier entry, row by row.
"""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import repeat
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LARGE = 1_000_000  # scores, from which on a sample brackets the cut first, in several threads
SAMPLE = 131_072

Arrays = dict[str, np.ndarray]
Bounds = tuple[np.generic, np.generic]


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
    keep = scores >= cut
    if too_many := int(keep.count_nonzero()) - n_keep:
        tied = (scores == cut).nonzero().squeeze(1)
        keep[tied[len(tied) - too_many :]] = False
    return keep


def keep_top_of_each(scores: Tensor, n_keep: int) -> Tensor:
    """True at the ``n_keep`` highest of each row (…, n); of equal scores the first stay.

    Examples:
        >>> keep_top_of_each(torch.tensor([[1.0, 3.0, 1.0], [0.0, 0.0, 0.0]]), 2)
        tensor([[ True,  True, False],
                [ True,  True, False]])
    """
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    keep = torch.zeros_like(scores, dtype=torch.bool)
    return keep.scatter_(-1, order[..., :n_keep], True)


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
        parts = _all_split(flat, alive, bounds)
        above = sum(part.above for part in parts.values())
        if above <= n_keep <= above + sum(len(part.places) for part in parts.values()):
            break
    values = np.concatenate([part.values for part in parts.values()])
    chosen = keep_top(torch.from_numpy(values), n_keep - above).numpy()
    for part in parts.values():
        part.keep[part.places], chosen = np.split(chosen, [len(part.places)])
    return {
        name: torch.from_numpy(parts[name].keep).view(s.shape).to(s.device)
        for name, s in scores.items()
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


def _limits(flat: Arrays) -> Bounds:
    """The lowest and the highest value that a score can have."""
    dtype = next(iter(flat.values())).dtype
    if dtype.kind == "f":
        return dtype.type(-np.inf), dtype.type(np.inf)
    return dtype.type(np.iinfo(dtype).min), dtype.type(np.iinfo(dtype).max)


def _bounds(flat: Arrays, alive: Arrays | None, n_keep: int) -> Bounds:
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
    # Three standard deviations of the rank that the cut has in a random sample.
    slack = 2 + math.ceil(3 * math.sqrt(len(sample) * stay * (1 - stay)))
    rank = round((1 - stay) * len(sample))
    first, last = rank - slack, rank + slack
    inside = [at for at in (first, last) if 0 <= at < len(sample)]
    ordered = np.partition(sample, inside) if inside else sample
    low = ordered[first] if first in inside else low
    high = ordered[last] if last in inside else high
    return low, high


class _Split(NamedTuple):
    """The scores of one layer, split by two bounds."""

    keep: np.ndarray  #: (n,) bool, True where the score is above both
    places: np.ndarray  #: (m,), the positions of the scores between them
    values: np.ndarray  #: (m,), these scores
    above: int  #: the number above both


def _split(name: str, x: np.ndarray, alive: np.ndarray | None, bounds: Bounds) -> _Split:
    """Split the (n,) scores of the layer ``name``."""
    low, high = bounds
    keep = x > high
    between = np.flatnonzero((x < low) == keep)  # neither; NaN, too, is neither
    if unknown := np.count_nonzero(np.isnan(x[between])):
        raise ValueError(f"scores[{name!r}] must be numbers, got {unknown} NaN")
    if alive is not None:
        keep &= alive
        between = between[alive[between]]
    return _Split(keep, between, x[between], int(np.count_nonzero(keep)))


def _all_split(flat: Arrays, alive: Arrays | None, bounds: Bounds) -> dict[str, _Split]:
    """Every layer's split; NumPy's loops run side by side, in as many threads as torch uses."""
    earlier = [None] * len(flat) if alive is None else [alive[name] for name in flat]
    of_layers = (flat, flat.values(), earlier, repeat(bounds))
    if sum(len(x) for x in flat.values()) < LARGE:  # threads would take longer to start
        return dict(zip(flat, map(_split, *of_layers), strict=True))
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return dict(zip(flat, threads.map(_split, *of_layers), strict=True))


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
