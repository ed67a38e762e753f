"""Open the lessons in JupyterLab: `make lab` calls this with the environment's own python.

Lab serves the whole repository, so that drawings beside the notebooks are found, and starts on a list
of the lessons in reading order. It asks nothing of the network.
"""

import json
import os
import sys
from pathlib import Path

import nbformat
from build import ROOT, toc_notebooks

LIST = "book/_build/lessons.md"
SETTINGS = "book/_build/lab"
OVERRIDES = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},
    "@jupyterlab/docmanager-extension:plugin": {
        "defaultViewers": {"markdown": "Markdown Preview"}  # the list, as a page with links
    },
}
HOW = (
    "*Run → Run All Cells* runs a lesson from top to bottom, in about a minute. "
    "What would give an answer away stays closed until you have predicted."
)


def lessons(root: Path) -> str:
    """Return the list of lessons as Markdown, with links that work from `LIST`."""
    names = toc_notebooks(root)
    numbers = {Path(name).stem: str(number) for number, name in enumerate(names, start=1)}
    lines = ["# Lessons, in reading order", ""]
    for name in names:
        notebook = nbformat.read(root / name, as_version=4)
        course = notebook.metadata["course"]
        first = " and ".join(numbers[need] for need in course["needs"])
        needs = f", after {first}" if first else ""
        link = f"[{title(notebook)}](../../{name})"
        lines.append(f"{numbers[Path(name).stem]}. {link}: {course['minutes']} minutes{needs}")
    return "\n".join([*lines, "", HOW]) + "\n"


def title(notebook) -> str:
    """Return the first heading of a notebook."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return next(line for line in text.splitlines() if line.startswith("# ")).removeprefix("# ")


def command(root: Path, *more: str) -> list[str]:
    """Write the list of lessons and Lab's settings, and return the command that opens the list."""
    settings = root / SETTINGS
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "overrides.json").write_text(json.dumps(OVERRIDES), encoding="utf-8")
    (root / LIST).write_text(lessons(root), encoding="utf-8")
    return [
        *(sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}"),
        f"--LabApp.default_url=/lab/tree/{LIST}",
        f"--LabApp.app_settings_dir={settings}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        *more,
    ]


if __name__ == "__main__":
    arguments = command(ROOT, *sys.argv[1:])
    os.execv(arguments[0], arguments)
