"""Every exercise: right answers pass, each mistake is refused by the property made for it."""

import inspect
from functools import cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from course_lib.exercises import EXERCISES
from course_lib.exercises.calls import Call, unmet
from course_lib.grading import check

from .answers import HUNTS, RIGHT, WRONG
from .answers.criteria import mask_by_python

PAIRS_RIGHT = [(name, answer) for name, answers in RIGHT.items() for answer in answers]
PAIRS_WRONG = [(name, *wrong) for name, wrongs in WRONG.items() for wrong in wrongs]


@cache
def verdict_on(name, answer):
    """What `check` says; two tests ask for each mistake."""
    return check(name, answer)


def test_every_exercise_has_two_right_answers_and_four_mistakes():
    assert set(RIGHT) == set(WRONG) == set(EXERCISES)
    assert all(len(answers) >= 2 for answers in RIGHT.values())
    assert all(len(answers) >= 4 for answers in WRONG.values())


@pytest.mark.parametrize(("name", "answer"), PAIRS_RIGHT)
def test_right_answer_passes(name, answer):
    result = check(name, answer)
    assert result.passed, str(result)
    assert "passed" in str(result)


@pytest.mark.parametrize(("name", "answer", "words"), PAIRS_WRONG)
def test_mistake_is_refused_by_the_property_made_for_it(name, answer, words):
    result = verdict_on(name, answer)
    assert not result.passed
    assert words in result.broken.says, str(result)
    assert result.broken.hint in str(result)
    assert EXERCISES[name].section in str(result)


@pytest.mark.parametrize("name", [name for name in EXERCISES if name not in HUNTS])
def test_every_property_of_an_exercise_can_be_the_first_to_fail(name):
    """A property that no listed mistake breaks is untested (bug hunts: see the next tests)."""
    broken = {verdict_on(name, answer).broken.says for answer, _ in WRONG[name]}
    broken.add("runs on every input")
    assert broken >= {prop.says for prop in EXERCISES[name].properties}


def accepts(judge, function):
    """A function that raises an error has been found out."""
    try:
        return judge(function)
    except (RuntimeError, TypeError):
        return False


@pytest.mark.parametrize("name", HUNTS)
def test_hunted_functions_pass_the_weak_test_and_are_told_apart_by_a_good_one(name):
    weak, shown, good = HUNTS[name]
    candidates = [candidate.function for candidate in EXERCISES[name].candidates]
    assert candidates == [inputs[0] for inputs in EXERCISES[name].cases()]
    right = [candidate.function for candidate in EXERCISES[name].candidates if candidate.right]
    wrong = [fn for fn in candidates if fn not in right]
    assert len(right) >= 3
    assert len(wrong) >= 5
    assert shown in wrong
    assert all(weak(fn) for fn in candidates)
    assert all(good(fn) for fn in right)
    assert not any(accepts(good, fn) for fn in wrong)


@pytest.mark.parametrize("name", HUNTS)
def test_a_survivor_is_named_whichever_it_is(name):
    """A judge that lets one wrong function through hears which one."""
    candidates = EXERCISES[name].candidates
    right = [candidate.function for candidate in candidates if candidate.right]
    for survivor in (candidate for candidate in candidates if not candidate.right):
        answer = check(name, lambda fn, s=survivor: fn is s.function or fn in right)
        assert f"your test accepts {survivor.says}" in str(answer)
        assert answer.broken.says == f"refuses {survivor.says}"
        assert answer.broken.hint == survivor.hint


@pytest.mark.parametrize("name", EXERCISES)
def test_cases_start_ordinary_and_repeat(name):
    first, second = (list(EXERCISES[name].cases()) for _ in range(2))
    assert repr(first) == repr(second)
    assert not EXERCISES[name].refuses(*first[0])
    parameters = [p for p in EXERCISES[name].signature.split("(")[1].rstrip(")").split(", ") if p]
    assert all(len(inputs) == len(parameters) for inputs in first)


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(part)


@pytest.mark.parametrize("name", EXERCISES)
def test_view_works_on_every_input(name):
    """No statement speaks of strides, so whoever writes `view` is right."""
    assert all(x.is_contiguous() for inputs in EXERCISES[name].cases() for x in tensors_in(inputs))


def test_small_cases_come_before_large_ones():
    for name in ("magnitude_mask", "global_masks"):
        sizes = [
            inputs[0].numel() if name == "magnitude_mask" else sum(map(len, inputs[0].values()))
            for inputs in EXERCISES[name].cases()
        ]
        assert max(sizes[:10]) <= 12
        assert max(sizes[:-2]) <= 81 < min(sizes[-2:])


def test_answers_take_the_parameter_names_of_the_signature():
    """The functions of the mask hunt can be called by keyword, as a student might."""
    for (function,) in EXERCISES["kills_wrong_masks"].cases():
        assert list(inspect.signature(function).parameters) == ["weight", "sparsity"]


QUARTERS = st.integers(-4, 4).map(lambda k: k / 4)
WEIGHTS = st.lists(QUARTERS, min_size=1, max_size=8)
SPARSITIES = st.floats(0, 1)


def verdict(mask, weight, sparsity):
    """Whether the properties of the exercise, on this one input, accept `mask`."""
    call = Call((weight, sparsity), (weight, sparsity), plain=mask)
    return all(unmet(prop, call, False) is None for prop in EXERCISES["magnitude_mask"].properties)


@settings(deadline=None, max_examples=150, database=None, derandomize=True)
@given(WEIGHTS, SPARSITIES)
def test_the_sorted_mask_is_always_accepted(values, sparsity):
    weight = torch.tensor(values)
    assert verdict(mask_by_python(weight, sparsity), weight, sparsity)


@settings(deadline=None, max_examples=150, database=None, derandomize=True)
@given(WEIGHTS, SPARSITIES, st.data())
def test_every_other_mask_is_refused(values, sparsity, data):
    """The oracle is Python's sort: any mask that differs from it is wrong."""
    weight = torch.tensor(values)
    size = len(values)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    assume(not torch.equal(mask, mask_by_python(weight, sparsity)))
    assert not verdict(mask, weight, sparsity)


@settings(deadline=None, max_examples=100, database=None, derandomize=True)
@given(WEIGHTS.filter(lambda values: len(values) > 1), SPARSITIES, st.data())
def test_a_swap_of_one_kept_and_one_removed_weight_is_refused(values, sparsity, data):
    """The nearest wrong masks: right count, one pair exchanged."""
    weight = torch.tensor(values)
    mask = mask_by_python(weight, sparsity)
    assume(mask.any() and not mask.all())
    kept = data.draw(st.sampled_from(mask.nonzero().flatten().tolist()))
    gone = data.draw(st.sampled_from((~mask).nonzero().flatten().tolist()))
    mask[kept], mask[gone] = False, True
    assert not verdict(mask, weight, sparsity)
