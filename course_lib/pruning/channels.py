"""Channels: which of them live and die together, and cutting them out for real.

Every value in a network carries one integer *id* per channel. Layers that make channels issue new
ids; batch norm, activations, pooling and depthwise convolutions pass ids on; ``cat`` joins them,
``flatten`` repeats them, and adding or multiplying two values declares their ids equal. To remove a
channel is then to drop every index that carries its id, wherever that is.

*Removed* means that no consumer reads the channel, which is the same as reading zeros. It does not
mean that the filter is zero: a batch norm behind the filter would still pass its beta on. What a
removed channel contributed on average can be given to its consumers beforehand with ``fold``.

Source: the ids are this library's own bookkeeping. Which indices belong together is what
Torch-Pruning calls a group (Fang et al. 2023) and Li et al. 2017 describe for residual networks.
"""

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.layers import at_least_float32, check_finite, check_plain, copied
from course_lib.pruning.counting import check_sparsity, keep_top
from course_lib.pruning.tracing import (
    NORM,
    Ids,
    check_bare,
    check_batched,
    check_input,
    claim,
    fitting,
    follow,
    undisturbed,
)


@dataclass(frozen=True)
class ChannelGraph:
    """Which channel goes where in one network; made by ``trace``. Plain data: names and ids.

    Ids that were declared equal appear as the smallest of them, everywhere.
    """

    makes: dict[str, Ids]  # convolution or linear layer -> id of each output channel
    reads: dict[str, Ids]  # the same layers -> id of each input channel (of W's second axis)
    passes: dict[str, Ids]  # batch norm or depthwise convolution -> id of each output channel
    activations: dict[str, Ids]  # traced value behind an activation function -> ids
    positions: dict[str, int]  # layer -> output positions per example (1 for a linear layer)
    fixed: frozenset[int]  # ids of the network's own inputs and outputs: these stay

    def ids(self) -> list[int]:
        """The ids that may be removed, in ascending order."""
        return sorted({i for ids in self.makes.values() for i in ids} - self.fixed)

    def layers(self) -> dict[str, list[int]]:
        """The same ids by the first layer that makes them, in the order of ``ids``."""
        found: dict[str, list[int]] = {}
        seen = set(self.fixed)
        for name, ids in self.makes.items():
            new = sorted(set(ids) - seen)
            seen.update(new)
            if new:
                found[name] = new
        return found

    def rows(self) -> dict[str, list[int]]:
        """The same layers with the places of their ids in a score, which has one entry per id."""
        place = {i: k for k, i in enumerate(self.ids())}
        return {name: [place[i] for i in ids] for name, ids in self.layers().items()}


def trace(model: nn.Module, example: Tensor) -> ChannelGraph:
    """Follow the channels of one batch through a network, which stays as it is.

    Args:
        model: built of convolutions, linear layers, batch norm, pooling, activations, dropout,
            ``cat``, ``flatten`` (or ``x.view(x.size(0), -1)``), ``+``, ``*`` and means over
            positions, as modules or functions. Its forward pass takes one tensor; further arguments
            keep their defaults.
        example: (batch, channels, …), to know the shapes. Run once in evaluation mode.

    Raises:
        NotImplementedError: an operation that is not known here, a layer that is used twice or
            not at all, a grouped convolution that is not depthwise, a model that is compiled,
            scripted, wrapped or not yet initialised. It names which. Nothing is ever assumed to be
            elementwise.
        ValueError: an example that is empty, without a batch dimension or that does not fit.
    """
    walk = follow(model, example)
    return ChannelGraph(
        walk.makes, walk.reads, walk.passes, walk.activations, walk.positions, frozenset(walk.fixed)
    )


def remove(model: nn.Module, graph: ChannelGraph, dead: Collection[int]) -> nn.Module:
    """A smaller copy without the channels ``dead``: real, smaller layers, nothing masked.

    The law it obeys, in evaluation mode: ``remove(m, g, dead)(x) == silence(m, g, dead)(x)``.
    Types, memory formats and ``requires_grad`` stay as they are.

    Args:
        dead: some of ``graph.ids()``. If they are all that a layer makes, its first one stays, with
            a warning that names the layer.

    Raises:
        ValueError: an id that may not be removed, a graph of another network, or a weight that a
            parametrisation or a forward hook computes (names the layer).
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

    What ``remove`` has to equal, at none of the savings. Arguments and errors as ``remove``.
    """
    dead = _check(model, graph, dead)
    quiet = copied(model)
    with torch.no_grad():
        for name, ids in graph.reads.items():
            quiet.get_parameter(f"{name}.weight")[:, [i in dead for i in ids]] = 0
    return quiet


def fold(model: nn.Module, graph: ChannelGraph, dead: Collection[int], x: Tensor) -> nn.Module:
    r"""``silence``, after each consumer's bias has received what the dead channels gave it on average,

    .. math:: b \leftarrow b + \sum_{c \in dead} \bar z_c \sum_p W_{:,c,p}

    with :math:`\bar z_c` the mean of what that consumer reads of channel c over the batch ``x``, in
    evaluation mode, and p the places of a kernel. Exact for a channel whose value is constant (such
    as ReLU(β) where a batch norm's γ is 0), except where a kernel reaches into zero padding.
    ``remove(fold(m, g, dead, x), g, dead)`` then makes it small. A consumer without a bias gets one.

    Args:
        x: a batch of images. Sums and means are taken in float32 at least.

    Raises:
        ValueError: as ``remove``; images that are empty or not finite, or that do not fit.
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
            check_finite(f"x's means at {name!r}", mean[name][gone])
            layer: Any = folded.get_submodule(name)
            weight = model.get_parameter(f"{name}.weight")
            columns = at_least_float32(weight.detach()[:, gone])  # (out, dead, *kernel)
            gift = columns.unsqueeze(2).flatten(2).sum(2) @ mean[name][gone]  # -> (out,)
            bias = gift if layer.bias is None else layer.bias.detach() + gift
            learns = (weight if layer.bias is None else layer.bias).requires_grad
            layer.bias = nn.Parameter(bias.to(weight.dtype), learns)
    return folded


def weakest(graph: ChannelGraph, scores: Tensor, sparsity: float) -> set[int]:
    """The ids that go if every layer loses the same share: of its n ids the ``round(sparsity * n)``
    lowest scores, but never the last one. Of equal scores the later id goes.

    Args:
        scores: (number of ids,) in the order of ``graph.ids()``, higher = keep.

    Raises:
        ValueError: a sparsity outside [0, 1], scores of another length or that are NaN.
    """
    ids, scores = graph.ids(), check_scores(graph, scores)
    sparsity, dead = check_sparsity("sparsity", sparsity), set()
    for rows in graph.rows().values():
        n_keep = max(1, len(rows) - round(sparsity * len(rows)))
        keep = keep_top(scores[rows], n_keep).tolist()
        dead |= {ids[k] for k, stays in zip(rows, keep, strict=True) if not stays}
    return dead


def weakest_globally(graph: ChannelGraph, scores: Tensor, sparsity: float) -> set[int]:
    """The ids that go if all layers are compared: of all n ids the ``round(sparsity * n)`` lowest
    scores, but never the best of a layer. Arguments, ties and errors as ``weakest``.
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
    """Within the block, in evaluation mode, ``look(layer, x)`` sees what every consumer reads; if it
    returns a tensor, the consumer reads that instead."""

    def hook(name: str) -> Callable:
        def before(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            (z,) = (*args, *kwargs.values())  # conv(x), or conv(input=x)
            check_batched(name, model.get_submodule(name), z)
            changed = look(name, z)
            return None if changed is None else ((changed,), {})

        return before

    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True)
        for name in graph.reads
    ]
    try:
        with undisturbed(model):
            yield
    finally:
        for handle in handles:
            handle.remove()


def check_scores(graph: ChannelGraph, scores: Tensor) -> Tensor:
    """The scores in float64, to rank by, if there is one per id and none is NaN."""
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
    """Raise ValueError unless ``graph`` can be that of ``model`` and its layers hold plain weights
    of their own."""
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


def _check_own(name: str, layer: nn.Module) -> None:
    """Raise ValueError unless weight and bias are parameters of the layer's own, or None."""
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
