"""The exercises of the lesson Lottery."""

from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor

from course_lib.exercises.common import draw, gone_after, hunt, lowest_removed, not_a_mask
from course_lib.exercises.exercise import REFUSES, UNCHANGED, Exercise, Property, show

NextTicket = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


def _expected_mask(trained: Tensor, keep: Tensor, share: float) -> Tensor:
    """Without ``round(share * n)`` of the n kept weights: those that are smallest after training."""
    size = torch.where(keep, trained.abs(), -1.0)
    return lowest_removed(size, int((~keep).sum()) + round(share * int(keep.sum())))


def _ticket_cases() -> Iterator[tuple[Tensor, Tensor, Tensor, float]]:
    yield (
        torch.tensor([0.5, -0.25, 0.75, 1.0, -0.5]),
        torch.tensor([1.0, 2.0, 0.25, -3.0, -0.5]),
        torch.tensor([True, True, True, True, True]),
        0.4,
    )
    generator = torch.Generator().manual_seed(0)
    for shape, share in product(((4,), (3, 4), (5, 6)), (0.2, 0.5, 0.1, 0.0, 1.0)):
        start, trained = draw(shape, generator), draw(shape, generator)
        yield start, trained, torch.rand(shape, generator=generator) > 0.3, share


def _not_a_ticket(returned: object, start: Tensor, *_: object) -> str | None:
    if type(returned) is not tuple or len(returned) != 2:
        return f"a tuple (weights, mask), got {show(returned)}"
    weights, mask = returned
    if type(weights) is not Tensor or weights.dtype != start.dtype or weights.shape != start.shape:
        return (
            f"weights like start, {start.dtype} of shape {tuple(start.shape)}, got {show(weights)}"
        )
    return not_a_mask(mask, start)


def _count(returned, start, trained, keep, share):
    left, wanted = int(returned[1].sum()), int(keep.sum()) - round(share * int(keep.sum()))
    if left == wanted:
        return None
    return f"{wanted} weights left: round({share:g} * {int(keep.sum())}) of {int(keep.sum())} go, not {left} left"


NEXT_TICKET = Exercise(
    name="next_ticket",
    signature="next_ticket(start, trained, keep, share)",
    section="lesson Lottery, section “Definition → code”",
    cases=_ticket_cases,
    properties=(
        Property(
            "returns (weights, mask)",
            _not_a_ticket,
            "Return two tensors of the shape of start: floats first, then a bool mask.",
        ),
        Property(
            "lets nothing come back",
            lambda returned, start, trained, keep, share: (
                None
                if not (returned[1] & ~keep).any()
                else "every weight gone before gone still; here one is kept again"
            ),
            "The new mask may be True only where keep is. Rank the dead below everything else.",
        ),
        Property(
            "removes exactly its share of what is left",
            _count,
            "Count first: round(share * number that keep has). A comparison with the k-th smallest "
            "value removes that value too, and its twins.",
        ),
        Property(
            "removes the smallest of the trained weights",
            lambda returned, start, trained, keep, share: (
                None
                if torch.equal(
                    *(
                        trained.abs()[m].sort().values
                        for m in (returned[1], _expected_mask(trained, keep, share))
                    )
                )
                else "the smallest |trained| gone"
            ),
            "Training says which weights matter: rank by the trained magnitudes, not by the initial "
            "ones.",
        ),
        Property(
            "keeps the earlier of equals",
            lambda returned, start, trained, keep, share: (
                None
                if torch.equal(returned[1], _expected_mask(trained, keep, share))
                else "the earlier of equal magnitudes kept, the later gone"
            ),
            "Sort with stable=True, from large to small, and keep the first ones.",
        ),
        Property(
            "puts the weights that are left back to their start",
            lambda returned, start, trained, keep, share: (
                None
                if torch.equal(returned[0][returned[1]], start[returned[1]])
                else "start, to the last bit, wherever the mask is True"
            ),
            "A ticket is the mask and the *initial* values. With the trained ones you would be "
            "fine-tuning; with new ones you would run the control.",
        ),
        Property(
            "is zero where the mask is False",
            lambda returned, start, trained, keep, share: (
                None
                if not returned[0][~returned[1]].any()
                else "0 wherever the mask is False: m ⊙ θ_0"
            ),
            "Multiply the start by the new mask, not by the old one.",
        ),
        UNCHANGED,
    ),
)


def buggy_next_ticket(
    start: Tensor, trained: Tensor, keep: Tensor, share: float
) -> tuple[Tensor, Tensor]:
    """a function that removes the weight at the cut too, one more than asked"""
    left = trained[keep].abs().sort().values
    k = min(round(share * len(left)), len(left) - 1)
    mask = keep & (trained.abs() > left[k])
    return start * mask, mask


def weak_ticket_test(next_ticket: NextTicket) -> bool:
    """The test that every wrong function of the bug hunt passes: about a fifth goes at first."""
    start = torch.linspace(1.0, 2.0, 100)
    trained = torch.linspace(0.01, 1.0, 100)
    weights, mask = next_ticket(start, trained, torch.ones(100, dtype=torch.bool), 0.2)
    return abs(int(mask.sum()) - 80) <= 1 and bool((weights[mask] != 0).all())


def _ticket_by_sort(start, trained, keep, share):
    """a correct function that ranks the dead below all others"""
    mask = _expected_mask(trained, keep, share)
    return torch.where(mask, start, 0.0), mask


def _ticket_by_product(start, trained, keep, share):
    """a correct function that multiplies by the mask"""
    mask = _expected_mask(trained, keep, share)
    return start * mask, mask


def _ticket_by_python(start, trained, keep, share):
    """a correct function that works on Python lists"""
    size, alive = trained.abs().flatten().tolist(), keep.flatten().tolist()
    left = sorted((i for i, a in enumerate(alive) if a), key=lambda i: (size[i], -i))
    stays = set(left[round(share * len(left)) :])
    mask = torch.tensor([i in stays for i in range(len(size))]).reshape(start.shape)
    return start.masked_fill(~mask, 0), mask


def _ticket_keeps_trained(start, trained, keep, share):
    """a function that goes on from the trained weights"""
    mask = _expected_mask(trained, keep, share)
    return trained * mask, mask


def _ticket_redraws(start, trained, keep, share):
    """a function that gives the weights that are left new random values"""
    mask = _expected_mask(trained, keep, share)
    generator = torch.Generator().manual_seed(0)
    return (2 + torch.rand(start.shape, generator=generator)) * mask, mask


def _ticket_deals_out(start, trained, keep, share):
    """a function that deals the initial values of the survivors out among them in another order"""
    mask = _expected_mask(trained, keep, share)
    weights = start * mask
    weights[mask] = weights[mask].flip(0)
    return weights, mask


def _ticket_by_start(start, trained, keep, share):
    """a function that removes the weights that were smallest before training"""
    mask = _expected_mask(start, keep, share)
    return start * mask, mask


def _ticket_of_all(start, trained, keep, share):
    """a function that takes its share of all weights, so that the dead ones are taken again"""
    mask = lowest_removed(trained.abs() * keep, round(share * keep.numel()))
    return start * mask, mask


def _ticket_only_the_new(start, trained, keep, share):
    """a function whose mask forgets what earlier rounds removed"""
    mask = _expected_mask(trained, keep, share) | ~keep
    return start * mask, mask


def _ticket_unmasked(start, trained, keep, share):
    """a function that leaves the initial values of removed weights in place"""
    return start.clone(), _expected_mask(trained, keep, share)


def _ticket_in_place(start, trained, keep, share):
    """a function that also changes the initial weights it was given, which the next round needs"""
    mask = _expected_mask(trained, keep, share)
    return start.mul_(mask), mask


KILLS_WRONG_TICKETS = hunt(
    name="kills_wrong_tickets",
    signature="is_next_ticket(next_ticket)",
    section="lesson Lottery, section “Definition → code”",
    right=(_ticket_by_sort, _ticket_by_product, _ticket_by_python),
    alarm="A false alarm. Of the weights that the mask keeps, it removes round(share * their "
    "number), those with the smallest trained magnitude, and gives back the initial values of "
    "the others, and zeros.",
    wrong={
        buggy_next_ticket: "Count how many are left. One more or less matters in a small layer, and "
        "a test that allows it cannot see it.",
        _ticket_keeps_trained: "Compare the weights that are left with start.",
        _ticket_redraws: "Compare the weights that are left with start, one by one.",
        _ticket_deals_out: "Compare each weight with its own initial value, in its own place.",
        _ticket_by_start: "Let the order of the initial magnitudes differ from that of the trained "
        "ones.",
        _ticket_of_all: "Begin where a second round begins, with a mask that has removed something.",
        _ticket_only_the_new: "What an earlier round removed has to be gone from the new mask.",
        _ticket_unmasked: "Look at the weights where the mask is False.",
        _ticket_in_place: "Compare start with a copy from before the call.",
    },
)


def _search_cases() -> Iterator[tuple[float, int, int]]:
    yield from ((0.1, 5, 30), (0.5, 4, 8), (0.25, 10, 25), (0.036, 8, 128), (0.2, 3, 5))
    yield from product((0.5, 0.21, 0.07, 0.02), (1, 4, 10), (6, 25, 80))


def _smallest(left: float, rounds: int) -> int:
    """The smallest whole percentage per round that leaves at most the fraction ``left``."""
    return next(p for p in range(1, 101) if gone_after(p / 100, rounds) >= 1 - left - 1e-9)


def _not_a_search(plan: object, *_: object) -> str | None:
    if type(plan) is not tuple or len(plan) != 2 or not all(type(n) is int for n in plan):
        return f"a tuple of two ints, (rounds, percent), got {show(plan)}"
    if plan[0] >= 1 and 1 <= plan[1] <= 99:
        return None
    return f"at least one round, and from 1 to 99 per cent, got {plan}"


GENTLEST_SEARCH = Exercise(
    name="gentlest_search",
    signature="gentlest_search(left, epochs, budget)",
    section="lesson Lottery, exercise C",
    cases=_search_cases,
    refuses=lambda left, epochs, budget: budget < 2 * epochs,
    properties=(
        Property(
            "returns (rounds, percent), two whole numbers",
            _not_a_search,
            "Return a tuple of two ints. // gives whole rounds; count the per cents from 1 upwards.",
        ),
        Property(
            "stays within the budget, the dense training included",
            lambda plan, left, epochs, budget: (
                None
                if (plan[0] + 1) * epochs <= budget
                else f"at most {budget} epochs; {plan[0]} rounds and the dense training take "
                f"{(plan[0] + 1) * epochs}"
            ),
            "Before the first round there is a network to train: r rounds need r + 1 trainings.",
        ),
        Property(
            "uses every round that the budget pays for",
            lambda plan, left, epochs, budget: (
                None
                if (plan[0] + 2) * epochs > budget
                else f"{budget // epochs - 1} rounds, not {plan[0]}"
            ),
            "The more rounds, the gentler each can be. How often does `epochs` go into the budget?",
        ),
        Property(
            "leaves no more weights than asked",
            lambda plan, left, *_: (
                None
                if plan[1] >= _smallest(left, plan[0])
                else f"at most {left:g} left; {plan[0]} rounds of {plan[1]} % leave "
                f"{(1 - plan[1] / 100) ** plan[0]:.4g}"
            ),
            "After r rounds the fraction (1 - p) ** r is left, not 1 - r * p.",
        ),
        Property(
            "removes no more a round than it must",
            lambda plan, left, *_: (
                None
                if plan[1] == _smallest(left, plan[0])
                else f"{_smallest(left, plan[0])} % a round, which is enough; here {plan[1]} %"
            ),
            "Try 1 %, 2 %, 3 %, … and stop at the first that leaves few enough.",
        ),
        REFUSES,
    ),
)

EXERCISES = (NEXT_TICKET, KILLS_WRONG_TICKETS, GENTLEST_SEARCH)
