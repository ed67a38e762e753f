"""The reader's own function in the lesson's experiment, beside the library's."""

import html
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import fmean

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from course_lib.exercises.accept import plain_data, precision
from course_lib.exercises.calls import in_words
from course_lib.teaching import plots

Curve = Mapping[Hashable, Sequence[float]]


def beside(
    experiment: Callable[[Callable], Curve],
    yours: Callable,
    library: Callable,
    *,
    within: float | tuple[float, float],
    x: str,
    y: str,
) -> HTML:
    """Run an experiment with the library's function and with the reader's, and compare the curves.

    Args:
        experiment: a function that runs the experiment with the function it is given. It returns
            label -> values, one value per seed, in the order in which the labels are drawn.
        yours: the reader's function. While it is a stub, or where it raises an error, only the
            library's curve is drawn, and a sentence says what to do; no error reaches the notebook.
        within: how far apart the two means of a label may be, in the unit of the values. A pair says
            how far yours may lie below the library's, and how far above; the second may be inf.
        x, y: what the axes show. ``y`` names the unit.

    Returns:
        The figure and one sentence, "Every mean of yours is within …", or where it is not.

    Raises:
        TypeError: ``experiment`` or ``library`` cannot be called.
        ValueError: ``within`` is negative; the experiment gives no values for a label.

    Examples:
        >>> at = lambda f: {"0": [f(0.0), f(0.2)], "1": [f(1.0), f(1.2)]}
        >>> page = beside(at, lambda v: 2 * v, lambda v: v + v, within=0.1, x="input", y="output")
        >>> "Every mean of yours is within 0.1" in page.data
        True
    """
    for name, function in (("experiment", experiment), ("library", library)):
        if not callable(function):
            raise TypeError(f"{name}: expected a function, got {type(function).__name__}")
    below, above = within if isinstance(within, tuple) else (within, within)
    if not (below >= 0 and above >= 0):
        raise ValueError(f"within: expected numbers from 0 on, got {within}")
    curves = {"library": _means(experiment(library))}
    try:
        curves["yours"] = _means(experiment(_watched(yours)))
        says = _compared(curves["yours"], curves["library"], below, above)
    except (_Stub, NotImplementedError):
        says = "Your function has no body yet. Fill it in, and run its cell and this one again."
    except Exception as error:  # noqa: BLE001 (whatever the reader's function does)
        says = f"Your function stopped the experiment. {in_words(error)}. Does it pass its check?"
    figure = _drawn(curves, x, y)
    picture = plots.show(figure, _alt(curves, x, y)).data
    return HTML(f"{picture}<p>{html.escape(says)}</p>")


class _Stub(Exception):
    """The reader's function returned nothing."""


def _watched(function: Callable) -> Callable:
    """``function`` as the check takes it: plain data, and ``_Stub`` where it returns nothing."""

    def call(*inputs, **named):
        returned = function(*inputs, **named)
        if returned is None or returned is ...:
            raise _Stub
        return plain_data(returned, precision(inputs))

    return call


def _means(values: Curve) -> dict[str, np.ndarray]:
    """Label -> values as an array, (seeds,)."""
    arrays = {str(label): np.asarray(list(v), dtype=float) for label, v in values.items()}
    for label, array in arrays.items():
        if array.ndim != 1 or array.size == 0:
            raise ValueError(f"experiment: expected one value per seed for {label}, got {array!r}")
    return arrays


def _compared(yours: dict, library: dict, below: float, above: float) -> str:
    if yours.keys() != library.keys():
        return "Your function changed what the experiment measures, so nothing can be compared."
    band = f"from {below:g} below the library's to {above:g} above it"
    if below == above:
        band = f"within {below:g} of the library's"
    elif above == math.inf:
        band = f"at most {below:g} below the library's"
    ahead = {label: yours[label].mean() - library[label].mean() for label in library}
    if all(-below <= gap <= above for gap in ahead.values()):  # a NaN is not
        return f"Every mean of yours is {band}."
    outside = {label: max(-below - gap, gap - above) for label, gap in ahead.items()}
    worst = max(outside, key=lambda label: (not outside[label] <= 0, outside[label]))
    mine, theirs = yours[worst].mean(), library[worst].mean()
    return (
        f"At {worst}, your mean is {mine:.4g} and the library's is {theirs:.4g}. "
        f"Yours should be {band}."
    )


def _drawn(curves: dict[str, dict], x: str, y: str) -> Figure:
    figure, axis = plt.subplots()
    for name, curve in curves.items():
        means = [values.mean() for values in curve.values()]
        spread = [values.std(ddof=1) if values.size > 1 else 0.0 for values in curve.values()]
        # The second curve usually covers the first, so the first is wide and the second narrow.
        width = {"linewidth": 4, "markersize": 10, "alpha": 0.5} if name == "library" else {}
        axis.errorbar(list(curve), means, spread, label=name, capsize=3, **width)
    axis.set(xlabel=x, ylabel=y)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _alt(curves: dict[str, dict], x: str, y: str) -> str:
    """A full sentence with the means of both curves, and their standard deviations."""

    def told(values: np.ndarray) -> str:
        spread = f" ± {values.std(ddof=1):.2g}" if values.size > 1 else ""
        return f"{fmean(values):.4g}{spread}"

    parts = [
        f"{name}: " + ", ".join(f"{told(v)} at {label}" for label, v in curve.items())
        for name, curve in curves.items()
    ]
    return (
        f"A line chart shows {y} against {x}, means with standard deviations, "
        f"for {'; for '.join(parts)}."
    )
