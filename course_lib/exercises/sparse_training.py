"""The exercises of the lesson Sparse training."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import hunt, not_a_mask, pick
from course_lib.exercises.exercise import REFUSES, UNCHANGED, Exercise, Property, show

Shapes = dict[str, tuple[int, int]]


def _networks() -> Iterator[tuple[Tensor, Tensor, float, Tensor]]:
    """Weights, masks, fractions, luck; no two active weights or lucks are equal in size."""
    weight = torch.tensor([0.5, -0.25, 0.0, 2.0, -4.0, 0.0, 1.0, -3.0])
    luck = torch.tensor([0.1, 0.2, 0.9, 0.3, 0.4, 0.8, 0.7, 0.6])
    yield weight, weight != 0, 0.5, luck
    generator = torch.Generator().manual_seed(3)
    for trial in range(40):
        shape = (1 + trial // 8, pick((2, 3, 4, 6), generator))
        n = math.prod(shape)
        size = 1 + torch.randperm(n, generator=generator)
        sign = 2 * torch.randint(0, 2, (n,), generator=generator) - 1
        mask = torch.rand(n, generator=generator) < 0.7
        luck = torch.randperm(n, generator=generator) / n
        weight = torch.where(mask, size * sign / 4, 0.0)
        fraction = pick((0.0, 0.25, 0.34, 0.5, 0.75), generator)
        yield weight.view(shape), mask.view(shape), fraction, luck.view(shape)


def _drop_each_sign(weight: Tensor, mask: Tensor, fraction: float) -> Tensor:
    kept = mask.clone()
    for of_sign in (mask & (weight > 0), mask & (weight < 0)):
        places = of_sign.flatten().nonzero().flatten()
        order = places[weight.flatten()[places].abs().argsort()]
        kept.view(-1)[order[: int(fraction * len(places))]] = False
    return kept


def _wrong_total(new: Tensor, _: Tensor, mask: Tensor, *__: object) -> str | None:
    before, after = int(mask.sum()), int(new.sum())
    return None if before == after else f"{before} active weights, as before, not {after}"


def _dropped_others(new: Tensor, weight: Tensor, mask: Tensor, fraction: float, _: Tensor):
    gone = _drop_each_sign(weight, mask, fraction) & ~new
    if not gone.any():
        return None
    values = show(weight[gone])
    return f"{values} kept: of their sign they are not among the int({fraction:g} * n) smallest"


def _grown_elsewhere(new: Tensor, weight: Tensor, mask: Tensor, fraction: float, luck: Tensor):
    kept = _drop_each_sign(weight, mask, fraction)
    count = int(mask.sum() - kept.sum())
    free = (~kept).flatten().nonzero().flatten()
    best = free[luck.flatten()[free].argsort(descending=True)[:count]]
    expected = kept.clone()
    expected.view(-1)[best] = True
    return None if torch.equal(new, expected) else f"{show(expected)}"


SET_STEP = Exercise(
    name="set_step",
    signature="set_step(weight, mask, fraction, luck)",
    section="lesson Sparse training, section “Definition → code”",
    cases=_networks,
    properties=(
        Property(
            "returns a bool mask of the weight's shape",
            lambda new, weight, *_: not_a_mask(new, weight),
            "Build the new mask from mask.clone(): it has the right shape and type.",
        ),
        Property(
            "leaves as many weights active as there were",
            _wrong_total,
            "Count what you drop from each sign, add the two, and grow exactly as many.",
        ),
        Property(
            "drops nothing but the smallest of each sign",
            _dropped_others,
            "Handle the active positive and the active negative weights one after the other: each "
            "sign loses int(fraction * its own number), those closest to zero.",
        ),
        Property(
            "grows the free positions with the highest luck",
            _grown_elsewhere,
            "Free is every position that is not active after the drop, those just dropped included.",
        ),
        UNCHANGED,
    ),
)


def buggy_drop(weight: Tensor, fraction: float) -> Tensor:
    """a function that leaves nothing but the most negative weights"""
    keep = weight != 0
    inactive, half = int((~keep).sum()), math.ceil(fraction * int(keep.sum()) / 2)
    keep[weight.abs().argsort()[: inactive + half]] = False
    keep[weight.argsort()[half:]] = False
    return keep


def weak_drop_test(drop) -> bool:
    """The test that every wrong drop of the bug hunt passes: the smallest weight goes."""
    keep = drop(torch.tensor([1.0, 2.0, -3.0, -4.0]), 0.5)
    return not keep[0]


def _drop_by_sort(weight, fraction):
    """a correct function that sorts each sign"""
    return _drop_each_sign(weight, weight != 0, fraction)


def _drop_by_rank(weight, fraction):
    """a correct function that counts how many of its sign are smaller"""
    same = torch.sign(weight)[:, None] == torch.sign(weight)[None]
    smaller = (same & (weight.abs()[None] < weight.abs()[:, None])).sum(1)
    return (weight != 0) & (smaller >= (fraction * same.sum(1)).long())


def _drop_by_list(weight, fraction):
    """a correct function that works with lists"""
    values, gone = weight.tolist(), []
    for sign in (1, -1):
        mine = sorted((abs(v), i) for i, v in enumerate(values) if v * sign > 0)
        gone += [i for _, i in mine[: int(fraction * len(mine))]]
    return torch.tensor([v != 0 and i not in gone for i, v in enumerate(values)])


def _drop_by_magnitude(weight, fraction):
    """a function that ranks both signs together"""
    keep = weight != 0
    count = sum(int(fraction * int((weight * sign > 0).sum())) for sign in (1, -1))
    keep[weight.abs().argsort()[int((~keep).sum()) :][:count]] = False
    return keep


def _drop_most_negative(weight, fraction):
    """a function that drops the negative weights furthest from zero"""
    keep = _drop_each_sign(weight.clamp(min=0), weight > 0, fraction) | (weight < 0)
    keep[weight.argsort()[: int(fraction * int((weight < 0).sum()))]] = False
    return keep


def _drop_positive(weight, fraction):
    """a function that never drops a negative weight"""
    return _drop_each_sign(weight, weight > 0, fraction) | (weight < 0)


def _drop_of_all(weight, fraction):
    """a function that takes its fraction of all positions, the inactive ones too"""
    n = weight.numel() / max(int((weight != 0).sum()), 1)
    return _drop_each_sign(weight, weight != 0, min(1.0, fraction * n))


def _drop_revives(weight, fraction):
    """a function whose mask is True at inactive positions"""
    return _drop_by_sort(weight, fraction) | (weight == 0)


def _drop_in_place(weight, fraction):
    """a function that also sets the dropped weights to zero in the tensor it was given"""
    keep = _drop_by_sort(weight, fraction)
    weight[~keep] = 0
    return keep


KILLS_WRONG_DROPS = hunt(
    name="kills_wrong_drops",
    signature="is_set_drop(drop)",
    section="lesson Sparse training, section “Definition → code”",
    right=(_drop_by_sort, _drop_by_rank, _drop_by_list),
    alarm="Each sign loses int(fraction * its own number) of its weights, those closest to zero; "
    "inactive weights are zero and stay inactive. Compute one mask by hand.",
    wrong={
        buggy_drop: "Count what is left: of four weights it may be right by accident, so take ten.",
        _drop_by_magnitude: "Make all negative weights larger in size than all positive ones.",
        _drop_most_negative: "Look at which negative weights are left, not only at how many.",
        _drop_positive: "Count the negative weights before and after.",
        _drop_of_all: "Have some zeros in the weight: they are inactive and do not count.",
        _drop_revives: "Have some zeros in the weight, and look at the mask there.",
        _drop_in_place: "Compare the weight that you passed in with a copy made before.",
    },
)


def _size(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes.values()))


def _budgets() -> Iterator[tuple[Shapes, int]]:
    mlp = {"fc1": (100, 196), "fc2": (50, 100), "fc3": (10, 50)}
    yield mlp, 2510
    yield mlp, 502
    yield {"a": (4, 6)}, 10
    yield {"a": (4, 6), "b": (2, 2)}, 26  # b is full
    yield {"a": (4, 6), "b": (2, 2)}, 28
    yield {"a": (4, 6), "b": (2, 2)}, 29
    yield mlp, 0
    yield mlp, -1
    generator = torch.Generator().manual_seed(4)
    for _ in range(30):
        sides = torch.randint(1, 40, (4,), generator=generator).tolist()
        shapes = {f"fc{i}": (sides[i], sides[i - 1]) for i in range(1, pick((2, 3, 4), generator))}
        yield shapes, int(pick((0.05, 0.1, 0.3, 0.7, 0.95, 1.0), generator) * _size(shapes))
    yield {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}, 26_620


def _water(shapes: Shapes, budget: int) -> dict[str, float]:
    """min(size, ε (n_out + n_in)) with ε by bisection."""
    low, high = 0.0, float(_size(shapes))
    for _ in range(200):
        eps = (low + high) / 2
        filled = sum(min(math.prod(s), eps * sum(s)) for s in shapes.values())
        low, high = (eps, high) if filled < budget else (low, eps)
    return {n: min(math.prod(s), high * sum(s)) for n, s in shapes.items()}


def _no_counts(counts: object, shapes: Shapes, _: int) -> str | None:
    if type(counts) is not dict or counts.keys() != shapes.keys():
        return f"a dict with the keys {list(shapes)}, got {show(counts)}"
    ints = all(type(n) is int and n >= 0 for n in counts.values())
    return None if ints else f"whole numbers from 0 on, got {show(counts)}"


def _overfull(counts: dict[str, int], shapes: Shapes, _: int) -> str | None:
    for name, shape in shapes.items():
        if counts[name] > math.prod(shape):
            return f"at most {math.prod(shape)} weights in {name}, not {counts[name]}"
    return None


def _not_by_units(counts: dict[str, int], shapes: Shapes, budget: int) -> str | None:
    for name, expected in _water(shapes, budget).items():
        if abs(counts[name] - expected) >= 1 + 1e-6:
            return f"{expected:.1f} in {name}, to the next whole number; here {counts[name]}"
    return None


ALLOCATE = Exercise(
    name="layer_counts",
    signature="layer_counts(shapes, budget)",
    section="lesson Sparse training, exercise C; lesson Prune rate, section “Definition → code”",
    cases=_budgets,
    refuses=lambda shapes, budget: not 0 <= budget <= _size(shapes),
    properties=(
        Property(
            "returns one whole number a layer, by name",
            _no_counts,
            "Build a dict over the names of shapes; int(...) or math.floor make whole numbers.",
        ),
        Property(
            "spends the whole budget and no more",
            lambda counts, _, budget: (
                None
                if sum(counts.values()) == budget
                else f"{budget} weights in all, not {sum(counts.values())}"
            ),
            "Round all layers down, then give one more to those with the largest remainders until "
            "the budget is spent. And what a full layer cannot take goes to the others.",
        ),
        Property(
            "gives no layer more weights than it has",
            _overfull,
            "A layer whose share is above its size is filled; take it out, with its weights, and "
            "share the rest among the others anew. That may fill another one.",
        ),
        Property(
            "shares by units, to the next whole number, among the layers that are not full",
            _not_by_units,
            "A layer joins n_in + n_out units. The ratio of weights to units is the same in all "
            "layers that are not full.",
        ),
        REFUSES,
    ),
)

EXERCISES = (SET_STEP, KILLS_WRONG_DROPS, ALLOCATE)
