"""The book's own Sphinx extension: formulas without a network, strips, predict gates, tables."""

import json
import math
import re
import statistics
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import glossary
import head
import links
import nbformat
import overview
import portable
import replication
import rereads
import search
from docutils import nodes
from jupyter_cache import get_cache
from myst_nb.sphinx_ import HideCodeCellNode, NbMetadataCollector
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.fileutil import copy_asset

from course_lib.teaching import page
from course_lib.teaching.playground import PRESETS

GATE = "Predict first, or just show me"
LONG_TABLE = 12  # lines of a recorded run that stand open on the page


def copy_mathjax(app: Sphinx) -> None:
    """Put MathJax and its fonts beside the pages, so that formulas need no network."""
    source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    copy_asset(str(source / "tex-chtml.js"), str(target))
    for folder in ("output/chtml/fonts/woff-v2", "input/tex/extensions"):
        copy_asset(str(source / folder), str(target / folder))
    app.config.mathjax_path = "mathjax/tex-chtml.js"


def copy_front_end(app: Sphinx) -> None:
    """Put the widgets' style and script beside the pages, which share them."""
    for name in ("page.css", "page.js"):
        source = Path(app.srcdir) / "course_lib/teaching/page" / name
        copy_asset(str(source), str(Path(app.outdir) / "_static"))
    app.add_css_file("page.css")
    app.add_js_file("page.js", defer="defer")


def drop_thebe(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Leave out the live-code loader that Jupyter Book adds to each page: it points at a CDN."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in str(getattr(script, "filename", script))
        and "THEBE" not in str(getattr(script, "attributes", ""))
    ]


def share_front_end(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Take style and script out of each output: the pages share page.css and page.js."""
    context["body"] = page.bare(context.get("body", ""))


def course_metadata(env, docname: str) -> dict | None:
    """Return a lesson's metadata `course`: {"minutes": int, "needs": [names of notebooks]}."""
    path = Path(env.doc2path(docname))
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
        if course["needs"]:
            items.append(self.needs(course["needs"]))
        ran = NbMetadataCollector.get_exec_data(self.env, docname) or {}
        if ran.get("runtime") is not None:
            items.append(nodes.Text(f"runs in {max(1, round(ran['runtime']))} s"))
        library = re.search(r'^version = "(.*)"', self.pyproject(), re.MULTILINE)[1]
        items.append(nodes.Text(f"torch {version('torch')}, course_lib {library}"))
        items.append(self.download(docname))
        if (target := f"living-{Path(docname).name}") in PRESETS:
            items.append(self.living(target))
        strip = nodes.bullet_list(classes=["course-strip"])
        strip += [nodes.list_item("", nodes.paragraph("", "", item)) for item in items]
        title = next(self.document.findall(nodes.title))
        title.parent.insert(title.parent.index(title) + 1, strip)

    def pyproject(self) -> str:
        """Return the text of pyproject.toml, and make the page depend on it."""
        self.env.note_dependency("pyproject.toml")
        return (Path(self.env.srcdir) / "pyproject.toml").read_text(encoding="utf-8")

    def needs(self, names: list[str]) -> nodes.Node:
        """Return the word and links to the lessons that come first."""
        line = nodes.inline("", "needs ")
        for position, name in enumerate(names):
            line += [nodes.Text(", ")] if position else []
            line += doc_link(self.env, f"notebooks/{name}")
        return line

    def living(self, target: str) -> nodes.Node:
        """Return a link to the living page, in the state that belongs to the lesson."""
        return links.to(self.env, "ref", target, "try it on the living page")

    def download(self, docname: str) -> nodes.Node:
        """Return a link to the notebook file, which is copied into the book."""
        text = nodes.Text("download the notebook")
        file = f"/{docname}.ipynb"
        return addnodes.download_reference("", "", text, refdoc=docname, reftarget=file)


class Gates(SphinxTransform):
    """Close the output of every cell tagged `gated` behind a disclosure that says why.

    The page's script opens it once the reader has predicted; it opens by hand at any time. Code
    that is folded by a tag of its own stays folded. A cell that is folded as a whole is a solution,
    and its bar says so.
    """

    default_priority = 601

    def apply(self) -> None:
        """Mark the cells; myst-nb makes the disclosure."""
        for cell in self.document.findall(nodes.container):
            if "tag_gated" in cell["classes"] and cell.get("nb_element") == "cell_code":
                folded = "tag_hide-input" in cell["classes"]
                cell["hide_mode"] = "input+output" if folded else "output"
                cell["prompt_show"], cell["prompt_hide"] = GATE, "Hide it again"
            elif "tag_hide-cell" in cell["classes"]:
                cell["prompt_show"], cell["prompt_hide"] = "Show a solution", "Hide the solution"


class FoldedCode(SphinxPostTransform):
    """A gated cell's folded code is no gate: its bar says what is behind it, as on other cells."""

    default_priority = 200  # right after myst-nb has made the disclosures, and before they are HTML
    formats = ("html",)

    def run(self, **kwargs) -> None:
        """Write the bar of each disclosure around code."""
        for fold in self.document.findall(HideCodeCellNode):
            if "above-input" in fold["classes"] and fold["prompt_show"] == GATE:
                config = self.env.mystnb_config
                fold["prompt_show"] = config.code_prompt_show.replace("{type}", "source")
                fold["prompt_hide"] = config.code_prompt_hide.replace("{type}", "source")


class TableNode(nodes.General, nodes.Element):
    """Where a table about all lessons goes, once every lesson has been read."""


class ClaimsTable(SphinxDirective):
    """`{claims-table}`: every claim that the lessons computed."""

    def run(self) -> list[nodes.Node]:
        """Leave a mark; the table is made when all lessons are known."""
        return [TableNode(rows=claim_rows)]


class TimingTable(SphinxDirective):
    """`{timing-table}`: the seconds that each lesson took when it was executed."""

    def run(self) -> list[nodes.Node]:
        """Leave a mark; the table is made when all lessons are known."""
        return [TableNode(rows=timing_rows)]


class Reproductions(SphinxDirective):
    """`{reproductions} papers` or `{reproductions} long`: every recorded run on real data, paper
    beside ours; or every lesson's own experiment, trained to the end.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Build one section per result file."""
        folder = Path(self.env.srcdir) / "book/reproductions"
        self.env.note_dependency(str(folder))  # whose time changes when a file comes or goes
        found = []
        for path in sorted(folder.glob("*.json")):
            if path.stem.startswith("long_") == (self.arguments[0] == "long"):
                self.env.note_dependency(str(path))
                found.append(self.section(path.stem, json.loads(path.read_text(encoding="utf-8"))))
        return found

    def section(self, name: str, result: dict) -> nodes.section:
        """Return one run: what it is and showed, its tables, how it differs from the paper."""
        section = nodes.section("", nodes.title("", result["experiment"]), ids=[name])
        section += nodes.paragraph("", result["verdict"])
        quantities = [row["quantity"] for row in result["table"]]
        groups = {
            name: setting
            for name, setting in result["setting"].items()
            if any(quantity.startswith(f"{name}: ") for quantity in quantities)
        }
        shared = {k: v for k, v in result["setting"].items() if k not in groups}
        published = result.get("published", "Paper")
        of_groups = tuple(f"{name}: " for name in groups)
        rest = [row for row in result["table"] if not row["quantity"].startswith(of_groups)]
        if rest:
            section += folded(run_rows(rest, "", published))
        for group, setting in groups.items():
            rows = [row for row in result["table"] if row["quantity"].startswith(f"{group}: ")]
            section += nodes.paragraph("", "", nodes.strong("", group))
            section += folded(run_rows(rows, f"{group}: ", published))
            section += nodes.paragraph("", f"Settings: {spelled(setting)}.")
        section += nodes.paragraph("", f"Settings of the run: {spelled(shared)}.")
        if result["differences"]:
            own = name.startswith("long_")
            title = "About this run:" if own else "What differs from the paper:"
            section += nodes.paragraph("", title)
            section += listed(result["differences"])
        torch = result["versions"]["torch"]
        took = f" ({max(1, round(result['seconds'] / 60))} min, torch {torch})"
        section += nodes.paragraph("", "", nodes.literal("", result["command"]), nodes.Text(took))
        return section


def run_rows(rows: Iterable[dict], prefix: str, published: str) -> list[tuple]:
    """Return the table of a run, header first; the prefix of its quantities stands above it.

    There is no column for a paper where none of the rows has its number.
    """
    rows = list(rows)
    compared = any(row["paper"] is not None for row in rows)
    found = [("Measured", *([published] if compared else []), "Ours", "Seeds")]
    for row in rows:
        short = len(row["unit"]) <= 2  # % or ×: beside the number; else beside its name
        quantity = row["quantity"].removeprefix(prefix)
        unit = f" {row['unit']}" if short else ""
        paper = "–" if row["paper"] is None else f"{row['paper']:,g}{unit}"
        name = quantity if short else f"{quantity}, {row['unit']}"
        ours = f"{mean_sd(row['ours'])}{unit}", len(row["ours"])
        found.append((name, *([paper] if compared else []), *ours))
    return found


def listed(items: Iterable[str]) -> nodes.bullet_list:
    """Return a list of sentences."""
    return nodes.bullet_list("", *(nodes.list_item("", nodes.paragraph("", i)) for i in items))


def spelled(value: object) -> str:
    """Return a setting in words: "a 1; b: c 2, d 3"."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if not isinstance(value, dict):
        return str(value)
    inner = (
        f"{key}: {', '.join(f'{k} {v}' for k, v in said.items())}"
        if isinstance(said, dict)
        else f"{key} {spelled(said)}"
        for key, said in value.items()
    )
    return "; ".join(inner)


def mean_sd(values: list[float]) -> str:
    """Return mean ± standard deviation over the seeds, to the deviation's second digit."""
    mean = statistics.fmean(values)
    sd = statistics.stdev(values) if len(values) > 1 else 0
    if not sd:
        return f"{mean:,.6g}"
    digits = min(3, max(0, 1 - math.floor(math.log10(sd))))
    return f"{mean:,.{digits}f} ± {sd:,.{digits}f}"


def executed(env) -> Iterator[tuple[str, dict, list]]:
    """Yield (lesson, what build.py noted about its execution, its executed cells), in order."""
    cache = get_cache(env.mystnb_config.execution_cache_path)
    for docname in env.toctree_includes.get(env.config.root_doc, []):
        path = Path(env.doc2path(docname))
        if path.suffix == ".ipynb":
            record = cache.match_cache_notebook(nbformat.read(path, as_version=4))
            yield docname, record.data, cache.get_cache_bundle(record.pk).nb.cells


def claim_rows(env) -> list[tuple]:
    """Return the table of claims, header first."""
    rows = [("Claim", "Effect ± 95 % interval", "Margin", "Seeds", "Replicated", "Lesson")]
    lessons = replication.load(Path(env.srcdir))
    for docname, _, cells in executed(env):
        for digest, claim in replication.claims(cells):
            statement = claim["statement"]
            mark = f" ({claim['mark']})" if claim["mark"] else ""
            margin = f"{claim['relation']} {claim['margin']:g} {claim['unit']}"
            rate = replication.rate(lessons, Path(docname).stem, statement, digest)
            seeds, link = len(claim["seeds"]), doc_link(env, docname)
            rows.append((statement + mark, claim["effect"], margin, seeds, rate, link))
    return rows


def timing_rows(env) -> list[tuple]:
    """Return the table of seconds, header first."""
    rows = [("Lesson", "Seconds", "Slowest cell", "Code cells")]
    for docname, data, _ in executed(env):
        cells = data["cells"]
        slowest = f"{max(cells, default=0):.1f} s"
        total = f"{data['execution_seconds']:.1f}"
        rows.append((doc_link(env, docname), total, slowest, len(cells)))
    return rows


CODE = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment)


class Unbroken(SphinxPostTransform):
    """A number stays on one line with its ± and its %."""

    default_priority = 220  # after outputs have become text
    formats = ("html",)

    def run(self, **kwargs) -> None:
        """Put spaces that do not break into all sentences and tables; code stays as it is."""
        for text in list(self.document.findall(nodes.Text)):
            if not isinstance(text.parent, CODE):
                whole = re.sub(r"(?<=\d) (?=[%±×])|(?<=±) (?=\d)", "\u00a0", text)
                if whole != text:
                    text.parent.replace(text, nodes.Text(whole))


def doc_link(env, docname: str) -> addnodes.pending_xref:
    """Return a link to a page of the book that reads as the page's title."""
    return links.to(env, "doc", f"/{docname}")


class FillTables(SphinxPostTransform):
    """Replace each mark by its table."""

    default_priority = 8  # before links are resolved

    def run(self, **kwargs) -> None:
        """Build the table row by row."""
        for mark in list(self.document.findall(TableNode)):
            rows = mark["rows"](self.env)
            none = nodes.paragraph("", "The lessons of this build hold none.")
            mark.replace_self(table_of(rows) if rows[1:] else none)


def table_of(rows: list[tuple]) -> nodes.table:
    """Return a table of rows, header first."""
    head, *body = rows
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += nodes.thead("", table_row(head))
    group += nodes.tbody("", *map(table_row, body))
    return nodes.table("", group, classes=["colwidths-auto"])


def folded(rows: list[tuple]) -> list[nodes.Node]:
    """Return a table of rows, header first; a long one behind a bar that says how long it is."""
    if len(rows) <= LONG_TABLE:
        return [table_of(rows)]
    bar = f"<details class='course-rows'><summary>The table, {len(rows) - 1} rows</summary>"
    raw = [nodes.raw("", html, format="html") for html in (bar, "</details>")]
    return [raw[0], table_of(rows), raw[1]]


def table_row(items: tuple) -> nodes.row:
    """Return a row of cells that hold the items: nodes, or anything to be printed."""
    inner = [item if isinstance(item, nodes.Node) else nodes.Text(str(item)) for item in items]
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", item)) for item in inner))


def setup(app: Sphinx) -> dict:
    """Register everything above with Sphinx."""
    glossary.setup(app)
    head.setup(app)
    rereads.setup(app)
    search.setup(app)
    overview.setup(app)
    portable.setup(app)
    app.connect("builder-inited", copy_mathjax)
    app.connect("builder-inited", copy_front_end)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("html-page-context", share_front_end)
    app.add_transform(Strip)
    app.add_transform(Gates)
    app.add_node(TableNode)
    app.add_directive("claims-table", ClaimsTable)
    app.add_directive("timing-table", TimingTable)
    app.add_directive("reproductions", Reproductions)
    app.add_post_transform(FillTables)
    app.add_post_transform(FoldedCode)
    app.add_post_transform(Unbroken)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
