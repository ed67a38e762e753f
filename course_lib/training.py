"""The one training loop, and many networks in it at once.

``fit`` and ``evaluate`` take an ordinary network or a ``stack`` of K networks of one architecture.
A stack is an ``nn.Module`` whose parameters carry the names they have in one network and one more
dimension in front, ``(K, …)``; masks with that dimension (``masks.stack``) apply to it as they do
to one network. All members see the same minibatches, so differences between them are paired.
"""

import copy
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from tqdm import tqdm

from course_lib.data import Split

ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Identity)


@dataclass
class History:
    """What ``fit`` saw, one entry an epoch; entries have shape () for a network, (K,) for a stack."""

    loss: list[Tensor] = field(default_factory=list)  # mean training loss of the epoch
    accuracy: list[Tensor] = field(default_factory=list)  # % on ``test`` after it, if given
    seconds: float = 0.0
    # With ``valid``: its loss after every so many steps, and the weights when it was lowest.
    measured: list[int] = field(default_factory=list)  # the steps
    valid_loss: list[Tensor] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)  # each member of a stack at its own step

    @property
    def early_stop(self) -> Tensor:
        """The measured step with the lowest validation loss, () or (K,); the first of equals.

        Raises:
            ValueError: nothing was measured.
        """
        if not self.measured:
            raise ValueError("history must hold validation losses: give valid to fit, got none")
        losses = torch.stack(self.valid_loss).nan_to_num(nan=torch.inf)  # (measured, K)
        return torch.tensor(self.measured)[losses.argmin(0).cpu()]


def sgd(
    model: nn.Module, *, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0
) -> torch.optim.SGD:
    """The lessons' optimizer: SGD with momentum, in torch's fused form (fewer passes over memory)."""
    return torch.optim.SGD(
        model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True
    )


def linear_decay(t: float) -> float:
    """Learning-rate factor 1 − t: from the full rate at t = 0 to nothing at t = 1."""
    return 1 - t


def fit(
    model: nn.Module,
    train: Split,
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Callable[[float], float] = linear_decay,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    batch_size: int = 100,
    seed: int = 0,
    test: Split | None = None,
    valid: Split | None = None,
    every: int = 100,
    first: int = 0,
    last: int | None = None,
    checkpoint: str | Path | None = None,
) -> History:
    """Train a network, or a stack of them, in place by minibatch cross-entropy or another loss.

    Args:
        model: (batch, …) -> (batch, classes) logits, or a stack: -> (K, batch, classes).
        train: images and labels on the model's device.
        epochs: passes over ``train``.
        optimizer: default ``sgd(model)``. Masks are held by hooking it (``masks.hold``).
        schedule: learning-rate factor at the fraction t of the training that is done, 0 <= t < 1.
        loss: (logits, batch) -> the minibatch's mean loss, () for a network and (K,) for a stack,
            where ``batch`` holds the positions of its images in ``train``, (B,). Whatever belongs to
            an image can be looked up by it: soft targets, weights. Default: ``cross_entropy`` with
            ``train.y``.
        batch_size: images a step; a smaller last batch is used, not dropped.
        seed: the order of the minibatches. The same for all members of a stack.
        test: if given, accuracy on it after every epoch goes into the history.
        valid: if given, the cross-entropy on it after every ``every`` steps goes into the history,
            and the weights at the lowest; neither touches the training.
        first, last: train only the steps first <= step < last of the ``epochs`` epochs, each with
            the minibatch and the learning rate that it has there; by default all.
        checkpoint: a file, rewritten after every epoch. If it exists, training goes on from there
            and ends bit for bit where an uninterrupted run would have, given the same ``loss``,
            ``schedule`` and kind of optimizer; those it cannot compare.

    Returns:
        ``History`` (all epochs, those before an interruption included).

    Raises:
        ValueError: a count below 1, an empty or ill-shaped ``train``, steps outside the training, a
            ``loss`` of another shape, or a ``checkpoint`` written with other settings.
    """
    _check_counts(epochs=epochs, batch_size=batch_size, every=every)
    n = _check_split("train", train)
    steps = -(-n // batch_size)
    last = epochs * steps if last is None else last
    if not 0 <= first < last <= epochs * steps:
        raise ValueError(
            f"first and last must be 0 <= first < last <= {epochs * steps}, the steps of the "
            f"training, got {first!r} and {last!r}"
        )
    optimizer = sgd(model) if optimizer is None else optimizer
    base_rates = [group["lr"] for group in optimizer.param_groups]
    order = torch.Generator().manual_seed(seed)
    settings = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "n": n}
    settings |= {"steps": [first, last], "every": every if valid is not None else None}
    history, done = History(), first // steps
    if checkpoint is not None and Path(checkpoint).exists():
        history = _resume(checkpoint, model, optimizer, settings)
        done += len(history.loss)

    model.train()
    # Shown only where it lasts: a bar for a one-second job would be noise.
    ahead = max(first, done * steps)
    bar = tqdm(total=last, initial=ahead, desc="fit", delay=1, leave=False)
    with bar:
        for epoch in range(-(-last // steps)):
            shuffled = torch.randperm(n, generator=order).to(train.y.device)
            if epoch < done:
                continue  # drawn all the same, so that the order goes on as it would have
            start, total, seen = time.perf_counter(), 0.0, 0
            for step in range(max(0, first - epoch * steps), min(steps, last - epoch * steps)):
                factor = schedule((epoch * steps + step) / (epochs * steps))
                for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                    group["lr"] = rate * factor
                batch = shuffled[step * batch_size : (step + 1) * batch_size]
                logits = model(train.x[batch])
                losses = (
                    cross_entropy(logits, train.y[batch]) if loss is None else loss(logits, batch)
                )
                if losses.shape != logits.shape[:-2]:
                    raise ValueError(
                        f"loss must return shape {tuple(logits.shape[:-2])}, one mean a network, "
                        f"got {tuple(losses.shape)}"
                    )
                optimizer.zero_grad()
                losses.sum().backward()  # the members' gradients do not mix
                optimizer.step()
                total, seen = total + losses.detach() * len(batch), seen + len(batch)
                if valid is not None and (epoch * steps + step + 1) % every == 0:
                    _watch(history, model, valid, epoch * steps + step + 1)
                bar.update()
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate
            history.loss.append(total / seen)
            if test is not None:
                history.accuracy.append(evaluate(model, test))
            history.seconds += time.perf_counter() - start
            if checkpoint is not None:
                _save(checkpoint, model, optimizer, settings, history)
    return history


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each network: (B, C) logits -> (), (K, B, C) -> (K,)."""
    if logits.dim() == 2:
        return F.cross_entropy(logits, y)
    k, b, _ = logits.shape
    return F.cross_entropy(logits.flatten(0, 1), y.repeat(k), reduction="none").view(k, b).mean(1)


@torch.no_grad()
def evaluate(model: nn.Module, test: Split, *, batch_size: int = 1000) -> Tensor:
    """Accuracy in percent: shape () for a network, (K,) for a stack. The model's mode (training or
    evaluation) is put back as it was."""
    _check_counts(batch_size=batch_size)
    n = _check_split("test", test)
    with evaluating(model):
        right = sum(
            (model(x).argmax(-1) == y).sum(-1)
            for x, y in zip(test.x.split(batch_size), test.y.split(batch_size), strict=True)
        )
    return 100 * right / n


@torch.no_grad()
def mean_loss(model: nn.Module, split: Split, *, batch_size: int = 1000) -> Tensor:
    """Mean cross-entropy over ``split``: shape () for a network, (K,) for a stack. The model's mode
    is put back as it was."""
    _check_counts(batch_size=batch_size)
    n = _check_split("split", split)
    with evaluating(model):
        total = sum(
            cross_entropy(model(x), y) * len(y)
            for x, y in zip(split.x.split(batch_size), split.y.split(batch_size), strict=True)
        )
    return total / n


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; afterwards every module is in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


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


def _watch(history: History, model: nn.Module, valid: Split, step: int) -> None:
    """Note the validation loss, and the weights of those that have never had a lower one."""
    now = mean_loss(model, valid)  # () or (K,)
    better = now < torch.stack([*history.valid_loss, torch.full_like(now, torch.inf)]).amin(0)
    history.measured.append(step)
    history.valid_loss.append(now)
    for name, value in model.state_dict().items():
        # One truth value a member, or one for the network, spread over the entries of its weights.
        wins = better.view(-1, *[1] * (value.dim() - 1)) if better.dim() else better
        history.best[name] = torch.where(wins, value, history.best.get(name, value))


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


def _check_counts(**counts: int) -> None:
    for argument, n in counts.items():
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"{argument} must be a whole number from 1 on, got {n!r}")


def _check_split(argument: str, split: Split) -> int:
    x, y = split
    if len(x) != len(y) or len(y) == 0:
        raise ValueError(
            f"{argument} must hold as many images as labels, at least one, "
            f"got x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)}"
        )
    return len(y)


def _save(path, model, optimizer, settings, history) -> None:
    state = {
        "settings": settings,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": vars(history),
    }
    unfinished = Path(f"{path}.part")
    torch.save(state, unfinished)
    os.replace(unfinished, path)  # a reader sees the old file or the new one, never half of one


def _resume(path, model, optimizer, settings) -> History:
    state = torch.load(path, weights_only=True)
    if state["settings"] != settings:
        raise ValueError(
            f"checkpoint {str(path)!r} belongs to a run with {state['settings']}, expected {settings}"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return History(**state["history"])
