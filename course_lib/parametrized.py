"""Attach a map to a weight, and fold it into the weight again.

A parametrised layer trains one tensor (``<layer>.parametrizations.weight.original``) and computes
with a function of it: rounded to a grid, reduced to signs, looked up in a table. It is
``torch.nn.utils.parametrize``, so the model stays an ordinary module, alone or in a stack.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_lib import layers


class Map(nn.Module):
    """A function as a parametrisation (``torch.nn.utils.parametrize`` takes modules only)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, weight: Tensor) -> Tensor:
        return self.function(weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def attach(model: nn.Module, function: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy whose linear and convolution layers compute with ``function(weight)``.

    The weight itself is what trains, as ``<layer>.parametrizations.weight.original``.

    Raises:
        ValueError: ``model`` has no such layer, or one whose weight is not plain.
    """
    model = copy.deepcopy(model)
    for layer in layers.weighted(model, plain=True).values():
        parametrize.register_parametrization(layer, "weight", Map(function))
    return model


def folded(model: nn.Module) -> nn.Module:
    """A copy without parametrisations: its weights are those that the layers computed with."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, layers.WEIGHTED) and parametrize.is_parametrized(layer, "weight"):
            weight = nn.Parameter(layer.weight.detach().clone())
            # Not torch's remove_parametrizations: it would change the class, which copies share.
            layer.__class__ = parametrize.type_before_parametrizations(layer)
            del layer.parametrizations
            layer.weight = weight
    return model


def straight_through(x: Tensor, value: Tensor, passes: Tensor | None = None) -> Tensor:
    """``value``, to the last bit, with the gradient of ``x``: everywhere, or where ``passes`` is True."""
    carrier = x if passes is None else torch.where(passes, x, torch.zeros_like(x))
    return value.detach() + (carrier - carrier.detach())
