"""Compact layers: formulas against counters, surgery against the parts it kept."""

import copy
from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune

from course_lib import measure, models
from course_lib.compression import compact, quantization

CASES = [(3, 8, 16, 14), (5, 1, 7, 9), (1, 4, 4, 6), (3, 1, 1, 1)]


@pytest.mark.parametrize(("k", "m", "n", "f"), CASES)
def test_formulas_are_what_the_counter_counts(k, m, n, f):
    conv = nn.Conv2d(m, n, k, padding=k // 2, bias=False)
    light, x = compact.separable(conv), torch.zeros(1, m, f, f)
    assert measure.macs(conv, x) == compact.standard_macs(k, m, n, f)
    assert measure.macs(light, x) == compact.separable_macs(k, m, n, f)
    assert conv.weight.numel() == compact.standard_macs(k, m, n, 1)
    weights = sum(p.numel() for p in light.parameters() if p.dim() == 4)
    assert weights == compact.separable_macs(k, m, n, 1)
    ratio = compact.separable_macs(k, m, n, f) / compact.standard_macs(k, m, n, f)
    assert ratio == pytest.approx(1 / n + 1 / k**2)


@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1}, {"dilation": 2}, {}])
def test_separable_keeps_the_shape(options):
    conv = nn.Conv2d(5, 7, 3, **options)
    x = torch.randn(2, 5, 12, 10)
    light = compact.separable(conv, seed=1)
    assert light(x).shape == conv(x).shape
    assert light[0].groups == 5 and light[3].kernel_size == (1, 1)
    again = compact.separable(conv, seed=1)
    assert torch.equal(again[0].weight, light[0].weight)


def test_separable_is_a_loop_over_channels():
    light = compact.separable(nn.Conv2d(3, 4, 3, bias=False))
    x = torch.randn(1, 3, 6, 6)
    patches = x.unfold(2, 3, 1).unfold(3, 3, 1)  # (1, 3, 4, 4, 3, 3)
    depth = torch.stack(
        [(patches[:, c] * light[0].weight[c, 0]).sum((-1, -2)) for c in range(3)], dim=1
    )
    torch.testing.assert_close(light[0](x), depth)
    point = sum(
        light[3].weight[:, c, 0, 0].view(1, 4, 1, 1) * depth[:, c : c + 1] for c in range(3)
    )
    torch.testing.assert_close(light[3](depth), point)


@pytest.mark.parametrize("build", [models.small_cnn, models.vgg, models.resnet, models.inception])
def test_pooled_head(build):
    net, x = build(), torch.randn(4, 1, 14, 14)
    net.eval()
    before = copy.deepcopy(net.state_dict())
    small = compact.pooled_head(net, x, seed=2).eval()
    features = x
    for name, layer in net.named_children():
        if name == "flatten":
            break
        features = layer(features)
    expected = small.fc(features.mean((2, 3)))  # an average a map, then the linear layer
    torch.testing.assert_close(small(x), expected)
    channels, side = features.shape[1], features.shape[2]
    assert net.fc.weight.numel() == channels * side**2 * 10
    assert small.fc.weight.numel() == channels * 10
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def meta(build, **options):
    """Shapes without numbers: nothing is drawn, nothing is multiplied."""
    with torch.device("meta"):
        return build(weights=None, **options), torch.zeros(1, 3, 224, 224)


def test_torchvisions_vgg_is_mostly_head():
    net, x = meta(torchvision.models.vgg16)
    parts = compact.by_part(net, x)
    weights = 512 * 7**2 * 4096 + 4096 * 4096 + 4096 * 1000
    assert parts["linear"][0] == weights + 9192
    assert round(measure.count_parameters(net), -6) == 138_000_000  # Simonyan & Zisserman, table 2
    assert parts["linear"][0] / measure.count_parameters(net) > 0.89
    assert parts["linear"][1] / measure.macs(net, x) < 0.01
    assert parts["linear"][1] == weights


def test_torchvisions_googlenet_has_a_ninth_of_alexnet():
    net, x = meta(torchvision.models.googlenet, aux_logits=False, init_weights=False)
    alexnet, _ = meta(torchvision.models.alexnet)
    parts = compact.by_part(net, x)
    assert parts["linear"][0] == 1024 * 1000 + 1000
    # Szegedy et al. say 12 times fewer than Krizhevsky et al. (60 M); counted here it is 9 times.
    assert round(measure.count_parameters(alexnet) / measure.count_parameters(net)) == 9
    aux, _ = meta(torchvision.models.googlenet, init_weights=False)
    with_heads = compact.by_part(aux.eval(), x)
    assert with_heads["linear"][1] == parts["linear"][1]  # auxiliary heads do not run
    assert with_heads["linear"][0] > parts["linear"][0]


def test_a_mobilenet_of_full_convolutions_costs_what_howard_says():
    """Table 4: 569 million multiply–adds and 4.2 million parameters, 4866 and 29.3 without
    separable convolutions; built here from table 1's channels and strides."""
    stages = [(32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    stages += [(512, 512, 1)] * 5 + [(512, 1024, 2), (1024, 1024, 1)]
    with torch.device("meta"):
        x = torch.zeros(1, 3, 224, 224)
        stem = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        full = [nn.Conv2d(m, n, 3, stride=s, padding=1, bias=False) for m, n, s in stages]
        tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000)]
        standard = nn.Sequential(stem, *full, *tail)
    light = nn.Sequential(stem, *(compact.separable(c).to("meta") for c in full), *tail)
    counted = {
        "standard": (measure.macs(standard, x), measure.count_parameters(standard)),
        "separable": (measure.macs(light, x), measure.count_parameters(light)),
    }
    assert [round(n / 1e6, 1) for n in counted["separable"]] == [568.7, 4.2]
    assert counted["standard"][0] / 1e6 == pytest.approx(4866, rel=0.001)
    assert round(counted["standard"][1] / 1e6, 1) == 29.3


def state(model):
    tensors = {n: (t.clone(), t.dtype) for n, t in model.state_dict().items()}
    return (
        tensors,
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
    )


def same(before, after):
    return before[1:] == after[1:] and all(
        torch.equal(t, after[0][n][0]) and dtype == after[0][n][1]
        for n, (t, dtype) in before[0].items()
    )


def tied_maps():
    convs = [nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)]
    convs[2].weight = convs[1].weight
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(4 * 196, 10))


AWKWARD = {
    "half": lambda: models.small_cnn().half(),
    "bfloat16": lambda: models.small_cnn().bfloat16(),
    "double": lambda: models.small_cnn().double(),
    "evaluation": lambda: models.vgg().eval(),
    "frozen": lambda: models.vgg().requires_grad_(False),
    "tied": tied_maps,
    "channels last": lambda: models.small_cnn().to(memory_format=torch.channels_last),
    "quantised": lambda: quantization.qat(models.small_cnn(), 4),
}


@pytest.mark.parametrize("kind", AWKWARD)
def test_a_new_head_has_its_networks_precision_mode_and_ties(kind):
    net = AWKWARD[kind]()
    before = state(net)
    x = torch.randn(3, 1, 14, 14).to(next(net.parameters()).dtype)
    small = compact.pooled_head(net, x)
    assert same(before, state(net))
    assert small.training == net.training == small.fc.training
    assert small(x).dtype == x.dtype and small.fc.weight.requires_grad
    kept = list(net.children())[: list(small._modules).index("pool")]
    assert [
        p.requires_grad for m in small.children() if m is not small.fc for p in m.parameters()
    ] == [p.requires_grad for m in kept for p in m.parameters()]
    if kind == "tied":
        assert small[1].weight is small[2].weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_separable_layer_has_its_convolutions_precision_mode_and_padding(dtype):
    conv = nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect").to(dtype).eval()
    light, x = compact.separable(conv), torch.randn(2, 3, 6, 7).to(dtype)
    assert light(x).shape == conv(x).shape and light(x).dtype == dtype and not light.training
    assert light[0].padding_mode == "reflect"


def test_tied_linear_layers_count_once():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    net[2].weight = net[1].weight
    parts = compact.by_part(net, torch.zeros(1, 4))
    assert parts == {"convolutions": (0, 0), "linear": (16 + 8, 32)}


def pooled(net=None, x=None, classes=10):
    x = torch.zeros(2, 1, 14, 14) if x is None else x
    return compact.pooled_head(net or models.small_cnn(), x, classes=classes)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: compact.separable(nn.Linear(2, 2)), TypeError, "conv must be an nn.Conv2d"),
        (lambda: compact.separable(nn.Conv2d(4, 4, 3, groups=2)), ValueError, "groups=2"),
        (lambda: compact.separable(nn.LazyConv2d(4, 3)), ValueError, "conv must have a shape"),
        (lambda: compact.separable(nn.ConvTranspose2d(4, 4, 3)), TypeError, "got ConvTranspose2d"),
        (
            lambda: compact.standard_macs(3, 0, 1, 1),
            ValueError,
            "m must be a positive integer, got 0",
        ),
        (lambda: compact.separable_macs(3, 1, 1.5, 1), ValueError, "n must be a positive integer"),
        (
            lambda: pooled(x=torch.zeros(0, 1, 14, 14)),
            ValueError,
            "x must hold at least one example",
        ),
        (lambda: pooled(x=torch.zeros(2, 3, 14, 14)), ValueError, "x must fit the model"),
        (lambda: pooled(classes=0), ValueError, "classes must be a positive integer, got 0"),
        (
            lambda: pooled(nn.Sequential(OrderedDict(pool=nn.MaxPool2d(2), flatten=nn.Flatten()))),
            ValueError,
            "model must leave the name 'pool' for the new head",
        ),
        (
            lambda: pooled(
                nn.Sequential(prune.identity(nn.Conv2d(1, 2, 3), "weight"), nn.Flatten())
            ),
            ValueError,
            "'0' is computed by a forward hook",
        ),
        (
            lambda: compact.pooled_head(nn.ReLU(), torch.zeros(1, 1)),
            TypeError,
            "model must be an nn.Sequential that calls its layers one after another, got ReLU",
        ),
        (
            lambda: compact.pooled_head(nn.Sequential(nn.ReLU()), torch.zeros(1, 1)),
            ValueError,
            "must have an nn.Flatten",
        ),
        (
            lambda: compact.pooled_head(models.mlp(), torch.zeros(1, 1, 14)),
            ValueError,
            "must follow feature maps",
        ),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
