"""The discrete Fourier transform of a short column held in a thread's registers.

    y[k] = sum_j z[j] e^(sign 2 pi i jk / T),   0 <= k < T,   T a product of 2, 3, 5 and 7

Decimation in time, in place: the column is put in digit-reversed order, then each prime factor r of T makes one step.
With h the length of the transforms that are done, a step joins r of them, at distance h, to one of length m = r*h; its
butterfly (b, j) owns the r values z[b*m + j + i*h], turns value i by w^(ij), w = e^(sign 2 pi i / m), and takes their
transform of length r.

Radix 2 is u +- w v, ten operations in the textbook. On a machine that fuses multiply and add six do, w = c(1 + i ratio)
where |re w| >= |im w|, else w = c(ratio + i), so that |ratio| <= 1 either way; two FFMAs make v (1 + i ratio), four add
+-c times that to u. T = 8, 16, 32, 64 then cost 52, 148, 388 and 964 instructions, the counts of the split-radix
transform. An odd radix shares the products of outputs q and r - q.

Registers have no index: the column stays in them only where NVVM unrolls every loop. It does so for short bodies alone,
so a step is a chain of functions, each with a rectangle of at most CHUNK values of one kind of butterfly; and indices
are unsigned, since a signed index brings code for counting from the end. Every link hands its rectangle to one function
of butterflies, which Numba compiles once for all of them; NVVM puts a copy of it in each link, where bounds are known.

Example: T = 12 has the factors 3, 2, 2, and its steps join columns of length 1, 3 and 6.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import complex64, cuda

from .toolchain import device_function

CHUNK = 12  # butterflies of radix 2 that one loop nest may hold; an odd radix counts r for each of its butterflies


def factors(T: int) -> list[int]:
    """The prime factors of a length, greatest first: dear radices come while few twiddles differ from 1."""
    found = []
    for r in (7, 5, 3, 2):
        while T % r == 0:
            found.append(r)
            T //= r
    if T != 1:
        raise ValueError("a transform length is a product of 2, 3, 5 and 7")
    return found


def digit_reversal(T: int) -> np.ndarray:
    """Where each value of the decimated column comes from."""
    order = np.zeros(1, np.int64)
    for r in factors(T):
        order = (order[None, :] * r + np.arange(r)[:, None]).ravel()
    return order


class Chunk(NamedTuple):
    """A rectangle of butterflies of one step: blocks `block` to `block_end`, offsets `offset` to `offset_end`."""

    block: np.uint64
    block_end: np.uint64
    offset: np.uint64
    offset_end: np.uint64
    m: np.uint64  # values of a block
    h: np.uint64  # distance of the values that a butterfly joins
    turn: np.uint64  # from the twiddle of one offset to that of the next, in steps of e^(2 pi i/T)


def twiddle_kind(r: int, h: int, j: int) -> str:
    """What the twiddle of offset j spares: 'one', 'quarter' (sign * i), 'wide' (|re| the greater) or 'tall'."""
    if j == 0:
        return "one"
    if r != 2:
        return "tall"
    if 2 * j == h:
        return "quarter"
    return "wide" if 4 * j <= h or 4 * j >= 3 * h else "tall"


def chunks(T: int, r: int, h: int) -> Iterator[Chunk]:
    """All butterflies of a step, in rectangles of one kind and of at most CHUNK values."""
    most, m = CHUNK if r == 2 else max(1, CHUNK // r), r * h
    blocks = T // m
    j = 0
    while j < h:
        end = j + 1
        while end < min(h, j + most) and twiddle_kind(r, h, end) == twiddle_kind(r, h, j):
            end += 1
        tall = max(1, most // (end - j))
        for b in range(0, blocks, tall):
            yield Chunk(*map(np.uint64, (b, min(blocks, b + tall), j, end, m, h, blocks)))
        j = end


@cache
def make_fft(T: int, sign: int) -> Any:
    """Device function fft(z): transforms z = cuda.local.array(T, complex64) in place.

    Any thread may call it alone: no barrier, no shared memory, about 2 T registers and a few. Where the caller has put
    zeros at constant positions, the compiler drops what they make needless; likewise what leads to values not read.

    Parameters
    ----------
    T : length, a product of 2, 3, 5 and 7; beyond 81 the column leaves the registers.
    sign : -1 for the transform, +1 for its inverse times T.
    """
    step, h = _reorder(T), 1
    for r in factors(T):
        for chunk in chunks(T, r, h):
            step = _then(step, _butterflies(T, sign, r, twiddle_kind(r, h, int(chunk.offset))), chunk)
        h *= r
    return step


def _units(T: int, sign: int) -> np.ndarray:
    """e^(sign 2 pi i k/T) in double precision."""
    return np.exp(sign * 2j * np.pi * np.arange(T) / T)


def _reorder(T: int) -> Any:
    ORDER = digit_reversal(T).astype(np.uint64)
    LENGTH = np.uint64(T)

    @device_function
    def reorder(z: Any) -> None:
        """Digit reversal: a renaming of registers, of which no instruction is left."""
        order = cuda.const.array_like(ORDER)
        old = cuda.local.array(T, complex64)
        for i in range(LENGTH):
            old[i] = z[i]
        for i in range(LENGTH):
            z[i] = old[order[i]]

    return reorder


def _then(before: Any, butterflies: Any, chunk: Chunk) -> Any:
    """A link of the chain: what comes before, then the butterflies of a rectangle."""

    @device_function
    def link(z: Any) -> None:
        before(z)
        butterflies(z, chunk)

    return link


@cache
def _butterflies(T: int, sign: int, r: int, kind: str) -> Any:
    """Device function (z, chunk): the butterflies of a rectangle whose twiddles are of one kind."""
    if r == 2:
        return _radix2(T, sign, kind)
    return _radix3(T, sign, kind) if r == 3 else _odd_radix(T, sign, r, kind)


def _radix2(T: int, sign: int, kind: str) -> Any:
    ONE, QUARTER, WIDE, FORWARD = kind == "one", kind == "quarter", kind == "wide", sign < 0

    w = _units(T, sign)
    wide = np.abs(w.real) >= np.abs(w.imag) - 1e-9
    greater = np.where(wide, w.real, w.imag)
    GREATER = greater.astype(np.float32)
    RATIO = (np.where(wide, w.imag, w.real) / greater).astype(np.float32)

    @device_function
    def radix2(z: Any, chunk: Any) -> None:
        """u, v -> u + w v, u - w v."""
        greaters = cuda.const.array_like(GREATER)
        ratios = cuda.const.array_like(RATIO)
        for b in range(chunk.block, chunk.block_end):
            for j in range(chunk.offset, chunk.offset_end):
                i = b * chunk.m + j
                k = i + chunk.h
                u = z[i]
                v = z[k]
                if ONE:
                    z[i] = u + v
                    z[k] = u - v
                elif QUARTER:
                    t = complex(v.imag, -v.real) if FORWARD else complex(-v.imag, v.real)
                    z[i] = u + t
                    z[k] = u - t
                else:
                    c = greaters[j * chunk.turn]
                    ratio = ratios[j * chunk.turn]
                    if WIDE:
                        x = v.real - ratio * v.imag
                        y = v.imag + ratio * v.real
                    else:
                        x = ratio * v.real - v.imag
                        y = ratio * v.imag + v.real
                    z[i] = complex(u.real + c * x, u.imag + c * y)
                    z[k] = complex(u.real - c * x, u.imag - c * y)

    return radix2


def _radix3(T: int, sign: int, kind: str) -> Any:
    TURNED, TWO = kind != "one", np.uint64(2)
    HALF, SINE = np.float32(0.5), np.float32(sign * math.sqrt(0.75))
    UNITS = _units(T, sign).astype(np.complex64)

    @device_function
    def radix3(z: Any, chunk: Any) -> None:
        """a, u, v -> a + t, then a - t/2 +- i sign sqrt(3)/2 (u - v), where t = u + v."""
        units = cuda.const.array_like(UNITS)
        for b in range(chunk.block, chunk.block_end):
            for j in range(chunk.offset, chunk.offset_end):
                i = b * chunk.m + j
                k = i + chunk.h
                n = k + chunk.h
                a = z[i]
                u = z[k]
                v = z[n]
                if TURNED:
                    u = u * units[j * chunk.turn]
                    v = v * units[j * TWO * chunk.turn]
                t = u + v
                d = u - v
                x = a.real - HALF * t.real
                y = a.imag - HALF * t.imag
                z[i] = a + t
                z[k] = complex(x - SINE * d.imag, y + SINE * d.real)
                z[n] = complex(x + SINE * d.imag, y - SINE * d.real)

    return radix3


def _odd_radix(T: int, sign: int, r: int, kind: str) -> Any:
    half = r // 2
    NONE, ONE, HALF, END, R = map(np.uint64, (0, 1, half, half + 1, r))
    TURNED = kind != "one"
    UNITS = _units(T, sign).astype(np.complex64)
    angles = 2 * np.pi * np.outer(np.arange(r), np.arange(r)) / r
    COSINES, SINES = np.cos(angles).astype(np.float32), (sign * np.sin(angles)).astype(np.float32)

    @device_function
    def odd_radix(z: Any, chunk: Any) -> None:
        """Outputs q and r - q are even +- i odd: sums meet cosines in `even`, differences meet sines in `odd`."""
        units = cuda.const.array_like(UNITS)
        cosines = cuda.const.array_like(COSINES)
        sines = cuda.const.array_like(SINES)
        sums = cuda.local.array(half, complex64)
        differences = cuda.local.array(half, complex64)
        for b in range(chunk.block, chunk.block_end):
            for j in range(chunk.offset, chunk.offset_end):
                i = b * chunk.m + j
                first = z[i]
                total = first
                for k in range(ONE, END):
                    u = z[i + k * chunk.h]
                    v = z[i + (R - k) * chunk.h]
                    if TURNED:
                        u = u * units[j * k * chunk.turn]
                        v = v * units[j * (R - k) * chunk.turn]
                    sums[k - ONE] = u + v
                    differences[k - ONE] = u - v
                    total = total + sums[k - ONE]
                z[i] = total
                for q in range(ONE, END):
                    even_re = first.real
                    even_im = first.imag
                    odd_re = sines[q, ONE] * differences[NONE].real
                    odd_im = sines[q, ONE] * differences[NONE].imag
                    for k in range(HALF):
                        even_re += cosines[q, k + ONE] * sums[k].real
                        even_im += cosines[q, k + ONE] * sums[k].imag
                        if k > NONE:
                            odd_re += sines[q, k + ONE] * differences[k].real
                            odd_im += sines[q, k + ONE] * differences[k].imag
                    z[i + q * chunk.h] = complex(even_re - odd_im, even_im + odd_re)
                    z[i + (R - q) * chunk.h] = complex(even_re + odd_im, even_im - odd_re)

    return odd_radix
