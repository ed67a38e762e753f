"""Channels: find out which belong together, and remove them from a network for real.

Every value in a network has one integer, an *id*, per channel. A layer that makes channels issues
new ids. Batch norm, activations, pooling and depthwise convolutions pass ids on, ``cat`` joins
them, ``flatten`` repeats them, and the sum or product of two values makes their ids equal. To
remove a channel is then to drop every index that has its id, in every layer.

*Removed* means that no consumer (a layer that reads the channel) reads it any more, which is the
same as reading zeros. It does not mean that the filter is zero: a batch norm after the filter would
still pass its β on. ``fold`` gives the consumers beforehand what a removed channel contributed on
average, and ``reconstruct`` fits their weights, so that the remaining channels make up for it.

Source: Fang et al. 2023 (Torch-Pruning) call the indices of one id a group; Li et al. 2017 describe
such groups for residual networks. The ids are this library's own way to find them.
"""

import warnings
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.data import check_nonnegative
from course_lib.handles import Handle
from course_lib.layers import at_least_float32, check_finite, check_plain, copied, fitting
from course_lib.pruning.counting import check_sparsity, keep_top
from course_lib.pruning.layerwise import least_squares
from course_lib.pruning.tracing import (
    NORM,
    Ids,
    check_bare,
    check_batched,
    check_input,
    claim,
    follow,
    undisturbed,
)

CHUNK = 4_000_000  # numbers of one chunk of what a consumer reads: 32 MB in float64


@dataclass(frozen=True)
class ChannelGraph:
    """Which channel occurs where in one network: plain data, names and ids. ``trace`` makes it.

    Ids that are equal appear everywhere as the smallest of them.
    """

    makes: dict[str, Ids]  #: convolution or linear layer -> id of each output channel
    reads: dict[str, Ids]  #: the same layers -> id of each input channel (of W's second axis)
    passes: dict[str, Ids]  #: batch norm or depthwise convolution -> id of each output channel
    activations: dict[str, Ids]  #: value after an activation function -> ids
    positions: dict[str, int]  #: layer -> output positions per example (1 for a linear layer)
    fixed: frozenset[int]  #: ids of the network's inputs and outputs, which stay

    def ids(self) -> list[int]:
        """The ids that may be removed, in ascending order."""
        return sorted({i for ids in self.makes.values() for i in ids} - self.fixed)

    def layers(self) -> dict[str, list[int]]:
        """The same ids by the first layer that makes them: name -> ids."""
        found: dict[str, list[int]] = {}
        seen = set(self.fixed)
        for name, ids in self.makes.items():
            new = sorted(set(ids) - seen)
            seen.update(new)
            if new:
                found[name] = new
        return found

    def rows(self) -> dict[str, list[int]]:
        """The same layers: name -> positions of its ids in a score, which has one entry per id."""
        place = {i: k for k, i in enumerate(self.ids())}
        return {name: [place[i] for i in ids] for name, ids in self.layers().items()}


def trace(model: nn.Module, example: Tensor) -> ChannelGraph:
    """Follow the channels of one batch through a network, and return what was found.

    Args:
        model: a network of convolutions, linear layers, batch norm, pooling, activations, dropout,
            ``cat``, ``flatten`` (or ``x.view(x.size(0), -1)``), ``+``, ``*`` and means over
            positions, as modules or functions. Its forward pass takes one tensor. Further arguments
            keep their defaults. The network does not change.
        example: (batch, channels, …), which gives the shapes. It runs once in evaluation mode.

    Raises:
        NotImplementedError: an unknown operation; a layer that is used twice or not at all; a
            grouped convolution that is not depthwise; a model that is compiled, scripted, wrapped
            or not yet initialised. The message names the reason. No operation is ever assumed to be
            elementwise.
        ValueError: an example that is empty, has no batch dimension or does not fit.
        TypeError: a model that is no module, an example that is no tensor.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> graph = trace(model, torch.zeros(1, 2))
        >>> graph.makes, graph.reads
        ({'0': [2, 3, 4], '2': [5]}, {'0': [0, 1], '2': [2, 3, 4]})
        >>> graph.ids()  # those of the network's input and output stay
        [2, 3, 4]
    """
    walk = follow(model, example)
    return ChannelGraph(
        walk.makes, walk.reads, walk.passes, walk.activations, walk.positions, frozenset(walk.fixed)
    )


def remove(model: nn.Module, graph: ChannelGraph, dead: Collection[int]) -> nn.Module:
    """A copy without the channels ``dead``: its layers are really smaller, and nothing is masked.

    In evaluation mode, ``remove(m, g, dead)(x) == silence(m, g, dead)(x)``. Types, memory formats
    and ``requires_grad`` stay as they are.

    Args:
        dead: some of ``graph.ids()``. If a layer would lose all its channels, the first one stays,
            and a warning names the layer.

    Raises:
        ValueError: an id that may not be removed, a graph of another network, or a layer whose
            weight is computed by a parametrisation or a forward hook.
        TypeError: ``dead`` is no collection.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> graph = trace(model, torch.zeros(1, 2))
        >>> smaller = remove(model, graph, {3})
        >>> smaller[0].weight.shape, smaller[2].weight.shape
        (torch.Size([2, 2]), torch.Size([1, 2]))
    """
    dead = _check(model, graph, dead)
    smaller = copied(model)
    for name, ids in graph.makes.items():
        _shrink(smaller.get_submodule(name), _alive(ids, dead), _alive(graph.reads[name], dead))
    for name, ids in graph.passes.items():
        _shrink(smaller.get_submodule(name), _alive(ids, dead))
    return smaller


def silence(model: nn.Module, graph: ChannelGraph, dead: Collection[int]) -> nn.Module:
    """A copy of the same size in which no layer reads the channels ``dead``: W[:, dead] = 0.

    It computes the same as ``remove`` and saves nothing. Arguments and errors are those of
    ``remove``.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> quiet = silence(model, trace(model, torch.zeros(1, 2)), {3})
        >>> (quiet[2].weight == 0).tolist()
        [[False, True, False]]
    """
    dead = _check(model, graph, dead)
    quiet = copied(model)
    with torch.no_grad():
        for name, ids in graph.reads.items():
            quiet.get_parameter(f"{name}.weight")[:, [i in dead for i in ids]] = 0
    return quiet


def fold(model: nn.Module, graph: ChannelGraph, dead: Collection[int], x: Tensor) -> nn.Module:
    r"""``silence``, but each consumer's bias receives what the dead channels gave it on average.

    .. math:: b \leftarrow b + \sum_{c \in dead} \bar z_c \sum_p W_{:,c,p}

    Here :math:`\bar z_c` is the mean of what the consumer reads of channel c over the batch ``x``,
    in evaluation mode, and p runs over the positions of a kernel. A consumer without a bias gets
    one. Then ``remove(fold(m, g, dead, x), g, dead)`` makes the network small.

    For a channel with a constant value the result is exact, except where a kernel reaches into zero
    padding. Such a channel is ReLU(β), where the γ of a batch norm is 0.

    Args:
        x: a batch of images. Sums and means are computed in float32 or better.

    Raises:
        ValueError: as ``remove``; images that are empty or not finite, or that do not fit.
        TypeError: as ``remove``.
    """
    dead = _check(model, graph, dead)
    check_finite("x", check_input("x", model, x))
    mean: dict[str, Tensor] = {}  # consumer -> mean of each input channel over batch and space

    def look(name: str, z: Tensor) -> None:
        mean[name] = at_least_float32(z).mean((0, *range(2, z.dim())))

    with torch.no_grad(), watching_reads(model, graph, look), fitting("x", x):
        model(x)
    folded = silence(model, graph, dead)
    for name, ids in graph.reads.items():
        gone = [i in dead for i in ids]
        if any(gone):
            check_used([name], mean)
            check_finite(f"x's means at {name!r}", mean[name][gone])
            layer: Any = folded.get_submodule(name)
            weight = model.get_parameter(f"{name}.weight")
            columns = at_least_float32(weight.detach()[:, gone])  # (out, dead, *kernel)
            gift = columns.unsqueeze(2).flatten(2).sum(2) @ mean[name][gone]  # -> (out,)
            bias = gift if layer.bias is None else layer.bias.detach() + gift
            learns = (weight if layer.bias is None else layer.bias).requires_grad
            layer.bias = nn.Parameter(bias.to(weight.dtype), learns)
    return folded


def reconstruct(
    model: nn.Module, graph: ChannelGraph, dead: Collection[int], x: Tensor, *, ridge: float = 1e-4
) -> nn.Module:
    r"""``silence``, but the weights of all consumers are fitted, so that they give what they gave.

    .. math:: \min_{\Delta, \delta} \; \sum_n \lVert y_n - (W + \Delta) z_n - b - \delta \rVert_2^2
              + \lambda \lVert \Delta \rVert_F^2

    Here :math:`y_n` is what the consumer gave in the network before. :math:`z_n` is what it now reads
    of the remaining channels, at one position of one image. The consumers are fitted one after the
    other, in the order in which the network calls them, so each one reads what the fitted ones
    before it give. No gradient is needed. Then ``remove(reconstruct(m, g, dead, x), g, dead)`` makes
    the network small. A consumer without a bias gets one. Batch norms and depthwise convolutions
    stay as they are.

    The ridge pulls W to its old value, not to zero. So a consumer that reads what it read before
    keeps its weights, and on ``x`` the error of the first consumer that is fitted is not larger than
    that of ``fold`` or ``silence``, whatever the ridge.

    Source: He et al. 2017 fit the next layer by least squares after a selection of channels, and so
    does the code of AMC (He et al. 2018). Bias, ridge and all positions of an image are this
    library's choice.

    Args:
        dead: as in ``remove``.
        x: a batch of images. The sums are computed in float64.
        ridge: λ as a fraction of the mean, over what the consumer reads, of :math:`\sum_n z_n^2`.
            With 0, of all best fits the one that changes W and b least is taken.

    Raises:
        ValueError: as ``fold``; a negative ridge; fewer rows (images times positions) than a
            consumer has unknowns. The message says how many images are needed.
        TypeError: as ``remove``; a ridge that is no number.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> for layer in (model[0].weight, model[0].bias):
        ...     layer.data[2] = layer.data[1]  # one channel is there twice
        >>> x = torch.rand(50, 2)
        >>> graph = trace(model, x)
        >>> repaired = reconstruct(model, graph, {4}, x, ridge=0)
        >>> torch.allclose(repaired(x), model(x), atol=1e-5)
        True
    """
    dead = _check(model, graph, dead)
    check_finite("x", check_input("x", model, x))
    check_nonnegative("ridge", ridge)
    before: dict[str, Tensor] = {}  # consumer -> what it read in the network before
    fitted = silence(model, graph, dead)

    def look(name: str, z: Tensor) -> None:
        before[name] = z.clone()  # an in-place activation may overwrite it

    def fit(name: str, z: Tensor) -> None:
        gone, old = [i in dead for i in graph.reads[name]], before.pop(name)
        for values in (old, z):
            check_finite(f"x's values at {name!r}", values)
        if any(gone) or not torch.equal(old, z):
            alive = torch.tensor([not g for g in gone], device=z.device)
            weight = model.get_parameter(f"{name}.weight").detach()
            _refit(name, fitted.get_submodule(name), weight, (old, z), alive, ridge)

    with torch.no_grad():
        with watching_reads(model, graph, look), fitting("x", x):
            model(x)
        check_used(graph.reads, before)
        with watching_reads(fitted, graph, fit):
            fitted(x)
    return fitted


def weakest(graph: ChannelGraph, scores: Tensor, sparsity: float) -> set[int]:
    """The ids to remove if every layer loses the same fraction: those with its lowest scores.

    Of a layer's n ids ``round(sparsity * n)`` are removed, but never the last one. Of equal scores
    the later id is removed.

    Args:
        scores: (number of ids,) in the order of ``graph.ids()``. Higher means keep.
        sparsity: the fraction removed in every layer.

    Raises:
        ValueError: a sparsity outside [0, 1], scores of another length, NaN.
        TypeError: scores that are no tensor, a sparsity that is no number.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> graph = trace(model, torch.zeros(1, 2))  # its ids are 2, 3, 4 and 5
        >>> weakest(graph, torch.tensor([0.9, 0.1, 0.8, 0.2]), 0.5)
        {3, 5}
    """
    ids, scores = graph.ids(), check_scores(graph, scores)
    sparsity, dead = check_sparsity("sparsity", sparsity), set()
    for rows in graph.rows().values():
        n_keep = max(1, len(rows) - round(sparsity * len(rows)))
        keep = keep_top(scores[rows], n_keep).tolist()
        dead |= {ids[k] for k, stays in zip(rows, keep, strict=True) if not stays}
    return dead


def weakest_globally(graph: ChannelGraph, scores: Tensor, sparsity: float) -> set[int]:
    """The ids to remove if all layers are compared: those with the lowest scores of all.

    Of all n ids ``round(sparsity * n)`` are removed, but never the best one of a layer. Arguments,
    ties and errors are those of ``weakest``.
    """
    ids, scores = graph.ids(), check_scores(graph, scores)
    n_dead = round(check_sparsity("sparsity", sparsity) * len(ids))
    order = scores.sort(descending=True, stable=True).indices.tolist()
    rank = {k: place for place, k in enumerate(order)}
    best = {min(rows, key=rank.__getitem__) for rows in graph.rows().values()}
    may_go = [k for k in order if k not in best]  # the best first
    return {ids[k] for k in may_go[max(0, len(may_go) - n_dead) :]}


@contextmanager
def watching_reads(
    model: nn.Module, graph: ChannelGraph, look: Callable[[str, Tensor], Tensor | None]
) -> Iterator[None]:
    """Within the block, in evaluation mode, ``look(layer, x)`` sees what every consumer reads.

    If ``look`` returns a tensor, the consumer reads that instead.
    """

    def hook(name: str) -> Callable:
        def before(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            (z,) = (*args, *kwargs.values())  # conv(x), or conv(input=x)
            check_batched(name, model.get_submodule(name), z)
            changed = look(name, z)
            return None if changed is None else ((changed,), {})

        return before

    check_graph(model, graph)
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True)
        for name in graph.reads
    ]
    with Handle(*hooks), undisturbed(model):
        yield


def check_scores(graph: ChannelGraph, scores: Tensor) -> Tensor:
    """The scores in float64 for ranking, after a check: one score per id, and no NaN."""
    n = len(graph.ids())
    if not isinstance(scores, Tensor):
        raise TypeError(f"scores must be a tensor, got {type(scores).__name__}")
    if scores.shape != (n,) or scores.isnan().any():
        raise ValueError(
            f"scores must be {n} numbers, one per id, got shape {tuple(scores.shape)}"
            f" with {int(scores.isnan().sum())} NaN"
        )
    return scores.detach().cpu().double()


def check_graph(model: nn.Module, graph: ChannelGraph) -> None:
    """Check that ``graph`` can be the graph of ``model``, and that its layers have plain weights.

    Raises:
        ValueError: a graph of another network, or a layer whose weight is computed.
        NotImplementedError: a layer that is used twice; as ``tracing.check_bare``.
    """
    check_bare(model)
    used: dict[object, str] = {}
    for name, ids in {**graph.makes, **graph.passes}.items():
        try:
            layer: Any = model.get_submodule(name)
        except AttributeError:
            raise ValueError(f"graph must be of this model, which has no layer {name!r}") from None
        _check_own(name, layer)
        claim(used, name, layer)
        size = layer.num_features if isinstance(layer, NORM) else len(layer.weight)
        sizes = [(size, len(ids), "channels")]
        if name in graph.reads:
            sizes.append((layer.weight.shape[1], len(graph.reads[name]), "input channels"))
        for n, wanted, what in sizes:
            if n != wanted:
                raise ValueError(
                    f"graph must be of this model, whose {name!r} has {n} {what}, not {wanted}: "
                    "trace it again after surgery"
                )


def check_used(consumers: Iterable[str], seen: Container[str]) -> None:
    """Raise ValueError, by name, unless the model has called all these layers of its graph."""
    for name in consumers:
        if name not in seen:
            raise ValueError(f"graph must be of this model, which does not use {name!r}")


def _check_own(name: str, layer: nn.Module) -> None:
    """Raise ValueError unless weight and bias are the layer's own parameters, or None."""
    if "weight" not in layer._parameters or layer._parameters["weight"] is not None:
        check_plain(name, layer)
    if "bias" not in layer._parameters:
        raise ValueError(
            f"model must hold plain weights, but the bias of {name!r} is computed by a "
            "parametrisation or a forward hook: make it permanent first"
        )


def _check(model: nn.Module, graph: ChannelGraph, dead: Collection[int]) -> set[int]:
    """``dead`` as a set that leaves every layer a channel, if model, graph and ids fit."""
    check_graph(model, graph)
    if not isinstance(dead, Collection):
        raise TypeError(f"dead must be a collection of ids, got {type(dead).__name__}")
    dead = set(dead)
    wrong = dead - set(graph.ids())
    if wrong:
        raise ValueError(f"dead must hold ids of graph.ids(), got {sorted(wrong, key=str)}")
    for name, ids in graph.makes.items():
        if dead.issuperset(ids):
            warnings.warn(
                f"dead would leave {name!r} with no channel at all: its first one stays",
                stacklevel=3,
            )
            dead -= {min(ids)}
    return dead


def _refit(
    name: str,
    layer: Any,
    weight: Tensor,
    reads: tuple[Tensor, Tensor],
    alive: Tensor,
    ridge: float,
) -> None:
    """Fit a silenced consumer, in place: it shall give of ``reads[1]`` what W gave of ``reads[0]``.

    With P for what it reads, a row per position, the error before the fit is P₀W − P₁W. Here P₁ lacks
    the dead columns, and the bias, which is the same in both, has cancelled. The last column of
    ones, which is not penalised, stands for the correction of the bias.
    """
    w = weight.flatten(1).to(torch.float64, copy=True)  # (out, in * kernel)
    columns = alive.repeat_interleave(weight[0, 0].numel())
    unknown, rows, n = int(columns.sum()) + 1, 0, len(reads[0])
    gram, cross = w.new_zeros(unknown, unknown), w.new_zeros(unknown, len(w))
    step = max(1, CHUNK // _patches(layer, reads[0][:1]).numel())
    for old, new in zip(*(z.split(step) for z in reads), strict=True):
        was, now = _patches(layer, old).double(), _patches(layer, new)[:, columns].double()
        error = was @ w.t() - now @ w[:, columns].t()  # (rows, out)
        now = F.pad(now, (0, 1), value=1.0)
        gram += now.t() @ now
        cross += now.t() @ error
        rows += len(now)
    if rows < unknown:
        raise ValueError(
            f"x must hold at least {ceil(unknown * n / rows)} images, because {name!r} has {unknown} "
            f"unknowns per output and each image gives {rows // n} equations, got {n} images"
        )
    penalty = ridge * gram.diagonal()[:-1].mean() * torch.ones_like(gram[0])
    penalty[-1] = 0
    change = least_squares(gram, cross, penalty)  # (unknown, out)
    w[:, ~columns] = 0
    w[:, columns] += change[:-1].t()
    bias = change[-1] if layer.bias is None else layer.bias.double() + change[-1]
    w, bias = w.to(weight.dtype), bias.to(weight.dtype)
    check_finite(f"x's fit of {name!r}", torch.cat([w.flatten(), bias]))
    learns = (layer.weight if layer.bias is None else layer.bias).requires_grad
    layer.weight.copy_(w.view_as(weight))
    layer.bias = nn.Parameter(bias.clone(), learns)


def _patches(layer: Any, z: Tensor) -> Tensor:
    """What the layer multiplies with its weight at each position: (batch * positions, in * kernel)."""
    if isinstance(layer, nn.Linear):
        return z
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    z = F.pad(z, layer._reversed_padding_repeated_twice, mode)
    for axis, places in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation), start=2):
        size, stride, dilation = places
        z = z.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    n = len(layer.kernel_size)  # z: (batch, in, *positions, *kernel)
    return z.movedim(1, n + 1).flatten(n + 1).flatten(0, n)


def _alive(ids: Ids, dead: set[int]) -> Tensor:
    return torch.tensor([k for k, i in enumerate(ids) if i not in dead], dtype=torch.long)


def _shrink(layer: Any, out: Tensor, into: Tensor | None = None) -> None:
    """Keep the outputs ``out`` and the inputs ``into`` of a layer (of a copy), in place."""

    def keep(name: str, *axes: Tensor) -> None:
        old = getattr(layer, name)
        if old is None:
            return
        new = old.detach()
        for axis, indices in enumerate(axes):
            new = new.index_select(axis, indices.to(new.device))
        for form in (torch.channels_last, torch.channels_last_3d):
            if not old.is_contiguous() and old.is_contiguous(memory_format=form):
                new = new.contiguous(memory_format=form)
        learnt = isinstance(old, nn.Parameter)
        setattr(layer, name, nn.Parameter(new, old.requires_grad) if learnt else new)

    keep("bias", out)
    if isinstance(layer, NORM):
        for name in ("weight", "running_mean", "running_var"):
            keep(name, out)
        layer.num_features = len(out)
    elif into is None:  # depthwise: the second axis has length 1
        each = layer.out_channels // layer.in_channels
        keep("weight", out)
        layer.out_channels, layer.in_channels = len(out), len(out) // each
        layer.groups = layer.in_channels
    else:
        keep("weight", out, into)
        kind = "features" if isinstance(layer, nn.Linear) else "channels"
        setattr(layer, f"out_{kind}", len(out))
        setattr(layer, f"in_{kind}", len(into))
