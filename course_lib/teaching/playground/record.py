"""Train what the playground shows, and write it to ``recorded.npz`` beside this file.

    python -m course_lib.teaching.playground.record

The network is the lessons' MLP, trained as in the lessons: 12 epochs on 10,000 glyphs, seed 0. Its
parameters are then rounded to float16. The page gets the first 2,000 of these training images and
1,000 test images, rounded to 16 shades of grey. The opponents are small dense networks of several
sizes, trained as long on the same images, five seeds each. The learning rate with which the page
retrains is chosen on training images set aside, with other networks (``experiments.choose``).
"""

import dataclasses
import itertools
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch

from course_lib import data, experiments, models, training
from course_lib.data import Split
from course_lib.experiments import Arm
from course_lib.pruning import allocate, criteria
from course_lib.teaching.playground import FILE

TRAINED, EMBEDDED, TESTED = 10_000, 2_000, 1_000  # images
WIDTHS = (1, 2, 3, 4, 5, 7, 9, 12, 16, 20, 25, 32, 40, 50)  # hidden layers of 2w and w units
RATES = (0.01, 0.02, 0.05, 0.1)
PLAN = training.Plan(epochs=12)


def shades(split: Split) -> Split:
    """The images with 16 shades of grey, as the page holds them."""
    return Split((split.x * 15).round() / 15, split.y)


def steady(t: float) -> float:
    """The page's learning rate does not fall: the reader decides when to stop."""
    return 1.0


def chosen_rate(train: Split) -> float:
    """The rate at which networks cut to 10 % come back best in five epochs of ``EMBEDDED`` images."""
    aside, seeds = 2 * EMBEDDED, range(100, 105)
    rest = Split(train.x[:-aside], train.y[:-aside])
    nets = [models.mlp(seed=seed) for seed in seeds]
    for seed, net in zip(seeds, nets, strict=True):
        training.fit(net, rest, dataclasses.replace(PLAN, seed=seed))
    keep = [allocate.globally(criteria.magnitude(net), 0.9) for net in nets]
    last = Split(train.x[-aside:], train.y[-aside:])  # half of it trains, half of it decides
    plan = training.Plan(epochs=5, schedule=steady)
    arms: dict[Hashable, Arm] = {
        lr: Arm(
            nets,
            keep,
            dataclasses.replace(plan, optimizer=lambda net, lr=lr: training.sgd(net, lr=lr)),
        )
        for lr in RATES
    }
    found = experiments.choose(arms, last, plan, held_out=EMBEDDED, seeds=seeds)
    print("held-out accuracy by rate:", found)
    return next(lr for lr in RATES if lr == found.setting)


def opponents(train: Split, test: Split) -> list[list[float]]:
    """Of each small dense network: units of two layers, weights, accuracy of each of five seeds."""
    found = []
    for width in WIDTHS:
        sizes = (196, 2 * width, width, 10)
        arms: dict[Hashable, Arm] = {
            width: Arm(lambda seed, sizes=sizes: models.mlp(sizes, seed=seed))
        }
        accuracy = experiments.run(arms, train, test, PLAN, seeds=range(5)).accuracy[width]
        weights = sum(a * b for a, b in itertools.pairwise(sizes))
        found.append([2 * width, width, weights, *accuracy])
        print(*found[-1])
    return found


def main() -> None:
    """Train, round and write."""
    train, test = data.load("glyphs", n_train=TRAINED, n_test=TESTED)
    coarse = shades(test)
    net = models.mlp(seed=0)
    training.fit(net, train, PLAN)
    net.half().float()
    print(f"dense: {float(training.evaluate(net, coarse)):.1f} %")
    pixels = [(15 * s.x.flatten(1)).round().to(torch.uint8) for s in (train, test)]
    arrays: dict[str, Any] = {
        "train": pixels[0][:EMBEDDED].numpy(),
        "train_labels": train.y[:EMBEDDED].to(torch.uint8).numpy(),
        "test": pixels[1].numpy(),
        "test_labels": test.y.to(torch.uint8).numpy(),
        "opponents": np.array(opponents(train, coarse)),
        "rate": np.array(chosen_rate(train)),
    }
    arrays |= {name: p.detach().half().numpy() for name, p in net.named_parameters()}
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
