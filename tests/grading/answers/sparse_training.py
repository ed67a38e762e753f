"""Answers to the exercises of lesson Sparse training."""

import math

import torch

from course_lib.exercises.sparse_training import buggy_drop, weak_drop_test
from course_lib.pruning import allocate, sparse_training

from .common import judge_says_no, judge_says_yes

# set_step


def set_by_library(weight, mask, fraction, luck):
    kept = sparse_training.drop_each_sign(weight, mask, fraction)
    return sparse_training.grow(kept, int(mask.sum() - kept.sum()), luck)


def set_by_lists(weight, mask, fraction, luck):
    w, on, chance = weight.flatten().tolist(), mask.flatten().tolist(), luck.flatten().tolist()
    dropped = []
    for sign in (1, -1):
        mine = sorted(
            (i for i in range(len(w)) if on[i] and w[i] * sign > 0), key=lambda i: abs(w[i])
        )
        dropped += mine[: int(fraction * len(mine))]
    new = [on[i] and i not in dropped for i in range(len(w))]
    free = sorted((i for i in range(len(w)) if not new[i]), key=lambda i: -chance[i])
    for i in free[: len(dropped)]:
        new[i] = True
    return torch.tensor(new).view(weight.shape)


def set_float(weight, mask, fraction, luck):
    return set_by_lists(weight, mask, fraction, luck).float()


def set_without_growth(weight, mask, fraction, luck):
    return sparse_training.drop_each_sign(weight, mask, fraction)


def set_grows_share_of_all(weight, mask, fraction, luck):
    kept = sparse_training.drop_each_sign(weight, mask, fraction)
    count = min(int(fraction * weight.numel()), int((~kept).sum()))
    return sparse_training.grow(kept, count, luck)


def set_by_magnitude(weight, mask, fraction, luck):
    count = int(fraction * int(mask.sum()))
    return sparse_training.drop_and_grow(weight, mask, count, luck)


def set_rounds_up(weight, mask, fraction, luck):
    kept = mask.clone()
    for part in (mask & (weight > 0), mask & (weight < 0)):
        kept &= ~part | sparse_training.drop(weight, part, math.ceil(fraction * int(part.sum())))
    return sparse_training.grow(kept, int(mask.sum() - kept.sum()), luck)


def set_largest(weight, mask, fraction, luck):
    return set_by_library(torch.where(mask, 1 / weight, 0.0), mask, fraction, luck)


def set_not_back(weight, mask, fraction, luck):
    kept = sparse_training.drop_each_sign(weight, mask, fraction)
    return sparse_training.grow(kept, int(mask.sum() - kept.sum()), luck - mask.float())


def set_unlucky(weight, mask, fraction, luck):
    return set_by_library(weight, mask, fraction, -luck)


def set_in_place(weight, mask, fraction, luck):
    new = set_by_library(weight, mask, fraction, luck)
    return mask.copy_(new)


# kills_wrong_drops


def judge_drop_by_oracle(drop):
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 40):
        size = 1 + torch.randperm(n, generator=generator).float()
        weight = size * torch.randint(-1, 2, (n,), generator=generator)
        for fraction in (0.0, 0.2, 0.5, 1.0):
            given = weight.clone()
            got = drop(given, fraction)
            expected = sparse_training.drop_each_sign(weight, weight != 0, fraction)
            if not torch.equal(got, expected) or not torch.equal(given, weight):
                return False
    return True


def judge_drop_by_hand(drop):
    weight = torch.tensor([1.0, 2, 3, 4, -9, -8, -7, -6, -5, -10] + 10 * [0.0])
    given = weight.clone()
    left = drop(given, 0.5).nonzero().flatten().tolist()
    return left == [2, 3, 4, 5, 9] and torch.equal(given, weight)


def judge_drop_counts(drop):
    weight = torch.tensor([1.0, 2, 3, 4, -9, -8, -7, -6, -5, -10, 0, 0, 0])
    return int(drop(weight, 0.5).sum()) == 5


def judge_drop_counts_signs(drop):
    weight = torch.tensor([1.0, 2, 3, 4, -9, -8, -7, -6, -5, -10, 0, 0, 0])
    keep = drop(weight, 0.5)
    return int((keep & (weight > 0)).sum()) == 2 and int((keep & (weight < 0)).sum()) == 3


def judge_drop_demands_all(drop):
    """Expects the fraction of both signs together."""
    return drop(torch.tensor([1.0, 2, 3, -9, -8, -7]), 0.5).tolist() == [False] * 3 + [True] * 3


# layer_counts


def counts_by_library(shapes, budget):
    total = sum(map(math.prod, shapes.values()))
    if not 0 <= budget <= total:
        raise ValueError(f"budget must be between 0 and {total}, got {budget}")
    shares = allocate.erdos_renyi(shapes, 1 - budget / total)
    return {n: round((1 - shares[n]) * math.prod(s)) for n, s in shapes.items()}


def counts_by_loop(shapes, budget):
    size = {n: math.prod(s) for n, s in shapes.items()}
    if budget < 0 or budget > sum(size.values()):
        raise ValueError("no such budget")
    full, rest = {}, budget
    while True:
        units = {n: sum(s) for n, s in shapes.items() if n not in full}
        eps = rest / (sum(units.values()) or 1)
        over = [n for n in units if eps * units[n] > size[n]]
        if not over:
            break
        for n in over:
            full[n], rest = size[n], rest - size[n]
    return full | whole({n: eps * u for n, u in units.items()}, rest)


def whole(parts, total):
    down = {n: int(p) for n, p in parts.items()}
    for n in sorted(parts, key=lambda n: down[n] - parts[n])[: total - sum(down.values())]:
        down[n] += 1
    return down


def counts_float(shapes, budget):
    return {n: float(c) for n, c in counts_by_loop(shapes, budget).items()}


def counts_list(shapes, budget):
    return list(counts_by_loop(shapes, budget).values())


def counts_rounded_down(shapes, budget):
    counts_by_loop(shapes, budget)
    units = sum(map(sum, shapes.values()))
    return {n: min(math.prod(s), budget * sum(s) // units) for n, s in shapes.items()}


def counts_uncapped(shapes, budget):
    counts_by_loop(shapes, budget)
    units = sum(map(sum, shapes.values()))
    return whole({n: budget * sum(s) / units for n, s in shapes.items()}, budget)


def counts_uniform(shapes, budget):
    counts_by_loop(shapes, budget)
    total = sum(map(math.prod, shapes.values()))
    return whole({n: budget * math.prod(s) / total for n, s in shapes.items()}, budget)


def counts_greedy(shapes, budget):
    """Fills the small layers first."""
    counts_by_loop(shapes, budget)
    counts = dict.fromkeys(shapes, 0)
    for n in sorted(shapes, key=lambda n: math.prod(shapes[n])):
        counts[n] = min(math.prod(shapes[n]), budget - sum(counts.values()))
    return counts


def counts_without_error(shapes, budget):
    total = sum(map(math.prod, shapes.values()))
    return counts_by_loop(shapes, min(max(budget, 0), total))


RIGHT = {
    "set_step": [set_by_library, set_by_lists],
    "kills_wrong_drops": [judge_drop_by_oracle, judge_drop_by_hand],
    "layer_counts": [counts_by_library, counts_by_loop],
}

WRONG = {
    "set_step": [
        (set_float, "a bool mask"),
        (set_without_growth, "as many weights active"),
        (set_grows_share_of_all, "as many weights active"),
        (set_by_magnitude, "the smallest of each sign"),
        (set_rounds_up, "the smallest of each sign"),
        (set_largest, "the smallest of each sign"),
        (set_not_back, "the highest luck"),
        (set_unlucky, "the highest luck"),
        (set_in_place, "leaves its input"),
    ],
    "kills_wrong_drops": [
        (judge_says_no, "accepts a correct function that sorts"),
        (judge_drop_demands_all, "accepts a correct function that sorts"),
        (judge_says_yes, "nothing but the most negative"),
        (weak_drop_test, "nothing but the most negative"),
        (judge_drop_counts, "ranks both signs together"),
        (judge_drop_counts_signs, "furthest from zero"),
    ],
    "layer_counts": [
        (counts_float, "one whole number a layer"),
        (counts_list, "one whole number a layer"),
        (counts_rounded_down, "the whole budget"),
        (counts_uncapped, "more weights than it has"),
        (counts_uniform, "shares by units"),
        (counts_greedy, "shares by units"),
        (counts_without_error, "raises a ValueError"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_drops": (weak_drop_test, buggy_drop, judge_drop_by_oracle)}
