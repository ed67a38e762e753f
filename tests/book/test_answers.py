"""The built book is for self-study: solutions are folded on their own page, and nowhere else.

What an instructor needs, and what the exam asks for, is on no page, in no search and in no download.
"""

import json
import re
from functools import cache
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from course_lib.exercises.exam import ITEMS
from course_lib.exercises.notes import NOTES
from course_lib.grading import batch, editions

HTML = Path(__file__).resolve().parents[2] / "book/_build/html"
TOC = (HTML.parents[1] / "_toc.yml").read_text("utf-8")
LESSONS = [
    name for name in batch.assignments() if f"notebooks/{editions.path_of(name).stem}\n" in TOC
]
FOLDED = ".tag_hide-cell, .course-order, .course-lines"
SHORTEST = 30  # characters; what is shorter can stand anywhere by chance


def squeezed(text):
    return re.sub(r"\s+", "", text)


def bare(code):
    """Code without comments and spaces."""
    return squeezed("\n".join(line.split("#")[0] for line in code.splitlines()))


def words(path):
    """What a file says: without tags, marks of code and spaces, and with JSON's escapes undone."""
    text = path.read_text("utf-8")
    if path.suffix == ".html":
        text = BeautifulSoup(text, "html.parser").get_text()
    if path.suffix in (".json", ".ipynb"):
        text = json.dumps(json.loads(text), ensure_ascii=False)
    if path.suffix != ".html":
        text = text.replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
    return squeezed(text.replace("`", ""))


@cache
def solutions(lesson):
    """The solutions of a lesson's exercises, without spaces and comments."""
    found = (bare(cell.solution) for cell in editions.lesson(lesson) if cell.solution)
    return [text for text in found if len(text) >= SHORTEST]


@pytest.fixture(scope="module")
def pages():
    """Yield page -> its words, and its words without what is folded."""
    found = {}
    for path in sorted(HTML.rglob("*.html")):
        soup = BeautifulSoup(path.read_text("utf-8"), "html.parser")
        everything = bare(soup.get_text())
        for part in soup.select(FOLDED):
            part.decompose()
        found[path.relative_to(HTML).as_posix()] = everything, bare(soup.get_text())
    assert found, "there is no built book: run `make book`"
    return found


@pytest.fixture(scope="module")
def searched():
    """Yield what the book's search shows. (The other one, Sphinx's, knows single words only.)"""
    return words(HTML / "_static/sections.js")


@pytest.mark.parametrize("lesson", LESSONS)
def test_solutions_are_folded_on_their_page_and_nowhere_else(pages, searched, lesson):
    own = f"notebooks/{editions.path_of(lesson).stem}.html"
    found = solutions(lesson)
    assert found
    for solution in found:
        assert not [page for page, (_, open_) in pages.items() if solution in open_]
        elsewhere = [page for page, (text, _) in pages.items() if solution in text and page != own]
        assert not elsewhere
        assert solution not in searched
    for cell in editions.lesson(lesson):
        assert (
            len(squeezed(cell.solution or "")) < SHORTEST or squeezed(cell.solution) not in searched
        )
    assert any(solution in pages[own][0] for solution in found)  # so this test could fail


def test_what_the_exam_asks_for_and_what_instructors_hear_is_in_no_file_of_the_book():
    kinds = (".html", ".js", ".ipynb", ".txt", ".json")
    files = [path for path in HTML.rglob("*") if path.suffix in kinds]
    assert files, "there is no built book: run `make book`"
    text = "".join(map(words, files))
    secrets = [item.why for item in ITEMS] + [notes.hear for notes in NOTES.values()]
    secrets += [said for item in ITEMS for said in item.mistakes if len(said) >= SHORTEST]
    assert not [said for said in secrets if squeezed(said.replace("`", "")) in text]


def test_no_file_of_the_book_is_an_edition_for_instructors():
    files = list(HTML.rglob("*.ipynb"))
    assert files, "there is no built book: run `make book`"
    for path in files:
        text = path.read_text("utf-8")
        assert "For instructors" not in text and "BEGIN SOLUTION" not in text, path
