import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import (
    data,
    ensemble,
    measure,
    models,
    parametrized,
    training,
)
from course_lib.compression import binary, quantization


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_sign_has_no_zero_and_passes_gradients_within_one():
    x = torch.tensor([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5], requires_grad=True)
    y = binary.sign(x)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1, 1, 1]
    y.backward(torch.arange(1.0, 9.0))
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 7, 0]


def test_binarize_is_the_best_of_all_signs_and_scales():
    for seed in range(20):
        weight = numbers(6, seed=seed).double()
        b, scale = binary.binarize(weight)
        found = (weight - scale * b).square().sum()
        least = math.inf
        for pattern in range(2**6):  # every ±1 vector, each with its best scale and a grid of them
            signs = torch.tensor([1.0 if pattern >> i & 1 else -1.0 for i in range(6)]).double()
            for alpha in (weight @ signs / 6, *torch.linspace(0, 3, 61).double()):
                least = min(least, float((weight - alpha * signs).square().sum()))
        assert float(found) == pytest.approx(least, abs=1e-12)
        assert scale.item() == pytest.approx(weight.abs().mean().item())


def test_scales_by_channel():
    weight = numbers(4, 3, 2, 2)
    b, scale = binary.binarize(weight, per_channel=True)
    assert scale.shape == (4, 1, 1, 1) and b.shape == weight.shape
    for row in range(4):
        alone, alpha = binary.binarize(weight[row])
        assert torch.equal(b[row], alone) and torch.allclose(scale[row].squeeze(), alpha)
    one = binary.binarize(weight)
    assert one[1].shape == ()
    error = [(weight - s * c).square().sum() for c, s in ((b, scale), one)]
    assert error[0] < error[1]


def test_zero_becomes_plus_one():
    b, scale = binary.binarize(torch.zeros(3))
    assert b.tolist() == [1, 1, 1] and scale == 0


def test_ternarize_is_its_formula():
    weight = torch.tensor([1.0, -1.0, 0.1, -0.2, 0.7])
    values, scale = binary.ternarize(weight)  # mean 0.6, threshold 0.42
    assert values.tolist() == [1, -1, 0, 0, 1]
    assert scale.item() == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("draw", "worst"), [(torch.randn, 1.02), (lambda *s, generator: torch.rand(*s, generator=generator) - 0.5, 1.02)]
)  # fmt: skip
def test_ternary_threshold_is_close_to_the_best_for_normal_and_uniform_weights(draw, worst):
    # The best is exact: of all n cuts in the sorted sizes, the one with the largest
    # (sum of those beyond)² / their number. 20,000 weights: sampling error of the ratio < 0.001.
    weight = draw(20_000, generator=torch.Generator().manual_seed(1)).double()
    sizes = weight.abs().sort(descending=True).values
    gain = (sizes.cumsum(0) ** 2 / torch.arange(1, len(sizes) + 1)).max()
    least = weight.square().sum() - gain
    values, scale = binary.ternarize(weight)
    error = (weight - scale * values).square().sum()
    assert least <= error * (1 + 1e-9) and error <= worst * least
    binary_values, alpha = binary.binarize(weight)
    assert error < (weight - alpha * binary_values).square().sum()


def test_ternary_scale_is_the_best_for_its_values():
    weight = numbers(5, 40)
    values, scale = binary.ternarize(weight, per_channel=True)
    for row in range(5):
        best = weight[row] @ values[row] / values[row].square().sum()
        assert scale[row].item() == pytest.approx(best.item(), rel=1e-5)
    assert binary.ternarize(torch.zeros(2, 2))[1] == 0


@pytest.mark.parametrize("function", [binary.binary_weight, binary.ternary_weight])
def test_weights_to_train_with_are_the_scaled_ones_and_pass_gradients(function):
    weight = numbers(4, 10).requires_grad_()
    method = binary.binarize if function is binary.binary_weight else binary.ternarize
    values, scale = method(weight.detach(), per_channel=True)
    out = function(weight)
    assert torch.equal(out, values * scale)
    upstream = numbers(4, 10, seed=1)
    out.backward(upstream)
    assert torch.equal(weight.grad, upstream)


@pytest.mark.parametrize("function", [binary.binary_weight, binary.ternary_weight])
def test_they_learn_where_rounding_afterwards_fails(function):
    # Three seeds. Seen with other seeds: 20 to 40 points; no pair closer than 10.
    train, test = data.load("glyphs", n_train=1000, n_test=500)
    nets = [models.mlp(seed=seed) for seed in range(3)]
    stack = ensemble.stack([parametrized.attach(net, function) for net in nets])
    plain = ensemble.stack(nets)
    for each in (stack, plain):
        training.fit(each, train, epochs=8)
    rounded = [parametrized.attach(n, function) for n in ensemble.unstack(plain)]
    after = sum(float(training.evaluate(n, test)) for n in rounded) / 3
    assert training.evaluate(stack, test).mean() > after + 5


# Bits.


@settings(deadline=None, max_examples=60, derandomize=True)
@given(i=st.integers(1, 5), k=st.integers(1, 5), n=st.integers(1, 200), seed=st.integers(0, 10**6))
def test_counting_bits_is_multiplying_signs(i, k, n, seed):
    a, b = numbers(i, n, seed=seed), numbers(k, n, seed=seed + 1)
    a[:, ::3] = 0  # a zero is +1
    signs = [torch.where(x >= 0, 1, -1) for x in (a, b)]
    got = binary.packed_matmul(binary.pack(a), binary.pack(b).t(), n)
    assert torch.equal(got, (signs[0] @ signs[1].T).int())


def test_packed_words_are_pythons():
    x = numbers(2, 70)
    words = binary.pack(x)
    assert words.shape == (2, 2) and words.dtype == torch.int64
    for row in range(2):
        number = sum(1 << i for i in range(70) if x[row, i] >= 0)
        assert [int(w) & (2**64 - 1) for w in words[row]] == [number % 2**64, number >> 64]


@pytest.fixture(scope="module")
def trained():
    train, test = data.load("glyphs", n_train=1500, n_test=700)
    net = binary.bnn((196, 70, 50, 10), seed=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    binary.hold_in_range(optimizer, net)
    training.fit(net, train, epochs=6, optimizer=optimizer)
    return net.eval(), test


def test_a_binary_network_learns_and_is_binary(trained):
    net, test = trained
    assert training.evaluate(net, test) > 50  # chance is 10
    for i in (1, 2, 3):
        layer = net.get_submodule(f"fc{i}")
        assert set(layer.weight.unique().tolist()) == {-1.0, 1.0}
        assert layer.parametrizations.weight.original.abs().max() <= 1
    seen = quantization.layer_inputs(net, test.x)
    assert all(set(x.unique().tolist()) == {-1.0, 1.0} for (x,) in seen.values())


def test_weights_behind_the_signs_stay_within_one():
    net = binary.bnn((4, 3, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=100.0)
    handle = binary.hold_in_range(optimizer, net)
    behind = net.fc1.parametrizations.weight.original
    for held in (True, False):
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert (behind == -1).all() if held else (behind < -50).all()
        assert (net.norm.bias < -50).all()  # only weights that pass a sign are held
        handle.remove()


def test_packed_network_gives_the_same_numbers_to_the_bit(trained):
    net, test = trained
    small = binary.packed(net)
    with torch.no_grad():
        assert torch.equal(small(test.x), net(test.x))
        assert torch.equal(small(test.x[:1]), net(test.x[:1]))
    words = sum(
        t.numel() * t.element_size() for n, t in small.state_dict().items() if n.endswith("words")
    )
    assert words == 8 * (70 * 4 + 50 * 2 + 10)  # ⌈196/64⌉, ⌈70/64⌉ and ⌈50/64⌉ words a unit
    norms = measure.bytes_dense(small) - words
    assert norms == sum(4 * 4 * n + 8 for n in (196, 70, 50, 10))


def test_packed_network_is_plain_numpy(trained):
    net, test = trained
    h = test.x[:50].flatten(1).double().numpy()
    for i in (1, 2, 3):
        norm, layer = net.get_submodule(f"norm{i}"), net.get_submodule(f"fc{i}")
        h = (h - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps)
        h = h * norm.weight.detach().numpy() + norm.bias.detach().numpy()
        w = np.where(layer.parametrizations.weight.original.detach().numpy() >= 0, 1, -1)
        h = np.where(h >= 0, 1, -1) @ w.T
    got = binary.packed(net)[:-1](test.x[:50]).numpy()
    # A batch norm that comes out within rounding of 0 may fall either way: a step of 2.
    assert (got == h).mean() > 0.99 and np.abs(got - h).max() <= 4


def test_the_same_seed_gives_the_same_network():
    a, b = binary.bnn(seed=3), binary.bnn(seed=3)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", [binary.binarize, binary.ternarize])
@pytest.mark.parametrize("per_channel", [True, False])
def test_half_precision_is_that_of_the_same_numbers_in_double(method, per_channel, dtype):
    weight = numbers(6, 3000)
    weight[0], weight[1] = 0, 0.3  # dead, constant
    weight[2] *= 1e-4
    weight[3] *= 1e4
    weight = weight.to(dtype)
    values, scale = method(weight, per_channel=per_channel)
    wanted, exact = method(weight.double(), per_channel=per_channel)
    assert values.dtype == scale.dtype == dtype and torch.equal(values.double(), wanted)
    assert torch.allclose(scale.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-7)
    train_with = binary.binary_weight if method is binary.binarize else binary.ternary_weight
    if per_channel:
        product = (wanted * exact).to(dtype)
        assert torch.allclose(
            train_with(weight), product, rtol=1e-2 if dtype != torch.float64 else 0
        )
        assert train_with(weight).dtype == dtype


@pytest.mark.parametrize("method", [binary.binarize, binary.ternarize])
def test_a_vector_has_a_scale_per_number(method):
    values, scale = method(torch.tensor([2.0, -3.0, 0.5]), per_channel=True)
    assert values.tolist() == [1, -1, 1] and scale.tolist() == [2, 3, 0.5]


@pytest.mark.parametrize("function", [binary.binary_weight, binary.ternary_weight])
def test_a_transposed_convolution_has_a_scale_per_output(function):
    layer = nn.ConvTranspose2d(2, 3, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 100, 0.01], [1.0, 50, -0.01]]).view(2, 3, 1, 1)
    got = parametrized.attach(layer, function).weight.view(2, 3)
    for out in range(3):
        assert torch.equal(got[:, out], function(layer.weight[:, out].view(1, 2)).flatten())


def test_sign_passes_on_what_is_not_a_number():
    x = torch.tensor([math.nan, math.inf, -math.inf]).requires_grad_()
    y = binary.sign(x)
    assert y[0].isnan() and y[1:].tolist() == [1, -1]
    y[1:].sum().backward()
    assert x.grad.tolist() == [0, 0, 0]


def test_only_signed_weights_that_the_optimizer_trains_are_held():
    net = nn.Sequential(
        parametrized.attach(nn.Linear(3, 3, bias=False), binary.sign),
        parametrized.attach(nn.Linear(3, 3, bias=False), binary.sign),
        quantization.qat(nn.Linear(3, 3, bias=False), 4),
        parametrized.attach(nn.Linear(3, 3, bias=False), binary.sign).requires_grad_(False),
    )
    behind = [layer.parametrizations.weight.original for layer in net]
    for weight in behind:
        weight.data.fill_(5)
    chosen = [behind[0], behind[2], behind[3]]
    optimizer = torch.optim.SGD(chosen, lr=1.0)
    binary.hold_in_range(optimizer, net)
    assert [w.max().item() for w in behind] == [1, 5, 5, 5]

    def closure():
        optimizer.zero_grad()
        loss = sum(w.square().sum() for w in chosen)
        loss.backward()
        return loss

    optimizer.step(closure)  # 1 - 2 = -1 and, in range of no sign, 5 - 10 = -5
    assert [w.max().item() for w in behind] == [-1, 5, -5, 5]


def test_members_of_a_stack_are_held_too():
    nets = [parametrized.attach(models.mlp((4, 3), seed=seed), binary.sign) for seed in range(2)]
    stack = ensemble.stack(nets)
    optimizer = torch.optim.SGD(stack.parameters(), lr=1.0)
    binary.hold_in_range(optimizer, stack)
    weight = dict(stack.named_parameters())["fc1.parametrizations.weight.original"]
    weight.grad = torch.full_like(weight, 9)
    optimizer.step()
    assert (weight == -1).all()


def test_packing_leaves_the_network_as_it_was(trained):
    net, test = trained
    net.train()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    small = binary.packed(net)
    assert all(m.training for m in net.modules()) and not small.training
    small.train()
    small(test.x[:50])  # its batch norms move, and they are its own
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    net.eval()
    plain = binary.packed(parametrized.folded(net))
    with torch.no_grad():
        assert torch.equal(plain(test.x), net(test.x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_packed_half_precision_is_the_network_in_half_precision(trained, dtype):
    net, test = trained
    half = parametrized.folded(net).to(dtype)
    x = test.x[:40].to(dtype)
    assert torch.equal(binary.packed(half)(x), half(x))


def test_nothing_packs_to_nothing():
    assert binary.pack(torch.zeros(0, 70)).shape == (0, 2)
    assert binary.pack(torch.zeros(3, 0)).shape == (3, 0)
    weight = torch.ones(3, 70, requires_grad=True)  # a parameter can be packed as it is
    none = binary.packed_matmul(binary.pack(torch.zeros(0, 70)), binary.pack(weight).t(), 70)
    assert none.shape == (0, 3)
    assert binary.PackedLinear(weight)(torch.zeros(0, 70)).shape == (0, 3)


def sign_then(*layers):
    return nn.Sequential(nn.BatchNorm1d(4), binary.Sign(), *layers)


def held(optimizer_of, model):
    return lambda: binary.hold_in_range(training.sgd(optimizer_of), model)


BAD = [
    (lambda: binary.binarize(torch.tensor([math.nan])), ValueError, "weight must be finite, got 1 NaN"),
    (lambda: binary.ternarize(torch.zeros(0)), ValueError, r"not empty, got shape \(0,\)"),
    (lambda: binary.packed(models.mlp()), TypeError, "made by bnn, got 'fc1'"),
    (lambda: binary.packed(nn.ReLU()), TypeError, "model must be an nn.Sequential"),
    (lambda: binary.packed_matmul(binary.pack(torch.ones(1, 65)), binary.pack(torch.ones(3, 65)), 65),
     ValueError, r"a must have 2 words per row and b 2 per column for n=65.*\(3, 2\)"),
    (lambda: binary.packed_matmul(binary.pack(torch.ones(1, 64)), binary.pack(torch.ones(1, 64)), 65),
     ValueError, "a must have 2 words"),
    (lambda: binary.hold_in_range(training.sgd(models.mlp()), models.mlp()), ValueError, "model must have weights"),
    (lambda: binary.binarize(torch.tensor([math.inf, 1.0])), ValueError, "weight must be finite, got 1"),
    (lambda: binary.ternarize(torch.tensor(1.0)), ValueError, r"weight must be \(out, …\)"),
    (lambda: binary.binarize(torch.ones(2, 2).int()), TypeError, "weight must be a floating.*int32"),
    (lambda: binary.ternarize([1.0]), TypeError, "weight must be a floating-point tensor, got list"),
    (lambda: binary.pack(torch.tensor([math.nan, 1.0])), ValueError, r"x must be \(…, n\) without NaN"),
    (lambda: binary.pack(torch.tensor(1.0)), ValueError, r"x must be \(…, n\)"),
    (lambda: binary.packed_matmul(torch.ones(1, 1), torch.ones(1, 1), 3), TypeError, "a must be int64"),
    (lambda: binary.packed_matmul(binary.pack(torch.ones(1, 1)), binary.pack(torch.ones(1, 1)), 0),
     ValueError, "n must be a positive integer"),
    (lambda: binary.PackedLinear(torch.ones(3)), ValueError, r"weight must be \(out, in\)"),
    (lambda: binary.PackedLinear(torch.ones(3, 60))(torch.ones(2, 64)), ValueError, r"input must be \(batch, 60\)"),
    (lambda: binary.packed(sign_then(nn.Linear(4, 3, bias=False))), TypeError, "made by bnn, got '2'"),
    (lambda: binary.packed(sign_then()), TypeError, "got a sign at its end"),
    (lambda: binary.packed(sign_then(nn.BatchNorm1d(4))), TypeError, "made by bnn, got '2'"),
    (held(models.mlp(), binary.bnn()), ValueError, "optimizer must train weights of the model"),
    (held(binary.bnn(), quantization.qat(models.mlp(), 4)), ValueError, "model must have weights"),
    (lambda: binary.bnn((196,)), ValueError, "sizes must hold at least two"),
    (lambda: ensemble.stack([binary.bnn(), binary.bnn()]), ValueError, "no buffers"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input_names_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()
