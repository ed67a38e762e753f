"""Scores of channels: against numpy, torch's own pruning, naive loops and finite differences."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from course_lib import measure, models
from course_lib.pruning import channel_criteria as score
from course_lib.pruning import channels


def trained(model, x):
    """Batch statistics and offsets that are not those of a fresh network."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    y = torch.arange(len(x)) % 10
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), y


@pytest.fixture(params=[models.mlp, models.vgg, models.resnet, models.inception, models.mobilenet])
def case(request):
    """A network of each kind of wiring: model, graph, batch."""
    x = torch.randn(24, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    model = (
        models.mlp((196, 12, 8, 10)) if request.param is models.mlp else request.param(width=0.5)
    )
    model, y = trained(model, x)
    return model, channels.trace(model, x[:1]), (x, y)


ALL = {
    "l1": lambda m, g, b: score.l1(m, g),
    "l2": lambda m, g, b: score.l2(m, g),
    "rms": lambda m, g, b: score.rms(m, g),
    "bn_scale": lambda m, g, b: score.bn_scale(m, g),
    "activation_mean": lambda m, g, b: score.activation_mean(m, g, b[0]),
    "activation_std": lambda m, g, b: score.activation_std(m, g, b[0]),
    "apoz": lambda m, g, b: score.apoz(m, g, b[0]),
    "taylor": lambda m, g, b: score.taylor(m, g, b),
    "random": lambda m, g, b: score.random(m, g, seed=0),
    "oracle": lambda m, g, b: score.oracle(m, g, b),
    "flops": lambda m, g, b: score.flops_regularised(m, g, score.l1(m, g)),
}


@pytest.mark.parametrize("name", ALL)
def test_one_number_an_id_and_the_model_as_it_was(name, case):
    model, graph, batch = case
    if name == "bn_scale" and not any(True for _ in model.buffers()):
        with pytest.raises(ValueError, match="without batch norm: those that 'fc1' makes"):
            ALL[name](*case)
        return
    model.zero_grad(set_to_none=True)
    model.train()  # the scores have to look in evaluation mode, and put this back
    next(model.modules()).eval()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(0)
    state = torch.get_rng_state()
    found = ALL[name](model, graph, batch)
    assert found.shape == (len(graph.ids()),) and found.isfinite().all()
    assert not found.requires_grad and found.unique().numel() > 1
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    if name != "random":
        model.eval()
        assert torch.allclose(found, ALL[name](model, graph, batch))


def test_filter_norms_are_those_of_torchs_own_pruning():
    """ln_structured zeroes the filters with the smallest norm: the same ones."""
    model = models.small_cnn()
    graph = channels.trace(model, torch.zeros(1, 1, 14, 14))
    for n, norm in ((1, score.l1), (2, score.l2)):
        ours = norm(model, graph)
        for layer, rows in (("conv1", slice(0, 16)), ("conv2", slice(16, 48))):
            other = copy.deepcopy(model.get_submodule(layer))
            prune.ln_structured(other, "weight", amount=6, n=n, dim=0)
            gone = other.weight_mask.flatten(1).sum(1) == 0
            assert set(ours[rows].argsort()[:6].tolist()) == set(gone.nonzero().flatten().tolist())
    w = model.conv2.weight.detach().numpy().reshape(32, -1)
    np.testing.assert_allclose(score.l1(model, graph)[16:], np.abs(w).sum(1), rtol=1e-6)
    np.testing.assert_allclose(score.rms(model, graph)[16:], np.sqrt((w**2).mean(1)), rtol=1e-6)


def test_filters_that_make_one_channel_together_count_as_one():
    model = models.resnet(width=0.25)
    graph = channels.trace(model, torch.zeros(1, 1, 14, 14))
    stream = graph.ids().index(graph.makes["stem.0"][2])
    parts = [
        model.get_submodule(n).weight[2].detach().flatten() for n in ("stem.0", "block1.second.0")
    ]
    both = torch.cat(parts).double()
    for norm, expected in (
        (score.l1, both.abs().sum()),
        (score.l2, both.norm()),
        (score.rms, both.square().mean().sqrt()),
    ):
        assert norm(model, graph)[stream].item() == pytest.approx(expected.item(), rel=1e-6)


def test_bn_scale_is_the_magnitude_of_gamma():
    model = models.vgg()
    graph = channels.trace(model, torch.zeros(1, 1, 14, 14))
    with torch.no_grad():
        for block in (model.block1, model.block2, model.block3, model.block4):
            block[1].weight.copy_(torch.linspace(-2, 1, block[1].num_features))
    expected = torch.cat([torch.linspace(-2, 1, n).abs() for n in (16, 16, 32, 32)])
    assert torch.equal(score.bn_scale(model, graph), expected)


def test_activations_against_numpy():
    x = torch.randn(7, 1, 14, 14, generator=torch.Generator().manual_seed(1))
    model, _ = trained(models.vgg(width=0.25), x)
    graph = channels.trace(model, x)
    a = model.block2(model.block1(x)).detach().numpy()  # behind ReLU, before pooling
    rows = [graph.ids().index(i) for i in graph.makes["block2.0"]]
    flat = a.reshape(7, 4, -1).astype(np.float64)
    for mine, theirs in (
        (score.activation_mean(model, graph, x), flat.mean((0, 2))),
        (score.activation_std(model, graph, x), np.std(flat, axis=2).mean(0)),
        (score.apoz(model, graph, x), 1 - (flat == 0).mean((0, 2))),
    ):
        np.testing.assert_allclose(mine[rows], theirs, rtol=1e-5)


def test_activations_of_neurons():
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    model = models.mlp((5, 6, 4))
    graph = channels.trace(model, x)
    hidden = model[:3](x).detach()
    std = score.activation_std(model, graph, x)
    assert torch.allclose(std, hidden.std(0, correction=0), atol=1e-6)
    assert torch.equal(score.apoz(model, graph, x), (hidden > 0).float().mean(0))


def test_apoz_of_a_known_fraction_of_zeros():
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.0], [-1.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 5.0, 0.0]))
    x = torch.tensor([[-3.0], [-2.0], [-1.0], [4.0]])
    graph = channels.trace(model, x)
    # Zeros: three quarters, none, one quarter. Higher means keep.
    assert score.apoz(model, graph, x).tolist() == [0.25, 1.0, 0.75]


def test_no_activation_function_no_activation_score():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    graph = channels.trace(model, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="without an activation function: those that '0' makes"):
        score.apoz(model, graph, torch.zeros(1, 2))


def test_taylor_as_equation_8_says_it_example_by_example():
    """A naive loop: retained gradients, one example at a time, at the map that is read."""
    x = torch.randn(6, 1, 14, 14, generator=torch.Generator().manual_seed(1))
    model, y = trained(models.vgg(width=0.25), x)
    graph = channels.trace(model, x)
    mine = score.taylor(model, graph, (x, y[:6]), normalise=False)
    expected = torch.zeros(4)
    for k in range(6):
        z = model.block2(model.block1(x[k : k + 1]))
        z = model.pool1(z)
        z.retain_grad()
        logits = model.fc(model.flatten(model.pool2(model.block4(model.block3(z)))))
        F.cross_entropy(logits, y[k : k + 1]).backward()
        expected += (z.grad * z).mean((0, 2, 3)).abs().detach() / 6
    rows = [graph.ids().index(i) for i in graph.makes["block2.0"]]
    assert torch.allclose(mine[rows], expected, rtol=1e-4)
    # The mean inside the absolute value: signs may cancel within a map, not between examples.


def test_taylor_is_the_slope_of_the_loss_as_readers_turn_the_channel_down(case):
    """Central differences of each example's loss in a gate on every weight that reads the id."""
    model, graph, (x, y) = case
    model, x, y = model.double(), x[:4].double(), y[:4]
    mine = score.taylor(model, graph, (x, y), normalise=False)
    for k in range(0, len(mine), 5):
        i, slopes = graph.ids()[k], []
        for gate in (1 + 1e-5, 1 - 1e-5):
            other = copy.deepcopy(model)
            with torch.no_grad():
                for name, ids in graph.reads.items():
                    other.get_submodule(name).weight[:, [j == i for j in ids]] *= gate
                slopes.append(F.cross_entropy(other(x), y, reduction="none"))
        slope = ((slopes[0] - slopes[1]) / 2e-5).abs().mean()
        entries = slope / mine[k]  # M, a whole number of places
        assert slope == 0 or entries == pytest.approx(round(entries.item()), rel=1e-4)
    norms = score.taylor(model, graph, (x, y))
    place = {i: k for k, i in enumerate(graph.ids())}
    for ids in graph.layers().values():
        rows = [place[i] for i in ids]
        assert norms[rows].norm().item() == pytest.approx(1)
        assert torch.allclose(norms[rows] * mine[rows].norm(), mine[rows])


def test_taylor_takes_the_absolute_value_of_each_example():
    """Two examples whose slopes cancel: the batch's gradient is zero, the score is not."""
    model = nn.Sequential(nn.Linear(1, 2), nn.Identity(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.5)
    x, y = torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [2.0]])  # output 1 on both
    graph = channels.trace(model, x)
    assert score.taylor(model, graph, (x, y), F.mse_loss, normalise=False).min() > 0.5


def test_oracle_is_the_loss_of_the_silenced_network(case):
    model, graph, (x, y) = case
    found = score.oracle(model, graph, (x, y))
    with torch.no_grad():
        before = F.cross_entropy(model(x), y)
        for k in range(0, len(found), 3):
            quiet = channels.silence(model, graph, {graph.ids()[k]})
            change = (F.cross_entropy(quiet(x), y) - before).abs()
            assert found[k].item() == pytest.approx(change.item(), abs=1e-6)


class InPlace(nn.Module):
    """An operation in place, after a layer, on a value that is also read under another name."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.mix, self.end = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 10)
        self.act = nn.SiLU(inplace=True)  # unlike ReLU, not the same once and twice

    def forward(self, x):
        x = self.stem(x)
        same = x.flatten(1)
        y = self.mix(x)
        self.act(same)  # changes x too
        return self.end(self.act(x + y) + x)


def test_oracle_of_a_network_that_works_in_place():
    x, y = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 10
    model, given = InPlace().eval(), x.clone()
    graph = channels.trace(model, x[:1])
    found = score.oracle(model, graph, (x, y))
    assert x.equal(given)
    with torch.no_grad():
        before = F.cross_entropy(model(x), y)
        for i, change in zip(graph.ids(), found, strict=True):
            cost = F.cross_entropy(channels.silence(model, graph, {i})(x), y)
            assert change.item() == pytest.approx((cost - before).abs().item(), abs=1e-6)


def test_oracle_computes_what_lies_before_a_channel_only_once(monkeypatch):
    """The chain 196-12-8-10: three whole runs are for checks and for the stops."""
    calls, forward = [], nn.Linear.forward
    model, x = models.mlp((196, 12, 8, 10)).eval(), torch.rand(6, 1, 14, 14)
    graph = channels.trace(model, x[:1])
    monkeypatch.setattr(
        nn.Linear, "forward", lambda self, x: (calls.append(self.in_features), forward(self, x))[1]
    )
    score.oracle(model, graph, (x, torch.arange(6)))
    assert [calls.count(size) for size in (196, 12, 8)] == [3, 3 + 12, 3 + 12 + 8]


def test_macs_share_is_what_removal_saves(case):
    model, graph, (x, _) = case
    share = score.macs_share(model, graph)
    whole = measure.macs(model, x)
    for k in range(0, len(share), 3):
        small = channels.remove(model, graph, {graph.ids()[k]})
        assert share[k].item() == pytest.approx(1 - measure.macs(small, x) / whole, abs=1e-12)
    with FlopCounterMode(display=False) as before, torch.no_grad():
        model(x[:1])
    with FlopCounterMode(display=False) as after, torch.no_grad():
        channels.remove(model, graph, {graph.ids()[-1]})(x[:1])
    saved = 1 - after.get_total_flops() / before.get_total_flops()
    assert share[-1].item() == pytest.approx(saved, abs=1e-9)


def test_macs_share_of_a_layer_that_makes_what_it_reads():
    """x + conv(x): the channel goes from both sides of the weight, its corner only once."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.end = nn.Linear(2, 5), nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x):
            x = self.stem(x)
            return self.end(x + self.conv(x))

    model, x = Sum(), torch.zeros(1, 2)
    share = score.macs_share(model, channels.trace(model, x))
    assert share.tolist() == pytest.approx([(2 + 9 + 3) / (10 + 25 + 15)] * 5)


def test_flops_regularisation_decides_between_equals():
    model = models.vgg(width=0.5)
    graph = channels.trace(model, torch.zeros(1, 1, 14, 14))
    share = score.macs_share(model, graph)
    equal = torch.ones(len(share))
    found = score.flops_regularised(model, graph, equal, strength=0.01)
    assert torch.allclose(found, equal - share.float())
    assert torch.equal(score.flops_regularised(model, graph, equal, strength=0), equal)
    with pytest.raises(ValueError, match="scores must be 48 numbers, one per id"):
        score.flops_regularised(model, graph, equal[1:])
    with pytest.raises(ValueError, match="with 1 NaN"):
        score.flops_regularised(model, graph, torch.cat([equal[1:], equal[:1] * float("nan")]))


def test_spearman_by_ranks():
    a = torch.tensor([3.0, 1, 2, 2])
    b = torch.tensor([10.0, -5, 0, 1])
    ranks = np.corrcoef([4, 1, 2.5, 2.5], [4, 1, 2, 3])[0, 1]
    assert score.spearman(a, b) == pytest.approx(ranks)
    assert score.spearman(a, -a) == pytest.approx(-1)
    with pytest.raises(ValueError, match="a and b must be scores of the same ids"):
        score.spearman(a, b[:2])
    with pytest.raises(ValueError, match="b must hold no NaN, got 4"):
        score.spearman(a, b * float("nan"))
    assert np.isnan(score.spearman(a, torch.ones(4)))  # no order at all: undefined, no warning


def test_a_graph_of_another_model_is_refused():
    graph = channels.trace(models.mlp((4, 5, 3)), torch.zeros(1, 4))
    for name in ("l1", "apoz", "taylor", "oracle", "flops"):
        with pytest.raises(ValueError, match="graph must be of this model"):
            ALL[name](models.mlp((4, 6, 3)), graph, (torch.zeros(2, 4), torch.zeros(2).long()))


def small():
    """Two convolutions with batch norm and a linear layer, as a network in use."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
        x = torch.randn(6, 1, 8, 8)
    return trained(model, x)[0], x, torch.arange(6)


@pytest.mark.parametrize("name", [n for n in ALL if n != "random"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_float32(name, dtype):
    """The same weights in float64 are the oracle; activations and losses stay rounded to ``dtype``."""
    model, x, y = small()
    model, x = model.to(dtype), x.to(dtype)
    graph = channels.trace(model, x)
    found = ALL[name](model, graph, (x, y))
    right = ALL[name](copy.deepcopy(model).double(), graph, (x.double(), y))
    assert found.dtype == torch.float32 and right.dtype == torch.float64
    exact = name in ("l1", "l2", "rms", "bn_scale", "flops")
    tolerance = 1e-6 if exact else 16 * torch.finfo(dtype).eps
    assert torch.allclose(found.double(), right, rtol=tolerance, atol=tolerance)


def test_large_half_filters_do_not_overflow():
    model = nn.Sequential(nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 2)).half()
    with torch.no_grad():
        model[0].weight.fill_(3000)  # 64 of them are above 65,504, and so is each square
    graph = channels.trace(model, torch.zeros(1, 64).half())
    assert score.l1(model, graph).tolist() == [192_000] * 3
    assert score.l2(model, graph).tolist() == [24_000] * 3
    assert score.rms(model, graph).tolist() == [3_000] * 3


LOOKING = ["activation_mean", "activation_std", "apoz", "taylor", "oracle"]


@pytest.mark.parametrize("name", LOOKING)
def test_wrong_images_are_named(name):
    model, x, y = small()
    graph, argument = channels.trace(model, x), "batch" if name in ("taylor", "oracle") else "x"
    model.train()
    before = copy.deepcopy(model.state_dict())
    for value in (float("nan"), float("inf")):
        spoilt = x.clone()
        spoilt[0, 0, 0, 0] = value
        with pytest.raises(ValueError, match=f"{argument} must be finite, got 1 NaN or infinite"):
            ALL[name](model, graph, (spoilt, y))
    for wrong, words in (
        (x[:0], r"at least one example, got shape \(0, 1, 8, 8\)"),
        (x[0], "4D input|batch, channels|as many inputs"),
        (x.repeat(1, 3, 1, 1), r"fit the model, .* got shape \(6, 3, 8, 8\)"),
        (x.long(), "fit the model.*int64"),
        (x.to("meta"), "on the model's device"),
    ):
        with pytest.raises(ValueError, match=f"{argument} must .*({words})"):
            ALL[name](model, graph, (wrong, y[: len(wrong)]))
    with pytest.raises(TypeError, match=f"{argument} must be a tensor, got list"):
        ALL[name](model, graph, ([1.0] * 6, y))
    assert all(m.training for m in model.modules())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", [n for n in ALL if n != "random"])
def test_weights_that_are_not_finite_are_named(name):
    model, x, y = small()
    graph = channels.trace(model, x)
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="model's '3.weight' must be finite, got 1 NaN"):
        ALL[name](model, graph, (x, y))


def test_activations_that_overflow_are_not_counted_as_active():
    model, x, _ = small()
    model = model.half()
    graph = channels.trace(model, x.half())
    with torch.no_grad():
        model[1].weight.fill_(60_000)
    for name in ("activation_mean", "activation_std", "apoz"):
        with pytest.raises(ValueError, match="x's values behind the activation .* must be finite"):
            ALL[name](model, graph, ((x * 100).half(), None))


@pytest.mark.parametrize("use", [score.taylor, score.oracle])
def test_wrong_losses_and_targets_are_named(use):
    model, x, y = small()
    graph = channels.trace(model, x)
    for loss, got in (
        (lambda out, y: F.cross_entropy(out, y, reduction="none"), r"got shape \(6,\)"),
        (lambda out, y: 1.0, "got float"),
    ):
        with pytest.raises(ValueError, match="loss must return one number, the mean.*" + got):
            use(model, graph, (x, y), loss)
    with pytest.raises(ValueError, match="loss of the batch must be finite"):
        use(model, graph, (x, y), lambda out, y: F.cross_entropy(out, y) * float("inf"))
    for targets, words in (
        (y + 10, "batch must fit the model.*out of bounds"),
        (y.float(), "batch must fit the model"),
        (y[:4], "as many inputs as targets, got 6 and 4"),
    ):
        with pytest.raises(ValueError, match=words):
            use(model, graph, (x, targets))
    with pytest.raises(TypeError, match="batch must be a pair"):
        use(model, graph, x)


def test_taylor_of_a_loss_that_does_not_see_the_network():
    model, x, y = small()
    graph = channels.trace(model, x)
    with pytest.raises(ValueError, match="loss must depend on the model's output"):
        score.taylor(model, graph, (x, y), lambda out, y: F.cross_entropy(out.detach(), y))


def test_taylor_of_a_branch_that_the_loss_does_not_use_is_zero():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            return self.b(self.a(x).relu()), self.d(self.c(x).relu())

    model, x = Two(), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    graph = channels.trace(model, x)
    found = score.taylor(
        model, graph, (x, torch.arange(5) % 4), lambda out, y: F.cross_entropy(out[0], y)
    )
    assert found[graph.rows()["a"]].max() > 0 and found[graph.rows()["c"]].tolist() == [0.0] * 4


def test_frozen_networks_and_no_grad_change_no_score():
    model, x, y = small()
    graph = channels.trace(model, x)
    right = score.taylor(model, graph, (x, y))
    model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(score.taylor(model, graph, (x, y)), right)
    assert not any(p.requires_grad for p in model.parameters())


def test_one_neuron_of_one_example_has_no_deviation():
    model = models.mlp((4, 5, 3))
    graph = channels.trace(model, torch.zeros(1, 4))
    with pytest.raises(ValueError, match="x must hold at least two examples"):
        score.activation_std(model, graph, torch.ones(1, 4))
    model, x, _ = small()  # a map of one image does deviate
    assert score.activation_std(model, channels.trace(model, x), x[:1]).max() > 0


def test_bn_scale_of_norms_that_learn_nothing_and_of_mixed_types():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1)
    ).eval()
    graph = channels.trace(model, torch.zeros(1, 1, 2, 2))
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([1.0, -2.0, 0.1]))
    assert torch.equal(score.bn_scale(model, graph), torch.tensor([1.0, 2.0, 0.1]))
    for half in (model[0], model[3]):
        half.half()  # batch norm stays in float32, as in mixed precision
    assert torch.equal(score.bn_scale(model, graph), torch.tensor([1.0, 2.0, 0.1]))
    model[2] = nn.Identity()
    graph = channels.trace(model.float(), torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="without batch norm: those that '0' makes"):
        score.bn_scale(model, graph)


def test_an_activation_is_seen_before_what_overwrites_it():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.b(F.relu_(self.a(x)).add_(1))

    model, x = Overwrites(), torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    graph = channels.trace(model, x)
    hidden = model.a(x).relu().detach()
    assert torch.equal(score.apoz(model, graph, x), (hidden > 0).float().mean(0))
    assert torch.allclose(score.activation_mean(model, graph, x), hidden.mean(0))


def test_normalised_layers_have_norm_one_and_zeros_stay():
    graph = channels.trace(models.mlp((4, 3, 2, 5)), torch.zeros(1, 4))
    scores = torch.tensor([3.0, 0, -4, 0, 0])
    before = scores.clone()
    assert torch.equal(score.normalised(graph, scores), torch.tensor([0.6, 0, -0.8, 0, 0]))
    assert torch.equal(scores, before)
    large = score.normalised(graph, torch.tensor([3e4, 0, 4e4, 0, 0]).half())  # 25e8: inf in half
    assert torch.allclose(large, torch.tensor([0.6, 0, 0.8, 0, 0]), atol=1e-3)
    with pytest.raises(ValueError, match="scores must be 5 numbers"):
        score.normalised(graph, scores[1:])


def test_macs_share_of_a_depthwise_multiplier():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 2, 1)
    ).eval()
    x = torch.zeros(1, 1, 8, 8)
    graph = channels.trace(model, x)
    whole = measure.macs(model, x)
    for share, i in zip(score.macs_share(model, graph).tolist(), graph.ids(), strict=True):
        small = channels.remove(model, graph, {i})
        assert share == pytest.approx(1 - measure.macs(small, x) / whole, abs=1e-12)
