"""Masks from scores: how many weights each layer loses, and which ones.

A sparsity can be reached layer by layer (``per_layer``), row by row (``per_output``), by one
ranking of all weights (``globally``), or with the shares of the Erdős–Rényi rule
(``erdos_renyi``). At sparsity s, exactly ``round(s * n)`` of n weights are removed, also when
scores are equal (``counting``).
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch

from course_lib.pruning import masks
from course_lib.pruning.counting import (
    check_sparsity,
    keep_top_of_each,
    keep_top_over,
    whole_numbers,
)
from course_lib.pruning.criteria import Scores
from course_lib.pruning.masks import Masks
from course_lib.training import check_counts


def per_layer(scores: Scores, sparsity: float | Mapping[str, float]) -> Masks:
    """Local pruning: every layer loses its ``round(s * n_layer)`` lowest scores.

    Args:
        scores: parameter name -> scores. Higher means keep.
        sparsity: the fraction removed in every layer, or parameter name -> fraction.

    Raises:
        ValueError: a sparsity outside [0, 1], a mapping with other names than ``scores``, NaN.
        TypeError: scores or a sparsity that are not real numbers.

    Examples:
        >>> import torch
        >>> scores = {"a": torch.tensor([3.0, 1.0, 2.0, 1.0]), "b": torch.tensor([9.0, 8.0])}
        >>> per_layer(scores, 0.5)
        {'a': tensor([ True, False,  True, False]), 'b': tensor([ True, False])}
    """
    check_scores(scores)
    sparsities = _by_layer(scores, sparsity)
    found = {}
    for name, s in scores.items():
        n_keep = s.numel() - round(sparsities[name] * s.numel())
        found |= keep_top_over({name: s}, n_keep)
    _warn_of_collapse({name: keep for name, keep in found.items() if sparsities[name] < 1})
    return found


def per_output(scores: Scores, sparsity: float | Mapping[str, float]) -> Masks:
    """Every output loses the same number of weights: the ``round(s * n)`` lowest scores of its row.

    A row is what one output of a layer computes with, n = in of a weight (out, in).

    Source: Sun et al. 2024 (Wanda), for the comparison within an output.

    Args:
        scores: parameter name -> scores (out, …). Higher means keep; of equal scores in a row the
            earlier one stays.
        sparsity: the fraction removed in every row, or parameter name -> fraction.

    Raises:
        ValueError: as ``per_layer``; scores without an axis of inputs.
        TypeError: as ``per_layer``.

    Examples:
        >>> import torch
        >>> per_output({"w": torch.tensor([[4.0, 3.0], [1.0, 2.0]])}, 0.5)
        {'w': tensor([[ True, False],
                [False,  True]])}
    """
    check_rows(scores)
    sparsities = _by_layer(scores, sparsity)
    found = {}
    for name, s in scores.items():
        rows = s.flatten(1)
        n = rows.shape[1]
        found[name] = keep_top_of_each(rows, n - round(sparsities[name] * n)).view(s.shape)
    _warn_of_collapse({name: keep for name, keep in found.items() if sparsities[name] < 1})
    return found


def globally(scores: Scores, sparsity: float, *, within: Masks | None = None) -> Masks:
    """Global pruning: one ranking of all layers, whose ``round(s * n)`` lowest scores are removed.

    A layer may lose everything (layer collapse). A warning names such a layer; nothing prevents it.

    Args:
        scores: parameter name -> scores. Higher means keep.
        sparsity: the fraction removed of all weights, including those already removed.
        within: masks of an earlier round. What they removed stays removed, and it counts.

    Raises:
        ValueError: a sparsity outside [0, 1] or below that of ``within``, NaN scores, or
            ``within`` with other names or shapes than ``scores``.
        TypeError: scores or a sparsity that are not real numbers, masks that are not bool.

    Examples:
        >>> import torch
        >>> scores = {"a": torch.tensor([3.0, 1.0, 2.0, 1.0]), "b": torch.tensor([9.0, 8.0])}
        >>> globally(scores, 0.5)
        {'a': tensor([ True, False, False, False]), 'b': tensor([True, True])}
    """
    check_scores(scores)
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
    """Name the layers that have no weight left. Python warns once per line of the caller."""
    for name, keep in found.items():
        # NumPy's any stops at the first True; torch's reads them all.
        if keep.numel() and not keep.numpy(force=True).any():
            warnings.warn(f"nothing is left of {name!r}: no signal passes it", stacklevel=3)


def iteratively(
    score: Callable[[Masks | None], Scores], sparsity: Callable[[int], float], *, steps: int
) -> Masks:
    """Global pruning in rounds: score what is left, remove a little, score again.

    With ``criteria.synflow``, ``schedules.geometric(final, steps)`` and 100 steps this is SynFlow's
    algorithm. Nothing is trained between the rounds.

    Source: Tanaka et al. 2020, algorithm 1.

    Args:
        score: masks of the round before (None at first) -> scores, such as
            ``lambda keep: criteria.synflow(model, shape, within=keep)``.
        sparsity: round, from 1 to ``steps`` -> sparsity. It must not fall.
        steps: the number of rounds, a positive integer.

    Raises:
        ValueError: as ``globally``; ``steps`` below 1.
        TypeError: as ``globally``; ``steps`` that is no integer.
    """
    check_counts(steps=steps)
    keep = globally(score(None), sparsity(1))
    for step in range(2, steps + 1):
        keep = globally(score(keep), sparsity(step), within=keep)
    return keep


def erdos_renyi(
    shapes: Mapping[str, Sequence[int]], sparsity: float, *, kernel: bool = True
) -> dict[str, float]:
    r"""Sparsities per layer by the Erdős–Rényi rule: small layers stay denser than large ones.

    The density of layer :math:`l` is :math:`\epsilon\, r_l`, but at most 1, where

    .. math:: r_l = \frac{n_{l-1} + n_l}{n_{l-1}\, n_l}
              \qquad\text{or, with kernel,}\qquad
              r_l = \frac{n_{l-1} + n_l + w_l + h_l}{n_{l-1}\, n_l\, w_l\, h_l}

    and :math:`\epsilon` gives the whole network the required sparsity. A layer that would need a
    density above 1 stays dense, and the other layers share what remains. The counts are rounded so
    that the total is exact.

    Source: Mocanu et al. 2018 (ER); Evci et al. 2020, section 3 (ERK).

    Args:
        shapes: parameter name -> shape, (out, in) or (out, in, kernel height, kernel width).
        sparsity: the fraction removed over all layers together.
        kernel: True for ERK, which counts the kernel's sides too; False for ER, which counts only
            the channels. Linear layers are the same under both.

    Returns:
        Parameter name -> sparsity, as ``per_layer`` takes it.

    Raises:
        ValueError: a sparsity outside [0, 1], no layers, or a shape with fewer than two sides.
        TypeError: a sparsity that is no number.

    Examples:
        >>> erdos_renyi({"small": (2, 2), "large": (10, 10)}, 0.5)
        {'small': 0.0, 'large': 0.52}
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


def check_scores(scores: Scores) -> None:
    """Raise ValueError unless there are scores, TypeError unless they are real numbers."""
    if not sum(s.numel() for s in scores.values()):
        raise ValueError(f"scores must hold at least one weight, got {dict(scores)!r}")
    for name, s in scores.items():
        if s.dtype == torch.bool or s.is_complex():
            raise TypeError(f"scores[{name!r}] must be real numbers, got {s.dtype}")


def check_rows(scores: Scores) -> None:
    """As ``check_scores``; ValueError unless all scores are (out, in, …) and none is NaN."""
    check_scores(scores)
    for name, s in scores.items():
        if s.dim() < 2:
            raise ValueError(f"scores[{name!r}] must be (out, in, …), got shape {tuple(s.shape)}")
        if unknown := int(s.isnan().sum()):
            raise ValueError(f"scores[{name!r}] must be numbers, got {unknown} NaN")


def _by_layer(scores: Scores, sparsity: float | Mapping[str, float]) -> dict[str, float]:
    """One checked sparsity per layer."""
    if not isinstance(sparsity, Mapping):
        sparsity = dict.fromkeys(scores, sparsity)
    if sparsity.keys() != scores.keys():
        raise ValueError(
            f"sparsity must name the layers of scores, {sorted(scores)}, got {sorted(sparsity)}"
        )
    return {name: check_sparsity(f"sparsity[{name!r}]", s) for name, s in sparsity.items()}
