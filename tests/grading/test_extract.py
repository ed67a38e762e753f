"""What is taken from a notebook, whatever has happened to it; nothing of it ever runs here."""

import json
import os

import pytest

from course_lib.grading import extract as module
from course_lib.grading.extract import Unreadable, extract, read

from .submissions import cell, notebook

ANSWER = "def f(x):\n    return helper(x)"


def sources(*cells, wanted=("f",), name="f", **more):
    answers = extract(notebook(*cells, **more), wanted)
    return [statement.source for statement in answers.statements[name]]


def test_an_answer_comes_with_what_it_uses_and_nothing_else():
    cells = (
        "import math, torch\nimport matplotlib.pyplot as plt\nfrom a import *",
        "BITS = 4\nSTEPS = torch.arange(2 ** BITS)\nunused = torch.randn(10**9)",
        "def helper(x):\n    return STEPS[x]",
        "print('training')\nfor epoch in range(10**9):\n    pass",
        ANSWER,
        "helper.cache = 3\nf(1)",
    )
    assert sources(*cells) == [
        "import math, torch",
        "from a import *",
        "BITS = 4",
        "STEPS = torch.arange(2 ** BITS)",
        "def helper(x):\n    return STEPS[x]",
        ANSWER,
    ]


def test_a_function_s_own_variables_are_not_what_it_uses():
    taken = [
        "LIMIT = 3",
        "def deco(g): return g",
        "Base = object",
        "class Part(Base):\n    size = LIMIT",
        "def outer(n): return [keep + inner(n) for keep in range(n)]",
        "def inner(n):\n    global COUNT\n    return COUNT",
        "COUNT = 0",
        "@deco\ndef f(x: int = LIMIT):\n    keep = Part()\n    return (lambda n: outer(n) + keep)(x)",
    ]
    ignored = ["keep = load('data')", "n, x, size = 1, 2, 3", "def g(): return f(LIMIT)"]
    assert sources(*ignored[:2], *taken, ignored[2]) == taken


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ("f = lambda x: x", ["f = lambda x: x"]),
        ("def g(x): return x\nf = g", ["def g(x): return x", "f = g"]),
        ("f: object = abs", ["f: object = abs"]),
        ("a = f = abs", ["a = f = abs"]),
        ("import os; os.remove('x'); f = abs; print(f)", ["f = abs"]),
        ("x = 'é€'; f = abs; y = 2", ["f = abs"]),
        ("import functools\n@functools.cache\ndef f(x): return x", None),
        ("@g\nclass f:\n    pass\ndef g(x): return x", None),
        ("async def f(): ...; return 1", None),
    ],
)
def test_ways_to_define(source, taken):
    assert sources(source) == (source.split("\n", 1) if taken is None else taken) or taken is None
    assert "\n".join(sources(source)).count("remove") == 0


def test_a_line_number_is_that_of_the_cell():
    answers = extract(
        notebook("x = 1\n\n\n@deco\ndef f(): return deco", "def deco(f): return f"), "f"
    )
    assert [(s.cell, s.line) for s in answers.statements["f"]] == [(1, 4), (2, 1)]
    assert answers.statements["f"][0].source.startswith("@deco\ndef f")


@pytest.mark.parametrize(
    "stub",
    [
        "def f(x): ...",
        'def f(x):\n    """Doc."""',
        "def f(x): pass",
        "def f(x): raise NotImplementedError",
    ]
    + ["def f(x):\n    '''Doc.'''\n    raise NotImplementedError('later')"],
)
def test_a_stub_behind_the_answer_does_not_replace_it(stub):
    assert sources("def helper(x): return x", ANSWER, stub) == ["def helper(x): return x", ANSWER]
    assert sources(stub) == [stub]


def test_the_last_of_two_answers_counts_and_is_flagged():
    answers = extract(notebook("def f(): return 1", "def f(): return 2"), ["f"])
    assert [s.source for s in answers.statements["f"]][-1] == "def f(): return 2"
    assert answers.flags == ("defined-twice: f is defined 2 times; the last one counts",)


@pytest.mark.parametrize(
    "magic",
    [
        "%matplotlib inline\n",
        "!pip install evil\n",
        "%time x = 1\n",
        "%%time\n",
        "torch.sort?\n",
        "?abs\n",
    ],
)
def test_what_only_ipython_understands_is_left_out(magic):
    assert sources(f"{magic}def f(x):\n    return x") == ["def f(x):\n    return x"]


def test_percent_signs_that_are_python_stay():
    source = 'def f(x):\n    return """\n%d of them\n""" % x'
    assert sources(source) == [source]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (
            [cell("def f(x): return x", cell_type="markdown")],
            "cell 1, which defines it, is a markdown",
        ),
        ([cell("def f(x): return x", cell_type="raw")], "is a raw cell"),
        (["def f(x):\n  return (x"], r"has a syntax error in line 2: '\(' was never"),
        (["if True:\n    def f(x): return x"], "inside another statement"),
        (["%%bash\ndef f(x): return x"], "a first line '%%bash', so it is not Python"),
        ([cell("def f(x): return x", metadata={"nbgrader": {"locked": True}})], "is locked"),
        (["def f(x): return '\ud800'"], "text that cannot be read as Python"),
        (["def f(x): return x\n\0"], "text that cannot be read as Python|syntax error"),
        (["def f(x): return " + "(" * 5000], "text that cannot|syntax error"),
        (["def f(x): return " + "-" * 100_000 + "1"], "text that cannot|syntax error"),
        (["def f(x): return x" + " " * 200_000], "more than 200,000 characters"),
        (["def F(x): return x"], "the notebook does not define it"),
    ],
)
def test_a_function_that_is_missing_has_a_reason(cells, reason):
    answers = extract(notebook(*cells, "def g(x): return x"), ["f", "g"])
    assert [s.source for s in answers.statements["g"]] == ["def g(x): return x"]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(answers.absent["f"])
    assert any(flag.startswith("not-found: f; ") for flag in answers.flags)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (notebook(ANSWER)[:-20], "only a part of one"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1, 2]", "no list of cells"),
        (b'{"cells": {"a": 1}}', "no list of cells"),
        (b'{"cells": [1, 2]}', "no list of cells"),
        (b'{"nbformat": 3, "worksheets": []}', "old format 3"),
        (b"PK\x03\x04", "not valid JSON"),
        (b'{"cells": [' + b"1" * 5000 + b"]}", "not valid JSON|no list"),
        (notebook(*["x = 1"] * 2001), "2001 cells"),
        (notebook("def other(x): return x"), "defines none of f, g: is it another assignment"),
        (notebook(cell(ANSWER, cell_type="markdown")), "No answer can be read. f: cell 1, which"),
    ],
)
def test_a_file_that_cannot_be_graded_says_why(content, sentence):
    with pytest.raises(Unreadable, match=sentence):
        extract(content, ["f", "g"])


@pytest.mark.parametrize(
    "strange",
    [{"source": 3}, {"source": [1, None, ANSWER]}, {"source": ANSWER, "metadata": [1]}]
    + [
        {"source": ANSWER, "metadata": {"nbgrader": "locked"}},
        {"source": ANSWER, "cell_type": 7},
        {},
    ],
)
def test_strange_cells_stop_nothing(strange):
    odd = {"cell_type": "code", **strange}
    content = json.dumps({"cells": [odd, cell(ANSWER)]}).encode()
    assert ANSWER in [s.source for s in extract(content, ["f"]).statements["f"]]


def test_windows_line_ends_and_a_byte_order_mark():
    content = b"\xef\xbb\xbf" + notebook("x = 1\r\ndef f(y):\r\n    return x\r\n")
    assert [s.source for s in extract(content, ["f"]).statements["f"]] == [
        "x = 1",
        "def f(y):\n    return x",
    ]


def test_only_ordinary_files_of_a_sensible_size_are_read(tmp_path, monkeypatch):
    (tmp_path / "real").write_bytes(b"abc")
    assert read(tmp_path / "real") == b"abc"
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, sentence in (("link", "links are not followed"), ("pipe", "not an ordinary file")):
        with pytest.raises(Unreadable, match=sentence):
            read(tmp_path / name)
    with pytest.raises(Unreadable, match="not an ordinary file"):
        read(tmp_path / "folder")
    with pytest.raises(Unreadable, match="cannot be opened: No such file"):
        read(tmp_path / "nothing")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(module.MOST_BYTES + 1)
    with pytest.raises(
        Unreadable, match=r"The file has 20,\d+,\d+ bytes; at most 20,\d+,\d+ are read"
    ):
        read(tmp_path / "huge")
