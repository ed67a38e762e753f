"""Claims: sentences that a notebook supports with data and shows with their uncertainty.

A lesson says "A beats B" by calling ``greater``. The cell then shows the difference with its
confidence interval, or raises an error if the data do not support the sentence. "No difference" is
a claim too: ``equal`` states it with a margin. The output of the cell holds the claim as data, with
seeds and versions, and the book collects all claims on one page.

``book/replicate.py`` runs the lessons on other random numbers and sets the environment variable
``COURSE_REPLICATE``. A claim that fails is then shown like the others, and the notebook goes on.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape

import numpy as np
import torch
from IPython.display import display
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
    relation: str  #: ``greater by`` or ``equal within``
    margin: float  #: of the relation, in ``unit``
    exploratory: bool  #: the sentence was found in these data, not written down before
    holds: bool  #: whether the data support the sentence
    versions: dict[str, str]

    def __str__(self) -> str:
        mark = " (exploratory)" if self.exploratory else ""
        return (
            f"{self.statement}{mark}: {_signed(self.mean)} ± {self.half_width:.2g} {self.unit} "
            f"(95 % interval of the paired difference, {len(self.seeds)} seeds, sd {self.sd:.2g})"
        )

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        html = f'<p class="course-claim"><strong>Measured.</strong> {escape(str(self))}</p>'
        return {"text/plain": str(self), "text/html": html, MIME: asdict(self)}


def greater(
    statement: str,
    a: Sequence[float],
    b: Sequence[float],
    *,
    by: float = 0.0,
    unit: str = "points",
    exploratory: bool = False,
) -> Claim:
    """Claim that ``a`` is greater than ``b`` by more than ``by``, on average over the seeds.

    The differences are paired: seed 0 of ``a`` with seed 0 of ``b``, and so on. The data support the
    claim if the whole 95 % confidence interval of their mean lies above ``by``. If the true mean
    difference is ``by``, this happens by chance in one of forty experiments.

    Args:
        statement: the sentence without numbers; the function adds them.
        a, b: one value per seed, for the seeds 0, 1, 2, …, at least five.
        by: the margin, in ``unit``. Below 0, ``a`` may be that much worse.
        exploratory: whether the sentence was found in these data and has not been tested on others.

    Raises:
        AssertionError: the data do not support the sentence.
        ValueError: fewer than five seeds, unpaired values, or values or a margin that are not
            finite.

    Examples:
        >>> a, b = [97.1, 97.3, 96.9, 97.2, 97.0], [95.0, 95.4, 95.1, 95.2, 94.8]
        >>> print(greater("A beats B", a, b))
        A beats B: +2.00 ± 0.2 points (95 % interval of the paired difference, 5 seeds, sd 0.16)
    """
    return _supported(_claim(statement, (a, b), "greater by", by, unit, exploratory))


def equal(
    statement: str,
    a: Sequence[float],
    b: Sequence[float],
    *,
    within: float,
    unit: str = "points",
    exploratory: bool = False,
) -> Claim:
    """Claim that ``a`` and ``b`` differ by less than ``within``, on average over the seeds.

    The data support the claim if the whole 95 % confidence interval of the mean paired difference
    lies between −``within`` and +``within``. An interval that contains zero is not enough: with few
    seeds it is wide, and a large difference could be missed.

    Args:
        statement, a, b, exploratory: as in ``greater``.
        within: the margin, in ``unit``.

    Raises:
        AssertionError: the data do not support the sentence.
        ValueError: as ``greater``.

    Examples:
        >>> a, b = [97.1, 97.3, 96.9, 97.2, 97.0], [97.0, 97.4, 97.0, 97.1, 97.1]
        >>> print(equal("A and B do not differ", a, b, within=0.5))
        A and B do not differ: -0.02 ± 0.14 points (95 % interval ... 5 seeds, sd 0.11)
    """
    return _supported(_claim(statement, (a, b), "equal within", within, unit, exploratory))


def _supported(claim: Claim) -> Claim:
    """Return the claim. One that does not hold is an error, or shown where claims are replicated."""
    if os.environ.get("COURSE_REPLICATE"):
        display(claim)  # also where the claim is not the last line of its cell
    elif not claim.holds:
        needs = "more" if claim.relation == "greater by" else "less"
        needs = f"{needs} than {claim.margin:g} {claim.unit}"
        raise AssertionError(f"not supported (needs {needs}): {claim}")
    return claim


def _claim(
    statement: str,
    values: tuple[Sequence[float], Sequence[float]],
    relation: str,
    margin: float,
    unit: str,
    exploratory: bool,
) -> Claim:
    if not math.isfinite(margin):
        raise ValueError(f"the margin must be finite, got {margin!r}")
    first, second = (np.asarray(v, dtype=float) for v in values)
    if first.ndim != 1 or first.shape != second.shape or len(first) < MIN_SEEDS:
        raise ValueError(
            f"a and b must hold one value per seed for the same {MIN_SEEDS} or more seeds, "
            f"got shapes {first.shape} and {second.shape}"
        )
    if not np.isfinite([first, second]).all():
        raise ValueError(f"a and b must be finite, got {first} and {second}")
    d, n = first - second, len(first)
    mean, sd = float(d.mean()), float(d.std(ddof=1))
    half_width = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    low, high = mean - half_width, mean + half_width
    holds = low > margin if relation == "greater by" else max(-low, high) < margin
    versions = {"course_lib": course_lib.__version__, "torch": torch.__version__}
    seeds = list(range(n))
    rule = (relation, float(margin), exploratory, holds)
    return Claim(statement, mean, sd, half_width, seeds, unit, *rule, versions)


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
