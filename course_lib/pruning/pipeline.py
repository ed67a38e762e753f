"""Rounds of pruning and retraining: score → allocate → apply and hold → train, and again.

After a pruning there are three ways to train the remaining weights. Suppose that the network was
trained for T epochs with a learning-rate schedule, and that each pruning is followed by t epochs:

====================  =======================  ==========================================
way                   weights start from       learning rate
====================  =======================  ==========================================
``fine_tuning``       their final values       small and fixed
``rate_rewinding``    their final values       that of the last t of the T epochs, again
``weight_rewinding``  their values at T − t    the same
====================  =======================  ==========================================

Everything works on an ordinary network and on an ``ensemble.stack``. The members of a stack are
scored and pruned one by one, and trained together.

Source: Renda et al. 2020, "Comparing Rewinding and Fine-tuning in Neural Network Pruning". Their
checkpoints hold the momentum too; here every retraining starts without momentum.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from course_lib import ensemble, files, training
from course_lib.data import Split, check_positive
from course_lib.pruning import allocate as allocation
from course_lib.pruning import criteria, masks
from course_lib.pruning.criteria import Scores
from course_lib.pruning.masks import Masks
from course_lib.training import Plan, Schedule

Score = Callable[[nn.Module], Scores]
Sparsity = float | Mapping[str, float]  # of the whole network, or per layer by name


class Pruning(NamedTuple):
    """How to prune in rounds."""

    sparsity: Callable[[int], Sparsity]  #: round, from 1 on -> fraction removed after it
    rounds: int  #: a positive integer
    score: Score | Sequence[Score] = criteria.magnitude  #: for a stack also one per member
    allocate: Callable[[Scores, Any], Masks] = allocation.globally  #: (scores, sparsity) -> masks


class Round(NamedTuple):
    """The result of one round."""

    masks: Masks  #: True means keep
    accuracy: Tensor | None  #: % on ``test`` after retraining, () or (K,); None without ``test``
    history: training.History | None = None  #: of the retraining


def segment(schedule: Schedule, start: float, end: float = 1.0) -> Schedule:
    """The part of a schedule from ``start`` to ``end``, as the schedule of a training of its own.

    Args:
        start, end: fractions of the whole training, 0 <= start < end <= 1.

    Raises:
        ValueError: other fractions.

    Examples:
        >>> half = segment(lambda t: 1 - t, 0.5)
        >>> half(0), half(0.5), half(1)
        (0.5, 0.25, 0.0)
    """
    if not 0 <= start < end <= 1:
        raise ValueError(f"start and end must be 0 <= start < end <= 1, got {start!r} and {end!r}")
    return lambda t: schedule(start + (end - start) * t)


def fine_tuning(plan: Plan, epochs: int, *, rate: float) -> Plan:
    """The plan that continues from the final weights at a small fixed learning rate.

    Args:
        plan: of the original training.
        epochs: of the retraining, a positive integer.
        rate: a factor on the optimizer's learning rate. Han et al. 2015, section 4, retrain LeNet
            at 1/10 and AlexNet at 1/100 of the original rate.

    Raises:
        ValueError: a rate that is not positive and finite, ``epochs`` below 1.
        TypeError: a rate that is no number.

    Examples:
        >>> plan = fine_tuning(Plan(epochs=10), epochs=2, rate=0.1)
        >>> plan.epochs, plan.schedule(0.0), plan.schedule(0.9)
        (2, 0.1, 0.1)
    """
    check_positive("rate", rate)
    training.check_counts(epochs=epochs)
    return dataclasses.replace(plan, epochs=epochs, schedule=lambda t: rate)


def rate_rewinding(plan: Plan, epochs: int) -> Plan:
    """The plan that continues from the final weights and repeats the last learning rates.

    Args:
        plan: of the original training, of T = ``plan.epochs`` epochs.
        epochs: of the retraining: it repeats the learning rates of the last ``epochs`` of T.

    Raises:
        ValueError: more epochs than the original training had, ``epochs`` below 1.
        TypeError: ``epochs`` that is no integer.

    Examples:
        >>> original = Plan(epochs=10, schedule=lambda t: 1 - t)
        >>> rate_rewinding(original, epochs=5).schedule(0.0)  # that of epoch 5 of 10
        0.5
    """
    training.check_counts(epochs=epochs)
    if epochs > plan.epochs:
        raise ValueError(f"epochs must be at most {plan.epochs}, those of plan, got {epochs}")
    replayed = segment(plan.schedule, (plan.epochs - epochs) / plan.epochs)
    return dataclasses.replace(plan, epochs=epochs, schedule=replayed)


def weight_rewinding(plan: Plan, epochs: int, weights: Mapping[str, Tensor]) -> Plan:
    """The plan that sets the remaining weights back to an earlier epoch and trains from there.

    The weights are those of ``epochs`` before the end of the original training, and the learning
    rates are the same as then. With ``epochs = plan.epochs`` this is the start of the training.

    Args:
        plan, epochs: as in ``rate_rewinding``.
        weights: the ``state_dict()`` of that moment, as a copy of its own (``training.snapshot``).

    Raises:
        ValueError, TypeError: as ``rate_rewinding``.
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

    The cost is ``rounds * plan.epochs`` epochs for every sparsity. This gives controls with the
    same budget: ``schedules.one_shot(s)`` removes everything in the first round and only trains in
    the others, and ``lambda step: 0.0`` removes nothing.

    Args:
        plan: how to train after each pruning. Its ``optimizer`` makes a new optimizer for each
            round, and round r shuffles its minibatches with the seed ``plan.seed + r``.
        pruning: how to prune. What was removed is scored −∞, so that it stays removed.
        test: if given, each round holds the accuracy on it.
        folder: keeps the masks and ``training.fit``'s checkpoint of each round. An interrupted run
            that is called again with the same arguments and the same starting network continues,
            and ends with the same bits. This needs a ``score`` that gives the same result again.

    Raises:
        ValueError: a number of rounds below 1; a sparsity that falls or leaves [0, 1]; not one
            score per member of a stack; a plan that ``training.fit`` refuses; a ``folder`` that is
            damaged or of another run. The model stays as it was, except in the last case.
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
    """Train under masks: load ``plan.start`` if there is one, apply the masks, hold them, fit.

    Args:
        keep: the masks. On an untrained network this is pruning *before* training.
        plan, test, checkpoint: as in ``training.fit``.

    Raises:
        ValueError, TypeError: as ``masks.hold`` and ``training.fit``; the model stays as it was.
    """
    training.check_state("start", model, plan.start)
    optimizer = training.make_optimizer(model, plan)
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
    """Check the arguments of ``iterate`` before anything is trained.

    Raises:
        ValueError, TypeError: as ``iterate``.
    """
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
    """The masks of a round: score a network, or every member of a stack, then allocate.

    Args:
        number: of the round, from 1 on.
        within: masks of the round before. What they removed stays removed.

    Raises:
        ValueError, TypeError: as ``pruning.score`` and ``pruning.allocate``.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.5, -2.0]]))
        >>> next_masks(layer, Pruning(sparsity=lambda number: 0.5, rounds=1))
        {'weight': tensor([[False,  True]])}
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
    """Raise ValueError for fewer than 1 round, or a sparsity that falls or leaves [0, 1]."""
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
