"""Masks of different grain for convolutions: whole channels, kernels, strides within kernels.

The coarser the grain, the fewer indices a machine has to store and the fewer masks there are to
choose from. These are masks; cutting channels out for real is ``channels.remove``.

Source: Anwar, Hwang & Sung 2017, whose abstract names the three. They search masks with a particle
filter; here any score chooses, summed over each group. Of the strided pattern only the abstract
could be read: that all kernels of one source map share an offset is recalled, not verified.
"""

import math

import torch
from torch import Tensor, nn

from course_lib import layers
from course_lib.pruning.counting import check_sparsity, keep_top
from course_lib.pruning.criteria import Scores
from course_lib.pruning.masks import Masks


def channels(model: nn.Module, scores: Scores, sparsity: float) -> Masks:
    """Feature maps: of every layer's filters, ``round(sparsity * out)`` go, the lowest sums first.

    Args:
        model: whose layers say where a weight's outputs lie; it is not changed.
        scores: parameter name -> scores of a convolution's weight, in its shape, higher = keep.

    Raises:
        ValueError: a sparsity outside [0, 1]; no scores, scores of anything but a convolution of
            ``model``, of another shape, NaN, or infinite in both directions within a group.
    """
    return _lowest_groups(model, scores, sparsity, axes=1)


def kernels(model: nn.Module, scores: Scores, sparsity: float) -> Masks:
    """Kernels: of every layer's connections from an input map to an output map, each a whole
    kernel, ``round(sparsity * connections)`` go. Arguments and errors as ``channels``."""
    return _lowest_groups(model, scores, sparsity, axes=2)


def strided(model: nn.Module, scores: Scores, stride: int) -> Masks:
    """Within kernels: of the places of a kernel, numbered row by row, every ``stride``-th stays,
    from an offset on that is the best of its input map and the same for all kernels that read it.

    One offset per input map is all there is to store. Of the n places of a kernel
    ⌈(n − offset) / stride⌉ stay.

    Raises:
        ValueError: a stride that is not from 1 to the kernel's size, or as ``channels``.
    """
    found = {}
    for name, (layer, s) in _by_outputs(model, scores).items():
        n = math.prod(s.shape[2:])
        if isinstance(stride, bool) or not isinstance(stride, int) or not 1 <= stride <= n:
            raise ValueError(
                f"stride must be an integer from 1 to {n}, the kernel of {name!r}, got {stride!r}"
            )
        comb = torch.arange(n, device=s.device) % stride  # (n,): the offset that keeps each place
        # Within a group all outputs read the same inputs: (groups, out / groups, in / groups, n).
        read = s.flatten(2).unflatten(0, (layer.groups, -1))
        worth = torch.stack([read[..., comb == o].sum((1, 3)) for o in range(stride)])
        best = _checked(name, worth).argmax(0)  # (groups, in / groups), the first of equals
        keep = (comb == best[:, None, :, None]).expand_as(read)
        found[name] = layers.outputs_first(layer, keep.reshape(s.shape)).contiguous()
    return found


def _lowest_groups(model: nn.Module, scores: Scores, sparsity: float, axes: int) -> Masks:
    """Masks that are constant beyond the first ``axes`` axes of (out, in / groups, kernel …)."""
    sparsity = check_sparsity("sparsity", sparsity)
    found = {}
    for name, (layer, s) in _by_outputs(model, scores).items():
        groups = _checked(name, s.flatten(axes).sum(-1).flatten())
        keep = keep_top(groups, len(groups) - round(sparsity * len(groups)))
        keep = keep.view(*s.shape[:axes], *[1] * (s.dim() - axes)).expand(s.shape)
        found[name] = layers.outputs_first(layer, keep).clone(memory_format=torch.contiguous_format)
    return found


def _by_outputs(model: nn.Module, scores: Scores) -> dict[str, tuple[nn.Module, Tensor]]:
    """Each convolution and its scores as (out, in / groups, kernel …), after all have been checked."""
    owners = {
        f"{name}.weight" if name else "weight": layer
        for name, layer in layers.weighted(model, plain=True).items()
        if not isinstance(layer, nn.Linear)
    }
    if not scores:
        raise ValueError("scores must hold at least one convolution's, got none")
    for name, s in scores.items():
        if name not in owners:
            raise ValueError(
                f"scores names {name!r}, which is no convolution of model; "
                f"it has {', '.join(owners) or 'none'}"
            )
        if s.shape != owners[name].weight.shape:
            raise ValueError(
                f"scores[{name!r}] must have shape {tuple(owners[name].weight.shape)}, "
                f"got {tuple(s.shape)}"
            )
    return {
        name: (owners[name], layers.outputs_first(owners[name], layers.at_least_float32(s)))
        for name, s in scores.items()
    }


def _checked(name: str, sums: Tensor) -> Tensor:
    """Sums of scores that can be ranked: NaN comes from NaN, or from inf and -inf together."""
    if sums.isnan().any():
        raise ValueError(
            f"scores[{name!r}] must be numbers, not NaN nor inf and -inf in one group, got "
            f"{int(sums.isnan().sum())} groups without a sum"
        )
    return sums
