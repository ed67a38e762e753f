r"""Low rank: one layer replaced by a chain of smaller layers whose product is close to it.

Each function takes a trained layer and returns an ``nn.Sequential`` of ordinary layers, so saving,
training and timing work as for any network. The last layer has the bias. ``replaced`` puts such
chains into a copy of a model. A frozen layer becomes a frozen chain.

The functions compute in double precision on the CPU. Convolution kernels have torch's layout,
(T, S, h, w): output channels, input channels, height, width.
"""

import copy
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from course_lib import seeds
from course_lib.data import check_fraction, check_integer
from course_lib.layers import check_finite, check_module, copied

KINDS = ("svd", "tucker", "cp")


def svd(layer: nn.Linear, rank: int) -> nn.Sequential:
    r"""Replace a linear layer by two, by the truncated singular value decomposition.

    .. math:: W \approx U_r \Sigma_r V_r^\top, \qquad
              \lVert W - U_r \Sigma_r V_r^\top \rVert^2 = \sum_{i > r} \sigma_i^2

    No other matrix of rank r has a smaller error. Both layers get √Σ, so that they train at the same
    pace.

    Source: Eckart & Young 1936.

    Shapes:
        A weight (out, in) becomes (r, in) without bias, then (out, r) with the bias. Together they
        have r · (in + out) weights.

    Raises:
        TypeError: a layer that is not an ``nn.Linear``.
        ValueError: a weight that is empty or not finite; a rank below 1 or above min(in, out).

    Examples:
        >>> layer = nn.Linear(100, 50)
        >>> [tuple(part.weight.shape) for part in svd(layer, rank=10)]
        [(10, 100), (50, 10)]
        >>> torch.allclose(product(svd(layer, rank=50)), layer.weight, atol=1e-5)  # full rank
        True
    """
    weight = _weight(layer, nn.Linear)
    check_integer("rank", rank, 1, min(weight.shape))
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    root = s[:rank].sqrt()
    first = nn.Linear(layer.in_features, rank, bias=False, device="meta")
    last = nn.Linear(rank, layer.out_features, bias=layer.bias is not None, device="meta")
    factors = [root[:, None] * vt[:rank], u[:, :rank] * root]  # (r, in), (out, r)
    return _chain(layer, [first, last], factors)


def tucker(layer: nn.Conv2d, ranks: tuple[int, int]) -> nn.Sequential:
    r"""Replace a convolution by three, by Tucker-2.

    Tucker-2 compresses the input and the output channels and keeps the small kernel whole:

    .. math:: K_{tsij} \approx \sum_{a, b} C_{baij}\, U_{sa}\, V_{tb}

    The chain is a 1×1 convolution from S to a channels, the h×w core from a to b (with the stride,
    padding and dilation of the layer), and a 1×1 convolution from b to T. U and V are orthonormal.
    Higher-order orthogonal iteration finds them: in turn, each becomes the leading singular vectors
    of the kernel multiplied by the other.

    Source: Kim et al. 2016.

    Args:
        ranks: (a, b), the channels after the first and after the second convolution.

    Raises:
        TypeError: a layer that is not an ``nn.Conv2d``.
        ValueError: a grouped convolution; a weight that is empty or not finite; ranks below 1, or
            above S and T.

    Examples:
        >>> conv = nn.Conv2d(16, 32, 3, padding=1)
        >>> [tuple(part.weight.shape) for part in tucker(conv, ranks=(4, 8))]
        [(4, 16, 1, 1), (8, 4, 3, 3), (32, 8, 1, 1)]
    """
    kernel = _kernel(layer).numpy()
    t, s, h, w = kernel.shape
    if not isinstance(ranks, Sequence) or len(ranks) != 2:
        raise ValueError(f"ranks must be a pair of positive integers, got {ranks!r}")
    check_integer("ranks[0]", ranks[0], 1, s)
    check_integer("ranks[1]", ranks[1], 1, t)
    u = _leading(kernel.swapaxes(0, 1), ranks[0])
    squared, error = np.square(kernel).sum(), math.inf
    for _ in range(100):
        v = _leading(np.einsum("tshw,sa->tahw", kernel, u, optimize=True), ranks[1])  # (T, b)
        narrow = np.einsum("tshw,tb->sbhw", kernel, v, optimize=True)
        u = _leading(narrow, ranks[0])  # (S, a)
        core = np.einsum("sbhw,sa->bahw", narrow, u, optimize=True)
        # With orthonormal factors what the core lacks in length is the error.
        before, error = error, math.sqrt(max(0.0, squared - np.square(core).sum()))
        if before - error <= 1e-8 * math.sqrt(squared):
            break
    middle = nn.Conv2d(*ranks, (h, w), bias=False, device="meta", **_geometry(layer))
    layers = [
        nn.Conv2d(s, ranks[0], 1, bias=False, device="meta"),
        middle,
        nn.Conv2d(ranks[1], t, 1, bias=layer.bias is not None, device="meta"),
    ]
    return _chain(layer, layers, [u.T[..., None, None], core, v[..., None, None]])


def _leading(tensor: np.ndarray, rank: int) -> np.ndarray:
    """The first ``rank`` left singular vectors of (n, …) unfolded to a matrix: (n, rank)."""
    rows = tensor.reshape(len(tensor), -1)
    return np.linalg.eigh(rows @ rows.T)[1][:, : -rank - 1 : -1].copy()  # eigh sorts upwards


def cp(layer: nn.Conv2d, rank: int, *, seed: int = 0, iterations: int = 100) -> nn.Sequential:
    r"""Replace a convolution by four, by a sum of R kernels of rank one (CP).

    .. math:: K_{tsij} \approx \sum_{r=1}^{R} K^t_{tr}\, K^s_{sr}\, K^y_{ir}\, K^x_{jr}

    The chain is a 1×1 convolution from S to R channels, an h×1 and a 1×w convolution per channel, and
    a 1×1 convolution from R to T. Alternating least squares fits the factors: with three of them
    fixed, the fourth is a linear problem. It starts from the singular vectors of each unfolding. The
    paper uses non-linear least squares. No method finds the best R terms for sure: unlike an SVD,
    the result depends on the start, and terms may grow while they cancel each other.

    Source: Lebedev et al. 2015.

    Args:
        rank: R, at most T·S·h·w / max(T, S, h, w); with that many terms any kernel is exact.
        seed: draws the part of the start that the singular vectors do not fill.
        iterations: the largest number of sweeps over the four factors.

    Raises:
        TypeError: a layer that is not an ``nn.Conv2d``.
        ValueError: a grouped convolution; a weight that is empty or not finite; a rank out of range;
            ``iterations`` below 1 or above 100,000.

    Examples:
        >>> conv = nn.Conv2d(16, 32, 3, padding=1)
        >>> [tuple(part.weight.shape) for part in cp(conv, rank=8)]
        [(8, 16, 1, 1), (8, 1, 3, 1), (8, 1, 1, 3), (32, 8, 1, 1)]
    """
    kernel = _kernel(layer).numpy()
    check_integer("rank", rank, 1, kernel.size // max(kernel.shape))
    check_integer("iterations", iterations, 1, 100_000)
    t, s, h, w = kernel.shape
    kt, ks, ky, kx = _alternating(
        kernel, rank, np.random.RandomState(seeds.shifted(seed)), iterations
    )
    down, across = (_geometry(layer, side) for side in (0, 1))
    last = nn.Conv2d(rank, t, 1, bias=layer.bias is not None, device="meta")
    layers = [
        nn.Conv2d(s, rank, 1, bias=False, device="meta"),
        nn.Conv2d(rank, rank, (h, 1), groups=rank, bias=False, device="meta", **down),
        nn.Conv2d(rank, rank, (1, w), groups=rank, bias=False, device="meta", **across),
        last,
    ]
    ks, ky, kx = ks.T[..., None, None], ky.T[:, None, :, None], kx.T[:, None, None, :]
    return _chain(layer, layers, [ks, ky, kx, kt[..., None, None]])


def _alternating(
    kernel: np.ndarray, rank: int, random: np.random.RandomState, iterations: int
) -> list[np.ndarray]:
    """Factors (T, R), (S, R), (h, R), (w, R) of a sum of R rank-one kernels near this one."""
    factors = []
    for mode, n in enumerate(kernel.shape):
        rows = np.moveaxis(kernel, mode, 0).reshape(n, -1)
        start = np.linalg.svd(rows, full_matrices=False)[0][:, :rank]
        factors.append(np.hstack([start, random.random_sample((n, rank - start.shape[1]))]))
    error, length = math.inf, np.linalg.norm(kernel)
    gram = inner = factor = size = np.zeros(0)  # of the side last solved for
    for _ in range(iterations):
        for mode in range(4):
            big = 1 if mode == 0 else 0  # of the other sides, the one to sum over first
            x, y = (i for i in range(4) if i not in (mode, big))
            gram = np.prod([factors[i].T @ factors[i] for i in (big, x, y)], axis=0)  # (R, R)
            part = np.tensordot(kernel, factors[big], (big, 0))  # kernel without that side, and R
            part = np.moveaxis(part, mode - (mode > big), 0)  # (n, x, y, R)
            inner = np.einsum("nxyr,xr,yr->nr", part, factors[x], factors[y], optimize=True)
            # Least squares by the pseudo-inverse: dead filters and terms that coincide leave more
            # than one solution, and it takes the smallest.
            factor = inner @ np.linalg.pinv(gram, rcond=1e-12, hermitian=True)
            size = np.linalg.norm(factor, axis=0)  # of each term; columns are kept at length 1
            factors[mode] = factor / np.where(size > 0, size, 1)
        # ‖K − K̂‖² = ‖K‖² − 2⟨K, K̂⟩ + ‖K̂‖², of which the last sweep leaves the parts.
        squared = length**2 - 2 * (inner * factor).sum() + (gram * (factor.T @ factor)).sum()
        before, error = error, math.sqrt(abs(squared))
        if before - error <= 1e-8 * length:
            break
    return [f * size**0.25 for f in factors]  # each carries the same part of a term's size


def product(chain: nn.Sequential) -> Tensor:
    """The weight of the one layer that a chain of ``svd``, ``tucker`` or ``cp`` replaces.

    It has the shape of the original weight; their difference is the error of the decomposition.

    Raises:
        ValueError: a chain of another length, of other layers, or of layers that do not fit.
    """
    layers: list[Any] = list(chain)
    known = [m for m in layers if isinstance(m, (nn.Linear, nn.Conv2d)) and not is_lazy(m.weight)]
    w = [layer.weight.detach() for layer in known]
    shapes = [tuple(x.shape) for x in w]
    if len(w) < len(layers) or [len(s) for s in shapes] not in ([2] * 2, [4] * 3, [4] * 4):
        raise ValueError(
            "chain must hold two linear layers or three or four convolutions, as svd, tucker and cp "
            f"make them, got {layers}"
        )
    try:
        return _product(w)
    except RuntimeError as error:
        raise ValueError(f"chain must hold layers that fit, got weights {shapes}") from error


def _product(w: list[Tensor]) -> Tensor:
    if len(w) == 2:
        return w[1] @ w[0]  # (out, r) @ (r, in)
    if len(w) == 3:
        return torch.einsum("tb,bahw,as->tshw", w[2][..., 0, 0], w[1], w[0][..., 0, 0])
    outer = (w[3][..., 0, 0], w[2][:, 0, 0], w[1][:, 0, :, 0], w[0][..., 0, 0])
    return torch.einsum("tr,rw,rh,rs->tshw", *outer)


def replaced(model: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of the model in which copies of other layers replace those named.

    A layer that the model has under several names is replaced under all of them. If one object
    replaces two layers, the copy has one object for both.

    Args:
        layers: name as in ``named_modules()`` -> the new layer.

    Raises:
        TypeError: something that is not an ``nn.Module``.
        ValueError: a name that the model does not have, one name within another, or two names of one
            layer with different replacements; a weight that a forward hook computes.

    Examples:
        >>> from course_lib import models
        >>> model = models.mlp((196, 100, 10))
        >>> small = replaced(model, {"fc1": svd(model.get_submodule("fc1"), rank=20)})
        >>> small(torch.zeros(5, 196)).shape
        torch.Size([5, 10])
    """
    check_module(model)
    known = dict(model.named_modules(remove_duplicate=False))
    given: dict[int, nn.Module] = {}  # the layer that stands there -> its replacement
    for name, layer in layers.items():
        if not isinstance(layer, nn.Module):
            raise TypeError(f"layers must hold modules, got {type(layer).__name__} for {name!r}")
        if not name or name not in known:
            raise ValueError(f"layers names {name!r}; the model has {[n for n in known if n]}")
        if given.setdefault(id(known[name]), layer) is not layer:
            raise ValueError(f"layers names {name!r}, a layer that it replaces by another already")
    places = [n for n, m in known.items() if id(m) in given]
    for outer in places:
        for inner in places:
            if inner.startswith(outer + "."):
                raise ValueError(f"layers names {outer!r} and {inner!r}, which is within it")
    for layer in given.values():
        copied(layer)  # refuses, by name, what cannot be copied
    model, news = copied(model), copy.deepcopy([given[id(known[n])] for n in places])
    for name, layer in zip(places, news, strict=True):
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, layer)
    return model


# ------------------------------------------------------------------------------ which rank


def squared_singular_values(layer: nn.Linear | nn.Conv2d) -> list[Tensor]:
    """The squared singular values of a weight, largest first.

    Returns:
        One row for a linear layer. Two rows for a convolution, for the unfoldings of its kernel by
        input channels, (S, T·h·w), and by output channels, (T, S·h·w).

    Raises:
        TypeError: neither an ``nn.Linear`` nor an ``nn.Conv2d``.
        ValueError: a grouped convolution; a weight that is empty or not finite.
    """
    if isinstance(layer, nn.Linear):
        return [torch.linalg.svdvals(_weight(layer, nn.Linear)) ** 2]
    weight = _kernel(layer)
    unfoldings = (weight.transpose(0, 1).flatten(1), weight.flatten(1))
    return [torch.linalg.svdvals(u) ** 2 for u in unfoldings]


def rank_by_energy(layer: nn.Linear | nn.Conv2d, energy: float) -> int | tuple[int, int]:
    """The smallest rank that keeps the fraction ``energy`` of the sum of squared singular values.

    For a convolution it is the pair of ranks of ``tucker``, each from its own unfolding. The squared
    relative error is then at most 1 − energy for ``svd``, and at most twice that for ``tucker``,
    which drops a part of each of two modes. A weight of zeros gets rank 1.

    Source: De Lathauwer et al. 2000, for the bound on Tucker's error.

    Raises:
        TypeError, ValueError: as ``squared_singular_values``; ``energy`` outside (0, 1].

    Examples:
        >>> layer = nn.Linear(3, 3)
        >>> layer.weight.data = torch.diag(torch.tensor([3.0, 2.0, 1.0]))  # squares: 9, 4, 1
        >>> rank_by_energy(layer, energy=0.9)
        2
    """
    check_fraction("energy", energy)
    found = []
    for squares in squared_singular_values(layer):
        enough = squares.cumsum(0) >= energy * squares.sum() * (1 - 1e-12)  # rounding of the sum
        found.append(int(enough.int().argmax()) + 1)
    return found[0] if len(found) == 1 else (found[0], found[1])


def rank_by_budget(
    layer: nn.Linear | nn.Conv2d, fraction: float, kind: str
) -> int | tuple[int, int]:
    """The largest rank whose chain has at most ``fraction`` of the weights of the layer.

    Biases are not counted. The two ranks of ``tucker`` have the proportion of S to T.

    Args:
        kind: "svd" for a linear layer, "tucker" or "cp" for a convolution.

    Raises:
        TypeError: a layer that this ``kind`` does not take.
        ValueError: another ``kind``; ``fraction`` outside (0, 1]; a budget too small for rank 1.

    Examples:
        >>> rank_by_budget(nn.Linear(100, 50), fraction=0.5, kind="svd")  # 16 · 150 <= 2500
        16
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    check_fraction("fraction", fraction)
    shape = _weight(layer, nn.Linear).shape if kind == "svd" else _kernel(layer).shape
    largest = {"svd": min(shape), "tucker": max(shape[:2]), "cp": shape.numel() // max(shape)}[kind]
    ranks = [r if kind != "tucker" else _in_proportion(r, shape) for r in range(1, largest + 1)]
    budget = fraction * shape.numel()
    fit = bisect_right(ranks, budget, key=lambda rank: count_weights(shape, rank, kind))
    if fit == 0:
        raise ValueError(f"fraction={fraction!r} of {tuple(shape)} leaves less than rank one")
    return ranks[fit - 1]


def count_weights(shape: Sequence[int], rank: Any, kind: str) -> int:
    """The number of weights of the chain for a layer whose weight has this shape.

    It is r (in + out) for "svd", S a + a b h w + b T for "tucker", and R (S + h + w + T) for "cp".

    Examples:
        >>> count_weights((50, 100), 16, "svd")
        2400
    """
    if kind == "tucker":
        (a, b), (t, s, h, w) = rank, shape
        return s * a + a * b * h * w + b * t
    return rank * sum(shape)  # every mode of length n has a factor (n, rank)


def _in_proportion(r: int, shape: Sequence[int]) -> tuple[int, int]:
    t, s = shape[:2]
    return max(1, round(r * s / max(s, t))), max(1, round(r * t / max(s, t)))


def _chain(layer: Any, layers: Sequence[Any], factors: list) -> nn.Sequential:
    """The layers, made without numbers, with the factors as their weights. The chain has the device,
    the dtype and the mode of the old layer, and is frozen where that was."""
    like = layer.weight
    chain = nn.Sequential(*layers).to(like.dtype).to_empty(device=like.device).train(layer.training)
    with torch.no_grad():
        for new, factor in zip(layers, factors, strict=True):
            new.weight.copy_(torch.as_tensor(factor))
        if layer.bias is not None:
            layers[-1].bias.copy_(layer.bias)
    with torch.enable_grad():  # a weight that is computed says only then whether it trains
        trains = layer.weight.requires_grad, layer.bias is None or layer.bias.requires_grad
    for name, parameter in chain.named_parameters():
        parameter.requires_grad_(trains[name.endswith("bias")])
    for new in layers:
        check_finite(f"layer's factors in {like.dtype}", new.weight)
    return chain


def _geometry(layer: nn.Conv2d, side: int | None = None) -> dict[str, Any]:
    """Stride, padding and dilation of a convolution; with ``side``, for a kernel of length 1 along
    the other side."""
    found: dict[str, Any] = {"padding": layer.padding, "padding_mode": layer.padding_mode}
    found |= {"stride": layer.stride, "dilation": layer.dilation}
    if side is None:
        return found
    for name, rest in (("stride", 1), ("padding", 0), ("dilation", 1)):
        if not isinstance(found[name], str):  # "same" and "valid" hold on either side
            found[name] = tuple(v if i == side else rest for i, v in enumerate(found[name]))
    return found


def _weight(layer: Any, kind: type) -> Tensor:
    """The layer's weight in double precision on the CPU, checked."""
    if not isinstance(layer, kind):
        raise TypeError(f"layer must be an nn.{kind.__name__}, got {type(layer).__name__}")
    if is_lazy(layer.weight) or layer.weight.numel() == 0:
        raise ValueError(f"layer must have weights, got {layer}")
    weight = layer.weight.detach()
    check_finite("layer's weight", weight)
    return weight.cpu().double().contiguous()


def _kernel(layer: nn.Module) -> Tensor:
    weight = _weight(layer, nn.Conv2d)
    if layer.groups != 1:
        raise ValueError(f"layer must have one group, got {layer}")
    return weight
