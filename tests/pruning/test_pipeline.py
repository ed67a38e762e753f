"""Rounds: exact, nested, in the stated order; rewinding that gives back what was; resuming."""

import copy
import dataclasses
import itertools
import os

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import ensemble, models, training
from course_lib.pruning import (
    allocate,
    criteria,
    masks,
    pipeline,
    schedules,
)

PLAN = training.Plan(epochs=4)  # of the original trainings
SLOW = pipeline.fine_tuning(PLAN, 1, rate=0.01)


def net(seed=0):
    return models.mlp((64, 16, 12, 10), seed=seed)


def trained(train, seed=0):
    """A network, its state after 2 of 4 epochs, both on the same schedule."""
    model = net(seed)
    training.fit(model, train, epochs=2, schedule=pipeline.segment(training.linear_decay, 0, 0.5))
    early = training.snapshot(model)
    training.fit(
        model, train, epochs=2, schedule=pipeline.segment(training.linear_decay, 0.5), seed=1
    )
    return model, early


def same(a, b):
    return all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())


def by_hand(model, train, *, rounds, final, epochs, rate, weights=None):
    """The oracle: another loop in plain torch. The mask stands in the forward pass, thresholds
    come from a sort, the update is written out."""
    names = [n for n, _ in model.named_parameters()]
    w = {n: p.detach().clone() for n, p in model.named_parameters()}
    mask = {n: torch.ones_like(v) for n, v in w.items()}
    pruned = [n for n in names if n.endswith("weight")]
    total = sum(w[n].numel() for n in pruned)
    for r in range(1, rounds + 1):
        size = torch.cat([torch.where(mask[n] > 0, w[n].abs(), -1.0).flatten() for n in pruned])
        gone = round((1 - (1 - final) ** (r / rounds)) * total)
        flat = torch.ones(total)
        flat[size.argsort(stable=True)[:gone]] = 0
        for n, piece in zip(pruned, flat.split([w[n].numel() for n in pruned]), strict=True):
            mask[n] = piece.view_as(w[n])
        if weights is not None:
            w = {n: weights[n].clone() for n in names}
        order, velocity = torch.Generator().manual_seed(r), {n: 0.0 for n in names}
        steps = -(-len(train.y) // 100)
        for e in range(epochs):
            for i, batch in enumerate(torch.randperm(len(train.y), generator=order).split(100)):
                v = {n: (w[n] * mask[n]).requires_grad_() for n in names}
                loss = F.cross_entropy(
                    torch.func.functional_call(model, v, (train.x[batch],)), train.y[batch]
                )
                slopes = torch.autograd.grad(loss, list(v.values()))
                eta = 0.1 * rate((e * steps + i) / (epochs * steps))
                for n, g in zip(names, slopes, strict=True):
                    velocity[n] = 0.9 * velocity[n] + g
                    w[n] = w[n] - eta * velocity[n]
    return {n: w[n] * mask[n] for n in names}


WAYS = {
    "fine-tuning": (lambda early: pipeline.fine_tuning(PLAN, 3, rate=0.02), lambda t: 0.02, False),
    "rate rewinding": (
        lambda early: pipeline.rate_rewinding(PLAN, 3),
        lambda t: 1 - (0.25 + 0.75 * t),
        False,
    ),
    "weight rewinding": (
        lambda early: pipeline.weight_rewinding(PLAN, 2, early),
        lambda t: 0.5 - 0.5 * t,
        True,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_rounds_are_those_of_a_loop_written_by_hand(digits, way):
    train, _ = digits
    model, early = trained(train)
    make, rate, rewinds = WAYS[way]
    plan = make(early)
    expected = by_hand(
        model,
        train,
        rounds=3,
        final=0.9,
        epochs=plan.epochs,
        rate=rate,
        weights=early if rewinds else None,
    )
    done = pipeline.iterate(model, train, plan, pipeline.Pruning(schedules.geometric(0.9, 3), 3))
    assert masks.sparsity(done[-1].masks) == round(0.9 * 1336) / 1336
    for name, w in model.named_parameters():
        assert torch.equal(w == 0, expected[name] == 0)
        torch.testing.assert_close(w, expected[name], rtol=2e-4, atol=2e-5)


def test_rewinding_an_unpruned_network_gives_it_back_to_the_last_bit(digits):
    train, _ = digits
    model, early = trained(train)
    before = copy.deepcopy(model)
    rewind = pipeline.weight_rewinding(PLAN, 2, early)
    pipeline.iterate(model, train, rewind, pipeline.Pruning(lambda step: 0.0, 1))
    assert same(model, before)


def test_weights_start_where_the_way_says(digits):
    """At learning rate zero nothing moves: what is left is what training started from."""
    train, _ = digits
    model, early = trained(train)
    final = training.snapshot(model)
    for weights, start in ((None, final), (early, early)):
        pruned = copy.deepcopy(model)
        plan = training.Plan(epochs=1, schedule=lambda t: 0.0, start=weights)
        (after,) = pipeline.iterate(
            pruned, train, plan, pipeline.Pruning(schedules.one_shot(0.5), 1)
        )
        assert after.accuracy is None
        for name, w in pruned.named_parameters():
            keep = after.masks.get(name, torch.ones_like(w, dtype=torch.bool))
            assert torch.equal(w, start[name] * keep)


def test_a_stack_is_its_members_one_by_one(digits):
    train, test = digits
    nets = [trained(train, seed)[0] for seed in range(3)]
    scores = [
        lambda n: criteria.magnitude(n),
        lambda n: criteria.random(n, seed=1),
        lambda n: criteria.random(n, seed=2),
    ]
    plan = pipeline.rate_rewinding(PLAN, 2)
    half = schedules.geometric(0.8, 2)
    stacked = ensemble.stack(nets)
    together = pipeline.iterate(stacked, train, plan, pipeline.Pruning(half, 2, scores), test=test)
    for k, (one, score) in enumerate(zip(nets, scores, strict=True)):
        alone = pipeline.iterate(one, train, plan, pipeline.Pruning(half, 2, score), test=test)
        for ours, theirs in zip(alone, together, strict=True):
            for name, keep in ours.masks.items():
                assert torch.equal(keep, theirs.masks[name][k])
            assert abs(float(ours.accuracy - theirs.accuracy[k])) < 1  # float order: a few images
        member = ensemble.unstack(stacked)[k]
        for name, w in one.named_parameters():
            torch.testing.assert_close(w, member.get_parameter(name), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dealt", [allocate.globally, allocate.per_layer])
def test_masks_are_nested_and_exact_also_when_scores_change_their_mind(digits, dealt):
    train, _ = digits
    seeds = itertools.count()

    def fickle(net):
        # below zero, so that a dead weight scored 0 would come first
        return {k: -s for k, s in criteria.random(net, seed=next(seeds)).items()}

    pruning = pipeline.Pruning(schedules.linear(0.9, 4), 5, fickle, dealt)
    done = pipeline.iterate(net(), train, SLOW, pruning)
    for step, after in enumerate(done, start=1):
        for name, keep in after.masks.items():
            share = min(step, 4) / 4 * 0.9
            if dealt is allocate.per_layer:
                assert int((~keep).sum()) == round(share * keep.numel())
            if step > 1:
                assert (keep <= done[step - 2].masks[name]).all()
        total = sum(int((~m).sum()) for m in after.masks.values())
        assert abs(total - share * 1336) <= 1.5
    assert all(torch.equal(done[3].masks[n], m) for n, m in done[4].masks.items())


def test_a_dead_weight_that_scores_zero_is_not_counted_twice(digits):
    """The classic mistake: 20 % of all weights, zeros included, are the same 20 % every round."""
    train, _ = digits
    done = pipeline.iterate(net(), train, SLOW, pipeline.Pruning(lambda step: 1 - 0.8**step, 3))
    left = [sum(int(m.sum()) for m in r.masks.values()) for r in done]
    assert left == [1336 - round((1 - 0.8**step) * 1336) for step in (1, 2, 3)]


@pytest.mark.parametrize("stop", [1, 7, 14, 23, 35])
def test_an_interrupted_run_goes_on_bit_for_bit(digits, tmp_path, stopping_at, stop):
    train, test = digits
    start, early = trained(train)
    plan = pipeline.weight_rewinding(PLAN, 2, early)
    stopped = dataclasses.replace(plan, optimizer=stopping_at(stop))
    pruning = pipeline.Pruning(schedules.geometric(0.9, 3), 3)
    whole = copy.deepcopy(start)
    expected = pipeline.iterate(whole, train, plan, pruning, test=test)
    model = copy.deepcopy(start)
    with pytest.raises(KeyboardInterrupt):
        pipeline.iterate(model, train, stopped, pruning, test=test, folder=tmp_path)
    resumed = copy.deepcopy(start)
    got = pipeline.iterate(resumed, train, plan, pruning, test=test, folder=tmp_path)
    assert same(resumed, whole)
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.equal(ours.accuracy, theirs.accuracy)
        assert all(torch.equal(m, theirs.masks[n]) for n, m in ours.masks.items())


def test_the_folder_of_another_run_is_refused(digits, tmp_path):
    train, _ = digits
    half, more = (pipeline.Pruning(schedules.one_shot(s), 1) for s in (0.5, 0.6))
    pipeline.iterate(net(), train, SLOW, half, folder=tmp_path)
    with pytest.raises(ValueError, match=r"folder .* belongs to another run: masks-1.pt differs"):
        pipeline.iterate(net(), train, SLOW, more, folder=tmp_path)


def test_pruning_before_training_keeps_the_first_weights(digits):
    train, _ = digits
    model = net()
    keep = allocate.globally(criteria.random(model, seed=0), 0.8)
    optimizer = training.sgd(model)
    pipeline.train_held(model, train, keep, training.Plan(epochs=2, optimizer=optimizer))
    assert all((model.get_parameter(n)[~m] == 0).all() for n, m in keep.items())
    assert all(
        (model.get_parameter(n)[m] != net().get_parameter(n)[m]).any() for n, m in keep.items()
    )
    training.fit(model, train, epochs=1, optimizer=optimizer)  # let go
    assert any((model.get_parameter(n)[~m] != 0).any() for n, m in keep.items())


def test_batch_norm_is_rewound_too(digits):
    train, _ = digits
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    early = training.snapshot(model)
    training.fit(model, train, epochs=1)
    rewind = pipeline.weight_rewinding(training.Plan(epochs=1), 1, early)
    pipeline.iterate(model, train, rewind, pipeline.Pruning(lambda step: 0.0, 1))
    fresh = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    fresh.load_state_dict(early)
    training.fit(fresh, train, epochs=1, seed=1)
    assert same(model, fresh)


def test_part_of_a_schedule():
    steps = [1.0, 1.0, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]  # eight epochs
    schedule = lambda t: steps[int(t * 8)]
    whole = training.Plan(epochs=8, schedule=schedule, batch_size=7, seed=3)
    replay = pipeline.rate_rewinding(whole, 4)
    assert [replay.schedule(i / 4) for i in range(4)] == steps[-4:]
    assert (replay.epochs, replay.batch_size, replay.seed) == (4, 7, 3)
    first = pipeline.segment(schedule, 0, 0.5)
    assert [first(i / 4) for i in range(4)] == steps[:4]
    assert pipeline.rate_rewinding(whole, 8).schedule(0) == steps[0]
    small = pipeline.fine_tuning(whole, 4, rate=0.02)
    assert small.schedule(0.7) == 0.02 and small.epochs == 4


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pipeline.rate_rewinding(PLAN, 5), "epochs must be at most 4.*got 5"),
        (lambda: pipeline.rate_rewinding(PLAN, 0), "epochs must be a positive integer, got 0"),
        (lambda: pipeline.weight_rewinding(PLAN, 1.5, {}), "epochs must be a positive integer"),
        (lambda: pipeline.fine_tuning(PLAN, 1, rate=0), "rate must be positive and finite, got 0"),
        (lambda: pipeline.fine_tuning(PLAN, 0, rate=1), "epochs must be a positive integer, got 0"),
        (lambda: pipeline.segment(training.linear_decay, 0.5, 0.5), "start and end.*0.5 and 0.5"),
    ],
)
def test_ways_that_make_no_sense_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_rate_that_is_no_number_is_named():
    with pytest.raises(TypeError, match="rate must be a number, got '0.1'"):
        pipeline.fine_tuning(PLAN, 1, rate="0.1")


PRUNING = pipeline.Pruning(schedules.one_shot(0.5), 2)


@pytest.mark.parametrize(
    ("plan", "pruning", "words"),
    [
        (SLOW, PRUNING._replace(rounds=0), "rounds must be a positive integer, got 0"),
        (
            SLOW,
            PRUNING._replace(sparsity=lambda step: 1 / step),
            r"sparsity must rise within \[0, 1\].*got \[1.0, 0.5",
        ),
        (SLOW, PRUNING._replace(sparsity=lambda step: 0.6 * step), r"sparsity must rise within"),
        (SLOW, PRUNING._replace(sparsity=lambda step: float("nan")), r"sparsity must rise within"),
        (
            SLOW,
            PRUNING._replace(sparsity=lambda step: {f"fc{step}.weight": 0.1}),
            "sparsity must rise within .* and name the same layers",
        ),
        (
            SLOW,
            PRUNING._replace(sparsity=lambda step: dict.fromkeys(["fc1.weight", "x"][:step], 0.1)),
            "sparsity must rise within .* and name the same layers",
        ),
        (
            SLOW,
            PRUNING._replace(score=[criteria.magnitude] * 2),
            "score must be one function, or one for each of 1",
        ),
        (
            dataclasses.replace(SLOW, start={"fc1.weight": torch.ones(2)}),
            PRUNING,
            "start must be a state_dict of model",
        ),
        (dataclasses.replace(SLOW, batch_size=0), PRUNING, "batch_size must be a positive integer"),
    ],
)
def test_bad_input_changes_nothing(digits, tmp_path, plan, pruning, words):
    train, _ = digits
    model = net()
    with pytest.raises(ValueError, match=words):
        pipeline.iterate(model, train, plan, pruning, folder=tmp_path)
    assert same(model, net())
    assert not list(tmp_path.iterdir())


def test_rounds_need_a_fresh_optimizer_each(digits):
    train, _ = digits
    model = net()
    plan = dataclasses.replace(SLOW, optimizer=training.sgd(model))
    with pytest.raises(TypeError, match="plan.optimizer must be a function"):
        pipeline.iterate(model, train, plan, PRUNING)
    assert same(model, net())


def test_a_refused_training_under_masks_leaves_the_network_whole(digits, tmp_path):
    train, _ = digits
    keep = allocate.globally(criteria.magnitude(net()), 0.5)
    file = tmp_path / "c.pt"
    pipeline.train_held(net(), train, keep, SLOW, checkpoint=file)
    model, early = net(), training.snapshot(net(1))
    optimizer = training.sgd(model)
    other = dataclasses.replace(SLOW, seed=1, optimizer=optimizer, start=early)
    with pytest.raises(ValueError, match="belongs to a run with"):
        pipeline.train_held(model, train, keep, other, checkpoint=file)
    with pytest.raises(TypeError, match="bool"):
        pipeline.train_held(model, train, {n: m.float() for n, m in keep.items()}, other)
    assert same(model, net())
    training.fit(model, train, epochs=1, optimizer=optimizer)
    assert all((model.get_parameter(n)[~m] != 0).any() for n, m in keep.items())  # let go


@pytest.mark.parametrize("damage", [b"", b"hello", slice(0, 200), "foreign"])
def test_damaged_files_of_rounds_are_named(digits, tmp_path, damage):
    train, _ = digits
    pipeline.iterate(net(), train, SLOW, PRUNING, folder=tmp_path)
    for file, words in (
        ("masks-2.pt", r"folder .*masks-2.pt"),
        ("round-1.pt", "checkpoint .*round-1"),
    ):
        path = tmp_path / file
        whole = path.read_bytes()
        if damage == "foreign":
            torch.save([1, 2], path)
        else:
            path.write_bytes(whole[damage] if isinstance(damage, slice) else damage)
        with pytest.raises(ValueError, match=words):
            pipeline.iterate(net(), train, SLOW, PRUNING, folder=tmp_path)
        path.write_bytes(whole)
    pipeline.iterate(net(), train, SLOW, PRUNING, folder=tmp_path)


def test_masks_are_written_whole_or_not_at_all(digits, tmp_path, monkeypatch):
    """The first file that a round writes holds its masks."""

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            pipeline.iterate(net(), digits[0], SLOW, PRUNING, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_layer_that_a_later_score_leaves_out_stays_pruned(digits):
    train, _ = digits
    turns = itertools.count()

    def one_layer(net):
        name = f"fc{1 + next(turns)}.weight"
        return {name: criteria.magnitude(net)[name]}

    done = pipeline.iterate(net(), train, SLOW, PRUNING._replace(score=one_layer))
    assert torch.equal(done[1].masks["fc1.weight"], done[0].masks["fc1.weight"])
    assert done[1].masks.keys() == {"fc1.weight", "fc2.weight"}


def test_sparsities_may_name_the_layers(digits):
    train, _ = digits
    line = {"fc1.weight": 0.3, "fc2.weight": 0.2, "fc3.weight": 0.1}

    def rising(step):
        return {name: share * step for name, share in line.items()}

    def falling(step):
        return line | {"fc3.weight": 1 / step}

    pruning = pipeline.Pruning(rising, 2, allocate=allocate.per_layer)
    done = pipeline.iterate(net(), train, SLOW, pruning)
    for step, after in enumerate(done, start=1):
        for name, m in after.masks.items():
            assert int((~m).sum()) == round(line[name] * step * m.numel())
    assert len(done[0].history.loss) == 1
    with pytest.raises(ValueError, match="sparsity must rise"):
        pipeline.iterate(net(), train, SLOW, pruning._replace(sparsity=falling))
