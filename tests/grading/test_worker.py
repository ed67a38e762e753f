"""What the worker sends, asked in this process; behind a wall it is tested in test_sandbox.py."""

import io
import os
import random
import socket

import pytest
import torch

from course_lib.grading import wire, worker


@pytest.fixture
def student(monkeypatch):
    """Yield a student whose channel is a pipe, and a function that reads what it sends."""
    out, channel = os.pipe()
    monkeypatch.setitem(worker.sys.modules, "answer", None)
    student = worker.Student(channel)
    with open(out, "rb") as file:
        yield student, lambda: wire.unpack(*wire.frame(file.read))
        os.close(channel)


def test_an_answer_is_sent_with_the_inputs_after_it(student):
    student, sent = student
    student.load([[2, 3, "def f(x):\n    x[0] = 7\n    print('hi')\n    return x"]])
    assert sent() == {"id": 0, "errors": []}
    student.number = 4
    student.call("f", [torch.zeros(2)])
    reply = sent()
    assert reply["id"] == 4
    assert reply["printed"] == "hi\n"
    assert reply["returned"].tolist() == reply["after"][0].tolist() == [7.0, 0.0]


def test_inputs_that_stayed_as_they_were_are_not_sent(student):
    student, sent = student
    student.load([[1, 1, "def f(x): return x"]])
    sent()
    student.call("f", [torch.tensor([1.0, float("nan")])])
    assert sent()["after"] is None


def test_an_error_has_its_kind_and_its_line(student):
    student, sent = student
    source = "class Mine(ValueError):\n    pass\ndef f(x):\n    raise Mine('no')"
    student.load([[5, 1, "import math"], [5, 10, source]])
    sent()
    student.call("f", [1])
    raised = {"kind": "ValueError", "text": "Mine: no", "number": None}
    assert sent()["raised"] == raised | {"line": "in line 13 of cell 5: raise Mine('no')"}


def test_an_error_that_cannot_be_shown_is_sent_all_the_same(student):
    student, sent = student
    source = "class Mine(Exception):\n    def __str__(self): return 1 / 0\ndef f(): raise Mine"
    student.load([[1, 1, source]])
    sent()
    student.call("f", [])
    assert sent()["raised"]["text"] == "An error that cannot be shown"
    student.call("g", [])
    assert sent()["raised"]["text"] == "NameError: name 'g' is not defined"


def test_printed_text_is_cut():
    printed = worker.Printed()
    for _ in range(1000):
        printed.write("x" * 100)
    assert len(printed.text) == worker.LONGEST_TEXT + 1


def test_an_answer_that_came_unasked_is_taken_if_the_question_is_the_same():
    """The second question is another one: what came for it and behind it is left out."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        student = worker.Student(theirs.fileno())
        asks = [{"ask": 0, "args": [n], "named": {}, "id": 4, "used": 0} for n in (1, 2, 3)]
        marks = [wire.mark(*wire.frame(io.BytesIO(wire.pack(ask)).read)) for ask in asks]
        told = [wire.pack({"id": 0, "returned": f"told {n}"}) for n in (1, 2, 3)]
        ahead = wire.pack({"ahead": marks})
        ours.sendall(ahead + wire.pack({"id": 5, "call": "f", "args": []}) + b"".join(told))
        student.number = student.read()["id"]
        ours.sendall(wire.pack({"id": 0, "returned": "asked 4"}))
        function = student._function(0)
        assert [function(1), function(4)] == ["told 1", "asked 4"]
        with ours.makefile("rb") as come:
            question = {"ask": 0, "args": [4], "named": {}, "id": 5, "used": 1}
            assert wire.unpack(*wire.frame(come.read)) == question
            student.send({"returned": None})
            assert wire.unpack(*wire.frame(come.read)) == {"id": 5, "returned": None}
        assert (student.ahead, student.used, student.received) == ([], 0, b"")


def test_warming_up_leaves_nothing_behind():
    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate()
    worker.warm_up()
    assert "answer" not in worker.sys.modules
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
