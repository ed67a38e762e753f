"""What the runs with learnt noise on MNIST share."""

import itertools

import torch
from torch import nn

from course_lib import data, training
from course_lib.pruning import bayesian, masks

BATCH, RAMP = 200, 0.3  # the KL term has its whole weight after this part of the epochs


def adam(model: nn.Module, *, rate: float, noise_rate: float) -> torch.optim.Optimizer:
    """Adam, faster for what is learnt of the noise than for weights and biases."""
    own, noise = [], []
    for name, p in model.named_parameters():
        (own if name.endswith(("weight", "bias")) else noise).append(p)
    groups = [{"params": own}] + [{"params": noise, "lr": noise_rate}] * bool(noise)
    return torch.optim.Adam(groups, lr=rate, fused=True)


def learn(net: nn.Module, train: data.Split, plan: training.Plan) -> nn.Module:
    """The network with noise, trained in place, with a KL term that rises to its whole weight."""
    optimizer, n = plan.optimizer(net), len(train.y)
    rise = bayesian.ramp(round(RAMP * plan.epochs * -(-n // plan.batch_size)))
    with bayesian.charge(optimizer, net, n=n, weight=rise):
        training.fit(net, train, plan, optimizer=optimizer)
    return net


def units(keep: masks.Masks) -> list[int]:
    """The inputs that each layer still reads."""
    return [int(mask.any(0).sum()) for mask in keep.values()]


def fewer(sizes: tuple[int, ...], left: list[int]) -> float:
    """How many times fewer multiplications a dense network needs with so many inputs per layer."""

    def multiplications(widths: tuple[int, ...]) -> int:
        return sum(a * b for a, b in itertools.pairwise(widths))

    return round(multiplications(sizes) / multiplications((*left, sizes[-1])), 1)
