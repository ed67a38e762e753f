"""Many networks as one module: trained together, pruned one by one.

A stack is an ``nn.Module`` whose parameters carry the names they have in one network and one more
dimension in front, ``(K, …)``; masks with that dimension (``masks.stack``) apply to it as they do to
one network. All members see the same minibatches, so differences between them are paired.

``members`` and ``template`` answer for a single network too, so that no caller has to ask which of
the two it holds.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Identity)


def stack(models: Sequence[nn.Module]) -> "Stack":
    """K networks of one architecture as one module, to be trained together; copies, so that the
    networks themselves stay as they are. ``unstack`` gives them back.

    Raises:
        ValueError: no models, models that differ in names or shapes, with buffers (batch norm) or
            with forward hooks. Parametrisations stay; all members use those of the first network.
    """
    models = list(models)
    if not models:
        raise ValueError("models must hold at least one network, got none")
    shapes = [{name: p.shape for name, p in m.named_parameters()} for m in models]
    for k, other in enumerate(shapes):
        if other != shapes[0]:
            raise ValueError(f"models[{k}] must have the parameters of models[0], got {other}")
    if any(True for _ in models[0].buffers()):
        raise ValueError("models must have no buffers (batch norm): train them one after another")
    if any(m._forward_hooks or m._forward_pre_hooks for net in models for m in net.modules()):
        raise ValueError("models must have no forward hooks: train them one after another")
    return Stack(models)


def members(model: nn.Module) -> list[nn.Module]:
    """The networks of a stack, each with its own copy of the weights; a single network by itself."""
    return unstack(model) if isinstance(model, Stack) else [model]


def template(model: nn.Module) -> nn.Module:
    """A network to ask for its layers: that of a stack's members, or the single network itself."""
    return model.template[0] if isinstance(model, Stack) else model


def size(model: nn.Module) -> int:
    """How many networks: K of a stack, 1 of a single network."""
    return len(model) if isinstance(model, Stack) else 1


def by_member(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with the members in front, name -> (K, *shape); of a single network (1, …).
    Views, not copies."""
    stacked = isinstance(model, Stack)
    return {name: x if stacked else x.unsqueeze(0) for name, x in tensors.items()}


def joined(model: nn.Module, of_members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One dictionary per member as one for the model: the way back from ``by_member``."""
    if not isinstance(model, Stack):
        return dict(of_members[0])
    return {name: torch.stack([m[name] for m in of_members]) for name in of_members[0]}


def all_modules(model: nn.Module) -> Iterator[nn.Module]:
    """``model.modules()``, and those of the network that a stack keeps as its template."""
    yield from model.modules()
    if isinstance(model, Stack):
        yield from template(model).modules()


def unstack(stacked: "Stack") -> list[nn.Module]:
    """The K networks of a stack, each an ordinary module with its own copy of the weights."""
    parameters = dict(stacked.named_parameters())
    members = []
    for k in range(len(stacked)):
        member = copy.deepcopy(stacked.template[0])
        with torch.no_grad():
            for name, p in member.named_parameters():
                p.data = parameters[name][k].detach().clone()
        members.append(member)
    return members


class Stack(nn.Module):
    """K networks as one; made by ``stack``. (batch, …) -> (K, batch, classes)."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.size = len(models)
        self.template = (copy.deepcopy(models[0]),)  # in a tuple: not a submodule, not trained
        for name, *_ in models[0].named_parameters():
            *path, leaf = name.split(".")
            owner = self
            for part in path:  # an empty module a level, so that names stay those of one network
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            members = torch.stack([m.get_parameter(name).detach() for m in models])
            owner.register_parameter(leaf, nn.Parameter(members))
        layers = list(models[0].children()) if isinstance(models[0], nn.Sequential) else []
        self.is_mlp = bool(layers) and all(
            isinstance(layer, (nn.Flatten, nn.Linear, *ELEMENTWISE)) for layer in layers
        )

    def __len__(self) -> int:
        return self.size

    def forward(self, x: Tensor) -> Tensor:
        template, parameters = self.template[0], dict(self.named_parameters())
        if not self.is_mlp:  # any other architecture: right, but hardly faster than a loop

            def one(p: dict[str, Tensor]) -> Tensor:
                return torch.func.functional_call(template, p, (x,))

            return torch.func.vmap(one)(parameters)
        h = x.flatten(1).t().expand(self.size, -1, -1)  # (K, in, B): columns, as in a = W x + b
        for name, layer in template.named_children():
            if isinstance(layer, nn.Linear):
                w, b = (_stacked(parameters, name, layer, leaf) for leaf in ("weight", "bias"))
                h = w @ h if b is None else torch.baddbmm(b.unsqueeze(2), w, h)  # (K, out, B)
            elif not isinstance(layer, nn.Flatten):
                h = layer(h)
        return h.transpose(1, 2)  # (K, B, out)


def _stacked(
    parameters: dict[str, Tensor], name: str, layer: nn.Module, leaf: str
) -> Tensor | None:
    """A layer's weight or bias for all K members: (K, …), parametrisations applied to each."""
    if not parametrize.is_parametrized(layer, leaf):
        return parameters.get(f"{name}.{leaf}")
    value = parameters[f"{name}.parametrizations.{leaf}.original"]
    for step in layer.parametrizations[leaf]:
        value = torch.func.vmap(step)(value)
    return value


def check_separate(model: nn.Module, losses: Tensor) -> None:
    """Raise ValueError if the loss of one member of a stack moves another: a penalty summed over all
    members, added to each of their losses, would act K times."""
    if size(model) == 1 or not losses.requires_grad:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(losses[0], parameters, retain_graph=True, allow_unused=True)
    if any(slope is not None and slope[1:].count_nonzero() for slope in slopes):
        raise ValueError(
            "loss must keep the members of a stack apart, one value each, but that of member 0 "
            "depends on the weights of others: sum a penalty over each member by itself"
        )
