"""The course on paper: links inside one page, and a lesson that Chromium has printed."""

import importlib
import re
import sys
import unicodedata
from io import BytesIO
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book"))
pdf = importlib.import_module("pdf")


def words(text: str) -> str:
    """Return letters and digits only: print breaks lines, cuts words and joins letters (ﬁ)."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text))


def article(inner: str) -> str:
    return f'<html><body><article class="bd-article">{inner}</article><p>foot</p></body></html>'


@pytest.fixture
def two_pages(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks").mkdir()
    intro = (
        '<a href="../notebooks/a.html#top">there</a><a href="../notebooks/a.html">start</a>'
        '<a href="api/x.html">code</a><a href="https://a.example/">out</a>'
    )
    (tmp_path / "book/intro.html").write_text(article(intro))
    lesson = '<h2 id="top">A</h2><a href="#top">up</a><a href="../book/intro.html#top">back</a>'
    (tmp_path / "notebooks/a.html").write_text(article(lesson))
    return tmp_path


def test_links_lead_inside_the_one_page(two_pages):
    whole = BeautifulSoup(pdf.one_page(two_pages, ["book/intro", "notebooks/a"]), "html.parser")
    links = {link.text: link.get("href") for link in whole.select("a")}
    assert links["code"] is None and links["out"] == "https://a.example/"
    for text in ("there", "up"):
        assert whole.select_one(links[text].replace("/", r"\/")).name == "h2"
    assert len(whole.select("article")) == 2 and len(whole.select("p")) == 1
    first, second = whole.select("article")
    assert whole.find(id=links["start"][1:]) is second
    assert whole.find(id=links["back"][1:]) is first


def test_the_pages_are_those_of_the_book_in_order():
    found = pdf.names(ROOT)
    assert found[:2] == ["book/intro", "book/playground"]
    assert "book/errata" in found and not any("api" in name for name in found)
    lessons = [name for name in found if name.startswith("notebooks/")]
    assert len(lessons) == len(list((ROOT / "notebooks").glob("*.ipynb")))


def test_a_missing_browser_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(SystemExit, match="No Chromium was found"):
        pdf.browser_path()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_printed_lesson_holds_what_waits_on_the_screen(visit, theme):
    pypdf = pytest.importorskip("pypdf")
    with visit("notebooks/criteria.html", scheme="file", color_scheme=theme) as page:
        before = page.locator("article").inner_html()
        printed = page.pdf(prefer_css_page_size=True)
        assert page.locator("article").inner_html() == before
        parts = {
            name: [words(text) for text in page.locator(selector).all_text_contents()]
            for name, selector in {
                "claims": ".tag_gated .course-claim",
                "feedback": ".course-quiz details > p",
                "hints": "details.sd-dropdown .sd-card-text",
                "solutions": ".tag_hide-cell .cell_input",
            }.items()
        }
    text = words("".join(p.extract_text() for p in pypdf.PdfReader(BytesIO(printed)).pages))
    for name, found in parts.items():
        assert found, name
        assert [part for part in found if part[:60] not in text] == [], name
    end = text.index("Hintsandsolutions")
    assert end > text.index(parts["feedback"][-1])
    for part in parts["hints"] + parts["solutions"]:
        assert text.index(part[:60]) > end
    for left_out in (
        "Predictfirstorjustshowme",
        "Showcodecell",
        "downloadthenotebook",
        "matplotlib",
        "Ihavedonethis",
    ):
        assert left_out not in text
