"""A sandbox for the tests: started once, as root through the user nobody, as anybody else as is."""

import os

import pytest

from course_lib.grading import sandbox

from ..conftest import missing

USER = "nobody" if os.geteuid() == 0 else None


@pytest.fixture(scope="session")
def user():
    """Yield whom the sandbox becomes: only root names a user."""
    return USER


def _box(wall):
    try:
        return sandbox.Sandbox(wall, user=USER, seconds=1)
    except sandbox.NoSandbox as error:
        missing(f"no sandbox {wall} here: {error}")


@pytest.fixture(scope="session", params=["bwrap", "landlock"])
def box(request):
    """Yield a sandbox, behind each wall in turn, whose forks may compute for one second."""
    with _box(request.param) as started:
        yield started


@pytest.fixture(scope="session")
def bwrap():
    """Yield the sandbox that is used where there is a choice."""
    with _box("bwrap") as started:
        yield started
