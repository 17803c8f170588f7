"""The pass over columns of a large transform (two_pass.py): planes to V, and V to planes.

A column of at most 64 samples is one thread's, so a warp needs no other; loads and stores are those of planes.py. One
of 128 or 256 is that of the 8 warps of a block, which share it as long_fft.py says, each thread with the teeth of
teeth.py. Frequencies k and R - k of a column meet in one thread, where two planes are taken apart or put together.

Example: R = 256, 8 planes of 256 columns: 32 blocks of 256 threads; a thread loads 2 x 32 samples and stores 2 x 8
pairs of values, one for each plane of its pair.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import complex64, cuda, types, uint32, uint64

from .butterfly import make_fft
from .fft2d import LAYOUT_ARGUMENTS
from .intrinsics import samples_of
from .long_fft import GROUPS, make_long_fft, other
from .middle import LONGEST
from .planes import Epilogue, make_column_access
from .teeth import make_teeth
from .toolchain import COMPLEXES, Kernel, device_function, namedtuple_type
from .two_pass import (
    MIDDLE_TYPE,
    apart,
    block_of,
    edges_apart,
    edges_together,
    make_find_columns,
    place_of_column,
    row_pitch,
    together,
)


@cache
def columns_kernel(R: int, spaced: bool = False, samples: str = "float32") -> Kernel:
    """The kernel columns(gx, gV, planes, strides, rows, columns, middle): planes to V."""
    HEIGHT, HALF_HEIGHT, ONE, NONE = np.uint64(R), np.uint64(R // 2), np.uint64(1), np.uint64(0)
    find_columns = make_find_columns(R)
    threads, shared, blocks = block_of(R)
    name = f"transform_columns_t{R}" + ("_spaced" if spaced else "") + samples_of(samples).word
    signature = (samples_of(samples).pointer, COMPLEXES, *LAYOUT_ARGUMENTS, MIDDLE_TYPE)

    if R <= LONGEST:
        load_column, _ = make_column_access(R, False, spaced, samples=samples)
        fft = make_fft(R, -1)

        def columns_of_threads(
            gx: Any, gV: Any, planes: Any, strides: Any, rows: Any, columns: Any, middle: Any
        ) -> None:
            z = cuda.local.array(R, complex64)
            p, j, _, _ = find_columns(middle)
            if p < middle.end and j < middle.width:
                load_column(z, gx, planes, strides, rows, columns, p, j)
                fft(z)
                v = place_of_column(middle, p, j)
                edges_apart(gV, v, z[NONE], z[HALF_HEIGHT])
                for k in range(ONE, HALF_HEIGHT):
                    v += row_pitch(middle)
                    apart(gV, v, z[k], z[HEIGHT - k])

        return Kernel(name, columns_of_threads, signature, threads, shared, blocks)

    R1, R2, ROUNDS, split, join = make_long_fft(R, -1)
    load = make_teeth(R1, R2, spaced, samples=samples).load
    LAST, HALF, MIDDLE = np.uint64(R2 - 1), np.uint64(R2 // 2), np.uint32(R1 // 2)
    STEP = np.uint64(R1)

    @device_function
    def teeth(
        gx: Any, planes: Any, strides: Any, rows: Any, columns: Any, p: Any, j: Any, sS: Any, n2: Any, lane: Any
    ) -> None:
        z = cuda.local.array(R1, complex64)
        load(z, gx, planes, strides, rows, columns, p, j, n2)
        split(z, sS, n2, lane)

    def columns_of_blocks(gx: Any, gV: Any, planes: Any, strides: Any, rows: Any, columns: Any, middle: Any) -> None:
        sS = cuda.shared.array(0, complex64)
        a = cuda.local.array(R2, complex64)
        b = cuda.local.array(R2, complex64)
        p, j, group, lane = find_columns(middle)
        for i in range(ROUNDS):
            n2 = uint32(group + uint32(uint32(i) * uint32(GROUPS)))
            teeth(gx, planes, strides, rows, columns, p, j, sS, n2, lane)
        cuda.syncthreads()  # all of `split` is written before `join` reads it

        join(sS, a, b, group, lane)
        if p < middle.end and j < middle.width:
            v = place_of_column(middle, p, j)
            pitch = row_pitch(middle)
            w = v + pitch * uint64(other(group, MIDDLE))
            v += pitch * uint64(group)
            pitch *= STEP
            if group == uint32(0):
                edges_apart(gV, v, a[NONE], a[HALF])
                apart(gV, w, b[NONE], b[LAST])
                for k in range(ONE, HALF):
                    v += pitch
                    w += pitch
                    apart(gV, v, a[k], a[LAST + ONE - k])
                    apart(gV, w, b[k], b[LAST - k])
            else:
                for k in range(HALF):
                    apart(gV, v, a[k], b[LAST - k])
                    apart(gV, w, b[k], a[LAST - k])
                    v += pitch
                    w += pitch

    return Kernel(name, columns_of_blocks, signature, threads, shared, blocks)


@cache
def inverse_columns_kernel(
    R: int, spaced: bool = False, accumulate: bool = False, samples: str = "float32"
) -> Kernel:
    """The kernel columns(gV, gy, gbias, planes, strides, rows, columns, epilogue, middle): V to planes."""
    HEIGHT, HALF_HEIGHT, ONE, NONE = np.uint64(R), np.uint64(R // 2), np.uint64(1), np.uint64(0)
    find_columns = make_find_columns(R)
    threads, shared, blocks = block_of(R)
    if R == 128 and spaced:  # to find samples takes more than the 64 registers of four blocks; to add or convert, 80
        blocks = 2 if accumulate or samples != "float32" else 3
    form = ("_spaced" if spaced else "") + samples_of(samples).word + ("_accumulate" if accumulate else "")
    name = f"inverse_columns_t{R}{form}"
    reals = samples_of(samples).pointer
    epilogues = namedtuple_type(Epilogue, types.float32)
    signature = (COMPLEXES, reals, reals, *LAYOUT_ARGUMENTS, epilogues, MIDDLE_TYPE)

    if R <= LONGEST:
        _, store_column = make_column_access(R, False, spaced, accumulate, samples)
        fft = make_fft(R, +1)

        def columns_of_threads(
            gV: Any, gy: Any, gbias: Any, planes: Any, strides: Any, rows: Any, columns: Any, epilogue: Any, middle: Any
        ) -> None:
            z = cuda.local.array(R, complex64)
            p, j, _, _ = find_columns(middle)
            if p < middle.end and j < middle.width:
                v = place_of_column(middle, p, j)
                z[NONE], z[HALF_HEIGHT] = edges_together(gV, v)
                for k in range(ONE, HALF_HEIGHT):
                    v += row_pitch(middle)
                    z[k], z[HEIGHT - k] = together(gV, v)
                fft(z)
                store_column(z, gy, gbias, planes, strides, rows, columns, epilogue, p, j)

        return Kernel(name, columns_of_threads, signature, threads, shared, blocks)

    R1, R2, ROUNDS, split, join = make_long_fft(R, +1)
    store = make_teeth(R1, R2, spaced, accumulate, samples).store
    LAST, HALF, MIDDLE, EVEN = np.uint64(R2 - 1), np.uint64(R2 // 2), np.uint32(R1 // 2), np.uint32(0xFFFFFFFE)
    STEP = np.uint64(R1)

    @device_function
    def teeth(
        sS: Any, gy: Any, gbias: Any, planes: Any, strides: Any, rows: Any, columns: Any, epilogue: Any,
        p: Any, j: Any, is_there: Any, n2: Any, lane: Any,
    ) -> None:  # fmt: skip
        z = cuda.local.array(R1, complex64)
        split(sS, z, n2, lane)
        if is_there:
            store(z, gy, gbias, planes, strides, rows, columns, epilogue, p, j, n2)

    def columns_of_blocks(
        gV: Any, gy: Any, gbias: Any, planes: Any, strides: Any, rows: Any, columns: Any, epilogue: Any, middle: Any
    ) -> None:
        sS = cuda.shared.array(0, complex64)
        a = cuda.local.array(R2, complex64)
        b = cuda.local.array(R2, complex64)
        p, j, group, lane = find_columns(middle)
        last = uint32(uint32(middle.end - uint32(1)) & EVEN)  # these stand for what is not: their results go nowhere
        v = place_of_column(middle, min(p, last), min(j, uint32(middle.width - uint32(1))))
        pitch = row_pitch(middle)
        w = v + pitch * uint64(other(group, MIDDLE))
        v += pitch * uint64(group)
        pitch *= STEP
        if group == uint32(0):
            a[NONE], a[HALF] = edges_together(gV, v)
            b[NONE], b[LAST] = together(gV, w)
            for k in range(ONE, HALF):
                v += pitch
                w += pitch
                a[k], a[LAST + ONE - k] = together(gV, v)
                b[k], b[LAST - k] = together(gV, w)
        else:
            for k in range(HALF):
                a[k], b[LAST - k] = together(gV, v)
                b[k], a[LAST - k] = together(gV, w)
                v += pitch
                w += pitch
        join(a, b, sS, group, lane)
        cuda.syncthreads()  # all of `join` is written before `split` reads it

        is_there = p < middle.end and j < middle.width
        for i in range(ROUNDS):
            n2 = uint32(group + uint32(uint32(i) * uint32(GROUPS)))
            teeth(sS, gy, gbias, planes, strides, rows, columns, epilogue, p, j, is_there, n2, lane)

    return Kernel(name, columns_of_blocks, signature, threads, shared, blocks)
