"""Many networks as one module: trained together, pruned one by one.

A stack holds K networks of one architecture, its members. It is an ``nn.Module`` whose parameters
have the names they have in one network, and one more dimension in front: ``(K, …)``. Masks with
that dimension (``masks.stack``) apply to a stack as other masks do to one network. All members see
the same minibatches, so differences between them are paired. Each member draws its own noise
(dropout).

``members``, ``template`` and ``size`` also take a single network, so a caller need not ask which of
the two it has.
"""

import copy
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_lib.layers import called_with, check_module, uncompiled

ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Identity, nn.Dropout)
HOOKS = {"forward": "_forward_hooks", "forward pre": "_forward_pre_hooks"}
HOOKS |= {"backward": "_backward_hooks", "backward pre": "_backward_pre_hooks"}
BARE = frozenset(vars(nn.Module()))  # what every module has: parameters, modules, its mode


def stack(models: Sequence[nn.Module]) -> "Stack":
    """Make one module of K networks of one architecture, to train them together.

    The stack holds copies, so the networks themselves stay as they are; ``unstack`` takes it apart
    again. Parametrised, frozen and tied parameters stay parametrised, frozen and tied. The stack
    starts in the mode (training or evaluation) of the first network.

    Raises:
        ValueError: no models; models that differ in more than the values of their parameters; models
            with buffers (batch norm), with hooks, or compiled ones.
        TypeError: something that is not a network, or is a stack already.

    Examples:
        >>> from course_lib import models
        >>> five = stack([models.mlp((4, 3, 2), seed=seed) for seed in range(5)])
        >>> five.get_parameter("fc1.weight").shape
        torch.Size([5, 3, 4])
        >>> five(torch.zeros(8, 4)).shape
        torch.Size([5, 8, 2])
    """
    models = list(models)
    if not models:
        raise ValueError("models must hold at least one network, got none")
    for k, model in enumerate(models):
        _check_one(f"models[{k}]", model)
        if k > 0:
            _check_alike(f"models[{k}]", model, models[0])
    return Stack(models)


def alike(model: nn.Module, other: nn.Module) -> bool:
    """Whether the two can be members of one stack.

    They can if both can be stacked and they differ only in the values of their parameters.
    """
    try:
        _check_one("model", model)
        _check_one("other", other)
        _check_alike("other", other, model)
    except (ValueError, TypeError):
        return False
    return True


def members(model: nn.Module) -> list[nn.Module]:
    """The networks of a stack, each with its own copy of the weights.

    For a single network, a list of this network itself.
    """
    return unstack(model) if isinstance(model, Stack) else [model]


def template(model: nn.Module) -> nn.Module:
    """A network whose layers are those of every member of a stack; a single network is its own.

    Read its architecture only: its weights are not those of any member.
    """
    return model._template[0] if isinstance(model, Stack) else model


def size(model: nn.Module) -> int:
    """The number of networks: K for a stack, 1 for a single network."""
    return len(model) if isinstance(model, Stack) else 1


def by_member(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with the members in front: name -> (K, …), and (1, …) for a single network.

    These are views, not copies. ``joined`` is the way back.
    """
    stacked = isinstance(model, Stack)
    return {name: x if stacked else x.unsqueeze(0) for name, x in tensors.items()}


def joined(model: nn.Module, of_members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One dictionary for the model from one per member: the way back from ``by_member``."""
    if not isinstance(model, Stack):
        return dict(of_members[0])
    return {name: torch.stack([m[name] for m in of_members]) for name in of_members[0]}


def check_members(members: Sequence[Mapping[str, Tensor]]) -> None:
    """Raise ValueError unless there is a member, and all have tensors of the same names and shapes."""
    if not members:
        raise ValueError("members must hold at least one network's tensors, got none")
    shapes = [{name: tuple(x.shape) for name, x in member.items()} for member in members]
    for k, other in enumerate(shapes):
        if other != shapes[0]:
            raise ValueError(
                f"members[{k}] must have the names and shapes of members[0], {shapes[0]}, got {other}"
            )


def all_modules(model: nn.Module) -> Iterator[nn.Module]:
    """``model.modules()``; for a stack, also the modules of its template."""
    yield from model.modules()
    if isinstance(model, Stack):
        yield from template(model).modules()


def unstack(stacked: "Stack") -> list[nn.Module]:
    """The K networks of a stack, each an ordinary module with its own copy of the weights.

    Raises:
        TypeError: something that is not a stack.

    Examples:
        >>> from course_lib import models
        >>> nets = [models.mlp((4, 3, 2), seed=seed) for seed in range(5)]
        >>> torch.equal(unstack(stack(nets))[3].fc1.weight, nets[3].fc1.weight)
        True
    """
    if not isinstance(stacked, Stack):
        raise TypeError(f"stacked must be made by stack, got {type(stacked).__name__}")
    parameters = dict(stacked.named_parameters())
    members = []
    for k in range(len(stacked)):
        member = copy.deepcopy(template(stacked))
        for name, p in member.named_parameters():
            p.data = parameters[name][k].detach().clone()
            p.requires_grad_(parameters[name].requires_grad)
        members.append(member)
    return members


class Stack(nn.Module):
    """K networks as one module, made by ``stack``: (batch, …) -> (K, batch, classes)."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self._size = len(models)
        self._template = (copy.deepcopy(models[0]),)  # in a tuple: not a submodule, not trained
        self._names = _names(models[0])
        self._is_mlp, self._plain = _is_mlp(models[0]), _plain(models[0])
        for name, p in models[0].named_parameters():
            *path, leaf = name.split(".")
            owner = self
            for part in path:  # an empty module per level, so that names stay those of one network
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            values = torch.stack([m.get_parameter(name).detach() for m in models])
            owner.register_parameter(leaf, nn.Parameter(values, p.requires_grad))
        for name, module in self.named_modules():
            module.training = models[0].get_submodule(name).training

    def __len__(self) -> int:
        return self._size

    def train(self, mode: bool = True) -> "Stack":
        self._template[0].train(mode)
        return super().train(mode)

    def _apply(self, fn, recurse: bool = True) -> "Stack":  # behind .to(), .double(), .cuda()
        self._template[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, x: Tensor) -> Tensor:
        parameters = dict(self.named_parameters())
        if not self._is_mlp or not _is_flat(self, x):
            # Any other architecture, one member after another: as fast as torch's vmap, and right
            # whatever a network does (draws noise, branches on a value).
            rows = {name: p.unbind() for name, p in parameters.items()}
            each = [{name: row[k] for name, row in rows.items()} for k in range(len(self))]
            one = functools.partial(called_with, self._template[0])
            return torch.stack([one(p, x.clone()) for p in each])
        h = x.flatten(1).t()  # (in, B), one for all: columns, as in a = W x + b
        for name, layer in _layers(self._template[0]):
            if isinstance(layer, nn.Linear):
                w, b = (self._stacked(parameters, name, layer, leaf) for leaf in ("weight", "bias"))
                h = _affine(w, b, h)  # (K, out, B)
            elif isinstance(layer, nn.Dropout) and h.dim() == 2:
                h = layer(h.expand(len(self), -1, -1).clone())  # each member its own draws
            elif not isinstance(layer, nn.Flatten):
                h = layer(h)
        return h.transpose(1, 2)  # (K, B, out)

    def _stacked(self, parameters, name: str, layer: nn.Module, leaf: str) -> Any:
        """A layer's weight or bias for all K members: (K, …), parametrisations applied to each.
        None: a layer without bias."""
        if not parametrize.is_parametrized(layer, leaf):
            return parameters.get(self._names.get(f"{name}.{leaf}"))
        place = f"parametrizations.{leaf}"
        steps = layer.get_submodule(place)
        own = {
            n: parameters[self._names[f"{name}.{place}.{n}"]] for n, _ in steps.named_parameters()
        }

        def one(p: dict[str, Tensor]) -> Tensor:
            return called_with(steps, p)

        try:
            return torch.func.vmap(one, randomness="different")(own)
        except RuntimeError:  # what cannot be batched, such as a branch on a value
            return torch.stack([one({n: p[k] for n, p in own.items()}) for k in range(len(self))])


def _affine(w: Tensor, b: Tensor | None, h: Tensor) -> Tensor:
    """W h + b of each member: (K, out, in), (K, out), inputs (K, in, B), or (in, B) alike for all,
    which is one product for all members -> (K, out, B)."""
    if h.dim() == 3:
        return w @ h if b is None else torch.baddbmm(b.unsqueeze(2), w, h)
    rows = w.flatten(0, 1)  # (K out, in)
    out = rows @ h if b is None else torch.addmm(b.flatten().unsqueeze(1), rows, h)
    return out.view(*w.shape[:2], h.shape[1])


def backward(model: nn.Module, x: Tensor, y: Tensor) -> Tensor | None:
    """Write the gradients of the cross-entropy of a stack of plain MLPs, faster than autograd.

    The gradients are autograd's up to rounding; they are written to ``.grad`` of every parameter.

    Returns:
        The members' mean losses on the minibatch, (K,). None, with nothing changed, if the model is
        not a stack of ``Linear`` and ``ReLU`` layers that all train: use autograd then.
    """
    layers = _linear_layers(model, x) if isinstance(model, Stack) and y.dtype == torch.long else []
    if not layers:
        return None
    with torch.no_grad():
        h, inputs = x.flatten(1).t(), []  # (in, B), then (K, in, B)
        for w, b in layers:
            inputs.append(h)
            h = _affine(w, b, h)
            if len(inputs) < len(layers):
                h.relu_()
        logp = torch.log_softmax(h, 1)  # (K, classes, B)
        label = y.expand(len(h), 1, -1)
        losses = -logp.gather(1, label).mean((1, 2))
        slope = logp.exp_()  # of the loss at the outputs: (softmax − 1 at the label) / B
        slope.scatter_add_(1, label, slope.new_full(label.shape, -1)).div_(len(y))
        for (w, b), h in zip(reversed(layers), reversed(inputs), strict=True):
            if b is not None:
                b.grad = slope.sum(2)
            if h.dim() == 2:
                w.grad = (slope.flatten(0, 1) @ h.t()).view_as(w)
            else:
                w.grad = slope @ h.transpose(1, 2)
                slope = torch.ops.aten.threshold_backward(w.transpose(1, 2) @ slope, h, 0)
    return losses


def _linear_layers(stacked: "Stack", x: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """Weights and biases of a stack of Linear, ReLU, Linear, …, Linear for which ``backward`` does
    all that autograd would do; an empty list for any other stack."""
    if not (
        stacked._plain
        and _is_flat(stacked, x)
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled(x.device.type)
        and not any(getattr(stacked, hooks) for hooks in HOOKS.values())
    ):
        return []
    parameters = dict(stacked.named_parameters())
    if any(not p.requires_grad or p.dtype != x.dtype or _has_hooks(p) for p in parameters.values()):
        return []
    return [(parameters[f"{n}.weight"], parameters.get(f"{n}.bias")) for n in stacked._plain]


def check_separate(model: nn.Module, losses: Tensor) -> None:
    """Raise ValueError if the loss of one member depends on the weights of another.

    A penalty that is summed over all members and added to each of their losses would act K times.

    Args:
        losses: one loss per member, (K,), not yet differentiated.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if size(model) == 1 or not losses.requires_grad or not parameters:
        return
    for k, loss in enumerate(losses):
        slopes = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for slope in slopes:
            if slope is None:
                continue
            slope = slope.nan_to_num(nan=0.0)  # 0 times the infinite weight of another member
            if slope.count_nonzero() > slope[k].count_nonzero():
                raise ValueError(
                    "loss must keep the members of a stack apart, one value each, but that of "
                    f"member {k} depends on the weights of others: sum a penalty over each member "
                    "by itself"
                )


# ---- what stacks


def _names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter -> its name in ``named_parameters()``. Tied weights have the first
    of their names there."""
    first: dict[int, str] = {}
    return {
        n: first.setdefault(id(p), n) for n, p in model.named_parameters(remove_duplicate=False)
    }


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """``named_children()``, but a layer that stands twice is named twice."""
    return [(name, layer) for name, layer in model._modules.items() if layer is not None]


def _is_mlp(model: nn.Module) -> bool:
    """Whether all members can be computed at once, layer by layer. Exact types: a subclass may
    compute anything."""
    layers = [layer for _, layer in _layers(model)] if type(model) is nn.Sequential else []
    kinds = [parametrize.type_before_parametrizations(layer) for layer in layers]
    return (
        nn.Linear in kinds
        and all(kind in (nn.Flatten, nn.Linear, *ELEMENTWISE) for kind in kinds)
        and not any("forward" in vars(module) for module in (model, *layers))  # replaced by hand
        and all(
            (flat.start_dim, flat.end_dim) == (1, -1)
            for flat in layers
            if isinstance(flat, nn.Flatten)
        )
    )


def _plain(model: nn.Module) -> list[str]:
    """The names of an MLP's linear layers if only ReLUs stand between them and nothing is
    parametrised or tied, else an empty list."""
    layers = [(name, m) for name, m in _layers(model) if not isinstance(m, nn.Flatten)]
    linear = [name for name, m in layers if type(m) is nn.Linear]
    ties = len(_names(model)) > len(list(model.parameters()))
    kinds = [type(m) for _, m in layers]
    between = [nn.Linear if i % 2 == 0 else nn.ReLU for i in range(2 * len(linear) - 1)]
    return linear if _is_mlp(model) and kinds == between and not ties else []


def _is_flat(stacked: "Stack", x: Tensor) -> bool:
    """Whether every example is, or first becomes, one vector: a Linear layer also takes (…, in)."""
    flattens = isinstance(next(template(stacked).children()), nn.Flatten)
    return x.dim() == 2 or (x.dim() > 2 and flattens)


def _has_hooks(parameter: Tensor) -> bool:
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def _check_one(argument: str, model: nn.Module) -> None:
    """Raise unless it is a network that can be a member: a stack computes it from its parameters."""
    check_module(model, argument)
    for name, p in model.named_parameters():
        if nn.parameter.is_lazy(p):
            raise ValueError(f"{argument} must have run once: {name!r} has no shape yet")
        if _has_hooks(p):
            raise ValueError(f"models must have no hooks, but {argument} has one at {name!r}")
    for name, module in model.named_modules():
        at = f" at {name!r}" if name else ""
        if isinstance(module, Stack):
            raise TypeError(f"models must be single networks, but {argument} has a stack{at}")
        if uncompiled(module) is not module or module._compiled_call_impl is not None:
            raise ValueError(f"models must not be compiled, but {argument} has such a module{at}")
        for kind, hooks in HOOKS.items():
            if getattr(module, hooks):
                raise ValueError(
                    f"models must have no {kind} hooks (torch's pruning, the old weight_norm: make "
                    f"them permanent first), but {argument} has one{at}: train them one by one"
                )
    for name, _ in model.named_buffers():
        raise ValueError(
            f"models must have no buffers (batch norm), but {argument} has {name!r}: "
            "train them one by one"
        )


def _check_alike(argument: str, model: nn.Module, first: nn.Module) -> None:
    """Raise ValueError, by name, unless the two differ in nothing but the parameters' values."""
    got, want = (dict(m.named_parameters(remove_duplicate=False)) for m in (model, first))
    for what in ("shape", "dtype", "device", "requires_grad"):
        has, must = ({n: getattr(p, what) for n, p in all_.items()} for all_ in (got, want))
        for name in [n for n in {**must, **has} if must.get(n) != has.get(n)]:
            raise ValueError(
                f"{argument} must have the parameters of models[0]: {name!r} with {what} "
                f"{must.get(name)}, got {has.get(name)}"
            )
    if _names(model) != _names(first):
        raise ValueError(f"{argument} must tie the same weights as models[0], got {_names(model)}")
    got, want = (dict(m.named_modules(remove_duplicate=False)) for m in (model, first))
    for name in {**want, **got}:
        if name not in got or name not in want or not _same_layer(got[name], want[name]):
            raise ValueError(f"{argument} must be built like models[0], but {name!r} is not")


def _same_layer(a: nn.Module, b: nn.Module) -> bool:
    kinds = [parametrize.type_before_parametrizations(m) for m in (a, b)]
    own = [{k: v for k, v in vars(m).items() if k not in BARE} for m in (a, b)]
    return kinds[0] is kinds[1] and _same(own[0], own[1])


def _same(a: Any, b: Any) -> bool:
    """Whether two settings of a layer mean the same; functions by their code and what they hold."""
    if a is b or type(a) is not type(b):
        return a is b
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.device == b.device and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    left, right = _parts(a), _parts(b)
    if left is None or right is None:
        return bool(a == b)
    return len(left) == len(right) and all(map(_same, left, right))


def _parts(value: Any) -> Sequence | None:
    """What a function or a sequence consists of; None for anything else."""
    if isinstance(value, types.FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        held = [thing for thing in held if thing is not value]  # a recursive one holds itself
        return [value.__code__, value.__defaults__, value.__kwdefaults__, *held]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    return value if isinstance(value, list | tuple) else None
