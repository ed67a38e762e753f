"""Masks: apply them once, hold them while an optimizer trains, count them.

A mask is a bool tensor of its parameter's shape, True = keep; ``Masks`` maps parameter names to
masks. A model under a mask stays an ordinary model: its weights are zero, nothing is wrapped.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Masks = dict[str, Tensor]


def apply(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set every weight whose mask is False to zero, W ← M ⊙ W, once.

    Raises:
        ValueError: a name that is no parameter of ``model``, or a mask of another shape.
        TypeError: a mask that is not bool. The model is then as it was.
    """
    parameters = dict(model.named_parameters())
    check(masks, parameters)
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)


def hold(
    optimizer: torch.optim.Optimizer, model: nn.Module, masks: Mapping[str, Tensor]
) -> torch.utils.hooks.RemovableHandle:
    """Keep masked weights at exactly zero from now on: project after every optimizer step.

    Momentum, weight decay and Adam's moments may push a masked weight off zero within a step; the
    projection puts it back before anybody sees it. Gradients stay dense.

    Under an optimizer that treats every weight by itself (SGD, Adam, AdamW, RMSprop, …) the weights
    that stay move as they would with the mask multiplied into the forward pass, to the last bit.
    Where a step mixes weights, the gradients of masked ones have a say in it: LBFGS, Adafactor and
    Muon, or gradients clipped by the norm over all of them (``clip_grad_norm_``). The zeros hold
    there too, but the rest takes another path.

    A parametrised weight is computed anew from what trains, and that is what a mask can name:
    ``<layer>.parametrizations.weight.original``. A tied weight is named once.

    Returns:
        A handle; ``handle.remove()`` lets the weights go.

    Raises:
        ValueError, TypeError: as ``apply``; also a masked parameter the optimizer does not train.
    """
    parameters = dict(model.named_parameters())
    check(masks, parameters)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name in masks:
        if id(parameters[name]) not in trained:
            raise ValueError(f"masks names {name!r}, which optimizer does not train")
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
    """Whether a GradScaler found an infinite gradient and tells a fused optimizer to do nothing, in a
    hook of its step. (Of any other optimizer it does not call the step.)"""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def stack(members: Sequence[Mapping[str, Tensor]]) -> Masks:
    """Masks of K networks, name -> (*shape), as those of a ``ensemble.stack``, name -> (K, *shape)."""
    if not members:
        raise ValueError("members must hold at least one network's masks, got none")
    for k, member in enumerate(members):
        if member.keys() != members[0].keys():
            raise ValueError(
                f"members[{k}] must name the same parameters as members[0], "
                f"{sorted(members[0])}, got {sorted(member)}"
            )
    return {name: torch.stack([m[name] for m in members]) for name in members[0]}


def unstack(stacked: Mapping[str, Tensor]) -> list[Masks]:
    """The way back from ``stack``: the masks of each of the K networks, views of the same memory.

    Raises:
        ValueError: no masks, or such that do not all have K members in front.
    """
    sizes = {len(mask) if mask.dim() else 0 for mask in stacked.values()}
    if len(sizes) != 1 or sizes == {0}:
        shapes = {name: tuple(mask.shape) for name, mask in stacked.items()}
        raise ValueError(f"stacked must hold masks (K, …) of the same K networks, got {shapes}")
    return [{name: mask[k] for name, mask in stacked.items()} for k in range(sizes.pop())]


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """The fraction removed, over all masks together (not the mean of the layers' fractions)."""
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
    """Every mask is bool and belongs to one of ``values``, in name and shape, or an error in the
    words of the caller's arguments."""
    for name, mask in masks.items():
        if name not in values:
            raise ValueError(
                f"{argument} names {name!r}, which is not among those of {owner}: {', '.join(values)}"
            )
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"{argument}[{name!r}] must be a torch.bool tensor, got {found}")
        if is_lazy(values[name]):
            raise ValueError(
                f"{argument} names {name!r}, which has no shape yet: run the {owner} on a batch first"
            )
        if mask.shape != values[name].shape:
            raise ValueError(
                f"{argument}[{name!r}] must have shape {tuple(values[name].shape)}, "
                f"got {tuple(mask.shape)}"
            )
