"""What is missing is named, with the command that installs it; tests/test_package.py imports the core."""

import sys

import pytest

from course_lib.extras import lessons


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    needed = r'^scipy is missing: pip install "course_lib\[lessons\]"$'
    with pytest.raises(ImportError, match=needed), lessons():
        import scipy  # noqa: F401


def test_other_errors_pass():
    with pytest.raises(ImportError, match="cannot import name"), lessons():
        from math import no_such_name  # noqa: F401
