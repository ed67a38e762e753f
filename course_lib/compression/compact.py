"""Design: layers that need fewer weights from the start, and what they cost by formula.

Two ideas that made networks small without compressing anything: global average pooling in place of
large fully connected heads (Lin et al. 2014; Szegedy et al. 2015), and depthwise separable
convolutions (Howard et al. 2017). Both change the architecture, so the new layers start untrained.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from course_lib.layers import copied, run
from course_lib.measure import count_parameters, macs
from course_lib.models import seeded
from course_lib.training import check_counts, evaluating


def pooled_head(
    model: nn.Sequential, x: torch.Tensor, *, classes: int = 10, seed: int = 0
) -> nn.Sequential:
    """A copy of a network in which one average per feature map and one linear layer stand for
    everything from its ``nn.Flatten`` on.

    Lin et al. average one map per class and have no linear layer at all; GoogLeNet averages and
    "differs in that we use an extra linear layer" (Szegedy et al. 2015, section 5). This is
    GoogLeNet's form. The copy's linear layer is untrained, its other weights are the model's.

    Args:
        model: an ``nn.Sequential`` with an ``nn.Flatten`` after feature maps (b, C, h, w).
        x: a batch for the model; its first example is run to see C.
        classes: outputs of the linear layer. seed: of its weights.

    Raises:
        TypeError: not an ``nn.Sequential``.
        ValueError: no ``nn.Flatten``, or not behind feature maps; a layer before it that has one of
            the new layers' names, ``pool`` and ``fc``; ``x`` is empty or does not fit; ``classes`` is
            no positive integer.
    """
    check_counts(classes=classes)
    if not isinstance(model, nn.Sequential):
        raise TypeError(f"model must be an nn.Sequential, got {type(model).__name__}")
    names = [name for name, layer in model.named_children() if isinstance(layer, nn.Flatten)]
    if not names:
        raise ValueError("model must have an nn.Flatten between its feature maps and its head")
    kept = OrderedDict[str, nn.Module]()
    for name, layer in copied(model).named_children():  # one copy: tied weights stay tied
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
    """The depthwise separable layer that does a convolution's job: a k×k filter per channel, then 1×1
    across channels, with batch norm and a ReLU between them (Howard et al. 2017, section 3.1; their
    second batch norm and ReLU are left to what follows the convolution). Untrained.

    Shapes:
        as ``conv``: the depthwise layer takes its stride, padding and dilation. Device, precision and
        mode are ``conv``'s too.

    Raises:
        TypeError, ValueError: not a two-dimensional convolution of one group whose shape is known.
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
    """Multiply–accumulates of a convolution: D_K² · M · N · D_F² (Howard et al. 2017, eq. 2), with
    a k×k kernel, m input and n output channels and an f×f output. Its weights are those at f = 1.

    Raises:
        ValueError: a number that is no positive integer.
    """
    check_counts(k=k, m=m, n=n, f=f)
    return k * k * m * n * f * f


def separable_macs(k: int, m: int, n: int, f: int) -> int:
    """Multiply–accumulates of a depthwise separable convolution: D_K² · M · D_F² + M · N · D_F²
    (Howard et al. 2017, eq. 5); 1/N + 1/D_K² of the standard one's.

    Raises:
        ValueError: a number that is no positive integer.
    """
    check_counts(k=k, m=m, n=n, f=f)
    return k * k * m * f * f + m * n * f * f


def head_weights(channels: int, side: int, hidden: Sequence[int], classes: int) -> int:
    """Weights of a fully connected head on ``channels`` maps of side×side, biases not counted.
    Global average pooling is side 1 and no hidden layer: channels · classes."""
    sizes = [channels * side * side, *hidden, classes]
    return sum(a * b for a, b in pairwise(sizes))


def by_part(model: nn.Module, x: torch.Tensor) -> dict[str, tuple[int, int]]:
    """Where a network's costs lie: {"convolutions": (parameters, multiply–accumulates), "linear":
    (…, …)}; batch norm's parameters count with the convolutions. ``x`` as for ``measure.macs``."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    linear = {id(p): p for layer in layers for p in layer.parameters()}  # a tied weight once
    n, products = sum(p.numel() for p in linear.values()), macs(model, x, kinds=nn.Linear)
    return {
        "convolutions": (count_parameters(model) - n, macs(model, x) - products),
        "linear": (n, products),
    }
