"""The table and the figure of everything at LeNet-300-100, against the recorded files themselves."""

import json
import re
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import overview
import pytest
from docutils import nodes

ROOT = Path(__file__).resolve().parents[2]


def recorded(run):
    path = ROOT / f"book/reproductions/{run}.json"
    table = json.loads(path.read_text(encoding="utf-8"))["table"]
    return {row["quantity"]: row for row in table}


def test_every_point_is_an_error_of_its_run():
    for name, points in overview.METHODS.items():
        for point in points:
            row = recorded(point.run)[point.row]
            accuracy = "accuracy" in row["unit"] or "accuracy" in row["quantity"]
            expected = [100 - v for v in row["ours"]] if accuracy else row["ours"]
            assert overview.error(point) == expected
            assert 0 < statistics.fmean(expected) < 15, name  # an accuracy would be far above
            assert 0 < overview.left(point) <= 100


def test_what_is_left_is_read_from_rows_of_three_kinds():
    def left(run, row):
        return overview.left(overview.Point(run, "", row))

    times = recorded("han2015")["times fewer weights"]["ours"]
    assert left("han2015", "times fewer weights") == pytest.approx(100 / statistics.fmean(times))
    assert overview.left(overview.Point("", "", 7.5)) == 7.5


def test_left_is_the_mean_of_percentages(monkeypatch):
    monkeypatch.setattr(overview, "recorded_values", lambda run, row: [98.0, 97.0])
    assert overview.left(overview.Point("", "", "sparsity of it")) == 2.5
    assert overview.left(overview.Point("", "", "weights left")) == 97.5


def test_the_table_falls_from_all_weights_to_the_fewest_and_links_its_runs():
    head, *body = overview.rows(None)
    shares = [float(row[1].removesuffix(" %")) for row in body]
    assert shares == sorted(shares, reverse=True) and shares[0] == 100
    assert len(body) == sum(map(len, overview.METHODS.values()))
    assert all(len(row) == len(head) for row in body)
    for row in body:
        assert isinstance(row[0], nodes.reference)
        runs = {point.run for point in overview.METHODS[row[0].astext()]}
        assert row[0]["refid"] in runs
        assert re.fullmatch(r"\d\.\d\d( ± \d\.\d\d)? %", row[2])


def test_methods_differ_in_marker_and_the_sentence_names_them():
    assert len(set(overview.MARKERS)) == len(overview.MARKERS) >= len(overview.METHODS)
    said = overview.alt()
    assert said.endswith(".") and all(name in said for name in overview.METHODS)
    figure = overview.figure()
    axis = figure.axes[0]
    found = {line.get_marker() for line in axis.get_lines()} & set(overview.MARKERS)
    assert len(found) == len(overview.METHODS)
    assert axis.xaxis_inverted()
    plt.close(figure)
