import copy

import pytest
import torch
from scipy import stats
from torch.nn.utils import parametrize

from course_lib import (
    data,
    ensemble,
    measure,
    models,
    parametrized,
    training,
)
from course_lib.compression import hashing


def murmur3_finaliser(x):
    """MurmurHash3's last step in whole numbers without limits."""
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def test_mix_is_murmur3s():
    assert int(hashing.mix(torch.tensor(1))) == 0x514E28B7  # murmur3_32 of "" with seed 1
    assert int(hashing.mix(torch.tensor(0xFFFFFFFF))) == 0x81F16F39  # and with seed 0xffffffff
    some = torch.randint(0, 2**32, (1000,), generator=torch.Generator().manual_seed(0))
    assert hashing.mix(some).tolist() == [murmur3_finaliser(x) for x in some.tolist()]
    assert len(hashing.mix(torch.arange(100_000)).unique()) == 100_000  # one to one


@pytest.mark.parametrize("stored", [1, 2, 7, 100, 1000])
def test_buckets_are_even_and_signs_are_fair(stored):
    # A good hash fails each of these with probability 1e-4; the seed is fixed.
    bucket, signs = hashing.buckets(50_000, stored, seed=3)
    assert bucket.min() >= 0 and bucket.max() < stored
    counts = bucket.bincount(minlength=stored).numpy()
    if stored > 1:
        assert stats.chisquare(counts).pvalue > 1e-4
    assert set(signs.tolist()) == {-1.0, 1.0}
    ups = torch.zeros(stored).index_add(0, bucket, (signs > 0).float()).numpy()
    both = torch.tensor([ups.tolist(), (counts - ups).tolist()])
    assert stored == 1 or stats.chi2_contingency(both.numpy()).pvalue > 1e-4  # signs ignore buckets
    assert stats.binomtest(int(ups.sum()), 50_000).pvalue > 1e-4


def test_seeds_and_neighbours_differ():
    first, second = (hashing.buckets(10_000, 100, seed=seed)[0] for seed in (0, 1))
    # Chance: 100 of 10,000 agree, sd 10; five of them on either side.
    assert 50 < int((first == second).sum()) < 150
    assert 50 < int((first[1:] == first[:-1]).sum()) < 150
    assert torch.equal(first, hashing.buckets(10_000, 100, seed=0)[0])


def gathered(net, share):
    """The hashed network's weights with indices stored, as the method avoids it."""
    tables = {}
    for name, layer in net.named_modules():
        if parametrize.is_parametrized(layer):
            rule = layer.parametrizations.weight[0]
            tables[name] = hashing.buckets(layer.weight.numel(), rule.stored, seed=rule.seed)
            assert rule.stored == max(1, round(share * layer.weight.numel()))
    return tables


@pytest.mark.parametrize("build", [models.mlp, models.small_cnn])
def test_it_is_a_dense_network_with_gathered_weights_and_summed_gradients(build):
    train, _ = data.load("glyphs", n_train=50, n_test=10)
    plain = build(seed=1)
    net = hashing.hashed(plain, 1 / 8, seed=4)
    tables, dense = gathered(net, 1 / 8), build(seed=1)
    assert len({tuple(b[:20].tolist()) for b, _ in tables.values()}) == len(tables)
    for name, (bucket, signs) in tables.items():
        shared = net.get_submodule(name).parametrizations.weight.original
        weight = (shared[bucket] * signs).view(plain.get_submodule(name).weight.shape)
        dense.get_submodule(name).weight.data = weight.detach()
    assert torch.equal(net(train.x), dense(train.x))
    for model in (net, dense):
        training.cross_entropy(model(train.x), train.y).backward()
    for name, (bucket, signs) in tables.items():
        shared = net.get_submodule(name).parametrizations.weight.original
        gradient = dense.get_submodule(name).weight.grad.flatten() * signs
        wanted = torch.zeros_like(shared).index_add(0, bucket, gradient)
        assert torch.allclose(shared.grad, wanted, atol=1e-6)


def test_layers_of_the_same_shape_share_differently():
    net = hashing.hashed(models.mlp((20, 20, 20)), 1 / 8)
    first, second = (net.get_submodule(n).parametrizations.weight[0] for n in ("fc1", "fc2"))
    where = [hashing.buckets(400, rule.stored, seed=rule.seed)[0] for rule in (first, second)]
    assert (where[0] == where[1]).float().mean() < 0.1  # chance: one of 50


def test_no_indices_are_stored():
    net = hashing.hashed(models.mlp((196, 100, 10)), 1 / 16)
    assert measure.count_parameters(net) == 1225 + 62 + 110  # 19,600/16, 1,000/16, biases
    assert measure.bytes_dense(net) == 4 * measure.count_parameters(net)
    assert not list(net.buffers())
    reloaded = hashing.hashed(models.mlp((196, 100, 10), seed=9), 1 / 16)
    reloaded.load_state_dict(net.state_dict())
    x = torch.rand(3, 196)
    assert torch.equal(reloaded(x), net(x))


def test_weights_keep_their_variance_and_biases_stay():
    plain = models.mlp((196, 300, 10), seed=2)
    net = hashing.hashed(plain, 1 / 16)
    # 3,675 numbers: the relative error of their standard deviation is 1.2 %; five of these.
    assert net.fc1.weight.std().item() == pytest.approx(plain.fc1.weight.std().item(), rel=0.06)
    assert torch.equal(net.fc1.bias, plain.fc1.bias)
    assert torch.equal(plain.fc1.weight, models.mlp((196, 300, 10), seed=2).fc1.weight)


def test_right_inverse_is_the_least_squares_fit():
    rule = hashing.Hashed((6, 5), 7, seed=2)
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()
    bucket, signs = hashing.buckets(30, 7, seed=2)
    design = torch.zeros(30, 7).double()
    design[torch.arange(30), bucket] = signs.double()
    wanted = torch.linalg.lstsq(design, weight.flatten(), driver="gelsd").solution
    fitted = rule.right_inverse(weight)
    assert torch.allclose(fitted, wanted, atol=1e-9)
    again = rule.right_inverse(rule(fitted))
    assert torch.allclose(again, fitted)


def test_training_in_a_stack_is_training_alone():
    train, _ = data.load("glyphs", n_train=400, n_test=10)
    nets = [hashing.hashed(models.mlp((196, 30, 10), seed=seed), 1 / 8) for seed in range(2)]
    stack = ensemble.stack(nets)
    training.fit(stack, train, epochs=2)
    for k, member in enumerate(ensemble.unstack(stack)):
        alone = copy.deepcopy(nets[k])
        training.fit(alone, train, epochs=2)
        for a, b in zip(member.parameters(), alone.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_baked_is_an_ordinary_network():
    net = hashing.hashed(models.mlp(), 1 / 4)
    plain = parametrized.folded(net)
    assert {n: p.shape for n, p in plain.named_parameters()} == {
        n: p.shape for n, p in models.mlp().named_parameters()
    }
    x = torch.rand(3, 196)
    assert torch.equal(plain(x), net(x))


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, float("nan"), True, "1/8"])
def test_a_fraction_outside_is_refused(fraction):
    with pytest.raises(ValueError, match=r"fraction must be a number in \(0, 1\]"):
        hashing.hashed(models.mlp(), fraction)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_sums_gradients_and_means_in_single(dtype):
    rule = hashing.Hashed((60, 80), 2, seed=2)
    bucket, signs = hashing.buckets(4800, 2, seed=2)
    shared = torch.tensor([0.5, -0.25], dtype=dtype).requires_grad_()
    weight = rule(shared)
    assert weight.dtype == dtype
    assert torch.equal(weight.double().flatten(), shared.double()[bucket] * signs.double())
    upstream = 0.01 * (1 + torch.rand(60, 80, generator=torch.Generator().manual_seed(0)))
    upstream = (upstream * signs.view(60, 80)).to(dtype)  # 2,400 terms of one sign per bucket
    weight.backward(upstream)
    wanted = torch.zeros(2).double().index_add(0, bucket, upstream.flatten().double() * signs)
    eps = torch.finfo(dtype).eps
    assert ((shared.grad.double() - wanted).abs() <= eps * wanted.abs()).all()
    means = rule.right_inverse(upstream)
    wanted = wanted / bucket.bincount(minlength=2)
    assert means.dtype == dtype and ((means.double() - wanted).abs() <= eps * wanted.abs()).all()


def test_tied_layers_store_their_numbers_once():
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    net[1].weight = net[0].weight
    small = hashing.hashed(net, 1 / 4)
    assert small[0].parametrizations.weight is small[1].parametrizations.weight
    assert measure.count_parameters(small) == 16 + 16
    behind = small[0].parametrizations.weight.original
    assert torch.equal(behind, net[0].weight.flatten()[:16])


BAD = [
    (lambda: hashing.buckets(0, 3), ValueError, "count must be a positive integer, got 0"),
    (lambda: hashing.buckets(5, 0), ValueError, "stored must be a positive integer, got 0"),
    (lambda: hashing.buckets(5, 2, seed=0.5), TypeError, "seed must be an integer, got 0.5"),
    (lambda: hashing.mix(torch.tensor(1.0)), TypeError, "x must be an int64 tensor, got torch.float32"),
    (lambda: hashing.mix(3), TypeError, "x must be an int64 tensor, got int"),
    (lambda: hashing.hashed(torch.nn.Linear(0, 3), 0.5), ValueError, "weights in every layer, got none"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input_names_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_hashing_twice_is_refused():
    with pytest.raises(ValueError, match="'fc1' is parametrised"):
        hashing.hashed(hashing.hashed(models.mlp(), 0.5), 0.5)
    with pytest.raises(ValueError, match="model must have a linear"):
        hashing.hashed(torch.nn.ReLU(), 0.5)
