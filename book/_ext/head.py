"""What a page says about itself: description and title in its head, licence in its foot."""

import re
from html import escape, unescape

from docutils import nodes
from sphinx.application import Sphinx

LONGEST = 200  # letters of a description


def description(doctree: nodes.document | None) -> str:
    """Return the first sentences of a page's first paragraph, or nothing."""
    if doctree is None:
        return ""
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section):
            text = " ".join(paragraph.astext().split())
            if len(text) <= LONGEST:
                return text
            return text[: text.rindex(" ", 0, LONGEST)].rstrip(",;:") + " …"
    return ""


def describe(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Write the description and what a link to the page shows elsewhere; no address is in it."""
    title, text = re.sub(r"<.*?>", "", context.get("title", "")), description(doctree)
    said = {
        "og:title": unescape(title),
        "og:type": "article",
        "og:site_name": app.config.html_title,
    }
    said |= {"og:description": text} if text else {}
    tags = [f'<meta property="{name}" content="{escape(value)}" />' for name, value in said.items()]
    if text:
        tags.append(f'<meta name="description" content="{escape(text)}" />')
    context["metatags"] = "\n".join([context.get("metatags", ""), *tags, ""])
    if title == context.get("docstitle"):
        context["docstitle"] = ""  # else the tab says the same words twice


def licence(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Write licence and accessibility statement into the foot."""
    link = context["pathto"]("book/accessibility")
    context["theme_extra_footer"] = (
        f'<p>MIT licence: use, change and share it. <a href="{link}">Accessibility</a></p>'
    )


def setup(app: Sphinx) -> None:
    """Register both with Sphinx."""
    app.connect("html-page-context", describe)
    app.connect("html-page-context", licence)
