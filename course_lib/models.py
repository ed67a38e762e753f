"""The networks of the course: plain ``nn.Sequential`` with named layers, small enough for a laptop.

``vgg``, ``resnet``, ``inception`` and ``mobilenet`` are small examples of the four ways in which
channels are connected. Where the output of a layer goes two ways, an ``nn.Module`` connects it.
``tiny_transformer`` reads words in place of images.

Every function takes a ``seed``. The same seed gives the same initial weights on one torch version.
Torch's global generator keeps its state. ``width`` is a factor for all hidden sizes.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import seeds
from course_lib.data import check_counts

Module = TypeVar("Module", bound=nn.Module)


def mlp(sizes: Sequence[int] = (196, 100, 50, 10), *, seed: int = 0) -> nn.Sequential:
    """A fully connected network with ReLU between its layers ``fc1``, ``fc2``, …

    Args:
        sizes: inputs, hidden units, outputs. The default is for 14×14 images and has 25,100 weights.

    Shapes:
        (batch, …) with ``sizes[0]`` numbers per image -> (batch, ``sizes[-1]``) logits.

    Raises:
        ValueError: fewer than two sizes, or one that is not a positive integer.

    Examples:
        >>> mlp((196, 10))
        Sequential(
          (flatten): Flatten(start_dim=1, end_dim=-1)
          (fc1): Linear(in_features=196, out_features=10, bias=True)
        )
    """
    if len(sizes) < 2 or any(type(n) is not int or n < 1 for n in sizes):
        raise ValueError(f"sizes must hold at least two positive integers, got {tuple(sizes)!r}")

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
    """LeNet-5 as the pruning papers use it, for 28×28 grey images: 430,500 weights at ``width=1``.

    It has two 5×5 convolutions without padding, max pooling, and 500 hidden units.
    """
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
    """Two 3×3 convolutions with max pooling and one linear layer, for grey images.

    Args:
        size: side of the images in pixels, even and at least 4; also for the networks below.

    Examples:
        >>> small_cnn(size=14)(torch.zeros(5, 1, 14, 14)).shape
        torch.Size([5, 10])
    """
    _check_size(size)
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


def vgg(*, size: int = 14, width: float = 1.0, seed: int = 0) -> nn.Sequential:
    """A chain: four 3×3 convolutions with batch norm, two max poolings and one linear layer.

    Source: Simonyan & Zisserman 2015, in small.
    """
    _check_size(size)
    c1, c2 = _scaled(16, width), _scaled(32, width)

    def layers() -> OrderedDict[str, nn.Module]:
        return OrderedDict[str, nn.Module](
            block1=_conv_bn_relu(1, c1),
            block2=_conv_bn_relu(c1, c1),
            pool1=nn.MaxPool2d(2),
            block3=_conv_bn_relu(c1, c2),
            block4=_conv_bn_relu(c2, c2),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),  # (b, c2, size // 4, size // 4) -> (b, c2 * (size // 4)²)
            fc=nn.Linear(c2 * (size // 4) ** 2, 10),
        )

    return _seeded(seed, layers)


def resnet(*, size: int = 14, width: float = 1.0, seed: int = 0) -> nn.Sequential:
    """Sums: two residual blocks.

    The second has half the resolution, twice the channels, and a 1×1 convolution on its shortcut.

    Source: He et al. 2016, in small.
    """
    _check_size(size)
    c1, c2 = _scaled(16, width), _scaled(32, width)

    def layers() -> OrderedDict[str, nn.Module]:
        return OrderedDict[str, nn.Module](
            stem=_conv_bn_relu(1, c1),
            pool1=nn.MaxPool2d(2),
            block1=Residual(c1, c1),
            block2=Residual(c1, c2, stride=2),
            flatten=nn.Flatten(),  # (b, c2, ⌈size // 2 / 2⌉, …) -> (b, c2 * ⌈…⌉²)
            fc=nn.Linear(c2 * ((size // 2 + 1) // 2) ** 2, 10),
        )

    return _seeded(seed, layers)


def inception(*, size: int = 14, width: float = 1.0, seed: int = 0) -> nn.Sequential:
    """Branches: two Inception blocks of four branches each.

    Source: Szegedy et al. 2015, in small.
    """
    _check_size(size)
    c, b1, b2 = _scaled(16, width), _scaled(6, width), _scaled(8, width)

    def layers() -> OrderedDict[str, nn.Module]:
        return OrderedDict[str, nn.Module](
            stem=_conv_bn_relu(1, c),
            pool1=nn.MaxPool2d(2),
            block1=Inception(c, b1),  # -> (b, 4 * b1, size // 2, size // 2)
            pool2=nn.MaxPool2d(2),
            block2=Inception(4 * b1, b2),
            flatten=nn.Flatten(),  # (b, 4 * b2, size // 4, size // 4) -> (b, 4 * b2 * (size // 4)²)
            fc=nn.Linear(4 * b2 * (size // 4) ** 2, 10),
        )

    return _seeded(seed, layers)


def mobilenet(*, size: int = 14, width: float = 1.0, seed: int = 0) -> nn.Sequential:
    """Depthwise separable convolutions: a 3×3 per channel, then a 1×1 across channels, three times.

    Source: Howard et al. 2017, in small.
    """
    _check_size(size)
    c1, c2 = _scaled(16, width), _scaled(32, width)

    def pair(c_in: int, c_out: int, stride: int) -> nn.Sequential:
        depthwise = _conv_bn_relu(c_in, c_in, stride=stride, groups=c_in)
        return nn.Sequential(*depthwise, *_conv_bn_relu(c_in, c_out, kernel=1))

    def layers() -> OrderedDict[str, nn.Module]:
        return OrderedDict[str, nn.Module](
            stem=_conv_bn_relu(1, c1),
            pair1=pair(c1, c2, 2),
            pair2=pair(c2, c2, 1),
            pair3=pair(c2, c2, 2),
            flatten=nn.Flatten(),  # (b, c2, ⌈size / 4⌉, ⌈size / 4⌉) -> (b, c2 * ⌈size / 4⌉²)
            fc=nn.Linear(c2 * ((size + 3) // 4) ** 2, 10),
        )

    return _seeded(seed, layers)


class Residual(nn.Module):
    """ReLU(f(x) + x), where f is two 3×3 convolutions. A 1×1 convolution adapts x if shapes change."""

    def __init__(self, c_in: int, c_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = _conv_bn_relu(c_in, c_out, stride=stride)
        self.second = _conv_bn_relu(c_out, c_out)[:-1]  # its ReLU comes after the sum
        same = stride == 1 and c_in == c_out
        self.shortcut = (
            nn.Identity() if same else _conv_bn_relu(c_in, c_out, kernel=1, stride=stride)[:-1]
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class Inception(nn.Module):
    """Four branches, joined channel after channel: (b, c_in, h, w) -> (b, 4 c, h, w).

    They are 1×1; 1×1 and 3×3; 1×1 and 5×5; 3×3 max pooling and 1×1.
    """

    def __init__(self, c_in: int, c: int) -> None:
        super().__init__()
        self.one = _conv_bn_relu(c_in, c, kernel=1)
        self.three = nn.Sequential(_conv_bn_relu(c_in, c, kernel=1), _conv_bn_relu(c, c))
        self.five = nn.Sequential(_conv_bn_relu(c_in, c, kernel=1), _conv_bn_relu(c, c, kernel=5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), _conv_bn_relu(c_in, c, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


def tiny_transformer(
    vocabulary: int,
    *,
    width: int = 64,
    blocks: int = 2,
    heads: int = 4,
    context: int = 32,
    seed: int = 0,
) -> "Transformer":
    """A language model: for each word of a row, the logits of the word that follows.

    It is a decoder with the norm before each part, learned positions and tied embeddings: the matrix
    that turns words into vectors also turns vectors into logits. Its eight linear layers are
    ``blocks.0.qkv``, ``.out``, ``.up``, ``.down`` and those of ``blocks.1``. Weights start normally
    distributed with a standard deviation of 0.02, divided by √(2 ``blocks``) where a layer adds to
    the sum that runs through all blocks; this model learns faster from there than from the start of
    the other networks. Biases start at zero.

    Args:
        vocabulary: how many words there are.
        width: numbers per word between the blocks, a multiple of ``heads``.
        context: the longest row.

    Shapes:
        (batch, t) int64 with t <= ``context`` -> (batch, t, ``vocabulary``).

    Source: Vaswani et al. 2017, in small, in the form of GPT-2.

    Raises:
        ValueError: a count that is not a positive integer, or a width that ``heads`` does not divide.

    Examples:
        >>> model = tiny_transformer(94)
        >>> model(torch.zeros(5, 32, dtype=torch.int64)).shape
        torch.Size([5, 32, 94])
        >>> sum(p.numel() for p in model.parameters())
        108160
    """
    counts = {"vocabulary": vocabulary, "width": width, "blocks": blocks}
    check_counts(**counts, heads=heads, context=context)
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
    return _drawn(seed, lambda: Transformer(vocabulary, width, blocks, heads, context))


class Transformer(nn.Module):
    """What ``tiny_transformer`` builds."""

    def __init__(self, vocabulary: int, width: int, blocks: int, heads: int, context: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        for name, values in self.named_parameters():
            if name.endswith("weight") and values.dim() == 2:
                adds = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(values, std=0.02 / math.sqrt(2 * blocks if adds else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(values)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.words(tokens) + self.positions(places)  # (b, t) -> (b, t, width)
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.words.weight.t()  # (b, t, width) -> (b, t, vocabulary)


class Block(nn.Module):
    """Attention to the words so far, then a layer of ``4 width`` hidden units; both are added to x.

    The number of heads follows from the rows of ``qkv``, so that a head can be cut out: its rows of
    ``qkv`` (queries, keys and values) and its columns of ``out``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head = width // heads  # numbers per head
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    def attention(self, x: Tensor) -> Tensor:
        """(b, t, width) -> (b, t, width)."""
        split = self.qkv(x).unflatten(-1, (3, -1, self.head))  # (b, t, 3, heads, head)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # (b, heads, t, head) each
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (b, heads, t, head)
        return self.out(mixed.transpose(1, 2).flatten(2))  # (b, t, heads * head) -> (b, t, width)


def _conv_bn_relu(
    c_in: int, c_out: int, *, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution that keeps the size at stride 1, without bias: batch norm has one."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )


def _check_size(size: int) -> None:
    if type(size) is not int or size < 4 or size % 2:
        raise ValueError(f"size must be an even integer of at least 4, got {size!r}")


def _scaled(n: int, width: float) -> int:
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < math.inf:
        raise ValueError(f"width must be a positive number, got {width!r}")
    return max(1, round(n * width))


def seeded(seed: int, build: Callable[[], Module]) -> Module:
    """Call ``build`` with a seed, initialise the result, and leave the caller's generator as it was.

    Weights start normally distributed with variance 2 / fan-in, and biases at zero. Torch's own
    initialisation has a variance six times smaller; with it, a deep network that is pruned before
    training hardly trains.

    Source: He et al. 2015.

    Raises:
        TypeError: a seed that is not an integer.

    Examples:
        >>> layer, same = (seeded(0, lambda: nn.Linear(4, 3)) for _ in range(2))
        >>> torch.equal(layer.weight, same.weight)
        True
    """

    def initialised() -> Module:
        model = build()
        for layer in model.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        return model

    return _drawn(seed, initialised)


def _drawn(seed: int, build: Callable[[], Module]) -> Module:
    """Call ``build`` with a seed, and leave the caller's generator as it was."""
    seed = seeds.shifted(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not those of GPUs, as torch.manual_seed does
        return build()


def _seeded(seed: int, layers: Callable[[], OrderedDict[str, nn.Module]]) -> nn.Sequential:
    return seeded(seed, lambda: nn.Sequential(layers()))
