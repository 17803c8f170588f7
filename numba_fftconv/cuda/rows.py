"""Products of two rows of a spectrum that threads hold in registers, for the kernels that people write (device.py).

A thread has row ky of a plane, z[kx], and row 0 stands for two, z = X[0] + i X[T/2], each of them the spectrum of a
real column: X[0, kx] = (z[kx] + conj z[-kx]) / 2 and X[T/2, kx] = (z[kx] - conj z[-kx]) / 2i. So rows between are
multiplied value by value, and in row 0 kx and -kx are taken apart, multiplied each by its own kind, and put together.

Example: T = 8, row 0. kx = 0 and 4 are real in both rows; kx = 1, 2, 3 are computed together with 7, 6, 5.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import uint32

from .toolchain import device_function

FEW = 4  # turns of a loop that NVVM surely unrolls


def each_of(body: Any, first: int, end: int) -> Any:
    """Device function each(*arguments): body(k, *arguments) for k from `first` to `end`.

    A chain of short loops, which NVVM unrolls whatever the body: arrays with index k then stay in registers.
    """

    @device_function
    def each(*arguments: Any) -> None:
        """Nothing yet."""

    for start in range(first, end, FEW):
        each = _then(each, body, start, min(end, start + FEW))
    return each


def _then(before: Any, body: Any, first: int, end: int) -> Any:
    FIRST, END = np.uint64(first), np.uint64(end)

    @device_function
    def each(*arguments: Any) -> None:
        before(*arguments)
        for k in range(FIRST, END):
            body(k, *arguments)

    return each


@cache
def make_product(T: int, row_place: Any, conjugate: bool, add: bool) -> Any:
    """Device function product(s, z, w) of rows: s = z*w, or s += z*w with `add`; `conjugate` takes that of w."""
    NONE, HALF_LENGTH, LENGTH = map(np.uint64, (0, T // 2, T))
    QUARTER, SIGN = np.float32(0.25), np.float32(-1 if conjugate else 1)

    @device_function
    def put(s: Any, k: Any, re: Any, im: Any) -> None:
        if add:
            s[k] = complex(s[k].real + re, s[k].imag + im)
        else:
            s[k] = complex(re, im)

    @device_function
    def times(k: Any, s: Any, z: Any, w: Any) -> None:
        p = z[k] * complex(w[k].real, SIGN * w[k].imag)
        put(s, k, p.real, p.imag)

    @device_function
    def real_times(k: Any, s: Any, z: Any, w: Any) -> None:
        """At k of row 0 where both rows in it are real."""
        put(s, k, z[k].real * w[k].real, z[k].imag * w[k].imag)

    @device_function
    def pair_times(k: Any, s: Any, z: Any, w: Any) -> None:
        """At k and -k of row 0, where either row in it has conjugates."""
        u, v = z[k], w[k]
        u_mirror, v_mirror = z[LENGTH - k], w[LENGTH - k]
        a = complex(u.real + u_mirror.real, u.imag - u_mirror.imag)  # twice row 0 of z
        b = complex(u.imag + u_mirror.imag, u_mirror.real - u.real)  # twice row T/2
        c = complex(v.real + v_mirror.real, SIGN * (v.imag - v_mirror.imag))
        d = complex(v.imag + v_mirror.imag, SIGN * (v_mirror.real - v.real))
        p = a * c
        q = b * d
        put(s, k, QUARTER * (p.real - q.imag), QUARTER * (p.imag + q.real))
        put(s, LENGTH - k, QUARTER * (p.real + q.imag), QUARTER * (q.real - p.imag))

    whole_row, pairs = each_of(times, 0, T), each_of(pair_times, 1, T // 2)

    @device_function
    def product(s: Any, z: Any, w: Any) -> None:
        """multiply(s, z, w): s = z w. correlate(s, z, w): s = z conj(w). With _add, this is added to s.

        These are the spectra of y[p] = sum_r x[p - r] w[r] and of y[p] = sum_r x[p + r] w[r], indices modulo T. The two
        rows that row 0 stands for are each multiplied by its own kind. s may be z or w.
        Called by any thread. Barriers: none. Shared memory: none. Layout: rows; all three of the calling thread's row.
        """
        row, _ = row_place()
        if row == uint32(0):
            real_times(NONE, s, z, w)
            real_times(HALF_LENGTH, s, z, w)
            pairs(s, z, w)
        else:
            whole_row(s, z, w)

    return product
