"""Claims: sentences that a notebook supports with data and shows with their uncertainty.

A lesson says "A beats B" by calling ``greater``. The cell then shows the difference with its
confidence interval, or raises an error if the data do not support the sentence. "No difference" is
a claim too: ``equal`` states it with a margin. The output of the cell holds the claim as data, with
seeds and versions, and the book collects all claims on one page.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape

import numpy as np
import torch
from scipy import stats

import course_lib

MIME = "application/vnd.course-lib.claim+json"
MIN_SEEDS = 5


@dataclass(frozen=True)
class Claim:
    """A measured difference of paired runs, and the sentence that it supports."""

    statement: str
    mean: float  #: of the differences, in ``unit``
    sd: float  #: sample standard deviation of the differences
    half_width: float  #: half the width of the 95 % confidence interval of the mean
    seeds: list[int]
    unit: str
    versions: dict[str, str]

    def __str__(self) -> str:
        return (
            f"{self.statement}: {_signed(self.mean)} ± {self.half_width:.2g} {self.unit} "
            f"(95 % interval of the paired difference, {len(self.seeds)} seeds, sd {self.sd:.2g})"
        )

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        html = f'<p class="course-claim"><strong>Measured.</strong> {escape(str(self))}</p>'
        return {"text/plain": str(self), "text/html": html, MIME: asdict(self)}


def greater(
    statement: str, a: Sequence[float], b: Sequence[float], *, by: float = 0.0, unit: str = "points"
) -> Claim:
    """Claim that ``a`` is greater than ``b`` by more than ``by``, on average over the seeds.

    The differences are paired: seed 0 of ``a`` with seed 0 of ``b``, and so on. The data support the
    claim if the whole 95 % confidence interval of their mean lies above ``by``. If the true mean
    difference is ``by``, this happens by chance in one of forty experiments.

    Args:
        statement: the sentence without numbers; the function adds them.
        a, b: one value per seed, for the seeds 0, 1, 2, …, at least five.
        by: the margin, in ``unit``.

    Raises:
        AssertionError: the data do not support the sentence.
        ValueError: fewer than five seeds, unpaired values, or values that are not finite.

    Examples:
        >>> a, b = [97.1, 97.3, 96.9, 97.2, 97.0], [95.0, 95.4, 95.1, 95.2, 94.8]
        >>> print(greater("A beats B", a, b))
        A beats B: +2.00 ± 0.2 points (95 % interval of the paired difference, 5 seeds, sd 0.16)
    """
    claim = _difference(statement, a, b, unit)
    if not claim.mean - claim.half_width > by:
        raise AssertionError(f"not supported (needs more than {by:g} {unit}): {claim}")
    return claim


def equal(
    statement: str, a: Sequence[float], b: Sequence[float], *, within: float, unit: str = "points"
) -> Claim:
    """Claim that ``a`` and ``b`` differ by less than ``within``, on average over the seeds.

    The data support the claim if the whole 95 % confidence interval of the mean paired difference
    lies between −``within`` and +``within``. An interval that contains zero is not enough: with few
    seeds it is wide, and a large difference could be missed.

    Args:
        statement, a, b: as in ``greater``.
        within: the margin, in ``unit``.

    Raises:
        AssertionError: the data do not support the sentence.
        ValueError: as ``greater``.

    Examples:
        >>> a, b = [97.1, 97.3, 96.9, 97.2, 97.0], [97.0, 97.4, 97.0, 97.1, 97.1]
        >>> print(equal("A and B do not differ", a, b, within=0.5))
        A and B do not differ: -0.02 ± 0.14 points (95 % interval ... 5 seeds, sd 0.11)
    """
    claim = _difference(statement, a, b, unit)
    if not abs(claim.mean) + claim.half_width < within:
        raise AssertionError(f"not supported (needs less than {within:g} {unit}): {claim}")
    return claim


def _difference(statement: str, a: Sequence[float], b: Sequence[float], unit: str) -> Claim:
    first, second = (np.asarray(v, dtype=float) for v in (a, b))
    if first.ndim != 1 or first.shape != second.shape or len(first) < MIN_SEEDS:
        raise ValueError(
            f"a and b must hold one value per seed for the same {MIN_SEEDS} or more seeds, "
            f"got shapes {first.shape} and {second.shape}"
        )
    if not np.isfinite([first, second]).all():
        raise ValueError(f"a and b must be finite, got {first} and {second}")
    d, n = first - second, len(first)
    half_width = float(stats.t.ppf(0.975, n - 1)) * d.std(ddof=1) / math.sqrt(n)
    versions = {"course_lib": course_lib.__version__, "torch": torch.__version__}
    return Claim(
        statement, float(d.mean()), float(d.std(ddof=1)), half_width, list(range(n)), unit, versions
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}" if abs(value) < 10 else f"{value:+.1f}"


def mean(values: Sequence[float]) -> float:
    """Mean over seeds.

    Raises:
        ValueError: no values.
    """
    of_seeds = np.asarray(values, dtype=float)
    if len(of_seeds) < 1:
        raise ValueError("values must hold at least one seed, got none")
    return float(of_seeds.mean())


def mean_sd(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation over seeds, as tables and sentences print it.

    Raises:
        ValueError: fewer than two values.

    Examples:
        >>> mean_sd([97.0, 96.0, 98.0])
        '97.0 ± 1.0'
    """
    v = np.asarray(values, dtype=float)
    if len(v) < 2:
        raise ValueError(f"values must hold at least two seeds, got {len(v)}")
    return f"{v.mean():.1f} ± {v.std(ddof=1):.1f}"
