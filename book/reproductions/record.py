"""How a run on real data is recorded: one JSON file beside its script, tabulated in the book."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision

import course_lib


def write(
    script: str,
    *,
    experiment: str,
    command: str,
    setting: Mapping[str, object],
    differences: Sequence[str],
    table: Sequence[Mapping[str, object]],
    seconds: float,
    details: Mapping[str, object] | None = None,
) -> None:
    """Write ``<script>.json``.

    Args:
        script: the script's own ``__file__``.
        experiment: what was repeated, with its paper, one line.
        command: what makes this file again, from the repository's root.
        setting: what this run used: epochs, images, learning rate.
        differences: how it differs from the paper's, a sentence each.
        table: rows {"quantity": str, "unit": str, "paper": number or None, "ours": one value a
            seed}.
        seconds: how long the run took.
        details: whatever else is worth keeping, such as the curves behind the table.
    """
    for number, row in enumerate(table):
        if row.keys() != {"quantity", "unit", "paper", "ours"} or not row["ours"]:
            raise ValueError(
                f"table[{number}] must hold quantity, unit, paper and ours, got {dict(row)}"
            )
    result = {
        "experiment": experiment,
        "command": command,
        "setting": dict(setting),
        "differences": list(differences),
        "table": [dict(row) for row in table],
        "seconds": round(seconds),
        "versions": {
            "course_lib": course_lib.__version__,
            "torch": torch.__version__.partition("+")[0],
            "torchvision": torchvision.__version__.partition("+")[0],
            "numpy": np.__version__,
        },
        "details": dict(details or {}),
    }
    text = json.dumps(result, indent=1, ensure_ascii=False)
    Path(script).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)
