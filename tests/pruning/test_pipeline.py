"""Rounds: exact, nested, in the stated order; rewinding that gives back what was; resuming."""

import copy
import itertools

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


def net(seed=0):
    return models.mlp((64, 16, 12, 10), seed=seed)


def trained(train, seed=0):
    """A network, its state after 2 of 4 epochs, both on the same schedule."""
    model = net(seed)
    training.fit(model, train, epochs=2, schedule=pipeline.segment(training.linear_decay, 0, 0.5))
    early = pipeline.snapshot(model)
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
    "fine-tuning": (lambda early: pipeline.fine_tuning(3, rate=0.02), lambda t: 0.02, False),
    "rate rewinding": (
        lambda early: pipeline.rate_rewinding(3, of=4),
        lambda t: 1 - (0.25 + 0.75 * t),
        False,
    ),
    "weight rewinding": (
        lambda early: pipeline.weight_rewinding(2, of=4, weights=early),
        lambda t: 0.5 - 0.5 * t,
        True,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_rounds_are_those_of_a_loop_written_by_hand(digits, way):
    train, _ = digits
    model, early = trained(train)
    make, rate, rewinds = WAYS[way]
    retrain = make(early)
    expected = by_hand(
        model,
        train,
        rounds=3,
        final=0.9,
        epochs=retrain.epochs,
        rate=rate,
        weights=early if rewinds else None,
    )
    done = pipeline.iterate(
        model,
        train,
        score=criteria.magnitude,
        schedule=schedules.geometric(0.9, 3),
        rounds=3,
        retrain=retrain,
    )
    assert masks.sparsity(done[-1].masks) == round(0.9 * 1336) / 1336
    for name, w in model.named_parameters():
        assert torch.equal(w == 0, expected[name] == 0)
        torch.testing.assert_close(w, expected[name], rtol=2e-4, atol=2e-5)


def test_rewinding_an_unpruned_network_gives_it_back_to_the_last_bit(digits):
    train, _ = digits
    model, early = trained(train)
    before = copy.deepcopy(model)
    pipeline.iterate(
        model,
        train,
        score=criteria.magnitude,
        schedule=lambda step: 0.0,
        rounds=1,
        retrain=pipeline.weight_rewinding(2, of=4, weights=early),
    )
    assert same(model, before)


def test_weights_start_where_the_way_says(digits):
    """At learning rate zero nothing moves: what is left is what training started from."""
    train, _ = digits
    model, early = trained(train)
    final = pipeline.snapshot(model)
    for weights, start in ((None, final), (early, early)):
        pruned = copy.deepcopy(model)
        (after,) = pipeline.iterate(
            pruned,
            train,
            score=criteria.magnitude,
            schedule=schedules.one_shot(0.5),
            rounds=1,
            retrain=pipeline.Retrain(1, lambda t: 0.0, weights),
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
    arguments = {
        "schedule": schedules.geometric(0.8, 2),
        "rounds": 2,
        "retrain": pipeline.rate_rewinding(2, of=4),
    }
    stacked = ensemble.stack(nets)
    together = pipeline.iterate(stacked, train, score=scores, test=test, **arguments)
    for k, (one, score) in enumerate(zip(nets, scores, strict=True)):
        alone = pipeline.iterate(one, train, score=score, test=test, **arguments)
        for ours, theirs in zip(alone, together, strict=True):
            for name, keep in ours.masks.items():
                assert torch.equal(keep, theirs.masks[name][k])
            assert abs(float(ours.accuracy - theirs.accuracy[k])) < 1  # float order: a few images
        member = ensemble.unstack(stacked)[k]
        for name, w in one.named_parameters():
            torch.testing.assert_close(w, member.get_parameter(name), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("allocate", [allocate.globally, allocate.per_layer])
def test_masks_are_nested_and_exact_also_when_scores_change_their_mind(digits, allocate):
    train, _ = digits
    seeds = itertools.count()
    done = pipeline.iterate(
        net(),
        train,
        # below zero, so that a dead weight scored 0 would come first
        score=lambda n: {k: -s for k, s in criteria.random(n, seed=next(seeds)).items()},
        schedule=schedules.linear(0.9, 4),
        rounds=5,
        retrain=pipeline.fine_tuning(1, rate=0.01),
        allocate=allocate,
    )
    for step, after in enumerate(done, start=1):
        for name, keep in after.masks.items():
            share = min(step, 4) / 4 * 0.9
            if allocate is allocate.per_layer:
                assert int((~keep).sum()) == round(share * keep.numel())
            if step > 1:
                assert (keep <= done[step - 2].masks[name]).all()
        total = sum(int((~m).sum()) for m in after.masks.values())
        assert abs(total - share * 1336) <= 1.5
    assert all(torch.equal(done[3].masks[n], m) for n, m in done[4].masks.items())


def test_a_dead_weight_that_scores_zero_is_not_counted_twice(digits):
    """The classic mistake: 20 % of all weights, zeros included, are the same 20 % every round."""
    train, _ = digits
    done = pipeline.iterate(
        net(),
        train,
        score=criteria.magnitude,
        schedule=lambda step: 1 - 0.8**step,
        rounds=3,
        retrain=pipeline.fine_tuning(1, rate=0.01),
    )
    left = [sum(int(m.sum()) for m in r.masks.values()) for r in done]
    assert left == [1336 - round((1 - 0.8**step) * 1336) for step in (1, 2, 3)]


@pytest.mark.parametrize("stop", [1, 7, 14, 23, 35])
def test_an_interrupted_run_goes_on_bit_for_bit(digits, tmp_path, stopping_at, stop):
    train, test = digits
    start, early = trained(train)
    arguments = {
        "score": criteria.magnitude,
        "schedule": schedules.geometric(0.9, 3),
        "rounds": 3,
        "retrain": pipeline.weight_rewinding(2, of=4, weights=early),
        "test": test,
    }
    whole = copy.deepcopy(start)
    expected = pipeline.iterate(whole, train, **arguments)
    model = copy.deepcopy(start)
    with pytest.raises(KeyboardInterrupt):
        pipeline.iterate(model, train, folder=tmp_path, optimizer=stopping_at(stop), **arguments)
    resumed = copy.deepcopy(start)
    got = pipeline.iterate(resumed, train, folder=tmp_path, **arguments)
    assert same(resumed, whole)
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.equal(ours.accuracy, theirs.accuracy)
        assert all(torch.equal(m, theirs.masks[n]) for n, m in ours.masks.items())


def test_the_folder_of_another_run_is_refused(digits, tmp_path):
    train, _ = digits
    arguments = {"rounds": 1, "retrain": pipeline.fine_tuning(1, rate=0.1), "folder": tmp_path}
    pipeline.iterate(
        net(), train, score=criteria.magnitude, schedule=schedules.one_shot(0.5), **arguments
    )
    with pytest.raises(ValueError, match=r"folder .* belongs to another run: masks-1.pt differs"):
        pipeline.iterate(
            net(), train, score=criteria.magnitude, schedule=schedules.one_shot(0.6), **arguments
        )


def test_pruning_before_training_keeps_the_first_weights(digits):
    train, _ = digits
    model = net()
    keep = allocate.globally(criteria.random(model, seed=0), 0.8)
    optimizer = training.sgd(model)
    pipeline.train_held(
        model, train, keep, pipeline.Retrain(2, training.linear_decay), optimizer=optimizer
    )
    assert all((model.get_parameter(n)[~m] == 0).all() for n, m in keep.items())
    assert all(
        (model.get_parameter(n)[m] != net().get_parameter(n)[m]).any() for n, m in keep.items()
    )
    assert not optimizer._optimizer_step_post_hooks  # let go


def test_batch_norm_is_rewound_too(digits):
    train, _ = digits
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    early = pipeline.snapshot(model)
    training.fit(model, train, epochs=1)
    pipeline.iterate(
        model,
        train,
        score=criteria.magnitude,
        schedule=lambda step: 0.0,
        rounds=1,
        retrain=pipeline.weight_rewinding(1, of=1, weights=early),
    )
    fresh = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    fresh.load_state_dict(early)
    training.fit(fresh, train, epochs=1, seed=1)
    assert same(model, fresh)


def test_part_of_a_schedule():
    steps = [1.0, 1.0, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]  # eight epochs
    schedule = lambda t: steps[int(t * 8)]
    replay = pipeline.rate_rewinding(4, of=8, schedule=schedule).schedule
    assert [replay(i / 4) for i in range(4)] == steps[-4:]
    first = pipeline.segment(schedule, 0, 0.5)
    assert [first(i / 4) for i in range(4)] == steps[:4]
    assert pipeline.rate_rewinding(8, of=8, schedule=schedule).schedule(0) == steps[0]
    assert pipeline.fine_tuning(4, rate=0.02).schedule(0.7) == 0.02


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pipeline.rate_rewinding(5, of=4), "epochs must be at most of=4.*got 5"),
        (lambda: pipeline.rate_rewinding(0, of=4), "epochs must be a whole number.*got 0"),
        (lambda: pipeline.rate_rewinding(1, of=1.5), "of must be a whole number.*got 1.5"),
        (lambda: pipeline.fine_tuning(1, rate=0), "rate must be positive, got 0"),
        (lambda: pipeline.segment(training.linear_decay, 0.5, 0.5), "start and end.*0.5 and 0.5"),
    ],
)
def test_ways_that_make_no_sense_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rounds": 0}, "rounds must be a whole number from 1 on, got 0"),
        (
            {"schedule": lambda step: 1 / step},
            r"schedule must rise within \[0, 1\], got \[1.0, 0.5",
        ),
        ({"schedule": lambda step: 0.6 * step}, r"schedule must rise within \[0, 1\]"),
        ({"score": [criteria.magnitude] * 2}, "score must be one function, or one for each of 1"),
        (
            {"retrain": pipeline.weight_rewinding(1, of=1, weights={"fc1.weight": torch.ones(2)})},
            "weights must be a state_dict of model",
        ),
    ],
)
def test_bad_input_changes_nothing(digits, wrong, words):
    train, _ = digits
    model = net()
    arguments = {
        "score": criteria.magnitude,
        "schedule": schedules.one_shot(0.5),
        "rounds": 2,
        "retrain": pipeline.fine_tuning(1, rate=0.1),
        **wrong,
    }
    with pytest.raises(ValueError, match=words):
        pipeline.iterate(model, train, **arguments)
    assert same(model, net())


def test_a_schedule_may_name_the_layers(digits):
    train, _ = digits
    line = {"fc1.weight": 0.3, "fc2.weight": 0.2, "fc3.weight": 0.1}
    arguments = {"score": criteria.magnitude, "rounds": 2, "allocate": allocate.per_layer}
    arguments["retrain"] = pipeline.fine_tuning(1, rate=0.1)
    done = pipeline.iterate(
        net(), train, schedule=lambda step: {n: s * step for n, s in line.items()}, **arguments
    )
    for step, after in enumerate(done, start=1):
        for name, m in after.masks.items():
            assert int((~m).sum()) == round(line[name] * step * m.numel())
    assert len(done[0].history.loss) == 1
    with pytest.raises(ValueError, match="schedule must rise"):
        pipeline.iterate(
            net(), train, schedule=lambda step: line | {"fc3.weight": 1 / step}, **arguments
        )
