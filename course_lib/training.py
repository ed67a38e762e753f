"""The training loop: ``fit`` trains a network, or a stack of them (``ensemble.stack``), by a plan."""

import dataclasses
import inspect
import itertools
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib import ensemble, files, seeds
from course_lib.data import Split, check_counts, check_nonnegative
from course_lib.handles import trained
from course_lib.layers import called_with, check_finite, check_made, fitting

Schedule = Callable[[float], float]  # fraction of the training that is done -> learning-rate factor
Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, positions in the training set) -> () or (K,)
Step = tuple[int, Tensor, int]  # number, positions in the training set, seed of its noise
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def linear_decay(t: float) -> float:
    """The learning-rate factor 1 − t: it falls from 1 at t = 0 to 0 at t = 1.

    Examples:
        >>> linear_decay(0.25)
        0.75
    """
    return 1 - t


def sgd(
    model: nn.Module, *, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0
) -> torch.optim.SGD:
    """The optimizer of the lessons: SGD with momentum, in torch's faster fused form.

    Raises:
        ValueError: ``model`` has no parameter that requires a gradient, or one without a shape yet.
    """
    _check_trainable(model)
    return torch.optim.SGD(
        model.parameters(),
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        fused=_packed(model),
    )


def adamw(
    model: nn.Module,
    *,
    lr: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.1,
) -> torch.optim.AdamW:
    """The optimizer of the language models: AdamW, in torch's faster fused form.

    Raises:
        ValueError: ``model`` has no parameter that requires a gradient, or one without a shape yet.
    """
    _check_trainable(model)
    return torch.optim.AdamW(
        model.parameters(), lr=lr, betas=betas, weight_decay=weight_decay, fused=_packed(model)
    )


def _packed(model: nn.Module) -> bool:
    """False if a weight has gaps in memory (a slice of another), which torch's fused optimizers read
    as if it had none."""
    return all(
        torch.empty_like(p, device="meta").stride() == p.stride() for p in model.parameters()
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """How to train: everything that ``fit`` needs besides the network and the images.

    Examples:
        >>> plan = Plan(epochs=2)
        >>> dataclasses.replace(plan, seed=1).seed  # the same plan with another seed
        1
    """

    #: Passes over the training set.
    epochs: int
    #: The learning-rate factor when the fraction t of the training is done, 0 <= t < 1.
    schedule: Schedule = linear_decay
    #: Images per step. A smaller last minibatch is used too.
    batch_size: int = 100
    #: A function of the logits and of the positions of the minibatch's images in the training set,
    #: (B,), with which it can look up soft targets. It returns the mean loss of the minibatch, () or
    #: (K,). None means cross-entropy.
    loss: Loss | None = None
    #: A function that makes the optimizer, or an optimizer, which may have hooks (``masks.hold``).
    optimizer: torch.optim.Optimizer | Callable[[nn.Module], torch.optim.Optimizer] = sgd
    #: Sets the order of the images, which all members of a stack share, and dropout and noise.
    seed: int = 0
    #: Train only the steps first <= step < last. Each has the minibatch, the learning rate and the
    #: noise that it has in the whole training.
    first: int = 0
    last: int | None = None  #: None means to the end.
    #: A state_dict to start from. None means the model as it is.
    start: Mapping[str, Tensor] | None = None
    #: Held-out images. The history gets the loss on them, and the weights where it was lowest.
    valid: Split | None = None
    every: int = 100  #: The loss on ``valid`` is measured after every so many steps.


@dataclass
class History:
    """What ``fit`` measured. Entries have shape () for a network and (K,) for a stack."""

    #: The mean training loss of each epoch.
    loss: list[Tensor] = field(default_factory=list)
    #: The accuracy on ``test`` in percent after each epoch, if ``test`` was given.
    accuracy: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0  #: of the whole training
    #: The steps after which the loss on ``valid`` was measured, if ``valid`` was given.
    measured: list[int] = field(default_factory=list)
    valid_loss: list[Tensor] = field(default_factory=list)  #: these losses
    #: The weights where the loss was lowest; each member of a stack has its own step.
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def early_stop(self) -> Tensor:
        """The measured step with the lowest validation loss, () or (K,), or the first of several.

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
    **changes: Any,
) -> History:
    """Train a network, or a stack of them, in place.

    The model trains in training mode. The plan's seed sets minibatches, dropout and noise. Torch's
    global generators, the modes of the model and the learning rates of the optimizer are afterwards
    as they were, also after an interruption.

    Args:
        model: a network, (batch, …) -> (batch, classes) logits, or a stack -> (K, batch, classes).
        train: images and labels on the model's device.
        plan: how to train. You may also give its fields by name: ``fit(model, train, epochs=2)``.
        test: images on which to measure the accuracy after every epoch.
        checkpoint: a file that is rewritten after every epoch. If it exists, training continues from
            there, and the result is exactly that of a run without interruption. ``fit`` cannot check
            that ``loss``, ``schedule`` and hooks are the same.

    Returns:
        The ``History`` of all epochs, also of those before an interruption.

    Raises:
        ValueError: a count below 1; images or labels that are empty, not finite or do not fit the
            model; steps outside the training; nothing to train; a ``loss`` of another shape or one
            that mixes the members of a stack; a ``checkpoint`` that is damaged or of another run.
            The model and the optimizer are then as they were (but after a ``loss`` that is refused,
            the model is at ``plan.start``).
        TypeError: a name that is not a field of ``Plan``, or a field of another type.

    Examples:
        >>> from course_lib import data, models
        >>> train, test = data.load("digits")
        >>> model = models.mlp((64, 32, 10))
        >>> history = fit(model, train, epochs=5)
        >>> len(history.loss), bool(evaluate(model, test) > 80)
        (5, True)
    """
    plan = _planned(plan, changes)
    with _own_noise(model), _mode(model, training=True):
        check_plan(model, train, plan, test=test)
        optimizer = make_optimizer(model, plan)
        run = {} if checkpoint is None else _run(model, train, plan, optimizer)
        history = _begin(model, plan, optimizer, checkpoint, run)
        per_epoch, last = _lengths(train, plan)
        begin = max(plan.first, (plan.first // per_epoch + len(history.loss)) * per_epoch)
        steps = _steps(train, plan, begin)
        # Shown only where it lasts: a bar for a one-second job would be noise.
        off = bool(os.environ.get("TQDM_DISABLE"))  # tqdm's bar for notebooks overlooks it
        with tqdm(steps, "fit", last, initial=begin, delay=1, leave=False, disable=off) as bar:
            for _, epoch in itertools.groupby(bar, key=lambda step: step[0] // per_epoch):
                began = time.perf_counter()
                _epoch(model, train, plan, optimizer, epoch, history)
                if test is not None:
                    history.accuracy.append(evaluate(model, test))
                history.seconds += time.perf_counter() - began
                if checkpoint is not None:
                    _save(checkpoint, model, optimizer, run, history)
    return history


def _steps(train: Split, plan: Plan, begin: int) -> Iterator[Step]:
    """The steps from ``begin`` on. Each depends only on the plan's seed and on its number, so that a
    training may stop and continue anywhere."""
    order, noise = seeds.generator(plan.seed), seeds.generator(plan.seed)
    per_epoch, last = _lengths(train, plan)
    for epoch in range(-(-last // per_epoch)):  # those before ``begin`` are drawn all the same
        shuffled = torch.randperm(len(train.y), generator=order).to(train.y.device)
        noises = torch.randint(2**62, (per_epoch,), generator=noise).tolist()
        batches = zip(itertools.count(epoch * per_epoch), shuffled.split(plan.batch_size), noises)
        yield from (step for step in batches if begin <= step[0] < last)


def _epoch(
    model: nn.Module,
    train: Split,
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    steps: Iterable[Step],
    history: History,
) -> None:
    """One pass over the images, or the part of it that the plan asks for."""
    total: Any = 0.0  # then a tensor
    seen = 0
    length = plan.epochs * _lengths(train, plan)[0]
    noise = _generators(model)
    with _rates_kept(optimizer) as scale_rates:
        for number, positions, seed in steps:
            scale_rates(plan.schedule(number / length))
            for generator in noise:
                generator.manual_seed(seed)
            losses = _step(model, train, plan.loss, optimizer, positions, number == plan.first)
            total, seen = total + losses * len(positions), seen + len(positions)
            if plan.valid is not None and (number + 1) % plan.every == 0:
                _watch(history, model, plan.valid, number + 1)
    history.loss.append(total / seen)


def _step(model, train, loss, optimizer, positions, check) -> Tensor:
    """One optimizer step. Returns the mean losses of the minibatch before it, () or (K,)."""
    x, y = train.x[positions], train.y[positions]
    optimizer.zero_grad()
    losses = ensemble.backward(model, x, y) if loss is None else None
    if losses is None:  # not a stack of plain MLPs, where all is done by now
        logits = model(x)
        losses = cross_entropy(logits, y) if loss is None else loss(logits, positions)
        if losses.shape != logits.shape[:-2]:
            raise ValueError(
                f"loss must return shape {tuple(logits.shape[:-2])}, one mean per network, "
                f"got {tuple(losses.shape)}"
            )
        if not losses.requires_grad:
            raise ValueError("loss must depend on a parameter of model that is not frozen")
        if check and loss is not None:
            ensemble.check_separate(model, losses)
        losses.sum().backward()  # the members' gradients do not mix
    optimizer.step()
    return losses.detach()


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each network: (B, C) logits -> (), (K, B, C) -> (K,)."""
    if logits.dim() == 2:
        return F.cross_entropy(logits, y)
    targets = y.expand(len(logits), -1)  # (K, B)
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(1)


def evaluate(model: nn.Module, test: Split, *, batch_size: int = 1000) -> Tensor:
    """The accuracy in percent: shape () for a network, (K,) for a stack.

    The model runs in evaluation mode; afterwards its modes are as they were.

    Raises:
        ValueError: a ``test`` that is empty, not finite or does not fit the model.

    Examples:
        >>> from course_lib import data, models
        >>> test = data.Split(torch.zeros(4, 3), torch.tensor([0, 0, 0, 1]))
        >>> model = models.mlp((3, 2))
        >>> model.get_parameter("fc1.bias").data = torch.tensor([1.0, 0.0])  # always class 0
        >>> evaluate(model, test).item()
        75.0
    """
    answers = _answers("test", model, test, batch_size=batch_size)
    right = torch.stack([(logits.argmax(-1) == y).sum(-1) for logits, y in answers]).sum(0)
    return 100 * right / len(test.y)


def mean_loss(model: nn.Module, split: Split, *, batch_size: int = 1000) -> Tensor:
    """The mean cross-entropy over ``split``: shape () for a network, (K,) for a stack.

    The model runs in evaluation mode; afterwards its modes are as they were.

    Raises:
        ValueError: a ``split`` that is empty, not finite or does not fit the model.
    """
    total: Any = 0.0  # then a tensor
    for logits, y in _answers("split", model, split, batch_size=batch_size):
        total = total + cross_entropy(logits, y) * len(y)
    return total / len(split.y)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block, the model is in evaluation mode; afterwards every module has its mode again.

    Examples:
        >>> model = nn.Dropout()
        >>> with evaluating(model):
        ...     print(model.training)
        False
        >>> model.training
        True
    """
    with _mode(model, training=False):
        yield


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state_dict of ``model``, which further training does not change.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> before = snapshot(layer)
        >>> layer.weight.data.add_(1)
        tensor(...
        >>> torch.equal(before["weight"], layer.weight)
        False
    """
    check_made(model)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


# ---- what is refused, before anything moves


def check_plan(model: nn.Module, train: Split, plan: Plan, *, test: Split | None = None) -> None:
    """Raise the ValueError or TypeError that ``fit`` would raise for this training."""
    check_counts(epochs=plan.epochs, batch_size=plan.batch_size, every=plan.every)
    seeds.check(plan.seed)
    _check_trainable(model)
    _check_split("train", train)
    check_state("start", model, plan.start)
    per_epoch, last = _lengths(train, plan)
    whole = plan.epochs * per_epoch
    whole_numbers = isinstance(plan.first, int) and isinstance(last, int)
    if not whole_numbers or not 0 <= plan.first < last <= whole:
        raise ValueError(
            f"first and last must be 0 <= first < last <= {whole}, the steps of the "
            f"training, got {plan.first!r} and {plan.last!r}"
        )
    for number in range(plan.first, last):
        check_nonnegative(f"schedule at step {number}", plan.schedule(number / whole))
    classes = _check_fits("train", model, train, plan.batch_size)
    if plan.loss is None:
        _check_labels("train", train.y, classes)
    for argument, split in (("test", test), ("valid", plan.valid)):
        if split is not None:
            _check_split(argument, split)
            _check_labels(argument, split.y, _check_fits(argument, model, split, plan.batch_size))
    _check_last_minibatch(model, train, plan)


def check_state(argument: str, model: nn.Module, state: Mapping[str, Tensor] | None) -> None:
    """Raise ValueError unless ``state`` is None or fits the model in names, shapes and dtypes."""
    if state is None:
        return
    check_made(model)
    if not isinstance(state, Mapping):
        raise TypeError(f"{argument} must be a state_dict of model, got {type(state).__name__}")
    have, got = (
        {name: (tuple(v.shape), v.dtype) for name, v in values.items() if isinstance(v, Tensor)}
        for values in (model.state_dict(), state)
    )
    if have != got:
        odd = [name for name in {**have, **got} if have.get(name) != got.get(name)]
        raise ValueError(
            f"{argument} must be a state_dict of model, but {odd[0]!r} must be "
            f"{have.get(odd[0], 'absent')}, got {got.get(odd[0], 'none')}"
        )


def _planned(plan: Plan | None, changes: dict[str, Any]) -> Plan:
    known = [f.name for f in dataclasses.fields(Plan)]
    for name in changes:
        if name not in known:
            raise TypeError(f"{name!r} is no field of Plan, which has {', '.join(known)}")
    if plan is None and "epochs" not in changes:
        raise ValueError("plan must say how many epochs, got none: fit(model, train, epochs=…)")
    if plan is not None and not isinstance(plan, Plan):
        raise TypeError(f"plan must be a training.Plan, got {plan!r}")
    return Plan(**changes) if plan is None else dataclasses.replace(plan, **changes)


def _lengths(train: Split, plan: Plan) -> tuple[int, int]:
    """The steps per epoch, and the step before which training stops."""
    per_epoch = -(-len(train.y) // plan.batch_size)
    return per_epoch, plan.epochs * per_epoch if plan.last is None else plan.last


def make_optimizer(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """The plan's optimizer, made now if the plan has a function that makes it."""
    made = plan.optimizer
    optimizer = made if isinstance(made, torch.optim.Optimizer) else made(model)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must make a torch optimizer, got {type(optimizer).__name__}")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"optimizer must step without a closure, got {type(optimizer).__name__}, which needs one"
        )
    known = trained(optimizer)
    if not any(id(p) in known and p.requires_grad for p in model.parameters()):
        raise ValueError("optimizer must train parameters of model, got those of another")
    return optimizer


def _check_trainable(model: nn.Module) -> None:
    check_made(model)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model must have a parameter that requires a gradient, got none")


def _check_split(argument: str, split: Split) -> None:
    if not isinstance(split, Split) or not all(isinstance(part, Tensor) for part in split):
        raise TypeError(
            f"{argument} must be a data.Split of two tensors, got {type(split).__name__}"
        )
    x, y = split
    if x.dim() == 0 or y.dim() == 0 or len(x) != len(y) or len(y) == 0:
        raise ValueError(
            f"{argument} must hold as many images as labels, at least one, "
            f"got x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)}"
        )
    if x.device != y.device:
        raise ValueError(f"{argument} must lie on one device, got {x.device} and {y.device}")
    check_finite(f"{argument}.x", x)


def _check_labels(argument: str, y: Tensor, classes: int) -> None:
    if y.dtype != torch.int64 or y.dim() != 1:
        raise ValueError(
            f"{argument} must have labels of shape (n,) and type torch.int64, "
            f"got {tuple(y.shape)} and {y.dtype}"
        )
    low, high = (int(n) for n in y.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(
            f"{argument} must have labels from 0 to {classes - 1}, the model's outputs, "
            f"got {low} to {high}"
        )


def _check_fits(argument: str, model: nn.Module, split: Split, batch_size: int) -> int:
    """The number of classes; ValueError unless the model can compute with the images."""
    with torch.no_grad(), evaluating(model):
        return _logits(argument, model, split.x[:batch_size]).shape[-1]


def _logits(argument: str, model: nn.Module, x: Tensor) -> Tensor:
    """The model's logits, (B, C) or (K, B, C), or a ValueError that names ``argument``."""
    with fitting(f"{argument}.x", x):
        logits = model(x)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.dim() not in (2, 3) or logits.shape[-2] != len(x):
        raise ValueError(
            f"model must give logits of shape (batch, classes), or (K, batch, classes) of a stack, "
            f"got {shape} for {len(x)} images"
        )
    return logits


def _answers(
    argument: str, model: nn.Module, split: Split, *, batch_size: int
) -> list[tuple[Tensor, Tensor]]:
    """Logits and labels, minibatch by minibatch, in evaluation mode and without gradients."""
    check_counts(batch_size=batch_size)
    _check_split(argument, split)
    batches = zip(split.x.split(batch_size), split.y.split(batch_size), strict=True)
    check_made(model)
    with torch.no_grad(), evaluating(model):
        answers = [(_logits(argument, model, x), y) for x, y in batches]
    _check_labels(argument, split.y, answers[0][0].shape[-1])
    return answers


def _check_last_minibatch(model: nn.Module, train: Split, plan: Plan) -> None:
    """Raise ValueError if batch norm would get a minibatch of one image: torch refuses that, but only
    in the middle of training."""
    n = len(train.y)
    if 1 not in (n, plan.batch_size, n % plan.batch_size):
        return
    if not any(isinstance(m, BATCH_NORM) for m in ensemble.all_modules(model)):
        return
    buffers = {name: b.clone() for name, b in model.named_buffers()}  # running means stay
    with torch.no_grad(), _own_noise(model), _mode(model, training=True):
        try:
            called_with(model, buffers, train.x[:1])
        except ValueError as error:
            raise ValueError(
                f"batch_size must not leave a minibatch of one image, which batch norm cannot "
                f"normalise, got {plan.batch_size} for {n} images"
            ) from error


# ---- what is put back


def _watch(history: History, model: nn.Module, valid: Split, step: int) -> None:
    """Note the validation loss, and the weights of all members for which it is the lowest so far."""
    now = mean_loss(model, valid)  # () or (K,)
    before = torch.stack([torch.full_like(now, torch.inf), *history.valid_loss])
    better = now < before.nan_to_num(nan=torch.inf).amin(0)
    history.measured.append(step)
    history.valid_loss.append(now)
    for name, value in model.state_dict().items():
        # One truth value per member, or one for the network, spread over its weights.
        wins = better.view(-1, *[1] * (value.dim() - 1)) if better.dim() else better
        history.best[name] = torch.where(wins, value, history.best.setdefault(name, value))


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    before = [(module, module.training) for module in ensemble.all_modules(model)]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


@contextmanager
def _rates_kept(optimizer: torch.optim.Optimizer) -> Iterator[Callable[[float], None]]:
    """Within the block, learning rates can be scaled; afterwards they are as before, also after an
    interruption."""
    base = [(group, group["lr"]) for group in optimizer.param_groups]

    def scale(factor: float) -> None:
        for group, rate in base:
            group["lr"] = rate * factor

    try:
        yield scale
    finally:
        for group, rate in base:
            group["lr"] = rate


@contextmanager
def _own_noise(model: nn.Module) -> Iterator[None]:
    """Within the block, dropout and noise draw numbers without changing the caller's generators."""
    with torch.random.fork_rng([d for d in [_device(model)] if d.type == "cuda"]):
        yield


def _generators(model: nn.Module) -> list[torch.Generator]:
    """The generators from which dropout and noise draw."""
    device = _device(model)
    if device.type != "cuda":
        return [torch.default_generator]
    index = torch.cuda.current_device() if device.index is None else device.index
    return [torch.default_generator, torch.cuda.default_generators[index]]


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


# ---- checkpoints


def _run(
    model: nn.Module, train: Split, plan: Plan, optimizer: torch.optim.Optimizer
) -> dict[str, object]:
    """Everything comparable that must be equal for two runs to be the same."""
    names = {id(p): name for name, p in model.named_parameters()}
    run: dict[str, object] = {
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "seed": seeds.shifted(plan.seed),
        "first": plan.first,
        "last": plan.last,
        "every": plan.every if plan.valid is not None else None,
        "checksum of train": _checksum(train),
        "checksum of valid": _checksum(plan.valid or ()),
        "checksum of start": _checksum((plan.start or {}).values()),
        "optimizer": type(optimizer).__name__,
    }
    for i, group in enumerate(optimizer.param_groups):
        run[f"parameters of group {i}"] = [names.get(id(p)) for p in group["params"]]
        run |= {f"{name} of group {i}": v for name, v in group.items() if name != "params"}
    return run


def _checksum(tensors: Iterable[Tensor]) -> int:
    found = 0
    for tensor in tensors:
        found = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def _begin(
    model: nn.Module,
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    checkpoint: str | Path | None,
    run: dict[str, object],
) -> History:
    """Load what the training starts from: the checkpoint, the plan's start, or the model as it is."""
    history = History()
    if checkpoint is not None and Path(checkpoint).exists():
        history = _resume(checkpoint, model, optimizer, run)
    else:
        if checkpoint is not None and not Path(checkpoint).parent.is_dir():
            raise ValueError(
                f"checkpoint must lie in a folder that exists, got {str(checkpoint)!r}"
            )
        if plan.start is not None:
            model.load_state_dict(plan.start)
        if checkpoint is not None:  # who stops in the first epoch begins here again
            _save(checkpoint, model, optimizer, run, history)
    # Momentum lies in memory as its weight does: torch's fused form takes that for granted.
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            as_large = isinstance(value, Tensor) and value.shape == parameter.shape
            if as_large and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return history


def _save(
    path: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    run: dict[str, object],
    history: History,
) -> None:
    state = {
        "run": run,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": vars(history),
    }
    files.save(path, state)


def _resume(
    path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, run: dict[str, object]
) -> History:
    """Compare, then load: a checkpoint of another run changes nothing."""
    name = f"checkpoint {str(path)!r}"
    state = files.load("checkpoint", path, _device(model))
    fields = {f.name for f in dataclasses.fields(History)}
    known = isinstance(state, dict) and state.keys() == {"run", "model", "optimizer", "history"}
    if not known or state["history"].keys() != fields:
        raise ValueError(f"{name} must be a file of fit, got another kind")
    check_state(name, model, state["model"])
    saved = state["run"]
    odd = [key for key in {**saved, **run} if saved.get(key) != run.get(key)]
    if odd:
        raise ValueError(
            f"{name} belongs to a run with { {k: saved.get(k) for k in odd} }, "
            f"expected { {k: run.get(k) for k in odd} }"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return History(**state["history"])
