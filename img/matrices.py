"""Masks on a matrix of weights (lessons Criteria and Unstructured vs structured)."""

import matplotlib.pyplot as plt
import numpy as np

from course_lib.teaching import plots

BLUE, VERMILION = plots.COLOURS[:2]


def magnitude_cut() -> plt.Figure:
    """A weight matrix, its magnitudes with the cut, and what the mask leaves of it."""
    weights = np.random.default_rng(4).normal(size=(8, 8))
    cut = np.sort(np.abs(weights).ravel())[47:49].mean()  # 48 of 64 go
    figure, (before, middle, after) = plt.subplots(
        1, 3, figsize=(8.4, 2.9), width_ratios=[1, 1.5, 1]
    )
    _matrix(before, weights, np.ones_like(weights, dtype=bool))
    before.set_title("trained weights $W$")
    _matrix(after, weights, np.abs(weights) > cut)
    after.set_title("$M \\odot W$")

    bins = cut * np.arange(17) / 7  # the cut is an edge, so that no bar lies on both sides
    _, _, bars = middle.hist(np.abs(weights).ravel(), bins, color=BLUE, edgecolor="white")
    for bar in bars:
        if bar.get_x() + bar.get_width() / 2 < cut:
            bar.set(facecolor="white", edgecolor=VERMILION, hatch="////")
    middle.axvline(cut, color="black", linestyle="--", linewidth=1.5)
    middle.text(cut + 0.06, middle.get_ylim()[1] * 0.9, "cut λ")
    middle.text(0.05, middle.get_ylim()[1] * 1.02, "go", color=VERMILION)
    middle.text(2.4, middle.get_ylim()[1] * 0.3, "stay", color=BLUE, ha="right")
    middle.set(xlabel="magnitude |w|", ylabel="weights", yticks=[])
    middle.grid(False)
    return figure


def mask_surgery() -> plt.Figure:
    """The same matrix with the same number of weights left: scattered under a mask, or cut."""
    weights = np.random.default_rng(4).normal(size=(8, 8))
    scattered = np.abs(weights) > np.sort(np.abs(weights).ravel())[47:49].mean()  # 16 of 64 stay
    rows, columns = np.zeros(8, bool), np.zeros(8, bool)
    rows[[1, 2, 5, 7]] = columns[[0, 3, 4, 6]] = True
    figure, (masked, marked, cut) = plt.subplots(1, 3, figsize=(8.4, 2.9), width_ratios=[2, 2, 1])
    _matrix(masked, weights, scattered)
    masked.set_title("mask: 16 of 64 stay")
    _matrix(marked, weights, np.outer(rows, columns))
    marked.set_title("channels: 16 of 64 stay")
    marked.set(ylabel="makes", xlabel="reads")
    _matrix(cut, weights[rows][:, columns], np.ones((4, 4), bool))
    cut.set(xlim=(0, 4), ylim=(4, 0), title="cut: 4 × 4")
    return figure


def _matrix(axis: plt.Axes, weights: np.ndarray, keep: np.ndarray) -> None:
    """Weights as grey squares, darker = larger magnitude; a removed one is a small cross."""
    axis.set(xlim=(0, 8), ylim=(8, 0), xticks=[], yticks=[], aspect="equal")
    axis.grid(False)
    for (row, column), weight in np.ndenumerate(weights):
        if keep[row, column]:
            grey = 1 - min(1, abs(weight) / 2.2) * 0.85
            axis.add_patch(
                plt.Rectangle((column, row), 1, 1, facecolor=str(grey), edgecolor="white")
            )
        else:
            axis.plot(column + 0.5, row + 0.5, "x", color=VERMILION, markersize=4, mew=1)
    for spine in axis.spines.values():
        spine.set_visible(True)
