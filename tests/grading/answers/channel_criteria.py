"""Answers to the exercises of lesson All criteria in one bake-off."""

import torch

from course_lib.exercises.channel_criteria import buggy_taylor, weak_taylor_test

from .common import judge_says_no, judge_says_yes

# active_fraction


def active_by_mean(activation):
    axes = [axis for axis in range(activation.dim()) if axis != 1]
    return (activation != 0).float().mean(dim=axes)


def active_by_counting(activation):
    found = []
    for c in range(activation.shape[1]):
        entries = activation[:, c].flatten().tolist()
        found.append(sum(value != 0 for value in entries) / len(entries))
    return torch.tensor(found)


def active_by_count_nonzero(activation):
    flat = activation.movedim(1, 0).reshape(activation.shape[1], -1)
    return flat.count_nonzero(dim=1) / flat.shape[1]


def active_list(activation):
    return active_by_mean(activation).tolist()


def active_of_each_place(activation):
    return (activation != 0).float().mean(0)


def active_of_examples(activation):
    return (activation != 0).float().flatten(1).mean(1)


def active_counts(activation):
    return active_by_mean(activation).round().long()


def active_as_apoz(activation):
    return 1 - active_by_mean(activation)


def active_positive(activation):
    return active_by_mean(activation.relu())


def active_mean_value(activation):
    return activation.movedim(1, 0).flatten(1).mean(1)


def active_anywhere(activation):
    return (activation != 0).movedim(1, 0).flatten(1).any(1).float()


def active_in_place(activation):
    activation[activation != 0] = 1
    return activation.movedim(1, 0).flatten(1).mean(1)


# kills_wrong_taylors


def judge_taylor(score):
    """Equation 8 on random maps, written as a loop."""
    generator = torch.Generator().manual_seed(1)
    for shape in ((1, 2, 1, 1), (2, 3, 1, 1), (3, 2, 2, 3), (5, 4, 3, 3)):
        a, g = (torch.randn(shape, generator=generator) for _ in range(2))
        before = a.clone(), g.clone()
        expected = torch.zeros(shape[1])
        for example in range(shape[0]):
            expected += (a[example] * g[example]).mean(dim=(1, 2)).abs() / shape[0]
        if not torch.allclose(score(a, g), expected, atol=1e-5):
            return False
        if not all(torch.equal(x, old) for x, old in zip((a, g), before, strict=True)):
            return False
    return True


def judge_taylor_by_hand(score):
    """A few cases whose answer is known."""

    def asked(activation, gradient, shape):
        return score(torch.tensor(activation).view(shape), torch.tensor(gradient).view(shape))

    opposite = asked([1.0, 1.0], [1.0, -3.0], (2, 1, 1, 1))
    cancels = asked([1.0, 1.0, 2.0, 0.0], [1.0, -1.0, 1.0, 5.0], (1, 2, 1, 2))
    a = torch.full((1, 1, 1, 1), 2.0)
    score(a, torch.full((1, 1, 1, 1), 3.0))
    return opposite.tolist() == [2.0] and cancels.tolist() == [0.0, 1.0] and a.item() == 2.0


def judge_taylor_of_one_example(score):
    generator = torch.Generator().manual_seed(1)
    a, g = (torch.randn(1, 3, 2, 2, generator=generator) for _ in range(2))
    before = a.clone()
    same = torch.allclose(score(a, g), (a * g).mean(dim=(2, 3)).abs()[0], atol=1e-5)
    return same and torch.equal(a, before)


def judge_taylor_values_only(score):
    generator = torch.Generator().manual_seed(2)
    a, g = (torch.randn(4, 3, 2, 2, generator=generator) for _ in range(2))
    expected = (a * g).mean(dim=(2, 3)).abs().mean(0)
    return torch.allclose(score(a, g), expected, atol=1e-5)


# prune_to


def prune_by_loop(scores, costs, budget):
    order = sorted(range(len(scores)), key=lambda i: (scores[i], -i))
    dead, left = set(), sum(costs)
    for i in order:
        if left <= budget:
            return dead
        dead.add(i)
        left -= costs[i]
    raise ValueError(f"not one channel fits into {budget}")


def prune_by_minimum(scores, costs, budget):
    alive = dict(enumerate(scores))
    while sum(costs[i] for i in alive) > budget:
        if len(alive) == 1:
            raise ValueError("a layer needs a channel")
        del alive[min(alive, key=lambda i: (alive[i], -i))]
    return set(range(len(scores))) - set(alive)


def prune_list(scores, costs, budget):
    return sorted(prune_by_loop(scores, costs, budget))


def prune_from_one(scores, costs, budget):
    return {i + 1 for i in prune_by_loop(scores, costs, budget)}


def prune_returns_the_living(scores, costs, budget):
    return set(range(len(scores))) - prune_by_loop(scores, costs, budget)


def prune_one_too_few(scores, costs, budget):
    dead = prune_by_loop(scores, costs, budget)
    order = sorted(dead, key=lambda i: (scores[i], -i))
    return set(order[:-1])


def prune_the_dearest(scores, costs, budget):
    prune_by_loop(scores, costs, budget)
    return prune_by_loop([-c for c in costs], costs, budget)


def prune_the_earlier(scores, costs, budget):
    prune_by_loop(scores, costs, budget)
    return {len(scores) - 1 - i for i in prune_by_loop(scores[::-1], costs[::-1], budget)}


def prune_strictly_below(scores, costs, budget):
    dead = prune_by_loop(scores, costs, budget)
    try:
        return prune_by_loop(scores, costs, budget - 1)
    except ValueError:
        return dead


def prune_everything(scores, costs, budget):
    try:
        return prune_by_loop(scores, costs, budget)
    except ValueError:
        return set(range(len(scores)))


RIGHT = {
    "active_fraction": [active_by_mean, active_by_counting, active_by_count_nonzero],
    "kills_wrong_taylors": [judge_taylor, judge_taylor_by_hand],
    "prune_to": [prune_by_loop, prune_by_minimum],
}


WRONG = {
    "active_fraction": [
        (active_list, "one number per channel"),
        (active_of_each_place, "one number per channel"),
        (active_of_examples, "one number per channel"),
        (active_counts, "one number per channel"),
        (active_as_apoz, "higher for channels to keep"),
        (active_positive, "entries that are not zero"),
        (active_mean_value, "entries that are not zero"),
        (active_anywhere, "entries that are not zero"),
        (active_in_place, "leaves its input"),
    ],
    "kills_wrong_taylors": [
        (judge_says_no, "accepts a correct function that takes means"),
        (judge_says_yes, "adds up the batch first"),
        (weak_taylor_test, "adds up the batch first"),
        (judge_taylor_of_one_example, "adds up the batch first"),
        (judge_taylor_values_only, "multiplies the activations it was given in place"),
    ],
    "prune_to": [
        (prune_list, "set of channel numbers"),
        (prune_from_one, "set of channel numbers"),
        (prune_returns_the_living, "no more multiplications"),
        (prune_one_too_few, "no more multiplications"),
        (prune_the_dearest, "lowest scores"),
        (prune_the_earlier, "lowest scores"),
        (prune_strictly_below, "no more channels than needed"),
        (prune_everything, "raises a ValueError"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_taylors": (weak_taylor_test, buggy_taylor, judge_taylor)}
