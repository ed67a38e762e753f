r"""Scores of channels by attention: gates that look at the image are trained in a finished network.

An attention module stands before every layer that reads channels. It turns the mean of each channel
into a number between 0 and 1 and multiplies the channel by it. The weights of the network stay as
they are, and only the modules train. Afterwards the modules go, and the mean of what a channel was
multiplied by is its score.

Source: Yamamoto & Maeno 2019 (PCAS). This is a reconstruction: the text of the paper could not be
read, and there is no code of the authors. Where the modules stand, their form, their training and
the plain mean as the statistic are this library's reading.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import training
from course_lib.data import Split, check_positive
from course_lib.layers import at_least_float32, check_finite, copied, fitting
from course_lib.models import seeded
from course_lib.pruning.channels import ChannelGraph, check_graph, check_used
from course_lib.pruning.tracing import check_batched, check_split
from course_lib.training import Plan

REDUCTION = 4  # channels per hidden unit of an attention module
CHUNK = 1000  # images whose attention is computed at once


def attention_means(
    model: nn.Module,
    graph: ChannelGraph,
    train: Split,
    *,
    epochs: int = 1,
    rate: float = 3e-3,
    seed: int,
) -> Tensor:
    r"""The mean attention that a channel gets over the training images.

    .. math:: a = \sigma\big(W_2 \operatorname{ReLU}(W_1 \bar z)\big), \qquad
              z_c \leftarrow a_c\, z_c, \qquad s_c = \frac{1}{N} \sum_n a_c(z_n)

    Here :math:`\bar z` holds the mean of each channel that a layer reads, over its positions. At the
    start :math:`W_2` is zero, so every attention is 1/2. Where several layers read a channel, its
    score is the mean over them.

    An attention is not an importance. A channel that is always zero, and one that the next layer
    ignores, get no gradient at all, and keep the score 1/2.

    Source: Yamamoto & Maeno 2019 (PCAS), as the module says.

    Args:
        train: images and labels, for the modules' training with cross-entropy, and for the mean.
        epochs: of the training, in evaluation mode, with Adam.
        rate: the learning rate at its start; it falls linearly to zero.
        seed: the first weights :math:`W_1`, and the order of the images.

    Returns:
        (number of ids,) scores in (0, 1), in the order of ``graph.ids()``. Higher means keep.

    Raises:
        ValueError: a graph of another model, weights that are not plain or not finite, images that
            are empty, not finite or do not fit; no epochs, or a rate that is not positive.
        TypeError: a seed that is no integer, a rate that is no number, ``train`` that is no pair of
            tensors.

    Examples:
        >>> from course_lib import models
        >>> from course_lib.pruning import channels
        >>> train = Split(torch.rand(200, 4), torch.arange(200) % 2)
        >>> net = models.mlp((4, 3, 2))
        >>> scores = attention_means(net, channels.trace(net, train.x), train, seed=0)
        >>> scores.shape, bool(((scores > 0) & (scores < 1)).all())
        (torch.Size([3]), True)
    """
    check_graph(model, graph)
    if not graph.ids():
        raise ValueError("graph must have channels that may be removed, got none")
    for name, parameter in model.named_parameters():
        check_finite(f"model's {name!r}", parameter.detach())
    train = check_split("train", model, train)
    check_positive("rate", rate)
    attended = _Attended(model, graph, seed)
    with torch.no_grad(), fitting("train", train.x):
        attended(train.x[:1])
    check_used(attended.rows, attended.seen)
    plan = Plan(
        epochs=epochs,
        optimizer=lambda net: torch.optim.Adam(net.get_submodule("gates").parameters(), lr=rate),
        seed=seed,
    )
    training.fit(attended, train, plan)
    return _means(attended, train.x)


class _Attended(nn.Module):
    """A frozen copy of a network with an attention module before each layer that reads channels."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, seed: int) -> None:
        super().__init__()
        self.model, self.graph = copied(model).requires_grad_(False), graph
        place = {i: k for k, i in enumerate(graph.ids())}
        self.seen: dict[str, Tensor] = {}  # consumer -> attention of the last images
        self.where: dict[str, Tensor] = {}  # consumer -> place of each column's id among those read
        self.rows: dict[str, list[int]] = {}  # consumer -> places of these ids in the scores
        device = next(model.parameters()).device
        for name, ids in graph.reads.items():
            own = sorted(set(ids) & place.keys())
            if own:
                at = {i: k for k, i in enumerate(own)}  # fixed ids come last, and stay as they are
                self.where[name] = torch.tensor([at.get(i, len(own)) for i in ids], device=device)
                self.rows[name] = [place[i] for i in own]
        sizes = [len(rows) for rows in self.rows.values()]
        self.gates = seeded(seed, lambda: nn.ModuleList(map(_attention, sizes))).to(device)
        for module in self.gates.modules():
            if isinstance(module, nn.Sequential):
                nn.init.zeros_(module.get_parameter("2.weight"))

        for name in graph.reads:
            self.model.get_submodule(name).register_forward_pre_hook(
                partial(self.before, name), with_kwargs=True
            )

    def forward(self, x: Tensor) -> Tensor:
        self.model.eval()  # whatever the mode of the modules that train
        return self.model(x)

    def before(self, name: str, layer: nn.Module, args: tuple, kwargs: dict) -> tuple | None:
        (z,) = (*args, *kwargs.values())  # conv(x), or conv(input=x)
        check_batched(name, layer, z)
        return ((self.gate(name, z),), {}) if name in self.rows else None

    def gate(self, name: str, z: Tensor) -> Tensor:
        """What the layer reads instead of z, (batch, columns, …)."""
        where, size = self.where[name], len(self.rows[name])
        flat = at_least_float32(z).unsqueeze(2).flatten(2).mean(2)  # (batch, columns)
        mean = flat.new_zeros(len(flat), size + 1).index_add_(1, where, flat)
        mean = mean / torch.bincount(where, minlength=size + 1).clamp(min=1)
        attention = self.gates[[*self.rows].index(name)](mean[:, :size].float())
        self.seen[name] = attention.detach()
        factor = torch.cat([attention, torch.ones_like(attention[:, :1])], 1)[:, where]
        return (z * factor.view(*z.shape[:2], *[1] * (z.dim() - 2))).to(z.dtype)


def _attention(size: int) -> nn.Sequential:
    hidden = math.ceil(size / REDUCTION)
    first, second = nn.Linear(size, hidden, bias=False), nn.Linear(hidden, size, bias=False)
    return nn.Sequential(first, nn.ReLU(), second, nn.Sigmoid())


def _means(attended: Any, x: Tensor) -> Tensor:
    """The mean attention per id over all images, and over the layers that read it."""
    n_ids = len(attended.graph.ids())
    total = torch.zeros(n_ids, device=x.device)
    readers = torch.zeros(n_ids, device=x.device)
    with torch.no_grad():
        for part in x.split(CHUNK):
            attended(part)
            for name, rows in attended.rows.items():
                total[rows] += attended.seen[name].sum(0)
    for rows in attended.rows.values():
        readers[rows] += 1
    return total / (len(x) * readers)
