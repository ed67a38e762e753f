"""Answers to the exercises of lesson Which channels, as a set."""

import math

import numpy as np
import torch

from course_lib.exercises.channel_sets import buggy_rewards, right_gradient, right_rewards
from course_lib.search.subsets import policy_gradient as library

# policy_gradient


def gradient_by_loop(kept, rewards, probability):
    total = torch.zeros(len(probability), dtype=rewards.dtype)
    for m, reward in enumerate(rewards):
        others = [r for k, r in enumerate(rewards) if k != m]
        total += (reward - sum(others) / len(others)) * (kept[m].to(rewards.dtype) - probability)
    return total / len(rewards)


def gradient_in_numpy(kept, rewards, probability):
    a, r, p = kept.double().numpy(), rewards.double().numpy(), probability.double().numpy()
    m = len(r)
    return ((r - r.mean()) * m / (m - 1)) @ (a - p) / m


def gradient_without_p(kept, rewards, probability):
    """The advantages add up to 0, so the p may be left out."""
    m = len(rewards)
    centred = rewards.double() - rewards.double().mean()
    return centred @ kept.double() / (m - 1)


def gradient_by_autograd(kept, rewards, probability):
    theta = (probability / (1 - probability)).log().double().requires_grad_()
    p = theta.sigmoid()
    log = torch.where(kept, p, 1 - p).log().sum(1)
    r = rewards.double()
    advantage = r - (r.sum() - r) / (len(r) - 1)
    return torch.autograd.grad((advantage * log).mean(), theta)[0]


def gradient_no_baseline(kept, rewards, probability):
    return rewards @ (kept.to(rewards.dtype) - probability) / len(rewards)


def gradient_mean_baseline(kept, rewards, probability):
    return (rewards - rewards.mean()) @ (kept.to(rewards.dtype) - probability) / len(rewards)


def gradient_as_targets(kept, rewards, probability):
    others = (rewards.sum() - rewards) / (len(rewards) - 1)
    return ((rewards - others)[:, None] * kept - probability).mean(0)


def gradient_downhill(kept, rewards, probability):
    return -right_gradient(kept, rewards, probability)


def gradient_summed(kept, rewards, probability):
    return right_gradient(kept, rewards, probability) * len(rewards)


def gradient_per_draw(kept, rewards, probability):
    return rewards[:, None] * (kept.to(rewards.dtype) - probability)


def gradient_standardised(kept, rewards, probability):
    advantage = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
    return advantage @ (kept.to(rewards.dtype) - probability) / len(rewards)


def gradient_of_p(kept, rewards, probability):
    return right_gradient(kept, rewards, probability) / (probability * (1 - probability))


def gradient_of_dropped(kept, rewards, probability):
    return right_gradient(~kept, rewards, 1 - probability)


def gradient_in_place(kept, rewards, probability):
    found = right_gradient(kept, rewards, probability)
    rewards -= rewards.mean()
    return found


# smallest_reward


def units_one_set():
    return torch.tensor([0.5]), torch.tensor([[True, False]]), 0.75, 2.0


def units_in_numpy():
    return np.array([0.9]), np.array([[False, True]]), 1.0, 1.0


def units_a_gain():
    return torch.tensor([1.0]), torch.tensor([[True, False]]), 0.5, 5


def units_tiny_bound():  # 0 in float32
    accuracy = torch.tensor([0.0], dtype=torch.float64)
    return accuracy, torch.tensor([[True, False]]), 1, 1e-300


def units_wide_bound():  # a tolerance of more points than there are
    return torch.tensor([0.25]), torch.tensor([[False, True]]), 1.0, 1000


def units_endless_bound():
    return torch.tensor([0.25]), torch.tensor([[False, True]]), 1.0, float("inf")


def units_no_drop():
    return torch.tensor([0.5]), torch.tensor([[True, False]]), 0.5, 2.0


def units_nothing_removed():
    return torch.tensor([0.5]), torch.tensor([[True, True]]), 0.75, 2.0


def units_too_large():
    return torch.tensor([0.5, 0.5]), torch.tensor([[True, False], [False, True]]), 0.75, 2.0


def units_in_percent():
    return torch.tensor([50.0]), torch.tensor([[True, False]]), 75.0, 2.0


def units_three_inputs():
    return torch.tensor([0.5]), torch.tensor([[True, False]]), 0.75


# mended_rewards


def rewards_by_fractions(accuracy, kept, before, bound):
    if (kept.sum(1) == 0).any():
        raise ValueError("every set must keep a channel")
    b = bound / 100
    return (b - (before - accuracy)) / b * torch.log(kept.shape[1] / kept.sum(1))


def rewards_by_loop(accuracy, kept, before, bound):
    found = []
    for a, row in zip(accuracy.tolist(), kept.tolist(), strict=True):
        if not any(row):
            raise ValueError("nothing is kept")
        found.append((1 - (before - a) * 100 / bound) * math.log(len(row) / sum(row)))
    return torch.tensor(found)


def rewards_in_numpy(accuracy, kept, before, bound):
    a, k = accuracy.double().numpy(), kept.numpy()
    if not k.any(axis=1).all():
        raise ValueError("nothing is kept")
    return (bound - 100 * (before - a)) / bound * np.log(k.shape[1] / k.sum(axis=1))


def rewards_without_refusal(accuracy, kept, before, bound):
    psi = (bound - 100 * (before - accuracy)) / bound
    return psi * (kept.shape[1] / kept.sum(1)).log()


def rewards_as_one(accuracy, kept, before, bound):
    return float(right_rewards(accuracy, kept, before, bound).sum())


def rewards_floored(accuracy, kept, before, bound):
    return right_rewards(accuracy, kept, before, bound).clamp(min=0)


def rewards_base_two(accuracy, kept, before, bound):
    return right_rewards(accuracy, kept, before, bound) / math.log(2)


def rewards_of_removed(accuracy, kept, before, bound):
    right_rewards(accuracy, kept, before, bound)
    psi = (bound - 100 * (before - accuracy)) / bound
    return psi * (~kept).float().mean(1)


def rewards_the_other_way(accuracy, kept, before, bound):
    right_rewards(accuracy, kept, before, bound)
    psi = (bound - (before - accuracy) / 100) / bound
    return psi * (kept.shape[1] / kept.sum(1)).log()


def rewards_in_place(accuracy, kept, before, bound):
    found = right_rewards(accuracy, kept, before, bound)
    accuracy *= 100
    return found


def rewards_refused_by_the_last(accuracy, kept, before, bound):
    if not kept[-1].any():
        raise ValueError("the last set keeps nothing")
    psi = (bound - 100 * (before - accuracy)) / bound
    return psi * (kept.shape[1] / kept.sum(1)).log()


def rewards_of_percent_by_size(accuracy, kept, before, bound):
    """Takes accuracies up to a tenth for fractions of fractions."""
    if accuracy.max() <= 0.1:
        accuracy, before = accuracy * 100, before * 100
    return right_rewards(accuracy, kept, before, bound)


RIGHT = {
    "policy_gradient": [
        right_gradient,
        library,
        gradient_by_loop,
        gradient_in_numpy,
        gradient_without_p,
        gradient_by_autograd,
    ],
    "smallest_reward": [
        units_one_set,
        units_in_numpy,
        units_a_gain,
        units_tiny_bound,
        units_wide_bound,
    ],
    "mended_rewards": [right_rewards, rewards_by_fractions, rewards_by_loop, rewards_in_numpy],
}

WRONG = {
    "policy_gradient": [
        (gradient_per_draw, "one number per channel"),
        (gradient_no_baseline, "takes the baseline off"),
        (gradient_mean_baseline, "out of its own baseline"),
        (gradient_as_targets, "that was not kept"),
        (gradient_downhill, "is the estimate"),
        (gradient_summed, "is the estimate"),
        (gradient_standardised, "is the estimate"),
        (gradient_of_p, "is the estimate"),
        (gradient_of_dropped, "is the estimate"),
        (gradient_in_place, "leaves its input"),
    ],
    "smallest_reward": [
        (units_three_inputs, "inputs that the exercise allows"),
        (units_in_percent, "inputs that the exercise allows"),
        (units_endless_bound, "inputs that the exercise allows"),
        (units_too_large, "at most 3 entries"),
        (units_no_drop, "makes buggy_rewards go wrong"),
        (units_nothing_removed, "makes buggy_rewards go wrong"),
    ],
    "mended_rewards": [
        (rewards_without_refusal, "raises a ValueError"),
        (rewards_refused_by_the_last, "raises a ValueError"),
        (rewards_as_one, "one reward per set"),
        (buggy_rewards, "in one unit"),
        (rewards_floored, "ψ times φ"),
        (rewards_base_two, "ψ times φ"),
        (rewards_of_removed, "ψ times φ"),
        (rewards_the_other_way, "ψ times φ"),
        (rewards_in_place, "leaves its input"),
        (rewards_of_percent_by_size, "is ψ times φ"),
    ],
}

HUNTS = {}
