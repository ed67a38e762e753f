"""Pictures of lesson Approaches."""

import matplotlib.pyplot as plt
import numpy as np

from course_lib.teaching import plots

BLUE, VERMILION = plots.COLOURS[:2]


def approaches() -> plt.Figure:
    """The map: one weight matrix, and the four things that can be done to it."""
    weights = np.abs(np.random.default_rng(4).normal(size=(6, 6))) / 2.2
    figure, axes = plt.subplots(1, 4, figsize=(8.4, 2.9))
    ways = {
        "remove": "pruning",
        "re-encode": "quantization, sharing,\nlow rank, coding",
        "replace": "distillation",
        "design": "pooled heads, depthwise\nconvolutions, search",
    }
    for axis, (way, examples) in zip(axes, ways.items(), strict=True):
        axis.set(title=way, xlim=(-0.5, 9), ylim=(7.6, -0.5), aspect="equal")
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(examples, fontsize=9.5)
        axis.grid(False)
    for place, w in np.ndenumerate(weights):
        _square(axes[0], place, w if w > 0.35 else None)
    for i in range(6):
        for j in range(2):  # two thin factors, in a few shades
            _square(axes[1], (i, j), np.ceil(3 * weights[i, j]) / 3.5)
            _square(axes[1], (j, i + 2.5), np.ceil(3 * weights[j, i]) / 3.5)
    for (row, column), w in np.ndenumerate(weights[:3, 3:]):
        _square(axes[2], (row, column), w)
    for axis in axes[2:]:
        axis.add_patch(plt.Rectangle((0, 0), 6, 6, fill=False, edgecolor="0.6", linestyle="--"))
    axes[2].text(0.2, 7.2, "learns from the large one", fontsize=9, color=BLUE)
    for axis_place in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)):
        _square(axes[3], axis_place, weights[axis_place])
    axes[3].text(0.2, 7.2, "never built in full", fontsize=9, color=BLUE)
    return figure


def _square(axis: plt.Axes, place: tuple[float, float], weight: float | None) -> None:
    """A weight at (row, column): darker is larger, a cross is none."""
    row, column = place
    if weight is None:
        axis.plot(column + 0.5, row + 0.5, "x", color=VERMILION, markersize=4, mew=1)
    else:
        grey = str(1 - 0.85 * min(1, weight))
        axis.add_patch(plt.Rectangle((column, row), 1, 1, facecolor=grey, edgecolor="white"))
