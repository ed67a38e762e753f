"""The exercises of the lesson All criteria in one bake-off."""

from collections.abc import Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import draw, dyadic, held, kind, rescaled, smallest_input
from course_lib.exercises.exercise import UNCHANGED, Exercise, Lines, Property, WrongLine, show

_SECTION = "lesson All criteria in one bake-off, section “Definition → code”"
TOLERANCE = 1e-5
RICH = 12  # entries from which on an answer that equals a known mistake hardly does so by chance


def _far(returned: Tensor, wanted: Tensor) -> bool:
    """Whether an entry differs by more than the tolerance, which the lesson states."""
    return not torch.allclose(returned.double(), wanted.double(), rtol=1e-5, atol=TOLERANCE)


def _not_one_per_channel(returned: object, channels: int) -> str | None:
    wanted = f"a tensor of finite floating-point numbers, of shape ({channels},)"
    if not isinstance(returned, Tensor):
        return f"{wanted}, got {kind(returned)}"
    if returned.shape != (channels,) or not returned.is_floating_point():
        return f"{wanted}, got {held(returned)} of shape {tuple(returned.shape)}"
    return None if returned.isfinite().all() else f"{wanted}, got {show(returned)}"


# ---- A · the fraction of entries that are not zero


def active_fraction(activation: Tensor) -> Tensor:
    """(batch, channels, …) -> (channels,): the fraction of entries that are not zero."""
    active = (activation != 0).float()
    active = active.transpose(0, 1)
    active = active.flatten(1)
    return active.mean(1)


def _active_cases() -> Iterator[tuple[Tensor]]:
    yield (torch.tensor([[0.0, 1.0], [0.0, 0.0]]),)
    yield (torch.tensor([[2.0], [0.0], [0.5]]),)
    yield (torch.tensor([[-0.25, 0.0]]),)
    yield (torch.tensor([[0.5]]),)
    yield (torch.tensor([[1.0, -1.0, 0.0]]),)
    yield (torch.tensor([[1e-12, 1.0], [0.0, -1e-12]]),)
    yield (torch.tensor([[1e-30, 1e20], [0.0, -1e-30]]),)
    yield (torch.tensor([[1e-40, 1.0], [0.0, -1e-40]]),)
    yield (torch.tensor([[1e-300, 1.0], [0.0, 1e300]], dtype=torch.float64),)
    yield ((torch.arange(640) > 31).float().view(20, 2, 4, 4),)  # 304 of 320 per channel
    yield (torch.zeros(1, 2, 1, 1),)
    yield (torch.tensor([[0.0, 1.0], [-0.0, -0.0]]),)  # of zero and minus zero the bits differ
    yield ((torch.arange(300) < 250).float().view(150, 2),)  # all images, not the first hundred
    generator = torch.Generator().manual_seed(5)
    for shape in ((2, 3), (4, 2), (1, 2, 3), (2, 1, 2, 2), (3, 2, 1, 2), (2, 3, 2, 2)) * 3:
        yield (draw(shape, generator).relu(),)
    for shape in ((3, 2), (2, 2, 5), (2, 3, 3, 1), (2, 2, 2, 1, 3)):
        yield (draw(shape, generator),)
    yield (draw((2, 3, 2, 2), generator).relu().double(),)
    yield (draw((2, 2, 3, 3), generator).relu(),)
    yield (torch.randn(8, 16, 7, 7, generator=generator).relu(),)
    yield ((torch.arange(2 * 2 * 150 * 150).view(2, 2, 150, 150) % 5 > 0).float(),)


def _high_for_zeros(returned: Tensor, activation: Tensor) -> str | None:
    wanted = active_fraction(activation)
    if not _far(returned, wanted) or _far(returned, 1 - wanted):
        return None
    mixed_up = not _far((1 - wanted).sort()[0], wanted.sort()[0])
    if mixed_up or activation.numel() < RICH:
        return None  # another mistake would look the same
    return f"{show(wanted)}, the fractions that are not zero; these are the fractions that are"


def _wrong_fraction(returned: Tensor, activation: Tensor) -> str | None:
    wanted = active_fraction(activation)
    return f"the fractions {show(wanted)}" if _far(returned, wanted) else None


ACTIVE_FRACTION = Exercise(
    name="active_fraction",
    signature="active_fraction(activation)",
    section=_SECTION,
    cases=_active_cases,
    expected=active_fraction,
    properties=(
        Property(
            "returns a float tensor with one number per channel",
            lambda returned, activation: _not_one_per_channel(returned, activation.shape[1]),
            "Axis 0 is the images, axis 1 the channels, and whatever follows are places. Only axis "
            "1 is left at the end. A comparison gives bool: .float() makes numbers of it.",
        ),
        Property(
            "is higher for channels to keep",
            _high_for_zeros,
            "The paper's APoZ is high for a channel that is mostly zero, the one to prune. Here "
            "higher means keep.",
        ),
        Property(
            "counts the entries that are not zero, over all images and places",
            _wrong_fraction,
            "Compare with 0 first (a negative number is not zero, nor is a tiny one). Then take one "
            "mean over images and places together. Move the channels to the front before you "
            "flatten or reshape: a reshape alone mixes images and channels.",
        ),
        UNCHANGED,
    ),
)


# ---- B · Taylor, with the sum over the batch on the wrong side of the absolute value


def buggy_taylor(activation: Tensor, gradient: Tensor) -> Tensor:
    """(channels,): Taylor scores of maps (batch, channels, height, width)."""
    slope = activation * gradient
    slope = slope.mean((2, 3))
    slope = slope.mean(0)
    return slope.abs()


def right_taylor(activation: Tensor, gradient: Tensor) -> Tensor:
    """The same with the absolute value in its place: the right answer to the bug hunt."""
    slope = (activation * gradient).mean((2, 3))
    return slope.abs().mean(0)


def _illegal_maps(activation: Tensor, gradient: Tensor) -> str | None:
    """None for two maps that the statement allows, else what it allows."""
    if activation.dim() == 4 and activation.shape == gradient.shape and activation.numel():
        floats = activation.is_floating_point() and gradient.is_floating_point()
        if floats and torch.cat([activation, gradient]).isfinite().all():
            return None
    return "two tensors of finite floats, both of one shape (batch, channels, height, width)"


def _maps() -> Iterator[tuple[Tensor, Tensor]]:
    def maps(shape, activation, gradient):
        return torch.tensor(activation).view(shape), torch.tensor(gradient).view(shape)

    yield maps((1, 2, 1, 1), [1.0, 2.0], [3.0, 0.5])
    yield maps((1, 1, 1, 1), [2.0], [-3.0])
    yield maps((1, 2, 1, 1), [0.0, 0.0], [1.0, 0.0])
    yield maps((2, 1, 1, 1), [1.0, 1.0], [1.0, -3.0])
    yield maps((1, 2, 1, 1), [200.0, 1.0], [200.0, -1.0])
    yield maps((1, 1, 1, 2), [1.0, 1.0], [1.0, -3.0])
    yield maps((1, 2, 2, 1), [1.0, 1.0, 2.0, 0.0], [1.0, -1.0, 1.0, 5.0])
    yield maps((2, 1, 1, 2), [1.0, 3.0, 1.0, 1.0], [1.0, 1.0, -1.0, -1.0])
    generator = torch.Generator().manual_seed(3)
    for shape in ((1, 3, 1, 1), (3, 1, 1, 1), (3, 2, 1, 2), (2, 3, 2, 1), (3, 2, 2, 3)) * 3:
        yield draw(shape, generator), draw(shape, generator)
    yield draw((3, 2, 2, 2), generator).double(), draw((3, 2, 2, 2), generator).double()
    yield 40 * draw((4, 3, 2, 2), generator), 40 * draw((4, 3, 2, 2), generator)
    for exponent in (-60, 60):  # one map tiny, the other huge: the score is as before
        pair = draw((3, 2, 2, 2), generator), draw((3, 2, 2, 2), generator)
        yield pair[0] * 2.0**exponent, pair[1] * 2.0**-exponent
    yield from rescaled((draw((3, 2, 2, 2), generator), pair[1]), 0, scales=(2.0**20,))
    yield dyadic((6, 5, 4, 3), generator), dyadic((6, 5, 4, 3), generator)


def _cancels(returned: Tensor, activation: Tensor, gradient: Tensor) -> str | None:
    wanted = right_taylor(activation, gradient)
    if not _far(returned, wanted) or _far(returned, buggy_taylor(activation, gradient)):
        return None
    if activation.numel() < RICH or ((activation * gradient).mean((0, 2, 3)) >= 0).all():
        return None  # another mistake would look the same
    return f"{show(wanted)}: each image counts, whichever sign it has; here they cancel"


def _of_each_place(returned: Tensor, activation: Tensor, gradient: Tensor) -> str | None:
    wanted, places = (
        right_taylor(activation, gradient),
        (activation * gradient).abs().mean((0, 2, 3)),
    )
    if not _far(returned, wanted) or _far(returned, places) or activation.numel() < RICH:
        return None
    return f"{show(wanted)}: within one image the places add up first; here each counts by itself"


def _wrong_taylor(returned: Tensor, activation: Tensor, gradient: Tensor) -> str | None:
    wanted = right_taylor(activation, gradient)
    return show(wanted) if _far(returned, wanted) else None


MENDED_TAYLOR = Exercise(
    name="mended_taylor",
    signature="mended_taylor(activation, gradient)",
    section=_SECTION,
    cases=_maps,
    legal=_illegal_maps,
    expected=right_taylor,
    properties=(
        Property(
            "returns a float tensor with one number per channel",
            lambda returned, activation, _: _not_one_per_channel(returned, activation.shape[1]),
            "Two means are left to take: one over the places (axes 2 and 3), one over the images "
            "(axis 0).",
        ),
        Property(
            "does not let opposite images cancel",
            _cancels,
            "Removing the channel changes the loss of each image. Which mean has to come after the "
            "absolute value?",
        ),
        Property(
            "adds up the places of one image, with their signs",
            _of_each_place,
            "In the formula of S the mean over the map stands inside the absolute value.",
        ),
        Property(
            "is S, averaged over the images",
            _wrong_taylor,
            "Activation times gradient, the mean over the places, the absolute value, the mean over "
            "the images; in this order, and neither a sum nor a norm in place of a mean.",
        ),
        UNCHANGED,
    ),
)

SMALLEST_TAYLOR = smallest_input(
    name="smallest_taylor",
    wrong=buggy_taylor,
    judged_by=MENDED_TAYLOR,
    at_most=4,
    hint="One channel and one place are enough, so the mean over the places does nothing. How many "
    "images do you need until it matters when the absolute value is taken?",
)

PUZZLES = (
    Lines(
        name="active_fraction",
        function=active_fraction,
        distractors={
            "active = (activation > 0).float()": "a negative number is not zero either.",
            "active = active.reshape(active.shape[1], -1)": "a reshape keeps the order of the "
            "entries, so a row would mix several channels.",
            "return 1 - active.mean(1)": "that is APoZ, which is high for what may go.",
            "return active.sum(1)": "a count grows with the batch and the map; a fraction does not.",
        },
    ),
    WrongLine(
        name="mended_taylor",
        function=buggy_taylor,
        wrong="slope = slope.mean(0)",
        why="images with opposite signs cancel here. The absolute value has to be taken before the "
        "mean over the images, because each image alone says that the channel matters.",
        others={
            "slope = activation * gradient": "this is the product of the formula, place by place.",
            "slope = slope.mean((2, 3))": "the mean over the places belongs inside the absolute "
            "value, so it may stand here.",
            "return slope.abs()": "an absolute value is needed. What must not have been averaged "
            "before it?",
        },
    ),
)
EXERCISES = (ACTIVE_FRACTION, SMALLEST_TAYLOR, MENDED_TAYLOR)
