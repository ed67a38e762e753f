r"""Penalties that make weights small or zero during training, each with its proximal map.

Training minimises :math:`L(w) + \lambda R(w)`. The penalties here, except ``l2``, have a kink at
zero. A gradient step only moves back and forth around a kink; a proximal step reaches it:

.. math:: \operatorname{prox}_{tR}(v) = \arg\min_x \; t R(x) + \tfrac12 \lVert x - v \rVert_2^2

``regularise`` applies a proximal map after every optimizer step, just as ``masks.hold`` applies
masks.

Values are plain dictionaries, parameter name -> tensor. Half precision is computed in float32, and
a map returns the type that it was given. A map treats every weight or group by itself, so it also
works on the members of a stack. A penalty adds up all the values it is given. To add it to the
losses of a stack, compute it for each member separately.

Source: Parikh & Boyd 2014, "Proximal Algorithms", sections 1.1 and 6.5.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from course_lib import ensemble, layers
from course_lib.data import check_nonnegative
from course_lib.layers import at_least_float32
from course_lib.pruning.masks import step_skipped

Values = dict[str, Tensor]
Groups = dict[str, Tensor]  # name -> group of each weight, int64 of its shape; −1: in no group
Prox = Callable[[Mapping[str, Tensor], float], Values]  # (v, t) -> prox_{tR}(v)


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
    """Train with the penalty λR from now on: after every step, w ← prox_{tR}(w).

    With learning rate η and momentum m the threshold is t = λη/(1 − m). Momentum turns a constant
    gradient g into the step ηg/(1 − m), and the penalty has to grow by the same factor. Otherwise
    its strength would only be (1 − m)λ. The learning rate is that of the step just done, so a
    schedule is followed.

    Args:
        optimizer: ``torch.optim.SGD``. Adam scales the step of every weight differently, and these
            maps do not fit such steps: all weights or none would become zero.
        prox: ``prox_l1``, ``prox_l2``, or ``prox_group_lasso`` with its groups bound.
        strength: λ >= 0.
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
    check_nonnegative("strength", strength)
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
