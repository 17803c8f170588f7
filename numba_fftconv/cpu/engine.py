"""The CPU engine: a pass as transform, multiply and inverse, cut into tasks by its Schedule (see schedule.py).

All spectra lie in one workspace; the arrays of the caller are read and written in place, whatever their strides.
Kernels release the GIL and know nothing of passes: they get vectors of int64 that say where planes, spectra and
products lie.
"""

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from . import fft2d, product, threads
from .schedule import Piece, Schedule, Spectrum, Work, ceil_div, regions
from .threads import Stage

Kernel = Callable[..., None]
CLAIMS = 4  # claims by each worker of a stage of equal tasks
LEAST = 8192  # lines of a claim that is worth handing to another thread


class Operand(NamedTuple):
    """An array of planes [outer, channel, row, column] and the plane maps of its two axes."""

    array: np.ndarray
    rows: Any
    columns: Any

    @property
    def segments(self) -> int:
        return int(self.rows.segments * self.columns.segments)

    def planes(self, unit: int, unit_blocks: int) -> np.ndarray:
        """What a kernel knows of them: lanes are (outer index, segment), `unit` lanes fill `unit_blocks` blocks."""
        outer, channel, row, column = self.array.strides
        lanes = self.array.shape[0] * self.segments
        return self._vector(
            [outer, 0, channel, row, column, self.segments, self.columns.segments], [unit, unit_blocks, lanes]
        )

    def planes_of_pairs(self, blocks: int) -> np.ndarray:
        """The same where lanes are (outer index, channel)."""
        outer, channel, row, column = self.array.strides
        channels, lanes = self.array.shape[1], self.array.shape[0] * self.array.shape[1]
        return self._vector([outer, channel, 0, row, column, channels, 1], [lanes, blocks, lanes])

    def _vector(self, strides: list[int], units: list[int]) -> np.ndarray:
        maps = [n for m in self[1:] for n in (m.start, m.advance, m.spacing, m.first, m.limit)]
        return np.array([self.array.ctypes.data, *strides, *self.array.shape[2:], *units, *maps], np.int64)


class Side(NamedTuple):
    """An operand or the result as kernels know it: the kernel between planes and spectrum, and where the planes lie."""

    kernel: Kernel
    planes: np.ndarray


@lru_cache(4096)
def descriptor(spectrum: Spectrum, first_block: int = 0, first_channel: int = 0) -> np.ndarray:
    """What a transform knows of a spectrum: it begins with this block and this channel of the planes."""
    where = spectrum.at, spectrum.channels, spectrum.bin_pitch, spectrum.row_pitch
    return np.array([*where, first_block, first_channel], np.int64)


@lru_cache(4096)
def product_job(work: Work, piece: Piece, images: Spectrum, weights: Spectrum, result: Spectrum) -> np.ndarray:
    """What a product of forward or input_grad knows: spectra that begin with the first line of the piece."""
    forward = work.pass_name == "forward"
    output, step, leap = (1, work.line, work.lanes * work.line) if forward else (work.line, 1, weights.block_pitch)
    return np.array([
        images.at, images.row_pitch, images.bin_pitch, images.block_pitch, piece.depth * work.line,
        result.at, result.row_pitch, result.bin_pitch, result.block_pitch, piece.outputs * work.line,
        weights.at, weights.row_pitch, weights.bin_pitch, leap, work.Kg,
        result.blocks, output, step, not forward, piece.groups, piece.depth, piece.outputs,
    ], np.int64)  # fmt: skip


def transform_weights(work: Work, weights: Operand, workers: int) -> np.ndarray:
    """The spectrum of all weights, as an array of its own."""
    kernel = fft2d.transform_kernel(str(weights.array.dtype), work.T, True, work.extents[1])
    spectrum, scratch = work.all_weights(), fft2d.buffer_size(work.T, work.itemsize)
    space = threads.memory((spectrum.size + workers * scratch) * work.itemsize).view(weights.array.dtype)
    planes, where = weights.planes(work.unit, work.unit_blocks), descriptor(spectrum)
    stage = equal_tasks(
        spectrum.blocks * spectrum.channels,
        work.T**2,
        workers,
        lambda lo, hi, worker: kernel(lo, hi, space, spectrum.size + worker * scratch, planes, where),
    )
    threads.share([stage], workers)
    return space[: spectrum.size].copy()


def claims(tasks: int, lines: int, workers: int) -> list[tuple[int, int]]:
    """Ranges (lo, hi) of tasks that cost as much as the transform of so many lines each, enough for one claim."""
    grain = max(ceil_div(tasks, CLAIMS * workers), LEAST // lines)
    return [(lo, min(tasks, lo + grain)) for lo in range(0, tasks, grain)]


def equal_tasks(tasks: int, lines: int, workers: int, do: Callable[[int, int, int], None]) -> Stage:
    """The stage of do(lo, hi, worker) over all tasks, many in a claim."""
    parts = claims(tasks, lines, workers)
    return Stage(len(parts), lambda i, worker: do(*parts[i], worker))


class Run:
    """One call of a pass: arrays, workspace, kernels, and the stages on them.

    `second` is the weights, the spectrum of all weights, or for weight_grad the gradient of the output.
    """

    def __init__(
        self,
        work: Work,
        schedule: Schedule,
        first: Operand,
        second: Operand | np.ndarray,
        result: Operand,
        space: np.ndarray,
        bias: np.ndarray | None = None,
    ) -> None:
        T, dtype, images = work.T, str(space.dtype), (work.images, work.image_blocks)
        staged = schedule.order == "staged"
        self.held = first, second, result  # kernels get addresses: what lies there lives as long as the run
        self.work, self.schedule, self.space, self.at = work, schedule, space, regions(work, schedule)
        self.first = Side(fft2d.transform_kernel(dtype, T, False, work.extents[0]), first.planes(*images))
        self.second, self.weights = None, space
        if isinstance(second, np.ndarray):
            self.weights = second
        else:
            lanes = images if staged else (work.unit, work.unit_blocks)
            self.second = Side(fft2d.transform_kernel(dtype, T, not staged, work.extents[1]), second.planes(*lanes))
        planes = result.planes_of_pairs(work.pair_lines) if staged else result.planes(*images)
        self.result = Side(fft2d.inverse_kernel(dtype, T, work.extents[2]), planes)
        self.multiply = (product.weight_product_kernel if staged else product.product_kernel)(dtype)
        self.bias = np.zeros(max(work.C, work.K), dtype) if bias is None else np.ascontiguousarray(bias)
        self.scale = space.dtype.type(1 / ((2 if staged else 1) * T**2))

    def __call__(self) -> None:
        orders = {"staged": self._staged, "by_outputs": self._by_outputs, "by_images": self._by_images}
        threads.share(orders[self.schedule.order](), self.schedule.workers)

    def profile(self) -> list[float]:
        """Run once; seconds of the two transforms, multiply and inverse, of all threads divided by their number."""
        spent: list[list[float]] = [[], [], [], []]

        def timed(stage: int, kernel: Kernel) -> Kernel:
            def call(*arguments: Any) -> None:
                start = time.perf_counter()
                kernel(*arguments)
                spent[stage].append(time.perf_counter() - start)

            return call

        self.first = self.first._replace(kernel=timed(0, self.first.kernel))
        if self.second is not None:
            self.second = self.second._replace(kernel=timed(1, self.second.kernel))
        self.multiply = timed(2, self.multiply)
        self.result = self.result._replace(kernel=timed(3, self.result.kernel))
        self()
        return [sum(times) / self.schedule.workers for times in spent]

    # ---- orders of work ----------------------------------------------------------------------------------------------

    def _by_outputs(self) -> list[Stage]:
        work, size = self.work, self.schedule.piece
        pieces = work.all_pieces()
        stages, shared = self._shared_weights()
        for first in range(0, work.image_blocks, self.schedule.chunk):
            images = work.packed(self.at.first, min(self.schedule.chunk, work.image_blocks - first), work.inputs)

            def task(i: int, worker: int, first: int = first, images: Spectrum = images) -> None:
                piece = pieces[i]
                weights = self._piece_of_weights(piece, worker) if shared is None else shared.of(piece)
                for start in range(0, images.blocks, size):
                    at = images.at + start * images.block_pitch + piece.first_input * work.line
                    blocks = range(first + start, first + min(start + size, images.blocks))
                    self._rectangle(piece, images._replace(at=at), weights, blocks, worker)

            stages += [self._transforms((self.first, images, first)), Stage(len(pieces), task)]
        return stages

    def _by_images(self) -> list[Stage]:
        work, size = self.work, self.schedule.piece
        stages, weights = self._shared_weights()
        assert weights is not None

        def task(i: int, worker: int) -> None:
            turn, unit = divmod(i, work.units)
            pieces, blocks = work.pieces(unit), range(turn * size, min((turn + 1) * size, work.image_blocks))
            channels = pieces[0].groups * pieces[0].depth
            images = work.packed(self._private(worker, self.at.private_first), len(blocks), channels)
            self._transform(self.first, images, blocks.start, pieces[0].first_input, worker)
            for piece in pieces:
                self._rectangle(piece, images, weights.of(piece), blocks, worker)

        return [*stages, Stage(ceil_div(work.image_blocks, size) * work.units, task)]

    def _staged(self) -> list[Stage]:
        work, schedule, stages = self.work, self.schedule, []
        assert self.second is not None
        for first in range(0, work.image_blocks, schedule.chunk):
            blocks = min(schedule.chunk, work.image_blocks - first)
            x, dy = work.packed(self.at.first, blocks, work.C), work.packed(self.at.second, blocks, work.K)
            stages.append(self._transforms((self.first, x, first), (self.second, dy, first)))
            for line in range(0, work.pair_lines, schedule.pair_lines):
                sums = work.packed(self.at.result, min(schedule.pair_lines, work.pair_lines - line), 1)
                job = self._pair_job(x, dy, sums, line, fresh=first == 0)
                lines = 4 * work.T * sums.blocks * blocks
                stages.append(equal_tasks(work.T, lines, schedule.workers, partial(self._multiply_rows, job)))
                if first + blocks == work.image_blocks:
                    inverse = partial(self._inverse, descriptor(sums, line))
                    stages.append(equal_tasks(sums.blocks, work.T**2, schedule.workers, inverse))
        return stages

    # ---- stages ------------------------------------------------------------------------------------------------------

    def _shared_weights(self) -> tuple[list[Stage], Spectrum | None]:
        """What transforms the weights that all tasks share, and their spectrum; None where each task has its own."""
        if self.second is None:
            return [], self.work.all_weights()
        if not self.schedule.share_weights:
            return [], None
        spectrum = self.work.all_weights(self.at.second)
        return [self._transforms((self.second, spectrum, 0))], spectrum

    def _piece_of_weights(self, piece: Piece, worker: int) -> Spectrum:
        """The weights of one piece, transformed into the worker's own region."""
        assert self.second is not None
        at = self._private(worker, self.at.private_second)
        spectrum = self.work.weights(at, piece.blocks, piece.channels)
        self._transform(self.second, spectrum, piece.first_block, piece.first_channel, worker)
        return spectrum

    def _transforms(self, *jobs: tuple[Side, Spectrum, int]) -> Stage:
        """All planes of some operands, from a block on, to their spectra."""
        tasks = [
            (side, descriptor(spectrum, block), part)
            for side, spectrum, block in jobs
            for part in claims(spectrum.blocks * spectrum.channels, self.work.T**2, self.schedule.workers)
        ]

        def task(i: int, worker: int) -> None:
            side, where, part = tasks[i]
            side.kernel(*part, self.space, self._private(worker), side.planes, where)

        return Stage(len(tasks), task)

    def _transform(self, side: Side, spectrum: Spectrum, first_block: int, first_channel: int, worker: int) -> None:
        where = descriptor(spectrum, first_block, first_channel)
        side.kernel(0, spectrum.blocks * spectrum.channels, self.space, self._private(worker), side.planes, where)

    def _rectangle(self, piece: Piece, images: Spectrum, weights: Spectrum, blocks: range, worker: int) -> None:
        """Multiplies the spectra of some lane blocks of images by those of a piece of the weights, and inverts them."""
        work = self.work
        at = self._private(worker, self.at.private_result)
        result = work.packed(at, len(blocks), piece.groups * piece.outputs)
        job = product_job(work, piece, images, weights, result)
        self.multiply(0, work.T, work.T, self.space, self.weights, job)
        where = descriptor(result, blocks.start, piece.first_output)
        self._inverse(where, 0, result.blocks * result.channels, worker)

    def _multiply_rows(self, job: np.ndarray, lo: int, hi: int, worker: int) -> None:
        self.multiply(lo, hi, self.work.T, self.space, job)

    def _inverse(self, where: np.ndarray, lo: int, hi: int, worker: int) -> None:
        scratch = self._private(worker)
        self.result.kernel(lo, hi, self.space, scratch, self.result.planes, where, self.bias, self.scale)

    # ---- what the kernels are told -----------------------------------------------------------------------------------

    def _private(self, worker: int, region: int = 0) -> int:
        return self.at.workers + worker * self.at.private + region

    def _pair_job(self, x: Spectrum, dy: Spectrum, sums: Spectrum, line: int, fresh: bool) -> np.ndarray:
        work = self.work
        return np.array([
            x.at, x.row_pitch, x.bin_pitch, x.block_pitch, 0,
            sums.at, sums.row_pitch, sums.bin_pitch, 0, 0,
            dy.at, dy.row_pitch, dy.bin_pitch, dy.block_pitch, 0,
            x.blocks, line * work.line, sums.blocks, work.pairs, work.Cg, work.Kg, fresh,
        ], np.int64)  # fmt: skip
