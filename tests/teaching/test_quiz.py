"""Quiz and prediction: what the HTML says, and which questions are refused."""

import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from course_lib.teaching.quiz import Question, predict, quiz

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
texts = texts.filter(lambda text: text.strip() and "`" not in text)
FRUIT = [("`apple`", "Keeps the `doctor` away."), ("<b>pear</b>", "A & B.")]


def page(shown) -> BeautifulSoup:
    return BeautifulSoup(shown._repr_html_(), "html.parser")


def test_each_option_opens_its_own_feedback():
    shown = page(quiz(Question("Which `fruit`?", FRUIT, 0), Question("And now?", FRUIT, 1)))
    first, second = shown.select("[role=group]")
    assert shown.find(id=first["aria-labelledby"]).get_text() == "Question 1. Which fruit?"
    assert [box.summary.get_text() for box in first("details")] == ["apple", "<b>pear</b>"]
    assert [box.p.get_text() for box in first("details")] == [
        "Right: Keeps the doctor away.",
        "Not quite: A & B.",
    ]
    assert [box.p.get_text()[:5] for box in second("details")] == ["Not q", "Right"]
    assert [code.get_text() for code in first("code")] == ["fruit", "apple", "doctor"]


def test_only_options_of_one_question_exclude_each_other():
    twice = Question("Which?", FRUIT, 0)
    shown = page(quiz(twice, twice))
    names = [{box["name"] for box in group("details")} for group in shown.select("[role=group]")]
    assert all(len(name) == 1 for name in names)
    assert names[0] != names[1]


def test_same_question_same_html_and_nothing_is_open():
    shown = quiz(Question("Which?", FRUIT, 0)).data
    assert shown == quiz(Question("Which?", FRUIT, 0)).data
    assert page(quiz(Question("Which?", FRUIT, 0))).select("[open]") == []


@given(texts, texts, texts, texts)
def test_everything_typed_is_shown_as_typed(text, one, two, feedback):
    options = [(one, feedback), (two + "!" * len(one), feedback)]
    shown = page(quiz(Question(text, options, 1)))
    group = shown.select_one("[role=group]")
    assert group.p.get_text() == f"Question 1. {text}"
    assert [box.summary.get_text() for box in group("details")] == [o for o, _ in options]
    assert group("details")[0].p.get_text() == f"Not quite: {feedback}"
    legend = page(predict(text, [o for o, _ in options])).legend
    assert legend.get_text() == text


def test_prediction_offers_the_options_and_gives_nothing_away():
    shown = page(predict("How `far`?", ["not at all", "to chance"], unlocks="figure"))
    labels = [label.get_text(strip=True) for label in shown("label")]
    assert labels == ["not at all", "to chance"]
    assert len({radio["name"] for radio in shown("input")}) == 1
    assert [radio.get("checked") for radio in shown("input")] == [None, None]
    assert shown.form["data-unlocks"] == "figure"
    assert "figure" in shown.select_one("[role=status]").get_text()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("", FRUIT, 0), ValueError, "text must hold some text, got ''"),
        ((7, FRUIT, 0), TypeError, "text must be a string, got 7"),
        (("Q?", FRUIT[:1], 0), ValueError, "options must hold at least 2, got 1"),
        (("Q?", [("a", "f"), ("a", "g")], 0), ValueError, "same text twice"),
        (
            ("Q?", [("a", "f"), ("b", " ")], 0),
            ValueError,
            r"feedback of options\[1\] must hold some text",
        ),
        (
            ("Q?", [("a", "f"), "bc"], 0),
            TypeError,
            r"options\[1\] must be \(option, feedback\), got 'bc'",
        ),
        (("Q?", [("a", "f"), ("", "g")], 0), ValueError, r"options\[1\] must hold some text"),
        (("Q?", FRUIT, 2), ValueError, "answer must be from 0 to 1, got 2"),
        (("Q?", FRUIT, -1), ValueError, "answer must be from 0 to 1, got -1"),
        (("Q?", FRUIT, True), TypeError, "answer must be an integer, got True"),
    ],
)
def test_a_question_that_cannot_be_shown_is_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        Question(*arguments)


@pytest.mark.parametrize(
    ("text", "options", "unlocks", "error"),
    [
        ("", ["a", "b"], "x", ValueError),
        ("Q?", ["a"], "x", ValueError),
        ("Q?", ["a", "a"], "x", ValueError),
        ("Q?", ["a", None], "x", TypeError),
        ("Q?", "ab", "x", TypeError),
        ("Q?", ["a", "b"], "", ValueError),
    ],
)
def test_a_prediction_that_cannot_be_shown_is_refused(text, options, unlocks, error):
    with pytest.raises(error):
        predict(text, options, unlocks=unlocks)


def test_a_quiz_needs_questions():
    with pytest.raises(ValueError, match="at least one"):
        quiz()
    with pytest.raises(TypeError, match="must be Questions, got 'Which\\?'"):
        quiz("Which?")


# ------------------------------------------------------------------- a prediction in a real browser


@pytest.fixture
def notebook(browser):
    """A page as JupyterLab makes it: outputs come one by one, and nothing is gated."""
    page = browser.new_page()
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.set_content("<main></main>")
    add = """(html) => {
      const output = document.createElement("div");
      output.innerHTML = html;
      for (const old of output.querySelectorAll("script")) {  // as notebooks run scripts
        const script = document.createElement("script");
        for (const { name, value } of old.attributes) script.setAttribute(name, value);
        script.textContent = old.textContent;
        old.replaceWith(script);
      }
      document.querySelector("main").append(output);
    }"""
    page.add = lambda shown: page.evaluate(add, shown.data)
    yield page
    assert not page.complaints
    page.close()


def test_a_prediction_is_repeated_in_a_notebook(notebook):
    notebook.add(predict("How far?", ["not at all", "to `chance`"], unlocks="the figure"))
    notebook.add(predict("And then?", ["up", "down"]))
    first, second = notebook.locator(".course-predict").all()
    assert first.get_by_role("status").inner_text() == "Choose before you read on."
    first.get_by_label("to chance").check()
    assert first.get_by_role("status").inner_text() == "Your prediction: to chance."
    assert second.get_by_role("status").inner_text() == "Choose before you read on."
    second.get_by_label("up").press("Space")
    second.get_by_label("up").press("ArrowDown")
    assert second.get_by_role("status").inner_text() == "Your prediction: down."


def test_the_notebook_does_not_hear_the_keys(notebook):
    notebook.add(predict("How far?", ["not at all", "to chance"]))
    notebook.evaluate(
        "() => { window.heard = []; document.onkeydown = (event) => heard.push(event.key) }"
    )
    notebook.get_by_label("not at all").press("ArrowDown")
    assert notebook.evaluate("heard") == []


def test_without_javascript_a_prediction_says_what_it_opens(browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(predict("How far?", ["a", "b"], unlocks="the figure").data)
    said = page.get_by_role("status").inner_text()
    assert said == "Choose before you read on: that opens the figure."
    context.close()
