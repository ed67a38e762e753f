"""The course's networks: plain ``nn.Sequential`` with named layers, small enough for a laptop.

Every builder takes ``width``, a factor on the hidden sizes, and ``seed``. The same seed gives the
same initial weights (on one torch version); torch's global generator is left as it was.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn


def mlp(sizes: Sequence[int] = (196, 100, 50, 10), *, seed: int = 0) -> nn.Sequential:
    """Fully connected network with ReLU between its layers: ``fc1``, ``fc2``, …

    Args:
        sizes: inputs, hidden units, outputs. The default reads 14×14 images: 25,100 weights.

    Shapes:
        (batch, …) with ``sizes[0]`` numbers an example -> (batch, ``sizes[-1]``) logits.
    """
    if len(sizes) < 2 or any(n < 1 for n in sizes):
        raise ValueError(f"sizes must hold at least two positive numbers, got {tuple(sizes)!r}")

    def layers() -> OrderedDict[str, nn.Module]:
        found = OrderedDict[str, nn.Module](flatten=nn.Flatten())
        for i, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
            found[f"fc{i}"] = nn.Linear(n_in, n_out)
            found[f"relu{i}"] = nn.ReLU()
        found.popitem()  # logits carry no ReLU
        return found

    return _seeded(seed, layers)


def lenet_300_100(*, width: float = 1.0, seed: int = 0) -> nn.Sequential:
    """LeNet-300-100 for 28×28 grey images: 266,200 weights at ``width=1``."""
    return mlp((784, _scaled(300, width), _scaled(100, width), 10), seed=seed)


def lenet5(*, width: float = 1.0, seed: int = 0) -> nn.Sequential:
    """LeNet-5 as the pruning papers use it (two 5×5 convolutions without padding, max pooling, 500
    hidden units) for 28×28 grey images: 430,500 weights at ``width=1``."""
    c1, c2, hidden = (_scaled(n, width) for n in (20, 50, 500))

    def layers() -> OrderedDict[str, nn.Module]:
        return OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(1, c1, 5),  # (b, 1, 28, 28) -> (b, c1, 24, 24)
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(c1, c2, 5),  # (b, c1, 12, 12) -> (b, c2, 8, 8)
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(c2 * 16, hidden),
            relu=nn.ReLU(),
            fc2=nn.Linear(hidden, 10),
        )

    return _seeded(seed, layers)


def small_cnn(*, size: int = 14, width: float = 1.0, seed: int = 0) -> nn.Sequential:
    """Two 3×3 convolutions with max pooling and one linear layer, for ``size``×``size`` grey
    images (any multiple of 2 from 4 on)."""
    if size < 4 or size % 2:
        raise ValueError(f"size must be an even number from 4 on, got {size!r}")
    c1, c2 = _scaled(16, width), _scaled(32, width)

    def layers() -> OrderedDict[str, nn.Module]:
        return OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(1, c1, 3, padding=1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(c1, c2, 3, padding=1),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),  # (b, c2, size // 4, size // 4) -> (b, c2 * (size // 4)²)
            fc=nn.Linear(c2 * (size // 4) ** 2, 10),
        )

    return _seeded(seed, layers)


def _scaled(n: int, width: float) -> int:
    if not width > 0:
        raise ValueError(f"width must be positive, got {width!r}")
    return max(1, round(n * width))


def _seeded(seed: int, layers: Callable[[], OrderedDict[str, nn.Module]]) -> nn.Sequential:
    """Build layers from a seed without disturbing the caller's random numbers.

    Weights start as He et al. 2015 propose for ReLU, normal with variance 2 / fan-in, and biases at
    zero: torch's own start is six times smaller in variance, and under it a deep network
    that is pruned before training hardly trains at all.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(layers())
        for layer in model:
            if hasattr(layer, "weight"):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
    return model
