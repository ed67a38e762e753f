"""What the search page looks through: the text of each section, without anything that is folded.

A page opened as a file may not fetch another one, so the excerpts cannot come from the pages
themselves, as Sphinx's do. They come from one script, which only the search page loads. Gated
outputs, hints, solutions and quizzes are not in it.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from docutils import nodes
from portable import label
from pybtex.database import parse_file
from sphinx import addnodes
from sphinx.application import Sphinx

# Parts of a section with an entry of their own, and what has no words.
OTHERS = (nodes.section, addnodes.glossary, addnodes.desc)
SILENT = (nodes.title, nodes.math_block, nodes.literal_block, nodes.comment, nodes.raw)


def silent(node: nodes.Node) -> bool:
    """Return whether a node has no words for the search: cells, hints, formulas, code."""
    if isinstance(node, nodes.container):
        return bool(node.get("nb_element")) or node.get("design_component") == "dropdown"
    strip = "course-strip" in node.get("classes", ())
    return strip or isinstance(node, (*SILENT, *OTHERS, addnodes.index))


@cache
def references() -> dict:
    """Return the entries of the bibliography."""
    return parse_file(Path(__file__).resolve().parent.parent / "references.bib").entries


def cited(citation: addnodes.pending_xref) -> str:
    """Return a citation in words: Han et al. (2015), or in brackets (Han et al., 2015)."""
    textual = citation["reftype"] == "t"
    keys = map(str.strip, citation["reftarget"].split(","))
    labels = "; ".join(label(references()[key], textual) for key in keys)
    return labels if textual else f"({labels})"


def words(node: nodes.Node) -> Iterator[str]:
    """Yield the words of a node's own text, of its citations and of its pictures' descriptions."""
    for child in node.children:
        if isinstance(child, addnodes.pending_xref) and child.get("refdomain") == "cite":
            yield cited(child)
        elif isinstance(child, nodes.Text):
            yield child.astext()
        elif isinstance(child, nodes.math):
            yield child.astext() if re.fullmatch(r"[\w =+<>.%-]{1,20}", child.astext()) else "…"
        elif isinstance(child, nodes.image):
            yield f" {child.get('alt', '')} "
        elif not silent(child):
            yield from words(child)
            if not isinstance(child, nodes.Inline):
                yield " "


def text_of(node: nodes.Node) -> str:
    """Return a node's own text on one line."""
    return " ".join("".join(words(node)).split())


def sections(doctree: nodes.document) -> Iterator[tuple[str, str, str]]:
    """Yield (anchor, title, text) of each section, function and term of a page."""
    for section in doctree.findall(nodes.section):
        title = next(section.findall(nodes.title), None)
        yield section["ids"][0], title.astext() if title else "", text_of(section)
    for item in doctree.findall(nodes.definition_list_item):
        terms = [term for term in item.findall(nodes.term) if term["ids"]]
        if terms:
            yield terms[0]["ids"][0], terms[0].astext(), text_of(item)
    for signature in doctree.findall(addnodes.desc_signature):
        if signature["ids"]:
            yield signature["ids"][0], signature["ids"][0], text_of(signature.parent)


def pages(app: Sphinx) -> list[str]:
    """Return the pages in reading order."""
    found = [app.config.root_doc]
    for page in found:  # which grows: the pages below follow those beside
        found += [name for name in app.env.toctree_includes.get(page, []) if name not in found]
    return found


def write(app: Sphinx, error: Exception | None) -> None:
    """Write the sections beside the pages: (page, its title, anchor, title, text)."""
    if error or app.builder.format != "html":
        return
    rows = [
        (page, app.env.titles[page].astext(), *section)
        for page in pages(app)
        for section in sections(app.env.get_doctree(page))
    ]
    script = f"var courseSections = {json.dumps(rows, ensure_ascii=False)};\n"
    (Path(app.outdir) / "_static/sections.js").write_text(script, encoding="utf-8")


def load(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Let the search page load the sections and the search."""
    if pagename == "search":
        app.add_js_file("sections.js", defer="defer")
        app.add_js_file("search.js", defer="defer")


def setup(app: Sphinx) -> None:
    """Register both with Sphinx."""
    app.connect("html-page-context", load)
    app.connect("build-finished", write)
