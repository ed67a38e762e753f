"""Scores: scope, oracles, the model left alone, errors."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from course_lib import layers, models, parametrized
from course_lib.pruning import criteria, masks, second_order


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
    with pytest.raises(ValueError, match="'fc2.weight' must be finite, got 2 NaN"):
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


# ---- awkward models: the right scores, or a refusal by name, and the model as it was

SMALL = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3
ALL = {
    "magnitude": lambda net: criteria.magnitude(net),
    "random": lambda net: criteria.random(net, seed=0),
    "snip": lambda net: criteria.snip(net, SMALL),
    "taylor": lambda net: criteria.taylor(net, SMALL),
    "synflow": lambda net: criteria.synflow(net, (4,)),
    "obd": lambda net: second_order.obd(net, SMALL, weight_decay=10.0),
    "obs": lambda net: second_order.obs(net, SMALL, weight_decay=10.0),
    "obs_prune": lambda net: second_order.obs_prune(net, SMALL, 0.5, weight_decay=10.0)[1],
}
GRADIENT = ["snip", "taylor", "obd", "obs"]


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))


def unchanged(net, before, modes):
    state = net.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[n], t) and state[n].dtype == t.dtype for n, t in before.items())
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())


def snapshot(net):
    return copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]


def quantised():
    return parametrized.attach(plain(), lambda w: (8 * w).round() / 8)


def pruned_by_torch():
    net = plain()
    prune.l1_unstructured(net[2], "weight", amount=0.3)
    return net


def old_weight_norm():
    net = plain()
    nn.utils.weight_norm(net[2])
    return net


def weight_normed():
    net = plain()
    parametrizations.weight_norm(net[2])
    return net


@pytest.mark.parametrize("score", ALL)
@pytest.mark.parametrize("build", [quantised, pruned_by_torch, old_weight_norm, weight_normed])
def test_weights_that_are_not_plain_parameters_are_refused_by_name(build, score):
    net = build()
    before, modes = snapshot(net)
    with pytest.raises(ValueError, match="model must hold plain weights, but .*'[02]'"):
        ALL[score](net)
    unchanged(net, before, modes)


@pytest.mark.parametrize("score", ALL)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value, score):
    net = plain()
    with torch.no_grad():
        net[2].weight[0, 0] = value
    with pytest.raises(ValueError, match="'2.weight' must be finite, got 1"):
        ALL[score](net)


@pytest.mark.parametrize("score", ALL)
def test_a_parametrised_bias_is_no_obstacle_and_the_model_stays(score):
    net = plain()
    parametrize.register_parametrization(net[0], "bias", nn.Tanh())
    expected = plain()
    with torch.no_grad():
        expected[0].bias.copy_(net[0].bias)
    before, modes = snapshot(net)
    got = ALL[score](net)
    unchanged(net, before, modes)
    if score in ("magnitude", "random", "snip", "taylor"):
        assert all(torch.equal(got[n], t) for n, t in ALL[score](expected).items())


@pytest.mark.parametrize("score", ["snip", "taylor", "synflow", "obd"])
def test_a_tied_weight_is_scored_once_with_the_gradient_of_all_its_uses(score):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3)).double()
    net[2].weight = net[0].weight
    batch = SMALL[0].double(), SMALL[1]

    def run(model):
        if score == "synflow":
            return criteria.synflow(model, (4,))
        return (second_order.obd if score == "obd" else getattr(criteria, score))(model, batch)

    before, modes = snapshot(net)
    got = run(net)
    assert list(got) == ["0.weight", "3.weight"] and net[2].weight is net[0].weight
    unchanged(net, before, modes)

    def total(scale):
        """The loss, or the flow, as a function of one number that multiplies the tied weight."""
        model = copy.deepcopy(net)
        with torch.no_grad():
            model[0].weight.mul_(scale)  # all at once: the sum of w · ∂L/∂w over the weights
            if score == "synflow":
                for p in model.parameters():
                    p.abs_()
                return model(torch.ones(1, 4).double()).sum().item()
            return F.cross_entropy(model(batch[0]), batch[1]).item()

    if score == "synflow":
        slope = (total(1 + 1e-5) - total(1 - 1e-5)) / 2e-5
        assert got["0.weight"].sum().item() == pytest.approx(slope, rel=1e-8)
    else:  # each weight by itself: central differences
        weight = net[0].weight.data
        for index in ((0, 0), (1, 3), (2, 2)):
            step, kept, loss = 1e-4, weight[index].item(), []
            for k in (-1, 0, 1):
                weight[index] = kept + k * step
                loss.append(total(1))
            weight[index] = kept
            slope, bend = (
                (loss[2] - loss[0]) / (2 * step),
                (loss[2] - 2 * loss[1] + loss[0]) / step**2,
            )
            expected = {
                "snip": abs(kept * slope), "taylor": (kept * slope) ** 2, "obd": bend * kept**2 / 2,
            }[score]  # fmt: skip
            assert got["0.weight"][index].item() == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("score", ["snip", "taylor", "synflow", "obd", "obs"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_or_better(dtype, score):
    net = plain().to(dtype)
    with torch.no_grad():
        net[2].weight.mul_(1e-3)  # squared gradients would be zero in float16
    before, modes = snapshot(net)
    got, expected = ALL[score](net), ALL[score](copy.deepcopy(net).float())
    unchanged(net, before, modes)
    for name, s in got.items():
        assert s.dtype == expected[name].dtype and torch.equal(s, expected[name])
    assert (got["2.weight"] != 0).any()


def test_half_inputs_and_half_buffers_are_taken_too():
    net = Twice().half().eval()
    x, y = SMALL
    expected = criteria.snip(copy.deepcopy(net).float(), (x.half().float(), y))
    for name, s in criteria.snip(net, (x.half(), y)).items():
        assert torch.equal(s, expected[name])
    assert net.norm.running_mean.dtype == torch.float16


def test_obs_prune_keeps_the_type_of_a_half_model():
    net = plain().to(torch.bfloat16)
    pruned, keep = second_order.obs_prune(net, SMALL, 0.5, weight_decay=10.0)
    assert all(p.dtype == torch.bfloat16 for p in pruned.parameters())
    assert all(not pruned.get_parameter(n)[~m].any() for n, m in keep.items())


@pytest.mark.parametrize("score", ["snip", "taylor", "synflow", "obd"])
def test_frozen_layers_are_scored_as_any_other_and_stay_frozen(score):
    net, same = plain(), plain()
    net[0].requires_grad_(False)
    got, expected = ALL[score](net), ALL[score](same)
    assert all(torch.equal(s, expected[n]) for n, s in got.items())
    assert not net[0].weight.requires_grad and net[2].weight.requires_grad


@pytest.mark.parametrize("score", ["obs", "obs_prune"])
def test_obs_moves_no_frozen_parameter(score):
    net = plain()
    net[0].bias.requires_grad_(False)
    with pytest.raises(ValueError, match="no frozen parameter, which OBS would move: '0.bias'"):
        ALL[score](net)


class Twice(nn.Module):
    """A layer called twice and by keyword, one that is never used, a norm, an optional argument."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.layer, self.idle, self.norm = nn.Linear(4, 4), nn.Linear(2, 2), nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x, gain=None):
        x = self.norm(self.layer(input=self.layer(x).relu()))
        return self.head(x if gain is None else gain * x)


@pytest.mark.parametrize("score", ["snip", "taylor", "synflow", "obd"])
def test_layers_used_twice_by_keyword_or_not_at_all(score):
    net = Twice()
    net.norm.running_mean.uniform_()
    net.train()
    before, modes = snapshot(net)
    got = ALL[score](net)
    unchanged(net, before, modes)  # the batch norm's statistics too
    decay = 10 if score == "obd" else 0  # the penalty's own curvature
    expected = decay / 2 * net.idle.weight.detach().square()
    torch.testing.assert_close(got["idle.weight"].to(expected.dtype), expected)
    assert got["layer.weight"].any()
    if score == "snip":
        net.eval()
        F.cross_entropy(net(SMALL[0]), SMALL[1]).backward()
        weight = net.layer.weight
        torch.testing.assert_close(got["layer.weight"], (weight * weight.grad).abs().detach())


@pytest.mark.parametrize("score", ALL)
def test_compiled_models_score_as_plain_ones_and_parallel_ones_are_refused(score):
    expected = ALL[score](plain())
    got = ALL[score](torch.compile(plain()))
    assert all(torch.equal(got["_orig_mod." + n], s) for n, s in expected.items())
    if score in ("magnitude", "random"):
        got = ALL[score](nn.DataParallel(plain()))
        assert all(torch.equal(got["module." + n], s) for n, s in expected.items())
    else:
        with pytest.raises(TypeError, match="network itself, model.module of DataParallel"):
            ALL[score](nn.DataParallel(plain()))


def test_integer_inputs():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3))
    batch = torch.randint(9, (6, 2)), SMALL[1]
    for score in (criteria.snip, second_order.obd):
        assert list(score(net, batch)) == ["2.weight"]
        got = score(copy.deepcopy(net).half(), batch)
        assert got["2.weight"].dtype == torch.float32 and got["2.weight"].any()


@pytest.mark.parametrize("scored", [torch.no_grad, torch.enable_grad])
def test_scores_do_not_depend_on_the_callers_gradient_mode(scored):
    expected = criteria.snip(plain(), SMALL)
    with scored():
        got = criteria.snip(plain(), SMALL)
    assert all(torch.equal(got[n], s) for n, s in expected.items())


@pytest.mark.parametrize("score", GRADIENT)
def test_batches_that_do_not_fit_are_named(score):
    call = getattr(criteria, score, None) or getattr(second_order, score)
    net = plain()
    before, modes = snapshot(net)
    x, y = SMALL
    for batch, words in (
        ((x[:, :3], y), r"batch must fit the model, which cannot be run on .*\(6, 3\)"),
        ((x.double(), y), "batch must fit the model.*float64"),
        ((x, y + 5), "batch must have targets that fit the loss"),
        ((x[:0], y[:0]), "at least one, got 0 and 0"),
        ((x, y, x), "batch must be a pair"),
        (x, "batch must be a pair"),
    ):
        with pytest.raises(ValueError, match=words):
            call(net, batch)
    for loss, words in (
        (lambda out, y: out, r"loss must give one number, got shape \(6, 3\)"),
        (lambda out, y: 1.0, "loss must give one number, got shape float"),
        (lambda out, y: out.square().sum().sqrt() * 0 + (0 * out.sum()).sqrt(), "finite"),
    ):
        with pytest.raises(ValueError, match=words):
            call(net, (x, y), loss)
    unchanged(net, before, modes)


def test_synflow_names_a_shape_that_does_not_fit():
    net = plain()
    for shape, words in (
        ((5,), r"input_shape must fit the model, which cannot be run on .*\(1, 5\)"),
        ((0,), r"input_shape must be positive integers.*\(0,\)"),
        (4, "input_shape must be positive integers.*got 4"),
        ((), "input_shape must be positive integers"),
        ((4.0,), "input_shape must be positive integers"),
    ):
        with pytest.raises(ValueError, match=words):
            criteria.synflow(net, shape)
    assert net[0].weight.dtype == torch.float32
    with pytest.raises(TypeError, match="seed must be an integer, got 0.5"):
        criteria.random(net, seed=0.5)


@pytest.mark.parametrize("kind", [nn.ConvTranspose2d, nn.Conv2d])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_of_all_kinds_give_synflow_one_sum(kind, groups):
    net = nn.Sequential(
        kind(2, 4, 3, groups=groups, bias=False), nn.ReLU(), kind(4, 2, 3, bias=False)
    )
    sums = [s.sum().item() for s in criteria.synflow(net, (2, 6, 6)).values()]
    assert sums[0] == pytest.approx(sums[1], rel=1e-12)
