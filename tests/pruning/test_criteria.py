"""Scores: scope, the model left alone, errors."""

import copy

import pytest
import torch
from torch import nn

from course_lib import models
from course_lib.pruning import criteria


def test_scope_is_the_weights_of_linear_and_convolution_layers():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.ConvTranspose2d(4, 2, 2),
        nn.Flatten(),
        nn.Linear(8, 2),
        nn.Embedding(3, 2),
    )
    assert list(criteria.magnitude(model)) == ["0.weight", "2.weight", "3.weight", "5.weight"]
    assert list(criteria.magnitude(nn.Linear(3, 2))) == ["weight"]


def test_magnitude_is_numpys_absolute_value_and_leaves_the_model_alone():
    net = models.lenet5(width=0.1)
    before = copy.deepcopy(net.state_dict())
    for name, score in criteria.magnitude(net).items():
        assert (score.numpy() == abs(net.get_parameter(name).detach().numpy())).all()
        assert not score.requires_grad
        score.zero_()
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())


def test_random_follows_its_seed_only():
    a, b = models.mlp(seed=0), models.mlp(seed=1)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, two, three = (criteria.random(m, seed=s) for m, s in ((a, 4), (b, 4), (a, 5)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert not torch.equal(one["fc1.weight"], three["fc1.weight"])
    flat = torch.cat([s.flatten() for s in one.values()])
    # Mean of 25,100 uniform numbers: sd 0.0018. Fixed seed; wrong draws would miss by far more.
    assert flat.mean().item() == pytest.approx(0.5, abs=0.01) and 0 <= flat.min() < flat.max() < 1


@pytest.mark.parametrize("score", [criteria.magnitude, lambda m: criteria.random(m, seed=0)])
def test_errors_name_the_layer(score):
    with pytest.raises(ValueError, match="model must have a linear or convolution layer, got ReLU"):
        score(nn.ReLU())
    net = models.mlp((3, 4, 2))
    with torch.no_grad():
        net.fc2.weight[0, :2] = torch.nan
    with pytest.raises(ValueError, match="model has 2 NaN weights in 'fc2.weight'"):
        score(net)
