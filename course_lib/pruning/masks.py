"""Masks: apply them once, hold them while an optimizer trains, count them.

A mask is a bool tensor of its parameter's shape, and True means keep. ``Masks`` maps parameter
names to masks. A model under a mask stays an ordinary model: the removed weights are zero, and
nothing is wrapped.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from course_lib import ensemble
from course_lib.handles import check_trains
from course_lib.layers import check_dtype, check_module

Masks = dict[str, Tensor]


def apply(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set every weight whose mask is False to zero, W ← M ⊙ W, once.

    Raises:
        ValueError: a name that is no parameter of ``model``, or a mask of another shape.
        TypeError: a mask that is not bool. In both cases the model does not change.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> apply(layer, {"weight": torch.tensor([[True, False], [False, True]])})
        >>> (layer.weight == 0).tolist()
        [[False, True], [True, False]]
    """
    check_module(model)
    parameters = dict(model.named_parameters())
    check(masks, parameters)
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)


def hold(
    optimizer: torch.optim.Optimizer, model: nn.Module, masks: Mapping[str, Tensor]
) -> torch.utils.hooks.RemovableHandle:
    """Keep masked weights at exactly zero from now on: set them to zero after every optimizer step.

    Its gradient, momentum and Adam's moments may move a masked weight away from zero within a step.
    The projection W ← M ⊙ W moves it back before anything reads it. Gradients stay dense.

    For an optimizer that treats every weight by itself (SGD, Adam, AdamW, RMSprop, …), the other
    weights move, to the last bit, as if the mask were multiplied into the forward pass. This is
    different where a step combines weights: in LBFGS, Adafactor and Muon, and with gradients that
    ``clip_grad_norm_`` clips by a norm over all weights. There the masked weights are still zero,
    but their gradients influence how the others move.

    The weight of a parametrised layer is computed from the tensor that trains. A mask names that
    tensor: ``<layer>.parametrizations.weight.original``. A tied weight is named once.

    Returns:
        A handle; after ``handle.remove()`` the weights may move again.

    Raises:
        ValueError, TypeError: as ``apply``.
        ValueError: a masked parameter that the optimizer does not train.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> handle = hold(optimizer, layer, {"weight": torch.tensor([[True, False]])})
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> (layer.weight == 0).tolist()
        [[False, True]]
    """
    check_module(model)
    parameters = dict(model.named_parameters())
    check(masks, parameters)
    check_trains("masks", optimizer, {name: parameters[name] for name in masks})
    # The projection multiplies: one pass over memory, where masked_fill_ needs the mask inverted.
    # (A weight that has become infinite or NaN stays visible as NaN instead of being hidden.)
    keep = [
        (parameters[n], m.to(parameters[n].device, parameters[n].dtype)) for n, m in masks.items()
    ]
    apply(model, masks)

    @torch.no_grad()
    def project(*_: object) -> None:
        for parameter, mask in keep:
            parameter.mul_(mask)

    return optimizer.register_step_post_hook(project)


def step_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this step does nothing because a GradScaler found an infinite gradient.

    For the hooks of an optimizer's step: a fused optimizer is called all the same, and then finds
    it out by itself.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def stack(members: Sequence[Mapping[str, Tensor]]) -> Masks:
    r"""Masks of K networks as the masks of their ``ensemble.stack``: name -> (K, \*shape).

    Raises:
        ValueError: no masks, or members that differ in names or shapes.
    """
    ensemble.check_members(members)
    return {name: torch.stack([m[name] for m in members]) for name in members[0]}


def unstack(stacked: Mapping[str, Tensor]) -> list[Masks]:
    """The reverse of ``stack``: the masks of each of the K networks, which share its memory.

    Raises:
        ValueError: no masks, or masks with different numbers of members.
    """
    sizes = {len(mask) if mask.dim() else 0 for mask in stacked.values()}
    if len(sizes) != 1 or sizes == {0}:
        shapes = {name: tuple(mask.shape) for name, mask in stacked.items()}
        raise ValueError(f"stacked must hold masks (K, …) of the same K networks, got {shapes}")
    return [{name: mask[k] for name, mask in stacked.items()} for k in range(sizes.pop())]


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """The fraction removed over all masks together. (Not the mean of the layers' fractions.)

    Raises:
        ValueError: no weights.

    Examples:
        >>> sparsity({"a": torch.tensor([True, False]), "b": torch.ones(8, dtype=torch.bool)})
        0.1
    """
    total = sum(mask.numel() for mask in masks.values())
    if total == 0:
        raise ValueError(f"masks must hold at least one weight, got {dict(masks)!r}")
    kept = sum(int(mask.count_nonzero()) for mask in masks.values())
    return (total - kept) / total  # one division: 1 of 10 removed is 0.1, where 1 - 9 / 10 is not


def check(
    masks: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    argument: str = "masks",
    owner: str = "model",
) -> None:
    """Check that every mask is bool and fits one of ``values`` in name and shape.

    Args:
        argument, owner: the caller's words for ``masks`` and ``values``, for the error message.

    Raises:
        ValueError: a name that ``values`` does not have, or another shape.
        TypeError: a mask that is not bool.
    """
    for name, mask in masks.items():
        if name not in values:
            raise ValueError(
                f"{argument} names {name!r}, which is not among those of {owner}: {', '.join(values)}"
            )
        check_dtype(f"{argument}[{name!r}]", mask, torch.bool)
        if is_lazy(values[name]):
            raise ValueError(
                f"{argument} names {name!r}, which has no shape yet: run the {owner} on a batch first"
            )
        if mask.shape != values[name].shape:
            raise ValueError(
                f"{argument}[{name!r}] must have shape {tuple(values[name].shape)}, "
                f"got {tuple(mask.shape)}"
            )
