"""Masks: held by projection as by reparametrisation, counted, refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from course_lib import models, training
from course_lib.pruning import allocate, criteria, masks

OPTIMIZERS = {
    "SGD, momentum, decay": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "SGD, nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "SGD, fused": lambda p: torch.optim.SGD(
        p, lr=0.05, momentum=0.9, weight_decay=1e-3, fused=True
    ),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-2),
}


class Masked(nn.Module):
    """The oracle: the mask as part of the forward pass, W = M * V."""

    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, v):
        return v * self.mask


@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_held_masks_equal_masked_reparametrisation(build):
    held = models.mlp((20, 16, 12, 5), seed=1)
    oracle = copy.deepcopy(held)
    keep = allocate.globally(criteria.random(held, seed=2), 0.7)
    for name, mask in keep.items():
        parametrize.register_parametrization(
            oracle.get_submodule(name.removesuffix(".weight")), "weight", Masked(mask)
        )
    mine, theirs = build(held.parameters()), build(oracle.parameters())
    masks.hold(mine, held, keep)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        x = torch.randn(32, 20, generator=generator)
        y = torch.randint(5, (32,), generator=generator)
        for model, optimizer in ((held, mine), (oracle, theirs)):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    for name, mask in keep.items():
        module = name.removesuffix(".weight")
        ours, other = held.get_submodule(module).weight, oracle.get_submodule(module).weight
        assert torch.equal(ours, other)  # to the last bit
        assert (ours[~mask] == 0).all() and (ours[mask] != 0).all()
        assert (held.get_submodule(module).weight.grad[~mask] != 0).any()  # gradients stay dense


def test_hold_can_be_let_go():
    net = models.mlp((4, 3, 2))
    keep = allocate.globally(criteria.magnitude(net), 0.5)
    optimizer = training.sgd(net)
    handle = masks.hold(optimizer, net, keep)
    x = torch.randn(8, 4)

    def step():
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()

    step()
    assert (net.fc1.weight[~keep["fc1.weight"]] == 0).all()
    handle.remove()
    step()
    assert (net.fc1.weight[~keep["fc1.weight"]] != 0).any()


def test_a_masked_model_stays_an_ordinary_model(tmp_path):
    net = models.mlp((6, 4, 2))
    names = list(net.state_dict())
    optimizer = training.sgd(net)
    masks.hold(optimizer, net, allocate.globally(criteria.magnitude(net), 0.5))
    assert list(net.state_dict()) == names
    torch.save(copy.deepcopy(net).state_dict(), tmp_path / "net.pt")
    fresh = models.mlp((6, 4, 2), seed=1)
    fresh.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert torch.equal(fresh.fc1.weight, net.fc1.weight)


def test_apply_changes_only_what_the_mask_names():
    net = models.mlp((5, 4, 3))
    before = copy.deepcopy(net)
    mask = torch.rand(4, 5) > 0.5
    masks.apply(net, {"fc1.weight": mask})
    assert torch.equal(net.fc1.weight, before.fc1.weight * mask)
    assert torch.equal(net.fc2.weight, before.fc2.weight)
    assert torch.equal(net.fc1.bias, before.fc1.bias)


def test_sparsity_weighs_layers_by_size():
    keep = {"a": torch.ones(1, 10, dtype=torch.bool), "b": torch.zeros(1, 90, dtype=torch.bool)}
    assert masks.sparsity(keep) == 0.9
    with pytest.raises(ValueError, match="masks must hold at least one weight"):
        masks.sparsity({})


def test_sparsity_is_one_division():
    for n in (3, 7, 10, 49, 1000):
        for gone in range(n + 1):
            assert masks.sparsity({"a": torch.arange(n) >= gone}) == gone / n


def test_stack():
    a, b = torch.rand(2, 4, 4) > 0.5
    assert torch.equal(masks.stack([{"x": a}, {"x": b}])["x"], torch.stack([a, b]))
    with pytest.raises(ValueError, match=r"members\[1\] must have the names and shapes"):
        masks.stack([{"x": a}, {"y": b}])
    with pytest.raises(ValueError, match=r"members\[1\] must have the names and shapes"):
        masks.stack([{"x": a}, {"x": b[:2]}])
    with pytest.raises(ValueError, match="members must hold at least one"):
        masks.stack([])


def test_unstack_is_the_way_back():
    one, two = ({"x": torch.rand(4, 4) > 0.5, "y": torch.rand(3) > 0.5} for _ in range(2))
    for got, given in zip(masks.unstack(masks.stack([one, two])), (one, two), strict=True):
        assert got.keys() == given.keys() and all(torch.equal(got[n], given[n]) for n in given)
    for wrong in (
        {},
        {"x": torch.ones(2, 3) > 0, "y": torch.ones(3, 3) > 0},
        {"x": torch.tensor(True)},
    ):
        with pytest.raises(ValueError, match="stacked must hold masks"):
            masks.unstack(wrong)


# what hold promises


def small_steps(net, optimizer, *, clip=None, closed=False, steps=20, scaler=None):
    g = torch.Generator().manual_seed(0)
    dtype = next(net.parameters()).dtype
    for _ in range(steps):
        x, y = torch.randn(32, 20, generator=g).to(dtype), torch.randint(5, (32,), generator=g)

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x).float(), y)
            (loss if scaler is None else scaler.scale(loss)).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            return loss

        if closed:
            optimizer.step(closure)
        elif scaler is not None:
            closure()
            scaler.step(optimizer)
            scaler.update()
        else:
            closure()
            optimizer.step()


def held_and_oracle(build, dtype=torch.float32, **how):
    """Two networks after the same training: masks held, and masks in the forward pass."""
    held = models.mlp((20, 16, 12, 5), seed=1).to(dtype)
    oracle = copy.deepcopy(held)
    keep = allocate.globally(criteria.random(held, seed=2), 0.7)
    for name, mask in keep.items():
        layer = oracle.get_submodule(name.removesuffix(".weight"))
        parametrize.register_parametrization(layer, "weight", Masked(mask.to(dtype)))
    mine, theirs = build(held.parameters()), build(oracle.parameters())
    masks.hold(mine, held, keep)
    small_steps(held, mine, **how)
    small_steps(oracle, theirs, **how)
    return held, oracle, keep


def equal_under(held, oracle, keep):
    return all(
        torch.equal(held.get_parameter(n), oracle.get_submodule(n.removesuffix(".weight")).weight)
        for n in keep
    )


ONE_BY_ONE = {
    "closure": (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), {"closed": True}),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, lr=1e-3), {}),
    "Adagrad": (lambda p: torch.optim.Adagrad(p, lr=1e-2), {}),
    "float16": (lambda p: torch.optim.SGD(p, lr=0.05), {"dtype": torch.float16}),
    "bfloat16": (lambda p: torch.optim.SGD(p, lr=0.05), {"dtype": torch.bfloat16}),
    "float64": (lambda p: torch.optim.AdamW(p, lr=1e-2), {"dtype": torch.float64}),
    "groups": (
        lambda p: torch.optim.SGD(
            [{"params": [w], "lr": 0.02 * w.dim()} for w in p], lr=1.0, momentum=0.9
        ),
        {},
    ),
}


@pytest.mark.parametrize(("build", "how"), ONE_BY_ONE.values(), ids=ONE_BY_ONE)
def test_to_the_last_bit_where_every_weight_is_treated_by_itself(build, how):
    held, oracle, keep = held_and_oracle(build, **how)
    assert equal_under(held, oracle, keep)
    assert all((held.get_parameter(n)[~m] == 0).all() for n, m in keep.items())


MIXING = {
    "LBFGS": (lambda p: torch.optim.LBFGS(p, lr=0.1), {"closed": True, "steps": 3}),
    "Adafactor": (lambda p: torch.optim.Adafactor(p, lr=1e-2), {}),
    "clip_grad_norm_": (lambda p: torch.optim.SGD(p, lr=0.05), {"clip": 0.1}),
}


@pytest.mark.parametrize(("build", "how"), MIXING.values(), ids=MIXING)
def test_where_a_step_mixes_weights_the_zeros_hold_and_the_path_is_another(build, how):
    held, oracle, keep = held_and_oracle(build, **how)
    for n, m in keep.items():
        assert (held.get_parameter(n)[~m] == 0).all() and (held.get_parameter(n)[m] != 0).any()
    assert not equal_under(held, oracle, keep)


@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_holds_too(fused):
    net = models.mlp((20, 16, 12, 5), seed=1)
    keep = allocate.globally(criteria.random(net, seed=2), 0.7)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, fused=fused)
    masks.hold(optimizer, net, keep)
    small_steps(net, optimizer, scaler=torch.amp.GradScaler("cpu", init_scale=256.0))
    assert all(torch.equal(net.get_parameter(n) != 0, m) for n, m in keep.items())


def test_what_becomes_nan_stays_visible():
    net = models.mlp((3, 2))
    mask = torch.tensor([[True, False, True], [False, True, True]])
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    masks.hold(optimizer, net, {"fc1.weight": mask})
    net.fc1.weight.grad = torch.full((2, 3), torch.nan)
    optimizer.step()
    assert net.fc1.weight.isnan().all()


def test_frozen_and_tied_weights_are_held_once_and_stay_what_they_were():
    net = models.mlp((4, 4, 4, 3))
    net.fc2.weight = net.fc1.weight
    net.fc3.weight.requires_grad_(False)
    keep = allocate.per_layer(criteria.magnitude(net), 0.5)
    assert list(keep) == ["fc1.weight", "fc3.weight"]
    optimizer = training.sgd(net)
    masks.hold(optimizer, net, keep)
    frozen = net.fc3.weight.clone()
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
    assert net.fc2.weight is net.fc1.weight and not net.fc3.weight.requires_grad
    assert torch.equal(net.fc1.weight != 0, keep["fc1.weight"])
    assert torch.equal(net.fc3.weight, frozen) and not frozen[~keep["fc3.weight"]].any()
    with pytest.raises(ValueError, match="'fc2.weight', which is not among those of model"):
        masks.apply(net, {"fc2.weight": keep["fc1.weight"]})


def test_a_parametrised_weight_is_masked_by_what_trains():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    parametrize.register_parametrization(net[0], "weight", nn.Tanh())
    mask = torch.rand(3, 4) > 0.5
    with pytest.raises(ValueError, match="'0.weight'.*0.parametrizations.weight.original"):
        masks.apply(net, {"0.weight": mask})
    optimizer = training.sgd(net)
    masks.hold(optimizer, net, {"0.parametrizations.weight.original": mask})
    net(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    assert torch.equal(net[0].weight != 0, mask)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (
            {"fc9.weight": torch.ones(3, 4, dtype=torch.bool)},
            ValueError,
            "'fc9.weight'.*fc1.weight",
        ),
        (
            {"fc2.weight": torch.ones(4, 2, dtype=torch.bool)},
            ValueError,
            r"shape \(2, 4\), got \(4, 2\)",
        ),
        ({"fc2.weight": torch.ones(2, 4)}, TypeError, "torch.bool tensor, got torch.float32"),
        ({"fc2.weight": [[True]]}, TypeError, "torch.bool tensor, got list"),
    ],
)
@pytest.mark.parametrize("use", ["apply", "hold"])
def test_masks_that_do_not_fit_change_nothing(wrong, error, words, use):
    net = models.mlp((3, 4, 2))
    before = copy.deepcopy(net.state_dict())
    bad = {"fc1.weight": torch.zeros(4, 3, dtype=torch.bool), **wrong}
    optimizer = training.sgd(net)
    with pytest.raises(error, match=words):
        masks.apply(net, bad) if use == "apply" else masks.hold(optimizer, net, bad)
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    assert not optimizer._optimizer_step_post_hooks


def test_hold_needs_the_optimizer_of_that_model():
    net, other = models.mlp((3, 2)), models.mlp((3, 2))
    keep = allocate.globally(criteria.magnitude(net), 0.5)
    with pytest.raises(ValueError, match="'fc1.weight', which optimizer does not train"):
        masks.hold(training.sgd(other), net, keep)
    assert net.fc1.weight.count_nonzero() == 6
