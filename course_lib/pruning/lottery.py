r"""The lottery ticket: train, prune, put what is left back to where it started, and train again.

A dense network :math:`f(x; \theta_0)` with :math:`\theta_0 \sim \mathcal D_\theta` reaches its
lowest validation loss at step :math:`j` with test accuracy :math:`a`. The hypothesis says that
there is a mask :math:`m` for which :math:`f(x; m \odot \theta_0)`, trained alone, does so at step
:math:`j' \le j` with accuracy :math:`a' \ge a`, while :math:`\|m\|_0 \ll |\theta|`.

The mask is looked for in rounds ("iterative pruning with resetting"): train for a fixed number of
steps, remove the smallest of each layer's weights that are left, reset the others to
:math:`\theta_0`. Each half of the claim has its control: new weights under the same mask
(``reinitialise``), and the same weights under another mask of equal counts (``random_mask``).

Source: Frankle & Carbin 2019, "The Lottery Ticket Hypothesis", section 1, appendices B (strategy 1),
C (early stopping), E (random sparsity) and G.1 (rates, validation set), read in full text. Going
back to a step k > 0 instead: Frankle et al. 2019, "Stabilizing the Lottery Ticket Hypothesis", and
2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (abstracts read).

Everything works on an ordinary network and on an ``ensemble.stack`` of many.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import ensemble, layers, training
from course_lib.data import Split
from course_lib.pruning import allocate, criteria, masks, pipeline
from course_lib.pruning.masks import Masks


class Search(NamedTuple):
    """What ``find_tickets`` leaves behind."""

    start: dict[str, Tensor]  # the state that every round goes back to: θ_0, or θ_k
    rounds: list[pipeline.Round]  # round 0 is the dense network


def layer_shares(
    model: nn.Module, share: float = 0.2, *, output: float | None = None
) -> dict[str, float]:
    """The part of its remaining weights that each layer loses in a round.

    Args:
        model: a network, or a stack. Its last linear or convolution layer leads to the output.
        share: of every other layer.
        output: of the last layer; default half of ``share``. For LeNet the paper has 0.2 and 0.1.

    Returns:
        Parameter name -> share.

    Raises:
        ValueError: a share outside [0, 1), a model without a linear or convolution layer.
    """
    output = share / 2 if output is None else output
    _check_shares({"share": share, "output": output})
    names = list(layers.weights(ensemble.template(model)))
    return dict.fromkeys(names, share) | {names[-1]: output}


def sparsities(shares: Mapping[str, float]) -> Callable[[int], dict[str, float]]:
    r"""Round -> the fraction of each layer that is gone after it, :math:`1 - (1 - p_l)^r`.

    With ``allocate.per_layer``, exactly ``round`` of it times the layer's size: what little rounding
    does is not carried from round to round.
    """
    return lambda step: {name: 1 - (1 - share) ** step for name, share in shares.items()}


def by_shares(shares: Mapping[str, float], *, rounds: int) -> pipeline.Pruning:
    """The paper's pruning: in every round each layer loses a share of its smallest weights left.

    Args:
        shares: layer -> part of its remaining weights that a round takes, such as ``layer_shares``'s.

    Raises:
        ValueError: a share outside [0, 1).
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
    """Look for tickets: train an untrained network, or a stack, in place, then in every round
    prune, put the weights that are left back, and train them under the mask.

    The cost is ``1 + rounds`` trainings. The last round's ticket is trained too.

    Args:
        plan: of each training, dense or pruned. ``plan.first`` is the step k of the dense training
            whose weights the rounds go back to, 0 the initialisation; from there a round trains what
            is left of the epochs, at the learning rates of those steps, with a fresh optimizer. The
            minibatch order of the dense training is that of ``plan.seed``, round r has
            ``plan.seed + r``. With ``plan.valid`` each round's history holds the loss on it, its
            ``early_stop``, and the weights of that moment.
        pruning: how to prune in a round, such as ``by_shares``.
        test: if given, accuracies on it after each training.
        folder: as in ``pipeline.iterate``: an interrupted search goes on where it was.

    Returns:
        ``Search``: the weights gone back to, and a ``Round`` for the dense network and each round.

    Raises:
        ValueError, TypeError: as ``pipeline.iterate`` and ``training.fit``; the model is as it was.
    """
    pipeline.check_rounds(model, train, plan, pruning, test=test)
    first = pipeline.next_masks(model, pruning)  # refuses now what would fail after the training
    dense = dataclasses.replace(plan, optimizer=plan.optimizer(model))
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
    r"""A copy of the network, or stack, under a mask, ready to be trained alone:
    :math:`f(x; m \odot \theta)`. With the initial weights and a mask of ``find_tickets``, a ticket.

    Raises:
        ValueError, TypeError: as ``masks.apply``.
    """
    fresh = layers.copied(model)
    masks.apply(fresh, keep)
    return fresh


def reinitialise(model: nn.Module, *, seed: int) -> nn.Module:
    r"""Control: a copy with other initial weights, :math:`\theta_0' \sim \mathcal D_\theta`.

    Each layer's weights are dealt out anew to random places in it. Weights that start independent
    and alike are as likely in one order as in any other, so this is a draw from the distribution
    that they came from, whichever that was; biases stay. (The authors' ``reinitialize.py`` draws
    from the layer's initial values too, with replacement, where it is given any.)

    Args:
        model: an *untrained* network, or a stack, whose members are dealt out one by one.
    """
    fresh = layers.copied(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in layers.weights(ensemble.template(model)):
            weight = fresh.get_parameter(name)
            rows = ensemble.by_member(model, {name: weight})[name]
            weight.copy_(shuffled(rows, generator).view_as(weight))
    return fresh


def random_mask(model: nn.Module, keep: Masks, *, seed: int) -> Masks:
    """Control: masks that keep as many weights of every layer, at random places.

    Args:
        model: whose masks they are: a network, or a stack, with one count per member.
        keep: the masks to copy the counts from.

    Raises:
        ValueError, TypeError: masks that do not fit ``model``, as ``masks.apply``.
    """
    masks.check(keep, dict(model.named_parameters()), "keep")
    generator = torch.Generator().manual_seed(seed)
    rows = ensemble.by_member(model, keep)
    return {n: shuffled(rows[n], generator).view_as(mask) for n, mask in keep.items()}


def shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    """The entries of each of K tensors, (K, …), in random places within it."""
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
