"""Penalties: maps against numerical minimisation, training against scikit-learn and KKT."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from scipy import optimize
from sklearn.linear_model import Lasso, Ridge
from torch import nn

from course_lib import data, ensemble, layers, measure, models, training
from course_lib.pruning import allocate, channels, criteria, masks, penalties

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


KINDS = {
    "linear": lambda: nn.Linear(4, 6),
    "convolution": lambda: nn.Conv2d(4, 6, 3),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "transposed, grouped": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "one dimension": lambda: nn.ConvTranspose1d(4, 6, 3),
    "channels last": lambda: nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_zeroing_a_group_is_silencing_its_unit(make):
    """Brute force: without its row an output is its bias, without its column an input has no say."""
    net = nn.Sequential(make()).double()
    layer = net[0]
    n_in = getattr(layer, "in_channels", 4)
    sides = layer.weight.dim() - 2
    x = torch.rand(3, n_in, *[5] * sides, generator=torch.Generator().manual_seed(0)).double()
    whole = net(x)

    def without(index, unit):
        cut = copy.deepcopy(net)
        with torch.no_grad():
            cut[0].weight.masked_fill_(index == unit, 0)
        return cut

    index = penalties.rows(net)["0.weight"]
    assert index.shape == layer.weight.shape and index.unique().tolist() == list(
        range(whole.shape[1])
    )
    for o in range(whole.shape[1]):
        y = without(index, o)(x)
        others = [k for k in range(whole.shape[1]) if k != o]
        assert torch.equal(y[:, others], whole[:, others])
        assert torch.equal(y[:, o], layer.bias[o].expand_as(y[:, o]))
    index = penalties.columns(net)["0.weight"]
    assert index.unique().tolist() == list(range(n_in))
    for i in range(n_in):
        silenced = x.clone()
        silenced[:, i] = 0
        torch.testing.assert_close(without(index, i)(x), net(silenced))


def test_each_member_of_a_stack_has_its_own_groups():
    nets = [models.mlp((4, 3, 2), seed=seed) for seed in range(3)]
    stack = ensemble.stack(nets)
    groups, alone = penalties.rows(stack), penalties.rows(nets[0])
    values = dict(stack.named_parameters())
    shrunk = penalties.prox_group_lasso(values, 0.5, groups)
    for k, net in enumerate(nets):
        own = penalties.prox_group_lasso(layers.weights(net), 0.5, alone)
        for name, v in own.items():
            torch.testing.assert_close(shrunk[name][k], v)
    sums = [penalties.group_lasso(layers.weights(net), alone) for net in nets]
    torch.testing.assert_close(penalties.group_lasso(values, groups), sum(sums))


def test_a_stack_is_regularised_member_by_member():
    nets = [models.mlp((4, 3, 2), seed=seed) for seed in range(2)]
    stack = ensemble.stack(nets)
    train = data.Split(torch.rand(20, 4), torch.arange(20) % 2)
    for net in (stack, *nets):
        optimizer = training.sgd(net)
        penalties.regularise(optimizer, net, penalties.prox_l1, strength=0.05)
        training.fit(net, train, epochs=5, batch_size=10, optimizer=optimizer)
    for k, net in enumerate(nets):
        for name, p in net.named_parameters():
            torch.testing.assert_close(stack.get_parameter(name)[k], p)
    assert (stack.get_parameter("fc1.weight") == 0).any()


def test_a_tied_weight_is_penalised_once():
    net = models.mlp((4, 4, 4, 2))
    net.fc2.weight = net.fc1.weight
    groups = penalties.rows(net)
    assert list(groups) == ["fc1.weight", "fc3.weight"]
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    penalties.regularise(optimizer, net, penalties.prox_l1, strength=0.01)
    before = net.fc1.weight.detach().clone()
    net.fc1.weight.grad = torch.zeros(4, 4)
    optimizer.step()
    expected = penalties.prox_l1({"w": before}, 0.01)["w"]
    assert torch.equal(net.fc2.weight, expected) and net.fc2.weight is net.fc1.weight


def test_frozen_weights_are_left_alone_or_refused_where_named():
    net = models.mlp((4, 3, 2))
    net.fc1.weight.requires_grad_(False)
    before = net.fc1.weight.clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    penalties.regularise(optimizer, net, penalties.prox_l1, strength=1e3)
    net(torch.ones(5, 4)).sum().backward()
    optimizer.step()
    assert torch.equal(net.fc1.weight, before) and not net.fc2.weight.any()
    with pytest.raises(ValueError, match="'fc1.weight', which is frozen"):
        penalties.regularise(optimizer, net, penalties.prox_l1, strength=1.0, names=["fc1.weight"])
    net.requires_grad_(False)
    with pytest.raises(ValueError, match="at least one parameter that trains"):
        penalties.regularise(optimizer, net, penalties.prox_l1, strength=1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    v = {"a": torch.full((600, 200), 3.0, dtype=dtype), "b": torch.full((4,), 1e-3, dtype=dtype)}
    groups = {name: torch.full(x.shape, k) for k, (name, x) in enumerate(v.items())}
    wide = {name: x.float() for name, x in v.items()}
    for penalty in (
        penalties.l1, penalties.l2, partial(penalties.group_lasso, groups=groups)
    ):  # fmt: skip
        assert penalty(v).isfinite() and torch.equal(penalty(v), penalty(wide))
    for prox in (
        penalties.prox_l1, penalties.prox_l2, partial(penalties.prox_group_lasso, groups=groups),
        penalties.prox_root, penalties.prox_selective(nn.Linear(1, 1), 0.5),
        lambda v, t: penalties.smooth_root(0.1)(v), lambda v, t: penalties.selective(0.5)(v),
    ):  # fmt: skip
        for name, x in prox(v, 1e-4).items():
            assert x.dtype == dtype and torch.equal(x, prox(wide, 1e-4)[name].to(dtype))


@pytest.mark.parametrize("fused", [False, True])
def test_closures_and_scalers_shrink_as_plain_steps(fused):
    def run(how, overflow=False):
        net = models.mlp((4, 3, 2))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.5, fused=fused)
        penalties.regularise(optimizer, net, penalties.prox_l1, strength=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=how == "scaler")
        for t in range(4):
            x, before = torch.full((5, 4), 0.1 * t), copy.deepcopy(net.state_dict())
            lost = torch.inf if overflow and t == 2 else 1.0

            def closure(x=x, lost=lost):
                optimizer.zero_grad()
                loss = net(x).square().sum() * lost
                scaler.scale(loss).backward()
                return loss

            if how == "closure":
                optimizer.step(closure)
            else:
                closure()
                scaler.step(optimizer)
                scaler.update()
            if overflow and t == 2:
                assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())
        return list(net.parameters())

    for how in ("closure", "scaler"):
        for a, b in zip(run("plain"), run(how), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    run("scaler", overflow=True)


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


# ---- the root


@pytest.mark.parametrize("t", [1e-3, 0.1, 1.0, 7.0])
def test_the_half_threshold_is_the_minimum_on_a_grid(t):
    jump = t ** (2 / 3)
    v = torch.linspace(-6, 6, 201, dtype=torch.float64) * jump
    ours = penalties.prox_root({"w": v}, t)["w"]
    grid = torch.linspace(-7, 7, 14_001, dtype=torch.float64) * jump  # holds 0

    def objective(x):
        return t * x.abs().sqrt() + (x - v[:, None]).square() / 2

    best = objective(grid[None]).amin(1)
    mine = objective(ours[:, None]).squeeze(1)
    assert (mine <= best + 1e-12 * jump**2).all()
    assert torch.equal(ours, -penalties.prox_root({"w": -v}, t)["w"])
    assert ((ours == 0) | (ours.abs() >= jump * (1 - 1e-9))).all()  # nothing lies in the gap


def test_the_half_threshold_jumps_where_the_formula_says():
    t = 0.3
    edge = 1.5 * t ** (2 / 3)
    v = torch.tensor([edge, edge * (1 + 1e-12), 0.0, -edge * 1.001], dtype=torch.float64)
    at, above, zero, below = penalties.prox_root({"w": v}, t)["w"].tolist()
    assert at == 0 and zero == 0 and below < -(t ** (2 / 3))
    assert above == pytest.approx(t ** (2 / 3), rel=1e-9)
    v = torch.randn(100, dtype=torch.float64)
    torch.testing.assert_close(penalties.prox_root({"w": v}, 0.0)["w"], v)
    torch.testing.assert_close(penalties.prox_root({"w": v}, 1e-12)["w"], v, rtol=0, atol=1e-8)


def test_training_with_the_half_threshold_is_never_worse_than_the_best_support():
    """On an orthogonal design the penalised optimum is the map of the least squares: exhaustive."""
    g = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(40, 8, generator=g, dtype=torch.float64))[0] * 40**0.5
    y = torch.randn(40, generator=g, dtype=torch.float64)
    for strength in (0.02, 0.1):
        model = nn.Linear(8, 1, bias=False, dtype=torch.float64)
        model.weight.data = (x.t() @ y / 40)[None]
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        penalties.regularise(optimizer, model, penalties.prox_root, strength=strength)
        for _ in range(3):
            optimizer.zero_grad()
            ((model(x).squeeze(1) - y).square().mean() / 2).backward()
            optimizer.step()
        wanted = penalties.prox_root({"weight": (x.t() @ y / 40)[None]}, strength)["weight"]
        torch.testing.assert_close(model.weight.detach(), wanted, rtol=0, atol=1e-12)
        assert (wanted == 0).any()


@pytest.mark.parametrize("a", [0.01, 1.0])
def test_the_smooth_root_has_the_slope_of_its_formula(a):
    def penalty(x):
        f = x.abs() if abs(x) >= a else -(x**4) / (8 * a**3) + 3 * x**2 / (4 * a) + 3 * a / 8
        return f**0.5

    points = [0.0, 0.5 * a, -0.9 * a, a, -a, 1.5 * a, 10 * a]
    slopes = penalties.smooth_root(a)({"w": torch.tensor(points, dtype=torch.float64)})["w"]
    for x, slope in zip(points, slopes.tolist(), strict=True):
        h, x = 1e-6 * a, torch.tensor(x, dtype=torch.float64)
        wanted = (penalty(x + h) - penalty(x - h)) / (2 * h)
        assert slope == pytest.approx(wanted.item(), rel=1e-6, abs=1e-6)
    assert slopes[0] == 0
    assert slopes[-1].item() == pytest.approx(0.5 * (10 * a) ** -0.5)


# ---- slopes


def plain_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def step(net, hook, *, make=plain_sgd, steps=1):
    """Steps with gradients of zero: only the penalty moves a weight."""
    optimizer = make(net.parameters())
    hook(optimizer)
    for _ in range(steps):
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
        partial(torch.optim.Adam, lr=0.1),
        partial(torch.optim.RMSprop, lr=0.1),
    ],
)
def test_the_slope_of_l2_is_weight_decay(make):
    """Torch's own weight decay, to the last bit."""
    ours, theirs = models.mlp((4, 3, 2)), models.mlp((4, 3, 2))
    for net in (ours, theirs):  # the biases have none: they do not move
        step(
            net,
            lambda o, n=net: penalties.penalise(o, n, dict, strength=0.25) if n is ours else None,
            make=lambda p, n=net: make(p, weight_decay=0.0 if n is ours else 0.25),
            steps=5,
        )
    for name in ("fc1.weight", "fc2.weight"):
        assert torch.equal(ours.get_parameter(name), theirs.get_parameter(name))
    step(before := models.mlp((4, 3, 2)), lambda o: None)
    assert torch.equal(ours.fc1.bias, before.fc1.bias)


def test_the_slope_is_added_to_the_gradient_of_the_penalised_loss():
    """Autograd of loss + λ R."""
    net, twin = models.mlp((4, 3, 2)).double(), models.mlp((4, 3, 2)).double()
    x = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    penalties.penalise(optimizer, net, lambda v: {n: w.sign() for n, w in v.items()}, strength=0.3)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
        loss = twin(x).square().sum() + 0.3 * penalties.per_member(twin, penalties.l1)
        slopes = torch.autograd.grad(loss, [*twin.parameters()])
        for p, slope in zip(twin.parameters(), slopes, strict=True):
            p.data -= 0.1 * slope
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_selective_pulls_exactly_the_weights_that_a_cut_would_remove():
    net = models.mlp((30, 20, 10))
    with torch.no_grad():
        net.fc1.weight[:5] = 0.01  # ties at the cut
    for sparsity in (0.0, 0.1, 0.5, 0.97, 1.0):
        weights = layers.weights(net)
        slope = penalties.selective(sparsity)(weights)
        wanted = allocate.globally(criteria.magnitude(net), sparsity) if sparsity < 1 else None
        n = sum(w.numel() for w in weights.values())
        pulled = sum(int(s.count_nonzero()) for s in slope.values())
        assert pulled == round(sparsity * n)
        for name, w in weights.items():
            keep = torch.zeros_like(w, dtype=torch.bool) if wanted is None else wanted[name]
            assert torch.equal(slope[name], w.masked_fill(keep, 0))


def test_one_pulled_weight_shrinks_by_the_closed_form():
    def weights(prepare, steps=4):
        net = nn.Linear(2, 1, bias=False, dtype=torch.float64)
        net.weight.data = torch.tensor([[2.0, -0.5]], dtype=torch.float64)
        step(net, lambda o: prepare(o, net), steps=steps)
        return net.weight[0].tolist()

    slope = penalties.selective(0.5)
    rising = penalties.rising(0.5, 4.0, steps=3)  # 0.5, 1, 2, then 4
    by_slope = weights(lambda o, n: penalties.penalise(o, n, slope, strength=rising))
    by_map = weights(
        lambda o, n: penalties.regularise(o, n, penalties.prox_selective(n, 0.5), strength=rising)
    )
    assert by_slope[0] == by_map[0] == 2.0
    factors = [0.05, 0.1, 0.2, 0.4]  # lr · λ
    assert by_slope[1] == pytest.approx(-0.5 * (0.95 * 0.9 * 0.8 * 0.6), rel=1e-12)
    assert by_map[1] == pytest.approx(-0.5 / (1.05 * 1.1 * 1.2 * 1.4), rel=1e-12)
    assert factors == pytest.approx([0.1 * rising(k) for k in range(4)])
    huge = weights(
        lambda o, n: penalties.regularise(o, n, penalties.prox_selective(n, 0.5), strength=1e9)
    )
    assert abs(huge[1]) < 1e-30  # stable at any strength


def test_the_cut_after_selective_decay_changes_nothing():
    train, test = data.load("digits")
    net, plain = models.mlp((64, 32, 10)), models.mlp((64, 32, 10))
    epochs, steps = 20, 20 * 12
    optimizer = training.sgd(net)
    strength = penalties.rising(1e-3, 1e2, steps=steps)
    penalties.penalise(optimizer, net, penalties.selective(0.7), strength=strength)
    training.fit(net, train, epochs=epochs, optimizer=optimizer)
    training.fit(plain, train, epochs=epochs)
    moved = {}
    for name, model in (("selective", net), ("plain", plain)):
        before = model(test.x)
        masks.apply(model, allocate.globally(criteria.magnitude(model), 0.7))
        moved[name] = (model(test.x) - before).abs().max().item()
    assert moved["selective"] < 0.01 * moved["plain"]  # the control
    assert training.evaluate(net, test) > 90


def test_norm_scales_are_ranked_and_pulled_alone():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))  # fmt: skip
    net[1].weight.data = torch.tensor([1.0, 0.1, 0.3, 2.0])
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    names = penalties.bn_scales(net)
    slope = penalties.selective(0.5)
    step(net, lambda o: penalties.penalise(o, net, slope, strength=1.0, names=names))
    for name, p in net.named_parameters():
        if name != "1.weight":
            assert torch.equal(p, before[name])
    torch.testing.assert_close(net[1].weight.detach(), torch.tensor([1.0, 0.09, 0.27, 2.0]))


SLOPES = {
    "selective": penalties.selective(0.6),
    "smooth root": penalties.smooth_root(0.05),
    "l1": lambda values: {name: v.sign() for name, v in values.items()},
}


@pytest.mark.parametrize("slope", SLOPES.values(), ids=SLOPES)
@pytest.mark.parametrize("make", [training.sgd, lambda net: torch.optim.Adam(net.parameters())])
def test_a_stack_is_penalised_member_by_member(slope, make):
    nets = [models.mlp((4, 3, 2), seed=seed) for seed in range(3)]
    nets[1].fc1.weight.data *= 5  # a ranking over all members would spare it
    stack = ensemble.stack(nets)
    train = data.Split(torch.rand(20, 4), torch.arange(20) % 2)
    for net in (stack, *nets):
        optimizer = make(net)
        penalties.penalise(optimizer, net, slope, strength=penalties.rising(0.1, 1.0, steps=10))
        training.fit(net, train, epochs=5, batch_size=10, optimizer=optimizer)
    for k, net in enumerate(nets):
        for name, p in net.named_parameters():
            torch.testing.assert_close(stack.get_parameter(name)[k], p, rtol=1e-4, atol=1e-6)


def test_the_selective_map_ranks_each_member_by_itself():
    nets = [models.mlp((4, 3, 2), seed=seed) for seed in range(3)]
    nets[2].fc1.weight.data *= 5
    stack = ensemble.stack(nets)
    shrunk = penalties.prox_selective(stack, 0.5)(dict(penalties.trained(stack)), 1.0)
    for k, net in enumerate(nets):
        alone = penalties.prox_selective(net, 0.5)(layers.weights(net), 1.0)
        for name, v in alone.items():
            assert torch.equal(shrunk[name][k], v)


def test_a_penalty_of_all_members_is_refused_and_one_per_member_is_not():
    nets = [models.mlp((4, 3, 2), seed=seed) for seed in range(2)]
    train = data.Split(torch.rand(20, 4), torch.arange(20) % 2)
    stack = ensemble.stack(nets)

    def fit(net, penalty):
        def loss(logits, positions):
            return training.cross_entropy(logits, train.y[positions]) + 0.1 * penalty(net)

        training.fit(net, train, epochs=2, batch_size=10, loss=loss)

    with pytest.raises(ValueError, match="loss must keep the members of a stack apart"):
        fit(stack, lambda net: penalties.l1(penalties.trained(net)))
    each = partial(penalties.per_member, penalty=penalties.l1)
    assert each(stack).shape == (2,) and each(nets[0]).shape == ()
    for net in (stack, *nets):
        fit(net, each)
    for k, net in enumerate(nets):
        for name, p in net.named_parameters():
            torch.testing.assert_close(stack.get_parameter(name)[k], p)
    sums = penalties.per_member(stack, penalties.l1, names=["fc1.bias"])
    torch.testing.assert_close(sums, stack.get_parameter("fc1.bias").abs().sum(1))


# ---- groups of channels

NETS = {
    "mlp": lambda: models.mlp((196, 6, 5, 3)),
    "resnet": lambda: models.resnet(width=0.25),
    "mobilenet": lambda: models.mobilenet(width=0.25),
    "inception": lambda: models.inception(width=0.25),
    "vgg": lambda: models.vgg(width=0.25),
}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_zeroing_a_group_is_removing_its_channel(make):
    """Brute force: the group's zeros and ``channels.remove`` compute the same."""
    net = make().eval().double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 14, 14, generator=generator).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator).double())
    graph = channels.trace(net, x)
    found = penalties.groups(net, graph)
    assert {layer: sorted({i for g in of.values() for i in g.unique().tolist()} - {-1})
            for layer, of in found.items()} == {k: sorted(v) for k, v in graph.layers().items()}  # fmt: skip
    for layer, of_layer in found.items():
        for i in graph.layers()[layer][:2]:
            cut = copy.deepcopy(net)
            with torch.no_grad():
                for name, index in of_layer.items():
                    cut.get_parameter(name).masked_fill_(index == i, 0)
            removed = channels.remove(net, graph, {i})
            torch.testing.assert_close(cut(x), removed(x))
            gone = sum(p.numel() for p in net.parameters()) - sum(
                p.numel() for p in removed.parameters()
            )
            assert sum(int((index == i).sum()) for index in of_layer.values()) == gone


def test_a_group_penalty_empties_whole_channels():
    net = models.mlp((16, 6, 5, 3))
    graph = channels.trace(net, torch.zeros(1, 16))
    values = dict(net.named_parameters())
    groups = penalties.groups(net, graph)["fc1"]
    assert set(groups) == {"fc1.weight", "fc1.bias", "fc2.weight"}
    norms = [
        (net.fc1.weight[i].square().sum() + net.fc1.bias[i] ** 2 + net.fc2.weight[:, i].square().sum()).sqrt()
        for i in range(6)
    ]  # fmt: skip
    torch.testing.assert_close(
        penalties.group_lasso(values, groups), (16 + 1 + 5) ** 0.5 * sum(norms)
    )
    shrunk = penalties.prox_group_lasso(values, 1.01 * max(norms).item(), groups, by_size=False)
    assert not any(shrunk[name].any() for name in ("fc1.weight", "fc1.bias", "fc2.weight"))
    assert torch.equal(shrunk["fc3.weight"], values["fc3.weight"])


def test_a_layer_that_reads_the_channels_it_makes_is_refused():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = self.a(x)
            return self.c(h + self.b(h))

    net = Loop()
    with pytest.raises(ValueError, match=r"'b.weight' does: its weights lie in two groups"):
        penalties.groups(net, channels.trace(net, torch.zeros(1, 3)))


def test_bad_input():
    net = models.mlp((4, 3, 2))
    for wrong in (-1.0, float("nan"), float("inf"), lambda step: -0.5):
        with pytest.raises(ValueError, match="strength.* must be finite and not negative"):
            penalties.penalise(training.sgd(net), net, dict, strength=wrong)
        with pytest.raises(ValueError, match="strength.* must be finite and not negative"):
            penalties.regularise(training.sgd(net), net, penalties.prox_l1, strength=wrong)
    with pytest.raises(TypeError, match="strength must be a number, got 'big'"):
        penalties.penalise(training.sgd(net), net, dict, strength="big")
    with pytest.raises(ValueError, match="slope must return one tensor per name"):
        penalties.penalise(training.sgd(net), net, lambda v: {}, strength=1.0)
    with pytest.raises(ValueError, match="names names 'fc1.weight', which optimizer does not"):
        penalties.penalise(training.sgd(models.mlp((4, 3, 2))), net, dict, strength=1.0)
    with pytest.raises(TypeError, match="optimizer must step once per dense gradient, got LBFGS"):
        penalties.penalise(torch.optim.LBFGS(net.parameters()), net, dict, strength=1.0)
    with pytest.raises(ValueError, match="penalty must give one number per network"):
        penalties.per_member(net, lambda values: values["fc1.weight"])
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="sparsity must be in"):
            penalties.selective(wrong)
        with pytest.raises(ValueError, match="sparsity must be in"):
            penalties.prox_selective(net, wrong)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="a must be positive and finite"):
            penalties.smooth_root(wrong)
        with pytest.raises(ValueError, match="first must be positive and finite"):
            penalties.rising(wrong, 1.0, steps=3)
    with pytest.raises(ValueError, match="last must be at least first, 2.0, got 1.0"):
        penalties.rising(2.0, 1.0, steps=3)
    with pytest.raises(ValueError, match="steps must be a positive integer"):
        penalties.rising(1.0, 2.0, steps=0)
    with pytest.raises(ValueError, match="t must be finite and not negative"):
        penalties.prox_root({"w": torch.ones(2)}, -1.0)
    sgd = training.sgd(net)
    with pytest.raises(TypeError, match="optimizer must be torch.optim.SGD, got Adam"):
        adam = torch.optim.Adam(net.parameters())
        penalties.regularise(adam, net, penalties.prox_l1, strength=1)
    with pytest.raises(ValueError, match="strength must be finite and not negative, got -1"):
        penalties.regularise(sgd, net, penalties.prox_l1, strength=-1)
    with pytest.raises(ValueError, match="names has 'fc9'.*fc1.weight"):
        penalties.regularise(sgd, net, penalties.prox_l1, strength=1, names=["fc9"])
    with pytest.raises(ValueError, match="optimizer must train fc1.weight"):
        other = training.sgd(models.mlp((4, 3, 2)))
        penalties.regularise(other, net, penalties.prox_l1, strength=1, names=["fc1.weight"])
    with pytest.raises(ValueError, match=r"groups\['a'\] of shape \(2,\) must fit values"):
        penalties.group_lasso({"a": torch.ones(3)}, {"a": torch.zeros(2, dtype=torch.long)})
    with pytest.raises(
        TypeError, match=r"groups\['a'\] must be a torch.int64 tensor, got torch.float32"
    ):
        penalties.group_lasso({"a": torch.ones(3)}, {"a": torch.zeros(3)})
    for strength in ("much", None, True):
        with pytest.raises(TypeError, match="strength must be a number"):
            penalties.regularise(sgd, net, penalties.prox_l1, strength=strength)
    with pytest.raises(ValueError, match="strength must be finite and not negative, got inf"):
        penalties.regularise(sgd, net, penalties.prox_l1, strength=float("inf"))
    with pytest.raises(TypeError, match="names must be several names, a list"):
        penalties.regularise(sgd, net, penalties.prox_l1, strength=1, names="fc1.weight")
    parametrised = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    for make in (penalties.rows, penalties.columns):
        with pytest.raises(ValueError, match="'0' is parametrised"):
            make(parametrised)
    with pytest.raises(ValueError, match="groups must hold at least one"):
        penalties.group_lasso({"a": torch.ones(3)}, {})
    with pytest.raises(ValueError, match="model must have a batch norm, got Sequential"):
        penalties.bn_scales(net)
    with pytest.raises(ValueError, match="t must be finite and not negative, got nan"):
        penalties.prox_l1({}, float("nan"))
    assert not sgd._optimizer_step_post_hooks
