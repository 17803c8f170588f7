"""Samples of two bytes: loaded as float32, and rounded once, to nearest with ties to even, when they are stored.

    float16    1 sign, 5 exponent, 10 mantissa bits; 65520 and more become infinite
    bfloat16   the upper half of a float32: 1 sign, 8 exponent, 7 mantissa bits

What a sample is, a kernel reads from its vector of planes at run time: REAL, of the spectrum's own dtype, or one of the
others. So one compiled kernel serves all, and a half array has the bits that a float32 array of its values would have,
rounded. A NaN stays one, and keeps the upper bits of what it carries.

A row of neighbours moves L samples at a time, the last L of it perhaps twice; fewer than that one by one.
Example: 21 samples in vectors of 8: samples 0 to 7, 8 to 15, and 13 to 20.

Processors with F16C, and all of Arm's, convert float16 by an instruction. For others LLVM would call a function that
Numba's code has not; integer arithmetic takes its place, with the same values.
Source of that: Fabian Giesen, "Half to float done quic", and float_to_half_fast3_rtne.
"""

from typing import Any

import numba
from llvmlite import binding, ir
from numba import njit, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from .vector import lanes

REAL, FLOAT16, BFLOAT16 = range(3)
SAMPLES = {"float16": FLOAT16, "bfloat16": BFLOAT16}
MANY = lanes(4)  # samples in a vector

SIGN, INFINITE, IS_NAN = 0x8000, 0x7F800000, 0x00400000  # of a float16, a float32, and what makes a NaN quiet
REBIAS = 127 - 15 << 23  # what the exponent of a float32 has more than that of a float16, in place
LEAST_NORMAL = 127 - 14 << 23  # as a float32 the least float16 with all its bits, 2**-14
BEYOND = 127 + 16 << 23  # 2**16, which no float16 holds
LAST_BIT = 127 - 1 << 23  # 0.5: added to it, a float32 is rounded to multiples of 2**-24, the least float16


def has_conversions() -> bool:
    """Whether the processor that Numba compiles for converts float16."""
    if not binding.get_process_triple().startswith(("x86_64", "i686", "amd64")):
        return binding.get_process_triple().startswith(("aarch64", "arm64"))
    named = numba.config.CPU_FEATURES
    return "+f16c" in (binding.get_host_cpu_features().flatten() if named is None else named)


class _Converter:
    """Conversions of an LLVM vector of `count` samples, or of one."""

    def __init__(self, builder: Any, count: int) -> None:
        self.builder, self.count = builder, count
        self.f32, self.f16, self.i32, self.i16 = map(
            self._of, (ir.FloatType(), ir.HalfType(), ir.IntType(32), ir.IntType(16))
        )

    def _of(self, scalar: Any) -> Any:
        return scalar if self.count == 1 else ir.VectorType(scalar, self.count)

    def _all(self, value: int) -> ir.Constant:
        """An int32 in every lane."""
        return ir.Constant(self.i32, value if self.count == 1 else [value] * self.count)

    def widened(self, kind: int, bits: Any) -> Any:
        """float32 of samples as int16."""
        b = self.builder
        if kind == FLOAT16 and has_conversions():
            return b.fpext(b.bitcast(bits, self.f16), self.f32)
        whole = b.zext(bits, self.i32)
        if kind == BFLOAT16:
            return b.bitcast(b.shl(whole, self._all(16)), self.f32)
        sign = b.shl(b.and_(whole, self._all(SIGN)), self._all(16))
        shifted = b.shl(b.and_(whole, self._all(SIGN - 1)), self._all(13))
        normal = b.add(shifted, self._all(REBIAS))
        endless = b.or_(normal, self._all(INFINITE))  # infinite or NaN
        # Below 2**-14 the bits count steps of 2**-24: 2**-14 with these bits, less 2**-14, is that many.
        with_bits = b.bitcast(b.add(shifted, self._all(LEAST_NORMAL)), self.f32)
        small = b.bitcast(b.fsub(with_bits, b.bitcast(self._all(LEAST_NORMAL), self.f32)), self.i32)
        found = b.select(b.icmp_unsigned("<", shifted, self._all(1 << 23)), small, normal)
        found = b.select(b.icmp_unsigned(">=", shifted, self._all(31 << 23)), endless, found)
        return b.bitcast(b.or_(found, sign), self.f32)

    def rounded(self, kind: int, reals: Any) -> Any:
        """Samples as int16 of float32."""
        b = self.builder
        if kind == FLOAT16 and has_conversions():
            return b.bitcast(b.fptrunc(reals, self.f16), self.i16)
        bits = b.bitcast(reals, self.i32)
        size = b.and_(bits, self._all(2**31 - 1))
        is_nan = b.icmp_unsigned(">", size, self._all(INFINITE))
        if kind == BFLOAT16:
            nan = b.lshr(b.or_(bits, self._all(IS_NAN)), self._all(16))
            return b.trunc(b.select(is_nan, nan, self._without(bits, 16)), self.i16)
        normal = self._without(b.sub(size, self._all(REBIAS)), 13)
        near = b.fadd(b.bitcast(size, self.f32), b.bitcast(self._all(LAST_BIT), self.f32))
        small = b.sub(b.bitcast(near, self.i32), self._all(LAST_BIT))
        found = b.select(b.icmp_unsigned("<", size, self._all(LEAST_NORMAL)), small, normal)
        found = b.select(b.icmp_unsigned(">=", size, self._all(BEYOND)), self._all(31 << 10), found)
        carried = b.and_(b.lshr(size, self._all(13)), self._all(1023))
        found = b.select(is_nan, b.or_(carried, self._all(31 << 10 | 1 << 9)), found)
        sign = b.and_(b.lshr(bits, self._all(16)), self._all(SIGN))
        return b.trunc(b.or_(found, sign), self.i16)

    def _without(self, bits: Any, last: int) -> Any:
        """Bits without their last ones, to nearest, ties to even."""
        b = self.builder
        odd = b.and_(b.lshr(bits, self._all(last)), self._all(1))
        return b.lshr(b.add(b.add(bits, self._all(2 ** (last - 1) - 1)), odd), self._all(last))


def _place(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


@intrinsic(prefer_literal=True)
def widen(typing_context, kind, source, target):  # type: ignore[no-untyped-def]
    """At the byte address `target` the float32 of L samples of a kind at `source`; all of them are read first."""

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        convert = _Converter(builder, MANY)
        bits = builder.load(_place(builder, args[1], convert.i16), align=2)
        builder.store(convert.widened(kind.literal_value, bits), _place(builder, args[2], convert.f32), align=4)
        return context.get_dummy_value()

    return types.void(kind, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def narrow(typing_context, kind, source, target):  # type: ignore[no-untyped-def]
    """At the byte address `target` the samples of a kind that L float32 at `source` are rounded to."""

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        convert = _Converter(builder, MANY)
        reals = builder.load(_place(builder, args[1], convert.f32), align=4)
        builder.store(convert.rounded(kind.literal_value, reals), _place(builder, args[2], convert.i16), align=2)
        return context.get_dummy_value()

    return types.void(kind, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def load_half(typing_context, kind, address):  # type: ignore[no-untyped-def]
    """The float32 of the sample of a kind at a byte address."""

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        convert = _Converter(builder, 1)
        return convert.widened(kind.literal_value, builder.load(_place(builder, args[1], convert.i16)))

    return types.float32(kind, types.intp), codegen


@intrinsic(prefer_literal=True)
def store_half(typing_context, kind, address, value):  # type: ignore[no-untyped-def]
    """Writes the sample of a kind that a float32 is rounded to."""

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        convert = _Converter(builder, 1)
        builder.store(convert.rounded(kind.literal_value, args[2]), _place(builder, args[1], convert.i16))
        return context.get_dummy_value()

    return types.void(kind, types.intp, types.float32), codegen


@intrinsic
def load_real(typing_context, address, like):  # type: ignore[no-untyped-def]
    """The real at a byte address, of the dtype of the array `like`."""

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        return builder.load(_place(builder, args[0], context.get_value_type(like.dtype)))

    return like.dtype(types.intp, like), codegen


@intrinsic
def store_real(typing_context, address, value):  # type: ignore[no-untyped-def]
    """Writes a real to a byte address."""

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        builder.store(args[1], _place(builder, args[0], args[1].type))
        return context.get_dummy_value()

    return types.void(types.intp, value), codegen


# ---- one sample, and rows of neighbours ------------------------------------------------------------------------------


@njit
def sample(kind, address, like):  # type: ignore[no-untyped-def]
    """The sample of a kind at a byte address, as a real of the dtype of the array `like`."""
    if kind == FLOAT16:
        return load_half(FLOAT16, address)
    if kind == BFLOAT16:
        return load_half(BFLOAT16, address)
    return load_real(address, like)


@njit
def put_sample(kind, address, value):  # type: ignore[no-untyped-def]
    """Writes a real to a byte address as a sample of a kind."""
    if kind == FLOAT16:
        store_half(FLOAT16, address, value)
    elif kind == BFLOAT16:
        store_half(BFLOAT16, address, value)
    else:
        store_real(address, value)


@njit
def to_scratch(kind, source, space, at, count):  # type: ignore[no-untyped-def]
    """space[at + i] = float32 of sample i of `count` neighbours of two bytes at the byte address `source`."""
    if count < MANY:
        for i in range(count):
            space[at + i] = sample(kind, source + 2 * i, space)
        return
    target = space.ctypes.data + 4 * at
    for i in range(0, count, MANY):
        first = min(i, count - MANY)
        if kind == FLOAT16:
            widen(FLOAT16, source + 2 * first, target + 4 * first)
        else:
            widen(BFLOAT16, source + 2 * first, target + 4 * first)


@njit
def to_plane(kind, space, at, target, count):  # type: ignore[no-untyped-def]
    """Writes to the byte address `target` the samples of two bytes that float32 space[at + i], i < count, become."""
    if count < MANY:
        for i in range(count):
            put_sample(kind, target + 2 * i, space[at + i])
        return
    source = space.ctypes.data + 4 * at
    for i in range(0, count, MANY):
        first = min(i, count - MANY)
        if kind == FLOAT16:
            narrow(FLOAT16, source + 4 * first, target + 2 * first)
        else:
            narrow(BFLOAT16, source + 4 * first, target + 2 * first)
