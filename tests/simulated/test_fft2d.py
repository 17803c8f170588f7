"""The transform and inverse kernels, lane by lane, against numpy.fft in float64 through any map, stride and chunk."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numba_fftconv.cuda import butterfly, fft2d
from numba_fftconv.cuda.fft2d import AxisMap, Epilogue, Planes, Strides
from numba_fftconv.cuda.simulator import Memory, run
from numba_fftconv.geometry import PlaneMap
from numba_fftconv.options import FFT_SIZES

WORST = 3e-7  # relative L2 error of a plane
SMALL = [T for T in FFT_SIZES if T <= 20]
IDENTITY = PlaneMap(0, 0, 1, 0, 64, 1)


@dataclass(frozen=True)
class Problem:
    """Planes of an array [N][C][height][width], how the array lies in memory, and the tiles that they are cut into."""

    T: int
    B: int
    N: int = 1
    C: int = 1
    height: int = 1
    width: int = 1
    rows: PlaneMap = IDENTITY
    columns: PlaneMap = IDENTITY
    steps: tuple[int, int, int, int] = (1, 1, 1, 1)  # of the view in its array
    half: bool = False
    spaced: bool = False
    padding: int = 3  # complex values between a bin and the next
    first: int = 0  # rows m that an earlier launch has done
    seed: int = 0

    @property
    def segments(self) -> int:
        return self.rows.segments * self.columns.segments

    @property
    def count(self) -> int:
        return (self.N * self.segments - self.first) * self.C

    @property
    def pitch(self) -> int:
        return self.count + self.padding

    def array(self) -> tuple[np.ndarray, np.ndarray]:
        """A poisoned array and the strided view that the planes are."""
        sizes = (self.N, self.C, self.height, self.width)
        base = np.full([n * abs(step) for n, step in zip(sizes, self.steps, strict=True)], np.nan, np.float32)
        return base, base[tuple(slice(None, None, step) for step in self.steps)]

    def numbers(self, view: np.ndarray, has_bias: bool = False) -> tuple[Planes, Strides, AxisMap, AxisMap]:
        down, across = self.rows.segments, self.columns.segments
        planes = Planes(self.count, self.first, self.C, self.height, self.width, down, across, int(has_bias))
        strides = Strides(*(stride // view.itemsize for stride in view.strides), self.pitch)
        return planes, strides, AxisMap(*self.rows.numbers), AxisMap(*self.columns.numbers)

    def windows(
        self, array: np.ndarray
    ) -> list[tuple[np.ndarray, int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Of every plane of the launch in order: its samples, its channel, positions and indices on both axes."""
        return [
            (array[n, c], c, *self.rows.places(down, self.height), *self.columns.places(across, self.width))
            for n in range(self.N)
            for down in range(self.rows.segments)
            for across in range(self.columns.segments)
            for c in range(self.C)
        ][self.first * self.C :]

    def tiles(self, array: np.ndarray) -> np.ndarray:
        """The tiles of the launch [p][T][T], in float64."""
        out = np.zeros((self.count, self.T, self.T))
        for tile, (plane, _, t, i, u, j) in zip(out, self.windows(array), strict=True):
            tile[np.ix_(t, u)] = plane[np.ix_(i, j)]
        return out


def spectrum(tiles: np.ndarray) -> np.ndarray:
    """Doubled compact spectra [f][p] by the definition."""
    T = tiles.shape[-1]
    ky, kx = fft2d.bin_order(T).T
    return 2 * np.fft.fft2(tiles.astype(np.float64))[:, ky, kx].T


def close(got: np.ndarray, expected: np.ndarray, scale: np.ndarray | None = None) -> None:
    """Of each plane p (last axis), relative to its pair: two planes travel as one complex plane."""
    error = np.linalg.norm(got.astype(complex) - expected, axis=0)
    size = np.linalg.norm(expected, axis=0) if scale is None else scale
    padded = np.append(size, 0) if len(size) % 2 else size
    pair = np.sqrt((padded.reshape(-1, 2) ** 2).sum(1)).repeat(2)[: len(size)]
    assert np.all(error <= WORST * pair + 1e-30), (error / np.maximum(pair, 1e-30)).max()


def check_transform(problem: Problem) -> None:
    rng = np.random.default_rng(problem.seed)
    base, view = problem.array()
    view[:] = rng.standard_normal(view.shape)
    before = base.copy()
    gX = np.full((fft2d.bins(problem.T), problem.pitch), np.nan + 0j, np.complex64)
    kernel = fft2d.transform_kernel(problem.T, problem.B, problem.half, problem.spaced)
    arguments = (Memory(view), Memory(gX), *problem.numbers(view))
    run(kernel, fft2d.launch_grid(problem.count, problem.B), arguments)
    close(gX[:, : problem.count], spectrum(problem.tiles(view)))
    assert np.isnan(gX[:, problem.count :]).all(), "wrote between bins"
    assert np.array_equal(base, before, equal_nan=True)


def check_inverse(problem: Problem, has_bias: bool = False, beta: float = 0.0) -> None:
    T, rng = problem.T, np.random.default_rng(problem.seed)
    tiles = rng.standard_normal((problem.count, T, T))
    gX = np.full((fft2d.bins(T), problem.pitch), np.nan + 0j, np.complex64)
    gX[:, : problem.count] = spectrum(tiles)
    bias = rng.standard_normal(problem.C).astype(np.float32)
    base, view = problem.array()
    if beta:
        view[:] = rng.standard_normal(view.shape)
    expected = base.astype(np.float64)
    out = expected[tuple(slice(None, None, step) for step in problem.steps)]
    for tile, (plane, c, t, i, u, j) in zip(tiles, problem.windows(out), strict=True):
        old = plane[np.ix_(i, j)] if beta else 0
        plane[np.ix_(i, j)] = 1.5 * tile[np.ix_(t, u)] + (bias[c] if has_bias else 0) + beta * old
    kernel = fft2d.inverse_kernel(T, problem.B, problem.half, problem.spaced, accumulate=beta != 0)
    epilogue = Epilogue(1.5 / (2 * T * T), beta)
    memory = Memory(bias) if has_bias else None
    spectrum_before = gX.copy()
    arguments = (Memory(gX), Memory(view), memory, *problem.numbers(view, has_bias), epilogue)
    run(kernel, fft2d.launch_grid(problem.count, problem.B), arguments)
    assert np.array_equal(np.isnan(base), np.isnan(expected)), "wrote what is not a sample, or missed one"
    held = ~np.isnan(expected)
    assert np.all(np.abs(base[held] - expected[held]) <= 2e-6 * np.sqrt(T))
    assert np.linalg.norm(base[held] - expected[held]) <= WORST * np.linalg.norm(expected[held]) * np.sqrt(
        2
    ) + 1e-30 or (held.sum() < T * T)
    assert np.array_equal(gX, spectrum_before, equal_nan=True)


# ---- whole planes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", SMALL)
@pytest.mark.parametrize("half", [False, True], ids=["full", "half"])
def test_planes_of_every_small_length(T: int, half: bool, order: int | None) -> None:
    """Five planes in blocks of four: a last block that is not full, an odd last plane."""
    extent = max(1, T // 2 if half else T)
    problem = Problem(T, 4, N=5, C=1, height=extent, width=max(1, extent - 1), half=half)
    check_transform(problem)
    check_inverse(problem, has_bias=True)


@pytest.mark.parametrize("T", [32, 64])
def test_planes_of_large_lengths(T: int) -> None:
    problem = Problem(T, 2, N=1, C=3, height=T, width=T)
    check_transform(problem)
    check_inverse(problem)
    check_transform(replace(problem, C=1, height=T // 2, width=5, half=True))
    check_inverse(replace(problem, C=1, height=T // 2, width=5, half=True))


@pytest.mark.parametrize("T", [6, 8, 14])
def test_round_trip(T: int) -> None:
    problem = Problem(T, 4, N=1, C=5, height=T, width=T)
    rng = np.random.default_rng(T)
    x = rng.standard_normal((1, 5, T, T)).astype(np.float32)
    y = np.full_like(x, np.nan)
    gX = np.full((fft2d.bins(T), problem.pitch), np.nan + 0j, np.complex64)
    numbers, grid = problem.numbers(x), fft2d.launch_grid(5, 4)
    run(fft2d.transform_kernel(T, 4), grid, (x, gX, *numbers))
    run(fft2d.inverse_kernel(T, 4), grid, (gX, y, None, *numbers, Epilogue(1 / (2 * T * T), 0.0)))
    assert np.linalg.norm(y - x) <= WORST * np.linalg.norm(x)


def test_old_values_are_added_only_on_request() -> None:
    """check_inverse poisons y where beta is 0: had it been read, the result would be NaN."""
    problem = Problem(8, 2, N=1, C=3, height=6, width=5)
    check_inverse(problem, has_bias=True)
    check_inverse(problem, beta=-0.5)
    check_inverse(problem, has_bias=True, beta=1.0)


def test_chunks_make_the_bits_of_the_whole() -> None:
    """Rows m from `first` on, of planes with segments on both axes, as one launch or as the end of one."""
    rows, columns = PlaneMap(-2, 5, 1, 0, 8, 3), PlaneMap(-1, 6, 1, 0, 8, 2)
    whole = Problem(8, 4, N=2, C=2, height=15, width=11, rows=rows, columns=columns)
    _, view = whole.array()
    view[:] = np.random.default_rng(1).standard_normal(view.shape)
    results = []
    for problem in (whole, replace(whole, first=5)):
        check_transform(problem)
        gX = np.zeros((fft2d.bins(8), problem.pitch), np.complex64)
        grid = fft2d.launch_grid(problem.count, problem.B)
        run(fft2d.transform_kernel(8, 4), grid, (view, gX, *problem.numbers(view)))
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
    T, half, spaced = draw(st.sampled_from((2, 4, 6, 8, 10))), draw(st.booleans()), draw(st.booleans())
    rows, height = draw(axis_maps(T, spaced, half, disjoint))
    columns, width = draw(axis_maps(T, spaced, half, disjoint))
    steps = tuple(draw(st.tuples(*[st.sampled_from((1, 1, 2, 3, -1, -2))] * 4)))
    N, C = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    first = draw(st.integers(0, N * rows.segments * columns.segments - 1))
    B, padding = draw(st.sampled_from((2, 4, 8))), draw(st.integers(0, 5))
    seed = draw(st.integers(0, 999))
    return Problem(T, B, N, C, height, width, rows, columns, steps, half, spaced, padding, first, seed)


@settings(max_examples=60)
@given(problems(disjoint=False))
def test_transform_through_any_map(problem: Problem) -> None:
    check_transform(problem)


@settings(max_examples=60)
@given(problems(disjoint=True), st.booleans(), st.sampled_from((0.0, 0.0, 1.0, -0.5)))
def test_inverse_through_any_map(problem: Problem, has_bias: bool, beta: float) -> None:
    check_inverse(problem, has_bias, beta)


def test_two_planes_of_a_pair_may_lie_in_different_segments() -> None:
    """One channel: the planes of a pair are neighbouring segments, or the last and the first of two images."""
    maps = PlaneMap(-3, 6, 2, 0, 8, 3), PlaneMap(2, 5, 2, 1, 7, 1)
    check_transform(Problem(8, 4, N=3, C=1, height=8, width=7, rows=maps[0], columns=maps[1], spaced=True))


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


def _alone(T: int, sign: int):  # type: ignore[no-untyped-def]
    from typing import Any

    from numba import complex64, cuda

    from numba_fftconv.cuda.toolchain import COMPLEXES, Kernel

    fft = butterfly.make_fft(T, sign)

    def codelet(gz: Any) -> None:
        z = cuda.local.array(T, complex64)
        for i in range(T):
            z[i] = gz[i]
        fft(z)
        for i in range(T):
            gz[i] = z[i]

    return Kernel(f"codelet_t{T}", codelet, (COMPLEXES,), 1, 0)
