"""The CPU engine: a pass as transform, multiply and inverse, cut into tasks by its Schedule (see schedule.py).

All spectra lie in one workspace; the arrays of the caller are read and written in place, whatever their strides. Kernels release
the GIL and know nothing of passes: they get vectors of int64 that say where planes, spectra and products lie.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import fft2d, product, threads
from .schedule import Piece, Schedule, Spectrum, Work, ceil_div, regions

Kernel = Callable[..., None]
CLAIMS = 4  # claims by each worker of a stage of equal tasks


class Operand(NamedTuple):
    """An array of planes [outer, channel, row, column] and the plane maps of its two axes."""

    array: np.ndarray
    rows: Any
    columns: Any

    @property
    def segments(self) -> int:
        return int(self.rows.segments * self.columns.segments)

    def extent(self, T: int) -> int:
        """Tile positions below which all samples lie, rounded up to a size that kernels exist for."""
        return fft2d.quarters(max(reach(m, n, T) for m, n in zip(self[1:], self.array.shape[2:], strict=True)), T)

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


def reach(m: Any, samples: int, T: int) -> int:
    """The end of the tile positions of a plane map that can hold samples."""
    last = (samples - 1) * m.spacing - m.start + 1
    return int(min(m.limit, T, last if m.segments == 1 else T))


class Kernels(NamedTuple):
    """The compiled kernels of a pass."""

    first: Kernel
    second: Kernel | None
    multiply: Kernel
    inverse: Kernel


def kernels(work: Work, first: Operand, second: Operand | np.ndarray, result: Operand) -> Kernels:
    """Compiles what a pass needs, or finds it on disk or in memory."""
    T, dtype, staged = work.T, str(first.array.dtype), work.pass_name == "weight_grad"
    return Kernels(
        fft2d.transform_kernel(dtype, T, False, first.extent(T)),
        fft2d.transform_kernel(dtype, T, not staged, second.extent(T)) if isinstance(second, Operand) else None,
        (product.weight_product_kernel if staged else product.product_kernel)(dtype),
        fft2d.inverse_kernel(dtype, T, result.extent(T)),
    )


def descriptor(spectrum: Spectrum, first_block: int = 0, first_channel: int = 0) -> np.ndarray:
    """What a transform knows of a spectrum: it begins with this block and this channel of the planes."""
    where = spectrum.at, spectrum.channels, spectrum.bin_pitch, spectrum.row_pitch
    return np.array([*where, first_block, first_channel], np.int64)


def transform_weights(work: Work, weights: Operand, workers: int) -> np.ndarray:
    """The spectrum of all weights, as an array of its own."""
    kernel = fft2d.transform_kernel(str(weights.array.dtype), work.T, True, weights.extent(work.T))
    spectrum, scratch = work.all_weights(), fft2d.buffer_size(work.T, work.itemsize)
    space = threads.memory((spectrum.size + workers * scratch) * work.itemsize).view(weights.array.dtype)
    planes, where = weights.planes(work.unit, work.unit_blocks), descriptor(spectrum)
    share_equal(
        spectrum.blocks * spectrum.channels,
        workers,
        lambda lo, hi, worker: kernel(lo, hi, space, spectrum.size + worker * scratch, planes, where),
    )
    return space[: spectrum.size].copy()


def share_equal(tasks: int, workers: int, kernel: Callable[[int, int, int], None]) -> None:
    """kernel(lo, hi, worker) over tasks that take the same time, many in a claim."""
    grain = ceil_div(tasks, CLAIMS * workers)
    threads.share(
        ceil_div(tasks, grain), workers, lambda i, worker: kernel(i * grain, min(tasks, (i + 1) * grain), worker)
    )


class Run:
    """One call of a pass: arrays, workspace and kernels, and the stages on them. `second` may be the spectrum of all weights."""

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
        self.work, self.schedule, self.space, self.at = work, schedule, space, regions(work, schedule)
        self.first, self.second, self.result = first, second, result
        self.kernels = kernels(work, first, second, result)
        self.bias = np.zeros(max(work.C, work.K), space.dtype) if bias is None else np.ascontiguousarray(bias)
        self.scale = space.dtype.type(1 / ((2 if schedule.order == "staged" else 1) * work.T**2))

    def __call__(self) -> None:
        {"staged": self._staged, "by_outputs": self._by_outputs, "by_images": self._by_images}[self.schedule.order]()

    # ---- orders of work ----

    def _by_outputs(self) -> None:
        work = self.work
        pieces = [piece for unit in range(work.units) for piece in work.pieces(unit)]
        planes, results, weight_planes = (
            self._image_planes(self.first),
            self._image_planes(self.result),
            self._weight_planes(),
        )
        shared = self._shared_weights()
        for first in range(0, work.image_blocks, self.schedule.chunk):
            blocks = min(self.schedule.chunk, work.image_blocks - first)
            images = work.packed(self.at.first, blocks, work.inputs)
            self._share_transform(self.kernels.first, planes, images, first)

            def task(i: int, worker: int, first: int = first, images: Spectrum = images) -> None:
                piece, weights = pieces[i], shared
                if weights is None:
                    weights = work.weights(self._private(worker, self.at.private_second), piece.blocks, piece.channels)
                    self._transform(
                        self.kernels.second, weight_planes, weights, worker, piece.first_block, piece.first_channel
                    )
                for start in range(0, images.blocks, self.schedule.piece):
                    blocks = min(self.schedule.piece, images.blocks - start)
                    at = images.at + start * images.block_pitch + piece.first_input * work.line
                    self._rectangle(piece, images, at, weights, results, first + start, blocks, worker)

            threads.share(len(pieces), self.schedule.workers, task)

    def _by_images(self) -> None:
        work, size = self.work, self.schedule.piece
        planes, results = self._image_planes(self.first), self._image_planes(self.result)
        shared = self._shared_weights()
        assert shared is not None

        def task(i: int, worker: int) -> None:
            first, unit = i // work.units * size, work.pieces(i % work.units)
            blocks = min(size, work.image_blocks - first)
            images = work.packed(self._private(worker, self.at.private_first), blocks, unit[0].groups * unit[0].depth)
            self._transform(self.kernels.first, planes, images, worker, first, unit[0].first_input)
            for piece in unit:
                self._rectangle(piece, images, images.at, shared, results, first, blocks, worker)

        threads.share(ceil_div(work.image_blocks, size) * work.units, self.schedule.workers, task)

    def _staged(self) -> None:
        work, schedule, at = self.work, self.schedule, self.at
        operands = [(self.kernels.first, self._image_planes(self.first), at.first, work.C),
                    (self.kernels.second, self._image_planes(self.second), at.second, work.K)]  # fmt: skip
        results = self.result.planes_of_pairs(work.pair_lines)
        for first in range(0, work.image_blocks, schedule.chunk):
            blocks = min(schedule.chunk, work.image_blocks - first)
            x, dy = (work.packed(place, blocks, channels) for _, _, place, channels in operands)
            for (kernel, planes, _, _), images in zip(operands, (x, dy), strict=True):
                self._share_transform(kernel, planes, images, first)
            for line in range(0, work.pair_lines, schedule.pair_lines):
                lines = min(schedule.pair_lines, work.pair_lines - line)
                sums = work.packed(at.result, lines, 1)
                job = self._pair_job(x, dy, sums, line, fresh=first == 0)
                self._share(work.T, lambda lo, hi, worker, job=job: self.kernels.multiply(
                    lo, hi, work.T, self.space, self._private(worker), job))  # fmt: skip
                if first + blocks == work.image_blocks:
                    self._share(lines, partial(self._inverse, results, sums, line, 0))

    # ---- stages ----

    def _share_transform(self, kernel: Kernel, planes: np.ndarray, spectrum: Spectrum, first_block: int = 0) -> None:
        where = descriptor(spectrum, first_block)
        self._share(
            spectrum.blocks * spectrum.channels,
            lambda lo, hi, worker: kernel(lo, hi, self.space, self._private(worker), planes, where),
        )

    def _transform(
        self, kernel: Kernel, planes: np.ndarray, spectrum: Spectrum, worker: int, first_block: int, first_channel: int
    ) -> None:
        where = descriptor(spectrum, first_block, first_channel)
        kernel(0, spectrum.blocks * spectrum.channels, self.space, self._private(worker), planes, where)

    def _rectangle(
        self,
        piece: Piece,
        images: Spectrum,
        at: int,
        weights: Spectrum,
        results: np.ndarray,
        block: int,
        blocks: int,
        worker: int,
    ) -> None:
        """Multiplies the spectra of `blocks` lane blocks of images, which begin at `at`, by those of a piece, and inverts them."""
        work = self.work
        result = work.packed(self._private(worker, self.at.private_result), blocks, piece.groups * piece.outputs)
        job = self._job(piece, images, at, weights, result)
        self.kernels.multiply(
            0, work.T, work.T, self.space, self.second if isinstance(self.second, np.ndarray) else self.space, job
        )
        self._inverse(results, result, block, piece.first_output, 0, result.blocks * result.channels, worker)

    def _inverse(
        self,
        planes: np.ndarray,
        spectrum: Spectrum,
        first_block: int,
        first_channel: int,
        lo: int,
        hi: int,
        worker: int,
    ) -> None:
        where = descriptor(spectrum, first_block, first_channel)
        self.kernels.inverse(lo, hi, self.space, self._private(worker), planes, where, self.bias, self.scale)

    def _share(self, tasks: int, kernel: Callable[[int, int, int], None]) -> None:
        share_equal(tasks, self.schedule.workers, kernel)

    # ---- what the kernels are told ----

    def _private(self, worker: int, region: int = 0) -> int:
        return self.at.workers + worker * self.at.private + region

    def _image_planes(self, operand: Operand) -> np.ndarray:
        return operand.planes(operand.array.shape[0] * operand.segments, self.work.image_blocks)

    def _weight_planes(self) -> np.ndarray:
        return self.second.planes(self.work.unit, self.work.unit_blocks)

    def _shared_weights(self) -> Spectrum | None:
        """The weights that all tasks share, transformed; None where each task transforms its own."""
        if isinstance(self.second, np.ndarray):
            return self.work.all_weights()
        if not self.schedule.share_weights:
            return None
        spectrum = self.work.all_weights(self.at.second)
        self._share_transform(self.kernels.second, self._weight_planes(), spectrum)
        return spectrum

    def _job(self, piece: Piece, images: Spectrum, at: int, weights: Spectrum, result: Spectrum) -> np.ndarray:
        work = self.work
        line, forward, w_at = work.line, work.pass_name == "forward", weights.at
        if isinstance(self.second, np.ndarray) or self.schedule.share_weights:
            w_at += piece.first_block * weights.block_pitch + piece.first_channel * line
        output, step, leap = (1, line, work.lanes * line) if forward else (line, 1, weights.block_pitch)
        return np.array([
            at, images.row_pitch, images.bin_pitch, images.block_pitch, piece.depth * line,
            result.at, result.row_pitch, result.bin_pitch, result.block_pitch, piece.outputs * line,
            w_at, weights.row_pitch, weights.bin_pitch, leap, work.Kg,
            result.blocks, output, step, not forward, piece.groups, piece.depth, piece.outputs,
        ], np.int64)  # fmt: skip

    def _pair_job(self, x: Spectrum, dy: Spectrum, sums: Spectrum, line: int, fresh: bool) -> np.ndarray:
        work = self.work
        return np.array([
            x.at, x.row_pitch, x.bin_pitch, x.block_pitch, 0,
            sums.at, sums.row_pitch, sums.bin_pitch, 0, 0,
            dy.at, dy.row_pitch, dy.bin_pitch, dy.block_pitch, 0,
            x.blocks, line * work.line, sums.blocks, work.pairs, work.Cg, work.Kg, fresh,
        ], np.int64)  # fmt: skip
