"""Answers to the exercises of lesson Deep Compression."""

from itertools import pairwise

import numpy as np
import torch

from course_lib.compression import coding
from course_lib.exercises.deep_compression import (
    buggy_centroid_gradient,
    centroid_gradient,
    relative_entries,
)

# relative_entries


def entries_by_division(positions, values, bits):
    found = []
    for before, position, value in zip([-1, *positions], positions, values, strict=False):
        fillers, rest = divmod(position - before - 1, 2**bits)
        found += [(2**bits - 1, 0.0)] * fillers + [(rest, value)]
    return found


def entries_by_standing(positions, values, bits):
    found, stand = [], -1
    for position, value in zip(positions, values, strict=True):
        while position - stand > 2**bits:
            found.append([2**bits - 1, 0])
            stand += 2**bits
        found.append([position - stand - 1, value])
        stand = position
    return found


def entries_place_by_place(positions, values, bits):
    """Walks over every place of the weight, as a decoder would."""
    found, zeros, wanted = [], 0, dict(zip(positions, values, strict=True))
    for place in range(max(positions, default=-1) + 1):
        if place in wanted or zeros == 2**bits - 1:
            found.append((zeros, wanted.get(place, 0.0)))
            zeros = 0
        else:
            zeros += 1
    return tuple(found)


def entries_by_library(positions, values, bits):
    distances, at = coding.relative(torch.tensor(positions, dtype=torch.int64), bits)
    placed = torch.zeros(len(distances))
    placed[at] = torch.tensor(values, dtype=torch.float32)
    return list(zip(distances.tolist(), placed.tolist(), strict=True))


def entries_in_numpy(positions, values, bits):
    gaps = np.diff(np.array([-1, *positions])) - 1
    found = []
    for gap, value in zip(gaps, values, strict=True):
        found += [(np.int64(2**bits - 1), np.float32(0))] * (gap >> bits)
        found.append((gap & (2**bits - 1), np.float32(value)))
    return found


def entries_recursive(positions, values, bits):
    def one(zeros, value):
        return (
            [(zeros, value)]
            if zeros < 2**bits
            else [(2**bits - 1, 0), *one(zeros - 2**bits, value)]
        )

    gaps = [b - a - 1 for a, b in pairwise([-1, *positions])]
    return [entry for gap, value in zip(gaps, values, strict=True) for entry in one(gap, value)]


def entries_by_tensors(positions, values, bits):
    found, stand = [], torch.tensor(-1)
    for p, v in zip(torch.tensor(positions), torch.tensor(values), strict=True):
        zeros = p - stand - 1
        for _ in range(int(zeros) // 2**bits):
            found.append((torch.tensor(2**bits - 1), torch.tensor(0.0)))
        found.append((zeros % 2**bits, v))
        stand = p
    return found


def entries_by_generator(positions, values, bits):
    def walk():
        stand = -1
        for position, value in zip(positions, values, strict=True):
            while (gap := position - stand - 1) >= 2**bits:
                yield 2**bits - 1, 0.0
                stand += 2**bits
            yield gap, value
            stand = position

    return list(walk())


def entries_distances_only(positions, values, bits):
    return [zeros for zeros, _ in relative_entries(positions, values, bits)]


def entries_two_lists(positions, values, bits):
    entries = relative_entries(positions, values, bits)
    return [zeros for zeros, _ in entries], [value for _, value in entries]


def entries_library_alone(positions, values, bits):
    return coding.relative(torch.tensor(positions, dtype=torch.int64), bits)


def entries_floats(positions, values, bits):
    return [(float(zeros), value) for zeros, value in relative_entries(positions, values, bits)]


def entries_turned_round(positions, values, bits):
    return [(value, zeros) for zeros, value in relative_entries(positions, values, bits)]


def entries_matrix(positions, values, bits):
    return torch.tensor(relative_entries(positions, values, bits))


def entries_without_fillers(positions, values, bits):
    return relative_entries(positions, values, 30)


def entries_of_one_more(positions, values, bits):
    """Distances as in the paper's figure, from 1 on."""
    return [(zeros + 1, value) for zeros, value in relative_entries(positions, values, bits)]


def entries_too_late(positions, values, bits):
    found, stand = [], -1
    for position, value in zip(positions, values, strict=True):
        zeros = position - stand - 1
        while zeros > 2**bits:
            found.append((2**bits - 1, 0.0))
            zeros -= 2**bits
        found.append((zeros, value))
        stand = position
    return found


def entries_positions(positions, values, bits):
    return list(zip(positions, values, strict=True))


def entries_cut_off(positions, values, bits):
    return [(min(d, 2**bits - 1), v) for d, v in relative_entries(positions, values, 30)]


def entries_modulo(positions, values, bits):
    return [(d % 2**bits, v) for d, v in relative_entries(positions, values, 30)]


def entries_from_zero(positions, values, bits):
    """Standing at 0, not before it."""
    shifted = [max(p - 1, 0) for p in positions]
    return relative_entries(shifted, values, bits)


def entries_filler_forgotten(positions, values, bits):
    """A filler that stands for its zeros but not for itself."""
    found, stand = [], -1
    for position, value in zip(positions, values, strict=True):
        zeros = position - stand - 1
        while zeros > 2**bits - 1:
            found.append((2**bits - 1, 0.0))
            zeros -= 2**bits - 1
        found.append((zeros, value))
        stand = position
    return found


def entries_one_filler_at_most(positions, values, bits):
    found, stand = [], -1
    for position, value in zip(positions, values, strict=True):
        zeros = position - stand - 1
        if zeros >= 2**bits:
            found.append((2**bits - 1, 0.0))
            zeros -= 2**bits
        found.append((min(zeros, 2**bits - 1), value))
        stand = position
    return found


def entries_filler_after(positions, values, bits):
    """The weight's value comes first and the fillers after it."""
    found = []
    for before, position, value in zip([-1, *positions], positions, values, strict=False):
        fillers, rest = divmod(position - before - 1, 2**bits)
        found += [(rest, value)] + [(2**bits - 1, 0.0)] * fillers
    return found


def entries_filler_with_value(positions, values, bits):
    found = []
    for before, position, value in zip([-1, *positions], positions, values, strict=False):
        fillers, rest = divmod(position - before - 1, 2**bits)
        found += [(2**bits - 1, value)] * fillers + [(rest, value)]
    return found


def entries_shorter_fillers(positions, values, bits):
    """The filler takes what is left over, and the weight the largest number."""
    found = []
    for before, position, value in zip([-1, *positions], positions, values, strict=False):
        fillers, rest = divmod(position - before - 1, 2**bits)
        if fillers:
            found += [(rest, 0.0)] + [(2**bits - 1, 0.0)] * (fillers - 1)
            rest = 2**bits - 1
        found.append((rest, value))
    return found


def entries_filler_too_early(positions, values, bits):
    found, stand = [], -1
    for position, value in zip(positions, values, strict=True):
        zeros = position - stand - 1
        while zeros >= 2**bits - 1 and zeros > 0:
            found.append((2**bits - 2, 0.0))
            zeros -= 2**bits - 1
        found.append((zeros, value))
        stand = position
    return found


def entries_step_by_step(positions, values, bits):
    """An entry at every position: right, but with a filler for each zero."""
    wanted = dict(zip(positions, values, strict=True))
    return [(0, wanted.get(p, 0.0)) for p in range(max(positions, default=-1) + 1)]


def entries_values_in_order(positions, values, bits):
    entries = relative_entries(positions, values, bits)
    return [(zeros, max(values)) if value else (zeros, 0.0) for zeros, value in entries]


def entries_without_signs(positions, values, bits):
    return [(zeros, abs(value)) for zeros, value in relative_entries(positions, values, bits)]


def entries_in_place(positions, values, bits):
    found = relative_entries(positions, values, bits)
    positions[:] = [zeros for zeros, _ in found]
    return found


def entries_by_popping(positions, values, bits):
    found, stand = [], -1
    while positions:
        position, value = positions.pop(0), values.pop(0)
        found += [
            (zeros, value if last else 0.0) for zeros, last in _steps(position - stand - 1, 2**bits)
        ]
        stand = position
    return found


def _steps(zeros, size):
    fillers, rest = divmod(zeros, size)
    return [(size - 1, False)] * fillers + [(rest, True)]


# smallest_gradient


def gradient_of_one_and_a_half_clusters():
    return torch.tensor([1.0, 1.0]), torch.tensor([0, 0]), 1.5


def gradient_of_two():
    return torch.tensor([1.0, 1.0]), torch.tensor([0, 0]), 1


def gradient_in_numpy():
    return np.array([[0.5], [-2.0]]), np.array([[1], [1]]), 2


def gradient_as_list():
    return [torch.tensor([2.0, 3.0]), torch.tensor([0, 0], dtype=torch.int32), 3]


def gradient_of_three():
    return torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0, 0, 0]), 1


def gradient_as_the_puzzle_says(gradient, index, k):
    sums = gradient.new_zeros(k)
    kept = index >= 0
    sums.index_add_(0, index[kept], gradient[kept])
    return sums


def gradient_of_two_clusters():
    return torch.tensor([1.0, 1.0]), torch.tensor([0, 1]), 2


def gradient_with_pruned():
    return torch.tensor([1.0, 1.0]), torch.tensor([0, -1]), 1


def gradient_with_zero_first():
    return torch.tensor([0.0, 1.0]), torch.tensor([0, 0]), 1


def gradient_outside():
    return torch.tensor([1.0, 1.0]), torch.tensor([1, 1]), 1


def gradient_of_two_shapes():
    return torch.tensor([1.0, 1.0]), torch.tensor([0]), 1


def gradient_without_k():
    return torch.tensor([1.0, 1.0]), torch.tensor([0, 0])


# mended_gradient


def mended_by_index_add(gradient, index, k):
    kept = index >= 0
    return torch.zeros(k).index_add(0, index[kept], gradient[kept].float())


def mended_by_loop(gradient, index, k):
    return torch.stack([gradient[index == c].sum() for c in range(k)])


def mended_by_one_hot(gradient, index, k):
    indicator = index.flatten() == torch.arange(k)[:, None]
    return indicator.to(gradient.dtype) @ gradient.flatten()


def mended_by_bincount(gradient, index, k):
    kept = index >= 0
    return torch.bincount(index[kept], weights=gradient[kept], minlength=k)


def mended_in_python(gradient, index, k):
    sums = [0.0] * k
    for g, c in zip(gradient.flatten().tolist(), index.flatten().tolist(), strict=True):
        if c >= 0:
            sums[c] += g
    return torch.tensor(sums)


def mended_by_autograd(gradient, index, k):
    """The definition: the derivative by the table that the weights are read from."""
    table = torch.zeros(k, dtype=gradient.dtype, requires_grad=True)
    weight = torch.where(index < 0, 0.0, table[index.clamp(min=0)])
    (weight * gradient).sum().backward()
    return table.grad


def mended_in_numpy(gradient, index, k):
    sums, kept = np.zeros(k), (index >= 0).numpy()
    np.add.at(sums, index.numpy()[kept], gradient.numpy()[kept])
    return sums


def mended_by_scatter(gradient, index, k):
    """A place of its own for the pruned weights, which is then left out."""
    sums = gradient.new_zeros(k + 1)
    return sums.scatter_add_(0, index.flatten() + 1, gradient.flatten())[1:]


def mended_by_put(gradient, index, k):
    kept = index >= 0
    return torch.zeros(k, dtype=gradient.dtype).index_put_(
        (index[kept],), gradient[kept], accumulate=True
    )


def mended_mean(gradient, index, k):
    sizes = torch.stack([(index == c).sum() for c in range(k)])
    return mended_by_loop(gradient, index, k) / sizes.clamp(min=1)


def mended_of_pruned_too(gradient, index, k):
    return torch.zeros(k).index_add(0, index.flatten() % k, gradient.flatten().float())


def mended_pruned_in_first(gradient, index, k):
    return mended_by_loop(gradient, index.clamp(min=0), k)


def mended_shorter(gradient, index, k):
    return mended_by_loop(gradient, index, max(1, int(index.max()) + 1))


def mended_list(gradient, index, k):
    return mended_by_loop(gradient, index, k).tolist()


def mended_one_more(gradient, index, k):
    return mended_by_loop(gradient, index - 0, k + 1)


def mended_of_first_row(gradient, index, k):
    return mended_by_loop(gradient[:1], index[:1], k)


def mended_magnitudes(gradient, index, k):
    return mended_by_loop(gradient.abs(), index, k)


def mended_largest(gradient, index, k):
    parts = [gradient[index == c] for c in range(k)]
    return torch.stack([p[p.abs().argmax()] if len(p) else p.sum() for p in parts])


def mended_first_kept(gradient, index, k):
    parts = [gradient[index == c] for c in range(k)]
    return torch.stack([p[0] if len(p) else p.sum() for p in parts])


def mended_negative(gradient, index, k):
    return -mended_by_loop(gradient, index, k)


def mended_normalised(gradient, index, k):
    sums = mended_by_loop(gradient, index, k)
    return sums / sums.norm().clamp(min=1e-12)


def mended_counts(gradient, index, k):
    return torch.stack([(index == c).sum() for c in range(k)]).float()


def mended_per_weight(gradient, index, k):
    return torch.where(index >= 0, mended_by_loop(gradient, index, k)[index.clamp(min=0)], 0.0)


def mended_over_all(gradient, index, k):
    return mended_by_loop(gradient, index, k) / gradient.numel()


def mended_root(gradient, index, k):
    sizes = torch.stack([(index == c).sum() for c in range(k)])
    return mended_by_loop(gradient, index, k) / sizes.clamp(min=1).sqrt()


def mended_two_at_most(gradient, index, k):
    parts = [gradient[index == c] for c in range(k)]
    return torch.stack([p[:2].sum() for p in parts])


def mended_in_place(gradient, index, k):
    gradient[index < 0] = 0
    return mended_by_loop(gradient, index, k)


def mended_index_in_place(gradient, index, k):
    index[index < 0] = k
    return mended_by_loop(gradient, index, k)


def mended_of_a_thousand(gradient, index, k):
    """Takes a cluster for one of at most a thousand weights."""
    kept = index >= 0
    sums = gradient.new_zeros(k).index_add(0, index[kept], gradient[kept])
    count = index[kept].bincount(minlength=k).clamp(min=1)
    return sums * count.clamp(max=1000) / count


def mended_in_half_sums(gradient, index, k):
    kept = index >= 0
    return torch.zeros(k).half().index_add(0, index[kept], gradient[kept].half()).float()


def entries_by_recursion(positions, values, bits, stand=-1):
    if not positions:
        return []
    zeros = positions[0] - stand - 1
    if zeros >= 2**bits:
        filler = stand + 2**bits
        return [(2**bits - 1, 0), *entries_by_recursion(positions, values, bits, filler)]
    rest = entries_by_recursion(positions[1:], values[1:], bits, positions[0])
    return [(zeros, values[0]), *rest]


def entries_of_two_decimals(positions, values, bits):
    return [(zeros, round(value, 2)) for zeros, value in relative_entries(positions, values, bits)]


RIGHT = {
    "relative_entries": [
        relative_entries,
        entries_by_division,
        entries_by_standing,
        entries_place_by_place,
        entries_by_library,
        entries_in_numpy,
        entries_recursive,
        entries_by_tensors,
        entries_by_generator,
        entries_by_recursion,
    ],
    "smallest_gradient": [gradient_of_two, gradient_in_numpy, gradient_as_list],
    "mended_gradient": [
        gradient_as_the_puzzle_says,
        centroid_gradient,
        mended_by_index_add,
        mended_by_loop,
        mended_by_one_hot,
        mended_by_bincount,
        mended_in_python,
        mended_by_autograd,
        mended_in_numpy,
        mended_by_scatter,
        mended_by_put,
    ],
}


WRONG = {
    "relative_entries": [
        (entries_distances_only, "list of pairs"),
        (entries_two_lists, "list of pairs"),
        (entries_library_alone, "list of pairs"),
        (entries_floats, "list of pairs"),
        (entries_turned_round, "list of pairs"),
        (entries_matrix, "list of pairs"),
        (entries_without_fillers, "fit into the bits"),
        (entries_of_one_more, "fit into the bits"),
        (entries_too_late, "fit into the bits"),
        (entries_positions, "fit into the bits"),
        (entries_cut_off, "reaches every position"),
        (entries_modulo, "reaches every position"),
        (entries_from_zero, "reaches every position"),
        (entries_filler_forgotten, "reaches every position"),
        (entries_one_filler_at_most, "reaches every position"),
        (entries_filler_after, "each weight its value"),
        (entries_filler_with_value, "each weight its value"),
        (entries_values_in_order, "each weight its value"),
        (entries_without_signs, "each weight its value"),
        (entries_shorter_fillers, "only where no number"),
        (entries_filler_too_early, "only where no number"),
        (entries_step_by_step, "only where no number"),
        (entries_in_place, "leaves its input"),
        (entries_by_popping, "leaves its input"),
        (entries_of_two_decimals, "its value"),
    ],
    "smallest_gradient": [
        (gradient_without_k, "inputs that the exercise allows"),
        (gradient_of_two_shapes, "inputs that the exercise allows"),
        (gradient_outside, "inputs that the exercise allows"),
        (gradient_of_one_and_a_half_clusters, "inputs that the exercise allows"),
        (gradient_of_three, "at most 4 entries"),
        (gradient_of_two_clusters, "makes buggy_centroid_gradient go wrong"),
        (gradient_with_pruned, "makes buggy_centroid_gradient go wrong"),
        (gradient_with_zero_first, "makes buggy_centroid_gradient go wrong"),
    ],
    "mended_gradient": [
        (mended_shorter, "one number per cluster"),
        (mended_list, "one number per cluster"),
        (mended_one_more, "one number per cluster"),
        (mended_per_weight, "one number per cluster"),
        (buggy_centroid_gradient, "counts every weight"),
        (mended_mean, "sum over the cluster's weights"),
        (mended_of_pruned_too, "sum over the cluster's weights"),
        (mended_pruned_in_first, "sum over the cluster's weights"),
        (mended_of_first_row, "sum over the cluster's weights"),
        (mended_magnitudes, "sum over the cluster's weights"),
        (mended_largest, "sum over the cluster's weights"),
        (mended_first_kept, "sum over the cluster's weights"),
        (mended_negative, "sum over the cluster's weights"),
        (mended_normalised, "sum over the cluster's weights"),
        (mended_counts, "sum over the cluster's weights"),
        (mended_over_all, "sum over the cluster's weights"),
        (mended_root, "sum over the cluster's weights"),
        (mended_two_at_most, "sum over the cluster's weights"),
        (mended_in_place, "leaves its input"),
        (mended_index_in_place, "leaves its input"),
        (mended_of_a_thousand, "without the pruned ones"),
        (mended_in_half_sums, "without the pruned ones"),
    ],
}

HUNTS = {}
