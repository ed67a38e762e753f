"""One offset shifts every random number; without it, all is as the seed alone says."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from course_lib import data, models, seeds, training
from course_lib.compression import decomposition, hashing
from course_lib.pruning import channel_criteria, channels, criteria, lottery, sparse_training


def own(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def order(seed: int) -> torch.Tensor:
    """The positions that two epochs of a training see, one after the other."""
    seen = []
    net, train = nn.Linear(4, 3), data.Split(torch.ones(10, 4), torch.zeros(10).long())

    def loss(z, positions):
        seen.append(positions)
        return z.square().mean()

    training.fit(net, train, epochs=2, batch_size=4, seed=seed, loss=loss)
    return torch.cat(seen)


def noise(seed: int) -> torch.Tensor:
    """What dropout did in one step."""
    net, train = nn.Linear(50, 50), data.Split(torch.ones(2, 50), torch.zeros(2).long())
    net, kept = nn.Sequential(net, nn.Dropout()), []
    net[1].register_forward_hook(lambda *found: kept.append(found[-1] == 0))
    training.fit(net, train, epochs=1, seed=seed)
    return kept[-1]


def grown(seed: int) -> torch.Tensor:
    """The masks after one move of SET, which grows at random."""
    torch.manual_seed(0)
    layer = nn.Linear(20, 20)
    keep = {"weight": torch.arange(400).view(20, 20) % 2 == 0}
    optimizer = training.sgd(layer, lr=0.1)
    sparse_training.rewire(
        optimizer, layer, keep, sparse_training.SET, fraction=lambda t: 0.5, seed=seed
    )
    layer(torch.ones(1, 20)).sum().backward()
    optimizer.step()
    return keep["weight"]


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(30, 20)


def cp(seed: int) -> torch.Tensor:
    torch.manual_seed(0)
    return decomposition.cp(nn.Conv2d(4, 4, 3), 8, seed=seed, iterations=1)[3].weight.detach()


def random_channels(seed: int) -> torch.Tensor:
    net = models.mlp((9, 8, 7, 6), seed=0)
    return channel_criteria.random(net, channels.trace(net, torch.ones(1, 9)), seed=seed)


HALF = {"weight": torch.arange(600).view(20, 30) % 2 == 0}
DRAWN = {
    "weights": lambda seed: models.mlp((9, 8, 7), seed=seed).fc1.weight.detach(),
    "images": lambda seed: data.draw_glyphs(20, seed=seed).x,
    "labels": lambda seed: data.draw_glyphs(20, seed=seed).y,
    "test images": lambda seed: data.load("glyphs", n_train=1, n_test=20, seed=seed)[1].x,
    "order": order,
    "noise": noise,
    "growth": grown,
    "random mask": lambda seed: lottery.random_mask(layer(), HALF, seed=seed)["weight"],
    "new values": lambda seed: lottery.reinitialise(layer(), seed=seed).weight.detach(),
    "random scores": lambda seed: criteria.random(layer(), seed=seed)["weight"],
    "random channels": random_channels,
    "hashing": lambda seed: hashing.hashed(layer(), 0.2, seed=seed).weight.detach(),
    "CP": cp,
}


@pytest.fixture(autouse=True)
def no_offset(monkeypatch):
    monkeypatch.delenv("COURSE_OFFSET", raising=False)


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_another_offset_draws_other_numbers(draw, monkeypatch):
    found = [draw(3)]
    for offset in ("0", "1", "2", "1"):
        monkeypatch.setenv("COURSE_OFFSET", offset)
        found.append(draw(3))
    plain, none, one, two, again = found
    assert torch.equal(plain, none) and torch.equal(one, again)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations((none, one, two), 2))


def test_the_split_of_the_digits_moves_too(monkeypatch):
    x, y = load_digits(return_X_y=True)
    expected = train_test_split(x, y, test_size=597, stratify=y, random_state=0)[3]
    before = data.load("digits")[1].y
    assert np.array_equal(before, expected)
    monkeypatch.setenv("COURSE_OFFSET", "1")
    after = data.load("digits")[1].y
    assert not torch.equal(after, before) and torch.equal(after.bincount(), before.bincount())


def test_without_an_offset_the_seed_alone_says_what_is_drawn():
    torch.manual_seed(3)
    by_hand = [nn.Linear(9, 8), nn.Linear(8, 7)]
    for module in by_hand:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    net = models.mlp((9, 8, 7), seed=3)
    assert torch.equal(net.fc1.weight, by_hand[0].weight)
    assert torch.equal(net.fc2.weight, by_hand[1].weight)

    g = own(3)
    assert torch.equal(order(3), torch.cat([torch.randperm(10, generator=g) for _ in range(2)]))
    labels = (torch.arange(20) % 10)[torch.randperm(20, generator=own(3))]
    assert torch.equal(data.draw_glyphs(20, seed=3).y, labels)
    scores = torch.rand(20, 30, generator=own(3))
    assert torch.equal(criteria.random(layer(), seed=3)["weight"], scores)


def test_seeds_and_offsets_lead_to_different_streams(monkeypatch):
    # Those that the course uses: small ones, and those of growth, which begin at 2**31. The
    # generator looks at the low 32 bits only.
    used = [*range(2500), *(2**31 + 1000 * seed for seed in range(200)), -1]
    found = set()
    for offset in [*range(25), 100, 1000, seeds.LAST]:
        monkeypatch.setenv("COURSE_OFFSET", str(offset))
        found |= {seeds.shifted(seed) & 0xFFFFFFFF for seed in used}
    assert len(found) == 28 * len(used)
    # and no two offsets lie so that one's small seeds are another's seeds of growth
    gaps = np.arange(1, seeds.LAST + 1) * seeds.DISTANCE
    assert gaps.min() >= 1_000_000 and gaps.max() <= 2**31 - 1_000_000


def test_streams_of_neighbours_share_no_numbers(monkeypatch):
    streams = []
    for offset in range(5):
        monkeypatch.setenv("COURSE_OFFSET", str(offset))
        streams += [torch.rand(8, generator=seeds.generator(seed)).tolist() for seed in range(5)]
    assert len({number for stream in streams for number in stream}) == 25 * 8


def test_a_checkpoint_belongs_to_its_offset(tmp_path, monkeypatch):
    def train():
        net = models.mlp((196, 8, 10), seed=0)
        training.fit(net, fixed, epochs=1, checkpoint=tmp_path / "run")

    fixed, _ = data.load("glyphs", n_train=64, n_test=1)
    train()
    monkeypatch.setenv("COURSE_OFFSET", "1")
    with pytest.raises(ValueError, match="belongs to a run with {'seed': 0}"):
        train()


@pytest.mark.parametrize("text", ["", "-1", "1.5", "one", "2001", "²"])
def test_an_offset_is_a_small_integer(text, monkeypatch):
    monkeypatch.setenv("COURSE_OFFSET", text)
    with pytest.raises(ValueError, match="COURSE_OFFSET must be an integer from 0 to 2000, got"):
        seeds.shifted(0)


@pytest.mark.parametrize("seed", ["1", 1.0, True, None])
def test_a_seed_is_an_integer(seed):
    for draw in (seeds.shifted, seeds.generator, lambda s: criteria.random(layer(), seed=s)):
        with pytest.raises(TypeError, match=f"seed must be an integer, got {seed!r}"):
            draw(seed)
    with pytest.raises(ValueError, match="seed must be from"):
        seeds.generator(2**70)
