"""The discrete Fourier transform of a short list, written once in plain Python over symbols.

    y[k] = sum_j x[j] e^(sign 2 pi i jk / T),   0 <= k < T

A value is anything with +, - and multiplication by a Python complex: a number or a NumPy array (then this file
computes), a `vector.Line` (then the same lines emit LLVM instructions, see fft2d.py), or a `Pair` of reals, whose
reals may be vectors or counters (see `flops`). Python's number 0 stands for an exact zero and costs nothing: real input
and zero padding prune the transform by themselves, and the compiler drops whatever leads to outputs that nobody stores.

Split radix (Duhamel, Hollmann, Split-radix FFT algorithm, Electronics Letters 20, 1984) for lengths that 4 divides,
mixed radix 2, 3, 5, 7 below: T = 32 costs 456 real operations where the textbook radix-2 transform takes 640.
"""

import math
from functools import cache
from typing import Any

from ..integers import ceil_div

ONE_PIECE = 64  # the longest transform in one piece: the time to compile one grows faster than its length


def unit(k: int, n: int) -> complex:
    """e^(2 pi i k/n), exact on the axes."""
    k %= n
    axis = {0: 1 + 0j, n: 1j, 2 * n: -1 + 0j, 3 * n: -1j}.get(4 * k)
    return axis if axis is not None else complex(math.cos(2 * math.pi * k / n), math.sin(2 * math.pi * k / n))


def odd_dft(v: list[Any]) -> list[Any]:
    """The transform (sign +) of an odd number p of values: outputs q and p - q share all their products."""
    p, half = len(v), range(1, len(v) // 2 + 1)
    sums, differences = [v[k] + v[-k] for k in half], [v[k] - v[-k] for k in half]
    out = [sum(sums, v[0])] * p
    for q in half:
        even, odd = v[0], 0
        for k, s, d in zip(half, sums, differences, strict=True):
            w = unit(q * k, p)
            even, odd = even + s * complex(w.real), odd + d * complex(w.imag)
        out[q], out[p - q] = even + odd * 1j, even - odd * 1j
    return out


def mixed_radix(x: list[Any], sign: int) -> list[Any]:
    """Decimation in time by the smallest prime factor."""
    n = len(x)
    if n == 1:
        return x
    p = next(p for p in (2, 3, 5, 7) if n % p == 0)
    m = n // p
    parts = [fft(x[j::p], sign) for j in range(p)]
    out: list[Any] = [0] * n
    for k in range(m):
        v = [part[k] * unit(sign * j * k, n) for j, part in enumerate(parts)]
        if p == 2:
            out[k], out[k + m] = v[0] + v[1], v[0] - v[1]
        else:
            v = odd_dft(v)
            for j in range(p):
                out[k + j * m] = v[sign * j]
    return out


def fft(x: list[Any], sign: int) -> list[Any]:
    """The list of y[k]; split radix where 4 divides the length."""
    n = len(x)
    if n % 4:
        return mixed_radix(x, sign)
    even, first, third = fft(x[0::2], sign), fft(x[1::4], sign), fft(x[3::4], sign)
    q = n // 4
    out: list[Any] = [0] * n
    for k in range(q):
        a, c = first[k] * unit(sign * k, n), third[k] * unit(3 * sign * k, n)
        p, d = a + c, (a - c) * complex(0, sign)
        out[k], out[k + 2 * q] = even[k] + p, even[k] - p
        out[k + q], out[k + 3 * q] = even[k + q] + d, even[k + q] - d
    return out


def levels(n: int, one_piece: int = ONE_PIECE) -> tuple[int, int]:
    """(A, B), n = A B: a length of more than `one_piece` is B transforms of length A, then A of length B, if both can
    leave out quarters of it.

    >>> levels(64), levels(128), levels(256), levels(48, 32), levels(60, 32)
    ((64, 1), (16, 8), (16, 16), (12, 4), (60, 1))
    """
    both = [b for b in range(4, n, 4) if n % (4 * b) == 0 and b * b <= n] if n > one_piece else []
    B = max(both, default=1)
    return n // B, B


class Pair:
    """A complex value as a pair of reals: anything with +, - and multiplication by a Python float, or the number 0."""

    def __init__(self, re: Any, im: Any) -> None:
        self.re, self.im = re, im

    def __add__(self, other: Any) -> "Pair":
        return Pair(self.re + other.re, self.im + other.im) if isinstance(other, Pair) else self

    __radd__ = __add__

    def __sub__(self, other: Any) -> "Pair":
        return Pair(self.re - other.re, self.im - other.im) if isinstance(other, Pair) else self

    def __rsub__(self, zero: complex) -> "Pair":
        return Pair(-self.re, -self.im)

    def __mul__(self, w: complex) -> "Pair":
        """On the diagonals |re w| = |im w| two multiplications do."""
        x, y, c, s = self.re, self.im, w.real, w.imag
        if c and abs(abs(c) - abs(s)) < 1e-12:
            p, q = (x - y, x + y) if c * s > 0 else (x + y, y - x)
            return Pair(c * p, c * q)
        return Pair(c * x - s * y, c * y + s * x)


class Counter:
    """A real that counts the operations made on it."""

    total = 0

    def _count(self, other: object) -> "Counter":
        if not isinstance(other, int | float) or other:
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
def flops(T: int, real: bool = False, inputs: int | None = None, one_piece: int = ONE_PIECE) -> int:
    """Real additions and multiplications of one transform of length T, of which the first `inputs` values are not zero.

    A transform of which only so many outputs are wanted takes as many. In two levels half a transform of two packed
    reals is one of a real, see lines.py, and its untangling takes 4 for each bin.
    """
    A, B = levels(T, one_piece)
    if B > 1:
        whole = B * flops(A, inputs=None if inputs is None else ceil_div(inputs, B)) + 6 * T + A * flops(B)
        return whole // 2 + 2 * T if real else whole
    Counter.total = 0
    values = [Pair(Counter(), 0 if real else Counter()) for _ in range(T if inputs is None else inputs)]
    fft([*values, *[Pair(0, 0)] * (T - len(values))], -1)
    return Counter.total
