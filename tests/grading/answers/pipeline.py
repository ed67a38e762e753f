"""Answers to the exercises of lesson Pipeline."""

import math

import numpy as np
import torch

from course_lib.exercises.pipeline import buggy_next_round, next_round, prune_in_rounds

# prune_in_rounds


def _cut(score, count):
    """True for all but the ``count`` lowest scores, of equal ones the later."""
    keep = torch.ones(score.numel(), dtype=torch.bool)
    order = score.flatten().argsort(descending=True, stable=True)
    keep[order[score.numel() - count :]] = False
    return keep.view(score.shape)


def _rounds(weight, sparsities, train, *, count=None, cut=_cut, score=torch.abs, dead=-torch.inf):
    """The loop, with parts that a mistake may replace."""
    count = count or (lambda s, n: round(s * n))
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        found = score(weight).masked_fill(~keep, dead)
        keep = cut(found, count(sparsity, weight.numel()))
        weight = train(weight * keep, keep) * keep
    return weight, keep


def rounds_by_python(weight, sparsities, train):
    """The dead are a set of positions, and each round adds to it."""
    gone, shape, n = set(), weight.shape, weight.numel()
    keep = torch.ones(shape, dtype=torch.bool)
    for sparsity in sparsities:
        size = weight.abs().flatten().tolist()
        alive = sorted((i for i in range(n) if i not in gone), key=lambda i: (size[i], -i))
        gone |= set(alive[: round(sparsity * n) - len(gone)])
        keep = torch.tensor([i not in gone for i in range(n)]).view(shape)
        weight = train(torch.where(keep, weight, 0.0), keep).masked_fill(~keep, 0)
    return weight, keep


def rounds_by_numpy(weight, sparsities, train):
    keep = np.ones(weight.shape, bool)
    for sparsity in sparsities:
        size = np.where(keep, np.abs(weight.numpy()), -1).ravel()
        keep = np.zeros(size.size, bool)
        keep[np.argsort(-size, kind="stable")[: size.size - round(sparsity * size.size)]] = True
        keep = keep.reshape(weight.shape)
        mask = torch.from_numpy(keep)
        weight = train(weight * mask, mask) * mask
    return weight.numpy(), keep


def rounds_one_by_one(weight, sparsities, train):
    keep = [True] * weight.numel()
    for sparsity in sparsities:
        size = weight.abs().flatten().tolist()
        while keep.count(False) < round(sparsity * len(keep)):
            keep[min((i for i, k in enumerate(keep) if k), key=lambda i: (size[i], -i))] = False
        mask = torch.tensor(keep).reshape(weight.shape)
        weight = train(weight * mask, mask) * mask
    return weight, mask


def rounds_by_threshold(weight, sparsities, train):
    def cut(score, count):
        if count == 0:
            return torch.ones_like(score, dtype=torch.bool)
        flat = score.flatten()
        level = flat.sort().values[count - 1]
        keep, tied = flat > level, (flat == level).nonzero().flatten()
        keep[tied[: len(flat) - count - int(keep.sum())]] = True
        return keep.view_as(score)

    return _rounds(weight, sparsities, train, cut=cut)


def rounds_by_rank(weight, sparsities, train):
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        size = torch.where(keep, weight.abs(), -1.0).flatten().tolist()
        n = len(size)
        above = [
            sum(size[j] > size[i] or (size[j] == size[i] and j < i) for j in range(n))
            for i in range(n)
        ]
        keep = torch.tensor([a < n - round(sparsity * n) for a in above]).view(weight.shape)
        weight = torch.where(keep, train(torch.where(keep, weight, 0.0), keep), 0.0)
    return weight, keep


def rounds_by_recursion(weight, sparsities, train, keep=None):
    keep = torch.ones_like(weight, dtype=torch.bool) if keep is None else keep
    if not sparsities:
        return weight, keep
    score = weight.abs().masked_fill(~keep, -5)
    keep = _cut(score, round(sparsities[0] * weight.numel()))
    return rounds_by_recursion(train(weight * keep, keep) * keep, sparsities[1:], train, keep)


def rounds_held_at_the_cut(weight, sparsities, train):
    """Zeroes before each training and after the last: nobody can tell."""
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        score = weight.abs().masked_fill(~keep, -1)
        keep = _cut(score, round(sparsity * weight.numel()))
        weight = train(weight * keep, keep)
    return weight * keep, keep


def rounds_list(weight, sparsities, train):
    return list(_rounds(weight, sparsities, train))


def rounds_double(weight, sparsities, train):
    return _rounds(weight.double(), sparsities, train)


def rounds_by_squares(weight, sparsities, train):
    return _rounds(weight, sparsities, train, score=torch.square)


def rounds_parameter(weight, sparsities, train):
    found, keep = _rounds(weight, sparsities, train)
    return torch.nn.Parameter(found), keep


def rounds_no_mask(weight, sparsities, train):
    return _rounds(weight, sparsities, train)[0]


def rounds_swapped(weight, sparsities, train):
    return _rounds(weight, sparsities, train)[::-1]


def rounds_float_mask(weight, sparsities, train):
    found, keep = _rounds(weight, sparsities, train)
    return found, keep.float()


def rounds_int_mask(weight, sparsities, train):
    found, keep = _rounds(weight, sparsities, train)
    return found, keep.to(torch.int8)


def rounds_flat(weight, sparsities, train):
    return tuple(part.flatten() for part in _rounds(weight, sparsities, train))


def rounds_half(weight, sparsities, train):
    found, keep = _rounds(weight, sparsities, train)
    return found.half(), keep


def rounds_inverted(weight, sparsities, train):
    found, keep = _rounds(weight, sparsities, train)
    return found, ~keep


def rounds_of_the_rest(weight, sparsities, train):
    """Each sparsity is taken of what is left."""
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        count = int((~keep).sum()) + round(sparsity * int(keep.sum()))
        keep = _cut(weight.abs().masked_fill(~keep, -torch.inf), count)
        weight = train(weight * keep, keep) * keep
    return weight, keep


def rounds_increments(weight, sparsities, train):
    sums = [min(1.0, sum(sparsities[: i + 1])) for i in range(len(sparsities))]
    return _rounds(weight, sums, train)


def rounds_truncated(weight, sparsities, train):
    return _rounds(weight, sparsities, train, count=lambda s, n: int(s * n))


def rounds_up(weight, sparsities, train):
    return _rounds(weight, sparsities, train, count=lambda s, n: math.ceil(s * n - 1e-9))


def rounds_half_up(weight, sparsities, train):
    return _rounds(weight, sparsities, train, count=lambda s, n: int(s * n + 0.5))


def rounds_at_least_one(weight, sparsities, train):
    return _rounds(weight, sparsities, train, count=lambda s, n: max(1, round(s * n)))


def rounds_never_all(weight, sparsities, train):
    return _rounds(weight, sparsities, train, count=lambda s, n: min(n - 1, round(s * n)))


def rounds_of_ties(weight, sparsities, train):
    def cut(score, count):
        if count == 0:
            return torch.ones_like(score, dtype=torch.bool)
        return score > score.flatten().sort().values[count - 1]

    return _rounds(weight, sparsities, train, cut=cut)


def rounds_per_row(weight, sparsities, train):
    def cut(score, count):
        if score.dim() == 1:
            return _cut(score, count)
        return torch.stack([_cut(row, round(count / len(score))) for row in score])

    return _rounds(weight, sparsities, train, cut=cut)


def rounds_first_only(weight, sparsities, train):
    return _rounds(weight, sparsities[:1], train)


def rounds_two_only(weight, sparsities, train):
    return _rounds(weight, sparsities[:2], train)


def rounds_not_held(weight, sparsities, train):
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        score = weight.abs().masked_fill(~keep, -torch.inf)
        keep = _cut(score, round(sparsity * weight.numel()))
        weight = train(weight * keep, keep)
    return weight, keep


def rounds_revive(weight, sparsities, train):
    """The dead are ranked by what training made of them."""
    for sparsity in sparsities:
        keep = _cut(weight.abs(), round(sparsity * weight.numel()))
        weight = train(weight * keep, keep)
    return weight * keep, keep


def rounds_tied_zeros(weight, sparsities, train):
    """The dead score 0, like living zeros."""
    return _rounds(weight, sparsities, train, dead=0)


def rounds_signed(weight, sparsities, train):
    return _rounds(weight, sparsities, train, score=lambda w: w)


def rounds_by_the_start(weight, sparsities, train):
    return _rounds(weight, sparsities, train, score=lambda _: weight.abs())


def rounds_from_the_mean(weight, sparsities, train):
    return _rounds(weight, sparsities, train, score=lambda w: (w - w.mean()).abs())


def rounds_later_stay(weight, sparsities, train):
    def cut(score, count):
        return _cut(score.flatten().flip(0), count).flip(0).view(score.shape)

    return _rounds(weight, sparsities, train, cut=cut)


def rounds_by_columns(weight, sparsities, train):
    def cut(score, count):
        return _cut(score.t(), count).t() if score.dim() == 2 else _cut(score, count)

    return _rounds(weight, sparsities, train, cut=cut)


def rounds_train_first(weight, sparsities, train):
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        weight = train(weight * keep, keep) * keep
        keep = _cut(weight.abs().masked_fill(~keep, -1), round(sparsity * weight.numel()))
        weight = weight * keep
    return weight, keep


def rounds_one_training(weight, sparsities, train):
    """Cuts once, to the last sparsity, and trains once."""
    return _rounds(weight, sparsities[-1:], train)


def rounds_all_at_once(weight, sparsities, train):
    return _rounds(weight, [sparsities[-1]] * len(sparsities), train)


def rounds_rewound(weight, sparsities, train):
    """Every training starts from the first weights."""
    keep, now = torch.ones_like(weight, dtype=torch.bool), weight
    for sparsity in sparsities:
        keep = _cut(now.abs().masked_fill(~keep, -1), round(sparsity * weight.numel()))
        now = train(weight * keep, keep) * keep
    return now, keep


def rounds_uncut(weight, sparsities, train):
    """The training gets the removed weights, too."""
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        keep = _cut(weight.abs().masked_fill(~keep, -1), round(sparsity * weight.numel()))
        weight = train(weight, keep) * keep
    return weight, keep


def rounds_old_mask(weight, sparsities, train):
    """The training gets the mask of the round before."""
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        new = _cut(weight.abs().masked_fill(~keep, -1), round(sparsity * weight.numel()))
        weight, keep = train(weight * new, keep) * new, new
    return weight, keep


def rounds_trained_twice(weight, sparsities, train):
    return _rounds(weight, sparsities, lambda w, keep: train(train(w, keep) * keep, keep))


def rounds_one_more(weight, sparsities, train):
    found, keep = _rounds(weight, sparsities, train)
    return train(found, keep) * keep, keep


def rounds_each_sparsity_once(weight, sparsities, train):
    return _rounds(weight, sorted(set(sparsities)), train)


def rounds_skip_zero(weight, sparsities, train):
    return _rounds(weight, [s for s in sparsities if s > 0], train)


def rounds_last_untrained(weight, sparsities, train):
    before, _ = _rounds(weight, sparsities[:-1], train)
    _, keep = _rounds(weight, sparsities, train)
    return before * keep, keep


def rounds_in_place(weight, sparsities, train):
    found, keep = _rounds(weight.clone(), sparsities, train)
    return weight.copy_(found), keep


def rounds_empty_the_list(weight, sparsities, train):
    found = _rounds(weight, list(sparsities), train)
    sparsities.clear()
    return found


# smallest_next_round


def nothing_left():
    return torch.tensor([1.0]), torch.tensor([False]), 0.0


def most_of_what_is_left():
    return torch.tensor([3.0, -1.0]), torch.tensor([True, False]), 0.6


def in_numpy():
    return np.array([3.0, 1.0]), np.array([True, False]), np.float64(0.6)


def in_a_list():
    return [torch.tensor([[1], [2]]), torch.tensor([[False], [True]]), 0.6]


def a_first_round():
    return torch.tensor([3.0, -1.0]), torch.tensor([True, True]), 0.5


def a_share_that_hits():
    return torch.tensor([3.0, -1.0]), torch.tensor([True, False]), 0.5


def all_of_it():
    return torch.tensor([3.0, -1.0]), torch.tensor([True, False]), 1.0


def four_weights():
    return torch.tensor([1.0, 2, 3, 4]), torch.tensor([True, True, True, False]), 0.4


def no_weights():
    return torch.tensor([]), torch.tensor([], dtype=torch.bool), 0.5


def a_share_above_one():
    return torch.tensor([1.0, 2.0]), torch.tensor([True, False]), 1.5


def two_shapes():
    return torch.tensor([1.0, 2.0]), torch.tensor([False]), 0.5


def a_mask_of_numbers():
    return torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]), 0.6


def two_inputs():
    return torch.tensor([1.0]), torch.tensor([False])


# mended_next_round


def _take(size, keep, count):
    return _cut(torch.where(keep, size, -1.0), int((~keep).sum()) + count)


def next_by_sort(weight, keep, share):
    return _take(weight.abs(), keep, round(share * int(keep.sum())))


def next_among_the_living(weight, keep, share):
    fresh, left = keep.clone(), weight[keep].abs()
    fresh[keep] = _cut(left, round(share * len(left)))
    return fresh


def next_by_python(weight, keep, share):
    size, alive = weight.abs().flatten().tolist(), keep.flatten().tolist()
    left = sorted((i for i, a in enumerate(alive) if a), key=lambda i: (size[i], -i))
    gone = set(left[: round(share * len(left))])
    return torch.tensor([a and i not in gone for i, a in enumerate(alive)]).reshape(weight.shape)


def next_by_numpy(weight, keep, share):
    size = np.where(keep.numpy(), np.abs(weight.numpy()), -1).ravel()
    alive = int(keep.sum())
    fresh = np.zeros(size.size, bool)
    fresh[np.argsort(-size, kind="stable")[: alive - round(share * alive)]] = True
    return fresh.reshape(weight.shape)


def next_one_by_one(weight, keep, share):
    fresh, size = keep.flatten().tolist(), weight.abs().flatten().tolist()
    for _ in range(round(share * sum(fresh))):
        fresh[max((i for i, k in enumerate(fresh) if k), key=lambda i: (-size[i], i))] = False
    return torch.tensor(fresh).view_as(keep)


def next_by_rank(weight, keep, share):
    size = torch.where(keep, weight.abs(), -1.0).flatten()
    place, alive = torch.arange(len(size)), int(keep.sum())
    above = size[None] > size[:, None]
    above |= (size[None] == size[:, None]) & (place[None] < place[:, None])
    return (above.sum(1) < alive - round(share * alive)).view_as(keep)


def next_by_squares(weight, keep, share):
    return _take(weight.double() ** 2, keep, round(share * int(keep.sum())))


def next_in_a_bool_matrix(weight, keep, share):
    """Takes the rows apart and puts them together again."""
    flat = next_by_python(weight.flatten(), keep.flatten(), share)
    return torch.stack(flat.split(1)).squeeze(1).reshape(keep.shape)


def next_float(weight, keep, share):
    return next_by_sort(weight, keep, share).float()


def next_flat(weight, keep, share):
    return next_by_sort(weight, keep, share).flatten()


def next_revives(weight, keep, share):
    return _cut(weight.abs(), int((~keep).sum()) + round(share * int(keep.sum())))


def next_tied_zeros(weight, keep, share):
    return _cut(weight.abs() * keep, int((~keep).sum()) + round(share * int(keep.sum())))


def next_only_the_new(weight, keep, share):
    return next_by_sort(weight, keep, share) | ~keep


def next_inverted(weight, keep, share):
    return ~next_by_sort(weight, keep, share)


def next_share_of_all(weight, keep, share):
    return _take(weight.abs(), keep, min(int(keep.sum()), round(share * weight.numel())))


def next_up(weight, keep, share):
    return _take(weight.abs(), keep, math.ceil(share * int(keep.sum()) - 1e-9))


def next_down(weight, keep, share):
    return _take(weight.abs(), keep, int(share * int(keep.sum())))


def next_half_up(weight, keep, share):
    return _take(weight.abs(), keep, int(share * int(keep.sum()) + 0.5))


def next_of_ties(weight, keep, share):
    left = weight[keep].abs().sort().values
    count = round(share * len(left))
    return keep & (weight.abs() > left[count - 1]) if count else keep.clone()


def next_one_too_many(weight, keep, share):
    left = weight[keep].abs().sort().values
    if not len(left):
        return keep.clone()
    return keep & (weight.abs() > left[min(round(share * len(left)), len(left) - 1)])


def next_never_all(weight, keep, share):
    alive = int(keep.sum())
    return _take(weight.abs(), keep, min(round(share * alive), max(alive - 1, 0)))


def next_at_least_one(weight, keep, share):
    alive = int(keep.sum())
    return _take(weight.abs(), keep, min(max(1, round(share * alive)), alive))


def next_same(weight, keep, share):
    return keep.clone()


def next_zeros_are_dead(weight, keep, share):
    return next_by_sort(weight, keep & (weight != 0), share)


def next_per_row(weight, keep, share):
    if weight.dim() == 1:
        return next_by_sort(weight, keep, share)
    return torch.stack([next_per_row(w, k, share) for w, k in zip(weight, keep, strict=True)])


def next_signed(weight, keep, share):
    size = weight - weight.min() + 1
    return _take(size, keep, round(share * int(keep.sum())))


def next_largest(weight, keep, share):
    return _take(1 + weight.abs().max() - weight.abs(), keep, round(share * int(keep.sum())))


def next_later_stay(weight, keep, share):
    turned = next_by_sort(weight.flatten().flip(0), keep.flatten().flip(0), share)
    return turned.flip(0).view_as(keep)


def next_by_columns(weight, keep, share):
    if weight.dim() != 2:
        return next_by_sort(weight, keep, share)
    return next_by_sort(weight.t(), keep.t(), share).t()


def next_in_place(weight, keep, share):
    return keep.copy_(next_by_sort(weight, keep, share))


def next_zeroes_the_weight(weight, keep, share):
    fresh = next_by_sort(weight, keep, share)
    weight[~fresh] = 0
    return fresh


def rounds_train_twice(weight, sparsities, train):
    """The first of two trainings is thrown away."""

    def twice(w, keep):
        train(w, keep)
        return train(w, keep)

    return _rounds(weight, sparsities, twice)


def rounds_flat_training(weight, sparsities, train):
    def flat(w, keep):
        return train(w.flatten(), keep.flatten()).view(w.shape)

    return _rounds(weight, sparsities, flat)


def rounds_in_half_precision(weight, sparsities, train):
    return _rounds(weight, sparsities, train, score=lambda w: w.abs().half().float())


def next_of_six_decimals(weight, keep, share):
    return next_by_sort(weight.round(decimals=6), keep, share)


def rounds_keep_small_steps(weight, sparsities, train):
    """Sets what was removed to zero again only if it moved by a hundredth or more."""

    def step(w, keep):
        moved = train(w, keep)
        step.small = torch.where(keep | (moved.abs() >= 0.01), 0.0, moved)
        return moved

    step.small = torch.zeros_like(weight)
    weight, keep = prune_in_rounds(weight, sparsities, step)
    return weight + step.small, keep


def rounds_of_two_or_more(weight, sparsities, train):
    """A layer of a single weight keeps nothing."""
    weight, keep = prune_in_rounds(weight, sparsities, train)
    return (weight, keep) if keep.numel() > 1 else (weight * 0, keep & False)


RIGHT = {
    "prune_in_rounds": [
        prune_in_rounds,
        rounds_by_python,
        rounds_by_numpy,
        rounds_one_by_one,
        rounds_by_threshold,
        rounds_by_rank,
        rounds_by_recursion,
        rounds_held_at_the_cut,
        rounds_list,
        rounds_double,
        rounds_by_squares,
        rounds_parameter,
    ],
    "smallest_next_round": [nothing_left, most_of_what_is_left, in_numpy, in_a_list],
    "mended_next_round": [
        next_round,
        next_by_sort,
        next_among_the_living,
        next_by_python,
        next_by_numpy,
        next_one_by_one,
        next_by_rank,
        next_by_squares,
        next_in_a_bool_matrix,
    ],
}


WRONG = {
    "prune_in_rounds": [
        (rounds_keep_small_steps, "holds the mask"),
        (rounds_no_mask, "returns (weight, keep)"),
        (rounds_swapped, "returns (weight, keep)"),
        (rounds_float_mask, "returns (weight, keep)"),
        (rounds_int_mask, "returns (weight, keep)"),
        (rounds_flat, "returns (weight, keep)"),
        (rounds_inverted, "in all by the last round"),
        (rounds_of_the_rest, "in all by the last round"),
        (rounds_increments, "in all by the last round"),
        (rounds_truncated, "in all by the last round"),
        (rounds_up, "in all by the last round"),
        (rounds_half_up, "in all by the last round"),
        (rounds_at_least_one, "in all by the last round"),
        (rounds_never_all, "in all by the last round"),
        (rounds_of_ties, "in all by the last round"),
        (rounds_per_row, "in all by the last round"),
        (rounds_first_only, "in all by the last round"),
        (rounds_two_only, "in all by the last round"),
        (rounds_not_held, "holds the mask"),
        (rounds_revive, "keeps the right weights"),
        (rounds_tied_zeros, "keeps the right weights"),
        (rounds_signed, "keeps the right weights"),
        (rounds_by_the_start, "keeps the right weights"),
        (rounds_from_the_mean, "keeps the right weights"),
        (rounds_later_stay, "keeps the right weights"),
        (rounds_by_columns, "keeps the right weights"),
        (rounds_train_first, "keeps the right weights"),
        (rounds_one_training, "keeps the right weights"),
        (rounds_all_at_once, "keeps the right weights"),
        (rounds_rewound, "keeps the right weights"),
        (rounds_trained_twice, "keeps the right weights"),
        (rounds_each_sparsity_once, "trains once after every cut"),
        (rounds_skip_zero, "keeps the right weights"),
        (rounds_uncut, "trains once after every cut"),
        (rounds_old_mask, "trains once after every cut"),
        (rounds_one_more, "trains once after every cut"),
        (rounds_last_untrained, "trains once after every cut"),
        (rounds_half, "trains once after every cut"),
        (rounds_in_place, "leaves its input"),
        (rounds_empty_the_list, "leaves its input"),
        (rounds_train_twice, "trains once"),
        (rounds_flat_training, "trains once"),
        (rounds_in_half_precision, "keeps the right weights"),
        (rounds_of_two_or_more, "in all by the last round"),
    ],
    "smallest_next_round": [
        (no_weights, "inputs that the exercise allows"),
        (a_share_above_one, "inputs that the exercise allows"),
        (two_shapes, "inputs that the exercise allows"),
        (a_mask_of_numbers, "inputs that the exercise allows"),
        (two_inputs, "inputs that the exercise allows"),
        (four_weights, "at most 4 entries"),
        (a_first_round, "go wrong"),
        (a_share_that_hits, "go wrong"),
        (all_of_it, "go wrong"),
    ],
    "mended_next_round": [
        (next_float, "a bool mask"),
        (next_flat, "a bool mask"),
        (next_revives, "lets nothing come back"),
        (next_tied_zeros, "lets nothing come back"),
        (next_only_the_new, "lets nothing come back"),
        (next_inverted, "lets nothing come back"),
        (buggy_next_round, "lets nothing come back"),
        (next_share_of_all, "round(share * number left)"),
        (next_up, "round(share * number left)"),
        (next_down, "round(share * number left)"),
        (next_half_up, "round(share * number left)"),
        (next_of_ties, "round(share * number left)"),
        (next_one_too_many, "round(share * number left)"),
        (next_never_all, "round(share * number left)"),
        (next_at_least_one, "round(share * number left)"),
        (next_same, "round(share * number left)"),
        (next_zeros_are_dead, "round(share * number left)"),
        (next_per_row, "round(share * number left)"),
        (next_signed, "the smallest magnitudes"),
        (next_largest, "the smallest magnitudes"),
        (next_later_stay, "the earlier of equal"),
        (next_by_columns, "the earlier of equal"),
        (next_in_place, "leaves its input"),
        (next_zeroes_the_weight, "leaves its input"),
        (next_of_six_decimals, "smallest magnitudes"),
    ],
}

HUNTS = {}
