"""How a long run is recorded: one JSON file beside its script, tabulated in the book."""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torchvision

import course_lib
from course_lib import data, training

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
ON_A_CARD = (  # a sentence of "differences"
    "Seeds 0 to 2 ran on a processor. The later ones ran on a graphics card, with torch 2.11 and with "
    "networks and images moved there."
)


def kept(script: str, part: str, make: Callable[[], dict]) -> tuple[dict, float]:
    """What ``make`` returns as JSON keeps it, and its seconds of the processor.

    They come from the temporary folder if the part was made before, so that an interrupted run goes
    on with the next part.
    """
    name = f"course-{Path(script).stem}-{part}.json".replace("_", "-").replace(" ", "")
    path = Path(tempfile.gettempdir()) / name
    if not path.exists():
        start = time.process_time()
        found = make()
        path.write_text(json.dumps([found, time.process_time() - start]))
    found, seconds = json.loads(path.read_text())
    print(f"{part}: {seconds:.0f} s", flush=True)
    return found, seconds


def per_seed(
    script: str, seeds: int, setting: str, make: Callable[[int], dict]
) -> tuple[list[dict], float]:
    """What ``make`` returns for each seed, kept one by one, and the seconds of all."""
    parts = [kept(script, f"seed {seed} {setting}", partial(make, seed)) for seed in range(seeds)]
    return [found for found, _ in parts], sum(seconds for _, seconds in parts)


def numbers(*defaults: int) -> list[int]:
    """The numbers behind the script's name, and the last defaults for those that are not there."""
    given = [int(argument) for argument in sys.argv[1:]]
    return given + list(defaults[len(given) :])


def errors(nets: torch.nn.Module, test: data.Split) -> list[float]:
    """Errors in %: one for each network of a stack, or a single one."""
    return [round(100 - a, 2) for a in training.evaluate(nets, test).reshape(-1).tolist()]


def error(net: torch.nn.Module, test: data.Split) -> float:
    """The error of one network in %."""
    return errors(net, test)[0]


def row(quantity: str, unit: str, ours: Sequence[float], paper: float | None = None) -> dict:
    """A row of the table."""
    return {"quantity": quantity, "unit": unit, "paper": paper, "ours": list(ours)}


def rows_of_choice(
    tried: Mapping[str, Mapping[str, Sequence[float]]], setting: str, after: str = ""
) -> list[dict]:
    """A row for each arm and each setting of it, a rate for example, that was tried on images set
    aside, with the accuracies of its seeds.
    """
    return [
        row(f"{name}, {setting} {value}, images set aside{after}", "% accuracy", right)
        for name, values in tried.items()
        for value, right in values.items()
    ]


def best(tried: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """The setting of each arm that was right most often."""
    return {name: float(max(on, key=lambda v: fmean(on[v]))) for name, on in tried.items()}


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
