"""What an exercise is: cases to try an answer on, and the properties that a right answer has."""

import ast
import inspect
import reprlib
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LONGEST_TENSOR = 24  # entries; a larger tensor is described, not printed


class OutOfTime(BaseException):
    """An answer took too long. It is no Exception, so that ``except Exception`` lets it through."""


@dataclass(frozen=True)
class Property:
    """One thing a right answer does.

    ``demand(returned, *inputs)`` is None where the property holds, else it says in words what is
    asked for on this input. It may assume the properties before it, so the property that checks the
    type of ``returned`` comes first.
    """

    says: str
    demand: Callable[..., str | None]
    hint: str


@dataclass(frozen=True)
class Slope(Property):
    """A property of the answer's gradient, for an answer that is one number.

    ``demand(gradients, *inputs)`` gets the gradient by each input that requires one. Where no input
    does, the property holds.
    """


@dataclass(frozen=True)
class Candidate:
    """A function that the answer to a bug hunt has to judge."""

    function: Callable
    right: bool  #: whether it does what it should
    says: str  #: what it does, such as "a function that …"
    hint: str  #: for an answer that judges it wrongly


@dataclass(frozen=True)
class Exercise:
    """An exercise: its function, its cases and its properties.

    ``cases()`` yields tuples of inputs: an ordinary one first, then small ones before large ones.
    ``refuses(*inputs)`` is True for inputs that must raise a ValueError. ``legal(*inputs)`` is None
    for inputs that the statement allows (those of ``refuses`` too), else it says what it allows
    instead, such as "a weight with at least one entry"; it may raise on inputs of a wrong type.
    ``expected(*inputs)`` is a right answer, told to whoever raises a ValueError where there is one.
    A bug hunt has ``candidates``, and each of them is one of its cases.
    """

    name: str
    signature: str
    section: str
    cases: Callable[[], Iterable[tuple]]
    properties: tuple[Property, ...]
    refuses: Callable[..., bool] = lambda *inputs: False
    candidates: tuple[Candidate, ...] = ()
    legal: Callable[..., str | None] = lambda *inputs: None
    expected: Callable | None = None

    @property
    def function(self) -> str:
        """The function's name, from its signature."""
        return self.signature.split("(")[0]


@dataclass(frozen=True)
class WrongLine:
    """A puzzle: a function that gets the exercise ``name`` wrong, by one line that is to be found.

    Where no reader writes that function, there is no exercise of that name.

    ``wrong`` is that line without the space around it, and ``why`` tells the reader who found it what
    is wrong. ``others`` maps lines that a reader may suspect to what is right about them.
    """

    name: str
    function: Callable
    wrong: str
    why: str
    others: Mapping[str, str]

    def lines(self) -> list[str]:
        """The function's lines, without its docstring.

        Raises:
            ValueError: ``wrong`` or one of ``others`` is not exactly one of the lines.
        """
        lines = [line for line in code_of(self.function).splitlines() if line.strip()]
        stripped = [line.strip() for line in lines]
        for line in (self.wrong, *self.others):
            if stripped.count(line) != 1:
                raise ValueError(f"{self.name}: {line!r} must be exactly one of the lines")
        return lines


@dataclass(frozen=True)
class Lines:
    """A puzzle: the lines of a right answer to the exercise ``name``, to be put in order.

    The body of ``function`` has at most 12 lines, and only one order of them is right.
    ``distractors`` maps wrong lines to the mistake in each. They are written as they would be if the
    body itself were not indented.
    """

    name: str
    function: Callable
    distractors: Mapping[str, str]

    def lines(self) -> list[str]:
        """The lines of the function's body in order, without docstring and outer indentation.

        Raises:
            ValueError: more than 12 lines, or a distractor that is one of them.
        """
        code = code_of(self.function)
        body = next(n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.FunctionDef)).body
        text = textwrap.dedent("\n".join(code.splitlines()[body[0].lineno - 1 :]))
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) > 12:
            raise ValueError(f"{self.name}: function must have at most 12 lines, got {len(lines)}")
        for line in self.distractors:
            if line in lines:
                raise ValueError(f"{self.name}: {line!r} is a right line and no distractor")
        return lines


def code_of(function: Callable) -> str:
    """The code of a function without its docstring.

    Examples:
        >>> code_of(code_of).splitlines()[0]
        'def code_of(function: Callable) -> str:'
    """
    code = textwrap.dedent(inspect.getsource(function))
    nodes = ast.walk(ast.parse(code))
    first, *rest = next(n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)).body
    lines = code.splitlines()
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and rest:
        lines[first.lineno - 1 : first.end_lineno] = []
    return "\n".join(lines).rstrip()


# Properties that are not about the returned value: the check runner knows them.
RUNS = Property(
    "runs on every input",
    lambda *_: None,
    "Call your function in a cell of its own, with the input above or one like it: there you see "
    "the whole traceback.",
)
ANSWERS = Property(
    "has an answer wherever there is one",
    lambda *_: None,
    "Your function raises a ValueError although an answer exists. Work it out by hand for the input "
    "above, and see which of your conditions it does not meet.",
)
IN_TIME = Property(
    "comes to an end",
    lambda *_: None,
    "Is there a loop that never ends on the input above, or work that grows much faster than the "
    "input? Follow by hand what must happen for the loop to stop.",
)
IN_MEMORY = Property(
    "takes little memory",
    lambda *_: None,
    "Look for a list that grows in a loop without end, or for a table of all pairs of entries.",
)
LEGAL = Property(
    "calls the functions only with inputs that the statement allows",
    lambda *_: None,
    "The function is right and raised an error, so it was called with something that no such "
    "function has to accept. Reread what the statement says about the inputs.",
)
REFUSES = Property(
    "raises a ValueError where there is no answer",
    lambda *_: None,
    "Before you compute anything, ask whether an answer exists; if not, "
    "raise ValueError(...) with a message that says why.",
)
UNCHANGED = Property(
    "leaves its input as it was",
    lambda *_: None,
    "Look for an assignment into the input (x[...] = ...) or for a method that ends in an "
    "underscore (abs_, mul_): both change the caller's tensor. Work on a copy (x.clone()).",
)


def show(value: Any) -> str:
    """A value as one would type it into a cell; a large one, or a function, is described.

    Examples:
        >>> show(torch.tensor([1.0, -2.0]))
        'torch.tensor([1.0, -2.0])'
        >>> show(torch.zeros(100, 100))
        '<torch.float32 tensor of shape (100, 100)>'
    """
    try:
        return _shown(value)
    except (KeyboardInterrupt, OutOfTime):
        raise
    except BaseException:  # noqa: BLE001 (a value with a __doc__, __repr__ or length of its own)
        return "<a value that cannot be shown>"


def _shown(value: Any) -> str:
    kind = type(value)
    if issubclass(kind, Tensor):
        ordinary = value.layout is torch.strided and value.device.type == "cpu"
        if ordinary and value.numel() <= LONGEST_TENSOR:
            usual = value.dtype in (torch.float32, torch.int64, torch.bool)
            dtype = "" if usual else f", dtype={value.dtype}"
            return f"torch.tensor({value.tolist()}{dtype})"
        return f"<{value.dtype} tensor of shape {tuple(value.shape)}>"
    if kind is dict and len(value) <= LONGEST_TENSOR:
        return "{" + ", ".join(f"{show(key)}: {show(item)}" for key, item in value.items()) + "}"
    if kind in (tuple, list) and any(issubclass(type(item), Tensor) for item in value[:6]):
        ends = "()" if kind is tuple else "[]"
        more = ", …" if len(value) > 6 else "," if len(value) == 1 and kind is tuple else ""
        return ends[0] + ", ".join(map(show, value[:6])) + more + ends[1]
    if callable(value) and value.__doc__:
        return f"<{value.__doc__}>"
    return reprlib.repr(value)
