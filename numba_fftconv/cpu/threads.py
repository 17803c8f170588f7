"""Threads that share tasks, and the memory that they work in.

Tasks are claimed one by one from a counter, so a slow core takes fewer. The calling thread works too, and never waits
for a helper that has not begun: several callers may share the pool, a forked child makes its own, and where no helper
can be had (the interpreter is shutting down) the caller does all.
"""

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import numba
import numpy as np

from .vector import LINE_BYTES


def thread_count() -> int:
    """Threads that a pass may use: what Numba is set to, by NUMBA_NUM_THREADS or by the cores of this process."""
    return int(numba.config.NUMBA_NUM_THREADS)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, thread_count() - 1), thread_name_prefix="numba_fftconv")


def share(tasks: int, workers: int, do: Callable[[int, int], None]) -> None:
    """Call do(task, worker) for every task; two calls at once have different workers."""
    claims = itertools.count()

    def work(worker: int) -> None:
        while (task := next(claims)) < tasks:
            do(task, worker)

    helpers: list[Future[None]] = []
    for worker in range(1, min(workers, tasks)):
        try:
            helpers.append(_pool().submit(work, worker))
        except RuntimeError:  # no new threads at interpreter shutdown
            break
    try:
        work(0)
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()


class _Memory(threading.local):
    """One growing buffer for each thread that calls."""

    buffer: np.ndarray | None = None
    generation = 0


_memory = _Memory()
_generation = itertools.count(1)
_current = next(_generation)


def memory(nbytes: int) -> np.ndarray:
    """At least `nbytes` bytes from a 64-byte boundary on, kept for this thread's next call."""
    held = _memory.buffer
    if held is None or held.nbytes < nbytes or _memory.generation != _current:
        raw = np.empty(nbytes + LINE_BYTES, np.uint8)
        held = raw[-raw.ctypes.data % LINE_BYTES :]
        _memory.buffer, _memory.generation = held, _current
    return held


def forget_memory() -> None:
    """Free this thread's buffer now, and those of the others at their next call."""
    global _current
    _current = next(_generation)
    _memory.buffer = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
