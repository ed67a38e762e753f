"""Prune–retrain rounds: score → allocate → apply and hold → train, and again.

Three ways to train what is left, after Renda et al. 2020, "Comparing Rewinding and Fine-tuning in
Neural Network Pruning". Let the network have been trained for T epochs, with the learning rate
given by a schedule; ``t`` epochs of retraining follow each pruning.

=========================  =====================  ============================================
way                        weights start from     learning rate
=========================  =====================  ============================================
``fine_tuning``            their final values     small and fixed
``rate_rewinding``         their final values     that of the last t of the T epochs, replayed
``weight_rewinding``       those of epoch T − t   the same
=========================  =====================  ============================================

Checked: the abstract, which defines all three in these words, and the authors' code (flags
``lottery_force_learning_rate``, ``lottery_reset_global_step_to`` and ``lottery_reset_to``). Not
checked: the body of the paper, so neither its symbols nor that its fixed rate is the schedule's
last one. Their checkpoints hold the momentum too; here every retraining starts without.

Everything works on an ordinary network and on a ``training.stack``, whose members are scored and
pruned one by one and trained together.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import training
from course_lib.data import Split
from course_lib.pruning import masks, rates
from course_lib.pruning.criteria import Scores
from course_lib.pruning.masks import Masks

Schedule = Callable[[float], float]  # fraction of the training that is done -> learning-rate factor
Score = Callable[[nn.Module], Scores]


class Retrain(NamedTuple):
    """How a pruned network is trained; made by one of the three functions below, or by hand."""

    epochs: int
    schedule: Schedule
    weights: Mapping[str, Tensor] | None = None  # a state_dict to go back to; None: stay
    first: int = 0  # the step to begin with, if the weights are those of a step k


class Round(NamedTuple):
    """What one round left behind."""

    masks: Masks
    accuracy: Tensor | None  # % on ``test`` after retraining, () or (K,); None without ``test``
    history: training.History | None = None  # of the retraining


def part(schedule: Schedule, start: float, end: float = 1.0) -> Schedule:
    """The piece of a schedule from ``start`` to ``end``, as the schedule of a training of its own.

    Args:
        start, end: fractions of the whole training, 0 <= start < end <= 1.
    """
    if not 0 <= start < end <= 1:
        raise ValueError(f"start and end must be 0 <= start < end <= 1, got {start!r} and {end!r}")
    return lambda t: schedule(start + (end - start) * t)


def fine_tuning(epochs: int, *, rate: float) -> Retrain:
    """Go on from the final weights at a small fixed learning rate.

    Args:
        rate: as a factor on the optimizer's learning rate. Han et al. 2015, section 4, retrain
            LeNet at 1/10 and AlexNet at 1/100 of the original one.
    """
    if not rate > 0:
        raise ValueError(f"rate must be positive, got {rate!r}")
    return Retrain(epochs, lambda t: rate)


def rate_rewinding(epochs: int, *, of: int, schedule: Schedule = training.linear_decay) -> Retrain:
    """Go on from the final weights, and replay the learning rates of the last ``epochs`` epochs.

    Args:
        of: epochs of the original training, T.
        schedule: that of the original training.
    """
    return Retrain(epochs, part(schedule, _rewind_point(epochs, of)))


def weight_rewinding(
    epochs: int,
    *,
    of: int,
    weights: Mapping[str, Tensor],
    schedule: Schedule = training.linear_decay,
) -> Retrain:
    """Put the weights that are left back to what they were ``epochs`` before the end, and train
    from there as the first time. With ``epochs`` = ``of`` that is the start of all training.

    Args:
        of, schedule: as in ``rate_rewinding``.
        weights: the ``state_dict()`` of that moment, as a copy of its own (``snapshot``).
    """
    return Retrain(epochs, part(schedule, _rewind_point(epochs, of)), weights)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state of ``model`` that further training leaves alone."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def iterate(
    model: nn.Module,
    train: Split,
    *,
    score: Score | Sequence[Score],
    schedule: Callable[[int], float | Mapping[str, float]],
    rounds: int,
    retrain: Retrain,
    allocate: Callable[[Scores, float | Mapping[str, float]], Masks] = rates.globally,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = training.sgd,
    batch_size: int = 100,
    seed: int = 0,
    test: Split | None = None,
    valid: Split | None = None,
    every: int = 100,
    folder: str | Path | None = None,
) -> list[Round]:
    """Prune and retrain a trained network, or a stack, in place, ``rounds`` times.

    The cost is ``rounds * retrain.epochs`` epochs, whatever the schedule: with
    ``rates.one_shot(s)`` everything goes in the first round and the others only train, with
    ``lambda step: 0.0`` nothing goes at all. These are the controls of the same budget.

    Args:
        score: network -> scores, higher = keep; for a stack also one function a member.
        schedule: round (from 1) -> fraction removed after it (``rates.geometric``, ...), or one a
            layer by name for an ``allocate`` that takes them (``rates.per_layer``).
        retrain: how to train after each pruning.
        allocate: (scores, sparsity) -> masks. What has gone is scored −∞, so that it stays gone.
        optimizer: makes a fresh optimizer for each round.
        seed: round r has its minibatches in the order of ``seed + r``.
        valid, every: as in ``training.fit``; the losses are in each round's history.
        folder: keeps the masks and ``training.fit``'s checkpoint of each round. Called again with
            the same arguments and the same starting network, an interrupted run goes on, and ends
            bit for bit where it would have. Needs a ``score`` that repeats itself.

    Returns:
        One ``Round`` each.

    Raises:
        ValueError: ``rounds`` below 1, a schedule that falls or leaves [0, 1], as many scores as
            the stack has no members, ``retrain.weights`` that do not fit, or a ``folder`` of
            another run. In all but the last case the model is as it was.
    """
    scores_of = _one_each(score, model)
    sparsities = checked_sparsities(schedule, rounds)
    _check_weights(model, retrain.weights)
    keep, done = None, []
    for step, sparsity in enumerate(sparsities, start=1):
        keep = _pruned(model, scores_of, lambda s, p=sparsity: allocate(s, p), keep)
        checkpoint = None
        if folder is not None:
            checkpoint = Path(folder) / f"round-{step}.pt"
            _same_masks(Path(folder) / f"masks-{step}.pt", keep)
        history = train_held(
            model,
            train,
            keep,
            retrain,
            optimizer=optimizer(model),
            batch_size=batch_size,
            seed=seed + step,
            valid=valid,
            every=every,
            checkpoint=checkpoint,
        )
        accuracy = None if test is None else training.evaluate(model, test)
        done.append(Round(keep, accuracy, history))
    return done


def train_held(
    model: nn.Module,
    train: Split,
    keep: Mapping[str, Tensor],
    how: Retrain,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    batch_size: int = 100,
    seed: int = 0,
    valid: Split | None = None,
    every: int = 100,
    checkpoint: str | Path | None = None,
) -> training.History:
    """Train under masks: go back to ``how.weights`` if there are any, apply, hold, fit.

    Args:
        keep: the masks. On a network that was never trained this is pruning *before* training.
        optimizer, batch_size, seed, valid, every, checkpoint: as in ``training.fit``.

    Raises:
        ValueError, TypeError: as ``masks.hold`` and ``training.fit``; ``how.weights`` that do not
            fit.
    """
    _check_weights(model, how.weights)
    optimizer = training.sgd(model) if optimizer is None else optimizer
    if how.weights is not None:
        model.load_state_dict(how.weights)
    handle = masks.hold(optimizer, model, keep)
    try:
        return training.fit(
            model,
            train,
            epochs=how.epochs,
            optimizer=optimizer,
            schedule=how.schedule,
            batch_size=batch_size,
            seed=seed,
            valid=valid,
            every=every,
            first=how.first,
            checkpoint=checkpoint,
        )
    finally:  # also when interrupted: the optimizer may be the caller's
        handle.remove()


def _pruned(
    model: nn.Module,
    scores_of: Sequence[Score],
    allocate: Callable[[Scores], Masks],
    before: Masks | None,
) -> Masks:
    """The next masks of a network, or of every member of a stack: score, then allocate."""
    stacked = isinstance(model, training.Stack)
    found = []
    for k, net in enumerate(training.unstack(model) if stacked else [model]):
        scores = scores_of[k](net)
        if before is not None:
            scores = {
                name: s.masked_fill(~(before[name][k] if stacked else before[name]), -torch.inf)
                for name, s in scores.items()
            }
        found.append(allocate(scores))
    return masks.stack(found) if stacked else found[0]


def _rewind_point(epochs: int, of: int) -> float:
    for argument, n in (("epochs", epochs), ("of", of)):
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"{argument} must be a whole number from 1 on, got {n!r}")
    if epochs > of:
        raise ValueError(f"epochs must be at most of={of}, the training replayed, got {epochs}")
    return (of - epochs) / of


def _one_each(score: Score | Sequence[Score], model: nn.Module) -> Sequence[Score]:
    members = len(model) if isinstance(model, training.Stack) else 1
    if callable(score):
        return [score] * members
    if len(score) != members:
        raise ValueError(f"score must be one function, or one for each of {members}, got {score!r}")
    return score


def checked_sparsities(schedule, rounds: int) -> list[float | dict[str, float]]:
    if not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds must be a whole number from 1 on, got {rounds!r}")
    found = [schedule(step) for step in range(1, rounds + 1)]
    by_layer = [s if isinstance(s, Mapping) else {"all": s} for s in found]
    for name in by_layer[0]:
        line = [s[name] for s in by_layer]
        if line != sorted(line) or not (0 <= line[0] and line[-1] <= 1):
            raise ValueError(f"schedule must rise within [0, 1], got {found}")
    return found


def _check_weights(model: nn.Module, weights: Mapping[str, Tensor] | None) -> None:
    if weights is None:
        return
    have = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in weights.items()}
    if have != got:
        raise ValueError(f"weights must be a state_dict of model, {have}, got {got}")


def _same_masks(path: Path, keep: Masks) -> None:
    """Write the masks, or refuse a folder that holds others."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(keep, path)
        return
    kept = torch.load(path, weights_only=True)
    if kept.keys() != keep.keys() or any(
        not torch.equal(kept[n].to(m.device), m) for n, m in keep.items()
    ):
        raise ValueError(f"folder {str(path.parent)!r} belongs to another run: {path.name} differs")
