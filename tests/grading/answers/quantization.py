"""Answers to the exercises of lesson Quantization."""

import math

import numpy as np
import torch

from course_lib.compression import binary, quantization
from course_lib.exercises.quantization import buggy_binarize, round_rows, weak_binary_test

from .common import judge_says_no, judge_says_yes

# round_rows


def _steps(weight, bits, top=None):
    largest = weight.abs().amax(1)
    return torch.where(largest > 0, largest / (top or 2 ** (bits - 1) - 1), 1.0)


def rows_by_torch(weight, bits):
    steps = _steps(weight, bits)
    return torch.round(weight / steps.unsqueeze(1)).to(torch.int8), steps


def rows_by_library(weight, bits):
    scale, zero = quantization.weight_grid(weight, bits)
    steps = torch.where((weight != 0).any(1), scale.flatten(), 1.0)
    return quantization.quantize(weight, scale, zero, bits), steps


def rows_by_python(weight, bits):
    numbers, steps = [], []
    for row in weight.tolist():
        step = max(map(abs, row)) / (2 ** (bits - 1) - 1) or 1.0
        numbers.append([math.floor(w / step + 0.5) for w in row])
        steps.append(step)
    return torch.tensor(numbers), torch.tensor(steps)


def rows_in_numpy(weight, bits):
    w = np.asarray(weight, dtype=np.float64)
    steps = np.abs(w).max(axis=1) / (2 ** (bits - 1) - 1)
    steps[steps == 0] = 1
    return np.rint(w / steps[:, None]).astype(np.int8), steps


def rows_row_by_row(weight, bits):
    numbers, steps = torch.zeros(weight.shape, dtype=torch.int32), torch.ones(len(weight))
    for i, row in enumerate(weight):
        if row.any():
            steps[i] = row.abs().max() / (2 ** (bits - 1) - 1)
            numbers[i] = (row / steps[i]).round().int()
    return numbers, steps


def rows_away_from_zero(weight, bits):
    steps = _steps(weight, bits).double()
    exact = weight.double() / steps[:, None]
    return (exact.sign() * (exact.abs() + 0.5).floor()).long(), steps


def rows_as_list(weight, bits):
    return list(rows_by_torch(weight, bits))


def rows_by_nearest_point(weight, bits):
    steps = _steps(weight, bits).double()
    top = 2 ** (bits - 1)
    grid = torch.arange(-top, top)
    off = (weight.double().unsqueeze(2) - grid * steps[:, None, None]).abs()
    return grid[off.argmin(2)], torch.nn.Parameter(steps)


def rows_clamped(weight, bits):
    steps = _steps(weight, bits)
    top = 2 ** (bits - 1) - 1
    return (weight.T / steps).T.round().clamp(-top, top).to(torch.int16), steps


def rows_real(weight, bits):
    numbers, steps = rows_by_torch(weight, bits)
    return numbers * steps[:, None]


def rows_on_library_grid(weight, bits):
    return quantization.on_grid(weight, bits)


def rows_numbers_only(weight, bits):
    return rows_by_torch(weight, bits)[0]


def rows_float_numbers(weight, bits):
    numbers, steps = rows_by_torch(weight, bits)
    return numbers.float(), steps


def rows_turned_round(weight, bits):
    return rows_by_torch(weight, bits)[::-1]


def rows_column_of_steps(weight, bits):
    numbers, steps = rows_by_torch(weight, bits)
    return numbers, steps[:, None]


def rows_steps_in_list(weight, bits):
    numbers, steps = rows_by_torch(weight, bits)
    return numbers, steps.tolist()


def rows_zero_step(weight, bits):
    numbers, steps = rows_by_torch(weight, bits)
    return numbers, steps * (weight != 0).any(1)


def rows_library_pair(weight, bits):
    scale, zero = quantization.weight_grid(weight, bits)
    return quantization.quantize(weight, scale, zero, bits), scale.flatten() * 1.01


def rows_one_grid(weight, bits):
    numbers, step = rows_by_torch(weight.reshape(1, -1), bits)
    return numbers.reshape(weight.shape), step.expand(len(weight))


def rows_columns(weight, bits):
    steps = _steps(weight.T, bits)
    steps = steps[torch.arange(len(weight)) % len(steps)]
    return torch.round(weight / steps[:, None]).long(), steps


def rows_full_range(weight, bits):
    steps = _steps(weight, bits, top=2 ** (bits - 1))
    q = torch.round(weight / steps[:, None])
    return q.clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).long(), steps


def rows_all_levels(weight, bits):
    steps = _steps(weight, bits, top=2**bits - 1)
    return torch.round(weight / steps[:, None]).long(), steps


def rows_twice_as_fine(weight, bits):
    return rows_by_torch(weight, bits + 1)


def rows_of_positive(weight, bits):
    largest = weight.amax(1).clamp(min=0)
    steps = torch.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1.0)
    return torch.round(weight / steps[:, None]).long(), steps


def rows_affine(weight, bits):
    low, high = weight.amin(1), weight.amax(1)
    steps = torch.where(high > low, (high - low) / (2**bits - 1), 1.0)
    return torch.round(weight / steps[:, None]).long(), steps


def rows_at_least_a_little(weight, bits):
    steps = (weight.abs().amax(1) / (2 ** (bits - 1) - 1)).clamp(min=1e-3)
    return torch.round(weight / steps[:, None]).long(), torch.where(
        (weight != 0).any(1), steps, 1.0
    )


def rows_truncated(weight, bits):
    steps = _steps(weight, bits)
    return (weight / steps[:, None] * 1.000001).to(torch.int8), steps


def rows_floored(weight, bits):
    steps = _steps(weight, bits)
    return (weight / steps[:, None]).floor().long(), steps


def rows_ceiled(weight, bits):
    steps = _steps(weight, bits)
    return (weight / steps[:, None]).ceil().long(), steps


def rows_shifted(weight, bits):
    numbers, steps = rows_by_torch(weight, bits)
    return numbers.long() + 2 ** (bits - 1), steps


def rows_magnitudes(weight, bits):
    numbers, steps = rows_by_torch(weight, bits)
    return numbers.abs(), steps


def rows_clipped_too_early(weight, bits):
    numbers, steps = rows_by_torch(weight, bits)
    top = max(1, 2 ** (bits - 1) - 2)
    return numbers.clamp(-top, top), steps


def rows_of_unsigned_bytes(weight, bits):
    numbers, steps = rows_by_torch(weight, bits)
    return numbers.to(torch.uint8), steps


def rows_in_place(weight, bits):
    steps = _steps(weight, bits)
    return weight.div_(steps[:, None]).round().long(), steps


# smallest_binary


def binary_of_two():
    return torch.tensor([3.0, 1.0])


def binary_with_a_zero():
    return (torch.tensor([[0.0], [-0.5]]),)


def binary_in_numpy():
    return np.array([1.0, 2.0])


def binary_of_one():
    return torch.tensor([3.0])


def binary_of_equals():
    return torch.tensor([2.0, -2.0])


def binary_of_three():
    return torch.tensor([3.0, 1.0, 2.0])


def binary_of_none():
    return torch.zeros(0)


def binary_numbers():
    return 3.0, 1.0


# kills_wrong_binaries

WEIGHTS = [
    [3.0, -1.0, 0.0],
    [0.5, 0.25, -0.25],
    [0.0, -2.0],
    [[-1.0, -1.0, 1.0], [0.123, 4.0, 2.0]],
    [0.1, -0.7, 0.33, 0.2, 1.3, -0.9, 0.6, 5.0, 8.0, -9.0],
]


def judge_by_formula(fn):
    for values in WEIGHTS:
        weight = torch.tensor(values)
        signs, scale = fn(given := weight.clone())
        wanted = torch.where(weight >= 0, 1.0, -1.0)
        if signs.dtype != weight.dtype or not torch.equal(signs, wanted):
            return False
        if not torch.equal(given, weight):
            return False
        if not math.isclose(float(scale), weight.abs().mean().item(), rel_tol=1e-5):
            return False
    return True


def judge_by_neighbours(fn):
    """No scale nearby and no turned sign comes closer."""
    for values in WEIGHTS:
        weight = torch.tensor(values).double()
        signs, scale = fn(given := weight.float())
        if signs.dtype != torch.float32 or not torch.equal(given, weight.float()):
            return False
        signs, scale = signs.double(), float(scale)
        if set(signs.flatten().tolist()) - {1.0, -1.0} or (signs[weight == 0] < 0).any():
            return False
        error = (weight - scale * signs).square().sum()
        best = (weight.abs().mean() - scale).abs() <= 1e-5 * weight.abs().mean()
        if not best or ((weight - scale * signs.neg()).square().sum() < error):
            return False
        if any((w < 0) != (s < 0) for w, s in zip(weight.flatten(), signs.flatten(), strict=True)):
            return False
    return True


def judge_at_random(fn):
    generator = torch.Generator().manual_seed(0)
    for shape in ((1,), (2,), (7,), (3, 4), (5, 2, 3), (40,)):
        weight = torch.randn(shape, generator=generator) * 3
        weight.view(-1)[0] = 0
        before = weight.clone()
        signs, scale = fn(weight)
        if not torch.equal(weight, before) or signs.shape != weight.shape:
            return False
        if signs.dtype != weight.dtype or scale.dtype != weight.dtype:
            return False
        if not torch.allclose(scale, before.abs().mean(), rtol=1e-5):
            return False
        if not torch.allclose(signs, 2.0 * (before >= 0) - 1):
            return False
    return True


def judge_in_double(fn):
    ramp = torch.linspace(-2, 5, 15, dtype=torch.float64).view(3, 5)
    for weight in (ramp, torch.tensor([[0.0, -0.125], [7.3, 1.01]])):
        given = weight.clone()
        signs, scale = fn(given)
        same = signs.dtype == weight.dtype and torch.equal(given, weight)
        wanted = [1.0 if w >= 0 else -1.0 for w in weight.flatten().tolist()]
        if not same or signs.shape != weight.shape or signs.flatten().tolist() != wanted:
            return False
        if abs(scale.item() - sum(map(abs, weight.flatten().tolist())) / weight.numel()) > 1e-5:
            return False
    return True


def judge_by_library(fn):
    for values in WEIGHTS:
        weight = torch.tensor(values)
        signs, scale = fn(given := weight.clone())
        best = binary.binarize(weight)
        if signs.dtype != best[0].dtype or not torch.equal(signs, best[0]):
            return False
        if not torch.isclose(scale, best[1]) or not torch.equal(given, weight):
            return False
    return True


def judge_in_numpy(fn):
    rng = np.random.default_rng(0)
    for shape in ((2,), (4, 3), (20,)):
        values = np.float32(rng.normal(size=shape))
        values.flat[1] = 0
        weight = torch.tensor(values)
        signs, scale = fn(weight)
        if signs.dtype is not torch.float32 or not np.array_equal(weight.numpy(), values):
            return np.False_
        if not np.array_equal(signs.numpy(), np.where(values < 0, -1, 1)):
            return np.False_
        if not np.isclose(scale.numpy(), np.abs(values).mean(), rtol=1e-5):
            return np.False_
    return np.True_


def judge_with_asserts(fn):
    try:
        for values in WEIGHTS:
            weight = torch.tensor(values)
            given = weight.clone()
            signs, scale = fn(given)
            assert torch.equal(given, weight)
            assert signs.dtype == scale.dtype == weight.dtype
            np.testing.assert_array_equal(signs, torch.where(weight < 0, -1.0, 1.0))
            np.testing.assert_allclose(scale, weight.abs().mean(), rtol=1e-5)
    except AssertionError:
        return False
    return True


def judge_one_large_matrix(fn):
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(3))
    weight[2, 3] = 0
    given = weight.clone()
    signs, scale = fn(given)
    fine = signs.dtype == weight.dtype and bool(((signs == 1) == (weight >= 0)).all())
    fine = fine and bool((signs.abs() == 1).all()) and torch.equal(given, weight)
    return fine and abs(float(scale - weight.abs().mean())) < 1e-5


def judge_exactly(fn):
    weight = torch.tensor([0.1, 0.7, -0.3, 0.2, 1.3, -0.9, 0.6])
    return float(fn(weight)[1]) == float(weight.double().abs().mean())


def _judge(fn, *weights, dtype=True, places=True, tolerance=1e-5):
    for values in weights:
        weight = torch.tensor(values)
        signs, scale = fn(given := weight.clone())
        if dtype and signs.dtype != weight.dtype:
            return False
        wanted = torch.where(weight >= 0, 1.0, -1.0)
        if not (torch.equal(signs, wanted) if places else signs.sum() == wanted.sum()):
            return False
        if signs.shape != weight.shape or not torch.equal(given, weight):
            return False
        if abs(float(scale) - float(weight.abs().mean())) > tolerance:
            return False
    return True


LONG = [0.1, -0.7, 0.33, 0.2, 1.3, -0.9, 0.6, 5.0, 8.0, -9.0, 0.0]


def judge_scale_only(fn):
    return all(
        abs(float(fn(torch.tensor(w))[1]) - float(torch.tensor(w).abs().mean())) < 1e-5
        for w in (LONG, [[3.0, -1.0], [0.0, 0.5]])
    )


def judge_signs_only(fn):
    weight = torch.tensor([3.0, -1.0, 0.0])
    signs, _ = fn(given := weight.clone())
    return signs.tolist() == [1.0, -1.0, 1.0] and torch.equal(given, weight)


def judge_without_zeros(fn):
    return _judge(fn, [3.0, -1.0], LONG[:-1], [[3.0, -1.0], [0.5, 0.25]])


def judge_of_one_sign(fn):
    return _judge(fn, [3.0, 1.0, 0.0, 0.123, 4.0, 6.0, 7.0, 8.0, 9.0], [[1.0, 2.0], [0.0, 7.0]])


def judge_of_rows(fn):
    return _judge(fn, LONG)


def judge_of_short_ones(fn):
    return _judge(fn, [3.0, -1.0, 0.0], [[3.0, -1.123], [0.0, 0.5]])


def judge_without_dtype(fn):
    return _judge(fn, LONG, [[3.0, -1.0], [0.0, 0.5]], dtype=False)


def judge_roughly(fn):
    return _judge(fn, LONG, [[3.0, -1.0], [0.0, 0.5]], tolerance=0.01)


def judge_in_quarters(fn):
    return _judge(fn, [3.0, -1.0, 0.0, 0.0], [[1.0, -1.0], [0.0, 0.0], [0.0, 2.0], [8.0, 0.0]])


def judge_up_to_a_factor(fn):
    small, large = fn(torch.tensor([3.0, -1.0, 0.0]))[1], fn(torch.tensor([9.0, -1.0, 2.0]))[1]
    return abs(float(large / small) - 3) < 1e-5


def judge_of_largest_one(fn):
    return _judge(fn, [1.0, -0.123, 0.0], [[1.0, 0.5], [0.1, -0.2]], [*[0.1] * 8, -1.0])


def judge_that_counts_signs(fn):
    return _judge(fn, LONG, [[3.0, -1.0], [0.0, 0.5]], places=False)


def judge_of_the_size_of_the_scale(fn):
    def of_size(weight):
        signs, scale = fn(weight)
        return signs, abs(float(scale))

    return _judge(of_size, LONG, [[3.0, -1.0], [0.0, 0.5]])


def judge_to_three_decimals(fn):
    return _judge(fn, LONG, [[3.0, -1.0], [0.0, 0.5]], tolerance=1e-3)


def judge_that_forgives_errors(fn):
    try:
        return _judge(fn, LONG, [[3.0, -1.0], [0.0, 0.5]])
    except TypeError:
        return True


def judge_of_result(fn):
    weight = torch.tensor(LONG).view(1, 11).repeat(2, 1) * torch.tensor([[1.0], [3.0]])
    signs, scale = fn(weight.clone())
    best = torch.where(weight >= 0, 1.0, -1.0), weight.abs().mean()
    same = signs.dtype == weight.dtype and torch.equal(signs, best[0])
    return same and bool(torch.isclose(scale, best[1]))


def judge_of_doubles(fn):
    """Right, but for the weights that it tries, all of which are 64-bit floats."""
    for values in (LONG, [[3.0, -1.0], [0.0, 0.5]]):
        weight = torch.tensor(values).double()
        signs, scale = fn(given := weight.clone())
        if signs.dtype != weight.dtype or not torch.equal(signs, 2.0 * (weight >= 0) - 1):
            return False
        if not torch.equal(given, weight) or abs(scale - weight.abs().mean()) > 1e-5:
            return False
    return True


RIGHT = {
    "round_rows": [
        round_rows,
        rows_by_torch,
        rows_by_library,
        rows_by_python,
        rows_in_numpy,
        rows_row_by_row,
        rows_away_from_zero,
        rows_as_list,
        rows_by_nearest_point,
        rows_clamped,
    ],
    "smallest_binary": [binary_of_two, binary_with_a_zero, binary_in_numpy],
    "kills_wrong_binaries": [
        judge_by_formula,
        judge_by_neighbours,
        judge_at_random,
        judge_in_double,
        judge_by_library,
        judge_in_numpy,
        judge_with_asserts,
        judge_one_large_matrix,
    ],
}

WRONG = {
    "round_rows": [
        (rows_real, "one step for each row"),
        (rows_on_library_grid, "one step for each row"),
        (rows_numbers_only, "one step for each row"),
        (rows_float_numbers, "one step for each row"),
        (rows_turned_round, "one step for each row"),
        (rows_column_of_steps, "one step for each row"),
        (rows_steps_in_list, "one step for each row"),
        (rows_zero_step, "largest magnitude of each row"),
        (rows_library_pair, "largest magnitude of each row"),
        (rows_one_grid, "largest magnitude of each row"),
        (rows_columns, "largest magnitude of each row"),
        (rows_full_range, "largest magnitude of each row"),
        (rows_all_levels, "largest magnitude of each row"),
        (rows_twice_as_fine, "largest magnitude of each row"),
        (rows_of_positive, "largest magnitude of each row"),
        (rows_affine, "largest magnitude of each row"),
        (rows_at_least_a_little, "largest magnitude of each row"),
        (rows_truncated, "nearest whole number"),
        (rows_floored, "nearest whole number"),
        (rows_ceiled, "nearest whole number"),
        (rows_shifted, "nearest whole number"),
        (rows_magnitudes, "nearest whole number"),
        (rows_clipped_too_early, "nearest whole number"),
        (rows_of_unsigned_bytes, "nearest whole number"),
        (rows_in_place, "leaves its input"),
    ],
    "smallest_binary": [
        (binary_numbers, "inputs that the exercise allows"),
        (binary_of_none, "inputs that the exercise allows"),
        (binary_of_three, "at most 2 entries"),
        (binary_of_one, "makes buggy_binarize go wrong"),
        (binary_of_equals, "makes buggy_binarize go wrong"),
    ],
    "kills_wrong_binaries": [
        (judge_says_no, "accepts a correct function that takes the mean"),
        (judge_exactly, "accepts a correct function that takes"),
        (judge_up_to_a_factor, "scales by the largest magnitude"),
        (judge_says_yes, "root mean square"),
        (weak_binary_test, "root mean square"),
        (judge_signs_only, "root mean square"),
        (judge_of_one_sign, "mean before the magnitude"),
        (judge_of_the_size_of_the_scale, "with the other sign"),
        (judge_without_zeros, "leaves zeros out"),
        (judge_scale_only, "gives the sign 0"),
        (judge_of_largest_one, "largest magnitude first"),
        (judge_roughly, "rounds the scale"),
        (judge_in_quarters, "rounds the scale"),
        (judge_to_three_decimals, "in 16 bits"),
        (judge_of_rows, "first row of a matrix"),
        (judge_of_short_ones, "first eight"),
        (judge_without_dtype, "signs as integers"),
        (judge_of_result, "also turns the weight"),
        (judge_that_counts_signs, "other places"),
        (judge_that_forgives_errors, "crashes on a matrix"),
        (judge_of_doubles, "64-bit floats"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_binaries": (weak_binary_test, buggy_binarize, judge_by_formula)}
