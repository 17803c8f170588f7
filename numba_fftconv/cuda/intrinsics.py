"""Single instructions that Numba has no word for, each with a Python twin for the simulator.

A complex64 in global memory is 8 bytes at an address that 8 divides, which Numba cannot know: it moves the two halves
one by one. `load_c64` and `store_c64` move it in one access of 64 bits.

A float32 that is accessed under a condition has its address computed under it, from the index on. `place_f32` computes
the address before, `load_f32` and `store_f32` take it, and a step to the next costs one addition of 64 bits. A place is
an address in compiled code and an index in the simulator, `distance_f32` what to add to one.
"""

from typing import Any

from .toolchain import SIMULATED, require_numba_cuda

if SIMULATED:

    def load_c64(g: Any, i: Any) -> Any:
        """The complex64 at index i of a pointer or array."""
        return g[i]

    def store_c64(g: Any, i: Any, z: Any) -> None:
        """Store a complex64 at index i of a pointer or array."""
        g[i] = z

    def place_f32(g: Any, i: Any) -> Any:
        """The place of the float32 at index i of a pointer."""
        return i

    def distance_f32(i: Any) -> Any:
        """How far apart, uint64, the places of two float32 are whose indices differ by i."""
        return i

    def load_f32(g: Any, place: Any) -> Any:
        """The float32 at a place of a pointer."""
        return g[place]

    def store_f32(g: Any, place: Any, x: Any) -> None:
        """Store a float32 at a place of a pointer."""
        g[place] = x

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

    _GLOBAL_F32 = ir.FloatType().as_pointer(1)

    @intrinsic
    def place_f32(typingctx: Any, g: Any, i: Any) -> Any:
        """The place of the float32 at index i of a pointer."""

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.ptrtoint(builder.gep(arguments[0], [arguments[1]]), ir.IntType(64))

        return types.uint64(g, types.uint64), emit

    @intrinsic
    def distance_f32(typingctx: Any, i: Any) -> Any:
        """How far apart, uint64, the places of two float32 are whose indices differ by i."""

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.shl(arguments[0], ir.IntType(64)(2))

        return types.uint64(types.uint64), emit

    @intrinsic
    def load_f32(typingctx: Any, g: Any, place: Any) -> Any:
        """The float32 at a place of a pointer."""

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.load(builder.inttoptr(arguments[1], _GLOBAL_F32), align=4)

        return types.float32(g, types.uint64), emit

    @intrinsic
    def store_f32(typingctx: Any, g: Any, place: Any, x: Any) -> Any:
        """Store a float32 at a place of a pointer."""

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.store(arguments[2], builder.inttoptr(arguments[1], _GLOBAL_F32), align=4)
            return context.get_dummy_value()

        return types.void(g, types.uint64, types.float32), emit
