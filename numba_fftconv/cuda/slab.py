"""Register tiles of a matrix product: what one thread loads, multiplies and stores, each operation one intrinsic.

A thread owns TM x TN complex accumulators, a tuple of 2*TM*TN float32: element (i, j) is at 2*(i*TN + j), its imaginary
part one further. Each intrinsic takes and gives the whole tuple, so accumulators are values, never memory: they are
certain to lie in registers. Code for a tile is written out by loops of Python while Numba lowers it; to Numba it is one
statement, and the compiler gets straight code in which loads and arithmetic can be interleaved as far as it likes.

Shared memory holds a slab of BK steps of each operand, in one of two forms, as the operand lies in global memory:

    k-major   element (i, k) at i*pitch + k   pitch = BK + 2   16 bytes are two steps of one row
    i-major   element (i, k) at k*pitch + i   pitch = rows     16 bytes are two neighbours at one step

so a load of 128 bits is right for both and nothing is ever transposed: for two steps a thread makes TM loads of A and
TN of B, whichever the form, for 8*TM*TN FFMA. A thread's elements lie apart by the number of threads: element i of
thread t is row t + i*threads in the first form; in the second rows come in pairs, 2*t + i//2*2*threads + i%2.

A quarter of a warp reads 16 bytes a lane in one turn, and eight lanes must touch eight different groups of four banks
or the same address. The lanes of a warp are laid on a rectangle of 8 x 4 threads along a Z-curve: lane bits 0, 2, 3
count columns and bits 1, 4 rows (on 4 x 8, bits 0, 2 and bits 1, 3, 4). A quarter then reads 2 addresses of one operand
and 4 of the other, and lanes l and l^1, or l and l^2, agree, by which the hardware can serve two quarters in one turn.
Rows of the first form are BK + 2 values, an odd number of 16 bytes, so that any eight of them in a row start in eight
different groups of banks.

A complex product is four FFMA, (a + bi)(c + di): re += a*c, re -= b*d, im += a*d, im += b*c. An FFMA negates any of its
operands for nothing, so conjugation is the choice of two signs while the code is written. Each accumulator is summed
step by step in this order; zeros beyond the depth change nothing, so a depth cut in two, the second part starting from
the sums of the first, gives the same bits.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .tiles import COMPLEX_BYTES
from .toolchain import SIMULATED


def element(i: int, threads: int, pairs: bool) -> int:
    """Where a thread's element i lies, counted from its element 0: threads apart, or neighbours in pairs."""
    return i // 2 * 2 * threads + i % 2 if pairs else i * threads


if SIMULATED:

    @cache
    def zeros(TM: int, TN: int) -> Callable[..., Any]:
        """zeros(): accumulators of nothing."""
        return lambda: (np.float32(0),) * (2 * TM * TN)

    @cache
    def copy_rounds(values: int, rounds: int, rows: int, pitch: int) -> Callable[..., Any]:
        """copy(s, i, g, base, j, ld, left): each round r copies to s[i + r*rows*pitch] from g[base + j + r*rows*ld]."""

        def copy(s: Any, i: Any, g: Any, base: Any, j: Any, ld: Any, left: Any) -> None:
            for row in range(0, rounds * rows, rows):
                for v in range(values):
                    wanted = row < left
                    s[int(i) + row * pitch + v] = g[int(base) + int(j) + row * int(ld) + v] if wanted else 0

        return copy

    def commit() -> None:
        """Close the group of copies issued since the last call."""

    @cache
    def wait(pending: int) -> Callable[..., Any]:
        """wait(): until at most `pending` of this thread's groups of copies are under way."""
        return lambda: None

    @cache
    def slab(
        TM: int, TN: int, BK: int, a: tuple[int, bool, int], b: tuple[int, bool, int], conj_a: bool, conj_b: bool
    ) -> Callable[..., Any]:
        """slab(acc, s, ia, ib): acc + op(A) op(B) over BK steps, for operands (pitch, k-major, threads)."""

        def places(count: int, pitch: int, kmajor: bool, threads: int) -> Any:
            own = [element(i, threads, not kmajor) for i in range(count)]
            return np.array([[i * pitch + k if kmajor else k * pitch + i for i in own] for k in range(BK)])

        a_places, b_places = places(TM, *a), places(TN, *b)
        re_sign, im_sign_ad, im_sign_bc = 1 if conj_a != conj_b else -1, -1 if conj_b else 1, -1 if conj_a else 1

        def multiply(acc: Any, s: Any, ia: Any, ib: Any) -> Any:
            A = s[a_places + int(ia)].astype(np.complex128)
            B = s[b_places + int(ib)].astype(np.complex128)
            sums = np.array(acc, np.float32).reshape(TM, TN, 2)
            re, im = sums[..., 0], sums[..., 1]
            for x, y in zip(A[:, :, None], B[:, None, :], strict=True):  # the product of float32 is exact in float64
                re[...] = x.real * y.real + re
                re[...] = re_sign * x.imag * y.imag + re
                im[...] = im_sign_ad * x.real * y.imag + im
                im[...] = im_sign_bc * x.imag * y.real + im
            return tuple(sums.reshape(-1))

        return multiply

    @cache
    def load_tile(TM: int, TN: int, rows: tuple[int, bool], columns: tuple[int, bool]) -> Callable[..., Any]:
        """load(g, base, ld, m, n, M, N): accumulators that hold twice what Y holds, zero outside M x N."""

        def load(g: Any, base: Any, ld: Any, m: Any, n: Any, M: Any, N: Any) -> Any:
            sums = []
            for i in range(TM):
                for j in range(TN):
                    row, column = int(m) + element(i, *rows), int(n) + element(j, *columns)
                    inside = row < M and column < N
                    z = g[int(base) + row * int(ld) + column] if inside else np.complex64(0)
                    sums += [np.float32(2) * np.float32(z.real), np.float32(2) * np.float32(z.imag)]
            return tuple(sums)

        return load

    @cache
    def store_tile(
        TM: int, TN: int, rows: tuple[int, bool], columns: tuple[int, bool], wide: bool
    ) -> Callable[..., Any]:
        """store(acc, g, base, ld, m, n, M, N): half the accumulators to Y, where inside M x N."""

        def store(acc: Any, g: Any, base: Any, ld: Any, m: Any, n: Any, M: Any, N: Any) -> None:
            for i in range(TM):
                for j in range(TN):
                    row, column = int(m) + element(i, *rows), int(n) + element(j, *columns)
                    if row < M and column < N:
                        at = 2 * (i * TN + j)
                        half = np.float32(0.5)
                        g[int(base) + row * int(ld) + column] = complex(half * acc[at], half * acc[at + 1])

        return store

else:
    from llvmlite import ir
    from numba.cuda import cgutils, types
    from numba.cuda.extending import intrinsic

    _FLOAT, _BYTE, _I32, _I64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
    _GENERIC, _GLOBAL, _SHARED = 0, 1, 3  # address spaces

    def _at(builder: Any, pointer: Any, index: Any) -> Any:
        """A byte pointer moved on by a number of complex values."""
        index = builder.sext(index, _I64) if index.type.width < 64 else index
        return builder.gep(pointer, [builder.mul(index, _I64(COMPLEX_BYTES), flags=("nsw",))], inbounds=True)

    def _shared(context: Any, builder: Any, kind: Any, array: Any) -> Any:
        """Byte pointer into shared memory, known as such, to the start of an array there."""
        pointer = context.make_array(kind)(context, builder, value=array).data
        return builder.addrspacecast(builder.bitcast(pointer, _BYTE.as_pointer(_GENERIC)), _BYTE.as_pointer(_SHARED))

    def _global(builder: Any, pointer: Any, base: Any) -> Any:
        """Byte pointer into global memory: a CPointer(complex64) moved on by a 64-bit index."""
        pointer = builder.bitcast(pointer, _BYTE.as_pointer(_GENERIC))
        return _at(builder, builder.addrspacecast(pointer, _BYTE.as_pointer(_GLOBAL)), base)

    def _load(builder: Any, pointer: Any, floats: int) -> list[Any]:
        """Floats from a pointer that their number of bytes divides, in one access."""
        vector = builder.bitcast(pointer, ir.VectorType(_FLOAT, floats).as_pointer(pointer.type.addrspace))
        loaded = builder.load(vector, align=4 * floats)
        return [builder.extract_element(loaded, _I32(i)) for i in range(floats)]

    def _store(builder: Any, pointer: Any, values: list[Any]) -> None:
        """Floats to a pointer that their number of bytes divides, in one access."""
        kind = ir.VectorType(_FLOAT, len(values))
        vector = ir.Constant(kind, ir.Undefined)
        for i, value in enumerate(values):
            vector = builder.insert_element(vector, value, _I32(i))
        builder.store(vector, builder.bitcast(pointer, kind.as_pointer(pointer.type.addrspace)), align=4 * len(values))

    def _fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
        fma = builder.module.globals.get("llvm.fma.f32")
        if fma is None:
            fma = ir.Function(builder.module, ir.FunctionType(_FLOAT, [_FLOAT] * 3), "llvm.fma.f32")
        return builder.call(fma, [x, y, z])

    def _negated(builder: Any, x: Any, negate: bool) -> Any:
        """The negative, which becomes a sign of an FFMA's operand; NVVM's LLVM has no fneg."""
        return builder.fsub(_FLOAT(-0.0), x) if negate else x

    def _statement(text: str) -> Any:
        """An intrinsic of no arguments that is one line of PTX, over which no access to memory may move."""

        @intrinsic
        def statement(typingctx: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                code = ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), text, "~{memory}", side_effect=True)
                builder.call(code, [])
                return context.get_dummy_value()

            return types.void(), emit

        return statement

    commit = _statement("cp.async.commit_group;")

    @cache
    def wait(pending: int) -> Any:
        """wait(): until at most `pending` of this thread's groups of copies are under way."""
        return _statement(f"cp.async.wait_group {pending};")

    @cache
    def zeros(TM: int, TN: int) -> Any:
        """zeros(): accumulators of nothing."""
        count = 2 * TM * TN

        @intrinsic
        def clear(typingctx: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                return cgutils.pack_array(builder, [_FLOAT(0.0)] * count)

            return types.UniTuple(types.float32, count)(), emit

        return clear

    @cache
    def copy_rounds(values: int, rounds: int, rows: int, pitch: int) -> Any:
        """copy(s, i, g, base, j, ld, left): each round r copies to s[i + r*rows*pitch] from g[base + j + r*rows*ld].

        A copy of `values` complex values is one instruction that does not wait: data goes past the registers, and past
        L1 where it is 16 bytes. Rounds of which the row r*rows is not among the `left` ones read nothing, whatever
        their address, and write zeros: ragged edges cost no branch. A round costs four instructions, two of them to
        move a 64-bit address on by one stride; an address made anew of an index would cost three more.
        """
        size, kept = COMPLEX_BYTES * values, "cg" if values == 2 else "ca"
        text = f"cp.async.{kept}.shared.global [$0], [$1], {size}, $2;"

        @intrinsic
        def copy(typingctx: Any, s: Any, i: Any, g: Any, base: Any, j: Any, ld: Any, left: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                s, i, g, base, j, ld, left = arguments
                start = _at(builder, _shared(context, builder, signature.args[0], s), i)
                source = builder.ptrtoint(_at(builder, _global(builder, g, base), j), _I64)
                stride = builder.mul(builder.sext(ld, _I64), _I64(rows * COMPLEX_BYTES))
                kind = ir.FunctionType(ir.VoidType(), [_I32, _I64, _I32])
                code = ir.InlineAsm(kind, text, "r,l,r,~{memory}", side_effect=True)
                for r in range(rounds):
                    to = builder.ptrtoint(_at(builder, start, _I64(r * rows * pitch)), _I32)
                    wanted = builder.icmp_signed(">", left, _I32(r * rows))
                    builder.call(code, [to, source, builder.select(wanted, _I32(size), _I32(0))])
                    source = builder.add(source, stride)
                return context.get_dummy_value()

            return types.void(s, types.int32, g, types.int64, types.int32, types.int32, types.int32), emit

        return copy

    @cache
    def slab(
        TM: int, TN: int, BK: int, a: tuple[int, bool, int], b: tuple[int, bool, int], conj_a: bool, conj_b: bool
    ) -> Any:
        """slab(acc, s, ia, ib): acc + op(A) op(B) over BK steps, for operands (pitch, k-major, threads)."""

        def fragment(builder: Any, pointer: Any, count: int, k: int, pitch: int, kmajor: bool, threads: int) -> Any:
            """A thread's elements at steps k and k + 1, as [step][element] of (re, im), by 128-bit loads."""
            steps: list[list[Any]] = [[None] * count, [None] * count]
            if kmajor:
                for i in range(count):
                    v = _load(builder, _at(builder, pointer, _I64(element(i, threads, False) * pitch + k)), 4)
                    steps[0][i], steps[1][i] = v[:2], v[2:]
            else:
                for step in range(2):
                    for i in range(0, count, 2):
                        here = (k + step) * pitch + element(i, threads, True)
                        v = _load(builder, _at(builder, pointer, _I64(here)), 4)
                        steps[step][i], steps[step][i + 1] = v[:2], v[2:]
            return steps

        @intrinsic
        def multiply(typingctx: Any, acc: Any, s: Any, ia: Any, ib: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                sums = cgutils.unpack_tuple(builder, arguments[0])
                start = _shared(context, builder, signature.args[1], arguments[1])
                at_a, at_b = _at(builder, start, arguments[2]), _at(builder, start, arguments[3])
                for k in range(0, BK, 2):
                    steps_a, steps_b = fragment(builder, at_a, TM, k, *a), fragment(builder, at_b, TN, k, *b)
                    for of_a, of_b in zip(steps_a, steps_b, strict=True):
                        for i, (ar, ai) in enumerate(of_a):
                            for j, (br, bi) in enumerate(of_b):
                                re = 2 * (i * TN + j)
                                im = re + 1
                                sums[re] = _fma(builder, ar, br, sums[re])
                                sums[re] = _fma(builder, _negated(builder, ai, conj_a == conj_b), bi, sums[re])
                                sums[im] = _fma(builder, _negated(builder, ar, conj_b), bi, sums[im])
                                sums[im] = _fma(builder, _negated(builder, ai, conj_a), br, sums[im])
                return cgutils.pack_array(builder, sums)

            return acc(acc, s, types.int32, types.int32), emit

        return multiply

    @cache
    def load_tile(TM: int, TN: int, rows: tuple[int, bool], columns: tuple[int, bool]) -> Any:
        """load(g, base, ld, m, n, M, N): accumulators that hold twice what Y holds, zero outside M x N."""
        count = 2 * TM * TN

        @intrinsic
        def load(typingctx: Any, g: Any, base: Any, ld: Any, m: Any, n: Any, M: Any, N: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                g, base, ld, m, n, M, N = arguments
                start, sums = _global(builder, g, base), []
                for i in range(TM):
                    row = builder.add(m, _I32(element(i, *rows)))
                    row_start = _at(builder, start, builder.mul(row, ld))
                    for j in range(TN):
                        column = builder.add(n, _I32(element(j, *columns)))
                        inside = builder.and_(builder.icmp_signed("<", row, M), builder.icmp_signed("<", column, N))
                        outside_block = builder.block
                        with builder.if_then(inside):
                            old = _load(builder, _at(builder, row_start, column), 2)
                            twice = [builder.fmul(part, _FLOAT(2.0)) for part in old]
                            inside_block = builder.block
                        for part in twice:
                            both = builder.phi(_FLOAT)
                            both.add_incoming(_FLOAT(0.0), outside_block)
                            both.add_incoming(part, inside_block)
                            sums.append(both)
                return cgutils.pack_array(builder, sums)

            sums = types.UniTuple(types.float32, count)
            return sums(g, types.int64, types.int32, types.int32, types.int32, types.int32, types.int32), emit

        return load

    @cache
    def store_tile(TM: int, TN: int, rows: tuple[int, bool], columns: tuple[int, bool], wide: bool) -> Any:
        """store(acc, g, base, ld, m, n, M, N): half the accumulators to Y, where inside M x N.

        Where N, ld and base are even and columns come in pairs, a pair is inside or outside as a whole: 128 bits.
        """
        together = 2 if wide and columns[1] else 1

        @intrinsic
        def store(typingctx: Any, acc: Any, g: Any, base: Any, ld: Any, m: Any, n: Any, M: Any, N: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                sums = cgutils.unpack_tuple(builder, arguments[0])
                g, base, ld, m, n, M, N = arguments[1:]
                start = _global(builder, g, base)
                for i in range(TM):
                    row = builder.add(m, _I32(element(i, *rows)))
                    with builder.if_then(builder.icmp_signed("<", row, M)):
                        row_start = _at(builder, start, builder.mul(row, ld))
                        for j in range(0, TN, together):
                            column = builder.add(n, _I32(element(j, *columns)))
                            here = 2 * (i * TN + j)
                            halves = [builder.fmul(x, _FLOAT(0.5)) for x in sums[here : here + 2 * together]]
                            with builder.if_then(builder.icmp_signed("<", column, N)):
                                _store(builder, _at(builder, row_start, column), halves)
                return context.get_dummy_value()

            i32 = types.int32
            return types.void(acc, g, types.int64, i32, i32, i32, i32, i32), emit

        return store
