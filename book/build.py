"""Build the book: `make book` calls this with the environment's own python.

1. Nothing changed since the last good build: say so and stop.
2. Execute, in parallel, the lessons whose outputs the cache does not hold.
3. Let Jupyter Book make the pages out of the cache; every warning is an error.

The cache (jupyter-cache) finds a notebook by its code cells and their tags alone. What they import
counts too, so the whole cache is dropped when anything of `EXECUTED` changes.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What a notebook's outputs depend on besides its own cells ...
EXECUTED = (
    "course_lib",
    "img",
    "notebooks/**/*.py",
    "requirements.txt",
    "pyproject.toml",
    "book/reproductions/*.json",
)
# ... and what the pages depend on besides that.
# (A lesson may write files beside itself; they count for nothing.)
PAGES = ("book", "notebooks/**/*.ipynb", "_config.yml", "*.md")


def digest(root: Path, patterns: Iterable[str]) -> str:
    """Hash the names and contents of the files of `patterns`: globs; a folder means all in it.

    The python that runs counts as well. Caches, builds and hidden files do not.
    """
    found = {path for pattern in patterns for path in root.glob(pattern)}
    found |= {path for folder in found if folder.is_dir() for path in folder.rglob("*")}
    total = hashlib.sha256(sys.version.encode())
    for path in sorted(found):
        name = path.relative_to(root)
        hidden = any(part.startswith((".", "__pycache__", "_build")) for part in name.parts)
        if path.is_file() and not hidden:
            total.update(f"{name.as_posix()}\0{path.stat().st_size}\0".encode())
            total.update(path.read_bytes())
    return total.hexdigest()


def toc_pages(root: Path) -> list[str]:
    """Return the pages of book/_toc.yml, as paths from `root` without suffix, in reading order."""
    import yaml

    def files(entry):
        if isinstance(entry, dict):
            yield from (entry[key] for key in ("root", "file") if key in entry)
            entry = list(entry.values())
        for inner in entry if isinstance(entry, list) else ():
            yield from files(inner)

    toc = yaml.safe_load((root / "book/_toc.yml").read_text(encoding="utf-8"))
    return [name.removesuffix(".ipynb") for name in files(toc)]


def toc_notebooks(root: Path) -> list[str]:
    """Return the notebooks among them, with their suffix."""
    return [f"{page}.ipynb" for page in toc_pages(root) if (root / f"{page}.ipynb").is_file()]


def open_cache(root: Path):
    """Return the execution cache, emptied first when what notebooks import has changed."""
    from jupyter_cache import get_cache

    folder, now = root / "book/_build/.jupyter_cache", digest(root, EXECUTED)
    stamp = folder / "executed-with"
    if folder.exists() and not (stamp.exists() and stamp.read_text() == now):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.write_text(now)
    return get_cache(str(folder))


def cached(cache, notebook):
    """Return the cache's record of `notebook`, or None."""
    try:
        return cache.match_cache_notebook(notebook)
    except KeyError:
        return None


def execute(root: Path, names: list[str], timeout: int) -> dict[str, str]:
    """Execute the notebooks that the cache lacks and keep the outputs of those that succeed.

    Args:
        root: the repository.
        names: notebooks, as paths from `root`.
        timeout: seconds a cell may take.

    Returns:
        For each notebook that failed, the cell and the end of its traceback.
    """
    import nbformat

    cache = open_cache(root)
    notebooks = {name: nbformat.read(root / name, as_version=4) for name in names}
    stale = {name: nb for name, nb in notebooks.items() if not cached(cache, nb)}
    errors = {}
    if stale:
        from kernels import run_all  # nbclient and its friends: half a second

        errors = run_all(root, stale, timeout, cache)
    records = {name: record for name, nb in notebooks.items() if (record := cached(cache, nb))}
    write_timing(root, records)
    print(*unsupported(cache, records), sep="", end="", file=sys.stderr)
    return errors


def unsupported(cache, records: dict) -> Iterator[str]:
    """Yield a line for each sentence that the data did not support here, as on other processors."""
    from _ext import replication

    for name, record in records.items():
        for _, claim in replication.claims(cache.get_cache_bundle(record.pk).nb.cells):
            if not claim["holds"] and not claim["mark"]:
                yield f"{name} does not support: {claim['statement']} ({claim['effect']})\n"


def write_timing(root: Path, records: dict) -> None:
    """Write each executed notebook's seconds, cell by cell, to book/_build/timing.json."""
    timing = {
        name: {
            "seconds": record.data["execution_seconds"],
            "cells": record.data["cells"],
        }
        for name, record in records.items()
    }
    (root / "book/_build/timing.json").write_text(json.dumps(timing, indent=1) + "\n")


def make_pages(root: Path) -> int:
    """Run Jupyter Book over the executed notebooks; 0 when there was not one warning."""
    for old in (
        "html",
        "jupyter_execute",
    ):  # no page of a lesson that was taken out survives
        shutil.rmtree(root / "book/_build" / old, ignore_errors=True)
    jupyter_book = "from jupyter_book.cli.main import main; main()"
    options = "build . --toc book/_toc.yml --path-output book -W --keep-going --all -q"
    command = [sys.executable, "-c", jupyter_book, *options.split()]
    # its standard output says only where the pages are; warnings go to standard error
    return subprocess.run(command, cwd=root, stdout=subprocess.DEVNULL, check=False).returncode


def build(root: Path) -> int:
    """Bring the book up to date; returns the exit code."""
    stamp, index = (
        root / "book/_build/.built-from",
        root / "book/_build/html/index.html",
    )
    now = digest(root, EXECUTED + PAGES)
    if stamp.exists() and stamp.read_text() == now and index.exists():
        print("Nothing changed since the last build.")
    else:
        import yaml

        stamp.unlink(missing_ok=True)
        config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
        errors = execute(root, toc_notebooks(root), config["execute"]["timeout"])
        for name, error in errors.items():
            print(f"\n{name}, {error}", file=sys.stderr)
        if errors:
            print(
                f"\nNo book: {len(errors)} failed. The others are cached.",
                file=sys.stderr,
            )
            return 1
        if make_pages(root):
            print("\nNo book: see the warnings above.", file=sys.stderr)
            return 1
        stamp.write_text(now)
    site = index.parent.relative_to(root)
    print(f"Open {site}/index.html in a browser.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(build(ROOT))
    except KeyboardInterrupt:
        print(
            "\nStopped. Finished notebooks are kept: run it again to go on.",
            file=sys.stderr,
        )
        sys.exit(130)
