"""Widths: costs against the networks themselves, budgets and expectations against enumeration."""

import itertools
import math

import pytest
import torch
from torch import nn

from course_lib import measure, models
from course_lib.pruning import channels
from course_lib.search import widths


class Added(nn.Module):
    """h + b(h): one layer reads and makes channels of the same width."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.end = nn.Linear(64, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.a(x.flatten(1)).relu()
        return self.end((h + self.b(h)).relu())


NETS = {
    "added": Added,
    "mlp": lambda: models.mlp((64, 6, 5, 4, 10)),
    "vgg": lambda: models.vgg(size=8, width=0.25),
    "resnet": lambda: models.resnet(size=8, width=0.25),
    "inception": lambda: models.inception(size=8, width=0.5),
    "mobilenet": lambda: models.mobilenet(size=8, width=0.25),
}
X = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETS)
def test_the_cost_is_that_of_the_network_with_these_widths(name):
    model = NETS[name]()
    graph = channels.trace(model, X)
    generator = torch.Generator().manual_seed(1)
    assert widths.macs(model, graph, {}) == measure.macs(model, X)
    for _ in range(4):
        some = {
            layer: int(torch.randint(1, len(ids) + 1, (), generator=generator))
            for layer, ids in graph.layers().items()
            if torch.rand((), generator=generator) < 0.8
        }
        small = channels.remove(model, graph, widths.tail(graph, some))
        assert widths.macs(model, graph, some) == measure.macs(small, X)
        for layer, n in some.items():
            assert len(small.get_submodule(layer).weight) == n


def three():
    model = models.mlp((64, 6, 5, 4, 10))
    return model, channels.trace(model, X)


def test_affordable_by_brute_force(monkeypatch):
    """The largest width for which some completion meets the budget, for every prefix."""
    monkeypatch.setattr(widths, "LEAST", 0.3)
    model, graph = three()
    sizes = {"fc1": 6, "fc2": 5, "fc3": 4}
    least = {name: math.ceil(0.3 * n) for name, n in sizes.items()}
    spans = {name: range(least[name], n + 1) for name, n in sizes.items()}
    cost = {w: widths.macs(model, graph, dict(zip(sizes, w))) for w in itertools.product(*spans.values())}  # fmt: skip
    refused = 0
    for budget, share in itertools.product((150, 200, 260, 300, 487), (0.2, 0.5, 0.8, 1.0)):
        for n_decided in range(3):
            for prefix in itertools.product(*[spans[n] for n in list(sizes)[:n_decided]]):
                layer = list(sizes)[n_decided]
                wanted = max(least[layer], round(share * sizes[layer]))
                fits = [w[n_decided] for w, c in cost.items()
                        if c <= budget and w[:n_decided] == prefix and w[n_decided] <= wanted]  # fmt: skip
                arguments = (model, graph, dict(zip(sizes, prefix)), layer, share)
                if fits:
                    assert widths.affordable(*arguments, budget=budget) == max(fits)
                else:
                    refused += 1
                    with pytest.raises(ValueError, match="budget must be at least"):
                        widths.affordable(*arguments, budget=budget)
    assert refused > 5


def test_every_episode_ends_within_its_budget():
    model = NETS["resnet"]()
    graph = channels.trace(model, X)
    generator, budget = torch.Generator().manual_seed(0), int(0.3 * measure.macs(model, X))
    for order in ([*graph.layers()], [*graph.layers()][::-1]):
        for _ in range(3):
            kept = {}
            for layer in order:
                share = 0.5 + 0.5 * float(torch.rand((), generator=generator))
                kept[layer] = widths.affordable(model, graph, kept, layer, share, budget=budget)
            assert widths.macs(model, graph, kept) <= budget


def test_the_refusal_names_the_cheapest_network():
    model, graph = three()
    cheapest = widths.macs(model, graph, {"fc1": 1, "fc2": 1, "fc3": 1})
    widths.affordable(model, graph, {}, "fc1", 1.0, budget=cheapest)
    with pytest.raises(
        ValueError, match=f"budget must be at least {cheapest}, .* got {cheapest - 1}"
    ):
        widths.affordable(model, graph, {}, "fc1", 1.0, budget=cheapest - 1)


def test_the_state_of_a_layer_by_hand():
    """small_cnn, 8×8: conv1 1 -> 16 of 8×8, conv2 16 -> 32 of 4×4, fc 128 -> 10."""
    model = models.small_cnn(size=8)
    graph = channels.trace(model, X)
    first, second, last = 64 * 9 * 16, 16 * 9 * 16 * 32, 1280
    total = first + second + last
    one = widths.layer_state(model, graph, {}, "conv1", X, last=1.0)
    two = widths.layer_state(model, graph, {"conv1": 4}, "conv2", X, last=0.25)
    saved = 12 * 9 * (64 + 16 * 32)
    # t, n, c, h, w, stride, k, cost, saved, to come, last action
    wanted = [0, 0, 0, 1, 1, 0, 0, 0, 0, (second + last) / total, 1]
    torch.testing.assert_close(one, torch.tensor(wanted))
    wanted = [1, 1, 1, 0, 0, 0, 0, 1, saved / total, last / total, 0.25]
    torch.testing.assert_close(two, torch.tensor(wanted))
    resnet = models.resnet(size=8)  # strides, kernels and sizes differ
    states = torch.stack([
        widths.layer_state(resnet, channels.trace(resnet, X), {}, name, X, last=0.5)
        for name in channels.trace(resnet, X).layers()
    ])  # fmt: skip
    assert states.min() == 0 and states.max() == 1 and states.shape == (4, 11)
    assert states[:, 5].tolist() == [0, 0, 1, 0]  # block2.first has stride 2


def test_rewards():
    assert widths.accuracy_reward(0.1) == -0.1
    assert widths.flops_reward(0.1, 1000) == pytest.approx(-0.1 * math.log(1000))
    assert widths.flops_reward(0.1, 500) > widths.flops_reward(0.1, 1000)
    for flops in (1.0, 0.5, 0, -3, math.nan):
        with pytest.raises(ValueError, match="flops must be"):
            widths.flops_reward(0.1, flops)
    for error in (-0.1, math.nan):
        for reward in (widths.accuracy_reward, lambda e: widths.flops_reward(e, 100)):
            with pytest.raises(ValueError, match="error must"):
                reward(error)
    with pytest.raises(TypeError, match="error must be a number"):
        widths.accuracy_reward("little")


# ---- pieces of a search by gradient

ALPHA = torch.tensor([0.3, -0.5, 1.2, 0.1])


def picked(tau, n=4000, alpha=ALPHA):
    return widths.pick_two(alpha.expand(n, -1), tau, generator=torch.Generator().manual_seed(0))


def chi_squared(index, share):
    counts = torch.bincount(index, minlength=len(share)).double()
    return float(((counts - len(index) * share) ** 2 / (len(index) * share)).sum())


def test_cold_noise_draws_from_the_softmax():
    """Gumbel-max. Three degrees of freedom stay below 31 but for one set of numbers in a million."""
    index, weight = picked(1e-3)
    assert chi_squared(index[:, 0], ALPHA.softmax(0).double()) < 31
    assert (weight[:, 0] > 0.99).float().mean() > 0.98
    two, _ = picked(1e-3, alpha=ALPHA[:2])
    share = torch.stack([(ALPHA[0] - ALPHA[1]).sigmoid(), (ALPHA[1] - ALPHA[0]).sigmoid()])
    assert chi_squared(two[:, 0], share.double()) < 31


def test_hot_noise_draws_any_pair_alike():
    index, weight = picked(1e4)
    assert chi_squared(index.flatten(), torch.full((4,), 0.25).double()) < 31
    assert (index[:, 0] != index[:, 1]).all()
    assert (weight - 0.5).abs().max() < 1e-3


def test_weights_are_a_softmax_of_the_pair_with_a_gradient():
    """With the noise of the same generator: the pair's share of the whole softmax."""
    alpha, tau = ALPHA.clone().requires_grad_(), 0.7
    index, weight = widths.pick_two(alpha, tau, generator=torch.Generator().manual_seed(5))
    waits = torch.empty(4).exponential_(generator=torch.Generator().manual_seed(5))
    whole = ((ALPHA.log_softmax(0) - waits.log()) / tau).softmax(0)[index]
    torch.testing.assert_close(weight.detach(), whole / whole.sum())
    (slope,) = torch.autograd.grad(weight[0], alpha)
    wanted = torch.zeros(4)
    wanted[index] = torch.tensor([1.0, -1.0]) * (weight[0] * weight[1]).item() / tau
    torch.testing.assert_close(slope, wanted)


@pytest.mark.parametrize("shape", [(2, 7), (2, 7, 5), (1, 3, 4, 6)])
@pytest.mark.parametrize("channels", [1, 3, 7, 10])
def test_align_by_a_loop(shape, channels):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    c = shape[1]
    found = widths.align(x, channels)
    for i in range(channels):
        start, end = math.floor(i * c / channels), math.ceil((i + 1) * c / channels)
        torch.testing.assert_close(found[:, i], x[:, start:end].mean(1))
    assert found.shape == (shape[0], channels, *shape[2:])
    if channels == c:
        assert torch.equal(found, x)
    torch.testing.assert_close(widths.align(torch.ones(shape), channels), torch.ones_like(found))


@pytest.mark.parametrize("name", NETS)
def test_the_expected_cost_by_enumeration(name):
    """Over all architectures; in one network a layer reads and makes the same width."""
    model = NETS[name]()
    graph = channels.trace(model, X)
    generator = torch.Generator().manual_seed(2)
    searched = dict(itertools.islice(reversed(graph.layers().items()), 4))
    candidates = {n: sorted({1, max(2, len(ids) // 2), len(ids)}) for n, ids in searched.items()}
    logits = {n: torch.randn(len(c), generator=generator) for n, c in candidates.items()}
    wanted = 0.0
    for choice in itertools.product(*[range(len(c)) for c in candidates.values()]):
        picked = dict(zip(candidates, choice, strict=True))
        p = math.prod(float(logits[n].double().softmax(0)[k]) for n, k in picked.items())
        wanted += p * widths.macs(model, graph, {n: candidates[n][k] for n, k in picked.items()})
    found = widths.expected_macs(model, graph, logits, candidates)
    assert float(found) == pytest.approx(wanted, rel=1e-12)


def test_the_cost_has_a_gradient_towards_small_widths():
    model, graph = three()
    alpha = torch.zeros(3, requires_grad=True)
    widths.expected_macs(model, graph, {"fc2": alpha}, {"fc2": [1, 3, 5]}).backward()
    assert alpha.grad.tolist() == sorted(alpha.grad.tolist()) and alpha.grad[0] < 0 < alpha.grad[2]


@pytest.mark.parametrize(
    ("actual", "sign"), [(150, 1), (105.1, 1), (105, 0), (100, 0), (95, 0), (94.9, -1), (20, -1)]
)
def test_the_three_cases(actual, sign):
    expected = torch.tensor(110.0, requires_grad=True)
    loss = widths.cost_loss(expected, actual, 100)
    assert loss.item() == pytest.approx(sign * math.log(110))
    loss.backward()
    assert float(expected.grad) == pytest.approx(sign / 110)


def halves():
    """Sums of concatenations: one layer makes only some of the ids of another."""

    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(1, n, 1) for n in (4, 6, 10))
            self.end = nn.Conv2d(10, 3, 1)
            self.d, self.e = nn.Conv2d(1, 6, 1), nn.Conv2d(1, 4, 1)

        def forward(self, x):
            sides = torch.cat([self.a(x), self.b(x)], 1) + torch.cat([self.d(x), self.e(x)], 1)
            return self.end(sides + self.c(x)).mean((2, 3))

    return Halves()


def test_what_is_no_width():
    model, graph = three()
    two = {"fc1": torch.zeros(2)}
    for bad, words in (
        (lambda: widths.tail(graph, {"fc4": 1}), "widths must name layers of .*'fc1'.* got 'fc4'"),
        (lambda: widths.tail(graph, {"fc1": 0}), r"widths\['fc1'\] must be an integer from 1 to 6"),
        (lambda: widths.macs(model, graph, {"fc1": 7}), r"from 1 to 6, got 7"),
        (lambda: widths.affordable(model, graph, {"fc9": 1}, "fc1", 0.5, budget=300), "kept must"),
        (lambda: widths.affordable(model, graph, {}, "fc4", 0.5, budget=300), "layer must be one"),
        (lambda: widths.affordable(model, graph, {"fc1": 2}, "fc1", 0.5, budget=300), "decided"),
        (lambda: widths.affordable(model, graph, {}, "fc1", 0.0, budget=300), "share must be"),
        (lambda: widths.affordable(model, graph, {}, "fc1", 1.5, budget=300), "share must be"),
        (lambda: widths.affordable(model, graph, {}, "fc1", 0.5, budget=0), "budget must be"),
        (lambda: widths.layer_state(model, graph, {}, "fc1", X, last=1.5), "last must be"),
        (lambda: widths.layer_state(model, graph, {}, "fc1", X[..., :3], last=1), "x must fit"),
        (lambda: widths.expected_macs(model, graph, two, {"fc2": [1, 2]}), "candidates must name"),
        (lambda: widths.expected_macs(model, graph, two, {"fc1": [2, 1]}), "must ascend"),
        (lambda: widths.expected_macs(model, graph, two, {"fc1": [2]}), "must ascend and be two"),
        (lambda: widths.expected_macs(model, graph, two, {"fc1": [2, 7]}), "candidates.*from 1 to 6"),
        (lambda: widths.expected_macs(model, graph, two, {"fc1": [1, 2, 3]}), r"logits\['fc1'\] must"),
        (lambda: widths.expected_macs(model, graph, {"fc1": two["fc1"] / 0}, {"fc1": [1, 2]}), "finite"),
        (lambda: picked(0.0), "tau must be positive"),
        (lambda: picked(1.0, alpha=ALPHA[:1]), r"logits must be \(…, at least 2\)"),
        (lambda: widths.align(torch.ones(3), 2), "x must be"),
        (lambda: widths.align(torch.ones(3, 2), 0), "channels must be"),
        (lambda: widths.cost_loss(torch.tensor(0.5), 10, 10), "expected must be above 1"),
        (lambda: widths.cost_loss(torch.tensor(5.0), 1, 10), "actual must be above 1"),
        (lambda: widths.cost_loss(torch.tensor(5.0), 10, 0.2), "target must be above 1"),
        (lambda: widths.cost_loss(torch.tensor(5.0), 10, 10, tolerance=1.0), "tolerance must be"),
        (lambda: widths.cost_loss(torch.ones(2) * 5, 10, 10), "expected must be a scalar"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            bad()
    mixed = halves()
    graph = channels.trace(mixed, X)
    alone = {"b": torch.zeros(2)}
    with pytest.raises(ValueError, match="graph must use the channels of 'b' all or not at all"):
        widths.expected_macs(mixed, graph, alone, {"b": [1, 3]})
