"""The bill's numbers against closed forms and the measures that they come from."""

import copy

import pytest
import torch
from torch import nn

from course_lib import ensemble, measure, models, parametrized, teaching
from course_lib.compression import binary
from course_lib.pruning import allocate, criteria, masks

BATCH = torch.rand(64, 1, 14, 14, generator=torch.Generator().manual_seed(0))


def masked(net, sparsity):
    net = copy.deepcopy(net)
    masks.apply(net, allocate.globally(criteria.magnitude(net), sparsity))
    return net


def read(markdown):
    """Header and rows of a Markdown table, as lists of cells."""
    lines = [line[2:-2].split(" | ") for line in markdown.data.splitlines()]
    assert {len(line) for line in lines} == {len(lines[0])}
    return lines[0], {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


@pytest.fixture
def clock(monkeypatch):
    """Known seconds in place of a clock; what was measured is noted."""
    calls = []

    def latency(networks, x, *, rounds):
        calls.append((list(networks.values()), len(x), rounds))
        return {
            name: measure.Seconds(0.001 * k, 0.0009 * k, 0.00123456 * k)
            for k, name in enumerate(networks, start=1)
        }

    monkeypatch.setattr(measure, "latency", latency)
    return calls


def test_a_dense_a_masked_and_a_sparse_network(clock):
    """MLP of 196, 100, 50 and 10: 25,100 weights, 160 biases; 5 % of the weights are 1,255."""
    dense = models.mlp()
    cut = masked(dense, 0.95)
    bill = teaching.bill(
        {"dense": dense, "masked": cut, "as CSR": measure.sparse_copy(cut)},
        BATCH,
        accuracy={"dense": [97, 98, 99], "masked": 96.26, "as CSR": [96.26], "not shown": 3},
        rounds=5,
    )
    header, rows = read(bill)
    csr = 8 * 1255 + 4 * (101 + 51 + 11) + 4 * 160  # values and columns, row offsets, biases
    assert header == ["network", "accuracy, %", "bytes", "multiplications", "ms, 64 images"]
    assert list(rows["dense"].values()) == [
        "dense", "98.0 ± 1.0", "101,040", "25,100", "1.00 (0.90–1.23)",
    ]  # fmt: skip
    assert list(rows["masked"].values()) == [
        "masked", "96.3", f"101,040 (as CSR {csr:,})", "25,100 (needs 1,255)", "2.00 (1.80–2.47)",
    ]  # fmt: skip
    assert list(rows["as CSR"].values()) == [
        "as CSR",
        "96.3",
        f"{csr:,}",
        "1,255",
        "3.00 (2.70–3.70)",
    ]
    assert [rounds for _, _, rounds in clock] == [5]


def test_half_of_the_weights_as_csr_are_no_fewer_bytes(clock):
    _, rows = read(teaching.bill({"half": masked(models.mlp(), 0.5)}, BATCH))
    assert rows["half"]["bytes"] == "101,040"
    assert rows["half"]["multiplications"] == "25,100 (needs 12,550)"


def test_convolutions_are_multiplied_at_every_position(clock):
    net = models.small_cnn()
    _, rows = read(teaching.bill({"cnn": net}, BATCH))
    assert rows["cnn"]["multiplications"] == f"{measure.macs(net, BATCH):,}"
    assert measure.macs(net, BATCH) > measure.count_parameters(net)


def test_of_a_list_or_a_stack_the_first_is_measured(clock):
    nets = [masked(models.mlp(seed=seed), s) for seed, s in enumerate((0.9, 0.0))]
    _, rows = read(teaching.bill({"list": nets, "stack": ensemble.stack(nets)}, BATCH))
    for name in ("list", "stack"):
        assert rows[name]["multiplications"] == "25,100 (needs 2,510)"
    assert clock[0][0][0] is nets[0]


def test_one_network_in_two_rows_is_measured_once(clock):
    net = models.mlp()
    _, rows = read(teaching.bill({"a": net, "b": net}, BATCH, accuracy={"a": 1, "b": 2}))
    assert len(clock[0][0]) == 1
    assert rows["a"]["ms, 64 images"] == rows["b"]["ms, 64 images"]


def test_several_batches_give_several_columns(clock):
    header, _ = read(teaching.bill({"a": models.mlp()}, [BATCH[:1], BATCH]))
    assert header[-2:] == ["ms, 1 image", "ms, 64 images"]
    assert [n for _, n, _ in clock] == [1, 64]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ((0.0000123, 0.000012, 0.00002), "0.0123 (0.0120–0.0200)"),
        ((0.0123, 0.01, 0.2), "12.3 (10.0–200.0)"),
        ((1.2345, 1.1, 1.3), "1234 (1100–1300)"),
    ],
)
def test_milliseconds_show_three_digits(monkeypatch, seconds, text):
    found = measure.Seconds(*seconds)
    monkeypatch.setattr(measure, "latency", lambda nets, x, rounds: dict.fromkeys(nets, found))
    _, rows = read(teaching.bill({"a": models.mlp()}, BATCH))
    assert rows["a"]["ms, 64 images"] == text


def test_extra_cells_come_last_or_replace_what_was_measured(clock):
    nets = {"a": models.mlp(), "b": models.mlp()}
    extra = {"bytes": {"b": "12,345 in a file"}, "steps": {"a": 7}}
    header, rows = read(teaching.bill(nets, BATCH, extra=extra))
    assert header[-1] == "steps" and header.count("bytes") == 1
    assert (rows["a"]["bytes"], rows["b"]["bytes"]) == ("101,040", "12,345 in a file")
    assert (rows["a"]["steps"], rows["b"]["steps"]) == ("7", "")


def test_networks_whose_weights_are_computed_or_bits(clock):
    """A parametrised layer stores its original; bits are no multiplications that could be counted."""
    signs = parametrized.attach(models.mlp(), binary.binary_weight)
    bits = binary.PackedLinear(torch.ones(64, 196).sign())
    _, rows = read(teaching.bill({"signs": signs}, BATCH))
    assert rows["signs"]["bytes"] == "101,040" and rows["signs"]["multiplications"] == "25,100"
    _, rows = read(teaching.bill({"bits": bits}, BATCH.flatten(1)))
    assert rows["bits"]["multiplications"] == ""
    assert rows["bits"]["bytes"] == f"{measure.bytes_dense(bits):,}"


def test_on_the_real_clock():
    """Median and quartiles in order, of networks that take turns; the networks stay as they are."""
    net = models.mlp().train()
    _, rows = read(teaching.bill({"a": net, "b": nn.Sequential(net)}, BATCH, rounds=3))
    for row in rows.values():
        median, q1, q3 = map(float, row["ms, 64 images"].strip(")").replace(" (", "–").split("–"))
        assert 0 < q1 <= median <= q3
    assert net.training


@pytest.mark.parametrize(
    ("networks", "batch", "more", "words"),
    [
        ({}, BATCH, {}, "networks and batch must not be empty"),
        ({"a": models.mlp()}, [], {}, "networks and batch must not be empty"),
        ({"a": []}, BATCH, {}, "networks.'a'. must hold at least one network"),
        ({"a": models.mlp()}, BATCH, {"accuracy": {"A": 1}}, "every network, got none for .'a'."),
        ({"a": models.mlp()}, BATCH, {"extra": {"x": {"A": 1}}}, "extra.'x'. names .'A'., which"),
    ],
)
def test_bad_input(networks, batch, more, words):
    with pytest.raises(ValueError, match=words):
        teaching.bill(networks, batch, **more)


def test_a_table_is_markdown():
    text = teaching.table(["", "a", "b"], [("x", 1, 2.5)]).data
    assert text == "|  | a | b |\n| :-- | --: | --: |\n| x | 1 | 2.5 |"


def test_a_citation_is_a_role_in_the_book_and_words_elsewhere(monkeypatch):
    rows = [("MobileNet", "{cite}`howard2017mobilenets`")]
    monkeypatch.delenv("COURSE_BOOK", raising=False)
    assert teaching.table(["network", "source"], rows).data.endswith("| MobileNet | Howard, 2017 |")
    monkeypatch.setenv("COURSE_BOOK", "1")
    assert teaching.table(["network", "source"], rows).data.endswith(f"| {' | '.join(rows[0])} |")
