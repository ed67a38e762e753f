"""What the built pages do in a real browser with the network blocked: as a reader meets them."""

import json
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from .built import HTML, OPEN_ALL, PAGES, ROOT, anchors, having, soup

GATE = ".tag_gated details.hide:not(.above-input)"
# Pages with something to answer or to unfold, each with JavaScript and without.
MARKS = ("course-quiz", "course-predict", "tag_hide-input")
ASKING = [p for p in PAGES if any(mark in (HTML / p).read_text("utf-8") for mark in MARKS)]
SCRIPTED = [(path, True) for path in ASKING]
BOTH = SCRIPTED + [(path, False) for path in ASKING]


def test_the_book_is_built():
    assert PAGES, "there is no built book: run `make book`"


@pytest.mark.parametrize("path", PAGES)
def test_links_inside_the_book_lead_somewhere(path):
    broken = []
    for link in soup(path).select("a[href], link[href], img[src], script[src]"):
        address = urlsplit(link.get("href") or link.get("src"))
        if address.scheme or address.netloc or link.get("href") == "#":
            continue
        folder = PurePosixPath(path).parent
        target = (HTML / folder / unquote(address.path)).resolve() if address.path else HTML / path
        found = target.is_file()
        if found and address.fragment and target.suffix == ".html":
            found = unquote(address.fragment) in anchors(target.relative_to(HTML).as_posix())
        if not found:
            broken.append(link)
    assert not broken, broken


def test_the_first_page_forwards_to_one_that_exists():
    refresh = soup("index.html").select_one("meta[http-equiv=Refresh]")
    assert (HTML / refresh["content"].partition("url=")[2]).is_file()


@pytest.mark.parametrize("width", [390, 1280])
def test_dark_mode_can_be_switched_and_stays(visit, width):
    with visit(PAGES[0], color_scheme="light", viewport={"width": width, "height": 800}) as page:
        html, switch = page.locator("html"), page.locator("button.theme-switch-button:visible")
        for _ in ("light", "dark", "auto"):
            if html.get_attribute("data-mode") != "dark":
                switch.first.click()
        assert html.get_attribute("data-theme") == "dark"
        page.reload()
        assert html.get_attribute("data-theme") == "dark"


def name(param) -> str:
    """Return how a page is called in the list of tests."""
    path, javascript = param
    return path if javascript else f"{path}-without-javascript"


@pytest.fixture(scope="module", params=BOTH, ids=name)
def page(request, visit):
    """Yield each page that asks something, opened once for the tests that take it.

    These run in their order. Each leaves the gates as it found them, or none after it minds.
    """
    path, javascript = request.param
    size = {"width": 1280, "height": 800}
    with visit(path, java_script_enabled=javascript, viewport=size) as page:
        page.path = path
        yield page


scripted = pytest.mark.parametrize("page", SCRIPTED, ids=name, indirect=True, scope="module")


def test_what_the_tests_of_a_page_look_for_is_in_the_book():
    for selector in (".course-quiz", ".course-predict", ".tag_hide-input", "article table"):
        assert set(having(selector)) & set(ASKING)
    for selector in (".course-quiz", ".course-predict", ".tag_hide-input"):
        assert set(having(selector)) <= set(ASKING)


def test_the_figure_opens_without_a_prediction_too(page):
    if soup(page.path).select_one(".course-predict"):
        gate = page.locator(GATE).first
        gate.locator("> summary").press("Enter")
        assert gate.get_attribute("open") is not None
        assert gate.locator(".cell_output").is_visible()
        gate.locator("> summary").press("Enter")
        assert gate.get_attribute("open") is None


def test_quiz_answers_by_keyboard_one_option_at_a_time(page):
    groups = page.locator(".course-quiz [role=group]").all()
    assert len(groups) == len(soup(page.path).select(".course-quiz [role=group]"))
    for group in groups:
        opened = group.locator("details[open]")
        assert opened.count() == 0
        for option in group.locator("details").all():
            option.locator("summary").press("Enter")
            assert opened.count() == 1
            assert option.locator("p").is_visible()


@scripted
def test_a_prediction_opens_its_figure_and_is_remembered(page):
    if not soup(page.path).select_one(".course-predict"):
        return
    gates = page.locator(GATE)
    form = page.locator(".course-predict").first
    assert gates.count() > 0
    assert page.locator(f"{GATE}[open]").count() == 0
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


@scripted
def test_folded_code_stays_folded_whatever_its_output_does(page):
    for form in page.locator(".course-predict").all():
        form.locator("input").first.check()  # opens gated outputs
    folded = ".tag_hide-input:has(.cell_input)"
    cells = page.locator(folded).all()
    assert len(cells) == len(soup(page.path).select(folded))
    for cell in cells:
        fold = cell.locator("details.hide.above-input")
        assert fold.count() == 1 and fold.get_attribute("open") is None
        assert not cell.locator(".cell_input").is_visible()
        assert "source" in fold.locator("summary").inner_text()


@scripted
def test_no_table_is_cut_off_beside_the_contents(page):
    """At 1280 pixels both lists stand beside the text, which is the narrowest that they leave."""
    page.evaluate(OPEN_ALL)
    cut = page.evaluate("""[...document.querySelectorAll(
        '.cell_output > .text_html, .pst-scrollable-table-container')]
        .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 80))""")
    assert not page.path.startswith("notebooks/") or cut == []


@scripted
def test_all_this_needs_nothing_from_outside(page):
    """Over http. (As a file: test_each_page.py.)"""
    instruments = page.locator("[data-course]")
    assert instruments.count() == page.locator("[data-course][data-alive]").count()
    assert page.outside == []
    assert page.complaints == []


def test_the_bar_of_a_solution_says_what_is_behind_it():
    for path in having(".tag_hide-cell"):
        bars = soup(path).select(".tag_hide-cell details.hide > summary")
        assert len(bars) == len(soup(path).select(".tag_hide-cell"))
        assert all("Show a solution" in bar.text for bar in bars), path


def test_what_the_data_say_is_closed_until_the_reader_predicts():
    """Claims, pictures of results and conclusions, as words and as the code that holds them."""
    for path in having(".course-predict"):
        gates = soup(path).select(".tag_gated details.hide")
        assert gates and not any(gate.has_attr("open") for gate in gates)
        claims = soup(path).select(".course-claim")
        pictures = soup(path).select(".tag_gated svg[aria-label]")
        code = soup(path).select(".tag_gated .cell_input")
        for part in claims + pictures + code:
            assert part.find_parent("details", class_="hide"), (path, part.get_text()[:200])
        told = [claim.get_text().partition(":")[0].removeprefix("Measured. ") for claim in claims]
        told += [picture["aria-label"] for picture in pictures]
        rest = BeautifulSoup(str(soup(path).select_one("article")), "html.parser")
        for fold in rest.select("details.hide"):
            fold.decompose()
        text = re.sub(r"\s+", " ", rest.get_text())
        assert [words for words in told if words in text] == []
        assert not re.search(
            r"option (was|is) right|Options? \d (was|is) right", text, re.IGNORECASE
        ), path


def test_each_page_describes_itself_and_names_its_licence():
    for path in PAGES:
        head, title = soup(path).head, soup(path).title.text
        assert title.count("Pruning neural networks") == 1, title
        assert head.select_one("meta[property='og:title']")["content"] in title
        foot = soup(path).select_one("footer .extra_footer")
        own = path == "book/accessibility.html"
        assert "licence" in foot.text and (own or foot.select_one("a[href$='accessibility.html']"))
        if path.startswith(("notebooks/", "book/intro")):
            text = head.select_one("meta[name=description]")["content"]
            assert 40 < len(text) <= 202


@pytest.mark.parametrize("path", PAGES)
def test_no_id_stands_there_twice(path):
    ids = [element["id"] for element in soup(path).select("[id]")]
    assert len(ids) == len(set(ids)), {name for name in ids if ids.count(name) > 1}


def test_the_advice_of_a_check_leads_to_its_section():
    for path in having(".course-check"):
        advice = [p for p in soup(path).select(".course-check p") if "Reread:" in p.text]
        links = [p.a["href"] for p in advice if p.a]
        assert links, (path, [p.text for p in advice])
        assert all(soup(path).find(id=link.removeprefix("#")) for link in links)


def test_numbers_keep_their_signs_on_the_line():
    text = soup("book/reproductions.html").select_one("article").get_text()
    assert "\u00a0±\u00a0" in text and not re.search(r"\d [%±]|± \d", text)


def test_a_wide_box_is_reachable_and_shows_that_it_goes_on(visit):
    box = "[...document.querySelectorAll('.course-scrolls')]"
    wide = 0
    for path in having(".tag_gated table"):
        with visit(path, viewport={"width": 390, "height": 844}) as page:
            assert page.evaluate(
                f"{box}.every(e => e.tabIndex === 0 || e.querySelector('a, button, input, summary'))"
            )
            closed = page.evaluate(f"{box}.length")
            page.evaluate(OPEN_ALL)
            page.evaluate("new Promise(requestAnimationFrame)")
            page.evaluate("new Promise(requestAnimationFrame)")
            wide += page.evaluate(f"{box}.length") - closed
            faded = f"{box}.filter(e => getComputedStyle(e).maskImage !== 'none')"
            before = page.evaluate(f"{faded}.length")
            page.evaluate(f"{box}.forEach(e => e.scrollLeft = e.scrollWidth)")
            page.wait_for_function(f"{faded}.length === 0")
            assert before or not page.evaluate(f"{box}.length")
    assert wide, "no gated table is wider than a phone, so this tests nothing"


def test_markdown_that_cells_make_is_rendered():
    for path in PAGES:
        for paragraph in soup(path).select("main p"):
            assert "|--" not in paragraph.text and "|–" not in paragraph.text, (path, paragraph)


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_the_widget_on_the_page_shows_what_python_counted(visit, scheme):
    for path in having("div.explorer"):
        with visit(path, scheme=scheme) as page:
            page.evaluate(OPEN_ALL)
            for widget in page.locator("div.explorer").all():
                own = soup(path).find(id=widget.get_attribute("id"))
                data = json.loads(own.find("script", type="application/json").string)["data"]
                sparsity, threshold = widget.locator("input[type=range]").all()
                output = widget.locator("output[data-kept]")
                seen = set()
                for key in ("End", "ArrowLeft", "PageDown", "Home"):
                    before = threshold.input_value(), output.get_attribute("data-kept")
                    sparsity.press(key)
                    at = int(output.get_attribute("data-position"))
                    cuts = data["scopes"][output.get_attribute("data-scope")]
                    kept = [layer[at] for layer in cuts["kept"]]
                    assert json.loads(output.get_attribute("data-kept")) == kept
                    # A step of the slider may be less than one weight of a small network.
                    moved = kept != json.loads(before[1])
                    assert (threshold.input_value() != before[0]) == moved
                    seen.add(tuple(kept))
                assert len(seen) >= 3
            assert page.outside == []
            assert page.complaints == []


def test_each_lesson_says_what_it_takes():
    for path in having("ul.course-strip"):
        strip = soup(path).select_one("h1 + ul.course-strip")
        assert strip, f"{path}: the strip does not follow the title"
        text = strip.get_text(" ", strip=True)
        for part in ("minutes in class", "runs in", "torch", "course_lib"):
            assert part in text, (path, text)
        download = strip.select_one("a.download")["href"]
        assert (HTML / path).parent.joinpath(download).is_file()


def test_every_scrubber_shows_its_frames_on_the_page(visit):
    for path in having(".scrub"):
        with visit(path, scheme="file", reduced_motion="reduce") as page:
            page.evaluate(OPEN_ALL)
            for number, widget in enumerate(soup(path).select(".scrub")):
                frames = json.loads(widget.find("script", type="application/json").string)["frames"]
                shown = page.locator(".scrub").nth(number)
                last = shown.locator("[data-axis]").last.locator("input")
                for which, key in ((-1, "End"), (0, "Home")):
                    if last.first.get_attribute("type") == "radio":
                        last.nth(which).check()
                    else:
                        last.press(key)
                    at = int(shown.get_attribute("data-frame"))
                    if frames[at] is not None:  # that of the first frame stands on the page itself
                        break
                like = page.evaluate(
                    "html => Object.assign(document.createElement('div'), {innerHTML: html}).innerHTML",
                    frames[at],
                )
                assert shown.locator(".frame").inner_html() == like
                assert shown.get_by_role("status").inner_text()
            assert page.complaints == page.outside == []


def test_the_front_end_is_shipped_once():
    """As two files that all pages share. (That they work: test_each_page.py.)"""
    for path in having("[data-course]"):
        page = soup(path)
        assert not page.select("[data-course-page]") and "coursePage" not in str(page.body)
        files = [tag.get("href") or tag.get("src") for tag in page.select("link, script[src]")]
        for name in ("page.css", "page.js"):
            assert sum(f"/{name}" in (file or "") for file in files) == 1
            source = ROOT / "course_lib/teaching/page" / name
            assert (HTML / "_static" / name).read_bytes() == source.read_bytes()


def test_every_recorded_run_is_tabulated_beside_its_paper():
    page = soup("book/reproductions.html")
    results = sorted((ROOT / "book/reproductions").glob("*.json"))
    assert {path.stem for path in results} <= {s["id"] for s in page.select("section[id]")}
    for path in results:
        result = json.loads(path.read_text(encoding="utf-8"))
        assert result["command"].startswith(f"python book/reproductions/{path.stem}.py")
        assert path.with_suffix(".py").exists()
        section = page.find(id=path.stem)
        text = section.get_text(" ", strip=True).replace("’", "'").replace("\u00a0", " ")  # typeset
        assert result["experiment"] in text and result["verdict"] in text
        rows = section.select("tbody tr")
        assert len(rows) == len(result["table"])
        own = [q.partition(": ") for q in (row["quantity"] for row in result["table"])]
        groups = {start for start, colon, _ in own if colon} & result["setting"].keys()
        rest = any(start not in groups for start, _, _ in own)
        assert len(section.select("table")) == len(groups) + rest
        for table in section.select("table"):  # no empty column for a paper without numbers
            assert {row.select("td")[1].text for row in table.select("tbody tr")} != {"–"}
        for start, _, end in own:
            assert (end if start in groups else start) in text
