"""Pictures of lesson History."""

import matplotlib.pyplot as plt
import numpy as np

from course_lib.teaching import plots

BLUE, VERMILION = plots.COLOURS[:2]


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
        axis.text(
            end[0], -0.42, f"loss + {rise:.2f}", ha="center", color=VERMILION, bbox=plots.BEHIND
        )
        axis.text(minimum[0] + 0.1, minimum[1] + 0.12, "minimum", color=BLUE, bbox=plots.BEHIND)
        axis.set(title=title, xlabel="weight $w_1$", xticks=[], yticks=[])
        axis.grid(False)
    axes[0].text(-0.8, 0.08, "$w_2 = 0$")
    axes[0].set_ylabel("weight $w_2$")
    return figure
