"""Models: sizes known from the papers, seeds, widths."""

import math

import pytest
import torch
from torch import nn

from course_lib import data, measure, models, training


@pytest.mark.parametrize(
    ("model", "image", "weights"),
    [
        (models.mlp(), (1, 14, 14), 25_100),
        (models.lenet_300_100(), (1, 28, 28), 266_200),  # Han et al. 2015: 267 K with biases
        (models.lenet5(), (1, 28, 28), 430_500),  # Han et al. 2015: 431 K
        (models.small_cnn(), (1, 14, 14), 16 * 9 + 32 * 16 * 9 + 32 * 9 * 10),
        (models.small_cnn(size=28), (1, 28, 28), 16 * 9 + 32 * 16 * 9 + 32 * 49 * 10),
        (models.vgg(), (1, 14, 14), 9 * (16 + 16 * 16 + 32 * 16 + 32 * 32) + 32 * 9 * 10),
        (
            models.resnet(size=28),
            (1, 28, 28),
            9 * (16 + 3 * 16 * 16 - 256 + 32 * 16 + 32 * 32) + 32 * 16 + 32 * 49 * 10,
        ),
        (
            models.inception(),
            (1, 14, 14),
            16 * 9
            + (4 * 16 * 6 + 6 * 6 * (9 + 25))  # 1×1 into each branch, then 3×3 and 5×5
            + (4 * 24 * 8 + 8 * 8 * (9 + 25))
            + 32 * 9 * 10,
        ),
        (
            models.mobilenet(),
            (1, 14, 14),
            16 * 9 + 9 * (16 + 32 + 32) + (16 * 32 + 2 * 32 * 32) + 32 * 16 * 10,
        ),
    ],
)
def test_sizes(model, image, weights):
    assert model(torch.zeros(3, *image)).shape == (3, 10)
    products = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert sum(m.weight.numel() for m in products) == weights


WIRED = [models.vgg, models.resnet, models.inception, models.mobilenet]


@pytest.mark.parametrize("build", WIRED)
@pytest.mark.parametrize("size", [6, 10, 28])
def test_wired_networks_at_every_size_and_width(build, size):
    images = torch.zeros(2, 1, size, size)
    assert build(size=size, width=0.01)(images).shape == (2, 10)
    half, whole = (measure.macs(build(size=size, width=w), images) for w in (0.5, 1))
    assert 0.2 < half / whole < 0.5
    first, second, other = (build(size=size, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[n], t) for n, t in second.items())
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_residual_block_adds_its_input():
    model = models.resnet()
    block = model.block1.eval()
    with torch.no_grad():
        block.second[1].weight.zero_()  # f(x) = 0
        x = torch.randn(2, 16, 7, 7)
        assert torch.equal(block(x), x.relu())


@pytest.mark.parametrize("build", WIRED)
def test_wired_networks_learn_in_seconds(build):
    train, test = data.load("glyphs", n_train=2000, n_test=1000)
    model = build()
    training.fit(model, train, epochs=2, optimizer=training.sgd(model, lr=0.05))
    assert training.evaluate(model, test) > 60  # chance is 10; 75 to 92 seen over seeds 0 to 2


def test_width_scales_the_hidden_sizes():
    half = models.lenet_300_100(width=0.5)
    assert half.fc1.weight.shape == (150, 784) and half.fc2.weight.shape == (50, 150)
    assert models.lenet5(width=0.1).conv1.weight.shape[0] == 2
    assert measure.count_parameters(models.small_cnn(width=0.01)) > 0  # never a layer without units


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
        (lambda: models.mlp((5,)), r"sizes must hold at least two positive integers, got \(5,\)"),
        (lambda: models.mlp((5, 0, 2)), "sizes must hold"),
        (lambda: models.mlp((5, 2.5, 2)), "sizes must hold.*2.5"),
        (lambda: models.mlp(("5", 2)), "sizes must hold"),
        (lambda: models.mlp((5, True)), "sizes must hold"),
        (lambda: models.lenet5(width=0), "width must be a positive number, got 0"),
        (lambda: models.small_cnn(size=7), "size must be an even integer of at least 4, got 7"),
        (lambda: models.small_cnn(size=14.0), "size must be an even integer.*14.0"),
        (lambda: models.vgg(size="14"), "size must be an even integer.*'14'"),
        (lambda: models.inception(size=2), "size must be an even integer.*2"),
        (lambda: models.resnet(width=-1), "width must be a positive number, got -1"),
        (lambda: models.vgg(width=math.nan), "width must be a positive number, got nan"),
        (lambda: models.mobilenet(width=math.inf), "width must be a positive number, got inf"),
        (lambda: models.lenet_300_100(width="1"), "width must be a positive number, got '1'"),
    ],
)
def test_impossible_sizes(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize("build", [models.mlp, models.lenet5, models.small_cnn, *WIRED])
def test_a_seed_is_an_integer(build):
    with pytest.raises(TypeError, match="seed must be an integer, got 1.5"):
        build(seed=1.5)
