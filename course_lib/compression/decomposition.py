"""Low rank: one layer replaced by a chain of smaller ones whose product is close to it.

Each function takes a trained layer and returns an ``nn.Sequential`` of ordinary layers: no mask, no
special class, so that saving, training and timing go as for any network. The last of them carries
the bias. ``replaced`` puts such chains into a copy of a model.

Tucker and CP run tensorly's alternating least squares in double precision; convolution kernels are
laid out as torch keeps them, (T, S, h, w): output channels, input channels, height, width.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import tensorly
import torch
from tensorly.decomposition import parafac, partial_tucker
from torch import Tensor, nn

KINDS = ("svd", "tucker", "cp")


def svd(layer: nn.Linear, rank: int) -> nn.Sequential:
    """Two linear layers in place of one: the truncated singular value decomposition,

        W ≈ U_r Σ_r V_rᵀ,  min over all matrices of rank r of ‖W − W_r‖² = Σ_{i>r} σ_i²

    (Eckart & Young 1936). √Σ goes to either side, so that both factors train at the same pace.

    Shapes:
        W (out, in) -> (r, in) without bias, then (out, r) with it: r · (in + out) weights.

    Raises:
        TypeError: not a linear layer.
        ValueError: a rank below 1 or above min(in, out).
    """
    _check_layer(layer, nn.Linear)
    _check_rank("rank", rank, min(layer.weight.shape))
    u, s, vt = torch.linalg.svd(layer.weight.detach().double(), full_matrices=False)
    root = s[:rank].sqrt()
    first = nn.Linear(layer.in_features, rank, bias=False)
    last = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    factors = [root[:, None] * vt[:rank], u[:, :rank] * root]  # (r, in), (out, r)
    return _chain(layer, [first, last], factors)


def tucker(layer: nn.Conv2d, ranks: tuple[int, int]) -> nn.Sequential:
    """Three convolutions in place of one: Tucker-2, which compresses the two channel modes and
    leaves the small kernel whole (Kim et al. 2016),

        K[t, s, i, j] ≈ Σ_{a,b} C[b, a, i, j] U[s, a] V[t, b]

    a 1×1 convolution S -> a, the h×w core a -> b (it keeps stride, padding and dilation), and a 1×1
    convolution b -> T. tensorly's higher-order orthogonal iteration finds it, so U and V are
    orthonormal. The form is the paper's method as its abstract and citing works describe it; its
    equation numbers could not be checked.

    Args:
        ranks: (a, b), channels after the first and after the second convolution.

    Raises:
        TypeError: not a two-dimensional convolution.
        ValueError: a grouped convolution, or a rank out of range.
    """
    _check_conv(layer)
    t, s, h, w = layer.weight.shape
    _check_rank("ranks[0]", ranks[0], s)
    _check_rank("ranks[1]", ranks[1], t)
    with tensorly.backend_context("numpy"):
        (core, (v, u)), _ = partial_tucker(
            _numpy(layer.weight), rank=[ranks[1], ranks[0]], modes=[0, 1], tol=1e-8
        )  # core (b, a, h, w), v (T, b), u (S, a)
    layers = [
        nn.Conv2d(s, ranks[0], 1, bias=False),
        nn.Conv2d(ranks[0], ranks[1], (h, w), bias=False, **_geometry(layer)),
        nn.Conv2d(ranks[1], t, 1, bias=layer.bias is not None),
    ]
    return _chain(layer, layers, [u.T[..., None, None], core, v[..., None, None]])


def cp(layer: nn.Conv2d, rank: int, *, seed: int = 0, iterations: int = 100) -> nn.Sequential:
    """Four convolutions in place of one: a sum of R rank-one kernels (Lebedev et al. 2015),

        K[t, s, i, j] ≈ Σ_r K_t[t, r] K_s[s, r] K_y[i, r] K_x[j, r]

    a 1×1 convolution S -> R, an h×1 and a 1×w convolution a channel, a 1×1 convolution R -> T.
    The paper fits by non-linear least squares; here it is tensorly's alternating least squares,
    started from the singular vectors of each unfolding. Finding the best R terms is not a solved
    problem: unlike an SVD the result depends on the start, and terms may grow while they cancel.

    Args:
        rank: R, the number of terms; may exceed the channels.
        seed: for the part of the start that singular vectors do not fill.
        iterations: sweeps over the four factors, at most.

    Raises:
        TypeError: not a two-dimensional convolution.
        ValueError: a grouped convolution, a rank or a number of iterations below 1.
    """
    _check_conv(layer)
    t, s, h, w = layer.weight.shape
    _check_rank("rank", rank, layer.weight.numel())
    _check_rank("iterations", iterations, 100_000)
    with tensorly.backend_context("numpy"), warnings.catch_warnings():
        # A mode shorter than the rank: its start is filled up from the seed, as said above.
        warnings.filterwarnings("ignore", "Trying to compute SVD with n_eigenvecs")
        size, (kt, ks, ky, kx) = parafac(
            _numpy(layer.weight),
            rank,
            n_iter_max=iterations,
            random_state=np.random.RandomState(seed),
            normalize_factors=True,
        )  # (T, R), (S, R), (h, R), (w, R), all columns of length 1
    share = size**0.25  # each factor carries the same part of a term's size
    kt, ks, ky, kx = (share * factor for factor in (kt, ks, ky, kx))
    (sy, sx), (py, px), (dy, dx) = layer.stride, layer.padding, layer.dilation
    vertical = {"stride": (sy, 1), "padding": (py, 0), "dilation": (dy, 1)}
    horizontal = {"stride": (1, sx), "padding": (0, px), "dilation": (1, dx)}
    layers = [
        nn.Conv2d(s, rank, 1, bias=False),
        nn.Conv2d(rank, rank, (h, 1), groups=rank, bias=False, **vertical),
        nn.Conv2d(rank, rank, (1, w), groups=rank, bias=False, **horizontal),
        nn.Conv2d(rank, t, 1, bias=layer.bias is not None),
    ]
    ks, ky, kx = ks.T[..., None, None], ky.T[:, None, :, None], kx.T[:, None, None, :]
    return _chain(layer, layers, [ks, ky, kx, kt[..., None, None]])


def product(chain: nn.Sequential) -> Tensor:
    """The one weight that a chain of ``svd``, ``tucker`` or ``cp`` stands for, in the original's
    shape: what the decomposition's error is measured on.

    Raises:
        ValueError: a chain of another length.
    """
    w = [layer.weight.detach() for layer in chain]
    if len(w) == 2:
        return w[1] @ w[0]  # (out, r) @ (r, in)
    if len(w) == 3:
        return torch.einsum("tb,bahw,as->tshw", w[2][..., 0, 0], w[1], w[0][..., 0, 0])
    if len(w) == 4:
        outer = (w[3][..., 0, 0], w[2][:, 0, 0], w[1][:, 0, :, 0], w[0][..., 0, 0])
        return torch.einsum("tr,rw,rh,rs->tshw", *outer)
    raise ValueError(f"chain must hold two, three or four layers, got {len(w)}")


def replaced(model: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of the model with other layers in place of those named.

    Args:
        layers: name as in ``named_modules()`` -> what stands there now.

    Raises:
        ValueError: a name that the model does not have.
    """
    known = dict(model.named_modules())
    for name in layers:
        if not name or name not in known:
            raise ValueError(f"layers names {name!r}; the model has {[n for n in known if n]}")
    model = copy.deepcopy(model)
    for name, layer in layers.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, layer)
    return model


# ------------------------------------------------------------------------------ which rank


def squared_singular_values(layer: nn.Linear | nn.Conv2d) -> list[Tensor]:
    """Squared singular values, largest first: of a linear layer's weight, or of a kernel's two
    unfoldings, input channels (S, T·h·w) before output channels (T, S·h·w)."""
    weight = layer.weight.detach().double()
    if isinstance(layer, nn.Linear):
        return [torch.linalg.svdvals(weight) ** 2]
    _check_conv(layer)
    unfoldings = (weight.transpose(0, 1).flatten(1), weight.flatten(1))
    return [torch.linalg.svdvals(u) ** 2 for u in unfoldings]


def rank_by_energy(layer: nn.Linear | nn.Conv2d, energy: float) -> int | tuple[int, int]:
    """The smallest rank that keeps the fraction ``energy`` of Σσ²; for a convolution Tucker's pair,
    each of its own unfolding. An SVD's squared relative error is then at most 1 − energy, Tucker's
    at most twice that (one discarded part a mode; De Lathauwer et al. 2000, as others quote it).

    Raises:
        ValueError: ``energy`` outside (0, 1].
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy must be above 0 and at most 1, got {energy!r}")
    found = []
    for squares in squared_singular_values(layer):
        enough = squares.cumsum(0) >= energy * squares.sum() * (1 - 1e-12)  # rounding of the sum
        found.append(int(enough.int().argmax()) + 1)
    return found[0] if len(found) == 1 else (found[0], found[1])


def rank_by_budget(
    layer: nn.Linear | nn.Conv2d, fraction: float, kind: str
) -> int | tuple[int, int]:
    """The largest rank whose weights are at most ``fraction`` of the layer's (biases not counted).
    Tucker's two ranks keep the proportion of the channels that they stand for.

    Args:
        kind: "svd", "tucker" or "cp".

    Raises:
        ValueError: another ``kind``, ``fraction`` outside (0, 1], or a budget below rank one.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction!r}")
    shape = layer.weight.shape
    largest = max(shape[:2]) if kind == "tucker" else layer.weight.numel()
    ranks = [r if kind != "tucker" else _in_proportion(r, shape) for r in range(1, largest + 1)]
    budget = fraction * layer.weight.numel()
    low, high = 0, len(ranks)  # weights grow with the rank: ranks[:low] fit, ranks[high:] do not
    while low < high:
        middle = (low + high) // 2
        if count_weights(shape, ranks[middle], kind) <= budget:
            low = middle + 1
        else:
            high = middle
    if low == 0:
        raise ValueError(f"fraction={fraction!r} of {tuple(shape)} leaves less than rank one")
    return ranks[low - 1]


def count_weights(shape: Sequence[int], rank: int | tuple[int, int], kind: str) -> int:
    """Weights of the chain for a layer's weight of this shape: r (in + out) for an SVD,
    S a + a b h w + b T for Tucker-2, R (S + h + w + T) for CP."""
    if kind == "tucker":
        (a, b), (t, s, h, w) = rank, shape
        return s * a + a * b * h * w + b * t
    return rank * sum(shape)  # every mode of length n has a factor (n, rank)


def _in_proportion(r: int, shape: Sequence[int]) -> tuple[int, int]:
    t, s = shape[:2]
    return max(1, round(r * s / max(s, t))), max(1, round(r * t / max(s, t)))


def _chain(layer: nn.Module, layers: list[nn.Module], factors: list) -> nn.Sequential:
    """The layers with the factors as their weights, on the old layer's device and in its dtype."""
    like = layer.weight
    chain = nn.Sequential(*layers).to(device=like.device, dtype=like.dtype).train(layer.training)
    with torch.no_grad():
        for new, factor in zip(layers, factors, strict=True):
            new.weight.copy_(torch.as_tensor(factor))
        if layer.bias is not None:
            layers[-1].bias.copy_(layer.bias)
    return chain


def _numpy(weight: Tensor) -> np.ndarray:
    return weight.detach().cpu().double().numpy()


def _geometry(layer: nn.Conv2d) -> dict[str, tuple[int, ...]]:
    return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}


def _check_layer(layer: nn.Module, kind: type) -> None:
    if not isinstance(layer, kind):
        raise TypeError(f"layer must be an nn.{kind.__name__}, got {type(layer).__name__}")


def _check_conv(layer: nn.Module) -> None:
    _check_layer(layer, nn.Conv2d)
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(f"layer must have one group and numbers of zeros as padding, got {layer}")


def _check_rank(name: str, rank: int, largest: int) -> None:
    if not isinstance(rank, int) or not 1 <= rank <= largest:
        raise ValueError(f"{name} must be a whole number from 1 to {largest}, got {rank!r}")
