"""Teeth of a long column: what a thread moves of it between the planes of an array and its registers.

A column of 128 or 256 samples is the work of several threads. Each holds the positions first + i*step, i < count, of
two planes, as planes.py has whole columns, and as there a mask has a bit for every one that holds a sample; so 64 bits
are enough for a column of any length.

Of samples that lie `spacing` positions apart, neighbours among the teeth are lcm(spacing, step) positions apart, which
is step/gcd(spacing, step) samples; step is a power of two.

Example: count = 16, step = 8, spacing = 6, first = 2, and sample 0 at position 0: the teeth are at 2, 10, 18, ..., 122;
those at 18, 42, 66, 90 and 114 hold samples 3, 7, 11, 15 and 19.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import int32, int64, uint32, uint64

from .intrinsics import place_sample, samples_of
from .planes import make_across, make_pair, make_walk
from .toolchain import device_function


class TeethAccess(NamedTuple):
    """Device functions that any thread calls alone: no barrier, no shared memory.

    load(z, gx, planes, strides, rows, columns, p, j, first)
        z[i] = sample at position first + i*step of column j of plane p, plus i times that of plane p + 1; zero where
        there is none. All loads are predicated and independent.
    store(z, gy, gbias, planes, strides, rows, columns, epilogue, p, j, first)
        The inverse, with the epilogue: writes the samples that there are and touches nothing else.
    """

    load: Any
    store: Any


@cache
def make_teeth(
    count: int, step: int, spaced: bool, accumulate: bool = False, samples: str = "float32"
) -> TeethAccess:
    """The functions for so many teeth; with `accumulate` the store reads y, and beta with it.

    samples: the dtype of the array and of the bias; all else is float32.
    """
    _, _, distance, load_sample, store_sample = samples_of(samples)
    holds, past, load_pairs, bias_of = make_walk(count, spaced, samples)
    COUNT, STEP = np.uint64(count), np.int32(step)
    STEPS, LOG, ONE, NONE = np.uint32(step), np.uint32(step.bit_length() - 1), np.uint64(1), np.uint64(0)
    ALL = np.uint64(2**count - 1)
    LAST = np.int32(count)
    find_across = make_across(spaced)

    @device_function
    def first_from(position: Any, first: Any) -> Any:
        """The first tooth from a position on."""
        return int32(max(int32(int32(position - first) + int32(STEP - int32(1))), int32(0)) >> int32(LOG))

    @device_function
    def find(planes: Any, strides: Any, rows: Any, columns: Any, p: Any, digits: Any, j: Any, first: Any) -> Any:
        """Mask of the teeth of column j of plane p, and the index in the array at which their walk begins."""
        n, down, across, c = digits
        held, x = find_across(planes, columns, p, across, j)
        top = int32(int32(down) * rows.advance + rows.start)
        mask = NONE
        if spaced:
            spacing = max(uint32(rows.spacing), uint32(1))
            y = int32(0)
            for i in range(LAST):
                at = int32(int32(first) + int32(int32(i) * STEP))
                sample = int32(uint32(at + top) // spacing)
                has = held and at >= rows.first and at < rows.limit and int32(at + top) >= int32(0)
                if has and sample < int32(planes.height) and int32(sample * rows.spacing) == int32(at + top):
                    if mask == NONE:
                        y = sample
                    mask = uint64(mask | uint64(ONE << uint64(uint32(i))))
        else:
            y = int32(top + int32(first))
            start = first_from(max(int32(rows.first), int32(-top)), int32(first))
            end = first_from(min(int32(rows.limit), int32(int32(planes.height) - top)), int32(first))
            if held and start < min(end, LAST):
                mask = uint64(uint64(ALL << uint32(start)) & uint64(ALL >> uint32(LAST - min(end, LAST))))
        offset = int64(n) * strides.outer + int64(c) * strides.channel
        offset += int64(y) * strides.row + int64(x) * strides.column
        return mask, uint64(offset)

    pair = make_pair(find)

    @device_function
    def to_next(strides: Any, rows: Any) -> Any:
        """The distance between neighbouring samples."""
        apart = STEPS
        if spaced:
            spacing = uint32(rows.spacing)
            common = uint32(spacing & uint32(uint32(0) - spacing))  # the power of two in it
            apart = uint32(STEPS // max(min(common, STEPS), uint32(1)))
        return distance(uint64(int64(strides.row) * int64(apart)))

    @device_function
    def load(z: Any, gx: Any, planes: Any, strides: Any, rows: Any, columns: Any, p: Any, j: Any, first: Any) -> None:
        mask0, o0, _, mask1, o1, _ = pair(planes, strides, rows, columns, p, j, first)
        load_pairs(z, gx, mask0, o0, mask1, o1, to_next(strides, rows))

    @device_function
    def store(
        z: Any, gy: Any, gbias: Any, planes: Any, strides: Any, rows: Any, columns: Any, epilogue: Any,
        p: Any, j: Any, first: Any,
    ) -> None:  # fmt: skip
        mask0, o0, c, mask1, o1, d = pair(planes, strides, rows, columns, p, j, first)
        row = to_next(strides, rows)
        bias0, bias1 = bias_of(gbias, planes, c, d)
        g0 = place_sample(gy, o0)
        g1 = place_sample(gy, o1)
        for i in range(COUNT):
            a = epilogue.scale * z[i].real + bias0
            b = epilogue.scale * z[i].imag + bias1
            if holds(mask0, i):
                if accumulate:
                    a += epilogue.beta * load_sample(gy, g0)
                store_sample(gy, g0, a)
            if holds(mask1, i):
                if accumulate:
                    b += epilogue.beta * load_sample(gy, g1)
                store_sample(gy, g1, b)
            g0 = past(mask0, g0, i, row)
            g1 = past(mask1, g1, i, row)

    return TeethAccess(load, store)
