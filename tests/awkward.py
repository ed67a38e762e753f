"""Awkward models, each with a plain twin: another network that computes the same.

``COLUMNS`` maps a name to a function of a kind of network ("cnn" or "mlp") that gives a ``Case``.
Whatever the library computes of the awkward model it has to compute of the twin.
"""

import copy
import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from course_lib import ensemble
from course_lib.compression.binary import Sign
from course_lib.models import seeded


@dataclass
class Case:
    """A model, the same function as a plain network, and a batch for either."""

    model: nn.Module
    twin: nn.Module
    batch: tuple[Tensor, Tensor]
    twin_batch: tuple[Tensor, Tensor] = ()  # by default the same
    view: Callable = lambda name, value: (name, value)  # the model's parameter -> the twin's
    tolerance: float = 1e-4
    layer: str = "middle"  # the awkward one
    extra: str = ""  # a layer that the twin lacks
    masks: dict[str, Tensor] = field(default_factory=dict)  # of what trains in the twin

    def __post_init__(self):
        self.twin_batch = self.twin_batch or self.batch


class Keyword(nn.Sequential):
    """Calls its layers by keyword."""

    def forward(self, x):
        for layer in self:
            x = layer(input=x)
        return x


class Unused(nn.Sequential):
    """Leaves the layer ``again`` out."""

    def forward(self, x):
        for name, layer in self.named_children():
            x = x if name == "again" else layer(x)
        return x


class Borrowed(nn.Module):
    """Computes with the weight of another layer: a tied layer that is none, for twins."""

    def __init__(self, owner, bias):
        super().__init__()
        self.owner, self.bias = (owner,), bias

    def forward(self, x):
        bias = self.owner[0].bias if self.bias is None else self.bias
        if isinstance(self.owner[0], nn.Linear):
            return F.linear(x, self.owner[0].weight, bias)
        return F.conv2d(x, self.owner[0].weight, bias, padding=1)


class Attention(nn.Module):
    """One head over rows, by ``nn.MultiheadAttention`` or, as its twin, by hand."""

    def __init__(self, width, by_hand=False):
        super().__init__()
        self.inner = nn.MultiheadAttention(width, 1, batch_first=True)
        if by_hand:
            weight, bias, out = (
                self.inner.in_proj_weight,
                self.inner.in_proj_bias,
                self.inner.out_proj,
            )
            self.inner = nn.Module()
            self.inner.in_proj_weight, self.inner.in_proj_bias = weight, bias
            self.inner.out_proj = nn.Linear(width, width)
            self.inner.out_proj.weight, self.inner.out_proj.bias = out.weight, out.bias

    def forward(self, x):
        if isinstance(self.inner, nn.MultiheadAttention):
            return self.inner(x, x, x, need_weights=False)[0]
        q, k, v = F.linear(x, self.inner.in_proj_weight, self.inner.in_proj_bias).chunk(3, -1)
        attention = (q @ k.transpose(1, 2) / math.sqrt(x.shape[-1])).softmax(-1)
        return self.inner.out_proj(attention @ v)


def network(kind, norm=None, cls=nn.Sequential):
    return copy.deepcopy(_network(kind, norm, cls))


@functools.cache
def _network(kind, norm, cls):
    """Layers first, middle, again (of one shape) and last, with ReLUs between them.

    Kinds: "cnn", "bn" (with batch norm everywhere), "mlp", "bnn" (weights ±1 behind signs).
    """

    def build():
        if kind in ("cnn", "bn"):
            parts = {"first": nn.Conv2d(2, 4, 3, padding=1), "relu1": nn.ReLU()}
            inner = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)]
            end = {"halve": nn.MaxPool2d(2), "flatten": nn.Flatten(), "last": nn.Linear(16, 3)}
        else:
            parts = {"flatten": nn.Flatten(), "first": nn.Linear(32, 6), "relu1": nn.ReLU()}
            inner = [nn.Linear(6, 6) for _ in range(2)]
            end = {"last": nn.Linear(6, 3)}
        wide = nn.BatchNorm1d(6) if kind in ("mlp", "bnn") else nn.BatchNorm2d(4)
        if norm or kind == "bn":
            parts["norm"] = wide
        parts |= {"middle": inner[0], "relu2": nn.ReLU(), "again": inner[1], "relu3": nn.ReLU()}
        if kind == "bn":
            parts = {n: m for name, m in parts.items() for n, m in _normed(name, m)}
        if norm == "mixed":
            parts["drop"] = nn.Dropout()
        return cls(OrderedDict(parts | end))

    net = seeded(0, build).eval()
    return _signed(net) if kind == "bnn" else net


def _normed(name, layer):
    """The layer, with a batch norm behind it if it is a convolution."""
    is_conv = isinstance(layer, nn.Conv2d)
    return [(name, layer), *([(f"{name}_norm", nn.BatchNorm2d(4))] if is_conv else [])]


def _signed(net):
    parts = OrderedDict(flatten=nn.Flatten())
    for name, layer in net.named_children():
        if isinstance(layer, nn.Linear):
            layer.bias = None
            layer.weight.data = torch.where(layer.weight.data >= 0, 1.0, -1.0)
            parts |= {f"sign_{name}": Sign(), name: layer}
        elif isinstance(layer, nn.BatchNorm1d):
            parts[name] = layer
    return type(net)(parts).eval()


def images():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 2, 4, 4, generator=generator)
    return x, torch.tensor([0, 1, 2, 0, 1, 2])


def plain(kind):
    return Case(network(kind), network(kind), images())


def on_cuda(kind):
    """The model and its batch on a graphics card, where there is one; no column for that reason."""
    case = plain(kind)
    case.model.cuda()
    case.batch = tuple(t.cuda() for t in case.batch)
    return case


class Turned(nn.Module):
    """Rows moved on and turned around: an orthogonal map, which trains as what it computes does."""

    def forward(self, weight):
        return -weight.roll(1, 0)


def parametrised(kind):
    case = plain(kind)
    parametrize.register_parametrization(case.model.middle, "weight", Turned())
    case.twin.middle.weight.data = -case.twin.middle.weight.data.roll(1, 0)
    return case


def weight_norm(kind):
    case = plain(kind)
    parametrizations.weight_norm(case.model.middle)
    return case


def old_weight_norm(kind):
    case = plain(kind)
    nn.utils.weight_norm(case.model.middle)
    return case


def pruned(kind):
    case = plain(kind)
    for net in (case.model, case.twin):
        prune.l1_unstructured(net.middle, "weight", 0.3)
    prune.remove(case.twin.middle, "weight")
    case.masks = {"middle.weight": case.twin.middle.weight.detach() != 0}
    return case


def tied(kind):
    case = plain(kind)
    case.model.again.weight = case.model.middle.weight
    case.twin.again = Borrowed(case.twin.middle, case.twin.again.bias)
    return case


def twice(kind):
    case = plain(kind)
    case.model.again = case.model.middle
    case.twin.again = Borrowed(case.twin.middle, None)
    return case


def unused(kind):
    case = plain(kind)
    case.model = network(kind, cls=Unused)
    case.twin.again, case.extra = nn.Identity(), "again"
    return case


def in_type(dtype, tolerance):
    def make(kind):
        x, y = images()
        model, twin = network(kind).to(dtype), network(kind).to(dtype).float()
        return Case(model, twin, (x.to(dtype), y), (x.to(dtype).float(), y), tolerance=tolerance)

    return make


def frozen(kind):
    case = plain(kind)
    case.model.middle.weight.requires_grad_(False)
    case.masks = {"middle.weight": torch.zeros_like(case.model.middle.weight, dtype=torch.bool)}
    return case


def all_frozen(kind):
    case = plain(kind)
    case.model.requires_grad_(False)
    case.masks = {
        name: torch.zeros_like(p, dtype=torch.bool) for name, p in case.twin.named_parameters()
    }
    return case


def transposed(kind):
    """As a convolution: kernels turned around, inputs and outputs swapped."""
    case = plain(kind if kind == "bn" else "cnn")
    layer = seeded(3, lambda: nn.ConvTranspose2d(2, 4, 3, padding=1)).eval()
    case.model.first, case.layer = layer, "first"
    case.twin.first.weight.data = layer.weight.data.transpose(0, 1).flip(2, 3).contiguous()
    case.twin.first.bias.data = layer.bias.data.clone()

    def view(name, value):
        swap = name == "first.weight" and isinstance(value, Tensor)
        return name, value.transpose(0, 1).flip(2, 3) if swap else value

    case.view = view
    return case


def in_groups(groups):
    """As a convolution with zeros between the groups."""

    def make(kind):
        case = plain(kind if kind == "bn" else "cnn")
        case.model.middle = seeded(3, lambda: nn.Conv2d(4, 4, 3, padding=1, groups=groups)).eval()

        def view(name, value):
            if name != "middle.weight" or not isinstance(value, Tensor):
                return name, value
            wide = value.new_zeros(4, 4, 3, 3)
            for out in range(4):
                first = out * groups // 4 * (4 // groups)
                wide[out, first : first + 4 // groups] = value[out]
            return name, wide

        case.twin.middle.weight.data = view("middle.weight", case.model.middle.weight.data)[1]
        case.twin.middle.bias.data = case.model.middle.bias.data.clone()
        ones = torch.ones_like(case.model.middle.weight, dtype=torch.bool)
        case.view, case.masks = view, dict([view("middle.weight", ones)])
        return case

    return make


def nested(kind):
    case = plain(kind)
    inside = OrderedDict(case.model.named_children())
    case.model = nn.Sequential(OrderedDict(body=nn.Sequential(inside))).eval()
    case.view, case.layer = lambda n, v: (n.removeprefix("body."), v), "body.middle"
    return case


def keyword(kind):
    case = plain(kind)
    case.model = network(kind, cls=Keyword)
    return case


def channels_last(kind):
    case = plain(kind)
    if kind in ("cnn", "bn"):
        case.model.to(memory_format=torch.channels_last)
        case.batch = (
            case.batch[0].contiguous(memory_format=torch.channels_last),
            case.batch[1],
        )
    else:
        for layer in (case.model.middle, case.model.first):
            layer.weight.data = layer.weight.data.t().contiguous().t()
    return case


def compiled(kind):
    case = plain(kind)
    case.model = torch.compile(case.model)
    case.view, case.layer = lambda n, v: (n.removeprefix("_orig_mod."), v), "_orig_mod.middle"
    return case


def with_weight(value):
    def make(kind):
        case = plain(kind)
        for net in (case.model, case.twin):
            net.middle.weight.data[0, 0] = value
        return case

    return make


def dead(kind):
    """A filter, and a whole layer, of zeros."""
    case = plain(kind)
    for net in (case.model, case.twin):
        net.middle.weight.data[0] = 0
        net.again.weight.data.zero_()
    return case


def normed(mode):
    """The twin is in evaluation mode."""

    def make(kind):
        case = Case(network(kind, mode), network(kind, mode), images())
        for net in (case.model, case.twin):
            net.norm.running_mean += 0.1
            net.norm.weight.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(2))
        case.model.train()
        if mode == "mixed":
            case.model.norm.eval()
        return case

    return make


def attention(kind):
    def build(by_hand):
        inner = OrderedDict(
            rows=nn.Flatten(2),  # (B, 2, 16)
            middle=Attention(16, by_hand),
            flatten=nn.Flatten(),
            last=nn.Linear(32, 3),
        )
        return seeded(0, lambda: nn.Sequential(inner)).eval()

    def both(by_hand):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return build(by_hand)

    model, twin = both(False), both(True)
    twin.load_state_dict(model.state_dict())
    return Case(model, twin, images(), layer="middle.inner.out_proj")


def lazy(kind):
    case = plain(kind)
    case.model.last = nn.LazyLinear(3).eval()
    case.layer = "last"
    return case


def no_layer(kind):
    model = nn.Sequential(OrderedDict(flatten=nn.Flatten(), relu=nn.PReLU()))
    x, y = images()
    return Case(model.eval(), copy.deepcopy(model), (x, y), layer="relu")


def no_parameter(kind):
    model = nn.Sequential(OrderedDict(relu=nn.ReLU(), flatten=nn.Flatten()))
    return Case(model.eval(), copy.deepcopy(model), images(), layer="relu")


def stacked(kind):
    case = plain(kind)
    kind = "mlp" if kind == "mlp" else "cnn"  # without batch norm
    case.model = ensemble.stack([network(kind), network(kind)])
    return case


def with_batch(change):
    def make(kind):
        case = plain(kind)
        case.batch = change(*images())
        return case

    return make


COLUMNS = {
    "plain": plain,
    "parametrised": parametrised,
    "weight_norm": weight_norm,
    "old_weight_norm": old_weight_norm,
    "pruned": pruned,
    "tied": tied,
    "twice": twice,
    "unused": unused,
    "float16": in_type(torch.float16, 5e-2),
    "bfloat16": in_type(torch.bfloat16, 2e-1),
    "float64": in_type(torch.float64, 1e-4),
    "frozen": frozen,
    "all_frozen": all_frozen,
    "transposed": transposed,
    "grouped": in_groups(2),
    "depthwise": in_groups(4),
    "nested": nested,
    "keyword": keyword,
    "channels_last": channels_last,
    "compiled": compiled,
    "nan": with_weight(math.nan),
    "inf": with_weight(math.inf),
    "dead": dead,
    "bn_training": normed("training"),
    "mixed_modes": normed("mixed"),
    "attention": attention,
    "lazy": lazy,
    "no_layer": no_layer,
    "no_parameter": no_parameter,
    "stack": stacked,
    "empty_batch": with_batch(lambda x, y: (x[:0], y[:0])),
    "nan_batch": with_batch(lambda x, y: (x.masked_fill(x > 2, math.nan), y)),
    "unbatched": with_batch(lambda x, y: (x[0], y[:1])),
}
