"""The runner: what it says, what it survives, and what it leaves alone."""

import dataclasses
import math
import os
import random
import statistics
import sys

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from course_lib.exercises import EXERCISES
from course_lib.exercises.bayesian import noisy_outputs
from course_lib.exercises.calls import LONGEST_TEXT, plain
from course_lib.exercises.common import hunt, lowest_removed, peculiar, wrong_count
from course_lib.exercises.exercise import REFUSES, Exercise, Property, show
from course_lib.grading import check
from course_lib.grading.checks import CLOSING, CheckFailed, run

from .answers.criteria import judge_by_oracle, mask_by_python
from .answers.prune_rate import total_by_counting


def empty(*inputs): ...


def raises_not_implemented(*inputs):
    raise NotImplementedError


@pytest.mark.parametrize("stub", [empty, raises_not_implemented, lambda *_: ...])
@pytest.mark.parametrize("name", EXERCISES)
def test_a_stub_is_answered_kindly(name, stub):
    result = check(name, stub)
    assert not result.passed
    assert result.stub
    for text in (str(result), result._repr_html_()):
        assert "nothing to check yet" in text
        assert f"fill in the body of {EXERCISES[name].signature}" in text
        assert "fail" not in text.lower()
        assert "holds" not in text


def test_none_in_one_branch_is_not_a_stub():
    result = check("magnitude_mask", lambda w, s: mask_by_python(w, s) if s else None)
    assert not result.stub
    assert "got NoneType" in str(result)


def test_unknown_name_lists_the_exercises():
    with pytest.raises(ValueError, match=r"'mask'.*magnitude_mask, mask_goes_wrong"):
        check("mask", mask_by_python)


@pytest.mark.parametrize("value", [None, 3, torch.ones(2), "magnitude_mask"])
def test_only_functions_are_checked(value):
    with pytest.raises(TypeError, match=r"function itself, as in check\('magnitude_mask', magn"):
        check("magnitude_mask", value)


def test_counterexample_in_words():
    text = str(check("magnitude_mask", lambda w, s: mask_by_python(w - w.min(), s)))
    assert "Input:     magnitude_mask(torch.tensor([1.0, -2.0]), 0.5)" in text
    assert "Returned:  torch.tensor([True, False])" in text
    assert "Expected:  no magnitude removed that is above a kept one; here 2 goes and 1 s" in text
    assert text.splitlines()[0] == "magnitude_mask: not yet, 3 of 6 properties hold so far"
    assert text.endswith(CLOSING)
    assert CLOSING == "Public checks only; grading uses other inputs."


def test_wrong_type_is_named():
    text = str(check("magnitude_mask", lambda w, s: mask_by_python(w, s).tolist()))
    assert "Expected:  a torch.bool tensor of shape (2,), got tuple or list" in text
    text = str(check("magnitude_mask", lambda w, s: mask_by_python(w, s).to("meta")))
    assert "dense and on the CPU; got torch.strided on meta" in text
    text = str(check("magnitude_mask", lambda w, s: mask_by_python(w, s).to_sparse()))
    assert "dense and on the CPU; got torch.sparse_coo on cpu" in text
    text = str(check("kills_wrong_masks", lambda fn: 0.0))
    assert "True or False, got float" in text


def test_upside_down_mask_is_told_so():
    assert "is the mask upside down?" in str(
        check("magnitude_mask", lambda w, s: ~mask_by_python(w, s))
    )


def test_a_count_that_is_rounded_another_way_is_not_called_upside_down():
    """Of five weights, three go where two should, and two stay: it is no mask turned round."""
    keep = torch.tensor([False, False, False, True, True])
    assert wrong_count(keep, 0.5) == "round(0.5 * 5) = 2 of 5 weights removed, not 3"
    assert "upside down" in wrong_count(torch.arange(8) < 2, 0.25)

    def rounded_up(weight, sparsity):
        n = weight.numel()
        gone = n if sparsity == 1 else min(n - 1, math.floor(sparsity * n + 0.5))
        return lowest_removed(weight.abs(), gone)

    text = str(check("magnitude_mask", rounded_up))
    assert "2 of 5 weights removed, not 3" in text and "upside down" not in text


def test_a_tiny_input_says_that_its_squares_are_zero():
    assert peculiar((torch.tensor([1e-30]),)).endswith("Their squares are 0 in 32 bits.")
    assert "squares" not in peculiar((torch.tensor([1e-10]),))
    assert peculiar((torch.tensor([1e30]),)).endswith("Their squares are infinite in 32 bits.")


def test_the_noise_of_another_output_is_not_called_a_wrong_mean_alone():
    def of_the_first_example(x, theta, log_var, noise):
        return noisy_outputs(x, theta, log_var, noise[:1].expand_as(noise))

    assert "the output's own number in noise is 0" in str(
        check("noisy_outputs", of_the_first_example)
    )


def test_an_earlier_property_wins_over_an_earlier_case():
    """The first case breaks "smallest magnitude", a later one "exactly round"."""

    def answer(weight, sparsity):
        return torch.zeros_like(weight).bool() if sparsity == 0 else ~mask_by_python(weight, 0.5)

    result = check("magnitude_mask", answer)
    assert result.broken.says == "removes exactly as many weights as the statement says"
    assert [prop.says[:8] for prop in result.holds] == ["runs on ", "returns "]


def test_error_shows_the_input_and_the_last_line_of_the_students_code():
    def helper(weight):
        return torch.reshape(weight, (7, 7))  # the line to find

    result = check("magnitude_mask", lambda weight, sparsity: helper(weight))
    text = str(result)
    assert "magnitude_mask(torch.tensor([1.0, -2.0]), 0.5)" in text
    assert "RuntimeError: shape '[7, 7]' is invalid" in text
    line = helper.__code__.co_firstlineno + 1
    assert f"in line {line} of your code: return torch.reshape(weight, (7, 7))" in text
    assert result.holds == ()


def test_error_deep_in_a_library_still_shows_the_students_line():
    def answer(weight, sparsity):
        return statistics.mean([])

    assert "of your code: return statistics.mean([])" in str(check("magnitude_mask", answer))


def test_wrong_number_of_parameters_has_no_line_of_its_own():
    text = str(check("magnitude_mask", lambda weight: weight))
    assert "takes 1 positional argument but 2 were given" in text
    assert "of your code" not in text


def test_exit_is_an_error_and_interrupt_gets_through():
    assert "SystemExit" in str(check("magnitude_mask", lambda *_: sys.exit()))

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("magnitude_mask", interrupted)


def test_a_run_that_fails_everywhere_stops_at_the_first_case():
    result = check("magnitude_mask", lambda *_: 1 / 0)
    assert result.inputs_tried == 1


def test_changed_input_is_a_property_of_its_own():
    text = str(check("magnitude_mask", lambda w, s: mask_by_python(w.abs_(), s)))
    assert "FAILS: leaves its input as it was" in text
    assert "Input:     magnitude_mask(torch.tensor([1.0, -2.0]), 0.5)" in text
    assert "the input had become torch.tensor([1.0, 2.0])" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda scores: scores.clear(),
        lambda scores: scores.update({name: s.tolist() for name, s in scores.items()}),
        lambda scores: scores.update({"fc1": scores.pop("fc1")}),
        lambda scores: next(iter(scores.values())).add_(1),
    ],
)
def test_a_changed_dict_is_seen(change):
    right = EXERCISES["global_masks"]

    def answer(scores, sparsity):
        from .answers.prune_rate import global_by_sort

        masks = global_by_sort(scores, sparsity)
        change(scores) if "fc1" in scores else None
        return masks

    assert check(right.name, answer).broken.says == "leaves its input as it was"


def test_every_call_gets_its_own_copy():
    """An answer that keeps and spoils its inputs does not spoil later checks."""

    def spoils(weight, sparsity):
        mask = mask_by_python(weight, sparsity)
        weight.zero_()
        return mask

    first = check("magnitude_mask", spoils)
    assert str(first) == str(check("magnitude_mask", spoils))
    assert check("magnitude_mask", mask_by_python).passed


def test_results_repeat_whatever_the_random_state():
    def dice(weight, sparsity):
        return [torch.rand(()).item(), random.random(), np.random.rand()]

    texts = set()
    for seed in range(20):
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
        texts.add(str(check("magnitude_mask", dice)))
    assert len(texts) == 1


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_the_readers_random_streams_go_on_as_if_nothing_happened(error):
    def draws(masks):
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        torch.rand(3), random.random(), np.random.rand()
        if error:
            raise error
        return total_by_counting(masks)

    def numbers():
        return torch.rand(()).item(), random.random(), np.random.rand()

    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    expected = numbers()
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    if error:
        with pytest.raises(error):
            check("mended_total_sparsity", draws)
    else:
        assert check("mended_total_sparsity", draws).passed
    assert numbers() == expected


def test_twenty_seeds_do_not_change_a_verdict():
    for seed in range(20):
        torch.manual_seed(seed)
        assert check("magnitude_mask", mask_by_python).passed


def test_print_is_kept_for_the_counterexample(capsys):
    def noisy(weight, sparsity):
        print("shape", tuple(weight.shape))
        return weight

    text = str(check("magnitude_mask", noisy))
    assert "Printed:   shape (2,)" in text
    assert capsys.readouterr().out == ""


def test_html_is_escaped_plain_and_without_ids_or_colours():
    def hostile(weight, sparsity):
        print("<script>alert(1)</script>\x1b[31m")
        return {"<img src=x onerror=alert(1)>": "</code>"}

    page = check("magnitude_mask", hostile)._repr_html_()
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert " id=" not in page
    assert "color" not in page
    assert page.count("<dt>") == page.count("<dd>") == 4


def test_html_escapes_an_error_message():
    def hostile(weight, sparsity):
        raise ValueError("<b>bold</b>")

    page = check("magnitude_mask", hostile)._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page


def test_html_and_text_say_the_same():
    import html
    import re

    result = check("magnitude_mask", lambda w, s: w.abs() > w.abs().quantile(s))
    words = html.unescape(re.sub("<[^>]+>", " ", result._repr_html_()))
    for label, text in (*result.facts, ("", result.broken.says), ("", result.broken.hint)):
        assert label in words
        assert text in words
        assert text in str(result)
    assert repr(result) == str(result)


def test_long_student_text_is_cut():
    def long_winded(weight, sparsity):
        raise ValueError("x" * 100_000)

    result = check("magnitude_mask", long_winded)
    assert len(dict(result.facts)["Raised"]) <= LONGEST_TEXT + len(" … (cut)")
    assert len(result._repr_html_()) < 2 * LONGEST_TEXT
    assert plain("a" * LONGEST_TEXT) == "a" * LONGEST_TEXT
    assert len(str(check("magnitude_mask", lambda *_: list(range(10**4))))) < LONGEST_TEXT


def test_show():
    assert show(torch.tensor([[1.0, -2.5]])) == "torch.tensor([[1.0, -2.5]])"
    assert show(torch.zeros(5, 5)) == "<torch.float32 tensor of shape (5, 5)>"
    assert show({"b": torch.ones(1).bool(), "a": 1}) == "{'b': torch.tensor([True]), 'a': 1}"
    assert show((2, 3)) == "(2, 3)"


@pytest.mark.parametrize("answer", [empty, lambda w, s: w])
def test_under_nbgrader_a_failed_check_raises(monkeypatch, answer):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(CheckFailed) as caught:
        check("magnitude_mask", answer)
    assert "magnitude_mask: " in str(caught.value)
    assert caught.value._render_traceback_() == str(caught.value).splitlines()


def test_under_nbgrader_an_answer_cannot_ask_for_mercy(monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")

    def answer(weight, sparsity):
        os.environ.pop("NBGRADER_EXECUTION", None)
        return weight

    with pytest.raises(CheckFailed):
        check("magnitude_mask", answer)


def test_under_nbgrader_a_passed_check_does_not_raise(monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "validate")
    assert check("magnitude_mask", mask_by_python).passed


def test_a_notebook_shows_the_message_without_a_traceback(monkeypatch, capsys):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    cell = "from course_lib.grading import check\ncheck('mended_total_sparsity', lambda masks: 0.5)"
    InteractiveShell().run_cell(cell)
    out, err = capsys.readouterr()
    assert "FAILS: counts what is removed, not what is kept" in out + err
    assert "Traceback" not in out + err
    assert "checks.py" not in out + err


def test_a_wrong_candidate_that_crashes_is_refused_by_the_test_that_called_it():
    seen = []

    def judge(fn):
        seen.append(fn)
        return mask_by_python(torch.ones(1), 0.0).all() and fn(torch.ones(3), 0.0).shape == (3,)

    def crashes(weight, sparsity):
        """a function that cannot divide"""
        return 1 / 0

    exercise = hunt(
        name="h",
        signature="h(fn)",
        section="",
        right=(mask_by_python,),
        alarm="Alarm.",
        wrong={crashes: "It crashes."},
    )
    assert run(exercise, judge).passed
    assert seen == [mask_by_python, crashes]


def test_a_right_candidate_that_crashes_was_called_with_an_illegal_input():
    result = check("kills_wrong_masks", lambda fn: fn("no weight", 0.5).all())
    assert result.broken.says.startswith("calls the functions only with inputs")
    assert "only with inputs that the statement allows" in dict(result.facts)["Expected"]


def test_the_tests_own_crash_is_its_own():
    result = check("kills_wrong_masks", lambda fn: 1 / 0)
    assert result.broken.says == "runs on every input"

    def misspelt(fn):
        return True if judge_by_oracle(fn) else Flase  # noqa: F821

    result = check("kills_wrong_masks", misspelt)
    assert result.broken.says == "runs on every input"
    assert "Flase" in str(result)


def test_a_comparison_that_raises_because_a_wrong_function_is_wrong_refuses_it():
    def judge(fn):
        assert judge_by_oracle(fn)
        return True

    assert check("kills_wrong_masks", judge).passed


TIMID = Exercise(
    name="half",
    signature="half(x)",
    section="",
    cases=lambda: iter([(2.0,), (0.0,), (-1.0,)]),
    properties=(Property("halves", lambda y, x: None if y == x / 2 else "half", "!"), REFUSES),
    refuses=lambda x: x < 0,
    expected=lambda x: x / 2,
)


def test_a_timid_value_error_is_told_what_is_expected():
    def half(x):
        if x <= 0:
            raise ValueError("no answer")
        return x / 2

    result = run(TIMID, half)
    assert result.broken.says == "has an answer wherever there is one"
    assert dict(result.facts)["Input"] == "half(0.0)"
    assert dict(result.facts)["Expected"] == "an answer, because there is one here: 0.0"
    crash = run(TIMID, lambda x: 1 / 0 if x == 0 else x / 2)
    assert crash.broken.says == "runs on every input"


class Hostile:
    """Nothing can be asked of it."""

    __class__ = property(lambda self: 1 / 0)

    def __getattribute__(self, name):
        raise SystemExit

    def __eq__(self, other):
        raise SystemExit

    __hash__ = None

    def __repr__(self):
        raise KeyError


def silent(message):
    raise message


class Mute(ValueError):
    def __str__(self):
        raise SystemExit


ENDLESS = []
ENDLESS += [ENDLESS, ENDLESS, ENDLESS]


# pytest would ask these values for their class, so it gets their names.
HOSTILE = {
    "object": Hostile(),
    "class": Hostile,
    "nested": [Hostile(), {"a": Hostile()}],
    "endless": ENDLESS,
    "long int": 10**5000,
    "large int": 10**30,
    "nan": float("nan"),
    "huge": torch.zeros(1).expand(10**12),
    "sparse": torch.ones(2).to_sparse(),
    "meta": torch.ones(2, device="meta"),
    "half": torch.ones(2).half(),
    "text": np.array(["a"]),
    "objects": np.array([object()]),
    "generator": (value for value in [1]),
    "raises": lambda *_: silent(Mute()),
    "exits": lambda *_: sys.exit(),
    "module": torch.nn.Linear(1, 1),
}


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", ["magnitude_mask", "mask_goes_wrong", "kills_wrong_masks"])
def test_no_value_that_is_returned_or_raised_makes_the_check_raise(name, value):
    result = check(name, lambda *_: HOSTILE[value])
    assert not result.passed
    assert result._repr_html_()
    assert not check(name, lambda *_: silent(Mute())).passed


def test_a_returned_function_that_raises_anything_is_answered():
    """A property that calls what was returned; exercises like this give functions back."""
    calls = Property("doubles", lambda f, x: None if f(x) == 2 * x else "twice", "!")
    exercise = dataclasses.replace(TIMID, properties=(calls,))
    for error in (AttributeError, RecursionError, SystemExit, Mute):
        text = str(run(exercise, lambda x, error=error: lambda v: silent(error())))
        assert "an answer that can be examined" in text
    assert run(exercise, lambda x: lambda v: np.float64(2 * v)).passed

    def speaks(x):
        return lambda v: print("from within", file=sys.stderr)

    assert "Printed:   from within" in str(run(exercise, speaks))


def test_a_returned_function_cannot_change_its_judge():
    def demand(function, x):
        y = function(x)
        return None if torch.equal(y, torch.tensor([x / 2])) else "half"

    def answer(x):
        def given(v):
            torch.equal = lambda *_: True
            return np.array([v])

        return given

    exercise = dataclasses.replace(TIMID, properties=(Property("halves", demand, "!"),))
    result = run(exercise, answer)
    assert not result.passed
    assert "Note: Your function changed torch.equal." in str(result)


def test_an_endless_answer_is_interrupted_with_its_input():
    def endless(weight, sparsity):
        while len(weight) == 1:
            pass
        return mask_by_python(weight, sparsity)

    result = run(EXERCISES["magnitude_mask"], endless, seconds=0.3)
    assert result.broken.says == "comes to an end"
    assert dict(result.facts)["Input"] == "magnitude_mask(torch.tensor([5.0]), 1.0)"
    assert "within 0.3 seconds; this is input 2" in dict(result.facts)["Expected"]


def test_what_an_answer_changes_is_put_back_and_named():
    def careless(weight, sparsity):
        torch.equal = lambda *_: True
        torch.set_default_dtype(torch.float64)
        return mask_by_python(weight, sparsity)

    equal = torch.equal
    result = check("magnitude_mask", careless)
    assert result.passed
    assert "Note: Your function changed the default dtype and torch.equal." in str(result)
    assert "the default dtype and torch.equal" in result._repr_html_()
    assert torch.equal is equal
    assert torch.get_default_dtype() is torch.float32


def test_a_session_that_is_unusual_before_the_check_does_not_matter_and_stays(monkeypatch):
    monkeypatch.setattr(torch, "equal", lambda *_: False)
    mine = torch.equal
    torch.set_default_dtype(torch.float64)
    try:
        result = check("magnitude_mask", mask_by_python)
        assert result.passed
        assert "Not as usual in this session: the default dtype and torch.equal." in str(result)
        assert torch.equal is mine
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
