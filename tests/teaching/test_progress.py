"""What a reader has done is kept on their own machine: on the book's pages, and only there."""

import json

import pytest

from course_lib.teaching.quiz import Question, predict, quiz

FRUIT = [("apple", "Yes."), ("pear", "No.")]
BODY = (
    predict("How far?", ["not at all", "to chance"]).data
    + quiz(Question("Which?", FRUIT, 0), Question("And now?", FRUIT, 1)).data
)
LESSON = f"""<article><h1>Lesson</h1><ul class="course-strip"><li>50 minutes</li></ul>
<div class="cell"><div class="cell_input">plain code</div></div>
<div class="cell tag_hide-input"><details class="hide above-input"><summary>Show code</summary>
<div class="cell_input">folded code</div></details></div>
<section id="exercises"><div class="cell"><div class="cell_input">stub</div></div></section>{BODY}</article>"""
MAP = """<div class="course-map" data-course="map"><ol>
<li data-lesson="first" data-minutes="60"><a href="#">First</a> <span class="state"></span></li>
<li data-lesson="second" data-minutes="120"><a href="#">Second</a> <span class="state"></span></li>
</ol></div>"""
NO_STORAGE = """Object.defineProperty(window, "localStorage", {
  get() { throw new DOMException("denied", "SecurityError") } })"""


@pytest.fixture
def reader(browser, tmp_path):
    """A function that opens a page of a small book, always in the same browser profile."""
    context = browser.new_context(accept_downloads=True)
    complaints = []

    def go(name, body=LESSON, root=' data-content_root="../"'):
        file = tmp_path / f"{name}.html"
        file.write_text(
            f"<!doctype html><html lang='en'{root}><meta charset='utf-8'><title>t</title>"
            f"<main>{body}{quiz(Question('Hidden?', FRUIT, 0)).data if body == MAP else ''}</main></html>"
        )
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.as_uri())
        return page

    go.context = context
    yield go
    context.close()
    assert complaints == []


def choose(page, question, option):
    page.locator(".course-quiz details").nth(2 * question + option).locator("summary").press(
        "Enter"
    )


def end(page):
    return page.locator(".course-done [role=status]").inner_text().strip()


def test_predictions_and_answers_are_there_the_next_time(reader):
    page = reader("first")
    assert end(page) == "This lesson is not marked as done."
    page.get_by_label("to chance").check()
    choose(page, 0, 0)
    choose(page, 1, 0)
    assert "2 of its 3 questions and puzzles are solved" in end(page)
    page.close()
    again = reader("first")
    assert again.get_by_label("to chance").is_checked()
    opened = again.locator(".course-quiz details").evaluate_all("all => all.map(d => d.open)")
    assert opened == [True, False, True, False]
    assert "2 of its 3" in end(again)
    assert reader("second").locator("[open]").count() == 0, "each lesson has its own"


def test_what_something_else_opens_is_no_answer(reader):
    """A print opens everything; that is not the reader's choice."""
    page = reader("first")
    page.evaluate(
        "document.querySelectorAll('details').forEach(d => { d.name = ''; d.open = true })"
    )
    page.reload()
    assert page.locator(".course-quiz [open]").count() == 0


def test_answers_to_questions_that_changed_are_forgotten(reader):
    choose(reader("first"), 0, 0)
    page = reader("first", LESSON.replace("Which?", "Which, now?").replace("quiz-", "quiz-x"))
    choose(page, 1, 1)
    assert "1 of its 3" in end(page)


def test_a_notebook_keeps_nothing(reader):
    page = reader("first", root="")
    page.get_by_label("to chance").check()
    choose(page, 0, 0)
    assert page.evaluate("localStorage.length") == 0
    assert page.locator(".course-done, .course-code-switch").count() == 0


def test_a_browser_that_refuses_storage_forgets_without_complaint(reader):
    reader.context.add_init_script(NO_STORAGE)
    page = reader("first")
    page.get_by_label("to chance").check()
    choose(page, 0, 0)
    page.get_by_role("button", name="hide the code").click()
    assert "2 of its 3" in end(page)
    page.get_by_label("I have done").check()
    assert end(page).startswith("This lesson is done.")
    board = reader("intro", MAP)
    board.get_by_role("button", name="Erase my progress").click()
    assert "0 of 2 lessons" in board.get_by_role("status").first.inner_text()


@pytest.mark.parametrize("broken", ["not json", "null", "7", '{"answers": {}}'])
def test_a_broken_entry_is_no_entry(reader, broken):
    page = reader("first")
    page.evaluate("words => localStorage.setItem('pruning course first', words)", broken)
    page.reload()
    assert end(page) == "This lesson is not marked as done."
    choose(page, 0, 0)
    assert "1 of its 3" in end(page)


def test_the_map_shows_it_and_gives_it_as_a_file_or_erases_it(reader):
    page = reader("first")
    choose(page, 0, 0)
    page.get_by_label("I have done").check()
    choose(reader("second"), 1, 1)
    board = reader("intro", MAP)
    said = board.get_by_role("status").first
    assert board.locator(".state").all_text_contents() == ["✓ done", "1 of 3 solved"]
    assert said.inner_text() == "1 of 2 lessons are done. The others take about 2 hours."
    with board.expect_download() as download:
        board.get_by_role("button", name="Save my progress").click()
    saved = json.loads(download.value.path().read_text())
    assert saved.keys() == {"first", "second"}
    assert saved["first"]["done"] and list(saved["first"]["answers"].values()) == [0]
    board.evaluate("localStorage.setItem('another site', 'stays')")
    board.get_by_role("button", name="Erase my progress").click()
    assert said.inner_text().startswith("Everything is erased. 0 of 2 lessons")
    assert board.locator(".state").all_text_contents() == ["", ""]
    assert board.evaluate("Object.keys(localStorage)") == ["another site"]


def test_one_switch_hides_code_on_every_page_and_leaves_what_is_folded(reader):
    page = reader("first")
    plain, folded, stub = page.locator(".cell_input").all()
    assert plain.is_visible() and not folded.is_visible()
    page.get_by_role("button", name="hide the code").press("Enter")
    assert not plain.is_visible() and not folded.is_visible() and stub.is_visible()
    other = reader("second")
    assert not other.locator(".cell_input").first.is_visible()
    other.locator(".above-input summary").press("Enter")
    assert other.locator(".tag_hide-input .cell_input").is_visible()
    other.get_by_role("button", name="show the code").press("Enter")
    assert other.locator(".cell_input").first.is_visible()
