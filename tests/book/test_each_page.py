"""Every built page in a real browser with the network blocked. (What single pages do: test_pages.py. In
two files, because two processes share them.)"""

import pytest
from axe_playwright_python.sync_playwright import Axe

from .built import OPEN_ALL, PAGES

# Words of code that are coloured alike: thousands on a page, and measuring their contrast takes most
# of axe's time. One stays for each way to be coloured, which is all that the classes and styles of
# it and of what it lies in can say; the rest becomes plain text.
ONE_OF_EACH = """() => {
  const words = [...document.querySelectorAll("pre span:not(:has(*))")];
  const seen = new Set();
  for (const word of words.filter((word) => word.getClientRects().length)) {
    let way = "";
    for (let e = word; e; e = e.parentElement) way += `${e.className}|${e.getAttribute("style")}>`;
    if (seen.has(way)) word.replaceWith(word.textContent);
    seen.add(way);
  }
  document.querySelectorAll("pre").forEach((pre) => pre.normalize());
}"""


@pytest.fixture(scope="module")
def window(visit):
    """Yield one window for all pages: a new one for each would cost as much as the page itself."""
    with visit(PAGES[0], scheme="file", reduced_motion="reduce") as window:
        yield window


@pytest.fixture(scope="module", params=PAGES)
def page(request, window, site):
    """Yield each page of the book, opened once as a file with all its disclosures open."""
    window.emulate_media(color_scheme="light")
    window.goto("about:blank")
    window.outside.clear()
    window.complaints.clear()
    window.goto(f"{site['file']}/{request.param}")
    window.evaluate("window.MathJax?.startup?.promise")
    window.evaluate(OPEN_ALL)
    return window


def test_page_works_as_a_file_and_needs_nothing_from_outside(page):
    """A browser allows a file less than what a server sends. (Lessons over http: test_pages.py.)"""
    instruments = page.locator("[data-course]")
    assert instruments.count() == page.locator("[data-course][data-alive]").count()
    assert page.outside == []
    assert page.complaints == []


def test_page_has_one_title_and_describes_its_pictures(page):
    assert page.locator("h1:visible").count() == 1
    for image in page.locator("main img").all():
        assert (image.get_attribute("alt") or "").strip(), image.evaluate("e => e.outerHTML")
    for drawing in page.locator("figure.course-figure svg").all():
        assert drawing.evaluate(
            "e => e.getAttribute('role') === 'img' && !!(e.getAttribute('aria-label')"
            " || e.getAttribute('aria-labelledby') || e.querySelector('title'))"
        ), drawing.evaluate("e => e.outerHTML.slice(0, 200)")


def test_page_fits_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    sticking_out = """[...document.querySelectorAll('main *')].filter(e => {
        const box = e.getBoundingClientRect();
        return box.width && box.right > innerWidth + 1 && !e.closest('pre, [tabindex="0"]');
    }).slice(0, 5).map(e => e.outerHTML.slice(0, 120))"""
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, (width, page.evaluate(sticking_out))
    shrunk = """[...document.querySelectorAll('main p > img[src$=".svg"]')]
        .map(e => e.getBoundingClientRect().width / e.naturalWidth)"""
    assert all(factor > 0.7 for factor in page.evaluate(shrunk))  # its words can be read
    page.set_viewport_size({"width": 1280, "height": 720})


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_is_accessible(page, theme):
    page.evaluate(ONE_OF_EACH)  # which changes the page, so these two come last
    page.emulate_media(color_scheme=theme)
    page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
    found = Axe().run(page).response["violations"]
    serious = [v for v in found if v["impact"] in ("moderate", "serious", "critical")]
    assert not serious, "\n".join(
        f"{v['id']}: {v['help']}\n    {node['html'][:200]}\n    {node['failureSummary'][:300]}"
        for v in serious
        for node in v["nodes"][:5]
    )
