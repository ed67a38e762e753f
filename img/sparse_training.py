"""Pictures of lesson Sparse training."""

import matplotlib.pyplot as plt
import numpy as np

from course_lib.teaching import plots

BLUE, VERMILION, GREEN = plots.COLOURS[:3]
ROWS, COLUMNS, DROPPED = 5, 6, 3


def drop_and_grow() -> plt.Figure:
    """One move of a mask: active weights, the smallest dropped, as many grown elsewhere."""
    rng = np.random.default_rng(4)
    places = [(r, c) for r in range(ROWS) for c in range(COLUMNS)]
    order = rng.permutation(len(places))
    active = [places[i] for i in order[:10]]
    size = dict(zip(active, np.linspace(1, 0.25, 10), strict=True))
    gone, new = active[-DROPPED:], [places[i] for i in order[10 : 10 + DROPPED]]

    figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.0))
    titles = ("before: 10 active", "drop the 3 smallest", "grow 3, at zero")
    for panel, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        for r, c in places:
            axis.add_patch(plt.Rectangle((c, r), 1, 1, fill=False, color="black", alpha=0.25))
        for place in active:
            if panel < 1 or place not in gone:
                _weight(axis, place, size[place], BLUE)
        for r, c in gone if panel == 1 else ():
            axis.plot([c + 0.3, c + 0.7], [r + 0.3, r + 0.7], color=VERMILION, ls="-", marker="")
            axis.plot([c + 0.3, c + 0.7], [r + 0.7, r + 0.3], color=VERMILION, ls="-", marker="")
        for r, c in new if panel == 2 else ():
            ring = plt.Circle((c + 0.5, r + 0.5), 0.3, fill=False, color=GREEN, linewidth=2)
            axis.add_patch(ring)
        axis.set(title=title, xlim=(-0.1, COLUMNS + 0.1), ylim=(ROWS + 0.1, -0.1), aspect="equal")
        axis.axis("off")
    return figure


def _weight(axis: plt.Axes, place: tuple[int, int], size: float, colour: str) -> None:
    r, c = place
    side = 0.8 * size
    corner = (c + 0.5 - side / 2, r + 0.5 - side / 2)
    axis.add_patch(plt.Rectangle(corner, side, side, color=colour))
