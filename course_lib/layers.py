"""Which layers count, and how their weight is read.

In scope are the weights of linear and convolution layers. Biases and normalisation layers are few,
and pruning them saves next to nothing. Everything that cannot be handled is refused here, by name:
a weight that a parametrisation or a forward hook computes anew, numbers that are not finite.

A weight that two layers share (tied) is one parameter: it is named once, by the first layer, as in
``named_parameters()``.
"""

from torch import Tensor, nn
from torch.nn.utils import parametrize

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)


def weighted(model: nn.Module, *, plain: bool = False) -> dict[str, nn.Module]:
    """Name -> linear or convolution layer, in the order of ``named_modules()``.

    Args:
        plain: refuse layers whose weight is not a parameter of their own.

    Raises:
        ValueError: ``model`` has no such layer; with ``plain``, a layer with a parametrisation, or one
            whose weight a forward hook computes (torch's pruning, the old ``weight_norm``).
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, WEIGHTED)}
    if not found:
        raise ValueError(
            f"model must have a linear or convolution layer, got {type(model).__name__} without one"
        )
    if plain:
        for name, layer in found.items():
            check_plain(name, layer)
    return found


def check_plain(name: str, layer: nn.Module) -> None:
    """Raise ValueError unless the layer's weight is a parameter of its own."""
    if parametrize.is_parametrized(layer, "weight"):
        raise ValueError(
            f"model must hold plain weights, but that of {name!r} is parametrised: "
            "fold it first (parametrized.folded)"
        )
    if layer._parameters.get("weight") is None:
        raise ValueError(
            f"model must hold plain weights, but that of {name!r} is computed by a forward hook "
            "(torch's pruning, or the old weight_norm): make it permanent first"
        )


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameter name -> weight of a linear or convolution layer, detached; a tied weight once.

    Raises:
        ValueError: as ``weighted(model, plain=True)``; a weight that is not finite.
    """
    found, seen = {}, set()
    for name, layer in weighted(model, plain=True).items():
        if id(layer.weight) not in seen:
            seen.add(id(layer.weight))
            found[f"{name}.weight" if name else "weight"] = layer.weight.detach()
    for name, weight in found.items():
        check_finite(f"model's {name!r}", weight)
    return found


def check_finite(argument: str, values: Tensor) -> None:
    """Raise ValueError, naming the argument, unless all values are finite."""
    if not values.isfinite().all():
        wrong = values.numel() - int(values.isfinite().sum())
        raise ValueError(
            f"{argument} must be finite, got {wrong} NaN or infinite of {values.numel()} numbers"
        )


def output_axis(name: str, layer: nn.Module) -> int:
    """The axis of the layer's weight along which its outputs lie: 0, or 1 of a transposed convolution.

    Raises:
        NotImplementedError: a transposed convolution in groups, whose outputs lie along no one axis.
    """
    if not isinstance(layer, TRANSPOSED):
        return 0
    if layer.groups > 1:
        raise NotImplementedError(
            f"{name!r} is a transposed convolution in {layer.groups} groups, which is not handled"
        )
    return 1
