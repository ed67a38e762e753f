"""What a platform gets: each score where it belongs, and never a zero for a broken run."""

import csv
import io
import json

import pytest

from course_lib.grading.__main__ import main
from course_lib.grading.batch import Unusable
from course_lib.grading.export import as_canvas, as_gradescope, as_moodle, write


def record(student, solved=(True, False, True), status="graded", why=""):
    names = ("joules", "smallest_file", "mended_file_bytes")
    exercises = {
        name: {"public": ok, "hidden": ok or None, "report": f"{name}: <b>{ok}</b>"}
        for name, ok in zip(names, solved, strict=True)
    }
    known = {"assignment": "motivation", "student": student, "status": status, "why": why}
    known |= {"flags": [], "sha256": "1", "spec": "2", "seed": 3, "version": "4"}
    return known | {"exercises": exercises if status == "graded" else {}}


FOUND = [
    record("ada"),
    record("bob", (False, False, False)),
    record("cut", status="unreadable", why="The file is empty."),
    record("=eve", (True, True, True)),
]
CANVAS = """Student,ID,SIS User ID,SIS Login ID,Section,Motivation (123),Criteria (124)
    Points Possible,,,,,3.00,3.00
"Lovelace, Ada",1,u1,ada,S1,,2
"Burns, Bob",2,u2,bob@x.org,S1,,
"Cut, C",3,cut,c@x.org,S1,7,
"Other, O",4,u4,other,S1,,
"""


def rows(text):
    return list(csv.reader(io.StringIO(text)))


def test_moodle_gets_only_those_who_have_a_score():
    expected = [["ID number", "motivation"], ["ada", "2"], ["bob", "0"], ["'=eve", "3"]]
    assert rows(as_moodle(FOUND)) == expected
    assert rows(as_moodle([])) == [["ID number", "assignment"]]


def test_canvas_gets_its_own_table_back_with_one_column_filled():
    text, unmatched = as_canvas(FOUND, CANVAS)
    before, after = rows(CANVAS), rows(text)
    assert [row[:5] + row[6:] for row in after] == [row[:5] + row[6:] for row in before]
    # Ada by her login; Cut has no score, so what stands there stays; Bob and Eve are not in it.
    assert [row[5] for row in after[1:]] == ["3.00", "2", "", "7", ""]
    assert unmatched == ["=eve", "bob"]


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("", "none of the columns SIS Login ID"),
        ("a,b\n1,2\n", "none of the columns SIS Login ID"),
        ("ID,Criteria (1)\n", "0 columns whose name begins with 'motivation'"),
        ("ID,Motivation (1),motivation b (2)\n", "2 columns whose name begins"),
    ],
)
def test_another_table_is_refused(template, sentence):
    with pytest.raises(Unusable, match=sentence):
        as_canvas(FOUND, template)


def test_gradescope_gets_points_and_no_hidden_output():
    found = as_gradescope(FOUND[0])
    assert found["score"] == 2
    assert [test["status"] for test in found["tests"]] == ["passed"] * 2 + ["failed"] * 2 + [
        "passed"
    ] * 2
    assert [bool(test["output"]) for test in found["tests"]] == [
        False,
        False,
        True,
        False,
        False,
        False,
    ]
    with pytest.raises(Unusable, match="'cut' has no score: unreadable"):
        as_gradescope(FOUND[2])


def test_files_and_sentences(tmp_path):
    assert write(FOUND, "csv", tmp_path / "new", None) == []
    assert (tmp_path / "new/csv.csv").read_text().count("\n") == 5
    (tmp_path / "canvas-in.csv").write_text(CANVAS)
    left = write(FOUND, "canvas", tmp_path, tmp_path / "canvas-in.csv")
    assert left == ["'=eve' is not in Canvas's table", "'bob' is not in Canvas's table"]
    assert "Lovelace" in (tmp_path / "canvas.csv").read_text()
    (left,) = write(FOUND, "gradescope", tmp_path / "g", None)
    assert "'cut' has no score" in left
    assert json.loads((tmp_path / "g/students.json").read_text())["00001.json"] == "ada"
    with pytest.raises(Unusable, match="needs --template"):
        write(FOUND, "canvas", tmp_path, None)
    with pytest.raises(
        Unusable, match="expected one of csv, canvas, moodle, gradescope, nbgrader, got"
    ):
        write(FOUND, "sap", tmp_path, None)


def test_the_command(tmp_path, capsys):
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in FOUND))
    assert main(["export", str(tmp_path), "--to", "moodle"]) == 0
    assert "ada,2" in (tmp_path / "moodle.csv").read_text()
    assert main(["export", str(tmp_path), "--to", "gradescope", "-o", str(tmp_path / "g")]) == 3
    assert "needs a human: 'cut' has no score" in capsys.readouterr().out
    assert main(["export", str(tmp_path), "--to", "canvas"]) == 2
