"""Answers to the exercises of lesson Prune rate."""

import math

import torch

from course_lib.exercises.prune_rate import buggy_total_sparsity, weak_sparsity_test

from .common import judge_says_no, judge_says_yes

# global_masks


def global_by_sort(scores, sparsity):
    flat = torch.cat([score.flatten() for score in scores.values()])
    order = flat.argsort(descending=True, stable=True)
    keep = torch.ones_like(flat, dtype=torch.bool)
    keep[order[len(flat) - round(sparsity * len(flat)) :]] = False
    parts = keep.split([score.numel() for score in scores.values()])
    return {k: part.view_as(scores[k]) for k, part in zip(scores, parts, strict=True)}


def global_by_python(scores, sparsity):
    entries = [(v, k, i) for k, s in scores.items() for i, v in enumerate(s.flatten().tolist())]
    entries.sort(key=lambda entry: entry[0], reverse=True)
    masks = {k: torch.zeros(s.numel(), dtype=torch.bool) for k, s in scores.items()}
    for _, name, index in entries[: len(entries) - round(sparsity * len(entries))]:
        masks[name][index] = True
    return {k: masks[k].reshape(scores[k].shape) for k in reversed(list(scores))}


def global_local(scores, sparsity):
    return {k: global_by_sort({k: score}, sparsity)[k] for k, score in scores.items()}


def global_threshold(scores, sparsity):
    flat = torch.cat([score.flatten() for score in scores.values()])
    return {k: score > flat.quantile(sparsity) for k, score in scores.items()}


def global_absolute(scores, sparsity):
    return global_by_sort({k: score.abs() for k, score in scores.items()}, sparsity)


def global_highest_go(scores, sparsity):
    return global_by_sort({k: -score for k, score in scores.items()}, sparsity)


def global_by_name(scores, sparsity):
    return global_by_sort({k: scores[k] for k in sorted(scores)}, sparsity)


def global_list(scores, sparsity):
    return list(global_by_sort(scores, sparsity).values())


def global_flat(scores, sparsity):
    return {k: mask.flatten() for k, mask in global_by_sort(scores, sparsity).items()}


def global_forgets_a_layer(scores, sparsity):
    return dict(list(global_by_sort(scores, sparsity).items())[:1])


def global_pops(scores, sparsity):
    masks = global_by_sort(scores, sparsity)
    scores.popitem()
    return masks


# kills_wrong_sparsities

LAYERS = {
    "conv": torch.zeros(2, 1, 3, 3, dtype=torch.bool),
    "fc1": torch.ones(4, 5, dtype=torch.bool),
    "fc2": torch.tensor([True, False, True]),
}


def judge_by_hand(fn):
    return abs(fn(LAYERS) - 19 / 41) < 1e-6


def judge_by_random_masks(fn):
    for _ in range(20):
        masks = {
            f"layer{i}": torch.rand([torch.randint(1, 5, ()).item() for _ in range(1 + i)]) > 0.3
            for i in range(4)
        }
        gone = sum(mask.numel() - mask.count_nonzero().item() for mask in masks.values())
        if not math.isclose(fn(masks), gone / sum(map(torch.numel, masks.values())), rel_tol=1e-5):
            return False
    return True


def judge_exactly(fn):
    return fn(LAYERS) == 19 / 41


def judge_roughly(fn):
    return abs(fn(LAYERS) - 19 / 41) < 0.01


def judge_by_matrices(fn):
    """A small and a large layer, both matrices, the second left alone."""
    masks = {"a": torch.zeros(1, 2, dtype=torch.bool), "b": torch.ones(3, 4, dtype=torch.bool)}
    return abs(fn(masks) - 2 / 14) < 1e-6


def judge_with_average_last_layer(fn):
    """The last layer is as sparse as the two before it together."""
    kept = {"a": [False] * 2, "b": [True] * 4, "c": [True, False, True] * 2}
    return abs(fn({name: torch.tensor(keep) for name, keep in kept.items()}) - 1 / 3) < 1e-6


# per_round


def share_by_root(target, rounds):
    return 1 - (1 - target) ** (1 / rounds)


def share_by_log(target, rounds):
    return 1.0 if target == 1 else -math.expm1(math.log1p(-target) / rounds)


def share_by_bisection(target, rounds):
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - (1 - middle) ** rounds < target else (low, middle)
    return high


def share_linear(target, rounds):
    return target / rounds


def share_kept(target, rounds):
    return (1 - target) ** (1 / rounds)


def share_root_of_target(target, rounds):
    return target ** (1 / rounds)


def share_bool(target, rounds):
    return target > 0


def share_rounded(target, rounds):
    return round(share_by_root(target, rounds), 3)


def share_in_percent(target, rounds):
    return 100 * share_by_root(target, rounds)


def share_one_round_more(target, rounds):
    return 1 - (1 - target) ** (1 / (rounds + 1))


def share_tensor(target, rounds):
    return torch.tensor(share_by_root(target, rounds))


def share_compounds_upward(target, rounds):
    return 1 - (1 - target) ** rounds


RIGHT = {
    "global_masks": [global_by_sort, global_by_python],
    "kills_wrong_sparsities": [judge_by_hand, judge_by_random_masks],
    "per_round": [share_by_root, share_by_log, share_by_bisection],
}


WRONG = {
    "global_masks": [
        (global_list, "a dict with"),
        (global_flat, "a dict with"),
        (global_forgets_a_layer, "a dict with"),
        (global_threshold, "exactly round"),
        (global_local, "exactly round"),
        (global_absolute, "lowest scores"),
        (global_highest_go, "lowest scores"),
        (global_by_name, "earlier of equal"),
        (global_pops, "leaves its input"),
    ],
    "kills_wrong_sparsities": [
        (judge_says_no, "accepts a correct function that counts"),
        (judge_exactly, "float32"),
        (judge_says_yes, "mean of the layers"),
        (weak_sparsity_test, "mean of the layers"),
        (judge_with_average_last_layer, "leaves out the last layer"),
        (judge_by_matrices, "not a matrix"),
        (judge_roughly, "two digits"),
    ],
    "per_round": [
        (share_tensor, "from 0 to 1"),
        (share_bool, "from 0 to 1"),
        (share_in_percent, "from 0 to 1"),
        (share_kept, "when there is one round"),
        (share_one_round_more, "when there is one round"),
        (share_rounded, "after all rounds"),
        (share_linear, "after all rounds"),
        (share_root_of_target, "after all rounds"),
        (share_compounds_upward, "after all rounds"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_sparsities": (weak_sparsity_test, buggy_total_sparsity, judge_by_hand)}
