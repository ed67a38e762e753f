"""The instructor's page: every student is in the picture, and no text of theirs is more than text."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe

from course_lib.grading.overview import STATES, overview, pages, state

from .test_export import FOUND
from .test_feedback import EVIL, FAILED, HIDDEN, full

EMPTY = {"public": False, "hidden": None, "stub": True}
CLASS = [
    full("a"),
    full("b", joules=FAILED),
    full("c", joules=FAILED | {"seconds": 2}),
    full("d", joules=HIDDEN),
    full("e", joules=EMPTY, mended_file_bytes=FAILED),
]


def fields(text, name):
    """The fields of an exercise in the picture, from left to right."""
    (row,) = re.findall(rf"<div class='row'><code>{name}</code>.*?</div>", text)
    return re.findall(r"<i class='(\w+)'", row)


def test_the_picture_has_a_field_for_each_student_the_best_on_the_left():
    text = overview(CLASS)
    assert fields(text, "joules") == ["solved", "public", "failed", "failed", "empty"]
    assert fields(text, "mended_file_bytes") == ["solved"] * 4 + ["failed"]
    assert "title='d: right only on the inputs of check'" in text
    words = (
        "joules: 1 solved; 1 right only on the inputs of check; 2 wrong, or no answer that can be"
    )
    assert f"aria-label='{words} judged; 1 empty or missing'" in text


def test_points_count_before_the_first_exercise():
    two = full("two", joules=FAILED, smallest_file={"public": True, "hidden": True})
    text = overview([full("one", mended_file_bytes=FAILED), two])
    assert fields(text, "joules") == ["failed", "solved"]


def test_equal_neighbours_of_a_large_class_share_a_field():
    found = [full(f"s{n}", joules=FAILED if n % 4 == 0 else {}) for n in range(400)]
    text = overview(found)
    assert fields(text, "joules") == ["solved", "failed"]
    assert "style='flex-grow:300'" in text and "style='flex-grow:100'" in text
    assert "and 60 more" in text  # names of those whose answer failed


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"public": True, "hidden": True, "stub": False, "property": None}, "solved"),
        ({"public": True, "hidden": False, "stub": False, "property": "x"}, "public"),
        ({"public": False, "hidden": None, "stub": False, "property": "x"}, "failed"),
        ({"public": False, "hidden": None, "stub": True, "property": None}, "empty"),
        ({"public": False, "hidden": None, "stub": False, "property": None}, "empty"),
    ],
)
def test_each_result_is_in_one_state(part, expected):
    assert state(part) == expected
    assert expected in STATES


def test_an_exercise_tells_what_failed_how_often_whose_it_was_and_an_example():
    text = overview([*CLASS, FOUND[2]])
    assert "5 graded, 1 unreadable." in text
    assert "20 % solved it" in text
    assert "in the middle, and at most 2.00 s" in text
    assert "<summary>runs on every input <b>2</b>" in text
    assert "<a href='students/b.html'>b</a>, <a href='students/c.html'>c</a>" in text
    assert "<dt>Input</dt><dd class=''><code>joules(1)</code></dd>" in text
    assert "<b>cut</b> <span class='faint'>unreadable</span><br>The file is empty." in text
    assert "no submissions" in overview([])


def test_a_page_has_a_name_that_no_student_chooses_unless_it_is_plain():
    found = [{"student": name} for name in ("ada", "../b", "a b", "", "x.html")]
    assert list(pages(found).values()) == ["ada", *(f"student-{n:05}" for n in (2, 3, 4, 5))]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_can_be_heard(browser, tmp_path, scheme):
    (tmp_path / "overview.html").write_text(overview([*CLASS, full("=", why=EVIL)]), "utf-8")
    context = browser.new_context(
        viewport={"width": 390, "height": 800}, color_scheme=scheme, bypass_csp=True
    )
    shown = context.new_page()
    shown.goto((tmp_path / "overview.html").as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    assert Axe().run(shown).response["violations"] == []
    context.close()
