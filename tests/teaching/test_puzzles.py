"""The puzzles: what they show passes or fails as they say, and they work by mouse, touch and key."""

import pytest
from bs4 import BeautifulSoup

from course_lib.exercises import EXERCISES, PUZZLES
from course_lib.exercises.exercise import Lines, WrongLine, code_of
from course_lib.grading import check
from course_lib.teaching import puzzles

ORDERS = [puzzle for puzzle in PUZZLES if isinstance(puzzle, Lines)]
WRONGS = [puzzle for puzzle in PUZZLES if isinstance(puzzle, WrongLine)]
each_order = pytest.mark.parametrize("puzzle", ORDERS, ids=lambda puzzle: puzzle.name)
ALONE = {
    "next_round",
    "decayed",
}  # tests/exercises/test_objective.py compares them with the library
GRADED = [puzzle for puzzle in WRONGS if puzzle.name not in ALONE]
each_wrong = pytest.mark.parametrize("puzzle", GRADED, ids=lambda puzzle: puzzle.name)


def passes(puzzle: Lines, lines: list[str]) -> bool:
    """Whether a function with these lines as its body is a right answer."""
    exercise = EXERCISES[puzzle.name]
    code = "\n".join([f"def {exercise.signature}:", *(f"    {line}" for line in lines)])
    place = dict(puzzle.function.__globals__)
    try:
        exec(code, place)  # noqa: S102
    except SyntaxError:
        return False
    return check(puzzle.name, place[exercise.function]).passed


@each_order
def test_the_answer_shown_is_right_and_no_other_order_of_neighbours_is(puzzle):
    lines = puzzle.lines()
    assert passes(puzzle, lines)
    for i in range(len(lines) - 1):
        swapped = [*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]]
        assert not passes(puzzle, swapped), f"{lines[i]!r} and {lines[i + 1]!r} may be swapped"


@each_order
def test_a_distractor_is_wrong_wherever_it_stands(puzzle):
    lines = puzzle.lines()
    assert puzzle.distractors
    for wrong in puzzle.distractors:
        for i in range(len(lines)):
            assert not passes(puzzle, [*lines[:i], wrong, *lines[i + 1 :]]), (wrong, lines[i])


@each_wrong
def test_the_function_with_the_wrong_line_is_wrong(puzzle):
    result = check(puzzle.name, puzzle.function)
    assert not result.passed and not result.stub
    assert [line.strip() for line in puzzle.lines()].count(puzzle.wrong) == 1


def test_the_lines_of_the_others_are_theirs():
    assert {puzzle.name for puzzle in WRONGS if puzzle.lines()} >= ALONE
    assert not ALONE & EXERCISES.keys()


def test_no_two_puzzles_of_a_kind_share_a_name():
    for kind in (ORDERS, WRONGS):
        names = [puzzle.name for puzzle in kind]
        assert len(set(names)) == len(names)


# ------------------------------------------------------------------------- one of each, on a page


def right_function(weight, sparsity):
    """Its lines."""
    size = weight.abs()
    if sparsity:
        size = size < 1

    return size


def wrong_function(a):
    """Its lines."""
    b = a < 1
    return b


@pytest.fixture(autouse=True)
def two(monkeypatch):
    made = [
        Lines(
            "magnitude_mask",
            right_function,
            {"return 1": "one is no `mask`", "    size = 2": "No."},
        ),
        WrongLine("other", wrong_function, "b = a < 1", "It is `<=`.", {"return b": "Fine."}),
    ]
    monkeypatch.setattr(puzzles, "PUZZLES", made)


def soup(shown):
    return BeautifulSoup(shown.data, "html.parser")


def test_each_line_says_whether_it_is_the_wrong_one():
    shown = soup(puzzles.wrong_line("other"))
    assert [box.summary.get_text() for box in shown("details")] == [
        "1 def wrong_function(a):",
        "2 b = a < 1",
        "3 return b",
    ]
    assert [box.p.get_text() for box in shown("details")] == [
        "Not this one: This line is as it should be.",
        "Right: It is <=.",
        "Not this one: Fine.",
    ]
    assert len({box["name"] for box in shown("details")}) == 1


def test_the_lines_are_shuffled_always_alike_and_the_solution_is_behind_a_disclosure():
    shown = soup(puzzles.order_lines("magnitude_mask"))
    lines = [li.get_text() for li in shown("li")]
    assert sorted(lines) == sorted(
        [
            "size = weight.abs()",
            "if sparsity:",
            "size = size < 1",
            "return size",
            "return 1",
            "size = 2",
        ]
    )
    assert puzzles.order_lines("magnitude_mask").data == puzzles.order_lines("magnitude_mask").data
    assert lines[0] != "size = weight.abs()"
    solution = shown.select_one("details pre").get_text().splitlines()
    assert solution[0] == f"def {EXERCISES['magnitude_mask'].signature}:"
    assert solution[2:4] == ["    if sparsity:", "        size = size < 1"]


@pytest.mark.parametrize("make", [puzzles.wrong_line, puzzles.order_lines])
def test_an_unknown_name_is_refused(make):
    with pytest.raises(
        ValueError, match=r"name must be one of \['(other|magnitude_mask)'\], got 'x'"
    ):
        make("x")


def test_lines_that_are_none_are_refused():
    with pytest.raises(ValueError, match="'b = 2' must be exactly one of the lines"):
        WrongLine("other", wrong_function, "b = 2", "w", {}).lines()
    with pytest.raises(ValueError, match="'c' must be exactly one of the lines"):
        WrongLine("other", wrong_function, "return b", "w", {"c": "d"}).lines()
    with pytest.raises(ValueError, match="is a right line and no distractor"):
        Lines("magnitude_mask", right_function, {"return size": "w"}).lines()


def test_the_code_of_a_function_has_no_docstring():
    assert code_of(wrong_function) == "def wrong_function(a):\n    b = a < 1\n    return b"


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 390, "height": 900}, has_touch=True)
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.set_content(f"<main>{puzzles.order_lines('magnitude_mask').data}</main>")
    yield page
    assert not page.complaints
    page.close()


def kept(page):
    return page.locator("ol.kept code").all_text_contents()


RIGHT = ["size = weight.abs()", "if sparsity:", "size = size < 1", "return size"]


def solve(page):
    """Put the lines in order by keyboard alone."""
    for wrong in ("return 1", "size = 2"):
        page.get_by_role("button", name=f"Take out: {wrong}", exact=True).press("Enter")
    for at, line in enumerate(RIGHT):
        while kept(page).index(line) > at:
            page.get_by_role("button", name=f"Move up: {line}", exact=True).press("Enter")


def test_lines_are_ordered_by_keyboard_and_the_check_names_what_is_wrong(page):
    status, check_ = page.get_by_role("status"), page.get_by_role("button", name="Check the order")
    solve(page)
    check_.press("Enter")
    assert status.inner_text() == "Right: this is the function."
    up = page.get_by_role("button", name="Move up: return size", exact=True)
    up.press("Enter")
    assert up.evaluate("b => b === document.activeElement")
    assert status.inner_text() == "Now line 3 of 4."
    check_.press("Enter")
    assert "before line 3 are right. Line 3, return size, comes too early" in status.inner_text()
    page.get_by_role("button", name="Take out: return size").press("Enter")
    assert page.evaluate("document.activeElement.ariaLabel") == "Put back: return size"
    check_.press("Enter")
    assert "not complete" in status.inner_text()
    page.get_by_role("button", name="Put back: return 1").press("Enter")
    check_.press("Enter")
    assert status.inner_text().endswith("Line 4 holds a mistake: One is no mask.")
    page.get_by_role("button", name="Start again").press("Enter")
    assert len(kept(page)) == 6


def test_lines_are_dragged_within_and_out_of_the_function(page):
    lines = kept(page)
    box = page.locator("li .handle").nth(0).bounding_box()
    third = page.locator("li").nth(2).bounding_box()
    out = page.locator("ol.out").bounding_box()
    x = box["x"] + box["width"] / 2
    page.mouse.move(x, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(x, third["y"] + third["height"] - 3, steps=5)
    assert kept(page) == [lines[1], lines[2], lines[0], *lines[3:]]
    page.mouse.move(x, out["y"] + out["height"] - 3, steps=5)
    page.mouse.up()
    assert page.locator("ol.out code").all_text_contents() == [lines[0]]
    page.mouse.move(x, box["y"], steps=3)
    assert kept(page) == lines[1:]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_touch_targets_are_large_enough(page):
    for button in page.locator(".course-order :is(button, summary):visible").all():
        assert button.bounding_box()["height"] >= 40


@pytest.mark.parametrize("make", ["wrong_line", "order_lines"])
def test_it_reads_without_javascript(browser, make):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(
        getattr(puzzles, make)("other" if make == "wrong_line" else "magnitude_mask").data
    )
    assert page.locator("button").count() == 0
    page.locator("summary").last.press("Enter")
    assert page.locator("details[open]").is_visible()
    context.close()


@pytest.mark.parametrize("make", ["wrong_line", "order_lines"])
def test_axe_finds_nothing(browser, make):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browser.new_page()
    body = getattr(puzzles, make)("other" if make == "wrong_line" else "magnitude_mask").data
    page.set_content(f"<html lang='en'><title>t</title><main><h1>t</h1>{body}</main></html>")
    found = axe.run(page)
    assert found.violations_count == 0, found.generate_report()
    page.close()
