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

# Lesson "pipeline"

_MOMENTS = (0.0, 0.07, 0.37, 0.66, 0.93)  # none on a step of the schedules below


def _linear(t: float) -> float:
    """t -> 1 - t"""
    return 1 - t


def _stepped(t: float) -> float:
    """t -> 1 before t = 0.3, then 0.1, and 0.01 from t = 0.8 on"""
    return (1.0, 0.1, 0.01)[(t >= 0.3) + (t >= 0.8)]


def _cosine(t: float) -> float:
    """t -> (1 + cos(pi t)) / 2"""
    return (1 + math.cos(math.pi * t)) / 2


def _warming(t: float) -> float:
    """t -> 10 t up to t = 0.1, then (1 - t) / 0.9"""
    return 10 * t if t < 0.1 else (1 - t) / 0.9


def _replay_cases() -> Iterator[tuple[Callable, float]]:
    yield _linear, 0.5
    yield from product((_linear, _stepped, _cosine, _warming), (1.0, 0.5, 0.25, 0.75, 0.1))


def _differs(replay: Callable, schedule: Callable, fraction: float, t: float) -> str | None:
    """What the replayed schedule should be at t and is not; it is the student's, and may raise."""
    expected = schedule(1 - fraction + fraction * t)
    try:
        got = replay(t)
        if math.isclose(got, expected, rel_tol=1e-6, abs_tol=1e-9):
            return None
    except (ArithmeticError, LookupError, NameError, TypeError, ValueError) as error:
        got = f"{type(error).__name__}: {error}"
    return f"{expected:g} at t = {t:g} of the retraining; here it is {show(got)}"


REPLAY = Exercise(
    name="replay",
    signature="replay(schedule, fraction)",
    section="lesson Pipeline, section “Definition → code”",
    cases=_replay_cases,
    properties=(
        Property(
            "returns a function",
            lambda replay, *_: None if callable(replay) else f"a function, got {_kind(replay)}",
            "A schedule is a function of t. Define one inside yours and return it: "
            "return lambda t: ...",
        ),
        Property(
            "replays all of the training at fraction 1",
            lambda replay, schedule, fraction: (
                next(filter(None, (_differs(replay, schedule, 1.0, t) for t in _MOMENTS)), None)
                if fraction == 1
                else None
            ),
            "At fraction 1 retraining is training once more: the answer is the schedule itself.",
        ),
        Property(
            "begins at the rate that training had when the last fraction began",
            lambda replay, schedule, fraction: _differs(replay, schedule, fraction, 0.0),
            "When the last fraction begins, how much of the training is done? That is where t = 0 "
            "of the retraining lies.",
        ),
        Property(
            "runs through the last fraction, no slower and no faster",
            lambda replay, schedule, fraction: next(
                filter(None, (_differs(replay, schedule, fraction, t) for t in _MOMENTS)), None
            ),
            "While t goes from 0 to 1, training goes through `fraction` of itself only.",
        ),
    ),
)


def buggy_next_round(weight: Tensor, keep: Tensor, share: float) -> Tensor:
    """a function that takes its share of all weights, so that the dead ones are taken again"""
    return _lowest_removed(weight.abs() * keep, round(share * weight.numel()))


def weak_round_test(next_round: Callable[[Tensor, Tensor, float], Tensor]) -> bool:
    """The test that every wrong function of the bug hunt passes: a first round."""
    weight = torch.linspace(0.01, 1.0, 100)
    keep = next_round(weight, torch.ones(100, dtype=torch.bool), 0.2)
    return int(keep.sum()) == 80 and bool(weight[keep].min() > weight[~keep].max())


def _take(weight: Tensor, keep: Tensor, count: int) -> Tensor:
    """The mask without the `count` smallest of the weights it keeps."""
    size = torch.where(keep, weight.abs(), -1.0)
    return _lowest_removed(size, int((~keep).sum()) + count)


def _round_by_sort(weight, keep, share):
    """a correct function that ranks the dead below all others"""
    return _take(weight, keep, round(share * int(keep.sum())))


def _round_by_python(weight, keep, share):
    """a correct function that works on Python lists"""
    size, alive = weight.abs().flatten().tolist(), keep.flatten().tolist()
    left = sorted((i for i, a in enumerate(alive) if a), key=lambda i: (size[i], -i))
    stays = set(left[round(share * len(left)) :])
    return torch.tensor([i in stays for i in range(len(size))]).reshape(weight.shape)


def _round_among_the_living(weight, keep, share):
    """a correct function that ranks only what is left"""
    fresh = keep.clone()
    left = weight[keep].abs()
    fresh[keep] = _lowest_removed(left, round(share * left.numel()))
    return fresh


def _round_share_of_all(weight, keep, share):
    """a function that removes the share of all weights from those that are left"""
    return _take(weight, keep, min(round(share * weight.numel()), int(keep.sum())))


def _round_revives(weight, keep, share):
    """a function that lets dead weights come back if their values are not zero"""
    gone = int((~keep).sum()) + round(share * int(keep.sum()))
    return _lowest_removed(weight.abs(), gone)


def _round_only_the_new(weight, keep, share):
    """a function that returns a mask in which only this round's weights are gone"""
    return _round_by_sort(weight, keep, share) | ~keep


def _round_in_place(weight, keep, share):
    """a function that also changes the mask it was given"""
    return keep.copy_(_round_by_sort(weight, keep, share))


def _round_up(weight, keep, share):
    """a function that rounds the number of weights up"""
    return _take(weight, keep, math.ceil(share * int(keep.sum()) - 1e-9))


def _round_signed(weight, keep, share):
    """a function that forgets the absolute value"""
    size = torch.where(keep, weight, -torch.inf)
    return _lowest_removed(size, int((~keep).sum()) + round(share * int(keep.sum())))


_ROUND_CASES, _ROUND_VERDICTS = _hunt(
    right=(_round_by_sort, _round_by_python, _round_among_the_living),
    alarm="A false alarm. Of the weights that the mask keeps, it removes round(share * their "
    "number), the smallest in magnitude, the later ones among equals, and nothing else.",
    wrong={
        buggy_next_round: "Your test should begin where a second round begins: with a mask that "
        "has removed something already.",
        _round_share_of_all: "Count how many go in a second round, when less is left.",
        _round_revives: "After weight rewinding a dead weight's value need not be zero. It stays "
        "dead all the same.",
        _round_only_the_new: "What an earlier round removed has to be gone from the new mask.",
        _round_in_place: "Compare the mask that you gave with a copy from before the call.",
        _round_up: "Try a share of what is left that lies a little above a whole number.",
        _round_signed: "Try negative weights as well.",
    },
)

KILLS_WRONG_ROUNDS = Exercise(
    name="kills_wrong_rounds",
    signature="is_next_round(next_round)",
    section="lesson Pipeline, section “Definition → code”",
    cases=_ROUND_CASES,
    properties=_ROUND_VERDICTS,
)


def _plan_cases() -> Iterator[tuple[float, float, int]]:
    yield from ((0.9, 0.5, 20), (0.5, 0.5, 4), (0.75, 0.5, 7), (0.4, 0.5, 3), (0.9, 0.2, 10))
    yield from product((0.3, 0.6, 0.9, 0.98), (0.1, 0.2, 0.5, 0.9), (1, 6, 24, 100))


def _fewest(target: float, share: float) -> int:
    """The fewest rounds that reach the target when each takes at most `share` of what is left."""
    rounds = 1
    while _gone(share, rounds) < target - 1e-9:
        rounds += 1
    return rounds


def _not_a_plan(plan: object, *_: float) -> str | None:
    if type(plan) is not tuple or len(plan) != 2 or not all(type(n) is int for n in plan):
        return f"a tuple of two ints, (rounds, epochs), got {show(plan)}"
    return None if min(plan) >= 1 else f"at least one round and one epoch, got {plan}"


def _stops_short(plan: tuple[int, int], target: float, share: float, _: int) -> str | None:
    gone = _gone(share, plan[0])
    if gone >= target - 1e-9:
        return None
    return f"{target:g} gone; {plan[0]} rounds of at most {share:g} each reach {gone:.4g}"


PLAN = Exercise(
    name="plan",
    signature="plan(target, share, budget)",
    section="lesson Pipeline, exercise C",
    cases=_plan_cases,
    refuses=lambda target, share, budget: _fewest(target, share) > budget,
    properties=(
        Property(
            "returns (rounds, epochs), two whole numbers from 1 on",
            _not_a_plan,
            "Return a tuple of two ints; math.ceil and // give whole numbers.",
        ),
        Property(
            "reaches the target",
            _stops_short,
            "After r rounds the fraction (1 - share) ** r is left. It has to be 1 - target or "
            "less: round the number of rounds up.",
        ),
        Property(
            "uses no more rounds than needed",
            lambda plan, target, share, _: (
                None
                if plan[0] == _fewest(target, share)
                else f"{_fewest(target, share)} rounds, which are enough; here {plan[0]}"
            ),
            "Every round takes a share of what is *left*, not of all: fewer rounds follow from a "
            "logarithm, or from counting in a loop until enough is gone.",
        ),
        Property(
            "stays within the budget",
            lambda plan, _, __, budget: (
                None
                if plan[0] * plan[1] <= budget
                else f"at most {budget} epochs in all, not {plan[0]} × {plan[1]}"
            ),
            "The budget is shared by all rounds; what does not divide evenly is left unspent.",
        ),
        Property(
            "trains for as many epochs a round as the budget allows",
            lambda plan, _, __, budget: (
                None
                if plan[0] * (plan[1] + 1) > budget
                else f"{budget // plan[0]} epochs in each of {plan[0]} rounds, not {plan[1]}"
            ),
            "Divide the budget by the number of rounds, without a remainder.",
        ),
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
        REPLAY,
        KILLS_WRONG_ROUNDS,
        PLAN,
    )
}
