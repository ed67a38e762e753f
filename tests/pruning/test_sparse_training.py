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
    RIGL,
    SET,
    SNFS,
    STATIC,
    Method,
    State,
    adapt,
    cosine,
    drop,
    drop_and_grow,
    drop_each_sign,
    dsr,
    grow,
    rewire,
    rigl_step,
    set_step,
    share,
    snfs_step,
    training_macs,
)

SIZES = (196, 30, 20, 10)
METHODS = {"SET": SET, "RigL": RIGL, "SNFS": SNFS, "DSR": dsr(40, 0.02)}


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
    return State(weights, keep, *other, g)


def every(n):
    """Step -> fraction: 0.3 at every n-th."""
    return lambda t: 0.3 if t % n == 0 else 0.0


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
    state = a_network(seed)
    before = copy.deepcopy(state[:4])
    new = METHODS[name].step(state, 0.3)
    for given, was in zip(state[:4], before, strict=True):
        assert all(torch.equal(given[n], was[n]) for n in was)
    assert sum(active(new).values()) == sum(active(state.masks).values())
    if name in ("SET", "RigL"):  # no sharing: every layer keeps its number
        assert active(new) == active(state.masks)
    moved = sum(int((new[n] ^ state.masks[n]).sum()) for n in new)
    assert moved > 0


def test_rigl_takes_the_smallest_weights_and_the_largest_gradients():
    state = a_network(0)
    new = rigl_step(state, 0.3)
    for n, mask in state.masks.items():
        count = int(0.3 * int(mask.sum()))
        smallest = state.weights[n][mask].abs().sort().values[count - 1]
        left = mask & (state.weights[n].abs() > smallest)
        assert (left <= new[n]).all()
        assert int(left.sum()) == int(mask.sum()) - count
        largest = state.gradients[n][~left].abs().sort(descending=True).values[count - 1]
        assert (state.gradients[n][new[n] & ~left].abs() >= largest).all()


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
    rewire(optimizers[1], ours, keep, RIGL, fraction=cosine(0.3, 100, every=10))
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
        hits += set_step(State({"a": weight}, {"a": mask}, {}, {}, g), 0.5)["a"]
    share_ = hits[4:] / runs  # 50 grown over 450 free: 400 empty ones and those just dropped
    bound = math.sqrt(math.log(2 * 400 / 1e-5) / (2 * runs))
    assert (share_ - 50 / 450).abs().max() < bound
    assert share_.std() > 0


def test_snfs_moves_weights_to_the_layer_with_the_larger_mean_momentum():
    state = a_network(1)
    loud = {n: m * (20 if n == "fc2.weight" else 1) for n, m in state.momenta.items()}
    even, new = (active(snfs_step(state._replace(momenta=m), 0.3)) for m in (state.momenta, loud))
    assert new["fc2.weight"] > even["fc2.weight"]
    loud_outside = {
        n: m * (1 if n == "fc1.weight" else 20) ** (~state.masks[n])
        for n, m in state.momenta.items()
    }  # the mean is over the active weights
    assert active(snfs_step(state._replace(momenta=loud_outside), 0.3)) == even
    size = {n: float(loud[n][m].abs().mean()) for n, m in state.masks.items()}
    gone = {n: int(0.3 * int(m.sum())) for n, m in state.masks.items()}
    total = sum(gone.values())
    part = total * size["fc1.weight"] / sum(size.values())
    full = sum(m.numel() for n, m in state.masks.items() if new[n] == m.numel())
    if not full:  # nobody overflowed: the formula as it stands
        assert (
            abs(new["fc1.weight"] - (active(state.masks)["fc1.weight"] - gone["fc1.weight"]) - part)
            < 1
        )
    with pytest.raises(ValueError, match="momentum"):
        snfs_step(state._replace(momenta={}), 0.3)


def test_dsr_drops_below_one_threshold_and_shares_by_survivors():
    state = a_network(2)
    threshold = 0.05
    new = dsr(40, threshold).step(state, 0.3)
    kept = {n: m & (state.weights[n].abs() >= threshold) for n, m in state.masks.items()}
    total = sum(active(state.masks).values()) - sum(active(kept).values())
    assert total > 20
    for n, k in kept.items():
        assert torch.equal(new[n] & state.masks[n], k)  # what was dropped did not come back
        part = total * int(k.sum()) / sum(active(kept).values())
        assert abs(int(new[n].sum()) - int(k.sum()) - part) < 1


def test_dsr_moves_its_threshold_towards_the_target():
    assert [adapt(0.1, n, 100) for n in (80, 90, 110, 120)] == [0.2, 0.1, 0.1, 0.05]
    state, method, gone = a_network(3), dsr(30, 1e-6), []
    for _ in range(30):
        new = method.step(state, 0.3)
        gone.append(sum(int((m & ~new[n]).sum()) for n, m in state.masks.items()))
    assert gone[0] == 0
    assert 15 <= gone[-1] <= 60


def test_dsr_leaves_the_largest_weight_of_a_layer_and_full_layers_full():
    state = a_network(0)
    new = dsr(10, 1e9).step(state, 0.3)
    for n, m in state.masks.items():
        best = (state.weights[n].abs() * m).argmax()
        assert new[n].flatten()[best]
    full = {n: torch.ones_like(m) for n, m in state.masks.items()}
    new = dsr(10, 0.05).step(state._replace(masks=full), 0.3)
    assert all(m.all() for m in new.values())


def test_cosine():
    f = cosine(0.3, 100, every=1)
    assert [round(f(t), 12) for t in (0, 50, 100, 1000)] == [0.3, 0.15, 0, 0]
    assert abs(f(25) - 0.15 * (1 + math.sqrt(0.5))) < 1e-12
    some = cosine(0.3, 100, every=25)
    assert [t for t in range(1, 200) if some(t)] == [25, 50, 75]
    assert some(50) == f(50)


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
    methods = [STATIC, RIGL, SNFS, RIGL]
    nets = [models.mlp(SIZES, seed=seed) for seed in range(4)]
    keep = [random_masks(net, 0.8, seed=7) for net in nets]
    together = masks.stack(keep)
    stack = ensemble.stack(nets)
    optimizer = training.sgd(stack)
    rewire(optimizer, stack, together, methods, fraction=cosine(0.3, 30, every=5))
    training.fit(stack, train, epochs=4, optimizer=optimizer)
    for k, (net, alone, method) in enumerate(zip(nets, keep, methods, strict=True)):
        optimizer = training.sgd(net)
        start = copy.deepcopy(alone)
        rewire(optimizer, net, alone, method, fraction=cosine(0.3, 30, every=5))
        training.fit(net, train, epochs=4, optimizer=optimizer)
        for n, m in alone.items():
            assert torch.equal(m, together[n][k])
            assert (method is STATIC) == torch.equal(m, start[n])
        for n, p in net.named_parameters():
            assert torch.allclose(p, stack.get_parameter(n)[k], atol=1e-4)


def test_every_member_keeps_its_total_its_zeros_and_its_momentum_clean(train):
    seen = []

    def spy(method):
        def spied(state, fraction):
            new = method.step(state, fraction)
            momenta = {n: m.clone() for n, m in state.momenta.items()}
            fresh = {n: new[n] & ~m for n, m in state.masks.items()}
            seen.append((sum(active(new).values()), fresh, momenta))
            return new

        return Method(spied)

    methods = [spy(SET), spy(RIGL), spy(dsr(40, 0.02)), STATIC]
    stack = ensemble.stack([models.mlp(SIZES, seed=0)] * 4)
    keep = masks.stack([random_masks(models.mlp(SIZES), 0.8)] * 4)
    total = sum(int(m[0].sum()) for m in keep.values())
    optimizer = training.sgd(stack)
    rewire(optimizer, stack, keep, methods, fraction=every(4))
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
    assert all(had)  # what was grown had momentum, and has none state
    assert len(seen) == 3 * 5
    assert {n for n, _, _ in seen} == {total}
    assert all(int(m[k].sum()) > 0 for m in keep.values() for k in range(4))


def test_snfs_leaves_a_grown_weight_its_momentum(train):
    net = models.mlp(SIZES, seed=0)
    keep = random_masks(net, 0.8)
    optimizer = training.sgd(net)
    before = copy.deepcopy(keep)
    rewire(optimizer, net, keep, SNFS, fraction=every(10))
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
        rewire(optimizer, stack, keep, [SET] * 2, fraction=cosine(0.3, 9, every=5), seed=seed)
        training.fit(stack, train, epochs=1, optimizer=optimizer)
        found.append(keep["fc1.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0][0], found[0][1])


def test_a_removed_handle_ends_moves_and_hold(train):
    net = models.mlp(SIZES)
    keep = random_masks(net, 0.8)
    optimizer = training.sgd(net)
    handle = rewire(optimizer, net, keep, SET, fraction=every(3))
    training.fit(net, train, epochs=1, optimizer=optimizer)
    for n, m in keep.items():
        assert not net.get_parameter(n)[~m].any()
    handle.remove()
    there = copy.deepcopy(keep)
    again = masks.hold(optimizer, net, keep)  # the moves have ended
    training.fit(net, train, epochs=1, optimizer=optimizer)
    for n, m in keep.items():
        assert torch.equal(m, there[n])
        assert not net.get_parameter(n)[~m].any()
    again.remove()
    training.fit(net, train, epochs=1, optimizer=optimizer)
    assert all((net.get_parameter(n)[~m] != 0).any() for n, m in keep.items())


@pytest.mark.parametrize("seed", range(3))
def test_growth_is_not_drawn_from_the_numbers_of_the_start(seed):
    """With one seed for both, the places just dropped would be the best again: nothing would move."""
    net = models.mlp(SIZES)
    keep = random_masks(net, 0.8, seed=seed)
    before, optimizer = copy.deepcopy(keep), training.sgd(net)
    rewire(optimizer, net, keep, SET, fraction=every(1), seed=seed)
    optimizer.step()
    dropped = int((before["fc1.weight"] & ~keep["fc1.weight"]).sum())
    # 352 go and 5,056 places are free: about 25 return, and never 100 (error rate below 1e-30).
    assert dropped > 252


# optimizers


def batches(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.rand(20, 196, generator=g), torch.randint(10, (20,), generator=g)


BUILD = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "SGD, fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
}


@pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)
@pytest.mark.parametrize("how", ["positional", "by name"])
def test_a_closure_changes_nothing(build, how):
    """The same masks and weights with step(closure) as with gradients computed before step()."""
    found = []
    for closed in (False, True):
        net = models.mlp(SIZES, seed=0)
        optimizer, keep = build(net.parameters()), random_masks(net, 0.8)
        rewire(optimizer, net, keep, RIGL, fraction=every(3))
        path = [copy.deepcopy(keep["fc1.weight"])]
        for x, y in batches(7):
            calls = []

            def closure(x=x, y=y, net=net, optimizer=optimizer, calls=calls):
                calls.append(None)
                optimizer.zero_grad()
                loss = F.cross_entropy(net(x), y)
                loss.backward()
                return loss

            if closed:
                given = {"closure": closure} if how == "by name" else {}
                loss = optimizer.step(**given) if given else optimizer.step(closure)
                assert loss.item() > 0 and len(calls) == 1
            else:
                closure()
                optimizer.step()
            path.append(keep["fc1.weight"].clone())
        found.append((path, [p.detach() for p in net.parameters()]))
    (masks_a, a), (masks_b, b) = found
    assert all(torch.equal(x, y) for x, y in zip(masks_a, masks_b, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(masks_a[2], masks_a[3]) and torch.equal(masks_a[1], masks_a[2])


@pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)
def test_a_move_takes_the_place_of_the_step_in_every_group(build):
    net = models.mlp(SIZES, seed=0)
    weights = [p for n, p in net.named_parameters() if "weight" in n]
    biases = [p for n, p in net.named_parameters() if "bias" in n]
    net.fc2.bias.requires_grad_(False)  # frozen, and not masked: no obstacle
    optimizer, keep = build([{"params": weights}, {"params": biases}]), random_masks(net, 0.8)
    rewire(optimizer, net, keep, RIGL, fraction=every(2))
    for t, (x, y) in enumerate(batches(4), start=1):
        before, mask = copy.deepcopy(net.state_dict()), copy.deepcopy(keep)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        moved = not torch.equal(mask["fc1.weight"], keep["fc1.weight"])
        assert moved == (t % 2 == 0)
        for n, p in net.named_parameters():
            was = before[n] * keep[n] if n in keep else before[n]
            assert n == "fc2.bias" or torch.equal(p, was) == moved


def test_a_grad_scaler_moves_as_without_and_skips_where_it_skips():
    def run(scaled, fused, overflow=False):
        net = models.mlp(SIZES, seed=0)
        optimizer, keep = training.sgd(net), random_masks(net, 0.8)
        if not fused:
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        rewire(optimizer, net, keep, RIGL, fraction=every(3))
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=scaled)
        for t, (x, y) in enumerate(batches(6), start=1):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y) * (torch.inf if overflow and t == 3 else 1)
            scaler.scale(loss).backward()
            before = copy.deepcopy(keep)
            scaler.step(optimizer)
            scaler.update()
            if overflow and t == 3:
                assert all(torch.equal(m, before[n]) for n, m in keep.items())
        return keep, net

    for fused in (False, True):
        (plain, a), (scaled, b) = run(False, fused), run(True, fused)
        assert all(torch.equal(m, scaled[n]) for n, m in plain.items())
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        keep, net = run(True, fused, overflow=True)
        for n, m in keep.items():
            assert not net.get_parameter(n)[~m].any() and net.get_parameter(n).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_other_precisions_move_too(dtype, name):
    net = models.mlp(SIZES, seed=0).to(dtype)
    keep = {n: m.clone() for n, m in random_masks(net, 0.8).items()}
    total, start = sum(active(keep).values()), copy.deepcopy(keep)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    method = dsr(40, 0.05) if name == "DSR" else METHODS[name]
    rewire(optimizer, net, keep, method, fraction=every(2))
    for x, y in batches(4):
        optimizer.zero_grad()
        F.cross_entropy(net(x.to(dtype)).float(), y).backward()
        optimizer.step()
    assert sum(active(keep).values()) == total
    assert any(not torch.equal(m, start[n]) for n, m in keep.items())
    assert all(not net.get_parameter(n)[~m].any() for n, m in keep.items())
    assert all(p.dtype == dtype for p in net.parameters())


def test_tied_weights_move_once():
    net = models.mlp((20, 20, 20, 10))
    net.fc2.weight = net.fc1.weight
    keep = random_masks(net, 0.5)
    assert list(keep) == ["fc1.weight", "fc3.weight"]
    optimizer = training.sgd(net)
    rewire(optimizer, net, keep, RIGL, fraction=every(2))
    for x, y in batches(4):
        optimizer.zero_grad()
        F.cross_entropy(net(x[:, :20]), y).backward()
        optimizer.step()
    assert net.fc2.weight is net.fc1.weight
    assert not net.fc2.weight[~keep["fc1.weight"]].any()


def test_what_cannot_move_is_refused_by_name_and_nothing_changes():
    net = models.mlp(SIZES)
    keep, was = random_masks(net, 0.8), copy.deepcopy(net.state_dict())
    lbfgs = torch.optim.LBFGS(net.parameters())
    with pytest.raises(TypeError, match="weight by weight, got LBFGS"):
        rewire(lbfgs, net, keep, RIGL, fraction=every(2))
    net.fc2.weight.requires_grad_(False)
    for method in (RIGL, SET, STATIC):
        optimizer = training.sgd(net)
        with pytest.raises(ValueError, match="'fc2.weight', which is frozen"):
            rewire(optimizer, net, keep, method, fraction=every(2))
        assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert all(torch.equal(v, was[n]) for n, v in net.state_dict().items())


def test_a_weight_without_a_gradient_is_named_by_those_that_need_one():
    x, y = next(batches(1))
    for method in (RIGL, SET):
        net = models.mlp(SIZES)
        keep = random_masks(net, 0.8)
        was, optimizer = copy.deepcopy(keep), training.sgd(net)
        rewire(optimizer, net, keep, method, fraction=every(1))
        optimizer.zero_grad()
        F.cross_entropy(net.fc2(net.fc1(x).relu()), y).backward()  # fc3 is not used
        if method is RIGL:
            with pytest.raises(ValueError, match="'fc3.weight' has none"):
                optimizer.step()
            assert all(torch.equal(m, was[n]) for n, m in keep.items())
        else:
            optimizer.step()
            assert any(not torch.equal(m, was[n]) for n, m in keep.items())


@pytest.mark.parametrize("wrong", [1.5, -0.1, math.nan])
def test_a_fraction_outside_0_and_1_is_named(wrong):
    net = models.mlp(SIZES)
    keep, optimizer = random_masks(net, 0.8), training.sgd(net)
    rewire(optimizer, net, keep, SET, fraction=lambda t: wrong)
    with pytest.raises(ValueError, match="fraction's value must be in"):
        optimizer.step()


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
    for alpha, end, often, words in (
        (1.1, 10, 1, "alpha must be in"),
        (-0.1, 10, 1, "alpha must be in"),
        (0.3, 0, 1, "end must be a positive integer, got 0"),
        (0.3, 10, 0, "every must be a positive integer, got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            cosine(alpha, end, every=often)
    for target, threshold, words in (
        (0, 0.1, "target must be a positive"),
        (5, 0.0, "threshold must be positive"),
        (5, math.nan, "threshold must be positive"),
    ):
        with pytest.raises(ValueError, match=words):
            dsr(target, threshold)
    with pytest.raises(TypeError, match="threshold must be a number, got '0.1'"):
        dsr(5, "0.1")
    for sparse, part in ((2, 0), (-1, 0), (1, 1.5)):
        with pytest.raises(ValueError, match="dense_gradients"):
            training_macs(sparse, 1, dense_gradients=part)
    net = models.mlp(SIZES)
    keep, was = random_masks(net, 0.8), copy.deepcopy(net.state_dict())
    optimizer = training.sgd(net)
    for methods in ([SET] * 2, [set_step], ["set"]):
        with pytest.raises(ValueError, match="methods must hold a Method for each of 1 networks"):
            rewire(optimizer, net, keep, methods, fraction=cosine(0.3, 9))
    with pytest.raises(ValueError, match="for each of 3 networks"):
        stack = ensemble.stack([net] * 3)
        rewire(training.sgd(stack), stack, masks.stack([keep] * 3), SET, fraction=cosine(0.3, 9))
    assert all(torch.equal(v, was[n]) for n, v in net.state_dict().items())
    assert not optimizer._optimizer_step_pre_hooks
    plain, was = torch.optim.SGD(net.parameters(), lr=0.1), copy.deepcopy(keep)
    rewire(plain, net, keep, SNFS, fraction=cosine(0.3, 9, every=1))
    F.cross_entropy(net(torch.rand(5, 196)), torch.arange(5)).backward()
    with pytest.raises(ValueError, match="SGD with momentum"):
        plain.step()
    assert all(torch.equal(m, was[n]) for n, m in keep.items())
