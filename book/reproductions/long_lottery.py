"""Lesson Lottery, trained for longer, with arms that do not fit into its minute.

    python book/reproductions/long_lottery.py [seeds]

writes ``long_lottery.json`` beside this file. The lesson's search (glyphs, 2,000 images, the
196-100-50-10 network, four rounds of 50 %, constant learning rate) with three times the epochs for
every training, so that no control is cut off before its lowest validation loss. Besides the lesson's
controls: gentler searches that end with as many weights, going back to step 40, and signs alone.
"""

import copy
import dataclasses
import sys
from functools import partial

import record
import torch
from torch import nn

from course_lib import data, ensemble, layers, models, training
from course_lib.pruning import lottery, pipeline

EPOCHS, ROUNDS, SHARE, EVERY, LATER = 120, 4, 0.5, 20, 40
SMALL = (196, 17, 12, 10)  # fits into the bytes that a ticket takes as CSR
UNITS = {"accuracy": "% of the test images", "step": "steps"}


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return training.sgd(net, lr=0.05)


def constant(_: float) -> float:
    return 1.0


PLAN = training.Plan(epochs=EPOCHS, schedule=constant, optimizer=sgd, every=EVERY)
VERDICT = (
    "The lesson's order stands when nothing is cut off: signs carry most of what the tickets' "
    "values are worth, rounds find better masks than one cut, and going back to a later step "
    "shows no difference."
)


def pruning(starts: nn.Module, rounds: int) -> pipeline.Pruning:
    """The search in so many rounds, each layer ending with as many weights as after 4 of 50 %."""
    shares = lottery.layer_shares(starts, SHARE)
    gentler = {name: 1 - (1 - share) ** (ROUNDS / rounds) for name, share in shares.items()}
    return lottery.by_shares(gentler, rounds=rounds)


def other_values(starts: nn.Module, other: nn.Module) -> dict[str, nn.Module]:
    """Initial values that share their signs, or their magnitudes, with the ticket's."""
    found = {}
    for name in (
        "old signs, new magnitudes",
        "new signs, old magnitudes",
        "old signs, one magnitude",
    ):
        fresh = copy.deepcopy(starts)
        for weight, old, new in zip(*(m.parameters() for m in (fresh, starts, other)), strict=True):
            if old.dim() < 3:  # a bias of the stack
                continue
            size = {"new signs, old magnitudes": old, "old signs, new magnitudes": new}.get(name)
            one = old.abs().mean(dim=(1, 2), keepdim=True).expand_as(old)
            sign = new.sign() if name.startswith("new") else old.sign()
            weight.data.copy_(sign * (one if size is None else size.abs()))
        found[name] = fresh
    return found


def at_stop(net: nn.Module, history: training.History, test: data.Split) -> dict[str, list[float]]:
    """Test accuracy and step at the lowest validation loss, one value per member of a stack."""
    best = copy.deepcopy(net)
    best.load_state_dict(history.best)
    accuracy = [round(a, 2) for a in training.evaluate(best, test).tolist()]
    return {"accuracy": accuracy, "step": history.early_stop.tolist()}


def images() -> tuple[data.Split, data.Split, data.Split]:
    """The lesson's images to train, to validate and to test."""
    drawn, test = data.load("glyphs", n_train=3000)
    train = data.Split(drawn.x[:2000], drawn.y[:2000])
    return train, data.Split(drawn.x[2000:], drawn.y[2000:]), test


def searched(rounds: int, first: int, seeds: int) -> dict[str, dict[str, list[float]]]:
    """Search for tickets: what the first and the last round's networks reach."""
    train, valid, test = images()
    starts = ensemble.stack([models.mlp(seed=seed) for seed in range(seeds)])
    plan = dataclasses.replace(PLAN, valid=valid, first=first)
    search = lottery.find_tickets(copy.deepcopy(starts), train, plan, pruning(starts, rounds))
    kept_masks = [m.tolist() for m in search.rounds[-1].masks.values()]
    return {
        "dense": at_stop(starts, search.rounds[0].history, test),
        "half": at_stop(starts, search.rounds[1].history, test),
        "last": at_stop(starts, search.rounds[-1].history, test),
        "masks": kept_masks,
    }


def controls(kept_masks: list, seeds: int) -> dict[str, dict[str, list[float]]]:
    """The last round's controls, and small dense networks trained for all epochs of the search."""
    train, valid, test = images()
    starts = ensemble.stack([models.mlp(seed=seed) for seed in range(seeds)])
    keep = {
        name: torch.tensor(m)
        for name, m in zip(layers.weights(models.mlp()), kept_masks, strict=True)
    }
    plan = dataclasses.replace(PLAN, valid=valid, seed=ROUNDS)  # the ticket's minibatches
    other = lottery.reinitialise(starts, seed=0)
    places = lottery.random_mask(starts, keep, seed=1)
    arms = {"new values": (other, keep), "random mask": (starts, places)}
    arms |= {name: (net, keep) for name, net in other_values(starts, other).items()}
    found = {}
    for name, (group, mask) in arms.items():
        net = ensemble.stack(ensemble.members(group))
        found[name] = at_stop(net, pipeline.train_held(net, train, mask, plan), test)
    small = ensemble.stack([models.mlp(SMALL, seed=seed) for seed in range(seeds)])
    history = training.fit(small, train, plan, epochs=EPOCHS * (ROUNDS + 1))
    found["small dense, epochs of the whole search"] = at_stop(small, history, test)
    return found


def main(seeds: int) -> None:
    """Run what is missing, and write the result file."""
    torch.set_num_threads(1)
    found, total = {}, 0.0
    searches = {"ticket": (ROUNDS, 0), f"back to step {LATER}": (ROUNDS, LATER)}
    searches |= {"ticket, one cut": (1, 0), "ticket, 8 gentler rounds": (8, 0)}
    for name, (rounds, first) in searches.items():
        made, seconds = record.kept(
            __file__, f"{seeds}-{rounds}-{first}", partial(searched, rounds, first, seeds)
        )
        total += seconds
        found[name] = made["last"]
        if name == "ticket":
            found |= {"dense": made["dense"], "ticket, half removed": made["half"]}
            others, seconds = record.kept(
                __file__, f"{seeds}-controls", partial(controls, made["masks"], seeds)
            )
            found |= others
            total += seconds
    record.write(
        __file__,
        experiment="The lesson Lottery with three times the epochs of every training",
        command=f"python book/reproductions/long_lottery.py {seeds}",
        verdict=VERDICT,
        setting={
            "seeds": seeds,
            "images to train, to validate, to test": [2000, 1000, 10000],
            "epochs of each training": EPOCHS,
            "rounds": ROUNDS,
            "removed per round": f"{SHARE:.0%} of each layer's rest, half of that in the last",
            "optimizer": "SGD, momentum 0.9, learning rate 0.05, constant",
            "measured": "at the lowest validation loss",
        },
        differences=["The data are the lesson's glyphs, so no paper has these numbers."],
        table=[
            record.row(f"{name}: {quantity}", UNITS[quantity], values)
            for name, of_arm in found.items()
            for quantity, values in of_arm.items()
        ],
        seconds=total,
        details=found,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
