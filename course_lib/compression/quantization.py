"""Fewer bits per number: the affine grid, how wide to make it, and training on it.

A real number r is stored as an integer q on a grid of 2^b points, ``r ≈ (q - zero_point) * scale``.
Signed grids hold the integers from −2^(b−1) to 2^(b−1) − 1, unsigned grids those from 0 to 2^b − 1.
The functions *simulate* the grid in floating point, because training needs it; ``integer_matmul``
shows that integer arithmetic gives the same products. They return ordinary models. Half-precision
numbers are rounded in float32, because the reciprocal of a small scale is infinite in half
precision.

Source: Jacob et al. 2018; Krishnamoorthi 2018.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from course_lib import layers
from course_lib.data import check_counts, check_fraction, check_integer
from course_lib.handles import Handle
from course_lib.parametrized import attach, folded, straight_through
from course_lib.pruning import layerwise
from course_lib.training import evaluating

Range = Callable[[Tensor], tuple[Tensor, Tensor]]  # (rows, n) -> lowest (rows,), highest (rows,)


def levels(bits: int, *, signed: bool = True) -> tuple[int, int]:
    """The smallest and the largest integer of a grid of 2^bits points.

    Raises:
        ValueError: ``bits`` is not an integer from 1 to 16.

    Examples:
        >>> levels(8), levels(8, signed=False)
        ((-128, 127), (0, 255))
    """
    check_integer("bits", bits, 1, 16)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def fake_quantize(
    x: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | int,
    bits: int,
    *,
    signed: bool = True,
) -> Tensor:
    r"""Round real numbers to the grid, with a straight-through gradient.

    .. math:: q = \mathrm{clamp}\!\left(\left\lfloor \tfrac{r}{S} \right\rceil + Z,\; q_{min},\;
              q_{max}\right), \qquad \hat r = S\,(q - Z)

    A number halfway between two points goes to the even one. The derivative of rounding is zero
    almost everywhere, so the gradient is replaced: it passes unchanged where q was not clamped, and
    is zero where q was clamped. No gradient reaches the scale.

    The result and its gradients equal those of torch's ``fake_quantize_per_tensor_affine`` and
    ``_per_channel_affine`` exactly, except in float64: the scale is float64 here and float32 there.

    Source: Jacob et al. 2018, equation 1 (r = S(q − Z)); Krishnamoorthi 2018, section 2.4, for the
    gradient; Bengio et al. 2013 for the name "straight-through". In Krishnamoorthi's paper the
    gradient passes within the range; here it also passes in the half step beyond an end point.

    Args:
        x: (…) real numbers.
        scale: S > 0, a number or a tensor that broadcasts against ``x``: (out, 1) for one per row.
        zero_point: Z, the integer that represents 0; within the grid.
        bits, signed: the grid, as in ``levels``.

    Raises:
        ValueError: numbers that are not finite; a scale that is not positive; a zero point outside
            the grid or not an integer; shapes that do not broadcast to ``x``; bits outside 1 to 16.
        TypeError: ``x`` is not a floating-point tensor.

    Examples:
        >>> x = torch.tensor([-9.0, -0.3, 0.25, 0.8], requires_grad=True)
        >>> fake_quantize(x, scale=0.5, zero_point=0, bits=3)  # from -4 to 3 times 0.5
        tensor([-2.0000, -0.5000,  0.0000,  1.0000], grad_fn=...)
        >>> fake_quantize(x, scale=0.5, zero_point=0, bits=3).sum().backward()
        >>> x.grad
        tensor([0., 1., 1., 1.])
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
    """The integers q of ``fake_quantize``, int32, in the shape of ``x``.

    Args, Raises:
        as ``fake_quantize``.

    Examples:
        >>> quantize(torch.tensor([-9.0, -0.3, 0.25, 0.8]), scale=0.5, zero_point=0, bits=3)
        tensor([-4, -1,  0,  2], dtype=torch.int32)
    """
    scale, zero_point = _check_grid(x, scale, zero_point, bits, signed)
    return _nearest(x, scale, zero_point).clamp(*levels(bits, signed=signed)).to(torch.int32)


def dequantize(q: Tensor, scale: Tensor | float, zero_point: Tensor | int) -> Tensor:
    """The real numbers S (q − Z) that the integers q represent. Any integer type will do.

    Examples:
        >>> dequantize(torch.tensor([-4, -1, 0, 2]), scale=0.5, zero_point=0)
        tensor([-2.0000, -0.5000,  0.0000,  1.0000])
    """
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

    Only numbers outside the range use the lowest point, −2^(b−1). At 2 bits, the points inside the
    range are −S, 0 and S. A range of zero gets a small scale, because every grid holds 0.

    The result equals that of torch's ``MinMaxObserver`` with ``quant_min`` −(2^(b−1) − 1), except
    that torch allows no scale below 1.2e-7.

    Source: Krishnamoorthi 2018, section 2.2 and equation 10, for the grid and Z = 0.

    Raises:
        ValueError: bits outside 2 to 16.

    Examples:
        >>> symmetric(torch.tensor(-3.5), torch.tensor(2.0), bits=4)
        (tensor(0.5000), tensor(0.))
    """
    top = _top(bits)
    scale = layers.at_least_float32(torch.maximum(-low, high)).clamp(min=0) / top
    return _positive(scale), torch.zeros_like(scale)


def affine(low: Tensor, high: Tensor, bits: int, *, signed: bool = False) -> tuple[Tensor, Tensor]:
    r"""Scale and zero point of the grid from low to high, for activations.

    .. math:: S = \frac{high - low}{2^b - 1}, \qquad Z = q_{min} - \lfloor low / S \rceil

    The range is first widened to contain 0, so that 0 is a grid point: padding and ReLU make many
    zeros, and these get no rounding error. The result equals that of torch's ``MinMaxObserver``,
    with the exception named at ``symmetric``.

    Source: Jacob et al. 2018, equations 12 and 13; Krishnamoorthi 2018, section 2.1, for widening.

    Raises:
        ValueError: bits outside 1 to 16.

    Examples:
        >>> affine(torch.tensor(0.5), torch.tensor(7.5), bits=4)
        (tensor(0.5000), tensor(0.))
    """
    bottom, top = levels(bits, signed=signed)
    low = layers.at_least_float32(low).clamp(max=0)
    high = layers.at_least_float32(high).clamp(min=0)
    scale = _positive((high - low) / (top - bottom))
    return scale, (bottom - torch.round(low / scale)).clamp(bottom, top)


def _positive(scale: Tensor) -> Tensor:
    return scale.clamp(min=torch.finfo(torch.float32).tiny)  # the smallest with a finite reciprocal


def min_max(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The range of each row from its smallest to its largest number.

    It clips nothing, and its steps are wide.

    Examples:
        >>> min_max(torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, 4.0]]))
        (tensor([ 1., -1.]), tensor([3., 4.]))
    """
    rows = _rows(rows)
    return rows.amin(1), rows.amax(1)


def percentile(fraction: float) -> Range:
    """Make a function that gives the range of each row's central ``fraction`` of numbers.

    A fraction is, for example, 0.999; it clips the tails. The function interpolates between two
    numbers as ``torch.quantile`` does, but takes more than 16 million numbers.

    Raises:
        ValueError: a fraction outside (0, 1].

    Examples:
        >>> low, high = percentile(0.5)(torch.arange(9.0).view(1, 9))
        >>> low.item(), high.item()
        (2.0, 6.0)
    """
    check_fraction("fraction", fraction)
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
    """Make a function that shrinks each row's range to the size with the smallest squared error.

    It tries the factors 1/candidates, 2/candidates, …, 1. Clipping a few numbers pays if all others
    get finer steps.

    Args:
        bits: bits of the grid that will be used.
        grid: ``symmetric`` or ``affine``.
        candidates: how many factors it tries.

    Raises:
        ValueError: bits that the grid does not have; another ``grid``; ``candidates`` that is not a
            positive integer.

    Examples:
        >>> rows = torch.tensor([[1.0] * 50 + [-1.0] * 50 + [4.0]])  # one outlier
        >>> low, high = mse(3)(rows)
        >>> bool(high < 4)
        True
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
    """Scale and zero point of a weight (out, …), in a shape that broadcasts against it.

    Both are float32 for a weight in half precision. The weight of a transposed convolution has its
    outputs on another axis; ``layers.outputs_first`` moves them.

    Args:
        per_channel: whether to use one scale per output channel or one for the whole tensor.
        observe: the range: ``min_max``, ``percentile(fraction)`` or ``mse(bits)``.

    Raises:
        TypeError: ``weight`` is not a floating-point tensor.
        ValueError: a weight that is empty or not finite, or bits outside 2 to 16.

    Examples:
        >>> weight_grid(torch.tensor([[7.0, 1.0], [0.0, -3.5]]), bits=4)[0]
        tensor([[1.0000],
                [0.5000]])
    """
    layers.check_weight(weight)
    return _weight_grid(weight, bits, per_channel, observe)


def on_grid(
    weight: Tensor, bits: int, *, per_channel: bool = True, observe: Range = min_max
) -> Tensor:
    """Round a weight (out, …) to its own grid, with a straight-through gradient.

    Args, Raises:
        as ``weight_grid``.

    Examples:
        >>> on_grid(torch.tensor([[7.0, 1.2], [0.1, -3.5]]), bits=4)
        tensor([[ 7.0000,  1.0000],
                [ 0.0000, -3.5000]])
    """
    layers.check_weight(weight)
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
    """Post-training quantization (PTQ): a copy with its weights rounded to their grids, untrained.

    It rounds the weights of linear and convolution layers. Biases stay as they are.

    Args:
        per_channel, observe: as in ``weight_grid``.

    Raises:
        ValueError: as ``qat``.

    Examples:
        >>> layer = nn.Linear(4, 3)
        >>> values = ptq(layer, bits=2, per_channel=False).weight.unique()
        >>> len(values) <= 3  # -S, 0 and S
        True
    """
    return folded(qat(model, bits, per_channel=per_channel, observe=observe))


def gptq(
    model: nn.Module,
    x: Tensor,
    bits: int,
    *,
    names: Iterable[str] | None = None,
    block: int = 128,
    damping: float = 0.01,
) -> nn.Module:
    """GPTQ: ``ptq`` that keeps what linear layers give; later columns make up for earlier roundings.

    This is the loop of SparseGPT (``pruning.layerwise.sweep``) with rounding in place of removal.
    Each output channel has the grid of ``ptq``, from its weights before the first rounding. A weight
    that is zero stays zero, so that a pruned network stays pruned.

    Source: Frantar et al. 2023 (GPTQ). Columns are rounded as they are stored, from left to right.

    Args:
        x: a batch of what the model takes; a few hundred examples of its training data.
        bits: bits of the grid, from 2 to 16.
        names: weights of linear layers, as in ``layerwise.gram``. None means all.
        block, damping: as in ``layerwise.sweep``.

    Raises:
        ValueError, TypeError, NotImplementedError: as ``layerwise.rewrite`` and ``sweep``; bits
            outside 2 to 16.

    Examples:
        >>> layer, x = nn.Linear(3, 2), torch.eye(3)  # no input tells anything about another
        >>> torch.equal(gptq(layer, x, 4).weight, ptq(layer, 4).weight)
        True
    """
    _top(bits)

    def rounded(_: str, weight: Tensor, gram: Tensor) -> Tensor:
        scale, zero_point = weight_grid(weight, bits)

        def new(j: int, column: Tensor) -> Tensor:
            q = fake_quantize(column.unsqueeze(1), scale, zero_point, bits).squeeze(1)
            return q.masked_fill(weight[:, j] == 0, 0)

        return layerwise.sweep(weight, gram, lambda *_: new, block=block, damping=damping)

    return layerwise.rewrite(model, x, rounded, names)


def qat(
    model: nn.Module, bits: int, *, per_channel: bool = True, observe: Range = min_max
) -> nn.Module:
    """Quantization-aware training (QAT): a copy that you train like any network, alone or in a stack.

    Its layers compute with weights on the grid. The gradient at the rounded weights moves the
    full-precision weights behind them, and the grid follows. After training,
    ``parametrized.folded`` gives a model with the rounded weights.

    Args:
        per_channel, observe: as in ``weight_grid``.

    Raises:
        ValueError: as ``parametrized.attach``, or bits outside 2 to 16.

    Examples:
        >>> layer = nn.Linear(4, 3)
        >>> torch.equal(qat(layer, bits=4).weight, ptq(layer, bits=4).weight)  # before training
        True
    """
    _top(bits)
    rounded = partial(_on_grid, bits=bits, per_channel=per_channel, observe=observe)
    return attach(model, rounded)


def activations(model: nn.Module, x: Tensor, bits: int, *, observe: Range = min_max) -> nn.Module:
    """A copy that rounds the input of every linear and convolution layer to an unsigned grid.

    Calibration fixes the grid of each layer: ``model`` computes with ``x``, a few hundred images,
    and the inputs of the layer set the range. A layer that is called several times has one grid per
    call, because the numbers of one call may be a hundred times those of another; further calls use
    the last grid. The gradient is straight-through, so the copy can be trained, but not in a stack.
    The copy of a compiled model is not compiled.

    Args:
        observe: the range, as in ``weight_grid``.

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
    """The inputs of each linear and convolution layer while ``model`` computes with ``x``.

    The model runs in evaluation mode and stays as it is.

    Returns:
        layer name -> the input of each call, in order.

    Raises:
        ValueError: ``model`` has no such layer, one that the forward pass leaves out, or a part that
            is compiled by itself; ``x`` is empty, not finite or does not fit the model; the input of
            a layer is not finite.
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
        # A copy, because the next layer may overwrite it.
        seen[name].append(_input(args, named)[1].detach().clone())

    hooks = [
        layer.register_forward_pre_hook(partial(note, name=name), with_kwargs=True)
        for name, layer in layers.weighted(model).items()
    ]
    eager = torch.compiler.set_stance("force_eager")
    with Handle(*hooks), torch.no_grad(), evaluating(model), eager:
        layers.run(model, x)
    for name, parts in seen.items():
        if not parts:
            raise ValueError(f"model must use every layer on x, but it leaves out {name!r}")
        for part in parts:
            layers.check_finite(f"the input of {name!r}", part)
    return seen


def integer_matmul(q1: Tensor, z1: int, q2: Tensor, z2: int | Tensor) -> Tensor:
    r"""The product of two quantized matrices, computed with integers only.

    .. math:: \sum_j (q_1^{(i,j)} - Z_1)(q_2^{(j,k)} - Z_2) =
              N Z_1 Z_2 - Z_1 a_2^{(k)} - Z_2 \bar a_1^{(i)} + \sum_j q_1^{(i,j)} q_2^{(j,k)}

    where :math:`a_2` are the column sums of :math:`q_2` and :math:`\bar a_1` the row sums of
    :math:`q_1`. The inner loop only multiplies and adds small integers; the zero points enter once
    per row and once per column. The product of the dequantized matrices is :math:`S_1 S_2` times
    the result.

    Source: Jacob et al. 2018, section 2.3, equations 7 and 8.

    Args:
        q1: (i, j) integers on the CPU, the only place where torch multiplies integer matrices.
        z1: its zero point.
        q2: (j, k) integers on the CPU.
        z2: its zero point, or one per column, (k,).

    Returns:
        (i, k) int32 sums, exact below 2^31.

    Raises:
        TypeError: not two matrices of integers, or a zero point that is not an integer.
        ValueError: shapes that do not fit, or matrices on another device.

    Examples:
        >>> integer_matmul(torch.tensor([[3, 5]]), 1, torch.tensor([[2], [4]]), 2)  # 2·0 + 4·2
        tensor([[8]], dtype=torch.int32)
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
    """Bytes of a model whose weights take ``bits`` bits each, with their float32 scales.

    Biases and everything else count as they are. Tied weights count once.

    Args:
        per_channel: whether to count one scale per output channel or one per weight tensor.

    Raises:
        ValueError: ``model`` has no linear or convolution layer, or bits outside 1 to 16.

    Examples:
        >>> stored_bytes(nn.Linear(100, 10), bits=4)  # 500 for weights, 40 scales, 40 biases
        580
    """
    levels(bits)
    layers.check_made(model)
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
    """A copy whose linear layers compute in 8-bit integers on the CPU, for timing.

    This is torch's dynamic quantization: one scale per weight tensor, and a range of the inputs that
    is measured on every batch. Torch plans to move it to another package; without that package,
    this interface is the one that works.

    The network must call its linear layers by position: torch's 8-bit layer does not know the keyword
    ``input``.

    Raises:
        ValueError: no linear layer, or one whose weight is not finite, not float32 or not on the CPU.
        NotImplementedError: ``nn.MultiheadAttention``, or a torch without a quantized engine.
    """
    layers.check_called(model)
    model = nn.Sequential(folded(layers.uncompiled(model)))  # a box: it may be a linear layer
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
    """Choose an engine within the block if torch has chosen none, as on macOS."""
    backend = torch.backends.quantized
    before, known = backend.engine, [e for e in backend.supported_engines if e != "none"]
    if not known:
        raise NotImplementedError("int8 needs a torch with a quantized engine, got one without")
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


def _check_grid(
    x: Tensor, scale: Tensor | float, zero_point: Tensor | int, bits: int, signed: bool
) -> tuple[Tensor, Tensor]:
    bottom, top = levels(bits, signed=signed)
    layers.check_floating("x", x)
    layers.check_finite("x", x)
    dtype = torch.promote_types(x.dtype, torch.float32)
    scale = torch.as_tensor(scale, dtype=dtype, device=x.device)
    zero_point = torch.as_tensor(zero_point, device=x.device)
    if not (scale > 0).all() or not (scale.isfinite() & (1 / scale).isfinite()).all():
        raise ValueError(
            f"scale must be positive and finite, and so must 1 / scale, got {scale.tolist()}"
        )
    if not (zero_point == zero_point.round().clamp(bottom, top)).all():
        raise ValueError(
            f"zero_point must be whole and from {bottom} to {top}, got {zero_point.tolist()}"
        )
    for name, value in (("scale", scale), ("zero_point", zero_point)):
        try:
            value.expand(x.shape)
        except RuntimeError:
            raise ValueError(
                f"{name} must broadcast to x's shape {tuple(x.shape)}, got {tuple(value.shape)}"
            ) from None
    return scale, zero_point.to(dtype)
