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


def test_combine_keeps_what_both_keep():
    a, b = torch.rand(2, 4, 4) > 0.5
    both = masks.combine({"x": a, "only": a}, {"x": b})
    assert torch.equal(both["x"], a & b) and torch.equal(both["only"], a)
    with pytest.raises(ValueError, match=r"second\['x'\] must have shape \(4, 4\).*\(2, 8\)"):
        masks.combine({"x": a}, {"x": b.view(2, 8)})


def test_stack():
    a, b = torch.rand(2, 4, 4) > 0.5
    assert torch.equal(masks.stack([{"x": a}, {"x": b}])["x"], torch.stack([a, b]))
    with pytest.raises(ValueError, match=r"members\[1\] must name the same parameters"):
        masks.stack([{"x": a}, {"y": b}])
    with pytest.raises(ValueError, match="members must hold at least one"):
        masks.stack([])


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
