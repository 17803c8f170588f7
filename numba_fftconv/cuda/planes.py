"""Columns of planes: which sample of an array lies where in a tile, and how a thread moves one column of two planes.

Plane p of a launch is channel c = p mod channels of row m = first + p div channels; m counts (outer index, segment). A
PlaneMap (geometry.py) of each axis says which position of the tile holds which sample: sample i is at position t where
t + start + g*advance == i*spacing. Padding, stride, dilation and overlap-save windows are these few integers, known at
run time; so are the strides of the array, of any sign, whose samples are neither copied nor moved beforehand.

A thread takes column j of planes p and p + 1, the real and the imaginary part of one complex column. Lanes are
neighbouring columns, so that a warp reads and writes whole sectors where samples of a row are neighbours. Which
positions of the column hold samples is a mask of one bit each: two registers keep it, one instruction asks for a bit.

Example: 100 samples in windows of T = 32 that advance by 28, with start 0 and spacing 1: the window of g = 1 holds
samples 28 to 59; that of g = 3 begins at sample 84, holds the last 16, and zeros at positions 16 to 31.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import int32, int64, uint32, uint64

from .intrinsics import place_sample, samples_of
from .toolchain import device_function


class Planes(NamedTuple):
    """The planes of a launch; all uint32."""

    count: int  # type: ignore[assignment]  # planes of this launch
    first: int  # number m of the row that plane 0 of this launch belongs to
    channels: int
    height: int  # samples of a plane
    width: int
    segments_down: int
    segments_across: int
    has_bias: int = 0  # the inverse alone reads it


class Strides(NamedTuple):
    """Distances between neighbours, in elements; all int64. Those of the real array may have any sign."""

    outer: int
    channel: int
    row: int
    column: int
    pitch: int  # from a bin to the next


class AxisMap(NamedTuple):
    """PlaneMap.numbers; all int32. Samples times spacing stay below 2**31."""

    start: int
    advance: int
    spacing: int
    first: int
    limit: int


class Epilogue(NamedTuple):
    """y = scale*t + bias + beta*y, both float32; 1/(2*T*T) as scale makes the inverse of `transform`."""

    scale: float
    beta: float


def tile_width(T: int, half: bool) -> int:
    """Columns of the tile: those that can hold samples."""
    return T // 2 if half else T


@device_function
def place(planes: Any, p: Any) -> Any:
    """Plane p of the launch as (outer index, segment down, segment across, channel).

    A divisor that is seen to be positive spares the branch for division by zero, a product the second division.
    """
    channels = max(uint32(planes.channels), uint32(1))
    across = max(uint32(planes.segments_across), uint32(1))
    down = max(uint32(planes.segments_down), uint32(1))
    row = uint32(p // channels)
    m = uint32(row + uint32(planes.first))
    segments = uint32(m // across)
    n = uint32(segments // down)
    return n, uint32(segments - n * down), uint32(m - segments * across), uint32(p - row * channels)


@device_function
def next_place(planes: Any, digits: Any) -> Any:
    """The place of plane p + 1, from that of plane p: a counter of four digits."""
    n, down, across, c = digits
    c = uint32(c + uint32(1))
    if c == planes.channels:
        c = uint32(0)
        across = uint32(across + uint32(1))
    if across == planes.segments_across:
        across = uint32(0)
        down = uint32(down + uint32(1))
    if down == planes.segments_down:
        down = uint32(0)
        n = uint32(n + uint32(1))
    return n, down, across, c


@cache
def make_across(spaced: bool) -> Any:
    """The device function (held, x): whether column j of plane p holds samples, and of which column of the array."""

    @device_function
    def find_across(planes: Any, columns: Any, p: Any, across: Any, j: Any) -> Any:
        left = int32(int32(across) * columns.advance + columns.start)
        x = int32(int32(j) + left)
        held = p < planes.count and x >= int32(0) and int32(j) >= columns.first and int32(j) < columns.limit
        if spaced:
            sample = int32(uint32(x) // max(uint32(columns.spacing), uint32(1)))
            held = held and int32(sample * columns.spacing) == x
            x = sample
        return held and x < int32(planes.width), x

    return find_across


POSITIONS = 64  # of a column at most, the bits of a mask


class Walk(NamedTuple):
    """Device functions that walk down a column of two planes at once.

    Bit r of a mask says whether position r holds a sample. A walk has a place (intrinsics.py), which moves past each
    sample; where spacing is 1, past each position from 0 on, whether there is a sample or not.

    holds(mask, r): whether position r holds a sample.
    past(mask, g, r, row): the place once position r is done.
    load(z, gx, mask0, o0, mask1, o1, row): z[r] = a sample of either plane as real and imaginary part, zero where there
        is none; all loads are predicated and independent.
    bias(gbias, planes, c, d): what is added to either plane, of channels c and d; zero where there is no bias.
    """

    holds: Any
    past: Any
    load: Any
    bias: Any


@cache
def make_walk(count: int, spaced: bool, samples: str) -> Walk:
    """The device functions for columns of so many positions, of an array and a bias of samples of a dtype."""
    _, _, _, load_sample, _ = samples_of(samples)
    COUNT, ONE, NONE, ZERO = np.uint64(count), np.uint64(1), np.uint64(0), np.float32(0)

    @device_function
    def holds(mask: Any, r: Any) -> Any:
        return uint64(mask & uint64(ONE << r)) != NONE

    @device_function
    def past(mask: Any, g: Any, r: Any, row: Any) -> Any:
        if spaced and not holds(mask, r):
            return g
        return uint64(g + row)

    @device_function
    def load(z: Any, gx: Any, mask0: Any, o0: Any, mask1: Any, o1: Any, row: Any) -> None:
        g0 = place_sample(gx, o0)
        g1 = place_sample(gx, o1)
        for r in range(COUNT):
            a = ZERO
            b = ZERO
            if holds(mask0, r):
                a = load_sample(gx, g0)
            if holds(mask1, r):
                b = load_sample(gx, g1)
            g0 = past(mask0, g0, r, row)
            g1 = past(mask1, g1, r, row)
            z[r] = complex(a, b)

    @device_function
    def bias(gbias: Any, planes: Any, c: Any, d: Any) -> Any:
        bias0 = ZERO
        bias1 = ZERO
        if planes.has_bias != uint32(0):
            bias0 = load_sample(gbias, place_sample(gbias, uint64(c)))
            bias1 = load_sample(gbias, place_sample(gbias, uint64(d)))
        return bias0, bias1

    return Walk(holds, past, load, bias)


@cache
def make_find_column(spaced: bool) -> Any:
    """The device function that finds a column of a plane: its mask, and the index in the array where its walk begins.

    The mask is empty if the launch has no plane p, or the plane no samples there; the index then means nothing.
    """
    find_across = make_across(spaced)
    ALL, BITS = np.uint64(2**POSITIONS - 1), np.int32(POSITIONS)
    NONE, ONE = np.uint64(0), np.uint64(1)

    @device_function
    def every(spacing: Any) -> Any:
        """Bits 0, spacing, 2*spacing and so on."""
        bits = ONE
        while spacing < uint32(BITS):
            bits = uint64(bits | uint64(bits << spacing))
            spacing = uint32(spacing + spacing)
        return bits

    @device_function
    def find_column(planes: Any, strides: Any, rows: Any, columns: Any, p: Any, digits: Any, j: Any) -> Any:
        n, down, across, c = digits
        held, x = find_across(planes, columns, p, across, j)

        top = int32(int32(down) * rows.advance + rows.start)
        at = max(int32(rows.first), int32(-top))
        y = top
        if spaced:
            spacing = max(uint32(rows.spacing), uint32(1))
            y = int32(uint32(at + top + rows.spacing - int32(1)) // spacing)
            at = int32(y * rows.spacing - top)
            end = min(int32(rows.limit), int32((int32(planes.height) - int32(1)) * rows.spacing - top + int32(1)))
            positions = every(spacing)
        else:
            end = min(int32(rows.limit), int32(int32(planes.height) - top))
            positions = ALL
        mask = NONE
        if held and at < end:
            mask = uint64(uint64(positions << uint32(at)) & uint64(ALL >> uint32(BITS - end)))
        offset = int64(n) * strides.outer + int64(c) * strides.channel
        offset += int64(y) * strides.row + int64(x) * strides.column
        return mask, uint64(offset)

    return find_column


def make_pair(find: Any) -> Any:
    """The device function that finds planes p and p + 1 by `find`: masks and first indices of both, and their channels.

    It is called with what `find` is, but for the place of the plane.
    """

    @device_function
    def pair(planes: Any, strides: Any, rows: Any, columns: Any, p: Any, *column: Any) -> Any:
        here = place(planes, p)
        mask0, o0 = find(planes, strides, rows, columns, p, here, *column)
        there = next_place(planes, here)
        mask1, o1 = find(planes, strides, rows, columns, uint32(p + uint32(1)), there, *column)
        return mask0, o0, here[3], mask1, o1, there[3]

    return pair


FEW = 2  # rows of two planes that a thread which accumulates loads at once


@cache
def make_column_access(T: int, half: bool, spaced: bool, accumulate: bool = False, samples: str = "float32") -> Any:
    """The device functions (load_column, store_column) between the planes of an array and a column in registers.

    Any thread calls them alone: no barrier, no shared memory.

    load_column(z, gx, planes, strides, rows, columns, p, j)
        z[r] = sample of column j of plane p, plus i times that of plane p + 1; zero where there is none. All 2 T loads
        are predicated and independent.
    store_column(z, gy, gbias, planes, strides, rows, columns, epilogue, p, j)
        The inverse: writes the samples that there are and touches nothing else. Only with `accumulate` is y read, and
        beta with it.

    samples: the dtype of the array and of the bias; all else is float32.
    """
    _, _, distance, load, store = samples_of(samples)
    height = tile_width(T, half)
    pair, (holds, past, load_pairs, bias_of) = make_pair(make_find_column(spaced)), make_walk(height, spaced, samples)
    LENGTH, HEIGHT = np.uint64(T), np.uint64(height)
    ZERO = np.float32(0)

    @device_function
    def load_column(z: Any, gx: Any, planes: Any, strides: Any, rows: Any, columns: Any, p: Any, j: Any) -> None:
        mask0, o0, _, mask1, o1, _ = pair(planes, strides, rows, columns, p, j)
        load_pairs(z, gx, mask0, o0, mask1, o1, distance(uint64(int64(strides.row))))
        for r in range(HEIGHT, LENGTH):
            z[r] = complex(ZERO, ZERO)

    def rows_stored(first: int, end: int, before: Any) -> Any:
        """Stores rows `first` to `end`, after those before; where it accumulates, adds beta times the old y to them.

        Then all of them load before one is stored, as no load overtakes a store.
        Rows of both planes in turn: one plane after the other takes more registers, up to 32 at T = 24.
        """
        FIRST, END = np.uint64(first), np.uint64(end)

        @device_function
        def store_rows(z: Any, gy: Any, beta: Any, mask0: Any, g0: Any, mask1: Any, g1: Any, row: Any) -> Any:
            g0, g1 = before(z, gy, beta, mask0, g0, mask1, g1, row)
            if accumulate:
                old0, old1 = g0, g1
                for r in range(FIRST, END):
                    a = ZERO
                    b = ZERO
                    if holds(mask0, r):
                        a = load(gy, old0)
                    if holds(mask1, r):
                        b = load(gy, old1)
                    old0 = past(mask0, old0, r, row)
                    old1 = past(mask1, old1, r, row)
                    z[r] = complex(z[r].real + beta * a, z[r].imag + beta * b)
            for r in range(FIRST, END):
                if holds(mask0, r):
                    store(gy, g0, z[r].real)
                if holds(mask1, r):
                    store(gy, g1, z[r].imag)
                g0 = past(mask0, g0, r, row)
                g1 = past(mask1, g1, r, row)
            return g0, g1

        return store_rows

    @device_function
    def store_rows(z: Any, gy: Any, beta: Any, mask0: Any, g0: Any, mask1: Any, g1: Any, row: Any) -> Any:
        """No row yet."""
        return g0, g1

    together = FEW if accumulate else height
    for first in range(0, height, together):
        store_rows = rows_stored(first, min(first + together, height), store_rows)

    @device_function
    def store_column(
        z: Any, gy: Any, gbias: Any, planes: Any, strides: Any, rows: Any, columns: Any, epilogue: Any, p: Any, j: Any
    ) -> None:
        mask0, o0, c, mask1, o1, d = pair(planes, strides, rows, columns, p, j)
        row = distance(uint64(int64(strides.row)))
        scale = epilogue.scale
        bias0, bias1 = bias_of(gbias, planes, c, d)
        for r in range(HEIGHT):
            z[r] = complex(scale * z[r].real + bias0, scale * z[r].imag + bias1)
        store_rows(z, gy, epilogue.beta, mask0, place_sample(gy, o0), mask1, place_sample(gy, o1), row)

    return load_column, store_column
