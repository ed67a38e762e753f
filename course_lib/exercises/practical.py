"""The exercises of the practical: build an Inception network and prune it.

Each task is a function of plain tensors, numbers and dictionaries, so that it can be tried on other
widths, sizes and seeds than those of the notebook. The tenth task is a file (``grading.leaderboard``).
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.exercises.common import draw, dyadic, first_that, kind, not_floats, pick
from course_lib.exercises.exercise import UNCHANGED, Exercise, Property, show

_LESSON = "lesson The practical: build an Inception network and prune it, section “{}”"
EPS = 1e-5  # of batch norm, torch's own


def _far(returned: Tensor, wanted: Tensor) -> bool:
    """Whether an entry differs by more than the tolerance, which the page states."""
    return not torch.allclose(returned.double(), wanted.double(), rtol=1e-4, atol=1e-4)


def _whole(value: object) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


def _number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(float(value))  # pyright: ignore


# ---- 1 · convolution, batch norm, ReLU


def conv_bn_relu(x: Tensor, weight: Tensor, norm: dict[str, Tensor]) -> Tensor:
    """(b, c_in, h, w) -> (b, c_out, h, w): convolution, batch norm in evaluation mode, ReLU."""
    z = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    mean, var = norm["running_mean"], norm["running_var"]
    return F.batch_norm(z, mean, var, norm["weight"], norm["bias"]).relu()


def _norm(channels: int, generator: torch.Generator, var: float = 1.0) -> dict[str, Tensor]:
    """The tensors of a batch norm, no two channels alike."""
    return {
        "weight": 0.5 + torch.rand(channels, generator=generator),
        "bias": torch.randn(channels, generator=generator) / 2,
        "running_mean": torch.randn(channels, generator=generator) / 2,
        "running_var": var * (0.5 + torch.rand(channels, generator=generator)),
    }


def _layer(c_in: int, c_out: int, kernel: int, generator: torch.Generator) -> Tensor:
    """Weights in steps of 1/256, so that float32 adds the products with short inputs exactly."""
    weight = torch.randn(c_out, c_in, kernel, kernel, generator=generator)
    return (weight * (256 / math.sqrt(c_in * kernel**2))).round() / 256


def _conv_cases() -> Iterator[tuple]:
    names = ("weight", "bias", "running_mean", "running_var")
    plain = {name: torch.ones(1) for name in names}
    yield torch.tensor([[[[3.0, 0.5]]]]), torch.ones(1, 1, 1, 1), plain
    g = torch.Generator().manual_seed(7)
    for kernel in (1, 3, 5, 7):
        for b, c_in, c_out, more in ((1, 1, 2, 0), (2, 3, 2, 1), (2, 2, 4, 3)):
            x = draw((b, c_in, kernel + more, kernel), g)
            yield x, _layer(c_in, c_out, kernel, g), _norm(c_out, g)
    for var in (1e-5, 1e4):  # without the ε of batch norm the first of them is larger
        yield draw((2, 2, 4, 4), g), _layer(2, 3, 3, g) * var**0.5, _norm(3, g, var)
    norm = _norm(3, g)
    norm["weight"] *= torch.tensor([-1.0, 0.0, 1.0])  # γ is learnt, and may have any sign
    yield dyadic((2, 2, 4, 4), g), _layer(2, 3, 3, g), norm
    yield dyadic((3, 8, 14, 14), g), _layer(8, 6, 5, g), _norm(6, g)


def _conv_shape(returned: object, x: Tensor, weight: Tensor, _: dict) -> str | None:
    return not_floats(returned, x.new_empty(len(x), len(weight), *x.shape[2:]))


def _negative(returned: Tensor, *_: object) -> str | None:
    low = float(returned.min())
    return None if low >= 0 else f"nothing below 0, got {low:g}"


def _wrong_conv(returned: Tensor, *inputs: Any) -> str | None:
    wanted = conv_bn_relu(*inputs)
    return show(wanted) if _far(returned, wanted) else None


CONV = Exercise(
    name="conv_bn_relu",
    signature="conv_bn_relu(x, weight, norm)",
    section=_LESSON.format("Task 1 · One layer"),
    cases=_conv_cases,
    expected=conv_bn_relu,
    properties=(
        Property(
            "returns a float tensor of shape (images, filters, height, width)",
            _conv_shape,
            "Height and width stay as they are. A kernel of 1, 3 or 5 needs a padding of 0, 1 or 2 on "
            "every side, and a stride of 1.",
        ),
        Property(
            "has no negative entry",
            _negative,
            "ReLU comes last. If it stands before the batch norm, β makes some entries negative again.",
        ),
        Property(
            "is the ReLU of the normalised convolution",
            _wrong_conv,
            "Batch norm in evaluation mode subtracts the running mean, divides by √(running variance "
            "+ ε) with ε = 1e-5, multiplies by γ (norm['weight']) and adds β (norm['bias']).",
        ),
        UNCHANGED,
    ),
)


# ---- 2 · four branches

BRANCHES = ("one", "three", "five", "pool")


def _part(state: dict[str, Tensor], name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The kernel and the batch norm of one layer of a block."""
    names = ("weight", "bias", "running_mean", "running_var")
    return state[f"{name}.0.weight"], {n: state[f"{name}.1.{n}"] for n in names}


def branches(x: Tensor, state: dict[str, Tensor], conv: Callable) -> dict[str, Tensor]:
    """What each of the four branches gives."""
    pooled = F.max_pool2d(x, 3, stride=1, padding=1)
    three = conv(x, *_part(state, "three.0"))
    five = conv(x, *_part(state, "five.0"))
    return {
        "one": conv(x, *_part(state, "one")),
        "three": conv(three, *_part(state, "three.1")),
        "five": conv(five, *_part(state, "five.1")),
        "pool": conv(pooled, *_part(state, "pool.1")),
    }


def inception_block(x: Tensor, state: dict[str, Tensor], conv: Callable) -> Tensor:
    """(b, c_in, h, w) -> (b, channels of all four branches, h, w)."""
    return torch.cat([*branches(x, state, conv).values()], dim=1)


def block_state(
    c_in: int, widths: tuple[int, ...], generator: torch.Generator
) -> dict[str, Tensor]:
    """The state_dict of an Inception block with any widths, drawn at random.

    ``widths`` are those of the 1×1 layer, of the two layers of the 3×3 branch, of the two of the 5×5
    branch, and of the layer behind the pooling.
    """
    one, three, three_out, five, five_out, pool = widths
    state: dict[str, Tensor] = {}
    for name, into, out, kernel in (
        ("one", c_in, one, 1),
        ("three.0", c_in, three, 1),
        ("three.1", three, three_out, 3),
        ("five.0", c_in, five, 1),
        ("five.1", five, five_out, 5),
        ("pool.1", c_in, pool, 1),
    ):
        state[f"{name}.0.weight"] = _layer(into, out, kernel, generator)
        state |= {f"{name}.1.{key}": value for key, value in _norm(out, generator).items()}
        state[f"{name}.1.num_batches_tracked"] = torch.tensor(1)
    return state


def _drawn_widths(generator: torch.Generator, most: int = 5) -> tuple[int, ...]:
    return tuple(pick(most, generator) for _ in range(6))


def _block_cases() -> Iterator[tuple]:
    g = torch.Generator().manual_seed(11)
    yield torch.randn(1, 1, 3, 3, generator=g), block_state(1, (1,) * 6, g), conv_bn_relu
    for shape in ((1, 2, 4, 4), (2, 3, 7, 7), (2, 4, 3, 6), (1, 5, 5, 5)):
        x = torch.randn(shape, generator=g)
        yield x, block_state(shape[1], _drawn_widths(g), g), conv_bn_relu
    for _ in range(2):  # two inputs of the same shapes
        yield torch.randn(2, 8, 7, 7, generator=g), block_state(8, (6,) * 6, g), conv_bn_relu


def _block_shape(returned: object, x: Tensor, state: dict, conv: Callable) -> str | None:
    return not_floats(returned, inception_block(x, state, conv))


def _branch(name: str, words: str, hint: str) -> Property:
    """The property that the channels of one branch are right and in their place."""

    def demand(returned: Tensor, x: Tensor, state: dict, conv: Callable) -> str | None:
        wanted, start = branches(x, state, conv), 0
        for branch, values in wanted.items():
            if branch == name:
                break
            start += values.shape[1]
        stop = start + wanted[name].shape[1]
        if not _far(returned[:, start:stop], wanted[name]):
            return None
        return f"in channels {start} to {stop - 1} (branch {name!r}): {show(wanted[name])}"

    return Property(f"has {words} in its place", demand, hint)


INCEPTION = Exercise(
    name="inception_block",
    signature="inception_block(x, state, conv)",
    section=_LESSON.format("Task 2 · Four branches"),
    cases=_block_cases,
    expected=inception_block,
    properties=(
        Property(
            "returns the channels of all four branches, height and width unchanged",
            _block_shape,
            "Join the four results by torch.cat along axis 1. The pooling has stride 1 and padding 1; "
            "a pooling's usual stride is its kernel size.",
        ),
        _branch(
            "one",
            "the 1×1 branch",
            "The order is one, three, five, pool. The first branch is one layer, 'one'.",
        ),
        _branch(
            "three",
            "the 3×3 branch",
            "Two layers, one behind the other: 'three.0' reads x, and 'three.1' reads what that gave.",
        ),
        _branch(
            "five",
            "the 5×5 branch",
            "Two layers, one behind the other: 'five.0' reads x, and 'five.1' reads what that gave.",
        ),
        _branch(
            "pool",
            "the pooling branch",
            "Max pooling reads x, and the layer 'pool.1' reads what the pooling gave.",
        ),
        UNCHANGED,
    ),
)


# ---- 3 · what a block costs


def block_cost(c_in: int, widths: tuple[int, ...], height: int, width: int) -> tuple[int, int]:
    """(parameters, multiply–accumulates for one image) of an Inception block."""
    one, three, three_out, five, five_out, pool = widths
    weights = c_in * (one + three + five + pool) + 9 * three * three_out + 25 * five * five_out
    return weights + 2 * sum(widths), weights * height * width


def _cost_cases() -> Iterator[tuple]:
    yield 2, (1, 1, 1, 1, 1, 1), 1, 1
    yield 1, (1, 1, 1, 1, 1, 1), 3, 2
    yield 16, (6, 6, 6, 6, 6, 6), 7, 7
    yield 24, (8, 8, 8, 8, 8, 8), 3, 3
    yield 192, (64, 96, 128, 16, 32, 32), 28, 28
    g = torch.Generator().manual_seed(3)
    for most in (3, 3, 9, 9, 40, 200):
        yield pick(most, g), _drawn_widths(g, most), pick(9, g), pick(9, g)
    yield 24, (8, 7, 9, 6, 10, 5), 3, 3  # other widths, and all else as in a case above
    yield 1023, (511,) * 6, 224, 224  # more MACs than 32 bits can count
    yield 4097, (1023, 1021, 1019, 1013, 1009, 997), 3, 5  # parameters that float32 cannot hold


def _two_numbers(returned: object, *_: object) -> str | None:
    if isinstance(returned, Tensor) and returned.shape == (2,):
        returned = tuple(returned.tolist())
    if type(returned) is tuple and len(returned) == 2 and all(map(_whole, returned)):
        return None
    return f"a pair of whole numbers (parameters, MACs), got {show(returned)}"


def _cost(place: int, what: str) -> Callable[..., str | None]:
    def demand(returned: Any, *inputs: Any) -> str | None:
        wanted = block_cost(*inputs)[place]
        return None if int(returned[place]) == wanted else f"{wanted} {what}"

    return demand


COST = Exercise(
    name="block_cost",
    signature="block_cost(c_in, widths, height, width)",
    section=_LESSON.format("Task 3 · What a block costs"),
    cases=_cost_cases,
    expected=block_cost,
    properties=(
        Property(
            "returns two whole numbers",
            _two_numbers,
            "Return the tuple (parameters, MACs).",
        ),
        Property(
            "counts the parameters",
            _cost(0, "parameters"),
            "A k×k convolution from c to d channels has k²·c·d weights and here no bias; its batch norm "
            "has a γ and a β per channel. The second layer of a branch reads what the first one gives, "
            "not c_in.",
        ),
        Property(
            "counts the MACs",
            _cost(1, "MACs"),
            "Every weight of a convolution is used once at each of the height × width places. What "
            "batch norm does is not counted.",
        ),
    ),
)


# ---- 4 · who reads a filter


def readers(
    makes: dict[str, list[int]], reads: dict[str, list[int]], layer: str, filter: int
) -> dict[str, list[int]]:
    """Consumer -> the positions among its inputs at which it reads one filter of ``layer``."""
    wanted = makes[layer][filter]
    found = {
        name: [place for place, i in enumerate(ids) if i == wanted] for name, ids in reads.items()
    }
    return {name: places for name, places in found.items() if places}


def _ids(count: int, next_id: list[int]) -> list[int]:
    next_id[0] += count
    return list(range(next_id[0] - count, next_id[0]))


def _inception_graph(
    widths: tuple[tuple[int, ...], ...], stem: int, places: int, start: int
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """``makes`` and ``reads`` of an Inception network, as ``channels.trace`` finds them.

    Args:
        widths: six for each block.
        stem: channels that the first block reads.
        places: positions that ``flatten`` makes of a map.
        start: the first id, that of the image's one channel.
    """
    next_id = [start]
    reads = {"stem.0": _ids(1, next_id)}
    makes = {"stem.0": _ids(stem, next_id)}
    joined = makes["stem.0"]
    for number, (one, three, three_out, five, five_out, pool) in enumerate(widths, 1):
        ends = []
        for name, sizes in (
            ("one.0", (one,)),
            ("three.{}.0", (three, three_out)),
            ("five.{}.0", (five, five_out)),
            ("pool.1.0", (pool,)),
        ):
            given = joined
            for step, size in enumerate(sizes):
                full = f"block{number}.{name.format(step)}"
                reads[full], makes[full] = list(given), _ids(size, next_id)
                given = makes[full]
            ends += given
        joined = ends
    reads["fc"] = [i for i in joined for _ in range(places)]
    makes["fc"] = _ids(3, next_id)
    return makes, reads


def _summed_graph(generator: torch.Generator) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """A residual network: the two layers that are added make the same ids."""
    n = 1 + pick(3, generator)
    image, same, inner, last = [0], list(range(5, 5 + n)), list(range(20, 20 + n)), [40, 41]
    makes = {"stem": same, "first": inner, "second": [*same], "fc": last}
    return makes, {"stem": image, "first": [*same], "second": [*inner], "fc": [*same]}


def _reader_cases() -> Iterator[tuple]:
    yield {"a": [1, 2], "b": [3]}, {"a": [0], "b": [1, 2]}, "a", 1
    yield {"a": [1, 2], "b": [3]}, {"a": [0], "b": [2, 1, 2, 1]}, "a", 0  # joined twice
    yield {"a": [2, 1], "b": [3]}, {"a": [0], "b": [1, 2]}, "a", 1
    yield {"a": [1, 2], "b": [3]}, {"b": [1, 2], "a": [0]}, "a", 1  # who reads comes first
    same = {"a": [1, 2], "b": [1, 2], "c": [3]}  # what b makes is added to what it reads
    yield same, {"a": [0], "b": [1, 2], "c": [1, 2]}, "b", 1
    yield {"a": [7, 2, 5], "b": [9]}, {"a": [0], "b": [2, 5, 7], "c": [9, 5]}, "a", 2
    yield {"a": [0, 1], "b": [2]}, {"a": [3], "b": [1, 0]}, "a", 0  # an id of 0 is False
    g = torch.Generator().manual_seed(5)

    def asked(graph: tuple[dict, dict], layer: str | None = None) -> tuple:
        makes, reads = graph
        layer = layer or pick(tuple(makes), g)
        return makes, reads, layer, pick(len(makes[layer]), g) - 1

    small = _inception_graph((_drawn_widths(g, 2),), 2, 2, 0)
    for layer in ("stem.0", "block1.one.0", "block1.three.0.0", "block1.three.1.0", "fc"):
        yield asked(small, layer)
    yield asked(_summed_graph(g), "stem")
    yield asked(_summed_graph(g), "second")
    for most, places in ((3, 1), (3, 4), (4, 9), (8, 9)):
        blocks = (_drawn_widths(g, most), _drawn_widths(g, most))
        graph = _inception_graph(blocks, 1 + pick(most, g), places, pick(50, g))
        for layer in (None, None, "block1.five.1.0", "block2.pool.1.0"):
            yield asked(graph, layer)


def _listed(places: object) -> list | None:
    """Positions as a list, of whatever kind of sequence."""
    if isinstance(places, Tensor) and places.dim() == 1:
        places = places.tolist()
    if isinstance(places, set):
        places = sorted(places)
    if isinstance(places, tuple | list) and all(type(p) is int for p in places):
        return list(places)
    return None


def _not_readers(returned: object, makes: dict, reads: dict, *_: object) -> str | None:
    wanted = "a dictionary: layer -> list of positions"
    if not isinstance(returned, dict):
        return f"{wanted}, got {kind(returned)}"
    for name, places in returned.items():
        if name not in reads or _listed(places) is None:
            return f"{wanted}, got the entry {show(name)}: {show(places)}"
    return None


def _wrong_layers(returned: dict, *inputs: Any) -> str | None:
    wanted = readers(*inputs)
    if set(returned) == set(wanted):
        return None
    return f"the layers {show(sorted(wanted))}, got {show(sorted(returned))}"


def _wrong_places(returned: dict, *inputs: Any) -> str | None:
    for name, places in readers(*inputs).items():
        if _listed(returned[name]) != places:
            return f"{show(name)}: {show(places)}, got {show(returned[name])}"
    return None


READERS = Exercise(
    name="readers",
    signature="readers(makes, reads, layer, filter)",
    section=_LESSON.format("Task 4 · Who reads this filter?"),
    cases=_reader_cases,
    expected=readers,
    properties=(
        Property(
            "returns a dictionary of lists of positions",
            _not_readers,
            "The keys are names of layers in reads, and each value is a list of whole numbers.",
        ),
        Property(
            "names the layers that read the filter, and no others",
            _wrong_layers,
            "makes[layer][filter] is the filter's id. Look for that id in every list of reads; leave "
            "out layers that do not have it. A filter's number is not its id.",
        ),
        Property(
            "gives every position at which a layer reads it",
            _wrong_places,
            "A position counts from 0 in the consumer's own list. Behind flatten an id stands there "
            "several times.",
        ),
        UNCHANGED,
    ),
)


# ---- 5 · which channels go


def choose(layers: dict[str, list[int]], scores: dict[int, float], share: float) -> set[int]:
    """In every layer, ``round(share * n)`` of its n ids: those of the lowest scores, never all."""
    dead = set()
    for ids in layers.values():
        count = min(round(share * len(ids)), len(ids) - 1)
        by_score = sorted(ids, key=lambda i: (scores[i], -i))
        dead.update(by_score[:count])
    return dead


def _choose_cases() -> Iterator[tuple]:
    yield {"a": [1, 2, 3, 4]}, {1: 0.9, 2: 0.1, 3: 0.8, 4: 0.2}, 0.5
    yield {"a": [7, 8], "b": [9]}, {7: 0.5, 8: 0.25, 9: 0.0}, 0.5
    yield {"a": [3, 4, 5]}, dict.fromkeys((3, 4, 5), 1.0), 0.34
    yield {"a": [0, 1], "b": [2]}, {0: 0.25, 1: 0.5, 2: 0.75}, 0.5  # an id of 0
    g = torch.Generator().manual_seed(9)
    for share in (0.0, 0.25, 0.5, 0.5, 0.7, 0.9, 1.0, 0.3, 0.75):
        start, layers = pick(20, g), {}
        for name in ("stem.0", "block1.one.0", "block1.five.0.0", "block1.five.1.0"):
            n = pick((1, 2, 3, 4, 5, 6, 8), g)
            layers[name] = list(range(start, start + n))
            start += n
        ids = [i for part in layers.values() for i in part]
        coarse = share in (0.25, 0.75, 0.7)  # many equal scores
        drawn = draw((len(ids),), g) if coarse else torch.randn(len(ids), generator=g)
        yield layers, dict(zip(ids, drawn.tolist(), strict=True)), share
    gaps = {"a": [2, 5, 11, 12], "b": [20, 31, 32], "c": [40]}
    ids = [2, 5, 11, 12, 20, 31, 32, 40]
    for first, step in ((0.0, 2.0**-60), (0.0, 2.0**60), (1.0, 2.0**-20)):
        ranks = torch.randperm(len(ids), generator=g).tolist()
        scores = {i: first + step * rank for i, rank in zip(ids, ranks, strict=True)}
        yield gaps, scores, 0.5
        yield gaps, scores, 0.25
    many = draw((100,), g).tolist()
    yield {"a": list(range(3, 103))}, dict(enumerate(many, start=3)), 0.305


def _as_ids(returned: object) -> list | None:
    found = _listed(returned)
    return found if found is not None and len(set(found)) == len(found) else None


def _not_ids(returned: object, layers: dict, *_: object) -> str | None:
    known = {i for ids in layers.values() for i in ids}
    found = _as_ids(returned)
    if found is None:
        return f"a set of ids, got {show(returned)}"
    strange = sorted(set(found) - known)
    return f"ids of the network's layers; there is no {strange[0]}" if strange else None


def _gone(returned: object, ids: list[int]) -> list[int]:
    found = set(_as_ids(returned) or ())
    return [i for i in ids if i in found]


def _empties(returned: object, layers: dict, *_: object) -> str | None:
    for name, ids in layers.items():
        if len(_gone(returned, ids)) == len(ids):
            return f"at least one channel left in {show(name)}, whose ids are {show(ids)}"
    return None


def _wrong_counts(returned: object, layers: dict, scores: dict, share: float) -> str | None:
    for name, ids in layers.items():
        count, gone = min(round(share * len(ids)), len(ids) - 1), len(_gone(returned, ids))
        if gone != count:
            return f"{count} of the {len(ids)} ids of {show(name)} to go, not {gone}"
    return None


def _strong_gone(returned: object, layers: dict, scores: dict, *_: object) -> str | None:
    for name, ids in layers.items():
        gone = _gone(returned, ids)
        stay = [i for i in ids if i not in gone]
        if gone and max(scores[i] for i in gone) > min(scores[i] for i in stay):
            return f"the lowest scores of {show(name)} to go; higher means keep"
    return None


def _wrong_ties(returned: object, *inputs: Any) -> str | None:
    wanted = choose(*inputs)
    return None if set(_as_ids(returned) or ()) == wanted else f"{show(wanted)}, because of ties"


CHOOSE = Exercise(
    name="choose",
    signature="choose(layers, scores, share)",
    section=_LESSON.format("Task 5 · Which channels go?"),
    cases=_choose_cases,
    expected=choose,
    properties=(
        Property(
            "returns a set of ids",
            _not_ids,
            "Ids are the numbers in the lists of layers; they are not positions in those lists.",
        ),
        Property(
            "leaves every layer at least one channel",
            _empties,
            "A layer without channels cuts its branch, and the network with it. Take at most n − 1.",
        ),
        Property(
            "removes round(share · n) of each layer's n channels",
            _wrong_counts,
            "Count in each layer by itself, with Python's round.",
        ),
        Property(
            "removes the lowest scores of each layer",
            _strong_gone,
            "Higher means keep. Compare the scores within a layer, not with those of other layers.",
        ),
        Property(
            "keeps the earlier of equal scores",
            _wrong_ties,
            "Of equal scores the later id goes.",
        ),
        UNCHANGED,
    ),
)


# ---- 6 · repair by least squares


def refit(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(n, c), (n, out) -> weight (out, c) and bias (out,) with the least squared error."""
    ones = torch.ones(len(z), 1, dtype=torch.float64)
    both = torch.cat([z.double(), ones], dim=1)
    found = torch.linalg.lstsq(both, y.double()).solution  # (c + 1, out)
    return found[:-1].t().to(z.dtype), found[-1].to(z.dtype)


def _error(layer: tuple[Tensor, Tensor], z: Tensor, y: Tensor) -> float:
    weight, bias = layer
    left = y.double() - z.double() @ weight.double().t() - bias.double()
    return float(left.square().mean())


def _read(n: int, c: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, c, generator=generator).relu() + 0.2


def _has_one_answer(z: Tensor) -> bool:
    """Whether half of the columns, and the ones for the bias, are far from depending on each other."""
    both = torch.cat([z[:, : z.shape[1] // 2], torch.ones(len(z), 1)], 1)
    return float(torch.linalg.cond(both.double())) < 300


def _refit_cases() -> Iterator[tuple]:
    yield torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [3.0], [5.0]])
    yield torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[1.0], [1.0], [4.0]])
    g = torch.Generator().manual_seed(13)
    for n, c, out in ((6, 2, 1), (12, 3, 2), (20, 4, 3), (60, 8, 4), (200, 12, 10)):
        (all_of_it,) = first_that(_has_one_answer, lambda n=n, c=c: (_read(n, 2 * c, g),))
        y = all_of_it @ torch.randn(2 * c, out, generator=g) + torch.randn(out, generator=g)
        yield all_of_it[:, :c].contiguous(), y  # half of what was read is gone
    z = torch.randn(30, 3, generator=g) + 5  # far from 0, so that the bias matters
    yield z, z @ torch.randn(3, 2, generator=g) + 40 + torch.randn(30, 2, generator=g)
    z = torch.randn(40, 4, generator=g)
    yield z * torch.tensor([1.0, 100.0, 0.01, 1.0]), z @ torch.randn(4, 2, generator=g) - 1
    yield z, 256 * (z @ torch.randn(4, 2, generator=g) - 1 + torch.randn(40, 2, generator=g) / 4)


def _not_a_layer(returned: object, z: Tensor, y: Tensor) -> str | None:
    wanted = f"a weight of shape {(y.shape[1], z.shape[1])} and a bias of shape {(y.shape[1],)}"
    if type(returned) is not tuple or len(returned) != 2:
        return f"the pair (weight, bias): {wanted}, got {show(returned)}"
    for part, like in zip(returned, (y.new_empty(y.shape[1], z.shape[1]), y[0]), strict=True):
        if wrong := not_floats(part, like):
            return f"{wanted}; {wrong}"
        if not part.isfinite().all():  # pyright: ignore
            return f"{wanted}, all finite"
    return None


def _slack(z: Tensor, y: Tensor) -> float:
    """How far an error may be above the least one."""
    return 0.01 * _error(refit(z, y), z, y) + 1e-4 * float(y.var(correction=0))


def _biased(returned: tuple, z: Tensor, y: Tensor) -> str | None:
    left = (y - z @ returned[0].t() - returned[1]).mean(0).abs().max()
    most = math.sqrt(y.shape[1] * _slack(z, y))
    return None if left <= most else f"a mean error of 0 for each output, got {float(left):.3g}"


def _not_least(returned: tuple, z: Tensor, y: Tensor) -> str | None:
    found, best = _error(returned, z, y), _error(refit(z, y), z, y)
    return None if found <= best + _slack(z, y) else f"an error of {best:.4g}, got {found:.4g}"


REFIT = Exercise(
    name="refit",
    signature="refit(z, y)",
    section=_LESSON.format("Task 6 · Repair before any gradient step"),
    cases=_refit_cases,
    expected=refit,
    properties=(
        Property(
            "returns the pair (weight, bias) of a linear layer",
            _not_a_layer,
            "A linear layer computes z @ weight.T + bias, so the weight is (outputs, inputs).",
        ),
        Property(
            "has a bias that leaves no mean error",
            _biased,
            "A column of ones beside z makes the bias one more unknown.",
        ),
        Property(
            "has the least squared error that any weights have",
            _not_least,
            "torch.linalg.lstsq(a, b).solution is the x for which ‖a x − b‖² is least. Do not add a "
            "penalty, and use all rows.",
        ),
        UNCHANGED,
    ),
)


# ---- 7 · fine-tune a layer


def fine_tune(weight: Tensor, bias: Tensor, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The layer after 300 steps of gradient descent on the mean cross-entropy of all rows."""
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.SGD([weight, bias], lr=0.3, momentum=0.9)
    for _ in range(300):
        loss = F.cross_entropy(z @ weight.t() + bias, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weight.detach(), bias.detach()


def _loss(layer: tuple[Tensor, Tensor], z: Tensor, labels: Tensor) -> float:
    weight, bias = layer
    return float(F.cross_entropy(z @ weight.t() + bias, labels))


@lru_cache(maxsize=64)
def _best(given: bytes, numbers: bytes, labels: bytes, classes: int) -> tuple[float, float]:
    y = torch.frombuffer(bytearray(labels), dtype=torch.int64)
    z = torch.frombuffer(bytearray(numbers), dtype=torch.float32).view(len(y), -1).double()
    start = torch.frombuffer(bytearray(given), dtype=torch.float32).view(classes, -1).double()
    layer = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([layer], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(z @ layer[:, :-1].t() + layer[:, -1], y)
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore
    return float(closure().detach()), float((layer - start).norm().detach())


def _lowest(weight: Tensor, bias: Tensor, z: Tensor, labels: Tensor) -> tuple[float, float]:
    """The lowest mean cross-entropy of any layer, and the distance of one that has it.

    The distance is from the given layer, over all weights and biases. The last 64 are remembered.
    """
    given = torch.cat([weight, bias[:, None]], 1)
    return _best(*(t.numpy().tobytes() for t in (given, z, labels)), len(weight))


def _tune_cases() -> Iterator[tuple]:
    g = torch.Generator().manual_seed(17)
    sizes = (40, 2, 2), (60, 3, 3), (100, 5, 3), (150, 8, 5), (200, 6, 10), (40, 2, 2)
    for n, c, classes in sizes:
        yield first_that(_descent_is_sure, lambda n=n, c=c, k=classes: _task(n, c, k, g))


def _task(n: int, c: int, classes: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A layer (classes, c), its bias, what it reads (n, c), and labels; later ones are more frequent."""
    centres, odds = torch.randn(classes, c, generator=generator), torch.arange(1, classes + 1.0)
    true = torch.multinomial(odds, n, replacement=True, generator=generator)
    z = centres[true] + torch.randn(n, c, generator=generator)
    wrong = torch.arange(n) % 4 == 0  # so that no layer is right on nearly all rows
    labels = torch.where(wrong, (true + 1) % classes, true)
    return torch.randn(classes, c, generator=generator) / 2, torch.zeros(classes), z, labels


def _descent_is_sure(weight: Tensor, bias: Tensor, z: Tensor, labels: Tensor) -> bool:
    """Whether every gradient descent on all rows with 100 / r steps closes four fifths of the gap.

    Its learning rate r is at most 0.5. The loss is convex, and its curvature is at most half of that
    of the inputs, so at most 2 = 1 / 0.5. Then after t steps the loss is at most d² / (2 r t) above
    that of any layer, where d is the distance from the first layer to that one. Three quarters are
    asked, so that rounding does not count.
    """
    both = torch.cat([z, torch.ones(len(z), 1)], 1).double()
    if torch.linalg.eigvalsh(both.T @ both / len(z))[-1] > 4:
        return False
    least, distance = _lowest(weight, bias, z, labels)
    gap = _loss((weight, bias), z, labels) - least
    return gap > 0.05 and distance**2 / 200 < gap / 5


def _not_tuned(returned: object, weight: Tensor, bias: Tensor, *_: object) -> str | None:
    wanted = f"the pair (weight, bias) of shapes {tuple(weight.shape)} and {tuple(bias.shape)}"
    if type(returned) is not tuple or len(returned) != 2:
        return f"{wanted}, got {show(returned)}"
    for part, like in zip(returned, (weight, bias), strict=True):
        if wrong := not_floats(part, like):
            return f"{wanted}; {wrong}"
    return None


def _not_lower(returned: tuple, weight: Tensor, bias: Tensor, z: Tensor, y: Tensor) -> str | None:
    before, after = _loss((weight, bias), z, y), _loss(returned, z, y)
    return None if after < before else f"a loss below {before:.4g}, got {after:.4g}"


def _gap_open(returned: tuple, weight: Tensor, bias: Tensor, z: Tensor, y: Tensor) -> str | None:
    before, after = _loss((weight, bias), z, y), _loss(returned, z, y)
    least, _ = _lowest(weight, bias, z, y)
    needed = before - 0.75 * (before - least)
    if after <= needed:
        return None
    return f"a loss of at most {needed:.4g} (before: {before:.4g}, lowest: {least:.4g}), got {after:.4g}"


TUNE = Exercise(
    name="fine_tune",
    signature="fine_tune(weight, bias, z, labels)",
    section=_LESSON.format("Task 7 · Fine-tune"),
    cases=_tune_cases,
    expected=fine_tune,
    properties=(
        Property(
            "returns the pair (weight, bias) in the shapes that it got",
            _not_tuned,
            "Return two tensors of floats, weight (classes, inputs) and bias (classes,).",
        ),
        Property(
            "lowers the cross-entropy",
            _not_lower,
            "Subtract the gradient. If the loss grows or becomes nan, the learning rate is too large.",
        ),
        Property(
            "closes three quarters of the gap to the lowest cross-entropy",
            _gap_open,
            "Train the bias too. Gradient descent on all rows gets there if its learning rate is at most "
            "0.5, and the learning rate times the number of steps at least 100.",
        ),
        UNCHANGED,
    ),
)


# ---- 8 · the report card


def report_card(
    state: dict[str, Tensor],
    logits: Tensor,
    labels: Tensor,
    before: list[float],
    after: list[float],
) -> dict[str, float]:
    """Accuracy in percent, bytes, and how many times as fast; 1 where the quartiles overlap."""
    seconds = [torch.tensor(turns, dtype=torch.float64) for turns in (before, after)]
    (q1, middle, q3), (new_q1, new_middle, new_q3) = (
        s.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist() for s in seconds
    )
    apart = new_q3 < q1 or q3 < new_q1
    return {
        "accuracy": 100 * float((logits.argmax(1) == labels).double().mean()),
        "bytes": sum(t.numel() * t.element_size() for t in state.values()),
        "speedup": middle / new_middle if apart else 1.0,
    }


def _card_cases() -> Iterator[tuple]:
    one = {"weight": torch.ones(2, 3)}
    logits, labels = torch.tensor([[1.0, 0.0], [2.0, 3.0]]), torch.tensor([0, 0])
    yield one, logits, labels, [4.0, 5.0, 6.0], [1.0, 2.0, 3.0]
    yield one, logits, labels, [1.0, 2.0, 3.0], [2.0, 3.0, 2.5]  # the quartiles overlap
    yield one, logits, labels, [1.0, 1.1, 1.3], [3.0, 2.0, 2.2]  # slower than before
    some = {"weight": torch.tensor([0.0, 1.0, 0.0]), "bias": torch.zeros(2).half()}
    for right in (0, 1):  # q1 is 7 before; q3 is 5.25 after, by other rules up to 5.75
        yield some, logits, torch.tensor([0, right]), [4.0, 8.0, 9.0, 10.0], [1.0, 2.0, 5.0, 6.0]
    yield some, logits, labels, [4.0, 8.0, 9.0, 10.0], [1.0, 2.0, 7.0, 8.0]  # q3 is 7.25
    kinds = (*(torch.bool, torch.int8, torch.int16, torch.int32, torch.int64), torch.float16)
    each = {str(t): torch.ones(3, dtype=t) for t in (*kinds, torch.bfloat16, torch.float64)}
    each |= {"count": torch.tensor(7), "empty": torch.ones(0, 3)}
    turns = [1.0, 2.0, 3.0, 4.0, 5.0]  # quartiles 2 and 4
    for q3 in (1.98, 2.0, 2.02):  # below the other's first quartile, on it, above it
        yield each, logits, labels, turns, [0.5, 1.0, 1.5, q3, 3.0]
        yield each, logits, labels, [0.5, 1.0, 1.5, q3, 3.0], turns
    yield each, logits, labels, turns, [0.25, 0.5, 0.75]
    brief = [2.0**-12, 2.0**-11, 2.0**-10]  # as a pass over one image takes
    yield each, logits, labels, brief, [2.0**-14, 2.0**-13]
    for few, other in (  # a quartile between two turns: 7 by interpolation, 6 halfway, 8 above
        ([4.0, 8.0, 9.0, 10.0], [1.0, 2.0, 3.0, 6.5, 6.6]),
        ([4.0, 8.0, 9.0, 10.0], [1.0, 2.0, 3.0, 7.5, 7.6]),
        ([1.0, 2.0, 5.0, 6.0], [5.3, 5.4, 7.0, 8.0, 9.0]),  # and 5.25, 5.5, 6
        ([1.0, 2.0, 5.0, 6.0], [5.0, 5.1, 7.0, 8.0, 9.0]),
    ):
        yield each, logits, labels, few, other
        yield each, logits, labels, other, few
    g = torch.Generator().manual_seed(19)
    types = (torch.float16, torch.float32, torch.float64, torch.int8, torch.bfloat16)
    for n, classes, turns in ((5, 2, 3), (8, 3, 4), (30, 10, 7), (200, 10, 21)) * 3:
        state = block_state(2, _drawn_widths(g, 3), g)
        name = pick(tuple(state), g)
        state[name] = state[name].to(pick(types, g))
        logits = torch.rand(n, classes, generator=g).argsort(1) / 2 - 3 * (n == 8)  # no near ties
        labels = torch.where(
            torch.rand(n, generator=g) < 0.6,
            logits.argmax(1),
            torch.randint(classes, (n,), generator=g),
        )
        yield state, logits, labels, *_turns(turns, pick((0.3, 0.5, 0.95, 1.05, 3.0), g), g)


def _turns(n: int, ratio: float, generator: torch.Generator) -> list[list[float]]:
    """Seconds of n turns before and after; it is clear whether their quartiles overlap."""
    at = torch.tensor([0.25, 0.75], dtype=torch.float64)

    def times() -> tuple[Tensor, Tensor]:
        before, after = (1 + torch.rand(2, n, generator=generator) ** 3).double()
        return before, ratio * after

    def is_clear(before: Tensor, after: Tensor) -> bool:
        (q1, q3), (new_q1, new_q3) = before.quantile(at), after.quantile(at)
        return min(abs(float(new_q3 - q1)), abs(float(q3 - new_q1))) > 1e-3

    return [part.tolist() for part in first_that(is_clear, times)]


def _not_a_card(returned: object, *_: object) -> str | None:
    names = ("accuracy", "bytes", "speedup")
    named = isinstance(returned, dict) and set(returned) == set(names)
    if named and all(map(_number, returned.values())):  # pyright: ignore
        return None
    return f"a dictionary of three numbers: {', '.join(names)}; got {show(returned)}"


def _entry(name: str) -> Callable[..., str | None]:
    def demand(returned: dict, *inputs: Any) -> str | None:
        wanted = report_card(*inputs)[name]
        right = math.isclose(returned[name], wanted, rel_tol=1e-5)
        return None if right else f"{name} {wanted:.6g}, got {returned[name]:.6g}"

    return demand


def _boast(returned: dict, *inputs: Any) -> str | None:
    if report_card(*inputs)["speedup"] != 1 or math.isclose(returned["speedup"], 1):
        return None
    return f"a speedup of 1, because the quartiles overlap, got {returned['speedup']:.6g}"


CARD = Exercise(
    name="report_card",
    signature="report_card(state, logits, labels, before, after)",
    section=_LESSON.format("Task 8 · Report card"),
    cases=_card_cases,
    expected=report_card,
    properties=(
        Property(
            "returns a dictionary with accuracy, bytes and speedup",
            _not_a_card,
            'Return {"accuracy": …, "bytes": …, "speedup": …}, with plain numbers.',
        ),
        Property(
            "gives the accuracy in percent",
            _entry("accuracy"),
            "The prediction is the position of the largest logit in a row. Of 100 right ones of 200, "
            "say 50, not 0.5.",
        ),
        Property(
            "counts the bytes of every tensor",
            _entry("bytes"),
            "A tensor has numel() numbers of element_size() bytes each. float16 has two, and the "
            "counter num_batches_tracked is one number of eight.",
        ),
        Property(
            "claims no speed-up where the quartiles overlap",
            _boast,
            "Compare the third quartile of the faster with the first quartile of the slower, not the "
            "medians. Interpolate between two turns, as torch.quantile does.",
        ),
        Property(
            "gives the ratio of the medians, before / after",
            _entry("speedup"),
            "2 means twice as fast as before, and 0.5 half as fast.",
        ),
        UNCHANGED,
    ),
)


# ---- 10 · what may be said


def verdict(ours: list[float], theirs: list[float], margin: float, t: float) -> str:
    """ "greater", "less", "equal" or "open", by the interval of the mean paired difference."""
    d = torch.tensor(ours, dtype=torch.float64) - torch.tensor(theirs, dtype=torch.float64)
    low, high = _interval(d, t)
    if low > 0:
        return "greater"
    if high < 0:
        return "less"
    return "equal" if -margin < low and high < margin else "open"


def _interval(d: Tensor, t: float) -> tuple[float, float]:
    half = t * float(d.std()) / math.sqrt(len(d))
    return float(d.mean()) - half, float(d.mean()) + half


_T = {5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}  # seeds -> t of a two-sided 95 % interval


def _narrow_verdicts(n: int, t: float, spread: float) -> Iterator[tuple]:
    """Intervals that end one per cent of their half-width before 0 or the margin, or behind it."""
    d = spread * torch.linspace(-1, 1, n, dtype=torch.float64)
    half = t * float(d.std()) / math.sqrt(n)
    theirs = torch.tensor([90.0 + k % 3 for k in range(n)], dtype=torch.float64)
    for sign in (1, -1):
        for near in (0.99, 1.01):
            yield (theirs + d + sign * near * half).tolist(), theirs.tolist(), half / 2, t
            yield (theirs + d + sign * half / 4).tolist(), theirs.tolist(), near * 1.25 * half, t


def _verdict_cases() -> Iterator[tuple]:
    yield [2.0, 2.5, 2.25, 2.0, 2.5], [1.0, 1.25, 1.5, 1.0, 1.0], 0.5, 2.776
    yield [1.0, 1.0, 1.0, 1.0, 1.0], [2.0, 1.5, 2.0, 2.5, 2.0], 0.5, 2.776
    yield [1.0, 2.0, 3.0, 4.0, 5.0], [1.1, 1.9, 3.1, 3.9, 5.1], 0.5, 2.776  # pairs move together
    yield [1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 1.0, 2.0, 4.0, 3.0], 0.5, 2.776
    for d, margin in (  # each of them has another answer by a mistake that looks small
        ((-0.08, 0.46, 1.0, 1.54, 2.08), 0.5),  # with n in place of n − 1: greater
        ((-0.2, 2.2) * 5, 0.5),  # with the t of five seeds: open
        ((0.0, 0.0, 1.0, 1.0, 1.0), 0.5),  # with the median: greater
        ((1.0, 1.0, 1.0, 1.0, -0.6), 0.5),  # without the extremes: greater
        ((-0.108, 0.096, 0.3, 0.504, 0.708), 0.5),  # only one end within the margin
        ((0.108, -0.096, -0.3, -0.504, -0.708), 0.5),
    ):
        theirs = [90.0 + k % 3 for k in range(len(d))]
        yield [a + b for a, b in zip(d, theirs, strict=True)], theirs, margin, _T[len(d)]
    seeds = [90.0, 91.0, 93.0, 92.0, 90.0]
    yield seeds, seeds, 0.5, 2.776  # an interval of one point, which is 0
    yield [a + 1 for a in seeds], seeds, 2.0, 2.776
    for n, t, spread in ((5, 2.776, 1.0), (8, 2.365, 0.02), (70, 1.995, 5.0)):
        yield from _narrow_verdicts(n, t, spread)
    g = torch.Generator().manual_seed(23)
    for shift, spread, margin in (
        *((1.0, 0.5, 0.5), (0.2, 0.1, 0.5), (-0.3, 0.2, 0.5), (0.0, 0.2, 0.5), (0.0, 0.02, 0.1)),
        *((0.1, 1.0, 0.5), (0.3, 0.3, 0.5), (0.3, 0.3, 2.0), (-0.2, 0.25, 1.0), (0.0, 2.0, 0.5)),
        *((0.5, 0.3, 0.5), (-0.1, 0.1, 0.4), (0.6, 1.5, 1.0), (-1.0, 0.4, 0.5), (0.05, 0.03, 0.2)),
        *((0.0, 0.1, 0.2), (0.2, 0.2, 0.5), (-0.5, 0.5, 0.5), (0.1, 0.05, 0.3), (0.4, 0.6, 2.0)),
    ):
        n = pick(tuple(_T), g)
        seeds = 90 + 4 * torch.randn(n, generator=g, dtype=torch.float64)

        def differences(n: int = n, shift: float = shift, spread: float = spread) -> tuple[Tensor]:
            return (shift + spread * torch.randn(n, generator=g, dtype=torch.float64),)

        def is_clear(d: Tensor, t: float = _T[n], margin: float = margin) -> bool:
            ends, edges = _interval(d, t), (-margin, 0, margin)  # float32 is off by 3e-5 at most
            return min(abs(end - edge) for end in ends for edge in edges) > 1e-3

        (d,) = first_that(is_clear, differences)
        yield (seeds + d).tolist(), seeds.tolist(), margin, _T[n]


def _not_a_verdict(returned: object, *_: object) -> str | None:
    words = ("greater", "less", "equal", "open")
    return None if returned in words else f"one of {', '.join(words)}; got {show(returned)}"


def _says(words: tuple[str, ...]) -> Callable[..., str | None]:
    def demand(returned: str, *inputs: Any) -> str | None:
        wanted = verdict(*inputs)
        relevant = wanted in words or returned in words
        return show(wanted) if relevant and returned != wanted else None

    return demand


VERDICT = Exercise(
    name="verdict",
    signature="verdict(ours, theirs, margin, t)",
    section=_LESSON.format("Task 10 · Three claims"),
    cases=_verdict_cases,
    expected=verdict,
    properties=(
        Property(
            "returns one of the four words",
            _not_a_verdict,
            "Every path through the function ends in one of the words greater, less, equal, open.",
        ),
        Property(
            "names a direction exactly where the interval lies on one side of 0",
            _says(("greater", "less")),
            "The differences are paired: seed by seed, then their mean ± t · sd / √n. The sd divides "
            "by n − 1. A mean above 0 is not enough.",
        ),
        Property(
            "says equal exactly where the interval lies within the margin",
            _says(("equal", "open")),
            "Both ends count: from −margin to margin. A wide interval around 0 shows nothing: open.",
        ),
        UNCHANGED,
    ),
)

PUZZLES = ()
EXERCISES = (CONV, INCEPTION, COST, READERS, CHOOSE, REFIT, TUNE, CARD, VERDICT)
