"""Masks with a pattern: whole channels, whole kernels, strides in kernels, n of every m inputs.

The larger the groups, the fewer indices have to be stored, and the fewer masks there are to choose
from. These functions make masks; ``channels.remove`` makes real, smaller layers.

Source: Anwar, Hwang & Sung 2017, for channels, kernels and strides. They search for masks with a
particle filter. Here any score chooses, added up over each group.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from course_lib import layers
from course_lib.data import check_counts, check_integer
from course_lib.pruning.allocate import check_rows
from course_lib.pruning.counting import check_sparsity, keep_top, keep_top_of_each
from course_lib.pruning.criteria import Scores
from course_lib.pruning.masks import Masks


def channels(model: nn.Module, scores: Scores, sparsity: float) -> Masks:
    """Remove whole output channels: of each layer's filters, those with the lowest sums of scores.

    Of a layer with n filters, ``round(sparsity * n)`` are removed; of equal sums the later one.

    Args:
        model: the network that the scores belong to. It says where a weight's outputs lie.
        scores: parameter name -> scores of a convolution's weight, in its shape. Higher means keep.

    Raises:
        ValueError: a sparsity outside [0, 1]; no scores, scores of another layer than a convolution
            of ``model``, scores of another shape, NaN, or inf and -inf in one group.

    Examples:
        >>> conv = nn.Conv2d(1, 2, 1)
        >>> scores = {"weight": torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)}
        >>> channels(conv, scores, 0.5)["weight"].flatten()
        tensor([False,  True])
    """
    return _lowest_groups(model, scores, sparsity, axes=1)


def kernels(model: nn.Module, scores: Scores, sparsity: float) -> Masks:
    """Remove whole kernels: of each layer's kernels, those with the lowest sums of scores.

    A kernel connects one input map with one output map. Of a layer with n kernels,
    ``round(sparsity * n)`` are removed. Arguments and errors are those of ``channels``.
    """
    return _lowest_groups(model, scores, sparsity, axes=2)


def strided(model: nn.Module, scores: Scores, stride: int) -> Masks:
    """Keep every ``stride``-th position of each kernel, counted row by row from an offset.

    All kernels that read an input map share one offset, which is the one with the highest sum of
    scores. Only this offset has to be stored per input map. Of the n positions of a kernel,
    ⌈(n − offset) / stride⌉ stay.

    Raises:
        ValueError: a stride that is not from 1 to the kernel's size, or as ``channels``.

    Examples:
        >>> conv = nn.Conv1d(1, 1, 4)
        >>> strided(conv, {"weight": torch.tensor([[[1.0, 5.0, 1.0, 0.0]]])}, stride=2)["weight"]
        tensor([[[False,  True, False,  True]]])
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


def n_of_m(scores: Scores, keep: int = 2, of: int = 4) -> Masks:
    """Keep the ``keep`` highest scores of every ``of`` neighbouring inputs of each output.

    With 2 of 4 this is the pattern that some graphics processors compute twice as fast. The number
    is what stays, also where authors' code counts what is removed: 1 of 4 removes three quarters.

    Source: Mishra et al. 2021, for 2:4.

    Args:
        scores: parameter name -> scores (out, in, …); groups lie along the second axis. Higher means
            keep; of equal scores in a group the earlier one stays.

    Raises:
        ValueError: ``of`` that is not a positive integer, ``keep`` that is not one from 0 to ``of``;
            a number of inputs that is no multiple of ``of``; no scores, scores without an axis of
            inputs, NaN.
        TypeError: scores that are not real numbers.

    Examples:
        >>> n_of_m({"w": torch.tensor([[4.0, 3.0, 1.0, 2.0]])}, keep=1, of=2)
        {'w': tensor([[ True, False, False,  True]])}
    """
    check_counts(of=of)
    check_integer("keep", keep, 0, of)
    check_rows(scores)
    found = {}
    for name, s in scores.items():
        if s.shape[1] % of:
            raise ValueError(
                f"of must divide the number of inputs, got {of} and the {s.shape[1]} of {name!r}"
            )
        groups = s.movedim(1, -1).unflatten(-1, (-1, of))  # (out, …, in / of, of)
        found[name] = keep_top_of_each(groups, keep).flatten(-2).movedim(-1, 1).contiguous()
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


def _by_outputs(model: nn.Module, scores: Scores) -> dict[str, tuple[_ConvNd, Tensor]]:
    """Each convolution and its scores as (out, in / groups, kernel …); all are checked first."""
    owners = {
        f"{name}.weight" if name else "weight": layer
        for name, layer in layers.weighted(model, plain=True).items()
        if isinstance(layer, _ConvNd)
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
    """Check that sums can be ranked: no NaN, which comes from NaN or from inf and -inf together."""
    if sums.isnan().any():
        raise ValueError(
            f"scores[{name!r}] must be numbers, not NaN nor inf and -inf in one group, got "
            f"{int(sums.isnan().sum())} groups without a sum"
        )
    return sums
