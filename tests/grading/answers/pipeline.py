"""Answers to the exercises of lesson Pipeline."""

import math

import torch

from course_lib.exercises.pipeline import buggy_next_round, weak_round_test

from .common import judge_says_no, judge_says_yes

# prune_in_rounds


def rounds_by_sort(weight, sparsities, train):
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        score = weight.abs().masked_fill(~keep, -torch.inf).flatten()
        order = score.argsort(descending=True, stable=True)
        flat = torch.zeros_like(score, dtype=torch.bool)
        flat[order[: len(score) - round(sparsity * len(score))]] = True
        keep = flat.view_as(weight)
        weight = train(weight * keep, keep) * keep
    return weight, keep


def rounds_by_python(weight, sparsities, train):
    """The dead are a set of positions, and each round adds to it."""
    gone, shape, n = set(), weight.shape, weight.numel()
    keep = torch.ones(shape, dtype=torch.bool)
    for sparsity in sparsities:
        size = weight.abs().flatten().tolist()
        alive = sorted((i for i in range(n) if i not in gone), key=lambda i: (size[i], -i))
        gone |= set(alive[: round(sparsity * n) - len(gone)])
        keep = torch.tensor([i not in gone for i in range(n)]).view(shape)
        weight = train(torch.where(keep, weight, 0.0), keep).masked_fill(~keep, 0)
    return weight, keep


def _cut(score, sparsity):
    flat = score.flatten()
    order = flat.argsort(descending=True, stable=True)
    keep = torch.zeros_like(flat, dtype=torch.bool)
    keep[order[: len(flat) - round(sparsity * len(flat))]] = True
    return keep.view_as(score)


def rounds_no_mask(weight, sparsities, train):
    return rounds_by_sort(weight, sparsities, train)[0]


def rounds_of_the_rest(weight, sparsities, train):
    """Each sparsity is taken of what is left."""
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        count = int((~keep).sum()) + round(sparsity * int(keep.sum()))
        keep = _cut(weight.abs().masked_fill(~keep, -torch.inf), count / weight.numel())
        weight = train(weight * keep, keep) * keep
    return weight, keep


def rounds_not_held(weight, sparsities, train):
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        keep = _cut(weight.abs().masked_fill(~keep, -torch.inf), sparsity)
        weight = train(weight * keep, keep)
    return weight, keep


def rounds_revive(weight, sparsities, train):
    """The dead are ranked by what training made of them."""
    for sparsity in sparsities:
        keep = _cut(weight.abs(), sparsity)
        weight = train(weight * keep, keep)
    return weight * keep, keep


def rounds_tied_zeros(weight, sparsities, train):
    """The dead score 0, like living zeros."""
    for sparsity in sparsities:
        keep = _cut(weight.abs(), sparsity)
        weight = train(weight * keep, keep) * keep
    return weight, keep


def rounds_signed(weight, sparsities, train):
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        keep = _cut(weight.masked_fill(~keep, -torch.inf), sparsity)
        weight = train(weight * keep, keep) * keep
    return weight, keep


def rounds_by_the_start(weight, sparsities, train):
    start, keep = weight.abs(), torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        keep = _cut(start.masked_fill(~keep, -torch.inf), sparsity)
        weight = train(weight * keep, keep) * keep
    return weight, keep


def rounds_train_first(weight, sparsities, train):
    keep = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in sparsities:
        weight = train(weight * keep, keep) * keep
        keep = _cut(weight.abs().masked_fill(~keep, -torch.inf), sparsity)
        weight = weight * keep
    return weight, keep


def rounds_one_training(weight, sparsities, train):
    """Cuts once, to the last sparsity, and trains once."""
    return rounds_by_sort(weight, sparsities[-1:], train)


def rounds_last_untrained(weight, sparsities, train):
    keep = torch.ones_like(weight, dtype=torch.bool)
    for number, sparsity in enumerate(sparsities):
        keep = _cut(weight.abs().masked_fill(~keep, -torch.inf), sparsity)
        weight = weight * keep
        if number < len(sparsities) - 1:
            weight = train(weight, keep) * keep
    return weight, keep


def rounds_in_place(weight, sparsities, train):
    found, keep = rounds_by_sort(weight.clone(), sparsities, train)
    return weight.copy_(found), keep


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
    "prune_in_rounds": [rounds_by_sort, rounds_by_python],
    "kills_wrong_rounds": [judge_round_by_oracle, judge_round_by_hand],
    "plan": [plan_by_loop, plan_by_log],
}


WRONG = {
    "prune_in_rounds": [
        (rounds_no_mask, "returns (weight, keep)"),
        (rounds_of_the_rest, "in all by the last round"),
        (rounds_not_held, "holds the mask"),
        (rounds_revive, "keeps the right weights"),
        (rounds_tied_zeros, "keeps the right weights"),
        (rounds_signed, "keeps the right weights"),
        (rounds_by_the_start, "keeps the right weights"),
        (rounds_train_first, "keeps the right weights"),
        (rounds_one_training, "keeps the right weights"),
        (rounds_last_untrained, "trains after every cut"),
        (rounds_in_place, "leaves its input"),
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
        (plan_one_epoch, "as many epochs per round"),
        (plan_without_error, "raises a ValueError"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_rounds": (weak_round_test, buggy_next_round, judge_round_by_oracle)}
