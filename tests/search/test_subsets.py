"""Searches over sets: enumeration, brute force, and the same number of looks for everyone."""

import itertools
import math

import pytest
import torch
from torch import nn

from course_lib import data, models, training
from course_lib.pruning import channels
from course_lib.search import subsets

TABLE = torch.tensor(
    [0.3, -1.0, 2.0, 0.7, -0.4, 1.1, 0.2, 0.9]
).double()  # a reward per mask of 3 ids
LOGITS = torch.tensor([0.4, -0.8, 1.3]).double()
MASKS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).double()


def probability_of(masks, logits):
    p = logits.sigmoid()
    return torch.where(masks == 1, p, 1 - p).prod(-1)


def expected_reward(logits):
    return (probability_of(MASKS, logits) * TABLE).sum()


def every_draw(m):
    """All 8^M joint samples, with their probabilities and rewards."""
    for rows in itertools.product(range(8), repeat=m):
        rows = torch.tensor(rows)
        yield MASKS[rows], TABLE[rows], probability_of(MASKS[rows], LOGITS).prod()


@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_policy_gradient_is_exact_on_average(m):
    p = LOGITS.sigmoid()
    exact = (probability_of(MASKS, LOGITS) * TABLE) @ (MASKS - p)
    step = 1e-5 * torch.eye(3).double()
    differences = [(expected_reward(LOGITS + s) - expected_reward(LOGITS - s)) / 2e-5 for s in step]
    torch.testing.assert_close(exact, torch.stack(differences), rtol=0, atol=1e-8)
    mean = sum(q * subsets.policy_gradient(kept, r, p) for kept, r, q in every_draw(m))
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-12)
    # The mean of all M as the baseline shrinks it by 1 - 1/M.
    shrunk = sum(q * ((r - r.mean()) @ (kept - p)) / m for kept, r, q in every_draw(m))
    torch.testing.assert_close(shrunk, (1 - 1 / m) * exact, rtol=0, atol=1e-12)


def test_the_variance_does_not_depend_on_a_constant():
    p = LOGITS.sigmoid()

    def variance(offset, m):
        found = [(subsets.policy_gradient(k, r + offset, p), q) for k, r, q in every_draw(m)]
        mean = sum(q * g for g, q in found)
        return float(sum(q * (g - mean).square().sum() for g, q in found))

    assert variance(5.0, 2) == pytest.approx(variance(0.0, 2))
    assert variance(5.0, 1) > 4 * variance(0.0, 1)  # without a baseline it does


def test_what_is_no_sample_of_a_policy():
    p = torch.rand(3)
    for kept, rewards in ((torch.ones(2, 4), torch.ones(2)), (torch.ones(2, 3), torch.ones(3)),
                          (torch.ones(0, 3), torch.ones(0)), (torch.ones(3), torch.ones(()))):  # fmt: skip
        with pytest.raises(ValueError, match="kept must be"):
            subsets.policy_gradient(kept, rewards, p)


# ---- resampling


def copies(weights, u):
    return torch.bincount(subsets.systematic(weights, u=u), minlength=len(weights))


def test_systematic_takes_the_floor_or_the_ceiling():
    generator = torch.Generator().manual_seed(0)
    for n in (2, 3, 7, 20, 101):
        for _ in range(50):
            weights = torch.rand(n, generator=generator).double() ** 4
            weights[torch.rand(n, generator=generator) < 0.2] = 0
            weights[0] += 0.01
            share = n * weights / weights.sum()
            found = copies(weights, float(torch.rand((), generator=generator)))
            assert found.sum() == n
            assert ((found >= (share - 1e-9).floor()) & (found <= (share + 1e-9).ceil())).all()
            assert (found[weights == 0] == 0).all()


def test_systematic_is_right_on_average():
    """Between the breakpoints nothing changes, so the mean over u is a finite sum."""
    weights = torch.tensor([0.1, 2.0, 0.0, 0.35, 0.8]).double()
    share = 5 * weights / weights.sum()
    cuts = torch.cat([torch.tensor([0.0, 1.0]), share.cumsum(0) % 1]).double().sort().values
    mean = sum((b - a) * copies(weights, float((a + b) / 2)) for a, b in itertools.pairwise(cuts))
    torch.testing.assert_close(mean, share)


def test_systematic_at_its_ends():
    for u in (0.0, 0.5, 1 - 1e-9):
        assert copies(torch.ones(7), u).tolist() == [1] * 7
        assert copies(torch.tensor([0.0, 3.0, 0.0]), u).tolist() == [0, 3, 0]
    for bad, match in (([0.0, 0.0], "nor all be zero"), ([1.0, -1.0], "negative"),
                       ([math.nan, 1.0], "finite"), ([], r"must be \(n,\)")):  # fmt: skip
        with pytest.raises(ValueError, match=f"weights must.*{match}|weights {match}"):
            subsets.systematic(torch.tensor(bad), u=0.5)
    for u in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="u must be"):
            subsets.systematic(torch.ones(3), u=u)
    with pytest.raises(TypeError, match="weights must be a tensor"):
        subsets.systematic([1.0], u=0.5)


def test_resampling_alone_reaches_the_posterior():
    """After t rounds without changes: the prior times the likelihood to the power of t."""
    prior, likelihood, n = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.9]), 10_000
    states = torch.repeat_interleave(torch.arange(3), (prior * n).long())
    for t in range(1, 5):
        states = states[subsets.systematic(likelihood[states].double(), u=0.37)]
        wanted = prior * likelihood**t
        found = torch.bincount(states, minlength=3) / n
        # One round is off by less than 2/n per state, and the ratio of likelihoods carries it on.
        assert (found - wanted / wanted.sum()).abs().max() < 1e-2 * t / 4


# ---- the searches

ALIKE = {
    "random": subsets.random_subsets,
    "cross-entropy": subsets.cross_entropy,
    "particles": subsets.particles,
    "reinforce": lambda *args, **kw: subsets.reinforce(*args, rate=2.0, **kw),
}
IDS = [3, 5, 6, 10, 11, 12, 20, 21]
WORTH = dict(zip(IDS, [0.5, -0.2, 0.9, -0.7, 0.1, 0.3, -0.05, 0.6], strict=True))
BEST = frozenset(i for i, w in WORTH.items() if w < 0)


def additive(dead):
    return -sum(WORTH[i] for i in dead)


def visited(search, objective=additive, ids=IDS, **options):
    sets = []

    def noting(dead):
        sets.append(dead)
        return objective(dead)

    return search(ids, noting, **options), sets


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("evaluations", [1, 19, 20, 21, 104])
def test_every_search_looks_as_often_as_it_may(name, evaluations):
    found, sets = visited(ALIKE[name], evaluations=evaluations, seed=1)
    assert len(sets) == len(found.curve) == evaluations
    rewards = [additive(dead) for dead in sets]
    assert found.curve == list(itertools.accumulate(rewards, max))
    assert found.value == max(rewards)
    assert found.dead == sets[rewards.index(max(rewards))]  # the first of equals
    assert all(dead < set(IDS) for dead in sets)  # never all of them
    again, same = visited(ALIKE[name], ids=IDS[::-1], evaluations=evaluations, seed=1)
    assert again == found and same == sets
    if evaluations > 1:
        assert visited(ALIKE[name], evaluations=evaluations, seed=2)[1] != sets


@pytest.mark.parametrize("name", ["cross-entropy", "particles", "reinforce"])
def test_searches_move_to_where_the_reward_is(name):
    """The sets of the last rounds are far better than the first ones, for each of five seeds."""
    for seed in range(5):
        found, sets = visited(ALIKE[name], evaluations=600, seed=seed)
        first, last = ([additive(dead) for dead in part] for part in (sets[:50], sets[-100:]))
        assert sum(last) / len(last) > sum(first) / len(first) + 0.3
        assert found.value > additive(BEST) - 0.11


@pytest.mark.parametrize("name", ALIKE)
def test_where_nothing_is_worth_keeping_one_id_stays(name):
    found, sets = visited(ALIKE[name], len, evaluations=300, seed=0)
    assert len(found.dead) == 7 and all(len(dead) < 8 for dead in sets)


def test_an_agent_in_the_desert_learns_nothing():
    """Where every reward is zero no logit moves: the draws stay those of the start."""
    _, desert = visited(subsets.reinforce, lambda dead: 0.0, evaluations=400, rate=20.0,
                        keep=0.5, seed=3)  # fmt: skip
    _, still = visited(subsets.reinforce, evaluations=400, rate=1e-300, keep=0.5, seed=3)
    assert desert == still
    kept = sum(8 - len(dead) for dead in desert) / (8 * 400)
    assert abs(kept - 0.5) < 5 * 0.5 / (8 * 400) ** 0.5  # beyond it once in a million


def test_sizes_of_random_sets_are_uniform():
    """Chi-squared with 7 degrees of freedom stays below 35 but for one set of numbers in 90,000."""
    _, sets = visited(subsets.random_subsets, evaluations=4000, seed=0)
    counts = torch.tensor([sum(len(dead) == k for dead in sets) for k in range(8)]).double()
    assert float(((counts - 500) ** 2 / 500).sum()) < 35
    alone = torch.tensor([sum(8 - len(d) == 1 and i not in d for d in sets) for i in IDS]).double()
    assert float(((alone - alone.mean()) ** 2 / alone.mean()).sum()) < 35


def test_weights_of_particles_are_exponential(monkeypatch):
    weights = []

    def copy_all(w, *, u):
        weights.append(w)
        return torch.arange(len(w))

    monkeypatch.setattr(subsets, "systematic", copy_all)
    _, sets = visited(subsets.particles, n=50, sharpness=2.5, evaluations=150, seed=0)
    for round, found in enumerate(weights):
        wanted = torch.tensor([2.5 * additive(d) for d in sets[50 * round : 50 * round + 50]])
        torch.testing.assert_close(found / found.sum(), wanted.double().softmax(0))
    changed = [len(a ^ b) for a, b in zip(sets[:100], sets[50:], strict=True)]
    # One flip per particle on average: 800 coins of 1/8. Five deviations are 0.47.
    assert abs(sum(changed) / 100 - 1) < 0.47


# ---- greedy


def greedy_by_hand(ids, objective):
    dead, best = set(), (objective(frozenset()), frozenset())
    while len(dead) < len(ids) - 1:
        tries = [(objective(frozenset(dead | {i})), -i) for i in ids if i not in dead]
        reward, i = max(tries)
        dead.add(-i)
        best = max(best, (reward, frozenset(dead)), key=lambda pair: pair[0])
    return best


def test_greedy_is_what_it_says():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        table = {}

        def objective(dead, table=table):
            if dead not in table:
                table[dead] = float(torch.randint(0, 5, (), generator=generator))
            return table[dead]

        found = subsets.backward_greedy(IDS, objective)
        assert len(found.curve) == 36
        value, dead = greedy_by_hand(IDS, objective)
        assert (found.value, found.dead) == (value, dead)
    assert subsets.backward_greedy(IDS, additive).dead == BEST
    assert subsets.backward_greedy([4], lambda dead: 1.5) == (frozenset(), 1.5, [1.5])


# ---- the reward


def test_the_drop_bound():
    reward = subsets.drop_bound
    assert reward(96, 98, 4, 16, bound=2) == 0 == reward(98, 98, 16, 16, bound=2)
    assert reward(95, 98, 4, 16, bound=2) == pytest.approx(-0.5 * math.log(4))
    assert reward(99, 98, 4, 16, bound=2) == pytest.approx(1.5 * math.log(4))
    assert reward(0.97, 0.98, 8, 16, bound=0.02) == pytest.approx(reward(97, 98, 8, 16, bound=2))


@pytest.mark.parametrize(
    ("arguments", "bound", "words"),
    [
        ((97, 98, 8, 16), 0, "bound must be positive"),
        ((97, 98, 8, 16), -2, "bound must be positive"),
        ((0.97, 0.98, 8, 16), 2, "bound must be in the unit .* look like fractions, got 2"),
        ((97, 98, 8, 16), 0.02, "bound must be in the unit .* look like percent, got 0.02"),
        ((97, 98, 0, 16), 2, "kept must be a positive integer, got 0"),
        ((97, 98, 17, 16), 2, "kept must be at most total, 16, got 17"),
        ((math.nan, 98, 8, 16), 2, "accuracy must be finite"),
        ((97, math.inf, 8, 16), 2, "before must be finite"),
    ],
)
def test_rewards_that_mean_nothing(arguments, bound, words):
    with pytest.raises(ValueError, match=words):
        subsets.drop_bound(*arguments, bound=bound)


def test_what_no_search_takes():
    searches = {
        **{name: lambda f, i, s=s: s(i, f, evaluations=30, seed=0) for name, s in ALIKE.items()},
        "greedy": lambda f, i: subsets.backward_greedy(i, f),
    }
    for search in searches.values():
        with pytest.raises(ValueError, match=r"objective of \[.*\] must be finite, got nan"):
            search(lambda dead: math.nan, IDS)
        with pytest.raises(ValueError, match=r"objective of \[.*\] must be finite, got -inf"):
            search(lambda dead: -math.inf, IDS)
        with pytest.raises(TypeError, match=r"objective of \[.*\] must be a number, got None"):
            search(lambda dead: None, IDS)
        with pytest.raises(TypeError, match=r"objective of \[.*\] must be a number, got tensor"):
            search(lambda dead: torch.ones(2), IDS)
        with pytest.raises(TypeError, match="objective must be a function"):
            search(1.0, IDS)
        with pytest.raises(ValueError, match="ids must be at least one, and each one once"):
            search(additive, [])
        with pytest.raises(ValueError, match="each one once"):
            search(additive, [3, 3])
        with pytest.raises(TypeError, match="ids must be a collection of integers"):
            search(additive, [0.5])
        assert search(lambda dead: torch.tensor(1.0), IDS).value == 1.0
    options = {"evaluations": 10, "seed": 0}
    for search, bad, words in (
        (subsets.random_subsets, {"evaluations": 0}, "evaluations must be a positive integer"),
        (subsets.cross_entropy, {"elites": 21}, "elites must be at most samples, 20"),
        (subsets.cross_entropy, {"samples": 0}, "samples must be a positive integer"),
        (subsets.particles, {"n": 1}, "n must be at least 2"),
        (subsets.particles, {"sharpness": 0.0}, "sharpness must be positive"),
        (subsets.reinforce, {"rate": -1.0}, "rate must be positive"),
        (subsets.reinforce, {"rate": 1.0, "keep": 1.0}, r"keep must be in \(0, 1\)"),
    ):
        with pytest.raises(ValueError, match=words):
            search(IDS, additive, **(options | bad))


# ---- every subset of a layer


def trained():
    train, test = data.load("digits", n_train=600, n_test=300)
    net = models.small_cnn(size=8, width=0.25, seed=0)
    training.fit(net, train, epochs=12)
    return net, data.Split(test.x, test.y)


@pytest.fixture(scope="module")
def net_and_valid():
    return trained()


def test_every_subset_is_measured_as_if_it_were_silenced(net_and_valid):
    net, valid = net_and_valid
    graph = channels.trace(net, valid.x[:1])
    ids = graph.layers()["conv2"]
    table = subsets.every_subset(net, graph, "conv2", valid)
    assert table.shape == (256,) and table.max() > 80
    before = {name: t.clone() for name, t in net.state_dict().items()}
    for number in range(1, 256):
        dead = {i for k, i in enumerate(ids) if not number >> k & 1}
        quiet = channels.silence(net, graph, dead)
        # The sums are in another order, so that one image of 300 may lie on the other side.
        assert (
            abs(float(training.evaluate(quiet, valid)) - float(table[number])) <= 100 / 300 + 1e-3
        )
    assert all(torch.equal(t, net.state_dict()[name]) for name, t in before.items())
    nothing = net.fc.bias.argmax()
    assert float(table[0]) == pytest.approx(100 * float((valid.y == nothing).float().mean()))


def test_ties_go_to_the_first_class(net_and_valid):
    """Without a bias, all logits of the network that keeps nothing are equal."""
    net, valid = trained()
    net.fc.bias = None
    graph = channels.trace(net, valid.x[:1])
    table = subsets.every_subset(net, graph, "conv2", valid)
    assert float(table[0]) == pytest.approx(100 * float((valid.y == 0).float().mean()))
    assert float(table[255]) == pytest.approx(float(training.evaluate(net, valid)))


def test_layers_without_a_table(net_and_valid):
    net, valid = net_and_valid
    graph = channels.trace(net, valid.x[:1])
    for layer, words in (("fc", "layer must be one of"), ("conv1", "'conv1' is read by 'conv2'")):
        with pytest.raises(ValueError, match=words):
            subsets.every_subset(net, graph, layer, valid)
    wide = models.mlp((64, 21, 10))
    with pytest.raises(ValueError, match="at most 20 ids.*'fc1' has 21"):
        subsets.every_subset(wide, channels.trace(wide, valid.x), "fc1", valid)
    ends = nn.Sequential(*models.mlp((64, 4, 10)), nn.ReLU())
    with pytest.raises(ValueError, match="linear layer that makes the output"):
        subsets.every_subset(ends, channels.trace(ends, valid.x), "1", valid)
    branches = models.inception(size=8, width=0.3)
    with pytest.raises(ValueError, match="'stem.0' is read by \\["):
        subsets.every_subset(branches, channels.trace(branches, valid.x), "stem.0", valid)
    for bad, kind, words in (
        (data.Split(valid.x[:0], valid.y[:0]), ValueError, "valid must"),
        (data.Split(valid.x / 0, valid.y), ValueError, "valid must be finite"),
        (data.Split(valid.x, valid.y[:5]), ValueError, "one label per image"),
        (valid.x, TypeError, "valid must be a pair"),
    ):
        with pytest.raises(kind, match=words):
            subsets.every_subset(net, graph, "conv2", bad)
