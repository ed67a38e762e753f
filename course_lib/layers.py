"""Which layers count, and how their weight is read.

The weights of linear and convolution layers count. Biases and normalisation layers have few
parameters, and pruning them saves almost nothing. The functions refuse, by name, what cannot be
handled: a weight that a parametrisation or a forward hook computes, a weight without a shape yet,
and numbers that are not finite.

A weight that two layers share (tied) is one parameter with one name, that of the first layer, as in
``named_parameters()``. A layer that the model has under two names also counts once.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)


def check_module(model: nn.Module, argument: str = "model") -> None:
    """Raise TypeError unless ``model`` is a module. Often it is the function that would make one."""
    if not isinstance(model, nn.Module):
        hint = f": call it, {model.__name__}(…)" if isinstance(model, FunctionType | type) else ""
        raise TypeError(f"{argument} must be an nn.Module, got {type(model).__name__}{hint}")


def weighted(model: nn.Module, *, plain: bool = False) -> dict[str, Any]:
    """The linear and convolution layers by name, in the order of ``named_modules()``.

    Args:
        plain: refuse layers whose weight is not a parameter of their own.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: ``model`` has no such layer, a lazy one that has not seen an input yet, or a
            ``Conv1D`` of the transformers library, which stores its weight as (in, out); with
            ``plain``, also a layer with a parametrisation, or one whose weight a forward hook
            computes (torch's pruning, the old ``weight_norm`` and ``spectral_norm``).

    Examples:
        >>> from course_lib import models
        >>> list(weighted(models.small_cnn()))
        ['conv1', 'conv2', 'fc']
    """
    check_module(model)
    found = {name: m for name, m in model.named_modules() if isinstance(m, WEIGHTED)}
    for name, module in model.named_modules():
        # Known by its name and the number of its outputs, so that the library need not be there.
        if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
            raise ValueError(
                f"model must have linear layers, but {name!r} is a Conv1D, which stores (in, out): "
                "put an nn.Linear with the transposed weight in its place"
            )
    if not found:
        raise ValueError(
            f"model must have a linear or convolution layer, got {type(model).__name__} without one"
        )
    for name, layer in found.items():
        if any(is_lazy(p) for p in layer._parameters.values() if p is not None):
            raise ValueError(
                f"model must have weights with a shape, but {name!r} has seen no input yet: "
                "run the model on a batch first"
            )
        if plain:
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
        raise ValueError(_computed_by_hook(name, "weight"))


def _computed_by_hook(name: str, leaf: str) -> str:
    return (
        f"model must hold plain weights, but the {leaf} of {name!r} is computed by a forward hook "
        "(torch's pruning, the old weight_norm or spectral_norm): make it permanent first"
    )


def check_called(model: nn.Module) -> None:
    """Raise NotImplementedError if the model has an ``nn.MultiheadAttention``.

    Its output projection computes without being called, so no hook sees its inputs and outputs.
    Methods that read inputs or outputs of layers need this check; those that read only weights do
    not.
    """
    check_module(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            inner = f"{name}.out_proj" if name else "out_proj"
            raise NotImplementedError(
                f"model has an nn.MultiheadAttention, which computes with {inner!r} without calling "
                "it: what enters that layer cannot be seen"
            )


def check_untied(model: nn.Module, parameters: Iterable[Tensor], *, twice: bool = False) -> None:
    """Raise ValueError, by name, if another layer of the model has one of these parameters too.

    Args:
        twice: allow a layer that the model has under two names.
    """
    check_module(model)
    names: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=twice):
        for leaf, parameter in module._parameters.items():
            names.setdefault(id(parameter), []).append(f"{path}.{leaf}" if path else leaf)
    for parameter in parameters:
        first, *others = names[id(parameter)]
        if others:
            raise ValueError(
                f"model must have no tied parameters, got {first!r} tied to {others[0]!r}"
            )


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of the model. Every function that returns a changed model starts from it.

    Raises:
        ValueError: a weight or bias that a forward hook computes, which torch cannot copy.
    """
    check_module(model)
    for name, module in model.named_modules():
        # A parameter lies in module._parameters; a tensor beside it is one that a hook left there.
        for leaf, value in vars(module).items():
            hooked = any(f"{leaf}{end}" in module._parameters for end in ("_orig", "_g"))
            if isinstance(value, Tensor) and (hooked or not value.is_leaf):
                raise ValueError(_computed_by_hook(name, leaf))
    return copy.deepcopy(model)


def uncompiled(model: nn.Module) -> nn.Module:
    """The network inside the wrapper of ``torch.compile``, which ignores hooks."""
    return getattr(model, "_orig_mod", model)


def chained(model: nn.Module) -> list[tuple[str, Any]]:
    """The names and layers of an ``nn.Sequential``, in the order in which it calls them.

    A layer that it calls twice is listed twice, unlike in ``named_children()``.

    Raises:
        TypeError: another module, or an ``nn.Sequential`` with a forward pass of its own.
    """
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        raise TypeError(
            "model must be an nn.Sequential that calls its layers one after another, "
            f"got {type(model).__name__}"
        )
    return list(model._modules.items())


def check_made(model: nn.Module) -> None:
    """Raise ValueError if the model has a lazy layer that has not seen an input yet.

    Running such a model would create its weights and so change it.
    """
    check_module(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"model must have weights with a shape, but {name!r} has none yet: "
                "run the model on a batch first"
            )


def called_with(model: nn.Module, tensors: Mapping[str, Tensor], *args: Tensor) -> Tensor:
    """``model(*args)`` with ``tensors`` in place of the parameters or buffers that they name.

    A tied one is replaced for all layers that share it. The model stays as it is. (Torch's
    ``functional_call`` would leave the replacements in a model that has one layer under two names,
    so this function names every layer once.)
    """
    check_made(model)
    own = dict(model.named_parameters(remove_duplicate=False))
    own |= dict(model.named_buffers(remove_duplicate=False))
    new = {id(own[name]): tensor for name, tensor in tensors.items()}
    everywhere = {
        f"{path}.{leaf}" if path else leaf: new[id(tensor)]
        for path, module in model.named_modules()
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items())
        if id(tensor) in new
    }
    return torch.func.functional_call(model, everywhere, args, tie_weights=False)


def check_batch(argument: str, x: Tensor) -> None:
    """Raise TypeError unless ``x`` is a tensor, ValueError unless it holds at least one example."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{argument} must be a tensor, got {type(x).__name__}")
    if x.dim() == 0 or len(x) == 0:
        raise ValueError(f"{argument} must hold at least one example, got shape {tuple(x.shape)}")


def run(model: nn.Module, x: Tensor) -> Tensor:
    """``model(x)``, or a TypeError or ValueError that names ``x`` if it does not fit the model."""
    check_batch("x", x)
    check_made(model)
    with fitting("x", x):
        return model(x)


@contextmanager
def fitting(argument: str, x: Tensor) -> Iterator[None]:
    """Within the block an error from torch becomes a ValueError that names the argument."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{argument} must fit the model, which cannot be run on it, got shape "
            f"{tuple(x.shape)}, {x.dtype}, on {x.device}: {reason}"
        ) from error


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the linear and convolution layers by parameter name, detached.

    A tied weight is there once.

    Raises:
        ValueError: as ``weighted(model, plain=True)``; also a weight that is not finite.

    Examples:
        >>> from course_lib import models
        >>> {name: tuple(w.shape) for name, w in weights(models.mlp((4, 3, 2))).items()}
        {'fc1.weight': (3, 4), 'fc2.weight': (2, 3)}
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
    if values.numel() == 0:
        return
    numbers = torch.view_as_real(values) if values.is_complex() else values
    # Both ends finite means all finite, and this reads once what isfinite() would copy four times.
    if all(end.isfinite() for end in torch.aminmax(numbers.detach())):
        return
    wrong = values.numel() - int(values.isfinite().sum())
    raise ValueError(
        f"{argument} must be finite, got {wrong} NaN or infinite of {values.numel()} numbers"
    )


def check_dtype(argument: str, x: Tensor, dtype: torch.dtype) -> None:
    """Raise TypeError, naming the argument, unless it is a tensor of this type."""
    if not isinstance(x, Tensor) or x.dtype != dtype:
        raise TypeError(f"{argument} must be a {dtype} tensor, got {_type(x)}")


def check_floating(argument: str, x: Tensor) -> None:
    """Raise TypeError, naming the argument, unless it is a tensor of floating-point numbers."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{argument} must be a floating-point tensor, got {_type(x)}")


def check_weight(weight: Tensor) -> None:
    """Raise TypeError or ValueError unless it is a weight (out, …) of finite numbers, not empty."""
    check_floating("weight", weight)
    if weight.dim() == 0 or weight.numel() == 0:
        raise ValueError(f"weight must be (out, …) and not empty, got shape {tuple(weight.shape)}")
    check_finite("weight", weight)


def _type(x: Any) -> object:
    return x.dtype if isinstance(x, Tensor) else type(x).__name__


def outputs_first(layer: Any, weight: Tensor) -> Tensor:
    """A weight of this layer in the layout of ordinary layers, (out, in / groups, …).

    The same call turns it back.
    """
    return swapped(weight, layer.groups) if isinstance(layer, TRANSPOSED) else weight


def swapped(weight: Tensor, groups: int) -> Tensor:
    """Swap inputs and outputs within each group: (in, out / groups, …) -> (out, in / groups, …).

    The first is the layout of a transposed convolution. The same call turns it back.
    """
    apart = weight.unflatten(0, (groups, -1))  # (groups, in / groups, out / groups, …)
    return apart.transpose(1, 2).flatten(0, 1)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision converted to float32, to compute with it; everything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
