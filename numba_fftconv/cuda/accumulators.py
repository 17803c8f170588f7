"""Sums that a thread of the product keeps in registers: how they begin, and how they come from Y and go to it.

A thread owns some rows and some columns of its block and the complex sums where they cross, a tuple of float32: of row
i and column j at 2*(i*columns + j), the imaginary part one further. Each intrinsic takes or gives the whole tuple, so
sums are values, never memory: they are certain to lie in registers. Code is written out by loops of Python while Numba
lowers it; to Numba it is one statement.

Which rows and columns is said by their offsets from the thread's first, constants of the kernel:

    rows (0, 16, 32, 48), columns (0, 1, 32, 33)     16 sums; columns lie in pairs, each stored in 128 bits

Spectra are stored doubled, so sums are halved when they are stored, and doubled when they are taken up again.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .toolchain import SIMULATED

Offsets = tuple[int, ...]


class Inner(NamedTuple):
    """The inner product of a block: where its threads stand, and what each does with a slab.

    place(thread) gives (row of A, row of B, step, m, n): where a thread begins to read in the slabs, both at the same
    step, and the row and column of its first sum. multiply(acc, s, ia, ib) gives the sums with a slab added, A and B
    read from those places of s on.
    """

    place: Any
    rows: Offsets
    columns: Offsets
    multiply: Any


def in_pairs(columns: Offsets) -> bool:
    """Whether every second column is the neighbour of the one before."""
    return all(b == a + 1 and a % 2 == 0 for a, b in zip(columns[::2], columns[1::2], strict=True))


if SIMULATED:

    @cache
    def zeros(count: int) -> Callable[..., Any]:
        """zeros(): so many complex sums of nothing."""
        return lambda: (np.float32(0),) * (2 * count)

    @cache
    def load_tile(rows: Offsets, columns: Offsets) -> Callable[..., Any]:
        """load(g, base, ld, m, n, M, N): sums that hold twice what Y holds, zero outside M x N."""

        def load(g: Any, base: Any, ld: Any, m: Any, n: Any, M: Any, N: Any) -> Any:
            sums = []
            for row in (int(m) + i for i in rows):
                for column in (int(n) + j for j in columns):
                    inside = row < M and column < N
                    z = g[int(base) + row * int(ld) + column] if inside else np.complex64(0)
                    sums += [np.float32(2) * np.float32(z.real), np.float32(2) * np.float32(z.imag)]
            return tuple(sums)

        return load

    @cache
    def store_tile(rows: Offsets, columns: Offsets, wide: bool) -> Callable[..., Any]:
        """store(acc, g, base, ld, m, n, M, N): half the sums to Y, where inside M x N."""

        def store(acc: Any, g: Any, base: Any, ld: Any, m: Any, n: Any, M: Any, N: Any) -> None:
            sums = iter(acc)
            for row in (int(m) + i for i in rows):
                for column in (int(n) + j for j in columns):
                    re, im = next(sums), next(sums)
                    if row < M and column < N:
                        half = np.float32(0.5)
                        g[int(base) + row * int(ld) + column] = complex(half * re, half * im)

        return store

else:
    from numba.cuda import cgutils, types
    from numba.cuda.extending import intrinsic

    from . import emit as to
    from .emit import FLOAT, I32

    @cache
    def zeros(count: int) -> Any:
        """zeros(): so many complex sums of nothing."""

        @intrinsic
        def clear(typingctx: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                return cgutils.pack_array(builder, [FLOAT(0.0)] * (2 * count))

            return types.UniTuple(types.float32, 2 * count)(), emit

        return clear

    @cache
    def load_tile(rows: Offsets, columns: Offsets) -> Any:
        """load(g, base, ld, m, n, M, N): sums that hold twice what Y holds, zero outside M x N."""

        @intrinsic
        def load(typingctx: Any, g: Any, base: Any, ld: Any, m: Any, n: Any, M: Any, N: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                g, base, ld, m, n, M, N = arguments
                start, sums = to.in_global(builder, g, base), []
                for i in rows:
                    row = builder.add(m, I32(i))
                    row_start = to.at(builder, start, builder.mul(row, ld))
                    for j in columns:
                        column = builder.add(n, I32(j))
                        inside = builder.and_(builder.icmp_signed("<", row, M), builder.icmp_signed("<", column, N))
                        outside_block = builder.block
                        with builder.if_then(inside):
                            old = to.load(builder, to.at(builder, row_start, column), 2)
                            twice = [builder.fmul(part, FLOAT(2.0)) for part in old]
                            inside_block = builder.block
                        for part in twice:
                            both = builder.phi(FLOAT)
                            both.add_incoming(FLOAT(0.0), outside_block)
                            both.add_incoming(part, inside_block)
                            sums.append(both)
                return cgutils.pack_array(builder, sums)

            sums, i32 = types.UniTuple(types.float32, 2 * len(rows) * len(columns)), types.int32
            return sums(g, types.int64, i32, i32, i32, i32, i32), emit

        return load

    @cache
    def store_tile(rows: Offsets, columns: Offsets, wide: bool) -> Any:
        """store(acc, g, base, ld, m, n, M, N): half the sums to Y, where inside M x N.

        Where N, ld and base are even and columns come in pairs, a pair is inside or outside as a whole: 128 bits.
        """
        together = 2 if wide and in_pairs(columns) else 1

        @intrinsic
        def store(typingctx: Any, acc: Any, g: Any, base: Any, ld: Any, m: Any, n: Any, M: Any, N: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                sums = iter(cgutils.unpack_tuple(builder, arguments[0]))
                g, base, ld, m, n, M, N = arguments[1:]
                start = to.in_global(builder, g, base)
                for i in rows:
                    row = builder.add(m, I32(i))
                    with builder.if_then(builder.icmp_signed("<", row, M)):
                        row_start = to.at(builder, start, builder.mul(row, ld))
                        for j in columns[::together]:
                            column = builder.add(n, I32(j))
                            halves = [builder.fmul(next(sums), FLOAT(0.5)) for _ in range(2 * together)]
                            with builder.if_then(builder.icmp_signed("<", column, N)):
                                to.store(builder, to.at(builder, row_start, column), halves)
                return context.get_dummy_value()

            i32 = types.int32
            return types.void(acc, g, types.int64, i32, i32, i32, i32, i32), emit

        return store
