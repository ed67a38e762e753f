"""The exercises of the lesson Prune rate."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import (
    COUNT_HINT,
    SPARSITIES,
    TIE_HINT,
    draw,
    hunt,
    kind,
    larger_gone,
    later_kept,
    not_a_mask,
    pick,
    wrong_count,
)
from course_lib.exercises.exercise import UNCHANGED, Exercise, Property, show


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
        yield _random_layers(layers, generator), pick(SPARSITIES, generator)
    shapes = {"fc1.weight": (100, 50), "fc2.weight": (50, 100), "head.weight": (10, 50)}
    yield {k: torch.randn(shape, generator=generator) for k, shape in shapes.items()}, 0.9
    yield {k: draw(shape, generator) for k, shape in shapes.items()}, 0.7


def _random_layers(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Layers of different sizes whose order is not that of their names."""
    names = ("fc2", "conv", "fc1")[:count]
    shapes = [[pick(3, generator) for _ in range(pick(2, generator))] for _ in names]
    return {name: draw(tuple(shape), generator) for name, shape in zip(names, shapes, strict=True)}


def _not_masks(returned: object, scores: dict[str, Tensor], _: float) -> str | None:
    if type(returned) is not dict:
        return f"a dict of masks, got {kind(returned)}"
    if set(returned) != set(scores):
        return f"the keys {', '.join(scores)}; here they are {show(list(returned))}"
    for name, score in scores.items():
        if problem := not_a_mask(returned[name], score):
            return f"for {name}: {problem}"
    return None


def _flat(tensors: dict[str, Tensor], order: dict[str, Tensor]) -> Tensor:
    """All entries in one row, layer after layer in the order of ``order``."""
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
            lambda masks, scores, sparsity: wrong_count(_flat(masks, scores), sparsity),
            "n counts the entries of all layers together, and round is used once. " + COUNT_HINT,
        ),
        Property(
            "removes the lowest scores, whatever layer they are in",
            lambda masks, scores, sparsity: larger_gone(
                _flat(scores, scores), _flat(masks, scores), "score"
            ),
            "All layers stand in one ranking, even if one of them loses every weight. A score is "
            "taken as it is, with its sign; higher means keep.",
        ),
        Property(
            "keeps the earlier of equal scores, layer by layer, then row by row",
            lambda masks, scores, sparsity: later_kept(
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

KILLS_WRONG_SPARSITIES = hunt(
    name="kills_wrong_sparsities",
    signature="is_total_sparsity(fn)",
    section="lesson Prune rate, section “Definition → code”",
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


def _share_cases() -> Iterator[tuple[dict[str, tuple[int, int]], float]]:
    lesson = (32, 196), (256, 32), (32, 256), (256, 32), (32, 256), (10, 32)
    for shapes, sparsity in (
        (((50, 100), (10, 50)), 0.9),
        (((4, 4), (4, 4)), 0.5),
        (((2, 2),), 0.25),
        (((2, 2), (10, 10)), 0.5),
        (((2, 2), (4, 4), (20, 20)), 0.7),
        (((3, 2), (2, 3)), 0.0),
        (((3, 2), (2, 3)), 1.0),
        (lesson, 0.9),
        (((300, 784), (100, 300), (10, 100)), 0.98),
    ):
        yield {f"fc{i}": shape for i, shape in enumerate(shapes, start=1)}, sparsity
    generator = torch.Generator().manual_seed(2)
    for layers in (1, 2, 3, 4) * 9:
        shapes = [(pick(20, generator), pick(20, generator)) for _ in range(layers)]
        yield (
            {f"fc{layers - i}": shape for i, shape in enumerate(shapes)},
            pick(SPARSITIES, generator),
        )


def _not_densities(returned: object, shapes: dict[str, tuple[int, int]], _: float) -> str | None:
    if type(returned) is not dict or set(returned) != set(shapes):
        return f"a dict with the keys {', '.join(shapes)}"
    for name, value in returned.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"a float for {name}, got {kind(value)}"
        if not -1e-9 <= value <= 1 + 1e-9:
            return f"a density from 0 to 1 for {name}, got {value:.4g}"
    return None


def _wrong_total(returned: dict, shapes: dict[str, tuple[int, int]], sparsity: float) -> str | None:
    n = sum(rows * columns for rows, columns in shapes.values())
    kept = sum(returned[name] * rows * columns for name, (rows, columns) in shapes.items())
    if abs(kept - (1 - sparsity) * n) < 1e-6 * n:
        return None
    return f"{(1 - sparsity) * n:.6g} of {n} weights kept in all, not {kept:.6g}"


def _epsilons(returned: dict, shapes: dict[str, tuple[int, int]]) -> tuple[dict, dict]:
    """Density over (rows + columns) / (rows * columns): of the layers below 1, of the full ones."""
    found = {name: returned[name] * r * c / (r + c) for name, (r, c) in shapes.items()}
    full = {name: value for name, value in found.items() if returned[name] > 1 - 1e-6}
    return {name: value for name, value in found.items() if name not in full}, full


def _not_in_proportion(returned: dict, shapes: dict, _: float) -> str | None:
    below, _full = _epsilons(returned, shapes)
    if not below or max(below.values()) - min(below.values()) <= 1e-6 * max(below.values()):
        return None
    low, high = (pick(below, key=lambda name: below[name]) for pick in (min, max))
    return (
        "one ε for all layers that are not full; here it is "
        f"{below[low]:.4g} for {low} and {below[high]:.4g} for {high}"
    )


def _full_for_nothing(returned: dict, shapes: dict, _: float) -> str | None:
    below, full = _epsilons(returned, shapes)
    for name, value in full.items():
        if below and value > max(below.values()) * (1 + 1e-6):
            return (
                f"density 1 only where ε asks for 1 or more; with the ε of the others, {name} "
                f"has {max(below.values()) / value:.4g}"
            )
    return None


ER_DENSITIES = Exercise(
    name="er_densities",
    signature="er_densities(shapes, sparsity)",
    section="lesson Prune rate, section “Definition → code”, Erdős–Rényi",
    cases=_share_cases,
    properties=(
        Property(
            "returns a dict with a density from 0 to 1 for every layer",
            _not_densities,
            "A density is the part that is kept. Where ε times the ratio is above 1, the layer "
            "stays full: its density is 1.",
        ),
        Property(
            "keeps (1 - sparsity) * n of all n weights",
            _wrong_total,
            "What a full layer cannot use goes to the others: their ε grows. Take the full layers "
            "out of both sides of the equation for ε and solve it again.",
        ),
        Property(
            "gives all layers that are not full one ε",
            _not_in_proportion,
            "The density of a layer is ε (rows + columns) / (rows * columns).",
        ),
        Property(
            "keeps a layer full only if ε asks for it",
            _full_for_nothing,
            "Start with no full layer, and add those whose density would be above 1.",
        ),
        UNCHANGED,
    ),
)

EXERCISES = (GLOBAL_MASKS, KILLS_WRONG_SPARSITIES, ER_DENSITIES)
