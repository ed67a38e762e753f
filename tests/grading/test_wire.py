"""Values come out as they went in, and a frame that does not keep the rules comes to nothing."""

import importlib.util
import io
import json
import struct
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.exercises.calls import same
from course_lib.grading import wire


def there_and_back(value, functions=None):
    packed = io.BytesIO(wire.pack({"value": value}, functions))
    look_up = None if functions is None else functions.__getitem__
    return wire.unpack(*wire.frame(packed.read), look_up)["value"]


LEAVES = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False)
LEAVES |= st.text(max_size=5) | st.lists(st.floats(width=32, allow_nan=False), max_size=4).map(
    torch.tensor
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150, database=None, derandomize=True)
@given(VALUES)
def test_plain_values_come_back_the_same(value):
    assert same(there_and_back(value), value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0, 3),
        torch.tensor(2.5),
        torch.tensor([float("inf"), 1e-42]),
        torch.eye(3).T,
        torch.arange(6).view(2, 3).T,
    ]
    + [torch.ones(2, dtype=t) for t in (torch.float16, torch.bfloat16, torch.float64, torch.uint8)]
    + [torch.arange(6.0)[::2], torch.arange(6.0).view(2, 3).T, torch.tensor(2.5), torch.ones(0, 3)]
    + [torch.ones(2).expand(3, 2), torch.ones(2, dtype=torch.complex64).conj()],
)
def test_tensors_keep_dtype_shape_and_values(tensor):
    back = there_and_back(tensor)
    assert same(back, tensor)
    assert back.is_contiguous()


def test_gradients_arrays_and_numbers():
    assert there_and_back(torch.ones(2, requires_grad=True)).requires_grad
    assert type(there_and_back(torch.nn.Parameter(torch.ones(1)))) is torch.Tensor
    array = there_and_back(np.array([[True, False]]))
    assert isinstance(array, np.ndarray)
    assert array.dtype == bool
    assert there_and_back((np.float32(0.5), np.int64(3), np.bool_(True))) == (0.5, 3, True)
    assert there_and_back([Fraction(1, 3), Decimal("0.1")]) == [Fraction(1, 3), Decimal("0.1")]
    assert there_and_back({1, 2}) == {1, 2}


class Liar(int):
    """An int whose own methods lie, as everything that a student can override may."""

    def __eq__(self, other):
        return True

    def __index__(self):
        raise AssertionError

    __int__ = __repr__ = __str__ = __index__
    __hash__ = int.__hash__


class LiarTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *_):
        raise AssertionError


def test_subclasses_become_the_plain_type_without_being_asked():
    assert type(there_and_back(Liar(3))) is int
    assert type(there_and_back(torch.ones(2).as_subclass(LiarTensor))) is torch.Tensor
    assert type(there_and_back(type("D", (dict,), {"items": 3})({1: 2}))) is dict


def test_objects_do_not_travel_only_the_names_of_their_types():
    for value in (object(), range(3), b"x", iter([]), torch.ones(2).to_sparse(), np.array(["a"])):
        assert isinstance(there_and_back(value), wire.Thing)
    assert type(there_and_back(range(3))).__name__ == "range"


def test_functions_travel_as_numbers_where_they_may():
    functions = []
    back = there_and_back([abs, 1, len], functions)
    assert back == functions[:1] + [1] + functions[1:] == [abs, 1, len]
    assert isinstance(there_and_back(abs), wire.Thing)
    forged = wire.pack({"value": abs}, [])
    with pytest.raises(wire.Violation):
        wire.unpack(*wire.frame(io.BytesIO(forged).read))


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [deep(100), deep(100_000), [0] * 1_000_001, 10**2000, torch.zeros(20_000_000), "x" * 9_000_000],
)
def test_what_is_too_large_does_not_travel(value):
    with pytest.raises(wire.Violation):
        wire.pack({"value": value})


def test_an_endless_list_does_not_travel():
    endless = []
    endless.append(endless)
    with pytest.raises(wire.Violation):
        wire.pack({"value": endless})


def forged(head, body=b"", lengths=None):
    head = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack(">II", *(lengths or (len(head), len(body)))) + head + body


GOOD = wire.pack({"value": torch.ones(1000)})


def few(of, shape, dtype="torch.int8"):
    return forged({"value": {"kind": "tensor", "of": of, "shape": shape, "dtype": dtype}})


@pytest.mark.parametrize(
    "frame",
    [
        forged(b"", lengths=(2**32 - 1, 0)),
        forged(b"{}", lengths=(2, 2**32 - 1)),
        forged(b"nonsense"),
        forged([1]),
        forged(3),
        forged(b"[" * 50_000),
        forged(b'{"value": ' * 50_000),
        forged({"value": [1]}),
        forged({"value": {"kind": "pickle", "is": "cos\nsystem"}}),
        forged({"value": {"kind": "tensor", "is": "0"}}),
        forged({"value": {"kind": "tensor", "is": ["0"]}}),
        few("01", [2]),
        few("01", [-1, -1]),
        few("01", [1], "torch.quint8"),
        few("01", [1], "torch.float32"),
        few("0x", [1]),
        few("1", [1]),
        few(["01"], [1]),
        few([1], [1]),
        few("", [1]),
        few("00" * 999, [999]),
        forged({"value": {"kind": "set", "of": [{"kind": "list", "of": []}]}}),
        forged({"value": {"kind": "dict", "of": [[1]]}}),
        forged({"value": {"kind": "dict", "of": [[{"kind": "dict", "of": []}, 1]]}}),
        forged({"value": {"kind": "number", "is": "1/0"}}),
        forged({"value": {"kind": "number", "is": "x"}}),
        forged({"value": {"kind": "function", "is": 0}}),
        forged({"value": {"kind": "thing", "is": 3}}),
        forged({"value": {}}),
        forged(b'{"value": ' + b"1" * 5000 + b"}"),
        forged({"value": {"kind": "tensor", "is": "0"}}, b"\xff" * 40),
        forged({"value": {"kind": "tensor", "is": "0"}}, b"\x10\0\0\0\0\0\0\0{}"),
        GOOD[:8] + GOOD[8:].replace(b"[0,4000]", b"[0,9999]"),
        GOOD[:8] + GOOD[8:].replace(b"[1000]", b"[9000]"),
        GOOD[:8] + GOOD[8:].replace(b"F32", b"I64"),
    ],
)
def test_a_forged_frame_is_a_violation(frame):
    with pytest.raises(wire.Violation):
        wire.unpack(*wire.frame(io.BytesIO(frame).read))


def test_a_forged_truth_value_is_true_or_false():
    """A byte of 7 would count as seven in a sum of NumPy's."""
    head = {"kind": "array", "of": "0007ff", "shape": [3], "dtype": "torch.bool"}
    small = wire.unpack(*wire.frame(io.BytesIO(forged({"value": head})).read))["value"]
    assert small.view("u1").tolist() == [0, 1, 1]
    packed = wire.pack({"value": torch.ones(1000, dtype=torch.bool)})
    large = wire.unpack(*wire.frame(io.BytesIO(packed[:-1] + b"\7").read))["value"]
    assert large.view(torch.uint8).max() == 1


@settings(deadline=None, max_examples=200, database=None, derandomize=True)
@given(st.integers(8, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_is_another_value_or_a_violation(place, byte):
    changed = GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]
    try:
        message = wire.unpack(*wire.frame(io.BytesIO(changed).read))
    except wire.Violation:
        return
    assert isinstance(message, dict)


def test_a_copy_does_not_change_with_the_value():
    value = [torch.zeros(2), {"a": [1]}, (np.zeros(1),), "x"]
    copy = wire.copied(value)
    assert wire.same(copy, value)
    value[0][0], value[2][0][0] = 1, 1
    value[1]["a"].append(2)
    assert copy[0].tolist() == [0, 0]
    assert copy[1] == {"a": [1]}
    assert copy[2][0].tolist() == [0]


def test_values_that_changed_are_not_the_same():
    nan, zeros = torch.tensor([float("nan")]), torch.zeros(3)
    assert wire.same([nan, {"a": (zeros, 1)}], [nan.clone(), {"a": (zeros.clone(), 1)}])
    for one, other in (
        *((zeros, torch.ones(3)), (zeros, zeros.double()), (zeros, zeros[:2]), (nan, zeros[:1])),
        *(({"a": 1, "b": 2}, {"b": 2, "a": 1}), ([1], [1, 2]), (1, True), ((1,), [1])),
    ):
        assert not wire.same(one, other)


@pytest.mark.parametrize(
    ("target", "after"),
    [
        (torch.zeros(3), torch.ones(3)),
        (torch.zeros(3), torch.ones(2, 2)),
        (torch.zeros(3, requires_grad=True), torch.ones(3)),
        ([1, torch.zeros(2)], [2, torch.ones(2)]),
        ([1, 2], [1]),
        ({"a": torch.zeros(2), "b": 1}, {"b": 2, "a": torch.ones(2)}),
        ({"a": 1}, {}),
        ((torch.zeros(2), [1]), (torch.ones(2), [1, 3])),
        ([[0.0]], [[1.0]]),
    ],
)
def test_inputs_become_what_they_were_on_the_other_side(target, after):
    parts = target if isinstance(target, list) else []
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    wire.put_back(target, after)
    assert same(target, after)
    assert all(any(part is tensor for part in target) for tensor in tensors)  # changed in place


def test_without_safetensors_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    spec = importlib.util.spec_from_file_location("wire_alone", wire.__file__)
    with pytest.raises(ImportError, match=r'pip install "course_lib\[grading\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_one_entry_of_a_column_travels():
    """Its stride is not 1, although torch calls it contiguous."""
    entry = torch.arange(6.0).as_strided((1,), (3,))
    assert entry.is_contiguous() and entry.stride() == (3,)
    assert torch.equal(there_and_back(entry), entry)
