"""Print the built course into one file: `make pdf` calls this after `make book`.

The articles of all pages but the library's reference become one page, whose links lead inside it,
and Chromium prints that page as the style sheet for paper says.
"""

import os
import posixpath
import shutil
import sys
from pathlib import Path
from urllib.parse import urldefrag

from bs4 import BeautifulSoup, Tag
from build import ROOT, toc_pages

FOOT = (
    '<p style="font: 8pt sans-serif; margin: 0 auto"><span class="pageNumber"></span> / '
    '<span class="totalPages"></span></p>'
)


def names(root: Path) -> list[str]:
    """Return the pages of the book in reading order, without the library's reference."""
    return [page for page in toc_pages(root) if not page.startswith("book/api/")]


def target(link: Tag, page: str) -> tuple[str, str]:
    """Return (page, anchor) of a link on `page`; a page of the book has no suffix."""
    path, anchor = urldefrag(str(link["href"]))
    if not path:
        return page, anchor
    here = posixpath.dirname(page)
    return posixpath.normpath(posixpath.join(here, path)).removesuffix(".html"), anchor


def inner_links(articles: dict[str, Tag]) -> None:
    """Turn links between the pages into links inside one page; what lies elsewhere is no link."""
    for page, article in articles.items():
        for link in article.select("a[href]"):
            if "://" in link["href"]:
                continue
            there, anchor = target(link, page)
            if there not in articles:
                del link["href"]
                continue
            link["href"] = f"#{there}--{anchor}"
            found = articles[there].find(id=[anchor, f"{there}--{anchor}"]) if anchor else None
            (found or articles[there])["id"] = f"{there}--{anchor}"


def one_page(html: Path, pages: list[str]) -> str:
    """Return the page that holds the articles of `pages`, to be put beside book/intro.html."""
    soups = {
        page: BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
        for page in pages
    }
    articles = {page: soup.select_one("article.bd-article") for page, soup in soups.items()}
    inner_links(articles)
    first, *others = articles.values()
    first.insert_after(*others)
    return str(soups[pages[0]])


def browser_path() -> str:
    """Return where Chromium is, or stop with a sentence."""
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    path = os.environ.get("CHROMIUM") or next(filter(None, found), None)
    if path is None:
        sys.exit("No Chromium was found: install `chromium`, or set CHROMIUM to its path.")
    return path


def write(source: Path, pdf: Path) -> None:
    """Print the page at `source` into `pdf`, with page numbers and bookmarks."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        page = browser.new_page(color_scheme="light", offline=True)
        page.goto(source.as_uri())
        page.evaluate("window.MathJax?.startup?.promise")
        page.pdf(
            path=pdf,
            prefer_css_page_size=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOT,
            tagged=True,
            outline=True,
        )
        browser.close()


def main(root: Path) -> None:
    """Print the book that lies in book/_build/html."""
    html, pdf = root / "book/_build/html", root / "book/_build/course.pdf"
    whole = html / "book/whole-course.html"
    whole.write_text(one_page(html, names(root)), encoding="utf-8")
    try:
        write(whole, pdf)
    finally:
        whole.unlink()
    print(f"Open {pdf.relative_to(root)}.")


if __name__ == "__main__":
    main(ROOT)
