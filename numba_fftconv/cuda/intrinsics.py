"""Single instructions that Numba has no word for, each with a Python twin for the simulator.

A complex64 in global memory is 8 bytes at an address that 8 divides, which Numba cannot know: it moves the two halves
one by one. `load_c64` and `store_c64` move it in one access of 64 bits; `load_two_c64` and `store_two_c64` move two in
one access of 128.

A sample that is accessed under a condition has its address computed under it, from the index on. `place_sample`
computes the address before, a `load` and a `store` take it, and a step to the next costs one addition of 64 bits. A
place is an address in compiled code and an index in the simulator, a `distance` what to add to one.

Samples are float32, or float16 and bfloat16 that become float32 when they are loaded and are rounded to nearest, ties
to even, when they are stored: one conversion each, or for the load of a bfloat16, the upper half of a float32, a shift.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..dtypes import HALVES, numpy_dtype, rounded, widened
from .toolchain import REALS, SIMULATED, SIXTEENS, require_numba_cuda


class Samples(NamedTuple):
    """How samples of a dtype are accessed.

    pointer: the type of a pointer to them; for both halves one to 16 bits.
    word: what the name of a kernel for them ends in.
    distance(i): how far apart, uint64, the places of two samples are whose indices differ by i.
    load(g, place): the sample at a place of a pointer, as float32.
    store(g, place, x): store a float32 at a place of a pointer.
    """

    pointer: Any
    word: str
    distance: Callable[..., Any]
    load: Callable[..., Any]
    store: Callable[..., Any]


WORDS = {"float32": "", "float16": "_f16", "bfloat16": "_bf16"}


@cache
def samples_of(dtype: str) -> Samples:
    """The access to samples of a dtype."""
    return Samples(SIXTEENS if dtype in HALVES else REALS, WORDS[dtype], *_accesses(dtype))


if SIMULATED:

    def load_c64(g: Any, i: Any) -> Any:
        """The complex64 at index i of a pointer or array."""
        return g[i]

    def store_c64(g: Any, i: Any, z: Any) -> None:
        """Store a complex64 at index i of a pointer or array."""
        g[i] = z

    def load_two_c64(g: Any, i: Any) -> Any:
        """The complex64 at indices i and i + 1, i even, of a pointer to memory that 16 bytes divide."""
        return g[i], g[i + np.uint64(1)]

    def store_two_c64(g: Any, i: Any, u: Any, v: Any) -> None:
        """Store two complex64 at indices i and i + 1, i even, of a pointer to memory that 16 bytes divide."""
        g[i] = u
        g[i + np.uint64(1)] = v

    def place_sample(g: Any, i: Any) -> Any:
        """The place of the sample at index i of a pointer."""
        return i

    def _accesses(dtype: str) -> tuple[Any, Any, Any]:
        """Distance, load and store."""
        kind = numpy_dtype(dtype)

        def distance(i: Any) -> Any:
            return i

        def load(g: Any, place: Any) -> Any:
            return widened(np.asarray(g[place]).view(kind))[()]

        def store(g: Any, place: Any, x: Any) -> None:
            g[place] = rounded(np.asarray(x, np.float32), dtype).view(np.asarray(g[place]).dtype)

        return distance, load, store

else:
    require_numba_cuda()

    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    _FLOAT2 = ir.VectorType(ir.FloatType(), 2)
    _RE, _IM = ir.IntType(32)(0), ir.IntType(32)(1)

    def _float2(context: Any, builder: Any, kind: Any, value: Any, index: Any) -> Any:
        """Pointer to the pair of floats at an index of a CPointer or an array."""
        base = context.make_array(kind)(context, builder, value=value).data if isinstance(kind, types.Array) else value
        at = builder.gep(base, [index])
        return builder.bitcast(at, _FLOAT2.as_pointer(at.type.addrspace))

    @intrinsic
    def load_c64(typingctx: Any, g: Any, i: Any) -> Any:
        """The complex64 at index i of a pointer or array."""

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            both = builder.load(_float2(context, builder, signature.args[0], *arguments), align=8)
            z = context.make_complex(builder, types.complex64)
            z.real, z.imag = builder.extract_element(both, _RE), builder.extract_element(both, _IM)
            return z._getvalue()

        return types.complex64(g, types.uint64), emit

    @intrinsic
    def store_c64(typingctx: Any, g: Any, i: Any, z: Any) -> Any:
        """Store a complex64 at index i of a pointer or array."""

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = context.make_complex(builder, types.complex64, value=arguments[2])
            both = builder.insert_element(ir.Constant(_FLOAT2, ir.Undefined), value.real, _RE)
            both = builder.insert_element(both, value.imag, _IM)
            builder.store(both, _float2(context, builder, signature.args[0], *arguments[:2]), align=8)
            return context.get_dummy_value()

        return types.void(g, types.uint64, types.complex64), emit

    _FLOAT4 = ir.VectorType(ir.FloatType(), 4)

    def _float4(context: Any, builder: Any, value: Any, index: Any) -> Any:
        """Pointer to the four floats at an index of a CPointer."""
        at = builder.gep(value, [index])
        return builder.bitcast(at, _FLOAT4.as_pointer(at.type.addrspace))

    @intrinsic
    def load_two_c64(typingctx: Any, g: Any, i: Any) -> Any:
        """The complex64 at indices i and i + 1, i even, of a pointer to memory that 16 bytes divide."""

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            four = builder.load(_float4(context, builder, *arguments), align=16)
            pair = []
            for first in (0, 2):
                z = context.make_complex(builder, types.complex64)
                z.real, z.imag = (builder.extract_element(four, ir.IntType(32)(first + part)) for part in (0, 1))
                pair.append(z._getvalue())
            return context.make_tuple(builder, signature.return_type, pair)

        return types.UniTuple(types.complex64, 2)(g, types.uint64), emit

    @intrinsic
    def store_two_c64(typingctx: Any, g: Any, i: Any, u: Any, v: Any) -> Any:
        """Store two complex64 at indices i and i + 1, i even, of a pointer to memory that 16 bytes divide."""

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            four = ir.Constant(_FLOAT4, ir.Undefined)
            for first, argument in zip((0, 2), arguments[2:], strict=True):
                value = context.make_complex(builder, types.complex64, value=argument)
                for part, number in enumerate((value.real, value.imag)):
                    four = builder.insert_element(four, number, ir.IntType(32)(first + part))
            builder.store(four, _float4(context, builder, *arguments[:2]), align=16)
            return context.get_dummy_value()

        return types.void(g, types.uint64, types.complex64, types.complex64), emit

    _STORED = {"float32": ir.FloatType(), "float16": ir.HalfType(), "bfloat16": ir.IntType(16)}
    _LONG, _FLOAT = ir.IntType(32), ir.FloatType()

    @intrinsic
    def place_sample(typingctx: Any, g: Any, i: Any) -> Any:
        """The place of the sample at index i of a pointer."""

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.ptrtoint(builder.gep(arguments[0], [arguments[1]]), ir.IntType(64))

        return types.uint64(g, types.uint64), emit

    def _widened(builder: Any, x: Any) -> Any:
        if x.type == _STORED["bfloat16"]:
            return builder.bitcast(builder.shl(builder.zext(x, _LONG), _LONG(16)), _FLOAT)
        return x if x.type == _FLOAT else builder.fpext(x, _FLOAT)

    def _rounded(builder: Any, x: Any, stored: Any) -> Any:
        if stored == _STORED["bfloat16"]:
            convert = ir.InlineAsm(ir.FunctionType(stored, [_FLOAT]), "cvt.rn.bf16.f32 $0, $1;", "=h,f")
            return builder.call(convert, [x])
        return x if stored == _FLOAT else builder.fptrunc(x, stored)

    def _accesses(dtype: str) -> tuple[Any, Any, Any]:
        """Distance, load and store."""
        stored, itemsize = _STORED[dtype], numpy_dtype(dtype).itemsize
        pointer = stored.as_pointer(1)  # to global memory

        @intrinsic
        def distance(typingctx: Any, i: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                return builder.shl(arguments[0], ir.IntType(64)(itemsize.bit_length() - 1))

            return types.uint64(types.uint64), emit

        @intrinsic
        def load(typingctx: Any, g: Any, place: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                return _widened(builder, builder.load(builder.inttoptr(arguments[1], pointer), align=itemsize))

            return types.float32(g, types.uint64), emit

        @intrinsic
        def store(typingctx: Any, g: Any, place: Any, x: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                value = _rounded(builder, arguments[2], stored)
                builder.store(value, builder.inttoptr(arguments[1], pointer), align=itemsize)
                return context.get_dummy_value()

            return types.void(g, types.uint64, types.float32), emit

        return distance, load, store
