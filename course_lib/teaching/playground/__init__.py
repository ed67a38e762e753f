"""A network of the course that the reader prunes and trains on the page itself.

The page holds the network's weights, some thousand glyphs and a few small JavaScript modules that
prune, train and round as the library does. ``network`` and ``images`` give the same network and the
same images to Python.
"""

import base64
import html
import json
import re
import warnings
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import models, training
from course_lib.compression import container
from course_lib.data import Split
from course_lib.pruning import allocate, criteria, masks
from course_lib.pruning.criteria import Scores
from course_lib.teaching.scrub import pixels

_HERE = Path(__file__).parent
FILE = _HERE / "recorded.npz"
SIZES = (196, 100, 50, 10)
CSS = (_HERE / "playground.css").read_text("utf-8")
MODULES = (
    "numbers",
    "network",
    "prune",
    "change",
    "draw",
    "unpack",
    "state",
    "view",
    "train",
    "start",
)
START: dict[
    str, Any
] = {  # what the page shows before anything is touched; the image is the first that the cut spoils
    "criterion": "magnitude",
    "allocation": "globally",
    "structure": "weights",
    "sparsity": 0.9,
    "bits": 32,
}
BITS = (32, 8, 7, 6, 5, 4, 3, 2)
FRACTION = 0.3  # of each layer's weights that SET moves at a time
CHOICES = {
    "criterion": (
        "Which weights go first?",
        {
            "magnitude": "the smallest, |w|",
            "random": "random ones",
            "input": "smallest |w| · ‖x‖",
            "taylor": "smallest (w · gradient)²",
        },
    ),
    "allocation": (
        "From which layers?",
        {
            "globally": "one ranking of all",
            "per_layer": "the same share of each",
            "erdos_renyi": "Erdős–Rényi shares",
        },
    ),
    "structure": (
        "What is removed?",
        {"weights": "single weights", "units": "whole hidden units"},
    ),
}


@lru_cache(maxsize=1)
def recorded() -> dict[str, np.ndarray]:
    """What ``record`` wrote: name -> array."""
    with np.load(FILE) as file:
        return dict(file)


def network() -> nn.Sequential:
    """The page's network, trained: an MLP with 25,100 weights."""
    net = models.mlp(SIZES)
    state = {name: torch.from_numpy(recorded()[name]).float() for name in net.state_dict()}
    net.load_state_dict(state)
    return net


def images(part: str) -> Split:
    """The page's images, with 16 shades of grey.

    Args:
        part: ``train`` or ``test``.

    Raises:
        ValueError: another part.
    """
    if part not in ("train", "test"):
        raise ValueError(f"part must be 'train' or 'test', got {part!r}")
    x = torch.from_numpy(recorded()[part]).float() / 15
    return Split(x.view(-1, 1, 14, 14), torch.from_numpy(recorded()[f"{part}_labels"]).long())


def script() -> str:
    """The page's modules as one module, which a blob can hold: files may not import files."""
    texts = [(_HERE / f"{name}.js").read_text("utf-8") for name in MODULES]
    return re.sub(r"^import [^;]*;\n", "", "\n".join(texts), flags=re.MULTILINE)


def packed() -> str:
    """Parameters, images and labels in base64: float16, four bits per pixel, one byte per label."""
    found = recorded()
    parts = [found[name] for name in models.mlp(SIZES).state_dict()]
    for part in ("train", "test"):
        parts += [found[part][:, ::2] << 4 | found[part][:, 1::2], found[f"{part}_labels"]]
    return base64.b64encode(zlib.compress(b"".join(p.tobytes() for p in parts), 9)).decode()


def settings() -> dict[str, object]:
    """What the modules have to know besides the numbers of ``packed``."""
    found = recorded()
    return {
        "sizes": SIZES,
        "train": len(found["train"]),
        "test": len(found["test"]),
        "rate": float(found["rate"]),
        "opponents": [[*map(int, row[:3]), float(row[3:].mean())] for row in found["opponents"]],
        "fingerprint": list(container.fingerprint(container.tensors(network()))),
        "bits": BITS,
        "fraction": FRACTION,
        "start": START | {"image": first_spoilt()},
    }


def scores(name: str) -> Scores:
    """The scores of one of the page's four criteria, on its training images where it needs some.

    Raises:
        ValueError: another criterion.
    """
    net, train = network(), images("train")
    known: dict[str, Callable[[], Scores]] = {
        "magnitude": lambda: criteria.magnitude(net),
        "random": lambda: criteria.random(net, seed=0),
        "input": lambda: fed(net, train.x),
        "taylor": lambda: criteria.taylor(net, train),
    }
    if name not in known:
        raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}")
    return known[name]()


def fed(net: nn.Sequential, x: Tensor) -> Scores:
    r"""The score :math:`|w| \cdot \lVert x \rVert` of each weight: the norm of its input is over all images."""
    found = {}
    with torch.no_grad():
        for name, layer in net.named_children():
            if isinstance(layer, nn.Linear):
                found[f"{name}.weight"] = layer.weight.abs() * x.norm(dim=0)
            x = layer(x)
    return found


@lru_cache(maxsize=64)
def cut(name: str, sparsity: float) -> nn.Sequential:
    """The page's network after one global cut by a criterion."""
    net = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # near 100 % a layer may lose everything: the page says so
        masks.apply(net, allocate.globally(scores(name), sparsity))
    return net


def first_spoilt() -> int:
    """The first test image that the dense network reads right and the network of ``START`` does not."""
    x, y = images("test")
    after = cut(START["criterion"], START["sparsity"])
    return int((network()(x).argmax(1).eq(y) & after(x).argmax(1).ne(y)).nonzero()[0])


def tiles(net: nn.Sequential) -> np.ndarray:
    """The weights of the first layer that are not zero, as a picture: a tile per unit, 20 in a row."""
    there = net.get_parameter("fc1.weight").detach().numpy().reshape(5, 20, 14, 14) != 0
    framed = np.pad(there * 1.0, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.25)
    return framed.transpose(0, 2, 1, 3).reshape(5 * 16, 20 * 16)


def still() -> str:
    """What the page says without JavaScript: a picture, and a table of the accuracies."""
    sparsities = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
    words = CHOICES["criterion"][1]
    head = "".join(f'<th scope="col">{html.escape(words[name])}</th>' for name in words)
    rows = []
    for s in sparsities:
        right = (training.evaluate(cut(name, s), images("test")) for name in words)
        cells = "".join(f"<td>{float(value):.1f} %</td>" for value in right)
        rows.append(f'<tr><th scope="row">{s:.0%}</th>{cells}</tr>')
    after = cut(START["criterion"], START["sparsity"])
    left = int(after.get_parameter("fc1.weight").count_nonzero())
    alt = (
        f"The first layer after {START['sparsity']:.0%} of all weights are removed by magnitude: 100 "
        f"tiles of 14 × 14 weights, one for each unit, in which {left:,} of 19,600 weights are black."
    )
    return (
        f'<details class="still" open><summary>A picture and a table that need no script</summary>'
        f"{pixels(tiles(after), alt, scale=2)}\n"
        f"<table><caption>{len(images('test').y):,} test images read right, as cut, one ranking "
        f'of all layers</caption><thead><tr><th scope="col">removed</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></details>"
    )


def choices(name: str) -> str:
    """One of the page's questions, with a button for each answer."""
    legend, answers = CHOICES[name]
    made = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"> <span>{words}</span></label>'
        for value, words in answers.items()
    )
    return f"<fieldset><legend>{legend}</legend>{made}</fieldset>"


def slider(name: str, label: str, ends: str) -> str:
    """One of the page's sliders."""
    return (
        f'<label class="slider">{label} <b data-part="{name}-shown" aria-hidden="true"></b>'
        f'<input type="range" data-part="{name}" {ends}></label>'
    )


def page() -> str:
    """The playground as HTML, complete: it loads nothing."""
    filled = (_HERE / "playground.html").read_text("utf-8")
    parts = {
        "still": still(),
        "digits": "".join(f"<option>{digit}</option>" for digit in range(10)),
        "sparsity": slider("sparsity", "How much is removed?", 'min="0" max="1" step="0.005"'),
        "bits": slider("bits", "Bits per weight", f'min="0" max="{len(BITS) - 1}" step="1"'),
        "settings": json.dumps(settings()),
        "numbers": packed(),
        "modules": script(),
        "css": CSS,
    } | {name: choices(name) for name in CHOICES}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], filled)
