"""What an exercise is: cases to try an answer on, and the properties that a right answer has."""

import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LONGEST_TENSOR = 24  # entries; a larger tensor is described, not printed


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
    ``refuses(*inputs)`` is True for inputs that must raise a ValueError. A bug hunt has
    ``candidates``, and each of them is one of its cases.
    """

    name: str
    signature: str
    section: str
    cases: Callable[[], Iterable[tuple]]
    properties: tuple[Property, ...]
    refuses: Callable[..., bool] = lambda *inputs: False
    candidates: tuple[Candidate, ...] = ()

    @property
    def function(self) -> str:
        """The function's name, from its signature."""
        return self.signature.split("(")[0]


# Three properties that are not about the returned value: the check runner knows them.
RUNS = Property(
    "runs on every input",
    lambda *_: None,
    "Call your function in a cell of its own, with the input above or one like it: there you see "
    "the whole traceback.",
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
    if isinstance(value, Tensor):
        plain_data = value.layout is torch.strided and value.device.type == "cpu"
        if plain_data and value.numel() <= LONGEST_TENSOR:
            return f"torch.tensor({value.tolist()})"
        return f"<{value.dtype} tensor of shape {tuple(value.shape)}>"
    if type(value) is dict:
        return "{" + ", ".join(f"{show(key)}: {show(item)}" for key, item in value.items()) + "}"
    if callable(value) and value.__doc__:
        return f"<{value.__doc__}>"
    return reprlib.repr(value)
