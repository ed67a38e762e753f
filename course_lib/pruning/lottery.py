r"""The lottery ticket: train, prune, reset the remaining weights to their start, and train again.

A dense network :math:`f(x; \theta_0)` with :math:`\theta_0 \sim \mathcal D_\theta` reaches its
lowest validation loss at step :math:`j` with test accuracy :math:`a`. The hypothesis says that
there is a mask :math:`m` for which :math:`f(x; m \odot \theta_0)`, trained alone, reaches its own
at step :math:`j' \le j` with accuracy :math:`a' \ge a`, while :math:`\|m\|_0 \ll |\theta|`.

The search for the mask goes in rounds ("iterative pruning with resetting"): train for a fixed
number of steps, remove the smallest remaining weights of each layer, and reset the others to
:math:`\theta_0`. Each half of the claim has its control: new weights under the same mask
(``reinitialise``), and the same weights under another mask with equal counts (``random_mask``).

Everything works on an ordinary network and on an ``ensemble.stack``.

Source: Frankle & Carbin 2019, "The Lottery Ticket Hypothesis", section 1, appendices B (strategy
1), C (early stopping), E (random sparsity) and G.1 (rates, validation set). Frankle et al. 2019,
"Stabilizing the Lottery Ticket Hypothesis", and 2020, "Linear Mode Connectivity and the Lottery
Ticket Hypothesis", reset the weights to a step k > 0 instead.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import ensemble, layers, seeds, training
from course_lib.data import Split
from course_lib.pruning import allocate, criteria, masks, pipeline
from course_lib.pruning.masks import Masks


class Search(NamedTuple):
    """The result of ``find_tickets``."""

    start: dict[str, Tensor]  #: the state that every round goes back to: θ_0, or θ_k
    rounds: list[pipeline.Round]  #: round 0 is the dense network


def layer_shares(
    model: nn.Module, share: float = 0.2, *, output: float | None = None
) -> dict[str, float]:
    """The fraction of its remaining weights that each layer loses in a round.

    Args:
        model: a network or a stack. Its last linear or convolution layer is the output layer.
        share: of every other layer.
        output: of the output layer; by default half of ``share``. For LeNet the paper has 0.2 and
            0.1.

    Returns:
        Parameter name -> fraction.

    Raises:
        ValueError: a fraction outside [0, 1), a model without a linear or convolution layer.

    Examples:
        >>> layer_shares(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
        {'0.weight': 0.2, '2.weight': 0.1}
    """
    output = share / 2 if output is None else output
    _check_shares({"share": share, "output": output})
    names = list(layers.weights(ensemble.template(model)))
    return dict.fromkeys(names, share) | {names[-1]: output}


def sparsities(shares: Mapping[str, float]) -> Callable[[int], dict[str, float]]:
    """Round r -> the sparsity of each layer after it, if a round takes the fraction :math:`p_l`.

    .. math:: s_l = 1 - (1 - p_l)^r

    ``allocate.per_layer`` removes exactly the rounded number of weights, so rounding errors do not
    add up over the rounds.

    Examples:
        >>> after = sparsities({"weight": 0.5})
        >>> after(1), after(2)
        ({'weight': 0.5}, {'weight': 0.75})
    """
    return lambda step: {name: 1 - (1 - share) ** step for name, share in shares.items()}


def by_shares(shares: Mapping[str, float], *, rounds: int) -> pipeline.Pruning:
    """The paper's pruning: in every round each layer loses a fraction of its remaining weights.

    The smallest weights are removed.

    Args:
        shares: parameter name -> fraction of its remaining weights, such as ``layer_shares`` gives.
        rounds: a positive integer.

    Raises:
        ValueError: a fraction outside [0, 1).
    """
    _check_shares({f"shares[{name!r}]": share for name, share in shares.items()})
    return pipeline.Pruning(
        sparsities(shares), rounds, criteria.magnitude, allocate=allocate.per_layer
    )


def find_tickets(
    model: nn.Module,
    train: Split,
    plan: training.Plan,
    pruning: pipeline.Pruning,
    *,
    test: Split | None = None,
    folder: str | Path | None = None,
) -> Search:
    """Search for tickets in place: train an untrained network, or a stack, then prune in rounds.

    Every round prunes, resets the remaining weights, and trains them under the mask. The cost is
    ``1 + rounds`` trainings; the ticket of the last round is trained too.

    Args:
        plan: of each training, dense or pruned. ``plan.first`` is the step k to whose weights every
            round goes back; 0 is the initialisation. A round trains from step k to the end, at the
            learning rates of those steps, with a new optimizer. The dense training shuffles its
            minibatches with ``plan.seed``, round r with ``plan.seed + r``. With ``plan.valid`` the
            history of each round has the loss on it, its ``early_stop``, and the weights there.
        pruning: how to prune in a round, such as ``by_shares``.
        test: if given, each round holds the accuracy on it.
        folder: as in ``pipeline.iterate``: an interrupted search continues where it was.

    Returns:
        ``Search``: the weights to which every round went back, and one ``Round`` for the dense
        network and for each round.

    Raises:
        ValueError, TypeError: as ``pipeline.iterate`` and ``training.fit``; the model stays as it
            was.
    """
    pipeline.check_rounds(model, train, plan, pruning, test=test)
    first = pipeline.next_masks(model, pruning)  # refuses now what would fail after the training
    dense = dataclasses.replace(plan, optimizer=training.make_optimizer(model, plan))
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    if plan.first:
        early = dataclasses.replace(dense, first=0, last=plan.first, valid=None)
        training.fit(model, train, early, checkpoint=_file(folder, "start"))
    elif plan.start is not None:
        model.load_state_dict(plan.start)
    start = training.snapshot(model)
    dense = dataclasses.replace(dense, start=start)  # a folder of another start is refused
    history = training.fit(model, train, dense, checkpoint=_file(folder, "dense"))
    accuracy = None if test is None else training.evaluate(model, test)
    again = dataclasses.replace(plan, start=start)
    pruned = pipeline.iterate(model, train, again, pruning, test=test, folder=folder)
    ones = {name: torch.ones_like(mask) for name, mask in first.items()}
    return Search(start, [pipeline.Round(ones, accuracy, history), *pruned])


def ticket(model: nn.Module, keep: Mapping[str, Tensor]) -> nn.Module:
    r"""A copy of the network, or stack, under a mask, for a training of its own.

    With the initial weights and a mask of ``find_tickets`` this is a ticket,
    :math:`f(x; m \odot \theta_0)`.

    Raises:
        ValueError, TypeError: as ``masks.apply``.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> alone = ticket(layer, {"weight": torch.tensor([[True, False]])})
        >>> (alone.weight == 0).tolist()
        [[False, True]]
    """
    fresh = layers.copied(model)
    masks.apply(fresh, keep)
    return fresh


def reinitialise(model: nn.Module, *, seed: int) -> nn.Module:
    r"""Control: a copy with other initial weights, :math:`\theta_0' \sim \mathcal D_\theta`.

    The weights of each layer move to random positions within the layer. Weights that start
    independent and identically distributed are equally likely in every order, so this is a draw
    from their distribution, whatever it is. Biases stay. The authors' code also draws from the
    layer's initial values, but with replacement.

    Args:
        model: an *untrained* network, or a stack; each member is shuffled by itself.

    Raises:
        ValueError: as ``layers.weights``.

    Examples:
        >>> layer = nn.Linear(2, 3)
        >>> other = reinitialise(layer, seed=0)
        >>> sorted(other.weight.flatten().tolist()) == sorted(layer.weight.flatten().tolist())
        True
    """
    fresh = layers.copied(model)
    generator = seeds.generator(seed)
    with torch.no_grad():
        for name in layers.weights(ensemble.template(model)):
            weight = fresh.get_parameter(name)
            rows = ensemble.by_member(model, {name: weight})[name]
            weight.copy_(shuffled(rows, generator).view_as(weight))
    return fresh


def random_mask(model: nn.Module, keep: Masks, *, seed: int) -> Masks:
    """Control: masks that keep as many weights of every layer, at random positions.

    Args:
        model: the network, or stack, of the masks. Each member of a stack keeps its own counts.
        keep: the masks that give the counts.

    Raises:
        ValueError, TypeError: masks that do not fit ``model``, as ``masks.apply``.

    Examples:
        >>> keep = {"weight": torch.tensor([[True, False], [True, False]])}
        >>> int(random_mask(nn.Linear(2, 2), keep, seed=0)["weight"].sum())
        2
    """
    layers.check_module(model)
    masks.check(keep, dict(model.named_parameters()), "keep")
    generator = seeds.generator(seed)
    rows = ensemble.by_member(model, keep)
    return {n: shuffled(rows[n], generator).view_as(mask) for n, mask in keep.items()}


def shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    """The entries of each of K tensors, (K, …), at random positions within it."""
    flat = rows.detach().flatten(1)  # (K, n)
    # Drawn on the CPU, so that a GPU sees the same order.
    order = torch.rand(flat.shape, generator=generator, dtype=torch.float64).argsort(1)
    return flat.gather(1, order.to(flat.device)).view(rows.shape)


def _check_shares(found: Mapping[str, float]) -> None:
    for argument, value in found.items():
        if not 0 <= value < 1:
            raise ValueError(f"{argument} must be at least 0 and below 1, got {value!r}")


def _file(folder: str | Path | None, name: str) -> Path | None:
    return None if folder is None else Path(folder) / f"{name}.pt"
