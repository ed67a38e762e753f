"""Pictures of lesson Prune rate."""

import matplotlib.pyplot as plt
import numpy as np

from course_lib.teaching import plots

BLUE, VERMILION = plots.COLOURS[:2]


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
