"""Data: determinism, statistics, torchvision's folder, clear errors."""

import os
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
