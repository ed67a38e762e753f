"""The first page: the map, the paths and the self-test, and what the lessons tell it."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOC = re.findall(r"notebooks/([\w-]+)", (ROOT / "book/_toc.yml").read_text(encoding="utf-8"))
COURSE = {
    name: json.loads((ROOT / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))["metadata"][
        "course"
    ]
    for name in TOC
}
FIRST = "book/intro.html"


def test_the_map_lists_every_lesson_in_reading_order_with_what_it_needs(visit):
    with visit(FIRST, scheme="file") as page:
        items = page.locator(".course-map li")
        assert items.evaluate_all("all => all.map(e => e.dataset.lesson)") == TOC
        for item, course in zip(items.all(), COURSE.values(), strict=True):
            words = item.text_content().lower().replace("-", " ")
            assert f"{course['minutes']} min" in words
            for need in course["needs"]:
                assert need.replace("-", " ") in words.split("it needs")[1]
        assert page.complaints == page.outside == []


def test_a_wide_map_puts_a_lesson_right_of_all_it_needs(visit):
    with visit(FIRST, viewport={"width": 1280, "height": 900}) as page:
        boxes = {
            name: page.locator(f".course-map [data-lesson={name}]").bounding_box() for name in TOC
        }
        for name, course in COURSE.items():
            for need in course["needs"]:
                assert boxes[need]["x"] + boxes[need]["width"] <= boxes[name]["x"]
        corners = {(box["x"], box["y"]) for box in boxes.values()}
        assert len(corners) == len(TOC)
        assert page.locator(".course-map svg").is_visible()


def test_paths_say_how_long_they_take(visit):
    with visit(FIRST) as page:
        text = page.locator("main").inner_text()
        hours = sum(course["minutes"] for course in COURSE.values()) / 60
        said = re.search(r"The whole course \(about (\d+)(½?) hours\)", text)
        assert abs(int(said[1]) + bool(said[2]) / 2 - hours) <= 0.25
        assert re.search(r"An hour \(\d+ minutes\)", text)


def test_the_first_widget_shows_recorded_numbers(visit):
    run = json.loads((ROOT / "book/reproductions/deepcompression2016.json").read_text())
    rows = {row["quantity"]: row["ours"] for row in run["table"]}
    files = rows["LeNet-300-100: file, compressed"]
    with visit(FIRST) as page:
        widget = page.locator("#scrub-first")
        assert (
            f"{sum(files) / len(files) / 1000:.0f} kB" in widget.locator(".sentence").inner_text()
        )
        widget.get_by_label("trained").first.check()
        assert "times" not in widget.locator(".sentence").inner_text()
        widget.get_by_label("small from the start").check()
        assert f"{_small_opponent():.1f} % of the test" in widget.locator(".sentence").inner_text()


def _small_opponent() -> float:
    run = json.loads((ROOT / "book/reproductions/long_deep_compression.json").read_text())
    rows = {row["quantity"]: row["ours"] for row in run["table"]}
    error = rows["MNIST, 37 epochs: 70-23, not pruned, error"]
    return 100 - sum(error) / len(error)


@pytest.mark.parametrize("wrong", [[], [4], list(range(8))])
def test_the_self_test_counts_first_choices_and_says_where_to_start(visit, wrong):
    with visit(FIRST) as page:
        advice = page.locator(".course-self-test .advice")
        assert "Count the questions" in advice.inner_text()
        groups = page.locator(".course-self-test [role=group]")
        assert groups.count() == 8
        for n, group in enumerate(groups.all()):
            kind = "wrong" if n in wrong else "right"
            group.locator(f"details:has(p.{kind}) summary").first.click()
            group.locator("details:has(p.right) summary").first.focus()
        assert f"right at once in {8 - len(wrong)} of 8" in advice.inner_text()
        assert advice.get_by_role("link", name="Criteria").count() == 1
        assert advice.get_by_role("link", name="Notation").count() == bool(wrong)
        page.reload()
        assert f"right at once in {8 - len(wrong)} of 8" in advice.inner_text()


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_what_is_done_in_a_lesson_stands_on_the_map(visit, scheme):
    with visit(f"notebooks/{TOC[0]}.html", scheme=scheme) as page:
        page.locator(".course-predict input").first.check()
        said = page.locator(".course-done [role=status]").inner_text()
        page.locator(".course-done a").click()
        page.wait_for_selector(".course-map .actions")
        state = page.locator(f"[data-lesson={TOC[0]}] .state")
        steps = re.search(r"of its (\d+)", said)[1]
        assert state.inner_text() == f"1 of {steps} solved"
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save my progress").click()
        page.get_by_role("button", name="Erase my progress").click()
        assert state.text_content() == ""
        _load(page, saved.value.path())
        assert state.inner_text() == f"1 of {steps} solved"
        assert "is loaded" in page.locator(".course-map [role=status]").inner_text()
        assert page.complaints == []


@pytest.mark.parametrize("text", ["", "[]", '{"criteria": {"done": 1}}', '{"a b": null}'])
def test_another_file_is_no_progress(visit, tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with visit(FIRST) as page:
        _load(page, tmp_path / "other.json")
        status = page.locator(".course-map [role=status]", has_text="Nothing was loaded")
        status.wait_for()
        assert page.complaints == []


def _load(page, path):
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Load such a file").click()
    chooser.value.set_files(path)
    page.locator(".course-map [role=status]", has_text="loaded").wait_for()


def test_the_switch_for_code_leaves_folded_cells_and_exercises_alone(visit):
    with visit(f"notebooks/{TOC[0]}.html") as page:
        folded = ".tag_hide-input .cell_input"
        shown = page.locator(".cell_input:visible").count()
        page.get_by_role("button", name="hide the code").click()
        assert 0 < page.locator(".cell_input:visible").count() < shown
        assert page.locator("#exercises .cell_input:visible").count() >= 3
        page.reload()
        page.get_by_role("button", name="show the code").click()
        assert page.locator(".cell_input:visible").count() == shown
        assert page.locator(f"{folded}:visible").count() == 0
