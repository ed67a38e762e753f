"""The leaderboard: what the grader measures, and forged files."""

import json
import os

import pytest
import torch
from safetensors.torch import load, save

from course_lib import data, files, measure, models, training
from course_lib.grading import batch, feedback, leaderboard
from course_lib.pruning import channels

from .submissions import notebook

EXAMPLE = torch.zeros(1, 1, 14, 14)
NET = models.inception()
GRAPH = channels.trace(NET, EXAMPLE)
DEAD = channels.weakest(GRAPH, torch.rand(100, generator=torch.Generator().manual_seed(0)), 0.5)
CUT = channels.remove(NET, GRAPH, DEAD)


def tensors(model=CUT, dead=DEAD):
    return {**model.state_dict(), "removed": torch.tensor(sorted(dead), dtype=torch.int64)}


def judged(tmp_path, content, seed=1):
    (tmp_path / leaderboard.FILE).write_bytes(content)
    return leaderboard.grade(tmp_path / leaderboard.FILE, seed)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(leaderboard, "FRESH", 500)
    leaderboard.fresh.cache_clear()
    yield
    leaderboard.fresh.cache_clear()


@pytest.fixture(scope="module")
def trained():
    train, _ = data.load("glyphs", n_train=2000, n_test=100)
    model = channels.remove(NET, GRAPH, DEAD)
    training.fit(model, train, epochs=4)
    return model


def test_the_grader_counts_and_measures_for_itself(few, trained, tmp_path):
    leaderboard.save(tmp_path / leaderboard.FILE, trained, DEAD)
    found = leaderboard.grade(tmp_path / leaderboard.FILE, 7)
    glyphs = leaderboard.fresh(7)
    right = (trained.eval()(glyphs.x).argmax(1) == glyphs.y).float().mean().item()
    assert found["card"]["accuracy"] == pytest.approx(100 * right, abs=1e-3)
    assert found["card"]["bytes"] == measure.bytes_dense(trained)
    assert found["card"]["macs"] == measure.macs(trained, EXAMPLE)
    assert found["public"] and found["hidden"] and found["property"] is None
    json.dumps(found)


def test_another_run_draws_other_digits(few):
    assert not torch.equal(leaderboard.fresh(1).x, leaderboard.fresh(2).x)
    assert torch.equal(leaderboard.fresh(1).x, leaderboard.fresh(1).x)


def test_an_untrained_network_has_no_point(few, tmp_path):
    found = judged(tmp_path, save(tensors()))
    assert found["public"] and found["hidden"] is False
    assert found["property"] == "is right on 90 % of fresh digits"


def test_half_precision_counts_half(few, trained, tmp_path):
    half = {n: t.half() if t.is_floating_point() else t for n, t in tensors(trained).items()}
    found = judged(tmp_path, save(half))
    whole = judged(tmp_path, save(tensors(trained)))
    assert found["card"]["bytes"] < 0.52 * whole["card"]["bytes"]
    assert abs(found["card"]["accuracy"] - whole["card"]["accuracy"]) < 1


def test_a_repaired_network_brings_biases(few):
    x = data.draw_glyphs(300).x
    repaired = channels.remove(channels.reconstruct(NET, GRAPH, DEAD, x), GRAPH, DEAD)
    model, size = leaderboard.read(save(tensors(repaired)))
    assert size == measure.bytes_dense(repaired) <= leaderboard.BUDGET
    torch.testing.assert_close(model(x), repaired.eval()(x))


def changed(**changes):
    """The entry with other tensors; None leaves one out."""
    found = tensors() | changes
    return save({name: t for name, t in found.items() if t is not None})


FC = CUT.state_dict()["fc.weight"]
VAR = CUT.state_dict()["stem.1.running_var"]
STRANGE = torch.tensor([*sorted(DEAD)[:-1], 10**6])
FORGED = {
    "no file at all": (b"", "cannot be read"),
    "a pickle": (b"\x80\x04\x95.", "cannot be read"),
    "cut off": (save(tensors())[:-50], "cannot be read"),
    "a header that lies": (b"\xff" * 8 + b"{}", "cannot be read"),
    "too large a file": (bytes(leaderboard.LARGEST + 1), "at most 100,000 are read"),
    "the whole network": (save(tensors(NET, ())), "at most 12,000 are allowed"),
    "no ids": (changed(removed=None), "must be a list of ids"),
    "ids as floats": (changed(removed=torch.tensor([1.0])), "must be a list of ids"),
    "an id that there is not": (changed(removed=STRANGE), "There is no channel 1000000"),
    "a negative id": (changed(removed=torch.tensor([-1])), "There is no channel -1"),
    "an output of the network": (
        changed(removed=torch.tensor([GRAPH.makes["fc"][0]])),
        "may be removed",
    ),
    "all of a layer": (
        changed(removed=torch.tensor(GRAPH.makes["block1.five.1.0"])),
        "has no channel left",
    ),
    "other ids than the shapes": (
        changed(removed=torch.tensor(sorted(DEAD)[1:])),
        "must have the shape",
    ),
    "a missing tensor": (changed(**{"fc.weight": None}), "has no 'fc.weight'"),
    "one tensor more": (changed(hidden=torch.ones(1)), "has no 'hidden'"),
    "a bias where none can be": (
        changed(**{"block9.0.bias": torch.ones(3)}),
        "has no 'block9.0.bias'",
    ),
    "a bias of another shape": (
        changed(**{"stem.0.bias": torch.ones(3)}),
        "must have the shape (8,)",
    ),
    "NaN": (changed(**{"fc.weight": FC * torch.nan}), "not finite"),
    "infinity": (changed(**{"fc.weight": FC / 0.0}), "not finite"),
    "a negative variance": (changed(**{"stem.1.running_var": -VAR}), "negative variance"),
    "float64": (changed(**{"fc.weight": FC.double()}), "not torch.float64"),
    "whole numbers": (changed(**{"fc.weight": FC.long()}), "not torch.int64"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_is_refused_by_what_is_wrong_with_it(few, tmp_path, name):
    content, words = FORGED[name]
    found = judged(tmp_path, content)
    assert not found["public"] and found["hidden"] is None and "card" not in found
    assert words in found["report"], found["report"]


def test_a_link_is_not_followed(tmp_path):
    files.write(tmp_path / "mine", save(tensors()))
    os.symlink(tmp_path / "mine", tmp_path / leaderboard.FILE)
    assert "links are not followed" in leaderboard.grade(tmp_path / leaderboard.FILE, 1)["report"]
    (tmp_path / "folder").mkdir()
    assert "not an ordinary file" in leaderboard.grade(tmp_path / "folder", 1)["report"]
    assert "There is no gone beside" in leaderboard.grade(tmp_path / "gone", 1)["report"]


def test_saving_refuses_what_the_grader_would_and_writes_nothing(tmp_path):
    with pytest.raises(leaderboard.Refused, match="must have the shape"):
        leaderboard.save(tmp_path / "entry", CUT, set(sorted(DEAD)[1:]))
    assert not list(tmp_path.iterdir())
    leaderboard.save(tmp_path / "entry", CUT, DEAD)
    assert load((tmp_path / "entry").read_bytes()).keys() == tensors().keys()


def test_large_numbers_lose_and_stop_nothing(few, tmp_path):
    content = changed(**{"fc.weight": torch.full_like(FC, 3e38)})
    assert judged(tmp_path, content)["hidden"] is False


def test_ranks_by_accuracy_then_bytes():
    cards = {
        "c": {"accuracy": 90.0, "bytes": 1},
        "b": {"accuracy": 95.0, "bytes": 9},
        "a": {"accuracy": 95.0, "bytes": 10},
    }
    assert leaderboard.ranked(cards) == ["b", "a", "c"]


def test_the_batch_grades_the_entry_beside_the_notebook(bwrap, few, trained, tmp_path, monkeypatch):
    """One student of two has an entry; a new entry is graded anew, and an old one is not."""
    monkeypatch.setattr(batch, "sandbox", lambda _: bwrap)
    answer = "def verdict(ours, theirs, margin, t): return 'open'"
    for student in ("ada", "bob"):
        folder = tmp_path / "submitted" / student / "practical"
        folder.mkdir(parents=True)
        (folder / "practical.ipynb").write_bytes(notebook(answer))
    entry = tmp_path / "submitted/ada/practical" / leaderboard.FILE
    leaderboard.save(entry, trained, DEAD)
    settings, results = batch.Settings("practical", 3), tmp_path / "results"

    def run(**options):
        wanted = batch.tasks(tmp_path / "submitted", "practical")
        return {r["student"]: r for r in batch.run(wanted, settings, results, **options)}

    found = run()
    part = found["ada"]["exercises"]["leaderboard"]
    assert part["card"] == leaderboard.grade(entry, 3)["card"]
    assert [batch.score(found[student]) for student in ("ada", "bob")] == [1, 0]
    assert "no entry.safetensors" in found["bob"]["exercises"]["leaderboard"]["report"]
    header, ada, bob = (results / "grades.csv").read_text().splitlines()
    assert "leaderboard.hidden" in header and ",10," in ada and ",10," in bob
    pages = feedback.overview([*found.values()])
    assert "<h2>Leaderboard</h2>" in pages and f"{part['card']['accuracy']:.2f}" in pages
    assert f"{part['card']['macs']:,} multiplications" in feedback.page(found["ada"])
    assert run(resume=True) == {}
    leaderboard.save(entry, CUT, DEAD)
    again = run(resume=True)
    assert [*again] == ["ada"] and batch.score(again["ada"]) == 0
