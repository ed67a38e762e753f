"""Sparsity over time: step -> the fraction removed after it."""

from collections.abc import Callable

from course_lib.pruning.counting import check_sparsity
from course_lib.training import check_counts


def one_shot(final: float) -> Callable[[int], float]:
    """Step -> sparsity: nothing at step 0, everything at step 1."""
    final = check_sparsity("final", final)
    return lambda step: final if step >= 1 else 0.0


def linear(final: float, steps: int) -> Callable[[int], float]:
    """Step -> sparsity, s_t = s_T · t/T: the same *number* of weights goes in every step."""
    return _schedule(final, steps, lambda t: final * t)


def geometric(final: float, steps: int) -> Callable[[int], float]:
    """Step -> sparsity, 1 − s_t = (1 − s_T)^(t/T): the same *fraction of what is left* goes in every
    step, as in Frankle & Carbin 2019. (Han et al. 2015 do not say how much goes in a round.)"""
    return _schedule(final, steps, lambda t: 1 - (1 - final) ** t)


def cubic(final: float, steps: int) -> Callable[[int], float]:
    """Step -> sparsity, s_t = s_T + (0 − s_T)(1 − t/T)³: fast at first, gentle at the end.

    Source: Zhu & Gupta 2017, equation 1, with initial sparsity 0, t_0 = 0 and n Δt = T; checked
    against the documentation of the authors' TensorFlow code, not against the paper's own text.
    """
    return _schedule(final, steps, lambda t: final - final * (1 - t) ** 3)


def _schedule(final: float, steps: int, curve: Callable[[float], float]) -> Callable[[int], float]:
    final = check_sparsity("final", final)
    check_counts(steps=steps)
    # Before step 0 nothing is pruned, after the last step nothing more. The end is exact.
    return lambda step: final if step >= steps else curve(max(step, 0) / steps)
