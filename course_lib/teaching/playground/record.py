"""Train what the playground shows, and write it to ``recorded.npz`` beside this file.

    python -m course_lib.teaching.playground.record

The network is the lessons' MLP, trained as in the lessons but for its learning rate: 12 epochs on
10,000 glyphs, seed 0. Its parameters are then rounded to float16. The page gets the first 2,000 of
these training images and 1,000 test images, rounded to 16 shades of grey. The opponents are small
dense networks of several sizes, trained as long on the same images and rounded in the same way, five
seeds each, and their files are written by ``coding`` as the page writes its own. Every arm has a learning rate of its own,
chosen on training images set aside, with other networks (``experiments.choose``): each size of the
opponents, whose largest is the page's network, and the page's training with still and with moving
masks, which begins where a ranking or where chance has removed weights.
"""

import dataclasses
import itertools
from collections.abc import Callable, Hashable
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn

from course_lib import data, experiments, models, training
from course_lib.data import Split
from course_lib.experiments import Arm
from course_lib.pruning import allocate, criteria, masks, sparse_training
from course_lib.pruning.masks import Masks
from course_lib.teaching.playground import (
    BITS,
    EVERY,
    FILE,
    FRACTION,
    STARTS,
    file_bytes,
    rounded,
)
from course_lib.training import Plan

TRAINED, EMBEDDED, TESTED = 10_000, 2_000, 1_000  # images
# Small dense networks have layers of 2w and w units.
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 24, 29, 35, 42, 50)
RATES = (0.02, 0.05, 0.1, 0.2, 0.5)  # and beyond, where the best is at an end
PLAN = Plan(epochs=12)
SEEDS, OTHERS = range(5), range(100, 105)  # of the opponents, and of the networks that choose


def shades(split: Split) -> Split:
    """The images with 16 shades of grey, as the page holds them."""
    return Split((split.x * 15).round() / 15, split.y)


def steady(t: float) -> float:
    """The page's learning rate does not fall: the reader decides when to stop."""
    return 1.0


def at(rate: float, plan: Plan = PLAN) -> Plan:
    """The plan with this learning rate."""
    return dataclasses.replace(plan, optimizer=partial(training.sgd, lr=rate))


def choose(name: str, arm: Callable[[float], Arm], train: Split, plan: Plan) -> list[float]:
    """The rate that is best on the last images, and the lowest and the highest rate that were tried."""
    found: dict[float, float] = {}
    new = RATES
    while new:  # the best is never at an end: there the grid goes on
        arms: dict[Hashable, Arm] = {rate: arm(rate) for rate in new}
        accuracy = experiments.choose(arms, train, plan, held_out=EMBEDDED, seeds=OTHERS).accuracy
        found |= {rate: fmean(accuracy[rate]) for rate in new}
        best, low, high = max(found, key=lambda rate: found[rate]), min(found), max(found)
        new = {low: (low / 2,), high: (2 * high,)}.get(best, ())
    print(f"{name}: {best} of", {rate: round(found[rate], 1) for rate in sorted(found)}, flush=True)
    return [best, low, high]


def page_rates(train: Split, dense: Plan) -> np.ndarray:
    """``choose`` for five epochs of ``EMBEDDED`` images: start of ``STARTS``, mask still or moving."""
    aside = 2 * EMBEDDED  # half of it trains, half of it decides
    rest = Split(train.x[:-aside], train.y[:-aside])
    last = Split(train.x[-aside:], train.y[-aside:])
    plan = Plan(epochs=5, schedule=steady)
    nets = [models.mlp(seed=seed) for seed in OTHERS]
    for seed, net in zip(OTHERS, nets, strict=True):
        training.fit(net, rest, dataclasses.replace(dense, seed=seed))
    found = []
    for start in STARTS:
        keep = [begun(start, net, seed) for seed, net in zip(OTHERS, nets, strict=True)]

        def still(rate: float, keep: list[Masks] = keep) -> Arm:
            return Arm(nets, keep, at(rate, plan))

        def moving(rate: float, keep: list[Masks] = keep) -> Arm:
            own = dataclasses.replace(plan, optimizer=partial(mover, keep=keep, rate=rate))
            return Arm(nets, None, own)

        ways = {"still": still, "moving": moving}
        found.append([choose(f"{start}, {way}", ways[way], last, plan) for way in ways])
    return np.array(found)


def begun(start: str, net: nn.Module, seed: int) -> Masks:
    """The mask with which the training begins: by magnitude 90 % removed, at random 95 %."""
    if start == "cut":
        return allocate.globally(criteria.magnitude(net), 0.9)
    scores = criteria.random(net, seed=seed)
    shares = allocate.erdos_renyi({name: s.shape for name, s in scores.items()}, 0.95)
    return allocate.per_layer(scores, shares)


def mover(net: nn.Module, keep: list[Masks], rate: float) -> torch.optim.Optimizer:
    """SGD for a stack whose masks move by SET; in the library a move takes the place of a step."""
    optimizer = training.sgd(net, lr=rate)
    sparse_training.rewire(
        optimizer,
        net,
        masks.stack(keep),
        [sparse_training.SET] * len(keep),
        fraction=lambda step: FRACTION * (step % EVERY == 0),
    )
    return optimizer


def opponents(train: Split, test: Split) -> dict[str, np.ndarray]:
    """The small dense networks: their sizes and rates, and by ``BITS`` and seed bytes and accuracy."""
    sizes, rates, sized, read = [], [], [], []
    for width in WIDTHS:
        shape = (196, 2 * width, width, 10)
        made = partial(fresh, shape)
        rates.append(
            choose(f"{width} units", lambda rate, made=made: Arm(made, None, at(rate)), train, PLAN)
        )
        arms: dict[Hashable, Arm] = {width: Arm(made, None, at(rates[-1][0]))}
        nets = experiments.run(arms, train, test, PLAN, seeds=SEEDS).networks[width]
        coarse = [[rounded(net.half().float(), bits) for net in nets] for bits in BITS]
        sizes.append([*shape[1:3], sum(a * b for a, b in itertools.pairwise(shape))])
        sized.append([[file_bytes(net) for net in row] for row in coarse])
        read.append([[float(training.evaluate(net, test)) for net in row] for row in coarse])
        print(*sizes[-1], *np.round(read[-1][0], 1), sized[-1][0][0], flush=True)
    return {
        "opponents": np.array(sizes),
        "opponents_rate": np.array(rates),
        "opponents_bytes": np.array(sized),
        "opponents_right": np.array(read, np.float32),
    }


def fresh(shape: tuple[int, ...], seed: int) -> nn.Module:
    """A network of this shape, untrained."""
    return models.mlp(shape, seed=seed)


def main() -> None:
    """Train, round and write."""
    train, test = data.load("glyphs", n_train=TRAINED, n_test=TESTED)
    coarse = shades(test)
    small = opponents(train, coarse)
    dense = at(float(small["opponents_rate"][-1, 0]))  # the largest is the page's network
    net = models.mlp(seed=0)
    training.fit(net, train, dense)
    net.half().float()
    print(f"dense: {float(training.evaluate(net, coarse)):.1f} %")
    pixels = [(15 * s.x.flatten(1)).round().to(torch.uint8) for s in (train, test)]
    arrays: dict[str, Any] = {
        "train": pixels[0][:EMBEDDED].numpy(),
        "train_labels": train.y[:EMBEDDED].to(torch.uint8).numpy(),
        "test": pixels[1].numpy(),
        "test_labels": test.y.to(torch.uint8).numpy(),
    }
    arrays |= small | {"rates": page_rates(train, dense)}
    arrays |= {name: p.detach().half().numpy() for name, p in net.named_parameters()}
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
