"""Claims: sentences that a notebook supports with data and shows with their uncertainty.

A lesson says "A beats B" by calling ``greater``. The cell then shows the difference with its
confidence interval. "No difference" is a claim too: ``equal`` states it with a margin. ``every``
counts seeds instead, and ``faster`` compares timings. The output of the cell holds the claim as
data, with seeds and versions, and the book collects all claims on one page.

Where the data do not support a sentence, the cell says so: a notebook never stops in class because
a processor rounds differently. Where the environment variable ``CI`` is set, as in the project's own
checks, an unsupported claim is an error. ``book/replicate.py`` runs the lessons on other random
numbers and sets ``COURSE_REPLICATE``: then claims are noted, and none is an error.
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
from course_lib.measure import Seconds

MIME = "application/vnd.course-lib.claim+json"
MIN_SEEDS = 5
#: "exploratory": the sentence was found in these data. "usually": it fails on some random numbers.
MARKS = ("", "exploratory", "usually")


@dataclass(frozen=True)
class Claim:
    """What paired runs measured, and the sentence that it supports."""

    statement: str
    effect: str  #: in words: a mean difference and its interval, or a count
    mean: float  #: of the differences, in ``unit``
    sd: float  #: sample standard deviation of the differences
    half_width: float  #: half the width of the 95 % confidence interval of the mean
    seeds: list[int]
    unit: str
    relation: str  #: ``greater by``, ``equal within`` or ``every``
    margin: float  #: of the relation, in ``unit``
    mark: str  #: one of ``MARKS``; a claim with a mark is shown and not asserted
    holds: bool  #: whether the data support the sentence
    versions: dict[str, str]

    def __str__(self) -> str:
        mark = f" ({self.mark})" if self.mark else ""
        missed = "" if self.holds else ". This run does not support the sentence"
        return f"{self.statement}{mark}: {self.effect}{self._how()}{missed}{self._direction()}"

    def _how(self) -> str:
        if self.relation == "every":
            return ""
        seeds = f"{len(self.seeds)} seeds, sd {self.sd:.2g}"
        return f" (95 % interval of the paired difference, {seeds})"

    def _direction(self) -> str:
        """What "no difference" leaves out: that there is one, smaller than the margin."""
        if self.relation != "equal within" or abs(self.mean) <= self.half_width:
            return ""
        sign = "positive" if self.mean > 0 else "negative"
        return f". Zero lies outside the interval: there is a difference, and it is {sign}"

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        return {**_shown(str(self)), MIME: asdict(self)}


@dataclass(frozen=True)
class Faster:
    """Which of two networks was faster, and by how much."""

    statement: str
    ratio: float  #: of the medians, slow / fast
    holds: bool  #: the quartiles do not overlap

    def __str__(self) -> str:
        missed = "" if self.holds else ". The quartiles overlap, so this run does not show it"
        return f"{self.statement}: {self.ratio:.2g} times as fast by the median turn{missed}"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return _shown(str(self))


def _shown(text: str) -> dict[str, str]:
    html = f'<p class="course-claim"><strong>Measured.</strong> {escape(text)}</p>'
    return {"text/plain": text, "text/html": html}


def greater(
    statement: str,
    a: Sequence[float],
    b: Sequence[float],
    *,
    by: float = 0.0,
    unit: str = "points",
    mark: str = "",
) -> Claim:
    """Claim that ``a`` is greater than ``b`` by more than ``by``, on average over the seeds.

    The differences are paired: seed 0 of ``a`` with seed 0 of ``b``, and so on. The data support the
    claim if the whole 95 % confidence interval of their mean lies above ``by``. If the true mean
    difference is ``by``, this happens by chance in one of forty experiments.

    Args:
        statement: the sentence without numbers; the function adds them.
        a, b: one value per seed, for the seeds 0, 1, 2, …, at least five.
        by: the margin, in ``unit``. Below 0, ``a`` may be that much worse.
        mark: "exploratory" if the sentence was found in these data and has not been tested on
            others; "usually" if it fails on some sets of random numbers.

    Raises:
        AssertionError: the data do not support a sentence without mark, and ``CI`` is set.
        ValueError: fewer than five seeds, unpaired values, values or a margin that are not finite,
            or an unknown mark.

    Examples:
        >>> a, b = [97.1, 97.3, 96.9, 97.2, 97.0], [95.0, 95.4, 95.1, 95.2, 94.8]
        >>> print(greater("A beats B", a, b))
        A beats B: +2.00 ± 0.2 points (95 % interval of the paired difference, 5 seeds, sd 0.16)
    """
    return _supported(_claim(statement, (a, b), "greater by", by, unit, mark))


def equal(
    statement: str,
    a: Sequence[float],
    b: Sequence[float],
    *,
    within: float,
    unit: str = "points",
    mark: str = "",
) -> Claim:
    """Claim that ``a`` and ``b`` differ by less than ``within``, on average over the seeds.

    The data support the claim if the whole 95 % confidence interval of the mean paired difference
    lies between −``within`` and +``within``. An interval that contains zero is not enough: with few
    seeds it is wide, and a large difference could be missed. If it leaves zero out, the cell says so.

    Args:
        statement, a, b, mark: as in ``greater``.
        within: the margin, in ``unit``.

    Raises:
        AssertionError, ValueError: as ``greater``.

    Examples:
        >>> a, b = [97.1, 97.3, 96.9, 97.2, 97.0], [97.0, 97.4, 97.0, 97.1, 97.1]
        >>> print(equal("A and B do not differ", a, b, within=0.5))
        A and B do not differ: -0.02 ± 0.14 points (95 % interval ... 5 seeds, sd 0.11)
    """
    return _supported(_claim(statement, (a, b), "equal within", within, unit, mark))


def every(statement: str, outcomes: Sequence[bool]) -> Claim:
    """Claim that something happened with every seed; the cell shows the count.

    For outcomes that are alike in all seeds an interval of width zero would promise too much. The
    count comes with the exact lower bound of Clopper and Pearson at 95 %, two-sided: from n successes
    of n, the true rate is at least 0.025^(1/n).

    Args:
        outcomes: one truth value per seed, at least five.

    Raises:
        AssertionError: one of them is false, and ``CI`` is set.
        ValueError: fewer than five outcomes.

    Examples:
        >>> print(every("The rule finds XOR", [True] * 20))
        The rule finds XOR: 20 of 20 seeds (at 95 % confidence in at least 83 % of all)
    """
    happened, n = sum(map(bool, outcomes)), len(outcomes)
    if n < MIN_SEEDS:
        raise ValueError(f"outcomes must hold one value for {MIN_SEEDS} or more seeds, got {n}")
    low = stats.beta.ppf(0.025, happened, n - happened + 1) if happened else 0.0
    effect = f"{happened} of {n} seeds (at 95 % confidence in at least {100 * low:.0f} % of all)"
    rule = ("% of seeds", "every", 100.0, "", happened == n)
    return _supported(
        Claim(statement, effect, 100 * happened / n, 0.0, 0.0, [*range(n)], *rule, _versions())
    )


def faster(statement: str, slow: Seconds, fast: Seconds) -> Faster:
    """Claim that one network is faster than another: their quartiles do not overlap.

    If they do, the cell says so. The build of the book runs the cell with nothing beside it (tag
    ``alone``) and sets ``COURSE_ALONE``. Only there, and where ``CI`` is set, is the opposite an
    error: elsewhere other programs may disturb the measurement.

    Args:
        slow, fast: entries of what ``measure.latency`` returned.

    Raises:
        AssertionError: ``slow`` has the lower median, in the build under ``CI``.

    Examples:
        >>> from course_lib.measure import Seconds
        >>> print(faster("A cut network is faster", Seconds(4e-3, 3e-3, 5e-3), Seconds(2e-3, 1e-3, 2e-3)))
        A cut network is faster: 2 times as fast by the median turn
    """
    claim = Faster(statement, slow.median / fast.median, fast.q3 < slow.q1)
    if claim.ratio < 1 and os.environ.get("CI") and os.environ.get("COURSE_ALONE"):
        raise AssertionError(f"not supported: {claim}")
    return claim


def _supported(claim: Claim) -> Claim:
    """Return the claim; an unsupported one is an error in the project's own checks."""
    if os.environ.get("COURSE_REPLICATE"):
        display(claim)  # also where the claim is not the last line of its cell
    elif os.environ.get("CI") and not claim.holds and not claim.mark:
        needs = {"greater by": "more", "equal within": "less", "every": "no less"}[claim.relation]
        needs = f"{needs} than {claim.margin:g} {claim.unit}"
        raise AssertionError(f"not supported (needs {needs}): {claim}")
    return claim


def _claim(
    statement: str,
    values: tuple[Sequence[float], Sequence[float]],
    relation: str,
    margin: float,
    unit: str,
    mark: str,
) -> Claim:
    if mark not in MARKS:
        raise ValueError(f"mark must be one of {MARKS}, got {mark!r}")
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
    effect = f"{_signed(mean)} ± {half_width:.2g} {unit}"
    numbers = (mean, sd, half_width, list(range(n)), unit)
    return Claim(statement, effect, *numbers, relation, float(margin), mark, holds, _versions())


def _versions() -> dict[str, str]:
    return {"course_lib": course_lib.__version__, "torch": torch.__version__}


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
