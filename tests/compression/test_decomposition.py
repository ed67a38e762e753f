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


def test_tensorlys_backend_stays_as_it_was():
    tensorly.set_backend("pytorch")
    try:
        dec.tucker(conv(), (2, 2)), dec.cp(conv(), 2)
        assert tensorly.get_backend() == "pytorch"
    finally:
        tensorly.set_backend("numpy")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: dec.svd(conv(), 2), TypeError, "layer must be an nn.Linear, got Conv2d"),
        (lambda: dec.svd(linear(), 0), ValueError, "rank must be a whole number from 1 to 12"),
        (lambda: dec.svd(linear(), 13), ValueError, "got 13"),
        (lambda: dec.tucker(linear(), (1, 1)), TypeError, "got Linear"),
        (lambda: dec.tucker(conv(), (7, 8)), ValueError, r"ranks\[0\] must be .* to 6, got 7"),
        (lambda: dec.tucker(conv(), (6, 9)), ValueError, r"ranks\[1\] must be .* to 8, got 9"),
        (lambda: dec.cp(conv(groups=2), 2), ValueError, "one group"),
        (lambda: dec.cp(conv(padding="same"), 2), ValueError, "one group and numbers"),
        (lambda: dec.cp(conv(), 2.0), ValueError, "rank must be a whole number"),
        (lambda: dec.cp(conv(), 2, iterations=0), ValueError, "iterations must be"),
        (lambda: dec.product(nn.Sequential(nn.Linear(1, 1))), ValueError, "two, three or four"),
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
