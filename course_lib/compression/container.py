"""The compressed file as bytes: its header, and safe reading and writing.

Module ``coding`` fills it. Integers are little-endian::

    4 bytes       DCF2
    4             CRC-32 of everything that follows
    4             CRC-32 of the architecture: names, shapes, types and ties of the model's tensors
    then the tensors of the state_dict, in its order, a tied one once    (module ``coding``)

Nothing in a file is executed, and no size in it is trusted. Each size is checked against the model's
tensors, or against the bytes that are really there, before any memory is allocated.
"""

import struct
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import files
from course_lib.layers import check_module

MAGIC = b"DCF2"
HEADER = 12  # bytes before the first tensor


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict of a model, checked. Tied weights are one object under two names.

    Raises:
        TypeError: a state_dict that holds something other than dense tensors with values.
    """
    check_module(model)
    found = model.state_dict(keep_vars=True)  # detached copies would hide which ones are tied
    for name, t in found.items():
        if not isinstance(t, Tensor):
            raise TypeError(f"model must hold tensors, got {type(t).__name__} for {name!r}")
        if (
            torch.nn.parameter.is_lazy(t)
            or t.is_meta
            or t.is_quantized
            or t.layout != torch.strided
        ):
            raise TypeError(
                f"model must hold dense tensors with values, but {name!r} is lazy, on the meta "
                "device, quantized by torch or sparse"
            )
    return found


def firsts(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Name -> the first name of the same tensor. It is another name only if the two are tied."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(t), name) for name, t in tensors.items()}


def fingerprint(tensors: Mapping[str, Tensor]) -> bytes:
    """Four bytes computed from the names, shapes, types and ties of an architecture.

    Two different architectures have the same four with a chance of one in 2^32. A network and the
    same network after ``torch.compile`` have the same four.
    """
    ties = firsts(tensors)
    described = [(n, tuple(t.shape), str(t.dtype), ties[n]) for n, t in tensors.items()]
    return struct.pack("<I", zlib.crc32(repr(described).replace("_orig_mod.", "").encode()))


def header(tensors: Mapping[str, Tensor], body: bytes) -> bytes:
    """The first bytes of the file; ``body`` is everything after them."""
    checked = fingerprint(tensors)
    return MAGIC + struct.pack("<I", zlib.crc32(body, zlib.crc32(checked))) + checked


def write(path: str | Path, data: bytes) -> None:
    """Write the whole file, or nothing.

    Raises:
        ValueError: ``path`` is a directory.
        FileNotFoundError: ``path`` is in a directory that does not exist.
    """
    _check_path(path)
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"path {str(path)!r} lies in a directory that does not exist")
    files.write(path, data)


def read(path: str | Path, tensors: Mapping[str, Tensor]) -> BytesIO:
    """The body of the file, to be read piece by piece, after its header has been checked.

    Raises:
        FileNotFoundError: no such file.
        ValueError: ``path`` is a directory; the file is damaged, cut off, too long for these
            tensors, of another kind or of another architecture.
    """
    _check_path(path)
    distinct = {id(t): t for t in tensors.values()}.values()
    longest = HEADER + sum(1 + t.numel() * t.element_size() for t in distinct)
    with open(path, "rb") as file:
        data = file.read(longest + 1)
    if len(data) > longest:
        raise ValueError(f"path {str(path)!r} must hold at most {longest} bytes for this model")
    if len(data) < HEADER or data[:4] != MAGIC:
        raise ValueError(f"path {str(path)!r} must begin with {MAGIC!r}, got {data[:4]!r}")
    if data[4:8] != struct.pack("<I", zlib.crc32(data[8:])):
        raise ValueError(f"path {str(path)!r} is damaged: its checksum differs")
    if data[8:12] != fingerprint(tensors):
        raise ValueError(f"path {str(path)!r} was written for another architecture")
    return BytesIO(data[HEADER:])


def take(file: BytesIO, n: int) -> bytes:
    """The next n bytes.

    Raises:
        ValueError: the file has fewer bytes left.
    """
    data = file.read(n)
    if len(data) < n:
        raise ValueError(f"the file ends {n - len(data)} bytes too early")
    return data


def pack(numbers: np.ndarray, width: int) -> bytes:
    """Write numbers below 2^width in ``width`` bits each, padded with zero bits to whole bytes.

    Examples:
        >>> f"{pack(np.array([1, 2, 3]), width=2)[0]:08b}"
        '01101100'
    """
    bits = np.empty((len(numbers), width), dtype=np.uint8)
    for place in range(width):  # the highest bit first
        bits[:, place] = numbers >> (width - 1 - place) & 1
    return np.packbits(bits).tobytes()


def unpack(file: BytesIO, count: int, width: int) -> np.ndarray:
    """The next ``count`` numbers of ``width`` bits: the way back from ``pack``, (count,) int64."""
    data = np.frombuffer(take(file, -(-count * width // 8)), dtype=np.uint8)
    bits = np.unpackbits(data, count=count * width).reshape(count, width)
    numbers = np.zeros(count, dtype=np.int64)
    for place in range(width):
        numbers = numbers << 1 | bits[:, place]
    return numbers


def _check_path(path: str | Path) -> None:
    if Path(path).is_dir():
        raise ValueError(f"path {str(path)!r} must be a file, got a directory")
