"""Bayesian pruning: formulas against quadrature and scipy, layers against explicit draws."""

import copy
import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from scipy import integrate, special, stats
from torch import nn

from course_lib import data, ensemble, layers, models, training
from course_lib.pruning import bayesian, channels
from course_lib.pruning.bayesian import Horseshoe, Jeffreys, Structured, Variational

HOWS = [Variational, Jeffreys, Horseshoe, Structured]
WIDE = {  # so much noise that a wrong variance shows
    Variational: partial(Variational, start=-1.0),
    Jeffreys: partial(Jeffreys, start=-1.0),
    Horseshoe: partial(Horseshoe, start=-1.0),
    Structured: partial(Structured, start=0.0),
}
LAYERS = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 5, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 3, 3)),
    "one dimension": (lambda: nn.Conv1d(4, 6, 3, dilation=2, bias=False), (4, 5)),
}


def seeded(make, seed=0):
    return models.seeded(seed, make).double()


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


# ---- formulas


def by_quadrature(log_alpha):
    """−KL up to its constant is ½ log α − E log|1 + √α ε|; the constant makes it 0 at α = ∞."""
    root = math.exp(log_alpha / 2)

    def inside(e):
        return math.log(abs(1 + root * e)) * math.exp(-e * e / 2) / math.sqrt(2 * math.pi)

    pole = -1 / root
    ends = sorted({-40.0, max(min(pole, 40.0), -40.0), 0.0, 40.0})
    mean = sum(integrate.quad(inside, a, b, epsabs=1e-12, limit=400)[0] for a, b in pairwise(ends))
    return mean - log_alpha / 2 + (0.5772156649015329 + math.log(2)) / 2


@pytest.mark.parametrize("log_alpha", [-8.0, -3.51, -1.0, 0.0, 0.37, 3.0, 8.0])
def test_divergence_is_the_integral(log_alpha):
    ours = bayesian.kl_log_uniform(tensor(log_alpha)).item()
    assert ours == pytest.approx(by_quadrature(log_alpha), abs=2e-9)


def test_slope_is_dawson():
    t = torch.linspace(-24, 24, 4001, dtype=torch.float64, requires_grad=True)
    bayesian.kl_log_uniform(t).sum().backward()
    u = torch.exp(-t.detach()) / 2
    dawson = torch.from_numpy(special.dawsn(u.sqrt().numpy()))
    torch.testing.assert_close(t.grad, -u.sqrt() * dawson, rtol=1e-8, atol=1e-12)


def test_value_is_the_integral_of_the_slope():
    for log_alpha in (-23.0, -19.99, -6.0, 2.0, 19.0, 24.0):
        x = math.exp(-log_alpha / 2) / math.sqrt(2)
        ends = [0, min(x, 1.0), min(x, 30.0)]
        want = sum(integrate.quad(special.dawsn, a, b, epsabs=0)[0] for a, b in pairwise(ends))
        if x > 30:  # D(x) = 1/(2x) + 1/(4x³) + 3/(8x⁵) + …
            want += (math.log(x / 30) / 2) + (30**-2 - x**-2) / 8 + 3 * (30**-4 - x**-4) / 32
        ours = bayesian.kl_log_uniform(tensor(log_alpha)).item()
        assert ours == pytest.approx(2 * want, rel=2e-9)


def test_divergence_at_its_ends():
    ends = bayesian.kl_log_uniform(tensor(-math.inf, math.inf, 60.0))
    assert ends[0] == math.inf
    assert ends[1] == 0
    assert 0 < ends[2] < 1e-25
    t = torch.linspace(-30, 30, 9999)
    assert (bayesian.kl_log_uniform(t).diff() <= 0).all()
    assert bayesian.kl_log_uniform(torch.tensor([0.0], dtype=torch.float16)).dtype == torch.float16


def test_approximation_stays_close():
    t = torch.linspace(-8, 8, 10_001, dtype=torch.float64)
    apart = (bayesian.kl_approximation(t) - bayesian.kl_log_uniform(t)).abs()
    assert 0.0090 < apart.max() < 0.0095  # as measured by quadrature
    assert t[apart.argmax()] == pytest.approx(-3.5, abs=0.2)


@pytest.mark.parametrize("m, v, k", [(-1.0, 1.0, 1.0), (0.5, 0.1, 2.0), (-9.0, 3.0, 1e-4)])
def test_log_normals_against_quadrature(m, v, k):
    q = stats.norm(m, math.sqrt(v))

    def divergence(log_prior):  # of x = exp(y), where y ~ q, from a prior of x
        def inside(y):
            return q.pdf(y) * (q.logpdf(y) - y - log_prior(math.exp(y)))

        return integrate.quad(inside, m - 12 * v**0.5, m + 12 * v**0.5, epsabs=1e-12)[0]

    gamma = bayesian.kl_lognormal_gamma(tensor(m), tensor(v), k).item()
    assert gamma == pytest.approx(divergence(stats.gamma(0.5, scale=k).logpdf), rel=1e-9)
    inverse = bayesian.kl_lognormal_inverse_gamma(tensor(m), tensor(v)).item()
    assert inverse == pytest.approx(divergence(stats.invgamma(0.5).logpdf), rel=1e-9)


def test_product_of_gammas_is_a_half_cauchy():
    """C⁺(0, k)² = Γ(½, scale k²) · IG(½, 1); a false alarm once in 10,000 such tests."""
    g = torch.Generator().manual_seed(1)
    k = 0.3
    gamma = k**2 * torch.randn(20_000, generator=g).square() / 2  # ε² / 2 is Γ(½, 1)
    inverse = 2 / torch.randn(20_000, generator=g).square()
    drawn = (gamma * inverse).sqrt().numpy()
    assert stats.kstest(drawn, stats.halfcauchy(scale=k).cdf).pvalue > 1e-4


POSTERIORS = [(0.0, -5.0), (-3.0, 0.0), (-10.0, -2.0), (-25.0, 0.0), (3.0, 0.5), (-10.0, 5.0)]
POSTERIORS += [(-20.0, -3.0), (0.0, 2.0), (-7.0, 1.0)]
CASES = [(*posterior, -20.0, 0.0) for posterior in POSTERIORS]
CASES += [(*posterior, -4.0, 1.0) for posterior in POSTERIORS if posterior != (-20.0, -3.0)]


@pytest.mark.parametrize("mu, log_sigma, low, high", CASES)
def test_truncated_against_scipy(mu, log_sigma, low, high):
    sigma = math.exp(log_sigma)
    q = stats.truncnorm((low - mu) / sigma, (high - mu) / sigma, mu, sigma)
    peak = min(max(mu, low), high)
    near = [x for x in (peak - 8 * sigma, peak, peak + 8 * sigma) if low < x < high]
    ends = [low, *near, high]
    first, second, negentropy = (
        sum(
            integrate.quad(lambda y, f=f: f(y) * q.pdf(y), *pair, epsabs=0, limit=200)[0]
            for pair in pairwise(ends)
        )
        for f in (math.exp, lambda y: math.exp(2 * y), q.logpdf)
    )
    mean, snr = bayesian.truncated_moments(tensor(mu), tensor(log_sigma), low, high)
    assert mean.item() == pytest.approx(first, rel=1e-7)
    assert snr.item() == pytest.approx(first / math.sqrt(second - first**2), rel=1e-5)
    kl = bayesian.kl_truncated(tensor(mu), tensor(log_sigma), low, high).item()
    assert kl == pytest.approx(math.log(high - low) + negentropy, abs=1e-6)


def test_truncated_is_stable_and_differentiable():
    mu = torch.linspace(-25, 5, 31)[:, None].expand(31, 31).clone().requires_grad_()
    log_sigma = torch.linspace(-10, 5, 31).expand(31, 31).clone().requires_grad_()
    mean, snr = bayesian.truncated_moments(mu, log_sigma)
    assert mean.isfinite().all()
    assert (mean > 0).all()
    assert (mean <= 1).all()
    assert snr.isfinite().all()
    assert (snr > 0).all()
    kl = bayesian.kl_truncated(mu, log_sigma)
    assert (kl > -1e-6).all()
    kl.sum().backward()
    assert mu.grad.isfinite().all()
    assert log_sigma.grad.isfinite().all()
    values = [torch.linspace(-6, 1, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(bayesian.kl_truncated, values)


def test_far_outside_it_is_an_exponential():
    """With μ far above b, log θ is b minus an exponential variable of rate (μ − b)/σ²."""
    mu, log_sigma = tensor(5.0, 2.0, -25.0), tensor(-8.0, -7.0, -9.0)
    rate = torch.tensor([5.0, 2.0, 5.0], dtype=torch.float64) / (2 * log_sigma).exp()
    want = math.log(20) + rate.log() - 1
    torch.testing.assert_close(bayesian.kl_truncated(mu, log_sigma), want, rtol=0, atol=1e-4)
    mean = bayesian.truncated_moments(mu, log_sigma)[0]
    torch.testing.assert_close(mean, tensor(1.0, 1.0, math.exp(-20)), rtol=1e-4, atol=0)


def test_wide_posterior_is_the_prior():
    assert bayesian.kl_truncated(tensor(-10.0), tensor(6.0)).item() == pytest.approx(0, abs=1e-4)


# ---- layers


def spread(made):
    """Parameters of the layer's noise that are different for each weight and input."""
    g = torch.Generator().manual_seed(3)
    for name, p in made.named_parameters():
        if name not in ("weight", "bias"):
            p.data += 0.5 * torch.rand(p.shape, generator=g, dtype=p.dtype) - 0.7 * (name == "mu")
    return made


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("how", HOWS)
def test_moments_of_a_layer_are_those_of_drawn_weights(how, kind):
    """Each of up to 54 outputs is within 5 standard errors in mean and variance: by chance one false
    alarm in about 4,000 runs of all cases."""
    make, shape = LAYERS[kind]
    plain = seeded(make)
    made = spread(bayesian.noisy(plain, WIDE[how])).train()
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1)).double()
    n, torch_state = 20_000, torch.get_rng_state()
    torch.manual_seed(0)
    with torch.no_grad():
        ours = torch.cat([made(x.expand(2000, *shape)) for _ in range(n // 2000)]).flatten(1)
        drawn = torch.stack([weights_once(made, plain, x) for _ in range(1000)]).flatten(1)
    torch.set_rng_state(torch_state)
    fourth = (ours - ours.mean(0)).pow(4).mean(0)
    error = (ours.var(0) * (1 / n + 1 / 1000)).sqrt()
    assert ((ours.mean(0) - drawn.mean(0)).abs() < 5 * error).all()
    spread_error = ((fourth - ours.var(0).square()) * (1 / n + 1 / 1000)).sqrt()
    assert ((ours.var(0) - drawn.var(0)).abs() < 5 * spread_error).all()
    with torch.no_grad():
        exact = made.eval()(x).flatten()
    assert ((ours.mean(0) - exact).abs() < 5 * (ours.var(0) / n).sqrt()).all()


def weights_once(made, plain, x):
    """The output of a plain layer whose weights are one explicit draw."""
    layer = copy.deepcopy(plain)
    z = made.draw(1)
    own = 0 if made.log_variance is None else (made.log_variance / 2).exp()
    z = z.expand(1, x.shape[1])
    layer.weight.data = made.weight + own * torch.randn_like(made.weight)
    return layer(x * z.view(1, -1, *[1] * (x.dim() - 2)))


def test_structured_noise_is_the_truncated_normal():
    """Kolmogorov–Smirnov on 5,000 draws of 3 inputs: a false alarm once in 3,000 runs."""
    made = bayesian.noisy(nn.Linear(3, 1), Structured)
    made.mu.data = torch.tensor([-0.1, -3.0, -19.0])
    made.log_sigma.data = torch.tensor([-2.0, 1.0, 0.5])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = made.draw(5000).log()
    for i in range(3):
        mu, sigma = made.mu[i].item(), made.log_sigma[i].exp().item()
        q = stats.truncnorm((-20 - mu) / sigma, (0 - mu) / sigma, mu, sigma)
        assert stats.kstest(drawn[:, i].detach().numpy(), q.cdf).pvalue > 1e-4


@pytest.mark.parametrize("how", HOWS)
def test_without_noise_it_is_the_plain_layer(how):
    plain = seeded(lambda: nn.Linear(4, 3))
    made = bayesian.noisy(plain, partial(how, start=-30.0)).train()
    x = torch.rand(5, 4).double()
    torch.testing.assert_close(made(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", HOWS)
def test_every_example_has_noise_of_its_own(how):
    made = bayesian.noisy(seeded(lambda: nn.Linear(4, 3)), WIDE[how]).train()
    a, b = made(torch.ones(2, 4).double())
    assert (a != b).all()
    assert torch.equal(made.eval()(torch.ones(4).double()), made(torch.ones(1, 4).double())[0])


def test_bias_has_no_say_in_the_noise():
    layer = seeded(lambda: nn.Linear(4, 3))
    outputs = []
    for bias in (0.0, -5.0):
        layer.bias.data.fill_(bias)
        made = bayesian.noisy(layer, WIDE[Variational]).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            outputs.append(made(torch.ones(6, 4).double()) - bias)
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("how", HOWS)
def test_hard_network_is_the_evaluated_one(how, kind):
    make, shape = LAYERS[kind]
    made = spread(bayesian.noisy(seeded(make), WIDE[how])).eval()
    x = torch.rand(3, *shape).double()
    plain, keep = bayesian.harden(made, math.inf)
    assert type(plain) is type(make())
    torch.testing.assert_close(plain(x), made(x))
    assert keep["weight"].all()
    assert keep["weight"].shape == plain.weight.shape
    assert repr(plain) == repr(make())


def test_divergences_of_the_groups():
    """Against torch's closed forms and the formulas above, added up by hand."""
    made = spread(bayesian.noisy(seeded(lambda: nn.Linear(4, 3)), Jeffreys))
    normal = torch.distributions.Normal(made.weight, (made.log_variance / 2).exp())
    unit = torch.distributions.Normal(tensor(0.0), tensor(1.0))
    own = torch.distributions.kl_divergence(normal, unit).sum()
    ratio = made.scale_log_variance - 2 * made.scale_mean.abs().log()
    want = own + sum(by_quadrature(t) for t in ratio.tolist())
    assert bayesian.kl(made).item() == pytest.approx(want.item(), abs=1e-7)

    made = spread(bayesian.noisy(seeded(lambda: nn.Linear(4, 3)), partial(Horseshoe, tau=0.1)))
    normal = torch.distributions.Normal(made.weight, (made.log_variance / 2).exp())
    want = torch.distributions.kl_divergence(normal, unit).sum()
    mean, variance = made.scale_mean, made.scale_log_variance.exp()
    for i in range(5):
        scale = 0.01 if i == 4 else 1.0
        want += bayesian.kl_lognormal_gamma(mean[0, i], variance[0, i], scale)
        want += bayesian.kl_lognormal_inverse_gamma(mean[1, i], variance[1, i])
    assert bayesian.kl(made).item() == pytest.approx(want.item())


@pytest.mark.parametrize("how", HOWS)
def test_posterior_is_that_of_the_product(how):
    """50,000 draws of W · z: within 5 standard errors, a false alarm once in 70,000 runs."""
    made = spread(bayesian.noisy(seeded(lambda: nn.Linear(2, 2)), WIDE[how]))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        z = made.draw(50_000)[:, None, :]
        own = 0 if made.log_variance is None else (made.log_variance / 2).exp()
        drawn = (made.weight + own * torch.randn(50_000, 2, 2).double()) * z
        mean, variance = made.posterior()
    assert ((drawn.mean(0) - mean).abs() < 5 * (variance / 50_000).sqrt()).all()
    fourth = (drawn - mean).pow(4).mean(0)
    assert ((drawn.var(0) - variance).abs() < 5 * (fourth / 50_000).sqrt()).all()


def test_horseshoe_is_the_root_of_its_four_factors():
    """100,000 draws of the factors: within 5 standard errors, a false alarm once in 100,000 runs."""
    made = spread(bayesian.noisy(seeded(lambda: nn.Linear(2, 2)), WIDE[Horseshoe]))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        deviation = (made.scale_log_variance / 2).exp()
        logs = made.scale_mean + deviation * torch.randn(100_000, 2, 3).double()
        squares = logs.sum(1).exp()  # gamma times inverse gamma: z̃² of two inputs, then s²
        z = (squares[:, :2] * squares[:, 2:]).sqrt()
        mean, variance = (part[0] for part in made.scale())
    assert ((z.mean(0) - mean).abs() < 5 * (variance / 100_000).sqrt()).all()
    fourth = (z - mean).pow(4).mean(0)
    assert ((z.var(0) - variance).abs() < 5 * (fourth / 100_000).sqrt()).all()


# ---- stacks and training


def nets(how, k=3):
    return [bayesian.noisy(models.mlp((6, 5, 3), seed=s), how) for s in range(k)]


@pytest.mark.parametrize("how", HOWS)
def test_members_of_a_stack_are_the_networks(how):
    alone = [spread(net) for net in nets(WIDE[how])]
    together = ensemble.stack(alone)
    x = torch.rand(7, 6)
    torch.testing.assert_close(bayesian.kl(together), torch.stack([bayesian.kl(n) for n in alone]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        noisy = together.train()(x)
        torch.manual_seed(0)
        assert torch.equal(noisy, torch.stack([net.train()(x) for net in alone]))
    quiet = together.eval()(x)
    assert torch.equal(quiet, torch.stack([net.eval()(x) for net in alone]))
    levels = bayesian.levels(together)
    hard, keep = bayesian.harden(together)
    places = bayesian.precision(together)
    for k, net in enumerate(alone):
        one, masks = bayesian.harden(net)
        for name, mask in masks.items():
            assert torch.equal(keep[name][k], mask)
            assert torch.equal(levels[name][k], bayesian.levels(net)[name])
            assert places[name][k] == bayesian.precision(net)[name]
        assert torch.equal(ensemble.members(hard)[k](x), one(x))


@pytest.mark.parametrize("how", HOWS)
def test_members_train_as_alone(how, monkeypatch):
    """With constant noise, because each member of a stack draws its own."""
    for name in ("randn_like", "randn", "rand"):
        plain = torch.zeros_like if name == "randn_like" else torch.zeros
        monkeypatch.setattr(torch, name, lambda *a, plain=plain, **o: plain(*a, **o) + 0.5)
    train, _ = data.load("digits")
    train = data.Split(train.x[:200].flatten(1)[:, 20:26], train.y[:200] % 3)

    def optimizer(model):
        made = torch.optim.Adam(model.parameters(), lr=0.01)
        bayesian.charge(made, model, n=200, weight=bayesian.ramp(4))
        return made

    plan = training.Plan(epochs=2, batch_size=50, optimizer=optimizer)
    alone = nets(how)
    together = ensemble.stack(alone)
    training.fit(together, train, plan)
    for k, net in enumerate(alone):
        before = copy.deepcopy(net)
        training.fit(net, train, plan)
        for (name, p), q in zip(net.named_parameters(), before.parameters(), strict=True):
            torch.testing.assert_close(together.get_parameter(name)[k], p, rtol=1e-4, atol=1e-5)
            assert not torch.equal(p, q), name


def test_charge_adds_the_gradient():
    net = nets(Jeffreys, 1)[0]
    twin = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = bayesian.charge(optimizer, net, n=50, weight=bayesian.ramp(2, weight=3.0))
    x = torch.rand(4, 6)
    for step in range(4):
        share = [0.0, 1.5, 3.0, 0.0][step] / 50
        if step == 3:
            handle.remove()
        for model in (net, twin):
            model.eval().zero_grad()
            model(x).square().mean().backward()
        want = torch.autograd.grad(bayesian.kl(twin), [*twin.parameters()], allow_unused=True)
        optimizer.step()
        with torch.no_grad():
            for p, slope in zip(twin.parameters(), want, strict=True):
                grad = 0 if p.grad is None else p.grad
                p -= 0.1 * (grad + share * (0 if slope is None else slope))
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q)


def test_charge_knows_the_steps_of_a_grad_scaler():
    """A fused optimizer divides the gradients by the scale itself, and is called for a skipped step."""
    net = nets(Jeffreys, 1)[0]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, fused=True)
    bayesian.charge(optimizer, net, n=50, weight=lambda step: 0.5 + step)
    slopes = torch.autograd.grad(bayesian.kl(net), [*net.parameters()], allow_unused=True)
    for scale, infinite, share in ((1.0, 0, 0.5), (8.0, 1, 0.0), (8.0, 0, 1.5)):
        optimizer.grad_scale, optimizer.found_inf = (
            torch.tensor(scale),
            torch.tensor(infinite * 1.0),
        )
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        for p, slope in zip(net.parameters(), slopes, strict=True):
            want = torch.zeros_like(p) if slope is None else share / 50 * slope
            torch.testing.assert_close(p.grad, want)


def test_noise_makes_room_where_the_data_do_not_care():
    """An input that says nothing ends above the threshold, the one that says all ends below."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=g)
    train = data.Split(x, (x[:, 0] > 0).long())
    for how in HOWS:
        net = bayesian.noisy(models.mlp((2, 2)), partial(how, start=-3.0))

        def optimizer(model):
            made = torch.optim.Adam(model.parameters(), lr=0.2)
            bayesian.charge(made, model, n=400)
            return made

        training.fit(net, train, epochs=40, optimizer=optimizer)
        keep = bayesian.harden(net)[1]["fc1.weight"]
        assert keep[:, 0].any(), how
        assert not keep[:, 1].any(), how


# ---- results


def test_harden_removes_what_is_above_the_threshold():
    net = nn.Sequential(nn.Linear(3, 2))
    net[0].weight.data = torch.tensor([[1.0, 0.1, 0.01], [-1.0, -0.003, 0.0]])
    made = bayesian.noisy(net, partial(Variational, start=-5.0))
    want = -5 - 2 * net[0].weight.detach().abs().log()
    keep = bayesian.harden(made)[1]["0.weight"]
    assert torch.equal(keep, want <= 3)
    loose = bayesian.harden(made, 6.0)[1]["0.weight"]
    assert torch.equal(loose, want <= 6)
    assert not loose[1, 2]  # a weight of 0 is all noise
    assert not bayesian.harden(made)[0][0].weight[~keep].any()
    level = bayesian.levels(made)["0.weight"][0, 1].item()
    assert bayesian.harden(made, level)[1]["0.weight"][0, 1]  # what is exactly there stays
    with pytest.warns(UserWarning, match="nothing is left of '0.weight'"):
        bayesian.harden(made, -100.0)


def test_a_multiplier_that_vanished_is_removed():
    made = bayesian.noisy(nn.Linear(2, 1), Structured)
    made.mu.data = torch.tensor([-25.0, 0.0])
    made.log_sigma.data = torch.tensor([0.0, -5.0])
    assert bayesian.truncated_moments(made.mu, made.log_sigma)[1][0] > 4
    assert bayesian.harden(made, math.inf)[1]["weight"].tolist() == [[True, True]]
    assert bayesian.harden(made)[1]["weight"].tolist() == [[False, True]]


@pytest.mark.parametrize("log_variance", [-9.0, -8.0, -1.386, 0.0, 4.0])
def test_places_round_within_the_deviation(log_variance):
    made = bayesian.noisy(nn.Linear(20, 10), partial(Variational, start=log_variance))
    weight = made.weight.detach()
    places = int(bayesian.precision(made, math.inf)["weight"])
    deviation = math.exp(log_variance / 2)

    def worst(t):  # on a grid as fine as t binary places
        values = torch.linspace(-1, 1, 10_001, dtype=torch.float64)
        return (values - (values * 2**t).round() / 2**t).abs().max()

    assert worst(places) <= deviation
    assert places == 0 or worst(places - 1) > deviation * 0.999
    assert weight.dtype == torch.float32


def test_places_count_only_what_stays():
    made = bayesian.noisy(nn.Linear(2, 1), Variational)
    made.weight.data = torch.tensor([[1.0, 1e-3]])
    made.log_variance.data = torch.tensor([[-10.0, 0.0]])
    assert bayesian.precision(made)["weight"] == 7  # e⁻⁵ = 0.0067 lies between 2⁻⁸ and 2⁻⁷
    assert bayesian.precision(made, -100.0)["weight"] == 0


def test_unread_channels_can_be_removed():
    net = models.lenet5(width=0.2)
    graph = channels.trace(net, torch.zeros(1, 1, 28, 28))
    keep = {
        f"{n}.weight": torch.ones_like(m.weight).bool() for n, m in layers.weighted(net).items()
    }
    keep["conv2.weight"][:, 1] = False
    flat = graph.reads["fc1"]
    keep["fc1.weight"][:, [i for i, c in enumerate(flat) if c == flat[0]][:-1]] = False
    keep["fc2.weight"][:, [0, 5]] = False
    dead = bayesian.unread(graph, keep)
    assert dead == {graph.makes["conv1"][1], graph.makes["fc1"][0], graph.makes["fc1"][5]}
    with torch.no_grad():
        for name, mask in keep.items():
            net.get_parameter(name).masked_fill_(~mask, 0)
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(channels.remove(net, graph, dead)(x), net(x))


@pytest.mark.parametrize("how", HOWS)
def test_the_given_network_stays(how):
    net = models.small_cnn(width=0.2)
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    made = bayesian.noisy(net, how)
    noise = copy.deepcopy(made.state_dict())
    bayesian.harden(made)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(net.state_dict()[n], p) for n, p in before.items())
    assert all(torch.equal(made.state_dict()[n], p) for n, p in noise.items())
    assert made(torch.rand(2, 1, 14, 14)).shape == (2, 10)


def test_frozen_layers_stay_plain():
    net = models.mlp((6, 5, 3))
    net.get_submodule("fc1").requires_grad_(False)
    made = bayesian.noisy(net, Variational)
    assert type(made.get_submodule("fc1")) is nn.Linear
    assert list(bayesian.levels(made)) == ["fc2.weight"]


def test_half_precision():
    for dtype in (torch.bfloat16, torch.float16):
        for how in HOWS:
            made = bayesian.noisy(models.mlp((6, 5, 3)).to(dtype), how).train()
            x = torch.rand(4, 6).to(dtype)
            assert made(x).dtype == dtype
            assert made(x).isfinite().all()
            assert bayesian.kl(made).isfinite()
            assert bayesian.harden(made)[0](x).dtype == dtype


# ---- refusals


def test_what_is_refused():
    net = models.mlp((6, 5, 3))
    made = bayesian.noisy(net, Variational)
    optimizer = torch.optim.Adam(made.parameters())
    one, nan = torch.ones(1), torch.tensor([math.nan])
    cases = [
        (ValueError, "log_alpha must hold no NaN", lambda: bayesian.kl_log_uniform(nan)),
        (
            TypeError,
            "log_alpha must be a floating",
            lambda: bayesian.kl_log_uniform(torch.ones(1).int()),
        ),
        (ValueError, "mu must hold no NaN", lambda: bayesian.kl_truncated(nan, nan)),
        (ValueError, "ascending", lambda: bayesian.truncated_moments(one, one, 0.0, 0.0)),
        (
            ValueError,
            "scale must be positive",
            lambda: bayesian.kl_lognormal_gamma(one, one, 0),
        ),
        (ValueError, "no noisy layer yet", lambda: bayesian.noisy(made, Variational)),
        (ValueError, "must have a noisy layer", lambda: bayesian.kl(net)),
        (ValueError, "must have a noisy layer", lambda: bayesian.harden(net)),
        (TypeError, "how must make", lambda: bayesian.noisy(net, nn.Identity)),
        (TypeError, "how must make", lambda: bayesian.noisy(net, "variational")),
        (
            ValueError,
            "start must be",
            lambda: bayesian.noisy(net, partial(Variational, start=math.nan)),
        ),
        (
            ValueError,
            "tau must be positive",
            lambda: bayesian.noisy(net, partial(Horseshoe, tau=0.0)),
        ),
        (ValueError, "ascending", lambda: bayesian.noisy(net, partial(Structured, low=1.0))),
        (ValueError, "n must be", lambda: bayesian.charge(optimizer, made, n=0)),
        (
            ValueError,
            "weight must be finite",
            lambda: bayesian.charge(optimizer, made, n=1, weight=-1),
        ),
        (TypeError, "weight must be", lambda: bayesian.charge(optimizer, made, n=1, weight="1")),
        (ValueError, "noisy layer", lambda: bayesian.charge(optimizer, net, n=1)),
        (
            TypeError,
            "once per dense gradient, got LBFGS",
            lambda: bayesian.charge(torch.optim.LBFGS(made.parameters()), made, n=1),
        ),
        (ValueError, "threshold must", lambda: bayesian.harden(made, math.nan)),
        (TypeError, "threshold must", lambda: bayesian.precision(made, "3")),
        (ValueError, "steps must be", lambda: bayesian.ramp(0)),
    ]
    for error, words, call in cases:
        with pytest.raises(error, match=words):
            call()


def test_an_optimizer_of_another_model():
    made = nets(Variational, 1)[0]
    for others in (nn.Linear(2, 2).parameters(), [made.get_parameter("fc1.bias")]):
        with pytest.raises(ValueError, match="must train the noisy layers"):
            bayesian.charge(torch.optim.SGD(others, lr=0.1), made, n=10)


def test_batch_norm_in_a_stack():
    made = [bayesian.noisy(models.vgg(width=0.2, seed=s), Variational) for s in range(2)]
    with pytest.raises(ValueError, match="batch norm"):
        ensemble.stack(made)


def test_nan_in_training_is_named():
    made = nets(Variational, 1)[0]
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    bayesian.charge(optimizer, made, n=10)
    made.get_parameter("fc1.log_variance").data[0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        optimizer.step()
