r"""Penalties that make weights small or zero while a network trains, each with its proximal map.

Training minimises :math:`L(w) + \lambda R(w)`. Where R has a kink, at zero, gradient steps only
hover about it; the proximal step lands on it:

.. math:: \operatorname{prox}_{tR}(v) = \arg\min_x \; t R(x) + \tfrac12 \lVert x - v \rVert_2^2

Source: Parikh & Boyd 2014, "Proximal Algorithms", sections 1.1 and 6.5 (section numbers not
checked against their text; the maps are checked against numerical minimisation in the tests).

``regularise`` applies a map after every optimizer step, as ``masks.hold`` applies masks. Values are
plain dictionaries, parameter name -> tensor. Half precision is computed in float32; maps return what
they were given, in type too.

The maps treat every weight or group by itself, and so every member of a stack. A penalty adds up all
values it is given: to add it to the losses of a stack, take it of each member apart.
"""

from collections.abc import Callable, Iterable, Mapping
from numbers import Real

import torch
from torch import Tensor, nn

from course_lib import ensemble, layers
from course_lib.layers import at_least_float32
from course_lib.pruning.masks import step_skipped

Values = dict[str, Tensor]
Groups = dict[str, Tensor]  # name -> group of each weight, int64 of its shape; −1: in no group
Prox = Callable[[Mapping[str, Tensor], float], Values]  # (v, t) -> prox_{tR}(v)


def l1(values: Mapping[str, Tensor]) -> Tensor:
    r"""R(w) = Σ\|w_i\|. Pulls every weight to zero with the same force, and leaves it there."""
    return sum(at_least_float32(v).abs().sum() for v in values.values())


def prox_l1(values: Mapping[str, Tensor], t: float) -> Values:
    r"""Soft threshold, :math:`\operatorname{sign}(v_i)\,\max(|v_i| - t,\, 0)`."""
    _check_strength("t", t)
    return {
        name: (v.sign() * (at_least_float32(v).abs() - t).clamp(min=0)).to(v.dtype)
        for name, v in values.items()
    }


def l2(values: Mapping[str, Tensor]) -> Tensor:
    """R(w) = ½ Σ w_i²: with strength λ the same as weight decay λ. Pulls in proportion to the
    weight, so that none becomes zero by it; pruning by magnitude has to follow."""
    return sum(at_least_float32(v).square().sum() for v in values.values()) / 2


def prox_l2(values: Mapping[str, Tensor], t: float) -> Values:
    r"""Shrinkage, :math:`v_i / (1 + t)`."""
    _check_strength("t", t)
    return {name: (at_least_float32(v) / (1 + t)).to(v.dtype) for name, v in values.items()}


def group_lasso(values: Mapping[str, Tensor], groups: Groups, *, by_size: bool = True) -> Tensor:
    r"""Group lasso over disjoint groups g of :math:`p_g` weights each: whole groups become zero.

    .. math:: R(w) = \sum_g \sqrt{p_g} \, \lVert w_g \rVert_2

    Not squared: that is what makes it a kink at zero. Groups of one weight are the lasso (``l1``).

    Source: Yuan & Lin 2006, with the factor :math:`\sqrt{p_g}`; Wen et al. 2016 (SSL) use groups of
    filters, channels and layers without it (``by_size=False``). Both formulas are quoted from the
    literature on them; of Wen et al. the abstract could be read, which names the groups.

    Args:
        values: name -> weights. Names that ``groups`` leaves out are not penalised.
        groups: name -> group numbers, as ``rows`` and ``columns`` make them. A number may occur in
            several parameters, for units whose weights lie in more than one.
    """
    index, flat, factor = _grouped(values, groups, by_size)
    return (factor * _norms(index, flat, len(factor))).sum()


def prox_group_lasso(
    values: Mapping[str, Tensor], t: float, groups: Groups, *, by_size: bool = True
) -> Values:
    r"""Block soft threshold, :math:`\max(1 - t \sqrt{p_g} / \lVert v_g \rVert_2,\, 0)\, v_g`.

    Bind the groups with ``functools.partial(prox_group_lasso, groups=...)`` to use it in
    ``regularise``.
    """
    _check_strength("t", t)
    index, flat, factor = _grouped(values, groups, by_size)
    norms = _norms(index, flat, len(factor))
    scale = (1 - t * factor / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(min=0)
    scale = torch.cat([scale, scale.new_ones(1)])  # group −1 is the last entry: left as it is
    return {
        name: (v * scale[groups[name].to(v.device)]).to(v.dtype) if name in groups else v
        for name, v in values.items()
    }


def rows(model: nn.Module) -> Groups:
    """One group for every output unit: a row of a linear weight, a filter of a convolution. The
    units of a tied weight are those of the first layer; each member of a stack has its own.

    Raises:
        ValueError: as ``layers.weights``.
    """

    def outputs(layer: nn.Module, n_out: int, n_in: int) -> Tensor:
        return torch.arange(n_out)[:, None].expand(n_out, n_in)

    return _numbered(model, outputs)


def columns(model: nn.Module) -> Groups:
    """One group for every input unit: a column of a linear weight, an input channel of a
    convolution. Otherwise as ``rows``."""

    def inputs(layer: nn.Module, n_out: int, n_in: int) -> Tensor:
        groups = getattr(
            layer, "groups", 1
        )  # the outputs of one group read n_in inputs of their own
        block = torch.arange(n_out) // (n_out // groups)
        return block[:, None] * n_in + torch.arange(n_in)

    return _numbered(model, inputs)


def bn_scales(model: nn.Module) -> list[str]:
    r"""Names of the batch norms' scales γ, for the penalty of network slimming.

    .. math:: L = \sum_{(x, y)} l(f(x, W), y) + \lambda \sum_{\gamma \in \Gamma} |\gamma|

    Source: Liu et al. 2017, equation 1 with g(s) = \|s\|, as quoted by others (the paper itself was
    not at hand). The authors' code adds λ sign(γ) to the gradient; use ``regularise(optimizer,
    model, prox_l1, strength=λ, names=bn_scales(model))`` for the same objective with exact zeros.

    Raises:
        ValueError: ``model`` has no batch norm with a scale.
    """
    found = [
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    ]
    if not found:
        raise ValueError(f"model must have a batch norm, got {type(model).__name__} without one")
    return found


def regularise(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    prox: Prox,
    *,
    strength: float,
    names: Iterable[str] | None = None,
) -> torch.utils.hooks.RemovableHandle:
    r"""Train with the penalty λR from now on: after every step, w ← prox_{tR}(w).

    With learning rate η and momentum m the step's size is t = λη/(1 − m): momentum makes of a
    lasting gradient g the step ηg/(1 − m), and the penalty has to keep pace, or it would act with
    (1 − m)λ only. The rate is that of the step just done, so schedules are followed.

    Args:
        optimizer: ``torch.optim.SGD``. Adam scales every weight's step differently, and the maps
            here are no longer those of its steps: all weights or none become zero.
        prox: ``prox_l1``, ``prox_l2``, or ``prox_group_lasso`` with its groups bound.
        strength: λ >= 0.
        names: which parameters; default the weights of linear and convolution layers that are not
            frozen. Biases and other layers are left alone.

    Returns:
        A handle; ``handle.remove()`` ends the penalty.

    Raises:
        TypeError: another optimizer, a strength that is no number.
        ValueError: a strength that is negative or not finite, a name that ``model`` does not have or
            that is frozen, parameters that are not all in one group of ``optimizer``.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        raise TypeError(f"optimizer must be torch.optim.SGD, got {type(optimizer).__name__}")
    _check_strength("strength", strength)
    parameters = _named(model, names)
    group = _group_of(optimizer, parameters)

    @torch.no_grad()
    def shrink(*_: object) -> None:
        if step_skipped(optimizer):
            return
        pace = (1 - group["dampening"]) / (1 - group["momentum"]) if group["momentum"] else 1
        for name, value in prox(parameters, strength * group["lr"] * pace).items():
            parameters[name].copy_(value)

    return optimizer.register_step_post_hook(shrink)


def _named(model: nn.Module, names: Iterable[str] | None) -> dict[str, nn.Parameter]:
    """The parameters to penalise."""
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
        raise ValueError("names must hold at least one parameter that trains, got none")
    return found


def _group_of(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict:
    for group in optimizer.param_groups:
        trained = {id(p) for p in group["params"]}
        if all(id(p) in trained for p in parameters.values()):
            return group
    raise ValueError(f"optimizer must train {', '.join(parameters)} in one group of parameters")


def _numbered(model: nn.Module, units: Callable[[nn.Module, int, int], Tensor]) -> Groups:
    """Group numbers for every weight; no number occurs in two layers, or in two members of a stack.
    ``units``: layer, outputs, inputs that each of them reads -> (out, in) numbers from 0 on."""
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
    """Group numbers and weights as one row each, and the factor of every group."""
    for name, index in groups.items():
        if name not in values or index.shape != values[name].shape:
            have = {n: tuple(v.shape) for n, v in values.items()}
            raise ValueError(
                f"groups[{name!r}] of shape {tuple(index.shape)} must fit values, {have}"
            )
        if index.dtype != torch.int64:
            raise TypeError(f"groups[{name!r}] must be int64 numbers, got {index.dtype}")
    if not groups:
        raise ValueError("groups must hold at least one parameter, got none")
    flat = torch.cat([at_least_float32(values[name]).flatten() for name in groups])
    index = torch.cat([index.flatten() for index in groups.values()]).to(flat.device)
    inside = index >= 0
    index, flat = index[inside], flat[inside]
    size = torch.bincount(index).to(flat.dtype)
    return index, flat, size.sqrt() if by_size else torch.ones_like(size)


def _norms(index: Tensor, flat: Tensor, groups: int) -> Tensor:
    """‖w_g‖₂ of every group; numbers that do not occur get 0."""
    return flat.new_zeros(groups).index_add(0, index, flat.square()).sqrt()


def _check_strength(argument: str, value: float | Tensor) -> None:
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"{argument} must be a number, got {value!r}")
    if not 0 <= number < float("inf"):
        raise ValueError(f"{argument} must be at least 0 and finite, got {value!r}")
