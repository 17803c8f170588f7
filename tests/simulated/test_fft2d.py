"""The transform and inverse kernels, lane by lane, against numpy.fft in float64 through any map, stride and chunk."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import complex64, cuda
from transform_problem import WORST, Pointer, Problem, check_inverse, check_transform

from numba_fftconv.cuda import butterfly, fft2d
from numba_fftconv.cuda.memory import Memory
from numba_fftconv.cuda.planes import Epilogue
from numba_fftconv.cuda.simulator import run
from numba_fftconv.cuda.toolchain import COMPLEXES, Kernel
from numba_fftconv.dtypes import HALVES
from numba_fftconv.geometry import PlaneMap
from numba_fftconv.integers import Size, bins
from numba_fftconv.options import CODELET_SIZES

SMALL = [T for T in CODELET_SIZES if T <= 20]


def launch(kernel: Kernel, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
    run(kernel, grid, tuple(Memory(x.view) if isinstance(x, Pointer) else x for x in arguments))


# ---- whole planes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", SMALL)
@pytest.mark.parametrize("half", [False, True], ids=["full", "half"])
def test_planes_of_every_small_length(T: int, half: bool, order: int | None) -> None:
    """Five planes in blocks of four: a last block that is not full, an odd last plane."""
    extent = max(1, T // 2 if half else T)
    problem = Problem((T, T), 4, N=5, C=1, height=extent, width=max(1, extent - 1), half=half)
    check_transform(problem, launch)
    check_inverse(problem, launch, has_bias=True)


@pytest.mark.parametrize("samples", HALVES)
def test_planes_of_halves(samples: str) -> None:
    problem = Problem((6, 8), 4, N=3, C=1, height=6, width=7, steps=(1, 2, 2, 3), samples=samples)
    check_transform(problem, launch)
    check_inverse(problem, launch, has_bias=True)
    check_inverse(problem, launch, beta=-0.5)


@pytest.mark.parametrize("T", [32, 64])
def test_planes_of_large_lengths(T: int) -> None:
    problem = Problem((T, T), 2, N=1, C=3, height=T, width=T)
    check_transform(problem, launch)
    check_inverse(problem, launch)
    check_transform(replace(problem, C=1, height=T // 2, width=5, half=True), launch)
    check_inverse(replace(problem, C=1, height=T // 2, width=5, half=True), launch)


@pytest.mark.parametrize("size", [(2, 20), (20, 2), (6, 16), (14, 8), (10, 12)])
@pytest.mark.parametrize("half", [False, True], ids=["full", "half"])
def test_planes_of_unequal_sides(size: Size, half: bool, order: int | None) -> None:
    """Threads with several columns or rows, in numbers that do not come out even."""
    height, width = (T // 2 if half else T for T in size)
    problem = Problem(size, 4, N=5, C=1, height=height, width=max(1, width - 1), half=half)
    check_transform(problem, launch)
    check_inverse(problem, launch, has_bias=True)


@pytest.mark.parametrize("T", [6, 8, 14])
def test_round_trip(T: int) -> None:
    problem = Problem((T, T), 4, N=1, C=5, height=T, width=T)
    rng = np.random.default_rng(T)
    x = rng.standard_normal((1, 5, T, T)).astype(np.float32)
    y = np.full_like(x, np.nan)
    gX = np.full((bins((T, T)), problem.pitch), np.nan + 0j, np.complex64)
    numbers, grid = problem.numbers(x), fft2d.launch_grid(5, 4)
    run(fft2d.transform_kernel((T, T), 4), grid, (x, gX, *numbers))
    run(fft2d.inverse_kernel((T, T), 4), grid, (gX, y, None, *numbers, Epilogue(1 / (2 * T * T), 0.0)))
    assert np.linalg.norm(y - x) <= WORST * np.linalg.norm(x)


def test_old_values_are_added_only_on_request() -> None:
    """check_inverse poisons y where beta is 0: had it been read, the result would be NaN."""
    problem = Problem((8, 8), 2, N=1, C=3, height=6, width=5)
    check_inverse(problem, launch, has_bias=True)
    check_inverse(problem, launch, beta=-0.5)
    check_inverse(problem, launch, has_bias=True, beta=1.0)


def test_chunks_make_the_bits_of_the_whole() -> None:
    """Rows m from `first` on, of planes with segments on both axes, as one launch or as the end of one."""
    rows, columns = PlaneMap(-2, 5, 1, 0, 8, 3), PlaneMap(-1, 6, 1, 0, 8, 2)
    whole = Problem((8, 8), 4, N=2, C=2, height=15, width=11, rows=rows, columns=columns)
    _, view = whole.array()
    view[:] = np.random.default_rng(1).standard_normal(view.shape)
    results = []
    for problem in (whole, replace(whole, first=5)):
        check_transform(problem, launch)
        gX = np.zeros((bins((8, 8)), problem.pitch), np.complex64)
        grid = fft2d.launch_grid(problem.count, problem.B)
        run(fft2d.transform_kernel((8, 8), 4), grid, (view, gX, *problem.numbers(view)))
        results.append(gX[:, : problem.count])
    assert np.array_equal(results[0][:, 10:], results[1])


# ---- any map ---------------------------------------------------------------------------------------------------------


@st.composite
def axis_maps(draw: st.DrawFn, T: int, spaced: bool, half: bool, disjoint: bool) -> tuple[PlaneMap, int]:
    """A map and an extent; with `disjoint` no sample lies in two segments."""
    limit = draw(st.integers(1, T // 2 if half else T))
    first = draw(st.integers(0, limit - 1)) if draw(st.booleans()) else 0
    advance = draw(st.integers(limit - first, T + 2) if disjoint else st.integers(1, T + 2))
    spacing = draw(st.integers(1, 4)) if spaced else 1
    start, segments = draw(st.integers(-T - 1, T + 1)), draw(st.integers(1, 3))
    return PlaneMap(start, advance, spacing, first, limit, segments), draw(st.integers(1, 2 * T))


@st.composite
def problems(draw: st.DrawFn, disjoint: bool) -> Problem:
    sides, half, spaced = st.sampled_from((2, 4, 6, 8, 10)), draw(st.booleans()), draw(st.booleans())
    size = draw(sides), draw(sides)
    rows, height = draw(axis_maps(size[0], spaced, half, disjoint))
    columns, width = draw(axis_maps(size[1], spaced, half, disjoint))
    steps = tuple(draw(st.tuples(*[st.sampled_from((1, 1, 2, 3, -1, -2))] * 4)))
    N, C = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    first = draw(st.integers(0, N * rows.segments * columns.segments - 1))
    B, padding = draw(st.sampled_from((2, 4, 8))), draw(st.integers(0, 5))
    seed = draw(st.integers(0, 999))
    return Problem(size, B, N, C, height, width, rows, columns, steps, half, spaced, padding, first, seed)


@settings(max_examples=60)
@given(problems(disjoint=False))
def test_transform_through_any_map(problem: Problem) -> None:
    check_transform(problem, launch)


@settings(max_examples=60)
@given(problems(disjoint=True), st.booleans(), st.sampled_from((0.0, 0.0, 1.0, -0.5)))
def test_inverse_through_any_map(problem: Problem, has_bias: bool, beta: float) -> None:
    check_inverse(problem, launch, has_bias, beta)


def test_two_planes_of_a_pair_may_lie_in_different_segments() -> None:
    """One channel: the planes of a pair are neighbouring segments, or the last and the first of two images."""
    maps = PlaneMap(-3, 6, 2, 0, 8, 3), PlaneMap(2, 5, 2, 1, 7, 1)
    check_transform(Problem((8, 8), 4, N=3, C=1, height=8, width=7, rows=maps[0], columns=maps[1], spaced=True), launch)


# ---- the codelet -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [*SMALL, 21, 27, 32, 35, 49, 54, 64])
@pytest.mark.parametrize("sign", [-1, 1])
def test_codelet(T: int, sign: int) -> None:
    """Alone on a NumPy array, in float32."""
    rng = np.random.default_rng(T)
    x = rng.standard_normal(T) + 1j * rng.standard_normal(T)
    gz = np.array(x, np.complex64)
    run(_alone(T, sign), 1, (gz,))
    expected = np.fft.fft(x) if sign < 0 else np.fft.ifft(x) * T
    assert np.linalg.norm(gz - expected) <= 2e-7 * np.linalg.norm(expected)


def _alone(T: int, sign: int) -> Kernel:
    """A kernel of one thread that transforms one column."""
    fft = butterfly.make_fft(T, sign)

    def codelet(gz: Any) -> None:
        z = cuda.local.array(T, complex64)
        for i in range(T):
            z[i] = gz[i]
        fft(z)
        for i in range(T):
            gz[i] = z[i]

    return Kernel(f"codelet_t{T}", codelet, (COMPLEXES,), 1, 0)
