"""Fewer bits per number: the affine grid, how wide to make it, and training on it.

A real number r is stored as an integer q on a grid of 2^b points, ``r ≈ (q - zero_point) * scale``.
Signed grids hold −2^(b−1) … 2^(b−1) − 1, unsigned ones 0 … 2^b − 1. Everything here *simulates* the
grid in floating point, as training needs it; ``integer_matmul`` shows that a chip with integers gets
the same. Models that come out are ordinary models. Numbers in half precision are rounded in float32,
for in half precision the reciprocal of a small scale is infinite.

Source: Jacob et al. 2018; Krishnamoorthi 2018.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from numbers import Real

import torch
from torch import Tensor, nn

from course_lib import layers
from course_lib.parametrized import attach, folded, straight_through
from course_lib.training import check_counts, evaluating

Range = Callable[[Tensor], tuple[Tensor, Tensor]]  # (rows, n) -> lowest (rows,), highest (rows,)


def levels(bits: int, *, signed: bool = True) -> tuple[int, int]:
    """The smallest and the largest integer of a grid of 2^bits points.

    Raises:
        ValueError: ``bits`` is not an integer from 1 to 16.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise ValueError(f"bits must be an integer from 1 to 16, got {bits!r}")
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
    gradient reaches the scale. In float32, float16 and bfloat16 equal to torch's
    ``fake_quantize_per_tensor_affine`` and ``_per_channel_affine`` to the last bit, gradients
    included; in float64 the scale is float64 too, where torch's is float32.

    Source: Jacob et al. 2018, equation 1 (r = S(q − Z)), and Krishnamoorthi 2018, section 2.4, for
    the gradient, which there passes within the range (here also the half step beyond it that rounds
    to an end point); both read. "Straight-through" is Bengio et al. 2013, as others quote it.

    Args:
        x: (…) real numbers.
        scale: S > 0, a number or a tensor that broadcasts against ``x``: (out, 1) for a scale per row.
        zero_point: Z, the integer that stands for 0; within the grid.
        bits, signed: the grid, as in ``levels``.

    Raises:
        ValueError: numbers that are not finite, a scale that is not positive, a zero point outside
            the grid or not whole, shapes that do not broadcast to ``x``, or bits outside 1 to 16.
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
    """The integers q of ``fake_quantize`` as int32, x's shape. Raises as it does."""
    scale, zero_point = _check_grid(x, scale, zero_point, bits, signed)
    return _nearest(x, scale, zero_point).clamp(*levels(bits, signed=signed)).to(torch.int32)


def dequantize(q: Tensor, scale: Tensor | float, zero_point: Tensor | int) -> Tensor:
    """The real numbers S (q − Z) that integers q, of any integer type, stand for."""
    q = q if q.is_floating_point() else q.to(torch.int32)  # uint8 would wrap below zero
    return (q - zero_point) * scale


def _nearest(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    # Times the reciprocal, as torch's kernels do: x / scale differs from it in the last bit.
    return torch.round(layers.at_least_float32(x) * (1 / scale)) + zero_point


def _fake(x: Tensor, scale: Tensor, zero_point: Tensor, ends: tuple[int, int]) -> Tensor:
    nearest = _nearest(x, scale, zero_point)
    q = nearest.clamp(*ends)
    return straight_through(x, ((q - zero_point) * scale).to(x.dtype), q == nearest)


def symmetric(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    r"""Scale and zero point of a signed grid that is symmetric about 0, for weights.

    .. math:: S = \max(|low|, |high|) / (2^{b-1} - 1), \qquad Z = 0

    The lowest point −2^(b−1) is used only by numbers outside the range. At 2 bits that leaves
    −S, 0 and S. A range of zero gets a scale all the same: any grid holds 0.

    Source: Krishnamoorthi 2018, section 2.2 and equation 10 (read; Z = 0 and the grid, no formula
    for S); equal to torch's ``MinMaxObserver`` with ``quant_min`` −(2^(b−1) − 1), except that
    torch allows no scale below 1.2e-7.

    Raises:
        ValueError: bits outside 2 to 16.
    """
    top = _top(bits)
    scale = layers.at_least_float32(torch.maximum(-low, high)).clamp(min=0) / top
    return _positive(scale), torch.zeros_like(scale)


def affine(low: Tensor, high: Tensor, bits: int, *, signed: bool = False) -> tuple[Tensor, Tensor]:
    r"""Scale and zero point of the grid from low to high, for activations.

    .. math:: S = \frac{high - low}{2^b - 1}, \qquad Z = q_{min} - \lfloor low / S \rceil

    after the range has been widened to hold 0, which is then a grid point: padding and ReLU make
    many zeros, and they should cost no error.

    Source: Jacob et al. 2018, equations 12 and 13; widening the range is Krishnamoorthi 2018,
    section 2.1 (both read). Equal to torch's ``MinMaxObserver``, except as said at ``symmetric``.
    """
    bottom, top = levels(bits, signed=signed)
    low = layers.at_least_float32(low).clamp(max=0)
    high = layers.at_least_float32(high).clamp(min=0)
    scale = _positive((high - low) / (top - bottom))
    return scale, (bottom - torch.round(low / scale)).clamp(bottom, top)


def _positive(scale: Tensor) -> Tensor:
    return scale.clamp(min=torch.finfo(torch.float32).tiny)  # the smallest with a finite reciprocal


def min_max(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's range from its smallest to its largest number: nothing clipped, wide steps."""
    rows = _rows(rows)
    return rows.amin(1), rows.amax(1)


def percentile(fraction: float) -> Range:
    """Each row's central ``fraction`` of numbers, such as 0.999; the tails are clipped.

    Between two numbers it interpolates, as ``torch.quantile`` does, which stops at 16 million.

    Raises:
        ValueError: a fraction outside (0, 1].
    """
    if isinstance(fraction, bool) or not isinstance(fraction, Real) or not 0 < fraction <= 1:
        raise ValueError(f"fraction must be a number in (0, 1], got {fraction!r}")
    tail = (1 - fraction) / 2

    def observe(rows: Tensor) -> tuple[Tensor, Tensor]:
        ordered = _rows(rows).sort(dim=1).values
        return _quantile(ordered, tail), _quantile(ordered.flip(1), tail)

    return observe


def _quantile(ordered: Tensor, q: float) -> Tensor:
    """The number at the place q (n − 1) of each sorted row, (rows, n) -> (rows,)."""
    place = q * (ordered.shape[1] - 1)
    low, high = ordered[:, math.floor(place)], ordered[:, math.ceil(place)]
    return low.lerp(high, place - math.floor(place))


def mse(
    bits: int, grid: Callable[[Tensor, Tensor, int], tuple] = symmetric, *, candidates: int = 100
) -> Range:
    """Each row's range, shrunk by the one of the factors 1/candidates … 1 with the smallest squared
    error: clipping a few numbers pays if all others get finer steps.

    Args:
        bits: of the grid that will be used.
        grid: ``symmetric`` or ``affine``.
        candidates: how many factors are tried.

    Raises:
        ValueError: bits that the grid does not have, another grid, or no candidates.
    """
    if grid not in (symmetric, affine):
        raise ValueError(f"grid must be symmetric or affine, got {grid!r}")
    ends = levels(bits, signed=grid is symmetric)
    check_counts(candidates=candidates)

    def observe(rows: Tensor) -> tuple[Tensor, Tensor]:
        rows = _rows(rows)
        low, high = min_max(rows)
        factors = torch.arange(1, candidates + 1, device=rows.device) / candidates
        errors = []
        for factor in factors:
            scale, zero_point = (v.unsqueeze(1) for v in grid(low * factor, high * factor, bits))
            errors.append((_fake(rows, scale, zero_point, ends) - rows).square().sum(1))
        best = factors[torch.stack(errors).argmin(0)]  # (candidates, rows) -> (rows,)
        return low * best, high * best

    return observe


def _rows(rows: Tensor) -> Tensor:
    if rows.dim() != 2 or rows.shape[1] == 0:
        raise ValueError(f"rows must be (rows, n) with n >= 1, got shape {tuple(rows.shape)}")
    return layers.at_least_float32(rows)


def weight_grid(
    weight: Tensor, bits: int, *, per_channel: bool = True, observe: Range = min_max
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a weight (out, …), shaped to broadcast against it; float32 for a
    weight in half precision.

    A transposed convolution keeps its outputs on another axis: ``layers.outputs_first`` moves them.

    Args:
        per_channel: a scale for each output channel, or one for the whole tensor.
        observe: ``min_max``, ``percentile(fraction)`` or ``mse(bits)``.

    Raises:
        TypeError: ``weight`` is not a floating-point tensor.
        ValueError: an empty weight, one that is not finite, or bits outside 2 to 16.
    """
    _check_weight(weight)
    return _weight_grid(weight, bits, per_channel, observe)


def on_grid(
    weight: Tensor, bits: int, *, per_channel: bool = True, observe: Range = min_max
) -> Tensor:
    """A weight (out, …) rounded to its own grid, with a straight-through gradient.

    Args, Raises:
        as ``weight_grid``.
    """
    _check_weight(weight)
    return _on_grid(weight, bits, per_channel, observe)


# Without checks of the numbers: they run at every step, and vmap cannot look at them.
def _weight_grid(
    weight: Tensor, bits: int, per_channel: bool, observe: Range
) -> tuple[Tensor, Tensor]:
    rows = weight.detach().reshape(weight.shape[0] if per_channel else 1, -1)
    scale, zero_point = symmetric(*observe(rows), bits)
    shape = (-1, *[1] * (weight.dim() - 1))
    return scale.view(shape), zero_point.view(shape)


def _on_grid(weight: Tensor, bits: int, per_channel: bool, observe: Range) -> Tensor:
    return _fake(weight, *_weight_grid(weight, bits, per_channel, observe), levels(bits))


def ptq(
    model: nn.Module, bits: int, *, per_channel: bool = True, observe: Range = min_max
) -> nn.Module:
    """Post-training quantisation (PTQ): a copy whose weights are rounded to their grids, without
    any training. Weights of linear and convolution layers; biases stay as they are.

    Raises:
        ValueError: as ``qat``.
    """
    return folded(qat(model, bits, per_channel=per_channel, observe=observe))


def qat(
    model: nn.Module, bits: int, *, per_channel: bool = True, observe: Range = min_max
) -> nn.Module:
    """Quantisation-aware training (QAT): a copy to be trained like any network, alone or in a stack.

    Its layers compute with weights on the grid; the gradient at the rounded weights moves the
    full-precision ones behind them, and the grid follows. ``parametrized.folded`` ends it.

    Raises:
        ValueError: as ``parametrized.attach``, or bits outside 2 to 16.
    """
    _top(bits)
    rounded = partial(_on_grid, bits=bits, per_channel=per_channel, observe=observe)
    return attach(model, rounded)


def activations(model: nn.Module, x: Tensor, bits: int, *, observe: Range = min_max) -> nn.Module:
    """A copy that rounds the input of every linear and convolution layer to an unsigned grid.

    Each layer's grid is fixed by what reaches it while ``model`` sees ``x``, a few hundred images
    (calibration). A layer that is called several times has a grid for each call, for one call's
    numbers may be a hundred times another's; calls beyond those use the last. The gradient is
    straight-through, so the copy can also be trained, alone but not in a stack. The copy of a
    compiled model is not compiled.

    Raises:
        ValueError, NotImplementedError: as ``layer_inputs``; bits outside 1 to 16.
    """
    ends = levels(bits, signed=False)
    seen = layer_inputs(model, x)
    model = layers.copied(layers.uncompiled(model))
    calls: dict[str, int] = {}  # in this forward pass, by layer
    model.register_forward_pre_hook(partial(_begin_pass, calls=calls))
    for name, layer in layers.weighted(model).items():
        ranges = [observe(part.reshape(1, -1)) for part in seen[name]]
        grids = [(*affine(low, high, bits), ends) for low, high in ranges]  # scale (1,), zero (1,)
        rounded = partial(_round_input, grids=grids, name=name, calls=calls)
        layer.register_forward_pre_hook(rounded, with_kwargs=True)
    return model


def _begin_pass(_: nn.Module, args: tuple, *, calls: dict[str, int]) -> None:
    calls.clear()


def _round_input(
    _: nn.Module, args: tuple, named: dict, *, grids: list, name: str, calls: dict
) -> tuple[tuple, dict]:
    place, x = _input(args, named)
    call = calls.get(name, 0)
    calls[name] = call + 1
    scale, zero_point, ends = grids[min(call, len(grids) - 1)]
    x = _fake(x, scale.to(x.device), zero_point.to(x.device), ends)
    return ((x, *args[1:]), named) if args else ((), {**named, place: x})


def _input(args: tuple, named: dict) -> tuple[str, Tensor]:
    """A layer's input, and its name if it was given by keyword."""
    if args:
        return "", args[0]
    return next((place, x) for place, x in named.items() if isinstance(x, Tensor))


def layer_inputs(model: nn.Module, x: Tensor) -> dict[str, list[Tensor]]:
    """What reaches each linear and convolution layer while ``model`` sees ``x``, in evaluation mode:
    name -> the input of each call, in order. The model stays as it is.

    Raises:
        ValueError: ``model`` has no such layer, or one that the forward pass leaves out, or a part
            that is compiled by itself; ``x`` is empty, not finite or does not fit the model; what reaches a layer is not finite.
        NotImplementedError: a layer whose input cannot be seen (``layers.check_called``).
    """
    model = layers.uncompiled(model)
    layers.check_called(model)
    for name, module in model.named_modules():
        if layers.uncompiled(module) is not module:
            raise ValueError(
                f"model must be compiled whole or not, but {name!r} is, and hides inputs"
            )
    seen: dict[str, list[Tensor]] = {name: [] for name in layers.weighted(model)}
    if isinstance(x, Tensor):
        layers.check_finite("x", x)

    def note(_: nn.Module, args: tuple, named: dict, name: str) -> None:
        seen[name].append(
            _input(args, named)[1].detach().clone()
        )  # the next layer may overwrite it

    hooks = [
        layer.register_forward_pre_hook(partial(note, name=name), with_kwargs=True)
        for name, layer in layers.weighted(model).items()
    ]
    try:
        with torch.no_grad(), evaluating(model), torch.compiler.set_stance("force_eager"):
            layers.run(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    for name, parts in seen.items():
        if not parts:
            raise ValueError(f"model must use every layer on x, but it leaves out {name!r}")
        for part in parts:
            layers.check_finite(f"the input of {name!r}", part)
    return seen


def integer_matmul(q1: Tensor, z1: int, q2: Tensor, z2: int | Tensor) -> Tensor:
    r"""The product of two quantised matrices, with integers only.

    .. math:: \sum_j (q_1^{(i,j)} - Z_1)(q_2^{(j,k)} - Z_2) =
              N Z_1 Z_2 - Z_1 a_2^{(k)} - Z_2 \bar a_1^{(i)} + \sum_j q_1^{(i,j)} q_2^{(j,k)}

    with :math:`a_2` the column sums of :math:`q_2` and :math:`\bar a_1` the row sums of
    :math:`q_1`: the inner loop multiplies and adds small integers, zero points enter once per row
    and once per column. Times :math:`S_1 S_2` it is the product of the dequantised matrices.

    Source: Jacob et al. 2018, section 2.3, equations 7 and 8 (read).

    Args:
        q1: (i, j) integers. q2: (j, k) integers. Both on the CPU: torch multiplies no integer
            matrices elsewhere.
        z1, z2: zero points; ``z2`` may be one per column, (k,).

    Returns:
        (i, k) int32 sums (exact below 2^31).

    Raises:
        TypeError: not two matrices of integers, or a zero point that is no integer.
        ValueError: shapes that do not fit, or matrices on another device.
    """
    for name, q in (("q1", q1), ("q2", q2)):
        if not isinstance(q, Tensor) or q.is_floating_point() or q.is_complex() or q.dim() != 2:
            got = f"{q.dtype}, {q.dim()}-d" if isinstance(q, Tensor) else type(q).__name__
            raise TypeError(f"{name} must be a matrix of integers, got {got}")
        if q.device.type != "cpu":
            raise ValueError(f"{name} must be on the CPU, got {q.device}")
    if q1.shape[1] != q2.shape[0]:
        raise ValueError(f"q2 must have {q1.shape[1]} rows, got {q2.shape[0]}")
    zero1, zero2 = torch.as_tensor(z1), torch.as_tensor(z2)
    for name, z, shapes in (("z1", zero1, [()]), ("z2", zero2, [(), (q2.shape[1],)])):
        if (z != z.round()).any() or z.shape not in shapes:
            raise TypeError(f"{name} must hold integers, of shape {shapes}, got {z.tolist()}")
    q1, q2, zero1, zero2 = (t.to(torch.int32) for t in (q1, q2, zero1, zero2))
    rows, columns = q1.sum(1, dtype=torch.int32), q2.sum(0, dtype=torch.int32)
    return q1.shape[1] * zero1 * zero2 - zero1 * columns - zero2 * rows.unsqueeze(1) + q1 @ q2


def stored_bytes(model: nn.Module, bits: int, *, per_channel: bool = True) -> int:
    """Bytes of a model whose weights take ``bits`` bits each, its float32 scales included; biases
    and everything else as they are. Tied weights are stored once.

    Raises:
        ValueError: ``model`` has no linear or convolution layer, or bits outside 1 to 16.
    """
    levels(bits)
    model = folded(model)
    stored = {id(t): t for t in model.state_dict(keep_vars=True).values()}  # tied: once
    total = sum(t.numel() * t.element_size() for t in stored.values())
    for layer in layers.weighted(model).values():
        weight = stored.pop(id(layer.weight), None)
        if weight is None:  # it was another layer's, too
            continue
        scales = layers.outputs_first(layer, weight).shape[0] if per_channel else 1
        total -= weight.numel() * weight.element_size()
        total += -(-weight.numel() * bits // 8) + 4 * scales
    return total


def int8(model: nn.Module) -> nn.Module:
    """A copy whose linear layers run in 8-bit integers on the CPU, for timing: torch's dynamic
    quantisation, a scale per tensor, inputs rounded as they come.

    torch has announced the end of this interface in favour of another package; it is what works
    without one.

    Raises:
        ValueError: no linear layer, or one whose weight is not finite, not float32 or not on the CPU.
        NotImplementedError: ``nn.MultiheadAttention``, or a torch without a quantised engine.
    """
    layers.check_called(model)
    model = nn.Sequential(
        folded(layers.uncompiled(model))
    )  # a box: the model may be a linear layer
    linear = {n: m for n, m in model.named_modules() if type(m) is nn.Linear}
    if not linear:
        raise ValueError("model must have a linear layer, got none")
    for name, weight in layers.weights(model[0]).items():
        if weight.dtype != torch.float32 or weight.device.type != "cpu":
            raise ValueError(
                f"model must be float32 on the CPU, but {name!r} is {weight.dtype} on {weight.device}"
            )
    with warnings.catch_warnings(), _quantized_engine():
        warnings.simplefilter("ignore")
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8, inplace=True)
    return model[0]


@contextmanager
def _quantized_engine() -> Iterator[None]:
    """An engine for the block where torch has chosen none, as on macOS."""
    backend = torch.backends.quantized
    before, known = backend.engine, [e for e in backend.supported_engines if e != "none"]
    if not known:
        raise NotImplementedError(
            "int8 needs a torch with a quantised engine, and this one has none"
        )
    if before in known:
        yield
        return
    backend.engine = known[-1]
    try:
        yield
    finally:
        backend.engine = before


def _top(bits: int) -> int:
    """The largest integer of a symmetric grid, 2^(b−1) − 1."""
    top = levels(bits)[1]
    if top == 0:
        raise ValueError(f"bits must be from 2 to 16 for a symmetric grid, got {bits!r}")
    return top


def _check_weight(weight: Tensor) -> None:
    _check_floating("weight", weight)
    if weight.dim() == 0 or weight.numel() == 0:
        raise ValueError(f"weight must be (out, …) and not empty, got shape {tuple(weight.shape)}")
    layers.check_finite("weight", weight)


def _check_floating(argument: str, x: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{argument} must be a floating-point tensor, got {found}")


def _check_grid(
    x: Tensor, scale: Tensor | float, zero_point: Tensor | int, bits: int, signed: bool
) -> tuple[Tensor, Tensor]:
    bottom, top = levels(bits, signed=signed)
    _check_floating("x", x)
    layers.check_finite("x", x)
    dtype = torch.promote_types(x.dtype, torch.float32)
    scale = torch.as_tensor(scale, dtype=dtype, device=x.device)
    zero_point = torch.as_tensor(zero_point, device=x.device)
    if not (scale > 0).all() or not (scale.isfinite() & (1 / scale).isfinite()).all():
        raise ValueError(
            f"scale must be positive and finite, and so must 1 / scale, got {scale.tolist()}"
        )
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
    return scale, zero_point.to(dtype)
