"""Answers to the exercises of lesson Knowledge distillation."""

import math

import torch
import torch.nn.functional as F

from course_lib.exercises.distillation import buggy_loss, weak_loss_test

from .common import judge_says_no, judge_says_yes

# soften


def soften_by_softmax(logits, temperature):
    if not temperature > 0:
        raise ValueError("temperature")
    return torch.softmax(logits / temperature, dim=1)


def soften_by_hand(logits, temperature):
    if temperature <= 0:
        raise ValueError("temperature")
    rows = []
    for row in logits.tolist():
        e = [math.exp((z - max(row)) / temperature) for z in row]
        rows.append([x / sum(e) for x in e])
    return torch.tensor(rows)


def soften_list(logits, temperature):
    return soften_by_softmax(logits, temperature).tolist()


def soften_mean(logits, temperature):
    return soften_by_softmax(logits, temperature).mean(0)


def soften_overflow(logits, temperature):
    e = (logits / temperature).exp()
    return e / e.sum(1, keepdim=True)


def soften_over_images(logits, temperature):
    return (logits / temperature).softmax(0)


def soften_unnormalised(logits, temperature):
    return logits.softmax(1) ** (1 / temperature)


def soften_times(logits, temperature):
    return (logits * temperature).softmax(1)


def soften_late(logits, temperature):
    q = logits.softmax(1) / temperature
    return q / q.sum(1, keepdim=True)


def soften_in_place(logits, temperature):
    return logits.div_(temperature).softmax(1) if temperature > 0 else soften_by_softmax(logits, 0)


def soften_anything(logits, temperature):
    return (logits / (temperature or 1)).softmax(1)


# kills_wrong_losses


def judge_loss_by_hand(fn):
    """Two classes: every part of the loss is worked out in plain numbers."""
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[-3.0, 0.0]])
    for temperature, alpha in ((1.0, 0.0), (2.0, 0.0), (2.0, 0.25), (3.0, 1.0)):
        given = student.clone(), teacher.clone()
        found = fn(*given, torch.tensor([0]), temperature, alpha)
        if not (torch.equal(given[0], student) and torch.equal(given[1], teacher)):
            return False
        q = 1 / (1 + math.exp(-1 / temperature))
        p = 1 / (1 + math.exp(3 / temperature))
        kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        label = math.log(1 + math.exp(-1))
        if abs(float(found) - alpha * label - (1 - alpha) * temperature**2 * kl) > 1e-4:
            return False
    return True


def judge_loss_by_gradient(fn):
    """dL/dz = alpha (softmax(z) - y) + (1 - alpha) T (q - p), and a value of 0 at the teacher."""
    g = torch.Generator().manual_seed(0)
    teacher, labels = 3 * torch.randn(4, 5, generator=g), torch.tensor([0, 2, 4, 1])
    for temperature, alpha in ((1.0, 0.3), (4.0, 0.0), (4.0, 0.3)):
        z, v = torch.randn(4, 5, generator=g).requires_grad_(), teacher.clone()
        fn(z, v, labels, temperature, alpha).backward()
        hot = temperature * ((z / temperature).softmax(1) - (teacher / temperature).softmax(1))
        wanted = alpha * (z.softmax(1) - F.one_hot(labels, 5)) + (1 - alpha) * hot
        if not torch.allclose(z.grad, wanted / 4, atol=1e-5) or not torch.equal(v, teacher):
            return False
        if fn(teacher.clone(), v, labels, temperature, 0.0).abs() > 1e-5:
            return False
    return True


def judge_loss_bitwise(fn):
    z, v, y = torch.tensor([[0.3, 1.1]]), torch.tensor([[2.0, 0.7]]), torch.tensor([0])
    p, q = (v / 3).softmax(1), (z / 3).softmax(1)
    kl = (p * (p.log() - q.log())).sum() * 9
    return bool(fn(z, v, y, 3.0, 0.3) == 0.3 * F.cross_entropy(z, y) + 0.7 * kl)


def judge_loss_at_one(fn):
    """Never leaves temperature 1."""
    z, v, y = torch.tensor([[0.3, 1.1]]), torch.tensor([[2.0, 0.7]]), torch.tensor([0])
    p, q = v.softmax(1), z.softmax(1)
    kl = (p * (p / q).log()).sum()
    return torch.allclose(fn(z, v, y, 1.0, 0.3), 0.3 * F.cross_entropy(z, y) + 0.7 * kl)


def judge_loss_at_the_teacher(fn):
    """Only asks for zero where student and teacher agree."""
    v = torch.tensor([[2.0, 0.7, -1.0]])
    return bool(fn(v.clone(), v.clone(), torch.tensor([0]), 3.0, 0.0).abs() < 1e-6)


def judge_loss_without_copy(fn):
    """Compares values only, each time with new logits."""
    for temperature, alpha in ((1.0, 0.0), (2.0, 0.25)):
        z, v, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[-3.0, 0.0]]), torch.tensor([0])
        p, q = (v / temperature).softmax(1), (z / temperature).softmax(1)
        soft = temperature**2 * (p * (p / q).log()).sum()
        wanted = alpha * F.cross_entropy(z, y) + (1 - alpha) * soft
        if not torch.allclose(fn(z, v, y, temperature, alpha), wanted, rtol=1e-4):
            return False
    return True


# temperature_for


def _bits(logits, temperature):
    q = (logits / temperature).softmax(1)
    return -(q * q.clamp_min(1e-300).log2()).sum(1).mean().item()


def _refuse(logits, bits):
    if not 0 < bits < math.log2(logits.shape[1]):
        raise ValueError("bits")


def temperature_by_bisection(logits, bits):
    _refuse(logits, bits)
    low, high = 1e-6, 1e6
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _bits(logits, middle) < bits else (low, middle)
    return low


def temperature_by_doubling(logits, bits):
    _refuse(logits, bits)
    high = 1e-6
    while _bits(logits, high) < bits:
        high *= 2
    steps = torch.linspace(high / 2, high, 2001).tolist()
    return min(steps, key=lambda t: abs(_bits(logits, t) - bits))


def temperature_as_tensor(logits, bits):
    return torch.tensor(temperature_by_bisection(logits, bits))


def temperature_inverted(logits, bits):
    return 1 / temperature_by_bisection(logits, bits)


def temperature_in_nats(logits, bits):
    _refuse(logits, bits)
    return temperature_by_bisection(
        logits, min(bits / math.log(2), 0.99 * math.log2(logits.shape[1]))
    )


def temperature_narrow(logits, bits):
    _refuse(logits, bits)
    low, high = 1.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _bits(logits, middle) < bits else (low, middle)
    return low


def temperature_of_the_first(logits, bits):
    return temperature_by_bisection(logits[:1], bits)


def temperature_in_place(logits, bits):
    found = temperature_by_bisection(logits, bits)
    logits.div_(found)
    return found


def temperature_always(logits, bits):
    most = math.log2(logits.shape[1])
    return temperature_by_bisection(logits, min(max(bits, 1e-3), most - 1e-3))


RIGHT = {
    "soften": [soften_by_softmax, soften_by_hand],
    "kills_wrong_losses": [judge_loss_by_hand, judge_loss_by_gradient],
    "temperature_for": [temperature_by_bisection, temperature_by_doubling],
}

WRONG = {
    "soften": [
        (soften_list, "shape of the logits"),
        (soften_mean, "shape of the logits"),
        (soften_overflow, "in the thousands"),
        (soften_over_images, "sum to 1"),
        (soften_unnormalised, "sum to 1"),
        (soften_times, "divided by the temperature"),
        (soften_late, "divided by the temperature"),
        (soften_in_place, "leaves its input"),
        (soften_anything, "raises a ValueError"),
    ],
    "kills_wrong_losses": [
        (judge_says_no, "accepts a correct function that uses torch's"),
        (judge_loss_bitwise, "accepts a correct function"),
        (judge_says_yes, "leaves the student at temperature 1"),
        (weak_loss_test, "leaves the student at temperature 1"),
        (judge_loss_at_one, "leaves the student at temperature 1"),
        (judge_loss_at_the_teacher, "forgets the factor T²"),
        (judge_loss_without_copy, "in the tensor it was given"),
    ],
    "temperature_for": [
        (temperature_as_tensor, "a positive number"),
        (temperature_inverted, "hits the mean entropy"),
        (temperature_in_nats, "hits the mean entropy"),
        (temperature_narrow, "hits the mean entropy"),
        (temperature_of_the_first, "hits the mean entropy"),
        (temperature_in_place, "leaves its input"),
        (temperature_always, "raises a ValueError"),
    ],
}

# Exercise -> a weak test, what it lets through, a judge that tells right from wrong.
HUNTS = {"kills_wrong_losses": (weak_loss_test, buggy_loss, judge_loss_by_hand)}
