"""The self-test of the grader says which verdict is wrong; that none is, is seen in test_blackbox.py."""

import pytest

from course_lib.grading import selftest
from course_lib.grading.selftest import NoAnswers, known

ANSWERS = """
from course_lib.pruning import counting
from .common import judge_says_yes
HALF = 0.5

def by_hand(sizes, bits):
    return (sum(sizes) * bits + 7) // 8

def by_library(sizes, bits):
    return counting.bytes(sizes, bits)

def rounded(sizes, bits):
    return round(sum(sizes) * bits / 8)

RIGHT = {"mended_file_bytes": [%s]}
WRONG = {"mended_file_bytes": [(%s, "words")]}
HUNTS = {}
"""


@pytest.fixture
def folder(tmp_path):
    """Yield a function that writes a folder of answers with one right answer and one mistake."""
    (tmp_path / "common.py").write_text("import math")

    def write(right, wrong):
        (tmp_path / "motivation.py").write_text(ANSWERS % (right, wrong))
        return tmp_path

    return write


def test_answers_are_read_as_text_and_those_that_need_the_library_are_marked(folder):
    right, wrong = known("motivation", folder("by_library", "lambda s, b: rounded(s, b)"))
    assert (right.right, right.foreign, right.name) == (True, True, "by_library")
    assert (wrong.right, wrong.foreign, wrong.exercise) == (False, False, "mended_file_bytes")
    assert b"course_lib" not in wrong.notebook
    assert b"RIGHT" not in wrong.notebook


def test_right_verdicts_are_counted(bwrap, folder):
    (tried,) = selftest.run(bwrap, known("motivation", folder("by_hand", "rounded")), 3)
    assert tried.wrong == []
    assert str(tried) == "mended_file_bytes: 2 answers, 4 gradings, 0 wrong verdicts."


def test_a_wrong_verdict_is_told(bwrap, folder):
    (tried,) = selftest.run(bwrap, known("motivation", folder("rounded", "by_hand")), 1)
    first, second, third = tried.wrong
    assert first == "mended_file_bytes: rounded, which is right: check says wrong."
    assert second.startswith("mended_file_bytes: rounded, which is right: is refused on inputs of")
    assert "fills up the last byte" in second
    assert third == "mended_file_bytes: by_hand, which is a mistake: check says right."


def test_a_grader_that_disagrees_with_check_is_told(bwrap, folder, monkeypatch):
    refused = {"public": False, "hidden": None, "property": "x"}
    monkeypatch.setattr(selftest.blackbox, "grade", lambda *_: refused)
    (tried,) = selftest.run(bwrap, known("motivation", folder("by_hand", "rounded")), 1)
    assert (
        "by_hand, which is right: check says right, and the black box does not." in tried.wrong[0]
    )


def test_without_answers_or_seeds_there_is_nothing_to_try(bwrap, folder, tmp_path):
    with pytest.raises(NoAnswers, match=r"part of the course's repository.*--answers"):
        known("criteria", tmp_path)
    with pytest.raises(ValueError, match="seeds: expected at least 1, got 0"):
        next(selftest.run(bwrap, known("motivation", folder("by_hand", "rounded")), 0))
