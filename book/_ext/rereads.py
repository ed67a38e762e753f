"""The advice "Reread: lesson …, section “…”" of a check, as a link where the section is on the page."""

import re
from html import escape

from docutils import nodes
from sphinx.application import Sphinx

ADVICE = re.compile(r"(<strong>Reread:</strong> lesson ([^<]+?), )(section “([^”]+)”)")


def link(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Link the sections of the page's own lesson; other lessons are in the list beside the page."""
    if not pagename.startswith("notebooks/") or doctree is None:
        return
    title = next(doctree.findall(nodes.title)).astext()
    anchors = {
        escape(next(section.findall(nodes.title)).astext()): section["ids"][0]
        for section in doctree.findall(nodes.section)
    }

    def linked(match: re.Match) -> str:
        start, lesson, shown, section = match.groups()
        own = pagename.endswith("/" + lesson.lower().replace(" ", "-")) or lesson in title
        if not own or section not in anchors:
            return match[0]
        return f'{start}<a href="#{anchors[section]}">{shown}</a>'

    context["body"] = ADVICE.sub(linked, context["body"])


def setup(app: Sphinx) -> None:
    """Register it with Sphinx."""
    app.connect("html-page-context", link)
