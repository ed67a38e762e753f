"""The wall around students' code: a process without network, files and rights, asked over sockets.

``Sandbox`` starts ``worker.py`` behind one of two walls. **bwrap**: bubblewrap gives it a file system
that holds Python, the libraries and nothing else, and no network. **landlock**: where the host allows
no namespaces (containers, Ubuntu's defaults), the kernel's Landlock lets it read the same folders.
Behind both, a list of system calls and limits on time and memory hold for each fork (``jail.py``).
There is no third way: where neither wall stands, nothing runs.
"""

import contextlib
import json
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from course_lib.grading import wire

WALLS = ("bwrap", "landlock")
SECONDS = 10  # of computing, for all inputs of an exercise; more where our own answer is slow
GIGABYTES = 3.0
_HERE = Path(__file__).parent
# Seconds until the worker has imported torch or carried out an order. One that has ended is noticed
# at once, so this is only for one that hangs, and longer than the busiest machine needs.
_PATIENCE = 900
_ENVIRONMENT = {"PATH": "/usr/bin", "HOME": "/", "LANG": "C.UTF-8", "CUDA_VISIBLE_DEVICES": ""}
_ENVIRONMENT |= {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
_HUGE_PAGES = [f"/sys/kernel/mm/transparent_hugepage/{n}" for n in ("enabled", "hpage_pmd_size")]
# All memory in few huge pages, where the system has them: a fork copies a third as much.
_HEAP = "hugetlb=1 mmap_threshold=33554432 top_pad=67108864"
_TUNED = ":".join(f"glibc.malloc.{part}" for part in _HEAP.split())
_ENVIRONMENT |= {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": _TUNED}
_ENVIRONMENT |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}


class NoSandbox(RuntimeError):
    """There is no sandbox here; the message says why and what to do."""


class Gone(RuntimeError):
    """The sandbox itself has ended, which no student's code can bring about: a fault of ours."""


class Ended(BaseException):
    """The student's process gave no answer. No Exception, so that nothing takes it for one."""


class TimeUp(BaseException):
    """The student's process took too long."""


@dataclass(frozen=True)
class Used:
    """What a fork has used: seconds of computing, the largest memory in kB, how it ended."""

    seconds: float
    kB: int
    status: int


class Sandbox:
    """A worker behind a wall, for use in a ``with`` statement.

    Args:
        wall: "bwrap", "landlock", or None for the first that stands.
        user: whom to become; needed, and only possible, when started as root.
        seconds: of computing for each fork that asks for no more.
        gigabytes: of memory for each fork.

    Raises:
        ValueError: an unknown wall or user.
        NoSandbox: started as root without ``user``, or no wall stands here.
    """

    def __init__(
        self,
        wall: str | None = None,
        *,
        user: str | None = None,
        seconds: int = SECONDS,
        gigabytes: float = GIGABYTES,
    ) -> None:
        if wall is not None and wall not in WALLS:
            raise ValueError(f"wall: expected one of {', '.join(WALLS)}, got {wall!r}")
        self.seconds, self.gigabytes = seconds, gigabytes
        self._ids = _ids(user)
        reasons = []
        for name in WALLS if wall is None else [wall]:
            try:
                self.wall, self._control, self._process = name, *self._started(name)
                return
            except NoSandbox as error:
                reasons.append(f"{name}: {error}")
        raise NoSandbox(
            "No sandbox works on this machine, so no student's code is run. " + " ".join(reasons)
        )

    def _started(self, wall: str) -> tuple[socket.socket, subprocess.Popen]:
        if wall == "bwrap" and not shutil.which("bwrap"):
            raise NoSandbox("it is not installed (Debian and Ubuntu: apt install bubblewrap).")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [*(_bwrap(self._ids) if wall == "bwrap" else []), *self._worker(wall, theirs)],
                pass_fds=[theirs.fileno()],
                env=_ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        ours.settimeout(_PATIENCE)
        ready, reason = b"", "no reason given"
        try:
            ready = ours.recv(16)
        except TimeoutError:
            reason = f"it is not ready after {_PATIENCE:g} seconds"
        except OSError:
            pass
        if ready != b"ready":
            ours.close()
            process.kill()
            said = process.communicate()[1].decode(errors="replace").strip().splitlines()
            raise NoSandbox(f"it does not start ({said[-1] if said else reason}).")
        return ours, process

    def _worker(self, wall: str, control: socket.socket) -> list[str]:
        here = "/grader" if wall == "bwrap" else str(_HERE)
        orders = {
            "gigabytes": self.gigabytes,
            "user": self._ids and self._ids[0],
            "group": self._ids and self._ids[1],
            "readable": _libraries() if wall == "landlock" else None,
            "here": here,
        }
        start = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
        start += "runpy.run_path(sys.path[0] + '/worker.py', run_name='__main__')"
        numbers = [str(control.fileno()), json.dumps(orders)]
        return [sys.executable, "-s", "-P", "-B", "-c", start, here, *numbers]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and everything in it."""
        self._control.close()
        self._process.kill()
        self._process.communicate()

    @contextlib.contextmanager
    def fork(self, seconds: int = 0) -> Iterator["Child"]:
        """Within the block, a fresh process for one exercise of one student; then it is killed.

        It may compute for ``seconds``, if those are more than the sandbox's own.

        Raises:
            Gone: the worker has ended.
        """
        ours, theirs = socket.socketpair()
        seconds = max(self.seconds, seconds)
        with ours:
            with theirs:
                channel = [theirs.fileno()]
                _, [handle] = self._ordered(
                    lambda: socket.send_fds(self._control, [b"fork %d" % seconds], channel)
                )
            child = Child(ours, seconds, self._end, _number(handle))
            try:
                yield child
            finally:
                child.end()

    def _end(self) -> Used:
        report = json.loads(self._ordered(lambda: self._control.send(b"end"))[0])
        return Used(report["seconds"], report["kB"], report["status"])

    def _ordered(self, order: Callable[[], Any]) -> tuple[bytes, list[int]]:
        """The worker's answer to an order, and the handles that came with it."""
        try:
            order()
            answer, handles, *_ = socket.recv_fds(self._control, 1000, 1)
        except OSError:
            answer, handles = b"", []
        if not answer:
            raise Gone("the sandbox has ended")
        return answer, handles


def _number(handle: int) -> int:
    """The number of a process, given a handle of it, which is closed."""
    about = Path(f"/proc/self/fdinfo/{handle}").read_text()
    os.close(handle)
    return int(about.partition("Pid:")[2].split()[0])


class Child:
    """A fork of the worker, seen from outside. Nothing that it sends is believed.

    The kernel ends it when it has computed for ``seconds``, however long that takes on a busy machine.
    The clock on the wall is for a process that sleeps.
    """

    def __init__(
        self, channel: socket.socket, seconds: float, end: Callable[[], Used], number: int
    ) -> None:
        self._channel, self.most, self._end, self._number = channel, seconds, end, number
        self._received = bytearray()
        channel.setblocking(False)
        self._waited, self._may_sleep = 0.0, 6.0 * seconds + 5
        self.used: Used | None = None

    def ask(self, packed: bytes) -> tuple[bytes, bytes]:
        """Send a packed message and return the frame that comes back.

        Raises:
            Ended, TimeUp: there is none.
            wire.Violation: it is too large.
        """
        self._send(packed)
        return wire.frame(self._receive)

    def answer(self, message: dict[str, Any]) -> tuple[bytes, bytes]:
        """The same for a message that is not packed yet."""
        return self.ask(wire.pack(message))

    def end(self) -> Used:
        """Kill the process, unless that has been done."""
        if self.used is None:
            self.used = self._end()
        return self.used

    def _send(self, packed: bytes) -> None:
        left = memoryview(packed)
        while left:
            try:
                left = left[self._channel.send(left) :]
            except BlockingIOError:
                self._wait(select.POLLOUT)
            except OSError:
                self._stopped()

    def _receive(self, size: int) -> bytes:
        while len(self._received) < size:
            self._wait(select.POLLIN)
            try:
                part = self._channel.recv(2**20)
            except OSError:
                part = b""
            if not part:
                self._stopped()
            self._received += part
        found = bytes(self._received[:size])
        del self._received[:size]
        return found

    def _wait(self, what: int) -> None:
        """Wait until the channel can be read or written; an end of the process counts as that."""
        poll = select.poll()
        poll.register(self._channel, what)
        began, left = time.monotonic(), max(0.0, self._may_sleep - self._waited)
        while not poll.poll(1000 * left):
            waited = self._waited + time.monotonic() - began
            left = self._may_sleep - (waited - self._busy())
            if left <= 0:
                raise TimeUp("no answer in time")
        self._waited += time.monotonic() - began

    def _busy(self) -> float:
        """Seconds in which the process computed or stood in line for a processor.

        On a kernel that does not tell, 0: there, waiting counts as sleeping.
        """
        try:
            computed, in_line, _ = Path(f"/proc/{self._number}/schedstat").read_text().split()
        except (OSError, ValueError):
            return 0.0
        return (int(computed) + int(in_line)) / 1e9

    def _stopped(self) -> None:
        """Say why there is no process any more."""
        used = self.end()
        if os.WIFSIGNALED(used.status):
            number = os.WTERMSIG(used.status)
            if used.seconds > self.most - 0.5 and number in (signal.SIGKILL, signal.SIGXCPU):
                raise TimeUp("no answer in time")
            how = f"by signal {number}"
        else:
            how = f"with exit code {os.WEXITSTATUS(used.status)}"
        raise Ended(f"the process that ran your function has ended, {how}")


# ---- the two walls


def _ids(user: str | None) -> tuple[int, int] | None:
    """The numbers of the user to become and its group."""
    if os.geteuid() != 0:
        if user is not None:
            raise ValueError("user: only root can become another user")
        return None
    if user is None:
        raise NoSandbox(
            "Started as root, and students' code never runs as root: start it as an ordinary user, "
            "or name one that owns nothing, such as --user nobody."
        )
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ValueError(f"user: there is no user {user!r} on this machine") from None
    if entry.pw_uid == 0:
        raise ValueError(f"user: expected an ordinary user, got {user!r}")
    return entry.pw_uid, entry.pw_gid


def _libraries() -> list[str]:
    """The folders that Python and its libraries lie in, without the course's own."""
    course = _HERE.parent.resolve()
    places = [sys.base_prefix, sys.prefix, "/usr/lib", "/usr/lib64", "/lib", "/lib64"]
    found = [part for place in places for part in _without(Path(place), course)]
    files = ("/etc/ld.so.cache", "/dev/null", "/dev/urandom", "/proc/cpuinfo")
    return list(dict.fromkeys(filter(os.path.exists, (*found, *files))))


def _without(place: Path, hidden: Path) -> Iterator[str]:
    """The folder, or its parts if ``hidden`` lies in it, without that."""
    if place.is_symlink() or place.resolve() not in hidden.parents:
        if place.resolve() != hidden:
            yield str(place)
        return
    for part in place.iterdir():
        yield from _without(part, hidden)


def _bwrap(ids: tuple[int, int] | None) -> list[str]:
    """The command that starts what follows it in a file system of its own."""
    shown = [Path("/usr"), Path(sys.base_prefix), Path(sys.prefix)]
    options = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--dev", "/dev"]
    # torch looks for one; and Python may lie in it, so that all have to pass
    options += ["--perms", "0755", "--size", "65536", "--tmpfs", "/tmp"]
    if ids:  # root needs no user namespace, and the worker becomes another user by itself
        options = [option for option in options if option != "--unshare-all"]
        options += [f"--unshare-{what}" for what in ("pid", "net", "ipc", "uts", "cgroup-try")]
        options += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    parents = {parent for path in shown for parent in path.parents} | {Path("/grader")}
    for parent in sorted(parents):
        options += ["--perms", "0755", "--dir", str(parent)]
    for place in ("/bin", "/lib", "/lib64"):
        if os.path.islink(place):
            options += ["--symlink", os.readlink(place), place]
        elif os.path.isdir(place):
            options += ["--ro-bind", place, place]
    for path in shown:
        options += ["--ro-bind", str(path), str(path)]
    for file in ("/etc/ld.so.cache", "/etc/alternatives", "/proc/cpuinfo", *_HUGE_PAGES):
        options += ["--ro-bind-try", file, file]
    options += ["--setenv", "GLIBC_TUNABLES", _TUNED]  # bwrap's own start has cut it
    course = _HERE.parent.resolve()
    if any(path.resolve() in course.parents for path in shown):  # installed, not a checkout
        options += ["--tmpfs", str(course)]
    for name in ("worker", "wire", "jail"):
        options += ["--ro-bind", str(_HERE / f"{name}.py"), f"/grader/{name}.py"]
    return [*options, "--remount-ro", "/", "--"]
