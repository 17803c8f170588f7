"""The multiply stage: one matrix product a bin and group, Y[f] = op(A[f]) op(B[f]) / 2, by FFMA on complex64.

    pass          Y[f]      rows, columns, depth   A               B               op
    forward       Y[m,k]    m, k, c                X[m,c] k-major  W[k,c] k-major  conj B
    input_grad    dX[m,c]   m, c, k                dY[m,k] k-major W[k,c] n-major  none
    weight_grad   dW[k,c]   k, c, m                dY[m,k] m-major X[m,c] n-major  conj A

An operand is k-major where the contraction runs along its rows, and else n- or m-major; the three passes are one body.
Spectra are stored doubled, so the product of two is halved. Where Y is added to, accumulators start from 2*Y, exactly,
so that a depth in one piece and in several gives the same bits.

Grid: x tiles of columns, y tiles of rows, z bins times groups, group fastest. A block of threads copies slabs of BK
steps of A and of B into shared memory by cp.async, `stages` of them in turn: while one is multiplied the next are on
their way. A thread keeps TM x TN sums in registers; slab.py says which, and how it reads a slab.

Cost of a bin: 8 * rows * columns * depth flops; rows*depth + columns*depth + rows*columns complex values of 8 bytes.

Example: 128 images of 192 channels to 384, T = 16, forward: 130 bins of 128 x 384, depth 192, by tiles of 128x64. The
grid is 6 x 1 x 130. Block (2, 0, 7) computes columns 128 to 191 of bin 7 with 256 threads in 16 x 16. Thread 37 is lane
5 of warp 1: lane bits 0 and 2 are set, so tx = 8 + 3 and ty = 0; it owns rows 0, 16, 32, ..., 112 and columns 128 + 11,
27, 43, 59. Each of 24 slabs is (128 + 64) * 10 complex values, 15360 bytes; three of them take 46080 bytes.

Source of the scheme: CUTLASS, Efficient GEMM in CUDA (docs/efficient_gemm), as multistage SIMT.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, types

from ..errors import UnsupportedError
from ..gpus import GRID_LIMIT
from ..integers import ceil_div
from . import slab
from .tiles import COMPLEX_BYTES, PAD, REGISTER_BUDGET, ProductConfig
from .toolchain import COMPLEXES, Kernel, device_function, namedtuple_type

i32, u32, i64 = np.int32, np.uint32, np.int64  # Numba makes int64 of int32 + int32: cut back what a loop carries


class Shape(NamedTuple):
    """Extents of one product, leading dimensions, groups, and whether Y is added to; all in complex values."""

    rows: int
    columns: int
    depth: int
    lda: int
    ldb: int
    ldy: int
    groups: int
    accumulate: int


class Pitches(NamedTuple):
    """Complex values from a bin to the next."""

    a: int
    b: int
    y: int


@dataclass(frozen=True)
class Form:
    """How the operands of a pass lie, which is conjugated, and what a group is a step of in A, B and Y.

    A group owns a run of columns of an operand, as long as the extent named, or a run of its rows.
    """

    a_kmajor: bool
    b_kmajor: bool
    conj_a: bool
    conj_b: bool
    groups: tuple[tuple[str, str], tuple[str, str], tuple[str, str]]


FORMS = {
    "forward": Form(True, True, False, True, (("columns", "depth"), ("rows", "columns"), ("columns", "columns"))),
    "input_grad": Form(True, False, False, False, (("columns", "depth"), ("rows", "depth"), ("columns", "columns"))),
    "weight_grad": Form(False, False, True, False, (("columns", "rows"), ("columns", "columns"), ("rows", "rows"))),
}


def group_steps(pass_name: str, shape: Shape) -> tuple[int, int, int]:
    """Complex values from a group to the next in A, B and Y."""
    leading = (shape.lda, shape.ldb, shape.ldy)
    steps = zip(FORMS[pass_name].groups, leading, strict=True)
    a, b, y = (getattr(shape, extent) * (ld if along == "rows" else 1) for (along, extent), ld in steps)
    return a, b, y


def vector_width(pass_name: str, shape: Shape, pitches: Pitches) -> int:
    """Complex values that a copy may take at once: 2 where every pair along a row starts at 16 bytes and is whole.

    The arrays themselves start at 16 bytes. Y counts only where a thread's columns are neighbours, stored in pairs.
    """
    form = FORMS[pass_name]
    run_a = shape.depth if form.a_kmajor else shape.rows
    run_b = shape.depth if form.b_kmajor else shape.columns
    steps = group_steps(pass_name, shape) if shape.groups > 1 else (0, 0, 0)
    counted = 2 if form.b_kmajor else 3
    numbers = ((run_a, run_b, shape.columns), (shape.lda, shape.ldb, shape.ldy), pitches, steps)
    return 1 if any(n % 2 for of_each in numbers for n in of_each[:counted]) else 2


class Copies(NamedTuple):
    """How a block copies a tile of rows x run: `across` threads along a row, `down` rows in each of so many rounds."""

    across: int
    down: int
    rounds: int


def copies(rows: int, run: int, threads: int, vec: int) -> Copies:
    across = run // vec
    down = threads // across
    return Copies(across, down, rows // down)


@cache
def _row_of_turn(kmajor: bool, run: int, down: int) -> Any:
    """Which row a thread copies, as the device function of how many of a round's rows other threads copy before it.

    Eight lanes that store 16 bytes each are served at once, if they meet all groups of four banks. They fill a row, or
    two half as long: then rows 4 apart, since row r begins in group 5*r mod 8 (BK + 2 = 10 values), and rows 0 and 4 in
    groups 0 and 4. So bits 0 and 2 of the row change places. Or they fill four rows of BK = 4: then rows 2 apart, which
    begin in groups 0, 6, 4 and 2; the bits turn round by one.
    """
    if not kmajor or run * COMPLEX_BYTES >= 128 or down % 8:
        return device_function(lambda turn: turn)
    if run * COMPLEX_BYTES == 32:
        return device_function(
            lambda turn: (turn & i32(~7)) | ((turn & i32(3)) << i32(1)) | ((turn >> i32(2)) & i32(1))
        )
    return device_function(lambda turn: (turn & i32(~5)) | ((turn & i32(1)) << i32(2)) | ((turn >> i32(2)) & i32(1)))


@device_function
def _place(thread: Any, lanes_across: Any, warps_across: Any) -> Any:
    """Column and row of a thread in its block: warps row by row, lanes of a warp along a Z-curve."""
    bit_1 = (thread >> i32(1)) & i32(1)
    if lanes_across == 8:  # lane bits 0, 2, 3 and 1, 4
        x, y = i32((thread & i32(1)) | ((thread >> i32(1)) & i32(6))), i32(bit_1 | ((thread >> i32(3)) & i32(2)))
    else:  # lane bits 0, 2 and 1, 3, 4
        x, y = i32((thread & i32(1)) | ((thread >> i32(1)) & i32(2))), i32(bit_1 | ((thread >> i32(2)) & i32(6)))
    warp = u32(thread) >> u32(5)
    down = i32(32) // lanes_across
    return i32(i32(warp % u32(warps_across)) * lanes_across + x), i32(i32(warp // u32(warps_across)) * down + y)


@cache
def product_kernel(pass_name: str, config: ProductConfig, vec: int) -> Kernel:
    """The kernel of a pass for a tile; vec complex values a copy, of which `vector_width` says how many may be."""
    form = FORMS[pass_name]
    A_KMAJOR, B_KMAJOR = form.a_kmajor, form.b_kmajor
    BM, BN, BK, STAGES = i32(config.BM), i32(config.BN), i32(config.BK), config.stages
    ACROSS, DOWN = config.threads_across, config.threads_down
    LANES, WARPS = i32(config.lanes_across), i32(ACROSS // config.lanes_across)
    PITCH_A = i32(config.BK + PAD if A_KMAJOR else config.BM)
    PITCH_B = i32(config.BK + PAD if B_KMAJOR else config.BN)
    size_a, size_b = config.shared_values(A_KMAJOR, B_KMAJOR)
    SIZE_A, SIZE = i32(size_a), i32(size_a + size_b)  # values of A, of a slab of both
    LAST = i32((STAGES - 1) * (size_a + size_b))  # start of the last slab
    A_BY_ROWS, B_BY_ROWS, Y_BY_ROWS = (along == "rows" for along, _ in form.groups)
    A_STEP, B_STEP, Y_STEP = (Shape._fields.index(extent) for _, extent in form.groups)

    tile_a = (config.BM, config.BK) if A_KMAJOR else (config.BK, config.BM)
    tile_b = (config.BN, config.BK) if B_KMAJOR else (config.BK, config.BN)
    across_a, down_a, rounds_a = copies(*tile_a, config.threads, vec)
    across_b, down_b, rounds_b = copies(*tile_b, config.threads, vec)
    ACROSS_A, ACROSS_B, VEC = u32(across_a), u32(across_b), u32(vec)
    copy_a = slab.copy_rounds(vec, rounds_a, down_a, int(PITCH_A))
    copy_b = slab.copy_rounds(vec, rounds_b, down_b, int(PITCH_B))
    turned_a, turned_b = _row_of_turn(A_KMAJOR, config.BK, down_a), _row_of_turn(B_KMAJOR, config.BK, down_b)
    lines, columns = (DOWN, not A_KMAJOR), (ACROSS, not B_KMAJOR)
    zeros, wait = slab.zeros(config.TM, config.TN), slab.wait(STAGES - 2)
    multiply = slab.slab(
        config.TM, config.TN, config.BK, (int(PITCH_A), A_KMAJOR, DOWN), (int(PITCH_B), B_KMAJOR, ACROSS),
        form.conj_a, form.conj_b,
    )  # fmt: skip
    old = slab.load_tile(config.TM, config.TN, lines, columns)
    store = slab.store_tile(config.TM, config.TN, lines, columns, vec == 2)
    commit = slab.commit

    @device_function
    def fetch(s: Any, filling: Any, gA: Any, gB: Any, bases: Any, at: Any, shape: Any, own: Any, limits: Any) -> None:
        """One slab of both operands on its way to shared memory; called by all threads, synchronised by the caller.

        A thread copies, of each operand, what is below its own row in its own column; zeros where that is outside.
        """
        row_a, column_a, row_b, column_b, to_a, to_b = own
        m_limit, n_limit, left = limits
        if A_KMAJOR:
            rows_a = i32(m_limit - row_a) if column_a < left else i32(0)
        else:
            rows_a = i32(left - row_a) if column_a < m_limit else i32(0)
        if B_KMAJOR:
            rows_b = i32(n_limit - row_b) if column_b < left else i32(0)
        else:
            rows_b = i32(left - row_b) if column_b < n_limit else i32(0)
        copy_a(s, i32(filling + to_a), gA, bases[0], at[0], shape.lda, rows_a)
        copy_b(s, i32(filling + to_b), gB, bases[1], at[1], shape.ldb, rows_b)

    def product(gA: Any, gB: Any, gY: Any, shape: Any, pitches: Any) -> None:
        s = cuda.shared.array(0, types.complex64, 16)
        block, groups = u32(cuda.blockIdx.z), max(u32(shape.groups), u32(1))  # seen to be positive: no test for zero
        bin_of_block = u32(block // groups)
        f, group = i64(bin_of_block), i64(u32(block - bin_of_block * groups))
        m_block, n_block = i32(cuda.blockIdx.y * BM), i32(cuda.blockIdx.x * BN)

        # Where this bin and group start in each array, in 64 bits; inside a bin 32 are enough.
        group_a = group * i64(shape[A_STEP]) * (i64(shape.lda) if A_BY_ROWS else i64(1))
        group_b = group * i64(shape[B_STEP]) * (i64(shape.ldb) if B_BY_ROWS else i64(1))
        group_y = group * i64(shape[Y_STEP]) * (i64(shape.ldy) if Y_BY_ROWS else i64(1))
        bases = (i64(f * pitches.a + group_a), i64(f * pitches.b + group_b))
        base_y = i64(f * pitches.y + group_y)
        m_limit, n_limit = i32(shape.rows - m_block), i32(shape.columns - n_block)

        # What this thread copies of a slab: from (row, column) on, at to_ in shared and at_ in global memory.
        thread = u32(cuda.threadIdx.x)
        row_a, column_a = i32(turned_a(i32(thread // ACROSS_A))), i32(thread % ACROSS_A * VEC)
        row_b, column_b = i32(turned_b(i32(thread // ACROSS_B))), i32(thread % ACROSS_B * VEC)
        to_a, to_b = i32(row_a * PITCH_A + column_a), i32(SIZE_A + row_b * PITCH_B + column_b)
        own = (row_a, column_a, row_b, column_b, to_a, to_b)
        at_a = i32((m_block + row_a) * shape.lda + column_a if A_KMAJOR else row_a * shape.lda + m_block + column_a)
        at_b = i32((n_block + row_b) * shape.ldb + column_b if B_KMAJOR else row_b * shape.ldb + n_block + column_b)
        step_a = BK if A_KMAJOR else i32(BK * shape.lda)
        step_b = BK if B_KMAJOR else i32(BK * shape.ldb)

        # Which elements of the block are this thread's.
        tx, ty = _place(i32(thread), LANES, WARPS)
        ia = i32(ty * PITCH_A) if A_KMAJOR else i32(ty * i32(2))
        ib = i32(SIZE_A + (tx * PITCH_B if B_KMAJOR else tx * i32(2)))
        m = i32(m_block + (ty if A_KMAJOR else ty * i32(2)))
        n = i32(n_block + (tx if B_KMAJOR else tx * i32(2)))

        # Fill all slabs but one. A group is closed even when empty: `wait` counts groups.
        left = i32(shape.depth)  # steps not yet asked for
        filling = i32(0)
        for _ in range(STAGES - 1):
            fetch(s, filling, gA, gB, bases, (at_a, at_b), shape, own, (m_limit, n_limit, left))
            commit()
            at_a, at_b, left = i32(at_a + step_a), i32(at_b + step_b), i32(left - BK)
            filling = i32(filling + SIZE)

        acc = old(gY, base_y, shape.ldy, m, n, shape.rows, shape.columns) if shape.accumulate != 0 else zeros()
        using = i32(0)
        while left > i32(-(STAGES - 1) * BK):
            wait()
            cuda.syncthreads()  # copies into `using` before it is read, its last reading before it is filled
            if left > i32(0):
                fetch(s, filling, gA, gB, bases, (at_a, at_b), shape, own, (m_limit, n_limit, left))
            commit()
            at_a, at_b, left = i32(at_a + step_a), i32(at_b + step_b), i32(left - BK)
            filling = i32(filling + SIZE) if filling < LAST else i32(0)
            acc = multiply(acc, s, i32(using + ia), i32(using + ib))
            using = i32(using + SIZE) if using < LAST else i32(0)

        store(acc, gY, base_y, shape.ldy, m, n, shape.rows, shape.columns)

    return Kernel(
        name=f"product_{config}_{pass_name}_v{vec}",
        function=product,
        signature=(
            COMPLEXES,
            COMPLEXES,
            COMPLEXES,
            namedtuple_type(Shape, types.int32),
            namedtuple_type(Pitches, types.int64),
        ),
        threads=config.threads,
        shared_bytes=config.stages * (size_a + size_b) * COMPLEX_BYTES,
        most_registers=REGISTER_BUDGET[config.TM * config.TN],
    )


def grid(config: ProductConfig, rows: int, columns: int, bins: int, groups: int = 1) -> tuple[int, int, int]:
    """Blocks of one launch over so many bins.

    >>> from numba_fftconv.cuda.tiles import TILES
    >>> grid(TILES[1], 128, 384, 130)
    (6, 1, 130)
    """
    return ceil_div(columns, config.BN), ceil_div(rows, config.BM), bins * groups


def launches(
    config: ProductConfig, rows: int, columns: int, bins: int, groups: int = 1
) -> Iterator[tuple[int, int, tuple[int, int, int]]]:
    """(first bin, bins, grid) of the launches that make up a product; pointers start first bin * pitch further on."""
    down = ceil_div(rows, config.BM)
    if down > GRID_LIMIT:
        raise UnsupportedError(f"{rows} rows are {down} tiles of {config.BM}; a grid has at most {GRID_LIMIT} of them")
    if groups > GRID_LIMIT:
        raise UnsupportedError(f"{groups} groups; a grid has room for at most {GRID_LIMIT}")
    most = GRID_LIMIT // groups
    for first in range(0, bins, most):
        some = min(most, bins - first)
        yield first, some, grid(config, rows, columns, some, groups)
