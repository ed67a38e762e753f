"""Masks of different grain for convolutions: whole channels, kernels, strides within kernels.

The coarser the grain, the fewer indices a machine has to store and the fewer masks there are to
choose from. These are masks; cutting channels out for real is ``channels.remove``.

Source: Anwar, Hwang & Sung 2017, whose abstract names the three. They search masks with a particle
filter; here any score chooses, summed over each group. Of the strided pattern only the abstract
could be read: that all kernels of one source map share an offset is recalled, not verified.
"""

import torch

from course_lib.pruning.counting import check_sparsity, keep_top
from course_lib.pruning.criteria import Scores
from course_lib.pruning.masks import Masks


def channels(scores: Scores, sparsity: float) -> Masks:
    """Feature maps: of every layer's filters, ``round(sparsity * out)`` go, the lowest sums first.

    Args:
        scores: parameter name -> (out, in, kernel …), convolutions only, higher = keep.

    Raises:
        ValueError: a sparsity outside [0, 1], or a score that is not a convolution's.
    """
    return _lowest_groups(scores, sparsity, axes=1)


def kernels(scores: Scores, sparsity: float) -> Masks:
    """Kernels: of every layer's connections from an input map to an output map, each a whole
    kernel, ``round(sparsity * out * in)`` go. Arguments and errors as ``channels``."""
    return _lowest_groups(scores, sparsity, axes=2)


def strided(scores: Scores, stride: int) -> Masks:
    """Within kernels: of the places of a kernel, numbered row by row, every ``stride``-th stays,
    from an offset on that is the best of its input map and the same for all kernels that read it.

    One offset an input map is all there is to store. Places stay per kernel: ⌈(n − offset) / stride⌉
    of n.

    Raises:
        ValueError: a stride that is not from 1 to the kernel's size, or as ``channels``.
    """
    _check(scores)
    found = {}
    for name, s in scores.items():
        n = s[0, 0].numel()
        if not isinstance(stride, int) or not 1 <= stride <= n:
            raise ValueError(f"stride must be a whole number from 1 to {n}, got {stride!r}")
        comb = torch.arange(n, device=s.device) % stride  # (n,): the offset that keeps each place
        worth = torch.stack([s.flatten(2)[..., comb == o].sum((0, 2)) for o in range(stride)])
        best = worth.argmax(0)  # (stride, in) -> (in,), the first of equals
        found[name] = (comb == best[:, None]).expand(len(s), -1, -1).reshape(s.shape)
    return found


def _lowest_groups(scores: Scores, sparsity: float, axes: int) -> Masks:
    """Masks that are constant beyond the first ``axes`` axes."""
    _check(scores)
    sparsity = check_sparsity("sparsity", sparsity)
    found = {}
    for name, s in scores.items():
        groups = s.flatten(axes).sum(-1).flatten()
        keep = keep_top(groups, len(groups) - round(sparsity * len(groups)))
        found[name] = keep.view(*s.shape[:axes], *[1] * (s.dim() - axes)).expand(s.shape).clone()
    return found


def _check(scores: Scores) -> None:
    for name, s in scores.items():
        if s.dim() < 3:
            raise ValueError(
                f"scores[{name!r}] must be a convolution's, (out, in, kernel …), "
                f"got shape {tuple(s.shape)}"
            )
        if s.isnan().any():
            raise ValueError(f"scores[{name!r}] must be numbers, got {int(s.isnan().sum())} NaN")
