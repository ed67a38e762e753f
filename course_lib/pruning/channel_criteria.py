"""Scores of whole channels: one number an id, in the order of ``graph.ids()``. Higher means keep.

A score looks at one of three things: the weights of the layers that *make* a channel (``l1``,
``l2``, ``rms``, ``bn_scale``), the values the channel takes right behind its *activation* function
(``activation_mean``, ``activation_std``, ``apoz``), or what the loss says at the layers that
*read* it (``taylor``, and the ``oracle`` that tries every removal). Where several layers make,
activate or read a channel, as in a residual network, each docstring says how they are put together.
Nothing here changes the model.

Read in the papers' own text: Li et al. 2017 (section 3.1), Liu et al. 2017 (section 3), Molchanov et
al. 2017 (sections 2 and 3, in the manuscript whose Table 1 has VGG-16 alone; not its appendix). Hu et
al. 2016 could not be read; its formula and the meaning of its symbols agree with what others quote.
"""

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, fx, nn

from course_lib.pruning.channels import (
    ChannelGraph,
    check_graph,
    symbolic,
    watching_reads,
)
from course_lib.training import evaluating

Loss = Callable[[Tensor, Tensor], Tensor]


def l1(model: nn.Module, graph: ChannelGraph) -> Tensor:
    r"""Sum of the magnitudes of the filter that makes the channel.

    .. math:: s_j = \sum_{l=1}^{n_i} \sum |K_l| = \sum |F_{i,j}|

    over the kernels K of the filter's n input maps. Source: Li et al. 2017, section 3.1, where
    filters are ranked within a layer. Filters that make one channel together (a residual sum) count
    as one; the paper lets the shortcut's filter decide instead. Biases are left out.
    """
    return _per_filter(model, graph, lambda w: w.abs().sum(1))


def l2(model: nn.Module, graph: ChannelGraph) -> Tensor:
    r"""Euclidean norm of the filter, :math:`\lVert F_{i,j} \rVert_2`; scope as ``l1``.

    (Li et al. 2017 saw no noticeable difference between the two norms.)
    """
    return _per_filter(model, graph, lambda w: w.square().sum(1)).sqrt()


def rms(model: nn.Module, graph: ChannelGraph) -> Tensor:
    r"""Root mean square of the filter's n weights, :math:`\lVert F_{i,j} \rVert_2 / \sqrt{n}`.

    The size-free form of ``l2``: layers with large filters do not win by their size. (Molchanov et
    al. 2017, section 2.2, take the mean of squares, which ranks alike.)
    """
    n = _per_filter(model, graph, lambda w: torch.full((len(w),), float(w.shape[1])).to(w))
    return l2(model, graph) / n.sqrt()


def bn_scale(model: nn.Module, graph: ChannelGraph) -> Tensor:
    r"""Scale of the channel's batch norm, :math:`|\gamma|`; the mean where there are several.

    Source: Liu et al. 2017 (network slimming), section 3, who train with an L1 penalty on γ first and
    then cut with one threshold across all layers.

    Raises:
        ValueError: a channel without a (learnt) batch norm; names its layer.
    """
    total, count = _zeros(model, graph), _zeros(model, graph)
    for name, ids in graph.passes.items():
        layer = model.get_submodule(name)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.weight is not None:
            total.add_(_collect(graph, ids, layer.weight.detach().abs()))
            count.add_(_collect(graph, ids, torch.ones_like(layer.weight)))
    for name, ids in graph.layers().items():
        if any(count[graph.ids().index(i)] == 0 for i in ids):
            raise ValueError(f"graph has channels without batch norm: those that {name!r} makes")
    return total / count


def activation_mean(model: nn.Module, graph: ChannelGraph, x: Tensor) -> Tensor:
    r"""Mean of the I entries of the channel's feature map, averaged over the examples of ``x``.

    .. math:: \Theta_{MA}(a) = \frac{1}{I} \sum_i a_i

    No absolute value, and all entries count, zeros too. Source: Molchanov et al. 2017, section 2.2.
    Behind the activation function; where a channel passes several, the mean over them.
    """
    return _over_activations(model, graph, x, lambda a: a.mean((0, 2)))


def activation_std(model: nn.Module, graph: ChannelGraph, x: Tensor) -> Tensor:
    r"""Standard deviation of the entries of the channel's feature map, averaged over the examples.

    .. math:: \Theta_{MA\_std}(a) = \sqrt{\frac{1}{I} \sum_i (a_i - \mu)^2}

    A neuron of a fully connected layer has one entry an example: there, over the examples.
    Source: Molchanov et al. 2017, section 2.2. Where a channel passes several activation functions,
    the mean over them.
    """

    def deviation(a: Tensor) -> Tensor:  # (batch, channels, entries)
        if a.shape[2] == 1:
            return a.std((0, 2), correction=0)
        return a.std(2, correction=0).mean(0)

    return _over_activations(model, graph, x, deviation)


def apoz(model: nn.Module, graph: ChannelGraph, x: Tensor) -> Tensor:
    r"""One minus the average percentage of zeros: the fraction of entries that are not zero.

    .. math:: APoZ_c^{(i)} = \frac{\sum_k^N \sum_j^M f(O_{c,j}^{(i)}(k) = 0)}{N \cdot M}

    with N examples and M entries. In the paper high APoZ means *prune*; so that higher means keep,
    1 − APoZ is returned. Source: Hu et al. 2016, equation 1 (number from memory), "after the ReLU
    mapping" (quoted by others; the paper itself could not be read). Where a channel passes several
    activation functions, the mean over them.
    """
    return _over_activations(model, graph, x, lambda a: (a != 0).to(a.dtype).mean((0, 2)))


def taylor(
    model: nn.Module,
    graph: ChannelGraph,
    batch: tuple[Tensor, Tensor],
    loss: Loss = F.cross_entropy,
    *,
    normalise: bool = True,
) -> Tensor:
    r"""First-order estimate of what the loss changes when nobody reads the channel any more.

    .. math:: \Theta_{TE}(z_l^{(k)}) = \left| \frac{1}{M} \sum_m
              \frac{\delta C}{\delta z_{l,m}^{(k)}}\, z_{l,m}^{(k)} \right|, \qquad
              \hat\Theta(z_l^{(k)}) = \frac{\Theta(z_l^{(k)})}{\sqrt{\sum_j \Theta^2(z_l^{(j)})}}

    The mean over the map of M entries stands *inside* the absolute value, which is taken for each
    example separately; then the mean over the examples. Source: Molchanov et al. 2017, equation 8
    and section 2.3. The map is what the channel's consumers read (all of them, in one sum): behind
    ReLU and pooling, which changes M and nothing else, since both commute with scaling.

    Args:
        batch: images and labels, (x, y).
        loss: mean over the batch of each example's own loss.
        normalise: divide by the ℓ2 norm of the layer (of ``graph.layers()``), which makes layers
            comparable. A layer of zeros stays zero.
    """
    x, y = batch
    gates: dict[str, Tensor] = {}
    size: dict[str, int] = {}  # entries of one channel's map, as that consumer reads it

    def gate(name: str, z: Tensor) -> Tensor:
        size[name] = z[0, 0].numel()
        gates[name] = torch.ones(z.shape[:2]).to(z).requires_grad_()  # (batch, channels)
        return z * gates[name].view(*z.shape[:2], *[1] * (z.dim() - 2))

    entries = _zeros(model, graph)
    with torch.enable_grad(), watching_reads(model, graph, gate):
        cost = loss(model(x), y) * len(y)  # mean -> sum: each example's own gradient
        # d cost / d gate = sum over the map of dC/dz * z, for each example and channel.
        slopes = torch.autograd.grad(cost, list(gates.values()))
    total = torch.zeros(len(y), len(entries)).to(entries)  # (batch, ids)
    for name, slope in zip(gates, slopes, strict=True):
        total += _collect(graph, graph.reads[name], slope)
        entries += _collect(graph, graph.reads[name], torch.full_like(slope[0], size[name]))
    score = (total / entries.clamp(min=1)).abs().mean(0)
    return _normalised(graph, score) if normalise else score


def flops_regularised(
    model: nn.Module, graph: ChannelGraph, scores: Tensor, strength: float = 1e-3
) -> Tensor:
    r"""Any score, minus what the channel costs.

    .. math:: \Theta(z_l^{(k)}) \leftarrow \Theta(z_l^{(k)}) - \lambda\, \Theta_l^{flops}

    Source: Molchanov et al. 2017, section 2.4, equation 9, with λ = 10⁻³. Θ^flops, one number a layer,
    is defined in an appendix that could not be read; here it is the percentage of the network's
    multiply–accumulates that goes when this channel alone is removed (``macs_share`` × 100), and the
    scores are meant normalised.
    """
    if scores.shape != (len(graph.ids()),):
        raise ValueError(f"scores must have shape ({len(graph.ids())},), got {tuple(scores.shape)}")
    return scores - strength * 100 * macs_share(model, graph).to(scores)


def macs_share(model: nn.Module, graph: ChannelGraph) -> Tensor:
    """The fraction of all multiply–accumulates that goes if this channel alone is removed, in the
    layers that make it, in those that read it and in depthwise convolutions on its way."""
    saved, total = _zeros(model, graph).double().cpu(), 0
    for name, positions in graph.positions.items():
        weight = model.get_submodule(name).weight
        makes = graph.makes.get(name, graph.passes.get(name))
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
    """Uniform random numbers in [0, 1): the control. The same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(graph.ids()), generator=generator).to(next(model.parameters()).device)


def oracle(
    model: nn.Module,
    graph: ChannelGraph,
    batch: tuple[Tensor, Tensor],
    loss: Loss = F.cross_entropy,
) -> Tensor:
    r"""What every other score tries to guess: how much the loss changes when the channel is silenced.

    .. math:: |\Delta C(z_l^{(k)})| = |C(D, z_l^{(k)} = 0) - C(D)|

    Source: Molchanov et al. 2017, section 2.1, "oracle-abs", and equation 3. One evaluation an id.
    "Oracle-loss", without the absolute value, did worse in the paper.
    """
    x, y = batch
    quiet, change = copy.deepcopy(model), _zeros(model, graph)
    columns = _columns(graph)
    with torch.no_grad(), evaluating(quiet):
        before = loss(quiet(x), y)
        for k, i in enumerate(graph.ids()):
            read = {name: quiet.get_submodule(name).weight for name in columns.get(i, {})}
            kept = {name: w[:, columns[i][name]].clone() for name, w in read.items()}
            for name, w in read.items():
                w[:, columns[i][name]] = 0
            change[k] = loss(quiet(x), y) - before
            for name, w in read.items():
                w[:, columns[i][name]] = kept[name]
    return change.abs()


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation ρ of two scores, from −1 to 1 (ties share their mean rank); without
    ties Molchanov et al. 2017, equation 10."""
    if a.shape != b.shape or a.dim() != 1 or len(a) < 2:
        raise ValueError(
            f"a and b must be scores of the same ids, got shapes {tuple(a.shape)}, {tuple(b.shape)}"
        )
    return float(stats.spearmanr(a.cpu(), b.cpu()).statistic)


def _zeros(model: nn.Module, graph: ChannelGraph) -> Tensor:
    """One zero an id, of the model's type and on its device, if graph and model fit."""
    check_graph(model, graph)
    weight = next(model.parameters())
    return torch.zeros(len(graph.ids()), dtype=weight.dtype, device=weight.device)


def _collect(graph: ChannelGraph, ids: list[int], values: Tensor) -> Tensor:
    """Sum values, (…, channels), by id: (…, number of ids). Fixed ids drop out."""
    place = {i: k for k, i in enumerate(graph.ids())}
    n = len(place)
    index = torch.tensor([place.get(i, n) for i in ids], device=values.device)
    found = values.new_zeros(*values.shape[:-1], n + 1)
    return found.index_add_(-1, index, values)[..., :n]


def _per_filter(model: nn.Module, graph: ChannelGraph, size: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum of ``size`` (of a filter matrix (out, in · kernel)) over the layers that make an id."""
    total = _zeros(model, graph)
    for name, ids in graph.makes.items():
        total += _collect(graph, ids, size(model.get_submodule(name).weight.detach().flatten(1)))
    return total


def _over_activations(
    model: nn.Module, graph: ChannelGraph, x: Tensor, statistic: Callable[[Tensor], Tensor]
) -> Tensor:
    """Mean of a statistic, (batch, channels, entries) -> (channels,), over the activation functions
    that an id passes."""
    total, count = _zeros(model, graph), _zeros(model, graph)
    for ids, a in _activations(model, graph, x):
        total += _collect(graph, ids, statistic(a.reshape(*a.shape[:2], -1)))
        count += _collect(graph, ids, torch.ones_like(a[0].reshape(len(ids), -1)[:, 0]))
    for name, ids in graph.layers().items():
        if any(count[graph.ids().index(i)] == 0 for i in ids):
            raise ValueError(
                f"graph has channels without an activation function: those that {name!r} makes"
            )
    return total / count


@torch.no_grad()
def _activations(
    model: nn.Module, graph: ChannelGraph, x: Tensor
) -> Iterator[tuple[list[int], Tensor]]:
    """(ids, values) behind each activation function, in evaluation mode."""
    found: dict[str, Tensor] = {}

    class Watch(fx.Interpreter):
        def run_node(self, node: fx.Node) -> object:
            value = super().run_node(node)
            if node.name in graph.activations:
                found[node.name] = value.clone()  # a later in-place operation may overwrite it
            return value

    with evaluating(model):
        Watch(symbolic(model)).run(x)
    return [(graph.activations[name], value) for name, value in found.items()]


def _columns(graph: ChannelGraph) -> dict[int, dict[str, list[int]]]:
    """id -> consumer -> the columns of its weight that read the id."""
    found: dict[int, dict[str, list[int]]] = {}
    for name, ids in graph.reads.items():
        for column, i in enumerate(ids):
            found.setdefault(i, {}).setdefault(name, []).append(column)
    return found


def _normalised(graph: ChannelGraph, score: Tensor) -> Tensor:
    place = {i: k for k, i in enumerate(graph.ids())}
    score = score.clone()
    for ids in graph.layers().values():
        rows = [place[i] for i in ids]
        norm = score[rows].norm()
        if norm > 0:
            score[rows] /= norm
    return score
