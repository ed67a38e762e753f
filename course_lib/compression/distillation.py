r"""Knowledge distillation: a small network, the student, learns from the answers of a large one.

A softmax turns logits into probabilities. Logits that are first divided by a temperature
:math:`T > 1` give softer probabilities, which show how likely each wrong class is for the teacher:

.. math:: q_i = \frac{\exp(z_i / T)}{\sum_j \exp(z_j / T)}

Source: Hinton, Vinyals & Dean 2015, equation 1.
"""

from numbers import Real

import torch
from torch import Tensor, nn

from course_lib.data import check_counts, check_positive
from course_lib.layers import at_least_float32, check_finite, check_floating, run
from course_lib.training import cross_entropy, evaluating


def soft_targets(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities at a temperature, equation 1 above: (…, classes) -> (…, classes).

    Raises:
        TypeError: ``logits`` is not a floating-point tensor, or ``temperature`` not a number.
        ValueError: ``logits`` is not finite before or after the division; ``temperature`` is not
            positive and finite.

    Examples:
        >>> logits = torch.tensor([0.0, 4.0])
        >>> soft_targets(logits, temperature=1.0), soft_targets(logits, temperature=4.0)
        (tensor([0.0180, 0.9820]), tensor([0.2689, 0.7311]))
    """
    return _softened("logits", logits, temperature).softmax(-1).to(logits.dtype)


def _softened(argument: str, logits: Tensor, temperature: float) -> Tensor:
    """Logits divided by the temperature, in float32 or float64, checked."""
    check_positive("temperature", temperature)
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.dim() == 0:
        raise TypeError(f"{argument} must be a floating-point tensor (…, classes), got {logits!r}")
    softened = at_least_float32(logits) / temperature
    check_finite(f"{argument} / temperature", softened)
    return softened


def loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    temperature: float,
    alpha: float,
) -> Tensor:
    r"""The student's loss: a weighted sum for labels and soft targets, mean over the minibatch.

    .. math:: \alpha\,\mathrm{CE}\bigl(y,\ \mathrm{softmax}(z)\bigr) + (1 - \alpha)\,T^2\,
              \mathrm{KL}\bigl(\mathrm{softmax}(v/T)\,\big\|\,\mathrm{softmax}(z/T)\bigr)

    Here :math:`z` are the logits of the student and :math:`v` those of the teacher. The temperature
    softens both in the second term, and none in the first. The gradient of the second term without
    :math:`T^2` is :math:`\frac{1}{T}(q_i - p_i)` (equation 2). For a high temperature and centred
    logits of :math:`N` classes it is :math:`\frac{1}{N T^2}(z_i - v_i)` (equation 4), so the factor
    :math:`T^2` keeps its size the same at all temperatures.

    The paper writes the second term as a cross-entropy. This differs from KL by the entropy of the
    soft targets, a constant, and has the same gradient. The paper gives no weights; here the two add
    up to 1.

    Source: Hinton, Vinyals & Dean 2015, section 2.

    Args:
        student_logits: (B, C), or (K, B, C) for a stack.
        teacher_logits: (B, C), or (K, B, C) with one teacher per student. They get no gradient.
        labels: (B,) classes. None, with ``alpha=0``, if there are no labels.
        temperature: T > 0.
        alpha: weight of the labels, from 0 (only soft targets) to 1 (only labels).

    Returns:
        (), or (K,) for a stack, in the student's dtype. It is NaN where a student's logits are, so
        one member of a stack that diverges does not stop the others.

    Raises:
        TypeError: logits that are not floating-point tensors, labels that are not int64, or a
            temperature or weight that is not a number.
        ValueError: a temperature or weight out of range; teacher's logits that are not finite; an
            empty minibatch; shapes that do not fit; labels outside the classes; no labels although
            ``alpha`` is above 0.

    Examples:
        >>> student, teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 4.0]])
        >>> labels = torch.tensor([1])
        >>> round(loss(student, teacher, labels, temperature=2.0, alpha=0.5).item(), 3)
        0.493
        >>> loss(teacher, teacher, None, temperature=2.0, alpha=0.0)
        tensor(0.)
    """
    _check(student_logits, teacher_logits, labels, alpha)
    log_p = _softened("teacher_logits", teacher_logits.detach(), temperature).log_softmax(-1)
    z = at_least_float32(student_logits)
    log_q = (z / temperature).log_softmax(-1)
    soft = temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)  # (…, B, C) -> (…)
    if labels is not None and alpha > 0:
        soft = alpha * cross_entropy(z, labels) + (1 - alpha) * soft
    return soft.to(student_logits.dtype)


@torch.no_grad()
def answers(teacher: nn.Module, x: Tensor, *, batch_size: int = 1000) -> Tensor:
    """The teacher's logits for all images: (n, …) -> (n, C), or (K, n, C) for a stack.

    The teacher runs in evaluation mode. Call this once before you train the student, because the
    answers do not change. To make an ensemble the teacher, take the mean of a stack's logits,
    ``answers(stack, x).mean(0)``: its soft targets are the normalised geometric mean of the members'.

    Raises:
        TypeError: ``x`` is not a tensor.
        ValueError: ``x`` is empty, not finite or does not fit the teacher; ``batch_size`` is not a
            positive integer.

    Examples:
        >>> from course_lib import models
        >>> answers(models.mlp((4, 3, 2)), torch.zeros(5, 4)).shape
        torch.Size([5, 2])
    """
    check_counts(batch_size=batch_size)
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, got {type(x).__name__}")
    check_finite("x", x)
    with evaluating(teacher):
        return torch.cat([run(teacher, part) for part in x.split(batch_size)], dim=-2)


def _check(z: Tensor, v: Tensor, labels: Tensor | None, alpha: float) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, Real):
        raise TypeError(f"alpha must be a number in [0, 1], got {alpha!r}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1] (the weight of the labels), got {alpha!r}")
    for name, logits in (("student_logits", z), ("teacher_logits", v)):
        check_floating(name, logits)
    if z.dim() not in (2, 3) or v.shape not in (z.shape, z.shape[-2:]):
        raise ValueError(
            f"teacher_logits must have the shape of student_logits, (B, C) or (K, B, C), or its "
            f"last two sides, got {tuple(v.shape)} for {tuple(z.shape)}"
        )
    if z.numel() == 0:
        raise ValueError(f"student_logits must not be empty, got shape {tuple(z.shape)}")
    if labels is None and alpha > 0:
        raise ValueError(f"labels must be given where alpha gives them weight, got alpha={alpha!r}")
    if labels is not None:
        _check_labels(labels, z.shape[-2], z.shape[-1])


def _check_labels(labels: Tensor, examples: int, classes: int) -> None:
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, got {labels.dtype}")
    if labels.shape != (examples,):
        raise ValueError(f"labels must have shape {(examples,)}, got {tuple(labels.shape)}")
    low, high = labels.aminmax()
    if low < 0 or high >= classes:
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {int(low)} to {int(high)}")
