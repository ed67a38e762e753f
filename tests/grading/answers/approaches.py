"""Answers to the exercises of lesson Approaches."""

import torch

from course_lib.exercises.approaches import buggy_separable_cost, weak_cost_test

from .common import judge_says_no, judge_says_yes

# low_rank


def _check(weight, rank):
    if not 1 <= rank <= min(weight.shape):
        raise ValueError(f"no rank {rank}")


def low_rank_by_svd(weight, rank):
    _check(weight, rank)
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:rank]


def low_rank_by_eigenvectors(weight, rank):
    _check(weight, rank)
    _, v = torch.linalg.eigh(weight.T @ weight)  # ascending
    v = v[:, -rank:]
    return weight @ v, v.T.contiguous()


def low_rank_product(weight, rank):
    left, right = low_rank_by_svd(weight, rank)
    return left @ right


def low_rank_transposed(weight, rank):
    left, right = low_rank_by_svd(weight, rank)
    return left, right.T


def low_rank_full(weight, rank):
    return low_rank_by_svd(weight, min(weight.shape))


def low_rank_without_values(weight, rank):
    u, _, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank], vt[:rank]


def low_rank_values_twice(weight, rank):
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank] * s[:rank], s[:rank, None] * vt[:rank]


def low_rank_smallest(weight, rank):
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, -rank:] * s[-rank:], vt[-rank:]


def low_rank_first_columns(weight, rank):
    left = weight[:, :rank]
    return left, torch.linalg.pinv(left) @ weight


def low_rank_in_place(weight, rank):
    left, right = low_rank_by_svd(weight, rank)
    weight.copy_(left @ right)
    return left, right


def low_rank_of_any(weight, rank):
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:rank]


# kills_wrong_costs


def judge_cost_by_table(fn):
    return fn(3, 2, 5, 4) == 16 * (9 * 2 + 2 * 5) and fn(5, 4, 1, 3) == 9 * (25 * 4 + 4)


def judge_cost_by_layers(fn):
    for k, m, n, f in ((1, 3, 2, 2), (3, 2, 7, 5), (5, 6, 6, 1)):
        depthwise = torch.nn.Conv2d(m, m, k, groups=m, bias=False)
        pointwise = torch.nn.Conv2d(m, n, 1, bias=False)
        if fn(k, m, n, f) != f * f * (depthwise.weight.numel() + pointwise.weight.numel()):
            return False
    return True


def judge_cost_of_full_convolutions(fn):
    return fn(3, 2, 5, 4) == 9 * 2 * 5 * 16


def judge_cost_at_one_position(fn):
    return fn(3, 2, 5, 1) == 28


def judge_cost_with_equal_channels(fn):
    return fn(5, 4, 4, 6) == 36 * (100 + 16)


# largest_rank


def rank_by_division(n_out, n_in, fraction):
    rank = int(fraction * n_out * n_in / (n_out + n_in) + 1e-9)
    if rank < 1:
        raise ValueError("not even rank one fits")
    return rank


def rank_by_counting(n_out, n_in, fraction):
    fitting = [
        r for r in range(1, n_out * n_in + 1) if r * (n_out + n_in) <= fraction * n_out * n_in
    ]
    if not fitting:
        raise ValueError("not even rank one fits")
    return fitting[-1]


def rank_float(n_out, n_in, fraction):
    return fraction * n_out * n_in / (n_out + n_in)


def rank_rounded(n_out, n_in, fraction):
    return max(1, round(fraction * n_out * n_in / (n_out + n_in) + 0.4))


def rank_of_sides(n_out, n_in, fraction):
    return max(1, int(fraction * min(n_out, n_in)))


def rank_with_diagonal(n_out, n_in, fraction):
    return max(1, int(fraction * n_out * n_in / (n_out + n_in + 60)))


def rank_without_refusing(n_out, n_in, fraction):
    return max(1, int(fraction * n_out * n_in / (n_out + n_in) + 1e-9))


RIGHT = {
    "low_rank": [low_rank_by_svd, low_rank_by_eigenvectors],
    "kills_wrong_costs": [judge_cost_by_table, judge_cost_by_layers],
    "largest_rank": [rank_by_division, rank_by_counting],
}

WRONG = {
    "low_rank": [
        (low_rank_product, "pair of factors"),
        (low_rank_transposed, "pair of factors"),
        (low_rank_full, "pair of factors"),
        (low_rank_without_values, "as near to the weight"),
        (low_rank_values_twice, "as near to the weight"),
        (low_rank_smallest, "as near to the weight"),
        (low_rank_first_columns, "as near to the weight"),
        (low_rank_in_place, "leaves its input"),
        (low_rank_of_any, "raises a ValueError"),
    ],
    "kills_wrong_costs": [
        (judge_says_no, "accepts a correct function that adds"),
        (judge_cost_of_full_convolutions, "accepts a correct function that adds"),
        (judge_says_yes, "once an output channel"),
        (weak_cost_test, "once an output channel"),
        (judge_cost_with_equal_channels, "once an output channel"),
        (judge_cost_at_one_position, "by the output's side once"),
    ],
    "largest_rank": [
        (rank_float, "whole number"),
        (rank_rounded, "within the budget"),
        (rank_of_sides, "within the budget"),
        (rank_with_diagonal, "uses the budget up"),
        (rank_without_refusing, "raises a ValueError"),
    ],
}

HUNTS = {"kills_wrong_costs": (weak_cost_test, buggy_separable_cost, judge_cost_by_table)}
