"""The exercises of the lesson History."""

from collections.abc import Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import draw, held, kind, pick, rescaled, smallest_input
from course_lib.exercises.exercise import (
    REFUSES,
    UNCHANGED,
    Exercise,
    Lines,
    Property,
    WrongLine,
    show,
)

SECTION = "lesson History, section “Definition → code”"


def _quadratics() -> Iterator[tuple[Tensor, Tensor]]:
    """Hessians with their weights: symmetric, positive definite, no weight zero."""
    for hessian, weights in (
        ([[2.0, 0.0], [0.0, 4.0]], [1.0, -2.0]),
        ([[3.0]], [2.0]),
        ([[1.0, 0.0], [0.0, 1.0]], [-0.5, 2.0]),
        ([[8.0, 0.0], [0.0, 0.5]], [1.0, 3.0]),
        ([[2.0, 1.0], [1.0, 2.0]], [1.0, -2.0]),
        ([[4.0, 3.0], [3.0, 4.0]], [2.0, 1.5]),
        ([[4.0, 3.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 0.5]], [2.0, -1.0, 1.5]),
    ):
        yield torch.tensor(hessian).double(), torch.tensor(weights).double()
    generator = torch.Generator().manual_seed(2)
    for n in (2, 3, 4) * 6:
        yield _quadratic(n, generator)
    yield _quadratic(40, generator)


def _quadratic(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    factor = draw((n, n), generator).double()
    weights = draw((n,), generator).double()
    weights = weights + torch.where(weights < 0, -0.125, 0.125)  # none is zero
    return factor @ factor.T + 0.25 * torch.eye(n).double(), weights


def _awkward(hessian: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The quadratic with a tiny or huge Hessian, and with weights that are so or close together."""
    for place in (0, 1):
        for case in rescaled((hessian, weights), place, scales=(2.0**-50, 2.0**50)):
            curvatures = torch.linalg.eigvalsh(case[0])
            if curvatures[0] > 1e-3 * curvatures[-1]:  # a close Hessian may not be definite
                yield case


# A: the whole of Optimal Brain Damage. Its saliencies are exact in these cases, ties included.


def _obd_cut(hessian: Tensor, weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    cost = hessian.diagonal() * weights**2 / 2
    order = cost.argsort(descending=True, stable=True)
    gone = order[len(weights) - count :]
    if len(gone) != count:
        raise ValueError("there are not so many weights")
    return weights.index_fill(0, gone, 0), cost[gone].sum()


def _cuts() -> Iterator[tuple[Tensor, Tensor, int]]:
    generator = torch.Generator().manual_seed(5)
    yield *next(_quadratics()), 1
    for hessian, weights, count in (
        ([1.0, 1.0], [0.5, -0.5], 1),  # equal saliencies
        ([4.0, 1.0], [1.0, 2.0], 1),  # and of different weights
        ([1.0, 1.0, 1.0], [1.0, -1.0, 1.0], 2),
        ([0.25, 2.25, 2.0], [3.0, 1.0, 0.5], 2),
        ([2.0, 8.0, 0.5], [1.0, 0.25, 3.0], 2),
    ):
        yield torch.tensor(hessian).double().diag(), torch.tensor(weights).double(), count
    for hessian, weights in _quadratics():
        n = len(weights)
        for count in {0, 1, n, pick(n, generator)}:
            yield hessian, weights, count
    yield torch.eye(40).double(), torch.ones(40).double(), 17  # many equal saliencies
    yield 1e-8 * torch.eye(2).double(), torch.tensor([1.0, 0.5]).double(), 1
    apart = torch.tensor([0.25, 1.0, 0.5, 2.0, 0.75]).double()
    quadratics = [_quadratic(n, generator) for n in (3, 4)]
    quadratics += [(torch.eye(5).double(), apart), (apart.diag(), torch.ones(5).double())]
    for hessian, weights in quadratics:
        for case in _awkward(hessian, weights):
            yield *case, len(weights) // 2
    yield torch.eye(5).double(), apart.sign() + 2.0**-40 * apart, 2  # equal in 32 bits
    yield apart.sign().diag() + 2.0**-40 * apart.diag(), torch.ones(5).double(), 2
    for count in (-1, 3, 100):
        yield torch.eye(2).double(), torch.ones(2).double(), count


def _no_pair(returned: object, _: Tensor, weights: Tensor, count: int) -> str | None:
    wanted = f"a tuple of a tensor of {len(weights)} finite floats and a number"
    if not isinstance(returned, tuple) or len(returned) != 2:
        return f"{wanted}, got {kind(returned)}"
    after, rise = returned
    if not isinstance(after, Tensor) or isinstance(rise, bool) or not isinstance(rise, int | float):
        return f"{wanted}, got {kind(after)} and {kind(rise)}"
    if after.shape != weights.shape or not after.is_floating_point():
        return f"{wanted}, got {held(after)} of shape {tuple(after.shape)}"
    return None if after.isfinite().all() and abs(rise) < torch.inf else wanted


def _other_count(returned: tuple, _: Tensor, weights: Tensor, count: int) -> str | None:
    zeros = int((returned[0] == 0).sum())
    return None if zeros == count else f"{count} of {len(weights)} weights at 0, not {zeros}"


def _moved(returned: tuple, _: Tensor, weights: Tensor, __: int) -> str | None:
    kept = returned[0] != 0
    close = torch.allclose(returned[0][kept], weights[kept], rtol=1e-5, atol=0)
    return None if close else f"the weights that stay as they were, {show(weights[kept])}"


def _costs(returned: tuple, hessian: Tensor, weights: Tensor) -> Tensor:
    """The saliencies of the deleted weights, from the lowest."""
    return (hessian.diagonal() * weights**2 / 2)[returned[0] == 0].sort()[0]


def _dear(returned: tuple, hessian: Tensor, weights: Tensor, count: int) -> str | None:
    mine = _costs(returned, hessian, weights)
    wanted = _costs(_obd_cut(hessian, weights, count), hessian, weights)
    if torch.equal(mine, wanted):
        return None
    return f"the weights with the saliencies {show(wanted)} deleted, not {show(mine)}"


def _later(returned: tuple, hessian: Tensor, weights: Tensor, count: int) -> str | None:
    wanted = _obd_cut(hessian, weights, count)[0]
    same = torch.equal(returned[0] == 0, wanted == 0)
    return None if same else f"{show(wanted)}: of equal saliencies the earlier weight stays"


def _other_rise(returned: tuple, hessian: Tensor, weights: Tensor, count: int) -> str | None:
    wanted = float(_obd_cut(hessian, weights, count)[1])
    return None if abs(returned[1] - wanted) <= 1e-6 * wanted else f"a rise of {wanted:.6g}"


OBD_CUT = Exercise(
    name="obd_cut",
    signature="obd_cut(hessian, weights, count)",
    section=SECTION,
    cases=_cuts,
    refuses=lambda _, weights, count: not 0 <= count <= len(weights),
    expected=_obd_cut,
    properties=(
        Property(
            "returns a pair of new weights and one number",
            _no_pair,
            "The first has the shape of the weights, the second is a sum.",
        ),
        Property(
            "deletes `count` weights",
            _other_count,
            "A threshold deletes all weights that are tied with it. Choose places, not values.",
        ),
        Property(
            "leaves the other weights where they are",
            _moved,
            "The move is an idea of Optimal Brain Surgeon.",
        ),
        Property(
            "deletes the weights of lowest saliency",
            _dear,
            "OBD's saliency has a half, an entry of the Hessian's diagonal, and the square of the "
            "weight. The mixed derivatives are left out.",
        ),
        Property(
            "keeps the earlier of equal saliencies",
            _later,
            "Ask for a sort that leaves equal entries in their order, and check from which end of "
            "it you delete.",
        ),
        Property(
            "predicts the sum of the deleted saliencies",
            _other_rise,
            "With a diagonal Hessian the costs of several deletions add up. Nothing else changes "
            "the loss, because the other weights stay.",
        ),
        UNCHANGED,
        REFUSES,
    ),
)


# B: the inverse of the diagonal for the diagonal of the inverse


def buggy_obs_saliency(hessian: Tensor, weights: Tensor) -> Tensor:
    """Optimal Brain Surgeon's saliency of each weight: wrong."""
    curvature = hessian.diagonal()
    inverse = 1 / curvature
    cost = weights**2 / (2 * inverse)
    return cost


def _obs_saliency(hessian: Tensor, weights: Tensor) -> Tensor:
    return weights**2 / (2 * torch.linalg.inv(hessian).diagonal())


def _saliency_cases() -> Iterator[tuple[Tensor, Tensor]]:
    yield from _quadratics()
    for hessian, weights in (
        ([[2.0, 1.0], [1.0, 2.0]], [0.0, 3.0]),
        ([[2.0, -1.0], [-1.0, 2.0]], [1.0, 1.0]),
        ([[2e-3, 1e-3], [1e-3, 2e-3]], [5.0, -3.0]),
        ([[1e3, 9e2], [9e2, 1e3]], [0.01, 0.02]),
        ([[1.0, 0.9999], [0.9999, 1.0]], [1.0, 1.0]),  # nearly singular
        ([[1.0, 1 - 2.0**-20], [1 - 2.0**-20, 1.0]], [1.0, 1.0]),  # more so
        ([[2e-6, 1e-6], [1e-6, 2e-6]], [1.0, 2.0]),
    ):
        yield torch.tensor(hessian).double(), torch.tensor(weights).double()
    generator = torch.Generator().manual_seed(9)
    for n in (2, 3, 5):
        yield from _awkward(*_quadratic(n, generator))


def _definite(hessian: Tensor) -> bool:
    """Whether a symmetric matrix (n, n) is positive definite by more than its rounding.

    The units of the weights do not matter: the diagonal is scaled to 1 first. Otherwise the
    rounding of a large entry hides a small eigenvalue, and a small matrix looks singular.
    """
    size = hessian.diagonal().sqrt()
    scaled = hessian / size / size[:, None]
    # An entry above 1 or NaN, of a diagonal not above 0, is a no; eigvalsh may raise on such.
    return bool(scaled.abs().max() < 1.5 and torch.linalg.eigvalsh(scaled)[0] > 1e-14)


def _illegal_quadratic(hessian: Tensor, weights: Tensor) -> str | None:
    """None for a Hessian and weights that the statement allows, else what it allows."""
    n = weights.numel()
    fits = n and weights.shape == (n,) and hessian.shape == (n, n)
    floats = hessian.is_floating_point() and weights.is_floating_point()
    finite = fits and floats and hessian.isfinite().all() and weights.isfinite().all()
    if finite and torch.equal(hessian, hessian.T) and _definite(hessian.double()):
        return None
    return "a symmetric, positive definite Hessian (n, n) and n weights, all of finite floats"


def _no_saliencies(returned: object, _: Tensor, weights: Tensor) -> str | None:
    wanted = f"a tensor of {len(weights)} finite floats"
    if not isinstance(returned, Tensor):
        return f"{wanted}, got {kind(returned)}"
    if returned.shape != weights.shape or not returned.is_floating_point():
        return f"{wanted}, got {held(returned)} of shape {tuple(returned.shape)}"
    return None if returned.isfinite().all() else f"{wanted}, got {show(returned)}"


def _other_saliencies(returned: Tensor, hessian: Tensor, weights: Tensor) -> str | None:
    wanted = _obs_saliency(hessian.double(), weights.double())
    if torch.allclose(returned.double(), wanted, rtol=1e-5, atol=0):
        return None
    return show(wanted)


MENDED_OBS_SALIENCY = Exercise(
    name="mended_obs_saliency",
    signature="mended_obs_saliency(hessian, weights)",
    section=f"{SECTION}, Optimal Brain Surgeon",
    cases=_saliency_cases,
    legal=_illegal_quadratic,
    expected=_obs_saliency,
    properties=(
        Property(
            "returns a tensor with one number for each weight",
            _no_saliencies,
            "The answer has the shape of the weights. A matrix's diagonal is hessian.diagonal().",
        ),
        Property(
            "is the rise of the loss when the Hessian is diagonal",
            lambda returned, hessian, weights: (
                _other_saliencies(returned, hessian, weights)
                if torch.equal(hessian, hessian.diagonal().diag())
                else None
            ),
            "Here OBS and OBD agree: a half, the second derivative, the square of the weight.",
        ),
        Property(
            "is the rise that is left when the other weights move",
            _other_saliencies,
            "[H⁻¹]qq is an entry of the inverse. Invert the whole Hessian first, and take its "
            "diagonal afterwards.",
        ),
        UNCHANGED,
    ),
)

SMALLEST_HESSIAN = smallest_input(
    name="smallest_hessian",
    wrong=buggy_obs_saliency,
    judged_by=MENDED_OBS_SALIENCY,
    at_most=6,
    hint="For which Hessians is the inverse of the diagonal also the diagonal of the inverse? Take "
    "another one, as small as possible, and weights that are not 0.",
)

PUZZLES = (
    Lines(
        name="obd_cut",
        function=_obd_cut,
        distractors={
            "cost = hessian.diagonal() * weights.abs() / 2": "the step enters the Taylor series "
            "squared.",
            "cost = weights * (hessian @ weights) / 2": "this also adds the mixed derivatives, which "
            "OBD leaves out.",
            "gone = order[:count]": "the order is descending, so these are the dearest.",
            "order = cost.argsort(stable=True)": "the lowest would come first, and the next line "
            "takes the end.",
        },
    ),
    WrongLine(
        name="mended_obs_saliency",
        function=buggy_obs_saliency,
        wrong="inverse = 1 / curvature",
        why="this inverts the entries of the diagonal. The formula has an entry of the inverse of "
        "the whole matrix, which knows how the other weights can make up for this one.",
        others={
            "curvature = hessian.diagonal()": "a diagonal is needed, and the function takes one. But "
            "what should have happened before?",
            "cost = weights**2 / (2 * inverse)": "this is the formula, if `inverse` holds the right "
            "numbers.",
            "return cost": "one number for each weight.",
        },
    ),
)
EXERCISES = (OBD_CUT, SMALLEST_HESSIAN, MENDED_OBS_SALIENCY)
