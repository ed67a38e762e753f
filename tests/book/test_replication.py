"""What the hash of a claim depends on: the code that computes, and no words for the page."""

import nbformat
import pytest
from replicate import replication

LESSON = """\
def draw():
    'A figure.'
    return 1


figure, low, high = draw(), [1, 2], [2, 3]
plots.show(figure, "The line rises.")
Markdown(f"It rises by {high[0] - low[0]}.")
"""
CLAIM = 'claims.greater("High is higher", high, low)\n'


def of_claim(lesson: str) -> str:
    """Return the hash of the claim below this code."""
    cells = [nbformat.v4.new_code_cell(source) for source in (lesson, CLAIM)]
    return replication.hashes(cells)[1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"The line rises."', 'f"The line falls to {low[0]}."'),
        ('f"It rises by {high[0] - low[0]}."', '"It falls."'),
        ("'A figure.'", "'A picture.'"),
    ],
)
def test_words_of_a_picture_of_a_paragraph_and_of_a_docstring_do_not_count(old, new):
    assert old in LESSON
    assert of_claim(LESSON.replace(old, new)) == of_claim(LESSON)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("show(figure,", "show(low,"),
        ("plots.show(figure,", "plots.note(figure,"),
        ("[2, 3]", "[2, 4]"),
        ("return 1", "return 2"),
        ("    'A figure.'\n", "    'A figure.'\n    'A second string.'\n"),
    ],
)
def test_everything_else_counts(old, new):
    assert old in LESSON
    assert of_claim(LESSON.replace(old, new)) != of_claim(LESSON)
