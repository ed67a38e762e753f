"""The exercises of the lesson Knowledge distillation."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.exercises.common import draw, kind, not_floats, pick, repeated, smallest_input
from course_lib.exercises.exercise import (
    UNCHANGED,
    Exercise,
    Lines,
    Property,
    Slope,
    WrongLine,
    show,
)

_SECTION = "lesson Knowledge distillation, section “Definition → code”"
TOLERANCE = 1e-4  # which the lesson states


# ---- A · the gradient of the soft term


def soft_gradient(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The gradient of T² KL by the student's logits: (images, classes) -> (images, classes)."""
    both = torch.stack([student, teacher]) / temperature
    soft = both.softmax(-1)
    return temperature * (soft[0] - soft[1])


def _logits() -> Iterator[tuple[Tensor, Tensor, float]]:
    for student, teacher, temperature in (
        ([[0.0, 0.0]], [[4.0, 0.0]], 8.0),
        ([[1.0, 0.0]], [[0.0, 3.0]], 8.0),
        ([[0.0, 0.0]], [[4.0, 0.0]], 1.0),
        ([[2.0, -1.0, 0.5]], [[2.0, -1.0, 0.5]], 4.0),
        ([[1.0, 0.0], [0.0, 3.0]], [[0.0, 1.0], [2.0, 2.0]], 2.0),
        ([[0.5, 0.25, 0.0]], [[-1.0, 0.0, 1.0]], 0.5),
        ([[0.0, 0.0]], [[4.0, 1.0]], 0.25),
        ([[0.0, 0.0]], [[400.0, 0.0]], 100.0),
        ([[0.0, 0.0]], [[4000.0, 0.0]], 1000.0),
        ([[1000.0, 999.0], [-1000.0, 0.0]], [[999.0, 1000.0], [0.0, -3000.0]], 1.0),
    ):
        yield torch.tensor(student), torch.tensor(teacher), temperature
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 3) * 5:
        shape = (n, pick((2, 3, 10), generator))
        temperature = pick((0.5, 1.0, 1.5, 2.0, 4.0, 20.0), generator)
        yield 4 * draw(shape, generator), 8 * draw(shape, generator), temperature
    yield draw((2, 3), generator).double(), draw((2, 3), generator).double(), 3.0
    for temperature in (2.0, 8.0):  # logits with more digits than 16 bits hold
        student, teacher = 8 * torch.randn(2, 3, 5, generator=generator)
        yield student, teacher, temperature
    yield draw((1, 300), generator), 3 * draw((1, 300), generator), 2.0
    yield repeated((draw((3, 4), generator), draw((3, 4), generator), 1.5), 40)


def _no_gradient(returned: object, student: Tensor, *_: object) -> str | None:
    return not_floats(returned, student)


def _far(returned: Tensor, wanted: Tensor) -> bool:
    return not torch.allclose(returned.double(), wanted.double(), rtol=TOLERANCE, atol=TOLERANCE)


def _zero_at_the_teacher(
    returned: Tensor, student: Tensor, teacher: Tensor, _: float
) -> str | None:
    same = torch.equal(student, teacher)
    return "zeros, because both answer alike" if same and returned.abs().max() > TOLERANCE else None


def _wrong_gradient(
    returned: Tensor, student: Tensor, teacher: Tensor, temperature: float
) -> str | None:
    wanted = soft_gradient(student, teacher, temperature)
    return show(wanted) if _far(returned, wanted) else None


SOFT_GRADIENT = Exercise(
    name="soft_gradient",
    signature="soft_gradient(student, teacher, temperature)",
    section=_SECTION,
    cases=_logits,
    expected=soft_gradient,
    properties=(
        Property(
            "returns a tensor with the shape of the logits",
            _no_gradient,
            "One number per logit: (images, classes) in, (images, classes) out.",
        ),
        Property(
            "stays finite for logits in the thousands",
            lambda returned, *_: None if returned.isfinite().all() else "finite numbers",
            "exp(1000) overflows. Subtract each row's maximum first (it cancels), or use softmax.",
        ),
        Property(
            "is zero where student and teacher answer alike",
            _zero_at_the_teacher,
            "Both are softened by the same temperature before they are compared.",
        ),
        Property(
            "is the gradient of T² KL by the student's logits, image by image",
            _wrong_gradient,
            "The text gives the gradient of KL alone, with its sign and the factor 1/T; T² times "
            "that. The softmax runs over the classes. There is no mean over the images.",
        ),
        UNCHANGED,
    ),
)


# ---- B · the loss of the source module


def buggy_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    """The student's loss, mean over the images; ``alpha`` weighs the labels."""
    p = (teacher / temperature).softmax(-1)
    kl = F.kl_div(student.log_softmax(-1), p, reduction="batchmean")
    hard = F.cross_entropy(student, labels)
    return alpha * hard + (1 - alpha) * kl


def right_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    """The same with both softened, and with T²: the right answer to the bug hunt."""
    p, log_q = (teacher / temperature).softmax(-1), (student / temperature).log_softmax(-1)
    kl = temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * kl


Batch = tuple[Tensor, Tensor, Tensor, float, float]  # student, teacher, labels, T, alpha


def _batches() -> Iterator[Batch]:
    for student, teacher, labels, temperature, alpha in (
        ([[1.0, 0.0]], [[-3.0, 0.0]], [0], 2.0, 0.25),
        ([[1.0, 0.0]], [[-3.0, 0.0]], [0], 1.0, 0.0),
        ([[1.0, 0.0]], [[-3.0, 0.0]], [1], 1.0, 1.0),
        ([[1.0, 0.0]], [[-3.0, 0.0]], [1], 3.0, 1.0),
        ([[1.0, 0.0]], [[1.0, 0.0]], [1], 3.0, 0.0),
        ([[1.0, 0.0]], [[-3.0, 0.0]], [0], 2.0, 0.0),
        ([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]], [[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]], [2, 1], 4.0, 0.0),
        ([[1.0, 0.0]], [[0.0, 2.0]], [0], 0.5, 0.0),
        ([[50.0, 0.0]], [[0.0, 100.0]], [0], 100.0, 0.0),
        ([[80.0, 0.0]], [[0.0, 80.0]], [0], 1.0, 0.0),
        ([[0.0, 200.0]], [[200.0, 0.0]], [0], 1.0, 0.5),
        ([[3000.0, 0.0, 2000.0]], [[0.0, 0.0, 3000.0]], [1], 2.0, 0.25),
    ):
        yield torch.tensor(student), torch.tensor(teacher), torch.tensor(labels), temperature, alpha
    generator = torch.Generator().manual_seed(2)
    for n in (1, 2, 3, 5) * 5:
        classes = pick((2, 3, 10), generator)
        student, teacher = (3 * draw((n, classes), generator) for _ in range(2))
        labels = torch.randint(classes, (n,), generator=generator)
        temperature = pick((1.0, 1.5, 2.0, 4.0, 8.0), generator)
        yield student, teacher, labels, temperature, pick((0.0, 0.1, 0.5, 0.75, 1.0), generator)
    for alpha in (0.0, 0.5, 1.0):
        student, teacher = (3 * draw((4, 3), generator) for _ in range(2))
        yield student.requires_grad_(), teacher, torch.tensor([0, 2, 1, 1]), 3.0, alpha
    yield student.detach().double(), teacher.double(), torch.tensor([0, 2, 1, 1]), 2.0, 0.5
    for alpha in (0.0, 1.0):  # logits with more digits than 16 bits hold
        digits = 8 * torch.randn(2, 4, 5, generator=generator)
        yield digits[0], digits[1], torch.tensor([0, 4, 1, 2]), 4.0, alpha
    yield repeated((student.detach(), teacher, torch.tensor([0, 2, 1, 1]), 2.0, 0.3), 40)


def _illegal_batch(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> str | None:
    """None for inputs that the statement allows, else what it allows."""
    both = torch.stack([student, teacher])
    if not (student.is_floating_point() and teacher.is_floating_point()):
        return "logits that are floats"
    if both.dim() != 3 or both.numel() == 0 or not both.isfinite().all():
        return "finite logits of student and teacher, both (images, classes)"
    if labels.shape != student.shape[:1] or labels.dtype != torch.int64:
        return "one whole number per image as labels"
    if not ((labels >= 0) & (labels < student.shape[1])).all():
        return f"labels from 0 to {student.shape[1] - 1}"
    fine = 0 < temperature < float("inf") and 0 <= alpha <= 1
    return None if fine else "a temperature above 0 and alpha from 0 to 1"


def _no_number(returned: object, *_: object) -> str | None:
    return None if type(returned) in (int, float) else f"one number, got {kind(returned)}"


def _differs(returned: float, wanted: Tensor) -> str | None:
    value = wanted.item()
    near = abs(returned - value) <= TOLERANCE * max(1.0, abs(value))
    return None if near else f"{value:.6g}, the loss on this input"


def _other_slope(gradients: tuple[Tensor, ...], *batch) -> str | None:
    wanted = torch.autograd.grad(right_loss(*batch), batch[0])[0]
    if gradients[0].shape == wanted.shape and not _far(gradients[0], wanted):
        return None
    return f"the gradient {show(wanted)} by the student's logits, not {show(gradients[0])}"


def _wrong_labels(returned: float, *batch) -> str | None:
    student, _, labels, _, alpha = batch
    return _differs(returned, F.cross_entropy(student, labels)) if alpha == 1 else None


def _wrong_at_the_teacher(returned: float, *batch) -> str | None:
    student, teacher, _, _, alpha = batch
    apart = alpha != 0 or not torch.equal(student, teacher)
    return None if apart else _differs(returned, torch.zeros(()))


def _wrong_kl(returned: float, *batch) -> str | None:
    return _differs(returned, right_loss(*batch)) if batch[-1] == 0 else None


MENDED_LOSS = Exercise(
    name="mended_loss",
    signature="mended_loss(student, teacher, labels, temperature, alpha)",
    section=_SECTION,
    cases=_batches,
    legal=_illegal_batch,
    expected=right_loss,
    properties=(
        Property(
            "returns one number",
            _no_number,
            "Take the mean over the images: one loss for the whole batch.",
        ),
        Property(
            "is the plain cross-entropy with the labels at alpha 1",
            _wrong_labels,
            "alpha is the weight of the labels. The temperature does not touch this term, and it "
            "is a mean over the images.",
        ),
        Property(
            "is 0 at alpha 0 where student and teacher answer alike",
            _wrong_at_the_teacher,
            "KL is 0 between equal answers, so both have to be softened, by the same temperature.",
        ),
        Property(
            "is T² KL at alpha 0",
            _wrong_kl,
            "KL(teacher ‖ student), both softened, times T². kl_div takes the student's "
            'log-probabilities first, and reduction="batchmean" sums over the classes and takes '
            "the mean over the images.",
        ),
        Property(
            "weighs the two terms by alpha and 1 − alpha",
            lambda returned, *batch: _differs(returned, right_loss(*batch)),
            "The factor T² belongs to the second term alone.",
        ),
        Slope(
            "has the gradient of the loss, so that a student can learn by it",
            _other_slope,
            "Compute with torch from the first line to the last: .item(), .detach(), .data and NumPy "
            "cut the answer off from the logits.",
        ),
        UNCHANGED,
    ),
)

SMALLEST_LOSS = smallest_input(
    name="smallest_loss",
    wrong=buggy_loss,
    judged_by=MENDED_LOSS,
    at_most=5,
    hint="At temperature 1 and at alpha 1 this function is right. One image and two classes are "
    "enough.",
)

PUZZLES = (
    Lines(
        name="soft_gradient",
        function=soft_gradient,
        distractors={
            "both = torch.stack([student, teacher])": "the temperature divides the logits, before "
            "the softmax.",
            "soft = both.softmax(1)": "axis 1 of the stack holds the images. Probabilities sum to 1 "
            "over the classes.",
            "return soft[0] - soft[1]": "the gradient of KL has the factor 1/T, and T² stands "
            "before it.",
            "return temperature**2 * (soft[0] - soft[1])": "the division by T has a derivative, "
            "too, the factor 1/T.",
            "return temperature * (soft[1] - soft[0])": "the student has to give less to a class "
            "to which it gives more than the teacher, so its gradient is positive there.",
        },
    ),
    WrongLine(
        name="mended_loss",
        function=buggy_loss,
        wrong='kl = F.kl_div(student.log_softmax(-1), p, reduction="batchmean")',
        why="the student is not softened here, and T² is missing. Right is "
        "`temperature**2 * F.kl_div((student / temperature).log_softmax(-1), …)`.",
        others={
            "p = (teacher / temperature).softmax(-1)": "these are the teacher's soft targets.",
            "hard = F.cross_entropy(student, labels)": "the labels' term has no temperature.",
            "return alpha * hard + (1 - alpha) * kl": "the weights are right. What should `kl` "
            "be when it arrives here?",
        },
    ),
)
EXERCISES = (SOFT_GRADIENT, SMALLEST_LOSS, MENDED_LOSS)
