"""The exercises of the lesson Which channels, as a set."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from course_lib.exercises.common import draw, not_floats, rescaled, smallest_input
from course_lib.exercises.exercise import (
    REFUSES,
    UNCHANGED,
    Exercise,
    Lines,
    Property,
    WrongLine,
    show,
)
from course_lib.pruning import channels

_SECTION = "lesson Which channels, as a set, section “Definition → code”"
TOLERANCE = 1e-4  # of the largest reward
RICH = 8  # draws times channels from which on a known mistake hardly hits another by chance


# ---- A · the estimate of the policy's gradient


def right_gradient(kept: Tensor, rewards: Tensor, probability: Tensor) -> Tensor:
    """(n,): the estimate for M draws (M, n) with rewards (M,) and probabilities (n,)."""
    m = len(rewards)
    others = (rewards.sum() - rewards) / (m - 1)
    advantage = rewards - others
    return advantage @ (kept.to(rewards.dtype) - probability) / m


def _no_baseline(kept: Tensor, rewards: Tensor, probability: Tensor) -> Tensor:
    return rewards @ (kept.to(rewards.dtype) - probability) / len(rewards)


def _all_in_baseline(kept: Tensor, rewards: Tensor, probability: Tensor) -> Tensor:
    return right_gradient(kept, rewards, probability) * (1 - 1 / len(rewards))


def _as_targets(kept: Tensor, rewards: Tensor, probability: Tensor) -> Tensor:
    """A published mistake: advantage times action as the target of a binary cross-entropy."""
    others = (rewards.sum() - rewards) / (len(rewards) - 1)
    return ((rewards - others)[:, None] * kept - probability).mean(0)


def _draws() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    def case(kept, rewards, probability):
        return torch.tensor(kept).bool(), torch.tensor(rewards), torch.tensor(probability)

    yield case([[1, 1], [1, 0]], [1.0, 0.0], [0.5, 0.5])
    yield case([[1], [0]], [1.0, 0.0], [0.5])
    yield case([[1], [1]], [0.5, -1.0], [0.75])
    yield case([[0, 1], [1, 0]], [2.0, 2.0], [0.25, 0.5])
    yield case([[0], [0], [1]], [1.0, -1.0, 3.0], [0.25])
    yield case([[1, 0, 1], [0, 0, 1]], [0.0, 1.0], [0.5, 0.25, 0.75])
    generator = torch.Generator().manual_seed(4)
    for m, n in ((2, 4), (3, 3), (4, 2), (5, 3), (2, 5)) * 4:
        yield _drawn(m, n, generator)
    for offset in (5.0, -40.0):  # the same for all draws, so it must not matter
        kept, rewards, probability = _drawn(4, 3, generator)
        yield kept, rewards + offset, probability
    yield from rescaled(_drawn(4, 3, generator), 1)
    kept, rewards, probability = _drawn(4, 3, generator)
    yield kept, rewards.double(), probability.double()
    for m, n in ((40, 60), (100, 2)):  # rewards with more digits than 16 bits hold
        kept, _, probability = _drawn(m, n, generator)
        yield kept, torch.randn(m, generator=generator), probability


def _drawn(m: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    probability = torch.randint(1, 16, (n,), generator=generator) / 16
    kept = torch.rand(m, n, generator=generator) < probability
    return kept, draw((m,), generator), probability


def _far(returned: Tensor, wanted: Tensor, scale: Tensor) -> bool:
    """Whether an entry differs by more than the tolerance, which the lesson states."""
    distance = (returned.double() - wanted.double()).abs().max()
    return not distance <= TOLERANCE * scale.abs().max().double()


_MISTAKES = (_no_baseline, _all_in_baseline, _as_targets)


def _is(mistake, says: str, hint: str, wanted: str) -> Property:
    """The property that the answer is not a known mistake, where it differs from what is right."""

    def demand(returned: Tensor, *inputs: Tensor) -> str | None:
        right, rewards = right_gradient(*inputs), inputs[1]
        known = mistake(*inputs)
        if inputs[0].numel() < RICH or not _far(returned, right, rewards):
            return None
        others = [other(*inputs) for other in (right_gradient, *_MISTAKES) if other is not mistake]
        if _far(returned, known, rewards) or not all(_far(known, o, rewards) for o in others):
            return None  # another mistake would look the same
        return f"{show(right)}: {wanted}"

    return Property(says, demand, hint)


def _wrong_gradient(returned: Tensor, *inputs: Tensor) -> str | None:
    wanted = right_gradient(*inputs)
    return show(wanted) if _far(returned, wanted, inputs[1]) else None


POLICY_GRADIENT = Exercise(
    name="policy_gradient",
    signature="policy_gradient(kept, rewards, probability)",
    section=_SECTION,
    cases=_draws,
    expected=right_gradient,
    properties=(
        Property(
            "returns a float tensor with one number per channel",
            lambda returned, kept, rewards, probability: not_floats(returned, probability),
            "kept is (M, n). The mean over the M draws leaves the n channels.",
        ),
        _is(
            _no_baseline,
            "takes the baseline off each reward",
            "Without a baseline, a number added to all rewards changes the step.",
            "from each reward the mean of the others is taken off",
        ),
        _is(
            _all_in_baseline,
            "leaves a draw out of its own baseline",
            "The mean of all M rewards holds the draw's own reward, too. That shrinks the estimate "
            "by 1 − 1/M. Divide the sum of the others by M − 1.",
            "the baseline of a draw is the mean of the other rewards",
        ),
        _is(
            _as_targets,
            "gives a channel that was not kept its share of the reward",
            "The advantage multiplies the whole of A − p. If it multiplies A alone, a draw "
            "that did not keep a channel says the same about it, whatever it earned.",
            "the advantage multiplies A − p, also where A is 0",
        ),
        Property(
            "is the estimate",
            _wrong_gradient,
            "For each draw: the reward minus the mean of the other rewards, times A − p. Then the "
            "mean over the draws.",
        ),
        UNCHANGED,
    ),
)


# ---- B · the reward, with fractions and points mixed up


def buggy_rewards(accuracy: Tensor, kept: Tensor, before: float, bound: float) -> Tensor:
    """(m,): rewards of m sets; accuracies are fractions, the bound is in points."""
    if not kept.any(1).all():
        raise ValueError("a set must keep a channel")
    drop = before - accuracy
    psi = (bound - drop) / bound
    phi = (kept.shape[1] / kept.sum(1)).log()
    return psi * phi


def right_rewards(accuracy: Tensor, kept: Tensor, before: float, bound: float) -> Tensor:
    """The same with the drop in points: the right answer to the bug hunt."""
    if not kept.any(1).all():
        raise ValueError("a set must keep a channel")
    psi = (bound - 100 * (before - accuracy)) / bound
    return psi * (kept.shape[1] / kept.sum(1)).log()


def _sets() -> Iterator[tuple[Tensor, Tensor, float, float]]:
    def case(accuracy, kept, before, bound):
        return torch.tensor(accuracy), torch.tensor(kept).bool(), before, bound

    yield case([0.875], [[1, 0]], 0.9375, 4.0)
    yield case([0.75], [[1, 1]], 1.0, 2.0)
    yield case([0.9375], [[0, 1]], 0.9375, 1.0)
    yield case([0.0625], [[1, 0]], 0.09375, 2.0)  # a fraction, though it is small
    yield case([0.5], [[0, 0]], 0.75, 8.0)  # nothing is kept
    yield case([0.5, 0.75], [[0, 1, 0, 1], [1, 1, 1, 0]], 0.75, 5.0)
    yield case([0.875, 0.5], [[1, 0, 0], [0, 0, 0]], 0.75, 1.5)  # one keeps nothing
    yield case([0.875, 0.5, 0.75], [[1, 0], [0, 0], [1, 1]], 0.75, 1.5)  # nor is it the last
    yield case([0.0, 0.0], [[1, 0], [0, 1]], 0.5, 2.0)
    yield case([1.0, 1.0], [[1, 0], [0, 1]], 0.5, 2.0)
    generator = torch.Generator().manual_seed(6)
    for m, n in ((1, 2), (2, 3), (3, 4), (4, 2)) * 3:
        accuracy = torch.randint(8, 33, (m,), generator=generator) / 32
        kept = torch.rand(m, n, generator=generator) < 0.6
        kept[:, 0] |= ~kept.any(1)
        bound = float(torch.randint(1, 9, (), generator=generator)) / 2
        yield accuracy, kept, 0.96875, bound
    yield (
        torch.linspace(0.9, 1.0, 200).double(),
        torch.arange(2000).view(200, 10) % 3 > 0,
        0.98,
        0.5,
    )


def _illegal_sets(accuracy: Tensor, kept: Tensor, before: float, bound: float) -> str | None:
    fits = accuracy.dim() == 1 and kept.dim() == 2 and len(accuracy) == len(kept) > 0
    fits = fits and kept.shape[1] > 0 and kept.dtype == torch.bool
    fits = fits and bool(((accuracy >= 0) & (accuracy <= 1)).all()) and 0 <= before <= 1
    if fits and 0 < bound < math.inf:
        return None
    return (
        "accuracies (m,) and a number before from 0 to 1, a bool tensor kept (m, n) and a finite "
        "bound above 0"
    )


def _too_far(returned: Tensor, wanted: Tensor) -> bool:
    return not torch.allclose(returned.double(), wanted.double(), rtol=TOLERANCE, atol=TOLERANCE)


def _mixes_units(returned: Tensor, *inputs) -> str | None:
    wanted, mixed = right_rewards(*inputs), buggy_rewards(*inputs)
    if not _too_far(returned, wanted) or _too_far(returned, mixed):
        return None
    return f"{show(wanted)}; here a drop of 5 points counts as one of 0.05"


def _wrong_rewards(returned: Tensor, *inputs) -> str | None:
    wanted = right_rewards(*inputs)
    return show(wanted) if _too_far(returned, wanted) else None


MENDED_REWARDS = Exercise(
    name="mended_rewards",
    signature="mended_rewards(accuracy, kept, before, bound)",
    section=_SECTION,
    cases=_sets,
    legal=_illegal_sets,
    expected=right_rewards,
    refuses=lambda accuracy, kept, before, bound: not kept.any(1).all(),
    properties=(
        REFUSES,
        Property(
            "returns a float tensor with one reward per set",
            lambda returned, accuracy, *_: not_floats(returned, accuracy),
            "kept is (m, n). Count along its second axis.",
        ),
        Property(
            "takes drop and bound in one unit",
            _mixes_units,
            "The accuracies are fractions, and the bound is in points, hundredths. Which of them do "
            "you convert?",
        ),
        Property(
            "is ψ times φ",
            _wrong_rewards,
            "ψ is 1 without a drop, 0 for a drop of exactly the bound, and negative below. φ is the "
            "natural logarithm of n over the number of channels that stay.",
        ),
        UNCHANGED,
    ),
)

SMALLEST_REWARD = smallest_input(
    name="smallest_reward",
    wrong=buggy_rewards,
    judged_by=MENDED_REWARDS,
    at_most=3,
    hint="One set of two channels has three entries: its accuracy and two of kept. The mistake is in "
    "ψ, so φ must not be 0, and there must be a drop.",
)


# ---- C · a repair in the lesson's experiment


def right_shrink(net: nn.Module, graph: channels.ChannelGraph, dead: set[int], x: Tensor):
    """The network without the channels ``dead``, repaired by least squares on the images x."""
    return channels.remove(channels.reconstruct(net, graph, dead, x), graph, dead)


PUZZLES = (
    Lines(
        name="policy_gradient",
        function=right_gradient,
        distractors={
            "others = rewards.mean()": "this mean holds the draw's own reward, which shrinks the "
            "estimate by 1 − 1/M.",
            "advantage = others - rewards": "this leads to lower rewards.",
            "return advantage @ (kept.to(rewards.dtype) - probability)": "the estimate is a mean over "
            "the draws, and not a sum.",
        },
    ),
    WrongLine(
        name="mended_rewards",
        function=buggy_rewards,
        wrong="drop = before - accuracy",
        why="this drop is a fraction, at most 1, and the bound is in points. So ψ never falls far, "
        "whatever happens to the accuracy, and the bound bounds nothing.",
        others={
            "psi = (bound - drop) / bound": "this is the formula of ψ, if drop and bound have one "
            "unit.",
            "phi = (kept.shape[1] / kept.sum(1)).log()": "n over the number that stays, one number "
            "per set: this is φ.",
            "if not kept.any(1).all():": "a set that keeps nothing has no reward, so this is "
            "needed.",
        },
    ),
)
EXERCISES = (POLICY_GRADIENT, SMALLEST_REWARD, MENDED_REWARDS)
