"""How values travel between the grader and the sandbox: JSON for the shape, safetensors for the numbers.

A frame is two lengths, a JSON head and a safetensors body. Only exact types travel: None, bool, int,
float, str, list, tuple, dict, set, tensors and NumPy arrays. A function of the grader's travels as a
number by which it can be called; of any other object only the name of its type travels. Nothing is
ever unpickled, so the worst that a forged frame can be is a wrong answer.

This module also runs inside the sandbox, where there is no ``course_lib``.
"""

import hashlib
import json
import struct
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    from safetensors.torch import load, save
except ModuleNotFoundError as error:
    needed = 'safetensors is missing: pip install "course_lib[grading]"'
    raise ImportError(needed, name="safetensors") from error

LARGEST_HEAD = 8_000_000  # bytes
LARGEST_BODY = 64_000_000
MOST_ITEMS = 1_000_000  # of all containers of a frame together
DEEPEST = 24  # containers inside containers
FEW = 512  # numbers of a tensor that travel in the head, which is faster for so few
_DTYPES = {
    str(dtype): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
}
_LENGTHS = struct.Struct(">II")
_CONTAINERS = {"list": list, "tuple": tuple, "set": set}
_AS_THEY_ARE = frozenset((type(None), bool, float, str))


class Violation(BaseException):
    """A frame that does not keep the rules, or a value that cannot travel."""


class Thing:
    """Stands for an object that did not travel; only the name of its type did."""


def _thing(kind: str) -> Thing:
    module, _, name = kind.rpartition(".")
    return type(name, (Thing,), {"__module__": module})()


# ---- frames


def pack(message: dict[str, Any], functions: list[Callable] | None = None) -> bytes:
    """A frame. ``functions`` collects the functions of ``message``, which travel as numbers.

    Raises:
        Violation: a value that cannot travel, or one that is too large.
    """
    tensors: dict[str, Tensor] = {}
    encoder = _Encoder(tensors, functions)
    head = json.dumps({key: encoder.tree(value, 0) for key, value in message.items()}).encode()
    body = save(tensors) if tensors else b""
    if len(head) > LARGEST_HEAD or len(body) > LARGEST_BODY:
        raise Violation(f"an answer of {(len(head) + len(body)) / 1e6:,.0f} MB, which is too large")
    return _LENGTHS.pack(len(head), len(body)) + head + body


def frame(receive: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """The head and body of the next frame.

    Args:
        receive: gives exactly as many bytes as it is asked for, or raises.

    Raises:
        Violation: a frame that is too large. (What ``receive`` raises, too.)
    """
    head_size, body_size = _LENGTHS.unpack(receive(_LENGTHS.size))
    if head_size > LARGEST_HEAD or body_size > LARGEST_BODY:
        raise Violation("a frame that is too large")
    return receive(head_size), receive(body_size)


def mark(head: bytes, body: bytes) -> str:
    """What two frames share only if they are the same, byte for byte, up to their last key ``id``."""
    question = head.rpartition(b', "id": ')[0]
    return hashlib.sha256(b"%d " % len(question) + question + body).hexdigest()


def unpack(head: bytes, body: bytes, function: Callable[[int], Any] | None = None) -> dict:
    """The message in a frame.

    Args:
        function: what a number that stands for a function becomes; None refuses it.

    Raises:
        Violation: anything that ``pack`` does not write.

    Examples:
        >>> import io
        >>> packed = io.BytesIO(pack({"returned": (torch.tensor([True]), 0.5)}))
        >>> unpack(*frame(packed.read))
        {'returned': (tensor([True]), 0.5)}
    """
    try:
        tensors = load(body) if body else {}
        message = json.loads(head)
        if not isinstance(message, dict):
            raise Violation("a frame without a message")
        decoder = _Decoder(tensors, function)
        return {key: decoder.tree(value, 0) for key, value in message.items()}
    except Violation:
        raise
    except Exception as error:  # noqa: BLE001 (whatever a parser may raise)
        raise Violation(f"a frame that cannot be read ({type(error).__name__})") from None


# ---- values as JSON: plain ones stand for themselves, others are {"kind": what, ...}


class _Encoder:
    def __init__(self, tensors: dict[str, Tensor], functions: list[Callable] | None) -> None:
        self.tensors, self.functions, self.left = tensors, functions, MOST_ITEMS

    def tree(self, value: Any, depth: int) -> Any:
        """Nothing that ``value`` overrides is called; what is a subclass becomes the plain type."""
        self.left -= 1
        if self.left < 0 or depth > DEEPEST:
            raise Violation("an answer that is endless, very long or nested very deep")
        kind = type(value)
        if kind in _AS_THEY_ARE:
            return value
        if kind is int:
            return _checked(value)
        if issubclass(kind, Tensor):
            return self._tensor(value)
        if kind is list:
            return {"kind": "list", "of": [self.tree(v, depth + 1) for v in value]}
        if issubclass(kind, np.ndarray | np.generic):
            return self._array(np.asarray(value))
        if kind in (Fraction, Decimal):
            return {"kind": "number", "is": str(value)}
        for base, plain in ((int, int.__int__), (float, float.__float__), (str, str.__str__)):
            if issubclass(kind, base):
                return _checked(plain(value))
        if issubclass(kind, dict):
            pairs = [
                [self.tree(k, depth + 1), self.tree(v, depth + 1)] for k, v in dict.items(value)
            ]
            return {"kind": "dict", "of": pairs}
        for base, name in ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "set")):
            if issubclass(kind, base):
                return {"kind": name, "of": [self.tree(v, depth + 1) for v in base.__iter__(value)]}
        if self.functions is not None and callable(value):
            self.functions.append(value)
            return {"kind": "function", "is": len(self.functions) - 1}
        return {"kind": "thing", "is": f"{kind.__module__}.{kind.__qualname__}"[:100]}

    def _array(self, value: np.ndarray) -> Any:
        if value.ndim == 0 and value.dtype.kind in "biufU":
            return _checked(value.item())
        try:
            native = value.astype(value.dtype.newbyteorder("="))
            return self._tensor(torch.from_numpy(native)) | {"kind": "array"}
        except TypeError:
            return {"kind": "thing", "is": f"an array of {value.dtype}"[:100]}

    def _tensor(self, value: Tensor) -> dict[str, Any]:
        with torch._C.DisableTorchFunctionSubclass():
            if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
                return {"kind": "thing", "is": "a tensor that is not dense or not on the CPU"}
            if value.numel() * value.element_size() > LARGEST_BODY:
                raise Violation(f"a tensor of shape {tuple(value.shape)}, which is too large")
            grad = value.requires_grad and value.is_leaf
            bare = Tensor.as_subclass(value, Tensor).detach().resolve_conj().resolve_neg()
        if bare.numel() <= FEW and str(bare.dtype) in _DTYPES:
            shape, dtype = list(bare.shape), str(bare.dtype)
            known = bare.view(torch.int16) if bare.dtype == torch.bfloat16 else bare  # to NumPy
            raw = known.numpy().tobytes().hex()
            return {"kind": "tensor", "of": raw, "shape": shape, "dtype": dtype, "grad": grad}
        name = str(len(self.tensors))
        self.tensors[name] = bare.clone(memory_format=torch.contiguous_format)
        return {"kind": "tensor", "is": name, "grad": grad}


def _checked(value: Any) -> Any:
    """An int of any length that JSON can carry back."""
    if type(value) is int and value.bit_length() > 4096:
        raise Violation("a whole number of more than a thousand digits")
    return value


class _Decoder:
    def __init__(self, tensors: dict[str, Tensor], function: Callable[[int], Any] | None) -> None:
        self.tensors, self.function, self.left = tensors, function, MOST_ITEMS

    def tree(self, value: Any, depth: int) -> Any:
        self.left -= 1
        if self.left < 0 or depth > DEEPEST:
            raise Violation("a frame that is very long or nested very deep")
        if type(value) in _AS_THEY_ARE or type(value) is int:
            return value
        if not isinstance(value, dict):
            raise Violation("a frame that cannot be read")
        kind, what, of = value.get("kind"), value.get("is"), value.get("of")
        if kind in _CONTAINERS and isinstance(of, list):
            return _CONTAINERS[kind](self.tree(item, depth + 1) for item in of)
        if kind == "dict" and isinstance(of, list):
            return {self.tree(k, depth + 1): self.tree(v, depth + 1) for k, v in of}
        if kind in ("tensor", "array"):
            tensor = _few(value) if what is None else self.tensors[what]
            if tensor.dtype == torch.bool:  # in a forged frame, a byte may be neither 0 nor 1
                tensor = tensor.view(torch.uint8).ne(0)
            return tensor.numpy() if kind == "array" else _as_it_was(tensor, value.get("grad"))
        if kind == "number" and isinstance(what, str):
            return Fraction(what) if "/" in what else Decimal(what)
        if kind == "thing" and isinstance(what, str):
            return _thing(what[:100])
        if kind == "function" and type(what) is int and self.function:
            return self.function(what)
        raise Violation("a frame that cannot be read")


def _few(value: dict[str, Any]) -> Tensor:
    """A tensor whose numbers stand in the head."""
    dtype, raw = _DTYPES[value["dtype"]], bytearray.fromhex(value["of"])
    if len(raw) > FEW * dtype.itemsize:
        raise Violation("a frame that cannot be read")
    flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    return flat.reshape(value["shape"])


def _as_it_was(tensor: Tensor, grad: Any) -> Tensor:
    wanted = grad is True and (tensor.is_floating_point() or tensor.is_complex())
    return tensor.requires_grad_() if wanted else tensor


def built_in(error: BaseException) -> str:
    """The name of the first built-in class that an error belongs to.

    Examples:
        >>> built_in(torch.OutOfMemoryError())
        'RuntimeError'
    """
    return next(k.__name__ for k in type(error).__mro__ if k.__module__ == "builtins")


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal, tensors entry by entry (nan is nan) and dicts in order."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if torch.equal(one, other):
            return True
        return bool(((one == other) | (one.isnan() & other.isnan())).all())
    if isinstance(one, np.ndarray):
        return same(torch.from_numpy(one), torch.from_numpy(other))
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=False)
        return len(one) == len(other) and all(k == j and same(v, w) for (k, v), (j, w) in pairs)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return callable(one) or one == other


def copied(value: Any) -> Any:
    """A copy of a plain value, tensors and containers included."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    return type(value)(map(copied, value)) if type(value) in (list, tuple, set) else value


def put_back(target: Any, after: Any) -> None:
    """Change ``target`` in place to what it had become on the other side, as far as it can change."""
    if isinstance(target, Tensor) and type(after) is Tensor:
        with torch.no_grad():
            if target.shape == after.shape and target.dtype == after.dtype:
                if not torch.equal(target, after):
                    target.copy_(after)
            elif target.dtype == after.dtype:
                target.set_(after)  # pyright: ignore
    elif isinstance(target, list) and isinstance(after, list):
        if len(target) == len(after):
            for one, other in zip(target, after, strict=True):
                put_back(one, other)
            after = [
                other if _fixed(one) else one for one, other in zip(target, after, strict=True)
            ]
        target[:] = after
    elif isinstance(target, dict) and isinstance(after, dict):
        kept = {k: target[k] for k in after if k in target and not _fixed(target[k])}
        for key, value in kept.items():
            put_back(value, after[key])
        changed = {**after, **kept}
        target.clear()
        target.update((key, changed[key]) for key in after)
    elif isinstance(target, tuple) and isinstance(after, tuple) and len(target) == len(after):
        for one, other in zip(target, after, strict=True):
            put_back(one, other)


def _fixed(value: Any) -> bool:
    """Whether a value is replaced rather than changed; functions are neither."""
    return value is None or isinstance(value, bool | int | float | str)
