"""Lesson Pipeline, trained for longer: accuracy at 98 % against the number of epochs in all.

    python book/reproductions/long_pipeline.py [seeds]

writes ``long_pipeline.json`` beside this file. The lesson's arms (glyphs, the 196-100-50-10 network,
8 epochs of dense training, four rounds) with 2, 4, 8 and 16 epochs after each round, and beside them
networks that are pruned before training and a small dense one, each trained in one go for as many
epochs in all.
"""

import dataclasses
import sys
from functools import partial

import record
import torch
from torch import nn

from course_lib import data, ensemble, experiments, models, training
from course_lib.experiments import Arm
from course_lib.pruning import allocate, criteria, lottery, masks, pipeline, schedules

TRAINED, ROUNDS, FINAL = 8, 4, 0.98
EPOCHS = (2, 4, 8, 16)  # after each round
SMALL = (196, 6, 6, 10)  # fits into the bytes that the pruned network takes as CSR
GRADUAL = pipeline.Pruning(schedules.geometric(FINAL, ROUNDS), ROUNDS)
AT_ONCE = pipeline.Pruning(schedules.one_shot(FINAL), ROUNDS)


def ways(
    plan: training.Plan, epochs: int, early: dict[str, torch.Tensor]
) -> dict[str, tuple[training.Plan, pipeline.Pruning]]:
    """Arm -> how it retrains, how it is pruned."""
    rewind = pipeline.rate_rewinding(plan, min(epochs, TRAINED))
    rewind = dataclasses.replace(rewind, epochs=epochs)  # beyond 8: the rates of all 8, stretched
    return {
        "fine-tuning at 1/100": (pipeline.fine_tuning(plan, epochs, rate=0.01), GRADUAL),
        "fine-tuning at 1/10": (pipeline.fine_tuning(plan, epochs, rate=0.1), GRADUAL),
        "rate rewinding": (rewind, GRADUAL),
        "weight rewinding": (dataclasses.replace(rewind, start=early), GRADUAL),
        "one cut, the same rates": (rewind, AT_ONCE),
        "one cut, one decay": (
            dataclasses.replace(rewind, epochs=ROUNDS * epochs),
            AT_ONCE._replace(rounds=1),
        ),
    }


def before(starts: list[nn.Module], train: data.Split) -> dict[str, Arm]:
    """The networks that are pruned before training, and the small dense ones."""
    some = data.Split(train.x[:100], train.y[:100])

    def synflow(net: nn.Module) -> masks.Masks:
        return allocate.iteratively(
            lambda keep: criteria.synflow(net, (1, 14, 14), within=keep),
            schedules.geometric(FINAL, 100),
            steps=100,
        )

    snip = [allocate.globally(criteria.snip(net, some), FINAL) for net in starts]
    # The same seed moves values and mask alike: each layer keeps the same values, at other places.
    moved = [lottery.reinitialise(net, seed=seed) for seed, net in enumerate(starts)]
    places = [
        lottery.random_mask(net, keep, seed=seed)
        for seed, (net, keep) in enumerate(zip(starts, snip, strict=True))
    ]
    return {
        "SNIP before training": Arm(starts, snip),
        "SNIP's values, random places": Arm(moved, places),
        "SynFlow before training": Arm(starts, synflow),
        "small dense": Arm([models.mlp(SMALL, seed=seed) for seed in range(len(starts))]),
    }


def budget(epochs: int, seeds: int, train: data.Split, test: data.Split) -> dict[str, list[float]]:
    """Accuracies of all arms with so many epochs after each round."""
    starts = [models.mlp(seed=seed) for seed in range(seeds)]
    plan = training.Plan(epochs=TRAINED)
    trained, early = ensemble.stack(starts), ensemble.stack(starts)
    training.fit(trained, train, plan)
    if epochs < TRAINED:
        training.fit(early, train, plan, last=100 * (TRAINED - epochs))
    found = {}
    for name, (retrain, pruning) in ways(plan, epochs, training.snapshot(early)).items():
        net = ensemble.stack(ensemble.members(trained))
        done = pipeline.iterate(net, train, retrain, pruning, test=test)
        found[name] = done[-1].accuracy.tolist()
    whole = training.Plan(epochs=TRAINED + ROUNDS * epochs)
    runs = experiments.run(before(starts, train), train, test, whole, seeds=range(seeds))
    return found | runs.accuracy


def nothing_removed(seeds: int, train: data.Split, test: data.Split) -> dict[str, list[float]]:
    """Accuracies of the dense networks after 8 epochs, and after 32 more at the rates again."""
    starts = [models.mlp(seed=seed) for seed in range(seeds)]
    plan = training.Plan(epochs=TRAINED)
    dense = experiments.run({"": Arm(starts)}, train, test, plan, seeds=range(seeds))
    more = training.Plan(epochs=ROUNDS * TRAINED, seed=1)
    longer = experiments.run({"": Arm(dense.networks[""])}, train, test, more, seeds=range(seeds))
    return {
        str(TRAINED): dense.accuracy[""],
        str(TRAINED + more.epochs): longer.accuracy[""],
    }


def main(seeds: int) -> None:
    """Run what is missing, and write the result file."""
    torch.set_num_threads(1)
    train, test = data.load("glyphs", seed=1)
    dense, seconds = record.kept(__file__, "dense", partial(nothing_removed, seeds, train, test))
    found = {"nothing removed": dense}  # arm -> epochs in all -> accuracies
    for epochs in EPOCHS:
        made, taken = record.kept(
            __file__, f"{seeds}-{epochs}", partial(budget, epochs, seeds, train, test)
        )
        seconds += taken
        for name, accuracy in made.items():
            found.setdefault(name, {})[str(TRAINED + ROUNDS * epochs)] = accuracy
    record.write(
        __file__,
        experiment="The lesson Pipeline with 2 to 16 epochs after each of four rounds",
        command=f"python book/reproductions/long_pipeline.py {seeds}",
        verdict=(
            "With the lesson's budget no difference between one cut and four rounds with "
            "their rates rewound is shown. With a longer one such rounds are better, and "
            "fine-tuning at either rate stays behind them."
        ),
        setting={
            "seeds": seeds,
            "weights removed": FINAL,
            "images to train, to test": [len(train.y), len(test.y)],
            "epochs of dense training": TRAINED,
            "rounds": ROUNDS,
            "epochs after each round": list(EPOCHS),
            "optimizer": "SGD, momentum 0.9, rate 0.1 with linear decay; no arm's rate was tuned",
        },
        differences=["The data are the lesson's glyphs, so no paper has these numbers."],
        table=[
            record.row(f"{name}, {total} epochs in all", "% test accuracy", values)
            for name, by_total in found.items()
            for total, values in by_total.items()
        ],
        seconds=seconds,
        details=found,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
