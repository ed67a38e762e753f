"""Measures against independent counters."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

from course_lib import data, measure, models, parametrized
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
    flattened = nn.Sequential(nn.Flatten(0, 1), nn.Linear(3, 4))  # 7 rows, of one example
    assert measure.macs(flattened, torch.zeros(2, 7, 3)) == 7 * 12


def products(layer, x):
    """Brute force: the pairs of an input number and a weight of its channel, which a transposed
    convolution multiplies (those whose product is cropped at the edges too)."""
    weights = np.ndindex(*layer.weight.shape)  # (in, out / groups, …)
    return sum(w[0] == i[0] for w in weights for i in np.ndindex(*x.shape[1:]))


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.ConvTranspose2d(3, 1, 2, stride=2), (1, 3, 2, 2), 48),
        (nn.ConvTranspose2d(32, 1, 3), (1, 32, 1, 1), 288),
        (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), (1, 4, 3, 5), 4 * 3 * 9 * 15),
        (nn.ConvTranspose1d(2, 3, 4, stride=3, dilation=2), (1, 2, 5), 2 * 3 * 4 * 5),
        (nn.ConvTranspose3d(2, 1, 2), (1, 2, 2, 2, 2), 2 * 8 * 8),
    ],
)
def test_macs_of_transposed_convolutions(layer, shape, expected):
    x = torch.zeros(shape)
    assert measure.macs(layer, x) == products(layer, x) == expected
    if layer.groups == 1:
        with FlopCounterMode(display=False) as counter:
            layer(x)
        assert counter.get_total_flops() == 2 * expected
    with torch.no_grad():
        layer.weight[0] = 0
    part = expected * (layer.in_channels - 1) // layer.in_channels
    assert measure.macs(layer, x, skip_zeros=True) == part


class Calls(nn.Module):
    """A layer called twice, one by keyword, one not at all."""

    def __init__(self):
        super().__init__()
        self.twice, self.named, self.never = nn.Linear(3, 3), nn.Linear(3, 2), nn.Linear(3, 100)
        self.up = nn.ConvTranspose1d(1, 2, 3)

    def forward(self, x):
        return self.up(input=self.named(input=self.twice(self.twice(x))).unsqueeze(1))


def test_macs_count_every_call():
    assert measure.macs(Calls(), torch.zeros(4, 3)) == 2 * 9 + 6 + 1 * 2 * 3 * 2
    twice = nn.Linear(3, 3)
    assert measure.macs(nn.Sequential(twice, twice), torch.zeros(1, 3)) == 18


def computed(kind):
    """A layer of 12 weights that are computed from others; 6 of them are zero."""
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.fill_(1.0)[:, :2] = 0.0
    if kind == "parametrised":
        return parametrized.attach(nn.Sequential(layer), torch.relu)
    if kind == "weight norm":
        parametrizations.weight_norm(layer)
    else:
        prune.custom_from_mask(layer, "weight", layer.weight != 0)
        with torch.no_grad():
            layer.weight_orig.fill_(1.0)
    return nn.Sequential(layer)


@pytest.mark.parametrize("kind", ["parametrised", "weight norm", "pruned by torch"])
def test_weights_that_are_computed(kind):
    """They count as the layer computes with them; what a file of them holds is not theirs."""
    model = computed(kind)
    assert measure.macs(model, torch.zeros(1, 4), skip_zeros=True) == 6
    assert measure.sparsity(model) == 0.5
    assert measure.count_weights(model) == 12
    with pytest.raises(ValueError, match="'0'"):
        measure.bytes_sparse(model)


class Tied(nn.Module):
    def __init__(self, *, apart=False):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        if not apart:
            self.second.weight = self.first.weight
        with torch.no_grad():
            self.first.weight.fill_(0.0)[0] = 1.0

    def forward(self, x):
        return self.second(self.first(x))


def test_tied_weights_count_once_and_multiply_twice():
    model = Tied()
    assert measure.count_parameters(model) == measure.count_weights(model) == 16
    assert measure.sparsity(model) == 0.75
    assert measure.bytes_dense(model) == 64
    assert measure.bytes_sparse(model) == 4 * 8 + 4 * 5
    assert measure.macs(model, torch.zeros(1, 4)) == 32
    assert measure.bytes_file(model) < measure.bytes_file(Tied(apart=True))
    apart = Tied(apart=True)
    assert measure.count_weights(apart) == 32 and measure.bytes_dense(apart) == 128
    assert measure.sparsity(apart) < 0.75


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_bytes_of_other_types(dtype):
    net = pruned(models.mlp((20, 10, 2)), 0.5)
    size = torch.empty(0, dtype=dtype).element_size()
    assert measure.bytes_dense(net.to(dtype)) == size * (20 * 10 + 10 + 10 * 2 + 2)
    assert measure.bytes_sparse(net) == 110 * (size + 4) + 4 * (11 + 3) + 12 * size
    assert 0 < measure.bytes_file(net) < 1000
    assert measure.macs(net, torch.zeros(1, 20, dtype=dtype), skip_zeros=True) == 110


def test_any_state_has_its_bytes():
    """Channels last, scalars, complex numbers and empty tensors: what numpy would write."""
    model = nn.Conv2d(3, 4, 3, bias=False).to(memory_format=torch.channels_last)
    model.register_buffer("scalar", torch.tensor(2))
    model.register_buffer("spectrum", torch.tensor([1 + 2j]).conj())
    model.register_buffer("empty", torch.zeros(0, 3))
    assert measure.bytes_dense(model) == 4 * 108 + 8 + 8
    for t in model.state_dict().values():
        assert measure.raw(t) == np.ascontiguousarray(t.resolve_conj().numpy()).tobytes()
    assert measure.bytes_file(model) > 400


def test_measuring_changes_nothing():
    """Batch norm's statistics, modes of all kinds, hooks, and the state."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Linear(3, 3))
    model[1].eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    measure.macs(model, torch.randn(4, 1, 5, 5))
    for count in (measure.bytes_dense, measure.bytes_sparse, measure.bytes_file, measure.sparsity):
        count(model)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks for m in model.modules())


def test_a_compiled_network_is_the_network():
    net, x = pruned(models.mlp((20, 10, 2)), 0.5), torch.zeros(3, 20)
    torch.compiler.reset()  # other tests may have used up what one code object may be compiled to
    compilations = []

    def backend(graph, _):
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(net, backend=backend)
    compiled(x)
    for count in (
        measure.count_weights,
        measure.sparsity,
        measure.bytes_dense,
        measure.bytes_sparse,
        lambda model: measure.macs(model, x, skip_zeros=True),
    ):
        assert count(compiled) == count(net)
    assert len(compilations) == 1  # measuring compiles nothing anew, which may take a minute


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(0, 4), "at least one example, got shape \\(0, 4\\)"),
        (torch.tensor(1.0), "at least one example"),
        (torch.zeros(2, 5), "x must fit the model, .* shape \\(1, 5\\)"),
        (torch.zeros(2, 4, dtype=torch.long), "x must fit the model"),
    ],
)
def test_inputs_that_do_not_fit(x, words):
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(ValueError, match=words):
        measure.macs(model, x)
    assert model.training and not model[0]._forward_hooks
    with pytest.raises(TypeError, match="x must be a tensor, got list"):
        measure.macs(model, [1.0])


def test_attention_is_refused_by_name():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    with pytest.raises(NotImplementedError, match=r"0\.self_attn"):
        measure.macs(model, torch.zeros(1, 3, 8))


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
    for conv in (models.small_cnn(), nn.Sequential(nn.Sequential(nn.Conv1d(1, 1, 1)))):
        with pytest.raises(TypeError, match="model must be an nn.Sequential without convolutions"):
            measure.sparse_copy(conv)


def linears(model):
    return [type(m).__name__ for m in model.modules() if "Linear" in type(m).__name__]


def test_sparse_copies_of_nested_networks():
    twice = nn.Linear(6, 6)
    net = nn.Sequential(
        nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), twice),
        nn.Dropout(),
        nn.ModuleDict({"unused": nn.ReLU()})["unused"],
        twice,
        nn.Sequential(nn.Sequential(nn.Linear(6, 2, bias=False))),
    )
    net[0][:2].eval()
    before, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    found = measure.sparse_copy(net)
    assert linears(found) == ["SparseLinear"] * 3 and linears(net) == ["Linear"] * 3
    assert found[0][2] is found[3]  # still one layer, used twice
    assert [m.training for m in found.modules()] == modes == [m.training for m in net.modules()]
    x = torch.randn(5, 4)
    torch.testing.assert_close(found.eval()(x), copy.deepcopy(net).eval()(x))
    found.train()(x)  # the batch norm of the copy moves, not the caller's
    with torch.no_grad():
        found[3].bias.fill_(9)
        found[3].weight.values().fill_(9)
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())


def test_sparse_layers_take_any_batch():
    net = pruned(nn.Sequential(nn.Linear(5, 3)), 0.6)
    for dtype, shape in (
        (torch.float32, (2, 7, 5)),
        (torch.float64, (5,)),
        (torch.float32, (0, 5)),
    ):
        dense = copy.deepcopy(net).to(dtype)
        x = torch.randn(shape, dtype=dtype)
        torch.testing.assert_close(measure.sparse_copy(dense)(x), dense(x))


def test_a_sparse_copy_of_computed_weights():
    model = computed("parametrised")
    x = torch.randn(2, 4)
    torch.testing.assert_close(measure.sparse_copy(model)(x), model(x))
    with pytest.raises(ValueError, match="'0'"):
        measure.sparse_copy(computed("pruned by torch"))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(2, 2), "must be an nn.Sequential"),
        (nn.Sequential(Doubled(2, 2)), "'0' is a Doubled"),
        (
            nn.Sequential(nn.Flatten(), Tied()),
            "'1.first' must stand in an nn.Sequential, not in a Tied",
        ),
        (nn.Sequential(nn.Linear(2, 2)).half(), "'0' has torch.float16"),
        (nn.Sequential(nn.Linear(2, 2)).bfloat16(), "'0' has torch.bfloat16"),
    ],
)
def test_what_has_no_sparse_copy_is_refused_by_name(model, words):
    with pytest.raises(TypeError, match=words):
        measure.sparse_copy(model)


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


def test_sparse_copies_are_copied():
    csr = measure.sparse_copy(pruned(models.mlp(), 0.9)).eval()
    found, x = copy.deepcopy(csr), torch.rand(3, 1, 14, 14)
    expected = csr(x)
    assert torch.equal(found(x), expected) and not any(m.training for m in found.modules())
    csr.fc1.weight.values().zero_()
    csr.fc1.bias.zero_()
    assert torch.equal(found(x), expected) and not torch.equal(csr(x), expected)


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

    monkeypatch.setattr("torch.utils.benchmark.Timer", Clock)
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

    monkeypatch.setattr("torch.utils.benchmark.Timer", Clock)
    found = measure.latency({"linear": nn.Linear(1, 1)}, torch.zeros(1), rounds=8)["linear"]
    expected = np.percentile(range(1, 9), [50, 25, 75]) / 1000
    assert found == pytest.approx(tuple(expected))
    assert (found.median, found.q1, found.q3) == tuple(found)


def test_bad_input():
    with pytest.raises(ValueError, match="model must have a linear or convolution layer, got ReLU"):
        measure.sparsity(nn.ReLU())
    with pytest.raises(ValueError, match="memory must be DRAM, SRAM or register, got 'disk'"):
        measure.energy(1, 1, memory="disk")
    for wrong in (
        {"bits": 0},
        {"bits": np.nan},
        {"weights": np.nan},
        {"macs": -1},
        {"macs": np.inf},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            measure.energy(**{"weights": 1, "macs": 1, **wrong})
    for wrong in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match="per_second must be finite"):
            measure.bandwidth(nn.Linear(1, 1), per_second=wrong)
    empty = nn.Linear(1, 2)
    empty.weight = nn.Parameter(torch.zeros(2, 0))
    with pytest.raises(ValueError, match="at least one weight"):
        measure.sparsity(empty)
    with pytest.raises(ValueError, match="models must hold at least one model"):
        measure.latency({}, torch.zeros(1))
    with pytest.raises(ValueError, match="rounds must be a positive integer, got 0"):
        measure.latency({"linear": nn.Linear(1, 1)}, torch.zeros(1), rounds=0)


class Truth(nn.Module):
    """The grammar itself as a model: the logarithm of the probability of each next word."""

    def __init__(self, grammar):
        super().__init__()
        self.grammar = grammar

    def forward(self, tokens):
        rows = [[self.grammar.next_word(row[: t + 1]) for t in range(len(row))] for row in tokens]
        return torch.stack([torch.stack(row) for row in rows]).log()


TEXT = data.Grammar(3).sample(7, 9, seed=1)


def test_nats_of_the_truth_are_the_floor():
    truth = Truth(data.Grammar(3))
    assert measure.nats(truth, TEXT, batch_size=3) == pytest.approx(-TEXT.log_p.mean().item())


def test_nats_are_a_mean_over_words_whatever_the_batches():
    model = models.tiny_transformer(94, context=9, seed=1)
    model.words.weight.data *= 20  # logits that differ
    model.train()
    logits = model(TEXT.tokens[:, :-1]).log_softmax(-1)
    by_hand = -sum(
        logits[i, t, TEXT.tokens[i, t + 1]].item() for i in range(7) for t in range(9)
    ) / (7 * 9)
    for size in (1, 3, 100):
        assert measure.nats(model, TEXT, batch_size=size) == pytest.approx(by_hand, rel=1e-5)
    assert model.training and abs(by_hand - math.log(94)) > 0.1
    half = measure.nats(model.half(), TEXT)  # half precision is no reason to sum in it
    assert half == pytest.approx(by_hand, rel=1e-2)


def test_nats_need_no_known_probability():
    model = models.tiny_transformer(94, context=9)
    assert measure.nats(model, data.Text(TEXT.tokens)) == measure.nats(model, TEXT)


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        (models.tiny_transformer(94), TEXT.tokens, "text must be a data.Text, got Tensor"),
        (
            models.tiny_transformer(94),
            data.Text(TEXT.tokens.float()),
            "text must have tokens of type torch.int64, got torch.float32",
        ),
        (models.tiny_transformer(94), data.Text(TEXT.tokens[:0]), "rows of at least two words"),
        (models.tiny_transformer(94), data.Text(TEXT.tokens[:, :1]), "rows of at least two words"),
        (models.tiny_transformer(94), data.Text(TEXT.tokens[0]), "rows of at least two words"),
        (models.tiny_transformer(94, context=5), TEXT, "text must fit the model"),
        (models.tiny_transformer(5), TEXT, "text must fit the model"),
        (models.mlp((9, 5)), TEXT, "text must fit the model"),
        (nn.Identity(), TEXT, r"logits \(n, t, vocabulary\), got \(7, 9\)"),
        (nn.Embedding(94, 5), TEXT, "words from 0 to 4, the model's outputs"),
        (nn.Sequential(nn.Embedding(94, 5), nn.Flatten()), TEXT, r"got \(7, 45\)"),
    ],
)
def test_nats_refuse_what_does_not_fit(model, text, message):
    with pytest.raises((ValueError, TypeError), match=message):
        measure.nats(model, text)
