"""The first step of a bug hunt: the smallest input on which a function goes wrong."""

import numpy as np
import pytest
import torch

from course_lib.exercises.common import (
    entries,
    not_floats,
    oracle,
    peculiar,
    repeated,
    rescaled,
    smallest_input,
)
from course_lib.exercises.criteria import MAGNITUDE_MASK, buggy_magnitude_mask
from course_lib.exercises.exercise import REFUSES, Exercise, Property, Slope
from course_lib.exercises.prune_rate import SMALLEST_MASKS
from course_lib.exercises.sparse_training import buggy_drop
from course_lib.grading.checks import run

SMALLEST = smallest_input(
    name="tied",
    wrong=buggy_magnitude_mask,
    judged_by=MAGNITUDE_MASK,
    at_most=2,
    hint="Look for ties.",
)


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.ones(2), 0.5),
        [torch.ones(2), 0.5],
        (torch.ones(1, 2).double(), torch.tensor(0.5)),
        (torch.tensor([3, 3]), 0.5),
        (np.array([0.25, -0.25]), np.float32(0.5)),
        (torch.nn.Parameter(torch.zeros(2, 1)), 0.5),
    ],
)
def test_a_tie_of_two_is_the_smallest_input(inputs):
    result = run(SMALLEST, lambda: inputs)
    assert result.passed, str(result)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((torch.ones(3), 0.4), "at most 2 entries, got 3"),
        ((torch.tensor([1.0, 2.0]), 0.5), "on this one it does what it should"),
        ((torch.ones(2), 1.0), "on this one it does what it should"),
        (([1.0, 1.0], 0.5), "torch.Tensor, not tuple or list"),
        ((torch.ones(2).bool(), 0.5), "a weight of floats"),
        ((torch.ones(2) + 1j, 0.5), "a weight of floats"),
        ((torch.ones(2),), "a tuple of 2 inputs"),
        (torch.ones(2), "a tuple of 2 inputs"),
        ((torch.ones(2), "half"), "float, not str"),
        ((torch.ones(2), 1.5), "a sparsity from 0 to 1"),
        ((torch.empty(0), 0.5), "a weight with at least one entry"),
        ((torch.tensor([1.0, float("nan")]), 0.5), "finite"),
    ],
)
def test_other_inputs_are_refused(inputs, words):
    result = run(SMALLEST, lambda: inputs)
    assert not result.passed
    assert words in str(result)


def twice(x):
    return x + x if x < 3 else 0


DOUBLE = Exercise(
    name="double",
    signature="double(x)",
    section="nowhere",
    cases=lambda: iter([(1.0,), (3.0,), (-1.0,)]),
    properties=(
        Property("doubles", lambda y, x: None if y == 2 * x else f"{2 * x}", "Add."),
        REFUSES,
    ),
    refuses=lambda x: x < 0,
)


def test_one_input_may_stand_alone_and_a_missing_error_counts_as_wrong():
    exercise = smallest_input(name="s", wrong=twice, judged_by=DOUBLE, at_most=0, hint="!")
    assert run(exercise, lambda: (4.0,)).passed
    assert run(exercise, lambda: 4).passed  # a whole number where a float is expected
    assert run(exercise, lambda: -1.0).passed  # `twice` answers where it must raise
    assert not run(exercise, lambda: 1.0).passed


def test_entries_count_numbers_in_containers_but_not_inputs_that_are_numbers():
    assert entries((torch.ones(2, 3), 0.5, 7)) == 6
    assert entries(({"fc1": torch.ones(2), "fc2": torch.ones(1)}, 0.5)) == 3
    assert entries(((2, 4), 10)) == 2
    assert entries(({"fc1": 3},)) == 1


def test_an_oracle_compares_shapes_and_numbers_to_five_digits():
    def right(x):
        return x.abs(), x.abs().mean()

    case = (torch.tensor([1.0, -3.0]),)
    exercise = oracle(signature="f(x)", section="", right=right, case=case, legal=lambda x: None)
    assert exercise.name == "f" and list(exercise.cases()) == [case]
    assert run(exercise, right).passed
    assert run(exercise, lambda x: (x.abs(), 1.000001 * x.abs().mean())).passed
    for wrong in (
        lambda x: (x.abs(), 1.001 * x.abs().mean()),
        lambda x: (x.abs()[:, None], x.abs().mean()),
        lambda x: (x, x.abs().mean()),
        lambda x: (x.abs_(), x.mean()),  # changes its input
    ):
        assert not run(exercise, wrong).passed


def test_the_bug_of_sparse_training_drops_what_the_page_says():
    half = torch.arange(1.0, 501.0)
    assert int((~buggy_drop(torch.cat([half, -half]), 0.2)).sum()) == 900


def test_rescaled_cases_keep_order_ties_and_signs():
    values = torch.tensor([0.0, 0.25, -0.5, 0.5, 4.0, -4.0])
    for x, other in rescaled((values, values), 0):
        assert other is values
        assert torch.equal(x.sign(), values.sign())
        assert torch.equal(x.abs().argsort(stable=True), values.abs().argsort(stable=True))
        assert x[2] == -x[3]
        assert x[4] == -x[5]
        assert x.square().unique().numel() == 4  # a ranking by squares is right, too


def test_one_version_differs_by_less_than_16_bits_can_tell():
    *_, (close,) = rescaled((torch.tensor([0.25, 0.5, 1.0, 4.0]),), 0)
    assert close.unique().numel() == 4
    assert close.half().unique().numel() == close.bfloat16().unique().numel() == 1
    assert torch.allclose(close, close[0], rtol=1e-5)


def test_repeated_reaches_into_dicts_and_leaves_numbers():
    keep, share, name = repeated(({"a": torch.tensor([True, False])}, 0.5, "x"), 3)
    assert keep["a"].tolist() == [True, False] * 3
    assert (share, name) == (0.5, "x")


def the_mean(x):
    return x.mean()


MEAN = Exercise(
    name="mean",
    signature="the_mean(x)",
    section="nowhere",
    cases=lambda: iter([(torch.ones(2),), (torch.ones(4).requires_grad_(),)]),
    properties=(
        Property("is the mean", lambda y, x: None if y == x.mean() else "the mean", "Add."),
        Slope("learns", lambda g, x: None if g[0].eq(0.25).all() else "a quarter", "No .item()."),
    ),
)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (the_mean, "passed"),
        (lambda x: x.mean().item(), "this answer has none"),
        (lambda x: x.detach().mean(), "this answer has none"),
        (lambda x: x.mean() + 0 * x.sum(), "passed"),
        (lambda x: x[:2].sum() / 2, "a quarter"),
        (lambda x: x.mean().detach().requires_grad_(), "a quarter"),
    ],
)
def test_a_slope_is_asked_where_an_input_requires_a_gradient(answer, words):
    assert words in str(run(MEAN, answer))


def test_each_rescaled_case_says_what_is_unusual_about_it():
    ordinary = torch.tensor([0.0, 0.25, -0.5, 1.0]), 0.5
    words = [peculiar(case) for case in rescaled(ordinary, 0)]
    assert [word.split()[0] for word in words] == ["tiny.", "tiny.", "huge.", "huge.", "close"]


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.tensor([0.0, 0.25, -0.5]), 1e-9),
        (torch.ones(3), torch.tensor([1_000_000, 7])),
        (torch.zeros(2), torch.empty(0)),
        ({"a": torch.tensor([1e-9, 1.0])}, "x"),
        (10**9, 3),
    ],
)
def test_ordinary_numbers_are_not_remarked_upon(inputs):
    assert peculiar(inputs) is None


def test_a_verdict_names_unusual_numbers():
    def in_half_precision(weight, sparsity):
        order = weight.half().abs().flatten().argsort(descending=True, stable=True)
        n = weight.numel()
        gone = min(round(sparsity * n), n - 1 if sparsity < 1 else n)
        keep = torch.ones(n, dtype=torch.bool)
        keep[order[n - gone :]] = False
        return keep.view(weight.shape)

    facts = dict(run(MAGNITUDE_MASK, in_half_precision).facts)
    assert facts["Numbers"].startswith(("tiny", "close"))
    assert "Numbers" not in dict(run(MAGNITUDE_MASK, lambda weight, _: weight > 0).facts)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (torch.zeros(2, 3).double(), None),
        (None, "got NoneType"),
        ((0.0, 0.0), "got tuple or list"),
        (torch.zeros(3, 2), "got floats of shape (3, 2)"),
        (torch.zeros(2, 3).bool(), "got bools of shape (2, 3)"),
        (torch.zeros(2, 3).int(), "got whole numbers of shape (2, 3)"),
    ],
)
def test_floats_of_another_shape_or_none_are_named(returned, says):
    expected = says and f"a float tensor of shape (2, 3), {says}"
    assert not_floats(returned, torch.zeros(2, 3)) == expected


def test_one_input_is_not_called_a_tuple():
    """`return {...}` is what the page shows, and ({...}) would be no tuple either."""
    text = str(run(SMALLEST_MASKS, lambda: {1, 2}))
    assert "Return the input of one call of mended_total_sparsity(masks), such as {'fc1': " in text
    assert "a tuple with the inputs" not in text
    assert "Return a tuple with the inputs of one call" in str(run(SMALLEST, lambda: 1))
