"""Pictures of lesson Quantization."""

import matplotlib.pyplot as plt
import numpy as np

from course_lib.teaching import plots

BLUE, VERMILION = plots.COLOURS[:2]


def grid_and_sharing() -> plt.Figure:
    """Left, weights fall to the nearest of eight grid points; right, a matrix shares six numbers."""
    figure, (grid, sharing) = plt.subplots(1, 2, figsize=(8.4, 3.2), width_ratios=[1.25, 1])
    _draw_grid(grid)
    _draw_sharing(sharing)
    return figure


def _draw_grid(axis: plt.Axes) -> None:
    rng = np.random.default_rng(3)
    weights = rng.normal(scale=1.1, size=14)
    weights[0] = 3.0
    step = np.abs(weights).max() / 3  # the largest sets it
    points = step * np.arange(-4, 4)
    axis.vlines(points, 0, 1, color="black", linestyle=":", linewidth=1)
    for w in weights:
        axis.plot([w, step * np.round(w / step)], [1, 0], color=VERMILION, marker="", lw=1, ls="-")
    axis.plot(weights, np.ones_like(weights), "o", color=BLUE, markersize=5)
    axis.plot(points, np.zeros_like(points), "s", color="black", markersize=5, linestyle="none")
    for q, point in zip(range(-4, 4), points, strict=True):
        axis.text(point, -0.12, f"{q}", ha="center", va="top")
    axis.annotate("", (step, 1.18), (2 * step, 1.18), arrowprops={"arrowstyle": "<->"})
    axis.text(1.5 * step, 1.22, "step S", ha="center", va="bottom")
    axis.set(title="a grid: 3 bits", ylim=(-0.4, 1.45), yticks=[0, 1], xticks=[])
    axis.set_yticklabels(["whole\nnumber", "weight"])
    axis.grid(False)


def _draw_sharing(axis: plt.Axes) -> None:
    rng = np.random.default_rng(1)
    values = ["0.7", "−1.2", "0.1", "−0.4", "1.5", "0.3"]
    bucket = rng.integers(0, 6, (4, 6))
    for (row, column), k in np.ndenumerate(bucket):
        axis.text(column, -row, values[k], ha="center", va="center", fontsize=10, bbox=plots.BEHIND)
    for k, value in enumerate(values):
        axis.text(k, -5.6, value, ha="center", va="center", fontsize=10, color=VERMILION)
    chosen = bucket[1, 2]
    for row, column in np.argwhere(bucket == chosen):
        axis.add_patch(
            plt.Rectangle((column - 0.45, -row - 0.4), 0.9, 0.8, fill=False, edgecolor=BLUE, lw=1.5)
        )
        axis.plot([column, chosen], [-row - 0.4, -5.2], color=BLUE, marker="", lw=0.8, ls=":")
    axis.add_patch(plt.Rectangle((-0.55, -3.5), 6.1, 4.0, fill=False, edgecolor="black", lw=1))
    axis.text(2.5, 0.62, "24 weights, computed with", ha="center", va="bottom")
    axis.text(2.5, -6.2, "6 numbers, stored", ha="center", va="top", color=VERMILION)
    axis.set(title="sharing: a hash says which", xlim=(-0.8, 5.8), ylim=(-7.1, 1.5))
    axis.axis("off")
