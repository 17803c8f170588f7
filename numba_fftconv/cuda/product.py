"""The multiply stage: one matrix product a bin and group, Y[f] = op(A[f]) op(B[f]) / 2, on complex64.

    pass          Y[f]      rows, columns, depth   A               B               op
    forward       Y[m,k]    m, k, c                X[m,c] k-major  W[k,c] k-major  conj B
    input_grad    dX[m,c]   m, c, k                dY[m,k] k-major W[k,c] n-major  none
    weight_grad   dW[k,c]   k, c, m                dY[m,k] m-major X[m,c] n-major  conj A

An operand is k-major where the contraction runs along its rows, and else n- or m-major; the three passes are one body.
Spectra are stored doubled, so the product of two is halved. Where Y is added to, accumulators start from 2*Y, exactly,
so that a depth in one piece and in several gives the same bits: in fp32 wherever it is cut, on tensor cores at
multiples of 8.

All precisions are one body too: fp32 by FFMA (ffma.py), tf32x3, bf16x3 and tf32 by tensor cores (mma.py), as the tile
says (tiles.py, tensor_tiles.py). They differ in the inner product: where threads stand, how rows of a slab are padded,
and what is done with a slab.

Grid: x tiles of columns, y tiles of rows, z bins times groups, group fastest. A block of threads copies slabs of BK
steps of A and of B into shared memory by cp.async, `stages` of them in turn: while one is multiplied the next are on
their way (copies.py). A thread keeps its sums in registers (accumulators.py).

Cost of a bin: 8 * rows * columns * depth flops; rows*depth + columns*depth + rows*columns complex values of 8 bytes.

Example: 128 images of 192 channels to 384, T = 16, forward: 130 bins of 128 x 384, depth 192, in fp32 by tiles of
128x64. The grid is 6 x 1 x 130. Block (2, 0, 7) computes columns 128 to 191 of bin 7 with 256 threads in 16 x 16.
Thread 37 is lane 5 of warp 1: lane bits 0 and 2 are set, so tx = 8 + 3 and ty = 0; it owns rows 0, 16, 32, ..., 112 and
columns 128 + 11, 27, 43, 59. Each of 24 slabs is (128 + 64) * 10 complex values, 15360 bytes; three of them take 46080
bytes.

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
from .accumulators import load_tile, store_tile, zeros
from .block_tile import COMPLEX_BYTES, BlockTile
from .copies import commit, copies, copy_rounds, row_of_turn, wait
from .ffma import ffma
from .mma import mma
from .tensor_tiles import TensorConfig
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


def vector_width(pass_name: str, shape: Shape, pitches: Pitches, precision: str = "fp32") -> int:
    """Complex values that a copy may take at once: 2 where every pair along a row starts at 16 bytes and is whole.

    The arrays themselves start at 16 bytes. Y counts only where a thread's columns are neighbours, stored in pairs:
    across the contraction, and always on tensor cores.
    """
    form = FORMS[pass_name]
    run_a = shape.depth if form.a_kmajor else shape.rows
    run_b = shape.depth if form.b_kmajor else shape.columns
    steps = group_steps(pass_name, shape) if shape.groups > 1 else (0, 0, 0)
    counted = 2 if form.b_kmajor and precision == "fp32" else 3
    numbers = ((run_a, run_b, shape.columns), (shape.lda, shape.ldb, shape.ldy), pitches, steps)
    return 1 if any(n % 2 for of_each in numbers for n in of_each[:counted]) else 2


@cache
def product_kernel(pass_name: str, config: BlockTile, vec: int) -> Kernel:
    """The kernel of a pass for a tile; vec complex values a copy, of which `vector_width` says how many may be."""
    form = FORMS[pass_name]
    A_KMAJOR, B_KMAJOR = form.a_kmajor, form.b_kmajor
    BM, BN, BK, STAGES = i32(config.BM), i32(config.BN), i32(config.BK), config.stages
    PITCH_A, PITCH_B = i32(config.pitch(config.BM, A_KMAJOR)), i32(config.pitch(config.BN, B_KMAJOR))
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
    copy_a = copy_rounds(vec, rounds_a, down_a, int(PITCH_A))
    copy_b = copy_rounds(vec, rounds_b, down_b, int(PITCH_B))
    turned_a, turned_b = row_of_turn(int(PITCH_A), tile_a[1], down_a), row_of_turn(int(PITCH_B), tile_b[1], down_b)

    signs = A_KMAJOR, B_KMAJOR, form.conj_a, form.conj_b
    inner = mma(config, *signs) if isinstance(config, TensorConfig) else ffma(config, *signs)
    place, multiply = inner.place, inner.multiply
    clear, old = zeros(len(inner.rows) * len(inner.columns)), load_tile(inner.rows, inner.columns)
    store, arrived = store_tile(inner.rows, inner.columns, vec == 2), wait(STAGES - 2)

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

        # Which elements of the block are this thread's, and where it begins to read a slab.
        of_a, of_b, step, of_m, of_n = place(i32(thread))
        ia = i32(of_a * PITCH_A + step) if A_KMAJOR else i32(step * PITCH_A + of_a)
        ib = i32(SIZE_A + (of_b * PITCH_B + step if B_KMAJOR else step * PITCH_B + of_b))
        m, n = i32(m_block + of_m), i32(n_block + of_n)

        # Fill all slabs but one. A group is closed even when empty: `wait` counts groups.
        left = i32(shape.depth)  # steps not yet asked for
        filling = i32(0)
        for _ in range(STAGES - 1):
            fetch(s, filling, gA, gB, bases, (at_a, at_b), shape, own, (m_limit, n_limit, left))
            commit()
            at_a, at_b, left = i32(at_a + step_a), i32(at_b + step_b), i32(left - BK)
            filling = i32(filling + SIZE)

        acc = old(gY, base_y, shape.ldy, m, n, shape.rows, shape.columns) if shape.accumulate != 0 else clear()
        using = i32(0)
        while left > i32(-(STAGES - 1) * BK):
            arrived()
            cuda.syncthreads()  # copies into `using` before it is read, its last reading before it is filled
            if left > i32(0):
                fetch(s, filling, gA, gB, bases, (at_a, at_b), shape, own, (m_limit, n_limit, left))
            commit()
            at_a, at_b, left = i32(at_a + step_a), i32(at_b + step_b), i32(left - BK)
            filling = i32(filling + SIZE) if filling < LAST else i32(0)
            acc = multiply(acc, s, i32(using + ia), i32(using + ib))
            using = i32(using + SIZE) if using < LAST else i32(0)

        store(acc, gY, base_y, shape.ldy, m, n, shape.rows, shape.columns)

    mode = "" if config.precision == "fp32" else f"{config.precision}_"
    return Kernel(
        name=f"product_{mode}{config}_{pass_name}_v{vec}",
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
        most_registers=config.most_registers,
    )


def grid(config: BlockTile, rows: int, columns: int, bins: int, groups: int = 1) -> tuple[int, int, int]:
    """Blocks of one launch over so many bins.

    >>> from numba_fftconv.cuda.tiles import TILES
    >>> grid(TILES[1], 128, 384, 130)
    (6, 1, 130)
    """
    return ceil_div(columns, config.BN), ceil_div(rows, config.BM), bins * groups


def launches(
    config: BlockTile, rows: int, columns: int, bins: int, groups: int = 1
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
