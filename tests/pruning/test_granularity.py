"""Granularity: brute force on tiny convolutions, exact counts, refusals."""

from itertools import product

import pytest
import torch

from course_lib import models
from course_lib.pruning import criteria, granularity, masks


def scores(*shape, seed=0):
    return {"conv.weight": torch.rand(shape, generator=torch.Generator().manual_seed(seed))}


def test_channels_and_kernels_remove_the_lowest_sums():
    s = scores(4, 3, 3, 3)
    w = s["conv.weight"]
    whole = granularity.channels(s, 0.5)["conv.weight"]
    lowest = sorted(range(4), key=lambda o: w[o].sum().item())[:2]
    assert [not whole[o].any() for o in range(4)] == [o in lowest for o in range(4)]
    kernel = granularity.kernels(s, 0.25)["conv.weight"]
    pairs = sorted(product(range(4), range(3)), key=lambda p: w[p].sum().item())[:3]
    for pair in product(range(4), range(3)):
        assert kernel[pair].all() != kernel[pair].any() or kernel[pair].any() == (pair not in pairs)
        assert kernel[pair].any() == (pair not in pairs)
    assert masks.sparsity({"k": kernel}) == 0.25


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 9])
def test_strided_keeps_the_best_offset_of_each_input_map(stride):
    s = scores(4, 3, 3, 3, seed=stride)
    w, keep = s["conv.weight"], granularity.strided(s, stride)["conv.weight"]
    for i in range(3):
        kept = [torch.arange(9)[keep[o, i].flatten()].tolist() for o in range(4)]
        assert all(k == kept[0] for k in kept)  # one pattern for all kernels of a source map
        combs = [list(range(offset, 9, stride)) for offset in range(stride)]
        assert kept[0] == max(combs, key=lambda c: w[:, i].flatten(1)[:, c].sum().item())


def test_ties_and_extremes():
    s = {"conv.weight": torch.ones(4, 2, 3, 3)}
    assert granularity.channels(s, 0.5)["conv.weight"][:2].all()  # the first of equals stay
    assert not granularity.channels(s, 0.5)["conv.weight"][2:].any()
    assert granularity.strided(s, 3)["conv.weight"][0, 0].flatten().nonzero().flatten().tolist() == [
        0, 3, 6,
    ]  # fmt: skip
    for grain in (granularity.channels, granularity.kernels):
        assert grain(s, 0.0)["conv.weight"].all() and not grain(s, 1.0)["conv.weight"].any()


def test_masks_apply_to_a_network():
    model = models.small_cnn()
    convolutions = {n: s for n, s in criteria.magnitude(model).items() if s.dim() == 4}
    for keep in (granularity.kernels(convolutions, 0.5), granularity.strided(convolutions, 2)):
        masks.apply(model, keep)
    assert (model.conv2.weight == 0).float().mean() > 0.5


def test_refusals():
    with pytest.raises(ValueError, match=r"scores\['fc'\] must be a convolution's.*\(2, 3\)"):
        granularity.channels({"fc": torch.ones(2, 3)}, 0.5)
    with pytest.raises(ValueError, match="sparsity must be in"):
        granularity.kernels(scores(2, 2, 3, 3), 1.1)
    with pytest.raises(ValueError, match="stride must be a whole number from 1 to 9, got 10"):
        granularity.strided(scores(2, 2, 3, 3), 10)
    with pytest.raises(ValueError, match="1 NaN"):
        granularity.channels({"conv": torch.full((1, 1, 1, 1), torch.nan)}, 0.5)
