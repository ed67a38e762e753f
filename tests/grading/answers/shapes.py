"""Answers to the exercises of lesson Search for shapes."""

import math

import numpy as np
import torch

from course_lib.exercises.shapes import buggy_survivors, chain_bytes, right_survivors

# chain_bytes


def bytes_by_ceil(sizes, bits):
    layers = zip(sizes[:-1], sizes[1:], bits, strict=True)
    return sum(math.ceil(a * b * n / 8) + 4 * b + 4 * b for a, b, n in layers)


def bytes_by_negation(sizes, bits):
    total = 8 * sum(sizes[1:])
    for k, n in enumerate(bits):
        total -= -sizes[k] * sizes[k + 1] * n // 8
    return total


def bytes_in_numpy(sizes, bits):
    a, b, n = (np.asarray(v, dtype=np.int64) for v in (sizes[:-1], sizes[1:], bits))
    return int((-(-a * b * n // 8) + 8 * b).sum())


def bytes_in_torch(sizes, bits):
    s = torch.tensor(sizes)
    weights = s[:-1] * s[1:] * torch.tensor(bits)
    return ((weights + 7) // 8 + 8 * s[1:]).sum().item()


def bytes_as_float(sizes, bits):
    return float(chain_bytes(sizes, bits))


def bytes_by_remainder(sizes, bits):
    total = 0
    for i in range(len(bits)):
        whole, rest = divmod(sizes[i] * sizes[i + 1] * bits[i], 8)
        total += whole + (rest > 0) + sizes[i + 1] * 8
    return total


def bytes_without_scales(sizes, bits):
    return chain_bytes(sizes, bits) - 4 * sum(sizes[1:])


def bytes_of_weights(sizes, bits):
    return chain_bytes(sizes, bits) - 8 * sum(sizes[1:])


def bytes_rounded_at_the_end(sizes, bits):
    total = sum(a * b * n for a, b, n in zip(sizes, sizes[1:], bits, strict=False))
    return -(-total // 8) + 8 * sum(sizes[1:])


def bytes_rounded_down(sizes, bits):
    return sum(a * b * n // 8 + 8 * b for a, b, n in zip(sizes, sizes[1:], bits, strict=False))


def bytes_not_rounded(sizes, bits):
    return sum(a * b * n / 8 + 8 * b for a, b, n in zip(sizes, sizes[1:], bits, strict=False))


def bytes_in_bits(sizes, bits):
    return 8 * chain_bytes(sizes, bits)


def bytes_scales_of_inputs(sizes, bits):
    return chain_bytes(sizes, bits) + 8 * sum(sizes[:-1]) - 8 * sum(sizes[1:])


def bytes_of_the_first(sizes, bits):
    return chain_bytes(sizes[:2], bits[:1])


def bytes_of_one_width(sizes, bits):
    return chain_bytes(sizes, [bits[0]] * len(bits))


def bytes_one_scale_each(sizes, bits):
    return chain_bytes(sizes, bits) - 4 * sum(sizes[1:]) + 4 * len(bits)


def bytes_list(sizes, bits):
    return [chain_bytes(sizes, bits)]


def bytes_in_32_bits(sizes, bits):
    a, b, n = (np.asarray(v, dtype=np.int32) for v in (sizes[:-1], sizes[1:], bits))
    with np.errstate(over="ignore"):
        return int(((a * b * n + 7) // 8 + 8 * b).sum())


def bytes_in_float32(sizes, bits):
    s = torch.tensor(sizes, dtype=torch.float32)
    weights = s[:-1] * s[1:] * torch.tensor(bits)
    return int(((weights / 8).ceil() + 8 * s[1:]).sum())


def bytes_below_two_gigabytes(sizes, bits):
    return min(chain_bytes(sizes, bits), 2**31 - 1)


def bytes_pops(sizes, bits):
    total = chain_bytes(sizes, bits)
    bits.clear()
    return total


# smallest_survivors


def survivors_crossed_wins():
    return torch.tensor([1.0]), torch.tensor([2.0]), 1


def survivors_in_numpy():
    return np.array([0.0]), np.array([0.5]), 1


def survivors_equal_in_float32():
    return torch.tensor([1.0]).double(), torch.tensor([1 + 1e-15], dtype=torch.float64), 1


def survivors_in_a_list():
    return [torch.tensor([-2.0]), torch.tensor([-1.0]), 1]


def survivors_no_mutated_child():
    return torch.tensor([]), torch.tensor([1.0, 2.0]), 1


def survivors_whole_numbers():
    return torch.tensor([1]), torch.tensor([3]), 1


def survivors_mutated_wins():
    return torch.tensor([2.0]), torch.tensor([1.0]), 1


def survivors_all():
    return torch.tensor([2.0]), torch.tensor([1.0]), 2


def survivors_too_many():
    return torch.tensor([1.0, 2.0]), torch.tensor([3.0]), 1


def survivors_none():
    return torch.tensor([1.0]), torch.tensor([2.0]), 0


def survivors_not_finite():
    return torch.tensor([1.0]), torch.tensor([torch.inf]), 1


def survivors_without_count():
    return torch.tensor([1.0]), torch.tensor([2.0])


def survivors_square():
    return torch.tensor([[1.0]]), torch.tensor([[2.0]]), 1


# mended_survivors


def mended_by_sort(mutated, crossed, count):
    return torch.cat([mutated, crossed]).sort(descending=True, stable=True).indices[:count]


def mended_in_python(mutated, crossed, count):
    scores = [*mutated.tolist(), *crossed.tolist()]
    order = sorted(range(len(scores)), key=lambda k: -scores[k])
    return torch.tensor(order[:count])


def mended_in_numpy(mutated, crossed, count):
    scores = np.concatenate([np.asarray(mutated), np.asarray(crossed)])
    return np.argsort(-scores, kind="stable")[:count]


def mended_one_by_one(mutated, crossed, count):
    scores = torch.cat([mutated, crossed]).clone()
    found = []
    for _ in range(count):
        best = int((scores == scores.max()).nonzero()[0])
        found.append(best)
        scores[best] = -torch.inf
    return torch.tensor(found)


def mended_by_pairs(mutated, crossed, count):
    pool = [(-s, k) for k, s in enumerate(torch.cat([mutated, crossed]).tolist())]
    return torch.tensor([k for _, k in sorted(pool)][:count], dtype=torch.int32)


def mended_list(mutated, crossed, count):
    return right_survivors(mutated, crossed, count).tolist()


def mended_floats(mutated, crossed, count):
    return right_survivors(mutated, crossed, count).float()


def mended_mask(mutated, crossed, count):
    keep = torch.zeros(len(mutated) + len(crossed), dtype=torch.bool)
    keep[right_survivors(mutated, crossed, count)] = True
    return keep


def mended_scores(mutated, crossed, count):
    return torch.cat([mutated, crossed]).sort(descending=True).values[:count]


def mended_all(mutated, crossed, count):
    return right_survivors(mutated, crossed, len(mutated) + len(crossed))


def mended_the_worst(mutated, crossed, count):
    return torch.cat([mutated, crossed]).argsort(stable=True)[:count]


def mended_other_order(mutated, crossed, count):
    return torch.cat([crossed, mutated]).argsort(descending=True, stable=True)[:count]


def mended_half_each(mutated, crossed, count):
    half = min(len(mutated), -(-count // 2))
    first = mutated.argsort(descending=True, stable=True)[:half]
    rest = crossed.argsort(descending=True, stable=True)[: count - half] + len(mutated)
    found = torch.cat([first, rest])
    return found if len(found) == count else right_survivors(mutated, crossed, count)


def mended_only_crossed(mutated, crossed, count):
    order = torch.cat([crossed, mutated]).argsort(descending=True, stable=True)
    pool = torch.arange(len(mutated) + len(crossed)).roll(len(crossed))
    return pool[-count:] if count <= len(crossed) else order[:count]


def mended_unordered(mutated, crossed, count):
    return right_survivors(mutated, crossed, count).sort().values


def mended_later_ties(mutated, crossed, count):
    scores = torch.cat([mutated, crossed]).flip(0)
    return len(scores) - 1 - scores.argsort(descending=True, stable=True)[:count]


def mended_in_half(mutated, crossed, count):
    scores = torch.cat([mutated, crossed]).float()
    return scores.argsort(descending=True, stable=True)[:count]


def mended_in_place(mutated, crossed, count):
    found = right_survivors(mutated, crossed, count)
    crossed -= 1
    return found


def bytes_without_wide_scales(sizes, bits):
    """As if weights of 32 bits needed no scale."""
    wide = [n for n, b in zip(sizes[1:], bits, strict=True) if b >= 32]
    return chain_bytes(sizes, bits) - 4 * sum(wide)


def survivors_of_both(mutated, crossed, count):
    """Fails if there are no crossed children."""
    best = crossed.max()
    return right_survivors(mutated, crossed.clamp(max=best), count)


def survivors_of_the_first_sixty(mutated, crossed, count):
    return right_survivors(mutated[:60], crossed, min(count, 60))


RIGHT = {
    "chain_bytes": [
        chain_bytes,
        bytes_by_ceil,
        bytes_by_negation,
        bytes_in_numpy,
        bytes_in_torch,
        bytes_as_float,
        bytes_by_remainder,
    ],
    "smallest_survivors": [
        survivors_crossed_wins,
        survivors_in_numpy,
        survivors_in_a_list,
        survivors_equal_in_float32,
        survivors_no_mutated_child,
        survivors_whole_numbers,
    ],
    "mended_survivors": [
        right_survivors,
        mended_by_sort,
        mended_in_python,
        mended_in_numpy,
        mended_one_by_one,
        mended_by_pairs,
    ],
}

WRONG = {
    "chain_bytes": [
        (bytes_list, "a whole number of bytes"),
        (bytes_not_rounded, "a whole number of bytes"),
        (bytes_without_scales, "a scale and a bias"),
        (bytes_of_weights, "a scale and a bias"),
        (bytes_rounded_at_the_end, "fills up the last byte"),
        (bytes_rounded_down, "fills up the last byte"),
        (bytes_in_bits, "is the number of bytes"),
        (bytes_scales_of_inputs, "is the number of bytes"),
        (bytes_of_the_first, "is the number of bytes"),
        (bytes_of_one_width, "is the number of bytes"),
        (bytes_one_scale_each, "is the number of bytes"),
        (bytes_below_two_gigabytes, "is the number of bytes"),
        (bytes_in_32_bits, "is the number of bytes"),
        (bytes_in_float32, "is the number of bytes"),
        (bytes_pops, "leaves its input"),
        (bytes_without_wide_scales, "a scale and a bias"),
    ],
    "smallest_survivors": [
        (survivors_without_count, "inputs that the exercise allows"),
        (survivors_none, "inputs that the exercise allows"),
        (survivors_not_finite, "inputs that the exercise allows"),
        (survivors_square, "inputs that the exercise allows"),
        (survivors_too_many, "at most 2 entries"),
        (survivors_mutated_wins, "makes buggy_survivors go wrong"),
        (survivors_all, "makes buggy_survivors go wrong"),
    ],
    "mended_survivors": [
        (mended_list, "returns count different positions"),
        (mended_floats, "returns count different positions"),
        (mended_mask, "returns count different positions"),
        (mended_scores, "returns count different positions"),
        (mended_all, "returns count different positions"),
        (buggy_survivors, "the highest scores"),
        (mended_the_worst, "the highest scores"),
        (mended_other_order, "the highest scores"),
        (mended_half_each, "the highest scores"),
        (mended_only_crossed, "the highest scores"),
        (mended_unordered, "the best first"),
        (mended_later_ties, "the best first"),
        (mended_in_half, "the highest scores"),
        (mended_in_place, "leaves its input"),
        (survivors_of_both, "runs on every input"),
        (survivors_of_the_first_sixty, "count different positions"),
    ],
}

HUNTS = {}
