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

import inspect
import operator
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from course_lib import ensemble
from course_lib.layers import check_finite, check_plain, copied
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
    check_bare(model)
    shapes: dict[fx.Node, torch.Size] = {}

    def look(node: fx.Node, value: object) -> None:
        if isinstance(value, Tensor):
            shapes[node] = value.shape

    tracer = _Tracer(model, shapes)
    for node in watch("example", model, example, look).nodes:
        tracer.visit(node)
    return tracer.finish()


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


# ---- the walk over the traced network --------------------------------------------------------


class _OneInput(fx.Tracer):
    """torch.fx, with the first argument of the forward pass as the only unknown."""

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        return self.root.forward, [self.create_proxy("placeholder", "x", (), {})]


def symbolic(model: nn.Module) -> fx.Graph:
    """The network as a torch.fx graph; the same names every time."""
    try:
        inspect.signature(model.forward).bind("x")
    except TypeError as error:
        raise NotImplementedError(
            f"{type(model).__name__} cannot be traced: its forward pass must take one tensor ({error})"
        ) from None
    try:
        return _OneInput().trace(model)
    except Exception as error:  # whatever a forward pass does with what is no tensor yet
        reason = str(error).split("\n")[0]
        raise NotImplementedError(
            f"{type(model).__name__} cannot be traced: its forward pass depends on the values or "
            f"sizes of its input ({reason})"
        ) from error


class _Watched(fx.Interpreter):
    """Runs a graph and shows every value to ``look``."""

    def __init__(
        self, model: nn.Module, graph: fx.Graph, look: Callable[[fx.Node, Any], None]
    ) -> None:
        super().__init__(model, graph=graph)
        self.look, self.extra_traceback = look, False

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.op == "call_module":
            check_batched(str(n.target), self.module.get_submodule(str(n.target)), value)
        self.look(n, value)
        return value


def watch(
    argument: str, model: nn.Module, x: Tensor, look: Callable[[fx.Node, Any], None]
) -> fx.Graph:
    """Run the traced network on x (called ``argument``), in evaluation mode, and show every value to
    ``look(node, value)``; the graph."""
    check_input(argument, model, x)
    with undisturbed(model), torch.no_grad():
        graph = symbolic(model)
        with fitting(argument, x):
            _Watched(model, graph, look).run(x)
    return graph


def _functions(*names: str) -> set[Callable]:
    """What is called so in torch, torch.nn.functional and operator."""
    return {getattr(p, n) for p in (torch, F, operator) for n in names if hasattr(p, n)}


_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORM = nn.modules.batchnorm._BatchNorm
_ACTIVATION = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish),
    *(nn.Sigmoid, nn.Hardsigmoid, nn.Tanh),
)
_KEEPS_CHANNELS = (nn.Identity, nn.modules.dropout._DropoutNd)
_POOL = {  # how many dimensions behind the channels -> modules
    d: tuple(
        getattr(nn, f"{kind}Pool{d}d") for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg")
    )
    for d in (1, 2, 3)
}
_ACTIVATION_NAMES = (
    "relu relu_ relu6 leaky_relu elu gelu silu hardswish sigmoid hardsigmoid tanh"
).split()
_OPERATIONS = {
    "activation": _ACTIVATION_NAMES,
    "same": ["dropout", "contiguous"],
    **{
        f"pool{d}": [f"{kind}_pool{d}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg")]
        for d in _POOL
    },
    "cat": ["cat", "concat"],
    "flatten": ["flatten"],
    "view": ["view", "reshape"],
    "mean": ["mean"],
    "unite": ["add", "add_", "iadd", "mul", "mul_", "imul"],
}
_OF_FUNCTION = {f: rule for rule, names in _OPERATIONS.items() for f in _functions(*names)}
_OF_METHOD = {name: rule for rule, names in _OPERATIONS.items() for name in names}


class _Tracer:
    """One pass over the traced values in order, each with the ids of its channels."""

    def __init__(self, model: nn.Module, shapes: dict[fx.Node, torch.Size]) -> None:
        self.layers = dict(model.named_modules(remove_duplicate=False))
        self.shapes = shapes
        self.parent: list[int] = []  # of the union-find forest over ids
        self.of: dict[fx.Node, Ids] = {}
        self.sizes: dict[Any, object] = {}  # x.shape: None; x.shape[d], x.size(d): d
        self.makes: dict[str, Ids] = {}
        self.reads: dict[str, Ids] = {}
        self.passes: dict[str, Ids] = {}
        self.activations: dict[str, Ids] = {}
        self.positions: dict[str, int] = {}
        self.fixed: Ids = []
        self.used: dict[object, str] = {}  # a parameter or layer -> the name of the layer

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.of[node] = self.issue(self.shape(node)[1])
            self.fixed += self.of[node]
        elif node.op == "output":
            self.fixed += [i for value in node.all_input_nodes for i in self.of.get(value, [])]
        elif node.op == "call_module":
            self.of[node] = self.module(node, str(node.target))
        elif not self.size(node):
            table = {"call_function": _OF_FUNCTION, "call_method": _OF_METHOD}.get(node.op, {})
            if node.target not in table:
                raise self.refuse(node)
            self.of[node] = self.operation(node, table[node.target])

    def module(self, node: fx.Node, name: str) -> Ids:
        layer: Any = self.layers[name]
        for rule, kinds in (("activation", _ACTIVATION), ("same", _KEEPS_CHANNELS)):
            if isinstance(layer, kinds):
                return self.operation(node, rule)
        for d, kinds in _POOL.items():
            if isinstance(layer, kinds):
                return self.operation(node, f"pool{d}")
        if isinstance(layer, nn.Flatten):
            return self.flatten(node, layer.start_dim, layer.end_dim)
        if not isinstance(layer, (*_CONV, nn.Linear, _NORM)):
            raise self.refuse(node)
        claim(self.used, name, layer)
        (value,) = node.all_input_nodes  # whether called conv(x) or conv(input=x)
        if isinstance(layer, _NORM):
            self.passes[name] = self.of[value]
            return self.of[value]
        shape = self.shape(value)
        if isinstance(layer, nn.Linear) and len(shape) != 2:
            raise self.refuse(node, f", on an input of shape {tuple(shape)}")
        self.positions[name] = prod(self.shape(node)[2:])
        if isinstance(layer, _CONV) and layer.groups > 1:
            if layer.groups != layer.in_channels:
                raise self.refuse(node, f", a convolution in {layer.groups} groups")
            each = layer.out_channels // layer.in_channels  # the depthwise multiplier
            self.passes[name] = [i for i in self.of[value] for _ in range(each)]
            return self.passes[name]
        self.reads[name] = self.of[value]
        # Not len(layer.weight): a parametrisation would compute that, and may change its own state.
        n_made = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        self.makes[name] = self.issue(n_made)
        return self.makes[name]

    def operation(self, node: fx.Node, rule: str) -> Ids:
        if rule == "view":
            return self.view(node)
        shapes = [self.shape(v) for v in (node, *node.all_input_nodes)][1:]
        value, n = node.all_input_nodes[0], len(shapes[0])
        if rule == "cat":
            values, dim = _argument(node, 0, "tensors", []), _argument(node, 1, "dim", 0)
            if dim % n != 1:
                raise self.refuse(node, f" along dimension {dim}")
            return [i for value in values for i in self.of[value]]
        if rule == "flatten":
            return self.flatten(
                node, _argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1)
            )
        if rule.startswith("pool") and n != int(rule[-1]) + 2:  # it would pool over channels
            raise self.refuse(node, f", on an input of shape {tuple(shapes[0])}")
        if rule == "mean":
            dims = _argument(node, 1, "dim", None)
            dims = dims if isinstance(dims, (tuple, list)) else [dims]
            if None in dims or any(d % n < 2 for d in dims):
                raise self.refuse(node, f" over dimensions {dims}")
        if rule == "unite":
            if any(s[1] != shapes[0][1] or len(s) != n for s in shapes):
                raise self.refuse(node, f" of shapes {[tuple(s) for s in shapes]}")
            for other in node.all_input_nodes[1:]:
                self.unite(self.of[value], self.of[other])
        if rule == "activation":
            self.activations[node.name] = self.of[value]
        return self.of[value]

    def size(self, node: fx.Node) -> bool:
        """Whether it reads a size, which is noted: a number, good for flattening only."""
        if node.op == "call_method" and node.target == "size":
            self.sizes[node] = _argument(node, 1, "dim", None)
        elif node.target is getattr and node.args[1] == "shape":
            self.sizes[node] = None
        elif node.target is operator.getitem and self.sizes.get(node.args[0], 0) is None:
            self.sizes[node] = node.args[1]
        return node in self.sizes

    def view(self, node: fx.Node) -> Ids:
        sizes: Any = node.args[1:]
        sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
        if len(sizes) != 2 or sizes[1] != -1 or self.sizes.get(sizes[0]) != 0:
            raise self.refuse(node, ", unless it flattens as x.view(x.size(0), -1) does")
        return self.flatten(node, 1, -1)

    def flatten(self, node: fx.Node, start: int, end: int) -> Ids:
        value = node.all_input_nodes[0]
        shape = self.shape(value)
        if start != 1 or end % len(shape) != len(shape) - 1:
            raise self.refuse(node, f" from dimension {start} to {end}")
        return [i for i in self.of[value] for _ in range(prod(shape[2:]))]  # channel by channel

    def finish(self) -> ChannelGraph:
        met = {*self.makes, *self.passes}
        for name, layer in self.layers.items():
            if isinstance(layer, parametrize.ParametrizationList):
                continue
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
        if node not in self.shapes:
            raise self.refuse(node, ", whose value is no tensor")
        return self.shapes[node]

    def refuse(self, node: fx.Node, why: str = "") -> NotImplementedError:
        if node.op == "call_module":
            what = f"{node.target!r} ({type(self.layers[str(node.target)]).__name__})"
        else:
            what = f"{getattr(node.target, '__name__', node.target)!r} (at {node.name!r})"
        return NotImplementedError(f"channels cannot be followed through {what}{why}")


def _argument(node: fx.Node, position: int, name: str, default: object) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


# ---- what surgery and the criteria share -------------------------------------------------------


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; whatever the forward passes in it note down (attributes,
    buffers) is undone afterwards."""
    kept = [(m, dict(m.__dict__), dict(m._buffers)) for m in model.modules()]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with evaluating(model):
            yield
    finally:
        for module, attributes, buffers in kept:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


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


@contextmanager
def fitting(argument: str, x: Tensor) -> Iterator[None]:
    """What torch raises within the block becomes a ValueError that names the argument."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{argument} must fit the model, got shape {tuple(x.shape)}, {x.dtype}, on {x.device}: "
            f"{reason}"
        ) from error


def check_batched(name: str, layer: nn.Module, value: Tensor) -> None:
    """Raise ValueError if what a convolution reads or makes is one image, which torch would take."""
    if isinstance(layer, _CONV) and value.dim() != 2 + len(layer.kernel_size):
        raise ValueError(
            f"{name!r} ({type(layer).__name__}) must have (batch, channels, …), "
            f"got shape {tuple(value.shape)}"
        )


def check_input(argument: str, model: nn.Module, x: Tensor) -> Tensor:
    """x, if it is a batch of something, (batch, channels, …), on the model's device."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{argument} must be a tensor, got {type(x).__name__}")
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(
            f"{argument} must be of shape (batch, channels, …) and hold at least one example, "
            f"got shape {tuple(x.shape)}"
        )
    device = next((p.device for p in model.parameters()), x.device)
    if x.device != device:
        raise ValueError(f"{argument} must be on the model's device, {device}, got {x.device}")
    return x


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


def check_bare(model: nn.Module) -> None:
    """Raise unless the modules in ``model`` are the network itself, with all its weights made."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if ensemble.template(model) is not model:
        raise ValueError("model must be one network, got a stack: ensemble.unstack it")
    for name, module in model.named_modules():
        what = repr(name) if name else "it"
        what = f"model must be the network itself, but {what} ({type(module).__name__}) is"
        if hasattr(module, "_orig_mod"):
            raise NotImplementedError(f"{what} compiled: give its ._orig_mod")
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise NotImplementedError(f"{what} a wrapper: give its .module")
        if isinstance(module, torch.jit.ScriptModule):
            raise NotImplementedError(f"{what} scripted: give the original")
        if any(p is not None and is_lazy(p) for p in module._parameters.values()):
            raise NotImplementedError(f"{what} lazy and has no weights yet: run the model once")


def claim(used: dict[object, str], name: str, layer: nn.Module) -> None:
    """A layer belongs to one place: cutting it for one use would cut it for the other."""
    for thing in (layer, *layer.parameters()):
        # Weights that lie at one address are one weight, even as two parameters.
        key = thing.data_ptr() if isinstance(thing, Tensor) and not thing.is_meta else None
        key = ("address", thing.device, key) if key else id(thing)
        if key in used:
            raise NotImplementedError(
                f"{name!r} ({type(layer).__name__}) is used more than once, or shares weights "
                f"with {used[key]!r}"
            )
        used[key] = name


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
        size = layer.num_features if isinstance(layer, _NORM) else len(layer.weight)
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


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or in its own type if that is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


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
