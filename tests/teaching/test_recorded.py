"""Recorded runs on a lesson's page: the file's numbers, and nothing invented where there is none."""

import importlib
import json

import pytest

from course_lib.teaching import recorded, recorded_values

module = importlib.import_module(recorded.__module__)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    table = [
        {"quantity": "dense", "unit": "% errors", "paper": 1.6, "ours": [1.5, 1.7]},
        {"quantity": "file", "unit": "bytes", "paper": None, "ours": [27000.4]},
    ]
    run = {"command": "python book/reproductions/lecun1990.py 2", "table": table}
    (tmp_path / "lecun1990.json").write_text(json.dumps(run))
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return tmp_path


def test_rows_are_those_of_the_file(folder):
    text = recorded("lecun1990").data
    assert "| dense, % errors | 1.6 | 1.60 ± 0.14 | 2 |" in text  # stdev of 1.5 and 1.7: 0.1414
    assert "| file, bytes | – | 27,000 | 1 |" in text
    assert text.endswith("Recorded with `python book/reproductions/lecun1990.py 2`.")
    alone = recorded("lecun1990", ["file"]).data
    assert "| recorded run, bytes | ours | seeds |" in alone and "| file | 27,000 | 1 |" in alone
    assert "dense" not in alone
    assert (
        "| recorded run, % errors | paper | ours | seeds |" in recorded("lecun1990", ["dense"]).data
    )
    swapped = recorded("lecun1990", ["file", "dense"]).data
    assert swapped.index("file") < swapped.index("dense")
    assert recorded_values("lecun1990", "dense") == [1.5, 1.7]


def test_what_is_not_recorded_is_refused_by_name(folder):
    with pytest.raises(ValueError, match=r"name must be one of \['lecun1990'\], got 'lecun'"):
        recorded("lecun")
    with pytest.raises(ValueError, match=r"quantities must be among .*got \['sparse'\]"):
        recorded("lecun1990", ["dense", "sparse"])
    with pytest.raises(ValueError, match=r"name must be one of \['lecun1990'\], got 'lecun'"):
        recorded_values("lecun", "dense")
    with pytest.raises(ValueError, match=r"quantities must be among .*got \['sparse'\]"):
        recorded_values("lecun1990", "sparse")


def test_a_run_of_the_repository_is_found():
    assert "| recorded run, % test accuracy | paper |" in recorded("sparse_training").data
