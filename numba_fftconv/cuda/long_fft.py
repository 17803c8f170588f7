"""The discrete Fourier transform of 32 columns of 128 or 256 values by a block of threads, a column in a lane.

    y[k1 + R1 k2] = sum over n2 of w^(n2 k1) u^(n2 k2) sum over n1 of z[n2 + R2 n1] v^(n1 k1)

with T = R1*R2, and w, u, v = e^(sign 2 pi i/T), e^(sign 2 pi i/R2), e^(sign 2 pi i/R1): transforms of length R1 and R2
in registers, twiddles w between them, and an exchange in shared memory, where value (k1, n2) of a lane is
sS[k1*R2 + n2][lane]: neighbouring lanes meet neighbouring banks in both steps.

A block has GROUPS = R1/2 groups, which are warps. For the step of length R1 a group has n2 = group, and where R2 is
greater than GROUPS, n2 = group + GROUPS too, one after the other. For that of length R2 it has k1 = group and R1 - k1,
group 0 has 0 and R1/2: so of frequencies k and T - k both are in one thread, where the halves of a real column meet.

Shared memory holds all values, 32 KB at T = 128 and 64 KB at T = 256. A warp reads one twiddle at a time, from constant
memory.

Example: T = 128 = 16 * 8 has 8 groups, 256 threads: each makes one transform of 16 and two of 8. T = 256 = 16 * 16 has
as many threads: each makes two of 16, then two more.

Source: Cooley and Tukey, Mathematics of Computation 19 (1965).
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, uint32, uint64

from .butterfly import make_fft
from .middle import LANES
from .toolchain import device_function

FACTORS = {128: (16, 8), 256: (16, 16)}  # R1, R2
GROUPS = 8
THREADS = LANES * GROUPS


class LongFft(NamedTuple):
    """Device functions of a block of THREADS threads; none synchronises. a and b are local arrays of R2, z of R1.

    By decimation in time, `sign` -1, a barrier stands between split and join; +1 is the mirror image, join then split.

    split(z, sS, n2, lane): z are values n2 + R2*n1 of the column; made ready for `join`.
    join(sS, a, b, group, lane): a and b are values k1 + R1*k2 of the transform, for both k1 of the group.
    With sign = +1, join(a, b, sS, group, lane) begins and split(sS, z, n2, lane) ends with values n2 + R2*n1.
    """

    R1: int
    R2: int
    rounds: int  # of a group over n2
    split: Any
    join: Any


def shared_bytes(T: int) -> int:
    """Dynamic shared memory of a block."""
    return 8 * LANES * T


@device_function
def other(group: Any, half: Any) -> Any:
    """The second k1 of a group."""
    return uint32(uint32(half + half) - group) if group > uint32(0) else uint32(half)


@cache
def make_long_fft(T: int, sign: int) -> LongFft:
    """The transform of length T; +1 is T times the inverse."""
    R1, R2 = FACTORS[T]
    first, second = make_fft(R1, sign), make_fft(R2, sign)
    UNITS = np.exp(sign * 2j * np.pi * np.arange(T) / T).astype(np.complex64)
    COUNT1, COUNT2, HALF = np.uint64(R1), np.uint64(R2), np.uint32(R1 // 2)
    NONE, LANE, VALUE = np.uint64(0), np.uint64(LANES), np.uint64(R2 * LANES)  # from n2, from k1 to the next

    def turning(fft: Any, count: Any, begin: Any, step: Any) -> Any:
        """Device function (z, sS, n, lane): stores w^(n k) times value k of the transform of z at n*begin + k*step."""

        @device_function
        def turned(z: Any, sS: Any, n: Any, lane: Any) -> None:
            units = cuda.const.array_like(UNITS)
            fft(z)
            s = uint64(n) * begin + uint64(lane)
            for k in range(count):
                v = z[k]
                if k > NONE:
                    v = v * units[uint64(n) * k]
                sS[s + k * step] = v

        return turned

    split_forward, turned = turning(first, COUNT1, LANE, VALUE), turning(second, COUNT2, VALUE, LANE)

    @device_function
    def join_forward(sS: Any, a: Any, b: Any, group: Any, lane: Any) -> None:
        s = uint64(group) * VALUE + uint64(lane)
        u = uint64(other(group, HALF)) * VALUE + uint64(lane)
        for n in range(COUNT2):
            a[n] = sS[s + n * LANE]
            b[n] = sS[u + n * LANE]
        second(a)
        second(b)

    @device_function
    def join_inverse(a: Any, b: Any, sS: Any, group: Any, lane: Any) -> None:
        turned(a, sS, group, lane)
        turned(b, sS, other(group, HALF), lane)

    @device_function
    def split_inverse(sS: Any, z: Any, n2: Any, lane: Any) -> None:
        s = uint64(n2) * LANE + uint64(lane)
        for k in range(COUNT1):
            z[k] = sS[s + k * VALUE]
        first(z)

    split, join = (split_forward, join_forward) if sign < 0 else (split_inverse, join_inverse)
    return LongFft(R1, R2, R2 // GROUPS, split, join)
