"""Sharing against scikit-learn and exact k-means, Huffman against brute force and another library,
relative indices against a loop, the file against every flipped bit and every cut."""

import copy
import itertools
import math
import random
import struct
import zlib
from fractions import Fraction
from types import SimpleNamespace

import dahuffman
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import nn

from course_lib import ensemble, models, training
from course_lib.compression import coding, sharing
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


# Sharing


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
    for bits in (0, 13, 2.0, {"fc1.weight": 0}, {"fc9.weight": 3}):
        with pytest.raises(ValueError, match="bits"):
            sharing.clusters(net, bits)
    for values in (torch.zeros(0), torch.zeros(2, 2), torch.tensor([1.0, math.nan])):
        with pytest.raises(ValueError, match="values"):
            sharing.kmeans(values, 2)
    with pytest.raises(ValueError, match="k must"):
        sharing.kmeans(numbers(3), 0)
    with (
        pytest.raises(ValueError, match="does not train"),
        sharing.hold(torch.optim.SGD([net.fc1.weight], lr=1), net, sharing.clusters(net, 2)),
    ):
        pass
    with pytest.raises(ValueError, match="at least one"):
        sharing.stack([])


# Relative indices


def relative_by_loop(positions, bits):
    found, at, stand = [], [], -1
    for p in positions:
        while p - stand > 2**bits:
            stand += 2**bits
            found.append(2**bits - 1)
        found.append(p - stand - 1)
        at.append(len(found) - 1)
        stand = p
    return found, at


@QUIET
@given(st.lists(st.integers(0, 300), unique=True, max_size=30).map(sorted), st.integers(0, 9))
def test_relative_is_a_loop_and_back(positions, bits):
    distances, at = coding.relative(torch.tensor(positions, dtype=torch.long), bits)
    assert (distances.tolist(), at.tolist()) == relative_by_loop(positions, bits)
    assert ((distances >= 0) & (distances < 2**bits)).all()
    assert coding.absolute(distances)[at].tolist() == positions


def test_relative_is_figure_2():
    """Weights at 1, 4 and 15, three bits: distances 3, 8 (a filler) and 3 follow the first."""
    distances, at = coding.relative(torch.tensor([1, 4, 15]), 3)
    assert (distances + 1).tolist()[1:] == [3, 8, 3]
    assert coding.absolute(distances).tolist() == [1, 4, 12, 15]
    assert at.tolist() == [0, 1, 3]


@pytest.mark.parametrize("positions", [[3, 2], [2, 2], [-1, 4]])
def test_positions_must_rise(positions):
    with pytest.raises(ValueError, match="positions"):
        coding.relative(torch.tensor(positions), 3)
    with pytest.raises(ValueError, match="bits"):
        coding.relative(torch.tensor([1]), 13)


# Huffman


def profiles(n, longest):
    """All sorted lists of n word lengths whose Kraft sum is at most 1."""

    def grow(lengths, left):
        if len(lengths) == n:
            yield lengths
            return
        for length in range(lengths[-1] if lengths else 1, longest + 1):
            if Fraction(1, 2**length) <= left:
                yield from grow([*lengths, length], left - Fraction(1, 2**length))

    return list(grow([], Fraction(1)))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_no_prefix_code_is_shorter(n):
    every = profiles(n, n - 1)
    rng = random.Random(n)
    for _ in range(60):
        counts = [rng.randint(1, 2 ** rng.randint(1, 8)) for _ in range(n)]
        lengths = coding.code_lengths(counts)
        cost = sum(c * length for c, length in zip(counts, lengths, strict=True))
        falling = sorted(counts, reverse=True)  # the best use of a profile: long words for the rare
        assert cost == min(sum(map(int.__mul__, falling, profile)) for profile in every)


COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=40).filter(lambda c: any(c))


@QUIET
@given(COUNTS)
def test_mean_length_is_within_a_bit_of_the_entropy(counts):
    lengths = coding.code_lengths(counts)
    assert [n == 0 for n in lengths] == [c == 0 for c in counts]
    used = [c for c in counts if c]
    if len(used) == 1:
        assert max(lengths) == 1
        return
    p = np.asarray(used) / sum(used)
    entropy = float(-(p * np.log2(p)).sum())
    mean = sum(c * n for c, n in zip(counts, lengths, strict=True)) / sum(counts)
    assert entropy - 1e-9 <= mean < entropy + 1
    assert sum(Fraction(1, 2**n) for n in lengths if n) == 1


@QUIET
@given(COUNTS)
def test_code_is_as_short_as_another_librarys(counts):
    theirs = dahuffman.HuffmanCodec.from_frequencies({i: c for i, c in enumerate(counts) if c})
    table = theirs.get_code_table()  # with a symbol for the end, counted once
    cost = sum(table[i][0] * c for i, c in enumerate(counts) if c)
    ours = coding.code_lengths([*counts, 1])
    end = next(bits for symbol, (bits, _) in table.items() if not isinstance(symbol, int))
    assert sum(n * c for n, c in zip(ours, [*counts, 1], strict=True)) == cost + end


def test_canonical_words_are_those_of_rfc_1951():
    """Its section 3.2.2: lengths 3, 3, 3, 3, 3, 2, 4, 4 of the letters A to H."""
    words = coding.canonical([3, 3, 3, 3, 3, 2, 4, 4])
    assert words == [0b010, 0b011, 0b100, 0b101, 0b110, 0b00, 0b1110, 0b1111]


@QUIET
@given(st.lists(st.integers(0, 60), min_size=1, max_size=200))
def test_decode_undoes_encode(symbols):
    lengths = coding.code_lengths(np.bincount(symbols, minlength=61).tolist())
    data = coding.encode(np.asarray(symbols), lengths)
    words = coding.canonical(lengths)
    text = "".join(f"{words[s]:0{lengths[s]}b}" for s in symbols)  # the oracle: words as text
    assert data == int(text.ljust(8 * len(data), "0"), 2).to_bytes(len(data), "big")
    assert len(data) == -(-len(text) // 8)
    assert coding.decode(data + b"rest", lengths, len(symbols)) == (symbols, len(data))


@pytest.mark.parametrize(
    "lengths", [[], [0, 0], [1, 1, 1], [1, 2], [2], [33, 1], [-1, 1], [1, 0, 2]]
)
def test_incomplete_codes_are_refused(lengths):
    for use in (
        lambda: coding.canonical(lengths),
        lambda: coding.decode(b"\0\0", lengths, 1),
        lambda: coding.encode(np.zeros(1, dtype=int), lengths),
    ):
        with pytest.raises(ValueError, match="complete prefix code"):
            use()


def test_data_that_are_no_words_are_refused():
    with pytest.raises(ValueError, match="end within"):
        coding.decode(b"\xff", [1, 2, 2], 5)
    with pytest.raises(ValueError, match="no code word"):
        coding.decode(b"\xff" * 9, [1, 0], 40)
    with pytest.raises(ValueError, match="length 0"):
        coding.encode(np.array([1]), [1, 0])
    for counts in ([], [0, 0], [-1, 2]):
        with pytest.raises(ValueError, match="counts"):
            coding.code_lengths(counts)


# The file


def with_batchnorm():
    net = models.vgg(width=0.25)
    sharing.apply(net, sharing.clusters(net, 3))
    return net


def odd_numbers():
    """What floating point can hold: infinities, NaN with a payload, subnormals; other types."""
    net = nn.Module()
    payload = torch.tensor([0x7FC12345, 0x00000001], dtype=torch.int32).view(torch.float32)
    strange = torch.cat([payload, torch.tensor([math.inf, -math.inf, 0.0, 1.0])])
    net.register_buffer("strange", strange)
    net.register_buffer("sparse", torch.cat([torch.zeros(5000), strange, torch.zeros(5000)]))
    net.register_buffer("bfloat", torch.arange(5).bfloat16())
    net.register_buffer("flags", torch.tensor([True, False]))
    net.register_buffer("empty", torch.zeros(0, 3))
    net.register_buffer("scalar", torch.tensor(7))
    net.register_buffer("none", torch.zeros(40))
    return net


FILES = {
    "dense": lambda: models.mlp((6, 5, 3)),
    "pruned": lambda: compressed((30, 20, 3), bits=12),
    "shared": lambda: compressed((30, 20, 3), bits=2),
    "one value": lambda: compressed((30, 20, 3), bits=1),
    "very sparse": lambda: compressed((200, 100, 3), sparsity=0.999),
    "all zero": lambda: compressed((30, 20, 3), sparsity=1.0),
    "not pruned, shared": lambda: compressed((30, 20, 3), sparsity=0.0, bits=4),
    "convolutions": lambda: compressed_lenet(),
    "batch norm": with_batchnorm,
    "odd numbers": odd_numbers,
}


def compressed_lenet():
    net = models.lenet5(width=0.2)
    masks.apply(net, allocate.globally(criteria.magnitude(net), 0.9))
    sharing.apply(net, sharing.clusters(net, 5))
    return net


def scrambled(net):
    """The same architecture with other contents."""
    other = copy.deepcopy(net)
    for t in other.state_dict().values():
        t.copy_(torch.ones_like(t))
    return other


@pytest.mark.parametrize("huffman", [True, False])
@pytest.mark.parametrize("kind", FILES)
def test_round_trip_is_bit_identical_and_every_byte_is_counted(kind, huffman, tmp_path):
    net, path = FILES[kind](), tmp_path / "net.dc"
    size = coding.save(net, path, huffman=huffman)
    parts = coding.sizes(net, huffman=huffman)
    assert size == path.stat().st_size == sum(sum(p.values()) for p in parts.values())
    other = scrambled(net)
    coding.load(path, other)
    assert bits_of(other) == bits_of(net)
    assert not list(tmp_path.glob("*.part"))
    again = tmp_path / "again.dc"
    coding.save(other, again, huffman=huffman)
    assert again.read_bytes() == path.read_bytes()


VALUES = st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.0, -2.5, 3e-40, math.inf]) | st.floats(width=32)


@QUIET
@given(st.lists(VALUES, min_size=1, max_size=300), st.booleans())
def test_any_tensor_comes_back(values, huffman):
    tensor = torch.tensor(values)
    tensor[tensor == 0] = 0.0  # the one exception: −0.0
    pieces = coding._block(tensor, huffman)
    data = b"".join(piece for _, piece in pieces)
    file = coding.BytesIO(data)
    assert torch.equal(
        coding._read_tensor(file, tensor).view(torch.int32), tensor.view(torch.int32)
    )
    assert file.read() == b""
    assert len(data) <= 1 + 4 * len(values)


def test_negative_zeros_come_back_as_zeros(tmp_path):
    net = compressed((30, 20, 3))
    net.fc1.weight.data[net.fc1.weight == 0] = -0.0
    size = coding.save(net, tmp_path / "a")
    other = scrambled(net)
    coding.load(tmp_path / "a", other)
    assert torch.equal(other.fc1.weight, net.fc1.weight)
    assert not other.fc1.weight[other.fc1.weight == 0].signbit().any()
    assert coding.save(other, tmp_path / "a") == size


def test_huffman_and_sharing_save_bytes(tmp_path):
    net = models.mlp((100, 60, 10))
    dense = coding.save(net, tmp_path / "a")
    masks.apply(net, allocate.globally(criteria.magnitude(net), 0.9))
    pruned = coding.save(net, tmp_path / "a", huffman=False)
    sharing.apply(net, sharing.clusters(net, 5))
    shared = coding.save(net, tmp_path / "a", huffman=False)
    coded = coding.save(net, tmp_path / "a")
    assert dense > 5 * pruned > 5 * 2 * shared > 5 * 2 * coded


def test_the_size_is_what_the_formulas_say():
    """Fixed-length codes, counted by hand: two weights in 32, the second 20 further on."""
    net = SimpleNamespace(state_dict=lambda: {"w": flat})
    flat = torch.zeros(1000)
    flat[3::7] = torch.arange(143).remainder(2) + 1.0
    parts = coding.sizes(net, huffman=False)
    # 143 entries, distances 3 and then 6: three bits each; values 1 and 2: one bit each
    assert parts["w"] == {"header": 6, "codebook": 10, "indices": 54, "values": 18}
    coded = coding.sizes(net)["w"]
    assert coded == {"header": 6, "codebook": 10, "tables": 8, "indices": 18, "values": 18}


@pytest.mark.parametrize("huffman", [True, False])
@pytest.mark.parametrize("sparsity", [0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999])
def test_no_other_width_of_the_distances_is_shorter(sparsity, huffman, monkeypatch):
    """Only widths about the mean distance are tried; the oracle tries all of them."""
    for n, bits in ((100, 2), (3000, 4), (20_000, 3)):
        weight = numbers(n).float()
        weight[weight.abs() <= weight.abs().quantile(sparsity)] *= sparsity == 0
        nearest = sharing.kmeans(weight, 2**bits)[1]
        tensor = torch.where(weight == 0, 0.0, 1.0 + nearest)
        found = coding._length(coding._block(tensor, huffman))
        with monkeypatch.context() as patch:
            patch.setattr(coding, "_widths", lambda *_: range(coding.MOST_INDEX_BITS + 1))
            assert found == coding._length(coding._block(tensor, huffman))


def unharmed(path, net, data, before):
    """Loading ``data`` raises ValueError, and leaves the model as it was."""
    path.write_bytes(data)
    with pytest.raises(ValueError, match="path"):
        coding.load(path, net)
    return bits_of(net) == before


def test_every_flipped_bit_is_refused_and_changes_nothing(tmp_path):
    net, path = compressed(), tmp_path / "net.dc"
    coding.save(net, path)
    data, other = path.read_bytes(), scrambled(net)
    before = bits_of(other)
    assert len(data) < 300
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert unharmed(path, other, damaged, before), bit


def test_every_cut_and_every_addition_is_refused_and_changes_nothing(tmp_path):
    net, path = compressed(), tmp_path / "net.dc"
    coding.save(net, path)
    data, other = path.read_bytes(), scrambled(net)
    before = bits_of(other)
    for n in range(len(data)):
        assert unharmed(path, other, data[:n], before), n
    for more in (b"\0", b"\0" * 100, data):
        assert unharmed(path, other, data + more, before)


def signed(body, net):
    """A file with a right checksum: as somebody would forge it."""
    body = struct.pack("<I", coding._architecture(net.state_dict())) + body
    return coding.MAGIC + struct.pack("<I", zlib.crc32(body)) + body


FORGED = (*range(20), *range(20, 256, 11), 127, 128, 254, 255)


def test_forged_files_are_read_or_refused_but_never_worse(tmp_path):
    """The checksum is no protection against malice: every byte of the body is set to many values,
    every cut is made, under a right checksum."""
    net, path = compressed((9, 4), sparsity=0.6, bits=2), tmp_path / "net.dc"
    coding.save(net, path)
    body, other = path.read_bytes()[12:], scrambled(net)
    before, refused = bits_of(other), 0
    changed = (
        body[:i] + bytes([value]) + body[i + 1 :] for i in range(len(body)) for value in FORGED
    )
    cut = (body[:n] for n in range(len(body)))
    for forged in itertools.chain(changed, cut):
        path.write_bytes(signed(forged, net))
        try:
            coding.load(path, other)
        except ValueError:
            refused += 1
            assert bits_of(other) == before
        else:
            before = bits_of(other)
            assert [t.shape for t in other.parameters()] == [t.shape for t in net.parameters()]
    assert refused > 500


@settings(deadline=None, max_examples=300, database=None, derandomize=True)
@given(st.data())
def test_forged_large_files_are_refused_cheaply(data):
    """Sizes are bounded by the model before anything is allocated."""
    like = torch.zeros(50)
    head = data.draw(st.sampled_from([1, 3, 5, 7, 9, 11, 15, 255]))
    body = bytes([head]) + data.draw(st.binary(max_size=60))
    file = coding.BytesIO(body)
    try:
        found = coding._read_tensor(file, like)
    except ValueError:
        return
    assert found.shape == like.shape


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (struct.pack("<BBI", 1, 5, 2**32 - 1), "entries"),
        (struct.pack("<BBI", 1, 255, 1), "entries of 255 bits"),
        (struct.pack("<BBIH", 3, 0, 5, 65535), "codebook of 65535"),
        (struct.pack("<BBIH", 3, 0, 5, 0), "codebook of 0"),
        (struct.pack("<BBI", 5, 1, 5) + b"\xff\xff", "complete prefix code"),
        (struct.pack("<BBI", 1, 3, 2) + b"\xff", "entry at 15"),
        (struct.pack("<BBI", 1, 0, 10) + b"\0" * 39, "1 bytes too early"),
        (struct.pack("<BBIH", 3, 0, 9, 3) + b"\0" * 12 + b"\xff" * 3, "beyond its alphabet"),
        (b"\2", "unknown form"),
        (b"\x10", "unknown form"),
        (b"\0abc", "too early"),
        (b"", "too early"),
    ],
)
def test_what_is_wrong_is_said(body, words):
    with pytest.raises(ValueError, match=words):
        coding._read_tensor(coding.BytesIO(body), torch.zeros(10))


def test_files_of_other_models_and_other_kinds_are_refused(tmp_path):
    path = tmp_path / "net.dc"
    coding.save(compressed((6, 5, 3)), path)
    data = path.read_bytes()
    for other in (models.mlp((5, 6, 3)), models.mlp((6, 5, 3)).double(), nn.Linear(6, 5)):
        assert unharmed(path, other, data, bits_of(other))
    torch.save(models.mlp((6, 5, 3)).state_dict(), path)  # a pickle: never opened as one
    net = models.mlp((6, 5, 3))
    assert unharmed(path, net, path.read_bytes(), bits_of(net))
    with pytest.raises(FileNotFoundError):
        coding.load(tmp_path / "none", net)


def test_a_huge_file_is_not_read(tmp_path):
    path, net = tmp_path / "huge", models.mlp((6, 5, 3))
    with open(path, "wb") as file:
        file.truncate(2**40)  # sparse: a terabyte of zeros that needs no disk
    with pytest.raises(ValueError, match="at most"):
        coding.load(path, net)


def test_only_tensors_can_be_saved(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return "a secret"

    with pytest.raises(TypeError, match="str"):
        coding.save(Odd(2, 2), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_code_words_too_long_for_a_file_are_not_written(monkeypatch):
    """Fibonacci's counts make the deepest tree: beyond the limit the fixed length is taken."""
    counts = [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144]
    symbols = np.repeat(np.arange(12), counts)
    assert max(coding.code_lengths(counts)) == 11
    assert coding._stream("values", symbols, 12, True)[0]
    monkeypatch.setattr(coding, "LONGEST_CODE", 10)
    coded, [(_part, data)] = coding._stream("values", symbols, 12, True)
    assert not coded
    assert coding.decode(data, [4] * 16, len(symbols))[0] == symbols.tolist()
