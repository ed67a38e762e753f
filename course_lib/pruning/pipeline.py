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

Everything works on an ordinary network and on an ``ensemble.stack``, whose members are scored and
pruned one by one and trained together.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import ensemble, files, training
from course_lib.data import Split
from course_lib.pruning import allocate as allocation
from course_lib.pruning import criteria, masks
from course_lib.pruning.criteria import Scores
from course_lib.pruning.masks import Masks
from course_lib.training import Plan, Schedule

Score = Callable[[nn.Module], Scores]
Sparsity = float | Mapping[str, float]  # of the whole network, or per layer by name


class Pruning(NamedTuple):
    """How to prune in rounds: what goes, how much of it in which round, and where."""

    sparsity: Callable[[int], Sparsity]  # round, from 1 on -> fraction removed after it (schedules)
    rounds: int
    score: Score | Sequence[Score] = criteria.magnitude  # for a stack also one per member
    allocate: Callable[[Scores, Sparsity], Masks] = allocation.globally


class Round(NamedTuple):
    """What one round left behind."""

    masks: Masks
    accuracy: Tensor | None  # % on ``test`` after retraining, () or (K,); None without ``test``
    history: training.History | None = None  # of the retraining


def segment(schedule: Schedule, start: float, end: float = 1.0) -> Schedule:
    """The piece of a schedule from ``start`` to ``end``, as the schedule of a training of its own.

    Args:
        start, end: fractions of the whole training, 0 <= start < end <= 1.
    """
    if not 0 <= start < end <= 1:
        raise ValueError(f"start and end must be 0 <= start < end <= 1, got {start!r} and {end!r}")
    return lambda t: schedule(start + (end - start) * t)


def fine_tuning(plan: Plan, epochs: int, *, rate: float) -> Plan:
    """The plan to go on from the final weights at a small fixed learning rate.

    Args:
        plan: of the original training.
        rate: as a factor on the optimizer's learning rate. Han et al. 2015, section 4, retrain
            LeNet at 1/10 and AlexNet at 1/100 of the original one.
    """
    if not 0 < rate < math.inf:
        raise ValueError(f"rate must be a positive number, got {rate!r}")
    training.check_counts(epochs=epochs)
    return dataclasses.replace(plan, epochs=epochs, schedule=lambda t: rate)


def rate_rewinding(plan: Plan, epochs: int) -> Plan:
    """The plan to go on from the final weights, and to replay the learning rates of the last
    ``epochs`` epochs.

    Args:
        plan: of the original training, of T = ``plan.epochs`` epochs.

    Raises:
        ValueError: more epochs than the original training had.
    """
    training.check_counts(epochs=epochs)
    if epochs > plan.epochs:
        raise ValueError(f"epochs must be at most {plan.epochs}, those of plan, got {epochs}")
    replayed = segment(plan.schedule, (plan.epochs - epochs) / plan.epochs)
    return dataclasses.replace(plan, epochs=epochs, schedule=replayed)


def weight_rewinding(plan: Plan, epochs: int, weights: Mapping[str, Tensor]) -> Plan:
    """The plan to put the weights that are left back to what they were ``epochs`` before the end,
    and to train from there as the first time. With ``epochs = plan.epochs`` that is the start of all
    training.

    Args:
        plan: as in ``rate_rewinding``.
        weights: the ``state_dict()`` of that moment, as a copy of its own (``training.snapshot``).
    """
    return dataclasses.replace(rate_rewinding(plan, epochs), start=weights)


def iterate(
    model: nn.Module,
    train: Split,
    plan: Plan,
    pruning: Pruning,
    *,
    test: Split | None = None,
    folder: str | Path | None = None,
) -> list[Round]:
    """Prune and retrain a trained network, or a stack, in place, ``pruning.rounds`` times.

    The cost is ``rounds * plan.epochs`` epochs, whatever the sparsities: with
    ``schedules.one_shot(s)`` everything goes in the first round and the others only train, with
    ``lambda step: 0.0`` nothing goes at all. These are the controls of the same budget.

    Args:
        plan: how to train after each pruning. Its ``optimizer`` makes a fresh one for each round, and
            round r has its minibatches in the order of ``plan.seed + r``.
        pruning: how to prune. What has gone is scored −∞, so that it stays gone.
        test: if given, each round holds the accuracy on it.
        folder: keeps the masks and ``training.fit``'s checkpoint of each round. Called again with
            the same arguments and the same starting network, an interrupted run goes on, and ends
            bit for bit where it would have. Needs a ``score`` that repeats itself.

    Raises:
        ValueError: a number of rounds below 1, a sparsity that falls or leaves [0, 1], a number of
            scores other than the stack's members, a plan that ``training.fit`` refuses, or a
            ``folder`` that is damaged or of another run. In all but the last case the model is as
            it was.
        TypeError: an optimizer instead of a function that makes one.
    """
    check_rounds(model, train, plan, pruning, test=test)
    keep, done = None, []
    for number in range(1, pruning.rounds + 1):
        keep = next_masks(model, pruning, number, keep)
        checkpoint = None
        if folder is not None:
            checkpoint = Path(folder) / f"round-{number}.pt"
            _same_masks(Path(folder) / f"masks-{number}.pt", keep)
        own = dataclasses.replace(plan, seed=plan.seed + number)
        history = train_held(model, train, keep, own, checkpoint=checkpoint)
        accuracy = None if test is None else training.evaluate(model, test)
        done.append(Round(keep, accuracy, history))
    return done


def train_held(
    model: nn.Module,
    train: Split,
    keep: Mapping[str, Tensor],
    plan: Plan,
    *,
    test: Split | None = None,
    checkpoint: str | Path | None = None,
) -> training.History:
    """Train under masks: go to ``plan.start`` if there is one, apply, hold, fit.

    Args:
        keep: the masks. On a network that was never trained this is pruning *before* training.
        plan, test, checkpoint: as in ``training.fit``.

    Raises:
        ValueError, TypeError: as ``masks.hold`` and ``training.fit``; the model is as it was.
    """
    training.check_state("start", model, plan.start)
    made = plan.optimizer
    optimizer = made if isinstance(made, torch.optim.Optimizer) else made(model)
    before = training.snapshot(model)
    if plan.start is not None:
        model.load_state_dict(plan.start)
    handle = None
    try:
        handle = masks.hold(optimizer, model, keep)
        start = None if plan.start is None else training.snapshot(model)  # under the masks
        own = dataclasses.replace(plan, optimizer=optimizer, start=start)
        return training.fit(model, train, own, test=test, checkpoint=checkpoint)
    except Exception:  # refused: masks that do not fit, a checkpoint of another run
        model.load_state_dict(before)
        raise
    finally:  # also when interrupted: the optimizer may be the caller's
        if handle is not None:
            handle.remove()


def check_rounds(
    model: nn.Module, train: Split, plan: Plan, pruning: Pruning, *, test: Split | None = None
) -> None:
    """Raise ValueError or TypeError for rounds that ``iterate`` would refuse."""
    _check_sparsities(pruning)
    _one_each(pruning.score, model)
    if isinstance(plan.optimizer, torch.optim.Optimizer):
        raise TypeError(
            "plan.optimizer must be a function that makes one per round, got an optimizer"
        )
    training.check_plan(model, train, plan, test=test)


def next_masks(
    model: nn.Module, pruning: Pruning, number: int = 1, within: Masks | None = None
) -> Masks:
    """The masks of a round, of a network or of every member of a stack: score, then allocate.

    Args:
        number: of the round, from 1 on.
        within: masks of the round before. What they remove stays removed.
    """
    sparsity, found = pruning.sparsity(number), []
    before = ensemble.by_member(model, within or {})
    for k, (net, score) in enumerate(
        zip(ensemble.members(model), _one_each(pruning.score, model), strict=True)
    ):
        earlier = {name: mask[k] for name, mask in before.items()}
        scores = score(net)
        gone = {
            name: scores[name].masked_fill(~mask, -torch.inf)
            for name, mask in earlier.items()
            if name in scores
        }
        found.append(earlier | pruning.allocate(scores | gone, sparsity))
    return ensemble.joined(model, found)


def _one_each(score: Score | Sequence[Score], model: nn.Module) -> Sequence[Score]:
    members = ensemble.size(model)
    if callable(score):
        return [score] * members
    if len(score) != members:
        raise ValueError(f"score must be one function, or one for each of {members}, got {score!r}")
    return score


def _check_sparsities(pruning: Pruning) -> None:
    """Raise ValueError for a number of rounds below 1, or a sparsity that falls or leaves [0, 1]."""
    training.check_counts(rounds=pruning.rounds)
    found = [pruning.sparsity(number) for number in range(1, pruning.rounds + 1)]
    by_layer = [s if isinstance(s, Mapping) else {"all": s} for s in found]
    for name in by_layer[0]:
        line = [s.get(name, -1.0) for s in by_layer]  # a layer that is missing in one round
        rises = all(a <= b for a, b in itertools.pairwise([0, *line, 1]))
        if not rises or any(s.keys() != by_layer[0].keys() for s in by_layer):
            raise ValueError(
                f"sparsity must rise within [0, 1] and name the same layers, got {found}"
            )


def _same_masks(path: Path, keep: Masks) -> None:
    """Write the masks, or refuse a folder that holds others."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.save(path, keep)
        return
    kept = files.load("folder", path)
    same = isinstance(kept, dict) and kept.keys() == keep.keys()
    if not same or not all(torch.equal(kept[name], mask.cpu()) for name, mask in keep.items()):
        raise ValueError(f"folder {str(path.parent)!r} belongs to another run: {path.name} differs")
