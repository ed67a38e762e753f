import copy
import io
import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from course_lib import data, ensemble, models, parametrized, training
from course_lib.compression import quantization
from course_lib.compression.quantization import affine, fake_quantize, levels, symmetric
from course_lib.pruning import layerwise


@pytest.fixture(scope="module")
def glyphs():
    return data.load("glyphs", n_train=600, n_test=300)


def numbers(*shape, seed=0, spread=3.0):
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# fake_quantize beside torch's.


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8, 12])
@pytest.mark.parametrize("scale", [0.0371, 0.25, 1.7])
def test_a_tensor_is_quantised_as_by_torch_to_the_bit(bits, signed, scale):
    low, high = levels(bits, signed=signed)
    for zero_point in {low, 0, (low + high) // 2, high}:
        ours = numbers(4096).requires_grad_()
        theirs = ours.detach().clone().requires_grad_()
        got = fake_quantize(ours, scale, zero_point, bits, signed=signed)
        wanted = torch.fake_quantize_per_tensor_affine(theirs, scale, zero_point, low, high)
        assert torch.equal(got, wanted)
        upstream = numbers(4096, seed=1)
        got.backward(upstream)
        wanted.backward(upstream)
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_channels_are_quantised_as_by_torch_to_the_bit(bits):
    low, high = levels(bits)
    generator = torch.Generator().manual_seed(2)
    scale = 0.01 + torch.rand(7, generator=generator)
    zero_point = torch.randint(low, high + 1, (7,), generator=generator, dtype=torch.int32)
    ours = numbers(7, 5, 3, 3).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    shaped = scale.view(7, 1, 1, 1), zero_point.view(7, 1, 1, 1)
    got = fake_quantize(ours, *shaped, bits)
    wanted = torch.fake_quantize_per_channel_affine(theirs, scale, zero_point, 0, low, high)
    assert torch.equal(got, wanted)
    upstream = numbers(7, 5, 3, 3, seed=3)
    got.backward(upstream)
    wanted.backward(upstream)
    assert torch.equal(ours.grad, theirs.grad)


def test_ties_fall_as_they_fall_in_torch():
    for scale in (0.1 + torch.rand(300, generator=torch.Generator().manual_seed(4))).tolist():
        x = (torch.arange(-8, 8) + 0.5) * torch.tensor(scale)  # a last bit decides
        wanted = torch.fake_quantize_per_tensor_affine(x, scale, 0, -8, 7)
        assert torch.equal(fake_quantize(x, scale, 0, 4), wanted)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20),
    scale=st.floats(2**-10, 8, width=32),
    bits=st.integers(1, 12),
    signed=st.booleans(),
    place=st.floats(0, 1),
)
def test_any_numbers_are_quantised_as_by_torch(values, scale, bits, signed, place):
    low, high = levels(bits, signed=signed)
    zero_point = low + round(place * (high - low))
    x = torch.tensor(values)
    got = fake_quantize(x, scale, zero_point, bits, signed=signed)
    wanted = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, low, high)
    assert torch.equal(got, wanted)
    q = quantization.quantize(x, scale, zero_point, bits, signed=signed)
    assert q.dtype == torch.int32 and q.min() >= low and q.max() <= high
    back = quantization.dequantize(q, torch.tensor(scale), zero_point)
    assert torch.equal(back, got)


def test_a_grid_point_stays_and_a_tie_goes_to_the_even_neighbour():
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 1.5, 2.5, 7.0, 9.0])
    got = fake_quantize(x, 1.0, 0, 4)
    assert got.tolist() == [-2, 0, 0, 0, 2, 2, 7, 7]
    assert torch.equal(fake_quantize(got, 1.0, 0, 4), got)


def test_error_is_at_most_half_a_step_inside_the_range():
    x = torch.linspace(-1, 1, 10_001)
    for bits in (2, 4, 8):
        scale, zero = symmetric(x.min(), x.max(), bits)
        assert (fake_quantize(x, scale, zero, bits) - x).abs().max() <= scale / 2 * (1 + 1e-6)


def test_no_gradient_reaches_the_scale():
    scale = torch.tensor(0.3, requires_grad=True)
    x = numbers(10).requires_grad_()
    fake_quantize(x, scale, 0, 4).sum().backward()
    assert scale.grad is None and x.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scale", [1e-5, 3e-4, 0.0371, 1.7, 400.0])
def test_half_precision_is_quantised_as_by_torch_to_the_bit(scale, bits, dtype):
    low, high = levels(bits)
    generator = torch.Generator().manual_seed(0)
    ours = (30 * scale * torch.randn(7, 600, generator=generator)).to(dtype).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    upstream = torch.randn(7, 600, generator=generator).to(dtype)
    scales = scale * (0.5 + torch.rand(7, generator=generator))
    zeros = torch.zeros(7, dtype=torch.int32)
    for got, wanted in (
        (
            fake_quantize(ours, scale, 1, bits),
            torch.fake_quantize_per_tensor_affine(theirs, scale, 1, low, high),
        ),
        (
            fake_quantize(ours, scales.view(7, 1), zeros.view(7, 1), bits),
            torch.fake_quantize_per_channel_affine(theirs, scales, zeros, 0, low, high),
        ),
    ):
        assert got.dtype == dtype and torch.equal(got, wanted)
        ours.grad = theirs.grad = None
        got.backward(upstream)
        wanted.backward(upstream)
        assert torch.equal(ours.grad, theirs.grad)


def test_the_integers_of_half_precision_are_those_of_the_same_numbers_in_single():
    x = numbers(500).half()
    for scale in (1e-5, 0.01, 1.0):
        wanted = quantization.quantize(x.float(), scale, 3, 8)
        assert torch.equal(quantization.quantize(x, scale, 3, 8), wanted)


def test_double_precision_keeps_its_scale():
    x, scale = numbers(300).double(), 1 / 3
    wanted = np.clip(np.round(x.numpy() * (1 / scale)), -8, 7) * scale
    np.testing.assert_array_equal(fake_quantize(x, scale, 0, 4), wanted)


def test_unsigned_bytes_do_not_wrap():
    q = torch.tensor([0, 3, 255], dtype=torch.uint8)
    for zero_point in (5, torch.tensor(5, dtype=torch.uint8)):
        assert quantization.dequantize(q, 1.0, zero_point).tolist() == [-5, -2, 250]


# Ranges and grids.


def torchs(observer, x, **options):
    from torch.ao.quantization import observer as known

    with warnings.catch_warnings():  # deprecated, and still there
        warnings.simplefilter("ignore")
        watching = getattr(known, observer)(**options)
        watching(x)
        scale, zero_point = watching.calculate_qparams()
    return scale, zero_point


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shift", [-50.0, 0.0, 0.7, 50.0])
def test_affine_grid_is_that_of_torchs_observer(bits, shift):
    x = numbers(500) + shift
    low, high = levels(bits, signed=False)
    scale, zero_point = torchs(
        "MinMaxObserver", x, dtype=torch.quint8, quant_min=low, quant_max=high
    )
    got = affine(x.min(), x.max(), bits)
    assert torch.equal(got[0], scale.squeeze()) and int(got[1]) == int(zero_point)
    assert fake_quantize(torch.zeros(1), *got, bits, signed=False) == 0  # zero costs no error


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_symmetric_grid_is_that_of_torchs_observer(bits):
    weight, top = numbers(6, 40), levels(bits)[1]
    options = {"dtype": torch.qint8, "quant_min": -top, "quant_max": top}
    scale, _ = torchs("MinMaxObserver", weight, qscheme=torch.per_tensor_symmetric, **options)
    got = quantization.weight_grid(weight, bits, per_channel=False)
    assert got[0].item() == scale.item() and got[1].item() == 0
    scale, _ = torchs(
        "PerChannelMinMaxObserver", weight, qscheme=torch.per_channel_symmetric, **options
    )
    assert torch.equal(quantization.weight_grid(weight, bits)[0].flatten(), scale)


def test_percentiles_are_numpys():
    rows = numbers(3, 1001)
    low, high = quantization.percentile(0.98)(rows)
    wanted = np.percentile(rows.numpy(), [1, 99], axis=1)
    assert np.allclose(low, wanted[0], atol=1e-6) and np.allclose(high, wanted[1], atol=1e-6)
    assert all(map(torch.equal, quantization.percentile(1)(rows), quantization.min_max(rows)))


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.999, 1.0])
def test_percentiles_are_torchs(fraction):
    rows = numbers(4, 997, seed=6)
    tail = (1 - fraction) / 2
    wanted = rows.quantile(torch.tensor([tail, 1 - tail]), dim=1)
    got = quantization.percentile(fraction)(rows)
    torch.testing.assert_close(torch.stack(got), wanted, rtol=1e-5, atol=1e-5)
    half = quantization.percentile(fraction)(rows.half())
    torch.testing.assert_close(torch.stack(half), wanted, rtol=2e-3, atol=2e-3)
    single = quantization.percentile(fraction)(rows[:, :1])
    assert torch.equal(single[0], rows[:, 0]) and torch.equal(single[1], rows[:, 0])


def test_percentiles_of_more_numbers_than_torch_takes():
    n = 2**24 + 3  # torch.quantile stopped at 2^24
    rows = torch.arange(n, dtype=torch.float64).flip(0).unsqueeze(0)
    low, high = quantization.percentile(0.5)(rows)
    assert low.item() == (n - 1) / 4 and high.item() == 3 * (n - 1) / 4


@pytest.mark.parametrize("grid", [symmetric, affine])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_mse_range_is_the_best_of_all_its_factors_row_by_row(grid, bits):
    rows = numbers(4, 200, seed=5).abs() if grid is affine else numbers(4, 200, seed=5)
    rows[0, 0] = 15.0  # the others end at about 9
    high = quantization.mse(bits, grid, candidates=50)(rows)[1]
    for r, row in enumerate(rows.double().numpy()):

        def error(factor, row=row):
            bottom, top = levels(bits, signed=grid is symmetric)
            if grid is symmetric:
                s, z = factor * np.abs(row).max() / top, 0
            else:
                s = factor * row.max() / (top - bottom)
                z = bottom
            q = np.clip(np.round(row / s) + z, bottom, top)
            return ((s * (q - z) - row) ** 2).sum()

        best = min(error(k / 50) for k in range(1, 51))
        chosen = error(float(high[r] / rows[r].max()))
        assert chosen <= best * (1 + 1e-4)
    assert high[0] < rows[0].max()  # and something is clipped


def test_clipping_pays_only_for_few_bits():
    weight = numbers(1, 10_000)

    def error(bits, observe):
        grid = quantization.weight_grid(weight, bits, per_channel=False, observe=observe)
        return float((fake_quantize(weight, *grid, bits) - weight).square().mean())

    assert error(3, quantization.mse(3)) < 0.8 * error(3, quantization.min_max)
    assert error(8, quantization.mse(8)) <= error(8, quantization.min_max)
    assert error(8, quantization.percentile(0.9)) > error(8, quantization.min_max)


def test_channels_of_different_size_need_grids_of_their_own():
    weight = numbers(8, 100) * torch.logspace(-2, 0, 8).unsqueeze(1)
    one = quantization.on_grid(weight, 4, per_channel=False)
    each = quantization.on_grid(weight, 4)
    assert (each - weight).square().sum() < 0.5 * (one - weight).square().sum()
    assert (one[0] == 0).all() and (each[0] != 0).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "observe", [quantization.min_max, quantization.percentile(0.99), quantization.mse(8)]
)
@pytest.mark.parametrize("per_channel", [True, False])
def test_no_kind_of_weight_leaves_its_range(per_channel, observe, dtype):
    weight = numbers(6, 50)
    weight[0] = 0  # dead
    weight[1] = 0.3  # constant
    weight[2] *= 1e-3  # its scale underflows in float16
    weight[3, 1:] = 0
    weight[4] *= 1e3
    weight = weight.to(dtype)
    got = quantization.on_grid(weight, 8, per_channel=per_channel, observe=observe)
    assert got.dtype == dtype and got.isfinite().all() and (got[0] == 0).all()
    wanted = quantization.on_grid(weight.double(), 8, per_channel=per_channel, observe=observe)
    scale, _ = quantization.weight_grid(weight, 8, per_channel=per_channel, observe=observe)
    # Another precision may turn a tie, one step, and rounds the result.
    far = (got.double() - wanted).abs() - scale * 1.001
    assert (far <= torch.finfo(dtype).eps * wanted.abs()).all()
    assert ((got.double() - wanted).abs() > 0.5 * scale).double().mean() < 0.02


def test_the_smallest_weights_are_not_thrown_away():
    weight = 1e-9 * numbers(2, 50)  # below the smallest scale that torch's observer allows
    error = (quantization.on_grid(weight, 8) - weight).abs().amax(1)
    assert (error <= weight.abs().amax(1) / 250).all()


def test_a_half_weight_of_small_numbers_is_its_grid():
    # Rows that came back as NaN and as ±1e-3.
    w = torch.tensor([[0.0, 0, 0, 0], [1e-3, 2e-4, -5e-4, 0]]).half()
    assert (quantization.on_grid(w, 8) - w).abs().max() < 4e-6


def test_a_weight_of_zeros_stays():
    assert quantization.on_grid(torch.zeros(3, 4), 4).tolist() == torch.zeros(3, 4).tolist()


# Models.


@pytest.mark.parametrize("build", [models.mlp, models.small_cnn])
def test_post_training_puts_every_weight_on_its_grid_and_nothing_else_moves(build):
    net = build()
    before = copy.deepcopy(net.state_dict())
    small = quantization.ptq(net, 3)
    assert type(small.get_submodule("flatten")) and small.state_dict().keys() == before.keys()
    for name, p in small.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(p, before[name])
        else:
            scale, _ = quantization.weight_grid(before[name], 3)
            q = p / scale
            assert torch.allclose(q, q.round(), atol=1e-4) and q.abs().max() <= 3.0001
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_aware_computes_with_the_grid_and_its_gradient_is_that_at_the_grid(glyphs):
    train, _ = glyphs
    net = models.mlp((196, 20, 10))
    qat = quantization.qat(net, 3)
    rounded = quantization.ptq(net, 3)
    assert torch.equal(qat(train.x[:9]), rounded(train.x[:9]))
    for model in (qat, rounded):
        training.cross_entropy(model(train.x), train.y).backward()
    behind = qat.fc1.parametrizations.weight.original
    assert torch.allclose(behind.grad, rounded.fc1.weight.grad, atol=1e-6)
    assert torch.equal(behind, net.fc1.weight)  # full precision is kept


def test_training_in_a_stack_is_training_alone(glyphs):
    train, test = glyphs
    nets = [quantization.qat(models.mlp(seed=seed), 4) for seed in range(3)]
    stack = ensemble.stack(nets)
    training.fit(stack, train, epochs=2)
    for k, member in enumerate(ensemble.unstack(stack)):
        alone = copy.deepcopy(nets[k])
        training.fit(alone, train, epochs=2)
        pairs = zip(member.parameters(), alone.parameters(), strict=True)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)
        baked = parametrized.folded(member)
        assert torch.equal(baked(test.x), member(test.x))
        assert {n for n, _ in baked.named_parameters()} == {
            n for n, _ in models.mlp().named_parameters()
        }


def test_convolutions_train_in_a_stack_too(glyphs):
    train, _ = glyphs
    nets = [quantization.qat(models.small_cnn(width=0.25, seed=seed), 4) for seed in range(2)]
    out = ensemble.stack(nets)(train.x[:5])
    for k, net in enumerate(nets):
        assert torch.allclose(out[k], net(train.x[:5]), atol=1e-5)


def test_training_on_the_grid_beats_rounding_afterwards(glyphs):
    # Two bits, three seeds. Seen with other seeds: 20 to 40 points; no pair closer than 5.
    train, test = glyphs
    plain = ensemble.stack([models.mlp(seed=seed) for seed in range(3)])
    training.fit(plain, train, epochs=10)
    nets = ensemble.unstack(plain)
    qat = ensemble.stack([quantization.qat(net, 2) for net in nets])
    training.fit(qat, train, epochs=5)
    after = [float(training.evaluate(quantization.ptq(n, 2), test)) for n in nets]
    assert training.evaluate(qat, test).mean() > sum(after) / 3


def test_activations_are_rounded_where_they_enter_a_layer(glyphs):
    train, test = glyphs
    net = models.mlp((196, 12, 10))
    small = quantization.activations(net, train.x[:200], 4)

    def by_hand(x):
        h = x.flatten(1)
        for layer, inputs in zip((net.fc1, net.fc2), inputs_seen, strict=True):
            scale, zero = affine(inputs.min(), inputs.max(), 4)
            h = layer(
                torch.fake_quantize_per_tensor_affine(h, float(scale), int(zero), 0, 15)
            ).relu()
        return h

    first = train.x[:200].flatten(1)
    inputs_seen = first, net.fc1(first).relu().detach()
    logits = small(test.x)
    assert torch.allclose(logits.relu(), by_hand(test.x), atol=1e-5)
    assert not torch.equal(logits, net(test.x))
    assert not net.fc1._forward_pre_hooks
    with pytest.raises(ValueError, match="no forward"):
        ensemble.stack([small, small])


def test_eight_bits_everywhere_change_next_to_nothing(glyphs):
    train, test = glyphs
    net = models.mlp()
    training.fit(net, train, epochs=5)
    small = quantization.activations(quantization.ptq(net, 8), test.x, 8)
    gap = (small(test.x) - net(test.x)).abs()
    assert 0 < gap.max() < 0.05 * net(test.x).std()  # 256 levels: about 1 % seen


def test_a_transposed_convolution_has_a_scale_per_output():
    layer = nn.ConvTranspose2d(2, 3, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 100, 0.01], [0.5, 50, 0.02]]).view(2, 3, 1, 1)
    small = quantization.ptq(nn.Sequential(layer), 8)[0].weight
    assert (small[:, 2].flatten() - torch.tensor([0.01, 0.02])).abs().max() < 1e-4
    for out in range(3):  # outputs are columns; each one rounded by itself
        alone = quantization.on_grid(layer.weight[:, out].reshape(1, -1), 8)
        assert torch.equal(small[:, out].flatten(), alone.flatten())
    trained = quantization.qat(nn.Sequential(layer), 8)
    assert torch.equal(trained[0].weight, small)
    assert quantization.stored_bytes(layer, 8) == 6 + 4 * 3  # three scales, not two
    grouped = nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False)
    assert quantization.stored_bytes(grouped, 8) == 4 * 3 * 3 + 4 * 6


class Twice(nn.Module):
    """One layer that is called twice, the second time with small numbers."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(4, 4)

    def forward(self, x):
        return self.f(0.01 * self.f(100 * x))


class Keyword(nn.Module):
    """A layer that gets its input by name, in a model with an optional argument."""

    def __init__(self):
        super().__init__()
        self.f, self.up = nn.Linear(4, 4), nn.ConvTranspose1d(4, 4, 2)

    def forward(self, x, mask=None):
        h = self.up(output_size=[2], input=self.f(input=x).relu().unsqueeze(2)).flatten(1)
        return h if mask is None else h * mask


class Auxiliary(nn.Module):
    """A head that only training uses."""

    def __init__(self):
        super().__init__()
        self.f, self.aux = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.f(x) + self.aux(x) if self.training else self.f(x)


def normed():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    net[1].running_mean.fill_(0.3)
    net[0].requires_grad_(False)
    return net


def compiled():
    net = torch.compile(models.mlp((4, 6, 3)), backend="eager")
    net(torch.zeros(2, 4))  # compiled now: torch then looks at no hook
    return net


def compiled_in_place():
    net = models.mlp((4, 6, 3))
    net.compile(backend="eager")
    with torch.no_grad():  # in the mode and for the shape of the calibration
        net.eval()(torch.zeros(64, 4))
    return net


def shared():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


CALLED = {
    "twice": Twice,
    "keyword": Keyword,
    "batch norm in train mode": normed,
    "half": lambda: models.mlp((4, 6, 3)).half(),
    "bfloat16": lambda: models.mlp((4, 6, 3)).bfloat16(),
    "double": lambda: models.mlp((4, 6, 3)).double(),
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "under two names": shared,
    "quantised weights": lambda: quantization.qat(models.mlp((4, 6, 3)), 8),
    "a layer alone": lambda: nn.Linear(4, 3),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Dropout(0.5)),
}


@pytest.mark.parametrize("kind", CALLED)
def test_calibration_sees_every_call_and_leaves_the_model_as_it_was(kind):
    torch.manual_seed(0)
    net = CALLED[kind]()
    before = {n: (t.clone(), t.dtype) for n, t in net.state_dict().items()}
    flags = [p.requires_grad for p in net.parameters()]
    modes = [m.training for m in net.modules()]
    x = numbers(64, 4, spread=1).to(next(net.parameters()).dtype)
    small = quantization.activations(net, x, 8)
    assert all(
        torch.equal(v, before[n][0]) and v.dtype == before[n][1]
        for n, v in net.state_dict().items()
    )
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == flags
    assert not any(m._forward_pre_hooks for m in net.modules())
    with torch.no_grad():
        exact, rounded = net.eval()(x), small.eval()(x)
    gap = (rounded - exact).abs().max() / exact.abs().max()
    assert rounded.dtype == exact.dtype and 0 < gap < 0.05


def test_each_call_of_a_layer_has_a_grid_of_its_own():
    torch.manual_seed(0)
    net, x = Twice().eval(), numbers(64, 4)
    small = quantization.activations(net, x, 4)

    def by_hand(h, weight, bias):
        for factor, low, high in ends:
            scale, zero = affine(low, high, 4)
            h = torch.fake_quantize_per_tensor_affine(factor * h, float(scale), int(zero), 0, 15)
            h = h @ weight.T + bias
        return h

    with torch.no_grad():
        second = 0.01 * net.f(100 * x)
        ends = [(f, h.min(), h.max()) for f, h in ((100, 100 * x), (0.01, second))]
        for _ in range(2):  # the second pass begins again
            wanted = by_hand(x, net.f.weight, net.f.bias)
            torch.testing.assert_close(small(x), wanted, rtol=1e-4, atol=1e-4)


def test_calibrated_copies_can_be_copied_and_saved():
    net, x = models.mlp((4, 6, 3)), numbers(20, 4)
    small = quantization.activations(net, x, 4)
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again(x), small(x)) and torch.equal(copy.deepcopy(small)(x), small(x))


UNSEEN = [
    (Auxiliary, numbers(6, 4), ValueError, "must use every layer on x, but it leaves out 'aux'"),
    (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), numbers(2, 3, 4),
     NotImplementedError, "'self_attn.out_proj' without calling it"),
    (lambda: models.mlp((4, 3)), numbers(0, 4), ValueError, "x must hold at least one example"),
    (lambda: models.mlp((4, 3)), numbers(2, 4) * math.nan, ValueError, "x must be finite, got 8"),
    (lambda: models.mlp((4, 3)), numbers(2, 5), ValueError, r"x must fit the model.*\(2, 5\)"),
    (lambda: models.mlp((4, 3)), [1.0], TypeError, "x must be a tensor, got list"),
    (lambda: nn.ReLU(), numbers(2, 4), ValueError, "model must have a linear"),
    (lambda: nn.Sequential(compiled(), nn.ReLU()), numbers(2, 4), ValueError, "whole or not, but '0' is"),
    (lambda: nn.Sequential(prune.l1_unstructured(nn.Linear(4, 3), "weight", 2)), numbers(2, 4),
     ValueError, "'0' is computed by a forward hook"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "x", "error", "words"), UNSEEN)
def test_calibration_refuses_by_name_what_it_cannot_see(build, x, error, words):
    net = build()
    modes = [m.training for m in net.modules()]
    hooks = [len(m._forward_pre_hooks) for m in net.modules()]
    with pytest.raises(error, match=words):
        quantization.activations(net, x, 8)
    assert [m.training for m in net.modules()] == modes
    assert [len(m._forward_pre_hooks) for m in net.modules()] == hooks


def test_an_overflow_inside_the_network_is_named_by_its_layer():
    net = models.mlp((4, 6, 3))
    net.fc1.weight.data.fill_(1e38)
    with pytest.raises(ValueError, match="the input of 'fc2' must be finite"):
        quantization.activations(net, torch.full((2, 4), 10.0), 8)


def test_bytes_of_tied_weights_count_once():
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    apart = quantization.stored_bytes(net, 4)
    net[1].weight = net[0].weight
    assert quantization.stored_bytes(net, 4) == apart / 2 == 8 * 8 / 2 + 4 * 8
    assert quantization.stored_bytes(quantization.qat(net, 4), 4) == apart / 2
    assert quantization.stored_bytes(nn.Linear(3, 2).half(), 4) == 3 + 4 * 2 + 2 * 2


def test_int8_takes_a_layer_alone_tied_or_parametrised_and_leaves_the_model():
    x = numbers(5, 4)
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    compiled = torch.compile(models.mlp((4, 3)), backend="eager")
    for net in (nn.Linear(4, 3), tied, quantization.qat(models.mlp((4, 6, 3)), 8), compiled):
        before = copy.deepcopy(net.state_dict())
        small = quantization.int8(net)
        gap = (small(x) - net(x)).abs().max()
        assert 0 < gap < 0.1 * net(x).abs().max()
        assert not any(type(m) is nn.Linear for m in small.modules())
        assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())


class Engines:
    """torch's switch, as on another platform."""

    def __init__(self, engine, known):
        self.engine, self.supported_engines = engine, known


def test_int8_finds_an_engine_and_puts_the_switch_back(monkeypatch):
    none, some = Engines("none", ["none"]), Engines("none", ["qnnpack", "none"])
    monkeypatch.setattr(torch.backends, "quantized", none)
    with pytest.raises(NotImplementedError, match="int8 needs a torch with a quantized engine"):
        quantization.int8(models.mlp())
    monkeypatch.setattr(torch.backends, "quantized", some)
    quantization.int8(models.mlp())
    assert some.engine == "none"


# Whole numbers.


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3), seed=st.integers(0, 10**6), bits=st.integers(1, 8)
)
def test_integer_product_is_the_product_of_the_dequantised_matrices(shape, seed, bits):
    i, j, k = shape
    g = torch.Generator().manual_seed(seed)
    low, high = levels(bits, signed=False)
    low2, high2 = levels(bits)
    q1 = torch.randint(low, high + 1, (i, j), generator=g, dtype=torch.int32)
    q2 = torch.randint(low2, high2 + 1, (j, k), generator=g, dtype=torch.int32)
    z1 = int(torch.randint(low, high + 1, (), generator=g))
    z2 = torch.randint(low2, high2 + 1, (k,), generator=g, dtype=torch.int32)
    s1, s2 = 2.0**-5, 2.0**-3  # powers of two: float64 is exact
    real = quantization.dequantize(q1.double(), s1, z1) @ quantization.dequantize(
        q2.double(), s2, z2
    )
    whole = quantization.integer_matmul(q1, z1, q2, z2)
    assert whole.dtype == torch.int32 and torch.equal(whole * (s1 * s2), real)
    assert torch.equal(quantization.integer_matmul(q1, z1, q2, int(z2[0]))[:, 0], whole[:, 0])


def test_a_layer_in_whole_numbers_is_the_simulated_layer(glyphs):
    train, _ = glyphs
    x, net = train.x.flatten(1), models.mlp((196, 20, 10))
    s1, z1 = affine(x.min(), x.max(), 8)
    s2, z2 = quantization.weight_grid(net.fc1.weight, 8)
    q1 = quantization.quantize(x, s1, z1, 8, signed=False).to(torch.uint8)
    q2 = quantization.quantize(net.fc1.weight, s2, z2, 8).to(torch.int8)
    whole = quantization.integer_matmul(q1, int(z1), q2.T, 0)
    layer = quantization.activations(quantization.ptq(net, 8), train.x, 8)
    simulated = layer.fc1(x) - net.fc1.bias
    assert torch.allclose(whole * s1 * s2.T, simulated, rtol=1e-4, atol=1e-4)


def test_torchs_int8_is_our_post_training_grid_up_to_the_inputs_rounding(glyphs):
    train, test = glyphs
    net = models.mlp()
    training.fit(net, train, epochs=5)
    with torch.no_grad():
        gap = (quantization.int8(net)(test.x.flatten(1)) - net(test.x)).abs().max()
    assert 0 < gap < 0.1 * net(test.x).std()
    assert isinstance(net.fc1, nn.Linear) and net.fc1.weight.dtype == torch.float32


def test_bytes_are_bits_over_eight_with_scales():
    net = models.mlp((196, 100, 10))
    weights, rows = 196 * 100 + 100 * 10, 110
    for bits in (8, 4, 3):
        wanted = -(-196 * 100 * bits // 8) + -(-1000 * bits // 8) + 4 * rows + 4 * 110
        assert quantization.stored_bytes(net, bits) == wanted
    assert quantization.stored_bytes(net, 8, per_channel=False) == weights + 8 + 4 * 110


X = torch.zeros(2, 3)
BAD = [
    (lambda: levels(0), ValueError, "bits must be an integer from 1 to 16, got 0"),
    (lambda: levels(2.5), ValueError, "bits must be.*2.5"),
    (lambda: levels(True), ValueError, "bits must be.*True"),
    (lambda: fake_quantize(X, 0.0, 0, 4), ValueError, "scale must be positive and finite.*got 0.0"),
    (lambda: fake_quantize(X, math.nan, 0, 4), ValueError, "scale must be positive.*nan"),
    (lambda: fake_quantize(X, math.inf, 0, 4), ValueError, "scale must be positive.*inf"),
    (lambda: fake_quantize(X, 1.0, 8, 4), ValueError, "zero_point must be.*from -8 to 7, got 8"),
    (lambda: fake_quantize(X, 1.0, 0.5, 4), ValueError, "zero_point must be whole"),
    (lambda: fake_quantize(X, 1.0, -1, 4, signed=False), ValueError, "from 0 to 15, got -1"),
    (lambda: fake_quantize(X, torch.ones(2), 0, 4), ValueError, r"scale must broadcast.*\(2, 3\)"),
    (lambda: fake_quantize(X, torch.ones(4, 1, 1), 0, 4), ValueError, "scale must broadcast"),
    (lambda: fake_quantize(X.long(), 1.0, 0, 4), TypeError, "x must be a floating.*int64"),
    (lambda: fake_quantize([1.0], 1.0, 0, 4), TypeError, "x must be.*list"),
    (lambda: symmetric(X, X, 1), ValueError, "bits must be from 2 to 16"),
    (lambda: fake_quantize(X, 1e-39, 0, 4), ValueError, "and so must 1 / scale, got 1"),
    (lambda: fake_quantize(X * math.nan, 1.0, 0, 4), ValueError, "x must be finite, got 6 NaN"),
    (lambda: quantization.quantize(torch.tensor([math.nan]), 0.1, 0, 8), ValueError, "x must be fin"),
    (lambda: quantization.quantize(torch.tensor([math.inf]), 0.1, 0, 8), ValueError, "x must be fin"),
    (lambda: quantization.on_grid(X * math.nan, 8), ValueError, "weight must be finite, got 6 NaN"),
    (lambda: quantization.weight_grid(X / 0, 8, per_channel=False), ValueError, "weight must be fin"),
    (lambda: quantization.on_grid(torch.zeros(0, 3), 8), ValueError, r"not empty, got shape \(0, 3\)"),
    (lambda: quantization.on_grid(torch.zeros(3, 0), 8), ValueError, r"not empty, got shape \(3, 0\)"),
    (lambda: quantization.on_grid(torch.tensor(1.0), 8), ValueError, r"weight must be \(out, …\)"),
    (lambda: quantization.on_grid(X.long(), 8), TypeError, "weight must be a floating.*int64"),
    (lambda: quantization.min_max(torch.zeros(2, 0)), ValueError, r"rows must be \(rows, n\)"),
    (lambda: quantization.mse(4)(torch.zeros(2, 0)), ValueError, r"rows must be \(rows, n\)"),
    (lambda: quantization.mse(4, candidates=0), ValueError, "candidates must be a positive integer"),
    (lambda: quantization.mse(4, partial(affine, signed=True)), ValueError, "grid must be symmetric or"),
    (lambda: quantization.stored_bytes(models.mlp(), 0), ValueError, "bits must be"),
    (lambda: quantization.int8(nn.Conv2d(1, 2, 3)), ValueError, "model must have a linear layer"),
    (lambda: quantization.int8(nn.Linear(3, 2).half()), ValueError, "model must be float32 on the CPU"),
    (lambda: quantization.int8(nn.MultiheadAttention(4, 2)), NotImplementedError, "out_proj"),
    (lambda: quantization.percentile(math.nan), ValueError, "fraction must be a number"),
    (lambda: quantization.percentile(0), ValueError, r"fraction must be a number in \(0, 1\], got 0"),
    (lambda: quantization.qat(nn.ReLU(), 4), ValueError, "model must have a linear"),
    (lambda: quantization.qat(models.mlp(), 99), ValueError, "bits must be"),
    (
        lambda: quantization.qat(quantization.qat(models.mlp(), 4), 4),
        ValueError,
        "'fc1' is parametrised",
    ),
    (lambda: quantization.integer_matmul(X, 0, X.T, 0), TypeError, "q1 must be a matrix of integers"),
    (lambda: quantization.integer_matmul(X.int(), 0, X.int(), 0), ValueError, "q2 must have 3 rows"),
    (lambda: quantization.integer_matmul(X.int(), 0.5, X.int().T, 0), TypeError, "z1 must hold integers"),
    (lambda: quantization.integer_matmul(X.int(), 0, X.int().T, torch.zeros(3)), TypeError, "z2 must hold"),
    (lambda: quantization.integer_matmul([[1]], 0, X.int(), 0), TypeError, "q1 must be.*got list"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input_names_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_model_that_is_refused_is_as_it_was():
    net = models.mlp()
    names = [n for n, _ in net.named_parameters()]
    with pytest.raises(ValueError):
        quantization.qat(net, 1)(torch.zeros(1, 196))
    assert [n for n, _ in net.named_parameters()] == names


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_grids_are_those_of_the_cpu():
    weight = numbers(50, 70)
    for observe in (quantization.min_max, quantization.mse(4)):
        on = partial(quantization.on_grid, bits=4, observe=observe)
        assert torch.allclose(on(weight), on(weight.cuda()).cpu(), atol=1e-6)


# ---- GPTQ


def related_inputs(tokens=60, inputs=12):
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    return torch.randn(tokens, inputs, generator=generator, dtype=torch.float64) @ mix


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("block", [1, 5, 128])
def test_gptq_rounds_a_weight_and_moves_those_to_come_as_obs_does(bits, block):
    x, layer = related_inputs(), models.seeded(0, lambda: nn.Linear(12, 5)).double()
    h = x.t() @ x
    h += 0.01 * h.diagonal().mean() * torch.eye(12)
    w = layer.weight.detach().clone()
    step = w.abs().amax(1) / (2 ** (bits - 1) - 1)
    for j in range(12):
        inverse = torch.linalg.inv(h[j:, j:])
        q = (w[:, j] / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
        w[:, j:] -= torch.outer((w[:, j] - q) / inverse[0, 0], inverse[0])
        w[:, j] = q
    found = quantization.gptq(layer, x, bits, block=block)
    torch.testing.assert_close(found.weight.detach(), w, rtol=1e-9, atol=1e-9)
    assert torch.equal(found.bias, layer.bias)
    plain = quantization.ptq(layer, bits)

    def lost(model):
        return (x @ (model.weight - layer.weight).t()).square().sum()

    assert lost(found) < lost(plain)


def test_gptq_with_unrelated_inputs_is_plain_rounding():
    layer, x = models.seeded(0, lambda: nn.Linear(9, 5)), torch.eye(9) * torch.arange(1, 10.0)
    for bits in (2, 4, 8):
        found = quantization.gptq(layer, x, bits)
        assert torch.equal(found.weight, quantization.ptq(layer, bits).weight)


def test_gptq_with_many_bits_changes_next_to_nothing():
    x, layer = related_inputs(), models.seeded(0, lambda: nn.Linear(12, 5)).double()
    w, gram = layer.weight.detach(), x.t() @ x
    fine = lambda *_: lambda j, column: (column * 2**30).round() / 2**30
    found = layerwise.sweep(w, gram, fine)
    assert 0 < (found - w).abs().max() < 1e-8
    step = w.abs().max() / 2**15
    assert (quantization.gptq(layer, x, 16).weight - w).abs().max() < 20 * step


def test_gptq_keeps_a_pruned_network_pruned_and_the_one_it_was_given():
    x, layer = related_inputs().float(), models.seeded(0, lambda: nn.Linear(12, 5))
    keep = torch.arange(12).expand(5, 12) % 3 > 0
    layer.weight.data *= keep
    before = layer.weight.detach().clone()
    for bits in (4, 8):  # with 8, what the zeros would take over is more than half a step
        found = quantization.gptq(layer, x, bits)
        assert torch.equal(layer.weight, before)
        assert (found.weight[~keep] == 0).all()
        assert all(len(row.unique()) <= 2**bits for row in found.weight)


@pytest.mark.parametrize(
    ("bits", "options", "kind", "message"),
    [
        (1, {}, ValueError, "bits must be from 2 to 16 for a symmetric grid, got 1"),
        (4, {"names": ["w"]}, ValueError, "names has 'w', which is no weight"),
        (4, {"block": 0}, ValueError, "block must be a positive integer"),
        (4, {"damping": -1}, ValueError, "damping must be finite and not negative"),
    ],
)
def test_gptq_refuses(bits, options, kind, message):
    with pytest.raises(kind, match=message):
        quantization.gptq(nn.Linear(12, 5).double(), related_inputs(), bits, **options)
