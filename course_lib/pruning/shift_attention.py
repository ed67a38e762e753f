r"""One position per kernel slice: attention over the places of a kernel, trained and then hardened.

A *slice* of a convolution is the part of its kernel that leads from one input channel to one output
channel, k × k weights. Here an attention over these places trains with the weights. It becomes
sharper and sharper, until one place per slice has it all. The layer then moves each input channel by
a step and multiplies it by a number: it is a shift and a 1 × 1 convolution.

The attention is a gate (``gates.Gate``). ``gates.parameter_groups`` keeps it free of weight decay,
``gates.anneal`` makes it sharper after every step of an optimizer, and ``gates.harden`` makes an
ordinary network and returns masks with one place per slice, which ``masks.hold`` and all others take.
Networks with attention train alone or in an ``ensemble.stack``.

Source: Boukli Hacene et al. 2019 (SAL), and the authors' code.
"""

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from course_lib import seeds
from course_lib.data import check_integer, check_positive
from course_lib.layers import at_least_float32, weighted
from course_lib.pruning import gates

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
FAINT = 1e-20  # less attention than this is none


class Attention(gates.Gate):
    """What ``attach`` puts before a convolution's weight. Its logits are (out, in, places)."""

    anneals = True
    shape: torch.Size  # of the weight

    def __init__(self, first: float) -> None:
        super().__init__(0.0, float(first))

    def on(self, weight: Tensor) -> "Attention":
        if weight.dim() < 3:
            raise ValueError(f"weight must be a convolution's, got shape {tuple(weight.shape)}")
        own = super().on(weight)
        assert isinstance(own, Attention)
        own.shape = weight.shape
        # Different numbers, because the attention divides by their spread. In half precision two of
        # them may be equal.
        like = at_least_float32(weight.detach())
        own.logits = nn.Parameter(torch.rand(weight.shape).flatten(2).to(like))
        return own

    def factor(self) -> Tensor:
        return self.opened(self.logits, self.beta).view(self.shape)

    def hard(self) -> Tensor:
        wins = self.factor() > 0.5
        without = ~wins.flatten(2).any(2)
        if without.any():
            raise ValueError(
                "model must have a place with more than half of the attention in every slice, but "
                f"{int(without.sum())} of {without.numel()} slices of a layer have none: anneal it "
                "further"
            )
        return wins

    def opened(self, logits: Tensor, beta: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        attention = (beta * logits / logits.std(-1, keepdim=True)).softmax(-1)
        # Not the tiny numbers that a sharp softmax leaves: below 1e-38 a processor is many times slower.
        return torch.where(attention > FAINT, attention, 0.0)


def attach(model: nn.Module, names: Collection[str], *, first: float = 1.0, seed: int) -> None:
    r"""Put an attention over the places of each kernel slice before some convolutions, in place.

    .. math:: w \leftarrow a \odot w, \qquad
              a = \operatorname{softmax}\Big(\beta\, \frac{A}{\operatorname{std}(A)}\Big)

    A holds one number per place, softmax and standard deviation are taken over the places of a
    slice, and β, the authors' T, is the inverse of a temperature. A starts uniformly distributed
    between 0 and 1. The attention does not change if A is multiplied by a positive number or if
    another one is added.

    Args:
        names: the convolutions, such as ``["conv2"]``. The first one of a network and those of size
            1 × 1 usually stay as they are.
        first: the β at the start.
        seed: the first numbers A.

    Raises:
        ValueError: no names, a name that is no convolution, a convolution that is grouped or has one
            place only; a ``first`` that is not positive; as ``gates.attach``.
        TypeError: names that are no collection of strings, a seed that is no integer, a ``first``
            that is no number, a stack.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 4, 3))
        >>> attach(model, ["1"], seed=0)
        >>> gate = model[1].parametrizations.weight[0]
        >>> gate.beta.data.fill_(200.0)  # as if annealed
        tensor(200.)
        >>> {name: mask.flatten(2).sum(2).tolist() for name, mask in gates.harden(model).items()}
        {'1.weight': [[1, 1], [1, 1], [1, 1], [1, 1]]}
    """
    check_positive("first", first)
    seed = seeds.shifted(seed)
    _check_names(model, names)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        gates.attach(model, Attention(first), names)


def stored_bytes(masks: Mapping[str, Tensor], *, bits: int = 32) -> int:
    r"""Bytes of layers that have one weight per kernel slice: its value, and which place it has.

    A slice takes ``bits`` bits and :math:`\lceil \log_2 k^2 \rceil` more. (The authors count 4 bits
    for a position, which is right for k = 3 or 4.)

    Args:
        masks: those of convolutions with one place per slice, as ``gates.harden`` returns them.
        bits: bits per weight.

    Raises:
        ValueError: a mask that is not (out, in, …) with exactly one place per slice; bits outside 1
            to 32.

    Examples:
        >>> mask = torch.zeros(8, 4, 3, 3, dtype=torch.bool)
        >>> mask[:, :, 1, 1] = True
        >>> stored_bytes({"weight": mask})  # 32 slices of 36 bits
        144
    """
    check_integer("bits", bits, 1, 32)
    total = 0
    for name, mask in masks.items():
        if mask.dim() < 3 or (mask.flatten(2).sum(2) != 1).any():
            raise ValueError(
                f"masks[{name!r}] must be (out, in, …) with one place per slice, got shape "
                f"{tuple(mask.shape)} with {int(mask.sum())} places"
            )
        slices, places = mask.flatten(2).shape[:2].numel(), mask[0, 0].numel()
        total += -(-slices * (bits + math.ceil(math.log2(places))) // 8)
    return total


def _check_names(model: nn.Module, names: Collection[str]) -> None:
    found = {name: m for name, m in weighted(model).items() if isinstance(m, CONVOLUTIONS)}
    for name in gates.check_names(names, found, "convolutions"):
        layer = found[name]
        if layer.groups > 1 or math.prod(layer.kernel_size) < 2:
            raise ValueError(
                "names must be convolutions with one group and a kernel of at least two places, got "
                f"{name!r} with {layer.groups} groups and kernel {tuple(layer.kernel_size)}"
            )
