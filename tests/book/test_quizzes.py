"""The quizzes of the built pages: a reader who guesses by place or by length learns nothing."""

from collections import Counter
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "book/_build/html/notebooks").glob("*.html")
LESSONS = sorted(path for path in PAGES if path.stem != "pruning-practical")  # which has no quiz


def questions():
    """Return (page, its options' texts, the right one's position) for each question."""
    found = []
    for path in LESSONS:
        page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for group in page.select(".course-quiz [role=group]"):
            options = group.find_all("details")
            right = [n for n, option in enumerate(options) if option.select_one("p.right")]
            assert len(right) == 1, (path.stem, group.p.text)
            texts = [option.summary.get_text(" ", strip=True) for option in options]
            found.append((path.stem, texts, right[0]))
    assert len(found) == 5 * len(LESSONS) > 0
    return found


@pytest.fixture(scope="module")
def asked():
    return questions()


def test_no_place_of_the_right_option_can_be_guessed(asked):
    places = Counter(right for _, _, right in asked)
    assert max(places.values()) <= 0.4 * len(asked), places


def test_the_right_option_is_rarely_the_longest(asked):
    def is_longest(texts, right):
        return all(len(texts[right]) > len(text) for n, text in enumerate(texts) if n != right)

    longest = [page for page, texts, right in asked if is_longest(texts, right)]
    assert len(longest) <= 0.4 * len(asked), Counter(longest)
