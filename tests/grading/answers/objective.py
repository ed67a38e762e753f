"""Answers to the exercises of lesson Pruning as an objective."""

import math

import numpy as np
import torch

from course_lib.exercises.objective import buggy_l1_ball, l1_ball, learn_and_compress

# learn_and_compress


def _largest(v, keep):
    order = v.abs().flatten().argsort(descending=True, stable=True)
    stays = torch.zeros(v.numel(), dtype=torch.bool)
    stays[order[:keep]] = True
    return torch.where(stays.view(v.shape), v, 0.0)


def _lc(weight, keep, mus, l_step, *, c_step=_largest, first=None, pull=None, point=None, up=None):
    """The algorithm, with parts that a mistake may replace."""
    pull = pull or (lambda theta, lam, mu: theta + lam / mu)
    point = point or (lambda w, lam, mu: w - lam / mu)
    up = up or (lambda lam, mu, w, theta: lam - mu * (w - theta))
    lam = torch.zeros_like(weight)
    theta = (first or c_step)(weight, keep)
    for mu in mus:
        w = l_step(pull(theta, lam, mu), mu)
        theta = c_step(point(w, lam, mu), keep)
        lam = up(lam, mu, w, theta)
    return theta


def lc_as_in_the_text(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step)


def lc_by_the_point(weight, keep, mus, l_step):
    """λ − μ(w − θ) is μ(θ − v)."""
    lam, theta = torch.zeros_like(weight), _largest(weight, keep)
    for mu in mus:
        v = l_step(theta + lam / mu, mu) - lam / mu
        theta = _largest(v, keep)
        lam = mu * (theta - v)
    return theta


def lc_scaled(weight, keep, mus, l_step):
    """The multipliers divided by μ, as ADMM has them, and scaled anew when μ changes."""
    u, theta, before = torch.zeros_like(weight), _largest(weight, keep), None
    for mu in mus:
        u = u if before is None else u * before / mu
        w = l_step(theta + u, mu)
        theta = _largest(w - u, keep)
        u, before = u - (w - theta), mu
    return theta


def lc_in_python(weight, keep, mus, l_step):
    def c_step(v):
        order = sorted(range(len(v)), key=lambda i: (-abs(v[i]), i))[:keep]
        return [v[i] if i in order else 0.0 for i in range(len(v))]

    def tensor(v):
        return torch.tensor(v, dtype=weight.dtype).reshape(weight.shape)

    theta = c_step(weight.flatten().tolist())
    lam = [0.0] * len(theta)
    for mu in mus:
        w = l_step(tensor([t + m / mu for t, m in zip(theta, lam)]), mu).flatten().tolist()
        theta = c_step([a - m / mu for a, m in zip(w, lam)])
        lam = [m - mu * (a - t) for m, a, t in zip(lam, w, theta)]
    return tensor(theta)


def lc_in_numpy(weight, keep, mus, l_step):
    def c_step(v):
        stays = np.argsort(-np.abs(v), kind="stable", axis=None)[:keep]
        theta = np.zeros_like(v).ravel()
        theta[stays] = v.ravel()[stays]
        return theta.reshape(v.shape)

    theta = c_step(weight.numpy())
    lam = np.zeros_like(theta)
    for mu in mus:
        w = l_step(torch.from_numpy(theta + lam / mu), mu).numpy()
        theta = c_step(w - lam / mu)
        lam = lam - mu * (w - theta)
    return theta


def lc_flat(weight, keep, mus, l_step):
    shape = weight.shape

    def flat_step(v, mu):
        return l_step(v.view(shape), mu).flatten()

    return _lc(weight.flatten(), keep, mus, flat_step).view(shape)


def lc_recursive(weight, keep, mus, l_step):
    def rounds(theta, lam, rest):
        if not rest:
            return theta
        w = l_step(theta + lam / rest[0], rest[0])
        new = _largest(w - lam / rest[0], keep)
        return rounds(new, lam - rest[0] * (w - new), rest[1:])

    return rounds(_largest(weight, keep), torch.zeros_like(weight), list(mus))


def lc_by_threshold(weight, keep, mus, l_step):
    """The threshold, and of those tied with it the first so many."""

    def c_step(v, keep):
        if keep == 0:
            return torch.zeros_like(v)
        flat = v.flatten()
        level = flat.abs().sort(descending=True).values[keep - 1]
        above, tied = flat.abs() > level, flat.abs() == level
        stays = above | (tied & (tied.cumsum(0) <= keep - above.sum()))
        return (flat * stays).view_as(v)

    return _lc(weight, keep, mus, l_step, c_step=c_step)


def lc_in_place(weight, keep, mus, l_step):
    """In place, but on tensors of its own."""
    lam, theta = torch.zeros_like(weight), _largest(weight, keep).clone()
    for mu in mus:
        w = l_step(theta.add(lam / mu), mu)
        theta.copy_(_largest(w - lam / mu, keep))
        lam.sub_(mu * (w - theta))
    return theta


def lc_other_sign(weight, keep, mus, l_step):
    """The multipliers with the other sign everywhere."""
    lam, theta = torch.zeros_like(weight), _largest(weight, keep)
    for mu in mus:
        w = l_step(theta - lam / mu, mu)
        theta = _largest(w + lam / mu, keep)
        lam += mu * (w - theta)
    return theta


def lc_one_by_one(weight, keep, mus, l_step):
    def c_step(v, keep):
        rest, theta = v.abs().flatten(), torch.zeros(v.numel(), dtype=v.dtype)
        for _ in range(keep):
            i = max(range(len(rest)), key=lambda i: (float(rest[i]), -i))
            theta[i] = v.flatten()[i]
            rest[i] = -1
        return theta.view_as(v)

    return _lc(weight, keep, mus, l_step, c_step=c_step)


def lc_double(weight, keep, mus, l_step):
    return _lc(weight.double(), keep, mus, lambda p, mu: l_step(p.to(weight.dtype), mu).double())


def lc_parameter(weight, keep, mus, l_step):
    return torch.nn.Parameter(_lc(weight, keep, mus, l_step))


def lc_multipliers_outside(weight, keep, mus, l_step):
    """λ is μ(θ − v), so it is zero in the set anyway."""

    def up(lam, mu, w, theta):
        return (lam - mu * (w - theta)) * (theta == 0)

    return _lc(weight, keep, mus, l_step, up=up)


def lc_with_mu_from_a_tenth(weight, keep, mus, l_step):
    return learn_and_compress(weight, keep, mus, lambda pulled, mu: l_step(pulled, max(mu, 0.1)))


def lc_returns_w(weight, keep, mus, l_step):
    last = [weight]

    def watched(pulled, mu):
        last[0] = l_step(pulled, mu)
        return last[0]

    _lc(weight, keep, mus, watched)
    return last[0]


def lc_returns_both(weight, keep, mus, l_step):
    theta = _lc(weight, keep, mus, l_step)
    return theta, theta


def lc_returns_mask(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step) != 0


def lc_returns_flat(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step).flatten()


def lc_returns_the_largest_only(weight, keep, mus, l_step):
    theta = _lc(weight, keep, mus, l_step)
    return theta[theta != 0]


def lc_direct(weight, keep, mus, l_step):
    return _largest(weight, keep)


def lc_quadratic(weight, keep, mus, l_step):
    """Without multipliers."""
    return _lc(weight, keep, mus, l_step, up=lambda lam, *_: lam)


def lc_pull_minus(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, pull=lambda theta, lam, mu: theta - lam / mu)


def lc_pull_undivided(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, pull=lambda theta, lam, mu: theta + lam)


def lc_pull_times_mu(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, pull=lambda theta, lam, mu: theta + lam * mu)


def lc_pull_to_theta(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, pull=lambda theta, lam, mu: theta)


def lc_point_plus(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, point=lambda w, lam, mu: w + lam / mu)


def lc_point_is_w(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, point=lambda w, lam, mu: w)


def lc_point_undivided(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, point=lambda w, lam, mu: w - lam)


def lc_up_plus(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, up=lambda lam, mu, w, theta: lam + mu * (w - theta))


def lc_up_without_mu(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, up=lambda lam, mu, w, theta: lam - (w - theta))


def lc_up_forgets(weight, keep, mus, l_step):
    """The multipliers of the last step alone."""
    return _lc(weight, keep, mus, l_step, up=lambda lam, mu, w, theta: -mu * (w - theta))


def lc_up_divides(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, up=lambda lam, mu, w, theta: lam - (w - theta) / mu)


def lc_half_steps(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, up=lambda lam, mu, w, theta: lam - mu * (w - theta) / 2)


def lc_up_before_the_c_step(weight, keep, mus, l_step):
    lam, theta = torch.zeros_like(weight), _largest(weight, keep)
    for mu in mus:
        w = l_step(theta + lam / mu, mu)
        lam = lam - mu * (w - theta)
        theta = _largest(w - lam / mu, keep)
    return theta


def lc_up_with_the_old_theta(weight, keep, mus, l_step):
    lam, theta = torch.zeros_like(weight), _largest(weight, keep)
    for mu in mus:
        w = l_step(theta + lam / mu, mu)
        new = _largest(w - lam / mu, keep)
        lam, theta = lam - mu * (w - theta), new
    return theta


def lc_scaled_not_anew(weight, keep, mus, l_step):
    """λ/μ of the old μ is used with the new one."""
    u, theta = torch.zeros_like(weight), _largest(weight, keep)
    for mu in mus:
        w = l_step(theta + u, mu)
        theta = _largest(w - u, keep)
        u = u - (w - theta)
    return theta


def lc_up_with_the_next_mu(weight, keep, mus, l_step):
    lam, theta = torch.zeros_like(weight), _largest(weight, keep)
    for i, mu in enumerate(mus):
        w = l_step(theta + lam / mu, mu)
        theta = _largest(w - lam / mu, keep)
        lam = lam - mus[min(i + 1, len(mus) - 1)] * (w - theta)
    return theta


def lc_from_the_weight(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, first=lambda v, keep: v.clone())


def lc_from_zero(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, first=lambda v, keep: torch.zeros_like(v))


def lc_from_an_l_step(weight, keep, mus, l_step):
    """Trains once before the first compression."""
    start = l_step(weight, mus[0]) if mus else weight
    return _lc(start, keep, mus, l_step)


def lc_theta_of_the_first_set(weight, keep, mus, l_step):
    """The set is that of the first compression for ever."""
    chosen = _largest(weight, keep) != 0
    return _lc(weight, keep, mus, l_step, c_step=lambda v, keep: v * chosen)


def lc_first_mu_only(weight, keep, mus, l_step):
    return _lc(weight, keep, mus[:1], l_step)


def lc_constant_mu(weight, keep, mus, l_step):
    return _lc(weight, keep, list(mus[:1]) * len(mus), l_step)


def lc_last_mu(weight, keep, mus, l_step):
    return _lc(weight, keep, list(mus[-1:]) * len(mus), l_step)


def lc_without_the_last(weight, keep, mus, l_step):
    return _lc(weight, keep, mus[:-1], l_step)


def lc_backwards(weight, keep, mus, l_step):
    return _lc(weight, keep, mus[::-1], l_step)


def lc_each_mu_once(weight, keep, mus, l_step):
    return _lc(weight, keep, sorted(set(mus)), l_step)


def lc_twice(weight, keep, mus, l_step):
    """Two L steps where one was asked for."""

    def two(pulled, mu):
        l_step(pulled, mu)
        return l_step(pulled, mu)

    return _lc(weight, keep, mus, two)


def lc_one_more_l_step(weight, keep, mus, l_step):
    theta = _lc(weight, keep, mus, l_step)
    return _largest(l_step(theta, mus[-1]), keep) if mus else theta


def lc_keeps_small(weight, keep, mus, l_step):
    def c_step(v, keep):
        order = v.abs().flatten().argsort(stable=True)[:keep]
        return (v.flatten() * torch.zeros(v.numel()).index_fill(0, order, 1)).view_as(v)

    return _lc(weight, keep, mus, l_step, c_step=c_step)


def lc_signed(weight, keep, mus, l_step):
    def c_step(v, keep):
        return v * (_largest(v - v.min() + 1, keep) != 0)

    return _lc(weight, keep, mus, l_step, c_step=c_step)


def lc_later_stays(weight, keep, mus, l_step):
    def c_step(v, keep):
        return _largest(v.flatten().flip(0), keep).flip(0).view_as(v)

    return _lc(weight, keep, mus, l_step, c_step=c_step)


def lc_by_columns(weight, keep, mus, l_step):
    def c_step(v, keep):
        return _largest(v.t(), keep).t() if v.dim() == 2 else _largest(v, keep)

    return _lc(weight, keep, mus, l_step, c_step=c_step)


def lc_all_that_tie(weight, keep, mus, l_step):
    def c_step(v, keep):
        if keep == 0:
            return torch.zeros_like(v)
        return v * (v.abs() >= v.abs().flatten().sort(descending=True).values[keep - 1])

    return _lc(weight, keep, mus, l_step, c_step=c_step)


def lc_none_that_tie(weight, keep, mus, l_step):
    def c_step(v, keep):
        size = v.abs().flatten().sort(descending=True).values
        return v * (v.abs() > size[keep]) if keep < len(size) else v

    return _lc(weight, keep, mus, l_step, c_step=c_step)


def lc_minus_keep(weight, keep, mus, l_step):
    """The slice [-0:] is everything."""

    def c_step(v, keep):
        order = v.abs().flatten().flip(0).argsort(stable=True)
        stays = torch.zeros(v.numel()).index_fill(0, v.numel() - 1 - order[-keep:], 1)
        return (v.flatten() * stays).view_as(v)

    return _lc(weight, keep, mus, l_step, c_step=c_step)


def lc_at_least_one(weight, keep, mus, l_step):
    return _lc(weight, max(keep, 1), mus, l_step)


def lc_removes_keep(weight, keep, mus, l_step):
    return _lc(weight, weight.numel() - keep, mus, l_step)


def lc_per_row(weight, keep, mus, l_step):
    def c_step(v, keep):
        if v.dim() == 1:
            return _largest(v, keep)
        return torch.stack([c_step(row, max(keep // len(v), 1)) for row in v])

    return _lc(weight, keep, mus, l_step, c_step=c_step)


def lc_soft(weight, keep, mus, l_step):
    """Those that stay are shrunk by the largest that goes."""

    def c_step(v, keep):
        size = v.abs().flatten().sort(descending=True).values
        level = size[keep] if keep < len(size) else 0.0
        return _largest(v.sign() * (v.abs() - level).clamp(min=0), keep)

    return _lc(weight, keep, mus, l_step, c_step=c_step)


def lc_signs(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, c_step=lambda v, keep: _largest(v, keep).sign())


def lc_absolute(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step, c_step=lambda v, keep: _largest(v.abs(), keep))


def lc_set_of_w(weight, keep, mus, l_step):
    """The values of w at the places that v chooses."""
    lam, theta = torch.zeros_like(weight), _largest(weight, keep)
    for mu in mus:
        w = l_step(theta + lam / mu, mu)
        theta = w * (_largest(w - lam / mu, keep) != 0)
        lam = lam - mu * (w - theta)
    return theta


def lc_clipped(weight, keep, mus, l_step):
    """Multipliers no larger than 1."""

    def up(lam, mu, w, theta):
        return (lam - mu * (w - theta)).clamp(-1, 1)

    return _lc(weight, keep, mus, l_step, up=up)


def lc_multipliers_in_the_set(weight, keep, mus, l_step):
    """Multipliers of the weights that stay, alone."""

    def up(lam, mu, w, theta):
        return (lam - mu * (w - theta)) * (theta != 0)

    return _lc(weight, keep, mus, l_step, up=up)


def lc_rounded(weight, keep, mus, l_step):
    return (_lc(weight, keep, mus, l_step) * 10).round() / 10


def lc_changes_weight(weight, keep, mus, l_step):
    return weight.copy_(_lc(weight.clone(), keep, mus, l_step))


def lc_empties_mus(weight, keep, mus, l_step):
    theta = _lc(weight, keep, list(mus), l_step)
    mus.clear()
    return theta


def lc_needs_a_mu(weight, keep, mus, l_step):
    if not mus:
        raise ValueError("mus is empty")
    return _lc(weight, keep, mus, l_step)


def lc_same_tensor(weight, keep, mus, l_step):
    """A fixed number of entries."""
    return _lc(weight, min(2, keep), mus, l_step)


def lc_list(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step).tolist()


def lc_in_half(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, l_step).bfloat16()


def lc_at_most_thirty(weight, keep, mus, l_step):
    return _lc(weight, keep, mus[:30], l_step)


def lc_ends_when_the_set_stays(weight, keep, mus, l_step):
    lam, theta = torch.zeros_like(weight), _largest(weight, keep)
    for mu in mus:
        w = l_step(theta + lam / mu, mu)
        new = _largest(w - lam / mu, keep)
        same = torch.equal(new != 0, theta != 0)
        lam, theta = lam - mu * (w - new), new
        if same:
            break
    return theta


def lc_ends_when_close(weight, keep, mus, l_step):
    """Stops as soon as w and θ agree to a tenth, which they may do before the set has settled."""
    lam, theta = torch.zeros_like(weight), _largest(weight, keep)
    for mu in mus:
        w = l_step(theta + lam / mu, mu)
        theta = _largest(w - lam / mu, keep)
        lam = lam - mu * (w - theta)
        if (w - theta).norm() < 0.1 * w.norm():
            break
    return theta


def lc_half_mu(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, lambda pulled, mu: l_step(pulled, mu / 2))


def lc_swapped(weight, keep, mus, l_step):
    return _lc(weight, keep, mus, lambda pulled, mu: l_step(mu, pulled))


def lc_set_by_w(weight, keep, mus, l_step):
    """The values of v at the places that w chooses."""
    lam, theta = torch.zeros_like(weight), _largest(weight, keep)
    for mu in mus:
        w = l_step(theta + lam / mu, mu)
        v = w - lam / mu
        theta = v * (_largest(w, keep) != 0)
        lam = lam - mu * (w - theta)
    return theta


def lc_multipliers_from_the_gap(weight, keep, mus, l_step):
    """λ begins at the gap between the weight and its C step."""
    theta = _largest(weight, keep)
    lam = weight - theta
    for mu in mus:
        w = l_step(theta + lam / mu, mu)
        theta = _largest(w - lam / mu, keep)
        lam = lam - mu * (w - theta)
    return theta


def lc_sorted(weight, keep, mus, l_step):
    return _lc(weight, keep, sorted(mus), l_step)


def lc_averages(weight, keep, mus, l_step):
    """The mean of w and θ, compressed."""
    theta = _lc(weight, keep, mus, l_step)
    return _largest((theta + lc_returns_w(weight, keep, mus, l_step)) / 2, keep)


def lc_drops_tiny(weight, keep, mus, l_step):
    theta = _lc(weight, keep, mus, l_step)
    return torch.where(theta.abs() < 1e-6, 0.0, theta)


def lc_clips_mu(weight, keep, mus, l_step):
    """The multipliers grow by no more than 100 times the gap."""
    return _lc(weight, keep, mus, l_step, up=lambda lam, mu, w, t: lam - min(mu, 100) * (w - t))


# smallest_l1_ball


def ball_of_one():
    return torch.tensor([3.0]), 1.0


def ball_of_two():
    return torch.tensor([3.0, 1.0]), 1.0


def ball_of_equals():
    return torch.tensor([-1.0, 1.0]), 0.5


def ball_in_numpy():
    return np.array([2.0, 1.0]), np.float64(0.5)


def ball_of_whole_numbers():
    return [torch.tensor([3, -1]), 1]


def ball_inside():
    return torch.tensor([0.5]), 1.0


def ball_on_the_edge():
    return torch.tensor([0.5, -0.5]), 1.0


def ball_of_three():
    return torch.tensor([3.0, 1.0, 0.0]), 1.0


def ball_of_none():
    return torch.tensor([]), 1.0


def ball_of_zero():
    return torch.tensor([1.0]), 0.0


def ball_negative():
    return torch.tensor([1.0]), -1.0


def ball_of_a_matrix():
    return torch.tensor([[3.0]]), 1.0


def ball_infinite():
    return torch.tensor([math.inf]), 1.0


def ball_without_kappa():
    return torch.tensor([3.0])


# mended_l1_ball


def _threshold(v, kappa):
    size = v.abs().double().sort(descending=True).values
    level = (size.cumsum(0) - kappa) / torch.arange(1, len(v) + 1)
    return level[size > level][-1].clamp(min=0)


def _soft(v, t):
    return (v.sign() * (v.abs() - t).clamp(min=0)).to(v.dtype)


def ball_by_sort(v, kappa):
    return _soft(v, _threshold(v, kappa))


def ball_by_maximum(v, kappa):
    """The threshold is the largest of the levels."""
    size = v.abs().sort(descending=True).values
    level = (size.cumsum(0) - kappa) / torch.arange(1, len(v) + 1)
    return _soft(v, level.max().clamp(min=0))


def ball_by_bisection(v, kappa):
    if v.abs().sum() <= kappa:
        return v.clone()
    low, high = torch.zeros((), dtype=v.dtype), v.abs().max()
    for _ in range(100):
        middle = (low + high) / 2
        if (v.abs() - middle).clamp(min=0).sum() > kappa:
            low = middle
        else:
            high = middle
    return _soft(v, high)


def ball_by_michelot(v, kappa):
    """Removes what falls below the threshold until nothing does."""
    size = v.abs()
    if float(size.sum()) <= kappa:
        return v * 1
    active = torch.ones_like(size, dtype=torch.bool)
    while True:
        t = (size[active].sum() - kappa) / active.sum()
        new = active & (size > t)
        if bool((new == active).all()):
            return torch.sign(v) * torch.relu(size - t)
        active = new


def ball_in_python(v, kappa):
    size = sorted((abs(a) for a in v.tolist()), reverse=True)
    if sum(size) <= kappa:
        return v.numpy()
    total, t = 0.0, 0.0
    for j, a in enumerate(size, start=1):
        total += a
        if a > (total - kappa) / j:
            t = (total - kappa) / j
    return torch.tensor([math.copysign(max(abs(a) - t, 0), a) for a in v.tolist()])


def ball_in_numpy_code(v, kappa):
    u = np.sort(np.abs(v.numpy().astype(float)))[::-1]
    if u.sum() <= kappa:
        return v.numpy().copy()
    level = (np.cumsum(u) - kappa) / np.arange(1, len(u) + 1)
    rho = np.nonzero(u > level)[0].max()
    return np.sign(v.numpy()) * np.maximum(np.abs(v.numpy()) - level[rho], 0)


def ball_by_support(v, kappa):
    """Tries every number of survivors."""
    if v.abs().sum() <= kappa:
        return v.clone()
    size = v.abs().sort(descending=True).values
    found = []
    for k in range(1, len(v) + 1):
        t = (size[:k].sum() - kappa) / k
        theta = _soft(v, t)
        if abs(float(theta.abs().sum()) - kappa) <= 1e-5 * kappa:
            found.append(theta)
    return min(found, key=lambda theta: float((theta - v).square().sum()))


def ball_by_breakpoints(v, kappa):
    size = v.abs()
    if size.sum() <= kappa:
        return v.detach().clone()
    points = torch.cat([torch.zeros(1, dtype=v.dtype), size.sort().values])
    norms = (size[None] - points[:, None]).clamp(min=0).sum(1)  # it falls
    i = int((norms > kappa).sum()) - 1
    t = points[i] + (norms[i] - kappa) / (norms[i] - norms[i + 1]) * (points[i + 1] - points[i])
    return _soft(v, t)


def ball_scaled_to_one(v, kappa):
    return kappa * ball_by_sort(v / kappa, 1.0)


def ball_by_removal(v, kappa):
    """From the smallest up: goes on while the smallest is below the threshold."""
    left = sorted(v.abs().double().tolist())
    while left and (sum(left) - kappa) / len(left) >= left[0]:
        left.pop(0)
    t = max((sum(left) - kappa) / len(left), 0)
    return v - v.clamp(-t, t)


def ball_in_double(v, kappa):
    return _soft(v.double(), _threshold(v, kappa))


def ball_by_small_steps(v, kappa):
    """All shrink alike, a little less than needed, again and again."""
    while v.abs().sum() > kappa * (1 + 1e-5):
        v = _soft(v, (v.abs().sum() - kappa) / len(v) / 2)
    return v


def ball_early_return(v, kappa):
    """Gives the same tensor back where it lies inside; nobody changed it."""
    return v if v.abs().sum() <= kappa else ball_by_sort(v, kappa)


def ball_list(v, kappa):
    return ball_by_sort(v, kappa).tolist()


def ball_in_half(v, kappa):
    return ball_by_sort(v, kappa).bfloat16()


def ball_inside_by_the_largest(v, kappa):
    return v.clone() if v.abs().max() <= kappa else ball_by_sort(v, kappa)


def ball_inside_by_the_sum(v, kappa):
    return v.clone() if v.sum() <= kappa else ball_by_sort(v, kappa)


def ball_inside_by_the_two_norm(v, kappa):
    return v.clone() if v.norm() <= kappa else ball_by_sort(v, kappa)


def ball_margin(v, kappa):
    """Sizes within 1e-6 of their level are taken for failing."""
    if v.abs().sum() <= kappa:
        return v.clone()
    size = v.abs().sort(descending=True).values
    level = (size.cumsum(0) - kappa) / torch.arange(1, len(v) + 1)
    return _soft(v, level[max(int((size > level + 1e-6).sum()) - 1, 0)])


def ball_half_of_it(v, kappa):
    return ball_by_sort(v, kappa / 2)


def ball_number(v, kappa):
    return float(_threshold(v, kappa))


def ball_pair(v, kappa):
    return ball_by_sort(v, kappa), _threshold(v, kappa)


def ball_column(v, kappa):
    return ball_by_sort(v, kappa)[:, None]


def ball_scales(v, kappa):
    """The shrunk vector has the right norm, but lies farther away."""
    return v * (kappa / v.abs().sum()) if v.abs().sum() > kappa else v.clone()


def ball_scales_always(v, kappa):
    return v * (kappa / v.abs().sum().clamp(min=1e-12))


def ball_to_the_edge(v, kappa):
    """Pushes what lies inside out."""
    size = v.abs().sort(descending=True).values
    level = (size.cumsum(0) - kappa) / torch.arange(1, len(v) + 1)
    return _soft(v, level[size > level][-1])


def ball_unsigned(v, kappa):
    return ball_by_sort(v, kappa).abs()


def ball_of_positives(v, kappa):
    """The projection onto the simplex: negatives go."""
    return ball_by_sort(v.clamp(min=0), kappa) if (v > 0).any() else torch.zeros_like(v)


def ball_unsorted(v, kappa):
    size = v.abs()
    level = (size.cumsum(0) - kappa) / torch.arange(1, len(v) + 1)
    holds = size > level
    return _soft(v, level[holds][-1].clamp(min=0)) if holds.any() else torch.zeros_like(v)


def ball_ascending(v, kappa):
    size = v.abs().sort().values
    level = (size.cumsum(0) - kappa) / torch.arange(1, len(v) + 1)
    holds = size > level
    return _soft(v, level[holds][-1].clamp(min=0)) if holds.any() else torch.zeros_like(v)


def ball_first_that_holds(v, kappa):
    size = v.abs().sort(descending=True).values
    level = (size.cumsum(0) - kappa) / torch.arange(1, len(v) + 1)
    return _soft(v, level[0].clamp(min=0))


def ball_all_shrink_alike(v, kappa):
    """The threshold as if nothing became zero."""
    return _soft(v, ((v.abs().sum() - kappa) / len(v)).clamp(min=0))


def ball_two_passes(v, kappa):
    """Shrinks all alike, twice."""
    return ball_all_shrink_alike(ball_all_shrink_alike(v, kappa), kappa)


def ball_counts_from_zero(v, kappa):
    size = v.abs().sort(descending=True).values
    level = (size.cumsum(0) - kappa) / torch.arange(len(v)).clamp(min=1)
    holds = size > level
    return _soft(v, level[holds][-1].clamp(min=0))


def ball_one_level_too_few(v, kappa):
    size = v.abs().sort(descending=True).values
    level = (size.cumsum(0) - kappa) / torch.arange(1, len(v) + 1)
    last = max(int((size > level).sum()) - 2, 0)
    return _soft(v, level[last].clamp(min=0))


def ball_none_fails_mended(v, kappa):
    """Only the case in which no index fails is mended."""
    if v.abs().sum() <= kappa:
        return v.clone()
    size = v.abs().sort(descending=True).values
    level = (size.cumsum(0) - kappa) / torch.arange(1, len(v) + 1)
    return _soft(v, level[min(int((size > level).sum()), len(v) - 1)])


def ball_by_the_sizes(v, kappa):
    """The threshold is the first size that fails, not its level."""
    if v.abs().sum() <= kappa:
        return v.clone()
    size = v.abs().sort(descending=True).values
    level = (size.cumsum(0) - kappa) / torch.arange(1, len(v) + 1)
    fails = int((size > level).sum())
    return _soft(v, size[fails] if fails < len(v) else level[-1])


def ball_hard(v, kappa):
    """Keeps the largest while they fit."""
    order = v.abs().argsort(descending=True, stable=True)
    fits = v.abs()[order].cumsum(0) <= kappa
    return v * torch.zeros_like(v).index_fill(0, order[fits], 1)


def ball_hard_at_the_threshold(v, kappa):
    return v * (v.abs() > _threshold(v, kappa))


def ball_of_two_norm(v, kappa):
    return v * min(1.0, kappa / max(float(v.norm()), 1e-30))


def ball_of_max_norm(v, kappa):
    return v.clamp(-kappa, kappa)


def ball_kappa_one(v, kappa):
    return ball_by_sort(v, 1.0)


def ball_kappa_squared(v, kappa):
    return ball_by_sort(v, kappa**2)


def ball_times_kappa(v, kappa):
    return kappa * ball_by_sort(v, 1.0)


def ball_soft_by_kappa(v, kappa):
    return _soft(v, kappa)


def ball_a_few_bisections(v, kappa):
    low, high = 0.0, float(v.abs().max())
    if v.abs().sum() <= kappa:
        return v.clone()
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if _soft(v, middle).abs().sum() > kappa else (low, middle)
    return _soft(v, high)


def ball_with_an_absolute_end(v, kappa):
    """Bisects until the interval is 1e-6 long, whatever the size of the numbers."""
    if v.abs().sum() <= kappa:
        return v.clone()
    low, high = 0.0, float(v.abs().max())
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if _soft(v, middle).abs().sum() > kappa else (low, middle)
    return _soft(v, high)


def ball_with_an_epsilon(v, kappa):
    theta = ball_by_sort(v, kappa)
    return theta * kappa / (theta.abs().sum() + 1e-6) if v.abs().sum() > kappa else theta


def ball_zero(v, kappa):
    return torch.zeros_like(v) if v.abs().sum() > kappa else v.clone()


def ball_one_coordinate(v, kappa):
    """All of the norm on the largest coordinate."""
    if v.abs().sum() <= kappa:
        return v.clone()
    i = v.abs().argmax()
    return torch.zeros_like(v).index_fill(0, i, kappa * float(v[i].sign()))


def ball_in_place(v, kappa):
    return v.copy_(ball_by_sort(v, kappa))


def ball_sorts_the_input(v, kappa):
    theta = ball_by_sort(v, kappa)
    v.copy_(v.abs().sort(descending=True).values)
    return theta


def ball_refuses_inside(v, kappa):
    if v.abs().sum() < kappa:
        raise ValueError("v lies inside already")
    return ball_by_sort(v, kappa)


def ball_of_large_kappa(v, kappa):
    """Right only where something has to become zero."""
    theta = ball_by_sort(v, kappa)
    return theta if (theta == 0).any() else v.clone()


def ball_rounded(v, kappa):
    return (ball_by_sort(v, kappa) * 100).round() / 100


def ball_by_few_bisections(v, kappa):
    """Twenty steps give the threshold to a millionth of the largest, not of kappa."""
    low, high = 0.0, float(v.abs().max())
    if v.abs().sum() <= kappa:
        return v.clone()
    for _ in range(20):
        middle = (low + high) / 2
        if (v.abs() - middle).clamp(min=0).sum() > kappa:
            low = middle
        else:
            high = middle
    return v.sign() * (v.abs() - low).clamp(min=0)


def lc_of_small_weights(weight, keep, mus, l_step):
    """Forgets what lies behind the first 64 weights."""
    theta = learn_and_compress(weight, keep, mus, l_step)
    return torch.where(torch.arange(theta.numel()).view_as(theta) < 64, theta, 0.0)


def lc_chosen_in_bfloat16(weight, keep, mus, l_step):
    if mus:
        return learn_and_compress(weight, keep, mus, l_step)
    order = weight.bfloat16().abs().flatten().argsort(descending=True, stable=True)[:keep]
    return weight * torch.zeros(weight.numel()).index_fill(0, order, 1).view_as(weight)


RIGHT = {
    "learn_and_compress": [
        learn_and_compress,
        lc_as_in_the_text,
        lc_by_the_point,
        lc_scaled,
        lc_in_python,
        lc_in_numpy,
        lc_flat,
        lc_recursive,
        lc_by_threshold,
        lc_in_place,
        lc_other_sign,
        lc_one_by_one,
        lc_double,
        lc_parameter,
        lc_multipliers_outside,
    ],
    "smallest_l1_ball": [
        ball_of_one,
        ball_of_two,
        ball_of_equals,
        ball_in_numpy,
        ball_of_whole_numbers,
    ],
    "mended_l1_ball": [
        l1_ball,
        ball_by_sort,
        ball_by_maximum,
        ball_by_bisection,
        ball_by_michelot,
        ball_in_python,
        ball_in_numpy_code,
        ball_by_support,
        ball_by_breakpoints,
        ball_scaled_to_one,
        ball_by_removal,
        ball_in_double,
        ball_by_small_steps,
        ball_early_return,
    ],
}

WRONG = {
    "learn_and_compress": [
        (lc_returns_w, "no more than it may"),
        (lc_with_mu_from_a_tenth, "takes every μ"),
        (lc_returns_both, "of the weight's shape"),
        (lc_returns_mask, "of the weight's shape"),
        (lc_returns_flat, "of the weight's shape"),
        (lc_returns_the_largest_only, "of the weight's shape"),
        (lc_direct, "one L step"),
        (lc_quadratic, "every μ in turn"),
        (lc_pull_minus, "every μ in turn"),
        (lc_pull_undivided, "every μ in turn"),
        (lc_pull_times_mu, "every μ in turn"),
        (lc_pull_to_theta, "every μ in turn"),
        (lc_point_plus, "every μ in turn"),
        (lc_point_is_w, "every μ in turn"),
        (lc_point_undivided, "every μ in turn"),
        (lc_up_plus, "every μ in turn"),
        (lc_up_without_mu, "every μ in turn"),
        (lc_up_forgets, "every μ in turn"),
        (lc_up_divides, "every μ in turn"),
        (lc_half_steps, "every μ in turn"),
        (lc_up_before_the_c_step, "one L step"),
        (lc_up_with_the_old_theta, "every μ in turn"),
        (lc_scaled_not_anew, "every μ in turn"),
        (lc_up_with_the_next_mu, "every μ in turn"),
        (lc_from_the_weight, "no more than it may"),
        (lc_from_zero, "begins with the C step"),
        (lc_from_an_l_step, "one L step"),
        (lc_theta_of_the_first_set, "one L step"),
        (lc_first_mu_only, "every μ in turn"),
        (lc_constant_mu, "every μ in turn"),
        (lc_last_mu, "every μ in turn"),
        (lc_without_the_last, "one L step"),
        (lc_backwards, "every μ in turn"),
        (lc_each_mu_once, "every μ in turn"),
        (lc_twice, "one L step"),
        (lc_one_more_l_step, "one L step"),
        (lc_keeps_small, "begins with the C step"),
        (lc_signed, "begins with the C step"),
        (lc_later_stays, "begins with the C step"),
        (lc_by_columns, "every μ in turn"),
        (lc_all_that_tie, "no more than it may"),
        (lc_none_that_tie, "begins with the C step"),
        (lc_minus_keep, "no more than it may"),
        (lc_at_least_one, "no more than it may"),
        (lc_removes_keep, "no more than it may"),
        (lc_per_row, "no more than it may"),
        (lc_soft, "begins with the C step"),
        (lc_signs, "begins with the C step"),
        (lc_absolute, "begins with the C step"),
        (lc_set_of_w, "every μ in turn"),
        (lc_clipped, "every μ in turn"),
        (lc_multipliers_in_the_set, "every μ in turn"),
        (lc_rounded, "begins with the C step"),
        (lc_changes_weight, "leaves its input"),
        (lc_empties_mus, "leaves its input"),
        (lc_needs_a_mu, "runs on every input"),
        (lc_same_tensor, "one L step"),
        (lc_list, "of the weight's shape"),
        (lc_in_half, "begins with the C step"),
        (lc_at_most_thirty, "the best set"),
        (lc_ends_when_the_set_stays, "every μ in turn"),
        (lc_ends_when_close, "every μ in turn"),
        (lc_half_mu, "one L step"),
        (lc_swapped, "runs on every input"),
        (lc_set_by_w, "every μ in turn"),
        (lc_multipliers_from_the_gap, "one L step"),
        (lc_sorted, "every μ in turn"),
        (lc_averages, "one L step"),
        (lc_drops_tiny, "every μ in turn"),
        (lc_clips_mu, "every μ in turn"),
        (lc_of_small_weights, "takes every μ in turn"),
        (lc_chosen_in_bfloat16, "begins with the C step"),
    ],
    "smallest_l1_ball": [
        (ball_inside, "makes buggy_l1_ball go wrong"),
        (ball_on_the_edge, "makes buggy_l1_ball go wrong"),
        (ball_of_three, "has at most 2 entries"),
        (ball_of_none, "inputs that the exercise allows"),
        (ball_of_zero, "inputs that the exercise allows"),
        (ball_negative, "inputs that the exercise allows"),
        (ball_of_a_matrix, "inputs that the exercise allows"),
        (ball_infinite, "inputs that the exercise allows"),
        (ball_without_kappa, "inputs that the exercise allows"),
    ],
    "mended_l1_ball": [
        (ball_by_few_bisections, "edge of the ball"),
        (ball_list, "the shape of v"),
        (ball_in_half, "the edge of the ball"),
        (ball_inside_by_the_largest, "the edge of the ball"),
        (ball_inside_by_the_sum, "the edge of the ball"),
        (ball_inside_by_the_two_norm, "the edge of the ball"),
        (ball_margin, "the edge of the ball"),
        (ball_half_of_it, "in the ball where it is"),
        (ball_number, "the shape of v"),
        (ball_pair, "the shape of v"),
        (ball_column, "the shape of v"),
        (ball_scales, "the nearest point"),
        (ball_scales_always, "in the ball where it is"),
        (ball_to_the_edge, "in the ball where it is"),
        (ball_unsigned, "in the ball where it is"),
        (ball_of_positives, "in the ball where it is"),
        (ball_unsorted, "the edge of the ball"),
        (ball_ascending, "the edge of the ball"),
        (ball_first_that_holds, "the edge of the ball"),
        (ball_all_shrink_alike, "the edge of the ball"),
        (ball_two_passes, "the edge of the ball"),
        (ball_counts_from_zero, "the edge of the ball"),
        (ball_one_level_too_few, "the edge of the ball"),
        (ball_none_fails_mended, "the edge of the ball"),
        (ball_by_the_sizes, "the edge of the ball"),
        (ball_hard, "the edge of the ball"),
        (ball_hard_at_the_threshold, "the edge of the ball"),
        (ball_of_two_norm, "the edge of the ball"),
        (ball_of_max_norm, "the edge of the ball"),
        (ball_kappa_one, "in the ball where it is"),
        (ball_kappa_squared, "the edge of the ball"),
        (ball_times_kappa, "in the ball where it is"),
        (ball_soft_by_kappa, "in the ball where it is"),
        (ball_a_few_bisections, "the edge of the ball"),
        (ball_with_an_absolute_end, "the edge of the ball"),
        (ball_with_an_epsilon, "the edge of the ball"),
        (ball_zero, "the edge of the ball"),
        (ball_one_coordinate, "the nearest point"),
        (ball_in_place, "leaves its input"),
        (ball_sorts_the_input, "leaves its input"),
        (ball_refuses_inside, "runs on every input"),
        (ball_of_large_kappa, "the edge of the ball"),
        (ball_rounded, "the edge of the ball"),
        (buggy_l1_ball, "the edge of the ball"),
    ],
}

HUNTS = {}
