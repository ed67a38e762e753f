"""The reader's session during a check: the same for every answer, and afterwards as it was.

An answer runs in the reader's own kernel, so it can change settings that the judges rely on, or
replace a function of PyTorch. Within ``standard_session`` settings and functions are the usual ones,
``tidy`` puts back what a call has changed and says what that was, and at the end the reader has the
session that was there before. ``time_limit`` and ``memory_limit`` end an answer that would not end.
"""

import builtins
import contextlib
import math
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._tensor_str import PRINT_OPTS

try:
    import resource
except ImportError:  # Windows
    resource = None

from course_lib.exercises.exercise import OutOfTime

GIGABYTES = 2  # that an answer may take beyond what the kernel has taken already


def _set_device(name: str) -> None:
    # With None, tensors are made on the CPU without the detour that a device set by hand costs.
    torch.set_default_device(None if name == "cpu" else name)


def _deterministic() -> tuple[bool, bool]:
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warn_only


# What it is -> how it is read, how it is set, and its value during a check (None: as the reader's).
_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Any]] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    "the default device": (lambda: str(torch.get_default_device()), _set_device, "cpu"),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads, None),
    "whether gradients are recorded": (torch.is_grad_enabled, torch.set_grad_enabled, True),
    "deterministic algorithms": (
        _deterministic,
        lambda both: torch.use_deterministic_algorithms(both[0], warn_only=both[1]),
        (False, False),
    ),
    "PyTorch's print options": (lambda: vars(PRINT_OPTS).copy(), vars(PRINT_OPTS).update, None),
    "NumPy's print options": (
        np.get_printoptions,
        lambda options: np.set_printoptions(**options),
        None,
    ),
    "NumPy's treatment of errors": (
        np.geterr,
        lambda kinds: np.seterr(**kinds),
        {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"},
    ),
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit, None),
}

_USED = "abs all any divmod enumerate float int isinstance len list map max min range reversed "
_USED += "round set sorted str sum tuple type zip"
_OWNERS = {
    "torch": torch,
    "torch.Tensor": torch.Tensor,
    "torch.nn.functional": torch.nn.functional,
    "torch.linalg": torch.linalg,
    "numpy": np,
    "math": math,
    "random": random,
}
_MISSING = object()
#: (owner's name, name) -> the function, as it was when the course was imported.
_ORIGINAL = {
    (owner, name): value
    for owner, module in _OWNERS.items()
    for name, value in vars(module).items()
    # torch itself wraps manual_seed when its first optimizer is made.
    if callable(value) and not name.startswith("_") and value is not torch.manual_seed
} | {("builtins", name): getattr(builtins, name) for name in _USED.split()}
_OWNERS["builtins"] = builtins
_INHERITED = {name for base in torch.Tensor.__mro__[1:-1] for name in vars(base)}


@contextlib.contextmanager
def standard_session() -> Iterator[Callable[[], list[str]]]:
    """Within the block, the usual settings and functions; afterwards, the reader's.

    Yields:
        ``tidy``: it makes settings and functions the usual ones again, and returns the names of
        those that had changed since the block began or ``tidy`` was called.
    """
    readers = {name: read() for name, (read, _, _) in _SETTINGS.items()}
    usual = {name: readers[name] if s[2] is None else s[2] for name, s in _SETTINGS.items()}
    replaced = _replaced()

    def tidy() -> list[str]:
        warnings.simplefilter("ignore")
        return [*_set(usual), *_put_back(_replaced())]

    try:
        with warnings.catch_warnings(), _own_random_numbers():
            yield tidy
    finally:
        _put_back(_replaced())
        _set(readers)
        for (owner, name), value in replaced.items():
            setattr(_OWNERS[owner], name, value)


def _set(wanted: dict[str, Any]) -> list[str]:
    """Make the settings ``wanted``; the names of those that were not."""
    changed = [name for name, value in wanted.items() if _SETTINGS[name][0]() != value]
    for name in changed:
        _SETTINGS[name][1](wanted[name])
    return changed


def _replaced() -> dict[tuple[str, str], Any]:
    """The functions that are not those of the library now: (owner, name) -> what is there instead."""
    spaces = {owner: vars(module) for owner, module in _OWNERS.items()}
    found = {
        (owner, name): spaces[owner].get(name, _MISSING)
        for (owner, name), value in _ORIGINAL.items()
        if spaces[owner].get(name, _MISSING) is not value
    }
    # A method of Tensor that hides the one it inherits, such as torch.Tensor.abs.
    for name in _INHERITED & spaces["torch.Tensor"].keys():
        if not name.startswith("_") and ("torch.Tensor", name) not in _ORIGINAL:
            found["torch.Tensor", name] = spaces["torch.Tensor"][name]
    return found


def _put_back(replaced: dict[tuple[str, str], Any]) -> list[str]:
    for owner, name in replaced:
        if (owner, name) in _ORIGINAL:
            setattr(_OWNERS[owner], name, _ORIGINAL[owner, name])
        else:
            delattr(_OWNERS[owner], name)
    return [f"{owner}.{name}".removeprefix("builtins.") for owner, name in replaced]


@contextlib.contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Within the block, the same random numbers in every check; the reader's generators keep
    their state."""
    python, numpy_ = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_)


@contextlib.contextmanager
def time_limit(seconds: float, patience: float = 4) -> Iterator[bool]:
    """Raise ``OutOfTime`` in the block when it has taken ``seconds``.

    On a machine that is busy with other work the block gets up to ``patience`` times as long, until
    it has had ``seconds`` of processor time.

    Yields:
        Whether there is a limit. There is none on Windows and outside the main thread, because
        nothing there can interrupt a function.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        yield False
        return

    began, computed = time.monotonic(), time.process_time()

    def ring(*_: object) -> None:
        starved = time.process_time() - computed < seconds
        if starved and time.monotonic() - began < patience * seconds:
            return  # it rings again
        raise OutOfTime(f"no answer after {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    # It rings again, for an answer that catches whatever is raised, too.
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds, min(1.0, seconds))
    try:
        yield True
    finally:
        signal.setitimer(signal.ITIMER_REAL, outer)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def memory_limit(gigabytes: float = GIGABYTES) -> Iterator[bool]:
    """Within the block, a request for much more memory is an error, not the end of the kernel.

    Yields:
        Whether there is a limit. There is one on Linux only.
    """
    status = Path("/proc/self/status")
    if resource is None or not status.exists():
        yield False
        return
    now = next(int(line.split()[1]) for line in status.open() if line.startswith("VmData:"))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = 1024 * now + int(gigabytes * 2**30)
    below = [limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(below), hard))
    try:
        yield True
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
