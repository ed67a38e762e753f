"""Answers to the exercises of lesson Sparse training."""

import math

import numpy as np
import torch

from course_lib.exercises.sparse_training import buggy_drop, drop, set_step
from course_lib.pruning import sparse_training

# set_step


def set_by_library(weight, mask, fraction, luck):
    kept = sparse_training.drop_each_sign(weight, mask, fraction)
    return weight * kept, sparse_training.grow(kept, int(mask.sum() - kept.sum()), luck)


def set_by_lists(weight, mask, fraction, luck):
    w, on, chance = weight.flatten().tolist(), mask.flatten().tolist(), luck.flatten().tolist()
    dropped = []
    for negative in (False, True):
        mine = [i for i in range(len(w)) if on[i] and (w[i] < 0) == negative]
        mine.sort(key=lambda i: (abs(w[i]), -i))
        dropped += mine[: int(fraction * len(mine))]
    kept = [on[i] and i not in dropped for i in range(len(w))]
    free = sorted((i for i in range(len(w)) if not kept[i]), key=lambda i: -chance[i])
    new = [k or i in free[: len(dropped)] for i, k in enumerate(kept)]
    values = [v if k else 0.0 for v, k in zip(w, kept, strict=True)]
    return torch.tensor(values).view(weight.shape), torch.tensor(new).view(weight.shape)


def set_by_numpy(weight, mask, fraction, luck):
    w, on, chance = (t.numpy().ravel() for t in (weight, mask, luck))
    kept = on.copy()
    for part in (on & (w >= 0), on & (w < 0)):
        places = np.flatnonzero(part)
        order = places[np.lexsort((-places, np.abs(w[places])))]
        kept[order[: int(fraction * len(places))]] = False
    free = np.flatnonzero(~kept)
    best = free[np.argsort(-chance[free], kind="stable")][: on.sum() - kept.sum()]
    new = kept.copy()
    new[best] = True
    return (w * kept).reshape(weight.shape), new.reshape(weight.shape)


def set_one_by_one(weight, mask, fraction, luck):
    w, kept = weight.flatten().tolist(), mask.flatten().tolist()
    parts = [[i for i, k in enumerate(kept) if k and (w[i] < 0) == neg] for neg in (False, True)]
    count = 0
    for part in parts:
        for _ in range(int(fraction * len(part))):
            i = min((i for i in part if kept[i]), key=lambda i: (abs(w[i]), -i))
            kept[i], count = False, count + 1
    new, chance = list(kept), luck.flatten().tolist()
    for _ in range(count):
        new[max((i for i, k in enumerate(new) if not k), key=lambda i: (chance[i], -i))] = True
    kept, new = (torch.tensor(m).view_as(mask) for m in (kept, new))
    return torch.where(kept, weight, torch.zeros(())), new


def set_by_rank(weight, mask, fraction, luck):
    w, on, chance = weight.flatten(), mask.flatten(), luck.flatten()
    place = torch.arange(len(w))
    same = (w < 0)[:, None] == (w < 0)[None]
    later = place[None] > place[:, None]
    size = w.abs()
    goes_first = (size[None] < size[:, None]) | ((size[None] == size[:, None]) & later)
    before = (goes_first & same & on[None]).sum(1)
    number = (same & on[None]).sum(1)
    kept = on & (before >= torch.tensor([int(fraction * n) for n in number.tolist()]))
    better = (chance[None] > chance[:, None]) | ((chance[None] == chance[:, None]) & ~later)
    better &= place[None] != place[:, None]
    rank = (better & ~kept[None]).sum(1)
    new = kept | (~kept & (rank < (on.sum() - kept.sum())))
    return [(w * kept).view_as(weight), new.view_as(mask)]


def set_in_per_cent(weight, mask, fraction, luck):
    return set_step(weight, mask, int(100 * fraction + 1e-9) / 100, luck)


def set_in_double(weight, mask, fraction, luck):
    return set_step(weight.double(), mask, fraction, luck.double())


def set_by_two_calls(weight, mask, fraction, luck):
    kept = torch.zeros_like(mask)
    for part in (mask & (weight >= 0), mask & (weight < 0)):
        kept |= sparse_training.drop(weight, part, int(fraction * int(part.sum())))
    new = sparse_training.grow(kept, int(mask.sum()) - int(kept.sum()), luck)
    return torch.nn.Parameter(weight.masked_fill(~kept, 0.0)), new


def set_by_threshold(weight, mask, fraction, luck):
    kept = mask.clone()
    for part in (mask & (weight >= 0), mask & (weight < 0)):
        size = weight[part].abs()
        count = int(fraction * len(size))
        if count:
            cut = size.sort().values[count - 1]
            stays = size > cut
            spare = len(size) - count - int(stays.sum())
            stays[(size == cut).nonzero().flatten()[:spare]] = True
            kept[part] = stays
    new = kept.clone()
    for _ in range(int(mask.sum() - kept.sum())):
        best = torch.where(new, torch.tensor(-1.0), luck).flatten()
        new.view(-1)[(best == best.max()).nonzero()[0]] = True
    return weight * kept, new


def _set(weight, mask, luck, kept, *, free=None):
    """The rest of a step after a drop, which may be wrong."""
    count = int(mask.sum() - kept.sum())
    chance = luck.masked_fill(kept if free is None else ~free, -1)
    new = kept.flatten()
    new = new.index_fill(0, chance.flatten().argsort(descending=True, stable=True)[:count], True)
    return weight * kept, new.view_as(mask)


def set_mask_only(weight, mask, fraction, luck):
    return set_step(weight, mask, fraction, luck)[1]


def set_swapped(weight, mask, fraction, luck):
    return set_step(weight, mask, fraction, luck)[::-1]


def set_float_mask(weight, mask, fraction, luck):
    values, new = set_step(weight, mask, fraction, luck)
    return values, new.float()


def set_flat(weight, mask, fraction, luck):
    return tuple(part.flatten() for part in set_step(weight, mask, fraction, luck))


def set_without_growth(weight, mask, fraction, luck):
    kept = sparse_training.drop_each_sign(weight, mask, fraction)
    return weight * kept, kept


def set_grows_share_of_all(weight, mask, fraction, luck):
    kept = sparse_training.drop_each_sign(weight, mask, fraction)
    count = min(int(fraction * weight.numel()), int((~kept).sum()))
    return weight * kept, sparse_training.grow(kept, count, luck)


def set_by_magnitude(weight, mask, fraction, luck):
    count = int(fraction * int(mask.sum()))
    return _set(weight, mask, luck, sparse_training.drop(weight, mask, count))


def set_rounds_up(weight, mask, fraction, luck):
    kept = torch.zeros_like(mask)
    for part in (mask & (weight >= 0), mask & (weight < 0)):
        kept |= sparse_training.drop(weight, part, math.ceil(fraction * int(part.sum())))
    return _set(weight, mask, luck, kept)


def set_rounds(weight, mask, fraction, luck):
    kept = torch.zeros_like(mask)
    for part in (mask & (weight >= 0), mask & (weight < 0)):
        kept |= sparse_training.drop(weight, part, round(fraction * int(part.sum())))
    return _set(weight, mask, luck, kept)


def set_half_of_both(weight, mask, fraction, luck):
    """Each sign loses half of what both should lose."""
    kept, half = torch.zeros_like(mask), int(fraction * int(mask.sum()) / 2)
    for part in (mask & (weight >= 0), mask & (weight < 0)):
        kept |= sparse_training.drop(weight, part, min(half, int(part.sum())))
    return _set(weight, mask, luck, kept)


def set_largest(weight, mask, fraction, luck):
    kept = sparse_training.drop_each_sign(torch.sign(weight) / (1 + weight.abs()), mask, fraction)
    return _set(weight, mask, luck, kept)


def set_most_negative(weight, mask, fraction, luck):
    positive, negative = mask & (weight >= 0), mask & (weight < 0)
    kept = sparse_training.drop(weight, positive, int(fraction * int(positive.sum())))
    kept |= sparse_training.drop(weight + 9, negative, int(fraction * int(negative.sum())))
    return _set(weight, mask, luck, kept)


def set_earlier_goes(weight, mask, fraction, luck):
    w, m = weight.flatten().flip(0), mask.flatten().flip(0)
    kept = sparse_training.drop_each_sign(w, m, fraction).flip(0).view_as(mask)
    return _set(weight, mask, luck, kept)


def set_spares_zeros(weight, mask, fraction, luck):
    """An active zero has no sign here."""
    kept = mask & (weight == 0)
    for part in (mask & (weight > 0), mask & (weight < 0)):
        kept |= sparse_training.drop(weight, part, int(fraction * int(part.sum())))
    return _set(weight, mask, luck, kept)


def set_zeros_are_inactive(weight, mask, fraction, luck):
    return set_step(weight, weight != 0, fraction, luck)


def set_zeros_count_twice(weight, mask, fraction, luck):
    kept = mask.clone()
    for part in (mask & (weight >= 0), mask & (weight <= 0)):
        kept &= ~part | sparse_training.drop(weight, part, int(fraction * int(part.sum())))
    return _set(weight, mask, luck, kept)


def set_per_row(weight, mask, fraction, luck):
    if weight.dim() != 2:
        return set_step(weight, mask, fraction, luck)
    rows = [set_step(w, m, fraction, x) for w, m, x in zip(weight, mask, luck, strict=True)]
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


def set_not_back(weight, mask, fraction, luck):
    kept = sparse_training.drop_each_sign(weight, mask, fraction)
    return _set(weight, mask, (luck - mask.float()) / 2, kept)


def set_only_where_free_before(weight, mask, fraction, luck):
    kept = sparse_training.drop_each_sign(weight, mask, fraction)
    count = min(int(mask.sum() - kept.sum()), int((~mask).sum()))
    grown = sparse_training.grow(mask, count, luck) & ~mask
    return weight * kept, kept | grown


def set_unlucky(weight, mask, fraction, luck):
    kept = sparse_training.drop_each_sign(weight, mask, fraction)
    return _set(weight, mask, 1 - luck, kept)


def set_later_grows(weight, mask, fraction, luck):
    kept = sparse_training.drop_each_sign(weight, mask, fraction)
    count = int(mask.sum() - kept.sum())
    k, x = kept.flatten().flip(0), luck.flatten().flip(0)
    return weight * kept, sparse_training.grow(k, count, x).flip(0).view_as(mask)


def set_first_free(weight, mask, fraction, luck):
    kept = sparse_training.drop_each_sign(weight, mask, fraction)
    return _set(weight, mask, torch.ones_like(luck), kept)


def set_draws_itself(weight, mask, fraction, luck):
    kept = sparse_training.drop_each_sign(weight, mask, fraction)
    return _set(weight, mask, torch.rand(luck.shape), kept)


def set_old_values(weight, mask, fraction, luck):
    """A weight that was dropped and grew again keeps its value."""
    new = set_step(weight, mask, fraction, luck)[1]
    return weight * new, new


def set_all_values(weight, mask, fraction, luck):
    return weight.clone(), set_step(weight, mask, fraction, luck)[1]


def set_grows_by_luck(weight, mask, fraction, luck):
    values, new = set_step(weight, mask, fraction, luck)
    return values + luck * (new & (values == 0)), new


def set_half_precision(weight, mask, fraction, luck):
    values, new = set_step(weight, mask, fraction, luck)
    return values.half(), new


def set_in_place(weight, mask, fraction, luck):
    values, new = set_step(weight, mask, fraction, luck)
    return values, mask.copy_(new)


def set_weight_in_place(weight, mask, fraction, luck):
    values, new = set_step(weight, mask, fraction, luck)
    return weight.copy_(values), new


def drop_in_per_cent(weight, fraction):
    return drop(weight, int(100 * fraction + 1e-9) / 100)


def drop_of_a_few(weight, fraction):
    keep = weight != 0
    keep[:500] = drop(weight, fraction)[:500]
    return keep


# smallest_drop


def one_positive():
    return torch.tensor([1.0]), 0.5


def one_negative():
    return torch.tensor([-1.0]), 0.0


def one_in_a_list():
    return [np.array([2]), 0]


def one_too_small_for_float32():
    return torch.tensor([1e-300], dtype=torch.float64), 0.999


def two_weights():
    return torch.tensor([1.0, -1.0]), 0.5


def one_zero():
    return torch.tensor([0.0]), 0.5


def all_of_one():
    return torch.tensor([1.0]), 1.0


def fraction_above_one():
    return torch.tensor([1.0]), 1.5


def a_matrix():
    return torch.tensor([[1.0]]), 0.5


def not_a_number():
    return torch.tensor([float("nan")]), 0.5


# mended_drop


def drop_by_rank(weight, fraction):
    same = torch.sign(weight)[:, None] == torch.sign(weight)[None]
    smaller = (same & (weight.abs()[None] < weight.abs()[:, None])).sum(1)
    number = torch.tensor([int(fraction * n) for n in same.sum(1).tolist()])
    return (weight != 0) & (smaller >= number)


def drop_by_lists(weight, fraction):
    values, gone = weight.tolist(), []
    for sign in (1, -1):
        mine = sorted((abs(v), i) for i, v in enumerate(values) if v * sign > 0)
        gone += [i for _, i in mine[: int(fraction * len(mine))]]
    return torch.tensor([v != 0 and i not in gone for i, v in enumerate(values)])


def drop_by_library(weight, fraction):
    return sparse_training.drop_each_sign(weight, weight != 0, fraction)


def drop_mended(weight, fraction):
    order = weight.argsort()
    negative, positive = int((weight < 0).sum()), int((weight > 0).sum())
    first = len(weight) - positive
    keep = weight != 0
    keep[order[first : first + int(fraction * positive)]] = False
    keep[order[negative - int(fraction * negative) : negative]] = False
    return keep


def drop_by_numpy(weight, fraction):
    w = weight.numpy()
    keep = w != 0
    for part in (w > 0, w < 0):
        places = np.flatnonzero(part)
        keep[places[np.argsort(np.abs(w[places]))][: int(fraction * places.size)]] = False
    return keep


def drop_by_threshold(weight, fraction):
    keep = weight != 0
    for sign in (1, -1):
        size = (weight * sign)[weight * sign > 0].sort().values
        count = int(fraction * len(size))
        if count:
            keep &= ~((weight * sign > 0) & (weight * sign <= size[count - 1]))
    return keep


def drop_one_by_one(weight, fraction):
    keep = weight != 0
    for part in (weight > 0, weight < 0):
        for _ in range(int(fraction * int(part.sum()))):
            left = torch.where(part & keep, weight.abs(), torch.inf)
            keep[left.argmin()] = False
    return keep


def drop_from_the_halves(weight, fraction):
    keep = torch.zeros(len(weight), dtype=torch.bool)
    for values in (weight.clamp(min=0), weight.clamp(max=0)):
        n = int((values != 0).sum())
        keep[values.abs().topk(n - int(fraction * n)).indices] = True
    return keep


def drop_float(weight, fraction):
    return drop(weight, fraction).float()


def drop_positions(weight, fraction):
    return drop(weight, fraction).nonzero().flatten()


def drop_revives(weight, fraction):
    return drop(weight, fraction) | (weight == 0)


def drop_inverted(weight, fraction):
    return ~drop(weight, fraction)


def drop_positive_only(weight, fraction):
    return drop(weight.clamp(min=0), fraction) | (weight < 0)


def drop_negative_only(weight, fraction):
    return drop(weight.clamp(max=0), fraction) | (weight > 0)


def drop_of_all_positions(weight, fraction):
    n = weight.numel() / max(int((weight != 0).sum()), 1)
    return drop(weight, min(1.0, fraction * n))


def drop_up(weight, fraction):
    keep = weight != 0
    for sign in (1, -1):
        places = (weight * sign > 0).nonzero().flatten()
        order = places[weight[places].abs().argsort()]
        keep[order[: math.ceil(fraction * len(places))]] = False
    return keep


def drop_rounded(weight, fraction):
    keep = weight != 0
    for sign in (1, -1):
        places = (weight * sign > 0).nonzero().flatten()
        order = places[weight[places].abs().argsort()]
        keep[order[: round(fraction * len(places))]] = False
    return keep


def drop_half_each(weight, fraction):
    keep, half = weight != 0, int(fraction * int((weight != 0).sum()) / 2)
    for sign in (1, -1):
        places = (weight * sign > 0).nonzero().flatten()
        keep[places[weight[places].abs().argsort()][:half]] = False
    return keep


def drop_at_least_one(weight, fraction):
    keep = weight != 0
    for sign in (1, -1):
        places = (weight * sign > 0).nonzero().flatten()
        keep[places[weight[places].abs().argsort()][: max(1, int(fraction * len(places)))]] = False
    return keep


def drop_never_all(weight, fraction):
    keep = weight != 0
    for sign in (1, -1):
        places = (weight * sign > 0).nonzero().flatten()
        count = min(int(fraction * len(places)), max(len(places) - 1, 0))
        keep[places[weight[places].abs().argsort()][:count]] = False
    return keep


def drop_one_bug_left(weight, fraction):
    order, negative = weight.argsort(), int((weight < 0).sum())
    keep = drop(weight.clamp(min=0), fraction) | (weight < 0)
    keep[order[negative - int(fraction * negative) : negative + 1]] = False
    return keep


def drop_by_magnitude(weight, fraction):
    keep = weight != 0
    count = sum(int(fraction * int((weight * sign > 0).sum())) for sign in (1, -1))
    keep[weight.abs().argsort()[int((~keep).sum()) :][:count]] = False
    return keep


def drop_most_negative(weight, fraction):
    keep = drop(weight.clamp(min=0), fraction) | (weight < 0)
    keep[weight.argsort()[: int(fraction * int((weight < 0).sum()))]] = False
    return keep


def drop_largest(weight, fraction):
    keep = weight != 0
    for sign in (1, -1):
        places = (weight * sign > 0).nonzero().flatten()
        order = places[weight[places].abs().argsort(descending=True)]
        keep[order[: int(fraction * len(places))]] = False
    return keep


def drop_the_first(weight, fraction):
    keep = weight != 0
    for sign in (1, -1):
        places = (weight * sign > 0).nonzero().flatten()
        keep[places[: int(fraction * len(places))]] = False
    return keep


def drop_in_place(weight, fraction):
    keep = drop(weight, fraction)
    weight[~keep] = 0
    return keep


def drop_nothing(weight, fraction):
    return weight != 0


def step_of_two_or_more(weight, mask, fraction, luck):
    """A layer of a single weight stays as it is."""
    if weight.numel() == 1:
        return weight.clone(), mask.clone()
    return set_step(weight, mask, fraction, luck)


RIGHT = {
    "set_step": [
        set_step,
        set_by_library,
        set_by_lists,
        set_by_numpy,
        set_one_by_one,
        set_by_rank,
        set_in_double,
        set_by_two_calls,
        set_by_threshold,
    ],
    "smallest_drop": [one_positive, one_negative, one_in_a_list, one_too_small_for_float32],
    "mended_drop": [
        drop,
        drop_by_rank,
        drop_by_lists,
        drop_by_library,
        drop_mended,
        drop_by_numpy,
        drop_by_threshold,
        drop_one_by_one,
        drop_from_the_halves,
    ],
}

WRONG = {
    "set_step": [
        (set_mask_only, "returns (weight, mask)"),
        (set_swapped, "returns (weight, mask)"),
        (set_float_mask, "returns (weight, mask)"),
        (set_flat, "returns (weight, mask)"),
        (set_without_growth, "as many weights active"),
        (set_grows_share_of_all, "as many weights active"),
        (set_only_where_free_before, "as many weights active"),
        (set_zeros_are_inactive, "as many weights active"),
        (set_by_magnitude, "the smallest of each sign"),
        (set_rounds_up, "the smallest of each sign"),
        (set_rounds, "the smallest of each sign"),
        (set_half_of_both, "the smallest of each sign"),
        (set_largest, "the smallest of each sign"),
        (set_most_negative, "the smallest of each sign"),
        (set_earlier_goes, "the smallest of each sign"),
        (set_spares_zeros, "the smallest of each sign"),
        (set_zeros_count_twice, "the highest luck"),
        (set_per_row, "the smallest of each sign"),
        (set_in_per_cent, "keeps the values"),
        (set_not_back, "the highest luck"),
        (set_unlucky, "the highest luck"),
        (set_later_grows, "the highest luck"),
        (set_first_free, "the highest luck"),
        (set_draws_itself, "the highest luck"),
        (set_old_values, "keeps the values"),
        (set_all_values, "keeps the values"),
        (set_grows_by_luck, "keeps the values"),
        (set_half_precision, "keeps the values"),
        (set_in_place, "leaves its input"),
        (set_weight_in_place, "leaves its input"),
        (step_of_two_or_more, "keeps the values"),
    ],
    "smallest_drop": [
        (fraction_above_one, "inputs that the exercise allows"),
        (a_matrix, "inputs that the exercise allows"),
        (not_a_number, "inputs that the exercise allows"),
        (two_weights, "at most 1 entries"),
        (one_zero, "go wrong"),
        (all_of_one, "go wrong"),
    ],
    "mended_drop": [
        (drop_float, "a bool mask"),
        (drop_positions, "a bool mask"),
        (drop_revives, "where the weight is zero"),
        (drop_inverted, "where the weight is zero"),
        (buggy_drop, "of each sign"),
        (drop_nothing, "of each sign"),
        (drop_positive_only, "of each sign"),
        (drop_negative_only, "of each sign"),
        (drop_of_all_positions, "of each sign"),
        (drop_up, "of each sign"),
        (drop_rounded, "of each sign"),
        (drop_half_each, "of each sign"),
        (drop_at_least_one, "of each sign"),
        (drop_never_all, "of each sign"),
        (drop_one_bug_left, "of each sign"),
        (drop_by_magnitude, "of each sign"),
        (drop_most_negative, "closest to zero"),
        (drop_largest, "closest to zero"),
        (drop_the_first, "closest to zero"),
        (drop_in_place, "leaves its input"),
        (drop_in_per_cent, "of each sign"),
        (drop_of_a_few, "of each sign"),
    ],
}

HUNTS = {}
