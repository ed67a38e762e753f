"""The lesson Knowledge distillation with longer trainings, and with more teachers.

    python book/reproductions/long_distillation.py

writes ``long_distillation.json`` beside this file. The data are the lesson's glyphs. Each arm's
learning rate is chosen as in the lesson, on 2,000 training images set aside and with seeds that are
not among the five of the experiment, at the shortest budget. Each finished part is kept in the
temporary folder, so that an interrupted run goes on with the next one.
"""

import time
from collections.abc import Mapping

import record
import torch
from torch import Tensor, nn

from course_lib import data, experiments, models, seeds, training
from course_lib.compression import distillation
from course_lib.data import Split
from course_lib.experiments import Arm
from course_lib.training import Loss, Plan

BIG, SMALL, FEW, SEEDS = (196, 300, 100, 10), (196, 32, 10), 500, range(5)
RATES, CHOICE_SEEDS = (0.5, 1, 2, 4), range(200, 203)


def on_labels(y: Tensor) -> Loss:
    """Cross-entropy."""
    return lambda z, i: training.cross_entropy(z, y[i])


def on_answers(v: Tensor, y: Tensor | None = None, temperature: float = 4) -> Loss:
    """Distillation: without labels, or with a tenth of the weight on them."""
    return lambda z, i: distillation.loss(
        z,
        v[: len(z), i],
        None if y is None else y[i],
        temperature=temperature,
        alpha=0 if y is None else 0.1,
    )


def student(loss: Loss, rate: float, epochs: int) -> Arm:
    """Small networks that learn by a loss, at a multiple of the rate 0.1."""
    plan = Plan(epochs=epochs, loss=lambda z, i: rate * loss(z, i))
    return Arm(lambda seed: models.mlp(SMALL, seed=seed), plan=plan)


def answers(teachers: list[nn.Module], images: Split) -> Tensor:
    """The logits of all teachers: (teachers, images, classes)."""
    return torch.stack([distillation.answers(net, images.x) for net in teachers])


def compare(
    losses: Mapping[str, Loss],
    images: Split,
    pool: Split,
    budgets: tuple[int, ...],
    test: Split,
) -> dict[int, experiments.Runs]:
    """Train by each loss at each budget, at the rate that is best at the first one."""
    found = {}
    rates = {}
    for name, loss in losses.items():
        settings = {rate: student(loss, rate, budgets[0]) for rate in RATES}
        plan = Plan(epochs=budgets[0])
        choice = experiments.choose(settings, pool, plan, seeds=CHOICE_SEEDS)
        rates[name] = choice.setting
        print(name, {r: [round(a, 1) for a in v] for r, v in choice.accuracy.items()}, flush=True)
    for epochs in budgets:
        arms = {name: student(loss, rates[name], epochs) for name, loss in losses.items()}
        found[epochs] = experiments.run(arms, images, test, Plan(epochs=epochs))
    return found


def trained(sizes: tuple[int, ...], images: Split, epochs: int) -> list[nn.Module]:
    """Five teachers."""
    arm = Arm([models.mlp(sizes, seed=100 + seed) for seed in SEEDS])
    return experiments.run({"teacher": arm}, images, images, Plan(epochs=epochs)).networks[
        "teacher"
    ]


def shuffled(v: Tensor) -> Tensor:
    """The wrong classes' logits in random order, image by image."""
    top = v.argmax(-1, keepdim=True)
    chance = torch.rand(v.shape, generator=seeds.generator(0))
    given, drawn = (
        k.scatter(-1, top, -1).argsort(-1) for k in (torch.arange(10.0).expand(v.shape), chance)
    )
    return torch.zeros_like(v).scatter(-1, drawn, v.gather(-1, given))


def accuracies(found: Mapping[int, experiments.Runs], what: str) -> dict[str, list[float]]:
    """Rows of the table."""
    return {
        f"{what}: {name}, {epochs} epochs": [round(a, 2) for a in right]
        for epochs, runs in found.items()
        for name, right in runs.accuracy.items()
    }


def few_labels(teachers: list[nn.Module], train: Split, test: Split) -> dict[str, list[float]]:
    """500 labelled images."""
    few, pool = (Split(train.x[:n], train.y[:n]) for n in (FEW, FEW + 2000))
    v, y = answers(teachers, few), few.y
    losses = {"labels only": on_labels(y)}
    losses |= {f"T = {t}": on_answers(v, y, t) for t in (1, 4, 8)}
    losses |= {
        "wrong classes shuffled": on_answers(shuffled(v), y),
        "teacher with the same 500": on_answers(answers(trained(BIG, few, 40), few), y),
        "teacher as small as the student": on_answers(answers(trained(SMALL, train, 30), few), y),
    }
    return accuracies(compare(losses, few, pool, (100, 400), test), "500 labels")


def all_labels(teachers: list[nn.Module], train: Split, test: Split) -> dict[str, list[float]]:
    """10,000 labelled images."""
    losses = {
        "labels only": on_labels(train.y),
        "T = 4": on_answers(answers(teachers, train), train.y),
    }
    return accuracies(compare(losses, train, train, (10, 40), test), "10,000 labels")


def unseen(teachers: list[nn.Module], train: Split, test: Split) -> dict[str, list[float]]:
    """The share of test 3s that students call a 3 although they never saw one."""
    rest = train.y != 3
    nine = Split(train.x[rest], train.y[rest])
    v = answers(teachers, nine)
    losses = {"labels only": on_labels(nine.y)}
    losses |= {f"T = {t}": on_answers(v, temperature=t) for t in (1, 4, 8)}
    rows = {}
    for epochs, runs in compare(losses, nine, nine, (8, 24), test).items():
        for name, networks in runs.networks.items():
            z = answers(networks, Split(test.x[test.y == 3], test.y))
            right = 100 * (z.argmax(-1) == 3).double().mean(-1)
            row = f"unseen 3s: {name}, {epochs} epochs"
            rows[row] = [round(a, 2) for a in right.tolist()]
    return rows


def main() -> None:
    """Run what is missing, and write the result file."""
    torch.set_num_threads(1)
    train, test = data.load("glyphs")
    begun = time.process_time()
    teachers = trained(BIG, train, 8)
    table, seconds = {}, time.process_time() - begun
    for part in (few_labels, all_labels, unseen):
        rows, taken = record.kept(
            __file__, part.__name__, lambda part=part: part(teachers, train, test)
        )
        table, seconds = table | rows, seconds + taken
    record.write(
        __file__,
        experiment="The lesson Knowledge distillation with longer trainings and other teachers",
        command="python book/reproductions/long_distillation.py",
        verdict="With few labels the gain of soft targets grows with the training and needs a "
        "teacher that knows more, not a larger one; with all labels no difference "
        "shows at the end; and at high temperatures students find most of a digit "
        "that they never saw.",
        setting={
            "seeds": len(SEEDS),
            "teacher": "-".join(map(str, BIG)),
            "student": "-".join(map(str, SMALL)),
            "optimizer": "SGD, momentum 0.9, linear decay of the rate",
            "rates": "0.1 times one of 0.5, 1, 2, 4; chosen at the shortest budget",
            "labels weigh": 0.1,
        },
        differences=["The data are the lesson's glyphs, so no paper has these numbers."],
        table=[
            record.row(
                name, "% of test 3s called a 3" if "unseen" in name else "% test accuracy", values
            )
            for name, values in table.items()
        ],
        seconds=seconds,
    )


if __name__ == "__main__":
    main()
