"""The lesson Training sparse with more passes over the images: 8, 24 and 72 epochs, all methods.

    python book/reproductions/long_sparse_training.py

writes ``long_sparse_training.json`` beside this file. The data are the lesson's glyphs. Each arm's
learning rate is chosen at 8 epochs on the last 2,000 training images, with seeds that are not among
the five of the experiment. Each finished budget is kept in the temporary folder, so that an
interrupted run goes on with the next one.
"""

from collections.abc import Callable
from functools import partial

import record
import torch

from course_lib import data, experiments, layers, models, training
from course_lib.experiments import Arm
from course_lib.pruning import allocate, criteria, masks, sparse_training
from course_lib.training import Plan

SPARSITY, BUDGETS, SEEDS = 0.95, (8, 24, 72), range(5)
RATES, CHOICE_SEEDS, CHOICE_EPOCHS = (0.1, 0.2, 0.4, 0.8), range(100, 103), 8
EVERY, ALPHA, PER_EPOCH = 25, 0.3, 100
DROPPED = 125  # DSR's aim: a tenth of the active weights per move
METHODS: dict[str, Callable[[], sparse_training.Method]] = {
    "fixed mask": lambda: sparse_training.STATIC,
    "SET": lambda: sparse_training.SET,
    "SET as published": lambda: sparse_training.SET,
    "DSR": lambda: sparse_training.dsr(DROPPED),
    "SNFS": lambda: sparse_training.SNFS,
    "RigL": lambda: sparse_training.RIGL,
}
SHAPES = {  # networks without masks
    "small dense, as many weights": (196, 6, 10),
    "small dense, as many weights, two hidden layers": (196, 6, 6, 10),
    "small dense, as many bytes": (196, 13, 10),
    "small dense, as many bytes, two hidden layers": (196, 12, 12, 10),
    "dense": (196, 100, 50, 10),
}
DIFFERENCES = ["The data are the lesson's glyphs, so no paper has these numbers."]
VERDICT = (
    "With each arm at its own learning rate and enough epochs, no difference shows between "
    "SET, DSR, SNFS and RigL, which end ahead of a small dense network of as many weights and "
    "near one of as many bytes."
)


def start(net: torch.nn.Module, seed: int) -> masks.Masks:
    """The first mask: random, with Erdős–Rényi shares."""
    shapes = {name: w.shape for name, w in layers.weights(net).items()}
    scores = criteria.random(net, seed=seed)
    return allocate.per_layer(scores, allocate.erdos_renyi(shapes, SPARSITY))


def moves(name: str, epochs: int) -> Callable[[int], float]:
    """Step -> fraction to drop. As published, SET moves after every epoch but the last."""
    last = epochs * PER_EPOCH
    if name == "SET as published":
        return lambda t: ALPHA if t % PER_EPOCH == 0 and t < last else 0.0
    return sparse_training.cosine(ALPHA, 3 * last // 4, every=EVERY)


def arm(name: str, epochs: int, rate: float, seeds: range) -> Arm:
    """One arm at one budget."""
    optimizer = partial(training.sgd, lr=rate)
    if name in SHAPES:
        nets = [models.mlp(SHAPES[name], seed=seed) for seed in seeds]
        return Arm(nets, plan=Plan(epochs=epochs, optimizer=optimizer))
    nets = [models.mlp(SHAPES["dense"], seed=seed) for seed in seeds]

    def moving(stack: torch.nn.Module) -> torch.optim.Optimizer:
        made = optimizer(stack)
        keep = masks.stack([start(net, seed) for net, seed in zip(nets, seeds, strict=True)])
        methods = [METHODS[name]() for _ in seeds]
        sparse_training.rewire(made, stack, keep, methods, fraction=moves(name, epochs))
        return made

    return Arm(nets, plan=Plan(epochs=epochs, optimizer=moving))


def choose(train: data.Split) -> dict[str, dict[str, list[float]]]:
    """Accuracies on images set aside: arm -> learning rate -> one value per seed."""
    found = {}
    for name in (*METHODS, *SHAPES):
        settings = {rate: arm(name, CHOICE_EPOCHS, rate, CHOICE_SEEDS) for rate in RATES}
        choice = experiments.choose(settings, train, Plan(epochs=CHOICE_EPOCHS), seeds=CHOICE_SEEDS)
        found[name] = {
            f"{rate:g}": [round(a, 2) for a in right] for rate, right in choice.accuracy.items()
        }
    return found


def budget(epochs: int, rates: dict[str, float], train: data.Split, test: data.Split) -> dict:
    """Accuracies of all arms at one budget."""
    arms = {name: arm(name, epochs, rates[name], SEEDS) for name in rates}
    found = experiments.run(arms, train, test, Plan(epochs=epochs)).accuracy
    return {name: [round(a, 2) for a in right] for name, right in found.items()}


def main() -> None:
    """Run what is missing, and write the result file."""
    torch.set_num_threads(1)
    train, test = data.load("glyphs")
    tried, seconds = record.kept(__file__, "choice", lambda: choose(train))
    rates = record.best(tried)
    found = {}
    for epochs in BUDGETS:
        found[epochs], taken = record.kept(
            __file__, f"{epochs}", partial(budget, epochs, rates, train, test)
        )
        seconds += taken
    record.write(
        __file__,
        experiment="The lesson Training sparse at 8, 24 and 72 epochs",
        command="python book/reproductions/long_sparse_training.py",
        verdict=VERDICT,
        setting={
            "seeds": len(SEEDS),
            "weights removed": SPARSITY,
            "images": len(train.y),
            "batch": len(train.y) // PER_EPOCH,
            "optimizer": "SGD, momentum 0.9, linear decay of the rate",
            "rates": rates,
            "masks move": f"every {EVERY} steps until 75% of the training, cosine from {ALPHA}",
            "SET as published": f"moves after each epoch but the last, with {ALPHA} throughout",
        },
        differences=DIFFERENCES,
        table=[
            record.row(f"{name}, {epochs} epochs", "% test accuracy", found[epochs][name])
            for epochs in BUDGETS
            for name in rates
        ]
        + record.rows_of_choice(tried, "rate", f", {CHOICE_EPOCHS} epochs"),
        seconds=seconds,
    )


if __name__ == "__main__":
    main()
