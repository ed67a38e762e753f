"""Picture of the practical."""

import matplotlib.pyplot as plt

from course_lib.teaching import plots

BLUE, VERMILION = plots.COLOURS[:2]


def inception_block() -> plt.Figure:
    """The four branches of an Inception block, and a filter whose readers lie in the next block."""
    figure, axis = plt.subplots(figsize=(8.4, 3.4))
    branches = {
        "one": ("1×1",),
        "three": ("1×1", "3×3"),
        "five": ("1×1", "5×5"),
        "pool": ("max 3×3", "1×1"),
    }
    _box(axis, 0.5, 1.5, "x")
    for row, (name, steps) in enumerate(branches.items()):
        height, end = 3 - row, 0.85
        for column, step in enumerate(steps):
            left = 2.4 + 2 * column
            _arrow(axis, (end, 1.5 if column == 0 else height), (left - 0.65, height))
            _box(axis, left, height, step, wide=1.2)
            end = left + 0.65
        _arrow(axis, (end, height), (6.45, height))
        colour = VERMILION if name == "five" else "0.85"
        axis.add_patch(plt.Rectangle((6.5, height - 0.5), 0.5, 1, facecolor=colour, edgecolor="k"))
        axis.text(7.15, height, name, va="center")
    axis.text(6.75, 3.65, "cat", ha="center", weight="bold")
    for row in range(4):
        axis.plot([8.2, 9.3], [1, 3 - row], color=VERMILION, linestyle="--", marker="", lw=1)
        axis.add_patch(plt.Rectangle((9.4, 2.8 - row), 1.6, 0.4, facecolor="white", edgecolor="k"))
        axis.text(10.2, 3 - row, f"reader {row + 1}", ha="center", va="center", fontsize=10)
    axis.plot([7.8, 8.2], [1, 1], color=VERMILION, linestyle="--", marker="", lw=1)
    axis.text(10.2, 3.65, "next block", ha="center", weight="bold")
    axis.set(xlim=(0, 11.2), ylim=(-0.7, 4), aspect="equal")
    axis.axis("off")
    return figure


def _box(axis: plt.Axes, x: float, y: float, text: str, *, wide: float = 0.6) -> None:
    corner = x - wide / 2, y - 0.3
    axis.add_patch(plt.Rectangle(corner, wide, 0.6, facecolor="white", edgecolor=BLUE, lw=1.5))
    axis.text(x, y, text, ha="center", va="center")


def _arrow(axis: plt.Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "grey"})
