"""Experiments: every seed of every arm comes out as the network trained alone."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from course_lib import ensemble, experiments, models, parametrized, training
from course_lib.compression import quantization
from course_lib.data import Split
from course_lib.experiments import Arm
from course_lib.pruning import allocate, criteria, masks
from course_lib.training import Plan

SEEDS = range(3)
SIZES = (16, 8, 4)
PLAN = Plan(epochs=2, batch_size=25)
NUMBERS = torch.Generator().manual_seed(0)
TRAIN = Split(torch.rand(110, 1, 4, 4, generator=NUMBERS), torch.arange(110) % 4)
TEST = Split(torch.rand(60, 1, 4, 4, generator=NUMBERS), torch.arange(60) % 4)


def mlp(seed):
    return models.mlp(SIZES, seed=seed)


def half(net):
    return allocate.globally(criteria.magnitude(net), 0.5)


def at_random(net, seed):
    return allocate.globally(criteria.random(net, seed=seed), 0.5)


def normed(seed):
    """A network with a batch norm, which cannot be stacked."""
    first, *rest = mlp(seed).children()
    return nn.Sequential(first, nn.BatchNorm1d(16), *rest)


def alone(net, plan=PLAN, keep=None):
    """A network trained by itself, its losses per epoch and its accuracy: the oracle."""
    net = copy.deepcopy(net)
    optimizer = plan.optimizer(net)
    masks.hold(optimizer, net, keep or {})
    history = training.fit(net, TRAIN, dataclasses.replace(plan, optimizer=optimizer))
    return net, [float(loss) for loss in history.loss], float(training.evaluate(net, TEST))


def same_as_alone(runs, arm, seed, net, plan=PLAN, keep=None):
    expected, losses, accuracy = alone(net, plan, keep)
    found = runs.networks[arm][seed]
    assert type(found) is type(net)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert [epoch[seed] for epoch in runs.loss[arm]] == pytest.approx(losses, rel=1e-4)
    assert runs.accuracy[arm][seed] == pytest.approx(accuracy, abs=1e-4)
    for name, mask in (keep or {}).items():
        assert not found.get_parameter(name)[~mask].any()


def slow(model):
    return training.sgd(model, lr=0.01)


def twice(logits, positions):
    return 2 * training.cross_entropy(logits, TRAIN.y[positions])


def stacks_made(monkeypatch):
    """The sizes of all stacks made from now on."""
    sizes, make = [], ensemble.stack

    def counted(networks):
        stack = make(networks)
        sizes.append(len(networks))
        return stack

    monkeypatch.setattr(ensemble, "stack", counted)
    return sizes


def test_every_seed_of_every_arm_is_the_network_trained_alone(monkeypatch):
    """Masks as a function and as a list, no masks, another plan, another loss, another architecture,
    another activation with the same shapes, and one that cannot be stacked: all in one experiment."""
    nets = [mlp(seed) for seed in SEEDS]
    curved = [nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Tanh()) for _ in SEEDS]
    straight = [nn.Sequential(net[0], copy.deepcopy(net[1]), nn.ReLU()) for net in curved]
    drawn = [at_random(net, seed) for net, seed in zip(nets, SEEDS, strict=True)]
    arms = {
        "dense": (Arm(mlp), nets, PLAN, [None] * 3),
        ("magnitude", 0.5): (Arm(mlp, half), nets, PLAN, [half(net) for net in nets]),
        "random": (Arm(nets, drawn), nets, PLAN, drawn),
        "stack": (Arm(ensemble.stack(nets)), nets, PLAN, [None] * 3),
        "slow": (Arm(mlp, half, dataclasses.replace(PLAN, optimizer=slow)), nets, None, drawn),
        "loss": (Arm(mlp, None, dataclasses.replace(PLAN, loss=twice)), nets, None, [None] * 3),
        "curved": (Arm(curved), curved, PLAN, [None] * 3),
        "straight": (Arm(straight), straight, PLAN, [None] * 3),
        "normed": (Arm(normed), [normed(seed) for seed in SEEDS], PLAN, [None] * 3),
    }
    arms["slow"] = (*arms["slow"][:3], [half(net) for net in nets])
    given = {name: copy.deepcopy(networks) for name, (_, networks, _, _) in arms.items()}
    sizes = stacks_made(monkeypatch)
    runs = experiments.run(
        {name: arm for name, (arm, *_) in arms.items()}, TRAIN, TEST, PLAN, seeds=SEEDS
    )
    assert sorted(sizes) == [3, 3, 3, 15]  # slow, curved, straight; the other arms of the MLP
    assert list(runs.accuracy) == list(runs.networks) == list(runs.loss) == list(arms)
    for name, (arm, networks, plan, keeps) in arms.items():
        for seed in SEEDS:
            same_as_alone(runs, name, seed, networks[seed], plan or arm.plan, keeps[seed])
            for n, value in networks[seed].state_dict().items():  # what was given is as it was
                assert torch.equal(value, given[name][seed].state_dict()[n])


def test_the_caller_has_no_more_hooks_and_the_same_random_numbers():
    net, before = mlp(0), torch.get_rng_state()
    experiments.run({"a": Arm([net], half)}, TRAIN, TEST, PLAN, seeds=[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert net.training and net.fc1.weight.count_nonzero() == net.fc1.weight.numel()
    assert net.fc1.weight.grad is None


@pytest.mark.parametrize(("bits", "sizes"), [((2, 2), [6]), ((2, 8), [3, 3])])
def test_networks_that_compute_otherwise_are_not_mixed(monkeypatch, bits, sizes):
    """Weights rounded to 2 and to 8 bits: same shapes, same classes, other functions."""
    made = stacks_made(monkeypatch)
    arms = {k: Arm([quantization.qat(mlp(seed), b) for seed in SEEDS]) for k, b in enumerate(bits)}
    runs = experiments.run(arms, TRAIN, TEST, PLAN, seeds=SEEDS)
    assert made == sizes
    for k, b in enumerate(bits):
        values = [parametrized.folded(net).fc1.weight.unique().numel() for net in runs.networks[k]]
        assert all(v <= 2**b * SIZES[1] for v in values)  # a grid per output channel
        assert (max(values) > 2**2 * SIZES[1]) == (b == 8)


class Scaled(nn.Module):
    """A network with a setting and a tensor that are no parameters."""

    def __init__(self, factor, shift):
        super().__init__()
        self.linear, self.factor, self.shift = nn.Linear(16, 4), factor, shift

    def forward(self, x):
        return self.factor * self.linear(x.flatten(1)) + self.shift


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("other", [(1.0, torch.arange(4.0)), (3.0, torch.zeros(4))])
def test_settings_that_are_no_parameters_stay_each_networks_own(other, frozen):
    nets = [Scaled(1.0, torch.zeros(4)), Scaled(1.0, torch.zeros(4)), Scaled(*other)]
    nets[0].linear.bias.requires_grad_(not frozen)
    runs = experiments.run({"a": Arm(nets)}, TRAIN, TEST, PLAN, seeds=SEEDS)
    for seed in SEEDS:
        same_as_alone(runs, "a", seed, nets[seed])


class Branching(nn.Module):
    """A network with a branch that depends on its weights: no stack can compute two of them."""

    def __init__(self, seed):
        super().__init__()
        self.linear = mlp(seed)
        nn.init.constant_(self.linear.fc1.bias, 0.5 - seed)

    def forward(self, x):
        return self.linear(x) if self.linear.fc1.bias[0] > 0 else -self.linear(x)


def test_networks_that_no_stack_can_compute_train_one_after_another():
    nets = [Branching(seed) for seed in SEEDS]
    assert [bool(net.linear.fc1.bias[0] > 0) for net in nets] == [True, False, False]
    runs = experiments.run({"a": Arm(nets)}, TRAIN, TEST, PLAN, seeds=SEEDS)
    for seed in SEEDS:
        same_as_alone(runs, "a", seed, nets[seed])


def test_networks_that_cannot_be_copied_are_refused_by_name():
    nets = [mlp(seed) for seed in SEEDS]
    for net in nets:
        nn.utils.prune.l1_unstructured(net.fc1, "weight", 0.5)
    with pytest.raises(ValueError, match="'fc1'"):
        experiments.run({"a": Arm(nets)}, TRAIN, TEST, PLAN, seeds=SEEDS)


def test_everything_is_checked_before_anything_trains(monkeypatch):
    """The second arm cannot train, so the first does not begin."""
    monkeypatch.setattr(training, "fit", None)
    arms = {"a": Arm(mlp), "b": Arm(lambda seed: models.mlp((16, 8, 2), seed=seed))}
    with pytest.raises(ValueError, match="labels from 0 to 1"):
        experiments.run(arms, TRAIN, TEST, PLAN)


def test_a_loss_knows_the_seeds_of_its_arm():
    """Each seed learns from labels of its own: logits of one arm are (seeds, batch, classes)."""
    labels = torch.stack([(TRAIN.y + seed) % 4 for seed in SEEDS])

    def own(logits, positions):
        y = labels[:, positions]
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), y.flatten(), reduction="none"
        ).view(y.shape).mean(1)  # fmt: skip

    arms = {"labels": Arm(mlp), "own": Arm(mlp, half, dataclasses.replace(PLAN, loss=own))}
    runs = experiments.run(arms, TRAIN, TEST, PLAN, seeds=SEEDS)
    for seed in SEEDS:
        net = mlp(seed)

        def one(logits, positions, y=labels[seed]):
            return training.cross_entropy(logits, y[positions])

        same_as_alone(runs, "labels", seed, net)
        same_as_alone(runs, "own", seed, net, dataclasses.replace(PLAN, loss=one), half(net))


@pytest.mark.parametrize("at_once", [1, 2, 40])
def test_evaluate_applies_the_masks_and_trains_nothing(at_once, monkeypatch):
    monkeypatch.setattr(experiments, "AT_ONCE", at_once)
    nets = [mlp(seed) for seed in SEEDS]
    arms = {"dense": Arm(nets), "half": Arm(nets, half), "normed": Arm(normed)}
    found = experiments.evaluate(arms, TEST, seeds=SEEDS)
    for seed in SEEDS:
        cut = mlp(seed)
        masks.apply(cut, half(cut))
        expected = {"dense": mlp(seed), "half": cut, "normed": normed(seed)}
        for name, net in expected.items():
            assert found[name][seed] == pytest.approx(float(training.evaluate(net, TEST)))
        assert nets[seed].fc1.weight.count_nonzero() == nets[seed].fc1.weight.numel()


def test_choose_trains_on_some_images_and_judges_by_the_others():
    """The oracle: train on the first 80 images, evaluate on the last 30, by hand."""
    settings = {rate: Arm(mlp, plan=rated(rate)) for rate in (1e-6, 0.1, 0.5)}
    choice = experiments.choose(settings, TRAIN, PLAN, held_out=30, seeds=[7, 8])
    means = {}
    for rate in settings:
        expected = []
        for seed in (7, 8):
            net = mlp(seed)
            training.fit(net, Split(TRAIN.x[:80], TRAIN.y[:80]), rated(rate))
            aside = Split(TRAIN.x[80:], TRAIN.y[80:])
            expected.append(float(training.evaluate(net, aside)))
        assert choice.accuracy[rate] == pytest.approx(expected, abs=1e-4)
        means[rate] = sum(expected)
    assert choice.setting == max(means, key=means.get)


def rated(rate):
    return dataclasses.replace(PLAN, optimizer=lambda model: training.sgd(model, lr=rate))


def test_choose_takes_the_first_of_equals():
    same = {name: Arm(mlp) for name in ("first", "second")}
    choice = experiments.choose(same, TRAIN, PLAN, held_out=30)
    assert choice.accuracy["first"] == choice.accuracy["second"]
    assert choice.setting == "first" and len(choice.accuracy["first"]) == 5


NETS = [mlp(seed) for seed in SEEDS]
STANDING = dataclasses.replace(PLAN, optimizer=training.sgd(NETS[0]))


@pytest.mark.parametrize(
    ("arms", "plan", "error", "words"),
    [
        ({}, PLAN, ValueError, "arms and seeds must not be empty"),
        ({"a": NETS}, PLAN, TypeError, "'a'. must be an Arm, got list"),
        ({"a": Arm(NETS[:2])}, PLAN, ValueError, "networks must be 3, one Module per seed"),
        ({"a": Arm(NETS[0])}, PLAN, ValueError, "networks must be 3, one Module per seed"),
        ({"a": Arm(3)}, PLAN, TypeError, "networks must be a list or a function, got int"),
        ({"a": Arm(lambda seed: seed)}, PLAN, ValueError, "one Module per seed, got .'int'"),
        ({"a": Arm(NETS, [])}, PLAN, ValueError, "masks must be 3, one Mapping per seed"),
        ({"a": Arm(NETS, half(NETS[0]))}, PLAN, TypeError, "masks must be a list or a function"),
        ({"a": Arm(NETS, lambda net: None)}, PLAN, ValueError, "one Mapping per seed"),
        ({"a": Arm(NETS, lambda net: {"fc9": 0})}, PLAN, ValueError, "masks of arms.'a'. names"),
        ({"a": Arm(NETS)}, STANDING, TypeError, "plan of arms.'a'. must make a fresh optimizer"),
        ({"a": Arm(NETS, plan=STANDING)}, PLAN, TypeError, "must make a fresh optimizer"),
        (
            {"a": Arm(NETS)},
            dataclasses.replace(PLAN, start=NETS[0].state_dict()),
            ValueError,
            "must have neither start nor valid",
        ),
        ({"a": Arm(NETS)}, dataclasses.replace(PLAN, valid=TEST), ValueError, "start nor valid"),
    ],
)
def test_bad_arms(arms, plan, error, words):
    with pytest.raises(error, match=words):
        experiments.run(arms, TRAIN, TEST, plan, seeds=SEEDS)


def test_bad_images():
    arms, large = {"a": Arm(mlp)}, Split(torch.zeros(3, 1, 5, 5), torch.zeros(3).long())
    unequal = Split(TEST.x, TEST.y[:3])
    spoiled = Split(TEST.x.clone().fill_(torch.nan), TEST.y)
    for wrong in (large, unequal, spoiled):
        with pytest.raises(ValueError, match="^train"):
            experiments.run(arms, wrong, TEST, PLAN)
        with pytest.raises(ValueError, match="^test"):
            experiments.run(arms, TRAIN, wrong, PLAN)
        with pytest.raises(ValueError, match="^test"):
            experiments.evaluate(arms, wrong)
    with pytest.raises(ValueError, match="held_out must be below 110, the images, got 110"):
        experiments.choose(arms, TRAIN, PLAN, held_out=110)
    with pytest.raises(ValueError, match="held_out must be a positive integer"):
        experiments.choose(arms, TRAIN, PLAN, held_out=0.2)
