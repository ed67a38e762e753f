"""What is hooked to an optimizer, times the ways in which an optimizer may be stepped.

Each cell is *right*: after four steps the weights are those that plain steps of the same optimizer
lead to, with the gradients computed and, where need be, changed by hand; or *refused*, in the
library's own words.
"""

import traceback

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import parametrized
from course_lib.compression import binary, sharing
from course_lib.models import mlp
from course_lib.pruning import bayesian, gates, masks, penalties, sparse_training
from course_lib.pruning import learning_compression as lc

LR = 0.1
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, weight_decay=1e-2),
    "fused SGD": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=LR),
    "fused Adam": lambda p: torch.optim.Adam(p, lr=LR, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=LR, weight_decay=0.1),
}


# ---- hooks


def weights(model):
    return {n: p for n, p in model.named_parameters() if p.dim() == 2}


def hold(optimizer, model):
    masks.hold(optimizer, model, {n: p.detach().abs() > 0.2 for n, p in weights(model).items()})


def share(optimizer, model):
    signs = {n: (p.detach() > 0).long() for n, p in weights(model).items()}
    sharing.hold(optimizer, model, signs)


def shrink(optimizer, model):
    penalties.regularise(optimizer, model, penalties.prox_l1, strength=0.05)


def penalise(optimizer, model):
    penalties.penalise(optimizer, model, penalties.smooth_root(0.01), strength=0.1)


def rewire(optimizer, model):
    keep = {n: p.detach().abs() > 0.2 for n, p in weights(model).items()}
    sparse_training.rewire(
        optimizer, model, keep, sparse_training.RIGL, fraction=lambda step: 0.3 * (step == 2)
    )


HOOKS = {"hold": hold, "share": share, "shrink": shrink, "penalise": penalise, "rewire": rewire}
HOOKS["in range"] = binary.hold_in_range
HOOKS["charge"] = lambda optimizer, model: bayesian.charge(optimizer, model, n=20)
HOOKS["pull"] = lambda optimizer, model: lc.pull(
    optimizer, model, lc.Splitting(lc.l0(1e-3), [0.1, 0.2]), every=2
)
HOOKS["anneal"] = lambda optimizer, model: gates.anneal(optimizer, model, to=9.0, steps=5)

# ---- ways: how a model is changed before, and how a step is done


def plainly(model, optimizer, loss, scaler):
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()


def by_closure(model, optimizer, loss, scaler):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


def scaled(model, optimizer, loss, scaler):
    optimizer.zero_grad()
    scaler.scale(loss()).backward()
    scaler.step(optimizer)
    scaler.update()


def unscaled(model, optimizer, loss, scaler):
    optimizer.zero_grad()
    scaler.scale(loss()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()


def overflowing(model, optimizer, loss, scaler):
    """The gradient of the fourth step is infinite: the scaler has the optimizer skip it."""
    factor = float("inf") if scaler.steps == 4 else 1.0
    scaled(model, optimizer, lambda: loss() * factor, scaler)


def three_times(model, optimizer, loss, scaler):
    if scaler.steps < 4:
        plainly(model, optimizer, loss, scaler)


def clipped(model, optimizer, loss, scaler):
    optimizer.zero_grad()
    loss().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()


def clipped_by_hand(model, optimizer, loss, scaler):
    optimizer.zero_grad()
    value = loss()
    moving = [p for p in model.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(value, moving, retain_graph=True)
    norm = torch.cat([g.flatten() for g in slopes]).norm()
    (value * (0.1 / norm).clamp(max=1)).backward()
    optimizer.step()


def without_last(model, optimizer, loss, scaler):
    """Plainly, but the last layer has no gradient, and what it was it is again."""
    optimizer.zero_grad()
    loss().backward()
    moving = [parameter for parameter in model[-1].parameters() if parameter.requires_grad]
    before = [(parameter, parameter.detach().clone()) for parameter in moving]
    for parameter, _ in before:
        parameter.grad = None
    optimizer.step()
    for parameter, value in before:
        parameter.data.copy_(value)


def freeze(model):
    model[-1].requires_grad_(False)


def add_unused(model):
    """A layer that no loss depends on."""
    model[0].spare = nn.Linear(3, 3)


def nothing(model):
    pass


WAYS = {  # name -> (change of the model, step), (change of the model, step by hand)
    "closure": (nothing, by_closure, nothing, plainly),
    "scaler": (nothing, scaled, nothing, plainly),
    "scaler, unscaled": (nothing, unscaled, nothing, plainly),
    "scaler, overflow": (nothing, overflowing, nothing, three_times),
    "two groups": (nothing, plainly, nothing, plainly),
    "clipped": (nothing, clipped, nothing, clipped_by_hand),
    "frozen layer": (freeze, plainly, nothing, without_last),
    "layer without gradient": (add_unused, plainly, nothing, plainly),
}
REFUSED = {
    **{("rewire", name): {"frozen layer", "layer without gradient"} for name in OPTIMIZERS},
    **{("shrink", name): {*WAYS} for name in OPTIMIZERS if "SGD" not in name},
    **{("anneal", name): {*WAYS} for name in ("SGD", "AdamW")},  # they have weight decay
}


def trained(hook, optimizer, change, step, groups=1):
    """The weights after four steps."""
    model = mlp((8, 6, 5), seed=0)
    if hook == "charge":
        model = bayesian.noisy(model, bayesian.Variational)
    if hook == "in range":
        for weight in weights(model).values():
            weight.data /= weight.abs().max()  # so that one lies at the end of the range
        model = parametrized.attach(model, binary.sign)
    if hook == "anneal":
        gates.attach(model, gates.Sigmoid())
    change(model)
    torch.manual_seed(0)  # of the noise
    parameters = [*model.parameters()]
    if groups == 2:
        matrices = [p for p in parameters if p.dim() == 2]
        vectors = [p for p in parameters if p.dim() == 1]
        parameters = [{"params": matrices}, {"params": vectors}]
    made = OPTIMIZERS[optimizer](parameters)
    HOOKS[hook](made, model)
    generator = torch.Generator().manual_seed(1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for scaler.steps in range(1, 5):
        x = torch.randn(16, 8, generator=generator)
        y = torch.randint(5, (16,), generator=generator)
        step(model, made, lambda x=x, y=y: F.cross_entropy(model(x), y), scaler)
    return {n: p.detach() for n, p in model.named_parameters() if "spare" not in n}


def cell(hook, optimizer, way):
    change, step, change_by_hand, by_hand = WAYS[way]
    try:
        found = trained(hook, optimizer, change, step, groups=1 + (way == "two groups"))
    except (ValueError, TypeError, NotImplementedError) as error:
        inside = "/course_lib/" in traceback.extract_tb(error.__traceback__)[-1].filename
        return "refused" if inside else f"from torch: {error}"
    wanted = trained(hook, optimizer, change_by_hand, by_hand)
    wrong = [n for n in wanted if not torch.allclose(found[n], wanted[n], rtol=1e-4, atol=1e-6)]
    return f"other weights: {wrong}" if wrong else "right"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("hook", HOOKS)
def test_every_way_leads_where_plain_steps_do(hook, optimizer):
    found = {way: cell(hook, optimizer, way) for way in WAYS}
    refused = REFUSED.get((hook, optimizer), set())
    assert found == {way: "refused" if way in refused else "right" for way in WAYS}


@pytest.mark.parametrize("hook", HOOKS)
def test_lbfgs_is_refused_or_does_what_it_can(hook):
    model = mlp((8, 6, 5), seed=0)
    if hook == "charge":
        model = bayesian.noisy(model, bayesian.Variational)
    if hook == "in range":
        model = parametrized.attach(model, binary.sign)
    if hook == "anneal":
        gates.attach(model, gates.Sigmoid())
    optimizer = torch.optim.LBFGS(model.parameters(), lr=LR, max_iter=3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    if hook in ("share", "shrink", "penalise", "rewire", "charge", "pull"):
        with pytest.raises((TypeError, NotImplementedError), match="optimizer must"):
            HOOKS[hook](optimizer, model)
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
        return
    HOOKS[hook](optimizer, model)
    for _ in range(4):
        x, y = torch.ones(5, 8), torch.arange(5)
        by_closure(model, optimizer, lambda x=x, y=y: F.cross_entropy(model(x), y), None)
    if hook == "anneal":
        assert {round(p.item(), 2) for p in model.parameters() if p.dim() == 0} == {5.8}  # 9^(4/5)
        return
    for name, p in weights(model).items():
        gone = before[name].abs() <= 0.2
        assert p.abs().max() <= 1 if hook == "in range" else (p[gone] == 0).all()
