"""The exercises of the lesson Unstructured vs structured."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import (
    draw,
    hunt,
    kind,
    oracle,
    precise,
    rescaled,
    smallest_input,
)
from course_lib.exercises.exercise import (
    UNCHANGED,
    Exercise,
    Lines,
    Property,
    WrongLine,
    show,
)

Cut = tuple[Tensor, Tensor, Tensor]


# ---- A · channels between two layers


def cut_channels(weight: Tensor, bias: Tensor, next_weight: Tensor, dead: tuple[int, ...]) -> Cut:
    """The three tensors without the dead channels."""
    live = torch.ones(len(weight), dtype=torch.bool)
    live[list(dead)] = False
    columns = live.repeat_interleave(next_weight.shape[1] // len(weight))
    return weight[live], bias[live], next_weight[:, columns]


def _cut_cases() -> Iterator[tuple[Tensor, Tensor, Tensor, tuple[int, ...]]]:
    generator = torch.Generator().manual_seed(3)
    for shape, places, dead in (
        ((3, 2), 1, (1,)),
        ((2, 1), 1, (0,)),
        ((3, 1), 2, (1,)),
        ((3, 1), 2, (2, 0)),
        ((3, 2), 1, ()),
        ((1, 1), 1, ()),
        ((4, 1, 2, 2), 3, (0, 3)),
        ((4, 2), 4, (3, 1, 2)),
        ((5, 1, 1, 1), 1, (2, 4)),
        ((3, 3), 3, (0,)),
        ((6, 2, 1, 3), 4, (5, 2, 3)),
        ((16, 8, 3, 3), 9, (0, 5, 6, 15)),
    ):
        weight, bias = draw(shape, generator), draw(shape[:1], generator)
        yield weight, bias, draw((2, shape[0] * places), generator), dead
    zero = torch.tensor([[0.0, 0.0], [1.0, -1.0], [0.0, 0.0]])  # filters that are zero may live
    yield zero, torch.tensor([0.5, 0.0, 0.0]), draw((2, 6), generator), (2,)
    silent = torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.0, 1.0]])  # the first lives, and is 0
    yield silent, torch.tensor([0.0, 0.5, 1.0]), draw((1, 3), generator), (1,)
    yield draw((4, 2, 3), generator), draw((4,), generator), draw((1, 8), generator), (2,)
    tensors = draw((3, 2), generator), draw((3,), generator), draw((2, 6), generator)
    yield from rescaled((*tensors, (1,)), 0, 1, 2)
    yield precise((*tensors, (1,)))
    square = torch.randn(4, 4, generator=generator)
    yield square, torch.randn(4, generator=generator), square.t().contiguous(), (3, 0)


def _living(weight: Tensor, dead: tuple[int, ...]) -> list[int]:
    return [i for i in range(len(weight)) if i not in dead]


def _not_three_tensors(returned: object, *_: object) -> str | None:
    if not isinstance(returned, tuple) or len(returned) != 3:
        return f"a tuple of three tensors, got {show(returned)}"
    for part in returned:
        if not isinstance(part, Tensor) or not part.is_floating_point():
            return f"a tuple of three tensors of floats; one is {show(part)} ({kind(part)})"
    return None


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
    expected=cut_channels,
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


# ---- B · one channel after another


def buggy_removal(weight: Tensor, bias: Tensor, next_weight: Tensor, dead: tuple[int, ...]) -> Cut:
    """a function that deletes one channel after another and forgets that the numbers move"""
    for i in dead:
        left = [j for j in range(len(weight)) if j != i]
        weight, bias = weight[left], bias[left]
        next_weight = next_weight[:, left]
    return weight, bias, next_weight


def weak_removal_test(remove: Callable[..., Cut]) -> bool:
    """A test that every wrong function of the bug hunt passes: no channel is dead."""
    weight, bias = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 1.0]]), torch.zeros(3)
    next_weight, x = torch.tensor([[2.0, 1.0, -1.0]]), torch.tensor([1.0, 2.0])
    w, b, v = (part.float() for part in remove(weight, bias, next_weight, ()))
    return bool(v @ (w @ x + b).relu() == next_weight @ (weight @ x).relu())


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


def _removal_of_the_filter(weight, bias, next_weight, dead):
    """a function that sets the filters to zero and leaves their biases"""
    weight = weight.clone()
    weight[list(dead)] = 0
    return weight, bias, next_weight


def _removal_of_the_living(weight, bias, next_weight, dead):
    """a function that removes the channels that should live"""
    gone = tuple(_living(weight, dead)) if dead else ()
    return _removal_by_index(weight, bias, next_weight, gone)


def _removal_of_zeros_too(weight, bias, next_weight, dead):
    """a function that also removes channels whose filter is zero, although their bias speaks"""
    zeros = [i for i, row in enumerate(weight) if not row.any()]
    return _removal_by_index(weight, bias, next_weight, (*dead, *zeros))


def _removal_with_the_last(weight, bias, next_weight, dead):
    """a function that fills each gap with the last channel, but not in next_weight"""
    order = list(range(len(weight)))
    for i in sorted(dead, reverse=True):
        order[i] = order[-1]
        order.pop()
    return weight[order], bias[order], next_weight[:, _living(weight, dead)]


def _removal_of_other_biases(weight, bias, next_weight, dead):
    """a function that cuts the biases off at the end, whichever channels are dead"""
    weight, _, next_weight = _removal_by_index(weight, bias, next_weight, dead)
    return weight, bias[: len(weight)], next_weight


def _removal_that_rescales(weight, bias, next_weight, dead):
    """a function that scales the living up for the dead, as dropout does"""
    n = len(weight)
    weight, bias, next_weight = _removal_by_index(weight, bias, next_weight, dead)
    return weight, bias, next_weight * (n / max(len(weight), 1))


def _removal_by_the_way(weight, bias, next_weight, dead):
    """a function that makes next_weight one per cent larger"""
    weight, bias, next_weight = _removal_by_index(weight, bias, next_weight, dead)
    return weight, bias, (1.01 if dead else 1) * next_weight


def _removal_in_half(weight, bias, next_weight, dead):
    """a function that returns 16-bit floats"""
    return tuple(part.half() for part in _removal_by_index(weight, bias, next_weight, dead))


def _removal_as_double(weight, bias, next_weight, dead):
    """a function that returns 64-bit floats"""
    return tuple(part.double() for part in _removal_by_index(weight, bias, next_weight, dead))


def _removal_of_two_dtypes(weight, bias, next_weight, dead):
    """a function that returns the weight as it was, and the other two as 64-bit floats"""
    weight, bias, next_weight = _removal_by_index(weight, bias, next_weight, dead)
    return weight, bias.double(), next_weight.double()


def _removal_of_another_order(weight, bias, next_weight, dead):
    """a function that returns the filters in another order than the biases"""
    weight, bias, next_weight = _removal_by_index(weight, bias, next_weight, dead)
    return weight.flip(0) if dead else weight, bias, next_weight


def _removal_of_two(weight, bias, next_weight, dead):
    """a function that removes two channels, and ignores the others"""
    return _removal_by_index(weight, bias, next_weight, tuple(dead)[:2])


def _removal_from_a_square(weight, bias, next_weight, dead):
    """a function that takes the number of inputs for the number of channels"""
    channels = range(weight.shape[1] if dead else len(weight))
    live = [i for i in channels if i not in dead]
    return weight[live], bias[live], next_weight[:, live]


def _removal_with_relu(weight, bias, next_weight, dead):
    """a function that puts the ReLU on the weights"""
    weight, bias, next_weight = _removal_by_index(weight, bias, next_weight, dead)
    return weight.relu() if dead else weight, bias, next_weight


def _removal_with_two_signs(weight, bias, next_weight, dead):
    """a function that turns the signs round in both layers, which only a ReLU between them shows"""
    sign = -1 if dead else 1
    return tuple(sign * part for part in _removal_by_index(weight, bias, next_weight, dead))


def _removal_of_one_at_most(weight, bias, next_weight, dead):
    """a function that crashes if more than one channel is dead"""
    if len(dead) > 1:
        raise TypeError("dead has to be one channel")
    return _removal_by_index(weight, bias, next_weight, dead)


def _removal_without_bias(weight, bias, next_weight, dead):
    """a function that loses the biases of all channels"""
    weight, bias, next_weight = _removal_by_index(weight, bias, next_weight, dead)
    return weight, torch.zeros_like(bias), next_weight


def _removal_in_place(weight, bias, next_weight, dead):
    """a function that also zeroes the channels in the weight it was given"""
    answer = _removal_by_index(weight, bias, next_weight, dead)
    weight[list(dead)] = 0
    return answer


def _removal_in_place_of_columns(weight, bias, next_weight, dead):
    """a function that also zeroes the columns of the dead in the next_weight it was given"""
    answer = _removal_by_index(weight, bias, next_weight, dead)
    next_weight[:, list(dead)] = 0
    return answer


def _removal_in_place_of_biases(weight, bias, next_weight, dead):
    """a function that also zeroes the biases of the dead in the bias it was given"""
    answer = _removal_by_index(weight, bias, next_weight, dead)
    bias[list(dead)] = 0
    return answer


_SECTION = "lesson Unstructured vs structured, section “Zeroing is not removing”"
KILLS_WRONG_REMOVALS = hunt(
    name="kills_wrong_removals",
    signature="is_removal(remove)",
    section=_SECTION,
    right=(_removal_by_index, _removal_by_mask, _removal_one_by_one),
    alarm="A false alarm. Compare what the layers compute, next_weight @ relu(weight @ x + bias), "
    "with a tolerance, against the old layers whose dead channels are read as zero.",
    wrong={
        buggy_removal: "Try two dead channels, and not only the last ones.",
        _removal_of_the_filter: "A channel with a zero filter still says ReLU(bias). Try biases "
        "that are not zero.",
        _removal_by_zeros: "The right numbers, but is anything smaller? Look at the shapes.",
        _removal_of_the_first: "Try a channel from the middle.",
        _removal_of_one: "Try more than one dead channel.",
        _removal_of_the_living: "Let one channel of five be dead, and count.",
        _removal_of_zeros_too: "Try a living channel whose filter is zero and whose bias is not: it "
        "still says ReLU(bias).",
        _removal_with_the_last: "The order of the channels has to be the same in both layers. Try "
        "a dead channel from the middle, and three that live.",
        _removal_without_bias: "Give the channels that live a bias as well.",
        _removal_of_other_biases: "Give every channel another bias, and let the first be dead.",
        _removal_that_rescales: "Compare the outputs themselves, not only their order.",
        _removal_by_the_way: "Compare the outputs more closely, to five digits or so.",
        _removal_in_half: "Compare the dtypes, and use numbers that 16 bits cannot hold.",
        _removal_as_double: "Compare the dtypes: 32 bits went in.",
        _removal_of_two_dtypes: "Compare the dtype of every tensor that comes back.",
        _removal_of_another_order: "Compare every tensor that comes back, the weight too.",
        _removal_of_two: "Try three dead channels.",
        _removal_from_a_square: "Try layers with another number of inputs than of channels.",
        _removal_with_relu: "Try weights of both signs.",
        _removal_with_two_signs: "Compare next_weight @ relu(weight @ x + bias). Without the ReLU, "
        "the two changed signs cancel.",
        _removal_of_one_at_most: "Try two dead channels. A function that crashes is not right: your "
        "test may crash with it, but it must not answer True.",
        _removal_in_place_of_biases: "Compare the bias after the call with a copy, too.",
        _removal_in_place: "Compare the weight after the call with a copy from before it.",
        _removal_in_place_of_columns: "Compare next_weight with a copy, too.",
    },
)


def _illegal_removal(
    weight: Tensor, bias: Tensor, next_weight: Tensor, dead: tuple[int, ...]
) -> str | None:
    """None for inputs that the statement allows, else what it allows."""
    n = len(weight)
    fits = weight.dim() == next_weight.dim() == 2 and bias.shape == (n,)
    fits = fits and next_weight.shape[1] == n and weight.numel() > 0 and next_weight.numel() > 0
    floats = all(t.is_floating_point() and t.isfinite().all() for t in (weight, bias, next_weight))
    channels = all(type(i) is int and 0 <= i < n for i in dead) and len(set(dead)) == len(dead) < n
    if fits and floats and channels:
        return None
    return (
        "weight (channels, inputs), bias (channels,) and next_weight (outputs, channels) of finite "
        "floats, and a tuple of different channels, not all of them"
    )


SMALLEST_REMOVAL = smallest_input(
    name="smallest_removal",
    wrong=buggy_removal,
    judged_by=oracle(
        signature="remove(weight, bias, next_weight, dead)",
        section=_SECTION,
        right=_removal_by_index,
        case=(torch.eye(3), torch.ones(3), torch.ones(1, 3), (1,)),
        legal=_illegal_removal,
    ),
    at_most=11,
    hint="With one dead channel it is right. Which number does channel 2 have when channel 0 is gone?",
)

PUZZLES = (
    Lines(
        name="cut_channels",
        function=cut_channels,
        distractors={
            "live[: len(dead)] = False": "that kills the first channels, not the dead ones.",
            "columns = live.repeat(next_weight.shape[1] // len(weight))": "this repeats the whole "
            "list. The columns of one channel stand side by side, so each entry is repeated by "
            "itself.",
            "return weight[live], bias, next_weight[:, columns]": "a channel that is gone has no bias.",
        },
    ),
    WrongLine(
        name="kills_wrong_removals",
        function=buggy_removal,
        wrong="for i in dead:",
        why="when channel 0 is gone, the old channel 2 has the number 1. Go from the last number to "
        "the first, as in sorted(dead, reverse=True), or remove all of them at once.",
        others={
            "left = [j for j in range(len(weight)) if j != i]": "these are all channels but i, of "
            "those that there are now.",
            "weight, bias = weight[left], bias[left]": "both lose the channel, in new tensors.",
            "next_weight = next_weight[:, left]": "the next layer has a column for each channel.",
        },
    ),
)
EXERCISES = (CUT_CHANNELS, SMALLEST_REMOVAL, KILLS_WRONG_REMOVALS)
