r"""Deep Compression (Han, Mao & Dally 2016): share what pruning left, code it, and write the file.

Three stages. *Pruning* is ``course_lib.pruning``'s. *Sharing*: k-means a layer, so that its weights
take few values, which are then trained (``clusters``, ``apply``, ``hold``). *Coding*: positions as
distances, and Huffman's code for distances and values (``relative``, ``code_lengths``, ``encode``).
``save`` and ``load`` put the three into a file whose size on disk is the claim.

``Clusters`` is plain data like a mask: parameter name -> int64 tensor of the parameter's shape, the
number of each weight's cluster, −1 where the weight is pruned. The centroids are the weights
themselves, so the model stays an ordinary model.

The file, in this order; whole numbers are little-endian::

    4 bytes       DCF1
    4             CRC-32 of everything that follows
    4             CRC-32 of the names, shapes and types of the model's tensors
    then for each tensor of the state_dict, in its order:
    1             its form: 0, or SPARSE and perhaps CODEBOOK, CODED_INDICES, CODED_VALUES
                  form 0 goes on with the tensor's bytes, nothing else; all others with
    1             b, the bits of a distance
    4             the number of entries: weights that are not zero, and fillers
    2 and 4 k     k, and the k values of the codebook as float32    (CODEBOOK)
    2^b           the length of each distance's code word, a byte each    (CODED_INDICES)
    …             distances, less one: b bits each, or code words
    k             the length of each value's code word, a byte each    (CODED_VALUES)
    …             values: float32, or codebook numbers of ⌈log2 k⌉ bits, or code words

Checked against the paper's text: sections 2 to 4 with equations 1 to 3, figures 2 and 3, tables 1
to 3. Two things the paper leaves open are ours: a layer's 2^bits codes include the zero of the
fillers, and the first distance is counted from before the first position (in figure 2 from it).
"""

import heapq
import itertools
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

Clusters = dict[str, Tensor]

MAGIC = b"DCF1"
SPARSE, CODEBOOK, CODED_INDICES, CODED_VALUES = 1, 2, 4, 8
MOST_INDEX_BITS, LARGEST_CODEBOOK, LONGEST_CODE = 12, 4096, 32


# Coding


def relative(positions: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Rising positions as distances of ``bits`` bits each.

    An entry's number d says that the next entry stands d + 1 positions further on, 0 <= d < 2^bits.
    Where the way to the next weight is longer than 2^bits, *filler zeros* stand in between.

    Source: Han et al. 2016, section 2 and figure 2, whose "largest 3-bit unsigned number" 8 is
    d = 7 here: a distance of 0 does not occur and needs no code.

    Args:
        positions: (n,) int64, rising, from 0 on.
        bits: 0 to 12; with 0 every position has its entry.

    Returns:
        (m,) numbers d of all entries, and (n,) which of the entries are the weights; the other
        m − n are fillers.

    Raises:
        ValueError: positions that do not rise from 0 on, bits outside 0 to 12.
    """
    if not isinstance(bits, int) or not 0 <= bits <= MOST_INDEX_BITS:
        raise ValueError(f"bits must be a whole number from 0 to {MOST_INDEX_BITS}, got {bits!r}")
    skipped = torch.diff(positions, prepend=positions.new_tensor([-1])) - 1  # zeros before each
    if (skipped < 0).any():
        raise ValueError(f"positions must rise, from 0 on, got {positions}")
    fillers = skipped >> bits
    at = (fillers + 1).cumsum(0) - 1
    distances = positions.new_full((len(positions) + int(fillers.sum()),), 2**bits - 1)
    distances[at] = skipped & (2**bits - 1)
    return distances, at


def absolute(distances: Tensor) -> Tensor:
    """The positions of all entries, fillers included: the way back from ``relative``."""
    return (distances + 1).cumsum(0) - 1


def code_lengths(counts: Sequence[int]) -> list[int]:
    """The length in bits of each symbol's word in Huffman's code, 0 where its count is 0.

    No prefix code needs fewer bits in all (Huffman 1952). With the counts' entropy H, the mean
    length is at least H and below H + 1. One symbol alone gets a word of one bit.

    Raises:
        ValueError: a count below 0, or none above.
    """
    if any(n < 0 for n in counts) or not any(counts):
        raise ValueError(f"counts must be 0 or more, at least one of them more, got {counts!r}")
    lengths = [0] * len(counts)
    # (count, age, symbols below this node); of equal counts the older node goes first
    age = itertools.count()
    heap = [(n, next(age), [i]) for i, n in enumerate(counts) if n]
    heapq.heapify(heap)
    if len(heap) == 1:
        lengths[heap[0][2][0]] = 1
    while len(heap) > 1:
        (n, _, left), (m, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in left + right:
            lengths[symbol] += 1
        heapq.heappush(heap, (n + m, next(age), left + right))
    return lengths


def canonical(lengths: Sequence[int]) -> list[int]:
    """The code words, as numbers: shorter ones first, then by symbol, each one more than the last
    (and shifted where the length grows). So a decoder needs to know only the lengths.

    Raises:
        ValueError: lengths that no prefix code has, or that leave words unused (Kraft's sum of
            2^−length is not 1; one word of one bit is allowed).
    """
    used = [n for n in lengths if n]
    if any(not 0 <= n <= LONGEST_CODE for n in lengths) or (
        used != [1] and sum(2 ** (LONGEST_CODE - n) for n in used) != 2**LONGEST_CODE
    ):
        raise ValueError(f"lengths must be those of a complete prefix code, got {list(lengths)}")
    words, word, before = [0] * len(lengths), 0, 0
    for length, symbol in sorted((n, i) for i, n in enumerate(lengths) if n):
        word <<= length - before
        words[symbol], word, before = word, word + 1, length
    return words


def encode(symbols: np.ndarray, lengths: Sequence[int]) -> bytes:
    """The symbols' code words one after another, padded with zero bits to whole bytes."""
    length, word = np.asarray(lengths), np.asarray(canonical(lengths))
    n, word = length[symbols], word[symbols]
    if len(n) and n.min() == 0:
        raise ValueError("symbols must have code words, got one of length 0")
    start = n.cumsum() - n
    bits = np.zeros(n.sum(), dtype=np.uint8)
    for place in range(n.max(initial=0)):  # the word's first bit, then its second, …
        has = n > place
        bits[start[has] + place] = word[has] >> (n[has] - 1 - place) & 1
    return np.packbits(bits).tobytes()


def decode(data: bytes, lengths: Sequence[int], count: int) -> tuple[list[int], int]:
    """The first ``count`` symbols of ``data``, and how many bytes of it they took.

    Raises:
        ValueError: lengths of no complete prefix code, data that end too early or are no words.
    """
    canonical(lengths)
    ranked = sorted((n, i) for i, n in enumerate(lengths) if n)  # in the order of the words
    of_length = np.bincount([n for n, _ in ranked], minlength=LONGEST_CODE + 1).tolist()
    longest = count * ranked[-1][0]
    bits = np.unpackbits(np.frombuffer(data[: -(-longest // 8)], dtype=np.uint8)).tobytes()
    symbols, at = [], 0
    for _ in range(count):
        word, first, rank = 0, 0, 0  # the bits read; the first word of this length; its rank
        for length in range(1, LONGEST_CODE + 1):
            if at == len(bits):
                raise ValueError("data end within a code word")
            word = word << 1 | bits[at]
            at += 1
            if word - first < of_length[length]:
                symbols.append(ranked[rank + word - first][1])
                break
            rank += of_length[length]
            first = (first + of_length[length]) << 1
        else:
            raise ValueError("data hold bits that are no code word")
    return symbols, -(-at // 8)


# The file


def save(model: nn.Module, path: str | Path, *, huffman: bool = True) -> int:
    """Write the parameters and buffers of ``model`` to a file, each tensor in the shortest of the
    forms above, and return the file's size in bytes.

    The file holds no architecture: ``load`` reads it into a model of the same one, to the bit. (One
    exception: in a tensor with zeros, −0.0, which masks leave behind, becomes 0.0, its equal.)

    Args:
        huffman: False writes fixed-length codes instead, to see what Huffman's are worth.

    Raises:
        TypeError: a state_dict that holds something else than tensors.
    """
    data = b"".join(piece for _, _, piece in _pieces(model, huffman))
    unfinished = Path(f"{path}.part")
    unfinished.write_bytes(data)
    os.replace(unfinished, path)  # a reader sees the old file or the new one, never half of one
    return len(data)


def sizes(model: nn.Module, *, huffman: bool = True) -> dict[str, dict[str, int]]:
    """What ``save`` would write, in bytes: tensor -> part -> bytes. The parts are ``indices``,
    ``values``, ``codebook``, ``tables`` (lengths of code words), ``header``, and ``plain`` for a
    tensor as it is; the file's own header stands under ``""``. They add up to the file's size.
    """
    found: dict[str, dict[str, int]] = {}
    for name, part, piece in _pieces(model, huffman):
        parts = found.setdefault(name, {})
        parts[part] = parts.get(part, 0) + len(piece)
    return found


def load(path: str | Path, model: nn.Module) -> None:
    """Read a file of ``save`` into a model of the same architecture.

    Nothing of the file is executed, no size in it is trusted: it may be no longer than the model's
    tensors, and what it says is checked against them before anything is allocated. The model is
    changed only when the whole file has been read and found sound.

    Raises:
        ValueError: a file that is damaged (its checksum differs, whichever bit is flipped), cut
            off, of another kind, or of another architecture. The model is then as it was.
    """
    tensors = model.state_dict()
    longest = 12 + sum(1 + t.numel() * t.element_size() for t in tensors.values())
    with open(path, "rb") as file:
        data = file.read(longest + 1)
    if len(data) > longest:
        raise ValueError(f"path {str(path)!r} must hold at most {longest} bytes for this model")
    if len(data) < 12 or data[:4] != MAGIC:
        raise ValueError(f"path {str(path)!r} must begin with {MAGIC!r}, got {data[:4]!r}")
    checksum, architecture = struct.unpack("<II", data[4:12])
    if checksum != zlib.crc32(data[8:]):
        raise ValueError(f"path {str(path)!r} is damaged: its checksum differs")
    if architecture != _architecture(tensors):
        raise ValueError(f"path {str(path)!r} was written for another architecture")
    rest = BytesIO(data[12:])
    read = {name: _read_tensor(rest, tensor) for name, tensor in tensors.items()}
    if rest.read(1):
        raise ValueError(f"path {str(path)!r} goes on after its last tensor")
    model.load_state_dict(read)


def _architecture(tensors: Mapping[str, Tensor]) -> int:
    for name, t in tensors.items():
        if not isinstance(t, Tensor):
            raise TypeError(f"model must hold tensors, got {type(t).__name__} for {name!r}")
    return zlib.crc32(
        repr([(n, tuple(t.shape), str(t.dtype)) for n, t in tensors.items()]).encode()
    )


Piece = tuple[str, bytes]  # the part of the file it belongs to, and what is written


def _pieces(model: nn.Module, huffman: bool) -> list[tuple[str, str, bytes]]:
    """The file as (tensor, part, bytes)."""
    tensors = model.state_dict()
    body = struct.pack("<I", _architecture(tensors))
    blocks = [(name, *piece) for name, t in tensors.items() for piece in _block(t, huffman)]
    checksum = zlib.crc32(b"".join([body, *(data for _, _, data in blocks)]))
    return [("", "header", MAGIC + struct.pack("<I", checksum) + body), *blocks]


def _block(tensor: Tensor, huffman: bool) -> list[Piece]:
    """The shortest form of one tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    plain = [("header", b"\0"), ("plain", flat.view(torch.uint8).numpy().tobytes())]
    if flat.dtype != torch.float32:
        return plain
    words = flat.numpy().view(np.uint32)  # the numbers' bits: exact, also for NaN
    positions = torch.from_numpy(np.flatnonzero(words << 1))  # neither 0.0 nor −0.0
    forms = [plain]
    for index_bits in _widths(len(words), len(positions)):
        distances, at = relative(positions, index_bits)
        values = np.zeros(len(distances), dtype=np.uint32)  # a filler's is 0.0
        values[at] = words[positions]
        forms.append(_sparse(distances.numpy(), values, index_bits, huffman))
    return min(forms, key=_length)


def _widths(n: int, kept: int) -> list[int]:
    """The bits of a distance worth trying: 0, and those about the mean distance n / kept."""
    mean = (n // max(kept, 1)).bit_length()  # of bits that the mean distance has
    return sorted({0, *range(max(0, mean - 2), min(mean + 4, MOST_INDEX_BITS) + 1)})


def _sparse(
    distances: np.ndarray, values: np.ndarray, index_bits: int, huffman: bool
) -> list[Piece]:
    """One tensor by its entries: distances, and values as float32 or by a codebook."""
    coded, indices = _stream("indices", distances, 2**index_bits, huffman)
    form, shared, written = SPARSE | CODED_INDICES * coded, [], [("values", values.tobytes())]
    codebook, numbers = np.unique(values, return_inverse=True)
    if 0 < len(codebook) <= LARGEST_CODEBOOK:
        coded, stream = _stream("values", numbers, len(codebook), huffman)
        table = [("codebook", struct.pack("<H", len(codebook)) + codebook.tobytes())]
        if _length(table + stream) < _length(written):
            form, shared, written = form | CODEBOOK | CODED_VALUES * coded, table, stream
    head = struct.pack("<BBI", form, index_bits, len(values))
    return [("header", head), *shared, *indices, *written]


def _stream(
    part: str, symbols: np.ndarray, alphabet: int, huffman: bool
) -> tuple[bool, list[Piece]]:
    """Symbols below ``alphabet`` in fixed-length codes, or in Huffman's (True) if that is shorter."""
    fixed = _fixed_lengths(alphabet)
    counts = np.bincount(symbols, minlength=alphabet)
    if huffman and len(symbols):
        lengths = code_lengths(counts.tolist())
        bits = int(counts @ np.asarray(lengths))
        shorter = alphabet + -(-bits // 8) < -(-len(symbols) * fixed[0] // 8)
        if shorter and max(lengths) <= LONGEST_CODE:
            return True, [("tables", bytes(lengths)), (part, encode(symbols, lengths))]
    return False, [(part, encode(symbols, fixed) if alphabet > 1 else b"")]


def _fixed_lengths(alphabet: int) -> list[int]:
    """Fixed-length codes as a prefix code: all words of the width that the alphabet needs."""
    width = (alphabet - 1).bit_length()
    return [width] * 2**width


def _length(pieces: Sequence[Piece]) -> int:
    return sum(len(data) for _, data in pieces)


def _read_tensor(file: BytesIO, like: Tensor) -> Tensor:
    """The next tensor of the file, of the shape and type of ``like``."""
    (form,) = _take(file, 1)
    if form == 0:
        data = bytearray(_take(file, like.numel() * like.element_size()))
        flat = torch.frombuffer(data, dtype=like.dtype) if data else torch.empty(0).to(like.dtype)
        return flat.view(like.shape)
    known = SPARSE | CODEBOOK | CODED_INDICES | CODED_VALUES
    if like.dtype != torch.float32 or form & ~known or not form & SPARSE:
        raise ValueError(f"the file holds a tensor of unknown form {form}")
    index_bits, entries = struct.unpack("<BI", _take(file, 5))
    if index_bits > MOST_INDEX_BITS or entries > like.numel():
        raise ValueError(f"the file has {entries} entries of {index_bits} bits for {like.shape}")
    codebook = None
    if form & CODEBOOK:
        (k,) = struct.unpack("<H", _take(file, 2))
        if not 1 <= k <= min(LARGEST_CODEBOOK, entries):
            raise ValueError(f"the file has a codebook of {k} values for {entries} entries")
        codebook = np.frombuffer(_take(file, 4 * k), dtype=np.uint32)
    distances = _read_stream(file, entries, 2**index_bits, bool(form & CODED_INDICES))
    positions = absolute(torch.tensor(distances, dtype=torch.int64)).numpy()
    if entries and positions[-1] >= like.numel():
        raise ValueError(f"the file has an entry at {positions[-1]} for {like.shape}")
    if codebook is None:
        values = np.frombuffer(_take(file, 4 * entries), dtype=np.uint32)
    else:
        values = codebook[_read_stream(file, entries, len(codebook), bool(form & CODED_VALUES))]
    words = np.zeros(like.numel(), dtype=np.uint32)
    words[positions] = values
    return torch.from_numpy(words.view(np.float32)).view(like.shape)


def _read_stream(file: BytesIO, count: int, alphabet: int, coded: bool) -> list[int]:
    """``count`` symbols below ``alphabet``."""
    lengths = list(_take(file, alphabet)) if coded else _fixed_lengths(alphabet)
    if lengths == [0]:
        return [0] * count  # an alphabet of one needs no bits
    start = file.tell()
    symbols, used = decode(file.read(-(-count * max(lengths) // 8)), lengths, count)
    file.seek(start + used)
    if any(symbol >= alphabet for symbol in symbols):
        raise ValueError(f"the file has a symbol beyond its alphabet of {alphabet}")
    return symbols


def _take(file: BytesIO, n: int) -> bytes:
    data = file.read(n)
    if len(data) < n:
        raise ValueError(f"the file ends {n - len(data)} bytes too early")
    return data
