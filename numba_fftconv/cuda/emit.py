"""What the intrinsics of the product are written with: addresses, vector accesses and inline PTX, as LLVM.

Indices count complex values of 8 bytes. An address is a pointer to bytes that says which memory it is of: a load whose
memory the compiler does not see is a slower one. For compiled code alone: the simulator has twins where these are used.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

from .block_tile import COMPLEX_BYTES

FLOAT, BYTE, I32, I64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_GENERIC, _GLOBAL, _SHARED = 0, 1, 3  # address spaces


def at(builder: Any, pointer: Any, index: Any) -> Any:
    """A byte pointer moved on by a number of complex values."""
    index = I64(index) if isinstance(index, int) else index
    index = builder.sext(index, I64) if index.type.width < 64 else index
    return builder.gep(pointer, [builder.mul(index, I64(COMPLEX_BYTES), flags=("nsw",))], inbounds=True)


def shared(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Byte pointer into shared memory, known as such, to the start of an array there."""
    pointer = context.make_array(kind)(context, builder, value=array).data
    return builder.addrspacecast(builder.bitcast(pointer, BYTE.as_pointer(_GENERIC)), BYTE.as_pointer(_SHARED))


def in_global(builder: Any, pointer: Any, base: Any) -> Any:
    """Byte pointer into global memory: a CPointer(complex64) moved on by a 64-bit index."""
    pointer = builder.bitcast(pointer, BYTE.as_pointer(_GENERIC))
    return at(builder, builder.addrspacecast(pointer, BYTE.as_pointer(_GLOBAL)), base)


def load(builder: Any, pointer: Any, floats: int) -> list[Any]:
    """Floats from a pointer that their number of bytes divides, in one access."""
    vector = builder.bitcast(pointer, ir.VectorType(FLOAT, floats).as_pointer(pointer.type.addrspace))
    loaded = builder.load(vector, align=4 * floats)
    return [builder.extract_element(loaded, I32(i)) for i in range(floats)]


def store(builder: Any, pointer: Any, values: list[Any]) -> None:
    """Floats to a pointer that their number of bytes divides, in one access."""
    kind = ir.VectorType(FLOAT, len(values))
    vector = ir.Constant(kind, ir.Undefined)
    for i, value in enumerate(values):
        vector = builder.insert_element(vector, value, I32(i))
    builder.store(vector, builder.bitcast(pointer, kind.as_pointer(pointer.type.addrspace)), align=4 * len(values))


def fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """x*y + z, rounded once."""
    function = builder.module.globals.get("llvm.fma.f32")
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(FLOAT, [FLOAT] * 3), "llvm.fma.f32")
    return builder.call(function, [x, y, z])


def negated(builder: Any, x: Any, negate: bool = True) -> Any:
    """The negative, which becomes a sign of an operand of what uses it; NVVM's LLVM has no fneg."""
    return builder.fsub(FLOAT(-0.0), x) if negate else x


def on_slab(write: Callable[[Any, list[Any], Any, Any], None]) -> Any:
    """The intrinsic multiply(acc, s, ia, ib): the sums acc once write(builder, sums, at_a, at_b) has added to them what
    A and B are in the slab s, from places ia and ib on."""

    @intrinsic
    def multiply(typingctx: Any, acc: Any, s: Any, ia: Any, ib: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sums = cgutils.unpack_tuple(builder, arguments[0])
            start = shared(context, builder, signature.args[1], arguments[1])
            write(builder, sums, at(builder, start, arguments[2]), at(builder, start, arguments[3]))
            return cgutils.pack_array(builder, sums)

        return acc(acc, s, types.int32, types.int32), emit

    return multiply


def asm(builder: Any, text: str, result: Any, arguments: Sequence[Any], constraints: str, acts: bool = False) -> Any:
    """Inline PTX; one that `acts` is kept in its place, others are values that the compiler may move."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=acts), arguments)
