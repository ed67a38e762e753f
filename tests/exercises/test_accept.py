"""Answers as plain data: the same value in every type, and nothing hostile is called."""

import collections
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from course_lib.exercises.accept import Unreadable, plain_data, precision


class Sub(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *_, **__):
        raise RuntimeError


VALUES = torch.tensor([0.5, -1.0])
with torch.inference_mode():
    INFERENCE = VALUES + 0


@pytest.mark.parametrize(
    "value",
    [
        VALUES,
        VALUES.double(),
        VALUES.bfloat16(),
        VALUES.numpy(),
        VALUES.numpy().astype(">f8"),
        VALUES.numpy()[::-1].copy()[::-1],
        torch.nn.Parameter(VALUES),
        VALUES.clone().requires_grad_() * 1,
        VALUES.as_subclass(Sub),
        torch.stack([VALUES, VALUES], 1)[:, 0],
        INFERENCE,
    ],
)
def test_every_kind_of_tensor_becomes_a_plain_float32_copy(value):
    plain = plain_data(value)
    assert type(plain) is torch.Tensor
    assert plain.dtype == torch.float32
    assert not plain.requires_grad
    assert torch.equal(plain, VALUES)
    plain.zero_()  # an inference tensor would refuse, and a view would change VALUES
    assert VALUES.tolist() == [0.5, -1.0]


def test_float64_inputs_keep_float64_answers():
    assert precision((VALUES, 0.5)) == torch.float32
    assert precision(({"a": VALUES.double()}, 0.5)) == torch.float64
    assert precision(()) == torch.float32
    assert plain_data(VALUES, torch.float64).dtype == torch.float64


def test_an_answer_to_nothing_keeps_its_precision():
    assert plain_data(VALUES.double(), None).dtype == torch.float64
    assert plain_data(VALUES.half(), None).dtype == torch.float32


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (Fraction(1, 2), 0.5),
        (Decimal("0.5"), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (torch.tensor(0.5), 0.5),
        (torch.tensor(True), True),
        (np.array(3), 3),
        ([1, (np.int8(2), torch.tensor(3))], (1, (2, 3))),
        (collections.OrderedDict(a=torch.tensor(1.0)), {"a": 1.0}),
        ({np.int64(1), torch.tensor(2)}, {1, 2}),
        (collections.namedtuple("Pair", "a b")(1, 2), (1, 2)),
        (None, None),
        ("a", "a"),
    ],
)
def test_numbers_and_containers_become_pythons_own(value, plain):
    found = plain_data(value)
    assert found == plain
    assert type(found) is type(plain)
    if isinstance(found, tuple):
        assert all(type(part) in (int, tuple) for part in found)


def test_masks_stay_bool_and_whole_numbers_become_int64():
    assert plain_data(np.array([True])).dtype == torch.bool
    assert plain_data(torch.tensor([1], dtype=torch.int8)).dtype == torch.int64


class Liar(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__

    def __int__(self):
        raise RuntimeError


class Refusing:
    def __getattribute__(self, name):
        raise RuntimeError

    __class__ = property(lambda self: 1 / 0)


def test_nothing_that_a_value_overrides_is_called():
    assert plain_data(Liar(3)) == 3
    assert plain_data(Liar(3)) != 4
    refusing = Refusing()
    assert plain_data(refusing) is refusing
    assert plain_data([refusing])[0] is refusing


ENDLESS = []
ENDLESS += [ENDLESS, ENDLESS, ENDLESS]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(2).to_sparse(), "sparse_coo on cpu"),
        (torch.ones(2, device="meta"), "strided on meta"),
        (torch.zeros(1).expand(10**12), "sensible size"),
        (np.array(["a"]), "array of <U1"),
        (ENDLESS, "endless"),
        (Fraction(10**400), "a number that a float can hold"),
        ([[0] * 1000] * 2000, "very long"),
    ],
)
def test_what_cannot_be_read_is_named(value, words):
    with pytest.raises(Unreadable, match=words):
        plain_data(value)
