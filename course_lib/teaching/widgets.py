"""The pruning explorer: a slider widget that works in JupyterLab, and on the page without a kernel.

Python computes every cut beforehand and writes the text about it. The front end only chooses a cut
and draws it, so ``(w.abs() <= threshold).sum()`` gives exactly the count that the reader sees.
"""

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context, Decimal
from numbers import Real
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from torch import Tensor

from course_lib.data import check_counts
from course_lib.measure import csr_bytes
from course_lib.teaching import page

Accuracy = Mapping[str, Mapping[float, Sequence[float]]]
Weights = Mapping[str, Tensor | tuple[Tensor, int]]

_PATCH = 20  # rows and columns of the mask picture, at most
_BINS = 40
_SHADES = 6  # greys of the mask picture
_LANDMARKS = (0.5, 0.9, 0.99)  # always in the table of numbers
_TICKS = (0, 0.5, 0.9, 0.95, 0.99, 1)  # written under the curves
# 0–90 % by 0.5, 90–99 % by 0.1, 99–100 % by 0.025: the slider is finest where networks break.
_GRID = [i / 200 for i in range(180)] + [i / 1000 for i in range(900, 990)]
_GRID += [i / 4000 for i in range(3960, 4001)]


class Explorer(anywidget.AnyWidget):
    """A widget for JupyterLab whose HTML also works by itself; made by :func:`explorer`.

    ``position`` (the number of the cut), ``scope`` and ``layer`` may be read and assigned, and the
    widget follows. ``data`` holds every cut; :func:`column` unpacks its columns of texts.
    """

    _esm = f"{page.JS}\nexport default {{ render: coursePage.render }};\n"
    _css = page.CSS
    data = traitlets.Dict().tag(sync=True)
    fallback = traitlets.Unicode().tag(sync=True)
    position = traitlets.Int().tag(sync=True)
    scope = traitlets.Unicode().tag(sync=True)
    layer = traitlets.Int().tag(sync=True)

    @property
    def threshold(self) -> float:
        """The threshold on ``abs(w)`` shown now; in local scope, that of the selected layer."""
        thresholds = self.data["scopes"][self.scope]["thresholds"]
        return thresholds[self.layer if self.scope == "local" else 0][self.position]

    @property
    def sparsity(self) -> float:
        """The fraction of all weights that the cut shown now removes."""
        kept = sum(layer[self.position] for layer in self.data["scopes"][self.scope]["kept"])
        total = sum(layer["n"] for layer in self.data["layers"])
        return (total - kept) / total

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
        bundle, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        bundle |= {"text/plain": self.data["title"], "text/html": self._html()}
        return bundle, metadata

    def _html(self) -> str:
        """Text, state and front end in one piece, which loads nothing from the network."""
        state = {key: getattr(self, key) for key in ("data", "position", "scope", "layer")}
        return page.html(
            f'<div class="explorer" id="explorer-{self.data["name"]}" data-course="explorer">\n'
            f"{self.fallback}\n{page.data(state)}\n</div>"
        )


def explorer(
    name: str,
    weights: Weights,
    *,
    accuracy: Accuracy,
    start: float = 0.8,
    title: str = "Move the cut: which weights go, and what it costs",
    metric: str = "accuracy",
) -> Explorer:
    """Make a widget for magnitude pruning: a threshold and a sparsity slider that move together.

    Args:
        name: a name that is unique on its page, made of ``a-z``, ``0-9`` and ``-``.
        weights: layer name -> trained weights, (out, in) or (out, in, kh, kw). A pair adds the
            number of places in one image where the layer is applied; without it, that is 1.
        accuracy: curve -> sparsity -> accuracy in percent, one value per seed; only measured points.
            The reader can choose between the curves "global" and "local" and sees the first of them
            at the start. Any other curve is a control.
        start: the sparsity at the start; the widget takes the nearest cut.
        title: one line that says what the widget shows.
        metric: what ``accuracy`` holds, as a noun ("test accuracy before retraining").

    Raises:
        ValueError, TypeError: an argument that does not fit; the message names it.

    Examples:
        >>> accuracy = {"global": {0.0: [97.0, 98.0], 0.9: [90.0, 91.0]}}
        >>> weights = {"fc1": torch.arange(1.0, 101).view(10, 10)}
        >>> widget = explorer("demo", weights, accuracy=accuracy, start=0.8)
        >>> widget.sparsity, widget.threshold
        (0.8, 80.0)
    """
    page.check_name(name)
    for argument, words in (("title", title), ("metric", metric)):
        page.check_text(argument, words)
    places, magnitudes = _checked_weights(weights)
    scopes = _checked_accuracy(accuracy)
    _fraction("start", start)

    measured = [s for points in accuracy.values() for s in points]
    cuts = sorted({round(float(s), 6) for s in [*_GRID, *measured]})
    said = {s: _scope(magnitudes, places, cuts, s) for s in scopes}
    curves = {str(k): _curve(points, cuts) for k, points in accuracy.items()}
    data = {
        "name": name,
        "title": title,
        "metric": metric,
        "cuts": cuts,
        "ticks": [[_nearest_cut(cuts, s), f"{100 * s:g}"] for s in _TICKS],
        "layers": [_layer(layer, m) for layer, m in magnitudes.items()],
        "dense": _dense(magnitudes, places),
        "scopes": _packed(said),
        "accuracy": _packed(curves),
    }
    position = _nearest_cut(cuts, start)
    fallback = _fallback(data, said, curves, position)
    return Explorer(data=data, fallback=fallback, position=position, scope=scopes[0])


# ---------------------------------------------------------------- what Python computes beforehand


def six_digits(value: Tensor) -> float:
    """The smallest number t of six significant digits with ``value <= t`` in the tensor's dtype.

    A printed t therefore makes the same cut as ``value`` itself. For any weight w, ``w <= t`` holds
    exactly if ``six_digits(w) <= t``: rounding never moves a weight across the threshold.

    Examples:
        >>> six_digits(torch.tensor(1 / 3))
        0.333334
    """
    exact = value.item()
    nearest = float(Context(prec=6).create_decimal_from_float(exact))
    if torch.tensor(nearest, dtype=value.dtype) >= value:
        return nearest
    return float(Context(prec=6, rounding=ROUND_CEILING).create_decimal_from_float(exact))


def _scope(
    magnitudes: Mapping[str, Tensor], places: Mapping[str, int], cuts: list[float], scope: str
) -> dict[str, list]:
    """Everything about every cut of a scope.

    ``thresholds`` (one list, or one per layer), ``kept`` (a list per layer) and ``gone`` (per
    layer, the cut from which each weight of its patch is removed) are numbers; ``share`` (kept, a
    list per layer) and ``removed`` in percent, ``left``, ``csr`` and ``multiplications`` are texts.
    """
    ordered = [m.flatten().sort().values for m in magnitudes.values()]
    pools = ordered if scope == "local" else [torch.cat(ordered).sort().values]
    thresholds = []
    for pool in pools:
        removals = [round(s * len(pool)) for s in cuts]
        thresholds.append([six_digits(pool[k - 1]) if k else 0.0 for k in removals])
    of_layer = thresholds if scope == "local" else thresholds * len(ordered)
    # in the weights' own dtype, so that a cut removes exactly what ``w.abs() <= t`` does
    own = [torch.tensor(t, dtype=m.dtype) for t, m in zip(of_layer, ordered, strict=True)]
    gone = [
        torch.searchsorted(t, _patch(m).flatten()).tolist()
        for t, m in zip(own, magnitudes.values(), strict=True)
    ]
    kept = [
        (len(m) - torch.searchsorted(m, t, right=True)).tolist()
        for m, t in zip(ordered, own, strict=True)
    ]
    return {"thresholds": thresholds, "gone": gone, "kept": kept} | _costs(magnitudes, places, kept)


def _costs(
    magnitudes: Mapping[str, Tensor], places: Mapping[str, int], kept: list[list[int]]
) -> dict[str, list]:
    """What each cut leaves, layer by layer and in all, in words."""
    sizes = [m.numel() for m in magnitudes.values()]
    total, by_cut = sum(sizes), list(zip(*kept, strict=True))
    left = [sum(cut) for cut in by_cut]
    return {
        "share": [[_percent(k, n) for k in layer] for layer, n in zip(kept, sizes, strict=True)],
        "removed": [_percent(total - k, total) for k in left],
        "left": [f"{k:,}" for k in left],
        "csr": [
            _bytes(
                sum(csr_bytes(m.shape, k) for m, k in zip(magnitudes.values(), cut, strict=True))
            )
            for cut in by_cut
        ],
        "multiplications": [
            f"{sum(k * places[layer] for layer, k in zip(magnitudes, cut, strict=True)):,}"
            for cut in by_cut
        ],
    }


def _dense(magnitudes: Mapping[str, Tensor], places: Mapping[str, int]) -> dict[str, str]:
    """What all weights together cost, in words."""
    total = sum(m.numel() for m in magnitudes.values())
    work = sum(m.numel() * places[layer] for layer, m in magnitudes.items())
    return {
        "weights": f"{total:,}",
        "bytes": _bytes(4 * total),
        "multiplications": f"{work:,}",
    }


def _patch(magnitude: Tensor) -> Tensor:
    """The middle of a layer as a matrix, at most 20 × 20."""
    matrix = magnitude.flatten(1)  # [out, in*kh*kw]
    row, column = (max(0, (n - _PATCH) // 2) for n in matrix.shape)
    return matrix[row : row + _PATCH, column : column + _PATCH]


def _layer(name: str, magnitude: Tensor) -> dict[str, Any]:
    """Everything that is drawn of one layer: histogram of |w| and the greys of its patch."""
    matrix, patch = magnitude.flatten(1), _patch(magnitude)
    top = six_digits(magnitude.max())
    shades = (9 * patch.double() / (top or 1)).floor().clamp(max=_SHADES - 1)
    return {
        "name": str(name),
        "n": magnitude.numel(),
        "rows": matrix.shape[0],
        "columns": matrix.shape[1],
        "top": top,
        "bins": _bins(magnitude, top or 1.0),
        "patch": {
            "rows": patch.shape[0],
            "columns": patch.shape[1],
            "shades": "".join(str(int(shade)) for shade in shades.flatten()),
        },
    }


def _bins(magnitude: Tensor, top: float) -> list[int]:
    """Histogram from 0 to ``top``, in integers: a float32 counts no further than 16,777,216."""
    edges = torch.linspace(0, top, _BINS + 1, dtype=torch.float64)[1:-1].to(magnitude.dtype)
    below = torch.searchsorted(magnitude.flatten().sort().values, edges).tolist()
    return [b - a for a, b in itertools.pairwise([0, *below, magnitude.numel()])]


def _curve(points: Mapping[float, Sequence[float]], cuts: list[float]) -> dict[str, list]:
    """One curve of accuracies.

    ``measured`` holds [cut, mean, standard deviation] in order, to be drawn; ``mean``, ``value`` and
    ``note`` are texts, one for each cut: linear in sparsity between measured points.
    """
    measured, spread = [], {}
    for s, values in sorted(points.items()):
        percents = torch.as_tensor([float(a) for a in values], dtype=torch.float64)
        sd = percents.std().item() if len(percents) > 1 else 0.0
        measured.append([cuts.index(round(float(s), 6)), percents.mean().item(), sd])
        seeds = f"{len(percents)} seeds, sd {sd:.1f}" if len(percents) > 1 else "1 seed"
        spread[measured[-1][0]] = f"(measured, {seeds})"
    ends, at = [cut for cut, _, _ in measured], [cuts[cut] for cut, _, _ in measured]
    means = np.interp(cuts, at, [mean for _, mean, _ in measured]).tolist()
    curve = {"mean": [], "value": [], "note": []}
    for cut, mean in enumerate(means):
        inside = ends[0] <= cut <= ends[-1]
        value, note = f"about {math.floor(mean + 0.5)} %", spread.get(cut)
        if note:
            value = f"{mean:.1f} %"
        elif inside:
            before = max(e for e in ends if e < cut)
            after = min(e for e in ends if e > cut)
            note = (
                f"(interpolated between {100 * cuts[before]:.6g} % and {100 * cuts[after]:.6g} %)"
            )
        curve["mean"].append(f"{mean:.1f}" if inside else "none")
        curve["value"].append(value if inside else "not measured")
        curve["note"].append(note or "(outside the measured points)")
    return {"measured": [[c, round(m, 1), round(sd, 1)] for c, m, sd in measured]} | curve


def _nearest_cut(cuts: list[float], sparsity: float) -> int:
    return min(range(len(cuts)), key=lambda i: abs(cuts[i] - sparsity))


# --------------------------------------------------------------------------- numbers as they are said


def _percent(part: int, total: int) -> str:
    """Share of a whole in percent, never rounded to 100 or 0 while it is neither."""
    share = 100 * part / total
    text = f"{share:.2f}" if share >= 99 else f"{share:.1f}"
    if part > 0 and float(text) == 0:
        return "under 0.1"
    if part < total and float(text) == 100:
        return "over 99.99"
    return "100" if part == total else text


def _bytes(n: int) -> str:
    if n < 1000:
        return f"{n} bytes"
    return f"{n / 1e3:.1f} kB" if n < 1e6 else f"{n / 1e6:.2f} MB"


def _number(t: float) -> str:
    """A threshold as JavaScript writes it: no exponent but below a millionth."""
    number = Decimal(repr(t)).normalize()
    if t >= 1e-6 or not t:
        return f"{number:f}"
    digits, exponent = f"{number:e}".split("e")
    return f"{digits}e{int(exponent)}"


def _packed(values: Any) -> Any:
    """``values`` with each list of texts as one string, which the page unpacks like :func:`column`."""
    if isinstance(values, dict):
        return {key: _packed(of) for key, of in values.items()}
    if not isinstance(values, list) or not values:
        return values
    if not isinstance(values[0], str):
        return [_packed(of) for of in values]
    pairs = zip([None, *values], values, strict=False)
    return "|".join("" if text == before else text for before, text in pairs)


def column(packed: str) -> list[str]:
    """Unpack a column of ``Explorer.data``: "|" separates texts, and an empty one repeats the last.

    Examples:
        >>> column("100||99.9")
        ['100', '100', '99.9']
    """
    texts = []
    for text in packed.split("|"):
        texts.append(text or texts[-1])
    return texts


# ---------------------------------------------------------------------- the page without scripts


def _fallback(data: dict[str, Any], said: dict[str, dict], curves: dict, position: int) -> str:
    """One sentence about the first cut and one table per scope: the widget in words."""
    scope = next(iter(said))
    cut, curve = said[scope], curves[scope]
    sentence = (
        f"With {cut['removed'][position]} % of the weights removed ({scope} threshold), "
        f"{cut['left'][position]} of {data['dense']['weights']} are kept; "
        f"{data['metric']}: {curve['value'][position]} {curve['note'][position]}."
    )
    tables = "".join(_table(data, s, said[s], curves[s], position) for s in said)
    title = f"<p><strong>{html.escape(data['title'])}</strong></p>"
    return f"{title}\n<p>{html.escape(sentence)}</p>\n{tables}"


def _table(data: dict[str, Any], scope: str, said: dict, curve: dict, position: int) -> str:
    """The measured cuts of a scope, the landmarks and the first cut, in a box that scrolls."""
    measured = [point[0] for point in curve["measured"]]
    shown = {*measured[:: math.ceil(len(measured) / 12)], position}
    shown |= {_nearest_cut(data["cuts"], s) for s in _LANDMARKS}
    names = " / ".join(layer["name"] for layer in data["layers"])
    heads = ["removed", "threshold on |w|", "kept", f"kept in {names}", data["metric"], "CSR"]
    caption = f"{scope} threshold; the dense weights take {data['dense']['bytes']}"
    head = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in heads)
    body = "\n".join(_row(said, curve, p) for p in sorted(shown))
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="{scope} threshold, table">'
        f"<table><caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _row(said: dict[str, list], curve: dict[str, list], position: int) -> str:
    cells = [
        " / ".join(_number(t[position]) for t in said["thresholds"]),
        said["left"][position],
        " / ".join(f"{k[position]:,}" for k in said["kept"]),
        f"{curve['value'][position]} {curve['note'][position]}",
        said["csr"][position],
    ]
    head = f'<th scope="row">{said["removed"][position]} %</th>'
    return f"<tr>{head}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


# ------------------------------------------------------------------------------------- bad input


def _fraction(name: str, value: float) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number in [0, 1], got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], the fraction removed, got {value!r}")
    return float(value)


def _mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, got {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must hold at least one entry, got {value!r}")


def _checked_weights(weights: Weights) -> tuple[dict[str, int], dict[str, Tensor]]:
    """The places and the magnitudes of every layer."""
    _mapping("weights", weights)
    places, magnitudes = {}, {}
    for layer, value in weights.items():
        w, places[layer] = value if isinstance(value, tuple) and len(value) == 2 else (value, 1)
        if not isinstance(w, Tensor) or w.dtype not in (torch.float32, torch.float64):
            got = w.dtype if isinstance(w, Tensor) else type(w).__name__
            raise TypeError(f"weights[{layer!r}] must be a float32 or float64 tensor, got {got}")
        if w.ndim < 2 or not w.numel():
            raise ValueError(
                f"weights[{layer!r}] must have shape [out, in, ...], got {tuple(w.shape)}"
            )
        if not w.isfinite().all():
            raise ValueError(f"weights[{layer!r}] must be finite, but holds NaN or infinity")
        check_counts(**{f"the places of weights[{layer!r}]": places[layer]})
        magnitudes[layer] = w.detach().cpu().abs()
    return places, magnitudes


def _checked_accuracy(accuracy: Accuracy) -> list[str]:
    """The scopes offered, in the caller's order."""
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
        raise ValueError(f"{name} must hold percentages in 0..100, one per seed, got {values!r}")
