"""An answer as plain data, so that no property has to ask for more than one type.

Whoever computes with NumPy, in float64 or with a ``Parameter`` has not made a mistake. So before a
property sees an answer, each of these becomes the plain thing that it stands for:

- a NumPy array, a ``Parameter`` and any other subclass become a tensor, without gradient;
- a tensor or array without dimensions, a NumPy scalar, a fraction and a decimal number become a
  Python number;
- floating-point tensors take the precision of the exercise's inputs (float32, or float64 if one of
  the inputs has it; where nothing went in, both stay what they are); integers become int64;
- a list or named tuple becomes a tuple, and a subclass of dict, set, int or str the type itself.

A mask of 0 and 1 stays what it is, because ``weight[mask]`` would mean something else. Functions and
unknown objects stay as they are.
"""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib.exercises.exercise import show

MOST_ENTRIES = 10_000_000  # of one tensor
MOST_ITEMS = 1_000_000  # of all containers together


class Unreadable(TypeError):
    """An answer that cannot be turned into plain data: sparse, on another device, endless, …"""


def precision(inputs: Any) -> torch.dtype:
    """float64 if a tensor in ``inputs`` has it, otherwise float32."""
    if isinstance(inputs, Tensor):
        return torch.float64 if inputs.dtype == torch.float64 else torch.float32
    parts = inputs.values() if isinstance(inputs, dict) else inputs
    nested = [precision(p) for p in parts] if isinstance(inputs, dict | tuple | list) else []
    return torch.float64 if torch.float64 in nested else torch.float32


def plain_data(value: Any, floats: torch.dtype | None = torch.float32) -> Any:
    """``value`` as plain Python and dense CPU tensors whose floats have the type ``floats``.

    Without ``floats``, float64 stays float64, and all other floats become float32.

    Nothing that ``value`` overrides is called, so a hostile object does nothing here.

    Raises:
        Unreadable: a tensor that is sparse, quantized, not on the CPU or huge; containers nested
            too deep or too long.

    Examples:
        >>> plain_data([np.float64(0.5), torch.tensor(3)])
        (0.5, 3)
    """
    return _plain(value, floats, [MOST_ITEMS], 0)


def _plain(value: Any, floats: torch.dtype | None, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth > 20:
        raise Unreadable("an answer of a sensible size; this one is endless or very long")
    kind = type(value)
    if issubclass(kind, Tensor):
        return _tensor(value, floats)
    if issubclass(kind, np.ndarray | np.generic):
        return _array(np.asarray(value), floats)
    if kind in (Fraction, Decimal):
        return _float(value)
    for base, read in _READ.items():
        if issubclass(kind, base):
            return value if kind is base else read(value)
    if issubclass(kind, dict):
        pairs = [(_plain(k, floats, left, depth + 1), v) for k, v in dict.items(value)]
        return {k: _plain(v, floats, left, depth + 1) for k, v in pairs}
    for base, made in ((list, tuple), (tuple, tuple), (set, set), (frozenset, set)):
        if issubclass(kind, base):
            return made(_plain(v, floats, left, depth + 1) for v in base.__iter__(value))
    return value


# Subclasses of these are read by the method of the plain type.
_READ = {
    bool: bool,
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
}


def _float(value: Fraction | Decimal) -> float:
    try:
        return float(value)
    except (OverflowError, ValueError):  # too large, or a signalling NaN
        raise Unreadable("a number that a float can hold") from None


def _array(value: np.ndarray, floats: torch.dtype | None) -> Any:
    if value.ndim == 0:
        return value.item()
    try:
        return _tensor(
            torch.from_numpy(value.astype(value.dtype.newbyteorder("="))), floats
        )  # a copy, in native order
    except TypeError:
        raise Unreadable(f"an array of numbers or bools, got an array of {value.dtype}") from None


def _tensor(value: Tensor, floats: torch.dtype | None) -> Any:
    with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
        try:
            return _ordinary(value, floats)
        except (RuntimeError, NotImplementedError, AttributeError):
            raise Unreadable("an ordinary tensor, dense and on the CPU") from None


def _ordinary(value: Tensor, floats: torch.dtype | None) -> Any:
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        where = "quantized" if value.is_quantized else f"{value.layout} on {value.device}"
        raise Unreadable(f"an ordinary tensor, dense and on the CPU; got {where}")
    if value.numel() > MOST_ENTRIES:
        raise Unreadable(f"an answer of a sensible size; got {show(value)}")
    bare = Tensor.as_subclass(value, Tensor).detach()
    if bare.ndim == 0:
        return bare.item()
    if bare.is_floating_point():
        own = torch.float64 if bare.dtype == torch.float64 else torch.float32
        return bare.to(floats or own, copy=True)
    whole = bare.dtype != torch.bool and not bare.is_complex()
    return bare.to(torch.int64 if whole else bare.dtype, copy=True)
