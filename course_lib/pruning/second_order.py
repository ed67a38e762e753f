r"""Optimal Brain Damage (OBD) and Optimal Brain Surgeon (OBS), computed exactly for small networks.

Both methods ask how the deletion of a weight changes the loss. At a minimum the gradient is zero,
and the second derivatives, the Hessian H, give the answer:

.. math:: \delta E = \tfrac12\, \delta w^\top H\, \delta w + O(\|\delta w\|^3)

OBD uses only the diagonal of H and does not move the other weights. OBS uses all of H and moves
them. Here H covers *all* parameters, including biases, in the order of ``named_parameters()`` and
flattened row by row. Only the weights of linear and convolution layers are scored and deleted; OBS
moves everything that is left.

Train to convergence first, because the formula holds at a minimum (``energy`` and ``minimise`` do
it), and pass the ``weight_decay`` that you trained with. Use float64.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import layers
from course_lib.data import check_counts, check_nonnegative
from course_lib.pruning.counting import check_sparsity
from course_lib.pruning.criteria import Loss, Scores, loss_on, lowest, masked
from course_lib.pruning.masks import Masks
from course_lib.training import evaluating

LARGEST = 5_000  # parameters; the Hessian in float64 then takes 200 MB


def obd(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss: Loss = F.cross_entropy,
    *,
    weight_decay: float = 0.0,
    within: Masks | None = None,
) -> Scores:
    r"""Optimal Brain Damage: what the deletion of a weight adds to the loss, by its own curvature.

    .. math:: s_k = \tfrac12\, h_{kk}\, u_k^2, \qquad h_{kk} = \partial^2 E / \partial u_k^2

    This makes three approximations: the loss is at a minimum (extremal), the expansion ends at
    second order (quadratic), and the effects of several deletions add up (diagonal). Here
    :math:`h_{kk}` is the exact second derivative. The paper computes it by a backward pass (section
    2.1) that leaves out mixed derivatives between units.

    Source: LeCun et al. 1990, section 2, equations 1 to 3, and the recipe of section 2.2.

    Args:
        batch: (inputs, targets), usually the whole training set.
        loss: (model's output, targets) -> a scalar.
        weight_decay: λ of the term ½ λ ‖w‖² over all parameters, if the training loss had one.
        within: masks of an earlier round. The network is scored under them, and the weights that
            they removed score -inf.

    Returns:
        Scores: parameter name -> tensor of the parameter's shape. A score is negative where the
        curvature is negative.

    Raises:
        ValueError: as ``criteria.snip``; more than 5,000 parameters, a Hessian that is not finite.
        TypeError: masks that are not bool.

    Examples:
        >>> layer = nn.Linear(2, 1, bias=False).double()
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 1.0]]))
        >>> batch = torch.eye(2).double(), torch.zeros(2, 1).double()
        >>> obd(layer, batch, lambda out, target: (out - target).square().sum())["weight"].tolist()
        [[9.0, 1.0]]
    """
    h = hessian(model, batch, loss, weight_decay=weight_decay, within=within).diagonal()  # (P,)
    return lowest(_by_name(model, h * _flat(model, within).square() / 2), within)


def obs(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss: Loss = F.cross_entropy,
    *,
    weight_decay: float = 0.0,
    within: Masks | None = None,
) -> Scores:
    r"""Optimal Brain Surgeon's saliency: what a deletion adds to the loss if the others adapt.

    .. math:: L_q = \frac12\, \frac{w_q^2}{[H^{-1}]_{qq}}

    Source: Hassibi & Stork 1992, equation 5.

    Args:
        batch, loss, weight_decay: as in ``obd``.
        within: as in ``obd``. What it removed stays at zero while the others move.

    Returns:
        Scores: as ``obd``. They hold for the first deletion; ``obs_prune`` deletes many weights.

    Raises:
        ValueError: as ``obd``; a Hessian that is not positive definite (not a minimum); frozen
            parameters, which cannot move.
        TypeError: masks that are not bool.
    """
    w, inverse, _ = _at_minimum(model, batch, loss, weight_decay, within)
    return lowest(_by_name(model, saliency(w, inverse)), within)


def saliency(w: Tensor, inverse: Tensor) -> Tensor:
    r"""The saliency of every weight.

    .. math:: L_q = \frac12\, \frac{w_q^2}{[H^{-1}]_{qq}}

    Args:
        w: (P,) weights.
        inverse: (P, P) inverse Hessian.

    Returns:
        (P,) saliencies.

    Examples:
        >>> saliency(torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
        tensor([0.5000, 0.5000])
    """
    return w.square() / (2 * inverse.diagonal())


def delete(w: Tensor, inverse: Tensor, q: int) -> tuple[Tensor, Tensor]:
    r"""Delete weight q, and let all others make up for it as well as they can.

    .. math:: \delta w = -\frac{w_q}{[H^{-1}]_{qq}}\, H^{-1} e_q, \qquad
              H^{-1} \leftarrow H^{-1} - \frac{H^{-1} e_q e_q^\top H^{-1}}{[H^{-1}]_{qq}}

    The second formula gives the inverse of the Hessian without row and column q, which become 0.
    The next deletion therefore does not move weight q. If the loss is quadratic, deletions one
    after another reach the constrained minimum over all of them.

    Source: Hassibi & Stork 1992, equation 5, for the first formula.

    Args:
        w: (P,) weights.
        inverse: (P, P) inverse Hessian.
        q: the index of the weight to delete.

    Returns:
        New weights, with w_q = 0 exactly, and the new inverse.

    Examples:
        >>> inverse = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> w, inverse = delete(torch.tensor([2.0, 5.0]), inverse, 0)
        >>> w, inverse
        (tensor([0., 4.]), tensor([[0.0000, 0.0000],
                [0.0000, 1.5000]]))
    """
    column = inverse[:, q] / inverse[q, q]  # H⁻¹ e_q / [H⁻¹]_qq
    w, inverse = w - w[q] * column, torch.addr(inverse, column, inverse[q], alpha=-1)
    w[q] = inverse[q, :] = inverse[:, q] = 0  # not merely close to it
    return w, inverse


def obs_prune(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    sparsity: float,
    *,
    loss: Loss = F.cross_entropy,
    weight_decay: float = 0.0,
    within: Masks | None = None,
) -> tuple[nn.Module, Masks]:
    """Prune by Optimal Brain Surgeon: delete the weight of lowest saliency, move the rest, repeat.

    One Hessian, that of the given network, serves all deletions. The paper computes it again after
    each deletion.

    Args:
        sparsity: the fraction removed of the weights of linear and convolution layers, including
            those already removed: ``round(sparsity * n)`` of n. Of equal saliencies the later one
            is deleted.
        loss, weight_decay, within: as in ``obs``.

    Returns:
        A new model, with zeros where weights were deleted, and its masks.

    Raises:
        ValueError: as ``obs``; a sparsity outside [0, 1] or below that of ``within``.
        TypeError: as ``obs``; a sparsity that is no number.
    """
    sparsity = check_sparsity("sparsity", sparsity)
    pruned = layers.copied(model)
    w, inverse, left = _at_minimum(model, batch, loss, weight_decay, within)
    n = sum(weight.numel() for weight in layers.weights(model).values())
    keep = n - round(sparsity * n)
    if keep > int(left.sum()):
        raise ValueError(
            f"sparsity={sparsity!r} keeps {keep} of {n} weights, "
            f"but within has only {int(left.sum())} left"
        )
    for _ in range(int(left.sum()) - keep):
        worth = saliency(w, inverse).masked_fill(~left, torch.inf)
        q = len(w) - 1 - int(worth.flip(0).argmin())
        w, inverse = delete(w, inverse, q)
        left[q] = False
    parameters = list(pruned.parameters())
    with torch.no_grad():
        for p, part in zip(parameters, w.split([p.numel() for p in parameters]), strict=True):
            p.copy_(part.view_as(p))
    return pruned, _by_name(model, left)


def hessian(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss: Loss = F.cross_entropy,
    *,
    weight_decay: float = 0.0,
    within: Masks | None = None,
) -> Tensor:
    """The exact Hessian of the loss over all P parameters, (P, P). Half precision gives float32.

    Args:
        batch, loss, weight_decay, within: as in ``obd``.

    Raises:
        ValueError, TypeError: as ``obd``.

    Examples:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> hessian(layer, (torch.eye(2), torch.zeros(2, 1)), lambda out, _: out.square().sum())
        tensor([[2., 0.],
                [0., 2.]])
    """
    w = _flat(model, within)  # refuses a model with nothing to prune, NaN, masks that do not fit
    if len(w) > LARGEST:
        raise ValueError(f"model must have at most {LARGEST:,} parameters, got {len(w):,}")
    found = torch.func.hessian(energy(model, batch, loss, weight_decay=weight_decay))(w)
    layers.check_finite("the Hessian of the loss on batch", found)
    return found


def energy(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss: Loss = F.cross_entropy,
    *,
    weight_decay: float = 0.0,
) -> Callable[[Tensor], Tensor]:
    """The training loss as a function of all P parameters in one row, (P,) -> ().

    The model stays as it is, and runs in evaluation mode.

    Args:
        batch, loss, weight_decay: as in ``obd``.

    Raises:
        ValueError: as ``obd``, but for the number of parameters. The function itself raises it for
            a batch that does not fit the model, and for a loss that is not one number.
        TypeError: a model in ``DataParallel``.

    Examples:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> batch = torch.eye(2), torch.zeros(2, 1)
        >>> loss = energy(layer, batch, lambda out, _: out.square().sum(), weight_decay=2.0)
        >>> loss(torch.tensor([1.0, 3.0]))  # 1 + 9, and as much again for the decay
        tensor(20.)
    """
    if not 0 <= weight_decay < float("inf"):
        raise ValueError(f"weight_decay must be finite and >= 0, got {weight_decay!r}")
    masked(model, None)  # refuses a model with nothing to prune, and NaN
    shapes = {n: p.shape for n, p in model.named_parameters()}
    objective = loss_on(model, batch, loss)

    def value(w: Tensor) -> Tensor:  # (P,) -> ()
        parts = w.split([shape.numel() for shape in shapes.values()])
        named = {n: v.view(shape) for (n, shape), v in zip(shapes.items(), parts, strict=True)}
        with evaluating(model), torch.compiler.set_stance("force_eager"):
            return objective(named) + weight_decay / 2 * w.square().sum()

    return value


def minimise(
    energy: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    free: Tensor | None = None,
    steps: int = 1000,
) -> Tensor:
    """The minimum of a smooth function near ``start``, by L-BFGS.

    It stops where no entry of the gradient is above 1e-5 in magnitude, or after so many steps.

    Args:
        energy: (P,) -> (), as ``energy`` makes it.
        start: (P,), float64. It is not changed.
        free: (P,) bool, the entries that may move; the others keep their values. None means all.
        steps: at most so many.

    Returns:
        (P,).

    Raises:
        ValueError: a ``free`` of another shape, or no steps.

    Examples:
        >>> bowl = lambda w: (w - torch.tensor([1.0, 2.0])).square().sum()
        >>> minimise(bowl, torch.zeros(2), free=torch.tensor([True, False]))
        tensor([1., 0.])
    """
    check_counts(steps=steps)
    if free is not None and free.shape != start.shape:
        raise ValueError(
            f"free must have the shape of start, {tuple(start.shape)}, got {tuple(free.shape)}"
        )
    w = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [w],
        max_iter=steps,
        tolerance_grad=1e-5,
        tolerance_change=0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value = energy(w)
        (w.grad,) = torch.autograd.grad(value, w)
        if free is not None:
            w.grad.mul_(free)
        return value

    optimizer.step(closure)
    return w.detach()


def inverse_at(h: Tensor, *, floor: float = 0.0) -> Tensor:
    """The inverse of a (P, P) Hessian at a minimum.

    Args:
        floor: if the smallest eigenvalue of ``h`` is below this number, so much is added to the
            diagonal that it is this number. A positive floor gives an inverse to any symmetric
            matrix, also where training stopped short of a minimum. (``inverse_by_recursion`` adds
            its ``alpha`` in all cases.)

    Raises:
        ValueError: ``h`` is not positive definite, and there is no floor; a negative floor.

    Examples:
        >>> inverse_at(torch.tensor([[-1.0, 0.0], [0.0, 2.0]]), floor=1.0).diagonal()
        tensor([1.0000, 0.2500])
    """
    check_nonnegative("floor", floor)
    if floor:
        lift = (floor - torch.linalg.eigvalsh(h)[0]).clamp(min=0)
        h = h + lift * torch.eye(len(h), dtype=h.dtype, device=h.device)
    factor, failed = torch.linalg.cholesky_ex(h)
    if failed:
        raise ValueError(
            "the Hessian must be positive definite, but its smallest eigenvalue is "
            f"{torch.linalg.eigvalsh(h)[0]:.2g}: train to a minimum, with some weight decay"
        )
    return torch.cholesky_inverse(factor)


def inverse_by_recursion(x: Tensor, alpha: float) -> Tensor:
    r"""The inverse Hessian from outer products of gradients, one pattern after another.

    .. math:: H^{-1}_{m+1} = H^{-1}_m - \frac{H^{-1}_m X_{m+1} X_{m+1}^\top H^{-1}_m}
              {P + X_{m+1}^\top H^{-1}_m X_{m+1}}, \qquad H^{-1}_0 = \alpha^{-1} I

    After all patterns this is :math:`\big(\frac1P \sum_m X_m X_m^\top + \alpha I\big)^{-1}`. For a
    squared error on a network that fits its data, :math:`\frac1P \sum X X^\top` is the Hessian. In
    other cases it is an approximation.

    Source: Hassibi & Stork 1992, section 3. Their number of patterns P is N below.

    Args:
        x: (N, P) gradients of the network's output, one row per pattern. With several outputs, one
            row per output of each pattern, multiplied by the square root of the number of outputs.
        alpha: the positive number added to the diagonal. The paper uses 1e-8 to 1e-4.

    Raises:
        ValueError: an ``alpha`` that is not positive, or an ``x`` that is no matrix.

    Examples:
        >>> inverse_by_recursion(torch.tensor([[1.0, 0.0]]), alpha=1.0)
        tensor([[0.5000, 0.0000],
                [0.0000, 1.0000]])
    """
    if x.dim() != 2 or not alpha > 0:
        raise ValueError(
            f"x must be (N, P) and alpha positive, got shape {tuple(x.shape)} and {alpha!r}"
        )
    inverse = torch.eye(x.shape[1], dtype=x.dtype, device=x.device) / alpha
    for row in x:
        column = inverse @ row
        inverse = inverse - torch.outer(column, column) / (len(x) + row @ column)
    return inverse


def _flat(model: nn.Module, within: Masks | None = None) -> Tensor:
    """All parameters in one row, (P,), under ``within``, whatever their memory format is."""
    weights = masked(model, within)
    parameters = {n: p.detach() for n, p in model.named_parameters()} | weights
    return torch.cat([layers.at_least_float32(p).flatten() for p in parameters.values()])


def _at_minimum(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss: Loss,
    weight_decay: float,
    within: Masks | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters (P,), inverse Hessian (P, P), and (P,) bool: which of them may still be deleted.

    Rows and columns of what ``within`` has removed are 0, so that it does not move.
    """
    layers.check_module(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            raise ValueError(f"model must have no frozen parameter, which OBS would move: {name!r}")
    h = hessian(model, batch, loss, weight_decay=weight_decay, within=within)
    scope, alive, left = layers.weights(model), [], []
    for name, p in model.named_parameters():
        keep = (within or {}).get(name, torch.ones_like(p, dtype=torch.bool))
        alive.append(keep.to(p.device).flatten())
        left.append(alive[-1] & (name in scope))
    inverse = torch.zeros_like(h)
    places = torch.cat(alive).nonzero().flatten()
    inverse[places[:, None], places] = inverse_at(h[places][:, places])
    return _flat(model, within), inverse, torch.cat(left)


def _by_name(model: nn.Module, flat: Tensor) -> dict[str, Tensor]:
    """A flat tensor over all parameters as a dict over the weights that may be pruned."""
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    parts = dict(zip(sizes, flat.split(list(sizes.values())), strict=True))
    return {n: parts[n].view(w.shape) for n, w in layers.weights(model).items()}
