"""Recorded runs: what took longer than a lesson, shown beside the lesson's own short run."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from IPython.display import Markdown

from course_lib.teaching.bill import table

_HERE = Path(__file__).resolve().parent
# The installed package carries a copy; in a checkout the files lie beside the scripts that wrote them.
FOLDERS = (_HERE / "runs", _HERE.parents[1] / "book/reproductions")
FOLDER = next(folder for folder in FOLDERS if folder.is_dir())


def recorded(name: str, quantities: Sequence[str] | None = None) -> Markdown:
    """A table of a run recorded in ``book/reproductions``: what a paper reports, and what we measured.

    Our numbers are mean ± standard deviation over the seeds. A unit that all rows share stands in the
    header, and there is no column for a paper where none of the rows has its number. The command
    that repeats the run stands under the table.

    Args:
        name: the script's name without ending.
        quantities: the rows to show, in this order. None shows all.

    Raises:
        ValueError: a run that is not recorded, or a row that it does not have.
    """
    run = _read(name)
    chosen = _rows(run, quantities)
    units = {row["unit"] for row in chosen}
    common = f", {units.pop()}" if len(units) == 1 else ""
    compared = any(row["paper"] is not None for row in chosen)
    header = [f"recorded run{common}", *(["paper"] if compared else []), "ours", "seeds"]
    cells = []
    for row in chosen:
        paper = "–" if row["paper"] is None else f"{row['paper']:,g}"
        name = row["quantity"] if common else f"{row['quantity']}, {row['unit']}"
        cells.append(
            (name, *([paper] if compared else []), _mean_sd(row["ours"]), len(row["ours"]))
        )
    return Markdown(f"{table(header, cells).data}\n\nRecorded with `{run['command']}`.")


def recorded_values(name: str, quantity: str) -> list[float]:
    """One row of a recorded run: a value per seed, for a figure or a claim.

    Args:
        name: the script's name without ending.
        quantity: the row.

    Raises:
        ValueError: a run that is not recorded, or a row that it does not have.
    """
    return _rows(_read(name), [quantity])[0]["ours"]


def _read(name: str) -> dict[str, Any]:
    runs = sorted(path.stem for path in FOLDER.glob("*.json"))
    if name not in runs:
        raise ValueError(f"name must be one of {runs}, got {name!r}")
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def _rows(run: dict[str, Any], quantities: Sequence[str] | None) -> list[dict[str, Any]]:
    rows = {row["quantity"]: row for row in run["table"]}
    shown = list(rows) if quantities is None else list(quantities)
    if unknown := [quantity for quantity in shown if quantity not in rows]:
        raise ValueError(f"quantities must be among {list(rows)}, got {unknown}")
    return [rows[quantity] for quantity in shown]


def _mean_sd(values: Sequence[float]) -> str:
    """Mean ± standard deviation, to two decimals where they matter."""
    decimals = 2 if abs(values[0]) < 1000 else 0
    mean = f"{statistics.fmean(values):,.{decimals}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):,.{decimals}f}"
