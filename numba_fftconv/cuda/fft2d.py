"""Planes to spectra and back: batched two-dimensional real transforms, frequency-major.

    X[f, p] = 2 sum_{r,j} x[p, r, j] e^(-2 pi i (ky r/R + kx j/C)),    f = (ky, kx) one of R*C/2 + 2 compact bins
    y[p, r, j] = scale * (sum over all bins of X[f, p] e^(+2 pi i (ky r/R + kx j/C))) + bias[c] + beta * y[p, r, j]

Spectra are stored doubled: two planes travel as real and imaginary part of one complex plane, and the halves of
A = (Z[k] + conj Z[-k])/2 and B = (Z[k] - conj Z[-k])/2i, which take them apart, are left to the scale of the inverse.

A block takes B consecutive planes, tiles of R rows and C columns, each at most 64. A thread makes transforms in its
registers, of length R in one phase and of length C in the other, with one barrier between them:

    transform   columns: thread = (column j, planes 2q and 2q+1), lane = j      -> tile in shared memory
                rows:    thread = (row ky < R/2, plane b), lane = b             -> spectrum
    inverse     rows, then columns: the mirror image

There are C*B/2 columns of two planes and R*B/2 rows. Of the kind of which there are fewer, the longer ones, each thread
has one, as it takes the more registers; of the others it has C/R or R/C one after the other. So a square tile has
T*B/2 threads, and each of them one column and one row.

So lanes are neighbouring columns where planes are read, and neighbouring planes where bins are written: both sides move
whole sectors, and the transposition to frequency-major costs no pass of its own. The thread of a column holds all its
ky, which makes the split of the two planes four additions per ky. Of a real column the frequencies ky = 0 and ky = R/2
are real: they travel as real and imaginary part of one row, so the tile has R/2 rows, R*C/2 values a plane.

Which plane p is, and which of its samples lie where in the tile, is the affair of planes.py.

Bytes of a plane: 4*h*w of samples, 2*h*w where they are halves, 8*(R*C/2 + 2) of bins. Example: R = C = 32, B = 8: 128
threads and a tile of 33 KB; a thread loads 64 samples, 66 at most of its values are bins, and about 960 instructions
are floating point. R = 2, C = 64, B = 32: one warp and 16 KB; a thread has 32 columns of two samples and one row.

Source: Vasilache et al., Fast convolutional nets with fbfft (arXiv 1412.7580), whose data layout this is.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import complex64, cuda, int64, types, uint32, uint64

from ..integers import Size, ceil_div, first_bin, round_up
from .butterfly import factors, make_fft
from .intrinsics import load_c64, samples_of, store_c64
from .planes import AxisMap, Epilogue, Planes, Strides, make_column_access, tile_width
from .toolchain import COMPLEXES, Kernel, device_function, namedtuple_type

# ---- the tile and the shape of a block: integers ---------------------------------------------------------------------


class Layout(NamedTuple):
    """Strides of the tile sS[plane][row][column], in complex values."""

    row: int
    plane: int


def layout(size: Size, B: int, half: bool = False) -> Layout:
    """The strides of the tile that spare bank conflicts.

    Shared memory serves half a warp of 8-byte accesses at once if they meet 16 different bank pairs. A column phase
    reads 16 neighbours of one row. A row phase reads 16 planes, which differ modulo 16 if the plane stride is odd; or B
    planes of m = 16/B rows, which do if the row stride is odd and the plane stride is m times an odd number.
    """
    m = max(1, 16 // B)
    width = tile_width(size[1], half)
    row = width if m == 1 else width | 1
    plane = size[0] // 2 * row
    return Layout(row, plane + (m - plane) % (2 * m))


def shared_bytes(size: Size, B: int, half: bool = False) -> int:
    """Dynamic shared memory of a block."""
    return 8 * B * layout(size, B, half).plane


def block_threads(size: Size, B: int) -> int:
    """One for each transform of the longer kind."""
    return min(size) * B // 2


def tile_planes(size: Size, most_shared: int) -> int:
    """B, the planes of a block.

    A bin is written in runs of 8*B bytes, of which a sector of memory takes 32 and a line 128; 128 threads are enough
    to fill a multiprocessor evenly; a tile beyond 48 KB needs the driver's leave. Halved until the tile fits.
    """
    T = min(size)
    B = 32 if T <= 8 else 16 if T <= 24 else 8 if T <= 48 else 4
    while B > 2 and shared_bytes(size, B) > most_shared:
        B //= 2
    return B


def planes_for(size: Size, most_shared: int) -> list[int]:
    """The planes that a block of transforms may have, that of the model first.

    >>> planes_for((32, 32), 232448)
    [8, 16, 4]
    """
    B = tile_planes(size, most_shared)
    near = [b for b in (2 * B, B // 2) if b >= 2 and min(size) * b // 2 <= 256]  # threads with all their registers
    return [B, *(b for b in near if shared_bytes(size, b) <= most_shared)]


def launch_grid(count: int, B: int) -> tuple[int, int, int]:
    """Blocks for so many planes."""
    return ceil_div(count, B), 1, 1


def least_blocks(size: Size, B: int, spaced: bool = False, accumulate: bool = False) -> int:
    """Blocks that a multiprocessor shall hold at once, from which the compiler has its registers.

    A transform takes 2 T registers; addresses, twiddles and predicates take some more, most where butterflies are
    large. A multiprocessor has 65536, and gives them to four warps at a time, in steps of 8 a thread. A kernel that
    accumulates keeps addresses besides.
    """
    T = max(size)
    more = (16 if T <= 32 else 32) + (16 if spaced else 0) + (8 if factors(T)[0] > 2 else 0)
    more += 48 if accumulate and T <= 32 else 0
    registers = round_up(2 * T + more, 8)
    warps = ceil_div(block_threads(size, B), 128) * 4
    return max(1, min(32, 65536 // (32 * warps * registers)))


# ---- device functions: the tile and the spectrum ---------------------------------------------------------------------


class TileAccess(NamedTuple):
    """Device functions between registers, the tile in shared memory and the spectrum in global memory.

    All are called by the threads of a block, none synchronises: a barrier stands between the functions that write the
    tile and those that read it. sS is the block's tile of shared_bytes(size, B, half), z a local array, as long as a
    column or a row.

    column_to_tile(z, sS, pair, column): takes the transformed columns of planes 2*pair and 2*pair + 1 apart.
    tile_to_row(sS, z, plane, row): row ky of a plane; ky = 0 stands for row 0 plus i times row R/2.
    row_to_spectrum(z, gX, pitch, p, row): stores the transformed row as column p of a spectrum.
    spectrum_to_row, row_to_tile, tile_to_column: the mirror images, with the same arguments.
    """

    column_to_tile: Any
    tile_to_row: Any
    row_to_spectrum: Any
    spectrum_to_row: Any
    row_to_tile: Any
    tile_to_column: Any


@cache
def make_tile_access(size: Size, B: int, half: bool) -> TileAccess:
    """The device functions of a tile of B planes; with `half` its columns from C/2 on are zero or not wanted."""
    R, C = size
    HEIGHT, HALF_HEIGHT = np.uint64(R), np.uint64(R // 2)
    LENGTH, HALF_LENGTH, WIDTH = np.uint64(C), np.uint64(C // 2), np.uint64(tile_width(C, half))
    ROW, PLANE = map(np.uint64, layout(size, B, half))
    MIDDLE_ROW, SECOND_ROW = np.uint64(first_bin(size, R // 2)), np.uint64(2)
    NONE, ONE = np.uint64(0), np.uint64(1)
    ZERO, HALF, TWO = np.float32(0), np.float32(0.5), np.float32(2)

    @device_function
    def column_to_tile(z: Any, sS: Any, pair: Any, column: Any) -> None:
        a = uint64(pair) * (PLANE + PLANE) + uint64(column)
        b = a + PLANE
        u = z[NONE]
        v = z[HALF_HEIGHT]
        sS[a] = complex(TWO * u.real, TWO * v.real)
        sS[b] = complex(TWO * u.imag, TWO * v.imag)
        for k in range(ONE, HALF_HEIGHT):
            u = z[k]
            v = z[HEIGHT - k]
            sS[a + k * ROW] = complex(u.real + v.real, u.imag - v.imag)
            sS[b + k * ROW] = complex(u.imag + v.imag, v.real - u.real)

    @device_function
    def tile_to_column(sS: Any, z: Any, pair: Any, column: Any) -> None:
        a = uint64(pair) * (PLANE + PLANE) + uint64(column)
        b = a + PLANE
        u = sS[a]
        v = sS[b]
        z[NONE] = complex(u.real, v.real)
        z[HALF_HEIGHT] = complex(u.imag, v.imag)
        for k in range(ONE, HALF_HEIGHT):
            u = sS[a + k * ROW]
            v = sS[b + k * ROW]
            z[k] = complex(u.real - v.imag, u.imag + v.real)
            z[HEIGHT - k] = complex(u.real + v.imag, v.real - u.imag)

    @device_function
    def tile_to_row(sS: Any, z: Any, plane: Any, row: Any) -> None:
        s = uint64(plane) * PLANE + uint64(row) * ROW
        for i in range(WIDTH):
            z[i] = sS[s + i]
        for i in range(WIDTH, LENGTH):
            z[i] = complex(ZERO, ZERO)

    @device_function
    def row_to_tile(z: Any, sS: Any, plane: Any, row: Any) -> None:
        s = uint64(plane) * PLANE + uint64(row) * ROW
        for i in range(WIDTH):
            sS[s + i] = z[i]

    @device_function
    def row_to_spectrum(z: Any, gX: Any, pitch: Any, p: Any, row: Any) -> None:
        step = uint64(int64(pitch))
        f = uint64(p)
        if row == uint32(0):  # z = row 0 + i row T/2, each its own mirror image
            g = f + step * MIDDLE_ROW
            store_c64(gX, f, complex(z[NONE].real, ZERO))
            store_c64(gX, g, complex(z[NONE].imag, ZERO))
            for i in range(ONE, HALF_LENGTH):
                f += step
                g += step
                u = z[i]
                v = z[LENGTH - i]
                re = HALF * u.real  # halved first, so that each sum below is one FFMA
                im = HALF * u.imag
                store_c64(gX, f, complex(re + HALF * v.real, im - HALF * v.imag))
                store_c64(gX, g, complex(im + HALF * v.imag, HALF * v.real - re))
            store_c64(gX, f + step, complex(z[HALF_LENGTH].real, ZERO))
            store_c64(gX, g + step, complex(z[HALF_LENGTH].imag, ZERO))
        else:
            f += step * (uint64(row) * LENGTH + SECOND_ROW)
            for i in range(LENGTH):
                store_c64(gX, f, z[i])
                f += step

    @device_function
    def spectrum_to_row(gX: Any, z: Any, pitch: Any, p: Any, row: Any) -> None:
        step = uint64(int64(pitch))
        f = uint64(p)
        if row == uint32(0):
            g = f + step * MIDDLE_ROW
            z[NONE] = complex(load_c64(gX, f).real, load_c64(gX, g).real)
            for i in range(ONE, HALF_LENGTH):
                f += step
                g += step
                u = load_c64(gX, f)
                v = load_c64(gX, g)
                z[i] = complex(u.real - v.imag, u.imag + v.real)
                z[LENGTH - i] = complex(u.real + v.imag, v.real - u.imag)
            z[HALF_LENGTH] = complex(load_c64(gX, f + step).real, load_c64(gX, g + step).real)
        else:
            f += step * (uint64(row) * LENGTH + SECOND_ROW)
            for i in range(LENGTH):
                z[i] = load_c64(gX, f)
                f += step

    return TileAccess(column_to_tile, tile_to_row, row_to_spectrum, spectrum_to_row, row_to_tile, tile_to_column)


# ---- the two kernels -------------------------------------------------------------------------------------------------

LAYOUT_ARGUMENTS = (
    namedtuple_type(Planes, types.uint32),
    namedtuple_type(Strides, types.int64),
    namedtuple_type(AxisMap, types.int32),
    namedtuple_type(AxisMap, types.int32),
)


def size_name(size: Size) -> str:
    """How kernels name a size.

    >>> size_name((32, 32)), size_name((2, 64))
    ('t32', 't2x64')
    """
    return f"t{size[0]}" if size[0] == size[1] else f"t{size[0]}x{size[1]}"


def _name(what: str, size: Size, B: int, half: bool, spaced: bool, samples: str) -> str:
    form = ("_half" if half else "") + ("_spaced" if spaced else "")
    return f"{what}_{size_name(size)}_b{B}{form}{samples_of(samples).word}"


@cache
def _in_turns(count: int, threads: int, task: Any) -> Any:
    """Device function that has a block do task(i, ...) for i from 0 to `count`: thread t does t, t + threads, ..."""
    THREADS, ROUNDS, COUNT = map(np.uint32, (threads, ceil_div(count, threads), count))
    IS_ONE, IS_EVEN = count <= threads, count % threads == 0

    @device_function
    def in_turns(t: Any, *arguments: Any) -> None:
        if IS_ONE:
            if IS_EVEN or t < COUNT:
                task(t, *arguments)
        else:
            for turn in range(ROUNDS):
                i = uint32(t + uint32(uint32(turn) * THREADS))
                if IS_EVEN or i < COUNT:
                    task(i, *arguments)

    return in_turns


@cache
def transform_kernel(size: Size, B: int, half: bool = False, spaced: bool = False, samples: str = "float32") -> Kernel:
    """The kernel transform(gx, gX, planes, strides, rows, columns) of B planes a block.

    half: on neither axis does a position from the middle on hold a sample. spaced: samples may lie apart.
    samples: the dtype of x.
    """
    R, C = size
    width, threads = tile_width(C, half), block_threads(size, B)
    WIDTH, PLANES = np.uint32(width), np.uint32(B)
    load_column, _ = make_column_access(R, half, spaced, samples=samples)
    tile = make_tile_access(size, B, half)
    column_to_tile, tile_to_row, row_to_spectrum = tile.column_to_tile, tile.tile_to_row, tile.row_to_spectrum
    column_fft, row_fft = make_fft(R, -1), make_fft(C, -1)

    @device_function
    def column(task: Any, gx: Any, planes: Any, strides: Any, rows: Any, columns: Any, sS: Any, p: Any) -> None:
        z = cuda.local.array(R, complex64)
        j = uint32(task % WIDTH)
        pair = uint32(task // WIDTH)
        load_column(z, gx, planes, strides, rows, columns, uint32(p + pair + pair), j)
        column_fft(z)
        column_to_tile(z, sS, pair, j)

    @device_function
    def row(task: Any, sS: Any, gX: Any, planes: Any, strides: Any, p: Any) -> None:
        z = cuda.local.array(C, complex64)
        plane = uint32(task % PLANES)
        ky = uint32(task // PLANES)
        tile_to_row(sS, z, plane, ky)
        row_fft(z)
        q = uint32(p + plane)
        if q < planes.count:
            row_to_spectrum(z, gX, strides.pitch, q, ky)

    all_columns, all_rows = _in_turns(width * B // 2, threads, column), _in_turns(R // 2 * B, threads, row)

    def transform(gx: Any, gX: Any, planes: Any, strides: Any, rows: Any, columns: Any) -> None:
        sS = cuda.shared.array(0, complex64)
        t = uint32(cuda.threadIdx.x)
        p = uint32(uint32(cuda.blockIdx.x) * PLANES)

        all_columns(t, gx, planes, strides, rows, columns, sS, p)
        cuda.syncthreads()  # all columns are written before a row is read
        all_rows(t, sS, gX, planes, strides, p)

    signature = (samples_of(samples).pointer, COMPLEXES, *LAYOUT_ARGUMENTS)
    name = _name("transform", size, B, half, spaced, samples)
    return Kernel(name, transform, signature, threads, shared_bytes(size, B, half), least_blocks(size, B, spaced))


INVERSE_REGISTERS = 160  # of a length of 64: the compiler takes the 168 that three blocks leave, and needs less


@cache
def inverse_kernel(
    size: Size, B: int, half: bool = False, spaced: bool = False, accumulate: bool = False, samples: str = "float32"
) -> Kernel:
    """The kernel inverse(gX, gy, gbias, planes, strides, rows, columns, epilogue), the mirror image of `transform`.

    accumulate: beta counts; else it is taken as 0, and y is not read. samples: the dtype of y and of the bias.
    """
    R, C = size
    width, threads = tile_width(C, half), block_threads(size, B)
    WIDTH, PLANES = np.uint32(width), np.uint32(B)
    _, store_column = make_column_access(R, half, spaced, accumulate, samples)
    tile = make_tile_access(size, B, half)
    spectrum_to_row, row_to_tile, tile_to_column = tile.spectrum_to_row, tile.row_to_tile, tile.tile_to_column
    column_fft, row_fft = make_fft(R, +1), make_fft(C, +1)

    @device_function
    def row(task: Any, gX: Any, sS: Any, planes: Any, strides: Any, p: Any) -> None:
        z = cuda.local.array(C, complex64)
        plane = uint32(task % PLANES)
        ky = uint32(task // PLANES)
        last = uint32(planes.count - uint32(1))  # what stands for planes that are not: their results go nowhere
        spectrum_to_row(gX, z, strides.pitch, min(uint32(p + plane), last), ky)
        row_fft(z)
        row_to_tile(z, sS, plane, ky)

    @device_function
    def column(
        task: Any, sS: Any, gy: Any, gbias: Any, planes: Any, strides: Any, rows: Any, columns: Any,
        epilogue: Any, p: Any,
    ) -> None:  # fmt: skip
        z = cuda.local.array(R, complex64)
        j = uint32(task % WIDTH)
        pair = uint32(task // WIDTH)
        tile_to_column(sS, z, pair, j)
        column_fft(z)
        q = uint32(p + pair + pair)
        store_column(z, gy, gbias, planes, strides, rows, columns, epilogue, q, j)

    all_rows, all_columns = _in_turns(R // 2 * B, threads, row), _in_turns(width * B // 2, threads, column)

    def inverse(
        gX: Any, gy: Any, gbias: Any, planes: Any, strides: Any, rows: Any, columns: Any, epilogue: Any
    ) -> None:
        sS = cuda.shared.array(0, complex64)
        t = uint32(cuda.threadIdx.x)
        p = uint32(uint32(cuda.blockIdx.x) * PLANES)

        all_rows(t, gX, sS, planes, strides, p)
        cuda.syncthreads()  # all rows are written before a column is read
        all_columns(t, sS, gy, gbias, planes, strides, rows, columns, epilogue, p)

    reals = samples_of(samples).pointer
    signature = (COMPLEXES, reals, reals, *LAYOUT_ARGUMENTS, namedtuple_type(Epilogue, types.float32))
    name = _name("inverse", size, B, half, spaced, samples) + ("_accumulate" if accumulate else "")
    blocks = least_blocks(size, B, spaced, accumulate)
    most = INVERSE_REGISTERS if max(size) == 64 and not accumulate else None
    return Kernel(name, inverse, signature, threads, shared_bytes(size, B, half), blocks, most)
