r"""Optimal Brain Damage and Optimal Brain Surgeon, exactly, for networks of a few hundred weights.

Both expand the loss around a minimum, where the gradient is zero,

.. math:: \delta E = \tfrac12\, \delta w^\top H\, \delta w + O(\|\delta w\|^3),

and ask what deleting a weight does to it. OBD looks at the diagonal of H and leaves the other
weights alone; OBS uses all of H and moves them. The Hessian here is over *all* parameters, biases
included, in the order of ``named_parameters()`` and flattened row by row; scored and deleted are
the weights of linear and convolution layers, and OBS moves everything that is left.

The expansion needs a minimum: train to convergence, and pass the ``weight_decay`` trained with.
Compute in float64.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import layers
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
    r"""Optimal Brain Damage: what deleting a weight adds to the loss, by curvature alone.

    .. math:: s_k = \tfrac12\, h_{kk}\, u_k^2, \qquad h_{kk} = \partial^2 E / \partial u_k^2

    Three approximations: the loss is at a minimum (extremal), the expansion ends at second order
    (quadratic), and the effects of several deletions add up (diagonal). The paper computes
    :math:`h_{kk}` by a backward pass (section 2.1) that leaves out mixed derivatives between units;
    this is the exact second derivative.

    Source: LeCun et al. 1990, section 2, equations 1 to 3, and the recipe of 2.2 (read).

    Args:
        batch: inputs and targets, usually the whole training set.
        loss: (model's output, targets) -> a scalar.
        weight_decay: λ of a term ½ λ ‖w‖² over all parameters that the training loss also had.
        within: masks of an earlier round: the network is scored as they leave it, and what they
            removed scores -inf.

    Returns:
        Scores: parameter name -> tensor of the parameter's shape. Negative where the curvature is.

    Raises:
        ValueError: as ``criteria.snip``; more than 5,000 parameters, a Hessian that is not finite.
        TypeError: masks that are not bool.
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
    r"""Optimal Brain Surgeon's saliency: what deleting a weight adds to the loss if all others
    move to make up for it.

    .. math:: L_q = \frac12\, \frac{w_q^2}{[H^{-1}]_{qq}}

    Source: Hassibi & Stork 1992, equation 5 (formula checked in several accounts of the paper; of
    the paper only the abstract could be read, the equations' numbers are from memory).

    Args, Returns:
        as ``obd``; the scores are of the first deletion. ``obs_prune`` goes on from there. With
        ``within``, what was removed stays at zero while the others move.

    Raises:
        ValueError: as ``obd``; a Hessian that is not positive definite (not a minimum); frozen
            parameters, which cannot move.
    """
    w, inverse, _ = _at_minimum(model, batch, loss, weight_decay, within)
    return lowest(_by_name(model, saliency(w, inverse)), within)


def saliency(w: Tensor, inverse: Tensor) -> Tensor:
    """L_q = ½ w_q² / [H⁻¹]_qq for each q: (P,) weights and (P, P) inverse Hessian -> (P,)."""
    return w.square() / (2 * inverse.diagonal())


def delete(w: Tensor, inverse: Tensor, q: int) -> tuple[Tensor, Tensor]:
    r"""Delete weight q and let all others make up for it as well as they can.

    .. math:: \delta w = -\frac{w_q}{[H^{-1}]_{qq}}\, H^{-1} e_q, \qquad
              H^{-1} \leftarrow H^{-1} - \frac{H^{-1} e_q e_q^\top H^{-1}}{[H^{-1}]_{qq}}

    The first is Hassibi & Stork's equation 5. The second is the inverse of the Hessian without row
    and column q (they become 0), so that the next deletion leaves q alone: on a quadratic, deleting
    one after another is the constrained minimum over all of them.

    Args:
        w: (P,) weights. inverse: (P, P) inverse Hessian.

    Returns:
        New ``w`` with w_q = 0 exactly, and the new ``inverse``.
    """
    column = inverse[:, q] / inverse[q, q]  # H⁻¹ e_q / [H⁻¹]_qq
    w, inverse = w - w[q] * column, inverse - torch.outer(column, inverse[q])
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
    """Optimal Brain Surgeon down to a sparsity: delete the weight of lowest saliency, move the
    others, and again. One Hessian, of the network as given, serves all deletions; the paper
    computes it anew after each.

    Args:
        sparsity: the fraction removed of the weights of linear and convolution layers, those already
            gone included: ``round(sparsity * n)`` of them; of equal saliencies the later one goes.
        loss, weight_decay, within: as ``obs``.

    Returns:
        A new model, with zeros where weights went, and their masks.

    Raises:
        ValueError: as ``obs``; a sparsity outside [0, 1] or below that of ``within``.
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
    """The exact Hessian of the loss over all P parameters, (P, P); half precision in float32.

    Raises:
        ValueError, TypeError: as ``obd``.
    """
    w = _flat(model, within)  # refuses a model with nothing to prune, NaN, masks that do not fit
    if len(w) > LARGEST:
        raise ValueError(f"model must have at most {LARGEST:,} parameters, got {len(w):,}")
    if not 0 <= weight_decay < float("inf"):
        raise ValueError(f"weight_decay must be finite and >= 0, got {weight_decay!r}")
    shapes = {n: p.shape for n, p in model.named_parameters()}
    objective = loss_on(model, batch, loss)

    def energy(w: Tensor) -> Tensor:  # (P,) -> ()
        parts = w.split([shape.numel() for shape in shapes.values()])
        named = {n: v.view(shape) for (n, shape), v in zip(shapes.items(), parts, strict=True)}
        return objective(named) + weight_decay / 2 * w.square().sum()

    with evaluating(model), torch.compiler.set_stance("force_eager"):
        found = torch.func.hessian(energy)(w)
    layers.check_finite("the Hessian of the loss on batch", found)
    return found


def inverse_at(h: Tensor) -> Tensor:
    """The inverse of a (P, P) Hessian at a minimum.

    Raises:
        ValueError: ``h`` is not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(h)
    if failed:
        raise ValueError(
            "the Hessian must be positive definite, but its smallest eigenvalue is "
            f"{torch.linalg.eigvalsh(h)[0]:.2g}: train to a minimum, with some weight decay"
        )
    return torch.cholesky_inverse(factor)


def inverse_by_recursion(x: Tensor, alpha: float) -> Tensor:
    r"""The inverse Hessian without a Hessian: from outer products, one pattern after another.

    .. math:: H^{-1}_{m+1} = H^{-1}_m - \frac{H^{-1}_m X_{m+1} X_{m+1}^\top H^{-1}_m}
              {P + X_{m+1}^\top H^{-1}_m X_{m+1}}, \qquad H^{-1}_0 = \alpha^{-1} I

    After all patterns this is :math:`\big(\frac1P \sum_m X_m X_m^\top + \alpha I\big)^{-1}`. For a
    squared error on a fitted network, :math:`\frac1P \sum X X^\top` is the Hessian; elsewhere it is
    an approximation of it.

    Source: Hassibi & Stork 1992, section 3 (number from memory, formula as a survey quotes it; the
    tests check it by the Sherman–Morrison identity). Their number of patterns P is N here.

    Args:
        x: (N, P) gradients of the network's output, a row a pattern; with several outputs, a row
            for each output of each pattern, times the square root of the number of outputs.
        alpha: > 0, what is added to the diagonal; the paper uses 1e-8 to 1e-4.

    Raises:
        ValueError: ``alpha`` not positive, or ``x`` not a matrix.
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
    """All parameters in a row, (P,), as ``within`` leaves them, whatever their memory format."""
    parameters = {n: p.detach() for n, p in model.named_parameters()} | masked(model, within)
    return torch.cat([layers.at_least_float32(p).flatten() for p in parameters.values()])


def _at_minimum(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss: Loss,
    weight_decay: float,
    within: Masks | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters, (P,), inverse Hessian, (P, P), and which may still be deleted, (P,) bool. Rows and
    columns of what ``within`` has removed are 0, so that it stays where it is."""
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
    """A flat tensor over all parameters as a dict over the prunable ones."""
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    parts = dict(zip(sizes, flat.split(list(sizes.values())), strict=True))
    return {n: parts[n].view(w.shape) for n, w in layers.weights(model).items()}
