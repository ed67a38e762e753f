"""Pictures of lesson Bayesian pruning."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from course_lib.pruning import bayesian
from course_lib.teaching import plots

BLUE, VERMILION, GREEN, _, GREY = plots.COLOURS
RATIOS = ((0.05, BLUE, "-"), (1.0, VERMILION, "--"), (20.0, GREEN, ":"))


def noise_price() -> plt.Figure:
    """A weight at three noise-to-signal ratios, and what each ratio costs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6))
    w = np.linspace(-6, 8, 561)
    for alpha, colour, style in RATIOS:
        density = np.exp(-((w - 1) ** 2) / (2 * alpha)) / np.sqrt(2 * np.pi * alpha)
        label = f"α = {alpha:g}"
        left.plot(w, density, color=colour, linestyle=style, marker="", label=label)
    left.axvline(1, color=GREY, linewidth=1)
    left.annotate("θ", (1.1, 1.9))
    left.set(title="a weight and its noise", xlabel="w, in units of θ", ylabel="density")
    left.legend()

    t = torch.linspace(-8, 8, 321, dtype=torch.float64)
    slope = t.clone().requires_grad_()
    bayesian.kl_log_uniform(slope).sum().backward()
    lines = (
        (bayesian.kl_log_uniform(t), BLUE, "-", "price KL(α)"),
        (bayesian.kl_approximation(t), VERMILION, ":", "approximation"),
        (-slope.grad, GREEN, "--", "price saved per unit of log α"),
    )
    for values, colour, style, label in lines:
        right.plot(t, values, color=colour, linestyle=style, marker="", label=label)
    right.axvline(3, ymax=0.72, color=GREY, linewidth=1)  # below the legend
    right.annotate("removed", (3.2, 3.0))
    right.set(title="the price of certainty", xlabel="log α", ylabel="KL")
    right.legend(loc="upper right")
    return figure
