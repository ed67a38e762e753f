"""How much to prune, and where: layer by layer, globally, or by Erdős–Rényi; at once or in steps.

Asked for a sparsity s over n weights, exactly ``round(s * n)`` go, ties included: among equal
scores the earlier entry (in the order of the layers, then row by row) stays.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from course_lib.pruning import masks
from course_lib.pruning.criteria import Scores
from course_lib.pruning.masks import Masks


def per_layer(scores: Scores, sparsity: float | Mapping[str, float]) -> Masks:
    """Local pruning: each layer loses its own share, ``round(s * n_layer)`` of its lowest scores.

    Args:
        scores: parameter name -> scores, higher = keep.
        sparsity: the fraction removed of every layer, or one a layer by name.

    Raises:
        ValueError: a sparsity outside [0, 1], a name too many or too few, NaN scores.
    """
    shares = _shares(scores, sparsity)
    found = {
        name: keep_top(s.flatten(), s.numel() - round(shares[name] * s.numel())).view(s.shape)
        for name, s in scores.items()
    }
    _warn_of_collapse({name: keep for name, keep in found.items() if shares[name] < 1})
    return found


def globally(scores: Scores, sparsity: float, *, within: Masks | None = None) -> Masks:
    """Global pruning: one ranking over all layers; ``round(s * n)`` of the lowest scores go.

    A layer may lose everything (layer collapse): a warning names it, nothing here prevents it.

    Args:
        scores: parameter name -> scores, higher = keep.
        sparsity: the fraction removed of all weights, those already gone included.
        within: masks of an earlier round. What they removed stays removed, and counts.

    Raises:
        ValueError: a sparsity outside [0, 1] or below that of ``within``, NaN scores, or
            ``within`` with other names or shapes than ``scores``.
    """
    _check_scores(scores)
    sparsity = check_sparsity("sparsity", sparsity)
    flat = torch.cat([s.flatten() for s in scores.values()])
    n_keep = len(flat) - round(sparsity * len(flat))
    if within is None:
        keep = keep_top(flat, n_keep)
    else:
        if within.keys() != scores.keys():
            raise ValueError(
                f"within must name the layers of scores, {sorted(scores)}, got {sorted(within)}"
            )
        masks.check(within, scores, "within", "scores")
        keep = torch.cat([within[name].flatten() for name in scores])
        alive = int(keep.count_nonzero())
        if n_keep > alive:
            raise ValueError(
                f"sparsity={sparsity!r} keeps {n_keep} of {len(flat)} weights, "
                f"but within has only {alive} left"
            )
        keep[keep.clone()] = keep_top(flat[keep], n_keep)
    parts = keep.split([s.numel() for s in scores.values()])
    found = {n: part.view(s.shape) for (n, s), part in zip(scores.items(), parts, strict=True)}
    if sparsity < 1:
        _warn_of_collapse(found)
    return found


def _warn_of_collapse(found: Masks) -> None:
    """Name the layers of which nothing is left; Python shows a warning once a line of the caller."""
    for name, keep in found.items():
        if keep.numel() and not keep.any():
            warnings.warn(f"nothing is left of {name!r}: no signal passes it", stacklevel=3)


def iteratively(
    score: Callable[[Masks | None], Scores], schedule: Callable[[int], float], *, steps: int
) -> Masks:
    """Global pruning in rounds: score what is left, remove a little, score again.

    SynFlow's algorithm with ``criteria.synflow``, ``geometric(final, steps)`` and 100 steps
    (Tanaka et al. 2020, algorithm 1); nothing is trained between the rounds.

    Args:
        score: masks of the round before (None at first) -> scores, such as
            ``lambda keep: criteria.synflow(model, shape, within=keep)``.
        schedule: round, from 1 to ``steps`` -> sparsity; it may not fall.

    Raises:
        ValueError: as ``globally``; fewer than one step.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number from 1 on, got {steps!r}")
    keep = None
    for step in range(1, steps + 1):
        keep = globally(score(keep), schedule(step), within=keep)
    return keep


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


def erdos_renyi(
    shapes: Mapping[str, Sequence[int]], sparsity: float, *, kernel: bool = True
) -> dict[str, float]:
    r"""Sparsities a layer by the Erdős–Rényi rule: small layers stay denser than large ones.

    The density of layer :math:`l` is :math:`\epsilon\, r_l`, capped at 1, where

    .. math:: r_l = \frac{n_{l-1} + n_l}{n_{l-1}\, n_l}
              \qquad\text{or, with kernel,}\qquad
              r_l = \frac{n_{l-1} + n_l + w_l + h_l}{n_{l-1}\, n_l\, w_l\, h_l}

    and :math:`\epsilon` is such that the whole network has the sparsity asked for. Layers that
    would need a density above 1 stay dense, and the others share the rest.

    Source: Mocanu et al. 2018 (ER, as p = ε(n + n')/(n n') in the authors' code); Evci et al. 2020,
    section 3 (ERK); densities as in Google's RigL code, rounded so that the total is exact.

    Args:
        shapes: parameter name -> shape, (out, in) or (out, in, kernel height, kernel width).
        sparsity: the fraction removed over all layers together.
        kernel: whether the kernel's sides enter (ERK) or only its channels (ER). The same for
            linear layers.

    Returns:
        Parameter name -> sparsity, for ``per_layer``.

    Raises:
        ValueError: a sparsity outside [0, 1], no layers, or a shape with fewer than two sides.
    """
    sparsity = check_sparsity("sparsity", sparsity)
    if not shapes:
        raise ValueError("shapes must hold at least one layer, got none")
    for name, shape in shapes.items():
        if len(shape) < 2 or min(shape) < 1:
            raise ValueError(f"shapes[{name!r}] must be (out, in, …), got {tuple(shape)}")
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {
        name: sum(shape if kernel else shape[:2]) / math.prod(shape if kernel else shape[:2])
        for name, shape in shapes.items()
    }
    to_keep = (1 - sparsity) * sum(size.values())
    dense: set[str] = set()
    while len(dense) < len(shapes):
        shared = [name for name in shapes if name not in dense]
        epsilon = (to_keep - sum(size[n] for n in dense)) / sum(raw[n] * size[n] for n in shared)
        too_dense = {name for name in shared if epsilon * raw[name] > 1}
        if not too_dense:
            break
        dense |= too_dense  # what they do not need raises epsilon for the others, never lowers it
    removed = {n: 0.0 if n in dense else (1 - epsilon * raw[n]) * size[n] for n in shapes}
    return {
        n: count / size[n]
        for n, count in whole_numbers(removed, round(sparsity * sum(size.values()))).items()
    }


def whole_numbers(parts: Mapping[str, float], total: int) -> dict[str, int]:
    """Round parts to whole numbers that add up to ``total``: those with the largest remainders go
    up."""
    down = {name: math.floor(part) for name, part in parts.items()}
    by_remainder = sorted(parts, key=lambda name: down[name] - parts[name])
    for name in by_remainder[: total - sum(down.values())]:
        down[name] += 1
    return down


def fraction(scores: Scores, count: int) -> float:
    """The sparsity at which exactly ``count`` weights of ``scores`` go: for those who think in
    numbers of weights."""
    n = sum(s.numel() for s in scores.values())
    if not 0 <= count <= n:
        raise ValueError(f"count must be between 0 and {n}, the weights in scores, got {count!r}")
    return count / n


def one_shot(final: float) -> Callable[[int], float]:
    """Step -> sparsity: nothing at step 0, everything at step 1."""
    final = check_sparsity("final", final)
    return lambda step: final if step >= 1 else 0.0


def linear(final: float, steps: int) -> Callable[[int], float]:
    """Step -> sparsity, s_t = s_T · t/T: the same *number* of weights goes in every step."""
    return _schedule(final, steps, lambda t: final * t)


def geometric(final: float, steps: int) -> Callable[[int], float]:
    """Step -> sparsity, 1 − s_t = (1 − s_T)^(t/T): the same *fraction of what is left* goes in every
    step, as in Frankle & Carbin 2019. (Han et al. 2015 do not say how much goes in a round.)"""
    return _schedule(final, steps, lambda t: 1 - (1 - final) ** t)


def cubic(final: float, steps: int) -> Callable[[int], float]:
    """Step -> sparsity, s_t = s_T + (0 − s_T)(1 − t/T)³: fast at first, gentle at the end.

    Source: Zhu & Gupta 2017, equation 1, with initial sparsity 0, t_0 = 0 and n Δt = T; checked
    against the documentation of the authors' TensorFlow code, not against the paper's own text.
    """
    return _schedule(final, steps, lambda t: final - final * (1 - t) ** 3)


def _schedule(final: float, steps: int, curve: Callable[[float], float]) -> Callable[[int], float]:
    final = check_sparsity("final", final)
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number from 1 on, got {steps!r}")
    # Before step 0 nothing is pruned, after the last step nothing more. The end is exact.
    return lambda step: final if step >= steps else curve(max(step, 0) / steps)


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


def _check_scores(scores: Scores) -> None:
    if not sum(s.numel() for s in scores.values()):
        raise ValueError(f"scores must hold at least one weight, got {dict(scores)!r}")
    for name, s in scores.items():
        if s.isnan().any():
            raise ValueError(f"scores[{name!r}] must be numbers, got {int(s.isnan().sum())} NaN")


def _shares(scores: Scores, sparsity: float | Mapping[str, float]) -> Mapping[str, float]:
    """One checked sparsity a layer."""
    _check_scores(scores)
    if not isinstance(sparsity, Mapping):
        sparsity = dict.fromkeys(scores, sparsity)
    if sparsity.keys() != scores.keys():
        raise ValueError(
            f"sparsity must name the layers of scores, {sorted(scores)}, got {sorted(sparsity)}"
        )
    return {name: check_sparsity(f"sparsity[{name!r}]", s) for name, s in sparsity.items()}
