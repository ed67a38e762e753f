"""The pruning explorer: one slider widget, alive in JupyterLab and on the page without a kernel.

Python computes every cut beforehand; the front end (``explorer.js``) only shows them. What the
reader sees can therefore be repeated, to the last weight, with ``(w.abs() <= threshold).sum()``.
"""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context
from numbers import Real
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from torch import Tensor

from course_lib.measure import csr_bytes

Accuracy = Mapping[str, Mapping[float, Sequence[float]]]

_HERE = Path(__file__).parent
_PATCH = 20  # rows and columns of the mask picture, at most
_BINS = 40
_LANDMARKS = (0.5, 0.9, 0.99)  # always in the table of numbers
# 0–90 % by 0.5, 90–99 % by 0.1, 99–100 % by 0.025: the slider is finest where networks break.
_GRID = [i / 200 for i in range(180)] + [i / 1000 for i in range(900, 990)]
_GRID += [i / 4000 for i in range(3960, 4001)]


class Explorer(anywidget.AnyWidget):
    """A live widget whose HTML form works by itself; build it with :func:`explorer`.

    ``position`` (which cut), ``scope`` and ``layer`` may be read and assigned; the front end and
    Python always agree on them.
    """

    _esm = _HERE / "explorer.js"
    _css = _HERE / "explorer.css"
    data = traitlets.Dict().tag(sync=True)
    fallback = traitlets.Unicode().tag(sync=True)
    position = traitlets.Int().tag(sync=True)
    scope = traitlets.Unicode().tag(sync=True)
    layer = traitlets.Int().tag(sync=True)

    @property
    def threshold(self) -> float:
        """The threshold on |w| shown now; in local scope, that of the selected layer."""
        thresholds = self.data["scopes"][self.scope]["thresholds"]
        return thresholds[self.layer if self.scope == "local" else 0][self.position]

    @property
    def sparsity(self) -> float:
        """Fraction of all weights that the cut shown now removes."""
        return _removed_at(self.data, self.scope, self.position) / _total(self.data)

    def set_sparsity(self, sparsity: float) -> None:
        """Move to the cut nearest to ``sparsity``, the fraction removed."""
        self.position = _nearest_cut(self.data["cuts"], _fraction("sparsity", sparsity))

    @traitlets.validate("position", "layer")
    def _within(self, proposal: dict[str, Any]) -> int:
        name = proposal["trait"].name
        size = len(self.data["cuts" if name == "position" else "layers"])
        if not 0 <= proposal["value"] < size:
            raise ValueError(f"{name} must be in 0..{size - 1}, got {proposal['value']}")
        return proposal["value"]

    @traitlets.validate("scope")
    def _offered(self, proposal: dict[str, Any]) -> str:
        if proposal["value"] not in self.data["scopes"]:
            raise ValueError(
                f"scope must be one of {sorted(self.data['scopes'])}, got {proposal['value']!r}"
            )
        return proposal["value"]

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle, metadata = super()._repr_mimebundle_(**kwargs)
        bundle |= {"text/plain": self.data["title"], "text/html": self._html()}
        return bundle, metadata

    def _html(self) -> str:
        """Fallback, state, front end and its host in one piece that asks the network nothing."""
        state = {key: getattr(self, key) for key in ("data", "position", "scope", "layer")}
        payload = {"esm": _source("explorer.js"), "state": state}
        text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
        # In JSON "<" stands only inside strings; written as an escape it cannot end the element.
        return _PAGE.format(
            id=f"explorer-{self.data['name']}",
            css=_source("explorer.css"),
            fallback=self.fallback,
            payload=text.replace("<", "\\u003c"),
        )


def _source(name: str) -> str:
    """A front-end file as it goes into every page: its lines without their indentation."""
    return re.sub(r"\n\s+", "\n", (_HERE / name).read_text("utf-8"))


def explorer(
    name: str,
    weights: Mapping[str, Tensor],
    *,
    accuracy: Accuracy,
    start: float = 0.8,
    scope: str | None = None,
    title: str = "Move the cut: which weights go, and what it costs",
    metric: str = "accuracy",
    positions: Mapping[str, int] | None = None,
) -> Explorer:
    """Widget for pruning by magnitude: a threshold and a sparsity slider that move together.

    Args:
        name: unique on its page, of ``a-z``, ``0-9`` and ``-``; the HTML's ids come from it.
        weights: layer name -> trained weights, ``[out, in]`` or ``[out, in, kh, kw]``.
        accuracy: curve -> {sparsity: accuracy of each seed, in percent}, measured points only.
            Curves named "global" and "local" are the scopes offered; any other is a control.
        start: fraction removed at first; the nearest cut is taken.
        scope: "global" or "local" at first; None takes the first of them in ``accuracy``.
        title: what the widget is about, one line.
        metric: what ``accuracy`` holds, as a noun ("test accuracy before retraining").
        positions: layer name -> places where the layer is applied in one image (1 if absent).

    Raises:
        ValueError, TypeError: naming the argument, its value and what was expected.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError(f"name must consist of a-z, 0-9 and '-', got {name!r}")
    _check_weights(weights)
    scopes = _check_accuracy(accuracy)
    scope = scopes[0] if scope is None else scope
    if scope not in scopes:
        raise ValueError(f"scope must be one of {scopes} (the curves of accuracy), got {scope!r}")
    _fraction("start", start)
    positions = _check_positions(positions or {}, weights)

    magnitudes = {layer: w.detach().cpu().abs() for layer, w in weights.items()}
    measured = [s for points in accuracy.values() for s in points]
    cuts = sorted({round(float(s), 6) for s in [*_GRID, *measured]})
    data = {
        "name": name,
        "title": title,
        "metric": metric,
        "cuts": cuts,
        "layers": [_layer(k, m, positions.get(k, 1)) for k, m in magnitudes.items()],
        "scopes": {s: _cuts(list(magnitudes.values()), cuts, s) for s in scopes},
        "accuracy": {str(k): _curve(points, cuts) for k, points in accuracy.items()},
    }
    position = _nearest_cut(cuts, start)
    fallback = _fallback(data, scope, position)
    return Explorer(data=data, fallback=fallback, position=position, scope=scope)


# ---------------------------------------------------------------- what Python computes beforehand


def six_digits(value: Tensor) -> float:
    """The smallest number t of six significant digits with ``value <= t`` in the tensor's dtype.

    So a printed t makes the same cut as ``value`` itself, and ``w <= t`` holds for a weight
    exactly if ``six_digits(w) <= t``: rounding never moves a weight across the line.
    """
    exact = value.item()
    nearest = float(Context(prec=6).create_decimal_from_float(exact))
    if torch.tensor(nearest, dtype=value.dtype) >= value:
        return nearest
    return float(Context(prec=6, rounding=ROUND_CEILING).create_decimal_from_float(exact))


def _cuts(magnitudes: list[Tensor], cuts: list[float], scope: str) -> dict[str, list[list]]:
    """Thresholds (one list, or one a layer) and removed counts (a list a layer) of every cut."""
    ordered = [m.flatten().sort().values for m in magnitudes]
    pools = ordered if scope == "local" else [torch.cat(ordered).sort().values]
    thresholds = []
    for pool in pools:
        removals = [round(s * len(pool)) for s in cuts]
        thresholds.append([six_digits(pool[k - 1]) if k else 0.0 for k in removals])
    of_layer = thresholds if scope == "local" else thresholds * len(ordered)
    # right=True counts the entries <= t, with t in the weights' own dtype as in ``w.abs() <= t``
    removed = [
        torch.searchsorted(m, torch.tensor(t, dtype=m.dtype), right=True).tolist()
        for m, t in zip(ordered, of_layer, strict=True)
    ]
    return {"thresholds": thresholds, "removed": removed}


def _layer(name: str, magnitude: Tensor, positions: int) -> dict[str, Any]:
    """Everything the front end draws of one layer: histogram of |w| and a patch of its middle."""
    matrix = magnitude.flatten(1)  # [out, in*kh*kw]
    row, column = (max(0, (n - _PATCH) // 2) for n in matrix.shape)
    patch = matrix[row : row + _PATCH, column : column + _PATCH]
    top = six_digits(magnitude.max())
    return {
        "name": str(name),
        "n": magnitude.numel(),
        "rows": matrix.shape[0],
        "columns": matrix.shape[1],
        "positions": positions,
        "top": top,
        "bins": torch.histc(magnitude, _BINS, min=0, max=top or 1.0).int().tolist(),
        "patch": [[six_digits(w) for w in line] for line in patch],
    }


def _curve(points: Mapping[float, Sequence[float]], cuts: list[float]) -> list[list]:
    """The measured points in order: [cut, mean, standard deviation, seeds], as they are shown."""
    measured = []
    for s, values in sorted(points.items()):
        values = torch.as_tensor([float(a) for a in values], dtype=torch.float64)
        sd = values.std().item() if len(values) > 1 else 0.0
        cut = cuts.index(round(float(s), 6))
        measured.append([cut, round(values.mean().item(), 1), round(sd, 1), len(values)])
    return measured


def _total(data: dict[str, Any]) -> int:
    return sum(layer["n"] for layer in data["layers"])


def _removed_at(data: dict[str, Any], scope: str, position: int) -> int:
    return sum(counts[position] for counts in data["scopes"][scope]["removed"])


def _nearest_cut(cuts: list[float], sparsity: float) -> int:
    return min(range(len(cuts)), key=lambda i: abs(cuts[i] - sparsity))


# ---------------------------------------------------------------------- the page without scripts


def _fallback(data: dict[str, Any], scope: str, position: int) -> str:
    """One sentence about the first cut and a table a scope: the widget's text equivalent."""
    total, removed = _total(data), _removed_at(data, scope, position)
    sentence = (
        f"With {100 * removed / total:.1f} % of the weights removed ({scope} threshold), "
        f"{total - removed:,} of {total:,} are kept; "
        f"{data['metric']}: {_accuracy_text(data, scope, position)}."
    )
    tables = "".join(_table(data, s, position) for s in data["scopes"])
    title = f"<p><strong>{html.escape(data['title'])}</strong></p>"
    return f"{title}\n<p>{html.escape(sentence)}</p>\n{tables}"


def _table(data: dict[str, Any], scope: str, position: int) -> str:
    """The measured cuts of a scope, the landmarks and the first cut; it scrolls in its own box."""
    measured = [point[0] for point in data["accuracy"][scope]]
    shown = {*measured[:: math.ceil(len(measured) / 12)], position}
    shown |= {_nearest_cut(data["cuts"], s) for s in _LANDMARKS}
    names = " / ".join(layer["name"] for layer in data["layers"])
    heads = ["removed", "threshold on |w|", "kept", f"kept in {names}", data["metric"], "CSR bytes"]
    caption = f"{scope} threshold; the dense weights take {4 * _total(data):,} bytes"
    head = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in heads)
    body = "\n".join(_row(data, scope, p) for p in sorted(shown))
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="{scope} threshold, table">'
        f"<table><caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _row(data: dict[str, Any], scope: str, position: int) -> str:
    cut, layers, total = data["scopes"][scope], data["layers"], _total(data)
    kept = [m["n"] - r[position] for m, r in zip(layers, cut["removed"], strict=True)]
    stored = sum(csr_bytes((m["rows"],), k) for k, m in zip(kept, layers, strict=True))
    cells = [
        " / ".join(f"{t[position]:g}" for t in cut["thresholds"]),
        f"{sum(kept):,}",
        " / ".join(f"{k:,}" for k in kept),
        _accuracy_text(data, scope, position),
        f"{stored:,}",
    ]
    head = f'<th scope="row">{100 * (1 - sum(kept) / total):.2f} %</th>'
    return f"<tr>{head}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _accuracy_text(data: dict[str, Any], scope: str, position: int) -> str:
    cuts, curve = data["cuts"], data["accuracy"][scope]
    for cut, mean, sd, seeds in curve:
        if cut == position:
            spread = f"{seeds} seeds, sd {sd:.1f}" if seeds > 1 else "1 seed"
            return f"{mean:.1f} % (measured, {spread})"
    if not curve[0][0] < position < curve[-1][0]:
        return "not measured"
    mean = np.interp(cuts[position], [cuts[m[0]] for m in curve], [m[1] for m in curve])
    return f"about {math.floor(mean + 0.5)} % (interpolated)"


# ------------------------------------------------------------------------------------- bad input


def _fraction(name: str, value: float) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number in [0, 1], got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], the fraction removed; got {value!r}")
    return float(value)


def _mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, got {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must hold at least one entry, got {value!r}")


def _check_weights(weights: Mapping[str, Tensor]) -> None:
    _mapping("weights", weights)
    for layer, w in weights.items():
        if not isinstance(w, Tensor) or w.dtype not in (torch.float32, torch.float64):
            got = w.dtype if isinstance(w, Tensor) else type(w).__name__
            raise TypeError(f"weights[{layer!r}] must be a float32 or float64 tensor, got {got}")
        if w.ndim < 2 or not w.numel():
            raise ValueError(
                f"weights[{layer!r}] must have shape [out, in, ...], got {tuple(w.shape)}"
            )
        if not w.isfinite().all():
            raise ValueError(f"weights[{layer!r}] must be finite, but holds NaN or infinity")


def _check_accuracy(accuracy: Accuracy) -> list[str]:
    """Return the scopes offered, in the caller's order."""
    _mapping("accuracy", accuracy)
    for key, points in accuracy.items():
        _mapping(f"accuracy[{key!r}]", points)
        for s, values in points.items():
            _fraction(f"each sparsity of accuracy[{key!r}]", s)
            _percentages(f"accuracy[{key!r}][{s}]", values)
    scopes = [key for key in accuracy if key in ("global", "local")]
    if not scopes:
        raise ValueError(f"accuracy must hold a curve 'global' or 'local', got {list(accuracy)}")
    return scopes


def _percentages(name: str, values: Sequence[float]) -> None:
    try:
        numbers = [float(a) for a in values]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a sequence of percentages, got {values!r}") from None
    if not numbers or not all(0 <= a <= 100 for a in numbers):
        raise ValueError(f"{name} must hold percentages in 0..100, a seed each; got {values!r}")


def _check_positions(
    positions: Mapping[str, int], weights: Mapping[str, Tensor]
) -> Mapping[str, int]:
    for layer, count in positions.items():
        if layer not in weights:
            raise ValueError(f"positions names {layer!r}; the layers are {list(weights)}")
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"positions[{layer!r}] must be an integer >= 1, got {count!r}")
    return positions


# The static host: a model of plain values with anywidget's five methods. The front end is imported
# from a blob because a page opened as a file may load neither module files nor other data.
_PAGE = """<style>
{css}</style>
<div class="explorer" id="{id}">
{fallback}
</div>
<script type="application/json" id="{id}-state">{payload}</script>
<script>
(async () => {{
  const el = document.getElementById("{id}");
  const {{ esm, state }} = JSON.parse(document.getElementById("{id}-state").textContent);
  state.fallback = el.innerHTML;
  const listeners = {{}};
  const model = {{
    get: (key) => state[key],
    set(key, value) {{
      if (state[key] === value) return;
      state[key] = value;
      for (const heard of listeners["change:" + key] ?? []) heard();
    }},
    on(event, heard) {{ (listeners[event] ??= []).push(heard); }},
    off(event, heard) {{ listeners[event] = listeners[event]?.filter((h) => h !== heard); }},
    save_changes() {{}},
  }};
  const url = URL.createObjectURL(new Blob([esm], {{ type: "text/javascript" }}));
  try {{
    const front = (await import(url)).default;
    el.replaceChildren();
    front.render({{ model, el }});
  }} catch (error) {{
    el.innerHTML = state.fallback; // the numbers stay readable
    console.error(error);
  }}
  URL.revokeObjectURL(url);
}})();
</script>"""
