"""What the transform kernels do to one row or column of a tile, as LLVM instructions for 2 L planes at once.

    fft_packed_row    row h of 2 L planes, two as one complex     to lines of its transform
    fft_real_rows     rows h and h + 1 of L planes                to lines of their half spectra
    clear_lines       nothing                                     to lines of zeros
    fft_column        lines                                       to lines of their transform, either direction
    fft_to_rows       lines                                       to rows of 2 L planes, in place
    row_out           such a row                                  to where it belongs in its plane

Rows are loaded with masks (what is no sample of a plane is a masked lane, see planes.py) and transposed in registers so
that lane = plane. Sizes are literals: every codelet is one transform in straight code or, where it is long, in two
levels (lines.py). In two levels rows are loaded by quarters, since how many positions there are must be known, not
where they begin; and a pair of real rows is one complex row z, whose transform holds both:

    X_h[k] = (Z[k] + conj Z[T-k]) / 2,     X_{h+1}[k] = (Z[k] - conj Z[T-k]) / 2i.

Example: 32 columns in float32: 16 rows of 32 samples are 64 masked loads of 8, 32 transposed vectors, 32 lines of 8
complex values; 456 instructions transform them.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from ..integers import round_up
from .butterfly import Pair, fft
from .lines import Lines, is_long, stack_lines, transform
from .planes import COLUMN_END, COLUMN_FIRST, LANE_SIZE, ORIGIN, PLANE, ROW_END, ROW_FIRST, ROW_STEP
from .vector import Emitter, Line, Vector, lanes

LaneRow = tuple[Any, Any, Any]  # an address, and between which positions from there on samples lie


def row_width(columns: int, itemsize: int) -> int:
    """Reals of a plane's row in the scratch: whole half vectors."""
    return round_up(columns, lanes(itemsize))


# ---- rows of planes --------------------------------------------------------------------------------------------------


def lane_row(emit: Emitter, table: Any, lane: int, row: Any, base: Any = None) -> LaneRow:
    """A lane of the table in tile row `row`, from position `base` on; a row that is none of its has no samples."""
    base = emit.const(0) if base is None else base
    b = emit.builder
    origin, step, row_first, row_end, first, end, plane = (
        b.load(b.gep(table, [emit.const(lane * LANE_SIZE + j)]))
        for j in (ORIGIN, ROW_STEP, ROW_FIRST, ROW_END, COLUMN_FIRST, COLUMN_END, PLANE)
    )
    inside = b.and_(b.icmp_signed(">=", row, row_first), b.icmp_signed("<", row, row_end))
    begin = b.add(b.add(origin, b.mul(row, step)), b.mul(base, emit.const(emit.itemsize)))
    return b.select(inside, begin, plane), b.sub(first, base), b.select(inside, b.sub(end, base), emit.const(0))


def load_columns(emit: Emitter, low: list[LaneRow], high: list[LaneRow], inputs: int) -> list[Vector]:
    """Vector j has position j of L rows in its lower half, and of L others in its upper half."""
    columns = []
    for base in range(0, inputs, emit.lanes):
        parts = ([emit.load_row_part(*row, base) for row in rows] for rows in (low, high))
        columns += emit.transpose([emit.join(*halves) for halves in zip(*parts, strict=True)])
    return columns[:inputs]


def read_rows(emit: Emitter, n: int, inputs: int, lanes_at: Any, halves: tuple[list[tuple[int, Any]], ...]) -> Lines:
    """Lines on the stack: the first `inputs` positions of a long row, its halves from (lane, row) of a table."""
    held, quarter = stack_lines(emit, n), n // 4
    with emit.loop(inputs // quarter) as i:
        base = emit.builder.mul(i, emit.const(quarter))
        low, high = ([lane_row(emit, lanes_at, *place, base) for place in half] for half in halves)
        written = held.part(base)
        for j, vector in enumerate(load_columns(emit, low, high, quarter)):
            written.store(Line(vector), j)
    return held


@intrinsic(prefer_literal=True)
def fft_packed_row(typing_context, n, inputs, table, row, target, to):  # type: ignore[no-untyped-def]
    """target[to + k] = lines of the transform of tile row `row` of the table's 2 L planes, two as one complex."""
    signature = types.void(n, inputs, table, types.intp, target, types.intp)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        length, n_in = n.literal_value, inputs.literal_value
        emit = Emitter(context, builder, target.dtype)
        L, lanes_at, written = emit.lanes, emit.data(table, args[2]), Lines(emit, emit.data(target, args[4]), args[5])
        halves = [(q, args[3]) for q in range(L)], [(q, args[3]) for q in range(L, 2 * L)]
        if is_long(length):
            held = read_rows(emit, length, n_in, lanes_at, halves)
            transform(emit, length, -1, n_in, length, held, written, between=held)
            return context.get_dummy_value()
        low, high = ([lane_row(emit, lanes_at, *place) for place in half] for half in halves)
        x = [Line(v) for v in load_columns(emit, low, high, n_in)]
        for k, y in enumerate(fft([*x, *[0] * (length - n_in)], -1)):
            written.store(y, k)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def fft_real_rows(typing_context, n, inputs, table, row, target, to, pitch):  # type: ignore[no-untyped-def]
    """target[to + i pitch + k], i = 0 and 1: lines of the half spectra of rows `row` + i of the table's L planes."""
    signature = types.void(n, inputs, table, types.intp, target, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        length, n_in = n.literal_value, inputs.literal_value
        emit = Emitter(context, builder, target.dtype)
        lanes_at, data = emit.data(table, args[2]), emit.data(target, args[4])
        written = [Lines(emit, data, emit.offset(args[5], i, args[6])) for i in (0, 1)]
        halves = tuple([(q, emit.offset(args[3], i)) for q in range(emit.lanes)] for i in (0, 1))
        if is_long(length):
            held = read_rows(emit, length, n_in, lanes_at, halves)
            transform(emit, length, -1, n_in, length, held, written[0], between=held)
            untangle(emit, length, *written)
            return context.get_dummy_value()
        low, high = ([lane_row(emit, lanes_at, *place) for place in half] for half in halves)
        x = [Pair(v, 0) for v in load_columns(emit, low, high, n_in)]
        for k, y in enumerate(fft([*x, *[0] * (length - n_in)], -1)[: length // 2 + 1]):
            for i in (0, 1):
                written[i].store(emit.join_halves(y.re, y.im, i), k)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def clear_lines(typing_context, count, target, to):  # type: ignore[no-untyped-def]
    """target[to + k] = 0, `count` lines. Known zeros would become a call of memset, which saves no register."""
    signature = types.void(count, target, types.intp)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        emit = Emitter(context, builder, target.dtype)
        written = Lines(emit, emit.data(target, args[1]), args[2])
        zero = emit.splat(builder.bitcast(emit.unknown(ir.IntType(8 * emit.itemsize)(0)), emit.scalar))
        for k in range(count.literal_value):
            written.store(zero, k)
        return context.get_dummy_value()

    return signature, codegen


def untangle(emit: Emitter, n: int, first: Lines, second: Lines) -> None:
    """The transform of two real rows as one complex, in `first`, to the half spectra of both."""
    b = emit.builder
    with emit.loop(n // 2 + 1) as k:
        opposite = b.select(b.icmp_signed("==", k, emit.const(0)), k, b.sub(emit.const(n), k))
        z, mirrored = first.part(k).load(0), first.part(opposite).load(0).conj()
        first.part(k).store((z + mirrored) * 0.5, 0)
        second.part(k).store((z - mirrored) * -0.5j, 0)


@intrinsic(prefer_literal=True)
def fft_to_rows(typing_context, n, outputs, space, at, scale, bias):  # type: ignore[no-untyped-def]
    """In place of n lines at `at`: scale * inverse transform + bias, as rows of `row_width` reals of 2 L planes."""
    signature = types.void(n, outputs, space, types.intp, space.dtype, space.dtype)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        length, n_out = n.literal_value, outputs.literal_value
        emit = Emitter(context, builder, space.dtype)
        L, lines = emit.lanes, Lines(emit, emit.data(space, args[2]), args[3])
        factor, shift = emit.splat(args[4]), emit.splat(args[5])
        width = row_width(length, emit.itemsize)

        def put(columns: list[Line], begin: Any) -> None:
            """L lines as L positions of all rows, the first of which is at `begin`."""
            vectors = emit.transpose([line.vector * factor + shift for line in columns])
            for lane, vector in enumerate(vectors):
                for part in (0, 1):
                    emit.store_half(vector, part, lines.data, emit.offset(begin, (part * L + lane) * width))

        if is_long(length):
            held = stack_lines(emit, length)
            transform(emit, length, 1, length, n_out, lines, held, between=lines)
            with emit.loop(n_out // L) as i:
                begin = builder.mul(i, emit.const(L))
                read = held.part(begin)
                put([read.load(j) for j in range(L)], builder.add(args[3], begin))
            return context.get_dummy_value()
        y = fft([lines.load(k) for k in range(length)], 1)[:n_out]
        y += [y[-1]] * (-n_out % L)  # to whole vectors; these positions are never read
        for base in range(0, n_out, L):
            put(y[base : base + L], emit.offset(args[3], base))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def row_out(typing_context, outputs, space, at, address, first, end):  # type: ignore[no-untyped-def]
    """Copies positions first .. end of the row at `at` to where position 0 has the byte address `address`."""
    signature = types.void(outputs, space, types.intp, types.intp, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        emit = Emitter(context, builder, space.dtype)
        data = emit.data(space, args[1])
        for base in range(0, outputs.literal_value, emit.count):
            emit.store_row_part(emit.load(data, emit.offset(args[2], base)), args[3], args[4], args[5], base)
        return context.get_dummy_value()

    return signature, codegen


# ---- columns ---------------------------------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def fft_column(typing_context, n, sign, inputs, outputs, source, at, step, target, to, pitch, ahead):  # type: ignore[no-untyped-def]
    """target[to + k pitch] = y[k], k < outputs: y transforms the lines source[at + j step], zero from j = inputs on.

    The side that lies in the spectrum, far apart and not in the nearest cache, is asked for `ahead` reals ahead.
    """
    index = types.intp
    signature = types.void(n, sign, inputs, outputs, source, index, index, target, index, index, index)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        length, s, n_in, n_out = (v.literal_value for v in (n, sign, inputs, outputs))
        emit = Emitter(context, builder, source.dtype)
        read = Lines(emit, emit.data(source, args[4]), args[5], args[6], args[10] if s > 0 else None)
        written = Lines(emit, emit.data(target, args[7]), args[8], args[9], args[10] if s < 0 else None)
        transform(emit, length, s, n_in, n_out, read, written)
        return context.get_dummy_value()

    return signature, codegen
