"""Penalties: maps against numerical minimisation, training against scikit-learn and KKT."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from scipy import optimize
from sklearn.linear_model import Lasso, Ridge
from torch import nn

from course_lib import data, layers, measure, models, training
from course_lib.pruning import allocate, criteria, masks, penalties

GROUPS = {
    "a": torch.tensor([[0, 0, 1], [2, 1, -1]]),
    "b": torch.tensor([2, 0, 3, 3]),
}


def draw(seed):
    g = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(2, 3, generator=g, dtype=torch.float64),
        "b": torch.randn(4, generator=g, dtype=torch.float64),
    }


CASES = {
    "l1": (penalties.l1, penalties.prox_l1),
    "l2": (penalties.l2, penalties.prox_l2),
    "groups": (
        partial(penalties.group_lasso, groups=GROUPS),
        partial(penalties.prox_group_lasso, groups=GROUPS),
    ),
    "groups, no factor": (
        partial(penalties.group_lasso, groups=GROUPS, by_size=False),
        partial(penalties.prox_group_lasso, groups=GROUPS, by_size=False),
    ),
}


def pack(values):
    return torch.cat([values["a"].flatten(), values["b"]])


def unpack(x):
    x = torch.as_tensor(x)
    return {"a": x[:6].view(2, 3), "b": x[6:]}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_maps_minimise_their_objective(case, t):
    """Nothing that a derivative-free search finds from two starts is lower."""
    penalty, prox = CASES[case]
    for seed in range(2):
        v = draw(seed)

        def objective(x, v=v):
            return float(t * penalty(unpack(x)) + (torch.as_tensor(x) - pack(v)).square().sum() / 2)

        ours = pack(prox(v, t))
        found = min(
            (
                optimize.minimize(
                    objective,
                    start,
                    method="Powell",
                    options={"xtol": 1e-7, "ftol": 1e-11},
                )
                for start in (pack(v).numpy(), ours.numpy() + 0.01)
            ),
            key=lambda r: r.fun,
        )
        assert objective(ours) <= found.fun + 1e-12
        # The objective is 1-strongly convex: a gap of 1e-6 is a distance of at most 0.0015.
        assert found.fun <= objective(ours) + 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_moreau(seed):
    """v = prox(v) + t · (projection of v/t onto the ball of the dual norm)."""
    v, t = draw(seed), 0.7
    soft = penalties.prox_l1(v, t)
    for name in v:
        torch.testing.assert_close(soft[name] + t * (v[name] / t).clamp(-1, 1), v[name])
    block = pack(penalties.prox_group_lasso(v, t, GROUPS, by_size=False))
    index, flat = pack(GROUPS), pack(v)
    for g in range(4):
        u = flat[index == g] / t
        torch.testing.assert_close(block[index == g] + t * u / u.norm().clamp(min=1), t * u)
    assert torch.equal(block[index == -1], flat[index == -1])


def test_groups_of_one_are_the_lasso():
    v = draw(0)
    alone = {"a": torch.arange(6).view(2, 3), "b": torch.arange(6, 10)}
    torch.testing.assert_close(penalties.group_lasso(v, alone), penalties.l1(v))
    for name, got in penalties.prox_group_lasso(v, 0.4, alone).items():
        torch.testing.assert_close(got, penalties.prox_l1(v, 0.4)[name])


def test_a_group_of_zeros_stays_zero():
    v = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    for got in penalties.prox_group_lasso(v, 0.4, GROUPS).values():
        assert not got.any()


def test_rows_and_columns_are_the_units_weights():
    net = models.lenet5(width=0.1)
    for make, dim in ((penalties.rows, 0), (penalties.columns, 1)):
        groups = make(net)
        weights = layers.weights(net)
        assert groups.keys() == weights.keys()
        norms = torch.cat(
            [w.transpose(0, dim).flatten(1).norm(dim=1) * (w[0].numel() if dim == 0 else w[:, 0].numel()) ** 0.5
             for w in weights.values()]
        )  # fmt: skip
        torch.testing.assert_close(penalties.group_lasso(weights, groups), norms.sum())
        numbers = torch.cat([g.unique() for g in groups.values()])
        assert numbers.tolist() == list(range(len(norms)))  # none occurs in two layers


def regression():
    """A linear model on 200 points, 8 inputs of which 3 matter, and its full-batch training."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=g, dtype=torch.float64)
    truth = torch.tensor([2.0, 0, 0, -1, 0, 0, 0, 0.5], dtype=torch.float64)
    y = x @ truth + 0.3 * torch.randn(200, generator=g, dtype=torch.float64)
    return x, y


def descend(x, y, prox, strength, **options):
    model = nn.Linear(8, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), **options)
    handle = penalties.regularise(optimizer, model, prox, strength=strength)
    for _ in range(1000):
        optimizer.zero_grad()
        ((model(x).squeeze(1) - y).square().mean() / 2).backward()
        optimizer.step()
    handle.remove()
    return model.weight.detach().squeeze(0)


OPTIONS = {
    "plain": {"lr": 0.05},
    "momentum": {"lr": 0.02, "momentum": 0.9},
    "nesterov": {"lr": 0.02, "momentum": 0.9, "nesterov": True},
    "dampened": {"lr": 0.05, "momentum": 0.9, "dampening": 0.5},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("strength", [0.02, 0.2, 0.7])
def test_training_with_l1_is_the_lasso(options, strength):
    x, y = regression()
    ours = descend(x, y, penalties.prox_l1, strength, **options)
    theirs = Lasso(alpha=strength, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x, y)
    assert torch.equal(ours == 0, torch.as_tensor(theirs.coef_ == 0))
    torch.testing.assert_close(ours, torch.as_tensor(theirs.coef_), rtol=0, atol=1e-8)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_training_with_l2_is_ridge_regression(options):
    x, y = regression()
    ours = descend(x, y, penalties.prox_l2, 0.3, **options)
    theirs = Ridge(alpha=0.3 * len(y), fit_intercept=False, tol=1e-12).fit(x, y)
    torch.testing.assert_close(ours, torch.as_tensor(theirs.coef_), rtol=0, atol=1e-8)
    assert (ours != 0).all()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("strength", [0.05, 0.4])
def test_training_with_group_lasso_meets_the_optimality_conditions(options, strength):
    """Yuan & Lin's: −∇L_g = λ√p_g w_g/‖w_g‖ where w_g ≠ 0, ‖∇L_g‖ <= λ√p_g where w_g = 0."""
    x, y = regression()
    groups = torch.tensor([[0, 0, 1, 2, 1, 3, 3, 2]])
    prox = partial(penalties.prox_group_lasso, groups={"weight": groups})
    w = descend(x, y, prox, strength, **options)
    slope = x.t() @ (x @ w - y) / len(y)
    zero = set()
    for g in range(4):
        inside = groups[0] == g
        factor = strength * int(inside.sum()) ** 0.5
        if (w[inside] == 0).all():
            zero.add(g)
            assert slope[inside].norm() <= factor
        else:
            assert (w[inside] != 0).all()
            expected = -factor * w[inside] / w[inside].norm()
            torch.testing.assert_close(slope[inside], expected, rtol=0, atol=1e-8)
    assert zero == {1, 3}


def test_zeros_of_the_penalty_are_what_magnitude_pruning_removes():
    train, test = data.load("digits")
    net = models.mlp((64, 32, 10))
    optimizer = training.sgd(net)
    penalties.regularise(optimizer, net, penalties.prox_l1, strength=0.002)
    training.fit(net, train, epochs=20, optimizer=optimizer)
    sparsity = measure.sparsity(net)
    assert 0.3 < sparsity < 0.95
    before = net(test.x)
    masks.apply(net, allocate.globally(criteria.magnitude(net), sparsity))
    assert torch.equal(net(test.x), before)
    plain = models.mlp((64, 32, 10))
    training.fit(plain, train, epochs=20)
    assert measure.sparsity(plain) == 0  # the control


def test_gamma_penalty_touches_gammas_only():
    def build():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        )

    x, y = torch.randn(16, 1, 8, 8), torch.randint(10, (16,))
    stepped = []
    for strength in (0.0, 3.0):
        net = build()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        names = penalties.bn_scales(net)
        assert names == ["1.weight"]
        penalties.regularise(optimizer, net, penalties.prox_l1, strength=strength, names=names)
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        stepped.append(dict(net.named_parameters()))
    free, held = stepped
    for name, w in held.items():
        expected = free[name] - 0.3 if name == "1.weight" else free[name]  # γ about 1, λη = 0.3
        torch.testing.assert_close(w, expected, rtol=0, atol=1e-6)


def test_the_step_follows_the_schedule():
    net = nn.Linear(3, 1, bias=False)
    nn.init.constant_(net.weight, 5.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    penalties.regularise(optimizer, net, penalties.prox_l1, strength=1.0)
    net.weight.grad = torch.zeros(1, 3)
    for rate in (1.0, 0.5, 0.25):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    assert net.weight.tolist() == [[3.25] * 3]


def test_bad_input():
    net = models.mlp((4, 3, 2))
    sgd = training.sgd(net)
    with pytest.raises(TypeError, match="optimizer must be torch.optim.SGD, got Adam"):
        adam = torch.optim.Adam(net.parameters())
        penalties.regularise(adam, net, penalties.prox_l1, strength=1)
    with pytest.raises(ValueError, match="strength must be at least 0, got -1"):
        penalties.regularise(sgd, net, penalties.prox_l1, strength=-1)
    with pytest.raises(ValueError, match="names has 'fc9'.*fc1.weight"):
        penalties.regularise(sgd, net, penalties.prox_l1, strength=1, names=["fc9"])
    with pytest.raises(ValueError, match="optimizer must train fc1.weight"):
        other = training.sgd(models.mlp((4, 3, 2)))
        penalties.regularise(other, net, penalties.prox_l1, strength=1, names=["fc1.weight"])
    with pytest.raises(ValueError, match=r"groups\['a'\] of shape \(2,\) must fit values"):
        penalties.group_lasso({"a": torch.ones(3)}, {"a": torch.zeros(2, dtype=torch.long)})
    with pytest.raises(ValueError, match="groups must hold at least one"):
        penalties.group_lasso({"a": torch.ones(3)}, {})
    with pytest.raises(ValueError, match="model must have a batch norm, got Sequential"):
        penalties.bn_scales(net)
    with pytest.raises(ValueError, match="t must be at least 0, got nan"):
        penalties.prox_l1({}, float("nan"))
    assert not sgd._optimizer_step_post_hooks
