"""The experiments of the lesson Prune rate, trained longer. A few minutes on one core.

python book/reproductions/long_prune_rate.py
"""

import copy
import time
import warnings

import record
import torch

from course_lib import data, experiments, layers, measure, models, seeds
from course_lib.experiments import Arm
from course_lib.pruning import allocate, criteria, masks, schedules
from course_lib.training import Plan

SEEDS = range(5)
BLOCKS = (196, 32, 256, 32, 256, 32, 10)
EARLY, LATE = (2, 12, 24), (24,)  # epochs after pruning


def erdos_renyi(scores, sparsity):
    shares = allocate.erdos_renyi({n: s.shape for n, s in scores.items()}, sparsity)
    return allocate.per_layer(scores, shares)


def shuffled(networks, keeps):
    """An arm whose kept weights stand at random positions of their layers."""
    moved, where = [], []
    for seed, (net, keep) in enumerate(zip(networks, keeps, strict=True)):
        generator, new = seeds.generator(seed), copy.deepcopy(net)
        order = {n: torch.randperm(k.numel(), generator=generator) for n, k in keep.items()}
        for name, weight in layers.weights(new).items():
            weight.data.copy_(weight.flatten()[order[name]].view_as(weight))
        moved.append(new)
        where.append({n: k.flatten()[order[n]].view_as(k) for n, k in keep.items()})
    return Arm(moved, where)


def small(bytes_left, hidden):
    """The widest dense network in so many bytes; ``hidden`` makes its hidden sizes of a width."""
    widths = range(1, 200)
    fits = [
        w for w in widths if measure.bytes_dense(models.mlp((196, *hidden(w), 10))) <= bytes_left
    ]
    return lambda seed: models.mlp((196, *hidden(fits[-1]), 10), seed=seed)


def bytes_of(network, keep):
    network = copy.deepcopy(network)
    masks.apply(network, keep)
    return measure.bytes_sparse(network)


def one(width):
    return (width,)


def two(width):
    return (2 * width, width)


def before(train):
    """Arms pruned before training, all to 90 %."""
    nets = [models.mlp(BLOCKS, seed=seed) for seed in SEEDS]
    few = train.x[:1000], train.y[:1000]

    def synflow(net, steps):
        return allocate.iteratively(
            lambda keep: criteria.synflow(net, (1, 14, 14), within=keep),
            schedules.geometric(0.9, steps),
            steps=steps,
        )

    keeps = {
        "global magnitude": [allocate.globally(criteria.magnitude(n), 0.9) for n in nets],
        "local magnitude": [allocate.per_layer(criteria.magnitude(n), 0.9) for n in nets],
        "Erdős–Rényi": [erdos_renyi(criteria.magnitude(n), 0.9) for n in nets],
        "SNIP": [allocate.globally(criteria.snip(n, few), 0.9) for n in nets],
        "SynFlow in one round": [synflow(n, 1) for n in nets],
        "SynFlow in 100 rounds": [synflow(n, 100) for n in nets],
    }
    arms = {"dense": Arm(nets)} | {name: Arm(nets, keep) for name, keep in keeps.items()}
    for name in ("Erdős–Rényi", "SNIP", "SynFlow in 100 rounds"):
        arms[f"{name}, shuffled"] = shuffled(nets, keeps[name])
    room = bytes_of(nets[0], keeps["local magnitude"][0])
    return arms | {"small dense, as many bytes": Arm(small(room, two))}


def after(train, test):
    """Arms pruned after 12 epochs of training, to 90 and 98 %, and when a dense network was trained."""
    start = {"dense": Arm([models.mlp(seed=seed) for seed in SEEDS])}
    nets = experiments.run(start, train, test, Plan(epochs=12)).networks["dense"]
    arms, fresh = {"dense": Arm(nets)}, {}
    for s in (0.9, 0.98):
        ways = {
            "global magnitude": [allocate.globally(criteria.magnitude(n), s) for n in nets],
            "local magnitude": [allocate.per_layer(criteria.magnitude(n), s) for n in nets],
            "Erdős–Rényi": [erdos_renyi(criteria.magnitude(n), s) for n in nets],
        }
        arms |= {f"{name}, {s:.0%} removed": Arm(nets, keep) for name, keep in ways.items()}
        room = bytes_of(nets[0], ways["global magnitude"][0])
        for name, hidden in (("one", one), ("two", two)):
            key = f"small dense, as many bytes as at {s:.0%}, hidden layers: {name}"
            fresh[key] = small(room, hidden)
    return arms, fresh


def main():
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "nothing is left of")
    train, test = data.load("glyphs")
    began, rows = time.perf_counter(), []

    def note(prefix, found):
        rows.extend(
            record.row(f"{prefix}: {name}", "% right", values) for name, values in found.items()
        )

    arms = before(train)
    for epochs in EARLY:
        found = experiments.run(arms, train, test, Plan(epochs=epochs)).accuracy
        note(f"before training, {epochs} epochs", found)
    arms, fresh = after(train, test)
    for epochs in LATE:
        new = {n: Arm(make, plan=Plan(epochs=12 + epochs)) for n, make in fresh.items()}
        found = experiments.run(arms | new, train, test, Plan(epochs=epochs)).accuracy
        note(f"after training, {epochs} more epochs", found)
    record.write(
        __file__,
        experiment="Where to prune, before and after training: the lesson Prune rate for longer",
        command="python book/reproductions/long_prune_rate.py",
        verdict="With more epochs the lesson's conclusions stay, and the differences between "
        "allocations that keep every layer alive shrink.",
        setting={"seeds": len(SEEDS), "images": len(train.y), "data": "glyphs", "batch": 100},
        differences=[],
        table=rows,
        seconds=time.perf_counter() - began,
    )


if __name__ == "__main__":
    main()
