"""Follow channels through a traced network, operation by operation; ``channels.trace`` uses it.

The tables say which operations are known. ``Walk`` says what each of them does with the ids of its
channels.
"""

import copy
import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from course_lib import ensemble
from course_lib.data import Split
from course_lib.layers import check_finite, check_made, check_module, fitting
from course_lib.training import evaluating

Ids = list[int]


CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORM = nn.modules.batchnorm._BatchNorm
_MODULES = {  # what is done with the channels -> modules that do it
    "activation": (
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish),
        *(nn.Sigmoid, nn.Hardsigmoid, nn.Tanh),
    ),
    "same": (nn.Identity, nn.modules.dropout._DropoutNd),
    "pool1": (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d),
    "pool2": (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
    "pool3": (nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool3d),
}
_OPERATIONS = {  # the same -> names of functions and of a tensor's methods
    "activation": "relu relu_ relu6 leaky_relu elu gelu silu hardswish sigmoid hardsigmoid tanh",
    "same": "dropout contiguous",
    "pool1": "max_pool1d avg_pool1d adaptive_max_pool1d adaptive_avg_pool1d",
    "pool2": "max_pool2d avg_pool2d adaptive_max_pool2d adaptive_avg_pool2d",
    "pool3": "max_pool3d avg_pool3d adaptive_max_pool3d adaptive_avg_pool3d",
    "cat": "cat concat",
    "flatten": "flatten",
    "view": "view reshape",
    "mean": "mean",
    "unite": "add add_ iadd mul mul_ imul",
}
_OF_METHOD = {name: rule for rule, names in _OPERATIONS.items() for name in names.split()}
_OF_FUNCTION = {
    getattr(place, name): rule
    for name, rule in _OF_METHOD.items()
    for place in (torch, F, operator)
    if hasattr(place, name)
}


class Walk:
    """One pass over the traced values in order; every value gets the ids of its channels."""

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
        for rule, kinds in _MODULES.items():
            if isinstance(layer, kinds):
                return self.operation(node, rule)
        if isinstance(layer, nn.Flatten):
            return self.flatten(node, layer.start_dim, layer.end_dim)
        if not isinstance(layer, (*CONV, nn.Linear, NORM)):
            raise self.refuse(node)
        claim(self.used, name, layer)
        (value,) = node.all_input_nodes  # whether called conv(x) or conv(input=x)
        if isinstance(layer, NORM):
            self.passes[name] = self.of[value]
            return self.of[value]
        shape = self.shape(value)
        if isinstance(layer, nn.Linear) and len(shape) != 2:
            raise self.refuse(node, f", on an input of shape {tuple(shape)}")
        self.positions[name] = prod(self.shape(node)[2:])
        if isinstance(layer, CONV) and layer.groups > 1:
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
        """Whether the value is a size, which is noted: a number that only a flattening may use."""
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

    def finish(self) -> None:
        """Refuse layers that were not met; then replace every id by the one that stands for it."""
        met = {*self.makes, *self.passes}
        for name, layer in self.layers.items():
            if isinstance(layer, parametrize.ParametrizationList):
                continue
            if next(layer.parameters(recurse=False), None) is not None and name not in met:
                raise NotImplementedError(
                    f"{name!r} ({type(layer).__name__}) has weights that the forward pass does not "
                    "use in evaluation mode, so its channels are unknown"
                )

        for values in (self.makes, self.reads, self.passes, self.activations):
            for name, ids in values.items():
                values[name] = [self.find(i) for i in ids]
        self.fixed = [self.find(i) for i in self.fixed]

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


def follow(model: nn.Module, example: Tensor) -> Walk:
    """The ids of every channel in the network; arguments and errors as ``channels.trace``."""
    check_bare(model)
    shapes: dict[fx.Node, torch.Size] = {}

    def look(node: fx.Node, value: object) -> None:
        if isinstance(value, Tensor):
            shapes[node] = value.shape

    walk = Walk(model, shapes)
    for node in watch("example", model, example, look).nodes:
        walk.visit(node)
    walk.finish()
    return walk


class _OneInput(fx.Tracer):
    """torch.fx, with the first argument of the forward pass as the only unknown."""

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        return self.root.forward, [self.create_proxy("placeholder", "x", (), {})]


def symbolic(model: nn.Module) -> fx.Graph:
    """The network as a torch.fx graph, with the same names every time."""
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
    """Run the traced network on x in evaluation mode; ``look(node, value)`` sees every value.

    Args:
        argument: what the caller calls x, for error messages.

    Returns:
        The torch.fx graph.
    """
    check_input(argument, model, x)
    check_made(model)
    with undisturbed(model), torch.no_grad():
        graph = symbolic(model)
        with fitting(argument, x):
            _Watched(model, graph, look).run(x)
    return graph


def stops(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Run the traced network on x in evaluation mode, and stop before each call of a layer.

    Yields:
        (the layer's name, a function that goes on from here to the end, with the weights as they
        are when it is called, and returns the network's output). What lies before the layer is not
        computed again. The function works until the next stop.
    """
    graph = watch("x", model, x, lambda *_: None)  # raises if they do not fit
    run, values = fx.Interpreter(model, graph=graph), dict[fx.Node, Any]()
    run.extra_traceback, run.args_iter = False, iter([x])

    @torch.no_grad()
    def rest(values: dict[fx.Node, Any]) -> Any:  # with copies: operations may be in place
        copies = copy.deepcopy(list(values.values()))  # together: some may share memory
        return run.run(initial_env=dict(zip(values, copies, strict=True)))

    with undisturbed(model):
        for node in graph.nodes:
            if node.op == "call_module":  # values that nobody will read are known, but let go
                used = {n for n in values if not n.users.keys() <= values.keys()}
                values = {n: value if n in used else None for n, value in values.items()}
                yield str(node.target), partial(rest, values)
            with torch.no_grad():  # not around the loop: it would hold for the caller, too
                run.env = values
                values[node] = run.run_node(node)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; after it, attributes and buffers are as they were."""
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


def check_batched(name: str, layer: nn.Module, value: Tensor) -> None:
    """Raise ValueError if a convolution reads or makes a single image, without a batch."""
    if isinstance(layer, CONV) and value.dim() != 2 + len(layer.kernel_size):
        raise ValueError(
            f"{name!r} ({type(layer).__name__}) must have (batch, channels, …), "
            f"got shape {tuple(value.shape)}"
        )


def check_input(argument: str, model: nn.Module, x: Tensor) -> Tensor:
    """x, if it is a batch (batch, channels, …) on the model's device."""
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


def check_split(argument: str, model: nn.Module, split: tuple[Tensor, Tensor]) -> Split:
    """The images and labels of a split, if the images are finite and there is a label for each."""
    if not isinstance(split, (tuple, list)) or len(split) != 2:
        raise TypeError(f"{argument} must be a pair (images, labels), got {type(split).__name__}")
    x, labels = split
    check_finite(argument, check_input(argument, model, x))
    if not isinstance(labels, Tensor) or labels.shape != x.shape[:1]:
        raise ValueError(f"{argument} must have one label per image, got {len(x)} images")
    return Split(x, labels)


def check_bare(model: nn.Module) -> None:
    """Raise unless ``model`` is the network itself, not wrapped, and has all its weights."""
    check_module(model)
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
    """Note that a layer is used; raise if it, or one of its weights, was used before."""
    for thing in (layer, *layer.parameters()):
        key: object = id(thing)
        # Weights that lie at one address are one weight, even as two parameters.
        if isinstance(thing, Tensor) and not (thing.is_meta or is_lazy(thing)) and thing.data_ptr():
            key = (thing.device, thing.data_ptr())
        if key in used:
            raise NotImplementedError(
                f"{name!r} ({type(layer).__name__}) is used more than once, or shares weights "
                f"with {used[key]!r}"
            )
        used[key] = name
