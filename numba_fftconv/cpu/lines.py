"""The transform of lines in memory, in one piece or in two levels.

    y[p + A q] = sum_b e^(s 2 pi i b q / B) ( e^(s 2 pi i b p / n) sum_a e^(s 2 pi i a p / A) x[b + B a] ),   n = A B

A line is 64 bytes, a complex value of each of L planes (vector.py). Where `pieces` says one piece, the
whole transform is straight code, whose values LLVM keeps in registers as far as they reach. A longer one is two loops
over short transforms: B of length A, each turned by factors from a table of constants, then A of length B; between them
the lines lie in `between`, which may be the source: a transform of the first loop writes what it has read.

Flops: B flops(A) + 6 n + A flops(B).  Bytes: in two levels every line is read and written twice, half of that in the
first-level cache.
Example: n = 256 is 16 transforms of length 16, 256 products, 16 transforms of length 16; 16 KB lie between.

Reference: Cooley, Tukey, Mathematics of Computation 19 (1965); the levels are Bailey's four steps, Journal of
Supercomputing 4 (1990).
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from .butterfly import fft, levels, unit
from .registers import one_piece
from .vector import Emitter, Line, Vector

LONGEST, LONGEST_OF_FEW = one_piece()


def longest(n: int, inputs: int) -> int:
    """The longest transform that is one piece on this processor, where so many of n values are not zero."""
    return LONGEST_OF_FEW if 2 * inputs <= n else LONGEST


def pieces(n: int, inputs: int) -> tuple[int, int]:
    """The levels, on this processor, of a transform of so many values that are not zero: (A, B), n = A B, with B = 1
    where it is one piece."""
    return levels(n, longest(n, inputs))


def is_long(n: int, inputs: int | None = None) -> bool:
    """Whether a transform of n values, so many or all of which may be other than zero, takes two levels."""
    return pieces(n, n if inputs is None else inputs)[1] > 1


class Lines:
    """Lines in memory: number j lies at + j * step reals from where `data` points, j a Python number.

    Each that is loaded or stored asks for the one `ahead` reals further, which a later transform needs.
    """

    def __init__(self, emit: Emitter, data: Any, at: Any, step: Any = None, ahead: Any = None) -> None:
        self.emit, self.data, self.at, self.ahead = emit, data, at, ahead
        self.step = emit.const(emit.count) if step is None else step

    def part(self, first: Any, every: int = 1) -> "Lines":
        """Every so many of them, from number `first`, a value, on."""
        at = self.emit.offset(self.at, first, self.step)
        step = self.emit.builder.mul(self.step, self.emit.const(every))
        return Lines(self.emit, self.data, at, step, self.ahead)

    def load(self, j: int) -> Line:
        return self.emit.load_line(self.data, self._place(j, write=False))

    def store(self, value: Line | Vector | complex, j: int) -> None:
        self.emit.store(value, self.data, self._place(j, write=True))

    def _place(self, j: int, write: bool) -> Any:
        place = self.emit.offset(self.at, j, self.step)
        if self.ahead is not None:
            self.emit.prefetch(self.data, self.emit.builder.add(place, self.ahead), write)
        return place


def stack_lines(emit: Emitter, count: int) -> Lines:
    """So many lines on the stack of the kernel."""
    held = cgutils.alloca_once(emit.builder, ir.ArrayType(emit.whole, count))
    return Lines(emit, emit.builder.bitcast(held, emit.scalar.as_pointer()), emit.const(0))


def transform(
    emit: Emitter, n: int, sign: int, inputs: int, outputs: int,
    source: Lines, target: Lines, between: Lines | None = None,
) -> None:  # fmt: skip
    """target[k] = y[k], k < outputs: y transforms the n lines of the source, zero from number `inputs` on."""
    A, B = pieces(n, inputs)
    if B == 1:
        x = [source.load(j) if j < inputs else 0 for j in range(n)]
        for k, y in enumerate(fft(x, sign)[:outputs]):
            target.store(y, k)
        return
    assert inputs % B == 0 and outputs % A == 0, (n, inputs, outputs)
    between = stack_lines(emit, n) if between is None else between
    factors = _factors(emit, A, B, sign)
    with emit.loop(B) as b:
        read, held = source.part(b, B), between.part(b, B)
        x = [read.load(a) if a * B < inputs else 0 for a in range(A)]
        first = emit.builder.mul(b, emit.const(A))
        for p, y in enumerate(fft(x, sign)):
            held.store(y.turned(_factor(emit, factors, emit.offset(first, p))), p)
    with emit.loop(A) as p:
        read, written = between.part(emit.builder.mul(p, emit.const(B))), target.part(p, A)
        for q, y in enumerate(fft([read.load(b) for b in range(B)], sign)[: outputs // A]):
            written.store(y, q)


def _factors(emit: Emitter, A: int, B: int, sign: int) -> Any:
    """Constants e^(sign 2 pi i b p / (A B)) in the order [b][p], each as (c, -s, s)."""
    numbers = [unit(sign * b * p, A * B) for b in range(B) for p in range(A)]
    parts = [part for w in numbers for part in (w.real, -w.imag, w.imag)]
    table = ir.Constant(ir.ArrayType(emit.scalar, len(parts)), parts)
    held = cgutils.global_constant(emit.builder.module, "factors", table)
    return emit.builder.bitcast(held, emit.scalar.as_pointer())


def _factor(emit: Emitter, table: Any, number: Any) -> tuple[Vector, Vector]:
    """Of a factor of the table, the two vectors that turn a line."""
    at = emit.builder.mul(number, emit.const(3))
    c, minus, plus = (emit.builder.load(emit.builder.gep(table, [emit.offset(at, i)])) for i in range(3))
    return emit.splat(c), emit.splat_halves(minus, plus)
