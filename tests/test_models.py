"""Models: sizes known from the papers, seeds, widths."""

import copy
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


def random_transformer(**options):
    """A transformer whose every part matters: its first weights would leave most of them near 0."""
    model = models.tiny_transformer(11, width=12, heads=3, context=7, **options)
    g = torch.Generator().manual_seed(0)
    for values in model.parameters():
        values.data = torch.randn(values.shape, generator=g) * 0.5
    return model.eval()


TOKENS = torch.randint(11, (4, 7), generator=torch.Generator().manual_seed(1))


def test_transformer_has_the_papers_parts():
    model = models.tiny_transformer(94)
    linear = {n: m.weight.numel() for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert list(linear) == [f"blocks.{b}.{n}" for b in (0, 1) for n in ("qkv", "out", "up", "down")]
    assert sum(linear.values()) == 2 * 12 * 64**2
    assert measure.count_parameters(model) == 2 * (12 * 64**2 + 13 * 64) + (94 + 32 + 2) * 64
    first, same, other = (models.tiny_transformer(94, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[n], t) for n, t in same.items())
    assert not torch.equal(first["words.weight"], other["words.weight"])
    assert first["blocks.0.up.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert first["blocks.0.out.weight"].std().item() == pytest.approx(0.01, rel=0.05)


def test_a_later_word_changes_no_earlier_logit():
    model = random_transformer()
    for t in range(1, 7):
        changed = TOKENS.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 11
        before, after = model(TOKENS), model(changed)
        assert torch.equal(before[:, :t], after[:, :t])
        assert not torch.isclose(before[:, t:], after[:, t:]).all(-1).any()
    assert torch.allclose(model(TOKENS[:, :3]), model(TOKENS)[:, :3], atol=1e-5)


def test_attention_is_that_of_torchs_own_layer():
    block = random_transformer().blocks[1]
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = block.qkv.weight, block.qkv.bias
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = block.out.weight, block.out.bias
    x = torch.randn(4, 7, 12, generator=torch.Generator().manual_seed(2))
    later = torch.ones(7, 7, dtype=torch.bool).triu(1)
    wanted, _ = theirs(x, x, x, attn_mask=later)
    assert torch.allclose(block.attention(x), wanted, atol=1e-5)


def test_transformer_is_the_sum_of_its_parts():
    model = random_transformer()
    x = model.words.weight[TOKENS] + model.positions.weight
    for block in model.blocks:
        x = x + block.attention(nn.functional.layer_norm(x, (12,), *block.norm1.parameters()))
        inner = block.up(nn.functional.layer_norm(x, (12,), *block.norm2.parameters()))
        x = x + block.down(nn.functional.gelu(inner))
    x = nn.functional.layer_norm(x, (12,), *model.norm.parameters())
    assert torch.allclose(model(TOKENS), x @ model.words.weight.t(), atol=1e-4)


def test_a_head_that_is_cut_out_is_one_whose_output_is_zero():
    model = random_transformer()
    silent, smaller = copy.deepcopy(model), copy.deepcopy(model)
    silent.blocks[0].out.weight.data[:, 4:8] = 0
    block = smaller.blocks[0]
    rows = torch.arange(36).view(3, 3, 4)[:, [0, 2]].flatten()
    block.qkv.weight.data, block.qkv.bias.data = block.qkv.weight[rows], block.qkv.bias[rows]
    block.out.weight.data = block.out.weight[:, [0, 1, 2, 3, 8, 9, 10, 11]]
    assert torch.allclose(smaller(TOKENS), silent(TOKENS), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": 0}, "vocabulary must be a positive integer, got 0"),
        ({"width": 10}, "width must be a multiple of heads, got 10 and 4"),
        ({"blocks": 0}, "blocks must be a positive integer"),
        ({"context": 2.0}, "context must be a positive integer, got 2.0"),
        ({"seed": "1"}, "seed must be an integer"),
    ],
)
def test_transformers_that_cannot_be(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        models.tiny_transformer(**{"vocabulary": 5} | options)
