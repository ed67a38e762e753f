r"""Penalties that make weights small or zero during training, each with its proximal map.

Training minimises :math:`L(w) + \lambda R(w)`. The penalties here, except ``l2``, have a kink at
zero. A gradient step only moves back and forth around a kink; a proximal step reaches it:

.. math:: \operatorname{prox}_{tR}(v) = \arg\min_x \; t R(x) + \tfrac12 \lVert x - v \rVert_2^2

There are two ways to train with a penalty. ``regularise`` applies a proximal map after every
optimizer step, just as ``masks.hold`` applies masks. ``penalise`` adds the slope of a penalty to
the gradients before the step. It works with any optimizer and gives no exact zeros.

Values are plain dictionaries, parameter name -> tensor. Half precision is computed in float32, and
a map or a slope returns the type that it was given. A map treats every weight or group by itself,
so it also works on the members of a stack. A penalty adds up all the values it is given;
``per_member`` computes it for each member of a stack, to add it to the members' losses.

Source: Parikh & Boyd 2014, "Proximal Algorithms", sections 1.1 and 6.5.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import ensemble, layers
from course_lib.data import check_counts, check_nonnegative, check_positive
from course_lib.handles import check_dense, check_trains, run_closure
from course_lib.layers import at_least_float32
from course_lib.pruning.channels import ChannelGraph, check_graph
from course_lib.pruning.counting import check_sparsity, keep_top_over
from course_lib.pruning.masks import step_skipped

Values = dict[str, Tensor]
Groups = dict[str, Tensor]  # name -> group of each weight, int64 of its shape; −1: in no group
Prox = Callable[[Mapping[str, Tensor], float], Values]  # (v, t) -> prox_{tR}(v)
Slope = Callable[[Mapping[str, Tensor]], Values]  # the values of one network -> ∂R/∂w
Strength = float | Callable[[int], float]  # λ, or step, from 0 on -> λ


def l1(values: Mapping[str, Tensor]) -> Tensor:
    r"""The L1 penalty. It pulls every weight to zero with the same force, and holds it there.

    .. math:: R(w) = \sum_i |w_i|

    Examples:
        >>> l1({"weight": torch.tensor([1.0, -2.0])})
        tensor(3.)
    """
    return sum((at_least_float32(v).abs().sum() for v in values.values()), torch.zeros(()))


def prox_l1(values: Mapping[str, Tensor], t: float) -> Values:
    r"""Soft threshold: the proximal map of ``l1``.

    .. math:: \operatorname{sign}(v_i)\, \max(|v_i| - t,\, 0)

    Raises:
        ValueError: a ``t`` that is negative or not finite.
        TypeError: a ``t`` that is no number.

    Examples:
        >>> prox_l1({"weight": torch.tensor([3.0, -2.0, 0.5])}, 1.0)
        {'weight': tensor([ 2., -1.,  0.])}
    """
    check_nonnegative("t", t)
    return {
        name: (v.sign() * (at_least_float32(v).abs() - t).clamp(min=0)).to(v.dtype)
        for name, v in values.items()
    }


def prox_root(values: Mapping[str, Tensor], t: float) -> Values:
    r"""Half threshold: the proximal map of the L1/2 penalty, which has no convex shape.

    .. math:: R(w) = \sum_i \sqrt{|w_i|}, \qquad
              x_i = \begin{cases} 0 & |v_i| \le \tfrac32 t^{2/3} \\
              \tfrac23 v_i \big(1 + \cos\big(\tfrac{2\pi}{3} - \tfrac23 \varphi_i\big)\big)
              & \text{otherwise} \end{cases}, \qquad
              \cos \varphi_i = \tfrac t4 \big(|v_i|/3\big)^{-3/2}

    A soft threshold moves every weight by t. This map hardly moves a large weight, and it jumps: at
    its threshold the result goes from 0 to :math:`t^{2/3}`, so no weight lies in between.

    Source: Xu et al. 2012, "L1/2 regularization", under the name half thresholding.

    Raises:
        ValueError, TypeError: as ``prox_l1``.

    Examples:
        >>> prox_root({"weight": torch.tensor([3.0, -1.6, 1.4])}, 1.0)
        {'weight': tensor([ 2.6955, -1.1295,  0.0000])}
    """
    check_nonnegative("t", t)

    def half(v: Tensor) -> Tensor:
        angle = (t / 4 * (v.abs() / 3).pow(-1.5)).clamp(max=1).acos()
        found = 2 / 3 * v * (1 + torch.cos(2 / 3 * (math.pi - angle)))
        return torch.where(v.abs() <= 1.5 * t ** (2 / 3), 0.0, found)

    return {name: half(at_least_float32(v)).to(v.dtype) for name, v in values.items()}


def smooth_root(a: float) -> Slope:
    r"""The slope of the smoothed L1/2 penalty, for ``penalise``.

    .. math:: R(w) = \sum_i \sqrt{f(w_i)}, \qquad f(x) = \begin{cases} |x| & |x| \ge a \\
              -\frac{x^4}{8a^3} + \frac{3x^2}{4a} + \frac{3a}{8} & |x| < a \end{cases}, \qquad
              \frac{\partial R}{\partial w_i} = \frac{f'(w_i)}{2 \sqrt{f(w_i)}}

    The polynomial meets :math:`|x|` at a with the same value, slope and curvature, and stays above 3a/8. So
    the penalty is smooth at 0, where L1/2 has an infinite slope. It gives no exact zeros: prune by
    magnitude afterwards.

    Source: Wu et al. 2014, for the idea of smoothing :math:`|x|` at 0 by a polynomial; the page of sources
    says what of it was checked.

    Raises:
        ValueError: an ``a`` that is not positive and finite.
        TypeError: an ``a`` that is no number.

    Examples:
        >>> smooth_root(1.0)({"weight": torch.tensor([4.0, 0.0, -0.5])})
        {'weight': tensor([ 0.2500,  0.0000, -0.4615])}
    """
    check_positive("a", a)

    def slope(v: Tensor) -> Tensor:
        inside = v.abs() < a
        f = torch.where(inside, -(v**4) / (8 * a**3) + 3 * v**2 / (4 * a) + 3 * a / 8, v.abs())
        return torch.where(inside, -(v**3) / (2 * a**3) + 3 * v / (2 * a), v.sign()) / (
            2 * f.sqrt()
        )

    return lambda values: {n: slope(at_least_float32(v)).to(v.dtype) for n, v in values.items()}


def l2(values: Mapping[str, Tensor]) -> Tensor:
    r"""The L2 penalty. With strength λ it is the same as weight decay λ.

    .. math:: R(w) = \tfrac12 \sum_i w_i^2

    It pulls a weight in proportion to its size, so no weight becomes zero. Prune by magnitude
    afterwards.

    Examples:
        >>> l2({"weight": torch.tensor([1.0, -2.0])})
        tensor(2.5000)
    """
    return sum((at_least_float32(v).square().sum() for v in values.values()), torch.zeros(())) / 2


def prox_l2(values: Mapping[str, Tensor], t: float) -> Values:
    """Shrinkage: the proximal map of ``l2``.

    .. math:: v_i / (1 + t)

    Raises:
        ValueError, TypeError: as ``prox_l1``.

    Examples:
        >>> prox_l2({"weight": torch.tensor([3.0, -2.0])}, 1.0)
        {'weight': tensor([ 1.5000, -1.0000])}
    """
    check_nonnegative("t", t)
    return {name: (at_least_float32(v) / (1 + t)).to(v.dtype) for name, v in values.items()}


def group_lasso(values: Mapping[str, Tensor], groups: Groups, *, by_size: bool = True) -> Tensor:
    r"""Group lasso over disjoint groups g of :math:`p_g` weights each: whole groups become zero.

    .. math:: R(w) = \sum_g \sqrt{p_g} \, \lVert w_g \rVert_2

    The norm is not squared, and this gives the kink at zero. With groups of one weight this is
    ``l1``.

    Source: Yuan & Lin 2006, with the factor :math:`\sqrt{p_g}`; Wen et al. 2016 (SSL) use groups of
    filters, channels and layers without the factor (``by_size=False``).

    Args:
        values: parameter name -> weights. Names that ``groups`` leaves out are not penalised.
        groups: parameter name -> group numbers, as ``rows`` and ``columns`` make them. A number may
            occur in several parameters, if the weights of a unit lie in more than one.
        by_size: whether the factor :math:`\sqrt{p_g}` is there.

    Raises:
        ValueError: no groups, or groups that do not fit ``values``.
        TypeError: group numbers that are not int64.

    Examples:
        >>> values = {"weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]])}
        >>> groups = {"weight": torch.tensor([[0, 0], [1, 1]])}
        >>> group_lasso(values, groups, by_size=False)
        tensor(6.)
    """
    index, flat, factor = _grouped(values, groups, by_size)
    return (factor * _norms(index, flat, len(factor))).sum()


def prox_group_lasso(
    values: Mapping[str, Tensor], t: float, groups: Groups, *, by_size: bool = True
) -> Values:
    r"""Block soft threshold: the proximal map of ``group_lasso``.

    .. math:: \max\Big(1 - \frac{t \sqrt{p_g}}{\lVert v_g \rVert_2},\, 0\Big)\, v_g

    For ``regularise``, bind the groups with ``functools.partial(prox_group_lasso, groups=...)``.

    Args:
        values, groups, by_size: as in ``group_lasso``.
        t: the threshold, >= 0.

    Raises:
        ValueError, TypeError: as ``prox_l1`` and ``group_lasso``.

    Examples:
        >>> values = {"weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]])}
        >>> groups = {"weight": torch.tensor([[0, 0], [1, 1]])}
        >>> prox_group_lasso(values, 2.5, groups, by_size=False)
        {'weight': tensor([[1.5000, 2.0000],
                [0.0000, 0.0000]])}
    """
    check_nonnegative("t", t)
    index, flat, factor = _grouped(values, groups, by_size)
    norms = _norms(index, flat, len(factor))
    scale = (1 - t * factor / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(min=0)
    scale = torch.cat([scale, scale.new_ones(1)])  # group −1 is the last entry: left as it is
    return {
        name: (v * scale[groups[name].to(v.device)]).to(v.dtype) if name in groups else v
        for name, v in values.items()
    }


def rows(model: nn.Module) -> Groups:
    """One group per output unit: a row of a linear weight, a filter of a convolution.

    The units of a tied weight are those of its first layer. Each member of a stack has its own
    groups.

    Raises:
        ValueError: as ``layers.weights``.

    Examples:
        >>> rows(nn.Linear(3, 2))
        {'weight': tensor([[0, 0, 0],
                [1, 1, 1]])}
    """

    def outputs(layer: nn.Module, n_out: int, n_in: int) -> Tensor:
        return torch.arange(n_out)[:, None].expand(n_out, n_in)

    return _numbered(model, outputs)


def columns(model: nn.Module) -> Groups:
    """One group per input unit: a column of a linear weight, an input channel of a convolution.

    Ties, stacks and errors are as in ``rows``.

    Examples:
        >>> columns(nn.Linear(3, 2))
        {'weight': tensor([[0, 1, 2],
                [0, 1, 2]])}
    """

    def inputs(layer: nn.Module, n_out: int, n_in: int) -> Tensor:
        groups = getattr(layer, "groups", 1)  # each reads n_in inputs of its own
        block = torch.arange(n_out) // (n_out // groups)
        return block[:, None] * n_in + torch.arange(n_in)

    return _numbered(model, inputs)


def bn_scales(model: nn.Module) -> list[str]:
    r"""Names of the batch norms' scales γ, for the penalty of network slimming.

    .. math:: L = \sum_{(x, y)} l(f(x, W), y) + \lambda \sum_{\gamma \in \Gamma} |\gamma|

    To train with it, call ``regularise(optimizer, model, prox_l1, strength=λ,
    names=bn_scales(model))``. The authors' code adds λ sign(γ) to the gradient instead, which has
    the same objective but gives no exact zeros.

    Source: Liu et al. 2017, equation 1, where g(s) is the absolute value of s.

    Raises:
        ValueError: ``model`` has no batch norm with a scale.

    Examples:
        >>> bn_scales(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
        ['1.weight']
    """
    layers.check_module(model)
    found = [
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    ]
    if not found:
        raise ValueError(f"model must have a batch norm, got {type(model).__name__} without one")
    return found


def groups(model: nn.Module, graph: ChannelGraph) -> dict[str, Groups]:
    """One group per channel: all that ``channels.remove`` would take out together with it.

    These are its row and its bias in the layers that make it, its scale and shift in a batch norm,
    and its column in the layers that read it. While they are all zero, nothing reads the channel.

    Every layer gets groups of its own, because the channels of neighbouring layers share weights: a
    weight of the second layer lies in one of its rows, and in a column that reads the first layer.
    Add up the penalties, or apply the maps one after another.

    Args:
        graph: of ``channels.trace(model, …)``.

    Returns:
        Layer that makes channels (of ``graph.layers()``) -> its groups; the number of a group is the
        channel's id. Fixed ids are in no group.

    Raises:
        ValueError: as ``channels.remove``; a layer that reads and makes the same channels.

    Examples:
        >>> from course_lib.pruning import channels
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> found = groups(model, channels.trace(model, torch.zeros(1, 2)))
        >>> found["0"]["0.weight"].tolist(), found["0"]["2.weight"].tolist()
        ([[2, 2], [3, 3], [4, 4]], [[2, 3, 4]])
    """
    check_graph(model, graph)
    found: dict[str, Groups] = {}
    parameters = dict(model.named_parameters())

    def put(to: Groups, name: str, ids: Sequence[int], own: set[int], dim: int = 0) -> None:
        if name not in parameters or not own.intersection(ids):
            return
        weight = parameters[name]
        side = torch.tensor([i if i in own else -1 for i in ids], device=weight.device)
        wide = side.view(*[1] * dim, -1, *[1] * (weight.dim() - dim - 1)).expand_as(weight)
        if name in to and bool(((to[name] >= 0) & (wide >= 0) & (to[name] != wide)).any()):
            raise ValueError(
                f"graph must have no layer that reads the channels it makes, but {name!r} does: "
                "its weights lie in two groups"
            )
        to[name] = torch.maximum(to[name], wide) if name in to else wide.contiguous()

    for layer, of_layer in graph.layers().items():
        to = found.setdefault(layer, {})
        own = set(of_layer)
        for name, ids in (*graph.makes.items(), *graph.passes.items()):
            put(to, f"{name}.weight", ids, own)
            put(to, f"{name}.bias", ids, own)
        for name, ids in graph.reads.items():
            put(to, f"{name}.weight", ids, own, dim=1)
    return found


def per_member(
    model: nn.Module,
    penalty: Callable[[Mapping[str, Tensor]], Tensor],
    *,
    names: Iterable[str] | None = None,
) -> Tensor:
    """The penalty of a network, (), or of each member of a stack, (K,), with gradients.

    Add it to the loss of a plan: ``loss = lambda logits, positions: cross_entropy(logits,
    y[positions]) + λ * per_member(stack, l1)``. (``training.fit`` refuses one number for all.)

    Args:
        penalty: the values of one network -> (), such as ``l1``.
        names: as in ``regularise``.

    Raises:
        ValueError, TypeError: as ``trained``; a penalty that is not one number.

    Examples:
        >>> layers = [nn.Linear(1, 1, bias=False) for _ in range(2)]
        >>> for weight, layer in zip((1.0, -2.0), layers):
        ...     _ = layer.weight.data.fill_(weight)
        >>> per_member(ensemble.stack([nn.Sequential(layer) for layer in layers]), l1).tolist()
        [1.0, 2.0]
    """
    values = ensemble.by_member(model, trained(model, names))
    size = ensemble.size(model)
    sums = [penalty({name: v[k] for name, v in values.items()}) for k in range(size)]
    if any(not isinstance(x, Tensor) or x.dim() for x in sums):
        raise ValueError(f"penalty must give one number per network, got {sums[0]!r}")
    return torch.stack(sums) if isinstance(model, ensemble.Stack) else sums[0]


def selective(sparsity: float) -> Slope:
    r"""Selective weight decay (SWD): pull the weights that a cut would remove now, for ``penalise``.

    .. math:: R(w) = \tfrac12 \sum_{i \in T(w)} w_i^2, \qquad
              \frac{\partial R}{\partial w_i} = w_i \text{ if } i \in T(w), \text{ else } 0

    T(w) are the ``round(sparsity * n)`` smallest of the n values of a network, ties included. It is
    found anew in every step. As the strength rises (``rising``), these weights go to zero, and the
    cut at the end changes almost nothing. (In the authors' code the strength is μ·a, where μ is
    the weight decay and a rises from a_min to a_max; the threshold found among the weights then
    also decays the batch norms, which were not counted.)

    With ``names=bn_scales(model)`` the same slope ranks and pulls channels.

    A gradient step is stable while the learning rate times the strength is below 2(1 + m), for SGD
    with momentum m. ``prox_selective`` has no such limit.

    Source: Tessier et al. 2022, "Rethinking Weight Decay for Efficient Neural Network Pruning".

    Raises:
        ValueError: a sparsity outside [0, 1].
        TypeError: a sparsity that is no number.

    Examples:
        >>> selective(0.5)({"weight": torch.tensor([3.0, -0.1, 0.2, 4.0])})
        {'weight': tensor([ 0.0000, -0.1000,  0.2000,  0.0000])}
    """
    sparsity = check_sparsity("sparsity", sparsity)

    def slope(values: Mapping[str, Tensor]) -> Values:
        keep = largest(values, sparsity)
        return {name: v.masked_fill(keep[name], 0) for name, v in values.items()}

    return slope


def prox_selective(model: nn.Module, sparsity: float) -> Prox:
    r"""Selective weight decay as a map for ``regularise``, stable at any strength.

    .. math:: v_i / (1 + t) \text{ if } i \in T(v), \text{ else } v_i

    T is that of ``selective``; each member of a stack has its own.

    Args:
        model: the network or stack that trains; it only says how many networks there are.

    Raises:
        ValueError, TypeError: as ``selective``; the map itself as ``prox_l1``.

    Examples:
        >>> prox_selective(nn.Linear(2, 1), 0.5)({"weight": torch.tensor([[3.0, -1.0]])}, 1.0)
        {'weight': tensor([[ 3.0000, -0.5000]])}
    """
    slope = selective(sparsity)

    def prox(values: Mapping[str, Tensor], t: float) -> Values:
        check_nonnegative("t", t)
        pulled = by_network(model, slope, values)  # the value itself where it is in T, else 0
        return {name: (v - pulled[name] * (t / (1 + t))).to(v.dtype) for name, v in values.items()}

    return prox


def rising(first: float, last: float, *, steps: int) -> Callable[[int], float]:
    r"""A strength that rises by the same factor in every step, from ``first`` to ``last``.

    .. math:: \lambda_t = \lambda_0 \, (\lambda_T / \lambda_0)^{t/T}

    Source: Tessier et al. 2022, for selective weight decay, with T the steps of the training.

    Raises:
        ValueError: ``first`` that is not positive, ``last`` that is lower or not finite, ``steps``
            that is no positive integer.
        TypeError: ``first`` or ``last`` that is no number.

    Examples:
        >>> strength = rising(0.1, 10.0, steps=2)
        >>> [strength(step) for step in (0, 1, 2, 3)]
        [0.1, 1.0, 10.0, 10.0]
    """
    check_positive("first", first)
    check_positive("last", last)
    check_counts(steps=steps)
    if last < first:
        raise ValueError(f"last must be at least first, {first!r}, got {last!r}")
    return lambda step: last if step >= steps else first * (last / first) ** (step / steps)


def penalise(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    slope: Slope,
    *,
    strength: Strength,
    names: Iterable[str] | None = None,
) -> torch.utils.hooks.RemovableHandle:
    r"""Train with the penalty λR from now on: add λ ∂R/∂w to the gradients before every step.

    .. math:: g \leftarrow g + \lambda \, \partial R / \partial w

    This is the penalty in the loss, without a loss of its own: the slope of ``l2`` gives weight
    decay. The optimizer treats it like any gradient, and no weight becomes exactly zero.

    Args:
        optimizer: any that steps once per gradient, such as SGD, Adam or AdamW.
        slope: the values of one network -> slopes of the same names and shapes. In a stack it sees
            one member after another, so it may rank all weights of a network.
        strength: λ >= 0, or a function of the number of steps done since this call, such as
            ``rising``.
        names: as in ``regularise``. Parameters without a gradient stay as they are.

    Returns:
        A handle; ``handle.remove()`` ends the penalty.

    Raises:
        TypeError: an optimizer that takes several gradients per step (LBFGS) or sparse ones; a
            strength that is no number.
        ValueError: a strength that is negative or not finite; a slope of other names or shapes; a
            name that ``model`` does not have or that is frozen, or that ``optimizer`` does not train.

    Examples:
        >>> layer = nn.Linear(1, 1)
        >>> _ = layer.weight.data.fill_(2.0)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
        >>> handle = penalise(optimizer, layer, dict, strength=1.0)  # ∂R/∂w = w: weight decay
        >>> layer(torch.zeros(1, 1)).sum().backward()  # the gradient of the weight is 0
        >>> optimizer.step()
        >>> layer.weight.item()
        1.0
    """
    parameters = trained(model, names)
    _strength(strength, 0)
    with torch.no_grad():
        check_values("slope", by_network(model, slope, parameters), parameters)
    done = itertools.count()

    def slopes() -> Values:
        found, factor = by_network(model, slope, parameters), _strength(strength, next(done))
        return {name: at_least_float32(x) * factor for name, x in found.items()}

    return add_to_gradients(optimizer, parameters, slopes)


def regularise(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    prox: Prox,
    *,
    strength: Strength,
    names: Iterable[str] | None = None,
) -> torch.utils.hooks.RemovableHandle:
    """Train with the penalty λR from now on: after every step, w ← prox_{tR}(w).

    With learning rate η and momentum m the threshold is t = λη/(1 − m). Momentum turns a constant
    gradient g into the step ηg/(1 − m), and the penalty has to grow by the same factor. Otherwise
    its strength would only be (1 − m)λ. The learning rate is that of the step just done, so a
    schedule is followed.

    Args:
        optimizer: ``torch.optim.SGD``. Adam scales the step of every weight differently, and these
            maps do not fit such steps: all weights or none would become zero.
        prox: ``prox_l1``, ``prox_root``, ``prox_l2``, ``prox_selective(model, …)``, or
            ``prox_group_lasso`` with its groups bound.
        strength: λ >= 0, or a function of the number of steps done since this call.
        names: the parameters to penalise. By default these are the weights of linear and
            convolution layers that are not frozen.

    Returns:
        A handle; ``handle.remove()`` ends the penalty.

    Raises:
        TypeError: another optimizer, a strength that is no number.
        ValueError: a strength that is negative or not finite, a name that ``model`` does not have
            or that is frozen, parameters that are not all in one group of ``optimizer``.

    Examples:
        >>> layer = nn.Linear(1, 1)
        >>> _ = layer.weight.data.fill_(0.1)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
        >>> handle = regularise(optimizer, layer, prox_l1, strength=0.5)
        >>> layer(torch.zeros(1, 1)).sum().backward()  # the gradient of the weight is 0
        >>> optimizer.step()
        >>> layer.weight.item()
        0.0
    """
    if not isinstance(optimizer, torch.optim.SGD):
        raise TypeError(f"optimizer must be torch.optim.SGD, got {type(optimizer).__name__}")
    _strength(strength, 0)
    parameters = trained(model, names)
    group = _group_of(optimizer, parameters)
    done = itertools.count()

    @torch.no_grad()
    def shrink(*_: object) -> None:
        if step_skipped(optimizer):
            return
        pace = (1 - group["dampening"]) / (1 - group["momentum"]) if group["momentum"] else 1
        t = _strength(strength, next(done)) * group["lr"] * pace
        for name, value in prox(parameters, t).items():
            parameters[name].copy_(value)

    return optimizer.register_step_post_hook(shrink)


def add_to_gradients(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    slopes: Callable[[], Mapping[str, Tensor]],
) -> torch.utils.hooks.RemovableHandle:
    """Before every step, add ``slopes()`` to the gradients of ``parameters`` that have one.

    A step that a GradScaler skips is left out. Where it leaves the gradients scaled, the slopes are
    scaled too.

    Raises:
        TypeError: an optimizer that takes several gradients per step (LBFGS) or sparse ones.
        ValueError: a parameter that the optimizer does not train.
    """
    check_dense(optimizer)
    check_trains("names", optimizer, parameters)

    def add(_: object, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        args, kwargs = run_closure(args, kwargs)
        if not step_skipped(optimizer):
            scale: Any = getattr(optimizer, "grad_scale", None)
            with torch.no_grad():
                for name, slope in slopes().items():
                    gradient = parameters[name].grad
                    if gradient is not None:
                        gradient.add_(slope if scale is None else slope * scale)
        return args, kwargs

    return optimizer.register_step_pre_hook(add)


def by_network(
    model: nn.Module,
    function: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    values: Mapping[str, Tensor],
) -> Values:
    """``function(values)``, computed for each member of a stack by itself.

    Args:
        model: the network or stack; it only says how many networks there are.
        values: name -> tensors of the network, or (K, …) of the stack.

    Examples:
        >>> largest = lambda values: {name: v.amax() for name, v in values.items()}
        >>> by_network(nn.Linear(2, 1), largest, {"weight": torch.tensor([[1.0, 2.0]])})
        {'weight': tensor(2.)}
    """
    rows = ensemble.by_member(model, values)
    found = [function({n: v[k] for n, v in rows.items()}) for k in range(ensemble.size(model))]
    return ensemble.joined(model, found)


def check_values(argument: str, found: object, values: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the function ``argument`` has returned tensors like ``values``."""
    want = {name: tuple(v.shape) for name, v in values.items()}
    got = found
    if isinstance(found, Mapping):
        got = {n: tuple(v.shape) if isinstance(v, Tensor) else v for n, v in found.items()}
    if got != want:
        raise ValueError(f"{argument} must return one tensor per name, {want}, got {got}")


def largest(values: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """True at all but the ``round(sparsity * n)`` smallest of a network's n values, by magnitude.

    Of equal ones the first stay.

    Examples:
        >>> largest({"weight": torch.tensor([3.0, -1.0, 2.0, 0.5])}, 0.5)
        {'weight': tensor([ True, False,  True, False])}
    """
    n = sum(v.numel() for v in values.values())
    return keep_top_over({name: v.abs() for name, v in values.items()}, n - round(sparsity * n))


def _strength(strength: Strength, step: int) -> float:
    """λ in this step."""
    if not callable(strength):
        check_nonnegative("strength", strength)
        return strength
    value = strength(step)
    check_nonnegative(f"strength at step {step}", value)
    return value


def trained(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, nn.Parameter]:
    """The parameters that a penalty acts on: those named, or all weights that are not frozen.

    Raises:
        ValueError: as ``layers.weights``; a name that ``model`` does not have or that is frozen; no
            parameter left.
        TypeError: one string instead of several names.

    Examples:
        >>> list(trained(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))))
        ['0.weight', '2.weight']
    """
    everything = dict(model.named_parameters())
    if names is None:
        weights = layers.weights(ensemble.template(model))
        names = [name for name in weights if everything[name].requires_grad]
    elif isinstance(names, str):
        raise TypeError(f"names must be several names, a list, got the string {names!r}")
    found = {}
    for name in names:
        if name not in everything:
            raise ValueError(
                f"names has {name!r}, which model does not have; it has {', '.join(everything)}"
            )
        if not everything[name].requires_grad:
            raise ValueError(f"names has {name!r}, which is frozen (requires_grad is False)")
        found[name] = everything[name]
    if not found:
        raise ValueError("names must hold at least one parameter that trains in model, got none")
    return found


def _group_of(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict:
    for group in optimizer.param_groups:
        trained = {id(p) for p in group["params"]}
        if all(id(p) in trained for p in parameters.values()):
            return group
    raise ValueError(f"optimizer must train {', '.join(parameters)} in one group of parameters")


def _numbered(model: nn.Module, units: Callable[[nn.Module, int, int], Tensor]) -> Groups:
    """Group numbers for every weight. No number occurs in two layers, or in two members of a stack.

    Args:
        units: (layer, outputs, inputs that each output reads) -> (out, in) numbers from 0 on.
    """
    found, first = {}, 0
    one = ensemble.template(model)
    modules = layers.weighted(one, plain=True)
    for name, weight in layers.weights(one).items():
        layer = modules[name.removesuffix("weight").removesuffix(".")]
        shape = layers.outputs_first(layer, weight).shape  # (out, in, …)
        index = units(layer, *shape[:2])
        wide = (first + index).view(*shape[:2], *[1] * (len(shape) - 2)).expand(shape)
        found[name] = layers.outputs_first(layer, wide).contiguous().to(weight.device)
        first += int(index.max()) + 1
    size = ensemble.size(model)
    members = [{name: index + k * first for name, index in found.items()} for k in range(size)]
    return ensemble.joined(model, members)


def _grouped(
    values: Mapping[str, Tensor], groups: Groups, by_size: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The group numbers in one row, the weights in one row, and the factor of every group."""
    for name, index in groups.items():
        if name not in values or index.shape != values[name].shape:
            have = {n: tuple(v.shape) for n, v in values.items()}
            raise ValueError(
                f"groups[{name!r}] of shape {tuple(index.shape)} must fit values, {have}"
            )
        layers.check_dtype(f"groups[{name!r}]", index, torch.int64)
    if not groups:
        raise ValueError("groups must hold at least one parameter, got none")
    flat = torch.cat([at_least_float32(values[name]).flatten() for name in groups])
    index = torch.cat([index.flatten() for index in groups.values()]).to(flat.device)
    inside = index >= 0
    index, flat = index[inside], flat[inside]
    size = torch.bincount(index).to(flat.dtype)
    return index, flat, size.sqrt() if by_size else torch.ones_like(size)


def _norms(index: Tensor, flat: Tensor, groups: int) -> Tensor:
    """‖w_g‖₂ of every group; a number that does not occur has norm 0."""
    return flat.new_zeros(groups).index_add(0, index, flat.square()).sqrt()
