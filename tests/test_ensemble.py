"""The stack against its members, each computed and trained alone."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from course_lib import data, ensemble, models, parametrized, training
from course_lib.data import Split
from course_lib.pruning import allocate, criteria, masks

DOUBLE = torch.float64


@pytest.fixture(scope="module")
def toy():
    train, test = data.load("glyphs", n_train=330, n_test=200)
    return Split(train.x.double(), train.y), Split(test.x.double(), test.y)


@pytest.fixture
def small():
    """Forty examples of four numbers and two classes."""
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    return Split(x, (x.sum(1) > 0).long())


def build_mlp(seed):
    return models.mlp((196, 20, 15, 10), seed=seed).double()


def build_cnn(seed):
    return models.small_cnn(width=0.2, seed=seed).double()


def seeded(build, seed):
    """A network of the caller's kind with weights that follow from the seed, in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().double()


def assert_members_train_as_alone(nets, split, **how):
    stack = ensemble.stack(nets)
    training.fit(stack, split, epochs=3, batch_size=16, **how)
    for net, member in zip(nets, ensemble.unstack(stack), strict=True):
        before = copy.deepcopy(net)
        training.fit(net, split, epochs=3, batch_size=16, **how)
        moved = False
        for name, p in net.named_parameters():
            torch.testing.assert_close(member.get_parameter(name), p, rtol=1e-8, atol=1e-10)
            moved |= not torch.equal(p, before.get_parameter(name))
        assert moved


@pytest.mark.parametrize("build", [build_mlp, build_cnn])
def test_member_k_is_the_network_trained_alone(toy, build):
    train, test = toy
    nets = [build(seed) for seed in range(4)]
    stack = ensemble.stack(nets)
    together = training.fit(stack, train, epochs=3, seed=5, test=test)
    members = ensemble.unstack(stack)
    for k, net in enumerate(nets):
        alone = training.fit(net, train, epochs=3, seed=5, test=test)
        for name, p in net.named_parameters():
            torch.testing.assert_close(members[k].get_parameter(name), p, rtol=1e-8, atol=1e-10)
        assert together.loss[-1][k] == pytest.approx(alone.loss[-1].item(), abs=1e-9)
        assert together.accuracy[-1][k] == alone.accuracy[-1]
    assert len(together.loss) == len(together.accuracy) == 3


def test_masked_member_is_the_masked_network_trained_alone(toy):
    train, _ = toy
    nets = [build_mlp(seed) for seed in range(3)]
    kept = [allocate.globally(criteria.random(n, seed=s), 0.6) for s, n in enumerate(nets)]
    stack = ensemble.stack(nets)
    optimizer = training.sgd(stack, weight_decay=1e-3)
    masks.hold(optimizer, stack, masks.stack(kept))
    training.fit(stack, train, epochs=2, optimizer=optimizer)
    for net, keep, member in zip(nets, kept, ensemble.unstack(stack), strict=True):
        optimizer = training.sgd(net, weight_decay=1e-3)
        masks.hold(optimizer, net, keep)
        training.fit(net, train, epochs=2, optimizer=optimizer)
        for name, p in net.named_parameters():
            torch.testing.assert_close(member.get_parameter(name), p, rtol=1e-8, atol=1e-10)
        assert (member.fc1.weight[~keep["fc1.weight"]] == 0).all()


def test_single_precision_agrees_before_chaos_sets_in():
    train, _ = data.load("glyphs", n_train=200, n_test=1)
    nets = [models.mlp(seed=seed) for seed in range(3)]
    stack = ensemble.stack(nets)
    training.fit(stack, train, epochs=2)
    training.fit(nets[1], train, epochs=2)
    for name, p in nets[1].named_parameters():
        got = ensemble.unstack(stack)[1].get_parameter(name)
        torch.testing.assert_close(got, p, rtol=1e-3, atol=1e-5)


def test_a_stack_is_a_module_with_the_networks_names(toy):
    nets = [build_mlp(seed) for seed in range(3)]
    stack = ensemble.stack(nets)
    shapes = {n: tuple(p.shape) for n, p in stack.named_parameters()}
    assert shapes == {n: (3, *p.shape) for n, p in nets[0].named_parameters()}
    assert len(stack) == ensemble.size(stack) == 3
    x = toy[1].x[:7]
    expected = torch.stack([net(x) for net in nets])
    for twin in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):
        twin.load_state_dict(stack.state_dict())
        torch.testing.assert_close(twin(x), expected)
    torch.testing.assert_close(
        ensemble.stack([n.float() for n in nets]).double()(x), expected, atol=1e-5, rtol=1e-5
    )


def test_stacking_copies():
    nets = [models.mlp((4, 3, 2), seed=s) for s in range(2)]
    nets[0](torch.ones(1, 4)).sum().backward()
    before = nets[0].fc1.weight.clone()
    stack = ensemble.stack(nets)
    with torch.no_grad():
        stack.fc1.weight.zero_()
    member = ensemble.unstack(stack)[0]
    assert torch.equal(nets[0].fc1.weight, before) and nets[0].fc1.weight.grad is not None
    assert member.fc1.weight.grad is None  # not the old one of the first network
    with torch.no_grad():
        stack.fc1.weight.fill_(1)
    assert (member.fc1.weight == 0).all()


# What a layer can be.


class Doubled(nn.Linear):
    """A subclass that is no plain linear layer, though it has the same parameters."""

    def forward(self, x):
        return 2 * super().forward(x)


class Leaky(nn.ReLU):
    def forward(self, x):
        return F.leaky_relu(x, 0.3)


class Skip(nn.Sequential):
    """A Sequential with a way around it."""

    def forward(self, x):
        return x + super().forward(x)


class Branching(nn.Module):
    """Reads a value: torch's vmap cannot."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x) if self.fc.weight[0, 0] > 0 else self.fc(-x)


class ByKeyword(nn.Module):
    """One layer used twice, another not at all, called by keyword."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.unused = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc2(input=self.fc1(input=self.fc1(x).tanh()).tanh())


def repeated_relu():
    relu = nn.ReLU()
    return nn.Sequential(nn.Linear(4, 5), relu, nn.Linear(5, 5), relu, nn.Linear(5, 2))


def repeated_linear():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 2))


def tied():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net[2].weight = net[0].weight
    return net


def replaced_forward():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    net[0].forward = lambda x: x[:, :3]
    return net


def in_place():
    return nn.Sequential(
        nn.ReLU(inplace=True), nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)
    )


LAYERS = {
    "plain": lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)),
    "one linear layer": lambda: nn.Sequential(nn.Linear(4, 2)),
    "Linear itself": lambda: nn.Linear(4, 2),
    "no bias": lambda: nn.Sequential(
        nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False)
    ),
    "tanh": lambda: nn.Sequential(nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)),
    "two linear layers in a row": lambda: nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)),
    "ReLU at the end": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2), nn.ReLU()),
    "two ReLUs": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.ReLU(), nn.Linear(5, 2)),
    "subclass of Linear": lambda: nn.Sequential(Doubled(4, 3), nn.ReLU(), nn.Linear(3, 2)),
    "subclass of ReLU": lambda: nn.Sequential(nn.Linear(4, 3), Leaky(), nn.Linear(3, 2)),
    "subclass of Sequential": lambda: nn.Sequential(
        Skip(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4)), nn.Linear(4, 2)
    ),
    "the network a subclass": lambda: Skip(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4)),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2)),
    "other Flatten": lambda: nn.Sequential(nn.Linear(4, 2), nn.Flatten(0, -1), nn.Unflatten(0, (-1, 2))),
    "ReLU used twice": repeated_relu,
    "Linear used twice": repeated_linear,
    "tied": tied,
    "forward replaced": replaced_forward,
    "in place": in_place,
    "branches on a value": Branching,
    "by keyword": ByKeyword,
    "LayerNorm": lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2)),
}  # fmt: skip


@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_every_kind_of_layer_trains_as_alone(build, small):
    nets = [seeded(build, seed) for seed in range(3)]
    if build is replaced_forward:  # the same function in all, not one each
        for net in nets:
            net[0].forward = nets[0][0].forward
    expected = torch.stack([net(small.x.clone()) for net in nets])
    torch.testing.assert_close(ensemble.stack(nets)(small.x.clone()), expected)
    assert_members_train_as_alone(nets, small)


def test_linear_layers_take_more_than_vectors():
    nets = [
        seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), s)
        for s in (0, 1)
    ]
    stack = ensemble.stack(nets)
    for shape in ((4,), (5, 4), (5, 6, 4), (0, 4)):
        x = torch.ones(shape, dtype=DOUBLE)
        torch.testing.assert_close(stack(x), torch.stack([net(x) for net in nets]))
    x = torch.randn(5, 4, dtype=DOUBLE).requires_grad_()
    stack(x).sum().backward()
    (expected,) = torch.autograd.grad(sum(net(x).sum() for net in nets), x)
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("batch", [1, 7, 100])
def test_gradients_by_hand_are_autograds(double, batch):
    nets = [models.mlp((196, 30, 20, 10), seed=seed) for seed in range(4)]
    with torch.no_grad():
        nets[0].fc2.weight.zero_()  # dead: the ReLU's corner
        nets[0].fc2.bias.zero_()
        nets[1].fc1.weight.mul_(100)
    train, _ = data.load("glyphs", n_train=batch, n_test=1)
    stack, x = ensemble.stack(nets), train.x
    if double:
        stack, x = stack.double(), x.double()
    losses = training.cross_entropy(stack(x), train.y)
    expected = torch.autograd.grad(losses.sum(), list(stack.parameters()))
    got = ensemble.backward(stack, x, train.y)
    near = {"rtol": 1e-9, "atol": 1e-12} if double else {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(got, losses.detach(), **near)
    for p, slope in zip(stack.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, slope, **near)


def test_what_is_not_plain_is_left_to_autograd(small):
    net = LAYERS["plain"]().double()
    x, y = small

    def none(model, x=x, y=y):
        assert ensemble.backward(model, x, y) is None
        assert all(p.grad is None for p in model.parameters())

    assert ensemble.backward(ensemble.stack([net, net]), x, y) is not None
    none(net)
    none(ensemble.stack([net, net]), y=F.one_hot(y).double())
    none(ensemble.stack([net, net]), x=x.float())
    stack = ensemble.stack([net, net])
    stack.register_forward_hook(lambda *_: None)
    none(stack)
    stack = ensemble.stack([net, net])
    stack.get_parameter("1.weight").register_hook(lambda slope: 0 * slope)
    none(stack)
    for name in ("tanh", "tied", "Linear used twice", "two linear layers in a row", "two ReLUs"):
        none(ensemble.stack([LAYERS[name]().double()] * 2))
    none(ensemble.stack([parametrized.attach(net, torch.sign)] * 2))
    none(ensemble.stack([frozen(net)] * 2))


# Parametrisations.


class Shaped(nn.Module):
    """A parametrisation that mixes a tensor's entries: wrong if it saw the stack's first dimension."""

    def forward(self, x):
        return x - x.mean(0, keepdim=True) + x.abs().amax(-1, keepdim=True)


class Scaled(nn.Module):
    """A learnable one: a factor on the weight."""

    def __init__(self, alpha):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(alpha, dtype=DOUBLE))

    def forward(self, x):
        return self.alpha * x


class Choosing(nn.Module):
    """Branches on a value."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def times(factor):
    return lambda weight: weight * factor


def with_steps(*steps):
    def build(seed, leaf="weight"):
        net = seeded(LAYERS["plain"], seed)
        for step in steps:
            parametrize.register_parametrization(net[1], leaf, step(seed))
        return net

    return build


PARAMETRISED = {
    "learnable": with_steps(lambda seed: Scaled(1.0 + seed)),
    "two steps": with_steps(lambda _: Shaped(), lambda seed: Scaled(1.0 + seed)),
    "of a bias": lambda seed: with_steps(lambda seed: Scaled(1.0 + seed))(seed, "bias"),
    "a closure per network": lambda seed: parametrized.attach(
        seeded(LAYERS["plain"], seed), times(3)
    ),
    "branches on a value": with_steps(lambda _: Choosing()),
    "several originals": lambda seed: parametrize_weight_norm(seeded(LAYERS["plain"], seed)),
    "not an MLP": lambda seed: parametrize_weight_norm(seeded(LAYERS["tanh"], seed), whole=True),
}


def parametrize_weight_norm(net, whole=False):
    parametrizations.weight_norm(net[1])
    return Skip(nn.Sequential(net, nn.Linear(2, 4).double())) if whole else net


@pytest.mark.parametrize("build", PARAMETRISED.values(), ids=PARAMETRISED)
def test_parametrised_members_train_as_alone(build, small):
    assert_members_train_as_alone([build(seed) for seed in range(3)], small)


def test_a_stack_applies_parametrisations_member_by_member():
    train, _ = data.load("glyphs", n_train=200, n_test=1)
    nets = [models.mlp((196, 12, 10), seed=seed) for seed in range(3)]
    for net in nets:
        parametrize.register_parametrization(net.fc1, "weight", Shaped())
        parametrize.register_parametrization(net.fc2, "bias", Shaped())
    stack = ensemble.stack(nets)
    training.fit(stack, train, epochs=2)
    for net, member in zip(nets, ensemble.unstack(stack), strict=True):
        training.fit(net, train, epochs=2)
        assert torch.allclose(net(train.x), member(train.x), atol=1e-4)


def test_noise_in_a_parametrisation_is_each_members_own(small):
    net = with_steps(lambda _: Noisy())(0)
    out = ensemble.stack([net, net, net])(small.x)
    assert not torch.equal(out[0], out[1]) and not torch.equal(out[1], out[2])


# Modes and noise.

NOISY = {
    "after a layer": lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)),
    "on the inputs": lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 8), nn.Linear(8, 2)),
    "in place": lambda: nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(4, 2)),
    "not an MLP": lambda: nn.Sequential(nn.Linear(4, 8), nn.AlphaDropout(0.5), nn.Linear(8, 2)),
}


@pytest.mark.parametrize("build", NOISY.values(), ids=NOISY)
def test_dropout_is_each_members_own_and_only_in_training(build, small):
    net = seeded(build, 0)
    stack = ensemble.stack([net, net])
    assert stack.training
    out = stack(small.x.clone())
    assert not torch.equal(out[0], out[1]) and not torch.equal(out, stack(small.x.clone()))
    stack.eval()
    expected = copy.deepcopy(net).eval()(small.x)
    torch.testing.assert_close(stack(small.x), torch.stack([expected, expected]))
    before = [module.training for module in ensemble.all_modules(stack)]
    assert not any(before)
    assert training.evaluate(stack.train(), small)[0] == training.evaluate(net, small)
    assert all(module.training for module in ensemble.all_modules(stack))


def test_dropped_values_are_as_many_as_they_should_be_and_scaled():
    net = nn.Sequential(nn.Linear(1, 1000), nn.Dropout(0.25))
    nn.init.zeros_(net[0].weight)
    nn.init.ones_(net[0].bias)
    out = ensemble.stack([net, net])(torch.zeros(100, 1))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    # 100,000 draws a member: five standard deviations are 0.0068; wrong once in a million.
    assert ((out == 0).double().mean((1, 2)) - 0.25).abs().max() < 0.0068


def test_a_stack_starts_in_the_mode_of_its_first_network():
    def build():
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))

    quiet, loud = build().eval(), build()
    stack = ensemble.stack([quiet, loud])
    assert not stack.training and not any(m.training for m in ensemble.all_modules(stack))
    assert loud.training and not quiet.training
    assert not any(m.training for net in ensemble.unstack(stack) for m in net.modules())
    mixed = build()
    mixed[1].eval()
    stack = ensemble.stack([mixed, loud])
    assert stack.training and not ensemble.template(stack)[1].training
    training.evaluate(stack, Split(torch.ones(3, 4), torch.zeros(3, dtype=torch.long)))
    assert stack.training and not ensemble.template(stack)[1].training


@pytest.mark.parametrize("build", [NOISY["after a layer"], NOISY["not an MLP"]])
def test_noisy_training_of_a_stack_resumes_bit_for_bit(build, small, tmp_path):
    def start(file, stop_after=None):
        stack = ensemble.stack([seeded(build, seed) for seed in range(3)])
        optimizer = training.sgd(stack)
        steps = iter(range(10_000))

        def stop(*_):
            if next(steps) == stop_after:
                raise KeyboardInterrupt

        optimizer.register_step_post_hook(stop)
        how = {"epochs": 5, "batch_size": 10, "optimizer": optimizer}
        training.fit(stack, small, **how, checkpoint=tmp_path / file)
        return stack

    torch.manual_seed(1)
    whole = start("whole")
    with pytest.raises(KeyboardInterrupt):
        start("cut", stop_after=9)  # in the third of five epochs of four steps
    torch.manual_seed(2)  # a new process draws other numbers
    resumed = start("cut")
    for name, p in whole.named_parameters():
        assert torch.equal(p, resumed.get_parameter(name))
    quiet = ensemble.stack([seeded(build, seed) for seed in range(3)])
    for module in ensemble.template(quiet).modules():
        module.p = 0.0  # the noise did something
    training.fit(quiet, small, epochs=5, batch_size=10)
    assert not torch.equal(quiet.get_parameter("0.weight"), whole.get_parameter("0.weight"))


# Frozen parameters, devices and types.


def frozen(net):
    net = copy.deepcopy(net)
    net[1].requires_grad_(False)
    return net


@pytest.mark.parametrize("name", ["plain", "tanh", "nested"])
def test_frozen_parameters_stay_frozen(name, small):
    nets = [seeded(LAYERS[name], seed) for seed in range(3)]
    for net in nets:
        next(iter(net.parameters())).requires_grad_(False)
    first = next(iter(dict(nets[0].named_parameters())))
    stack = ensemble.stack(nets)
    before = stack.get_parameter(first).clone()
    training.fit(stack, small, epochs=2)
    assert torch.equal(stack.get_parameter(first), before)
    for net in ensemble.unstack(stack):
        flags = {n: p.requires_grad for n, p in net.named_parameters()}
        assert flags == {n: n != first for n in flags}
    assert_members_train_as_alone(nets, small)


def test_frozen_after_stacking_too(small):
    stack = ensemble.stack([LAYERS["plain"]().double()] * 2)
    stack.get_parameter("1.weight").requires_grad_(False)
    before = stack.get_parameter("1.weight").clone()
    training.fit(stack, small, epochs=1)
    assert torch.equal(stack.get_parameter("1.weight"), before)
    assert not ensemble.unstack(stack)[0][1].weight.requires_grad


def test_nothing_to_train_is_refused(small):
    net = LAYERS["plain"]().double().requires_grad_(False)
    for model in (net, ensemble.stack([net, net])):
        with pytest.raises(ValueError, match="a parameter that requires a gradient"):
            training.fit(model, small, epochs=1)


def test_the_template_moves_with_the_stack(small):
    nets = [PARAMETRISED["learnable"](seed) for seed in range(2)]
    stack = ensemble.stack(nets).float()
    assert {p.dtype for p in ensemble.template(stack).parameters()} == {torch.float32}
    assert {p.dtype for net in ensemble.unstack(stack) for p in net.parameters()} == {torch.float32}
    assert stack.to("meta") is stack
    assert {p.device.type for p in ensemble.template(stack).parameters()} == {"meta"}
    stack = copy.deepcopy(ensemble.stack(nets))
    torch.testing.assert_close(stack(small.x), torch.stack([net(small.x) for net in nets]))


def test_tied_weights_are_still_tied_afterwards(small):
    nets = [seeded(tied, seed) for seed in range(2)]
    stack = ensemble.stack(nets)
    assert [n for n, _ in stack.named_parameters()] == [n for n, _ in nets[0].named_parameters()]
    for twin in (stack, copy.deepcopy(stack)):
        training.fit(twin, small, epochs=1)
        for member in ensemble.unstack(twin):
            assert member[0].weight is member[2].weight


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("build", [PARAMETRISED["learnable"], lambda s: seeded(LAYERS["plain"], s)])
def test_a_stack_trains_on_a_cuda_device(build, small):
    here, there = (ensemble.stack([build(s) for s in range(3)]) for _ in range(2))
    there.to("cuda")
    training.fit(here, small, epochs=2)
    training.fit(there, small.to("cuda"), epochs=2)
    for name, p in here.named_parameters():
        torch.testing.assert_close(there.get_parameter(name).cpu(), p, rtol=1e-6, atol=1e-8)


# One loss per member.


def penalty(model):
    """A sum of squares per member, (K,) or ()."""
    rows = ensemble.by_member(model, dict(model.named_parameters())).values()
    total = sum(p.flatten(1).pow(2).sum(1) for p in rows)
    return total if isinstance(model, ensemble.Stack) else total[0]


@pytest.mark.parametrize("name", ["plain", "by keyword"])
def test_a_penalty_per_member_trains_as_alone(name, small):
    nets = [seeded(LAYERS[name], seed) for seed in range(3)]
    stack = ensemble.stack(nets)

    def fit(model):
        def loss(logits, positions):
            return training.cross_entropy(logits, small.y[positions]) + 0.01 * penalty(model)

        training.fit(model, small, epochs=2, loss=loss)

    fit(stack)
    for net, member in zip(nets, ensemble.unstack(stack), strict=True):
        fit(net)
        for p, q in zip(net.parameters(), member.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["plain", "by keyword"])
def test_a_loss_that_mixes_the_members_is_refused(name, small):
    stack = ensemble.stack([seeded(LAYERS[name], seed) for seed in range(3)])
    before = copy.deepcopy(stack.state_dict())

    def refused(extra, member):
        def loss(logits, positions):
            return training.cross_entropy(logits, small.y[positions]) + extra(logits)

        words = f"loss must keep the members of a stack apart.*member {member} "
        with pytest.raises(ValueError, match=words):
            training.fit(stack, small, epochs=1, loss=loss)
        assert all(torch.equal(v, before[n]) for n, v in stack.state_dict().items())

    refused(lambda _: 0.01 * penalty(stack).sum(), 0)
    refused(lambda logits: logits.pow(2).mean(), 0)
    # The last depends on the one before it; the first on itself alone.
    refused(lambda z: torch.tensor([0.0, 0, 1]) * (z[2] - z[1]).pow(2).mean(), 2)


def test_a_constant_loss_is_refused(small):
    for model in (net := LAYERS["plain"]().double(), ensemble.stack([net, net])):
        with pytest.raises(ValueError, match="loss must depend on a parameter of model"):
            training.fit(model, small, epochs=1, loss=lambda z, _: z.detach().mean((-1, -2)))


def test_a_broken_member_does_not_accuse_the_others(small):
    nets = [seeded(LAYERS["plain"], seed) for seed in range(2)]
    with torch.no_grad():
        nets[1][3].weight.fill_(torch.inf)
    stack = ensemble.stack(nets)
    ensemble.check_separate(stack, training.cross_entropy(stack(small.x), small.y))


# What does not stack.


def with_hook(kind):
    net = models.mlp()
    getattr(net.fc1, f"register_{kind}")(lambda *_: None)
    return net


def pruned(how=prune.l1_unstructured):
    net = models.mlp()
    how(net.fc1, "weight", 0.5)
    return net


def attached(function):
    return parametrized.attach(models.mlp((4, 3)), function)


def with_tensor_hook():
    net = models.mlp()
    net.fc2.weight.register_hook(lambda slope: slope)
    return net


def compiled():
    net = models.mlp()
    net.compile()
    return net


PAIR = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
REFUSED = [
    ([], ValueError, "models must hold at least one network"),
    ([models.mlp((4, 3)), models.mlp((4, 2))], ValueError,
     r"models\[1\] must have the parameters .*'fc1.weight' with shape"),
    ([models.mlp((4, 3)), models.mlp((4, 3, 2))], ValueError, "fc2.weight"),
    ([models.mlp((4, 3)), models.mlp((4, 3)).double()], ValueError, r"dtype torch.float32, got .*64"),
    ([PAIR, PAIR, copy.deepcopy(PAIR).requires_grad_(False)], ValueError,
     r"models\[2\] .*'0.weight' with requires_grad True, got False"),
    ([tied(), LAYERS["Linear used twice"]()], ValueError, r"models\[1\]"),
    ([nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))], ValueError,
     r"no buffers \(batch norm\), but models\[0\] has '1.running_mean'"),
    ([models.mlp(), parametrizations.spectral_norm(nn.Linear(4, 2))], ValueError, "no buffers.*_u'"),
    ([models.mlp(), with_hook("forward_pre_hook")], ValueError,
     r"models must have no forward pre hooks .*models\[1\] has one at 'fc1'"),
    ([with_hook("forward_hook")], ValueError, r"no forward hooks .*models\[0\] has one at 'fc1'"),
    ([models.mlp(), with_hook("full_backward_hook")], ValueError, "no backward hooks .*'fc1'"),
    ([models.mlp(), with_hook("full_backward_pre_hook")], ValueError, "no backward pre hooks"),
    ([with_tensor_hook()], ValueError, r"no hooks, but models\[0\] has one at 'fc2.weight'"),
    ([pruned(), pruned()], ValueError, "torch's pruning.*make them permanent.*'fc1'"),
    ([compiled()], ValueError, r"must not be compiled, but models\[0\]"),
    ([torch.compile(models.mlp())], ValueError, "must not be compiled"),
    ([nn.Sequential(nn.LazyLinear(3))], ValueError, "'0.weight' has no shape yet"),
    ([ensemble.stack([PAIR])], TypeError, r"single networks, but models\[0\] has a stack"),
    (["net"], TypeError, r"models\[0\] must be an nn.Module, got str"),
    ([PAIR, nn.Sequential(nn.Linear(3, 3), nn.Tanh())], ValueError,
     r"models\[1\] must be built like models\[0\], but '1' is not"),
    ([PAIR, nn.Sequential(Doubled(3, 3), nn.ReLU())], ValueError, "built like.*'0'"),
    ([nn.Sequential(nn.Linear(3, 3), nn.Dropout(p)) for p in (0.1, 0.2)], ValueError, "built like.*'1'"),
    ([nn.Sequential(nn.Conv2d(1, 1, 3, stride=s)) for s in (1, 2)], ValueError, "built like.*'0'"),
    ([PAIR, nn.Sequential(*PAIR, nn.ReLU())], ValueError, "built like.*'2'"),
    ([attached(torch.sin), attached(torch.cos)], ValueError, "built like.*'fc1.parametrizations"),
    ([attached(times(c)) for c in (2, 3)], ValueError, "built like.*'fc1.par"),
    ([attached(times(torch.tensor(c))) for c in (2, 3)], ValueError, "built"),
    ([attached(lambda w, c=c: w * c) for c in (2, 3)], ValueError, "built like"),
]  # fmt: skip


@pytest.mark.parametrize(("nets", "error", "words"), REFUSED)
def test_what_does_not_stack(nets, error, words):
    before = [copy.deepcopy(net.state_dict()) for net in nets if isinstance(net, nn.Module)]
    with pytest.raises(error, match=words):
        ensemble.stack(nets)
    for net, state in zip(nets, before, strict=False):
        now = net.state_dict() if isinstance(net, nn.Module) else {}
        assert now.keys() == state.keys()


def test_networks_are_alike_that_could_be_stacked():
    first = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    assert ensemble.alike(first, nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
    others = [
        nn.Sequential(nn.Linear(4, 2), nn.Tanh()),
        nn.Sequential(nn.Linear(4, 3), nn.ReLU()),
        nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)),
        ensemble.stack([first]),
    ]
    for other in others:
        assert not ensemble.alike(first, other)
        assert not ensemble.alike(other, first)
    assert not ensemble.alike(others[2], copy.deepcopy(others[2]))  # nor can two batch norms


def test_alike_says_what_stack_would_say():
    net = models.mlp((4, 3))
    assert ensemble.alike(net, models.mlp((4, 3), seed=1))
    assert not ensemble.alike(net, models.mlp((4, 2)))
    assert not ensemble.alike(with_hook("forward_hook"), models.mlp())
    assert not ensemble.alike(models.mlp(), with_hook("forward_hook"))
    assert not ensemble.alike(PAIR, nn.Sequential(nn.Linear(3, 3), nn.Tanh()))


def test_unstack_takes_stacks_only():
    with pytest.raises(TypeError, match="stacked must be made by stack, got Sequential"):
        ensemble.unstack(models.mlp())


@pytest.mark.parametrize("child", ["size", "template", "names", "plain", "is_mlp"])
def test_layers_may_have_any_name(child):
    net = nn.Sequential()
    net.add_module(child, nn.Linear(3, 2))
    x = torch.ones(1, 3)
    assert torch.allclose(ensemble.stack([net, net])(x)[1], net(x))


def test_members_and_template_answer_for_one_network_too():
    net = models.mlp((4, 3))
    stack = ensemble.stack([net, net])
    assert ensemble.members(net) == [net] and ensemble.template(net) is net
    assert ensemble.size(net) == 1 and ensemble.size(stack) == len(ensemble.members(stack)) == 2
    assert list(ensemble.all_modules(net)) == list(net.modules())
    state = {"w": torch.ones(2, 3)}
    assert ensemble.by_member(stack, state)["w"].shape == (2, 3)
    assert ensemble.by_member(net, state)["w"].shape == (1, 2, 3)
    assert ensemble.joined(stack, [state, state])["w"].shape == (2, 2, 3)
    assert ensemble.joined(net, [state]) == state
