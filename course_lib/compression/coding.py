r"""The codes of Deep Compression: positions as distances, Huffman's code, and a file of both.

``relative`` writes the positions of the kept weights as distances. ``code_lengths`` and ``encode``
code distances and values by Huffman's code. ``save`` and ``load`` write and read a file of them
(module ``container``), so that the size on disk can be measured. Arithmetic coding (module
``arithmetic``), which the paper does not use, makes the file smaller still.

Each tensor is written in the form that is shortest for it. A tensor's bytes in the file, where
integers are little-endian and s is the size of one value::

    1             its form: 0, or SPARSE and perhaps CODEBOOK, CODED_INDICES, CODED_VALUES
                  after form 0 come the tensor's bytes and nothing else; after all others:
    1             b, the bits of a distance
    4             the number of entries: weights that are not zero, and fillers
    2 and s k     k, and the k values of the codebook, s bytes each    (CODEBOOK)
    2^b           the length of each distance's code word, one byte each    (CODED_INDICES)
    …             distances minus one: b bits each, or code words
    k             the length of each value's code word, one byte each    (CODED_VALUES)
    …             values: s bytes each, or codebook numbers of ⌈log2 k⌉ bits, or code words

The first distance is counted from the place before the first position; in the paper's figure 2, from
the first position itself.

Where arithmetic coding is allowed, a tensor of R rows and C columns may have another form. It codes
for each place whether a weight is there, and it may leave out the rows and columns without any::

    1             its form: ARITHMETIC, and perhaps LIVE, CODEBOOK
    4             K, the number of weights that are not zero
    R / 8, C / 8  a bit for each row and for each column: whether it has such a weight    (LIVE)
    …             the places of these rows and columns, coded with the counts (places − K, K)
    2 and s k     k, and the k values of the codebook    (CODEBOOK)
    …             how often each is used: k numbers of as many bits as K has
    …             values: s bytes each, or codebook numbers, coded with these counts

Source: Han, Mao & Dally 2016, sections 2 and 4, figure 2. The form with arithmetic coding is our own.
"""

import heapq
import struct
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import measure
from course_lib.compression import arithmetic, container
from course_lib.data import check_integer

SPARSE, CODEBOOK, CODED_INDICES, CODED_VALUES, ARITHMETIC, LIVE = 1, 2, 4, 8, 16, 32
MOST_INDEX_BITS, LARGEST_ALPHABET, LONGEST_CODE = 31, 4096, 32
# A float's bits as an integer, by its size in bytes.
WORDS: dict[int, type[np.unsignedinteger]] = {2: np.uint16, 4: np.uint32, 8: np.uint64}


# ---- distances


def relative(positions: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Write ascending positions as distances of ``bits`` bits each.

    The number d of an entry says that it stands d + 1 positions after the entry before it, with
    0 <= d < 2^bits. A weight that is more than 2^bits positions away is reached by *filler zeros* in
    between. A distance of 0 does not occur and needs no code.

    Source: Han et al. 2016, section 2 and figure 2. What the figure calls the "largest 3-bit
    unsigned number", 8, is d = 7 here.

    Args:
        positions: (n,) int64, ascending, 0 or more.
        bits: 0 to 31. With 0, every position up to the last has an entry.

    Returns:
        The numbers d of all entries, (m,), and which of the entries are the weights, (n,). The other
        m − n entries are fillers.

    Raises:
        ValueError: positions that are negative or not ascending; bits outside 0 to 31.

    Examples:
        >>> distances, at = relative(torch.tensor([1, 4, 15]), bits=3)
        >>> distances.tolist(), at.tolist()  # the third entry is a filler, 8 positions after 4
        ([1, 2, 7, 2], [0, 1, 3])
        >>> absolute(distances).tolist()
        [1, 4, 12, 15]
    """
    _check_positions(positions, bits)
    skipped = torch.diff(positions, prepend=positions.new_tensor([-1])) - 1  # zeros before each
    fillers = skipped >> bits
    at = (fillers + 1).cumsum(0) - 1
    distances = positions.new_full((len(positions) + int(fillers.sum()),), 2**bits - 1)
    distances[at] = skipped & (2**bits - 1)
    return distances, at


def _check_positions(positions: Tensor, bits: int) -> None:
    check_integer("bits", bits, 0, MOST_INDEX_BITS)
    if positions.dim() != 1 or positions.dtype != torch.int64:
        raise ValueError(
            f"positions must be a row of torch.int64, got {positions.dtype} of shape "
            f"{tuple(positions.shape)}"
        )
    if (torch.diff(positions, prepend=positions.new_tensor([-1])) < 1).any():
        raise ValueError(f"positions must rise, from 0 on, got {positions}")


def absolute(distances: Tensor) -> Tensor:
    """The positions of all entries, also of fillers: the way back from ``relative``."""
    return (distances + 1).cumsum(0) - 1


# ---- Huffman's code


def code_lengths(counts: Sequence[int]) -> list[int]:
    """The length in bits of each symbol's code word in Huffman's code, 0 where its count is 0.

    No prefix code needs fewer bits in total. If H is the entropy of the counts, the mean length is
    at least H and below H + 1. A single symbol gets a word of one bit.

    Source: Huffman 1952.

    Raises:
        ValueError: a negative count, or no positive one.

    Examples:
        >>> code_lengths([5, 2, 1, 1])
        [1, 2, 3, 3]
    """
    _check_symbols(counts)
    # (count, age, symbols below this node); of equal counts the older node goes first
    heap = sorted((n, i, [i]) for i, n in enumerate(counts) if n)
    lengths = Counter(heap[0][2] if len(heap) == 1 else ())
    while len(heap) > 1:
        (n, _, left), (m, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        lengths.update(left + right)  # one bit more for each symbol below
        heapq.heappush(heap, (n + m, 2 * len(counts) - len(heap), left + right))
    return [lengths[symbol] for symbol in range(len(counts))]


def _check_symbols(counts: Sequence[int]) -> None:
    if not all(n >= 0 for n in counts) or not any(counts):
        raise ValueError(f"counts must be 0 or more, at least one of them more, got {counts!r}")


def canonical(lengths: Sequence[int]) -> list[int]:
    """The code words as numbers, from their lengths alone.

    In the order of length and then of symbol, each word is the previous one plus 1, shifted left
    where the length grows. A decoder therefore needs only the lengths.

    Raises:
        ValueError: lengths that no prefix code has, or that leave words unused: Kraft's sum of
            2^−length is not 1. A single word of one bit is allowed.

    Examples:
        >>> [f"{word:b}" for word in canonical([1, 2, 3, 3])]
        ['0', '10', '110', '111']
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
    """The code words of the symbols one after another, padded with zero bits to whole bytes.

    Raises:
        ValueError: lengths that are not those of a complete prefix code, or a symbol without a code
            word.

    Examples:
        >>> data = encode(np.array([0, 3, 0, 1]), [1, 2, 3, 3])
        >>> f"{data[0]:08b}"  # 0 111 0 10, and one bit of padding
        '01110100'
        >>> decode(data, [1, 2, 3, 3], count=4)
        ([0, 3, 0, 1], 1)
    """
    length, word = np.asarray(lengths), np.asarray(canonical(lengths))
    used = np.unique(symbols)
    if len(used) and (used[0] < 0 or used[-1] >= len(length) or not length[used].all()):
        raise ValueError(f"symbols must have code words, got {used.tolist()[:20]} for {lengths}")
    n, word = length[symbols], word[symbols]
    start = n.cumsum() - n
    bits = np.zeros(n.sum(), dtype=np.uint8)
    for place in range(n.max(initial=0)):  # the word's first bit, then its second, …
        has = n > place
        bits[start[has] + place] = word[has] >> (n[has] - 1 - place) & 1
    return np.packbits(bits).tobytes()


def decode(data: bytes, lengths: Sequence[int], count: int) -> tuple[list[int], int]:
    """The first ``count`` symbols of ``data``, and the number of bytes that they take.

    Raises:
        ValueError: lengths that are not those of a complete prefix code; data that end too early or
            hold no code word; a ``count`` that is not 0 or a positive integer.
    """
    if type(count) is not int or count < 0:
        raise ValueError(f"count must be 0 or a positive integer, got {count!r}")
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


# ---- the file


def save(
    model: nn.Module, path: str | Path, *, huffman: bool = True, arithmetic: bool = False
) -> int:
    """Write the parameters and buffers of ``model`` to a file, and return its size in bytes.

    Each tensor has the form that is shortest for it, and a tied one is written once. The file does
    not hold the architecture: ``load`` reads it into a model of the same architecture. Every number
    comes back exactly; only −0.0, which masks leave behind, may become 0.0.

    Args:
        huffman: False writes fixed-length codes, to see what Huffman's code is worth.
        arithmetic: True also tries arithmetic coding, which needs fewer bytes and more time: about a
            second per million weights.

    Raises:
        TypeError: a state_dict that holds something other than dense tensors.
        ValueError: ``path`` is a directory.
        FileNotFoundError: ``path`` is in a directory that does not exist.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> layer, other = nn.Linear(100, 100), nn.Linear(100, 100)
        >>> layer.weight.data[10:] = 0
        >>> save(layer, f"{folder.name}/layer") < measure.bytes_dense(layer) / 5
        True
        >>> load(f"{folder.name}/layer", other)
        >>> torch.equal(layer.weight, other.weight)
        True
    """
    data = b"".join(piece for _, _, piece in _pieces(model, huffman, arithmetic))
    container.write(path, data)
    return len(data)


def sizes(
    model: nn.Module, *, huffman: bool = True, arithmetic: bool = False
) -> dict[str, dict[str, int]]:
    """The bytes that ``save`` would write: tensor -> part -> bytes.

    The parts are ``indices``, ``values``, ``codebook``, ``tables`` (lengths of code words, or counts),
    ``header``, and ``plain`` for a tensor that is written as it is. The header of the file itself is
    under ``""``. All parts add up to the size of the file.
    """
    found: dict[str, dict[str, int]] = {}
    for name, part, piece in _pieces(model, huffman, arithmetic):
        parts = found.setdefault(name, {})
        parts[part] = parts.get(part, 0) + len(piece)
    return found


def load(path: str | Path, model: nn.Module) -> None:
    """Read a file of ``save`` into a model of the same architecture.

    Nothing in the file is executed, and no size in it is trusted (module ``container``). The model
    changes only after the whole file has been read without an error.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is damaged (the checksum finds any flipped bit), cut off, of another
            kind, or of another architecture. The model is then as it was.
    """
    tensors = container.tensors(model)
    file = container.read(path, tensors)
    read: dict[str, Tensor] = {}
    try:
        for name, first in container.firsts(tensors).items():
            read[name] = read[first] if first in read else _read_tensor(file, tensors[name])
        if file.read(1):
            raise ValueError("the file goes on after its last tensor")
    except ValueError as error:
        raise ValueError(f"path {str(path)!r} is damaged: {error}") from error
    model.load_state_dict(read)


Piece = tuple[str, bytes]  # the part of the file it belongs to, and what is written


def _pieces(model: nn.Module, huffman: bool, arithmetic: bool) -> list[tuple[str, str, bytes]]:
    """The file as (tensor, part, bytes)."""
    tensors = container.tensors(model)
    written = [
        (name, *piece)
        for name, first in container.firsts(tensors).items()
        if name == first
        for piece in _shortest(tensors[name], huffman, arithmetic)
    ]
    body = b"".join(data for _, _, data in written)
    return [("", "header", container.header(tensors, body)), *written]


def _shortest(tensor: Tensor, huffman: bool, arithmetic: bool) -> list[Piece]:
    """The shortest form of one tensor."""
    data = measure.raw(tensor)
    plain = [("header", b"\0"), ("plain", data)]
    dtype = WORDS.get(tensor.element_size())
    if not tensor.is_floating_point() or dtype is None or tensor.numel() >= 2**32:
        return plain
    words = np.frombuffer(data, dtype)  # the numbers' bits: exact, also for NaN
    positions = torch.from_numpy(np.flatnonzero(words << 1))  # neither 0.0 nor −0.0
    forms = [plain]
    for index_bits in _widths(len(words), len(positions)):
        distances, at = relative(positions, index_bits)
        values = np.zeros(len(distances), dtype)  # a filler's is 0.0
        values[at] = words[positions]
        forms.append(_sparse(distances.numpy(), values, index_bits, huffman))
    if arithmetic and len(words):
        matrix = words.reshape(len(tensor) if tensor.dim() > 1 else 1, -1)  # (R, C)
        forms += [_placed(matrix, live) for live in (False, True)]
    return min(forms, key=_length)


def _widths(n: int, kept: int) -> list[int]:
    """The numbers of bits per distance to try: 0, and those near the mean distance n / kept."""
    mean = (n // max(kept, 1)).bit_length()  # of bits that the mean distance has
    return sorted({0, *range(max(0, mean - 2), min(mean + 4, MOST_INDEX_BITS) + 1)})


def _sparse(
    distances: np.ndarray, values: np.ndarray, index_bits: int, huffman: bool
) -> list[Piece]:
    """One tensor as its entries: distances, and values as they are or from a codebook."""
    coded, indices = _stream("indices", distances, 2**index_bits, huffman)
    form, shared, written = SPARSE | CODED_INDICES * coded, [], [("values", values.tobytes())]
    codebook, numbers = np.unique(values, return_inverse=True)
    if 0 < len(codebook) <= LARGEST_ALPHABET:
        coded, stream = _stream("values", numbers, len(codebook), huffman)
        table = [("codebook", struct.pack("<H", len(codebook)) + codebook.tobytes())]
        if _length(table + stream) < _length(written):
            form, shared, written = form | CODEBOOK | CODED_VALUES * coded, table, stream
    head = struct.pack("<BBI", form, index_bits, len(values))
    return [("header", head), *shared, *indices, *written]


def _stream(
    part: str, symbols: np.ndarray, alphabet: int, huffman: bool
) -> tuple[bool, list[Piece]]:
    """Symbols below ``alphabet`` in Huffman's code (True) where that is shorter, else in
    fixed-length codes.

    A table of code words lists the whole alphabet, so a large alphabet gets no Huffman code:
    distances of more than 12 bits occur only where few weights are kept.
    """
    width = (alphabet - 1).bit_length()
    if huffman and len(symbols) and alphabet <= LARGEST_ALPHABET:
        counts = np.bincount(symbols, minlength=alphabet)
        lengths = code_lengths(counts.tolist())
        bits = int(counts @ np.asarray(lengths))
        shorter = alphabet + -(-bits // 8) < -(-len(symbols) * width // 8)
        if shorter and max(lengths) <= LONGEST_CODE:
            return True, [("tables", bytes(lengths)), (part, encode(symbols, lengths))]
    return False, [(part, container.pack(symbols, width))]


def _placed(words: np.ndarray, live: bool) -> list[Piece]:
    """One tensor, (R, C), in the form with arithmetic coding."""
    kept = words << 1 != 0
    values, indices, places = words[kept], b"", kept
    if live:
        rows, columns = kept.any(1), kept.any(0)
        indices = np.packbits(rows).tobytes() + np.packbits(columns).tobytes()
        places = kept[rows][:, columns]
    if len(values):
        counts = [places.size - len(values), len(values)]
        indices += arithmetic.encode(places.ravel(), counts)
    form, shared, written = ARITHMETIC | LIVE * live, [], [("values", values.tobytes())]
    codebook, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
    if 0 < len(codebook) <= LARGEST_ALPHABET:
        table = [
            ("codebook", struct.pack("<H", len(codebook)) + codebook.tobytes()),
            ("tables", container.pack(counts, len(values).bit_length())),
        ]
        stream = [("values", arithmetic.encode(numbers, counts.tolist()))]
        if _length(table + stream) < _length(written):
            form, shared, written = form | CODEBOOK, table, stream
    head = struct.pack("<BI", form, len(values))
    return [("header", head), ("indices", indices), *shared, *written]


def _length(pieces: Sequence[Piece]) -> int:
    return sum(len(data) for _, data in pieces)


def _read_tensor(file: BytesIO, like: Tensor) -> Tensor:
    """The next tensor of the file, of the shape and type of ``like``."""
    (form,) = container.take(file, 1)
    size = like.element_size()
    if form == 0:
        return _tensor(container.take(file, like.numel() * size), like)
    known = SPARSE | CODEBOOK | CODED_INDICES | CODED_VALUES
    coded = form & ~(CODEBOOK | LIVE) == ARITHMETIC and like.numel()
    if (
        not like.is_floating_point()
        or size not in WORDS
        or not (coded or form & SPARSE and not form & ~known)
    ):
        raise ValueError(f"it holds a tensor of unknown form {form}")
    if coded:
        return _tensor(_read_placed(file, like, form).tobytes(), like)
    index_bits, entries = struct.unpack("<BI", container.take(file, 5))
    if index_bits > MOST_INDEX_BITS or entries > like.numel():
        raise ValueError(f"it has {entries} entries of {index_bits} bits for {like.shape}")
    codebook = _read_codebook(file, WORDS[size], entries) if form & CODEBOOK else None
    distances = _read_stream(file, entries, 2**index_bits, bool(form & CODED_INDICES))
    positions = absolute(torch.from_numpy(distances)).numpy()
    if entries and positions[-1] >= like.numel():
        raise ValueError(f"it has an entry at {positions[-1]} for {like.shape}")
    words = np.zeros(like.numel(), WORDS[size])
    if codebook is None:
        words[positions] = np.frombuffer(container.take(file, size * entries), WORDS[size])
    else:
        numbers = _read_stream(file, entries, len(codebook), bool(form & CODED_VALUES))
        words[positions] = codebook[numbers]
    return _tensor(words.tobytes(), like)


def _read_codebook(file: BytesIO, dtype: type[np.unsignedinteger], entries: int) -> np.ndarray:
    (k,) = struct.unpack("<H", container.take(file, 2))
    if not 1 <= k <= min(LARGEST_ALPHABET, entries):
        raise ValueError(f"it has a codebook of {k} values for {entries} entries")
    return np.frombuffer(container.take(file, np.dtype(dtype).itemsize * k), dtype)


def _read_placed(file: BytesIO, like: Tensor, form: int) -> np.ndarray:
    """The next tensor's words, (R, C), from the form with arithmetic coding."""
    dtype, n = WORDS[like.element_size()], like.numel()
    (kept,) = struct.unpack("<I", container.take(file, 4))
    r = len(like) if like.dim() > 1 else 1
    rows, columns = np.ones(r, bool), np.ones(n // r, bool)
    if form & LIVE:
        rows, columns = (container.unpack(file, len(b), 1).astype(bool) for b in (rows, columns))
    places = int(rows.sum() * columns.sum())
    if kept > places:
        raise ValueError(f"it has {kept} weights for {places} places")
    there = _read_coded(file, [places - kept, kept], places)
    words, at = np.zeros((r, n // r), dtype), np.zeros((r, n // r), bool)
    at[np.ix_(rows, columns)] = there.reshape(rows.sum(), columns.sum())
    if at.sum() != kept:
        raise ValueError(f"it has {kept} weights at {at.sum()} places")
    if form & CODEBOOK:
        codebook = _read_codebook(file, dtype, kept)
        counts = container.unpack(file, len(codebook), kept.bit_length()).tolist()
        words[at] = codebook[_read_coded(file, counts, kept)]
    else:
        words[at] = np.frombuffer(container.take(file, words.itemsize * kept), dtype)
    return words


def _read_coded(file: BytesIO, counts: list[int], count: int) -> np.ndarray:
    """``count`` symbols in the arithmetic code of these counts, (count,) int64."""
    if not any(counts):
        return np.zeros(0, np.int64)
    start = file.tell()
    symbols, used = arithmetic.decode(file.read(), counts, count)
    file.seek(start + used)
    return np.array(symbols, np.int64)


def _tensor(data: bytes, like: Tensor) -> Tensor:
    flat = torch.frombuffer(bytearray(data), dtype=like.dtype) if data else like.new_empty(0)
    return flat.view(like.shape)


def _read_stream(file: BytesIO, count: int, alphabet: int, coded: bool) -> np.ndarray:
    """``count`` symbols below ``alphabet``, (count,) int64."""
    if not coded:
        symbols = container.unpack(file, count, (alphabet - 1).bit_length())
    else:
        if alphabet > LARGEST_ALPHABET:
            raise ValueError(f"it has a table of {alphabet} code words")
        lengths, start = list(container.take(file, alphabet)), file.tell()
        found, used = decode(file.read(-(-count * max(lengths) // 8)), lengths, count)
        file.seek(start + used)
        symbols = np.array(found, dtype=np.int64)
    if count and symbols.max() >= alphabet:
        raise ValueError(f"it has a symbol beyond its alphabet of {alphabet}")
    return symbols
