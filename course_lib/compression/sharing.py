r"""Weights that share few values: k-means per layer, then training of the centroids.

``Clusters`` is plain data like a mask: parameter name -> int64 tensor of the parameter's shape. It
holds the number of each weight's cluster, and −1 where the weight is pruned. The centroids are the
weights themselves, so the model stays an ordinary model.

One of the 2^bits codes of a layer is the zero of its pruned weights, so 2^bits − 1 are left for
clusters.

Source: Han, Mao & Dally 2016, section 3.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from course_lib import ensemble, layers
from course_lib.data import check_counts, check_integer
from course_lib.handles import Handle, check_trains, run_closure

Clusters = dict[str, Tensor]

# torch's optimizers whose step at one weight depends on other weights, or that want sparse gradients.
_OTHERS = tuple(
    getattr(torch.optim, name)
    for name in ("LBFGS", "Adafactor", "Muon", "SparseAdam")
    if hasattr(torch.optim, name)
)


def kmeans(values: Tensor, k: int, *, iterations: int = 300) -> tuple[Tensor, Tensor]:
    r"""Group numbers by k-means, starting from k centroids spaced evenly from minimum to maximum.

    .. math:: \operatorname*{arg\,min}_C \sum_{i=1}^{k} \sum_{w \in c_i} |w - c_i|^2

    Lloyd's iteration finds a local minimum. A centroid stays where it is if no number is nearest to
    it.

    Source: Han et al. 2016, equation 2; the linear start of section 3.2, which they found best.

    Args:
        values: (n,) numbers.

    Returns:
        The centroids, (k,) float64 in ascending order, and the index of each value's nearest
        centroid, (n,) int64. If two are equally near, it is the lower one.

    Raises:
        ValueError: no values; values that are not real and finite; ``k`` or ``iterations`` that is
            not a positive integer.

    Examples:
        >>> centroids, nearest = kmeans(torch.tensor([0.0, 0.25, 4.0, 5.0]), k=2)
        >>> centroids.tolist(), nearest.tolist()
        ([0.125, 4.5], [0, 0, 1, 1])
    """
    if values.dim() != 1 or len(values) == 0 or values.is_complex():
        raise ValueError(
            f"values must be a row of real numbers, at least one, got {values.dtype} of shape "
            f"{tuple(values.shape)}"
        )
    check_counts(k=k, iterations=iterations)
    layers.check_finite("values", values)
    values = values.detach().double()
    low, high = values.aminmax()
    steps = torch.linspace(0, 1, k, dtype=torch.double, device=values.device)
    centroids = low + (high - low) * steps
    ascending = values.sort()[0]  # each cluster is a run of these
    for _ in range(iterations):
        ends = torch.searchsorted(ascending, (centroids[1:] + centroids[:-1]) / 2, right=True)
        parts = ascending.tensor_split(ends.cpu())
        moved = [c if len(p) == 0 else p.mean() for p, c in zip(parts, centroids, strict=True)]
        moved = torch.stack(moved)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids, torch.bucketize(values, (centroids[1:] + centroids[:-1]) / 2)


def clusters(model: nn.Module, bits: int | Mapping[str, int]) -> Clusters:
    """Group the non-zero weights of each layer by k-means into at most 2^bits − 1 clusters.

    Layers do not share with each other. The model is not changed.

    Args:
        bits: bits per weight, from 1 to 12. A number groups the weights of all linear and
            convolution layers; name -> bits groups only the parameters named.

    Raises:
        ValueError: a name that is not a parameter, or one from which a parametrisation or a hook
            computes the weight; bits outside 1 to 12; weights that are not finite.

    Examples:
        >>> layer = nn.Linear(5, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[0.0, 1.0, 2.0, 8.0, 9.0]])
        >>> clusters(layer, bits=2)
        {'weight': tensor([[-1,  0,  0,  1,  1]])}
    """
    if not isinstance(bits, Mapping):
        bits = dict.fromkeys(layers.weights(model), bits)
    parameters = _parameters("bits", model, list(bits))
    for name, b in bits.items():
        check_integer(f"bits of {name!r}", b, 1, 12)
        layers.check_finite(f"model's {name!r}", parameters[name])
    found = {}
    for name, b in bits.items():
        weight = parameters[name].detach().cpu()
        alive = weight != 0
        index = torch.full(weight.shape, -1)
        if alive.any():
            nearest = kmeans(weight[alive], 2**b - 1)[1]
            index[alive] = nearest.unique(return_inverse=True)[1]  # without the empty ones
        found[name] = index.to(parameters[name].device)
    return found


def apply(model: nn.Module, clusters: Clusters) -> None:
    """Set each weight to the mean of its cluster, and pruned weights to zero, once.

    Raises:
        ValueError: clusters that do not fit the model, or weights that are not finite. The model is
            then as it was.
        TypeError: clusters that are not int64 tensors.

    Examples:
        >>> layer = nn.Linear(5, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[0.0, 1.0, 2.0, 8.0, 9.0]])
        >>> apply(layer, clusters(layer, bits=2))
        >>> layer.weight.data
        tensor([[0.0000, 1.5000, 1.5000, 8.5000, 8.5000]])
    """
    parameters = _check(model, clusters)
    with torch.no_grad():
        for name, index in clusters.items():
            weight, index = parameters[name].cpu().double(), index.cpu()
            shared = index >= 0
            number = index[shared]  # (n,) of the n weights that are not pruned
            sums = torch.zeros(_count(index), dtype=torch.double)
            sums.index_add_(0, number, weight[shared])
            means = sums / torch.bincount(number, minlength=len(sums))
            values = torch.zeros_like(weight)
            values[shared] = means[number]
            parameters[name].copy_(values)


def hold(optimizer: torch.optim.Optimizer, model: nn.Module, clusters: Clusters) -> Handle:
    r"""Train centroids instead of weights from now on: all weights of a cluster move as one.

    During every step, a weight's gradient is the sum of its cluster's gradients, so each weight
    moves as the centroid would:

    .. math:: \frac{\partial \mathcal{L}}{\partial C_k}
              = \sum_{i,j} \frac{\partial \mathcal{L}}{\partial W_{ij}} \mathbb{1}(I_{ij} = k)

    After the step, one weight per cluster is copied to the others, so that rounding cannot separate
    them, and pruned weights are zero. Parameters without clusters (biases) train as usual. A sum
    over a thousand weights is large, so SGD needs a smaller learning rate; Adam does not.

    This works with optimizers that treat every weight by itself (SGD, Adam, RMSprop, …), also with
    ``step(closure)`` and a ``GradScaler``. Before and after the step, ``.grad`` holds the gradients
    of the weights, so ``clip_grad_norm_`` measures those and not the gradients of the centroids.

    Source: Han et al. 2016, equation 3 and figure 3.

    Returns:
        A handle. ``handle.remove()`` lets the weights train freely again, and so does the end of
        ``with hold(...):``. Remove it before you hold the same weights again.

    Raises:
        ValueError, TypeError: as ``apply``; also a clustered parameter that ``optimizer`` does not
            train.
        NotImplementedError: an optimizer whose steps mix weights (LBFGS, Adafactor, Muon), or
            SparseAdam.

    Examples:
        >>> layer = nn.Linear(5, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[0.0, 1.0, 2.0, 8.0, 9.0]])
        >>> sgd = torch.optim.SGD(layer.parameters(), lr=0.25)
        >>> handle = hold(sgd, layer, clusters(layer, bits=2))
        >>> layer(torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]])).backward()
        >>> sgd.step()  # the gradients of the clusters are 2 and 1
        >>> layer.weight.data
        tensor([[0.0000, 1.0000, 1.0000, 8.2500, 8.2500]])
    """
    parameters = _check(model, clusters)
    if isinstance(optimizer, _OTHERS):
        raise NotImplementedError(
            "optimizer must treat every weight by itself and take dense gradients, "
            f"got {type(optimizer).__name__}"
        )
    check_trains("clusters", optimizer, {name: parameters[name] for name in clusters})
    apply(model, clusters)
    held = [_Held(parameters[name], index) for name, index in clusters.items()]

    def sum_gradients(_: object, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        args, kwargs = run_closure(args, kwargs)  # only then the gradients are there
        for h in held:
            h.sum_gradients()
        return args, kwargs

    def copy_centroids(*_: object) -> None:
        for h in held:
            h.copy_centroids()

    return Handle(
        optimizer.register_step_pre_hook(sum_gradients),
        optimizer.register_step_post_hook(copy_centroids),
    )


class _Held:
    """One parameter whose weights move by clusters."""

    def __init__(self, parameter: nn.Parameter, index: Tensor) -> None:
        index = index.to(parameter.device)
        self.parameter, self.gradient = parameter, None
        self.at = (index >= 0).nonzero(as_tuple=True)  # not flat: any memory format will do
        self.number = index[self.at]  # (n,) clusters of the n shared weights
        one = torch.zeros(_count(index), dtype=torch.long, device=index.device)
        one.index_copy_(0, self.number, torch.arange(len(self.number)).to(one))
        self.one = tuple(axis[one] for axis in self.at)  # the place of one weight of each cluster

    @torch.no_grad()
    def sum_gradients(self) -> None:
        """Replace the gradient by the sums of the clusters."""
        gradient = self.gradient = self.parameter.grad
        if gradient is None:
            return  # no step is taken there either
        gradient = gradient.to_dense()
        parts = layers.at_least_float32(gradient[self.at])
        sums = parts.new_zeros(len(self.one[0])).index_add_(0, self.number, parts)
        summed = torch.zeros_like(gradient)
        summed[self.at] = sums[self.number].to(gradient.dtype)
        self.parameter.grad = summed

    @torch.no_grad()
    def copy_centroids(self) -> None:
        """Make a cluster's weights equal and the others zero; put the weights' gradient back."""
        centroids = self.parameter[self.one]
        self.parameter.zero_()[self.at] = centroids[self.number]
        if self.gradient is not None:
            self.parameter.grad, self.gradient = self.gradient, None


def stack(members: Sequence[Clusters]) -> Clusters:
    """Clusters of K networks as clusters of their ``ensemble.stack``: name -> (K, …).

    The members do not share values with each other.

    Raises:
        ValueError: no members, or members that differ in names or shapes.
    """
    ensemble.check_members(members)
    found = {}
    for name in members[0]:
        parts, first = [], 0
        for member in members:
            parts.append(torch.where(member[name] >= 0, member[name] + first, -1))
            first += _count(member[name])
        found[name] = torch.stack(parts)
    return found


def _count(index: Tensor) -> int:
    """The number of clusters, also those without a weight."""
    return int(index.max()) + 1 if index.numel() else 0


def _parameters(argument: str, model: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """The model's parameters. Every one of ``names`` must be among them, be a weight or bias that a
    layer computes with, and be named once."""
    layers.check_module(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))  # a tied one by all its names
    named: dict[int, str] = {}
    for name in names:
        if name not in parameters:
            raise ValueError(
                f"{argument} names {name!r}, which model does not have: {list(parameters)}"
            )
        owner, _, leaf = name.rpartition(".")
        if "parametrizations" in owner.split("."):
            raise ValueError(
                f"{argument} names {name!r}, from which a parametrisation computes the weight: "
                "fold it first (parametrized.folded)"
            )
        layer = model.get_submodule(owner)
        if isinstance(layer, layers.WEIGHTED) and leaf != "bias":
            layers.check_plain(owner, layer)
        first = named.setdefault(id(parameters[name]), name)
        if first != name:
            raise ValueError(
                f"{argument} names {first!r} and {name!r}, which are one tied parameter"
            )
    return parameters


def _check(model: nn.Module, clusters: Clusters) -> dict[str, nn.Parameter]:
    """The model's parameters, or an error if the clusters do not fit them. Nothing is changed."""
    parameters = _parameters("clusters", model, list(clusters))
    for name, index in clusters.items():
        layers.check_dtype(f"clusters[{name!r}]", index, torch.int64)
        n, shape = parameters[name].numel(), tuple(parameters[name].shape)
        if index.shape != shape or n and not -1 <= index.min() <= index.max() < n:
            raise ValueError(
                f"clusters[{name!r}] must have shape {shape} and numbers from -1 on, below {n}, got "
                f"shape {tuple(index.shape)} and {index.unique()}"
            )
        layers.check_finite(f"model's {name!r}", parameters[name])
    return parameters
