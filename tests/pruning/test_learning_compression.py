"""The LC algorithm: C steps against brute force, the whole against an exhaustive search."""

import itertools
import math

import pytest
import torch
from scipy import optimize
from torch import nn

from course_lib import ensemble, layers, models, training
from course_lib.compression import binary, decomposition, sharing
from course_lib.data import Split
from course_lib.pruning import allocate, criteria, masks
from course_lib.pruning import learning_compression as lc


def draw(seed, n=7):
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"a": values[:4].view(2, 2), "b": values[4:]}


def row(values):
    return torch.cat([v.flatten() for v in values.values()])


# ---- C steps


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("alpha", [0.05, 0.5])
def test_l0_is_the_best_of_all_supports(seed, alpha):
    v, mu = row(draw(seed)), 0.7
    found = row(lc.l0(alpha)(draw(seed), mu))

    def cost(theta):
        return alpha * int(theta.count_nonzero()) + mu / 2 * float((v - theta).square().sum())

    supports = itertools.product([0.0, 1.0], repeat=len(v))
    assert cost(found) == pytest.approx(min(cost(v * torch.tensor(s)) for s in supports))
    kept = found != 0
    assert torch.equal(found[kept], v[kept])


@pytest.mark.parametrize("seed", range(5))
def test_largest_is_the_nearest_of_all_supports_of_its_size(seed):
    v = row(draw(seed))
    for kappa in range(8):
        found = row(lc.largest(1 - kappa / 7)(draw(seed), 3.0))
        chosen = [
            torch.isin(torch.arange(7), torch.tensor(s, dtype=torch.long))
            for s in itertools.combinations(range(7), kappa)
        ]
        best = min((v - v * s).square().sum().item() for s in chosen)
        assert int(found.count_nonzero()) == kappa
        assert (v - found).square().sum().item() == pytest.approx(best)


def test_direct_compression_is_the_cut_by_magnitude():
    net = models.mlp((30, 20, 10))
    for sparsity in (0.3, 0.9, 0.985):
        theta = lc.largest(sparsity)(layers.weights(net), math.inf)
        keep = allocate.globally(criteria.magnitude(net), sparsity)
        for name, w in layers.weights(net).items():
            assert torch.equal(theta[name], w * keep[name])
    ties = {"a": torch.full((3, 3), -2.0)}
    assert (lc.largest(0.5)(ties, 1.0)["a"] != 0).flatten().tolist() == [True] * 5 + [False] * 4


@pytest.mark.parametrize("seed", range(5))
def test_l1_minimises_its_objective(seed):
    v, mu, alpha = row(draw(seed)), 2.0, 0.6
    found = row(lc.l1(alpha)(draw(seed), mu))

    def cost(theta):
        theta = torch.as_tensor(theta)
        return float(alpha * theta.abs().sum() + mu / 2 * (v - theta).square().sum())

    start = found.numpy() + 0.01
    best = optimize.minimize(cost, start, method="Powell", options={"xtol": 1e-9, "ftol": 1e-13})
    assert cost(found) <= best.fun + 1e-12


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kappa", [0.1, 1.0, 3.0, 100.0])
def test_the_ball_is_a_projection(seed, kappa):
    """Quadratic programming in the positive and negative parts (SLSQP), and its own properties."""
    v = row(draw(seed))
    found = row(lc.l1_ball(kappa)(draw(seed), 1.0))
    if v.abs().sum() <= kappa:
        assert torch.equal(found, v)
        return
    assert found.abs().sum().item() == pytest.approx(kappa, rel=1e-12)
    solved = optimize.minimize(
        lambda x: ((x[:7] - x[7:] - v.numpy()) ** 2).sum(),
        torch.zeros(14).numpy(),
        bounds=[(0, None)] * 14,
        constraints={"type": "ineq", "fun": lambda x: kappa - x.sum()},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    torch.testing.assert_close(
        found, torch.as_tensor(solved.x[:7] - solved.x[7:]), rtol=0, atol=1e-6
    )
    again = row(lc.l1_ball(kappa)({"a": found}, 1.0))
    torch.testing.assert_close(again, found, rtol=0, atol=1e-12)


def test_the_ball_takes_the_case_in_which_no_value_falls_to_zero():
    """The authors' code leaves (1, 1, 1) with a norm of 3 for κ = 1: no index of its search fails."""
    found = lc.l1_ball(1.0)({"a": torch.ones(3)}, 1.0)["a"]
    torch.testing.assert_close(found, torch.full((3,), 1 / 3))


# ---- the whole algorithm


def problems(count, *, n=6, kappa=2):
    """Random quadratics ½ (w − c)ᵀ A (w − c) and, for each, the least loss on κ of n weights."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        m = torch.randn(n, n, generator=generator, dtype=torch.float64)
        a = m @ m.t() / n + 0.1 * torch.eye(n, dtype=torch.float64)
        c = torch.randn(n, generator=generator, dtype=torch.float64)
        best = min(loss_on(a, c, torch.tensor(s)) for s in itertools.combinations(range(n), kappa))
        yield a, c, best


def loss_on(a, c, support):
    """The least loss with weights on this support, in closed form."""
    w = torch.zeros_like(c)
    w[support] = torch.linalg.solve(a[support][:, support], (a @ c)[support])
    return 0.5 * ((w - c) @ a @ (w - c)).item()


class Exact(torch.optim.SGD):
    """An L step in closed form: w = (A + μI)⁻¹(Ac + μθ + λ), read from the gradient at w."""

    def __init__(self, parameters, a, mus):
        super().__init__(parameters, lr=1.0)
        self.a, self.mus = a, iter(mus)

    def step(self, closure=None):
        p = self.param_groups[0]["params"][0]  # (1, n), or (K, 1, n) for a stack
        hessian = self.a + next(self.mus) * torch.eye(p.shape[-1], dtype=torch.float64)
        with torch.no_grad():
            p -= torch.linalg.solve(hessian, p.grad.mT).mT


def solved(a, c, mus, *, multipliers):
    """The weights (K, n) with which K quadratics end: A is (K, n, n) and c (K, n)."""
    stack = ensemble.stack([nn.Linear(6, 1, bias=False, dtype=torch.float64) for _ in c])
    (weight,) = stack.parameters()
    weight.data = c[:, None].clone()
    optimizer = Exact([weight], a, mus)
    turns = []
    splitting = lc.Splitting(lc.largest(4 / 6), mus, multipliers)
    lc.pull(optimizer, stack, splitting, every=1, watch=turns.append)
    for _ in mus:
        weight.grad = (weight.detach() - c[:, None]) @ a
        optimizer.step()
    (theta,) = turns[-1].values.values()
    assert len(turns) == len(mus) and torch.equal(weight.detach(), theta)
    return weight.detach()[:, 0]


def test_multipliers_find_most_of_the_exact_optima():
    """200 random problems with 15 supports each. The problems are fixed, so this cannot flicker."""
    mus = lc.geometric(0.01, 1.1, turns=120)
    every_a, every_c, best = zip(*problems(200), strict=True)
    a, c, best = torch.stack(every_a), torch.stack(every_c), torch.tensor(best, dtype=torch.float64)
    ends = {
        "direct": torch.stack([lc.largest(4 / 6)({"w": one}, math.inf)["w"] for one in c]),
        "quadratic": solved(a, c, mus, multipliers=False),
        "multipliers": solved(a, c, mus, multipliers=True),
    }
    found = {}
    for name, w in ends.items():
        assert int(w.count_nonzero(dim=1).max()) <= 2
        loss = 0.5 * torch.einsum("ki,kij,kj->k", w - c, a, w - c)
        assert (loss >= best - 1e-9).all()
        found[name] = int((loss <= best * (1 + 1e-3)).sum())
    assert found["multipliers"] >= 120
    assert found["quadratic"] < found["multipliers"] and found["direct"] == 0


def test_the_l_step_is_stationary():
    """∇L = −μ(w − θ) + λ where the L step ends, with λ of the turn before."""
    a, c, _ = next(iter(problems(1)))
    mus = lc.geometric(0.05, 1.5, turns=6)
    seen = []
    net = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    net.weight.data = c[None].clone()
    optimizer = Exact(net.parameters(), a, mus)
    splitting = lc.Splitting(lc.largest(0.5), mus)
    theta = lc.largest(0.5)({"w": c}, 1.0)["w"]
    lam = torch.zeros(6, dtype=torch.float64)
    lc.pull(optimizer, net, splitting, every=1, watch=lambda t: seen.append(
        (t.mu, t.weights["weight"][0].clone(), t.values["weight"][0].clone())))  # fmt: skip
    for mu in mus:
        net.weight.grad = ((net.weight.detach()[0] - c) @ a)[None]
        optimizer.step()
        got, w, new = seen[-1]
        assert got == mu
        torch.testing.assert_close((w - c) @ a, -mu * (w - theta) + lam)
        torch.testing.assert_close(new, lc.largest(0.5)({"w": w - lam / mu}, mu)["w"])
        theta, lam = new, lam - mu * (w - new)


TRAIN = Split(torch.rand(60, 8, generator=torch.Generator().manual_seed(1)), torch.arange(60) % 3)
PLAN = training.Plan(epochs=24, batch_size=10)  # 144 steps: 12 turns of 12 steps


def test_w_meets_theta_and_the_network_ends_compressed():
    net = models.mlp((8, 12, 3))
    training.fit(net, TRAIN, PLAN)
    direct = training.evaluate(pruned(net, 0.7), TRAIN)
    rounds = lc.alternate(
        net,
        TRAIN,
        PLAN,
        lc.Splitting(lc.largest(0.7), lc.geometric(0.01, 2.0, turns=12)),
        test=TRAIN,
    )
    n = sum(w.numel() for w in layers.weights(net).values())
    assert sum(int(w.count_nonzero()) for w in layers.weights(net).values()) == n - round(0.7 * n)
    assert len(rounds) == 12 and rounds[-1].gap < 0.1 * rounds[0].gap
    assert rounds[-1].accuracy == training.evaluate(net, TRAIN) >= direct
    assert rounds[0].weights_accuracy != rounds[0].accuracy
    assert 0 < max(r.moved for r in rounds) <= 1


def test_moved_counts_the_weights_that_were_zero_before():
    """A C step that keeps nothing, then everything: of what is kept in turn 2, all is new."""
    net = models.mlp((8, 12, 3))
    splitting = lc.Splitting(
        lambda v, mu: {n: w * (mu > 0.15) for n, w in v.items()}, [0.1, 0.2, 0.3]
    )
    rounds = lc.alternate(net, TRAIN, PLAN, splitting)
    assert [r.moved.item() for r in rounds] == [0, 1, 0]


def pruned(net, sparsity):
    copy = layers.copied(net)
    masks.apply(copy, allocate.globally(criteria.magnitude(net), sparsity))
    return copy


def test_a_large_mu_from_the_start_is_direct_compression_and_retraining():
    """θ keeps the support of the cut by magnitude: nothing ever moves."""
    net = models.mlp((8, 12, 3))
    training.fit(net, TRAIN, PLAN)
    support = {n: w != 0 for n, w in layers.weights(pruned(net, 0.7)).items()}
    splitting = lc.Splitting(lc.largest(0.7), lc.geometric(10.0, 1.01, turns=12), False)
    rounds = lc.alternate(net, TRAIN, PLAN, splitting)
    assert all(r.moved == 0 for r in rounds)
    assert all(torch.equal(w != 0, support[n]) for n, w in layers.weights(net).items())
    assert rounds[0].accuracy is None


def kmeans(w):
    centroids, nearest = sharing.kmeans(w.flatten(), 4)
    return centroids[nearest].view_as(w).to(w.dtype)


def low_rank(w):
    layer = nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight.data = w.clone()
    return decomposition.product(decomposition.svd(layer, 2)).detach()


def signs(w):
    values, scale = binary.binarize(w)
    return values * scale


PROJECTIONS = {
    "k-means": (kmeans, lambda w: len(w.unique()) <= 4),
    "low rank": (low_rank, lambda w: torch.linalg.matrix_rank(w, rtol=1e-4) <= 2),
    "binary": (signs, lambda w: len(w.abs().unique()) == 1),
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_the_courses_compressions_are_c_steps(name):
    project, holds = PROJECTIONS[name]
    net = models.mlp((8, 12, 3))
    training.fit(net, TRAIN, PLAN)
    before = training.mean_loss(net, TRAIN)
    direct = layers.copied(net)
    for weight in (direct.fc1.weight, direct.fc2.weight):
        weight.data = project(weight.data)
    splitting = lc.Splitting(lc.by_weight(project), lc.geometric(0.01, 2.0, turns=12))
    rounds = lc.alternate(net, TRAIN, PLAN, splitting)
    assert all(holds(w) for w in layers.weights(net).values())
    assert rounds[-1].gap < 0.1
    assert training.mean_loss(net, TRAIN) < training.mean_loss(direct, TRAIN)
    assert before < training.mean_loss(direct, TRAIN)


@pytest.mark.parametrize("multipliers", [False, True])
@pytest.mark.parametrize(
    "compress", [lc.largest(0.7), lc.l0(1e-3), lc.l1_ball(5.0)], ids=["largest", "l0", "ball"]
)
def test_members_of_a_stack_equal_networks_alone(compress, multipliers):
    nets = [models.mlp((8, 12, 3), seed=seed) for seed in range(3)]
    nets[2].fc1.weight.data *= 3  # a ranking over all members would spare it
    stack = ensemble.stack(nets)
    splitting = lc.Splitting(compress, lc.geometric(0.01, 2.0, turns=6), multipliers)
    found = [lc.alternate(net, TRAIN, PLAN, splitting, test=TRAIN) for net in (stack, *nets)]
    for k, net in enumerate(nets):
        for name, p in net.named_parameters():
            torch.testing.assert_close(stack.get_parameter(name)[k], p, rtol=1e-3, atol=1e-5)
        for together, alone in zip(found[0], found[k + 1], strict=True):
            torch.testing.assert_close(together.gap[k], alone.gap, rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(together.moved[k], alone.moved, rtol=0, atol=0.02)
            assert together.accuracy.shape == (3,)


def test_watching_changes_nothing_and_frozen_weights_stay():
    nets = [models.mlp((8, 12, 3)) for _ in range(2)]
    before = nets[0].fc1.weight.detach().clone()
    for net in nets:
        net.fc1.weight.requires_grad_(False)
    splitting = lc.Splitting(lc.largest(0.5), lc.geometric(0.01, 2.0, turns=6))
    lc.alternate(nets[0], TRAIN, PLAN, splitting, test=TRAIN)
    optimizer = training.sgd(nets[1])
    handle = lc.pull(optimizer, nets[1], splitting, every=24)
    training.fit(nets[1], TRAIN, epochs=24, batch_size=10, optimizer=optimizer)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(nets[0].fc1.weight, before)
    assert int(nets[0].fc2.weight.count_nonzero()) == 18
    handle.remove()


def test_bad_input():
    net = models.mlp((8, 12, 3))
    before = training.snapshot(net)
    good = lc.Splitting(lc.largest(0.5), [0.1, 0.2])
    for mus in ([], [0.0, 1.0], [-1.0], [float("nan")], [0.2, 0.1], [0.1, 0.1], [1.0, math.inf]):
        with pytest.raises(ValueError, match="mus must"):
            lc.alternate(net, TRAIN, PLAN, good._replace(mus=mus))
    with pytest.raises(TypeError, match="mus must be a number, got 'a'"):
        lc.alternate(net, TRAIN, PLAN, good._replace(mus=["a"]))
    with pytest.raises(ValueError, match="mus must be as many as divide the 144 steps"):
        lc.alternate(net, TRAIN, PLAN, good._replace(mus=lc.geometric(0.1, 2.0, turns=5)))
    with pytest.raises(ValueError, match="compress must return one tensor per name"):
        lc.alternate(net, TRAIN, PLAN, good._replace(compress=lambda v, mu: {}))
    with pytest.raises(TypeError, match="splitting must be a Splitting, got tuple"):
        lc.pull(training.sgd(net), net, tuple(good), every=1)
    with pytest.raises(ValueError, match="every must be a positive integer"):
        lc.pull(training.sgd(net), net, good, every=0)
    with pytest.raises(TypeError, match="optimizer must step once per dense gradient"):
        lc.pull(torch.optim.LBFGS(net.parameters()), net, good, every=1)
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="sparsity must be in"):
            lc.largest(wrong)
    for make in (lc.l0, lc.l1):
        for wrong in (-1.0, float("nan"), math.inf):
            with pytest.raises(ValueError, match="alpha must be finite and not negative"):
                make(wrong)
    for wrong in (0.0, -1.0, float("nan"), math.inf):
        with pytest.raises(ValueError, match="kappa must be"):
            lc.l1_ball(wrong)
    for compress in (lc.largest(0.5), lc.l0(1.0), lc.l1(1.0), lc.l1_ball(1.0)):
        with pytest.raises(ValueError, match="mu must be above 0, got 0"):
            compress({"a": torch.ones(2)}, 0.0)
    with pytest.raises(ValueError, match="NaN"):
        lc.largest(0.5)({"a": torch.tensor([1.0, float("nan")])}, 1.0)
    for first, factor, turns in ((0.0, 2.0, 3), (1.0, 1.0, 3), (1.0, 2.0, 0), (1.0, 2.0, 9999)):
        with pytest.raises(ValueError, match="first must|factor must|turns must"):
            lc.geometric(first, factor, turns=turns)
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())
