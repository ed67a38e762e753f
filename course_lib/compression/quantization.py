"""Fewer bits a number: the affine grid, how wide to make it, and training on it.

A real number r is stored as a whole number q on a grid of 2^b points, ``r ≈ (q - zero_point) * scale``.
Signed grids hold −2^(b−1) … 2^(b−1) − 1, unsigned ones 0 … 2^b − 1. Everything here *simulates* the
grid in floating point, as training needs it; ``integer_matmul`` shows that a chip with integers gets
the same. Models that come out are ordinary models.

Source: Jacob et al. 2018; Krishnamoorthi 2018.
"""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_lib import layers
from course_lib.parametrized import attach, folded, straight_through
from course_lib.training import evaluating

Range = Callable[[Tensor], tuple[Tensor, Tensor]]  # (rows, n) -> lowest (rows,), highest (rows,)


def levels(bits: int, *, signed: bool = True) -> tuple[int, int]:
    """The smallest and the largest whole number of a grid of 2^bits points.

    Raises:
        ValueError: ``bits`` is not a whole number from 1 to 16.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise ValueError(f"bits must be a whole number from 1 to 16, got {bits!r}")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def fake_quantize(
    x: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | int,
    bits: int,
    *,
    signed: bool = True,
) -> Tensor:
    r"""Round to the grid and come back, with a straight-through gradient.

    .. math:: q = \mathrm{clamp}\!\left(\left\lfloor \tfrac{r}{S} \right\rceil + Z,\; q_{min},\;
              q_{max}\right), \qquad \hat r = S\,(q - Z)

    Ties go to the even neighbour. The derivative of rounding is zero almost everywhere; in its
    place the gradient passes unchanged where q was not clamped, and is zero where it was. No
    gradient reaches the scale. Equal to torch's ``fake_quantize_per_tensor_affine`` and
    ``_per_channel_affine`` to the last bit, gradients included.

    Source: Jacob et al. 2018, equation 1 (r = S(q − Z)), and Krishnamoorthi 2018, section 2.4, for
    the gradient, which there passes within the range (here also the half step beyond it that rounds
    to an end point); both read. "Straight-through" is Bengio et al. 2013, as others quote it.

    Args:
        x: (…) real numbers.
        scale: S > 0, a number or a tensor that broadcasts against ``x``: (out, 1) for a scale a row.
        zero_point: Z, the whole number that stands for 0; within the grid.
        bits, signed: the grid, as in ``levels``.

    Raises:
        ValueError: a scale that is not positive, a zero point outside the grid or not whole, shapes
            that do not broadcast to ``x``, or bits outside 1 to 16.
        TypeError: ``x`` is not a floating-point tensor.
    """
    scale, zero_point = _check_grid(x, scale, zero_point, bits, signed)
    return _fake(x, scale, zero_point, levels(bits, signed=signed))


def quantize(
    x: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | int,
    bits: int,
    *,
    signed: bool = True,
) -> Tensor:
    """The whole numbers q of ``fake_quantize`` as int32, x's shape. Raises as it does."""
    scale, zero_point = _check_grid(x, scale, zero_point, bits, signed)
    return _nearest(x, scale, zero_point).clamp(*levels(bits, signed=signed)).to(torch.int32)


def dequantize(q: Tensor, scale: Tensor | float, zero_point: Tensor | int) -> Tensor:
    """The real numbers S (q − Z) that whole numbers q stand for."""
    return (q - zero_point) * scale


def _nearest(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    # Times the reciprocal, as torch's kernels do: x / scale differs from it in the last bit.
    return torch.round(x * (1 / scale)) + zero_point


def _fake(x: Tensor, scale: Tensor, zero_point: Tensor, ends: tuple[int, int]) -> Tensor:
    nearest = _nearest(x, scale, zero_point)
    q = nearest.clamp(*ends)
    return straight_through(x, (q - zero_point) * scale, q == nearest)


def symmetric(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    r"""Scale and zero point of a signed grid that is symmetric about 0, for weights.

    .. math:: S = \max(|low|, |high|) / (2^{b-1} - 1), \qquad Z = 0

    The lowest point −2^(b−1) is used only by numbers outside the range. At 2 bits that leaves
    −S, 0 and S.

    Source: Krishnamoorthi 2018, section 2.2 and equation 10 (read; Z = 0 and the grid, no formula
    for S); equal to torch's ``MinMaxObserver`` with ``quant_min`` −(2^(b−1) − 1).

    Raises:
        ValueError: bits outside 2 to 16.
    """
    top = levels(bits)[1]
    if top == 0:
        raise ValueError(f"bits must be from 2 to 16 for a symmetric grid, got {bits!r}")
    scale = torch.maximum(-low, high).clamp(min=0) / top
    return _positive(scale), torch.zeros_like(scale)


def affine(low: Tensor, high: Tensor, bits: int, *, signed: bool = False) -> tuple[Tensor, Tensor]:
    r"""Scale and zero point of the grid from low to high, for activations.

    .. math:: S = \frac{high - low}{2^b - 1}, \qquad Z = q_{min} - \lfloor low / S \rceil

    after the range has been widened to hold 0, which is then a grid point: padding and ReLU make
    many zeros, and they should cost no error.

    Source: Jacob et al. 2018, equations 12 and 13; widening the range is Krishnamoorthi 2018,
    section 2.1 (both read). Equal to torch's ``MinMaxObserver``.
    """
    bottom, top = levels(bits, signed=signed)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = _positive((high - low) / (top - bottom))
    return scale, (bottom - torch.round(low / scale)).clamp(bottom, top)


def _positive(scale: Tensor) -> Tensor:
    return scale.clamp(min=torch.finfo(torch.float32).eps)  # all zero: any grid will do


def min_max(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's range from its smallest to its largest number: nothing clipped, wide steps."""
    return rows.amin(1), rows.amax(1)


def percentile(share: float) -> Range:
    """Each row's central ``share`` of numbers, such as 0.999; the tails are clipped.

    Raises:
        ValueError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share!r}")
    tail = (1 - share) / 2

    def observe(rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows.quantile(tail, dim=1), rows.quantile(1 - tail, dim=1)

    return observe


def mse(
    bits: int, grid: Callable[[Tensor, Tensor, int], tuple] = symmetric, *, steps: int = 100
) -> Range:
    """Each row's range, shrunk by the one of ``steps`` factors 1/steps … 1 with the smallest squared
    error: clipping a few numbers pays if all others get finer steps.

    Args:
        bits: of the grid that will be used.
        grid: ``symmetric`` or ``affine``.
    """
    ends = levels(bits, signed=grid is symmetric)

    def observe(rows: Tensor) -> tuple[Tensor, Tensor]:
        low, high = min_max(rows)
        factors = torch.arange(1, steps + 1, device=rows.device) / steps
        errors = []
        for factor in factors:
            scale, zero_point = (v.unsqueeze(1) for v in grid(low * factor, high * factor, bits))
            errors.append((_fake(rows, scale, zero_point, ends) - rows).square().sum(1))
        best = factors[torch.stack(errors).argmin(0)]  # (steps, rows) -> (rows,)
        return low * best, high * best

    return observe


def weight_grid(
    weight: Tensor, bits: int, *, per_channel: bool = True, observe: Range = min_max
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a weight (out, …), shaped to broadcast against it.

    Args:
        per_channel: a scale for each output channel, or one for the whole tensor.
        observe: ``min_max``, ``percentile(share)`` or ``mse(bits)``.
    """
    rows = weight.detach().flatten(1) if per_channel else weight.detach().reshape(1, -1)
    scale, zero_point = symmetric(*observe(rows), bits)
    shape = (-1, *[1] * (weight.dim() - 1))
    return scale.view(shape), zero_point.view(shape)


def on_grid(
    weight: Tensor, bits: int, *, per_channel: bool = True, observe: Range = min_max
) -> Tensor:
    """A weight (out, …) rounded to its own grid, with a straight-through gradient."""
    scale, zero_point = weight_grid(weight, bits, per_channel=per_channel, observe=observe)
    return _fake(weight, scale, zero_point, levels(bits))


def ptq(
    model: nn.Module, bits: int, *, per_channel: bool = True, observe: Range = min_max
) -> nn.Module:
    """Post-training quantisation (PTQ): a copy whose weights are rounded to their grids, without
    any training. Weights of linear and convolution layers; biases stay as they are."""
    return folded(qat(model, bits, per_channel=per_channel, observe=observe))


def qat(
    model: nn.Module, bits: int, *, per_channel: bool = True, observe: Range = min_max
) -> nn.Module:
    """Quantisation-aware training (QAT): a copy to be trained like any network, alone or in a stack.

    Its layers compute with weights on the grid; the gradient at the rounded weights moves the
    full-precision ones behind them, and the grid follows. ``parametrized.folded`` ends it.
    """
    levels(bits)
    return attach(
        model, lambda weight: on_grid(weight, bits, per_channel=per_channel, observe=observe)
    )


def activations(model: nn.Module, x: Tensor, bits: int, *, observe: Range = min_max) -> nn.Module:
    """A copy that rounds the input of every linear and convolution layer to an unsigned grid.

    Each layer's grid is fixed by what reaches it while ``model`` sees ``x``, a few hundred images
    (calibration). The gradient is straight-through, so the copy can also be trained, alone but not
    in a stack.

    Raises:
        ValueError: ``model`` has no such layer, or bits outside 1 to 16.
    """
    seen = layer_inputs(model, x)
    model = copy.deepcopy(model)
    for name, layer in layers.weighted(model).items():
        low, high = observe(seen[name].reshape(1, -1))
        scale, zero_point = affine(low, high, bits)
        layer.register_forward_pre_hook(_rounding(scale, zero_point, levels(bits, signed=False)))
    return model


def _rounding(scale: Tensor, zero_point: Tensor, ends: tuple[int, int]) -> Callable:
    return lambda _, inputs: (_fake(inputs[0], scale, zero_point, ends),)


def layer_inputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What reaches each linear and convolution layer while ``model`` sees ``x``: name -> inputs."""
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
        for name, layer in layers.weighted(model).items()
    ]
    try:
        with torch.no_grad(), evaluating(model):
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def integer_matmul(q1: Tensor, z1: int, q2: Tensor, z2: int | Tensor) -> Tensor:
    r"""The product of two quantised matrices, with whole numbers only.

    .. math:: \sum_j (q_1^{(i,j)} - Z_1)(q_2^{(j,k)} - Z_2) =
              N Z_1 Z_2 - Z_1 a_2^{(k)} - Z_2 \bar a_1^{(i)} + \sum_j q_1^{(i,j)} q_2^{(j,k)}

    with :math:`a_2` the column sums of :math:`q_2` and :math:`\bar a_1` the row sums of
    :math:`q_1`: the inner loop multiplies and adds small whole numbers, zero points enter once a
    row and once a column. Times :math:`S_1 S_2` it is the product of the dequantised matrices.

    Source: Jacob et al. 2018, section 2.3, equations 7 and 8 (read).

    Args:
        q1: (i, j) whole numbers. q2: (j, k) whole numbers.
        z1, z2: zero points; ``z2`` may be one a column, (k,).

    Returns:
        (i, k) int32 sums (exact below 2^31).
    """
    for name, q in (("q1", q1), ("q2", q2)):
        if q.is_floating_point() or q.dim() != 2:
            raise TypeError(f"{name} must be a matrix of whole numbers, got {q.dtype}, {q.dim()}-d")
    if q1.shape[1] != q2.shape[0]:
        raise ValueError(f"q2 must have {q1.shape[1]} rows, got {q2.shape[0]}")
    q1, q2 = q1.to(torch.int32), q2.to(torch.int32)
    z2 = torch.as_tensor(z2, dtype=torch.int32, device=q2.device)
    rows, columns = q1.sum(1, dtype=torch.int32), q2.sum(0, dtype=torch.int32)
    return q1.shape[1] * z1 * z2 - z1 * columns - z2 * rows.unsqueeze(1) + q1 @ q2


def stored_bytes(model: nn.Module, bits: int, *, per_channel: bool = True) -> int:
    """Bytes of a model whose weights take ``bits`` bits each, its float32 scales included; biases
    and everything else as they are."""
    total = sum(t.numel() * t.element_size() for t in folded(model).state_dict().values())
    for layer in layers.weighted(model).values():
        weight = layer.weight
        scales = weight.shape[0] if per_channel else 1
        total -= weight.numel() * weight.element_size()
        total += -(-weight.numel() * bits // 8) + 4 * scales
    return total


def int8(model: nn.Module) -> nn.Module:
    """A copy whose linear layers run in 8-bit integers on the CPU, for timing: torch's dynamic
    quantisation, a scale a tensor, inputs rounded as they come.

    torch has announced the end of this interface in favour of another package; it is what works
    without one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def _check_grid(
    x: Tensor, scale: Tensor | float, zero_point: Tensor | int, bits: int, signed: bool
) -> tuple[Tensor, Tensor]:
    bottom, top = levels(bits, signed=signed)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor, got {found}")
    scale = torch.as_tensor(scale, dtype=x.dtype, device=x.device)
    zero_point = torch.as_tensor(zero_point, device=x.device)
    if not (scale > 0).all() or not scale.isfinite().all():
        raise ValueError(f"scale must be positive and finite, got {scale.tolist()}")
    if not (
        (zero_point >= bottom) & (zero_point <= top) & (zero_point == zero_point.round())
    ).all():
        raise ValueError(
            f"zero_point must be whole and from {bottom} to {top}, got {zero_point.tolist()}"
        )
    for name, value in (("scale", scale), ("zero_point", zero_point)):
        try:
            fits = torch.broadcast_shapes(x.shape, value.shape) == x.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"{name} must broadcast to x's shape {tuple(x.shape)}, got {tuple(value.shape)}"
            )
    return scale, zero_point.to(x.dtype)
