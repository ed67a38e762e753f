"""Answers to the exercises of lesson Criteria."""

import math

import torch

from course_lib.exercises.criteria import buggy_magnitude_mask, weak_mask_test

from .common import judge_says_no, judge_says_yes

# magnitude_mask


def mask_by_topk(weight, sparsity):
    """Ties made different by the position: float64 has room for both."""
    size = weight.abs().flatten()
    rank = torch.unique(size, return_inverse=True)[1] * size.numel() - torch.arange(size.numel())
    keep = torch.zeros(size.numel(), dtype=torch.bool)
    keep[rank.topk(size.numel() - round(sparsity * size.numel())).indices] = True
    return keep.view_as(weight)


def mask_by_python(weight, sparsity):
    values = weight.flatten().tolist()
    order = sorted(range(len(values)), key=lambda i: abs(values[i]), reverse=True)
    kept = set(order[: len(values) - round(sparsity * len(values))])
    return torch.tensor([i in kept for i in range(len(values))]).reshape(weight.shape)


def mask_by_numpy(weight, sparsity):
    size = weight.abs().numpy().ravel()
    order = (-size).argsort(kind="stable")
    keep = torch.ones(size.size, dtype=torch.bool)
    keep[torch.from_numpy(order[size.size - round(sparsity * size.size) :])] = False
    return keep.reshape(weight.shape)


def mask_list(weight, sparsity):
    return mask_by_python(weight, sparsity).tolist()


def mask_array(weight, sparsity):
    return mask_by_python(weight, sparsity).numpy()


def mask_float(weight, sparsity):
    return mask_by_python(weight, sparsity).float()


def mask_flat(weight, sparsity):
    return mask_by_python(weight, sparsity).flatten()


def mask_upside_down(weight, sparsity):
    return ~mask_by_python(weight, sparsity)


def mask_one_too_many(weight, sparsity):
    n = weight.numel()
    return mask_by_python(weight, min(1.0, (round(sparsity * n) + 1) / n))


def mask_quantile(weight, sparsity):
    return weight.abs() > weight.abs().quantile(sparsity)


def mask_up(weight, sparsity):
    return mask_by_python(weight, math.ceil(sparsity * weight.numel()) / weight.numel())


def mask_signed(weight, sparsity):
    return mask_by_python(weight - weight.min(), sparsity)


def mask_later_stays(weight, sparsity):
    return mask_by_python(weight.flatten().flip(0), sparsity).flip(0).reshape(weight.shape)


def mask_in_place(weight, sparsity):
    return mask_by_python(weight.abs_(), sparsity)


def mask_kthvalue(weight, sparsity):
    size = weight.abs().flatten()
    return weight.abs() > size.kthvalue(round(sparsity * size.numel())).values


# kills_wrong_masks


def judge_by_oracle(mask_fn):
    for weight in (torch.arange(-5.0, 4.0).reshape(3, 3), torch.ones(7), torch.tensor([-1.0, 0.5])):
        for sparsity in (0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0):
            given = weight.clone()
            if not torch.equal(mask_fn(given, sparsity), mask_by_python(weight, sparsity)):
                return False
            if not torch.equal(given, weight):
                return False
    return True


def judge_by_counting(mask_fn):
    """Random inputs; nothing about the order of ties."""
    for _ in range(100):
        weight = torch.randint(-3, 4, (torch.randint(1, 12, ()).item(),)).float()
        sparsity = torch.rand(()).item() * torch.randint(0, 2, ()).item()
        before = weight.clone()
        keep = mask_fn(weight, sparsity)
        size = before.abs()
        if (~keep).sum().item() != round(sparsity * len(weight)) or (weight != before).any():
            return False
        if keep.any() and not keep.all() and size[keep].min() < size[~keep].max():
            return False
    return True


def judge_by_tensor(mask_fn):
    return torch.tensor(judge_by_oracle(mask_fn))


def judge_on_distinct(mask_fn):
    weight = torch.tensor([-3.0, 2.0, 1.0, -0.5])
    return torch.equal(mask_fn(weight, 0.5), torch.tensor([True, True, False, False]))


def judge_demands_later(mask_fn):
    """Expects the later of two equal weights to stay."""
    return mask_fn(torch.ones(2), 0.5).tolist() == [False, True]


def judge_without_ends(mask_fn):
    """Everything but the two ends of the range."""
    weight = torch.tensor([-3.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.25])
    for sparsity in (0.1, 0.3, 0.5, 0.6, 0.7, 0.9):
        given = weight.clone()
        same = torch.equal(mask_fn(given, sparsity), mask_by_python(weight, sparsity))
        if not same or not torch.equal(given, weight):
            return False
    return True


def judge_crashes(mask_fn):
    return mask_fn(torch.ones(3), 0.5)[5]


# sparsity_for


def budget_by_division(shape, budget):
    rows, columns = shape
    places = (budget - 4 * (rows + 1)) // 8
    if places < 0:
        raise ValueError(f"budget: {budget} bytes do not hold the row pointers")
    return max(0, rows * columns - places) / (rows * columns)


def budget_by_bisection(shape, budget):
    n = shape[0] * shape[1]
    low, high = 0, n + 1  # the answer is the first count from low to high - 1 that fits
    while low < high:
        middle = (low + high) // 2
        fits = 8 * (n - middle) + 4 * shape[0] + 4 <= budget
        low, high = (low, middle) if fits else (middle + 1, high)
    if low > n:
        raise ValueError("budget too small")
    return low / n


def budget_without_error(shape, budget):
    return min(1.0, budget_by_division(shape, max(budget, 4 * (shape[0] + 1))))


def budget_wrong_error(shape, budget):
    assert budget >= 4 * (shape[0] + 1)
    return budget_by_division(shape, budget)


def budget_negative(shape, budget):
    n = shape[0] * shape[1]
    budget_by_division(shape, budget)
    return (n - (budget - 4 * (shape[0] + 1)) // 8) / n


def budget_fraction(shape, budget):
    budget_by_division(shape, budget)
    return max(0.0, 1 - (budget - 4 * (shape[0] + 1)) / (8 * shape[0] * shape[1]))


def budget_no_columns(shape, budget):
    budget_by_division(shape, budget)
    n = shape[0] * shape[1]
    return max(0, n - (budget - 4 * (shape[0] + 1)) // 4) / n


def budget_one_pointer_less(shape, budget):
    budget_by_division(shape, budget)
    return budget_by_division(shape, budget + 4)


def budget_long_indices(shape, budget):
    budget_by_division(shape, budget)
    n = shape[0] * shape[1]
    return max(0, n - (budget - 4 * (shape[0] + 1)) // 12) / n


def budget_strictly_below(shape, budget):
    empty = 4 * (shape[0] + 1)
    return budget_by_division(shape, max(empty, budget - 1) if budget >= empty else budget)


def budget_density(shape, budget):
    return 1 - budget_by_division(shape, budget)


RIGHT = {
    "magnitude_mask": [mask_by_topk, mask_by_python, mask_by_numpy, mask_array],
    "kills_wrong_masks": [judge_by_oracle, judge_by_counting, judge_by_tensor],
    "sparsity_for": [budget_by_division, budget_by_bisection],
}


WRONG = {
    "magnitude_mask": [
        (mask_list, "torch.bool tensor"),
        (mask_float, "torch.bool tensor"),
        (mask_flat, "torch.bool tensor"),
        (mask_upside_down, "exactly round"),
        (mask_one_too_many, "exactly round"),
        (mask_quantile, "exactly round"),
        (mask_up, "exactly round"),
        (buggy_magnitude_mask, "exactly round"),
        (mask_signed, "smallest magnitude"),
        (mask_later_stays, "earlier of equal"),
        (mask_in_place, "leaves its input"),
        (mask_kthvalue, "runs on every input"),
    ],
    "kills_wrong_masks": [
        (judge_says_no, "accepts a correct function that sorts"),
        (judge_demands_later, "accepts a correct function that sorts"),
        (judge_says_yes, "removes all weights tied with it"),
        (weak_mask_test, "removes all weights tied with it"),
        (judge_on_distinct, "removes all weights tied with it"),
        (judge_without_ends, "removes everything at sparsity 0"),
        (judge_crashes, "runs on every input"),
    ],
    "sparsity_for": [
        (budget_negative, "from 0 to 1"),
        (budget_fraction, "whole number"),
        (budget_no_columns, "fits the matrix"),
        (budget_one_pointer_less, "fits the matrix"),
        (budget_density, "fits the matrix"),
        (budget_strictly_below, "no more than it has to"),
        (budget_long_indices, "no more than it has to"),
        (budget_without_error, "raises a ValueError"),
        (budget_wrong_error, "raises a ValueError"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_masks": (weak_mask_test, buggy_magnitude_mask, judge_by_oracle)}
