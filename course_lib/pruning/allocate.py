"""How much goes where: layer by layer, over all layers at once, or by Erdős–Rényi.

Asked for a sparsity s over n weights, exactly ``round(s * n)`` go, ties included (``counting``).
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch

from course_lib.pruning import masks
from course_lib.pruning.counting import check_sparsity, keep_top_over, whole_numbers
from course_lib.pruning.criteria import Scores
from course_lib.pruning.masks import Masks
from course_lib.training import check_counts


def per_layer(scores: Scores, sparsity: float | Mapping[str, float]) -> Masks:
    """Local pruning: each layer loses its own share, ``round(s * n_layer)`` of its lowest scores.

    Args:
        scores: parameter name -> scores, higher = keep.
        sparsity: the fraction removed of every layer, or one per layer by name.

    Raises:
        ValueError: a sparsity outside [0, 1], a name too many or too few, NaN scores.
        TypeError: scores or a sparsity that are not real numbers.
    """
    _check_scores(scores)
    sparsities = _by_layer(scores, sparsity)
    found = {}
    for name, s in scores.items():
        n_keep = s.numel() - round(sparsities[name] * s.numel())
        found |= keep_top_over({name: s}, n_keep)
    _warn_of_collapse({name: keep for name, keep in found.items() if sparsities[name] < 1})
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
        TypeError: scores or a sparsity that are not real numbers, masks that are not bool.
    """
    _check_scores(scores)
    sparsity = check_sparsity("sparsity", sparsity)
    n = sum(s.numel() for s in scores.values())
    n_keep = n - round(sparsity * n)
    if within is not None:
        if within.keys() != scores.keys():
            raise ValueError(
                f"within must name the layers of scores, {sorted(scores)}, got {sorted(within)}"
            )
        masks.check(within, scores, "within", "scores")
        alive = sum(int(keep.count_nonzero()) for keep in within.values())
        if n_keep > alive:
            raise ValueError(
                f"sparsity={sparsity!r} keeps {n_keep} of {n} weights, "
                f"but within has only {alive} left"
            )
    found = keep_top_over(scores, n_keep, within)
    if sparsity < 1:
        _warn_of_collapse(found)
    return found


def _warn_of_collapse(found: Masks) -> None:
    """Name the layers of which nothing is left; Python warns once per line of the caller."""
    for name, keep in found.items():
        # NumPy's any stops at the first True; torch's reads them all.
        if keep.numel() and not keep.numpy(force=True).any():
            warnings.warn(f"nothing is left of {name!r}: no signal passes it", stacklevel=3)


def iteratively(
    score: Callable[[Masks | None], Scores], sparsity: Callable[[int], float], *, steps: int
) -> Masks:
    """Global pruning in rounds: score what is left, remove a little, score again.

    SynFlow's algorithm with ``criteria.synflow``, ``geometric(final, steps)`` and 100 steps
    (Tanaka et al. 2020, algorithm 1); nothing is trained between the rounds.

    Args:
        score: masks of the round before (None at first) -> scores, such as
            ``lambda keep: criteria.synflow(model, shape, within=keep)``.
        sparsity: round, from 1 to ``steps`` -> sparsity; it may not fall.

    Raises:
        ValueError: as ``globally``; fewer than one step.
    """
    check_counts(steps=steps)
    keep = None
    for step in range(1, steps + 1):
        keep = globally(score(keep), sparsity(step), within=keep)
    return keep


def erdos_renyi(
    shapes: Mapping[str, Sequence[int]], sparsity: float, *, kernel: bool = True
) -> dict[str, float]:
    r"""Sparsities per layer by the Erdős–Rényi rule: small layers stay denser than large ones.

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


def _check_scores(scores: Scores) -> None:
    if not sum(s.numel() for s in scores.values()):
        raise ValueError(f"scores must hold at least one weight, got {dict(scores)!r}")
    for name, s in scores.items():
        if s.dtype == torch.bool or s.is_complex():
            raise TypeError(f"scores[{name!r}] must be real numbers, got {s.dtype}")


def _by_layer(scores: Scores, sparsity: float | Mapping[str, float]) -> dict[str, float]:
    """One checked sparsity per layer."""
    if not isinstance(sparsity, Mapping):
        sparsity = dict.fromkeys(scores, sparsity)
    if sparsity.keys() != scores.keys():
        raise ValueError(
            f"sparsity must name the layers of scores, {sorted(scores)}, got {sorted(sparsity)}"
        )
    return {name: check_sparsity(f"sparsity[{name!r}]", s) for name, s in sparsity.items()}
