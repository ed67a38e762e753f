"""Attention as a score: what trains and what does not, the formula by hand, and the blind spot."""

import copy

import pytest
import torch
from torch import nn

from course_lib import data, models
from course_lib.pruning import channel_attention, channels

TRAIN = data.Split(
    torch.rand(250, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(250) % 10
)


def net_and_graph(make=models.small_cnn):
    model = make(size=8, width=0.5, seed=1).eval()
    return model, channels.trace(model, TRAIN.x[:1])


def scores(model, graph, **options):
    options = {"seed": 0, "epochs": 2, "rate": 0.05} | options
    return channel_attention.attention_means(model, graph, TRAIN, **options)


@pytest.mark.parametrize("make", [models.small_cnn, models.inception, models.resnet])
def test_only_the_modules_train(make, monkeypatch):
    model, graph = net_and_graph(make)
    model.train()
    before = copy.deepcopy(model.state_dict())
    inside = []
    means = channel_attention._means
    monkeypatch.setattr(
        channel_attention, "_means", lambda net, x: inside.append(net) or means(net, x)
    )
    found = scores(model, graph)
    assert found.shape == (len(graph.ids()),) and found.min() > 0 and found.max() < 1
    assert found.std() > 1e-3  # they have moved
    for state in (model.state_dict(), inside[0].model.state_dict()):
        assert all(torch.equal(t, state[name]) for name, t in before.items())
    assert all(m.training for m in model.modules())
    assert torch.equal(found, scores(model, graph))
    assert not torch.equal(found, scores(model, graph, seed=1))


def test_before_any_training_every_attention_is_a_half():
    model, graph = net_and_graph()
    assert torch.equal(scores(model, graph, rate=1e-30), torch.full((24,), 0.5))


@torch.no_grad()
def attended(make=models.small_cnn, seed=3):
    """With modules that say something, since W2 is not zero."""
    model, graph = net_and_graph(make)
    net = channel_attention._Attended(model, graph, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.gates.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model, graph, net


@torch.no_grad()
def test_the_forward_pass_by_hand():
    model, _, net = attended()

    def gate(number, z):  # (batch, channels, height, width)
        w1, w2 = net.gates[number][0].weight, net.gates[number][2].weight
        a = ((z.mean((2, 3)) @ w1.t()).relu() @ w2.t()).sigmoid()
        return z * a[:, :, None, None], a

    z, first = gate(0, model.pool1(model.relu1(model.conv1(TRAIN.x))))
    z, second = gate(1, model.pool2(model.relu2(model.conv2(z))))
    torch.testing.assert_close(net(TRAIN.x), model.fc(z.flatten(1)))
    wanted = torch.cat([first.mean(0), second.mean(0)])
    torch.testing.assert_close(channel_attention._means(net, TRAIN.x), wanted)


def test_the_mean_counts_every_image_once(monkeypatch):
    _, _, net = attended()
    whole = channel_attention._means(net, TRAIN.x)
    monkeypatch.setattr(channel_attention, "CHUNK", 60)  # 60, 60, 60, 60, 10
    torch.testing.assert_close(channel_attention._means(net, TRAIN.x), whole)


@pytest.mark.parametrize("make", [models.inception, models.resnet, models.mobilenet])
@torch.no_grad()
def test_gates_of_zeros_and_ones_silence_channels(make):
    model, graph, net = attended(make)
    dead = set(graph.ids()[::3])
    for name, rows in net.rows.items():
        keep = torch.tensor([graph.ids()[k] not in dead for k in rows]).float()
        net.gates[[*net.rows].index(name)].register_forward_hook(
            lambda _, args, a, keep=keep: keep.expand_as(a)
        )
    quiet = channels.silence(model, graph, dead)
    torch.testing.assert_close(net(TRAIN.x[:20]), quiet(TRAIN.x[:20]))
    assert (quiet(TRAIN.x[:20]) - model(TRAIN.x[:20])).abs().max() > 1e-2


@torch.no_grad()
def test_several_readers_count_alike():
    """The stem of inception's first block is read by four layers."""
    _, graph, net = attended(models.inception)
    rows = graph.rows()["stem.0"]
    found = channel_attention._means(net, TRAIN.x)[rows]
    net(TRAIN.x)
    read = [net.seen[name].mean(0) for name, r in net.rows.items() if set(rows) <= set(r)]
    assert len(read) == 4
    torch.testing.assert_close(found, torch.stack(read).mean(0))


def test_the_blind_spot():
    """A channel that is always zero, and one that nobody reads, keep the first attention."""
    model, graph = net_and_graph()
    with torch.no_grad():
        model.conv2.weight[3], model.conv2.bias[3] = 0, -1
        columns = [c for c, i in enumerate(graph.reads["fc"]) if i == graph.makes["conv2"][5]]
        model.fc.weight[:, columns] = 0
    found = scores(model, graph)[graph.rows()["conv2"]]
    assert found[[3, 5]].tolist() == [0.5, 0.5]
    assert (found != 0.5).sum() >= 12


def test_a_useful_channel_gets_more_attention_than_a_harmful_one():
    """Noise that hurts is turned down. Its consumer's weights are what a trained one would not have."""
    model = models.mlp((2, 2, 2))
    with torch.no_grad():
        for layer in (model.fc1, model.fc2):
            layer.weight.copy_(
                torch.eye(2) if layer is model.fc1 else torch.tensor([[3.0, 3], [-3, -3]])
            )
            layer.bias.copy_(
                torch.tensor([0.0, 0.0]) if layer is model.fc1 else torch.tensor([-3.0, 3])
            )
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    x = torch.stack([1.0 - y, torch.rand(400, generator=generator)], 1)
    graph = channels.trace(model, x)
    useful, noise = channel_attention.attention_means(
        model, graph, data.Split(x, y), epochs=20, rate=0.05, seed=0
    )
    assert useful > noise + 0.1


def test_what_gets_no_attention():
    model, graph = net_and_graph()
    for options, words in (({"epochs": 0}, "epochs must be"), ({"rate": 0.0}, "rate must be"),
                           ({"rate": float("nan")}, "rate must be")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            scores(model, graph, **options)
    for train, kind, words in (
        (TRAIN.x, TypeError, "train must be a pair"),
        (data.Split(TRAIN.x / 0, TRAIN.y), ValueError, "train must be finite"),
        (data.Split(TRAIN.x[:0], TRAIN.y[:0]), ValueError, "train must"),
        (data.Split(TRAIN.x[..., :5], TRAIN.y), ValueError, "train must fit the model"),
        (data.Split(TRAIN.x, TRAIN.y[:9]), ValueError, "train must"),
    ):
        with pytest.raises(kind, match=words):
            channel_attention.attention_means(model, graph, train, seed=0)
    for rate in (True, "0.1"):
        with pytest.raises(TypeError, match="rate must be a number"):
            scores(model, graph, rate=rate)
    with pytest.raises(TypeError, match="seed must be an integer"):
        scores(model, graph, seed=0.5)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ValueError, match="graph must be of this model"):
        channel_attention.attention_means(other, graph, TRAIN, seed=0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="graph must have channels that may be removed"):
        channel_attention.attention_means(flat, channels.trace(flat, TRAIN.x), TRAIN, seed=0)
