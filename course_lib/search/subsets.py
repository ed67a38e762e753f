r"""Which channels to remove, as a set: searches that try networks and look at their reward.

A criterion ranks channels one at a time, but channels interact, and of n channels there are
:math:`2^n` sets. Every search here takes the ids it may remove and an *objective*, a function from
the set of removed ids to a reward, where higher is better. It calls nothing else. It returns the
best set it has tried, with its reward, and the best reward after each evaluation. So searches can be
compared at equal numbers of evaluations, and ``channels.remove(model, graph, found.dead)`` follows.

No search ever asks for the network in which all ids are removed. An evaluation of the same set again
counts again.
"""

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from course_lib import seeds
from course_lib.data import Split, check_counts, check_positive, check_real
from course_lib.layers import at_least_float32, check_finite, fitting
from course_lib.pruning.channels import ChannelGraph, check_used, watching_reads
from course_lib.pruning.tracing import check_split

Objective = Callable[[frozenset[int]], float]  # removed ids -> reward, higher is better

LARGEST = 20  # ids of ``every_subset``: a million subsets
TOGETHER = 6  # ids whose subsets ``every_subset`` computes at once
SMOOTHING = 0.5  # the share of the elites in the next probabilities of ``cross_entropy``
DRAWN = 5  # sets that ``reinforce`` draws per step


class Found(NamedTuple):
    """The best set that a search has tried."""

    dead: frozenset[int]  #: the ids that it removes
    value: float  #: its reward; of equal rewards, the first set that had it
    curve: list[float]  #: the best reward after each evaluation


def drop_bound(accuracy: float, before: float, kept: int, total: int, *, bound: float) -> float:
    r"""The reward for removing filters while the accuracy drops by less than a bound.

    .. math:: R = \psi \cdot \varphi, \qquad \psi = \frac{b - (p^* - \hat p)}{b}, \qquad
              \varphi = \log \frac{N}{C}

    Here :math:`p^*` is the accuracy before, :math:`\hat p` that of the smaller network, N the number
    of filters, C that of the filters it keeps, and b the drop that is tolerated. The network that
    keeps all its filters has the reward 0, and so has a drop of exactly b. A larger drop has a
    negative reward.

    Source: Huang et al. 2018, whose text could not be read. This is a reconstruction from a
    re-implementation.

    Args:
        accuracy, before, bound: in the same unit, all in percent or all as fractions.

    Raises:
        ValueError: a bound that is not positive, or that is in another unit than the accuracies; a
            number that is not finite; ``kept`` below 1, because the reward would be infinite, or
            above ``total``.
        TypeError: an argument that is no number.

    Examples:
        >>> round(drop_bound(97.0, 98.0, 8, 16, bound=2.0), 4)  # half of log 2
        0.3466
        >>> drop_bound(98.0, 98.0, 16, 16, bound=2.0)
        0.0
    """
    check_real("accuracy", accuracy)
    check_real("before", before)
    check_positive("bound", bound)
    check_counts(kept=kept, total=total)
    if kept > total:
        raise ValueError(f"kept must be at most total, {total}, got {kept}")
    highest = max(abs(accuracy), abs(before))
    if (highest <= 1 and bound >= 1) or (highest > 1 and bound < 0.05):
        unit = "percent" if highest > 1 else "fractions"
        raise ValueError(
            f"bound must be in the unit of the accuracies, {accuracy!r} and {before!r}, which look "
            f"like {unit}, got {bound!r}"
        )
    return (bound - (before - accuracy)) / bound * math.log(total / kept)


def every_subset(model: nn.Module, graph: ChannelGraph, layer: str, valid: Split) -> Tensor:
    r"""The accuracy of all :math:`2^n` networks that keep some of the n channels of one layer.

    The output layer reads the channels, so each channel adds a term of its own to the logits, and
    the logits of a subset are a sum of terms. No network is run more than once.

    Args:
        layer: one of ``graph.layers()`` with at most 20 ids, which only the linear layer reads that
            makes the network's output.
        valid: images and labels. Choose with held-out training images, not with test images.

    Returns:
        (2**n,) accuracies in percent. In number i of them, bit k says whether the layer's id number
        k, ``graph.layers()[layer][k]``, is kept: entry 0 keeps none, and the last one all. The sums
        are in another order than in the network, so an image with a tie can be counted differently.

    Raises:
        ValueError: a layer that is not in ``graph.layers()``, has more than 20 ids or is read in
            another way; as ``channels.silence``; images that are empty, not finite or do not fit.
        TypeError: ``valid`` is no pair of images and labels.

    Examples:
        >>> from course_lib import models
        >>> from course_lib.pruning import channels
        >>> valid = Split(torch.rand(20, 1, 8, 8), torch.arange(20) % 10)
        >>> net = models.small_cnn(size=8, width=0.25)
        >>> every_subset(net, channels.trace(net, valid.x), "conv2", valid).shape
        torch.Size([256])
    """
    x, labels = check_split("valid", model, valid)
    ids, consumer = _asked(graph, layer)
    seen: dict[str, Tensor] = {}

    def look(name: str, z: Tensor) -> None:
        seen[name] = z.clone() if name == consumer else z[:0]

    with torch.no_grad(), watching_reads(model, graph, look):
        with fitting("valid", x):
            given = model(x)
        check_used(graph.reads, seen)
        check_finite("valid's logits", given)
        last: Any = model.get_submodule(consumer)
        if not isinstance(last, nn.Linear) or not torch.equal(given, last.forward(seen[consumer])):
            raise ValueError(
                f"layer must be read by the linear layer that makes the output, but {layer!r} is "
                f"read by {consumer!r} ({type(last).__name__})"
            )
    z, weight = at_least_float32(seen[consumer]), at_least_float32(last.weight.detach()).clone()
    columns = [[c for c, i in enumerate(graph.reads[consumer]) if i == j] for j in ids]
    terms = torch.stack([weight[:, c] @ z[:, c].t() for c in columns])  # (ids, classes, images)
    weight[:, [c for some in columns for c in some]] = 0
    bias = None if last.bias is None else at_least_float32(last.bias.detach())
    rest = nn.functional.linear(z, weight, bias).t()  # the logits without any of these ids
    some = _sums(terms[:TOGETHER])
    return torch.cat([_percent(some + rest + higher, labels) for higher in _rows(terms[TOGETHER:])])


def backward_greedy(ids: Collection[int], objective: Objective) -> Found:
    """Remove the id whose removal gives the best reward, then the next one, until one is left.

    Every step tries all ids that are left, in the network without those removed before. That takes
    n (n + 1) / 2 evaluations for n ids, with the first one for the network that keeps all of them.
    Of equal rewards the removal of the smallest id is taken.

    Args:
        ids: those that may be removed.
        objective: set of removed ids -> reward, higher is better.

    Raises:
        ValueError: no ids, an id that is there twice, or a reward that is not finite.
        TypeError: ids that are not integers, a reward that is no number.

    Examples:
        >>> worth = {1: 3.0, 2: -1.0, 3: 2.0}
        >>> found = backward_greedy(worth, lambda dead: -sum(worth[i] for i in dead))
        >>> sorted(found.dead), found.value, len(found.curve)
        ([2], 1.0, 6)
    """
    n = len(_sorted(ids))
    looks = _Looks(ids, objective, n * (n + 1) // 2)
    kept = torch.ones(n, dtype=torch.bool)
    looks(kept[None])
    while kept.sum() > 1:
        tries = kept & ~torch.eye(n, dtype=torch.bool)[kept]  # each without one id more
        kept = tries[looks(tries).argmax()]
    return looks.found()


def random_subsets(
    ids: Collection[int], objective: Objective, *, evaluations: int, seed: int
) -> Found:
    """The control: the number of ids that stay is drawn from 1 to n, and then which ones.

    Arguments and errors are those of ``backward_greedy``.

    Args:
        evaluations: how many sets are tried.

    Examples:
        >>> found = random_subsets(range(4), lambda dead: len(dead), evaluations=50, seed=0)
        >>> found.value, len(found.curve)
        (3.0, 50)
    """
    looks = _Looks(ids, objective, evaluations)
    looks(_of_any_size(evaluations, len(looks.ids), seeds.generator(seed)))
    return looks.found()


def policy_gradient(kept: Tensor, rewards: Tensor, probability: Tensor) -> Tensor:
    r"""REINFORCE's estimate of how the expected reward changes with the logits of a policy.

    The policy keeps id i with probability :math:`p_i = \sigma(\theta_i)`, independently of the
    others. It has drawn M sets, A, with rewards R:

    .. math:: \frac{1}{M} \sum_{m=1}^M (R_m - b_m) (A_m - p), \qquad
              b_m = \frac{1}{M - 1} \sum_{k \ne m} R_k

    The baseline b leaves the sample itself out, so the expected value is exactly the gradient. With
    the mean of all M rewards as the baseline it would be smaller by the factor 1 − 1/M. For M = 1
    there is no baseline.

    Source: Williams 1992 for the estimate without a baseline.

    Args:
        kept: (M, n) bool, or the rewards' type: what was drawn.
        rewards: (M,).
        probability: (n,) the p.

    Returns:
        (n,) the gradient with respect to θ.

    Raises:
        ValueError: other shapes, or M = 0.

    Examples:
        >>> kept = torch.tensor([[True, True], [True, False]])
        >>> policy_gradient(kept, torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
        tensor([0.0000, 0.5000])
    """
    m = rewards.numel()
    if rewards.dim() != 1 or m == 0 or kept.shape != (m, *probability.shape):
        raise ValueError(
            f"kept must be (M, n) for M rewards and n probabilities, got {tuple(kept.shape)} for "
            f"{tuple(rewards.shape)} and {tuple(probability.shape)}"
        )
    advantage = rewards if m == 1 else (rewards - rewards.mean()) * m / (m - 1)
    return advantage @ (kept.to(rewards.dtype) - probability) / m


def reinforce(
    ids: Collection[int],
    objective: Objective,
    *,
    evaluations: int,
    rate: float,
    keep: float = 0.9,
    seed: int,
) -> Found:
    r"""An agent without a state: one logit per id, and :math:`\theta \leftarrow \theta + \eta \nabla J`.

    Each step draws ``DRAWN`` sets from the policy, tries them, and moves the logits by
    ``policy_gradient``. If a draw would keep no id, the likeliest one stays. The result is the best
    set that was tried, not the one that the policy prefers at the end.

    Source: Huang et al. 2018 train such an agent per layer; theirs is a network that reads the
    filters' weights. This is a reconstruction: the text of the paper could not be read.

    Args:
        ids, objective: as in ``backward_greedy``.
        rate: η, positive.
        keep: the probability of every id at the start, in (0, 1).

    Raises:
        ValueError: as ``backward_greedy``; a rate or a probability out of range.
        TypeError: as ``backward_greedy``.

    Examples:
        >>> def objective(dead):
        ...     return len(dead) - 3.0 * (2 in dead)
        >>> found = reinforce(range(6), objective, evaluations=200, rate=1.0, seed=0)
        >>> sorted(found.dead), found.value
        ([0, 1, 3, 4, 5], 5.0)
    """
    looks, generator = _Looks(ids, objective, evaluations), seeds.generator(seed)
    check_positive("rate", rate)
    if not 0 < check_real("keep", keep) < 1:
        raise ValueError(f"keep must be in (0, 1), got {keep!r}")
    logits = torch.full((len(looks.ids),), math.log(keep / (1 - keep)), dtype=torch.float64)
    while looks.left:
        probability = logits.sigmoid()
        kept = _drawn(probability, DRAWN, generator)
        rewards = looks(kept)
        logits += rate * policy_gradient(kept[: len(rewards)], rewards, probability)
    return looks.found()


def cross_entropy(
    ids: Collection[int],
    objective: Objective,
    *,
    evaluations: int,
    samples: int = 20,
    elites: int = 5,
    seed: int,
) -> Found:
    r"""The cross-entropy method: draw sets, and make those with the best rewards more likely.

    .. math:: p_i \leftarrow (1 - \alpha)\, p_i + \alpha \, \frac{1}{|E|} \sum_{A \in E} A_i,
              \qquad \alpha = \tfrac12

    E are the elites, the best sets of a round. At the start every id stays with probability 1/2. A
    larger α finds good sets sooner, and sooner draws the same sets again and again. If a draw would
    keep no id, the likeliest one stays.

    Source: Rubinstein 1999; de Boer et al. 2005 for the smoothing α.

    Args:
        ids, objective, evaluations: as in ``random_subsets``.
        samples: sets per round.
        elites: how many of them are elites.

    Raises:
        ValueError: as ``random_subsets``; more elites than samples.
        TypeError: as ``random_subsets``.

    Examples:
        >>> found = cross_entropy(range(6), lambda dead: -abs(len(dead) - 2), evaluations=40, seed=0)
        >>> len(found.dead), found.value
        (2, 0.0)
    """
    looks, generator = _Looks(ids, objective, evaluations), seeds.generator(seed)
    check_counts(samples=samples, elites=elites)
    if elites > samples:
        raise ValueError(f"elites must be at most samples, {samples}, got {elites}")
    probability = torch.full((len(looks.ids),), 0.5, dtype=torch.float64)
    while looks.left:
        kept = _drawn(probability, samples, generator)
        rewards = looks(kept)
        best = rewards.sort(descending=True, stable=True).indices[:elites]
        probability = torch.lerp(probability, kept[best].double().mean(0), SMOOTHING)
    return looks.found()


def particles(
    ids: Collection[int],
    objective: Objective,
    *,
    evaluations: int,
    n: int = 20,
    sharpness: float = 4.0,
    seed: int,
) -> Found:
    r"""A particle filter over masks: sets with a high reward are copied, then each copy changes.

    A particle is a whole set. In every round particle i has the weight

    .. math:: w_i \propto \exp(\beta R_i)

    and ``systematic`` resampling draws n particles by their weights. In each of them every id then
    changes sides with probability one over the number of ids. The first particles are those of
    ``random_subsets``.

    Source: Anwar et al. 2017 for the idea. This is a reconstruction: the text of the paper could not
    be read, and the weights and the changes are this library's choice.

    Args:
        ids, objective, evaluations: as in ``random_subsets``.
        n: the number of particles, at least 2.
        sharpness: β, positive. With a small β all weights are nearly equal, and nothing is selected.

    Raises:
        ValueError: as ``random_subsets``; fewer than two particles, a sharpness out of range.
        TypeError: as ``random_subsets``.

    Examples:
        >>> found = particles(range(6), lambda dead: -abs(len(dead) - 2), evaluations=60, seed=0)
        >>> len(found.dead), found.value
        (2, 0.0)
    """
    looks, generator = _Looks(ids, objective, evaluations), seeds.generator(seed)
    check_counts(n=n)
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}")
    check_positive("sharpness", sharpness)
    size = len(looks.ids)
    kept = _of_any_size(n, size, generator)
    rewards = looks(kept)
    while looks.left:
        weights = (sharpness * (rewards - rewards.max())).exp()
        u = float(torch.rand((), generator=generator, dtype=torch.float64))
        copies = kept[systematic(weights, u=u)]
        flips = torch.rand(n, size, generator=generator) < 1 / size
        kept = _never_empty(copies ^ flips, copies.double().mean(0))
        rewards = looks(kept)
    return looks.found()


def systematic(weights: Tensor, *, u: float) -> Tensor:
    r"""Systematic resampling: n positions drawn by n weights, with one random number.

    The weights, divided by their sum, lie one after another on the unit interval. Position i is
    taken once for each of the points :math:`(u + k) / n`, k = 0, …, n − 1, in its part. So it is
    taken :math:`\lfloor n w_i \rfloor` or :math:`\lceil n w_i \rceil` times, and over a uniform u
    :math:`n w_i` times on average.

    Args:
        weights: (n,), not negative. Their sum need not be 1.
        u: in [0, 1).

    Returns:
        (n,) int64 positions in ascending order.

    Raises:
        ValueError: weights that are no vector, are negative, not finite, or all zero; u outside
            [0, 1).
        TypeError: weights that are no tensor, a u that is no number.

    Examples:
        >>> systematic(torch.tensor([0.5, 0.1, 0.4]), u=0.25)
        tensor([0, 0, 2])
    """
    if not isinstance(weights, Tensor):
        raise TypeError(f"weights must be a tensor, got {type(weights).__name__}")
    if weights.dim() != 1 or len(weights) == 0:
        raise ValueError(f"weights must be (n,), got shape {tuple(weights.shape)}")
    check_finite("weights", weights)
    if (weights < 0).any() or not weights.any():
        raise ValueError(f"weights must not be negative, nor all be zero, got {weights.tolist()}")
    if not 0 <= check_real("u", u) < 1:
        raise ValueError(f"u must be in [0, 1), got {u!r}")
    ends = weights.double().cumsum(0)
    n = len(weights)
    points = (torch.arange(n, dtype=torch.float64, device=weights.device) + u) * ends[-1] / n
    last = int(weights.nonzero().max())  # a point may be rounded up to the end
    return torch.searchsorted(ends, points, right=True).clamp(max=last)


class _Looks:
    """An objective that is asked a given number of times, and the best of its answers."""

    def __init__(self, ids: Collection[int], objective: Objective, evaluations: int) -> None:
        check_counts(evaluations=evaluations)
        if not callable(objective):
            raise TypeError(f"objective must be a function, got {type(objective).__name__}")
        self.ids, self.objective, self.left = _sorted(ids), objective, evaluations
        self.dead: frozenset[int] = frozenset()
        self.curve: list[float] = []

    def __call__(self, kept: Tensor) -> Tensor:
        """The rewards of the sets (m, n), or of the first of them if fewer looks are left."""
        rewards = []
        for row in kept[: self.left].tolist():
            dead = frozenset(i for i, stays in zip(self.ids, row, strict=True) if not stays)
            value = check_real(f"objective of {sorted(dead)}", self.objective(dead))
            if not self.curve or value > self.curve[-1]:
                self.dead = dead
            self.curve.append(max([value, *self.curve[-1:]]))
            rewards.append(value)
        self.left -= len(rewards)
        return torch.tensor(rewards, dtype=torch.float64)

    def found(self) -> Found:
        return Found(self.dead, self.curve[-1], self.curve)


def _sorted(ids: Collection[int]) -> list[int]:
    if not isinstance(ids, Collection) or not all(type(i) is int for i in ids):
        raise TypeError(f"ids must be a collection of integers, got {ids!r}")
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"ids must be at least one, and each one once, got {list(ids)}")
    return sorted(ids)


def _of_any_size(m: int, n: int, generator: torch.Generator) -> Tensor:
    """m sets of n ids as masks, (m, n): their size is uniform from 1 to n."""
    rank = torch.rand(m, n, generator=generator).argsort(1).argsort(1)
    return rank < torch.randint(1, n + 1, (m, 1), generator=generator)


def _drawn(probability: Tensor, m: int, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(m, len(probability), generator=generator, dtype=torch.float64)
    return _never_empty(uniform < probability, probability)


def _never_empty(kept: Tensor, probability: Tensor) -> Tensor:
    """Let the likeliest id stay in sets that would keep none."""
    kept[~kept.any(1), probability.argmax()] = True
    return kept


def _asked(graph: ChannelGraph, layer: str) -> tuple[list[int], str]:
    """The ids of a layer, and the only layer that reads them."""
    if layer not in graph.layers():
        raise ValueError(f"layer must be one of {[*graph.layers()]}, got {layer!r}")
    ids = graph.layers()[layer]
    if len(ids) > LARGEST:
        raise ValueError(
            f"layer must have at most {LARGEST} ids, because every subset is tried, but {layer!r} "
            f"has {len(ids)}"
        )
    readers = [name for name, read in graph.reads.items() if not set(ids).isdisjoint(read)]
    if len(readers) != 1:
        raise ValueError(f"layer must be read by one layer, but {layer!r} is read by {readers}")
    return ids, readers[0]


def _sums(terms: Tensor) -> Tensor:
    """(n, …) terms -> (2**n, …): the sum over every subset, where bit k says whether term k counts."""
    found = torch.zeros_like(terms.sum(0))[None]
    for term in terms:
        found = torch.cat([found, found + term])
    return found


def _rows(terms: Tensor):
    """The same sums, one at a time."""
    for number in range(2 ** len(terms)):
        yield terms[[k for k in range(len(terms)) if number >> k & 1]].sum(0)


def _percent(logits: Tensor, labels: Tensor) -> Tensor:
    """(m, classes, images) -> (m,) accuracies. (``max`` is five times as fast as ``argmax`` here.)"""
    return 100 * (logits.max(1).indices == labels).float().mean(1)
