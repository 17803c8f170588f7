"""Threads that share tasks, and the memory that they work in.

Tasks are claimed one by one from a counter, so a slow core takes fewer. The calling thread works too, and never waits
for a helper that has not begun: several callers may share the pool, a forked child makes its own, and where no helper
can be had (the interpreter is shutting down) the caller does all.
"""

import bisect
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numba
import numpy as np

from .vector import LINE_BYTES


def thread_count() -> int:
    """Threads that a pass may use: what Numba is set to, by NUMBA_NUM_THREADS or by the cores of this process."""
    return int(numba.config.NUMBA_NUM_THREADS)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, thread_count() - 1), thread_name_prefix="numba_fftconv")


class Stage(NamedTuple):
    """Tasks that may run in any order: do(task, worker), where two calls at once have different workers."""

    tasks: int
    do: Callable[[int, int], None]


def share(stages: Sequence[Stage], workers: int) -> None:
    """Run stages one after the other, the tasks of each in parallel.

    All tasks are claimed from one counter: a thread that finds none left in its stage waits at the next one, instead of
    being sent to sleep and called again. The first task is the caller's, who need not wait until a helper is awake.
    """
    ends = list(itertools.accumulate(stage.tasks for stage in stages))
    claims = itertools.count(1)
    finished = [itertools.count(1) for _ in stages]
    complete = [threading.Event() for _ in stages]

    def work(worker: int, claim: int) -> None:
        while claim < ends[-1]:
            index = bisect.bisect_right(ends, claim)
            if index:
                complete[index - 1].wait()
            tasks, do = stages[index]
            try:
                do(claim - ends[index] + tasks, worker)
            finally:
                if next(finished[index]) == tasks:
                    complete[index].set()
            claim = next(claims)

    helpers: list[Future[None]] = []
    for worker in range(1, min(workers, max(stage.tasks for stage in stages))):
        try:
            helpers.append(_pool().submit(lambda worker: work(worker, next(claims)), worker))
        except RuntimeError:  # no new threads at interpreter shutdown
            break
    try:
        work(0, 0)
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
