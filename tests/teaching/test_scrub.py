"""Scrub: every frame is reached by finger and by key, and can be read without either."""

import base64
import io
import json
import re

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from course_lib.teaching.scrub import SHADES, bars, cloud, dots, pixels, scrub

AXES = {"sparsity": [0.5, 0.8, 0.9, 0.95], "method": ["SET", "</script><b>RigL"]}


def frame(sparsity, method):
    return f"<b>{method.lower()[-3:]} {sparsity}</b>", f"{method} at {sparsity}."


def made(**options):
    return scrub("demo", "A & B", AXES, frame, **options)


def test_frames_are_in_the_order_of_the_axes_and_the_start_is_shown():
    shown = BeautifulSoup(made(start={"sparsity": 0.9, "method": "SET"}).data, "html.parser")
    data = json.loads(shown.find("script", type="application/json").string)
    assert data["sizes"] == [4, 2]
    frames = [frame(s, m)[0] for s in AXES["sparsity"] for m in AXES["method"]]
    frames[4] = None  # it stands there already
    assert data["frames"] == frames
    assert data["shown"] == [["0.5", "0.8", "0.9", "0.95"], AXES["method"]]
    assert shown.select_one(".scrub")["data-frame"] == "4"
    assert shown.select_one(".frame").get_text() == "set 0.9"
    assert shown.select_one(".sentence").get_text() == "SET at 0.9."
    sentences = [li.get_text() for li in shown("li")]
    assert sentences == [frame(s, m)[1] for s in AXES["sparsity"] for m in AXES["method"]]
    assert made().data == made().data
    assert set(re.findall(r"https?://[^/\"]*", made().data)) == {"http://www.w3.org"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "A b"}, "name must consist"),
        ({"axes": {}}, "axes must hold"),
        ({"axes": {"sparsity": [1]}}, "axes must hold"),
        ({"start": {"seed": 1}}, "start must name some of"),
        ({"start": {"sparsity": 0.7}}, r"start\['sparsity'\] must be one of"),
        ({"show": {"seed": str}}, "show must name some of"),
        ({"frame": lambda **_: ("<b>", " ")}, "no sentence"),
        ({"title": " "}, "title must hold some text"),
    ],
)
def test_bad_input_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        scrub(**{"name": "demo", "title": "T", "axes": AXES, "frame": frame} | change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": None}, "name must be a string, got None"),
        ({"title": 3}, "title must be a string, got 3"),
        ({"axes": [1, 2]}, "axes must be a mapping, got \\[1, 2\\]"),
        ({"start": 0.5}, "start must be a mapping, got 0.5"),
        ({"show": str}, "show must be a mapping"),
        ({"frame": lambda **_: "<b>"}, "frame must return .* got '<b>' for \\(0.5, 'SET'\\)"),
        ({"frame": lambda **_: ("<b>", 1)}, "frame must return"),
    ],
)
def test_a_wrong_type_is_named(change, words):
    with pytest.raises(TypeError, match=words):
        scrub(**{"name": "demo", "title": "T", "axes": AXES, "frame": frame} | change)


def test_bars_are_a_table_that_can_be_read():
    table = BeautifulSoup(bars({"a<b": (50, "50 ± 1"), "c": (300, "300")}, top=200), "html.parser")
    assert [row.get_text(" ", strip=True) for row in table("tr")] == ["a<b 50 ± 1", "c 300"]
    assert [i["style"] for i in table("i")] == ["width:25.0%", "width:100.0%"]
    for rows, top in (({}, 1), ({"a": (1, "")}, 0), ({"a": (float("nan"), "")}, 1)):
        with pytest.raises(ValueError, match="must"):
            bars(rows, top=top)


def test_pixels_are_the_array():
    for array in (np.eye(5, 7, dtype=bool), np.linspace(0, 1, 35).reshape(5, 7)):
        image = BeautifulSoup(pixels(array, 'a "mask".'), "html.parser").img
        assert image["alt"] == 'a "mask".' and (image["width"], image["height"]) == ("28", "20")
        file = io.BytesIO(base64.b64decode(image["src"].split(",")[1]))
        grey = np.asarray(Image.open(file).convert("L"), float)
        assert np.abs(grey / 255 - (1 - array)).max() <= 1 / 510 + 1e-9
    with pytest.raises(ValueError, match="array must hold rows"):
        pixels(np.full((2, 2), 1.5), "x")
    with pytest.raises(ValueError, match="scale must be a positive integer, got 0.5"):
        pixels(np.eye(2), "x", scale=0.5)


def test_dots_stand_where_their_coordinates_say():
    picture = dots([(0, 30), (1, 10), (4, 20)], "Three <points>.", xlabel="a & b", ylabel="c")
    drawn = BeautifulSoup(picture, "html.parser").svg
    assert drawn["aria-label"] == "Three <points>." and drawn["role"] == "img"
    places = [(c["cx"], c["cy"]) for c in drawn("circle")]
    assert places == [("10", "10"), ("60", "210"), ("210", "110")]  # y grows upwards
    assert [text.get_text() for text in drawn("text")] == ["a & b", "c"]
    alike = BeautifulSoup(
        dots([(1, 2), (1, 2)], "x", xlabel="x", ylabel="y", side=100), "html.parser"
    )
    assert {(c["cx"], c["cy"]) for c in alike("circle")} == {("10", "90")}
    for points in ([], [(1, float("nan"))], [(1, 2, 3)]):
        with pytest.raises(ValueError, match="points must hold finite pairs"):
            dots(points, "x", xlabel="x", ylabel="y")
    with pytest.raises(ValueError, match="side must be a positive integer, got 0"):
        dots([(1, 2)], "x", xlabel="x", ylabel="y", side=0)


def test_a_cloud_has_cells_by_their_number_and_marks_where_they_belong():
    counts, axes = [[0, 1], [0, 1000], [3, 0]], {"x": ("a & b", "1", "2"), "y": ("c", "0", "9")}
    picture = cloud(counts, [(1, 0), (0, 2), (1, 0)], "Many <points>.", **axes, cell=(10, 4))
    drawn = BeautifulSoup(picture, "html.parser").svg
    assert drawn["aria-label"] == "Many <points>." and drawn["role"] == "img"
    _, *shades, marks = [path["d"] for path in drawn("path")]
    assert len(shades) == SHADES and shades[-1] == "M10 6h10"  # the fullest cell, in the middle row
    assert sorted("".join(shades).replace("h10", "h10 ").split("M")[1:]) == [
        "0 2h10 ", "10 10h10 ", "10 6h10 ",
    ]  # fmt: skip
    assert marks == "M5 2h.1M15 10h.1"  # row 0 is at the bottom, and a mark is drawn once
    words = [text.get_text() for text in drawn("text")]
    assert words == ["1", "a & b", "2", "0", "c", "9"]
    for bad in ([], [1, 2], [[0, 0]], [[-1, 2]]):
        with pytest.raises(ValueError, match="counts must hold rows of numbers from 0 on"):
            cloud(bad, [], "x", **axes)
    with pytest.raises(ValueError, match="marked must lie in 2 columns and 3 rows"):
        cloud(counts, [(2, 0)], "x", **axes)


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 390, "height": 700})
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.set_content(f"<main>{made(show={'sparsity': '{:.0%}'.format}).data}</main>")
    yield page
    assert not page.complaints
    page.close()


def test_dragging_shows_the_frame_and_says_its_sentence(page):
    slider = page.get_by_role("slider", name="sparsity")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + 8, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.66, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert page.locator(".frame").inner_text() == "set 0.9"
    assert page.locator("label b").inner_text() == "90%"
    assert slider.get_attribute("aria-valuetext") == "90%"
    assert page.locator(".sentence").inner_text() == "SET at 0.9."
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_screen_reader_hears_only_what_is_new(page):
    def stage(bits, layer):
        return (
            "<b></b>",
            f"{bits} bits, {layer}: accuracy {90 + bits} %; {1000 * bits:,} bytes on "
            + ("a disk that holds the weights of this layer, of all other layers and some more."),
        )

    axes = {"bits": [8, 4, 2], "layer": ["fc1", "fc2"]}
    page.set_content(f"<main>{scrub('bits', 'Bits', axes, stage).data}</main>")
    heard, said = page.get_by_role("status"), page.locator(".sentence")
    assert heard.inner_text() == ""
    page.get_by_role("slider").press("ArrowLeft")
    assert heard.inner_text() == "4 bits, accuracy 94 %"
    assert said.inner_text().startswith("4 bits, fc1: accuracy 94 %; 4,000 bytes on a disk")
    page.get_by_label("fc2").check()
    assert heard.inner_text() == "fc2"


def test_a_slider_grows_to_the_right_and_starts_where_it_was_told(page):
    def stage(bits):
        return "<b></b>", f"{bits} bits."

    page.set_content(f"<main>{scrub('bits', 'Bits', {'bits': [32, 8, 2]}, stage).data}</main>")
    slider = page.get_by_role("slider")
    assert [slider.input_value(), slider.get_attribute("aria-valuetext")] == ["2", "32"]
    assert page.locator(".sentence").inner_text() == "32 bits."
    slider.press("Home")
    assert page.locator(".sentence").inner_text() == "2 bits."


def test_every_frame_is_reached_by_key(page):
    slider = page.get_by_role("slider", name="sparsity")
    for method in AXES["method"]:
        page.get_by_label(method, exact=True).focus()
        page.keyboard.press("Space")
        slider.focus()
        page.keyboard.press("Home")
        for sparsity in AXES["sparsity"]:
            assert page.locator(".frame").inner_html() == frame(sparsity, method)[0]
            assert page.locator(".sentence").inner_text() == frame(sparsity, method)[1]
            page.keyboard.press("ArrowRight")


def test_pictures_are_scrubbed_step_by_step(page):
    """One axis of names, each with a drawing: the process of a lesson, stage by stage."""
    names = ["Train", "Prune", "Retrain"]

    def stage(step):
        n = names.index(step) + 1
        drawing = f'<svg viewBox="0 0 9 9" aria-hidden="true"><path d="M0 {n}h9"></path></svg>'
        return drawing, f"{step}: {n} lines."

    page.set_content(f"<main>{scrub('rounds', 'Rounds', {'step': names}, stage).data}</main>")
    for step in (*names, "Prune", "Train"):  # and back to the one that stood there at first
        page.get_by_label(step, exact=True).check()
        assert page.locator(".frame").inner_html() == stage(step)[0]
        assert page.locator(".sentence").inner_text() == stage(step)[1]
    page.get_by_label("Train", exact=True).press("ArrowRight")
    assert page.locator(".sentence").inner_text() == "Prune: 2 lines."


def test_two_on_a_page_do_not_meddle(page):
    """Each brings the script along: it runs twice, and listens once."""
    two = "".join(scrub(name, name, AXES, frame).data for name in ("one", "two"))
    page.set_content(f"<main>{two}</main>")
    first, second = page.locator(".scrub").all()
    first.get_by_role("slider").press("End")
    assert first.locator(".frame").inner_text() == "set 0.95"
    assert second.locator(".frame").inner_text() == "set 0.5"
    second.get_by_label(AXES["method"][1]).check()
    assert first.locator(".frame").inner_text() == "set 0.95"
    assert second.locator(".frame").inner_html() == frame(0.5, AXES["method"][1])[0]


def test_without_javascript_the_first_frame_and_all_sentences_are_there(browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(made().data)
    assert page.locator(".frame").inner_text() == "set 0.5"
    assert page.get_by_role("slider").count() == 0
    page.locator("summary").click()
    assert page.locator("li").count() == 8 and page.locator("li").last.is_visible()
    context.close()
