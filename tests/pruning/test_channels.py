"""Channels: surgery equals silence on every topology, groups equal Torch-Pruning's, refusals."""

import copy
import operator
import os
import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from course_lib import ensemble, measure, models, parametrized
from course_lib.pruning import channel_criteria, channels


def unlike_a_fresh_one(model, seed=0):
    """Batch norms with means, variances, gains and offsets of a network in use: beta is not 0."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine:
            with torch.no_grad():
                for t, low, high in (
                    (layer.weight, 0.5, 1.5),
                    (layer.bias, -1, 1),
                    (layer.running_mean, -0.5, 0.5),
                    (layer.running_var, 0.5, 2),
                ):
                    t.copy_(low + (high - low) * torch.rand(t.shape, generator=generator))
    return model.eval()


class Wired(nn.Module):
    """Layers by name, and a function of them and the input as the forward pass."""

    def __init__(self, wiring, **layers):
        super().__init__()
        self.wiring = (wiring,)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.wiring[0](self, x)


def conv(i, o, k=3, **kw):
    return nn.Conv2d(i, o, k, padding=k // 2, **kw)


def twice(a):
    return torch.cat([a, F.relu(a)], dim=1)


def gated(m, a):
    gate = m.up(F.relu(m.down(F.adaptive_avg_pool2d(a, 1))))
    return operator.mul(a, torch.sigmoid(gate))


TOPOLOGIES = {
    "mlp": lambda: models.mlp((64, 12, 9, 5)),
    "lenet5": lambda: models.lenet5(width=0.2),
    "small cnn": lambda: models.small_cnn(size=8, width=0.5),
    "vgg": lambda: models.vgg(size=8, width=0.5),
    "resnet": lambda: models.resnet(size=8, width=0.5),
    "inception": lambda: models.inception(size=8),
    "mobilenet": lambda: models.mobilenet(size=8, width=0.5),
    "residual sum on the input's own channels": lambda: Wired(
        lambda m, x: m.fc(m.a(m.b(x) + x).relu().mean((2, 3))),
        a=conv(1, 6), b=conv(1, 1), fc=nn.Linear(6, 3),
    ),
    "depthwise with multiplier 2": lambda: Wired(
        lambda m, x: m.fc(m.point(m.norm(m.deep(m.stem(x)))).mean([-1, -2])),
        stem=conv(1, 6), deep=conv(6, 12, groups=6), norm=nn.BatchNorm2d(12),
        point=conv(12, 8, 1), fc=nn.Linear(8, 3),
    ),
    "depthwise on a concatenation, multiplier 3": lambda: Wired(
        lambda m, x: m.fc(
            torch.flatten(m.deep(torch.cat([m.a(x), m.b(x), m.a2(m.a1(x))], 1)), 1)
        ),
        a=conv(1, 3), b=conv(1, 2), a1=conv(1, 4), a2=conv(4, 2),
        deep=conv(7, 21, groups=7), fc=nn.Linear(21 * 64, 3),
    ),
    "the same value twice in a concatenation": lambda: Wired(
        lambda m, x: m.b(twice(m.a(x))).flatten(1),
        a=conv(1, 5), b=conv(10, 4),
    ),
    "concatenations added": lambda: Wired(
        lambda m, x: m.end(
            torch.cat([m.a(x), m.b(x)], 1) + torch.cat([m.b2(x), m.a2(x)], 1)
        ).mean((2, 3)),
        a=conv(1, 4), b=conv(1, 6), b2=conv(1, 6), a2=conv(1, 4), end=conv(10, 3),
    ),
    "squeeze and excitation": lambda: Wired(
        lambda m, x: m.end(gated(m, m.a(x))).mean((2, 3)),
        a=conv(1, 8), down=conv(8, 4, 1), up=conv(4, 8, 1), end=conv(8, 3),
    ),
    "every function": lambda: Wired(
        lambda m, x: m.fc(
            F.dropout(
                F.max_pool2d(
                    F.avg_pool2d(torch.relu(m.norm(m.a(x)).add(m.b(x)).mul(0.5) * 2.0), 2), 2
                ),
                training=m.training,
            ).flatten(1)
        ),
        a=conv(1, 6), b=conv(1, 6), norm=nn.BatchNorm2d(6, affine=False), fc=nn.Linear(24, 3),
    ),
    "one channel is not depthwise": lambda: Wired(
        lambda m, x: m.b(m.a(x)).mean((2, 3)), a=conv(1, 1), b=conv(1, 4)
    ),
    "three dimensions": lambda: nn.Sequential(
        nn.Conv3d(1, 6, (1, 3, 3)), nn.BatchNorm3d(6), nn.MaxPool3d(2, 2, 1), nn.Conv3d(6, 2, 1)
    ),
    "one dimension": lambda: nn.Sequential(
        nn.Conv1d(1, 6, 3), nn.BatchNorm1d(6), nn.Tanh(), nn.AvgPool1d(2), nn.Conv1d(6, 2, 1)
    ),
}  # fmt: skip


def example(name):
    generator = torch.Generator().manual_seed(1)
    unusual = {"lenet5": (28, 28), "three dimensions": (4, 8, 8), "one dimension": (16,)}
    return torch.randn(3, 1, *unusual.get(name, (8, 8)), generator=generator)


def largest_difference(model, x, dead_share=0.5, seed=0):
    """|remove − silence|, and |silence − model| to see that the test sees anything."""
    graph = channels.trace(model, x)
    dead = channels.weakest(graph, channel_criteria.random(model, graph, seed=seed), dead_share)
    small, quiet = (f(model, graph, dead) for f in (channels.remove, channels.silence))
    with torch.no_grad():
        cut, oracle, whole = small(x), quiet(x), model(x)
    channels.trace(small, x)  # its shapes fit one another, and it can be cut again
    size = [sum(p.numel() for p in m.parameters()) for m in (small, model)]
    assert size[0] < size[1] or not dead
    return (cut - oracle).abs().max().item(), (oracle - whole).abs().max().item(), dead


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_removed_is_silenced(name):
    model = unlike_a_fresh_one(TOPOLOGIES[name]())
    for seed in range(3):
        difference, effect, dead = largest_difference(model, example(name), seed=seed)
        assert difference < 1e-5 and (effect > 1e-4 or not dead)


TORCHVISION = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "resnet18": {},
    "mobilenet_v2": {},
    "vgg11_bn": {"init_weights": False},
    "densenet121": {},
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_half_of_a_torchvision_network(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build = getattr(torchvision.models, name)
        model = unlike_a_fresh_one(build(weights=None, num_classes=10, **TORCHVISION[name]))
        x = torch.randn(2, 3, 64, 64)
    difference, effect, dead = largest_difference(model, x)
    assert difference < 1e-5 and effect > 1e-2
    # Odd layers lose half a channel less or more: round(n / 2), ties to even.
    assert len(dead) == pytest.approx(len(channels.trace(model, x).ids()) / 2, rel=0.01)


def test_ids_of_a_residual_network_are_shared_by_what_is_added():
    graph = channels.trace(models.resnet(width=0.25), torch.zeros(1, 1, 14, 14))
    stream = graph.makes["stem.0"]
    assert graph.makes["block1.second.0"] == stream == graph.reads["block2.shortcut.0"]
    assert graph.makes["block2.second.0"] == graph.makes["block2.shortcut.0"] != stream
    assert set(graph.layers()) == {"stem.0", "block1.first.0", "block2.first.0", "block2.second.0"}
    assert sorted(i for ids in graph.layers().values() for i in ids) == graph.ids()
    assert graph.fixed == {0, *graph.makes["fc"]}


def test_ids_of_an_inception_block_stand_side_by_side():
    graph = channels.trace(models.inception(), torch.zeros(1, 1, 14, 14))
    branches = ("one.0", "three.1.0", "five.1.0", "pool.1.0")
    joined = [i for b in branches for i in graph.makes[f"block1.{b}"]]
    assert graph.reads["block2.one.0"] == graph.reads["block2.three.0.0"] == joined
    assert len(set(joined)) == len(joined)
    assert graph.reads["fc"][:9] == [graph.makes["block2.one.0"][0]] * 9  # 3 × 3 positions


def test_silence_means_that_consumers_read_zeros():
    """The oracle's own oracle, on a case where it can be said by hand."""
    model = unlike_a_fresh_one(models.vgg(size=8, width=0.25))
    x = example("vgg")
    graph = channels.trace(model, x)
    dead = set(graph.makes["block2.0"][1:3])
    half = model.block2(model.block1(x))
    half[:, 1:3] = 0
    by_hand = model.fc(model.flatten(model.pool2(model.block4(model.block3(model.pool1(half))))))
    assert torch.allclose(channels.silence(model, graph, dead)(x), by_hand, atol=1e-6)


def test_zeroing_a_filter_is_not_removing_it():
    model = unlike_a_fresh_one(models.vgg(size=8, width=0.5))
    x = example("vgg")
    graph = channels.trace(model, x)
    with torch.no_grad():
        model.block2[1].bias[2] = 2
        zeroed = copy.deepcopy(model)
        zeroed.block2[0].weight[2] = 0
    removed = channels.remove(model, graph, {graph.makes["block2.0"][2]})
    assert (zeroed(x) - removed(x)).abs().max() > 1e-3
    with torch.no_grad():  # unless batch norm passes nothing on
        zeroed.block2[1].weight[2] = zeroed.block2[1].bias[2] = 0
        zeroed.block2[1].running_mean[2] = 0
    assert torch.allclose(zeroed(x), removed(x), atol=1e-5)


def test_fold_is_exact_for_a_constant_channel():
    """gamma = 0 makes a channel ReLU(beta); behind it a 1×1 convolution, then a linear layer."""
    model = unlike_a_fresh_one(
        nn.Sequential(
            conv(1, 5), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 1, bias=False),
            nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3),
        )
    )  # fmt: skip
    with torch.no_grad():
        model[1].weight[[1, 4]] = model[4].weight[2] = 0
        model[1].bias[[1, 4]], model[4].bias[2] = torch.tensor([0.7, -1.0]), 0.3
    x = example("constants")
    graph = channels.trace(model, x)
    dead = {graph.makes["0"][1], graph.makes["0"][4], graph.makes["3"][2]}
    small = channels.remove(channels.fold(model, graph, dead, x), graph, dead)
    other = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    assert (small(other) - model(other)).abs().max() < 1e-5
    plain = channels.remove(model, graph, dead)
    assert (plain(other) - model(other)).abs().max() > 1e-2
    assert small[3].bias is not None and plain[3].bias is None


def test_fold_counts_every_place_of_a_kernel_that_reaches_no_padding():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, 0.7
    x = example("constants")
    graph = channels.trace(model, x)
    folded = channels.fold(model, graph, {graph.makes["0"][1]}, x)
    assert (folded(x) - model(x)).abs().max() < 1e-5


def test_fold_passes_the_mean_on():
    model = models.mlp((4, 6, 3))
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    graph = channels.trace(model, x)
    dead = set(graph.makes["fc1"][:2])
    hidden = model[:3](x)
    hidden[:, :2] = hidden[:, :2].mean(0)
    assert torch.allclose(channels.fold(model, graph, dead, x)(x), model.fc2(hidden), atol=1e-6)


# ---- reconstruct


def strided(dtype=torch.float64):
    """Consumers with stride, dilation and padding, one without bias, and a linear layer at the end."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            conv(1, 6), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2, padding=1, bias=False), nn.ReLU(),
            nn.Conv2d(5, 4, (2, 3), padding=(0, 2), dilation=(1, 2)), nn.ReLU(), nn.Flatten(),
            nn.Linear(48, 3),
        ).to(dtype)  # fmt: skip


def unfolded(layer, z):
    """Rows of what the layer multiplies with its weight at each position, and a one."""
    if isinstance(layer, nn.Conv2d):
        like = {k: getattr(layer, k) for k in ("kernel_size", "dilation", "padding", "stride")}
        z = F.unfold(z, **like).transpose(1, 2).flatten(0, 1)
    return torch.cat([z, z.new_ones(len(z), 1)], 1)


def by_hand(model, graph, dead, x, ridge):
    """Consumer after consumer by torch.linalg.lstsq; the ridge is further rows, which ask for W."""
    fitted = channels.silence(model, graph, dead)
    for place, layer in model.named_children():
        if place not in graph.reads or place == "0":
            continue
        before, now = model[: int(place)](x), fitted[: int(place)](x)
        y = model[: int(place) + 1](x)
        y = y.movedim(1, -1).flatten(0, -2)
        rows = unfolded(layer, now)
        alive = torch.tensor([i not in dead for i in graph.reads[place]])
        alive = alive.repeat_interleave(layer.weight[0, 0].numel())
        rows = rows[:, torch.cat([alive, torch.tensor([True])])]
        old = layer.weight.flatten(1)[:, alive].t()
        strength = (ridge * rows[:, :-1].square().sum(0).mean()).sqrt()
        pull = strength * torch.eye(len(old), len(old) + 1, dtype=x.dtype)
        rows, y = torch.cat([rows, pull]), torch.cat([y, strength * old])
        found = torch.linalg.lstsq(rows, y, driver="gelsd").solution
        target = fitted.get_submodule(place)
        target.weight.data.flatten(1)[:, alive] = found[:-1].t()
        target.bias = nn.Parameter(found[-1])
        assert before.shape == now.shape
    return fitted


@pytest.mark.parametrize("ridge", [0, 1e-4, 0.3])
@torch.no_grad()
def test_reconstruct_is_least_squares_on_unfolded_inputs(ridge):
    model = strided()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(80, 1, 8, 8, generator=generator, dtype=torch.float64)
    graph = channels.trace(model, x)
    dead = {*graph.makes["0"][::2], graph.makes["2"][1], graph.makes["4"][3]}
    if ridge:  # the layers behind read other numbers, and are fitted too
        dead = set(graph.makes["0"][::2])
    found, wanted = channels.reconstruct(model, graph, dead, x, ridge=ridge), by_hand(
        model, graph, dead, x, ridge
    )  # fmt: skip
    for name, parameter in wanted.named_parameters():
        torch.testing.assert_close(found.get_parameter(name), parameter, rtol=1e-6, atol=1e-8)
    small = channels.remove(found, graph, dead)
    torch.testing.assert_close(small(x), found(x))


@torch.no_grad()
def test_of_many_fits_the_one_closest_to_the_old_weights_is_taken():
    """Of two channels that are equal each takes half of the change; one that is zero takes none."""
    for seed in range(10):
        model = models.mlp((5, 6, 3), seed=seed).double()
        model.fc1.bias[:] = 0.1
        model.fc1.weight[3], model.fc1.bias[3] = model.fc1.weight[2], model.fc1.bias[2]
        if seed == 0:
            model.fc1.weight[1], model.fc1.bias[1] = 0, -1
        x = torch.randn(50, 5, generator=torch.Generator().manual_seed(seed)).double()
        graph = channels.trace(model, x)
        fitted = channels.reconstruct(model, graph, {graph.ids()[0]}, x, ridge=0)
        change = fitted.fc2.weight - model.fc2.weight
        torch.testing.assert_close(change[:, 2], change[:, 3])
        assert change[:, 2:].abs().min() > 1e-4
        assert seed or change[:, 1].abs().max() < 1e-9


@torch.no_grad()
def test_a_consumer_that_reads_only_zeros_keeps_its_weights():
    model = models.mlp((5, 6, 3))
    model.fc1.bias[:] = -100
    graph = channels.trace(model, torch.zeros(1, 5))
    fitted = channels.reconstruct(model, graph, {graph.ids()[0]}, torch.rand(50, 5))
    assert torch.equal(fitted.fc2.weight[:, 1:], model.fc2.weight[:, 1:])


def error_at(layer, model, other, x):
    """Squared error of what one layer gives."""
    seen = []
    for net in (model, other):
        hook = net.get_submodule(layer).register_forward_hook(lambda *args: seen.append(args[2]))
        net(x)
        hook.remove()
    return (seen[0] - seen[1]).double().square().sum().item()


@pytest.mark.parametrize("name", ["mlp", "resnet", "inception", "squeeze and excitation"])
@torch.no_grad()
def test_the_first_consumers_error_is_smallest_after_a_fit(name):
    """Whatever the ridge: reconstruct <= the best bias <= fold, and the best bias <= silence."""
    model = unlike_a_fresh_one(TOPOLOGIES[name]())
    x = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    graph = channels.trace(model, x)
    dead = channels.weakest(graph, channel_criteria.random(model, graph, seed=0), 0.4)
    first = next(n for n, ids in graph.reads.items() if dead & set(ids))
    quiet, fold = (error_at(first, model, f(model, graph, dead, *more), x)
                   for f, more in ((channels.silence, ()), (channels.fold, (x,))))  # fmt: skip
    fits = [
        error_at(first, model, channels.reconstruct(model, graph, dead, x, ridge=ridge), x)
        for ridge in (0, 1e-3, 10.0)
    ]
    assert fits == sorted(fits) and fits[0] < 0.8 * quiet
    assert fits[-1] <= min(fold, quiet)


def test_fold_is_no_worse_than_silence_without_padding():
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    x = example("constants")
    graph = channels.trace(model, x)
    dead = set(graph.makes["0"][:3])
    nets = [f(model, graph, dead, *more) for f, more in (
        (channels.reconstruct, (x,)), (channels.fold, (x,)), (channels.silence, ())
    )]  # fmt: skip
    errors = [error_at("2", model, net, x) for net in nets]
    assert errors == sorted(errors) and errors[0] < 0.9 * errors[1] < 0.9 * errors[2]


@torch.no_grad()
def test_a_channel_that_is_there_twice_is_repaired_exactly():
    """Also behind batch norm and ReLU, read by a convolution with padding and by a linear layer."""
    model = unlike_a_fresh_one(models.vgg(size=8, width=0.5)).double()
    for block in (model.block1, model.block4):
        for parameter in (block[0].weight, block[1].weight, block[1].bias,
                          block[1].running_mean, block[1].running_var):  # fmt: skip
            parameter[3] = parameter[1]
        block[1].bias[[1, 3]] = 0.5  # behind ReLU it is not always zero
    x, other = torch.randn(2, 100, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    graph = channels.trace(model, x)
    dead = {graph.makes["block1.0"][3], graph.makes["block4.0"][3]}
    repaired = channels.reconstruct(model, graph, dead, x, ridge=0)
    assert (channels.remove(repaired, graph, dead)(other) - model(other)).abs().max() < 1e-8
    assert (channels.silence(model, graph, dead)(other) - model(other)).abs().max() > 0.1
    for dead_twin in (graph.makes["block1.0"][1], graph.makes["block1.0"][3]):
        nearly = channels.reconstruct(model, graph, {dead_twin}, x)
        assert 0 < (nearly(other) - model(other)).abs().max() < 0.05


@pytest.mark.parametrize("name", TOPOLOGIES)
@torch.no_grad()
def test_nothing_removed_is_nothing_fitted(name):
    """Not even one image is needed then."""
    model = unlike_a_fresh_one(TOPOLOGIES[name]())
    same = channels.reconstruct(model, channels.trace(model, example(name)), set(), example(name))
    state = model.state_dict()
    assert state.keys() == same.state_dict().keys()
    assert all(torch.equal(t, state[name]) for name, t in same.state_dict().items())


PATCHES = {
    "linear": (nn.Linear(6, 4), (5, 6)),
    "one dimension": (nn.Conv1d(3, 4, 3, stride=2, padding=2, dilation=2), (2, 3, 9)),
    "reflected": (nn.Conv2d(3, 4, (3, 2), padding=(2, 1), padding_mode="reflect"), (2, 3, 5, 6)),
    "circular": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (2, 3, 5, 6)),
    "same": (nn.Conv2d(3, 4, (2, 4), padding="same", bias=False), (2, 3, 5, 6)),
    "three dimensions": (nn.Conv3d(2, 4, (1, 3, 2), padding=1, stride=(1, 2, 1)), (2, 2, 3, 5, 4)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", PATCHES)
@torch.no_grad()
def test_patches_times_weights_is_the_layer(name):
    layer, shape = PATCHES[name]
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = channels._patches(layer, z) @ layer.weight.flatten(1).t()
    y = y if layer.bias is None else y + layer.bias
    torch.testing.assert_close(y, layer(z).movedim(1, -1).flatten(0, -2))


@torch.no_grad()
def test_chunks_change_nothing(monkeypatch):
    model = strided()
    x = torch.randn(80, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    graph = channels.trace(model, x)
    whole = channels.reconstruct(model, graph, {graph.ids()[0]}, x)
    monkeypatch.setattr(channels, "CHUNK", 1000)
    parts = channels.reconstruct(model, graph, {graph.ids()[0]}, x)
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(parts.get_parameter(name), parameter)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_is_fitted_in_double(dtype):
    model = strided().to(dtype)
    x = torch.randn(80, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    graph = channels.trace(model, x)
    dead = set(graph.makes["4"][:2])  # only the last layer reads it: the inputs are the same
    found = channels.reconstruct(model, graph, dead, x)
    exact = copy.deepcopy(model).double()
    exact[7].weight[:] = 0
    read, w = model[:7](x).double(), model[7].weight.double()
    alive = torch.tensor([i not in dead for i in graph.reads["7"]])
    rows = torch.cat([read[:, alive], torch.ones(80, 1).double()], 1)
    pull = (1e-4 * rows[:, :-1].square().sum(0).mean()).sqrt() * torch.eye(24, 25).double()
    wanted = torch.linalg.lstsq(
        torch.cat([rows, pull]), torch.cat([read[:, ~alive] @ w[:, ~alive].t(), torch.zeros(24, 3)])
    ).solution
    tolerance = 4 * torch.finfo(dtype).eps
    difference = found[7].weight.double()[:, alive] - (w[:, alive] + wanted[:-1].t())
    assert difference.abs().max() < tolerance and found[7].weight.dtype == dtype
    assert found[7].bias.dtype == dtype


def test_what_cannot_be_reconstructed():
    model = models.small_cnn(size=8, width=0.5)
    x = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    graph = channels.trace(model, x)
    dead = set(graph.makes["conv2"][:2])
    before = copy.deepcopy(model.state_dict())
    channels.reconstruct(model, graph, dead, x[:57])
    for n in (1, 56):  # 14 channels left, with 4 positions each, and a bias
        with pytest.raises(ValueError, match="^x must hold at least 57 images, because 'fc' has 57 "
                           f"unknowns per output and each image gives 1 equations, got {n} "):  # fmt: skip
            channels.reconstruct(model, graph, dead, x[:n])
    with pytest.raises(ValueError, match="^x must hold at least 4 images, because 'conv2' has 64 "):
        channels.reconstruct(model, graph, {graph.ids()[0]}, x[:3])
    for ridge, kind in ((-1.0, ValueError), (float("nan"), ValueError), ("much", TypeError)):
        with pytest.raises(kind, match="ridge must be"):
            channels.reconstruct(model, graph, dead, x, ridge=ridge)
    with pytest.raises(ValueError, match="x must be finite"):
        channels.reconstruct(model, graph, dead, x / 0)
    with pytest.raises(ValueError, match="x must fit the model"):
        channels.reconstruct(model, graph, dead, x[..., :5])
    with torch.no_grad():
        model.conv1.bias[0] = float("nan")
    with pytest.raises(ValueError, match="x's values at 'conv2' must be finite"):
        channels.reconstruct(model, graph, dead, x)
    del before["conv1.bias"]
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in before.items())


def test_a_smaller_model_is_an_ordinary_one_and_the_old_one_is_as_it_was(tmp_path):
    model = models.mobilenet(size=8).train()
    model.stem[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    x = example("mobilenet")
    graph = channels.trace(model, x)
    small = channels.remove(
        model, graph, channels.weakest(graph, channel_criteria.l1(model, graph), 0.5)
    )
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(m.training for m in (*model.modules(), *small.modules()))
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert [p.requires_grad for p in small.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    layer = small.get_submodule("pair1.0")
    assert (layer.in_channels, layer.out_channels, layer.groups) == (8, 8, 8)
    assert (small.fc.in_features, small.fc.out_features) == (16 * 4, 10)
    assert small.get_submodule("pair1.1").num_features == 8
    small(x).sum().backward()  # batch statistics and gradients have the new shapes
    torch.save(small, tmp_path / "small.pt")
    again = torch.load(tmp_path / "small.pt", weights_only=False).eval()
    assert torch.equal(again(x), small.eval()(x))
    assert measure.macs(small, x) < 0.4 * measure.macs(model, x)


def test_nothing_dead_changes_nothing():
    model = unlike_a_fresh_one(models.resnet(size=8, width=0.5))
    x = example("resnet")
    graph = channels.trace(model, x)
    assert torch.equal(channels.remove(model, graph, set())(x), model(x))


def test_one_channel_a_layer_stays():
    model = unlike_a_fresh_one(models.resnet(size=8, width=0.25))
    x = example("resnet")
    graph = channels.trace(model, x)
    with pytest.warns(UserWarning) as caught:
        small = channels.remove(model, graph, set(graph.ids()))
    names = [str(w.message).split("'")[1] for w in caught]
    assert sorted(names) == sorted(graph.layers())  # once each, and not for those that share ids
    assert {m.out_channels for m in small.modules() if isinstance(m, nn.Conv2d)} == {1}
    with pytest.warns(UserWarning, match="no channel at all"):
        quiet = channels.silence(model, graph, set(graph.ids()))
    assert torch.allclose(small(x), quiet(x), atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(channels.weakest(graph, torch.zeros(len(graph.ids())), 1.0)) == len(
            graph.ids()
        ) - len(names)


def test_weakest_takes_exact_counts_and_the_later_of_equals():
    graph = channels.trace(models.mlp((4, 5, 6, 2)), torch.zeros(1, 4))
    first, second = graph.layers().values()
    scores = torch.tensor([5.0, 1, 4, 2, 3, *[0.0] * 6])
    assert channels.weakest(graph, scores, 0.5) == {first[1], first[3], *second[3:]}
    assert channels.weakest(graph, scores, 0.0) == set()
    for bad, words in ((scores[1:], "11 numbers"), (scores / 0 * 0, "NaN")):
        with pytest.raises(ValueError, match=words):
            channels.weakest(graph, bad, 0.5)
    with pytest.raises(ValueError, match="sparsity must be in"):
        channels.weakest(graph, scores, 1.5)


REFUSED = {
    "grouped": (nn.Conv2d(4, 8, 1, groups=2), "'layer'.*in 2 groups"),
    "layer norm": (nn.LayerNorm((4, 8, 8)), r"'layer' \(LayerNorm\)"),
    "transposed": (nn.ConvTranspose2d(4, 4, 1), r"'layer' \(ConvTranspose2d\)"),
    "softmax": (nn.Softmax(1), "Softmax"),
    "shuffle": (nn.PixelShuffle(2), "PixelShuffle"),
    "linear on positions": (nn.Linear(8, 4), r"\(Linear\), on an input of shape \(2, 4, 8, 8\)"),
    "flatten from 2": (nn.Flatten(2), "from dimension 2"),
    "prelu": (nn.PReLU(4), "PReLU"),
    "group norm": (nn.GroupNorm(2, 4), r"'layer' \(GroupNorm\)"),
}  # fmt: skip
REFUSED_WIRINGS = {
    "view": (lambda m, x: m.stem(x).view(2, -1), "'view'"),
    "view of a fixed width": (lambda m, x: m.stem(x).view(x.size(0), 256), "'view'.*flattens"),
    "view of a fixed width, examples open": (lambda m, x: m.stem(x).view(-1, 256), "'view'"),
    "view by another size": (lambda m, x: m.stem(x).view(x.size(2), -1), "'view'"),
    "a size as a number": (lambda m, x: m.stem(x) * x.size(0), "'size'.*no tensor"),
    "a width from sizes": (
        lambda m, x: m.stem(x).reshape(x.shape[0], 4 * x.shape[3] * 8),
        "'mul'.*no tensor",
    ),
    "len": (lambda m, x: m.stem(x).reshape(len(x), -1), "'len'"),
    "assertion on a shape": (lambda m, x: m.stem(x) if x.shape[1] == 1 else x, "cannot be traced"),
    "an error of its own": (lambda m, x: {}["key"], "cannot be traced.*'key'"),
    "maxima with their places": (
        lambda m, x: F.max_pool2d(m.stem(x), 2, return_indices=True)[0],
        "max_pool2d_with_indices",
    ),
    "pooling that reaches over channels": (
        lambda m, x: F.avg_pool3d(m.stem(x), 3, 1, 1),
        r"'avg_pool3d'.*shape \(2, 4, 8, 8\)",
    ),
    "a constant": (lambda m, x: m.stem(x) * torch.tensor(2.0), "constant"),
    "softmax": (lambda m, x: F.softmax(m.stem(x), 1), "'softmax'"),
    "cat of batches": (lambda m, x: torch.cat([m.stem(x)] * 2), "'cat'.*along dimension 0"),
    "mean of channels": (lambda m, x: m.stem(x).mean(1), r"'mean'.*over dimensions \[1\]"),
    "mean of all": (lambda m, x: m.stem(x).mean(), "'mean'"),
    "broadcast": (lambda m, x: m.stem(x) + x, r"'add'.*shapes"),
    "indexing": (lambda m, x: m.stem(x)[:, :2], "'getitem'"),
    "used twice": (lambda m, x: m.again(m.again(m.stem(x))), "'again'.*more than once"),
    "shared weights": (lambda m, x: m.tied(m.again(m.stem(x))), "shares weights with 'again'"),
    "not used": (lambda m, x: m.stem(x), "'again'.*does not use"),
    "control flow": (lambda m, x: m.stem(x) if x.sum() > 0 else x, "cannot be traced"),
    "a parameter in the sum": (lambda m, x: m.stem(x) + m.scale, "scale"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unknown_layers_are_refused_by_name(name):
    layer, words = REFUSED[name]
    model = Wired(lambda m, x: m.layer(m.stem(x)), stem=conv(1, 4), layer=layer).train()
    with pytest.raises(NotImplementedError, match=words):
        channels.trace(model, torch.zeros(2, 1, 8, 8))
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("name", REFUSED_WIRINGS)
def test_unknown_operations_are_refused_by_name(name):
    wiring, words = REFUSED_WIRINGS[name]
    model = Wired(wiring, stem=conv(1, 4))
    if "again" in words or "used" in name or "shared" in name:
        model.add_module("again", conv(4, 4))
    if name == "shared weights":
        model.add_module("tied", conv(4, 4))
        model.tied.weight = model.again.weight
    if name == "a parameter in the sum":
        model.scale = nn.Parameter(torch.zeros(1, 4, 1, 1))
    with pytest.raises(NotImplementedError, match=words):
        channels.trace(model, torch.zeros(2, 1, 8, 8))


FOLLOWED = {
    "view": lambda m, x: m.fc(m.a(x).view(x.size(0), -1)),
    "view by a tuple": lambda m, x: m.fc(m.a(x).view((x.size(0), -1))),
    "view by a shape": lambda m, x: m.fc(m.a(x).view(x.shape[0], -1)),
    "reshape": lambda m, x: m.fc(torch.reshape(m.a(x), (x.size()[0], -1))),
    "keywords": lambda m, x: m.fc(input=torch.flatten(input=m.a(input=x), start_dim=1)),
}


def unpacked(m, x):
    n, _, _, _ = x.shape
    return m.fc(m.a(x).view(n, -1))


@pytest.mark.parametrize("wiring", [*FOLLOWED.values(), unpacked], ids=[*FOLLOWED, "unpacked"])
def test_ways_to_flatten_and_to_call_are_one(wiring):
    plain = Wired(lambda m, x: m.fc(m.a(x).flatten(1)), a=conv(1, 4), fc=nn.Linear(4 * 64, 3))
    model = copy.deepcopy(plain)
    model.wiring = (wiring,)
    x = example("other")
    graph = channels.trace(model, x)
    assert graph == channels.trace(plain, x)
    dead = set(graph.ids()[:2])
    for change in (channels.silence, lambda *a: channels.fold(*a, x)):
        assert torch.equal(change(model, graph, dead)(x), change(plain, graph, dead)(x))
    assert torch.allclose(
        channels.remove(model, graph, dead)(x), channels.silence(plain, graph, dead)(x), atol=1e-6
    )
    scores = [channel_criteria.taylor(m, graph, (x, torch.arange(3))) for m in (model, plain)]
    assert torch.equal(*scores)


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(1, 4), conv(4, 2)

    def forward(self, x, mask=None, *, scale=1.0, flag=False):
        x = self.a(x) * scale
        if mask is not None:
            x = x * mask
        return self.b(x) if not flag else self.b(x + 1)


class TwoInputs(Optional):
    def forward(self, x, other):
        return super().forward(x) + other


class TwoOutputs(Optional):
    def forward(self, x):
        x = self.a(x)
        return {"hidden": x, "result": self.b(x)}


def test_further_arguments_keep_their_defaults():
    difference, effect, dead = largest_difference(Optional(), example("other"))
    assert difference < 1e-5 < effect and len(dead) == 2
    with pytest.raises(NotImplementedError, match="must take one tensor.*'other'"):
        channels.trace(TwoInputs(), example("other"))
    graph = channels.trace(TwoOutputs(), example("other"))
    assert graph.ids() == []  # outputs stay


NOT_THE_NETWORK = {
    "compiled": (lambda m: torch.compile(m, backend="eager"), r"it .*compiled: give its ._orig_mod"),
    "compiled inside": (
        lambda m: nn.Sequential(torch.compile(m, backend="eager")), r"'0' .*compiled"
    ),
    "parallel": (nn.DataParallel, r"DataParallel\) is a wrapper: give its .module"),
    "scripted": (lambda m: torch.jit.trace(m, example("other")), "scripted"),
    "lazy": (lambda m: nn.Sequential(m, nn.Flatten(), nn.LazyLinear(3)), "'2' .*lazy"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_THE_NETWORK)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_is_not_the_network_itself_is_refused(name):
    wrap, words = NOT_THE_NETWORK[name]
    inner = nn.Sequential(conv(1, 4), nn.ReLU(), conv(4, 2))
    graph = channels.trace(inner, example("other"))
    model = wrap(inner)
    for use in (
        lambda: channels.trace(model, example("other")),
        lambda: channels.remove(model, graph, set()),
        lambda: channel_criteria.l1(model, graph),
    ):
        with pytest.raises(NotImplementedError, match=words):
            use()


def test_a_stack_and_what_is_no_module_are_refused():
    net, x = models.mlp((4, 5, 3)), torch.zeros(2, 4)
    with pytest.raises(ValueError, match="model must be one network, got a stack"):
        channels.trace(ensemble.stack([net, net]), x)
    with pytest.raises(TypeError, match="model must be an nn.Module, got function"):
        channels.trace(lambda x: x, x)


def test_a_network_compiled_in_place_is_followed():
    model = nn.Sequential(conv(1, 4), nn.ReLU(), conv(4, 2))
    model.compile(backend="eager")
    difference, effect, _ = largest_difference(model, example("other"))
    assert difference < 1e-5 < effect


IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(4))
NOT_AN_EXAMPLE = {
    "one image": (IMAGES[0], r"must fit the model.*'0' \(Conv2d\) must have \(batch, channels, …"),
    "one row": (IMAGES[0, 0, 0], r"got shape \(8,\)"),
    "empty": (IMAGES[:0], r"at least one example, got shape \(0, 1, 8, 8\)"),
    "no pixels": (IMAGES[..., :0], "at least one example"),
    "three channels": (
        IMAGES.expand(2, 3, 8, 8),
        r"must fit the model, .* got shape \(2, 3, 8, 8\)",
    ),
    "whole numbers": (IMAGES.long(), "must fit the model.*torch.int64"),
    "half": (IMAGES.half(), "must fit the model.*torch.float16"),
    "another device": (IMAGES.to("meta"), "must be on the model's device, cpu, got meta"),
}


@pytest.mark.parametrize("name", NOT_AN_EXAMPLE)
def test_wrong_examples_are_named(name, capsys):
    model = nn.Sequential(conv(1, 4), nn.ReLU(), conv(4, 2)).train()
    x, words = NOT_AN_EXAMPLE[name]
    with pytest.raises(ValueError, match="example.*" + words):
        channels.trace(model, x)
    graph = channels.trace(model, IMAGES)
    with pytest.raises(ValueError, match="x.*" + words):
        channels.fold(model, graph, set(), x)
    with pytest.raises(ValueError, match="x.*" + words):
        channel_criteria.apoz(model, graph, x)
    for wrong in ([1.0], IMAGES.numpy(), None):
        with pytest.raises(TypeError, match="example must be a tensor, got"):
            channels.trace(model, wrong)
    assert all(m.training for m in model.modules())
    assert capsys.readouterr() == ("", "")  # no traceback is printed on the way


class Notes(nn.Module):
    """Writes down what it sees: attributes and buffers that a look at it must not change."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = conv(1, 4), nn.BatchNorm2d(4), conv(4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.seen = self.number = 0

    def forward(self, x):
        self.calls += 1
        self.number += 1
        self.seen = self.norm(self.a(x)).relu()
        return self.b(self.seen).mean((2, 3))


def condition(model):
    return (
        {name: t.clone() for name, t in model.state_dict().items()},
        [(m.training, sorted(vars(m))) for m in model.modules()],
        [(p.requires_grad, p.grad, p.dtype, p.stride()) for p in model.parameters()],
        [len(m._forward_pre_hooks) for m in model.modules()],
    )


def unchanged(model, before):
    after = condition(model)
    return before[1:] == after[1:] and all(
        torch.equal(t, after[0][name]) for name, t in before[0].items()
    )


BATCH = (
    torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(5)),
    torch.tensor([0, 1, 2, 0, 1, 2]),
)
EVERYTHING = {
    "remove": lambda m, g: channels.remove(m, g, set(g.ids()[:2])),
    "silence": lambda m, g: channels.silence(m, g, set(g.ids()[:2])),
    "fold": lambda m, g: channels.fold(m, g, set(g.ids()[:2]), BATCH[0]),
    "reconstruct": lambda m, g: channels.reconstruct(m, g, set(g.ids()[:2]), BATCH[0]),
    **{
        name: lambda m, g, f=f: f(m, g)
        for name, f in vars(channel_criteria).items()
        if name in ("l1", "l2", "rms", "bn_scale", "macs_share")
    },
    **{
        name: lambda m, g, f=f: f(m, g, BATCH[0])
        for name, f in vars(channel_criteria).items()
        if name in ("activation_mean", "activation_std", "apoz")
    },
    "taylor": lambda m, g: channel_criteria.taylor(m, g, BATCH),
    "oracle": lambda m, g: channel_criteria.oracle(m, g, BATCH),
}


@pytest.mark.parametrize("name", ["trace", *EVERYTHING])
def test_looking_leaves_the_network_as_it_was(name):
    model = Notes().train()
    model.norm.eval()
    model.a.weight.requires_grad_(False)
    graph = channels.trace(Notes(), BATCH[0])
    before = condition(model)
    if name == "trace":
        channels.trace(model, BATCH[0])
    else:
        EVERYTHING[name](model, graph)
    assert unchanged(model, before) and (model.seen, model.number) == (0, 0)


def wired(_=None):
    """Makers with and without bias, batch norm, a depthwise convolution, a linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            conv(1, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 6, groups=6),
            nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3),
        )  # fmt: skip
    return unlike_a_fresh_one(net)


def map_bias(layer):
    nn.utils.parametrize.register_parametrization(layer, "bias", parametrized.Map(torch.tanh))


NOT_PLAIN = {
    "pruned by torch": (4, lambda layer: prune.l1_unstructured(layer, "weight", 0.3)),
    "a pruned bias": (4, lambda layer: prune.l1_unstructured(layer, "bias", 0.3)),
    "a pruned batch norm": (1, lambda layer: prune.l1_unstructured(layer, "weight", 0.3)),
    "a pruned depthwise layer": (3, lambda layer: prune.l1_unstructured(layer, "weight", 0.3)),
    "weight norm": (8, parametrizations.weight_norm),
    "the old weight norm": (8, weight_norm),
    "spectral norm": (4, parametrizations.spectral_norm),
    "the old spectral norm": (4, spectral_norm),
    "a mapped bias": (8, map_bias),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_that_are_computed_are_traced_and_then_refused(name):
    where, spoil = NOT_PLAIN[name]
    model = wired()
    graph = channels.trace(model, BATCH[0])
    spoil(model[where])
    model(BATCH[0])
    model.train()
    before = condition(model)
    assert channels.trace(model, BATCH[0]) == graph
    for use in EVERYTHING.values():
        with pytest.raises(ValueError, match=f"must hold plain weights.*'{where}'"):
            use(model, graph)
    assert unchanged(model, before)


def test_tied_weights_are_refused_by_every_function():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
    )
    graph = channels.trace(model, BATCH[0])
    for tied in (model[1].weight, nn.Parameter(model[1].weight.data)):  # the same numbers, twice
        model[3].weight = tied
        with pytest.raises(NotImplementedError, match="'3' .*shares weights with '1'"):
            channels.trace(model, BATCH[0])
        for use in EVERYTHING.values():
            with pytest.raises(NotImplementedError, match="'3' .*shares weights with '1'"):
                use(model, graph)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    model, x = wired().to(dtype), BATCH[0].to(dtype)
    graph = channels.trace(model, x)
    dead = set(graph.ids()[1:9:2])
    small, quiet = (f(model, graph, dead) for f in (channels.remove, channels.silence))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-2
    assert (small(x) - quiet(x)).abs().max() < tolerance
    folded = channels.fold(model, graph, dead, x)
    exact = channels.fold(copy.deepcopy(model).double(), graph, dead, x.double())
    for m in (small, quiet, folded):
        assert {p.dtype for p in m.parameters()} == {dtype}
    rounding = torch.finfo(dtype).eps
    for name, ids in graph.reads.items():
        if dead & set(ids):
            mine, right = folded.get_submodule(name).bias, exact.get_submodule(name).bias
            assert torch.allclose(mine.double(), right, rtol=4 * rounding, atol=4 * rounding)


def test_fold_adds_up_in_float32():
    """Means of 70,000 in float16 would be infinite; the bias that gets them is a small number."""
    model = nn.Sequential(conv(1, 2, 1), nn.Identity(), nn.Conv2d(2, 1, 1)).half()
    with torch.no_grad():
        for layer, weight in ((model[0], 1.0), (model[2], 2.0**-14)):
            layer.weight.fill_(weight)
            layer.bias.zero_()
    x = torch.full((2, 1, 64, 64), 40_000.0).half()
    graph = channels.trace(model, x)
    assert channels.fold(model, graph, {graph.ids()[1]}, x)[2].bias.item() == pytest.approx(
        40_000 * 2.0**-14, rel=1e-3
    )


def test_frozen_layers_and_memory_formats_stay():
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6, bias=False), nn.ReLU(), conv(6, 2))
    model = model.to(memory_format=torch.channels_last)
    model[2].requires_grad_(False)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = channels.trace(model, x)
    dead = {graph.makes["0"][1], graph.makes["2"][0]}
    small = channels.remove(channels.fold(model, graph, dead, x), graph, dead)
    assert {name: p.requires_grad for name, p in small.named_parameters()} == {
        "0.weight": True, "0.bias": True, "2.weight": False, "2.bias": False,
        "4.weight": True, "4.bias": True,
    }  # fmt: skip
    for layer in (small[0], small[2], small[4]):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    plain = channels.remove(
        copy.deepcopy(model).to(memory_format=torch.contiguous_format), graph, dead
    )
    assert plain[0].weight.is_contiguous()


def test_fold_refuses_images_that_are_not_finite():
    model = wired()
    graph = channels.trace(model, BATCH[0])
    for value in (float("nan"), float("inf")):
        x = BATCH[0].clone()
        x[0, 0, 0, 0] = value
        with pytest.raises(ValueError, match="x must be finite, got 1 NaN or infinite of 384"):
            channels.fold(model, graph, set(graph.ids()[:2]), x)
    with torch.no_grad():
        model[4].bias[0] = float("inf")
    with pytest.raises(ValueError, match="x's means at '8' must be finite"):
        channels.fold(model, graph, {graph.makes["4"][0]}, BATCH[0])


def test_dead_filters_without_affine_batch_norm():
    model = nn.Sequential(
        conv(1, 5), nn.BatchNorm2d(5, affine=False, track_running_stats=False), nn.ReLU(),
        conv(5, 5, groups=5), conv(5, 2),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[0].weight[1:3] = 0
    x = example("dead filters")
    graph = channels.trace(model, x)
    dead = set(graph.makes["0"][1:4])
    small, quiet = (f(model, graph, dead) for f in (channels.remove, channels.silence))
    assert (small(x) - quiet(x)).abs().max() < 1e-5 < (quiet(x) - model(x)).abs().max()


def test_weakest_over_all_layers_by_brute_force():
    graph = channels.trace(models.mlp((4, 3, 4, 2)), torch.zeros(1, 4))
    ids, layers = graph.ids(), list(graph.layers().values())
    assert [[ids[k] for k in rows] for rows in graph.rows().values()] == layers
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        scores = torch.randint(0, 4, (7,), generator=generator).float()
        value = dict(zip(ids, scores.tolist(), strict=True))
        best = {max(layer, key=lambda i: (value[i], -i)) for layer in layers}
        order = sorted(set(ids) - best, key=lambda i: (value[i], -i))  # the first to go first
        for sparsity in (0, 0.15, 0.5, 0.8, 1):
            assert channels.weakest_globally(graph, scores, sparsity) == set(
                order[: round(7 * sparsity)]
            )
    for weakest in (channels.weakest, channels.weakest_globally):
        with pytest.raises(TypeError, match="scores must be a tensor, got list"):
            weakest(graph, [1.0] * 7, 0.5)
        with pytest.raises(ValueError, match="scores must be 7 numbers, one per id"):
            weakest(graph, torch.zeros(6), 0.5)
        with pytest.raises(ValueError, match="sparsity must be in"):
            weakest(graph, torch.zeros(7), -0.1)


@pytest.mark.parametrize("use", [channels.remove, channels.silence])
def test_wrong_ids_and_wrong_graphs(use):
    model = models.mlp((4, 5, 3))
    before = copy.deepcopy(model.state_dict())
    graph = channels.trace(model, torch.zeros(1, 4))
    output = graph.makes["fc2"][0]
    with pytest.raises(
        ValueError, match=rf"dead must hold ids of graph.ids\(\), got \[0, {output}"
    ):
        use(model, graph, {0, output})
    small = channels.remove(model, graph, {graph.ids()[0]})
    with pytest.raises(ValueError, match="'fc1' has 4 channels, not 5: trace it again"):
        use(small, graph, set())
    with pytest.raises(ValueError, match="which has no layer 'fc2'"):
        use(models.mlp((4, 5)), graph, set())
    with pytest.raises(ValueError, match="'fc1' has 3 input channels, not 4"):
        use(models.mlp((3, 5, 3)), graph, set())
    with pytest.raises(TypeError, match="dead must be a collection of ids, got int"):
        use(model, graph, 3)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


@pytest.fixture
def tp():
    """Torch-Pruning, or no test: a failure where every tool must be there (CI)."""
    try:
        import torch_pruning
    except ImportError:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("torch-pruning is not installed")
    return torch_pruning


def peers_group(tp, dependencies, layer, index):
    """(layer, in or out) -> indices that go with one output channel, as Torch-Pruning says."""
    prune = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else (
        tp.prune_depthwise_conv_out_channels
        if layer.groups > 1
        else tp.prune_conv_out_channels
    )  # fmt: skip
    found = {}
    for dependency, indices in dependencies.get_pruning_group(layer, prune, [index]):
        target, what = dependency.target.module, dependency.handler.__name__
        if isinstance(target, (nn.Linear, nn.Conv2d, nn.BatchNorm2d)):
            side = "in" if "in_channels" in what else "out"
            found.setdefault((id(target), side), set()).update(indices)
    return found


def our_group(model, graph, i):
    found = {}
    for side, table in (("out", graph.makes), ("in", graph.reads), ("out", graph.passes)):
        for name, ids in table.items():
            indices = {k for k, j in enumerate(ids) if j == i}
            if indices:
                found[id(model.get_submodule(name)), side] = indices
    return found


@pytest.mark.parametrize(
    "name",
    ["mlp", "small cnn", "vgg", "resnet", "inception", "mobilenet", "concatenations added"],
)
def test_groups_are_torch_prunings(name, tp):
    model = TOPOLOGIES[name]().eval()
    x = example(name)
    graph = channels.trace(model, x)
    dependencies = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    checked = 0
    for layer, ids in graph.makes.items():
        for index, i in enumerate(ids):
            into_flatten = name == "inception" and i in graph.reads["fc"]  # wrong there, see below
            if i not in graph.fixed and not into_flatten:
                theirs = peers_group(tp, dependencies, model.get_submodule(layer), index)
                assert our_group(model, graph, i) == theirs
                checked += 1
    assert checked >= len(set(graph.ids()) - set(graph.reads.get("fc", []))) > 0


@pytest.mark.parametrize(
    ("name", "layer"), [("depthwise with multiplier 2", "stem"), ("inception", "block2.one.0")]
)
def test_where_torch_pruning_is_wrong(name, layer, tp):
    """Version 1.6.1 leaves a network that cannot run: it does not see a depthwise convolution's
    multiplier, nor that a concatenation which is then flattened keeps its branches apart."""
    model, x = TOPOLOGIES[name]().eval(), example(name)
    graph = channels.trace(model, x)
    dead = {graph.makes[layer][3]}
    ours, quiet = (f(model, graph, dead) for f in (channels.remove, channels.silence))
    assert (ours(x) - quiet(x)).abs().max() < 1e-5
    if name.startswith("depthwise"):
        assert (ours.deep.in_channels, ours.deep.out_channels, ours.deep.groups) == (5, 10, 5)
    dependencies = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    target = model.get_submodule(layer)
    dependencies.get_pruning_group(target, tp.prune_conv_out_channels, [3]).prune()
    with pytest.raises(RuntimeError):
        model(x)
