"""The exercises of the lesson History."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course_lib.exercises.common import draw, hunt, kind
from course_lib.exercises.exercise import REFUSES, UNCHANGED, Exercise, Property, show


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
    yield _quadratic(60, generator)


def _quadratic(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    factor = draw((n, n), generator).double()
    weights = draw((n,), generator).double()
    weights = weights + torch.where(weights < 0, -0.125, 0.125)  # none is zero
    return factor @ factor.T + 0.25 * torch.eye(n).double(), weights


def _no_tensor(returned: object, hessian: Tensor, weights: Tensor) -> str | None:
    wanted = f"a tensor of {len(weights)} floating-point numbers"
    if not isinstance(returned, Tensor):
        return f"{wanted}, got {kind(returned)}"
    if returned.shape != weights.shape or not returned.is_floating_point():
        return f"{wanted}, got {returned.dtype} of shape {tuple(returned.shape)}"
    return None if returned.isfinite().all() else f"{wanted}, all of them finite"


def _differs(returned: Tensor, expected: Tensor) -> bool:
    return not torch.allclose(returned.detach().double(), expected, rtol=1e-5, atol=1e-7)


def _wrong_obd(score: Tensor, hessian: Tensor, weights: Tensor) -> str | None:
    expected = hessian.diagonal() * weights**2 / 2
    return f"{show(expected)}" if _differs(score, expected) else None


def _is_diagonal(hessian: Tensor) -> bool:
    return torch.equal(hessian, hessian.diagonal().diag())


_TENSOR = Property(
    "returns a tensor with one number for each weight",
    _no_tensor,
    "The answer has the shape of the weights. A matrix's diagonal is hessian.diagonal().",
)

OBD_SALIENCY = Exercise(
    name="obd_saliency",
    signature="obd_saliency(hessian, weights)",
    section="lesson History, section “Definition → code”",
    cases=_quadratics,
    properties=(
        _TENSOR,
        Property(
            "is the change of the loss when the Hessian is diagonal",
            lambda score, hessian, weights: (
                _wrong_obd(score, hessian, weights) if _is_diagonal(hessian) else None
            ),
            "Write down the second-order term of the Taylor series for one weight that moves from w "
            "to 0: a half, the second derivative, and the square of the step.",
        ),
        Property(
            "looks at nothing but the diagonal of any other Hessian",
            _wrong_obd,
            "OBD leaves the mixed derivatives out, and leaves the other weights where they are. "
            "Entry k of the answer needs hessian[k, k] and weights[k], nothing else.",
        ),
        UNCHANGED,
    ),
)


def buggy_obs_saliency(hessian: Tensor, weights: Tensor) -> Tensor:
    """a function that inverts the diagonal where it should take the diagonal of the inverse"""
    inverse_diagonal = 1 / hessian.diagonal()
    return weights**2 / (2 * inverse_diagonal)


def weak_saliency_test(fn: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """The test that every wrong saliency of the bug hunt passes."""
    weights = torch.tensor([3.0, 1.0, 2.0])
    return int(fn(torch.eye(3), weights).argmin()) == 1


def _saliency_by_inverse(hessian, weights):
    """a correct function that inverts the Hessian"""
    return weights**2 / (2 * torch.linalg.inv(hessian).diagonal())


def _saliency_by_cholesky(hessian, weights):
    """a correct function that inverts by Cholesky's factor"""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return weights.square() / inverse.diagonal() / 2


def _saliency_by_elimination(hessian, weights):
    """a correct function that eliminates the other weights, one weight at a time"""
    found = []
    for q in range(len(weights)):
        rest = [k for k in range(len(weights)) if k != q]
        block, row = hessian[rest][:, rest], hessian[q, rest]
        curvature = hessian[q, q] - row @ torch.linalg.solve(block, row)
        found.append(curvature * weights[q] ** 2 / 2)
    return torch.stack(found)


def _saliency_without_half(hessian, weights):
    """a function that forgets the factor one half"""
    return 2 * _saliency_by_inverse(hessian, weights)


def _saliency_times_inverse(hessian, weights):
    """a function that multiplies by the inverse's diagonal where it should divide"""
    return weights**2 * torch.linalg.inv(hessian).diagonal() / 2


def _saliency_signed(hessian, weights):
    """a function that forgets to square the weight"""
    return weights / (2 * torch.linalg.inv(hessian).diagonal())


def _saliency_row_sums(hessian, weights):
    """a function that takes the row sums of the inverse for its diagonal"""
    return weights**2 / (2 * torch.linalg.inv(hessian).sum(1))


def _saliency_in_place(hessian, weights):
    """a function that also squares the weights in the tensor it was given"""
    found = _saliency_by_inverse(hessian, weights)
    weights.square_()
    return found


KILLS_WRONG_SALIENCIES = hunt(
    name="kills_wrong_saliencies",
    signature="is_obs_saliency(fn)",
    section="lesson History, section “Definition → code”, Optimal Brain Surgeon",
    right=(_saliency_by_inverse, _saliency_by_cholesky, _saliency_by_elimination),
    alarm="A false alarm. Floating-point numbers are compared with a tolerance (torch.allclose), and "
    "a Hessian at a minimum is symmetric and positive definite: is yours?",
    wrong={
        buggy_obs_saliency: "For which Hessians are the diagonal of the inverse and the inverse of "
        "the diagonal the same? Try another.",
        _saliency_without_half: "The order is right; are the numbers? Compare values with a case "
        "that you work out by hand.",
        _saliency_times_inverse: "Where the inverse's diagonal is 1 this cannot be seen.",
        _saliency_signed: "Try a negative weight, and one that is not 1.",
        _saliency_row_sums: "For a diagonal Hessian row sums and diagonal are the same.",
        _saliency_in_place: "A function has effects beside its result: compare the weights after the "
        "call with a copy from before it.",
    },
)


def _deletion_cases() -> Iterator[tuple[Tensor, Tensor]]:
    yield from _quadratics()
    for hessian, weights in (([[0.0]], [1.0]), ([[1.0, 2.0], [2.0, 1.0]], [1.0, 2.0])):
        yield torch.tensor(hessian).double(), torch.tensor(weights).double()


def _no_minimum(hessian: Tensor, _: Tensor) -> bool:
    return bool(torch.linalg.eigvalsh(hessian)[0] <= 1e-9)


def _rise(weights: Tensor, hessian: Tensor, before: Tensor) -> float:
    """What moving from the minimum at ``before`` to ``weights`` adds to a quadratic loss."""
    step = weights.detach().double() - before
    return (step @ hessian @ step / 2).item()


def _not_one_zero(after: Tensor, hessian: Tensor, weights: Tensor) -> str | None:
    zeros = int((after == 0).sum())
    return None if zeros == 1 else f"exactly one weight at 0, not {zeros}"


def _wrong_one(after: Tensor, hessian: Tensor, weights: Tensor) -> str | None:
    cost = _saliency_by_inverse(hessian, weights)
    q, best = int((after == 0).nonzero()[0, 0]), int(cost.argmin())
    if cost[q] <= cost[best] * (1 + 1e-6):
        return None
    return (
        f"weight {best} deleted, which costs {cost[best]:.4g} once the others make up for it; "
        f"weight {q} costs {cost[q]:.4g} at least"
    )


def _badly_moved(after: Tensor, hessian: Tensor, weights: Tensor) -> str | None:
    q = int((after == 0).nonzero()[0, 0])
    least = _saliency_by_inverse(hessian, weights)[q].item()
    rise = _rise(after, hessian, weights)
    if rise <= least * (1 + 1e-5) + 1e-12:
        return None
    return f"a loss that rises by {least:.4g} only; with these weights it rises by {rise:.4g}"


DELETE_ONE = Exercise(
    name="delete_one",
    signature="delete_one(hessian, weights)",
    section="lesson History, section “Definition → code”, Optimal Brain Surgeon",
    cases=_deletion_cases,
    refuses=_no_minimum,
    properties=(
        _TENSOR,
        Property(
            "deletes exactly one weight",
            _not_one_zero,
            "Rounding leaves 1e-17 where you want 0: set the deleted weight to 0 at the end.",
        ),
        Property(
            "deletes the weight that costs least after the others have moved",
            _wrong_one,
            "Which saliency tells the cost if the other weights may move? It needs the inverse of "
            "the whole Hessian.",
        ),
        Property(
            "moves the other weights so that the loss rises as little as possible",
            _badly_moved,
            "The step is a multiple of one column of the inverse Hessian. Which multiple brings "
            "weight q exactly to 0?",
        ),
        UNCHANGED,
        REFUSES,
    ),
)

EXERCISES = (OBD_SALIENCY, KILLS_WRONG_SALIENCIES, DELETE_ONE)
