"""The process in the sandbox: it imports torch once, and forks for each exercise of each student.

It knows no test, no expected value and no other student. Started as a program by
``sandbox.Sandbox``, it reads orders from one socket, of which a student's code sees nothing; each
fork gets a socket of its own, over which it is asked to load the student's definitions and to call
them. Whatever that code does to its own process, what comes out is an answer or none.

There is no ``course_lib`` here, so the two modules it needs lie beside it.
"""

import builtins
import contextlib
import gc
import importlib
import io
import json
import os
import random
import socket
import sys
import types
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":
    import jail  # pyright: ignore
    import wire  # pyright: ignore
else:
    from course_lib.grading import jail, wire

import numpy as np
import torch

#: Imported before the forks, because many answers import them.
COMMON = "bisect cmath collections copy dataclasses decimal fractions functools heapq inspect io itertools "
COMMON += (
    "math numbers operator statistics string struct textwrap typing warnings zlib numpy.linalg "
)
COMMON += "torch.nn.functional"

LONGEST_TEXT = 2_000  # characters of what a call prints or says
LONGEST_LINE = 200


class Printed:
    """A file that keeps the first characters of what is written to it."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += str.__str__(text)[: LONGEST_TEXT + 1 - len(self.text)]
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""


class Student:
    """The student's definitions in a module of their own, and the channel to the grader."""

    def __init__(self, channel: int) -> None:
        self.channel, self.number, self.received = channel, 0, bytearray()
        self.ahead: list[str] = []  # marks of questions whose answers came unasked, last first
        self.used = 0  # of these answers, since the grader's last message
        self.module = types.ModuleType("answer")
        self.lines: dict[str, list[str]] = {}
        self.failed: dict[int, str] = {}
        sys.modules["answer"] = self.module

    def send(self, message: dict[str, Any]) -> None:
        """Send a message as an answer to the call that is going on."""
        self._skip()
        self.used = 0
        self._write(wire.pack({"id": self.number} | message))

    def _write(self, packed: bytes) -> None:
        left = memoryview(packed)
        while left:
            left = left[os.write(self.channel, left) :]

    def read(self) -> dict[str, Any]:
        """The grader's next message; functions in it call the grader.

        Before it may stand the marks of questions whose answers follow the message unasked.
        """
        message = wire.unpack(*wire.frame(self._receive), self._function)
        if "ahead" in message:
            self.ahead, self.used = message["ahead"][::-1], 0
            message = self.read()
        return message

    def _skip(self) -> None:
        """Leave out the answers to questions that were not asked."""
        while self.ahead:
            self.ahead.pop()
            wire.frame(self._receive)

    def _receive(self, size: int) -> bytes:
        while len(self.received) < size:
            part = os.read(self.channel, 2**20)
            if not part:
                os._exit(0)  # the grader has gone
            self.received += part
        found = bytes(self.received[:size])
        del self.received[:size]
        return found

    def _function(self, index: int) -> Callable:
        def function(*args: Any, **named: Any) -> Any:
            try:
                question = {"ask": index, "args": list(args), "named": named}
                answer = self._answer(wire.pack(question | {"id": self.number, "used": self.used}))
            except wire.Violation as error:
                raise TypeError(f"the function was called with {error}") from None
            for given, after in zip(args, answer.get("after") or (), strict=False):
                wire.put_back(given, after)
            if "raised" in answer:
                kind = getattr(builtins, answer["raised"], RuntimeError)
                raised = kind(answer["text"])
                vars(raised)["number"] = answer["number"]
                raise raised
            return answer["returned"]

        return function

    def _answer(self, question: bytes) -> dict[str, Any]:
        """The grader's answer: the next one that came unasked, if it is to this very question."""
        ahead = self.ahead[-1] if self.ahead else None
        if ahead and ahead == wire.mark(*wire.frame(io.BytesIO(question).read)):
            self.ahead.pop()
            self.used += 1
        else:
            self._skip()
            self._write(question)
            self.used = 0
        return self.read()

    def load(self, statements: list) -> None:
        """Run the definitions one by one; one that fails does not stop those behind it."""
        errors = []
        for cell, line, source in statements:
            name = f"cell {cell}"
            lines = self.lines.setdefault(name, [])
            lines += [""] * (line - 1 + source.count("\n") + 1 - len(lines))
            lines[line - 1 : line + source.count("\n")] = source.split("\n")
            try:
                # Empty lines before it, so that errors name the cell's own lines.
                exec(compile("\n" * (line - 1) + source, name, "exec"), vars(self.module))  # noqa: S102
            except BaseException as error:  # noqa: BLE001 (even exit())
                errors.append({"cell": cell, "line": line, **self.words(error)})
        self.send({"errors": errors[:20]})

    def call(self, name: str, args: list) -> None:
        """Call the function ``name`` and send what it returned or raised, and the inputs after it."""
        reply: dict[str, Any] = {}
        untouched = wire.copied(args)
        printed = Printed()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):  # pyright: ignore
            try:
                function = vars(self.module).get(name)
                if function is None:
                    raise NameError(f"name {name!r} is not defined")
                reply["returned"] = function(*args)
                reply["slopes"] = slopes(reply["returned"], args)
            except BaseException as error:  # noqa: BLE001 (even exit())
                reply = {"raised": self.words(error)}
        reply["printed"] = printed.text
        try:
            self.send(reply | {"after": None if wire.same(args, untouched) else args})
        except wire.Violation as error:
            self.send({"refused": str(error), "printed": printed.text})

    def words(self, error: BaseException) -> dict[str, Any]:
        """An error in words; its ``kind`` is the first built-in class that it belongs to."""
        try:
            text = f"{type(error).__name__}: {error}"[:LONGEST_TEXT]
        except BaseException:  # noqa: BLE001 (the error's own __str__)
            text = "An error that cannot be shown"
        place, where = error.__traceback__, ""
        while place:
            file, line = place.tb_frame.f_code.co_filename, place.tb_lineno
            if file in self.lines:
                source = self.lines[file][line - 1 : line] or [""]
                where = f"in line {line} of {file}: {source[0].strip()[:LONGEST_LINE]}"
            place = place.tb_next
        number = getattr(error, "number", None)
        known = number if type(number) is int else None
        return {"kind": wire.built_in(error), "text": text, "line": where, "number": known}


def slopes(returned: Any, args: list) -> list[torch.Tensor] | None:
    """The gradient of what was returned by each input that asks for it; None where there is none."""
    leaves = [x for x in args if isinstance(x, torch.Tensor) and x.requires_grad]
    if not (leaves and isinstance(returned, torch.Tensor) and returned.requires_grad):
        return None
    try:
        found = torch.autograd.grad(returned, leaves, allow_unused=True, materialize_grads=True)
    except RuntimeError:  # not one number
        return None
    return list(found)


def answer(channel: int) -> None:
    """Do what the grader asks over ``channel``, until it closes it."""
    student = Student(channel)
    while True:
        message = student.read()
        student.number = message["id"]
        if "load" in message:
            student.load(message["load"])
        else:
            student.call(message["call"], message["args"])


def obey(control: socket.socket, gigabytes: float) -> None:
    """Fork for each order, and end the fork when told to, until ``control`` is closed.

    An order says how many seconds the fork may compute.
    """
    while True:
        order, channels, *_ = socket.recv_fds(control, 16, 1)
        if not order:
            return
        child = os.fork()
        if not child:
            try:
                control.close()
                jail.unreadable()
                jail.limits(int(order.split()[1]), gigabytes)
                jail.only_compute()
                random.seed(0)  # Python seeds it anew in a fork
                answer(channels[0])
            finally:
                os._exit(1)
        os.close(channels[0])
        handle = os.pidfd_open(child)  # outside, the process has another number than here
        socket.send_fds(control, [b"forked"], [handle])
        os.close(handle)
        order = control.recv(16)
        os.kill(child, 9)
        _, status, used = os.wait4(child, 0)
        if not order:
            return
        report = {"status": status, "seconds": used.ru_utime + used.ru_stime, "kB": used.ru_maxrss}
        control.send(json.dumps(report).encode())


def warm_up() -> None:
    """Answer some questions, so that a fork finds Python's caches filled and need not copy them."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        student = Student(theirs.fileno())
        source = "import torch\ndef f(x, n):\n    return (x.abs() > n).reshape(-1).tolist()"
        question = {"id": 1, "call": "f", "args": [torch.ones(2, 2), 0.5]}
        for _ in range(20):
            student.load([[1, 1, source]])
            ours.sendall(wire.pack(question))
            student.call("f", student.read()["args"])
            ours.recv(2**16)
    del sys.modules["answer"]


def main(control: int, orders: dict[str, Any]) -> None:
    """Make this process ready and serve.

    Args:
        control: the number of the socket on which orders come.
        orders: ``gigabytes`` for each fork, ``user`` to become, and the folders that Landlock leaves
            open (``readable``), or None.
    """
    if os.getuid() == 0 and not orders["user"]:
        raise jail.Unconfined("the sandbox refuses to run as root")
    for name in COMMON.split():
        importlib.import_module(name)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.optim.SGD([torch.zeros(1)], lr=0.1)  # imports much that needs a /tmp, which no fork has
    np.random.seed(0)
    warm_up()
    nowhere = os.open(os.devnull, os.O_RDWR)
    if orders["readable"] is not None:
        jail.only_read(orders["readable"])
    if orders["user"] is not None:
        os.setgroups([])
        os.setresgid(*[orders["group"]] * 3)
        os.setresuid(*[orders["user"]] * 3)
    jail.unreadable()
    sys.path[:] = [place for place in sys.path if place != orders["here"]]
    for name in ("jail", "wire"):
        sys.modules.pop(name, None)
    for place in (0, 1, 2):  # from now on nothing that is printed leaves this process
        os.dup2(nowhere, place)
    gc.collect()
    gc.freeze()  # so that a fork copies less
    with socket.socket(fileno=control) as orders_come:
        orders_come.send(b"ready")
        obey(orders_come, orders["gigabytes"])


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
