"""Layer-wise pruning against least squares, brute force, and Optimal Brain Surgeon step by step."""

import copy
import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import data, measure, models
from course_lib import language as language_models
from course_lib.compression import decomposition
from course_lib.pruning import (
    allocate,
    channels,
    criteria,
    granularity,
    layerwise,
    masks,
    second_order,
)

OUT = ["blocks.0.out.weight", "blocks.1.out.weight"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(tokens: int, inputs: int, *, seed: int = 0) -> Tensor:
    return draw(tokens, inputs, seed=seed) @ draw(inputs, inputs, seed=seed + 1)


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight.dtype)
    layer.weight.data = weight.clone()
    return layer


def half_of(shape: tuple[int, int], seed: int = 5) -> Tensor:
    return draw(*shape, seed=seed) > 0


def damped(gram: Tensor, damping: float = 0.01) -> Tensor:
    return gram + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)


def loss_of(w: Tensor, v: Tensor, gram: Tensor) -> Tensor:
    """What each row's outputs lose."""
    return ((w - v) @ gram * (w - v)).sum(1)


def given(mask: Tensor, block: int):
    """A pattern that gives the columns of ``mask``, one block after another."""
    parts = iter(mask.split(block, 1))
    return lambda scores: dict.fromkeys(scores, next(parts))


@pytest.fixture(scope="module")
def language():
    """A tiny transformer whose weights are not tiny, and some tokens."""
    model = models.tiny_transformer(20, width=16, heads=4, context=8, seed=1)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            weight.data.copy_(draw(*weight.shape, seed=len(name)).float() / 3)
    tokens = torch.randint(20, (700, 9), generator=torch.Generator().manual_seed(0))
    return model, tokens[:, :-1], tokens[:, 1:]


# ---- Gram matrices and Wanda


def test_gram_is_the_sum_over_all_tokens_of_what_the_layer_reads(language):
    model, x, _ = language
    seen = {}
    hooks = [
        module.register_forward_hook(
            lambda m, args, out, n=n: seen.update({f"{n}.weight": args[0]})
        )
        for n, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    found = layerwise.gram(model, x)  # 700 rows are two batches
    assert found.keys() == seen.keys() and len(found) == 8
    for name, z in seen.items():
        wanted = torch.einsum("bti,btj->ij", z.double(), z.double())
        assert found[name].dtype == torch.float64
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-4)
    assert layerwise.gram(model, x, OUT[:1]).keys() == {OUT[0]}


def test_gram_is_what_the_recursion_inverts():
    x = correlated(40, 6)
    found = layerwise.gram(nn.Linear(6, 2).double(), x)["weight"]
    wanted = second_order.inverse_by_recursion(x, alpha=0.5)
    torch.testing.assert_close(torch.linalg.inv(found / 40 + 0.5 * torch.eye(6)), wanted)


def test_tokens_of_several_calls_and_of_tied_layers_are_added_up():
    x = draw(7, 3)
    one, other = nn.Linear(3, 3, bias=False).double(), nn.Linear(3, 3, bias=False).double()
    other.weight = one.weight
    read = torch.cat([x, one(x), one(one(x))]).detach()
    found = layerwise.gram(nn.Sequential(one, one, other), x)
    assert found.keys() == {"0.weight"}
    torch.testing.assert_close(found["0.weight"], read.t() @ read)


def test_wanda_is_the_size_of_the_weight_times_that_of_its_input():
    w, x = draw(3, 5), correlated(30, 5)
    found = layerwise.wanda(linear(w), x)["weight"]
    torch.testing.assert_close(found, w.abs() * x.norm(dim=0))


@pytest.mark.parametrize("seed", range(3))
def test_wanda_finds_the_best_mask_of_each_row_if_the_inputs_are_orthogonal(seed):
    w = draw(4, 8, seed=seed)
    x = torch.linalg.qr(draw(20, 8, seed=seed + 50)).Q * (draw(8, seed=seed + 99).abs() + 0.1)
    gram = x.t() @ x
    keep = allocate.per_output(layerwise.wanda(linear(w), x), 0.5)["weight"]
    every = [
        torch.zeros(8, dtype=torch.bool).index_fill(0, torch.tensor(kept), True)
        for kept in itertools.combinations(range(8), 4)
    ]
    lost = torch.stack([loss_of(w, w * mask, gram) for mask in every])  # (70, rows)
    assert torch.equal(keep, torch.stack([every[k] for k in lost.argmin(0)]))


# ---- the refit


@pytest.mark.parametrize("inputs", [5, 12])
def test_refit_is_least_squares_on_the_raw_inputs(inputs):
    w, x, keep = draw(6, inputs), correlated(50, inputs), half_of((6, inputs))
    keep[0], keep[1] = True, False
    found = layerwise.refit(w, x.t() @ x, keep, damping=0.0)
    assert torch.equal(found[0], w[0]) and torch.equal(found[1], torch.zeros(inputs).double())
    for row in range(6):
        wanted = torch.linalg.lstsq(x[:, keep[row]], x @ w[row]).solution
        torch.testing.assert_close(found[row, keep[row]], wanted, rtol=1e-10, atol=1e-10)
    assert torch.equal(found.masked_select(~keep).abs().sum(), torch.tensor(0.0).double())


def test_refit_has_no_slope_on_the_places_that_stay():
    w, x, keep = draw(6, 40), correlated(10, 40), half_of((6, 40))  # fewer tokens than inputs
    h = damped(x.t() @ x)
    found = layerwise.refit(w, x.t() @ x, keep)
    slope = (w - found) @ h
    assert (slope * keep).abs().max() < 1e-10 * slope.abs().max()
    with_zeros = torch.where(keep, w, 0.0)
    assert (loss_of(w, found, h) <= loss_of(w, with_zeros, h)).all()


def test_refit_does_not_depend_on_how_many_rows_are_solved_at_once(monkeypatch):
    w, x, keep = draw(7, 9), correlated(30, 9), half_of((7, 9))
    found = layerwise.refit(w, x.t() @ x, keep)
    monkeypatch.setattr(layerwise, "CHUNK", 100)
    torch.testing.assert_close(layerwise.refit(w, x.t() @ x, keep), found, rtol=1e-12, atol=1e-12)


def test_refit_with_one_mask_for_all_rows_is_what_reconstruct_does_for_channels():
    model = models.seeded(0, lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    model, x = model.double(), draw(60, 4)
    graph = channels.trace(model, x)
    dead = graph.layers()["0"][1:3]
    repaired = channels.reconstruct(model, graph, dead, x, ridge=0)[2]
    read = F.pad(model[:2](x), (0, 1), value=1.0).detach()  # the bias is one more column
    w = torch.cat([model[2].weight, model[2].bias.unsqueeze(1)], 1).detach()
    keep = torch.ones_like(w, dtype=torch.bool)
    keep[:, 1:3] = False
    found = layerwise.refit(w, read.t() @ read, keep, damping=0.0)
    torch.testing.assert_close(found[:, :-1], repaired.weight.detach())
    torch.testing.assert_close(found[:, -1], repaired.bias.detach())


@pytest.mark.parametrize("seed", range(8))
def test_least_squares_takes_the_smallest_solution_where_there_are_many(seed):
    """Also where rounding hides from Cholesky's method that a column is there twice."""
    a, b = draw(30, 4, seed=seed)[:, [0, 1, 2, 3, 1]], draw(30, 2, seed=seed + 50)
    found = layerwise.least_squares(a.t() @ a, a.t() @ b, torch.zeros(5).double())
    torch.testing.assert_close(found, torch.linalg.pinv(a) @ b, rtol=1e-8, atol=1e-8)


def test_rewrite_puts_the_new_weights_into_a_copy(language):
    model, x, _ = language
    keep = allocate.per_output(criteria.magnitude(model), 0.5)
    before = copy.deepcopy(model.state_dict())
    new = layerwise.rewrite(model, x, lambda n, w, g: layerwise.refit(w, g, keep[n]), OUT)
    grams = layerwise.gram(model, x, OUT)
    for name, weight in new.named_parameters():
        assert torch.equal(model.get_parameter(name), before[name])
        if name in OUT:
            torch.testing.assert_close(
                weight, layerwise.refit(before[name], grams[name], keep[name])
            )
        else:
            assert torch.equal(weight, before[name])


# ---- SparseGPT


def test_sparsegpt_is_a_chain_of_brain_surgeons_deletions_on_what_is_still_to_come():
    w, x, keep = draw(6, 12), correlated(50, 12), half_of((6, 12))
    h, wanted = damped(x.t() @ x), w.clone()
    for row, j in (~keep).nonzero().tolist():
        trailing = torch.linalg.inv(h[j:, j:])
        wanted[row, j:], _ = second_order.delete(wanted[row, j:], trailing, 0)
    found, kept = layerwise.sparsegpt(linear(w), x, given(keep, 12), block=12)
    torch.testing.assert_close(found.weight.detach(), wanted, rtol=1e-10, atol=1e-10)
    assert torch.equal(kept["weight"], keep)


@pytest.mark.parametrize("block", [1, 2, 3, 8, 128])
def test_for_a_given_mask_the_size_of_the_blocks_is_bookkeeping(block):
    w, x, keep = draw(6, 12), correlated(50, 12), half_of((6, 12))
    found, kept = layerwise.sparsegpt(linear(w), x, given(keep, block), block=block)
    wanted, _ = layerwise.sparsegpt(linear(w), x, given(keep, 12), block=12)
    torch.testing.assert_close(found.weight, wanted.weight, rtol=1e-10, atol=1e-10)
    assert torch.equal(kept["weight"], keep)


def test_sparsegpt_is_exact_if_the_first_go_and_repairs_nothing_if_the_last_go():
    w, x = draw(5, 10), correlated(40, 10)
    first = (torch.arange(10) >= 4).expand(5, 10)
    found, _ = layerwise.sparsegpt(linear(w), x, given(first, 10), block=10)
    wanted = layerwise.refit(w, x.t() @ x, first)
    torch.testing.assert_close(found.weight.detach(), wanted, rtol=1e-10, atol=1e-10)
    last = (torch.arange(10) < 6).expand(5, 10)
    found, _ = layerwise.sparsegpt(linear(w), x, given(last, 10), block=10)
    assert torch.equal(found.weight.detach(), w.masked_fill(~last, 0))


def pruned_by_hand(w: Tensor, h: Tensor, block: int, choose) -> tuple[Tensor, Tensor]:
    """SparseGPT one weight at a time, with a new inverse for each column."""
    w, keep = w.clone(), torch.ones_like(w, dtype=torch.bool)
    for j in range(w.shape[1]):
        if j % block == 0:
            end = min(j + block, w.shape[1])
            costs = [torch.linalg.inv(h[k:, k:])[0, 0] for k in range(j, end)]
            keep[:, j:end] = choose(w[:, j:end].square() / torch.stack(costs))
        inverse = torch.linalg.inv(h[j:, j:])
        for row in (~keep[:, j]).nonzero().flatten().tolist():
            w[row, j:] -= w[row, j] / inverse[0, 0] * inverse[0]
            w[row, j] = 0
    return w, keep


@pytest.mark.parametrize("block", [4, 8, 12])
@pytest.mark.parametrize(
    "pattern",
    [
        partial(allocate.per_output, sparsity=0.5),
        partial(allocate.per_layer, sparsity=0.25),
        granularity.n_of_m,
        partial(granularity.n_of_m, keep=1, of=4),
    ],
    ids=["per output", "per layer", "2:4", "1:4"],
)
def test_sparsegpt_chooses_in_each_block_by_the_cost_at_that_moment(pattern, block):
    w, x = draw(6, 12), correlated(50, 12)
    wanted = pruned_by_hand(w, damped(x.t() @ x), block, lambda s: pattern({"s": s})["s"])
    found, keep = layerwise.sparsegpt(linear(w), x, pattern, block=block)
    assert torch.equal(keep["weight"], wanted[1])
    assert torch.equal(found.weight != 0, keep["weight"])
    torch.testing.assert_close(found.weight.detach(), wanted[0], rtol=1e-9, atol=1e-9)


def test_sparsegpt_of_a_network_prunes_every_layer_and_nothing_else(language):
    model, x, _ = language
    before = copy.deepcopy(model.state_dict())
    pruned, keep = layerwise.sparsegpt(model, x, partial(allocate.per_output, sparsity=0.5))
    assert masks.sparsity(keep) == 0.5 and len(keep) == 8
    for name, weight in pruned.named_parameters():
        assert torch.equal(model.get_parameter(name), before[name])
        if name in keep:
            assert torch.equal(weight != 0, keep[name])
        else:
            assert torch.equal(weight, before[name])
    only, keep = layerwise.sparsegpt(model, x, granularity.n_of_m, names=OUT)
    assert keep.keys() == {*OUT}
    assert torch.equal(only.blocks[0].up.weight, before["blocks.0.up.weight"])


# ---- heads and blocks


def test_the_gate_of_a_head_is_its_columns_of_the_next_weight(language, monkeypatch):
    """The slope at the gate is that of the loss along the head's columns, for each sequence."""
    model, x, y = language
    x, y, columns = x[:40], y[:40], slice(4, 8)  # head 1
    monkeypatch.setattr(layerwise, "TOKENS", 200)  # two batches
    found = layerwise.heads(model, (x, y), dict.fromkeys(OUT, 4))[OUT[0]]
    slopes = []
    for row, target in zip(x, y, strict=True):
        loss = F.cross_entropy(model(row.unsqueeze(0))[0], target)
        (g,) = torch.autograd.grad(loss, model.blocks[0].out.weight)
        slopes.append((g * model.blocks[0].out.weight)[:, columns].sum())
    torch.testing.assert_close(
        found[1], torch.stack(slopes).abs().mean().detach(), rtol=1e-3, atol=0
    )


def test_a_small_closing_of_a_gate_costs_what_its_slope_says(language):
    """Against differences of the measured loss, without a gradient."""
    model, x, y = language
    found = layerwise.heads(model, (x[:1], y[:1]), {OUT[1]: 4})[OUT[1]]
    model, step, lost = copy.deepcopy(model).double(), 1e-4, []
    with torch.no_grad():
        for head in range(4):
            at = []
            for gate in (1 + step, 1 - step):
                closed = copy.deepcopy(model)
                closed.blocks[1].out.weight[:, 4 * head : 4 * head + 4] *= gate
                at.append(F.cross_entropy(closed(x[:1])[0], y[0]))
            lost.append(abs(at[0] - at[1]) / (2 * step))
    torch.testing.assert_close(found.double(), torch.stack(lost), rtol=1e-3, atol=1e-6)


def test_gates_rank_the_heads_of_a_trained_model_nearly_as_their_removal_does():
    model, text = language_models.trained(0), data.Grammar(0).sample(100, 32, seed=77)
    x, y = text.split()
    scores = layerwise.heads(model, (x, y), dict.fromkeys(OUT, 4))
    lost = []
    for name in OUT:
        for head in range(4):
            keep = torch.ones(64, 64, dtype=torch.bool)
            keep[:, 16 * head : 16 * head + 16] = False
            cut = copy.deepcopy(model)
            masks.apply(cut, {name: keep})
            lost.append(measure.nats(cut, text) - measure.nats(model, text))
    ranks = [
        v.argsort().argsort().double() for v in (torch.cat([*scores.values()]), torch.tensor(lost))
    ]
    assert (
        torch.corrcoef(torch.stack(ranks))[0, 1] > 0.7
    )  # one model, given numbers: no chance in it


def test_a_head_without_effect_scores_zero(language):
    model, x, y = language
    model = copy.deepcopy(model)
    model.blocks[1].out.weight.data[:, 8:12] = 0
    found = layerwise.heads(model, (x, y), {OUT[1]: 4})[OUT[1]]
    assert found[2] == 0 and (found[[0, 1, 3]] > 0).all()


def test_block_influence_is_the_angle_between_what_a_block_reads_and_gives(language):
    model, x, _ = language
    found = layerwise.block_influence(model, x, ["blocks.0", "blocks.1"])
    with torch.no_grad():
        h = model.words(x) + model.positions(torch.arange(8))
        for k, block in enumerate(model.blocks):
            after = block(h)
            cosine = (h * after).sum(-1) / h.norm(dim=-1) / after.norm(dim=-1)
            assert found[f"blocks.{k}"] == pytest.approx(1 - float(cosine.mean()), abs=1e-5)
            h = after


def test_a_block_that_is_cut_out_has_no_influence(language):
    model, x, _ = language
    cut = decomposition.replaced(model, {"blocks.1": nn.Identity()})
    assert layerwise.block_influence(cut, x, ["blocks.1"])["blocks.1"] == pytest.approx(0, abs=1e-9)


def test_block_influence_takes_a_block_that_gives_a_tuple():
    class Pair(nn.Module):
        def forward(self, x):
            return x, None

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return self.pair(x)[0]

    found = layerwise.block_influence(First(), draw(3, 4), ["pair"])
    assert found["pair"] == pytest.approx(0, abs=1e-12)


# ---- types, modes, inputs of zeros


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_its_own_type_of_what_is_computed_in_float64(dtype):
    w, x, keep = draw(6, 12).to(dtype), correlated(50, 12).to(dtype), half_of((6, 12))
    g = layerwise.gram(linear(w), x)["weight"]
    torch.testing.assert_close(g, x.double().t() @ x.double())
    assert torch.equal(layerwise.refit(w, g, keep), layerwise.refit(w.double(), g, keep).to(dtype))
    wanda = layerwise.wanda(linear(w), x)["weight"]
    assert wanda.dtype == torch.float32 and wanda.isfinite().all()
    found, kept = layerwise.sparsegpt(linear(w), x, granularity.n_of_m)
    wanted, same = layerwise.sparsegpt(linear(w.double()), x.double(), granularity.n_of_m)
    assert torch.equal(found.weight, wanted.weight.to(dtype)) and torch.equal(
        kept["weight"], same["weight"]
    )


def test_the_model_keeps_its_modes_buffers_and_hooks_also_after_an_error():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 2))
    model[2].eval()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    x = draw(20, 4).float()
    first, second = layerwise.gram(model, x), layerwise.gram(model, x)
    assert all(torch.equal(first[n], second[n]) for n in first)  # no dropout, no statistics
    calls = [
        lambda x: layerwise.gram(model, x),
        lambda x: layerwise.heads(model, (x, torch.zeros(len(x)).long()), {"3.weight": 5}),
        lambda x: layerwise.block_influence(model, x, ["1"]),
        lambda x: layerwise.sparsegpt(model, x, lambda scores: {}),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            call(x[:, :3])
    for call in calls[:3]:
        call(x)
    for module in model.modules():
        assert not module._forward_pre_hooks and not module._forward_hooks
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[n], t) for n, t in before.items())
    assert all(p.grad is None for p in model.parameters())


def test_an_input_that_is_always_zero_costs_nothing_and_stops_nobody():
    w, x = draw(4, 6), correlated(30, 6)
    x[:, 2] = 0
    keep = allocate.per_output(layerwise.wanda(linear(w), x), 1 / 6)["weight"]
    assert torch.equal(keep, (torch.arange(6) != 2).expand(4, 6))
    assert torch.equal(layerwise.refit(w, x.t() @ x, keep), w * keep)
    found, kept = layerwise.sparsegpt(
        linear(w), torch.zeros(30, 6).double(), partial(granularity.n_of_m, keep=1, of=2)
    )
    assert torch.equal(found.weight.detach(), w * kept["weight"])  # of no input, nothing to repair


# ---- bad input


def test_fewer_tokens_than_inputs_is_a_warning_that_counts_them():
    with pytest.warns(UserWarning, match=r"x gives 3 tokens for the 4 inputs of 'weight': without"):
        layerwise.gram(nn.Linear(4, 2), torch.randn(3, 4))
    two = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    with pytest.warns(UserWarning, match="too few for 1 more layers"):
        layerwise.gram(two, torch.randn(3, 4))


SQUARE = (torch.ones(2, 3), torch.eye(3), torch.ones(2, 3, dtype=torch.bool))
RANK_ONE = torch.ones(3, 3)
BAD_SYSTEMS = [
    (torch.ones(3), *SQUARE[1:], 0.01, ValueError, r"weight must be \(out, in\), got shape \(3,\)"),
    (torch.ones(2, 3).long(), *SQUARE[1:], 0.01, TypeError, "weight must be a floating-point"),
    (torch.full((2, 3), torch.nan), *SQUARE[1:], 0.01, ValueError, "weight must be finite"),
    (SQUARE[0], torch.eye(4), SQUARE[2], 0.01, ValueError, r"gram must be \(3, 3\).*got \(4, 4\)"),
    (SQUARE[0], torch.eye(3) * torch.inf, SQUARE[2], 0.01, ValueError, "gram must be finite"),
    (SQUARE[0], torch.eye(3).long(), SQUARE[2], 0.01, TypeError, "gram must be a floating-point"),
    (
        *SQUARE[:2],
        torch.ones(3, 2) > 0,
        0.01,
        ValueError,
        r"mask must have shape \(2, 3\), got \(3, 2\)",
    ),
    (*SQUARE[:2], torch.ones(2, 3), 0.01, TypeError, "mask must be a torch.bool tensor"),
    (*SQUARE, -1, ValueError, "damping must be finite and not negative, got -1"),
    (*SQUARE, "x", TypeError, "damping must be a number, got 'x'"),
    (SQUARE[0], RANK_ONE, SQUARE[2], 0, ValueError, "damping must be higher.*rank 1 of 3"),
]


@pytest.mark.parametrize(("w", "g", "mask", "damping", "kind", "message"), BAD_SYSTEMS)
def test_systems_that_cannot_be_solved_are_refused(w, g, mask, damping, kind, message):
    with pytest.raises(kind, match=message):
        layerwise.refit(w, g, mask, damping=damping)
    if "mask" not in message:
        with pytest.raises(kind, match=message):
            layerwise.sweep(w, g, lambda *_: lambda j, column: column, damping=damping)


MLP = models.mlp((4, 5, 2))
X = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))


class Skips(nn.Sequential):
    def forward(self, x):
        return self[0](x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x):
        return self.head(self.words(x))


OVERFLOWS = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
OVERFLOWS[0].weight.data.fill_(10.0)
TOKENS = torch.zeros(2, 3, dtype=torch.int64)
BAD_MODELS = [
    (MLP, X[:0], None, ValueError, "x must hold at least one example"),
    (MLP, [1.0], None, TypeError, "x must be a tensor, got list"),
    (MLP, X * torch.nan, None, ValueError, "x must be finite"),
    (MLP, X[:, :3], None, ValueError, "x must fit the model"),
    (models.tiny_transformer(9), TOKENS.float(), None, ValueError, "x must fit the model"),
    (models.tiny_transformer(9), TOKENS + 9, None, ValueError, "x must fit the model"),
    (MLP, X, "fc1.weight", TypeError, "names must be several names, got the string"),
    (MLP, X, [], ValueError, "names must hold at least one"),
    (
        MLP,
        X,
        ["fc1"],
        ValueError,
        "names has 'fc1', which is no weight of a linear layer of model; it has",
    ),
    (models.small_cnn(), torch.zeros(1, 1, 14, 14), None, NotImplementedError, "'conv1', a Conv2d"),
    (Tied(), TOKENS, None, NotImplementedError, "'head.weight', but 'words', a Embedding"),
    (Skips(nn.Linear(4, 3), nn.Linear(3, 2)), X, None, ValueError, "leaves out that of '1.weight'"),
    (nn.ReLU(), X, None, ValueError, "linear or convolution layer"),
    (OVERFLOWS, X * 1e38, None, ValueError, "what the layer of '1.weight' reads must be finite"),
]


@pytest.mark.parametrize(("model", "x", "names", "kind", "message"), BAD_MODELS)
def test_models_and_inputs_that_cannot_be_read_are_refused(model, x, names, kind, message):
    for function in (layerwise.gram, layerwise.wanda):
        with pytest.raises(kind, match=message):
            function(model, x, names)
    with pytest.raises(kind, match=message):
        layerwise.sparsegpt(model, x, granularity.n_of_m, names=names)


def test_a_network_without_an_inverse_is_told_layer_rank_and_tokens():
    with (
        pytest.warns(UserWarning, match="without damping there is no inverse"),
        pytest.raises(ValueError, match="'fc1.weight', on 3 tokens of x.*rank 3 of 4"),
    ):
        layerwise.sparsegpt(MLP, X[:3], partial(allocate.per_output, sparsity=0.5), damping=0)


@pytest.mark.parametrize(
    ("pattern", "block", "kind", "message"),
    [
        (lambda scores: {}, 128, ValueError, "pattern must give a mask for every score, got none"),
        (lambda scores: {"x": torch.ones(1)}, 128, ValueError, "pattern's masks names 'x'"),
        (
            lambda scores: {n: s[:1] > 0 for n, s in scores.items()},
            128,
            ValueError,
            "must have shape",
        ),
        (lambda scores: scores, 128, TypeError, "torch.bool"),
        (granularity.n_of_m, 3, ValueError, "of must divide the number of inputs, got 4 and the 3"),
        (granularity.n_of_m, 0, ValueError, "block must be a positive integer, got 0"),
        (granularity.n_of_m, 2.0, ValueError, "block must be a positive integer, got 2.0"),
    ],
)
def test_patterns_and_blocks_that_do_not_fit_are_refused(pattern, block, kind, message):
    with pytest.raises(kind, match=message):
        layerwise.sparsegpt(MLP, X, pattern, block=block)


BATCH = X, torch.arange(6) % 2


@pytest.mark.parametrize(
    ("batch", "counts", "kind", "message"),
    [
        (BATCH, {}, ValueError, "counts must hold at least one"),
        (
            BATCH,
            {"fc1.weight": 3},
            ValueError,
            r"counts\['fc1.weight'\] must divide the 4 inputs, got 3",
        ),
        (BATCH, {"fc1.weight": 0}, ValueError, "must be a positive integer, got 0"),
        (BATCH, {"fc9.weight": 2}, ValueError, "counts has 'fc9.weight', which is no weight"),
        (X, {"fc1.weight": 2}, ValueError, "batch must be a pair"),
        ((X, BATCH[1][:3]), {"fc1.weight": 2}, ValueError, "batch must hold as many"),
        ((X[:, :3], BATCH[1]), {"fc1.weight": 2}, ValueError, "batch must fit the model"),
        ((X, BATCH[1] + 7), {"fc1.weight": 2}, ValueError, "batch must have targets that fit"),
        (
            (X * torch.nan, BATCH[1]),
            {"fc1.weight": 2},
            ValueError,
            "the loss on batch must be finite",
        ),
    ],
)
def test_heads_that_cannot_be_scored_are_refused(batch, counts, kind, message):
    with pytest.raises(kind, match=message):
        layerwise.heads(MLP, batch, counts)


@pytest.mark.parametrize(
    ("x", "blocks", "kind", "message"),
    [
        (X, [], ValueError, "blocks must hold at least one"),
        (X, ["fc9"], ValueError, "blocks has 'fc9', which is no module"),
        (X, ["fc1"], ValueError, "blocks must keep the shape, but 'fc1' reads and gives"),
        (X[:0], ["fc1"], ValueError, "x must hold at least one example"),
        (None, ["fc1"], TypeError, "x must be a tensor"),
    ],
)
def test_blocks_that_cannot_be_measured_are_refused(x, blocks, kind, message):
    with pytest.raises(kind, match=message):
        layerwise.block_influence(MLP, x, blocks)
