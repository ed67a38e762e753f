"""Answers to the exercises of lesson Quantization."""

import math

import torch

from course_lib.compression import binary, quantization
from course_lib.exercises.quantization import buggy_binarize, weak_binary_test

from .common import judge_says_no, judge_says_yes

# round_rows


def rows_by_torch(weight, bits):
    step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    step = torch.where(step > 0, step, 1)
    return torch.round(weight / step) * step


def rows_by_library(weight, bits):
    return quantization.on_grid(weight, bits)


def rows_by_python(weight, bits):
    found = []
    for row in weight.tolist():
        step = max(map(abs, row)) / (2 ** (bits - 1) - 1) or 1.0
        found.append([step * math.floor(w / step + 0.5) for w in row])
    return torch.tensor(found)


def rows_whole_numbers(weight, bits):
    return torch.round(weight / weight.abs().amax(1, keepdim=True) * (2 ** (bits - 1) - 1)).int()


def rows_nan(weight, bits):
    step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.round(weight / step) * step


def rows_one_grid(weight, bits):
    return rows_by_torch(weight.reshape(1, -1), bits).reshape(weight.shape)


def rows_columns(weight, bits):
    return rows_by_torch(weight.T, bits).T


def rows_full_range(weight, bits):
    step = weight.abs().amax(1, keepdim=True) / 2 ** (bits - 1)
    step = torch.where(step > 0, step, 1)
    q = torch.round(weight / step).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return q * step


def rows_twice_as_fine(weight, bits):
    return rows_by_torch(weight, bits + 1)


def rows_truncated(weight, bits):
    step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    step = torch.where(step > 0, step, 1)
    return torch.trunc(weight / step * 1.000001) * step


def rows_in_place(weight, bits):
    return weight.copy_(rows_by_torch(weight, bits))


# kills_wrong_binaries

WEIGHTS = [[3.0, -1.0, 0.0], [0.5, 0.25, -0.25], [0.0, -2.0], [-1.0, -1.0, 1.0]]


def judge_by_formula(fn):
    for values in WEIGHTS:
        weight = torch.tensor(values)
        signs, scale = fn(given := weight.clone())
        wanted = torch.tensor([1.0 if v >= 0 else -1.0 for v in values])
        if not torch.equal(signs, wanted) or not torch.equal(given, weight):
            return False
        if not math.isclose(float(scale), weight.abs().mean().item(), rel_tol=1e-5):
            return False
    return True


def judge_by_neighbours(fn):
    """No scale nearby and no turned sign comes closer."""
    for values in WEIGHTS:
        weight = torch.tensor(values).double()
        signs, scale = fn(given := weight.float())
        signs, scale = signs.double(), float(scale)
        if set(signs.tolist()) - {1.0, -1.0} or not torch.equal(given, weight.float()):
            return False
        error = (weight - scale * signs).square().sum()
        others = [(scale * f, signs) for f in (0.99, 1.01)]
        others += [
            (scale, torch.where(torch.arange(len(values)) == i, -signs, signs))
            for i in range(len(values))
        ]
        if any((weight - s * b).square().sum() < error - 1e-6 for s, b in others):
            return False
    return True


def judge_exactly(fn):
    weight = torch.tensor([0.1, 0.7, -0.3, 0.2, 1.3, -0.9, 0.6])
    return float(fn(weight)[1]) == float(weight.double().abs().mean())


def judge_scale_only(fn):
    weight = torch.tensor([3.0, -1.0, 0.0])
    return abs(float(fn(weight)[1]) - 4 / 3) < 1e-5


def judge_without_zeros(fn):
    return _judge(fn, [3.0, -1.0])


def judge_of_one_sign(fn):
    return _judge(fn, [3.0, 1.0])


def judge_of_result(fn):
    return _judge(fn, [3.0, -1.0, 0.0])


def _judge(fn, values):
    weight = torch.tensor(values)
    signs, scale = fn(weight.clone())
    best = [torch.where(weight >= 0, 1.0, -1.0), weight.abs().mean()]
    return torch.equal(signs, best[0]) and bool(torch.isclose(scale, best[1]))


def judge_by_library(fn):
    weight = torch.tensor([3.0, -1.0, 0.0])
    signs, scale = fn(given := weight.clone())
    best = binary.binarize(weight)
    same = torch.equal(signs, best[0]) and bool(torch.isclose(scale, best[1]))
    return same and torch.equal(given, weight)


# widest_bits


def bits_by_trying(shapes, budget):
    for bits in range(8, 1, -1):
        total = 0
        for shape in shapes:
            total += math.ceil(math.prod(shape) * bits / 8) + 8 * shape[0]
        if total <= budget:
            return bits
    raise ValueError(f"{budget} bytes are too few for 2 bits")


def bits_upwards(shapes, budget):
    fits = [b for b in range(2, 9) if _bytes(shapes, b) <= budget]
    if not fits:
        raise ValueError("too small")
    return fits[-1]


def _bytes(shapes, bits, extra=8):
    return sum((math.prod(s) * bits + 7) // 8 + extra * s[0] for s in shapes)


def _first(shapes, budget, cost, widths=range(8, 1, -1)):
    for bits in widths:
        if cost(shapes, bits) <= budget:
            return bits
    raise ValueError("too small")


def bits_by_division(shapes, budget):
    """Divides what is left by the number of weights: a float, and without an end."""
    left = budget - sum(8 * s[0] for s in shapes)
    return 8 * left / sum(math.prod(s) for s in shapes)


def bits_without_end(shapes, budget):
    return _first(shapes, budget, _bytes, range(16, 1, -1))


def bits_without_scales(shapes, budget):
    return _first(shapes, budget, lambda s, b: _bytes(s, b, 4))


def bits_weights_only(shapes, budget):
    return _first(shapes, budget, lambda s, b: _bytes(s, b, 0))


def bits_strictly(shapes, budget):
    for bits in range(8, 2, -1):
        if _bytes(shapes, bits) < budget:
            return bits
    return bits_by_trying(shapes, budget)


def bits_powers(shapes, budget):
    return _first(shapes, budget, _bytes, (8, 4, 2))


def bits_two_at_least(shapes, budget):
    try:
        return bits_by_trying(shapes, budget)
    except ValueError:
        return 2


RIGHT = {
    "round_rows": [rows_by_torch, rows_by_library, rows_by_python],
    "kills_wrong_binaries": [judge_by_formula, judge_by_neighbours, judge_by_library],
    "widest_bits": [bits_by_trying, bits_upwards],
}

WRONG = {
    "round_rows": [
        (rows_whole_numbers, "finite numbers"),
        (rows_nan, "finite numbers"),
        (rows_one_grid, "largest weight of each row"),
        (rows_columns, "largest weight of each row"),
        (rows_full_range, "largest weight of each row"),
        (rows_twice_as_fine, "on its row's grid"),
        (rows_truncated, "nearest point"),
        (rows_in_place, "leaves its input"),
    ],
    "kills_wrong_binaries": [
        (judge_says_no, "accepts a correct function that takes the mean"),
        (judge_exactly, "accepts a correct function that takes"),
        (judge_says_yes, "root mean square"),
        (weak_binary_test, "root mean square"),
        (judge_of_one_sign, "mean before the magnitude"),
        (judge_without_zeros, "leaves zeros out"),
        (judge_scale_only, "gives the sign 0"),
        (judge_of_result, "also turns the weight"),
    ],
    "widest_bits": [
        (bits_by_division, "whole number from 2 to 8"),
        (bits_without_end, "whole number from 2 to 8"),
        (bits_without_scales, "within the budget"),
        (bits_weights_only, "within the budget"),
        (bits_strictly, "as many bits as fit"),
        (bits_powers, "as many bits as fit"),
        (bits_two_at_least, "raises a ValueError"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_binaries": (weak_binary_test, buggy_binarize, judge_by_formula)}
