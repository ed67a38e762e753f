"""Files: whole or not there, refused by name when damaged, read onto the device that is there."""

import os
import pickle

import pytest
import torch

from course_lib import files


def test_what_is_saved_is_loaded(tmp_path):
    state = {"a": torch.rand(3, 2), "b": [1, "two", (3.0, None)], "c": {"d": torch.tensor(True)}}
    files.save(tmp_path / "s.pt", state)
    got = files.load("state", str(tmp_path / "s.pt"))
    assert torch.equal(got["a"], state["a"]) and torch.equal(got["c"]["d"], state["c"]["d"])
    assert got["b"] == state["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["s.pt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / "f"
    files.write(path, b"old")

    def stopped(*_):
        assert path.read_bytes() == b"old"  # the new bytes are not in its place yet
        raise error

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(error):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("cut", [0, 1, 30, 100, 700, -1000, -100, -5])
def test_a_cut_off_file_is_named(tmp_path, cut):
    path = tmp_path / "s.pt"
    files.save(path, {"a": torch.rand(100)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"state '.*s\.pt' cannot be read"):
        files.load("state", path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_other_files_are_named(tmp_path):
    path = tmp_path / "s.pt"
    for data in (b"hello", b"\x80\x04", b"PK\x03\x04" + bytes(100), bytes(1000)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"state '.*s\.pt' cannot be read"):
            files.load("state", path)
    with pytest.raises(FileNotFoundError):
        files.load("state", tmp_path / "none.pt")


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "write", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))]
)
def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "s.pt"
    write(Trap(), path)
    with pytest.raises(ValueError, match=r"state '.*s\.pt' cannot be read"):
        files.load("state", path)
    assert not (tmp_path / "trapped").exists()


def test_tensors_of_a_device_that_is_not_there_are_read_onto_one_that_is(tmp_path):
    """As a file written on a GPU is read without one: torch is told of a device that only saves."""
    saving = [True]

    def tag(storage):
        return "faraway" if saving[0] else None

    def restore(storage, location):
        if location.startswith("faraway"):
            raise RuntimeError("attempting to deserialize on a device that is not there")

    torch.serialization.register_package(-1000, tag, restore)
    files.save(tmp_path / "s.pt", {"a": torch.arange(3)})
    saving[0] = False
    with pytest.raises(RuntimeError, match="not there"):  # the file does ask for it
        torch.load(tmp_path / "s.pt", weights_only=True)
    assert files.load("state", tmp_path / "s.pt")["a"].tolist() == [0, 1, 2]
    assert files.load("state", tmp_path / "s.pt", "meta")["a"].device.type == "meta"
