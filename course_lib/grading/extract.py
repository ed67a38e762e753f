"""What of a student's notebook is graded: the functions asked for, and the definitions they use.

A notebook that comes back may be truncated, renamed, copied together or hostile. It is read as data
and never executed. Answers are found by the names of their functions. With each go the definitions,
imports and assignments whose names it uses, directly or through others; a training loop at top level,
or a library that no answer uses, costs nothing.
"""

import ast
import json
import os
import re
import stat
import symtable
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_BYTES = 20_000_000  # of a notebook, outputs included
MOST_CELLS = 2_000
LONGEST_CELL = 200_000  # characters

#: Cell magics whose cell is still Python.
_TIMERS = {"%%time", "%%timeit", "%%capture", "%%prun"}
_MAGIC = re.compile(r"^(\s*)([%!?].*|[\w.]+\?{1,2}\s*)$", re.MULTILINE)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_Found = tuple["Statement", ast.stmt]


class Unreadable(ValueError):
    """A file that cannot be graded; the message is the sentence for the instructor."""


@dataclass(frozen=True)
class Statement:
    """One statement of a notebook: ``source`` begins in line ``line`` of code cell ``cell``."""

    cell: int
    line: int
    source: str


@dataclass(frozen=True)
class Answers:
    """What a notebook answers: the statements behind each function, in the notebook's order.

    ``absent`` maps each function that was asked for and is not there to the reason; ``flags`` is what
    an instructor should know.
    """

    statements: dict[str, tuple[Statement, ...]]
    absent: dict[str, str]
    flags: tuple[str, ...]


def read(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a submitted file.

    Raises:
        Unreadable: a link, something that is not a file, a file of more than ``most`` bytes or one
            that cannot be opened.
    """
    try:
        # A link is not followed, and a pipe does not keep us waiting.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink():
            raise Unreadable("The file is a link, and links are not followed.") from None
        raise Unreadable(f"The file cannot be opened: {error.strerror}.") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("This is not an ordinary file.")
        if status.st_size > most:
            raise Unreadable(f"The file has {status.st_size:,} bytes; at most {most:,} are read.")
        with open(handle, "rb", closefd=False) as file:
            return file.read(most + 1)
    finally:
        os.close(handle)


def extract(notebook: bytes, wanted: Iterable[str]) -> Answers:
    """The functions that a notebook was to define, with what they use.

    Args:
        notebook: the file's content.
        wanted: the names of the functions that are graded.

    Raises:
        Unreadable: no notebook of format 4, or nothing in it that was asked for.

    Examples:
        >>> cell = {"cell_type": "code", "source": "import math\\nprint('hi')\\ndef f(x): return math.pi"}
        >>> found = extract(json.dumps({"nbformat": 4, "cells": [cell]}).encode(), ["f"])
        >>> [statement.source for statement in found.statements["f"]]
        ['import math', 'def f(x): return math.pi']
    """
    wanted, cells = tuple(wanted), _cells(notebook)
    found, failed = _all_definitions(cells)
    full = {name for _, node in found if not _is_stub(node) for name in _names(node)}
    # A stub that was pasted behind the answer does not replace it.
    kept = [(s, n) for s, n in found if not (_is_stub(n) and full.intersection(_names(n)))]
    places: dict[str, list[int]] = {}  # of each name's definitions
    for index, (_, node) in enumerate(kept):
        for name in _names(node):
            places.setdefault(name, []).append(index)
    absent = {name: _reason(name, cells, failed) for name in wanted if name not in places}
    if wanted and len(absent) == len(wanted):
        raise Unreadable(_refusal(absent))
    flags = [f"cell-left-out: cell {number} has {why}" for number, why in failed.items()]
    flags += [
        f"defined-twice: {name} is defined {len(places[name])} times; the last one counts"
        for name in wanted
        if len(places.get(name, ())) > 1
    ]
    flags += [f"not-found: {name}; {reason}" for name, reason in absent.items()]
    statements = {name: _used(name, kept, places) for name in wanted if name in places}
    return Answers(statements, absent, tuple(flags))


def _used(name: str, kept: list[_Found], places: dict[str, list[int]]) -> tuple[Statement, ...]:
    """The statements that define ``name`` and every name that they use."""
    names, waiting = {name, "*"}, [name, "*"]  # a star import may define anything
    chosen: set[int] = set()
    while waiting:
        for index in places.get(waiting.pop(), ()):
            if index in chosen:
                continue
            chosen.add(index)
            used = _global_names(kept[index][0].source) - names
            names |= used
            waiting += used
    return tuple(kept[index][0] for index in sorted(chosen))


def _global_names(source: str) -> set[str]:
    """The names that a statement looks up outside itself; a function's own variables are not."""
    try:
        waiting = [symtable.symtable(source, "cell", "exec")]
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # such as a return outside
        return set()
    found = set()
    while waiting:
        table = waiting.pop()
        waiting += table.get_children()
        outermost = table.get_type() == "module"
        symbols = table.get_symbols()
        found |= {
            s.get_name() for s in symbols if s.is_referenced() and (outermost or s.is_global())
        }
    return found


class _Broken(Exception):
    """A cell that is not Python."""


def _cells(notebook: bytes) -> list[dict[str, Any]]:
    try:
        content = json.loads(notebook.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Unreadable("The file is not text in UTF-8.") from None
    except (ValueError, RecursionError):
        end = "is empty" if not notebook.strip() else "is not a notebook, or only a part of one"
        raise Unreadable(f"The file {end}: it is not valid JSON.") from None
    cells = content.get("cells") if isinstance(content, dict) else None
    if isinstance(content, dict) and "worksheets" in content:
        raise Unreadable("This notebook has the old format 3: open it in Jupyter and save it.")
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise Unreadable("The file is JSON, but it is not a notebook: it has no list of cells.")
    if len(cells) > MOST_CELLS:
        raise Unreadable(f"The notebook has {len(cells)} cells; at most {MOST_CELLS} are read.")
    return cells


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    lines = source if isinstance(source, list) else [source]
    return "".join(line for line in lines if isinstance(line, str))


def _locked(cell: dict[str, Any]) -> bool:
    """Whether nbgrader's metadata say that this cell is the instructor's."""
    metadata = cell.get("metadata")
    course = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    return isinstance(course, dict) and course.get("locked") is True


def _all_definitions(cells: list[dict[str, Any]]) -> tuple[list[_Found], dict[int, str]]:
    """What the cells define, and for each cell that is left out the reason."""
    found, failed = list[_Found](), dict[int, str]()
    for number, cell in enumerate(cells, 1):
        if cell.get("cell_type") != "code" or _locked(cell):
            continue
        try:
            found += _definitions(number, _source(cell))
        except _Broken as error:
            failed[number] = str(error)
    return found, failed


def _definitions(number: int, source: str) -> Iterator[_Found]:
    """The statements of a cell that define something, each with its tree."""
    source, tree = _parsed(source)
    lines = source.encode().splitlines(keepends=True)
    for node in tree.body:
        if isinstance(node, _DEFINITIONS + (ast.Import, ast.ImportFrom)) or _is_assignment(node):
            first = min([d.lineno for d in getattr(node, "decorator_list", [])] + [node.lineno])
            text = _text(lines, first, 0 if first < node.lineno else node.col_offset, node)
            yield Statement(number, first, text), node


def _parsed(source: str) -> tuple[str, ast.Module]:
    """A cell as Python, without the lines that only IPython understands."""
    if len(source) > LONGEST_CELL:
        raise _Broken(f"more than {LONGEST_CELL:,} characters")
    # Only \n and \r\n end a line for Python's parser; other ends would move all line numbers.
    source = (
        source.replace("\r\n", "\n").replace("\r", "\n").replace("\f", " ").removeprefix("\ufeff")
    )
    first = source.split("\n", 1)[0].split(" ")[0].strip()
    if first.startswith("%%"):
        if first not in _TIMERS:
            raise _Broken(f"a first line {first[:30]!r}, so it is not Python")
        source = "\n" + source.partition("\n")[2]
    try:
        return source, _parse(source)
    except _Broken:
        plain = _MAGIC.sub(r"\1pass", source)
        if plain == source:
            raise
        return plain, _parse(plain)


def _parse(source: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        raise _Broken(f"a syntax error in line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError, UnicodeError):
        raise _Broken("text that cannot be read as Python") from None


def _text(lines: list[bytes], line: int, column: int, node: ast.stmt) -> str:
    """The text of a statement. Two may share a line, so columns count; they count bytes."""
    part = lines[line - 1 : node.end_lineno]
    part[-1] = part[-1][: node.end_col_offset]
    part[0] = part[0][column:]
    return b"".join(part).decode()


def _targets(node: ast.stmt) -> list[ast.AST]:
    """All parts of what a statement gives values to; none if it is no assignment."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        targets = [node.target]
    return [part for target in targets for part in ast.walk(target)]


def _is_assignment(node: ast.stmt) -> bool:
    """Whether a statement gives values to names, and to nothing that exists already."""
    places = _targets(node)
    return bool(places) and all(
        isinstance(n, ast.Name | ast.Tuple | ast.List | ast.expr_context) for n in places
    )


def _names(node: ast.stmt) -> set[str]:
    """The names that a statement gives a value."""
    if isinstance(node, _DEFINITIONS):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return {n.id for n in _targets(node) if isinstance(n, ast.Name)}


def _is_stub(node: ast.stmt) -> bool:
    """Whether a function's body is still empty: a docstring, dots, pass, NotImplementedError."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return all(
        isinstance(line, ast.Pass)
        or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
        or (isinstance(line, ast.Raise) and _mentions(line, "NotImplementedError"))
        for line in node.body
    )


def _mentions(node: ast.stmt, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(node))


def _reason(name: str, cells: list[dict[str, Any]], failed: dict[int, str]) -> str:
    """Why a function is not there."""
    pattern = re.compile(rf"\b(def\s+{re.escape(name)}\b|{re.escape(name)}\s*=)")
    for number, cell in enumerate(cells, 1):
        if not pattern.search(_source(cell)[:LONGEST_CELL]):
            continue
        if number in failed:
            return f"cell {number}, which defines it, has {failed[number]}"
        if cell.get("cell_type") != "code":
            return f"cell {number}, which defines it, is a {str(cell.get('cell_type'))[:20]} cell"
        if _locked(cell):
            return f"cell {number}, which defines it, is locked"
        return f"cell {number} defines it inside another statement, or computes it"
    return "the notebook does not define it"


def _refusal(absent: dict[str, str]) -> str:
    if set(absent.values()) == {"the notebook does not define it"}:
        return f"The notebook defines none of {', '.join(absent)}: is it another assignment?"
    told = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
    return f"No answer can be read. {told}."
