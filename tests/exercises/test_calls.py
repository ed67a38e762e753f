"""One call: copies in, everything kept that comes out, and what a property asks for."""

import sys

import pytest
import torch

from course_lib.exercises.calls import call, first_unmet, in_words, same, unmet
from course_lib.exercises.criteria import MAGNITUDE_MASK
from course_lib.exercises.exercise import UNCHANGED, OutOfTime, Property


def test_a_call_works_on_copies_and_keeps_what_is_printed():
    def function(x):
        print("out")
        print("err", file=sys.stderr)
        return x.add_(1)

    x = torch.zeros(2)
    made = call(function, (x,))
    assert x.tolist() == [0, 0]
    assert made.after[0].tolist() == [1, 1]
    assert made.printed == "out\nerr\n"
    assert unmet(UNCHANGED, made, False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OutOfTime])
def test_an_interrupt_passes_and_every_other_error_is_kept(error):
    def raises(kind):
        raise kind

    assert isinstance(call(raises, (SystemExit,)).error, SystemExit)
    with pytest.raises(error):
        call(raises, (error,))
    wanting = Property("", lambda returned: raises(error), "")
    with pytest.raises(error):
        unmet(wanting, call(lambda: 1, ()), False)
    with pytest.raises(error):
        in_words(type("E", (Exception,), {"__str__": lambda _: raises(error)})())


def test_the_first_property_that_is_broken_is_told():
    def words(function):
        return first_unmet(MAGNITUDE_MASK, call(function, (torch.tensor([1.0, -2.0]), 0.5)))

    assert words(lambda w, s: torch.tensor([False, True])) is None
    assert "exactly" not in words(lambda w, s: torch.tensor([True, False]))
    assert words(lambda w, s: 1 / 0) == "an answer, not an exception"
    assert "got int" in words(lambda w, s: 1)


def test_same_compares_tensors_by_entry_and_dicts_in_order():
    one = torch.ones(2)
    assert same((one, {"a": one}), (one.clone(), {"a": one.clone()}))
    assert not same((one,), (one.double(),))
    assert not same((one,), (one.to("meta"),))
    assert not same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not same([1], [1, 2])
    assert not same(1, True)
