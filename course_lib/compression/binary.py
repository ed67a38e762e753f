"""One or two bits per weight: weights of ±1 or of −1, 0, 1 with a scale, and networks of ±1.

The product of two ±1 vectors of length n is ``n - 2 * popcount(a XOR b)`` of their bit patterns, so
one instruction does 64 multiplications. ``packed`` turns a trained binary network into one that
computes this way and returns the same numbers.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_lib import ensemble, layers, models
from course_lib.data import check_counts
from course_lib.handles import trained
from course_lib.parametrized import attach, straight_through

CACHE = 2**18  # bytes of words that are multiplied at once


def sign(x: Tensor) -> Tensor:
    r"""The sign of each number, +1 or −1, with a straight-through gradient.

    .. math:: x^b = \begin{cases} +1 & x \ge 0 \\ -1 & \text{otherwise} \end{cases}, \qquad
              g_x = g_{x^b}\, \mathbf 1_{|x| \le 1}

    NaN stays NaN, so that training notices it.

    Source: Courbariaux et al. 2016, equations 1 and 4.

    Examples:
        >>> x = torch.tensor([-2.0, -0.5, 0.0, 3.0], requires_grad=True)
        >>> sign(x)
        tensor([-1., -1.,  1.,  1.], grad_fn=...)
        >>> sign(x).sum().backward()
        >>> x.grad
        tensor([0., 1., 1., 0.])
    """
    return straight_through(x, _plus_minus(x), x.abs() <= 1)


def _plus_minus(x: Tensor) -> Tensor:
    signs = torch.where(x >= 0, 1.0, -1.0).to(x.dtype)  # torch.sign(0) is 0, which no bit can hold
    return torch.where(x.isnan(), x, signs)


class Sign(nn.Module):
    """``sign`` as an activation function."""

    def forward(self, x: Tensor) -> Tensor:
        return sign(x)


def binarize(weight: Tensor, *, per_channel: bool = False) -> tuple[Tensor, Tensor]:
    r"""The tensor of ±1 and the scale that approximate a weight best.

    .. math:: \alpha^*, B^* = \arg\min_{\alpha, B} \lVert W - \alpha B \rVert^2, \qquad
              B^* = \mathrm{sign}(W), \quad \alpha^* = \tfrac{1}{n} \lVert W \rVert_{\ell_1}

    For a given B, the best α is ⟨W, B⟩/n, and B = sign(W) makes that largest.

    Source: Rastegari et al. 2016, section 3.1, equations 2, 4 and 6, there for each filter.

    Args:
        weight: (out, …).
        per_channel: whether to use one scale per output channel, as in the paper, or one in all.

    Returns:
        B in the shape of the weight, +1 where the weight is 0; α of shape (), or (out, 1, …).

    Raises:
        TypeError: ``weight`` is not a floating-point tensor.
        ValueError: a weight that is empty or not finite.

    Examples:
        >>> values, scale = binarize(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        >>> values.tolist(), scale.item()
        ([[1.0, -1.0], [1.0, 1.0]], 1.5)
    """
    layers.check_weight(weight)
    return _plus_minus(weight), _mean(weight.abs(), per_channel).to(weight.dtype)


def ternarize(weight: Tensor, *, per_channel: bool = False) -> tuple[Tensor, Tensor]:
    r"""A tensor of −1, 0 and 1 and a scale that approximate a weight well.

    .. math:: W^t_i = \begin{cases} \mathrm{sign}(W_i) & |W_i| > \Delta \\ 0 & \text{otherwise}
              \end{cases}, \qquad \Delta \approx 0.7 \cdot \tfrac{1}{n} \sum_i |W_i|, \qquad
              \alpha = \tfrac{1}{|I_\Delta|} \sum_{i \in I_\Delta} |W_i|

    where :math:`I_\Delta` are the entries beyond the threshold Δ. The scale α is the best one for
    its threshold. The threshold is the authors' rule of thumb; the best factor would be 0.67 for
    uniformly distributed weights and 0.77 for normally distributed ones.

    Source: Li et al. 2016, section 2.3, equations 3 to 6. Version 3 of the paper, of 2022, has the
    factor 0.75; implementations use 0.7.

    Args, Returns, Raises:
        as ``binarize``.

    Examples:
        >>> values, scale = ternarize(torch.tensor([[2.0, -2.5, 0.5, -0.5]]))
        >>> values.tolist(), scale.item()
        ([[1.0, -1.0, 0.0, -0.0]], 2.25)
    """
    layers.check_weight(weight)
    values, scale = _ternary(weight, per_channel)
    return values, scale.to(weight.dtype)


def _ternary(weight: Tensor, per_channel: bool) -> tuple[Tensor, Tensor]:
    size = layers.at_least_float32(weight.abs())
    far = size > 0.7 * _mean(size, per_channel)
    count = _mean(far.to(size.dtype), per_channel)
    scale = _mean(size * far, per_channel) / torch.where(count > 0, count, 1)  # all zero: scale 0
    return _plus_minus(weight) * far, scale


def _mean(x: Tensor, per_channel: bool) -> Tensor:
    """Mean of all numbers, (), or of those of each output, (out, 1, …); float32 for half precision."""
    x = layers.at_least_float32(x)
    if not per_channel:
        return x.mean()
    return x.reshape(x.shape[0], -1).mean(1).view(-1, *[1] * (x.dim() - 1))


def binary_weight(weight: Tensor) -> Tensor:
    """α B for each output channel, for training: ``parametrized.attach(model, binary_weight)``.

    The gradient passes to the weight unchanged.

    Source: Rastegari et al. 2016, algorithm 1.

    Examples:
        >>> binary_weight(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        tensor([[ 1.5000, -1.5000],
                [ 1.5000,  1.5000]])
    """
    values = _plus_minus(weight) * _mean(weight.abs(), True)
    return straight_through(weight, values.to(weight.dtype))


def ternary_weight(weight: Tensor) -> Tensor:
    """α W^t of ``ternarize`` for each output channel, for training. The gradient passes unchanged."""
    values, scale = _ternary(weight, True)
    return straight_through(weight, (values * scale).to(weight.dtype))


def bnn(sizes: Sequence[int] = (196, 100, 50, 10), *, seed: int = 0) -> nn.Sequential:
    """A fully connected binarised neural network.

    Each layer is a batch norm, a sign, and a linear layer with weights of ±1; a last batch norm
    makes the logits. All weights and activations are ±1, also the inputs. Batch norm, in float32,
    sets the threshold of each activation. Train the network with ``hold_in_range``. It has buffers,
    so ``ensemble.stack`` does not take it.

    The paper gives 8-bit inputs to the first layer. Here they are binarised too, each at its own
    learnt threshold, so that every product is one of bits.

    Source: Courbariaux et al. 2016, algorithm 1; the order within a block (batch norm before the
    sign) is that of Rastegari et al. 2016, section 3.2.

    Args:
        sizes: inputs, hidden units, outputs.
    """
    plain = models.mlp(sizes, seed=seed)  # its checks and its initial weights
    parts = OrderedDict[str, nn.Module](flatten=nn.Flatten())
    for i, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
        layer = nn.Linear(n_in, n_out, bias=False)  # batch norm shifts
        layer.weight = plain.get_parameter(f"fc{i}.weight")
        parts |= {f"norm{i}": nn.BatchNorm1d(n_in), f"sign{i}": Sign(), f"fc{i}": layer}
    parts["norm"] = nn.BatchNorm1d(sizes[-1])
    return attach(nn.Sequential(parts), sign)


def hold_in_range(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> torch.utils.hooks.RemovableHandle:
    """Clip the weights behind the signs to −1 … 1 after every step from now on.

    Outside this range no gradient would bring them back. Weights that ``optimizer`` does not train
    stay as they are.

    Source: Courbariaux et al. 2016, algorithm 1.

    Returns:
        A handle; ``remove()`` ends it.

    Raises:
        ValueError: ``model`` has no weight that passes through ``sign``, or ``optimizer`` trains none
            of them.
    """
    modules: list[tuple[str, Any]] = list(ensemble.template(model).named_modules())
    found = [
        model.get_parameter(f"{name}.parametrizations.weight.original".lstrip("."))
        for name, layer in modules
        if parametrize.is_parametrized(layer, "weight")
        and any(getattr(step, "function", None) is sign for step in layer.parametrizations.weight)
    ]
    if not found:
        raise ValueError("model must have weights that pass through a sign, got none")
    known = trained(optimizer)
    behind = [p for p in found if id(p) in known and p.requires_grad]
    if not behind:
        raise ValueError("optimizer must train weights of the model that pass through a sign")

    @torch.no_grad()
    def clip(*_: object) -> None:
        for weight in behind:
            weight.clamp_(-1, 1)

    clip()
    return optimizer.register_step_post_hook(clip)


def pack(x: Tensor) -> Tensor:
    """Write signs as bits: (…, n) numbers -> (…, ⌈n/64⌉) int64 words.

    A bit is 1 where x >= 0. The last word is filled up with zeros. The CPU computes the words; they
    are returned on the device of ``x``.

    Raises:
        ValueError: a single number, or NaN, which has no sign.

    Examples:
        >>> pack(torch.tensor([1.0, -1.0, 1.0, 1.0]))  # the first sign is the lowest bit
        tensor([13])
    """
    return torch.from_numpy(_words(x)).to(x.device)


def _words(x: Tensor) -> np.ndarray:
    """Write signs as ``pack`` says."""
    values = layers.at_least_float32(x.detach()).cpu().numpy()
    if values.ndim == 0 or np.isnan(values).any():
        raise ValueError(f"x must be (…, n) without NaN, got shape {tuple(x.shape)}")
    bits = np.packbits(values >= 0, axis=-1, bitorder="little")  # (…, ⌈n/8⌉) bytes
    words = np.zeros((*bits.shape[:-1], -(-x.shape[-1] // 64)), dtype=np.int64)
    words.view(np.uint8)[..., : bits.shape[-1]] = bits
    return words


def packed_matmul(a: Tensor, b: Tensor, n: int) -> Tensor:
    r"""The product of two ±1 matrices from their bits.

    .. math:: a \cdot b = n - 2\, \mathrm{popcount}(a \oplus b)

    Equal bits add 1 and different bits subtract 1. The papers count equal bits by XNOR; that would
    also count the bits that fill up the last word, which are equal in both.

    Args:
        a: (i, words), rows of length n from ``pack``.
        b: (words, k), columns of length n: ``pack(...).t()``, best contiguous.

    Returns:
        (i, k) int32, computed on the CPU and returned on the device of ``a``.

    Raises:
        TypeError: words that are not int64.
        ValueError: shapes that do not fit ``n``, or ``n`` that is not a positive integer.

    Examples:
        >>> a, b = torch.tensor([[1.0, -1.0, 1.0]]), torch.tensor([[1.0, 1.0, 1.0]])
        >>> packed_matmul(pack(a), pack(b).t(), n=3)
        tensor([[1]], dtype=torch.int32)
    """
    check_counts(n=n)
    words = -(-n // 64)
    for name, bits in (("a", a), ("b", b)):
        if bits.dtype != torch.int64:
            raise TypeError(f"{name} must be int64 words from pack, got {bits.dtype}")
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != words or b.shape[0] != words:
        raise ValueError(
            f"a must have {words} words per row and b {words} per column for n={n}, "
            f"got shapes {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return torch.from_numpy(_product(a.cpu().numpy(), b.cpu().numpy(), n)).to(a.device)


def _product(a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """Multiply (i, words) by (words, k) as ``packed_matmul`` says: (i, k) int32."""
    different = np.empty((a.shape[0], b.shape[1]), dtype=np.int32)
    rows = max(1, CACHE // max(1, b.nbytes))
    for start in range(0, len(a), rows):  # so few rows that (rows, words, k) stays in the cache
        # As unsigned numbers: NumPy counts the bits of |x| if x is signed.
        bits = (a[start : start + rows, :, None] ^ b).view(np.uint64)
        np.bitwise_count(bits).sum(1, dtype=np.int32, out=different[start : start + rows])
    return n - 2 * different


class PackedLinear(nn.Module):
    """A sign and a ±1 linear layer in bits: (batch, in) numbers -> (batch, out) sums of products."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        if weight.dim() != 2:
            raise ValueError(f"weight must be (out, in), got shape {tuple(weight.shape)}")
        self.n = weight.shape[1]
        self.words: Tensor
        self.register_buffer("words", pack(weight.detach()).t().contiguous())  # (⌈in/64⌉, out)

    def forward(self, input: Tensor) -> Tensor:  # the name that nn.Linear gives it
        shape = tuple(input.shape)
        if len(shape) != 2 or shape[1] != self.n:  # other widths may need as many words
            raise ValueError(f"input must be (batch, {self.n}), got shape {shape}")
        product = _product(_words(input), self.words.cpu().numpy(), self.n)
        return torch.from_numpy(product).to(input.device, input.dtype)


def packed(model: nn.Sequential) -> nn.Sequential:
    """A copy of a ``bnn`` that stores one bit per weight and multiplies by XOR and bit count.

    Its outputs are exactly the same. Batch norm stays as it is. The copy is in evaluation mode.

    Raises:
        TypeError: ``model`` is not an ``nn.Sequential`` of flatten, batch norm, and signs that are
            each followed by a linear layer of ±1 without bias.

    Examples:
        >>> model, x = bnn((64, 32, 10)).eval(), torch.linspace(-1, 1, 128).view(2, 64)
        >>> torch.equal(packed(model)(x), model(x))
        True
    """
    parts = OrderedDict[str, nn.Module]()
    signed = False  # whether the layer before was a sign
    for name, layer in layers.chained(layers.copied(model)):
        if isinstance(layer, Sign) and not signed:
            signed = True
        elif signed and _binary_linear(layer):
            parts[name], signed = PackedLinear(layer.weight), False
        elif isinstance(layer, (nn.Flatten, nn.BatchNorm1d)) and not signed:
            parts[name] = layer
        else:
            raise TypeError(f"model must be made by bnn, got {name!r}: {layer}")
    if signed:
        raise TypeError("model must be made by bnn, got a sign at its end")
    return nn.Sequential(parts).eval()


def _binary_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    if not isinstance(layer, nn.Linear) or layer.bias is not None:
        return False
    return bool((layer.weight.abs() == 1).all())
