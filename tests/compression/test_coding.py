"""Huffman against brute force and another library, distances against a loop, the file against the
entropy and against a size computed apart. The arithmetic coder by itself: test_arithmetic.py.
Damaged and forged files: test_container.py."""

import copy
import itertools
import math
import random
from fractions import Fraction

import dahuffman
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from course_lib import models
from course_lib.compression import coding, sharing
from course_lib.pruning import allocate, criteria, masks

QUIET = settings(deadline=None, max_examples=100, database=None, derandomize=True)


def numbers(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()


def bits_of(model):
    """Every tensor of a model as bytes: equal only if bit-identical."""
    tensors = model.state_dict().values()
    return [t.detach().resolve_conj().reshape(-1).view(torch.uint8).tolist() for t in tensors]


def compressed(sizes=(6, 5, 3), *, sparsity=0.5, bits=2, seed=0):
    net = models.mlp(sizes, seed=seed)
    masks.apply(net, allocate.globally(criteria.magnitude(net), sparsity))
    sharing.apply(net, sharing.clusters(net, bits))
    return net


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


@pytest.mark.parametrize("positions", [[3, 2], [2, 2], [-1, 4], [[1, 2]], [1.0]])
def test_positions_must_rise(positions):
    with pytest.raises(ValueError, match="positions"):
        coding.relative(torch.tensor(positions), 3)
    for bits in (32, -1, 2.0, True):
        with pytest.raises(ValueError, match="bits"):
            coding.relative(torch.tensor([1]), bits)


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
    for symbol in (1, 2, -1):
        with pytest.raises(ValueError, match="symbols must have code words"):
            coding.encode(np.array([symbol]), [1, 0])
    with pytest.raises(ValueError, match="count must"):
        coding.decode(b"\0", [1, 1], -1)
    for counts in ([], [0, 0], [-1, 2], [math.nan, 2]):
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


def holding(tensor):
    """A module whose state is one tensor ``w``."""
    net = nn.Module()
    net.register_buffer("w", tensor)
    return net


def scrambled(net):
    """The same architecture with other contents."""
    other = copy.deepcopy(net)
    for t in other.state_dict().values():
        t.copy_(torch.ones_like(t))
    return other


CODES = {"huffman": {}, "fixed": {"huffman": False}, "arithmetic": {"arithmetic": True}}


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
@pytest.mark.parametrize("kind", FILES)
def test_round_trip_is_bit_identical_and_every_byte_is_counted(kind, code, tmp_path):
    net, path = FILES[kind](), tmp_path / "net.dc"
    size = coding.save(net, path, **code)
    parts = coding.sizes(net, **code)
    assert size == path.stat().st_size == sum(sum(p.values()) for p in parts.values())
    other = scrambled(net)
    coding.load(path, other)
    assert bits_of(other) == bits_of(net)
    assert not list(tmp_path.glob("*.part"))
    again = tmp_path / "again.dc"
    coding.save(other, again, **code)
    assert again.read_bytes() == path.read_bytes()


FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
VALUES = st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.0, -2.5, 3e-40, math.inf]) | st.floats(width=32)


@QUIET
@given(
    st.lists(VALUES, min_size=1, max_size=300),
    st.sampled_from([*CODES.values()]),
    st.sampled_from(FLOATS),
    st.integers(1, 20),
)
def test_any_tensor_comes_back(tmp_path_factory, values, code, dtype, rows):
    tensor = torch.tensor(values, dtype=torch.double).to(dtype)
    tensor = tensor if len(values) % rows else tensor.view(rows, -1)
    tensor[tensor == 0] = 0.0  # the one exception: −0.0
    net, path = holding(tensor), tmp_path_factory.mktemp("any") / "net.dc"
    size = coding.save(net, path, **code)
    assert size <= 12 + 1 + tensor.element_size() * len(values)
    other = scrambled(net)
    coding.load(path, other)
    assert bits_of(other) == bits_of(net)


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_negative_zeros_come_back_as_zeros(code, tmp_path):
    net = compressed((30, 20, 3))
    net.fc1.weight.data[net.fc1.weight == 0] = -0.0
    size = coding.save(net, tmp_path / "a", **code)
    other = scrambled(net)
    coding.load(tmp_path / "a", other)
    assert torch.equal(other.fc1.weight, net.fc1.weight)
    assert not other.fc1.weight[other.fc1.weight == 0].signbit().any()
    assert coding.save(other, tmp_path / "a", **code) == size


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
    flat = torch.zeros(1000)
    flat[3::7] = torch.arange(143).remainder(2) + 1.0
    net = holding(flat)
    parts = coding.sizes(net, huffman=False)
    # 143 entries, distances 3 and then 6: three bits each; values 1 and 2: one bit each
    assert parts["w"] == {"header": 6, "codebook": 10, "indices": 54, "values": 18}
    coded = coding.sizes(net)["w"]
    assert coded == {"header": 6, "codebook": 10, "tables": 8, "indices": 18, "values": 18}


def size_by_formula(tensor, bits, huffman):
    """Bytes of one tensor with distances of ``bits`` bits, by the file's description."""

    def stream(symbols, alphabet):
        fixed = -(-len(symbols) * (alphabet - 1).bit_length() // 8)
        if not (huffman and symbols and alphabet <= 4096):
            return fixed
        lengths = coding.code_lengths(np.bincount(symbols, minlength=alphabet).tolist())
        return min(fixed, alphabet - (-sum(lengths[s] for s in symbols) // 8))

    distances, at = relative_by_loop(tensor.nonzero()[:, 0].tolist(), bits)
    values = np.zeros(len(distances), np.float32)
    values[at] = tensor[tensor != 0]
    found, numbers = np.unique(values, return_inverse=True)
    by_codebook = 2 + 4 * len(found) + stream(numbers.tolist(), max(1, len(found)))
    written = min(4 * len(values), by_codebook) if len(found) else 0
    return 6 + stream(distances, 2**bits) + written


@pytest.mark.parametrize("huffman", [True, False])
@pytest.mark.parametrize("sparsity", [0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1])
def test_no_other_width_of_the_distances_is_shorter(sparsity, huffman):
    """Only widths about the mean distance are tried; the oracle tries all of them."""
    for n, bits in ((100, 2), (3000, 4), (20_000, 3)):
        weight = numbers(n).float()
        weight[weight.abs() <= weight.abs().quantile(sparsity)] *= sparsity == 0
        nearest = sharing.kmeans(weight, 2**bits)[1]
        tensor = torch.where(weight == 0, 0.0, 1.0 + nearest)
        found = sum(coding.sizes(holding(tensor), huffman=huffman)["w"].values())
        every = [size_by_formula(tensor, b, huffman) for b in range(18)]
        assert found == min(every)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kept", [0, 1, 2, 5, 14, 15, 100, 1000, 10_000, 100_000])
def test_the_file_is_near_the_entropy_at_every_sparsity(kept, dtype):
    """Any code that tells apart all ways to keep so many of n places, with one of 15 values each,
    needs log2 (n choose kept) + kept log2 15 bits for most of them."""
    n, generator = 235_200, torch.Generator().manual_seed(kept)
    tensor = torch.zeros(n, dtype=dtype)
    places = torch.randperm(n, generator=generator)[:kept]
    tensor[places] = torch.randint(1, 16, (kept,), generator=generator).to(dtype)
    size = sum(coding.sizes(holding(tensor))["w"].values())
    ways = math.lgamma(n + 1) - math.lgamma(kept + 1) - math.lgamma(n - kept + 1)
    entropy = (ways / math.log(2) + kept * math.log2(15)) / 8
    codebook = 2 + min(kept, 15) * tensor.element_size()
    assert size <= 1.1 * entropy + codebook + 12  # a header, and ends of bytes


def placed(generator, shape, kept):
    """A matrix with so many weights at random places, each one of seven values."""
    tensor = torch.zeros(shape.numel())
    places = torch.randperm(shape.numel(), generator=generator)[:kept]
    tensor[places] = torch.randint(1, 8, (kept,), generator=generator).float()
    return tensor.view(shape)


@pytest.mark.parametrize("kept", [1000, 4000, 20_000, 117_600])
def test_arithmetic_codes_are_within_three_percent_of_the_entropy(kept):
    tensor = placed(torch.Generator().manual_seed(kept), torch.Size([300, 784]), kept)
    n, parts = tensor.numel(), coding.sizes(holding(tensor), arithmetic=True)["w"]
    ways = math.lgamma(n + 1) - math.lgamma(kept + 1) - math.lgamma(n - kept + 1)
    assert ways / math.log(2) / 8 < parts["indices"] < 1.03 * ways / math.log(2) / 8
    share = tensor[tensor != 0].unique(return_counts=True)[1] / kept
    entropy = float(-(share * share.log2()).sum()) * kept / 8
    assert entropy < parts["values"] < 1.03 * entropy
    assert parts["tables"] == -(-7 * kept.bit_length() // 8)
    assert (parts["header"], parts["codebook"]) == (5, 2 + 7 * 4)


def test_empty_rows_and_columns_are_left_out():
    """Of a matrix with weights in a small block, the block's entropy and a bit per row and column."""
    block = placed(torch.Generator().manual_seed(0), torch.Size([60, 40]), 500)
    whole = torch.zeros(300, 784)
    whole[::5, 3:43] = block
    parts = coding.sizes(holding(whole), arithmetic=True)["w"]
    inner = coding.sizes(holding(block), arithmetic=True)["w"]
    assert parts.pop("indices") == inner.pop("indices") + 300 // 8 + 1 + 784 // 8
    assert parts == inner


@pytest.mark.parametrize("kind", FILES)
def test_arithmetic_coding_never_needs_more_bytes(kind):
    net = FILES[kind]()
    size = {
        name: sum(sum(p.values()) for p in coding.sizes(net, **c).values())
        for name, c in CODES.items()
    }
    assert size["arithmetic"] <= size["huffman"] <= size["fixed"]


def test_arithmetic_coding_of_a_pruned_network_saves_a_twentieth(tmp_path):
    net = compressed((784, 300, 100, 10), sparsity=0.98, bits=3)
    huffman = coding.save(net, tmp_path / "a")
    assert coding.save(net, tmp_path / "a", arithmetic=True) < 0.95 * huffman


def test_no_cliff_where_few_weights_are_left():
    """Spread evenly over 235,200 places, 15 kept weights took 144 bytes and 14 took 29,428."""
    sizes = []
    for kept in range(1, 20):
        tensor = torch.zeros(235_200)
        tensor[torch.linspace(0, 235_199, kept).long()] = 1.5
        sizes.append(sum(sum(p.values()) for p in coding.sizes(holding(tensor)).values()))
    assert max(sizes) < 100
    assert all(abs(a - b) <= 8 for a, b in itertools.pairwise(sizes))


def tied():
    net = nn.Sequential(nn.Embedding(50, 40), nn.Linear(40, 50, bias=False))
    net[1].weight = net[0].weight
    return net


def test_a_tied_weight_is_written_once_and_still_tied(tmp_path):
    net, path = tied(), tmp_path / "net.dc"
    size = coding.save(net, path)
    assert size == 12 + 1 + 4 * 50 * 40
    assert list(coding.sizes(net)) == ["", "0.weight"]
    other = scrambled(net)
    coding.load(path, other)
    assert bits_of(other) == bits_of(net)
    assert other[0].weight is other[1].weight


def parametrised():
    net = models.mlp((6, 5, 3))
    parametrizations.weight_norm(net.fc1)
    return net


def pruned_by_torch():
    net = models.mlp((40, 30, 3))
    prune.l1_unstructured(net.fc1, "weight", 0.9)
    return net


def of_type(dtype):
    return lambda: compressed((30, 20, 3), sparsity=0.9).to(dtype)


def compiled():
    return torch.compile(compressed((30, 20, 3)), backend="eager")


def frozen():
    return compressed((30, 20, 3)).requires_grad_(False)


STRANGE = {
    "parametrised": parametrised,
    "pruned by torch": pruned_by_torch,
    "float16": of_type(torch.float16),
    "bfloat16": of_type(torch.bfloat16),
    "float64": of_type(torch.float64),
    "complex": lambda: holding(torch.complex(torch.zeros(3), torch.tensor([-0.0, 1, math.nan]))),
    "conjugate": lambda: holding(torch.tensor([1 + 2j, 0]).conj()),
    "scalar": lambda: holding(torch.tensor(-2.5)),
    "empty": lambda: holding(torch.zeros(0, 3)),
    "nothing": nn.Module,
    "compiled": compiled,
    "frozen": frozen,
    "channels last": lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_models_come_back_to_the_bit(kind, tmp_path):
    net, path = STRANGE[kind](), tmp_path / "net.dc"
    before = bits_of(net)
    coding.save(net, path)
    assert bits_of(net) == before
    other = scrambled(net) if kind != "pruned by torch" else STRANGE[kind]()
    with torch.no_grad():
        for t in other.state_dict().values():
            t.copy_(torch.ones_like(t))
    coding.load(path, other)
    assert bits_of(other) == before
    assert [p.requires_grad for p in other.parameters()] == [
        p.requires_grad for p in net.parameters()
    ]


def test_half_precision_is_coded_too():
    for dtype, size in ((torch.float16, 2), (torch.bfloat16, 2), (torch.float64, 8)):
        net = compressed((100, 60, 3), sparsity=0.9)
        whole = coding.sizes(net)["fc1.weight"]
        parts = coding.sizes(net.to(dtype))["fc1.weight"]
        assert parts["codebook"] - 2 == (whole["codebook"] - 2) * size // 4
        assert [parts[k] for k in ("indices", "values")] == [
            whole[k] for k in ("indices", "values")
        ]


def test_a_compiled_network_is_the_network(tmp_path):
    net = compressed((6, 5, 3))
    coding.save(torch.compile(net, backend="eager"), tmp_path / "a")
    other = scrambled(net)
    coding.load(tmp_path / "a", other)
    assert bits_of(other) == bits_of(net)


class Odd(nn.Linear):
    def get_extra_state(self):
        return "a secret"


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (Odd(2, 2), "str"),
        (nn.LazyLinear(3), "'weight' is lazy"),
        (nn.Linear(2, 2, device="meta"), "meta"),
        (holding(torch.eye(3).to_sparse()), "sparse"),
    ],
)
def test_only_dense_tensors_can_be_saved(net, words, tmp_path):
    for use in (lambda: coding.save(net, tmp_path / "a"), lambda: coding.sizes(net)):
        with pytest.raises(TypeError, match=words):
            use()
    assert not list(tmp_path.iterdir())


def test_code_words_too_long_for_a_file_are_not_written(monkeypatch, tmp_path):
    """Fibonacci's counts make the deepest tree: beyond the limit the fixed length is taken."""
    counts = [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144]
    assert max(coding.code_lengths(counts)) == 11
    net = holding(torch.arange(1.0, 13).repeat_interleave(torch.tensor(counts)))
    assert coding.sizes(net)["w"]["tables"] == 12
    monkeypatch.setattr(coding, "LONGEST_CODE", 10)
    parts = coding.sizes(net)["w"]
    assert "tables" not in parts and parts["values"] == -(-sum(counts) * 4 // 8)
    coding.save(net, tmp_path / "a")
    other = scrambled(net)
    coding.load(tmp_path / "a", other)
    assert bits_of(other) == bits_of(net)
