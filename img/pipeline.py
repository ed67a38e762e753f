"""Pictures of lesson Pipeline."""

import matplotlib.pyplot as plt

from course_lib.teaching import plots

BLUE, VERMILION = plots.COLOURS[:2]


def pipeline() -> plt.Figure:
    """Three ways to retrain: the learning rate above, where the weights come from below."""
    total, last = 12, 4  # epochs of training, epochs of retraining
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.0), sharey=True)
    ways = ("fine-tuning", "learning-rate rewinding", "weight rewinding")
    for axis, way in zip(axes, ways, strict=True):
        axis.plot([0, total], [1, 0], color=BLUE, linestyle="-", marker="")
        after = [0.02, 0.02] if way == "fine-tuning" else [last / total, 0]
        axis.plot([total, total + last], after, color=VERMILION, linestyle="-", marker="")
        if way != "fine-tuning":
            axis.plot([total - last, total], after, color=VERMILION, linestyle=":", marker="", lw=3)
        axis.axvline(total, color="black", linestyle="--", linewidth=1)
        axis.text(total - 0.3, 1.02, "prune", ha="right")
        axis.hlines(-0.3, 0, total, color=BLUE, linewidth=3)
        axis.hlines(-0.3, total, total + last, color=VERMILION, linewidth=3)
        origin = total - last if way == "weight rewinding" else total
        axis.plot(origin, -0.3, "o", color=VERMILION, markersize=7)
        if way == "weight rewinding":
            axis.annotate(
                "",
                (origin, -0.36),
                (total + 0.2, -0.33),
                arrowprops={"arrowstyle": "->", "connectionstyle": "arc3,rad=-0.6"},
            )
        axis.text(0, -0.24, "weights", va="bottom")
        axis.set(title=way, xlabel="epochs", ylim=(-0.7, 1.15), yticks=[0, 1])
        axis.set_xticks([0, total - last, total, total + last], ["0", "T − t", "T", "T + t"])
        axis.grid(False)
    axes[0].set_ylabel("learning rate", y=0.72)
    return figure
