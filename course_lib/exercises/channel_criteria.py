"""The exercises of the lesson All criteria in one bake-off."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import draw, hunt, kind, pick
from course_lib.exercises.exercise import REFUSES, UNCHANGED, Exercise, Property, show

Score = Callable[[Tensor, Tensor], Tensor]  # activation, gradient (batch, channels, h, w) -> (c,)

_SECTION = "lesson All criteria in one bake-off, section “Definition → code”"


def _active_cases() -> Iterator[tuple[Tensor]]:
    yield (torch.tensor([[0.0, 1.0], [0.0, 0.0]]),)
    yield (torch.tensor([[2.0], [0.0], [0.5]]),)
    yield (torch.tensor([[-0.25, 0.0]]),)
    yield (torch.zeros(1, 2, 1, 1),)
    generator = torch.Generator().manual_seed(5)
    for shape in ((2, 3), (4, 2), (1, 2, 3), (2, 1, 2, 2), (3, 2, 1, 2), (2, 3, 2, 2)) * 3:
        yield (draw(shape, generator).relu(),)
    yield (draw((2, 2, 3, 3), generator),)
    yield (torch.randn(8, 16, 7, 7, generator=generator).relu(),)


def _active(activation: Tensor) -> Tensor:
    return (activation != 0).float().transpose(0, 1).flatten(1).mean(1)


def _not_one_a_channel(returned: object, channels: int) -> str | None:
    wanted = f"a tensor of shape ({channels},), one number per channel"
    if type(returned) is not Tensor:
        return f"{wanted}, got {kind(returned)}"
    if returned.shape != (channels,) or not returned.is_floating_point():
        return f"{wanted}, got {returned.dtype} of shape {tuple(returned.shape)}"
    return None


def _high_for_zeros(returned: Tensor, activation: Tensor) -> str | None:
    wanted = _active(activation)
    if torch.allclose(returned, wanted, atol=1e-5) or not torch.allclose(
        returned, 1 - wanted, atol=1e-5
    ):
        return None
    return f"{show(wanted)}: a channel of zeros scores 0, here it scores 1"


def _wrong_fraction(returned: Tensor, activation: Tensor) -> str | None:
    wanted = _active(activation)
    if torch.allclose(returned, wanted, atol=1e-5):
        return None
    return f"the fractions {show(wanted)} of entries that are not zero"


ACTIVE_FRACTION = Exercise(
    name="active_fraction",
    signature="active_fraction(activation)",
    section=_SECTION,
    cases=_active_cases,
    properties=(
        Property(
            "returns a float tensor with one number per channel",
            lambda returned, activation: _not_one_a_channel(returned, activation.shape[1]),
            "Axis 0 is the examples, axis 1 the channels, whatever follows are places. Only axis 1 "
            "is left at the end. A comparison gives bool: .float() makes numbers of it.",
        ),
        Property(
            "is higher for channels to keep",
            _high_for_zeros,
            "The paper's APoZ is high for a channel that is mostly zero, the one to prune. Here "
            "higher means keep.",
        ),
        Property(
            "counts the entries that are not zero, over all examples and places",
            _wrong_fraction,
            "Compare with 0 first (a negative number is not zero), then take one mean over the "
            "examples and places together.",
        ),
        UNCHANGED,
    ),
)


def buggy_taylor(activation: Tensor, gradient: Tensor) -> Tensor:
    """a function that adds up the batch first and takes the absolute value at the end"""
    return (activation * gradient).mean(dim=(0, 2, 3)).abs()


def weak_taylor_test(score: Score) -> bool:
    """The test that every wrong score of the bug hunt passes."""
    activation = torch.tensor([1.0, 2.0, 0.5]).view(1, 3, 1, 1)
    gradient = torch.tensor([1.0, 3.0, 0.5]).view(1, 3, 1, 1)
    return score(activation, gradient).argsort().tolist() == [2, 0, 1]


def _taylor_by_mean(activation, gradient):
    """a correct function that takes means over axes"""
    return (activation * gradient).mean(dim=(2, 3)).abs().mean(0)


def _taylor_by_einsum(activation, gradient):
    """a correct function that uses einsum"""
    batch, _, height, width = activation.shape
    slope = torch.einsum("bchw,bchw->bc", activation, gradient)
    return slope.abs().sum(0) / (batch * height * width)


def _taylor_one_by_one(activation, gradient):
    """a correct function that goes through the examples"""
    pairs = zip(activation, gradient, strict=True)
    return torch.stack([(a * g).flatten(1).mean(1).abs() for a, g in pairs]).mean(0)


def _taylor_of_each_place(activation, gradient):
    """a function that takes the absolute value at every place of the map"""
    return (activation * gradient).abs().mean(dim=(0, 2, 3))


def _taylor_signed(activation, gradient):
    """a function that takes no absolute value at all"""
    return (activation * gradient).mean(dim=(0, 2, 3))


def _taylor_by_gradient(activation, gradient):
    """a function that looks at the gradient alone"""
    return gradient.mean(dim=(2, 3)).abs().mean(0)


def _taylor_of_means(activation, gradient):
    """a function that multiplies the mean activation by the mean gradient"""
    return (activation.mean(dim=(2, 3)) * gradient.mean(dim=(2, 3))).abs().mean(0)


def _taylor_of_the_first(activation, gradient):
    """a function that looks at the first example only"""
    return (activation[0] * gradient[0]).mean(dim=(1, 2)).abs()


def _taylor_in_place(activation, gradient):
    """a function that multiplies the activations it was given in place"""
    return activation.mul_(gradient).mean(dim=(2, 3)).abs().mean(0)


KILLS_WRONG_TAYLORS = hunt(
    name="kills_wrong_taylors",
    signature="is_taylor(score)",
    section=_SECTION,
    right=(_taylor_by_mean, _taylor_by_einsum, _taylor_one_by_one),
    alarm="A false alarm. Equation 8: the mean over the places of activation × gradient, its "
    "absolute value for each example, then the mean over the examples. Compare with a tolerance.",
    wrong={
        buggy_taylor: "Try two examples whose slopes are opposite: each alone says that the "
        "channel matters.",
        _taylor_of_each_place: "Try a map of two places that cancel within one example.",
        _taylor_signed: "Try a channel whose slope is negative: removing it changes the loss, too.",
        _taylor_by_gradient: "Try a channel that is zero but has a large gradient.",
        _taylor_of_means: "Try a map on which activation and gradient are not constant.",
        _taylor_of_the_first: "Try more than one example.",
        _taylor_in_place: "Compare the activations after the call with a copy from before it.",
    },
)


Channels = tuple[tuple[float, ...], tuple[int, ...], int]  # scores, costs, budget


def _prune_cases() -> Iterator[Channels]:
    yield from (
        ((0.5, 0.25, 1.0), (2, 2, 2), 4),
        ((1.0, 2.0), (3, 5), 8),
        ((1.0, 2.0), (3, 5), 5),
        ((1.0, 1.0), (3, 3), 3),
        ((1.0, 2.0), (3, 5), 4),
        ((2.0,), (3,), 2),
        ((2.0,), (3,), 3),
        ((0.5, 0.75, 1.0), (1, 6, 2), 7),
        ((0.5, 0.75, 1.0), (1, 6, 2), 8),
        ((0.5, 0.5, 0.5, 1.0), (2, 1, 3, 4), 7),
    )
    generator = torch.Generator().manual_seed(11)
    for n in (2, 3, 4, 5, 6) * 6:
        scores = tuple(draw((n,), generator).abs().tolist())
        costs = tuple(torch.randint(1, 9, (n,), generator=generator).tolist())
        budget = pick(sum(costs), generator)
        if scores.count(max(scores)) == 1:  # else the tie rule decides whether anything fits
            yield scores, costs, budget
    yield tuple(torch.rand(100, generator=generator).tolist()), (1000,) * 100, 33_333


def _order(scores: tuple[float, ...]) -> list[int]:
    """Channels in the order of removal: the lowest score first, of equal ones the later."""
    return sorted(range(len(scores)), key=lambda i: (scores[i], -i))


def _nothing_fits(scores: tuple[float, ...], costs: tuple[int, ...], budget: int) -> bool:
    return costs[_order(scores)[-1]] > budget


def _not_a_set(dead: object, scores: tuple[float, ...], *_: object) -> str | None:
    wanted = f"a set of whole numbers from 0 to {len(scores) - 1}"
    if type(dead) is not set:
        return f"{wanted}, got {kind(dead)}"
    wrong = [i for i in dead if type(i) is not int or not 0 <= i < len(scores)]
    return f"{wanted}, it holds {wrong[0]!r}" if wrong else None


def _costs_too_much(dead: set, scores, costs, budget) -> str | None:
    left = sum(c for i, c in enumerate(costs) if i not in dead)
    return None if left <= budget else f"at most {budget} multiplications left, not {left}"


def _out_of_order(dead: set, scores, costs, budget) -> str | None:
    first = _order(scores)[: len(dead)]
    return None if dead == set(first) else f"the {len(dead)} lowest scores gone: {sorted(first)}"


def _more_than_needed(dead: set, scores, costs, budget) -> str | None:
    if not dead:
        return None
    spared = _order(scores)[len(dead) - 1]
    left = sum(c for i, c in enumerate(costs) if i not in dead or i == spared)
    return (
        f"as few channels gone as possible: {left} fit with channel {spared}, too"
        if left <= budget
        else None
    )


PRUNE_TO = Exercise(
    name="prune_to",
    signature="prune_to(scores, costs, budget)",
    section="lesson All criteria in one bake-off, section “What did it save?”",
    cases=_prune_cases,
    refuses=_nothing_fits,
    properties=(
        Property(
            "returns a set of channel numbers",
            _not_a_set,
            "Start with dead = set() and dead.add(i). Channels are numbered from 0; a tensor's "
            "entry becomes a number by int(...).",
        ),
        Property(
            "leaves no more multiplications than the budget",
            _costs_too_much,
            "Add up the costs of the channels that stay, and go on while that is above the budget.",
        ),
        Property(
            "removes the lowest scores, the later one of equals first",
            _out_of_order,
            "Costs say when to stop, scores say who goes. "
            "sorted(..., key=lambda i: (scores[i], -i)) puts the later of equals first.",
        ),
        Property(
            "removes no more channels than needed",
            _more_than_needed,
            "Ask before each removal whether what is left fits already; exactly the budget fits.",
        ),
        REFUSES,
    ),
)

EXERCISES = (ACTIVE_FRACTION, KILLS_WRONG_TAYLORS, PRUNE_TO)
