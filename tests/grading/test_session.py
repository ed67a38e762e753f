"""The session of a check: usual inside, the reader's afterwards, and it comes to an end."""

import builtins
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch

from course_lib.exercises.exercise import OutOfTime
from course_lib.grading.session import _SETTINGS, memory_limit, standard_session, time_limit

OTHER = {
    "the default dtype": torch.float64,
    "the default device": "meta",
    "the number of threads": 3,
    "whether gradients are recorded": False,
    "deterministic algorithms": (True, True),
    "PyTorch's print options": {"precision": 1},
    "NumPy's print options": {"precision": 1},
    "NumPy's treatment of errors": {"all": "raise"},
    "the recursion limit": 4321,
}


def now():
    return {name: read() for name, (read, _, _) in _SETTINGS.items()}


@pytest.fixture(autouse=True)
def unchanged():
    before = now()
    yield
    for name, value in before.items():
        _SETTINGS[name][1](value)


def test_there_is_another_value_for_every_setting():
    assert OTHER.keys() == _SETTINGS.keys()


@pytest.mark.parametrize("name", OTHER)
def test_a_changed_setting_is_put_back_and_named_once(name):
    before = now()
    with standard_session() as tidy:
        tidy()
        _SETTINGS[name][1](OTHER[name])
        assert tidy() == [name]
        assert tidy() == []
        _SETTINGS[name][1](OTHER[name])
    assert now() == before


@pytest.mark.parametrize("name", [name for name in OTHER if _SETTINGS[name][2] is not None])
def test_a_setting_of_the_readers_is_usual_inside_and_stays(name):
    _SETTINGS[name][1](OTHER[name])
    before = now()
    with standard_session() as tidy:
        assert tidy() == [name]
        assert _SETTINGS[name][0]() == _SETTINGS[name][2]
    assert now() == before


@pytest.mark.parametrize(
    ("owner", "name", "says"),
    [
        (torch, "topk", "torch.topk"),
        (torch.Tensor, "abs", "torch.Tensor.abs"),
        (torch.Tensor, "norm", "torch.Tensor.norm"),
        (torch.nn.functional, "softmax", "torch.nn.functional.softmax"),
        (np, "allclose", "numpy.allclose"),
        (builtins, "sorted", "sorted"),
    ],
)
def test_a_replaced_function_is_put_back_and_named(owner, name, says):
    original, inherited = getattr(owner, name), name not in vars(owner)
    with standard_session() as tidy:
        tidy()
        setattr(owner, name, lambda *_: True)
        assert tidy() == [says]
        assert getattr(owner, name) is original
    assert (name not in vars(owner)) == inherited


def test_a_deleted_function_comes_back():
    original = torch.sort
    with standard_session() as tidy:
        tidy()
        del torch.sort
        assert tidy() == ["torch.sort"]
    assert torch.sort is original


def test_what_torch_wraps_by_itself_is_nobodys_doing():
    import torch._dynamo  # noqa: F401 (as the first optimizer does)

    with standard_session() as tidy:
        assert tidy() == []


def test_a_readers_own_function_is_not_used_inside_and_stays(monkeypatch):
    original, own = torch.equal, lambda *_: True
    monkeypatch.setattr(torch, "equal", own)
    with standard_session() as tidy:
        assert tidy() == ["torch.equal"]
        assert torch.equal is original
    assert torch.equal is own


def test_warnings_are_neither_shown_nor_errors_and_filters_stay():
    before = list(warnings.filters)
    with standard_session() as tidy:
        tidy()
        warnings.simplefilter("error")
        tidy()
        warnings.warn("x", stacklevel=1)
    assert list(warnings.filters) == before


def test_time_limit_interrupts_also_what_catches_everything_once():
    caught, end = 0, time.monotonic() + 60  # only so that a failure is no endless loop
    with pytest.raises(OutOfTime, match=r"0\.1 seconds"), time_limit(0.1) as limited:
        assert limited
        while time.monotonic() < end:
            try:
                while time.monotonic() < end:
                    pass
            except BaseException:
                caught += 1
                if caught == 2:
                    raise
    assert caught == 2
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_busy_machine_has_four_times_as_long(monkeypatch):
    monkeypatch.setattr(time, "process_time", lambda: 0.0)  # the block is never given the processor
    began = time.monotonic()
    with pytest.raises(OutOfTime), time_limit(0.05):
        while time.monotonic() < began + 60:  # only so that a failure is no endless loop
            pass
    assert time.monotonic() >= began + 0.2


def test_without_end_to_the_patience_only_processor_time_counts(monkeypatch):
    monkeypatch.setattr(time, "process_time", iter([0.0] * 8 + [1.0]).__next__)
    began = time.monotonic()
    with pytest.raises(OutOfTime), time_limit(0.05, patience=float("inf")):
        while time.monotonic() < began + 60:  # only so that a failure is no endless loop
            pass
    assert time.monotonic() >= began + 8 * 0.05


def test_time_limit_leaves_a_handler_and_a_timer_of_others():
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        with time_limit(500):
            pass
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_IGN
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 500
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_outside_the_main_thread_there_is_no_time_limit():
    seen = []

    def work():
        with time_limit(0.1) as limited:
            seen.append(limited)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit exists on Linux only")
def test_memory_limit_makes_a_large_request_an_error():
    with memory_limit(0.5) as limited:
        assert limited
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            torch.empty(2**28)  # a gigabyte, which is never touched
        with pytest.raises(MemoryError):
            np.empty(2**27)
    assert torch.empty(2**28).numel() == 2**28
