"""The CPU engine: a pass on arrays, by the program of its schedule (program.py) and compiled kernels.

All spectra lie in one workspace; the arrays of the caller are read and written in place, whatever their strides.
Kernels know nothing of passes: they get vectors of int64 that say where planes, spectra and products lie.
"""

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..cache import address
from ..dtypes import computed, name_of
from ..integers import area
from . import fft2d, planes, product, threads
from .fft2d import buffer_size
from .program import FIRST, KERNELS, MULTIPLY, SECOND, Program, program, transform_program
from .samples import REAL, SAMPLES
from .schedule import Schedule, Work, regions, spectrum_of
from .worker import NO_CLAIM, arguments, worker_kernel

Kernel = Callable[..., Any]
PAUSE = 20e-6  # seconds that a worker sleeps whose stage must wait


class Operand(NamedTuple):
    """An array of planes [outer, channel, row, column] and the plane maps of its two axes; `written` of a result."""

    array: np.ndarray
    rows: Any
    columns: Any
    written: bool = False

    def planes(self, unit: int, unit_blocks: int, exchanged: bool = False) -> np.ndarray:
        """What a kernel knows of them: lanes are (outer index, segment), `unit` lanes fill `unit_blocks` blocks.

        Where `exchanged`, lanes are channels, and what the kernel counts as channels are (outer index, segment).
        """
        segments = int(self.rows.segments * self.columns.segments)
        outer, channel = self.array.strides[:2]
        lanes = self.array.shape[exchanged] * (1 if exchanged else segments)
        strides = [channel, 0, outer] if exchanged else [outer, 0, channel]
        inner = [1, segments] if exchanged else [segments, 1]
        return self._vector(strides, [*inner, self.columns.segments], [unit, unit_blocks, lanes])

    def planes_of_pairs(self, blocks: int) -> np.ndarray:
        """The same where lanes are (outer index, channel)."""
        outer, channel = self.array.strides[:2]
        channels, lanes = self.array.shape[1], self.array.shape[0] * self.array.shape[1]
        return self._vector([outer, channel, 0], [channels, 1, 1], [lanes, blocks, lanes])

    def _vector(self, strides: list[int], inner: list[int], units: list[int]) -> np.ndarray:
        maps = (*self.rows.numbers, *self.columns.numbers)
        array, dtype = self.array, name_of(self.array.dtype)
        places = array.ctypes.data, *strides, *array.strides[2:], *inner, *array.shape[2:]
        kernels = address(planes.placer()), self._mover(dtype)
        return np.array([*places, *units, *maps, SAMPLES.get(dtype, REAL), *kernels])

    def _mover(self, dtype: str) -> int:
        """The address of the kernel that moves rows, 0 where they are vectors: neighbouring reals in the array and in
        the tiles."""
        neighbours = self.array.strides[-1] == self.array.itemsize and self.rows.spacing == self.columns.spacing == 1
        if neighbours and dtype not in SAMPLES:
            return 0
        return address((planes.writer if self.written else planes.reader)(computed(dtype), neighbours))


@cache
def kernels(work: Work) -> tuple[Kernel, Kernel, Kernel, Kernel]:
    """The transforms of both operands, the product and the inverse, in the order of their numbers in a program."""
    first, second, result = work.extents
    multiply = product.weight_product_kernel if work.sums_lanes else product.product_kernel
    return (
        fft2d.transform_kernel(work.dtype, work.size, False, first),
        fft2d.transform_kernel(work.dtype, work.size, not work.sums_lanes, second),
        multiply(work.dtype),
        fft2d.inverse_kernel(work.dtype, work.size, result),
    )


@cache
def addresses(chosen: tuple[Kernel, ...]) -> np.ndarray:
    return np.array([address(kernel) for kernel in chosen], np.int64)


@cache
def zeros(count: int, dtype: str) -> np.ndarray:
    return np.zeros(count, dtype)


@dataclass
class Run:
    """One call of a pass: its program, kernels, and arrays.

    Kernels get addresses: what lies there lives as long as the run, which each of its workers holds.
    """

    program: Program
    dtype: str
    workers: int
    kernels: tuple[Kernel, ...]
    space: np.ndarray
    images: np.ndarray  # where spectra of the first operand lie: in the workspace, or in an array of their own
    filters: np.ndarray  # the same of the second
    planes: tuple[np.ndarray, np.ndarray, np.ndarray]  # of both operands and the result
    bias: np.ndarray
    scale: Any
    own: int  # where the region of the first worker begins, and its size
    own_size: int
    held: tuple[Any, ...]

    @classmethod
    def of_pass(
        cls,
        work: Work,
        schedule: Schedule,
        first: Operand | np.ndarray,
        second: Operand | np.ndarray,
        result: Operand,
        space: np.ndarray,
        bias: np.ndarray | None = None,
    ) -> "Run":
        """An operand is planes, or the spectrum of all of them: images, and weights or in weight_grad images too."""
        lanes, at = (work.images, work.image_blocks), regions(work, schedule)
        if work.sums_lanes:
            of_result = result.planes_of_pairs(work.pair_lines)
        else:
            of_result = result.planes(*lanes, work.exchanged)

        def read(operand: Operand | np.ndarray, lanes: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, bool]:
            """The memory of its spectrum, what a kernel knows of its planes, and whether it is a spectrum."""
            if isinstance(operand, Operand):
                return space, operand.planes(*lanes, work.exchanged), False
            return operand, of_result, True  # planes that no step reads

        images, of_first, first_given = read(first, lanes)
        of_weights = lanes if work.sums_lanes else (work.unit, work.unit_blocks)
        filters, of_second, second_given = read(second, of_weights)
        return cls(
            program=program(work, schedule, (first_given, second_given)),
            dtype=work.dtype,
            workers=schedule.workers,
            kernels=kernels(work),
            space=space,
            images=images,
            filters=filters,
            planes=(of_first, of_second, of_result),
            bias=zeros(max(work.C, work.K), work.dtype) if bias is None else np.array(bias),
            scale=space.dtype.type(1 / ((2 if work.sums_lanes else 1) * area(work.size))),
            own=at.workers,
            own_size=at.private,
            held=(first, second, result),
        )

    @classmethod
    def of_transform(cls, work: Work, name: str, planes: Operand, workers: int, space: np.ndarray) -> "Run":
        """The transform of the whole input or weight of a forward pass, into a spectrum at the beginning of `space`."""
        kernel = FIRST if name == "input" else SECOND
        lanes = (work.images, work.image_blocks) if name == "input" else (work.unit, work.unit_blocks)
        transform = fft2d.transform_kernel(work.dtype, work.size, kernel == SECOND, work.extents[kernel])
        return cls(
            program=transform_program(work, workers, name),
            dtype=work.dtype,
            workers=workers,
            kernels=(transform,) * KERNELS,
            space=space,
            images=space,
            filters=space,
            planes=(planes.planes(*lanes),) * 3,
            bias=zeros(1, work.dtype),
            scale=space.dtype.type(1),
            own=spectrum_of(work, name).reals,
            own_size=buffer_size(work.size, work.itemsize),
            held=(planes,),
        )

    def __call__(self) -> None:
        """Run it in this thread and in helpers."""
        run, calls = worker_kernel(self.dtype), addresses(self.kernels)
        steps, tasks, stages, most_at_once = self.program
        state, claims = np.zeros(len(stages), np.int64), np.full(self.workers, NO_CLAIM)
        arrays = self.space, self.images, self.filters, *self.planes, self.bias
        known = claims, steps, tasks, stages, state, *arrays, self.scale, calls
        bell = threads.bell()

        def work(worker: int) -> None:
            own = self.own + worker * self.own_size
            while run(worker, bell, *known, own):
                time.sleep(PAUSE)

        threads.together(work, min(self.workers, most_at_once))

    def profile(self) -> list[float]:
        """Run it step by step; seconds of each kernel, those of all threads divided by their number."""
        spent, lock = [0.0] * KERNELS, threading.Lock()
        with ThreadPoolExecutor(self.workers) as pool:
            for begin, end in itertools.pairwise(self.program.stages):
                claims = iter(range(begin, end))

                def work(worker: int, claims: Any = claims) -> None:
                    for task in claims:
                        for step in range(*self.program.tasks[task : task + 2]):
                            kernel, seconds = self._timed(self.program.steps[step], self.own + worker * self.own_size)
                            with lock:
                                spent[kernel] += seconds

                list(pool.map(work, range(self.workers)))
        return [seconds / self.workers for seconds in spent]

    def _timed(self, step: np.ndarray, own: int) -> tuple[int, float]:
        """Does one step; its kernel and its seconds."""
        kernel, lo, hi, where = arguments(step, own)
        call = self.kernels[kernel]
        start = time.perf_counter()
        if kernel == MULTIPLY:
            call(lo, hi, self.images, self.filters, self.space, where)
        elif kernel < MULTIPLY:
            call(lo, hi, self.space, own, self.planes[kernel], where)
        else:
            call(lo, hi, self.space, own, self.planes[2], where, self.bias, self.scale)
        return kernel, time.perf_counter() - start
