"""Which sandbox holds on this machine, found out by trying to get out of it."""

import time
from dataclasses import dataclass

from course_lib.grading import wire
from course_lib.grading.sandbox import WALLS, Ended, NoSandbox, Sandbox, TimeUp

#: What no student may do -> the body of a function that tries it, and comes to its end if it can.
ATTEMPTS = {
    "read the list of users": "open('/etc/passwd').read()",
    "read the grader's environment": "open(f'/proc/{os.getppid()}/environ', 'rb').read(1)",
    "write a file": "open('/tmp/written-by-an-answer', 'w')",
    "change a library": "open(os.__file__, 'a')",
    "start a process": "os.fork() or os._exit(0)",
    "start a program": "os.execv('/usr/bin/true', ['true'])",
    "open a socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "send a signal": "os.kill(os.getppid(), 0)",
    "become root": "os.setuid(0)",
    "take ten gigabytes": "bytearray(10**10)",
    "import the course's library": "import course_lib",
}


@dataclass(frozen=True)
class Finding:
    """What was found out about a wall: why it does not stand, or what gets through."""

    wall: str
    why: str = ""
    leaks: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether it stands and nothing gets through."""
        return not self.why and not self.leaks

    def __str__(self) -> str:
        if self.why:
            return f"{self.wall}: not usable. {self.why}"
        if self.leaks:
            return f"{self.wall}: DOES NOT HOLD. Student code could {', '.join(self.leaks)}."
        tried = f"{len(ATTEMPTS)} ways out were tried and none led out"
        return f"{self.wall}: holds; {tried}. It starts in {self.seconds:.1f} seconds."


def examine(user: str | None = None) -> list[Finding]:
    """Try every way out of every wall.

    Args:
        user: whom student code becomes, if this is root.

    Raises:
        ValueError: an unknown user.
    """
    return [_examined(wall, user) for wall in WALLS]


def _examined(wall: str, user: str | None) -> Finding:
    started = time.monotonic()
    try:
        with Sandbox(wall, user=user, seconds=5) as box:
            seconds = time.monotonic() - started
            if not _comes_to_its_end(box, "pass"):
                return Finding(wall, "A function that does nothing does not come to its end in it.")
            leaks = tuple(what for what, body in ATTEMPTS.items() if _comes_to_its_end(box, body))
    except NoSandbox as error:
        return Finding(wall, str(error))
    return Finding(wall, leaks=leaks, seconds=seconds)


def _comes_to_its_end(box: Sandbox, body: str) -> bool:
    source = f"import os, socket\ndef f():\n    {body}"
    with box.fork() as child:
        try:
            child.answer({"id": 0, "load": [[1, 1, source]]})
            reply = wire.unpack(*child.answer({"id": 1, "call": "f", "args": []}))
        except (Ended, TimeUp, wire.Violation):
            return False
    return "returned" in reply
