"""The answers of `answers/` as students' notebooks: what the black-box grader gets to see of them."""

import ast
import json
from pathlib import Path

from course_lib.exercises import EXERCISES, LESSONS

FOLDER = Path(__file__).parent / "answers"


def cell(source, **more):
    return {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], **more}


def notebook(*sources, **more):
    """The bytes of a notebook with these code cells."""
    cells = [source if isinstance(source, dict) else cell(source) for source in sources]
    content = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells, **more}
    return json.dumps(content).encode()


def _dictionary(tree, name):
    """The entries of `RIGHT` or `WRONG` as {exercise: [expression, ...]}."""
    found = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name
    )
    entries = {}
    for key, value in zip(found.keys, found.values, strict=True):
        assert isinstance(value, ast.List | ast.Tuple), ast.unparse(value)
        entries[ast.literal_eval(key)] = [
            ast.unparse(item if name == "RIGHT" else item.elts[0]) for item in value.elts
        ]
    return entries


def _reaches(expression, definitions, foreign):
    """Whether an answer uses a name that comes from the course's library."""
    seen, todo = set(), [ast.parse(expression)]
    while todo:
        for node in ast.walk(todo.pop()):
            if isinstance(node, ast.Name) and node.id not in seen:
                seen.add(node.id)
                todo += definitions.get(node.id, [])
    return bool(seen & foreign)


def submissions():
    """Yield (exercise, expression, whether it is right, notebook) for every answer.

    Answers that call the course's library are left out: there is none in the sandbox.
    """
    common = (FOLDER / "common.py").read_text()
    for lesson in LESSONS:
        source = (FOLDER / f"{lesson.__name__.rpartition('.')[2]}.py").read_text()
        tree = ast.parse(source)
        definitions, foreign, kept = {}, set(), []
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course_lib"):
                foreign |= {alias.asname or alias.name for alias in node.names}
                continue
            if isinstance(node, ast.ImportFrom) and node.level:
                continue
            names = [getattr(node, "name", "")]
            if isinstance(node, ast.Assign):
                names = [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            for name in names:
                definitions.setdefault(name, []).append(node)
            if not {"RIGHT", "WRONG", "HUNTS"} & set(names):
                kept.append(ast.unparse(node))
        for group in ("RIGHT", "WRONG"):
            for name, expressions in _dictionary(tree, group).items():
                function = EXERCISES[name].function
                for expression in expressions:
                    if not _reaches(expression, definitions, foreign):
                        answer = f"def {function}(*inputs):\n    return ({expression})(*inputs)"
                        cells = [common, "\n".join(kept), answer]
                        yield name, expression, group == "RIGHT", notebook(*cells)
