"""The lesson Bayesian pruning with more passes over the images: 12 and 24 epochs after the start.

    python book/reproductions/long_bayesian.py

writes ``long_bayesian.json`` beside this file. The data are the lesson's glyphs. Each arm's learning
rate is chosen at 12 epochs, on the last 2,000 training images and with seeds that are not among the
five of the experiment: the best rate is that of the highest accuracy after 87 % of the weights are
removed and four more epochs (for multipliers per input, the highest accuracy as they are). Each
finished part is kept in the temporary folder, so that an interrupted run goes on with the next one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

import record
import torch
from torch import Tensor, nn

from course_lib import data, ensemble, experiments, layers, measure, models, training
from course_lib.experiments import Arm
from course_lib.pruning import allocate, bayesian, criteria, masks, pipeline
from course_lib.training import Plan

START, MORE, BUDGETS, SEEDS = 12, 4, (12, 24), range(5)
RATES = {
    "variational dropout": (2e-3, 4e-3, 8e-3, 16e-3, 32e-3),
    "fixed noise": (1e-3, 2e-3, 4e-3, 8e-3),
    "plain Adam": (2e-3, 4e-3, 8e-3, 16e-3, 32e-3),
    "multipliers": (1e-3, 2e-3, 4e-3, 8e-3),
    "cut, then SGD": (0.05, 0.1, 0.2, 0.4),
    "small dense": (0.05, 0.1, 0.2, 0.4),
}
CHOICE_SEEDS, CHOICE_EPOCHS, CHOICE_SPARSITY = range(100, 103), 12, 0.87
STEPS, BATCH, NOISE_RATE, FIXED_ALPHA = (
    8,
    200,
    20,
    0.25,
)  # the noise of multipliers learns 20 times as fast
DIFFERENCES = ["The data are the lesson's glyphs, so no paper has these numbers."]
VERDICT = (
    "Learnt noise loses far less at the cut than fixed noise; after retraining it is ahead of a cut by "
    "size at once with the longer budget, and level with a cut by size in steps; log α chooses as size "
    "does, and among whole inputs large norms choose as well as learnt noise."
)


class FixedNoise(bayesian.Noisy):
    """Gaussian dropout of the weights: the variance of each is a fixed share of its square."""

    def forward(self, input: Tensor) -> Tensor:
        mean = self.applied(input, self.weight, self.bias)
        if not self.training:
            return mean
        variance = FIXED_ALPHA * self.applied(input.square(), self.weight.square(), None)
        return mean + (variance + 1e-12).sqrt() * torch.randn_like(mean)


def adam(model: nn.Module, *, rate: float, n: int, ramp: int | None) -> torch.optim.Adam:
    """Adam, with the KL term if there is a ramp, and a faster rate for the noise of multipliers."""
    noise = {"mu", "log_sigma"}
    parameters = dict(model.named_parameters())
    fast = [p for name, p in parameters.items() if name.rpartition(".")[2] in noise]
    slow = [p for name, p in parameters.items() if name.rpartition(".")[2] not in noise]
    groups = [{"params": slow, "lr": rate}, {"params": fast, "lr": NOISE_RATE * rate}]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    if ramp is not None:
        bayesian.charge(optimizer, model, n=n, weight=bayesian.ramp(ramp))
    return optimizer


def noisy_arm(
    nets: Sequence[nn.Module], how: Callable | None, epochs: int, rate: float, n: int
) -> Arm:
    """Networks that train on with noise, or without."""
    made = [bayesian.noisy(net, how) if how else net for net in nets]
    charged = how in (bayesian.Variational, bayesian.Structured)
    ramp = int(0.4 * epochs * n / BATCH) if charged else None
    optimizer = partial(adam, rate=rate, n=n, ramp=ramp)
    return Arm(made, plan=Plan(epochs=epochs, batch_size=BATCH, optimizer=optimizer))


def plain(net: nn.Module) -> nn.Module:
    """A network of ``FixedNoise``, or an ordinary one, as an ordinary one."""
    made = models.mlp()
    made.load_state_dict(net.state_dict())
    return made


def cut(net: nn.Module, sparsity: float) -> masks.Masks:
    """The mask that keeps the largest weights of the network."""
    return allocate.globally(criteria.magnitude(net), sparsity)


def sgd_plan(epochs: int, rate: float = 0.1, start: float = 0.0) -> Plan:
    """A whole training with SGD, or the end of one, from the fraction ``start`` on."""
    schedule = pipeline.segment(training.linear_decay, start)
    return Plan(epochs=epochs, schedule=schedule, optimizer=partial(training.sgd, lr=rate))


def start(seeds: Sequence[int], train: data.Split, test: data.Split) -> list[nn.Module]:
    """The dense networks from which all arms but one go on."""
    arms = {"dense": Arm(lambda seed: models.mlp(seed=seed))}
    return experiments.run(arms, train, test, Plan(epochs=START), seeds=seeds).networks["dense"]


def choose(train: data.Split) -> tuple[dict[str, dict[str, list[float]]], float]:
    """Accuracies on images set aside, arm -> learning rate -> one value per seed; and the seconds."""
    rest = data.Split(train.x[:-2000], train.y[:-2000])
    aside = data.Split(train.x[-2000:], train.y[-2000:])
    nets, seconds = start(CHOICE_SEEDS, rest, aside), 0.0
    found: dict[str, dict[str, list[float]]] = {name: {} for name in RATES}
    for name, rates in RATES.items():
        for rate in rates:
            make = partial(tried, name, rate, nets, rest, aside)
            part = f"choice {name} {rate:g}"
            found[name][f"{rate:g}"], taken = record.kept(__file__, part, make)
            seconds += taken
    return found, seconds


def tried(
    name: str, rate: float, nets: list[nn.Module], rest: data.Split, aside: data.Split
) -> list[float]:
    """The accuracies of an arm with this rate on the images set aside."""

    def right(arm: Arm) -> list[float]:
        found = experiments.run({name: arm}, rest, aside, Plan(epochs=1), seeds=CHOICE_SEEDS)
        trained.extend(found.networks[name])
        return [round(a, 2) for a in found.accuracy[name]]

    trained: list[nn.Module] = []
    if name == "small dense":
        plan = sgd_plan(START + CHOICE_EPOCHS + MORE, rate)
        return right(Arm(lambda seed: models.mlp((196, 32, 10), seed=seed), plan=plan))
    if name == "cut, then SGD":
        keep = [cut(net, CHOICE_SPARSITY) for net in nets]
        return right(Arm(nets, keep, sgd_plan(CHOICE_EPOCHS + MORE, rate)))
    hows = {"variational dropout": bayesian.Variational, "fixed noise": FixedNoise}
    hows["multipliers"] = bayesian.Structured
    as_they_are = right(noisy_arm(nets, hows.get(name), CHOICE_EPOCHS, rate, len(rest.y)))
    if name == "multipliers":
        return as_they_are
    if name == "variational dropout":
        trained = [bayesian.harden(net, math.inf)[0] for net in trained]
    made = [plain(net) for net in trained]
    keep = [cut(net, CHOICE_SPARSITY) for net in made]
    return right(Arm(made, keep, sgd_plan(MORE, start=2 / 3)))


def by_weights(
    epochs: int, rates: dict[str, float], train: data.Split, test: data.Split
) -> dict[str, list[float]]:
    """The arms of single weights at one budget."""
    nets, n = start(SEEDS, train, test), len(train.y)
    arms = {
        "variational dropout": bayesian.Variational,
        "fixed noise": FixedNoise,
        "plain Adam": None,
    }
    arms = {name: noisy_arm(nets, how, epochs, rates[name], n) for name, how in arms.items()}
    made = experiments.run(arms, train, test, Plan(epochs=epochs), seeds=SEEDS).networks
    hard = [bayesian.harden(net) for net in made["variational dropout"]]
    gone = [masks.sparsity(keep) for _, keep in hard]
    learnt = [bayesian.harden(net, math.inf)[0] for net in made["variational dropout"]]
    after = {"variational dropout": Arm([net for net, _ in hard], [keep for _, keep in hard])}
    others = {"variational dropout, cut by size": learnt}
    others |= {name: [plain(net) for net in made[name]] for name in ("fixed noise", "plain Adam")}
    for name, of_seeds in others.items():
        keep = [cut(net, share) for net, share in zip(of_seeds, gone, strict=True)]
        after[name] = Arm(of_seeds, keep)
    end = sgd_plan(MORE, start=2 / 3)
    at_once = experiments.evaluate(after, test, seeds=SEEDS)
    then = experiments.run(after, train, test, end, seeds=SEEDS).accuracy
    width = round(fmean(measure.bytes_sparse(net) for net, _ in hard) / 4 / (196 + 10 + 1))
    rate = rates["small dense"]
    whole = {
        "cut, then SGD": Arm(
            nets,
            [cut(net, share) for net, share in zip(nets, gone, strict=True)],
            sgd_plan(epochs + MORE, rates["cut, then SGD"]),
        ),
        "small dense, as many bytes": Arm(
            [models.mlp((196, width, 10), seed=seed) for seed in SEEDS],
            plan=sgd_plan(START + epochs + MORE, rate),
        ),
        "dense": Arm(nets, plan=sgd_plan(epochs + MORE)),
    }
    rest = experiments.run(whole, train, test, end, seeds=SEEDS).accuracy
    found = {f"{name}, at the cut": right for name, right in at_once.items()}
    found |= {f"{name}, cut and {MORE} more": right for name, right in then.items()}
    return (
        found | rest | {"weights removed by variational dropout": [100 * share for share in gone]}
    )


def gradually(
    epochs: int, gone: list[float], rate: float, train: data.Split, test: data.Split
) -> dict[str, list[float]]:
    """A cut by size in steps, each after an eighth of the training, to the same sparsities."""
    nets = ensemble.stack(start(SEEDS, train, test))
    steps = (epochs + MORE) * (len(train.y) // 100)
    for number in range(STEPS):
        share = 1 - (1 - (number + 1) / STEPS) ** 3
        keep = [
            cut(net, share * last) for net, last in zip(ensemble.members(nets), gone, strict=True)
        ]
        part = {"first": steps * number // STEPS, "last": steps * (number + 1) // STEPS}
        plan = replace(sgd_plan(epochs + MORE, rate), **part)
        pipeline.train_held(nets, train, masks.stack(keep), plan)
    return {"cut in steps, SGD": training.evaluate(nets, test).tolist()}


def inputs_kept(
    net: nn.Module, keep: masks.Masks, score: Callable[[Tensor], Tensor]
) -> masks.Masks:
    """Masks that keep as many inputs of every layer, those that score highest."""
    found = {}
    for name, weight in layers.weights(net).items():
        count = int(keep[name].any(0).sum())
        chosen = torch.zeros(weight.shape[1], dtype=torch.bool)
        chosen[score(weight).topk(count).indices] = True
        found[name] = chosen.expand(weight.shape).contiguous()
    return found


def by_inputs(
    epochs: int, rates: dict[str, float], train: data.Split, test: data.Split
) -> dict[str, list[float]]:
    """The arms of whole inputs at one budget."""
    nets, n = start(SEEDS, train, test), len(train.y)
    arm = noisy_arm(nets, bayesian.Structured, epochs, rates["multipliers"], n)
    runs = experiments.run({"m": arm}, train, test, Plan(epochs=epochs), seeds=SEEDS)
    hard = [bayesian.harden(net) for net in runs.networks["m"]]
    keep = [own for _, own in hard]
    norms, lots = [], []
    for seed, net, own in zip(SEEDS, nets, keep, strict=True):
        generator = torch.Generator().manual_seed(seed)
        norms.append(inputs_kept(net, own, lambda w: w.norm(dim=0)))
        lots.append(
            inputs_kept(net, own, lambda w, g=generator: torch.rand(w.shape[1], generator=g))
        )
    same = {
        "the multipliers' inputs": Arm(nets, keep),
        "inputs of the largest norms": Arm(nets, norms),
        "random inputs": Arm(nets, lots),
    }
    found = experiments.run(same, train, test, sgd_plan(epochs), seeds=SEEDS).accuracy
    found = {f"{name}, dense weights and SGD": right for name, right in found.items()}
    found["multipliers, hardened"] = experiments.evaluate(
        {"m": Arm([net for net, _ in hard])}, test, seeds=SEEDS
    )["m"]
    for name in keep[0]:
        kept = [float(own[name].any(0).sum()) for own in keep]
        found[f"inputs of {name.removesuffix('.weight')} kept by multipliers"] = kept
    return found


def rounded(found: dict[str, list[float]]) -> dict[str, list[float]]:
    """Two digits behind the point."""
    return {name: [round(value, 2) for value in values] for name, values in found.items()}


def main() -> None:
    """Run what is missing, and write the result file."""
    torch.set_num_threads(1)
    train, test = data.load("glyphs")
    choice, seconds = choose(train)
    rates = record.best(choice)
    found: dict[int, dict[str, list[float]]] = {}
    for epochs in BUDGETS:
        found[epochs] = {}
        for part, run in (("weights", by_weights), ("inputs", by_inputs)):
            make = partial(run, epochs, rates, train, test)
            rows, taken = record.kept(__file__, f"{part} {epochs}", lambda m=make: rounded(m()))
            found[epochs] |= rows
            seconds += taken
        gone = [s / 100 for s in found[epochs]["weights removed by variational dropout"]]
        rate = rates["cut, then SGD"]
        steps = partial(gradually, epochs, gone, rate, train, test)
        rows, taken = record.kept(__file__, f"steps {epochs}", lambda m=steps: rounded(m()))
        found[epochs] |= rows
        seconds += taken

    def unit(name: str) -> str:
        if name.startswith("inputs of fc"):
            return "inputs"
        return "% of the weights" if name.startswith("weights") else "% test accuracy"

    record.write(
        __file__,
        experiment="The lesson Bayesian pruning at 12 and 24 epochs after the start",
        command="python book/reproductions/long_bayesian.py",
        verdict=VERDICT,
        setting={
            "seeds": len(SEEDS),
            "images": len(train.y),
            "start": f"{START} epochs of SGD",
            "noise": f"Adam, batches of {BATCH}, KL weight 1 after 40% of the training",
            "cut in steps": f"{STEPS} steps, each after an eighth of the training, sparsity cubic",
            "retraining": f"{MORE} epochs of SGD, the last third of a linear decay",
            "rates": rates,
        },
        differences=DIFFERENCES,
        table=[
            record.row(f"{name}, {epochs} epochs", unit(name), values)
            for epochs in BUDGETS
            for name, values in found[epochs].items()
        ]
        + record.rows_of_choice(choice, "rate", f", {CHOICE_EPOCHS} epochs"),
        seconds=seconds,
    )


if __name__ == "__main__":
    main()
