"""OBD and OBS: exact on quadratics, against linear solves, finite differences and XOR."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from course_lib import layers, models
from course_lib.pruning import allocate, criteria, masks, second_order


def half_squared_error(out, y):
    return (out - y).square().sum() / (2 * len(y))


def fitted(n_in=6, n_out=2, seed=0, decay=0.0):
    """A linear model at the minimum of its (quadratic) loss, by least squares, and its data."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(40, n_in, generator=g).double() @ torch.randn(n_in, n_in, generator=g).double()
    y = torch.randn(40, n_out, generator=g).double() + x[:, :n_out]
    ones = torch.cat([x, torch.ones(40, 1).double()], dim=1)  # (40, n_in + 1)
    gram = ones.T @ ones / 40 + decay * torch.eye(n_in + 1).double()
    solution = torch.linalg.solve(gram, ones.T @ y / 40).T  # (n_out, n_in + 1)
    model = nn.Linear(n_in, n_out).double()
    with torch.no_grad():
        model.weight.copy_(solution[:, :-1])
        model.bias.copy_(solution[:, -1])
    return model, (x, y)


def energy(model, batch, decay=0.0):
    with torch.no_grad():
        penalty = decay / 2 * parameters_to_vector(model.parameters()).square().sum()
        return (half_squared_error(model(batch[0]), batch[1]) + penalty).item()


def constrained_minimum(h, w, gone):
    """argmin ½ (v − w)ᵀ H (v − w) with v = 0 at ``gone``, by the linear system of its multipliers."""
    n, k = len(w), len(gone)
    e = torch.eye(n).double()[:, gone]  # (n, k)
    top = torch.cat([h, e], dim=1)
    bottom = torch.cat([e.T, torch.zeros(k, k).double()], dim=1)
    right = torch.cat([h @ w, torch.zeros(k).double()])
    return torch.linalg.solve(torch.cat([top, bottom]), right)[:n]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_obd_is_the_change_of_a_quadratic_loss(decay):
    model, batch = fitted(decay=decay)
    score = second_order.obd(model, batch, half_squared_error, weight_decay=decay)
    assert list(score) == ["weight"]
    base = energy(model, batch, decay)
    for index in torch.cartesian_prod(torch.arange(2), torch.arange(6)).tolist():
        cut = copy.deepcopy(model)
        cut.weight.data[tuple(index)] = 0
        change = energy(cut, batch, decay) - base
        assert score["weight"][tuple(index)].item() == pytest.approx(change, abs=1e-13)


def test_hessian_is_the_difference_of_gradients():
    model = models.mlp((3, 4, 2), seed=1).double()
    model.relu1 = nn.Tanh()
    g = torch.Generator().manual_seed(0)
    batch = (torch.randn(9, 3, generator=g).double(), torch.arange(9) % 2)
    h = second_order.hessian(model, batch, weight_decay=0.3)
    assert h.shape == (26, 26) and torch.allclose(h, h.T, atol=1e-14)
    w = parameters_to_vector(model.parameters()).detach()

    def gradient(v):
        nn.utils.vector_to_parameters(v, model.parameters())
        loss = F.cross_entropy(model(batch[0]), batch[1])
        return parameters_to_vector(torch.autograd.grad(loss, tuple(model.parameters()))) + 0.3 * v

    for q in range(26):
        step = torch.zeros(26).double()
        step[q] = 1e-5
        difference = (gradient(w + step) - gradient(w - step)) / 2e-5
        assert torch.allclose(h[q], difference, atol=1e-9)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_obs_is_the_constrained_minimum_of_a_quadratic(decay):
    model, batch = fitted(decay=decay)
    h = second_order.hessian(model, batch, half_squared_error, weight_decay=decay)
    inverse = second_order.inverse_at(h)
    w = parameters_to_vector(model.parameters()).detach()
    score = second_order.obs(model, batch, half_squared_error, weight_decay=decay)
    base = energy(model, batch, decay)
    for q in range(12):
        expected = constrained_minimum(h, w, [q])
        moved, _ = second_order.delete(w, inverse, q)
        assert moved[q] == 0 and torch.allclose(moved, expected, atol=1e-12)
        nn.utils.vector_to_parameters(expected, (cut := copy.deepcopy(model)).parameters())
        change = energy(cut, batch, decay) - base
        assert score["weight"].flatten()[q].item() == pytest.approx(change, abs=1e-12)


def test_deletions_one_after_another_are_one_constrained_minimum():
    model, batch = fitted(n_in=7, n_out=1, seed=2)
    h = second_order.hessian(model, batch, half_squared_error)
    start = parameters_to_vector(model.parameters()).detach()
    w, inverse = start, second_order.inverse_at(h)
    for gone in ([4], [4, 1], [4, 1, 6], [4, 1, 6, 0]):
        w, inverse = second_order.delete(w, inverse, gone[-1])
        left = [q for q in range(8) if q not in gone]
        assert torch.allclose(w, constrained_minimum(h, start, gone), atol=1e-11)
        block = torch.linalg.inv(h[left][:, left])
        assert torch.allclose(inverse[left][:, left], block, atol=1e-10)
        assert not inverse[gone].any() and not inverse[:, gone].any() and not w[gone].any()


def test_surgeon_deletes_what_a_greedy_search_with_refitting_deletes():
    """On least squares: try each weight, refit the others by a solve, take the cheapest, repeat."""
    model, batch = fitted(n_in=6, n_out=1, seed=3)
    h = second_order.hessian(model, batch, half_squared_error)
    start = parameters_to_vector(model.parameters()).detach()
    gone = []
    for count in range(1, 7):
        options = [q for q in range(6) if q not in gone]  # the bias, entry 6, is out of scope

        def cost(q, gone=gone):
            d = constrained_minimum(h, start, [*gone, q]) - start
            return (d @ h @ d).item()

        gone = [*gone, min(options, key=cost)]
        pruned, keep = second_order.obs_prune(model, batch, count / 6, loss=half_squared_error)
        assert (~keep["weight"]).flatten().nonzero().flatten().tolist() == sorted(gone)
        found = parameters_to_vector(pruned.parameters()).detach()
        assert torch.allclose(found, constrained_minimum(h, start, gone), atol=1e-10)


@pytest.mark.parametrize(("rows", "columns", "alpha"), [(50, 8, 1e-4), (5, 8, 1e-2), (1, 1, 1.0)])
def test_recursion_is_the_inverse(rows, columns, alpha):
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.linalg.inv(x.T @ x / rows + alpha * torch.eye(columns).double())
    got = second_order.inverse_by_recursion(x, alpha)
    assert torch.allclose(got, expected, rtol=1e-8, atol=1e-10)


def test_outer_products_are_the_hessian_of_a_perfect_fit():
    model = models.mlp((3, 3, 1), seed=2).double()
    model.relu1 = nn.Tanh()
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(1)).double()
    batch = (x, model(x).detach())  # no error is left
    rows = []
    for pattern in x:
        gradient = torch.autograd.grad(model(pattern[None]).sum(), tuple(model.parameters()))
        rows.append(parameters_to_vector(gradient))
    h = second_order.hessian(model, batch, half_squared_error, weight_decay=1e-3)
    inverse = second_order.inverse_by_recursion(torch.stack(rows), 1e-3)
    assert torch.allclose(inverse @ h, torch.eye(16).double(), atol=1e-9)


def xor_net(seed):
    """A 2-3-1 network, one hidden unit more than XOR needs, trained to a minimum."""
    x = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
    y = torch.tensor([[0.0], [1], [1], [0]], dtype=torch.float64)
    model = models.mlp((2, 3, 1), seed=seed).double()
    model.relu1 = nn.Tanh()
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=1000, tolerance_grad=1e-8, tolerance_change=0, line_search_fn="strong_wolfe"
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        w = parameters_to_vector(model.parameters())
        loss = F.binary_cross_entropy_with_logits(model(x), y) + 0.01 / 2 * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return model, (x, y)


def solves(model, batch):
    return torch.equal(model(batch[0]) > 0, batch[1] > 0.5)


def test_on_xor_obs_deletes_the_right_weights_and_magnitude_and_obd_the_wrong_ones():
    """Three of nine weights are superfluous. (Of 60 starts OBS found them in 60, the others in 0.)"""
    loss = F.binary_cross_entropy_with_logits
    for seed in range(5):
        model, batch = xor_net(seed)
        assert solves(model, batch)
        pruned, keep = second_order.obs_prune(model, batch, 3 / 9, loss=loss, weight_decay=0.01)
        assert sum(int((~m).sum()) for m in keep.values()) == 3
        assert solves(pruned, batch)
        for score in (
            criteria.magnitude(model),
            second_order.obd(model, batch, loss, weight_decay=0.01),
        ):
            cut = copy.deepcopy(model)
            masks.apply(cut, allocate.globally(score, 3 / 9))
            assert not solves(cut, batch)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_energy_is_the_loss_of_the_model_with_those_parameters(decay):
    model, batch = fitted(decay=decay)
    model.train()
    other = copy.deepcopy(model)
    w = torch.linspace(-1, 1, 14).double()
    vector_to_parameters(w, other.parameters())
    loss = second_order.energy(model, batch, half_squared_error, weight_decay=decay)
    assert loss(w).item() == pytest.approx(energy(other, batch, decay), rel=1e-12)
    assert model.training and torch.equal(model.weight, fitted(decay=decay)[0].weight)


def test_energy_runs_in_evaluation_mode_and_refuses_what_has_no_weights():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.9)).double().train()
    batch = (torch.ones(1, 2).double(), torch.zeros(1, 2).double())
    loss = second_order.energy(model, batch, half_squared_error)
    w = torch.ones(6).double()
    assert loss(w) == loss(w) == 9
    with pytest.raises(ValueError, match="got ReLU without one"):
        second_order.energy(nn.ReLU(), batch)


def test_minimise_finds_the_minimum_and_that_of_the_free_entries():
    hilbert = 1 / (torch.arange(4)[:, None] + torch.arange(4) + 1).double()
    h = hilbert + 0.01 * torch.eye(4).double()
    target, start = torch.tensor([1.0, -2, 3, 4]).double(), torch.ones(4).double()

    def bowl(w):
        return (w - target) @ h @ (w - target) / 2

    torch.testing.assert_close(
        second_order.minimise(bowl, start), target, atol=2e-3, rtol=0
    )  # the gradient is below 1e-5, the smallest curvature 0.01
    free = torch.tensor([True, True, False, True])
    found = second_order.minimise(bowl, start * torch.tensor([1, 1, 0, 1]), free=free)
    expected = constrained_minimum(h, target, [2])
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    assert found[2] == 0 and torch.equal(start, torch.ones(4).double())
    assert (second_order.minimise(bowl, start, steps=1) - target).norm() > 0.1
    with pytest.raises(ValueError, match="free must have the shape of start"):
        second_order.minimise(bowl, start, free=free[:3])
    with pytest.raises(ValueError, match="steps must be a positive integer"):
        second_order.minimise(bowl, start, steps=0)


def test_a_floor_gives_any_hessian_an_inverse_and_leaves_a_good_one_as_it_is():
    saddle = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double()  # eigenvalues 3 and -1
    inverse = second_order.inverse_at(saddle, floor=0.5)
    lifted = saddle + 1.5 * torch.eye(2).double()
    torch.testing.assert_close(inverse @ lifted, torch.eye(2).double())
    good = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    torch.testing.assert_close(second_order.inverse_at(good, floor=0.5), torch.linalg.inv(good))
    with pytest.raises(ValueError, match="floor must be finite and not negative"):
        second_order.inverse_at(good, floor=-1.0)


def test_scope_is_the_weights_and_the_rest_moves_and_the_model_stays():
    model, batch = xor_net(0)
    model.train()
    before = copy.deepcopy(model.state_dict())
    pruned, keep = second_order.obs_prune(
        model, batch, 0.5, loss=F.binary_cross_entropy_with_logits, weight_decay=0.01
    )
    assert list(keep) == ["fc1.weight", "fc2.weight"]
    assert sum(int((~m).sum()) for m in keep.values()) == round(0.5 * 9)
    assert all(torch.equal(pruned.get_parameter(n) != 0, m) for n, m in keep.items())
    assert not torch.equal(pruned.fc1.bias, model.fc1.bias)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert model.training and all(
        p.grad is not None for p in model.parameters()
    )  # as LBFGS left it
    same, everything = second_order.obs_prune(
        model, batch, 0, loss=F.binary_cross_entropy_with_logits, weight_decay=0.01
    )
    assert all(torch.equal(before[n], t) for n, t in same.state_dict().items())
    assert all(m.all() for m in everything.values())


def test_of_equal_saliencies_the_later_goes():
    model = nn.Linear(4, 1).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.zero_()
    x = torch.cat([torch.eye(4), -torch.eye(4)]).double()  # H is a multiple of the identity
    _, keep = second_order.obs_prune(model, (x, model(x).detach()), 0.5, loss=half_squared_error)
    assert keep["weight"].tolist() == [[True, True, False, False]]


def test_bad_input_is_named():
    model, batch = fitted()
    with pytest.raises(ValueError, match="at most 5,000 parameters, got 25,260"):
        second_order.obd(models.mlp(), batch)
    with pytest.raises(ValueError, match="at least one, got 40 and 0"):
        second_order.obd(model, (batch[0], batch[1][:0]), half_squared_error)
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\].*got 1.5"):
        second_order.obs_prune(model, batch, 1.5, loss=half_squared_error)
    with pytest.raises(ValueError, match="got ReLU without one"):
        second_order.obs(nn.ReLU(), batch)
    with pytest.raises(ValueError, match="Hessian must be positive definite, but its smallest"):
        second_order.obs(model, batch, lambda out, y: -half_squared_error(out, y))
    with pytest.raises(ValueError, match="alpha positive, got shape"):
        second_order.inverse_by_recursion(batch[0], 0.0)


def everything_but(model, gone):
    keep = {n: torch.ones_like(w, dtype=torch.bool) for n, w in layers.weights(model).items()}
    keep["weight"].view(-1)[gone] = False
    return keep


@pytest.mark.parametrize("gone", [[0], [4, 1], [2, 5, 3]])
def test_within_scores_what_earlier_rounds_left(gone):
    """OBD: the change of the loss as the masked network loses one weight more. OBS: that of the
    constrained minimum, the removed ones staying at zero."""
    model, batch = fitted(n_in=6, n_out=1, seed=3)
    keep = everything_but(model, gone)
    cut = copy.deepcopy(model)
    masks.apply(cut, keep)
    # Away from the dense minimum: back to the minimum of what is left, as the expansion asks.
    h = second_order.hessian(model, batch, half_squared_error)
    w = parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(constrained_minimum(h, w, gone), cut.parameters())
    with torch.no_grad():
        cut.weight.view(-1)[gone] = 0
    given = copy.deepcopy(cut)
    with torch.no_grad():
        given.weight.view(-1)[gone] = 7.0  # under the mask: it must not matter
    base, start = energy(cut, batch), parameters_to_vector(cut.parameters()).detach()
    obd = second_order.obd(given, batch, half_squared_error, within=keep)["weight"].flatten()
    obs = second_order.obs(given, batch, half_squared_error, within=keep)["weight"].flatten()
    assert (obd[gone] == -torch.inf).all() and (obs[gone] == -torch.inf).all()
    for q in set(range(6)) - set(gone):
        one = copy.deepcopy(cut)
        one.weight.data.view(-1)[q] = 0
        assert obd[q].item() == pytest.approx(energy(one, batch) - base, abs=1e-12)
        moved = constrained_minimum(h, w, [*gone, q])
        nn.utils.vector_to_parameters(moved, one.parameters())
        assert obs[q].item() == pytest.approx(energy(one, batch) - base, abs=1e-12)
    assert start[gone].eq(0).all()


def test_pruning_in_two_rounds_is_pruning_in_one():
    model, batch = fitted(n_in=6, n_out=1, seed=3)
    once, keep = second_order.obs_prune(model, batch, 4 / 6, loss=half_squared_error)
    half, first = second_order.obs_prune(model, batch, 2 / 6, loss=half_squared_error)
    twice, second = second_order.obs_prune(
        half, batch, 4 / 6, loss=half_squared_error, within=first
    )
    assert torch.equal(keep["weight"], second["weight"])  # a quadratic: H stays what it was
    for p, q in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="keeps 5 of 6 weights, but within has only 4 left"):
        second_order.obs_prune(half, batch, 1 / 6, loss=half_squared_error, within=first)


def test_a_pruned_model_shares_nothing_with_the_given_one_and_ties_stay():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    model[2].weight = model[0].weight
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).double()
    before = copy.deepcopy(model.state_dict())
    pruned, keep = second_order.obs_prune(
        model, (x, x), 0.5, loss=half_squared_error, weight_decay=10.0
    )
    assert list(keep) == ["0.weight"] and pruned[2].weight is pruned[0].weight
    assert not pruned[0].weight[~keep["0.weight"]].any()
    with torch.no_grad():
        pruned[0].bias.fill_(9.0)
    assert not (pruned[2].bias == 9).any()  # each parameter has its own memory
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_a_weight_decay_that_is_none_is_named():
    model, batch = fitted()
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight_decay must be finite and >= 0"):
            second_order.obd(model, batch, half_squared_error, weight_decay=wrong)
