"""The doctor says which wall holds, and it notices one that does not."""

import contextlib

from course_lib.grading import doctor, sandbox


def test_what_holds_and_what_does_not_is_said(monkeypatch, box):
    @contextlib.contextmanager
    def same_box(wall, **_):
        yield box

    monkeypatch.setattr(doctor, "Sandbox", same_box)
    found = doctor.examine()
    assert all(finding.holds for finding in found)
    assert str(found[0]).startswith("bwrap: holds; 11 ways out were tried and none led out.")
    monkeypatch.setitem(doctor.ATTEMPTS, "compute", "return 1 + 1")
    leaking = doctor.examine()[0]
    assert not leaking.holds
    assert str(leaking) == "bwrap: DOES NOT HOLD. Student code could compute."


def test_a_wall_that_does_not_stand_is_named_with_the_reason(monkeypatch):
    def none(wall, **_):
        raise sandbox.NoSandbox("it is not installed.")

    monkeypatch.setattr(doctor, "Sandbox", none)
    assert [str(finding) for finding in doctor.examine()] == [
        "bwrap: not usable. it is not installed.",
        "landlock: not usable. it is not installed.",
    ]
