"""Answers to the exercises of lesson Lottery."""

import math

import torch

from course_lib.exercises.lottery import buggy_next_ticket, weak_ticket_test

from .common import judge_says_no, judge_says_yes

# next_ticket


def ticket_by_sort(start, trained, keep, share):
    size = torch.where(keep, trained.abs(), -1.0).flatten()
    n_left = int(keep.sum()) - round(share * int(keep.sum()))
    mask = torch.zeros(size.numel(), dtype=torch.bool)
    mask[size.argsort(descending=True, stable=True)[:n_left]] = True
    mask = mask.view_as(keep)
    return start * mask, mask


def ticket_by_python(start, trained, keep, share):
    size = trained.abs().flatten().tolist()
    left = [i for i, alive in enumerate(keep.flatten().tolist()) if alive]
    left.sort(key=lambda i: -size[i])
    stays = set(left[: len(left) - round(share * len(left))])
    mask = torch.tensor([i in stays for i in range(len(size))]).reshape(start.shape)
    return start.masked_fill(~mask, 0.0), mask


def ticket_swapped(start, trained, keep, share):
    return ticket_by_sort(start, trained, keep, share)[::-1]


def ticket_float_mask(start, trained, keep, share):
    weights, mask = ticket_by_sort(start, trained, keep, share)
    return weights, mask.float()


def ticket_weights_only(start, trained, keep, share):
    return ticket_by_sort(start, trained, keep, share)[0]


def ticket_double(start, trained, keep, share):
    weights, mask = ticket_by_sort(start, trained, keep, share)
    return weights.double(), mask


def ticket_revives(start, trained, keep, share):
    size = trained.abs().flatten()
    gone = int((~keep).sum()) + round(share * int(keep.sum()))
    mask = torch.ones(size.numel(), dtype=torch.bool)
    mask[size.argsort()[:gone]] = False
    mask = mask.view_as(keep)
    return start * mask, mask


def ticket_off_by_one(start, trained, keep, share):
    if not keep.any():
        return start * keep, keep.clone()
    return buggy_next_ticket(start, trained, keep, share)


def ticket_rounded_up(start, trained, keep, share):
    n = int(keep.sum())
    return ticket_by_sort(start, trained, keep, math.ceil(share * n) / max(n, 1))


def ticket_by_start(start, trained, keep, share):
    return ticket_by_sort(start, start, keep, share)


def ticket_signed(start, trained, keep, share):
    mask = ticket_by_sort(start, trained - trained.min() + 1, keep, share)[1]
    return start * mask, mask


def ticket_ties_reversed(start, trained, keep, share):
    flat = [t.flatten().flip(0) for t in (start, trained, keep)]
    weights, mask = ticket_by_sort(*flat, share)
    return weights.flip(0).view_as(start), mask.flip(0).view_as(keep)


def ticket_keeps_trained(start, trained, keep, share):
    mask = ticket_by_sort(start, trained, keep, share)[1]
    return trained * mask, mask


def ticket_redraws(start, trained, keep, share):
    mask = ticket_by_sort(start, trained, keep, share)[1]
    return torch.randn(start.shape) * mask, mask


def ticket_unmasked(start, trained, keep, share):
    return start.clone(), ticket_by_sort(start, trained, keep, share)[1]


def ticket_old_mask(start, trained, keep, share):
    return start * keep, ticket_by_sort(start, trained, keep, share)[1]


def ticket_in_place(start, trained, keep, share):
    mask = ticket_by_sort(start, trained, keep, share)[1]
    return start.mul_(mask), mask


# kills_wrong_tickets


def judge_ticket_by_oracle(next_ticket):
    generator = torch.Generator().manual_seed(0)
    for n in range(2, 25):
        start = 1 + torch.rand(n, generator=generator)
        trained = torch.randint(-4, 5, (n,), generator=generator) / 4
        keep = torch.rand(n, generator=generator) > 0.3
        keep[0] = True
        for share in (0.1, 0.2, 0.35, 0.5):
            given = start.clone()
            weights, mask = next_ticket(given, trained.clone(), keep.clone(), share)
            expected = ticket_by_python(start, trained, keep, share)
            if not (torch.equal(weights, expected[0]) and torch.equal(mask, expected[1])):
                return False
            if not torch.equal(given, start):
                return False
    return True


def judge_ticket_by_hand(next_ticket):
    start = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    trained = torch.tensor([9.0, -5.0, 4.0, 0.5, -0.25, 7.0])
    keep = torch.tensor([False, True, True, True, True, True])
    given = start.clone()
    weights, mask = next_ticket(given, trained, keep, 0.4)  # two of five
    return (
        mask.tolist() == [False, True, True, False, False, True]
        and weights.tolist() == [0, 2, 3, 0, 0, 6]
        and given.equal(start)
    )


def judge_ticket_counts(next_ticket):
    """The count of a first round, and nothing else."""
    _, mask = next_ticket(torch.ones(10), torch.arange(10.0), torch.ones(10, dtype=torch.bool), 0.2)
    return int(mask.sum()) == 8


def judge_ticket_values(next_ticket):
    """Values of a first round where start and trained are in the same order."""
    start = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    weights, _ = next_ticket(start, start * 2, torch.ones(5, dtype=torch.bool), 0.4)
    return weights.tolist() == [0, 0, 3, 4, 5]


def judge_ticket_first_round(next_ticket):
    """All of a first round."""
    start = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    trained = torch.tensor([3.0, -1.0, 0.5, 4.0, 5.0])
    weights, mask = next_ticket(start, trained, torch.ones(5, dtype=torch.bool), 0.4)
    return weights.tolist() == [1, 0, 0, 4, 5] and mask.tolist() == [True, False, False, True, True]


def judge_ticket_demands_trained(next_ticket):
    """Expects fine-tuning."""
    weights, _ = next_ticket(torch.ones(4), torch.arange(4.0), torch.ones(4, dtype=torch.bool), 0.5)
    return weights.tolist() == [0, 0, 2, 3]


# gentlest_search


def search_by_loop(left, epochs, budget):
    rounds = budget // epochs - 1
    if rounds < 1:
        raise ValueError(f"budget must pay for two trainings of {epochs}, got {budget}")
    percent = 1
    while (1 - percent / 100) ** rounds > left + 1e-9:
        percent += 1
    return rounds, percent


def search_by_root(left, epochs, budget):
    if budget < 2 * epochs:
        raise ValueError("budget too small")
    rounds = budget // epochs - 1
    return rounds, math.ceil(100 * (1 - left ** (1 / rounds)) - 1e-7)


def search_without_dense(left, epochs, budget):
    search_by_root(left, epochs, budget)
    rounds = budget // epochs
    return rounds, math.ceil(100 * (1 - left ** (1 / rounds)) - 1e-7)


def search_one_round(left, epochs, budget):
    search_by_root(left, epochs, budget)
    return 1, math.ceil(100 * (1 - left) - 1e-7)


def search_linear(left, epochs, budget):
    rounds, _ = search_by_root(left, epochs, budget)
    return rounds, max(1, math.ceil(100 * (1 - left) / rounds - 1e-7))


def search_rounded_down(left, epochs, budget):
    rounds, percent = search_by_root(left, epochs, budget)
    return rounds, max(1, percent - 1)


def search_always_half(left, epochs, budget):
    rounds, percent = search_by_root(left, epochs, budget)
    return rounds, max(50, percent)


def search_fraction(left, epochs, budget):
    rounds, percent = search_by_root(left, epochs, budget)
    return rounds, percent / 100


def search_without_error(left, epochs, budget):
    return search_by_root(left, epochs, max(budget, 2 * epochs))


RIGHT = {
    "next_ticket": [ticket_by_sort, ticket_by_python],
    "kills_wrong_tickets": [judge_ticket_by_oracle, judge_ticket_by_hand],
    "gentlest_search": [search_by_loop, search_by_root],
}

WRONG = {
    "next_ticket": [
        (ticket_weights_only, "returns (weights, mask)"),
        (ticket_swapped, "returns (weights, mask)"),
        (ticket_float_mask, "returns (weights, mask)"),
        (ticket_double, "returns (weights, mask)"),
        (ticket_revives, "lets nothing come back"),
        (ticket_off_by_one, "exactly its share"),
        (ticket_rounded_up, "exactly its share"),
        (ticket_by_start, "smallest of the trained"),
        (ticket_signed, "smallest of the trained"),
        (ticket_ties_reversed, "keeps the earlier"),
        (ticket_keeps_trained, "back to their start"),
        (ticket_redraws, "back to their start"),
        (ticket_unmasked, "zero where the mask is False"),
        (ticket_old_mask, "zero where the mask is False"),
        (ticket_in_place, "leaves its input"),
    ],
    "kills_wrong_tickets": [
        (judge_says_no, "accepts a correct function that ranks the dead"),
        (judge_ticket_demands_trained, "accepts a correct function that ranks the dead"),
        (judge_says_yes, "one more than asked"),
        (weak_ticket_test, "one more than asked"),
        (judge_ticket_counts, "goes on from the trained"),
        (judge_ticket_values, "smallest before training"),
        (judge_ticket_first_round, "the dead ones are taken again"),
    ],
    "gentlest_search": [
        (search_fraction, "two whole numbers"),
        (search_without_dense, "the dense training included"),
        (search_one_round, "every round that the budget pays for"),
        (search_linear, "no more weights than asked"),
        (search_rounded_down, "no more weights than asked"),
        (search_always_half, "no more a round than it must"),
        (search_without_error, "raises a ValueError"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_tickets": (weak_ticket_test, buggy_next_ticket, judge_ticket_by_oracle)}
