"""Every built page in a real browser with the network blocked: as a reader meets it."""

from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from conftest import HTML, missing

PAGES = sorted(str(path.relative_to(HTML).as_posix()) for path in HTML.rglob("*.html"))
PAGES = [page for page in PAGES if page != "index.html"]  # that one only forwards to the intro
every_page = pytest.mark.parametrize("path", PAGES)


def soup(path: str) -> BeautifulSoup:
    """Return a built page, parsed."""
    return BeautifulSoup((HTML / path).read_text(encoding="utf-8"), "html.parser")


def having(selector: str) -> list[str]:
    """Return the pages with an element that matches; a book without any is a failure."""
    found = [path for path in PAGES if soup(path).select_one(selector)]
    assert found, f"no page has {selector}"
    return found


def test_the_book_is_built():
    assert PAGES, "there is no built book: run `make book`"


@every_page
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_page_needs_nothing_from_outside(visit, path, scheme):
    page = visit(path, scheme=scheme)
    assert page.outside == []
    assert page.complaints == []


@every_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_is_accessible(visit, path, theme):
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        missing("axe-playwright-python is not installed")
    page = visit(path, color_scheme=theme, reduced_motion="reduce")
    assert page.locator("html").get_attribute("data-theme") == theme
    page.evaluate("document.querySelectorAll('details:not([name])').forEach(d => d.open = true)")
    found = Axe().run(page).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert not serious, "\n".join(
        f"{v['id']}: {v['help']}\n    {node['html'][:200]}\n    {node['failureSummary'][:300]}"
        for v in serious
        for node in v["nodes"][:5]
    )


@every_page
def test_page_fits_a_phone(visit, path):
    page = visit(path, viewport={"width": 390, "height": 844})
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    wide = """[...document.querySelectorAll('main *')].filter(e => {
        const box = e.getBoundingClientRect();
        return box.width && box.right > innerWidth + 1 && !e.closest('pre, [tabindex="0"]');
    }).slice(0, 5).map(e => e.outerHTML.slice(0, 120))"""
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, (width, page.evaluate(wide))


@every_page
def test_page_has_one_heading_of_its_own_and_described_pictures(visit, path):
    page = visit(path)
    assert page.locator("h1:visible").count() == 1
    for image in page.locator("main img").all():
        assert (image.get_attribute("alt") or "").strip(), image.evaluate("e => e.outerHTML")
    for drawing in page.locator("figure.course-figure svg").all():
        assert drawing.evaluate(
            "e => e.getAttribute('role') === 'img' && !!(e.getAttribute('aria-label')"
            " || e.getAttribute('aria-labelledby') || e.querySelector('title'))"
        ), drawing.evaluate("e => e.outerHTML.slice(0, 200)")


@every_page
def test_links_inside_the_book_lead_somewhere(path):
    broken = []
    for link in soup(path).select("a[href], link[href], img[src], script[src]"):
        address = urlsplit(link.get("href") or link.get("src"))
        if address.scheme or address.netloc:
            continue
        folder = PurePosixPath(path).parent
        target = (HTML / folder / unquote(address.path)).resolve() if address.path else HTML / path
        if not target.is_file():
            broken.append(link)
        elif address.fragment and target.suffix == ".html":
            anchor = unquote(address.fragment)
            page = soup(target.relative_to(HTML).as_posix())
            if not page.find(id=anchor) and not page.find(attrs={"name": anchor}):
                broken.append(link)
    broken = [link for link in broken if link.get("href") != "#"]
    assert not broken, broken


def test_the_first_page_forwards_to_one_that_exists():
    refresh = soup("index.html").select_one("meta[http-equiv=Refresh]")
    if refresh:
        assert (HTML / refresh["content"].partition("url=")[2]).is_file()


def test_search_finds_the_lessons(visit):
    page = visit("search.html?q=pruning")
    page.wait_for_selector("#search-results li")
    found = page.locator("#search-results li a").all_inner_texts()
    assert len(found) >= 2
    assert page.complaints == []


def test_dark_mode_can_be_switched_and_stays(visit):
    page = visit(PAGES[0], color_scheme="light")
    html, switch = page.locator("html"), page.locator("button.theme-switch-button:visible").first
    while html.get_attribute("data-mode") != "dark":
        before = html.get_attribute("data-mode")
        switch.click()
        assert html.get_attribute("data-mode") != before
    assert html.get_attribute("data-theme") == "dark"
    page.reload()
    assert html.get_attribute("data-theme") == "dark"


@pytest.mark.parametrize("javascript", [True, False])
def test_quiz_answers_by_keyboard_one_option_at_a_time(visit, javascript):
    for path in having(".course-quiz"):
        page = visit(path, java_script_enabled=javascript)
        for group in page.locator(".course-quiz [role=group]").all():
            options = group.locator("details")
            assert group.locator("details[open]").count() == 0
            for number in range(options.count()):
                options.nth(number).locator("summary").press("Enter")
                assert options.nth(number).locator("p").is_visible()
                assert group.locator("details[open]").count() == 1


def test_a_prediction_opens_its_figure_and_is_remembered(visit):
    for path in having(".course-predict"):
        page = visit(path)
        gates, form = page.locator(".tag_gated details.hide"), page.locator(".course-predict").first
        assert gates.count() > 0
        assert page.locator(".tag_gated details.hide[open]").count() == 0
        form.locator("input").first.focus()
        top = page.evaluate("scrollY")
        page.keyboard.press("Space")
        assert gates.first.get_attribute("open") is not None
        choice = form.locator("label").first.inner_text().strip()
        assert choice in form.get_by_role("status").inner_text()
        assert choice in page.locator(".course-predicted").first.inner_text()
        assert page.evaluate("document.activeElement.type") == "radio"
        assert page.evaluate("scrollY") == top
        page.reload()
        assert form.locator("input").first.is_checked()
        assert gates.first.get_attribute("open") is not None


@pytest.mark.parametrize("javascript", [True, False])
def test_the_figure_opens_without_a_prediction_too(visit, javascript):
    for path in having(".course-predict"):
        page = visit(path, java_script_enabled=javascript)
        gate = page.locator(".tag_gated details.hide").first
        gate.locator("summary").press("Enter")
        assert gate.get_attribute("open") is not None
        assert gate.locator(".cell_output").is_visible()


def test_each_lesson_says_what_it_takes(visit):
    for path in having("ul.course-strip"):
        strip = soup(path).select_one("h1 + ul.course-strip")
        assert strip, f"{path}: the strip does not follow the title"
        text = strip.get_text(" ", strip=True)
        for part in ("minutes in class", "runs in", "torch", "course_lib"):
            assert part in text, (path, text)
        assert (HTML / path).parent.joinpath(strip.select_one("a.download")["href"]).is_file()
