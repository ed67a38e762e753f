"""Measures against independent counters."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from course_lib import measure, models
from course_lib.pruning import allocate, criteria, masks


def pruned(model, sparsity):
    model = copy.deepcopy(model)
    masks.apply(model, allocate.globally(criteria.magnitude(model), sparsity))
    return model


def test_parameters_and_sparsity():
    net = models.mlp((10, 5, 2))
    assert measure.count_parameters(net) == 10 * 5 + 5 + 5 * 2 + 2
    assert measure.sparsity(net) == 0
    assert measure.sparsity(pruned(net, 0.5)) == 0.5


@pytest.mark.parametrize(
    ("model", "image"),
    [
        (models.mlp(), (1, 14, 14)),
        (models.lenet5(width=0.3), (1, 28, 28)),
        (models.small_cnn(), (1, 14, 14)),
        (
            nn.Sequential(
                nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4),
                nn.Conv2d(8, 6, (3, 1), dilation=2, bias=False),
            ),
            (4, 15, 11),
        ),
    ],
)
def test_macs_are_half_of_torchs_flops(model, image):
    x = torch.zeros(5, *image)
    with FlopCounterMode(display=False) as counter:
        model(x[:1])
    assert measure.macs(model, x) == counter.get_total_flops() / 2


def test_macs_of_tokens():
    assert measure.macs(nn.Linear(3, 4), torch.zeros(2, 7, 3)) == 7 * 12


def test_macs_without_zeros():
    conv = nn.Conv2d(1, 2, 3)
    with torch.no_grad():
        conv.weight[0] = 0
    assert measure.macs(conv, torch.zeros(1, 1, 5, 5), skip_zeros=True) == 9 * 9
    assert conv.training and not conv._forward_hooks


def test_dense_bytes_are_those_of_the_state():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert measure.bytes_dense(model) == 4 * (18 + 2 + 2 + 2 + 2 + 2) + 8


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95])
def test_sparse_bytes_are_scipys(sparsity):
    net = pruned(models.small_cnn(), sparsity)
    biases = sum(4 * p.numel() for n, p in net.named_parameters() if "bias" in n)
    stored = biases
    for name, p in net.named_parameters():
        if "weight" in name:
            csr = scipy.sparse.csr_matrix(p.detach().flatten(1).numpy())
            assert csr.indices.dtype == csr.indptr.dtype == np.int32
            stored += csr.data.nbytes + csr.indices.nbytes + csr.indptr.nbytes
    assert measure.bytes_sparse(net) == stored


def test_csr_saves_nothing_at_half():
    net = models.mlp()
    assert measure.bytes_sparse(pruned(net, 0.5)) > measure.bytes_dense(net)
    assert measure.bytes_sparse(pruned(net, 0.9)) < measure.bytes_dense(net) / 4


def test_a_compressed_file_profits_from_zeros():
    net = models.mlp()
    assert measure.bytes_file(pruned(net, 0.9)) < 0.2 * measure.bytes_file(net)
    assert measure.bytes_file(net) > 0.8 * measure.bytes_dense(net)  # random floats hardly shrink


def test_sparse_copy_computes_the_same():
    net = pruned(models.mlp(), 0.9)
    x = torch.randn(8, 1, 14, 14)
    torch.testing.assert_close(measure.sparse_copy(net)(x), net(x), rtol=1e-4, atol=1e-5)
    bare = nn.Sequential(nn.Linear(3, 2, bias=False))
    torch.testing.assert_close(measure.sparse_copy(bare)(x[0, 0, :, :3]), bare(x[0, 0, :, :3]))
    with pytest.raises(TypeError, match="model must be an nn.Sequential without convolutions"):
        measure.sparse_copy(models.small_cnn())


def test_hans_12_8_watts():
    """A network of one billion connections, run 20 times a second: 12.8 W for DRAM alone."""
    net = nn.Linear(40_000, 25_000, bias=False, device="meta")
    weights, macs = (
        measure.count_parameters(net),
        measure.macs(net, torch.zeros(1, 40_000, device="meta")),
    )
    assert weights == macs == 10**9
    reading, arithmetic = measure.energy(weights, macs)
    assert 20 * reading == pytest.approx(12.8)
    assert arithmetic == pytest.approx(1e-3 * (3.7 + 0.9))
    assert measure.energy(weights, 0, bits=8)[0] == pytest.approx(reading / 4)
    assert measure.energy(weights, 0, memory="SRAM")[0] == pytest.approx(reading * 5 / 640)
    assert measure.bandwidth(net, per_second=20) == 80e9


def test_relative_costs_are_those_that_han_prints():
    """Figure 1's second column, on an integer addition."""
    relative = {name: pj / measure.PICOJOULES["int add"] for name, pj in measure.PICOJOULES.items()}
    assert [round(r) for r in relative.values()] == [1, 9, 10, 31, 37, 50, 6400]


def test_macs_of_one_kind_of_layer():
    net, x = models.small_cnn(), torch.zeros(1, 1, 14, 14)
    linear = measure.macs(net, x, kinds=nn.Linear)
    assert linear == net.fc.weight.numel()
    assert linear + measure.macs(net, x, kinds=nn.Conv2d) == measure.macs(net, x)


def test_a_sparse_copy_stores_and_multiplies_what_is_left():
    dense = models.mlp()
    x, net = torch.zeros(1, 1, 14, 14), pruned(dense, 0.9)
    csr = measure.sparse_copy(net)
    assert measure.bytes_dense(csr) == measure.bytes_sparse(net)
    assert measure.macs(csr, x) == measure.macs(csr, x, skip_zeros=True) == 2510
    assert measure.macs(net, x, skip_zeros=True) == 2510 and measure.macs(net, x) == 25100


def test_latency_is_the_median_of_turns(monkeypatch):
    turns = []

    class Clock:
        """A timer whose seconds are known: the model's own, and once in five turns a hundredfold."""

        def __init__(self, stmt, globals, num_threads):
            self.model = globals["model"]
            self.run = lambda: eval(stmt, globals)

        def timeit(self, number):
            self.run()
            turns.append((self.model.name, number))
            busy = 100 if len(turns) % 5 == 0 else 1
            return SimpleNamespace(mean=self.model.seconds * busy)

    class Model(nn.Module):
        def __init__(self, name, seconds):
            super().__init__()
            self.name, self.seconds = name, seconds

        def forward(self, x):
            assert not self.training and not torch.is_grad_enabled()

    monkeypatch.setattr(measure, "Timer", Clock)
    fast, slow = Model("fast", 0.001), Model("slow", 0.02)
    slow.eval()
    found = measure.latency({"fast": fast, "slow": slow}, torch.zeros(1), rounds=9)
    # The median; the mean would be 20 times that.
    assert {name: seconds.median for name, seconds in found.items()} == {
        "fast": 0.001,
        "slow": 0.02,
    }
    assert turns[2:] == [("fast", 5), ("slow", 1)] * 9  # about 5 ms a turn, one after the other
    assert fast.training and not slow.training


def test_latency_has_the_quartiles_of_the_turns(monkeypatch):
    """Eight turns of 1, 2, …, 8 ms: numpy's quartiles, whatever the order of the turns."""
    ms = [5, 1, 8, 3, 2, 7, 4, 6]

    class Clock:
        def __init__(self, stmt, globals, num_threads):
            self.left = [5, *ms]  # the first call only finds out how many passes fill a turn

        def timeit(self, number):
            return SimpleNamespace(mean=self.left.pop(0) / 1000)

    monkeypatch.setattr(measure, "Timer", Clock)
    found = measure.latency({"linear": nn.Linear(1, 1)}, torch.zeros(1), rounds=8)["linear"]
    expected = np.percentile(range(1, 9), [50, 25, 75]) / 1000
    assert found == pytest.approx(tuple(expected))
    assert (found.median, found.q1, found.q3) == tuple(found)


def test_bad_input():
    with pytest.raises(ValueError, match="model must have a linear or convolution layer, got ReLU"):
        measure.sparsity(nn.ReLU())
    with pytest.raises(ValueError, match="memory must be DRAM, SRAM or register, got 'disk'"):
        measure.energy(1, 1, memory="disk")
    with pytest.raises(ValueError, match="must not be negative and bits be positive"):
        measure.energy(1, 1, bits=0)
    with pytest.raises(ValueError, match="models must hold at least one model"):
        measure.latency({}, torch.zeros(1))
    with pytest.raises(ValueError, match="rounds must be a positive integer, got 0"):
        measure.latency({"linear": nn.Linear(1, 1)}, torch.zeros(1), rounds=0)
