"""Scrub through measured results: a slider or a choice for each thing that was varied.

``scrub`` makes a frame for every combination beforehand and puts all frames on the page as HTML, so
the reader can move through them without a kernel. ``bars``, ``dots``, ``cloud`` and ``pixels`` make
small frames.
"""

import base64
import html
import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real

import numpy as np
from IPython.display import HTML
from PIL import Image

from course_lib.data import check_counts
from course_lib.teaching import page

SHADES = 5  # of the cells of a cloud
MARK = "#D55E00"  # the vermilion of ``plots.COLOURS``, which can be seen on white and on black


def scrub(
    name: str,
    title: str,
    axes: Mapping[str, Sequence],
    frame: Callable[..., tuple[str, str]],
    *,
    start: Mapping[str, object] | None = None,
    show: Mapping[str, Callable[[object], str]] | None = None,
) -> HTML:
    """A widget that shows one of many frames, chosen along one or more axes.

    Without JavaScript, the page shows the first frame and a list of the sentences of all frames. A
    screen reader hears what the sentence of the new frame says that the one before did not.

    Args:
        name: a name that is unique on its page, made of ``a-z``, ``0-9`` and ``-``.
        title: one line that says what is varied.
        axes: axis -> its values, at least two. Numbers make a slider, which grows to the right
            whatever their order is here; anything else makes a choice.
        frame: a function that is called once with each combination, ``frame(**{axis: value})``. It
            returns HTML and one sentence that says the same without the picture.
        start: axis -> the value shown first. For an axis that is not named, it is the first value.
        show: axis -> the function that writes its values. Numbers are written by
            ``format(value, "g")`` if it is not named.

    Raises:
        ValueError: an ill-formed ``name``, no axes, an axis with fewer than two values, a ``start``
            or ``show`` that does not fit the axes, or an empty sentence.
        TypeError: a ``frame`` that does not return two strings, or an argument of the wrong type.

    Examples:
        >>> def frame(sparsity):
        ...     rows = {"kept": (100 - sparsity, f"{100 - sparsity} %")}
        ...     return bars(rows), f"At {sparsity} % sparsity, {100 - sparsity} % are kept."
        >>> scrub("kept", "How much is kept", {"sparsity": [0, 50, 90]}, frame)
        <IPython.core.display.HTML object>
    """
    start, show = start or {}, show or {}
    _check(name, title, axes, start, show)
    begin = {axis: start.get(axis, values[0]) for axis, values in axes.items()}
    axes = {axis: sorted(values) if _is_scale(values) else values for axis, values in axes.items()}
    frames, sentences = _frames(axes, frame)
    first = {axis: list(values).index(begin[axis]) for axis, values in axes.items()}
    shown = {axis: [show.get(axis, _written)(v) for v in values] for axis, values in axes.items()}
    position = 0
    for axis, values in axes.items():
        position = position * len(values) + first[axis]
    controls = [
        _slider(axis, shown[axis], first[axis])
        if _is_scale(values)
        else _choice(f"{name}-{number}", axis, shown[axis], first[axis])
        for number, (axis, values) in enumerate(axes.items())
    ]
    sizes = [len(values) for values in axes.values()]
    others = [None if n == position else picture for n, picture in enumerate(frames)]
    listed = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return HTML(
        page.html(
            f'<div class="scrub" id="scrub-{name}" data-course="scrub" data-frame="{position}">\n'
            f"<p><strong>{html.escape(title)}</strong></p>\n" + "\n".join(controls) + "\n"
            f'<div class="frame" tabindex="0" role="group" aria-label="{html.escape(title)}">'
            f"{frames[position]}</div>\n"
            f'<p class="sentence">{html.escape(sentences[position])}</p>\n'
            '<p class="heard" role="status"></p>\n'
            f"<details><summary>All of it in words</summary><ul>{listed}</ul></details>\n"
            + page.data({"sizes": sizes, "shown": list(shown.values()), "frames": others})
            + "\n</div>"
        )
    )


def _frames(
    axes: Mapping[str, Sequence], frame: Callable[..., tuple[str, str]]
) -> tuple[list[str], list[str]]:
    """The pictures and the sentences of all combinations; the last axis changes fastest."""
    frames, sentences = [], []
    for values in itertools.product(*axes.values()):
        made = frame(**dict(zip(axes, values, strict=True)))
        if not isinstance(made, tuple) or [type(part) for part in made] != [str, str]:
            raise TypeError(f"frame must return (HTML, sentence), got {made!r} for {values}")
        if not made[1].strip():
            raise ValueError(f"frame must return (HTML, sentence), got no sentence for {values}")
        frames.append(made[0])
        sentences.append(made[1])
    return frames, sentences


def _check(name: str, title: str, axes: Mapping, start: Mapping, show: Mapping) -> None:
    page.check_name(name)
    page.check_text("title", title)
    for argument, given in (("axes", axes), ("start", start), ("show", show)):
        if not isinstance(given, Mapping):
            raise TypeError(f"{argument} must be a mapping, got {given!r}")
    if not axes or min(map(len, axes.values())) < 2:
        raise ValueError(f"axes must hold at least one axis with two or more values, got {axes}")
    for argument, given in (("start", start), ("show", show)):
        if not given.keys() <= axes.keys():
            raise ValueError(f"{argument} must name some of {list(axes)}, got {list(given)}")
    for axis, value in start.items():
        if value not in axes[axis]:
            raise ValueError(f"start[{axis!r}] must be one of {list(axes[axis])}, got {value!r}")


def _is_scale(values: Sequence) -> bool:
    return all(isinstance(value, Real) for value in values)


def _written(value: object) -> str:
    return format(value, "g") if isinstance(value, Real) else str(value)


def _slider(axis: str, shown: list[str], first: int) -> str:
    text = html.escape(shown[first])
    return (
        f'<label class="axis" data-axis hidden>{html.escape(axis)} '
        f'<input type="range" min="0" max="{len(shown) - 1}" value="{first}"'
        f' aria-valuetext="{text}"><b aria-hidden="true">{text}</b></label>'
    )


def _choice(group: str, axis: str, shown: list[str], first: int) -> str:
    choices = "".join(
        f'<label><input type="radio" name="{group}" value="{n}"'
        f"{' checked' if n == first else ''}> <span>{html.escape(text)}</span></label>"
        for n, text in enumerate(shown)
    )
    return f"<fieldset data-axis hidden><legend>{html.escape(axis)}</legend>{choices}</fieldset>"


def bars(rows: Mapping[str, tuple[float, str]], *, top: float = 100.0) -> str:
    """A frame of horizontal bars.

    Args:
        rows: label -> (length, the text beside the bar).
        top: the length that fills the whole width.

    Raises:
        ValueError: no rows, a ``top`` that is not above 0, or a length that is not finite.
    """
    if not rows or not top > 0:
        raise ValueError(f"rows must not be empty and top be above 0, got {rows} and {top!r}")
    lines = []
    for label, (length, text) in rows.items():
        if not math.isfinite(length):
            raise ValueError(f"rows[{label!r}] must be finite, got {length!r}")
        width = 100 * min(max(length / top, 0), 1)
        wraps = ' class="long"' if len(label) > 18 else ""
        lines.append(
            f'<tr><th scope="row"{wraps}>{html.escape(label)}</th>'
            f'<td><i style="width:{width:.1f}%"></i></td><td>{html.escape(text)}</td></tr>'
        )
    return f'<table class="bars">{"".join(lines)}</table>'


def dots(
    points: Sequence[tuple[float, float]], alt: str, *, xlabel: str, ylabel: str, side: int = 220
) -> str:
    """A frame of points in a square, in the text colour of the page.

    Each axis runs from the smallest to the largest value, so only the order and the distances of the
    points can be read. A diagonal from the lower left to the upper right shows where points lie whose
    coordinates agree.

    Args:
        points: (x, y) of each point.
        alt: the alternative text.
        xlabel, ylabel: the names of the axes.
        side: of the square, in pixels.

    Raises:
        ValueError: no points, a coordinate that is not finite, or a ``side`` that is not a positive
            integer.
    """
    xy = np.asarray(points, dtype=float)
    if xy.ndim != 2 or xy.shape[-1] != 2 or not xy.size or not np.isfinite(xy).all():
        raise ValueError(f"points must hold finite pairs (x, y), got {points!r}")
    check_counts(side=side)
    low, extent = xy.min(0), np.ptp(xy, axis=0)
    placed = 10 + (side - 20) * (xy - low) / np.where(extent > 0, extent, 1)
    circles = "".join(
        f'<circle cx="{x:.0f}" cy="{side - y:.0f}" r="5" fill-opacity=".6"/>' for x, y in placed
    )
    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" width="{side + 24}" height="{side + 24}" '
        f'viewBox="-24 0 {side + 24} {side + 24}" fill="currentColor" font-size="13">'
        f'<path d="M0 0V{side}H{side}M0 {side}L{side} 0" fill="none" stroke="currentColor" '
        f'stroke-opacity=".4"/>{circles}'
        f'<text x="{side / 2:g}" y="{side + 18}" text-anchor="middle">{html.escape(xlabel)}</text>'
        f'<text transform="translate(-8 {side / 2:g}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(ylabel)}</text></svg>"
    )


def cloud(
    counts: np.ndarray,
    marked: Iterable[tuple[int, int]],
    alt: str,
    *,
    x: tuple[str, str, str],
    y: tuple[str, str, str],
    cell: tuple[int, int] = (16, 5),
) -> str:
    """A frame of very many points as grey cells, the darker the more points, with some marked.

    Args:
        counts: (rows, columns) numbers of points, not negative. Row 0 is at the bottom.
        marked: (column, row) of each mark. Marks in one cell are drawn once.
        alt: the alternative text.
        x, y: the name of the axis, its lowest and its highest value, as they are written.
        cell: width and height of a cell in pixels.

    Raises:
        ValueError: counts that are no table, are negative or all zero; a mark outside the table.
    """
    table, (width, height) = np.asarray(counts), cell
    if table.ndim != 2 or not (table >= 0).all() or not table.any():
        raise ValueError(f"counts must hold rows of numbers from 0 on, got {counts!r}")
    rows, columns = table.shape
    spots = sorted({(int(c), int(r)) for c, r in marked})
    if any(not (0 <= c < columns and 0 <= r < rows) for c, r in spots):
        raise ValueError(f"marked must lie in {columns} columns and {rows} rows, got {spots}")
    level = np.ceil(SHADES * np.log1p(table) / np.log1p(table.max())).astype(int)
    w, h = columns * width, rows * height
    shades = "".join(
        f'<path stroke-opacity="{0.6 * n / SHADES:.2f}" stroke-width="{height}" d="'
        + "".join(
            f"M{c * width} {h - (r + 0.5) * height:g}h{width}" for r, c in np.argwhere(level == n)
        )
        + '"/>'
        for n in range(1, SHADES + 1)
    )
    marks = "".join(f"M{(c + 0.5) * width:g} {h - (r + 0.5) * height:g}h.1" for c, r in spots)
    texts = (
        (f'x="0" y="{h + 14}"', x[1]),
        (f'x="{w / 2:g}" y="{h + 16}" text-anchor="middle"', x[0]),
        (f'x="{w}" y="{h + 14}" text-anchor="end"', x[2]),
        (f'transform="translate(-6 {h}) rotate(-90)"', y[1]),
        (f'transform="translate(-6 {h / 2:g}) rotate(-90)" text-anchor="middle"', y[0]),
        ('transform="translate(-6 0) rotate(-90)" text-anchor="end"', y[2]),
    )
    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" width="{w + 30}" height="{h + 26}" '
        f'viewBox="-22 -4 {w + 30} {h + 26}" fill="currentColor" font-size="13">'
        f'<g fill="none" stroke="currentColor"><path stroke-opacity=".4" d="M0 0V{h}H{w}"/>{shades}'
        f'<path stroke="{MARK}" stroke-width="5" style="stroke-linecap:round" d="{marks}"/></g>'
        + "".join(f"<text {place}>{html.escape(text)}</text>" for place, text in texts)
        + "</svg>"
    )


def pixels(array: np.ndarray, alt: str, *, scale: int = 4) -> str:
    """A frame that is a grey picture.

    Args:
        array: (rows, columns) numbers from 0 (white) to 1 (black).
        alt: the alternative text.
        scale: each number becomes a square of ``scale`` × ``scale`` pixels.

    Raises:
        ValueError: an ``array`` of another kind, or a ``scale`` that is not a positive integer.
    """
    grey = np.asarray(array, dtype=float)
    if grey.ndim != 2 or not grey.size or not ((grey >= 0) & (grey <= 1)).all():
        raise ValueError(f"array must hold rows of numbers from 0 to 1, got shape {grey.shape}")
    check_counts(scale=scale)
    file = io.BytesIO()
    picture = Image.fromarray(np.round(255 * (1 - grey)).astype(np.uint8))
    if ((grey == 0) | (grey == 1)).all():
        picture = picture.convert("1")  # a mask: one bit per dot
    picture.save(file, format="PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    rows, columns = grey.shape
    return (
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" '
        f'width="{columns * scale}" height="{rows * scale}">'
    )
