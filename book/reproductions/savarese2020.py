"""Savarese et al. 2020, "Winning the lottery with continuous sparsification", on LeNet-300-100 and
MNIST, beside the lottery ticket and magnitude with as many weights in every layer.

    COURSE_DATA=folder python book/reproductions/savarese2020.py [seeds] [epochs] [images]

writes ``savarese2020.json`` beside this file. The paper has no numbers for this network, so nothing
stands beside ours; the question is the paper's: is a mask that training finds by gates better than
one found by magnitude? The gates train from scratch, in as many epochs as one dense training. Where
they start, s0, decides how many weights they leave: of ``STARTS`` the script takes the one whose
sparsity on a seed of its own is closest to 98 %, and looks at no accuracy for it. Every other arm
then keeps exactly as many weights of each layer. An interrupted run goes on with the next part.
"""

import copy

import record
import torch
from torch import nn

from course_lib import data, ensemble, models, training
from course_lib.pruning import allocate, criteria, gates, lottery, masks, pipeline
from course_lib.pruning.masks import Masks

STARTS = (0.0, -0.025, -0.05, -0.075, -0.1)
TARGET, TO, BATCH, ROUNDS, PILOT = 0.98, 200.0, 100, 5, 100
VERDICT = (
    "Reproduced in its claim, on another network and fewer images: gates find in a single training "
    + "a mask that is better than what one cut by magnitude keeps with as many weights per layer, "
    + "and as good as a lottery ticket of several trainings. Most of it lies in the mask together "
    + "with the initial values that it was found with."
)


def learnt(
    seed: int, start: float, train: data.Split, plan: training.Plan
) -> tuple[nn.Module, Masks]:
    """A network whose gates trained with its weights, hardened, and its masks."""
    net = models.lenet_300_100(seed=seed)
    gates.attach(net, gates.Sigmoid(start))

    def annealed(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = training.sgd(model)
        gates.anneal(optimizer, model, to=TO, steps=plan.epochs * (-(-len(train.y) // BATCH)))
        return optimizer

    training.fit(net, train, plan, optimizer=annealed)
    return net, gates.harden(net)


def chosen(train: data.Split, plan: training.Plan) -> dict:
    """The start whose sparsity is closest to the target, and the sparsities of all."""
    found = {}
    for start in STARTS:
        part = f"pilot {start} {plan.epochs} {len(train.y)}"
        found[start], _ = record.kept(
            __file__,
            part,
            lambda start=start: masks.sparsity(learnt(PILOT, start, train, plan)[1]),
        )
    return {"start": min(found, key=lambda s: abs(found[s] - TARGET)), "sparsities": found}


def shares(keep: Masks, rounds: int) -> pipeline.Pruning:
    """Remove the smallest weights in rounds, until every layer has as many as ``keep``."""
    left = {name: 1 - masks.sparsity({name: mask}) for name, mask in keep.items()}

    def after(r: int) -> dict[str, float]:
        return {name: 1 - share ** (r / rounds) for name, share in left.items()}

    return pipeline.Pruning(after, rounds, criteria.magnitude, allocate.per_layer)


def run(seed: int, start: float, splits: tuple, plan: training.Plan) -> dict:
    """Accuracy of every arm of one seed, and the weights that it keeps."""
    train, test = splits
    first = models.lenet_300_100(seed=seed)
    other = lottery.reinitialise(first, seed=seed)
    net, keep = learnt(seed, start, train, plan)
    found = {"gates": float(training.evaluate(net, test))}
    dense = copy.deepcopy(first)
    training.fit(dense, train, plan)
    found["dense"] = float(training.evaluate(dense, test))
    small = shares(keep, 1).allocate(criteria.magnitude(dense), shares(keep, 1).sparsity(1))
    arms = {
        "the gates' weights, their initial values": (first, keep),
        "the gates' weights, other initial values": (other, keep),
        "random weights, initial values": (first, lottery.random_mask(first, keep, seed=seed)),
        "largest of the dense, initial values": (first, small),
        "largest of the dense, retrained": (dense, small),
    }
    stack = ensemble.stack([lottery.ticket(net, mask) for net, mask in arms.values()])
    pipeline.train_held(stack, train, masks.stack([mask for _, mask in arms.values()]), plan)
    found |= dict(zip(arms, training.evaluate(stack, test).tolist(), strict=True))
    short = pipeline.rate_rewinding(plan, plan.epochs // ROUNDS)
    rounds = pipeline.iterate(dense, train, short, shares(keep, ROUNDS), test=test)
    found["largest of the dense, in rounds"] = float(rounds[-1].accuracy)
    search = lottery.find_tickets(first, train, plan, shares(keep, ROUNDS), test=test)
    found["lottery ticket, in rounds"] = float(search.rounds[-1].accuracy)
    assert all(int(m.sum()) == int(keep[n].sum()) for n, m in search.rounds[-1].masks.items())
    layers = {name: masks.sparsity({name: mask}) for name, mask in keep.items()}
    return {"accuracy": found, "sparsity": masks.sparsity(keep), "layers": layers}


def main(seeds: int, epochs: int, n: int) -> None:
    """Run, and write the result file."""
    torch.set_num_threads(1)
    train, test = data.load("mnist", size=28, n_train=n)
    plan = training.Plan(epochs=epochs, batch_size=BATCH)
    pilot = chosen(train, plan)
    runs, seconds = record.per_seed(
        __file__,
        seeds,
        f"{epochs} {n}",
        lambda seed: run(seed, pilot["start"], (train, test), plan),
    )
    table = [
        record.row(f"accuracy, {arm}", "%", [round(one["accuracy"][arm], 2) for one in runs], None)
        for arm in runs[0]["accuracy"]
    ]
    sparsity = [round(100 * one["sparsity"], 2) for one in runs]
    record.write(
        __file__,
        experiment="Savarese et al. 2020 (continuous sparsification): LeNet-300-100 on MNIST",
        verdict=VERDICT,
        command=f"python book/reproductions/savarese2020.py {seeds} {epochs} {n}",
        setting={
            "epochs of each training": epochs,
            "batch": BATCH,
            "images": n,
            "optimizer": "SGD, rate 0.1 falling linearly to 0, momentum 0.9",
            "start of the gates, chosen by sparsity": pilot["start"],
            "steepness at the end": TO,
            "rounds of the arms in rounds": ROUNDS,
        },
        differences=[
            "The paper has VGG-16 and ResNet-20 on CIFAR-10; no number of its stands beside ours.",
            f"{n:,} images, and no arm's learning rate was chosen. Each round of magnitude that starts "
            + "from the dense network repeats the last fifth of its learning rates.",
            "One round of gates, without a penalty; the authors' code has 1e-8 and three rounds.",
            "The steepness grows at every step; in the authors' code once per epoch.",
            f"The lottery ticket takes {ROUNDS} rounds, each a whole training. With 20 % per round, "
            + "as Frankle & Carbin have it, there would be 18.",
        ],
        table=[record.row("sparsity of every arm but the dense", "%", sparsity), *table],
        seconds=seconds,
        details={
            "sparsity on a seed of its own, by start": pilot["sparsities"],
            "sparsity of each layer": [one["layers"] for one in runs],
        },
    )


if __name__ == "__main__":
    main(*record.numbers(3, 10, 20_000))
