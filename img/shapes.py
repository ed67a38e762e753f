"""Picture of lesson Search for shapes."""

import matplotlib.pyplot as plt

from course_lib.teaching import plots

BLUE, VERMILION = plots.COLOURS[:2]


def widths_and_bits() -> plt.Figure:
    """Two networks of equal bytes: a wide one with few bits, and a narrow one with many."""
    figure, axis = plt.subplots(figsize=(8.4, 3.2))
    for left, widths, bits, colour, name in (
        (0.6, (6, 6, 3), (2, 2), BLUE, "wide, 2 bits per weight"),
        (6.2, (6, 2, 3), (6, 6), VERMILION, "narrow, 6 bits per weight"),
    ):
        middle = 1.75
        places = [
            [(left + 2 * k, middle + 0.42 * (i - (n - 1) / 2)) for i in range(n)]
            for k, n in enumerate(widths)
        ]
        for k, b in enumerate(bits):
            for x0, y0 in places[k]:
                for x1, y1 in places[k + 1]:
                    axis.plot([x0, x1], [y0, y1], color=colour, linewidth=0.25 * b, alpha=0.6,
                              linestyle="-", marker="")  # fmt: skip
        for column in places:
            xs, ys = zip(*column, strict=True)
            axis.plot(xs, ys, "o", color="black", markersize=7, linestyle="")
        axis.text(left + 2, 3.15, name, ha="center", weight="bold", color=colour)
        first, second = widths[0] * widths[1], widths[1] * widths[2]
        weights, total = first + second, first * bits[0] + second * bits[1]
        axis.text(left + 2, 0.2, f"{weights} weights, {total} bits", ha="center")
    axis.set(xlim=(0, 11), ylim=(0, 3.5))
    axis.axis("off")
    return figure
