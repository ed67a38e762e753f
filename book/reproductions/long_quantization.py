"""The lesson Quantization's trainings with few bits, four times as long.

    python book/reproductions/long_quantization.py [folder]

writes ``long_quantization.json`` beside this file: binary image and binary activations, binary and
ternary weights, and a hashed network beside a small one of equal storage, all on the glyphs. What
has been run is kept in the folder and not run again.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import record
import torch
from torch import nn
from tqdm import tqdm

from course_lib import data, experiments, models, parametrized, training
from course_lib.compression import binary, hashing
from course_lib.experiments import Arm
from course_lib.training import Plan

SEEDS, LONG, HASHED = range(6), 20, 24
VERDICT = (
    "With four times the epochs the lesson's orders stay: the binary image and binary activations "
    "each cost points, ternary weights beat binary ones, and the hashed network beats a small one of "
    "equal storage."
)


def half_binary(seed: int, image: bool, hidden: bool) -> nn.Module:
    """The binarized network of the lesson, with or without the signs of image and hidden units."""
    net = binary.bnn((196, 100, 50, 10), seed=seed)
    if not image:
        net.sign1 = nn.Identity()
    if not hidden:
        net.sign2, net.sign3 = nn.ReLU(), nn.ReLU()
    return net


def clipping_adam(net: nn.Module) -> torch.optim.Optimizer:
    adam = torch.optim.Adam(net.parameters(), lr=0.01, fused=True)
    binary.hold_in_range(adam, net)
    return adam


def arms() -> dict[str, Arm]:
    """Every row of the table."""
    signs = Plan(epochs=LONG, batch_size=200, optimizer=clipping_adam)
    found = {
        f"{'binary' if image else 'grey'} image, hidden {'±1' if hidden else 'ReLU'}": Arm(
            [half_binary(seed, image, hidden) for seed in SEEDS], plan=signs
        )
        for image in (False, True)
        for hidden in (False, True)
    }
    start = [models.mlp(seed=seed) for seed in SEEDS]
    weights = {"ternary": binary.ternary_weight, "binary": binary.binary_weight}
    found["float32 weights"] = Arm(start, plan=Plan(epochs=LONG))
    for name, values in weights.items():
        each = [parametrized.attach(net, values) for net in start]
        found[f"{name} weights"] = Arm(each, plan=Plan(epochs=LONG))
    shares = [hashing.hashed(models.mlp((196, 100, 10), seed=s), 1 / 8, seed=s) for s in SEEDS]
    small = [models.mlp((196, 12, 10), seed=seed) for seed in SEEDS]
    plan = Plan(epochs=HASHED, optimizer=lambda net: training.sgd(net, lr=0.3))
    found |= {"hashed 1/8": Arm(shares, plan=plan), "smaller dense": Arm(small, plan=plan)}
    return found


def main(folder: Path) -> None:
    """Run what is missing in the folder, and write the result file."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    train, test = data.load("glyphs")
    table, seconds = [], 0.0
    for name, arm in tqdm(arms().items(), desc="arms"):
        kept = folder / f"{name}.json".replace("/", "-")
        if not kept.exists():
            began = time.process_time()
            seeds = range(len(arm.networks))
            runs = experiments.run({name: arm}, train, test, Plan(epochs=1), seeds=seeds)
            found = {"seconds": time.process_time() - began, "ours": runs.accuracy[name]}
            kept.write_text(json.dumps(found))
        found = json.loads(kept.read_text())
        ours = [round(100 - value, 2) for value in found["ours"]]
        epochs = HASHED if name in ("hashed 1/8", "smaller dense") else LONG
        quantity = f"error after {epochs} epochs, {name}"
        table.append(record.row(quantity, "%", ours))
        seconds += found["seconds"]
    record.write(
        __file__,
        experiment="One bit, two bits, and shared numbers on the glyphs, trained longer",
        command="python book/reproductions/long_quantization.py",
        verdict=VERDICT,
        setting={"images": len(train.y), "rate of the last two": 0.3},
        differences=["The papers use other images and far larger networks."],
        table=table,
        seconds=seconds,
    )


if __name__ == "__main__":
    temporary = Path(tempfile.gettempdir()) / "long_quantization"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else temporary)
