"""What the exercises of several lessons share: small random inputs, properties of masks, bug hunts.

Values of small cases are multiples of 1/4, so that ties occur and counterexamples are short.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from course_lib.exercises.calls import call, first_unmet
from course_lib.exercises.exercise import UNCHANGED, Candidate, Exercise, Property, show

SCALES = (2.0**-60, 2.0**-20, 2.0**20, 2.0**60)  # whose squares a float32 can still hold
SPARSITIES = (0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.75, 0.9, 1.0)


def draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A small tensor of quarters between -1 and 1, so ties are common."""
    return torch.randint(-4, 5, shape, generator=generator) / 4


def pick(options: int | tuple, generator: torch.Generator):
    """One of the options, or a number from 1 to ``options``."""
    options = tuple(range(1, options + 1)) if isinstance(options, int) else options
    return options[int(torch.randint(len(options), (), generator=generator))]


# Draws on which every right answer agrees, whatever the order of its operations and its precision.


def dyadic(shape: tuple[int, ...], generator: torch.Generator, per: int = 64) -> Tensor:
    """Normal numbers in steps of 1 / ``per``: float32 adds hundreds of their products exactly."""
    return torch.randn(shape, generator=generator).mul(per).round() / per


def first_that(good: Callable[..., bool], make: Callable[[], tuple]) -> tuple:
    """The first of the cases that ``make`` draws of which ``good(*case)`` holds."""
    return next(case for case in iter(make, None) if good(*case))


def apart(scores: Tensor) -> bool:
    """Whether no two scores of a row are so close that rounding could exchange them.

    Two float32 answers may differ by a few millionths of a score; here neighbours differ by more than
    2^-14, which is 61 millionths.

    Examples:
        >>> apart(torch.tensor([1.0, 1.001])), apart(torch.tensor([1.0, 1.000001]))
        (True, False)
    """
    ranked = scores.double().abs().sort(-1).values
    return bool((ranked.diff() > 2.0**-14 * ranked[..., 1:]).all())


# Awkward cases, made from ordinary ones. What is right for a case is right for these.


def rescaled(
    inputs: tuple, *places: int, scales: tuple[float, ...] = SCALES, fine: float = 2.0**-20
) -> Iterator[tuple]:
    """The case with other values at ``places``: tiny, huge, and close together.

    The tensors at these places are multiplied by a power of two, so that no digit is lost and ties
    stay ties. Then each value x becomes ``sign(x) + fine * x``, and 0 stays 0: what was apart
    differs in the seventh digit only, which 16 bits, a rounding or a tolerance would lose.

    Examples:
        >>> [x.tolist() for (x,) in rescaled((torch.tensor([0.0, -1.0]),), 0, scales=(4.0,))]
        [[0.0, -4.0], [0.0, -1.0000009536743164]]
    """
    changes = [lambda x, scale=scale: x * scale for scale in scales]
    for change in (*changes, lambda x: x.sign() + fine * x):
        yield tuple(_with(change, x) if i in places else x for i, x in enumerate(inputs))


def precise(inputs: tuple, *places: int, fine: float = 2.0**-40) -> tuple:
    """The case in float64, with values at ``places`` that float32 would make equal.

    Each value x at these places becomes ``sign(x) + fine * x``, and 0 stays 0.

    Examples:
        >>> [x.tolist() for x in precise((torch.tensor([0.0, -0.5]), torch.tensor([0.5])), 0)]
        [[0.0, -1.0000000000004547], [0.5]]
    """
    wide = [_with(lambda x: x.double() if x.is_floating_point() else x, x) for x in inputs]
    close = [
        _with(lambda x: x.sign() + fine * x, x) if i in places else x for i, x in enumerate(wide)
    ]
    return tuple(close)


def peculiar(inputs: Any) -> str | None:
    """What is unusual about the numbers of a case, for whoever goes wrong on it; None if nothing is.

    Examples:
        >>> peculiar((torch.tensor([0.0, 2e-9]), 0.5))
        'tiny. An added constant, a tolerance or a rounding hides them.'
    """
    if isinstance(inputs, dict | tuple):
        parts = inputs.values() if isinstance(inputs, dict) else inputs
        return next(filter(None, map(peculiar, parts)), None)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        return None
    sizes = inputs.detach().abs()
    sizes = sizes[sizes > 0].double()
    if not len(sizes):
        return None
    least, most = float(sizes.min()), float(sizes.max())
    if most < 1e-5:
        squares = " Their squares are 0 in 32 bits." if most < 1e-23 else ""
        return "tiny. An added constant, a tolerance or a rounding hides them." + squares
    if least > 1e5:
        squares = " Their squares are infinite in 32 bits." if least > 1e20 else ""
        return "huge. 16 bits cannot hold them, and beside them a constant is nothing." + squares
    if least < most < least * (1 + 1e-5):
        return "close together. 16 bits, a tolerance or a rounding makes them equal."
    return None


def repeated(inputs: tuple, times: int) -> tuple:
    """The case with every tensor ``times`` times, one behind the other: long, and full of ties.

    Examples:
        >>> repeated((torch.tensor([[1, 2]]), 0.5), 2)
        (tensor([[1, 2],
                [1, 2]]), 0.5)
    """
    return tuple(_with(lambda x: torch.cat([x] * times), x) for x in inputs)


def _with(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with each tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _with(change, part) for key, part in value.items()}
    return value


def kind(value: object) -> str:
    """The type's name as an import would write it: bool, torch.nn.Linear.

    A list is a tuple by the time a property sees it (``accept.plain_data``), so both are named.
    """
    kind = type(value)
    if kind is tuple:
        return "tuple or list"
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def held(tensor: Tensor) -> str:
    """What an answer's tensor holds. Its own type, such as int32, is gone by now: ``plain_data``.

    Examples:
        >>> held(torch.zeros(2)), held(torch.tensor([3])), held(torch.tensor([True]))
        ('floats', 'whole numbers', 'bools')
    """
    if tensor.is_complex():
        return "complex numbers"
    if tensor.is_floating_point():
        return "floats"
    return "bools" if tensor.dtype == torch.bool else "whole numbers"


def number(says: str) -> Property:
    """The property that the answer is a plain number from 0 to 1."""

    def demand(returned, *_):
        if isinstance(returned, bool) or not isinstance(returned, int | float):
            return f"a float, got {kind(returned)}"
        return None if 0 <= returned <= 1 else "a number from 0 to 1"

    return Property(
        says, demand, "A sparsity is the fraction that goes: 0 keeps everything, 1 keeps nothing."
    )


def not_floats(returned: object, like: Tensor) -> str | None:
    """What is wrong if ``returned`` is not a tensor of floats in the shape of ``like``, else None."""
    wanted = f"a float tensor of shape {tuple(like.shape)}"
    if not isinstance(returned, Tensor):
        return f"{wanted}, got {kind(returned)}"
    if returned.shape != like.shape or not returned.is_floating_point():
        return f"{wanted}, got {held(returned)} of shape {tuple(returned.shape)}"
    return None


# What a mask has to be, for `magnitude_mask` and `global_masks` alike. `score` and `keep` are flat.


def not_a_mask(returned: object, like: Tensor) -> str | None:
    """What is wrong if ``returned`` is not a mask for ``like``, else None."""
    wanted = f"a torch.bool tensor of shape {tuple(like.shape)}"
    if type(returned) is not Tensor:
        return f"{wanted}, got {kind(returned)}"
    if returned.dtype != torch.bool or returned.shape != like.shape:
        return f"{wanted}, got {held(returned)} of shape {tuple(returned.shape)}"
    if (returned.layout, returned.device) != (like.layout, like.device):
        return f"{wanted}, dense and on {like.device}; got {returned.layout} on {returned.device}"
    return None


def wrong_count(keep: Tensor, sparsity: float) -> str | None:
    """What is wrong if the mask does not remove ``round(sparsity * n)`` weights."""
    n, removed = keep.numel(), int((~keep).sum())
    count = round(sparsity * n)
    if removed == count:
        return None
    # One more or less is rather a mistake of rounding.
    inverted = n - removed == count and abs(removed - count) > 1
    upside_down = " (True means keep: is the mask upside down?)" if inverted else ""
    return f"round({sparsity:g} * {n}) = {count} of {n} weights removed, not {removed}{upside_down}"


def larger_gone(score: Tensor, keep: Tensor, what: str) -> str | None:
    """What is wrong if a removed score is above a kept one."""
    if keep.all() or not keep.any() or score[~keep].max() <= score[keep].min():
        return None
    gone, kept = float(score[~keep].max()), float(score[keep].min())
    digits = "g" if f"{gone:g}" != f"{kept:g}" else ".17g"
    return (
        f"no {what} removed that is above a kept one; here {gone:{digits}} goes and "
        f"{kept:{digits}} stays"
    )


def later_kept(score: Tensor, keep: Tensor, what: str) -> str | None:
    """What is wrong if, of equal scores, an earlier one is removed and a later one kept."""
    if keep.all() or not keep.any():
        return None
    tied = keep[score == score[~keep].max()].int()  # those at the cut, in order
    if (tied.diff() <= 0).all():
        return None
    return f"the earlier of equal {what}s kept; here an earlier one goes and a later one stays"


COUNT_HINT = (
    "Comparing with a threshold removes all weights that are tied with it, or none of them. "
    "Count first, with Python's round, then choose that many positions."
)
TIE_HINT = (
    "Number the positions row by row. If you sort, ask for a sort that leaves equal entries in "
    "their order, and check from which end of it you remove."
)


def hunt(
    *,
    name: str,
    signature: str,
    section: str,
    right: tuple[Callable, ...],
    alarm: str,
    wrong: dict[Callable, str],
) -> Exercise:
    """A bug hunt: an exercise whose answer is a test of other functions.

    The test must answer True for every function of ``right``; ``alarm`` is the hint if it does not.
    It must answer False for every function of ``wrong``, which maps each to its hint; an error while
    such a function is tried counts as False. The docstrings of these functions describe them.
    """
    candidates = (
        *(Candidate(function, True, function.__doc__ or "", alarm) for function in right),
        *(Candidate(f, False, f.__doc__ or "", hint) for f, hint in wrong.items()),
    )
    answers = Property(
        "answers True or False",
        lambda returned, _: (
            None
            if type(returned) in (bool, int) and returned in (0, 1)
            else f"True or False, got {kind(returned)}"
        ),
        "Let every path through your function end in a return. Several entries become one True or "
        "False by all(...) or any(...).",
    )
    return Exercise(
        name=name,
        signature=signature,
        section=section,
        cases=lambda: ((candidate.function,) for candidate in candidates),
        properties=(answers, *map(_judged, candidates)),
        candidates=candidates,
    )


def _judged(candidate: Candidate) -> Property:
    """The property that the answer is True for this candidate if it is right, else False."""

    def demand(returned: object, tested: Callable) -> str | None:
        if tested is not candidate.function or returned == candidate.right:
            return None
        verb = "refuses" if candidate.right else "accepts"
        return f"{candidate.right}: your test {verb} {candidate.says}"

    verb = "accepts" if candidate.right else "refuses"
    return Property(f"{verb} {candidate.says}", demand, candidate.hint)


def oracle(
    *, signature: str, section: str, right: Callable, case: tuple, legal: Callable[..., str | None]
) -> Exercise:
    """What ``smallest_input`` judges by where no reader writes the function itself.

    A function is right if it returns the tensors and numbers that ``right`` returns, to five digits.
    """

    def demand(returned: object, *inputs) -> str | None:
        wanted = right(*inputs)
        return None if _alike(returned, wanted) else show(wanted)

    return Exercise(
        name=signature.split("(")[0],
        signature=signature,
        section=section,
        cases=lambda: iter([case]),
        legal=legal,
        properties=(Property("is right", demand, ""), UNCHANGED),
    )


def _form(like: tuple, signature: str) -> str:
    """In which form a smallest input is returned: ``like`` is one for the function."""
    if len(like) == 1:
        return f"Return the input of one call of {signature}, such as {show(like[0])}."
    shown = ", ".join(map(show, like))
    return f"Return a tuple with the inputs of one call, in the order of {signature}, such as ({shown})."


def _alike(mine: Any, theirs: tuple) -> bool:
    """Whether two tuples hold the same tensors and numbers."""
    pairs = [
        (torch.as_tensor(a).double(), torch.as_tensor(b).double())
        for a, b in zip(mine, theirs, strict=True)
    ]
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=0) for a, b in pairs)


def smallest_input(
    *, name: str, wrong: Callable, judged_by: Exercise, at_most: int, hint: str
) -> Exercise:
    """The first step of a bug hunt: give an input on which the shown function goes wrong.

    The answer is a function without arguments that returns the tuple of inputs. It is right if the
    inputs are legal for ``judged_by``, have at most ``at_most`` entries, and ``wrong`` breaks a
    property of ``judged_by`` on them or raises. Entries are those of tensors and the numbers in
    tuples and dicts; a number that is an input by itself is not counted.

    Args:
        judged_by: the exercise whose properties judge the right function. Its first case shows how
            many inputs there are and of which types; its ``legal`` says what the statement allows.
        hint: for an input on which ``wrong`` does what it should.
    """
    function, like = wrong.__name__, next(iter(judged_by.cases()))

    def demand_legal(returned: object) -> str | None:
        return _not_legal(_as_inputs(returned, like), like, judged_by)

    def demand_small(returned: object) -> str | None:
        found = entries(_as_inputs(returned, like))
        return None if found <= at_most else f"at most {at_most} entries, got {found}"

    def demand_wrong(returned: object) -> str | None:
        if first_unmet(judged_by, call(wrong, _as_inputs(returned, like))):
            return None
        return f"an input on which {function} goes wrong; on this one it does what it should"

    return Exercise(
        name=name,
        signature="smallest()",
        section=judged_by.section,
        cases=lambda: iter([()]),
        properties=(
            Property(
                "returns inputs that the exercise allows",
                demand_legal,
                _form(like, judged_by.signature),
            ),
            Property(
                f"has at most {at_most} entries",
                demand_small,
                "Take entries out of your input as long as the function still goes wrong on it.",
            ),
            Property(f"makes {function} go wrong", demand_wrong, hint),
        ),
    )


def _as_inputs(returned: object, like: tuple) -> tuple:
    """What was returned as a tuple of inputs: one input may stand alone, whole numbers are floats.

    A tensor without dimensions is a number by now (``accept.plain_data``); it becomes one again.
    Floats become those of ``like``. If a tensor has float64, all stay or become float64: in float32
    1e-300 is 0, and 1 + 1e-15 is 1.
    """
    if len(like) == 1 and not (type(returned) is tuple and len(returned) == 1):
        returned = (returned,)
    if type(returned) is not tuple or len(returned) != len(like):
        return (returned,)
    wide = any(map(_holds_float64, returned))
    return tuple(
        _with_dtype(given, first, wide) for given, first in zip(returned, like, strict=True)
    )


def _holds_float64(given: Any) -> bool:
    if isinstance(given, dict):
        return any(map(_holds_float64, given.values()))
    return isinstance(given, Tensor) and given.dtype == torch.float64


def _with_dtype(given: Any, like: Any, wide: bool) -> Any:
    if isinstance(given, dict) and isinstance(like, dict) and like:
        first = next(iter(like.values()))
        return {key: _with_dtype(value, first, wide) for key, value in given.items()}
    if isinstance(given, bool | int | float) and isinstance(like, Tensor):
        given = torch.tensor(given)
    if not isinstance(given, Tensor) or not isinstance(like, Tensor):
        return given
    number = given.dtype != torch.bool and not given.is_complex()
    if not number or not like.is_floating_point():
        return given
    return given.to(torch.float64 if wide else like.dtype)


def _not_legal(inputs: tuple, like: tuple, exercise: Exercise) -> str | None:
    """What is wrong with ``inputs`` as inputs of ``exercise``, else None."""
    if len(inputs) != len(like):
        return f"a tuple of {len(like)} inputs, those of {exercise.signature}"
    for given, first in zip(inputs, like, strict=True):
        numbers = {type(given), type(first)} <= {int, float}
        if type(given) is not type(first) and not numbers:
            return f"inputs like those of {exercise.signature}: {kind(first)}, not {kind(given)}"
    try:
        return exercise.legal(*inputs)
    except (TypeError, ValueError, AttributeError, RuntimeError, LookupError, ArithmeticError):
        return f"inputs like ({', '.join(map(show, like))})"


def entries(inputs: object, depth: int = 0) -> int:
    """How many numbers there are in the tensors, tuples and dicts of ``inputs``."""
    if isinstance(inputs, Tensor):
        return inputs.numel()
    if isinstance(inputs, dict):
        return sum(entries(part, depth + 1) for part in inputs.values())
    if isinstance(inputs, tuple):
        return sum(entries(part, depth + 1) for part in inputs)
    return int(depth > 1 and not isinstance(inputs, str))  # at depth 1 it is an input by itself


def lowest_removed(score: Tensor, count: int) -> Tensor:
    """False for the ``count`` lowest entries (of equal ones, the later), True for the others."""
    keep = torch.ones(score.numel(), dtype=torch.bool)
    keep[torch.argsort(score.flatten(), descending=True, stable=True)[keep.numel() - count :]] = 0
    return keep.reshape(score.shape)
