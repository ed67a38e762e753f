"""Allocation: exact counts, torch's masks, nesting, Erdős–Rényi against water-filling."""

import copy
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

from course_lib import models
from course_lib.pruning import allocate, criteria, masks, schedules

SPARSITIES = [0, 0.1, 0.3, 0.5, 0.731, 0.9, 0.999, 1]


def removed(keep):
    return sum(int((~m).sum()) for m in keep.values())


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9, 0.99])
def test_global_masks_are_torchs(sparsity):
    net = models.lenet5(width=0.3)
    ours = allocate.globally(criteria.magnitude(net), sparsity)
    theirs = copy.deepcopy(net)
    layers = [(m, "weight") for m in theirs.modules() if hasattr(m, "weight")]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=sparsity)
    for name, mask in ours.items():
        module = theirs.get_submodule(name.removesuffix(".weight"))
        assert torch.equal(mask, module.weight_mask.bool())


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9, 0.99])
def test_local_masks_are_torchs(sparsity):
    net = models.lenet5(width=0.3)
    ours = allocate.per_layer(criteria.magnitude(net), sparsity)
    for name, mask in ours.items():
        module = copy.deepcopy(net.get_submodule(name.removesuffix(".weight")))
        prune.l1_unstructured(module, "weight", amount=sparsity)
        assert torch.equal(mask, module.weight_mask.bool())


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_counts_are_exact_ties_included(sparsity):
    generator = torch.Generator().manual_seed(0)
    scores = {
        "distinct": torch.rand(7, 11, generator=generator),
        "ties": torch.randint(0, 3, (5, 2, 3, 3), generator=generator).float(),
        "equal": torch.ones(13, 1),
        "one": torch.zeros(1, 1),
    }
    n = sum(s.numel() for s in scores.values())
    assert removed(allocate.globally(scores, sparsity)) == round(sparsity * n)
    for name, mask in allocate.per_layer(scores, sparsity).items():
        assert mask.shape == scores[name].shape
        assert int((~mask).sum()) == round(sparsity * scores[name].numel())


def test_masks_are_those_of_pythons_sort():
    generator = torch.Generator().manual_seed(1)
    for trial in range(200):
        scores = {
            str(i): torch.randint(0, 4, (int(n), 2), generator=generator) / 2
            for i, n in enumerate(torch.randint(1, 5, (3,), generator=generator))
        }
        flat = [float(v) for s in scores.values() for v in s.flatten()]
        keep = len(flat) - round(trial / 199 * len(flat))
        stays = sorted(range(len(flat)), key=lambda i: (-flat[i], i))[:keep]  # earlier stays
        got = torch.cat([m.flatten() for m in allocate.globally(scores, trial / 199).values()])
        assert got.nonzero().flatten().tolist() == sorted(stays)


def stable(tensors, n_keep, within=None):
    """The oracle: NumPy's stable sort of everything, highest first; the first n_keep stay."""
    flat = np.concatenate([t.double().numpy().ravel() for t in tensors.values()])
    order = np.argsort(-flat, kind="stable")
    if within is not None:
        order = order[np.concatenate([m.numpy().ravel() for m in within.values()])[order]]
    keep = np.zeros(len(flat), bool)
    keep[order[:n_keep]] = True
    parts = np.split(keep, np.cumsum([t.numel() for t in tensors.values()])[:-1])
    return {n: torch.from_numpy(k).view(t.shape) for (n, t), k in zip(tensors.items(), parts)}


def large(kind):
    """1.3 million scores in three layers, enough for a sample to be drawn."""
    g = torch.Generator().manual_seed(0)
    shapes = {"a": (1000, 700), "b": (64, 64, 3, 3), "c": (1024, 600)}
    found = {n: torch.randn(shape, generator=g) for n, shape in shapes.items()}
    if kind == "ties":
        found = {n: (2 * s).round() for n, s in found.items()}
    if kind == "equal":
        found = {n: torch.ones_like(s) for n, s in found.items()}
    if kind == "infinite":
        found = {
            n: s.masked_fill(s.abs() > 1, torch.inf).masked_fill(s < -1, -torch.inf)
            for n, s in found.items()
        }
    if kind == "sorted":
        found = {
            n: s.flatten().sort().values.view(s.shape) + i for i, (n, s) in enumerate(found.items())
        }
    if kind == "channels last":
        found["b"] = found["b"].to(memory_format=torch.channels_last)
    if kind == "misleading":  # all that a sample at even distances sees is the same number
        step = sum(s.numel() for s in found.values()) // 65_536
        for s in found.values():
            s.view(-1)[::step] = 2.0
    return found


@pytest.mark.filterwarnings("ignore:nothing is left")
@pytest.mark.parametrize(
    "kind", ["plain", "ties", "equal", "infinite", "sorted", "channels last", "misleading"]
)
def test_masks_of_millions_are_those_of_a_stable_sort(kind):
    scores = large(kind)
    n = sum(s.numel() for s in scores.values())
    within = {name: s.sin() > -0.5 for name, s in large("plain").items()}
    alive = sum(int(m.sum()) for m in within.values())
    for sparsity in (0, 1e-6, 0.31, 0.5, 0.9, 1 - 1e-6, 1):
        n_keep = n - round(sparsity * n)
        got = allocate.globally(scores, sparsity)
        assert all(torch.equal(got[name], m) for name, m in stable(scores, n_keep).items())
        if n_keep <= alive:
            got = allocate.globally(scores, sparsity, within=within)
            expected = stable(scores, n_keep, within)
            assert all(torch.equal(got[name], m) for name, m in expected.items())
    got = allocate.per_layer(scores, 0.3)["a"]
    assert torch.equal(got, stable({"a": scores["a"]}, 490_000)["a"])


@pytest.mark.filterwarnings("ignore:nothing is left")
@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.float16,), (torch.bfloat16,), (torch.float64,), (torch.int8,), (torch.int32,),
        (torch.uint8,), (torch.float16, torch.float32), (torch.float32, torch.float64),
        (torch.int32, torch.float64), (torch.float16, torch.bfloat16),
    ],
    ids=str,
)  # fmt: skip
def test_scores_of_any_type(dtypes):
    g = torch.Generator().manual_seed(0)
    scores = {
        str(i): (100 * torch.rand(40, 50, generator=g)).to(dtypes[i % len(dtypes)])
        for i in range(3)
    }
    for sparsity in (0.25, 0.9):
        got = allocate.globally(scores, sparsity)
        expected = stable(scores, 6000 - round(sparsity * 6000))
        assert all(torch.equal(got[name], m) for name, m in expected.items())
        assert removed(allocate.per_layer(scores, sparsity)) == 3 * round(sparsity * 2000)


@pytest.mark.filterwarnings("ignore:nothing is left")
def test_whole_numbers_are_compared_exactly():
    scores = {"a": torch.tensor([2**62, 2**62 + 1, 2**62 + 2])}  # one number in float64
    assert allocate.globally(scores, 1 / 3)["a"].tolist() == [False, True, True]
    finer = {"a": torch.tensor([1.0]), "b": torch.tensor([1.0 + 1e-12], dtype=torch.float64)}
    assert not allocate.globally(finer, 0.5)["a"]  # not rounded to float32


def test_an_empty_layer_stays_empty():
    scores = {"none": torch.ones(0, 3), "some": torch.arange(4.0)}
    for keep in (allocate.globally(scores, 0.5), allocate.per_layer(scores, 0.5)):
        assert keep["none"].shape == (0, 3) and keep["some"].tolist() == [False, False, True, True]


def test_scores_and_masks_stay_as_they_were():
    scores, within = {"a": torch.rand(5, 4)}, {"a": torch.rand(5, 4) > 0.2}
    before = copy.deepcopy((scores, within))
    keep = allocate.globally(scores, 0.9, within=within)["a"]
    keep.fill_(True)
    allocate.per_layer(scores, 0.3)["a"].fill_(True)
    assert torch.equal(scores["a"], before[0]["a"]) and torch.equal(within["a"], before[1]["a"])


def test_infinite_scores_are_kept():
    scores = {"a": torch.tensor([[1.0, math.inf, -math.inf, math.inf]])}
    assert allocate.globally(scores, 0.5)["a"].tolist() == [[False, True, False, True]]


def test_any_real_number_is_a_sparsity():
    scores = {"a": torch.rand(1000, 1001)}
    for s in (np.float32(0.1), np.float64(0.1), Fraction(1, 10)):
        assert removed(allocate.globally(scores, s)) == round(float(s) * 1_001_000)


def test_shares_by_name():
    scores = criteria.magnitude(models.mlp((10, 10, 10)))
    keep = allocate.per_layer(scores, {"fc1.weight": 0.2, "fc2.weight": 0.9})
    assert [int(m.sum()) for m in keep.values()] == [80, 10]


def test_rounds_are_nested_and_exact():
    net = models.mlp(seed=3)
    keep, n = None, 25_100
    for step, sparsity in enumerate([0.3, 0.31, 0.6, 0.6, 0.95, 1.0]):
        scores = criteria.random(net, seed=step)  # other scores every round: the worst case
        new = allocate.globally(scores, sparsity, within=keep)
        assert removed(new) == round(sparsity * n)
        if keep is not None:
            assert all((new[name] <= keep[name]).all() for name in new)
        keep = new


def test_within_keeps_the_best_of_what_is_left():
    scores = {"a": torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])}
    within = {"a": torch.tensor([[False, True, True, True, False]])}
    got = allocate.globally(scores, 0.6, within=within)["a"]
    assert got.tolist() == [[False, True, True, False, False]]
    assert within["a"].tolist() == [[False, True, True, True, False]]


def water_filling(shapes, sparsity, kernel):
    """Densities min(1, ε r_l) with ε by bisection: Erdős–Rényi without the layer-by-layer loop."""
    raw, size = {}, {}
    for name, shape in shapes.items():
        sides = shape if kernel else shape[:2]
        raw[name], size[name] = sum(sides) / math.prod(sides), math.prod(shape)
    low, high = 0.0, 1e9
    for _ in range(200):
        eps = (low + high) / 2
        kept = sum(min(1, eps * raw[n]) * size[n] for n in shapes)
        low, high = (eps, high) if kept < (1 - sparsity) * sum(size.values()) else (low, eps)
    return {n: min(1, high * raw[n]) for n in shapes}


SHAPES = {
    "conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "point": (10, 50, 1, 1),
    "fc1": (500, 800), "fc2": (10, 500),
}  # fmt: skip


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.8, 0.9, 0.98, 0.999, 1.0])
def test_erdos_renyi_is_water_filling(sparsity, kernel):
    got = allocate.erdos_renyi(SHAPES, sparsity, kernel=kernel)
    expected = water_filling(SHAPES, sparsity, kernel)
    for name, shape in SHAPES.items():
        assert abs((1 - got[name]) - expected[name]) * math.prod(shape) <= 1  # one weight
    scores = {name: torch.rand(shape) for name, shape in SHAPES.items()}
    n = sum(math.prod(shape) for shape in SHAPES.values())
    assert removed(allocate.per_layer(scores, got)) == round(sparsity * n)


def test_erdos_renyi_keeps_weights_in_proportion_to_units():
    shapes = {"a": (100, 300), "b": (50, 70)}
    shares = allocate.erdos_renyi(shapes, 0.9)
    kept = {n: (1 - s) * math.prod(shapes[n]) for n, s in shares.items()}
    assert kept["a"] / kept["b"] == pytest.approx(400 / 120, rel=0.01)
    assert shares == allocate.erdos_renyi(shapes, 0.9, kernel=False)  # linear layers: no kernel


def test_erdos_renyi_saturates_small_layers():
    shares = allocate.erdos_renyi({"big": (1000, 1000), "small": (4, 4)}, 0.5)
    assert shares["small"] == 0


def test_iterating_a_schedule_equals_its_end_for_fixed_scores():
    scores = criteria.magnitude(models.mlp())
    keep, schedule = None, schedules.geometric(0.9, 5)
    for step in range(1, 6):
        keep = allocate.globally(scores, schedule(step), within=keep)
    once = allocate.globally(scores, 0.9)
    assert all(torch.equal(keep[n], once[n]) for n in keep)


GOOD = {"a": torch.rand(2, 3)}
KEEP = {"a": torch.ones(2, 3, dtype=torch.bool)}
NAN = {"a": torch.rand(1000, 1000), "b": torch.rand(300, 300)}
NAN["b"][7, 7] = NAN["b"][8, 8] = math.nan
NOT_NAN = {n: ~s.isnan() for n, s in NAN.items()}
HALF = {"a": torch.tensor([[True, True, True], [False, False, False]])}
BAD = [
    (lambda: allocate.globally(GOOD, 1.5), ValueError, r"sparsity must be in \[0, 1\].*1.5"),
    (lambda: allocate.globally(GOOD, -0.1), ValueError, r"sparsity must be in \[0, 1\]"),
    (lambda: allocate.globally(GOOD, math.nan), ValueError, "sparsity must be.*nan"),
    (lambda: allocate.globally(GOOD, "half"), TypeError, "sparsity must be a number.*'half'"),
    (lambda: allocate.globally(GOOD, True), TypeError, "sparsity must be a number.*True"),
    (lambda: allocate.per_layer(GOOD, "half"), TypeError, r"sparsity\['a'\] must be a number.*'half'"),
    (lambda: allocate.globally({}, 0.5), ValueError, "scores must hold at least one weight"),
    (lambda: allocate.per_layer({}, 0.5), ValueError, "scores must hold at least one weight"),
    (lambda: allocate.globally({"a": torch.ones(0)}, 0.5), ValueError, "at least one weight"),
    (lambda: allocate.globally(KEEP, 0.5), TypeError, r"scores\['a'\] must be real.*torch.bool"),
    (lambda: allocate.per_layer({"a": torch.ones(2) * 1j}, 0.5), TypeError, r"real.*complex64"),
    (lambda: allocate.per_layer({"a": torch.tensor([[math.nan]])}, 0), ValueError, r"scores\['a'\].*1 NaN"),
    (lambda: allocate.globally(NAN, 0.9), ValueError, r"scores\['b'\] must be numbers, got 2 NaN"),
    (lambda: allocate.globally(NAN, 0), ValueError, r"scores\['b'\] must be numbers, got 2 NaN"),
    (lambda: allocate.globally(NAN, 1), ValueError, r"scores\['b'\] must be numbers, got 2 NaN"),
    (lambda: allocate.globally(NAN, 0.9, within=NOT_NAN), ValueError, r"scores\['b'\].*2 NaN"),
    (lambda: allocate.globally({"a": torch.tensor([[math.nan]])}, 0.5), ValueError, r"scores\['a'\].*1 NaN"),
    (lambda: allocate.globally(GOOD, 0.2, within=HALF), ValueError, "keeps 5 of 6.*only 3 left"),
    (lambda: allocate.globally(GOOD, 0.5, within={"b": KEEP["a"]}), ValueError, "within must name"),
    (lambda: allocate.globally(GOOD, 0.5, within={"a": KEEP["a"].T}), ValueError, r"shape \(2, 3\)"),
    (lambda: allocate.globally(GOOD, 0.5, within={"a": torch.ones(2, 3)}), TypeError, "torch.bool"),
    (lambda: allocate.per_layer(GOOD, 1.01), ValueError, r"sparsity\['a'\] must be in \[0, 1\]"),
    (lambda: allocate.per_layer(GOOD, {"a": 0.1, "c": 0.2}), ValueError, r"\['a'\], got \['a', 'c'\]"),
    (lambda: allocate.erdos_renyi({}, 0.5), ValueError, "shapes must hold at least one layer"),
    (lambda: allocate.erdos_renyi({"a": (5,)}, 0.5), ValueError, r"shapes\['a'\] must be \(out, in"),
    (lambda: allocate.erdos_renyi({"a": (5, 5)}, 2), ValueError, "sparsity must be.*2"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input_names_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_masks_are_those_of_the_cpu():
    net = models.lenet_300_100()
    here = allocate.globally(criteria.magnitude(net), 0.9)
    there = allocate.globally(criteria.magnitude(net.cuda()), 0.9)
    assert all(torch.equal(here[n], there[n].cpu()) for n in here)
    assert masks.sparsity(there) == pytest.approx(0.9)


def test_iterated_synflow_keeps_every_layer_where_one_shot_empties_some():
    net = models.mlp((64, 100, 100, 100, 10))
    sparsity = 0.999  # 25 of 27,400 weights stay

    def synflow(keep=None):
        return criteria.synflow(net, (64,), within=keep)

    at_once = allocate.globally(synflow(), sparsity)
    in_rounds = allocate.iteratively(synflow, schedules.geometric(sparsity, 100), steps=100)
    assert removed(in_rounds) == removed(at_once) == round(sparsity * 27_400)
    assert min(int(m.sum()) for m in at_once.values()) == 0
    assert min(int(m.sum()) for m in in_rounds.values()) >= 1
    masks.apply(net, in_rounds)
    assert criteria.synflow(net, (64,))["fc1.weight"].sum() > 0  # and a path goes through


def test_rounds_are_nested_and_see_the_round_before():
    seen = []

    def score(keep):
        seen.append(keep)
        return {"w": torch.arange(8.0) if len(seen) % 2 else -torch.arange(8.0)}

    keep = allocate.iteratively(score, schedules.linear(0.75, 3), steps=3)
    assert seen[0] is None and [removed(k) for k in seen[1:]] == [2, 4]
    # Lowest first, highest next, lowest again: what is gone stays gone.
    assert keep["w"].tolist() == [False] * 4 + [True] * 2 + [False] * 2
    with pytest.raises(ValueError, match="steps must be a positive integer, got 0"):
        allocate.iteratively(score, schedules.one_shot(0.5), steps=0)


@pytest.mark.parametrize(
    "prune",
    [
        lambda s: allocate.globally(s, 0.5),
        lambda s: allocate.per_layer(s, {"weak": 0.9, "strong": 0.0}),
    ],
)
def test_a_layer_that_loses_everything_is_named_once(prune):
    scores = {"weak": torch.arange(4.0), "strong": torch.arange(4.0) + 10}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            keep = prune(scores)
    assert not keep["weak"].any() and keep["strong"].all()
    assert [str(w.message) for w in seen] == ["nothing is left of 'weak': no signal passes it"]


def test_no_warning_where_everything_was_to_go_or_something_is_left():
    scores = {"a": torch.arange(4.0), "b": torch.arange(4.0)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sparsity in (0, 0.5, 0.75, 1):
            allocate.globally(scores, sparsity)
            allocate.per_layer(scores, sparsity)


@pytest.mark.filterwarnings("ignore:nothing is left")
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_every_output_loses_the_lowest_of_its_own_row_ties_included(sparsity):
    generator = torch.Generator().manual_seed(0)
    scores = {
        "distinct": torch.rand(7, 11, generator=generator),
        "ties": torch.randint(0, 3, (5, 2, 3, 3), generator=generator).float(),
        "equal": torch.ones(3, 10),
    }
    for name, mask in allocate.per_output(scores, sparsity).items():
        assert mask.shape == scores[name].shape
        for row, kept in zip(scores[name].flatten(1), mask.flatten(1), strict=True):
            order = sorted(range(len(row)), key=lambda j: (-row[j], j))
            stay = order[: len(row) - round(sparsity * len(row))]
            assert kept.nonzero().flatten().tolist() == sorted(stay)


def test_outputs_may_lose_another_share_in_each_layer():
    scores = {"a": torch.rand(4, 10), "b": torch.rand(4, 10)}
    keep = allocate.per_output(scores, {"a": 0.2, "b": 0.7})
    assert (keep["a"].sum(1) == 8).all() and (keep["b"].sum(1) == 3).all()


@pytest.mark.parametrize(
    ("scores", "sparsity", "kind", "message"),
    [
        ({}, 0.5, ValueError, "scores must hold at least one weight"),
        (
            {"w": torch.ones(4)},
            0.5,
            ValueError,
            r"scores\['w'\] must be \(out, in, …\), got .*\(4,\)",
        ),
        ({"w": torch.tensor([[1, torch.nan]])}, 0.5, ValueError, "must be numbers, got 1 NaN"),
        ({"w": torch.ones(2, 2) > 0}, 0.5, TypeError, "must be real numbers"),
        ({"w": torch.ones(2, 2)}, 1.5, ValueError, r"must be in \[0, 1\]"),
        ({"w": torch.ones(2, 2)}, {"v": 0.5}, ValueError, "sparsity must name the layers"),
    ],
)
def test_rows_that_cannot_be_ranked_are_refused(scores, sparsity, kind, message):
    with pytest.raises(kind, match=message):
        allocate.per_output(scores, sparsity)
