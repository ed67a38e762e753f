"""The explorer's numbers against brute force, and its page in a real browser without a network."""

import html.parser
import itertools
import json
import math
import re

import numpy as np
import pytest
import torch

from course_lib.teaching import page as front
from course_lib.teaching.widgets import Explorer, column, explorer, six_digits

ACCURACY = {
    "global": {0.0: [95, 94, 96], 0.5: [93, 94, 92], 0.9: [60, 50, 70], 1.0: [10, 10, 10]},
    "local": {0.0: [95, 94, 96], 0.5: [90, 91, 92], 0.9: [40, 50, 30], 1.0: [10, 10, 10]},
    "random": {0.0: [95], 0.5: [40], 1.0: [10]},
}
LOCAL_FIRST = {key: ACCURACY[key] for key in ("local", "global", "random")}


def network() -> dict[str, torch.Tensor]:
    """Three layers of unlike sizes and scales, with ties and zeros among their weights."""
    draw = torch.Generator().manual_seed(0)
    weights = {
        "fc1": torch.randn(30, 40, generator=draw) * 0.05,
        "conv": torch.randn(8, 3, 3, 3, generator=draw) * 0.2,
        "fc3": torch.randn(10, 30, generator=draw) * 0.1,
    }
    weights["fc1"][:2, :5] = 0.0123
    weights["fc3"][0] = 0.0
    return weights


def widget(name: str = "demo", **options) -> Explorer:
    return explorer(name, **{"weights": network(), "accuracy": ACCURACY} | options)


def page_of(*made: Explorer) -> str:
    bodies = "\n".join(w._repr_mimebundle_()[0]["text/html"] for w in made)
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Explorer</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>html[data-theme=dark] {{ background: #121212; color: #ced6dd; color-scheme: dark }}</style>
</head><body><main><h1>Explorer</h1>{bodies}</main></body></html>"""


# --------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("scope", ["global", "local"])
def test_every_cut_can_be_repeated_from_its_printed_threshold(scope):
    weights, data = network(), widget().data
    thresholds = data["scopes"][scope]["thresholds"]
    for i, (layer, w) in enumerate(weights.items()):
        of_layer = thresholds[i if scope == "local" else 0]
        for position, t in enumerate(of_layer):
            assert data["scopes"][scope]["kept"][i][position] == (w.abs() > t).sum(), layer
            assert t == float(f"{t:.6g}")


@pytest.mark.parametrize("scope", ["global", "local"])
def test_a_cut_removes_what_was_asked_for_but_for_ties(scope):
    """Fewest removals that reach the count asked for: one weight less would not do."""
    magnitudes = [w.abs().flatten() for w in network().values()]
    data = widget().data
    pools = [torch.cat(magnitudes)] if scope == "global" else magnitudes
    for pool, thresholds in zip(pools, data["scopes"][scope]["thresholds"], strict=True):
        for asked, t in zip(data["cuts"], thresholds, strict=True):
            wanted = round(asked * len(pool))
            last = pool.sort().values[max(0, wanted - 1)]
            assert (pool <= t).sum() >= wanted
            assert wanted == 0 or (pool < last).sum() < wanted
            assert wanted == 0 or t == six_digits(last)


def test_cuts_hold_the_measured_sparsities_and_are_finest_at_the_end():
    cuts = widget(accuracy={"global": {0.8765: [50.0], 1.0: [10.0]}}).data["cuts"]
    assert 0.8765 in cuts and cuts == sorted(set(cuts))
    assert (cuts[0], cuts[-1]) == (0.0, 1.0)
    gaps = [b - a for a, b in itertools.pairwise(cuts)]
    assert max(gaps) < 0.0051 and max(gaps[-40:]) < 0.00026
    assert 250 < len(cuts) < 350


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_six_digits_never_move_a_weight_across_a_threshold(dtype):
    draw = torch.Generator().manual_seed(1)
    values = torch.rand(300, generator=draw, dtype=dtype) ** 4
    grid = [float(f"{v:.6g}") for v in values.tolist()]
    values = torch.cat([values, torch.tensor(grid, dtype=dtype)])
    for value in values:
        t = six_digits(value)
        assert t == float(f"{t:.6g}") and value <= t
        below = float(f"{t - 10 ** (torch.tensor(t).log10().floor().item() - 5):.6g}")
        assert not value <= below, "a smaller number of six digits would have done"


@pytest.mark.parametrize("scope", ["global", "local"])
def test_the_mask_picture_is_the_middle_of_the_layer(scope):
    weights, data = network(), widget().data
    assert [data["layers"][0][key] for key in ("rows", "columns", "n")] == [30, 40, 1200]
    patches = [
        weights["fc1"][5:25, 10:30],
        weights["conv"].flatten(1)[:, 3:23],
        weights["fc3"][:, 5:25],
    ]
    for i, patch in enumerate(patches):
        size = data["layers"][i]["patch"]
        assert (size["rows"], size["columns"]) == patch.shape
        gone = torch.tensor(data["scopes"][scope]["gone"][i]).view(patch.shape)
        thresholds = data["scopes"][scope]["thresholds"][i if scope == "local" else 0]
        for position, t in enumerate(thresholds):
            assert (gone <= position).equal(patch.abs() <= t)


def test_the_greys_of_the_mask_picture_grow_with_the_weights():
    for i, w in enumerate(network().values()):
        layer = widget().data["layers"][i]
        shades = [int(shade) for shade in layer["patch"]["shades"]]
        middle = [max(0, (n - 20) // 2) for n in w.flatten(1).shape]
        patch = w.abs().flatten(1)[middle[0] :][:20, middle[1] :][:, :20].flatten().tolist()
        assert shades == [min(5, math.floor(9 * v / layer["top"])) for v in patch]


def test_histogram_counts_every_weight_once():
    for layer, w in zip(widget().data["layers"], network().values(), strict=True):
        width, counts = layer["top"] / 40, layer["bins"]
        assert sum(counts) == layer["n"] and len(counts) == 40
        for k in (1, 7, 30):  # at edges that hold no weight, any rule of ends gives the same
            assert sum(counts[:k]) == (w.abs() < k * width).sum()


def test_histogram_is_exact_beyond_what_a_float32_can_count():
    n = 2**24 + 8
    made = widget(weights={"fc": torch.full((2, n // 2), 0.5)})
    assert made.data["layers"][0]["bins"] == [0] * 39 + [n]


def test_accuracy_is_mean_and_sample_deviation_of_the_seeds():
    made = widget(accuracy={"global": {0.5: [90, 92, 97], 0.0: [95]}})
    cuts, curve = made.data["cuts"], made.data["accuracy"]["global"]
    assert curve["measured"] == [[0, 95, 0], [cuts.index(0.5), 93, 3.6]]
    assert column(curve["value"])[0] == "95.0 %"
    assert column(curve["note"])[:1] == ["(measured, 1 seed)"]
    assert column(curve["note"])[cuts.index(0.5)] == "(measured, 3 seeds, sd 3.6)"


def test_layers_of_one_value_and_of_zeros_are_shown_too():
    made = widget(weights={"flat": torch.full((3, 4), 0.5), "zero": torch.zeros(2, 2)})
    assert made.data["scopes"]["global"]["kept"][0][-1] == 0
    assert made.data["scopes"]["local"]["kept"][1] == [0] * len(made.data["cuts"])
    assert [sum(layer["bins"]) for layer in made.data["layers"]] == [12, 4]


def in_percent(part, total):
    """The rule for shares, written once more."""
    share = 100 * part / total
    text = f"{share:.{2 if share >= 99 else 1}f}"
    if part in (0, total):
        return {0: "0.0", total: "100"}[part]
    return {"0.0": "under 0.1", "100.00": "over 99.99"}.get(text, text)


def expected(scope: str, position: int, cuts: list[float], places: int) -> dict:
    """What the page has to say about one cut, by brute force from the weights."""
    magnitudes = [w.abs().flatten() for w in network().values()]
    pools = magnitudes if scope == "local" else [torch.cat(magnitudes)] * 3
    kept = []
    for pool, m in zip(pools, magnitudes, strict=True):
        wanted = round(cuts[position] * len(pool))
        threshold = six_digits(pool.sort().values[wanted - 1]) if wanted else 0.0
        kept.append(int((m > threshold).sum()))
    csr = 8 * sum(kept) + 4 * (31 + 9 + 11)
    return {
        "kept": kept,
        "share": [in_percent(k, len(m)) for k, m in zip(kept, magnitudes, strict=True)],
        "removed": in_percent(1716 - sum(kept), 1716),
        "left": f"{sum(kept):,}",
        "csr": f"{csr} bytes" if csr < 1000 else f"{csr / 1000:.1f} kB",
        "multiplications": f"{kept[0] + places * kept[1] + kept[2]:,}",
    }


@pytest.mark.parametrize("scope", ["global", "local"])
def test_the_texts_of_every_cut(scope):
    weights = network()
    data = widget(weights=weights | {"conv": (weights["conv"], 100)}).data
    said = data["scopes"][scope]
    texts = {key: column(said[key]) for key in ("removed", "left", "csr", "multiplications")}
    share = [column(layer) for layer in said["share"]]
    for position in range(len(data["cuts"])):
        found = {key: of[position] for key, of in texts.items()}
        found["kept"] = [layer[position] for layer in said["kept"]]
        found["share"] = [layer[position] for layer in share]
        assert found == expected(scope, position, data["cuts"], 100)
    assert data["dense"] == {"weights": "1,716", "bytes": "6.9 kB", "multiplications": "23,100"}


def test_shares_near_the_ends_and_sizes_in_words():
    big = widget(weights={"fc": torch.linspace(1, 2, 4_000_000).view(2000, 2000)}).data
    said = big["scopes"]["global"]
    assert column(said["removed"])[0] == "0.0" and column(said["removed"])[-1] == "100"
    assert big["dense"]["bytes"] == "16.00 MB" and column(said["csr"])[-1] == "8.0 kB"
    few = torch.ones(100, 100)
    few[0, 0] = 0.5
    few = widget(weights={"fc": few}, accuracy={"global": {0.0001: [50], 1: [10]}}).data
    assert column(few["scopes"]["global"]["removed"])[1] == "under 0.1"
    many = torch.ones(200, 200)
    many[0, 0] = 2
    many = widget(weights={"fc": many}, accuracy={"global": {0.0: [50], 1: [10]}}).data
    assert column(many["scopes"]["global"]["removed"])[1] == "over 99.99"


def test_every_accuracy_is_measured_interpolated_or_neither():
    points = {0.25: [90.04, 90.6], 0.7: [80.0], 0.95: [30, 30.5]}
    data = widget(accuracy={"global": points}).data
    curve = {key: column(data["accuracy"]["global"][key]) for key in ("mean", "value", "note")}
    at = sorted(points)
    for position, s in enumerate(data["cuts"]):
        found = [curve[key][position] for key in ("mean", "value", "note")]
        if s in points:
            mean, sd = np.mean(points[s]), np.std(points[s], ddof=1) if len(points[s]) > 1 else 0
            seeds = f"{len(points[s])} seeds, sd {sd:.1f}" if len(points[s]) > 1 else "1 seed"
            assert found == [f"{mean:.1f}", f"{mean:.1f} %", f"(measured, {seeds})"]
        elif 0.25 < s < 0.95:
            a, b = (0.25, 0.7) if s < 0.7 else (0.7, 0.95)
            mean = np.interp(s, at, [np.mean(points[p]) for p in at])
            between = f"(interpolated between {100 * a:g} % and {100 * b:g} %)"
            assert found == [f"{mean:.1f}", f"about {math.floor(mean + 0.5)} %", between]
        else:
            assert found == ["none", "not measured", "(outside the measured points)"]


# ------------------------------------------------------------------------------- the live object


def test_state_moves_from_python():
    made = widget(start=0.8)
    assert made.sparsity == pytest.approx(0.8, abs=0.002)
    made.set_sparsity(0.95)
    assert made.data["cuts"][made.position] == 0.95
    flat = torch.cat([w.abs().flatten() for w in network().values()])
    assert (flat <= made.threshold).double().mean() == made.sparsity
    made.scope, made.layer = "local", 2
    assert made.threshold == made.data["scopes"]["local"]["thresholds"][2][made.position]


def test_state_arrives_from_the_front_end():
    made = widget()
    made.set_state({"position": 7, "scope": "local", "layer": 1})
    assert (made.position, made.scope, made.layer) == (7, "local", 1)
    assert made.threshold == made.data["scopes"]["local"]["thresholds"][1][7]


@pytest.mark.parametrize(
    ("trait", "value"), [("position", -1), ("position", 10**6), ("layer", 3), ("scope", "random")]
)
def test_state_that_names_no_cut_is_refused(trait, value):
    made = widget()
    with pytest.raises(ValueError, match=f"{trait} must be"):
        setattr(made, trait, value)


def test_both_hosts_are_offered():
    bundle, _ = widget()._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert bundle["text/html"].startswith("<style")
    assert "0x" not in bundle["text/plain"]


# --------------------------------------------------------------------------------- the page's text


def test_html_is_reproducible():
    first, second = (widget()._repr_mimebundle_()[0]["text/html"] for _ in range(2))
    assert first == second


def test_html_of_the_lessons_network_is_small():
    draw = torch.Generator().manual_seed(0)
    shapes = {"fc1": (100, 196), "fc2": (50, 100), "fc3": (10, 50)}
    weights = {k: torch.randn(s, generator=draw) * 0.1 for k, s in shapes.items()}
    own = len(widget(weights=weights)._repr_mimebundle_()[0]["text/html"].encode())
    assert own - len((front.CSS + front.JS).encode()) < 66_000  # the rest is the book's, once


def test_html_names_no_address():
    found = re.findall(r"(?:https?:)?//[a-z][a-z.]+\.[a-z0-9.]+", page_of(widget()))
    assert found == ["http://www.w3.org"], "the name of SVG's elements, and nothing else"


class Elements(html.parser.HTMLParser):
    """The elements of a page as a parser sees them, and what its JSON script holds."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.json, self._in_json = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._in_json = ("type", "application/json") in attrs

    def handle_endtag(self, tag):
        self._in_json = False

    def handle_data(self, data):
        self.json += data if self._in_json else ""


def test_names_cannot_break_out_of_the_html():
    hostile = "</script><b>&amp;'\"<!--"
    weights = {hostile: torch.ones(2, 2)}
    made = widget(weights=weights, title=hostile, metric=hostile)
    seen = Elements(page_of(made))
    assert seen.tags.count("script") == 2 and "b" not in seen.tags
    data = json.loads(seen.json)["data"]
    assert data["title"] == data["metric"] == data["layers"][0]["name"] == hostile


def test_the_text_equivalent_says_what_the_pictures_show():
    made = widget(start=0.9, accuracy=LOCAL_FIRST)
    kept = [round(n * 0.1) for n in (1200, 216, 300)]
    assert f"{sum(kept):,} of 1,716 are kept" in made.fallback
    assert "40.0 % (measured, 3 seeds, sd 10.0)" in made.fallback
    assert f"<td>{kept[0]} / {kept[1]} / {kept[2]}</td>" in made.fallback
    stored = sum(8 * k + 4 * (rows + 1) for k, rows in zip(kept, (30, 8, 10), strict=True))
    assert f"<td>{stored / 1000:.1f} kB</td>" in made.fallback
    # 99 %, between 40 at 90 and 10 at 100
    assert "about 13 % (interpolated between 90 % and 100 %)" in made.fallback
    assert made.fallback.count("<table>") == 2


def test_cuts_outside_the_measured_points_are_called_not_measured():
    made = widget(accuracy={"global": {0.5: [90.0], 0.9: [50.0]}}, start=0.99)
    assert "accuracy: not measured (outside the measured points)." in made.fallback


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"name": "a b"}, ValueError, "name must consist.*'a b'"),
        ({"name": ""}, ValueError, "name must hold some text"),
        ({"name": "x\n"}, ValueError, "name must consist"),
        ({"weights": {}}, ValueError, "weights must hold at least one"),
        ({"weights": [torch.ones(2, 2)]}, TypeError, "weights must be a mapping, got list"),
        ({"weights": {"fc": [[1.0]]}}, TypeError, r"weights\['fc'\] must be .* got list"),
        ({"weights": {"fc": torch.ones(2, 2).int()}}, TypeError, "float32 or float64.*int32"),
        ({"weights": {"fc": torch.ones(3)}}, ValueError, r"shape \[out, in, ...\], got \(3,\)"),
        ({"weights": {"fc": torch.ones(0, 3)}}, ValueError, r"got \(0, 3\)"),
        ({"weights": {"fc": torch.tensor([[1, torch.nan]])}}, ValueError, r"\['fc'\].*finite"),
        ({"weights": {"fc": torch.tensor([[1, torch.inf]])}}, ValueError, r"\['fc'\].*finite"),
        ({"accuracy": {}}, ValueError, "accuracy must hold at least one"),
        ({"accuracy": [1]}, TypeError, "accuracy must be a mapping"),
        ({"accuracy": {"random": {0.5: [1]}}}, ValueError, "'global' or 'local'.*random"),
        ({"accuracy": {"global": {}}}, ValueError, r"accuracy\['global'\] must hold"),
        ({"accuracy": {"global": {1.1: [50]}}}, ValueError, r"\['global'\].*in \[0, 1\].*1.1"),
        ({"accuracy": {"global": {"a": [50]}}}, TypeError, r"\['global'\].*number.*'a'"),
        ({"accuracy": {"global": {0.5: []}}}, ValueError, r"\['global'\]\[0.5\].*percentages"),
        ({"accuracy": {"global": {0.5: [101.0]}}}, ValueError, r"0..100.*101.0"),
        ({"accuracy": {"global": {0.5: [-1]}}}, ValueError, r"0..100.*-1"),
        ({"accuracy": {"global": {0.5: [torch.nan]}}}, ValueError, "0..100.*nan"),
        ({"accuracy": {"global": {0.5: 90.0}}}, TypeError, r"\[0.5\].*sequence.*90.0"),
        ({"start": 1.5}, ValueError, "start must be in .*1.5"),
        ({"start": float("nan")}, ValueError, "start must be in .*nan"),
        ({"start": "half"}, TypeError, "start must be a number.*'half'"),
        ({"name": 7}, TypeError, "name must be a string, got 7"),
        ({"title": None}, TypeError, "title must be a string, got None"),
        ({"metric": ""}, ValueError, "metric must hold some text"),
        (
            {"weights": {"fc": (torch.ones(2, 2), 0)}},
            ValueError,
            r"places of weights\['fc'\].*got 0",
        ),
        (
            {"weights": {"fc": (torch.ones(2, 2),)}},
            TypeError,
            r"weights\['fc'\] must be .* got tuple",
        ),
    ],
)
def test_bad_input_is_named(change, error, words):
    with pytest.raises(error, match=f"(?s){words}"):
        widget(**change)


def test_set_sparsity_refuses_what_is_no_fraction():
    made = widget(start=0.5)
    before = made.position
    with pytest.raises(ValueError, match="sparsity must be in"):
        made.set_sparsity(90)
    assert made.position == before


# ----------------------------------------------------------------------- the page in a real browser


@pytest.fixture
def show(browser, tmp_path):
    """A function that opens widgets on a page of their own, over file://, with no network."""
    contexts = []

    def open_page(*made: Explorer, text: str | None = None, **options):
        path = tmp_path / "page.html"
        path.write_text(text or page_of(*made), "utf-8")
        context = browser.new_context(**{"viewport": {"width": 900, "height": 1300}} | options)
        contexts.append(context)
        page = context.new_page()
        page.outside, page.complaints = [], []

        def gate(route):
            if route.request.url.startswith(("file:", "blob:", "data:")):
                return route.continue_()
            page.outside.append(route.request.url)
            return route.abort()

        context.route("**/*", gate)
        page.on("console", lambda m: m.type == "error" and page.complaints.append(m.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(path.as_uri())
        if options.get("java_script_enabled", True) and text is None:
            page.wait_for_selector("output")
        return page

    yield open_page
    for context in contexts:
        context.close()


def shown(page) -> dict:
    """What the page says it shows, as numbers."""
    seen = page.evaluate("({...document.querySelector('.explorer output').dataset})")
    seen["threshold"], seen["kept"] = float(seen["threshold"]), json.loads(seen["kept"])
    sliders = page.locator(".explorer input[type=range]")
    seen["sliders"] = [float(sliders.nth(i).input_value()) for i in range(2)]
    return seen


def assert_python_agrees(seen: dict) -> None:
    weights = network()
    kept = {k: (w.abs() > seen["threshold"]).sum().item() for k, w in weights.items()}
    if seen["scope"] == "global":
        assert seen["kept"] == list(kept.values())
    else:
        assert seen["kept"][list(kept).index(seen["layer"])] == kept[seen["layer"]]


def drag(page, slider: int, share: float) -> None:
    """Take a slider's thumb with the mouse and let it go at ``share`` of its way."""
    thumb = 24
    box = page.locator(".explorer input[type=range]").nth(slider).bounding_box()
    now = page.evaluate(
        "(i) => { const r = document.querySelectorAll('.explorer input[type=range]')[i];"
        " return (r.value - r.min) / (r.max - r.min) }",
        slider,
    )
    places = [box["x"] + thumb / 2 + s * (box["width"] - thumb) for s in (now, share)]
    page.mouse.move(places[0], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(places[1], box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("slider", [0, 1])
def test_dragging_either_slider_moves_both_and_shows_pythons_numbers(show, scope, slider):
    page = show(widget(accuracy=LOCAL_FIRST if scope == "local" else ACCURACY))
    before = shown(page)
    assert_python_agrees(before)
    for share in (0.25, 0.75):
        drag(page, slider, share)
        after = shown(page)
        assert all(a != b for a, b in zip(after["sliders"], before["sliders"], strict=True))
        assert after["sliders"][1] == pytest.approx(after["threshold"], rel=1e-6)
        assert after["kept"] != before["kept"]
        assert_python_agrees(after)
        words = page.locator("output").inner_text()
        assert f"{sum(after['kept']):,}\nof 1,716" in words
        before = after
    assert page.outside == page.complaints == []


def test_dragging_goes_where_the_mouse_goes(show):
    made = widget()
    page = show(made)
    drag(page, 0, 0.9)
    assert shown(page)["sliders"][0] == pytest.approx(0.9 * (len(made.data["cuts"]) - 1), abs=2)
    drag(page, 1, 0.5)
    tops = [layer["top"] for layer in made.data["layers"]]
    assert shown(page)["threshold"] == pytest.approx(0.5 * max(tops), rel=0.1)
    page.locator("label", has_text="local").click()
    page.locator(".layers label").nth(2).click()
    drag(page, 1, 0.6)
    seen = shown(page)
    assert seen["threshold"] == pytest.approx(0.6 * tops[2], rel=0.1), "the layer's own scale"
    assert_python_agrees(seen)


@pytest.mark.parametrize("slider", [0, 1])
def test_keys_walk_from_cut_to_cut(show, slider):
    made = widget(start=0.5)
    page = show(made)
    page.locator(".explorer input[type=range]").nth(slider).focus()
    for key, position in [
        ("ArrowRight", made.position + 1),
        ("ArrowUp", made.position + 2),
        ("ArrowLeft", made.position + 1),
        ("ArrowDown", made.position),
        ("End", len(made.data["cuts"]) - 1),
        ("Home", 0),
    ]:
        page.keyboard.press(key)
        seen = shown(page)
        assert seen["position"] == str(position), key
        assert_python_agrees(seen)


def test_scope_and_layer_are_chosen_by_keyboard(show):
    page = show(widget(start=0.95))
    page.locator("input[type=radio]").first.focus()
    page.keyboard.press("ArrowDown")
    assert shown(page)["scope"] == "local"
    assert page.evaluate("document.activeElement.checked")
    page.locator(".layers input").first.focus()
    page.keyboard.press("ArrowDown")
    seen = shown(page)
    assert seen["layer"] == "conv"
    assert_python_agrees(seen)
    assert f"{seen['threshold']} in conv" in page.locator(".slider").nth(1).inner_text()


def test_the_first_view_makes_the_point_alone(show):
    page = show(widget(start=0.9))
    words = " ".join(page.locator("output").text_content().split())
    assert "accuracy 60.0 % (measured, 3 seeds, sd 10.0) random: about 16 %" in words
    seen = shown(page)
    stored = 8 * sum(seen["kept"]) + 4 * (31 + 9 + 11)
    assert f"stored as CSR {stored / 1000:.1f} kB (dense: 6.9 kB)" in words
    assert page.locator(".layers .survivors").count() == 3
    assert page.locator("details").evaluate("(d) => !d.open")


def test_interpolated_accuracy_is_marked(show):
    page = show(widget(start=0.7))
    assert "about 77 % (interpolated between 50 % and 90 %)" in " ".join(
        page.locator("output").text_content().split()
    )


def test_a_screen_reader_hears_the_cut_and_its_accuracy_only(show):
    page = show(widget(start=0.7))
    assert page.locator("output").get_attribute("aria-live") == "off"
    page.locator("input[type=range]").first.press("End")
    assert page.locator("[role=status]").inner_text() == "100 % removed: accuracy 10.0 %"


def test_an_empty_layer_is_called_collapsed_in_words(show):
    page = show(widget(start=0.995))
    empty = [i for i, kept in enumerate(shown(page)["kept"]) if kept == 0]
    assert empty, "this network's small layer is gone by then"
    rows = page.locator(".survivors").all_inner_texts()
    assert [i for i, row in enumerate(rows) if "collapsed" in row] == empty
    assert "Collapsed: no weight is left in fc1" in page.locator("output").inner_text()


def test_the_mask_picture_shows_the_weights_python_keeps(show):
    page = show(widget(start=0.8))
    kept = (network()["fc1"].abs()[5:25, 10:30] > shown(page)["threshold"]).sum().item()
    cells = "(p) => (p.getAttribute('d').match(/M/g) ?? []).length"
    drawn = page.locator(".mask path:not(.gone)").evaluate_all(f"(all) => all.map({cells})")
    assert sum(drawn) == kept
    assert page.locator(".mask path.gone").evaluate(cells) == 400 - kept
    assert f"{kept} of 400" in page.locator(".mask").get_attribute("aria-label")


def test_the_cut_stands_on_the_sliders_scale(show):
    """The line in either chart is under the middle of the thumb of the slider above it."""
    page = show(widget(start=0.6))
    for i in range(2):
        box = page.locator("input[type=range]").nth(i).bounding_box()
        share = (
            page.locator("input[type=range]")
            .nth(i)
            .evaluate("(r) => (r.value - r.min) / (r.max - r.min)")
        )
        line = page.locator(".chart .cut").nth(i).bounding_box()
        assert line["x"] + line["width"] / 2 == pytest.approx(
            box["x"] + 12 + share * (box["width"] - 24), abs=1.5
        )


def test_two_widgets_on_a_page_do_not_meddle(show):
    page = show(widget("one", start=0.5), widget("two", accuracy=LOCAL_FIRST, start=0.5))
    second = page.locator(".explorer output").nth(1)
    before = second.evaluate("(o) => JSON.stringify(o.dataset)")
    drag(page, 0, 0.9)
    page.locator(".explorer").first.locator("label", has_text="local").click()
    assert shown(page)["scope"] == "local"
    assert second.evaluate("(o) => JSON.stringify(o.dataset)") == before
    assert page.locator("#explorer-two").get_by_label("local: one").is_checked()
    assert page.complaints == [], "the script ran twice, and left alone what was alive"


@pytest.mark.parametrize("scope", ["global", "local"])
def test_every_cut_on_the_page_says_pythons_texts(show, scope):
    """Walk through all cuts and read everything that the page says about each."""
    weights = network() | {"conv": (network()["conv"], 100)}
    made = widget(weights=weights, accuracy=LOCAL_FIRST if scope == "local" else ACCURACY, start=0)
    page = show(made)
    page.locator(".layers input").nth(1).check()
    read = """() => {
      const slider = document.querySelector(".slider input"), seen = [];
      for (let cut = 0; cut <= slider.max; cut++) {
        slider.value = cut;
        slider.dispatchEvent(new Event("input"));
        const words = (query) => [...document.querySelectorAll(query)].map((e) => e.textContent);
        seen.push({ output: words("output .part"), layers: words(".survivors"), values: words(".value") });
      }
      return seen;
    }"""
    said, curves = made.data["scopes"][scope], made.data["accuracy"]
    text = {key: column(said[key]) for key in ("removed", "left", "csr", "multiplications")}
    share = [column(layer) for layer in said["share"]]
    value, note = (column(curves[scope][key]) for key in ("value", "note"))
    control, sizes = column(curves["random"]["value"]), (1200, 216, 300)
    thresholds = said["thresholds"][1 if scope == "local" else 0]
    seen = page.evaluate(read)
    assert len(seen) == len(made.data["cuts"])
    for p, shown_now in enumerate(seen):
        where = " in conv" if scope == "local" else ""
        assert shown_now["output"] == [
            f"kept weights {text['left'][p]} of 1,716",
            f"accuracy {value[p]} {note[p]} random: {control[p]}",
            f"stored as CSR {text['csr'][p]} (dense: 6.9 kB)",
            f"multiplications {text['multiplications'][p]} per image (dense: 23,100)",
        ]
        kept = [layer[p] for layer in said["kept"]]
        assert shown_now["layers"] == [
            f"{k:,} of {n:,} kept · {f'{share[i][p]} %' if k else 'collapsed'}"
            for i, (k, n) in enumerate(zip(kept, sizes, strict=True))
        ]
        removed, threshold = shown_now["values"]
        assert removed == f"{text['removed'][p]} % removed"
        assert threshold.endswith(where) and float(threshold.removesuffix(where)) == thresholds[p]


def test_small_thresholds_read_alike_in_the_table_and_above_it(show):
    draw = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1e-5, 1e-7):
        made = widget(weights={"fc": scale * torch.rand(20, 20, generator=draw)}, start=0.5)
        page = show(made)
        above = page.locator(".value").nth(1).inner_text()
        rows = page.locator(".table").first.locator("tbody tr td:nth-child(2)").all_text_contents()
        assert above in rows, scale


def test_the_front_end_follows_the_kernel_until_it_is_taken_away(show):
    """As in JupyterLab: another model, changed from outside, with a view that goes."""
    page = show(text="<!doctype html><title>live</title><div id=here></div>")
    made = widget()
    state = {k: getattr(made, k) for k in ("data", "fallback", "position", "scope", "layer")}
    page.evaluate(
        """async ([source, state]) => {
          const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
          const front = (await import(url)).default;
          const heard = new EventTarget();
          window.saved = [];
          window.model = {
            get: (key) => state[key],
            set(key, value) { state[key] = value; heard.dispatchEvent(new Event("change:" + key)) },
            on: (event, f) => heard.addEventListener(event, f),
            off: (event, f) => heard.removeEventListener(event, f),
            save_changes() { saved.push(state.position) },
          };
          window.leave = front.render({ model, el: document.getElementById("here") });
        }""",
        [made._esm, state],
    )
    page.evaluate("model.set('position', 40); model.set('scope', 'local'); model.set('layer', 2)")
    seen = shown(page)
    assert (seen["position"], seen["scope"], seen["layer"]) == ("40", "local", "fc3")
    assert_python_agrees(seen)
    assert page.evaluate("saved") == [], "the front end does not answer the kernel"
    drag(page, 0, 0.8)
    assert page.evaluate("saved.at(-1) === model.get('position') && saved.at(-1) > 40")
    last = shown(page)
    page.evaluate("leave(); model.set('position', 3)")
    assert shown(page)["position"] == last["position"]
    assert page.complaints == []


def test_without_javascript_the_numbers_can_be_read(show):
    page = show(widget(start=0.9), java_script_enabled=False)
    text = page.locator(".explorer").inner_text()
    assert "of 1,716 are kept; accuracy: 60.0 % (measured, 3 seeds, sd 10.0)" in text
    assert page.locator("table").count() == 2
    assert page.locator("tbody tr").count() >= 10


@pytest.mark.parametrize("broken", [{"layers": []}, {"scopes": {}}, {"accuracy": {}}])
def test_a_front_end_that_fails_leaves_the_numbers(show, broken):
    made = widget()
    made.data = made.data | broken
    page = show(text=page_of(made))
    assert len(page.complaints) == 1 and page.locator("output").count() == 0
    assert page.locator(".explorer table").count() == 2
    assert page.locator("table").first.is_visible()


def test_hostile_names_are_shown_as_text(show):
    hostile = "</script><b>&lt;<img src=x onerror=alert(1)>"
    weights = {hostile: torch.rand(4, 4)}
    page = show(widget(weights=weights, title=hostile, metric=hostile))
    assert page.locator(".explorer :is(b, img)").count() == 0
    assert page.locator(".title").inner_text() == hostile
    assert page.locator("output").get_attribute("data-layer") == hostile
    assert page.outside == page.complaints == []


@pytest.mark.parametrize("width", [390, 320])
def test_phones_scroll_only_downwards(show, width):
    page = show(widget(), viewport={"width": width, "height": 800})
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    plain = show(widget(), viewport={"width": width, "height": 800}, java_script_enabled=False)
    assert plain.evaluate("document.documentElement.scrollWidth") <= width


def test_touch_targets_are_large_enough(show):
    page = show(widget(), viewport={"width": 390, "height": 800}, has_touch=True)
    for target in page.locator(".explorer :is(label:has(input), input[type=range], summary)").all():
        box = target.bounding_box()
        assert min(box["width"], box["height"]) >= 40, target.evaluate("(t) => t.outerHTML")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(show, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = show(widget())
    page.evaluate("(theme) => { document.documentElement.dataset.theme = theme }", theme)
    page.locator("summary").click()
    found = axe.run(page)
    assert found.violations_count == 0, found.generate_report()


def test_focus_can_be_seen(show):
    page = show(widget())
    page.keyboard.press("Tab")
    for _ in range(3):  # the scope, then both sliders
        width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert width == "3px"
        page.keyboard.press("Tab")


def test_controls_are_told_apart_without_colour(show):
    page = show(widget(accuracy=ACCURACY | {"chosen": {0.0: [95], 1.0: [10]}}))
    legend = page.locator(".explorer line.control")
    dashes = [line.evaluate("e => getComputedStyle(e).strokeDasharray") for line in legend.all()]
    assert len(dashes) == 2 == len(set(dashes))
