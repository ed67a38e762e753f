"""Answers to the exercises of lesson Pruning today: language models."""

import math

import numpy as np
import torch

from course_lib.exercises.language_models import (
    buggy_pattern,
    right_mask,
    right_pattern,
)
from course_lib.pruning import allocate, granularity

# wanda_mask


def mask_by_loop(weight, inputs, sparsity):
    mask = []
    norms = [math.hypot(*column) for column in inputs.T.tolist()]
    for row in weight.tolist():
        scores = [abs(w) * norm for w, norm in zip(row, norms, strict=True)]
        order = sorted(range(len(row)), key=lambda j: -scores[j])
        stay = order[: len(row) - round(sparsity * len(row))]
        mask.append([j in stay for j in range(len(row))])
    return torch.tensor(mask)


def mask_in_numpy(weight, inputs, sparsity):
    w, x = weight.double().numpy(), inputs.double().numpy()
    scores = np.abs(w) * np.linalg.norm(x, axis=0)
    gone = round(sparsity * w.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")
    mask = np.ones(w.shape, dtype=bool)
    np.put_along_axis(mask, order[:, w.shape[1] - gone :], False, axis=1)
    return mask


def mask_by_mean_square(weight, inputs, sparsity):
    """Squares of the scores, over the mean of the tokens: the same order."""
    scores = weight.double().square() * inputs.double().square().mean(0)
    return right_mask(scores, torch.ones_like(scores[:1]), sparsity)


def mask_by_library(weight, inputs, sparsity):
    scores = {"w": weight.abs() * (inputs.T @ inputs).diagonal().sqrt()}
    return allocate.per_output(scores, sparsity)["w"]


def mask_by_ranks(weight, inputs, sparsity):
    scores = weight.abs() * inputs.square().sum(0).sqrt()
    above = (scores[:, None, :] > scores[:, :, None]).sum(2)
    earlier = torch.ones(scores.shape[1], scores.shape[1]).tril(-1).bool()
    tied = ((scores[:, None, :] == scores[:, :, None]) & earlier).sum(2)
    return above + tied < scores.shape[1] - round(sparsity * scores.shape[1])


def _of_scores(scores, sparsity):
    order = scores.argsort(dim=1, descending=True, stable=True)
    stay = order[:, : scores.shape[1] - round(sparsity * scores.shape[1])]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, stay, True)


def mask_as_numbers(weight, inputs, sparsity):
    return right_mask(weight, inputs, sparsity).float()


def mask_of_pruned_weights(weight, inputs, sparsity):
    return weight * right_mask(weight, inputs, sparsity)


def mask_upside_down(weight, inputs, sparsity):
    return ~right_mask(weight, inputs, sparsity)


def mask_of_the_layer(weight, inputs, sparsity):
    scores = weight.abs() * inputs.norm(dim=0)
    return _of_scores(scores.flatten()[None], sparsity).view_as(weight)


def mask_by_outputs(weight, inputs, sparsity):
    scores = weight.abs() * inputs.norm(dim=0)
    return _of_scores(scores.T, sparsity).T


def mask_by_threshold(weight, inputs, sparsity):
    """As the authors' code does for magnitude: one too many goes, with all its ties."""
    scores = weight.abs() * inputs.norm(dim=0)
    last = min(int(scores.shape[1] * sparsity), scores.shape[1] - 1)
    return scores > scores.sort(dim=1).values[:, last : last + 1]


def mask_by_truncation(weight, inputs, sparsity):
    return right_mask(weight, inputs, int(sparsity * weight.shape[1]) / weight.shape[1])


def mask_rounded_up(weight, inputs, sparsity):
    return right_mask(weight, inputs, math.ceil(sparsity * weight.shape[1]) / weight.shape[1])


def mask_half_up(weight, inputs, sparsity):
    n = weight.shape[1]
    return right_mask(weight, inputs, math.floor(sparsity * n + 0.5) / n)


def mask_of_kept_share(weight, inputs, sparsity):
    return right_mask(weight, inputs, 1 - sparsity)


def mask_by_quantile(weight, inputs, sparsity):
    scores = weight.abs() * inputs.norm(dim=0)
    return scores >= scores.quantile(sparsity, dim=1, keepdim=True)


def mask_keeps_one(weight, inputs, sparsity):
    n = weight.shape[1]
    return right_mask(weight, inputs, min(sparsity, (n - 1) / n))


def mask_by_magnitude(weight, inputs, sparsity):
    return _of_scores(weight.abs(), sparsity)


def mask_without_root(weight, inputs, sparsity):
    return _of_scores(weight.abs() * inputs.square().sum(0), sparsity)


def mask_without_abs(weight, inputs, sparsity):
    return _of_scores(weight * inputs.norm(dim=0), sparsity)


def mask_by_one_norm(weight, inputs, sparsity):
    return _of_scores(weight.abs() * inputs.abs().sum(0), sparsity)


def mask_by_largest_input(weight, inputs, sparsity):
    return _of_scores(weight.abs() * inputs.abs().amax(0), sparsity)


def mask_by_mean_input(weight, inputs, sparsity):
    return _of_scores(weight.abs() * inputs.mean(0).abs(), sparsity)


def mask_by_deviation(weight, inputs, sparsity):
    return _of_scores(weight.abs() * inputs.var(0, correction=0).sqrt(), sparsity)


def mask_of_inputs_alone(weight, inputs, sparsity):
    return _of_scores(inputs.norm(dim=0).expand_as(weight), sparsity)


def mask_of_the_last_token(weight, inputs, sparsity):
    return _of_scores(weight.abs() * inputs[-1].abs(), sparsity)


def mask_with_epsilon(weight, inputs, sparsity):
    return _of_scores(weight.abs() * (inputs.norm(dim=0) + 1e-6), sparsity)


def mask_in_half(weight, inputs, sparsity):
    scores = weight.bfloat16().abs() * inputs.bfloat16().norm(dim=0)
    return _of_scores(scores, sparsity)


def mask_rounded(weight, inputs, sparsity):
    return _of_scores((weight.abs() * inputs.norm(dim=0)).round(decimals=4), sparsity)


def mask_of_clamped(weight, inputs, sparsity):
    return _of_scores(weight.abs() * inputs.norm(dim=0).clamp(max=100), sparsity)


def mask_lowest_first(weight, inputs, sparsity):
    scores = weight.abs() * inputs.norm(dim=0)
    gone = round(sparsity * scores.shape[1])
    order = scores.argsort(dim=1, stable=True)[:, :gone]
    return torch.ones_like(scores, dtype=torch.bool).scatter(1, order, False)


def mask_later_first(weight, inputs, sparsity):
    return right_mask(weight.flip(1), inputs.flip(1), sparsity).flip(1)


def mask_by_topk(weight, inputs, sparsity):
    scores = weight.abs() * inputs.norm(dim=0)
    stay = scores.topk(scores.shape[1] - round(sparsity * scores.shape[1]), dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, stay, True)


def mask_by_quicksort(weight, inputs, sparsity):
    scores = (weight.abs() * inputs.norm(dim=0)).double().numpy()
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1)
    return ranks < scores.shape[1] - round(sparsity * scores.shape[1])


def mask_in_32_bits(weight, inputs, sparsity):
    return right_mask(weight.float(), inputs.float(), sparsity)


def mask_in_place(weight, inputs, sparsity):
    return right_mask(weight.abs_(), inputs, sparsity)


def mask_squares_in_place(weight, inputs, sparsity):
    mask = right_mask(weight, inputs, sparsity)
    inputs.square_()
    return mask


# smallest_pattern


def pattern_one_of_three():
    return torch.tensor([[1.0, 0.5, 0.25]]), torch.ones(3), 1, 3


def pattern_two_of_three():
    return np.array([[0.5, -2.0, 1.0]]), torch.tensor([1, 0, 4]), 2, 3


def pattern_of_zeros():
    return torch.zeros(1, 3), torch.zeros(3), 1, 3


def pattern_two_of_four():
    return torch.tensor([[1.0, 0.5, 0.25, 0.0]]), torch.ones(4), 2, 4


def pattern_too_large():
    return torch.tensor([[1.0, 0.5, 0.25, 0.0]]), torch.ones(4), 1, 4


def pattern_one_of_two():
    return torch.tensor([[1.0, 0.5]]), torch.ones(2), 1, 2


def pattern_keeps_all():
    return torch.tensor([[1.0]]), torch.ones(1), 1, 1


def pattern_negative_square():
    return torch.tensor([[1.0, 0.5, 0.25]]), torch.tensor([1.0, -1.0, 1.0]), 1, 3


def pattern_not_whole():
    return torch.tensor([[1.0, 0.5]]), torch.ones(2), 1, 3


def pattern_half_kept():
    return torch.tensor([[1.0, 0.5, 0.25]]), torch.ones(3), 1.5, 3


# mended_pattern


def pattern_by_loop(weight, squares, keep, of):
    out, n = weight.shape
    if n % of != 0:
        raise ValueError(f"{n} inputs do not make groups of {of}")
    mask = torch.zeros(out, n, dtype=torch.bool)
    for i in range(out):
        for first in range(0, n, of):
            group = range(first, first + of)
            scores = {j: abs(float(weight[i, j])) * math.sqrt(float(squares[j])) for j in group}
            for j in sorted(group, key=lambda j, s=scores: -s[j])[:keep]:
                mask[i, j] = True
    return mask


def pattern_in_numpy(weight, squares, keep, of):
    w, s = weight.double().numpy(), squares.double().numpy()
    if w.shape[1] % of:
        raise ValueError("ragged")
    groups = (np.abs(w) * np.sqrt(s)).reshape(-1, of)
    ranks = np.argsort(np.argsort(-groups, axis=1, kind="stable"), axis=1, kind="stable")
    return (ranks < keep).reshape(w.shape)


def pattern_by_library(weight, squares, keep, of):
    if weight.shape[1] % of:
        raise ValueError("ragged")
    return granularity.n_of_m({"w": weight.abs() * squares.sqrt()}, keep, of)["w"]


def pattern_by_squares(weight, squares, keep, of):
    if weight.shape[1] % of:
        raise ValueError("ragged")
    scores = weight.double().square() * squares.double()
    return right_pattern(scores, torch.ones_like(squares), keep, of)


def _of_groups(scores, keep, of):
    if scores.shape[1] % of:
        raise ValueError("ragged")
    groups = scores.unflatten(1, (-1, of))
    stay = groups.argsort(dim=2, descending=True, stable=True)[:, :, :keep]
    return torch.zeros_like(groups, dtype=torch.bool).scatter(2, stay, True).flatten(1)


def pattern_drops_the_rest(weight, squares, keep, of):
    whole = weight.shape[1] // of * of
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[:, :whole] = right_pattern(weight[:, :whole], squares[:whole], keep, of)
    return mask


def pattern_pads(weight, squares, keep, of):
    more = -weight.shape[1] % of
    w = torch.nn.functional.pad(weight, (0, more))
    s = torch.nn.functional.pad(squares, (0, more))
    return right_pattern(w, s, keep, of)[:, : weight.shape[1]]


def pattern_of_few(weight, squares, keep, of):
    if keep > of // 2 + 1:
        raise ValueError("too many would stay")
    return right_pattern(weight, squares, keep, of)


def pattern_raises_runtime_error(weight, squares, keep, of):
    groups = (weight.abs() * squares.sqrt()).unflatten(1, (-1, of))
    order = groups.argsort(dim=2, descending=True, stable=True)
    mask = torch.ones_like(groups, dtype=torch.bool)
    return mask.scatter(2, order[:, :, keep:], False).flatten(1)


def pattern_in_groups(weight, squares, keep, of):
    return right_pattern(weight, squares, keep, of).unflatten(1, (-1, of))


def pattern_as_weights(weight, squares, keep, of):
    return weight * right_pattern(weight, squares, keep, of)


def pattern_upside_down(weight, squares, keep, of):
    return ~right_pattern(weight, squares, keep, of)


def pattern_along_outputs(weight, squares, keep, of):
    right_pattern(weight, squares, keep, of)
    if weight.shape[0] % of:
        return right_pattern(weight, squares, keep, of)
    scores = weight.abs() * squares.sqrt()
    return _of_groups(scores.T, keep, of).T


def pattern_of_whole_rows(weight, squares, keep, of):
    right_pattern(weight, squares, keep, of)
    return right_mask(weight, squares.sqrt()[None], 1 - keep / of)


def pattern_strided(weight, squares, keep, of):
    right_pattern(weight, squares, keep, of)
    scores = weight.abs() * squares.sqrt()
    groups = scores.unflatten(1, (of, -1)).transpose(1, 2).flatten(1)
    return _of_groups(groups, keep, of).unflatten(1, (-1, of)).transpose(1, 2).flatten(1)


def pattern_by_threshold(weight, squares, keep, of):
    right_pattern(weight, squares, keep, of)
    groups = (weight.abs() * squares.sqrt()).unflatten(1, (-1, of))
    least = groups.sort(2, descending=True).values[:, :, keep - 1 : keep]
    return (groups >= least).flatten(1)


def pattern_one_too_many(weight, squares, keep, of):
    right_pattern(weight, squares, keep, of)
    return right_pattern(weight, squares, max(keep - 1, 0), of)


def pattern_always_two_of_four(weight, squares, keep, of):
    right_pattern(weight, squares, keep, of)
    return _of_groups(weight.abs() * squares.sqrt(), of // 2, of)


def pattern_without_root(weight, squares, keep, of):
    right_pattern(weight, squares, keep, of)
    return _of_groups(weight.abs() * squares, keep, of)


def pattern_by_size(weight, squares, keep, of):
    return _of_groups(weight.abs(), keep, of)


def pattern_without_abs(weight, squares, keep, of):
    return _of_groups(weight * squares.sqrt(), keep, of)


def pattern_with_epsilon(weight, squares, keep, of):
    return _of_groups(weight.abs() * (squares + 1e-6).sqrt(), keep, of)


def pattern_in_half(weight, squares, keep, of):
    return _of_groups(weight.bfloat16().abs() * squares.sqrt().bfloat16(), keep, of)


def pattern_rounded(weight, squares, keep, of):
    return _of_groups((weight.abs() * squares.sqrt()).round(decimals=4), keep, of)


def pattern_later_first(weight, squares, keep, of):
    return right_pattern(weight.flip(1), squares.flip(0), keep, of).flip(1)


def pattern_lowest_first(weight, squares, keep, of):
    if weight.shape[1] % of:
        raise ValueError("ragged")
    groups = (weight.abs() * squares.sqrt()).unflatten(1, (-1, of))
    gone = groups.argsort(dim=2, stable=True)[:, :, : of - keep]
    return torch.ones_like(groups, dtype=torch.bool).scatter(2, gone, False).flatten(1)


def pattern_in_32_bits(weight, squares, keep, of):
    return right_pattern(weight.float(), squares.float(), keep, of)


def pattern_by_topk(weight, squares, keep, of):
    right_pattern(weight, squares, keep, of)
    groups = (weight.abs() * squares.sqrt()).unflatten(1, (-1, of))
    stay = groups.topk(keep, dim=2).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter(2, stay, True).flatten(1)


def pattern_in_place(weight, squares, keep, of):
    mask = right_pattern(weight, squares, keep, of)
    squares.sqrt_()
    return mask


def pattern_zeroes_the_weight(weight, squares, keep, of):
    mask = right_pattern(weight, squares, keep, of)
    weight[~mask] = 0
    return mask


RIGHT = {
    "wanda_mask": [
        right_mask,
        mask_by_loop,
        mask_in_numpy,
        mask_by_mean_square,
        mask_by_ranks,
        mask_by_library,
    ],
    "smallest_pattern": [pattern_one_of_three, pattern_two_of_three, pattern_of_zeros],
    "mended_pattern": [
        right_pattern,
        pattern_by_loop,
        pattern_in_numpy,
        pattern_by_library,
        pattern_by_squares,
    ],
}

OF_A_ROW, HIGHEST = "weights of each row", "highest scores"
WRONG = {
    "wanda_mask": [
        (mask_as_numbers, "returns a mask"),
        (mask_of_pruned_weights, "returns a mask"),
        (mask_upside_down, OF_A_ROW),
        (mask_of_the_layer, OF_A_ROW),
        (mask_by_outputs, OF_A_ROW),
        (mask_by_threshold, OF_A_ROW),
        (mask_by_truncation, OF_A_ROW),
        (mask_rounded_up, OF_A_ROW),
        (mask_half_up, OF_A_ROW),
        (mask_of_kept_share, OF_A_ROW),
        (mask_by_quantile, OF_A_ROW),
        (mask_keeps_one, OF_A_ROW),
        (mask_by_magnitude, "looks at the inputs"),
        (mask_without_root, "takes the root"),
        (mask_without_abs, HIGHEST),
        (mask_by_one_norm, HIGHEST),
        (mask_by_largest_input, HIGHEST),
        (mask_by_mean_input, HIGHEST),
        (mask_by_deviation, HIGHEST),
        (mask_of_inputs_alone, HIGHEST),
        (mask_of_the_last_token, HIGHEST),
        (mask_with_epsilon, HIGHEST),
        (mask_in_half, HIGHEST),
        (mask_rounded, HIGHEST),
        (mask_in_32_bits, HIGHEST),
        (mask_by_topk, "earlier of equal"),
        (mask_by_quicksort, "earlier of equal"),
        (mask_of_clamped, HIGHEST),
        (mask_lowest_first, "earlier of equal"),
        (mask_later_first, "earlier of equal"),
        (mask_in_place, "leaves its input"),
        (mask_squares_in_place, "leaves its input"),
    ],
    "smallest_pattern": [
        (pattern_keeps_all, "inputs that the exercise allows"),
        (pattern_negative_square, "inputs that the exercise allows"),
        (pattern_half_kept, "inputs that the exercise allows"),
        (pattern_too_large, "at most 6 entries"),
        (pattern_two_of_four, "at most 6 entries"),
        (pattern_one_of_two, "makes buggy_pattern go wrong"),
        (pattern_not_whole, "makes buggy_pattern go wrong"),
    ],
    "mended_pattern": [
        (pattern_drops_the_rest, "raises a ValueError"),
        (pattern_pads, "raises a ValueError"),
        (pattern_of_few, "has an answer"),
        (pattern_raises_runtime_error, "raises a ValueError"),
        (pattern_in_groups, "returns a mask"),
        (pattern_as_weights, "returns a mask"),
        (buggy_pattern, "does not remove as many"),
        (pattern_upside_down, "every group"),
        (pattern_along_outputs, "every group"),
        (pattern_of_whole_rows, "every group"),
        (pattern_strided, "every group"),
        (pattern_by_threshold, "every group"),
        (pattern_one_too_many, "every group"),
        (pattern_always_two_of_four, "every group"),
        (pattern_without_root, HIGHEST),
        (pattern_by_size, HIGHEST),
        (pattern_without_abs, HIGHEST),
        (pattern_with_epsilon, HIGHEST),
        (pattern_in_half, HIGHEST),
        (pattern_rounded, HIGHEST),
        (pattern_in_32_bits, HIGHEST),
        (pattern_by_topk, "earlier of equal"),
        (pattern_later_first, "earlier of equal"),
        (pattern_lowest_first, "earlier of equal"),
        (pattern_in_place, "leaves its input"),
        (pattern_zeroes_the_weight, "leaves its input"),
    ],
}

HUNTS = {}
