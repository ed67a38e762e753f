"""Widths and bits: networks, bytes and accuracies one by one, the predictor's blind block, a search that finds."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from course_lib import data, ensemble, models, training
from course_lib.compression import quantization
from course_lib.data import Split
from course_lib.pruning import channel_criteria, channels
from course_lib.search import joint, widths

VALID = Split(
    torch.randn(150, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(150) % 10
)
SMALL = {
    "fc1 width": [3, 6],
    "fc1 bits": [2, 4],
    "fc2 width": [2, 5],
    "fc2 bits": [2, 8],
    "fc3 bits": [3, 8],
}


def net(seed=0):
    return models.mlp((64, 6, 5, 10), seed=seed)


def traced(model):
    return channels.trace(model, VALID.x[:2])


# ---- candidates as networks


@pytest.mark.parametrize("order", [[*SMALL], [*reversed(SMALL)]])
def test_every_accuracy_is_that_of_the_network(order):
    space, model = {gene: SMALL[gene] for gene in order}, net()
    found = joint.every_accuracy(model, space, VALID)
    graph, all_ = traced(model), joint.every(space)
    assert len(all_) == len(found) == 32 and found.std() > 1
    for candidate, accuracy in zip(all_, found, strict=True):
        small = joint.built(model, graph, space, candidate)
        assert abs(training.evaluate(small, VALID) - accuracy) < 1  # at most one tie of 150


def test_the_network_by_hand():
    """The first rows and columns, each row rounded to its own grid."""
    model = net()
    small = joint.built(model, traced(model), SMALL, (3, 2, 5, 8, 3))
    for name, rows, columns, bits in (("fc1", 3, 64, 2), ("fc2", 5, 3, 8), ("fc3", 10, 5, 3)):
        weight = model.get_parameter(f"{name}.weight")[:rows, :columns].detach()
        scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        torch.testing.assert_close(
            small.get_parameter(f"{name}.weight"), (weight / scale).round() * scale
        )
        assert torch.equal(small.get_submodule(name).bias, model.get_submodule(name).bias[:rows])


def test_bytes_by_hand():
    def layer(rows, columns, bits):
        return math.ceil(rows * columns * bits / 8) + 4 * rows + 4 * rows  # weights, scales, biases

    model, candidates = net(), joint.every(SMALL)
    found = joint.stored_bytes(model, traced(model), SMALL, candidates)
    for (n1, b1, n2, b2, b3), n in zip(candidates, found.tolist(), strict=True):
        assert n == layer(n1, 64, b1) + layer(n2, n1, b2) + layer(10, n2, b3)
    assert joint.stored_bytes(model, traced(model), SMALL, []).shape == (0,)


@pytest.mark.parametrize("make", [models.vgg, models.resnet, models.inception, models.mobilenet])
def test_bytes_of_networks_of_equal_bits(make):
    """All layers alike, so that ``quantization.stored_bytes`` knows the right answer."""
    model = make(size=8, width=0.25)
    graph = traced(model)
    space = joint.space(model, graph, shares=[0.5, 1.0], bits=[3, 8])
    generator = torch.Generator().manual_seed(0)
    for bits in (3, 8):
        candidate = [
            bits if gene.endswith("bits") else options[int(torch.randint(2, (), generator=generator)) % len(options)]
            for gene, options in space.items()
        ]  # fmt: skip
        kept = {g.split()[0]: n for g, n in zip(space, candidate, strict=True) if "width" in g}
        small = channels.remove(model, graph, widths.tail(graph, kept))
        wanted = quantization.stored_bytes(small, bits)
        assert joint.stored_bytes(model, graph, space, [candidate]).tolist() == [wanted]
        rounded = joint.built(model, graph, space, candidate)
        assert torch.equal(
            rounded.eval()(VALID.x[:3]), quantization.ptq(small, bits).eval()(VALID.x[:3])
        )


# ---- all widths trained at once


def of_widths(model, graph, x, kept):
    return channels.remove(model, graph, widths.tail(graph, kept))(x)


def test_the_loss_of_the_sandwich_by_hand():
    model = net()
    graph, at = traced(model), torch.tensor([3, 7, 8, 100])
    space = {"fc1 width": [3, 6], "fc2 width": [2, 5]}
    x, y = VALID.x[at], VALID.y[at]
    logits = model(x)
    loss = joint.sandwich(model, graph, space, VALID, seed=4)(logits, at)

    def kl(kept):
        log_p, log_q = logits.log_softmax(1), of_widths(model, graph, x, kept).log_softmax(1)
        return (log_p.exp() * (log_p - log_q)).sum(1).mean()

    found = loss.detach()
    least = F.cross_entropy(logits, y) + kl({"fc1": 3, "fc2": 2})
    wanted = [(least + kl({"fc1": a, "fc2": b})).detach() / 3 for a in (3, 6) for b in (2, 5)]
    assert min(abs(float(found - one)) for one in wanted) < 1e-6
    assert max(abs(float(found - one)) for one in wanted) > 1e-2  # the draw matters
    own = F.cross_entropy(logits, y) / 3
    for of, same in (
        (logits, True),
        (model.fc3.bias, False),
    ):  # the teacher learns from labels only
        alone, whole = (torch.autograd.grad(part, of, retain_graph=True)[0] for part in (own, loss))
        assert (float((alone - whole).abs().max()) < 1e-6) == same


def test_the_sandwich_draws_every_width():
    model, graph = net(), traced(net())
    space = {"fc1 width": [1, 2, 3, 4, 5, 6]}
    loss, at = joint.sandwich(model, graph, space, VALID, seed=0), torch.arange(20)
    logits = model(VALID.x[at])
    assert len({round(loss(logits, at).item(), 5) for _ in range(60)}) == 6


def test_a_stack_trains_as_its_members_do():
    nets = [net(seed) for seed in (1, 2)]
    graph, space = traced(nets[0]), {"fc1 width": [3, 6], "fc2 width": [2, 5]}
    stacked = ensemble.stack(nets)
    for model in (stacked, *nets):
        loss = joint.sandwich(model, graph, space, VALID, seed=0)
        training.fit(model, VALID, epochs=2, loss=loss)
    for one, member in zip(nets, ensemble.members(stacked), strict=True):
        torch.testing.assert_close(member(VALID.x), one(VALID.x), rtol=1e-3, atol=1e-4)


def test_narrow_versions_work_afterwards():
    train, _ = data.load("digits")
    sizes = (64, 32, 10)
    nets = {name: models.mlp(sizes) for name in ("plain", "sandwich")}
    graph = channels.trace(nets["plain"], train.x[:2])
    loss = joint.sandwich(nets["sandwich"], graph, {"fc1 width": [8, 16, 32]}, train, seed=0)
    training.fit(nets["plain"], train, epochs=10)
    training.fit(nets["sandwich"], train, epochs=10, loss=loss)
    cut = {
        name: training.evaluate(channels.remove(one, graph, widths.tail(graph, {"fc1": 8})), train)
        for name, one in nets.items()
    }
    assert cut["sandwich"] > 80 > cut["plain"] + 10


# ---- the predictor

SPACE = {"a width": [1, 2, 3, 4], "b width": [5, 6, 7], "a bits": [2, 4, 8], "b bits": [2, 4, 8]}


def without_bits(candidates):
    return sorted({(a, b, None, None) for a, b, *_ in candidates})


def test_the_code_has_one_place_per_option():
    found = joint.encode(SPACE, joint.every(SPACE))
    assert (
        found.shape == (108, 13) and (found.sum(1) == 4).all() and len(found.unique(dim=0)) == 108
    )
    bare = joint.encode(SPACE, [(2, 7, None, None)])
    assert bare.tolist() == [[0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]]


def truth(candidates):
    """An accuracy in which every option has its share."""
    return torch.tensor([70 + 2 * a + b - 30 / c - 10 / d for a, b, c, d in candidates])


def in_full_precision():
    bare = without_bits(joint.every(SPACE))
    return joint.predictor(
        joint.encode(SPACE, bare), truth([(a, b, 1e9, 1e9) for a, b, *_ in bare]), seed=0
    )


def test_transferred_it_begins_as_the_predictor_of_full_precision(monkeypatch):
    start, all_ = in_full_precision(), joint.every(SPACE)
    x = joint.encode(SPACE, all_)
    bare = joint.encode(SPACE, [(a, b, None, None) for a, b, *_ in all_])
    said = start(x)
    assert torch.equal(said, start(bare)) and said.std() > 1  # blind to bits, to the last bit
    monkeypatch.setattr(training, "fit", lambda *args: None)
    moved = joint.predictor(x[:9], truth(all_[:9]), start=start, seed=1)
    torch.testing.assert_close(moved(x), said, rtol=1e-5, atol=1e-3)
    assert moved is not start and torch.equal(said, start(x))


@pytest.mark.parametrize("transferred", [False, True])
def test_it_ranks_what_it_has_not_seen(transferred):
    all_ = joint.every(SPACE)
    order = torch.randperm(108, generator=torch.Generator().manual_seed(0)).tolist()
    seen, unseen = [all_[i] for i in order[:45]], [all_[i] for i in order[45:]]
    start = in_full_precision() if transferred else None
    known = joint.predictor(joint.encode(SPACE, seen), truth(seen), start=start, seed=0)
    with torch.no_grad():
        said = known(joint.encode(SPACE, unseen))[:, 0]
    assert channel_criteria.spearman(said, truth(unseen)) > 0.95
    assert (said - truth(unseen)).abs().mean() < 2  # in percent


# ---- the search


def bytes_of(candidate):
    return sum((k + 1) * n for k, n in enumerate(candidate))


def test_with_enough_looks_the_search_is_an_enumeration():
    generator = torch.Generator().manual_seed(0)
    table = {c: torch.rand((), generator=generator).item() for c in joint.every(SPACE)}
    fits = {c: v for c, v in table.items() if bytes_of(c) <= 55}
    assert 20 < len(fits) < 100
    found = joint.evolve(
        SPACE, table.__getitem__, cost=bytes_of, budget=55, evaluations=200, seed=0
    )
    assert found.visited.keys() == fits.keys() and found.value == max(fits.values())
    assert fits[found.candidate] == found.value and len(found.curve) == len(fits)


def test_a_search_in_pieces():
    table = {c: float(truth([c])) for c in joint.every(SPACE)}
    found = joint.evolve(SPACE, table.__getitem__, cost=bytes_of, budget=50, evaluations=40, seed=1)
    assert len(found.visited) == len(found.curve) == 40
    assert all(bytes_of(c) <= 50 for c in found.visited)
    best = list(itertools.accumulate(found.visited.values(), max))
    assert found.curve == best and found.value == best[-1] == table[found.candidate]
    first = [*found.visited][:20]
    assert first == joint.random_candidates(SPACE, 20, cost=bytes_of, budget=50, seed=1)
    control = joint.random_candidates(SPACE, 40, cost=bytes_of, budget=50, seed=1)
    assert len(set(control)) == 40 and found.value >= max(table[c] for c in control)


BINARY = {f"{k} bits": [2, 3] for k in range(10)}


def test_a_score_of_bits_makes_the_search_prefer_bits():
    """In a released search the score did not see them, so that all were alike."""
    model = net()
    graph = traced(model)
    space = joint.space(model, graph, shares=[0.5, 1.0], bits=[2, 4, 8])
    of_bits = [gene.endswith("bits") for gene in space]

    def score(candidate):
        features = joint.encode(space, [candidate])[0]
        values = torch.tensor([n * b for (n, b) in zip((n for o in space.values() for n in o), (b for b, o in zip(of_bits, space.values(), strict=True) for _ in o), strict=True)])  # fmt: skip
        return (features * values).sum()

    def cost(candidate):
        return joint.stored_bytes(model, graph, space, [candidate]).item()

    found = joint.evolve(space, score, cost=cost, budget=10**6, evaluations=60, seed=0)
    bits = [n for n, b in zip(found.candidate, of_bits, strict=True) if b]
    assert bits == [8, 8, 8] and found.value == 24


@pytest.mark.parametrize("gene", range(10))
def test_every_gene_can_change(gene):
    """By mutation and by crossing. In a released search one kind of gene never did."""
    draw = joint._Draw(BINARY, sum, 100, seed=0)
    low, high = (2,) * 10, (3,) * 10
    mutated = [draw.mutated([low], 0.2) for _ in range(100)]
    crossed = [draw.crossed([low, high]) for _ in range(100)]
    for children in (mutated, crossed):
        share = sum(child[gene] == 3 for child in children) / 100
        assert 0 < share < 0.8  # expected 0.1 and 0.5; outside once in 10⁴
    assert draw.mutated([low], 1e-12) == draw.crossed([low, low]) == low


@pytest.mark.parametrize("kind", ["mutated", "crossed"])
def test_both_kinds_of_children_enter_the_population(kind, monkeypatch):
    """With one kind alone, the search still climbs. In a released search crossed ones were dropped."""
    if kind == "crossed":
        monkeypatch.setattr(joint._Draw, "mutated", lambda draw, parents, rate: parents[0])
    else:
        monkeypatch.setattr(joint._Draw, "crossed", lambda draw, parents: parents[0])
    monkeypatch.setattr(joint, "PARENTS", 10)
    space = {f"{k} bits": [2, 3] for k in range(16)}
    options = {"cost": sum, "budget": 100, "seed": 0}
    found = joint.evolve(space, sum, evaluations=300, **options)
    control = joint.random_candidates(space, 300, **options)
    assert found.value >= 47 > max(map(sum, control))


# ---- what is refused


def test_spaces_that_are_none():
    model, graph = net(), traced(net())
    for options, words in (
        ({"shares": [1.0, 0.5], "bits": [2]}, "shares must ascend"),
        ({"shares": [], "bits": [2]}, "shares must have at least one option"),
        ({"shares": [0.0, 1.0], "bits": [2]}, "shares must be a number in"),
        ({"shares": [1.0], "bits": [1, 2]}, "bits must be an integer from 2 to 16, got 1"),
        ({"shares": [1.0], "bits": [2, 17]}, "bits must be an integer from 2 to 16, got 17"),
    ):
        with pytest.raises(ValueError, match=words):
            joint.space(model, graph, **options)
    for wrong in (None, "12"):
        with pytest.raises(TypeError, match="shares must be a sequence of options"):
            joint.space(model, graph, shares=wrong, bits=[2])
    with pytest.raises(ValueError, match="bits must be an integer from 2 to 16, got 'a'"):
        joint.space(model, graph, shares=[1.0], bits=[2, "a"])
    for space, words in (
        ({}, "at least one gene"),
        ({"fc9 width": [1]}, "got 'fc9 width'"),
        ({"fc3 width": [10]}, "got 'fc3 width'"),  # the network's outputs
        ({"fc1": [1]}, "got 'fc1'"),
        ({"fc1 width": [3, 7]}, "must be an integer from 1 to 6, got 7"),
        ({"fc1 width": [3, 2]}, "must be ascending integers"),
        ({"fc1 bits": [1]}, "must be an integer from 2 to 16, got 1"),
    ):
        with pytest.raises(ValueError, match=words):
            joint.built(model, graph, space, [1])
    for candidate in ((3, 2, 5, 8), (4, 2, 5, 8, 3), (3, 2, 5, 8, None)):
        for call in (
            lambda c: joint.built(model, graph, SMALL, c),
            lambda c: joint.stored_bytes(model, graph, SMALL, [c]),
        ):
            with pytest.raises(ValueError, match="candidate must have"):
                call(candidate)
    with pytest.raises(TypeError, match="space must be a mapping"):
        joint.every([("a", [1])])


def test_networks_that_are_none():
    with pytest.raises(ValueError, match="Linear and ReLU layers in turn"):
        joint.every_accuracy(models.small_cnn(size=8), SMALL, VALID)
    with pytest.raises(ValueError, match="a width for all but the last"):
        joint.every_accuracy(net(), {"fc1 width": [3]}, VALID)
    for x, y, words in (
        (VALID.x, VALID.y[:9], "valid must have one label per image"),
        (VALID.x[..., :5], VALID.y, "valid must fit the model"),
        (VALID.x / 0, VALID.y, "valid must be finite"),
    ):
        with pytest.raises(ValueError, match=words):
            joint.every_accuracy(net(), SMALL, Split(x, y))
    vgg = models.vgg(size=8, width=0.25)
    with pytest.raises(ValueError, match="no batch norm"):
        joint.sandwich(vgg, traced(vgg), {"block1.0 width": [2]}, VALID, seed=0)
    with pytest.raises(ValueError, match="model must have widths in space"):
        joint.sandwich(net(), traced(net()), {"fc1 bits": [2]}, VALID, seed=0)


def test_pairs_and_searches_that_are_none():
    x = joint.encode(SPACE, joint.every(SPACE)[:4])
    for features, accuracy, words in (
        (x[:1], torch.ones(1), "at least 2 candidates"),
        (x, torch.ones(3), "at least 2 candidates"),
        (x, torch.ones(4), "accuracy must differ between candidates, got 1 for all"),
        (x, torch.tensor([1.0, 2.0, 3.0, math.nan]), "accuracy must be finite"),
    ):
        with pytest.raises(ValueError, match=words):
            joint.predictor(features, accuracy, seed=0)

    start = joint.predictor(x, torch.tensor([1.0, 2.0, 3.0, 4.0]), seed=0)
    for wrong in (models.mlp((x.shape[1] + 1, 3, 1)), models.mlp((x.shape[1], 3, 2)), start[:-1]):
        with pytest.raises(ValueError, match="start must be a predictor for"):
            joint.predictor(x, torch.arange(4.0), start=wrong, seed=0)

    def search(score=sum, **changes):
        options = {"cost": bytes_of, "budget": 50, "evaluations": 30, "seed": 0} | changes
        return joint.evolve(SPACE, score, **options)

    for changes, words in (
        ({"budget": 24}, r"budget must be at least 25, the cost of \(1, 5, 2, 2\), got 24"),
        ({"budget": math.nan}, "budget must be finite"),
        ({"evaluations": 0}, "evaluations must be"),
        ({"cost": lambda c: math.nan}, "budget must be at least nan"),
        ({"score": lambda c: math.nan}, r"score of \(.*\) must be finite"),
    ):
        with pytest.raises(ValueError, match=words):
            search(**changes)
    assert search(budget=25).candidate == (1, 5, 2, 2)
    with pytest.raises(TypeError, match=r"score of .* must be a number"):
        search(lambda c: "good")
