"""Files that are damaged, forged or of another model: refused, and the model is as it was."""

import copy
import io
import itertools
import struct
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import models
from course_lib.compression import coding, container, sharing
from course_lib.pruning import allocate, criteria, masks


def bits_of(model):
    """Every tensor of a model as bytes: equal only if bit-identical."""
    tensors = model.state_dict().values()
    return [t.detach().reshape(-1).view(torch.uint8).tolist() for t in tensors]


def compressed(sizes=(6, 5, 3), *, sparsity=0.5, bits=2):
    net = models.mlp(sizes, seed=0)
    masks.apply(net, allocate.globally(criteria.magnitude(net), sparsity))
    sharing.apply(net, sharing.clusters(net, bits))
    return net


def scrambled(net):
    """The same architecture with other contents."""
    other = copy.deepcopy(net)
    for t in other.state_dict().values():
        t.copy_(torch.ones_like(t))
    return other


def unharmed(path, net, data, before):
    """Loading ``data`` raises ValueError, and leaves the model as it was."""
    path.write_bytes(data)
    with pytest.raises(ValueError, match="path"):
        coding.load(path, net)
    return bits_of(net) == before


@pytest.mark.parametrize("arithmetic", [False, True])
def test_every_flipped_bit_is_refused_and_changes_nothing(tmp_path, arithmetic):
    net, path = compressed(), tmp_path / "net.dc"
    coding.save(net, path, arithmetic=arithmetic)
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


def signed(body, whole):
    """A file with a right checksum: as somebody would forge it who has a ``whole`` one."""
    body = whole[8:12] + body  # the architecture
    return whole[:4] + struct.pack("<I", zlib.crc32(body)) + body


def holding(tensor):
    """A module whose state is one tensor ``w``."""
    net = nn.Module()
    net.register_buffer("w", tensor)
    return net


FORGED = (*range(20), *range(20, 256, 11), 127, 128, 254, 255)


@pytest.mark.parametrize("arithmetic", [False, True])
def test_forged_files_are_read_or_refused_but_never_worse(tmp_path, arithmetic):
    """The checksum is no protection against malice: every byte of the body is set to many values,
    every cut is made, under a right checksum."""
    net, path = compressed((9, 4), sparsity=0.6, bits=2), tmp_path / "net.dc"
    coding.save(net, path, arithmetic=arithmetic)
    whole, other = path.read_bytes(), scrambled(net)
    body = whole[12:]
    before, refused = bits_of(other), 0
    changed = (
        body[:i] + bytes([value]) + body[i + 1 :] for i in range(len(body)) for value in FORGED
    )
    cut = (body[:n] for n in range(len(body)))
    for forged in itertools.chain(changed, cut):
        path.write_bytes(signed(forged, whole))
        try:
            coding.load(path, other)
        except ValueError:
            refused += 1
            assert bits_of(other) == before
        else:
            before = bits_of(other)
            assert [t.shape for t in other.parameters()] == [t.shape for t in net.parameters()]
    assert refused > 500


def forge(path, body, net):
    """Put ``body`` under a right header of a file of ``net``."""
    coding.save(net, path)
    path.write_bytes(signed(body, path.read_bytes()))


@settings(deadline=None, max_examples=300, database=None, derandomize=True)
@given(st.data())
def test_forged_bodies_are_refused_cheaply(tmp_path_factory, data):
    """Sizes are bounded by the model before anything is allocated."""
    net, path = holding(torch.ones(50)), tmp_path_factory.mktemp("forged") / "net.dc"
    head = data.draw(st.sampled_from([1, 3, 5, 7, 9, 11, 15, 16, 18, 48, 50, 255]))
    forge(path, bytes([head]) + data.draw(st.binary(max_size=60)), net)
    try:
        coding.load(path, net)
    except ValueError:
        assert net.w.tolist() == [1] * 50


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (struct.pack("<BBI", 1, 5, 2**32 - 1), "entries"),
        (struct.pack("<BBI", 1, 255, 1), "entries of 255 bits"),
        (struct.pack("<BBI", 1, 32, 1), "entries of 32 bits"),
        (struct.pack("<BBI", 1, 31, 1) + b"\xff" * 4 + b"\0" * 4, "entry at 2147483647"),
        (struct.pack("<BBI", 5, 31, 1) + b"\1" * 9, "table of 2147483648 code words"),
        (struct.pack("<BBI", 5, 13, 1) + b"\1" * 9, "table of 8192 code words"),
        (struct.pack("<BBIH", 3, 0, 5, 65535), "codebook of 65535"),
        (struct.pack("<BBIH", 3, 0, 5, 0), "codebook of 0"),
        (struct.pack("<BBI", 5, 1, 5) + b"\xff\xff", "complete prefix code"),
        (struct.pack("<BBI", 1, 3, 2) + b"\xff", "entry at 15"),
        (struct.pack("<BBI", 1, 0, 10) + b"\0" * 30, "10 bytes too early"),
        (struct.pack("<BBIH", 3, 0, 9, 3) + b"\0" * 12 + b"\xff" * 3, "beyond its alphabet"),
        (b"\2", "unknown form"),
        (b"\x11", "unknown form"),
        (b"\x20", "unknown form"),
        (struct.pack("<BI", 16, 11), "11 weights for 10 places"),
        (struct.pack("<BI", 48, 3) + b"\x80\xa0\0", "3 weights for 2 places"),
        (struct.pack("<BI", 16, 2) + b"\0\0\0", "2 weights at 0 places"),
        (struct.pack("<BI", 16, 5) + b"\0", "bytes too early"),
        (struct.pack("<BIH", 18, 10, 11), "codebook of 11"),
        (struct.pack("<BIH", 18, 10, 2) + b"\0" * 8 + b"\xff", "bytes that no message|too early"),
        (b"\0abc", "too early"),
        (b"", "too early"),
        (struct.pack("<BBI", 1, 0, 0) + b"\0", "goes on"),
    ],
)
def test_what_is_wrong_is_said(body, words, tmp_path):
    net = holding(torch.ones(10))
    forge(tmp_path / "a", body, net)
    with pytest.raises(ValueError, match=words):
        coding.load(tmp_path / "a", net)
    assert net.w.tolist() == [1] * 10


@pytest.mark.parametrize("body", [struct.pack("<BBI", 1, 0, 0), struct.pack("<BI", 16, 0)])
def test_integers_have_no_sparse_form(body, tmp_path):
    net = holding(torch.ones(10, dtype=torch.int32))
    forge(tmp_path / "a", body, net)
    with pytest.raises(ValueError, match="unknown form"):
        coding.load(tmp_path / "a", net)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_no_weights_have_no_coded_form(shape, tmp_path):
    net = holding(torch.ones(shape))
    forge(tmp_path / "a", b"\x30", net)
    with pytest.raises(ValueError, match="unknown form"):
        coding.load(tmp_path / "a", net)


def halved():
    return models.mlp((6, 5, 3)).bfloat16()


def test_files_of_other_models_and_other_kinds_are_refused(tmp_path):
    path = tmp_path / "net.dc"
    coding.save(compressed((6, 5, 3)), path)
    data = path.read_bytes()
    for other in (models.mlp((5, 6, 3)), models.mlp((6, 5, 3)).double(), halved(), nn.Linear(6, 5)):
        assert unharmed(path, other, data, bits_of(other))
    torch.save(models.mlp((6, 5, 3)).state_dict(), path)  # a pickle: never opened as one
    net = models.mlp((6, 5, 3))
    assert unharmed(path, net, path.read_bytes(), bits_of(net))
    with pytest.raises(FileNotFoundError, match="none"):
        coding.load(tmp_path / "none", net)


def test_a_directory_is_no_file(tmp_path):
    net = models.mlp((6, 5, 3))
    for use in (lambda: coding.load(tmp_path, net), lambda: coding.save(net, tmp_path)):
        with pytest.raises(ValueError, match="must be a file, got a directory") as error:
            use()
        assert str(tmp_path) in str(error.value)
    with pytest.raises(FileNotFoundError, match="none"):
        coding.save(net, tmp_path / "none" / "net.dc")
    assert not list(tmp_path.iterdir())
    assert not list(tmp_path.parent.glob("*.part"))


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    net, path = compressed(), tmp_path / "net.dc"
    coding.save(net, path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        coding.save(nn.LazyLinear(3), path)
    assert path.read_bytes() == before


def test_ties_belong_to_the_architecture(tmp_path):
    """Two weights cannot be read into one, and one weight is not read as two."""
    apart = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied = copy.deepcopy(apart)
    tied[1].weight = tied[0].weight
    for net, other in ((apart, tied), (tied, apart)):
        coding.save(net, tmp_path / "a")
        assert unharmed(tmp_path / "a", other, (tmp_path / "a").read_bytes(), bits_of(other))


@pytest.mark.parametrize("width", [0, 1, 7, 8, 13, 31])
def test_unpack_undoes_pack(width):
    numbers = torch.randint(2**width, (50,), generator=torch.Generator().manual_seed(0)).numpy()
    data = container.pack(numbers, width)
    text = "".join(f"{n:0{width}b}" for n in numbers) if width else ""  # the oracle: bits as text
    assert "".join(f"{byte:08b}" for byte in data) == text.ljust(8 * len(data), "0")
    assert len(data) == -(-50 * width // 8)
    file = io.BytesIO(data + b"rest")
    assert container.unpack(file, 50, width).tolist() == numbers.tolist()
    assert file.read() == b"rest"


def test_a_huge_file_is_not_read(tmp_path):
    path, net = tmp_path / "huge", models.mlp((6, 5, 3))
    with open(path, "wb") as file:
        file.truncate(2**40)  # sparse: a terabyte of zeros that needs no disk
    with pytest.raises(ValueError, match="at most"):
        coding.load(path, net)
