r"""Widths and bits together: how many channels each layer keeps, and how many bits its weights take.

A *space* has one gene per choice, such as ``{"fc1 width": [25, 50], "fc1 bits": [2, 4, 8], …}``. A
*candidate* is a tuple with one option per gene, in the same order. ``built`` makes its network.

The parts follow APQ. One network is trained so that its narrow versions work, too (``sandwich``). A
``predictor`` learns accuracies from some candidates in full precision, and then from few that are
rounded. ``evolve`` searches below a budget of bytes, with any score. In a small network
``every_accuracy`` measures all candidates, so that the best one is known.

Source: Wang et al. 2020 (APQ), whose networks also differ in depth and in the size of their kernels.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import ensemble, layers, models, parametrized, seeds, training
from course_lib.compression import distillation, quantization
from course_lib.data import Split, check_counts, check_fraction, check_integer, check_real
from course_lib.layers import called_with, chained, check_finite, fitting
from course_lib.pruning import channels
from course_lib.pruning.channels import ChannelGraph, check_graph
from course_lib.pruning.tracing import check_split
from course_lib.search.widths import tail
from course_lib.training import Plan

Space = Mapping[str, Sequence[int]]  # gene -> options, ascending
Candidate = tuple[int, ...]  # one option per gene

BITS = 2, 16  # of a weight, the fewest and the most
HIDDEN = 64  # units of a predictor
STEPS = 200  # of its training
POPULATION = 20  # children per generation of a search
PARENTS = 5  # the best so far, of which they are made
MUTATE = 0.1  # the probability with which a gene of a copy is drawn anew
TRIES = 100  # children that bring nothing new, until a search draws a random candidate


class Best(NamedTuple):
    """The best candidate that a search has tried."""

    candidate: Candidate  #: of equal scores, the first
    value: float  #: its score
    curve: list[float]  #: the best score after each evaluation
    visited: dict[Candidate, float]  #: all that were tried, in this order, with their scores


def space(
    model: nn.Module, graph: ChannelGraph, *, shares: Sequence[float], bits: Sequence[int]
) -> dict[str, list[int]]:
    """The genes of a network: a width for each layer of ``graph.layers()``, bits for each weight.

    Args:
        shares: of a layer's channels, ascending, in (0, 1]. Widths are rounded; none is 0 or there
            twice.
        bits: bits per weight, ascending, from 2 to 16. With one bit, a grid that is symmetric around
            zero has no other point.

    Raises:
        ValueError: as the arguments say; a graph of another network.

    Examples:
        >>> model = models.mlp((4, 10, 2))
        >>> space(model, channels.trace(model, torch.zeros(1, 4)), shares=[0.5, 1], bits=[2, 8])
        {'fc1 width': [5, 10], 'fc1 bits': [2, 8], 'fc2 bits': [2, 8]}
    """
    check_graph(model, graph)
    for argument, options in (("shares", shares), ("bits", bits)):
        _check_options(argument, options)
    for share in shares:
        check_fraction("shares", share)
    for n in bits:
        check_integer("bits", n, *BITS)
    for argument, options in (("shares", shares), ("bits", bits)):
        if list(options) != sorted(set(options)):
            raise ValueError(f"{argument} must ascend, got {list(options)}")
    found = {}
    for name in _weighted(model, graph):
        if name in graph.layers():
            n = len(graph.layers()[name])
            found[f"{name} width"] = sorted({max(1, round(share * n)) for share in shares})
        found[f"{name} bits"] = list(bits)
    return found


def every(space: Space) -> list[Candidate]:
    """All candidates of a space. The options of the last gene change fastest.

    Examples:
        >>> every({"fc1 width": [5, 10], "fc1 bits": [2, 8]})
        [(5, 2), (5, 8), (10, 2), (10, 8)]
    """
    _check_space(space)
    return list(itertools.product(*space.values()))


def built(
    model: nn.Module, graph: ChannelGraph, space: Space, candidate: Sequence[int]
) -> nn.Module:
    """A candidate's network: each layer keeps its first channels, then rounds what is left of it.

    A layer without a width keeps all channels, and one without bits stays in full precision.

    Raises:
        ValueError: as ``every_accuracy``; a candidate that is not of the space.

    Examples:
        >>> model = models.mlp((4, 10, 2))
        >>> genes = {"fc1 width": [5, 10], "fc1 bits": [2, 8]}
        >>> graph = channels.trace(model, torch.zeros(1, 4))
        >>> net = built(model, graph, genes, (5, 2))
        >>> net.fc1.weight.shape, len((net.fc1.weight / net.fc1.weight.abs().amax(1, True)).unique())
        (torch.Size([5, 4]), 3)
    """
    widths, bits = _genes(model, graph, space)
    chosen = dict(zip(space, _checked(space, candidate), strict=True))
    kept = {name: chosen[gene] for name, gene in widths.items()}
    narrow = channels.remove(model, graph, tail(graph, kept))
    maps = {}
    for name, gene in bits.items():
        maps[name] = parametrized.Map(_rounding(chosen[gene]), narrow.get_submodule(name))
    return parametrized.folded(parametrized.attach(narrow, maps))


def stored_bytes(
    model: nn.Module, graph: ChannelGraph, space: Space, candidates: Sequence[Sequence[int]]
) -> Tensor:
    """The bytes of candidates, as ``quantization.stored_bytes`` counts them, without making them.

    A weight with bits has one float32 scale per output channel. All else counts as it is.

    Returns:
        (candidates,) int64.

    Raises:
        ValueError: as ``built``.

    Examples:
        >>> model = models.mlp((4, 10, 2))
        >>> genes = {"fc1 width": [5, 10], "fc1 bits": [2, 8]}
        >>> graph = channels.trace(model, torch.zeros(1, 4))
        >>> stored_bytes(model, graph, genes, [(5, 2)]).item()  # 5 + 20 + 20, 40 + 8
        93
    """
    widths, bits = _genes(model, graph, space)
    rows = [_checked(space, candidate) for candidate in candidates]
    columns = torch.tensor(rows, dtype=torch.int64).view(-1, len(space)).unbind(1)
    chosen = dict(zip(space, columns, strict=True))

    def alive(ids: list[int]) -> Any:
        """How many of these channels each candidate keeps."""
        total: Any = len(ids)
        for name, own in graph.layers().items():
            if name in widths:  # how many places the first n of its channels have
                places = torch.tensor([0, *(ids.count(i) for i in own)]).cumsum(0)
                total = total - places[-1] + places[chosen[widths[name]]]
        return total

    rest = model.state_dict()
    total = torch.zeros(len(rows), dtype=torch.int64)
    for name, made in {**graph.passes, **graph.makes}.items():
        layer, n_made = model.get_submodule(name), alive(made)
        for leaf, tensor in layer.state_dict().items():
            del rest[f"{name}.{leaf}"]
            n: Any = tensor.numel()
            if tensor.dim() > 0:
                n = n // len(made) * n_made
            if leaf == "weight" and name in graph.reads:
                n = n // len(graph.reads[name]) * alive(graph.reads[name])
            if leaf == "weight" and name in bits:
                total += -(-n * chosen[bits[name]] // 8) + 4 * n_made
            else:
                total += n * tensor.element_size()
    return total + sum(tensor.nbytes for tensor in rest.values())


def every_accuracy(model: nn.Module, space: Space, valid: Split) -> Tensor:
    """The accuracy of all candidates of a chain of linear layers, in the order of ``every``.

    Networks that begin alike share their first layers, so this is much faster than building them.

    Args:
        model: an ``nn.Sequential`` of ``Flatten``, then ``Linear`` and ``ReLU`` in turn.
        space: of this model, with bits for every layer and a width for all layers but the last.
        valid: images and labels. Choose with held-out training images, not with test images.

    Returns:
        (candidates,) in percent.

    Raises:
        ValueError: another network; genes that are not ``"<layer> width"`` or ``"<layer> bits"``;
            options that do not ascend, widths beyond the layer's, bits outside 2 to 16; images that
            are empty, not finite or do not fit.
        TypeError: a model that is no ``nn.Sequential``.

    Examples:
        >>> valid = Split(torch.rand(20, 4), torch.arange(20) % 2)
        >>> genes = {"fc1 width": [5, 10], "fc1 bits": [2, 8], "fc2 bits": [2, 8]}
        >>> every_accuracy(models.mlp((4, 10, 2)), genes, valid).shape
        torch.Size([8])
    """
    linear = _chain(model)
    _check_weights(model)
    valid = check_split("valid", model, valid)
    with torch.no_grad(), fitting("valid", valid.x):
        model(valid.x[:1])
    graph = channels.trace(model, valid.x[:1])
    widths, bits = _genes(model, graph, space)
    if widths.keys() != {*linear[:-1]} or bits.keys() != {*linear}:
        raise ValueError(
            f"space must have bits for {linear} and a width for all but the last, got {[*space]}"
        )

    def measured(level: int, h: Tensor) -> Tensor:
        """Inputs of a layer (m, channels, n) -> (m, its bits, its widths, bits of the next, …)."""
        name = linear[level]
        layer: Any = model.get_submodule(name)
        options = space[bits[name]]
        rounded = torch.cat([_rounding(b)(layer.weight[:, : h.shape[1]]) for b in options])
        z = (rounded @ h).unflatten(1, (len(options), -1))  # (m, bits, channels, n)
        z = z if layer.bias is None else z + layer.bias[:, None]
        if level == len(linear) - 1:
            right = z.max(2).indices == valid.y  # (in this layout, max is five times as fast)
            return 100 * right.sum(2) / len(valid.y)  # as training.evaluate divides
        z = z.relu().flatten(0, 1)
        of_widths = [measured(level + 1, z[:, :n]) for n in space[widths[name]]]
        return torch.stack(of_widths, 1).unflatten(0, (len(h), len(options)))

    with torch.no_grad():
        table = measured(0, valid.x.flatten(1).t()[None]).squeeze(0)
    order = [gene for name in linear for gene in (bits[name], widths.get(name)) if gene]
    return table.permute([order.index(gene) for gene in space]).flatten()


def sandwich(
    model: nn.Module, graph: ChannelGraph, space: Space, train: Split, *, seed: int
) -> training.Loss:
    r"""The loss that trains all widths of a network at once, for ``training.Plan``.

    .. math:: \tfrac13 \big(\mathrm{CE}(y, z) + \mathrm{KL}(z \,\|\, z_{min}) +
              \mathrm{KL}(z \,\|\, z_{random})\big)

    Here z are the logits of the whole network, which the narrowest one and one of random widths
    imitate. Each step draws other widths, the same for all members of a stack.

    Source: Yu & Huang 2019 for training the widest, the narrowest and random widths in every step,
    with the widest as the teacher. They sum the losses; here the mean keeps the learning rate's
    meaning.

    Args:
        model: the network that trains, or a stack of such networks, without batch norm.
        graph: of the network.
        space: its genes; only widths are used.
        train: the images that the plan trains on.
        seed: the random widths.

    Returns:
        A function of logits and positions. A new training needs a new one.

    Raises:
        ValueError: as ``built``; no widths, or a network with batch norm, whose statistics differ
            from width to width.

    Examples:
        >>> train = Split(torch.rand(20, 4), torch.arange(20) % 2)
        >>> model = models.mlp((4, 10, 2))
        >>> graph = channels.trace(model, train.x)
        >>> loss = sandwich(model, graph, {"fc1 width": [5, 10]}, train, seed=0)
        >>> len(training.fit(model, train, epochs=2, loss=loss).loss)
        2
    """
    widths, _ = _genes(ensemble.template(model), graph, space)
    if not widths or any(isinstance(m, training.BATCH_NORM) for m in model.modules()):
        raise ValueError(
            "model must have widths in space and no batch norm, got widths of "
            f"{[*widths]} for {type(ensemble.template(model)).__name__}"
        )
    _check_weights(model)
    train = check_split("train", model, train)
    generator = seeds.generator(seed)

    def narrow(x: Tensor, kept: Mapping[str, int]) -> Tensor:
        dead, weights = tail(graph, kept), {}
        for name, ids in graph.reads.items():
            weight = model.get_parameter(f"{name}.weight")  # (…, out, in, positions)
            shape = (
                -1,
                *[1] * (ensemble.template(model).get_parameter(f"{name}.weight").dim() - 2),
            )
            alive = torch.tensor([i not in dead for i in ids], device=weight.device)
            weights[f"{name}.weight"] = weight * alive.view(shape)
        return called_with(model, weights, x)

    def loss(logits: Tensor, positions: Tensor) -> Tensor:
        x, y = train.x[positions], train.y[positions]
        least = {name: space[gene][0] for name, gene in widths.items()}
        drawn = {name: _drawn(space[gene], generator) for name, gene in widths.items()}
        total = training.cross_entropy(logits, y)
        for kept in (least, drawn):
            total = total + distillation.loss(narrow(x, kept), logits, None, temperature=1, alpha=0)
        return total / 3

    return loss


def encode(space: Space, candidates: Sequence[Sequence[int | None]]) -> Tensor:
    """Candidates as features of a predictor: a 1 for each option that they have, and 0 otherwise.

    An option None leaves a gene out, with zeros only. That is how a network in full precision says
    that it has no bits.

    Returns:
        (candidates, options of all genes) float32.

    Raises:
        ValueError: a space whose options do not ascend, a candidate that is not of the space.

    Examples:
        >>> encode({"fc1 width": [5, 10], "fc1 bits": [2, 8]}, [(10, 2), (5, None)])
        tensor([[0., 1., 1., 0.],
                [1., 0., 0., 0.]])
    """
    _check_space(space)
    rows = [_checked(space, candidate, missing=True) for candidate in candidates]
    return torch.tensor(
        [
            [
                float(option == own)
                for own, options in zip(row, space.values())
                for option in options
            ]
            for row in rows
        ]
    ).view(len(rows), -1)


def predictor(
    features: Tensor, accuracy: Tensor, *, start: nn.Module | None = None, seed: int
) -> nn.Sequential:
    """A small network that predicts the accuracy of candidates, trained on some of them.

    It has one hidden layer and learns with Adam to have a small squared error. Weights of options
    that no candidate of the training has are zero. So a predictor that has seen no bits says the
    same whatever the bits are, and continues from there when it is transferred.

    Source: Wang et al. 2020 (APQ) for the transfer. Their predictor has three layers.

    Args:
        features: (candidates, options), of ``encode``.
        accuracy: (candidates,) in percent.
        start: a predictor to continue from, such as one for full precision. It does not change.
        seed: the first weights, and the order of the candidates.

    Returns:
        A network: features -> (candidates, 1) accuracies.

    Raises:
        ValueError: fewer than two candidates, other shapes, numbers that are not finite, or equal
            accuracies only: then there is nothing to learn.
        TypeError: a seed that is no integer.

    Examples:
        >>> genes = {"fc1 width": [5, 10], "fc1 bits": [2, 8]}
        >>> x = encode(genes, every(genes))
        >>> net = predictor(x, torch.tensor([50.0, 90.0, 60.0, 95.0]), seed=0)
        >>> net(x).flatten().argsort().tolist()
        [0, 2, 1, 3]
    """
    mean, scale = _check_pairs(features, accuracy)
    if start is None:
        net: Any = models.mlp((features.shape[1], HIDDEN, 1), seed=seed)
        with torch.no_grad():
            net.get_parameter("fc1.weight")[:, ~features.any(0)] = 0
    else:
        _check_predictor(start, features.shape[1])
        net = layers.copied(start)
        _rescale(net, 1 / scale, -mean / scale)
    target = (accuracy.float() - mean) / scale
    training.fit(
        net,
        Split(features, torch.zeros(len(features), dtype=torch.int64)),
        Plan(
            epochs=STEPS,
            batch_size=len(features),
            loss=lambda found, at: F.mse_loss(found[..., 0], target[at]),
            optimizer=lambda net: torch.optim.Adam(net.parameters(), lr=0.01),
            seed=seed,
        ),
    )
    _rescale(net, scale, mean)
    return net.eval()


def random_candidates(
    space: Space, n: int, *, cost: Callable[[Candidate], float], budget: float, seed: int
) -> list[Candidate]:
    """Different candidates within a budget, drawn at random: a control, and the start of ``evolve``.

    Args:
        n: how many. There are fewer if the budget allows fewer. Where 200 draws in a row bring nothing
            new, the next one in the order of ``every`` is taken.
        cost: candidate -> its cost, such as its bytes. A larger option must not cost less.
        budget: the largest cost.

    Raises:
        ValueError: options that do not ascend; a count below 1; a budget below the cost of the
            candidate with the first option of every gene. The message says what that one costs.

    Examples:
        >>> genes = {"fc1 width": [5, 10], "fc1 bits": [2, 8]}
        >>> sorted(random_candidates(genes, 3, cost=sum, budget=13, seed=0))
        [(5, 2), (5, 8), (10, 2)]
    """
    check_counts(n=n)
    draw = _Draw(space, cost, budget, seed)
    found: dict[Candidate, None] = {}
    while len(found) < n and (new := draw.new(found, draw.random)):
        found[new] = None
    return list(found)


def evolve(
    space: Space,
    score: Callable[[Candidate], float],
    *,
    cost: Callable[[Candidate], float],
    budget: float,
    evaluations: int,
    seed: int,
) -> Best:
    """Evolutionary search: children of the best candidates so far, within a budget.

    It begins with 20 random candidates. The best five of all that were tried are the parents of the
    next 20. Half of these are copies of a parent of which every gene is drawn anew with probability
    0.1. The other half take each gene from one of two parents. A child is
    tried if it is within the budget and was not tried before. If 100 children in a row are not, a
    random candidate is tried instead, or the next one in the order of ``every`` if that fails as
    often.

    Source: Wang et al. 2020 (APQ).

    Args:
        score: candidate -> number, higher is better: a measured accuracy, or a predicted one.
        cost, budget: as in ``random_candidates``.
        evaluations: how many candidates are tried, or all within the budget if there are fewer.

    Raises:
        ValueError: as ``random_candidates``; a score that is not finite.
        TypeError: a score that is no number.

    Examples:
        >>> genes = {"fc1 width": [5, 10], "fc1 bits": [2, 8], "fc2 bits": [2, 8]}
        >>> evolve(genes, sum, cost=sum, budget=20, evaluations=6, seed=0).candidate
        (10, 8, 2)
    """
    check_counts(evaluations=evaluations)
    draw = _Draw(space, cost, budget, seed)
    visited: dict[Candidate, float] = {}
    curve: list[float] = []
    best: list[Candidate] = []
    makers = (lambda: draw.mutated(best, MUTATE), lambda: draw.crossed(best))
    while len(visited) < evaluations:
        makes = [draw.random] if not best else makers
        for make, _ in zip(
            itertools.cycle(makes), range(min(POPULATION, evaluations - len(visited)))
        ):
            new = draw.new(visited, make)
            if new is None:
                evaluations = len(visited)
                break
            visited[new] = _scored(score, new)
            curve.append(max([visited[new], *curve[-1:]]))
        best = heapq.nlargest(PARENTS, visited, key=visited.__getitem__)
    return Best(best[0], visited[best[0]], curve, visited)


class _Draw:
    """Random candidates within a budget, and children of others."""

    def __init__(
        self, space: Space, cost: Callable[[Candidate], float], budget: float, seed: int
    ) -> None:
        _check_space(space)
        self.options, self.cost, self.budget = list(space.values()), cost, budget
        self.generator = seeds.generator(seed)
        check_real("budget", budget)
        cheapest = tuple(options[0] for options in self.options)
        if not cost(cheapest) <= budget:  # also NaN
            raise ValueError(
                f"budget must be at least {cost(cheapest)}, the cost of {cheapest}, got {budget!r}"
            )
        self.others: Iterator[Candidate] = itertools.product(*self.options)

    def new(
        self, known: Mapping[Candidate, Any], make: Callable[[], Candidate]
    ) -> Candidate | None:
        """One within the budget that is not known; None if there is none left."""
        for maker in (make, self.random):
            for _ in range(TRIES):
                candidate = maker()
                if candidate not in known and self.cost(candidate) <= self.budget:
                    return candidate
        left = (c for c in self.others if c not in known and self.cost(c) <= self.budget)
        return next(left, None)

    def random(self) -> Candidate:
        return tuple(_drawn(options, self.generator) for options in self.options)

    def mutated(self, parents: Sequence[Candidate], rate: float) -> Candidate:
        changes = (torch.rand(len(self.options), generator=self.generator) < rate).tolist()
        genes = zip(_drawn(parents, self.generator), self.options, changes, strict=True)
        return tuple(
            _drawn(options, self.generator) if change else own for own, options, change in genes
        )

    def crossed(self, parents: Sequence[Candidate]) -> Candidate:
        first, second = (_drawn(parents, self.generator) for _ in range(2))
        sides = (torch.rand(len(self.options), generator=self.generator) < 0.5).tolist()
        return tuple(a if side else b for a, b, side in zip(first, second, sides, strict=True))


def _drawn(options: Sequence, generator: torch.Generator) -> Any:
    return options[int(torch.randint(len(options), (), generator=generator))]


def _scored(score: Callable[[Candidate], float], candidate: Candidate) -> float:
    return check_real(f"score of {candidate}", score(candidate))


def _rounding(bits: int) -> Callable[[Tensor], Tensor]:
    return lambda weight: quantization.on_grid(weight, bits)


def _rescale(net: nn.Module, factor: float, offset: float) -> None:
    """Let a predictor say ``factor`` times what it says, plus ``offset``."""
    last: Any = [*net.children()][-1]
    with torch.no_grad():
        last.weight.mul_(factor)
        last.bias.mul_(factor).add_(offset)


def _chain(model: nn.Module) -> list[str]:
    """The names of the linear layers of a plain chain."""
    chain = [(name, layer) for name, layer in chained(model) if type(layer) is not nn.Flatten]
    kinds = [type(layer) for _, layer in chain]
    if kinds != ([nn.Linear, nn.ReLU] * len(kinds))[: len(kinds)] or not len(kinds) % 2:
        raise ValueError(
            "model must have Linear and ReLU layers in turn, Linear first and last, got "
            f"{[kind.__name__ for kind in kinds]}"
        )
    return [name for name, layer in chain if type(layer) is nn.Linear]


def _weighted(model: nn.Module, graph: ChannelGraph) -> list[str]:
    """The layers whose weights can be rounded, in the order of the network."""
    known = {**graph.passes, **graph.makes}
    return [name for name in layers.weighted(model) if name in known]


# ---- what is refused


def _genes(
    model: nn.Module, graph: ChannelGraph, space: Space
) -> tuple[dict[str, str], dict[str, str]]:
    """Layer -> its gene for the width, and layer -> its gene for the bits, checked."""
    check_graph(model, graph)
    _check_space(space)
    found: dict[str, dict[str, str]] = {"width": {}, "bits": {}}
    own = {"width": graph.layers(), "bits": _weighted(model, graph)}
    for gene, options in space.items():
        name, _, what = gene.rpartition(" ")
        if what not in found or name not in own[what]:
            raise ValueError(
                "space must have genes '<layer> width' for "
                f"{[*own['width']]} and '<layer> bits' for {own['bits']}, got {gene!r}"
            )
        for option in options:
            if what == "bits":
                check_integer(f"space[{gene!r}]", option, *BITS)
            else:
                tail(graph, {name: option})
        found[what][name] = gene
    return found["width"], found["bits"]


def _check_weights(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        check_finite(f"model's {name!r}", parameter)


def _check_options(argument: str, options: Sequence) -> None:
    if isinstance(options, str) or not isinstance(options, Sequence):
        raise TypeError(f"{argument} must be a sequence of options, got {options!r}")
    if not options:
        raise ValueError(f"{argument} must have at least one option, got none")


def _check_space(space: Space) -> None:
    if not isinstance(space, Mapping):
        raise TypeError(f"space must be a mapping, gene -> options, got {type(space).__name__}")
    if not space:
        raise ValueError("space must have at least one gene, got none")
    for gene, options in space.items():
        _check_options(f"space[{gene!r}]", options)
        whole = all(type(n) is int for n in options)
        if not whole or list(options) != sorted(set(options)):
            raise ValueError(f"space[{gene!r}] must be ascending integers, got {list(options)}")


def _checked(space: Space, candidate: Sequence[Any], *, missing: bool = False) -> Candidate:
    if len(candidate) != len(space):
        raise ValueError(f"candidate must have {len(space)} options, one per gene, got {candidate}")
    for (gene, options), own in zip(space.items(), candidate, strict=True):
        if own not in options and not (missing and own is None):
            raise ValueError(f"candidate must have one of {[*options]} as {gene!r}, got {own!r}")
    return tuple(candidate)


def _check_predictor(net: nn.Module, options: int) -> None:
    linear: list[Any] = [layer for layer in net.children() if isinstance(layer, nn.Linear)]
    ends = linear and [*net.children()][-1] is linear[-1] and linear[-1].out_features == 1
    if not ends or linear[0].in_features != options:
        raise ValueError(f"start must be a predictor for {options} options, got {net!r}")


def _check_pairs(features: Tensor, accuracy: Tensor) -> tuple[float, float]:
    """The mean and the spread of the accuracies."""
    if features.dim() != 2 or accuracy.shape != features.shape[:1] or len(features) < 2:
        raise ValueError(
            "features and accuracy must be (n, options) and (n,) for n of at least 2 candidates, got "
            f"{tuple(features.shape)} and {tuple(accuracy.shape)}"
        )
    check_finite("features", features)
    check_finite("accuracy", accuracy)
    scale, mean = torch.std_mean(accuracy.double())
    if not scale > 0:
        raise ValueError(f"accuracy must differ between candidates, got {mean.item():g} for all")
    return mean.item(), scale.item()
