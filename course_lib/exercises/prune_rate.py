"""The exercises of the lesson Prune rate."""

from collections.abc import Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import (
    COUNT_HINT,
    SPARSITIES,
    TIE_HINT,
    draw,
    kind,
    not_a_mask,
    number,
    pick,
    repeated,
    rescaled,
    smallest_input,
    wrong_count,
)
from course_lib.exercises.exercise import (
    UNCHANGED,
    Exercise,
    Lines,
    Property,
    WrongLine,
    show,
)

SECTION = "lesson Prune rate, section “Definition → code”"


def _global_masks(scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    raised = {name: s.flatten().clone() for name, s in scores.items()}
    for s in raised.values():
        s[s.argmax()] = torch.inf
    flat = torch.cat(list(raised.values()))
    order = flat.argsort(descending=True, stable=True)
    kept = order[: len(flat) - round(sparsity * len(flat))]
    keep = torch.zeros(len(flat), dtype=torch.bool).index_fill(0, kept, True)
    parts = keep.split([s.numel() for s in scores.values()])
    return {name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}


def _feasible(scores: dict[str, Tensor], sparsity: float) -> bool:
    n = sum(s.numel() for s in scores.values())
    return n - round(sparsity * n) >= len(scores)


# Scores of a few layers, and the sparsity: negative ones, ties, layers that one ranking would empty.
_SMALL_CASES = (
    ({"fc1": [1.0, 3.0], "fc2": [2.0, 4.0]}, 0.5),
    ({"fc1": [1.0, 2.0], "fc2": [3.0, 4.0]}, 0.5),
    ({"fc1": [1.0, 3.0], "fc2": [2.0]}, 0.3),
    ({"fc1": [1.0, 2.0, 3.0]}, 0.3),
    ({"fc1": [1.0, 1.0], "fc2": [1.0]}, 0.3),
    ({"out": [1.0], "fc": [1.0, 1.0]}, 0.3),
    ({"fc1": [-3.0, 1.0], "fc2": [2.0]}, 0.3),
    ({"fc1": [-2.0, -1.0], "fc2": [-3.0, 5.0, 4.0]}, 0.5),
    ({"fc1": [2.0, 1.0], "fc2": [3.0]}, 0.0),
    ({"fc1": [5.0, 6.0, 7.0], "fc2": [1.0], "fc3": [2.0, 0.5]}, 0.5),
    ({"fc1": [0.0, 0.0, 0.0], "fc2": [[0.0, 0.0]]}, 0.5),
    ({"fc1": [1.0, 2.0, 3.0], "fc2": [[5.0, 4.0]]}, 0.5),  # round(2.5) is 2
    ({"conv": [[[[1.0, 0.5]]]], "fc": [[0.5, 0.25], [0.5, 2.0]]}, 0.5),
    ({"fc1": [0.1, 0.2, 0.1], "fc2": [7.0, 8.0, 9.0]}, 2 / 3),
    ({"fc1": [1.00002, 1.00001], "fc2": [2e-5, 1e-5, 3e-5]}, 0.5),
)


def _global_cases() -> Iterator[tuple[dict[str, Tensor], float]]:
    for scores, sparsity in _SMALL_CASES:
        yield {name: torch.tensor(score) for name, score in scores.items()}, sparsity
    generator = torch.Generator().manual_seed(1)
    for layers in (1, 2, 3) * 20:
        case = _random_layers(layers, generator), pick(SPARSITIES, generator)
        if _feasible(*case):
            yield case
    for sparsity in (0.3, 0.5, 0.6) * 2:
        layers = {name: draw((n,), generator) for name, n in (("b", 3), ("c", 2), ("a", 4))}
        yield from rescaled((layers, sparsity), 0)
    yield {"b": torch.tensor([1e9, 1e9]), "a": torch.zeros(1)}, 0.3
    close = torch.tensor([1.0, 1.0 + 1e-12, 1.0, 1.0 + 2e-12], dtype=torch.float64)
    yield {"b": close, "a": torch.zeros(1).double()}, 0.4
    yield {"b": torch.tensor([3e35, 2e35, 1e35]), "a": torch.tensor([-1e35])}, 0.5
    yield {"b": torch.full((3,), 3e35), "a": torch.zeros(1)}, 0.5  # 3e35 + 1 is 3e35
    yield {f"fc{i}": draw((2, 2), generator) for i in range(12)}, 0.6  # "fc10" is no third layer
    yield _starved((30, 20, 10), generator), 0.995
    layers = {
        k: draw(shape, generator) for k, shape in {"b": (2, 3), "c": (3,), "a": (1, 4)}.items()
    }
    yield repeated((layers, 0.905), 10)
    yield _starved((60, 10, 20), generator), 0.9
    shapes = {"fc1.weight": (60, 10), "fc2.weight": (10, 60), "head.weight": (20, 10)}
    layers = {k: draw(shape, generator) for k, shape in shapes.items()}
    yield layers, 0.7


def _starved(rows: tuple[int, int, int], generator: torch.Generator) -> dict[str, Tensor]:
    """Three layers, the second with scores so small that one ranking empties it."""
    first, second, last = (torch.randn(n, 10, generator=generator) for n in rows)
    return {"fc1.weight": first, "fc2.weight": second / 100, "head.weight": last}


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


def _best_gone(masks: dict[str, Tensor], scores: dict[str, Tensor], _: float) -> str | None:
    for name, score in scores.items():
        kept = score[masks[name]]
        if not len(kept) or kept.max() < score.max():
            return f"that {name} keeps its highest score, {score.max():g}"
    return None


def _other_scores(masks: dict[str, Tensor], scores: dict[str, Tensor], s: float) -> str | None:
    kept = _flat(scores, scores)[_flat(masks, scores)].sort(descending=True)[0]
    wanted = _flat(scores, scores)[_flat(_global_masks(scores, s), scores)]
    if torch.equal(kept, wanted.sort(descending=True)[0]):
        return None
    return f"the scores {show(wanted)} kept, not {show(kept)}"


def _other_places(masks: dict[str, Tensor], scores: dict[str, Tensor], s: float) -> str | None:
    wanted = _global_masks(scores, s)
    for name, keep in wanted.items():
        if not torch.equal(keep, masks[name]):
            return f"for {name} {show(keep)}, as the earlier of equal scores stays"
    return None


GLOBAL_MASKS = Exercise(
    name="global_masks",
    signature="global_masks(scores, sparsity)",
    section=SECTION,
    cases=_global_cases,
    expected=_global_masks,
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
            "keeps the highest score of each layer",
            _best_gone,
            "Reserve one place in each layer before you rank. A score is taken as it is, with its "
            "sign; higher means keep.",
        ),
        Property(
            "fills the other places by one ranking, whatever layer a score is in",
            _other_scores,
            "The reserved places count among those that are kept. All other scores stand in one "
            "ranking, and no layer gets a share of its own.",
        ),
        Property(
            "keeps the earlier of equal scores, layer by layer, then row by row",
            _other_places,
            "Layers count in the order of the dict, not of their names, and the reserved place goes "
            "to the first of a layer's highest scores. " + TIE_HINT,
        ),
        UNCHANGED,
    ),
)


def buggy_total_sparsity(masks: dict[str, Tensor]) -> float:
    """The fraction removed of all weights: wrong."""
    shares = []
    for keep in masks.values():
        shares.append(1 - keep.float().mean().item())
    return sum(shares) / len(shares)


def _total_sparsity(masks: dict[str, Tensor]) -> float:
    removed = sum(int((~keep).sum()) for keep in masks.values())
    return removed / sum(keep.numel() for keep in masks.values())


def _mask_cases() -> Iterator[tuple[dict[str, Tensor]]]:
    for layers in (
        {"fc1": [True, False], "fc2": [True, False]},
        {"fc1": [True, False, False]},
        {"fc1": [False]},
        {"fc1": [True, True], "fc2": [False, True]},
        {"fc1": [False], "fc2": [True, True]},
        {"fc1": [True], "fc2": [False, False, False]},
        {"fc1": [False], "fc2": [True]},
        {"fc1": [[True, False, False]], "fc2": [[True], [True]], "fc3": [False] * 4},
        {"conv": [[[[False, True], [False, False]]]], "bias": [True, False, True]},
        {"fc1": [True, True, True], "fc2": [[True]]},
        {"fc1": [True], "fc2": [False], "fc3": [False], "fc4": [False, True, True, True]},
        {"conv": [[[True, False, False]], [[False, False, True]]], "fc": [True]},
        {"fc1": [False, False], "fc2": [[False]]},
    ):
        yield ({name: torch.tensor(keep) for name, keep in layers.items()},)
    generator = torch.Generator().manual_seed(3)
    for layers in (1, 2, 3) * 8:
        yield ({k: v > 0.25 for k, v in _random_layers(layers, generator).items()},)
    yield ({f"fc{i}": draw((1 + i,), generator) > 0.25 for i in range(12)},)
    sizes = {"conv": (7, 3, 3, 3), "fc1": (61, 37), "fc2": (10, 61)}
    yield ({k: torch.rand(s, generator=generator) > 0.9 for k, s in sizes.items()},)
    yield ({"fc1": torch.ones(50, 40).bool(), "fc2": torch.arange(1001) < 1},)
    yield ({"fc1": torch.arange(40_000) < 1, "fc2": torch.arange(30_007) > 0},)


def _illegal_masks(masks: dict[str, Tensor]) -> str | None:
    """None for masks that the statement allows, else what it allows."""
    if masks and all(m.dtype == torch.bool and m.numel() for m in masks.values()):
        return None
    return "a dict of torch.bool tensors, at least one, each with at least one entry"


def _other_fraction(returned: float, masks: dict[str, Tensor]) -> str | None:
    expected = _total_sparsity(masks)
    return None if abs(returned - expected) <= 1e-6 else f"{expected:.7g}"


MENDED_TOTAL_SPARSITY = Exercise(
    name="mended_total_sparsity",
    signature="mended_total_sparsity(masks)",
    section=SECTION,
    cases=_mask_cases,
    legal=_illegal_masks,
    expected=_total_sparsity,
    properties=(
        number("returns a number from 0 to 1"),
        Property(
            "counts what is removed, not what is kept",
            lambda returned, masks: _other_fraction(returned, masks) if len(masks) == 1 else None,
            "True means keep, so the removed entries are those that are False.",
        ),
        Property(
            "is the fraction removed of all weights, in layers of any size and shape",
            _other_fraction,
            "Count the removed entries of all layers, count all entries, and divide once.",
        ),
        UNCHANGED,
    ),
)

SMALLEST_MASKS = smallest_input(
    name="smallest_masks",
    wrong=buggy_total_sparsity,
    judged_by=MENDED_TOTAL_SPARSITY,
    at_most=3,
    hint="In one layer the function is right, and in layers of one size too. What must differ "
    "between two layers besides their sizes?",
)

PUZZLES = (
    Lines(
        name="global_masks",
        function=_global_masks,
        distractors={
            "raised = {name: s.flatten() for name, s in scores.items()}": "without a copy, the "
            "infinite scores are written into the caller's tensors.",
            "flat = torch.cat([raised[name] for name in sorted(raised)])": "the layers count in "
            "the order of the dict.",
            "order = flat.argsort(stable=True)": "here the lowest scores come first, and the next "
            "line keeps what comes first.",
            "kept = order[: round(sparsity * len(flat))]": "`sparsity` is the share that goes.",
        },
    ),
    WrongLine(
        name="mended_total_sparsity",
        function=buggy_total_sparsity,
        wrong="return sum(shares) / len(shares)",
        why="this is a mean over layers, and a layer of ten weights counts as much as one of ten "
        "thousand. Divide the removed weights of all layers by all weights.",
        others={
            "shares = []": "the list collects one share per layer. That it holds shares and not "
            "counts is a problem only later.",
            "for keep in masks.values():": "every layer has to be looked at.",
            "shares.append(1 - keep.float().mean().item())": "this is the sparsity of one layer, "
            "and it is right.",
        },
    ),
)
EXERCISES = (GLOBAL_MASKS, SMALLEST_MASKS, MENDED_TOTAL_SPARSITY)
