"""Han, Mao & Dally 2016, "Deep Compression": LeNet-300-100 and LeNet-5 on MNIST, 40× and 39×.

    COURSE_DATA=folder python book/reproductions/deepcompression2016.py [seeds] [seeds LeNet-5] [folder]

writes ``deepcompression2016.json`` beside this file. Each network and seed leaves its result in the
folder as soon as it is there, and is not run again. Bytes are those of files on the disk that were
read back bit-identical.
"""

import copy
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import record
import torch
from torch import nn
from tqdm import tqdm

from course_lib import data, measure, models, training
from course_lib.compression import coding, sharing
from course_lib.pruning import pipeline, schedules

VERDICT = (
    "Reproduced, with settings of our own: the files are about as small as the paper's, and "
    "the error is about that of the network before pruning. The settings that we tried first "
    "lost more; their tables stand here too."
)


class Setting(NamedTuple):
    """What one network is run with."""

    build: Callable[..., nn.Module]
    rate: float  # learning rate
    decay: float  # of the weights
    trained: int  # epochs of training
    rounds: int  # of pruning
    epochs: int  # of retraining after each
    sparsity: float
    bits: dict[str, int]
    paper: dict[str, float]  # tables 1 to 3


FOUR_BITS = {"fc1.weight": 4, "fc2.weight": 4, "fc3.weight": 4}
LENET5_BITS = {"conv1.weight": 5, "conv2.weight": 5, "fc1.weight": 4, "fc2.weight": 4}
TABLE_2 = {"error": 1.58, "dense": 1.64, "bytes": 27_000, "P": 12, "P+Q": 32, "P+Q+H": 40}
TABLE_3 = {"error": 0.74, "dense": 0.80, "bytes": 44_000, "P": 12, "P+Q": 33, "P+Q+H": 39}
LENET_300 = Setting(models.lenet_300_100, 0.1, 5e-4, 12, 4, 6, 0.90, FOUR_BITS, TABLE_2)
LENET_5 = Setting(models.lenet5, 0.03, 5e-4, 8, 4, 6, 0.92, LENET5_BITS, TABLE_3)
SETTINGS = {
    "LeNet-300-100": LENET_300,
    "LeNet-300-100, decay 0.0001": LENET_300._replace(decay=1e-4, epochs=3),
    "LeNet-300-100, 92 %": LENET_300._replace(decay=1e-4, epochs=3, sparsity=0.92),
    "LeNet-5": LENET_5,
    "LeNet-5, 91 %": LENET_5._replace(sparsity=0.91),
    "LeNet-5, rate 0.01": LENET_5._replace(rate=0.01, decay=1e-4, epochs=3),
}
TUNED, TUNING_RATE = 1, 3e-4  # epochs and Adam's rate for the centroids
DIFFERENCES = [
    (
        "Magnitude is ranked over all layers at once and the sparsity is given; the paper sets a "
        "threshold for each layer."
    ),
    (
        "Retraining replays the last epochs' learning rates after each of a few rounds; the paper does "
        "not give its schedule."
    ),
    (
        "Weights have 4 bits (convolutions of LeNet-5: 5), one of the codes being zero; the paper has 6 "
        "for LeNet-300-100, 5 and 8 for LeNet-5."
    ),
    (
        "4 bits and 92 % were chosen for LeNet-300-100 on the last 5,000 training images, with one seed "
        "that is not among these; LeNet-5 took them over. 90 % for LeNet-300-100 and 91 % for LeNet-5 "
        "were computed to make files of about the paper's sizes."
    ),
    (
        'The rows "decay 0.0001", "92 %" and "rate 0.01" were run first and lost more; the last of them '
        "fitted its training images badly once pruned. The weight decay (Caffe's), the rate of LeNet-5 "
        "and the epochs of retraining of the other rows were then chosen on the last "
        "10,000 training images, again with one other seed. LeNet-5 had diverged at the rate 0.05."
    ),
    "The index width is searched in every layer and the distances are coded; the paper fixes 5 bits.",
    (
        "The paper's rate for P (12×) counts weights; ours in bytes includes the indices of the file "
        "with float32 values, and is smaller for it."
    ),
    "Centroids are trained by Adam on the summed gradients; the paper does not name its optimizer.",
    (
        "The paper compares with the network before pruning. So do we, and with a control that trains "
        "the dense network for the same epochs at the same learning rates."
    ),
    (
        "LeNet-5 has five seeds: the sixth diverges in its first epoch, on a processor as on a graphics "
        "card, so the rate 0.03 is not safe either."
    ),
    record.ON_A_CARD,
]


def on_disk(net: nn.Module, *, huffman: bool) -> int:
    """Bytes of the file, which is read back to prove that they suffice."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.dc"
        coding.save(net, path, huffman=huffman)
        other = copy.deepcopy(net)
        for p in other.parameters():
            p.data.fill_(1)
        coding.load(path, other)
        pairs = zip(net.parameters(), other.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)
        return path.stat().st_size


def tune(net: nn.Module, train: data.Split, seed: int, clusters: sharing.Clusters) -> None:
    """One more epoch for the centroids and biases; with no clusters, for every weight."""
    optimizer = torch.optim.Adam(net.parameters(), lr=TUNING_RATE, fused=True)
    with sharing.hold(optimizer, net, clusters):
        training.fit(net, train, epochs=TUNED, optimizer=optimizer, seed=seed)


def run(setting: Setting, seed: int, train: data.Split, test: data.Split) -> dict[str, object]:
    """Errors and bytes of one seed after every stage, and of the dense control."""

    def sgd(model: nn.Module) -> torch.optim.Optimizer:
        return training.sgd(model, lr=setting.rate, weight_decay=setting.decay)

    net = setting.build(seed=seed)
    net.to(memory_format=torch.channels_last)  # its convolutions are faster so
    plan = training.Plan(epochs=setting.trained, optimizer=sgd, seed=seed)
    training.fit(net, train, plan)
    found: dict[str, object] = {"seed": seed, "error dense": record.error(net, test)}
    control = copy.deepcopy(net)
    again = dataclasses.replace(pipeline.rate_rewinding(plan, setting.epochs), seed=100 * seed)
    for arm, sparsity in ((net, setting.sparsity), (control, 0.0)):
        gradual = schedules.geometric(sparsity, setting.rounds)
        rounds = pipeline.iterate(arm, train, again, pipeline.Pruning(gradual, setting.rounds))
        if arm is net:
            found["kept"] = {n: int(m.sum()) for n, m in rounds[-1].masks.items()}
    tune(control, train, seed, {})
    found["error dense, same epochs"] = record.error(control, test)
    found["error P"] = record.error(net, test)
    clusters = sharing.clusters(net, setting.bits)
    found["bytes dense"] = measure.bytes_dense(net)
    found["bytes P"] = on_disk(net, huffman=False)
    found["bytes P, LZMA"] = measure.bytes_file(net)
    sharing.apply(net, clusters)
    found["error P+Q, not tuned"] = record.error(net, test)
    tune(net, train, seed, clusters)
    found["error P+Q+H"] = record.error(net, test)
    found["bytes P+Q"] = on_disk(net, huffman=False)
    found["bytes P+Q+H"] = on_disk(net, huffman=True)
    found["bytes P+Q, LZMA"] = measure.bytes_file(net)
    found["parts"] = coding.sizes(net)
    return found


def spelled(setting: Setting) -> dict[str, object]:
    """A setting as the book prints it."""
    return {
        "learning rate": setting.rate,
        "weight decay": setting.decay,
        "epochs of training": setting.trained,
        "rounds": setting.rounds,
        "epochs of retraining per round": setting.epochs,
        "sparsity": setting.sparsity,
        "bits": setting.bits,
    }


def table(name: str, setting: Setting, runs: list[dict]) -> list[dict[str, object]]:
    paper = setting.paper
    rows = [
        ("error, dense, before pruning", "%", paper["dense"], "error dense"),
        ("error, dense, trained as long", "%", None, "error dense, same epochs"),
        ("error after pruning", "%", None, "error P"),
        ("error, shared but not tuned", "%", None, "error P+Q, not tuned"),
        ("error, compressed", "%", paper["error"], "error P+Q+H"),
        ("file, compressed", "bytes", paper["bytes"], "bytes P+Q+H"),
    ]
    found = [
        record.row(f"{name}: {q}", unit, [r[key] for r in runs], value)
        for q, unit, value, key in rows
    ]
    for stage in ("P", "P+Q", "P+Q+H"):
        ratios = [round(r["bytes dense"] / r[f"bytes {stage}"], 2) for r in runs]
        quantity = f"{name}: times smaller on disk, {stage}"
        found.append(record.row(quantity, "×", ratios, paper[stage]))
    return found


def main(seeds: dict[str, int], folder: Path) -> None:
    """Run what is missing in the folder, and write the result file of what is there."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    train, test = data.load("mnist", size=28)
    wanted = [(name, seed) for name, n in seeds.items() for seed in range(n)]
    runs: dict[str, list[dict]] = {name: [] for name, n in seeds.items() if n}
    wanted.sort(key=lambda one: not (folder / "{}-{}.json".format(*one)).exists())
    for name, seed in tqdm(wanted, desc="networks"):
        kept = folder / f"{name}-{seed}.json"
        if not kept.exists():
            start = time.perf_counter()
            found = run(SETTINGS[name], seed, train, test)
            kept.write_text(json.dumps(found | {"seconds": time.perf_counter() - start}))
        runs[name].append(json.loads(kept.read_text()))
        record.write(
            __file__,
            experiment="Han, Mao & Dally 2016, Deep Compression of LeNet-300-100 and LeNet-5, MNIST",
            verdict=VERDICT,
            command="python book/reproductions/deepcompression2016.py "
            + f"{seeds['LeNet-300-100']} {seeds['LeNet-5']}",
            setting={name: spelled(SETTINGS[name]) for name in runs}
            | {"images": len(train.y), "test images": len(test.y), "epochs of tuning": TUNED},
            differences=DIFFERENCES,
            table=[
                row for n, found in runs.items() if found for row in table(n, SETTINGS[n], found)
            ],
            seconds=sum(r["seconds"] for found in runs.values() for r in found),
            details=runs,
        )


if __name__ == "__main__":
    given = [int(a) for a in sys.argv[1:3]]
    three, five = (given + [6, 5][len(given) :])[:2]
    where = Path(
        sys.argv[3] if len(sys.argv) > 3 else Path(tempfile.gettempdir()) / "deepcompression"
    )
    numbers = (three, three, three, five, five, 1)
    main(dict(zip(SETTINGS, numbers, strict=True)), where)
