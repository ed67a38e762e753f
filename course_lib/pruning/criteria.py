"""Scores of single weights: one number per weight that says how much it is worth keeping.

A higher score means keep. The weights of linear and convolution layers are scored
(``layers.weights``); biases and all other parameters are not. A function that runs the model runs
it in evaluation mode and leaves it as it was.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad

from course_lib import layers, seeds
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
        ValueError: a ``model`` without a linear or convolution layer, or with a weight that is not
            a plain parameter or not finite.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.5, -2.0]]))
        >>> magnitude(layer)
        {'weight': tensor([[0.5000, 2.0000]])}
    """
    return {name: weight.abs() for name, weight in layers.weights(model).items()}


def random(model: nn.Module, *, seed: int) -> Scores:
    """Uniform random numbers in [0, 1): the control that every other criterion has to beat.

    Returns:
        Scores: parameter name -> float32 tensor of the parameter's shape. The same ``seed``
        gives the same scores.

    Raises:
        ValueError: as ``magnitude``.
        TypeError: a seed that is no integer.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> bool((random(layer, seed=0)["weight"] == random(layer, seed=0)["weight"]).all())
        True
    """
    generator = seeds.generator(seed)
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

    The function returns :math:`|g_j|`. The sum in the denominator is one positive number for the
    whole network, so it changes no ranking. (In the paper the sum runs over all parameters, and the
    authors' code scores biases too.) Half precision is computed in float32, and then the scores are
    float32.

    Source: Lee et al. 2019, section 4.1, equations 5 and 6.

    Args:
        batch: (inputs, targets).
        loss: (model's output, targets) -> a scalar, the mean over the batch.
        within: masks of an earlier round. The network is scored under them, and the weights that
            they removed score -inf.

    Returns:
        Scores: parameter name -> tensor of the parameter's shape, >= 0 (or -inf). A layer that the
        model does not use scores 0. A tied weight has one score, for all its uses together.

    Raises:
        ValueError: as ``magnitude``; a batch that is empty or does not fit the model or the loss; a
            loss or gradient that is not finite; a loss of more than one number; masks that do not
            fit the scored weights.
        TypeError: masks that are not bool.

    Examples:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.5, -2.0]]))
        >>> batch = torch.tensor([[2.0, 1.0]]), torch.zeros(1, 1)
        >>> snip(layer, batch, lambda out, _: out.sum())
        {'weight': tensor([[1., 2.]])}
    """
    weights, gradients = _gradients(model, batch, loss, within)
    return lowest({n: (w * gradients[n]).abs() for n, w in weights.items()}, within)


def taylor(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss: Loss = F.cross_entropy,
    *,
    within: Masks | None = None,
) -> Scores:
    r"""The squared change of the loss when the weight is removed, to first order.

    .. math:: \mathcal{I}_m = \big(E(\mathcal{D}, W) - E(\mathcal{D}, W \mid w_m = 0)\big)^2
              \approx (g_m w_m)^2, \qquad g_m = \frac{\partial E}{\partial w_m}

    On one batch this is the square of ``snip``, and both rank the weights of a network alike. They
    are used differently: SNIP scores a network before training, and this criterion scores a trained
    network. Over several batches it averages the squares, and SNIP averages the gradients.

    Source: Molchanov et al. 2019, "Importance estimation for neural network pruning", where the
    scores of a filter's weights are added up.

    Args:
        batch, loss, within: as in ``snip``.

    Returns:
        Scores: as ``snip``.

    Raises:
        ValueError, TypeError: as ``snip``.
    """
    weights, gradients = _gradients(model, batch, loss, within)
    return lowest({n: (w * gradients[n]).square() for n, w in weights.items()}, within)


def synflow(model: nn.Module, input_shape: Sequence[int], *, within: Masks | None = None) -> Scores:
    r"""Synaptic flow: the weight's share of all paths from the inputs to the outputs.

    .. math:: \mathcal{R}_{SF} = \mathbb{1}^\top \Big(\prod_{l=1}^{L} |\theta^{[l]}|\Big)
              \mathbb{1}, \qquad
              \mathcal{S}(\theta) = \frac{\partial \mathcal{R}_{SF}}{\partial |\theta|}
              \odot |\theta|

    The criterion needs no data: the network runs with the absolute values of its parameters on one
    input of ones. It runs in float64, because a product over many layers leaves the range of
    float32.

    Without biases, and with ReLU or no activation, the scores of every layer add up to the same
    :math:`\mathcal{R}_{SF}`, so a layer with few weights has the highest scores. This protects the
    layer only if scores are computed again while pruning (``allocate.iteratively``). In one step,
    SynFlow too can empty a layer.

    Biases and buffers enter the flow with their absolute values and are not scored, as in the
    authors' code. A bias that is not zero adds flow that starts at its layer.

    Source: Tanaka et al. 2020, section 6 and algorithm 1.

    Args:
        input_shape: shape of one example, without the batch: (channels, height, width).
        within: as in ``snip``.

    Returns:
        Scores: parameter name -> float64 tensor of the parameter's shape, >= 0 (or -inf).

    Raises:
        ValueError: as ``magnitude``; a shape that does not fit the model; a flow beyond float64;
            masks that do not fit.
        TypeError: masks that are not bool, a model that does not return a tensor.

    Examples:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.5, -2.0]]))
        >>> synflow(layer, (2,))["weight"].tolist()
        [[0.5, 2.0]]
    """
    weights = {n: w.abs().double() for n, w in masked(model, within).items()}
    others = dict(model.named_parameters()) | dict(model.named_buffers())
    others = {n: t.detach().abs().double() for n, t in others.items() if t.is_floating_point()}
    device = next(iter(weights.values())).device
    ones = torch.ones(1, *_checked_shape(input_shape), dtype=torch.float64, device=device)

    def flow(weights: dict[str, Tensor]) -> Tensor:
        with layers.fitting("input_shape", ones):
            out = layers.called_with(model, others | weights, ones)
        if not isinstance(out, Tensor):
            raise TypeError(f"model must return a tensor, got {type(out).__name__}")
        return out.sum()

    with evaluating(model), torch.compiler.set_stance("force_eager"):
        if not (total := flow(weights)).isfinite():
            raise ValueError(f"model must have a finite flow in float64, got {total.item()}")
        gradients = grad(flow)(weights)
    return lowest({n: w * gradients[n] for n, w in weights.items()}, within)


def check_batch(x: Tensor, y: Tensor) -> None:
    """Check that a batch holds as many inputs as targets, and at least one.

    Raises:
        ValueError: otherwise.
    """
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"batch must hold as many inputs as targets, at least one, got {len(x)} and {len(y)}"
        )


def loss_on(
    model: nn.Module, batch: tuple[Tensor, Tensor], loss: Loss
) -> Callable[[dict[str, Tensor]], Tensor]:
    """The loss on a batch as a function of the parameters, name -> tensor.

    Parameters that the function is not given keep their values. The model does not change; the
    caller puts it in evaluation mode.

    Raises:
        ValueError: an empty batch. The function itself raises it for a batch that does not fit, and
            for a loss that is not one number.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ValueError(f"batch must be a pair, inputs and targets, got {type(batch).__name__}")
    x, y = batch
    check_batch(x, y)
    layers.check_made(model)
    constants = dict(model.named_parameters()) | dict(model.named_buffers())
    constants = {n: layers.at_least_float32(t.detach()) for n, t in constants.items()}
    x = layers.at_least_float32(x)

    def value(parameters: dict[str, Tensor]) -> Tensor:
        with layers.fitting("batch", x):
            out = layers.called_with(model, constants | parameters, x)
        try:
            found = loss(out, y)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"batch must have targets that fit the loss: {error}") from error
        if not isinstance(found, Tensor) or found.dim():
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"loss must give one number, got shape {shape}")
        return found

    return value


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    sides = tuple(shape) if isinstance(shape, Sequence) else ()
    if not sides or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sides):
        raise ValueError(
            f"input_shape must be positive integers, (channels, height, width), got {shape!r}"
        )
    return sides


def _gradients(
    model: nn.Module, batch: tuple[Tensor, Tensor], loss: Loss, within: Masks | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights under ``within``, and the gradient of the loss there."""
    weights = {n: layers.at_least_float32(w) for n, w in masked(model, within).items()}
    objective = loss_on(model, batch, loss)

    def twice(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        value = objective(weights)
        return value, value

    with evaluating(model), torch.compiler.set_stance("force_eager"):
        gradients, value = grad(twice, has_aux=True)(weights)
    if not value.isfinite():
        raise ValueError(f"loss must be finite on batch, got {value.item()}")
    for name, gradient in gradients.items():
        layers.check_finite(f"the gradient of the loss on batch in {name!r}", gradient)
    return weights, gradients


def masked(model: nn.Module, within: Masks | None) -> dict[str, Tensor]:
    """The scored weights under the masks of an earlier round; masked weights are copies.

    Raises:
        ValueError: masks that do not fit the scored weights.
        TypeError: masks that are not bool; a model in ``DataParallel``, which always runs with its
            own weights.
    """
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise TypeError(f"model must be the network itself, model.module of {type(model).__name__}")
    weights = layers.weights(model)
    masks.check(within or {}, weights, "within", "the scored layers")
    return weights | _filled(weights, within, 0)


def lowest(scores: Scores, within: Masks | None) -> Scores:
    """-inf where ``within`` has removed a weight: below every score, so that it stays removed."""
    return scores | _filled(scores, within, -torch.inf)


def _filled(values: dict[str, Tensor], within: Masks | None, value: float) -> dict[str, Tensor]:
    return {
        n: values[n].masked_fill(~keep.to(values[n].device), value)
        for n, keep in (within or {}).items()
    }
