"""Channels: which of them live and die together, and cutting them out for real.

Every value in a network carries one integer *id* a channel. Layers that make channels issue new
ids; batch norm, activations, pooling and depthwise convolutions pass ids on; ``cat`` joins them,
``flatten`` repeats them, and adding or multiplying two values declares their ids equal. To remove a
channel is then to drop every index that carries its id, wherever that is.

*Removed* means that no consumer reads the channel, which is the same as reading zeros. It does not
mean that the filter is zero: a batch norm behind the filter would still pass its beta on. What a
removed channel contributed on average can be given to its consumers beforehand with ``fold``.

Source: the ids are this library's own bookkeeping. Which indices belong together is what
Torch-Pruning calls a group (Fang et al. 2023) and Li et al. 2017 describe for residual networks.
"""

import copy
import operator
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from course_lib.pruning.counting import check_sparsity, keep_top
from course_lib.training import evaluating

Ids = list[int]


@dataclass(frozen=True)
class ChannelGraph:
    """Which channel goes where in one network; made by ``trace``. Plain data: names and ids.

    Ids that were declared equal appear as the smallest of them, everywhere.
    """

    makes: dict[str, Ids]  # convolution or linear layer -> id of each output channel
    reads: dict[str, Ids]  # the same layers -> id of each input channel (of W's second axis)
    passes: dict[str, Ids]  # batch norm or depthwise convolution -> id of each output channel
    activations: dict[str, Ids]  # traced value behind an activation function -> ids
    positions: dict[str, int]  # layer -> output positions an example (1 for a linear layer)
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


def trace(model: nn.Module, example: Tensor) -> ChannelGraph:
    """Follow the channels of one batch through a network.

    Args:
        model: built of convolutions, linear layers, batch norm, pooling, activations, dropout,
            ``cat``, ``flatten``, ``+``, ``*`` and means over positions, as modules or functions.
        example: (batch, channels, …), to know the shapes. Run once in evaluation mode.

    Raises:
        NotImplementedError: an operation that is not known here, a layer that is used twice or
            not at all, a grouped convolution that is not depthwise. It names which. Nothing is
            ever assumed to be elementwise.
    """
    with evaluating(model), torch.no_grad():
        traced = symbolic(model)
        ShapeProp(traced).propagate(example)
    tracer = _Tracer(model)
    for node in traced.graph.nodes:
        tracer.visit(node)
    return tracer.finish()


def remove(model: nn.Module, graph: ChannelGraph, dead: Collection[int]) -> nn.Module:
    """A smaller copy without the channels ``dead``: real, smaller layers, nothing masked.

    The law it obeys, in evaluation mode: ``remove(m, g, dead)(x) == silence(m, g, dead)(x)``.

    Args:
        dead: some of ``graph.ids()``. If they are all that a layer makes, its first one stays, with
            a warning that names the layer.

    Raises:
        ValueError: an id that may not be removed, or a graph of another network.
    """
    dead = _check(model, graph, dead)
    smaller = copy.deepcopy(model)
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
    quiet = copy.deepcopy(model)
    with torch.no_grad():
        for name, ids in graph.reads.items():
            quiet.get_submodule(name).weight[:, [i in dead for i in ids]] = 0
    return quiet


def fold(model: nn.Module, graph: ChannelGraph, dead: Collection[int], x: Tensor) -> nn.Module:
    r"""``silence``, after each consumer's bias has received what the dead channels gave it on average,

    .. math:: b \leftarrow b + \sum_{c \in dead} \bar z_c \sum_p W_{:,c,p}

    with :math:`\bar z_c` the mean of what that consumer reads of channel c over the batch ``x``, in
    evaluation mode, and p the places of a kernel. Exact for a channel whose value is constant (such
    as ReLU(β) where a batch norm's γ is 0), except where a kernel reaches into zero padding.
    ``remove(fold(m, g, dead, x), g, dead)`` then makes it small. A consumer without a bias gets one.

    Raises:
        ValueError: as ``remove``.
    """
    dead = _check(model, graph, dead)
    mean: dict[str, Tensor] = {}  # consumer -> mean of each input channel over batch and space
    with (
        torch.no_grad(),
        watching_reads(
            model, graph, lambda name, z: mean.update({name: z.mean((0, *range(2, z.dim())))})
        ),
    ):
        model(x)
    folded = silence(model, graph, dead)
    with torch.no_grad():
        for name, ids in graph.reads.items():
            gone = [i in dead for i in ids]
            if any(gone):
                layer, weight = folded.get_submodule(name), model.get_submodule(name).weight
                gift = weight[:, gone].flatten(2).sum(2) if weight.dim() > 2 else weight[:, gone]
                gift = gift @ mean[name][gone]  # (out, dead) @ (dead,) -> (out,)
                layer.bias = nn.Parameter(gift if layer.bias is None else layer.bias + gift)
    return folded


def weakest(graph: ChannelGraph, scores: Tensor, sparsity: float) -> set[int]:
    """The ids that go if every layer loses the same share: of its n ids the ``round(sparsity * n)``
    lowest scores, but never the last one. Of equal scores the later id goes.

    Args:
        scores: (number of ids,) in the order of ``graph.ids()``, higher = keep.

    Raises:
        ValueError: a sparsity outside [0, 1], scores of another length or that are NaN.
    """
    ids = graph.ids()
    sparsity = check_sparsity("sparsity", sparsity)
    if scores.shape != (len(ids),) or scores.isnan().any():
        raise ValueError(
            f"scores must be {len(ids)} numbers, one an id, got shape {tuple(scores.shape)}"
            f" with {int(scores.isnan().sum())} NaN"
        )
    score_of, dead = dict(zip(ids, scores.tolist(), strict=True)), set()
    for layer in graph.layers().values():
        n_keep = max(1, len(layer) - round(sparsity * len(layer)))
        keep = keep_top(torch.tensor([score_of[i] for i in layer], dtype=torch.float64), n_keep)
        dead |= {i for i, stays in zip(layer, keep.tolist(), strict=True) if not stays}
    return dead


# ---- the walk over the traced network --------------------------------------------------------


def symbolic(model: nn.Module) -> fx.GraphModule:
    """The network as a torch.fx graph; the same names every time."""
    try:
        return fx.symbolic_trace(model)
    except (fx.proxy.TraceError, TypeError) as error:
        raise NotImplementedError(
            f"{type(model).__name__} cannot be traced: its forward pass depends on data ({error})"
        ) from error


def _functions(*names: str) -> set[Callable]:
    """What is called so in torch, torch.nn.functional and operator."""
    return {getattr(p, n) for p in (torch, F, operator) for n in names if hasattr(p, n)}


_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORM = nn.modules.batchnorm._BatchNorm
_ACTIVATION = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish),
    *(nn.Sigmoid, nn.Hardsigmoid, nn.Tanh),
)
_POOL = nn.modules.pooling
_KEEPS_CHANNELS = (
    *(nn.Identity, nn.modules.dropout._DropoutNd),
    *(_POOL._MaxPoolNd, _POOL._AvgPoolNd, _POOL._AdaptiveMaxPoolNd, _POOL._AdaptiveAvgPoolNd),
)
_ACTIVATION_NAMES = (
    "relu relu_ relu6 leaky_relu elu gelu silu hardswish sigmoid hardsigmoid tanh"
).split()
_POOL_NAMES = [
    f"{kind}_pool{d}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for d in (1, 2, 3)
] + ["dropout", "contiguous"]
_OPERATIONS = {
    "activation": _ACTIVATION_NAMES,
    "same": _POOL_NAMES,
    "cat": ["cat", "concat"],
    "flatten": ["flatten"],
    "mean": ["mean"],
    "unite": ["add", "add_", "iadd", "mul", "mul_", "imul"],
}
_OF_FUNCTION = {f: rule for rule, names in _OPERATIONS.items() for f in _functions(*names)}
_OF_METHOD = {name: rule for rule, names in _OPERATIONS.items() for name in names}


class _Tracer:
    """One pass over the traced values in order, each with the ids of its channels."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = dict(model.named_modules(remove_duplicate=False))
        self.parent: list[int] = []  # of the union-find forest over ids
        self.of: dict[fx.Node, Ids] = {}
        self.makes: dict[str, Ids] = {}
        self.reads: dict[str, Ids] = {}
        self.passes: dict[str, Ids] = {}
        self.activations: dict[str, Ids] = {}
        self.positions: dict[str, int] = {}
        self.fixed: Ids = []
        self.used: dict[int, str] = {}  # id() of a parameter or layer -> the layer that has it

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.of[node] = self.issue(self.shape(node)[1])
            self.fixed += self.of[node]
        elif node.op == "output":
            self.fixed += [i for value in node.all_input_nodes for i in self.of[value]]
        elif node.op == "call_module":
            self.of[node] = self.module(node, self.layers[node.target])
        else:
            table = {"call_function": _OF_FUNCTION, "call_method": _OF_METHOD}.get(node.op, {})
            if node.target not in table:
                raise self.refuse(node)
            self.of[node] = self.operation(node, table[node.target])

    def module(self, node: fx.Node, layer: nn.Module) -> Ids:
        value = node.args[0]
        if isinstance(layer, _ACTIVATION):
            return self.operation(node, "activation")
        if isinstance(layer, _KEEPS_CHANNELS):
            return self.operation(node, "same")
        if isinstance(layer, nn.Flatten):
            return self.flatten(node, layer.start_dim, layer.end_dim)
        if not isinstance(layer, (*_CONV, nn.Linear, _NORM)):
            raise self.refuse(node)
        self.claim(node.target, layer)
        if isinstance(layer, nn.Linear) and len(self.shape(value)) != 2:
            raise self.refuse(node, f", on an input of shape {tuple(self.shape(value))}")
        if isinstance(layer, _NORM):
            self.passes[node.target] = self.of[value]
            return self.of[value]
        self.positions[node.target] = prod(self.shape(node)[2:])
        if isinstance(layer, _CONV) and layer.groups > 1:
            if layer.groups != layer.in_channels:
                raise self.refuse(node, f", a convolution in {layer.groups} groups")
            each = layer.out_channels // layer.in_channels  # the depthwise multiplier
            self.passes[node.target] = [i for i in self.of[value] for _ in range(each)]
            return self.passes[node.target]
        self.reads[node.target] = self.of[value]
        self.makes[node.target] = self.issue(layer.weight.shape[0])
        return self.makes[node.target]

    def operation(self, node: fx.Node, rule: str) -> Ids:
        if rule == "cat":
            values, dim = node.args[0], _argument(node, 1, "dim", 0)
            if dim % len(self.shape(node)) != 1:
                raise self.refuse(node, f" along dimension {dim}")
            return [i for value in values for i in self.of[value]]
        if rule == "flatten":
            return self.flatten(
                node, _argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1)
            )
        value = node.all_input_nodes[0]
        if rule == "mean":
            dims, n = _argument(node, 1, "dim", None), len(self.shape(value))
            dims = dims if isinstance(dims, (tuple, list)) else [dims]
            if None in dims or any(d % n < 2 for d in dims):
                raise self.refuse(node, f" over dimensions {dims}")
        if rule == "unite":
            shapes = [self.shape(v) for v in node.all_input_nodes]
            if any(s[1] != shapes[0][1] or len(s) != len(shapes[0]) for s in shapes):
                raise self.refuse(node, f" of shapes {[tuple(s) for s in shapes]}")
            for other in node.all_input_nodes[1:]:
                self.unite(self.of[value], self.of[other])
        if rule == "activation":
            self.activations[node.name] = self.of[value]
        return self.of[value]

    def flatten(self, node: fx.Node, start: int, end: int) -> Ids:
        value = node.all_input_nodes[0]
        shape = self.shape(value)
        if start != 1 or end % len(shape) != len(shape) - 1:
            raise self.refuse(node, f" from dimension {start} to {end}")
        return [i for i in self.of[value] for _ in range(prod(shape[2:]))]  # channel by channel

    def claim(self, name: str, layer: nn.Module) -> None:
        """A layer belongs to one place: cutting it for one use would cut it for the other."""
        for thing in (layer, *layer.parameters(recurse=False)):
            if id(thing) in self.used:
                raise NotImplementedError(
                    f"{name!r} ({type(layer).__name__}) is used more than once, or shares weights "
                    f"with {self.used[id(thing)]!r}"
                )
            self.used[id(thing)] = name

    def finish(self) -> ChannelGraph:
        met = {*self.makes, *self.passes}
        for name, layer in self.layers.items():
            if next(layer.parameters(recurse=False), None) is not None and name not in met:
                raise NotImplementedError(
                    f"{name!r} ({type(layer).__name__}) has weights that the forward pass does not "
                    "use in evaluation mode, so its channels are unknown"
                )

        def settle(values: dict[str, Ids]) -> dict[str, Ids]:
            return {name: [self.find(i) for i in ids] for name, ids in values.items()}

        return ChannelGraph(
            settle(self.makes),
            settle(self.reads),
            settle(self.passes),
            settle(self.activations),
            self.positions,
            frozenset(self.find(i) for i in self.fixed),
        )

    def issue(self, n: int) -> Ids:
        new = list(range(len(self.parent), len(self.parent) + n))
        self.parent += new
        return new

    def find(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = i = self.parent[self.parent[i]]
        return i

    def unite(self, first: Ids, second: Ids) -> None:
        for a, b in zip(first, second, strict=True):
            a, b = sorted((self.find(a), self.find(b)))
            self.parent[b] = a  # the smaller id stands for both

    def shape(self, node: fx.Node) -> torch.Size:
        return node.meta["tensor_meta"].shape

    def refuse(self, node: fx.Node, why: str = "") -> NotImplementedError:
        if node.op == "call_module":
            what = f"{node.target!r} ({type(self.layers[node.target]).__name__})"
        else:
            what = f"{getattr(node.target, '__name__', node.target)!r} (at {node.name!r})"
        return NotImplementedError(f"channels cannot be followed through {what}{why}")


def _argument(node: fx.Node, position: int, name: str, default: object) -> object:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


# ---- what surgery and the criteria share -------------------------------------------------------


@contextmanager
def watching_reads(
    model: nn.Module, graph: ChannelGraph, look: Callable[[str, Tensor], Tensor | None]
) -> Iterator[None]:
    """Within the block, in evaluation mode, ``look(layer, x)`` sees what every consumer reads; if it
    returns a tensor, the consumer reads that instead."""

    def hook(name: str) -> Callable:
        def before(_: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
            return look(name, inputs[0])

        return before

    handles = [model.get_submodule(n).register_forward_pre_hook(hook(n)) for n in graph.reads]
    try:
        with evaluating(model):
            yield
    finally:
        for handle in handles:
            handle.remove()


def check_graph(model: nn.Module, graph: ChannelGraph) -> None:
    """Raise ValueError unless ``graph`` can be that of ``model``."""
    for name, ids in {**graph.makes, **graph.passes}.items():
        try:
            layer = model.get_submodule(name)
            size = layer.num_features if isinstance(layer, _NORM) else layer.weight.shape[0]
        except AttributeError:
            raise ValueError(f"graph must be of this model, which has no layer {name!r}") from None
        if size != len(ids):
            raise ValueError(
                f"graph must be of this model, whose {name!r} has {size} channels, not {len(ids)}: "
                "trace it again after surgery"
            )


def _check(model: nn.Module, graph: ChannelGraph, dead: Collection[int]) -> set[int]:
    """``dead`` as a set that leaves every layer a channel, if model, graph and ids fit."""
    check_graph(model, graph)
    wrong = sorted(set(dead) - set(graph.ids()))
    if wrong:
        raise ValueError(f"dead must hold ids of graph.ids(), got {wrong}")
    dead = set(dead)
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


def _shrink(layer: nn.Module, out: Tensor, into: Tensor | None = None) -> None:
    """Keep the outputs ``out`` and the inputs ``into`` of a layer (of a copy), in place."""

    def keep(name: str, *axes: Tensor) -> None:
        old = getattr(layer, name)
        if old is None:
            return
        new = old.detach()
        for axis, indices in enumerate(axes):
            new = new.index_select(axis, indices.to(new.device))
        learnt = isinstance(old, nn.Parameter)
        setattr(layer, name, nn.Parameter(new, old.requires_grad) if learnt else new)

    keep("bias", out)
    if isinstance(layer, _NORM):
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
