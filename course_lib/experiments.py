"""Experiments: several treatments (arms) of the same seeds, trained alike and compared.

For example, to compare pruned networks with dense ones::

    nets = [models.mlp(seed=seed) for seed in range(5)]
    keep = [allocate.globally(criteria.magnitude(net), 0.9) for net in nets]
    arms = {"dense": Arm(nets), "pruned": Arm(nets, keep)}
    runs = experiments.run(arms, train, test, Plan(epochs=2))
    runs.accuracy["pruned"]  # in percent, one value per seed

All networks see the same minibatches, so differences between arms are paired by seed. Networks of
one architecture are trained together as a stack (``ensemble.stack``), which is faster. Each network
comes out as if it had been trained alone, except that dropout and noise draw other numbers.
"""

import dataclasses
import math
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
    """One treatment of all seeds: the networks to start from, their masks, and how they train."""

    #: One network per seed, or a function of the seed.
    networks: Sequence[nn.Module] | Callable[[int], nn.Module]
    #: One set of masks per network, or a function of the network. None removes nothing.
    masks: Sequence[Masks] | Callable[[nn.Module], Masks] | None = None
    #: None means the plan of the experiment.
    plan: Plan | None = None


class Runs(NamedTuple):
    """The results of an experiment, arm -> values."""

    #: In percent on the test images, one value per seed.
    accuracy: dict[Hashable, list[float]]
    #: The trained networks, one per seed.
    networks: dict[Hashable, list[nn.Module]]
    #: The mean training loss, per epoch one value per seed.
    loss: dict[Hashable, list[list[float]]]


class Choice(NamedTuple):
    """The best setting, and the accuracies of all settings that decided it."""

    setting: Hashable  #: the best one
    #: Setting -> accuracy in percent on the images set aside, one value per seed.
    accuracy: dict[Hashable, list[float]]


class _Run(NamedTuple):
    """One seed of one arm, before it is trained."""

    arm: Hashable
    network: nn.Module
    keep: Masks
    plan: Plan


UNTRAINED = Plan(epochs=1)  # the plan of those that are only evaluated: it is not used
AT_ONCE = 40  # evaluated in one stack: hundreds would leave the processor's cache


def run(
    arms: Mapping[Hashable, Arm],
    train: Split,
    test: Split,
    plan: Plan,
    *,
    seeds: Sequence[int] = range(5),
) -> Runs:
    """Train every arm with every seed under its masks, and test it.

    The networks, masks and plans that you give are not changed.

    Args:
        arms: name -> treatment. For a treatment other than masks (a penalty, a codebook), hook it to
            the optimizer in the function ``optimizer`` of the arm's plan. That function is called
            with one stack of all arms that share the plan, arm after arm.
        plan: how to train the arms that have no plan of their own. Its ``loss`` gets the logits of
            one arm, (seeds, batch, classes). Where the networks cannot be stacked (batch norm), it
            gets those of one network, (batch, classes).
        seeds: the seeds with which the function ``networks`` of an arm is called.

    Raises:
        ValueError: no arms or no seeds; not one network and one set of masks per seed; masks or
            images that do not fit the networks; a plan with ``start`` or ``valid``; and what
            ``training.fit`` refuses.
        TypeError: an arm that is not an ``Arm``, or a plan that holds an optimizer already made.

    Examples:
        >>> from course_lib import data, models
        >>> train, test = data.load("digits")
        >>> small = lambda seed: models.mlp((64, 8, 10), seed=seed)
        >>> wide = lambda seed: models.mlp((64, 64, 10), seed=seed)
        >>> arms = {"small": Arm(small), "wide": Arm(wide)}
        >>> runs = run(arms, train, test, Plan(epochs=2), seeds=range(3))
        >>> [a < b for a, b in zip(runs.accuracy["small"], runs.accuracy["wide"])]
        [True, True, True]
    """
    runs = _laid_out(arms, seeds, plan)
    ready = [
        (members, model, keep, _shared_plan([runs[i] for i in members], train))
        for members, model, keep in _models(runs)
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
    curves = {
        arm: [list(epoch) for epoch in zip(*of_seeds, strict=True)]
        for arm, of_seeds in _by_arm(runs, loss).items()
    }
    return Runs(_by_arm(runs, accuracy), _by_arm(runs, networks), curves)


def evaluate(
    arms: Mapping[Hashable, Arm], test: Split, *, seeds: Sequence[int] = range(5)
) -> dict[Hashable, list[float]]:
    """Accuracy of the arms with their masks applied and before any training.

    Returns:
        arm -> accuracy in percent, one value per seed.

    Raises:
        ValueError, TypeError: as ``run``.
    """
    runs = _laid_out(arms, seeds, None)
    accuracy = {}
    for members, model, keep in _models(runs, at_most=AT_ONCE):
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
    """Choose the setting that is best on training images set aside. No test image is used.

    Args:
        settings: setting -> the arm that uses it. Its networks must not be those of the experiment:
            give a function of the seed, or networks made from ``seeds``.
        plan: as in ``run``. Its ``loss`` still gets positions in ``train``.
        held_out: how many of the last training images are set aside. The networks train on the rest.
        seeds: seeds that the experiment does not use.

    Returns:
        The setting with the highest mean accuracy (the first of several that are equal), and the
        accuracies of all settings.

    Raises:
        ValueError: ``held_out`` is not below the number of images; otherwise as ``run``.
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
    """The networks, masks and plans of all runs, checked: arm after arm, seed after seed."""
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
            if ensemble.template(network) is not network:
                raise ValueError(
                    f"arms[{name!r}].networks must be single networks, got a list with a stack: "
                    "give its members"
                )
            masks.check(keep, dict(network.named_parameters()), f"masks of arms[{name!r}]")
            runs.append(_Run(name, network, keep, own))
    return runs


def _per_seed(name: Hashable, field: str, given: object, of: Sequence) -> list:
    """One value for each of ``of``: a list as it is, or what a function returns for each."""
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


def _models(
    runs: Sequence[_Run], at_most: float = math.inf
) -> Iterator[tuple[list[int], nn.Module, Masks]]:
    """All networks copied into few models. For each model: the runs it holds, itself, its masks."""
    groups: list[list[int]] = []
    for i, one in enumerate(runs):
        open_ = (group for group in groups if len(group) < at_most)
        fitting = (group for group in open_ if _fit_together(one, runs[group[0]]))
        group = next(fitting, None)
        if group is None:
            groups.append(group := [])
        group.append(i)
    for group in groups:
        networks = [runs[i].network for i in group]
        if len(group) == 1:
            yield group, layers.copied(networks[0]), runs[group[0]].keep
        else:
            yield group, ensemble.stack(networks), _stacked_masks([runs[i] for i in group])


def _stacked_masks(runs: Sequence[_Run]) -> Masks:
    """The masks of all members. A weight that only other arms mask keeps all its entries."""
    names = {name: mask for one in runs for name, mask in one.keep.items()}
    everything = {name: torch.ones_like(mask) for name, mask in names.items()}
    return masks.stack([everything | dict(one.keep) for one in runs])


def _shared_plan(runs: Sequence[_Run], train: Split) -> Plan:
    """The plan of one model; its loss gives the networks of each arm the loss of this arm."""
    plan = runs[0].plan
    if len(runs) == 1 or all(one.plan.loss is None for one in runs):
        return plan
    arms = [list(group) for _, group in groupby(runs, key=lambda one: one.arm)]

    def own(arm: list[_Run], logits: Tensor, positions: Tensor) -> Tensor:
        loss = arm[0].plan.loss
        if loss is None:
            return training.cross_entropy(logits, train.y[positions])
        return loss(logits, positions)

    def loss(
        logits: Tensor, positions: Tensor
    ) -> Tensor:  # (members, batch, classes) -> (members,)
        parts = zip(arms, logits.split([len(arm) for arm in arms]), strict=True)
        return torch.cat([own(arm, part, positions) for arm, part in parts])

    return dataclasses.replace(plan, loss=loss)


def _fit_together(one: _Run, other: _Run) -> bool:
    """Whether the two can train as one stack: their plans differ in nothing but the loss."""
    fields = [f.name for f in dataclasses.fields(Plan) if f.name != "loss"]
    pairs = [(getattr(one.plan, name), getattr(other.plan, name)) for name in fields]
    return all(a is b or a == b for a, b in pairs) and ensemble.alike(one.network, other.network)


def _by_arm(runs: Sequence[_Run], values: Mapping[int, object]) -> dict[Hashable, list]:
    """Run number -> value, as arm -> list of values."""
    found: dict[Hashable, list] = {}
    for i, one in enumerate(runs):
        found.setdefault(one.arm, []).append(values[i])
    return found
