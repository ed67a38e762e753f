"""The last point of the practical: a cut network in a file, judged on digits that nobody has seen.

Beside the notebook lies ``entry.safetensors``: the ids of the removed channels and the state of the
network that is left. From the ids the grader builds the smaller network itself, by
``channels.remove`` on ``models.inception()``. It counts bytes and MACs, and measures the accuracy on
glyphs drawn from the run's seed. Nothing that the notebook printed counts, and nothing in the file is
executed.
"""

import hashlib
import math
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from safetensors.torch import save as packed
from torch import Tensor, nn

from course_lib import data, files, measure, models, training
from course_lib.grading import extract
from course_lib.pruning import channels

FILE = "entry.safetensors"
BUDGET = 12_000  # bytes of all parameters and buffers, as they are saved
ENOUGH = 90.0  # percent right, for the point
FRESH = 10_000  # glyphs
LARGEST = 100_000  # bytes of a file; the whole network has 32,048
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_REMOVED = "removed"


class Refused(ValueError):
    """An entry that is not judged; the message says why."""


def save(path: str | Path, model: nn.Module, removed: Collection[int]) -> None:
    """Write an entry: a network from which the channels ``removed`` were cut, and their ids.

    Args:
        model: what ``channels.remove`` made of ``models.inception()``, trained or not. Its numbers
            are saved as they are, so a network in float16 takes half of the bytes.

    Raises:
        Refused: the grader would refuse the entry.

    Examples:
        >>> import tempfile
        >>> from course_lib import models
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/entry.safetensors", models.inception(), set())
        Traceback (most recent call last):
        ...
        course_lib.grading.leaderboard.Refused: The entry has 32,048 bytes; at most 12,000 are allowed.
    """
    state = {name: t.detach().contiguous() for name, t in model.state_dict().items()}
    content = packed(state | {_REMOVED: torch.tensor(sorted(removed), dtype=torch.int64)})
    read(content)
    files.write(path, content)


def read(content: bytes) -> tuple[nn.Module, int]:
    """The network in an entry, in evaluation mode and float32, and its bytes as they were saved.

    Raises:
        Refused: anything that ``save`` does not write.
    """
    try:
        state = load(content)
    except Exception as error:  # noqa: BLE001 (whatever a parser may raise)
        raise Refused(f"The file cannot be read ({type(error).__name__}).") from None
    model = _rebuilt(state.pop(_REMOVED, None))
    _check(state, model)
    model.load_state_dict(state)
    size = sum(t.numel() * t.element_size() for t in state.values())
    if size > BUDGET:
        raise Refused(f"The entry has {size:,} bytes; at most {BUDGET:,} are allowed.")
    return model.eval(), size


def _rebuilt(removed: Tensor | None) -> nn.Module:
    """The network without the channels ``removed``, its layers with and without a bias as usual."""
    if removed is None or removed.dtype != torch.int64 or removed.dim() != 1:
        raise Refused(f"{_REMOVED!r} must be a list of ids, in int64.")
    model = models.inception()
    graph = channels.trace(model, torch.zeros(1, 1, 14, 14))
    dead = set(removed.tolist())
    if strange := sorted(dead - set(graph.ids())):
        raise Refused(f"There is no channel {strange[0]} that may be removed.")
    for name, ids in graph.layers().items():
        if dead >= set(ids):
            raise Refused(f"Layer {name!r} has no channel left.")
    return channels.remove(model, graph, dead)


def _check(state: dict[str, Tensor], model: nn.Module) -> None:
    """Refuse a state that does not fit; layers for which it has a bias get one."""
    for name in state:
        layer_name, _, kind = name.rpartition(".")
        layer: Any = dict(model.named_modules()).get(layer_name)
        if kind == "bias" and isinstance(layer, nn.Conv2d) and layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))  # as ``reconstruct`` adds it
    wanted = model.state_dict()
    if missing := sorted(wanted.keys() - state.keys()):
        raise Refused(f"The entry has no {missing[0]!r}.")
    if strange := sorted(state.keys() - wanted.keys()):
        raise Refused(f"The network has no {strange[0][:80]!r}.")
    for name, tensor in state.items():
        shape, kinds = wanted[name].shape, FLOATS
        if not wanted[name].is_floating_point():
            kinds = (torch.int64,)
        if tensor.shape != shape:
            raise Refused(
                f"{name!r} must have the shape {tuple(shape)}, not {tuple(tensor.shape)}."
            )
        if tensor.dtype not in kinds:
            raise Refused(f"{name!r} must be {' or '.join(map(str, kinds))}, not {tensor.dtype}.")
        if not tensor.isfinite().all():
            raise Refused(f"{name!r} has a number that is not finite.")
        if name.endswith("running_var") and (tensor < 0).any():
            raise Refused(f"{name!r} has a negative variance.")


@lru_cache(maxsize=2)
def fresh(seed: int) -> data.Split:
    """The glyphs of one run of the grader."""
    digest = hashlib.sha256(f"leaderboard {seed}".encode()).digest()
    return data.draw_glyphs(FRESH, seed=int.from_bytes(digest[:4]))


def card(model: nn.Module, size: int, glyphs: data.Split) -> dict[str, float]:
    """What an entry is worth: ``accuracy`` in percent, ``bytes``, and ``macs`` for one image."""
    accuracy = float(training.evaluate(model, glyphs))
    return {"accuracy": accuracy, "bytes": size, "macs": measure.macs(model, glyphs.x[:1])}


def content_of(path: Path) -> bytes:
    """The bytes of an entry.

    Raises:
        Refused: there is none, or it is a link, no file, or too large.
    """
    if not (path.exists() or path.is_symlink()):
        raise Refused(f"There is no {path.name} beside the notebook.")
    try:
        return extract.read(path, LARGEST)
    except extract.Unreadable as error:
        raise Refused(f"{path.name}: {error}") from None


def grade(path: Path, seed: int) -> dict[str, Any]:
    """The record of an entry, in the form of ``blackbox.grade``, with its card where it has one.

    Args:
        path: where the entry should lie.
        seed: of the run; the glyphs are drawn from it.
    """
    record = {"public": False, "hidden": None, "property": "is an entry that can be judged"}
    record |= {"facts": [], "stub": False, "seconds": 0.0}
    try:
        model, size = read(content_of(path))
    except Refused as error:
        return record | {"report": f"leaderboard: not judged. {error}"}
    found = card(model, size, fresh(seed))
    enough = math.isfinite(found["accuracy"]) and found["accuracy"] >= ENOUGH
    says = (
        f"leaderboard: right on {found['accuracy']:.2f} % of {FRESH:,} digits that were drawn for this "
        f"run, with {size:,} bytes and {found['macs']:,} multiplications per image."
    )
    says += "" if enough else f" The point needs {ENOUGH:g} %."
    missed = None if enough else f"is right on {ENOUGH:g} % of fresh digits"
    found_out = {"public": True, "hidden": enough, "property": missed, "report": says}
    return record | found_out | {"card": found}


def ranked(cards: dict[str, dict[str, float]]) -> list[str]:
    """The names, the best first: by accuracy, and where that is equal by fewer bytes.

    Examples:
        >>> ranked({"a": {"accuracy": 95.0, "bytes": 9000}, "b": {"accuracy": 95.0, "bytes": 8000}})
        ['b', 'a']
    """
    return sorted(cards, key=lambda name: (-cards[name]["accuracy"], cards[name]["bytes"], name))
