"""What lies where in planes: of each lane of a task the tile's place in its plane, and its rows sample by sample.

A task is one block of lanes by one channel (fft2d.py). Its lane table says for each lane where the tile begins, which
of its rows and columns hold samples, and how far its rows are apart: padding, tile edges and absent planes are rows and
columns outside of that. Neighbouring reals are read and written as vectors (codelets.py). Samples with spacing or
strides go one by one, those of two bytes as vectors of their own (samples.py), through rows of the scratch. What does
so is the same for tiles of all sizes: kernels of their own, which transforms call by address (by_address.py).

Example: a plane of 100 columns in windows of 32 that advance by 28, one zero on the left: column 0 of the second window
is sample 27, its columns 0 .. 32 hold samples; column 0 of the first is no sample, its columns 1 .. 32 are.
"""

from collections.abc import Callable
from functools import cache

from numba import njit, types

from ..cache import INDICES, compiled
from .samples import put_sample, sample, to_plane, to_scratch

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
PLACER, MOVER = 25, 26  # addresses of kernels: that of `placer`, and that of `reader` or `writer`, or 0 for vectors

# One lane of a task: where its tile begins, which of its positions exist, and an address that can be read.
ORIGIN, ROW_STEP, ROW_FIRST, ROW_END, COLUMN_FIRST, COLUMN_END, PLANE, START_ROW, START_COLUMN = range(9)
LANE_SIZE = 9

INDEX, TABLE = types.intp, types.Array(types.int64, 2, "C")


@njit(inline="always")
def overlap(planes, axis, segment, extent, T):  # type: ignore[no-untyped-def]
    """Of a segment along one axis of T positions: sample (times spacing) at position 0, and where samples begin and
    end, both from 0 to T; where they begin at the end or beyond it, there are none."""
    start = planes[axis + START] + segment * planes[axis + ADVANCE]
    last = (extent - 1) * planes[axis + SPACING] - start
    return start, min(max(planes[axis + FIRST], -start), T), max(min(min(planes[axis + LIMIT], T), last + 1), 0)


def place_lanes(table, planes, block, channel, rows, columns):  # type: ignore[no-untyped-def]
    """Fills the lane table of one task, all lanes of a block, for tiles of rows x columns; returns where the rows begin
    and end that any of them has. An absent lane has none.

    What a mask leaves out of a load is not read, but where its address is no memory at all processors take hundreds of
    cycles to see that: absent rows have the address of a plane.
    """
    width = len(table)
    unit, piece = block // planes[UNIT_BLOCKS], block % planes[UNIT_BLOCKS]
    begin = unit * planes[UNIT] + piece * width
    end = min(min(begin + width, (unit + 1) * planes[UNIT]), planes[LANES])
    least, most = rows, 0
    for q in range(width):
        lane = begin + q
        table[q, ROW_END], table[q, PLANE] = 0, planes[ADDRESS]
        if lane < end:
            outer, inner = lane // planes[INNERS], lane % planes[INNERS]
            upper, segment = channel // planes[DEEP], inner + channel % planes[DEEP]
            down, across = segment // planes[ACROSS], segment % planes[ACROSS]
            y, top, bottom = overlap(planes, MAP_ROWS, down, planes[HEIGHT], rows)
            x, left, right = overlap(planes, MAP_COLUMNS, across, planes[WIDTH], columns)
            table[q, ROW_FIRST], table[q, ROW_END] = top, bottom
            table[q, COLUMN_FIRST], table[q, COLUMN_END] = left, right
            plane = planes[ADDRESS] + outer * planes[OUTER] + inner * planes[INNER] + upper * planes[CHANNEL]
            table[q, PLANE], table[q, START_ROW], table[q, START_COLUMN] = plane, y, x
            table[q, ORIGIN], table[q, ROW_STEP] = plane + y * planes[ROW] + x * planes[COLUMN], planes[ROW]
            least, most = min(least, top), max(most, bottom)
    return least, most


@cache
def placer() -> Callable[..., tuple[int, int]]:
    """place_lanes as a kernel."""
    return compiled("place_lanes", types.UniTuple(INDEX, 2)(TABLE, INDICES, INDEX, INDEX, INDEX, INDEX), place_lanes)


# ---- rows with spacing or strides, or of samples of two bytes --------------------------------------------------------


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
def gather_row(planes, table, q, row, space, at, columns):  # type: ignore[no-untyped-def]
    """Fills the row at `at` with a lane's tile row, zeros between the samples."""
    kind, spacing = planes[SAMPLES], planes[MAP_COLUMNS + SPACING]
    for t in range(columns):
        space[at + t] = 0
    first, end, address = row_of(planes, table, q, row)
    for t in range(first, end, spacing):
        space[at + t] = sample(kind, address, space)
        address += planes[COLUMN]


@njit
def widen_row(planes, table, q, row, space, at, columns):  # type: ignore[no-untyped-def]
    """The same where samples are of two bytes, and neighbours."""
    first, end = table[q, COLUMN_FIRST], table[q, COLUMN_END]
    if row < table[q, ROW_FIRST] or row >= table[q, ROW_END] or first >= end:
        first, end = columns, columns
    for t in range(first):
        space[at + t] = 0
    for t in range(end, columns):
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


@cache
def reader(dtype: str, neighbours: bool) -> Callable[..., None]:
    """read(planes, table, rows, row, count, space, at, pitch, columns): fills `count` rows of all lanes of the table,
    from tile row `row` on, as rows of reals one after the other at `at`, tile rows `pitch` apart; and `rows`, the lane
    table of what is there. Samples that are `neighbours`, in the array and in the tile, are of two bytes."""
    real = getattr(types, dtype)
    ITEM = real.bitwidth // 8
    read_row = widen_row if neighbours else gather_row

    def kernel(planes, table, rows, row, count, space, at, pitch, columns):  # type: ignore[no-untyped-def]
        begin = space.ctypes.data + (at - row * pitch) * ITEM
        for q in range(len(table)):
            rows[q, ORIGIN], rows[q, ROW_STEP] = begin + q * columns * ITEM, pitch * ITEM
            rows[q, ROW_END], rows[q, COLUMN_END], rows[q, PLANE] = row + count, columns, space.ctypes.data + at * ITEM
            for i in range(count):
                read_row(planes, table, q, row + i, space, at + i * pitch + q * columns, columns)

    signature = types.void(INDICES, TABLE, TABLE, INDEX, INDEX, types.Array(real, 1, "C"), INDEX, INDEX, INDEX)
    return compiled(f"read_{'neighbours' if neighbours else 'samples'}_{dtype}", signature, kernel)


@cache
def writer(dtype: str, neighbours: bool) -> Callable[..., None]:
    """write(planes, table, space, at, width, pitch): copies to planes what is theirs of rows of reals, those of the
    lanes of the table `width` apart, tile row 0 at `at`, tile rows `pitch` apart. `neighbours` as for `reader`."""
    real = getattr(types, dtype)
    write_row = narrow_row if neighbours else scatter_row

    def kernel(planes, table, space, at, width, pitch):  # type: ignore[no-untyped-def]
        for q in range(len(table)):
            for row in range(table[q, ROW_FIRST], table[q, ROW_END]):
                write_row(planes, table, q, row, space, at + q * width + row * pitch)

    signature = types.void(INDICES, TABLE, types.Array(real, 1, "C"), INDEX, INDEX, INDEX)
    return compiled(f"write_{'neighbours' if neighbours else 'samples'}_{dtype}", signature, kernel)
