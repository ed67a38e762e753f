"""Training: interruption, validation, evaluation. (tests/test_ensemble.py: stacks.)"""

import os
import types
from itertools import chain

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from course_lib import data, ensemble, models, training
from course_lib.data import Split
from course_lib.pruning import allocate, criteria, masks

DOUBLE = torch.float64


@pytest.fixture(scope="module")
def toy():
    train, test = data.load("glyphs", n_train=330, n_test=200)
    return Split(train.x.double(), train.y), Split(test.x.double(), test.y)


def build_mlp(seed):
    return models.mlp((196, 20, 15, 10), seed=seed).double()


def build_cnn(seed):
    return models.small_cnn(width=0.2, seed=seed).double()


def test_training_learns():
    train, test = data.load("glyphs", n_train=3000, n_test=1000)
    net = models.mlp(seed=0)
    history = training.fit(net, train, epochs=4, test=test)
    assert history.accuracy[-1] > 85 and history.loss[-1] < history.loss[0] / 3
    assert history.seconds > 0


def test_learning_rate_follows_the_schedule_and_is_put_back():
    train = Split(torch.randn(10, 4), torch.zeros(10, dtype=torch.long))
    net = models.mlp((4, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    seen = []
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    training.fit(net, train, epochs=2, batch_size=4, optimizer=optimizer)
    assert seen == pytest.approx([0.5 * (1 - i / 6) for i in range(6)])
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_every_image_is_seen_once_an_epoch_in_another_order():
    x = torch.arange(10.0).view(10, 1)
    seen = []

    class Spy(nn.Linear):
        def forward(self, batch):
            if self.training:  # fit tries the first images in evaluation mode
                seen.append(batch.flatten().tolist())
            return super().forward(batch)

    training.fit(Spy(1, 2), Split(x, torch.zeros(10, dtype=torch.long)), epochs=2, batch_size=4)
    assert [len(b) for b in seen] == [4, 4, 2] * 2
    first, second = list(chain(*seen[:3])), list(chain(*seen[3:]))
    assert sorted(first) == sorted(second) == x.flatten().tolist() and first != second


@pytest.mark.parametrize("hold", [False, True])
def test_interrupted_training_ends_where_it_would_have(tmp_path, toy, hold):
    train, test = toy

    def start(file, stop_after=None):
        net = build_mlp(0)
        optimizer = training.sgd(net)
        if hold:
            masks.hold(optimizer, net, allocate.globally(criteria.magnitude(net), 0.5))
        steps = iter(range(10_000))

        def stop(*_):
            if next(steps) == stop_after:
                raise KeyboardInterrupt

        optimizer.register_step_post_hook(stop)
        history = training.fit(
            net, train, epochs=4, optimizer=optimizer, seed=3, test=test, checkpoint=tmp_path / file
        )
        return net, history

    whole, expected = start("whole")
    with pytest.raises(KeyboardInterrupt):
        start("cut", stop_after=9)  # in the third of four epochs of four steps
    resumed, history = start("cut")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(torch.stack(history.loss), torch.stack(expected.loss))
    assert torch.equal(torch.stack(history.accuracy), torch.stack(expected.accuracy))
    again, _ = start("cut")  # finished: nothing left to do
    assert torch.equal(again.fc1.weight, whole.fc1.weight)


@pytest.mark.parametrize("disable", ["", "1"])
def test_the_environment_switches_the_bar_off(toy, monkeypatch, disable):
    """As the book's build does: tqdm's own bar for notebooks does not look at the variable."""
    off, make = [], training.tqdm

    def bar(*args, **options):
        off.append(options["disable"])
        return make(*args, **options)

    monkeypatch.setattr(training, "tqdm", bar)
    monkeypatch.setenv("TQDM_DISABLE", disable)
    training.fit(build_mlp(0), toy[0], epochs=1)
    assert off == [bool(disable)]


def test_loss_is_told_which_images_it_is_given(toy):
    """Cross-entropy, looked up by the positions, is the default."""
    train, _ = toy
    nets = [build_mlp(seed) for seed in range(3)]
    expected, stack = ensemble.stack(nets), ensemble.stack(nets)
    history = training.fit(expected, train, epochs=2)
    seen = []

    def loss(logits, batch):
        seen.append(batch)
        assert logits.shape == (3, len(batch), 10)
        return training.cross_entropy(logits, train.y[batch])

    again = training.fit(stack, train, epochs=2, loss=loss)
    for name, p in expected.named_parameters():  # by hand: another order of the same sums
        torch.testing.assert_close(stack.get_parameter(name), p, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(torch.stack(again.loss), torch.stack(history.loss))
    assert sorted(torch.cat(seen[:4]).tolist()) == list(range(330))


def test_a_loss_of_another_shape_is_refused():
    net = models.mlp((4, 3, 2))
    stack = ensemble.stack([net, net])
    train = Split(torch.randn(5, 4), torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"loss must return shape \(\), .* got \(5,\)"):
        training.fit(net, train, epochs=1, loss=lambda z, _: z.sum(-1))  # one an image
    with pytest.raises(ValueError, match=r"loss must return shape \(2,\), .* got \(\)"):
        training.fit(stack, train, epochs=1, loss=lambda z, _: z.mean())  # one for all networks
    assert torch.equal(stack.fc1.weight[0], net.fc1.weight)


def test_a_checkpoint_of_another_run_is_refused(tmp_path, toy):
    training.fit(build_mlp(0), toy[0], epochs=1, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match=r"checkpoint .* belongs to a run with .*expected"):
        training.fit(build_mlp(0), toy[0], epochs=2, checkpoint=tmp_path / "c")


def test_evaluate_counts_and_restores_the_mode():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 1.0]])
    split = Split(logits, torch.tensor([0, 1, 1]))
    model = nn.Identity()
    model.train()
    assert training.evaluate(model, split, batch_size=2).item() == pytest.approx(200 / 3)
    assert model.training
    model.eval()
    training.evaluate(model, split)
    assert not model.training
    mixed = nn.Sequential(nn.Identity(), nn.Dropout().eval())
    training.evaluate(mixed, split)
    assert mixed.training and mixed[0].training and not mixed[1].training


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epochs": 0}, "epochs must be a positive integer, got 0"),
        ({"epochs": 1, "batch_size": 2.5}, "batch_size must be a positive integer, got 2.5"),
        ({"epochs": 1, "every": True}, "every must be a positive integer, got True"),
    ],
)
def test_bad_counts(arguments, words):
    train = Split(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=words):
        training.fit(models.mlp((4, 2)), train, **arguments)


def test_bad_split():
    net = models.mlp((4, 2))
    before = net.fc1.weight.clone()
    with pytest.raises(ValueError, match=r"train must hold as many images as labels.*\(3,\)"):
        training.fit(net, Split(torch.zeros(2, 4), torch.zeros(3, dtype=torch.long)), epochs=1)
    assert torch.equal(net.fc1.weight, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_agrees_with_the_cpu(toy):
    train, test = toy
    nets = [build_mlp(s) for s in range(3)]
    here, there = ensemble.stack(nets), ensemble.stack(nets).cuda()
    for stack, split in ((here, train), (there, train.to("cuda"))):
        optimizer = training.sgd(stack)
        keep = masks.stack([allocate.globally(criteria.magnitude(n), 0.5) for n in nets])
        masks.hold(optimizer, stack, keep)
        training.fit(stack, split, epochs=2, optimizer=optimizer)
    torch.testing.assert_close(there.fc1.weight.cpu(), here.fc1.weight, rtol=1e-6, atol=1e-8)
    assert training.evaluate(there, test.to("cuda")).tolist() == pytest.approx(
        training.evaluate(here, test).tolist(), abs=1
    )


def test_validation_is_measured_on_time_and_changes_nothing(toy):
    """The losses and the best weights are those of trainings that stop at each of the steps."""
    train, valid = toy
    valid = Split(valid.x, (valid.y + 1) % 10)  # whoever learns does worse: the lowest comes early
    for stacked in (False, True):

        def fresh(stacked=stacked):
            return ensemble.stack([build_mlp(s) for s in (0, 1)]) if stacked else build_mlp(0)

        quiet, watched = fresh(), fresh()
        training.fit(quiet, train, epochs=6)
        history = training.fit(watched, train, epochs=6, valid=valid, every=5)
        for name, p in quiet.named_parameters():
            assert torch.equal(p, watched.get_parameter(name))
        assert history.measured == [5, 10, 15, 20]  # of 24 steps, four an epoch
        stopped = []
        for step, found in zip(history.measured, history.valid_loss, strict=True):
            model = fresh()
            training.fit(model, train, epochs=6, last=step)
            logits = model(valid.x)
            if stacked:
                expected = torch.stack([nn.functional.cross_entropy(z, valid.y) for z in logits])
            else:
                expected = nn.functional.cross_entropy(logits, valid.y)
            torch.testing.assert_close(found, expected)
            stopped.append(model.state_dict())
        losses = torch.stack(history.valid_loss)
        assert (losses.argmin(0) < 3).all()
        assert torch.equal(history.early_stop, 5 * (losses.argmin(0) + 1))
        for name, value in history.best.items():
            best = losses.argmin(0)
            if stacked:
                expected = torch.stack([stopped[i][name][k] for k, i in enumerate(best)])
            else:
                expected = stopped[best][name]
            assert torch.equal(value, expected)


def test_the_best_is_the_first_of_the_lowest_and_never_nan():
    history = training.History(
        measured=[10, 20, 30, 40],
        valid_loss=[torch.tensor([v, w]) for v, w in ((3, 9), (1, float("nan")), (1, 8), (2, 8))],
    )
    assert history.early_stop.tolist() == [20, 30]
    with pytest.raises(ValueError, match="history must hold validation losses"):
        _ = training.History().early_stop


@pytest.mark.parametrize("cut", [1, 4, 5, 11])
def test_two_pieces_of_a_training_are_the_training(toy, cut, tmp_path):
    train, _ = toy
    whole, pieces = build_mlp(0), build_mlp(0)
    training.fit(whole, train, epochs=3)
    optimizer = training.sgd(pieces)
    first = training.fit(pieces, train, epochs=3, optimizer=optimizer, last=cut)
    assert len(first.loss) == -(-cut // 4)
    training.fit(pieces, train, epochs=3, optimizer=optimizer, first=cut, checkpoint=tmp_path / "c")
    for name, p in whole.named_parameters():
        assert torch.equal(p, pieces.get_parameter(name))
    finished = build_mlp(1)
    training.fit(finished, train, epochs=3, first=cut, checkpoint=tmp_path / "c")
    for name, p in whole.named_parameters():
        assert torch.equal(p, finished.get_parameter(name))
    with pytest.raises(ValueError, match="belongs to a run with"):
        training.fit(build_mlp(0), train, epochs=3, checkpoint=tmp_path / "c")


@pytest.mark.parametrize(("first", "last"), [(12, None), (-1, None), (3, 3), (0, 13), (0, 0)])
def test_steps_outside_the_training_are_refused(toy, first, last):
    with pytest.raises(ValueError, match="first and last must be 0 <= first < last <= 12"):
        training.fit(build_mlp(0), toy[0], epochs=3, first=first, last=last)


# ---- awkward models: the same as a loop written by hand


class Twice(nn.Module):
    """One layer called twice, once by keyword, one layer never called, two layers that share."""

    def __init__(self):
        super().__init__()
        self.first, self.middle = nn.Linear(16, 8), nn.Linear(8, 8)
        self.tied, self.unused, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.tied.weight = self.middle.weight

    def forward(self, x):
        h = self.first(x.flatten(1)).relu()
        return self.last(self.tied(self.middle(input=self.middle(h)).relu()).relu())


class Shaped(nn.Module):
    """A parametrisation that mixes a tensor's entries."""

    def forward(self, x):
        return x - x.mean(0, keepdim=True) + x.abs().amax(-1, keepdim=True)


def awkward(name):
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    cnn = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2)),
        nn.ConvTranspose2d(4, 2, 2),
        nn.Flatten(),
        nn.Linear(18, 4),
    )
    if name == "parametrised":
        parametrize.register_parametrization(mlp[1], "weight", Shaped())
    elif name == "torch-pruned":
        prune.l1_unstructured(mlp[1], "weight", 0.5)
    elif name == "weight_norm by a hook":
        torch.nn.utils.weight_norm(mlp[1])
    elif name == "frozen layer":
        mlp[1].requires_grad_(False)
    elif name == "a slice of another tensor":
        mlp[1].weight = nn.Parameter(torch.randn(8, 32)[:, ::2])
    elif name in ("float16", "bfloat16", "float64"):
        mlp = mlp.to(getattr(torch, name))
    elif name == "compiled":
        mlp = torch.compile(mlp, backend="eager")
    elif name == "twice":
        return Twice()
    elif name == "channels last":
        return cnn.to(memory_format=torch.channels_last)
    elif name == "convolutions":
        return cnn
    return mlp


def by_hand(net, train, *, epochs):
    """Another loop in plain torch: cross-entropy, momentum written out, no optimizer."""
    order, velocity = torch.Generator().manual_seed(0), {}
    steps = -(-len(train.y) // 10)
    net.train()
    for epoch in range(epochs):
        for i, batch in enumerate(torch.randperm(len(train.y), generator=order).split(10)):
            net.zero_grad()
            nn.functional.cross_entropy(net(train.x[batch]), train.y[batch]).backward()
            rate = 0.1 * (1 - (epoch * steps + i) / (epochs * steps))
            for name, p in net.named_parameters():
                if p.grad is not None:
                    velocity[name] = 0.9 * velocity.get(name, 0) + p.grad
                    p.data = p.data - rate * velocity[name]


KINDS = [
    "parametrised",
    "torch-pruned",
    "weight_norm by a hook",
    "frozen layer",
    "a slice of another tensor",
    "float16",
    "bfloat16",
    "float64",
    "compiled",
    "twice",
    "convolutions",
    "channels last",
]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("kind", KINDS)
def test_awkward_models_train_as_in_a_loop_written_by_hand(kind):
    train = little(37)
    ours, theirs = awkward(kind), awkward(kind)
    dtype = next(ours.parameters()).dtype
    train = Split(train.x.to(dtype), train.y)
    training.fit(ours, train, epochs=3, batch_size=10)
    by_hand(theirs, train, epochs=3)
    close = {"atol": 2e-2, "rtol": 2e-2} if dtype.itemsize == 2 else {"atol": 1e-5, "rtol": 1e-4}
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}", **close)
    if kind == "frozen layer":
        assert torch.equal(ours[1].weight, awkward(kind)[1].weight)
    if kind == "twice":
        assert ours.tied.weight is ours.middle.weight


def little(n=37, seed=0):
    """A few small random images in four classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 4, 4, generator=generator)
    return Split(x, torch.randint(4, (n,), generator=generator))


# ---- interruptions


class Noise(nn.Module):
    """A weight that is noisy in training."""

    def forward(self, w):
        return w + 0.1 * torch.randn_like(w) if self.training else w


def dropping(seed=0):
    layers = models.mlp((16, 12, 4), seed=seed)
    return nn.Sequential(*layers[:2], nn.ReLU(), nn.Dropout(0.3), layers[3])


def noisy(seed=0):
    net = models.mlp((16, 12, 4), seed=seed)
    parametrize.register_parametrization(net.fc1, "weight", Noise())
    return net


def normalised(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


def adam(net):
    return torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-3)


def holding(net):
    optimizer = training.sgd(net)
    masks.hold(optimizer, net, allocate.globally(criteria.magnitude(net), 0.5))
    return optimizer


# name -> (how to build the model, how to make its optimizer, what else the plan says)
RUNS = {
    "dropout": (dropping, training.sgd, {}),
    "noise": (noisy, training.sgd, {}),
    "batch norm": (normalised, adam, {}),
    "masks held": (lambda: models.mlp((16, 12, 4)), holding, {}),
    "stack": (lambda: ensemble.stack([dropping(s) for s in range(2)]), training.sgd, {}),
    "stack of MLPs": (
        lambda: ensemble.stack([models.mlp((16, 12, 4), seed=s) for s in range(2)]),
        training.sgd,
        {},
    ),
    "start": (dropping, training.sgd, {"start": dropping(3).state_dict()}),
    "from a step on": (dropping, adam, {"first": 6, "last": 14}),
}
# what is interrupted, at which of its calls, and whether the same model and optimizer go on
PLACES = [
    ("step", 0, "same"),
    ("step", 2, "fresh"),
    ("step", 6, "same"),
    ("step", 7, "fresh"),
    ("loss", 0, "same"),
    ("loss", 5, "fresh"),
    ("evaluate", 0, "same"),
    ("evaluate", 1, "fresh"),
    ("mean_loss", 1, "same"),
    ("save", 0, "same"),
    ("save", 1, "fresh"),
    ("save", 2, "same"),
    ("replace", 0, "fresh"),
    ("replace", 1, "same"),
]


def stopping(monkeypatch, owner, name, call):
    """Let the given call of a function end by Ctrl-C: half of them before it, half after."""
    function, calls = getattr(owner, name), iter(range(10_000))

    def stopped(*args, **kwargs):
        number = next(calls)
        if number == call and call % 2:
            raise KeyboardInterrupt
        result = function(*args, **kwargs)
        if number == call:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, name, stopped)


@pytest.mark.parametrize(("place", "call", "again"), PLACES)
@pytest.mark.parametrize("run", RUNS)
def test_whatever_is_interrupted_goes_on_bit_for_bit(
    tmp_path, monkeypatch, run, place, call, again
):
    build, make, changes = RUNS[run]
    train, test = little(37), little(20, seed=1)
    own_loss = None
    if place == "loss":
        own_loss = lambda logits, positions: training.cross_entropy(logits, train.y[positions])
    losses = types.SimpleNamespace(loss=own_loss)

    def fit(net, optimizer, file):
        plan = training.Plan(
            epochs=4, batch_size=10, optimizer=optimizer, valid=test, every=3, seed=2, **changes
        )
        loss = own_loss and (lambda *a: losses.loss(*a))
        return training.fit(net, train, plan, test=test, checkpoint=tmp_path / file, loss=loss)

    whole = build()
    expected = fit(whole, make(whole), "whole")
    net = build().eval()
    optimizer = make(net)
    noise = torch.get_rng_state()
    with monkeypatch.context() as patch:
        if place == "step":
            steps = iter(range(1000))

            def stop(*_):
                if next(steps) == call:
                    raise KeyboardInterrupt

            handle = optimizer.register_step_post_hook(stop)
        elif place == "loss":
            stopping(patch, losses, "loss", call)
        else:
            owner = {"save": torch, "replace": os}.get(place, training)
            stopping(patch, owner, place, call)
        with pytest.raises(KeyboardInterrupt):
            fit(net, optimizer, "cut")
    if place == "step":
        handle.remove()
    assert torch.equal(torch.get_rng_state(), noise)
    assert optimizer.param_groups[0]["lr"] == make(build()).param_groups[0]["lr"]
    assert not any(module.training for module in net.modules())
    assert not list(tmp_path.glob("*.part"))
    if again == "fresh":
        net = build()
        optimizer = make(net)
    got = fit(net, optimizer, "cut")
    for name, value in whole.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name
    assert got.measured == expected.measured
    for ours, theirs in (
        (got.loss, expected.loss),
        (got.accuracy, expected.accuracy),
        (got.valid_loss, expected.valid_loss),
        (got.best.values(), expected.best.values()),
    ):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("build", [dropping, noisy])
def test_noise_follows_the_plan_and_not_the_caller(build):
    """Also across two pieces, and whatever is measured or drawn between the steps."""
    train, test = little(37), little(20, seed=1)
    expected, pieces, other = build(), build(), build()
    training.fit(expected, train, epochs=4, batch_size=10, seed=5)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    optimizer = training.sgd(pieces)
    how = {"epochs": 4, "batch_size": 10, "optimizer": optimizer, "valid": test, "every": 2}
    training.fit(pieces, train, last=7, seed=5, **how)
    training.fit(pieces, train, first=7, seed=5, **how)
    assert torch.equal(torch.get_rng_state(), before)
    training.fit(other, train, epochs=4, batch_size=10, seed=6)
    for a, b, c in zip(expected.parameters(), pieces.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)


def test_every_step_and_every_seed_has_noise_of_its_own():
    drawn = []

    class Drawing(nn.Linear):
        def forward(self, x):
            if self.training:
                drawn.append(float(torch.rand((), dtype=torch.float64)))
            return super().forward(x.flatten(1))

    for seed in (0, 1):
        training.fit(Drawing(16, 4), little(37), epochs=3, batch_size=10, seed=seed)
    assert len(drawn) == len(set(drawn)) == 2 * 3 * 4


@pytest.mark.parametrize("training_mode", [True, False])
def test_modes_are_put_back(training_mode):
    net = dropping().train(training_mode)
    net[3].eval()
    training.fit(net, little(), epochs=1, batch_size=10)
    assert net.training == training_mode and not net[3].training


# ---- checkpoints of another run, or of none


def unchanged(net, optimizer, state, hidden):
    assert all(torch.equal(v, state[n]) for n, v in net.state_dict().items())
    assert repr(optimizer.state_dict()) == hidden


def two_groups(net):
    bodies, head = list(net[1].parameters()), list(net[3].parameters())
    return torch.optim.SGD([{"params": bodies}, {"params": head}], lr=0.1, momentum=0.9, fused=True)


def backwards(net):
    return torch.optim.SGD(
        list(net.parameters())[::-1], lr=0.1, momentum=0.9, weight_decay=0.0, fused=True
    )


def square(seed=0, middle=()):
    return models.mlp((16, 16, *middle, 16), seed=seed)


@pytest.mark.parametrize(
    ("build", "make", "changes"),
    [
        (lambda: square(middle=[16]), training.sgd, {}),
        (lambda: models.mlp((16, 8, 16)), training.sgd, {}),
        (lambda: square().double(), training.sgd, {}),
        (square, adam, {}),
        (square, lambda net: training.sgd(net, lr=0.01), {}),
        (square, lambda net: training.sgd(net, momentum=0.5), {}),
        (square, lambda net: training.sgd(net, weight_decay=0.1), {}),
        (square, two_groups, {}),
        (square, backwards, {}),
        (square, training.sgd, {"epochs": 3}),
        (square, training.sgd, {"batch_size": 5}),
        (square, training.sgd, {"seed": 1}),
        (square, training.sgd, {"first": 1}),
        (square, training.sgd, {"last": 5}),
        (square, training.sgd, {"valid": little(9)}),
        (square, training.sgd, {"start": square(1).state_dict()}),
    ],
)
def test_a_checkpoint_of_another_run_changes_nothing(tmp_path, build, make, changes):
    file, train = tmp_path / "c.pt", little()
    training.fit(square(), train, epochs=2, batch_size=10, checkpoint=file)
    before = file.read_bytes()
    net = build()
    optimizer = make(net)
    state, hidden = training.snapshot(net), repr(optimizer.state_dict())
    own = Split(train.x.to(net.fc1.weight.dtype), train.y)
    plan = {"epochs": 2, "batch_size": 10, "optimizer": optimizer, **changes}
    with pytest.raises(ValueError, match=r"checkpoint '.*c\.pt'"):
        training.fit(net, own, checkpoint=file, **plan)
    unchanged(net, optimizer, state, hidden)
    assert file.read_bytes() == before


@pytest.mark.parametrize("part", ["x", "y"])
def test_a_checkpoint_of_other_images_is_refused(tmp_path, part):
    train = little()
    training.fit(square(), train, epochs=2, checkpoint=tmp_path / "c")
    other = train._replace(**{part: getattr(train, part).flip(0)})
    with pytest.raises(ValueError, match="belongs to a run with .*checksum of train"):
        training.fit(square(), other, epochs=2, checkpoint=tmp_path / "c")
    how = {"epochs": 2, "checkpoint": tmp_path / "d"}
    training.fit(square(), train, valid=train, **how)
    with pytest.raises(ValueError, match="belongs to a run with .*checksum of valid"):
        training.fit(square(), train, valid=other, **how)


@pytest.mark.parametrize(
    "damage", ["empty", "text", "head", "cut", "half", "list", "state", "folder"]
)
def test_a_damaged_checkpoint_is_named_and_changes_nothing(tmp_path, damage):
    file = tmp_path / "c.pt"
    training.fit(square(), little(), epochs=2, checkpoint=file)
    whole = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage in ("list", "state"):
        torch.save([1] if damage == "list" else square().state_dict(), file)
    else:
        cut = {"empty": 0, "head": 100, "half": len(whole) // 2, "cut": -5}
        file.write_bytes(b"hello" if damage == "text" else whole[: cut[damage]])
    net = square(1)
    optimizer = training.sgd(net)
    state, hidden = training.snapshot(net), repr(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"checkpoint '.*c\.pt'"):
        training.fit(net, little(), epochs=2, optimizer=optimizer, checkpoint=file)
    unchanged(net, optimizer, state, hidden)


def test_a_checkpoint_needs_a_folder(tmp_path):
    net = square()
    with pytest.raises(ValueError, match="checkpoint must lie in a folder that exists"):
        training.fit(
            net, little(), epochs=1, start=square(1).state_dict(), checkpoint=tmp_path / "a/b"
        )
    assert torch.equal(net.fc1.weight, square().fc1.weight)


def test_a_checkpoint_goes_on_in_another_memory_layout(tmp_path):
    """torch's fused SGD takes for granted that momentum lies in memory as its weight does."""
    build, train = models.small_cnn, data.load("glyphs", n_train=60, n_test=1)[0]
    how = {"epochs": 2, "batch_size": 20, "checkpoint": tmp_path / "c"}
    whole, cut = build(width=0.5), build(width=0.5)
    training.fit(whole, train, epochs=2, batch_size=20)
    optimizer, steps = training.sgd(cut), iter(range(100))
    optimizer.register_step_post_hook(lambda *_: 1 / (4 - next(steps)))  # in the second epoch
    with pytest.raises(ZeroDivisionError):
        training.fit(cut, train, optimizer=optimizer, **how)
    last = build(width=0.5).to(memory_format=torch.channels_last)
    training.fit(last, train, **how)
    for a, b in zip(whole.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# ---- what cannot be trained is refused, and nothing has moved


class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(x.flatten(1)).flatten()


class Pair(Squeezed):
    def forward(self, x):
        return self.fc(x.flatten(1)), x


def frozen():
    return models.mlp((16, 4)).requires_grad_(False)


def lbfgs(net):
    return torch.optim.LBFGS(net.parameters())


GOOD = little(20)
MLP = lambda: models.mlp((16, 8, 4))


@pytest.mark.parametrize(
    ("build", "train", "changes", "words"),
    [
        (nn.Flatten, GOOD, {}, "model must have a parameter that requires a gradient, got none"),
        (frozen, GOOD, {}, "model must have a parameter that requires a gradient, got none"),
        (Squeezed, GOOD, {}, r"model must give logits of shape \(batch, classes\).*got \(\d+,\)"),
        (Pair, GOOD, {}, "model must give logits .*got tuple"),
        (
            normalised,
            little(21),
            {"batch_size": 10},
            "batch_size must not leave a minibatch of one",
        ),
        (normalised, little(5), {"batch_size": 1}, "batch_size must not leave a minibatch of one"),
        (MLP, Split(GOOD.x[:, :, 1:], GOOD.y), {}, "train.x must fit the model"),
        (MLP, Split(GOOD.x[0, 0, 0, 0], GOOD.y), {}, "train must hold as many images as labels"),
        (MLP, Split((9 * GOOD.x).byte(), GOOD.y), {}, "train.x must fit the model.*uint8"),
        (MLP, Split(GOOD.x.double(), GOOD.y), {}, "train.x must fit the model.*float64"),
        (MLP, Split(GOOD.x[:0], GOOD.y[:0]), {}, "train must hold .*at least one"),
        (MLP, Split(GOOD.x / 0, GOOD.y), {}, "train.x must be finite"),
        (MLP, Split(GOOD.x, GOOD.y.int()), {}, "train must have labels .*torch.int32"),
        (MLP, Split(GOOD.x, GOOD.y.float()), {}, "train must have labels .*torch.float32"),
        (MLP, Split(GOOD.x, GOOD.y[:, None]), {}, r"train must have labels .*\(20, 1\)"),
        (MLP, Split(GOOD.x, GOOD.y - 1), {}, "train must have labels from 0 to 3.* got -1 to"),
        (MLP, Split(GOOD.x, GOOD.y + 1), {}, "train must have labels from 0 to 3.* to 4"),
        (MLP, GOOD, {"test": Split(GOOD.x[:0], GOOD.y[:0])}, "test must hold .*at least one"),
        (MLP, GOOD, {"test": Split(GOOD.x, GOOD.y + 9)}, "test must have labels from 0 to 3"),
        (MLP, GOOD, {"test": Split(GOOD.x[..., 1:], GOOD.y)}, "test.x must fit the model"),
        (MLP, GOOD, {"valid": Split(GOOD.x[:0], GOOD.y[:0])}, "valid must hold .*at least one"),
        (MLP, GOOD, {"valid": Split(GOOD.x, GOOD.y - 9)}, "valid must have labels from 0 to 3"),
        (MLP, GOOD, {"optimizer": lbfgs}, "optimizer must step without a closure, got LBFGS"),
        (
            MLP,
            GOOD,
            {"optimizer": training.sgd(MLP())},
            "optimizer must train parameters of model, got those of another",
        ),
        (
            MLP,
            GOOD,
            {"schedule": lambda t: -1.0},
            "schedule at step 0 must be finite and not negative, got -1",
        ),
        (
            MLP,
            GOOD,
            {"schedule": lambda t: float("nan")},
            "schedule at step 0 must be finite and not negative",
        ),
        (MLP, GOOD, {"start": {}}, "start must be a state_dict of model, but 'fc1.weight' must be"),
        (MLP, GOOD, {"start": MLP().half().state_dict()}, "start must be .*float32.*float16"),
        (MLP, GOOD, {"first": 0.5}, "first and last must be"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_has_moved(build, train, changes, words):
    net = build()
    state, modes = training.snapshot(net), [m.training for m in net.modules()]
    with pytest.raises(ValueError, match=words):
        training.fit(net, train, **{"epochs": 2, **changes})
    assert all(torch.equal(v, state[n]) for n, v in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes


@pytest.mark.parametrize(
    ("train", "changes", "words"),
    [
        ((GOOD.x, GOOD.y), {}, "train must be a data.Split of two tensors, got tuple"),
        (Split(GOOD.x, GOOD.y.tolist()), {}, "train must be a data.Split of two tensors"),
        (GOOD, {"seed": 0.5}, "seed must be an integer, got 0.5"),
        (GOOD, {"start": MLP()}, "start must be a state_dict of model, got Sequential"),
        (
            GOOD,
            {"optimizer": lambda net: None},
            "optimizer must make a torch optimizer, got NoneType",
        ),
        (GOOD, {"epoch": 3}, "'epoch' is no field of Plan, which has epochs, schedule"),
        (GOOD, {"plan": 3}, "plan must be a training.Plan, got 3"),
    ],
)
def test_types_that_make_no_plan_are_refused(train, changes, words):
    net = MLP()
    with pytest.raises(TypeError, match=words):
        training.fit(net, train, **{"epochs": 2, **changes})
    assert torch.equal(net.fc1.weight, MLP().fc1.weight)


def test_epochs_must_be_said():
    with pytest.raises(ValueError, match="plan must say how many epochs"):
        training.fit(MLP(), GOOD)


def test_fields_by_name_change_the_plan():
    plan = training.Plan(epochs=9, batch_size=7, seed=3)
    ours, theirs = MLP(), MLP()
    training.fit(ours, GOOD, plan, epochs=1)
    training.fit(theirs, GOOD, epochs=1, batch_size=7, seed=3)
    assert torch.equal(ours.fc1.weight, theirs.fc1.weight) and plan.epochs == 9


def test_batch_norm_may_see_one_image_where_it_has_many_numbers_per_channel():
    net = models.vgg(width=0.2)
    means = net.block1[1].running_mean.clone()
    train, _ = data.load("glyphs", n_train=11, n_test=1)
    training.fit(net, train, epochs=1, batch_size=10)
    assert not torch.equal(net.block1[1].running_mean, means)


def test_a_frozen_batch_norm_is_asked_and_left_alone():
    """To find out whether one image is enough, fit runs the model; its running means stay."""
    net = normalised()
    state = training.snapshot(net)
    with pytest.raises(ValueError, match="batch_size must not leave"):
        training.fit(net, little(11), epochs=1, batch_size=10)
    assert all(torch.equal(v, state[n]) for n, v in net.state_dict().items())


@pytest.mark.parametrize("measure", [training.evaluate, training.mean_loss])
def test_what_cannot_be_measured_is_refused(measure):
    net = MLP().eval()
    for split, words in (
        (Split(GOOD.x[:0], GOOD.y[:0]), "must hold .*at least one"),
        (Split(GOOD.x[..., 1:], GOOD.y), ".x must fit the model"),
        (Split(GOOD.x / 0, GOOD.y), "must be finite"),
        (Split(GOOD.x, GOOD.y.float()), "must have labels .*float32"),
        (Split(GOOD.x, GOOD.y + 4), "must have labels from 0 to 3"),
    ):
        with pytest.raises(ValueError, match=words):
            measure(net, split)
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got 0"):
        measure(net, GOOD, batch_size=0)
    assert not net.training


def test_nan_is_never_the_best():
    """A loss that is NaN at first and finite later: the later weights are the best."""
    net = MLP()
    start = training.snapshot(net)
    with torch.no_grad():
        net.fc2.bias.fill_(torch.nan)
    optimizer = training.sgd(net)
    mended = iter([0] + [1] * 100)

    def mend(*_):
        if next(mended):
            with torch.no_grad():
                for name, p in net.named_parameters():
                    p.copy_(start[name])

    optimizer.register_step_post_hook(mend)
    history = training.fit(net, GOOD, epochs=4, optimizer=optimizer, valid=GOOD, every=1)
    assert history.valid_loss[0].isnan() and history.early_stop == 2
    assert all(torch.equal(v, start[n]) for n, v in history.best.items())
