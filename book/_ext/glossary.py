"""The glossary's words in the lessons: each one's first use is a link and an entry of the index."""

import re
from collections.abc import Iterator
from pathlib import Path

import links
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

PAGE = "book/glossary"
# Where a link would be wrong (inside another one, in code, in a title) or in the way.
CLOSED = (
    *(nodes.title, nodes.literal, nodes.math, nodes.reference, nodes.strong, nodes.literal_block),
    *(addnodes.pending_xref, addnodes.download_reference, nodes.comment, nodes.image),
)


def entries(text: str) -> Iterator[list[str]]:
    """Yield the terms of each entry of the glossary, in its source `text`: its lines at the margin."""
    body = re.search(r"```\{glossary\}\n(.*?)```", text, re.DOTALL)[1]
    for block in body.split("\n\n"):
        terms = [line for line in block.splitlines() if re.match(r"[^\s:]", line)]
        if terms:
            yield terms


def pattern(term: str) -> str:
    """Return an expression for a term in running text: also as a plural, and over a line's end.

    A term in small letters may begin a sentence; one with capitals is written with them.
    """
    first, rest = re.escape(term[0]), r"\s+".join(map(re.escape, term[1:].split(" ")))
    if term.islower():
        first = f"[{first}{re.escape(term[0].upper())}]"
    return rf"(?<![\w-]){first}{rest}(?:s|es)?(?![\w-])"


class Terms(SphinxTransform):
    """Link the first use of each term in a lesson's text to its entry, and put it into the index."""

    default_priority = 602

    def apply(self, **kwargs) -> None:
        """Go through the lesson's own sentences; outputs and code are not there yet."""
        if not self.env.docname.startswith("notebooks/"):
            return
        path = Path(self.env.srcdir) / f"{PAGE}.md"
        if not path.exists():  # the small books of the tests
            return
        self.env.note_dependency(str(path))
        found = sorted(entries(path.read_text(encoding="utf-8")))
        self.entry = {term: terms for terms in found for term in terms}
        self.title = next(self.document.findall(nodes.title)).astext()
        self.left = set(self.entry)
        for text in list(self.document.findall(nodes.Text)):
            if not self.closed(text):
                self.link(text)

    def closed(self, text: nodes.Text) -> bool:
        """Return whether the text is no sentence of the lesson, or already something else."""
        node, sentence = text.parent, False
        while node is not None:
            cell = node.get("nb_element") if isinstance(node, nodes.container) else None
            if isinstance(node, CLOSED) or cell or "course-strip" in node.get("classes", ()):
                return True
            sentence = sentence or isinstance(node, nodes.paragraph)
            node = node.parent
        return not sentence

    def link(self, text: nodes.Text) -> None:
        """Replace a text by its parts, those that are terms as links."""
        if not self.left:
            return
        by_length = sorted(self.left, key=len, reverse=True)
        terms = {f"t{number}": term for number, term in enumerate(by_length)}
        either = "|".join(f"(?P<{name}>{pattern(term)})" for name, term in terms.items())
        parts, end = [], 0
        for match in re.finditer(either, text):
            term = terms[match.lastgroup]
            if term in self.left:
                self.left -= set(self.entry[term])
                parts += [nodes.Text(text[end : match.start()]), *self.reference(term, match[0])]
                end = match.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(text[end:])])

    def reference(self, term: str, shown: str) -> list[nodes.Node]:
        """Return the index entry and the link for one use of a term."""
        anchor = nodes.make_id(f"term-{term}")
        main = self.entry[term][0]
        index = addnodes.index(entries=[("single", f"{main}; {self.title}", anchor, "", None)])
        link = links.to(self.env, "term", term, shown)
        link[0]["classes"], link[0]["ids"] = ["std-term"], [anchor]
        return [index, link]


def setup(app: Sphinx) -> None:
    """Register the transform with Sphinx."""
    app.add_transform(Terms)
