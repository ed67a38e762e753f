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


# er_densities


def densities_in_rounds(shapes, sparsity):
    size = {name: r * c for name, (r, c) in shapes.items()}
    sides = {name: r + c for name, (r, c) in shapes.items()}  # ratio times size
    room, full = (1 - sparsity) * sum(size.values()), set()
    while rest := [name for name in shapes if name not in full]:
        epsilon = (room - sum(size[name] for name in full)) / sum(sides[name] for name in rest)
        more = {name for name in rest if epsilon * sides[name] > size[name]}
        if not more:
            break
        full |= more
    return {n: 1.0 if n in full else epsilon * sides[n] / size[n] for n in shapes}


def densities_by_bisection(shapes, sparsity):
    n, low, high = sum(r * c for r, c in shapes.values()), 0.0, 1e6

    def at(epsilon):
        return {name: min(1.0, epsilon * (r + c) / (r * c)) for name, (r, c) in shapes.items()}

    for _ in range(100):
        middle = (low + high) / 2
        found = at(middle)
        kept = sum(found[name] * r * c for name, (r, c) in shapes.items())
        low, high = (middle, high) if kept < (1 - sparsity) * n else (low, middle)
    return at(high)


def densities_without_cap(shapes, sparsity):
    n = sum(r * c for r, c in shapes.values())
    epsilon = (1 - sparsity) * n / sum(r + c for r, c in shapes.values())
    return {name: epsilon * (r + c) / (r * c) for name, (r, c) in shapes.items()}


def densities_clipped(shapes, sparsity):
    return {k: min(1.0, v) for k, v in densities_without_cap(shapes, sparsity).items()}


def densities_equal(shapes, sparsity):
    return dict.fromkeys(shapes, 1 - sparsity)


def densities_removed(shapes, sparsity):
    return {name: 1 - value for name, value in densities_in_rounds(shapes, sparsity).items()}


def densities_small_first(shapes, sparsity):
    """The smallest layers full, as many as fit, the rest in the next one."""
    found, room = {}, (1 - sparsity) * sum(r * c for r, c in shapes.values())
    for name, (r, c) in sorted(shapes.items(), key=lambda item: item[1][0] * item[1][1]):
        found[name] = min(1.0, max(0.0, room / (r * c)))
        room -= found[name] * r * c
    return found


def densities_smallest_full(shapes, sparsity):
    """Two layers or more: the smallest is kept whole if there is room for it, always."""
    size = {name: r * c for name, (r, c) in shapes.items()}
    small, room = min(size, key=size.get), (1 - sparsity) * sum(size.values())
    if len(shapes) < 2 or room < size[small]:
        return densities_in_rounds(shapes, sparsity)
    others = {name: shape for name, shape in shapes.items() if name != small}
    left = 1 - (room - size[small]) / (sum(size.values()) - size[small])
    return {small: 1.0} | densities_in_rounds(others, left)


def densities_pop(shapes, sparsity):
    found = densities_in_rounds(shapes, sparsity)
    shapes.popitem()
    return found


def densities_list(shapes, sparsity):
    return list(densities_in_rounds(shapes, sparsity).values())


def densities_tensors(shapes, sparsity):
    return {k: torch.tensor(v) for k, v in densities_in_rounds(shapes, sparsity).items()}


RIGHT = {
    "global_masks": [global_by_sort, global_by_python],
    "kills_wrong_sparsities": [judge_by_hand, judge_by_random_masks],
    "er_densities": [densities_in_rounds, densities_by_bisection],
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
    "er_densities": [
        (densities_list, "from 0 to 1 for every layer"),
        (densities_tensors, "from 0 to 1 for every layer"),
        (densities_without_cap, "from 0 to 1 for every layer"),
        (densities_clipped, "of all n weights"),
        (densities_removed, "of all n weights"),
        (densities_equal, "one ε"),
        (densities_small_first, "one ε"),
        (densities_smallest_full, "only if ε asks"),
        (densities_pop, "leaves its input"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_sparsities": (weak_sparsity_test, buggy_total_sparsity, judge_by_hand)}
