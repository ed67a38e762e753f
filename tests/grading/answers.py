"""Answers to every exercise: right ones in several styles, and the mistakes that people make.

`RIGHT[exercise]` lists functions; `WRONG[exercise]` pairs a function with words from the property
that must be the first to refuse it.
"""

import math

import torch

from course_lib.grading.exercises.criteria import buggy_magnitude_mask, weak_mask_test
from course_lib.grading.exercises.history import buggy_obs_saliency, weak_saliency_test
from course_lib.grading.exercises.pipeline import buggy_next_round, weak_round_test
from course_lib.grading.exercises.prune_rate import buggy_total_sparsity, weak_sparsity_test
from course_lib.grading.exercises.structured import buggy_removal, weak_removal_test

# magnitude_mask


def mask_by_topk(weight, sparsity):
    """Ties made different by the position: float64 has room for both."""
    size = weight.abs().flatten()
    rank = torch.unique(size, return_inverse=True)[1] * size.numel() - torch.arange(size.numel())
    keep = torch.zeros(size.numel(), dtype=torch.bool)
    keep[rank.topk(size.numel() - round(sparsity * size.numel())).indices] = True
    return keep.view_as(weight)


def mask_by_python(weight, sparsity):
    values = weight.flatten().tolist()
    order = sorted(range(len(values)), key=lambda i: abs(values[i]), reverse=True)
    kept = set(order[: len(values) - round(sparsity * len(values))])
    return torch.tensor([i in kept for i in range(len(values))]).reshape(weight.shape)


def mask_by_numpy(weight, sparsity):
    size = weight.abs().numpy().ravel()
    order = (-size).argsort(kind="stable")
    keep = torch.ones(size.size, dtype=torch.bool)
    keep[torch.from_numpy(order[size.size - round(sparsity * size.size) :])] = False
    return keep.reshape(weight.shape)


def mask_list(weight, sparsity):
    return mask_by_python(weight, sparsity).tolist()


def mask_array(weight, sparsity):
    return mask_by_python(weight, sparsity).numpy()


def mask_float(weight, sparsity):
    return mask_by_python(weight, sparsity).float()


def mask_flat(weight, sparsity):
    return mask_by_python(weight, sparsity).flatten()


def mask_upside_down(weight, sparsity):
    return ~mask_by_python(weight, sparsity)


def mask_one_too_many(weight, sparsity):
    n = weight.numel()
    return mask_by_python(weight, min(1.0, (round(sparsity * n) + 1) / n))


def mask_quantile(weight, sparsity):
    return weight.abs() > weight.abs().quantile(sparsity)


def mask_up(weight, sparsity):
    return mask_by_python(weight, math.ceil(sparsity * weight.numel()) / weight.numel())


def mask_signed(weight, sparsity):
    return mask_by_python(weight - weight.min(), sparsity)


def mask_later_stays(weight, sparsity):
    return mask_by_python(weight.flatten().flip(0), sparsity).flip(0).reshape(weight.shape)


def mask_in_place(weight, sparsity):
    return mask_by_python(weight.abs_(), sparsity)


def mask_kthvalue(weight, sparsity):
    size = weight.abs().flatten()
    return weight.abs() > size.kthvalue(round(sparsity * size.numel())).values


# kills_wrong_masks


def judge_by_oracle(mask_fn):
    for weight in (torch.arange(-5.0, 4.0).reshape(3, 3), torch.ones(7), torch.tensor([-1.0, 0.5])):
        for sparsity in (0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0):
            given = weight.clone()
            if not torch.equal(mask_fn(given, sparsity), mask_by_python(weight, sparsity)):
                return False
            if not torch.equal(given, weight):
                return False
    return True


def judge_by_counting(mask_fn):
    """Random inputs; nothing about the order of ties."""
    for _ in range(100):
        weight = torch.randint(-3, 4, (torch.randint(1, 12, ()).item(),)).float()
        sparsity = torch.rand(()).item() * torch.randint(0, 2, ()).item()
        before = weight.clone()
        keep = mask_fn(weight, sparsity)
        size = before.abs()
        if (~keep).sum().item() != round(sparsity * len(weight)) or (weight != before).any():
            return False
        if keep.any() and not keep.all() and size[keep].min() < size[~keep].max():
            return False
    return True


def judge_says_yes(mask_fn):
    return True


def judge_says_no(mask_fn):
    return False


def judge_by_tensor(mask_fn):
    return torch.tensor(judge_by_oracle(mask_fn))


def judge_on_distinct(mask_fn):
    weight = torch.tensor([-3.0, 2.0, 1.0, -0.5])
    return torch.equal(mask_fn(weight, 0.5), torch.tensor([True, True, False, False]))


def judge_demands_later(mask_fn):
    """Expects the later of two equal weights to stay."""
    return mask_fn(torch.ones(2), 0.5).tolist() == [False, True]


def judge_without_ends(mask_fn):
    """Everything but the two ends of the range."""
    weight = torch.tensor([-3.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.25])
    for sparsity in (0.1, 0.3, 0.5, 0.6, 0.7, 0.9):
        given = weight.clone()
        same = torch.equal(mask_fn(given, sparsity), mask_by_python(weight, sparsity))
        if not same or not torch.equal(given, weight):
            return False
    return True


def judge_crashes(mask_fn):
    return mask_fn(torch.ones(3), 0.5)[5]


# sparsity_for


def budget_by_division(shape, budget):
    rows, columns = shape
    places = (budget - 4 * (rows + 1)) // 8
    if places < 0:
        raise ValueError(f"budget: {budget} bytes do not hold the row pointers")
    return max(0, rows * columns - places) / (rows * columns)


def budget_by_bisection(shape, budget):
    n = shape[0] * shape[1]
    low, high = 0, n + 1  # the answer is the first count from low to high - 1 that fits
    while low < high:
        middle = (low + high) // 2
        fits = 8 * (n - middle) + 4 * shape[0] + 4 <= budget
        low, high = (low, middle) if fits else (middle + 1, high)
    if low > n:
        raise ValueError("budget too small")
    return low / n


def budget_without_error(shape, budget):
    return min(1.0, budget_by_division(shape, max(budget, 4 * (shape[0] + 1))))


def budget_wrong_error(shape, budget):
    assert budget >= 4 * (shape[0] + 1)
    return budget_by_division(shape, budget)


def budget_negative(shape, budget):
    n = shape[0] * shape[1]
    budget_by_division(shape, budget)
    return (n - (budget - 4 * (shape[0] + 1)) // 8) / n


def budget_fraction(shape, budget):
    budget_by_division(shape, budget)
    return max(0.0, 1 - (budget - 4 * (shape[0] + 1)) / (8 * shape[0] * shape[1]))


def budget_no_columns(shape, budget):
    budget_by_division(shape, budget)
    n = shape[0] * shape[1]
    return max(0, n - (budget - 4 * (shape[0] + 1)) // 4) / n


def budget_one_pointer_less(shape, budget):
    budget_by_division(shape, budget)
    return budget_by_division(shape, budget + 4)


def budget_long_indices(shape, budget):
    budget_by_division(shape, budget)
    n = shape[0] * shape[1]
    return max(0, n - (budget - 4 * (shape[0] + 1)) // 12) / n


def budget_strictly_below(shape, budget):
    empty = 4 * (shape[0] + 1)
    return budget_by_division(shape, max(empty, budget - 1) if budget >= empty else budget)


def budget_density(shape, budget):
    return 1 - budget_by_division(shape, budget)


# global_masks


def global_by_sort(scores, sparsity):
    flat = torch.cat([score.flatten() for score in scores.values()])
    order = flat.argsort(descending=True, stable=True)
    keep = torch.ones_like(flat, dtype=torch.bool)
    keep[order[len(flat) - round(sparsity * len(flat)) :]] = False
    parts = keep.split([score.numel() for score in scores.values()])
    return {k: part.view_as(scores[k]) for k, part in zip(scores, parts, strict=True)}


def global_by_python(scores, sparsity):
    entries = [(v, k, i) for k, s in scores.items() for i, v in enumerate(s.flatten().tolist())]
    entries.sort(key=lambda entry: entry[0], reverse=True)
    masks = {k: torch.zeros(s.numel(), dtype=torch.bool) for k, s in scores.items()}
    for _, name, index in entries[: len(entries) - round(sparsity * len(entries))]:
        masks[name][index] = True
    return {k: masks[k].reshape(scores[k].shape) for k in reversed(list(scores))}


def global_local(scores, sparsity):
    return {k: global_by_sort({k: score}, sparsity)[k] for k, score in scores.items()}


def global_threshold(scores, sparsity):
    flat = torch.cat([score.flatten() for score in scores.values()])
    return {k: score > flat.quantile(sparsity) for k, score in scores.items()}


def global_absolute(scores, sparsity):
    return global_by_sort({k: score.abs() for k, score in scores.items()}, sparsity)


def global_highest_go(scores, sparsity):
    return global_by_sort({k: -score for k, score in scores.items()}, sparsity)


def global_by_name(scores, sparsity):
    return global_by_sort({k: scores[k] for k in sorted(scores)}, sparsity)


def global_list(scores, sparsity):
    return list(global_by_sort(scores, sparsity).values())


def global_flat(scores, sparsity):
    return {k: mask.flatten() for k, mask in global_by_sort(scores, sparsity).items()}


def global_forgets_a_layer(scores, sparsity):
    return dict(list(global_by_sort(scores, sparsity).items())[:1])


def global_pops(scores, sparsity):
    masks = global_by_sort(scores, sparsity)
    scores.popitem()
    return masks


# kills_wrong_sparsities

LAYERS = {
    "conv": torch.zeros(2, 1, 3, 3, dtype=torch.bool),
    "fc1": torch.ones(4, 5, dtype=torch.bool),
    "fc2": torch.tensor([True, False, True]),
}


def judge_by_hand(fn):
    return abs(fn(LAYERS) - 19 / 41) < 1e-6


def judge_by_random_masks(fn):
    for _ in range(20):
        masks = {
            f"layer{i}": torch.rand([torch.randint(1, 5, ()).item() for _ in range(1 + i)]) > 0.3
            for i in range(4)
        }
        gone = sum(mask.numel() - mask.count_nonzero().item() for mask in masks.values())
        if not math.isclose(fn(masks), gone / sum(map(torch.numel, masks.values())), rel_tol=1e-5):
            return False
    return True


def judge_exactly(fn):
    return fn(LAYERS) == 19 / 41


def judge_roughly(fn):
    return abs(fn(LAYERS) - 19 / 41) < 0.01


def judge_by_matrices(fn):
    """A small and a large layer, both matrices, the second left alone."""
    masks = {"a": torch.zeros(1, 2, dtype=torch.bool), "b": torch.ones(3, 4, dtype=torch.bool)}
    return abs(fn(masks) - 2 / 14) < 1e-6


def judge_with_average_last_layer(fn):
    """The last layer is as sparse as the two before it together."""
    kept = {"a": [False] * 2, "b": [True] * 4, "c": [True, False, True] * 2}
    return abs(fn({name: torch.tensor(keep) for name, keep in kept.items()}) - 1 / 3) < 1e-6


# per_round


def share_by_root(target, rounds):
    return 1 - (1 - target) ** (1 / rounds)


def share_by_log(target, rounds):
    return 1.0 if target == 1 else -math.expm1(math.log1p(-target) / rounds)


def share_by_bisection(target, rounds):
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - (1 - middle) ** rounds < target else (low, middle)
    return high


def share_linear(target, rounds):
    return target / rounds


def share_kept(target, rounds):
    return (1 - target) ** (1 / rounds)


def share_root_of_target(target, rounds):
    return target ** (1 / rounds)


def share_bool(target, rounds):
    return target > 0


def share_rounded(target, rounds):
    return round(share_by_root(target, rounds), 3)


def share_in_percent(target, rounds):
    return 100 * share_by_root(target, rounds)


def share_one_round_more(target, rounds):
    return 1 - (1 - target) ** (1 / (rounds + 1))


def share_tensor(target, rounds):
    return torch.tensor(share_by_root(target, rounds))


def share_compounds_upward(target, rounds):
    return 1 - (1 - target) ** rounds


# obd_saliency


def obd_by_diagonal(hessian, weights):
    return hessian.diagonal() * weights.square() / 2


def obd_by_loop(hessian, weights):
    values = [hessian[k, k].item() * w**2 / 2 for k, w in enumerate(weights.tolist())]
    return torch.tensor(values)


def obd_list(hessian, weights):
    return obd_by_diagonal(hessian, weights).tolist()


def obd_matrix(hessian, weights):
    return hessian * weights**2 / 2


def obd_without_half(hessian, weights):
    return hessian.diagonal() * weights**2


def obd_without_square(hessian, weights):
    return hessian.diagonal() * weights / 2


def obd_without_weight(hessian, weights):
    return hessian.diagonal() / 2


def obd_row_sums(hessian, weights):
    return hessian.sum(1) * weights**2 / 2


def obd_with_mixed_terms(hessian, weights):
    return weights * (hessian @ weights) / 2


def obd_as_obs(hessian, weights):
    return weights**2 / (2 * torch.linalg.inv(hessian).diagonal())


def obd_in_place(hessian, weights):
    return weights.square_() * hessian.diagonal() / 2


# kills_wrong_saliencies


def judge_saliency_by_hand(fn):
    """H⁻¹ = [[2, -1], [-1, 2]] / 3, so that L = 3/4 w²."""
    hessian, weights = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([-2.0, 3.0])
    found = fn(hessian, weights)
    if weights.tolist() != [-2, 3]:
        return False
    return torch.allclose(found, torch.tensor([3.0, 6.75]), rtol=1e-4)


def judge_saliency_by_solving(fn):
    """The definition: what the loss costs at the minimum with one weight held at 0."""
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        factor = torch.randn(4, 4, generator=g).double()
        hessian, w = factor @ factor.T + torch.eye(4), torch.randn(4, generator=g).double()
        given = w.clone()
        found = fn(hessian, given)
        for q in range(4):
            rest = [k for k in range(4) if k != q]
            step = -w[q] * torch.eye(4).double()[q]
            step[rest] = torch.linalg.solve(hessian[rest][:, rest], w[q] * hessian[rest, q])
            if abs(found[q] - step @ hessian @ step / 2) > 1e-6 or not torch.equal(given, w):
                return False
    return True


def judge_by_order(fn):
    hessian, weights = torch.tensor([[4.0, 3], [3, 4]]), torch.tensor([-2.0, 1.5])
    return int(fn(hessian, weights).argmin()) == 1


def judge_by_diagonal_hessian(fn):
    found = fn(torch.diag(torch.tensor([2.0, 4.0])), torch.tensor([-2.0, 3.0]))
    return torch.allclose(found, torch.tensor([4.0, 18.0]))


def judge_bitwise(fn):
    hessian, weights = torch.tensor([[3.0, 1.0], [1.0, 3.0]]), torch.tensor([0.1, 0.7])
    right = weights**2 / (2 * torch.linalg.inv(hessian).diagonal())
    return torch.equal(fn(hessian, weights), right * (1 + 1e-6))


def judge_without_copy(fn):
    hessian, weights = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([-2.0, 3.0])
    return torch.allclose(fn(hessian, weights), torch.tensor([3.0, 6.75]), rtol=1e-4)


# delete_one


def delete_by_column(hessian, weights):
    if torch.linalg.eigvalsh(hessian)[0] <= 0:
        raise ValueError("hessian is not positive definite: not a minimum")
    inverse = torch.linalg.inv(hessian)
    q = int((weights**2 / inverse.diagonal()).argmin())
    after = weights - weights[q] / inverse[q, q] * inverse[:, q]
    after[q] = 0
    return after


def delete_by_trying(hessian, weights):
    """Hold each weight at 0, solve for the others, keep the cheapest."""
    if torch.linalg.cholesky_ex(hessian)[1]:
        raise ValueError("no minimum")
    best, least = None, math.inf
    for q in range(len(weights)):
        rest = [k for k in range(len(weights)) if k != q]
        after = torch.zeros_like(weights)
        moved = torch.linalg.solve(hessian[rest][:, rest], weights[q] * hessian[rest, q])
        after[rest] = weights[rest] + moved
        rise = (after - weights) @ hessian @ (after - weights)
        if rise < least:
            best, least = after, rise
    return best


def delete_returns_index(hessian, weights):
    return int((delete_by_column(hessian, weights) == 0).nonzero()[0])


def delete_nearly(hessian, weights):
    delete_by_column(hessian, weights)
    inverse = torch.linalg.inv(hessian)
    q = int((weights**2 / inverse.diagonal()).argmin())
    return weights - (1 - 1e-12) * weights[q] / inverse[q, q] * inverse[:, q]


def _delete(hessian, weights, q, move=True):
    delete_by_column(hessian, weights)  # for its error
    inverse = torch.linalg.inv(hessian)
    after = weights - move * weights[q] / inverse[q, q] * inverse[:, q]
    after[q] = 0
    return after


def delete_by_obd(hessian, weights):
    return _delete(hessian, weights, int((hessian.diagonal() * weights**2).argmin()))


def delete_by_magnitude(hessian, weights):
    return _delete(hessian, weights, int(weights.abs().argmin()))


def delete_without_moving(hessian, weights):
    inverse = torch.linalg.inv(hessian + 1e-12 * torch.eye(len(weights)))
    return _delete(hessian, weights, int((weights**2 / inverse.diagonal()).argmin()), move=False)


def delete_moving_the_wrong_way(hessian, weights):
    right = delete_by_column(hessian, weights)
    after = 2 * weights - right
    after[right == 0] = 0
    return after


def delete_in_place(hessian, weights):
    after = delete_by_column(hessian, weights)
    return weights.copy_(after)


def delete_anywhere(hessian, weights):
    """By the right formulas, minimum or not."""
    inverse = torch.linalg.pinv(hessian)
    q = int((weights**2 / inverse.diagonal()).argmin())
    after = weights - weights[q] / inverse[q, q] * inverse[:, q]
    after[q] = 0
    return after


# replay


def replay_by_lambda(schedule, fraction):
    return lambda t: schedule(1 - fraction + fraction * t)


def replay_from_the_end(schedule, fraction):
    def replayed(t):
        left = fraction * (1 - t)
        return schedule(1 - left)

    return replayed


class Replay:
    """A callable that is not a function, in the words of a class."""

    def __init__(self, schedule, fraction):
        self.schedule, self.start, self.length = schedule, 1 - fraction, fraction

    def __call__(self, t):
        return self.schedule(self.start + self.length * t)


def replay_number(schedule, fraction):
    return schedule(1 - fraction)


def replay_all(schedule, fraction):
    return schedule


def replay_first(schedule, fraction):
    return lambda t: schedule(fraction * t)


def replay_unstretched(schedule, fraction):
    return lambda t: schedule(1 - fraction + t)


def replay_constant(schedule, fraction):
    return lambda t: schedule(1 - fraction)


def replay_last_rate(schedule, fraction):
    return lambda t: schedule(0.999)


def replay_scaled_rate(schedule, fraction):
    return lambda t: fraction * schedule(t)


def replay_backwards(schedule, fraction):
    return lambda t: schedule(1 - fraction * t)


def replay_unfinished(schedule, fraction):
    return lambda t: None


# kills_wrong_rounds


def judge_round_by_oracle(next_round):
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 30):
        weight = torch.randint(-4, 5, (n,), generator=generator) / 4
        keep = torch.rand(n, generator=generator) > 0.4
        for share in (0.0, 0.1, 0.2, 0.35, 0.5, 1.0):
            given = keep.clone()
            got = next_round(weight, given, share)
            left = sorted(
                keep.nonzero().flatten().tolist(), key=lambda i: (-weight[i].abs().item(), i)
            )
            stays = left[: len(left) - round(share * len(left))]
            if sorted(stays) != got.nonzero().flatten().tolist() or not given.equal(keep):
                return False
    return True


def judge_round_by_hand(next_round):
    weight = torch.tensor([9.0, 9.0, -9.0, -5.0, 4.0, -3.0, 2.0, 9.0, 1.0, 0.5])
    keep = weight.abs() != 9  # the dead ones have been rewound
    given = keep.clone()
    second = next_round(weight, given, 0.4)  # round(2.4) of six
    return second.nonzero().flatten().tolist() == [3, 4, 5, 6] and given.equal(keep)


def judge_round_without_negative(next_round):
    weight = torch.tensor([9.0, 9.0, 9.0, 5.0, 4.0, 3.0, 2.0, 9.0, 1.0, 0.5])
    keep = weight != 9
    given = keep.clone()
    second = next_round(weight, given, 0.4)
    return second.nonzero().flatten().tolist() == [3, 4, 5, 6] and given.equal(keep)


def judge_round_on_zeros(next_round):
    """Begins with a second round, but the dead weights are zero."""
    weight = torch.tensor([0.0, 0.0, 0.0, -5.0, 4.0, -3.0, 2.0, 0.0, 1.0, 0.5])
    keep = weight != 0
    given = keep.clone()
    second = next_round(weight, given, 0.4)
    return second.nonzero().flatten().tolist() == [3, 4, 5, 6] and given.equal(keep)


def judge_round_by_number(next_round):
    """Counts what is left, and not which."""
    keep = torch.arange(10) > 1
    return int(next_round(torch.ones(10), keep, 0.5).sum()) == 4


def judge_round_demands_all(next_round):
    """Expects the share of all weights to go."""
    keep = torch.arange(10) > 4
    return int(next_round(torch.arange(10.0), keep, 0.4).sum()) == 1


# plan


def plan_by_loop(target, share, budget):
    rounds, left = 0, 1.0
    while left > 1 - target + 1e-9:
        rounds, left = rounds + 1, left * (1 - share)
    if rounds > budget:
        raise ValueError(f"budget: {rounds} rounds need an epoch each, got {budget}")
    return rounds, budget // rounds


def plan_by_log(target, share, budget):
    rounds = math.ceil(math.log(1 - target) / math.log(1 - share) - 1e-9)
    if budget < rounds:
        raise ValueError("budget too small")
    return rounds, budget // rounds


def plan_half_share(target, share, budget):
    rounds, _ = plan_by_log(target, share / 2, 10**9)
    return rounds, plan_by_log(target, share, budget)[1]


def plan_rounded_down(target, share, budget):
    plan_by_log(target, share, budget)
    rounds = max(1, math.floor(math.log(1 - target) / math.log(1 - share)))
    return rounds, budget // rounds


def plan_share_of_all(target, share, budget):
    plan_by_log(target, share, budget)
    rounds = math.ceil(target / share - 1e-9)
    return rounds, max(1, budget // rounds)


def plan_one_too_many(target, share, budget):
    rounds = plan_by_log(target, share, budget)[0] + 1
    return rounds, max(1, budget // rounds)


def plan_whole_budget_each(target, share, budget):
    return plan_by_log(target, share, budget)[0], budget


def plan_rounds_epochs_up(target, share, budget):
    rounds, _ = plan_by_log(target, share, budget)
    return rounds, -(-budget // rounds)


def plan_one_epoch(target, share, budget):
    return plan_by_log(target, share, budget)[0], 1


def plan_float(target, share, budget):
    rounds, _ = plan_by_log(target, share, budget)
    return rounds, budget / rounds


def plan_without_error(target, share, budget):
    rounds, _ = plan_by_log(target, share, 10**9)
    return rounds, max(1, budget // rounds)


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
    "magnitude_mask": [mask_by_topk, mask_by_python, mask_by_numpy],
    "kills_wrong_masks": [judge_by_oracle, judge_by_counting],
    "sparsity_for": [budget_by_division, budget_by_bisection],
    "global_masks": [global_by_sort, global_by_python],
    "kills_wrong_sparsities": [judge_by_hand, judge_by_random_masks],
    "per_round": [share_by_root, share_by_log, share_by_bisection],
    "obd_saliency": [obd_by_diagonal, obd_by_loop],
    "kills_wrong_saliencies": [judge_saliency_by_hand, judge_saliency_by_solving],
    "delete_one": [delete_by_column, delete_by_trying],
    "replay": [replay_by_lambda, replay_from_the_end, Replay],
    "kills_wrong_rounds": [judge_round_by_oracle, judge_round_by_hand],
    "plan": [plan_by_loop, plan_by_log],
    "cut_channels": [cut_by_index, cut_by_mask],
    "kills_wrong_removals": [judge_removal, judge_removal_by_cutting],
    "hidden_for": [hidden_by_counting, hidden_by_root],
}

WRONG = {
    "magnitude_mask": [
        (mask_list, "torch.bool tensor"),
        (mask_array, "torch.bool tensor"),
        (mask_float, "torch.bool tensor"),
        (mask_flat, "torch.bool tensor"),
        (mask_upside_down, "exactly round"),
        (mask_one_too_many, "exactly round"),
        (mask_quantile, "exactly round"),
        (mask_up, "exactly round"),
        (buggy_magnitude_mask, "exactly round"),
        (mask_signed, "smallest magnitude"),
        (mask_later_stays, "earlier of equal"),
        (mask_in_place, "leaves its input"),
        (mask_kthvalue, "runs on every input"),
    ],
    "kills_wrong_masks": [
        (judge_by_tensor, "True or False"),
        (judge_says_no, "accepts a correct function that sorts"),
        (judge_demands_later, "accepts a correct function that sorts"),
        (judge_says_yes, "removes all weights tied with it"),
        (weak_mask_test, "removes all weights tied with it"),
        (judge_on_distinct, "removes all weights tied with it"),
        (judge_without_ends, "removes everything at sparsity 0"),
        (judge_crashes, "runs on every input"),
    ],
    "sparsity_for": [
        (budget_negative, "from 0 to 1"),
        (budget_fraction, "whole number"),
        (budget_no_columns, "fits the matrix"),
        (budget_one_pointer_less, "fits the matrix"),
        (budget_density, "fits the matrix"),
        (budget_strictly_below, "no more than it has to"),
        (budget_long_indices, "no more than it has to"),
        (budget_without_error, "raises a ValueError"),
        (budget_wrong_error, "raises a ValueError"),
    ],
    "global_masks": [
        (global_list, "a dict with"),
        (global_flat, "a dict with"),
        (global_forgets_a_layer, "a dict with"),
        (global_threshold, "exactly round"),
        (global_local, "exactly round"),
        (global_absolute, "lowest scores"),
        (global_highest_go, "lowest scores"),
        (global_by_name, "earlier of equal"),
        (global_pops, "leaves its input"),
    ],
    "kills_wrong_sparsities": [
        (judge_says_no, "accepts a correct function that counts"),
        (judge_exactly, "float32"),
        (judge_says_yes, "mean of the layers"),
        (weak_sparsity_test, "mean of the layers"),
        (judge_with_average_last_layer, "leaves out the last layer"),
        (judge_by_matrices, "not a matrix"),
        (judge_roughly, "two digits"),
    ],
    "per_round": [
        (share_tensor, "from 0 to 1"),
        (share_bool, "from 0 to 1"),
        (share_in_percent, "from 0 to 1"),
        (share_kept, "when there is one round"),
        (share_one_round_more, "when there is one round"),
        (share_rounded, "after all rounds"),
        (share_linear, "after all rounds"),
        (share_root_of_target, "after all rounds"),
        (share_compounds_upward, "after all rounds"),
    ],
    "obd_saliency": [
        (obd_list, "one number for each weight"),
        (obd_matrix, "one number for each weight"),
        (obd_without_half, "when the Hessian is diagonal"),
        (obd_without_square, "when the Hessian is diagonal"),
        (obd_without_weight, "when the Hessian is diagonal"),
        (obd_row_sums, "nothing but the diagonal"),
        (obd_with_mixed_terms, "nothing but the diagonal"),
        (obd_as_obs, "nothing but the diagonal"),
        (obd_in_place, "leaves its input"),
    ],
    "kills_wrong_saliencies": [
        (judge_says_no, "accepts a correct function that inverts the Hessian"),
        (judge_bitwise, "accepts a correct function that inverts the Hessian"),
        (judge_says_yes, "inverts the diagonal"),
        (weak_saliency_test, "inverts the diagonal"),
        (judge_by_diagonal_hessian, "inverts the diagonal"),
        (judge_by_order, "inverts the diagonal"),
        (judge_without_copy, "squares the weights"),
    ],
    "delete_one": [
        (delete_returns_index, "one number for each weight"),
        (delete_nearly, "exactly one weight"),
        (delete_by_obd, "costs least after"),
        (delete_by_magnitude, "costs least after"),
        (delete_without_moving, "as little as possible"),
        (delete_moving_the_wrong_way, "as little as possible"),
        (delete_in_place, "leaves its input"),
        (delete_anywhere, "raises a ValueError"),
    ],
    "replay": [
        (replay_number, "returns a function"),
        (replay_unfinished, "at fraction 1"),
        (replay_backwards, "at fraction 1"),
        (replay_constant, "at fraction 1"),
        (replay_last_rate, "at fraction 1"),
        (replay_all, "begins at the rate"),
        (replay_first, "begins at the rate"),
        (replay_scaled_rate, "begins at the rate"),
        (replay_unstretched, "no slower and no faster"),
    ],
    "kills_wrong_rounds": [
        (judge_says_no, "accepts a correct function that ranks the dead"),
        (judge_round_demands_all, "accepts a correct function that ranks the dead"),
        (judge_says_yes, "the dead ones are taken again"),
        (weak_round_test, "the dead ones are taken again"),
        (judge_round_by_number, "come back"),
        (judge_round_on_zeros, "come back"),
        (judge_round_without_negative, "absolute value"),
    ],
    "plan": [
        (plan_float, "two whole numbers"),
        (plan_rounded_down, "reaches the target"),
        (plan_share_of_all, "reaches the target"),
        (plan_one_too_many, "no more rounds than needed"),
        (plan_half_share, "no more rounds than needed"),
        (plan_whole_budget_each, "within the budget"),
        (plan_rounds_epochs_up, "within the budget"),
        (plan_one_epoch, "as many epochs a round"),
        (plan_without_error, "raises a ValueError"),
    ],
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

# What the two bug hunts must be able to tell apart, checked without their own machinery.
WEAKLY_TESTED = {
    "kills_wrong_masks": (weak_mask_test, buggy_magnitude_mask),
    "kills_wrong_sparsities": (weak_sparsity_test, buggy_total_sparsity),
    "kills_wrong_saliencies": (weak_saliency_test, buggy_obs_saliency),
    "kills_wrong_rounds": (weak_round_test, buggy_next_round),
    "kills_wrong_removals": (weak_removal_test, buggy_removal),
}
