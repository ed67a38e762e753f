"""Hooks of optimizers: one handle for several, and what they need to know of a step."""

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle


class Handle(ExitStack):
    """Removes several hooks, the last one first: by ``remove()``, or at the end of a ``with`` block.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        >>> handle = Handle(optimizer.register_step_post_hook(lambda *_: print("a step")))
        >>> optimizer.step()
        a step
        >>> handle.remove()
        >>> optimizer.step()
    """

    def __init__(self, *hooks: RemovableHandle) -> None:
        super().__init__()
        for hook in hooks:
            self.callback(hook.remove)

    remove = ExitStack.close


def trained(optimizer: torch.optim.Optimizer) -> set[int]:
    """The ids of the parameters that the optimizer trains."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def check_trains(
    argument: str, optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> None:
    """Raise ValueError, by name, unless the optimizer trains all these parameters."""
    known = trained(optimizer)
    for name, parameter in parameters.items():
        if id(parameter) not in known:
            raise ValueError(f"{argument} names {name!r}, which optimizer does not train")


def check_dense(optimizer: torch.optim.Optimizer) -> None:
    """Raise TypeError if the optimizer takes several gradients per step (LBFGS) or sparse ones.

    What a hook adds to the gradients before a step would not be in the later ones.
    """
    if isinstance(optimizer, (torch.optim.LBFGS, torch.optim.SparseAdam)):
        raise TypeError(
            f"optimizer must step once per dense gradient, got {type(optimizer).__name__}"
        )


def run_closure(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """A step's arguments after its closure has run; the step does not run it again."""
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        return args, kwargs
    with torch.enable_grad():
        loss = closure()
    if len(args) > 1:
        return (args[0], lambda: loss, *args[2:]), kwargs
    return args, {**kwargs, "closure": lambda: loss}
