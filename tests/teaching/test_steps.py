"""Steps: one at a time by style alone, everything there without it."""

import matplotlib.pyplot as plt
import pytest
from bs4 import BeautifulSoup

from course_lib.teaching.steps import steps


def stages():
    return [(name, f"What <{name}> does.", plt.figure()) for name in ("Train", "Prune", "Retrain")]


def test_every_step_has_a_button_and_a_panel_with_its_words():
    shown = BeautifulSoup(steps("A & B", stages()).data, "html.parser")
    assert shown.legend.get_text() == "A & B"
    buttons, panels = shown("input"), shown("section")
    assert [b["value"] for b in buttons] == [p["data-step"] for p in panels] == ["1", "2", "3"]
    assert [b.has_attr("checked") for b in buttons] == [True, False, False]
    assert len({b["name"] for b in buttons}) == 1
    assert panels[1].p.get_text() == "2 · Prune. What <Prune> does."
    assert all(p.svg["aria-label"] in p.p.get_text() for p in panels)
    assert not shown("script") and not plt.get_fignums()
    assert steps("A & B", stages()).data == steps("A & B", stages()).data


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([("Train", "All.", None)], "at least two, got 1"),
        ([("Train", "All.", None), ("Prune", " ", None)], "stage 2 must have.*'Prune', ' '"),
    ],
)
def test_steps_that_say_nothing_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        steps("Title", wrong)


def test_the_style_shows_the_chosen_step_alone(browser):
    page = browser.new_page()
    page.set_content(steps("A round", stages()).data)
    for n in (1, 2, 3, 2):
        page.locator(f"input[value='{n}']").check()
        visible = [s.is_visible() for s in page.locator("section").all()]
        assert visible == [n == k for k in (1, 2, 3)]
    page.emulate_media(media="print")
    assert all(s.is_visible() for s in page.locator("section").all())
    page.close()
