"""Figures, claims, shown source: what a page says is what was computed."""

import hashlib
import json
import re
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import stats

from course_lib import measure
from course_lib.pruning import counting, criteria
from course_lib.teaching import claims, plots, source


def draw():
    plots.use_style()
    return plots.seed_curves(
        [0.5, 0.9],
        {"a <b>": [[1, 2, 3], [4, 5, 9]], "c": [[7, 7, 7], [8, 8, 8]]},
        reference=("dense", 50),
    )


def test_figures_take_the_pages_colour_and_speak():
    figure = draw()
    html = plots.show(figure, 'One line rises, "a" & b.').data
    assert html.startswith('<figure class="course-figure"><svg role="img" aria-label="One line')
    assert "&quot;a&quot; &amp; b." in html
    assert "#000000" not in html and "currentColor" in html
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", html, re.DOTALL)[0])
    assert "width" not in svg.attrib and "viewBox" in svg.attrib
    texts = [t.text for t in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "a <b>" in texts and "90%" in texts and "dense" in texts
    assert not plt.fignum_exists(figure.number)  # closed


def test_figures_are_reproducible():
    one, two = (hashlib.sha256(plots.svg(draw()).encode()).hexdigest() for _ in range(2))
    plt.close("all")
    assert one == two


def test_error_bars_are_sample_standard_deviations():
    figure = draw()
    bars = figure.axes[0].containers[0]
    low, high = bars[2][0].get_segments()[1][:, 1]
    assert (low + high) / 2 == pytest.approx(6)
    assert high - low == pytest.approx(2 * np.std([4, 5, 9], ddof=1))
    plt.close(figure)


def test_colours_stand_out_in_light_and_dark():
    def luminance(colour):
        c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [
            0.2126,
            0.7152,
            0.0722,
        ]

    for colour in plots.COLOURS:
        assert 1.05 / (luminance(colour) + 0.05) >= 3
        assert (luminance(colour) + 0.05) / (luminance("#121212") + 0.05) >= 3


def test_alternative_text_is_a_sentence():
    figure = plt.figure()
    with pytest.raises(ValueError, match="alt must be a full sentence.*'a plot'"):
        plots.show(figure, "a plot")
    plt.close(figure)


A, B = [5.0, 6.0, 7.5, 8.0, 9.0], [1.0, 2.0, 2.5, 2.0, 3.0]


def test_a_claim_is_a_paired_t_interval():
    claim = claims.greater("A beats B", A, B)
    expected = stats.ttest_rel(A, B).confidence_interval(0.95)
    assert claim.mean - claim.half_width == pytest.approx(expected.low)
    assert claim.mean + claim.half_width == pytest.approx(expected.high)
    assert claim.seeds == [0, 1, 2, 3, 4]
    bundle = claim._repr_mimebundle_()
    assert json.loads(json.dumps(bundle[claims.MIME]))["versions"].keys() == {"course_lib", "torch"}
    assert "A beats B: +5.00" in bundle["text/plain"]


def test_a_claim_fails_when_the_data_stop_supporting_it(monkeypatch):
    monkeypatch.setenv("CI", "1")
    with pytest.raises(AssertionError, match="not supported.*B beats A"):
        claims.greater("B beats A", B, A)
    with pytest.raises(AssertionError, match="more than 4.5 points"):  # the interval reaches below
        claims.greater("by a lot", A, B, by=4.5)
    noise = [1.0, -1.2, 0.9, -1.1, 0.6]
    with pytest.raises(AssertionError, match="not supported"):
        claims.greater("noise beats nothing", noise, [0.0] * 5)
    with pytest.raises(AssertionError, match="needs less than 0.5 points"):  # nor is it equal
        claims.equal("noise equals nothing", noise, [0.0] * 5, within=0.5)
    assert claims.equal("noise is small", noise, [0.0] * 5, within=2).mean == pytest.approx(0.04)
    with pytest.raises(AssertionError):
        claims.equal("A equals B", A, B, within=5)


def test_no_difference_says_where_there_is_a_small_one():
    up, down = claims.equal("up", A, B, within=9), claims.equal("down", B, A, within=9)
    assert str(up).endswith(
        "Zero lies outside the interval: there is a difference, and it is positive"
    )
    assert str(down).endswith("it is negative")
    assert "Zero" not in str(claims.equal("same", A, A, within=9)) + str(claims.greater("up", A, B))
    noise = claims.equal("noise", [1.0, -1.2, 0.9, -1.1, 0.6], [0.0] * 5, within=2)
    assert "Zero" not in str(noise)


def test_a_claim_knows_its_margin():
    more, same = claims.greater("more", A, B, by=1), claims.equal("same", A, A, within=0.5)
    assert (more.relation, more.margin, more.holds) == ("greater by", 1.0, True)
    assert (same.relation, same.margin, same.holds) == ("equal within", 0.5, True)
    data = json.loads(json.dumps(more._repr_mimebundle_()[claims.MIME]))
    assert (data["relation"], data["margin"], data["holds"]) == ("greater by", 1.0, True)
    assert claims.greater("hardly worse", A, A, by=-0.5).holds
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="margin must be finite"):
            claims.equal("same", A, A, within=bad)


@pytest.mark.parametrize("mark", ["exploratory", "usually"])
def test_a_marked_claim_says_so_and_is_not_asserted(mark, monkeypatch):
    monkeypatch.setenv("CI", "1")
    shown = claims.equal("A is A", A, A, within=1, mark=mark)
    assert str(shown).startswith(f"A is A ({mark}): +0.00 ± 0 points")
    assert shown.mark == mark and not claims.greater("A beats B", A, B).mark
    failed = claims.greater("B beats A", B, A, mark=mark)
    assert not failed.holds and str(failed).endswith("This run does not support the sentence")
    with pytest.raises(ValueError, match="mark must be one of"):
        claims.greater("A beats B", A, B, mark="sometimes")


def test_nothing_stops_outside_the_projects_own_checks(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    failed = claims.greater("B beats A", B, A)
    assert not failed.holds and str(failed).endswith("This run does not support the sentence")
    assert not claims.every("all of them", [True] * 4 + [False]).holds


def test_counts_come_with_the_exact_bound(monkeypatch):
    shown = claims.every("all of them", [True] * 20)  # 0.025 ** (1 / 20) = 0.8316
    assert str(shown).endswith("20 of 20 seeds (at 95 % confidence in at least 83 % of all)")
    assert shown.holds and shown.relation == "every"
    data = json.loads(json.dumps(shown._repr_mimebundle_()[claims.MIME]))
    assert (data["mean"], data["margin"], data["holds"]) == (100.0, 100.0, True)
    monkeypatch.delenv("CI", raising=False)
    # scipy's own test of a proportion gives the same bound for 3 of 8
    low = stats.binomtest(3, 8).proportion_ci(0.95, "exact").low
    some = claims.every("three", [True] * 3 + [False] * 5)
    assert f"3 of 8 seeds (at 95 % confidence in at least {100 * low:.0f} % of all)" in str(some)
    assert "at least 0 % of all" in str(claims.every("none", [False] * 5))
    monkeypatch.setenv("CI", "1")
    with pytest.raises(AssertionError, match="no less than 100 % of seeds"):
        claims.every("three", [True] * 3 + [False] * 5)
    with pytest.raises(ValueError, match="outcomes must hold"):
        claims.every("too few", [True] * 4)


def test_a_direction_of_speed_is_asserted_only_where_nothing_disturbs_it(monkeypatch):
    slow, fast = measure.Seconds(4e-3, 3e-3, 5e-3), measure.Seconds(2e-3, 1e-3, 2.5e-3)
    monkeypatch.setenv("CI", "1")
    monkeypatch.setenv("COURSE_ALONE", "1")
    shown = claims.faster("the cut one is faster", slow, fast)
    assert shown.holds and str(shown).endswith(": 2 times as fast by the median turn")
    assert not claims.faster("the cut one is faster", slow, fast._replace(q3=3.5e-3)).holds
    with pytest.raises(AssertionError, match="quartiles overlap"):
        claims.faster("the cut one is faster", fast, slow)
    monkeypatch.delenv("COURSE_ALONE")
    assert not claims.faster("the cut one is faster", fast, slow).holds


def test_a_claim_that_fails_is_shown_where_claims_are_replicated(monkeypatch):
    shown = []
    monkeypatch.setattr(claims, "display", shown.append)
    claims.greater("A beats B", A, B)
    assert not shown
    monkeypatch.setenv("COURSE_REPLICATE", "1")
    found = [
        claims.greater("A beats B", A, B),
        claims.greater("B beats A", B, A),
        claims.equal("A equals B", A, B, within=5),
    ]
    assert shown == found and [claim.holds for claim in found] == [True, False, False]
    with pytest.raises(ValueError, match="same 5 or more seeds"):  # a mistake is one everywhere
        claims.greater("A beats B", A[:4], B[:4])


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (A[:4], B[:4], "same 5 or more seeds"),
        (A, B[:4], "same 5 or more seeds"),
        (A, [*B[:4], float("nan")], "must be finite"),
    ],
)
def test_claims_need_five_paired_seeds(a, b, words):
    with pytest.raises(ValueError, match=words):
        claims.greater("A beats B", a, b)


def test_claims_escape_their_statement():
    html = claims.greater("<script>", A, B)._repr_mimebundle_()["text/html"]
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_mean():
    assert claims.mean([1, 2.0, 6]) == claims.mean(torch.tensor([1, 2, 6])) == 3.0
    with pytest.raises(ValueError, match="at least one seed"):
        claims.mean([])


def test_mean_sd():
    assert claims.mean_sd([1.0, 2.0, 3.0]) == "2.0 ± 1.0"
    with pytest.raises(ValueError, match="at least two seeds"):
        claims.mean_sd([1.0])


def test_source_is_the_librarys_without_its_docstring():
    shown = source(criteria.magnitude).data
    assert shown.startswith("```python\ndef magnitude(model: nn.Module) -> Scores:\n    return {")
    assert '"""' not in shown
    namespace = vars(counting).copy()
    code = source(counting.keep_top).data.removeprefix("```python\n").removesuffix("```")
    exec(code, namespace)  # noqa: S102

    assert namespace["keep_top"](torch.tensor([1.0, 3.0, 2.0]), 2).tolist() == [False, True, True]
