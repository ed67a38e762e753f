"""The one front end: a style sheet and a script for everything that a reader can move or choose.

Every output carries both, so that it works alone: in JupyterLab, in VS Code, copied into another
page. In the book they are two files that all pages share, and the Sphinx extension takes the two
elements out of every output.
"""

import html as text
import json
import re
from pathlib import Path

_HERE = Path(__file__).parent
CSS = (_HERE / "page.css").read_text("utf-8")
JS = (_HERE / "page.js").read_text("utf-8")


def html(body: str) -> str:
    """``body`` with the style and the script that bring it to life."""
    return (
        f"<style data-course-page>\n{CSS}</style>\n{body}\n<script data-course-page>\n{JS}</script>"
    )


def data(values: object) -> str:
    """The element in which a script finds ``values``; they cannot end it, whatever they hold."""
    written = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    # In JSON "<" stands only inside strings, where an escape says the same.
    return f'<script type="application/json">{written.replace("<", chr(92) + "u003c")}</script>'


def check_name(name: str) -> None:
    """Raise unless ``name`` can be part of an HTML id."""
    check_text("name", name)
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError(f"name must consist of a-z, 0-9 and '-', got {name!r}")


def check_text(argument: str, value: str) -> None:
    """Raise, naming the argument, unless ``value`` is a string that says something."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, got {value!r}")
    if not value.strip():
        raise ValueError(f"{argument} must hold some text, got {value!r}")


def inline(words: str) -> str:
    """``words`` escaped for HTML; what stands between backticks becomes code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text.escape(words))
