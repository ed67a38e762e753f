"""Pictures of lesson Pruning as an objective."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from course_lib.pruning import learning_compression, penalties
from course_lib.teaching import plots

BLUE, VERMILION, GREEN, PURPLE = plots.COLOURS[:4]
BEST, SHAPE = np.array([0.55, 1.9]), np.array([[1.0, 0.45], [0.45, 0.9]])  # of the loss
T = 0.8  # of the maps
BALLS = {2.0: ("L2", BLUE, "-"), 1.0: ("L1", VERMILION, "--"), 0.5: ("L1/2", GREEN, "-.")}


def balls_and_maps() -> plt.Figure:
    """Where a falling loss meets the balls of three penalties, and the map of each penalty."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 4.2))
    _balls(left)
    _maps(right)
    return figure


def _balls(axis: plt.Axes) -> None:
    x, y = np.meshgrid(np.linspace(-1.6, 2.6, 240), np.linspace(-1.6, 3.0, 240))
    axis.contour(x, y, _loss(x, y), levels=[0.05, 0.25, 0.7, 1.5, 2.8], colors="0.7", linewidths=1)
    axis.plot(*BEST, color="black", marker="+", ls="", ms=10)
    axis.annotate("least loss", BEST, xytext=(6, 6), textcoords="offset points", bbox=plots.BEHIND)
    turn = np.linspace(0, 2 * np.pi, 2001)
    for power, (name, colour, line) in BALLS.items():
        edge = np.sign([np.cos(turn), np.sin(turn)]) * np.abs([np.cos(turn), np.sin(turn)]) ** (
            2 / power
        )
        axis.plot(*edge, color=colour, ls=line, marker="", label=name)
        lowest = edge[:, np.argmin(_loss(*edge))]
        size = 14 if power == 1 else 8  # that of L1/2 lies on it
        axis.plot(*lowest, color=colour, marker="o", ls="", ms=size)
    axis.axhline(0, color="black", lw=0.6)
    axis.axvline(0, color="black", lw=0.6)
    axis.set(
        title="the loss on each penalty's ball",
        xlabel="weight 1",
        ylabel="weight 2",
        xlim=(-1.6, 2.6),
        ylim=(-1.6, 3.0),
        aspect="equal",
    )
    axis.grid(False)
    axis.legend(loc="lower right")


def _loss(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = x - BEST[0], y - BEST[1]
    return (SHAPE[0, 0] * a * a + 2 * SHAPE[0, 1] * a * b + SHAPE[1, 1] * b * b) / 2


def _maps(axis: plt.Axes) -> None:
    v = torch.linspace(-3, 3, 2401, dtype=torch.float64)
    maps = {
        "L2: shrinks": (penalties.prox_l2, BLUE, "-"),
        "L1: soft threshold": (penalties.prox_l1, VERMILION, "--"),
        "L1/2: half threshold": (penalties.prox_root, GREEN, "-."),
        "ℓ0: hard threshold": (
            lambda values, t: learning_compression.l0(t)(values, 1.0),
            PURPLE,
            ":",
        ),
    }
    axis.plot(v, v, color="0.8", ls="-", marker="", lw=1)
    for name, (prox, colour, line) in maps.items():
        x = prox({"v": v}, T)["v"].clone()
        x[1:][(x.diff().abs() > 0.1)] = torch.nan  # a jump is no line
        axis.plot(v, x, color=colour, ls=line, marker="", label=name)
    axis.set(title="what each map makes of v", xlabel="v", ylabel="map of v", aspect="equal")
    axis.legend(loc="upper left", fontsize=8)
