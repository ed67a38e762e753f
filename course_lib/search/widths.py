r"""How many channels each layer keeps: a budget, what an agent sees, and pieces of a search by gradient.

A *width* is the number of channels that a layer of ``graph.layers()`` keeps. Where it matters which
ones, they are the first: ``channels.remove(model, graph, tail(graph, widths))`` makes that network.
Costs are multiply-accumulates of one example, as ``measure.macs`` counts them.

``affordable``, ``layer_state`` and the two rewards belong to AMC, whose agent chooses layer after
layer what share to keep. ``pick_two``, ``align``, ``expected_macs`` and ``cost_loss`` belong to TAS,
which trains the probabilities of several widths together with the weights.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.data import check_counts, check_fraction, check_positive, check_real
from course_lib.layers import check_finite, check_floating, fitting
from course_lib.pruning.channels import ChannelGraph, check_graph, check_used, watching_reads
from course_lib.pruning.tracing import check_input

Widths = Mapping[str, int]  # layer of graph.layers() -> channels that it keeps

LEAST = 0.1  # share of its channels that every layer keeps: ceil(LEAST * n)
UNDERFLOW = 1e-7  # the least probability of a candidate, so that there are always two to draw


def tail(graph: ChannelGraph, widths: Widths) -> set[int]:
    """The ids to remove, if every named layer keeps its first channels. Others keep all of theirs.

    Raises:
        ValueError: a layer that is not in ``graph.layers()``, or a width below 1 or above its number
            of channels.

    Examples:
        >>> from course_lib.pruning import channels
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> tail(channels.trace(model, torch.zeros(1, 2)), {"0": 3})
        {5}
    """
    _check_widths(graph, widths)
    return {i for name, n in widths.items() for i in graph.layers()[name][n:]}


def macs(model: nn.Module, graph: ChannelGraph, widths: Widths) -> int:
    """The multiply-accumulates of the network with these widths, without making it.

    Raises:
        ValueError: as ``tail``; a graph of another network.

    Examples:
        >>> from course_lib.pruning import channels
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> macs(model, channels.trace(model, torch.zeros(1, 2)), {"0": 3})
        9
    """
    check_graph(model, graph)
    dead = tail(graph, widths)
    total = 0
    for factor, *sides in _products(model, graph).values():
        for ids in sides:
            factor *= sum(i not in dead for i in ids)
        total += factor
    return total


def affordable(
    model: nn.Module,
    graph: ChannelGraph,
    kept: Widths,
    layer: str,
    share: float,
    *,
    budget: int,
) -> int:
    """The width for a layer that is nearest to the wanted share and leaves the budget within reach.

    It is the largest width up to ``round(share * n)`` with which the network costs at most
    ``budget``, if every layer that is not decided yet keeps its least share (``LEAST``). So an agent that decides
    one layer after the other never ends above the budget.

    Source: He et al. 2018 (AMC), resource-constrained search. They bound the sparsity by an estimate
    of what the remaining layers can save; here the cost is exact.

    Args:
        kept: the widths that are decided.
        layer: the layer to decide, of ``graph.layers()``.
        share: the wanted share of its n channels, in (0, 1].
        budget: multiply-accumulates.

    Raises:
        ValueError: as ``tail``; a layer that is decided already, a share outside (0, 1], or a budget
            that is below the cheapest network. The message says what that one costs.

    Examples:
        >>> from course_lib.pruning import channels
        >>> model = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 1))
        >>> graph = channels.trace(model, torch.zeros(1, 2))
        >>> affordable(model, graph, {}, "0", 0.9, budget=20)
        6
    """
    check_graph(model, graph)
    _check_widths(graph, kept, "kept")
    _check_open(graph, kept, layer)
    check_fraction("share", share)
    check_counts(budget=budget)
    fewest = {name: math.ceil(LEAST * len(ids)) for name, ids in graph.layers().items()}
    others = fewest | dict(kept)
    wanted = max(fewest[layer], round(share * len(graph.layers()[layer])))
    for width in range(wanted, fewest[layer] - 1, -1):
        cost = macs(model, graph, others | {layer: width})
        if cost <= budget:
            return width
    raise ValueError(
        f"budget must be at least {cost}, which the network costs if {layer!r} and all layers that "
        f"are not decided keep their least share, got {budget}"
    )


def layer_state(
    model: nn.Module, graph: ChannelGraph, kept: Widths, layer: str, x: Tensor, *, last: float
) -> Tensor:
    r"""What AMC's agent sees of a layer, eleven numbers from 0 to 1.

    .. math:: s_t = (t, n, c, h, w, stride, k, FLOPs[t], reduced, rest, a_{t-1})

    These are the number of the layer, its output and input channels, height and width of what it
    reads, its stride and kernel size, its cost, the cost that the decided layers have saved, the cost
    of the layers behind it, and the last action. The first eight are scaled over all layers, so that
    the smallest is 0 and the largest 1; where all are equal they are 0. Costs saved and still to come
    are shares of the whole cost.

    Source: He et al. 2018 (AMC). The scaling is that of the authors' code.

    Args:
        kept: the widths that are decided.
        x: images, which give height and width.
        last: the last action, the share that the layer before keeps, in [0, 1].

    Returns:
        (11,) float32, in the order of the formula.

    Raises:
        ValueError: as ``affordable``; images that do not fit.
    """
    check_graph(model, graph)
    _check_widths(graph, kept, "kept")
    _check_open(graph, kept, layer)
    if isinstance(last, bool) or not isinstance(last, Real) or not 0 <= last <= 1:
        raise ValueError(f"last must be a number in [0, 1], got {last!r}")
    costs = {
        name: math.prod([f, *map(len, s)]) for name, (f, *s) in _products(model, graph).items()
    }
    sizes = _sizes(model, graph, check_input("x", model, x))
    rows = []
    for t, name in enumerate(graph.layers()):
        one: Any = model.get_submodule(name)
        stride, kernel = (
            getattr(one, what, (1,))[-1] for what in ("stride", "kernel_size")
        )  # a linear layer is a convolution of one position
        n, c = one.weight.shape[:2]
        rows.append([t, n, c, *sizes[name], stride, kernel, costs[name]])
    table = torch.tensor(rows, dtype=torch.float64)
    low, high = table.amin(0), table.amax(0)
    row = table[[*graph.layers()].index(layer)]
    scaled = torch.where(high > low, (row - low) / (high - low), 0.0)
    total, names = sum(costs.values()), [*costs]
    saved = total - macs(model, graph, kept)
    rest = sum(costs[name] for name in names[names.index(layer) + 1 :])
    return torch.cat([scaled, torch.tensor([saved / total, rest / total, last])]).float()


def accuracy_reward(error: float) -> float:
    """AMC's reward where the budget is held by ``affordable``: R = −error.

    Source: He et al. 2018 (AMC).

    Raises:
        ValueError: an error that is negative or not finite.
        TypeError: an error that is no number.

    Examples:
        >>> accuracy_reward(0.25)
        -0.25
    """
    return -_check_error(error)


def flops_reward(error: float, flops: float) -> float:
    r"""AMC's reward where the accuracy is to be held: :math:`R = -error \cdot \log(FLOPs)`.

    The logarithm is negative below one. In units in which a network costs less than one, such as
    10⁹ multiplications, the network with the larger error would have the better reward.

    Source: He et al. 2018 (AMC).

    Args:
        error: the share of wrong answers.
        flops: the cost in a unit in which it is above 1.

    Raises:
        ValueError: an error that is negative or not finite; a cost that is at most 1 or not finite.
        TypeError: arguments that are no numbers.

    Examples:
        >>> flops_reward(0.1, 1000) > flops_reward(0.2, 1000)
        True
    """
    _check_error(error)
    return -error * math.log(_check_above_one("flops", flops))


def pick_two(logits: Tensor, tau: float, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    r"""Draw two of the candidates, with weights through which the logits are trained.

    .. math:: \hat p_j \propto \exp\!\big((\log p_j + o_j) / \tau\big), \qquad
              o_j = -\log(-\log u_j), \qquad p = \operatorname{softmax}(\alpha)

    Two candidates are drawn from :math:`\hat p` without replacement. Their weights are
    :math:`\hat p` restricted to the two of them, so they add up to 1. A small τ makes the weights
    nearly 0 and 1; a large τ makes every pair likely, with equal weights.

    Source: Dong & Yang 2019 (TAS), equation 2 for p; the order of the steps is that of their code.

    Args:
        logits: (…, candidates) the α, at least two candidates.
        tau: τ, positive.
        generator: draws the noise and the pair, on the CPU.

    Returns:
        (…, 2) positions, and (…, 2) weights with a gradient.

    Raises:
        ValueError: fewer than two candidates, logits that are not finite, or a τ that is not
            positive.
        TypeError: logits that are no floating-point tensor, a τ that is no number.

    Examples:
        >>> index, weight = pick_two(torch.zeros(5), 1.0, generator=torch.Generator())
        >>> len(set(index.tolist())), round(float(weight.sum()), 4)
        (2, 1.0)
    """
    check_floating("logits", logits)
    if logits.dim() == 0 or logits.shape[-1] < 2:
        raise ValueError(f"logits must be (…, at least 2), got shape {tuple(logits.shape)}")
    check_finite("logits", logits)
    check_positive("tau", tau)
    waits = torch.empty(logits.shape).exponential_(generator=generator).clamp(min=1e-30)
    noisy = (logits.log_softmax(-1) - waits.log().to(logits)) / tau  # −log of an exponential: o
    likely = noisy.detach().softmax(-1).float().cpu() + UNDERFLOW
    index = torch.multinomial(likely.view(-1, logits.shape[-1]), 2, generator=generator)
    index = index.view(*logits.shape[:-1], 2).to(logits.device)
    return index, noisy.gather(-1, index).softmax(-1)


def align(x: Tensor, channels: int) -> Tensor:
    r"""Change the number of channels by averaging over neighbours: channel-wise interpolation.

    .. math:: \tilde O_i = \frac{1}{e_i - s_i} \sum_{j = s_i}^{e_i - 1} O_j, \qquad
              s_i = \Big\lfloor \frac{i\, C}{\tilde C} \Big\rfloor, \qquad
              e_i = \Big\lceil \frac{(i + 1)\, C}{\tilde C} \Big\rceil

    So outputs of different widths can be added. If there are to be more channels than there are, the
    windows overlap, and neighbours are repeated and averaged.

    Source: Dong & Yang 2019 (TAS), whose code pools the channels adaptively.

    Args:
        x: (batch, channels, …), floating-point.
        channels: how many there shall be.

    Raises:
        ValueError: a shape without channels, or a number below 1.
        TypeError: no floating-point tensor.

    Examples:
        >>> align(torch.tensor([[1.0, 3.0]]), 3)
        tensor([[1., 2., 3.]])
    """
    check_floating("x", x)
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(f"x must be (batch, channels, …) and not empty, got {tuple(x.shape)}")
    check_counts(channels=channels)
    last = x.movedim(1, -1)  # (batch, …, channels)
    pooled = F.adaptive_avg_pool1d(last.flatten(1, -2) if x.dim() > 2 else last[:, None], channels)
    return pooled.view(*last.shape[:-1], channels).movedim(-1, 1)


def expected_macs(
    model: nn.Module,
    graph: ChannelGraph,
    logits: Mapping[str, Tensor],
    candidates: Mapping[str, Sequence[int]],
) -> Tensor:
    r"""The expected cost of a network whose widths are drawn, with a gradient for the logits.

    .. math:: E\Big[\sum_l f_l \, C^{out}_l \, C^{in}_l\Big], \qquad
              P(C_k = c_j) = \operatorname{softmax}(\alpha_k)_j

    The widths of different layers are independent, so the expectation of a product is the product of
    the expectations. Where a layer reads and makes channels of the same width, as f in h + f(h), the
    variance of the width is added.

    Source: Dong & Yang 2019 (TAS).

    Args:
        logits: layer of ``graph.layers()`` -> (candidates,) the α. Other layers keep all channels.
        candidates: the same layers -> their widths, ascending.

    Returns:
        A scalar in float64.

    Raises:
        ValueError: other names, lengths or widths; widths that do not ascend; a graph of another
            network, or one in which a layer reads or makes only some of the channels that have one
            width.

    Examples:
        >>> from course_lib.pruning import channels
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> graph = channels.trace(model, torch.zeros(1, 2))
        >>> float(expected_macs(model, graph, {"0": torch.zeros(2)}, {"0": [2, 4]}))
        9.0
    """
    check_graph(model, graph)
    _check_candidates(graph, logits, candidates)
    mean, variance = {}, {}
    for name, alpha in logits.items():
        p = alpha.double().softmax(0)
        widths = torch.tensor(candidates[name], dtype=p.dtype, device=p.device)
        mean[name] = p @ widths
        variance[name] = p @ (widths - mean[name]) ** 2
    total = torch.zeros((), dtype=torch.float64)
    for factor, *sides in _products(model, graph).values():
        counts = [_occurrences(graph, ids, logits.keys()) for ids in sides]
        product = torch.ones((), dtype=torch.float64)
        for count in counts:
            product = product * sum(n * mean.get(name, 1) for name, n in count.items())
        if len(counts) == 2:
            both = (counts[0].keys() & counts[1].keys()) & mean.keys()
            product = product + sum(counts[0][k] * counts[1][k] * variance[k] for k in sorted(both))
        total = total + factor * product
    return total


def cost_loss(expected: Tensor, actual: float, target: float, *, tolerance: float = 0.05) -> Tensor:
    r"""The loss that leads the expected cost into a band around a target.

    .. math:: L = \begin{cases} \log E & F > (1 + t) R \\ 0 & (1 - t) R \le F \le (1 + t) R \\
              -\log E & F < (1 - t) R \end{cases}

    F, the cost of the likeliest architecture, decides the case. E, the expected cost, gives the
    gradient. Because F jumps, a search should return the last architecture inside the band.

    Source: Dong & Yang 2019 (TAS). In the authors' code the upper side has no tolerance.

    Args:
        expected: E, of ``expected_macs``.
        actual: the cost F of the likeliest architecture.
        target: the cost R that it shall have.
        tolerance: t, in [0, 1).

    Raises:
        ValueError: costs that are at most 1, where the logarithm changes its sign, or not finite; a
            tolerance outside [0, 1).
        TypeError: an ``expected`` that is no tensor, other arguments that are no numbers.

    Examples:
        >>> cost_loss(torch.tensor(100.0), 130.0, 110.0)
        tensor(4.6052)
    """
    check_floating("expected", expected)
    if expected.dim() > 0:
        raise ValueError(f"expected must be a scalar, got shape {tuple(expected.shape)}")
    _check_above_one("expected", expected.item())
    _check_above_one("actual", actual)
    _check_above_one("target", target)
    if not 0 <= check_real("tolerance", tolerance) < 1:
        raise ValueError(f"tolerance must be in [0, 1), got {tolerance!r}")
    sign = (actual > (1 + tolerance) * target) - (actual < (1 - tolerance) * target)
    return sign * expected.log()


def _products(model: nn.Module, graph: ChannelGraph) -> dict[str, tuple]:
    """Layer -> (places of its kernel times positions, ids made, ids read): its cost is the product.

    A depthwise convolution reads one channel for each that it makes, so it has no third entry.
    """
    found = {}
    for name, positions in graph.positions.items():
        factor = positions * model.get_parameter(f"{name}.weight")[0, 0].numel()
        made = {**graph.passes, **graph.makes}[name]
        found[name] = (factor, made, *([graph.reads[name]] if name in graph.reads else []))
    return found


def _sizes(model: nn.Module, graph: ChannelGraph, x: Tensor) -> dict[str, tuple[int, int]]:
    """Consumer -> height and width of what it reads."""
    found = {}

    def look(name: str, z: Tensor) -> None:
        found[name] = (1, 1, *z.shape[2:])[-2:]

    with torch.no_grad(), watching_reads(model, graph, look), fitting("x", x):
        model(x[:1])
    check_used(graph.reads, found)
    return found


def _occurrences(graph: ChannelGraph, ids: list[int], drawn: Any) -> Counter:
    """Layer whose width is drawn -> how often each of its channels occurs; None -> the others."""
    found, counts = Counter(), Counter(ids)
    for name, own in graph.layers().items():
        if name in drawn:
            often = {counts.pop(i, 0) for i in own}
            if len(often) > 1:
                raise ValueError(
                    f"graph must use the channels of {name!r} all or not at all in every layer, so "
                    "that a cost depends on their number alone"
                )
            found[name] += often.pop()
    found[None] += sum(counts.values())
    return Counter({name: n for name, n in found.items() if n})


def _check_widths(graph: ChannelGraph, widths: Widths, argument: str = "widths") -> None:
    found = graph.layers()
    for name, n in widths.items():
        if name not in found:
            raise ValueError(f"{argument} must name layers of {[*found]}, got {name!r}")
        if type(n) is not int or not 1 <= n <= len(found[name]):
            raise ValueError(
                f"{argument}[{name!r}] must be an integer from 1 to {len(found[name])}, got {n!r}"
            )


def _check_open(graph: ChannelGraph, kept: Widths, layer: str) -> None:
    if layer not in graph.layers():
        raise ValueError(f"layer must be one of {[*graph.layers()]}, got {layer!r}")
    if layer in kept:
        raise ValueError(f"layer must not be decided already, but {layer!r} keeps {kept[layer]}")


def _check_candidates(
    graph: ChannelGraph, logits: Mapping[str, Tensor], candidates: Mapping[str, Sequence[int]]
) -> None:
    if logits.keys() != candidates.keys():
        raise ValueError(
            f"candidates must name the layers of logits, {[*logits]}, got {[*candidates]}"
        )
    for name, widths in candidates.items():
        for n in widths:
            _check_widths(graph, {name: n}, "candidates")
        check_floating(f"logits[{name!r}]", logits[name])
        check_finite(f"logits[{name!r}]", logits[name])
        if list(widths) != sorted(set(widths)) or len(widths) < 2:
            raise ValueError(f"candidates[{name!r}] must ascend and be two or more, got {widths}")
        if logits[name].shape != (len(widths),):
            raise ValueError(
                f"logits[{name!r}] must be ({len(widths)},), one per candidate, "
                f"got shape {tuple(logits[name].shape)}"
            )


def _check_above_one(argument: str, value: float) -> float:
    if check_real(argument, value) <= 1:
        raise ValueError(
            f"{argument} must be above 1, because its logarithm is taken: count in a smaller unit, "
            f"got {value!r}"
        )
    return value


def _check_error(error: float) -> float:
    if check_real("error", error) < 0:
        raise ValueError(f"error must not be negative, got {error!r}")
    return error
