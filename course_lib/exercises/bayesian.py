"""The exercises of the lesson Bayesian pruning."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.exercises.common import dyadic, not_floats, pick, smallest_input
from course_lib.exercises.exercise import (
    UNCHANGED,
    Exercise,
    Lines,
    Property,
    WrongLine,
    show,
)

_SECTION = "lesson Bayesian pruning, section “Definition → code”"
# Which the lesson states. A floor of 1e-8 under the root, as in published code, is allowed.
ABSOLUTE, RELATIVE = 1e-3, 1e-4


# ---- A · local reparametrisation


def noisy_outputs(x: Tensor, theta: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """(examples, inputs), twice (outputs, inputs), (examples, outputs) -> (examples, outputs)."""
    variance = log_var.exp()
    variance = x.square() @ variance.T
    spread = variance.sqrt() * noise
    return x @ theta.T + spread


Layer = tuple[Tensor, Tensor, Tensor, Tensor]  # x, theta, log_var, noise
Moments = Callable[..., tuple[Tensor, Tensor]]  # of each output: mean and standard deviation


def _randn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal numbers in eighths, so that an input is short to read."""
    return dyadic(shape, generator, 8)


def _layers() -> Iterator[Layer]:
    for x, theta, log_var, noise in (
        ([[1.0, -2.0]], [[0.5, 1.0], [-1.0, 0.0]], [[0.0, 0.0], [2.0, -3.0]], [[1.0, -1.0]]),
        ([[2.0]], [[3.0]], [[0.0]], [[0.0]]),
        ([[2.0]], [[0.0]], [[0.0]], [[1.0]]),
        ([[-2.0]], [[1.0]], [[1.0]], [[-1.5]]),
        ([[0.0, 0.0]], [[1.0, 2.0]], [[0.0, 1.0]], [[2.0]]),
        ([[3.0, 4.0]], [[0.0, 0.0]], [[0.0, 0.0]], [[1.0]]),
        ([[1.0, -1.0]], [[1.0, 1.0]], [[0.0, 0.0]], [[1.0]]),
        ([[1.0, 2.0]], [[1.0, -1.0]], [[-100.0, -100.0]], [[4.0]]),
        ([[1000.0, 0.0]], [[0.001, 5.0]], [[-12.0, 9.0]], [[0.5]]),
        ([[0.01, 0.02]], [[1.0, 1.0]], [[9.0, 9.0]], [[-5.0]]),
        ([[0.001, 0.0]], [[1.0, 1.0]], [[20.0, 0.0]], [[0.3]]),
        ([[1000.0, -300.0]], [[5.0, 2.0]], [[1.0, 0.0]], [[-2.0]]),
    ):
        yield torch.tensor(x), torch.tensor(theta), torch.tensor(log_var), torch.tensor(noise)
    generator = torch.Generator().manual_seed(8)
    shapes = ((1, 1, 2), (1, 3, 1), (2, 2, 2), (3, 3, 3), (2, 4, 3), (5, 3, 4), (3, 1, 5))
    for examples, inputs, outputs in shapes * 3:
        x, theta = _randn((examples, inputs), generator), _randn((outputs, inputs), generator)
        log_var = 2 * _randn((outputs, inputs), generator) - pick((0, 2, 5), generator)
        yield x, theta, log_var, 1.5 * _randn((examples, outputs), generator)
    x, theta = _randn((3, 4), generator).double(), _randn((2, 4), generator).double()
    yield x, theta, theta - 1, _randn((3, 2), generator).double()
    x, theta = dyadic((20, 30), generator), dyadic((10, 30), generator)
    log_var = torch.randn(10, 30, generator=generator)
    yield x, theta, log_var, torch.randn(20, 10, generator=generator)


def _moments(x: Tensor, theta: Tensor, log_var: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each output, (examples, outputs)."""
    x, theta, log_var = x.double(), theta.double(), log_var.double()
    return x @ theta.T, (x.square() @ log_var.exp().T).sqrt()


def _conv_moments(
    x: Tensor, theta: Tensor, log_var: Tensor, bias: Tensor, _: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each output, in the shape of the noise."""
    x, theta, log_var, bias = x.double(), theta.double(), log_var.double(), bias.double()
    return F.conv2d(x, theta, bias), F.conv2d(x.square(), log_var.exp()).sqrt()


def _far(found: Tensor, wanted: Tensor, size: Tensor) -> Tensor:
    """Where two tensors differ by more than the tolerance; the relative one is of ``size``."""
    return (found - wanted).abs() > (RELATIVE * size.abs()).clamp(min=ABSOLUTE)


def _first(where: Tensor) -> str:
    """The place of the first True, as one would type the index."""
    return str(where.nonzero()[0].tolist())


# What a layer with noise does. ``moments(*inputs)`` is the truth, and the noise is the last input.


def _wrong_mean(moments: Moments, returned: Tensor, *inputs: Tensor) -> str | None:
    mean, _ = moments(*inputs)
    wrong = _far(returned, mean, mean) & (inputs[-1] == 0)
    if not wrong.any():
        return None
    return f"{mean[wrong][0]:.6g} at {_first(wrong)}, where the noise is 0"


def _wrong_spread(moments: Moments, returned: Tensor, *inputs: Tensor) -> str | None:
    mean, deviation = moments(*inputs)
    away, wanted = (returned - mean).abs(), deviation * inputs[-1].abs()
    wrong = _far(away, wanted, torch.maximum(mean.abs(), wanted))
    if not wrong.any():
        return None
    return f"{wanted[wrong][0]:.6g} away from the mean at {_first(wrong)}, not {away[wrong][0]:.6g}"


def _wrong_outputs(moments: Moments, returned: Tensor, *inputs: Tensor) -> str | None:
    mean, deviation = moments(*inputs)
    wanted = mean + deviation * inputs[-1]
    size = torch.maximum(mean.abs(), (wanted - mean).abs())
    return show(wanted) if _far(returned, wanted, size).any() else None


def _properties(
    moments: Moments, mean_hint: str, spread_says: str, spread_hint: str
) -> tuple[Property, ...]:
    return (
        Property(
            "returns floats of the shape of the noise",
            lambda returned, *inputs: not_floats(returned, inputs[-1]),
            "Return one tensor, with one number for each output of each example.",
        ),
        Property(
            "is finite",
            lambda returned, *_: None if returned.isfinite().all() else "finite numbers",
            "The root of a negative number is NaN. A variance is a sum of squares times variances, "
            "so what makes it negative?",
        ),
        Property(
            "is the plain layer where the noise is 0", partial(_wrong_mean, moments), mean_hint
        ),
        Property(spread_says, partial(_wrong_spread, moments), spread_hint),
        Property(
            "follows the noise that it is given",
            partial(_wrong_outputs, moments),
            "Each output of each example has its own number in noise, and it keeps its sign.",
        ),
        UNCHANGED,
    )


NOISY_OUTPUTS = Exercise(
    name="noisy_outputs",
    signature="noisy_outputs(x, theta, log_var, noise)",
    section=_SECTION,
    cases=_layers,
    expected=noisy_outputs,
    properties=_properties(
        _moments,
        "The mean of an output is that of the plain layer, Σ x θ over the inputs. Nothing is added "
        "where the output's own number in noise is 0.",
        "spreads each output by its standard deviation",
        "The variances of independent weights add up: x² σ² over the inputs, then one root. "
        "log_var is log σ².",
    ),
)


# ---- B · the convolution of a published library


def buggy_noisy_conv(
    x: Tensor, theta: Tensor, log_var: Tensor, bias: Tensor, noise: Tensor
) -> Tensor:
    """The outputs of a convolution with noisy weights, with their variance wrong."""
    mean = F.conv2d(x, theta, bias)
    variance = F.conv2d(x.square(), log_var.exp(), bias)
    return mean + variance.sqrt() * noise


def noisy_conv(x: Tensor, theta: Tensor, log_var: Tensor, bias: Tensor, noise: Tensor) -> Tensor:
    """The right answer: a bias without noise has no variance."""
    mean = F.conv2d(x, theta, bias)
    variance = F.conv2d(x.square(), log_var.exp())
    return mean + variance.sqrt() * noise


Conv = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # x, theta, log_var, bias, noise


def _convs() -> Iterator[Conv]:
    one = torch.ones(1, 1, 1, 1)
    yield 2 * one, 0.5 * one, 0 * one, torch.tensor([0.0]), one
    for bias, noise in ((1.0, 0.0), (1.0, 1.0), (-5.0, 1.0), (0.25, -2.0), (-0.5, 1.0)):
        yield one, 3 * one, 0 * one, torch.tensor([bias]), noise * one
    yield 0 * one, one, one, torch.tensor([-1.0]), 2 * one
    generator = torch.Generator().manual_seed(9)
    shapes = (
        ((1, 1, 2, 2), (1, 1, 1, 1)),
        ((1, 1, 3, 3), (2, 1, 2, 2)),
        ((2, 2, 3, 3), (1, 2, 2, 2)),
        ((2, 3, 4, 5), (4, 3, 3, 3)),
        ((3, 2, 4, 4), (2, 2, 3, 2)),
    )
    for images, kernel in shapes * 3:
        x, theta = _randn(images, generator), _randn(kernel, generator)
        log_var, bias = 2 * _randn(kernel, generator) - 2, _randn(kernel[:1], generator)
        out = [size - k + 1 for size, k in zip(images[2:], kernel[2:], strict=True)]
        yield x, theta, log_var, bias, dyadic((images[0], kernel[0], *out), generator)
    x, theta, bias = _randn((1, 2, 3, 3), generator), _randn((2, 2, 2, 2), generator), torch.ones(2)
    noise = dyadic((1, 2, 2, 2), generator)
    yield x.double(), theta.double(), theta.double() - 3, bias.double(), noise.double()
    yield 1000 * x, theta, theta - 12, bias, noise
    yield 0.01 * x, theta, theta + 9, -bias, noise


def _illegal_conv(
    x: Tensor, theta: Tensor, log_var: Tensor, bias: Tensor, noise: Tensor
) -> str | None:
    """None for inputs that the statement allows, else what it allows."""
    parts = (x, theta, log_var, bias, noise)
    fine = all(part.numel() and part.isfinite().all() for part in parts)
    fits = log_var.shape == theta.shape and bias.shape == theta.shape[:1] and x.dim() == 4
    if fine and fits and F.conv2d(x, theta, bias).shape == noise.shape:
        return None
    return (
        "finite tensors with at least one entry: x (examples, channels, height, width), theta and "
        "log_var of one kernel's shape, one bias per kernel, one number of noise per output"
    )


MENDED_NOISY_CONV = Exercise(
    name="mended_noisy_conv",
    signature="mended_noisy_conv(x, theta, log_var, bias, noise)",
    section=_SECTION,
    cases=_convs,
    legal=_illegal_conv,
    expected=noisy_conv,
    properties=_properties(
        _conv_moments,
        "The mean of an output is that of the plain convolution, with the bias. Nothing is added "
        "where the output's own number in noise is 0.",
        "spreads each output by its standard deviation, whatever the bias is",
        "A number that is always the same has the variance 0. The variance is the convolution of "
        "x² with σ², then comes the root. log_var is log σ².",
    ),
)

SMALLEST_NOISY_CONV = smallest_input(
    name="smallest_noisy_conv",
    wrong=buggy_noisy_conv,
    judged_by=MENDED_NOISY_CONV,
    at_most=5,
    hint="Without bias and without noise it is right. One example, one channel, one pixel and one "
    "weight are enough.",
)

PUZZLES = (
    Lines(
        name="noisy_outputs",
        function=noisy_outputs,
        distractors={
            "variance = log_var": "log_var is a logarithm, log σ².",
            "variance = x @ variance.T": "a weight's variance counts x² times.",
            "variance = x.abs() @ variance.T": "a weight's variance counts x² times.",
            "spread = variance * noise": "the noise has the standard deviation 1, and the output has "
            "the root of the variance.",
            "return x @ theta.T": "this is the mean alone, the layer without its noise.",
        },
    ),
    WrongLine(
        name="mended_noisy_conv",
        function=buggy_noisy_conv,
        wrong="variance = F.conv2d(x.square(), log_var.exp(), bias)",
        why="the bias is no random number, so it has no variance. Here a positive bias makes the "
        "outputs noisier, and a negative one can make the variance negative, and its root NaN.",
        others={
            "mean = F.conv2d(x, theta, bias)": "the bias does move the mean.",
            "return mean + variance.sqrt() * noise": "noise has the standard deviation 1, so its "
            "factor is a standard deviation.",
        },
    ),
)
EXERCISES = (NOISY_OUTPUTS, SMALLEST_NOISY_CONV, MENDED_NOISY_CONV)
