"""Training: interruption, validation, evaluation. (tests/test_ensemble.py: stacks.)"""

from itertools import chain

import pytest
import torch
from torch import nn

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
