"""Scores: one number a weight that says how much it is worth keeping. Higher means keep.

In scope are the weights of linear and convolution layers. Biases and normalisation layers are few,
and pruning them saves next to nothing.
"""

import torch
from torch import Tensor, nn

Scores = dict[str, Tensor]

PRUNABLE = (nn.Linear, nn.modules.conv._ConvNd)


def magnitude(model: nn.Module) -> Scores:
    """The size of each weight.

    .. math:: S_{ij} = |W_{ij}|

    Source: Han et al. 2015, "Learning both weights and connections", section 3.

    Returns:
        Scores: parameter name -> tensor of the parameter's shape, >= 0.

    Raises:
        ValueError: ``model`` has no linear or convolution layer, or a weight that is NaN.
    """
    return {name: weight.abs() for name, weight in prunable(model).items()}


def random(model: nn.Module, *, seed: int) -> Scores:
    """Uniform random numbers in [0, 1): the control every other criterion has to beat.

    Returns:
        Scores: parameter name -> tensor of the parameter's shape, the same for the same ``seed``.

    Raises:
        ValueError: as ``magnitude``.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        # Drawn on the CPU, so that a GPU sees the same numbers.
        name: torch.rand(weight.shape, generator=generator).to(weight.device)
        for name, weight in prunable(model).items()
    }


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """The weights that the criteria score, by parameter name and detached from the graph.

    Raises:
        ValueError: there are none, or one holds a NaN.
    """
    found = {
        f"{name}.weight" if name else "weight": module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, PRUNABLE)
    }
    if not found:
        raise ValueError(
            f"model must have a linear or convolution layer, got {type(model).__name__} without one"
        )
    for name, weight in found.items():
        if weight.isnan().any():
            raise ValueError(f"model has {int(weight.isnan().sum())} NaN weights in {name!r}")
    return found
