"""Multiply stage on the CPU: at every bin a complex matrix product, planes in the SIMD lanes.

    forward      Y[f,m,k]  = sum_c  X[f,m,c] * conj W[f,k,c]
    input_grad   dX[f,m,c] = sum_k dY[f,m,k] *      W[f,k,c]
    weight_grad  dW[f,k,c] = sum_m  X[f,m,c] * conj dY[f,m,k]

A line of an image spectrum is z = a + ib, two real planes a and b in each of L lanes (see fft2d.py). Their spectra are
never told apart, since W is the spectrum of a real plane: it stands at one bin of each pair {f, -f}, and W[-f] = conj
W[f]. So a tile of the first two products is 4 outputs x L lanes x {f, -f}: 16 vectors of sums in registers, and for
each step of the contraction 4 vector loads, 8 broadcasts of W and 32 fused multiply-adds. The passes differ in where
the next W lies, and in which of f and -f meets conj W: both are numbers of the job, so one compiled kernel serves both
passes and all T. Sums run in slabs of DEPTH steps, each added to the result in memory: that keeps a slab of X in the
first-level cache, and bounds the rounding of a long sum.

The third product sums over lanes. With D = dY, at f and -f together,

    conj D[f] X[f] + conj(conj D[-f] X[-f]) = 2 (conj Da[f] Xa[f] + conj Db[f] Xb[f]),

twice the contribution of both planes. L results (k, c) are summed over SLAB lane blocks in 2 L vectors, then over the
lanes by a tree of pairwise sums. Two such lists, H1 and H2, make lines of a packed spectrum again: Y[f] = H1 + i H2,
Y[-f] = conj H1 + i conj H2.

Flops: 16 L for each (lane block, k, c, pair of bins); there are T T / 2 + 2 pairs.
Example: 16 x 64 images and 64 filters, T = 32: 514 x 64 x 64 x 16 x 8 = 269 Mflop.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from .fft2d import INDICES, compiled
from .vector import Emitter, Real, lanes

OUTPUTS = 4  # of a register tile
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
JOB_SIZE = 22


# ---- codelets --------------------------------------------------------------------------------------------------------


def accumulators(emit: Emitter, count: int) -> list[Any]:
    """Vectors of sums that LLVM keeps in registers."""
    return [cgutils.alloca_once(emit.builder, emit.kind) for _ in range(count)]


def accumulate(emit: Emitter, at: Any, *products: Real) -> None:
    total = Real(emit.builder, emit.builder.load(at))
    for product in products:
        total = total + product
    emit.builder.store(total.value, at)


@intrinsic(prefer_literal=True)
def multiply(typing_context, outputs, steps, fresh, space, x, x_minus, y, y_minus, filters, w, across, step, leap):  # type: ignore[no-untyped-def]
    """Adds `steps` products to `outputs` lines at y (times conj W) and at y_minus (times W); `fresh` starts at zero."""
    index = types.intp
    signature = types.void(
        outputs, index, types.boolean, space, index, index, index, index, filters, index, index, index, index
    )

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        emit = Emitter(context, builder, space.dtype)
        n, line = emit.count, 2 * emit.count
        data, weights = emit.data(space, args[3]), emit.data(filters, args[8])
        places = [emit.offset(at, o * line) for o in range(outputs.literal_value) for at in args[6:8]]
        sums = [accumulators(emit, 2) for _ in places]
        with builder.if_else(args[2]) as (start, resume):
            with start:
                for part in [part for pair in sums for part in pair]:
                    builder.store(emit.zero, part)
            with resume:
                for pair, place in zip(sums, places, strict=True):
                    for part, real in zip(pair, emit.load_line(data, place), strict=True):
                        builder.store(real.value, part)
        with cgutils.for_range(builder, args[1]) as loop:
            i = loop.index
            block, lane = builder.udiv(i, emit.const(n)), builder.urem(i, emit.const(n))
            at = builder.add(args[9], builder.add(builder.mul(block, args[12]), builder.mul(lane, args[11])))
            here = builder.mul(i, emit.const(line))
            (a, b), (c, d) = (emit.load_line(data, builder.add(base, here)) for base in args[4:6])
            for o in range(outputs.literal_value):
                w_at = emit.offset(at, o, args[10])
                re, im = emit.load_splat(weights, w_at), emit.load_splat(weights, emit.offset(w_at, n))
                plus, minus = sums[2 * o], sums[2 * o + 1]
                accumulate(emit, plus[0], a * re, b * im)
                accumulate(emit, plus[1], b * re, -(a * im))
                accumulate(emit, minus[0], c * re, -(d * im))
                accumulate(emit, minus[1], d * re, c * im)
        for pair, place in zip(sums, places, strict=True):
            emit.store_line((Real(builder, builder.load(pair[0])), Real(builder, builder.load(pair[1]))), data, place)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def correlate(typing_context, shared, space, x, x_minus, x_block, d, d_minus, d_block, steps, x_lines, d_lines, target):  # type: ignore[no-untyped-def]
    """The line at `target`: L sums over `steps` lane blocks of conj D[f] X[f] + conj(conj D[-f] X[-f]), lane q for the
    planes at x_lines[q] and d_lines[q]; where `shared`, of L neighbours of x and one of d."""
    index = types.intp
    signature = types.void(shared, space, *[index] * 7, x_lines, d_lines, index)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        emit = Emitter(context, builder, space.dtype)
        n, data = emit.count, emit.data(space, args[1])
        x_ends, d_ends = emit.data(x_lines, args[9]), emit.data(d_lines, args[10])

        def end(ends: Any, q: int) -> Any:
            return builder.load(builder.gep(ends, [emit.const(q)]))

        if shared.literal_value:
            first = end(x_ends, 0)
            x_at, d_at = [emit.offset(first, q * 2 * n) for q in range(n)], [end(d_ends, 0)] * n
        else:
            x_at, d_at = [end(x_ends, q) for q in range(n)], [end(d_ends, q) for q in range(n)]
        re, im = accumulators(emit, n), accumulators(emit, n)
        for part in re + im:
            builder.store(emit.zero, part)
        with cgutils.for_range(builder, args[8]) as loop:
            to_x, to_d = builder.mul(loop.index, args[4]), builder.mul(loop.index, args[7])
            for x_base, d_base, sign in ((args[2], args[5], 1), (args[3], args[6], -1)):
                x_bin, d_bin = builder.add(x_base, to_x), builder.add(d_base, to_d)
                for q in range(n):
                    a, b = emit.load_line(data, builder.add(x_bin, x_at[q]))
                    c, d = emit.load_line(data, builder.add(d_bin, d_at[q]))
                    accumulate(emit, re[q], a * c, b * d)
                    accumulate(emit, im[q], *((b * c, -(a * d)) if sign > 0 else (-(b * c), a * d)))
        sums = [emit.sum_lanes([Real(builder, builder.load(part)) for part in parts]) for parts in (re, im)]
        emit.store_line((sums[0], sums[1]), data, args[11])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def pack(typing_context, space, first, second, fresh, y, y_minus):  # type: ignore[no-untyped-def]
    """Adds H1 + i H2 to the line at y and conj H1 + i conj H2 to that at y_minus; `fresh` starts at zero."""
    signature = types.void(space, types.intp, types.intp, types.boolean, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        emit = Emitter(context, builder, space.dtype)
        data = emit.data(space, args[0])
        (a, b), (c, d) = emit.load_line(data, args[1]), emit.load_line(data, args[2])
        lines = [(args[4], (a - d, b + c)), (args[5], (a + d, c - b))]
        with builder.if_else(args[3]) as (start, resume):
            with start:
                for place, line in lines:
                    emit.store_line(line, data, place)
            with resume:
                sums = [
                    (re + line[0], im + line[1]) for place, line in lines for re, im in [emit.load_line(data, place)]
                ]
                for (place, _), line in zip(lines, sums, strict=True):
                    emit.store_line(line, data, place)
        return context.get_dummy_value()

    return signature, codegen


# ---- kernels ---------------------------------------------------------------------------------------------------------


@cache
def product_kernel(dtype: str) -> Callable[..., None]:
    """product(lo, hi, T, space, filters, job): forward and input_grad, the bins of rows lo..hi and their opposites."""
    real = getattr(types, dtype)
    LINE = 2 * lanes(real.bitwidth // 8)
    LANES = LINE // 2

    def kernel(lo, hi, T, space, filters, job):  # type: ignore[no-untyped-def]
        across, step, leap = job[W_OUTPUT], job[W_STEP], job[W_BLOCK]
        for ky in range(lo, hi):
            for kx in range(T // 2 + 1):
                if kx % (T // 2) == 0 and ky > T // 2:  # the other one of its pair is done
                    continue
                ny, nx = (T - ky) % T, (T - kx) % T
                x_plus, x_minus = (
                    job[X_AT] + ky * job[X_ROW] + kx * job[X_BIN],
                    job[X_AT] + ny * job[X_ROW] + nx * job[X_BIN],
                )
                y_plus, y_minus = (
                    job[Y_AT] + ky * job[Y_ROW] + kx * job[Y_BIN],
                    job[Y_AT] + ny * job[Y_ROW] + nx * job[Y_BIN],
                )
                if job[SWAPPED]:
                    x_plus, x_minus, y_plus, y_minus = x_minus, x_plus, y_minus, y_plus
                w_bin = job[W_AT] + ky * job[W_ROW] + kx * job[W_BIN]
                for block in range(job[BLOCKS]):
                    for group in range(job[GROUPS]):
                        to_x, to_y = (
                            block * job[X_BLOCK] + group * job[X_GROUP],
                            block * job[Y_BLOCK] + group * job[Y_GROUP],
                        )
                        for i in range(0, job[STEPS], DEPTH):
                            steps, fresh = min(DEPTH, job[STEPS] - i), i == 0
                            x, xm = x_plus + to_x + i * LINE, x_minus + to_x + i * LINE
                            w = w_bin + group * job[W_GROUP] + i // LANES * leap
                            whole = job[COUNT] // OUTPUTS * OUTPUTS
                            for o in range(0, whole, OUTPUTS):
                                y, ym = y_plus + to_y + o * LINE, y_minus + to_y + o * LINE
                                multiply(
                                    OUTPUTS,
                                    steps,
                                    fresh,
                                    space,
                                    x,
                                    xm,
                                    y,
                                    ym,
                                    filters,
                                    w + o * across,
                                    across,
                                    step,
                                    leap,
                                )
                            for o in range(whole, job[COUNT]):
                                y, ym = y_plus + to_y + o * LINE, y_minus + to_y + o * LINE
                                multiply(
                                    1, steps, fresh, space, x, xm, y, ym, filters, w + o * across, across, step, leap
                                )

    array = types.Array(real, 1, "C")
    return compiled(f"product_{dtype}", types.void(*[types.intp] * 3, array, array, INDICES), kernel)


@cache
def weight_product_kernel(dtype: str) -> Callable[..., None]:
    """weight_product(lo, hi, T, space, scratch, job): weight_grad, the bins of rows lo..hi and their opposites."""
    real = getattr(types, dtype)
    LINE = 2 * lanes(real.bitwidth // 8)
    LANES = LINE // 2

    def kernel(lo, hi, T, space, scratch, job):  # type: ignore[no-untyped-def]
        lines = job[LINES]
        x_lines, d_lines = np.empty(lines * LINE, np.int64), np.empty(lines * LINE, np.int64)
        for i in range(lines * LINE):
            begin = job[FIRST] + i // LINE * LINE
            pair = begin + i % LINE % (job[PAIRS] - begin)  # past the last pair, those of its own line again
            k, c = divmod(pair, job[CHANNELS])
            x_lines[i], d_lines[i] = (k // job[FILTERS] * job[CHANNELS] + c) * LINE, k * LINE
        shared = job[CHANNELS] % LANES == 0
        for ky in range(lo, hi):
            for kx in range(T // 2 + 1):
                if kx % (T // 2) == 0 and ky > T // 2:
                    continue
                ny, nx = (T - ky) % T, (T - kx) % T
                x, xm = job[X_AT] + ky * job[X_ROW] + kx * job[X_BIN], job[X_AT] + ny * job[X_ROW] + nx * job[X_BIN]
                d, dm = job[W_AT] + ky * job[W_ROW] + kx * job[W_BIN], job[W_AT] + ny * job[W_ROW] + nx * job[W_BIN]
                y, ym = job[Y_AT] + ky * job[Y_ROW] + kx * job[Y_BIN], job[Y_AT] + ny * job[Y_ROW] + nx * job[Y_BIN]
                for block in range(0, job[BLOCKS], SLAB):
                    steps, fresh = min(SLAB, job[BLOCKS] - block), job[FRESH] != 0 and block == 0
                    to_x, to_d = block * job[X_BLOCK], block * job[W_BLOCK]
                    for i in range(lines):
                        for half in range(2):
                            xs, ds = x_lines[i * LINE + half * LANES :], d_lines[i * LINE + half * LANES :]
                            if shared:
                                correlate(
                                    1,
                                    space,
                                    x + to_x,
                                    xm + to_x,
                                    job[X_BLOCK],
                                    d + to_d,
                                    dm + to_d,
                                    job[W_BLOCK],
                                    steps,
                                    xs,
                                    ds,
                                    scratch + half * LINE,
                                )
                            else:
                                correlate(
                                    0,
                                    space,
                                    x + to_x,
                                    xm + to_x,
                                    job[X_BLOCK],
                                    d + to_d,
                                    dm + to_d,
                                    job[W_BLOCK],
                                    steps,
                                    xs,
                                    ds,
                                    scratch + half * LINE,
                                )
                        pack(space, scratch, scratch + LINE, fresh, y + i * LINE, ym + i * LINE)

    return compiled(
        f"weight_product_{dtype}", types.void(*[types.intp] * 3, types.Array(real, 1, "C"), types.intp, INDICES), kernel
    )
