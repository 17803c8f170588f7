"""The multiply stage where every channel is a group of its own: products element by element, no sum over channels.

X has C channels, and W and the output K = C * multiplier; output channel k belongs to channel c = k // multiplier.

    forward       Y[f,m,k]  =        X[f,m,c] conj W[f,k]
    input_grad    dX[f,m,c] = sum_j  dY[f,m,k] W[f,k]        over the multiplier's k = c*multiplier + j
    weight_grad   dW[f,k]   = sum_m  conj dY[f,m,k] X[f,m,c]

each halved, since spectra are stored doubled. One thread a column of the result, so that a warp reads and writes 256
bytes in a row; blockIdx.x counts blocks of 128 columns, y runs of ROW_RUN rows (weight_grad: one run of all rows), z
bins. In forward a value of W stays in a register for the whole run. Four rows are read before the first is used, which
keeps 32 bytes a thread or more on their way: 2048 threads of a multiprocessor then hide the latency of memory. Sums go
on from 2*Y where Y is added to, in the order of j or m, so that a cut of m into chunks does not change a bit.

Cost of a bin: 8 flops a product, 8 bytes a value, each operand read once: bound by memory alone.

Example: 32 images of 512 channels, multiplier 1, T = 16, forward: grid 4 x 1 x 130. Thread 5 of block (2, 0, 7) takes
channel 261 of bin 7: it reads W[7, 261] once and X[7, 0:32, 261] in eight rounds of four, and writes as much.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, types

from ..integers import ceil_div
from .intrinsics import load_c64, store_c64
from .product import Pitches
from .toolchain import COMPLEXES, Kernel, device_function, namedtuple_type

THREADS = 128
ROW_RUN = 32  # rows a thread takes where nothing is summed over them
u32, u64, i32, i64, f32 = np.uint32, np.uint64, np.int32, np.int64, np.float32


class Depthwise(NamedTuple):
    """Rows of X and Y (images times segments), channels of X, outputs a channel, and whether Y is added to."""

    rows: int
    channels: int
    multiplier: int
    accumulate: int


@device_function
def _run_of_rows(rows: Any) -> Any:
    """First and last row of this block's run."""
    first = i32(cuda.blockIdx.y * i32(ROW_RUN))
    end = i32(first + i32(ROW_RUN))
    return first, i32((end if end < rows else rows) - i32(1))


@device_function
def _start(gY: Any, i: Any, accumulate: Any) -> Any:
    """What a sum starts from: twice the old value, as (re, im), or nothing."""
    if accumulate == 0:
        return f32(0), f32(0)
    old = load_c64(gY, i)
    return f32(f32(2) * old.real), f32(f32(2) * old.imag)


@device_function
def _add(re: Any, im: Any, x: Any, y: Any) -> Any:
    """(re, im) + x * y, in four FFMA."""
    re = f32(re + x.real * y.real)
    re = f32(re - x.imag * y.imag)
    im = f32(im + x.real * y.imag)
    im = f32(im + x.imag * y.real)
    return re, im


@device_function
def _add_conj(re: Any, im: Any, x: Any, y: Any) -> Any:
    """(re, im) + x * conj y, in four FFMA."""
    re = f32(re + x.real * y.real)
    re = f32(re + x.imag * y.imag)
    im = f32(im - x.real * y.imag)
    im = f32(im + x.imag * y.real)
    return re, im


@device_function
def _store_half(gY: Any, i: Any, re: Any, im: Any) -> None:
    store_c64(gY, i, np.complex64(complex(f32(f32(0.5) * re), f32(f32(0.5) * im))))


def _by_rows(pass_name: str) -> Any:
    """The body of forward (A = X, B = W, Y = Y) and of input_grad (A = dY, B = W, Y = dX), four rows at a time.

    A thread sums `terms` products a row: one in forward, the multiplier's in input_grad.
    """
    FORWARD = pass_name == "forward"
    add = _add_conj if FORWARD else _add

    def by_rows(gA: Any, gB: Any, gY: Any, shape: Any, pitches: Any) -> None:
        column = i32(cuda.blockIdx.x * i32(THREADS) + cuda.threadIdx.x)
        outputs = i32(shape.channels * shape.multiplier)
        lda, ldy = (shape.channels, outputs) if FORWARD else (outputs, shape.channels)
        if column >= ldy:
            return
        terms = i32(1) if FORWARD else shape.multiplier
        of_a = i64(u32(column) // u32(shape.multiplier)) if FORWARD else i64(column * shape.multiplier)
        of_b = i64(column) if FORWARD else of_a
        f = i64(cuda.blockIdx.z)
        a, b, y = i64(f * pitches.a + of_a), i64(f * pitches.b + of_b), i64(f * pitches.y + column)
        w = load_c64(gB, u64(b))
        first, last = _run_of_rows(shape.rows)
        for m in range(first, last + 1, 4):
            # The last rows are read more than once, and written once, rather than tested for.
            m0, m1, m2, m3 = i64(m), i64(min(m + 1, last)), i64(min(m + 2, last)), i64(min(m + 3, last))
            y0, y1, y2, y3 = u64(y + m0 * ldy), u64(y + m1 * ldy), u64(y + m2 * ldy), u64(y + m3 * ldy)
            r0, i0 = _start(gY, y0, shape.accumulate)
            r1, i1 = _start(gY, y1, shape.accumulate)
            r2, i2 = _start(gY, y2, shape.accumulate)
            r3, i3 = _start(gY, y3, shape.accumulate)
            for j in range(terms):
                v = w if FORWARD else load_c64(gB, u64(b + j))
                a0, a1 = load_c64(gA, u64(a + m0 * lda + j)), load_c64(gA, u64(a + m1 * lda + j))
                a2, a3 = load_c64(gA, u64(a + m2 * lda + j)), load_c64(gA, u64(a + m3 * lda + j))
                r0, i0 = add(r0, i0, a0, v)
                r1, i1 = add(r1, i1, a1, v)
                r2, i2 = add(r2, i2, a2, v)
                r3, i3 = add(r3, i3, a3, v)
            _store_half(gY, y0, r0, i0)
            _store_half(gY, y1, r1, i1)
            _store_half(gY, y2, r2, i2)
            _store_half(gY, y3, r3, i3)

    return by_rows


def _weight_grad(gY: Any, gX: Any, gW: Any, shape: Any, pitches: Any) -> None:
    """A = dY, B = X, Y = dW."""
    k = i32(cuda.blockIdx.x * i32(THREADS) + cuda.threadIdx.x)
    outputs = i32(shape.channels * shape.multiplier)
    if k >= outputs:
        return
    f = i64(cuda.blockIdx.z)
    y, x = i64(f * pitches.a + k), i64(f * pitches.b + i64(u32(k) // u32(shape.multiplier)))
    w = u64(f * pitches.y + k)
    re, im = _start(gW, w, shape.accumulate)
    fours = i32(shape.rows & i32(-4))
    for _ in range(0, fours, 4):
        y0, x0 = load_c64(gY, u64(y)), load_c64(gX, u64(x))
        y1, x1 = load_c64(gY, u64(y + outputs)), load_c64(gX, u64(x + shape.channels))
        y2, x2 = load_c64(gY, u64(y + 2 * outputs)), load_c64(gX, u64(x + 2 * shape.channels))
        y3, x3 = load_c64(gY, u64(y + 3 * outputs)), load_c64(gX, u64(x + 3 * shape.channels))
        re, im = _add_conj(re, im, x0, y0)
        re, im = _add_conj(re, im, x1, y1)
        re, im = _add_conj(re, im, x2, y2)
        re, im = _add_conj(re, im, x3, y3)
        y, x = i64(y + 4 * outputs), i64(x + 4 * shape.channels)
    for _ in range(fours, shape.rows):
        re, im = _add_conj(re, im, load_c64(gX, u64(x)), load_c64(gY, u64(y)))
        y, x = i64(y + outputs), i64(x + shape.channels)
    _store_half(gW, w, re, im)


@cache
def pointwise_kernel(pass_name: str) -> Kernel:
    """The kernel of a pass, called with (gA, gB, gY, shape: Depthwise, pitches: Pitches)."""
    return Kernel(
        name=f"product_pointwise_{pass_name}",
        function=_weight_grad if pass_name == "weight_grad" else _by_rows(pass_name),
        signature=(
            COMPLEXES,
            COMPLEXES,
            COMPLEXES,
            namedtuple_type(Depthwise, types.int32),
            namedtuple_type(Pitches, types.int64),
        ),
        threads=THREADS,
        shared_bytes=0,
        least_blocks=8,
    )


def grid(pass_name: str, shape: Depthwise, bins: int) -> tuple[int, int, int]:
    """Blocks of one launch over so many bins.

    >>> grid("forward", Depthwise(32, 512, 1, 0), 130)
    (4, 1, 130)
    """
    columns = shape.channels * (1 if pass_name == "input_grad" else shape.multiplier)
    return ceil_div(columns, THREADS), 1 if pass_name == "weight_grad" else ceil_div(shape.rows, ROW_RUN), bins
