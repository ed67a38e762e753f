"""Answers to the exercises of lesson Lottery."""

import math

import numpy as np
import torch

from course_lib.exercises.lottery import buggy_next_ticket, next_ticket, weak_ticket_test
from course_lib.pruning import allocate, counting, masks

from .common import judge_says_no, judge_says_yes

# next_ticket, layer by layer


def layer(start, trained, keep, share, *, to_whole=round):
    """One layer of a right answer; with another ``to_whole``, of a wrong one."""
    size = torch.where(keep, trained.abs(), -1.0).flatten()
    alive = int(keep.sum())
    mask = torch.zeros(size.numel(), dtype=torch.bool)
    order = size.argsort(descending=True, stable=True)
    mask[order[: alive - min(alive, to_whole(share * alive))]] = True
    mask = mask.view_as(keep)
    return start * mask, mask


def network(of_layer, start, trained, keep, share, *, last=0.5):
    """A ticket from a function of one layer."""
    shares = dict.fromkeys(keep, share) | {list(keep)[-1]: share * last}
    found = {n: of_layer(start[n], trained[n], keep[n], shares[n]) for n in keep}
    return {n: weights for n, (weights, _) in found.items()}, {n: m for n, (_, m) in found.items()}


def ticket_by_layers(start, trained, keep, share):
    return network(layer, start, trained, keep, share)


def ticket_by_python(start, trained, keep, share):
    weights, new, last = {}, {}, list(keep)[-1]
    for name in keep:
        size = trained[name].abs().flatten().tolist()
        left = [i for i, alive in enumerate(keep[name].flatten().tolist()) if alive]
        left.sort(key=lambda i: -size[i])
        gone = round((share / 2 if name == last else share) * len(left))
        stays = set(left[: len(left) - gone])
        new[name] = torch.tensor([i in stays for i in range(len(size))]).view_as(keep[name])
        weights[name] = start[name].masked_fill(~new[name], 0.0)
    return weights, new


def ticket_by_numpy(start, trained, keep, share):
    weights, new = {}, {}
    for name, alive in keep.items():
        part = share / 2 if name == list(keep)[-1] else share
        size = np.where(alive.numpy(), np.abs(trained[name].numpy()), -1.0).ravel()
        n = int(alive.sum())
        mask = np.zeros(size.size, bool)
        mask[np.argsort(-size, kind="stable")[: n - round(part * n)]] = True
        new[name] = mask.reshape(alive.shape)
        weights[name] = start[name].numpy() * new[name]
    return [weights, new]


def ticket_by_library(start, trained, keep, share):
    """Two functions of the library, with the counts as sparsities."""
    left, last = {n: int(mask.sum()) for n, mask in keep.items()}, list(keep)[-1]
    gone = {n: round((share / 2 if n == last else share) * left[n]) for n in keep}
    scores = {n: trained[n].abs().masked_fill(~mask, -torch.inf) for n, mask in keep.items()}
    sparsity = {n: 1 - (left[n] - gone[n]) / keep[n].numel() for n in keep}
    new = allocate.per_layer(scores, sparsity)
    return {n: start[n] * new[n] for n in new}, new


def ticket_among_the_living(start, trained, keep, share):
    def one(start, trained, keep, share):
        mask, left = keep.clone(), trained[keep].abs()
        mask[keep] = counting.keep_top(left, len(left) - round(share * len(left)))
        return torch.where(mask, start, 0.0), mask

    return network(one, start, trained, keep, share)


def ticket_one_by_one(start, trained, keep, share):
    def one(start, trained, keep, share):
        size, mask = trained.abs().flatten().tolist(), keep.flatten().tolist()
        for _ in range(round(share * sum(mask))):
            mask[min((i for i, k in enumerate(mask) if k), key=lambda i: (size[i], -i))] = False
        mask = torch.tensor(mask).view_as(keep)
        return start.double() * mask, mask

    return network(one, start, trained, keep, share)


def ticket_by_rank(start, trained, keep, share):
    def one(start, trained, keep, share):
        size = torch.where(keep, trained.abs(), -1.0).flatten()
        place, alive = torch.arange(len(size)), int(keep.sum())
        above = size[None] > size[:, None]
        above |= (size[None] == size[:, None]) & (place[None] < place[:, None])
        mask = (above.sum(1) < alive - round(share * alive)).view_as(keep)
        return torch.nn.Parameter(start * mask), mask

    return network(one, start, trained, keep, share)


def ticket_from_the_last(start, trained, keep, share):
    """Works through the layers backwards, so the dicts have another order."""
    weights, new, part = {}, {}, share / 2
    for name in reversed(keep):
        weights[name], new[name] = layer(start[name], trained[name], keep[name], part)
        part = share
    return weights, new


def ticket_by_squares(start, trained, keep, share):
    return network(layer, start, {n: t * t for n, t in trained.items()}, keep, share)


def ticket_swapped(start, trained, keep, share):
    return next_ticket(start, trained, keep, share)[::-1]


def ticket_weights_only(start, trained, keep, share):
    return next_ticket(start, trained, keep, share)[0]


def ticket_lists(start, trained, keep, share):
    return tuple(list(part.values()) for part in next_ticket(start, trained, keep, share))


def ticket_pairs(start, trained, keep, share):
    weights, new = next_ticket(start, trained, keep, share)
    return {n: (weights[n], new[n]) for n in new}


def ticket_without_the_last(start, trained, keep, share):
    parts = next_ticket(start, trained, keep, share)
    return tuple({n: part[n] for n in list(part)[:-1]} for part in parts)


def _each(change):
    """An answer that is right but for what ``change(weights, mask)`` makes of each layer."""

    def answer(start, trained, keep, share):
        weights, new = next_ticket(start, trained, keep, share)
        changed = {n: change(weights[n], new[n]) for n in new}
        return {n: w for n, (w, _) in changed.items()}, {n: m for n, (_, m) in changed.items()}

    return answer


ticket_float_masks = _each(lambda weights, mask: (weights, mask.float()))
ticket_int_masks = _each(lambda weights, mask: (weights, mask.int()))
ticket_flat = _each(lambda weights, mask: (weights.flatten(), mask.flatten()))
ticket_inverted = _each(lambda weights, mask: (weights, ~mask))
ticket_half = _each(lambda weights, mask: (weights.half(), mask))
ticket_rescaled = _each(lambda w, mask: (w * mask.numel() / max(1, int(mask.sum())), mask))
ticket_ones = _each(lambda weights, mask: (mask.float(), mask))
ticket_signs = _each(lambda weights, mask: (weights.sign(), mask))
ticket_plus_noise = _each(lambda weights, mask: (weights + 1e-4 * mask, mask))
ticket_redraws = _each(lambda weights, mask: (torch.randn(mask.shape) * mask, mask))


def ticket_same_share(start, trained, keep, share):
    return network(layer, start, trained, keep, share, last=1)


def ticket_first_is_last(start, trained, keep, share):
    shares = dict.fromkeys(keep, share) | {next(iter(keep)): share / 2}
    found = {n: layer(start[n], trained[n], keep[n], shares[n]) for n in keep}
    return {n: w for n, (w, _) in found.items()}, {n: m for n, (_, m) in found.items()}


def ticket_last_by_name(start, trained, keep, share):
    shares = dict.fromkeys(keep, share) | {max(keep): share / 2}
    found = {n: layer(start[n], trained[n], keep[n], shares[n]) for n in keep}
    return {n: w for n, (w, _) in found.items()}, {n: m for n, (_, m) in found.items()}


def ticket_spares_the_last(start, trained, keep, share):
    return network(layer, start, trained, keep, share, last=0)


def ticket_global(start, trained, keep, share):
    """One ranking over all layers."""
    n = sum(m.numel() for m in keep.values())
    alive = sum(int(m.sum()) for m in keep.values())
    scores = {name: t.abs() for name, t in trained.items()}
    new = allocate.globally(scores, 1 - (alive - round(share * alive)) / n, within=keep)
    return {name: start[name] * new[name] for name in new}, new


def ticket_share_of_all(start, trained, keep, share):
    def one(start, trained, keep, share):
        part = share * keep.numel() / max(1, int(keep.sum()))
        return layer(start, trained, keep, min(1.0, part))

    return network(one, start, trained, keep, share)


def ticket_revives(start, trained, keep, share):
    def one(start, trained, keep, share):
        left = int(keep.sum()) - round(share * int(keep.sum()))
        mask = counting.keep_top(trained.abs().flatten(), left).view_as(keep)
        return start * mask, mask

    return network(one, start, trained, keep, share)


def ticket_tied_zeros(start, trained, keep, share):
    def one(start, trained, keep, share):
        left = int(keep.sum()) - round(share * int(keep.sum()))
        mask = counting.keep_top((trained.abs() * keep).flatten(), left).view_as(keep)
        return start * mask, mask

    return network(one, start, trained, keep, share)


def ticket_only_the_new(start, trained, keep, share):
    new = {n: m | ~keep[n] for n, m in next_ticket(start, trained, keep, share)[1].items()}
    return {n: start[n] * new[n] for n in new}, new


def ticket_off_by_one(start, trained, keep, share):
    def one(start, trained, keep, share):
        if not keep.any():
            return start * keep, keep.clone()
        return buggy_next_ticket(start, trained, keep, share)

    return network(one, start, trained, keep, share)


def _rounded(to_whole):
    def answer(start, trained, keep, share):
        def one(*layer_and_share):
            return layer(*layer_and_share, to_whole=to_whole)

        return network(one, start, trained, keep, share)

    return answer


ticket_rounded_down = _rounded(int)
ticket_rounded_up = _rounded(lambda number: math.ceil(number - 1e-9))
ticket_half_up = _rounded(lambda number: int(number + 0.5))
ticket_at_least_one = _rounded(lambda number: max(1, round(number)))


def ticket_never_all(start, trained, keep, share):
    def one(start, trained, keep, share):
        return layer(start, trained, keep, min(share, 1 - 1 / max(1, int(keep.sum()))))

    return network(one, start, trained, keep, share)


def ticket_by_start(start, trained, keep, share):
    return network(layer, start, start, keep, share)


def ticket_by_movement(start, trained, keep, share):
    return network(layer, start, {n: trained[n] - start[n] for n in start}, keep, share)


def ticket_signed(start, trained, keep, share):
    up = {n: t - t.min() + 1 for n, t in trained.items()}
    return network(layer, start, up, keep, share)


def ticket_largest(start, trained, keep, share):
    return network(layer, start, {n: 99 - t.abs() for n, t in trained.items()}, keep, share)


def ticket_later_stays(start, trained, keep, share):
    def one(start, trained, keep, share):
        turned = (t.flatten().flip(0) for t in (start, trained, keep))
        return tuple(t.flip(0).view_as(keep) for t in layer(*turned, share))

    return network(one, start, trained, keep, share)


def ticket_by_columns(start, trained, keep, share):
    def one(start, trained, keep, share):
        if keep.dim() != 2:
            return layer(start, trained, keep, share)
        return tuple(t.t() for t in layer(start.t(), trained.t(), keep.t(), share))

    return network(one, start, trained, keep, share)


def ticket_keeps_trained(start, trained, keep, share):
    new = next_ticket(start, trained, keep, share)[1]
    return {n: trained[n] * new[n] for n in new}, new


def ticket_in_float32(start, trained, keep, share):
    weights, fresh = next_ticket(start, trained, keep, share)
    return {n: w.float() for n, w in weights.items()}, fresh


def ticket_with_short_names(start, trained, keep, share):
    return tuple(
        {n.split(".")[0]: w for n, w in layers.items()}
        for layers in next_ticket(start, trained, keep, share)
    )


def ticket_unmasked(start, trained, keep, share):
    return {n: w.clone() for n, w in start.items()}, next_ticket(start, trained, keep, share)[1]


def ticket_old_mask(start, trained, keep, share):
    new = next_ticket(start, trained, keep, share)[1]
    return {n: start[n] * keep[n] for n in new}, new


def ticket_in_place(start, trained, keep, share):
    new = next_ticket(start, trained, keep, share)[1]
    return {n: start[n].mul_(new[n]) for n in new}, new


def ticket_updates_keep(start, trained, keep, share):
    weights, new = next_ticket(start, trained, keep, share)
    keep.update(new)
    return weights, new


def ticket_pops_the_last(start, trained, keep, share):
    weights, new = next_ticket(start, trained, keep, share)
    trained.popitem()
    return weights, new


# smallest_ticket


def none_should_go():
    return torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([True]), 0.0


def without_dimensions():
    return torch.tensor(1.0), torch.tensor(2.0), torch.tensor(True), 0.2


def less_than_half():
    return np.array([1.0]), np.array([-2.0]), np.array([True]), 0.5


def two_weights():
    return torch.ones(2), torch.ones(2), torch.tensor([True, True]), 0.5


def all_go():
    return torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([True]), 1.0


def none_is_left():
    return torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([False]), 0.5


def masks_of_floats():
    return torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([1.0]), 0.0


def three_inputs():
    return torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([True])


# kills_wrong_tickets


def judge_ticket_by_oracle(layer_ticket):
    generator = torch.Generator().manual_seed(0)
    for shape in ((2,), (5,), (3, 4), (6, 5)) * 4:
        start = 1 + torch.rand(shape, generator=generator)
        trained = torch.randint(-4, 5, shape, generator=generator) / 4
        keep = torch.rand(shape, generator=generator) > 0.3
        keep.view(-1)[0] = True
        for share in (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0):
            inputs = start.clone(), trained.clone(), keep.clone()
            found = layer_ticket(*inputs, share)
            expected = layer(start, trained, keep, share)
            pairs = [*zip(found, expected, strict=True)]
            pairs += zip(inputs, (start, trained, keep), strict=True)
            if not all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs):
                return False
    return True


def judge_ticket_by_hand(layer_ticket):
    start = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    trained = torch.tensor([[9.0, -2.0, 0.5], [0.0, 2.0, 2.0]])
    keep = torch.tensor([[False, True, True], [True, True, True]])
    shares = {0: [1, 2, 3, 4, 5], 0.3: [1, 4, 5], 0.5: [1, 4, 5], 0.55: [1, 4], 0.7: [1], 1: []}
    for share, places in shares.items():
        given, trained_given, mask_given = start.clone(), trained.clone(), keep.clone()
        weights, mask = layer_ticket(given, trained_given, mask_given, share)
        wanted = torch.zeros(6, dtype=torch.bool)
        wanted[places] = True
        wanted = wanted.view(2, 3)
        if mask.dtype != torch.bool or not mask.equal(wanted):
            return False
        if weights.dtype != start.dtype or not weights.equal(start * wanted):
            return False
        if not (given.equal(start) and trained_given.equal(trained) and mask_given.equal(keep)):
            return False
    return True


def judge_ticket_by_two_inputs(layer_ticket):
    """Does not look at the trained weights after the call."""

    def on_copy(start, trained, keep, share):
        return layer_ticket(start, trained.clone(), keep, share)

    return judge_ticket_by_oracle(on_copy)


def judge_ticket_by_shape_of_mask(layer_ticket):
    """Right, but only the mask has to have a shape."""

    def shaped(start, trained, keep, share):
        weights, mask = layer_ticket(start, trained, keep, share)
        return weights.view(start.shape), mask

    return judge_ticket_by_oracle(shaped)


def judge_ticket_by_sizes(layer_ticket):
    """Right, but for the signs of the weights that come back."""

    def of_sizes(start, trained, keep, share):
        weights, mask = layer_ticket(start, trained, keep, share)
        return weights.abs(), mask

    return judge_ticket_by_oracle(of_sizes)


def judge_ticket_forgives_errors(layer_ticket):
    """Right, but a function that raises an error passes."""
    try:
        return judge_ticket_by_oracle(layer_ticket)
    except RuntimeError:
        return True


def judge_ticket_by_weights(layer_ticket):
    """Right, but of the mask only the number of True counts."""

    def of_number(start, trained, keep, share):
        weights, mask = layer_ticket(start, trained, keep, share)
        wanted = layer(start, trained, keep, share)[1]
        if mask.dtype != torch.bool or mask.shape != wanted.shape:
            return weights, mask
        return weights, wanted if mask.sum() == wanted.sum() else mask

    return judge_ticket_by_oracle(of_number)


def judge_ticket_counts(layer_ticket):
    """The count of a first round, and nothing else."""
    _, mask = layer_ticket(
        torch.ones(10), torch.arange(10.0), torch.ones(10, dtype=torch.bool), 0.2
    )
    return int(mask.sum()) == 8


def judge_ticket_values(layer_ticket):
    """Values of a first round where start and trained are in the same order."""
    start = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    weights, _ = layer_ticket(start, start * 2, torch.ones(5, dtype=torch.bool), 0.4)
    return weights.tolist() == [0, 0, 3, 4, 5]


def judge_ticket_first_round(layer_ticket):
    """All of a first round."""
    start = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    trained = torch.tensor([3.0, -1.0, 0.5, 4.0, 5.0])
    weights, mask = layer_ticket(start, trained, torch.ones(5, dtype=torch.bool), 0.4)
    return weights.tolist() == [1, 0, 0, 4, 5] and mask.tolist() == [True, False, False, True, True]


def judge_ticket_without_dtype(layer_ticket):
    """Right and exact, but 1.0 is True to it."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((5,), (3, 4), (6, 5)) * 4:
        start = 1 + torch.rand(shape, generator=generator)
        trained = torch.randint(-4, 5, shape, generator=generator) / 4
        keep = torch.rand(shape, generator=generator) > 0.3
        for share in (0.0, 0.2, 0.35, 0.5, 0.8, 1.0):
            given, kept = start.clone(), keep.clone()
            weights, mask = layer_ticket(given, trained, kept, share)
            expected = layer(start, trained, keep, share)
            if weights.tolist() != expected[0].tolist() or mask.tolist() != expected[1].tolist():
                return False
            if not (given.equal(start) and kept.equal(keep)):
                return False
    return True


def judge_ticket_demands_trained(layer_ticket):
    """Expects fine-tuning."""
    weights, _ = layer_ticket(
        torch.ones(4), torch.arange(4.0), torch.ones(4, dtype=torch.bool), 0.5
    )
    return weights.tolist() == [0, 0, 2, 3]


def judge_ticket_by_masks(layer_ticket):
    """Looks at sparsities alone."""
    keep = torch.tensor([True, True, True, False])
    _, mask = layer_ticket(torch.ones(4), torch.arange(4.0), keep, 1 / 3)
    return masks.sparsity({"": mask}) == 0.5


def judge_ticket_with(*shares, zeros=True):
    def judge(layer_ticket):
        generator = torch.Generator().manual_seed(0)
        for shape in ((2,), (5,), (3, 4), (6, 5)) * 4:
            start = 1 + torch.rand(shape, generator=generator)
            trained = torch.randint(-4, 5, shape, generator=generator) / 4
            trained = trained if zeros else torch.where(trained == 0, 0.5, trained)
            keep = torch.rand(shape, generator=generator) > 0.3
            for share in shares:
                inputs = start.clone(), trained.clone(), keep.clone()
                found = *layer_ticket(*inputs, share), *inputs
                wanted = *layer(start, trained, keep, share), start, trained, keep
                pairs = zip(found, wanted, strict=True)
                if not all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs):
                    return False
        return True

    return judge


judge_ticket_of_small_shares = judge_ticket_with(0, 0.2, 0.35, 0.5)
judge_ticket_without_none = judge_ticket_with(0.2, 0.35, 0.5, 0.8, 1)
judge_ticket_without_all = judge_ticket_with(0, 0.2, 0.35, 0.5, 0.8)
judge_ticket_without_zeros = judge_ticket_with(0, 0.2, 0.5, 0.8, 1, zeros=False)


def ticket_in_bfloat16(start, trained, keep, share):
    """Ranks the trained weights as 16 bits see them."""
    return next_ticket(start, {n: t.bfloat16().float() for n, t in trained.items()}, keep, share)


def judge_ticket_of_positive_weights(layer_ticket):
    """Right but for the trained weights that it tries, none of which is negative."""
    start, keep = torch.arange(1.0, 7), torch.tensor([True, True, True, True, False, True])
    trained = torch.tensor([0.5, 0.25, 0.0, 2.0, 3.0, 0.5])
    for share in (0.0, 0.1, 0.3, 0.5, 0.7, 1.0):
        given = [start.view(2, 3).clone(), trained.view(2, 3).clone(), keep.view(2, 3).clone()]
        found = *layer_ticket(*given, share), *given
        wanted = start.view(2, 3), trained.view(2, 3), keep.view(2, 3)
        wanted = *layer(*wanted, share), *wanted
        if not all(a.dtype == b.dtype and a.equal(b) for a, b in zip(found, wanted, strict=True)):
            return False
    return True


RIGHT = {
    "next_ticket": [
        next_ticket,
        ticket_by_layers,
        ticket_by_python,
        ticket_by_numpy,
        ticket_by_library,
        ticket_among_the_living,
        ticket_one_by_one,
        ticket_by_rank,
        ticket_from_the_last,
        ticket_by_squares,
    ],
    "smallest_ticket": [none_should_go, less_than_half, without_dimensions],
    "kills_wrong_tickets": [judge_ticket_by_oracle, judge_ticket_by_hand],
}

WRONG = {
    "next_ticket": [
        (ticket_weights_only, "returns (weights, masks)"),
        (ticket_swapped, "returns (weights, masks)"),
        (ticket_with_short_names, "returns (weights, masks)"),
        (ticket_lists, "returns (weights, masks)"),
        (ticket_pairs, "returns (weights, masks)"),
        (ticket_without_the_last, "returns (weights, masks)"),
        (ticket_float_masks, "returns (weights, masks)"),
        (ticket_int_masks, "returns (weights, masks)"),
        (ticket_flat, "returns (weights, masks)"),
        (ticket_revives, "lets nothing come back"),
        (ticket_tied_zeros, "lets nothing come back"),
        (ticket_only_the_new, "lets nothing come back"),
        (ticket_inverted, "lets nothing come back"),
        (ticket_same_share, "exactly its share"),
        (ticket_first_is_last, "exactly its share"),
        (ticket_last_by_name, "exactly its share"),
        (ticket_spares_the_last, "exactly its share"),
        (ticket_global, "exactly its share"),
        (ticket_share_of_all, "exactly its share"),
        (ticket_off_by_one, "exactly its share"),
        (ticket_rounded_down, "exactly its share"),
        (ticket_rounded_up, "exactly its share"),
        (ticket_half_up, "exactly its share"),
        (ticket_at_least_one, "exactly its share"),
        (ticket_never_all, "exactly its share"),
        (ticket_by_start, "smallest of the trained"),
        (ticket_by_movement, "smallest of the trained"),
        (ticket_signed, "smallest of the trained"),
        (ticket_largest, "smallest of the trained"),
        (ticket_later_stays, "keeps the earlier"),
        (ticket_by_columns, "keeps the earlier"),
        (ticket_keeps_trained, "back to their start"),
        (ticket_redraws, "back to their start"),
        (ticket_rescaled, "back to their start"),
        (ticket_ones, "back to their start"),
        (ticket_signs, "back to their start"),
        (ticket_plus_noise, "back to their start"),
        (ticket_in_float32, "back to their start"),
        (ticket_half, "back to their start"),
        (ticket_unmasked, "zero where the mask is False"),
        (ticket_old_mask, "zero where the mask is False"),
        (ticket_in_place, "leaves its input"),
        (ticket_updates_keep, "leaves its input"),
        (ticket_pops_the_last, "leaves its input"),
        (ticket_in_bfloat16, "smallest of the trained"),
    ],
    "smallest_ticket": [
        (none_is_left, "inputs that the exercise allows"),
        (masks_of_floats, "inputs that the exercise allows"),
        (three_inputs, "inputs that the exercise allows"),
        (two_weights, "at most 3 entries"),
        (all_go, "go wrong"),
    ],
    "kills_wrong_tickets": [
        (judge_says_no, "accepts a correct function that ranks the dead"),
        (judge_ticket_demands_trained, "accepts a correct function that ranks the dead"),
        (judge_says_yes, "one more than asked"),
        (weak_ticket_test, "one more than asked"),
        (judge_ticket_counts, "goes on from the trained"),
        (judge_ticket_by_masks, "goes on from the trained"),
        (judge_ticket_values, "smallest before training"),
        (judge_ticket_first_round, "forgets the absolute value"),
        (judge_ticket_without_dtype, "the numbers 0 and 1"),
        (judge_ticket_by_two_inputs, "in the trained weights it was given"),
        (judge_ticket_by_shape_of_mask, "the weights as a row of numbers"),
        (judge_ticket_by_weights, "by one place"),
        (judge_ticket_by_sizes, "with the other sign"),
        (judge_ticket_forgives_errors, "where nothing would be left"),
        (judge_ticket_of_small_shares, "more than half"),
        (judge_ticket_without_none, "was not given"),
        (judge_ticket_without_all, "one per cent"),
        (judge_ticket_without_zeros, "living zeros"),
        (judge_ticket_of_positive_weights, "forgets the absolute value"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_tickets": (weak_ticket_test, buggy_next_ticket, judge_ticket_by_oracle)}
