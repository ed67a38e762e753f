"""One bit, or two: weights of ±1 or −1, 0, 1 with a scale, and networks of ±1 throughout.

A product of ±1 vectors of length n is ``n - 2 * popcount(a XOR b)`` of their bit patterns: 64
multiplications in one instruction. ``packed`` turns a trained binary network into one that computes
like that, and gets the same numbers.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_lib import models
from course_lib.parametrized import Map, straight_through


def sign(x: Tensor) -> Tensor:
    r"""+1 where x >= 0, else −1; its gradient passes where |x| <= 1 and is zero elsewhere.

    .. math:: x^b = \begin{cases} +1 & x \ge 0 \\ -1 & \text{otherwise} \end{cases}, \qquad
              g_x = g_{x^b}\, \mathbf 1_{|x| \le 1}

    Source: Courbariaux et al. 2016, equations 1 and 4 (as two summaries of the paper give them).
    """
    return straight_through(x, _plus_minus(x), x.abs() <= 1)


def _plus_minus(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)  # torch.sign(0) is 0, which no bit can hold


class Sign(nn.Module):
    """``sign`` as an activation function."""

    def forward(self, x: Tensor) -> Tensor:
        return sign(x)


def binarize(weight: Tensor, *, per_channel: bool = False) -> tuple[Tensor, Tensor]:
    r"""The ±1 tensor and the scale that come closest to a weight.

    .. math:: \alpha^*, B^* = \arg\min_{\alpha, B} \lVert W - \alpha B \rVert^2, \qquad
              B^* = \mathrm{sign}(W), \quad \alpha^* = \tfrac{1}{n} \lVert W \rVert_{\ell_1}

    For given B the best α is ⟨W, B⟩/n, which B = sign(W) makes largest.

    Source: Rastegari et al. 2016, section 3.1, equations 2, 4 and 6, there for each filter (read; and
    the problem is solved by brute force in the tests).

    Args:
        weight: (out, …).
        per_channel: a scale for each output channel, as in the paper, or one for the whole tensor.

    Returns:
        B of weight's shape, +1 where the weight is 0; α of shape (), or (out, 1, …).

    Raises:
        ValueError: an empty weight, or one that is not finite.
    """
    _check_weight(weight)
    return _plus_minus(weight), _mean(weight.abs(), per_channel)


def ternarize(weight: Tensor, *, per_channel: bool = False) -> tuple[Tensor, Tensor]:
    r"""A tensor of −1, 0 and 1 and its scale, close to the closest to a weight.

    .. math:: W^t_i = \begin{cases} \mathrm{sign}(W_i) & |W_i| > \Delta \\ 0 & \text{otherwise}
              \end{cases}, \qquad \Delta \approx 0.7 \cdot \tfrac{1}{n} \sum_i |W_i|, \qquad
              \alpha = \tfrac{1}{|I_\Delta|} \sum_{i \in I_\Delta} |W_i|

    with :math:`I_\Delta` the entries beyond the threshold. α is the best for its threshold; the
    threshold is the authors' rule of thumb, between the best for uniform weights (0.67) and for
    normal ones (0.77).

    Source: Li et al. 2016, section 2.3, equations 3 to 6 (read in version 3, of 2022). The factor is
    0.7 in implementations and in accounts of earlier versions; version 3 says 0.75.

    Args, Returns, Raises:
        as ``binarize``.
    """
    _check_weight(weight)
    return _ternary(weight, per_channel)


def _ternary(weight: Tensor, per_channel: bool) -> tuple[Tensor, Tensor]:
    size = weight.abs()
    far = size > 0.7 * _mean(size, per_channel)
    count = _mean(far.to(weight.dtype), per_channel)
    scale = _mean(size * far, per_channel) / torch.where(count > 0, count, 1)  # all zero: scale 0
    return _plus_minus(weight) * far, scale


def _mean(x: Tensor, per_channel: bool) -> Tensor:
    return x.mean(tuple(range(1, x.dim())), keepdim=True) if per_channel else x.mean()


def binary_weight(weight: Tensor) -> Tensor:
    """α B for each output channel, to train with: ``parametrized.attach(model, binary_weight)``.

    The gradient passes to the weight unchanged, as in algorithm 1 of XNOR-Net and of TWN (both read;
    XNOR-Net's section 3.1 multiplies it by 1/n + α 1[|W| <= 1], which its algorithm does not do).
    """
    return straight_through(weight, _plus_minus(weight) * _mean(weight.abs(), True))


def ternary_weight(weight: Tensor) -> Tensor:
    """``ternarize`` for each output channel, to train with; the gradient passes unchanged."""
    values, scale = _ternary(weight, True)
    return straight_through(weight, values * scale)


def bnn(sizes: Sequence[int] = (196, 100, 50, 10), *, seed: int = 0) -> nn.Sequential:
    """A fully connected binarized neural network: batch norm, sign, ±1 weights, layer after layer,
    and a last batch norm for the logits.

    Weights and activations are ±1, the inputs included. Batch norm, float32, decides where an
    activation turns. Train it with ``hold_in_range``. It has buffers: not for a ``ensemble.stack``.

    Source: Courbariaux et al. 2016, algorithm 1, with XNOR-Net's order within a block (batch norm
    before the sign, section 3.2). The paper feeds 8-bit inputs to the first layer; here they are
    binarised too, each at its own learnt threshold, so that every product is one of bits.
    """
    plain = models.mlp(sizes, seed=seed)  # its checks and its initial weights
    layers = OrderedDict[str, nn.Module](flatten=nn.Flatten())
    for i, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
        layer = nn.Linear(n_in, n_out, bias=False)  # batch norm shifts
        layer.weight = plain.get_submodule(f"fc{i}").weight
        parametrize.register_parametrization(layer, "weight", Map(sign))
        layers |= {f"norm{i}": nn.BatchNorm1d(n_in), f"sign{i}": Sign(), f"fc{i}": layer}
    layers["norm"] = nn.BatchNorm1d(sizes[-1])
    return nn.Sequential(layers)


def hold_in_range(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> torch.utils.hooks.RemovableHandle:
    """Keep the weights behind the signs within −1 … 1 after every step: beyond, no gradient would
    bring them back (Courbariaux et al. 2016, algorithm 1: clip).

    Raises:
        ValueError: ``model`` has no parametrised weight.
    """
    behind = [p for n, p in model.named_parameters() if n.endswith(".weight.original")]
    if not behind:
        raise ValueError("model must have weights that pass through a sign, got none")

    @torch.no_grad()
    def clip(*_: object) -> None:
        for weight in behind:
            weight.clamp_(-1, 1)

    clip()
    return optimizer.register_step_post_hook(clip)


def pack(x: Tensor) -> Tensor:
    """Signs as bits: (…, n) numbers -> (…, ⌈n/64⌉) int64 words, a set bit where x >= 0. The last
    word is filled up with zeros."""
    bits = np.packbits((x >= 0).numpy(), axis=-1, bitorder="little")  # (…, ⌈n/8⌉) bytes
    filled = np.zeros((*bits.shape[:-1], -(-x.shape[-1] // 64) * 8), dtype=np.uint8)
    filled[..., : bits.shape[-1]] = bits
    return torch.from_numpy(filled.view(np.int64))


def packed_matmul(a: Tensor, b: Tensor, n: int) -> Tensor:
    r"""Products of ±1 matrices from their bits.

    .. math:: a \cdot b = n - 2\, \mathrm{popcount}(a \oplus b)

    Equal bits add 1, different ones subtract 1. (The papers count the equal ones by XNOR; filling
    bits, alike in both, would be counted too.)

    Args:
        a: (i, words), rows of length n from ``pack``.
        b: (words, k), columns of length n: ``pack(...).t()``, best contiguous.

    Returns:
        (i, k) int32.
    """
    words = -(-n // 64)
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != words or b.shape[0] != words:
        raise ValueError(
            f"a must have {words} words a row and b {words} a column for n={n}, "
            f"got shapes {tuple(a.shape)} and {tuple(b.shape)}"
        )
    different = np.empty((a.shape[0], b.shape[1]), dtype=np.int32)
    columns = b.numpy()
    for i, row in enumerate(a.numpy()):  # a row at a time: (words, k) stays in the cache
        # As unsigned numbers: NumPy counts the bits of |x| if x is signed.
        bits = (row[:, None] ^ columns).view(np.uint64)
        different[i] = np.bitwise_count(bits).sum(0, dtype=np.int32)
    return torch.from_numpy(n - 2 * different)


class PackedLinear(nn.Module):
    """Sign and ±1 linear layer in bits: (batch, in) numbers -> (batch, out) sums of ±1 products."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.n = weight.shape[1]
        self.register_buffer("words", pack(weight.detach()).t().contiguous())  # (⌈in/64⌉, out)

    def forward(self, x: Tensor) -> Tensor:
        return packed_matmul(pack(x), self.words, self.n).to(x.dtype)


def packed(model: nn.Sequential) -> nn.Sequential:
    """A ``bnn`` for use: one bit a weight, products by XOR and bit count, the same outputs to the
    last bit. Batch norm stays in float32.

    Raises:
        TypeError: ``model`` is not an ``nn.Sequential`` of flatten, batch norm, sign and binary
            linear layers.
    """
    if not isinstance(model, nn.Sequential):
        raise TypeError(f"model must be an nn.Sequential from bnn, got {type(model).__name__}")
    layers = OrderedDict[str, nn.Module]()
    before: nn.Module | None = None
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear) and isinstance(before, Sign) and layer.bias is None:
            layers[name] = PackedLinear(layer.weight)
        elif isinstance(layer, (nn.Flatten, nn.BatchNorm1d)):
            layers[name] = layer
        elif not isinstance(layer, Sign):
            raise TypeError(f"model must be made by bnn, got {name!r}: {layer}")
        before = layer
    return nn.Sequential(layers).eval()


def _check_weight(weight: Tensor) -> None:
    if weight.numel() == 0 or not weight.isfinite().all():
        raise ValueError(f"weight must hold finite numbers, at least one, got {weight}")
