"""HashedNets: many weights share few numbers. A hash function says which, so no index is stored.

Source: Chen et al. 2015, "Compressing neural networks with the hashing trick".
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_lib import layers, parametrized, seeds
from course_lib.data import check_counts, check_fraction

_LOW = 0xFFFFFFFF  # the low 32 bits


def mix(x: Tensor) -> Tensor:
    """Scramble 32-bit numbers: different numbers give different results.

    Source: the last step of MurmurHash3 (Appleby, public domain).

    Args:
        x: int64 numbers from 0 to 2^32 − 1. Products wrap at 64 bits; only their low half is used.

    Raises:
        TypeError: numbers of another type.

    Examples:
        >>> mix(torch.tensor([1, 2, 3]))
        tensor([1364076727,  821347078, 2247144487])
    """
    if not isinstance(x, Tensor) or x.dtype != torch.int64:
        raise TypeError(f"x must be an int64 tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    x = x ^ (x >> 16)
    x = (x * 0x85EBCA6B) & _LOW
    x = x ^ (x >> 13)
    x = (x * 0xC2B2AE35) & _LOW
    return x ^ (x >> 16)


def buckets(count: int, stored: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Which of ``stored`` numbers each of ``count`` weights takes, and with which sign.

    Both follow from the position of the weight and the seed: they are the same on every machine.

    Returns:
        (count,) int64 from 0 to ``stored`` − 1, and (count,) float32 of ±1.

    Raises:
        ValueError: ``count`` or ``stored`` is not a positive integer.
        TypeError: ``seed`` is not an integer.

    Examples:
        >>> bucket, signs = buckets(1000, stored=10)
        >>> bucket.unique().tolist(), signs.unique().tolist()
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [-1.0, 1.0])
    """
    check_counts(count=count, stored=stored)
    seeds.check(seed)
    start = int(mix(torch.tensor((seed ^ 0x9E3779B9) & _LOW)))
    scrambled = mix((torch.arange(count) + start) & _LOW)
    signs = mix(scrambled ^ 0x5BD1E995) & 1
    return scrambled % stored, 1.0 - 2.0 * signs


class Hashed(nn.Module):
    r"""A parametrisation that makes a whole weight of a few numbers.

    .. math:: V_{ij} = \xi(i, j)\; w_{h(i, j)}, \qquad
              \frac{\partial L}{\partial w_k} = \sum_{i, j:\, h(i, j) = k}
              \xi(i, j)\, \frac{\partial L}{\partial V_{ij}}

    The hash h maps the position of a weight to one of K numbers. The hash ξ maps it to a sign, so
    that the errors of sharing cancel on average. Autograd computes the second formula.

    The authors hash with xxHash, and also hash the biases; here biases stay as they are.

    Source: Chen et al. 2015, section 4.
    """

    def __init__(self, shape: Sequence[int], stored: int, *, seed: int = 0) -> None:
        super().__init__()
        self.shape, self.stored, self.seed = tuple(shape), stored, seed

    def forward(self, shared: Tensor) -> Tensor:
        bucket, signs = self._where(shared)
        # In half precision, autograd's sum over a bucket is taken in float32.
        gathered = layers.at_least_float32(shared).index_select(0, bucket).to(shared.dtype)
        return (gathered * signs).view(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The stored numbers that approximate a weight best: the mean of each bucket, signs undone."""
        bucket, signs = self._where(weight)
        signed = layers.at_least_float32(weight.flatten() * signs)
        empty = signed.new_zeros(self.stored)
        count = empty.index_add(0, bucket, torch.ones_like(signed)).clamp(min=1)
        return (empty.index_add(0, bucket, signed) / count).to(weight.dtype)

    def _where(self, like: Tensor) -> tuple[Tensor, Tensor]:
        bucket, signs = buckets(math.prod(self.shape), self.stored, seed=self.seed)
        return bucket.to(like.device), signs.to(like)


def hashed(model: nn.Module, fraction: float, *, seed: int = 0) -> nn.Module:
    """A copy whose linear and convolution layers store only a ``fraction`` of their weights.

    Each layer computes with as many weights as before. Use it on a new network and train it like any
    other. The stored numbers start as the first of the layer's initial weights, so the weights keep
    their variance. Biases stay as they are. ``parametrized.folded`` writes out all weights.

    Args:
        fraction: fraction of the weights that is stored, such as 1/8. A layer of n weights stores
            ``max(1, round(fraction * n))`` numbers.
        seed: which weights share. All members of an ``ensemble.stack`` share as the first one does.

    Raises:
        ValueError: a fraction outside (0, 1]; no such layer, or one whose weight is not plain, not
            finite or empty.

    Examples:
        >>> small = hashed(nn.Linear(100, 10), fraction=1 / 8)
        >>> small.weight.shape, len(small.parametrizations.weight.original)
        (torch.Size([10, 100]), 125)
    """
    check_fraction("fraction", fraction)
    seeds.check(seed)
    rules = {}
    for number, (name, layer) in enumerate(layers.weighted(model, plain=True).items()):
        shape, n = layer.weight.shape, layer.weight.numel()
        if n == 0:
            raise ValueError(f"model must have weights in every layer, got none in {name!r}")
        # A seed for each layer: two layers with the same pattern would share their errors.
        own = seeds.shifted(seed * 1009 + number)
        rules[name] = Hashed(shape, max(1, round(fraction * n)), seed=own)
    initial = {name: layer.weight.detach() for name, layer in layers.weighted(model).items()}
    model = parametrized.attach(model, rules)
    for name, layer in layers.weighted(model).items():
        with torch.no_grad():
            shared = layer.parametrizations.weight.original
            shared.copy_(initial[name].flatten()[: len(shared)])
    return model
