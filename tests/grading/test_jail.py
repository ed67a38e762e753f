"""The limits by themselves, in a process that sets them; what they stop is in test_sandbox.py."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib.grading import jail

from ..conftest import missing

CAN = {
    "Landlock": jail.landlock_version() > 0,
    "seccomp": platform.machine() == "x86_64",
}
FOLDER = str(Path(jail.__file__).parent)


def told(code):
    """What a fresh process prints that knows the module and nothing else of the course."""
    start = f"import sys; sys.path.insert(0, {FOLDER!r})\nimport jail, os, resource\n"
    return subprocess.run(
        [sys.executable, "-P", "-s", "-c", start + code],
        capture_output=True,
        text=True,
        check=False,
    )


def test_limits_hold_for_good():
    code = "jail.limits(3, 0.5)\nprint(resource.getrlimit(resource.RLIMIT_CPU), "
    code += "resource.getrlimit(resource.RLIMIT_DATA)[1] == 2**29)\nbytearray(10**9)"
    done = told(code)
    assert done.stdout == "(3, 3) True\n"
    assert "MemoryError" in done.stderr


def test_landlock_leaves_only_the_folders_named(tmp_path):
    if not CAN["Landlock"]:
        missing("this kernel has no Landlock")
    (tmp_path / "open").mkdir()
    for name in ("open/a", "b"):
        (tmp_path / name).write_text("x")
    code = f"os.chdir({str(tmp_path)!r})\njail.only_read(['open'])\n"
    code += "for name in ('open/a', 'b'):\n"
    code += "    try: print(open(name).read())\n    except OSError as error: print(error.errno)\n"
    code += "try: open('open/c', 'w')\nexcept OSError as error: print(error.errno)"
    assert told(code).stdout == "x\n13\n13\n"


def test_the_filter_leaves_what_computing_needs():
    if not CAN["seccomp"]:
        missing("the list of system calls is for x86-64")
    code = "jail.only_compute()\nprint(sum(map(len, os.listdir('/usr'))) > 0)\n"
    code += "try: os.fork()\nexcept OSError as error: print(error.errno)\n"
    code += "try: open('/dev/null', 'w')\nexcept OSError as error: print(error.errno)"
    assert told(code).stdout == "True\n1\n1\n"


def test_a_machine_without_a_list_is_refused(monkeypatch):
    monkeypatch.setattr(jail.platform, "machine", lambda: "sparc")
    with pytest.raises(jail.Unconfined, match="no list of system calls for sparc"):
        jail.only_compute()


def test_a_kernel_without_landlock_is_refused(monkeypatch):
    monkeypatch.setattr(jail, "landlock_version", lambda: 0)
    with pytest.raises(jail.Unconfined, match="no Landlock"):
        jail.only_read(["/usr"])
