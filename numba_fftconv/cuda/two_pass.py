"""Transforms with a side of 128 or 256: columns, then rows, through global memory; inverses the other way.

    V[ky, j, p] = sum over r of x[p, r, j] e^(-2 pi i ky r/R),   ky < R/2, doubled; ky = 0 holds rows 0 and i times R/2
    X[(ky, kx), p] = sum over j of V[ky, j, p] e^(-2 pi i kx j/C)

as in fft2d.py, whose tile V is, but for planes so large that no block holds one. V has `width` columns j, those that
can hold samples, and not all planes at a time if they are many (middle.py).

    columns   a warp = 8 columns j of 4 pairs of planes, lane = 4*column + pair: samples are read in whole sectors of 8,
              V is written in runs of 8 planes. A block has 32 columns where R is short, and 8 where it is long.
    rows      a warp = row ky of 32 planes, lane = plane: V and X in runs of 256 bytes. A block has 4 rows where C is
              short, and one where it is long.

A transform of length 64 or less is one thread's, a longer one that of the 8 warps of a block (long_fft.py), with one
barrier. Row 0 of V is two rows of the spectrum, as in fft2d.py; all of it is one warp's or one block's: none diverges.

Bytes of a plane beyond those of fft2d.py: V is written once and read once, 8*R*width in all. Example: R = C = 256 and
planes of 256 x 256: 256 KB of samples, 512 KB of spectrum, and 256 KB of V, twice: two thirds more. Columns are blocks
of 256 threads and 64 KB of shared memory, of which a thread loads 64 samples.

Source: Bailey, FFTs in external or hierarchical memory, Journal of Supercomputing 4 (1990), of which this is the
two-dimensional case.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import cuda, types, uint32, uint64

from ..integers import Size, ceil_div, round_up
from . import long_fft
from .intrinsics import load_two_c64, store_two_c64
from .middle import LANES, LONGEST, Middle
from .toolchain import device_function, namedtuple_type

COLUMNS, PAIRS = 8, 4  # of a warp
WARPS = 4  # of a block of short transforms


# ---- the shape of launches: integers ---------------------------------------------------------------------------------


def columns_grid(R: int, middle: Middle) -> tuple[int, int, int]:
    """Blocks of the pass over columns; neighbours read neighbouring columns."""
    of_block = COLUMNS if R > LONGEST else COLUMNS * WARPS
    return ceil_div(middle.width, of_block) * ceil_div(middle.end - middle.first, 2 * PAIRS), 1, 1


def rows_grid(size: Size, middle: Middle) -> tuple[int, int, int]:
    """Blocks of the pass over rows; neighbours write neighbouring planes."""
    of_block = 1 if size[1] > LONGEST else WARPS
    return ceil_div(middle.end - middle.first, LANES), ceil_div(size[0] // 2, of_block), 1


def block_of(T: int) -> tuple[int, int, int]:
    """Threads and dynamic shared memory of a block, and blocks that a multiprocessor shall hold.

    A long transform takes 64 registers at T = 128 and 80 at T = 256, a short one 2 T and some.
    """
    if T > LONGEST:
        return long_fft.THREADS, long_fft.shared_bytes(T), 4 if T == 128 else 3
    return LANES * WARPS, 0, max(1, min(16, 65536 // (LANES * WARPS * round_up(2 * T + 36, 8))))


MIDDLE_TYPE = namedtuple_type(Middle, types.uint32)

# ---- device functions: V ---------------------------------------------------------------------------------------------


@device_function
def place_of_column(middle: Any, p: Any, j: Any) -> Any:
    """Index in V of column j of plane p at ky = 0; the next ky is row_pitch(middle) further on."""
    return uint64(j) * uint64(middle.pitch) + uint64(uint32(p - middle.first))


@device_function
def find_plane(middle: Any) -> Any:
    """Plane, warp and lane of a thread of the pass over rows."""
    t = uint32(cuda.threadIdx.x)
    lane = uint32(t % uint32(LANES))
    return uint32(middle.first + uint32(cuda.blockIdx.x) * uint32(LANES) + lane), uint32(t // uint32(LANES)), lane


@device_function
def row_pitch(middle: Any) -> Any:
    return uint64(middle.width) * uint64(middle.pitch)


@device_function
def apart(gV: Any, v: Any, u: Any, w: Any) -> None:
    """Frequencies k and -k of a column of two planes become frequency k of each, doubled."""
    store_two_c64(gV, v, complex(u.real + w.real, u.imag - w.imag), complex(u.imag + w.imag, w.real - u.real))


@device_function
def edges_apart(gV: Any, v: Any, u: Any, w: Any) -> None:
    """Frequencies 0 and R/2, which are real of each plane."""
    store_two_c64(gV, v, complex(u.real + u.real, w.real + w.real), complex(u.imag + u.imag, w.imag + w.imag))


@device_function
def together(gV: Any, v: Any) -> Any:
    """The mirror image of `apart`: frequencies k and -k of a column of two planes."""
    a, b = load_two_c64(gV, v)
    return complex(a.real - b.imag, a.imag + b.real), complex(a.real + b.imag, b.real - a.imag)


@device_function
def edges_together(gV: Any, v: Any) -> Any:
    a, b = load_two_c64(gV, v)
    return complex(a.real, b.real), complex(a.imag, b.imag)


@cache
def make_find_columns(R: int) -> Any:
    """Device function (p, j, warp, lane): the pair of planes p, p + 1 and the column j of a thread."""
    OF_BLOCK = np.uint32(COLUMNS if R > LONGEST else COLUMNS * WARPS)
    MORE = np.uint32(OF_BLOCK - 1)
    OF_WARP, LANE, PLANES = np.uint32(0 if R > LONGEST else COLUMNS), np.uint32(LANES), np.uint32(2 * PAIRS)
    OF_COLUMN, TWO = np.uint32(PAIRS), np.uint32(2)

    @device_function
    def find_columns(middle: Any) -> Any:
        t = uint32(cuda.threadIdx.x)
        lane = uint32(t % LANE)
        warp = uint32(t // LANE)
        block = uint32(cuda.blockIdx.x)
        across = max(uint32(uint32(middle.width + MORE) // OF_BLOCK), uint32(1))
        octet = uint32(block // across)
        strip = uint32(block - octet * across)
        j = uint32(strip * OF_BLOCK + warp * OF_WARP + lane // OF_COLUMN)
        return uint32(middle.first + octet * PLANES + uint32(lane % OF_COLUMN) * TWO), j, warp, lane

    return find_columns
