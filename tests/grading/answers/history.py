"""Answers to the exercises of lesson History."""

import numpy as np
import torch

from course_lib.pruning import second_order

# obd_cut


def _check(weights, count):
    if not 0 <= count <= len(weights):
        raise ValueError(f"{count} of {len(weights)}")


def _saliency(hessian, weights):
    return hessian.diagonal() * weights.square() / 2


def _cut_by(cost, weights, count, rise=None):
    """Deletes the lowest of `cost`, of equal ones the later, and adds them up."""
    _check(weights, count)
    gone = cost.argsort(descending=True, stable=True)[len(weights) - count :]
    after = weights.clone()
    after[gone] = 0
    return after, (cost if rise is None else rise)[gone].sum()


def obd_by_sort(hessian, weights, count):
    return _cut_by(_saliency(hessian, weights), weights, count)


def obd_by_python(hessian, weights, count):
    n, w = len(weights), weights.tolist()
    if count < 0 or count > n:
        raise ValueError("count")
    cost = [hessian[k, k].item() * w[k] ** 2 / 2 for k in range(n)]
    gone = sorted(range(n), key=lambda k: (cost[k], -k))[:count]
    return torch.tensor([0.0 if k in gone else w[k] for k in range(n)]), sum(cost[k] for k in gone)


def obd_one_by_one(hessian, weights, count):
    _check(weights, count)
    after, rise = weights.clone(), 0.0
    for _ in range(count):
        cost = _saliency(hessian, after).masked_fill(after == 0, torch.inf)
        q = max(k for k in range(len(after)) if cost[k] == cost.min())
        rise += cost[q].item()
        after[q] = 0
    return [after, rise]


def obd_by_rank(hessian, weights, count):
    _check(weights, count)
    cost = _saliency(hessian, weights)
    rank = cost.argsort(descending=True, stable=True).argsort()
    keep = rank < len(weights) - count
    return weights * keep, (cost * ~keep).sum().item()


def obd_numpy(hessian, weights, count):
    _check(weights, count)
    h, w = hessian.numpy(), weights.numpy().copy()
    cost = np.diag(h) * w**2 / 2
    gone = np.lexsort((-np.arange(len(w)), cost))[:count]
    w[gone] = 0
    return w, np.sum(cost[gone])


def obd_by_quadratic_form(hessian, weights, count):
    """Each cost from a step of its own, as the Taylor series has it."""
    _check(weights, count)
    steps = torch.diag(-weights)
    cost = torch.einsum("qi,ij,qj->q", steps, hessian, steps) / 2
    return _cut_by(cost, weights, count)


def obd_in_float32(hessian, weights, count):
    return _cut_by(_saliency(hessian.float(), weights.float()), weights.float(), count)


def obd_by_counting(hessian, weights, count):
    _check(weights, count)
    cost, place = _saliency(hessian, weights), torch.arange(len(weights))
    lower = (cost[None] < cost[:, None]) | (
        (cost[None] == cost[:, None]) & (place[None] > place[:, None])
    )
    gone = lower.sum(1) < count
    return torch.where(gone, torch.zeros_like(weights), weights), float(cost[gone].sum())


def obd_only_weights(hessian, weights, count):
    return obd_by_sort(hessian, weights, count)[0]


def obd_mask(hessian, weights, count):
    after, rise = obd_by_sort(hessian, weights, count)
    return after != 0, rise


def obd_all_costs(hessian, weights, count):
    return obd_by_sort(hessian, weights, count)[0], _saliency(hessian, weights)


def obd_rise_first(hessian, weights, count):
    after, rise = obd_by_sort(hessian, weights, count)
    return rise, after


def obd_left_over(hessian, weights, count):
    """Returns the weights that are left, without zeros."""
    after, rise = obd_by_sort(hessian, weights, count)
    return after[after != 0], rise


def obd_threshold(hessian, weights, count):
    _check(weights, count)
    cost = _saliency(hessian, weights)
    if count == 0:
        return weights.clone(), 0.0
    gone = cost <= cost.kthvalue(count).values
    return weights.masked_fill(gone, 0), cost[gone].sum()


def obd_strict_threshold(hessian, weights, count):
    _check(weights, count)
    cost = _saliency(hessian, weights)
    gone = cost < cost.sort().values[count] if count < len(cost) else cost < torch.inf
    return weights.masked_fill(gone, 0), cost[gone].sum()


def obd_keeps_count(hessian, weights, count):
    _check(weights, count)
    return obd_by_sort(hessian, weights, len(weights) - count)


def obd_one_more(hessian, weights, count):
    _check(weights, count)
    return obd_by_sort(hessian, weights, min(count + 1, len(weights)))


def obd_without_half(hessian, weights, count):
    return _cut_by(2 * _saliency(hessian, weights), weights, count)


def obd_without_square(hessian, weights, count):
    return _cut_by(hessian.diagonal() * weights / 2, weights, count)


def obd_magnitude_once(hessian, weights, count):
    return _cut_by(hessian.diagonal() * weights.abs() / 2, weights, count)


def obd_without_weight(hessian, weights, count):
    return _cut_by(hessian.diagonal() / 2, weights, count)


def obd_by_magnitude(hessian, weights, count):
    return _cut_by(weights.abs(), weights, count, rise=_saliency(hessian, weights))


def obd_row_sums(hessian, weights, count):
    return _cut_by(hessian.sum(1) * weights**2 / 2, weights, count)


def obd_with_mixed_terms(hessian, weights, count):
    return _cut_by(weights * (hessian @ weights) / 2, weights, count)


def obd_as_obs(hessian, weights, count):
    return _cut_by(weights**2 / (2 * torch.linalg.inv(hessian).diagonal()), weights, count)


def obd_squared_curvature(hessian, weights, count):
    return _cut_by((hessian.diagonal() * weights) ** 2 / 2, weights, count)


def obd_over_curvature(hessian, weights, count):
    return _cut_by(weights**2 / (2 * hessian.diagonal().clamp(min=1e-9)), weights, count)


def obd_highest(hessian, weights, count):
    _check(weights, count)
    cost = _saliency(hessian, weights)
    gone = cost.argsort(descending=True, stable=True)[:count]
    return weights.index_fill(0, gone, 0), cost[gone].sum()


def obd_later_stays(hessian, weights, count):
    _check(weights, count)
    cost = _saliency(hessian, weights)
    gone = cost.argsort(stable=True)[:count]
    return weights.index_fill(0, gone, 0), cost[gone].sum()


def obd_ties_by_magnitude(hessian, weights, count):
    """Of equal saliencies the larger weight stays."""
    _check(weights, count)
    cost = _saliency(hessian, weights).tolist()
    size = weights.abs().tolist()
    gone = sorted(range(len(cost)), key=lambda k: (cost[k], size[k], -k))[:count]
    return weights.index_fill(0, torch.tensor(gone, dtype=torch.long), 0), sum(
        cost[k] for k in gone
    )


def obd_moves_the_others(hessian, weights, count):
    after, rise = obd_by_sort(hessian, weights, count)
    keep = after != 0
    if keep.any():
        block, mixed = hessian[keep][:, keep], hessian[keep][:, ~keep]
        after[keep] = weights[keep] + torch.linalg.solve(block, mixed @ weights[~keep])
    return after, rise


def obd_true_rise(hessian, weights, count):
    """The whole quadratic form of the step."""
    after = obd_by_sort(hessian, weights, count)[0]
    step = after - weights
    return after, step @ hessian @ step / 2


def obd_negative_rise(hessian, weights, count):
    after, rise = obd_by_sort(hessian, weights, count)
    return after, -rise


def obd_mean_rise(hessian, weights, count):
    after, rise = obd_by_sort(hessian, weights, count)
    return after, rise / max(count, 1)


def obd_last_cost(hessian, weights, count):
    """The dearest of the deleted, not the sum."""
    after = obd_by_sort(hessian, weights, count)[0]
    cost = _saliency(hessian, weights)[after == 0]
    return after, cost.max() if count else 0.0


def obd_rise_of_kept(hessian, weights, count):
    after = obd_by_sort(hessian, weights, count)[0]
    return after, _saliency(hessian, after).sum()


def obd_in_place(hessian, weights, count):
    after, rise = obd_by_sort(hessian, weights, count)
    return weights.copy_(after), rise


def obd_of_any_count(hessian, weights, count):
    count = max(0, min(count, len(weights)))
    return obd_by_sort(hessian, weights, count)


def obd_slices(hessian, weights, count):
    """A slice forgives a count that is too large."""
    cost = _saliency(hessian, weights)
    order = sorted(range(len(weights)), key=lambda k: (cost[k].item(), -k))
    gone = torch.tensor(order[:count], dtype=torch.long)
    return weights.index_fill(0, gone, 0), cost[gone].sum()


def obd_never_all(hessian, weights, count):
    if not 0 <= count < len(weights):
        raise ValueError("one weight has to stay")
    return obd_by_sort(hessian, weights, count)


def obd_never_none(hessian, weights, count):
    if not 0 < count <= len(weights):
        raise ValueError("nothing to do")
    return obd_by_sort(hessian, weights, count)


# the smallest Hessian


def smallest_tilted():
    return torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([1.0, 1.0])


def smallest_tilted_list():
    return [torch.tensor([[4, 3], [3, 4]]), torch.tensor([0, 1])]


def smallest_numpy():
    return np.array([[1.0, 0.8], [0.8, 1.0]]), np.array([1.6, 1.2])


def smallest_of_unlike_units():
    hessian = torch.tensor([[1e100, 0.9], [0.9, 1e-100]], dtype=torch.float64)
    return hessian, torch.tensor([1e-30, 1e60], dtype=torch.float64)


def smallest_nearly_singular():
    hessian = torch.tensor([[1, 1e-9 - 1], [1e-9 - 1, 1]], dtype=torch.float64)
    return hessian, torch.tensor([-7.0, 0.0], dtype=torch.float64)


def smallest_of_tiny_curvature():
    hessian = torch.tensor([[2e-300, 1e-300], [1e-300, 2e-300]], dtype=torch.float64)
    return hessian, torch.tensor([1e100, -1e100], dtype=torch.float64)


def smallest_diagonal():
    return torch.tensor([[2.0, 0.0], [0.0, 5.0]]), torch.tensor([1.0, 1.0])


def smallest_of_one():
    return torch.tensor([[2.0]]), torch.tensor([1.0])


def smallest_without_weights():
    return torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.zeros(2)


def smallest_indefinite():
    return torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.ones(2)


def smallest_singular():
    return torch.tensor([[1.0, 3.0], [3.0, 9.0]]), torch.ones(2)


def smallest_without_curvature():
    return torch.eye(3) - torch.tensor([1.0, 0.0, 0.0]).diag(), torch.ones(3)


def smallest_overflowing():
    hessian = torch.tensor([1e-320, 1.0, 1.0], dtype=torch.float64).diag()
    hessian[0, 2] = hessian[2, 0] = 1e300
    return hessian, torch.ones(3, dtype=torch.float64)


def smallest_not_symmetric():
    return torch.tensor([[2.0, 1.0], [0.0, 2.0]]), torch.ones(2)


def smallest_of_three():
    return torch.eye(3) + 0.5, torch.ones(3)


def smallest_other_way_round():
    return torch.ones(2), torch.tensor([[2.0, 1.0], [1.0, 2.0]])


# mended_obs_saliency


def obs_by_inverse(hessian, weights):
    return weights**2 / (2 * torch.linalg.inv(hessian).diagonal())


def obs_by_cholesky(hessian, weights):
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return weights.square() / inverse.diagonal() / 2


def obs_by_elimination(hessian, weights):
    found = []
    for q in range(len(weights)):
        rest = [k for k in range(len(weights)) if k != q]
        block, row = hessian[rest][:, rest], hessian[q, rest]
        curvature = hessian[q, q] - row @ torch.linalg.solve(block, row)
        found.append(curvature * weights[q] ** 2 / 2)
    return torch.stack(found)


def obs_by_solving(hessian, weights):
    inverse = torch.linalg.solve(hessian, torch.eye(len(weights), dtype=hessian.dtype))
    return 0.5 * weights * weights / torch.diagonal(inverse)


def obs_numpy(hessian, weights):
    return weights.numpy() ** 2 / (2 * np.diag(np.linalg.inv(hessian.numpy())))


def obs_of_the_library(hessian, weights):
    return second_order.saliency(weights, torch.linalg.inv(hessian))


def obs_by_eigenvectors(hessian, weights):
    values, vectors = torch.linalg.eigh(hessian)
    return weights**2 / (2 * (vectors**2 / values).sum(1))


def obs_by_moving(hessian, weights):
    """The rise at the end of the cheapest move."""
    inverse, found = torch.linalg.inv(hessian), []
    for q in range(len(weights)):
        step = -weights[q] / inverse[q, q] * inverse[:, q]
        found.append((step @ hessian @ step / 2).item())
    return torch.tensor(found)


def obs_list(hessian, weights):
    return obs_by_inverse(hessian, weights).tolist()


def obs_lowest(hessian, weights):
    return obs_by_inverse(hessian, weights).min()


def obs_matrix(hessian, weights):
    return weights**2 / (2 * torch.linalg.inv(hessian))


def obs_without_half(hessian, weights):
    return 2 * obs_by_inverse(hessian, weights)


def obs_signed(hessian, weights):
    return weights / (2 * torch.linalg.inv(hessian).diagonal())


def obs_times_inverse(hessian, weights):
    return weights**2 * torch.linalg.inv(hessian).diagonal() / 2


def obs_row_sums(hessian, weights):
    return weights**2 / (2 * torch.linalg.inv(hessian).sum(1))


def obs_inverse_of_diagonal(hessian, weights):
    return weights**2 * hessian.diagonal() / 2


def obs_of_diagonal_matrix(hessian, weights):
    return obs_by_inverse(hessian.diagonal().diag(), weights)


def obs_by_entries(hessian, weights):
    inverse = torch.where(hessian == 0, torch.zeros_like(hessian), 1 / hessian)
    return weights**2 / (2 * inverse.diagonal())


def obs_pseudo_with_small_cut(hessian, weights):
    return weights**2 / (2 * torch.linalg.pinv(hessian, rtol=1e-6).diagonal())


def obs_pseudo_with_cut(hessian, weights):
    """A pseudo-inverse that throws small directions away."""
    return weights**2 / (2 * torch.linalg.pinv(hessian, rtol=0.2).diagonal().clamp(min=1e-12))


def obs_damped(hessian, weights):
    damped = hessian + 0.01 * torch.eye(len(weights), dtype=hessian.dtype)
    return obs_by_inverse(damped, weights)


def obs_absolute(hessian, weights):
    return weights**2 / (2 * torch.linalg.inv(hessian).abs().sum(1))


def obs_normalised(hessian, weights):
    found = obs_by_inverse(hessian, weights)
    return found / found.sum().clamp(min=1e-12)


def obs_ranks(hessian, weights):
    return obs_by_inverse(hessian, weights).argsort().argsort().to(hessian.dtype)


def obs_by_transposed_cholesky(hessian, weights):
    """The diagonal of the factor, squared, for the curvature of each weight."""
    return weights**2 * torch.linalg.cholesky(hessian).diagonal() ** 2 / 2


def obs_half_precision(hessian, weights):
    return obs_by_inverse(hessian, weights).half()


def obs_in_place(hessian, weights):
    found = obs_by_inverse(hessian, weights)
    weights.square_()
    return found


def obs_hessian_in_place(hessian, weights):
    found = obs_by_inverse(hessian, weights)
    hessian.copy_(torch.linalg.inv(hessian))
    return found


def obd_in_bfloat16(hessian, weights, count):
    cost = _saliency(hessian, weights)
    return _cut_by(cost.bfloat16(), weights, count, cost)


def obd_rounded_rise(hessian, weights, count):
    after, rise = obd_by_sort(hessian, weights, count)
    return after, round(float(rise), 6)


def obs_plus_epsilon(hessian, weights):
    return obs_by_inverse(hessian, weights) + 1e-12


RIGHT = {
    "obd_cut": [
        obd_by_sort,
        obd_by_python,
        obd_one_by_one,
        obd_by_rank,
        obd_numpy,
        obd_by_quadratic_form,
        obd_by_counting,
    ],
    "smallest_hessian": [
        smallest_tilted,
        smallest_tilted_list,
        smallest_numpy,
        smallest_of_unlike_units,
        smallest_nearly_singular,
        smallest_of_tiny_curvature,
    ],
    "mended_obs_saliency": [
        obs_by_inverse,
        obs_by_cholesky,
        obs_by_elimination,
        obs_by_solving,
        obs_numpy,
        obs_of_the_library,
        obs_by_eigenvectors,
        obs_by_moving,
    ],
}

WRONG = {
    "obd_cut": [
        (obd_only_weights, "a pair of new weights"),
        (obd_mask, "a pair of new weights"),
        (obd_all_costs, "a pair of new weights"),
        (obd_rise_first, "a pair of new weights"),
        (obd_left_over, "a pair of new weights"),
        (obd_threshold, "deletes `count`"),
        (obd_strict_threshold, "deletes `count`"),
        (obd_keeps_count, "deletes `count`"),
        (obd_one_more, "deletes `count`"),
        (obd_moves_the_others, "leaves the other weights"),
        (obd_without_square, "lowest saliency"),
        (obd_magnitude_once, "lowest saliency"),
        (obd_without_weight, "lowest saliency"),
        (obd_by_magnitude, "lowest saliency"),
        (obd_row_sums, "lowest saliency"),
        (obd_with_mixed_terms, "lowest saliency"),
        (obd_as_obs, "lowest saliency"),
        (obd_squared_curvature, "lowest saliency"),
        (obd_over_curvature, "lowest saliency"),
        (obd_highest, "lowest saliency"),
        (obd_later_stays, "earlier of equal"),
        (obd_ties_by_magnitude, "earlier of equal"),
        (obd_without_half, "the sum of the deleted"),
        (obd_true_rise, "the sum of the deleted"),
        (obd_negative_rise, "the sum of the deleted"),
        (obd_mean_rise, "the sum of the deleted"),
        (obd_last_cost, "the sum of the deleted"),
        (obd_rise_of_kept, "the sum of the deleted"),
        (obd_in_place, "leaves its input"),
        (obd_of_any_count, "raises a ValueError"),
        (obd_slices, "raises a ValueError"),
        (obd_never_all, "wherever there is one"),
        (obd_never_none, "wherever there is one"),
        (obd_in_bfloat16, "lowest saliency"),
        (obd_rounded_rise, "sum of the deleted"),
        (obd_in_float32, "lowest saliency"),
    ],
    "smallest_hessian": [
        (smallest_indefinite, "inputs that the exercise allows"),
        (smallest_singular, "inputs that the exercise allows"),
        (smallest_without_curvature, "inputs that the exercise allows"),
        (smallest_overflowing, "inputs that the exercise allows"),
        (smallest_not_symmetric, "inputs that the exercise allows"),
        (smallest_other_way_round, "inputs that the exercise allows"),
        (smallest_of_three, "at most 6 entries"),
        (smallest_diagonal, "makes buggy_obs_saliency go wrong"),
        (smallest_of_one, "makes buggy_obs_saliency go wrong"),
        (smallest_without_weights, "makes buggy_obs_saliency go wrong"),
    ],
    "mended_obs_saliency": [
        (obs_list, "one number for each weight"),
        (obs_lowest, "one number for each weight"),
        (obs_matrix, "one number for each weight"),
        (obs_without_half, "when the Hessian is diagonal"),
        (obs_signed, "when the Hessian is diagonal"),
        (obs_times_inverse, "when the Hessian is diagonal"),
        (obs_damped, "when the Hessian is diagonal"),
        (obs_normalised, "when the Hessian is diagonal"),
        (obs_ranks, "when the Hessian is diagonal"),
        (obs_pseudo_with_cut, "when the Hessian is diagonal"),
        (obs_pseudo_with_small_cut, "the other weights move"),
        (obs_row_sums, "the other weights move"),
        (obs_inverse_of_diagonal, "the other weights move"),
        (obs_of_diagonal_matrix, "the other weights move"),
        (obs_by_entries, "the other weights move"),
        (obs_absolute, "the other weights move"),
        (obs_by_transposed_cholesky, "the other weights move"),
        (obs_half_precision, "one number for each weight"),
        (obs_in_place, "leaves its input"),
        (obs_hessian_in_place, "leaves its input"),
        (obs_plus_epsilon, "the other weights move"),
    ],
}

HUNTS = {}
