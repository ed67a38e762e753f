"""The exam's items: their answers against other programs, and variants that are equally hard."""

import itertools
import math
from random import Random

import numpy as np
import pytest
import torch
from torch import nn

from course_lib import measure
from course_lib.compression import coding, quantization
from course_lib.exercises import exam
from course_lib.exercises.calls import call, unmet
from course_lib.exercises.exam import ITEMS, misformed, same
from course_lib.pruning import allocate

VARIANTS = [(f"student{i}", seed) for seed in (1, 2**40) for i in range(30)]


def with_numpy(weights, sparsity, stays):
    sizes, at = np.abs(weights), np.arange(len(weights))
    order = np.lexsort((-at if stays == "earlier" else at, sizes))
    return tuple(sorted(order[: round(sparsity * len(weights))].tolist()))


def with_allocate(first, second, sparsity):
    scores = {"a": torch.tensor(first), "b": torch.tensor(second)}
    keep = allocate.globally(scores, sparsity)["b"]
    return tuple(keep.nonzero().flatten().tolist())


def by_trying(rows, columns):
    dense = 4 * rows * columns
    counts = range(rows * columns + 1)
    return max(k for k in counts if measure.csr_bytes((rows, columns), k) < dense)


def with_coding(positions, bits, value_bits):
    distances, _ = coding.relative(torch.tensor(positions), bits)
    return len(distances) * (bits + value_bits)


def by_minimising(hessian, weights):
    """Move the other weights to where the quadratic model is lowest, for each deleted weight."""
    h, w = np.array(hessian, float), np.array(weights)
    rises = []
    for q in range(3):
        others = [i for i in range(3) if i != q]
        step = np.zeros(3)
        step[q] = -w[q]
        step[others] = -np.linalg.solve(h[np.ix_(others, others)], h[others, q] * step[q])
        rises.append(step @ h @ step / 2)
    return int(np.argmin(rises)), float(min(rises))


def by_taking_away(sizes, share, rounds):
    left = [list(range(n)) for n in sizes]
    for weights, part in itertools.product(left, [share]):
        part = part / 2 if weights is left[1] else part
        for _ in range(rounds):
            del weights[: round(part * len(weights))]
    return tuple(map(len, left))


def with_modules(channels, kernel, side, dead):
    def cost(middle):
        net = nn.Sequential(
            nn.Conv2d(channels[0], middle, kernel, padding=kernel // 2),
            nn.Conv2d(middle, channels[2], kernel, padding=kernel // 2),
        )
        x = torch.zeros(1, channels[0], side, side)
        return measure.count_parameters(net), measure.macs(net, x)

    before, after = cost(channels[1]), cost(channels[1] - dead)
    return tuple(a - b for a, b in zip(before, after, strict=True))


def with_quantization(row, bits):
    weight = torch.tensor([row], dtype=torch.float64)
    scale, zero = quantization.symmetric(weight.min(1).values, weight.max(1).values, bits)
    return tuple(quantization.quantize(weight, scale, zero, bits)[0].int().tolist())


def with_code_lengths(counts):
    return sum(n * c for n, c in zip(coding.code_lengths(counts), counts, strict=True))


def by_autograd(student, teacher, temperature):
    z = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    log_q = (z / temperature).log_softmax(-1)
    p = (torch.tensor(teacher, dtype=torch.float64) / temperature).softmax(-1)
    loss = temperature**2 * nn.functional.kl_div(log_q, p, reduction="sum")
    return tuple(torch.autograd.grad(loss, z)[0].tolist())


ORACLES = [with_numpy, with_allocate, by_trying, with_coding, by_minimising, by_taking_away]
ORACLES += [with_modules, with_quantization, with_code_lengths, by_autograd]


@pytest.mark.parametrize(("item", "oracle"), list(zip(ITEMS, ORACLES, strict=True)))
def test_answer_is_what_another_program_finds(item, oracle):
    for student, seed in VARIANTS[:: 3 if oracle is by_trying else 1]:
        numbers = item.numbers(student, seed)
        assert same(item.answer(**numbers), oracle(**numbers), 1e-6), numbers


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_every_variant_is_equally_hard(item):
    """All have the same sizes, and every listed mistake is seen with all of them."""
    found = [item.numbers(*variant) for variant in VARIANTS]
    for numbers in found:
        assert list(numbers) == list(found[0])
        for key, value in numbers.items():
            assert np.shape(value) == np.shape(found[0][key])
        right = item.answer(**numbers)
        assert not any(same(wrong(**numbers), right) for wrong in item.mistakes.values())
    assert len({repr(numbers) for numbers in found}) == len(found)
    assert len({repr(item.answer(**numbers)) for numbers in found}) > len(found) / 3


def test_the_mask_is_cut_between_two_tied_weights():
    for variant in VARIANTS:
        numbers = exam.MASK.numbers(*variant)
        sizes = sorted(map(abs, numbers["weights"]))
        gone = round(numbers["sparsity"] * 8)
        assert sizes[gone - 1] == sizes[gone]
        assert len(set(sizes)) == 7


def test_numbers_repeat_and_depend_on_student_and_seed():
    mine = [item.numbers("ada", 1) for item in ITEMS]
    assert mine == [item.numbers("ada", 1) for item in ITEMS]
    for other in (("bob", 1), ("ada", 2)):
        assert all(a != item.numbers(*other) for a, item in zip(mine, ITEMS, strict=True))
    assert exam.variant("ada", 1) == exam.variant("ada", 1) != exam.variant("ada", 2)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_the_judge_accepts_the_answer_and_names_the_mistake(item):
    numbers = item.numbers("ada", 3)
    exercise = exam.exercises("ada", 3)[ITEMS.index(item)]
    (inputs,) = exercise.cases()
    assert inputs == tuple(numbers.values())

    def verdict(value):
        made = call(lambda *_: value, inputs)
        return [unmet(prop, made, False) for prop in exercise.properties]

    right = item.answer(**numbers)
    assert verdict(right) == [None, None]
    assert verdict("a text")[0]
    for words, wrong in item.mistakes.items():
        assert verdict(wrong(**numbers)) == [
            None,
            f"another value; this one comes out if one {words}",
        ]
    others = [i.answer(**i.numbers("bob", 3)) for i in (item,)]
    assert same(others[0], right) or verdict(others[0])[1] == "another value"


def test_a_float_may_be_off_by_a_thousandth():
    assert same(1.0009, 1.0) and not same(1.01, 1.0)
    assert same((0, 4.0), (0, 4.001)) and not same((1, 4.0), (0, 4.0))
    assert not same(3.0, 3)  # a whole number is counted, not measured
    assert not same(True, 1) and not same("1", 1)
    assert not same((1, 2, 3), (1, 2))


def test_form_says_nothing_about_right_or_wrong():
    assert misformed((7, 7), (1, 2, 3), "whole numbers") is None
    assert misformed(2, 1.5, "a float") is None
    for wrong in (3, [1], "x", None):
        assert misformed(wrong, (1, 2), "a tuple") == f"a tuple, got {exam.kind(wrong)}"
    assert misformed((1.5, 2), (1, 2), "whole numbers") == "whole numbers"
    assert misformed(True, 1, "a whole number") == "a whole number"


def test_huffman_is_between_the_entropy_and_a_bit_more():
    for _ in range(50):
        counts = exam._count_numbers(Random(_))["counts"]
        bits, total = exam._huffman(counts), sum(counts)
        assert exam._entropy(counts) <= bits < exam._entropy(counts) + total
        assert bits <= math.ceil(math.log2(5)) * total
