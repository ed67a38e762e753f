r"""Weights that share few values: k-means per layer, then the centroids are trained.

``Clusters`` is plain data like a mask: parameter name -> int64 tensor of the parameter's shape, the
number of each weight's cluster, −1 where the weight is pruned. The centroids are the weights
themselves, so the model stays an ordinary model.

Source: Han, Mao & Dally 2016, section 3. One thing the paper leaves open is ours: a layer's 2^bits
codes include the zero of pruned weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Clusters = dict[str, Tensor]


def kmeans(values: Tensor, k: int, *, iterations: int = 300) -> tuple[Tensor, Tensor]:
    r"""Lloyd's k-means of numbers, started from k centroids spaced evenly from min to max.

    .. math:: \operatorname*{arg\,min}_C \sum_{i=1}^{k} \sum_{w \in c_i} |w - c_i|^2

    Source: Han et al. 2016, equation 2; the linear start is the one of section 3.2 that they found
    best. Lloyd's iteration finds a local minimum. A centroid that no number is nearest to stays
    where it is.

    Args:
        values: (n,) numbers.

    Returns:
        Centroids (k,), float64, rising; and (n,) int64, the number of each value's nearest centroid
        (of two equally near, the lower).

    Raises:
        ValueError: no values, values that are not finite, ``k`` or ``iterations`` below 1.
    """
    if values.dim() != 1 or len(values) == 0 or not values.isfinite().all():
        raise ValueError(
            f"values must be a row of finite numbers, got shape {tuple(values.shape)}"
            + (", not all of them finite" if values.numel() else "")
        )
    for argument, n in (("k", k), ("iterations", iterations)):
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"{argument} must be a whole number from 1 on, got {n!r}")
    values = values.detach().double()
    low, high = values.aminmax()
    centroids = low + (high - low) * torch.linspace(0, 1, k, dtype=torch.double)
    for _ in range(iterations):
        nearest = torch.bucketize(values, (centroids[1:] + centroids[:-1]) / 2)  # (n,)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, values)
        sizes = torch.bincount(nearest, minlength=k)
        moved = torch.where(sizes > 0, sums / sizes.clamp(min=1), centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids, torch.bucketize(values, (centroids[1:] + centroids[:-1]) / 2)


def clusters(model: nn.Module, bits: int | Mapping[str, int]) -> Clusters:
    """Group the non-zero weights of each layer by k-means into at most 2^bits − 1 clusters; the code
    that is left over is the zero. Layers do not share with each other. The model is not changed.

    Args:
        bits: for every parameter of two or more dimensions (the weights of linear and convolution
            layers), or name -> bits for the parameters named.

    Raises:
        ValueError: a name that is no parameter, bits outside 1 to 12, weights that are not finite.
    """
    parameters = dict(model.named_parameters())
    if not isinstance(bits, Mapping):
        bits = {name: bits for name, p in parameters.items() if p.dim() >= 2}
    for name, b in bits.items():
        if name not in parameters:
            raise ValueError(f"bits names {name!r}, which model does not have: {list(parameters)}")
        if not isinstance(b, int) or not 1 <= b <= 12:
            raise ValueError(f"bits of {name!r} must be a whole number from 1 to 12, got {b!r}")
    found = {}
    for name, b in bits.items():
        weight = parameters[name].detach()
        alive = weight != 0
        index = torch.full(weight.shape, -1)
        if alive.any():
            nearest = kmeans(weight[alive].cpu(), 2**b - 1)[1]
            index[alive] = nearest.unique(return_inverse=True)[1]  # without the empty ones
        found[name] = index.to(weight.device)
    return found


def apply(model: nn.Module, clusters: Clusters) -> None:
    """Set each weight to the mean of its cluster, and pruned ones to zero, once.

    Raises:
        ValueError, TypeError: clusters that do not fit the model, which is then as it was.
    """
    parameters = _check(model, clusters)
    with torch.no_grad():
        for name, index in clusters.items():
            weight, shared = parameters[name], index >= 0
            number = index[shared]  # (n,) of the n weights that are not pruned
            sums = torch.zeros(int(index.max()) + 1, dtype=torch.double, device=index.device)
            sums.index_add_(0, number, weight[shared].double())
            means = sums / torch.bincount(number, minlength=len(sums))
            weight.zero_()
            weight[shared] = means[number].to(weight.dtype)


@contextmanager
def hold(optimizer: torch.optim.Optimizer, model: nn.Module, clusters: Clusters) -> Iterator[None]:
    r"""Train centroids instead of weights, within the block: ``with hold(...): training.fit(...)``.

    Before every step the gradients of a cluster's weights are summed, and each of its weights gets
    the sum, so that all of them move as the one centroid would:

    .. math:: \frac{\partial \mathcal{L}}{\partial C_k}
              = \sum_{i,j} \frac{\partial \mathcal{L}}{\partial W_{ij}} \mathbb{1}(I_{ij} = k)

    After the step one weight a cluster is copied to the others, lest rounding part them, and pruned
    weights are zero. Parameters without clusters (biases) train as ever. A sum over a thousand
    weights is large: SGD needs a learning rate that is smaller accordingly, Adam does not mind.

    Source: Han et al. 2016, equation 3 and figure 3.

    Raises:
        ValueError, TypeError: as ``apply``; also a clustered parameter the optimizer does not train.
    """
    parameters = _check(model, clusters)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name in clusters:
        if id(parameters[name]) not in trained:
            raise ValueError(f"clusters names {name!r}, which optimizer does not train")
    apply(model, clusters)
    members = []  # a parameter, where its n shared weights are, their clusters, one of n for each
    for name, index in clusters.items():
        at = (index >= 0).nonzero(as_tuple=True)  # not flat: weights may lie in any memory format
        number = index[at]  # (n,)
        one = torch.zeros(int(index.max()) + 1, dtype=torch.long, device=index.device)
        one[number] = torch.arange(len(number), device=index.device)
        members.append((parameters[name], at, number, one))

    @torch.no_grad()
    def sum_gradients(*_: object) -> None:
        for parameter, at, number, one in members:
            if parameter.grad is None:
                continue  # no step is taken there either
            sums = parameter.grad.new_zeros(len(one)).index_add_(0, number, parameter.grad[at])
            parameter.grad.zero_()[at] = sums[number]

    @torch.no_grad()
    def copy_centroids(*_: object) -> None:
        for parameter, at, number, one in members:
            centroids = parameter[at][one]
            parameter.zero_()[at] = centroids[number]

    handles = [
        optimizer.register_step_pre_hook(sum_gradients),
        optimizer.register_step_post_hook(copy_centroids),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stack(members: Sequence[Clusters]) -> Clusters:
    """Clusters of K networks, name -> (*shape), for a ``ensemble.stack``, name -> (K, *shape); the
    members share nothing with each other."""
    if not members:
        raise ValueError("members must hold at least one network's clusters, got none")
    found = {}
    for name in members[0]:
        parts, first = [], 0
        for member in members:
            parts.append(torch.where(member[name] >= 0, member[name] + first, -1))
            first += int(member[name].max()) + 1
        found[name] = torch.stack(parts)
    return found


def _check(model: nn.Module, clusters: Clusters) -> dict[str, nn.Parameter]:
    """All of the clusters fit the model, or an error before anything is changed."""
    parameters = dict(model.named_parameters())
    for name, index in clusters.items():
        if name not in parameters:
            raise ValueError(
                f"clusters names {name!r}, which model does not have: {list(parameters)}"
            )
        if not isinstance(index, Tensor) or index.dtype != torch.int64:
            found = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f"clusters[{name!r}] must be a torch.int64 tensor, got {found}")
        if index.shape != parameters[name].shape or index.min() < -1:
            raise ValueError(
                f"clusters[{name!r}] must have shape {tuple(parameters[name].shape)} and numbers "
                f"from -1 on, got shape {tuple(index.shape)} and {int(index.min())}"
            )
    return parameters
