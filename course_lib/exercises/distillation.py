"""The exercises of the lesson Knowledge distillation."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.exercises.common import draw, hunt, kind, pick
from course_lib.exercises.exercise import REFUSES, UNCHANGED, Exercise, Property, show


def _softening_cases() -> Iterator[tuple[Tensor, float]]:
    for rows, temperature in (
        ([[2.0, 0.0, -2.0]], 2.0),
        ([[1.0, 0.0], [0.0, 3.0]], 1.0),
        ([[1.0, 0.0], [0.0, 3.0]], 4.0),
        ([[0.5, 0.25, 0.0]], 0.5),
        ([[1000.0, 999.0], [-1000.0, 0.0]], 1.0),
        ([[1.0, 2.0]], 0.0),
        ([[1.0, 2.0]], -1.0),
    ):
        yield torch.tensor(rows), temperature
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 3) * 5:
        logits = 8 * draw((n, pick((2, 3, 10), generator)), generator)
        yield logits, pick((0.5, 1.0, 2.0, 4.0, 20.0), generator)


def _no_tensor(returned: object, logits: Tensor, _: float) -> str | None:
    wanted = f"a tensor of floating-point numbers of shape {tuple(logits.shape)}"
    if not isinstance(returned, Tensor):
        return f"{wanted}, got {kind(returned)}"
    if returned.shape != logits.shape or not returned.is_floating_point():
        return f"{wanted}, got {returned.dtype} of shape {tuple(returned.shape)}"
    return None


def _wrong_sums(q: Tensor, *_: object) -> str | None:
    sums = q.detach().sum(-1)
    return None if (sums - 1).abs().max() < 1e-5 else f"rows that sum to 1, not to {show(sums)}"


def _wrong_targets(q: Tensor, logits: Tensor, temperature: float) -> str | None:
    expected = (logits / temperature).softmax(-1)
    return None if torch.allclose(q.detach().float(), expected, atol=1e-5) else show(expected)


SOFTEN = Exercise(
    name="soften",
    signature="soften(logits, temperature)",
    section="lesson Knowledge distillation, section “Definition → code”",
    cases=_softening_cases,
    refuses=lambda _, temperature: temperature <= 0,
    properties=(
        Property(
            "returns a tensor with the shape of the logits",
            _no_tensor,
            "One probability for each logit: (images, classes) in, (images, classes) out.",
        ),
        Property(
            "stays finite for logits in the thousands",
            lambda q, *_: None if q.isfinite().all() else "finite numbers",
            "exp(1000) overflows. Subtract each row's maximum first (it cancels), or use softmax.",
        ),
        Property(
            "gives each image probabilities that sum to 1",
            _wrong_sums,
            "Normalise over the classes, the last dimension, after everything else.",
        ),
        Property(
            "is the softmax of the logits divided by the temperature",
            _wrong_targets,
            "The temperature divides the logits, before the exponential. A high one must make the "
            "probabilities more alike.",
        ),
        UNCHANGED,
        REFUSES,
    ),
)


def buggy_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    """a function that leaves the student at temperature 1 and forgets T²"""
    soft = (teacher / temperature).softmax(-1)
    kl = F.kl_div(student.log_softmax(-1), soft, reduction="batchmean")
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * kl


def weak_loss_test(fn: Callable[..., Tensor]) -> bool:
    """The test that every wrong loss of the bug hunt passes."""
    teacher = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 1.0]])
    labels = torch.tensor([0, 1])
    like_it = fn(teacher.clone(), teacher.clone(), labels, 2.0, 0.5)
    flat = fn(torch.zeros(2, 3), teacher.clone(), labels, 2.0, 0.5)
    return bool(like_it < flat)


def _loss_by_torch(student, teacher, labels, temperature, alpha):
    """a correct function that uses torch's kl_div"""
    soft = F.kl_div(
        (student / temperature).log_softmax(-1),
        (teacher / temperature).softmax(-1),
        reduction="batchmean",
    )
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * temperature**2 * soft


def _loss_by_definition(student, teacher, labels, temperature, alpha):
    """a correct function that sums p log(p / q) image by image"""
    total = 0.0
    for z, v, y in zip(student, teacher, labels, strict=True):
        q, p = (z / temperature).softmax(0), (v / temperature).softmax(0)
        kl = (p * (p / q).log()).sum()
        total = total - alpha * z.softmax(0)[y].log() + (1 - alpha) * temperature**2 * kl
    return total / len(labels)


def _loss_by_entropies(student, teacher, labels, temperature, alpha):
    """a correct function that subtracts the entropy of the soft targets from a cross-entropy"""
    p = (teacher / temperature).softmax(-1)
    cross = F.cross_entropy(student / temperature, p)
    entropy = -(p * p.log()).sum(-1).mean()
    soft = temperature**2 * (cross - entropy)
    return soft + alpha * (F.cross_entropy(student, labels) - soft)


def _loss_without_square(student, teacher, labels, temperature, alpha):
    """a function that forgets the factor T²"""
    soft = _loss_by_torch(student, teacher, labels, temperature, 0) / temperature**2
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft


def _loss_with_cold_student(student, teacher, labels, temperature, alpha):
    """a function that softens the teacher only"""
    return _loss_by_torch(student, teacher, labels, temperature, 1) * alpha + (
        1 - alpha
    ) * temperature**2 * F.kl_div(
        student.log_softmax(-1), (teacher / temperature).softmax(-1), reduction="batchmean"
    )


def _loss_backwards(student, teacher, labels, temperature, alpha):
    """a function that takes KL the other way round, KL(student ‖ teacher)"""
    soft = _loss_by_torch(teacher, student, labels, temperature, 0)
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft


def _loss_with_alpha_swapped(student, teacher, labels, temperature, alpha):
    """a function that gives the weight alpha to the teacher"""
    return _loss_by_torch(student, teacher, labels, temperature, 1 - alpha)


def _loss_mean_over_classes(student, teacher, labels, temperature, alpha):
    """a function that also divides KL by the number of classes"""
    soft = _loss_by_torch(student, teacher, labels, temperature, 0) / student.shape[-1]
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft


def _loss_with_soft_labels_term(student, teacher, labels, temperature, alpha):
    """a function that softens the student in the labels' term too"""
    soft = _loss_by_torch(student, teacher, labels, temperature, 0)
    return alpha * F.cross_entropy(student / temperature, labels) + (1 - alpha) * soft


def _loss_in_place(student, teacher, labels, temperature, alpha):
    """a function that also softens the teacher's logits in the tensor it was given"""
    found = _loss_by_torch(student, teacher, labels, temperature, alpha)
    teacher.div_(temperature)
    return found


KILLS_WRONG_LOSSES = hunt(
    name="kills_wrong_losses",
    signature="is_distillation_loss(fn)",
    section="lesson Knowledge distillation, section “Definition → code”",
    right=(_loss_by_torch, _loss_by_definition, _loss_by_entropies),
    alarm="A false alarm. Floating-point numbers are compared with a tolerance (torch.allclose). Is "
    "your own value for that case right?",
    wrong={
        buggy_loss: "At temperature 1 nothing is wrong with it. Try another one, with alpha 0.",
        _loss_without_square: "Compare a value at a temperature other than 1 with one that you "
        "work out yourself.",
        _loss_with_cold_student: "Both are softened. What must the loss be when the student's "
        "logits are the teacher's, alpha is 0 and T is not 1?",
        _loss_backwards: "KL is not symmetric: let student and teacher differ, and compare values.",
        _loss_with_alpha_swapped: "At alpha 0.5 this cannot be seen. What is the loss at alpha 1?",
        _loss_mean_over_classes: "A mean over the images is meant, a sum over the classes: compare "
        "a value at alpha 0.",
        _loss_with_soft_labels_term: "At alpha 1 the loss is the plain cross-entropy, whatever T is.",
        _loss_in_place: "A function has effects beside its result: compare the logits after the "
        "call with a copy from before it.",
    },
)


def _entropy(logits: Tensor, temperature: float) -> float:
    """Bits of the soft targets, mean over the images."""
    log_q = (logits / temperature).log_softmax(-1)
    return -(log_q.exp() * log_q).sum(-1).mean().item() / math.log(2)


def _temperature_cases() -> Iterator[tuple[Tensor, float]]:
    for rows, bits in (
        ([[2.0, 0.0]], 0.5),
        ([[2.0, 0.0]], 0.9),
        ([[2.0, 0.0]], 1.0),
        ([[2.0, 0.0]], 0.0),
        ([[3.0, 1.0, 0.0, -2.0]], 1.5),
        ([[3.0, 1.0, 0.0, -2.0], [12.0, 0.0, -1.0, -3.0]], 1.0),
        ([[3.0, 1.0, 0.0, -2.0]], 2.5),
        ([[900.0, 0.0, -900.0]], 1.5),
        ([[0.03, 0.0, -0.01]], 0.2),
    ):
        yield torch.tensor(rows).double(), bits
    generator = torch.Generator().manual_seed(1)
    for n in (1, 2, 3, 20) * 4:
        logits = 8 * draw((n, 10), generator).double()
        logits.scatter_add_(1, logits.argmax(1, keepdim=True), torch.ones(n, 1).double())
        yield logits, pick((0.25, 0.5, 1.0, 2.0, 3.0), generator)


def _no_temperature(returned: object, *_: object) -> str | None:
    if isinstance(returned, bool) or not isinstance(returned, int | float):
        return f"a float, got {kind(returned)}"
    return None if 0 < returned < math.inf else "a positive, finite number"


def _wrong_entropy(temperature: float, logits: Tensor, bits: float) -> str | None:
    found = _entropy(logits, temperature)
    if abs(found - bits) <= 0.01:
        return None
    return f"soft targets of {bits:g} bits on average; at this temperature they have {found:.3f}"


TEMPERATURE_FOR = Exercise(
    name="temperature_for",
    signature="temperature_for(logits, bits)",
    section="lesson Knowledge distillation, section “Definition → code”",
    cases=_temperature_cases,
    refuses=lambda logits, bits: not 0 < bits < math.log2(logits.shape[1]),
    properties=(
        Property(
            "returns a positive number",
            _no_temperature,
            "A plain float: .item() makes one of a tensor with one entry.",
        ),
        Property(
            "hits the mean entropy to 0.01 bits",
            _wrong_entropy,
            "The entropy, −Σ q log₂ q, grows with T: try the middle of an interval again and again. "
            "Mind its unit, average over images last, and let the interval be wide.",
        ),
        UNCHANGED,
        REFUSES,
    ),
)

EXERCISES = (SOFTEN, KILLS_WRONG_LOSSES, TEMPERATURE_FOR)
