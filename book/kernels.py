"""Run notebooks side by side, one kernel a core (the part of build.py that needs Jupyter)."""

import asyncio
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread
from types import MappingProxyType

from ipykernel.kernelspec import get_kernel_dict
from jupyter_cache.base import CacheBundleIn
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

TRACEBACK_LINES = 12
EMPTY: Mapping[str, str] = MappingProxyType({})


class ThisPython(KernelSpecManager):
    """Whatever kernel a notebook names, it runs in the python that builds the book."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return the running interpreter as a kernel."""
        return KernelSpec(**get_kernel_dict())


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def environment(root: Path) -> dict[str, str]:
    """Return a kernel's environment: it is the book's, with one thread, no bars, this course_lib."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    own = {"COURSE_BOOK": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONPATH": path}
    return os.environ | own


class Room:
    """Where cells of several notebooks run side by side; one tagged `alone` has it to itself."""

    def __init__(self, bar: tqdm):
        self.bar = bar
        self.running = self.alone = 0  # cells that run; those tagged that run or wait
        self.changed = asyncio.Condition()

    async def enter(self, alone: bool) -> None:
        """Wait until the cell may start."""
        async with self.changed:
            self.alone += alone
            await self.changed.wait_for(lambda: not (self.running if alone else self.alone))
            self.running += 1

    async def leave(self, alone: bool) -> None:
        """Say that the cell is done."""
        async with self.changed:
            self.running, self.alone = self.running - 1, self.alone - alone
            self.changed.notify_all()


async def run_one(
    root: Path, name: str, notebook, timeout: int, room: Room, extra: Mapping[str, str] = EMPTY
) -> list[float]:
    """Execute `notebook` in place and return the seconds of each of its code cells.

    `extra` is added to the kernel's environment.

    Raises:
        RuntimeError: with the cell that failed (counted as in `In [7]`) and why.
    """
    starts, seconds, inside = [], [], []

    async def start(cell, **_):
        inside.append("alone" in cell.metadata.get("tags", []))
        await room.enter(inside[0])
        starts.append(time.perf_counter())
        room.bar.set_description(f"{Path(name).stem} [{len(starts)}]")

    async def stop(**_):
        seconds.append(round(time.perf_counter() - starts[-1], 3))
        await room.leave(inside.pop())
        room.bar.update()

    own = notebook.metadata.get("mystnb", {}).get("execution_timeout", timeout)
    manager = AsyncKernelManager(kernel_spec_manager=ThisPython(), kernel_name="python3")
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=own,
        resources={"metadata": {"path": str((root / name).parent)}},
        store_widget_state=False,  # the pages do not use it
        record_timing=False,  # it would change the cells that the cache's key is made of
        extra_arguments=["--IPKernelApp.log_level=40"],  # errors only: no remarks about its sockets
        shutdown_kernel="immediate",
        on_cell_execute=start,
        on_cell_executed=stop,
    )
    try:
        await client.async_execute(env=environment(root) | dict(extra), cleanup_kc=True)
    except Exception as error:
        raise RuntimeError(f"cell {len(starts)}: {explain(error)}") from error
    finally:
        if inside:  # the cell took too long, or its kernel died
            await room.leave(inside.pop())
    return seconds


def explain(error: Exception) -> str:
    """Return what went wrong in a cell, and the end of the traceback."""
    if not isinstance(error, CellExecutionError):
        return f"{type(error).__name__}: {error}"
    lines = re.sub(r"\x1b\[[\d;]*m", "", error.traceback).splitlines()
    return "\n  ".join([f"{error.ename}: {error.evalue}", *lines[-TRACEBACK_LINES:]])


def until_done(coroutine) -> None:
    """Run `coroutine` in a thread of its own, where Ctrl-C reaches it as a cancellation.

    In the main thread nbclient would put its own signal handlers in the way.
    """
    loop, done = asyncio.new_event_loop(), Event()
    task = loop.create_task(coroutine)

    def work():
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(asyncio.wait([task]))
        finally:
            done.set()

    Thread(target=work).start()
    try:
        done.wait()
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(task.cancel)
        done.wait()  # for the kernels to end
        raise
    task.result()


def run_all(root: Path, notebooks: dict, timeout: int, cache) -> dict[str, str]:
    """Execute `notebooks` (name -> notebook), caching each as soon as it is done.

    Returns:
        For each notebook that failed, the cell and the end of its traceback.
    """
    errors, seats = {}, asyncio.Semaphore(cores())
    total = sum(cell.cell_type == "code" for nb in notebooks.values() for cell in nb.cells)

    async def one(name, notebook, room):
        async with seats:
            try:
                own = {"COURSE_ALONE": "1"}  # timings may be trusted
                seconds = await run_one(root, name, notebook, timeout, room, own)
            except RuntimeError as error:
                errors[name] = str(error)
                return
            data = {"execution_seconds": round(sum(seconds), 2), "cells": seconds}
            bundle = CacheBundleIn(notebook, str(root / name), data=data)
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            room.bar.write(f"{name}: {sum(seconds):.1f} s", file=sys.stderr)

    async def everything():
        # disable=None: no bar where nobody watches it move
        with tqdm(total=total, unit="cell", disable=None) as bar:
            room = Room(bar)
            await asyncio.gather(*(one(name, nb, room) for name, nb in notebooks.items()))

    until_done(everything())
    return errors
