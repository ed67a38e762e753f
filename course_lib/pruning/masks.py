"""Masks: apply them once, hold them while an optimizer trains, count them.

A mask is a bool tensor of its parameter's shape, True = keep; ``Masks`` maps parameter names to
masks. A model under a mask stays an ordinary model: its weights are zero, nothing is wrapped.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

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
    projection puts it back before anybody sees it. The weights that stay move as they would with
    the mask multiplied into the forward pass, to the last bit, and gradients stay dense.

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


def combine(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Masks:
    """Keep what both keep. A name that only one of them has is taken from that one."""
    for name in first.keys() & second.keys():
        if first[name].shape != second[name].shape:
            raise ValueError(
                f"second[{name!r}] must have shape {tuple(first[name].shape)} as in first, "
                f"got {tuple(second[name].shape)}"
            )
    both = {name: first[name] & second[name] for name in first.keys() & second.keys()}
    return {**first, **second, **both}


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """The fraction removed, over all masks together (not the mean of the layers' fractions)."""
    total = sum(mask.numel() for mask in masks.values())
    if total == 0:
        raise ValueError(f"masks must hold at least one weight, got {dict(masks)!r}")
    return 1 - sum(int(mask.count_nonzero()) for mask in masks.values()) / total


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
        if mask.shape != values[name].shape:
            raise ValueError(
                f"{argument}[{name!r}] must have shape {tuple(values[name].shape)}, "
                f"got {tuple(mask.shape)}"
            )
