"""Tickets: the paper's counts and order of events; controls that differ in one thing; resuming."""

import copy
import dataclasses
import itertools
import statistics

import pytest
import torch
import torch.nn.functional as F

from course_lib import ensemble, models, training
from course_lib.pruning import lottery, masks

LAYERS = ["fc1.weight", "fc2.weight", "fc3.weight"]
SIZES = {"fc1.weight": 1024, "fc2.weight": 192, "fc3.weight": 120}


def net(seed=0):
    return models.mlp((64, 16, 12, 10), seed=seed)


def paper(rounds, shares=None):
    """How the paper prunes."""
    return lottery.by_shares(shares or lottery.layer_shares(net()), rounds=rounds)


def same(a, b):
    return all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())


def plain(model):
    """Without momentum, so that a training can be taken up again from its weights alone."""
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_counts_are_those_the_paper_reports_for_lenet():
    """Figure 3 and section 2 name P_m = 51.3, 21.1, 13.5, 7.0 and 3.6 % of 266,200 weights."""
    model = models.lenet_300_100()
    shares = lottery.layer_shares(model)
    assert shares == {"fc1.weight": 0.2, "fc2.weight": 0.2, "fc3.weight": 0.1}
    size = {name: w.numel() for name, w in model.named_parameters() if name in shares}
    for rounds, percent in ((3, 51.3), (7, 21.1), (9, 13.5), (12, 7.0), (15, 3.6)):
        gone = lottery.sparsities(shares)(rounds)
        left = sum(n - round(gone[name] * n) for name, n in size.items())
        assert round(100 * left / 266_200, 1) == percent


def by_hand(model, train, *, rounds, epochs, rewind=0):
    """The oracle: another loop in plain torch, one network, written from the paper's steps. The
    mask stands in the forward pass, the smallest are found by a sort of what is left, and each
    step's minibatch comes from a list made beforehand."""
    names = [n for n, _ in model.named_parameters()]
    w = {n: p.detach().clone() for n, p in model.named_parameters()}
    mask = {n: torch.ones_like(v) for n, v in w.items()}
    start, found = None, []
    for r in range(rounds + 1):
        order, batches = torch.Generator().manual_seed(r), []
        for _ in range(epochs):
            batches += torch.randperm(len(train.y), generator=order).split(100)
        velocity = {n: 0.0 for n in names}
        if start is not None:
            w = {n: v.clone() for n, v in start.items()}
        for i, batch in enumerate(batches):
            if r == 0 and i == rewind:
                start = {n: v.clone() for n, v in w.items()}
            if r > 0 and i < rewind:
                continue
            v = {n: (w[n] * mask[n]).requires_grad_() for n in names}
            loss = F.cross_entropy(
                torch.func.functional_call(model, v, (train.x[batch],)), train.y[batch]
            )
            for n, g in zip(names, torch.autograd.grad(loss, list(v.values())), strict=True):
                velocity[n] = 0.9 * velocity[n] + g
                w[n] = w[n] - 0.1 * (1 - i / len(batches)) * velocity[n]
        found.append(({n: w[n] * mask[n] for n in names}, {n: mask[n].bool() for n in LAYERS}))
        for name, share in zip(LAYERS, (0.2, 0.2, 0.1), strict=True):
            alive = mask[name].flatten().nonzero().flatten()
            n = mask[name].numel()
            target = n - round((1 - (1 - share) ** (r + 1)) * n)
            smallest = w[name].flatten()[alive].abs().argsort()[: len(alive) - target]
            mask[name] = mask[name].clone()
            mask[name].view(-1)[alive[smallest]] = 0
    return start, found


@pytest.mark.parametrize("rewind", [0, 4])
def test_rounds_are_those_of_a_loop_written_by_hand(digits, rewind):
    train, _ = digits
    start, expected = by_hand(net(), train, rounds=3, epochs=2, rewind=rewind)
    model, finished = net(), []

    def noting(model):
        finished.append(training.snapshot(model))  # a round's optimizer is made before it trains
        return training.sgd(model)

    plan = training.Plan(epochs=2, first=rewind, optimizer=noting)
    search = lottery.find_tickets(model, train, plan, paper(3))
    finished = [*finished[2:], training.snapshot(model)]
    for name, value in search.start.items():
        torch.testing.assert_close(value, start[name], rtol=1e-4, atol=1e-6)
    assert len(search.rounds) == 4
    for r, (weights, keep) in enumerate(expected):
        for name in LAYERS:
            assert torch.equal(search.rounds[r].masks[name], keep[name])
        if r:
            for name, value in finished[r - 1].items():
                torch.testing.assert_close(value, weights[name], rtol=2e-4, atol=2e-5)


def test_masks_are_nested_exact_and_not_off_by_one(digits):
    """Google's and Facebook's code compare with `<= sorted[k]`, which removes k + 1."""
    train, _ = digits
    search = lottery.find_tickets(net(), train, training.Plan(epochs=1), paper(6))
    assert all(m.all() for m in search.rounds[0].masks.values())
    for r, (before, after) in enumerate(itertools.pairwise(search.rounds), start=1):
        for name, share in (("fc1.weight", 0.2), ("fc2.weight", 0.2), ("fc3.weight", 0.1)):
            keep = after.masks[name]
            assert int((~keep).sum()) == round((1 - (1 - share) ** r) * SIZES[name])
            assert (keep <= before.masks[name]).all()


@pytest.mark.parametrize("stacked", [False, True])
def test_a_ticket_is_the_start_under_the_mask_to_the_last_bit(digits, stacked):
    """At learning rate zero the last round leaves what it began with."""
    train, _ = digits
    start = ensemble.stack([net(0), net(1)]) if stacked else net()
    rate = itertools.chain([0.1, 0.1], itertools.repeat(0.0))
    model = copy.deepcopy(start)
    plan = training.Plan(
        epochs=1, optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=next(rate))
    )
    search = lottery.find_tickets(model, train, plan, paper(2))
    assert same(model, lottery.ticket(start, search.rounds[2].masks))
    for name, w in model.named_parameters():
        keep = search.rounds[2].masks.get(name, torch.ones_like(w))
        assert torch.equal(w, start.get_parameter(name) * keep)
        assert torch.equal(search.start[name], start.get_parameter(name))
    assert masks.sparsity(search.rounds[2].masks) > 0.3


def test_a_search_that_removes_nothing_repeats_the_dense_training_from_step_k_on(digits):
    """Same weights, same learning rates, same minibatches: the same network, bit for bit."""
    train, _ = digits
    model = net()
    training.fit(model, train, epochs=3, optimizer=plain(model), seed=1)
    for k in (0, 1, 6, 11):  # of 18 steps, six an epoch
        again = net()
        plan = training.Plan(epochs=3, first=k, optimizer=plain)
        search = lottery.find_tickets(again, train, plan, paper(1, dict.fromkeys(LAYERS, 0.0)))
        dense = net()
        training.fit(dense, train, epochs=3, optimizer=plain(dense))
        early = net()
        if k:
            training.fit(early, train, epochs=3, optimizer=plain(early), last=k)
        assert all(torch.equal(v, search.start[n]) for n, v in early.state_dict().items())
        other = copy.deepcopy(early)
        training.fit(other, train, epochs=3, optimizer=plain(other), first=k, seed=1)
        assert same(again, other)
        training.fit(early, train, epochs=3, optimizer=plain(early), first=k)
        assert same(early, dense)


def test_a_stack_is_its_members_one_by_one(digits):
    train, test = digits
    nets = [net(seed) for seed in range(3)]
    plan = training.Plan(epochs=2, first=3, valid=test, every=5)
    together = lottery.find_tickets(ensemble.stack(nets), train, plan, paper(3), test=test)
    for k, one in enumerate(nets):
        alone = lottery.find_tickets(one, train, plan, paper(3), test=test)
        for ours, theirs in zip(alone.rounds, together.rounds, strict=True):
            assert all(torch.equal(m, theirs.masks[n][k]) for n, m in ours.masks.items())
            assert abs(float(ours.accuracy - theirs.accuracy[k])) < 1  # float order: a few images
            assert ours.history.early_stop == theirs.history.early_stop[k]


@pytest.mark.parametrize("stop", [1, 4, 9, 13, 27, 35])
def test_an_interrupted_search_goes_on_bit_for_bit(digits, tmp_path, stopping_at, stop):
    train, test = digits
    plan = training.Plan(epochs=2, first=3, valid=test, every=4)
    stopped = dataclasses.replace(plan, optimizer=stopping_at(stop))
    whole = net()
    expected = lottery.find_tickets(whole, train, plan, paper(3), test=test)
    with pytest.raises(KeyboardInterrupt):
        lottery.find_tickets(net(), train, stopped, paper(3), test=test, folder=tmp_path)
    resumed = net()
    got = lottery.find_tickets(resumed, train, plan, paper(3), test=test, folder=tmp_path)
    assert same(resumed, whole)
    assert all(torch.equal(v, expected.start[n]) for n, v in got.start.items())
    for ours, theirs in zip(got.rounds, expected.rounds, strict=True):
        assert torch.equal(ours.accuracy, theirs.accuracy)
        assert all(torch.equal(m, theirs.masks[n]) for n, m in ours.masks.items())
        assert ours.history.measured == theirs.history.measured
        assert torch.equal(ours.history.early_stop, theirs.history.early_stop)
        assert all(torch.equal(v, theirs.history.best[n]) for n, v in ours.history.best.items())


@pytest.mark.parametrize("stacked", [False, True])
def test_reinitialising_changes_the_places_of_weights_and_nothing_else(stacked):
    model = ensemble.stack([net(0), net(1)]) if stacked else net()
    before = copy.deepcopy(model)
    other = lottery.reinitialise(model, seed=3)
    assert same(model, before)
    assert same(other, lottery.reinitialise(model, seed=3))
    assert not same(other, lottery.reinitialise(model, seed=4))
    for name, p in model.named_parameters():
        q = other.get_parameter(name)
        if name not in LAYERS:
            assert torch.equal(p, q)
            continue
        for a, b in zip(p, q, strict=True) if stacked else ((p, q),):
            assert torch.equal(a.flatten().sort().values, b.flatten().sort().values)
            assert (a == b).float().mean() < 0.1


def test_reinitialised_weights_know_nothing_of_the_old_ones():
    """Under a mask by magnitude, new weights are of ordinary size. 20 seeds of 1,024 weights: the
    mean of the squares has a standard error of 1.4 %; 6 % is missed by chance once in 50,000."""
    old, new = [], []
    for seed in range(20):
        w = net(seed).fc1.weight.detach()
        keep = w.abs() > w.abs().median()
        fresh = lottery.reinitialise(net(seed), seed=seed).fc1.weight.detach()
        old.append(float(w[keep].square().mean() / w.square().mean()))
        new.append(float(fresh[keep].square().mean() / w.square().mean()))
    assert abs(statistics.mean(new) - 1) < 0.06
    assert statistics.mean(old) > 1.5


@pytest.mark.parametrize("stacked", [False, True])
def test_a_random_mask_has_the_counts_and_not_the_places(digits, stacked):
    train, _ = digits
    model = ensemble.stack([net(0), net(1)]) if stacked else net()
    plan = training.Plan(epochs=1)
    keep = lottery.find_tickets(model, train, plan, paper(5)).rounds[-1].masks
    given = {n: m.clone() for n, m in keep.items()}
    other = lottery.random_mask(model, keep, seed=0)
    assert all(torch.equal(m, given[n]) for n, m in keep.items())
    for name, m in keep.items():
        assert other[name].dtype == torch.bool
        assert other[name].shape == m.shape
        assert not torch.equal(other[name], m)
        pairs = zip(m, other[name], strict=True) if stacked else ((m, other[name]),)
        assert all(a.sum() == b.sum() for a, b in pairs)
    if stacked:
        assert not torch.equal(other["fc1.weight"][0], other["fc1.weight"][1])
    again = lottery.random_mask(model, keep, seed=0)
    assert all(torch.equal(m, again[n]) for n, m in other.items())


def test_random_places_are_uniform():
    """Each of 40 places is taken in a quarter of 2,000 draws: 500 ± 19.4. None is off by 5 standard
    deviations but once in 40,000 times."""
    keep = torch.zeros(2000, 5, 8, dtype=torch.bool)
    keep[:, :2, :5] = True
    stack = ensemble.stack([models.mlp((8, 5))] * 2000)
    taken = lottery.random_mask(stack, {"fc1.weight": keep}, seed=0)["fc1.weight"].sum(0)
    assert int(taken.sum()) == 20_000
    assert (taken - 500).abs().max() < 97


@pytest.mark.parametrize(
    ("changes", "pruning", "words"),
    [
        ({"first": 12}, paper(2), "first and last must be 0 <= first < last <= 12.*got 12"),
        ({"first": -1}, paper(2), "first and last must be 0 <= first < last <= 12.*got -1"),
        ({}, paper(2, {"fc1.weight": 0.2}), "must name the layers .*fc3.weight"),
        ({}, paper(2)._replace(rounds=0), "rounds must be a positive integer, got 0"),
        ({}, paper(2)._replace(sparsity=lambda r: 1 / r), "sparsity must rise"),
        ({"start": {}}, paper(2), "start must be a state_dict of model"),
    ],
)
def test_bad_input_changes_nothing(digits, tmp_path, changes, pruning, words):
    train, _ = digits
    model = net()
    with pytest.raises(ValueError, match=words):
        plan = training.Plan(epochs=2, **changes)
        lottery.find_tickets(model, train, plan, pruning, folder=tmp_path)
    assert same(model, net())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rewind", [0, 4])
def test_a_plan_may_name_the_start(digits, rewind):
    train, _ = digits
    plan = training.Plan(epochs=2, first=rewind)
    there, elsewhere = net(1), net(0)
    expected = lottery.find_tickets(there, train, plan, paper(1))
    plan = dataclasses.replace(plan, start=training.snapshot(net(1)))
    search = lottery.find_tickets(elsewhere, train, plan, paper(1))
    assert all(torch.equal(v, expected.start[n]) for n, v in search.start.items())
    assert same(there, elsewhere)


def test_a_search_goes_on_from_the_same_start_or_not_at_all(digits, tmp_path, stopping_at):
    """The cell is run again with the network that the interruption has left half trained."""
    train, _ = digits
    model = net()
    plan = training.Plan(epochs=2)
    stopped = dataclasses.replace(plan, optimizer=stopping_at(3))
    with pytest.raises(KeyboardInterrupt):
        lottery.find_tickets(model, train, stopped, paper(1), folder=tmp_path)
    with pytest.raises(ValueError, match="dense.pt.*belongs to a run with .*start"):
        lottery.find_tickets(model, train, plan, paper(1), folder=tmp_path)


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_shares_of_a_round_are_checked(share):
    with pytest.raises(ValueError, match=r"shares\['fc2.weight'\] must be at least 0 and below 1"):
        lottery.by_shares({"fc1.weight": 0.2, "fc2.weight": share}, rounds=1)


def test_random_masks_fit_the_model():
    with pytest.raises(ValueError, match=r"keep\['fc1.weight'\] must have shape"):
        lottery.random_mask(net(), {"fc1.weight": torch.ones(3, dtype=torch.bool)}, seed=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"share": 1.0}, "share must be at least 0 and below 1, got 1.0"),
        ({"output": -0.1}, "output must be at least 0 and below 1, got -0.1"),
    ],
)
def test_shares_that_make_no_sense_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        lottery.layer_shares(net(), **arguments)


def test_the_output_layer_is_the_last():
    cnn = lottery.layer_shares(models.small_cnn(), 0.4)
    assert cnn == {"conv1.weight": 0.4, "conv2.weight": 0.4, "fc.weight": 0.2}
    assert lottery.layer_shares(ensemble.stack([net()]), 0.5, output=0.0)["fc3.weight"] == 0
