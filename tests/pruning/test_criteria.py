"""Scores: scope, oracles, the model left alone, errors."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import layers, models
from course_lib.pruning import criteria, masks


def test_scope_is_the_weights_of_linear_and_convolution_layers():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.ConvTranspose2d(4, 2, 2),
        nn.Flatten(),
        nn.Linear(8, 2),
        nn.Embedding(3, 2),
    )
    assert list(criteria.magnitude(model)) == ["0.weight", "2.weight", "3.weight", "5.weight"]
    assert list(criteria.magnitude(nn.Linear(3, 2))) == ["weight"]


def test_magnitude_is_numpys_absolute_value_and_leaves_the_model_alone():
    net = models.lenet5(width=0.1)
    before = copy.deepcopy(net.state_dict())
    for name, score in criteria.magnitude(net).items():
        assert (score.numpy() == abs(net.get_parameter(name).detach().numpy())).all()
        assert not score.requires_grad
        score.zero_()
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())


def test_random_follows_its_seed_only():
    a, b = models.mlp(seed=0), models.mlp(seed=1)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, two, three = (criteria.random(m, seed=s) for m, s in ((a, 4), (b, 4), (a, 5)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert not torch.equal(one["fc1.weight"], three["fc1.weight"])
    flat = torch.cat([s.flatten() for s in one.values()])
    # Mean of 25,100 uniform numbers: sd 0.0018. Fixed seed; wrong draws would miss by far more.
    assert flat.mean().item() == pytest.approx(0.5, abs=0.01) and 0 <= flat.min() < flat.max() < 1


@pytest.mark.parametrize("score", [criteria.magnitude, lambda m: criteria.random(m, seed=0)])
def test_errors_name_the_layer(score):
    with pytest.raises(ValueError, match="model must have a linear or convolution layer, got ReLU"):
        score(nn.ReLU())
    net = models.mlp((3, 4, 2))
    with torch.no_grad():
        net.fc2.weight[0, :2] = torch.nan
    with pytest.raises(ValueError, match="model has 2 NaN weights in 'fc2.weight'"):
        score(net)


# ---- scores that look at the loss or at the paths

X = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 10
BATCH = (X, Y)


def nets():
    """An MLP, a CNN and a CNN with batch norm, in float64, with biases that are not zero."""
    normed = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10)
    )
    for k, net in enumerate((models.mlp((64, 7, 10)), models.small_cnn(size=8, width=0.2), normed)):
        generator = torch.Generator().manual_seed(k)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        yield net.double()


def every_other(net):
    return {
        n: (torch.arange(w.numel()) % 2 == 0).view(w.shape) for n, w in layers.weights(net).items()
    }


SCORED = {
    "snip": lambda net, **k: criteria.snip(net, BATCH, **k),
    "taylor": lambda net, **k: criteria.taylor(net, BATCH, **k),
    "synflow": lambda net, **k: criteria.synflow(net, (1, 8, 8), **k),
}


@pytest.mark.parametrize("net", list(nets()))
def test_snip_is_the_gradient_of_an_explicit_mask(net):
    net.eval()
    c = {n: torch.ones_like(w, requires_grad=True) for n, w in layers.weights(net).items()}
    masked = {n: c[n] * net.get_parameter(n).detach() for n in c}
    F.cross_entropy(torch.func.functional_call(net, masked, (X,)), Y).backward()
    for name, score in criteria.snip(net, BATCH).items():
        assert torch.equal(score, c[name].grad.abs())
        assert not score.requires_grad


def test_snip_is_a_central_difference():
    net = next(nets())
    score = criteria.snip(net, BATCH, F.cross_entropy)["fc1.weight"]
    weight, step = net.fc1.weight.data, 1e-5
    for index in ((0, 0), (3, 17), (6, 63)):
        kept, loss = weight[index].item(), []
        for sign in (1, -1):
            weight[index] = kept * (1 + sign * step)
            loss.append(F.cross_entropy(net(X), Y).item())
        weight[index] = kept
        expected = abs(loss[0] - loss[1]) / (2 * step)
        assert score[index].item() == pytest.approx(expected, rel=1e-6)


def test_taylor_is_the_squared_change_where_the_loss_is_linear_in_each_weight():
    net = models.mlp((64, 7, 10)).double()
    net.relu1 = nn.Identity()

    def total(out, _):
        return out.sum()

    base = net(X).sum().item()
    for name, score in criteria.taylor(net, BATCH, total).items():
        weight = net.get_parameter(name).data
        for index in ((0, 0), (4, 5), (6, 6)):
            kept, weight[index] = weight[index].item(), 0
            change = base - net(X).sum().item()
            weight[index] = kept
            assert score[index].item() == pytest.approx(change**2, rel=1e-9, abs=1e-20)


@pytest.mark.parametrize("net", list(nets()))
def test_taylor_ranks_as_snip_on_one_batch(net):
    snip, taylor = criteria.snip(net, BATCH), criteria.taylor(net, BATCH)
    assert all(torch.allclose(taylor[n], snip[n] ** 2, rtol=1e-12, atol=0) for n in snip)


def test_synflow_adds_up_the_paths():
    net = models.mlp((2, 2, 2), seed=3)
    w1, w2 = (net.get_parameter(f"fc{k}.weight").detach().double() for k in (1, 2))
    first, second = torch.zeros(2, 2).double(), torch.zeros(2, 2).double()
    for i in range(2):
        for j in range(2):
            for k in range(2):
                path = w1[j, i].abs() * w2[k, j].abs()
                first[j, i] += path
                second[k, j] += path
    score = criteria.synflow(net, (2,))
    assert score["fc1.weight"].dtype == torch.float64
    assert torch.allclose(score["fc1.weight"], first, rtol=1e-14)
    assert torch.allclose(score["fc2.weight"], second, rtol=1e-14)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (models.mlp((196, 30, 300, 20, 10)), (1, 14, 14)),
        (models.lenet5(width=0.3), (1, 28, 28)),
        (models.small_cnn(), (1, 14, 14)),
    ],
)
def test_synflow_gives_every_layer_the_same_sum(net, shape):
    sums = [s.sum().item() for s in criteria.synflow(net, shape).values()]
    assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-12)


def test_synflow_survives_where_float32_does_not():
    net = models.mlp((4, 4, 4, 4))
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(1e30)
    with torch.no_grad():
        assert net(torch.ones(1, 4)).isinf().all()
    assert all(s.isfinite().all() for s in criteria.synflow(net, (4,)).values())


def test_synflow_biases_add_flow_by_their_absolute_value():
    net = models.mlp((2, 2, 1))
    with torch.no_grad():
        net.fc1.weight.copy_(torch.tensor([[1.0, -2], [3, 4]]))
        net.fc1.bias.copy_(torch.tensor([-5.0, 0]))
        net.fc2.weight.copy_(torch.tensor([[-2.0, 1]]))
    score = criteria.synflow(net, (2,))
    assert score["fc1.weight"].tolist() == [[2, 4], [3, 4]]
    assert score["fc2.weight"].tolist() == [[2 * (1 + 2 + 5), 7]]


@pytest.mark.parametrize("score", SCORED.values(), ids=SCORED)
@pytest.mark.parametrize("net", list(nets()))
def test_within_scores_the_masked_network_and_keeps_the_removed_lowest(score, net):
    keep = every_other(net)
    masked = copy.deepcopy(net)
    masks.apply(masked, keep)
    expected, got = score(masked), score(net, within=keep)
    for name, mask in keep.items():
        assert torch.equal(got[name][mask], expected[name][mask])
        assert (got[name][~mask] == -torch.inf).all()
    part = {name: mask for name, mask in list(keep.items())[:1]}
    assert score(net, within=part)[list(keep)[1]].isfinite().all()


@pytest.mark.parametrize("score", SCORED.values(), ids=SCORED)
@pytest.mark.parametrize("net", list(nets()))
def test_scores_leave_the_model_its_gradients_and_its_modes_alone(score, net):
    net.train()
    net[1].eval()
    before = copy.deepcopy(net.state_dict())
    modes = [m.training for m in net.modules()]
    for s in score(net, within=every_other(net)).values():
        s.zero_()
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("score", SCORED.values(), ids=SCORED)
def test_data_driven_scores_name_what_is_wrong_and_restore_the_mode(score):
    net = next(nets())
    net.train()
    with pytest.raises(
        ValueError, match=r"within names 'fc1.bias', which is not among .*scored.*: fc1.weight"
    ):
        score(net, within={"fc1.bias": torch.ones(7, dtype=torch.bool)})
    with pytest.raises(TypeError, match=r"within\['fc1.weight'\] must be a torch.bool tensor"):
        score(net, within={"fc1.weight": torch.ones(7, 64)})
    with pytest.raises(ValueError, match=r"within\['fc1.weight'\] must have shape \(7, 64\)"):
        score(net, within={"fc1.weight": torch.ones(7, 6, dtype=torch.bool)})
    with pytest.raises(ValueError, match="got ReLU without one"):
        score(nn.ReLU())
    assert net.training


@pytest.mark.parametrize("score", [criteria.snip, criteria.taylor])
def test_losses_and_batches_are_checked(score):
    net = next(nets())
    with pytest.raises(ValueError, match="as many inputs as targets, at least one, got 12 and 3"):
        score(net, (X, Y[:3]))
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        score(net, (X[:0], Y[:0]))
    with pytest.raises(ValueError, match="loss must be finite on batch, got nan"):
        score(net, (X * torch.nan, Y))
    with pytest.raises(ValueError, match=r"loss must give one number, got shape \(12,\)"):
        score(net, BATCH, lambda out, y: F.cross_entropy(out, y, reduction="none"))
    assert net.training


def test_synflow_refuses_a_flow_beyond_float64():
    net = models.mlp((2, 2, 2)).double()
    with torch.no_grad():
        net.fc1.weight.fill_(1e200)
        net.fc2.weight.fill_(1e200)
    with pytest.raises(ValueError, match="finite flow in float64, got inf"):
        criteria.synflow(net, (2,))
