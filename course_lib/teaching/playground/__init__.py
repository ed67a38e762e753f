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
from course_lib.compression import coding, container, quantization
from course_lib.data import Split
from course_lib.pruning import allocate, channels, criteria, masks
from course_lib.pruning.criteria import Scores
from course_lib.teaching import page as front
from course_lib.teaching.quiz import Question, quiz
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
    "coding",
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
PRESETS = {  # anchors of the page, to which the lessons link -> state and question
    "living-criteria": {
        "state": {"criterion": "input", "allocation": "per_layer", "sparsity": 0.8},
        "question": "From Criteria: the inputs count here. Choose the smallest |w| instead. What changes?",
    },
    "living-prune-rate": {
        "state": {"allocation": "erdos_renyi", "sparsity": 0.95},
        "question": "From Prune rate: with which shares of the layers does the network still read the most images right?",
    },
    "living-sparse-training": {
        "state": {"criterion": "random", "allocation": "erdos_renyi", "sparsity": 0.95},
        "question": "From Sparse training: retrain a few epochs with and without moving the mask. Which is higher?",
    },
    "living-quantization": {
        "state": {"sparsity": 0.0, "bits": 4},
        "question": "From Quantization: nothing is removed here. With how few bits does the network still read?",
    },
}
BITS = (32, 8, 7, 6, 5, 4, 3, 2)
FRACTION = 0.3  # of each layer's weights that SET moves at a time
EVERY = 5  # steps between two moves
STARTS = ("cut", "random")  # what trains: the rest of a ranking, or weights chosen by chance
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
WORDS = {  # what a reader has to know to choose
    "Weight, |w|": "A number by which a unit multiplies what it gets. |w| is its size without its sign.",
    "Unit": (
        "The network has 100 hidden units in its first layer and 50 in its second. A unit adds up what it "
        "gets, times its weights, and passes the sum on if it is above zero."
    ),
    "‖x‖": "How strong the input of a weight is, over the 2,000 training images together.",
    "Gradient": "How fast the network's error changes with a weight. Times w, it estimates what removal costs.",
    "One ranking of all": "The layers compete: the lowest scores go, whichever layer they are in.",
    "Erdős–Rényi shares": "A small layer keeps a larger share of its weights than a large one.",
    "Bits per weight": (
        "With b bits, the weights of a layer have at most 2 to the power of b different values. With 32 they stay "
        "as they are."
    ),
}


TOUR = (  # what to set the page to, what to predict before, and where to look; `figures` knows the numbers
    (
        "sparsity=0.5",
        (
            "The dense network reads {dense:.1f} % of the test images right. Half of its weights are removed, "
            "the smallest first, and nothing is trained afterwards. What does it read then?"
        ),
        (
            ("About half as many", "Half of the weights do not do half of the work."),
            ("Almost as many", "It reads {half:.1f} %. The smallest weights do little."),
            ("One in ten, as by chance", "The largest weights are all still there."),
        ),
        1,
        "said",
    ),
    (
        "sparsity=0.5&criterion=random",
        "Half of the weights are removed again, but now at random. What does it read?",
        (
            ("As many as before", "Then it would not matter which weights go."),
            ("More than before", "Then small weights would be the better ones to keep."),
            ("Far fewer", "It reads {luck:.1f} %, and with the smallest removed {half:.1f} %."),
        ),
        2,
        "said",
    ),
    (
        "sparsity=0.9",
        "One ranking of all weights removes 90 %. Which layer keeps the smallest share?",
        (
            (
                "The first, with 19,600 weights",
                "The layers keep {stay[0]:.0f}, {stay[1]:.0f} and {stay[2]:.0f} % of their weights.",
            ),
            ("The last, with 500 weights", "It keeps {stay[2]:.0f} %, the largest share."),
            ("All keep the same share", "That is the second choice under “From which layers?”."),
        ),
        0,
        "tiles-said",
    ),
    (
        "sparsity=0.5&structure=units&allocation=per_layer",
        "Half of the hidden units of each layer go, instead of half of the weights. What is left?",
        (
            ("As many right answers", "Whole units also take weights with them that were large."),
            (
                "Somewhat fewer right answers",
                (
                    "It reads {units:.1f} %, and without half of the weights {half:.1f} %. But its layers "
                    "are really smaller."
                ),
            ),
            ("Hardly any", "The strongest units of each layer remain."),
        ),
        1,
        "said",
    ),
    (
        "sparsity=0.9",
        (
            "90 % of the weights are removed, and the file has {bytes:,} bytes. A small dense network whose file "
            "is no longer reads {small:.1f} % right. Retrain the pruned network for one epoch. Where does it end?"
        ),
        (
            ("Below the small network", "It keeps what the large network has learnt."),
            ("Above the dense network", "It has a tenth of the weights."),
            ("Between the two", "One epoch brings most of the accuracy back, and not all of it."),
        ),
        2,
        "retrain",
    ),
    (
        "sparsity=0&bits=4",
        (
            "Nothing is removed, but every layer's weights are rounded to 16 points: 4 bits. What does the "
            "network read?"
        ),
        (
            (
                "A few points fewer at most",
                "It reads {bits[4]:.1f} % with 4 bits, and {bits[2]:.1f} % with 2. Compare the files.",
            ),
            (
                "Far fewer: it needs 8 bits",
                "It reads {bits[8]:.1f} % with 8 bits and {bits[4]:.1f} % with 4.",
            ),
            ("One in ten, as by chance", "Sixteen points tell large weights from small ones."),
        ),
        0,
        "said",
    ),
)


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


def opponents() -> list[dict[str, Any]]:
    """Of each small dense network: hidden units, weights, and by bits longest file and mean accuracy."""
    found, shown = recorded(), []
    rows = zip(found["opponents"], found["opponents_bytes"], found["opponents_right"], strict=True)
    for (*units, weights), sizes, read in rows:
        of_bits = zip(BITS, sizes.max(1), read.mean(1), strict=True)
        by_bits = {bits: (int(size), round(float(right), 2)) for bits, size, right in of_bits}
        shown.append(
            {
                "units": [*map(int, units)],
                "weights": int(weights),
                "bytes": {bits: size for bits, (size, _) in by_bits.items()},
                "right": {bits: right for bits, (_, right) in by_bits.items()},
            }
        )
    return shown


def settings() -> dict[str, Any]:
    """What the modules have to know besides the numbers of ``packed``."""
    found = recorded()
    return {
        "sizes": SIZES,
        "train": len(found["train"]),
        "test": len(found["test"]),
        "rates": {
            start: {"still": float(still[0]), "moving": float(moving[0])}
            for start, (still, moving) in zip(STARTS, found["rates"], strict=True)
        },
        "moves": {"fraction": FRACTION, "every": EVERY},
        "opponents": opponents(),
        "fingerprint": list(container.fingerprint(container.tensors(network()))),
        "bits": BITS,
        "start": START | {"image": first_spoilt()},
        "presets": PRESETS,
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
        cells = "".join(f"<td>{right(cut(name, s)):.1f} %</td>" for name in words)
        rows.append(f'<tr><th scope="row">{100 * s:.0f} %</th>{cells}</tr>')
    after = cut(START["criterion"], START["sparsity"])
    left = int(after.get_parameter("fc1.weight").count_nonzero())
    alt = (
        f"The first layer after {100 * START['sparsity']:.0f} % of all weights are removed by magnitude: 100 "
        f"tiles of 14 × 14 weights, one for each unit, in which {left:,} of 19,600 weights are black."
    )
    return (
        f'<details class="still" open><summary>A picture and a table, for a browser without JavaScript</summary>'
        f"{pixels(tiles(after), alt, scale=2)}\n"
        f"<table><caption>{len(images('test').y):,} test images read right, as cut, one ranking "
        f'of all layers</caption><thead><tr><th scope="col">removed</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></details>"
    )


def rounded(net: nn.Module, bits: int) -> nn.Module:
    """The network with weights of so many bits, one scale for each layer. 32 bits change nothing."""
    return net if bits == 32 else quantization.ptq(net, bits, per_channel=False)


def file_bytes(net: nn.Module) -> int:
    """The size of the file that ``coding.save`` would write, and the page writes."""
    return sum(size for parts in coding.sizes(net).values() for size in parts.values())


def right(net: nn.Module) -> float:
    """The accuracy in percent on the page's test images."""
    return float(training.evaluate(net, images("test")))


def half_of_the_units() -> float:
    """The accuracy without half of the hidden units of each layer, the weakest by magnitude."""
    net = network()
    graph = channels.trace(net, images("test").x[:1])
    strength = [net.get_parameter(f"fc{i}.weight").detach().abs().mean(1) for i in (1, 2)]
    dead = channels.weakest(graph, torch.cat(strength), 0.5)
    return right(channels.silence(net, graph, dead))


def figures() -> dict[str, Any]:
    """The numbers that the tour tells, measured on the page's test images."""
    after = cut("magnitude", 0.9)
    weights = [after.get_parameter(f"fc{i}.weight") for i in (1, 2, 3)]
    size = file_bytes(after)
    return {
        "dense": right(network()),
        "half": right(cut("magnitude", 0.5)),
        "luck": right(cut("random", 0.5)),
        "units": half_of_the_units(),
        "stay": [100 * float(weight.ne(0).float().mean()) for weight in weights],
        "bytes": size,
        "small": [one["right"][32] for one in opponents() if one["bytes"][32] <= size][-1],
        "bits": {bits: right(rounded(network(), bits)) for bits in (8, 4, 2)},
    }


def tour() -> str:
    """The guided tour: predict, then set the page to the state and look."""
    numbers, items = figures(), []
    for n, (state, text, options, answer, look) in enumerate(TOUR, start=1):
        filled = [(option, feedback.format(**numbers)) for option, feedback in options]
        asked = front.bare(quiz(Question(text.format(**numbers), filled, answer)).data or "")
        asked = asked.replace("Question 1.", f"Question {n}.")  # each is a quiz of its own
        items.append(
            f'<li>{asked}<button type="button" data-state="{html.escape(state)}" data-look="{look}" '
            "hidden>Set the page to this and look</button></li>"
        )
    return (
        '<p class="title" id="living-tour">Six questions</p>\n<p>Predict first. Opening an option says whether it '
        f'is right.</p>\n<ol class="tour">{"".join(items)}</ol>'
    )


def words() -> str:
    """The words of the page's questions, explained."""
    made = "".join(f"<dt>{html.escape(word)}</dt><dd>{text}</dd>" for word, text in WORDS.items())
    return f"<dl>{made}</dl>"


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
        "words": words(),
        "tour": tour(),
        "settings": json.dumps(settings()),
        "numbers": packed(),
        "modules": script(),
        "css": CSS,
    } | {name: choices(name) for name in CHOICES}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], filled)
