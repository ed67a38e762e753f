"""Language models: the recipe against hand-written steps, and the models that come with the course."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_lib import data, language, measure, models, training
from course_lib.pruning import allocate, criteria

RECORD = Path(__file__).parents[1] / "book/reproductions/long_language_checkpoints.json"


@pytest.fixture(scope="module")
def text():
    return data.Grammar(0).sample(40, 8, seed=1)


def small(seed=0):
    return models.tiny_transformer(94, width=8, blocks=1, heads=2, context=8, seed=seed)


@pytest.fixture(scope="module")
def recorded():
    table = json.loads(RECORD.read_text(encoding="utf-8"))["table"]
    return {row["quantity"]: row["ours"] for row in table}


def test_the_recipe_step_by_step(text):
    model, plain = small(), small()
    model.words.weight.data *= 30  # steep enough for the gradient to be cut
    plain.load_state_dict(model.state_dict())
    language.train(model, text, steps=4, seed=3, rate=0.5)
    made = torch.optim.AdamW(plain.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    order = torch.Generator().manual_seed(3)
    rows = [
        *torch.randperm(40, generator=order).split(16),
        torch.randperm(40, generator=order)[:16],
    ]
    norms = []
    for step, chosen in enumerate(rows):
        made.param_groups[0]["lr"] = 0.5 * min((step + 1) / 20, 1 - step / 4)
        made.zero_grad()
        logits = plain(text.tokens[chosen, :-1])
        F.cross_entropy(logits.transpose(1, 2), text.tokens[chosen, 1:]).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0).item())
        made.step()
    assert max(norms) > 1
    # Not the weights: the bias of the keys moves nothing, so its gradient is nothing but rounding.
    assert torch.allclose(
        model(text.tokens[:, :-1]), plain(text.tokens[:, :-1]), rtol=1e-3, atol=1e-3
    )


def test_rate_rises_falls_and_ends_where_the_steps_end(text, monkeypatch):
    plans = []
    monkeypatch.setattr(training, "fit", lambda model, split, plan: plans.append(plan))
    language.train(small(), text, steps=100, rate=0.3)  # of 34 epochs of 3 steps
    (plan,) = plans
    factors = [plan.schedule(step / 102) for step in range(100)]
    assert factors[:16] == pytest.approx([(s + 1) / 20 for s in range(16)])
    assert factors[16:] == pytest.approx([1 - s / 100 for s in range(16, 100)])
    assert (plan.epochs, plan.last, plan.batch_size) == (34, 100, 16)


def test_what_masks_remove_stays_zero(text):
    model = small()
    keep = allocate.per_layer(criteria.magnitude(model), 0.75)
    language.train(model, text, steps=3, keep=keep)
    for name, mask in keep.items():
        weight = model.get_parameter(name)
        assert torch.equal(weight != 0, mask)


def test_training_learns_and_leaves_the_global_generator_alone(text):
    model = small()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    before = measure.nats(model, text)
    language.train(model, text, steps=60)
    assert measure.nats(model, text) < before - 1
    assert torch.equal(torch.get_rng_state(), state)


def test_every_shipped_model_has_the_recorded_loss(recorded, monkeypatch):
    monkeypatch.setattr(language, "TRAIN", 1)  # the text to test on does not hang on it
    for seed in range(5):
        _, test = language.texts(seed)
        for width in language.WIDTHS:
            assert (language.HERE / f"{width}-{seed}.npz").exists()
            nats = measure.nats(language.trained(seed, width=width), test)
            assert nats == pytest.approx(recorded[f"width {width}: nats"][seed], abs=1e-4)
            floor = recorded[f"width {width}: floor"][seed]
            assert -test.log_p.mean().item() == pytest.approx(floor, abs=1e-6)
            assert floor < nats < floor + 0.2


def test_shipped_models_differ_and_are_the_callers_own():
    one, same, other = language.trained(0), language.trained(0), language.trained(1)
    one.words.weight.data.zero_()
    assert same.words.weight.any() and not torch.equal(same.words.weight, other.words.weight)
    assert same.words.weight.dtype == torch.float32
    assert measure.count_parameters(same) == 108_160
    assert [measure.count_parameters(language.trained(0, width=w)) for w in (48, 32)] == [
        62_688,
        29_504,
    ]


@pytest.mark.parametrize("offset", ["0", "3"])
def test_other_models_are_trained_once_and_kept(offset, tmp_path, monkeypatch):
    trained = []

    def train(model, text, **options):
        trained.append(options | {"first": text.tokens[0]})
        model.positions.weight.data.fill_(0.25)

    monkeypatch.setattr(language, "train", train)
    monkeypatch.setattr(language, "TRAIN", 20)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COURSE_OFFSET", offset)
    seed = 0 if offset == "3" else 77  # one that is shipped, if nothing shifts it
    first, again = language.trained(seed), language.trained(seed)
    (options,) = trained
    assert (options["steps"], options["seed"]) == (language.STEPS, seed)
    assert torch.equal(options["first"], language.texts(seed)[0].tokens[0])
    for model in (first, again):
        assert (model.positions.weight == 0.25).all()
    fresh = models.tiny_transformer(94, seed=seed)
    assert torch.equal(first.words.weight, fresh.words.weight.half().float())  # rounded as shipped
    language.trained(seed, width=32)
    assert len(trained) == 2 and len([*tmp_path.rglob("*.npz")]) == 2


def test_another_recipe_has_another_cache(tmp_path, monkeypatch):
    before = language._cache()
    changed = tmp_path / "data.py"
    changed.write_text("# changed")
    monkeypatch.setattr(data, "__file__", str(changed))
    assert language._cache() != before and language._cache().parent == before.parent


def test_files_hold_16_bits_and_no_objects():
    for path in language.HERE.glob("*.npz"):
        with np.load(path, allow_pickle=False) as stored:
            assert {stored[name].dtype for name in stored} == {np.dtype("float16")}
        assert path.stat().st_size < 240_000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: language.trained(0, width=50), "width must be one of 64, 48, 32, got 50"),
        (lambda t: language.trained(0, width=64.0), "width must be one of 64, 48, 32, got 64.0"),
        (lambda t: language.trained("0"), "seed must be an integer, got '0'"),
        (lambda t: language.texts(None), "seed must be an integer, got None"),
        (lambda t: language.train(small(), t, steps=0), "steps must be a positive integer, got 0"),
        (lambda t: language.train(small(), t, steps=1, rate=0), "rate must be positive"),
        (lambda t: language.train(small(), t.tokens, steps=1), "text must be a data.Text"),
        (
            lambda t: language.train(small(), data.Text(t.tokens[:0]), steps=1),
            "rows of at least two",
        ),
        (lambda t: language.train(models.mlp((8, 2)), t, steps=1), "must fit the model"),
        (lambda t: language.train(small(), t, steps=1, keep={"x": t.tokens > 0}), "'x'"),
    ],
)
def test_bad_input_is_refused(text, call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(text)
