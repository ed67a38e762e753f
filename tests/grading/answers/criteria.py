"""Answers to the exercises of lesson Criteria."""

import heapq
import math

import numpy as np
import torch

from course_lib.exercises.criteria import buggy_magnitude_mask, weak_mask_test
from course_lib.pruning import allocate, counting

from .common import judge_says_no, judge_says_yes

# magnitude_mask


def gone(sparsity, n):
    return min(round(sparsity * n), n if sparsity == 1 else n - 1)


def mask_by_topk(weight, sparsity):
    """Ties made different by the position: float64 has room for both."""
    size = weight.abs().flatten()
    n = size.numel()
    rank = torch.unique(size, return_inverse=True)[1] * n - torch.arange(n)
    keep = torch.zeros(n, dtype=torch.bool)
    keep[rank.topk(n - gone(sparsity, n)).indices] = True
    return keep.view_as(weight)


def mask_by_python(weight, sparsity):
    values = weight.flatten().tolist()
    order = sorted(range(len(values)), key=lambda i: abs(values[i]), reverse=True)
    kept = set(order[: len(values) - gone(sparsity, len(values))])
    return torch.tensor([i in kept for i in range(len(values))]).reshape(weight.shape)


def mask_by_numpy(weight, sparsity):
    size = weight.abs().numpy().ravel()
    order = (-size).argsort(kind="stable")
    keep = np.ones(size.size, dtype=bool)
    keep[order[size.size - gone(sparsity, size.size) :]] = False
    return keep.reshape(tuple(weight.shape))


def mask_by_repeated_minimum(weight, sparsity):
    left = weight.abs().flatten().tolist()
    keep = [True] * len(left)
    for _ in range(gone(sparsity, len(left))):
        at = min((i for i, k in enumerate(keep) if k), key=lambda i: (left[i], -i))
        keep[at] = False
    return torch.tensor(keep).reshape(weight.shape)


def mask_by_all_pairs(weight, sparsity):
    """A weight goes if fewer than the allowed number are before it."""
    size = weight.abs().flatten()
    at = torch.arange(len(size))
    before = (size[:, None] < size) | ((size[:, None] == size) & (at[:, None] > at))
    return (before.sum(0) >= gone(sparsity, len(size))).reshape(weight.shape)


def mask_by_heap(weight, sparsity):
    n = weight.numel()
    pairs = [(abs(v), -i) for i, v in enumerate(weight.flatten().tolist())]
    mask = weight.new_ones(n, dtype=torch.bool)
    for _, minus in heapq.nsmallest(gone(sparsity, n), pairs):
        mask[-minus] = False
    return mask.view(weight.shape)


def mask_by_lexsort(weight, sparsity):
    flat = weight.detach().double().numpy().ravel()
    order = np.lexsort((-np.arange(flat.size), np.abs(flat)))
    mask = torch.ones(flat.size, dtype=torch.bool)
    mask[order[: gone(sparsity, flat.size)].copy()] = False
    return mask.reshape(weight.shape)


def mask_from_the_end(weight, sparsity):
    size = weight.abs().flatten().flip(0)
    order = size.sort(stable=True).indices
    keep = torch.ones_like(size, dtype=torch.bool)
    keep[order[: gone(sparsity, len(size))]] = False
    return keep.flip(0).reshape(weight.shape)


def mask_by_squares(weight, sparsity):
    """Squares are in the same order, also in double precision."""
    return mask_by_python(weight.double() ** 2, sparsity)


def mask_as_parameter(weight, sparsity):
    return torch.nn.Parameter(mask_by_python(weight, sparsity), requires_grad=False)


def mask_by_library(weight, sparsity):
    """One call of the library forgets that the last weight stays."""
    return allocate.per_layer({"w": weight.abs()}, sparsity)["w"]


def mask_by_keep_top(weight, sparsity):
    n = weight.numel()
    keep = counting.keep_top(weight.abs().flatten(), n - round(sparsity * n))
    return keep.reshape(weight.shape)


def mask_list(weight, sparsity):
    return mask_by_python(weight, sparsity).tolist()


def mask_float(weight, sparsity):
    return mask_by_python(weight, sparsity).float()


def mask_bytes(weight, sparsity):
    return mask_by_python(weight, sparsity).byte()


def mask_flat(weight, sparsity):
    return mask_by_python(weight, sparsity).flatten()


def mask_transposed(weight, sparsity):
    return mask_by_python(weight.T, sparsity).T if weight.ndim == 2 else mask_flat(weight, sparsity)


def mask_upside_down(weight, sparsity):
    return ~mask_by_python(weight, sparsity)


def mask_pruned_weight(weight, sparsity):
    return weight * mask_by_python(weight, sparsity)


def mask_one_too_many(weight, sparsity):
    n = weight.numel()
    return mask_by_python(weight, min(1.0, (round(sparsity * n) + 1) / n))


def mask_quantile(weight, sparsity):
    return weight.abs() > weight.abs().quantile(sparsity)


def mask_up(weight, sparsity):
    return mask_by_python(weight, math.ceil(sparsity * weight.numel()) / weight.numel())


def mask_int(weight, sparsity):
    return mask_by_python(weight, int(sparsity * weight.numel()) / weight.numel())


def mask_half_up(weight, sparsity):
    return mask_by_python(weight, int(sparsity * weight.numel() + 0.5) / weight.numel())


def mask_keeps_rounded(weight, sparsity):
    """Rounds what stays, which differs where half a weight is left over."""
    n = weight.numel()
    kept = max(round((1 - sparsity) * n), sparsity < 1)
    return mask_by_python(weight, (n - kept) / n)


def mask_never_empty(weight, sparsity):
    n = weight.numel()
    return mask_by_python(weight, min(round(sparsity * n), n - 1) / n)


def mask_signed(weight, sparsity):
    return mask_by_python(weight - weight.min(), sparsity)


def mask_later_stays(weight, sparsity):
    return mask_by_python(weight.flatten().flip(0), sparsity).flip(0).reshape(weight.shape)


def mask_unstable(weight, sparsity):
    """Of equal magnitudes, those at even places stay first."""
    flat = weight.abs().flatten()
    places = sorted(range(len(flat)), key=lambda i: (-flat[i].item(), i % 2, i))
    keep = torch.zeros(len(flat), dtype=torch.bool)
    keep[places[: len(flat) - gone(sparsity, len(flat))]] = True
    return keep.reshape(weight.shape)


def mask_rounded(weight, sparsity):
    return mask_by_python((weight * 1000).round(), sparsity)


def mask_per_row(weight, sparsity):
    if weight.ndim < 2:
        return mask_by_python(weight, sparsity)
    return torch.stack([mask_by_python(row, sparsity) for row in weight])


def mask_by_row_size(weight, sparsity):
    if weight.ndim < 2:
        return mask_by_python(weight, sparsity)
    return mask_by_python(torch.nn.functional.normalize(weight, dim=1), sparsity)


def mask_column_first(weight, sparsity):
    """Numbers the positions column by column."""
    if weight.ndim != 2:
        return mask_by_python(weight, sparsity)
    return mask_by_python(weight.T.contiguous(), sparsity).T


def mask_in_place(weight, sparsity):
    return mask_by_python(weight.abs_(), sparsity)


def mask_prunes(weight, sparsity):
    mask = mask_by_python(weight, sparsity)
    weight *= mask
    return mask


def mask_kthvalue(weight, sparsity):
    size = weight.abs().flatten()
    return weight.abs() > size.kthvalue(round(sparsity * size.numel())).values


# mask_goes_wrong


def pair(a, b=None):
    return torch.tensor([a, a if b is None else b])


# kills_wrong_masks

WEIGHTS = (
    torch.arange(-5.0, 4.0).reshape(3, 3),
    torch.ones(7),
    torch.tensor([-1.0, 0.5]),
    torch.tensor([[0.001, 0.002], [0.02, 0.01], [-30.0, 20.0]]),
    torch.ones(1),
)
LEVELS = (0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0)


def judge_by_oracle(mask_fn):
    for weight in WEIGHTS:
        for sparsity in LEVELS:
            given = weight.clone()
            keep = mask_fn(given, sparsity)
            if keep.dtype != torch.bool or keep.shape != weight.shape:
                return False
            if not torch.equal(keep, mask_by_python(weight, sparsity)):
                return False
            if not torch.equal(given, weight):
                return False
    return True


def judge_by_demands(mask_fn):
    """Random inputs, and one demand after the other."""
    generator = torch.Generator().manual_seed(1)
    for trial in range(300):
        shape = [(trial % 7 + 1,), (trial % 5 + 1, 3)][trial % 2]
        weight = torch.randint(-3, 4, shape, generator=generator) * (0.001 if trial % 3 else 2.0)
        sparsity = LEVELS[trial % len(LEVELS)]
        before, n = weight.clone(), weight.numel()
        keep = mask_fn(weight, sparsity)
        if (weight != before).any() or keep.dtype is not torch.bool or keep.shape != before.shape:
            return False
        keep, size = keep.flatten(), before.abs().flatten()
        if (~keep).sum().item() != gone(sparsity, n):
            return False
        for i in range(n):
            for j in range(n):
                if (
                    keep[j]
                    and not keep[i]
                    and (size[i] > size[j] or (size[i] == size[j] and i < j))
                ):
                    return False
    return True


def judge_by_lists(mask_fn):
    """All small weights of few values, compared as lists; any error is a mistake of the function."""
    values = [-2.0, 0.0031, 0.004, 1.0, -1.0, 0.0]
    for n in range(1, 7):
        for rows in (None, 1, n):
            weight = torch.tensor(values[:n] if n < 5 else [1.0] * n)
            weight = weight if rows is None else weight.reshape(rows, -1)
            for sparsity in LEVELS:
                copy = weight.clone()
                try:
                    keep = mask_fn(copy, sparsity)
                except RuntimeError:
                    return False
                if keep.tolist() != mask_by_python(weight, sparsity).tolist():
                    return False
                if str(keep.dtype) != "torch.bool" or copy.tolist() != weight.tolist():
                    return False
    tall = torch.tensor([[0.1, 0.2], [4.0, 5.0]])
    return mask_fn(tall, 0.5).tolist() == [[False, False], [True, True]]


def judge_by_assert(mask_fn):
    """Ends in an error instead of False."""
    assert judge_by_oracle(mask_fn)
    return 1


def judge_by_tensor(mask_fn):
    return torch.tensor(judge_by_oracle(mask_fn))


def judge_by_numpy(mask_fn):
    return np.bool_(judge_by_demands(mask_fn))


def judge_on_distinct(mask_fn):
    weight = torch.tensor([-3.0, 2.0, 1.0, -0.5])
    return torch.equal(mask_fn(weight, 0.5), torch.tensor([True, True, False, False]))


def judge_demands_later(mask_fn):
    """Expects the later of two equal weights to stay."""
    return mask_fn(torch.ones(2), 0.5).tolist() == [False, True]


def judge_demands_half_up(mask_fn):
    return judge_by_oracle(mask_fn) and (~mask_fn(torch.arange(1.0, 6), 0.5)).sum() == 3


def judging(weights=WEIGHTS, levels=LEVELS, like=lambda keep: keep, seen=True):
    """A judge that compares with an oracle what `like` makes of a mask, on some inputs only."""

    def judge(mask_fn):
        for weight in weights:
            for sparsity in levels:
                given = weight.clone()
                keep = mask_fn(given, sparsity)
                if like(keep) != like(mask_by_python(weight, sparsity)):
                    return False
                if seen and not torch.equal(given, weight):
                    return False
        return True

    return judge


def exact(keep):
    return keep.dtype, keep.tolist()


# Levels at which a weight goes in any case.
judge_without_zero = judging([WEIGHTS[0], WEIGHTS[1], WEIGHTS[3]], (*LEVELS[1:], 0.95), like=exact)
judge_vectors_only = judging([w.flatten() for w in WEIGHTS], like=exact)
judge_any_dtype = judging(
    like=lambda keep: [list(map(bool, r)) for r in keep.reshape(1, -1).tolist()]
)
judge_any_shape = judging(like=lambda keep: (keep.dtype, keep.flatten().tolist()))
judge_no_tie_order = judging(
    like=lambda keep: (keep.dtype, keep.shape, int(keep.sum())), weights=WEIGHTS[:3]
)
judge_unit_scale = judging(
    [torch.tensor([[1.0, -2.0], [3.0, 0.5]]), *WEIGHTS[:3], torch.ones(1)], like=exact
)
judge_changes_unseen = judging(like=exact, seen=False)
judge_positive = judging([w.abs() for w in WEIGHTS], like=exact)
judge_matrices_only = judging([w.view(1, -1) if w.ndim == 1 else w for w in WEIGHTS], like=exact)
judge_not_alone = judging(WEIGHTS[:-1], levels=(0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 1.0), like=exact)


def judge_crashes(mask_fn):
    return mask_fn(torch.ones(3), 0.5)[5]


def judge_of_normal_numbers(mask_fn):
    """Tries normal numbers and ties; no magnitude but 0 is below 0.01."""
    generator = torch.Generator().manual_seed(2)
    drawn = [torch.randn(shape, generator=generator) for shape in ((30,), (40,), (5, 6), (6, 5))]
    drawn = [torch.arange(0.1, 0.14, 0.001), *(x + 0.01 * x.sign() for x in drawn)]
    return judging([*drawn, *WEIGHTS[:3], *WEIGHTS[4:]], like=exact)(mask_fn)


def mask_in_half_precision(weight, sparsity):
    return mask_by_python(weight.half(), sparsity)


def mask_by_short_squares(weight, sparsity):
    """Squares of weights below 1e-23 are 0 in float32."""
    return mask_by_python(weight.square(), sparsity)


def mask_of_six_decimals(weight, sparsity):
    return mask_by_python(weight.round(decimals=6), sparsity)


def mask_of_ten_per_cents(weight, sparsity):
    """Takes 0.905 for 0.9."""
    return mask_by_python(weight, round(sparsity, 1) if 0.87 < sparsity < 0.95 else sparsity)


def judge_without_the_ends(mask_fn):
    for weight in WEIGHTS:
        for sparsity in (s for s in LEVELS if 0 < s < 1):
            given = weight.clone()
            keep = mask_fn(given, sparsity)
            if keep.dtype != torch.bool or not torch.equal(given, weight):
                return False
            if not torch.equal(keep, mask_by_python(weight, sparsity)):
                return False
    return True


def mask_in_32_bits(weight, sparsity):
    return mask_by_python(weight.float(), sparsity)


RIGHT = {
    "magnitude_mask": [
        mask_by_topk,
        mask_by_python,
        mask_by_numpy,
        mask_by_repeated_minimum,
        mask_by_all_pairs,
        mask_by_heap,
        mask_by_lexsort,
        mask_from_the_end,
        mask_by_squares,
        mask_as_parameter,
    ],
    "mask_goes_wrong": [
        lambda: (pair(1.0), 0.5),
        lambda: [pair(-2.0, 2.0), 0.5],
        lambda: (pair(0.0).reshape(2, 1), torch.tensor(0.4)),
        lambda: (np.array([3, -3]), np.float64(0.6)),
        lambda: (pair(1.0).double(), 0.99),
    ],
    "kills_wrong_masks": [
        judge_by_oracle,
        judge_by_demands,
        judge_by_lists,
        judge_by_assert,
        judge_by_tensor,
        judge_by_numpy,
    ],
}


WRONG = {
    "magnitude_mask": [
        (mask_list, "torch.bool tensor"),
        (mask_float, "torch.bool tensor"),
        (mask_bytes, "torch.bool tensor"),
        (mask_flat, "torch.bool tensor"),
        (mask_transposed, "torch.bool tensor"),
        (mask_pruned_weight, "torch.bool tensor"),
        (mask_by_library, "exactly as many"),
        (mask_by_keep_top, "exactly as many"),
        (mask_upside_down, "exactly as many"),
        (mask_one_too_many, "exactly as many"),
        (mask_quantile, "exactly as many"),
        (mask_up, "exactly as many"),
        (mask_int, "exactly as many"),
        (mask_half_up, "exactly as many"),
        (mask_keeps_rounded, "exactly as many"),
        (mask_never_empty, "exactly as many"),
        (mask_per_row, "exactly as many"),
        (buggy_magnitude_mask, "exactly as many"),
        (mask_signed, "smallest magnitude"),
        (mask_rounded, "smallest magnitude"),
        (mask_by_row_size, "smallest magnitude"),
        (mask_later_stays, "earlier of equal"),
        (mask_unstable, "earlier of equal"),
        (mask_column_first, "earlier of equal"),
        (mask_in_place, "leaves its input"),
        (mask_prunes, "leaves its input"),
        (mask_kthvalue, "runs on every input"),
        (mask_in_half_precision, "smallest magnitude"),
        (mask_of_six_decimals, "smallest magnitude"),
        (mask_by_short_squares, "smallest magnitude"),
        (mask_of_ten_per_cents, "exactly as many"),
        (mask_in_32_bits, "smallest magnitude"),
    ],
    "mask_goes_wrong": [
        (lambda: (torch.ones(3), 0.4), "at most 2"),
        (lambda: (pair(1.0, 2.0), 0.5), "makes buggy_magnitude_mask go wrong"),
        (lambda: (pair(1.0), 1.0), "makes buggy_magnitude_mask go wrong"),
        (lambda: (pair(1.0), 0.0), "makes buggy_magnitude_mask go wrong"),
        (lambda: (torch.ones(1), 0.9), "makes buggy_magnitude_mask go wrong"),
        (lambda: ([1.0, 1.0], 0.5), "inputs that the exercise allows"),
        (lambda: pair(1.0), "inputs that the exercise allows"),
        (lambda: (pair(1.0), 1.5), "inputs that the exercise allows"),
        (lambda: (pair(1.0, math.nan), 0.5), "inputs that the exercise allows"),
        (lambda: (0.5, pair(1.0)), "inputs that the exercise allows"),
        (lambda: 1 / 0, "runs on every input"),
    ],
    "kills_wrong_masks": [
        (lambda mask_fn: "yes", "True or False"),
        (judge_says_no, "accepts a correct function that sorts"),
        (judge_demands_later, "accepts a correct function that sorts"),
        (judge_demands_half_up, "accepts a correct function that sorts"),
        (judge_says_yes, "removes all weights tied with it"),
        (weak_mask_test, "removes all weights tied with it"),
        (judge_on_distinct, "removes all weights tied with it"),
        (judge_positive, "forgets the absolute value"),
        (judge_not_alone, "takes the last weight"),
        (judge_no_tie_order, "forgets the absolute value"),
        (judge_any_dtype, "type torch.uint8"),
        (judge_any_shape, "one long row"),
        (judge_vectors_only, "one long row"),
        (judge_unit_scale, "rounds magnitudes to hundredths"),
        (judge_of_normal_numbers, "all magnitudes below 0.01 for equal"),
        (judge_changes_unseen, "sets the removed weights to zero"),
        (judge_without_zero, "zeroth smallest"),
        (judge_crashes, "runs on every input"),
        (judge_without_the_ends, "was not given"),
        (judge_matrices_only, "of a vector the values"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_masks": (weak_mask_test, buggy_magnitude_mask, judge_by_oracle)}
