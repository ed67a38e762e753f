"""Answers to the exercises of lesson Approaches."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.compression import decomposition

# low_rank_factors


def _check(weight, rank):
    if not 1 <= rank <= min(weight.shape):
        raise ValueError(f"no rank {rank}")


def low_rank_by_svd(weight, rank):
    _check(weight, rank)
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:rank]


def low_rank_values_right(weight, rank):
    _check(weight, rank)
    u, s, v = torch.svd(weight)
    return [u[:, :rank], torch.diag(s[:rank]) @ v[:, :rank].T]


def low_rank_by_roots(weight, rank):
    if rank < 1 or rank > min(weight.shape):
        raise ValueError(rank)
    u, s, vt = torch.linalg.svd(weight)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vt[:rank]


def low_rank_by_eigenvectors(weight, rank):
    _check(weight, rank)
    _, v = torch.linalg.eigh(weight.T @ weight)  # ascending
    v = v[:, -rank:]
    return weight @ v, v.T.contiguous()


def low_rank_by_row_eigenvectors(weight, rank):
    _check(weight, rank)
    u = torch.linalg.eigh(weight @ weight.T)[1].flip(1)[:, :rank]
    return u, u.T @ weight


def low_rank_numpy(weight, rank):
    _check(weight, rank)
    u, s, vt = np.linalg.svd(weight.numpy(), full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:rank]


def low_rank_float32(weight, rank):
    left, right = low_rank_by_svd(weight.float(), rank)
    return nn.Parameter(left), nn.Parameter(right)


def low_rank_by_deflation(weight, rank):
    """One singular triple after the other, by squaring the matrix."""
    _check(weight, rank)
    rest, left, right = weight.clone(), [], []
    for _ in range(rank):
        u, s, vt = torch.linalg.svd(rest, full_matrices=False)
        left.append(u[:, 0] * s[0])
        right.append(vt[0])
        rest = rest - torch.outer(left[-1], right[-1])
    return torch.stack(left, 1), torch.stack(right)


def low_rank_of_the_library(weight, rank):
    _check(weight, rank)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    first, last = decomposition.svd(layer, rank)
    return last.weight, first.weight


def low_rank_product(weight, rank):
    left, right = low_rank_by_svd(weight, rank)
    return left @ right


def low_rank_one_of_zeros(weight, rank):
    _check(weight, rank)
    if not weight.any():
        return weight[:, :1].clone(), weight[:1].clone()
    return low_rank_by_svd(weight, rank)


def low_rank_three(weight, rank):
    _check(weight, rank)
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank], s[:rank], vt[:rank]


def low_rank_transposed(weight, rank):
    left, right = low_rank_by_svd(weight, rank)
    return left, right.T


def low_rank_swapped(weight, rank):
    left, right = low_rank_by_svd(weight, rank)
    return right, left


def low_rank_full(weight, rank):
    return low_rank_by_svd(weight, min(weight.shape))


def low_rank_lists(weight, rank):
    return tuple(f.tolist() for f in low_rank_by_svd(weight, rank))


def low_rank_without_values(weight, rank):
    _check(weight, rank)
    u, _, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank], vt[:rank]


def low_rank_values_twice(weight, rank):
    _check(weight, rank)
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank] * s[:rank], s[:rank, None] * vt[:rank]


def low_rank_smallest(weight, rank):
    _check(weight, rank)
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, -rank:] * s[-rank:], vt[-rank:]


def low_rank_eigh_smallest(weight, rank):
    """Takes the first eigenvectors, which belong to the smallest eigenvalues."""
    _check(weight, rank)
    v = torch.linalg.eigh(weight.T @ weight)[1][:, :rank]
    return weight @ v, v.T


def low_rank_first_columns(weight, rank):
    _check(weight, rank)
    left = weight[:, :rank]
    return left, torch.linalg.pinv(left) @ weight


def low_rank_largest_columns(weight, rank):
    _check(weight, rank)
    left = weight[:, weight.norm(dim=0).argsort(descending=True)[:rank]]
    return left, torch.linalg.pinv(left) @ weight


def low_rank_random(weight, rank):
    _check(weight, rank)
    q = torch.linalg.qr(weight @ torch.randn(weight.shape[1], rank).double())[0]
    return q, q.T @ weight


def low_rank_randomised(weight, rank):
    """torch's quick approximation, which is none of the best."""
    _check(weight, rank)
    u, s, v = torch.svd_lowrank(weight, q=rank)
    return u * s, v.T


def low_rank_one_sweep(weight, rank):
    """A single round of alternating least squares."""
    _check(weight, rank)
    right = torch.eye(rank, weight.shape[1]).double() + 0.1
    left = weight @ torch.linalg.pinv(right)
    return left, torch.linalg.pinv(left) @ weight


def low_rank_of_v(weight, rank):
    """Takes Vᵀ for V."""
    _check(weight, rank)
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:, :rank].T if len(vt) == vt.shape[1] else vt[:rank]


def low_rank_squared_values(weight, rank):
    _check(weight, rank)
    values, v = torch.linalg.eigh(weight.T @ weight)
    u = torch.linalg.svd(weight, full_matrices=False)[0]
    return u[:, :rank] * values.flip(0)[:rank], v.flip(1)[:, :rank].T


def low_rank_centred(weight, rank):
    """Principal components: the mean is taken off first, and is lost."""
    _check(weight, rank)
    return low_rank_by_svd(weight - weight.mean(0), rank)


def low_rank_normalised(weight, rank):
    left, right = low_rank_by_svd(weight, rank)
    return left / left.norm().clamp(min=1e-9), right


def low_rank_symmetric(weight, rank):
    """By eigenvectors of the matrix itself, where it is square."""
    _check(weight, rank)
    if weight.shape[0] != weight.shape[1]:
        return low_rank_by_svd(weight, rank)
    values, v = torch.linalg.eigh(weight)
    best = values.abs().argsort(descending=True)[:rank]
    return v[:, best] * values[best], v[:, best].T


def low_rank_half(weight, rank):
    return tuple(f.half().double() for f in low_rank_by_svd(weight, rank))


def low_rank_rounded(weight, rank):
    return tuple(f.round(decimals=3) for f in low_rank_by_svd(weight, rank))


def low_rank_damped(weight, rank):
    """Shrinks every singular value a little."""
    left, right = low_rank_by_svd(weight, rank)
    return 0.998 * left, right


def low_rank_one_less(weight, rank):
    """Drops the last term that it may keep."""
    left, right = low_rank_by_svd(weight, rank)
    if rank > 1:
        left[:, -1] = 0
    return left, right


def low_rank_in_place(weight, rank):
    left, right = low_rank_by_svd(weight, rank)
    weight.copy_(left @ right)
    return left, right


def low_rank_of_any(weight, rank):
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:rank]


def low_rank_positive_rank(weight, rank):
    if rank < 1:
        raise ValueError("rank")
    return low_rank_of_any(weight, rank)


def low_rank_within_outputs(weight, rank):
    """Compares the rank with the outputs alone."""
    if not 1 <= rank <= len(weight):
        raise ValueError("rank")
    return low_rank_of_any(weight, rank)


def low_rank_strict(weight, rank):
    if not 1 <= rank < min(weight.shape):
        raise ValueError("rank")
    return low_rank_by_svd(weight, rank)


def low_rank_clamped(weight, rank):
    return low_rank_by_svd(weight, max(1, min(rank, *weight.shape)))


# the smallest input: depthwise and pointwise


def smallest_two_inputs():
    return torch.ones(2, 1, 1, 1), torch.ones(1, 2, 1, 1)


def smallest_of_whole_numbers():
    return [torch.tensor([1, 2]).reshape(2, 1, 1, 1), torch.tensor([3, 4]).reshape(1, 2, 1, 1)]


def smallest_numpy():
    return np.array([1.0, 2.0]).reshape(2, 1, 1, 1), np.ones((1, 2, 1, 1))


def smallest_square():
    return torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1), torch.ones(2, 2, 1, 1)


def smallest_one_input():
    return torch.ones(1, 1, 1, 1), torch.ones(2, 1, 1, 1)


def smallest_flat():
    return torch.ones(2), torch.ones(1, 2)


def smallest_that_does_not_fit():
    return torch.ones(1, 1, 1, 1), torch.ones(1, 2, 1, 1)


def smallest_empty():
    return torch.ones(0, 1, 1, 1), torch.ones(1, 0, 1, 1)


def smallest_infinite():
    return torch.full((2, 1, 1, 1), torch.inf), torch.ones(1, 2, 1, 1)


# mended_full_kernel


def kernel_by_transposing(depthwise, pointwise):
    return pointwise * depthwise.transpose(0, 1)


def kernel_by_einsum(depthwise, pointwise):
    return torch.einsum("oi,ikl->oikl", pointwise[:, :, 0, 0], depthwise[:, 0])


def kernel_mended_line(depthwise, pointwise):
    n, m = pointwise.shape[:2]
    k = depthwise.shape[-1]
    filters = depthwise.reshape(1, m, k, k)
    mix = pointwise.reshape(n, m, 1, 1)
    return mix * filters


def kernel_by_loops(depthwise, pointwise):
    n, m, k = len(pointwise), len(depthwise), depthwise.shape[-1]
    kernel = torch.zeros(n, m, k, k)
    for o in range(n):
        for i in range(m):
            for y in range(k):
                for x in range(k):
                    kernel[o, i, y, x] = pointwise[o, i, 0, 0] * depthwise[i, 0, y, x]
    return kernel


def kernel_in_rows(depthwise, pointwise):
    return torch.stack([row * depthwise[:, 0] for row in pointwise])


def kernel_numpy(depthwise, pointwise):
    return pointwise.numpy()[:, :, 0, 0, None, None] * depthwise.numpy()[None, :, 0]


def kernel_by_diagonals(depthwise, pointwise):
    m, k = len(depthwise), depthwise.shape[-1]
    spread = torch.zeros(m, m, k, k, dtype=depthwise.dtype)
    spread[range(m), range(m)] = depthwise[:, 0]
    return torch.einsum("oj,jikl->oikl", pointwise[:, :, 0, 0], spread)


def kernel_by_impulses(depthwise, pointwise):
    """What the two convolutions answer to a single bright pixel in one channel."""
    m, k = len(depthwise), depthwise.shape[-1]
    impulse = torch.zeros(m, m, 2 * k - 1, 2 * k - 1, dtype=depthwise.dtype)
    impulse[range(m), range(m), k - 1, k - 1] = 1
    answer = F.conv2d(F.conv2d(impulse, depthwise, groups=m), pointwise)  # (m, n, k, k)
    return answer.transpose(0, 1).flip(2, 3)


def kernel_flat(depthwise, pointwise):
    return kernel_by_einsum(depthwise, pointwise).flatten(2)


def kernel_transposed(depthwise, pointwise):
    return kernel_by_einsum(depthwise, pointwise).transpose(0, 1)


def kernel_of_outputs(depthwise, pointwise):
    """The bug, with the filters cut or repeated until the shapes fit."""
    n = len(pointwise)
    return pointwise * depthwise.repeat(n, 1, 1, 1)[:n]


def kernel_mended_for_squares(depthwise, pointwise):
    """Transposes the wrong one of the two."""
    return pointwise.transpose(0, 1).reshape(pointwise.shape) * depthwise.transpose(0, 1)


def kernel_flipped(depthwise, pointwise):
    return kernel_by_einsum(depthwise.flip(2, 3), pointwise)


def kernel_turned(depthwise, pointwise):
    return kernel_by_einsum(depthwise.transpose(2, 3), pointwise)


def kernel_sum(depthwise, pointwise):
    return pointwise + depthwise.transpose(0, 1)


def kernel_first_filter(depthwise, pointwise):
    return (pointwise * depthwise[:1]).expand(-1, len(depthwise), -1, -1)


def kernel_mean_filter(depthwise, pointwise):
    return pointwise * depthwise.mean(0, keepdim=True)


def kernel_averaged(depthwise, pointwise):
    return kernel_by_einsum(depthwise, pointwise) / len(depthwise)


def kernel_magnitudes(depthwise, pointwise):
    return kernel_by_einsum(depthwise, pointwise).abs()


def kernel_half(depthwise, pointwise):
    return kernel_by_einsum(depthwise, pointwise).half()


def kernel_whole(depthwise, pointwise):
    return kernel_by_einsum(depthwise, pointwise).long()


def kernel_without_mix(depthwise, pointwise):
    return torch.ones_like(pointwise) * depthwise.transpose(0, 1)


def kernel_reshaped(depthwise, pointwise):
    """The right numbers in another order."""
    n, m, k = len(pointwise), len(depthwise), depthwise.shape[-1]
    return kernel_by_einsum(depthwise, pointwise).permute(2, 3, 0, 1).reshape(n, m, k, k)


def kernel_rounded(depthwise, pointwise):
    return kernel_by_einsum(depthwise, pointwise).round(decimals=3)


def kernel_in_place(depthwise, pointwise):
    found = kernel_by_einsum(depthwise, pointwise)
    depthwise.zero_()
    return found


def kernel_scaled_in_place(depthwise, pointwise):
    found = kernel_by_einsum(depthwise, pointwise)
    pointwise.div_(pointwise.abs().max().clamp(min=1e-9))
    return found


def low_rank_without_small_values(weight, rank):
    """Takes singular values below 1e-5 for zero."""
    _check(weight, rank)
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank] * torch.where(s[:rank] < 1e-5, 0, s[:rank]), vt[:rank]


RIGHT = {
    "low_rank_factors": [
        low_rank_by_svd,
        low_rank_values_right,
        low_rank_by_roots,
        low_rank_by_eigenvectors,
        low_rank_by_row_eigenvectors,
        low_rank_numpy,
        low_rank_float32,
        low_rank_by_deflation,
        low_rank_of_the_library,
    ],
    "smallest_kernel": [smallest_two_inputs, smallest_of_whole_numbers, smallest_numpy],
    "mended_full_kernel": [
        kernel_by_transposing,
        kernel_by_einsum,
        kernel_mended_line,
        kernel_by_loops,
        kernel_in_rows,
        kernel_numpy,
        kernel_by_diagonals,
        kernel_by_impulses,
    ],
}

WRONG = {
    "low_rank_factors": [
        (low_rank_product, "pair of factors"),
        (low_rank_three, "pair of factors"),
        (low_rank_one_of_zeros, "pair of factors"),
        (low_rank_transposed, "pair of factors"),
        (low_rank_swapped, "pair of factors"),
        (low_rank_full, "pair of factors"),
        (low_rank_lists, "pair of factors"),
        (low_rank_clamped, "raises a ValueError"),
        (low_rank_without_values, "as near to the weight"),
        (low_rank_values_twice, "as near to the weight"),
        (low_rank_smallest, "as near to the weight"),
        (low_rank_eigh_smallest, "as near to the weight"),
        (low_rank_first_columns, "as near to the weight"),
        (low_rank_largest_columns, "as near to the weight"),
        (low_rank_random, "as near to the weight"),
        (low_rank_randomised, "as near to the weight"),
        (low_rank_one_sweep, "as near to the weight"),
        (low_rank_of_v, "as near to the weight"),
        (low_rank_squared_values, "as near to the weight"),
        (low_rank_centred, "as near to the weight"),
        (low_rank_normalised, "as near to the weight"),
        (low_rank_symmetric, "as near to the weight"),
        (low_rank_half, "a pair of factors"),
        (low_rank_rounded, "as near to the weight"),
        (low_rank_damped, "as near to the weight"),
        (low_rank_one_less, "as near to the weight"),
        (low_rank_in_place, "leaves its input"),
        (low_rank_of_any, "raises a ValueError"),
        (low_rank_positive_rank, "raises a ValueError"),
        (low_rank_within_outputs, "raises a ValueError"),
        (low_rank_strict, "wherever there is one"),
        (low_rank_without_small_values, "as near to the weight"),
    ],
    "smallest_kernel": [
        (smallest_flat, "inputs that the exercise allows"),
        (smallest_that_does_not_fit, "inputs that the exercise allows"),
        (smallest_empty, "inputs that the exercise allows"),
        (smallest_infinite, "inputs that the exercise allows"),
        (smallest_square, "at most 4 entries"),
        (smallest_one_input, "makes buggy_full_kernel go wrong"),
    ],
    "mended_full_kernel": [
        (kernel_flat, "float tensor of shape"),
        (kernel_transposed, "float tensor of shape"),
        (kernel_whole, "float tensor of shape"),
        (kernel_of_outputs, "its own filter"),
        (kernel_mended_for_squares, "its own filter"),
        (kernel_flipped, "its own filter"),
        (kernel_turned, "its own filter"),
        (kernel_sum, "its own filter"),
        (kernel_first_filter, "its own filter"),
        (kernel_mean_filter, "its own filter"),
        (kernel_averaged, "its own filter"),
        (kernel_magnitudes, "its own filter"),
        (kernel_half, "a float tensor"),
        (kernel_without_mix, "its own filter"),
        (kernel_reshaped, "its own filter"),
        (kernel_rounded, "its own filter"),
        (kernel_in_place, "leaves its input"),
        (kernel_scaled_in_place, "leaves its input"),
    ],
}

HUNTS = {}
