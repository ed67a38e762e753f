"""The search page: what it looks through, and what it answers, from a file and without a network."""

import json

import pytest

from .built import HTML, anchors, soup


@pytest.fixture(scope="module")
def rows():
    text = (HTML / "_static/sections.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("var courseSections = ").removesuffix(";\n"))


def test_each_section_is_there_and_leads_somewhere(rows):
    for page, _, anchor, title, _ in rows:
        assert anchor in anchors(f"{page}.html"), (page, anchor)
        assert title, (page, anchor)
    for page in (HTML / "notebooks").glob("*.html"):
        assert len([row for row in rows if row[0] == f"notebooks/{page.stem}"]) >= 10


def test_nothing_that_is_folded_can_be_found(rows):
    """Claims, solutions, hints, quizzes and the words of gated pictures wait on their page."""
    text = " ".join(" ".join(row) for row in rows if row[0].startswith("notebooks/"))
    folded = ".course-claim, .tag_gated figure, .tag_hide-cell pre, .sd-dropdown p, .course-quiz p"
    for page in sorted((HTML / "notebooks").glob("*.html")):
        found = soup(f"notebooks/{page.name}").select(folded)
        assert found, page.name
        for part in found:
            words = " ".join(part.get_text().split())[:60]
            assert len(words) < 20 or words not in text, (page.name, words)


def test_citations_are_words(rows):
    text = " ".join(row[-1] for row in rows if row[0].startswith("notebooks/"))
    assert "Han et al. (2015)" in text and "et al., 20" in text
    assert " : " not in text  # what stood before the colon was a citation


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("lottery", "notebooks/lottery.html"),
        ("APoZ", "book/glossary.html"),
        ("global pruning", "book/glossary.html"),
        ("straight through estimator", "book/glossary.html"),
        ("rewinding tickets", "notebooks/"),
        ("masks", "book/glossary.html"),
        ("Erdős–Rényi allocation", "notebooks/"),
        ("keep_top", "book/api/"),
    ],
)
def test_the_answer_is_a_section_with_an_excerpt(visit, scheme, query, first):
    with visit(f"search.html?q={query}", scheme=scheme) as page:
        page.wait_for_selector(".course-results li")
        results = page.locator(".course-results li")
        links = [link.get_attribute("href") for link in results.locator("a").all()]
        assert links[0].startswith(first), links[:3]
        assert all("#" in link for link in links)
        assert results.first.locator("p").inner_text()
        assert page.locator(".course-results mark").count() > 0
        kinds = [link.split("/")[0] for link in links if "glossary" not in link]
        assert kinds == sorted(kinds, reverse=True), "lessons come first"
        said = page.locator("#search-results [role=status]").inner_text()
        assert query in said and "section" in said
        assert page.outside == page.complaints == []


def test_a_search_in_vain_says_so(visit):
    with visit("search.html?q=zyzzyva", scheme="file") as page:
        assert "Try fewer words" in page.locator("#search-results [role=status]").inner_text()
        assert page.locator(".course-results li").count() == 0


def test_what_a_reader_types_is_text(visit):
    with visit("search.html?q=<img src=x onerror=alert(1)>mask", scheme="file") as page:
        page.wait_for_selector("#search-results [role=status]")
        assert page.locator("#search-results img").count() == 0
