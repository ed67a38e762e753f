"""What a process may do while a student's code runs in it: compute, and read the libraries.

It runs inside the sandbox, where there is no ``course_lib``, and needs nothing but Python. Three
kinds of limits are set, and none of them can be taken back by the process itself:

- ``limits``: seconds of computing, gigabytes of memory, no core file;
- ``only_read``: Landlock lets it open the given folders, and nothing else (needed where there is no
  file system of its own);
- ``only_compute``: a seccomp filter that lists what is allowed. New processes and threads, files
  opened for writing, sockets, signals, other users' memory and namespaces are not on the list.
"""

import ctypes
import errno
import functools
import os
import platform
import resource
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)
_NO_NEW_PRIVILEGES, _SECCOMP, _DUMPABLE, _DEATH_SIGNAL = 38, 22, 4, 1  # prctl's numbers


class Unconfined(OSError):
    """The kernel refused a limit, so no student's code may run here."""


def limits(seconds: int, gigabytes: float) -> None:
    """Limit this process for good: it is killed when it has computed for ``seconds``."""
    memory = int(gigabytes * 2**30)
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (most, most))


def unreadable() -> None:
    """Other processes of the same user cannot look into this one, and it dies with its parent."""
    _prctl(_DUMPABLE, 0)
    _prctl(_DEATH_SIGNAL, 9)


def dies_with_parent() -> None:
    """This process is killed when the one that started it ends, however that ends."""
    parent = os.getppid()
    _prctl(_DEATH_SIGNAL, 9)
    if os.getppid() != parent or parent == 1:  # it ended a moment ago
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))):
        raise Unconfined(ctypes.get_errno(), f"prctl({option}) failed")


# ---- Landlock (https://docs.kernel.org/userspace-api/landlock.html)

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ = (1 << 2) | (1 << 3)  # files, folders
_FILES_BY_VERSION = (0, 13, 14, 15, 15, 16)  # how many rights to files each version knows


def landlock_version() -> int:
    """The version of Landlock that this kernel has, 0 for none."""
    return max(0, _LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


def only_read(paths: list[str]) -> None:
    """From now on this process opens what lies under ``paths``, for reading, and nothing else.

    Raises:
        Unconfined: the kernel has no Landlock.
    """
    version = landlock_version()
    if not version:
        raise Unconfined(errno.ENOSYS, "this kernel has no Landlock")
    handled = (1 << _FILES_BY_VERSION[min(version, len(_FILES_BY_VERSION) - 1)]) - 1
    attributes = [handled] + [0b11] * (version >= 4) + [0b11] * (version >= 6)  # TCP; signals
    packed = struct.pack(f"{len(attributes)}Q", *attributes)
    rules = _syscall(_CREATE_RULESET, packed, ctypes.c_size_t(len(packed)), ctypes.c_uint32(0))
    for path in paths:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        right = _READ if os.path.isdir(path) else 1 << 2
        _syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", right, place), 0)
        os.close(place)
    _prctl(_NO_NEW_PRIVILEGES, 1)
    _syscall(_RESTRICT_SELF, rules, ctypes.c_uint32(0))
    os.close(rules)


def _syscall(number: int, *values: object) -> int:
    result = _LIBC.syscall(ctypes.c_long(number), *values)
    if result < 0:
        raise Unconfined(ctypes.get_errno(), f"system call {number} failed")
    return result


# ---- seccomp: numbers of system calls on x86-64, the only machine that was tested

_ALLOWED = """
read 0 write 1 close 3 stat 4 fstat 5 lstat 6 poll 7 lseek 8 mprotect 10 munmap 11 brk 12
rt_sigaction 13 rt_sigprocmask 14 rt_sigreturn 15 pread64 17 readv 19 writev 20 access 21 select 23
sched_yield 24 mremap 25 madvise 28 dup 32 nanosleep 35 getitimer 36 setitimer 38 getpid 39 exit 60
uname 63 fcntl 72 getcwd 79 readlink 89 gettimeofday 96 getrlimit 97 getrusage 98 sysinfo 99
times 100 getuid 102 getgid 104 geteuid 107 getegid 108 getppid 110 sigaltstack 131 gettid 186
time 201 futex 202 sched_getaffinity 204 getdents64 217 restart_syscall 219 clock_gettime 228
clock_getres 229 clock_nanosleep 230 exit_group 231 newfstatat 262 readlinkat 267 faccessat 269
pselect6 270 ppoll 271 getrandom 318 membarrier 324 statx 332 rseq 334 faccessat2 439
"""
_MMAP, _OPENAT, _PRLIMIT, _IOCTL, _CLONE3 = 9, 257, 302, 16, 435
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0o20000000  # without a name
_ARCHITECTURE = 0xC000003E  # of x86-64
_KILL, _ALLOW, _ERROR = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16  # where they lie in what the filter sees


def only_compute() -> None:
    """From now on this process can use no system call but those on the list.

    Raises:
        Unconfined: not Linux on x86-64, or a kernel without seccomp.
    """
    if platform.machine() != "x86_64":
        raise Unconfined(errno.ENOSYS, f"no list of system calls for {platform.machine()}")
    program = _program()
    code = ctypes.create_string_buffer(program)
    filled = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    )
    _prctl(_NO_NEW_PRIVILEGES, 1)
    if _LIBC.prctl(_SECCOMP, ctypes.c_ulong(2), filled, ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise Unconfined(ctypes.get_errno(), "the seccomp filter was refused")


@functools.cache
def _program() -> bytes:
    return b"".join(struct.pack("HBBI", *line) for line in _filter())


def _filter() -> list[tuple[int, int, int, int]]:
    """The filter as (code, lines to skip if true, if false, value)."""

    def argument(index: int) -> tuple[int, int, int, int]:
        return _LOAD, 0, 0, _ARGUMENTS + 8 * index  # its low half

    def fails(number: int) -> tuple[int, int, int, int]:
        return _RETURN, 0, 0, _ERROR | number

    allow = (_RETURN, 0, 0, _ALLOW)

    def unless_bits(call: int, index: int, bits: int) -> list:
        """Allow the call if its argument has none of the bits."""
        test = (_ANY_BIT, 0, 1, bits)
        return [(_EQUAL, 0, 4, call), argument(index), test, fails(errno.EPERM), allow]

    lines = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, _ARCHITECTURE),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_ABOVE, 0, 1, 0x40000000),  # the calls of the x32 machine
        fails(errno.EPERM),
    ]
    for number in map(int, _ALLOWED.split()[1::2]):
        lines += [(_EQUAL, 0, 1, number), allow]
    lines += unless_bits(_OPENAT, 2, _WRITING)
    lines += unless_bits(_MMAP, 3, 1)  # memory shared with others is in no limit
    lines += unless_bits(_PRLIMIT, 0, 0xFFFFFFFF)  # only of this process itself
    lines += [(_EQUAL, 0, 1, _IOCTL), fails(errno.ENOTTY), (_EQUAL, 0, 1, _CLONE3)]
    return [*lines, fails(errno.ENOSYS), fails(errno.EPERM)]
