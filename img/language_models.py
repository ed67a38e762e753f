"""Picture of lesson Pruning today: language models."""

import matplotlib.pyplot as plt
import numpy as np

from course_lib.teaching import plots

BLUE, VERMILION, _, _, GREY = plots.COLOURS
INPUTS, GONE = 6, (1, 3)


def one_objective() -> plt.Figure:
    """What four methods read of the Gram matrix, and which weights of a row move when two go."""
    figure, axes = plt.subplots(1, 4, figsize=(8.4, 3.6))
    stays = ~np.isin(np.arange(INPUTS), GONE)
    everywhere = np.ones((INPUTS, INPUTS), dtype=bool)
    panels = (
        ("smallest weights\nread nothing", ~everywhere, lambda gone, other: False),
        ("Wanda\nreads the diagonal", np.eye(INPUTS, dtype=bool), lambda gone, other: False),
        (
            "SparseGPT, GPTQ\nfrom left to right",
            np.triu(everywhere),
            lambda gone, other: gone < other,
        ),
        ("OBS, and the refit\nread all of it", everywhere, lambda gone, other: True),
    )
    for axis, (title, read, moves) in zip(axes, panels, strict=True):
        _draw_matrix(axis, read)
        _draw_row(axis, stays, moves)
        axis.set(xlim=(-0.7, INPUTS - 0.3), ylim=(-3.9, INPUTS + 1.7), aspect="equal")
        axis.text(2.5, INPUTS, title, ha="center", va="bottom", fontsize=11)
        axis.axis("off")
    axes[0].text(2.5, -0.55, "G", ha="center", va="top", style="italic")
    axes[0].text(2.5, -3.3, "a row of W", ha="center", va="top")
    return figure


def _draw_matrix(axis: plt.Axes, read: np.ndarray) -> None:
    for (row, column), shaded in np.ndenumerate(read):
        axis.add_patch(
            plt.Rectangle(
                (column - 0.45, INPUTS - 1 - row - 0.45),
                0.9,
                0.9,
                facecolor=BLUE if shaded else "white",
                edgecolor=GREY,
                linewidth=0.8,
            )
        )


def _draw_row(axis: plt.Axes, stays: np.ndarray, moves) -> None:
    for place in range(INPUTS):
        moved = any(stays[place] and moves(gone, place) for gone in GONE)
        axis.add_patch(
            plt.Rectangle(
                (place - 0.45, -2.85),
                0.9,
                0.9,
                facecolor=BLUE if moved else "white",
                edgecolor="black" if stays[place] else GREY,
                linewidth=1,
                linestyle="-" if stays[place] else ":",
            )
        )
        if not stays[place]:
            axis.text(place, -2.42, "0", ha="center", va="center", color=VERMILION)
