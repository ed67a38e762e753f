"""The exercises that `check` knows, by lesson.

Each is an `Exercise`: its cases and its properties, from the returned type to the finest point.
Values of small cases are multiples of 1/4, so that ties occur and counterexamples are short.
"""

import math
from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor

from course_lib.grading.checks import REFUSES, UNCHANGED, Exercise, Property, show

SPARSITIES = (0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.75, 0.9, 1.0)


def _draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A small tensor of quarters between -1 and 1, so ties are common."""
    return torch.randint(-4, 5, shape, generator=generator) / 4


def _pick(options: int | tuple, generator: torch.Generator):
    """One of the options, or a number from 1 to `options`."""
    options = tuple(range(1, options + 1)) if isinstance(options, int) else options
    return options[int(torch.randint(len(options), (), generator=generator))]


def _kind(value: object) -> str:
    """The type's name as an import would write it: bool, numpy.bool, torch.Tensor."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _number(says: str) -> Property:
    """The answer is a plain number from 0 to 1."""

    def demand(returned, *_):
        if isinstance(returned, bool) or not isinstance(returned, int | float):
            return f"a float, got {_kind(returned)}"
        return None if 0 <= returned <= 1 else "a number from 0 to 1"

    return Property(
        says, demand, "A sparsity is the fraction that goes: 0 keeps everything, 1 keeps nothing."
    )


# What a mask has to be, for `magnitude_mask` and `global_masks` alike. `score` and `keep` are flat.


def _not_a_mask(returned: object, like: Tensor) -> str | None:
    wanted = f"a torch.bool tensor of shape {tuple(like.shape)}"
    if type(returned) is not Tensor:
        return f"{wanted}, got {_kind(returned)}"
    if returned.dtype != torch.bool or returned.shape != like.shape:
        return f"{wanted}, got {returned.dtype} of shape {tuple(returned.shape)}"
    if (returned.layout, returned.device) != (like.layout, like.device):
        return f"{wanted}, dense and on {like.device}; got {returned.layout} on {returned.device}"
    return None


def _wrong_count(keep: Tensor, sparsity: float) -> str | None:
    n, removed = keep.numel(), int((~keep).sum())
    count = round(sparsity * n)
    if removed == count:
        return None
    upside_down = " (True means keep: is the mask upside down?)" if n - removed == count else ""
    return f"round({sparsity:g} * {n}) = {count} of {n} weights removed, not {removed}{upside_down}"


def _larger_gone(score: Tensor, keep: Tensor, what: str) -> str | None:
    if keep.all() or not keep.any() or score[~keep].max() <= score[keep].min():
        return None
    gone, kept = score[~keep].max(), score[keep].min()
    return f"no {what} removed that is above a kept one; here {gone:g} goes and {kept:g} stays"


def _later_kept(score: Tensor, keep: Tensor, what: str) -> str | None:
    if keep.all() or not keep.any():
        return None
    tied = keep[score == score[~keep].max()].int()  # those at the cut, in order
    if (tied.diff() <= 0).all():
        return None
    return f"the earlier of equal {what}s kept; here an earlier one goes and a later one stays"


COUNT_HINT = (
    "Comparing with a threshold removes all weights that are tied with it, or none of them. "
    "Count first, with Python's round, then choose that many positions."
)
TIE_HINT = (
    "Number the positions row by row. If you sort, ask for a sort that leaves equal entries in "
    "their order, and check from which end of it you remove."
)

# Lesson "criteria"


def _magnitude_cases() -> Iterator[tuple[Tensor, float]]:
    for weight, sparsity in (
        ([1.0, -2.0], 0.5),
        ([5.0], 1.0),
        ([1.0, 1.0], 0.5),
        ([2.0, 1.0], 0.0),
        ([5.0], 0.5),
        ([0.0, 0.0, 0.0], 0.3),
        ([0.5, -0.5, 0.5, 0.25], 0.5),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.5),
        ([[0.0, 0.0, 0.0], [0.0, 0.0, -0.5]], 0.1),
        ([[[[-3.0, -1.0, -2.0]]], [[[2.0, 1.0, 3.0]]]], 0.75),
    ):
        yield torch.tensor(weight), sparsity
    generator = torch.Generator().manual_seed(0)
    for dims in (1, 2, 3, 4) * 12:
        shape = tuple(_pick(3, generator) for _ in range(dims))
        yield _draw(shape, generator), _pick(SPARSITIES, generator)
    yield torch.randn(300, 100, generator=generator), 0.9
    yield _draw((32, 16, 5, 5), generator), 0.7


MAGNITUDE_MASK = Exercise(
    name="magnitude_mask",
    signature="magnitude_mask(weight, sparsity)",
    section="lesson Criteria, section “Definition → code”",
    cases=_magnitude_cases,
    properties=(
        Property(
            "returns a torch.bool tensor of the weight's shape",
            lambda mask, weight, sparsity: _not_a_mask(mask, weight),
            "A comparison of tensors gives torch.bool; a mask made on the flat weight is brought "
            "back to its form by reshape(weight.shape).",
        ),
        Property(
            "removes exactly round(sparsity * n) weights",
            lambda mask, weight, sparsity: _wrong_count(mask.flatten(), sparsity),
            COUNT_HINT,
        ),
        Property(
            "removes the weights with the smallest magnitude",
            lambda mask, weight, sparsity: _larger_gone(
                weight.abs().flatten(), mask.flatten(), "magnitude"
            ),
            "Magnitude is the distance from zero, so -2 is larger than 1; and True means keep.",
        ),
        Property(
            "keeps the earlier of equal magnitudes",
            lambda mask, weight, sparsity: _later_kept(
                weight.abs().flatten(), mask.flatten(), "magnitude"
            ),
            TIE_HINT,
        ),
        UNCHANGED,
    ),
)


def _hunt(
    right: tuple[Callable, ...], alarm: str, wrong: dict[Callable, str]
) -> tuple[Callable[[], Iterator[tuple]], tuple[Property, ...]]:
    """The cases and properties of a bug hunt, where the answer is a test of other functions.

    The test must say True to every function of `right` (`alarm` is the hint if it does not) and
    False to every one of `wrong`, which maps each to its hint. Docstrings say what they do.
    """

    def expects(verdict: bool, candidate: Callable, hint: str) -> Property:
        def demand(returned, tested):
            if tested is not candidate or returned is verdict:
                return None
            return f"{verdict}: your test {'refuses' if verdict else 'accepts'} {tested.__doc__}"

        verb = "accepts" if verdict else "refuses"
        return Property(f"{verb} {candidate.__doc__}", demand, hint)

    properties = (
        Property(
            "answers True or False",
            lambda returned, _: (
                None if type(returned) is bool else f"True or False, got {_kind(returned)}"
            ),
            "Let every path through your function end in a return. A tensor or array with one "
            "entry becomes True or False by bool(...).",
        ),
        *(expects(True, candidate, alarm) for candidate in right),
        *(expects(False, candidate, hint) for candidate, hint in wrong.items()),
    )
    return lambda: ((candidate,) for candidate in (*right, *wrong)), properties


def buggy_magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """a function that compares with a threshold and so removes all weights tied with it"""
    count = round(sparsity * weight.numel())
    if count == 0:
        return torch.ones_like(weight, dtype=torch.bool)
    threshold = weight.abs().flatten().kthvalue(count).values
    return weight.abs() > threshold


def weak_mask_test(mask_fn: Callable[[Tensor, float], Tensor]) -> bool:
    """The test that every wrong mask function of the bug hunt passes."""
    weight = torch.linspace(0.01, 1.0, 100)
    keep = mask_fn(weight, 0.9)
    large_stay = weight[keep].min() > weight[~keep].max()
    about_ten_percent = abs(keep.float().mean() - 0.1) < 0.02
    return bool(large_stay and about_ten_percent)


def _lowest_removed(score: Tensor, count: int) -> Tensor:
    """True but for the `count` lowest entries, the later ones among equals."""
    keep = torch.ones(score.numel(), dtype=torch.bool)
    keep[torch.argsort(score.flatten(), descending=True, stable=True)[keep.numel() - count :]] = 0
    return keep.reshape(score.shape)


def _mask_by_stable_sort(weight, sparsity):
    """a correct function that sorts the magnitudes"""
    return _lowest_removed(weight.abs(), round(sparsity * weight.numel()))


def _mask_by_python(weight, sparsity):
    """a correct function that works on Python lists"""
    size = [abs(value) for value in weight.flatten().tolist()]
    order = sorted(range(len(size)), key=lambda i: (size[i], -i))
    gone = set(order[: round(sparsity * len(size))])
    return torch.tensor([i not in gone for i in range(len(size))]).reshape(weight.shape)


def _mask_by_threshold_and_fill(weight, sparsity):
    """a correct function that compares with a threshold and then shares out the ties"""
    size = weight.abs().flatten()
    places = size.numel() - round(sparsity * size.numel())
    if places == 0:
        return torch.zeros_like(weight, dtype=torch.bool)
    cut = size.sort(descending=True).values[places - 1]
    above, tied = size > cut, size == cut
    return (above | (tied & (tied.cumsum(0) <= places - above.sum()))).reshape(weight.shape)


def _mask_one_too_many(weight, sparsity):
    """a function that removes one weight too many"""
    count = round(sparsity * weight.numel())
    return _lowest_removed(weight.abs(), min(count + 1, weight.numel()))


def _mask_by_quantile(weight, sparsity):
    """a function that cuts at the quantile, which goes wrong when magnitudes are equal"""
    size = weight.abs().float()
    return size > size.quantile(sparsity)


def _mask_signed(weight, sparsity):
    """a function that forgets the absolute value and so removes the most negative weights"""
    return _lowest_removed(weight, round(sparsity * weight.numel()))


def _mask_rounded_up(weight, sparsity):
    """a function that rounds the number of weights up"""
    return _lowest_removed(weight.abs(), math.ceil(sparsity * weight.numel() - 1e-9))


def _mask_rounded_down(weight, sparsity):
    """a function that rounds the number of weights down"""
    return _lowest_removed(weight.abs(), int(sparsity * weight.numel() + 1e-9))


def _mask_in_place(weight, sparsity):
    """a function that also sets the removed weights to zero in the tensor it was given"""
    keep = _mask_by_stable_sort(weight, sparsity)
    weight.detach()[~keep] = 0
    return keep


def _mask_nothing_is_everything(weight, sparsity):
    """a function that removes everything at sparsity 0"""
    count = round(sparsity * weight.numel())
    return _lowest_removed(weight.abs(), count if count else weight.numel())


_MASK_ALARM = (
    "A false alarm. It removes exactly round(sparsity * n) weights (Python's round: 2.5 becomes 2), "
    "the smallest, and among equals the later ones: which line of your test asks for more?"
)

_MASK_CASES, _MASK_VERDICTS = _hunt(
    right=(_mask_by_stable_sort, _mask_by_python, _mask_by_threshold_and_fill),
    alarm=_MASK_ALARM,
    wrong={
        buggy_magnitude_mask: "When does a threshold hit more weights than it should? "
        "Try a weight with many equal magnitudes, and count.",
        _mask_one_too_many: "“About as many” is not a count: compare with round(sparsity * n).",
        _mask_by_quantile: "Try magnitudes that are all equal: how many are above their quantile?",
        _mask_signed: "Your weights should look like a layer's: try negative ones as well.",
        _mask_rounded_up: "Try a sparsity at which sparsity * n lies a little above a "
        "whole number.",
        _mask_rounded_down: "Try a sparsity at which sparsity * n lies a little below a "
        "whole number.",
        _mask_in_place: "A function has effects beside its result: "
        "compare the weight after the call with a copy from before it.",
        _mask_nothing_is_everything: "Try the ends of the range of sparsity as well.",
    },
)

KILLS_WRONG_MASKS = Exercise(
    name="kills_wrong_masks",
    signature="is_magnitude_mask(mask_fn)",
    section="lesson Criteria, section “Definition → code”, the tie rule",
    cases=_MASK_CASES,
    properties=_MASK_VERDICTS,
)


def _csr_bytes(shape: tuple[int, int], kept: int) -> int:
    """Bytes of a CSR matrix: float32 values and int32 columns, and int32 row pointers."""
    return 4 * kept + 4 * kept + 4 * (shape[0] + 1)


def _budget_cases() -> Iterator[tuple[tuple[int, int], int]]:
    yield from (
        ((2, 4), 44),
        ((1, 1), 16),
        ((1, 1), 8),
        ((1, 1), 7),
        ((2, 3), 11),
        ((2, 3), 12),
        ((2, 3), 19),
        ((2, 3), 59),
        ((2, 3), 60),
        ((2, 3), 10_000),
        ((3, 2), 39),
        ((1, 8), 48),
        ((8, 1), 48),
    )
    for shape in product((1, 2, 3), (1, 2, 4)):
        yield from ((shape, budget) for budget in range(4, _csr_bytes(shape, 12), 9))
    yield from (((300, 784), 200_000), ((784, 300), 1_000_000), ((4096, 4096), 30_000_001))


def _removed(sparsity: float, shape: tuple[int, int]) -> int:
    return round(sparsity * shape[0] * shape[1])


def _no_whole_weight(sparsity: float, shape: tuple[int, int], _: int) -> str | None:
    n = shape[0] * shape[1]
    if abs(sparsity * n - _removed(sparsity, shape)) < 1e-6:
        return None
    return f"a multiple of 1/{n}; here {sparsity * n:g} of {n} weights would go"


def _does_not_fit(sparsity: float, shape: tuple[int, int], budget: int) -> str | None:
    kept = shape[0] * shape[1] - _removed(sparsity, shape)
    needed = _csr_bytes(shape, kept)
    if needed <= budget:
        return None
    return f"at most {budget} bytes; with {kept} weights it has {needed}"


def _not_the_smallest(sparsity: float, shape: tuple[int, int], budget: int) -> str | None:
    kept = shape[0] * shape[1] - _removed(sparsity, shape)
    if kept == shape[0] * shape[1] or _csr_bytes(shape, kept + 1) > budget:
        return None
    return (
        f"as many weights as fit; with {kept + 1} instead of {kept} the matrix "
        f"has {_csr_bytes(shape, kept + 1)} bytes, within {budget}"
    )


SPARSITY_FOR = Exercise(
    name="sparsity_for",
    signature="sparsity_for(shape, budget)",
    section="lesson Criteria, section “What did it save?”",
    cases=_budget_cases,
    refuses=lambda shape, budget: budget < _csr_bytes(shape, 0),
    properties=(
        _number("returns a number from 0 to 1"),
        Property(
            "removes a whole number of weights",
            _no_whole_weight,
            "Work out first, in whole numbers, how many weights may stay (// divides without a "
            "remainder); make a fraction of it only at the end.",
        ),
        Property(
            "fits the matrix into the budget",
            _does_not_fit,
            "Write down the three arrays of CSR and how long each is. Which grow with the kept "
            "weights, and which one has one entry more than there are rows?",
        ),
        Property(
            "removes no more than it has to",
            _not_the_smallest,
            "Every entry of the three arrays takes 4 bytes. Are you counting one that is not "
            "stored, or rounding in the wrong direction?",
        ),
        REFUSES,
    ),
)

# Lesson "prune-rate"


def _global_cases() -> Iterator[tuple[dict[str, Tensor], float]]:
    for scores, sparsity in (
        ({"fc1": [1.0, 3.0], "fc2": [2.0]}, 0.5),
        ({"fc1": [1.0, 2.0], "fc2": [3.0, 4.0]}, 0.5),
        ({"fc1": [1.0, 2.0, 3.0]}, 0.3),
        ({"fc1": [1.0], "fc2": [1.0]}, 0.5),
        ({"out": [1.0], "fc": [1.0]}, 0.5),
        ({"fc1": [-3.0, 1.0], "fc2": [2.0]}, 0.3),
        ({"fc1": [2.0, 1.0], "fc2": [3.0]}, 0.0),
        ({"fc1": [2.0, 1.0], "fc2": [3.0]}, 1.0),
        ({"fc1": [0.0, 0.0, 0.0], "fc2": [[0.0, 0.0]]}, 0.5),
        ({"conv": [[[[1.0, 0.5]]]], "fc": [[0.5, 0.25], [0.5, 2.0]]}, 0.5),
    ):
        yield {name: torch.tensor(score) for name, score in scores.items()}, sparsity
    generator = torch.Generator().manual_seed(1)
    for layers in (1, 2, 3) * 12:
        yield _random_layers(layers, generator), _pick(SPARSITIES, generator)
    shapes = {"fc1.weight": (100, 50), "fc2.weight": (50, 100), "head.weight": (10, 50)}
    yield {k: torch.randn(shape, generator=generator) for k, shape in shapes.items()}, 0.9
    yield {k: _draw(shape, generator) for k, shape in shapes.items()}, 0.7


def _random_layers(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Layers of different sizes whose order is not that of their names."""
    names = ("fc2", "conv", "fc1")[:count]
    shapes = [[_pick(3, generator) for _ in range(_pick(2, generator))] for _ in names]
    return {name: _draw(tuple(shape), generator) for name, shape in zip(names, shapes, strict=True)}


def _not_masks(returned: object, scores: dict[str, Tensor], _: float) -> str | None:
    if type(returned) is not dict:
        return f"a dict of masks, got {_kind(returned)}"
    if set(returned) != set(scores):
        return f"the keys {', '.join(scores)}; here they are {show(list(returned))}"
    for name, score in scores.items():
        if problem := _not_a_mask(returned[name], score):
            return f"for {name}: {problem}"
    return None


def _flat(tensors: dict[str, Tensor], order: dict[str, Tensor]) -> Tensor:
    """All entries in one row, layer after layer in the order of `order`."""
    return torch.cat([tensors[name].flatten() for name in order])


GLOBAL_MASKS = Exercise(
    name="global_masks",
    signature="global_masks(scores, sparsity)",
    section="lesson Prune rate, section “Definition → code”",
    cases=_global_cases,
    properties=(
        Property(
            "returns a dict with a torch.bool mask for every score, of its shape",
            _not_masks,
            "Build the answer as {name: ... for name, score in scores.items()}; each mask has the "
            "shape of its score.",
        ),
        Property(
            "removes exactly round(sparsity * n) weights of all layers together",
            lambda masks, scores, sparsity: _wrong_count(_flat(masks, scores), sparsity),
            "n counts the entries of all layers together, and round is used once. " + COUNT_HINT,
        ),
        Property(
            "removes the lowest scores, whatever layer they are in",
            lambda masks, scores, sparsity: _larger_gone(
                _flat(scores, scores), _flat(masks, scores), "score"
            ),
            "All layers stand in one ranking, even if one of them loses every weight. A score is "
            "taken as it is, with its sign; higher means keep.",
        ),
        Property(
            "keeps the earlier of equal scores, layer by layer, then row by row",
            lambda masks, scores, sparsity: _later_kept(
                _flat(scores, scores), _flat(masks, scores), "score"
            ),
            "Layers count in the order of the dict, not of their names. " + TIE_HINT,
        ),
        UNCHANGED,
    ),
)


def buggy_total_sparsity(masks: dict[str, Tensor]) -> float:
    """a function that takes the mean of the layers' sparsities, whatever their sizes"""
    layers = [1 - keep.float().mean().item() for keep in masks.values()]
    return sum(layers) / len(layers)


def weak_sparsity_test(fn: Callable[[dict[str, Tensor]], float]) -> bool:
    """The test that every wrong function of the bug hunt passes."""
    half = torch.tensor([[True, False], [False, True]])
    return fn({"fc1.weight": half, "fc2.weight": half}) == 0.5


def _counts(masks: dict[str, Tensor]) -> list[tuple[int, int]]:
    """(removed, all) of each layer."""
    return [(int((keep == 0).sum()), keep.numel()) for keep in masks.values()]


def _sparsity_by_counting(masks):
    """a correct function that counts"""
    removed, total = map(sum, zip(*_counts(masks), strict=True))
    return removed / total


def _sparsity_by_float32(masks):
    """a correct function that averages in float32 (about seven digits)"""
    return float((_flat(masks, masks) == 0).float().mean())


def _sparsity_by_weighted_mean(masks):
    """a correct function that weights every layer's sparsity by the layer's size"""
    counts = _counts(masks)
    total = sum(n for _, n in counts)
    return sum((removed / n) * (n / total) for removed, n in counts)


def _sparsity_density(masks):
    """a function that returns the fraction that is kept"""
    return 1 - _sparsity_by_counting(masks)


def _sparsity_of_equal_layers(masks):
    """a function that takes every layer to be as large as the largest"""
    counts = _counts(masks)
    return sum(removed for removed, _ in counts) / (len(counts) * max(n for _, n in counts))


def _sparsity_without_last(masks):
    """a function that leaves out the last layer"""
    counts = _counts(masks)[:-1] or [(0, 1)]
    return sum(removed for removed, _ in counts) / sum(n for _, n in counts)


def _sparsity_two_digits(masks):
    """a function that rounds to two digits"""
    return round(_sparsity_by_counting(masks), 2)


def _sparsity_of_matrices(masks):
    """a function that leaves out everything that is not a matrix, convolutions too"""
    matrices = {name: keep for name, keep in masks.items() if keep.dim() == 2}
    return _sparsity_by_counting(matrices) if matrices else 0.0


_SPARSITY_ALARM = (
    "A false alarm. Work out by hand what your test expects: the number of removed weights over "
    "the number of all. Fractions in floating point are compared with a tolerance: "
    "abs(a - b) < 1e-6."
)

_SPARSITY_CASES, _SPARSITY_VERDICTS = _hunt(
    right=(_sparsity_by_counting, _sparsity_by_weighted_mean, _sparsity_by_float32),
    alarm=_SPARSITY_ALARM,
    wrong={
        buggy_total_sparsity: "Try one large and one small layer with different sparsities, "
        "small enough to count by hand.",
        _sparsity_density: "At one half, removed and kept are the same number: "
        "try another sparsity.",
        _sparsity_of_equal_layers: "Try layers of different sizes.",
        _sparsity_without_last: "Give every layer a sparsity of its own, the last one too.",
        _sparsity_two_digits: "Is your tolerance smaller than one weight? Try a sparsity with "
        "many digits, such as 1/3.",
        _sparsity_of_matrices: "Not every layer is a matrix: a convolution has four dimensions.",
    },
)

KILLS_WRONG_SPARSITIES = Exercise(
    name="kills_wrong_sparsities",
    signature="is_total_sparsity(fn)",
    section="lesson Prune rate, section “Definition → code”",
    cases=_SPARSITY_CASES,
    properties=_SPARSITY_VERDICTS,
)


def _per_round_cases() -> Iterator[tuple[float, int]]:
    yield from ((0.9, 2), (0.75, 1), (0.75, 2), (0.0, 3), (1.0, 1), (1.0, 4), (0.5, 1))
    yield from product((0.1, 0.36, 0.5, 0.8, 0.95, 0.99), (1, 2, 3, 5, 10, 20))
    yield 0.999, 1000


def _gone(share: float, rounds: int) -> float:
    """The fraction of all weights that is gone after removing `share` of the rest each round."""
    return 1 - (1 - share) ** rounds


def _misses_target(share: float, target: float, rounds: int) -> str | None:
    gone = _gone(share, rounds)
    if abs(gone - target) < 1e-6:
        return None
    return (
        f"{target:g} of all weights gone after {rounds} round{'s' * (rounds > 1)}; removing "
        f"{share:g} of what remains each time leaves {gone:.6g} gone"
    )


PER_ROUND = Exercise(
    name="per_round",
    signature="per_round(target, rounds)",
    section="lesson Prune rate, section “Definition → code”, schedules",
    cases=_per_round_cases,
    properties=(
        _number("returns a number from 0 to 1"),
        Property(
            "removes the whole target when there is one round",
            lambda share, target, rounds: (
                None if rounds > 1 else _misses_target(share, target, rounds)
            ),
            "Which fraction did you return, the one that goes or the one that stays?",
        ),
        Property(
            "reaches the target after all rounds",
            _misses_target,
            "Each round works on what the last one left. Follow the fraction that *stays*: after "
            "one round, after two, after all of them.",
        ),
    ),
)

# Lesson "history"


def _quadratics() -> Iterator[tuple[Tensor, Tensor]]:
    """Hessians with their weights: symmetric, positive definite, no weight zero."""
    for hessian, weights in (
        ([[2.0, 0.0], [0.0, 4.0]], [1.0, -2.0]),
        ([[3.0]], [2.0]),
        ([[1.0, 0.0], [0.0, 1.0]], [-0.5, 2.0]),
        ([[8.0, 0.0], [0.0, 0.5]], [1.0, 3.0]),
        ([[2.0, 1.0], [1.0, 2.0]], [1.0, -2.0]),
        ([[4.0, 3.0], [3.0, 4.0]], [2.0, 1.5]),
        ([[4.0, 3.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 0.5]], [2.0, -1.0, 1.5]),
    ):
        yield torch.tensor(hessian).double(), torch.tensor(weights).double()
    generator = torch.Generator().manual_seed(2)
    for n in (2, 3, 4) * 6:
        yield _quadratic(n, generator)
    yield _quadratic(60, generator)


def _quadratic(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    factor = _draw((n, n), generator).double()
    weights = _draw((n,), generator).double()
    weights = weights + torch.where(weights < 0, -0.125, 0.125)  # none is zero
    return factor @ factor.T + 0.25 * torch.eye(n).double(), weights


def _no_tensor(returned: object, hessian: Tensor, weights: Tensor) -> str | None:
    wanted = f"a tensor of {len(weights)} floating-point numbers"
    if not isinstance(returned, Tensor):
        return f"{wanted}, got {_kind(returned)}"
    if returned.shape != weights.shape or not returned.is_floating_point():
        return f"{wanted}, got {returned.dtype} of shape {tuple(returned.shape)}"
    return None if returned.isfinite().all() else f"{wanted}, all of them finite"


def _differs(returned: Tensor, expected: Tensor) -> bool:
    return not torch.allclose(returned.detach().double(), expected, rtol=1e-5, atol=1e-7)


def _wrong_obd(score: Tensor, hessian: Tensor, weights: Tensor) -> str | None:
    expected = hessian.diagonal() * weights**2 / 2
    return f"{show(expected)}" if _differs(score, expected) else None


def _is_diagonal(hessian: Tensor) -> bool:
    return torch.equal(hessian, hessian.diagonal().diag())


_TENSOR = Property(
    "returns a tensor with one number for each weight",
    _no_tensor,
    "The answer has the shape of the weights. A matrix's diagonal is hessian.diagonal().",
)

OBD_SALIENCY = Exercise(
    name="obd_saliency",
    signature="obd_saliency(hessian, weights)",
    section="lesson History, section “Definition → code”",
    cases=_quadratics,
    properties=(
        _TENSOR,
        Property(
            "is the change of the loss when the Hessian is diagonal",
            lambda score, hessian, weights: (
                _wrong_obd(score, hessian, weights) if _is_diagonal(hessian) else None
            ),
            "Write down the second-order term of the Taylor series for one weight that moves from w "
            "to 0: a half, the second derivative, and the square of the step.",
        ),
        Property(
            "looks at nothing but the diagonal of any other Hessian",
            _wrong_obd,
            "OBD leaves the mixed derivatives out, and leaves the other weights where they are. "
            "Entry k of the answer needs hessian[k, k] and weights[k], nothing else.",
        ),
        UNCHANGED,
    ),
)


def buggy_obs_saliency(hessian: Tensor, weights: Tensor) -> Tensor:
    """a function that inverts the diagonal where it should take the diagonal of the inverse"""
    inverse_diagonal = 1 / hessian.diagonal()
    return weights**2 / (2 * inverse_diagonal)


def weak_saliency_test(fn: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """The test that every wrong saliency of the bug hunt passes."""
    weights = torch.tensor([3.0, 1.0, 2.0])
    return int(fn(torch.eye(3), weights).argmin()) == 1


def _saliency_by_inverse(hessian, weights):
    """a correct function that inverts the Hessian"""
    return weights**2 / (2 * torch.linalg.inv(hessian).diagonal())


def _saliency_by_cholesky(hessian, weights):
    """a correct function that inverts by Cholesky's factor"""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return weights.square() / inverse.diagonal() / 2


def _saliency_by_elimination(hessian, weights):
    """a correct function that eliminates the other weights, one weight at a time"""
    found = []
    for q in range(len(weights)):
        rest = [k for k in range(len(weights)) if k != q]
        block, row = hessian[rest][:, rest], hessian[q, rest]
        curvature = hessian[q, q] - row @ torch.linalg.solve(block, row)
        found.append(curvature * weights[q] ** 2 / 2)
    return torch.stack(found)


def _saliency_without_half(hessian, weights):
    """a function that forgets the factor one half"""
    return 2 * _saliency_by_inverse(hessian, weights)


def _saliency_times_inverse(hessian, weights):
    """a function that multiplies by the inverse's diagonal where it should divide"""
    return weights**2 * torch.linalg.inv(hessian).diagonal() / 2


def _saliency_signed(hessian, weights):
    """a function that forgets to square the weight"""
    return weights / (2 * torch.linalg.inv(hessian).diagonal())


def _saliency_row_sums(hessian, weights):
    """a function that takes the row sums of the inverse for its diagonal"""
    return weights**2 / (2 * torch.linalg.inv(hessian).sum(1))


def _saliency_in_place(hessian, weights):
    """a function that also squares the weights in the tensor it was given"""
    found = _saliency_by_inverse(hessian, weights)
    weights.square_()
    return found


_SALIENCY_CASES, _SALIENCY_VERDICTS = _hunt(
    right=(_saliency_by_inverse, _saliency_by_cholesky, _saliency_by_elimination),
    alarm="A false alarm. Floating-point numbers are compared with a tolerance (torch.allclose), and "
    "a Hessian at a minimum is symmetric and positive definite: is yours?",
    wrong={
        buggy_obs_saliency: "For which Hessians are the diagonal of the inverse and the inverse of "
        "the diagonal the same? Try another.",
        _saliency_without_half: "The order is right; are the numbers? Compare values with a case "
        "that you work out by hand.",
        _saliency_times_inverse: "Where the inverse's diagonal is 1 this cannot be seen.",
        _saliency_signed: "Try a negative weight, and one that is not 1.",
        _saliency_row_sums: "For a diagonal Hessian row sums and diagonal are the same.",
        _saliency_in_place: "A function has effects beside its result: compare the weights after the "
        "call with a copy from before it.",
    },
)

KILLS_WRONG_SALIENCIES = Exercise(
    name="kills_wrong_saliencies",
    signature="is_obs_saliency(fn)",
    section="lesson History, section “Definition → code”, Optimal Brain Surgeon",
    cases=_SALIENCY_CASES,
    properties=_SALIENCY_VERDICTS,
)


def _deletion_cases() -> Iterator[tuple[Tensor, Tensor]]:
    yield from _quadratics()
    for hessian, weights in (([[0.0]], [1.0]), ([[1.0, 2.0], [2.0, 1.0]], [1.0, 2.0])):
        yield torch.tensor(hessian).double(), torch.tensor(weights).double()


def _no_minimum(hessian: Tensor, _: Tensor) -> bool:
    return bool(torch.linalg.eigvalsh(hessian)[0] <= 1e-9)


def _rise(weights: Tensor, hessian: Tensor, before: Tensor) -> float:
    """What moving from the minimum at ``before`` to ``weights`` adds to a quadratic loss."""
    step = weights.detach().double() - before
    return (step @ hessian @ step / 2).item()


def _not_one_zero(after: Tensor, hessian: Tensor, weights: Tensor) -> str | None:
    zeros = int((after == 0).sum())
    return None if zeros == 1 else f"exactly one weight at 0, not {zeros}"


def _wrong_one(after: Tensor, hessian: Tensor, weights: Tensor) -> str | None:
    cost = _saliency_by_inverse(hessian, weights)
    q, best = int((after == 0).nonzero()[0, 0]), int(cost.argmin())
    if cost[q] <= cost[best] * (1 + 1e-6):
        return None
    return (
        f"weight {best} deleted, which costs {cost[best]:.4g} once the others make up for it; "
        f"weight {q} costs {cost[q]:.4g} at least"
    )


def _badly_moved(after: Tensor, hessian: Tensor, weights: Tensor) -> str | None:
    q = int((after == 0).nonzero()[0, 0])
    least = _saliency_by_inverse(hessian, weights)[q].item()
    rise = _rise(after, hessian, weights)
    if rise <= least * (1 + 1e-5) + 1e-12:
        return None
    return f"a loss that rises by {least:.4g} only; with these weights it rises by {rise:.4g}"


DELETE_ONE = Exercise(
    name="delete_one",
    signature="delete_one(hessian, weights)",
    section="lesson History, section “Definition → code”, Optimal Brain Surgeon",
    cases=_deletion_cases,
    refuses=_no_minimum,
    properties=(
        _TENSOR,
        Property(
            "deletes exactly one weight",
            _not_one_zero,
            "Rounding leaves 1e-17 where you want 0: set the deleted weight to 0 at the end.",
        ),
        Property(
            "deletes the weight that costs least after the others have moved",
            _wrong_one,
            "Which saliency tells the cost if the other weights may move? It needs the inverse of "
            "the whole Hessian.",
        ),
        Property(
            "moves the other weights so that the loss rises as little as possible",
            _badly_moved,
            "The step is a multiple of one column of the inverse Hessian. Which multiple brings "
            "weight q exactly to 0?",
        ),
        UNCHANGED,
        REFUSES,
    ),
)

EXERCISES = {
    exercise.name: exercise
    for exercise in (
        MAGNITUDE_MASK,
        KILLS_WRONG_MASKS,
        SPARSITY_FOR,
        GLOBAL_MASKS,
        KILLS_WRONG_SPARSITIES,
        PER_ROUND,
        OBD_SALIENCY,
        KILLS_WRONG_SALIENCIES,
        DELETE_ONE,
    )
}
