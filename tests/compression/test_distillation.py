"""Distillation's loss: torch's KL, plain Python, closed-form gradients, and its limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from course_lib import ensemble, models, training
from course_lib.compression import distillation, quantization
from course_lib.data import Split


def logits(*shape, scale=3.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=g, dtype=torch.float64)


Z, V, Y = logits(7, 5), logits(7, 5, seed=1), torch.tensor([0, 4, 2, 2, 1, 3, 0])


def test_soft_targets_by_the_definition():
    q = distillation.soft_targets(torch.tensor([2.0, 0.0, -2.0]), 2)
    e = [math.exp(1), 1, math.exp(-1)]
    assert q.tolist() == pytest.approx([x / sum(e) for x in e])
    torch.testing.assert_close(distillation.soft_targets(V, 1), V.softmax(-1))
    hot = distillation.soft_targets(V, 1e9)
    torch.testing.assert_close(hot, torch.full_like(V, 0.2), atol=1e-8, rtol=0)
    cold = distillation.soft_targets(V, 1e-3)
    torch.testing.assert_close(cold, F.one_hot(V.argmax(-1), 5).double())
    assert distillation.soft_targets(torch.tensor([900.0, 0.0]), 0.5).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
@pytest.mark.parametrize("alpha", [0, 0.1, 0.5, 1])
def test_is_torchs_composition(temperature, alpha):
    kl = nn.KLDivLoss(reduction="batchmean")
    expected = alpha * nn.CrossEntropyLoss()(Z, Y) + (1 - alpha) * temperature**2 * kl(
        F.log_softmax(Z / temperature, -1), F.softmax(V / temperature, -1)
    )
    found = distillation.loss(Z, V, Y, temperature=temperature, alpha=alpha)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_by_hand():
    """Two classes, T = 2: p = (e, 1)/(e + 1) for the teacher, q = 1/2 for the student."""
    z, v = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
    p = math.e / (math.e + 1)
    kl = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    found = distillation.loss(z, v, torch.tensor([1]), temperature=2, alpha=0.25)
    assert found.item() == pytest.approx(0.25 * math.log(2) + 0.75 * 4 * kl, rel=1e-6)


def test_labels_alone_are_cross_entropy():
    expected = F.cross_entropy(Z, Y)
    for temperature in (1, 7):
        found = distillation.loss(Z, V, Y, temperature=temperature, alpha=1)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
def test_gradient_is_that_of_equation_2(temperature):
    """dL/dz = alpha (softmax(z) - y) + (1 - alpha) T² · (q - p) / T, over the minibatch's size."""
    alpha = 0.3
    z = Z.clone().requires_grad_()
    distillation.loss(z, V, Y, temperature=temperature, alpha=alpha).backward()
    p, q = (distillation.soft_targets(t, temperature) for t in (V, Z))
    expected = alpha * (Z.softmax(-1) - F.one_hot(Y, 5)) + (1 - alpha) * temperature * (q - p)
    torch.testing.assert_close(z.grad, expected / len(Z), rtol=1e-10, atol=1e-14)


def test_hot_limit_matches_centred_logits():
    """T → ∞: gradient (z - v) / N of centred logits (equation 4 times T²), value half its square."""
    z = Z.clone().requires_grad_()
    centred = (Z - Z.mean(1, keepdim=True)) - (V - V.mean(1, keepdim=True))
    off = []
    for temperature in (1e2, 1e3, 1e4):
        z.grad = None
        found = distillation.loss(z, V, None, temperature=temperature, alpha=0)
        found.backward()
        limit = centred / (5 * len(Z))
        off.append(((z.grad - limit).norm() / limit.norm()).item())
        value = centred.square().sum(1).mean() / 10
        assert found.item() == pytest.approx(value.item(), rel=20 / temperature)
    assert off[0] < 0.05 and off[2] < 5e-4
    assert off[0] / off[1] == pytest.approx(10, rel=0.1)  # the error falls like 1/T


def test_same_answers_cost_nothing_and_constants_do_not_count():
    shifted = V + torch.arange(7.0).unsqueeze(1)
    found = distillation.loss(shifted, V, None, temperature=3, alpha=0)
    assert found.item() == pytest.approx(0, abs=1e-14)
    assert distillation.loss(Z, V, None, temperature=3, alpha=0) > 0


def test_direction_of_kl():
    """A teacher that is sure forgives a student nothing that it leaves out; not the other way."""
    sure, flat = torch.tensor([[50.0, 0.0]]), torch.zeros(1, 2)
    forwards = distillation.loss(flat, sure, None, temperature=1, alpha=0)
    backwards = distillation.loss(sure, flat, None, temperature=1, alpha=0)
    assert forwards.item() == pytest.approx(math.log(2))
    assert backwards.item() == pytest.approx(25 - math.log(2))


@pytest.mark.parametrize("own_teacher", [False, True])
def test_stack_is_a_loss_a_network(own_teacher):
    z = logits(3, 7, 5, seed=2)
    v = logits(3, 7, 5, seed=3) if own_teacher else V
    found = distillation.loss(z, v, Y, temperature=4, alpha=0.2)
    expected = [
        distillation.loss(z[k], v[k] if own_teacher else v, Y, temperature=4, alpha=0.2)
        for k in range(3)
    ]
    torch.testing.assert_close(found, torch.stack(expected))


def test_no_gradient_reaches_the_teacher():
    z, v = Z.clone().requires_grad_(), V.clone().requires_grad_()
    distillation.loss(z, v, Y, temperature=2, alpha=0.5).backward()
    assert v.grad is None and z.grad is not None


def test_single_precision_at_the_ends():
    z, v = (100 * t.float() for t in (Z, V))
    for temperature in (0.01, 1, 1e3):
        found = distillation.loss(z, v, Y, temperature=temperature, alpha=0.1)
        exact = distillation.loss(z.double(), v.double(), Y, temperature=temperature, alpha=0.1)
        assert found.item() == pytest.approx(exact.item(), rel=1e-3)


def test_answers_are_the_models_own_in_evaluation_mode():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    x = torch.randn(25, 4)
    found = distillation.answers(net, x, batch_size=10)
    assert net.training and not found.requires_grad
    torch.testing.assert_close(found, net.eval()(x))
    nets = [models.mlp((4, 6, 3), seed=s) for s in range(2)]
    stack = ensemble.stack(nets)
    torch.testing.assert_close(
        distillation.answers(stack, x, batch_size=10), torch.stack([n(x) for n in nets])
    )
    p, q = (n(x).softmax(-1) for n in nets)
    geometric = (p * q).sqrt()
    together = distillation.answers(stack, x).mean(0)
    torch.testing.assert_close(
        distillation.soft_targets(together, 1), geometric / geometric.sum(-1, keepdim=True)
    )


def test_a_student_trained_in_the_one_loop_becomes_its_teacher():
    """Soft targets alone, images of noise: a linear student recovers a linear teacher."""
    teacher = models.mlp((6, 4), seed=0).double()
    students = ensemble.stack([models.mlp((6, 4), seed=s).double() for s in (1, 2)])
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    train = Split(x, torch.zeros(500, dtype=torch.long))
    v = distillation.answers(teacher, x)
    training.fit(
        students,
        train,
        epochs=60,
        loss=lambda z, i: distillation.loss(z, v[i], None, temperature=2, alpha=0),
    )
    found, wanted = (
        w - w.mean(-2, keepdim=True) for w in (students.fc1.weight, teacher.fc1.weight)
    )
    torch.testing.assert_close(found, wanted.expand(2, -1, -1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.5, 4, 20])
def test_half_precision_computes_in_single(dtype, temperature):
    """A student near its teacher: in half precision their KL would be lost in rounding."""
    z, v, eps = Z.to(dtype), (Z + 0.3 * V).to(dtype), torch.finfo(dtype).eps
    for alpha in (0, 0.3):
        found = distillation.loss(z, v, Y, temperature=temperature, alpha=alpha)
        exact = distillation.loss(z.double(), v.double(), Y, temperature=temperature, alpha=alpha)
        assert found.dtype == dtype and found.item() == pytest.approx(exact.item(), rel=2 * eps)
    q = distillation.soft_targets(v, temperature)
    assert q.dtype == dtype
    torch.testing.assert_close(
        q.double(), distillation.soft_targets(v.double(), temperature), rtol=eps, atol=1e-7
    )


def test_the_teacher_may_be_in_another_precision():
    found = distillation.loss(Z.half(), V, Y, temperature=2, alpha=0.5)
    exact = distillation.loss(Z.half().double(), V, Y, temperature=2, alpha=0.5)
    assert found.dtype == torch.float16 and found.item() == pytest.approx(exact.item(), rel=2e-3)


def test_a_member_that_diverges_does_not_stop_the_others():
    z = logits(3, 7, 5, seed=2)
    z[1, 2, 3] = math.nan
    found = distillation.loss(z, V, Y, temperature=4, alpha=0.2)
    assert found.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("build", [
    lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3).eval(), nn.Dropout(0.5)),
    lambda: models.mlp((4, 3)).half(),
    lambda: models.mlp((4, 3)).requires_grad_(False),
    lambda: quantization.qat(models.mlp((4, 3)), 4),
    lambda: prune.l1_unstructured(nn.Linear(4, 3), "weight", 2),
    lambda: ensemble.stack([models.mlp((4, 3), seed=s) for s in range(2)]),
])  # fmt: skip
def test_asking_leaves_the_teacher_as_it_was(build):
    teacher = build()
    before = {n: t.clone() for n, t in teacher.state_dict().items()}
    modes = [m.training for m in teacher.modules()]
    x = torch.randn(5, 4).to(next(teacher.parameters()).dtype)
    found = distillation.answers(teacher, x, batch_size=2)
    assert found.shape[-2:] == (5, 3) and found.isfinite().all() and found.dtype == x.dtype
    assert [m.training for m in teacher.modules()] == modes
    assert all(torch.equal(t, before[n]) for n, t in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"temperature": 0}, ValueError, "temperature must be positive and finite, got 0"),
        ({"temperature": math.inf}, ValueError, "temperature must be positive and finite, got inf"),
        ({"temperature": math.nan}, ValueError, "temperature must be positive and finite, got nan"),
        ({"temperature": "4"}, TypeError, "temperature must be a number, got '4'"),
        ({"alpha": 1.5}, ValueError, r"alpha must be in \[0, 1\].*got 1.5"),
        ({"alpha": None}, TypeError, r"alpha must be a number in \[0, 1\], got None"),
        ({"labels": None}, ValueError, "labels must be given.*alpha=0.5"),
        ({"labels": Y[:6]}, ValueError, r"labels must have shape \(7,\), got \(6,\)"),
        ({"teacher_logits": V[:, :4]}, ValueError, r"teacher_logits must.*\(7, 4\) for \(7, 5\)"),
        ({"teacher_logits": V[:1]}, ValueError, r"teacher_logits must.*\(1, 5\) for \(7, 5\)"),
        (
            {"temperature": 1e-320},
            ValueError,
            "teacher_logits / temperature must be finite, got 35",
        ),
        ({"alpha": math.nan}, ValueError, r"alpha must be in \[0, 1\]"),
        (
            {"teacher_logits": V / 0},
            ValueError,
            "teacher_logits / temperature must be finite, got 35",
        ),
        (
            {"teacher_logits": V * math.nan},
            ValueError,
            "teacher_logits / temperature must be finite",
        ),
        ({"teacher_logits": V.long()}, TypeError, "teacher_logits must be a floating.*int64"),
        ({"student_logits": [1.0]}, TypeError, "student_logits must be a floating.*list"),
        (
            {"student_logits": Z[:0], "teacher_logits": V[:0], "labels": Y[:0]},
            ValueError,
            r"student_logits must not be empty, got shape \(0, 5\)",
        ),
        ({"labels": Y.float()}, TypeError, "labels must be int64, got torch.float32"),
        ({"labels": Y + 1}, ValueError, "labels must be from 0 to 4, got 1 to 5"),
        ({"labels": Y - 1}, ValueError, "labels must be from 0 to 4, got -1 to 3"),
        ({"student_logits": Z[0]}, ValueError, r"\(7, 5\) for \(5,\)"),
    ],
)
def test_bad_input(changed, error, words):
    good = {"student_logits": Z, "teacher_logits": V, "labels": Y, "temperature": 2, "alpha": 0.5}
    with pytest.raises(error, match=words):
        distillation.loss(**good | changed)


def test_bad_questions():
    net, x = models.mlp((4, 2)), torch.zeros(3, 4)
    for call, error, words in (
        (lambda: distillation.answers(net, x[:0]), ValueError, "x must hold at least one example"),
        (lambda: distillation.answers(net, x * math.nan), ValueError, "x must be finite, got 12"),
        (lambda: distillation.answers(net, x[:, :3]), ValueError, "x must fit the model"),
        (lambda: distillation.answers(net, [0.0]), TypeError, "x must be a tensor, got list"),
        (
            lambda: distillation.answers(net, x, batch_size=0),
            ValueError,
            "batch_size must be a posi",
        ),
        (lambda: distillation.soft_targets(V, -1), ValueError, "temperature must be.*got -1"),
        (
            lambda: distillation.soft_targets(V * math.nan, 2),
            ValueError,
            "logits / temperature must be",
        ),
        (
            lambda: distillation.soft_targets(V.int(), 2),
            TypeError,
            "logits must be a floating-point",
        ),
    ):
        with pytest.raises(error, match=words):
            call()
