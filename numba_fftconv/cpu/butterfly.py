"""The discrete Fourier transform of a short list, written once in plain Python over symbols.

    y[k] = sum_j x[j] e^(sign 2 pi i jk / T),   0 <= k < T

A complex value is a pair of reals. A real is anything with +, - and multiplication by a Python float: a NumPy array
(then this file computes), a `vector.Real` (then the same lines emit LLVM instructions, see fft2d.py), or a counter
(then they are counted, see `flops`). The Python integer 0 stands for an exact zero and costs nothing: real input and
zero padding prune the transform by themselves, and the compiler drops whatever leads to outputs that nobody stores.

Split radix (Duhamel, Hollmann, Split-radix FFT algorithm, Electronics Letters 20, 1984) for lengths that 4 divides,
mixed radix 2, 3, 5, 7 below: T = 32 costs 456 real operations where the textbook radix-2 transform takes 640.
"""

import math
from functools import cache
from typing import Any

Complex = tuple[Any, Any]


def unit(k: int, n: int) -> complex:
    """e^(2 pi i k/n), exact on the axes."""
    k %= n
    axis = {0: 1 + 0j, n: 1j, 2 * n: -1 + 0j, 3 * n: -1j}.get(4 * k)
    return axis if axis is not None else complex(math.cos(2 * math.pi * k / n), math.sin(2 * math.pi * k / n))


def times(v: Complex, w: complex) -> Complex:
    """v * w; on the diagonals |re w| = |im w| two multiplications do."""
    x, y = v
    c, s = w.real, w.imag
    if c and abs(abs(c) - abs(s)) < 1e-12:
        p, q = (x - y, x + y) if c * s > 0 else (x + y, y - x)
        return c * p, c * q
    return c * x - s * y, c * y + s * x


def add(u: Complex, v: Complex) -> Complex:
    return u[0] + v[0], u[1] + v[1]


def sub(u: Complex, v: Complex) -> Complex:
    return u[0] - v[0], u[1] - v[1]


def odd_dft(v: list[Complex]) -> list[Complex]:
    """The transform (sign +) of an odd number p of values: outputs q and p - q share all their products."""
    p, half = len(v), range(1, len(v) // 2 + 1)
    sums, differences = [add(v[k], v[-k]) for k in half], [sub(v[k], v[-k]) for k in half]
    first = v[0]
    for s in sums:
        first = add(first, s)
    out = [first] * p
    for q in half:
        (a, b), (c, d) = v[0], (0, 0)
        for k, s, t in zip(half, sums, differences, strict=True):
            w = unit(q * k, p)
            a, b = a + w.real * s[0], b + w.real * s[1]
            c, d = c + w.imag * t[0], d + w.imag * t[1]
        out[q], out[p - q] = (a - d, b + c), (a + d, b - c)
    return out


def mixed_radix(x: list[Complex], sign: int) -> list[Complex]:
    """Decimation in time by the smallest prime factor."""
    n = len(x)
    if n == 1:
        return x
    p = next(p for p in (2, 3, 5, 7) if n % p == 0)
    m = n // p
    parts = [fft(x[j::p], sign) for j in range(p)]
    out: list[Complex] = [(0, 0)] * n
    for k in range(m):
        v = [times(part[k], unit(sign * j * k, n)) for j, part in enumerate(parts)]
        if p == 2:
            out[k], out[k + m] = add(v[0], v[1]), sub(v[0], v[1])
        else:
            v = odd_dft(v)
            for j in range(p):
                out[k + j * m] = v[sign * j]
    return out


def fft(x: list[Complex], sign: int) -> list[Complex]:
    """The list of y[k]; split radix where 4 divides the length."""
    n = len(x)
    if n % 4:
        return mixed_radix(x, sign)
    even, first, third = fft(x[0::2], sign), fft(x[1::4], sign), fft(x[3::4], sign)
    q = n // 4
    out: list[Complex] = [(0, 0)] * n
    for k in range(q):
        a, c = times(first[k], unit(sign * k, n)), times(third[k], unit(3 * sign * k, n))
        p, (re, im) = add(a, c), sub(a, c)
        turned = (-im, re) if sign > 0 else (im, -re)
        out[k], out[k + 2 * q] = add(even[k], p), sub(even[k], p)
        out[k + q], out[k + 3 * q] = add(even[k + q], turned), sub(even[k + q], turned)
    return out


class Counter:
    """A real that counts the operations made on it."""

    total = 0

    def _count(self, other: object) -> "Counter":
        if not (isinstance(other, int) and other == 0):
            Counter.total += 1
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = _count

    def __rmul__(self, c: float) -> "Counter | int":
        if c == 0:
            return 0
        return self if abs(c) == 1 else self._count(c)

    def __neg__(self) -> "Counter":
        return self


@cache
def flops(T: int, real: bool = False) -> int:
    """Real additions and multiplications of one transform of length T."""
    Counter.total = 0
    fft([(Counter(), 0 if real else Counter()) for _ in range(T)], -1)
    return Counter.total
