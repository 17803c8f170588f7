"""Threads that help a caller, and the memory that they work in.

The calling thread works too, and never waits for a helper that has not begun: several callers may share the pool, a
forked child makes its own, and where no helper can be had (the interpreter is shutting down) the caller does all.
"""

import contextlib
import itertools
import mmap
import os
import threading
import traceback
from collections.abc import Callable
from functools import cache
from queue import SimpleQueue

import numba
import numpy as np

from .worker import watch_kernel

HUGE_PAGE = 2**21
INTERRUPTS = 8  # that a caller may suffer before its helpers are left to themselves


def thread_count() -> int:
    """Threads that a pass may use: what Numba is set to, by NUMBA_NUM_THREADS or by the cores of this process."""
    return int(numba.config.NUMBA_NUM_THREADS)


Job = tuple[Callable[[int], None], int]


class _Pool:
    """Threads that do what is put into a queue. The futures of an executor take a twentieth of a small layer's time.

    A caller rings the bell after it has put its jobs there (worker.py). Before helpers sleep they watch it for a while,
    where each has a core of its own.
    """

    def __init__(self, count: int) -> None:
        self.bell = np.zeros(1, np.int64)
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._watch = watch_kernel()
        self._have_cores = count < numba.config.NUMBA_DEFAULT_NUM_THREADS  # one of which is the caller's
        self._helpers = 0
        with contextlib.suppress(RuntimeError):  # no new threads at interpreter shutdown
            for _ in range(count):
                threading.Thread(target=self._help, name="numba_fftconv", daemon=True).start()
                self._helpers += 1

    def submit(self, work: Callable[[int], None], worker: int) -> None:
        """Have a helper call work(worker) as soon as one is free, if there is any."""
        if self._helpers:
            self._jobs.put((work, worker))

    def _help(self) -> None:
        while True:
            work, worker = self._jobs.get()
            try:
                work(worker)
            except BaseException:
                traceback.print_exc()
            del work  # it holds the arrays of a caller
            heard = self.bell[0]
            if self._have_cores and self._jobs.empty():  # no job that it has rung for
                self._watch(self.bell, heard)


@cache
def _pool() -> _Pool:
    return _Pool(thread_count() - 1)


def bell() -> np.ndarray:
    """What worker 0 must ring."""
    return _pool().bell


def together(work: Callable[[int], None], workers: int) -> None:
    """Call work(0) here and work(1), work(2), ... in helpers, as far as helpers are free; return when work(0) does.

    `work` must find by itself what is left to do, and work(0) must return only when all is done: a helper may begin
    late, or never. Where the caller is interrupted, work(0) is called again, so that nobody works any more when the
    interrupt is raised.
    """
    interrupt: BaseException | None = None
    helpers = iter(range(1, workers))
    for _ in range(INTERRUPTS):
        try:
            for worker in helpers:
                _pool().submit(work, worker)
            work(0)
            break
        except BaseException as error:
            interrupt, helpers = interrupt or error, iter(())
    if interrupt is not None:
        raise interrupt


class _Memory(threading.local):
    """One growing buffer for each thread that calls."""

    buffer: np.ndarray | None = None
    generation = 0


_memory = _Memory()
_generation = itertools.count(1)
_current = next(_generation)


def memory(nbytes: int) -> np.ndarray:
    """At least `nbytes` bytes from a page boundary on, kept for this thread's next call."""
    held = _memory.buffer
    if held is None or held.nbytes < nbytes or _memory.generation != _current:
        _memory.buffer = None
        raw = _pages(max(nbytes, HUGE_PAGE) + HUGE_PAGE)
        held = raw[-raw.ctypes.data % HUGE_PAGE :]
        _memory.buffer, _memory.generation = held, _current
    return held


def _pages(nbytes: int) -> np.ndarray:
    """Fresh memory in huge pages, where the system has them: lines of a spectrum lie kilobytes apart, and each small
    page that they touch costs a translation. An allocator may hand out what has been in use, in small pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(nbytes, np.uint8)
    try:
        pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(str(error)) from error
    with contextlib.suppress(OSError):  # a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def forget_memory() -> None:
    """Free this thread's buffer now, and those of the others at their next call."""
    global _current
    _current = next(_generation)
    _memory.buffer = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
