"""Pictures that the source module shows and no single lesson owns, drawn anew.

The two that hold numbers take them from ``course_lib.teaching.sizes``, where each is cited.
"""

from itertools import chain, pairwise

import matplotlib.pyplot as plt
import numpy as np

from course_lib.teaching import plots
from course_lib.teaching.sizes import SIZES

BLUE, VERMILION, GREEN = plots.COLOURS[:3]
# Where a name stands beside its point, where right of it another one would be.
_PLACES = {name: (-7, -4, "right") for name in ("Megatron-LM", "GPT-2", "BERT large", "GPT-3")}
_PLACES |= {"PaLM": (-7, 0, "right"), "Llama 3": (7, -10, "left"), "DeepSeek-V3": (7, 0, "left")}


def language_models_scaling() -> plt.Figure:
    """Parameters of published networks by year, logarithmic; language models in their own colour."""
    figure, axis = plt.subplots(figsize=(8.4, 4.0))
    for language, colour, marker, name in (
        (False, BLUE, "o", "sees images"),
        (True, VERMILION, "s", "reads or writes text"),
    ):
        chosen = [size for size in SIZES if size.language == language]
        years, sizes = [s.year for s in chosen], [s.parameters for s in chosen]
        axis.plot(years, sizes, marker, color=colour, linestyle="", label=name)
        for size in chosen:
            dx, dy, side = _PLACES.get(size.name, (7, -4, "left"))
            place = {"xytext": (dx, dy), "textcoords": "offset points", "ha": side}
            axis.annotate(size.name, (size.year, size.parameters), **place, fontsize=9.5)
    axis.set(
        xlabel="year", ylabel="parameters", yscale="log", xlim=(1996.5, 2028), ylim=(2e4, 4e12)
    )
    ticks = {1e5: "100 thousand", 1e7: "10 million", 1e9: "1 billion", 1e11: "100 billion"}
    axis.set_yticks(list(ticks), list(ticks.values()))
    axis.legend(loc="upper left")
    return figure


def giants() -> plt.Figure:
    """Bytes of the weights at 16 bits beside the memory of a phone, a graphics card, a server's
    card."""
    chosen = [s for s in SIZES if s.language]
    figure, axis = plt.subplots(figsize=(8.4, 3.8))
    gigabytes = [2 * s.parameters / 1e9 for s in chosen]
    axis.barh([f"{s.name} ({s.year})" for s in chosen], gigabytes, color=BLUE, height=0.6)
    for row, size in enumerate(gigabytes):
        text = f"{size:,.2f} GB" if size < 1 else f"{size:,.0f} GB"
        white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axis.text(size * 1.1, row, text, va="center", fontsize=9.5, bbox=white, zorder=4)
    for memory, name in ((8, "phone"), (24, "desktop"), (80, "server card")):
        axis.axvline(memory, color="black", linestyle="--", linewidth=1, zorder=3)
        axis.text(memory, -0.75, f"{name}\n{memory} GB", ha="center", va="bottom", fontsize=9.5)
    axis.set(xscale="log", xlim=(0.4, 6000), xlabel="weights at 16 bits, gigabytes")
    axis.set_ylim(len(chosen) - 0.4, -0.6)
    axis.grid(False)
    return figure


def unstructured() -> plt.Figure:
    """A small network before and after: some connections gone, and a neuron with none left."""
    rng = np.random.default_rng(1)
    layers = (4, 5, 3)
    places = [
        [(1.8 * column, row - (n - 1) / 2) for row in range(n)] for column, n in enumerate(layers)
    ]
    lines = [(a, b) for left, right in pairwise(places) for a in left for b in right]
    lost = places[1][3]
    keep = [lost not in (a, b) and rng.random() < 0.5 for a, b in lines]
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4))
    for axis, title in zip(axes, ("before", "after"), strict=True):
        left = [line for line, stays in zip(lines, keep, strict=True) if stays or title == "before"]
        for line in left:
            axis.plot(*zip(*line, strict=True), "-", color="0.4", linewidth=1.2, marker="")
        for place in chain(*places):
            gone = not any(place in line for line in left)
            style = {"edgecolor": VERMILION, "linestyle": "--"} if gone else {"edgecolor": BLUE}
            dot = plt.Circle(place, 0.2, zorder=3, facecolor="white", linewidth=2, **style)
            axis.add_patch(dot)
            if gone:
                axis.annotate(
                    "no connection left:\nthe neuron goes too",
                    (place[0] + 0.15, place[1] + 0.2),
                    (place[0] + 1.0, place[1] + 1.1),
                    arrowprops={"arrowstyle": "->", "color": VERMILION},
                    color=VERMILION,
                    va="center",
                )
        axis.set(title=f"{title}: {len(left)} connections", xlim=(-0.4, 5.6), ylim=(2.4, -2.4))
        axis.set_aspect("equal")
        axis.axis("off")
    return figure


def convolution_pruning() -> plt.Figure:
    """One convolution's weights, 4 filters of 3 kernels of 3×3, with weights, kernels, filters gone."""
    rng = np.random.default_rng(5)
    ways = {"weights": (4, 3, 3, 3), "kernels": (4, 3, 1, 1), "filters": (4, 1, 1, 1)}
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.4))
    for axis, (way, shape) in zip(axes, ways.items(), strict=True):
        order = rng.permutation(int(np.prod(shape)))
        keep = np.broadcast_to((order < order.size / 2).reshape(shape), (4, 3, 3, 3))
        for (t, s, i, j), stays in np.ndenumerate(keep):
            corner = (s * 3.6 + j, t * 3.6 + i)
            axis.add_patch(
                plt.Rectangle(corner, 1, 1, facecolor="0.35" if stays else "white", edgecolor="0.6")
            )
            if not stays:
                axis.plot(corner[0] + 0.5, corner[1] + 0.5, "x", color=VERMILION, markersize=3)
        axis.set(title=f"half of the {way}", xlim=(-0.4, 10.6), ylim=(14.2, -0.4), aspect="equal")
        axis.set(xlabel="input channel", xticks=[1.5, 5.1, 8.7], xticklabels=[1, 2, 3])
        axis.set_yticks([1.5, 5.1, 8.7, 12.3], [1, 2, 3, 4])
        axis.grid(False)
    axes[0].set_ylabel("filter")
    return figure


def swd() -> plt.Figure:
    """Selective weight decay: a penalty on the weights below the cut alone, which grows as training
    goes on; the cut follows the weights."""
    rng = np.random.default_rng(1)
    trained = np.concatenate([rng.normal(0, 0.45, 14), [-1.7, -1.35, 1.25, 1.6]])
    target = 14 / 18  # of the weights are to go
    small = np.abs(trained) < np.quantile(np.abs(trained), target)
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.9), sharey=True, sharex=True)
    w = np.linspace(-2, 2, 401)
    moments = {"start": (1.0, 0.05), "middle": (0.6, 0.8), "end of training": (0.06, 12.0)}
    for axis, (title, (shrunk, strength)) in zip(axes, moments.items(), strict=True):
        weights = np.where(small, shrunk * trained, trained)
        cut = np.quantile(np.abs(weights), target)
        axis.axvspan(-cut, cut, color=VERMILION, alpha=0.12, linewidth=0)
        below = np.abs(w) < cut
        axis.plot(w, np.where(below, strength * w**2, np.nan), "-", color=VERMILION, marker="")
        axis.plot(w, np.where(below, np.nan, 0.0), "-", color=BLUE, marker="")
        axis.plot(weights[small], np.full(small.sum(), -0.2), "|", color=VERMILION, markersize=9)
        axis.plot(weights[~small], np.full((~small).sum(), -0.2), "o", color=BLUE, markersize=5)
        axis.set(title=title, xlabel="weight", ylim=(-0.4, 1.6), xticks=[0], yticks=[0])
        axis.grid(False)
    axes[0].set_ylabel("extra penalty")
    axes[0].text(0, 1.3, "below the cut", ha="center", color=VERMILION)
    axes[2].text(0.75, 0.1, "above: none", color=BLUE)
    return figure


def one_lesson() -> plt.Figure:
    """The steps of a lesson in two rows: what the reader does, and what the notebook does."""
    figure, axis = plt.subplots(figsize=(5.6, 2.5))
    steps = (
        ("predict", "before anything\nis shown", True),
        ("measure", "several networks\nand a control", False),
        ("compare", "with your\nprediction", True),
        ("write", "a function\nof your own", True),
        ("check", "the first input\nthat goes wrong", False),
        ("use", "your curve beside\nthe library's", True),
    )
    for number, (title, text, yours) in enumerate(steps):
        x, y = 2.1 * (number % 3), -1.35 * (number // 3)
        face, edge = ("white", BLUE) if yours else ("0.9", "black")
        axis.add_patch(plt.Rectangle((x, y), 1.7, 1, facecolor=face, edgecolor=edge, lw=1.5))
        axis.text(x + 0.85, y + 0.78, title, ha="center", va="center", weight="bold", fontsize=11)
        axis.text(x + 0.85, y + 0.33, text, ha="center", va="center", fontsize=9.5)
        if number % 3:
            arrow = {"arrowstyle": "->", "lw": 1.5, "color": "black"}
            axis.annotate("", (x - 0.03, y + 0.5), (x - 0.37, y + 0.5), arrowprops=arrow)
    axis.text(0, -1.7, "blue frame: you", color=BLUE, fontsize=9.5)
    axis.text(2.1, -1.7, "filled: the notebook", fontsize=9.5)
    axis.set(xlim=(-0.05, 5.95), ylim=(-1.8, 1.05))
    axis.axis("off")
    return figure
