"""The glossary and the links to it: read from its source, and on the built pages."""

import re
from pathlib import Path

import glossary
import pytest

from .built import HTML, anchors, soup

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (ROOT / "book/glossary.md").read_text(encoding="utf-8")
LESSONS = len(list((ROOT / "notebooks").glob("*.ipynb")))
ENTRIES = list(glossary.entries(SOURCE))


def test_entries_are_the_lines_at_the_margin():
    text = "```{glossary}\n:sorted:\n\nmask\n  Says which stay.\n\nOBD\nOptimal\n  One.\n```\n"
    assert list(glossary.entries(text)) == [["mask"], ["OBD", "Optimal"]]


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("mask", "Masks stay.", "Masks"),
        ("low rank", "of low\nrank", "low\nrank"),
        ("mask", "unmasked, mask-like", None),
        ("SET", "The set is SET", "SET"),
        ("C(P", "C(P", "C(P"),
    ],
)
def test_a_term_is_found_as_it_is_written(term, text, found):
    match = re.search(glossary.pattern(term), text)
    assert (match and match[0]) == found


def test_no_term_stands_there_twice():
    terms = [term.lower() for terms in ENTRIES for term in terms]
    assert len(terms) == len(set(terms))


def test_each_lesson_links_the_first_use_of_a_term_and_no_other():
    lessons = sorted((HTML / "notebooks").glob("*.html"))
    assert len(lessons) == LESSONS
    known = {dt["id"] for dt in soup("book/glossary.html").select("dl.glossary dt[id]")}
    for path in lessons:
        links = soup(f"notebooks/{path.name}").select("a:has(> .std-term)")
        targets = [link["href"].partition("#")[2] for link in links]
        assert len(targets) >= 5, path.name
        assert len(targets) == len(set(targets)) and set(targets) <= known
        assert not [a for a in links if a.find_parent(["a", "h1", "h2", "h3", "pre", "code"])]


def test_the_index_leads_from_a_term_to_the_lessons():
    index = soup("genindex.html")
    lessons = [a["href"] for a in index.select(".indextable a[href^='notebooks/']")]
    assert len(lessons) > 100 and len({href.partition("#")[0] for href in lessons}) == LESSONS
    for href in lessons[:20]:
        page, _, anchor = href.partition("#")
        assert anchor in anchors(page), href
    named = index.get_text(" ")
    assert all(terms[0] in named for terms in ENTRIES)
