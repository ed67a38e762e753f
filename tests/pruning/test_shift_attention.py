"""One place per slice: the formula by hand, its limits, and the hardened layer as a shift and a 1 × 1 layer."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import data, ensemble, measure, models, training
from course_lib.pruning import gates, masks, shift_attention

X = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def conv(kernel=3, seed=0, **options):
    model = models.seeded(1, lambda: nn.Sequential(nn.Conv2d(3, 4, kernel, padding=1, **options)))
    shift_attention.attach(model, ["0"], seed=seed)
    return model


def attention(model):
    return model[0].parametrizations.weight[0]


def sharpen(model, beta):
    attention(model).beta.data.fill_(beta)


@pytest.mark.parametrize("beta", [0.1, 1.0, 7.0])
def test_the_formula_slice_by_slice(beta):
    model = conv()
    sharpen(model, beta)
    numbers, weight = attention(model).logits, model[0].parametrizations.weight.original
    for o in range(4):
        for i in range(3):
            a = numbers[o, i].tolist()
            mean = sum(a) / 9
            std = math.sqrt(sum((n - mean) ** 2 for n in a) / 8)
            powers = [math.exp(beta * n / std) for n in a]
            wanted = torch.tensor(powers).view(3, 3) / sum(powers) * weight[o, i]
            torch.testing.assert_close(model[0].weight[o, i], wanted)


def test_the_start_is_uniform_and_its_own():
    numbers = attention(conv()).logits
    assert 0 <= numbers.min() < 0.1 and 0.9 < numbers.max() <= 1 and numbers.shape == (4, 3, 9)
    assert torch.equal(numbers, attention(conv()).logits)
    assert not torch.equal(numbers, attention(conv(seed=1)).logits)
    state = torch.get_rng_state()
    conv()
    assert torch.equal(state, torch.get_rng_state())


def test_scale_and_offset_of_a_slice_change_nothing():
    model = conv()
    before = model(X)
    attention(model).logits.data.mul_(7.0).add_(3.0)
    torch.testing.assert_close(model(X), before, rtol=1e-4, atol=1e-5)


def test_a_dull_attention_is_uniform_and_a_sharp_one_is_the_largest():
    model = conv()
    weight = model[0].parametrizations.weight.original
    sharpen(model, 1e-6)
    torch.testing.assert_close(model[0].weight, weight / 9, rtol=1e-4, atol=1e-7)
    sharpen(model, 1e6)
    best = F.one_hot(attention(model).logits.argmax(2), 9).view(4, 3, 3, 3)
    assert torch.equal(model[0].weight, weight * best)


def test_the_slope_is_that_of_differences():
    torch.manual_seed(0)
    model = conv().double()
    sharpen(model, 3.0)
    own = attention(model)
    down = torch.randn(4, 3, 3, 3, dtype=torch.float64)

    def value(numbers):
        return (own.opened(numbers, own.beta).view(4, 3, 3, 3) * down).sum()

    assert torch.autograd.gradcheck(value, own.logits.detach().requires_grad_())


def test_hardened_it_is_a_shift_and_a_1x1_convolution():
    model = conv()
    sharpen(model, 1e4)
    soft = model(X)
    keep = gates.harden(model)
    assert [*keep] == ["0.weight"] and (keep["0.weight"].flatten(2).sum(2) == 1).all()
    assert torch.equal(model[0].weight != 0, keep["0.weight"])
    torch.testing.assert_close(model(X), soft)
    padded, wanted = F.pad(X, (1, 1, 1, 1)), model[0].bias.view(4, 1, 1) * torch.ones(5, 4, 6, 6)
    for o, i, row, column in keep["0.weight"].nonzero().tolist():
        moved = padded[:, i, row : row + 6, column : column + 6]
        wanted[:, o] += model[0].weight[o, i, row, column] * moved
    torch.testing.assert_close(model(X), wanted)


def test_hardening_refuses_a_slice_without_a_winner_and_changes_nothing():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))
    shift_attention.attach(model, ["0", "1"], seed=0)
    for name, beta in (("0", 1e4), ("1", 1.0)):
        model.get_submodule(name).parametrizations.weight[0].beta.data.fill_(beta)
    numbers = model[1].parametrizations.weight[0].logits.data
    numbers.copy_(torch.arange(9.0).expand_as(numbers))
    numbers[0, 0, 4] = 100.0  # one winner
    before = model(X)
    with pytest.raises(ValueError, match="7 of 8 slices"):
        gates.harden(model)
    assert torch.equal(model(X), before)


def test_no_faint_numbers_remain():
    model = conv()
    sharpen(model, 15.0)
    found = model[0].weight
    (found**2).sum().backward()
    for numbers in (attention(model).factor(), found, attention(model).logits.grad):
        assert not ((numbers != 0) & (numbers.abs() < torch.finfo(torch.float32).tiny)).any()
    exact = (15.0 * attention(model).logits / attention(model).logits.std(2, keepdim=True)).softmax(
        2
    )
    assert (exact < 1e-20).any()  # there would have been some
    torch.testing.assert_close(attention(model).factor().flatten(2), exact, rtol=0, atol=1e-19)


def test_trained_alone_and_in_a_stack_it_is_the_same_and_ends_hard():
    train, test = data.load("glyphs", n_train=300, n_test=100)
    nets = [models.small_cnn(width=0.25, seed=seed) for seed in (1, 2)]
    for seed, net in enumerate(nets):
        shift_attention.attach(net, ["conv2"], first=2.0, seed=seed)

    def annealed(model):
        optimizer = torch.optim.SGD(gates.parameter_groups(model), lr=0.05, momentum=0.9)
        gates.anneal(optimizer, model, to=2e4, steps=6)
        return optimizer

    plan = training.Plan(epochs=2, optimizer=annealed)
    stacked = ensemble.stack(nets)
    training.fit(stacked, train, plan)
    for net, member in zip(nets, ensemble.members(stacked), strict=True):
        own = net.conv2.parametrizations.weight[0]
        start = own.logits.detach().clone()
        assert own.beta.item() == 2.0
        training.fit(net, train, plan)
        assert own.beta.item() == pytest.approx(2e4) and not torch.equal(start, own.logits)
        torch.testing.assert_close(member(test.x), net(test.x), rtol=1e-3, atol=1e-4)
        keep = gates.harden(net)
        assert measure.count_weights(net) - int(sum((~m).sum() for m in keep.values())) == int(
            sum((w != 0).sum() for n, w in net.named_parameters() if n.endswith("weight"))
        )
        optimizer = training.sgd(net)
        masks.hold(optimizer, net, keep)
        training.fit(net, train, epochs=1, optimizer=optimizer)
        assert torch.equal(net.conv2.weight != 0, keep["conv2.weight"])


def test_the_annealing_begins_where_the_attention_does():
    model = conv()
    attention(model).first = 2.0
    sharpen(model, 2.0)
    optimizer = torch.optim.SGD(gates.parameter_groups(model), lr=0.0)
    gates.anneal(optimizer, model, to=32.0, steps=4)
    found = []
    for _ in range(5):
        optimizer.step()
        found.append(round(attention(model).beta.item(), 4))
    assert found == [4.0, 8.0, 16.0, 32.0, 32.0]
    with pytest.raises(ValueError, match="to must be above 2 and finite"):
        gates.anneal(optimizer, model, to=2.0, steps=4)


def test_bytes_by_hand():
    def mask(kernel):
        found = torch.zeros(8, 4, kernel, kernel, dtype=torch.bool)
        found[:, :, 0, 1] = True
        return found

    assert shift_attention.stored_bytes({"a": mask(3)}) == 32 * 36 // 8
    assert shift_attention.stored_bytes({"a": mask(5)}) == 32 * 37 // 8  # 25 places need 5 bits
    assert shift_attention.stored_bytes({"a": mask(2), "b": mask(3)}, bits=8) == 32 * (10 + 12) // 8
    two = mask(3)
    two[0, 0] = True
    for wrong in (two, two[:, 0, 0], torch.zeros_like(two)):
        with pytest.raises(ValueError, match=r"masks\['a'\] must be .* with one place per slice"):
            shift_attention.stored_bytes({"a": wrong})
    for bits in (0, 33, 2.0):
        with pytest.raises(ValueError, match="bits must be an integer"):
            shift_attention.stored_bytes({"a": mask(3)}, bits=bits)


@pytest.mark.parametrize(
    ("names", "kind", "words"),
    [
        (["1"], ValueError, "one group and a kernel of at least two places, got '1'"),
        (["2"], ValueError, "one group and a kernel of at least two places, got '2' with 2 groups"),
        (["4"], ValueError, "names must be convolutions of .*, got '4'"),
        (["nothing"], ValueError, "names must be convolutions of .*, got 'nothing'"),
        ([], ValueError, "names must hold at least one"),
        ("0", TypeError, "names must be a collection"),
        (None, TypeError, "names must be a collection"),
    ],
)
def test_what_is_refused(names, kind, words):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Linear(2, 2)
    )  # fmt: skip
    before = str(model)
    with pytest.raises(kind, match=words):
        shift_attention.attach(model, names, seed=0)
    assert str(model) == before


def test_what_else_is_refused():
    for first, kind in ((0.0, ValueError), (math.inf, ValueError), ("1", TypeError)):
        with pytest.raises(kind, match="first must be"):
            shift_attention.attach(nn.Conv2d(1, 1, 3), [""], first=first, seed=0)
    with pytest.raises(TypeError, match="seed must be an integer"):
        shift_attention.attach(nn.Conv2d(1, 1, 3), [""], seed=0.5)
    with pytest.raises(ValueError, match="names must be layers of"):
        gates.attach(nn.Linear(2, 2), gates.Sigmoid(), ["fc"])
