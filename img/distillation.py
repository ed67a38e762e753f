"""Pictures of lesson Knowledge distillation."""

import matplotlib.pyplot as plt
import numpy as np

from course_lib.teaching import plots

BLUE, VERMILION, GREEN = plots.COLOURS[:3]
LOGITS = {"teacher, v": [0, 1, 2.4, 8, -1], "student, z": [1, 0, 2.0, 4, 1]}


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def _bars(axis: plt.Axes, values: np.ndarray, colour: str, title: str) -> None:
    axis.bar(range(len(values)), values, color=colour)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=10)
    axis.grid(False)
    axis.spines["left"].set_visible(False)


def distillation() -> plt.Figure:
    """Logits, softened by T on both sides and compared; the student's also compared with the label."""
    figure, axes = plt.subplots(2, 3, figsize=(7.6, 4.0), width_ratios=[1, 1, 1])
    for row, ((name, logits), colour) in zip(axes, zip(LOGITS.items(), (BLUE, VERMILION))):
        z = np.asarray(logits, dtype=float)
        _bars(row[0], z, colour, f"logits of the {name}")
        row[0].axhline(0, color="black", linewidth=0.8)
        row[0].spines["bottom"].set_visible(False)
        _bars(row[1], _softmax(z / 4), colour, "softmax at T = 4")
        row[1].set_ylim(0, 0.8)
    _bars(axes[1, 2], _softmax(np.asarray(LOGITS["student, z"])), VERMILION, "softmax at T = 1")
    axes[0, 2].bar(range(5), [0, 0, 0, 1, 0], color=GREEN)
    _bars(axes[0, 2], np.array([0, 0, 0, 1.0, 0]), GREEN, "label, y")
    for axis in (axes[0, 2], axes[1, 2]):
        axis.set_ylim(0, 1.05)
    figure.get_layout_engine().set(hspace=0.5)
    for column, words in ((1, "T² · KL, weight 1 − α"), (2, "cross-entropy, weight α")):
        top, bottom = axes[0, column], axes[1, column]
        bottom.annotate(
            "",
            (0.5, -0.02),
            (0.5, 1.32),
            xycoords=(top.transAxes),
            textcoords=bottom.transAxes,
            arrowprops={"arrowstyle": "<->", "linewidth": 1.5},
        )
        top.text(0.54, -0.26, words, transform=top.transAxes, va="center", fontsize=10)
    return figure
