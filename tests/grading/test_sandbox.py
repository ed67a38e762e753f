"""What a student's code can do behind each wall: compute. Each attack fails, and the next one is served.

The attacks are bounded, so that a wall that falls hurts no machine.
"""

import os
import subprocess
import sys
import time

import pytest
import torch

from course_lib.grading import jail, wire
from course_lib.grading import sandbox as module
from course_lib.grading.sandbox import Ended, NoSandbox, Sandbox, TimeUp

from ..conftest import missing


def ask(box, source, *args, name="f"):
    """What `f(*args)` does in a fork: ("returned", value), ("raised", words) or ("gone", error)."""
    with box.fork() as child:
        try:
            loaded = wire.unpack(*child.answer({"id": 0, "load": [[1, 1, source]]}))
            question = {"id": 1, "call": name, "args": list(args)}
            reply = wire.unpack(*child.answer(question))
        except (Ended, TimeUp, wire.Violation) as error:
            return "gone", error
        for kind in ("returned", "raised", "refused"):
            if kind in reply:
                return kind, reply[kind]
        return "strange", (loaded, reply)


def passed(box, source, *args):
    kind, value = ask(box, source, *args)
    assert kind == "returned", value
    return value


def alive(box):
    return ask(box, "def f(x): return x + 1", 1) == ("returned", 2)


def test_a_function_computes(box):
    value = passed(box, "def f(x):\n    return x.abs(), {'n': 3}", torch.tensor([-1.0]))
    assert value[0].tolist() == [1.0]
    assert value[1] == {"n": 3}


def test_gradients_linear_algebra_numpy_and_dataclasses_work(box):
    source = """
import numpy as np, torch, math, collections
from dataclasses import dataclass
@dataclass
class Pair:
    a: float
def f(x):
    x = x.clone().requires_grad_()
    (x ** 2).sum().backward()
    u, s, v = torch.linalg.svd(torch.eye(3) @ torch.ones(3, 3))
    assert np.linalg.norm(np.ones(4)) == 2 and Pair(1.0).a == math.cos(0)
    torch.manual_seed(3)
    torch.optim.SGD([x], lr=0.1).step()
    return x.grad, float(s[0])
"""
    grad, norm = passed(box, source, torch.ones(2))
    assert grad.tolist() == [2.0, 2.0]
    assert norm == pytest.approx(3.0, abs=1e-5)


# An attack is the body of a function. It returns or raises something that shows it was stopped.
# name -> (body, words in the error, or the value that shows that there was nothing to find)
STOPPED = {
    "a socket to the outside": ("import socket; socket.create_connection(('1.1.1.1', 80), 1)", "Error"),
    "a server on loopback": ("import socket; socket.socket().bind(('127.0.0.1', 0))", "PermissionError"),
    "UDP": (
        "import socket; socket.socket(2, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))",
        "PermissionError",
    ),
    "an abstract unix socket": (
        r"import socket; socket.socket(socket.AF_UNIX).connect('\0x')",
        "PermissionError",
    ),
    "a name look-up": ("import socket; socket.gethostbyname('example.org')", "rror"),
    "fork": ("import os; os.fork()", "PermissionError"),
    "a fork bomb": ("import os\n    for _ in range(50): os.fork()", "PermissionError"),
    "threads": ("import threading; threading.Thread(target=print).start()", "can't start new thread"),
    "a program": ("import subprocess; subprocess.run(['/usr/bin/id'])", "rror"),
    "exec": ("import os; os.execv('/usr/bin/id', ['id'])", "PermissionError"),
    "multiprocessing": ("import multiprocessing as m; m.Process(target=print).start()", "rror"),
    "kill the parent": ("import os; os.kill(os.getppid(), 9)", "PermissionError"),
    "kill everything": ("import os; os.kill(-1, 9)", "PermissionError"),
    "kill process 1": ("import os; os.kill(1, 9)", "PermissionError"),
    "write to the disk": ("open('/tmp/x', 'w').write('x' * 10**9)", "rror"),
    "append to a library": ("import torch; open(torch.__file__, 'a')", "rror"),
    "remove a library": ("import os, torch; os.remove(torch.__file__)", "rror"),
    "make a folder": ("import os; os.mkdir('/tmp/y')", "rror"),
    "many files": ("import tempfile\n    for _ in range(99): tempfile.mkstemp()", "rror"),
    "memory that is a file": ("import os; os.memfd_create('x')", "PermissionError"),
    "shared memory": ("import mmap; mmap.mmap(-1, 10**7)", "PermissionError"),
    "link": ("import os; os.symlink('/etc/passwd', '/tmp/z')", "rror"),
    "passwords": ("return open('/etc/shadow').read()", "rror"),
    "users": ("return open('/etc/passwd').read()", "rror"),
    "the grader's memory": ("return open(f'/proc/{__import__(\"os\").getppid()}/mem', 'rb').read(9)", "rror"),
    "the grader's environment": ("return open('/proc/1/environ', 'rb').read()", "rror"),
    "the reference": ("import course_lib.pruning", "rror"),
    "the tests": ("from tests.grading import answers", "No module named"),
    "the grader's code": ("import wire", "No module named 'wire'"),
    "the grader's module": ("import jail", "No module named 'jail'"),
    "a namespace": (("import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
        "    assert l.unshare(0x10000000) == 0, ctypes.get_errno()"), "AssertionError: 1"),
    "a mount": (("import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
        "    assert l.mount(b'/', b'/', b'', 4096, b'') == 0, ctypes.get_errno()"), "AssertionError: 1"),
    "ptrace": (("import ctypes, os; l = ctypes.CDLL(None, use_errno=True)\n"
        "    assert l.ptrace(16, os.getppid(), 0, 0) == 0, ctypes.get_errno()"), "AssertionError: 1"),
    "another's memory": (("import ctypes, os; l = ctypes.CDLL(None, use_errno=True)\n"
        "    assert l.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0) == 0, ctypes.get_errno()"),
        "AssertionError: 1"),
    "root again": ("import os; os.setuid(0)", "PermissionError"),
    "more memory": ("import resource as r; r.setrlimit(r.RLIMIT_DATA, (2**40, 2**40))", "rror"),
    "the parent's limits": ("import os, resource as r; r.prlimit(os.getppid(), r.RLIMIT_CPU, (1, 1))",
        "PermissionError"),
    "another seccomp filter": (("import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
        "    assert l.prctl(22, 0, 0, 0, 0) == 0, ctypes.get_errno()"), "AssertionError: 1"),
    "io_uring": (("import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
        "    assert l.syscall(425, 8, 0) >= 0, ctypes.get_errno()"), "AssertionError: 1"),
    "a 32-bit system call number": (("import ctypes; l = ctypes.CDLL(None, use_errno=True)\n"
        "    assert l.syscall(0x40000000 + 41, 2, 1, 0) >= 0, ctypes.get_errno()"), "AssertionError: 1"),
    "memory, in Python": ("return [0] * 10**10", "MemoryError"),
    "memory, in torch": ("import torch; return torch.ones(4 * 10**9).sum()", "can't allocate memory"),
    "memory, bit by bit": ("import torch; x = []\n    while True: x.append(torch.empty(10**8))", "can't allocate"),
    "exit": ("exit()", "SystemExit"),
    "sys.exit": ("import sys; sys.exit(3)", "SystemExit"),
    "endless recursion": ("return f(*x)", "RecursionError"),
}  # fmt: skip


@pytest.mark.parametrize("attack", STOPPED)
def test_attack_is_stopped(box, attack):
    body, words = STOPPED[attack]
    kind, found = ask(box, f"def f(*x):\n    {body}")
    assert kind == "raised", (kind, found)
    assert words in found["text"]
    assert alive(box)


DEADLY = {
    "os._exit": ("import os; os._exit(3)", "with exit code 3"),
    "a null pointer": ("import ctypes; ctypes.string_at(0)", "by signal 11"),
    "abort": ("import os; os.abort()", "by signal"),
    "the channel closed": ("import os; os.closerange(0, 64)", "by signal|with exit code"),
    "a frame that is too large": ("import os; os.write(CHANNEL, b'\\xff' * 8)", "too large"),
    "a frame of nonsense": (
        "import os; os.write(CHANNEL, b'\\0\\0\\0\\2\\0\\0\\0\\0xx')",
        "cannot be read",
    ),
    "half a frame": (
        "import os; os.write(CHANNEL, b'\\0\\0\\0\\2\\0'); os._exit(0)",
        "with exit code 0",
    ),
    "the recursion limit": (
        "import sys; sys.setrecursionlimit(10**9)\n    g = lambda n: sorted([n], key=g)\n    g(0)",
        "by signal 11",
    ),
}
CHANNEL = """
import os, stat
def _channels():
    for number in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode): yield number
        except OSError: pass
CHANNEL = next(_channels())
"""


@pytest.mark.parametrize("attack", DEADLY)
def test_attack_ends_its_own_process_only(box, attack):
    body, words = DEADLY[attack]
    kind, found = ask(box, f"{CHANNEL}\ndef f(*x):\n    {body}")
    assert kind in ("gone", "raised"), (kind, found)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(str(found))
    assert alive(box)


def test_a_student_sees_one_socket_and_no_environment(box):
    source = (
        f"{CHANNEL}\ndef f():\n    return len(list(_channels())), dict(os.environ), os.getuid()"
    )
    sockets, environment, user = passed(box, source)
    assert sockets == 1
    assert user != 0
    assert not [
        key
        for key in environment
        if key not in module._ENVIRONMENT and key != "PWD" and "TORCH" not in key
    ]
    assert environment["HOME"] == "/"


def test_behind_bubblewrap_nothing_but_libraries_exists(bwrap):
    source = "import os\ndef f(): return sorted(os.listdir('/')), os.listdir('/grader')"
    root, grader = passed(bwrap, source)
    assert not {"home", "var", "srv", "mnt", "run"} & set(root)
    assert sorted(grader) == ["jail.py", "wire.py", "worker.py"]
    source = "import os\ndef f(): return [n for _, _, names in os.walk('/sys') for n in names]"
    assert set(passed(bwrap, source)) <= {"enabled", "hpage_pmd_size"}  # of huge pages, for malloc
    here = os.path.dirname(os.path.abspath(__file__))
    kind, found = ask(bwrap, f"import os\ndef f(): return os.listdir({here!r})")
    assert kind == "raised"
    assert "FileNotFoundError" in found["text"]


def test_nothing_is_left_for_the_next_student(box):
    ask(
        box,
        "import torch, builtins\ndef f():\n    torch.abs = builtins.len = None\n    torch.leak = 3",
    )
    source = (
        "import torch\ndef f(): return torch.abs(-torch.ones(2)), len([1]), hasattr(torch, 'leak')"
    )
    ones, length, leak = passed(box, source)
    assert ones.tolist() == [1.0, 1.0]
    assert (length, leak) == (1, False)


def test_every_fork_has_the_same_random_numbers(box):
    source = "import torch, random\nimport numpy as np\n"
    source += "def f(): return torch.rand(()).item(), random.random(), np.random.rand()"
    assert passed(box, source) == passed(box, source)


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        (
            "import signal\n    for n in range(1, 32):\n        try: signal.signal(n, signal.SIG_IGN)\n"
            "        except (OSError, ValueError): pass\n    while True:\n"
            "        try:\n            while True: pass\n        except BaseException: pass"
        ),
    ],
    ids=["a loop", "a loop that ignores signals"],
)
def test_a_loop_ends_with_its_time(bwrap, body):
    with bwrap.fork() as child:
        child.answer({"id": 0, "load": [[1, 1, f"def f():\n    {body}"]]})
        with pytest.raises(TimeUp):
            child.answer({"id": 1, "call": "f", "args": []})
    assert child.used.seconds < 1.5  # of computing, of which the kernel gives it one
    assert alive(bwrap)


def test_sleep_and_loops_at_load_time_end_too(bwrap, monkeypatch):
    with bwrap.fork() as child:
        child._may_sleep = 0.5
        with pytest.raises(TimeUp):
            child.answer({"id": 0, "load": [[1, 1, "import time; time.sleep(1000)"]]})
    assert alive(bwrap)


SLOW = [[1, 1, "import time; time.sleep(0.3)"]]


def test_a_process_that_computes_or_waits_for_a_processor_does_not_sleep(bwrap, monkeypatch):
    """The clock is another: by it, all of the waiting was for a processor, or none of it."""
    with bwrap.fork() as child:
        child._may_sleep = 0.05
        monkeypatch.setattr(child, "_busy", time.monotonic)
        assert wire.unpack(*child.answer({"id": 0, "load": SLOW}))["errors"] == []
    with bwrap.fork() as child:
        child._may_sleep = 0.05
        monkeypatch.setattr(child, "_busy", lambda: 0.0)
        with pytest.raises(TimeUp):
            child.answer({"id": 0, "load": SLOW})


def test_sleep_adds_up_over_the_questions(bwrap, monkeypatch):
    with bwrap.fork() as child:
        child._may_sleep = 0.5
        monkeypatch.setattr(child, "_busy", lambda: 0.0)
        child.answer({"id": 0, "load": SLOW})
        with pytest.raises(TimeUp):
            child.answer({"id": 0, "load": SLOW})


def test_the_kernel_tells_how_long_a_process_was_busy(box):
    source = "import time\nwhile time.process_time() < 0.3: pass"
    with box.fork() as child:
        child.answer({"id": 0, "load": [[1, 1, source]]})
        assert child._busy() >= 0.3
        child._number = -1
        assert child._busy() == 0.0


def test_definitions_that_fail_do_not_stop_the_others(box):
    statements = [[1, 1, "import no_such"], [2, 4, "x = 1 / 0"], [3, 1, "def f(): return 5"]]
    with box.fork() as child:
        reply = wire.unpack(*child.answer({"id": 0, "load": statements}))
        words = [error["text"] for error in reply["errors"]]
        assert words == [
            "ModuleNotFoundError: No module named 'no_such'",
            "ZeroDivisionError: division by zero",
        ]
        assert reply["errors"][1]["line"] == "in line 4 of cell 2: x = 1 / 0"
        assert wire.unpack(*child.answer({"id": 1, "call": "f", "args": []}))["returned"] == 5


def test_printed_text_is_cut_and_output_goes_nowhere(box):
    source = (
        "import os\ndef f():\n    print('x' * 10**7)\n    os.write(1, b'y' * 10**6)\n    return 1"
    )
    with box.fork() as child:
        child.answer({"id": 0, "load": [[1, 1, source]]})
        reply = wire.unpack(*child.answer({"id": 1, "call": "f", "args": []}))
    assert reply["returned"] == 1
    assert 2000 <= len(reply["printed"]) <= 2001


def test_an_answer_that_is_too_large_is_refused(box):
    kind, words = ask(box, "import torch\ndef f(): return torch.zeros(30_000_000)")
    assert kind == "refused"
    assert "too large" in words


def test_the_grader_killed_leaves_no_process(user):
    """A grader that is killed (-9) takes its sandbox and the running student with it.

    Behind bubblewrap, test_many.py sees the same.
    """
    if not jail.landlock_version():
        missing("this kernel has no Landlock")
    program = f"""
import sys
from course_lib.grading import sandbox
box = sandbox.Sandbox("landlock", user={user!r}, seconds=30)
with box.fork() as child:
    print("ready", flush=True)
    child.answer({{"id": 0, "load": [[1, 1, "while True: 'survivor-{os.getpid()}'"]]}})
"""
    grader = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert grader.stdout.readline() == b"ready\n"
    before = descendants(grader.pid)
    assert before
    grader.kill()
    grader.communicate()
    until = time.monotonic() + 120  # only so that a failure is no endless loop
    while any(map(lives, before)) and time.monotonic() < until:
        os.sched_yield()
    assert not any(map(lives, before))


def descendants(pid):
    psutil = pytest.importorskip("psutil")
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_refuses_to_run_as_root_or_without_a_wall(monkeypatch):
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    with pytest.raises(NoSandbox, match="never runs as root: start it as an ordinary user"):
        Sandbox()
    with pytest.raises(ValueError, match="there is no user 'no such user'"):
        Sandbox(user="no such user")
    with pytest.raises(ValueError, match="expected an ordinary user, got 'root'"):
        Sandbox(user="root")
    with pytest.raises(ValueError, match="wall: expected one of bwrap, landlock, got 'none'"):
        Sandbox("none", user="nobody")
    monkeypatch.setattr(module.os, "geteuid", lambda: 1000)
    with pytest.raises(ValueError, match="only root can become another user"):
        Sandbox(user="nobody")
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(NoSandbox, match=r"no student's code is run. bwrap: it is not installed"):
        Sandbox("bwrap")


def test_a_wall_that_does_not_stand_says_why(bwrap, monkeypatch, user):
    monkeypatch.setattr(module, "_bwrap", lambda ids: ["bwrap", "--no-such-option"])
    with pytest.raises(NoSandbox, match="bwrap: it does not start .*no-such-option"):
        Sandbox("bwrap", user=user)


def test_a_wall_that_is_not_ready_in_time_says_so(bwrap, monkeypatch, user):
    monkeypatch.setattr(module, "_PATIENCE", 0.01)  # nobody imports torch so fast
    with pytest.raises(NoSandbox, match=r"start \(it is not ready after 0\.01 seconds\)"):
        Sandbox("bwrap", user=user)


def test_a_sandbox_that_has_ended_is_our_fault(bwrap, user):
    with Sandbox("bwrap", user=user) as box:
        box._process.kill()
        box._process.wait()
        with pytest.raises(module.Gone), box.fork():
            pass
