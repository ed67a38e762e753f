"""Low rank against Eckart–Young, tensorly's reconstruction, and convolution by the rebuilt kernel."""

import copy

import numpy as np
import pytest
import tensorly
import torch
import torch.nn.functional as F
from tensorly.cp_tensor import cp_to_tensor
from tensorly.decomposition import parafac, partial_tucker
from tensorly.tucker_tensor import tucker_to_tensor
from torch import nn
from torch.nn.utils import parametrize, prune

from course_lib import measure, models
from course_lib.compression import decomposition as dec


def linear(n_in=20, n_out=12, bias=True, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(n_in, n_out, bias=bias).double()


def conv(s=6, t=8, kernel=3, seed=0, **options):
    torch.manual_seed(seed)
    return nn.Conv2d(s, t, kernel, **options).double()


def squared(error):
    return float((error**2).sum())


# ------------------------------------------------------------------------------------------ SVD


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_svd_meets_eckart_and_young(rank):
    layer = linear()
    error = squared(layer.weight.detach() - dec.product(dec.svd(layer, rank)))
    sigma = np.linalg.svd(layer.weight.detach().numpy(), compute_uv=False)
    assert error == pytest.approx((sigma[rank:] ** 2).sum(), rel=1e-9, abs=1e-20)


def test_no_other_matrix_of_that_rank_that_we_try_is_nearer():
    layer, rank = linear(), 3
    w = layer.weight.detach()
    best = squared(w - dec.product(dec.svd(layer, rank)))
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):  # the best approximation within a random row space
        v = torch.linalg.qr(torch.randn(20, rank, generator=generator).double()).Q
        assert squared(w - w @ v @ v.T) > best


def test_svd_layers_compute_the_product():
    layer, x = linear(), torch.randn(7, 20).double()
    chain = dec.svd(layer, 4)
    torch.testing.assert_close(chain(x), F.linear(x, dec.product(chain), layer.bias))
    torch.testing.assert_close(dec.svd(layer, 12)(x), layer(x))
    assert [tuple(m.weight.shape) for m in chain] == [(4, 20), (12, 4)]
    assert chain[0].bias is None
    norms = [float(m.weight.norm()) for m in chain]
    assert norms[0] == pytest.approx(norms[1])  # √Σ on either side


# --------------------------------------------------------------------------------- Tucker and CP

GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (1, 2), "padding": (2, 0), "dilation": (1, 2)},
    {"kernel": (1, 3), "padding": (0, 1), "bias": False},
    {"kernel": (5, 2), "stride": (2, 1), "padding": (1, 2), "dilation": (2, 1)},
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("make", [lambda c: dec.tucker(c, (3, 4)), lambda c: dec.cp(c, 5)])
def test_a_chain_is_a_convolution_with_the_rebuilt_kernel(make, geometry):
    layer = conv(**geometry)
    chain, x = make(layer), torch.randn(2, 6, 13, 11).double()
    whole = copy.deepcopy(layer)
    with torch.no_grad():
        whole.weight.copy_(dec.product(chain))
    torch.testing.assert_close(chain(x), whole(x))
    assert not torch.allclose(chain(x), layer(x))  # it is an approximation


def test_tucker_is_tensorlys():
    layer = conv()
    k = layer.weight.detach().numpy()
    (core, factors), _ = partial_tucker(k, rank=[4, 3], modes=[0, 1], tol=1e-8)
    theirs = tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1])
    np.testing.assert_allclose(dec.product(dec.tucker(layer, (3, 4))), theirs, atol=1e-10)
    full = tucker_to_tensor((core, [*factors, np.eye(3), np.eye(3)]))
    np.testing.assert_allclose(theirs, full, atol=1e-12)


def test_tucker_at_full_rank_is_the_layer():
    layer, x = conv(padding=1), torch.randn(2, 6, 9, 9).double()
    torch.testing.assert_close(dec.tucker(layer, (6, 8))(x), layer(x))


def test_tucker_finds_a_kernel_of_low_rank():
    layer = conv(s=10, t=12)
    g = torch.Generator().manual_seed(2)
    core, v, u = (torch.randn(s, generator=g).double() for s in ((3, 2, 3, 3), (12, 3), (10, 2)))
    with torch.no_grad():
        layer.weight.copy_(torch.einsum("bahw,tb,sa->tshw", core, v, u))
    found = dec.product(dec.tucker(layer, (2, 3)))
    torch.testing.assert_close(found, layer.weight.detach())
    assert dec.rank_by_energy(layer, 1.0) == (2, 3)


def test_cp_is_tensorlys():
    layer = conv()
    theirs = cp_to_tensor(
        parafac(
            layer.weight.detach().numpy(),
            5,
            n_iter_max=50,
            random_state=np.random.RandomState(3),
            normalize_factors=True,
        )
    )
    ours = dec.product(dec.cp(layer, 5, seed=3, iterations=50))
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_cp_finds_a_sum_of_rank_one_kernels():
    layer = conv(s=7, t=9)
    g = torch.Generator().manual_seed(4)
    factors = [torch.randn(n, 2, generator=g).double() for n in (9, 7, 3, 3)]
    with torch.no_grad():
        layer.weight.copy_(torch.einsum("tr,sr,hr,wr->tshw", *factors))
    error = layer.weight.detach() - dec.product(dec.cp(layer, 2, iterations=2000))
    assert squared(error) < 1e-6 * squared(layer.weight.detach())


def test_cp_shares_a_terms_size_among_its_factors():
    chain = dec.cp(conv(), 5)
    columns = [
        chain[0].weight.flatten(1).norm(dim=1),
        chain[1].weight.flatten(1).norm(dim=1),
        chain[2].weight.flatten(1).norm(dim=1),
        chain[3].weight.flatten(1).norm(dim=0),
    ]
    for column in columns[1:]:
        torch.testing.assert_close(column, columns[0])


# ---------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("energy", [0.1, 0.5, 0.9, 0.99, 1.0])
def test_energy_bounds_the_error(energy):
    layer, kernel = linear(), conv(s=12, t=16)
    rank = dec.rank_by_energy(layer, energy)
    w = layer.weight.detach()
    error = [
        squared(w - dec.product(dec.svd(layer, r))) / squared(w) for r in (rank, rank - 1 or 1)
    ]
    assert error[0] <= 1 - energy + 1e-9
    assert rank == 1 or error[1] > 1 - energy  # one rank less is not enough
    k = kernel.weight.detach()
    chain = dec.tucker(kernel, dec.rank_by_energy(kernel, energy))
    assert squared(k - dec.product(chain)) / squared(k) <= 2 * (1 - energy) + 1e-9


def test_energies_are_numpys():
    kernel = conv().weight.detach().numpy()
    rows = [kernel.transpose(1, 0, 2, 3).reshape(6, -1), kernel.reshape(8, -1)]
    for ours, unfolded in zip(dec.squared_singular_values(conv()), rows, strict=True):
        sigma = np.linalg.svd(unfolded, compute_uv=False)
        np.testing.assert_allclose(ours, sigma**2)


MAKE = {"svd": dec.svd, "tucker": dec.tucker, "cp": lambda layer, r: dec.cp(layer, r, iterations=2)}


@pytest.mark.parametrize("kind", dec.KINDS)
@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
def test_the_largest_rank_within_a_budget(kind, fraction):
    layer = linear(bias=False) if kind == "svd" else conv(s=12, t=16, bias=False)
    n, shape = layer.weight.numel(), layer.weight.shape
    rank = dec.rank_by_budget(layer, fraction, kind)
    chain = MAKE[kind](layer, rank)
    assert measure.count_parameters(chain) == dec.count_weights(shape, rank, kind) <= fraction * n
    larger = (rank[0] + 1, rank[1] + 2) if kind == "tucker" else rank + 1
    assert dec.count_weights(shape, larger, kind) > fraction * n


def test_macs_are_the_formulas():
    layer, x = conv(s=12, t=16, padding=1, bias=False), torch.zeros(1, 12, 10, 10).double()
    for kind, rank in (("tucker", (3, 5)), ("cp", 7)):
        chain = MAKE[kind](layer, rank)
        assert measure.macs(chain, x) == 100 * dec.count_weights(layer.weight.shape, rank, kind)


# ---------------------------------------------------------------------------------------- models


def test_replaced_copies_the_model():
    net, x = models.lenet5(width=0.5), torch.randn(2, 1, 28, 28)
    before = copy.deepcopy(net.state_dict())
    small = dec.replaced(net, {"fc1": dec.svd(net.fc1, 10), "conv2": dec.tucker(net.conv2, (5, 8))})
    assert measure.count_parameters(small) < measure.count_parameters(net) / 3
    assert small(x).shape == (2, 10)
    small(x).sum().backward()  # real layers: they train
    assert all(p.grad is not None for p in small.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert isinstance(net.fc1, nn.Linear)
    exact = dec.replaced(net, {"fc2": dec.svd(net.fc2, 10)})
    torch.testing.assert_close(exact(x), net(x), rtol=1e-4, atol=1e-5)
    nested = dec.replaced(models.resnet(), {"block2.first.0": nn.Identity()})
    assert isinstance(nested.block2.first[0], nn.Identity)


def test_precision_and_mode_are_the_layers():
    half = nn.Conv2d(3, 4, 3).half().eval()
    for chain in (dec.tucker(half, (2, 2)), dec.cp(half, 2)):
        assert all(p.dtype == torch.float16 for p in chain.parameters()) and not chain.training


MANY = {
    "svd": lambda layer: dec.svd(layer, 2),
    "tucker": lambda layer: dec.tucker(layer, (2, 3)),
    "cp": lambda layer: dec.cp(layer, 3),
}


def layer_of(kind, **options):
    torch.manual_seed(0)
    return nn.Linear(6, 5, **options) if kind == "svd" else nn.Conv2d(4, 5, 3, **options)


AWKWARD = {
    "dead outputs": lambda w: w[1:].zero_(),
    "dead inputs": lambda w: w[:, 1:].zero_(),
    "zero": lambda w: w.zero_(),
    "constant": lambda w: w.fill_(0.3),
    "one number": lambda w: w.zero_().view(-1)[7:8].fill_(2.0),
    "90 % sparse": lambda w: w.mul_(torch.rand(w.shape) > 0.9),
    "two alike": lambda w: w[1].copy_(w[0]),
    "tiny": lambda w: w.mul_(1e-30),
    "huge": lambda w: w.mul_(1e30),
}


@pytest.mark.parametrize("kind", AWKWARD)
@pytest.mark.parametrize("rank", [1, 2, 3, 8, 20, 36])
def test_cp_of_an_awkward_kernel_is_near_it(kind, rank):
    """Never further than zero, and there at the largest rank, where an exact answer exists."""
    layer = layer_of("cp")
    with torch.no_grad():
        AWKWARD[kind](layer.weight)
    w = layer.weight.detach().double()
    error = (w - dec.product(dec.cp(layer, rank)).double()).norm()
    assert error <= w.norm() * 1.0001
    simple = kind in ("zero", "constant", "one number")  # of rank one
    if simple or rank == 36:
        assert error <= 1e-2 * w.norm()


@pytest.mark.parametrize(
    "shape", [(6, 5, 1, 1), (4, 4, 1, 1), (1, 6, 3, 3), (5, 1, 3, 1), (1, 1, 1, 1)]
)
def test_cp_takes_every_rank_up_to_the_one_that_it_states(shape):
    torch.manual_seed(0)
    layer = nn.Conv2d(shape[1], shape[0], shape[2:]).double()
    most = layer.weight.numel() // max(shape)
    for rank in range(1, most + 1):
        error = squared(layer.weight.detach() - dec.product(dec.cp(layer, rank, iterations=300)))
        assert error <= squared(layer.weight.detach())
    assert error <= 1e-4 * squared(layer.weight.detach())
    with pytest.raises(
        ValueError, match=f"rank must be an integer from 1 to {most}, got {most + 1}"
    ):
        dec.cp(layer, most + 1)


@pytest.mark.parametrize("kind", AWKWARD)
@pytest.mark.parametrize("ranks", [(1, 1), (2, 3), (4, 1), (4, 5)])
def test_tucker_of_an_awkward_kernel_is_no_worse_than_its_bound(kind, ranks):
    layer = layer_of("tucker").double()
    with torch.no_grad():
        AWKWARD[kind](layer.weight)
    w = layer.weight.detach()
    error = squared(w - dec.product(dec.tucker(layer, ranks)))
    # De Lathauwer et al.: at most the discarded parts of the two unfoldings together.
    parts = dec.squared_singular_values(layer)
    bound = sum(float(s[r:].sum()) for s, r in zip(parts, ranks, strict=True))
    assert error <= bound + 1e-9 * squared(w)


@pytest.mark.parametrize("kind", AWKWARD)
def test_svd_and_the_rank_by_energy_of_an_awkward_weight(kind):
    layer = layer_of("svd").double()
    with torch.no_grad():
        AWKWARD[kind](layer.weight)
    rank = dec.rank_by_energy(layer, 0.9)
    w = layer.weight.detach()
    assert squared(w - dec.product(dec.svd(layer, rank))) <= 0.1 * squared(w) + 1e-9 * squared(w)
    if kind in ("zero", "constant", "one number"):
        assert rank == 1


@pytest.mark.parametrize("kind", MANY)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_at_once(kind, wrong):
    layer = layer_of(kind)
    layer.weight.data.view(-1)[3] = wrong
    calls = [MANY[kind], lambda x: dec.rank_by_energy(x, 0.9), dec.squared_singular_values]
    calls.append(lambda x: dec.rank_by_budget(x, 0.9, kind))
    for call in calls:
        with pytest.raises(
            ValueError, match="layer's weight must be finite, got 1 NaN or infinite"
        ):
            call(layer)


@pytest.mark.parametrize("kind", MANY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_chain_has_the_layers_precision_and_its_numbers(kind, dtype):
    layer = layer_of(kind).to(dtype).eval()
    chain = MANY[kind](layer)
    assert {p.dtype for p in chain.parameters()} == {dtype} and not chain.training
    wanted = dec.product(MANY[kind](copy.deepcopy(layer).double()))
    found = dec.product(chain.double())
    assert (found - wanted).norm() <= 4 * torch.finfo(dtype).eps * wanted.norm()


def test_factors_that_leave_half_precision_are_refused():
    torch.manual_seed(0)
    layer = nn.Linear(300, 300, bias=False).half()
    layer.weight.data.fill_(60000)  # √σ is 4,243 and fits, the core of Tucker's does not
    assert dec.svd(layer, 1)[0].weight.isfinite().all()
    kernel = nn.Conv2d(4, 4, 1, bias=False).half()
    kernel.weight.data.fill_(60000)
    with pytest.raises(ValueError, match="layer's factors in torch.float16 must be finite"):
        dec.tucker(kernel, (1, 1))


@pytest.mark.parametrize("kind", MANY)
def test_what_is_frozen_stays_frozen_and_the_layer_as_it_was(kind):
    for weight, bias in ((True, False), (False, True), (False, False), (True, True)):
        layer = layer_of(kind)
        layer.weight.requires_grad_(weight)
        layer.bias.requires_grad_(bias)
        before, noise = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
        chain = MANY[kind](layer)
        assert {m.weight.requires_grad for m in chain} == {weight}
        assert chain[-1].bias.requires_grad == bias
        assert all(torch.equal(v, before[n]) for n, v in layer.state_dict().items())
        assert torch.equal(noise, torch.get_rng_state())  # no random number is used up


@pytest.mark.parametrize("kind", MANY)
def test_a_parametrised_or_channels_last_layer_gives_the_chain_of_its_weight(kind):
    plain = layer_of(kind)
    half = parametrize.register_parametrization(copy.deepcopy(plain), "weight", nn.Tanh())
    wanted = copy.deepcopy(plain)
    wanted.weight.data.tanh_()
    with torch.no_grad():
        chain = MANY[kind](half)
    assert all(p.requires_grad for p in chain.parameters())
    torch.testing.assert_close(dec.product(chain), dec.product(MANY[kind](wanted)))
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    torch.testing.assert_close(dec.product(MANY[kind](last)), dec.product(MANY[kind](plain)))


PADDED = [
    {"padding": "same"},
    {"padding": "same", "kernel": (4, 3), "dilation": (1, 2)},
    {"padding": "valid", "stride": 2},
    {"padding": (2, 1), "padding_mode": "reflect"},
    {"padding": (1, 2), "padding_mode": "circular", "stride": (1, 2)},
    {"padding": "same", "padding_mode": "replicate"},
]


@pytest.mark.parametrize("geometry", PADDED)
@pytest.mark.parametrize("make", [lambda c: dec.tucker(c, (3, 4)), lambda c: dec.cp(c, 5)])
def test_every_padding_is_kept(make, geometry):
    test_a_chain_is_a_convolution_with_the_rebuilt_kernel(make, geometry)


def test_a_layer_under_two_names_is_replaced_under_both():
    layer = nn.Linear(4, 4)
    net = nn.ModuleDict({"a": layer, "b": nn.Sequential(nn.ReLU(), layer), "c": nn.Linear(4, 4)})
    new = nn.Linear(4, 4)
    for name in ("a", "b.1"):
        small = dec.replaced(net, {name: new})
        assert small.a is small.b[1] and torch.equal(small.a.weight, new.weight)
    assert net.a is net.b[1] is layer
    both = dec.replaced(net, {"a": new, "b.1": new})
    assert both.a is both.b[1] is not new  # the caller's own is not part of the model
    one = dec.replaced(net, {"a": new, "c": new})
    assert one.a is one.c
    with pytest.raises(ValueError, match="'b.1', a layer that it replaces by another already"):
        dec.replaced(net, {"a": new, "b.1": nn.Linear(4, 4)})


def test_replacing_keeps_ties_modes_and_frozen_parameters():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4).eval())
    net[1].weight = net[0].weight
    net[0].bias.requires_grad_(False)
    small = dec.replaced(net, {"2": dec.svd(net[2], 2)})
    assert small[0].weight is small[1].weight and not small[0].bias.requires_grad
    assert small.training and not small[3].training


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: dec.svd(conv(), 2), TypeError, "layer must be an nn.Linear, got Conv2d"),
        (lambda: dec.svd(linear(), 0), ValueError, "rank must be an integer from 1 to 12"),
        (lambda: dec.svd(linear(), 13), ValueError, "got 13"),
        (lambda: dec.tucker(linear(), (1, 1)), TypeError, "got Linear"),
        (lambda: dec.tucker(conv(), (7, 8)), ValueError, r"ranks\[0\] must be .* to 6, got 7"),
        (lambda: dec.tucker(conv(), (6, 9)), ValueError, r"ranks\[1\] must be .* to 8, got 9"),
        (lambda: dec.cp(conv(groups=2), 2), ValueError, "one group"),
        (lambda: dec.cp(conv(), 2.0), ValueError, "rank must be an integer"),
        (lambda: dec.cp(conv(), 2, iterations=0), ValueError, "iterations must be"),
        (
            lambda: dec.product(nn.Sequential(nn.Linear(1, 1))),
            ValueError,
            "two linear layers or three or four",
        ),
        (
            lambda: dec.cp(conv(), True),
            ValueError,
            "rank must be an integer from 1 to 54, got True",
        ),
        (
            lambda: dec.tucker(conv(), 3),
            ValueError,
            "ranks must be a pair of positive integers, got 3",
        ),
        (lambda: dec.tucker(conv(), (3,)), ValueError, "ranks must be a pair"),
        (lambda: dec.cp(nn.ConvTranspose2d(2, 3, 3), 1), TypeError, "got ConvTranspose2d"),
        (lambda: dec.svd(nn.LazyLinear(3), 1), ValueError, "layer must have weights"),
        (
            lambda: dec.rank_by_energy(nn.ReLU(), 0.5),
            TypeError,
            "layer must be an nn.Conv2d, got ReLU",
        ),
        (lambda: dec.rank_by_energy(linear(), "1"), ValueError, "energy must be a number in .0, 1"),
        (lambda: dec.rank_by_budget(conv(), 0.5, "svd"), TypeError, "layer must be an nn.Linear"),
        (lambda: dec.rank_by_budget(linear(), 0.5, "cp"), TypeError, "layer must be an nn.Conv2d"),
        (lambda: dec.replaced(models.mlp(), {"fc1": 3}), TypeError, "modules, got int for 'fc1'"),
        (
            lambda: dec.replaced(models.vgg(), {"block1": nn.ReLU(), "block1.0": nn.ReLU()}),
            ValueError,
            "'block1' and 'block1.0', which is within it",
        ),
        (
            lambda: dec.replaced(
                nn.Sequential(prune.identity(nn.Linear(2, 2), "weight"), nn.ReLU()),
                {"1": nn.ReLU()},
            ),
            ValueError,
            "'0' is computed by a forward hook",
        ),
        (lambda: dec.rank_by_energy(linear(), 0), ValueError, "energy must be"),
        (lambda: dec.rank_by_budget(conv(), 0.5, "tt"), ValueError, "kind must be one of"),
        (lambda: dec.rank_by_budget(conv(), 1.5, "cp"), ValueError, "fraction must be"),
        (lambda: dec.rank_by_budget(linear(), 0.01, "svd"), ValueError, "less than rank one"),
        (lambda: dec.replaced(models.mlp(), {"fc9": nn.ReLU()}), ValueError, "layers names 'fc9'"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
