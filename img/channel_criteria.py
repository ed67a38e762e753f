"""Picture of lesson All criteria in one bake-off."""

import matplotlib.pyplot as plt
import numpy as np

from course_lib.teaching import plots

BLUE, VERMILION = plots.COLOURS[:2]


def three_looks() -> plt.Figure:
    """One channel and the three places where a score can look at it."""
    random = np.random.default_rng(3)
    figure, axis = plt.subplots(figsize=(8.4, 3.3))
    _grid(axis, 0.2, 1.0, random.random((3, 3)), cell=0.5)
    found = np.maximum(random.standard_normal((6, 6)), 0)
    _grid(axis, 4.0, 0.85, found / found.max(), cell=0.3)
    t = np.linspace(0, 1, 50)
    axis.plot(8.0 + 2 * t, 2.4 - 1.15 * t + 0.4 * t**2, color=BLUE, linestyle="-", marker="")
    axis.plot([10.0, 8.0], [1.65, 2.0], color=VERMILION, linestyle="--", marker="")
    axis.plot([10.0, 7.9], [1.65, 1.65], color="grey", linewidth=1, linestyle="-", marker="")
    axis.plot([8.0, 10.0], [2.4, 1.65], "o", color=BLUE, markersize=7)
    axis.text(8.0, 2.5, "loss without", ha="center", va="bottom")
    axis.text(10.3, 1.8, "loss with", ha="center", va="bottom")
    axis.annotate("", (7.95, 1.62), (7.95, 2.43), arrowprops={"arrowstyle": "<->"})
    axis.text(7.85, 2.05, "oracle", ha="right", va="center")
    for start, end in ((1.9, 3.8), (6.0, 7.1)):
        axis.annotate("", (end, 1.75), (start, 1.75), arrowprops={"arrowstyle": "->"})
    axis.text(2.85, 1.85, "makes", ha="center")
    axis.text(6.5, 1.45, "is read", ha="center", va="top")
    for x, name, scores in (
        (0.95, "its filter", "L1, L2, γ"),
        (4.9, "its map, image by image", "mean, std, APoZ"),
        (9.0, "the loss, as it is turned down", "Taylor: the dashed slope"),
    ):
        axis.text(x, 3.15, name, ha="center", weight="bold")
        axis.text(x, 0.35, scores, ha="center", color=BLUE if "Taylor" not in scores else VERMILION)
    axis.set(xlim=(-0.4, 11.2), ylim=(0, 3.5), aspect="equal")
    axis.axis("off")
    return figure


def _grid(axis: plt.Axes, left: float, bottom: float, values: np.ndarray, *, cell: float) -> None:
    """Squares, darker for larger values from 0 to 1."""
    for (row, column), value in np.ndenumerate(values):
        corner = left + cell * column, bottom + cell * row
        axis.add_patch(
            plt.Rectangle(corner, cell, cell, facecolor=str(1 - 0.8 * value), edgecolor="grey")
        )
