"""Pictures of lesson Lottery."""

import matplotlib.pyplot as plt
import numpy as np

from course_lib.teaching import plots

BLUE, VERMILION = plots.COLOURS[:2]


def lottery_ticket() -> plt.Figure:
    """Train, prune, go back to the start; and the two controls that differ in one thing each."""
    rng = np.random.default_rng(2)
    start, other = rng.normal(size=(2, 5, 5))
    trained = start + rng.normal(size=(5, 5))
    keep = np.abs(trained) > np.sort(np.abs(trained).ravel())[16]  # 8 of 25 stay
    places = rng.permutation(keep.ravel()).reshape(5, 5)
    every = np.ones_like(keep)
    figure, axes = plt.subplots(2, 3, figsize=(8.4, 5.4))
    panels = (
        ("start $\\theta_0$", start, every),
        ("trained $\\theta_j$", trained, every),
        ("mask $m$: the largest stay", trained, keep),
        ("ticket $m \\odot \\theta_0$", start, keep),
        ("control: new values $m \\odot \\theta_0$′", other, keep),
        ("control: random $m$′ $\\odot$ $\\theta_0$", start, places),
    )
    for axis, (title, values, stays) in zip(axes.flat, panels, strict=True):
        _weights(axis, values, stays)
        axis.set_title(title, fontsize=11)
    for axis, verb in ((axes[0, 0], "train"), (axes[0, 1], "prune")):
        axis.annotate(
            "",
            (6.6, 2.5),
            (5.4, 2.5),
            arrowprops={"arrowstyle": "->", "lw": 2, "color": BLUE},
            annotation_clip=False,
        )
        axis.text(6.0, 2.1, verb, ha="center", color=BLUE)
    axes[1, 0].text(2.5, 5.7, "reset: the values are those above", ha="center", color=BLUE)
    axes[1, 1].text(2.5, 5.7, "the same mask", ha="center", color=VERMILION)
    axes[1, 2].text(2.5, 5.7, "the same start", ha="center", color=VERMILION)
    return figure


def _weights(axis: plt.Axes, values: np.ndarray, stays: np.ndarray) -> None:
    """Weights as signed numbers in grey squares; a removed one is a small cross."""
    axis.set(xlim=(0, 5), ylim=(5, 0), xticks=[], yticks=[], aspect="equal")
    axis.grid(False)
    for (row, column), value in np.ndenumerate(values):
        if not stays[row, column]:
            axis.plot(column + 0.5, row + 0.5, "x", color="0.6", markersize=4, mew=1)
            continue
        grey = 1 - min(1, abs(value) / 2.5) * 0.6
        axis.add_patch(plt.Rectangle((column, row), 1, 1, color=str(grey), ec="white"))
        axis.text(column + 0.5, row + 0.5, f"{value:+.1f}", ha="center", va="center", fontsize=8)
