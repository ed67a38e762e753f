"""Neklyudov et al. 2017, "Structured Bayesian pruning via log-normal multiplicative noise": the network
784-500-300-10 on MNIST.

    COURSE_DATA=folder python book/reproductions/neklyudov2017.py [seeds] [epochs]

writes ``neklyudov2017.json`` beside this file. A dense network is trained, then each input of each
layer learns how much noise it can bear; inputs whose signal is below the noise (SNR < 1) are removed,
and nothing is trained after that. The controls: the dense network trained on for as many epochs,
and its columns cut to the same counts by their norm. The rates were written down before the run. An
interrupted run goes on with the next seed.
"""

import copy
from dataclasses import replace
from functools import partial

import noise
import record
import torch
from torch import nn

from course_lib import data, models, training
from course_lib.pruning import bayesian

SIZES, RATE, NOISE_RATE = (784, 500, 300, 10), 1e-3, 2e-2
ADAM = partial(noise.adam, rate=RATE, noise_rate=NOISE_RATE)
PAPER = {"error": 1.55, "dense": 1.54, "units": (245, 160, 55), "multiplications": 11.2}
VERDICT = (
    "Reproduced in part, in a small part of the authors' epochs: without training after the cut, the "
    "network errs no more often than the dense one, which a cut to the largest columns destroys. But "
    "more inputs stay than in the authors' network."
)


def by_norm(net: nn.Module, counts: list[int]) -> nn.Module:
    """A copy whose layers read only so many inputs: those with the largest columns."""
    net = copy.deepcopy(net)
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    for layer, n in zip(linear, counts, strict=True):
        gone = layer.weight.norm(dim=0).argsort(descending=True)[n:]
        layer.weight.data[:, gone] = 0
    return net


def run(seed: int, epochs: int) -> dict:
    """Errors and the units left, of one seed."""
    train, test = data.load("mnist", size=28)
    plan = training.Plan(epochs=epochs, optimizer=ADAM, batch_size=noise.BATCH, seed=seed)
    dense = models.mlp(SIZES, seed=seed)
    training.fit(dense, train, plan)
    found = {"error before": record.error(dense, test)}
    net, again = bayesian.noisy(dense, bayesian.Structured), replace(plan, seed=seed + 100)
    noise.learn(net, train, again)
    plain, keep = bayesian.harden(net)
    training.fit(dense, train, again)
    left = noise.units(keep)
    return found | {
        "error": record.error(plain, test),
        "error dense": record.error(dense, test),
        "error, largest columns": record.error(by_norm(dense, left), test),
        "units": left,
        "multiplications": noise.fewer(SIZES, left),
    }


def table(runs: list[dict]) -> list[dict]:
    rows = [
        ("error after the cut", "%", PAPER["error"], "error"),
        ("error, dense, trained as long", "%", PAPER["dense"], "error dense"),
        ("error, dense, before the noise", "%", None, "error before"),
        (
            "error, dense, cut to as many inputs by column norm",
            "%",
            None,
            "error, largest columns",
        ),
        ("times fewer multiplications", "×", PAPER["multiplications"], "multiplications"),
    ]
    found = [record.row(name, u, [one[key] for one in runs], p) for name, u, p, key in rows]
    for i, paper in enumerate(PAPER["units"]):
        values = [one["units"][i] for one in runs]
        found.append(
            record.row(f"inputs that layer {i + 1} reads, of {SIZES[i]}", "inputs", values, paper)
        )
    return found


def main(seeds: int, epochs: int) -> None:
    """Run, and write the result file."""
    torch.set_num_threads(1)
    runs, seconds = record.per_seed(__file__, seeds, f"{epochs}", lambda seed: run(seed, epochs))
    record.write(
        __file__,
        experiment="Neklyudov et al. 2017 (structured Bayesian pruning): 784-500-300-10 on MNIST",
        verdict=VERDICT,
        command=f"python book/reproductions/neklyudov2017.py {seeds} {epochs}",
        published="Authors' code",
        setting={
            "epochs before the noise, and with it": epochs,
            "batch": noise.BATCH,
            "optimizer": f"Adam, rate {RATE}, for the noise {NOISE_RATE}, both falling linearly to 0",
            "epochs until the KL term has its whole weight": noise.RAMP * epochs,
            "SNR below which an input goes": 1,
        },
        differences=[
            f"{epochs} epochs with noise in batches of {noise.BATCH}; the authors' script for LeNet-5 "
            + "has 200 in batches of 128.",
            "The noise has a rate of its own, 20 times that of the weights; theirs has the same.",
            "Every example has its own noise; in their code a minibatch shares it.",
            "The multipliers stand on the inputs of each layer, in their code on its outputs.",
            record.ON_A_CARD,
        ],
        table=table(runs),
        seconds=seconds,
        details=runs,
    )


if __name__ == "__main__":
    main(*record.numbers(6, 40))
