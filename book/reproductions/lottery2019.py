"""Frankle & Carbin 2019, "The Lottery Ticket Hypothesis": LeNet-300-100 on MNIST.

    COURSE_DATA=folder python book/reproductions/lottery2019.py [seeds] [epochs] [images]

writes ``lottery2019.json`` beside this file. Tickets are found in 15 rounds of 20 % (10 % in the
output layer); they and both controls are measured at 21.1, 7.0 and 3.6 % remaining: test accuracy
at the step of the lowest validation loss, that step, and test accuracy at the end.

As in the paper (section 2, figure 2, appendix G.1): batches of 60, Adam at a constant 1.2e-3, Gaussian
Glorot initialisation, validation every 100 steps, each training for a fixed number of steps. The networks
train on a graphics card if there is one, which takes some seven minutes; a processor needs most of a day.
``3 12 10000`` is a short run: with 10,000 images everything comes sooner, and what stops latest is cut off.
An interrupted run goes on where it was if ``LOTTERY_FOLDER`` names a folder.
"""

import copy
import os
import time

import record
import torch
from torch import nn

from course_lib import data, ensemble, models, training
from course_lib.pruning import lottery, masks, pipeline

ROUNDS, BATCH, EVERY, VALID = 15, 60, 100, 5000
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEASURED = {7: 21.1, 12: 7.0, 15: 3.6}  # round -> weights remaining, % (as the paper counts them)
# What the paper says in words (its accuracies themselves stand only in its figures).
PAPER = {
    "ticket stops earlier than dense at 21.1 %, % of the steps": 38,
    "re-initialised stops later than ticket at 21.1 %, times": 2.51,
    "ticket above re-initialised at 21.1 %, points": 0.5,
}
VERDICT = (
    "Reproduced, with all the images and in half of the paper's steps: tickets with a fifth of the weights "
    "reach their lowest validation loss earlier than the dense network and are more accurate, and other "
    "initial values in the same masks need longer and end less accurate."
)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1.2e-3, fused=True)


def constant(_: float) -> float:
    return 1.0


def glorot(seed: int) -> nn.Module:
    """LeNet-300-100 with the paper's initialisation: normal, variance 2 / (in + out)."""
    net = models.lenet_300_100(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight, generator=generator)
    return net.to(DEVICE)


def measured(
    net: nn.Module, history: training.History, end: torch.Tensor, test: data.Split
) -> dict[str, list[float]]:
    """Three numbers a member of a stack: at the lowest validation loss, and at the end."""
    net.load_state_dict(history.best)
    return {
        "accuracy": [round(a, 2) for a in training.evaluate(net, test).tolist()],
        "step": history.early_stop.tolist(),
        "accuracy at the end": [round(a, 2) for a in end.tolist()],
    }


def images(n: int) -> tuple[data.Split, data.Split, data.Split]:
    """``n`` images to train with, those to validate with, and the test images."""
    every, test = data.load("mnist", size=28)
    order = torch.randperm(len(every.y), generator=torch.Generator().manual_seed(0))
    valid, train = (
        data.Split(every.x[i], every.y[i]).to(DEVICE)
        for i in (order[:VALID], order[VALID : VALID + n])
    )
    return train, valid, test.to(DEVICE)


def controls(
    starts: nn.Module, search: lottery.Search, train: data.Split, plan: training.Plan
) -> tuple[list[str], nn.Module, training.History]:
    """Both controls at each of the three sparsities, trained as one stack: names, stack, history."""
    members, keep, names = [], [], []
    for r, percent in MEASURED.items():
        kept = search.rounds[r].masks
        others = lottery.reinitialise(starts, seed=r)
        shuffled = lottery.random_mask(starts, kept, seed=r)
        for name, group, mask in (
            ("re-initialised", others, kept),
            ("random mask", starts, shuffled),
        ):
            names.append(f"{name}, {percent} % remaining")
            members += ensemble.unstack(group)
            keep += masks.unstack(mask)
    stack = ensemble.stack(members)
    return names, stack, pipeline.train_held(stack, train, masks.stack(keep), plan)


def run(
    seeds: int, plan: training.Plan, train: data.Split, test: data.Split
) -> dict[str, dict[str, list[float]]]:
    """Arm -> what ``measured`` returns, one value per seed."""
    starts = ensemble.stack([glorot(seed) for seed in range(seeds)])
    pruning = lottery.by_shares(lottery.layer_shares(starts), rounds=ROUNDS)
    net = copy.deepcopy(starts)
    folder = os.environ.get("LOTTERY_FOLDER")
    search = lottery.find_tickets(net, train, plan, pruning, test=test, folder=folder)
    found = {}
    for r in (0, *MEASURED):
        name = f"ticket, {MEASURED[r]} % remaining" if r else "dense"
        found[name] = measured(net, search.rounds[r].history, search.rounds[r].accuracy, test)
    names, stack, history = controls(starts, search, train, plan)
    every = measured(stack, history, training.evaluate(stack, test), test)
    for i, name in enumerate(names):
        part = slice(i * seeds, (i + 1) * seeds)
        found[name] = {quantity: values[part] for quantity, values in every.items()}
    return found


def main(seeds: int, epochs: int, n: int) -> None:
    """Run, and write the result file."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    train, valid, test = images(n)
    plan = training.Plan(
        epochs=epochs,
        schedule=constant,
        batch_size=BATCH,
        optimizer=adam,
        valid=valid,
        every=EVERY,
    )
    found = run(seeds, plan, train, test)
    steps = epochs * -(-len(train.y) // BATCH)
    record.write(
        __file__,
        experiment="Lottery tickets in LeNet-300-100 on MNIST (Frankle & Carbin 2019)",
        verdict=VERDICT,
        command=f"python book/reproductions/lottery2019.py {seeds} {epochs} {n}",
        setting={
            "seeds": seeds,
            "rounds": ROUNDS,
            "steps of each training": steps,
            "batch": BATCH,
            "optimizer": "Adam, learning rate 1.2e-3, constant",
            "initialisation": "Glorot, normal",
            "images to train, to validate, to test": [len(train.y), len(valid.y), len(test.y)],
            "steps between validations": EVERY,
        },
        differences=[
            f"Each training takes {steps:,} steps, in the paper 50,000.",
            "One re-initialisation per ticket, in the paper three.",
            f"Ran on a {'graphics card' if DEVICE == 'cuda' else 'processor'}.",
            "Re-initialising deals the initial values out to other places; in the paper it draws anew.",
            "Random masks keep the counts of each layer, and the network its initial weights.",
            "All seeds see the same minibatches in the same order; their steps scatter less for it.",
        ],
        table=rows(found),
        seconds=round(time.perf_counter() - began),
        details=found,
    )


def rows(found: dict[str, dict[str, list[float]]]) -> list[dict[str, object]]:
    """The record's table: what the paper says in words first, then what we measured."""
    dense, ticket, again = (
        found[name]
        for name in ("dense", "ticket, 21.1 % remaining", "re-initialised, 21.1 % remaining")
    )
    pairs = list(zip(ticket["step"], dense["step"], again["step"], strict=True))
    ours = [
        [round(100 * (1 - t / d), 1) for t, d, _ in pairs],
        [round(a / t, 2) for t, _, a in pairs],
        [round(t - a, 2) for t, a in zip(ticket["accuracy"], again["accuracy"], strict=True)],
    ]
    table = []
    for (text, number), values in zip(PAPER.items(), ours, strict=True):
        quantity, unit = text.rsplit(", ", 1)
        table.append(record.row(quantity, unit, values, number))
    units = {"accuracy": "% of the test images", "step": "steps", "accuracy at the end": "%"}
    for name, values in found.items():
        for quantity, label in (
            ("accuracy", "accuracy at the lowest validation loss"),
            ("step", "step of the lowest validation loss"),
        ):
            table.append(record.row(f"{name}: {label}", units[quantity], values[quantity]))
    return table


if __name__ == "__main__":
    main(*record.numbers(5, 25, 55_000))
