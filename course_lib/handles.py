"""One handle for several hooks."""

from contextlib import ExitStack

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
