"""The built pages, for the tests of them."""

from functools import cache
from pathlib import Path

from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "book/_build/html"
# index.html only forwards to the intro; what lies in _static are no pages
FOUND = sorted(path.relative_to(HTML).as_posix() for path in HTML.rglob("*.html"))
PAGES = [path for path in FOUND if path != "index.html" and not path.startswith("_static")]
OPEN_ALL = "document.querySelectorAll('details:not([name])').forEach(box => { box.open = true })"


@cache
def soup(path: str) -> BeautifulSoup:
    """Return a built page, parsed."""
    return BeautifulSoup((HTML / path).read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(path: str) -> set[str]:
    """Return what a link to a built page may name after its #."""
    ids = {element["id"] for element in soup(path).find_all(id=True)}
    return ids | {element["name"] for element in soup(path).find_all(attrs={"name": True})}


def having(selector: str) -> list[str]:
    """Return the pages with an element that matches; a book without any is a failure."""
    found = [path for path in PAGES if soup(path).select_one(selector)]
    assert found, f"no page has {selector}"
    return found
