"""HashedNets: many weights share few numbers, and a hash function says which; no indices are stored.

Source: Chen et al. 2015, "Compressing neural networks with the hashing trick".
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_lib import layers

_LOW = 0xFFFFFFFF  # the low 32 bits


def mix(x: Tensor) -> Tensor:
    """Scramble 32-bit numbers, one to one: the last step of MurmurHash3 (Appleby, public domain).

    Args:
        x: int64 numbers from 0 to 2^32 − 1. Products wrap at 64 bits; their low half is what counts.
    """
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
    """
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
        return (shared.index_select(0, bucket) * signs).view(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The stored numbers whose weight comes closest: the mean of each bucket, signs undone."""
        bucket, signs = self._where(weight)
        empty = weight.new_zeros(self.stored)
        total = empty.index_add(0, bucket, weight.flatten() * signs)
        return total / empty.index_add(0, bucket, torch.ones_like(signs)).clamp(min=1)

    def _where(self, like: Tensor) -> tuple[Tensor, Tensor]:
        bucket, signs = buckets(math.prod(self.shape), self.stored, seed=self.seed)
        return bucket.to(like.device), signs.to(like)


def hashed(model: nn.Module, share: float, *, seed: int = 0) -> nn.Module:
    """A copy in which each linear and convolution layer stores ``share`` of its weights, at least
    one, and computes with as many as before. For a new network, to be trained like any other.

    The stored numbers start as that many of the layer's initial weights, so that the weights keep
    their variance. Biases stay as they are. ``parametrized.folded`` writes the weights out in full.

    Args:
        share: of the weights that is stored, such as 1/8: ``max(1, round(share * n))`` a layer.
        seed: which weights share. (The members of an ``ensemble.stack`` must share one seed.)

    Raises:
        ValueError: a share outside (0, 1]; no such layer, or one that is parametrised already.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share!r}")
    model = copy.deepcopy(model)
    for number, layer in enumerate(layers.weighted(model, plain=True).values()):
        weight = layer.weight.detach()
        stored = max(1, round(share * weight.numel()))
        # A seed for each layer: two layers with the same pattern would share their errors.
        rule = Hashed(weight.shape, stored, seed=seed * 1009 + number)
        parametrize.register_parametrization(layer, "weight", rule)
        with torch.no_grad():
            layer.parametrizations.weight.original.copy_(weight.flatten()[:stored])
    return model
