"""The time that the CPU engine takes for a pass, by a model.

Each stage costs its arithmetic at a measured rate, and the spectra that it moves at the speed of the memory that holds
them: one core's cache, the cache that cores share, or neither. What matters is the order of the candidates; a machine
with other rates scales them alike. There are two sets of rates, by the length of vectors (registers.py).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from ..integers import area, bins, ceil_div
from .butterfly import flops
from .fft2d import buffer_size
from .lines import is_long, longest
from .product import SLAB
from .registers import hold_lines
from .schedule import Schedule, Work, regions
from .tiles import OUTPUTS
from .vector import lanes


class Cost(NamedTuple):
    """Seconds of one stage, by a model."""

    arithmetic: float
    memory: float
    begin: float = 0.0

    @property
    def seconds(self) -> float:
        return self.arithmetic + self.memory + self.begin

    @property
    def bound(self) -> str:
        """What takes most of the time."""
        return max((self.arithmetic, "arithmetic"), (self.memory, "memory"), (self.begin, "overhead"))[1]

    def times(self, factor: float, begin: float = 0.0) -> "Cost":
        """Divided among threads, and begun."""
        return Cost(self.arithmetic * factor, self.memory * factor, self.begin * factor + begin)


@dataclass(frozen=True)
class CpuRates:
    """One thread: operations on vectors of L lanes per second, seconds of overheads, bytes per second of memories."""

    transform: float  # additions, multiplications
    line: float  # lines that one transform reads and writes
    product: float  # fused multiply-adds of forward and input_grad
    pairs: float  # ... of weight_grad
    call: float  # a tile of a product
    task: float  # a rectangle of the output
    stage: float  # a stage of all threads
    scattered: float  # bytes that transforms move, of more than near_bytes
    far: float  # ... of more than shared_bytes
    streamed: float  # bytes that products read, of more than shared_bytes
    near_bytes: int  # spectra that one core's cache holds
    shared_bytes: int  # ... and the cache that cores share


# Least squares by perf/fit.py over timings of all schedules of 12 layers at all lengths, those near the fastest of the
# same pass weighing most; two threads, numba 0.68.1. near_bytes are 1.5 times a core's second-level cache.
# AMD EPYC (Zen 5, AVX-512, 1 MB of second-level cache a core, 32 MB shared), 2026-11-25: 3,412 timings, root mean
# square error 24 %; what the rates choose is on the average 0.6 % slower than the fastest choice.
LONG_VECTORS = CpuRates(
    transform=12.1e9, line=1.28e9, product=12.6e9, pairs=4.8e9, call=11.6e-9, task=2.1e-6, stage=32e-6,
    scattered=150e9, far=16e9, streamed=72e9, near_bytes=3 * 2**19, shared_bytes=3 * 2**23,
)  # fmt: skip
# AMD EPYC (Zen 3, AVX2, 512 KB a core, 32 MB shared with other machines), 2026-11-29: 3,614 timings, error 26 %, 2.5 %
# slower (2.2 % with near_bytes of 1.5 MB, which leave out what the scratch of T = 128 costs; no length beyond 64 was
# timed). Products ask for spectra in time and never wait for them.
SHORT_VECTORS = CpuRates(
    transform=2.13e9, line=math.inf, product=4.52e9, pairs=5.24e9, call=19.9e-9, task=3.9e-6, stage=25e-6,
    scattered=37.3e9, far=8.99e9, streamed=math.inf, near_bytes=3 * 2**18, shared_bytes=2**23,
)  # fmt: skip
CPU = LONG_VECTORS if hold_lines() else SHORT_VECTORS
APART = 4 * CPU.stage  # seconds that a transform costs more as a call of its own than within a pass


def passes_of(T: int, inputs: int | None = None) -> int:
    """How often a transform reads and writes its lines."""
    return 2 if is_long(T, inputs) else 1


def busiest(count: int, size: int, workers: int) -> float:
    """The share of the busiest worker where tasks take `size` of `count` things, the last one the rest."""
    tasks = ceil_div(count, size)
    rounds, alone = ceil_div(tasks, workers), tasks % workers == 1 or workers == 1
    return (rounds * size - (tasks * size - count if alone else 0)) / count


@dataclass(frozen=True)
class CpuModel:
    """The cost of one pass on the CPU engine."""

    work: Work
    schedule: Schedule
    rates: CpuRates = CPU

    def costs(self) -> list[Cost]:
        """Of the transforms of the first and second operand, of multiply, and of inverse."""
        return self._staged() if self.schedule.order == "staged" else self._rectangles()

    def _bytes(self, lines: float) -> float:
        return lines * area(self.work.size) * self.work.line * self.work.itemsize

    def _transform(self, tasks: int, operand: int, held: int) -> Cost:
        """Tasks of one operand or result, whose spectra take `held` reals at a time; weights are real."""
        (tall, wide), (rows, inputs), rates = self.work.size, self.work.extents[operand], self.rates
        nbytes, real = held * self.work.itemsize, operand == 1 and self.schedule.order != "staged"
        columns = wide / 2 + 1 if real else wide
        speed = rates.far if nbytes > rates.shared_bytes else rates.scattered
        all_lines = self._bytes(tasks / 2 if real else tasks)
        moved = all_lines / speed if nbytes > rates.near_bytes else 0.0
        if buffer_size(self.work.size, self.work.itemsize) * self.work.itemsize > rates.near_bytes:
            moved += all_lines / rates.far  # from rows to columns
        of_row = flops(wide, real, inputs, longest(wide, wide))  # levels as if no value were zero
        of_column = flops(tall, inputs=rows, one_piece=longest(tall, rows))
        lines = rows * wide * passes_of(wide) + columns * tall * passes_of(tall, rows)
        return Cost(tasks * ((rows * of_row + columns * of_column) / rates.transform + lines / rates.line), moved)

    def _read(self, lines: float, held: int) -> float:
        """Seconds that a product waits for spectra of `held` reals."""
        return self._bytes(lines) / self.rates.streamed if held * self.work.itemsize > self.rates.shared_bytes else 0.0

    def _rectangles(self) -> list[Cost]:
        work, schedule, rates, at = self.work, self.schedule, self.rates, regions(self.work, self.schedule)
        by_images, shared = schedule.order == "by_images", schedule.share_weights
        first_held = at.private_second - at.private_first if by_images else at.second - at.first
        second_held = at.result - at.second if shared else at.private_result - at.private_second
        result_held = at.private - at.private_result

        piece, pieces = work.largest(schedule.width), work.piece_count(schedule.width)
        turns = ceil_div(work.image_blocks, schedule.piece)
        images = work.image_blocks * work.inputs
        everything = work.all_weights()
        weights = everything.blocks * everything.channels if shared else pieces * piece.blocks * piece.channels
        sums = pieces * work.image_blocks * piece.groups
        tiles = piece.outputs // OUTPUTS + ceil_div(piece.outputs % OUTPUTS, 2)
        multiply = bins(work.size) * sums * (8 * piece.depth * piece.outputs / rates.product + tiles * rates.call)
        reads = self._read(sums * piece.depth, first_held) + self._read(turns * weights / 2, second_held)

        even, uneven = 1 / schedule.workers, busiest(pieces * (turns if shared else 1), 1, schedule.workers)
        if by_images and work.units == 1:
            uneven = busiest(work.image_blocks, schedule.piece, schedule.workers)
        elif by_images:
            uneven = busiest(turns * work.units, 1, schedule.workers)
        chunks = ceil_div(work.image_blocks, schedule.chunk)
        return [
            self._transform(images, 0, first_held).times(uneven if by_images else even, rates.stage * (2 * chunks - 1)),
            self._transform(weights, 1, second_held).times(even if shared else uneven, begin=rates.stage * by_images),
            Cost(multiply, reads, turns * pieces * rates.task).times(uneven),
            self._transform(sums * piece.outputs, 2, result_held).times(uneven),
        ]

    def _staged(self) -> list[Cost]:
        work, schedule, rates, at = self.work, self.schedule, self.rates, regions(self.work, self.schedule)
        held, result_held = at.result, at.workers - at.result
        x, dy = work.image_blocks * work.C, work.image_blocks * work.K
        chunks, turns = ceil_div(work.image_blocks, schedule.chunk), ceil_div(work.pair_lines, schedule.pair_lines)

        slabs, tiles = ceil_div(work.image_blocks, SLAB), bins(work.size) * 2 * work.pair_lines
        multiply = tiles * (
            8 * work.lanes * work.image_blocks / rates.pairs + slabs * (6 * work.lanes / rates.pairs + rates.call)
        )
        moved = self._read((x + dy) * turns + work.pair_lines * (2 * chunks - 1), held + result_held)
        even, begin = 1 / schedule.workers, chunks * rates.stage
        return [
            self._transform(x, 0, held).times(even, begin),
            self._transform(dy, 1, held).times(even, begin),
            Cost(multiply, moved).times(even, begin * turns),
            self._transform(work.pair_lines, 2, result_held).times(even, begin * turns),
        ]


def direct_rate(itemsize: int, threads: int) -> float:
    """Flops per second of all threads in a loop of fused multiply-adds."""
    return threads * CPU.product * 2 * lanes(itemsize)
