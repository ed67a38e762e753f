"""Data sets as float tensors with a fixed split.

``glyphs`` (drawn from matplotlib's fonts) and ``digits`` (handwriting that comes with scikit-learn)
need no file and no network. Torchvision reads ``mnist``, ``fashion`` and ``cifar10`` from a folder
that you name; only ``download`` fetches them.
"""

import math
import os
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import NamedTuple

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
    """Draw ``n`` digits: printed characters that are bent, turned, thickened and blurred.

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
