"""Answers to the exercises of lesson Deep Compression."""

import torch

from course_lib.exercises.deep_compression import (
    buggy_centroid_gradient,
    weak_gradient_test,
)

from .common import judge_says_no, judge_says_yes

# relative_distances


def distances_by_loop(positions, bits):
    found, stand = [], -1
    for position in positions:
        while position - stand > 2**bits:
            found.append(2**bits - 1)
            stand += 2**bits
        found.append(position - stand - 1)
        stand = position
    return found


def distances_by_division(positions, bits):
    found = []
    for before, position in zip([-1, *positions], positions, strict=False):
        fillers, rest = divmod(position - before - 1, 2**bits)
        found += [2**bits - 1] * fillers + [rest]
    return found


def distances_tensor(positions, bits):
    return torch.tensor(distances_by_loop(positions, bits))


def distances_floats(positions, bits):
    return [float(d) for d in distances_by_loop(positions, bits)]


def distances_without_fillers(positions, bits):
    return distances_by_loop(positions, 30)


def distances_of_one_more(positions, bits):
    """Distances as in the paper's figure, from 1 on."""
    return [d + 1 for d in distances_by_loop(positions, bits)]


def distances_cut_off(positions, bits):
    return [min(d, 2**bits - 1) for d in distances_by_loop(positions, 30)]


def distances_from_zero(positions, bits):
    """Standing at 0, not before it."""
    return distances_by_loop([p - 1 for p in positions if p], bits)


def distances_filler_forgotten(positions, bits):
    """A filler that stands for its zeros but not for itself."""
    found, stand = [], -1
    for position in positions:
        while position - stand > 2**bits and bits:
            found.append(2**bits - 1)
            stand += 2**bits - 1
        found.append(min(position - stand - 1, 2**bits - 1))
        stand = position
    return found


def distances_filler_too_early(positions, bits):
    if bits == 0:
        return distances_by_loop(positions, bits)
    found, stand = [], -1
    for position in positions:
        while position - stand >= 2**bits:
            found.append(2**bits - 2)
            stand += 2**bits - 1
            if position == stand:
                break
        else:
            found.append(position - stand - 1)
        stand = position
    return found


def distances_step_by_step(positions, bits):
    """An entry at every position: right, but with a filler for each zero."""
    return [0] * (max(positions, default=-1) + 1)


def distances_in_place(positions, bits):
    found = distances_by_loop(positions, bits)
    positions[:] = found
    return found


# kills_wrong_gradients


def judge_gradient_by_hand(fn):
    gradient = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, -3.0]])
    index = torch.tensor([[0, 0, -1], [1, 0, 1]])
    given = gradient.clone()
    return fn(given, index, 3).tolist() == [19.0, 5.0, 0.0] and torch.equal(given, gradient)


def judge_gradient_by_autograd(fn):
    """The definition: the derivative of the loss by the table that the weights are read from."""
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        gradient = torch.randn(5, 4, generator=g)
        index = torch.randint(-1, 3, (5, 4), generator=g)
        table = torch.zeros(4, requires_grad=True)
        weight = torch.where(index < 0, 0.0, table[index.clamp(min=0)])
        (weight * gradient).sum().backward()
        given = gradient.clone()
        found = fn(given, index, 4)
        if not torch.equal(given, gradient) or found.shape != table.shape:
            return False
        if not torch.allclose(found, table.grad, atol=1e-5):
            return False
    return True


def judge_bitwise(fn):
    gradient = torch.tensor([[0.1, 0.7, 1e8, -1e8]])
    return fn(gradient, torch.tensor([[0, 0, 0, 0]]), 1).tolist() == [0.8]


def judge_without_pruned(fn):
    gradient, index = torch.tensor([[1.0, 2.0], [4.0, 5.0]]), torch.tensor([[0, 0], [1, 1]])
    return fn(gradient, index, 3).tolist() == [3.0, 9.0, 0.0]


def judge_without_empty(fn):
    gradient, index = torch.tensor([[1.0, 2.0], [4.0, 5.0]]), torch.tensor([[0, 0], [1, -1]])
    given = gradient.clone()
    return fn(given, index, 2).tolist() == [3.0, 4.0] and torch.equal(given, gradient)


def judge_one_row(fn):
    gradient, index = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 0, -1]])
    given = gradient.clone()
    return fn(given, index, 2).tolist() == [3.0, 0.0] and torch.equal(given, gradient)


def judge_without_copy(fn):
    gradient = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, -3.0]])
    return fn(gradient, torch.tensor([[0, 0, -1], [1, 0, 1]]), 3).tolist() == [19.0, 5.0, 0.0]


# bits_for


def bits_by_counting(kept, index_bits, budget):
    def size(bits):
        return kept * (bits + index_bits) / 8 + 4 * 2**bits

    if size(1) > budget:
        raise ValueError("not even one bit fits")
    bits = 1
    while size(bits + 1) <= budget:
        bits += 1
    return bits


def bits_by_trying_all(kept, index_bits, budget):
    fits = [b for b in range(1, 65) if kept * (b + index_bits) + 32 * 2**b <= 8 * budget]
    if not fits:
        raise ValueError("budget is too small")
    return max(fits)


def bits_float(kept, index_bits, budget):
    return float(bits_by_counting(kept, index_bits, budget))


def bits_zero(kept, index_bits, budget):
    return bits_by_counting(kept, index_bits, budget) - 1


def bits_without_codebook(kept, index_bits, budget):
    bits_by_counting(kept, index_bits, budget)
    return max(1, int(8 * budget // max(kept, 1)) - index_bits)


def bits_without_index(kept, index_bits, budget):
    bits_by_counting(kept, index_bits, budget)
    return bits_by_counting(kept, 0, budget)


def bits_below_the_budget(kept, index_bits, budget):
    return max(1, bits_by_counting(kept, index_bits, budget - 1))


def bits_one_less(kept, index_bits, budget):
    return max(1, bits_by_counting(kept, index_bits, budget) - 1)


def bits_at_any_price(kept, index_bits, budget):
    return max(
        [b for b in range(1, 65) if kept * (b + index_bits) + 32 * 2**b <= 8 * budget], default=1
    )


RIGHT = {
    "relative_distances": [distances_by_loop, distances_by_division],
    "kills_wrong_gradients": [judge_gradient_by_hand, judge_gradient_by_autograd],
    "bits_for": [bits_by_counting, bits_by_trying_all],
}


WRONG = {
    "relative_distances": [
        (distances_tensor, "list of whole numbers"),
        (distances_floats, "list of whole numbers"),
        (distances_without_fillers, "fit into the bits"),
        (distances_of_one_more, "fit into the bits"),
        (distances_cut_off, "reaches every position"),
        (distances_from_zero, "reaches every position"),
        (distances_filler_forgotten, "reaches every position"),
        (distances_filler_too_early, "no more entries"),
        (distances_step_by_step, "no more entries"),
        (distances_in_place, "leaves its input"),
    ],
    "kills_wrong_gradients": [
        (judge_says_no, "accepts a correct function that adds by index"),
        (judge_bitwise, "accepts a correct function"),
        (judge_says_yes, "overwrite the others"),
        (weak_gradient_test, "overwrite the others"),
        (judge_without_pruned, "counts the pruned"),
        (judge_without_empty, "returns no number"),
        (judge_one_row, "first row only"),
        (judge_without_copy, "in the tensor it was given"),
    ],
    "bits_for": [
        (bits_float, "a whole number of bits"),
        (bits_zero, "a whole number of bits"),
        (bits_without_codebook, "within the budget"),
        (bits_without_index, "within the budget"),
        (bits_below_the_budget, "runs on every input"),
        (bits_one_less, "spends what it may"),
        (bits_at_any_price, "raises a ValueError"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {
    "kills_wrong_gradients": (weak_gradient_test, buggy_centroid_gradient, judge_gradient_by_hand)
}
