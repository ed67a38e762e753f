"""Models: sizes known from the papers, seeds, widths."""

import math

import pytest
import torch

from course_lib import measure, models


@pytest.mark.parametrize(
    ("model", "image", "weights"),
    [
        (models.mlp(), (1, 14, 14), 25_100),
        (models.lenet_300_100(), (1, 28, 28), 266_200),  # Han et al. 2015: 267 K with biases
        (models.lenet5(), (1, 28, 28), 430_500),  # Han et al. 2015: 431 K
        (models.small_cnn(), (1, 14, 14), 16 * 9 + 32 * 16 * 9 + 32 * 9 * 10),
        (models.small_cnn(size=28), (1, 28, 28), 16 * 9 + 32 * 16 * 9 + 32 * 49 * 10),
    ],
)
def test_sizes(model, image, weights):
    assert model(torch.zeros(3, *image)).shape == (3, 10)
    assert sum(p.numel() for n, p in model.named_parameters() if "weight" in n) == weights


def test_width_scales_the_hidden_sizes():
    half = models.lenet_300_100(width=0.5)
    assert half.fc1.weight.shape == (150, 784) and half.fc2.weight.shape == (50, 150)
    assert models.lenet5(width=0.1).conv1.weight.shape[0] == 2
    assert measure.parameters(models.small_cnn(width=0.01)) > 0  # never a layer without units


def test_seeds_give_weights_and_leave_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a, b, c = (models.small_cnn(seed=s) for s in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.conv2.weight, b.conv2.weight)
    assert not torch.equal(a.conv2.weight, c.conv2.weight)


def test_he_initialisation():
    model = models.mlp((400, 300, 10))
    assert model.fc1.weight.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.02)
    assert model.fc1.weight.abs().max() > 3 * math.sqrt(2 / 400)  # normal, not uniform
    assert model.fc1.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: models.mlp((5,)), r"sizes must hold at least two positive numbers, got \(5,\)"),
        (lambda: models.mlp((5, 0, 2)), "sizes must hold"),
        (lambda: models.lenet5(width=0), "width must be positive, got 0"),
        (lambda: models.small_cnn(size=7), "size must be an even number.*7"),
    ],
)
def test_impossible_sizes(build, words):
    with pytest.raises(ValueError, match=words):
        build()
