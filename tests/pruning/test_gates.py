"""Gates: limits, gradients and probabilities by hand, the best mask by exhaustion, one by one and stacked."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize, prune

from course_lib import ensemble, measure, models, parametrized, training
from course_lib.pruning import gates, masks

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


def net(seed=0, sizes=(6, 5, 3)):
    return models.mlp(sizes, seed=seed)


def gated(gate, seed=0):
    model = net(seed)
    gates.attach(model, gate)
    return model


def numbers(model, leaf="logits"):
    return {n: p for n, p in model.named_parameters() if n.endswith(f".0.{leaf}")}


def scatter(model, seed=1):
    """Random numbers for all gates, none of them close to 0."""
    generator = torch.Generator().manual_seed(seed)
    for p in numbers(model).values():
        values = torch.rand(p.shape, generator=generator) * 0.4 + 0.01
        signs = torch.randint(2, p.shape, generator=generator) * 2 - 1
        p.data.copy_(values * signs)


def steepen(model, beta):
    for p in numbers(model, "beta").values():
        p.data.fill_(beta)


# ---- what a gate computes


def test_a_network_starts_as_without_gates_to_the_last_bit():
    assert torch.equal(gated(gates.Sigmoid())(X), net()(X))


@pytest.mark.parametrize("start", [-3.0, -0.3, 0.1, 5.0])
def test_it_starts_as_without_gates_wherever_the_gates_start(start):
    torch.testing.assert_close(gated(gates.Sigmoid(start))(X), net()(X), rtol=1e-6, atol=1e-7)


def test_steep_gates_are_hard_masks():
    model = gated(gates.Sigmoid(-0.1))
    scatter(model)
    steepen(model, 1e6)
    soft = model(X)
    keep = gates.harden(model)
    assert (soft - model(X)).abs().max() < 1e-6
    by_hand = net()
    masks.apply(by_hand, keep)
    for name in keep:
        by_hand.get_parameter(name).data.mul_(1 + math.exp(0.1))  # 1 / σ(s₀)
    torch.testing.assert_close(model(X), by_hand(X))


def test_the_slope_is_that_of_the_formula_and_of_differences():
    beta, start = 3.0, -0.2
    model = gated(gates.Sigmoid(start)).double()
    scatter(model)
    steepen(model, beta)
    x, y = X.double(), torch.arange(16) % 3
    original = model.fc1.parametrizations.weight.original
    s = model.fc1.parametrizations.weight[0].logits

    def loss(s):
        name = "fc1.parametrizations.weight.0.logits"
        return F.cross_entropy(functional_call(model, {name: s}, (x,)), y)

    slope = torch.autograd.grad(loss(s), s)[0]
    plain = parametrized.folded(model)
    at_weight = torch.autograd.grad(F.cross_entropy(plain(x), y), plain.fc1.weight)[0]
    sigma, unit = torch.sigmoid(beta * s), torch.sigmoid(torch.tensor(start, dtype=torch.float64))
    formula = beta * sigma * (1 - sigma) * original / unit * at_weight
    torch.testing.assert_close(plain.fc1.weight, sigma / unit * original)
    torch.testing.assert_close(slope, formula.detach(), rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(loss, (s.detach().requires_grad_(),), atol=1e-8)


def test_half_precision_is_computed_in_float32():
    model = net()
    model.half()
    gates.attach(model, gates.Sigmoid())
    scatter(model)
    found = model.fc1.weight
    steps = model.fc1.parametrizations.weight
    wanted = steps.original.float() * torch.sigmoid(steps[0].logits.float()) * 2
    assert found.dtype == torch.float16 and torch.equal(found, wanted.half())
    assert steps[0].beta.dtype == torch.float32


def test_hard_concrete_is_open_as_often_as_the_formula_says():
    """Each of 21 probabilities from 200,000 draws, within 4.5 standard deviations: by chance it fails
    once in 7,000 times. (The draws are seeded.)"""
    layer = nn.Linear(200_000, 21, bias=False)
    nn.init.ones_(layer.weight)
    gates.attach(layer, gates.HardConcrete())
    gate = layer.parametrizations.weight[0]
    log_alpha = torch.linspace(-5, 5, 21)
    gate.logits.data = log_alpha[:, None].expand(21, 200_000)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = layer.weight.detach()
    p = torch.sigmoid(log_alpha - 2 / 3 * math.log(0.1 / 1.1))
    deviation = (p * (1 - p) / 200_000).sqrt()
    assert (((z != 0).float().mean(1) - p) / deviation).abs().max() < 4.5
    torch.testing.assert_close(gates.expected(layer) / 200_000, p.sum(), rtol=1e-4, atol=0)
    # Fully open: P(s̄ >= 1) = σ(log α + β log(−γ / ζ)), by the symmetry of the noise.
    p = torch.sigmoid(log_alpha + 2 / 3 * math.log(0.1 / 1.1))
    deviation = (p * (1 - p) / 200_000).sqrt()
    assert (((z == 1).float().mean(1) - p) / deviation).abs().max() < 4.5


def test_hard_concrete_has_no_noise_in_evaluation():
    model = gated(gates.HardConcrete()).eval()
    scatter(model)
    s = model.fc1.parametrizations.weight[0].logits
    s.data[0, :3] = torch.tensor([-2.5, math.log(1 / 11) + 1e-3, 2.5])
    z = (torch.sigmoid(s) * 1.2 - 0.1).clamp(0, 1)
    torch.testing.assert_close(model.fc1.weight, z * net().fc1.weight)
    assert z[0, 0] == 0 and 0 < z[0, 1] < 1e-3 and z[0, 2] == 1
    assert torch.equal(model(X), model(X)) and not torch.equal(model.train()(X), model(X))
    answers = model.eval()(X)
    keep = gates.harden(model)
    assert torch.equal(keep["fc1.weight"], z > 0)
    assert torch.equal(model(X), answers)


# ---- which mask is found


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_the_best_mask_of_a_separable_quadratic(seed):
    """With weights held at their optimum c the loss ½ Σ (c m − c)² + λ Σ m has 256 masks to try."""
    generator = torch.Generator().manual_seed(seed)
    c, strength = torch.randn(8, generator=generator), 0.1
    c = torch.where((c.square() - 2 * strength).abs() < 0.02, 2 * c, c)  # no near ties
    cost = {
        m: 0.5 * (c * torch.tensor(m) - c).square().sum()
        for m in itertools.product((0, 1), repeat=8)
    }
    best = min(cost, key=lambda m: float(cost[m]) + strength * sum(m))
    layer = nn.Linear(8, 1, bias=False)
    gates.attach(layer, gates.Sigmoid())
    layer.parametrizations.weight.original.requires_grad_(False).copy_(c / 2)  # 1 / σ(0) = 2
    optimizer = torch.optim.SGD([*layer.parameters()], lr=0.05)
    gates.anneal(optimizer, layer, to=100.0, steps=300)
    for _ in range(300):
        optimizer.zero_grad()
        loss = 0.5 * (layer(torch.eye(8))[:, 0] - c).square().sum()
        (loss + strength * gates.expected(layer)).backward()
        optimizer.step()
    keep = gates.harden(layer)["weight"][0]
    assert keep.tolist() == list(map(bool, best)) == (c.square() > 2 * strength).tolist()
    assert torch.equal(layer.weight[0], torch.where(keep, c, 0.0))


def test_the_penalty_closes_hard_concrete_gates(digits):
    """And the network that is left, without noise, still tells the digits apart."""
    train, test = digits
    model = net(sizes=(64, 16, 10))
    gates.attach(model, gates.HardConcrete())
    begun = gates.expected(model)

    def adam(model):
        return torch.optim.Adam(gates.parameter_groups(model, lr=0.2), lr=1e-2)

    def loss(logits, positions):
        data_loss = training.cross_entropy(logits, train.y[positions])
        return data_loss + 1e-3 * gates.expected(model)

    training.fit(model, train, epochs=20, optimizer=adam, loss=loss)
    assert gates.expected(model) < 0.5 * begun
    assert 0.4 < masks.sparsity(gates.harden(model)) < 0.9
    assert training.evaluate(model, test) > 80


# ---- annealing and rounds


@pytest.mark.parametrize("steps", [1, 7, 1200])
def test_annealing_follows_its_formula_at_every_step(steps):
    model = gated(gates.Sigmoid())
    optimizer = training.sgd(model)
    gates.anneal(optimizer, model, to=200.0, steps=steps)
    for t in range(1, steps + 3):
        optimizer.step()
        wanted = torch.tensor(200.0 ** min(t / steps, 1))
        for beta in numbers(model, "beta").values():
            torch.testing.assert_close(beta.detach(), wanted, rtol=2e-7, atol=0)


def test_a_removed_handle_leaves_beta_alone():
    model = gated(gates.Sigmoid())
    optimizer = training.sgd(model)
    handle = gates.anneal(optimizer, model, steps=3)
    optimizer.step()
    handle.remove()
    before = {n: p.clone() for n, p in numbers(model, "beta").items()}
    optimizer.step()
    assert all(torch.equal(p, before[n]) for n, p in numbers(model, "beta").items())


def test_a_gate_that_was_closed_stays_closed_over_rounds():
    """Without λ and without a gradient for s: the masks only shrink, and no gate moves at the reset."""
    model = gated(gates.Sigmoid(-0.1))
    scatter(model)
    steepen(model, 200.0)
    generator = torch.Generator().manual_seed(3)
    closed = None
    for _ in range(3):
        before = {n: p.detach().clone() for n, p in numbers(model).items()}
        gates.reset(model)
        for name, s in numbers(model).items():
            removed = before[name] <= 0
            beta = model.get_parameter(name.replace("logits", "beta"))
            assert beta == 1
            opened = torch.sigmoid(beta * s)
            assert torch.equal(opened[removed], torch.sigmoid(200 * before[name])[removed])
            assert (opened[removed] <= 0.5).all() and (s[~removed] == -0.1).all()
            assert opened[removed].max() < opened[~removed].min()
            assert closed is None or bool(removed[closed[name]].all())
        closed = {n: before[n] <= 0 for n in before}
        # A round opens some of the gates that were open, and closes the others.
        for name, s in numbers(model).items():
            flips = torch.rand(s.shape, generator=generator) < 0.7
            s.data[~closed[name] & flips] = 0.05
        steepen(model, 200.0)


def test_training_continues_from_a_checkpoint(digits, stopping_at, tmp_path):
    train, _ = digits

    def annealed(make):
        def optimizer(model):
            made = make(model)
            gates.anneal(made, model, to=50.0, steps=18)
            return made

        return optimizer

    def fresh():
        model = net(sizes=(64, 16, 10))
        gates.attach(model, gates.Sigmoid(-0.1))
        return model

    plan = {"epochs": 3, "optimizer": annealed(training.sgd)}
    whole, parts = fresh(), fresh()
    training.fit(whole, train, **plan)
    file = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        training.fit(
            parts, train, **plan | {"optimizer": annealed(stopping_at(8))}, checkpoint=file
        )
    training.fit(parts := fresh(), train, **plan, checkpoint=file)
    for name, p in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], p), name
    assert {p.item() for p in numbers(parts, "beta").values()} == {50.0}


# ---- stacks


@pytest.mark.parametrize("strength", [0.0, 1e-3])
def test_a_member_of_a_stack_is_the_network_alone(digits, strength):
    train, _ = digits

    def fresh(seed):
        model = net(seed, sizes=(64, 16, 10))
        gates.attach(model, gates.Sigmoid())
        return model

    def trained(model):
        def optimizer(model):
            made = torch.optim.SGD(gates.parameter_groups(model), lr=0.1, weight_decay=1e-3)
            gates.anneal(made, model, to=100.0, steps=6)
            return made

        def loss(logits, positions):
            data_loss = training.cross_entropy(logits, train.y[positions])
            return data_loss + strength * gates.expected(model)

        training.fit(model, train, epochs=1, optimizer=optimizer, loss=loss)
        gates.reset(model)
        training.fit(model, train, epochs=1, optimizer=optimizer, loss=loss)
        return gates.expected(model).detach()

    alone = [fresh(seed) for seed in range(3)]
    stacked = ensemble.stack(alone)
    of_stack = trained(stacked)
    of_alone = torch.stack([trained(model) for model in alone])
    torch.testing.assert_close(of_stack, of_alone, rtol=1e-3, atol=1e-2)
    for member, model in zip(ensemble.members(stacked), alone, strict=True):
        for (name, a), b in zip(member.named_parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)
        keep, wanted = gates.harden(member), gates.harden(model)
        assert all(torch.equal(keep[n], wanted[n]) for n in wanted)
        assert 0 < masks.sparsity(keep) < 1


def test_each_member_has_its_own_steepness():
    alone = [gated(gates.Sigmoid(), seed) for seed in range(2)]
    for model, beta in zip(alone, (2.0, 50.0), strict=True):
        scatter(model)
        steepen(model, beta)
    stacked = ensemble.stack(alone)
    wanted = torch.stack([gates.expected(model) for model in alone])
    torch.testing.assert_close(gates.expected(stacked), wanted)
    for model in (stacked, *alone):
        gates.reset(model)
    for member, model in zip(ensemble.members(stacked), alone, strict=True):
        for a, b in zip(member.parameters(), model.parameters(), strict=True):
            assert torch.equal(a, b)


def test_members_draw_their_own_noise():
    stacked = ensemble.stack([gated(gates.HardConcrete()) for _ in range(2)]).train()
    answers = stacked(X)
    assert not torch.allclose(answers[0], answers[1])
    stacked.eval()
    torch.testing.assert_close(stacked(X)[0], gated(gates.HardConcrete()).eval()(X))


# ---- an ordinary model again


@pytest.mark.parametrize("gate", [gates.Sigmoid(-0.1), gates.HardConcrete()])
def test_a_hardened_network_is_an_ordinary_one(gate):
    model = models.small_cnn(seed=1)
    twin = copy.deepcopy(model)
    gates.attach(model, gate)
    copied = copy.deepcopy(model)
    scatter(model)
    keep = gates.harden(model)
    assert list(model.state_dict()) == list(twin.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in twin.modules()]
    assert measure.count_parameters(model) == measure.count_parameters(twin)
    for name, mask in keep.items():
        assert torch.equal(model.get_parameter(name) == 0, ~mask)
        assert model.get_parameter(name).requires_grad
    gates.attach(model, gate)  # and may get gates again
    assert copied.conv1.weight.shape == (16, 1, 3, 3)  # a copy made before is still a network


def test_frozen_weights_stay_frozen_under_gates_that_train():
    model = net()
    model.fc1.weight.requires_grad_(False)
    gates.attach(model, gates.Sigmoid())
    model(X).sum().backward()
    steps = model.fc1.parametrizations.weight
    assert steps.original.grad is None and steps[0].logits.grad.count_nonzero() > 0
    gates.harden(model)
    assert not model.fc1.weight.requires_grad and model.fc2.weight.requires_grad


# ---- what is refused


def refuses(kind, match, call, *args, **kwargs):
    with pytest.raises(kind, match=match):
        call(*args, **kwargs)


@pytest.mark.parametrize("make", [gates.Sigmoid, gates.HardConcrete])
def test_a_start_must_be_a_number_that_leaves_a_slope(make):
    for start in (math.nan, math.inf, -math.inf, 31.0, -1e3):
        refuses(ValueError, "start must be from -30 to 30", make, start)
    for start in ("0", True, None):
        refuses(TypeError, "start must be a number", make, start)


def test_layers_without_a_weight_of_their_own_are_refused_by_name():
    def weight_of(change):
        model = net(sizes=(6, 6, 6, 3))
        change(model)
        before = [(n, type(m)) for n, m in model.named_modules()]
        for gate in (gates.Sigmoid(), gates.HardConcrete()):
            with pytest.raises(ValueError, match="fc2") as error:
                gates.attach(model, gate)
        assert [(n, type(m)) for n, m in model.named_modules()] == before
        return str(error.value)

    def tie(model):
        model.fc2.weight = model.fc1.weight

    assert "parametrised" in weight_of(lambda m: nn.utils.parametrizations.weight_norm(m.fc2))
    assert "tied" in weight_of(tie)
    assert "hook" in weight_of(lambda m: prune.l1_unstructured(m.fc2, "weight", 0.5))
    assert "finite" in weight_of(lambda m: m.fc2.weight.data.fill_(math.nan))


def test_transposed_convolutions_get_gates_in_their_own_layout():
    layer = nn.ConvTranspose2d(2, 3, 3)
    gates.attach(layer, gates.Sigmoid())
    layer.parametrizations.weight[0].logits.data[0] = -1
    keep = gates.harden(layer)["weight"]
    assert keep.shape == (2, 3, 3, 3) and not keep.any()  # σ(0) is open by half: not above 0


def test_gates_are_attached_once_and_hardened_once():
    model = gated(gates.Sigmoid())
    refuses(
        ValueError, "no gates yet, got one at 'fc1.weight'", gates.attach, model, gates.Sigmoid()
    )
    gates.harden(model)
    for call in (gates.harden, gates.expected, gates.reset, gates.parameter_groups):
        refuses(ValueError, "model must have gates", call, model)
    refuses(ValueError, "model must have gates", gates.anneal, training.sgd(model), model, steps=1)
    refuses(TypeError, "gate must be Sigmoid", gates.attach, model, gates.Sigmoid)


def test_a_stack_is_named():
    stacked = ensemble.stack([net()])
    refuses(TypeError, "attach gates, then stack", gates.attach, stacked, gates.Sigmoid())
    stacked = ensemble.stack([gated(gates.Sigmoid())])
    refuses(TypeError, "ensemble.members", gates.harden, stacked)


def test_another_parametrisation_beside_the_gate_is_refused_by_name():
    model = gated(gates.Sigmoid())
    parametrize.register_parametrization(model.fc2, "weight", nn.Tanh())
    before = training.snapshot(model)
    refuses(ValueError, "'fc2.weight'", gates.harden, model)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_annealing_refuses_what_it_cannot_follow():
    model = gated(gates.Sigmoid())
    optimizer = training.sgd(model)
    for to in (1.0, 0.5, -2.0, math.nan, math.inf):
        refuses(ValueError, "to must be above 1", gates.anneal, optimizer, model, to=to, steps=1)
    refuses(TypeError, "to must be a number", gates.anneal, optimizer, model, to="2", steps=1)
    refuses(ValueError, "steps must be", gates.anneal, optimizer, model, steps=0)
    refuses(ValueError, "another|does not train", gates.anneal, training.sgd(net()), model, steps=1)
    decayed = training.sgd(model, weight_decay=1e-4)
    refuses(ValueError, "no weight decay, got 0.0001", gates.anneal, decayed, model, steps=1)
    steepen(model, 300.0)
    refuses(ValueError, "at least the model's β, 300", gates.anneal, optimizer, model, steps=1)
    refuses(ValueError, "β in float32", gates.anneal, optimizer, model.half(), steps=1)
    other = gated(gates.HardConcrete())
    refuses(
        ValueError,
        "HardConcrete at 'fc1.weight'",
        gates.anneal,
        training.sgd(other),
        other,
        steps=1,
    )
    refuses(ValueError, "HardConcrete at 'fc1.weight'", gates.reset, other)
    assert not optimizer._optimizer_step_post_hooks


def test_only_the_gates_are_free_of_weight_decay():
    model = gated(gates.Sigmoid())
    groups = gates.parameter_groups(model, lr=0.5)
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=1e-2)
    gates.anneal(optimizer, model, steps=10)
    settings = {
        id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
    }
    for name, p in model.named_parameters():
        assert settings[id(p)] == ((0.5, 0.0) if "logits" in name else (0.1, 1e-2))
