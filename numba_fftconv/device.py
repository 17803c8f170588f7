"""Device functions for kernels of one's own: two-dimensional transforms of real planes, made by one block of threads.

A tile is B = planes of T x T samples, T = fft_size, that a block of T*B/2 threads holds in registers, in one of two
forms. Each thread has an array z = cuda.local.array(T, complex64) of it:

    columns   z[r] = sample (r, column) of plane 2*pair, plus i times that of plane 2*pair + 1
    rows      z[kx] = X[row, kx], where X is the transform of `plane` and 0 < row < T/2;
              in row 0, z[kx] = X[0, kx] + i X[T/2, kx]: of a real plane these two fit into one

`load` fills columns, `rfft2` makes rows of them, `irfft2` makes columns of rows, `store` writes columns; `column_place`
and `row_place` say which ones a thread has. X is as numpy.fft.fft2 makes it; a real plane's other rows are mirrored
conjugates. Spectra are multiplied in registers, each thread its row (`multiply`, `correlate` and their sums), or kept
wherever a kernel likes, row by row.

Numba finds device functions only by names of their own, so bind those of a tile at module level:

    from numba import complex64, cuda
    from numba_fftconv import device

    T = 16
    tile = device.make_tile(T, planes=8)
    load, rfft2, multiply, irfft2, store = tile.load, tile.rfft2, tile.multiply, tile.irfft2, tile.store

    @cuda.jit
    def cyclic_convolution(x, w, y):
        '''y[n, c] = x[n, c] convolved with w[0, c], planes of 16 x 16; a block takes eight channels of an image.'''
        z = cuda.local.array(T, complex64)
        f = cuda.local.array(T, complex64)
        n, c = cuda.blockIdx.y, cuda.blockIdx.x * 8
        load(z, x, (n, c), (0, 1), (0, 0))             # plane b of the tile is x[n, c + b]
        rfft2(z)
        load(f, w, (0, c), (0, 1), (0, 0))
        rfft2(f)
        multiply(z, z, f)
        irfft2(z)
        store(z, y, (n, c), (0, 1), (0, 0), (T, T))

    cyclic_convolution[(-(-C // 8), N), tile.threads, 0, tile.shared_bytes](x, w, y)

The dynamic shared memory of the launch is the tile's, static arrays are the kernel's own. Arrays are of float32 with
four axes: reshape one of fewer. An array z takes 2 T of the 255 registers of a thread: one stays in registers at every
T, two as far as T = 48, three as far as T = 32, if the kernel's own loops over them are short enough to be unrolled.

tests/device_examples.py has a convolution with bias and GELU in one kernel, and a power spectrum. Under
NUMBA_ENABLE_CUDASIM=1 all of it runs as plain Python, by the scheduler of cuda/simulator.py.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import complex64, cuda, int32, uint32, uint64

from .cuda import simulator
from .cuda.butterfly import make_fft as _make_codelet
from .cuda.fft2d import make_tile_access
from .cuda.fft2d import shared_bytes as _shared_bytes
from .cuda.rows import make_product
from .cuda.toolchain import SIMULATED, device_function
from .errors import InvalidOptionError
from .options import CODELET_SIZES, integer

if SIMULATED:
    simulator.install()

MOST_THREADS = 256  # of a block: each then may have all 255 registers
MOST_SHARED = 48 * 1024  # bytes of a block, which need no leave of the driver

__all__ = ["Tile", "make_fft", "make_tile"]


@dataclass(frozen=True)
class Tile:
    """What make_tile makes: the launch of a block and its device functions, whose docstrings are their contracts."""

    fft_size: int  # T
    planes: int  # B
    threads: int  # of a block, along x
    shared_bytes: int  # of dynamic shared memory, which rfft2 and irfft2 use
    column_place: Any
    row_place: Any
    load: Any
    rfft2: Any
    multiply: Any
    multiply_add: Any
    correlate: Any
    correlate_add: Any
    bin: Any
    irfft2: Any
    store: Any

    def __repr__(self) -> str:
        return f"Tile(fft_size={self.fft_size}, planes={self.planes})"


def make_fft(fft_size: int, inverse: bool = False) -> Any:
    """The device function fft(z): transforms z = cuda.local.array(fft_size, complex64) in place, as numpy.fft.fft.

    The inverse is numpy.fft.ifft times fft_size.
    Called by any thread alone. Barriers: none. Shared memory: none. Layout: natural order before and after.

    Parameters
    ----------
    fft_size : an even product of 2, 3, 5, 7 up to 64.

    Raises
    ------
    InvalidOptionError : any other fft_size.

    Example
    -------
    >>> fft, ifft = make_fft(16), make_fft(16, inverse=True)
    """
    return _make_codelet(_length(fft_size), +1 if inverse else -1)


def make_tile(fft_size: int, planes: int) -> Tile:
    """The device functions of a block that holds `planes` planes of fft_size x fft_size samples.

    Parameters
    ----------
    fft_size : an even product of 2, 3, 5, 7 up to 64.
    planes : even; a block has fft_size * planes / 2 threads, 256 at most, and 48 KB of shared memory at most.

    Raises
    ------
    InvalidOptionError : another fft_size, or planes that are odd, not positive or more than a block can hold.

    Example
    -------
    >>> tile = make_tile(16, planes=8)
    >>> tile, tile.threads, tile.shared_bytes
    (Tile(fft_size=16, planes=8), 64, 8832)
    """
    T = _length(fft_size)
    form = "a positive even int"
    B = integer(planes, "planes", planes, form, -np.inf, np.inf)
    fitting = [b for b in range(2, 2 * MOST_THREADS // T + 1, 2) if _shared_bytes((T, T), b) <= MOST_SHARED]
    if B not in fitting:
        near = min(fitting, key=lambda b: abs(b - B))
        limits = f"up to {fitting[-1]}, which is what a block holds at fft_size {T}"
        raise InvalidOptionError(f"planes is {planes!r}: it must be {form} {limits}; the nearest is {near}")
    return _tile(T, B)


def _length(fft_size: Any) -> int:
    form = f"an even product of 2, 3, 5, 7 up to {CODELET_SIZES[-1]}"
    T = integer(fft_size, "fft_size", fft_size, form, -np.inf, np.inf)
    if T not in CODELET_SIZES:
        near = min(CODELET_SIZES, key=lambda size: abs(size - T))
        raise InvalidOptionError(f"fft_size is {fft_size!r}: it must be {form}; the nearest is {near}")
    return T


@cache
def _tile(T: int, B: int) -> Tile:
    LENGTH, WIDTH, PLANES = np.uint64(T), np.uint32(T), np.uint32(B)
    NONE, HALF_LENGTH = np.uint64(0), np.uint64(T // 2)
    ZERO, HALF, SCALE = np.float32(0), np.float32(0.5), np.float32(1 / T**2)
    access = make_tile_access((T, T), B, False)
    column_to_tile, tile_to_row = access.column_to_tile, access.tile_to_row
    row_to_tile, tile_to_column = access.row_to_tile, access.tile_to_column
    forward, inverse = _make_codelet(T, -1), _make_codelet(T, +1)

    @device_function
    def column_place() -> Any:
        """(column, pair): the thread has this column of planes 2*pair and 2*pair + 1; it is thread pair*T + column.

        Called by any thread. Barriers: none. Shared memory: none.
        """
        t = uint32(cuda.threadIdx.x)
        return uint32(t % WIDTH), uint32(t // WIDTH)

    @device_function
    def row_place() -> Any:
        """(row, plane): the thread has this row, below T/2, of the spectrum of a plane; it is thread row*B + plane.

        Called by any thread. Barriers: none. Shared memory: none.
        """
        t = uint32(cuda.threadIdx.x)
        return uint32(t // PLANES), uint32(t % PLANES)

    @device_function
    def find(array: Any, first: Any, step: Any, b: Any, j: Any) -> Any:
        """The two indices of plane b, and whether the array has this plane and in it column j."""
        n = uint32(int32(first[0]) + int32(b) * int32(step[0]))  # a negative index is beyond any size
        c = uint32(int32(first[1]) + int32(b) * int32(step[1]))
        held = n < uint32(array.shape[0]) and c < uint32(array.shape[1]) and j < uint32(array.shape[3])
        return uint64(n), uint64(c), held

    @device_function
    def load(z: Any, array: Any, first: Any, step: Any, corner: Any) -> None:
        """z = columns of the tile whose plane b is array[first[0] + b*step[0], first[1] + b*step[1]].

        Its sample (r, j) is sample (corner[0] + r, corner[1] + j) of that plane, and zero where the array has none: the
        corner may be negative. With step (0, 1) the planes are channels of an image, with (1, 0) one channel of several
        images, with (0, 0) all the same.
        Called by any thread. Barriers: none. Shared memory: none. Layout: columns.
        """
        column, pair = column_place()
        j = uint32(int32(corner[1]) + int32(column))
        n0, c0, held0 = find(array, first, step, pair + pair, j)
        n1, c1, held1 = find(array, first, step, pair + pair + uint32(1), j)
        height = uint32(array.shape[2])
        for r in range(LENGTH):
            i = uint32(int32(corner[0]) + int32(r))
            a = ZERO
            b = ZERO
            if held0 and i < height:
                a = array[n0, c0, uint64(i), uint64(j)]
            if held1 and i < height:
                b = array[n1, c1, uint64(i), uint64(j)]
            z[r] = complex(a, b)

    @device_function
    def store(z: Any, array: Any, first: Any, step: Any, corner: Any, extent: Any) -> None:
        """The mirror image of load: writes samples (r, j) with r < extent[0], j < extent[1], if the array has them.

        Called by any thread. Barriers: none. Shared memory: none. Layout: columns.
        """
        column, pair = column_place()
        j = uint32(int32(corner[1]) + int32(column))
        n0, c0, held0 = find(array, first, step, pair + pair, j)
        n1, c1, held1 = find(array, first, step, pair + pair + uint32(1), j)
        height, rows, kept = uint32(array.shape[2]), uint32(extent[0]), column < uint32(extent[1])
        for r in range(LENGTH):
            i = uint32(int32(corner[0]) + int32(r))
            if kept and uint32(r) < rows and i < height:
                if held0:
                    array[n0, c0, uint64(i), uint64(j)] = z[r].real
                if held1:
                    array[n1, c1, uint64(i), uint64(j)] = z[r].imag

    @device_function
    def rfft2(z: Any) -> None:
        """Columns to rows: numpy.fft.fft2 of every plane of the tile.

        Called by all threads of the block. Barriers: one before it writes to shared memory, so that none is needed
        before the call, and one before it reads; on return other threads may still be reading. Shared memory: the first
        shared_bytes of the dynamic one, the same in every call. Layout: columns on entry, rows on return.
        """
        shared = cuda.shared.array(0, complex64, alignment=16)
        column, pair = column_place()
        row, plane = row_place()
        y = cuda.local.array(T, complex64)  # of its own, so that NVVM unrolls its loops wherever this is called
        for r in range(LENGTH):
            y[r] = complex(HALF * z[r].real, HALF * z[r].imag)  # column_to_tile doubles
        forward(y)
        cuda.syncthreads()  # what was in the tile has been read
        column_to_tile(y, shared, pair, column)
        cuda.syncthreads()  # all columns are written before a row is read
        tile_to_row(shared, y, plane, row)
        forward(y)
        for i in range(LENGTH):
            z[i] = y[i]

    @device_function
    def irfft2(z: Any) -> None:
        """Rows to columns: numpy.fft.ifft2 of every plane of the tile.

        Called by all threads of the block. Barriers and shared memory: as in rfft2. Layout: rows on entry, columns on
        return.
        """
        shared = cuda.shared.array(0, complex64, alignment=16)
        column, pair = column_place()
        row, plane = row_place()
        y = cuda.local.array(T, complex64)
        for i in range(LENGTH):
            y[i] = complex(SCALE * z[i].real, SCALE * z[i].imag)
        inverse(y)
        cuda.syncthreads()  # what was in the tile has been read
        row_to_tile(y, shared, plane, row)
        cuda.syncthreads()  # all rows are written before a column is read
        tile_to_column(shared, y, pair, column)
        inverse(y)
        for r in range(LENGTH):
            z[r] = y[r]

    @device_function
    def bin(z: Any, ky: Any, kx: Any) -> Any:
        """X[ky, kx] of the thread's own row: ky is that row, or T/2 in the threads of row 0; 0 <= kx < T.

        kx is a constant or the index of a loop that is unrolled, else z leaves the registers.
        Called by any thread. Barriers: none. Shared memory: none. Layout: rows.
        """
        u = z[uint64(kx)]
        v = z[(LENGTH - uint64(kx)) % LENGTH]
        if uint64(ky) == NONE:
            return complex(HALF * (u.real + v.real), HALF * (u.imag - v.imag))
        if uint64(ky) == HALF_LENGTH:
            return complex(HALF * (u.imag + v.imag), HALF * (v.real - u.real))
        return u

    multiply, multiply_add = (make_product(T, row_place, conjugate=False, add=add) for add in (False, True))
    correlate, correlate_add = (make_product(T, row_place, conjugate=True, add=add) for add in (False, True))
    return Tile(
        T, B, T * B // 2, _shared_bytes((T, T), B), column_place, row_place, load, rfft2,
        multiply, multiply_add, correlate, correlate_add, bin, irfft2, store,
    )  # fmt: skip
