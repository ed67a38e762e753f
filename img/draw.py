"""Draw every picture of this folder: ``python img/draw.py`` writes each as SVG beside this file.

The pictures explain ideas; they hold no measurement. They are drawn on white, and the book's style
inverts them in dark mode.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("agg")

import matplotlib.pyplot as plt

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


def local_global() -> plt.Figure:
    """Three layers of different spread, cut locally and globally to the same total."""
    rng = np.random.default_rng(1)
    layers = [np.abs(rng.normal(scale=s, size=n)) for s, n in ((0.5, 60), (0.25, 60), (1.0, 60))]
    cut = np.sort(np.concatenate(layers))[119:121].mean()  # two thirds of all weights go
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.1), sharey=True)
    for axis, title in zip(
        axes, ("local: one cut a layer", "global: one cut for all"), strict=True
    ):
        for i, layer in enumerate(layers):
            own = np.sort(layer)[39:41].mean() if axis is axes[0] else cut
            x = i + rng.uniform(-0.28, 0.28, size=len(layer))
            stays = layer > own
            axis.plot(x[stays], layer[stays], "o", color=BLUE, markersize=4)
            axis.plot(x[~stays], layer[~stays], "x", color=VERMILION, markersize=4, mew=1)
            axis.hlines(own, i - 0.42, i + 0.42, color="black", linestyle="--", linewidth=1.5)
            axis.text(i, 2.95, f"{stays.sum()} of {len(layer)} stay", ha="center", fontsize=9.5)
        axis.set(title=title, xticks=range(3), xticklabels=["layer 1", "layer 2", "layer 3"])
        axis.set_ylim(0, 3.2)
        axis.grid(False)
    axes[0].set_ylabel("magnitude |w|")
    return figure


def obd_obs() -> plt.Figure:
    """A tilted bowl: deleting one of two weights straight, and with the other making up for it."""
    hessian, minimum = np.array([[1.0, 0.8], [0.8, 1.0]]), np.array([1.6, 1.2])
    grid = np.stack(np.meshgrid(np.linspace(-0.9, 3.1, 120), np.linspace(-0.6, 3.2, 120)), -1)
    loss = np.einsum("...i,ij,...j->...", grid - minimum, hessian, grid - minimum) / 2
    straight = np.array([minimum[0], 0])
    inverse = np.linalg.inv(hessian)
    best = minimum - minimum[1] / inverse[1, 1] * inverse[:, 1]
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharex=True, sharey=True)
    for axis, end, title in zip(
        axes,
        (straight, best),
        ("OBD: the other weight stays", "OBS: the other weight moves"),
        strict=True,
    ):
        axis.contour(
            *np.moveaxis(grid, -1, 0),
            loss,
            levels=[0.05, 0.26, 0.72, 1.5, 3],
            colors="0.6",
            linewidths=1,
        )
        axis.axhline(0, color="black", linestyle="--", linewidth=1.5)
        axis.annotate("", end, minimum, arrowprops={"arrowstyle": "->", "color": BLUE, "lw": 2})
        axis.plot(*minimum, "o", color=BLUE)
        axis.plot(*end, "X", color=VERMILION, markersize=9)
        rise = (end - minimum) @ hessian @ (end - minimum) / 2
        axis.text(end[0], -0.42, f"loss + {rise:.2f}", ha="center", color=VERMILION)
        axis.text(minimum[0] + 0.1, minimum[1] + 0.12, "minimum", color=BLUE)
        axis.set(title=title, xlabel="weight $w_1$", xticks=[], yticks=[])
        axis.grid(False)
    axes[0].text(-0.8, 0.08, "$w_2 = 0$")
    axes[0].set_ylabel("weight $w_2$")
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


def write(folder: Path) -> None:
    """Draw all pictures into ``folder``."""
    plots.use_style()
    pictures = {
        "magnitude-cut": magnitude_cut(),
        "local-global": local_global(),
        "obd-obs": obd_obs(),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    write(Path(__file__).parent)
