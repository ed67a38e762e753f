"""Scores: one number a weight that says how much it is worth keeping. Higher means keep.

In scope are the weights of linear and convolution layers (``layers.weights``).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad

from course_lib import layers
from course_lib.pruning import masks
from course_lib.pruning.masks import Masks
from course_lib.training import evaluating

Scores = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]  # (model's output, targets) -> ()


def magnitude(model: nn.Module) -> Scores:
    """The size of each weight.

    .. math:: S_{ij} = |W_{ij}|

    Source: Han et al. 2015, "Learning both weights and connections", section 3.

    Returns:
        Scores: parameter name -> tensor of the parameter's shape, >= 0.

    Raises:
        ValueError: ``model`` has no linear or convolution layer, or a weight that is NaN.
    """
    return {name: weight.abs() for name, weight in layers.weights(model).items()}


def random(model: nn.Module, *, seed: int) -> Scores:
    """Uniform random numbers in [0, 1): the control every other criterion has to beat.

    Returns:
        Scores: parameter name -> tensor of the parameter's shape, the same for the same ``seed``.

    Raises:
        ValueError: as ``magnitude``.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        # Drawn on the CPU, so that a GPU sees the same numbers.
        name: torch.rand(weight.shape, generator=generator).to(weight.device)
        for name, weight in layers.weights(model).items()
    }


def snip(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss: Loss = F.cross_entropy,
    *,
    within: Masks | None = None,
) -> Scores:
    r"""Connection sensitivity: how fast the loss changes as a weight is switched off.

    .. math:: s_j = \frac{|g_j|}{\sum_k |g_k|}, \qquad
              g_j = \left.\frac{\partial L(c \odot w)}{\partial c_j}\right|_{c = 1}
                  = w_j \frac{\partial L}{\partial w_j}

    Returned is :math:`|g_j|`: the sum in the denominator is one positive number for the whole
    network and changes no ranking, neither within layers nor over all of them.

    Source: Lee et al. 2019, section 4.1, equations 5 and 6, read in the paper's own text. (There the
    sum runs over all parameters; the authors' code scores biases too.)

    Args:
        batch: inputs and targets. The model runs in evaluation mode, as in the authors' code.
        loss: (model's output, targets) -> a scalar, the mean over the batch.
        within: masks of an earlier round: the network is scored as they leave it, and what they
            removed scores -inf.

    Returns:
        Scores: parameter name -> tensor of the parameter's shape, >= 0 (or -inf).

    Raises:
        ValueError: as ``magnitude``; an empty batch; a loss that is not one finite number; masks
            that do not fit the scored weights.
        TypeError: masks that are not bool.
    """
    weights, gradients = _gradients(model, batch, loss, within)
    return _lowest({n: (w * gradients[n]).abs() for n, w in weights.items()}, within)


def taylor(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss: Loss = F.cross_entropy,
    *,
    within: Masks | None = None,
) -> Scores:
    r"""Squared change of the loss without the weight, to first order.

    .. math:: \mathcal{I}_m = \big(E(\mathcal{D}, W) - E(\mathcal{D}, W \mid w_m = 0)\big)^2
              \approx (g_m w_m)^2, \qquad g_m = \frac{\partial E}{\partial w_m}

    On one batch this is the square of ``snip`` and ranks the weights of a network alike. The two
    differ in use: SNIP scores a network before training, this one a trained network, and over
    several batches the squares are averaged, not the gradients.

    Source: Molchanov et al. 2019, "Importance estimation for neural network pruning", there summed
    over the weights of a filter. (The formula as Tanaka et al. 2020 and two implementations quote
    it; the paper's own text was not at hand.)

    Args, Returns, Raises:
        as ``snip``.
    """
    weights, gradients = _gradients(model, batch, loss, within)
    return _lowest({n: (w * gradients[n]).square() for n, w in weights.items()}, within)


def synflow(model: nn.Module, input_shape: Sequence[int], *, within: Masks | None = None) -> Scores:
    r"""Synaptic flow: the share of a weight in all paths from the inputs to the outputs.

    .. math:: \mathcal{R}_{SF} = \mathbb{1}^\top \Big(\prod_{l=1}^{L} |\theta^{[l]}|\Big)
              \mathbb{1}, \qquad
              \mathcal{S}(\theta) = \frac{\partial \mathcal{R}_{SF}}{\partial |\theta|}
              \odot |\theta|

    The network is run with the absolute values of its parameters on one input of ones, in float64:
    a product over many layers leaves float32's range. It needs no data. Without biases, and with
    ReLU or no activation, every layer's scores add up to the same :math:`\mathcal{R}_{SF}`, so that
    a layer with few weights left holds the highest scores. That protects it only if scores are
    computed anew while pruning (``allocate.iteratively``): in one shot SynFlow empties layers too.

    As in the authors' code biases and buffers enter the flow by their absolute value, are not scored,
    and the model runs in evaluation mode; a non-zero bias adds flow that starts at its layer.

    Source: Tanaka et al. 2020, section 6 and algorithm 1. (The algorithm, evaluation mode included,
    was checked as quoted from the paper; score, conservation laws and the schedule ρ^(−k/n) with
    n = 100 in the authors' words in their patent specification; the section's number is from
    memory.)

    Args:
        input_shape: shape of one example, without the batch: (channels, height, width).
        within: as in ``snip``.

    Returns:
        Scores: parameter name -> float64 tensor of the parameter's shape, >= 0 (or -inf).

    Raises:
        ValueError: as ``magnitude``; a flow beyond float64; masks that do not fit.
        TypeError: masks that are not bool.
    """
    weights = {n: w.abs().double() for n, w in _masked(model, within).items()}
    others = dict(model.named_parameters()) | dict(model.named_buffers())
    others = {n: t.detach().abs().double() for n, t in others.items() if t.is_floating_point()}
    ones = torch.ones(
        1, *input_shape, dtype=torch.float64, device=next(iter(weights.values())).device
    )

    def flow(weights: dict[str, Tensor]) -> Tensor:
        return functional_call(model, others | weights, (ones,)).sum()

    with evaluating(model):
        if not (total := flow(weights)).isfinite():
            raise ValueError(f"model must have a finite flow in float64, got {total.item()}")
        gradients = grad(flow)(weights)
    return _lowest({n: w * gradients[n] for n, w in weights.items()}, within)


def check_batch(x: Tensor, y: Tensor) -> None:
    """A batch that a loss can be computed on, or a ValueError."""
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"batch must hold as many inputs as targets, at least one, got {len(x)} and {len(y)}"
        )


def _gradients(
    model: nn.Module, batch: tuple[Tensor, Tensor], loss: Loss, within: Masks | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights under ``within`` and the gradient of the loss there; the model stays as it is."""
    weights = _masked(model, within)
    x, y = batch
    check_batch(x, y)
    others = {n: p.detach() for n, p in model.named_parameters()}  # biases are constants here

    def objective(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        value = loss(functional_call(model, others | weights, (x,)), y)
        if value.dim():
            raise ValueError(f"loss must give one number, got shape {tuple(value.shape)}")
        return value, value

    with evaluating(model):
        gradients, value = grad(objective, has_aux=True)(weights)
    if not value.isfinite():
        raise ValueError(f"loss must be finite on batch, got {value.item()}")
    return weights, gradients


def _masked(model: nn.Module, within: Masks | None) -> dict[str, Tensor]:
    """The scored weights as an earlier round's masks leave them; copies where masked."""
    weights = layers.weights(model)
    masks.check(within or {}, weights, "within", "the scored layers")
    return weights | {n: weights[n].masked_fill(~keep, 0) for n, keep in (within or {}).items()}


def _lowest(scores: Scores, within: Masks | None) -> Scores:
    """-inf where ``within`` has removed: below every score, so that it stays removed."""
    return scores | {
        n: scores[n].masked_fill(~keep, -torch.inf) for n, keep in (within or {}).items()
    }
