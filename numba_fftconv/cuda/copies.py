"""Slabs on their way from global to shared memory: asynchronous copies, which need no registers and do not wait.

A block copies a tile of `rows` runs, each `run` complex values long: `across` threads side by side along a run, `down`
runs in a round, as many rounds as there are. Each copy is 16 bytes, two complex values, or 8 where rows are odd. Copies
form groups; `wait` says how many of the last groups may still be under way.

    tile 64 x 8, 128 threads, pairs:  across = 4, down = 32, rounds = 2: thread t copies values 2*(t%4) and the next of
                                      rows t//4 and t//4 + 32

Source: NVIDIA, Parallel Thread Execution ISA, section "cp.async".
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .block_tile import COMPLEX_BYTES
from .toolchain import SIMULATED, device_function

i32 = np.int32


class Copies(NamedTuple):
    """How a block copies a tile: `across` threads along a row, `down` rows in each of so many rounds."""

    across: int
    down: int
    rounds: int


def copies(rows: int, run: int, threads: int, vec: int) -> Copies:
    """Of a tile of rows x run, `vec` values a copy."""
    across = run // vec
    down = threads // across
    return Copies(across, down, rows // down)


@cache
def row_of_turn(pitch: int, run: int, down: int) -> Any:
    """Which row a thread copies, as the device function of how many of a round's rows other threads copy before it.

    Eight lanes that store 16 bytes each are served at once, if they meet all groups of four banks. Where nothing lies
    between rows, any order does. Padded rows they fill, or two half as long: then rows 4 apart, since row r begins in
    group 5*r mod 8 (10 values), and rows 0 and 4 in groups 0 and 4. So bits 0 and 2 of the row change places. Or they
    fill four rows of 4 values: then rows 2 apart, which begin in groups 0, 6, 4 and 2; the bits turn round by one.
    """
    if pitch == run or run * COMPLEX_BYTES >= 128 or down % 8:
        return device_function(lambda turn: turn)
    if run * COMPLEX_BYTES == 32:
        return device_function(
            lambda turn: (turn & i32(~7)) | ((turn & i32(3)) << i32(1)) | ((turn >> i32(2)) & i32(1))
        )
    return device_function(lambda turn: (turn & i32(~5)) | ((turn & i32(1)) << i32(2)) | ((turn >> i32(2)) & i32(1)))


if SIMULATED:

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

else:
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    from .emit import I32, I64, asm, at, in_global, shared

    _VOID = ir.VoidType()

    def _statement(text: str) -> Any:
        """An intrinsic of no arguments that is one line of PTX, over which no access to memory may move."""

        @intrinsic
        def statement(typingctx: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                asm(builder, text, _VOID, [], "~{memory}", acts=True)
                return context.get_dummy_value()

            return types.void(), emit

        return statement

    commit = _statement("cp.async.commit_group;")

    @cache
    def wait(pending: int) -> Any:
        """wait(): until at most `pending` of this thread's groups of copies are under way."""
        return _statement(f"cp.async.wait_group {pending};")

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
                start = at(builder, shared(context, builder, signature.args[0], s), i)
                source = builder.ptrtoint(at(builder, in_global(builder, g, base), j), I64)
                stride = builder.mul(builder.sext(ld, I64), I64(rows * COMPLEX_BYTES))
                for r in range(rounds):
                    to = builder.ptrtoint(at(builder, start, r * rows * pitch), I32)
                    wanted = builder.icmp_signed(">", left, I32(r * rows))
                    nbytes = builder.select(wanted, I32(size), I32(0))
                    asm(builder, text, _VOID, [to, source, nbytes], "r,l,r,~{memory}", acts=True)
                    source = builder.add(source, stride)
                return context.get_dummy_value()

            return types.void(s, types.int32, g, types.int64, types.int32, types.int32, types.int32), emit

        return copy
