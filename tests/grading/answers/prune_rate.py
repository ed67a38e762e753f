"""Answers to the exercises of lesson Prune rate."""

import heapq
import math

import numpy as np
import torch

from course_lib.pruning import allocate

# global_masks: one ranking in which each layer keeps its best


def global_by_sort(scores, sparsity):
    """The best of each layer becomes infinite, then one stable sort."""
    raised = {}
    for name, score in scores.items():
        row = score.flatten().clone()
        row[row.argmax()] = math.inf
        raised[name] = row
    flat = torch.cat(list(raised.values()))
    order = flat.argsort(descending=True, stable=True)
    keep = torch.ones_like(flat, dtype=torch.bool)
    keep[order[len(flat) - round(sparsity * len(flat)) :]] = False
    parts = keep.split([score.numel() for score in scores.values()])
    return {k: part.view_as(scores[k]) for k, part in zip(scores, parts, strict=True)}


def _cut(scores, sparsity, reserved, key=lambda entry: -entry[0], count=None):
    """Masks that keep the ``reserved`` (name, index) and then the first by ``key``."""
    entries = [(v, k, i) for k, s in scores.items() for i, v in enumerate(s.flatten().tolist())]
    left = len(entries) - round(sparsity * len(entries)) if count is None else count
    others = sorted((e for e in entries if e[1:] not in reserved), key=key)
    kept = [*reserved, *(e[1:] for e in others[: max(0, left - len(reserved))])]
    masks = {k: torch.zeros(s.numel(), dtype=torch.bool) for k, s in scores.items()}
    for name, index in kept:
        masks[name][index] = True
    return {k: masks[k].reshape(scores[k].shape) for k in scores}


def _firsts(scores):
    rows = {k: s.flatten().tolist() for k, s in scores.items()}
    return [(k, row.index(max(row))) for k, row in rows.items()]


def global_by_python(scores, sparsity):
    masks = _cut(scores, sparsity, _firsts(scores))
    return {k: masks[k] for k in reversed(list(scores))}


def global_by_tuples(scores, sparsity):
    """Sorts by (reserved, score, place)."""
    return _cut(scores, sparsity, _firsts(scores), key=lambda e: (-e[0],))


def global_by_heap(scores, sparsity):
    rows = [(k, s.flatten().tolist()) for k, s in scores.items()]
    n = sum(len(row) for _, row in rows)
    keep = {k: [False] * len(row) for k, row in rows}
    for k, row in rows:
        keep[k][max(range(len(row)), key=lambda i, row=row: (row[i], -i))] = True
    heap = [
        (-v, place, i, k)
        for place, (k, row) in enumerate(rows)
        for i, v in enumerate(row)
        if not keep[k][i]
    ]
    heapq.heapify(heap)
    for _ in range(n - round(sparsity * n) - len(rows)):
        _, _, i, k = heapq.heappop(heap)
        keep[k][i] = True
    return {k: torch.tensor(keep[k]).reshape(s.shape) for k, s in scores.items()}


def global_numpy(scores, sparsity):
    flat = np.concatenate([s.numpy().ravel() for s in scores.values()])
    ends = np.cumsum([s.numel() for s in scores.values()])
    starts = ends - [s.numel() for s in scores.values()]
    reserved = [a + flat[a:b].argmax() for a, b in zip(starts, ends, strict=True)]
    first = np.ones(len(flat), dtype=int)
    first[reserved] = 0
    order = np.lexsort((np.arange(len(flat)), -flat, first))
    keep = np.zeros(len(flat), dtype=bool)
    keep[order[: len(flat) - round(sparsity * len(flat))]] = True
    return {
        k: keep[a:b].reshape(s.shape)
        for (k, s), a, b in zip(scores.items(), starts, ends, strict=True)
    }


def global_by_removing(scores, sparsity):
    """Removes one weight after the other, the last of the lowest; quadratic on purpose."""
    rows = {k: s.flatten().tolist() for k, s in scores.items()}
    safe = set(_firsts(scores))
    entries = [(v, k, i) for k, row in rows.items() for i, v in enumerate(row)]
    can_go = [entry for entry in entries if entry[1:] not in safe]
    masks = {k: torch.ones(len(row), dtype=torch.bool) for k, row in rows.items()}
    for _ in range(round(sparsity * len(entries))):
        lowest = min(v for v, _, _ in can_go)
        at = max(j for j, entry in enumerate(can_go) if entry[0] == lowest)
        _, name, index = can_go.pop(at)
        masks[name][index] = False
    return {k: masks[k].view(scores[k].shape) for k in scores}


def global_by_the_library(scores, sparsity):
    """The library's ranking of scores whose best are raised."""
    raised = {k: s.clone() for k, s in scores.items()}
    for s in raised.values():
        s.view(-1)[s.argmax()] = math.inf
    return allocate.globally(raised, sparsity)


def global_by_counting(scores, sparsity):
    """A weight stays if fewer than `left` others come before it."""
    flat = torch.cat([s.flatten() for s in scores.values()]).double()
    at = 0
    for s in scores.values():
        flat[at + int(s.flatten().argmax())] = math.inf
        at += s.numel()
    places = torch.arange(len(flat))
    before = (flat[None] > flat[:, None]) | (
        (flat[None] == flat[:, None]) & (places[None] < places[:, None])
    )
    keep = before.sum(1) < len(flat) - round(sparsity * len(flat))
    parts = keep.split([s.numel() for s in scores.values()])
    return {k: part.view_as(scores[k]) for k, part in zip(scores, parts, strict=True)}


def global_plain(scores, sparsity):
    """The library's ranking, which may empty a layer."""
    return allocate.globally(scores, sparsity)


def global_local(scores, sparsity):
    return {k: global_by_sort({k: score}, sparsity)[k] for k, score in scores.items()}


def global_threshold(scores, sparsity):
    flat = torch.cat([score.flatten() for score in scores.values()])
    return {k: score > flat.quantile(sparsity) for k, score in scores.items()}


def global_threshold_or_best(scores, sparsity):
    flat = torch.cat([score.flatten() for score in scores.values()])
    cut = flat.quantile(sparsity)
    return {k: (score > cut) | (score == score.max()) for k, score in scores.items()}


def global_extra_places(scores, sparsity):
    """Reserved places are given on top of the count."""
    masks = allocate.globally(scores, sparsity)
    for k, i in _firsts(scores):
        masks[k].view(-1)[i] = True
    return masks


def global_rescued_only(scores, sparsity):
    """Gives an empty layer its best back, at the cost of nothing."""
    masks = allocate.globally(scores, sparsity)
    for k, i in _firsts(scores):
        if not masks[k].any():
            masks[k].view(-1)[i] = True
    return masks


def global_reserves_for_the_empty(scores, sparsity):
    """Reserves places only in layers that the plain ranking empties; another may then be emptied."""
    plain = allocate.globally(scores, sparsity)
    empty = [entry for entry in _firsts(scores) if not plain[entry[0]].any()]
    return _cut(scores, sparsity, empty) if empty else plain


def global_last_entry_rescued(scores, sparsity):
    """An empty layer keeps its first entry, not its best."""
    return _cut(scores, sparsity, [(k, 0) for k in scores])


def global_absolute(scores, sparsity):
    return global_by_sort({k: score.abs() for k, score in scores.items()}, sparsity)


def global_highest_go(scores, sparsity):
    return global_by_sort({k: -score for k, score in scores.items()}, sparsity)


def global_by_name(scores, sparsity):
    return global_by_sort({k: scores[k] for k in sorted(scores)}, sparsity)


def global_later_stays(scores, sparsity):
    """Of equal scores the later one stays."""
    rows = {k: s.flatten().tolist() for k, s in scores.items()}
    lasts = [(k, len(row) - 1 - row[::-1].index(max(row))) for k, row in rows.items()]
    places = {entry: j for j, entry in enumerate((k, i) for k in rows for i in range(len(rows[k])))}
    return _cut(scores, sparsity, lasts, key=lambda e: (-e[0], -places[e[1:]]))


def global_last_best(scores, sparsity):
    """Reserves the last of a layer's highest scores."""
    rows = {k: s.flatten().tolist() for k, s in scores.items()}
    lasts = [(k, len(row) - 1 - row[::-1].index(max(row))) for k, row in rows.items()]
    return _cut(scores, sparsity, lasts)


def global_small_layers_first(scores, sparsity):
    """Ties go to the smaller layer."""
    return _cut(scores, sparsity, _firsts(scores), key=lambda e: (-e[0], scores[e[1]].numel()))


def global_ties_by_place(scores, sparsity):
    """Ties go to the earlier place within a layer, whatever the layer."""
    return _cut(scores, sparsity, _firsts(scores), key=lambda e: (-e[0], e[2]))


def global_normalised(scores, sparsity):
    """Divides each layer by its largest magnitude first."""
    return global_by_sort(
        {k: s / s.abs().max().clamp(min=1e-9) for k, s in scores.items()}, sparsity
    )


def global_by_layer_rank(scores, sparsity):
    """Compares ranks within the layers, not scores."""
    ranks = {}
    for k, s in scores.items():
        order = s.flatten().argsort(stable=True)
        rank = torch.empty(len(order))
        rank[order] = torch.arange(len(order)).float()
        ranks[k] = rank.view_as(s)
    return global_by_sort(ranks, sparsity)


def _counted(rounded):
    def answer(scores, sparsity):
        n = sum(s.numel() for s in scores.values())
        left = max(len(scores), rounded(n, sparsity))
        return _cut(scores, sparsity, _firsts(scores), count=left)

    return answer


global_floor = _counted(lambda n, s: n - int(s * n))
global_ceiling = _counted(lambda n, s: n - math.ceil(s * n))
global_half_up = _counted(lambda n, s: n - math.floor(s * n + 0.5))
global_rounds_what_stays = _counted(lambda n, s: round((1 - s) * n))
global_one_too_many = _counted(lambda n, s: n - round(s * n) + (0 < s < 1))
global_keeps_the_share = _counted(lambda n, s: round(s * n))


def global_one_above_all(scores, sparsity):
    """Lifts the best of a layer to one above all scores, which are large."""
    top = max(float(score.max()) for score in scores.values()) + 1
    lifted = {name: score.flatten().double() for name, score in scores.items()}
    for score in lifted.values():
        score[score.argmax()] = top
    row = torch.cat([*lifted.values()])
    mask = torch.zeros(len(row), dtype=torch.bool)
    stay = len(row) - round(sparsity * len(row))
    mask[row.argsort(descending=True, stable=True)[:stay]] = True
    parts = mask.split([score.numel() for score in scores.values()])
    return {n: part.view_as(scores[n]) for n, part in zip(scores, parts, strict=True)}


def global_two_per_layer(scores, sparsity):
    """Reserves two places where there are two."""
    reserved = []
    for k, s in scores.items():
        order = s.flatten().argsort(descending=True, stable=True)[:2].tolist()
        reserved += [(k, i) for i in order]
    left = sum(s.numel() for s in scores.values())
    left -= round(sparsity * left)
    return _cut(scores, sparsity, reserved[:left])


def global_list(scores, sparsity):
    return list(global_by_sort(scores, sparsity).values())


def global_flat(scores, sparsity):
    return {k: mask.flatten() for k, mask in global_by_sort(scores, sparsity).items()}


def global_floats(scores, sparsity):
    return {k: mask.float() for k, mask in global_by_sort(scores, sparsity).items()}


def global_indices(scores, sparsity):
    return {k: mask.nonzero() for k, mask in global_by_sort(scores, sparsity).items()}


def global_forgets_a_layer(scores, sparsity):
    return dict(list(global_by_sort(scores, sparsity).items())[:1])


def global_upside_down(scores, sparsity):
    return {k: ~mask for k, mask in global_by_sort(scores, sparsity).items()}


def global_pops(scores, sparsity):
    masks = global_by_sort(scores, sparsity)
    scores.popitem()
    return masks


def global_writes_infinity(scores, sparsity):
    """Raises the best in the caller's tensors."""
    masks = global_by_sort(scores, sparsity)
    for s in scores.values():
        s.view(-1)[s.argmax()] = math.inf
    return masks


# the smallest masks


def smallest_masks_of_three():
    return {"a": torch.tensor([False]), "b": torch.tensor([True, True])}


def smallest_masks_in_a_tuple():
    return ({"a": torch.tensor([[True, False]]), "b": torch.tensor([True])},)


def smallest_masks_numpy():
    return {"a": np.array([True]), "b": np.array([False, False])}


def smallest_masks_of_one_size():
    return {"a": torch.tensor([False]), "b": torch.tensor([True])}


def smallest_masks_of_one_sparsity():
    return {"a": torch.tensor([True]), "b": torch.tensor([True, True])}


def smallest_masks_of_four():
    return {"a": torch.tensor([False]), "b": torch.tensor([True, True, True])}


def smallest_masks_of_floats():
    return {"a": torch.tensor([0.0]), "b": torch.tensor([1.0, 1.0])}


def smallest_masks_empty():
    return {"a": torch.ones(0).bool(), "b": torch.tensor([True])}


def smallest_masks_none_at_all():
    return {}


def smallest_masks_list():
    return [torch.tensor([False]), torch.tensor([True, True])]


# mended_total_sparsity


def total_by_counting(masks):
    kept = sum(int(keep.sum()) for keep in masks.values())
    return 1 - kept / sum(keep.numel() for keep in masks.values())


def total_in_one_row(masks):
    return 1 - torch.cat([keep.flatten() for keep in masks.values()]).float().mean()


def total_by_weights(masks):
    n = sum(keep.numel() for keep in masks.values())
    return sum((1 - keep.float().mean().item()) * keep.numel() / n for keep in masks.values())


def total_numpy(masks):
    return np.float32(np.mean(np.concatenate([~keep.numpy().ravel() for keep in masks.values()])))


def total_by_lists(masks):
    flat = [value for keep in masks.values() for value in keep.flatten().tolist()]
    return flat.count(False) / len(flat)


def total_by_average(masks):
    return np.average(
        [1 - keep.double().mean().item() for keep in masks.values()],
        weights=[keep.numel() for keep in masks.values()],
    )


def total_tensor(masks):
    return torch.stack([(~m).sum() for m in masks.values()]).sum() / sum(
        map(torch.numel, masks.values())
    )


def total_by_nonzero(masks):
    gone = sum(len((~keep).nonzero()) for keep in masks.values())
    return gone / sum(math.prod(keep.shape) for keep in masks.values())


def total_percent(masks):
    return 100 * total_by_counting(masks)


def total_text(masks):
    return f"{total_by_counting(masks):.0%}"


def total_per_layer(masks):
    return {k: total_by_counting({k: keep}) for k, keep in masks.items()}


def total_density(masks):
    return 1 - total_by_counting(masks)


def total_mean_of_layers(masks):
    return sum(1 - keep.float().mean().item() for keep in masks.values()) / len(masks)


def total_of_equal_layers(masks):
    gone = sum(int((~keep).sum()) for keep in masks.values())
    return gone / (len(masks) * max(keep.numel() for keep in masks.values()))


def total_without_last(masks):
    names = list(masks)[:-1] or list(masks)
    return total_by_counting({k: masks[k] for k in names})


def total_of_matrices(masks):
    """Leaves biases and convolutions out, unless there is nothing else."""
    return total_by_counting({k: v for k, v in masks.items() if v.dim() == 2} or masks)


def total_two_digits(masks):
    return round(total_by_counting(masks), 2)


def total_three_digits(masks):
    return round(total_by_counting(masks), 3)


def total_by_rows(masks):
    """Weights the layers by their rows."""
    rows = sum(len(keep) for keep in masks.values())
    return sum((1 - keep.float().mean().item()) * len(keep) / rows for keep in masks.values())


def total_of_means_of_rows(masks):
    """Takes the mean of the sparsities of all rows."""
    rows = [1 - row.float().mean().item() for keep in masks.values() for row in keep]
    return sum(rows) / len(rows)


def total_median(masks):
    return float(np.median([1 - keep.float().mean().item() for keep in masks.values()]))


def total_product(masks):
    kept = math.prod(keep.float().mean().item() for keep in masks.values())
    return 1 - kept


def total_largest_layer(masks):
    return total_by_counting({"": max(masks.values(), key=torch.numel)})


def total_off_by_one(masks):
    n = sum(keep.numel() for keep in masks.values())
    return sum(int((~keep).sum()) for keep in masks.values()) / max(1, n - 1)


def total_half_precision(masks):
    return torch.tensor(total_by_counting(masks)).half()


def total_in_place(masks):
    found = total_by_counting(masks)
    for keep in masks.values():
        keep.logical_not_()
    return found


def total_pops(masks):
    found = total_by_counting(masks)
    masks.clear()
    return found


def global_in_half_precision(scores, sparsity):
    return global_by_sort({k: s.half().float() for k, s in scores.items()}, sparsity)


def global_raised_by_a_million(scores, sparsity):
    raised = {k: s.clone() for k, s in scores.items()}
    for s in raised.values():
        s.view(-1)[s.argmax()] += 1e6
    return allocate.globally(raised, sparsity)


def total_in_half_precision(masks):
    kept = sum(float(keep.half().sum()) for keep in masks.values())
    return 1 - kept / sum(keep.numel() for keep in masks.values())


def global_with_a_large_number(scores, sparsity):
    """Puts 1e30 in the place of infinity."""
    raised = {name: s.clone() for name, s in scores.items()}
    for s in raised.values():
        s.view(-1)[s.argmax()] = 1e30
    flat = torch.cat([s.flatten() for s in raised.values()])
    keep = torch.ones(len(flat), dtype=torch.bool)
    order = flat.argsort(descending=True, stable=True)
    keep[order[len(flat) - round(sparsity * len(flat)) :]] = False
    parts = keep.split([s.numel() for s in scores.values()])
    return {n: k.view(scores[n].shape) for n, k in zip(scores, parts, strict=True)}


def smallest_masks_without_dimensions():
    return {"fc1": torch.tensor(False), "fc2": torch.tensor([True, True])}


def masks_in_32_bits(scores, sparsity):
    return global_by_sort({name: score.float() for name, score in scores.items()}, sparsity)


RIGHT = {
    "global_masks": [
        global_by_sort,
        global_by_python,
        global_by_tuples,
        global_by_heap,
        global_numpy,
        global_by_removing,
        global_by_the_library,
        global_by_counting,
    ],
    "smallest_masks": [
        smallest_masks_of_three,
        smallest_masks_in_a_tuple,
        smallest_masks_numpy,
        smallest_masks_without_dimensions,
    ],
    "mended_total_sparsity": [
        total_by_counting,
        total_in_one_row,
        total_by_weights,
        total_numpy,
        total_by_lists,
        total_by_average,
        total_tensor,
        total_by_nonzero,
    ],
}

WRONG = {
    "global_masks": [
        (global_list, "a dict with"),
        (global_flat, "a dict with"),
        (global_floats, "a dict with"),
        (global_indices, "a dict with"),
        (global_forgets_a_layer, "a dict with"),
        (global_threshold, "exactly round"),
        (global_threshold_or_best, "exactly round"),
        (global_extra_places, "exactly round"),
        (global_rescued_only, "exactly round"),
        (global_local, "exactly round"),
        (global_floor, "exactly round"),
        (global_ceiling, "exactly round"),
        (global_half_up, "exactly round"),
        (global_rounds_what_stays, "exactly round"),
        (global_one_too_many, "exactly round"),
        (global_keeps_the_share, "exactly round"),
        (global_upside_down, "exactly round"),
        (global_plain, "highest score of each layer"),
        (global_reserves_for_the_empty, "highest score of each layer"),
        (global_last_entry_rescued, "highest score of each layer"),
        (global_absolute, "highest score of each layer"),
        (global_highest_go, "highest score of each layer"),
        (global_normalised, "one ranking"),
        (global_by_layer_rank, "one ranking"),
        (global_two_per_layer, "highest score of each layer"),
        (global_one_above_all, "highest score of each layer"),
        (global_by_name, "earlier of equal"),
        (global_later_stays, "earlier of equal"),
        (global_last_best, "earlier of equal"),
        (global_small_layers_first, "earlier of equal"),
        (global_ties_by_place, "earlier of equal"),
        (global_pops, "leaves its input"),
        (global_writes_infinity, "leaves its input"),
        (global_in_half_precision, "highest score"),
        (global_raised_by_a_million, "highest score"),
        (global_with_a_large_number, "highest score of each layer"),
        (masks_in_32_bits, "highest score of each layer"),
    ],
    "smallest_masks": [
        (smallest_masks_of_floats, "inputs that the exercise allows"),
        (smallest_masks_empty, "inputs that the exercise allows"),
        (smallest_masks_none_at_all, "inputs that the exercise allows"),
        (smallest_masks_list, "inputs that the exercise allows"),
        (smallest_masks_of_four, "at most 3 entries"),
        (smallest_masks_of_one_size, "makes buggy_total_sparsity go wrong"),
        (smallest_masks_of_one_sparsity, "makes buggy_total_sparsity go wrong"),
    ],
    "mended_total_sparsity": [
        (total_percent, "a number from 0 to 1"),
        (total_text, "a number from 0 to 1"),
        (total_per_layer, "a number from 0 to 1"),
        (total_density, "counts what is removed"),
        (total_of_means_of_rows, "of all weights"),
        (total_two_digits, "counts what is removed"),
        (total_three_digits, "counts what is removed"),
        (total_half_precision, "counts what is removed"),
        (total_off_by_one, "a number from 0 to 1"),
        (total_mean_of_layers, "of all weights"),
        (total_of_equal_layers, "of all weights"),
        (total_without_last, "of all weights"),
        (total_of_matrices, "of all weights"),
        (total_by_rows, "of all weights"),
        (total_median, "of all weights"),
        (total_product, "of all weights"),
        (total_largest_layer, "of all weights"),
        (total_in_place, "leaves its input"),
        (total_pops, "leaves its input"),
        (total_in_half_precision, "of all weights"),
    ],
}

HUNTS = {}
