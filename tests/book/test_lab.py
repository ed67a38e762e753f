"""`make lab` in a real browser: two lessons, run from top to bottom as an instructor would."""

import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import lab as program
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 60_000  # Playwright counts milliseconds
END = "the lesson is over"
# After each bar: how many outputs of its cell come next, and how many of these can be seen.
BEHIND = """() => [...document.querySelectorAll(".course-gate")].map((gate) => {
  const bar = gate.closest(".jp-OutputArea-child");
  const all = [...bar.parentElement.querySelectorAll(":scope > .jp-OutputArea-child")];
  const rest = all.slice(all.indexOf(bar) + 1);
  return [rest.length, rest.filter((el) => el.getClientRects().length).length];
})"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Yield the address of a Lab that serves a copy of the course: Lab saves what it opens."""
    copy = tmp_path_factory.mktemp("lab")
    ignore = shutil.ignore_patterns("_build", "__pycache__", ".*")
    for folder in ("book", "notebooks", "img"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for path in (copy / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells.append(nbformat.v4.new_code_cell(f"print('{END}')"))
        nbformat.write(notebook, path)
    command = program.command(
        copy, "--no-browser", "--allow-root", "--IdentityProvider.token=", "--port-retries=99"
    )
    own = {name: str(copy / "own") for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")}
    env = os.environ | own | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(copy / "own")}
    server = subprocess.Popen(command, cwd=copy, env=env, stderr=subprocess.PIPE, text=True)
    said = iter(server.stderr)
    lines = []
    for line in said:
        lines.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            break
    else:
        pytest.fail(f"JupyterLab did not start:\n{''.join(lines)}")
    threading.Thread(target=lambda: list(said), daemon=True).start()  # or its pipe would fill
    yield found[0]
    server.terminate()
    server.wait()


@pytest.fixture
def page(browser, lab):
    """Yield a window that notes every address beyond this machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(3 * MINUTES)
    page = context.new_page()
    page.outside = []
    own = (lab, lab.replace("http", "ws"), "data:", "blob:")
    page.on("request", lambda r: r.url.startswith(own) or page.outside.append(r.url))
    yield page
    context.close()


def run_all(page, lab, name):
    """Open a lesson and run all its cells."""
    page.goto(f"{lab}/lab/tree/notebooks/{name}.ipynb?reset")
    page.get_by_text("| Idle").wait_for()
    page.locator(".lm-MenuBar-item", has_text="Run").click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    error = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
    end = page.locator(".jp-OutputArea-output", has_text=END)
    end.or_(error).first.wait_for(state="attached", timeout=10 * MINUTES)
    assert error.all_inner_texts() == []


def test_it_opens_on_the_lessons_in_reading_order(page, lab):
    page.goto(lab)
    links = page.locator(".jp-MarkdownViewer ol a")
    links.first.wait_for()
    toc = (ROOT / "book/_toc.yml").read_text(encoding="utf-8")
    files = re.findall(r"file: (notebooks/[\w-]+)", toc)
    titles = []
    for file in files:
        cells = nbformat.read(ROOT / f"{file}.ipynb", as_version=4).cells
        titles.append(cells[0].source.splitlines()[0].removeprefix("# "))
    assert links.all_inner_texts() == titles
    links.first.click()
    page.locator(".jp-Notebook h1", has_text=titles[0]).wait_for()
    assert page.get_by_text("news").count() == 0
    assert page.outside == []


@pytest.mark.parametrize("name", ["motivation", "criteria"])
def test_a_lesson_runs_and_looks_as_on_the_page(page, lab, name):
    run_all(page, lab, name)
    cells = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells
    notebook = page.locator(".jp-Notebook")
    # nothing red, no broken drawing, no raw key of a citation
    red = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]')
    assert page.locator(".jp-CodeCell", has=red).all_inner_texts() == []
    drawings = notebook.locator(".jp-MarkdownCell img")
    assert drawings.count() == sum(c.source.count("](../img/") for c in cells)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.jp-MarkdownCell img')].every((i) => i.naturalWidth)"
    )
    assert not re.search(r"\b[a-z]+(19|20)\d\d[a-z]+\b", notebook.inner_text())
    # the gates: closed by Run All, open one by one or by a prediction
    gated = sum("gated" in cell.metadata.get("tags", []) for cell in cells)
    behind = page.evaluate(BEHIND)
    assert len(behind) == gated and all(outputs and not seen for outputs, seen in behind)
    page.locator(".course-gate summary").first.click()
    (outputs, seen), *others = page.evaluate(BEHIND)
    assert outputs == seen and not any(seen for _, seen in others)
    page.locator(".course-predict input").first.check()
    assert all(outputs == seen for outputs, seen in page.evaluate(BEHIND))
    assert not page.locator(".course-gate").first.is_visible()
    # the widget, the quiz, a hint
    drag(page, page.locator(":is(.explorer, .scrub) input[type=range]").first)
    option = page.locator(".course-quiz details").first
    option.locator("summary").click()
    assert option.locator("p").is_visible()
    hint = page.locator(".jp-MarkdownCell details", has_text="Hint").first
    assert not hint.locator("p").first.is_visible()
    hint.locator("summary").click()
    assert hint.locator("p").first.is_visible()
    assert page.outside == []


def drag(page, slider):
    """Drag a slider to its left end, and see what is said about it change."""
    slider.scroll_into_view_if_needed()
    widget = slider.locator(
        "xpath=ancestor::*[contains(@class, 'explorer') or contains(@class, 'scrub')][1]"
    )
    before, box = widget.inner_text(), slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, middle, steps=5)
    page.mouse.up()
    assert widget.inner_text() != before
