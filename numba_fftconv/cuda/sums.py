"""The gradient of a bias: of every filter the sum of its planes over all images.

    db[k] = sum_n,p,q dy[n, k, p, q]

One block a filter. Warps take rows (n, p) in turn and lanes take columns, so that neighbours are read together; a
thread sums in float32 with what was lost in each addition carried to the next (Kahan), and 256 threads are added as a
tree in shared memory: always in the same order. Samples of two bytes are summed in float32, too, and the sum rounded.
Bytes: 4 or 2 a sample, read once.

Example: 16 images of 64 planes of 32 x 32: 64 blocks; warp 3 of block 5 takes rows 3, 11, ... of the 512 of plane 5.

Source: W. Kahan, Communications of the ACM 8 (1965), Further remarks on reducing truncation errors.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, float32, int64, types, uint32, uint64

from .intrinsics import place_sample, samples_of
from .toolchain import Kernel, namedtuple_type

THREADS = 256
LANES = np.uint32(32)
WARPS = np.uint64(THREADS // 32)
HALF_BLOCK = np.uint32(THREADS // 2)


class Extents(NamedTuple):
    """Images, rows and columns of dy, and the distances of neighbours along its four axes, in samples; all int64."""

    images: int
    height: int
    width: int
    outer: int
    channel: int
    row: int
    column: int


@cache
def sum_kernel(samples: str = "float32") -> Kernel:
    """The kernel (gy, gsum, extents), one block a filter; both arrays are of `samples`."""
    pointer, word, _, load, store = samples_of(samples)

    def sum_planes(gy: Any, gsum: Any, extents: Any) -> None:
        sS = cuda.shared.array(THREADS, float32)
        t = uint32(cuda.threadIdx.x)
        k = int64(cuda.blockIdx.x)
        height = max(uint64(extents.height), uint64(1))
        total = np.float32(0)
        lost = np.float32(0)
        for r in range(uint64(t // LANES), uint64(extents.images) * uint64(extents.height), WARPS):
            n = uint64(r // height)
            row = k * extents.channel + int64(n) * extents.outer + int64(r - n * height) * extents.row
            for q in range(int64(t % LANES), extents.width, int64(LANES)):
                term = np.float32(load(gy, place_sample(gy, uint64(row + q * extents.column))) - lost)
                more = np.float32(total + term)
                lost = np.float32(np.float32(more - total) - term)
                total = more
        sS[t] = total
        cuda.syncthreads()  # every thread has written its sum before another reads it
        step = uint32(HALF_BLOCK)
        while step > uint32(0):
            if t < step:
                sS[t] += sS[t + step]
            cuda.syncthreads()  # this level is complete before the next reads it
            step = uint32(step >> uint32(1))
        if t == uint32(0):
            store(gsum, place_sample(gsum, uint64(k)), sS[t])

    signature = (pointer, pointer, namedtuple_type(Extents, types.int64))
    return Kernel(f"sum_planes{word}", sum_planes, signature, THREADS, 0)
