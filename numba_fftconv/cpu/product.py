"""Multiply stage on the CPU: at every bin a complex matrix product, planes in the SIMD lanes.

    forward      Y[f,m,k]  = sum_c  X[f,m,c] * conj W[f,k,c]
    input_grad   dX[f,m,c] = sum_k dY[f,m,k] *      W[f,k,c]
    weight_grad  dW[f,k,c] = sum_m  X[f,m,c] * conj dY[f,m,k]

A line of an image spectrum is z = a + ib, two real planes a and b in each of L lanes (see fft2d.py). Their spectra are
never told apart, since W is the spectrum of a real plane: it stands at one bin of each pair {f, -f}, and W[-f] = conj
W[f]. So a tile of the first two products is some outputs x L lanes x {f, -f} (tiles.py). The passes differ in where the
next W lies, and in which of f and -f meets conj W: both are numbers of the job, so one compiled kernel serves both
passes and all sizes. Sums run in slabs of DEPTH steps, each added to the result in memory: that keeps a slab of X in
the first-level cache, and bounds the rounding of a long sum. From one bin to the next lines lie kilobytes apart, so
while a tile is summed it asks for lines that are read next, one a step.

The third product, where it sums over lanes (see schedule.py for when), uses that with D = dY, at f and -f together,

    conj D[f] X[f] + conj(conj D[-f] X[-f]) = 2 (conj Da[f] Xa[f] + conj Db[f] Xb[f]),

twice the contribution of both planes. With d and x as vectors of 2 L reals, real parts below and imaginary parts above,
re conj(d) x is the sum of both halves of d x, and im conj(d) x the difference of the halves of d' x, where d' is d with
its halves exchanged; where a register is half a line, both are summed as halves at once (tiles.py). So L results (k, c)
are summed over SLAB lane blocks, each in vectors of its own, then over halves and lanes by a tree of pairwise sums. Two
such lists, H1 and H2, make lines of a packed spectrum again: Y[f] = H1 + i H2, Y[-f] = conj H1 + i conj H2.

Flops: 16 L for each (lane block, k, c, pair of bins); there are rows * columns / 2 + 2 pairs.
Example: 16 x 64 images and 64 filters, T = 32: 514 x 64 x 64 x 16 x 8 = 269 Mflop.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit, types

from ..cache import INDICES, compiled
from .tiles import OUTPUTS, correlate, multiply
from .vector import lanes

DEPTH = 128  # steps of a contraction that are summed in registers
SLAB = 8  # lane blocks that weight_grad sums in registers

# ---- index maps ------------------------------------------------------------------------------------------------------

# A job: one vector of int64, offsets and strides in reals. Of three spectra, at + ky row + kx bin + block + group:
X_AT, X_ROW, X_BIN, X_BLOCK, X_GROUP = range(5)
Y_AT, Y_ROW, Y_BIN, Y_BLOCK, Y_GROUP = range(5, 10)
W_AT, W_ROW, W_BIN, W_BLOCK, W_GROUP = range(10, 15)
BLOCKS = 15
# forward and input_grad: output o meets W at W_OUTPUT o + W_STEP (i mod L) + W_BLOCK (i div L) in step i of
# STEPS; COUNT outputs in each of GROUPS groups; SWAPPED exchanges f and -f.
W_OUTPUT, W_STEP, SWAPPED, GROUPS, STEPS, COUNT = range(16, 22)
# weight_grad, where W is dY: pairs (k, c) = divmod(pair, CHANNELS), LINES lines of them from FIRST on, PAIRS in all,
# FILTERS in a group; FRESH starts at zero.
FIRST, LINES, PAIRS, CHANNELS, FILTERS, FRESH = range(16, 22)
ROWS, COLUMNS = 22, 23  # both: the size of the tiles


@njit(inline="always")
def bin_at(job, operand, ky, kx):  # type: ignore[no-untyped-def]
    """Where a bin of one of the three spectra begins; an operand is named by its first index."""
    return job[operand] + ky * job[operand + 1] + kx * job[operand + 2]


@njit(inline="always")
def address(array, place):  # type: ignore[no-untyped-def]
    """Of an element, in bytes."""
    return array.ctypes.data + place * array.itemsize


@njit(inline="always")
def multiply_slab(job, steps, fresh, images, x, x_minus, filters, w, space, y, y_minus, asked):  # type: ignore[no-untyped-def]
    """All outputs of a group at a pair of bins, some steps of their sums; a tile asks for lines from one of three
    addresses on."""
    across, step, leap = job[W_OUTPUT], job[W_STEP], job[W_BLOCK]
    whole = job[COUNT] // OUTPUTS * OUTPUTS
    pairs = whole + (job[COUNT] - whole) // 2 * 2
    for o in range(0, whole, OUTPUTS):
        ahead = asked[min(o // OUTPUTS, 2)]
        multiply(OUTPUTS, o, steps, fresh, images, x, x_minus, filters, w, across, step, leap, space, y, y_minus, ahead)
    for o in range(whole, pairs, 2):
        ahead = asked[min(o // OUTPUTS, 2)]
        multiply(2, o, steps, fresh, images, x, x_minus, filters, w, across, step, leap, space, y, y_minus, ahead)
    for o in range(pairs, job[COUNT]):
        ahead = asked[min(o // OUTPUTS, 2)]
        multiply(1, o, steps, fresh, images, x, x_minus, filters, w, across, step, leap, space, y, y_minus, ahead)


# ---- kernels ---------------------------------------------------------------------------------------------------------


@cache
def product_kernel(dtype: str) -> Callable[..., None]:
    """product(lo, hi, images, filters, space, job): forward and input_grad, the bins of rows lo..hi and their
    opposites; X lies in images, W in filters, Y in space."""
    real = getattr(types, dtype)
    LINE = 2 * lanes(real.bitwidth // 8)
    LANES = LINE // 2

    def kernel(lo, hi, images, filters, space, job):  # type: ignore[no-untyped-def]
        rows, columns = job[ROWS], job[COLUMNS]
        for ky in range(lo, hi):
            for kx in range(columns // 2 + 1):
                if kx % (columns // 2) == 0 and ky > rows // 2:  # the other one of its pair is done
                    continue
                ny, nx = (rows - ky) % rows, (columns - kx) % columns
                x, x_minus = bin_at(job, X_AT, ky, kx), bin_at(job, X_AT, ny, nx)
                y, y_minus = bin_at(job, Y_AT, ky, kx), bin_at(job, Y_AT, ny, nx)
                then, then_minus = bin_at(job, X_AT, ky, kx + 1), bin_at(job, X_AT, ny, columns - kx - 1)
                if job[SWAPPED]:
                    x, x_minus, y, y_minus, then, then_minus = x_minus, x, y_minus, y, then_minus, then
                w, w_then = bin_at(job, W_AT, ky, kx), bin_at(job, W_AT, ky, kx + 1)
                for block in range(job[BLOCKS]):
                    to_x, to_y, is_last = block * job[X_BLOCK], block * job[Y_BLOCK], block + 1 == job[BLOCKS]
                    next_x = then if is_last else x + to_x + job[X_BLOCK]
                    next_minus = then_minus if is_last else x_minus + to_x + job[X_BLOCK]
                    for group in range(job[GROUPS]):
                        yi, ym = y + to_y + group * job[Y_GROUP], y_minus + to_y + group * job[Y_GROUP]
                        for i in range(0, job[STEPS], DEPTH):
                            steps, fresh = min(DEPTH, job[STEPS] - i), i == 0
                            at_x = group * job[X_GROUP] + i * LINE
                            at_w = group * job[W_GROUP] + i // LANES * job[W_BLOCK]
                            xi, xm, wi = x + to_x + at_x, x_minus + to_x + at_x, w + at_w
                            # The first tile asks for lines of X[f] that come next, the second of X[-f], others of W.
                            asked = (
                                address(images, next_x + at_x),
                                address(images, next_minus + at_x),
                                address(filters, w_then + at_w),
                            )
                            multiply_slab(job, steps, fresh, images, xi, xm, filters, wi, space, yi, ym, asked)

    array = types.Array(real, 1, "C")
    return compiled(f"product_{dtype}", types.void(types.intp, types.intp, *[array] * 3, INDICES), kernel)


@cache
def weight_product_kernel(dtype: str) -> Callable[..., None]:
    """weight_product(lo, hi, images, filters, space, job): weight_grad, the bins of rows lo..hi and their opposites; X
    lies in images, dY in filters, dW in space."""
    real = getattr(types, dtype)
    LINE = 2 * lanes(real.bitwidth // 8)
    LANES = LINE // 2

    def kernel(lo, hi, images, filters, space, job):  # type: ignore[no-untyped-def]
        rows, columns, lines = job[ROWS], job[COLUMNS], job[LINES]
        x_lines, d_lines = np.empty(lines * LINE, np.int64), np.empty(lines * LINE, np.int64)
        for i in range(lines * LINE):
            begin, q = job[FIRST] + i // LINE * LINE, i % LINE
            rest = job[PAIRS] - begin
            # Past the last pair stands that of the same lane again, so that no pair shares rounding with a stranger.
            k, c = divmod(begin + (q if q < rest else q % LANES % rest), job[CHANNELS])
            x_lines[i], d_lines[i] = (k // job[FILTERS] * job[CHANNELS] + c) * LINE, k * LINE
        shared, x_block, d_block = job[CHANNELS] % LANES == 0, job[X_BLOCK], job[W_BLOCK]
        for ky in range(lo, hi):
            for kx in range(columns // 2 + 1):
                if kx % (columns // 2) == 0 and ky > rows // 2:
                    continue
                ny, nx = (rows - ky) % rows, (columns - kx) % columns
                for block in range(0, job[BLOCKS], SLAB):
                    steps, fresh = min(SLAB, job[BLOCKS] - block), job[FRESH] != 0 and block == 0
                    x, xm = bin_at(job, X_AT, ky, kx) + block * x_block, bin_at(job, X_AT, ny, nx) + block * x_block
                    d, dm = bin_at(job, W_AT, ky, kx) + block * d_block, bin_at(job, W_AT, ny, nx) + block * d_block
                    y, ym = bin_at(job, Y_AT, ky, kx), bin_at(job, Y_AT, ny, nx)
                    for at in range(0, lines * LINE, LINE):
                        xs, ds, yl, yml = x_lines[at:], d_lines[at:], y + at, ym + at
                        if shared:
                            correlate(
                                1, fresh, images, x, xm, x_block, filters, d, dm, d_block, steps, xs, ds, space, yl, yml
                            )
                        else:
                            correlate(
                                0, fresh, images, x, xm, x_block, filters, d, dm, d_block, steps, xs, ds, space, yl, yml
                            )

    array = types.Array(real, 1, "C")
    return compiled(f"weight_product_{dtype}", types.void(types.intp, types.intp, *[array] * 3, INDICES), kernel)
