"""Transform stage on the CPU: planes to spectra and back, T x T tiles, planes in the SIMD lanes.

    X[ky, kx] = sum_h sum_w x[h, w] e^(-2 pi i (ky h + kx w) / T)

A `line` (64 bytes) holds one complex value of L planes, L = 8 float32 or 4 float64 (vector.py). Two real planes travel
as the real and imaginary part of one complex plane: a filter is real, so it acts on both alike and they never need to
be told apart. A task is one block of 2 L planes (images, 'packed') or of L planes (weights, 'real', half spectrum):

1. rows: row h of 2 L planes, or rows h and h + 1 of L planes, are loaded with masks (padding, tile edges and absent
   planes are masked lanes), transposed in registers so that lane = plane, transformed, stored to a buffer; rows whose
   samples lie apart or have two bytes (samples.py) are first written to that buffer as rows of reals;
2. columns: column kx is loaded from the buffer and its T outputs go straight to their bins, one whole cache line each.

The spectrum lies frequency-major, [ky][kx][block][channel][line]. Pitches of rows and bins are odd numbers of lines, so
that the bins of a column do not fall into one cache set (T = 64 was twice slower without). The inverse is
the mirror image: columns from the bins, rows to planes by masked stores, scaled, with bias; cropping is not storing.

Bytes: a task reads 2 L planes and writes T T lines.  Flops: 2 T L transforms of length T.
Example: T = 32 in float32, 16 planes of 32 x 32: 64 transforms of 8 complex lanes, 456 L flops each; 64 KB in, 64 KB
out.

Reference: Mathieu, Henaff, LeCun, arXiv 1312.5851; the lanes are the planes as in NNPACK's tile transforms.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from ..cache import INDICES, compiled
from ..integers import round_up
from .butterfly import Pair, fft
from .samples import REAL, put_sample, sample, to_plane, to_scratch
from .vector import Emitter, Line, Vector, lanes

# ---- index maps ------------------------------------------------------------------------------------------------------

# What a kernel knows of an array of planes (an int64 vector, see engine.Operand).  Strides are in bytes.
# plane of (lane, channel): OUTER * (lane // INNERS) + INNER * (lane % INNERS) + CHANNEL * (channel // DEEP)
ADDRESS, OUTER, INNER, CHANNEL, ROW, COLUMN, INNERS, DEEP = range(8)
ACROSS = 8  # segments side by side; the segment is lane % INNERS + channel % DEEP, where one of the two is 1
HEIGHT, WIDTH = 9, 10  # samples of a plane
UNIT, UNIT_BLOCKS, LANES = 11, 12, 13  # lanes come in units of UNIT, a unit takes UNIT_BLOCKS blocks; LANES in all
MAP_ROWS, MAP_COLUMNS = 14, 19  # two plane maps of five numbers:
START, ADVANCE, SPACING, FIRST, LIMIT = range(5)
SAMPLES = 24  # what a sample is (samples.py)

# What a kernel knows of a spectrum in the workspace (an int64 vector, see `Spectrum`).  All in reals.
AT, CHANNELS, BIN_PITCH, ROW_PITCH, FIRST_BLOCK, FIRST_CHANNEL = range(6)

# One lane of a task: where its tile begins, which of its positions exist, and an address that can be read.
ORIGIN, ROW_STEP, ROW_FIRST, ROW_END, BITS, COLUMN_FIRST, COLUMN_END, PLANE, START_ROW, START_COLUMN = range(10)
LANE_SIZE = 10


@njit(inline="always")
def overlap(planes, axis, segment, extent, T):  # type: ignore[no-untyped-def]
    """Of a segment along one axis: sample (times spacing) at tile position 0, and the positions that hold samples."""
    start = planes[axis + START] + segment * planes[axis + ADVANCE]
    last = (extent - 1) * planes[axis + SPACING] - start
    return start, max(planes[axis + FIRST], -start), min(min(planes[axis + LIMIT], T), last + 1)


@njit(inline="always")
def positions(first, end):  # type: ignore[no-untyped-def]
    """The set of first..end as the bits of an int64; a tile has at most 64 positions."""
    if first >= end:
        return 0
    return (-1 if end == 64 else (1 << end) - 1) & -(1 << first)


@njit
def place_lanes(table, planes, block, channel, T):  # type: ignore[no-untyped-def]
    """Fills the lane table of one task, all lanes of a block; returns where the rows begin and end that any of them
    has. An absent lane has none.

    What a mask leaves out of a load is not read, but where its address is no memory at all processors take hundreds of
    cycles to see that: absent rows have the address of a plane.
    """
    width = len(table)
    unit, piece = block // planes[UNIT_BLOCKS], block % planes[UNIT_BLOCKS]
    begin = unit * planes[UNIT] + piece * width
    end = min(min(begin + width, (unit + 1) * planes[UNIT]), planes[LANES])
    least, most = T, 0
    for q in range(width):
        lane = begin + q
        table[q, ROW_END], table[q, PLANE] = 0, planes[ADDRESS]
        if lane < end:
            outer, inner = lane // planes[INNERS], lane % planes[INNERS]
            upper, segment = channel // planes[DEEP], inner + channel % planes[DEEP]
            down, across = segment // planes[ACROSS], segment % planes[ACROSS]
            y, table[q, ROW_FIRST], table[q, ROW_END] = overlap(planes, MAP_ROWS, down, planes[HEIGHT], T)
            x, first, last = overlap(planes, MAP_COLUMNS, across, planes[WIDTH], T)
            table[q, COLUMN_FIRST], table[q, COLUMN_END], table[q, BITS] = first, last, positions(first, last)
            plane = planes[ADDRESS] + outer * planes[OUTER] + inner * planes[INNER] + upper * planes[CHANNEL]
            table[q, PLANE], table[q, START_ROW], table[q, START_COLUMN] = plane, y, x
            table[q, ORIGIN], table[q, ROW_STEP] = plane + y * planes[ROW] + x * planes[COLUMN], planes[ROW]
            least, most = min(least, table[q, ROW_FIRST]), max(most, table[q, ROW_END])
    return least, most


@njit
def is_direct(planes, itemsize):  # type: ignore[no-untyped-def]
    """Whether rows can be read and written as vectors: neighbouring samples at neighbouring positions and addresses."""
    size = itemsize if planes[SAMPLES] == REAL else 2
    return planes[MAP_ROWS + SPACING] == 1 and planes[MAP_COLUMNS + SPACING] == 1 and planes[COLUMN] == size


# ---- codelets --------------------------------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def fft_column(typing_context, T, sign, inputs, outputs, source, at, step, target, to, pitch, ahead):  # type: ignore[no-untyped-def]
    """target[to + k pitch] = y[k], k < outputs: y transforms the lines source[at + j step], zero from j = inputs on.

    The side that lies in the spectrum, far apart and not in the nearest cache, is asked for `ahead` reals ahead.
    """
    index = types.intp
    signature = types.void(T, sign, inputs, outputs, source, index, index, target, index, index, index)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        t, s, n_in, n_out = (v.literal_value for v in (T, sign, inputs, outputs))
        emit = Emitter(context, builder, source.dtype)
        src, dst = emit.data(source, args[4]), emit.data(target, args[7])
        far, first, pitch = (dst, args[8], args[9]) if s < 0 else (src, args[5], args[6])
        for j in range(t):
            emit.prefetch(far, emit.offset(builder.add(first, args[10]), j, pitch), write=s < 0)
        x = [emit.load_line(src, emit.offset(args[5], j, args[6])) if j < n_in else 0 for j in range(t)]
        for k, y in enumerate(fft(x, s)[:n_out]):
            emit.store(y, dst, emit.offset(args[8], k, args[9]))
        return context.get_dummy_value()

    return signature, codegen


def lane_row(emit: Emitter, table: Any, lane: int, row: Any) -> tuple[Any, Any]:
    """Of a lane of the table: the address of tile row `row`, and the set of positions in it that hold samples."""
    b = emit.builder
    origin, step, first, end, bits, plane = (
        b.load(b.gep(table, [emit.const(lane * LANE_SIZE + j)]))
        for j in (ORIGIN, ROW_STEP, ROW_FIRST, ROW_END, BITS, PLANE)
    )
    inside = b.and_(b.icmp_signed(">=", row, first), b.icmp_signed("<", row, end))
    return b.select(inside, b.add(origin, b.mul(row, step)), plane), b.select(inside, bits, emit.const(0))


def load_columns(emit: Emitter, low: list[tuple[Any, Any]], high: list[tuple[Any, Any]], inputs: int) -> list[Vector]:
    """Vector j has position j of L rows in its lower half, and of L others in its upper half."""
    columns = []
    for base in range(0, inputs, emit.lanes):
        parts = ([emit.load_row_part(*row, base) for row in rows] for rows in (low, high))
        columns += emit.transpose([emit.join(*halves) for halves in zip(*parts, strict=True)])
    return columns[:inputs]


@intrinsic(prefer_literal=True)
def fft_packed_row(typing_context, T, inputs, table, row, target, to):  # type: ignore[no-untyped-def]
    """target[to + k] = lines of the transform of tile row `row` of the table's 2 L planes, two as one complex."""
    signature = types.void(T, inputs, table, types.intp, target, types.intp)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        t, n_in = T.literal_value, inputs.literal_value
        emit = Emitter(context, builder, target.dtype)
        n, lanes_at, dst = emit.lanes, emit.data(table, args[2]), emit.data(target, args[4])
        rows = [lane_row(emit, lanes_at, q, args[3]) for q in range(2 * n)]
        x = [Line(v) for v in load_columns(emit, rows[:n], rows[n:], n_in)]
        for k, y in enumerate(fft([*x, *[0] * (t - n_in)], -1)):
            emit.store(y, dst, emit.offset(args[5], k * emit.count))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def fft_real_rows(typing_context, T, inputs, table, row, target, to, pitch):  # type: ignore[no-untyped-def]
    """target[to + i pitch + k], i = 0 and 1: lines of the half spectra of rows `row` + i of the table's L planes."""
    signature = types.void(T, inputs, table, types.intp, target, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        t, n_in = T.literal_value, inputs.literal_value
        emit = Emitter(context, builder, target.dtype)
        lanes_at, dst = emit.data(table, args[2]), emit.data(target, args[4])
        low, high = ([lane_row(emit, lanes_at, q, emit.offset(args[3], i)) for q in range(emit.lanes)] for i in (0, 1))
        x = [Pair(v, 0) for v in load_columns(emit, low, high, n_in)]
        for k, y in enumerate(fft([*x, *[0] * (t - n_in)], -1)[: t // 2 + 1]):
            for i in (0, 1):
                line = emit.join_halves(y.re, y.im, i)
                emit.store(line, dst, emit.offset(emit.offset(args[5], i, args[6]), k * emit.count))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def clear_lines(typing_context, count, target, to):  # type: ignore[no-untyped-def]
    """target[to + k] = 0, `count` lines."""
    signature = types.void(count, target, types.intp)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        emit = Emitter(context, builder, target.dtype)
        for k in range(count.literal_value):
            emit.store(0, emit.data(target, args[1]), emit.offset(args[2], k * emit.count))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def fft_to_rows(typing_context, T, outputs, space, at, scale, bias):  # type: ignore[no-untyped-def]
    """In place of T lines at `at`: scale * inverse transform + bias, as rows of `row_width` reals of 2 L planes."""
    signature = types.void(T, outputs, space, types.intp, space.dtype, space.dtype)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        t, n_out = T.literal_value, outputs.literal_value
        emit = Emitter(context, builder, space.dtype)
        n, data = emit.lanes, emit.data(space, args[2])
        factor, shift = emit.splat(args[4]), emit.splat(args[5])
        lines = fft([emit.load_line(data, emit.offset(args[3], k * emit.count)) for k in range(t)], 1)
        columns = [line.vector * factor + shift for line in lines[:n_out]]
        columns += [columns[-1]] * (-n_out % n)  # to whole vectors; these positions are never read
        width = row_width(t, emit.itemsize)
        for base in range(0, n_out, n):
            for lane, vector in enumerate(emit.transpose(columns[base : base + n])):
                for part in (0, 1):
                    emit.store_half(vector, part, data, emit.offset(args[3], (part * n + lane) * width + base))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def row_out(typing_context, outputs, space, at, address, bits):  # type: ignore[no-untyped-def]
    """Copies a set of positions of the row at `at` to where position 0 has the byte address `address`."""
    signature = types.void(outputs, space, types.intp, types.intp, types.int64)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        emit = Emitter(context, builder, space.dtype)
        data = emit.data(space, args[1])
        for base in range(0, outputs.literal_value, emit.count):
            emit.store_row_part(emit.load(data, emit.offset(args[2], base)), args[3], args[4], base)
        return context.get_dummy_value()

    return signature, codegen


# ---- rows with spacing or strides, or of samples of two bytes --------------------------------------------------------


@njit
def rows_of_scratch(table, address, pitch, step, T):  # type: ignore[no-untyped-def]
    """Fills the lane table of whole rows in the scratch: of neighbours `pitch` bytes apart, `step` to the next row."""
    for q in range(len(table)):
        table[q, ORIGIN], table[q, ROW_STEP] = address + q * pitch, step
        table[q, ROW_END], table[q, BITS], table[q, PLANE] = T, positions(0, T), address


@njit
def row_of(planes, table, q, row):  # type: ignore[no-untyped-def]
    """A lane's tile row: the first position that holds a sample, the end of those, and the first sample's address."""
    down, across = planes[MAP_ROWS + SPACING], planes[MAP_COLUMNS + SPACING]
    y, x = row + table[q, START_ROW], table[q, START_COLUMN]
    if row < table[q, ROW_FIRST] or row >= table[q, ROW_END] or y % down != 0:
        return 0, 0, 0
    first = table[q, COLUMN_FIRST] + -(table[q, COLUMN_FIRST] + x) % across
    return (
        first,
        table[q, COLUMN_END],
        table[q, PLANE] + y // down * planes[ROW] + (first + x) // across * planes[COLUMN],
    )


@njit
def gather_row(planes, table, q, row, space, at, T):  # type: ignore[no-untyped-def]
    """Fills the row at `at` with a lane's tile row, zeros between the samples."""
    kind, spacing = planes[SAMPLES], planes[MAP_COLUMNS + SPACING]
    for t in range(T):
        space[at + t] = 0
    first, end, address = row_of(planes, table, q, row)
    for t in range(first, end, spacing):
        space[at + t] = sample(kind, address, space)
        address += planes[COLUMN]


@njit
def widen_row(planes, table, q, row, space, at, T):  # type: ignore[no-untyped-def]
    """The same where samples are of two bytes, and neighbours."""
    first, end = table[q, COLUMN_FIRST], table[q, COLUMN_END]
    if row < table[q, ROW_FIRST] or row >= table[q, ROW_END] or first >= end:
        first, end = T, T
    for t in range(first):
        space[at + t] = 0
    for t in range(end, T):
        space[at + t] = 0
    address = table[q, ORIGIN] + row * table[q, ROW_STEP] + 2 * first
    to_scratch(planes[SAMPLES], address, space, at + first, end - first)


@njit
def narrow_row(planes, table, q, row, space, at):  # type: ignore[no-untyped-def]
    """As scatter_row, where samples are of two bytes, and neighbours."""
    first, end = table[q, COLUMN_FIRST], table[q, COLUMN_END]
    address = table[q, ORIGIN] + row * table[q, ROW_STEP] + 2 * first
    to_plane(planes[SAMPLES], space, at + first, address, end - first)


@njit
def scatter_row(planes, table, q, row, space, at):  # type: ignore[no-untyped-def]
    """Copies from the row at `at` the positions of a lane's tile row that are samples of a plane."""
    kind, spacing = planes[SAMPLES], planes[MAP_COLUMNS + SPACING]
    first, end, address = row_of(planes, table, q, row)
    for t in range(first, end, spacing):
        put_sample(kind, address, space[at + t])
        address += planes[COLUMN]


# ---- kernels ---------------------------------------------------------------------------------------------------------

AHEAD = 2  # columns: the time that a line takes from memory


def quarters(extent: int, T: int) -> int:
    """The extent rounded up to quarters of T: kernels leave out what lies beyond, and few serve all extents."""
    quarter = max(1, T // 4)
    return min(T, round_up(extent, quarter))


def row_width(T: int, itemsize: int) -> int:
    """Reals of a plane's row in the scratch: T, in whole half vectors."""
    return round_up(T, lanes(itemsize))


def row_pitch(T: int, itemsize: int) -> int:
    """Reals from one row of the scratch to the next: T lines, or the rows of 2 L planes, and a spare line."""
    return (row_width(T, itemsize) + 1) * 2 * lanes(itemsize)


def buffer_size(T: int, itemsize: int) -> int:
    """Reals of scratch that a thread needs."""
    return T * row_pitch(T, itemsize)


@cache
def transform_kernel(dtype: str, T: int, real: bool, extent: int) -> Callable[..., None]:
    """transform(lo, hi, space, scratch, planes, spectrum): tasks lo..hi (block, channel) of a spectrum; beyond
    `extent` positions a tile is zero on both axes."""
    real_type = getattr(types, dtype)
    ITEM = real_type.bitwidth // 8
    LINE = 2 * lanes(ITEM)
    SLOTS = LINE // 2 if real else LINE  # planes in a task
    ROWS = 2 if real else 1  # transformed at a time
    COLUMNS = T // 2 + 1 if real else T  # columns of the (half) spectrum
    PITCH = row_pitch(T, ITEM)

    def kernel(lo, hi, space, scratch, planes, spectrum):  # type: ignore[no-untyped-def]
        table = np.zeros((SLOTS, LANE_SIZE), np.int64)
        neighbours = is_direct(planes, ITEM)
        direct = neighbours and planes[SAMPLES] == REAL
        gathered = np.zeros((SLOTS, LANE_SIZE), np.int64)
        rows_of_scratch(gathered, space.ctypes.data + scratch * ITEM, T * ITEM, PITCH * ITEM, T)
        for task in range(lo, hi):
            block = spectrum[FIRST_BLOCK] + task // spectrum[CHANNELS]
            channel = spectrum[FIRST_CHANNEL] + task % spectrum[CHANNELS]
            least, most = place_lanes(table, planes, block, channel, T)
            for row in range(0, extent, ROWS):
                at = scratch + row * PITCH
                if row + ROWS <= least or row >= most:
                    for i in range(ROWS):
                        clear_lines(COLUMNS, space, at + i * PITCH)
                    continue
                if not direct:
                    for i in range(ROWS):
                        for q in range(SLOTS):
                            if neighbours:
                                widen_row(planes, table, q, row + i, space, at + i * PITCH + q * T, T)
                            else:
                                gather_row(planes, table, q, row + i, space, at + i * PITCH + q * T, T)
                rows = table if direct else gathered
                if real:
                    fft_real_rows(T, extent, rows, row, space, at, PITCH)
                else:
                    fft_packed_row(T, extent, rows, row, space, at)
            bin, pitch, leap = spectrum[AT] + task * LINE, spectrum[BIN_PITCH], spectrum[ROW_PITCH]
            for kx in range(COLUMNS):
                source, target = scratch + kx * LINE, bin + kx * pitch
                fft_column(T, -1, extent, T, space, source, PITCH, space, target, leap, AHEAD * pitch)

    signature = types.void(types.intp, types.intp, types.Array(real_type, 1, "C"), types.intp, INDICES, INDICES)
    return compiled(f"transform_{dtype}_T{T}_{'real' if real else 'packed'}_{extent}", signature, kernel)


@cache
def inverse_kernel(dtype: str, T: int, extent: int) -> Callable[..., None]:
    """inverse(lo, hi, space, scratch, planes, spectrum, bias, scale): planes = scale * inverse transform +
    bias[channel], of which only positions below `extent` on both axes are wanted."""
    real_type = getattr(types, dtype)
    ITEM = real_type.bitwidth // 8
    LINE = 2 * lanes(ITEM)
    WIDTH, PITCH = row_width(T, ITEM), row_pitch(T, ITEM)

    def kernel(lo, hi, space, scratch, planes, spectrum, bias, scale):  # type: ignore[no-untyped-def]
        table = np.zeros((LINE, LANE_SIZE), np.int64)
        neighbours = is_direct(planes, ITEM)
        direct = neighbours and planes[SAMPLES] == REAL
        for task in range(lo, hi):
            block = spectrum[FIRST_BLOCK] + task // spectrum[CHANNELS]
            channel = spectrum[FIRST_CHANNEL] + task % spectrum[CHANNELS]
            place_lanes(table, planes, block, channel, T)
            bin, pitch, leap = spectrum[AT] + task * LINE, spectrum[BIN_PITCH], spectrum[ROW_PITCH]
            for kx in range(T):
                source, target = bin + kx * pitch, scratch + kx * LINE
                fft_column(T, 1, T, extent, space, source, leap, space, target, PITCH, AHEAD * pitch)
            for row in range(extent):
                fft_to_rows(T, extent, space, scratch + row * PITCH, scale, bias[channel])
            for q in range(LINE):
                rows = scratch + q * WIDTH
                if direct:
                    for row in range(table[q, ROW_FIRST], table[q, ROW_END]):
                        address = table[q, ORIGIN] + row * planes[ROW]
                        row_out(extent, space, rows + row * PITCH, address, table[q, BITS])
                elif neighbours:
                    for row in range(table[q, ROW_FIRST], table[q, ROW_END]):
                        narrow_row(planes, table, q, row, space, rows + row * PITCH)
                else:
                    for row in range(table[q, ROW_FIRST], table[q, ROW_END]):
                        scatter_row(planes, table, q, row, space, rows + row * PITCH)

    array = types.Array(real_type, 1, "C")
    signature = types.void(types.intp, types.intp, array, types.intp, INDICES, INDICES, array, real_type)
    return compiled(f"inverse_{dtype}_T{T}_{extent}", signature, kernel)
