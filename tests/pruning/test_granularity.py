"""Granularity: brute force on tiny convolutions, exact counts, refusals."""

import copy
from itertools import product

import pytest
import torch
from torch import nn

from course_lib import models
from course_lib.pruning import criteria, granularity, masks

LAYERS = {
    "plain": lambda: nn.Conv2d(4, 6, 3),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "transposed, grouped": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "one dimension": lambda: nn.Conv1d(4, 6, 5),
    "three dimensions": lambda: nn.ConvTranspose3d(4, 6, 2),
}


def connections(layer):
    """(output map, input map) -> the index of its kernel in the weight, by asking the layer: which
    kernels reach the output when only one input map is not zero."""
    probe = copy.deepcopy(layer).double()
    probe.bias.data.zero_()
    found = {}
    for a, b in product(*(range(n) for n in layer.weight.shape[:2])):
        with torch.no_grad():
            probe.weight.zero_()
            probe.weight[a, b] = 1
            for i in range(layer.in_channels):
                x = torch.zeros(1, layer.in_channels, *[6] * (layer.weight.dim() - 2)).double()
                x[0, i] = 1
                for o in probe(x)[0].flatten(1).sum(1).nonzero().flatten().tolist():
                    found[o, i] = (a, b)
    assert len(found) == layer.weight.shape[0] * layer.weight.shape[1]
    return found


def scored(layer, seed=0):
    g = torch.Generator().manual_seed(seed)
    return nn.Sequential(layer), {"0.weight": torch.rand(layer.weight.shape, generator=g)}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_channels_and_kernels_remove_the_lowest_sums(make):
    layer = make()
    net, scores = scored(layer)
    w, kernel_of = scores["0.weight"], connections(layer)
    whole = granularity.channels(net, scores, 0.5)["0.weight"]
    maps = {
        o: [k for (out, _), k in kernel_of.items() if out == o] for o in range(layer.out_channels)
    }
    worth = {o: sum(w[k].sum().item() for k in own) for o, own in maps.items()}
    lowest = sorted(worth, key=worth.get)[: layer.out_channels // 2]
    for o, own in maps.items():
        assert all(whole[k].any() == whole[k].all() == (o not in lowest) for k in own)
    keep = granularity.kernels(net, scores, 0.25)["0.weight"]
    pairs = sorted(kernel_of.values(), key=lambda k: w[k].sum().item())
    gone = pairs[: round(0.25 * len(pairs))]
    assert all(keep[k].any() == keep[k].all() == (k not in gone) for k in pairs)
    assert keep.shape == w.shape and keep.is_contiguous()


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_strided_keeps_the_best_offset_of_each_input_map(make, stride):
    layer = make()
    net, scores = scored(layer, seed=stride)
    w, keep = scores["0.weight"], granularity.strided(net, scores, stride)["0.weight"]
    n, kernel_of = w[0, 0].numel(), connections(layer)
    for i in range(layer.in_channels):
        own = [k for (_, source), k in kernel_of.items() if source == i]
        kept = [torch.arange(n)[keep[k].flatten()].tolist() for k in own]
        assert all(k == kept[0] for k in kept)  # one pattern for all kernels of a source map
        combs = [list(range(offset, n, stride)) for offset in range(stride)]
        worth = [sum(w[k].flatten()[c].sum().item() for k in own) for c in combs]
        assert kept[0] == combs[worth.index(max(worth))]


def test_ties_and_extremes():
    net = nn.Sequential(nn.Conv2d(2, 4, 3))
    s = {"0.weight": torch.ones(4, 2, 3, 3)}
    keep = granularity.channels(net, s, 0.5)["0.weight"]
    assert keep[:2].all() and not keep[2:].any()  # the first of equals stay
    kept = granularity.strided(net, s, 3)["0.weight"][0, 0].flatten().nonzero().flatten()
    assert kept.tolist() == [0, 3, 6]
    for grain in (granularity.channels, granularity.kernels):
        assert grain(net, s, 0.0)["0.weight"].all() and not grain(net, s, 1.0)["0.weight"].any()


def test_half_precision_is_summed_in_float32():
    net = nn.Sequential(nn.Conv2d(8, 4, 8))
    s = torch.full((4, 8, 8, 8), 200.0)  # 102,400 a filter: beyond float16
    s[1] += 1
    for dtype in (torch.float16, torch.float32):
        keep = granularity.channels(net, {"0.weight": s.to(dtype)}, 0.75)["0.weight"]
        assert keep[1].all() and not keep[[0, 2, 3]].any()


def test_masks_apply_to_a_network():
    model = models.small_cnn()
    convolutions = {n: s for n, s in criteria.magnitude(model).items() if s.dim() == 4}
    before = copy.deepcopy(model.state_dict())
    kept = [
        granularity.kernels(model, convolutions, 0.5),
        granularity.strided(model, convolutions, 2),
    ]
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    for keep in kept:
        masks.apply(model, keep)
    assert (model.conv2.weight == 0).float().mean() > 0.5


def test_refusals():
    net = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    good = {"0.weight": torch.ones(2, 2, 3, 3)}
    for wrong, words in (
        ({"2.weight": torch.ones(2, 8)}, "'2.weight', which is no convolution.*0.weight"),
        ({"conv": torch.ones(2, 2, 3, 3)}, "'conv', which is no convolution"),
        ({"0.weight": torch.ones(2, 2, 9)}, r"shape \(2, 2, 3, 3\), got \(2, 2, 9\)"),
        ({"0.weight": torch.full((2, 2, 3, 3), torch.nan)}, "'0.weight'.*NaN"),
        ({}, "at least one convolution"),
    ):
        for grain in (
            lambda s: granularity.channels(net, s, 0.5),
            lambda s: granularity.kernels(net, s, 0.5),
            lambda s: granularity.strided(net, s, 3),
        ):
            with pytest.raises(ValueError, match=words):
                grain(wrong)
    both = {"0.weight": good["0.weight"].clone()}
    both["0.weight"][0, 0, 0, 0], both["0.weight"][0, 0, 0, 1] = torch.inf, -torch.inf
    with pytest.raises(ValueError, match="inf and -inf in one group"):
        granularity.channels(net, both, 0.5)
    with pytest.raises(ValueError, match="sparsity must be in"):
        granularity.kernels(net, good, 1.1)
    for stride in (10, 0, 2.0, True):
        with pytest.raises(ValueError, match=f"stride must be an integer from 1 to 9.*{stride}"):
            granularity.strided(net, good, stride)
    parametrised = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3)))
    with pytest.raises(ValueError, match="'0' is parametrised"):
        granularity.channels(parametrised, good, 0.5)


@pytest.mark.parametrize(("keep", "of"), [(1, 4), (3, 4), (2, 4), (4, 8), (0, 3), (3, 3), (1, 1)])
def test_n_of_m_keeps_n_of_every_m_neighbouring_inputs(keep, of):
    """The number is what stays: 1:4 and 3:4 differ, where 2:4 and 4:8 alone would hide it."""
    generator = torch.Generator().manual_seed(0)
    scores = {
        "linear": torch.randint(0, 5, (6, 24), generator=generator).float(),
        "conv": torch.rand(3, 24, 2, 2, generator=generator),
    }
    for name, mask in granularity.n_of_m(scores, keep=keep, of=of).items():
        s = scores[name].flatten(2) if name == "conv" else scores[name].unsqueeze(2)
        mask = mask.reshape(s.shape)
        for out, first, place in product(range(len(s)), range(0, 24, of), range(s.shape[2])):
            group = s[out, first : first + of, place].tolist()
            stay = sorted(sorted(range(of), key=lambda j: (-group[j], j))[:keep])
            assert mask[out, first : first + of, place].nonzero().flatten().tolist() == stay


@pytest.mark.parametrize(
    ("scores", "keep", "of", "kind", "message"),
    [
        ({"w": torch.ones(2, 6)}, 2, 4, ValueError, "of must divide.*got 4 and the 6 of 'w'"),
        ({"w": torch.ones(2, 8)}, 5, 4, ValueError, "keep must be an integer from 0 to 4, got 5"),
        ({"w": torch.ones(2, 8)}, 2.0, 4, ValueError, "keep must be an integer"),
        ({"w": torch.ones(2, 8)}, 0, 0, ValueError, "of must be a positive integer, got 0"),
        ({"w": torch.ones(8)}, 2, 4, ValueError, r"must be \(out, in, …\)"),
        ({"w": torch.full((2, 8), torch.nan)}, 2, 4, ValueError, "must be numbers, got 16 NaN"),
        ({"w": torch.ones(2, 8) > 0}, 2, 4, TypeError, "must be real numbers"),
        ({}, 2, 4, ValueError, "scores must hold at least one weight"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(scores, keep, of, kind, message):
    with pytest.raises(kind, match=message):
        granularity.n_of_m(scores, keep=keep, of=of)
