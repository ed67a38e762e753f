"""Lesson Approaches: a learning rate for each design, and forty-eight epochs.

    python book/reproductions/long_approaches.py [seeds]

writes ``long_approaches.json`` beside this file. The lesson's network as built, with a pooled head,
with separable convolutions, and the narrow network with the bytes of the pooled head: first each of
them gets the learning rate that is best on training images set aside, with seeds used for nothing
else; then it trains for four times as many epochs as in the lesson.
"""

import sys
import time
from collections import OrderedDict
from functools import partial

import record
import torch
from torch import nn

from course_lib import data, experiments, training
from course_lib import seeds as random_numbers
from course_lib.compression import compact, decomposition
from course_lib.experiments import Arm
from course_lib.training import Plan

RATES, EPOCHS = (0.05, 0.1, 0.2, 0.4), 48
DIFFERENCES = ["GoogLeNet and MobileNet see ImageNet; these three convolutions see 14×14 digits."]


def conv(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out), nn.ReLU())


def layers(channels: tuple[int, int, int], hidden: int) -> OrderedDict[str, nn.Module]:
    a, b, c = channels
    found = OrderedDict[str, nn.Module](block1=conv(1, a, stride=2), block2=conv(a, b))
    found |= {"block3": conv(b, c), "flatten": nn.Flatten(), "fc1": nn.Linear(49 * c, hidden)}
    return found | {"relu": nn.ReLU(), "fc2": nn.Linear(hidden, 10)}


def fresh(net: nn.Module, seed: int) -> nn.Module:
    """Draw all weights anew, as torch does by default."""
    torch.manual_seed(random_numbers.shifted(seed))
    for layer in net.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return net


def network(seed: int, channels: tuple = (8, 16, 32), hidden: int = 64) -> nn.Module:
    return fresh(nn.Sequential(layers(channels, hidden)), seed)


def pooled(seed: int) -> nn.Module:
    return fresh(compact.pooled_head(network(seed), torch.zeros(1, 1, 14, 14)), seed)


def separable(seed: int) -> nn.Module:
    net = network(seed)
    convs = {name: net.get_submodule(name) for name in ("block2.0", "block3.0")}
    light = {name: compact.separable(conv) for name, conv in convs.items()}
    return fresh(decomposition.replaced(net, light), seed)


DESIGNS = {
    "as built": network,
    "pooled head": pooled,
    "narrow": partial(network, channels=(4, 8, 8), hidden=13),
    "separable": separable,
}


def plan(epochs: int, rate: float) -> Plan:
    optimizer = partial(training.sgd, lr=rate)
    return Plan(epochs=epochs, batch_size=50, optimizer=optimizer)


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    began = time.time()
    train, test = data.load("glyphs", n_train=2000, n_test=2000)
    chosen, errors = {}, {}
    for name, build in DESIGNS.items():
        settings = {rate: Arm(build, plan=plan(12, rate)) for rate in RATES}
        choice = experiments.choose(
            settings, train, plan(12, RATES[0]), held_out=400, seeds=(100, 101)
        )
        chosen[name] = choice.setting
        print(name, choice, flush=True)
        errors[name] = {f"{rate:g}": found for rate, found in choice.accuracy.items()}
    shared = {"pooled head": {chosen["as built"]: "rate of the network as built"}}
    table = []
    for name, build in DESIGNS.items():
        for rate, words in (shared.get(name, {}) | {chosen[name]: "its own rate"}).items():
            arms = {name: Arm(build)}
            found = experiments.run(arms, train, test, plan(EPOCHS, rate), seeds=range(seeds))
            ours = [round(accuracy, 2) for accuracy in found.accuracy[name]]
            quantity = f"{name}, {words}, {EPOCHS} epochs"
            table.append(record.row(quantity, "% test accuracy", ours))
            print(table[-1], flush=True)
    record.write(
        __file__,
        experiment="Lesson Approaches: designs with a learning rate of their own, and trained longer",
        command=f"python book/reproductions/long_approaches.py {seeds}",
        verdict=VERDICT,
        setting={
            "images": 2000,
            "minibatch": 50,
            "its own rate, chosen on 400 images set aside, 12 epochs, two seeds": chosen,
        },
        differences=DIFFERENCES,
        table=table,
        seconds=time.time() - began,
        details={"accuracy on the images set aside": errors},
    )


VERDICT = (
    "With a learning rate of its own and enough epochs no difference shows between the pooled "
    "head and the network as built, which has many times its bytes."
)

if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
