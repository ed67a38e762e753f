"""The front end: one style sheet and one script for everything that a reader can move or choose.

Every output carries both, so it works alone: in JupyterLab, in VS Code, or copied into another page.
In the book, all pages share two files, and the Sphinx extension removes the copies from the outputs.
"""

import html as text
import json
import re
from pathlib import Path

_HERE = Path(__file__).parent
CSS = (_HERE / "page.css").read_text("utf-8")
JS = (_HERE / "page.js").read_text("utf-8")


def html(body: str) -> str:
    """``body`` with the style sheet and the script."""
    return (
        f"<style data-course-page>\n{CSS}</style>\n{body}\n<script data-course-page>\n{JS}</script>"
    )


def bare(outputs: str) -> str:
    """Outputs without the style and the script that each brings along, for a page that has both.

    Examples:
        >>> bare(html("<p>An output.</p>"))
        '<p>An output.</p>\\n'
    """
    own = r"<(style|script) data-course-page>.*?</\1>\n?"
    return re.sub(own, "", outputs, flags=re.DOTALL)


def data(values: object) -> str:
    """The element in which the script finds ``values``. No text in ``values`` can end it."""
    written = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    # In JSON "<" stands only inside strings, where an escape says the same.
    return f'<script type="application/json">{written.replace("<", chr(92) + "u003c")}</script>'


def check_name(name: str) -> None:
    """Raise ValueError unless ``name`` can be part of an HTML id."""
    check_text("name", name)
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError(f"name must consist of a-z, 0-9 and '-', got {name!r}")


def check_text(argument: str, value: str) -> None:
    """Raise TypeError or ValueError, naming the argument, unless ``value`` is a text that is not empty."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, got {value!r}")
    if not value.strip():
        raise ValueError(f"{argument} must hold some text, got {value!r}")


def inline(words: str) -> str:
    """``words`` escaped for HTML. Text between backticks becomes code.

    Examples:
        >>> inline("`a < b`")
        '<code>a &lt; b</code>'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text.escape(words))
