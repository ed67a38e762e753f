"""The exam: ten items about the whole course, with numbers of their own for every student.

An item is a function that returns one answer for the student's numbers. The numbers are drawn from the
student's name and a seed. They differ, but not in difficulty: all have the same sizes, and each of an
item's listed mistakes leads to a wrong answer with all of them.
"""

import hashlib
import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from course_lib.exercises.common import kind
from course_lib.exercises.exercise import Exercise, Property

#: By how much a float may be off, as a share of it, and in any case.
CLOSE, NEAR = 1e-3, 1e-4

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One item of the exam.

    ``draw(random)`` gives a variant's numbers, ``answer(**numbers)`` is right for them, and each
    function of ``mistakes`` gives what comes out if one does what its words say. ``form`` says what
    kind of value is asked for, and ``why`` how one finds it.
    """

    name: str
    lesson: str
    minutes: int
    statement: str
    form: str
    draw: Callable[[Random], Numbers]
    answer: Callable[..., Any]
    mistakes: Mapping[str, Callable[..., Any]]
    why: str

    def numbers(self, student: str, seed: int) -> Numbers:
        """The numbers of one student: drawn until every listed mistake shows with them."""
        digest = hashlib.sha256(f"{seed} {self.name} {student}".encode(errors="surrogateescape"))
        random = Random(int.from_bytes(digest.digest()))
        while True:
            numbers = self.draw(random)
            right = self.answer(**numbers)
            if not any(same(wrong(**numbers), right, 1e-2) for wrong in self.mistakes.values()):
                return numbers


def same(one: Any, other: Any, close: float = CLOSE) -> bool:
    """Whether two answers are the same: whole numbers exactly, floats nearly.

    Examples:
        >>> same((1, 2.0001), (1, 2.0)), same(1, 2)
        (True, False)
    """
    if isinstance(other, tuple):
        pair = isinstance(one, tuple) and len(one) == len(other)
        return pair and all(same(a, b, close) for a, b in zip(one, other, strict=True))
    if not _is_number(one, other):
        return False
    if isinstance(other, int):
        return one == other
    return math.isclose(one, other, rel_tol=close, abs_tol=NEAR)


def _is_number(one: Any, like: Any) -> bool:
    allowed = int if isinstance(like, int) else int | float
    return isinstance(one, allowed) and not isinstance(one, bool)


def misformed(returned: Any, right: Any, form: str) -> str | None:
    """What is wrong with the form of an answer, else None. How long a tuple is does not count."""
    parts, like = (returned, right) if isinstance(right, tuple) else ((returned,), (right,))
    if not isinstance(parts, tuple):
        return f"{form}, got {kind(returned)}"
    whole = 1 if all(isinstance(x, int) for x in like) else 1.0
    return None if all(_is_number(x, whole) for x in parts) else form


def exercises(student: str, seed: int) -> tuple[Exercise, ...]:
    """The exam of one student, as the grader judges it."""
    return tuple(_exercise(item, item.numbers(student, seed)) for item in ITEMS)


def _exercise(item: Item, numbers: Numbers) -> Exercise:
    right = item.answer(**numbers)

    def demand(returned: Any, *_: Any) -> str | None:
        if same(returned, right):
            return None
        wrong = (words for words, f in item.mistakes.items() if same(returned, f(**numbers)))
        found = next(wrong, None)
        return "another value" + (f"; this one comes out if one {found}" if found else "")

    return Exercise(
        name=item.name,
        signature=f"{item.name}({', '.join(numbers)})",
        section=f"lesson {item.lesson}",
        cases=lambda: iter([tuple(numbers.values())]),
        properties=(
            Property(
                f"returns {item.form}",
                lambda returned, *_: misformed(returned, right, item.form),
                "Read what the statement asks for, and return it in this form.",
            ),
            Property("is right for these numbers", demand, item.why),
        ),
    )


def variant(student: str, seed: int) -> str:
    """A short mark of a student's exam, which stands in his or her notebook."""
    text = f"{seed} exam {student}".encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()[:10]


# ---- 1: a mask


def _mask_numbers(random: Random) -> Numbers:
    gone = random.choice((3, 4, 5))
    sizes = random.sample([x / 100 for x in range(5, 100)], 7)
    sizes.sort()
    sizes.insert(gone, sizes[gone - 1])  # two are tied where the cut is
    weights = [size * random.choice((-1, 1)) for size in sizes]
    random.shuffle(weights)
    ties = random.choice(("earlier", "later"))
    return {"weights": tuple(weights), "sparsity": gone / 8, "stays": ties}


def _mask(weights: tuple, sparsity: float, stays: str, key: Callable = abs) -> tuple:
    sign = -1 if stays == "earlier" else 1
    order = sorted(range(len(weights)), key=lambda i: (key(weights[i]), sign * i))
    return tuple(sorted(order[: round(sparsity * len(weights))]))


_OTHER = {"earlier": "later", "later": "earlier"}
MASK = Item(
    "exam_1",
    "Criteria",
    6,
    "Of `weights`, `round(sparsity * n)` go, those of smallest magnitude first. Of two equal "
    "magnitudes, the one in the position that `stays` names stays. Return the positions of the "
    "weights that go, counted from 0 and in rising order.",
    "a tuple of whole numbers",
    _mask_numbers,
    _mask,
    {
        "ranks by the signed weights": lambda weights, sparsity, stays: _mask(
            weights, sparsity, stays, lambda w: w
        ),
        "lets the other one of two equal weights stay": lambda weights, sparsity, stays: _mask(
            weights, sparsity, _OTHER[stays]
        ),
        "returns those that stay": lambda weights, sparsity, stays: tuple(
            sorted(set(range(len(weights))) - set(_mask(weights, sparsity, stays)))
        ),
    },
    "Rank by the absolute value, settle the tie by position, and count from the smallest.",
)


# ---- 2: one ranking over two layers


def _ranking_numbers(random: Random) -> Numbers:
    while True:
        first, second = random.sample(range(40, 100, 2), 6), random.sample(range(1, 72, 2), 8)
        sparsity = random.choice((0.5, 0.57))
        if 2 <= len(_ranking(tuple(first), tuple(second), sparsity)) <= 4:
            return {"first": tuple(first), "second": tuple(second), "sparsity": sparsity}


def _ranking(first: tuple, second: tuple, sparsity: float) -> tuple:
    n = len(first) + len(second)
    kept = sorted(first + second, reverse=True)[: n - round(sparsity * n)]
    return tuple(i for i, size in enumerate(second) if size in kept)


RANKING = Item(
    "exam_2",
    "Prune rate",
    6,
    "`first` and `second` are the scores of the weights of two layers. One ranking over both layers "
    "removes `round(sparsity * n)` of all n weights, those with the lowest scores. Return the "
    "positions of the weights of `second` that stay, counted from 0 and in rising order.",
    "a tuple of whole numbers",
    _ranking_numbers,
    _ranking,
    {
        "gives each layer the same share": lambda first, second, sparsity: _ranking(
            (), second, sparsity
        ),
        "returns those that go": lambda first, second, sparsity: tuple(
            sorted(set(range(len(second))) - set(_ranking(first, second, sparsity)))
        ),
    },
    "Sort all scores together, keep as many as should stay, and see which of them are in `second`.",
)


# ---- 3: when does CSR pay?


def _csr_numbers(random: Random) -> Numbers:
    return {"rows": random.randint(60, 400), "columns": random.randint(20, 90)}


CSR = Item(
    "exam_3",
    "Motivation",
    8,
    "A layer has `rows` times `columns` weights. Stored densely, each takes 4 bytes. In CSR, each "
    "kept weight takes 4 bytes and its column 4 bytes more, and there are `rows + 1` offsets of 4 "
    "bytes. Return the largest number of kept weights for which CSR takes fewer bytes.",
    "a whole number",
    _csr_numbers,
    lambda rows, columns: (4 * rows * columns - 4 * (rows + 1) - 1) // 8,
    {
        "forgets the offsets": lambda rows, columns: (4 * rows * columns - 1) // 8,
        "forgets the columns": lambda rows, columns: (4 * rows * columns - 4 * (rows + 1) - 1) // 4,
    },
    "Solve 8·k + 4·(rows + 1) < 4·rows·columns for the largest whole k.",
)


# ---- 4: fillers


def _gap_numbers(random: Random) -> Numbers:
    bits = random.choice((2, 3))
    gaps = [random.randint(0, 2**bits - 2) for _ in range(4)]
    gaps += [random.randint(2 ** (bits + more), 2 ** (bits + more + 2) - 1) for more in (0, 1)]
    random.shuffle(gaps)
    stand, positions = -1, []
    for gap in gaps:
        stand += gap + 1
        positions.append(stand)
    return {"positions": tuple(positions), "bits": bits, "value_bits": random.randint(4, 9)}


def _gap_bits(positions: tuple, bits: int, value_bits: int, span: int | None = None) -> int:
    steps = zip((-1, *positions), positions, strict=False)
    gaps = [after - before - 1 for before, after in steps]
    fillers = sum(gap // (span or 2**bits) for gap in gaps)
    return (len(positions) + fillers) * (bits + value_bits)


GAPS = Item(
    "exam_4",
    "Deep Compression",
    8,
    "A file holds an entry for each weight at `positions`: the number of zeros before it, in `bits` "
    "bits, and its value, in `value_bits` bits. Where the zeros do not fit, fillers come before the "
    "weight: an entry with 2^bits − 1 zeros and the value 0, which fills one place itself. Return "
    "how many bits all entries take.",
    "a whole number",
    _gap_numbers,
    _gap_bits,
    {
        "forgets the fillers": lambda positions, bits, value_bits: (
            len(positions) * (bits + value_bits)
        ),
        "lets a filler take no place itself": lambda positions, bits, value_bits: _gap_bits(
            positions, bits, value_bits, 2**bits - 1
        ),
        "stores no value with a filler": lambda positions, bits, value_bits: (
            _gap_bits(positions, bits, 0) + len(positions) * value_bits
        ),
    },
    "A filler moves 2^bits places on. Each gap of z zeros needs z // 2^bits of them.",
)


# ---- 5: Optimal Brain Surgeon


def _hessian_numbers(random: Random) -> Numbers:
    while True:
        low = [[random.randint(-2, 2) if j <= i else 0 for j in range(3)] for i in range(3)]
        for i in range(3):
            low[i][i] = random.randint(1, 3)
        hessian = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in low] for x in low]
        weights = [random.choice((-1, 1)) * random.randint(5, 30) / 10 for _ in range(3)]
        numbers = {"hessian": tuple(map(tuple, hessian)), "weights": tuple(weights)}
        costs = sorted(_obs_costs(**numbers))
        if costs[1] > 1.1 * costs[0]:  # no near tie
            return numbers


def _obs_costs(hessian: tuple, weights: tuple) -> list[float]:
    inverse = torch.linalg.inv(torch.tensor(hessian, dtype=torch.float64)).diagonal().tolist()
    return [w**2 / (2 * h) for w, h in zip(weights, inverse, strict=True)]


def _obd_costs(hessian: tuple, weights: tuple) -> list[float]:
    return [w**2 * hessian[i][i] / 2 for i, w in enumerate(weights)]


def _least(costs: list[float]) -> tuple[int, float]:
    return costs.index(min(costs)), min(costs)


OBS = Item(
    "exam_5",
    "History",
    10,
    "A network is at a minimum of its loss, with the Hessian `hessian`. Optimal Brain Surgeon deletes "
    "one of the `weights`. Return its position, counted from 0, and the rise of the loss that is "
    "predicted.",
    "a tuple of a whole number and a float",
    _hessian_numbers,
    lambda hessian, weights: _least(_obs_costs(hessian, weights)),
    {
        "takes OBD's saliency": lambda hessian, weights: _least(_obd_costs(hessian, weights)),
        "forgets the factor one half": lambda hessian, weights: (
            _least(_obs_costs(hessian, weights))[0],
            2 * min(_obs_costs(hessian, weights)),
        ),
        "takes the smallest weight": lambda hessian, weights: (
            _least([abs(w) for w in weights])[0],
            _obs_costs(hessian, weights)[_least([abs(w) for w in weights])[0]],
        ),
    },
    "The saliency is w² / (2 [H⁻¹]_qq): invert the whole Hessian first.",
)


# ---- 6: rounds


def _round_numbers(random: Random) -> Numbers:
    return {
        "sizes": (random.randint(150, 900), random.randint(40, 120)),
        "share": random.choice((0.2, 0.3, 0.4)),
        "rounds": random.choice((3, 4)),
    }


def _left(n: int, share: float, rounds: int) -> int:
    for _ in range(rounds):
        n -= round(share * n)
    return n


ROUNDS = Item(
    "exam_6",
    "Lottery",
    6,
    "A ticket is found in `rounds` rounds. `sizes` is how many weights the two layers of the network "
    "have. In each round, `round(share * n)` of the n weights that a layer still has go. For the last "
    "layer, the share is half as large. Return how many weights each layer has in the end.",
    "a tuple of two whole numbers",
    _round_numbers,
    lambda sizes, share, rounds: (
        _left(sizes[0], share, rounds),
        _left(sizes[1], share / 2, rounds),
    ),
    {
        "takes the whole share from the last layer": lambda sizes, share, rounds: tuple(
            _left(n, share, rounds) for n in sizes
        ),
        "takes a share of all weights in each round": lambda sizes, share, rounds: tuple(
            max(0, n - rounds * round(part * n))
            for n, part in zip(sizes, (share, share / 2), strict=True)
        ),
        "returns those that are gone": lambda sizes, share, rounds: tuple(
            n - _left(n, part, rounds) for n, part in zip(sizes, (share, share / 2), strict=True)
        ),
    },
    "Go round by round; each one takes its share of what is left.",
)


# ---- 7: channels


def _channel_numbers(random: Random) -> Numbers:
    channels = random.choice((1, 3)), random.randint(12, 40), random.randint(12, 40)
    kernel, side = random.choice((3, 5)), random.choice((8, 12, 16))
    return {"channels": channels, "kernel": kernel, "side": side, "dead": random.randint(3, 8)}


def _saved(channels: tuple, kernel: int, side: int, dead: int) -> tuple:
    before, _, after = channels
    weights = dead * (before + after) * kernel**2
    return weights + dead, weights * side**2


CHANNELS = Item(
    "exam_7",
    "Unstructured vs structured",
    8,
    "Two convolutions follow each other. They take `channels[0]` maps to `channels[1]` and these to "
    "`channels[2]`. Kernels are `kernel` times `kernel`, each output channel has a bias, and all maps "
    "keep their `side` times `side` places. Now `dead` of the middle channels are cut out. Return how "
    "many parameters and how many multiplications per image that saves, in both layers together. "
    "Biases cost no multiplications.",
    "a tuple of two whole numbers",
    _channel_numbers,
    _saved,
    {
        "forgets the second layer": lambda channels, kernel, side, dead: (
            dead * (channels[0] * kernel**2 + 1),
            dead * channels[0] * kernel**2 * side**2,
        ),
        "forgets the biases": lambda channels, kernel, side, dead: (
            _saved(channels, kernel, side, dead)[0] - dead,
            _saved(channels, kernel, side, dead)[1],
        ),
    },
    "A dead channel takes its filter and its bias along, and what reads it in the next layer.",
)


# ---- 8: a grid


def _grid_numbers(random: Random) -> Numbers:
    bits = random.choice((3, 4))
    row = [random.choice((-1, 1)) * random.randint(5, 99) / 100 for _ in range(6)]
    numbers = {"row": tuple(row), "bits": bits}
    parts = [w / _step(**numbers) for w in row]
    halves = any(abs(abs(x) % 1 - 0.5) < 0.05 for x in parts)
    return _grid_numbers(random) if halves else numbers


def _step(row: tuple, bits: int) -> float:
    return max(map(abs, row)) / (2 ** (bits - 1) - 1)


GRID = Item(
    "exam_8",
    "Quantization",
    8,
    "Round `row` to its symmetric grid of `bits` bits, whose step is the largest magnitude over "
    "2^(bits−1) − 1. Return the whole numbers, in the order of the row.",
    "a tuple of whole numbers",
    _grid_numbers,
    lambda row, bits: tuple(round(w / _step(row, bits)) for w in row),
    {
        "cuts off instead of rounding": lambda row, bits: tuple(
            int(w / _step(row, bits)) for w in row
        ),
        "divides by 2^(bits−1)": lambda row, bits: tuple(
            round(w * 2 ** (bits - 1) / max(map(abs, row))) for w in row
        ),
        "divides by 2^bits − 1": lambda row, bits: tuple(
            round(w * (2**bits - 1) / max(map(abs, row))) for w in row
        ),
    },
    "Divide each weight by the step and take the nearest whole number.",
)


# ---- 9: Huffman


def _count_numbers(random: Random) -> Numbers:
    counts = [random.randint(1, 9), random.randint(5, 20), random.randint(10, 40)]
    counts += [random.randint(20, 80), random.randint(60, 150)]
    random.shuffle(counts)
    return {"counts": tuple(counts)}


def _huffman(counts: tuple) -> int:
    heap, bits = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        bits += joined
        heapq.heappush(heap, joined)
    return bits


def _entropy(counts: tuple) -> float:
    total = sum(counts)
    return -sum(c * math.log2(c / total) for c in counts)


HUFFMAN = Item(
    "exam_9",
    "Deep Compression",
    8,
    "A layer has five different values, and `counts` says how often each occurs. Return how many bits "
    "all weights take together in a Huffman code of these counts, without the code's table.",
    "a whole number",
    _count_numbers,
    _huffman,
    {
        "gives every value three bits": lambda counts: 3 * sum(counts),
        "takes the entropy": lambda counts: math.ceil(_entropy(counts)),
    },
    "Join the two rarest again and again; each joining costs as many bits as it has weights.",
)


# ---- 10: distillation


def _logit_numbers(random: Random) -> Numbers:
    def logits() -> tuple:
        return tuple(random.randint(-20, 40) / 10 for _ in range(3))

    return {"student": logits(), "teacher": logits(), "temperature": random.choice((2.0, 4.0, 5.0))}


def _softmax(logits: tuple, temperature: float) -> list[float]:
    powers = [math.exp((z - max(logits)) / temperature) for z in logits]
    return [p / sum(powers) for p in powers]


def _pull(student: tuple, teacher: tuple, temperature: float, factor: float) -> tuple:
    pairs = zip(_softmax(student, temperature), _softmax(teacher, temperature), strict=True)
    return tuple(factor * (q - p) for q, p in pairs)


DISTILLATION = Item(
    "exam_10",
    "Knowledge distillation",
    10,
    "For one image, `student` and `teacher` are the logits of three classes. Return the gradient of "
    "T² KL(teacher ‖ student) by the student's logits, where both are softened by the temperature T.",
    "a tuple of three floats",
    _logit_numbers,
    lambda student, teacher, temperature: _pull(student, teacher, temperature, temperature),
    {
        "leaves T² out": lambda student, teacher, temperature: _pull(
            student, teacher, temperature, 1 / temperature
        ),
        "forgets that the logits are divided by T": lambda student, teacher, temperature: _pull(
            student, teacher, temperature, temperature**2
        ),
        "does not soften": lambda student, teacher, temperature: _pull(student, teacher, 1.0, 1.0),
        "takes the difference the other way round": lambda student, teacher, temperature: _pull(
            student, teacher, temperature, -temperature
        ),
    },
    "The gradient of KL is (q − p) / T, so that of T² KL is T (q − p).",
)

ITEMS = (MASK, RANKING, CSR, GAPS, OBS, ROUNDS, CHANNELS, GRID, HUFFMAN, DISTILLATION)
EXERCISES = exercises("", 0)  # the same for everybody but for the numbers
