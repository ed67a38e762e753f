"""Design: layers that need fewer weights from the start, and formulas for their costs.

Two ideas made networks small without compression. Global average pooling replaces large fully
connected heads, and depthwise separable convolutions replace standard ones. Both change the
architecture, so the new layers are untrained.

Source: Lin et al. 2014; Szegedy et al. 2015; Howard et al. 2017.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from course_lib.layers import chained, check_made, copied, run
from course_lib.measure import count_parameters, macs
from course_lib.models import seeded
from course_lib.training import check_counts, evaluating


def pooled_head(
    model: nn.Sequential, x: torch.Tensor, *, classes: int = 10, seed: int = 0
) -> nn.Sequential:
    """A copy of a network whose head is global average pooling and one linear layer.

    They replace everything from the ``nn.Flatten`` of the network on. Lin et al. 2014 average one map
    per class and need no linear layer; this is the form of GoogLeNet, which has one. The new linear
    layer is untrained; all other weights are those of the model.

    Source: Szegedy et al. 2015, section 5.

    Args:
        model: an ``nn.Sequential`` with an ``nn.Flatten`` after feature maps (b, C, h, w).
        x: a batch for the model; its first example is run to find C.
        classes: the number of outputs of the linear layer.
        seed: draws the weights of the linear layer.

    Raises:
        TypeError: a model that is not an ``nn.Sequential``.
        ValueError: no ``nn.Flatten``, or one that does not follow feature maps; a layer before it
            with the name ``pool`` or ``fc``, which the new layers have; ``x`` is empty or does not
            fit; ``classes`` is not a positive integer.

    Examples:
        >>> from course_lib import models
        >>> model = models.small_cnn()
        >>> small = pooled_head(model, torch.zeros(1, 1, 14, 14))
        >>> count_parameters(model), count_parameters(small)
        (7690, 5130)
    """
    check_counts(classes=classes)
    names = [name for name, layer in chained(model) if isinstance(layer, nn.Flatten)]
    if not names:
        raise ValueError("model must have an nn.Flatten between its feature maps and its head")
    kept = OrderedDict[str, nn.Module]()
    for name, layer in chained(copied(model)):  # one copy: tied weights stay tied
        if name == names[0]:
            break
        kept[name] = layer
    if taken := [name for name in ("pool", "fc") if name in kept]:
        raise ValueError(f"model must leave the name {taken[0]!r} for the new head")
    features = nn.Sequential(kept)
    with torch.no_grad(), evaluating(features):
        maps = run(features, x[:1])
    if maps.dim() != 4:
        raise ValueError(f"nn.Flatten must follow feature maps (b, C, h, w), got {maps.shape}")
    kept["pool"] = nn.AdaptiveAvgPool2d(1)  # (b, C, h, w) -> (b, C, 1, 1)
    kept[names[0]] = nn.Flatten()
    kept["fc"] = seeded(seed, lambda: nn.Linear(maps.shape[1], classes)).to(maps)
    small = nn.Sequential(kept)
    for new in (
        small,
        kept["pool"],
        kept[names[0]],
        kept["fc"],
    ):  # the copied layers keep their modes
        new.training = model.training
    return small


def separable(conv: nn.Conv2d, *, seed: int = 0) -> nn.Sequential:
    """An untrained depthwise separable layer that can replace a convolution.

    It has a k×k filter per channel, batch norm, a ReLU, and a 1×1 convolution across channels. The
    second batch norm and ReLU of the paper are left to the layers after the convolution. Stride,
    padding, dilation, device, dtype and mode are those of ``conv``.

    Source: Howard et al. 2017, section 3.1.

    Raises:
        TypeError: ``conv`` is not an ``nn.Conv2d``.
        ValueError: ``conv`` has groups, or has no shape yet.

    Examples:
        >>> conv = nn.Conv2d(16, 32, 3, padding=1)
        >>> count_parameters(conv), count_parameters(separable(conv))
        (4640, 720)
    """
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"conv must be an nn.Conv2d, got {type(conv).__name__}")
    if conv.groups != 1:
        raise ValueError(f"conv must have one group, got groups={conv.groups}")
    if is_lazy(conv.weight):
        raise ValueError(f"conv must have a shape, but has seen no input yet: {conv}")
    m, n = conv.in_channels, conv.out_channels
    names = ("stride", "padding", "dilation", "padding_mode")
    geometry: dict[str, Any] = {name: getattr(conv, name) for name in ("kernel_size", *names)}
    light: Any = seeded(
        seed,
        lambda: nn.Sequential(
            nn.Conv2d(m, m, groups=m, bias=False, **geometry),
            nn.BatchNorm2d(m),
            nn.ReLU(),
            nn.Conv2d(m, n, 1, bias=conv.bias is not None),
        ),
    )
    return light.to(device=conv.weight.device, dtype=conv.weight.dtype).train(conv.training)


def standard_macs(k: int, m: int, n: int, f: int) -> int:
    r"""Multiply–accumulates of a convolution.

    .. math:: D_K \cdot D_K \cdot M \cdot N \cdot D_F \cdot D_F

    With f = 1 it is the number of weights.

    Source: Howard et al. 2017, equation 2.

    Args:
        k: D_K, the side of the kernel.
        m: M, the number of input channels.
        n: N, the number of output channels.
        f: D_F, the side of the output.

    Raises:
        ValueError: a number that is not a positive integer.

    Examples:
        >>> standard_macs(k=3, m=16, n=32, f=7), separable_macs(k=3, m=16, n=32, f=7)
        (225792, 32144)
    """
    check_counts(k=k, m=m, n=n, f=f)
    return k * k * m * n * f * f


def separable_macs(k: int, m: int, n: int, f: int) -> int:
    r"""Multiply–accumulates of a depthwise separable convolution.

    .. math:: D_K \cdot D_K \cdot M \cdot D_F \cdot D_F + M \cdot N \cdot D_F \cdot D_F

    These are 1/N + 1/D_K² of those of a standard convolution.

    Source: Howard et al. 2017, equation 5.

    Args, Raises:
        as ``standard_macs``.
    """
    check_counts(k=k, m=m, n=n, f=f)
    return k * k * m * f * f + m * n * f * f


def by_part(model: nn.Module, x: torch.Tensor) -> dict[str, tuple[int, int]]:
    """The costs of the convolutions and of the linear layers of a network.

    The parameters of batch norm count with the convolutions. ``x`` is as in ``measure.macs``.

    Returns:
        "convolutions" and "linear" -> (parameters, multiply–accumulates).

    Examples:
        >>> from course_lib import models
        >>> by_part(models.small_cnn(), torch.zeros(1, 1, 14, 14))
        {'convolutions': (4800, 254016), 'linear': (2890, 2880)}
    """
    check_made(model)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    linear = {id(p): p for layer in layers for p in layer.parameters()}  # a tied weight once
    n, products = sum(p.numel() for p in linear.values()), macs(model, x, kinds=nn.Linear)
    return {
        "convolutions": (count_parameters(model) - n, macs(model, x) - products),
        "linear": (n, products),
    }
