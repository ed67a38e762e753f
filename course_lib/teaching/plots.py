"""Figures that can be read on light, dark and grey pages, and by a screen reader.

``show`` turns a matplotlib figure into SVG on the page. Its black becomes the text colour of the
page, and its alternative text is a full sentence. Lines differ in marker and dash as well as in
colour, and the colours have a contrast of at least 3:1 against white and against black.
"""

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.display import HTML
from matplotlib.figure import Figure

BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # of a text on lines: its bbox
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B0679A", "#8A8A8A")
_STYLE: dict[Any, Any] = {
    "figure.figsize": (4.8, 3.4),  # a phone shows it at three quarters, text stays legible
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "axes.prop_cycle": cycler(
        color=COLOURS, marker="osD^v", linestyle=["-", "--", "-.", ":", (0, (10, 2))]
    ),
    "svg.fonttype": "none",  # text stays text: small, sharp, searchable
}


def use_style() -> None:
    """Use the figure style of the course from now on, in this process."""
    mpl.rcParams.update(_STYLE)


def drawn(figure: Figure, **options: Any) -> str:
    """The figure as the text of an SVG file, the same text each time it is drawn.

    Matplotlib makes ids from the last bits of coordinates, which differ from run to run. Here ids
    are numbers after a hash of the picture, so pictures on one page never share an id.

    Args:
        options: options of matplotlib's ``savefig``.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, **options)
    text = buffer.getvalue()
    found = dict.fromkeys(re.findall(r'\bid="([a-z][0-9a-f]{10})"', text))
    for number, name in enumerate(found):
        text = text.replace(name, f"id-of-picture-{number}")
    return text.replace("id-of-picture", f"p{hashlib.sha256(text.encode()).hexdigest()[:8]}")


def svg(figure: Figure) -> str:
    """The figure as an SVG element that takes its text colour and background from the page."""
    text = drawn(figure, transparent=True)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(
        r'<g id="[^"]*">', "<g>", text
    )  # ids that nothing refers to, the same on each page
    # Points become a view box alone, so that the picture shrinks with a phone's width.
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    width = float(re.findall(r'<svg[^>]*? width="([\d.]+)pt"', text)[0])
    largest = f'style="width: {1.3 * width:.0f}pt"'  # the page's style sheet keeps it on the page
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf"\1 {largest}", text, count=1)
    text = text.replace("#000000", "currentColor")
    # matplotlib leaves default black unsaid on text and lines; say it.
    return text.replace("<svg ", '<svg fill="currentColor" ', 1)


def seed_curves(
    x: Sequence[float],
    series: Mapping[str, Sequence[Sequence[float]]],
    *,
    xlabel: str = "weights removed",
    ylabel: str = "test accuracy, %",
    reference: tuple[str, float] | None = None,
) -> Figure:
    """Draw one line per series: mean and standard deviation over seeds at each point.

    Args:
        x: the points, as fractions. They are drawn evenly spaced and written as percentages.
        series: name -> values, (points, seeds).
        reference: the name and the value of a thin horizontal line, such as the dense network.
    """
    figure, axis = plt.subplots()
    for name, values in series.items():
        v = np.asarray(values, dtype=float)  # (points, seeds)
        axis.errorbar([f"{p:.0%}" for p in x], v.mean(1), v.std(1, ddof=1), label=name, capsize=3)
    if reference is not None:
        name, value = reference
        axis.axhline(value, color=COLOURS[-1], linewidth=1)
        axis.annotate(name, (0, value), xytext=(0, 4), textcoords="offset points")
    axis.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 108))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def show(figure: Figure, alt: str) -> HTML:
    """Put a figure on the page, and close it.

    Args:
        alt: the alternative text: a full sentence that says what the figure shows.

    Raises:
        ValueError: ``alt`` does not end in a full stop.
    """
    if not alt.strip().endswith("."):
        raise ValueError(f"alt must be a full sentence that ends in a full stop, got {alt!r}")
    picture = svg(figure).replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    plt.close(figure)
    return HTML(f'<figure class="course-figure">{picture}</figure>')
