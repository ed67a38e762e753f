"""Louizos, Ullrich & Welling 2017, "Bayesian compression for deep learning": groups with the
normal-Jeffreys prior in LeNet-300-100 on MNIST.

    COURSE_DATA=folder python book/reproductions/louizos2017.py [seeds] [epochs]

writes ``louizos2017.json`` beside this file. Each input of each layer has a multiplier with noise, and
each weight has noise too; inputs with log α above the threshold are removed, and nothing is trained
after that. What is left of the posterior says how many binary places the weights need; the network is
measured with weights rounded to them. The authors set a threshold per layer by looking at log α; we
cut at log α = 0 everywhere, and record 3 beside it. The rates were written down before the run. An
interrupted run goes on with the next seed.
"""

from functools import partial

import noise
import record
import torch
from torch import nn

from course_lib import data, models, training
from course_lib.pruning import bayesian

RATE, NOISE_RATE, CUT = 1e-3, 2e-2, 0.0
ADAM = partial(noise.adam, rate=RATE, noise_rate=NOISE_RATE)
SIZES = (784, 300, 100, 10)
VERDICT = (
    "Not reproduced, with rates that were not tuned: few inputs stay, but the error is above "
    "that of the dense network. Most of the weights that stay in the first two layers end "
    "more than half as wide as their prior. So a layer's mean variance asks for no binary "
    "places, and weights that are rounded to them no longer work. The authors' tutorial "
    "limits the variance of the first layer."
)


@torch.no_grad()
def rounded(net: nn.Module, places: dict[str, torch.Tensor]) -> nn.Module:
    """The same network, in place, with so many binary places per weight."""
    for name, t in places.items():
        weight = net.get_parameter(name)
        weight.copy_((weight * 2.0**t).round() / 2.0**t)
    return net


@torch.no_grad()
def as_wide_as_prior(net: nn.Module, keep: dict[str, torch.Tensor]) -> list[float]:
    """Per cent of each layer's remaining weights with a deviation above ½, where the prior has 1."""
    found = []
    for name, mask in keep.items():
        variance = net.get_submodule(name.removesuffix(".weight")).posterior()[1]
        found.append(round(100 * (variance[mask] > 0.25).double().mean().item(), 1))
    return found


def run(seed: int, epochs: int) -> dict:
    """Errors, units and binary places of one seed."""
    train, test = data.load("mnist", size=28)
    plan = training.Plan(epochs=epochs, optimizer=ADAM, batch_size=noise.BATCH, seed=seed)
    net = bayesian.noisy(models.lenet_300_100(seed=seed), bayesian.Jeffreys)
    noise.learn(net, train, plan)
    plain, keep = bayesian.harden(net, CUT)
    places = bayesian.precision(net, CUT)
    dense = models.lenet_300_100(seed=seed)
    training.fit(dense, train, plan)
    later, later_keep = bayesian.harden(net, 3.0)
    left = noise.units(keep)
    return {
        "error": record.error(plain, test),
        "error at 3": record.error(later, test),
        "error dense": record.error(dense, test),
        "error, rounded": record.error(rounded(plain, places), test),
        "units": left,
        "units at 3": noise.units(later_keep),
        "places": [int(p) for p in places.values()],
        "wide": as_wide_as_prior(net, keep),
        "multiplications": noise.fewer(SIZES, left),
    }


def table(runs: list[dict]) -> list[dict]:
    rows = [
        ("error after the cut at log α = 0", "%", "error"),
        ("error after the cut at log α = 3", "%", "error at 3"),
        ("error, dense", "%", "error dense"),
        ("error after the cut, weights rounded to their binary places", "%", "error, rounded"),
        ("times fewer multiplications", "×", "multiplications"),
    ]
    found = [record.row(name, unit, [one[key] for one in runs]) for name, unit, key in rows]
    for i in range(3):
        values = [one["units"][i] for one in runs]
        found.append(
            record.row(f"inputs that layer {i + 1} reads, of {SIZES[i]}", "inputs", values)
        )
    for i in range(3):
        values = [one["places"][i] for one in runs]
        found.append(record.row(f"binary places of layer {i + 1}", "places", values))
    for i in range(3):
        values = [one["wide"][i] for one in runs]
        found.append(
            record.row(f"remaining weights of layer {i + 1} with a deviation above ½", "%", values)
        )
    return found


def main(seeds: int, epochs: int) -> None:
    """Run, and write the result file."""
    torch.set_num_threads(1)
    runs, seconds = record.per_seed(__file__, seeds, f"{epochs}", lambda seed: run(seed, epochs))
    record.write(
        __file__,
        experiment="Louizos et al. 2017 (groups, normal-Jeffreys prior): LeNet-300-100 on MNIST",
        verdict=VERDICT,
        command=f"python book/reproductions/louizos2017.py {seeds} {epochs}",
        setting={
            "epochs": epochs,
            "batch": noise.BATCH,
            "optimizer": f"Adam, rate {RATE}, for the noise {NOISE_RATE}, both falling linearly to 0",
            "log variances at the start": -9,
            "epochs until the KL term has its whole weight": noise.RAMP * epochs,
            "log α above which an input goes": CUT,
        },
        differences=[
            "The paper's numbers for this network could not be checked, so none stands beside ours.",
            "Their tutorial sets a threshold per layer by looking at the values of log α. We cut every "
            + "layer at 0, where the noise is as large as the signal.",
            "Their tutorial scales the images to [−1, 1], has noise in the biases, and limits the noise "
            + "of the first layer's weights.",
            "The noise has a rate of its own, 20 times that of the weights.",
            record.ON_A_CARD,
        ],
        table=table(runs),
        seconds=seconds,
        details=runs,
    )


if __name__ == "__main__":
    main(*record.numbers(6, 60))
