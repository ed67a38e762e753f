"""Data sets as float tensors with a fixed split.

``glyphs`` (drawn from matplotlib's fonts) and ``digits`` (handwriting that comes with scikit-learn)
need no file and no network. Torchvision reads ``mnist``, ``fashion`` and ``cifar10`` from a folder
that you name; only ``download`` fetches them. ``Grammar`` draws sentences whose probability is known.
"""

import math
import os
import random
from bisect import bisect
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import accumulate
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib import seeds
from course_lib.extras import lessons

# The faces whose licences (Bitstream Vera, STIX) lie beside the font files in matplotlib.
FACES = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-BoldOblique DejaVuSans-Oblique DejaVuSansMono "
    "DejaVuSansMono-Bold DejaVuSansMono-BoldOblique DejaVuSansMono-Oblique DejaVuSerif "
    "DejaVuSerif-Bold DejaVuSerif-Italic STIXGeneral STIXGeneralBol STIXGeneralItalic "
    "STIXGeneralBolIta"
).split()
TORCHVISION = {"mnist": "MNIST", "fashion": "FashionMNIST", "cifar10": "CIFAR10"}


class Split(NamedTuple):
    """Images and their labels; unpacks as ``x, y``."""

    x: Tensor  #: (n, channels, height, width) float32 in [0, 1]
    y: Tensor  #: (n,) int64

    def to(self, device: torch.device | str) -> "Split":
        """The same split on another device."""
        return Split(self.x.to(device), self.y.to(device))


def check_counts(**counts: int) -> None:
    """Raise ValueError, naming the argument, unless every count is a positive integer."""
    for argument, n in counts.items():
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"{argument} must be a positive integer, got {n!r}")


def check_integer(argument: str, n: int, low: int, high: int) -> None:
    """Raise ValueError, naming the argument, unless it is an integer from ``low`` to ``high``."""
    if isinstance(n, bool) or not isinstance(n, int) or not low <= n <= high:
        raise ValueError(f"{argument} must be an integer from {low} to {high}, got {n!r}")


def check_number(argument: str, value: object) -> float:
    """The number itself; TypeError, naming the argument, if it is none. (NaN and infinity are.)"""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument} must be a number, got {value!r}")
    return float(value)


def check_real(argument: str, value: object) -> float:
    """The number, maybe of a tensor; TypeError if it is none, ValueError if it is not finite."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    number = check_number(argument, value)
    if not math.isfinite(number):
        raise ValueError(f"{argument} must be finite, got {value!r}")
    return number


def check_positive(argument: str, value: object) -> None:
    """Raise TypeError unless it is a number, ValueError unless it is positive and finite."""
    if not 0 < check_number(argument, value) < math.inf:  # also refuses NaN
        raise ValueError(f"{argument} must be positive and finite, got {value!r}")


def check_nonnegative(argument: str, value: float | Tensor) -> None:
    """Raise TypeError unless it is a number, ValueError unless it is finite and not negative."""
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    check_number(argument, number)
    if not 0 <= number < math.inf:
        raise ValueError(f"{argument} must be finite and not negative, got {value!r}")


def check_fraction(argument: str, value: float) -> None:
    """Raise ValueError, naming the argument, unless it is a number in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value <= 1:
        raise ValueError(f"{argument} must be a number in (0, 1], got {value!r}")


def load(
    name: str = "glyphs",
    *,
    size: int = 14,
    n_train: int | None = None,
    n_test: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
) -> tuple[Split, Split]:
    """Load a data set by name, as ``(train, test)``.

    Args:
        name: ``glyphs``, ``digits``, ``mnist``, ``fashion`` or ``cifar10``.
        size: side of an image in pixels, 14 or 28, for ``glyphs``, ``mnist`` and ``fashion``. For the
            last two, 14 averages each 2×2 block of pixels. ``digits`` are always 8×8 and ``cifar10``
            always 32×32.
        n_train, n_test: how many images. For ``glyphs``, any number; the default is 10,000 each
            (one standard error of an accuracy of 97 % is then 0.17 points). For the others, the
            first ones of a fixed order.
        seed: which glyphs are drawn. Torch's global generator is not used.
        root: the folder of torchvision's data sets. The default is the environment variable
            ``COURSE_DATA``. ``download`` fetches what is missing there.

    Raises:
        ValueError: an unknown name; a size or a count that the data set does not have.
        TypeError: a seed that is not an integer.
        FileNotFoundError: a torchvision data set that is not in ``root``; the message says what to
            do.

    Examples:
        >>> train, test = load("digits")
        >>> train.x.shape, len(test.y)
        (torch.Size([1200, 1, 8, 8]), 597)
    """
    known = ("glyphs", "digits", *TORCHVISION)
    if name not in known:
        raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}")
    seeds.check(seed)
    counts = [10_000 if n is None else n for n in (n_train, n_test)]
    check_counts(n_train=counts[0], n_test=counts[1])
    if name in ("glyphs", "mnist", "fashion") and (type(size) is not int or size not in (14, 28)):
        raise ValueError(f"size must be 14 or 28 for {name}, got {size!r}")
    if name == "glyphs":
        # Two generators, so that asking for more training images leaves the test set alone.
        train, test = (draw_glyphs(n, size, seed=2 * seed + i) for i, n in enumerate(counts))
        return train, test
    if name == "digits":
        train, test = _digits()
    else:
        train, test = (_torchvision(name, root, train=part) for part in (True, False))
        if name != "cifar10" and size == 14:
            train, test = (Split(F.avg_pool2d(s.x, 2), s.y) for s in (train, test))
    return _first(train, n_train, "n_train"), _first(test, n_test, "n_test")


def download(name: str, *, root: str | Path | None = None) -> None:
    """Fetch a data set of torchvision into a folder, where ``load`` reads it.

    Args:
        name: ``mnist``, ``fashion`` or ``cifar10``.
        root: the folder. The default is the environment variable ``COURSE_DATA``.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: no folder is named, or the data set could not be fetched.
    """
    if name not in TORCHVISION:
        raise ValueError(f"name must be one of {', '.join(TORCHVISION)}, got {name!r}")
    for part in (True, False):
        _torchvision(name, root, train=part, download=True)


def _first(split: Split, n: int | None, argument: str) -> Split:
    if n is not None and n > len(split.y):
        raise ValueError(f"{argument} must be at most {len(split.y)}, got {n!r}")
    return Split(split.x[:n], split.y[:n])


def draw_glyphs(n: int, size: int = 14, *, seed: int = 0) -> Split:
    """Draw ``n`` digits: printed characters that are bent, turned, thicker or thinner, and noisy.

    They vary as handwriting does: an MLP has learning and pruning curves of the same shape on them
    as on MNIST of the same size. One seed always gives the same images on one machine and one torch
    version.

    Returns:
        A ``Split`` with ``x`` of shape (n, 1, size, size) and balanced labels in random order.

    Raises:
        ValueError: a count or a size that is not a positive integer.
        TypeError: a seed that is not an integer.

    Examples:
        >>> x, y = draw_glyphs(100)
        >>> x.shape, y.bincount().tolist()
        (torch.Size([100, 1, 14, 14]), [10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    """
    check_counts(n=n, size=size)
    g = seeds.generator(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=g)

    y = (torch.arange(n) % 10)[torch.randperm(n, generator=g)]
    face = torch.randint(len(FACES), (n,), generator=g)
    turn, shear, scale = uniform(-0.21, 0.21), uniform(-0.2, 0.2), uniform(0.85, 1.1)
    cos, sin = torch.cos(turn) / scale, torch.sin(turn) / scale
    affine = torch.stack(
        [torch.stack([cos, shear - sin], 1), torch.stack([sin, cos], 1)], dim=1
    )  # (n, 2, 2)
    affine = torch.cat([affine, uniform(-0.1, 0.1, 2, 1)], dim=2)  # (n, 2, 3)
    grid = F.affine_grid(affine, [n, 1, size, size], align_corners=False)  # (n, size, size, 2)
    bend = F.interpolate(uniform(-0.16, 0.16, 2, 4, 4), size=size, mode="bilinear")
    x = F.grid_sample(_templates()[face, y], grid + bend.permute(0, 2, 3, 1), align_corners=False)
    x = _vary_stroke(x, uniform(-1, 1, 1, 1, 1))
    noise = 0.03 if size == 14 else 0.08
    x = x * uniform(0.7, 1.0, 1, 1, 1) + noise * torch.randn(x.shape, generator=g)
    return Split(x.clamp_(0, 1), y)


def _vary_stroke(x: Tensor, amount: Tensor) -> Tensor:
    """Thicken (amount > 0) or thin (amount < 0) every stroke by up to about one pixel."""
    thick, thin = F.max_pool2d(x, 3, 1, 1), -F.max_pool2d(-x, 3, 1, 1)
    half = 0.5  # a whole pixel of dilation turns a 14×14 digit into a box
    return x + half * amount.clamp(min=0) * (thick - x) + half * (-amount).clamp(min=0) * (thin - x)


@lru_cache(maxsize=1)
def _templates() -> Tensor:
    """Every digit in every face: (faces, 10, 1, 40, 40), ink 1 on paper 0."""
    with lessons():
        import matplotlib
        from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    pictures = []
    for face in FACES:
        font = ImageFont.truetype(str(folder / f"{face}.ttf"), 38)
        for digit in "0123456789":
            picture = Image.new("L", (40, 40))
            ImageDraw.Draw(picture).text((20, 20), digit, fill=255, font=font, anchor="mm")
            pictures.append(np.asarray(picture, dtype=np.float32) / 255)
    return torch.from_numpy(np.stack(pictures)).view(len(FACES), 10, 1, 40, 40)


def _digits() -> tuple[Split, Split]:
    """The 1,797 handwritten 8×8 digits of scikit-learn: 1,200 to train and 597 to test, each with
    the same shares of the classes."""
    with lessons():
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x / 16, y, test_size=597, stratify=y, random_state=seeds.shifted(0))
    x_train, x_test, y_train, y_test = (torch.from_numpy(np.ascontiguousarray(p)) for p in parts)
    train, test = (
        Split(x.float().view(-1, 1, 8, 8), y.long())
        for x, y in ((x_train, y_train), (x_test, y_test))
    )
    return train, test


def _torchvision(
    name: str, root: str | Path | None, *, train: bool, download: bool = False
) -> Split:
    root = root if root is not None else os.environ.get("COURSE_DATA")
    if root is None:
        raise FileNotFoundError(
            f"{name} needs a folder: pass root=... or set the variable COURSE_DATA to the folder that "
            f"holds torchvision's {TORCHVISION[name]} (with a network, data.download({name!r}, root=...) "
            "fetches it there). Without either, name='glyphs' and name='digits' need no files."
        )
    with lessons():
        from torchvision import datasets  # slow to import, so only when it is wanted

    try:
        found = getattr(datasets, TORCHVISION[name])(root, train=train, download=download)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{name} was not found in root={str(root)!r}: torchvision's {TORCHVISION[name]} is expected "
            f"there. With a network, data.download({name!r}, root=...) fetches it; without, "
            "name='glyphs' and name='digits' need no files."
        ) from error
    images = torch.as_tensor(found.data)
    if images.dim() == 3:
        images = images.unsqueeze(1)  # (n, 28, 28) -> (n, 1, 28, 28)
    else:
        images = images.permute(0, 3, 1, 2)  # (n, 32, 32, 3) -> (n, 3, 32, 32)
    return Split(images.float() / 255, torch.as_tensor(found.targets))


# ---- sentences

# One and many: dog, dogs. The verbs are those of the third person.
NOUNS = [
    pair.split("/")
    for pair in "dog/dogs cat/cats fox/foxes wolf/wolves bird/birds horse/horses mouse/mice snake/snakes "
    "bear/bears child/children farmer/farmers teacher/teachers painter/painters king/kings".split()
]
TRANSITIVE = [
    pair.split("/")
    for pair in "sees/see hears/hear likes/like fears/fear finds/find helps/help calls/call meets/meet "
    "knows/know follows/follow watches/watch carries/carry".split()
]
INTRANSITIVE = [
    pair.split("/")
    for pair in "sleeps/sleep sings/sing runs/run laughs/laugh waits/wait falls/fall dances/dance "
    "works/work".split()
]
VERBS = TRANSITIVE + INTRANSITIVE
ADJECTIVES = "old young small big brown quiet happy hungry".split()
ADVERBS = "today often here quietly slowly again outside together".split()
# How often, and whether a noun for one (0), for many (1) or either (None) may follow.
DETERMINERS = {"the": (0.55, None), "a": (0.2, 0), "this": (0.06, 0), "every": (0.04, 0)}
DETERMINERS |= {"some": (0.09, 1), "these": (0.04, 1), "many": (0.02, 1)}
NUMBERS = {0: (1.0, 0.0), 1: (0.0, 1.0), None: (0.6, 0.4)}
# How often a clause opens behind a subject, by its depth; deeper ones do not.
RELATIVE = (0.35, 0.25)
WITHOUT_SUBJECT = 0.6  # of the clauses: "that sleeps", not "that the cat sees"
ADJECTIVE, AND, ADVERB = 0.2, 0.15, 0.25
Symbol = tuple  # the name of a rule and its arguments
Rule = dict[str, tuple[float, list[Symbol]]]  # word -> its probability, and what comes behind it
START = ("phrase", ("subject", 0))


class Text(NamedTuple):
    """Rows of words that begin with sentences, and the probability that the grammar gave each word."""

    #: (n, length + 1) int64: numbers of words. Each row starts with the full stop before a sentence.
    tokens: Tensor
    #: (n, length) float64: the natural logarithm of p(word | all words before it in its row). None
    #: if nobody knows it.
    log_p: Tensor | None = None

    def split(self) -> Split:
        """All words but the last, and for each the word that follows: both (n, length)."""
        return Split(self.tokens[:, :-1], self.tokens[:, 1:])


def check_text(text: Text) -> None:
    """Raise TypeError unless tokens are int64, ValueError unless each row has two words or more."""
    if not isinstance(text, Text):
        raise TypeError(f"text must be a data.Text, got {type(text).__name__}")
    tokens = text.tokens
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64:
        got = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"text must have tokens of type torch.int64, got {got}")
    if tokens.dim() != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 2:
        raise ValueError(
            f"text must have rows of at least two words, got tokens of shape {tuple(tokens.shape)}"
        )


class _State(NamedTuple):
    """A rule, ready for drawing: entry i of each list is about the i-th word that it allows."""

    bounds: list[float]  # between the words, from 0 to 1
    words: list[int]
    log_p: list[float]
    behind: list[list["_State"]]  # last one first, as they go on the stack


class Grammar:
    """A small language whose every sentence has a known probability.

    Verbs and nouns agree in number, also across relative clauses. A subject prefers some verbs and a
    verb prefers some objects; which ones, the seed decides. Each random choice shows in the next
    word, and no rule offers a word twice. So the words so far determine which rule is next, and
    p(next word | all words before it) is an entry of that rule. The mean of −log p over a text, in
    nats per word, is a floor: no model that sees only the words before has a lower cross-entropy,
    except by luck on a short text.

    All is drawn by ``random.Random.random``, so that a seed means the same text in every version of
    Python.

    Args:
        seed: which preferences.

    Attributes:
        words: the vocabulary; a token is a place in it, and token 0 is the full stop.

    Examples:
        >>> grammar = Grammar(0)
        >>> text = grammar.sample(2, 8, seed=0)
        >>> grammar.spell(text.tokens[0])
        '. ...'
        >>> text.tokens.shape, text.log_p.shape, len(grammar.words)
        (torch.Size([2, 9]), torch.Size([2, 8]), 94)
    """

    def __init__(self, seed: int = 0) -> None:
        uniform = _uniform(seed, 0)
        kinds = [*NOUNS, *VERBS, DETERMINERS, ADJECTIVES, ADVERBS]
        self.words = (".", "and", "that", *(word for kind in kinds for word in kind))
        self._number = {word: i for i, word in enumerate(self.words)}
        self._subjects = _zipf(uniform, range(len(NOUNS)), 1)
        self._adjectives, self._adverbs = (_zipf(uniform, w, 1) for w in (ADJECTIVES, ADVERBS))
        self._verbs = [_zipf(uniform, range(len(VERBS)), 1.8) for _ in NOUNS]
        self._objects = [_zipf(uniform, range(len(NOUNS)), 1.8) for _ in TRANSITIVE]
        self._states: dict[Symbol, _State] = {}
        self._start = self._state(START)

    def sample(self, n: int, length: int, *, seed: int) -> Text:
        """Draw ``n`` rows of ``length`` words behind a full stop.

        Args:
            seed: which sentences. Take another one for a text to train on than for one to test on.

        Raises:
            ValueError: a count that is not a positive integer.
            TypeError: a seed that is not an integer.
        """
        check_counts(n=n, length=length)
        uniform = _uniform(seed, 1)
        tokens, log_p = [], []
        for _ in range(n):
            row, logs, stack = [0], [], [self._start]
            for _ in range(length):
                state = stack.pop()
                i = bisect(state.bounds, uniform())
                row.append(state.words[i])
                logs.append(state.log_p[i])
                stack += state.behind[i]
            tokens.append(row)
            log_p.append(logs)
        return Text(torch.tensor(tokens), torch.tensor(log_p, dtype=torch.float64))

    def next_word(self, tokens: Tensor) -> Tensor:
        """The probability of every word behind the beginning of a row: (t,) int64 -> (words,) float64.

        Raises:
            ValueError: tokens that no row of this grammar begins with.

        Examples:
            >>> grammar = Grammar(0)
            >>> [grammar.words[i] for i in grammar.next_word(torch.tensor([0])).nonzero()]
            ['the', 'a', 'this', 'every', 'some', 'these', 'many']
        """
        first, *rest = tokens.tolist() if tokens.dim() == 1 and len(tokens) else [None]
        if first != 0:
            raise ValueError(f"tokens must be (t,) and start with 0, the full stop, got {tokens!r}")
        stack = [self._start]
        for place, token in enumerate(rest, start=1):
            state = stack.pop()
            if token not in state.words:
                raise ValueError(
                    f"tokens must begin a row of this grammar, got {token!r} at {place}"
                )
            stack += state.behind[state.words.index(token)]
        found = torch.zeros(len(self.words), dtype=torch.float64)
        found[stack[-1].words] = torch.tensor(stack[-1].log_p, dtype=torch.float64).exp()
        return found

    def spell(self, tokens: Tensor) -> str:
        """The words of a row, (t,) int64, with spaces between them."""
        return " ".join(self.words[i] for i in tokens.tolist())

    def _state(self, symbol: Symbol) -> _State:
        """The rule of a symbol, made once with those that it leads to."""
        if symbol not in self._states:
            state = self._states[symbol] = _State([], [], [], [])
            kind, *arguments = symbol
            rule = getattr(self, f"_{kind}")(*arguments)
            state.bounds.extend([*accumulate(p for p, _ in rule.values())][:-1])
            for word, (p, behind) in rule.items():
                state.words.append(self._number[word])
                state.log_p.append(math.log(p))
                state.behind.append([self._state(s) for s in reversed(behind)])
        return self._states[symbol]

    # The rules. Number m is 0 for one and 1 for many; depth is that of the clauses around.

    def _phrase(self, place: tuple[str, int]) -> Rule:
        return {word: (p, [("noun", m, place, True)]) for word, (p, m) in DETERMINERS.items()}

    def _noun(self, number: int | None, place: tuple[str, int], adjectives: bool) -> Rule:
        """The noun of a phrase, ("subject", depth) or ("object", verb), maybe an adjective first."""
        kind, x = place
        nouns = {
            NOUNS[n][m]: (p * share, self._behind(kind, n, m, x))
            for n, p in (self._objects[x] if kind == "object" else self._subjects).items()
            for m, share in enumerate(NUMBERS[number])
            if share
        }
        if not adjectives:
            return nouns
        opened = {
            word: (p, [("noun", number, place, False)]) for word, p in self._adjectives.items()
        }
        return _share(opened, ADJECTIVE) | _share(nouns, 1 - ADJECTIVE)

    def _behind(self, kind: str, n: int, m: int, depth: int) -> list[Symbol]:
        if kind == "object":
            return []
        return [("predicate", n, m, depth)] + ([("end", n, m)] if depth == 0 else [])

    def _predicate(self, n: int, m: int, depth: int) -> Rule:
        """Behind a subject: a relative clause first, or its verb at once."""
        verbs = self._verb(n, m, depth)
        if depth == len(RELATIVE):
            return verbs
        clause: Rule = {"that": (1, [("clause", n, m, depth + 1), ("verb", n, m, depth)])}
        return _share(clause, RELATIVE[depth]) | _share(verbs, 1 - RELATIVE[depth])

    def _clause(self, n: int, m: int, depth: int) -> Rule:
        """About noun n: "that sleeps" or "that sees a cat", else "that the cat sees"."""
        own, others = self._verb(n, m, 0), self._phrase(("subject", depth))
        return _share(own, WITHOUT_SUBJECT) | _share(others, 1 - WITHOUT_SUBJECT)

    def _verb(self, n: int, m: int, depth: int) -> Rule:
        """A verb of noun n. In a clause with a subject, its object stands before the clause."""
        if depth == 0:
            return {
                VERBS[v][m]: (p, [("phrase", ("object", v))] if v < len(TRANSITIVE) else [])
                for v, p in self._verbs[n].items()
            }
        known = {TRANSITIVE[v][m]: p for v, p in self._verbs[n].items() if v < len(TRANSITIVE)}
        return {word: (p / sum(known.values()), []) for word, p in known.items()}

    def _end(self, n: int, m: int) -> Rule:
        adverbs: Rule = {word: (p, [("stop",)]) for word, p in self._adverbs.items()}
        more: Rule = {"and": (AND, [("verb", n, m, 0), ("stop",)])}
        return self._stop(1 - AND - ADVERB) | more | _share(adverbs, ADVERB)

    def _stop(self, p: float = 1.0) -> Rule:
        return {".": (p, [START])}


def _uniform(seed: int, stream: int) -> Callable[[], float]:
    """Numbers from 0 to 1 of one of two streams of this seed."""
    return random.Random((2 * seeds.shifted(seed) + stream) % 2**65).random


def _zipf(uniform: Callable[[], float], items: Iterable[Any], power: float) -> dict[Any, float]:
    """Probabilities that fall as 1 / rank^power, over the items in a random order."""
    order = sorted(items, key=lambda _: uniform())
    weights = [rank**-power for rank in range(1, len(order) + 1)]
    return {item: weight / sum(weights) for item, weight in zip(order, weights, strict=True)}


def _share(rule: Rule, share: float) -> Rule:
    return {word: (share * p, behind) for word, (p, behind) in rule.items()}
