"""Answers to the exercises of lesson Pipeline."""

import math

import torch

from course_lib.exercises.pipeline import buggy_next_round, weak_round_test

from .common import judge_says_no, judge_says_yes

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


RIGHT = {
    "replay": [replay_by_lambda, replay_from_the_end, Replay],
    "kills_wrong_rounds": [judge_round_by_oracle, judge_round_by_hand],
    "plan": [plan_by_loop, plan_by_log],
}


WRONG = {
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
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_rounds": (weak_round_test, buggy_next_round, judge_round_by_oracle)}
