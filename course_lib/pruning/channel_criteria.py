"""Scores of whole channels: one number per id, in the order of ``graph.ids()``.

A higher score means keep. A score reads one of three things: the weights of the layers that *make*
a channel (``l1``, ``l2``, ``rms``, ``bn_scale``), the values of the channel after its *activation*
function (``activation_mean``, ``activation_std``, ``apoz``), or the loss as a function of what the
next layers *read* (``taylor``, and ``oracle``, which tries every removal). In a residual network
several layers may make, activate or read one channel. Each function says how it combines them.

No function changes the model. Half-precision models are scored in float32. Every function raises
ValueError for a graph of another model, for weights that are not plain (``layers.check_plain``),
and for weights, images or activations that are not finite.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from course_lib import seeds
from course_lib.extras import lessons
from course_lib.layers import at_least_float32, check_finite, copied, fitting, weighted
from course_lib.pruning.channels import ChannelGraph, check_graph, check_scores, watching_reads
from course_lib.pruning.criteria import Loss
from course_lib.pruning.tracing import check_input, stops, watch
from course_lib.training import evaluating


def l1(model: nn.Module, graph: ChannelGraph) -> Tensor:
    r"""Sum of the magnitudes of the filter that makes the channel.

    .. math:: s_j = \sum_{l=1}^{n_i} \sum |K_l| = \sum |F_{i,j}|

    The sum runs over the kernels K of the filter's :math:`n_i` input maps; biases do not count.
    Filters that make one channel together (a residual sum) count as one. In the paper the
    shortcut's filter decides instead, and filters are ranked within a layer.

    Source: Li et al. 2017, section 3.1.

    Returns:
        (number of ids,) scores, >= 0.

    Examples:
        >>> from course_lib.pruning import channels
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[3.0, -4.0], [1.0, 1.0]]))
        >>> graph = channels.trace(model, torch.zeros(1, 2))
        >>> l1(model, graph), l2(model, graph)
        (tensor([7., 2.]), tensor([5.0000, 1.4142]))
    """
    return _per_filter(model, graph, lambda w: w.abs().sum(1))


def l2(model: nn.Module, graph: ChannelGraph) -> Tensor:
    r"""Euclidean norm of the filter, :math:`\lVert F_{i,j} \rVert_2`; otherwise as ``l1``.

    Source: Li et al. 2017, who saw no noticeable difference between the two norms.
    """
    return _per_filter(model, graph, lambda w: w.square().sum(1)).sqrt()


def rms(model: nn.Module, graph: ChannelGraph) -> Tensor:
    r"""Root mean square of the filter's n weights, :math:`\lVert F_{i,j} \rVert_2 / \sqrt{n}`.

    This is ``l2`` without the influence of the filter's size, so that large filters do not win by
    it. The paper takes the mean of squares, which gives the same ranking.

    Source: Molchanov et al. 2017, section 2.2.
    """
    n = _per_filter(model, graph, lambda w: torch.full_like(w[:, 0], w.shape[1]))
    return l2(model, graph) / n.sqrt()


def bn_scale(model: nn.Module, graph: ChannelGraph) -> Tensor:
    r"""Scale of the channel's batch norm, :math:`|\gamma|`; the mean where there are several.

    In the paper (network slimming) the network is first trained with an L1 penalty on γ. Then one
    threshold for all layers decides.

    Source: Liu et al. 2017, section 3.

    Raises:
        ValueError: a channel without a batch norm that has a scale. The message names its layer.
    """
    total, count = _zeros(model, graph), _zeros(model, graph)
    for name, ids in graph.passes.items():
        layer = model.get_submodule(name)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.weight is not None:
            gamma = layer.weight.detach().to(total)
            total += _collect(graph, ids, gamma.abs())
            count += _collect(graph, ids, torch.ones_like(gamma))
    return _mean(graph, total, count, "batch norm")


def activation_mean(model: nn.Module, graph: ChannelGraph, x: Tensor) -> Tensor:
    r"""Mean of the I entries of the channel's feature map, averaged over the examples of ``x``.

    .. math:: \Theta_{MA}(a) = \frac{1}{I} \sum_i a_i

    There is no absolute value, and zeros count too. The entries are those after the activation
    function; where a channel passes several functions, the score is the mean over them.

    Source: Molchanov et al. 2017, section 2.2.
    """
    return _over_activations(model, graph, x, lambda a: a.mean((0, 2)))


def activation_std(model: nn.Module, graph: ChannelGraph, x: Tensor) -> Tensor:
    r"""Standard deviation of the entries of the channel's feature map, averaged over the examples.

    .. math:: \Theta_{MA\_std}(a) = \sqrt{\frac{1}{I} \sum_i (a_i - \mu)^2}

    A neuron of a linear layer has one entry per example. For such a neuron the standard deviation
    is taken over the examples. The entries are as in ``activation_mean``.

    Source: Molchanov et al. 2017, section 2.2.

    Raises:
        ValueError: one example with one entry, which has no deviation.
    """

    def deviation(a: Tensor) -> Tensor:  # (batch, channels, entries)
        if a.shape[2] == 1:
            if len(a) == 1:
                raise ValueError("x must hold at least two examples, got one")
            return a.std((0, 2), correction=0)
        return a.std(2, correction=0).mean(0)

    return _over_activations(model, graph, x, deviation)


def apoz(model: nn.Module, graph: ChannelGraph, x: Tensor) -> Tensor:
    r"""One minus the average percentage of zeros: the fraction of entries that are not zero.

    .. math:: APoZ_c^{(i)} = \frac{\sum_k^N \sum_j^M f(O_{c,j}^{(i)}(k) = 0)}{N \cdot M}

    Here N is the number of examples and M that of entries. In the paper a high APoZ means *prune*.
    The function returns 1 − APoZ, so that higher means keep. The entries are as in
    ``activation_mean``.

    Source: Hu et al. 2016, equation 1.

    Examples:
        >>> from course_lib.pruning import channels
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
        >>> _ = model[0].weight.data.fill_(1.0)
        >>> x = torch.tensor([[-1.0], [-2.0], [1.0], [-3.0]])  # ReLU makes three of four zero
        >>> apoz(model, channels.trace(model, x), x)
        tensor([0.2500])
    """
    return _over_activations(model, graph, x, lambda a: (a != 0).to(a).mean((0, 2)))


def taylor(
    model: nn.Module,
    graph: ChannelGraph,
    batch: tuple[Tensor, Tensor],
    loss: Loss = F.cross_entropy,
    *,
    normalise: bool = True,
) -> Tensor:
    r"""First-order estimate of how the loss changes if no layer reads the channel any more.

    .. math:: \Theta_{TE}(z_l^{(k)}) = \left| \frac{1}{M} \sum_m
              \frac{\delta C}{\delta z_{l,m}^{(k)}}\, z_{l,m}^{(k)} \right|, \qquad
              \hat\Theta(z_l^{(k)}) = \frac{\Theta(z_l^{(k)})}{\sqrt{\sum_j \Theta^2(z_l^{(j)})}}

    The mean over the M entries of the map is *inside* the absolute value. The absolute value is
    taken for each example, and then the mean over the examples. The map is what the channel's
    consumers read, all of them in one sum. It lies after ReLU and pooling, which changes only M,
    because both commute with scaling.

    Source: Molchanov et al. 2017, section 2.3, equation 8.

    Args:
        batch: (images, labels).
        loss: (model's output, labels) -> a scalar, the mean of the examples' own losses.
        normalise: divide by the ℓ2 norm of the layer (of ``graph.layers()``), which makes layers
            comparable: ``normalised``.

    Raises:
        ValueError: a batch that is empty or does not fit; a loss that is not one finite number.
        TypeError: a batch that is no pair.
    """
    entries = _zeros(model, graph)
    gates: dict[str, Tensor] = {}
    size: dict[str, int] = {}  # entries of one channel's map, as that consumer reads it

    def gate(name: str, z: Tensor) -> Tensor:
        size[name] = z[0, 0].numel()
        gates[name] = torch.ones(z.shape[:2]).to(entries).requires_grad_()  # (batch, channels)
        gated = at_least_float32(z) * gates[name].view(*z.shape[:2], *[1] * (z.dim() - 2))
        return gated.to(z.dtype)

    with torch.enable_grad(), watching_reads(model, graph, gate):
        cost, n = _cost(model, batch, loss).to(entries), len(batch[0])
        if not cost.requires_grad:
            raise ValueError("loss must depend on the model's output, got one without a gradient")
        # A sum over the batch, so that each example has its own gradient:
        # d (n cost) / d gate = sum over the map of dC/dz * z, for each example and channel.
        slopes = torch.autograd.grad(
            cost * n, list(gates.values()), allow_unused=True, materialize_grads=True
        )
    total = torch.zeros(n, len(entries)).to(entries)  # (batch, ids)
    for name, slope in zip(gates, slopes, strict=True):
        total += _collect(graph, graph.reads[name], slope)
        entries += _collect(graph, graph.reads[name], torch.full_like(slope[0], size[name]))
    score = (total / entries.clamp(min=1)).abs().mean(0)
    return normalised(graph, score) if normalise else score


def normalised(graph: ChannelGraph, scores: Tensor) -> Tensor:
    """A copy of any score, divided by the ℓ2 norm of each layer (of ``graph.layers()``).

    Then layers can be compared. A layer of zeros stays zero.

    Source: Molchanov et al. 2017, section 2.3.

    Examples:
        >>> from course_lib.pruning import channels
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> graph = channels.trace(model, torch.zeros(1, 2))
        >>> normalised(graph, torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """
    check_scores(graph, scores)
    scores = scores.detach().to(torch.promote_types(scores.dtype, torch.float32), copy=True)
    for rows in graph.rows().values():
        norm = scores[rows].norm()
        if norm > 0:
            scores[rows] /= norm
    return scores


def flops_regularised(
    model: nn.Module, graph: ChannelGraph, scores: Tensor, strength: float = 1e-3
) -> Tensor:
    r"""Any score, minus what the channel costs.

    .. math:: \Theta(z_l^{(k)}) \leftarrow \Theta(z_l^{(k)}) - \lambda\, \Theta_l^{flops}

    Use it with normalised scores. Here Θ^flops is the percentage of the network's
    multiply-accumulates that the removal of this channel alone saves (100 times ``macs_share``);
    the paper has one number per layer.

    Source: Molchanov et al. 2017, section 2.4, equation 9, with λ = 10⁻³.

    Args:
        strength: λ.
    """
    check_scores(graph, scores)
    return scores - strength * 100 * macs_share(model, graph).to(scores)


def macs_share(model: nn.Module, graph: ChannelGraph) -> Tensor:
    """The fraction of all multiply-accumulates that the removal of this channel alone saves.

    It counts the layers that make the channel, those that read it, and depthwise convolutions on
    its way.

    Examples:
        >>> from course_lib.pruning import channels
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> macs_share(model, channels.trace(model, torch.zeros(1, 2)))
        tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """
    saved, total = _zeros(model, graph).double().cpu(), 0
    for name, positions in graph.positions.items():
        weight = model.get_parameter(f"{name}.weight")
        makes = {**graph.passes, **graph.makes}[name]
        out = _collect(graph, makes, torch.ones(len(makes)).double())
        pairs = out
        if name in graph.reads:  # (rows × columns) − (rows left × columns left)
            reads = graph.reads[name]
            into = _collect(graph, reads, torch.ones(len(reads)).double())
            pairs = len(makes) * into + out * len(reads) - out * into
        saved += positions * pairs * weight[0, 0].numel()
        total += positions * weight.numel()
    return saved / total


def random(model: nn.Module, graph: ChannelGraph, *, seed: int) -> Tensor:
    """Uniform random numbers in [0, 1): the control. The same seed gives the same scores."""
    generator = seeds.generator(seed)
    return torch.rand(len(graph.ids()), generator=generator).to(_zeros(model, graph).device)


def oracle(
    model: nn.Module,
    graph: ChannelGraph,
    batch: tuple[Tensor, Tensor],
    loss: Loss = F.cross_entropy,
) -> Tensor:
    r"""What the other scores estimate: how much the loss changes when the channel is silenced.

    .. math:: |\Delta C(z_l^{(k)})| = |C(D, z_l^{(k)} = 0) - C(D)|

    It needs one evaluation per id; what lies before the first layer that reads the channel is not
    computed again. The paper calls it "oracle-abs"; "oracle-loss", without the absolute value, gave
    worse results there.

    Source: Molchanov et al. 2017, section 2.1, equation 3.

    Args:
        batch, loss: as in ``taylor``.

    Raises:
        ValueError, TypeError: as ``taylor``.
    """
    change, quiet = _zeros(model, graph), copied(model)
    place, columns = {i: k for k, i in enumerate(graph.ids())}, _columns(graph)
    with torch.no_grad(), evaluating(quiet):
        before = _cost(quiet, batch, loss)
        for layer, rest in stops(quiet, batch[0]):
            # Of the layers that read a channel, only the first finds it: pop takes it out.
            for i in [i for i in place if layer in columns.get(i, {})]:
                with _silenced(quiet, columns.pop(i)):
                    change[place[i]] = _number(loss(rest(), batch[1])) - before
    return change.abs()


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation ρ of two scores, from −1 to 1.

    Equal scores share their mean rank. The result is NaN if all numbers of a, or of b, are equal.

    Source: Molchanov et al. 2017, equation 10, for scores without ties.

    Raises:
        ValueError: scores of different shapes, fewer than two, or NaN.

    Examples:
        >>> round(spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0, 9.0])), 6)
        1.0
    """
    if a.shape != b.shape or a.dim() != 1 or len(a) < 2:
        raise ValueError(
            f"a and b must be scores of the same ids, got shapes {tuple(a.shape)}, {tuple(b.shape)}"
        )
    for argument, scores in (("a", a), ("b", b)):
        if scores.isnan().any():
            raise ValueError(f"{argument} must hold no NaN, got {int(scores.isnan().sum())}")
    if (a == a[0]).all() or (b == b[0]).all():
        return float("nan")
    with lessons():
        from scipy import stats

    found: Any = stats.spearmanr(a.detach().cpu(), b.detach().cpu())
    return float(found.statistic)


def _zeros(model: nn.Module, graph: ChannelGraph) -> Tensor:
    """One zero per id, in float32 or better on the model's device, if graph and model fit."""
    check_graph(model, graph)
    for name in (*graph.makes, *graph.passes):
        for what, values in model.get_submodule(name).named_parameters(recurse=False):
            check_finite(f"model's '{name}.{what}'", values.detach())
    weight = next(iter(weighted(model).values())).weight.detach()
    return at_least_float32(weight.new_zeros(len(graph.ids())))


def _cost(model: nn.Module, batch: tuple[Tensor, Tensor], loss: Loss) -> Tensor:
    """The loss of a batch, one finite number."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TypeError(f"batch must be a pair (inputs, targets), got {type(batch).__name__}")
    x, y = batch
    check_finite("batch", check_input("batch", model, x))
    if len(x) != len(y):
        raise ValueError(f"batch must hold as many inputs as targets, got {len(x)} and {len(y)}")
    with fitting("batch", x):
        cost = loss(model(x), y)
    return _number(cost)


def _number(cost: Tensor) -> Tensor:
    """A loss, if it is one finite number."""
    if not isinstance(cost, Tensor) or cost.shape != ():
        got = f"shape {tuple(cost.shape)}" if isinstance(cost, Tensor) else type(cost).__name__
        raise ValueError(f"loss must return one number, the mean over the batch, got {got}")
    check_finite("loss of the batch", cost.detach())
    return cost


def _collect(graph: ChannelGraph, ids: list[int], values: Tensor) -> Tensor:
    """Sum values, (…, channels), by id: (…, number of ids). Fixed ids are left out."""
    place = {i: k for k, i in enumerate(graph.ids())}
    n = len(place)
    index = torch.tensor([place.get(i, n) for i in ids], device=values.device)
    found = values.new_zeros(*values.shape[:-1], n + 1)
    return found.index_add_(-1, index, values)[..., :n]


def _mean(graph: ChannelGraph, total: Tensor, count: Tensor, of: str) -> Tensor:
    for name, rows in graph.rows().items():
        if (count[rows] == 0).any():
            raise ValueError(f"graph has channels without {of}: those that {name!r} makes")
    return total / count


def _per_filter(model: nn.Module, graph: ChannelGraph, size: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum of ``size``, of a filter matrix (out, in · kernel), over the layers that make an id."""
    total = _zeros(model, graph)
    for name, ids in graph.makes.items():
        weight = model.get_parameter(f"{name}.weight").detach().to(total)
        total += _collect(graph, ids, size(weight.flatten(1)))
    return total


def _over_activations(
    model: nn.Module, graph: ChannelGraph, x: Tensor, statistic: Callable[[Tensor], Tensor]
) -> Tensor:
    """Mean of a statistic over the activation functions that an id passes.

    Args:
        statistic: (batch, channels, entries) -> (channels,).
    """
    total, count = _zeros(model, graph), _zeros(model, graph)
    found: dict[str, Tensor] = {}  # activation -> (batch, channels, entries)

    def look(node: fx.Node, value: Any) -> None:
        if node.name in graph.activations:  # a copy: a later in-place operation may overwrite it
            found[node.name] = value.to(total, copy=True).unsqueeze(2).flatten(2)

    check_finite("x", check_input("x", model, x))
    watch("x", model, x, look)
    for name, a in found.items():
        check_finite(f"x's values behind the activation {name!r}", a)
        total += _collect(graph, graph.activations[name], statistic(a))
        count += _collect(graph, graph.activations[name], torch.ones_like(a[0, :, 0]))
    return _mean(graph, total, count, "an activation function")


def _columns(graph: ChannelGraph) -> dict[int, dict[str, list[int]]]:
    """id -> consumer -> the columns of its weight that read the id."""
    found: dict[int, dict[str, list[int]]] = {}
    for name, ids in graph.reads.items():
        for column, i in enumerate(ids):
            found.setdefault(i, {}).setdefault(name, []).append(column)
    return found


@contextmanager
def _silenced(model: nn.Module, reads: dict[str, list[int]]) -> Iterator[None]:
    """Within the block these columns of the consumers' weights are zero."""
    weights = {name: model.get_parameter(f"{name}.weight") for name in reads}
    kept = {name: weight[:, reads[name]].clone() for name, weight in weights.items()}
    for name, weight in weights.items():
        weight[:, reads[name]] = 0
    yield
    for name, weight in weights.items():
        weight[:, reads[name]] = kept[name]
