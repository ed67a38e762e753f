"""HashedNets: many weights share few numbers, and a hash function says which; no indices are stored.

Source: Chen et al. 2015, "Compressing neural networks with the hashing trick".
"""

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor, nn

from course_lib import layers, parametrized
from course_lib.training import check_counts

_LOW = 0xFFFFFFFF  # the low 32 bits


def mix(x: Tensor) -> Tensor:
    """Scramble 32-bit numbers, one to one: the last step of MurmurHash3 (Appleby, public domain).

    Args:
        x: int64 numbers from 0 to 2^32 − 1. Products wrap at 64 bits; their low half is what counts.

    Raises:
        TypeError: numbers of another type.
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

    Returns:
        (count,) int64 from 0 to ``stored`` − 1 and (count,) ±1 float32. Computed from the weights'
        positions and the seed, the same each time and on each machine.

    Raises:
        ValueError: ``count`` or ``stored`` is not a positive integer.
        TypeError: ``seed`` is not an integer.
    """
    check_counts(count=count, stored=stored)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    start = int(mix(torch.tensor((seed ^ 0x9E3779B9) & _LOW)))
    scrambled = mix((torch.arange(count) + start) & _LOW)
    signs = mix(scrambled ^ 0x5BD1E995) & 1
    return scrambled % stored, 1.0 - 2.0 * signs


class Hashed(nn.Module):
    r"""A parametrisation: a few numbers become a whole weight.

    .. math:: V_{ij} = \xi(i, j)\; w_{h(i, j)}, \qquad
              \frac{\partial L}{\partial w_k} = \sum_{i, j:\, h(i, j) = k}
              \xi(i, j)\, \frac{\partial L}{\partial V_{ij}}

    h hashes a weight's position to one of K numbers, ξ to a sign, which makes the errors of sharing
    cancel on average. The second formula is autograd's.

    Source: Chen et al. 2015, section 4 (as others quote it: the paper's body could not be read). The
    authors hash with xxHash, and the biases with the weights; here biases stay as they are.
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
        """The stored numbers whose weight comes closest: the mean of each bucket, signs undone."""
        bucket, signs = self._where(weight)
        signed = layers.at_least_float32(weight.flatten() * signs)
        empty = signed.new_zeros(self.stored)
        count = empty.index_add(0, bucket, torch.ones_like(signed)).clamp(min=1)
        return (empty.index_add(0, bucket, signed) / count).to(weight.dtype)

    def _where(self, like: Tensor) -> tuple[Tensor, Tensor]:
        bucket, signs = buckets(math.prod(self.shape), self.stored, seed=self.seed)
        return bucket.to(like.device), signs.to(like)


def hashed(model: nn.Module, fraction: float, *, seed: int = 0) -> nn.Module:
    """A copy in which each linear and convolution layer stores a ``fraction`` of its weights, at least
    one, and computes with as many as before. For a new network, to be trained like any other.

    The stored numbers start as that many of the layer's initial weights, so that the weights keep
    their variance. Biases stay as they are. ``parametrized.folded`` writes the weights out in full.

    Args:
        fraction: of the weights that is stored, such as 1/8: ``max(1, round(fraction * n))`` per layer.
        seed: which weights share. (The members of an ``ensemble.stack`` all use the first's.)

    Raises:
        ValueError: a fraction outside (0, 1]; no such layer, or one whose weight is not plain, not
            finite or empty.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, Real) or not 0 < fraction <= 1:
        raise ValueError(f"fraction must be a number in (0, 1], got {fraction!r}")
    rules = {}
    for number, (name, layer) in enumerate(layers.weighted(model, plain=True).items()):
        shape, n = layer.weight.shape, layer.weight.numel()
        if n == 0:
            raise ValueError(f"model must have weights in every layer, got none in {name!r}")
        # A seed for each layer: two layers with the same pattern would share their errors.
        rules[name] = Hashed(shape, max(1, round(fraction * n)), seed=seed * 1009 + number)
    initial = {name: layer.weight.detach() for name, layer in layers.weighted(model).items()}
    model = parametrized.attach(model, rules)
    for name, layer in layers.weighted(model).items():
        with torch.no_grad():
            shared = layer.parametrizations.weight.original
            shared.copy_(initial[name].flatten()[: len(shared)])
    return model
