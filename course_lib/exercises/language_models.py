"""The exercises of the lesson Pruning today: language models."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from course_lib.exercises.common import (
    SCALES,
    SPARSITIES,
    apart,
    draw,
    first_that,
    larger_gone,
    later_kept,
    not_a_mask,
    pick,
    repeated,
    rescaled,
    smallest_input,
    wrong_count,
)
from course_lib.exercises.exercise import (
    REFUSES,
    UNCHANGED,
    Exercise,
    Lines,
    Property,
    WrongLine,
)

_SECTION = "lesson Pruning today, section “Definition → code”"
RICH = 30  # weights from which on a known mistake hardly hits another by chance
TIES = "Sort so that equal scores keep their order (stable=True), from high to low, and keep the front."

# (mask, scores, sparsity or how many stay) -> what is asked for
Demand = Callable[[Tensor, Tensor, Any], str | None]


# ---- A · the mask of Wanda, row by row


def right_mask(weight: Tensor, inputs: Tensor, sparsity: float) -> Tensor:
    """(out, in): of each row, the weights with the highest |w| times the norm of their input stay."""
    scores = weight.abs() * inputs.norm(dim=0)
    order = scores.argsort(dim=1, descending=True, stable=True)
    stay = order[:, : order.shape[1] - round(sparsity * order.shape[1])]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, stay, True)


def _scores(weight: Tensor, inputs: Tensor) -> Tensor:
    return weight.double().abs() * inputs.double().square().sum(0).sqrt()


def _exact(out: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights, and inputs whose norms are powers of two times each other: ties stay exact."""
    token = draw((4,), generator)
    token[0] = 0.75
    orders = torch.stack([torch.randperm(4, generator=generator) for _ in range(n)], 1)
    size = torch.tensor([pick((0.5, 1.0, 1.0, 2.0), generator) for _ in range(n)])
    return draw((out, n), generator), token[orders] * size


def _drawn(out: int, n: int, tokens: int, generator: torch.Generator) -> tuple:
    """Weights and inputs without near ties; each input has a mean and a size of its own."""

    def layer() -> tuple[Tensor, Tensor]:
        x = torch.randn(tokens, n, generator=generator) + 2 * torch.randn(n, generator=generator)
        return torch.randn(out, n, generator=generator), x * 2 * torch.rand(n, generator=generator)

    return first_that(lambda *inputs: apart(_scores(*inputs)), layer)


def _layers() -> Iterator[tuple[Tensor, Tensor, float]]:
    def case(weight, inputs, sparsity):
        return torch.tensor(weight), torch.tensor(inputs), sparsity

    yield case([[1.0, 0.5], [0.25, 1.0]], [[1.0, 4.0], [0.0, 0.0]], 0.5)
    yield case([[1.0, -0.75]], [[1.0, 1.5]], 0.5)  # the smaller weight stays
    yield case([[1.0, -0.5]], [[1.0, 1.5]], 0.5)  # without the root the second would stay
    yield case([[0.5, 0.5, 0.5]], [[1.0, 1.0, 1.0]], 0.3)  # ties
    yield case([[0.25, 1.0, 0.5]], [[0.5, 0.0, 0.25]], 0.3)  # a dead input
    yield case([[1.0, 1.0]], [[0.5, -0.5], [-1.0, 1.0]], 1.0)
    yield case([[-1.0], [0.5]], [[2.0]], 0.0)
    yield case([[0.5, -1.0, 0.25]], [[0.0, 0.0, 0.0]], 0.7)  # all dead
    yield case([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1.0, 2.0, 0.5]], 0.3)  # a row of zeros
    yield case([[1.0, 1.0]], [[2.0, 3.0], [2.0, 0.0]], 0.5)  # the sums of |x| say otherwise
    yield case([[1.0, 1.0]], [[2.0, 2.5], [2.0, 0.0]], 0.5)  # the largest |x| says otherwise
    yield case([[1.0, 1.0]], [[3.0, 1.0], [3.0, -1.0]], 0.5)  # the first never changes
    yield case([[1.0, 1.0], [1.0, 1.0]], [[-1.0, 0.5], [1.0, 0.5]], 0.5)  # a mean of zero
    generator = torch.Generator().manual_seed(8)
    for n in (3, 4, 5, 7) * 4:
        yield *_exact(pick(3, generator), n, generator), pick(SPARSITIES, generator)
    for n, tokens in ((4, 3), (5, 8), (6, 2), (9, 40), (3, 1)) * 2:
        yield *_drawn(2, n, tokens, generator), pick((0.3, 0.5, 0.7), generator)
    yield from _awkward(generator)


def _awkward(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, float]]:
    for _ in range(4):
        weight, inputs = _exact(4, 6, generator)
        yield from rescaled((weight, inputs, 0.5), 0)
        for scale in SCALES:
            yield weight, inputs * scale, 0.5
    close = torch.tensor([[1.0, 1.0, 1.0 + 1e-12]], dtype=torch.float64)  # equal in 32 bits
    yield close, torch.ones(2, 3).double(), 0.3
    yield torch.tensor([[0.5]]), torch.tensor([[2.0]]), 0.7
    yield *_exact(4, 64, generator), 0.5  # long rows, where an unstable sort mixes ties
    yield repeated((*_exact(8, 7, generator), 0.7), 20)
    yield *_drawn(4, 60, 90, generator), 0.6


def _rows(demand: Demand) -> Callable[..., str | None]:
    """The demand on a mask, asked of each row: the row's mask and its scores."""

    def of_rows(mask: Tensor, weight: Tensor, inputs: Tensor, sparsity: float) -> str | None:
        rows = zip(mask, _scores(weight, inputs), strict=True)
        said = ((i, demand(keep, score, sparsity)) for i, (keep, score) in enumerate(rows))
        return next((f"in row {i}: {words}" for i, words in said if words), None)

    return of_rows


def _by_size_alone(weight: Tensor, inputs: Tensor, sparsity: float) -> Tensor:
    return right_mask(weight, torch.ones_like(inputs), sparsity)


def _without_root(weight: Tensor, inputs: Tensor, sparsity: float) -> Tensor:
    return right_mask(weight.double(), inputs.double().square().sum(0)[None], sparsity)


def _is_not(mistake: Callable[..., Tensor], says: str, hint: str) -> Property:
    """The property that the mask is not that of a known mistake, where that mistake shows."""
    best = _rows(lambda keep, score, _: larger_gone(score, keep, "score"))

    def demand(mask: Tensor, *inputs) -> str | None:
        known = mistake(*inputs)
        if mask.numel() < RICH or not torch.equal(mask, known):
            return None
        return best(known, *inputs)

    return Property(says, demand, hint)


WANDA_MASK = Exercise(
    name="wanda_mask",
    signature="wanda_mask(weight, inputs, sparsity)",
    section=_SECTION,
    cases=_layers,
    expected=right_mask,
    properties=(
        Property(
            "returns a mask: torch.bool, in the shape of weight",
            lambda mask, weight, *_: not_a_mask(mask, weight),
            "True means keep. A comparison makes bools; numbers need .bool().",
        ),
        Property(
            "removes round(sparsity · inputs) weights of each row",
            _rows(lambda keep, score, sparsity: wrong_count(keep, sparsity)),
            "A row of weight makes one output, and its weights compete with each other alone. Count "
            "with Python's round; a threshold takes all weights that are tied with it.",
        ),
        _is_not(
            _by_size_alone,
            "looks at the inputs",
            "Each column of weight reads one column of inputs. The score is |w| times the norm of "
            "that column.",
        ),
        _is_not(
            _without_root,
            "takes the root",
            "The norm of a column is the root of its sum of squares. Without the root, an input counts "
            "twice as an order of magnitude, and its weight once.",
        ),
        Property(
            "keeps the highest scores of each row",
            _rows(lambda keep, score, _: larger_gone(score, keep, "score")),
            "The score is |w| times the norm of the input, over all tokens (rows of inputs). A weight "
            "whose input is always 0 has the score 0. Nothing is centred, and nothing is added.",
        ),
        Property(
            "keeps the earlier of equal scores",
            _rows(lambda keep, score, _: later_kept(score, keep, "score")),
            TIES,
        ),
        UNCHANGED,
    ),
)


# ---- B · n of m, with the wrong one of two numbers


def buggy_pattern(weight: Tensor, squares: Tensor, keep: int, of: int) -> Tensor:
    """(out, in): of every `of` neighbouring inputs of a row, `keep` stay."""
    if weight.shape[1] % of:
        raise ValueError("the inputs must come in whole groups")
    scores = weight.abs() * squares.sqrt()
    groups = scores.unflatten(1, (-1, of))
    order = groups.argsort(dim=2, descending=True, stable=True)
    gone = order[:, :, of - keep :]
    mask = torch.ones_like(groups, dtype=torch.bool).scatter(2, gone, False)
    return mask.flatten(1)


def right_pattern(weight: Tensor, squares: Tensor, keep: int, of: int) -> Tensor:
    """The same with the number that stays: the right answer to the bug hunt."""
    if weight.shape[1] % of:
        raise ValueError("the inputs must come in whole groups")
    groups = (weight.abs() * squares.sqrt()).unflatten(1, (-1, of))
    order = groups.argsort(dim=2, descending=True, stable=True)
    mask = torch.ones_like(groups, dtype=torch.bool).scatter(2, order[:, :, keep:], False)
    return mask.flatten(1)


def _patterns() -> Iterator[tuple[Tensor, Tensor, int, int]]:
    def case(weight, squares, keep, of):
        return torch.tensor(weight), torch.tensor(squares), keep, of

    yield case([[1.0, 0.5, 0.25, 0.75]], [1.0, 4.0, 4.0, 1.0], 2, 4)
    yield case([[1.0, 0.5, 0.25, 0.75]], [1.0, 1.0, 1.0, 1.0], 1, 4)
    yield case([[0.5, 0.5, 0.5]], [4.0, 4.0, 4.0], 1, 3)  # ties
    yield case([[1.0, 0.5, 0.25, 0.75, 0.5, 1.0]], [1.0] * 6, 5, 6)  # nearly all stay
    yield case([[1.0, 0.25], [0.25, 1.0]], [1.0, 4.0], 1, 2)  # by columns, other weights would stay
    yield case([[1.0, 0.5]], [1.0, 2.25], 1, 2)  # without the root the second would stay
    yield case([[0.25, -1.0, 0.5]], [1.0, 0.0, 0.25], 2, 3)  # a dead input
    yield case([[0.5, 0.25, 1.0, -1.0]], [0.0, 0.0, 0.0, 0.0], 1, 2)  # all dead
    yield case([[0.0, 0.0, 0.0]], [1.0, 4.0, 1.0], 2, 3)
    yield case([[1.0, 0.5, 0.25]], [1.0, 1.0, 1.0], 1, 2)  # a group is not whole
    yield case([[1.0, 0.5, 0.25]] * 4, [1.0, 1.0, 1.0], 2, 4)  # whole along the wrong axis
    generator = torch.Generator().manual_seed(9)
    for keep, of in ((1, 2), (1, 3), (2, 3), (1, 4), (3, 4), (2, 4), (3, 5)) * 2:
        weight = draw((pick(3, generator), pick(2, generator) * of), generator)
        yield weight, _powers(weight.shape[1], generator), keep, of
    for keep, of in ((1, 4), (3, 4), (2, 4), (4, 8), (5, 8)):
        yield *_without_ties(2 * of, generator), keep, of
    weight = draw((6, 8), generator)
    yield from rescaled((weight, torch.ones(8), 3, 4), 0)
    for scale in SCALES:
        yield weight, _powers(8, generator) * scale, 1, 4
    close = torch.tensor([[1.0, 1.0 + 1e-12, 1.0]], dtype=torch.float64)  # equal in 32 bits
    yield close, torch.ones(3).double(), 1, 3
    yield draw((24, 96), generator), _powers(96, generator), 3, 8
    yield draw((4, 128), generator), _powers(128, generator), 20, 64  # an unstable sort mixes ties


def _without_ties(n: int, generator: torch.Generator) -> tuple:
    """A weight (4, n) and sums of squares (n,) without near ties."""

    def pattern() -> tuple[Tensor, Tensor]:
        return torch.randn(4, n, generator=generator), 4 * torch.rand(n, generator=generator)

    return first_that(lambda weight, squares: apart(weight * squares.sqrt()), pattern)


def _powers(n: int, generator: torch.Generator) -> Tensor:
    """Sums of squares whose roots are powers of two."""
    return torch.tensor([pick((0.25, 1.0, 1.0, 4.0), generator) for _ in range(n)])


def _illegal_pattern(weight: Tensor, squares: Tensor, keep: int, of: int) -> str | None:
    fits = weight.dim() == 2 and squares.shape == weight.shape[1:] and weight.numel() > 0
    whole = type(keep) is int and type(of) is int and 1 <= keep < of
    floats = weight.is_floating_point() and squares.is_floating_point()
    known = weight.isfinite().all() and squares.isfinite().all() and (squares >= 0).all()
    if fits and whole and floats and known:
        return None
    return (
        "a finite float weight (out, in), finite squares (in,) that are not negative, and whole "
        "numbers 1 ≤ keep < of"
    )


def _groups(demand: Demand) -> Callable[..., str | None]:
    """The demand on a mask, asked of each group: its mask, its scores and how many stay."""

    def of_groups(mask: Tensor, weight: Tensor, squares: Tensor, keep: int, of: int) -> str | None:
        scores = weight.double().abs() * squares.double().sqrt()
        for place in range(0, mask.numel(), of):
            row, first = divmod(place, mask.shape[1])
            part = slice(first, first + of)
            if words := demand(mask[row, part], scores[row, part], keep):
                return f"in row {row}, inputs {first} to {first + of - 1}: {words}"

    return of_groups


def _wrong_number(mask: Tensor, _: Tensor, keep: int) -> str | None:
    stay = int(mask.sum())
    return None if stay == keep else f"{keep} of {len(mask)} kept, not {stay}"


def _keeps_the_rest(
    mask: Tensor, weight: Tensor, squares: Tensor, keep: int, of: int
) -> str | None:
    if of != 4 or keep == 2 or not torch.equal(mask, buggy_pattern(weight, squares, keep, of)):
        return None  # with 3 or 5 another mistake keeps as many
    return f"{keep} of every {of} kept, and {of - keep} removed; here {of - keep} are kept"


MENDED_PATTERN = Exercise(
    name="mended_pattern",
    signature="mended_pattern(weight, squares, keep, of)",
    section=_SECTION,
    cases=_patterns,
    legal=_illegal_pattern,
    expected=right_pattern,
    refuses=lambda weight, squares, keep, of: weight.shape[1] % of != 0,
    properties=(
        REFUSES,
        Property(
            "returns a mask: torch.bool, in the shape of weight",
            lambda mask, weight, *_: not_a_mask(mask, weight),
            "True means keep. Groups are a view on the way; flatten them before you return.",
        ),
        Property(
            "keeps as many as keep says, and does not remove as many",
            _keeps_the_rest,
            "In 1:4, keep is 1, and three of four weights go. Which of your slices counts what stays, "
            "and which one what goes?",
        ),
        Property(
            "counts in every group of neighbouring inputs",
            _groups(_wrong_number),
            "A group lies in one row: inputs 0 to of − 1 of an output, then the next of. Compare ranks, "
            "not values, so that ties do not change the count.",
        ),
        Property(
            "keeps the highest scores of each group",
            _groups(lambda keep, score, _: larger_gone(score, keep, "score")),
            "The score is |w| times the root of the input's sum of squares.",
        ),
        Property(
            "keeps the earlier of equal scores",
            _groups(lambda keep, score, _: later_kept(score, keep, "score")),
            TIES,
        ),
        UNCHANGED,
    ),
)

SMALLEST_PATTERN = smallest_input(
    name="smallest_pattern",
    wrong=buggy_pattern,
    judged_by=MENDED_PATTERN,
    at_most=6,
    hint="With 2:4 as many stay as go, so nobody notices which of the two was counted. Take a group in "
    "which the two numbers differ: the smallest has three inputs, and three squares.",
)

PUZZLES = (
    Lines(
        name="wanda_mask",
        function=right_mask,
        distractors={
            "scores = weight.abs() * inputs.square().sum(dim=0)": "without the root, the size of an "
            "input counts twice.",
            "order = scores.argsort(dim=0, descending=True, stable=True)": "this ranks the outputs of "
            "an input. The inputs of an output compete with each other.",
            "stay = order[:, : round(sparsity * order.shape[1])]": "so many should go, and these "
            "would stay.",
        },
    ),
    WrongLine(
        name="mended_pattern",
        function=buggy_pattern,
        wrong="gone = order[:, :, of - keep :]",
        why="from place of − keep on there are keep weights, so keep of them go. With 2:4 nobody "
        "notices; 1:4 keeps three.",
        others={
            "scores = weight.abs() * squares.sqrt()": "the root of a sum of squares is the norm.",
            "groups = scores.unflatten(1, (-1, of))": "the neighbours in a group are inputs of one "
            "row. Axis 1 counts inputs.",
            "order = groups.argsort(dim=2, descending=True, stable=True)": "the highest score comes first, "
            "and the earlier of equal ones.",
        },
    ),
)
EXERCISES = (WANDA_MASK, SMALLEST_PATTERN, MENDED_PATTERN)
