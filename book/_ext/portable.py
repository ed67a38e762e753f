"""Notebooks that read well anywhere: citations as links, and a file to download that works alone.

A lesson cites `[Han et al. (2015)](../book/references.bib#han2015learning)` as a part of a sentence, or
`([Han et al., 2015](…))` behind it: words and a link in JupyterLab and on GitHub, and on the page a citation
that leads to the bibliography.
"""

import base64
import copy
import re
from pathlib import Path

import nbformat
from pybtex.database import Entry, parse_file
from sphinx.application import Sphinx

# perhaps brackets, the words, the key; in a notebook's file as in its text
CITED = re.compile(r"(\()?\[([^][\n]*)\]\(\.\./book/references\.bib#(\w+)\)(?(1)\))")
DRAWING = re.compile(r"!\[([^\]]*)\]\(\.\./img/([\w.-]+)\)")
LINK = re.compile(
    r"(?<!!)\[([^\]]*)\]\((?!https?:|attachment:)[^)]*\)"
)  # leads to the book's own files
REFERENCE = re.compile(r"\{(?:ref|doc|term)\}`([^`<]*?)\s*(?:<[^`]*>)?`")
FOLD = re.compile(r"^:::\{dropdown\} (.*?)\n(.*?)\n:::$", re.MULTILINE | re.DOTALL)
BOX = re.compile(r"^:::\{(\w+)\}\n(.*?)\n:::$", re.MULTILINE | re.DOTALL)
INSTALL = """\
# The course's library: install it once, then run the cells below.
%pip install --quiet "course_lib[lessons] @ git+{}"\
"""
HOW = (
    "**Before you run this notebook,** install the course's library once: open a terminal in the course's folder "
    'and run `pip install ".[lessons]"`. Then run the cells from top to bottom.'
)


def label(entry: Entry, textual: bool) -> str:
    """Return the words of a citation: `Han et al. (2015)`, or in brackets `Han et al., 2015`."""
    names = [" ".join(map(str, person.rich_last_names)) for person in entry.persons["author"]]
    who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
    year = entry.fields.get("year", "undated")
    return f"{who} ({year})" if textual else f"{who}, {year}"


def cite(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make a link to the file of references a citation, before a lesson is read."""
    source[0] = CITED.sub(lambda m: f"{{cite{'' if m[1] else ':t'}}}`{m[3]}`", source[0])


def alone(notebook, root: Path, address: str):
    """Return a copy of a lesson that needs no other file of the course, but for its library.

    Drawings are attached, citations lead to the works themselves, other links become words, hints become
    HTML, and the first cell says how to install the library: from `address`, or where there is none
    from the course's folder.
    """
    notebook = copy.deepcopy(notebook)
    references = parse_file(root / "book/references.bib").entries
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            attach(cell, root / "img")
            cell.source = plain(cell.source, references)
    notebook.cells.insert(0, first(address))
    return notebook


def attach(cell, folder: Path) -> None:
    """Put the drawings that a cell shows into the cell."""
    for _, name in DRAWING.findall(cell.source):
        data = base64.b64encode((folder / name).read_bytes()).decode()
        kind = "image/svg+xml" if name.endswith(".svg") else "image/png"
        cell.setdefault("attachments", {})[name] = {kind: data}
    cell.source = DRAWING.sub(r"![\1](attachment:\2)", cell.source)


def plain(text: str, references: dict[str, Entry]) -> str:
    """Return MyST text as Markdown that every notebook program shows."""
    text = CITED.sub(lambda m: bracketed(m[1], link(m[2], references[m[3]])), text)
    text = REFERENCE.sub(r"\1", LINK.sub(r"*\1*", text))
    text = FOLD.sub(r"<details><summary>\1</summary>\n\n\2\n\n</details>", text)
    return BOX.sub(lambda m: f"**{m[1].capitalize()}.** {m[2]}", text)


def bracketed(brackets: str | None, words: str) -> str:
    """Return words in the brackets that a citation has, if it has them."""
    return f"({words})" if brackets else words


def link(words: str, entry: Entry) -> str:
    """Return words that lead to a work, where it has an address."""
    fields = entry.fields
    if "doi" in fields:
        return f"[{words}](https://doi.org/{fields['doi']})"
    if "eprint" in fields:
        return f"[{words}](https://arxiv.org/abs/{fields['eprint']})"
    return f"[{words}]({fields['url']})" if "url" in fields else words


def first(address: str):
    """Return the cell that installs the library, or says how to where no address is known."""
    if address:
        return nbformat.v4.new_code_cell(INSTALL.format(address), id="install")
    return nbformat.v4.new_markdown_cell(HOW, id="install")


def replace_downloads(app: Sphinx, error: Exception | None) -> None:
    """Where the pages offer a lesson's file, put the copy that works alone."""
    if error or app.builder.format != "html":
        return
    root, address = Path(app.srcdir), app.config.course_repository
    for source, (_, target) in app.env.dlfiles.items():
        if source.endswith(".ipynb"):
            notebook = nbformat.read(root / source, as_version=4)
            path = Path(app.outdir) / "_downloads" / target
            nbformat.write(alone(notebook, root, address), path)


def setup(app: Sphinx) -> dict:
    """Register the above with Sphinx."""
    app.add_config_value("course_repository", "", "env")
    app.connect("source-read", cite)
    app.connect("build-finished", replace_downloads)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
