"""The experiments of the lesson Criteria, retrained longer. Two minutes on one core.

    python book/reproductions/long_criteria.py

First it chooses the strengths of L1 and L2 on training images set aside, with other seeds.
"""

import dataclasses
import time

import record
import torch

from course_lib import data, experiments, models, training
from course_lib.data import Split
from course_lib.experiments import Arm
from course_lib.pruning import allocate, criteria, penalties
from course_lib.teaching import claims
from course_lib.training import Plan

SEEDS, OTHER = range(5), range(100, 105)
FIRST, LESSON, LONG = Plan(epochs=12), Plan(epochs=6), Plan(epochs=24)
STRENGTHS = {"L1": (1e-4, 3e-4, 6e-4, 1e-3), "L2": (3e-4, 1e-3, 3e-3)}
SMALL = (196, 13, 10)


def shrinking(penalty, strength):
    """A maker of optimizers that apply the penalty after each step."""
    prox = {"L1": penalties.prox_l1, "L2": penalties.prox_l2}[penalty]

    def make(model):
        optimizer = training.sgd(model)
        penalties.regularise(optimizer, model, prox, strength=strength)
        return optimizer

    return make


def penalised(makers, train, test, plan, seeds):
    """Accuracy as cut to 95 % and retrained: train with each penalty, cut, and go on with it."""

    def with_optimizer(plan, make):
        return dataclasses.replace(plan, optimizer=make)

    start = [models.mlp(seed=seed) for seed in seeds]
    arms = {name: Arm(start, plan=with_optimizer(FIRST, make)) for name, make in makers.items()}
    trained = experiments.run(arms, train, test, FIRST).networks
    arms = {
        name: Arm(
            trained[name],
            lambda net: allocate.globally(criteria.magnitude(net), 0.95),
            with_optimizer(plan, make),
        )
        for name, make in makers.items()
    }
    return experiments.evaluate(arms, test), experiments.run(arms, train, test, plan).accuracy


def chosen(train):
    """The strength of each penalty that is best after the lesson's retraining, and all accuracies."""
    n = len(train.y) - 2000
    rest, aside = Split(train.x[:n], train.y[:n]), Split(train.x[n:], train.y[n:])
    makers = {(p, s): shrinking(p, s) for p, some in STRENGTHS.items() for s in some}
    _, after = penalised(makers, rest, aside, LESSON, OTHER)
    best = {p: max(some, key=lambda s: claims.mean(after[p, s])) for p, some in STRENGTHS.items()}
    return best, {f"{p}, {s:g}": [round(a, 2) for a in after[p, s]] for p, s in makers}


def main():
    torch.set_num_threads(1)
    train, test = data.load("glyphs")
    began = time.perf_counter()
    best, searched = chosen(train)
    start = {"dense": Arm([models.mlp(seed=seed) for seed in SEEDS])}
    nets = experiments.run(start, train, test, FIRST).networks["dense"]
    arms = {"dense": Arm(nets)}
    small = [models.mlp(SMALL, seed=seed) for seed in SEEDS]
    arms["small dense"] = Arm(small, plan=Plan(epochs=FIRST.epochs + LONG.epochs))
    for s in (0.5, 0.9, 0.95):
        keep = [allocate.globally(criteria.magnitude(net), s) for net in nets]
        arms[f"magnitude, {s:.0%} removed"] = Arm(nets, keep)
    scores = [criteria.random(net, seed=seed) for net, seed in zip(nets, SEEDS, strict=True)]
    arms["random, 90% removed"] = Arm(nets, [allocate.globally(x, 0.9) for x in scores])
    found = experiments.run(arms, train, test, LONG).accuracy
    found["no penalty, 95% removed"] = found["magnitude, 95% removed"]
    makers = {p: shrinking(p, s) for p, s in best.items()}
    _, after = penalised(makers, train, test, LONG, SEEDS)
    found |= {f"{p}, 95% removed": values for p, values in after.items()}
    record.write(
        __file__,
        experiment="Magnitude, chance, a small dense network, L1 and L2: the lesson Criteria for longer",
        command="python book/reproductions/long_criteria.py",
        verdict="With four times the retraining no conclusion of the lesson turns round.",
        setting={
            "seeds": len(SEEDS),
            "images": len(train.y),
            "epochs before the cut": FIRST.epochs,
            "epochs of retraining": LONG.epochs,
            "strengths chosen": {p: f"{s:g}" for p, s in best.items()},
        },
        differences=[],
        table=[
            record.row(f"{LONG.epochs} epochs of retraining: {name}", "% right", values)
            for name, values in found.items()
        ],
        seconds=time.perf_counter() - began,
        details={"accuracy on images set aside, 95 % removed, by penalty and strength": searched},
    )


if __name__ == "__main__":
    main()
