"""The inner product by FFMA: a thread's TM x TN sums and the steps of a slab, written out.

Shared memory holds a slab of BK steps of each operand, in one of two forms, as the operand lies in global memory:

    k-major   element (i, k) at i*pitch + k   pitch = BK + 2   16 bytes are two steps of one row
    i-major   element (i, k) at k*pitch + i   pitch = rows     16 bytes are two neighbours at one step

so a load of 128 bits is right for both and nothing is ever transposed: for two steps a thread makes TM loads of A and
TN of B, whichever the form, for 8*TM*TN FFMA. A thread's elements lie apart by the number of threads: element i of
thread t is row t + i*threads in the first form; in the second rows come in pairs, 2*t + i//2*2*threads + i%2.

A quarter of a warp reads 16 bytes a lane in one turn, and eight lanes must touch eight different groups of four banks
or the same address. The lanes of a warp are laid on a rectangle of 8 x 4 threads along a Z-curve: lane bits 0, 2, 3
count columns and bits 1, 4 rows (on 4 x 8, bits 0, 2 and bits 1, 3, 4). A quarter then reads 2 addresses of one operand
and 4 of the other, and lanes l and l^1, or l and l^2, agree, by which the hardware can serve two quarters in one turn.
Rows of the first form are BK + 2 values, an odd number of 16 bytes, so that any eight of them in a row start in eight
different groups of banks.

A complex product is four FFMA, (a + bi)(c + di): re += a*c, re -= b*d, im += a*d, im += b*c. An FFMA negates any of its
operands for nothing, so conjugation is the choice of two signs while the code is written. Each sum takes step by step
in this order; zeros beyond the depth change nothing, so a depth cut in two, the second part starting from the sums of
the first, gives the same bits.

Example: 64x64, threads of 8x4. Thread 37 is lane 5 of warp 1: lane bits 0 and 2 are set, so it stands at column 8 + 3
and row 0 of 16 x 8. Forward, it owns rows 0, 8, ..., 56 and columns 11, 27, 43, 59.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .accumulators import Inner
from .tiles import ProductConfig
from .toolchain import SIMULATED, device_function

i32, u32 = np.int32, np.uint32
Operand = tuple[int, bool, int]  # pitch, k-major, threads along its rows


def element(i: int, threads: int, pairs: bool) -> int:
    """Where a thread's element i lies, counted from its element 0: threads apart, or neighbours in pairs."""
    return i // 2 * 2 * threads + i % 2 if pairs else i * threads


@cache
def ffma(config: ProductConfig, a_kmajor: bool, b_kmajor: bool, conj_a: bool, conj_b: bool) -> Inner:
    """The inner product of a tile for operands of these forms."""
    TM, TN, ACROSS, DOWN = config.TM, config.TN, config.threads_across, config.threads_down
    a, b = (config.pitch(config.BM, a_kmajor), a_kmajor, DOWN), (config.pitch(config.BN, b_kmajor), b_kmajor, ACROSS)
    LANES, WARPS = i32(config.lanes_across), i32(ACROSS // config.lanes_across)

    @device_function
    def place(thread: Any) -> tuple[Any, Any, Any, Any, Any]:
        tx, ty = _rectangle(thread, LANES, WARPS)
        row = i32(ty if a_kmajor else ty * i32(2))
        column = i32(tx if b_kmajor else tx * i32(2))
        return row, column, i32(0), row, column

    return Inner(
        place,
        tuple(element(i, DOWN, not a_kmajor) for i in range(TM)),
        tuple(element(j, ACROSS, not b_kmajor) for j in range(TN)),
        slab(TM, TN, config.BK, a, b, conj_a, conj_b),
    )


@device_function
def _rectangle(thread: Any, lanes_across: Any, warps_across: Any) -> Any:
    """Column and row of a thread in its block: warps row by row, lanes of a warp along a Z-curve."""
    bit_1 = (thread >> i32(1)) & i32(1)
    if lanes_across == 8:  # lane bits 0, 2, 3 and 1, 4
        x, y = i32((thread & i32(1)) | ((thread >> i32(1)) & i32(6))), i32(bit_1 | ((thread >> i32(3)) & i32(2)))
    else:  # lane bits 0, 2 and 1, 3, 4
        x, y = i32((thread & i32(1)) | ((thread >> i32(1)) & i32(2))), i32(bit_1 | ((thread >> i32(2)) & i32(6)))
    warp = u32(thread) >> u32(5)
    down = i32(32) // lanes_across
    return i32(i32(warp % u32(warps_across)) * lanes_across + x), i32(i32(warp // u32(warps_across)) * down + y)


if SIMULATED:

    @cache
    def slab(TM: int, TN: int, BK: int, a: Operand, b: Operand, conj_a: bool, conj_b: bool) -> Callable[..., Any]:
        """slab(acc, s, ia, ib): acc + op(A) op(B) over BK steps, for operands (pitch, k-major, threads)."""

        def places(count: int, pitch: int, kmajor: bool, threads: int) -> Any:
            own = [element(i, threads, not kmajor) for i in range(count)]
            return np.array([[i * pitch + k if kmajor else k * pitch + i for i in own] for k in range(BK)])

        a_places, b_places = places(TM, *a), places(TN, *b)
        re_sign, im_sign_ad, im_sign_bc = 1 if conj_a != conj_b else -1, -1 if conj_b else 1, -1 if conj_a else 1

        def multiply(acc: Any, s: Any, ia: Any, ib: Any) -> Any:
            A = s[a_places + int(ia)].astype(np.complex128)
            B = s[b_places + int(ib)].astype(np.complex128)
            sums = np.array(acc, np.float32).reshape(TM, TN, 2)
            re, im = sums[..., 0], sums[..., 1]
            for x, y in zip(A[:, :, None], B[:, None, :], strict=True):  # the product of float32 is exact in float64
                re[...] = x.real * y.real + re
                re[...] = re_sign * x.imag * y.imag + re
                im[...] = im_sign_ad * x.real * y.imag + im
                im[...] = im_sign_bc * x.imag * y.real + im
            return tuple(sums.reshape(-1))

        return multiply

else:
    from .emit import at, fma, load, negated, on_slab

    @cache
    def slab(TM: int, TN: int, BK: int, a: Operand, b: Operand, conj_a: bool, conj_b: bool) -> Any:
        """slab(acc, s, ia, ib): acc + op(A) op(B) over BK steps, for operands (pitch, k-major, threads)."""

        def fragment(builder: Any, pointer: Any, count: int, k: int, pitch: int, kmajor: bool, threads: int) -> Any:
            """A thread's elements at steps k and k + 1, as [step][element] of (re, im), by 128-bit loads."""
            steps: list[list[Any]] = [[None] * count, [None] * count]
            if kmajor:
                for i in range(count):
                    v = load(builder, at(builder, pointer, element(i, threads, False) * pitch + k), 4)
                    steps[0][i], steps[1][i] = v[:2], v[2:]
            else:
                for step in range(2):
                    for i in range(0, count, 2):
                        here = (k + step) * pitch + element(i, threads, True)
                        v = load(builder, at(builder, pointer, here), 4)
                        steps[step][i], steps[step][i + 1] = v[:2], v[2:]
            return steps

        def write(builder: Any, sums: list[Any], at_a: Any, at_b: Any) -> None:
            for k in range(0, BK, 2):
                steps_a, steps_b = fragment(builder, at_a, TM, k, *a), fragment(builder, at_b, TN, k, *b)
                for of_a, of_b in zip(steps_a, steps_b, strict=True):
                    for i, (ar, ai) in enumerate(of_a):
                        for j, (br, bi) in enumerate(of_b):
                            re = 2 * (i * TN + j)
                            im = re + 1
                            sums[re] = fma(builder, ar, br, sums[re])
                            sums[re] = fma(builder, negated(builder, ai, conj_a == conj_b), bi, sums[re])
                            sums[im] = fma(builder, negated(builder, ar, conj_b), bi, sums[im])
                            sums[im] = fma(builder, negated(builder, ai, conj_a), br, sums[im])

        return on_slab(write)
