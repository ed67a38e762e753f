"""The exercises of the lesson Unstructured vs structured."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import draw, hunt, kind
from course_lib.exercises.exercise import REFUSES, UNCHANGED, Exercise, Property, show


def _cut_cases() -> Iterator[tuple[Tensor, Tensor, Tensor, tuple[int, ...]]]:
    generator = torch.Generator().manual_seed(3)
    for shape, places, dead in (
        ((3, 2), 1, (1,)),
        ((2, 1), 1, (0,)),
        ((3, 1), 2, (1,)),
        ((3, 1), 2, (2, 0)),
        ((3, 2), 1, ()),
        ((4, 1, 2, 2), 3, (0, 3)),
        ((4, 2), 4, (3, 1, 2)),
        ((5, 1, 1, 1), 1, (2, 4)),
        ((16, 8, 3, 3), 9, (0, 5, 6, 15)),
    ):
        weight, bias = draw(shape, generator), draw(shape[:1], generator)
        yield weight, bias, draw((2, shape[0] * places), generator), dead


def _living(weight: Tensor, dead: tuple[int, ...]) -> list[int]:
    return [i for i in range(len(weight)) if i not in dead]


def _not_three_tensors(returned: object, *_: object) -> str | None:
    if type(returned) is not tuple or len(returned) != 3:
        return f"a tuple of three tensors, got {kind(returned)}"
    wrong = [kind(part) for part in returned if not isinstance(part, Tensor)]
    return f"a tuple of three tensors, one is a {wrong[0]}" if wrong else None


def _wrong_filters(returned, weight, bias, _, dead) -> str | None:
    for name, mine, old in zip(("weight", "bias"), returned, (weight, bias), strict=False):
        wanted = old[_living(weight, dead)]
        if mine.shape != wanted.shape:
            return f"a {name} of shape {tuple(wanted.shape)}, got {tuple(mine.shape)}"
        if not torch.equal(mine, wanted):
            return f"the {name} of channels {_living(weight, dead)}, in this order"
    return None


def _wrong_columns(returned, weight, _, next_weight, dead) -> str | None:
    places = next_weight.shape[1] // len(weight)
    columns = [i * places + p for i in _living(weight, dead) for p in range(places)]
    if returned[2].shape == (len(next_weight), len(columns)) and torch.equal(
        returned[2], next_weight[:, columns]
    ):
        return None
    return f"columns {show(columns)} of next_weight ({places} per channel)"


CUT_CHANNELS = Exercise(
    name="cut_channels",
    signature="cut_channels(weight, bias, next_weight, dead)",
    section="lesson Unstructured vs structured, section “Definition → code”",
    cases=_cut_cases,
    properties=(
        Property(
            "returns a tuple of three tensors",
            _not_three_tensors,
            "return weight, bias, next_weight: with commas between them Python makes the tuple.",
        ),
        Property(
            "keeps the weights and biases of the channels that live, in their order",
            _wrong_filters,
            "Make a list of the channels that are not in dead and index the first axis with it: "
            "of the weight and of the bias.",
        ),
        Property(
            "keeps every column of next_weight that reads a living channel, and no other",
            _wrong_columns,
            "flatten puts the places of channel 0 first, then those of channel 1: each channel has "
            "next_weight.shape[1] // len(weight) columns side by side.",
        ),
        UNCHANGED,
    ),
)


def buggy_removal(weight: Tensor, bias: Tensor, next_weight: Tensor, dead: tuple[int, ...]):
    """a function that sets the filters to zero and leaves their biases"""
    weight = weight.clone()
    weight[list(dead)] = 0
    return weight, bias, next_weight


def weak_removal_test(remove: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> bool:
    """The test that every wrong function of the bug hunt passes."""
    weight, bias = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 1.0]]), torch.zeros(3)
    next_weight, x = torch.tensor([[2.0, 1.0, -1.0]]), torch.tensor([1.0, 2.0])
    w, b, v = remove(weight, bias, next_weight, (0,))
    return bool(v @ (w @ x + b).relu() == next_weight[:, 1:] @ (weight[1:] @ x).relu())


def _removal_by_index(weight, bias, next_weight, dead):
    """a correct function that indexes with the living channels"""
    live = _living(weight, dead)
    return weight[live], bias[live], next_weight[:, live]


def _removal_by_mask(weight, bias, next_weight, dead):
    """a correct function that uses a mask"""
    keep = torch.ones(len(weight), dtype=torch.bool)
    keep[list(dead)] = False
    return weight[keep], bias[keep], next_weight[:, keep]


def _removal_one_by_one(weight, bias, next_weight, dead):
    """a correct function that deletes one channel after another, from the last"""
    for i in sorted(dead, reverse=True):
        weight, bias = (torch.cat([t[:i], t[i + 1 :]]) for t in (weight, bias))
        next_weight = torch.cat([next_weight[:, :i], next_weight[:, i + 1 :]], dim=1)
    return weight, bias, next_weight


def _removal_by_zeros(weight, bias, next_weight, dead):
    """a function that silences the channels and makes nothing smaller"""
    next_weight = next_weight.clone()
    next_weight[:, list(dead)] = 0
    return weight, bias, next_weight


def _removal_of_the_first(weight, bias, next_weight, dead):
    """a function that cuts off as many channels as it should, always the first ones"""
    return _removal_by_index(weight, bias, next_weight, tuple(range(len(dead))))


def _removal_of_one(weight, bias, next_weight, dead):
    """a function that removes one channel and ignores the others"""
    return _removal_by_index(weight, bias, next_weight, tuple(dead)[:1])


def _removal_that_shifts(weight, bias, next_weight, dead):
    """a function that deletes one after another and forgets that the numbers move"""
    for i in sorted(dead):
        i = min(i, len(weight) - 1)
        weight, bias, next_weight = _removal_by_index(weight, bias, next_weight, (i,))
    return weight, bias, next_weight


def _removal_without_bias(weight, bias, next_weight, dead):
    """a function that loses the biases of all channels"""
    weight, bias, next_weight = _removal_by_index(weight, bias, next_weight, dead)
    return weight, torch.zeros_like(bias), next_weight


def _removal_in_place(weight, bias, next_weight, dead):
    """a function that also zeroes the channels in the weight it was given"""
    answer = _removal_by_index(weight, bias, next_weight, dead)
    weight[list(dead)] = 0
    return answer


KILLS_WRONG_REMOVALS = hunt(
    name="kills_wrong_removals",
    signature="is_removal(remove)",
    section="lesson Unstructured vs structured, section “Zeroing is not removing”",
    right=(_removal_by_index, _removal_by_mask, _removal_one_by_one),
    alarm="A false alarm. Compare what the layers compute, next_weight @ relu(weight @ x + bias), "
    "with a tolerance, against the old layers whose dead channels are read as zero.",
    wrong={
        buggy_removal: "A channel with a zero filter still says ReLU(bias). Try biases that are "
        "not zero.",
        _removal_by_zeros: "The right numbers, but is anything smaller? Look at the shapes.",
        _removal_of_the_first: "Try a channel from the middle.",
        _removal_of_one: "Try more than one dead channel.",
        _removal_that_shifts: "Try two dead channels, and not only the last ones.",
        _removal_without_bias: "Give the channels that live a bias as well.",
        _removal_in_place: "Compare the weight after the call with a copy from before it.",
    },
)


def _hidden_macs(inputs: int, outputs: int, hidden: int) -> int:
    return inputs * hidden + hidden * hidden + hidden * outputs


def _hidden_cases() -> Iterator[tuple[int, int, int]]:
    yield from ((4, 2, 16), (4, 2, 7), (4, 2, 6), (1, 1, 3), (1, 1, 7), (1, 1, 8), (1, 1, 9))
    yield from ((i, o, b) for i, o in ((2, 1), (3, 5), (10, 10)) for b in range(1, 200, 13))
    yield from ((196, 10, 25_100), (784, 10, 266_200), (196, 10, _hidden_macs(196, 10, 37)))
    yield 196, 10, _hidden_macs(196, 10, 37) - 1
    yield 10, 10, 10**8


def _does_not_fit_macs(hidden: int, inputs: int, outputs: int, budget: int) -> str | None:
    needed = _hidden_macs(inputs, outputs, hidden)
    if hidden >= 1 and needed <= budget:
        return None
    return f"at least one unit and at most {budget} multiplications; {hidden} need {needed}"


def _room_for_more(hidden: int, inputs: int, outputs: int, budget: int) -> str | None:
    needed = _hidden_macs(inputs, outputs, hidden + 1)
    if needed > budget:
        return None
    return f"the widest that fits; {hidden + 1} units need {needed}, within {budget}"


HIDDEN_FOR = Exercise(
    name="hidden_for",
    signature="hidden_for(inputs, outputs, budget)",
    section="lesson Unstructured vs structured, section “What did it save?”",
    cases=_hidden_cases,
    refuses=lambda inputs, outputs, budget: budget < _hidden_macs(inputs, outputs, 1),
    properties=(
        Property(
            "returns a whole number",
            lambda hidden, *_: None if type(hidden) is int else f"an int, got {kind(hidden)}",
            "Half a unit does not exist. int(...) or // makes a whole number; round down.",
        ),
        Property(
            "fits into the budget",
            _does_not_fit_macs,
            "Three matrices: inputs × h, h × h and h × outputs. Which one did you leave out?",
        ),
        Property(
            "is the widest that fits",
            _room_for_more,
            "One unit more must be too much. The cost grows with h², not with h: solve the "
            "quadratic, or count up.",
        ),
        REFUSES,
    ),
)

EXERCISES = (CUT_CHANNELS, KILLS_WRONG_REMOVALS, HIDDEN_FOR)
