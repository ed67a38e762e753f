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

Everything works on an ordinary network and on a ``training.stack`` of many.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import training
from course_lib.data import Split
from course_lib.pruning import criteria, masks, pipeline, rates
from course_lib.pruning.masks import Masks


class Search(NamedTuple):
    """What ``find`` leaves behind."""

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
    names = list(criteria.prunable(_one(model)))
    return dict.fromkeys(names, share) | {names[-1]: output}


def gone(shares: Mapping[str, float]) -> Callable[[int], dict[str, float]]:
    r"""Round -> the fraction of each layer that is gone after it, :math:`1 - (1 - p_l)^r`.

    With ``rates.per_layer``, exactly ``round`` of it times the layer's size: what little rounding
    does is not carried from round to round.
    """
    return lambda step: {name: 1 - (1 - share) ** step for name, share in shares.items()}


def find(
    model: nn.Module,
    train: Split,
    *,
    rounds: int,
    epochs: int,
    shares: Mapping[str, float] | None = None,
    rewind: int = 0,
    schedule: pipeline.Schedule = training.linear_decay,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = training.sgd,
    batch_size: int = 100,
    seed: int = 0,
    test: Split | None = None,
    valid: Split | None = None,
    every: int = 100,
    folder: str | Path | None = None,
) -> Search:
    """Look for tickets: train an untrained network, or a stack, in place, then in every round
    prune, put the weights that are left back, and train them under the mask.

    The cost is ``1 + rounds`` trainings. The last round's ticket is trained too.

    Args:
        epochs, schedule, optimizer, batch_size: of each training, dense or pruned.
        shares: layer -> part of its remaining weights that a round takes; default ``layer_shares``'s.
        rewind: the step k of the dense training whose weights the rounds go back to; 0 is the
            initialisation. From there a round trains what is left of the ``epochs``, at the
            learning rates of those steps. (The optimizer begins afresh.)
        seed: the minibatch order of the dense training; round r has that of ``seed + r``.
        test: if given, accuracies on it after each training.
        valid, every: if given, each round's history holds the loss on it after every ``every``
            steps, its ``early_stop``, and the weights of that moment.
        folder: as in ``pipeline.iterate``: an interrupted search goes on where it was.

    Returns:
        ``Search``: the weights gone back to, and a ``Round`` for the dense network and each round.

    Raises:
        ValueError: as ``pipeline.iterate`` and ``training.fit``; ``shares`` of other layers than
            the model's, or a ``rewind`` that is no step of the training.
    """
    shares = layer_shares(model) if shares is None else shares
    names = list(criteria.prunable(_one(model)))
    if list(shares) != names:
        raise ValueError(f"shares must name the layers {names}, got {list(shares)}")
    _check_shares({f"shares[{name!r}]": share for name, share in shares.items()})
    pipeline.checked_sparsities(gone(shares), rounds)
    ones = {n: torch.ones_like(model.get_parameter(n), dtype=torch.bool) for n in shares}
    steps = epochs * -(-len(train.y) // batch_size)
    if not 0 <= rewind < steps:
        raise ValueError(f"rewind must be a step from 0 to {steps - 1}, got {rewind!r}")
    how = {"epochs": epochs, "schedule": schedule, "batch_size": batch_size, "seed": seed}
    how |= {"optimizer": optimizer(model)}
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    if rewind:
        training.fit(model, train, last=rewind, checkpoint=_file(folder, "start"), **how)
    start = pipeline.snapshot(model)
    history = training.fit(
        model,
        train,
        first=rewind,
        valid=valid,
        every=every,
        checkpoint=_file(folder, "dense"),
        **how,
    )
    accuracy = None if test is None else training.evaluate(model, test)
    pruned = pipeline.iterate(
        model,
        train,
        score=criteria.magnitude,
        schedule=gone(shares),
        rounds=rounds,
        retrain=pipeline.Retrain(epochs, schedule, start, rewind),
        allocate=rates.per_layer,
        optimizer=optimizer,
        batch_size=batch_size,
        seed=seed,
        test=test,
        valid=valid,
        every=every,
        folder=folder,
    )
    return Search(start, [pipeline.Round(ones, accuracy, history), *pruned])


def ticket(model: nn.Module, keep: Mapping[str, Tensor]) -> nn.Module:
    r"""A copy of the network, or stack, under a mask, ready to be trained alone:
    :math:`f(x; m \odot \theta)`. With the initial weights and a mask of ``find``, a ticket.

    Raises:
        ValueError, TypeError: as ``masks.apply``.
    """
    fresh = copy.deepcopy(model)
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
    fresh = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in criteria.prunable(_one(model)):
            weight = fresh.get_parameter(name)
            weight.copy_(_shuffled(weight, isinstance(model, training.Stack), generator))
    return fresh


def random_mask(keep: Masks, *, seed: int, stacked: bool = False) -> Masks:
    """Control: masks that keep as many weights of every layer, at random places.

    Args:
        keep: the masks to copy the counts from.
        stacked: whether they are those of a stack, with one count a member.
    """
    generator = torch.Generator().manual_seed(seed)
    return {name: _shuffled(mask, stacked, generator) for name, mask in keep.items()}


def _shuffled(x: Tensor, stacked: bool, generator: torch.Generator) -> Tensor:
    """The entries of x in random places; of a stack's x (K, ...), each member within itself."""
    rows = x.detach().flatten(1) if stacked else x.detach().reshape(1, -1)  # (K, n) or (1, n)
    # Drawn on the CPU, so that a GPU sees the same order.
    order = torch.rand(rows.shape, generator=generator, dtype=torch.float64).argsort(1)
    return rows.gather(1, order.to(x.device)).view(x.shape)


def _one(model: nn.Module) -> nn.Module:
    """A network, to ask for its layers: that of a stack's members."""
    return model.template[0] if isinstance(model, training.Stack) else model


def _check_shares(found: Mapping[str, float]) -> None:
    for argument, value in found.items():
        if not 0 <= value < 1:
            raise ValueError(f"{argument} must be at least 0 and below 1, got {value!r}")


def _file(folder: str | Path | None, name: str) -> Path | None:
    return None if folder is None else Path(folder) / f"{name}.pt"
