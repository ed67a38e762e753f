"""The book's own Sphinx extension: local formulas, the strip, predict gates, the claims table."""

import json
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.fileutil import copy_asset

CLAIM = "application/vnd.course-lib.claim+json"
GATE = "Predict first, or just show me"


def copy_mathjax(app: Sphinx) -> None:
    """Put MathJax and its fonts beside the pages, so that formulas need no network."""
    source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    for part in ("tex-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions"):
        copy_asset(
            str(source / part), str((target / part).parent if "." in part else target / part)
        )
    app.config.mathjax_path = "mathjax/tex-chtml.js"


def drop_thebe(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Leave out the live-code loader that Jupyter Book adds to each page: it points at a CDN."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in str(getattr(script, "filename", script))
        and "THEBE" not in str(getattr(script, "attributes", ""))
    ]


def course_metadata(app_env, docname: str) -> dict | None:
    """Return a lesson's metadata `course`: {"minutes": int, "needs": [names of notebooks]}."""
    path = Path(app_env.doc2path(docname))
    if path.suffix != ".ipynb":
        return None
    course = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("course")
    if course is None:
        return None
    if not isinstance(course.get("minutes"), int) or not isinstance(course.get("needs"), list):
        raise ExtensionError(
            f"{docname}: metadata 'course' is {course!r}, "
            'expected something like {"minutes": 50, "needs": ["criteria"]}'
        )
    return course


class Strip(SphinxTransform):
    """One quiet line under a lesson's title: how long, what first, what it ran with, the file."""

    default_priority = 600

    def apply(self) -> None:
        """Insert the line; pages without the metadata stay as they are."""
        docname = self.env.docname
        course = course_metadata(self.env, docname)
        if course is None:
            return
        items = [nodes.Text(f"{course['minutes']} minutes in class")]
        items.append(self.needs(course["needs"]))
        ran = NbMetadataCollector.get_exec_data(self.env, docname) or {}
        if ran.get("runtime") is not None:
            items.append(nodes.Text(f"runs in {max(1, round(ran['runtime']))} s"))
        library = re.search(r'^version = "(.*)"', self.pyproject(), re.MULTILINE)[1]
        items.append(nodes.Text(f"torch {version('torch')}, course_lib {library}"))
        items.append(self.download(docname))
        strip = nodes.bullet_list(classes=["course-strip"])
        strip += [nodes.list_item("", nodes.paragraph("", "", item)) for item in items]
        title = next(self.document.findall(nodes.title))
        title.parent.insert(title.parent.index(title) + 1, strip)

    def pyproject(self) -> str:
        """Return the text of pyproject.toml, and make the page depend on it."""
        self.env.note_dependency("pyproject.toml")
        return (Path(self.env.srcdir) / "pyproject.toml").read_text(encoding="utf-8")

    def needs(self, names: list[str]) -> nodes.Node:
        """Return `needs` and links to the lessons that come first."""
        line = nodes.inline("", "needs " if names else "needs no other lesson")
        for position, name in enumerate(names):
            link = addnodes.pending_xref(
                "",
                nodes.inline("", name, classes=["doc"]),
                refdomain="std",
                reftype="doc",
                refexplicit=False,
                refwarn=True,
                reftarget=f"/notebooks/{name}",
                refdoc=self.env.docname,
            )
            line += [nodes.Text(", "), link] if position else [link]
        return line

    def download(self, docname: str) -> nodes.Node:
        """Return a link to the notebook file, which is copied into the book."""
        name = f"{docname}.ipynb"
        link = addnodes.download_reference(
            "", "", nodes.Text("download the notebook"), refdoc=docname, reftarget=f"/{name}"
        )
        return link


class Gates(SphinxTransform):
    """Close the output of every cell tagged `gated` behind a disclosure that says why.

    The page's script opens it once the reader has predicted; it opens by hand at any time.
    """

    default_priority = 601

    def apply(self) -> None:
        """Mark the cells; myst-nb makes the disclosure."""
        for cell in self.document.findall(nodes.container):
            if "tag_gated" in cell["classes"] and cell.get("nb_element") == "cell_code":
                cell["hide_mode"] = "output"
                cell["prompt_show"], cell["prompt_hide"] = GATE, "Hide it again"


class ClaimsNode(nodes.General, nodes.Element):
    """Where the table of claims goes, once every lesson has been read."""


class ClaimsTable(SphinxDirective):
    """`{claims-table}`: every claim that the lessons computed."""

    def run(self) -> list[nodes.Node]:
        """Leave a mark; the table is made when all lessons are known."""
        return [ClaimsNode()]


def claims(app: Sphinx) -> list[tuple[str, dict]]:
    """Return (lesson, claim record) for every claim in the executed notebooks, in reading order."""
    found = []
    for docname in app.env.toctree_includes.get(app.config.root_doc, []):
        executed = Path(app.outdir).parent / "jupyter_execute" / f"{docname}.ipynb"
        if executed.exists():
            for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]:
                outputs = [output.get("data", {}) for output in cell.get("outputs", [])]
                found += [(docname, data[CLAIM]) for data in outputs if CLAIM in data]
    return found


def cell(text: str | nodes.Node) -> nodes.entry:
    """Return a table cell holding `text`."""
    inner = nodes.Text(text) if isinstance(text, str) else text
    return nodes.entry("", nodes.paragraph("", "", inner))


class FillClaims(SphinxPostTransform):
    """Replace each mark by the table."""

    default_priority = 8  # before links are resolved

    def run(self, **kwargs) -> None:
        """Build the table row by row."""
        for mark in list(self.document.findall(ClaimsNode)):
            mark.replace_self(self.table(claims(self.app)))

    def table(self, rows: list[tuple[str, dict]]) -> nodes.Node:
        """Return the table: claim, effect and its 95 % interval, seeds, lesson."""
        if not rows:
            return nodes.paragraph("", "No lesson of this build states a claim.")
        table, group = nodes.table(classes=["course-claims"]), nodes.tgroup(cols=4)
        table += group
        group += [nodes.colspec(colwidth=width) for width in (50, 20, 10, 20)]
        head, body = nodes.thead(), nodes.tbody()
        titles = ("Claim", "Effect [95 % interval]", "Seeds", "Lesson")
        head += nodes.row("", *(cell(title) for title in titles))
        for docname, claim in rows:
            low, high = claim["ci"]
            effect = f"{claim['value']:.4g} [{low:.4g}, {high:.4g}]"
            link = addnodes.pending_xref(
                "",
                nodes.inline("", docname),
                refdomain="std",
                reftype="doc",
                refexplicit=False,
                refwarn=True,
                reftarget=f"/{docname}",
                refdoc=self.env.docname,
            )
            row = (claim["statement"], effect, str(claim["n"]), link)
            body += nodes.row("", *(cell(item) for item in row))
        group += [head, body]
        return table


def setup(app: Sphinx) -> dict:
    """Register everything above with Sphinx."""
    app.connect("builder-inited", copy_mathjax)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.add_transform(Strip)
    app.add_transform(Gates)
    app.add_node(ClaimsNode)
    app.add_directive("claims-table", ClaimsTable)
    app.add_post_transform(FillClaims)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
