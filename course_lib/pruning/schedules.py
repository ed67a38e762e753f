"""Sparsity over time: functions from a step to the fraction removed after it."""

from collections.abc import Callable

from course_lib.pruning.counting import check_sparsity
from course_lib.training import check_counts


def one_shot(final: float) -> Callable[[int], float]:
    """Nothing is removed at step 0, everything at step 1.

    Examples:
        >>> sparsity = one_shot(0.9)
        >>> [sparsity(step) for step in (0, 1, 2)]
        [0.0, 0.9, 0.9]
    """
    final = check_sparsity("final", final)
    return lambda step: final if step >= 1 else 0.0


def linear(final: float, steps: int) -> Callable[[int], float]:
    r"""The same *number* of weights is removed in every step.

    .. math:: s_t = s_T \, \frac{t}{T}

    Examples:
        >>> sparsity = linear(0.5, steps=2)
        >>> [sparsity(step) for step in (0, 1, 2)]
        [0.0, 0.25, 0.5]
    """
    return _schedule(final, steps, lambda t: final * t)


def geometric(final: float, steps: int) -> Callable[[int], float]:
    """The same *fraction of the remaining weights* is removed in every step.

    .. math:: 1 - s_t = (1 - s_T)^{t/T}

    Source: Frankle & Carbin 2019. (Han et al. 2015 do not say how much a round removes.)

    Examples:
        >>> sparsity = geometric(0.75, steps=2)
        >>> [sparsity(step) for step in (0, 1, 2)]
        [0.0, 0.5, 0.75]
    """
    return _schedule(final, steps, lambda t: 1 - (1 - final) ** t)


def cubic(final: float, steps: int) -> Callable[[int], float]:
    r"""Many weights are removed at first, few at the end.

    .. math:: s_t = s_T + (0 - s_T) \Big(1 - \frac{t}{T}\Big)^3

    Source: Zhu & Gupta 2017, equation 1, with initial sparsity 0, t₀ = 0 and n Δt = T.

    Examples:
        >>> sparsity = cubic(0.5, steps=2)
        >>> [sparsity(step) for step in (0, 1, 2)]
        [0.0, 0.4375, 0.5]
    """
    return _schedule(final, steps, lambda t: final - final * (1 - t) ** 3)


def _schedule(final: float, steps: int, curve: Callable[[float], float]) -> Callable[[int], float]:
    final = check_sparsity("final", final)
    check_counts(steps=steps)
    # Before step 0 nothing is pruned, after the last step nothing more. The end is exact.
    return lambda step: final if step >= steps else curve(max(step, 0) / steps)
