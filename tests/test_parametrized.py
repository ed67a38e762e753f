"""Maps of weights: attached and folded in again, on every awkward kind of layer."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from course_lib import ensemble, layers, models, parametrized
from course_lib.compression import binary, hashing, quantization


def rounded(weight):
    """Rows of (out, …), each scaled by its own largest magnitude: it matters which axis is out."""
    top = weight.detach().flatten(1).abs().amax(1).view(-1, *[1] * (weight.dim() - 1))
    return parametrized.straight_through(weight, (4 * weight / top).round() * top / 4)


def tied():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return model


def frozen():
    model = models.mlp((6, 5, 3))
    model.fc1.requires_grad_(False)
    return model


class Language(nn.Module):
    """An embedding whose table is the last layer's weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.embed((10 * x[:, 0]).long().clamp(0, 6)))


def twice():
    """One layer under two names, called twice."""
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer)


AWKWARD = {
    "plain": lambda: models.mlp((6, 5, 3)),
    "tied": tied,
    "tied to an embedding": Language,
    "under two names": twice,
    "frozen": frozen,
    "half": lambda: models.mlp((6, 5, 3)).half(),
    "bfloat16": lambda: models.mlp((6, 5, 3)).bfloat16(),
    "double": lambda: models.mlp((6, 5, 3)).double(),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(6, 4))), nn.Linear(4, 2)),
    "grouped": lambda: nn.Sequential(nn.Conv1d(6, 4, 1, groups=2), nn.Flatten()),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose1d(6, 4, 1), nn.Flatten()),
    "transposed, grouped": lambda: nn.Sequential(
        nn.ConvTranspose1d(6, 4, 1, groups=2), nn.Flatten()
    ),
    "evaluation": lambda: models.mlp((6, 5, 3)).eval(),
    "one layer": lambda: nn.Linear(6, 3),
    "compiled": lambda: torch.compile(models.mlp((6, 5, 3)), backend="eager"),
    "bias parametrised": lambda: nn.Sequential(
        parametrize.register_parametrization(nn.Linear(6, 3), "bias", nn.Tanh())
    ),
}
ATTACH = {
    "a function": lambda m: parametrized.attach(m, rounded),
    "quantization.qat": lambda m: quantization.qat(m, 3),
    "binary.sign": lambda m: parametrized.attach(m, binary.sign),
    "binary.ternary_weight": lambda m: parametrized.attach(m, binary.ternary_weight),
    "hashing.hashed": lambda m: hashing.hashed(m, 0.5),
}


def state(model):
    """All that must not change: numbers, dtypes, gradients wanted, modes, hooks, classes, ties."""
    tensors = {n: (t.clone(), t.dtype, t.stride()) for n, t in model.state_dict().items()}
    wanted = [(n, id(p), p.requires_grad) for n, p in model.named_parameters()]
    modules = [
        (n, type(m).__name__, m.training, len(m._forward_pre_hooks))
        for n, m in model.named_modules()
    ]
    return tensors, wanted, modules


def same(before, after):
    tensors = all(
        torch.equal(t, after[0][n][0]) and rest == list(after[0][n][1:])
        for n, (t, *rest) in before[0].items()
    )
    return tensors and before[0].keys() == after[0].keys() and before[1:] == after[1:]


def image(model):
    """An input for a network of six features."""
    dtype = next(p.dtype for p in model.parameters())
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    return (
        x.unsqueeze(2)
        if any(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules())
        else x
    )


@pytest.mark.parametrize("how", ATTACH)
@pytest.mark.parametrize("kind", AWKWARD)
def test_folding_gives_the_same_function_with_the_names_ties_and_modes_of_before(kind, how):
    model = AWKWARD[kind]()
    before, x = state(model), image(model)
    mapped = ATTACH[how](model)
    during = state(mapped)
    plain = parametrized.folded(mapped)
    assert same(before, state(model)) and same(during, state(mapped))
    assert torch.equal(plain(x), mapped(x))
    after = state(plain)
    assert [(n, wanted) for n, _, wanted in after[1]] == [(n, w) for n, _, w in before[1]]
    assert after[2] == before[2]  # modules, their classes and modes
    assert {n: t[1:] for n, t in after[0].items()} == {n: t[1:] for n, t in before[0].items()}
    assert not {id(p) for p in plain.parameters()} & {id(p) for p in mapped.parameters()}


@pytest.mark.parametrize("how", ATTACH)
@pytest.mark.parametrize("kind", ["tied", "tied to an embedding", "under two names"])
def test_a_tied_weight_is_mapped_once_and_trains_as_one(kind, how):
    model = AWKWARD[kind]()
    mapped = ATTACH[how](model)
    assert len(list(mapped.parameters())) == len(list(model.parameters()))
    mapped(image(model)).sum().backward()
    optimizer = torch.optim.SGD(mapped.parameters(), lr=0.1)
    optimizer.step()
    plain = parametrized.folded(mapped)
    assert len(list(plain.parameters())) == len(list(model.parameters()))
    assert torch.equal(plain(image(model)), mapped(image(model)))


@pytest.mark.parametrize("how", ATTACH)
def test_a_frozen_weight_stays_frozen_and_as_it_was(how):
    model = AWKWARD["frozen"]()
    mapped = ATTACH[how](model)
    behind = mapped.fc1.parametrizations.weight.original
    before = behind.clone()
    mapped(image(model)).sum().backward()
    torch.optim.SGD([p for p in mapped.parameters() if p.requires_grad], lr=0.1).step()
    assert behind.grad is None and torch.equal(behind, before)
    assert [p.requires_grad for p in parametrized.folded(mapped).parameters()] == [
        *(False, False, True, True)
    ]


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_mapped_by_its_outputs(groups):
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups)
    weight = parametrized.folded(parametrized.attach(layer, rounded)).weight
    assert weight.is_contiguous()
    for out in range(6):  # output `out` is column out % per of its group's rows, by the definition
        per, rows = 6 // groups, 4 // groups
        group = out // per
        mine = (slice(group * rows, (group + 1) * rows), out % per)
        top = layer.weight[mine].abs().max()
        torch.testing.assert_close(weight[mine], (4 * layer.weight[mine] / top).round() * top / 4)


def test_channels_last_stays():
    model = models.small_cnn().to(memory_format=torch.channels_last)
    for make in (lambda m: quantization.qat(m, 4), lambda m: parametrized.attach(m, rounded)):
        weight = parametrized.folded(make(model)).conv2.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_chain_of_two_is_folded_whole_and_other_parametrisations_stay():
    layer = nn.Linear(4, 3)
    parametrize.register_parametrization(layer, "weight", nn.Tanh())
    parametrize.register_parametrization(layer, "weight", nn.Softplus())
    parametrize.register_parametrization(layer, "bias", nn.Sigmoid())
    model, x = nn.Sequential(layer, nn.ReLU()), torch.randn(5, 4)
    plain = parametrized.folded(model)
    assert torch.equal(plain(x), model(x))
    assert not parametrize.is_parametrized(plain[0], "weight")
    assert parametrize.is_parametrized(plain[0], "bias")
    assert len(model[0].parametrizations.weight) == 2  # and the caller's is whole
    plain[0].bias  # noqa: B018
    model[0].weight  # noqa: B018


def test_torchs_weight_norm_folds_and_a_noisy_weight_folds_to_its_mean():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    assert torch.equal(parametrized.folded(model)[0].weight, model[0].weight)

    class Noise(nn.Module):
        def forward(self, weight):
            return weight + torch.randn_like(weight) if self.training else weight

    noisy = parametrized.attach(nn.Linear(4, 3), {"": Noise()})
    wanted, state = noisy.parametrizations.weight.original, torch.get_rng_state()
    assert torch.equal(parametrized.folded(noisy).weight, wanted)
    assert noisy.parametrizations.weight.training and torch.equal(state, torch.get_rng_state())


def test_maps_by_name_reach_only_the_layers_named():
    net = models.mlp((6, 5, 3))
    mapped = parametrized.attach(net, {"fc2": nn.Tanh()})
    assert torch.equal(mapped.fc2.weight, net.fc2.weight.tanh())
    assert not parametrize.is_parametrized(mapped.fc1)


def test_a_stack_of_mapped_transposed_convolutions_is_its_members():
    nets = [parametrized.attach(AWKWARD["transposed"](), rounded) for _ in range(3)]
    x = image(nets[0])
    out = ensemble.stack(nets)(x)
    for k, net in enumerate(nets):
        torch.testing.assert_close(out[k], net(x))


BAD = [
    (lambda: nn.Sequential(nn.ReLU()), rounded, "model must have a linear or convolution layer"),
    (lambda: quantization.qat(models.mlp(), 4), rounded, "'fc1' is parametrised: fold it first"),
    (lambda: models.mlp(), lambda w: w[:1], r"shape \(100, 196\) and torch.float32 for 'fc1'"),
    (lambda: models.mlp(), lambda w: w.double(), r"and torch.float32 for 'fc1'"),
    (lambda: models.mlp(), lambda w: w @ w, "maps must return a weight"),
    (lambda: models.mlp(), {"fc9": nn.Tanh()}, r"maps must name.*'fc3'\], got \['fc9'\]"),
    (lambda: nn.Sequential(prune.l1_unstructured(nn.Linear(4, 3), "weight", 2)), rounded,
     "'0' is computed by a forward hook"),
    (lambda: nn.LazyLinear(2), rounded, "has seen no input yet"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "maps", "words"), BAD)
def test_bad_input_is_refused_and_the_model_as_it_was(build, maps, words):
    model = build()
    before = {n: copy.copy(p) for n, p in model.named_parameters()}
    with pytest.raises(ValueError, match=words):
        parametrized.attach(model, maps)
    assert {n: id(p) for n, p in before.items()}.keys() == dict(model.named_parameters()).keys()


def test_numbers_that_are_not_finite_are_refused_by_name():
    net = models.mlp((6, 5, 3))
    net.fc2.weight.data[0, 0] = float("nan")
    for how in ATTACH.values():
        with pytest.raises(ValueError, match="'fc2.weight' must be finite, got 1 NaN"):
            how(net)


def test_folding_refuses_what_torch_pruned_by_name():
    model = nn.Sequential(prune.l1_unstructured(nn.Linear(4, 3), "weight", 2))
    with pytest.raises(ValueError, match="weight of '0' is computed by a forward hook"):
        parametrized.folded(model)
    assert list(layers.weighted(parametrized.folded(models.mlp()))) == ["fc1", "fc2", "fc3"]
