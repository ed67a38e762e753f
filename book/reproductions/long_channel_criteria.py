"""The lesson on channel criteria with long training: agreement with the oracle, and fine-tuning.

    python book/reproductions/long_channel_criteria.py

writes ``long_channel_criteria.json`` beside this file. It asks two questions of the lesson's small
VGGs on glyphs. Which score ranks the channels of a layer as their removal does, with and without
batch norm, and in MLPs after SGD and after Adam? And which of the networks cut to half of their
channels is best after 2, 8 and 24 epochs of fine-tuning, beside networks of half the width that were
trained from scratch for as many epochs in all? Learning rates are chosen on training images set
aside, with other seeds. An interrupted run goes on where it stopped: its parts lie in the folder for
temporary files.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import record
import torch
from torch import Tensor, nn

from course_lib import data, experiments, models, training
from course_lib.experiments import Arm
from course_lib.pruning import channel_criteria, channels
from course_lib.training import Plan

SEEDS, OTHERS = range(6), range(100, 103)
IMAGES, ASIDE, LOOKED_AT = 2000, 400, 300
EPOCHS, TUNED = 24, (2, 8, 24)
SCORES = ("random", "L1", "mean", "sd", "1 − APoZ", "Taylor")
CUT = ("random", "L1", "Taylor", "oracle")
PARTS = Path(tempfile.gettempdir()) / "long_channel_criteria"
VERDICT = (
    "Within layers the order of the lesson stands after long training. After long fine-tuning "
    "no difference shows between L1, Taylor and the oracle; only randomly chosen channels "
    "stay behind."
)


def part(name: str, make: Callable[[], object]) -> object:
    """What ``make`` returns, or returned in an earlier run."""
    path = PARTS / f"{name}.pt"
    if not path.exists():
        PARTS.mkdir(exist_ok=True)
        torch.save(make(), path)
    return torch.load(path, weights_only=False)


def sgd(lr: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """The lessons' optimizer with this rate."""
    return lambda model: training.sgd(model, lr=lr)


def adam(lr: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Adam with this rate."""
    return lambda model: torch.optim.Adam(model.parameters(), lr=lr)


def vgg(seed: int) -> nn.Module:
    """The lesson's network."""
    return models.vgg(width=0.5, seed=seed)


def mlp(seed: int) -> nn.Module:
    """The network of the lesson on magnitude."""
    return models.mlp(seed=seed)


def half(seed: int) -> nn.Module:
    """A network of the shape that is left when half of each layer's channels go."""
    return models.vgg(width=0.25, seed=seed)


def bare(seed: int) -> nn.Module:
    """The lesson's network with a bias in place of each batch norm."""
    net = copy.deepcopy(vgg(seed))
    for block in (net.block1, net.block2, net.block3, net.block4):
        block[1] = nn.Identity()
        block[0].bias = nn.Parameter(torch.zeros(block[0].out_channels))
    return net


def chosen(
    make: Callable[[int], nn.Module],
    train: data.Split,
    optimizer: Callable[[float], Callable],
    rates: Sequence[float],
    epochs: int,
) -> float:
    """The rate that is best on images set aside."""
    settings = {r: Arm(make, None, Plan(epochs=epochs, optimizer=optimizer(r))) for r in rates}
    plan = Plan(epochs=epochs)
    return float(experiments.choose(settings, train, plan, held_out=ASIDE, seeds=OTHERS).setting)


def scored(net: nn.Module, graph: channels.ChannelGraph, train: data.Split, seed: int) -> dict:
    """Every score of one network."""
    batch = train.x[:LOOKED_AT], train.y[:LOOKED_AT]
    return {
        "random": channel_criteria.random(net, graph, seed=seed),
        "L1": channel_criteria.l1(net, graph),
        "mean": channel_criteria.activation_mean(net, graph, batch[0]),
        "sd": channel_criteria.activation_std(net, graph, batch[0]),
        "1 − APoZ": channel_criteria.apoz(net, graph, batch[0]),
        "Taylor": channel_criteria.taylor(net, graph, batch, normalise=False),
        "oracle": channel_criteria.oracle(net, graph, batch),
    }


def within(graph: channels.ChannelGraph, score: Tensor, oracle: Tensor) -> float:
    """Spearman's ρ with the oracle, the mean over layers."""
    rows = list(graph.rows().values())
    return sum(channel_criteria.spearman(score[r], oracle[r]) for r in rows) / len(rows)


def agreements(nets: list[nn.Module], train: data.Split, what: str) -> tuple[list[dict], list]:
    """Rows of the table: per score, ρ of each network. And the scores themselves."""
    graph = channels.trace(nets[0], train.x[:1])
    found = [scored(net, graph, train, seed) for net, seed in zip(nets, SEEDS, strict=True)]
    rows = [
        record.row(
            f"{name} within a layer, {what}",
            "ρ",
            [round(within(graph, one[name], one["oracle"]), 3) for one in found],
        )
        for name in SCORES
    ]
    return rows, found


def cuts(nets: list[nn.Module], found: list, train: data.Split, name: str) -> list[nn.Module]:
    """The networks without the half of each layer that scores lowest."""
    graph = channels.trace(nets[0], train.x[:1])
    return [
        channels.remove(net, graph, channels.weakest(graph, scores[name], 0.5))
        for net, scores in zip(nets, found, strict=True)
    ]


def tuning_rate(train: data.Split, lr: float) -> float:
    """The rate of fine-tuning, chosen on networks with other seeds that never saw the images aside."""
    n = len(train.y) - ASIDE
    rest = data.Split(train.x[:n], train.y[:n])
    plan = Plan(epochs=8, optimizer=sgd(lr))
    nets = experiments.run({"": Arm(vgg)}, rest, rest, plan, seeds=OTHERS).networks[""]
    graph = channels.trace(nets[0], train.x[:1])
    small = [
        channels.remove(n, graph, channels.weakest(graph, channel_criteria.l1(n, graph), 0.5))
        for n in nets
    ]
    return chosen(lambda seed: small[seed - OTHERS[0]], train, sgd, (0.03, 0.1, 0.3), 8)


def fine_tuning(nets: list[nn.Module], found: list, splits: tuple, rates: dict) -> list[dict]:
    """Rows of the table: accuracy of the cut networks and of the small ones, by epochs."""
    train, test = splits
    cut = {name: Arm(cuts(nets, found, train, name)) for name in CUT}

    def tuned(epochs: int) -> dict[str, list[float]]:
        plan = Plan(epochs=epochs, optimizer=sgd(rates["fine-tuning"]))
        return experiments.run(cut, train, test, plan, seeds=SEEDS).accuracy

    def scratch(epochs: int) -> list[float]:
        plan = Plan(epochs=epochs, optimizer=sgd(rates["half the width"]))
        return experiments.run({"": Arm(half)}, train, test, plan, seeds=SEEDS).accuracy[""]

    as_cut = experiments.evaluate(cut, test, seeds=SEEDS)
    rows = [row(f"{name}, half cut, no fine-tuning", as_cut[name]) for name in CUT]
    for epochs in TUNED:
        total = EPOCHS + epochs
        after = part(f"tuned {epochs}", lambda epochs=epochs: tuned(epochs))
        rows += [row(f"{n}, half cut, {epochs} epochs of fine-tuning", after[n]) for n in CUT]
        small = part(f"small {total}", lambda total=total: scratch(total))
        rows.append(row(f"half the width from scratch, {total} epochs", small))
    return rows


def chosen_rates(train: data.Split) -> dict[str, float]:
    """The rates, each chosen on images set aside."""
    rates = {
        "batch norm": chosen(vgg, train, sgd, (0.025, 0.05, 0.1), 6),
        "no batch norm": chosen(bare, train, sgd, (0.025, 0.05, 0.1), 6),
        "half the width": chosen(half, train, sgd, (0.05, 0.1, 0.2, 0.4), 16),
        "MLP, SGD": chosen(mlp, train, sgd, (0.1, 0.3, 1.0), 24),
        "MLP, Adam": chosen(mlp, train, adam, (0.003, 0.01, 0.03), 24),
    }
    return rates | {"fine-tuning": tuning_rate(train, rates["batch norm"])}


def whole(arm: Arm, train: data.Split, test: data.Split) -> tuple[list[float], list[nn.Module]]:
    """Accuracies and networks of one arm."""
    runs = experiments.run({"": arm}, train, test, Plan(epochs=EPOCHS), seeds=SEEDS)
    return runs.accuracy[""], runs.networks[""]


def row(quantity: str, values: list[float]) -> dict:
    """A row of accuracies."""
    ours = [round(value, 2) for value in values]
    return record.row(quantity, "%", ours)


def main() -> None:
    """Run, and write the result file."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    train, test = data.load("glyphs", n_train=IMAGES, n_test=2000)
    rates = part("rates", lambda: chosen_rates(train))
    arms = {
        "batch norm": Arm(vgg, None, Plan(epochs=EPOCHS, optimizer=sgd(rates["batch norm"]))),
        "no batch norm": Arm(
            bare, None, Plan(epochs=EPOCHS, optimizer=sgd(rates["no batch norm"]))
        ),
        "MLP, SGD": Arm(mlp, None, Plan(epochs=EPOCHS, optimizer=sgd(rates["MLP, SGD"]))),
        "MLP, Adam": Arm(mlp, None, Plan(epochs=EPOCHS, optimizer=adam(rates["MLP, Adam"]))),
    }
    trained = {
        what: part(f"trained, {what}", lambda what=what: whole(arms[what], train, test))
        for what in arms
    }
    table, found = [], {}
    for what, (accuracy, nets) in trained.items():
        table.append(row(f"whole network, {what}", accuracy))
        rows, found[what] = agreements(nets, train, what)
        table += rows
    table += fine_tuning(trained["batch norm"][1], found["batch norm"], (train, test), rates)
    record.write(
        __file__,
        experiment="Channel criteria, trained for long: agreement with the oracle, and fine-tuning",
        command="python book/reproductions/long_channel_criteria.py",
        verdict=VERDICT,
        setting={
            "network": "models.vgg(width=0.5), 48 channels, and models.mlp(), 150 neurons",
            "images": IMAGES,
            "epochs": EPOCHS,
            "images the scores and the oracle look at": LOOKED_AT,
            "rates": rates,
        },
        differences=[
            "There is no paper with this run: it is the lesson's experiment with more epochs."
        ],
        table=table,
        seconds=time.perf_counter() - start,
    )


if __name__ == "__main__":
    main()
