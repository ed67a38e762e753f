"""Sparse training: brute force, another library bit for bit, and what may not change while masks
move."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from course_lib import data, ensemble, layers, models, training
from course_lib.pruning import allocate, criteria, masks
from course_lib.pruning.sparse_training import (
    Now,
    adapt,
    cosine,
    drop,
    drop_and_grow,
    drop_each_sign,
    dsr_step,
    grow,
    rewire,
    rigl_step,
    set_step,
    share,
    snfs_step,
    static,
    training_macs,
)

SIZES = (196, 30, 20, 10)
METHODS = {"SET": set_step, "RigL": rigl_step, "SNFS": snfs_step, "DSR": dsr_step(40, 0.02)}


@pytest.fixture(scope="module")
def train():
    return data.load("glyphs", n_train=1000, n_test=1)[0]


def quarters(shape, generator):
    return torch.randint(-4, 5, shape, generator=generator) / 4


def random_masks(net, sparsity, seed=0):
    scores = criteria.random(net, seed=seed)
    return allocate.per_layer(
        scores, allocate.erdos_renyi({n: s.shape for n, s in scores.items()}, sparsity)
    )


def a_network(seed, sparsity=0.8):
    """A network in the middle of nothing: random weights, gradients and momenta."""
    net = models.mlp(SIZES, seed=seed)
    keep = random_masks(net, sparsity, seed)
    masks.apply(net, keep)
    g = torch.Generator().manual_seed(seed)
    weights = {n: w.clone() for n, w in layers.weights(net).items()}
    other = [{n: torch.randn(w.shape, generator=g) for n, w in weights.items()} for _ in range(2)]
    return Now(weights, keep, *other, g)


def active(keep):
    return {n: int(m.sum()) for n, m in keep.items()}


# one layer


def test_drop_and_grow_are_those_of_pythons_sort():
    g = torch.Generator().manual_seed(0)
    for trial in range(300):
        shape = (int(torch.randint(1, 5, (), generator=g)), 3)
        weight, score = quarters(shape, g), quarters(shape, g)
        mask = torch.rand(shape, generator=g) < 0.6
        w, s = weight.flatten().tolist(), score.flatten().tolist()
        on = mask.flatten().nonzero().flatten().tolist()
        count = trial % (len(on) + 1)
        kept = sorted(on, key=lambda i: (-abs(w[i]), i))[: len(on) - count]
        free = [i for i in range(len(w)) if i not in kept]
        grown = sorted(free, key=lambda i: (-s[i], i))[:count]
        got = drop(weight, mask, count)
        assert got.flatten().nonzero().flatten().tolist() == sorted(kept)
        got = drop_and_grow(weight, mask, count, score)
        assert got.flatten().nonzero().flatten().tolist() == sorted(kept + grown)


def test_what_was_dropped_may_return_and_a_grown_zero_is_not_mistaken_for_an_inactive_one():
    weight = torch.tensor([3.0, 0.0, 0.0, 0.5])
    mask = torch.tensor([True, True, False, True])
    # The active zero goes, not the inactive one; then it has the best score and comes back.
    assert drop(weight, mask, 1).tolist() == [True, False, False, True]
    score = torch.tensor([9.0, 2.0, 1.0, 9.0])
    assert drop_and_grow(weight, mask, 1, score).tolist() == mask.tolist()


def test_each_sign_loses_its_own_fraction():
    # 200 positive weights near 1 and 100 negative ones near -9: by magnitude only positives go.
    g = torch.Generator().manual_seed(0)
    weight = torch.cat([1 + torch.rand(200, generator=g), -9 - torch.rand(100, generator=g)])
    weight = torch.cat([weight, torch.zeros(50)])[torch.randperm(350, generator=g)]
    kept = drop_each_sign(weight, weight != 0, 0.25)
    assert (kept <= (weight != 0)).all()
    for sign, n in ((1, 200), (-1, 100)):
        mine = weight * sign > 0
        assert int((mine & ~kept).sum()) == n // 4
        assert weight[mine & ~kept].abs().max() < weight[mine & kept].abs().min()


def test_shares_are_proportional_whole_and_within_the_room():
    assert share(10, {"a": 3, "b": 1, "c": 1}, dict.fromkeys("abc", 99)) == {"a": 6, "b": 2, "c": 2}
    assert share(10, {"a": 8, "b": 1, "c": 1}, {"a": 2, "b": 9, "c": 9}) == {"a": 2, "b": 4, "c": 4}
    assert share(6, {"a": 1, "b": 0, "c": 0}, {"a": 3, "b": 1, "c": 2}) == {"a": 3, "b": 1, "c": 2}
    g = torch.Generator().manual_seed(0)
    for _ in range(300):
        merit = dict(zip("abcd", torch.rand(4, generator=g).tolist(), strict=True))
        room = dict(zip("abcd", torch.randint(0, 20, (4,), generator=g).tolist(), strict=True))
        total = int(torch.randint(0, sum(room.values()) + 1, (), generator=g))
        got = share(total, merit, room)
        assert sum(got.values()) == total
        assert all(0 <= got[n] <= room[n] for n in got)
        free = [n for n in got if got[n] < room[n]]  # those not full: one rate for all
        low = max(((got[n] - 1) / merit[n] for n in free), default=0)
        assert all((got[n] + 1) / merit[n] > low for n in free)


# one network


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_total_is_constant_and_only_active_weights_go(name, seed):
    now = a_network(seed)
    before = copy.deepcopy(now[:4])
    new = METHODS[name](now, 0.3)
    for given, was in zip(now[:4], before, strict=True):
        assert all(torch.equal(given[n], was[n]) for n in was)
    assert sum(active(new).values()) == sum(active(now.masks).values())
    if name in ("SET", "RigL"):  # no sharing: every layer keeps its number
        assert active(new) == active(now.masks)
    moved = sum(int((new[n] ^ now.masks[n]).sum()) for n in new)
    assert moved > 0


def test_rigl_takes_the_smallest_weights_and_the_largest_gradients():
    now = a_network(0)
    new = rigl_step(now, 0.3)
    for n, mask in now.masks.items():
        count = int(0.3 * int(mask.sum()))
        smallest = now.weights[n][mask].abs().sort().values[count - 1]
        left = mask & (now.weights[n].abs() > smallest)
        assert (left <= new[n]).all()
        assert int(left.sum()) == int(mask.sum()) - count
        largest = now.gradients[n][~left].abs().sort(descending=True).values[count - 1]
        assert (now.gradients[n][new[n] & ~left].abs() >= largest).all()


def test_rewiring_is_rigl_torchs_bit_for_bit(train):
    from rigl_torch.RigL import RigLScheduler

    theirs, ours = models.mlp(SIZES, seed=1), models.mlp(SIZES, seed=1)
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.1, momentum=0.9) for n in (theirs, ours)]
    torch.manual_seed(0)
    pruner = RigLScheduler(
        theirs, optimizers[0], dense_allocation=0.1, T_end=100, delta=10, ignore_linear_layers=False
    )  # it leaves the first layer dense
    names = ["fc2.weight", "fc3.weight"]
    keep = {n: m.clone() for n, m in zip(names, pruner.backward_masks[1:], strict=True)}
    start = copy.deepcopy(keep)
    rewire(optimizers[1], ours, keep, rigl_step, every=10, fraction=cosine(0.3, 100))
    g = torch.Generator().manual_seed(3)
    for _ in range(120):
        batch = torch.randint(len(train.y), (50,), generator=g)
        for net, optimizer in zip((theirs, ours), optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(net(train.x[batch]), train.y[batch]).backward()
            if net is ours or pruner():
                optimizer.step()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(mine, other)
        for n, other in zip(names, pruner.backward_masks[1:], strict=True):
            assert torch.equal(keep[n], other)
    assert all((keep[n] & ~start[n]).any() for n in names)


def test_set_grows_at_random():
    """Every free position is grown equally often. Error rate: at most 1 in 100,000 by Hoeffding,
    over 400 positions together."""
    weight, runs = torch.linspace(1, 2, 500).view(20, 25), 1500
    mask = torch.zeros(20, 25, dtype=torch.bool)
    mask[:4] = True
    g = torch.Generator().manual_seed(0)
    hits = torch.zeros(20, 25)
    for _ in range(runs):
        hits += set_step(Now({"a": weight}, {"a": mask}, {}, {}, g), 0.5)["a"]
    share_ = hits[4:] / runs  # 50 grown over 450 free: 400 empty ones and those just dropped
    bound = math.sqrt(math.log(2 * 400 / 1e-5) / (2 * runs))
    assert (share_ - 50 / 450).abs().max() < bound
    assert share_.std() > 0


def test_snfs_moves_weights_to_the_layer_with_the_larger_mean_momentum():
    now = a_network(1)
    loud = {n: m * (20 if n == "fc2.weight" else 1) for n, m in now.momenta.items()}
    even, new = (active(snfs_step(now._replace(momenta=m), 0.3)) for m in (now.momenta, loud))
    assert new["fc2.weight"] > even["fc2.weight"]
    loud_outside = {
        n: m * (1 if n == "fc1.weight" else 20) ** (~now.masks[n]) for n, m in now.momenta.items()
    }  # the mean is over the active weights
    assert active(snfs_step(now._replace(momenta=loud_outside), 0.3)) == even
    size = {n: float(loud[n][m].abs().mean()) for n, m in now.masks.items()}
    gone = {n: int(0.3 * int(m.sum())) for n, m in now.masks.items()}
    total = sum(gone.values())
    part = total * size["fc1.weight"] / sum(size.values())
    full = sum(m.numel() for n, m in now.masks.items() if new[n] == m.numel())
    if not full:  # nobody overflowed: the formula as it stands
        assert (
            abs(new["fc1.weight"] - (active(now.masks)["fc1.weight"] - gone["fc1.weight"]) - part)
            < 1
        )
    with pytest.raises(ValueError, match="momentum"):
        snfs_step(now._replace(momenta={}), 0.3)


def test_dsr_drops_below_one_threshold_and_shares_by_survivors():
    now = a_network(2)
    threshold = 0.05
    new = dsr_step(40, threshold)(now, 0.3)
    kept = {n: m & (now.weights[n].abs() >= threshold) for n, m in now.masks.items()}
    total = sum(active(now.masks).values()) - sum(active(kept).values())
    assert total > 20
    for n, k in kept.items():
        assert torch.equal(new[n] & now.masks[n], k)  # what was dropped did not come back
        part = total * int(k.sum()) / sum(active(kept).values())
        assert abs(int(new[n].sum()) - int(k.sum()) - part) < 1


def test_dsr_moves_its_threshold_towards_the_target():
    assert [adapt(0.1, n, 100) for n in (80, 90, 110, 120)] == [0.2, 0.1, 0.1, 0.05]
    now, step, gone = a_network(3), dsr_step(30, 1e-6), []
    for _ in range(30):
        new = step(now, 0.3)
        gone.append(sum(int((m & ~new[n]).sum()) for n, m in now.masks.items()))
    assert gone[0] == 0
    assert 15 <= gone[-1] <= 60


def test_dsr_leaves_the_largest_weight_of_a_layer_and_full_layers_full():
    now = a_network(0)
    new = dsr_step(10, 1e9)(now, 0.3)
    for n, m in now.masks.items():
        best = (now.weights[n].abs() * m).argmax()
        assert new[n].flatten()[best]
    full = {n: torch.ones_like(m) for n, m in now.masks.items()}
    new = dsr_step(10, 0.05)(now._replace(masks=full), 0.3)
    assert all(m.all() for m in new.values())


def test_cosine():
    f = cosine(0.3, 100)
    assert [round(f(t), 12) for t in (0, 50, 100, 1000)] == [0.3, 0.15, 0, 0]
    assert abs(f(25) - 0.15 * (1 + math.sqrt(0.5))) < 1e-12


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.95, 0.98])
def test_a_start_has_the_counts_of_googles_erdos_renyi(sparsity):
    """Their rule: ε solves Σ ε r_l N_l = (1 - S) Σ N_l over the layers that are not dense."""
    for net in (models.lenet_300_100(), models.lenet5(), models.mlp()):
        shapes = {n: w.shape for n, w in layers.weights(net).items()}
        keep = active(random_masks(net, sparsity))
        raw = {n: sum(s) / math.prod(s) for n, s in shapes.items()}
        total = (1 - sparsity) * sum(map(math.prod, shapes.values()))
        dense = {n for n, s in shapes.items() if keep[n] == math.prod(s)}
        eps = (total - sum(keep[n] for n in dense)) / sum(
            raw[n] * math.prod(s) for n, s in shapes.items() if n not in dense
        )
        for n, s in shapes.items():
            expected = min(1, eps * raw[n]) * math.prod(s)
            assert abs(keep[n] - expected) < 1
        assert sum(keep.values()) == round(total)


# a stack in training


def test_a_stack_moves_each_member_as_its_own_optimizer_would(train):
    """Deterministic methods side by side in a stack, and each alone: the same masks and weights."""
    steps = [static, rigl_step, snfs_step, rigl_step]
    nets = [models.mlp(SIZES, seed=seed) for seed in range(4)]
    keep = [random_masks(net, 0.8, seed=7) for net in nets]
    together = masks.stack(keep)
    stack = ensemble.stack(nets)
    optimizer = training.sgd(stack)
    rewire(optimizer, stack, together, steps, every=5, fraction=cosine(0.3, 30))
    training.fit(stack, train, epochs=4, optimizer=optimizer)
    for k, (net, alone, step) in enumerate(zip(nets, keep, steps, strict=True)):
        optimizer = training.sgd(net)
        start = copy.deepcopy(alone)
        rewire(optimizer, net, alone, step, every=5, fraction=cosine(0.3, 30))
        training.fit(net, train, epochs=4, optimizer=optimizer)
        for n, m in alone.items():
            assert torch.equal(m, together[n][k])
            assert (step is static) == torch.equal(m, start[n])
        for n, p in net.named_parameters():
            assert torch.allclose(p, stack.get_parameter(n)[k], atol=1e-4)


def test_every_member_keeps_its_total_its_zeros_and_its_momentum_clean(train):
    seen = []

    def spy(step):
        def spied(now, fraction):
            new = step(now, fraction)
            momenta = {n: m.clone() for n, m in now.momenta.items()}
            fresh = {n: new[n] & ~m for n, m in now.masks.items()}
            seen.append((sum(active(new).values()), fresh, momenta))
            return new

        return spied

    steps = [spy(set_step), spy(rigl_step), spy(dsr_step(40, 0.02)), static]
    stack = ensemble.stack([models.mlp(SIZES, seed=0)] * 4)
    keep = masks.stack([random_masks(models.mlp(SIZES), 0.8)] * 4)
    total = sum(int(m[0].sum()) for m in keep.values())
    optimizer = training.sgd(stack)
    rewire(optimizer, stack, keep, steps, every=4, fraction=lambda t: 0.3)
    clean, had = [], [False] * 3

    def look(*_):  # after the optimizer's step, so after a move
        for n, m in keep.items():
            weight = stack.get_parameter(n)
            assert not weight.detach()[~m].any()
            if len(seen) > len(clean):
                for k, (_, fresh, before) in enumerate(seen[-3:]):
                    had[k] |= bool(before[n][fresh[n]].any())
                    assert not optimizer.state[weight]["momentum_buffer"][k][fresh[n]].any()
        clean[:] = seen

    optimizer.register_step_post_hook(look)
    training.fit(stack, train, epochs=2, optimizer=optimizer)
    assert all(had)  # what was grown had momentum, and has none now
    assert len(seen) == 3 * 5
    assert {n for n, _, _ in seen} == {total}
    assert all(int(m[k].sum()) > 0 for m in keep.values() for k in range(4))


def test_snfs_leaves_a_grown_weight_its_momentum(train):
    net = models.mlp(SIZES, seed=0)
    keep = random_masks(net, 0.8)
    optimizer = training.sgd(net)
    before = copy.deepcopy(keep)
    rewire(optimizer, net, keep, snfs_step, every=10, fraction=lambda t: 0.3)
    training.fit(net, train, epochs=1, optimizer=optimizer)  # ten steps; the last one moves
    for n, m in keep.items():
        fresh = m & ~before[n]
        buffer = optimizer.state[net.get_parameter(n)]["momentum_buffer"]
        assert fresh.any()
        assert buffer[fresh].all()
        assert not net.get_parameter(n).detach()[fresh].any()


def test_random_growth_repeats_by_seed_and_differs_between_members(train):
    found = []
    for seed in (0, 0, 1):
        stack = ensemble.stack([models.mlp(SIZES)] * 2)
        keep = masks.stack([random_masks(models.mlp(SIZES), 0.8)] * 2)
        optimizer = training.sgd(stack)
        rewire(optimizer, stack, keep, [set_step] * 2, every=5, fraction=cosine(0.3, 9), seed=seed)
        training.fit(stack, train, epochs=1, optimizer=optimizer)
        found.append(keep["fc1.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0][0], found[0][1])


def test_a_removed_handle_leaves_the_masks_held_where_they_are(train):
    net = models.mlp(SIZES)
    keep = random_masks(net, 0.8)
    optimizer = training.sgd(net)
    handle = rewire(optimizer, net, keep, set_step, every=3, fraction=lambda t: 0.3)
    training.fit(net, train, epochs=1, optimizer=optimizer)
    handle.remove()
    there = copy.deepcopy(keep)
    training.fit(net, train, epochs=1, optimizer=optimizer)
    for n, m in keep.items():
        assert torch.equal(m, there[n])
        assert torch.equal(net.get_parameter(n) != 0, m)


def test_training_costs_what_appendix_h_says():
    f_s, f_d, delta = 7.0, 100.0, 50
    assert training_macs(f_s, f_d) == 3 * f_s
    assert training_macs(f_d, f_d) == 3 * f_d
    assert training_macs(f_s, f_d, dense_gradients=1) == 2 * f_s + f_d
    rigl = (3 * f_s * delta + 2 * f_s + f_d) / (delta + 1)
    assert abs(training_macs(f_s, f_d, dense_gradients=1 / (delta + 1)) - rigl) < 1e-12


def test_bad_input_is_named_and_changes_nothing():
    weight, mask, score = (
        torch.ones(2, 3),
        torch.tensor([[True] * 3, [False] * 3]),
        torch.ones(2, 3),
    )
    for count in (-1, 4):
        with pytest.raises(ValueError, match="count must be between 0 and the 3 active"):
            drop_and_grow(weight, mask, count, score)
    with pytest.raises(ValueError, match="3 free positions"):
        grow(mask, 4, score)
    with pytest.raises(TypeError, match=r"mask must be a torch\.bool"):
        drop(weight, mask.float(), 1)
    with pytest.raises(ValueError, match="score must have the mask's shape"):
        drop_and_grow(weight, mask, 1, score[:1])
    with pytest.raises(ValueError, match="1 NaN"):
        drop(torch.tensor([math.nan, 1.0]), torch.tensor([True, True]), 1)
    with pytest.raises(ValueError, match="the room"):
        share(4, {"a": 1.0}, {"a": 3})
    with pytest.raises(ValueError, match="merit must be finite"):
        share(1, {"a": math.nan}, {"a": 3})
    for alpha, end in ((1.1, 10), (-0.1, 10), (0.3, 0)):
        with pytest.raises(ValueError, match="alpha"):
            cosine(alpha, end)
    for target, threshold in ((0, 0.1), (5, 0.0)):
        with pytest.raises(ValueError, match="target and threshold"):
            dsr_step(target, threshold)
    for sparse, part in ((2, 0), (-1, 0), (1, 1.5)):
        with pytest.raises(ValueError, match="dense_gradients"):
            training_macs(sparse, 1, dense_gradients=part)
    net = models.mlp(SIZES)
    keep, was = random_masks(net, 0.8), copy.deepcopy(net.state_dict())
    optimizer = training.sgd(net)
    for steps, every, words in (
        ([set_step] * 2, 5, "for each of 1 networks"),
        (["set"], 5, "steps must hold"),
        (set_step, 0, "every must be"),
    ):
        with pytest.raises(ValueError, match=words):
            rewire(optimizer, net, keep, steps, every=every, fraction=cosine(0.3, 9))
    with pytest.raises(ValueError, match="for each of 3 networks"):
        stack = ensemble.stack([net] * 3)
        rewire(
            training.sgd(stack), stack, masks.stack([keep] * 3), set_step, fraction=cosine(0.3, 9)
        )
    assert all(torch.equal(v, was[n]) for n, v in net.state_dict().items())
    assert not optimizer._optimizer_step_pre_hooks
    plain, was = torch.optim.SGD(net.parameters(), lr=0.1), copy.deepcopy(keep)
    rewire(plain, net, keep, snfs_step, every=1, fraction=cosine(0.3, 9))
    F.cross_entropy(net(torch.rand(5, 196)), torch.arange(5)).backward()
    with pytest.raises(ValueError, match="SGD with momentum"):
        plain.step()
    assert all(torch.equal(m, was[n]) for n, m in keep.items())
