"""How a run on real data is recorded: one JSON file beside its script, tabulated in the book."""

import json
from pathlib import Path

import numpy as np
import torch
import torchvision

import course_lib

REQUIRED = {
    "experiment",  # what was repeated, with its paper, one line
    "command",  # what makes this file again, from the repository's root
    "verdict",  # one sentence without numbers: reproduced, in part, or not, and in what
    "setting",  # what this run used: epochs, images, learning rate; a dictionary per group of rows
    "differences",  # how it differs from the paper's, a sentence each
    "table",  # rows {"quantity": str, "unit": str, "paper": number or None, "ours": per seed}
    "seconds",  # how long the run took
}
OPTIONAL = {
    "published",  # whose numbers "paper" are, where they are not the paper's own
    "details",  # whatever else is worth keeping, such as the curves behind the table
}


def write(script: str, **run: object) -> None:
    """Write ``<script>.json``.

    Args:
        script: the script's own ``__file__``.
        run: ``REQUIRED`` and ``OPTIONAL``. A group of rows, ``"LeNet-5: error"`` for example, is a
            table of its own where the settings have a dictionary of that name.

    Raises:
        ValueError: a part that is missing or unknown, or a row that is not complete.
    """
    if missing := sorted(REQUIRED - run.keys()) + sorted(run.keys() - REQUIRED - OPTIONAL):
        raise ValueError(f"run must have {sorted(REQUIRED)}; missing or unknown: {missing}")
    for number, row in enumerate(run["table"]):
        if row.keys() != {"quantity", "unit", "paper", "ours"} or not row["ours"]:
            raise ValueError(
                f"table[{number}] must hold quantity, unit, paper and ours, got {dict(row)}"
            )
    versions = {
        "course_lib": course_lib.__version__,
        "torch": torch.__version__.partition("+")[0],
        "torchvision": torchvision.__version__.partition("+")[0],
        "numpy": np.__version__,
    }
    result = run | {"seconds": round(run["seconds"]), "versions": versions}
    text = json.dumps(result, indent=1, ensure_ascii=False)
    Path(script).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)
