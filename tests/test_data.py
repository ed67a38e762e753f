"""Data: determinism, statistics, torchvision's folder, clear errors."""

import itertools
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from course_lib import data

REAL = Path(os.environ.get("COURSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_real = pytest.mark.skipif(
    not (REAL / "MNIST").is_dir(),
    reason="real MNIST not found: set COURSE_DATA to torchvision's data folder to run this",
)


@pytest.mark.parametrize("size", [14, 28])
def test_glyphs_look_like_digits(size):
    train, test = data.load("glyphs", size=size, n_train=500, n_test=300)
    assert train.x.shape == (500, 1, size, size) and train.x.dtype == torch.float32
    assert test.x.shape == (300, 1, size, size) and test.y.dtype == torch.int64
    assert train.x.min() >= 0 and train.x.max() <= 1
    assert torch.equal(train.y.bincount(), torch.full((10,), 50))
    assert 0.08 < train.x.mean() < 0.22  # MNIST: 0.13
    border = torch.cat([train.x[:, 0, 0], train.x[:, 0, -1]]).mean()
    assert border < 0.3 * train.x.mean()  # the ink is in the middle


def test_default_test_set_is_known_to_half_a_percent():
    _, test = data.load("glyphs", n_train=1)
    worst = 100 * 1.96 * (0.95 * 0.05 / len(test.y)) ** 0.5  # at 95 % accuracy
    assert worst <= 0.5


def test_glyphs_follow_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    (a, _), (b, _), (c, _) = (data.load("glyphs", n_train=50, n_test=5, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)
    assert not torch.equal(a.x, c.x)


def test_more_training_images_leave_the_test_set_as_it_is():
    _, few = data.load("glyphs", n_train=10, n_test=20)
    _, many = data.load("glyphs", n_train=90, n_test=20)
    assert torch.equal(few.x, many.x)


def test_train_and_test_differ():
    train, test = data.load("glyphs", n_train=200, n_test=200)
    assert torch.cdist(train.x.flatten(1), test.x.flatten(1)).min() > 0.1
    a, b = data.load("glyphs", n_train=20, n_test=20, seed=0)[1], data.load("glyphs", seed=1)[0]
    assert not torch.equal(a.x, b.x[:20])  # one seed's test set is not another's training set


def test_classes_can_be_told_apart_by_the_nearest_mean():
    train, test = data.load("glyphs", n_train=2000, n_test=1000)
    means = torch.stack([train.x[train.y == d].mean(0).flatten() for d in range(10)])
    guess = torch.cdist(test.x.flatten(1), means).argmin(1)
    assert (guess == test.y).float().mean() > 0.5


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    train, test = data.load("digits")
    assert train.x.shape == (1200, 1, 8, 8) and test.x.shape == (597, 1, 8, 8)
    ours = torch.cat([train.x, test.x]).flatten(1).sort(0).values
    theirs = torch.from_numpy(load_digits().data / 16).float().sort(0).values
    assert torch.equal(ours, theirs)
    assert train.x.max() == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "emnist"}, "name must be one of glyphs, digits, mnist.*'emnist'"),
        ({"size": 20}, "size must be 14 or 28.*20"),
        ({"name": ["glyphs"]}, r"name must be one of .*\['glyphs'\]"),
        ({"size": 14.0}, "size must be 14 or 28.*14.0"),
        ({"name": "mnist", "size": 16}, "size must be 14 or 28 for mnist, got 16"),
        ({"n_train": 0}, "n_train must be a positive integer, got 0"),
        ({"n_test": 2.5}, "n_test must be a positive integer, got 2.5"),
        ({"n_test": "9"}, "n_test must be a positive integer, got '9'"),
        ({"name": "digits", "n_train": True}, "n_train must be a positive integer, got True"),
        ({"name": "digits", "n_train": -3}, "n_train must be a positive integer, got -3"),
        ({"name": "digits", "n_test": 598}, "n_test must be at most 597, got 598"),
    ],
)
def test_impossible_requests_name_the_argument(arguments, words):
    with pytest.raises(ValueError, match=words):
        data.load(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0,), "n must be a positive integer"), ((5, 14.0), "size must be a positive integer")],
)
def test_glyphs_that_cannot_be_drawn_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        data.draw_glyphs(*arguments)


@pytest.mark.parametrize("name", ["glyphs", "digits"])
def test_a_seed_is_an_integer(name):
    with pytest.raises(TypeError, match="seed must be an integer, got None"):
        data.load(name, seed=None)


def test_a_missing_folder_says_what_to_do(monkeypatch):
    monkeypatch.delenv("COURSE_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"mnist needs a folder: pass root=.*COURSE_DATA"):
        data.load("mnist")


def test_what_is_drawn_is_not_downloaded():
    with pytest.raises(
        ValueError, match="name must be one of mnist, fashion, cifar10, got 'glyphs'"
    ):
        data.download("glyphs")


def test_a_download_needs_a_folder(monkeypatch):
    monkeypatch.delenv("COURSE_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"mnist needs a folder"):
        data.download("mnist")


@pytest.mark.parametrize("name", ["mnist", "fashion", "cifar10"])
def test_a_folder_without_data_says_what_to_do(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"{name} was not found.*data.download\\('{name}'"):
        data.load(name, root=tmp_path)


def _idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.tobytes())


def test_torchvisions_layout_is_read(tmp_path, monkeypatch):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    for part, n in (("train", 6), ("t10k", 4)):
        _idx(raw / f"{part}-images-idx3-ubyte", images[:n])
        _idx(raw / f"{part}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8))
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    train, test = data.load("fashion", size=28)
    assert torch.equal(train.x[:, 0], torch.from_numpy(images).float() / 255)
    assert test.y.tolist() == [0, 1, 2, 3]
    small, _ = data.load("fashion", size=14, n_train=2)
    assert small.x.shape == (2, 1, 14, 14)
    assert small.x[0, 0, 0, 0] == pytest.approx(images[0, :2, :2].mean() / 255)


@needs_real
def test_real_mnist_is_read():
    train, test = data.load("mnist", size=28, root=REAL)
    assert len(train.y) == 60_000 and len(test.y) == 10_000
    assert train.x.mean() == pytest.approx(0.1307, abs=1e-3)  # the mean everybody normalises by
    assert train.y[:5].tolist() == [5, 0, 4, 1, 9]


def test_numbers_are_checked_by_name():
    nan, inf, one = float("nan"), float("inf"), torch.ones(())
    for value in (0.5, 3, True, "1", None, one, nan, inf, -inf, 0, -1):
        for check, allowed in (
            (data.check_number, (0.5, 3, nan, inf, -inf, 0, -1)),
            (data.check_real, (0.5, 3, one, 0, -1)),
            (data.check_positive, (0.5, 3)),
            (data.check_nonnegative, (0.5, 3, one, 0)),
        ):
            if repr(value) in map(repr, allowed):  # True == 1, and NaN equals nothing
                check("strength", value)
                continue
            number = type(value) in (int, float)
            with pytest.raises(ValueError if number else TypeError, match="^strength must be "):
                check("strength", value)
    assert data.check_real("strength", 3) == data.check_number("strength", 3) == 3


def test_splits_move_between_devices():
    train, _ = data.load("glyphs", n_train=2, n_test=1)
    assert train.to("meta").x.device.type == "meta"
    assert train.x.device.type == "cpu"


# ---- sentences


@pytest.fixture(scope="module")
def grammar():
    return data.Grammar(7)


def entropy_rate(grammar):
    """Nats per word of an endless text: the entropies of all rules, each as often as it is used."""
    states = list(grammar._states.values())
    place = {id(state): i for i, state in enumerate(states)}
    used = np.zeros((len(states), len(states)))  # one use of rule i calls for so many of rule j
    for i, state in enumerate(states):
        for log_p, behind in zip(state.log_p, state.behind, strict=True):
            for other in behind:
                used[i, place[id(other)]] += np.exp(log_p)
    start = place[id(grammar._start)]
    used[:, start] = 0  # one sentence
    uses = np.linalg.solve(np.eye(len(states)) - used.T, np.eye(len(states))[start])
    entropies = [-sum(np.exp(p) * p for p in state.log_p) for state in states]
    return uses @ entropies / uses.sum()


def test_mean_log_p_is_the_entropy_of_the_rules(grammar):
    text = grammar.sample(50, 4000, seed=1)
    rows = -text.log_p.mean(1)
    # Rows are independent; |z| < 4 fails once in 15,000 sets of sentences.
    assert abs(rows.mean() - entropy_rate(grammar)) < 4 * rows.std() / 50**0.5


def test_each_log_p_is_that_of_the_next_word_and_all_next_words_sum_to_one(grammar):
    text = grammar.sample(20, 24, seed=2)
    for row, logs in zip(text.tokens, text.log_p, strict=True):
        for t, log_p in enumerate(logs):
            p = grammar.next_word(row[: t + 1])
            assert p.sum().item() == pytest.approx(1)
            assert p[row[t + 1]].log().item() == pytest.approx(log_p.item())


def test_beginnings_are_as_frequent_as_their_probability_says(grammar):
    n = 20_000
    text = grammar.sample(n, 2, seed=3)
    seen = torch.zeros(94, 94).index_put(
        (text.tokens[:, 1], text.tokens[:, 2]), torch.ones(n), accumulate=True
    )
    first = grammar.next_word(torch.tensor([0]))
    claimed = torch.zeros(94, 94, dtype=torch.float64)
    for word in first.nonzero().flatten():
        claimed[word] = first[word] * grammar.next_word(torch.tensor([0, word]))
    assert claimed.sum().item() == pytest.approx(1) and not seen[claimed == 0].any()
    often = claimed > 20 / n
    squares = (seen[often] - n * claimed[often]) ** 2 / (n * claimed[often])
    free = int(often.sum())
    assert squares.sum() < free + 4 * (2 * free) ** 0.5  # chi-square, fails about once in 5,000


def test_no_count_of_words_gets_below_the_floor(grammar):
    train, test = (grammar.sample(n, 32, seed=s) for n, s in ((4000, 4), (1000, 5)))
    counts = torch.full((94, 94), 0.01, dtype=torch.float64)
    pairs = train.tokens[:, :-1].flatten(), train.tokens[:, 1:].flatten()
    counts.index_put_(pairs, torch.ones(len(pairs[0]), dtype=torch.float64), accumulate=True)
    log_p = (counts / counts.sum(1, keepdim=True)).log()[test.tokens[:, :-1], test.tokens[:, 1:]]
    above = (test.log_p - log_p).mean(1)
    assert above.mean() > 0.3  # a bigram knows neither subject nor clause; 0.53 was measured


def test_verbs_agree_with_their_nouns_and_nouns_with_their_determiners(grammar):
    number = {w: m for pair in data.NOUNS + data.VERBS for m, w in enumerate(pair)}
    number |= {word: m for word, (_, m) in data.DETERMINERS.items() if m is not None}
    nouns, verbs = ({w for pair in kind for w in pair} for kind in (data.NOUNS, data.VERBS))
    rows = [grammar.spell(row) for row in grammar.sample(2000, 16, seed=6).tokens]
    checked = dict.fromkeys(("determiner", "clause", "sentence"), 0)
    for sentence in " ".join(rows).split("."):
        words = [w for w in sentence.split() if w not in data.ADJECTIVES]
        pairs = [("determiner", *pair) for pair in itertools.pairwise(words) if pair[1] in nouns]
        triples = zip(words, words[1:], words[2:], strict=False)
        pairs += [("clause", a, c) for a, b, c in triples if b == "that" and c in verbs]
        if "that" not in words:  # one subject, and after "and" a second verb
            pairs += [("sentence", words[1], w) for w in words[2:] if w in verbs]
        for kind, one, other in pairs:
            if one != "the":
                assert number[one] == number[other], sentence
                checked[kind] += 1
    assert min(checked.values()) > 500


def test_a_text_hangs_on_its_seeds_and_on_nothing_else(grammar):
    before = random.getstate()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    text, same = (data.Grammar(7).sample(5, 20, seed=1) for _ in range(2))
    assert random.getstate() == before and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(text.tokens, same.tokens) and torch.equal(text.log_p, same.log_p)
    for other in (grammar.sample(5, 20, seed=2), data.Grammar(8).sample(5, 20, seed=1)):
        assert not torch.equal(other.tokens, text.tokens)
    assert torch.equal(grammar.sample(3, 20, seed=1).tokens, text.tokens[:3])
    x, y = text.split()
    assert x.shape == y.shape == (5, 20) and torch.equal(x[:, 1:], y[:, :-1])


def test_one_seed_is_one_text_in_every_version_of_python():
    grammar = data.Grammar(0)
    assert grammar.spell(grammar.sample(1, 12, seed=0).tokens[0]) == (
        ". the bird meets the farmers . a bear that follows every farmer"
    )


def test_seeds_of_grammars_and_texts_do_not_share_numbers():
    drawn = {data._uniform(seed, stream)() for seed in range(-20, 20) for stream in (0, 1)}
    assert len(drawn) == 80


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.sample(0, 5, seed=0), "n must be a positive integer, got 0"),
        (lambda g: g.sample(5, True, seed=0), "length must be a positive integer, got True"),
        (lambda g: g.sample(5, 5, seed=0.5), "seed must be an integer, got 0.5"),
        (lambda g: data.Grammar("0"), "seed must be an integer, got '0'"),
        (lambda g: g.next_word(torch.tensor([3])), "start with 0, the full stop"),
        (lambda g: g.next_word(torch.tensor([])), "start with 0, the full stop"),
        (lambda g: g.next_word(torch.zeros(2, 2)), "start with 0, the full stop"),
        (lambda g: g.next_word(torch.tensor([0, 0])), "tokens must begin a row.*got 0 at 1"),
    ],
)
def test_grammars_refuse_what_is_none(grammar, call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(grammar)
