"""The tasks of the practical against oracles: the library's block, trace, weakest, and others' code."""

import numpy as np
import pytest
import torch

from course_lib import measure, models
from course_lib.exercises import practical
from course_lib.grading import carry_on
from course_lib.pruning import channels
from course_lib.teaching import claims

G = torch.Generator().manual_seed(0)


def cut(seed, share=0.4):
    """An Inception network with branches of different widths, its graph, and what was cut."""
    net = models.inception(seed=seed).eval()
    for norm in (m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(generator=G)
        norm.running_var.uniform_(0.5, 2, generator=G)
    graph = channels.trace(net, torch.zeros(1, 1, 14, 14))
    dead = channels.weakest_globally(graph, torch.rand(len(graph.ids()), generator=G), share)
    smaller = channels.remove(net, graph, dead)
    return smaller, channels.trace(smaller, torch.zeros(1, 1, 14, 14)), graph, dead


def widths(block):
    names = ("one.0", "three.0.0", "three.1.0", "five.0.0", "five.1.0", "pool.1.0")
    return tuple(len(block.get_submodule(name).weight) for name in names)


@pytest.mark.parametrize("seed", range(3))
def test_the_block_is_the_librarys_whatever_the_widths(seed):
    net, _, _, _ = cut(seed)
    x = torch.randn(2, net.stem[0].out_channels, 7, 5, generator=G)
    mine = practical.inception_block(x, net.block1.state_dict(), practical.conv_bn_relu)
    torch.testing.assert_close(mine, net.block1(x), rtol=1e-5, atol=1e-5)
    state = practical.block_state(len(x[0]), widths(net.block1), G)
    assert state.keys() == net.block1.state_dict().keys()
    assert all(state[n].shape == t.shape for n, t in net.block1.state_dict().items())


@pytest.mark.parametrize("seed", range(3))
def test_the_cost_is_what_the_library_counts(seed):
    block = cut(seed)[0].block1
    c_in = block.one[0].in_channels
    counted = (
        sum(p.numel() for p in block.parameters()),
        measure.macs(block, torch.zeros(1, c_in, 6, 3)),
    )
    assert practical.block_cost(c_in, widths(block), 6, 3) == counted


@pytest.mark.parametrize("seed", range(2))
def test_the_made_up_graph_is_the_traced_one(seed):
    net, graph, _, _ = cut(seed)
    shapes = widths(net.block1), widths(net.block2)
    makes, reads = practical._inception_graph(shapes, net.stem[0].out_channels, 9, 0)
    assert list(reads) == list(graph.reads)

    def renamed(ids):
        """Ids by their first appearance, because the two count from different places."""
        return {i: n for n, i in enumerate(dict.fromkeys(j for part in ids for j in part))}

    mine, theirs = renamed(reads.values()), renamed(graph.reads.values())
    for name in reads:
        assert [mine[i] for i in reads[name]] == [theirs[i] for i in graph.reads[name]]
    for name in set(makes) - {"fc"}:
        assert [mine[i] for i in makes[name]] == [theirs[i] for i in graph.makes[name]]


def test_readers_are_those_whose_weights_shrink():
    net = models.inception()
    graph = channels.trace(net, torch.zeros(1, 1, 14, 14))
    for layer, filter in (("stem.0", 3), ("block1.five.1.0", 2), ("block2.pool.1.0", 7)):
        found = practical.readers(graph.makes, graph.reads, layer, filter)
        smaller = channels.remove(net, graph, {graph.makes[layer][filter]})
        lost = {
            name: net.get_parameter(f"{name}.weight").shape[1]
            - smaller.get_parameter(f"{name}.weight").shape[1]
            for name in graph.reads
        }
        assert {name: len(places) for name, places in found.items()} == {
            name: n for name, n in lost.items() if n
        }


@pytest.mark.parametrize("share", [0, 0.3, 0.5, 0.9, 1])
def test_the_choice_is_that_of_weakest(share):
    graph = cut(1)[1]
    scores = torch.randint(5, (len(graph.ids()),), generator=G) / 4
    named = dict(zip(graph.ids(), scores.tolist(), strict=True))
    mine = practical.choose(graph.layers(), named, share)
    assert mine == channels.weakest(graph, scores, share)


def test_the_fit_is_numpys():
    z, y = torch.randn(50, 4, generator=G).relu(), torch.randn(50, 3, generator=G)
    weight, bias = practical.refit(z, y)
    both = np.hstack([z.numpy(), np.ones((50, 1))])
    found = np.linalg.lstsq(both, y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(weight, found[:-1].T, atol=1e-5)
    np.testing.assert_allclose(bias, found[-1], atol=1e-5)


def test_no_other_layer_has_a_lower_loss():
    """Of 200 layers near the best one none is better, and the gradient there is zero."""
    weight, bias, z, y = list(practical._tune_cases())[1]
    least, distance = practical._lowest(weight, bias, z, y)
    first = torch.cat([weight, bias[:, None]], 1)
    for _ in range(40):
        weight, bias = practical.fine_tune(weight, bias, z, y)
    assert practical._loss((weight, bias), z, y) == pytest.approx(least, abs=2e-4)
    last = torch.cat([weight, bias[:, None]], 1)
    assert float((last - first).norm()) == pytest.approx(distance, rel=0.05)
    for _ in range(200):
        step = torch.randn(3, 4, generator=G) / 20
        other = weight + step[:, :3], bias + step[:, 3]
        assert practical._loss(other, z, y) > least - 1e-6


def test_the_card_counts_as_the_library_does():
    net = cut(0)[0].half()
    logits, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
    card = practical.report_card(net.state_dict(), logits, labels, [4.0, 5.0], [1.0, 3.0])
    assert card == {"accuracy": 75, "bytes": measure.bytes_dense(net), "speedup": 4.5 / 2}


def test_the_verdict_is_that_of_the_courses_claims():
    for ours, theirs, margin, t in practical._verdict_cases():
        found = practical.verdict(ours, theirs, margin, t)
        greater = claims.greater("a", ours, theirs, mark="exploratory").holds
        less = claims.greater("b", theirs, ours, mark="exploratory").holds
        equal = claims.equal("c", ours, theirs, within=margin, mark="exploratory").holds
        assert found == ("greater" if greater else "less" if less else "equal" if equal else "open")


def test_every_word_is_the_verdict_of_some_case():
    words = {practical.verdict(*inputs) for inputs in practical._verdict_cases()}
    assert words == {"greater", "less", "equal", "open"}


@pytest.mark.parametrize("kind", [tuple, list, np.array, torch.tensor])
def test_a_solved_task_returns_plain_data_to_the_next_cells(kind):
    """Whatever the check accepts: a list, NumPy's numbers, a tensor."""
    solved = carry_on("block_cost", lambda *inputs: kind(practical.block_cost(*inputs)))
    assert [int(n) for n in solved(3, (1, 2, 3, 4, 5, 6), 5, 5)] == [
        *practical.block_cost(3, (1, 2, 3, 4, 5, 6), 5, 5)
    ]
    numpys = carry_on(
        "conv_bn_relu", lambda *inputs: practical.conv_bn_relu(*inputs).detach().numpy()
    )
    assert torch.is_tensor(numpys(*next(practical._conv_cases())))


def test_the_courses_version_takes_over_until_yours_passes(capsys):
    def mine(c_in, widths, height, width):
        return practical.block_cost(c_in, widths, height, width)

    assert carry_on("block_cost", mine)(3, (1, 2, 3, 4, 5, 6), 5, 5) == mine(
        3, (1, 2, 3, 4, 5, 6), 5, 5
    )
    assert "is solved" in capsys.readouterr().out
    assert carry_on("block_cost", lambda *_: (1, 2)) is practical.block_cost
    assert "not solved yet" in capsys.readouterr().out
    for name, answer in (("nothing", mine), ("block_cost", 3), ("smallest_taylor", mine)):
        with pytest.raises((ValueError, TypeError), match="exercise|function"):
            carry_on(name, answer)
