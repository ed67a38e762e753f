"""The reader's curve beside the library's: what is said, what is drawn, and what never raises."""

import numpy as np
import pytest
import torch

from course_lib.teaching.beside import beside


def experiment(function):
    return {"half": [function(1.0), function(2.0)], "all": [function(3.0), function(5.0)]}


def page(yours, within=0.5):
    return beside(experiment, yours, float, within=within, x="weights", y="accuracy, %").data


def test_curves_within_the_band_are_said_to_be():
    text = page(lambda v: v + 0.5)
    assert "Every mean of yours is within 0.5 of the library" in text
    assert "for library: 1.5 ± 0.71 at half, 4 ± 1.4 at all; " in text
    assert "for yours: 2 ± 0.71 at half, 4.5 ± 1.4 at all." in text
    assert text.count("<figure") == 1
    assert ">yours<" in text


def test_the_widest_gap_outside_the_band_is_named():
    text = page(lambda v: 2 * v)
    assert "At all, your mean is 8 and the library&#x27;s is 4." in text
    assert "Yours should be within 0.5 of the library&#x27;s." in text


def test_the_band_may_be_open_above():
    text = page(lambda v: v - 0.5 if v < 3 else 2 * v, (0.5, float("inf")))
    assert "Every mean of yours is at most 0.5 below the library&#x27;s." in text
    text = page(lambda v: v - 0.75 if v < 3 else 2 * v, (0.5, float("inf")))
    assert "At half, your mean is 0.75 and the library&#x27;s is 1.5." in text
    assert "Yours should be at most 0.5 below the library&#x27;s." in text
    text = page(lambda v: v - 2.5 if v < 3 else v + 1.5, (2, 0.5))
    assert "At all, your mean is 5.5" in text  # 1 outside, and half is 0.5 outside
    assert "Yours should be from 2 below the library&#x27;s to 0.5 above it." in text


def test_what_the_check_accepts_the_experiment_accepts():
    def tensors(function):
        return {"a": [torch.is_tensor(function(1.0))]}

    arguments = {"within": 0, "x": "x", "y": "y"}
    text = beside(tensors, lambda v: np.ones(2), lambda v: torch.ones(2), **arguments).data
    assert "Every mean of yours" in text


def test_not_a_number_is_outside_every_band():
    assert "At half, your mean is nan" in page(lambda v: float("nan") if v < 2 else v)


def raises(error):
    def function(value):
        raise error

    return function


@pytest.mark.parametrize(
    "stub",
    [lambda v: None, lambda v: ..., raises(NotImplementedError)],
)
def test_a_stub_leaves_the_librarys_curve(stub):
    text = page(stub)
    assert "has no body yet" in text
    assert "for library: 1.5 ± 0.71 at half" in text
    assert "yours" not in text.replace("Your", "")


class Mute(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("<b>no\x1b"), "ValueError: &lt;b&gt;no\N{REPLACEMENT CHARACTER}"),
        (Mute(), "An error that cannot be shown"),
    ],
)
def test_an_error_is_told_and_not_raised(error, words):
    text = page(raises(error))
    assert f"Your function stopped the experiment. {words}." in text
    assert "for library: 1.5 ± 0.71 at half" in text


@pytest.mark.parametrize("yours", ["text", 3, None, lambda: 1.0, lambda v: "text", lambda v: [v]])
def test_what_is_no_function_of_the_right_kind_is_told(yours):
    assert "Your function stopped the experiment." in page(yours)


def test_interrupt_passes():
    with pytest.raises(KeyboardInterrupt):
        page(raises(KeyboardInterrupt()))


def test_mistakes_of_the_author_are_errors():
    with pytest.raises(ValueError, match="within"):
        page(float, within=-1)
    with pytest.raises(TypeError, match="library"):
        beside(experiment, float, 3, within=1, x="x", y="y")
    with pytest.raises(ValueError, match="one value per seed for a"):
        beside(lambda f: {"a": []}, float, float, within=1, x="x", y="y")
    with pytest.raises(ZeroDivisionError):
        beside(experiment, float, lambda v: 1 / 0, within=1, x="x", y="y")
