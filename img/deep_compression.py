"""Pictures of lesson Deep Compression."""

import matplotlib.pyplot as plt
import numpy as np

from course_lib.teaching import plots

CODEBOOK = ("−1.1", "0.5", "1.5")
WEIGHTS = (  # row, column, value, cluster
    (0, 1, "1.4", 2), (0, 4, "0.4", 1), (2, 3, "−1.1", 0),
    (2, 4, "0.6", 1), (3, 1, "1.6", 2), (3, 3, "0.5", 1),
)  # fmt: skip


def deep_compression() -> plt.Figure:
    """Prune, share, code: the same 4 × 5 weights three times."""
    figure, axes = plt.subplots(1, 3, figsize=(9.4, 3.3), width_ratios=[1, 1.45, 1.75])
    for axis, title in zip(axes, ("1  prune", "2  share", "3  code"), strict=True):
        axis.set(xlim=(-0.05, 5.05), ylim=(4.6, -0.1), title=title, xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    for axis in axes[:2]:
        for row, column in np.ndindex(4, 5):
            axis.add_patch(plt.Rectangle((column, row), 1, 1, fill=False, ec="#8A8A8A", lw=0.8))
    for row, column, value, cluster in WEIGHTS:
        axes[0].text(column + 0.5, row + 0.5, value, ha="center", va="center", fontsize=9.5)
        axes[1].add_patch(
            plt.Rectangle((column, row), 1, 1, color=plots.COLOURS[cluster], alpha=0.35, lw=0)
        )
        axes[1].text(column + 0.5, row + 0.5, cluster, ha="center", va="center", fontsize=11)
    axes[1].set_xlim(-0.05, 7.9)
    axes[1].text(5.5, 0.2, "codebook", fontsize=10)
    for cluster, centroid in enumerate(CODEBOOK):
        axes[1].add_patch(
            plt.Rectangle((5.5, cluster + 0.5), 0.9, 0.9, color=plots.COLOURS[cluster], alpha=0.35)
        )
        axes[1].text(5.95, cluster + 0.95, cluster, ha="center", va="center", fontsize=11)
        axes[1].text(6.6, cluster + 0.95, centroid, va="center", fontsize=10)
    lines = {
        "position": ("1", "4", "12", "13", "14", "16", "18"),
        "zeros before": ("1", "2", "7", "0", "0", "1", "1"),
        "cluster": ("2", "1", "–", "0", "1", "2", "1"),
    }
    for line, (label, entries) in enumerate(lines.items()):
        axes[2].text(0, 0.5 + line, label, fontsize=9.5, va="center")
        for place, entry in enumerate(entries):
            axes[2].text(
                1.75 + 0.47 * place, 0.5 + line, entry, fontsize=10, ha="center", va="center"
            )
    axes[2].text(2.62, 3.25, "↑ filler zero", fontsize=9.5)
    axes[2].text(0, 4.1, "then a code word for every number, short for the frequent", fontsize=9.5)
    return figure


NODES = {  # name -> place, count, the two nodes below
    "root": ((3.0, 3.0), 8, ("a", "four")),
    "a": ((1.2, 2.0), 4, ()),
    "four": ((4.2, 2.0), 4, ("b", "two")),
    "b": ((3.2, 1.0), 2, ()),
    "two": ((5.2, 1.0), 2, ("c", "d")),
    "c": ((4.4, 0.0), 1, ()),
    "d": ((6.0, 0.0), 1, ()),
}
WORDS = {"a": "0", "b": "10", "c": "110", "d": "111"}


def huffman_tree() -> plt.Figure:
    """Huffman's code of four symbols that occur 4, 2, 1 and 1 times."""
    figure, axis = plt.subplots(figsize=(6.4, 3.3))
    for (x, y), count, below in NODES.values():
        for bit, name in enumerate(below):
            (x_below, y_below), _, _ = NODES[name]
            axis.plot([x, x_below], [y, y_below], color="#8A8A8A", marker="", linestyle="-", lw=1.2)
            middle = ((x + x_below) / 2, (y + y_below) / 2)
            axis.text(
                *middle, bit, ha="center", va="center", fontsize=11, color=plots.COLOURS[1],
                bbox=plots.BEHIND,
            )  # fmt: skip
        axis.text(
            x, y, count, ha="center", va="center", fontsize=11,
            bbox={"boxstyle": "circle" if below else "square", "facecolor": "white", "lw": 1.2},
        )  # fmt: skip
    for name, word in WORDS.items():
        x, y = NODES[name][0]
        axis.text(x, y - 0.36, f"{name}: {word}", ha="center", va="top", fontsize=11)
    steps = ((0.5, "1. join 1 and 1"), (1.5, "2. join 2 and 2"), (2.5, "3. join 4 and 4"))
    for y, step in steps:
        axis.text(6.9, y, step, va="center", fontsize=10)
    axis.set(xlim=(0.5, 9.2), ylim=(-0.9, 3.4))
    axis.axis("off")
    return figure
