"""The exercises of the lesson Lottery."""

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from course_lib.exercises.common import (
    COUNT_HINT,
    TIE_HINT,
    draw,
    hunt,
    larger_gone,
    later_kept,
    lowest_removed,
    not_a_mask,
    oracle,
    precise,
    repeated,
    rescaled,
    smallest_input,
)
from course_lib.exercises.exercise import (
    UNCHANGED,
    Exercise,
    Lines,
    Property,
    WrongLine,
    show,
)

Layers = dict[str, Tensor]
LayerTicket = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
_SECTION = "lesson Lottery, section “Definition → code”"


# ---- A · one round for a network


def next_ticket(
    start: Layers, trained: Layers, keep: Layers, share: float
) -> tuple[Layers, Layers]:
    """(weights, masks), each by the layer's name."""
    masks, shares = {}, dict.fromkeys(keep, share)
    shares[list(keep)[-1]] = share / 2
    for name, mask in keep.items():
        size = trained[name].abs().masked_fill(~mask, -1).flatten()
        order = size.argsort(descending=True, stable=True)[: int(mask.sum())]
        stays = order[: len(order) - round(shares[name] * len(order))]
        fresh = torch.zeros_like(size).index_fill(0, stays, 1).bool()
        masks[name] = fresh.view_as(mask)
    return {name: start[name] * mask for name, mask in masks.items()}, masks


def _ticket_cases() -> Iterator[tuple[Layers, Layers, Layers, float]]:
    yield (
        {"fc1": torch.tensor([0.5, -0.25, 0.75, 1.0]), "fc2": torch.tensor([-0.5, 0.25])},
        {"fc1": torch.tensor([1.0, 2.0, 0.25, -3.0]), "fc2": torch.tensor([-0.5, 2.0])},
        {"fc1": torch.ones(4).bool(), "fc2": torch.ones(2).bool()},
        0.5,
    )
    generator = torch.Generator().manual_seed(0)
    networks = (
        ((3,),),
        ((5,),),
        ((4,), (3,)),
        ((2, 3), (3, 2)),
        ((3, 3), (2, 3), (5, 2)),
        ((2, 1, 2, 2), (3, 8)),
    )
    for shapes, share in product(networks, (0.2, 0.5, 0.25, 0.1, 0.7, 0.0, 1.0)):
        start, trained = (
            {f"fc{i}": draw(s, generator) for i, s in enumerate(shapes, 1)} for _ in range(2)
        )
        keep = {name: torch.rand(w.shape, generator=generator) > 0.3 for name, w in start.items()}
        yield start, trained, keep, share
    start, trained = (
        {n: torch.randn(9, 11, generator=generator) for n in ("z", "a", "m")} for _ in range(2)
    )
    keep = {name: torch.rand(9, 11, generator=generator) > 0.6 for name in start}
    for share in (0.3, 0.5, 0.7):
        small, moved = ({n: draw((3, 4), generator) for n in start} for _ in range(2))
        held = {name: mask[:3, :4].contiguous() for name, mask in keep.items()}
        yield from rescaled((small, moved, held, share), 1)
        yield from rescaled((small, moved, held, share), 0)
        yield precise((small, moved, held, share), 1)
        yield precise((small, moved, held, share), 0)
    first, last, live = (  # as a network names its weights
        {f"{name}.weight": w for name, w in layers.items()} for layers in (small, moved, held)
    )
    yield first, last, live, 0.5
    yield from _tickets_by_depth(generator)
    yield start, trained, keep, 0.36
    parts = [{n: w[:, :2].clone() for n, w in layers.items()} for layers in (start, keep)]
    yield repeated((parts[0], {n: w.round() for n, w in parts[0].items()}, parts[1], 0.305), 9)


def _tickets_by_depth(generator: torch.Generator) -> Iterator[tuple[Layers, Layers, Layers, float]]:
    """Two layers of one weight, and eleven layers: "fc10" comes before "fc2" in the alphabet."""
    ones = {name: torch.ones(1) for name in ("a", "b")}
    yield ones, ones, {name: w.bool() for name, w in ones.items()}, 0.6
    many = [{f"fc{i}": draw((5,), generator) for i in range(1, 12)} for _ in range(2)]
    yield many[0], many[1], {name: draw((5,), generator) > -0.5 for name in many[0]}, 0.6


def _shares(keep: Layers, share: float) -> dict[str, float]:
    """Layer -> the share of its remaining weights that goes."""
    return dict.fromkeys(keep, share) | {list(keep)[-1]: share / 2}


def _not_a_ticket(returned: Any, start: Layers, *_: object) -> str | None:
    both = isinstance(returned, tuple) and len(returned) == 2
    if not both or not all(isinstance(part, dict) for part in returned):
        return f"a tuple of two dicts, (weights, masks), got {show(returned)}"
    for part, what in zip(returned, ("weights", "masks"), strict=True):
        if part.keys() != start.keys():
            return f"{what} of the layers {list(start)}, got those of {list(part)}"
    weights, masks = returned
    for name, first in start.items():
        mine = weights[name]
        if (
            not isinstance(mine, Tensor)
            or not mine.is_floating_point()
            or mine.shape != first.shape
        ):
            return f"weights of {name}: floats of shape {tuple(first.shape)}, got {show(mine)}"
        if wrong := not_a_mask(masks[name], first):
            return f"the mask of {name}: {wrong}"
    return None


def _in_each_layer(demand: Callable[..., str | None]) -> Callable[..., str | None]:
    """A demand on one layer, (weights, mask, start, trained, keep, share), asked of all of them."""

    def of_all(returned, start, trained, keep, share):
        for name, part in _shares(keep, share).items():
            layer = (returned[0], returned[1], start, trained, keep)
            if wrong := demand(*(tensors[name] for tensors in layer), part):
                return f"{wrong} (layer {name})"
        return None

    return of_all


def _revives(weights, mask, start, trained, keep, share) -> str | None:
    return (
        "False wherever keep is False; here a weight comes back" if (mask & ~keep).any() else None
    )


def _wrong_number(weights, mask, start, trained, keep, share) -> str | None:
    alive, left = int(keep.sum()), int(mask.sum())
    go = round(share * alive)
    if alive - left == go:
        return None
    return f"round({share:g} * {alive}) = {go} of {alive} weights gone, not {alive - left}"


def _not_the_start(weights, mask, start, trained, keep, share) -> str | None:
    if torch.equal(weights[mask], start[mask]):
        return None
    return f"the initial values {show(start[mask])} where the mask is True"


NEXT_TICKET = Exercise(
    name="next_ticket",
    signature="next_ticket(start, trained, keep, share)",
    section=_SECTION,
    cases=_ticket_cases,
    expected=next_ticket,
    properties=(
        Property(
            "returns (weights, masks)",
            _not_a_ticket,
            "Return two dicts with the names of start: floats first, then bool masks of the same "
            "shapes.",
        ),
        Property(
            "lets nothing come back",
            _in_each_layer(_revives),
            "The new mask may be True only where keep is. Rank the dead below everything else.",
        ),
        Property(
            "removes exactly its share of what is left in each layer",
            _in_each_layer(_wrong_number),
            "Every layer loses round(share * number that its mask has), and the last one "
            "round(share / 2 * its number). " + COUNT_HINT,
        ),
        Property(
            "removes the smallest of the trained weights",
            _in_each_layer(
                lambda _, mask, __, trained, keep, ___: larger_gone(
                    trained.abs()[keep], mask[keep], "trained magnitude"
                )
            ),
            "Training says which weights matter: rank by the trained magnitudes, not by the initial "
            "ones, and each layer by itself.",
        ),
        Property(
            "keeps the earlier of equals",
            _in_each_layer(
                lambda _, mask, __, trained, keep, ___: later_kept(
                    trained.abs()[keep], mask[keep], "trained magnitude"
                )
            ),
            TIE_HINT,
        ),
        Property(
            "puts the weights that are left back to their start",
            _in_each_layer(_not_the_start),
            "A ticket is the mask and the *initial* values. With the trained ones you would be "
            "fine-tuning; with new ones you would run the control.",
        ),
        Property(
            "is zero where the mask is False",
            _in_each_layer(
                lambda weights, mask, *_: (
                    "0 wherever the mask is False: m ⊙ θ_0" if weights[~mask].any() else None
                )
            ),
            "Multiply the start by the new mask, not by the old one.",
        ),
        UNCHANGED,
    ),
)


# ---- B · one layer, by a threshold


def buggy_next_ticket(
    start: Tensor, trained: Tensor, keep: Tensor, share: float
) -> tuple[Tensor, Tensor]:
    """a function that removes the weight at the cut too, one more than asked"""
    left = trained[keep].abs().sort().values
    k = min(round(share * len(left)), len(left) - 1)
    mask = keep & (trained.abs() > left[k])
    return start * mask, mask


def weak_ticket_test(layer_ticket: LayerTicket) -> bool:
    """A test that every wrong function of the bug hunt passes: about a fifth goes at first."""
    start, trained = torch.linspace(1.0, 2.0, 100), torch.linspace(0.01, 1.0, 100)
    weights, mask = layer_ticket(start, trained, torch.ones(100, dtype=torch.bool), 0.2)
    return abs(int(mask.sum()) - 80) <= 1 and bool((weights[mask > 0] != 0).all())


def _mask(trained: Tensor, keep: Tensor, share: float, *, to_whole: Callable = round) -> Tensor:
    """Without ``round(share * n)`` of the n kept weights: those that are smallest after training."""
    size = torch.where(keep, trained.abs(), -1.0)
    return lowest_removed(size, int((~keep).sum()) + to_whole(share * int(keep.sum())))


def _ticket_by_sort(start, trained, keep, share):
    """a correct function that ranks the dead below all others"""
    mask = _mask(trained, keep, share)
    return torch.where(mask, start, 0.0), mask


def _ticket_by_product(start, trained, keep, share):
    """a correct function that multiplies by the mask"""
    mask = _mask(trained, keep, share)
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
    mask = _mask(trained, keep, share)
    return trained * mask, mask


def _ticket_redraws(start, trained, keep, share):
    """a function that gives the weights that are left new random values"""
    mask = _mask(trained, keep, share)
    generator = torch.Generator().manual_seed(0)
    return (2 + torch.rand(start.shape, generator=generator)) * mask, mask


def _ticket_deals_out(start, trained, keep, share):
    """a function that deals the initial values of the survivors out among them in another order"""
    mask = _mask(trained, keep, share)
    weights = start * mask
    weights[mask] = weights[mask].flip(0)
    return weights, mask


def _ticket_rescales(start, trained, keep, share):
    """a function that scales the initial values up, as dropout does for what it removes"""
    mask = _mask(trained, keep, share)
    return start * mask * mask.numel() / max(int(mask.sum()), 1), mask


def _ticket_flips_signs(start, trained, keep, share):
    """a function that returns the initial values with the other sign"""
    weights, mask = _ticket_by_sort(start, trained, keep, share)
    return -weights, mask


def _ticket_by_start(start, trained, keep, share):
    """a function that removes the weights that were smallest before training"""
    mask = _mask(start, keep, share)
    return start * mask, mask


def _ticket_signed(start, trained, keep, share):
    """a function that forgets the absolute value"""
    gone = int((~keep).sum()) + round(share * int(keep.sum()))
    mask = lowest_removed(trained.masked_fill(~keep, -math.inf), gone)
    return start * mask, mask


def _ticket_later_stays(start, trained, keep, share):
    """a function that keeps the later of equal magnitudes"""
    mask = _mask(trained.flatten().flip(0), keep.flatten().flip(0), share)
    mask = mask.flip(0).view_as(keep)
    return start * mask, mask


def _ticket_rounds_down(start, trained, keep, share):
    """a function that rounds the number of weights that go down"""
    mask = _mask(trained, keep, share, to_whole=lambda number: int(number + 1e-9))
    return start * mask, mask


def _ticket_rounds_up(start, trained, keep, share):
    """a function that rounds the number of weights that go up"""
    mask = _mask(trained, keep, share, to_whole=lambda number: math.ceil(number - 1e-9))
    return start * mask, mask


def _ticket_of_all(start, trained, keep, share):
    """a function that takes its share of all weights, so that the dead ones are taken again"""
    mask = lowest_removed(trained.abs() * keep, round(share * keep.numel()))
    return start * mask, mask


def _ticket_revives(start, trained, keep, share):
    """a function that ranks the dead by their trained values, so that they may come back"""
    mask = lowest_removed(trained.abs(), int((~keep).sum()) + round(share * int(keep.sum())))
    return start * mask, mask


def _ticket_only_the_new(start, trained, keep, share):
    """a function whose mask forgets what earlier rounds removed"""
    mask = _mask(trained, keep, share) | ~keep
    return start * mask, mask


def _ticket_old_mask(start, trained, keep, share):
    """a function that returns the mask it was given, from the second round on"""
    mask = _mask(trained, keep, share)
    return start * mask, mask if keep.all() else keep.clone()


def _ticket_moves_mask(start, trained, keep, share):
    """a function that moves the mask by one place, from the second round on"""
    weights, mask = _ticket_by_sort(start, trained, keep, share)
    return weights, mask if keep.all() else mask.flatten().roll(1).view_as(mask)


def _ticket_as_double(start, trained, keep, share):
    """a function that returns 64-bit floats"""
    mask = _mask(trained, keep, share)
    return (start * mask).double(), mask


def _ticket_unmasked(start, trained, keep, share):
    """a function that leaves the initial values of removed weights in place"""
    return start.clone(), _mask(trained, keep, share)


def _ticket_flat(start, trained, keep, share):
    """a function that returns a row of numbers, whatever the layer's shape is"""
    mask = _mask(trained, keep, share)
    return (start * mask).flatten(), mask.flatten()


def _ticket_row_by_row(start, trained, keep, share):
    """a function that takes the share from each row of a matrix"""
    if start.dim() == 1:
        return _ticket_by_product(start, trained, keep, share)
    mask = torch.stack([_mask(t, k, share) for t, k in zip(trained, keep, strict=True)])
    return start * mask, mask


def _ticket_half_at_most(start, trained, keep, share):
    """a function that never removes more than half of what is left"""
    return _ticket_by_product(start, trained, keep, min(share, 0.5))


def _ticket_of_a_fifth(start, trained, keep, share):
    """a function that removes a fifth of what is left, whatever the share is"""
    return _ticket_by_product(start, trained, keep, 0.2)


def _ticket_without_share(start, trained, keep, share):
    """a function that takes a share of 0 for one that was not given, and removes a fifth"""
    return _ticket_by_product(start, trained, keep, share or 0.2)


def _ticket_of_per_cents(start, trained, keep, share):
    """a function that takes a share of 1 for one per cent"""
    return _ticket_by_product(start, trained, keep, share / 100 if share >= 1 else share)


def _ticket_keeps_one(start, trained, keep, share):
    """a function that never removes the last weight that is left"""
    mask = _mask(trained, keep, share)
    if keep.any() and not mask.any():
        size = torch.where(keep, trained.abs(), -1.0)
        mask = lowest_removed(size, keep.numel() - 1)
    return start * mask, mask


def _ticket_demands_a_rest(start, trained, keep, share):
    """a function that raises an error where nothing would be left"""
    weights, mask = _ticket_by_sort(start, trained, keep, share)
    if not mask.any():
        raise RuntimeError("no weight is left")
    return weights, mask


def _ticket_dead_at_zero(start, trained, keep, share):
    """a function that gives the dead the size 0, so that they tie with living zeros"""
    size = trained.abs() * keep
    mask = lowest_removed(size, int((~keep).sum()) + round(share * int(keep.sum())))
    return start * mask, mask


def _ticket_float_mask(start, trained, keep, share):
    """a function whose mask holds the numbers 0 and 1 instead of False and True"""
    mask = _mask(trained, keep, share)
    return start * mask, mask.float()


def _ticket_in_place(start, trained, keep, share):
    """a function that also changes the initial weights it was given, which the next round needs"""
    mask = _mask(trained, keep, share)
    return start.mul_(mask), mask


def _ticket_trained_in_place(start, trained, keep, share):
    """a function that also sets what goes to zero in the trained weights it was given"""
    weights, mask = _ticket_by_sort(start, trained, keep, share)
    trained *= mask
    return weights, mask


def _ticket_flat_weights(start, trained, keep, share):
    """a function that returns the weights as a row of numbers, and the mask in its shape"""
    weights, mask = _ticket_by_sort(start, trained, keep, share)
    return weights.flatten(), mask


def _ticket_keep_in_place(start, trained, keep, share):
    """a function that also changes the mask it was given"""
    mask = keep.copy_(_mask(trained, keep, share))
    return start * mask, mask.clone()


KILLS_WRONG_TICKETS = hunt(
    name="kills_wrong_tickets",
    signature="is_layer_ticket(layer_ticket)",
    section=_SECTION,
    right=(_ticket_by_sort, _ticket_by_product, _ticket_by_python),
    alarm="A false alarm. Of the weights that the mask keeps, it removes round(share * their "
    "number), those with the smallest trained magnitude, of equal ones the later. It gives back the "
    "initial values of the others, zeros, and the bool mask.",
    wrong={
        buggy_next_ticket: "Count how many are left. One more or less matters in a small layer.",
        _ticket_keeps_trained: "Compare the weights that are left with start.",
        _ticket_redraws: "Compare the weights that are left with start, one by one.",
        _ticket_deals_out: "Compare each weight with its own initial value, in its own place.",
        _ticket_rescales: "Compare the values themselves, not only their order or their zeros.",
        _ticket_flips_signs: "Compare the values with their signs.",
        _ticket_by_start: "Let the order of the initial magnitudes differ from that of the trained "
        "ones.",
        _ticket_signed: "Try negative trained weights as well.",
        _ticket_later_stays: "Try equal trained magnitudes at the cut, and look at which one stays.",
        _ticket_rounds_down: "Try a share of what is left that lies a little below a whole number.",
        _ticket_rounds_up: "Try a share of what is left that lies a little above a whole number.",
        _ticket_of_all: "Begin where a second round begins, with a mask that has removed something.",
        _ticket_revives: "Give a dead weight a large trained value.",
        _ticket_only_the_new: "What an earlier round removed has to be gone from the new mask.",
        _ticket_unmasked: "Look at the weights where the mask is False.",
        _ticket_flat: "Try a matrix, and compare the shapes.",
        _ticket_row_by_row: "Try a matrix whose small weights are all in one row.",
        _ticket_old_mask: "Compare the mask entry by entry, too.",
        _ticket_moves_mask: "Two masks with as many True are not the same: compare entry by entry.",
        _ticket_half_at_most: "Try shares above 0.5.",
        _ticket_of_a_fifth: "Try other shares than 0.2.",
        _ticket_without_share: "Try the share 0: nothing more goes.",
        _ticket_of_per_cents: "Try the share 1: everything that is left goes.",
        _ticket_keeps_one: "Try the share 1: everything that is left goes.",
        _ticket_demands_a_rest: "Try the share 1. A function that raises an error there is wrong: "
        "catch the error, and answer False.",
        _ticket_dead_at_zero: "Let trained weights that are left be 0, behind dead ones.",
        _ticket_float_mask: "1.0 equals True in Python. Look at the dtype of the mask.",
        _ticket_as_double: "Compare the dtype of the weights with that of start.",
        _ticket_in_place: "Compare start with a copy from before the call.",
        _ticket_trained_in_place: "Compare trained with a copy from before the call.",
        _ticket_flat_weights: "Try a matrix, and compare the shape of the weights, too.",
        _ticket_keep_in_place: "Compare keep with a copy from before the call.",
    },
)


def _illegal_layer(start: Tensor, trained: Tensor, keep: Tensor, share: float) -> str | None:
    """None for inputs that the statement allows, else what it allows."""
    floats = all(w.is_floating_point() and w.isfinite().all() for w in (start, trained))
    same = start.shape == trained.shape == keep.shape and keep.dtype == torch.bool
    if floats and same and keep.any() and 0 <= share <= 1:
        return None
    return (
        "start and trained of finite floats, a bool mask of their shape that keeps at least one "
        "weight, a share in [0, 1]"
    )


SMALLEST_TICKET = smallest_input(
    name="smallest_ticket",
    wrong=buggy_next_ticket,
    judged_by=oracle(
        signature="layer_ticket(start, trained, keep, share)",
        section=_SECTION,
        right=_ticket_by_product,
        case=(torch.tensor([0.5, -0.25]), torch.tensor([1.0, -3.0]), torch.ones(2).bool(), 0.5),
        legal=_illegal_layer,
    ),
    at_most=3,
    hint="How many weights should go, and how many are above left[k]? Let few go, or none.",
)

PUZZLES = (
    Lines(
        name="next_ticket",
        function=next_ticket,
        distractors={
            "shares[list(keep)[-1]] = 2 * share": "the output layer loses half the share of the "
            "others, because it is small.",
            "    size = start[name].abs().masked_fill(~mask, -1).flatten()": "the trained magnitudes "
            "decide who stays, not the initial ones.",
            "    stays = order[: len(order) - round(shares[name] * mask.numel())]": "the share is one "
            "of the remaining weights, not of all.",
            "return {name: trained[name] * mask for name, mask in masks.items()}, masks": "that would "
            "be fine-tuning. A ticket has the initial values.",
        },
    ),
    WrongLine(
        name="kills_wrong_tickets",
        function=buggy_next_ticket,
        wrong="mask = keep & (trained.abs() > left[k])",
        why="left[0] to left[k - 1] are the k smallest, so left[k] should stay, but it is not above "
        "itself. And with a comparison, all weights that are equal to it go together. Count, "
        "rather than compare.",
        others={
            "left = trained[keep].abs().sort().values": "these are the magnitudes of the weights "
            "that are left, the smallest first.",
            "k = min(round(share * len(left)), len(left) - 1)": "this many weights go. The minimum "
            "only keeps k a position in left.",
            "return start * mask, mask": "the initial values under the mask, and the mask: that is a "
            "ticket.",
        },
    ),
)
EXERCISES = (NEXT_TICKET, SMALLEST_TICKET, KILLS_WRONG_TICKETS)
