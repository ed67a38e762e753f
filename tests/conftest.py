"""What several tests share: a headless Chromium, the built book on a local server, a visitor."""

import contextlib
import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "book/_build/html"
collect_ignore = [
    "awkward.py",
    "awkward_calls.py",
    "bench.py",
    "book/built.py",
]  # no tests: what tests use, a program
# No sandbox (tests may run as root in a container), nothing that phones home, and no way out.
CHROMIUM_FLAGS = [
    *"--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync".split(),
    *"--disable-background-networking --disable-component-update".split(),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def pytest_collection_modifyitems(items):
    """Mark what needs a browser, so that ``-m "not browser"`` leaves it out."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


def missing(what: str) -> None:
    """Fail where every tool must be there (CI), skip with the reason elsewhere."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@pytest.fixture(scope="session")
def browser():
    """Yield a headless Chromium: `$CHROMIUM`, or the one on the path."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        missing("no Chromium: install Debian's `chromium` or set CHROMIUM to its path")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that does not print each request."""

    def log_message(self, format, *args):
        """Say nothing."""


@pytest.fixture(scope="session")
def site() -> dict[str, str]:
    """Yield the built book's address over http and as files."""
    if not (HTML / "index.html").exists():
        pytest.fail("there is no built book: run `make book`")
    handler = functools.partial(Quiet, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"http": f"http://127.0.0.1:{server.server_port}", "file": HTML.as_uri()}
        server.shutdown()


@pytest.fixture(scope="session")
def visit(browser, site):
    """Return a function that opens a page of the book in a fresh window, for a `with` statement.

    `with visit("notebooks/criteria.html", scheme="file", color_scheme="dark") as page:`; further
    keywords are Playwright's `new_context`. `page.outside` lists the addresses beyond the book that
    the page asked for (in vain), `page.complaints` the console's errors and uncaught exceptions.
    """
    own = (site["http"] + "/", site["file"] + "/", "data:", "blob:")

    @contextlib.contextmanager
    def open_page(path, *, scheme="http", **options):
        context = browser.new_context(**options)
        page = context.new_page()
        page.outside, page.complaints = [], []
        page.on("request", lambda r: r.url.startswith(own) or page.outside.append(r.url))
        page.on("console", lambda m: m.type == "error" and page.complaints.append(m.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(f"{site[scheme]}/{path}")
        if options.get("java_script_enabled", True):
            page.evaluate("window.MathJax?.startup?.promise")
        yield page
        context.close()

    return open_page
