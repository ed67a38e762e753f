"""Experiments: several treatments (arms) of the same seeds, trained alike and compared.

::

    nets = [models.mlp(seed=seed) for seed in range(5)]
    keep = [allocate.globally(criteria.magnitude(net), 0.9) for net in nets]
    arms = {"dense": Arm(nets), "pruned": Arm(nets, keep)}
    runs = experiments.run(arms, train, test, Plan(epochs=2))
    runs.accuracy["pruned"]  # in percent, one value per seed

All networks see the same minibatches, so differences between arms are paired by seed. Networks of
one architecture are trained together as a stack (``ensemble.stack``): that is faster, and each
comes out as if it had been trained alone, but for its own draws of dropout and noise.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import ensemble, layers, training
from course_lib.data import Split
from course_lib.pruning import masks, pipeline
from course_lib.pruning.masks import Masks
from course_lib.training import Plan


class Arm(NamedTuple):
    """One treatment of all seeds: which networks begin, what is held at zero, how they train."""

    networks: Sequence[nn.Module] | Callable[[int], nn.Module]  # one per seed, or seed -> network
    masks: Sequence[Masks] | Callable[[nn.Module], Masks] | None = None  # likewise; None: all stay
    plan: Plan | None = None  # None: the plan of the experiment


class Runs(NamedTuple):
    """What came out of an experiment, by arm."""

    accuracy: dict[Hashable, list[float]]  # in percent on the test images, one value per seed
    networks: dict[Hashable, list[nn.Module]]  # as trained, one per seed
    loss: dict[Hashable, list[list[float]]]  # mean training loss: per epoch, one value per seed


class Choice(NamedTuple):
    """A setting, and what it was chosen by."""

    setting: Hashable
    accuracy: dict[Hashable, list[float]]  # in percent on the images set aside, one value per seed


class _Run(NamedTuple):
    """One seed of one arm, before it is trained."""

    arm: Hashable
    network: nn.Module
    keep: Masks
    plan: Plan


UNTRAINED = Plan(epochs=1)  # the plan of those that are only evaluated: it is not used


def run(
    arms: Mapping[Hashable, Arm],
    train: Split,
    test: Split,
    plan: Plan,
    *,
    seeds: Sequence[int] = range(5),
) -> Runs:
    """Train every arm with every seed under its masks, and evaluate it. Nothing given is changed.

    Args:
        arms: name -> treatment. For a treatment other than masks (a penalty, a codebook), hook it to
            the optimizer that the arm's plan makes: ``optimizer`` is called with the arms that share
            the plan, stacked arm by arm.
        plan: how to train the arms without a plan of their own. A ``loss`` gets the logits of one
            arm, (seeds, batch, classes); those of a single network, (batch, classes), where the
            networks cannot be stacked (batch norm).
        seeds: what an arm's function ``networks`` is called with, one after another.

    Raises:
        ValueError: no arms or seeds, an arm with another number of networks or masks, masks that do
            not fit, images that do not fit, a plan with ``start`` or ``valid``, or as ``training.fit``.
        TypeError: an arm that is no ``Arm``, or a plan whose optimizer stands already.
    """
    runs = _laid_out(arms, seeds, plan)
    ready = [
        (members, model, keep, _shared_plan([runs[i] for i in members], train))
        for members, model, keep in _models(runs, train.x[:1])
    ]
    for _, model, _, own in ready:  # all of them before the first one trains
        training.check_plan(model, train, own, test=test)
    accuracy, networks, loss = {}, {}, {}
    for members, model, keep, own in ready:
        history = pipeline.train_held(model, train, keep, own)
        accuracy |= zip(members, training.evaluate(model, test).view(-1).tolist(), strict=True)
        networks |= zip(members, ensemble.members(model), strict=True)
        losses = torch.stack(history.loss).view(len(history.loss), -1)  # (epochs, members)
        loss |= zip(members, losses.t().tolist(), strict=True)
    curves = _by_arm(runs, loss)
    return Runs(
        _by_arm(runs, accuracy),
        _by_arm(runs, networks),
        {
            arm: [list(epoch) for epoch in zip(*of_seeds, strict=True)]
            for arm, of_seeds in curves.items()
        },
    )


def evaluate(
    arms: Mapping[Hashable, Arm], test: Split, *, seeds: Sequence[int] = range(5)
) -> dict[Hashable, list[float]]:
    """Accuracy of the arms as they begin, masks applied and nothing trained: in percent, by arm, one
    value per seed.

    Raises:
        ValueError, TypeError: as ``run``.
    """
    runs = _laid_out(arms, seeds, None)
    accuracy = {}
    for members, model, keep in _models(runs, test.x[:1]):
        masks.apply(model, keep)
        accuracy |= zip(members, training.evaluate(model, test).view(-1).tolist(), strict=True)
    return _by_arm(runs, accuracy)


def choose(
    settings: Mapping[Hashable, Arm],
    train: Split,
    plan: Plan,
    *,
    held_out: int = 2000,
    seeds: Sequence[int] = range(100, 105),
) -> Choice:
    """The setting that is best on training images set aside: no test image has a say.

    Args:
        settings: setting -> the arm that uses it. Its networks must be others than those of the
            experiment: a function of the seed, or networks made from ``seeds``.
        plan: as in ``run``.
        held_out: so many of the last training images are set aside; the networks train on the rest.
            A ``loss`` of the plan is still given positions in ``train``.
        seeds: other seeds than those of the experiment.

    Returns:
        The setting with the highest mean accuracy, the first of equals, and the accuracies of all.

    Raises:
        ValueError: not fewer images set aside than there are; otherwise as ``run``.
        TypeError: as ``run``.
    """
    training.check_counts(held_out=held_out)
    n = len(train.y) - held_out
    if n < 1:
        raise ValueError(f"held_out must be below {len(train.y)}, the images, got {held_out}")
    rest, aside = Split(train.x[:n], train.y[:n]), Split(train.x[n:], train.y[n:])
    found = run(settings, rest, aside, plan, seeds=seeds).accuracy
    return Choice(max(found, key=lambda setting: fmean(found[setting])), found)


def _laid_out(arms: Mapping[Hashable, Arm], seeds: Sequence[int], plan: Plan | None) -> list[_Run]:
    """Arm by arm, seed by seed: networks, masks and plans, checked."""
    if not arms or len(seeds) < 1:
        raise ValueError(f"arms and seeds must not be empty, got {list(arms)} and {seeds!r}")
    runs = []
    for name, arm in arms.items():
        if not isinstance(arm, Arm):
            raise TypeError(f"arms[{name!r}] must be an Arm, got {type(arm).__name__}")
        own = UNTRAINED if plan is None else _checked(arm.plan or plan, name)
        networks = _per_seed(name, "networks", arm.networks, seeds)
        keeps = [{}] * len(seeds) if arm.masks is None else arm.masks
        for network, keep in zip(networks, _per_seed(name, "masks", keeps, networks), strict=True):
            masks.check(keep, dict(network.named_parameters()), f"masks of arms[{name!r}]")
            runs.append(_Run(name, network, keep, own))
    return runs


def _per_seed(name: Hashable, field: str, given: object, of: Sequence) -> list:
    """One value for each of ``of``: a list as it is, a function called with each."""
    if isinstance(given, nn.Module):  # a stack gives its members
        given = ensemble.members(given)
    kind = {"networks": nn.Module, "masks": Mapping}[field]
    if not callable(given) and not isinstance(given, Sequence):
        raise TypeError(
            f"arms[{name!r}].{field} must be a list or a function, got {type(given).__name__}"
        )
    values = [given(one) for one in of] if callable(given) else list(given)
    if len(values) != len(of) or not all(isinstance(value, kind) for value in values):
        raise ValueError(
            f"arms[{name!r}].{field} must be {len(of)}, one {kind.__name__} per seed, "
            f"got {[type(value).__name__ for value in values]}"
        )
    return values


def _checked(plan: Plan, name: Hashable) -> Plan:
    if isinstance(plan.optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"the plan of arms[{name!r}] must make a fresh optimizer, got one that stands already"
        )
    if plan.start is not None or plan.valid is not None:
        raise ValueError(
            f"the plan of arms[{name!r}] must have neither start nor valid: "
            "networks begin as they are given and end as they are trained"
        )
    return plan


def _models(runs: Sequence[_Run], x: Tensor) -> Iterator[tuple[list[int], nn.Module, Masks]]:
    """Copies of all networks as few models: which runs each holds, the model, its masks."""
    groups: list[list[int]] = []
    for i, one in enumerate(runs):
        for group in groups:
            first = runs[group[0]]
            if _plan_key(one.plan) == _plan_key(first.plan) and ensemble.alike(
                one.network, first.network
            ):
                group.append(i)
                break
        else:
            groups.append([i])
    for group in groups:
        stacked = _stacked([runs[i].network for i in group], x)
        if stacked is not None:
            yield group, stacked, _stacked_masks([runs[i] for i in group])
            continue
        for i in group:
            yield [i], layers.copied(runs[i].network), runs[i].keep


def _stacked(networks: Sequence[nn.Module], x: Tensor) -> nn.Module | None:
    """The networks as one stack, or None where there is one only, or vmap cannot compute them."""
    if len(networks) == 1:
        return None
    stack = ensemble.stack(networks)
    try:
        with torch.no_grad(), training.evaluating(stack):
            stack(x)
    except RuntimeError:  # a branch that depends on the values, for instance
        return None
    return stack


def _stacked_masks(runs: Sequence[_Run]) -> Masks:
    """The masks of all members. Where an arm has none for a weight that another masks, all stay."""
    names = {name: mask for one in runs for name, mask in one.keep.items()}
    everything = {name: torch.ones_like(mask) for name, mask in names.items()}
    return masks.stack([everything | dict(one.keep) for one in runs])


def _shared_plan(runs: Sequence[_Run], train: Split) -> Plan:
    """The plan of one model, whose loss gives each arm's networks the loss of their own arm."""
    plan = runs[0].plan
    if len(runs) == 1 or all(one.plan.loss is None for one in runs):
        return plan
    arms = [list(group) for _, group in groupby(runs, key=lambda one: one.arm)]

    def loss(
        logits: Tensor, positions: Tensor
    ) -> Tensor:  # (members, batch, classes) -> (members,)
        parts = logits.split([len(arm) for arm in arms])
        return torch.cat(
            [
                training.cross_entropy(part, train.y[positions])
                if arm[0].plan.loss is None
                else arm[0].plan.loss(part, positions)
                for arm, part in zip(arms, parts, strict=True)
            ]
        )

    return dataclasses.replace(plan, loss=loss)


def _plan_key(plan: Plan) -> Hashable:
    """What plans have to share for their networks to be trained as one: all but the loss."""
    values = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan) if f.name != "loss"}
    return tuple(id(v) if callable(v) else (name, v) for name, v in values.items())


def _by_arm(runs: Sequence[_Run], values: Mapping[int, object]) -> dict[Hashable, list]:
    """Values by the number of the run, as one list per arm."""
    found: dict[Hashable, list] = {}
    for i, one in enumerate(runs):
        found.setdefault(one.arm, []).append(values[i])
    return found
