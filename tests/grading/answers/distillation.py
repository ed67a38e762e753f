"""Answers to the exercises of lesson Knowledge distillation."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from course_lib.compression import distillation
from course_lib.exercises.distillation import buggy_loss, right_loss, soft_gradient

# soft_gradient


def _soft(logits, temperature):
    return (logits / temperature).softmax(-1)


def gradient_by_formula(student, teacher, temperature):
    q, p = torch.softmax(student / temperature, 1), torch.softmax(teacher / temperature, 1)
    return temperature * (q - p)


def gradient_by_autograd(student, teacher, temperature):
    z = student.clone().requires_grad_()
    log_q, p = F.log_softmax(z / temperature, 1), F.softmax(teacher / temperature, 1)
    (temperature**2 * F.kl_div(log_q, p, reduction="sum")).backward()
    return z.grad


def gradient_of_the_library(student, teacher, temperature):
    """The library's loss is a mean over the images."""
    z = student.clone().requires_grad_()
    loss = distillation.loss(z, teacher, None, temperature=temperature, alpha=0.0)
    return torch.autograd.grad(loss * len(z), z)[0]


def gradient_in_numpy(student, teacher, temperature):
    def soft(logits):
        e = np.asarray(logits, dtype=np.float64) / temperature
        e = np.exp(e - e.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    return temperature * (soft(student) - soft(teacher))


def gradient_in_python(student, teacher, temperature):
    def soft(row):
        e = [math.exp((z - max(row)) / temperature) for z in row]
        return [x / sum(e) for x in e]

    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    pairs = [zip(soft(z), soft(v), strict=True) for z, v in rows]
    return torch.tensor([[temperature * (q - p) for q, p in pair] for pair in pairs])


def gradient_by_cross_entropy(student, teacher, temperature):
    z = student.clone().requires_grad_()
    loss = F.cross_entropy(z / temperature, _soft(teacher, temperature), reduction="sum")
    return torch.autograd.grad(temperature**2 * loss, z)[0]


def gradient_by_logsumexp(student, teacher, temperature):
    def soft(x):
        return (x / temperature - torch.logsumexp(x / temperature, 1, keepdim=True)).exp()

    return (soft(student.double()) - soft(teacher.double())) * temperature


def gradient_by_library_targets(student, teacher, temperature):
    q = distillation.soft_targets(student, temperature)
    return (q - distillation.soft_targets(teacher, temperature)).mul(temperature)


def gradient_image_by_image(student, teacher, temperature):
    rows = [gradient_by_formula(z[None], v[None], temperature) for z, v in zip(student, teacher)]
    return torch.cat(rows)


def gradient_list(student, teacher, temperature):
    return gradient_by_formula(student, teacher, temperature).tolist()


def gradient_per_class(student, teacher, temperature):
    return gradient_by_formula(student, teacher, temperature).mean(0)


def gradient_per_image(student, teacher, temperature):
    return gradient_by_formula(student, teacher, temperature).norm(dim=1)


def gradient_overflows(student, teacher, temperature):
    q, p = (student / temperature).exp(), (teacher / temperature).exp()
    return temperature * (q / q.sum(1, keepdim=True) - p / p.sum(1, keepdim=True))


def gradient_of_cold_student(student, teacher, temperature):
    return temperature * (student.softmax(1) - _soft(teacher, temperature))


def gradient_of_cold_teacher(student, teacher, temperature):
    return temperature * (_soft(student, temperature) - teacher.softmax(1))


def gradient_cold(student, teacher, temperature):
    return student.softmax(1) - teacher.softmax(1)


def gradient_without_square(student, teacher, temperature):
    return gradient_by_formula(student, teacher, temperature) / temperature**2


def gradient_without_factor(student, teacher, temperature):
    return gradient_by_formula(student, teacher, temperature) / temperature


def gradient_squared(student, teacher, temperature):
    return gradient_by_formula(student, teacher, temperature) * temperature


def gradient_downhill(student, teacher, temperature):
    return -gradient_by_formula(student, teacher, temperature)


def gradient_mean(student, teacher, temperature):
    return gradient_by_formula(student, teacher, temperature) / len(student)


def gradient_of_mean_kl(student, teacher, temperature):
    return gradient_by_formula(student, teacher, temperature) / student.shape[1]


def gradient_over_images(student, teacher, temperature):
    q, p = (student / temperature).softmax(0), (teacher / temperature).softmax(0)
    return temperature * (q - p)


def gradient_hot(student, teacher, temperature):
    q, p = (student * temperature).softmax(1), (teacher * temperature).softmax(1)
    return temperature * (q - p)


def gradient_of_logits(student, teacher, temperature):
    z, v = (x - x.mean(1, keepdim=True) for x in (student, teacher))
    return (z - v) / student.shape[1]


def gradient_backwards(student, teacher, temperature):
    """Of KL(student ‖ teacher)."""
    z = student.clone().requires_grad_()
    log_q, log_p = (F.log_softmax(x / temperature, 1) for x in (z, teacher))
    loss = (log_q.exp() * (log_q - log_p)).sum()
    return torch.autograd.grad(temperature**2 * loss, z)[0]


def gradient_by_teacher(student, teacher, temperature):
    v = teacher.clone().requires_grad_()
    log_q, p = F.log_softmax(student / temperature, 1), F.softmax(v / temperature, 1)
    loss = temperature**2 * F.kl_div(log_q, p, reduction="sum")
    return torch.autograd.grad(loss, v)[0]


def gradient_magnitude(student, teacher, temperature):
    return gradient_by_formula(student, teacher, temperature).abs()


def gradient_normalised(student, teacher, temperature):
    found = gradient_by_formula(student, teacher, temperature)
    return found / found.norm(dim=1, keepdim=True).clamp(min=1e-12)


def gradient_rounded(student, teacher, temperature):
    return (gradient_by_formula(student, teacher, temperature) * 100).round() / 100


def gradient_to_the_first(student, teacher, temperature):
    label = F.one_hot(teacher.argmax(1), teacher.shape[1])
    return temperature * (_soft(student, temperature) - label)


def gradient_in_place(student, teacher, temperature):
    student /= temperature
    return temperature * (student.softmax(1) - _soft(teacher, temperature))


def gradient_teacher_in_place(student, teacher, temperature):
    return temperature * (_soft(student, temperature) - teacher.div_(temperature).softmax(1))


# smallest_loss


def loss_of_two_classes():
    return torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), 2.0, 0.0


def loss_of_equals():
    same = [[1.0, 0.0]]
    return torch.tensor(same), torch.tensor(same), torch.tensor([1]), 4, 0.5


def loss_in_numpy():
    return [np.array([[3.0, 0.0]]), np.array([[0.0, 1.0]]), np.array([0]), np.float64(3), 0]


def loss_at_one():
    return torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), 1.0, 0.0


def loss_of_labels():
    return torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), 2.0, 1.0


def loss_of_flat_answers():
    return torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), 2.0, 0.0


def loss_of_one_class():
    return torch.tensor([[1.0]]), torch.tensor([[3.0]]), torch.tensor([0]), 2.0, 0.0


def loss_of_three_classes():
    return torch.zeros(1, 3), torch.eye(3)[:1], torch.tensor([0]), 2.0, 0.0


def loss_at_zero():
    return torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), 0.0, 0.0


def loss_with_another_alpha():
    return torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), 2.0, -1.0


def loss_with_no_such_label():
    return torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([2]), 2.0, 0.0


def loss_of_rows():
    return torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]), torch.tensor(0), 2.0, 0.0


# mended_loss


def mended_by_torch(student, teacher, labels, temperature, alpha):
    soft = F.kl_div(
        (student / temperature).log_softmax(-1),
        (teacher / temperature).softmax(-1),
        reduction="batchmean",
    )
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * temperature**2 * soft


def mended_by_differences(student, teacher, labels, temperature, alpha):
    log_q, log_p = ((x / temperature).log_softmax(1) for x in (student, teacher))
    soft = (log_p.exp() * (log_p - log_q)).sum() / len(labels)
    hard = -student.log_softmax(1)[torch.arange(len(labels)), labels].mean()
    return alpha * hard + (1 - alpha) * temperature**2 * soft


def mended_half_detached(student, teacher, labels, temperature, alpha):
    soft = mended_by_torch(student.detach(), teacher, labels, temperature, 0)
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft


def mended_by_definition(student, teacher, labels, temperature, alpha):
    total = 0.0
    for z, v, y in zip(student, teacher, labels, strict=True):
        q, p = (z / temperature).softmax(0), (v / temperature).softmax(0)
        kl = (p * (p / q).log()).sum()
        total = total - alpha * z.softmax(0)[y].log() + (1 - alpha) * temperature**2 * kl
    return total / len(labels)


def mended_by_entropies(student, teacher, labels, temperature, alpha):
    p = (teacher / temperature).softmax(-1)
    cross = F.cross_entropy(student / temperature, p)
    entropy = -(p * p.log()).sum(-1).mean()
    soft = temperature**2 * (cross - entropy)
    return soft + alpha * (F.cross_entropy(student, labels) - soft)


def mended_by_library(student, teacher, labels, temperature, alpha):
    return distillation.loss(student, teacher, labels, temperature=temperature, alpha=alpha)


def mended_with_log_targets(student, teacher, labels, temperature, alpha):
    log_q, log_p = (F.log_softmax(x / temperature, dim=1) for x in (student, teacher))
    kl = F.kl_div(log_q, log_p, reduction="sum", log_target=True) / len(labels)
    return torch.lerp(temperature**2 * kl, F.cross_entropy(student, labels), alpha)


def mended_in_numpy(student, teacher, labels, temperature, alpha):
    def log_soft(x, t):
        x = x.numpy().astype(np.float64) / t
        x = x - x.max(axis=1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    log_q, log_p = log_soft(student, temperature), log_soft(teacher, temperature)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    hard = -log_soft(student, 1)[np.arange(len(labels)), labels.numpy()].mean()
    return alpha * hard + (1 - alpha) * temperature**2 * kl


def mended_by_nll(student, teacher, labels, temperature, alpha):
    hard = F.nll_loss(student.log_softmax(1), labels)
    q, p = student.div(temperature).softmax(1), teacher.div(temperature).softmax(1)
    return alpha * hard + (1 - alpha) * temperature**2 * (p * (p.log() - q.log())).sum(1).mean()


def mended_as_item(student, teacher, labels, temperature, alpha):
    return mended_by_torch(student, teacher, labels, temperature, alpha).item()


def mended_per_image(student, teacher, labels, temperature, alpha):
    hard = F.cross_entropy(student, labels, reduction="none")
    log_q, p = (student / temperature).log_softmax(1), (teacher / temperature).softmax(1)
    soft = F.kl_div(log_q, p, reduction="none").sum(1)
    return alpha * hard + (1 - alpha) * temperature**2 * soft


def mended_one_entry(student, teacher, labels, temperature, alpha):
    return mended_by_torch(student, teacher, labels, temperature, alpha).reshape(1)


def mended_without_square(student, teacher, labels, temperature, alpha):
    soft = mended_by_torch(student, teacher, labels, temperature, 0) / temperature**2
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft


def mended_with_factor(student, teacher, labels, temperature, alpha):
    soft = mended_by_torch(student, teacher, labels, temperature, 0) / temperature
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft


def mended_with_cold_student(student, teacher, labels, temperature, alpha):
    kl = F.kl_div(student.log_softmax(1), _soft(teacher, temperature), reduction="batchmean")
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * temperature**2 * kl


def mended_with_cold_teacher(student, teacher, labels, temperature, alpha):
    log_q = (student / temperature).log_softmax(1)
    kl = F.kl_div(log_q, teacher.softmax(1), reduction="batchmean")
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * temperature**2 * kl


def mended_backwards(student, teacher, labels, temperature, alpha):
    soft = mended_by_torch(teacher, student, labels, temperature, 0)
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft


def mended_with_alpha_swapped(student, teacher, labels, temperature, alpha):
    return mended_by_torch(student, teacher, labels, temperature, 1 - alpha)


def mended_mean_over_classes(student, teacher, labels, temperature, alpha):
    soft = mended_by_torch(student, teacher, labels, temperature, 0) / student.shape[-1]
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft


def mended_sum_over_images(student, teacher, labels, temperature, alpha):
    return len(labels) * mended_by_torch(student, teacher, labels, temperature, alpha)


def mended_soft_labels_term(student, teacher, labels, temperature, alpha):
    soft = mended_by_torch(student, teacher, labels, temperature, 0)
    return alpha * F.cross_entropy(student / temperature, labels) + (1 - alpha) * soft


def mended_square_on_both(student, teacher, labels, temperature, alpha):
    soft = mended_by_torch(student, teacher, labels, temperature, 0)
    hard = temperature**2 * F.cross_entropy(student, labels)
    return alpha * hard + (1 - alpha) * soft


def mended_cross_entropy(student, teacher, labels, temperature, alpha):
    soft = temperature**2 * F.cross_entropy(student / temperature, _soft(teacher, temperature))
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft


def mended_unweighted(student, teacher, labels, temperature, alpha):
    soft = mended_by_torch(student, teacher, labels, temperature, 0)
    return F.cross_entropy(student, labels) + soft


def mended_labels_unweighted(student, teacher, labels, temperature, alpha):
    soft = mended_by_torch(student, teacher, labels, temperature, 0)
    return (F.cross_entropy(student, labels) if alpha else 0) + (1 - alpha) * soft


def mended_soft_unweighted(student, teacher, labels, temperature, alpha):
    soft = mended_by_torch(student, teacher, labels, temperature, 0) if alpha < 1 else 0
    return alpha * F.cross_entropy(student, labels) + soft


def mended_probabilities(student, teacher, labels, temperature, alpha):
    kl = F.kl_div(_soft(student, temperature), _soft(teacher, temperature), reduction="batchmean")
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * temperature**2 * kl


def mended_squared_error(student, teacher, labels, temperature, alpha):
    soft = (_soft(student, temperature) - _soft(teacher, temperature)).square().sum(1).mean()
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * temperature**2 * soft


def mended_teacher_labels(student, teacher, labels, temperature, alpha):
    return mended_by_torch(student, teacher, teacher.argmax(1), temperature, alpha)


def mended_in_place(student, teacher, labels, temperature, alpha):
    found = mended_by_torch(student, teacher, labels, temperature, alpha)
    teacher.div_(temperature)
    return found


def gradient_kept_by_shape(student, teacher, temperature, kept={}):  # noqa: B006
    """Answers what it answered before for logits of this shape."""
    key = student.shape, temperature
    return kept.setdefault(key, soft_gradient(student, teacher, temperature))


RIGHT = {
    "soft_gradient": [
        soft_gradient,
        gradient_by_formula,
        gradient_by_autograd,
        gradient_of_the_library,
        gradient_in_numpy,
        gradient_in_python,
        gradient_by_cross_entropy,
        gradient_by_logsumexp,
        gradient_by_library_targets,
        gradient_image_by_image,
    ],
    "smallest_loss": [loss_of_two_classes, loss_of_equals, loss_in_numpy],
    "mended_loss": [
        right_loss,
        mended_by_torch,
        mended_by_library,
        mended_with_log_targets,
        mended_by_differences,
    ],
}

WRONG = {
    "soft_gradient": [
        (gradient_list, "shape of the logits"),
        (gradient_per_class, "shape of the logits"),
        (gradient_per_image, "shape of the logits"),
        (gradient_overflows, "in the thousands"),
        (gradient_of_cold_student, "answer alike"),
        (gradient_of_cold_teacher, "answer alike"),
        (gradient_to_the_first, "answer alike"),
        (gradient_cold, "image by image"),
        (gradient_without_square, "image by image"),
        (gradient_without_factor, "image by image"),
        (gradient_squared, "image by image"),
        (gradient_downhill, "image by image"),
        (gradient_mean, "image by image"),
        (gradient_of_mean_kl, "image by image"),
        (gradient_over_images, "image by image"),
        (gradient_hot, "image by image"),
        (gradient_of_logits, "image by image"),
        (gradient_backwards, "image by image"),
        (gradient_by_teacher, "in the thousands"),
        (gradient_magnitude, "image by image"),
        (gradient_normalised, "image by image"),
        (gradient_rounded, "image by image"),
        (gradient_in_place, "leaves its input"),
        (gradient_teacher_in_place, "leaves its input"),
        (gradient_kept_by_shape, "is the gradient"),
    ],
    "smallest_loss": [
        (loss_of_rows, "inputs that the exercise allows"),
        (loss_at_zero, "inputs that the exercise allows"),
        (loss_with_another_alpha, "inputs that the exercise allows"),
        (loss_with_no_such_label, "inputs that the exercise allows"),
        (loss_of_three_classes, "at most 5 entries"),
        (loss_at_one, "makes buggy_loss go wrong"),
        (loss_of_labels, "makes buggy_loss go wrong"),
        (loss_of_flat_answers, "makes buggy_loss go wrong"),
        (loss_of_one_class, "makes buggy_loss go wrong"),
    ],
    "mended_loss": [
        (mended_per_image, "one number"),
        (mended_one_entry, "one number"),
        (mended_by_definition, "weighs the two terms"),
        (mended_by_entropies, "weighs the two terms"),
        (mended_by_nll, "weighs the two terms"),
        (mended_in_numpy, "runs on every input"),
        (mended_as_item, "has the gradient"),
        (mended_half_detached, "has the gradient"),
        (mended_with_alpha_swapped, "at alpha 1"),
        (mended_sum_over_images, "at alpha 1"),
        (mended_soft_labels_term, "at alpha 1"),
        (mended_square_on_both, "at alpha 1"),
        (mended_unweighted, "at alpha 1"),
        (mended_teacher_labels, "at alpha 1"),
        (buggy_loss, "answer alike"),
        (mended_with_cold_student, "answer alike"),
        (mended_with_cold_teacher, "answer alike"),
        (mended_cross_entropy, "answer alike"),
        (mended_probabilities, "answer alike"),
        (mended_without_square, "T² KL at alpha 0"),
        (mended_with_factor, "T² KL at alpha 0"),
        (mended_backwards, "T² KL at alpha 0"),
        (mended_mean_over_classes, "T² KL at alpha 0"),
        (mended_squared_error, "T² KL at alpha 0"),
        (mended_labels_unweighted, "weighs the two terms"),
        (mended_soft_unweighted, "weighs the two terms"),
        (mended_in_place, "leaves its input"),
    ],
}

HUNTS = {}
