"""Picture of lesson Which channels, as a set."""

from itertools import combinations

import matplotlib.pyplot as plt

from course_lib.teaching import plots

BLUE, VERMILION, _, _, GREY = plots.COLOURS


def subset_lattice() -> plt.Figure:
    """All sets of four channels, the way of a ranking through them, and that of greedy removal."""
    figure, axis = plt.subplots(figsize=(8.4, 4.2))
    sets = [set(kept) for n in range(5) for kept in combinations("ABCD", n)]
    for kept in sets:
        for other in sets:
            if len(other) == len(kept) + 1 and kept < other:
                (x, y), (u, v) = _place(kept), _place(other)
                axis.plot(
                    [x, u], [y, v], color=GREY, alpha=0.4, linewidth=0.8, linestyle="-", marker=""
                )
    for path, colour, style, side in (
        (["ABCD", "ABC", "AB", "A"], VERMILION, "--", -0.06),
        (["ABCD", "ABC", "AC", "C"], BLUE, "-", 0.06),
    ):
        places = [_place(set(kept)) for kept in path]
        axis.plot(
            [x + side for x, _ in places],
            [y + side for _, y in places],
            color=colour,
            linestyle=style,
            linewidth=3,
            marker="",
        )
    for kept in sets:
        label = "".join(sorted(kept)) or "none"
        axis.text(
            *_place(kept),
            label,
            ha="center",
            va="center",
            bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": GREY},
        )
    for n, word in ((4, "all stay"), (3, "three stay"), (2, "two stay"), (1, "one stays")):
        axis.text(-4.9, n, word, va="center", color=GREY)
    axis.text(2.0, 4.0, "a ranking: the way is fixed", color=VERMILION, va="center")
    axis.text(2.0, 3.6, "greedy: look again at each step", color=BLUE, va="center")
    axis.set(xlim=(-5, 5.6), ylim=(-0.3, 4.4))
    axis.axis("off")
    return figure


def _place(kept: set[str]) -> tuple[float, float]:
    row = [set(one) for one in combinations("ABCD", len(kept))]
    return 1.15 * (row.index(kept) - (len(row) - 1) / 2), len(kept)
