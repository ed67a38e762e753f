r"""Layer-wise pruning: keep each linear layer's *outputs*, without any training.

Large language models are pruned this way, because nobody can afford to train them again. A linear
layer reads rows x, one per token, and gives W x. If V replaces W, its outputs change by

.. math:: \sum_x \lVert (W - V)\, x \rVert^2 = \sum_i (w_i - v_i)\, G\, (w_i - v_i)^\top, \qquad
          G = \sum_x x\, x^\top

where :math:`w_i` is row i of W. This is a quadratic function of every row, and its Hessian 2G is
the same for all rows, so Optimal Brain Surgeon (``second_order``) is exact here. ``wanda`` looks at
the diagonal of G alone; ``sparsegpt`` moves the weights to the right of a removed one; ``refit``
moves all that remain. ``compression.quantization.gptq`` rounds where ``sparsegpt`` removes.

``damping`` adds that share of the mean of G's diagonal to the diagonal. It pulls the weights to
their old values, and it makes G invertible where there are fewer tokens than inputs. It is a share
of the *mean*, so one very large input can drown all the others.

Every function reads a network that is not pruned yet, in all layers at once. To let later layers
see what the earlier ones lost, call the function with the ``names`` of one block after another.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import layers
from course_lib.data import check_counts, check_nonnegative
from course_lib.handles import Handle
from course_lib.pruning import masks
from course_lib.pruning.criteria import Loss, Scores, loss_on
from course_lib.pruning.masks import Masks
from course_lib.pruning.tracing import undisturbed

BATCH = 128  # examples that run at once
TOKENS = 4096  # and tokens: the logits of a large vocabulary need much memory
CHUNK = 4_000_000  # numbers of the systems that are solved at once: 32 MB in float64

Pattern = Callable[[Scores], Mapping[str, Tensor]]
# (columns (out, b), their scales (b,)) -> a function of j and column j as it then is -> new column
Replace = Callable[[Tensor, Tensor], Callable[[int, Tensor], Tensor]]


def gram(model: nn.Module, x: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    r"""The Gram matrix of what each linear layer reads, :math:`G = \sum_x x\, x^\top`.

    It is the sum over all tokens, not their mean. The model runs in evaluation mode and stays as it
    is. The tokens of a layer that is called twice, and of all layers that share a weight, are added
    up.

    Args:
        x: a batch of what the model takes: int64 tokens (B, T), images, rows.
        names: weights of linear layers, as in ``named_parameters()``. None means all.

    Returns:
        Name of the weight -> (in, in), float64. A warning names the layers with fewer tokens than
        inputs, whose matrix has no inverse without damping.

    Raises:
        ValueError: as ``wanda``.
        TypeError, NotImplementedError: as ``wanda``.

    Examples:
        >>> gram(nn.Linear(2, 1), torch.tensor([[1.0, 0.0], [1.0, 2.0]]))["weight"].tolist()
        [[2.0, 2.0], [2.0, 4.0]]
    """
    return _grams(model, x, names)[0]


def wanda(model: nn.Module, x: Tensor, names: Iterable[str] | None = None) -> Scores:
    r"""The size of each weight times the size of what it is multiplied with.

    .. math:: S_{ij} = |W_{ij}| \cdot \lVert X_j \rVert_2 = |W_{ij}| \sqrt{G_{jj}}

    :math:`X_j` is input j on all tokens. If a weight is removed and nothing else moves, the square
    of its score is what the layer's outputs lose. The paper compares within a row
    (``allocate.per_output``), and what stays is not changed.

    Source: Sun et al. 2024.

    Args:
        x, names: as in ``gram``.

    Returns:
        Scores: name of the weight -> (out, in), >= 0; float32 if the weight is in half precision.

    Raises:
        ValueError: ``model`` has no layer with a weight, or one that is not a plain parameter or not
            finite; ``x`` is empty, not finite, or does not fit the model; a layer is not reached by
            ``x``, or what it reads is not finite; ``names`` has none, or no weight of a layer.
        TypeError: ``x`` is no tensor.
        NotImplementedError: a weight that does not belong to linear layers alone, but to a
            convolution, or also to an embedding. (``channels.reconstruct`` fits convolutions.)

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[-0.5, 1.0]]))
        >>> wanda(layer, torch.tensor([[3.0, 1.0], [4.0, 0.0]]))  # inputs of sizes 5 and 1
        {'weight': tensor([[2.5000, 1.0000]])}
    """
    squares, _ = _summed(model, x, names, lambda z: z.square().sum(0))
    weights = {
        name: layers.at_least_float32(model.get_parameter(name).detach()) for name in squares
    }
    return {n: w.abs() * squares[n].sqrt().to(w.dtype) for n, w in weights.items()}


def refit(weight: Tensor, gram: Tensor, mask: Tensor, *, damping: float = 0.01) -> Tensor:
    r"""The best weights for a mask: least squares in every row, on the places that stay.

    With k for the places of a row that stay, r for those that go, and H for the damped G,

    .. math:: v_k = w_k + H_{kk}^{-1} H_{kr}\, w_r, \qquad v_r = 0

    This is the minimum of :math:`(w - v)\, H\, (w - v)^\top`. Every row needs the solution of a
    system of its own, unless its mask is that of another row.

    Source: least squares. ``channels.reconstruct`` solves the same equations for whole channels.

    Args:
        weight: (out, in), the weights before pruning.
        gram: (in, in), as ``gram`` gives it.
        mask: (out, in), bool. True means keep.
        damping: share of the mean of G's diagonal that is added to the diagonal.

    Returns:
        (out, in), in the type of ``weight``.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, a negative damping, or
            damping 0 and a Gram matrix without an inverse. The message says its rank.
        TypeError: a mask that is not bool, other arguments that are not floating-point tensors.

    Examples:
        >>> weight, mask = torch.tensor([[1.0, 2.0]]), torch.tensor([[True, False]])
        >>> alike = torch.tensor([[1.0, 0.5], [0.5, 1.0]])  # the inputs are alike
        >>> refit(weight, alike, mask, damping=0.0)  # 1 + 0.5 * 2
        tensor([[2., 0.]])
    """
    _check_quadratic(weight, gram)
    layers.check_dtype("mask", mask, torch.bool)
    if mask.shape != weight.shape:
        raise ValueError(f"mask must have shape {tuple(weight.shape)}, got {tuple(mask.shape)}")
    lift = _lift(gram, damping)
    w, g = weight.double(), gram.double()
    missing = w.masked_fill(mask, 0) @ g  # (out, in): H_kr w_r on the places k
    width = max(1, int(mask.sum(1).max()))
    # The places that stay come first; rows with fewer are filled up with places that go.
    places = mask.sort(dim=1, descending=True, stable=True).indices[:, :width]
    found = w.masked_fill(~mask, 0)
    for rows in torch.arange(len(w), device=w.device).split(max(1, CHUNK // width**2)):
        at, stays = places[rows], mask[rows].gather(1, places[rows])  # (rows, width)
        inner = g[at.unsqueeze(2), at.unsqueeze(1)]  # (rows, width, width)
        inner = inner * stays.unsqueeze(2) * stays.unsqueeze(1)
        cross = (missing[rows].gather(1, at) * stays).unsqueeze(2)
        change = least_squares(inner, cross, torch.where(stays, lift, 1.0)).squeeze(2)
        found[rows] = found[rows].scatter_add(1, at, change)
    return _in_type_of(weight, found)


def least_squares(gram: Tensor, cross: Tensor, penalty: Tensor) -> Tensor:
    r"""Solve the normal equations :math:`(A^\top A + \mathrm{diag}(p))\, x = A^\top b`.

    Where nothing is penalised and there are many solutions, the smallest one is taken.

    Args:
        gram: (…, n, n), AᵀA.
        cross: (…, n, k), Aᵀb.
        penalty: (…, n), p >= 0.

    Returns:
        (…, n, k).

    Examples:
        >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0], [4.0]])
        >>> least_squares(a.t() @ a, a.t() @ b, torch.zeros(2))
        tensor([[3.],
                [2.]])
    """
    system = gram + penalty.diag_embed()
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed.any() or not penalty.any():  # the columns of A may depend on each other
        return torch.linalg.pinv(system, hermitian=True) @ cross
    return torch.cholesky_solve(cross, factor)


def rewrite(
    model: nn.Module,
    x: Tensor,
    change: Callable[[str, Tensor, Tensor], Tensor],
    names: Iterable[str] | None = None,
) -> nn.Module:
    """A copy of the model whose linear layers have the weights ``change(name, weight, gram)``.

    Args:
        x, names: as in ``gram``.
        change: name of a weight, the weight (out, in), its Gram matrix (in, in) -> new weight.

    Raises:
        ValueError, TypeError, NotImplementedError: as ``gram``, and what ``change`` raises.

    Examples:
        >>> layer, x = nn.Linear(2, 1), torch.eye(2)
        >>> keep = {"weight": torch.tensor([[True, False]])}
        >>> repaired = rewrite(layer, x, lambda name, w, g: refit(w, g, keep[name]))
        >>> (repaired.weight == 0).tolist()
        [[False, True]]
    """
    grams, tokens = _grams(model, x, names)
    new = layers.copied(model)
    for name, g in grams.items():
        try:
            weight = change(name, model.get_parameter(name).detach(), g)
        except ValueError as error:
            raise ValueError(f"{name!r}, on {tokens[name]} tokens of x: {error}") from error
        with torch.no_grad():
            new.get_parameter(name).copy_(weight)
    return new


def sparsegpt(
    model: nn.Module,
    x: Tensor,
    pattern: Pattern,
    *,
    names: Iterable[str] | None = None,
    block: int = 128,
    damping: float = 0.01,
) -> tuple[nn.Module, Masks]:
    r"""SparseGPT: choose what goes and repair it, one column after another, from left to right.

    The score of a weight is what its removal costs if the weights to the right of it adapt:

    .. math:: S_{ij} = \frac{W_{ij}^2}{[(H_{j:,j:})^{-1}]_{jj}} = \frac{W_{ij}^2}{U_{jj}^2}

    Here H is the damped G, and U the upper triangular factor of its inverse, :math:`U^\top U =
    H^{-1}`. ``sweep`` then removes and repairs. When it arrives at a block of columns, ``pattern``
    chooses which of the block's weights go, by their scores at that moment.

    All rows share U: that is why the method scales, and why it is not exact. Weights to the left of
    a removed one no longer move. So if the removed weights come first in each row, the result is
    that of ``refit``; if they come last, nothing is repaired.

    Source: Frantar & Alistarh 2023. For 2:4 their code chooses when the loop arrives at each group
    of four, which is ``block=4`` here. For a free pattern their code ranks all weights of a block
    together, which is ``allocate.per_layer`` here.

    Args:
        x, names: as in ``gram``.
        pattern: scores of one block, name -> (out, columns), to masks of the same shape: any
            function from scores to masks. Give the other arguments by ``functools.partial``, as in
            ``partial(allocate.per_output, sparsity=0.5)`` or
            ``partial(granularity.n_of_m, keep=2, of=4)``. The sparsity is that of each block.
        block: number of columns that are chosen at once. A pattern n:m needs a multiple of m.
        damping: as in ``refit``.

    Returns:
        A new model, with zeros where weights were removed, and its masks.

    Raises:
        ValueError: as ``gram`` and ``refit``; a block that is not a positive integer; masks of
            another name or shape, and what ``pattern`` raises.
        TypeError: as ``gram``; masks that are not bool.
        NotImplementedError: as ``gram``.

    Examples:
        >>> from functools import partial
        >>> from course_lib.pruning import allocate
        >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> _, keep = sparsegpt(nn.Linear(4, 2), x, partial(allocate.per_output, sparsity=0.5))
        >>> keep["weight"].sum(1)
        tensor([2, 2])
    """
    check_counts(block=block)
    kept: dict[str, list[Tensor]] = {}  # the columns of each mask

    def change(name: str, weight: Tensor, g: Tensor) -> Tensor:
        def replace(columns: Tensor, scales: Tensor) -> Callable[[int, Tensor], Tensor]:
            scores = {name: (columns / scales).square()}
            found = pattern(scores)
            masks.check(found, scores, "pattern's masks", "scores")
            if name not in found:
                raise ValueError("pattern must give a mask for every score, got none")
            kept.setdefault(name, []).extend(found[name].to(columns.device).unbind(1))
            return lambda j, column: column.masked_fill(~kept[name][j], 0)

        return sweep(weight, g, replace, block=block, damping=damping)

    pruned = rewrite(model, x, change, names)
    return pruned, {name: torch.stack(columns, 1) for name, columns in kept.items()}


def sweep(
    weight: Tensor, gram: Tensor, replace: Replace, *, block: int = 128, damping: float = 0.01
) -> Tensor:
    r"""Replace a weight's columns from left to right; those to the right make up for each one.

    Column j becomes another column q. With U as in ``sparsegpt``, every row moves by the formula of
    Optimal Brain Surgeon on the columns that are still to come:

    .. math:: e = \frac{w_j - q}{U_{jj}}, \qquad w_{j:} \leftarrow w_{j:} - e\, U_{j,\,j:}

    The updates of columns beyond the block are added up and applied at its end. This saves time and
    changes no result.

    Source: Frantar & Alistarh 2023; Frantar et al. 2023 (GPTQ).

    Args:
        weight, gram, damping: as in ``refit``.
        replace: called with the columns (out, b) of a block as they are when the sweep arrives
            there, and with their scales :math:`U_{jj}` (b,). It gives a function of j, from 0 to
            in - 1, and column j (out,) as it then is, which gives the new column.
        block: number of columns b.

    Returns:
        (out, in), in the type of ``weight``.

    Raises:
        ValueError, TypeError: as ``refit``; a block that is not a positive integer.

    Examples:
        >>> weight = torch.tensor([[2.0, 1.0]])
        >>> alike = torch.tensor([[1.0, 0.5], [0.5, 1.0]])  # the inputs are alike
        >>> first = lambda columns, scales: lambda j, column: column * (j != 0)
        >>> sweep(weight, alike, first, damping=0.0)  # without the first: 1 + 0.5 * 2
        tensor([[0., 2.]])
    """
    _check_quadratic(weight, gram)
    check_counts(block=block)
    u = _factor_of_inverse(gram.double(), _lift(gram, damping))
    w = weight.to(torch.float64, copy=True)
    for columns in torch.arange(w.shape[1], device=w.device).split(block):
        start, end = int(columns[0]), int(columns[-1]) + 1
        new = replace(w[:, start:end].clone(), u.diagonal()[start:end])
        errors = w.new_zeros(len(w), end - start)
        for j in range(start, end):
            column = new(j, w[:, j])
            errors[:, j - start] = (w[:, j] - column) / u[j, j]
            w[:, j + 1 : end] -= errors[:, j - start, None] * u[j, j + 1 : end]
            w[:, j] = column
        w[:, end:] -= errors @ u[start:end, end:]
    return _in_type_of(weight, w)


def heads(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    counts: Mapping[str, int],
    loss: Loss | None = None,
) -> Scores:
    r"""How much each head of an attention layer matters: the gradient of a gate on its output.

    .. math:: I_h = \frac1N \sum_n \left| \frac{\partial L(x_n)}{\partial \xi_h} \right|

    The gate :math:`\xi_h = 1` multiplies what head h gives to the layer that reads all heads. A gate
    of 0 removes the head, which is the same as zeros in the head's columns of that layer's weight.

    Source: Michel et al. 2019.

    Args:
        batch: (inputs, targets), one row per sequence.
        counts: name of the weight that reads the heads -> number of heads. Each head has as many
            neighbouring columns of it, as in ``{"blocks.0.out.weight": 4}``.
        loss: (model's output, targets) -> a scalar, the mean over the sequences. None means the
            cross-entropy of all tokens.

    Returns:
        Scores: the names of ``counts`` -> (heads,), >= 0. A layer that the model does not use scores 0.

    Raises:
        ValueError: as ``wanda``; a number of heads that does not divide the inputs; a batch that does
            not fit the model or the loss; a loss that is not one finite number.
        TypeError, NotImplementedError: as ``wanda``.

    Examples:
        >>> layer, x = nn.Linear(4, 3), torch.rand(5, 4)
        >>> heads(layer, (x, torch.arange(5) % 3), {"weight": 2})["weight"].shape
        torch.Size([2])
    """
    users = _users(model, counts, "counts")
    for name, count in counts.items():
        check_counts(**{f"counts[{name!r}]": count})
        if (n := users[name][0].in_features) % count:
            raise ValueError(f"counts[{name!r}] must divide the {n} inputs, got {count}")
    layers.check_called(model)
    loss = loss or _per_token
    loss_on(model, batch, loss)  # refuses what is no batch
    found: Scores = {}
    for x, y in zip(*(part.split(_at_once(batch[0])) for part in batch), strict=True):
        gates = {n: torch.ones(len(x), k, device=x.device) for n, k in counts.items()}
        for name, slopes in _gate_slopes(model, (x, y), gates, loss).items():
            found[name] = found.get(name, 0) + slopes.abs().sum(0) / len(batch[0])
    return found


def _per_token(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy, (N, …, C) and (N, …) -> ()."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def _gate_slopes(
    model: nn.Module, batch: tuple[Tensor, Tensor], gates: Mapping[str, Tensor], loss: Loss
) -> Scores:
    """The derivative of each sequence's loss by the gate of each head: name -> (N, heads)."""

    def gated(name: str, z: Tensor) -> Tensor:
        n, heads = gates[name].shape
        parts = z.unflatten(-1, (heads, -1))  # (N, …, heads, width of a head)
        return (parts * gates[name].view(n, *[1] * (z.dim() - 2), heads, 1)).flatten(-2)

    with torch.enable_grad(), _reading(model, _users(model, gates), gated):
        for gate in gates.values():
            gate.requires_grad_()
        value = loss_on(model, batch, loss)({})
        layers.check_finite("the loss on batch", value)
        by_gate = (value * len(batch[0])).sum() + sum(gate.sum() * 0 for gate in gates.values())
        return dict(zip(gates, torch.autograd.grad(by_gate, [*gates.values()]), strict=True))


def block_influence(model: nn.Module, x: Tensor, blocks: Iterable[str]) -> dict[str, float]:
    r"""How far each block turns what passes through it: 0 for a block that changes nothing.

    .. math:: \mathrm{BI}_i = 1 - \mathbb{E} \frac{h_i^\top h_{i+1}}
              {\lVert h_i \rVert_2\, \lVert h_{i+1} \rVert_2}

    :math:`h_i` is what block i reads at one token, and :math:`h_{i+1}` what it gives. To remove a
    block is to put ``nn.Identity()`` in its place (``compression.decomposition.replaced``).

    Source: Men et al. 2024 (ShortGPT).

    Args:
        x: as in ``gram``.
        blocks: names of modules, as in ``named_modules()``, that give what they read the same shape.

    Raises:
        ValueError: ``blocks`` has none, or a name that no module of ``model`` has; ``x`` is empty, or
            does not fit the model; a block is not reached, or does not keep the shape.
        TypeError: ``x`` is no tensor.

    Examples:
        >>> turned = nn.Linear(2, 2, bias=False)
        >>> _ = turned.weight.data.copy_(torch.tensor([[0.0, -3.0], [3.0, 0.0]]))  # 90 degrees
        >>> model = nn.Sequential(nn.Identity(), turned)
        >>> {k: round(bi, 6) for k, bi in block_influence(model, torch.ones(4, 2), ["0", "1"]).items()}
        {'0': 0.0, '1': 1.0}
    """
    layers.check_module(model)
    modules = dict(model.named_modules())
    chosen = list(blocks)
    if not chosen:
        raise ValueError("blocks must hold at least one name, got none")
    for name in chosen:
        if name not in modules:
            raise ValueError(f"blocks has {name!r}, which is no module of model")
    cosines: dict[str, list[Tensor]] = {name: [] for name in chosen}

    def note(name: str) -> Callable:
        def after(_: nn.Module, args: tuple, named: dict, out: Tensor | tuple) -> None:
            before = next(z for z in (*args, *named.values()) if isinstance(z, Tensor))
            after = out if isinstance(out, Tensor) else out[0]
            if before.shape != after.shape:
                shapes = f"{tuple(before.shape)} and {tuple(after.shape)}"
                raise ValueError(
                    f"blocks must keep the shape, but {name!r} reads and gives {shapes}"
                )
            cosines[name].append(F.cosine_similarity(before.double(), after.double(), -1).flatten())

        return after

    hooks = [modules[n].register_forward_hook(note(n), with_kwargs=True) for n in cosines]
    with Handle(*hooks), torch.no_grad(), _still(model):
        _run(model, x)
    for name, parts in cosines.items():
        if not parts:
            raise ValueError(f"x must reach every block, but the model leaves out {name!r}")
    return {name: 1 - float(torch.cat(parts).mean()) for name, parts in cosines.items()}


def _factor_of_inverse(gram: Tensor, lift: Tensor) -> Tensor:
    """Upper triangular U with UᵀU = (G + lift · I)⁻¹."""
    h = gram + lift * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    # H = R Rᵀ with R upper triangular, from the factor of H in reverse order; then U = R⁻¹.
    reverse, failed = torch.linalg.cholesky_ex(h.flip(0, 1))
    if failed:
        raise ValueError(_singular(gram))
    r = reverse.flip(0, 1)
    return torch.linalg.solve_triangular(r, torch.eye(len(r)).to(r), upper=True)


def _lift(gram: Tensor, damping: float) -> Tensor:
    """What the damping adds to the diagonal of G; 1 if G is zero, where every weight is right."""
    check_nonnegative("damping", damping)
    if damping == 0 and torch.linalg.matrix_rank(gram.double(), hermitian=True) < len(gram):
        raise ValueError(_singular(gram))
    mean = gram.double().diagonal().mean()
    return torch.where(mean > 0, damping * mean, torch.ones_like(mean))


def _singular(gram: Tensor) -> str:
    rank = int(torch.linalg.matrix_rank(gram.double(), hermitian=True))
    return (
        f"damping must be higher, because gram has rank {rank} of {len(gram)} and no inverse; "
        "more tokens raise the rank"
    )


def _check_quadratic(weight: Tensor, gram: Tensor) -> None:
    layers.check_weight(weight)
    layers.check_floating("gram", gram)
    if weight.dim() != 2:
        raise ValueError(f"weight must be (out, in), got shape {tuple(weight.shape)}")
    n = weight.shape[1]
    if gram.shape != (n, n):
        raise ValueError(f"gram must be ({n}, {n}) for this weight, got {tuple(gram.shape)}")
    layers.check_finite("gram", gram)


def _in_type_of(weight: Tensor, found: Tensor) -> Tensor:
    found = found.to(weight.dtype)
    layers.check_finite(f"the new weight in {weight.dtype}", found)
    return found


def _grams(
    model: nn.Module, x: Tensor, names: Iterable[str] | None
) -> tuple[dict[str, Tensor], dict[str, int]]:
    grams, tokens = _summed(model, x, names, lambda z: z.t() @ z)
    few = [name for name, g in grams.items() if tokens[name] < len(g)]
    if few:
        more = f", and too few for {len(few) - 1} more layers" if few[1:] else ""
        warnings.warn(
            f"x gives {tokens[few[0]]} tokens for the {len(grams[few[0]])} inputs of {few[0]!r}{more}: "
            "without damping there is no inverse",
            stacklevel=3,
        )
    return grams, tokens


def _summed(
    model: nn.Module, x: Tensor, names: Iterable[str] | None, part: Callable[[Tensor], Tensor]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The sum of ``part((tokens, in))`` over what each linear layer reads; the number of tokens."""
    users = _users(model, names)
    sums, tokens = {}, dict.fromkeys(users, 0)

    def add(name: str, z: Tensor) -> None:
        rows = z.reshape(-1, z.shape[-1]).double()
        sums[name] = sums.get(name, 0) + part(rows)
        tokens[name] += len(rows)

    with torch.no_grad(), _reading(model, users, add):
        _run(model, x)
    for name in users:
        if name not in sums:
            layers.check_called(model)
            raise ValueError(f"x must reach every layer, but the model leaves out that of {name!r}")
        layers.check_finite(f"what the layer of {name!r} reads", sums[name])
    return sums, tokens


@contextmanager
def _reading(
    model: nn.Module,
    users: Mapping[str, list[nn.Linear]],
    look: Callable[[str, Tensor], Tensor | None],
) -> Iterator[None]:
    """Within the block ``look(name of the weight, z)`` sees what each layer reads, or replaces it."""

    def hook(name: str) -> Callable:
        def before(_: nn.Module, args: tuple, named: dict) -> tuple[tuple, dict] | None:
            (z,) = (*args, *named.values())  # layer(x), or layer(input=x)
            changed = look(name, z)
            return None if changed is None else ((changed,), {})

        return before

    hooks = [
        layer.register_forward_pre_hook(hook(name), with_kwargs=True)
        for name, owners in users.items()
        for layer in owners
    ]
    with Handle(*hooks), _still(model):
        yield


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """Within the block the model runs in evaluation mode and uncompiled; compiled, it has no hooks."""
    with undisturbed(model), torch.compiler.set_stance("force_eager"):
        yield


def _run(model: nn.Module, x: Tensor) -> None:
    """Run the model on x, some examples at a time."""
    layers.check_batch("x", x)
    if x.is_floating_point():
        layers.check_finite("x", x)
    for examples in x.split(_at_once(x)):
        layers.run(model, examples)


def _at_once(x: Tensor) -> int:
    """How many examples of x run at once; integers are tokens."""
    return BATCH if x.is_floating_point() else max(1, TOKENS // max(1, x[0].numel()))


def _users(
    model: nn.Module, names: Iterable[str] | None, argument: str = "names"
) -> dict[str, list[nn.Linear]]:
    """Name of a weight -> the linear layers that compute with it, more than one if it is tied."""
    if isinstance(names, str):
        raise TypeError(f"{argument} must be several names, got the string {names!r}")
    weights = layers.weights(model)
    chosen = list(weights) if names is None else list(names)
    if not chosen:
        raise ValueError(f"{argument} must hold at least one weight, got none")
    for name in chosen:
        if name not in weights:
            raise ValueError(
                f"{argument} has {name!r}, which is no weight of a linear layer of model; it has "
                f"{', '.join(weights)}"
            )
    found: dict[str, list[nn.Linear]] = {name: [] for name in chosen}
    by_id = {id(model.get_parameter(name)): name for name in chosen}
    for path, module in model.named_modules():
        for parameter in module._parameters.values():
            if not (name := by_id.get(id(parameter))):
                continue
            if not isinstance(module, nn.Linear):
                raise NotImplementedError(
                    f"model must have a linear layer for {name!r}, but {path!r}, a "
                    f"{type(module).__name__}, computes with it: leave it out of {argument}"
                )
            found[name].append(module)
    return found
