"""Transform stage on the CPU: planes to spectra and back, tiles of rows x columns, planes in the SIMD lanes.

    X[ky, kx] = sum_h sum_w x[h, w] e^(-2 pi i (ky h / rows + kx w / columns))

A `line` (64 bytes) holds one complex value of L planes, L = 8 float32 or 4 float64 (vector.py). Two real planes travel
as the real and imaginary part of one complex plane: a filter is real, so it acts on both alike and they never need to
be told apart. A task is one block of 2 L planes (images, 'packed') or of L planes (weights, 'real', half spectrum):

1. rows: row h of 2 L planes, or rows h and h + 1 of L planes, are loaded with masks (padding, tile edges and absent
   planes are masked lanes), transposed in registers so that lane = plane, transformed, stored to a buffer; rows whose
   samples lie apart or have two bytes (samples.py) are first written to that buffer as rows of reals;
2. columns: column kx is loaded from the buffer and its outputs go straight to their bins, one whole cache line each.

The spectrum lies frequency-major, [ky][kx][block][channel][line]. Pitches of rows and bins are odd numbers of lines, so
that the bins of a column do not fall into one cache set (T = 64 was twice slower without). The inverse is
the mirror image: columns from the bins, rows to planes by masked stores, scaled, with bias; cropping is not storing.

Bytes: a task reads 2 L planes and writes rows * columns lines.  Flops: rows L transforms of length `columns`, and
columns L of length `rows`.
Example: 32 x 32 in float32, 16 planes: 64 transforms of 8 complex lanes, 456 L flops each; 64 KB in, 64 KB out.

Reference: Mathieu, Henaff, LeCun, arXiv 1312.5851; the lanes are the planes as in NNPACK's tile transforms.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import types

from ..cache import INDICES, compiled
from ..integers import Size, ceil_div
from .by_address import place_by, read_by, write_by
from .codelets import clear_lines, fft_column, fft_packed_row, fft_real_rows, fft_to_rows, row_out, row_width
from .planes import COLUMN_END, COLUMN_FIRST, LANE_SIZE, MOVER, ORIGIN, PLACER, ROW, ROW_END, ROW_FIRST
from .vector import lanes

# What a kernel knows of a spectrum in the workspace (an int64 vector, see `Spectrum`).  All in reals.
AT, CHANNELS, BIN_PITCH, ROW_PITCH, FIRST_BLOCK, FIRST_CHANNEL = range(6)


# ---- sizes -----------------------------------------------------------------------------------------------------------


def quarters(ends: Size, size: Size) -> Size:
    """The ends rounded up to the same number of quarters of both sides: kernels leave out what lies beyond, and four of
    a size serve all ends.

    >>> quarters((1, 9), (2, 32)), quarters((3, 9), (10, 32))
    ((2, 16), (6, 16))
    """
    count = max(ceil_div(end, ceil_div(side, 4)) for end, side in zip(ends, size, strict=True))
    rows, columns = (min(side, count * ceil_div(side, 4)) for side in size)
    return rows, columns


def row_pitch(columns: int, itemsize: int) -> int:
    """Reals from one row of the scratch to the next: its lines, or the rows of 2 L planes, and a spare line."""
    return (row_width(columns, itemsize) + 1) * 2 * lanes(itemsize)


def buffer_size(size: Size, itemsize: int) -> int:
    """Reals of scratch that a thread needs."""
    return size[0] * row_pitch(size[1], itemsize)


def title(name: str, dtype: str, size: Size, *rest: object) -> str:
    """A kernel's name, which tells its specialisation."""
    return "_".join([name, dtype, f"{size[0]}x{size[1]}", *map(str, rest)])


# ---- kernels ---------------------------------------------------------------------------------------------------------

AHEAD = 2  # columns: the time that a line takes from memory


@cache
def transform_kernel(dtype: str, size: Size, real: bool, extents: Size) -> Callable[..., None]:
    """transform(lo, hi, space, scratch, planes, spectrum): tasks lo..hi (block, channel) of a spectrum of tiles of this
    size; beyond `extents` positions they are zero."""
    real_type = getattr(types, dtype)
    ROWS, COLUMNS = size
    TALL, WIDE = extents
    ITEM = real_type.bitwidth // 8
    LINE = 2 * lanes(ITEM)
    SLOTS = LINE // 2 if real else LINE  # planes in a task
    TOGETHER = 2 if real else 1  # rows transformed at a time
    BINS = COLUMNS // 2 + 1 if real else COLUMNS  # columns of the (half) spectrum
    PITCH = row_pitch(COLUMNS, ITEM)

    def kernel(lo, hi, space, scratch, planes, spectrum):  # type: ignore[no-untyped-def]
        table, of_scratch = np.zeros((SLOTS, LANE_SIZE), np.int64), np.zeros((SLOTS, LANE_SIZE), np.int64)
        for task in range(lo, hi):
            block = spectrum[FIRST_BLOCK] + task // spectrum[CHANNELS]
            channel = spectrum[FIRST_CHANNEL] + task % spectrum[CHANNELS]
            least, most = place_by(planes[PLACER], table, planes, block, channel, ROWS, COLUMNS)
            for row in range(0, TALL, TOGETHER):
                at = scratch + row * PITCH
                if row + TOGETHER <= least or row >= most:
                    for i in range(TOGETHER):
                        clear_lines(BINS, space, at + i * PITCH)
                    continue
                rows = table
                if planes[MOVER] != 0:
                    read_by(planes[MOVER], planes, table, of_scratch, row, TOGETHER, space, at, PITCH, COLUMNS)
                    rows = of_scratch
                if real:
                    fft_real_rows(COLUMNS, WIDE, rows, row, space, at, PITCH)
                else:
                    fft_packed_row(COLUMNS, WIDE, rows, row, space, at)
            bin, pitch, leap = spectrum[AT] + task * LINE, spectrum[BIN_PITCH], spectrum[ROW_PITCH]
            for kx in range(BINS):
                source, target = scratch + kx * LINE, bin + kx * pitch
                fft_column(ROWS, -1, TALL, ROWS, space, source, PITCH, space, target, leap, AHEAD * pitch)

    signature = types.void(types.intp, types.intp, types.Array(real_type, 1, "C"), types.intp, INDICES, INDICES)
    return compiled(title("transform", dtype, size, "real" if real else "packed", *extents), signature, kernel)


@cache
def inverse_kernel(dtype: str, size: Size, extents: Size) -> Callable[..., None]:
    """inverse(lo, hi, space, scratch, planes, spectrum, bias, scale): planes = scale * inverse transform +
    bias[channel], of which only positions below `extents` are wanted."""
    real_type = getattr(types, dtype)
    ROWS, COLUMNS = size
    TALL, WIDE = extents
    ITEM = real_type.bitwidth // 8
    LINE = 2 * lanes(ITEM)
    WIDTH, PITCH = row_width(COLUMNS, ITEM), row_pitch(COLUMNS, ITEM)

    def kernel(lo, hi, space, scratch, planes, spectrum, bias, scale):  # type: ignore[no-untyped-def]
        table = np.zeros((LINE, LANE_SIZE), np.int64)
        for task in range(lo, hi):
            block = spectrum[FIRST_BLOCK] + task // spectrum[CHANNELS]
            channel = spectrum[FIRST_CHANNEL] + task % spectrum[CHANNELS]
            least, most = place_by(planes[PLACER], table, planes, block, channel, ROWS, COLUMNS)
            bin, pitch, leap = spectrum[AT] + task * LINE, spectrum[BIN_PITCH], spectrum[ROW_PITCH]
            for kx in range(COLUMNS):
                source, target = bin + kx * pitch, scratch + kx * LINE
                fft_column(ROWS, 1, ROWS, TALL, space, source, leap, space, target, PITCH, AHEAD * pitch)
            for row in range(least, most):
                fft_to_rows(COLUMNS, WIDE, space, scratch + row * PITCH, scale, bias[channel])
            if planes[MOVER] != 0:
                write_by(planes[MOVER], planes, table, space, scratch, WIDTH, PITCH)
                continue
            for q in range(LINE):
                rows = scratch + q * WIDTH
                for row in range(table[q, ROW_FIRST], table[q, ROW_END]):
                    address = table[q, ORIGIN] + row * planes[ROW]
                    row_out(WIDE, space, rows + row * PITCH, address, table[q, COLUMN_FIRST], table[q, COLUMN_END])

    array = types.Array(real_type, 1, "C")
    signature = types.void(types.intp, types.intp, array, types.intp, INDICES, INDICES, array, real_type)
    return compiled(title("inverse", dtype, size, *extents), signature, kernel)
