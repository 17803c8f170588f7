"""SIMD vectors as Python objects: operators that emit LLVM vector instructions.

A vector is 64 bytes, one cache line and one register of AVX-512; LLVM splits it where registers are shorter. Its lower
and its upper half have a real for each of L planes, L = `lanes(itemsize)`: 8 float32 or 4 float64. A `line` is a vector
that holds L complex values, real parts in the lower half and imaginary parts in the upper: a complex sum is one
instruction, a product with a constant two and a shuffle (none where halves are registers of their own).

Instructions carry the flags contract (a * b + c may be one fused multiply-add) and nsz (x + 0 is x). They carry none
that would let LLVM change the order of a sum or assume finite values: results are the same bits in every call, and a
NaN goes wherever arithmetic takes it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from .registers import LINE_BYTES, hold_lines

FLAGS = ("contract", "nsz")
INT32, INT64, BOOL = ir.IntType(32), ir.IntType(64), ir.IntType(1)


def lanes(itemsize: int) -> int:
    """Planes in one half of a vector."""
    return LINE_BYTES // (2 * itemsize)


class Vector:
    """One vector of reals inside an LLVM builder. Python's number 0 is an exact zero."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _emit(self, operation: str, *values: Any) -> "Vector":
        return Vector(self.builder, getattr(self.builder, operation)(*values, flags=FLAGS))

    def __add__(self, other: "Vector | float") -> "Vector":
        return self._emit("fadd", self.value, other.value) if isinstance(other, Vector) else self

    __radd__ = __add__

    def __sub__(self, other: "Vector | float") -> "Vector":
        return self._emit("fsub", self.value, other.value) if isinstance(other, Vector) else self

    def __rsub__(self, zero: float) -> "Vector":
        return -self

    def __neg__(self) -> "Vector":
        return self._emit("fneg", self.value)

    def __mul__(self, other: "Vector") -> "Vector":
        return self._emit("fmul", self.value, other.value)

    def __rmul__(self, constant: float) -> "Vector | int":
        if constant == 0:
            return 0
        if abs(constant) == 1:
            return self if constant > 0 else -self
        return self.by_halves(constant, constant)

    def by_halves(self, low: float, high: float) -> "Vector":
        """The lower half times one constant, the upper half times another."""
        half = self.value.type.count // 2
        return self * Vector(self.builder, ir.Constant(self.value.type, [low] * half + [high] * half))

    def shuffle(self, other: "Vector", order: Sequence[int]) -> "Vector":
        """The elements of these numbers, counted through both vectors."""
        return Vector(self.builder, shuffle(self.builder, self.value, other.value, order))

    def swapped(self) -> "Vector":
        """The halves exchanged."""
        half = self.value.type.count // 2
        return self.shuffle(self, [*range(half, 2 * half), *range(half)])


class Line:
    """L complex values in one vector, for `butterfly.fft`."""

    def __init__(self, vector: Vector) -> None:
        self.vector = vector

    def __add__(self, other: "Line | complex") -> "Line":
        return Line(self.vector + other.vector) if isinstance(other, Line) else self

    __radd__ = __add__

    def __sub__(self, other: "Line | complex") -> "Line":
        return Line(self.vector - other.vector) if isinstance(other, Line) else self

    def __rsub__(self, zero: complex) -> "Line":
        return Line(-self.vector)

    def __mul__(self, w: complex) -> "Line | int":
        """(a + ib)(c + is) = ac + i bc + (-bs + i as)."""
        straight = w.real * self.vector
        turned = self.vector.swapped().by_halves(-w.imag, w.imag) if w.imag else 0
        total = straight + turned
        return Line(total) if isinstance(total, Vector) else 0

    def turned(self, by: "tuple[Vector, Vector]") -> "Line":
        """Times c + is, given as the vectors (c, c) and (-s, s) of their halves."""
        return Line(self.vector * by[0] + self.vector.swapped() * by[1])

    def conj(self) -> "Line":
        return Line(self.vector.by_halves(1, -1))


def shuffle(builder: Any, a: Any, b: Any, order: Sequence[int]) -> Any:
    """The elements of two LLVM vectors, counted through both, in this order."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(order)), list(order)))


def broadcast(builder: Any, scalar: Any, count: int) -> Any:
    """An LLVM vector of `count` times a scalar."""
    undefined = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    first = builder.insert_element(undefined, scalar, INT32(0))
    return shuffle(builder, first, undefined, [0] * count)


@contextlib.contextmanager
def _loop(builder: Any, count: Any) -> Iterator[Any]:
    with cgutils.for_range(builder, count) as loop:
        yield loop.index


class Emitter:
    """What a codelet needs of one LLVM function: loads, stores, masks and shuffles of vectors of 2 L reals."""

    def __init__(self, context: Any, builder: Any, dtype: types.Type) -> None:
        self.context, self.builder = context, builder
        self.itemsize = dtype.bitwidth // 8
        self.lanes = lanes(self.itemsize)
        self.count = 2 * self.lanes
        self.scalar = context.get_value_type(dtype)
        self.half = ir.VectorType(self.scalar, self.lanes)
        self.whole = ir.VectorType(self.scalar, self.count)
        self.zero = ir.Constant(self.whole, [0.0] * self.count)

    def data(self, array_type: types.Array, array: Any) -> Any:
        """The pointer to the first element of a Numba array."""
        return self.context.make_array(array_type)(self.context, self.builder, array).data

    def const(self, value: int) -> ir.Constant:
        return ir.Constant(INT64, value)

    def offset(self, index: Any, steps: Any, stride: Any = None) -> Any:
        """index + steps * stride, `steps` a number or a value; without instructions where it is 0."""
        if isinstance(steps, int):
            if steps == 0:
                return index
            steps = self.const(steps)
        return self.builder.add(index, steps if stride is None else self.builder.mul(stride, steps))

    def unknown(self, value: Any) -> Any:
        """The same value, of which LLVM does not know that it is."""
        return self.builder.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], False)

    def loop(self, count: int) -> Any:
        """`with emit.loop(n) as i:` emits a loop over i = 0 .. n."""
        return _loop(self.builder, self.const(count))

    # ---- memory ------------------------------------------------------------------------------------------------------

    def _pointer(self, data: Any, index: Any, kind: ir.VectorType) -> Any:
        return self.builder.bitcast(self.builder.gep(data, [index]), kind.as_pointer())

    def load(self, data: Any, index: Any) -> Vector:
        return Vector(self.builder, self.builder.load(self._pointer(data, index, self.whole), align=self.itemsize))

    def load_half(self, data: Any, index: Any) -> Vector:
        """L reals, half a line."""
        return Vector(self.builder, self.builder.load(self._pointer(data, index, self.half), align=self.itemsize))

    def load_line(self, data: Any, index: Any) -> Line:
        return Line(self.load(data, index))

    def store(self, value: "Vector | Line | complex", data: Any, index: Any) -> None:
        vector = value.vector if isinstance(value, Line) else value
        bits = vector.value if isinstance(vector, Vector) else self.zero
        self.builder.store(bits, self._pointer(data, index, self.whole), align=self.itemsize)

    def store_half(self, vector: Vector, part: int, data: Any, index: Any) -> None:
        """Stores the lower (0) or the upper (1) half."""
        half = shuffle(self.builder, vector.value, vector.value, range(part * self.lanes, (part + 1) * self.lanes))
        self.builder.store(half, self._pointer(data, index, self.half), align=self.itemsize)

    def prefetch(self, data: Any, index: Any, write: bool) -> None:
        """Asks for the cache line of an element before it is read or written."""
        signature = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(self.builder.module, signature, "llvm.prefetch.p0")
        address = self.builder.bitcast(self.builder.gep(data, [index]), ir.IntType(8).as_pointer())
        self.builder.call(function, [address, INT32(int(write)), INT32(3), INT32(1)])

    def at_address(self, address: Any, kind: ir.VectorType) -> Any:
        """A pointer to a vector from a 64-bit byte address."""
        return self.builder.inttoptr(address, kind.as_pointer())

    def mask(self, first: Any, end: Any, base: int, count: int) -> Any:
        """Which of the positions base .. base + count lie in first .. end."""
        kind = ir.VectorType(ir.IntType(8 * self.itemsize), count)
        positions = ir.Constant(kind, list(range(base, base + count)))
        narrow = (self.builder.trunc(value, kind.element) for value in (first, end))
        low, high = (broadcast(self.builder, value, count) for value in narrow)
        after, before = self.builder.icmp_signed(">=", positions, low), self.builder.icmp_signed("<", positions, high)
        return self.builder.and_(after, before)

    def load_row_part(self, address: Any, first: Any, end: Any, base: int) -> Any:
        """Positions base .. base + L of a row, those in first .. end, zero at the others; as an LLVM vector."""
        kind = self.half
        pointer = self.at_address(self.builder.add(address, self.const(base * self.itemsize)), kind)
        mask = self.mask(first, end, base, kind.count)
        signature = ir.FunctionType(kind, [kind.as_pointer(), INT32, mask.type, kind])
        zero = ir.Constant(kind, [0.0] * kind.count)
        return self.builder.call(self._masked("load", kind, signature), [pointer, INT32(self.itemsize), mask, zero])

    def store_row_part(self, vector: Vector, address: Any, first: Any, end: Any, base: int) -> None:
        """Writes positions base .. base + 2 L of a row, those in first .. end.

        Most registers of a row are wanted whole. They are stored plainly: many processors take tens of cycles for a
        masked store.
        """
        b, step = self.builder, self.count if hold_lines() else self.lanes
        kind = ir.VectorType(self.scalar, step)
        signature = ir.FunctionType(ir.VoidType(), [kind, kind.as_pointer(), INT32, ir.VectorType(BOOL, step)])
        for part in range(0, self.count, step):
            at, value = base + part, shuffle(b, vector.value, vector.value, range(part, part + step))
            pointer = self.at_address(b.add(address, self.const(at * self.itemsize)), kind)
            begins, ends = b.icmp_signed("<=", first, self.const(at)), b.icmp_signed(">=", end, self.const(at + step))
            with b.if_else(b.and_(begins, ends)) as (whole, partly):
                with whole:
                    b.store(value, pointer, align=self.itemsize)
                with partly:
                    store, mask = self._masked("store", kind, signature), self.mask(first, end, at, step)
                    b.call(store, [value, pointer, INT32(self.itemsize), mask])

    def _masked(self, operation: str, kind: ir.VectorType, signature: ir.FunctionType) -> Any:
        name = f"llvm.masked.{operation}.v{kind.count}f{8 * self.itemsize}.p0"
        return cgutils.get_or_insert_function(self.builder.module, signature, name)

    # ---- registers ---------------------------------------------------------------------------------------------------

    def splat(self, scalar: Any) -> Vector:
        return Vector(self.builder, broadcast(self.builder, scalar, self.count))

    def splat_halves(self, low: Any, high: Any) -> Vector:
        """One scalar in the lower half, another in the upper."""
        return self.join(*(broadcast(self.builder, scalar, self.lanes) for scalar in (low, high)))

    def load_splat(self, data: Any, index: Any) -> Vector:
        return self.splat(self.builder.load(self.builder.gep(data, [index])))

    def load_half_splat(self, data: Any, index: Any) -> Vector:
        """L times the same real."""
        scalar, undefined = self.builder.load(self.builder.gep(data, [index])), ir.Constant(self.half, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, INT32(0))
        return Vector(self.builder, shuffle(self.builder, first, undefined, [0] * self.lanes))

    def join(self, low: Any, high: Any) -> Vector:
        """Two LLVM vectors of L reals as one of 2 L."""
        return Vector(self.builder, shuffle(self.builder, low, high, range(self.count)))

    def join_halves(self, low: "Vector | float", high: "Vector | float", part: int) -> Line:
        """The same half of two vectors: the line low + i high, lanes from the lower (0) or upper (1) half."""
        a, b = (v if isinstance(v, Vector) else Vector(self.builder, self.zero) for v in (low, high))
        taken = range(part * self.lanes, (part + 1) * self.lanes)
        return Line(a.shuffle(b, [*taken, *(self.count + i for i in taken)]))

    def transpose(self, rows: Sequence[Vector]) -> list[Vector]:
        """L vectors, rows and columns exchanged in their lower and in their upper halves."""
        n, near, rows = self.lanes, 16 // self.itemsize, list(rows)
        for step in (1 << level for level in range(n.bit_length() - 1)):
            for i in range(n):
                if not i & step:
                    rows[i], rows[i | step] = self._weave(rows[i], rows[i | step], step)
        # Within 16 bytes the columns came out in the order 0, 2, 1, 3.
        return [rows[j - j % near + j % near // 2 + j % 2 * (near // 2)] for j in range(n)]

    def halves_summed(self, re: Vector, im: Vector) -> Vector:
        """The lower half of `re` plus its upper one, and the upper half of `im` minus its lower one."""
        n = self.lanes
        a = re.shuffle(im, [*range(n), *range(3 * n, 4 * n)])
        b = re.shuffle(im, [*range(n, 2 * n), *range(2 * n, 3 * n)])
        return a + b.by_halves(1, -1)

    def sum_lanes(self, vectors: Sequence[Vector]) -> Vector:
        """L vectors to one: in either half lane j is the sum over that half of vector j, added as a balanced tree."""
        step = 1
        while len(vectors) > 1:
            woven = (self._weave(a, b, step) for a, b in zip(vectors[0::2], vectors[1::2], strict=True))
            vectors, step = [low + high for low, high in woven], 2 * step
        return vectors[0]

    def _weave(self, a: Vector, b: Vector, step: int) -> list[Vector]:
        """The lower and the upper parts of all chunks of two vectors, `step` elements of each in turn.

        A chunk is 16 bytes while that is possible: there a shuffle of two vectors is one cheap instruction.
        """
        chunk = max(16 // self.itemsize, 2 * step)
        units = [at + u for at in range(0, self.count, chunk) for u in range(0, chunk // 2, step)]
        turns = [unit + source + e for unit in units for source in (0, self.count) for e in range(step)]
        return [a.shuffle(b, [part + i for i in turns]) for part in (0, chunk // 2)]
