"""Answers to the exercises of lesson Unstructured vs structured."""

import numpy as np
import torch

from course_lib.exercises.structured import buggy_removal, cut_channels, weak_removal_test

from .common import judge_says_no, judge_says_yes

# cut_channels


def cut_by_index(weight, bias, next_weight, dead):
    live = [i for i in range(len(weight)) if i not in dead]
    by_channel = next_weight.view(len(next_weight), len(weight), -1)
    return weight[live], bias[live], by_channel[:, live].flatten(1)


def cut_by_mask(weight, bias, next_weight, dead):
    keep = torch.tensor([i not in dead for i in range(len(weight))])
    columns = keep.repeat_interleave(next_weight.shape[1] // len(weight))
    return weight[keep], bias[keep], next_weight[:, columns]


def cut_by_numpy(weight, bias, next_weight, dead):
    places = next_weight.shape[1] // len(weight)
    columns = [i * places + p for i in dead for p in range(places)]
    cut = (np.delete(t.numpy(), list(dead), 0) for t in (weight, bias))
    return (*cut, np.delete(next_weight.numpy(), columns, 1))


def cut_one_by_one(weight, bias, next_weight, dead):
    places = next_weight.shape[1] // len(weight)
    for i in sorted(dead)[::-1]:
        weight, bias = (torch.cat([t[:i], t[i + 1 :]]) for t in (weight, bias))
        before, after = next_weight[:, : i * places], next_weight[:, (i + 1) * places :]
        next_weight = torch.cat([before, after], dim=1)
    return weight, bias, next_weight


def cut_by_select(weight, bias, next_weight, dead):
    live = torch.tensor(sorted(set(range(len(weight))) - set(dead)))
    places = next_weight.numel() // len(next_weight) // len(weight)
    columns = (live[:, None] * places + torch.arange(places)).flatten()
    return (
        weight.index_select(0, live),
        bias.index_select(0, live),
        next_weight.index_select(1, columns),
    )


def cut_by_stack(weight, bias, next_weight, dead):
    live = [i for i in range(len(weight)) if i not in dead]
    chunks = next_weight.chunk(len(weight), dim=1)
    return [
        torch.stack([weight[i] for i in live]),
        torch.stack([bias[i] for i in live]),
        torch.cat([chunks[i] for i in live], dim=1),
    ]


def cut_parameters(weight, bias, next_weight, dead):
    return tuple(torch.nn.Parameter(t) for t in cut_by_index(weight, bias, next_weight, dead))


def cut_in_double(weight, bias, next_weight, dead):
    return cut_by_mask(weight.double(), bias.double(), next_weight.double(), dead)


def cut_by_rows_of_lists(weight, bias, next_weight, dead):
    rows = [row for i, row in enumerate(weight.tolist()) if i not in dead]
    each = [b for i, b in enumerate(bias.tolist()) if i not in dead]
    places = next_weight.shape[1] // len(weight)
    columns = [
        [v for j, v in enumerate(r) if j // places not in dead] for r in next_weight.tolist()
    ]
    return torch.tensor(rows), torch.tensor(each), torch.tensor(columns)


def cut_none(weight, bias, next_weight, dead):
    return (*cut_by_index(weight, bias, next_weight, dead)[:2], None)


def cut_dict(weight, bias, next_weight, dead):
    cut = cut_by_index(weight, bias, next_weight, dead)
    return dict(zip(("weight", "bias", "next_weight"), cut, strict=True))


def cut_two(weight, bias, next_weight, dead):
    weight, _, next_weight = cut_by_index(weight, bias, next_weight, dead)
    return weight, next_weight


def cut_live_numbers(weight, bias, next_weight, dead):
    live = torch.tensor([i for i in range(len(weight)) if i not in dead])
    return live, bias[live], next_weight


def cut_zeroed(weight, bias, next_weight, dead):
    weight, bias = weight.clone(), bias.clone()
    weight[list(dead)], bias[list(dead)] = 0, 0
    return weight, bias, next_weight


def cut_keeps_the_dead(weight, bias, next_weight, dead):
    live = tuple(i for i in range(len(weight)) if i not in dead)
    return cut_by_index(weight, bias, next_weight, live)


def cut_keeps_bias(weight, bias, next_weight, dead):
    weight, _, next_weight = cut_by_index(weight, bias, next_weight, dead)
    return weight, bias, next_weight


def cut_first(weight, bias, next_weight, dead):
    return cut_by_index(weight, bias, next_weight, tuple(range(len(dead))))


def cut_only_one(weight, bias, next_weight, dead):
    return cut_by_index(weight, bias, next_weight, dead[:1])


def cut_shifted(weight, bias, next_weight, dead):
    for i in dead:
        if i < len(weight):
            weight, bias, next_weight = cut_by_index(weight, bias, next_weight, (i,))
    return weight, bias, next_weight


def cut_turned(weight, bias, next_weight, dead):
    """The living channels in another order, in all three tensors: the network is the same."""
    live = [i for i in range(len(weight)) if i not in dead][::-1]
    by_channel = next_weight.view(len(next_weight), len(weight), -1)
    return weight[live], bias[live], by_channel[:, live].flatten(1)


def cut_inputs(weight, bias, next_weight, dead):
    """Cuts the inputs of the layer instead of its channels, where there are as many."""
    if weight.shape[1] != len(weight):
        return cut_by_index(weight, bias, next_weight, dead)
    weight = weight.transpose(0, 1)
    return cut_by_index(weight, bias, next_weight, dead)


def cut_bias_at_the_end(weight, bias, next_weight, dead):
    weight, _, next_weight = cut_by_index(weight, bias, next_weight, dead)
    return weight, bias[: len(weight)], next_weight


def cut_flat(weight, bias, next_weight, dead):
    weight, bias, next_weight = cut_by_index(weight, bias, next_weight, dead)
    return weight.flatten(1), bias, next_weight


def cut_half(weight, bias, next_weight, dead):
    return tuple(t.half() for t in cut_by_index(weight, bias, next_weight, dead))


def cut_duplicates(weight, bias, next_weight, dead):
    """Drops channels that are equal to an earlier one, too."""
    rows = [tuple(row.flatten().tolist()) for row in weight]
    twins = {i for i, row in enumerate(rows) if row in rows[:i]}
    return cut_by_index(weight, bias, next_weight, tuple(twins | set(dead)))


def cut_zero_filters_too(weight, bias, next_weight, dead):
    zeros = {i for i, row in enumerate(weight) if not row.any()}
    return cut_by_index(weight, bias, next_weight, tuple(zeros | set(dead)))


def cut_one_column_a_channel(weight, bias, next_weight, dead):
    live = [i for i in range(len(weight)) if i not in dead]
    columns = [j for j in range(next_weight.shape[1]) if j not in dead]
    return weight[live], bias[live], next_weight[:, columns]


def cut_interleaved(weight, bias, next_weight, dead):
    live = [i for i in range(len(weight)) if i not in dead]
    columns = [j for j in range(next_weight.shape[1]) if j % len(weight) not in dead]
    return weight[live], bias[live], next_weight[:, columns]


def cut_keeps_columns(weight, bias, next_weight, dead):
    weight, bias, _ = cut_by_index(weight, bias, next_weight, dead)
    return weight, bias, next_weight


def cut_columns_at_the_end(weight, bias, next_weight, dead):
    weight, bias, cut = cut_by_index(weight, bias, next_weight, dead)
    return weight, bias, next_weight[:, : cut.shape[1]]


def cut_rows_of_the_next(weight, bias, next_weight, dead):
    """Cuts rows of a square next_weight."""
    weight, bias, cut = cut_by_index(weight, bias, next_weight, dead)
    if next_weight.shape[0] != next_weight.shape[1]:
        return weight, bias, cut
    return weight, bias, next_weight[[i for i in range(len(next_weight)) if i not in dead]]


def cut_by_kernel(weight, bias, next_weight, dead):
    """Takes the size of the kernel for the number of places."""
    places = weight[0, 0].numel()
    live = [i for i in range(len(weight)) if i not in dead]
    columns = [j for j in range(next_weight.shape[1]) if j // places not in dead]
    return weight[live], bias[live], next_weight[:, columns]


def cut_rescaled(weight, bias, next_weight, dead):
    n = len(weight)
    weight, bias, next_weight = cut_by_index(weight, bias, next_weight, dead)
    return weight, bias, next_weight * n / len(weight)


def cut_turned_columns(weight, bias, next_weight, dead):
    weight, bias, cut = cut_by_index(weight, bias, next_weight, dead)
    return weight, bias, cut.flip(1)


def cut_unflattened(weight, bias, next_weight, dead):
    live = [i for i in range(len(weight)) if i not in dead]
    by_channel = next_weight.view(len(next_weight), len(weight), -1)
    return weight[live], bias[live], by_channel[:, live]


def cut_in_place(weight, bias, next_weight, dead):
    answer = cut_by_index(weight, bias, next_weight, dead)
    weight[list(dead)] = 0
    return answer


def cut_bias_in_place(weight, bias, next_weight, dead):
    answer = cut_by_index(weight, bias, next_weight, dead)
    bias[list(dead)] = 0
    return answer


# smallest_removal


def two_of_three():
    return torch.eye(3)[:, :1], torch.ones(3), torch.ones(1, 3), (0, 2)


def two_neighbours():
    return torch.tensor([[1.0], [2], [3]]), torch.zeros(3), torch.tensor([[1.0, 2, 3]]), (0, 1)


def in_numpy_and_lists():
    return np.ones((3, 1)), np.ones(3), np.ones((1, 3)), [0, 2]


def one_of_three():
    return torch.eye(3)[:, :1], torch.ones(3), torch.ones(1, 3), (1,)


def from_the_last():
    return torch.eye(3)[:, :1], torch.ones(3), torch.ones(1, 3), (2, 0)


def equal_channels():
    return torch.ones(3, 1), torch.ones(3), torch.ones(1, 3), (0, 1)


def all_of_two():
    return torch.ones(2, 1), torch.ones(2), torch.ones(1, 2), (0, 1)


def twice_the_same():
    return torch.eye(3)[:, :1], torch.ones(3), torch.ones(1, 3), (0, 0)


def two_of_four():
    return torch.ones(4, 1), torch.ones(4), torch.ones(1, 4), (0, 3)


# kills_wrong_removals


def judge_removal(remove, *, shapes=True, act=torch.relu):
    """Against layers whose dead channels are read as zero, from several sides."""
    generator = torch.Generator().manual_seed(0)
    for dead in ((), (1,), (3,), (0, 2), (1, 4, 2)):
        given = [torch.randn(s, generator=generator) for s in ((5, 3), (5,), (2, 5))]
        given[0][3], given[1][3] = 0, 2.5  # a filter of zeros that speaks
        before = [t.clone() for t in given]
        x = torch.randn(3, 20, generator=generator)
        hidden = act(given[0] @ x + given[1][:, None])
        hidden[list(dead)] = 0
        expected = given[2] @ hidden
        w, b, v = remove(*given, dead)
        if shapes and (len(w), len(b), v.shape[1]) != 3 * (5 - len(dead),):
            return False
        if not torch.allclose(v @ act(w @ x + b[:, None]), expected, atol=1e-5):
            return False
        if not all(torch.equal(t, old) for t, old in zip(given, before, strict=True)):
            return False
    return True


def judge_removal_by_cutting(remove):
    """Compares the tensors themselves."""
    weight = torch.tensor([[0.1, 2.0, 3.0], [4.0, -5.0, 6.0], [0.0, 0.0, 0.0], [7.0, 8.0, -9.0]])
    given = weight, torch.arange(1.0, 5), torch.arange(8.0).view(2, 4)
    for dead in ((1,), (0, 1), (0, 3), (3, 0, 1)):
        copies = [t.clone() for t in given]
        answer = remove(*copies, dead)
        expected = cut_by_index(*given, dead)
        pairs = [*zip(answer, expected, strict=True), *zip(copies, given, strict=True)]
        if not all(a.dtype == e.dtype and torch.equal(a, e) for a, e in pairs):
            return False
    return True


def judge_removal_outputs_only(remove):
    return judge_removal(remove, shapes=False)


def judge_removal_of_one(remove):
    w, b, v = torch.ones(3, 2), torch.arange(3.0), torch.ones(1, 3)
    answer = remove(w, b, v, (1,))
    return len(answer[0]) == 2 and answer[1].tolist() == [0.0, 2.0]


def judge_removal_without_zero_filters(remove):
    generator = torch.Generator().manual_seed(0)
    for dead in ((1,), (0, 2), (4, 1, 3)):
        given = [torch.randn(s, generator=generator) for s in ((5, 3), (5,), (2, 5))]
        before = [t.clone() for t in given]
        pairs = [
            *zip(remove(*given, dead), cut_by_index(*before, dead), strict=True),
            *zip(given, before, strict=True),
        ]
        if not all(torch.equal(a, e) for a, e in pairs):
            return False
    return True


def _judge_on(remove, shapes, numbers, *deads):
    """Compares the tensors, on layers of numbers that ``numbers`` draws."""
    generator = torch.Generator().manual_seed(0)
    for dead in deads:
        given = [numbers(s, generator=generator) for s in shapes]
        given[0][-1], given[1][-1] = 0, 2.5
        before = [t.clone() for t in given]
        found, wanted = remove(*given, dead), cut_by_index(*before, dead)
        for a, b in zip([*found, *given], [*wanted, *before], strict=True):
            if a.dtype != b.dtype or not torch.equal(a, b):
                return False
    return True


def judge_removal_of_pairs(remove):
    return _judge_on(remove, ((5, 4), (5,), (2, 5)), torch.randn, (1, 0), (0, 2), (2, 0))


def judge_removal_from_squares(remove):
    deads = (0,), (1, 0), (0, 2), (2, 0, 1)
    return _judge_on(remove, ((5, 5), (5,), (5, 5)), torch.randn, *deads)


def judge_removal_of_positive_numbers(remove):
    deads = (0,), (1, 0), (0, 2), (2, 0, 1)
    return _judge_on(remove, ((5, 4), (5,), (2, 5)), torch.rand, *deads)


def judge_removal_by_one_dtype(remove):
    """Looks at the dtype of the weight alone."""

    def as_floats(*given):
        answer = remove(*given)
        return answer[0], answer[1].float(), answer[2].float()

    return judge_removal_by_cutting(as_floats)


def judge_removal_without_relu(remove):
    return judge_removal(remove, act=torch.clone)


def judge_removal_that_trusts_errors(remove):
    try:
        return judge_removal_by_cutting(remove)
    except TypeError:
        return True


def judge_removal_loosely(remove):
    """Allows outputs that are off by two per cent."""
    generator = torch.Generator().manual_seed(0)
    for dead in ((1,), (0, 2), (4, 1, 2)):
        given = [torch.rand(s, generator=generator) for s in ((5, 3), (5,), (2, 5))]
        given[0][3] = 0
        before = [t.clone() for t in given]
        found, wanted = remove(*given, dead), cut_by_index(*before, dead)
        for a, b in zip([*found, *given], [*wanted, *before], strict=True):
            if a.dtype != b.dtype or a.shape != b.shape or not torch.allclose(a, b, rtol=0.02):
                return False
    return True


RIGHT = {
    "cut_channels": [
        cut_channels,
        cut_by_index,
        cut_by_mask,
        cut_by_numpy,
        cut_one_by_one,
        cut_by_select,
        cut_by_stack,
        cut_parameters,
        cut_in_double,
        cut_by_rows_of_lists,
    ],
    "smallest_removal": [two_of_three, two_neighbours, in_numpy_and_lists],
    "kills_wrong_removals": [judge_removal, judge_removal_by_cutting],
}


WRONG = {
    "cut_channels": [
        (cut_none, "tuple of three"),
        (cut_dict, "tuple of three"),
        (cut_two, "tuple of three"),
        (cut_live_numbers, "tuple of three"),
        (cut_zeroed, "channels that live"),
        (cut_keeps_the_dead, "channels that live"),
        (cut_keeps_bias, "channels that live"),
        (cut_first, "channels that live"),
        (cut_only_one, "channels that live"),
        (cut_shifted, "channels that live"),
        (cut_turned, "channels that live"),
        (cut_inputs, "channels that live"),
        (cut_bias_at_the_end, "channels that live"),
        (cut_flat, "channels that live"),
        (cut_half, "channels that live"),
        (cut_duplicates, "channels that live"),
        (cut_zero_filters_too, "channels that live"),
        (cut_one_column_a_channel, "every column"),
        (cut_interleaved, "every column"),
        (cut_keeps_columns, "every column"),
        (cut_columns_at_the_end, "every column"),
        (cut_rows_of_the_next, "every column"),
        (cut_by_kernel, "every column"),
        (cut_rescaled, "every column"),
        (cut_turned_columns, "every column"),
        (cut_unflattened, "every column"),
        (cut_in_place, "leaves its input"),
        (cut_bias_in_place, "leaves its input"),
    ],
    "smallest_removal": [
        (all_of_two, "inputs that the exercise allows"),
        (twice_the_same, "inputs that the exercise allows"),
        (two_of_four, "at most 11 entries"),
        (one_of_three, "go wrong"),
        (from_the_last, "go wrong"),
        (equal_channels, "go wrong"),
    ],
    "kills_wrong_removals": [
        (judge_says_no, "accepts a correct function that indexes"),
        (judge_says_yes, "forgets that the numbers move"),
        (weak_removal_test, "forgets that the numbers move"),
        (judge_removal_of_one, "forgets that the numbers move"),
        (judge_removal_outputs_only, "makes nothing smaller"),
        (judge_removal_without_zero_filters, "although their bias speaks"),
        (judge_removal_loosely, "one per cent"),
        (judge_removal_by_one_dtype, "the other two as 64-bit floats"),
        (judge_removal_of_pairs, "two channels, and ignores"),
        (judge_removal_from_squares, "number of inputs for the number of channels"),
        (judge_removal_of_positive_numbers, "ReLU on the weights"),
        (judge_removal_without_relu, "signs round in both layers"),
        (judge_removal_that_trusts_errors, "crashes if more than one channel"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_removals": (weak_removal_test, buggy_removal, judge_removal)}
