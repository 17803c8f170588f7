"""SIMD vectors as Python objects: operators that emit LLVM vector instructions.

A vector holds one real of each of L planes. `lanes` picks L so that a vector is 256 bits: 8 float32 or 4 float64; LLVM
splits or joins it where the machine has other registers. A `line` is 2 L reals, the real parts of L complex values and
then their imaginary parts: 64 bytes, one cache line.

Instructions carry the flags contract (a * b + c may be one fused multiply-add) and nsz (x + 0 is x). They carry none
that would let LLVM change the order of a sum or assume finite values: results are the same bits in every call, and a
NaN goes wherever arithmetic takes it.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

FLAGS = ("contract", "nsz")
INT32, INT64, BOOL = ir.IntType(32), ir.IntType(64), ir.IntType(1)
LINE_BYTES = 64


def lanes(itemsize: int) -> int:
    """Planes in one vector: half a cache line."""
    return LINE_BYTES // (2 * itemsize)


class Real:
    """One vector of reals inside an LLVM builder."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _emit(self, operation: str, *values: Any) -> "Real":
        return Real(self.builder, getattr(self.builder, operation)(*values, flags=FLAGS))

    def __add__(self, other: "Real | int") -> "Real":
        return self._emit("fadd", self.value, other.value) if isinstance(other, Real) else self

    __radd__ = __add__

    def __sub__(self, other: "Real | int") -> "Real":
        return self._emit("fsub", self.value, other.value) if isinstance(other, Real) else self

    def __rsub__(self, other: int) -> "Real":
        return -self

    def __neg__(self) -> "Real":
        return self._emit("fneg", self.value)

    def __mul__(self, other: "Real") -> "Real":
        return self._emit("fmul", self.value, other.value)

    def __rmul__(self, constant: float) -> "Real | int":
        if constant == 0:
            return 0
        if abs(constant) == 1:
            return self if constant > 0 else -self
        kind = self.value.type
        return self._emit("fmul", self.value, ir.Constant(kind, [constant] * kind.count))


class Emitter:
    """What a codelet needs of one LLVM function: loads, stores, masks and shuffles of vectors of `count` reals."""

    def __init__(self, context: Any, builder: Any, dtype: types.Type) -> None:
        self.context, self.builder = context, builder
        self.count = lanes(dtype.bitwidth // 8)
        self.itemsize = dtype.bitwidth // 8
        self.scalar = context.get_value_type(dtype)
        self.kind = ir.VectorType(self.scalar, self.count)
        self.zero = ir.Constant(self.kind, [0.0] * self.count)

    def data(self, array_type: types.Array, array: Any) -> Any:
        """The pointer to the first element of a Numba array."""
        return self.context.make_array(array_type)(self.context, self.builder, array).data

    def const(self, value: int) -> ir.Constant:
        return ir.Constant(INT64, value)

    def offset(self, index: Any, steps: int, stride: Any = None) -> Any:
        """index + steps * stride, without instructions where steps is 0 or the stride a constant."""
        if steps == 0:
            return index
        return self.builder.add(
            index, self.const(steps) if stride is None else self.builder.mul(stride, self.const(steps))
        )

    def _pointer(self, data: Any, index: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(data, [index]), self.kind.as_pointer())

    def load(self, data: Any, index: Any) -> Real:
        return Real(self.builder, self.builder.load(self._pointer(data, index), align=self.itemsize))

    def store(self, real: "Real | int", data: Any, index: Any) -> None:
        value = real.value if isinstance(real, Real) else self.zero
        self.builder.store(value, self._pointer(data, index), align=self.itemsize)

    def load_line(self, data: Any, index: Any) -> tuple[Real, Real]:
        return self.load(data, index), self.load(data, self.offset(index, self.count))

    def store_line(self, pair: tuple[Any, Any], data: Any, index: Any) -> None:
        self.store(pair[0], data, index)
        self.store(pair[1], data, self.offset(index, self.count))

    def prefetch(self, data: Any, index: Any, write: bool) -> None:
        """Asks for the cache line of an element before it is read or written."""
        signature = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(self.builder.module, signature, "llvm.prefetch.p0")
        address = self.builder.bitcast(self.builder.gep(data, [index]), ir.IntType(8).as_pointer())
        self.builder.call(function, [address, INT32(int(write)), INT32(3), INT32(1)])

    def splat(self, scalar: Any) -> Real:
        return Real(self.builder, self._splat(scalar, self.kind))

    def load_splat(self, data: Any, index: Any) -> Real:
        return self.splat(self.builder.load(self.builder.gep(data, [index])))

    def _splat(self, scalar: Any, kind: ir.VectorType) -> Any:
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, INT32(0))
        return self.builder.shuffle_vector(
            first, undefined, ir.Constant(ir.VectorType(INT32, self.count), [0] * self.count)
        )

    def mask(self, bits: Any, base: int) -> Any:
        """Of a 64-bit set of positions: which of base, base + 1, ... it holds."""
        some = self.builder.lshr(bits, self.const(base)) if base else bits
        narrow = self.builder.trunc(some, ir.IntType(self.count))
        return self.builder.bitcast(narrow, ir.VectorType(BOOL, self.count))

    def at_address(self, address: Any) -> Any:
        """A pointer to a vector from a 64-bit byte address."""
        return self.builder.inttoptr(address, self.kind.as_pointer())

    def masked_load(self, pointer: Any, mask: Any) -> Any:
        signature = ir.FunctionType(self.kind, [self.kind.as_pointer(), INT32, mask.type, self.kind])
        return self.builder.call(self._masked("load", signature), [pointer, INT32(self.itemsize), mask, self.zero])

    def masked_store(self, value: Any, pointer: Any, mask: Any) -> None:
        signature = ir.FunctionType(ir.VoidType(), [self.kind, self.kind.as_pointer(), INT32, mask.type])
        self.builder.call(self._masked("store", signature), [value, pointer, INT32(self.itemsize), mask])

    def store_first(self, value: Any, data: Any, index: Any, count: int) -> None:
        """Stores the first `count` lanes."""
        mask = ir.Constant(ir.VectorType(BOOL, self.count), [i < count for i in range(self.count)])
        if count == self.count:
            self.store(Real(self.builder, value), data, index)
        else:
            self.masked_store(value, self._pointer(data, index), mask)

    def _masked(self, operation: str, signature: ir.FunctionType) -> Any:
        name = f"llvm.masked.{operation}.v{self.count}f{8 * self.itemsize}.p0"
        return cgutils.get_or_insert_function(self.builder.module, signature, name)

    def transpose(self, rows: list[Any]) -> list[Any]:
        """L vectors of L reals, rows and columns exchanged by log2 L perfect shuffles."""
        n, kind = self.count, ir.VectorType(INT32, self.count)

        def weave(base: int) -> ir.Constant:
            return ir.Constant(kind, [base + i // 2 + (n if i % 2 else 0) for i in range(n)])

        low, high, done = weave(0), weave(n // 2), 1
        while done < n:
            rows = [
                self.builder.shuffle_vector(rows[i // 2], rows[i // 2 + n // 2], high if i % 2 else low)
                for i in range(n)
            ]
            done *= 2
        return rows

    def sum_lanes(self, reals: list[Real]) -> Real:
        """L vectors to one: lane j is the sum over the lanes of vector j, added as a balanced tree.

        Neighbours are added within each 128-bit half until a half holds one sum of each vector, then the halves: every
        shuffle is one instruction.
        """
        half = self.count // 2
        within = [
            [
                i % half * 2 % half + i // half * half + (0 if i % half < half // 2 else self.count)
                for i in range(self.count)
            ]
        ]
        within.append([i + 1 for i in within[0]])
        across = [[i if i < half else i - half + self.count for i in range(self.count)]]
        across.append([i + half for i in across[0]])
        while len(reals) > 1:
            first, second = (
                ir.Constant(ir.VectorType(INT32, self.count), mask) for mask in (within if len(reals) > 2 else across)
            )
            reals = [
                Real(self.builder, self.builder.shuffle_vector(u.value, v.value, first))
                + Real(self.builder, self.builder.shuffle_vector(u.value, v.value, second))
                for u, v in zip(reals[0::2], reals[1::2], strict=True)
            ]
        return reals[0]
