"""Lee et al. 2019, "SNIP: Single-shot Network Pruning based on Connection Sensitivity":
LeNet-300-100 on MNIST, pruned before training.

    COURSE_DATA=folder python book/reproductions/snip2019.py [seeds]

writes ``snip2019.json`` beside this file. The paper's Table 1, as means of 20 runs: test error 1.7 %
dense, 1.6 % at 95 % sparsity, 2.4 % at 98 %. All networks of a seed start from the same weights and
see the same minibatches. Nothing was chosen by looking at errors: the settings are the paper's, and
training goes on until its learning rate has been divided by 10 twice, for as long as before.

The second table has the defaults of the authors' code, github.com/namhoonlee/snip-public, which the
paper does not mention: SGD without momentum, a constant rate, 10,000 steps, and the error is the
smallest of ten on the *test* images. It prunes biases, and all of them go, because they are 0 when
they are scored; and it trains other random weights than it scored. Each finished seed is kept in the
temporary folder, so that an interrupted run goes on with the next one.

Mikler and Plaszczyk (ICLR's reproducibility challenge of 2019) repeated the experiment by themselves,
with Adam and with all images scored: 1.30 % dense, 2.16 % at 95 % sparsity (figure 6).
"""

import dataclasses
import sys
from functools import partial

import record
import torch
from tqdm import tqdm

from course_lib import data, ensemble, layers, models, training
from course_lib.pruning import allocate, criteria, masks, pipeline
from course_lib.pruning.masks import Masks

BATCH, TRAIN, DECAY = 100, 54_000, 25_000  # the rate falls every DECAY steps
EPOCHS = 3 * DECAY * BATCH // TRAIN + 1  # 75,060 steps
SPARSITIES = (0.95, 0.98)
STEPS, LOOKS = 10_000, 10  # of the authors' code
CODE = "By the authors' code"
PAPER = {"dense": 1.7, "SNIP, 95%": 1.6, "SNIP, 98%": 2.4}
SETTING = {
    "epochs": EPOCHS,
    "batch": BATCH,
    "images scored": BATCH,
    "learning rate": f"0.1, divided by 10 every {DECAY:,} steps",
    "weight decay": 5e-4,
    "images": TRAIN,
    "test images": 10_000,
    CODE: {
        "steps": STEPS,
        "optimizer": "SGD without momentum, rate 0.1 throughout",
        "test images are looked at": f"every {STEPS // LOOKS:,} steps",
    },
}
VERDICT = (
    "Not reproduced, also with the paper's own schedule: our pruned networks make more errors than the "
    "paper's at both sparsities, although our dense network makes fewer. The cause is not known. It is "
    "none of what we found in the authors' code: pruned biases, other weights, and its short training "
    "without momentum each leave the pruned networks with as many errors or more. An independent "
    "repetition (Mikler and Plaszczyk 2018) could not reach the paper's error at the lower sparsity "
    "either, and its dense network too makes fewer errors than the paper's. Most of what SNIP achieves "
    "lies in how much it keeps of each layer: random masks with the same shares come close to "
    "it, and random masks over all layers do not."
)
DIFFERENCES = [
    "The paper does not say when its training stops.",
    "In the first table weights are pruned and biases kept, and the network is trained from the weights "
    + "that were scored. The second table shows what changes if biases go, and if other weights are "
    + "trained, as in the authors' code.",
    "The paper's errors are means of 20 runs.",
]


def standardised(train: data.Split, test: data.Split) -> tuple[data.Split, data.Split]:
    """Mean 0 and standard deviation 1 over all pixels of the training images, as in the authors'
    code. It matters here: a pixel that is 0 in every image gives its weights no gradient."""
    mean, sd = train.x.mean(), train.x.std()
    return data.Split((train.x - mean) / sd, train.y), data.Split((test.x - mean) / sd, test.y)


def alike(keep: Masks, seed: int) -> Masks:
    """Random masks that keep as many weights of every layer as ``keep``: what the scores know
    beyond the share of each layer."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=g)].view(mask.shape)
        for name, mask in keep.items()
    }


def candidates(net: torch.nn.Module, train: data.Split, seed: int) -> dict[str, Masks]:
    """Name -> masks of everything that is trained from one random start."""
    g = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(train.y), generator=g)[:BATCH]
    sensitivity = criteria.snip(net, (train.x[some], train.y[some]))
    chance = criteria.random(net, seed=seed)
    found = {"dense": allocate.globally(sensitivity, 0.0)}
    for s in SPARSITIES:
        found[f"SNIP, {s:.0%}"] = allocate.globally(sensitivity, s)
        found[f"random, {s:.0%}"] = allocate.globally(chance, s)
    found[f"random, SNIP's layers, {s:.0%}"] = alike(found[f"SNIP, {s:.0%}"], seed)
    return found


def start_of(seed: int) -> torch.nn.Module:
    """LeNet-300-100 with weights of variance 1 / fan-in, as in the authors' code."""
    net = models.lenet_300_100(seed=seed)  # 2 / fan-in
    with torch.no_grad():
        for weight in layers.weights(net).values():
            weight.div_(2**0.5)
    return net


def run(seed: int, train: data.Split, test: data.Split) -> dict[str, dict[str, float]]:
    """Test error in % of every candidate after training, and what the sparsest SNIP mask keeps."""
    start = start_of(seed)
    keep = candidates(start, train, seed)
    nets = ensemble.stack([start] * len(keep))
    optimizer = training.sgd(nets, lr=0.1, weight_decay=5e-4)
    steps = EPOCHS * -(-TRAIN // BATCH)
    plan = training.Plan(
        epochs=EPOCHS,
        batch_size=BATCH,
        optimizer=optimizer,
        seed=seed,
        schedule=lambda t: 0.1 ** int(t * steps / DECAY),
    )
    pipeline.train_held(nets, train, masks.stack(list(keep.values())), plan)
    errors = (100 - training.evaluate(nets, test)).tolist()
    sparsest = keep[f"SNIP, {SPARSITIES[-1]:.0%}"]
    return {
        "error": {name: round(e, 2) for name, e in zip(keep, errors, strict=True)},
        "kept": {name: round(float(mask.float().mean()), 4) for name, mask in sparsest.items()},
    }


def arms_of_the_code(seed: int, train: data.Split) -> dict[str, tuple[torch.nn.Module, Masks]]:
    """Name -> random weights and masks. At each sparsity: weights that were scored and all biases, as
    in the first table; then what the code does differently, one by one and together."""
    scored, other = start_of(seed), start_of(seed + 1000)
    biases = {n: p.detach() for n, p in scored.named_parameters() if n.endswith("bias")}
    free = {name: torch.ones_like(b, dtype=torch.bool) for name, b in biases.items()}
    gone = {name: ~mask for name, mask in free.items()}
    found = candidates(scored, train, seed)
    arms = {"dense": (scored, found["dense"] | free)}
    for s in SPARSITIES:
        keep = found[f"SNIP, {s:.0%}"]
        arms[f"SNIP, {s:.0%}, masks and weights as above"] = (scored, keep | free)
        arms[f"SNIP, {s:.0%}, without biases"] = (scored, keep | gone)
        arms[f"SNIP, {s:.0%}, other weights"] = (other, keep | free)
        arms[f"SNIP, {s:.0%}, both"] = (other, keep | gone)
    return arms


def run_of_the_code(seed: int, train: data.Split, test: data.Split) -> dict[str, list[float]]:
    """Test error in % of every arm after each thousandth step."""
    arms = arms_of_the_code(seed, train)
    nets = ensemble.stack([start for start, _ in arms.values()])
    keep = masks.stack([mask for _, mask in arms.values()])
    plan = training.Plan(
        epochs=STEPS * BATCH // TRAIN + 1,
        batch_size=BATCH,
        optimizer=training.sgd(nets, lr=0.1, momentum=0.0, weight_decay=5e-4),
        seed=seed,
        schedule=lambda t: 1.0,
    )
    looks = []
    for last in range(STEPS // LOOKS, STEPS + 1, STEPS // LOOKS):
        part = dataclasses.replace(plan, first=last - STEPS // LOOKS, last=last)
        pipeline.train_held(nets, train, keep, part)
        looks.append((100 - training.evaluate(nets, test)).tolist())
    return {
        name: [round(e, 2) for e in errors]
        for name, errors in zip(arms, zip(*looks, strict=True), strict=True)
    }


def table(runs: list[dict], looks: list[dict]) -> list[dict]:
    """The rows of both tables, from what ``run`` and ``run_of_the_code`` found."""
    rows = [
        record.row(f"test error, {name}", "%", [r["error"][name] for r in runs], PAPER.get(name))
        for name in runs[0]["error"]
    ]
    for name in looks[0]:
        quantity = f"{CODE}: smallest of {LOOKS} test errors, {name}"
        paper = PAPER.get(name.removesuffix(", both"))
        rows.append(record.row(quantity, "%", [min(r[name]) for r in looks], paper))
    return rows


def main(seeds: int) -> None:
    """Run what is missing, and write the result file."""
    torch.set_num_threads(1)
    train, test = standardised(*data.load("mnist", size=28, n_train=TRAIN))
    runs, looks, seconds = [], [], 0.0
    for seed in tqdm(range(seeds), desc="seeds"):
        for found, part, make in (
            (runs, EPOCHS, partial(run, seed, train, test)),
            (looks, "code", partial(run_of_the_code, seed, train, test)),
        ):
            one, taken = record.kept(__file__, f"{part}-{seed}", make)
            found.append(one)
            seconds += taken
    record.write(
        __file__,
        experiment="Lee et al. 2019 (SNIP), Table 1: LeNet-300-100 on MNIST, pruned before training",
        verdict=VERDICT,
        command=f"python book/reproductions/snip2019.py {seeds}",
        setting=SETTING,
        differences=DIFFERENCES,
        table=table(runs, looks),
        seconds=seconds,
        details={
            "kept of each layer, SNIP at 98 %": [r["kept"] for r in runs],
            f"test errors, every {STEPS // LOOKS:,} steps": looks,
        },
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
