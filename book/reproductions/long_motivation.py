"""Lesson Motivation: a wide network cut to the bytes of a small one, with more training, and on MNIST.

    python book/reproductions/long_motivation.py [seeds]

writes ``long_motivation.json`` beside this file. The lesson trains for 24 + 12 epochs. Here the same
networks train for 8 + 4 and for 72 + 36 epochs, one more challenger is cut in four rounds instead of
at once, and 24 + 12 epochs are repeated on as many images of MNIST (folder ``COURSE_DATA``).
"""

import sys
import time
from functools import partial

import record
import torch

from course_lib import data, experiments, layers, measure, models
from course_lib.experiments import Arm
from course_lib.pruning import allocate, criteria, schedules
from course_lib.training import Plan

IMAGES, ROUNDS = 2500, 4
BUDGETS = [("glyphs", 8, 4), ("glyphs", 72, 36), ("mnist", 24, 12)]


def network(width: int, seed: int) -> torch.nn.Module:
    return models.mlp((196, 100 * width, 50 * width, 10), seed=seed)


def sparsities(wide: torch.nn.Module, opponent: torch.nn.Module) -> dict[str, float]:
    """The sparsities at which the wide network has the weights, and the bytes, of the opponent."""
    total = measure.count_weights(wide)
    rows = sum(4 * (len(w) + 1) for w in layers.weights(wide).values())
    room = measure.bytes_dense(opponent) - (measure.bytes_dense(wide) - 4 * total + rows)
    equal = 1 - measure.count_weights(opponent) / total
    return {"as many weights": equal, "as many bytes": 1 - room // 8 / total}


def cut(nets: list[torch.nn.Module], sparsity: float) -> Arm:
    return Arm(nets, [allocate.globally(criteria.magnitude(net), sparsity) for net in nets])


def measured(name: str, before: int, after: int, seeds: range) -> dict[str, list[float]]:
    train, test = data.load(name, size=14, n_train=IMAGES)
    run = partial(experiments.run, train=train, test=test, seeds=seeds)
    small = run({"small": Arm(partial(network, 1))}, plan=Plan(epochs=before + after))
    start = {"wide": Arm(partial(network, 4))}
    wide = run(start, plan=Plan(epochs=before)).networks["wide"]
    goal = sparsities(wide[0], small.networks["small"][0])
    arms = {"width 4, not cut": Arm(wide)} | {k: cut(wide, s) for k, s in goal.items()}
    found = {"width 1": small.accuracy["small"]} | run(arms, plan=Plan(epochs=after)).accuracy
    nets = wide
    sparsity = schedules.geometric(goal["as many bytes"], ROUNDS)
    for step in range(1, ROUNDS + 1):
        rounds = run({"": cut(nets, sparsity(step))}, plan=Plan(epochs=after // ROUNDS))
        nets = rounds.networks[""]
    return found | {"as many bytes, in four rounds": rounds.accuracy[""]}


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    began, table = time.time(), []
    for name, before, after in BUDGETS:
        for arm, right in measured(name, before, after, range(seeds)).items():
            quantity = f"{name}, {before} + {after} epochs: {arm}"
            ours = [round(100 - accuracy, 2) for accuracy in right]
            table.append(record.row(quantity, "% test error", ours))
            print(table[-1], flush=True)
    record.write(
        __file__,
        experiment="Lesson Motivation: a wide network cut to the size of a small one",
        command=f"python book/reproductions/long_motivation.py {seeds}",
        verdict=VERDICT,
        setting={"training images": IMAGES, "rate": "0.1, linear decay", "minibatch": 100},
        differences=["Zhu and Gupta prune gradually while a large network trains on large data."],
        table=table,
        seconds=time.time() - began,
    )


VERDICT = (
    "A small network is ahead of a wide one that was cut once to its bytes; its lead shrinks with "
    "training, and more when the wide one is cut in rounds."
)

if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
