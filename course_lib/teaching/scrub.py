"""Scrub through measured results: a slider or a choice for each thing that was varied.

``scrub`` asks for every combination beforehand and puts all of them on the page as HTML, so that it
moves under the reader's finger without a kernel. ``bars`` and ``pixels`` make small frames for it.
"""

import base64
import html
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import numpy as np
from IPython.display import HTML
from PIL import Image

_STYLE = """<style>
.scrub {
  --accent: #3a87cc; --line: color-mix(in srgb, currentColor 25%, transparent);
  border: 1px solid var(--line); border-radius: 12px; color: var(--jp-content-font-color1, inherit);
  line-height: 1.45; padding: 18px clamp(12px, 4%, 24px);
}
.scrub fieldset { border: 0; display: flex; flex-wrap: wrap; gap: 0 20px; margin: 0; min-width: 0; padding: 0; }
.scrub legend { float: none; font-size: 1em; font-weight: 600; margin: 0; padding: 0; width: auto; }
.scrub label { align-items: center; display: inline-flex; gap: 8px; margin: 0; min-height: 44px; }
.scrub label.axis { display: flex; flex-wrap: wrap; font-weight: 600; }
.scrub label.axis input { flex: 1 1 6em; height: 44px; min-width: 0; }
.scrub label.axis b { flex: none; font-weight: normal; min-width: 5em; }
.scrub [data-axis][hidden] { display: none; }
.scrub input { accent-color: var(--accent); cursor: pointer; margin: 0; }
.scrub input[type="radio"] { height: 18px; width: 18px; }
.scrub .frame { margin: 12px 0; overflow-x: auto; }
.scrub .bars { border-collapse: collapse; margin: 0; width: 100%; }
.scrub .bars :is(th, td) { background: none; border: 0; color: inherit; padding: 3px 8px 3px 0; text-align: left; }
.scrub .bars th { font-weight: normal; width: 1%; }
.scrub .bars th.long { min-width: 8em; }
.scrub .bars th:not(.long) { white-space: nowrap; }
.scrub .bars td:last-child { white-space: nowrap; width: 1%; }
.scrub .bars i { background: var(--accent); border-radius: 2px; display: block; height: 12px; min-width: 1px; }
.scrub img { border: 1px solid var(--line); image-rendering: pixelated; max-width: 100%; }
.scrub p { margin: 0; }
.scrub details { font-size: 0.85em; margin-top: 8px; }
</style>
"""

_SCRIPT = """<script>
(() => {
  const root = document.getElementById("ID");
  const { sizes, frames } = JSON.parse(root.querySelector("script").textContent);
  const said = root.querySelectorAll("details li");
  const axes = [...root.querySelectorAll("[data-axis]")];
  const at = (axis) => Number((axis.querySelector(":checked") ?? axis.querySelector("input")).value);
  const show = () => {
    const n = axes.reduce((n, axis, i) => n * sizes[i] + at(axis), 0);
    for (const axis of axes.filter((axis) => axis.dataset.shown)) {
      const text = JSON.parse(axis.dataset.shown)[at(axis)];
      axis.querySelector("b").textContent = text;
      axis.querySelector("input").setAttribute("aria-valuetext", text);
    }
    root.querySelector(".frame").innerHTML = frames[n];
    root.querySelector("[role=status]").textContent = said[n].textContent;
    root.dataset.frame = n;
  };
  for (const axis of axes) {
    axis.hidden = false;
    axis.addEventListener("input", show);
    axis.addEventListener("keydown", (event) => event.stopPropagation()); // JupyterLab takes arrows
  }
  show();
})();
</script>"""


def scrub(
    name: str,
    title: str,
    axes: Mapping[str, Sequence],
    frame: Callable[..., tuple[str, str]],
    *,
    start: Mapping[str, object] | None = None,
    show: Mapping[str, Callable[[object], str]] | None = None,
) -> HTML:
    """A widget that shows one of many frames, chosen along one axis or more.

    Without JavaScript the first frame stands there, and the sentences of all of them can be opened
    below it; they are also what a screen reader hears while somebody drags.

    Args:
        name: unique on its page, of ``a-z``, ``0-9`` and ``-``.
        title: what is varied, one line.
        axes: axis -> its values, at least two. Numbers make a slider, anything else a choice.
        frame: called once with each combination, ``frame(**{axis: value})`` -> (HTML, one sentence
            that says the same without the picture).
        start: axis -> the value shown first; the first value of an axis that is not named.
        show: axis -> function that writes its values; default ``format(value, "g")`` for numbers.

    Raises:
        ValueError: an ill-formed ``name``, no axes, an axis with fewer than two values, a ``start``
            or ``show`` that does not fit the axes, or an empty sentence.
    """
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError(f"name must consist of a-z, 0-9 and '-', got {name!r}")
    start, show = start or {}, show or {}
    if not axes or min(map(len, axes.values())) < 2:
        raise ValueError(f"axes must hold at least one axis with two or more values, got {axes}")
    for argument, given in (("start", start), ("show", show)):
        if not given.keys() <= axes.keys():
            raise ValueError(f"{argument} must name some of {list(axes)}, got {list(given)}")
    for axis, value in start.items():
        if value not in axes[axis]:
            raise ValueError(f"start[{axis!r}] must be one of {list(axes[axis])}, got {value!r}")

    frames, sentences = [], []
    for values in itertools.product(*axes.values()):
        picture, sentence = frame(**dict(zip(axes, values, strict=True)))
        if not sentence.strip():
            raise ValueError(f"frame must return (HTML, sentence), got no sentence for {values}")
        frames.append(picture)
        sentences.append(sentence)
    first = {axis: list(values).index(start.get(axis, values[0])) for axis, values in axes.items()}
    position = 0
    for axis, values in axes.items():
        position = position * len(values) + first[axis]
    controls = [
        _control(f"{name}-{number}", axis, values, first[axis], show.get(axis, _written))
        for number, (axis, values) in enumerate(axes.items())
    ]
    data = {"sizes": [len(values) for values in axes.values()], "frames": frames}
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    listed = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return HTML(
        f'{_STYLE}<div class="scrub" id="scrub-{name}" data-frame="{position}">\n'
        f"<p><strong>{html.escape(title)}</strong></p>\n" + "\n".join(controls) + "\n"
        f'<div class="frame" tabindex="0" role="group" aria-label="{html.escape(title)}">'
        f"{frames[position]}</div>\n"
        f'<p role="status">{html.escape(sentences[position])}</p>\n'
        f"<details><summary>All of it in words</summary><ul>{listed}</ul></details>\n"
        # In JSON "<" stands only inside strings; written as an escape it cannot end the element.
        f'<script type="application/json">{text.replace("<", chr(92) + "u003c")}</script>\n</div>\n'
        + _SCRIPT.replace("ID", f"scrub-{name}")
    )


def _written(value: object) -> str:
    return format(value, "g") if isinstance(value, Real) else str(value)


def _control(
    own: str, axis: str, values: Sequence, first: int, written: Callable[[object], str]
) -> str:
    shown = [written(value) for value in values]
    if all(isinstance(value, Real) for value in values):
        listed = html.escape(json.dumps(shown, ensure_ascii=False))
        return (
            f'<label class="axis" data-axis data-shown="{listed}" hidden>{html.escape(axis)} '
            f'<input type="range" min="0" max="{len(shown) - 1}" value="{first}"'
            f' aria-valuetext="{html.escape(shown[first])}">'
            f"<b>{html.escape(shown[first])}</b></label>"
        )
    choices = "".join(
        f'<label><input type="radio" name="{own}" value="{n}"{" checked" if n == first else ""}> '
        f"<span>{html.escape(text)}</span></label>"
        for n, text in enumerate(shown)
    )
    return f"<fieldset data-axis hidden><legend>{html.escape(axis)}</legend>{choices}</fieldset>"


def bars(rows: Mapping[str, tuple[float, str]], *, top: float = 100.0) -> str:
    """A frame of horizontal bars: label -> (length, the text beside it); ``top`` fills the width."""
    if not rows or not top > 0:
        raise ValueError(f"rows must not be empty and top be above 0, got {rows} and {top!r}")
    lines = []
    for label, (length, text) in rows.items():
        if not math.isfinite(length):
            raise ValueError(f"rows[{label!r}] must be finite, got {length!r}")
        width = 100 * min(max(length / top, 0), 1)
        wraps = ' class="long"' if len(label) > 18 else ""
        lines.append(
            f'<tr><th scope="row"{wraps}>{html.escape(label)}</th><td><i style="width:{width:.1f}%"></i></td>'
            f"<td>{html.escape(text)}</td></tr>"
        )
    return f'<table class="bars">{"".join(lines)}</table>'


def pixels(array: np.ndarray, alt: str, *, scale: int = 4) -> str:
    """A frame that is a picture: (rows, columns) numbers from 0, white, to 1, black, each drawn as
    ``scale`` × ``scale`` dots of the page."""
    grey = np.asarray(array, dtype=float)
    if grey.ndim != 2 or not grey.size or not ((grey >= 0) & (grey <= 1)).all():
        raise ValueError(f"array must hold rows of numbers from 0 to 1, got shape {grey.shape}")
    file = io.BytesIO()
    picture = Image.fromarray(np.round(255 * (1 - grey)).astype(np.uint8))
    if ((grey == 0) | (grey == 1)).all():
        picture = picture.convert("1")  # a mask: one bit a dot
    picture.save(file, format="PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    rows, columns = grey.shape
    return (
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" '
        f'width="{columns * scale}" height="{rows * scale}">'
    )
