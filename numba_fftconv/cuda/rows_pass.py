"""The pass over rows of a large transform (two_pass.py): V to a spectrum, and a spectrum to V.

Lanes are planes on both sides. A row of at most 64 columns is one thread's, one of 128 or 256 that of the 8 warps of a
block (long_fft.py). Row ky = 0 of V is row 0 plus i times row R/2 of the spectrum: frequencies kx and -kx of it, which
are in one thread, make the bins of both.

Example: C = 256, R = 2, 64 planes: one row in two blocks of 256 threads; a thread loads 32 values of V and stores 32
bins, 17 or 16 of them of row 0 and as many of row 1.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import complex64, cuda, int64, types, uint32, uint64

from ..integers import first_bin
from .butterfly import make_fft
from .fft2d import make_tile_access
from .intrinsics import load_c64, store_c64
from .long_fft import GROUPS, make_long_fft, other
from .middle import LANES, LONGEST
from .planes import Strides
from .toolchain import COMPLEXES, Kernel, device_function, namedtuple_type
from .two_pass import MIDDLE_TYPE, WARPS, block_of, find_plane, place_of_column, row_pitch

STRIDES_TYPE = namedtuple_type(Strides, types.int64)


@cache
def rows_kernel(C: int) -> Kernel:
    """The kernel rows(gV, gX, strides, middle, heights): V to a spectrum of so many rows ky, R/2."""
    LENGTH, ONE, NONE, TWO = np.uint64(C), np.uint64(1), np.uint64(0), np.uint64(2)
    ROWS = np.uint32(WARPS)
    ZERO, HALVE = np.float32(0), np.float32(0.5)
    threads, shared, blocks = block_of(C)
    blocks = min(blocks, 2) if C == 256 else blocks  # three would leave 80 registers, 2 too few for the row of edges
    name, signature = f"transform_rows_t{C}", (COMPLEXES, COMPLEXES, STRIDES_TYPE, MIDDLE_TYPE, types.uint32)

    if C <= LONGEST:
        row_to_spectrum = make_tile_access((2, C), LANES, False).row_to_spectrum
        fft = make_fft(C, -1)

        def rows_of_threads(gV: Any, gX: Any, strides: Any, middle: Any, heights: Any) -> None:
            z = cuda.local.array(C, complex64)
            p, warp, _ = find_plane(middle)
            ky = uint32(uint32(cuda.blockIdx.y) * ROWS + warp)
            if p < middle.end and ky < heights:
                v = place_of_column(middle, p, uint32(0)) + uint64(ky) * row_pitch(middle)
                for i in range(LENGTH):
                    z[i] = complex(ZERO, ZERO)
                    if i < uint64(middle.width):
                        z[i] = load_c64(gV, v)
                    v += uint64(middle.pitch)
                fft(z)
                row_to_spectrum(z, gX, strides.pitch, p, ky)

        return Kernel(name, rows_of_threads, signature, threads, shared, blocks)

    R1, R2, ROUNDS, split, join = make_long_fft(C, -1)
    COUNT, COUNT2, LAST, HALF = np.uint64(R1), np.uint64(R2), np.uint64(R2 - 1), np.uint64(R2 // 2)
    MIDDLE, STEP, SECOND, EDGE = np.uint32(R1 // 2), np.uint64(R1), np.uint64(R2), np.uint64(first_bin((2, C), 1))

    @device_function
    def teeth(gV: Any, v: Any, middle: Any, sS: Any, n2: Any, lane: Any) -> None:
        z = cuda.local.array(R1, complex64)
        v += uint64(n2) * uint64(middle.pitch)
        for i in range(COUNT):
            z[i] = complex(ZERO, ZERO)
            if uint64(n2) + i * SECOND < uint64(middle.width):
                z[i] = load_c64(gV, v)
            v += uint64(middle.pitch) * SECOND
        split(z, sS, n2, lane)

    @device_function
    def both(gX: Any, f: Any, g: Any, u: Any, w: Any) -> None:
        """Of row 0 plus i times row R/2, at kx and -kx, the bins of both rows at kx."""
        re = HALVE * u.real
        im = HALVE * u.imag
        store_c64(gX, f, complex(re + HALVE * w.real, im - HALVE * w.imag))
        store_c64(gX, g, complex(im + HALVE * w.imag, HALVE * w.real - re))

    def rows_of_blocks(gV: Any, gX: Any, strides: Any, middle: Any, heights: Any) -> None:
        sS = cuda.shared.array(0, complex64)
        a = cuda.local.array(R2, complex64)
        b = cuda.local.array(R2, complex64)
        p, group, lane = find_plane(middle)
        ky = uint32(cuda.blockIdx.y)
        last = uint32(middle.end - uint32(1))  # what stands for planes that are not: their results go nowhere
        v = place_of_column(middle, min(p, last), uint32(0)) + uint64(ky) * row_pitch(middle)
        for i in range(ROUNDS):
            teeth(gV, v, middle, sS, uint32(group + uint32(uint32(i) * uint32(GROUPS))), lane)
        cuda.syncthreads()  # all of `split` is written before `join` reads it

        join(sS, a, b, group, lane)
        if p < middle.end:
            pitch = uint64(int64(strides.pitch))
            f = uint64(p) + pitch * uint64(group)
            g = uint64(p) + pitch * uint64(other(group, MIDDLE))
            step = pitch * STEP
            if ky == uint32(0):
                below = pitch * EDGE
                if group == uint32(0):
                    u, w = a[NONE], a[HALF]
                    store_c64(gX, f, complex(u.real, ZERO))
                    store_c64(gX, f + below, complex(u.imag, ZERO))
                    store_c64(gX, f + step * HALF, complex(w.real, ZERO))
                    store_c64(gX, f + step * HALF + below, complex(w.imag, ZERO))
                    both(gX, g, g + below, b[NONE], b[LAST])
                    for k in range(ONE, HALF):
                        f += step
                        g += step
                        both(gX, f, f + below, a[k], a[COUNT2 - k])
                        both(gX, g, g + below, b[k], b[LAST - k])
                else:
                    for k in range(HALF):
                        both(gX, f, f + below, a[k], b[LAST - k])
                        both(gX, g, g + below, b[k], a[LAST - k])
                        f += step
                        g += step
            else:
                begin = pitch * (uint64(ky) * LENGTH + TWO)
                f += begin
                g += begin
                for k in range(COUNT2):
                    store_c64(gX, f, a[k])
                    store_c64(gX, g, b[k])
                    f += step
                    g += step

    return Kernel(name, rows_of_blocks, signature, threads, shared, blocks)


@cache
def inverse_rows_kernel(C: int) -> Kernel:
    """The kernel rows(gX, gV, strides, middle, heights), the mirror image; it writes V of an even number of planes."""
    LENGTH, ONE, NONE, TWO = np.uint64(C), np.uint64(1), np.uint64(0), np.uint64(2)
    ROWS, EVEN = np.uint32(WARPS), np.uint32(0xFFFFFFFE)
    threads, shared, blocks = block_of(C)
    name, signature = f"inverse_rows_t{C}", (COMPLEXES, COMPLEXES, STRIDES_TYPE, MIDDLE_TYPE, types.uint32)

    if C <= LONGEST:
        spectrum_to_row = make_tile_access((2, C), LANES, False).spectrum_to_row
        fft = make_fft(C, +1)

        def rows_of_threads(gX: Any, gV: Any, strides: Any, middle: Any, heights: Any) -> None:
            z = cuda.local.array(C, complex64)
            p, warp, _ = find_plane(middle)
            ky = uint32(uint32(cuda.blockIdx.y) * ROWS + warp)
            if p < uint32(uint32(middle.end + uint32(1)) & EVEN) and ky < heights:
                last = uint32(middle.end - uint32(1))  # stands for the plane that completes a pair
                spectrum_to_row(gX, z, strides.pitch, min(p, last), ky)
                fft(z)
                v = place_of_column(middle, p, uint32(0)) + uint64(ky) * row_pitch(middle)
                for i in range(LENGTH):
                    if i < uint64(middle.width):
                        store_c64(gV, v, z[i])
                    v += uint64(middle.pitch)

        return Kernel(name, rows_of_threads, signature, threads, shared, blocks)

    R1, R2, ROUNDS, split, join = make_long_fft(C, +1)
    COUNT, COUNT2, LAST, HALF = np.uint64(R1), np.uint64(R2), np.uint64(R2 - 1), np.uint64(R2 // 2)
    MIDDLE, STEP, SECOND, EDGE = np.uint32(R1 // 2), np.uint64(R1), np.uint64(R2), np.uint64(first_bin((2, C), 1))

    @device_function
    def both(gX: Any, f: Any, g: Any) -> Any:
        """Row 0 plus i times row R/2, at kx and at -kx."""
        u = load_c64(gX, f)
        w = load_c64(gX, g)
        return complex(u.real - w.imag, u.imag + w.real), complex(u.real + w.imag, w.real - u.imag)

    @device_function
    def teeth(sS: Any, gV: Any, v: Any, middle: Any, is_there: Any, n2: Any, lane: Any) -> None:
        z = cuda.local.array(R1, complex64)
        split(sS, z, n2, lane)
        v += uint64(n2) * uint64(middle.pitch)
        for i in range(COUNT):
            if is_there and uint64(n2) + i * SECOND < uint64(middle.width):
                store_c64(gV, v, z[i])
            v += uint64(middle.pitch) * SECOND

    def rows_of_blocks(gX: Any, gV: Any, strides: Any, middle: Any, heights: Any) -> None:
        sS = cuda.shared.array(0, complex64)
        a = cuda.local.array(R2, complex64)
        b = cuda.local.array(R2, complex64)
        p, group, lane = find_plane(middle)
        ky = uint32(cuda.blockIdx.y)
        last = uint32(middle.end - uint32(1))
        pitch = uint64(int64(strides.pitch))
        f = uint64(min(p, last)) + pitch * uint64(group)
        g = uint64(min(p, last)) + pitch * uint64(other(group, MIDDLE))
        step = pitch * STEP
        if ky == uint32(0):
            below = pitch * EDGE
            if group == uint32(0):
                a[NONE] = complex(load_c64(gX, f).real, load_c64(gX, f + below).real)
                a[HALF] = complex(load_c64(gX, f + step * HALF).real, load_c64(gX, f + step * HALF + below).real)
                b[NONE], b[LAST] = both(gX, g, g + below)
                for k in range(ONE, HALF):
                    f += step
                    g += step
                    a[k], a[COUNT2 - k] = both(gX, f, f + below)
                    b[k], b[LAST - k] = both(gX, g, g + below)
            else:
                for k in range(HALF):
                    a[k], b[LAST - k] = both(gX, f, f + below)
                    b[k], a[LAST - k] = both(gX, g, g + below)
                    f += step
                    g += step
        else:
            begin = pitch * (uint64(ky) * LENGTH + TWO)
            f += begin
            g += begin
            for k in range(COUNT2):
                a[k] = load_c64(gX, f)
                b[k] = load_c64(gX, g)
                f += step
                g += step
        join(a, b, sS, group, lane)
        cuda.syncthreads()  # all of `join` is written before `split` reads it

        is_there = p < uint32(uint32(middle.end + uint32(1)) & EVEN)
        v = place_of_column(middle, p, uint32(0)) + uint64(ky) * row_pitch(middle)
        for i in range(ROUNDS):
            teeth(sS, gV, v, middle, is_there, uint32(group + uint32(uint32(i) * uint32(GROUPS))), lane)

    return Kernel(name, rows_of_blocks, signature, threads, shared, blocks)
