r"""Knowledge distillation: a small network (the student) learns from a large one's softened answers.

A network's logits become probabilities by a softmax; divided by a temperature :math:`T > 1` first,
they become softer, and show which wrong classes the network holds for more likely than others:

.. math:: q_i = \frac{\exp(z_i / T)}{\sum_j \exp(z_j / T)}

Source: Hinton, Vinyals & Dean 2015, equation 1.
"""

import math
from numbers import Real

import torch
from torch import Tensor, nn

from course_lib.training import cross_entropy, evaluating


def soft_targets(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities at a temperature, equation 1 above: (…, classes) -> (…, classes).

    Raises:
        ValueError: ``temperature`` is not a positive number.
    """
    _check_temperature(temperature)
    return (logits / temperature).softmax(-1)


def loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    temperature: float,
    alpha: float,
) -> Tensor:
    r"""What the student minimises: labels and soft targets, weighed, mean over the minibatch.

    .. math:: \alpha\,\mathrm{CE}\bigl(y,\ \mathrm{softmax}(z)\bigr) + (1 - \alpha)\,T^2\,
              \mathrm{KL}\bigl(\mathrm{softmax}(v/T)\,\big\|\,\mathrm{softmax}(z/T)\bigr)

    with the student's logits :math:`z` and the teacher's :math:`v`. Both are softened in the second
    term, and neither in the first. Without the factor :math:`T^2` that term's gradient would fall
    like :math:`1/T^2`: it is :math:`\frac{1}{T}(q_i - p_i)` (equation 2), and for a high temperature
    and centred logits :math:`\frac{1}{N T^2}(z_i - v_i)` with :math:`N` classes (equation 4).

    Source: Hinton, Vinyals & Dean 2015, section 2, checked against transcripts of its text. They
    write the second term as a cross-entropy, which differs from KL by the entropy of the soft
    targets: a constant, with the same gradient. They say only "weighted average", with much less
    weight on the labels; that the weights add up to 1, and the letter α, are those of the course.

    Args:
        student_logits: (B, C), or (K, B, C) for a stack.
        teacher_logits: (B, C), or (K, B, C) for a teacher each. No gradient flows into it.
        labels: (B,) classes; None if there are none, which needs ``alpha=0``.
        temperature: T > 0.
        alpha: weight of the labels, from 0 (soft targets only) to 1 (cross-entropy only).

    Returns:
        (), or (K,) for a stack.

    Raises:
        ValueError: a temperature or weight out of range, shapes that do not belong together, or no
            labels although ``alpha`` gives them weight.
    """
    _check_temperature(temperature)
    _check(student_logits, teacher_logits, labels, alpha)
    log_p = (teacher_logits.detach() / temperature).log_softmax(-1)
    log_q = (student_logits / temperature).log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)  # (…, B, C) -> (…)
    soft = temperature**2 * kl
    if labels is None or alpha == 0:
        return soft
    return alpha * cross_entropy(student_logits, labels) + (1 - alpha) * soft


@torch.no_grad()
def answers(teacher: nn.Module, x: Tensor, *, batch_size: int = 1000) -> Tensor:
    """The teacher's logits for all images, in evaluation mode: (n, …) -> (n, C), or (K, n, C) for
    a stack. Ask once, before the student's training; they do not change in the course of it.

    The mean of a stack's logits, ``answers(stack, x).mean(0)``, makes an ensemble the teacher: its
    soft targets are the members' geometric mean, normalised.

    Raises:
        ValueError: no images, or a batch size below 1.
    """
    if len(x) == 0 or batch_size < 1:
        raise ValueError(
            f"x and batch_size must not be empty, got {len(x)} images and {batch_size!r}"
        )
    with evaluating(teacher):
        return torch.cat([teacher(part) for part in x.split(batch_size)], dim=-2)


def _check_temperature(temperature: float) -> None:
    if isinstance(temperature, bool) or not isinstance(temperature, Real):
        raise TypeError(f"temperature must be a positive number, got {temperature!r}")
    if not 0 < temperature < math.inf:  # also refuses NaN
        raise ValueError(f"temperature must be a positive number, got {temperature!r}")


def _check(z: Tensor, v: Tensor, labels: Tensor | None, alpha: float) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, Real):
        raise TypeError(f"alpha must be a number in [0, 1], got {alpha!r}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1] (the weight of the labels), got {alpha!r}")
    if z.dim() not in (2, 3) or v.shape not in (z.shape, z.shape[-2:]):
        raise ValueError(
            f"teacher_logits must have the shape of student_logits, (B, C) or (K, B, C), or its "
            f"last two sides, got {tuple(v.shape)} for {tuple(z.shape)}"
        )
    if labels is None and alpha > 0:
        raise ValueError(f"labels must be given where alpha gives them weight, got alpha={alpha!r}")
    if labels is not None and labels.shape != z.shape[-2:-1]:
        raise ValueError(
            f"labels must have shape {tuple(z.shape[-2:-1])}, got {tuple(labels.shape)}"
        )
