"""Attach a map to a weight, and fold it into the weight again.

A parametrised layer trains one tensor (``<layer>.parametrizations.weight.original``) and computes
with a function of it: its values rounded to a grid, its signs, its entries in a table. The module
uses ``torch.nn.utils.parametrize``, so the model stays an ordinary module, alone or in a stack.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_lib import layers


class Map(nn.Module):
    """A function as a parametrisation, because ``torch.nn.utils.parametrize`` takes only modules.

    With ``layer``, the function gets the weight as (out, …), also that of a transposed convolution,
    whose layout in torch is (in, out / groups, …).
    """

    def __init__(self, function: Callable[[Tensor], Tensor], layer: Any = None) -> None:
        super().__init__()
        self.function = function
        self.transposed = isinstance(layer, layers.TRANSPOSED)
        self.groups: int = layer.groups if self.transposed else 1

    def forward(self, weight: Tensor) -> Tensor:
        if not self.transposed:
            return self.function(weight)
        mapped = self.function(layers.swapped(weight, self.groups))
        return layers.swapped(mapped, self.groups).contiguous()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def attach(model: Any, maps: Callable[[Tensor], Tensor] | Mapping[str, nn.Module]) -> Any:
    """A copy whose linear and convolution layers compute with a map of their weight.

    The weight itself trains, as ``<layer>.parametrizations.weight.original``. Frozen weights stay
    frozen, and tied weights stay tied: all modules that share one use the map of its first layer.

    Args:
        maps: a function for all layers, which gets each weight as (out, …) and returns one of the
            same shape and dtype; or layer name -> a module for this layer, which gets the weight in
            torch's layout. Layers that are not named stay as they are.

    Raises:
        ValueError: ``model`` has no such layer, or one whose weight is not plain or not finite;
            ``maps`` names something else, or does not return such a weight.

    Examples:
        >>> model = attach(nn.Linear(2, 2), torch.relu)
        >>> model.parametrizations.weight.original.data = torch.tensor([[1.0, -1.0], [-2.0, 2.0]])
        >>> model.weight
        tensor([[1., 0.],
                [0., 2.]], grad_fn=<ReluBackward0>)
        >>> folded(model).weight
        Parameter containing:
        tensor([[1., 0.],
                [0., 2.]], requires_grad=True)
    """
    layers.weights(model)
    model = layers.copied(model)
    found = layers.weighted(model)
    if callable(maps):
        maps = {name: Map(maps, layer) for name, layer in found.items()}
    if unknown := maps.keys() - found.keys():
        raise ValueError(
            f"maps must name linear or convolution layers, {[*found]}, got {sorted(unknown)}"
        )
    sharing: dict[int, list[tuple[Any, str]]] = {}  # weight -> the modules that have it
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            sharing.setdefault(id(parameter), []).append((module, leaf))
    for name, layer in found.items():
        if name not in maps or parametrize.is_parametrized(layer, "weight"):
            continue
        others = [pair for pair in sharing[id(layer.weight)] if pair[0] is not layer]
        _register(name, layer, maps[name])
        for module, leaf in others:
            _install(module, leaf, layer.parametrizations["weight"])
    return model


def folded(model: nn.Module) -> nn.Module:
    """A copy whose linear and convolution layers have plain weights again.

    They are the weights with which the layers compute in evaluation mode. Tied weights stay tied,
    and frozen weights stay frozen. Other parametrisations, such as that of a bias, stay.

    Raises:
        ValueError: a weight that a forward hook computes (torch's pruning): make it permanent first.
    """
    model = layers.copied(model)
    modules: list[Any] = list(model.modules())
    of_layers = {
        id(module.get_submodule("parametrizations.weight"))
        for module in modules
        if isinstance(module, layers.WEIGHTED) and parametrize.is_parametrized(module, "weight")
    }
    done: dict[tuple[int, ...], nn.Parameter] = {}  # what a weight was computed from -> weight
    for module in modules:
        if parametrize.is_parametrized(module):
            for leaf, steps in list(module.parametrizations.items()):
                if id(steps) in of_layers:
                    restore(module, leaf, _fold(steps, done))
    return model


def restore(owner: Any, leaf: str, parameter: nn.Parameter) -> None:
    """Put a parameter where a parametrisation was, in place: in front, as its class has it.

    Args:
        owner: the module whose ``leaf`` is parametrised, such as a layer and its ``"weight"``.
    """
    others = {name: steps for name, steps in owner.parametrizations.items() if name != leaf}
    # Not torch's remove_parametrizations: it would change the class, which copies share.
    owner.__class__ = parametrize.type_before_parametrizations(owner)
    del owner.parametrizations
    behind = dict(owner._parameters)
    owner._parameters.clear()
    owner.register_parameter(leaf, parameter)
    owner._parameters.update(behind)
    for name, steps in others.items():
        _install(owner, name, steps)


def straight_through(x: Tensor, value: Tensor, passes: Tensor | None = None) -> Tensor:
    """Exactly ``value``, with the gradient of ``x`` everywhere or where ``passes`` is True.

    Examples:
        >>> x = torch.tensor([0.3, 0.8], requires_grad=True)
        >>> straight_through(x, x.round()).sum().backward()
        >>> x.grad
        tensor([1., 1.])
    """
    carrier = x if passes is None else torch.where(passes, x, torch.zeros_like(x))
    return value.detach() + (carrier - carrier.detach())


def _register(name: str, layer: Any, step: nn.Module) -> None:
    shape, dtype = tuple(layer.weight.shape), layer.weight.dtype
    try:
        parametrize.register_parametrization(layer, "weight", step)
    except (ValueError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"maps must return a weight of shape {shape} and {dtype} for {name!r}: {error}"
        ) from error
    layer.parametrizations.train(layer.training)


def _install(module: Any, leaf: str, steps: Any) -> None:
    """Let a module compute ``leaf`` by parametrisations that exist already."""
    module.register_parameter(leaf, nn.Parameter(torch.empty(0)))
    parametrize.register_parametrization(module, leaf, nn.Identity())
    module.parametrizations[leaf] = steps
    module.parametrizations.train(module.training)


def _fold(steps: Any, done: dict) -> nn.Parameter:
    """The weight that parametrisations compute; one for all modules that compute the same."""
    trains = any(p.requires_grad for p in steps.parameters(recurse=False))
    with torch.no_grad():
        weight = steps.eval()().clone()
    key = tuple(id(p) for p in steps.parameters())
    if key not in done or not torch.equal(done[key], weight):
        done[key] = nn.Parameter(weight, requires_grad=trains)
    return done[key]
