"""Which layers count: every awkward kind is read right or refused by name."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from course_lib import layers, measure, models, training
from course_lib.compression import coding, quantization
from course_lib.pruning import bayesian, channels, criteria, gates, granularity, masks, penalties


def old_style(wrap, layer):
    with warnings.catch_warnings():  # deprecated, and still in use
        warnings.simplefilter("ignore")
        return wrap(layer)


HOOKED = {
    "torch's pruning": lambda: prune.l1_unstructured(nn.Linear(4, 3), "weight", 2),
    "old weight_norm": lambda: old_style(nn.utils.weight_norm, nn.Conv2d(2, 3, 3)),
    "old spectral_norm": lambda: nn.utils.spectral_norm(nn.Linear(4, 3)),
}


@pytest.mark.parametrize("kind", HOOKED)
def test_a_weight_that_a_hook_computes_is_refused_by_name(kind):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(HOOKED[kind]()))
    for call in (layers.weights, lambda m: layers.weighted(m, plain=True)):
        with pytest.raises(ValueError, match="'1.0' is computed by a forward hook"):
            call(model)
    assert list(layers.weighted(model)) == ["0", "1.0"]  # it counts where only its sizes are asked


@pytest.mark.parametrize("kind", HOOKED)
@pytest.mark.parametrize("ran", [False, True])
def test_a_model_that_torch_cannot_copy_is_refused_by_name(kind, ran):
    model = nn.Sequential(nn.Linear(4, 4), HOOKED[kind]())
    if ran:  # without a forward pass deepcopy would go through
        model[1](torch.randn(2, 2, 5, 5) if isinstance(model[1], nn.Conv2d) else torch.randn(2, 4))
    with pytest.raises(ValueError, match="weight of '1' is computed by a forward hook"):
        layers.copied(model)


def test_a_bias_that_a_hook_computes_is_refused_by_name():
    model = nn.Sequential(prune.random_unstructured(nn.Linear(4, 3), "bias", 1))
    with pytest.raises(ValueError, match="bias of '0' is computed by a forward hook"):
        layers.copied(model)


def test_a_copy_is_another_model_with_the_same_ties_and_modes():
    model = models.vgg()
    model.block1.eval()
    model.add_module("again", model.fc)
    copy = layers.copied(model)
    assert all(torch.equal(v, copy.state_dict()[k]) for k, v in model.state_dict().items())
    assert not {p.data_ptr() for p in model.parameters()} & {
        p.data_ptr() for p in copy.parameters()
    }
    assert copy.again is copy.fc
    assert [m.training for m in copy.modules()] == [m.training for m in model.modules()]


def test_a_parametrised_weight_is_refused_by_name():
    model = nn.Sequential(nn.ReLU(), parametrizations.weight_norm(nn.Linear(4, 3)))
    with pytest.raises(ValueError, match=r"that of '1' is parametrised: fold it"):
        layers.weights(model)


def test_a_lazy_layer_is_refused_by_name_until_it_has_a_shape():
    model = nn.Sequential(nn.Linear(4, 3), nn.LazyLinear(2))
    with pytest.raises(ValueError, match="'1' has seen no input yet"):
        layers.weighted(model)
    model(torch.zeros(1, 4))
    assert list(layers.weights(model)) == ["0.weight", "1.weight"]


def test_a_tied_weight_is_named_once_by_its_first_layer():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert list(layers.weights(model)) == ["0.weight", "1.weight"]
    assert list(layers.weighted(model)) == ["0", "1", "2"]  # three layers, two weights
    assert list(layers.weights(model)) == [
        n for n, _ in model.named_parameters() if n.endswith("weight")
    ]


def test_a_layer_under_two_names_is_one_layer():
    layer = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": layer, "b": nn.ReLU(), "c": layer})
    assert list(layers.weighted(model)) == ["a"] and list(layers.weights(model)) == ["a.weight"]
    assert list(layers.weights(layer)) == ["weight"]  # the model itself is a layer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(dtype, wrong):
    model = nn.Sequential(nn.Linear(4, 3), nn.Conv2d(2, 3, 3)).to(dtype).requires_grad_(False)
    assert list(layers.weights(model)) == ["0.weight", "1.weight"]
    model[1].weight[2, 1, 0, 2] = wrong
    with pytest.raises(ValueError, match=r"'1.weight' must be finite, got 1 NaN or .* of 54"):
        layers.weights(model)


def test_any_numbers_can_be_checked():
    for dtype in (torch.int64, torch.bool, torch.uint8, torch.complex64, torch.float16):
        layers.check_finite("x", torch.ones(3, 2).to(dtype))
    layers.check_finite("x", torch.zeros(0, 3))
    layers.check_finite("x", torch.tensor(torch.finfo(torch.float64).max, dtype=torch.float64))
    for places in (torch.zeros(5, 4).t(), torch.zeros(8, 9)[::2, ::3], torch.zeros(())):
        places.view_as(places)[(-1,) * places.dim()] = float("nan")
        with pytest.raises(ValueError, match="x must be finite, got 1 NaN"):
            layers.check_finite("x", places)
    with pytest.raises(ValueError, match="x must be finite, got 1 NaN"):
        layers.check_finite("x", torch.complex(torch.zeros(2), torch.tensor([0.0, float("inf")])))


@pytest.mark.parametrize("transposed", layers.TRANSPOSED)
@pytest.mark.parametrize("groups", [1, 2])
def test_outputs_come_first_and_go_back(transposed, groups):
    layer = transposed(4, 6, 3, groups=groups, bias=False)
    swapped = layers.outputs_first(layer, layer.weight)
    assert swapped.shape[:2] == (6, 4 // groups)
    assert torch.equal(layers.outputs_first(layer, swapped), layer.weight)
    # Oracle: a transposed convolution is the ordinary one with the kernel turned round.
    sides = layer.weight.dim() - 2
    plain = (F.conv1d, F.conv2d, F.conv3d)[sides - 1]
    turned = swapped.flip(tuple(range(2, 2 + sides)))
    x = torch.randn(2, 4, *[5] * sides)
    torch.testing.assert_close(layer(x), plain(x, turned, padding=2, groups=groups))


def test_a_weight_with_its_outputs_first_stays_as_it_is():
    weight = torch.zeros(3, 2)
    assert layers.outputs_first(nn.Linear(2, 3), weight) is weight


def test_a_layer_that_is_never_called_is_refused_by_name():
    layers.check_called(models.mlp())
    with pytest.raises(NotImplementedError, match=r"'self_attn.out_proj' without calling"):
        layers.check_called(nn.TransformerEncoderLayer(4, 2, 8))
    with pytest.raises(NotImplementedError, match=r"'out_proj' without calling"):
        layers.check_called(nn.MultiheadAttention(4, 2))


def test_tied_parameters_are_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
    layers.check_untied(model, model.parameters())
    layers.check_untied(model[0], model[0].parameters())
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match=r"no tied parameters, got '0.weight' tied to '2.weight'"):
        layers.check_untied(model, [model[2].weight])
    layers.check_untied(model, [model[0].bias, model[1].weight])
    again = nn.ModuleDict({"a": model[1], "b": model[1]})
    layers.check_untied(again, again.parameters(), twice=True)
    with pytest.raises(ValueError, match="'a.weight' tied to 'b.weight'"):
        layers.check_untied(again, again.parameters())


def test_only_half_precision_is_widened():
    for dtype in (torch.float16, torch.bfloat16):
        assert layers.at_least_float32(torch.ones(2, dtype=dtype)).dtype == torch.float32
    for dtype in (torch.float32, torch.float64, torch.int8):
        x = torch.ones(2, dtype=dtype)
        assert layers.at_least_float32(x) is x


def test_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match="model must have a linear or convolution layer, got ReLU"):
        layers.weights(nn.ReLU())


def test_a_linear_layer_that_stores_its_inputs_first_is_refused_by_name():
    class Conv1D(
        nn.Module
    ):  # as in the transformers library; tests/book/test_own_model.py uses theirs
        def __init__(self):
            super().__init__()
            self.nf, self.weight = 3, nn.Parameter(torch.ones(2, 3))

    with pytest.raises(ValueError, match=r"'1' is a Conv1D, which stores \(in, out\)"):
        layers.weights(nn.Sequential(nn.Linear(2, 2), Conv1D()))


@pytest.mark.parametrize(
    "call",
    [
        criteria.magnitude,
        lambda model: granularity.channels(model, {}, 0.5),
        penalties.bn_scales,
        gates.expected,
        bayesian.kl,
        measure.count_weights,
        measure.bytes_dense,
        coding.sizes,
        training.sgd,
        lambda model: quantization.ptq(model, 4),
        lambda model: masks.apply(model, {}),
        lambda model: channels.trace(model, torch.rand(1, 196)),
    ],
)
def test_what_is_no_model_is_refused_and_a_forgotten_call_is_named(call):
    with pytest.raises(TypeError, match=r"must be an nn.Module, got str$"):
        call("mlp")
    with pytest.raises(TypeError, match=r"must be an nn.Module, got function: call it, mlp\(…\)"):
        call(models.mlp)
