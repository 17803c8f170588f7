"""The machine code of the transform kernels: counted, and run by the PTX machine.

Read off cubins that are made here for GPUs that are elsewhere: no driver is needed.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
from machine_code import Report, compiles, reads_code, report, table
from ptx_checks import launch
from transform_problem import IN_CI, Problem, check_inverse, check_transform

from numba_fftconv.cuda import fft2d
from numba_fftconv.cuda.toolchain import Kernel
from numba_fftconv.dtypes import HALVES
from numba_fftconv.geometry import PlaneMap
from numba_fftconv.gpus import MULTIPROCESSORS
from numba_fftconv.integers import Size, bin_order, bins, first_bin
from numba_fftconv.options import CODELET_SIZES

pytestmark = compiles

MOST_SHARED = MULTIPROCESSORS[9, 0].block_shared
Variant = tuple[str, Size, bool, bool, bool, tuple[int, int]]  # direction, size, half, spaced, accumulate, architecture

# Floating-point instructions and registers of the kernels with exact sizes at compile time that these grew from.
STUDIED = {8: (144, 32), 14: (420, 47), 16: (384, 50), 20: (624, 64), 24: (752, 64), 28: (1008, 78), 32: (960, 80),
           48: (1792, 120), 60: (2728, 168), 64: (2304, 156)}  # fmt: skip
UNEQUAL: list[Size] = [(2, 64), (32, 64), (64, 2), (10, 24)]
DESIGNED = {8: (32, 31), 16: (48, 50), 32: (80, 80), 64: (156, 152)}  # registers of transform and inverse


def variants() -> list[Variant]:
    """Every length on sm_90, and on sm_80 as well; two of them in every form."""
    both, machines = ("transform", "inverse"), ((9, 0), (8, 0))
    sizes = [(sm, (T, T)) for T in reversed(CODELET_SIZES) for sm in machines]
    sizes += [((9, 0), size) for size in UNEQUAL]
    every: list[Variant] = [(what, size, False, False, False, sm) for sm, size in sizes for what in both]
    forms = [(True, False), (False, True), (True, True)]
    formed: list[Variant] = [(what, (T, T), *form, False, (9, 0)) for T in (8, 32) for form in forms for what in both]
    adding: list[Variant] = [("inverse", (T, T), False, False, True, (9, 0)) for T in (8, 32, 64)]
    return every + formed + adding


def kernel_of(variant: Variant) -> Kernel:
    what, size, half, spaced, accumulate, _ = variant
    B = fft2d.tile_planes(size, MOST_SHARED)
    if what == "transform":
        return fft2d.transform_kernel(size, B, half, spaced)
    return fft2d.inverse_kernel(size, B, half, spaced, accumulate)


def report_of(variant: Variant) -> Report:
    return report(kernel_of(variant), variant[-1])


def label(variant: Variant) -> str:
    return f"{kernel_of(variant).name}_sm{variant[-1][0]}{variant[-1][1]}"


def is_quick(variant: Variant) -> bool:
    """Whether CI reads it as well: lengths of every kind, every form once, both unequal sizes of few values."""
    _, (R, C), half, spaced, accumulate, sm = variant
    if sm == (8, 0) or half or spaced or accumulate:
        return R == 8
    return R in IN_CI if R == C else 2 in (R, C)


def parameters() -> list[Any]:
    slow = [pytest.mark.slow]
    return [pytest.param(each, id=label(each), marks=[] if is_quick(each) else slow) for each in variants()]


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest) -> dict[Variant, Report]:
    """The kernels that were chosen, compiled side by side, longest first, and shown as a table."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    chosen = [item.callspec.params["variant"] for item in items if item.function is test_code_of_transforms]
    order = sorted(chosen, key=lambda variant: -max(variant[1]))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        made = dict(zip(order, pool.map(report_of, order), strict=True))
    print("\n" + table(made[variant] for variant in chosen))
    return made


@reads_code
@pytest.mark.parametrize("variant", parameters())
def test_code_of_transforms(variant: Variant, reports: dict[Variant, Report]) -> None:
    what, (R, C), half, spaced, accumulate, _ = variant
    found, heights = reports[variant], R // 2 if half else R
    assert (found.stack, found.local, found.count("LDL|STL")) == (0, 0, 0), "the column left the registers"
    assert found.count(r"D(ADD|MUL|FMA|SETP|MNMX)|F2F.*F64|I2F.*F64") == 0, "float64"
    assert found.count("BAR") == 1
    assert found.count(r"(LD|ST)\.") == 0, "an access whose memory space the compiler did not see"

    # Two samples a row, in accesses of one float each; a bin in one access of 64 bits.
    unrolled = 2 if (R, C) == (64, 2) else 1  # turns of rows: of rows as short the compiler writes both
    bins = unrolled * (2 * C + 2)
    planes = found.count(r"LDG\.E$" if what == "transform" else r"STG\.E$")
    assert planes == 2 * heights
    wide = found.count(r"STG\.E\.64" if what == "transform" else r"LDG\.E\.64")
    narrow = 0 if what == "transform" else 4 * unrolled  # of an edge bin the imaginary part is nothing to read
    assert wide + narrow == bins
    assert found.count(r"LDG") + found.count(r"STG") == wide + narrow + planes * (2 if accumulate else 1) + (
        2 if what == "inverse" else 0
    )

    if R == C in STUDIED and not spaced:
        instructions, registers = STUDIED[C]
        assert found.fp <= 1.05 * instructions + (2 * heights if accumulate else 0)
        if not accumulate:
            assert found.registers <= registers + -registers % 8 + 8
            if C in DESIGNED:
                assert found.registers <= DESIGNED[C][what == "inverse"] + 8
    assert found.registers <= 65536 // (found.threads + -found.threads % 32)


# ---- run -------------------------------------------------------------------------------------------------------------


MAPS = PlaneMap(-3, 5, 1, 2, 7, 3), PlaneMap(4, 6, 1, 0, 6, 2)
SPACED = PlaneMap(-3, 6, 2, 1, 7, 3), PlaneMap(5, 9, 3, 0, 8, 2)
PROBLEMS = [
    Problem((8, 8), 4, N=2, C=3, height=8, width=7),
    Problem((8, 8), 4, N=2, C=1, height=13, width=12, rows=MAPS[0], columns=MAPS[1], steps=(1, 2, 3, 2), first=2),
    Problem((8, 8), 4, N=2, C=3, height=9, width=7, rows=SPACED[0], columns=SPACED[1], spaced=True, first=1),
    Problem((14, 14), 4, N=1, C=5, height=7, width=6, half=True),
    Problem((8, 8), 8, N=1, C=3, height=2, width=2, half=True, spaced=True,
            rows=PlaneMap(0, 0, 3, 0, 4, 1), columns=PlaneMap(0, 0, 2, 0, 4, 1)),
    Problem((20, 20), 4, N=1, C=4, height=20, width=20),
    Problem((32, 32), 2, N=1, C=3, height=31, width=32),
    Problem((4, 14), 4, N=1, C=5, height=3, width=13),
    Problem((14, 8), 4, N=2, C=1, height=13, width=12, rows=MAPS[0], columns=MAPS[1], steps=(1, 2, 3, 2), first=2),
    Problem((14, 20), 4, N=1, C=5, height=7, width=6, half=True),
    *(Problem((8, 8), 4, N=2, C=3, height=8, width=7, samples=dtype) for dtype in HALVES),
    *(Problem((8, 8), 4, N=2, C=3, height=9, width=7, rows=SPACED[0], columns=SPACED[1], spaced=True, samples=dtype,
              steps=(1, 2, 3, 2)) for dtype in HALVES),
]  # fmt: skip


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(each, id=f"t{each.size[0]}_{i}", marks=[pytest.mark.slow] if sum(each.size) > 28 else [])
        for i, each in enumerate(PROBLEMS)
    ],
)
def test_compiled_kernels_compute(problem: Problem) -> None:
    """Bounds, alignment, integer types and literals of what is really run."""
    check_transform(problem, launch)
    check_inverse(problem, launch, has_bias=True)
    if problem.size[0] == 8:
        check_inverse(problem, launch, beta=-0.5)


# ---- shapes ----------------------------------------------------------------------------------------------------------


SIZES = [*((T, T) for T in CODELET_SIZES), *UNEQUAL, (64, 32), (8, 64), (4, 6)]


@pytest.mark.parametrize("size", SIZES)
def test_compact_bins_hold_every_frequency_once(size: Size) -> None:
    """Each bin stands for itself and its conjugate; together they are all of the tile, four rows of edges apart."""
    (R, C), order = size, bin_order(size)
    assert len(order) == bins(size) == R * C // 2 + 2
    seen = set(order) | {(-ky % R, -kx % C) for ky, kx in order}
    assert seen == {(ky, kx) for ky in range(R) for kx in range(C)}
    for ky in range(R // 2 + 1):
        assert order[first_bin(size, ky)] == (ky, 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [48 * 1024, MOST_SHARED])
def test_tiles_fit(size: Size, most: int) -> None:
    B = fft2d.tile_planes(size, most)
    assert fft2d.shared_bytes(size, B) <= most and B % 2 == 0
    assert fft2d.block_threads(size, B) <= 256
    for half in (False, True):
        row, plane = fft2d.layout(size, B, half)
        assert row >= fft2d.tile_width(size[1], half) and plane >= row * (size[0] // 2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("half", [False, True])
def test_row_phase_meets_sixteen_banks(size: Size, half: bool) -> None:
    """Half a warp of neighbouring (plane, row) threads reads one column of the tile."""
    B = fft2d.tile_planes(size, MOST_SHARED)
    stride = fft2d.layout(size, B, half)
    lanes = np.arange(min(16, fft2d.block_threads(size, B)))
    places = lanes % B * stride.plane + lanes // B * stride.row
    assert len(set((places % 16).tolist())) == len(lanes)


def test_grid_covers_all_planes() -> None:
    for count in (1, 7, 8, 9):
        assert fft2d.launch_grid(count, 8) == ((count + 7) // 8, 1, 1)
