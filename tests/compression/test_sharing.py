"""Sharing against scikit-learn and exact k-means, held weights against autograd's centroids."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import nn
from torch.nn.utils import parametrizations, prune

from course_lib import ensemble, models, parametrized, training
from course_lib.compression import sharing
from course_lib.data import Split
from course_lib.pruning import allocate, criteria, masks

QUIET = settings(deadline=None, max_examples=100, database=None, derandomize=True)


def numbers(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()


def bits_of(model):
    """Every tensor of a model as bytes: equal only if bit-identical."""
    tensors = model.state_dict().values()
    return [t.detach().reshape(-1).view(torch.uint8).tolist() for t in tensors]


def compressed(sizes=(6, 5, 3), *, sparsity=0.5, bits=2, seed=0):
    net = models.mlp(sizes, seed=seed)
    masks.apply(net, allocate.globally(criteria.magnitude(net), sparsity))
    sharing.apply(net, sharing.clusters(net, bits))
    return net


@pytest.mark.parametrize(("n", "k", "seed"), [(200, 3, 0), (500, 7, 1), (1000, 15, 2), (50, 2, 3)])
def test_kmeans_is_scikit_learns(n, k, seed):
    values = numbers(n, seed)
    centroids, nearest = sharing.kmeans(values, k)
    start = torch.linspace(float(values.min()), float(values.max()), k).double()
    theirs = KMeans(
        k, init=start[:, None].numpy(), n_init=1, max_iter=1000, tol=0, algorithm="lloyd"
    )
    theirs.fit(values[:, None].numpy())
    np.testing.assert_allclose(centroids, theirs.cluster_centers_[:, 0], atol=1e-12)
    assert nearest.tolist() == theirs.labels_.tolist()


def optimum(values, k):
    """The least within-cluster sum of squares: clusters of sorted numbers are runs, so try all."""
    values = sorted(values)

    def spread(run):
        mean = sum(run) / len(run)
        return sum((v - mean) ** 2 for v in run)

    return min(
        sum(spread(values[i:j]) for i, j in itertools.pairwise((0, *cuts, len(values))))
        for cuts in itertools.combinations(range(1, len(values)), k - 1)
    )


def test_kmeans_never_beats_the_optimum_and_mostly_reaches_it():
    reached = 0
    for seed in range(40):
        values = numbers(9, seed)
        centroids, nearest = sharing.kmeans(values, 3)
        found = float((values - centroids[nearest]).square().sum())
        best = optimum(values.tolist(), 3)
        assert found >= best - 1e-12
        reached += found <= best + 1e-12
    assert reached >= 20  # Lloyd's minimum is local; deterministic numbers, no error rate


def test_a_number_between_two_centroids_belongs_to_the_lower():
    centroids, nearest = sharing.kmeans(torch.tensor([2.0, 1.0, 0.0]), 2)  # starts from 0 and 2
    assert centroids.tolist() == [0.5, 2.0]
    assert nearest.tolist() == [1, 0, 0]


@QUIET
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(1, 8))
def test_kmeans_ends_with_means_of_the_nearest(values, k):
    values = torch.tensor(values, dtype=torch.double)
    centroids, nearest = sharing.kmeans(values, k)
    assert (centroids.diff() >= -1e-9 * values.abs().max()).all()  # a mean may round past its value
    distance = (values[:, None] - centroids).abs()
    assert torch.allclose(distance.gather(1, nearest[:, None])[:, 0], distance.min(1).values)
    for i in nearest.unique():
        assert torch.isclose(values[nearest == i].mean(), centroids[i], rtol=1e-9, atol=1e-9)


def test_the_papers_example():
    """Figure 3: 16 weights, 4 clusters, one step of the summed gradients at rate 1."""
    weight = torch.tensor([
        [2.09, -0.98, 1.48, 0.09],
        [0.05, -0.14, -1.08, 2.12],
        [-0.91, 1.92, 0, -1.03],
        [1.87, 0, 1.53, 1.49],
    ])  # fmt: skip
    gradient = torch.tensor([
        [-0.03, -0.01, 0.03, 0.02],
        [-0.01, 0.01, -0.02, 0.12],
        [-0.01, 0.02, 0.04, 0.01],
        [-0.07, -0.02, 0.01, -0.02],
    ])  # fmt: skip
    centroids, nearest = sharing.kmeans(weight.flatten(), 4)
    assert [round(float(c), 2) for c in centroids] == [-1.0, 0.0, 1.5, 2.0]
    net = nn.Linear(4, 4, bias=False)
    net.weight.data.copy_(weight)
    optimizer = torch.optim.SGD(net.parameters(), lr=1)
    with sharing.hold(optimizer, net, {"weight": nearest.view(4, 4)}):
        net.weight.grad = gradient
        optimizer.step()
    # the paper's fine-tuned centroids are 1.96, 1.48, −0.04 and −0.97
    expected = torch.tensor([-0.97, -0.04, 1.48, 1.96])[nearest.view(4, 4)]
    assert torch.allclose(net.weight, expected, atol=0.0051)


def test_clusters_leave_zeros_out_and_the_model_alone():
    net = models.mlp((8, 6, 3))
    masks.apply(net, allocate.globally(criteria.magnitude(net), 0.6))
    before = bits_of(net)
    found = sharing.clusters(net, 3)
    assert bits_of(net) == before
    assert list(found) == ["fc1.weight", "fc2.weight"]
    for name, index in found.items():
        weight = net.get_parameter(name)
        assert torch.equal(index < 0, weight == 0)
        assert index.max() < 7  # the eighth code is the zero
        nearest = sharing.kmeans(weight[weight != 0], 7)[1].tolist()
        expected = [sorted(set(nearest)).index(k) for k in nearest]  # numbered without gaps
        assert index[weight != 0].tolist() == expected
    sharing.apply(net, found)
    for name, index in found.items():
        assert len(net.get_parameter(name).unique()) == len(index.unique())
    assert "fc1.bias" in sharing.clusters(net, {"fc1.bias": 2})


def test_apply_sets_means_and_zeros():
    net = nn.Linear(3, 2)
    net.weight.data = torch.tensor([[1.0, 2.0, 5.0], [7.0, 9.0, 3.0]])
    sharing.apply(net, {"weight": torch.tensor([[0, 0, 2], [2, -1, -1]])})
    assert net.weight.tolist() == [[1.5, 1.5, 6.0], [6.0, 0.0, 0.0]]


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_held_weights_move_as_centroids_under_autograd(kind):
    """The oracle: the centroids as leaves, W = C[I], and autograd's own gradient."""
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=1e-3),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    }[kind]
    net = compressed((5, 4, 3), bits=2).double()
    index = sharing.clusters(net, 2)
    x, y = numbers(60).view(12, 5), torch.arange(12) % 3
    leaves = {}
    for name, p in net.named_parameters():
        start = p.detach().clone()
        if name in index:
            start = torch.stack([start[index[name] == k][0] for k in range(index[name].max() + 1)])
        leaves[name] = start.requires_grad_()
    optimizer, reference = make(net.parameters()), make(leaves.values())
    with sharing.hold(optimizer, net, index):
        for _ in range(10):
            optimizer.zero_grad()
            training.cross_entropy(net(x), y).backward()
            optimizer.step()
            reference.zero_grad()
            built = {
                n: torch.where(index[n] < 0, 0, c[index[n]]) if n in index else c
                for n, c in leaves.items()
            }
            training.cross_entropy(torch.func.functional_call(net, built, x), y).backward()
            reference.step()
    for name, p in net.named_parameters():
        expected = leaves[name]
        if name in index:
            expected = torch.where(index[name] < 0, 0, expected[index[name]])
        assert torch.allclose(p, expected, atol=1e-10)


def task(net):
    """A closure for ``step``, and its inputs' loss."""
    x = numbers(60).view(12, 5).to(next(net.parameters()).dtype)

    def closure():
        net.zero_grad()
        loss = training.cross_entropy(net(x), torch.arange(12) % 3)
        loss.backward()
        return loss

    return closure


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=1e-3, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p),
}


def held(optimizer, steps):
    """A small network after steps of held weights; ``steps(optimizer, closure)`` takes them."""
    net = compressed((5, 4, 3), bits=2)
    optimizer = optimizer(net.parameters())
    with sharing.hold(optimizer, net, sharing.clusters(net, 2)):
        for _ in range(5):
            steps(optimizer, task(net))
    return bits_of(net)


def plain_step(optimizer, closure):
    closure()
    optimizer.step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_closure_changes_nothing(optimizer):
    """It computes gradients within the step, after everything that was done to them before."""
    expected = held(optimizer, plain_step)
    assert expected != bits_of(compressed((5, 4, 3), bits=2))
    assert held(optimizer, lambda o, closure: o.step(closure)) == expected
    assert held(optimizer, lambda o, closure: o.step(closure=closure)) == expected


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_gradient_scaler_changes_nothing(optimizer, unscale):
    """A power of two as the scale changes no bit."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def steps(optimizer, closure):
        closure()
        for p in optimizer.param_groups[0]["params"]:
            p.grad *= scaler.scale(torch.tensor(1.0))
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    assert held(optimizer, steps) == held(optimizer, plain_step)


def test_a_step_that_the_scaler_skips_changes_nothing():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def steps(optimizer, closure):
        closure()
        scaler.scale(torch.tensor(1.0))
        optimizer.param_groups[0]["params"][0].grad[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()

    for optimizer in ("momentum", "adam"):
        assert held(OPTIMIZERS[optimizer], steps) == bits_of(compressed((5, 4, 3), bits=2))


def test_gradients_are_the_weights_own_before_and_after_the_step():
    """So they may be added up over several backward passes and steps, and clipped."""
    net = compressed((5, 4, 3), bits=2)
    optimizer, closure = torch.optim.SGD(net.parameters(), lr=0.01), task(net)
    with sharing.hold(optimizer, net, sharing.clusters(net, 2)):
        closure()
        before = net.fc1.weight.grad.clone()
        optimizer.step()
        assert torch.equal(net.fc1.weight.grad, before)
        optimizer.step(closure)
        fresh = copy.deepcopy(net)
        start = net.fc1.weight.detach().clone()
        optimizer.step()  # at the same gradients, from the weights that the last step left
        moved = start - net.fc1.weight
        assert torch.allclose(fresh.fc1.weight, start)
    for k in range(3):
        cluster = sharing.clusters(fresh, 2)["fc1.weight"] == k
        assert torch.allclose(moved[cluster], 0.01 * net.fc1.weight.grad[cluster].sum(), atol=1e-7)


def test_groups_of_parameters_keep_their_rates():
    net = compressed((5, 4, 3), bits=2)
    index, before = sharing.clusters(net, 2), copy.deepcopy(net)
    groups = [{"params": net.fc1.parameters()}, {"params": net.fc2.parameters(), "lr": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    with sharing.hold(optimizer, net, index):
        plain_step(optimizer, task(net))
    for name, rate in (("fc1.weight", 0.1), ("fc2.weight", 0.5)):
        moved = before.get_parameter(name) - net.get_parameter(name)
        for k in range(3):
            at = index[name] == k
            assert torch.allclose(moved[at], rate * net.get_parameter(name).grad[at].sum())


def test_a_frozen_layer_stays_as_it_is_shared():
    net = compressed((5, 4, 3), bits=2)
    net.fc1.requires_grad_(False)
    before, biases = net.fc1.weight.clone(), net.fc2.bias.clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)
    with sharing.hold(optimizer, net, sharing.clusters(net, 2)):
        optimizer.step(task(net))
    assert torch.equal(net.fc1.weight, before) and not net.fc1.weight.requires_grad
    assert not torch.equal(net.fc2.bias, biases)


@pytest.mark.parametrize("name", ["LBFGS", "Adafactor", "SparseAdam"])
def test_optimizers_that_mix_weights_are_refused(name):
    net = models.mlp((6, 5, 3))
    before, index = bits_of(net), sharing.clusters(net, 2)
    with pytest.raises(NotImplementedError, match=name):
        sharing.hold(getattr(torch.optim, name)(net.parameters()), net, index)
    assert bits_of(net) == before


def test_the_handle_lets_go():
    net = compressed((30, 20, 4), bits=2)
    index, optimizer = sharing.clusters(net, 2), training.sgd(net, lr=0.02)
    handle = sharing.hold(optimizer, net, index)
    net.fc1.weight.grad = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert len(net.fc1.weight.unique()) <= 4
    handle.remove()
    handle.remove()  # once more does nothing
    optimizer.step()
    assert len(net.fc1.weight.unique()) > 400


def test_held_weights_stay_shared_to_the_bit_and_are_let_go():
    net = compressed((30, 20, 4), sparsity=0.7, bits=3)
    index = sharing.clusters(net, 3)
    train = Split(numbers(30 * 64).float().view(64, 30), torch.arange(64) % 4)
    optimizer = training.sgd(net, lr=0.02)
    noise = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def round_differently(*_):  # as wide and narrow registers may
        for p in net.parameters():
            p.add_(1e-6 * torch.randn(p.shape, generator=noise))

    optimizer.register_step_post_hook(round_differently)
    with sharing.hold(optimizer, net, index):
        training.fit(net, train, epochs=3, optimizer=optimizer, batch_size=16)
    for name, i in index.items():
        weight = net.get_parameter(name)
        assert (weight[i < 0].view(torch.int32) == 0).all()  # 0.0, not −0.0
        for k in range(int(i.max()) + 1):
            assert len(weight[i == k].view(torch.int32).unique()) == 1
    training.fit(net, train, epochs=1, optimizer=optimizer, batch_size=16)
    assert len(net.fc1.weight.unique()) > 400


def test_a_parameter_without_a_gradient_is_left_alone():
    net = compressed()
    index, before = sharing.clusters(net, 2), bits_of(net)
    optimizer = training.sgd(net)
    with sharing.hold(optimizer, net, index):
        optimizer.step()
    assert bits_of(net) == before


def test_a_stack_is_shared_member_by_member():
    nets = [compressed((30, 20, 4), sparsity=0.7, bits=3, seed=s) for s in range(3)]
    index = [sharing.clusters(net, 3) for net in nets]
    train = Split(numbers(30 * 64).float().view(64, 30), torch.arange(64) % 4)
    together = ensemble.stack(nets)
    optimizer = training.sgd(together, lr=0.02)
    with sharing.hold(optimizer, together, sharing.stack(index)):
        training.fit(together, train, epochs=2, optimizer=optimizer, batch_size=16)
    for net, i, member in zip(nets, index, ensemble.unstack(together), strict=True):
        optimizer = training.sgd(net, lr=0.02)
        with sharing.hold(optimizer, net, i):
            training.fit(net, train, epochs=2, optimizer=optimizer, batch_size=16)
        for p, q in zip(net.parameters(), member.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda c: {"fc9.weight": c["fc1.weight"]}, ValueError, "fc9.weight"),
        (lambda c: {"fc1.weight": c["fc1.weight"].float()}, TypeError, "float32"),
        (lambda c: {"fc1.weight": c["fc1.weight"].tolist()}, TypeError, "list"),
        (lambda c: {**c, "fc2.weight": c["fc1.weight"]}, ValueError, "shape"),
        (lambda c: {**c, "fc2.weight": c["fc2.weight"] - 2}, ValueError, "-1 on"),
        (lambda c: {**c, "fc2.weight": c["fc2.weight"] + 2**40}, ValueError, "below 15"),
    ],
)
def test_clusters_that_do_not_fit_change_nothing(change, error, words):
    net = models.mlp((6, 5, 3))
    found, before = change(sharing.clusters(net, 2)), bits_of(net)
    with pytest.raises(error, match=words):
        sharing.apply(net, found)
    with pytest.raises(error, match=words), sharing.hold(training.sgd(net), net, found):
        pass
    assert bits_of(net) == before


def test_bad_arguments_are_named():
    net = models.mlp((4, 3, 2))
    for bits in (0, 13, 2.0, True, {"fc1.weight": 0}, {"fc9.weight": 3}):
        with pytest.raises(ValueError, match="bits"):
            sharing.clusters(net, bits)
    for values in (
        torch.zeros(0),
        torch.zeros(2, 2),
        torch.tensor([1.0, math.nan]),
        1j * torch.ones(2),
    ):
        with pytest.raises(ValueError, match="values"):
            sharing.kmeans(values, 2)
    with pytest.raises(ValueError, match="k must"):
        sharing.kmeans(numbers(3), 0)
    with (
        pytest.raises(ValueError, match="does not train"),
        sharing.hold(torch.optim.SGD([net.fc1.weight], lr=1), net, sharing.clusters(net, 2)),
    ):
        pass
    with pytest.raises(ValueError, match="iterations must be a positive integer"):
        sharing.kmeans(numbers(3), 2, iterations=True)
    with pytest.raises(ValueError, match="at least one"):
        sharing.stack([])
    first = sharing.clusters(net, 2)
    for other in (sharing.clusters(models.mlp((4, 2, 2)), 2), {"fc1.weight": first["fc1.weight"]}):
        with pytest.raises(ValueError, match=r"members\[1\] must have the names and shapes"):
            sharing.stack([first, other])


# Awkward models: the same result as the plain one, or a refusal that names the layer


def of_type(dtype):
    return compressed((30, 20, 4), sparsity=0.5, bits=12).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_of_the_weights(dtype):
    """The oracle: the same weights in double precision; the means are rounded once."""
    net = of_type(dtype)
    exact = copy.deepcopy(net).double()
    found = sharing.clusters(net, 3)
    for name, index in sharing.clusters(exact, 3).items():
        assert torch.equal(found[name], index)
    sharing.apply(net, found)
    sharing.apply(exact, found)
    for p, q in zip(net.parameters(), exact.parameters(), strict=True):
        assert p.dtype == dtype and torch.equal(p, q.to(dtype))


def test_sums_of_many_half_gradients_are_right():
    """In bfloat16 a running sum of ones stops at 256."""
    net = nn.Linear(1000, 1, bias=False).bfloat16()
    nn.init.zeros_(net.weight)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    with sharing.hold(optimizer, net, {"weight": torch.zeros(1, 1000, dtype=torch.long)}):
        net.weight.grad = torch.ones_like(net.weight)
        optimizer.step()
    assert net.weight.unique().tolist() == [-1000]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(bad):
    net = models.mlp((6, 5, 3))
    index = sharing.clusters(net, 2)
    net.fc2.weight.data[0, 0] = bad
    before = bits_of(net)
    for use in (
        lambda: sharing.clusters(net, 2),
        lambda: sharing.clusters(net, {"fc2.weight": 2}),
        lambda: sharing.apply(net, index),
        lambda: sharing.hold(training.sgd(net), net, index),
    ):
        with pytest.raises(ValueError, match=r"fc2\.weight.*finite"):
            use()
    assert bits_of(net) == before


def parametrised():
    return parametrized.attach(models.mlp((6, 5, 3)), torch.tanh)


def weight_normed():
    net = models.mlp((6, 5, 3))
    parametrizations.weight_norm(net.fc1)
    return net


def pruned_by_torch():
    net = models.mlp((6, 5, 3))
    prune.l1_unstructured(net.fc1, "weight", 0.5)
    return net


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (parametrised, "fc1.parametrizations.weight.original"),
        (weight_normed, "fc1.parametrizations.weight.original1"),
        (pruned_by_torch, "fc1.weight_orig"),
    ],
)
def test_weights_that_are_computed_are_refused_by_name(make, name):
    net = make()
    before = bits_of(net)
    index = {name: torch.zeros(net.get_parameter(name).shape, dtype=torch.long)}
    for use in (
        lambda: sharing.clusters(net, 2),
        lambda: sharing.clusters(net, {name: 2}),
        lambda: sharing.apply(net, index),
        lambda: sharing.hold(training.sgd(net), net, index),
    ):
        with pytest.raises(ValueError, match="fc1"):
            use()
    assert bits_of(net) == before


def test_a_tied_weight_is_shared_once():
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
    net[1].weight = net[0].weight
    index = sharing.clusters(net, 2)
    assert list(index) == ["1.weight"]
    sharing.apply(net, index)
    assert net[0].weight is net[1].weight and len(net[0].weight.unique()) <= 3
    both = {name: index["1.weight"] for name in ("0.weight", "1.weight")}
    for use in (
        lambda: sharing.apply(net, both),
        lambda: sharing.clusters(net, {"0.weight": 2, "1.weight": 2}),
    ):
        with pytest.raises(ValueError, match="one tied parameter"):
            use()


def without_inputs():
    layer = nn.Linear(1, 2)
    layer.weight = nn.Parameter(torch.zeros(2, 0))
    return layer


@pytest.mark.parametrize(
    "net",
    [
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.Conv2d(4, 6, 3, groups=2).to(memory_format=torch.channels_last),
        nn.Sequential(nn.Sequential(nn.Linear(4, 6)), nn.ReLU()),
        nn.Linear(3, 2),
        without_inputs(),
        nn.Linear(4, 3).requires_grad_(False),
    ],
    ids=["transposed", "channels last", "nested", "fewer values than clusters", "empty", "frozen"],
)
def test_other_layers_are_shared_as_their_numbers_are(net):
    before = {name: p.clone() for name, p in net.named_parameters()}
    index = sharing.clusters(net, 3)
    assert all(name.endswith("weight") for name in index)
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    with sharing.hold(torch.optim.SGD(net.parameters(), lr=1.0), net, index):
        pass
    for name, i in index.items():
        if i.numel():
            centroids, nearest = sharing.kmeans(before[name].flatten(), 7)
            expected = centroids[nearest].view(i.shape).float()
            torch.testing.assert_close(net.get_parameter(name), expected)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_layer_of_one_value(value):
    net = nn.Linear(4, 3)
    nn.init.constant_(net.weight, value)
    index = sharing.clusters(net, 4)
    assert index["weight"].unique().tolist() == [0 if value else -1]
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    with sharing.hold(optimizer, net, index):
        net.weight.grad = torch.ones(3, 4)
        optimizer.step()
    assert net.weight.unique().tolist() == [value - 12 if value else 0]
