"""The file book/replication.json: how it is read, and when what it says still counts.

A claim depends on the cell that states it and on all the code before it. Its hash is made of both,
without imports, comments, docstrings and layout, and without the earlier cells that only show
something: a new wording of a question, or of another claim, does not send hours of computing to the
bin. Nor do the words that stand for a picture, or a paragraph that holds numbers.
"""

import ast
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

CLAIM = "application/vnd.course-lib.claim+json"
CLAIMS = {"greater", "equal", "every", "faster"}
SHOWS = CLAIMS | set("predict quiz scrub explorer show table print Markdown recorded".split())
WORDS = {"show": 1, "Markdown": 0}  # a call -> its arguments before the words for the page


def load(root: Path) -> dict:
    """Return the file's content: {lesson: {"claims": …, "runs": …}}; nothing if there is no file."""
    path = root / "book/replication.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def hashes(cells: Iterable) -> list[str]:
    """Return for each code cell, in order, the hash of it and of what it may depend on."""
    before, found = hashlib.sha256(), []
    for cell in cells:
        if cell.cell_type == "code":
            own = before.copy()
            lines = statements(cell.source)
            own.update(f"{ast.unparse(lines)}\0".encode())
            found.append(own.hexdigest()[:12])
            before = before if only_shows(lines) else own
    return found


def of_claims(cells: Iterable) -> str:
    """Return a hash of all cells that claim something: what a run of a lesson stands for."""
    code = [cell for cell in cells if cell.cell_type == "code"]
    found = hashlib.sha256()
    for digest, cell in zip(hashes(code), code, strict=True):
        nodes = ast.walk(statements(cell.source))
        calls = [node.func for node in nodes if isinstance(node, ast.Call)]
        if any(ast.unparse(call) in {f"claims.{name}" for name in CLAIMS} for call in calls):
            found.update(digest.encode())
    return found.hexdigest()[:12]


def statements(source: str) -> ast.Module:
    """Return a cell's code without what computes nothing by itself: its imports, the marks of its
    claims, such as "usually", and words for the page.
    """
    plain = TransformerManager().transform_cell(source)  # it may hold a magic command
    module = ast.parse(plain)
    module.body = [
        line for line in module.body if not isinstance(line, ast.Import | ast.ImportFrom)
    ]
    for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
        call.keywords = [keyword for keyword in call.keywords if keyword.arg != "mark"]
        if called(call) in WORDS:
            call.args = call.args[: WORDS[called(call)]]
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            del node.body[0]
    return module


def called(call: ast.Call) -> str:
    """Return the last name of what is called: greater for claims.greater(…)."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def only_shows(module: ast.Module) -> bool:
    """Return whether a cell is nothing but calls that put something on the page."""
    calls = [line.value for line in module.body if isinstance(line, ast.Expr)]
    names = [called(call) for call in calls if isinstance(call, ast.Call)]
    return len(names) == len(module.body) and SHOWS.issuperset(names)


def claims(cells: Iterable) -> list[tuple[str, dict]]:
    """Return what executed cells claim: (the cell's hash, the claim).

    Raises:
        ValueError: a sentence that is claimed twice, of different values.
    """
    code = [cell for cell in cells if cell.cell_type == "code"]
    found = {}
    for digest, cell in zip(hashes(code), code, strict=True):
        data = [output.get("data", {}) for output in cell.outputs]
        for claim in (d[CLAIM] for d in data if CLAIM in d):
            # Its own cell shows it twice where claims are replicated.
            if found.setdefault(claim["statement"], (digest, claim)) != (digest, claim):
                raise ValueError(f"a lesson claims twice: {claim['statement']!r}")
    return list(found.values())


def rate(lessons: dict, lesson: str, statement: str, digest: str) -> str:
    """Return in how many sets of fresh random numbers a claim held, in words.

    Args:
        lessons: what ``load`` returned.
        lesson: the notebook's name without folder and ending.
        statement: the claim's sentence.
        digest: the hash of the claim's cell as it is now.
    """
    known = lessons.get(lesson, {}).get("claims", {}).get(statement)
    if not known or not known["sets"]:
        return "not replicated yet"
    if known["about"]["hash"] != digest:
        return "not replicated since it changed"
    return f"{sum(s['holds'] for s in known['sets'].values())} of {len(known['sets'])}"
