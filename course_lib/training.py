"""The one training loop: ``fit`` trains a network, or a stack of them (``ensemble.stack``), by a plan."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from course_lib import ensemble, files
from course_lib.data import Split
from course_lib.layers import check_finite

Schedule = Callable[[float], float]  # fraction of the training that is done -> learning-rate factor
Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, positions in the training set) -> () or (K,)


def linear_decay(t: float) -> float:
    """Learning-rate factor 1 − t: from the full rate at t = 0 to nothing at t = 1."""
    return 1 - t


def sgd(
    model: nn.Module, *, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0
) -> torch.optim.SGD:
    """The lessons' optimizer: SGD with momentum, in torch's fused form (fewer passes over memory)."""
    return torch.optim.SGD(
        model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train: all that ``fit`` has to know besides the network and the images.

    ``dataclasses.replace(plan, seed=1)`` is the same plan with another seed.
    """

    epochs: int  # passes over the training set
    schedule: Schedule = (
        linear_decay  # learning-rate factor at the fraction 0 <= t < 1 that is done
    )
    batch_size: int = 100  # images per step; a smaller last minibatch is used, not dropped
    # The minibatch's mean loss, () or (K,), from the logits and the positions of its images in the
    # training set, (B,): soft targets or weights are looked up by them. None: cross-entropy.
    loss: Loss | None = None
    # A function that makes the optimizer, or one that stands already, with its hooks (masks.hold).
    optimizer: torch.optim.Optimizer | Callable[[nn.Module], torch.optim.Optimizer] = sgd
    seed: int = 0  # of the minibatches' order, alike for all members of a stack, and of any noise
    first: int = 0  # train only the steps first <= step < last, each with the minibatch and the
    last: int | None = None  # rate that it has in the whole training; None: to the end
    start: Mapping[str, Tensor] | None = None  # a state_dict to begin from; None: as the model is
    valid: Split | None = None  # held-out images; their loss is measured after
    every: int = 100  # so many steps, and the weights at its lowest are kept in the history


@dataclass
class History:
    """What ``fit`` saw, per epoch; entries have shape () for a network, (K,) for a stack."""

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


def fit(
    model: nn.Module,
    train: Split,
    plan: Plan | None = None,
    *,
    test: Split | None = None,
    checkpoint: str | Path | None = None,
    **changes: object,
) -> History:
    """Train a network, or a stack of them, in place by minibatch cross-entropy or another loss.

    torch's global random numbers are left as they were: minibatches, dropout and noise follow from
    the plan's seed.

    Args:
        model: (batch, …) -> (batch, classes) logits, or a stack: -> (K, batch, classes).
        train: images and labels on the model's device.
        plan: how to train; its fields may also be given by name, ``fit(model, train, epochs=2)``.
        test: if given, accuracy on it after every epoch goes into the history.
        checkpoint: a file, rewritten after every epoch. If it exists, training goes on from there
            and ends bit for bit where an uninterrupted run would have, given the same ``loss`` and
            ``schedule``; those it cannot compare.

    Returns:
        ``History`` (all epochs, those before an interruption included).

    Raises:
        ValueError: a count below 1, images that are empty, not finite or do not fit the model, steps
            outside the training, a ``loss`` of another shape or one that mixes the members of a
            stack, a ``checkpoint`` that is damaged or of another run. The model is then as it was.
        TypeError: a name that is no field of ``Plan``.
    """
    plan = _planned(plan, changes)
    steps, last = _check_plan(model, train, plan)
    made = plan.optimizer
    optimizer = made if isinstance(made, torch.optim.Optimizer) else made(model)
    with _own_noise(model, plan.seed):
        history = _begin(model, train, plan, optimizer, checkpoint)
        done = plan.first // steps + len(history.loss)
        order = torch.Generator().manual_seed(plan.seed)
        model.train()
        # Shown only where it lasts: a bar for a one-second job would be noise.
        ahead = max(plan.first, done * steps)
        with tqdm(total=last, initial=ahead, desc="fit", delay=1, leave=False) as bar:
            for epoch in range(-(-last // steps)):
                shuffled = torch.randperm(len(train.y), generator=order).to(train.y.device)
                if epoch < done:
                    continue  # drawn all the same, so that the order goes on as it would have
                began = time.perf_counter()
                _epoch(model, train, plan, optimizer, (epoch, shuffled), (history, bar))
                if test is not None:
                    history.accuracy.append(evaluate(model, test))
                history.seconds += time.perf_counter() - began
                if checkpoint is not None:
                    _save(checkpoint, model, optimizer, _settings(train, plan, optimizer), history)
    return history


def _epoch(model, train, plan, optimizer, epoch_and_order, history_and_bar) -> None:
    """One pass, or the piece of it that the plan asks for."""
    (epoch, shuffled), (history, bar) = epoch_and_order, history_and_bar
    batches = shuffled.split(plan.batch_size)
    steps = len(batches)
    last = plan.epochs * steps if plan.last is None else plan.last
    total, seen = 0.0, 0
    with _rates_kept(optimizer) as set_rates:
        for step in range(max(0, plan.first - epoch * steps), min(steps, last - epoch * steps)):
            number, positions = epoch * steps + step, batches[step]
            set_rates(plan.schedule(number / (plan.epochs * steps)))
            losses = _step(model, train, plan.loss, optimizer, positions, number == plan.first)
            total, seen = total + losses * len(positions), seen + len(positions)
            if plan.valid is not None and (number + 1) % plan.every == 0:
                _watch(history, model, plan.valid, number + 1)
            bar.update()
    history.loss.append(total / seen)


def _step(model, train, loss, optimizer, positions, check) -> Tensor:
    """One optimizer step; the minibatch's mean losses, () or (K,), before it."""
    logits, y = model(train.x[positions]), train.y[positions]
    losses = cross_entropy(logits, y) if loss is None else loss(logits, positions)
    if losses.shape != logits.shape[:-2]:
        raise ValueError(
            f"loss must return shape {tuple(logits.shape[:-2])}, one mean per network, "
            f"got {tuple(losses.shape)}"
        )
    if check and loss is not None:
        ensemble.check_separate(model, losses)
    optimizer.zero_grad()
    losses.sum().backward()  # the members' gradients do not mix
    optimizer.step()
    return losses.detach()


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
    check_counts(batch_size=batch_size)
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
    check_counts(batch_size=batch_size)
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
    modes = [(module, module.training) for module in ensemble.all_modules(model)]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state of ``model`` that further training leaves alone."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def check_counts(**counts: int) -> None:
    """Raise ValueError, naming the argument, unless every count is a positive integer."""
    for argument, n in counts.items():
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"{argument} must be a positive integer, got {n!r}")


def _planned(plan: Plan | None, changes: dict[str, object]) -> Plan:
    known = [f.name for f in dataclasses.fields(Plan)]
    for name in changes:
        if name not in known:
            raise TypeError(f"{name!r} is no field of Plan, which has {', '.join(known)}")
    if plan is None and "epochs" not in changes:
        raise ValueError("plan must say how many epochs, got none: fit(model, train, epochs=…)")
    return Plan(**changes) if plan is None else dataclasses.replace(plan, **changes)


def _check_plan(model: nn.Module, train: Split, plan: Plan) -> tuple[int, int]:
    """Steps per epoch and the step to stop before; everything is checked before anything moves."""
    check_counts(epochs=plan.epochs, batch_size=plan.batch_size, every=plan.every)
    steps = -(-_check_split("train", train) // plan.batch_size)
    last = plan.epochs * steps if plan.last is None else plan.last
    if not 0 <= plan.first < last <= plan.epochs * steps:
        raise ValueError(
            f"first and last must be 0 <= first < last <= {plan.epochs * steps}, the steps of the "
            f"training, got {plan.first!r} and {plan.last!r}"
        )
    check_state("start", model, plan.start)
    try:
        with torch.no_grad(), evaluating(model):
            logits = model(train.x[:1])
    except RuntimeError as error:
        raise ValueError(
            f"train must fit the model, which cannot be run on x of shape {tuple(train.x.shape)}: "
            f"{error}"
        ) from error
    if plan.loss is None and int(train.y.max()) >= logits.shape[-1]:
        raise ValueError(
            f"train must have labels below {logits.shape[-1]}, the model's outputs, "
            f"got {int(train.y.max())}"
        )
    return steps, last


def check_state(argument: str, model: nn.Module, state: Mapping[str, Tensor] | None) -> None:
    """Raise ValueError unless ``state``, if any, has the names and shapes of the model's."""
    if state is None:
        return
    have = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in state.items()}
    if have != got:
        raise ValueError(f"{argument} must be a state_dict of model, {have}, got {got}")


def _check_split(argument: str, split: Split) -> int:
    x, y = split
    if len(x) != len(y) or len(y) == 0:
        raise ValueError(
            f"{argument} must hold as many images as labels, at least one, "
            f"got x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)}"
        )
    check_finite(f"{argument}.x", x)
    return len(y)


def _watch(history: History, model: nn.Module, valid: Split, step: int) -> None:
    """Note the validation loss, and the weights of those that have never had a lower one."""
    now = mean_loss(model, valid)  # () or (K,)
    better = now < torch.stack([*history.valid_loss, torch.full_like(now, torch.inf)]).amin(0)
    history.measured.append(step)
    history.valid_loss.append(now)
    for name, value in model.state_dict().items():
        # One truth value per member, or one for the network, spread over its weights.
        wins = better.view(-1, *[1] * (value.dim() - 1)) if better.dim() else better
        history.best[name] = torch.where(wins, value, history.best.get(name, value))


@contextmanager
def _rates_kept(optimizer: torch.optim.Optimizer) -> Iterator[Callable[[float], None]]:
    """Within the block rates can be scaled; afterwards, interrupted or not, they are as before."""
    base = [group["lr"] for group in optimizer.param_groups]

    def scale(factor: float) -> None:
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * factor

    try:
        yield scale
    finally:
        scale(1)


@contextmanager
def _own_noise(model: nn.Module, seed: int) -> Iterator[None]:
    """Random numbers of its own for dropout and noise; the caller's go on as if nothing had been."""
    device = _device(model)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


# ---- checkpoints


def _settings(train: Split, plan: Plan, optimizer: torch.optim.Optimizer) -> dict[str, object]:
    """What has to be the same for a run to be the same, as far as it can be compared."""
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    return {
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "n": len(train.y),
        "steps": [plan.first, plan.last],
        "every": plan.every if plan.valid is not None else None,
        "optimizer": [type(optimizer).__name__, groups],
    }


def _begin(model, train, plan, optimizer, checkpoint) -> History:
    """Where the training begins: at the checkpoint, at the plan's start, or at the model as it is."""
    settings, history = _settings(train, plan, optimizer), History()
    if checkpoint is not None and Path(checkpoint).exists():
        return _resume(checkpoint, model, optimizer, settings)
    if plan.start is not None:
        model.load_state_dict(plan.start)
    if checkpoint is not None:  # the start too: who stops in the first epoch begins there again
        _save(checkpoint, model, optimizer, settings, history)
    return history


def _save(path, model, optimizer, settings, history) -> None:
    device = _device(model)
    noise = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        noise["cuda"] = torch.cuda.get_rng_state(device)
    state = {
        "settings": settings,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": vars(history),
        "noise": noise,
    }
    files.save(path, state)


def _resume(path, model, optimizer, settings) -> History:
    """Compare, then load: a checkpoint of another run changes nothing."""
    device = _device(model)
    state = files.load("checkpoint", path, device)
    wanted = {"settings", "model", "optimizer", "history", "noise"}
    if not isinstance(state, dict) or state.keys() != wanted:
        raise ValueError(f"checkpoint {str(path)!r} must be a file of fit, got another kind")
    check_state(f"checkpoint {str(path)!r}", model, state["model"])
    if state["settings"] != settings:
        raise ValueError(
            f"checkpoint {str(path)!r} belongs to a run with {state['settings']}, expected {settings}"
        )
    sizes = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
    if sizes != [len(group["params"]) for group in optimizer.param_groups]:
        raise ValueError(f"checkpoint {str(path)!r} is of an optimizer with other parameter groups")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["noise"]["cpu"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["noise"]["cuda"].cpu(), device)
    return History(**state["history"])
