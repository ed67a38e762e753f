"""Han et al. 2015, "Learning both Weights and Connections": LeNet-300-100 on MNIST, 12× at no loss.

    COURSE_DATA=folder python tests/reproductions/han2015.py [seeds]

writes ``han2015.json`` beside this file. The paper's Table 1: 267 K parameters become 22 K, the test
error goes from 1.64 to 1.59 %; its layers keep 8, 9 and 26 % of their weights (Table 2).

What differs: global magnitude to 1/12 of the weights (the paper sets a threshold a layer), a fixed
number of rounds and epochs, SGD with momentum and linear decay, weight decay 1e-4 (the paper's L2;
its strength is not known to us). As in the paper, retraining is at 1/10 of the learning rate.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from course_lib import data, measure, models, training
from course_lib.pruning import criteria, pipeline, rates

PAPER = {"error dense, %": 1.64, "error pruned, %": 1.59, "times smaller": 12}
PAPER_KEPT = {"fc1.weight": 0.08, "fc2.weight": 0.09, "fc3.weight": 0.26}
TRAINED, ROUNDS, EPOCHS = 10, 4, 3
FINAL = 1 - 1 / 12


def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return training.sgd(model, lr=0.1, weight_decay=1e-4)


def error(model: torch.nn.Module, test: data.Split) -> float:
    return round(100 - float(training.evaluate(model, test)), 2)


def run(seed: int, train: data.Split, test: data.Split) -> dict[str, object]:
    """Errors of one seed: dense, pruned in rounds, and dense with the same extra training."""
    net = models.lenet_300_100(seed=seed)
    training.fit(net, train, epochs=TRAINED, optimizer=sgd(net), seed=seed)
    found: dict[str, object] = {"seed": seed, "error dense, %": error(net, test)}
    trained = pipeline.snapshot(net)
    for name, schedule in (
        ("dense, same epochs", lambda step: 0.0),
        ("pruned", rates.geometric(FINAL, ROUNDS)),
    ):
        net.load_state_dict(trained)
        rounds = pipeline.iterate(
            net,
            train,
            score=criteria.magnitude,
            schedule=schedule,
            rounds=ROUNDS,
            retrain=pipeline.fine_tuning(EPOCHS, rate=0.1),
            optimizer=sgd,
            seed=100 * seed,
            test=test,
        )
        found[f"error {name}, % after each round"] = [
            round(100 - float(after.accuracy), 2) for after in rounds
        ]
    keep = rounds[-1].masks
    weights = sum(m.numel() for m in keep.values())
    kept = sum(int(m.sum()) for m in keep.values())
    found |= {
        "weights": weights,
        "weights kept": kept,
        "times smaller": round(weights / kept, 2),
        "kept of each layer": {n: round(float(m.float().mean()), 4) for n, m in keep.items()},
        "bytes dense": measure.bytes_dense(net),
        "bytes as CSR": measure.bytes_sparse(net),
    }
    return found


def main(seeds: int) -> None:
    """Run, and write the result file."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    train, test = data.load("mnist", size=28)
    runs = [run(seed, train, test) for seed in range(seeds)]
    result = {
        "experiment": "Han et al. 2015, LeNet-300-100 on MNIST, iterative pruning",
        "command": f"python tests/reproductions/han2015.py {seeds}",
        "paper": PAPER | {"kept of each layer": PAPER_KEPT},
        "setting": {
            "epochs of training": TRAINED,
            "rounds": ROUNDS,
            "epochs of retraining a round": EPOCHS,
            "images": len(train.y),
            "test images": len(test.y),
        },
        "runs": runs,
        "seconds": round(time.perf_counter() - start),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    text = json.dumps(result, indent=2)
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
