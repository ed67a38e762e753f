"""Answers to the exercises of lesson Unstructured vs structured."""

import math

import torch

from course_lib.exercises.structured import buggy_removal, weak_removal_test

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


def cut_list(weight, bias, next_weight, dead):
    return list(cut_by_index(weight, bias, next_weight, dead))


def cut_none(weight, bias, next_weight, dead):
    return (*cut_by_index(weight, bias, next_weight, dead)[:2], None)


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


def cut_one_column_a_channel(weight, bias, next_weight, dead):
    live = [i for i in range(len(weight)) if i not in dead]
    columns = [j for j in range(next_weight.shape[1]) if j not in dead]
    return weight[live], bias[live], next_weight[:, columns]


def cut_interleaved(weight, bias, next_weight, dead):
    live = [i for i in range(len(weight)) if i not in dead]
    columns = [j for j in range(next_weight.shape[1]) if j % len(weight) not in dead]
    return weight[live], bias[live], next_weight[:, columns]


def cut_in_place(weight, bias, next_weight, dead):
    answer = cut_by_index(weight, bias, next_weight, dead)
    weight[list(dead)] = 0
    return answer


# kills_wrong_removals


def judge_removal(remove, *, shapes=True):
    """Against layers whose dead channels are read as zero, from several sides."""
    generator = torch.Generator().manual_seed(0)
    for dead in ((), (1,), (3,), (0, 2), (4, 1, 2)):
        given = [torch.randn(s, generator=generator) for s in ((5, 3), (5,), (2, 5))]
        before = [t.clone() for t in given]
        x = torch.randn(3, 20, generator=generator)
        hidden = (given[0] @ x + given[1][:, None]).relu()
        hidden[list(dead)] = 0
        expected = given[2] @ hidden
        w, b, v = remove(*given, dead)
        if shapes and len(w) != 5 - len(dead):
            return False
        if not torch.allclose(v @ (w @ x + b[:, None]).relu(), expected, atol=1e-5):
            return False
        if not all(torch.equal(t, old) for t, old in zip(given, before, strict=True)):
            return False
    return True


def judge_removal_by_cutting(remove):
    """Compares the tensors themselves."""
    given = torch.arange(1.0, 13).view(4, 3), torch.arange(1.0, 5), torch.arange(8.0).view(2, 4)
    for dead in ((2,), (0, 2), (1, 3)):
        answer = remove(*(t.clone() for t in given), dead)
        expected = cut_by_index(*given, dead)
        if not all(torch.equal(a, e) for a, e in zip(answer, expected, strict=True)):
            return False
    weight = given[0].clone()
    remove(weight, *given[1:], (1,))
    return torch.equal(weight, given[0])


def judge_removal_outputs_only(remove):
    return judge_removal(remove, shapes=False)


def judge_removal_of_one(remove):
    w, b, v = torch.ones(3, 2), torch.arange(3.0), torch.ones(1, 3)
    answer = remove(w, b, v, (1,))
    return len(answer[0]) == 2 and answer[1].tolist() == [0.0, 2.0]


# hidden_for


def hidden_by_counting(inputs, outputs, budget):
    hidden = 0
    while (hidden + 1) * (inputs + outputs + hidden + 1) <= budget:
        hidden += 1
    if hidden == 0:
        raise ValueError(f"budget {budget} does not hold one unit")
    return hidden


def hidden_by_root(inputs, outputs, budget):
    both = inputs + outputs
    hidden = (math.isqrt(both * both + 4 * budget) - both) // 2
    if hidden < 1:
        raise ValueError("budget too small")
    return hidden


def hidden_float(inputs, outputs, budget):
    both = inputs + outputs
    hidden_by_root(inputs, outputs, budget)
    return (math.sqrt(both * both + 4 * budget) - both) / 2


def hidden_up(inputs, outputs, budget):
    return math.ceil(hidden_float(inputs, outputs, budget) + 1e-9)


def hidden_linear(inputs, outputs, budget):
    hidden_by_root(inputs, outputs, budget)
    return budget // (inputs + outputs)


def hidden_strictly_below(inputs, outputs, budget):
    return max(1, hidden_by_root(inputs, outputs, budget) - 1)


def hidden_without_error(inputs, outputs, budget):
    return hidden_by_root(inputs, outputs, max(budget, inputs + outputs + 1))


RIGHT = {
    "cut_channels": [cut_by_index, cut_by_mask],
    "kills_wrong_removals": [judge_removal, judge_removal_by_cutting],
    "hidden_for": [hidden_by_counting, hidden_by_root],
}


WRONG = {
    "cut_channels": [
        (cut_list, "tuple of three"),
        (cut_none, "tuple of three"),
        (cut_zeroed, "channels that live"),
        (cut_keeps_the_dead, "channels that live"),
        (cut_keeps_bias, "channels that live"),
        (cut_one_column_a_channel, "every column"),
        (cut_interleaved, "every column"),
        (cut_in_place, "leaves its input"),
    ],
    "kills_wrong_removals": [
        (judge_says_no, "accepts a correct function that indexes"),
        (judge_says_yes, "leaves their biases"),
        (weak_removal_test, "leaves their biases"),
        (judge_removal_outputs_only, "makes nothing smaller"),
        (judge_removal_of_one, "removes one channel and ignores"),
    ],
    "hidden_for": [
        (hidden_float, "whole number"),
        (hidden_up, "fits into"),
        (hidden_linear, "fits into"),
        (hidden_strictly_below, "widest"),
        (hidden_without_error, "raises a ValueError"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_removals": (weak_removal_test, buggy_removal, judge_removal)}
