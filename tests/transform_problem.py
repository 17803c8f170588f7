"""Random planes for the transform kernels, however they lie in memory, and their spectra by the definition in float64.

What a kernel must not touch is NaN: the gaps of a strided array, the end of a bin up to its pitch, outputs before.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from numba_fftconv.cuda import columns_pass, fft2d, middle, rows_pass, two_pass
from numba_fftconv.cuda.planes import AxisMap, Epilogue, Planes, Strides
from numba_fftconv.cuda.toolchain import Kernel
from numba_fftconv.dtypes import numpy_dtype, rounded, widened
from numba_fftconv.geometry import PlaneMap
from numba_fftconv.integers import Size, area, bin_order, bins

WORST = 3e-7  # relative L2 error of a pair of planes
IN_CI = (2, 6, 8, 10, 14, 16, 32, 64)  # lengths of every kind of butterflies; all others are in the full sets
IDENTITY = PlaneMap(0, 0, 1, 0, 256, 1)
UNIT = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # half of the last place, relative


def stored(values: np.ndarray, samples: str) -> np.ndarray:
    """Numbers as an array of samples: float32, or the bits of halves."""
    made = rounded(np.asarray(values, np.float32), samples)
    return made if samples == "float32" else made.view(np.uint16)


def loaded(array: np.ndarray, samples: str) -> np.ndarray:
    """Samples as numbers."""
    return array if samples == "float32" else widened(array.view(numpy_dtype(samples)))


@dataclass(frozen=True)
class Problem:
    """Planes of an array [N][C][height][width], how the array lies in memory, and the tiles that they are cut into."""

    size: Size
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
    samples: str = "float32"
    middle_chunk: int = 32  # planes between the passes of a large transform

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
        lengths = [n * abs(step) for n, step in zip(sizes, self.steps, strict=True)]
        base = stored(np.full(lengths, np.nan), self.samples)
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
        """The tiles of the launch [p][row][column], in float64."""
        out = np.zeros((self.count, *self.size))
        for tile, (plane, _, t, i, u, j) in zip(out, self.windows(array), strict=True):
            tile[np.ix_(t, u)] = plane[np.ix_(i, j)]
        return out


def spectrum(tiles: np.ndarray) -> np.ndarray:
    """Doubled compact spectra [f][p] by the definition."""
    ky, kx = np.array(bin_order(tiles.shape[-2:])).T
    return 2 * np.fft.fft2(tiles.astype(np.float64))[:, ky, kx].T


def close(got: np.ndarray, expected: np.ndarray, scale: np.ndarray | None = None) -> None:
    """Of each plane p (last axis), relative to its pair: two planes travel as one complex plane."""
    error = np.linalg.norm(got.astype(complex) - expected, axis=0)
    size = np.linalg.norm(expected, axis=0) if scale is None else scale
    padded = np.append(size, 0) if len(size) % 2 else size
    pair = np.sqrt((padded.reshape(-1, 2) ** 2).sum(1)).repeat(2)[: len(size)]
    assert np.all(error <= WORST * pair + 1e-30), (error / np.maximum(pair, 1e-30)).max()


def tile_size(tiles: np.ndarray) -> float:
    """The root mean square of all samples, those that are cropped too: each bin's rounding reaches every sample."""
    return float(np.sqrt(np.mean(tiles**2))) * 1.5 + 1


class Pointer(NamedTuple):
    """A pointer to the first element of a view; `base` is all that may be touched."""

    base: np.ndarray
    view: np.ndarray


Launch = Callable[[Kernel, tuple[int, int, int], tuple[Any, ...]], None]


def middles(problem: Problem) -> Iterator[tuple[middle.Middle, Pointer]]:
    """Chunks of planes between two passes, and for each the memory of V, poisoned."""
    width, nbytes = max(1, problem.columns.end(problem.width)), 8 * problem.size[0] // 2 * problem.middle_chunk
    for some in middle.middles(problem.size, width, problem.count, nbytes * width):
        V = np.full((problem.size[0] // 2, width, some.pitch), np.nan + 0j, np.complex64)
        yield some, Pointer(V, V)


def transform(problem: Problem, launch: Launch, gx: Pointer, gX: Pointer, *numbers: Any) -> None:
    """Launch what transforms planes."""
    size, spaced = problem.size, problem.spaced
    if not middle.is_large(size):
        kernel = fft2d.transform_kernel(size, problem.B, problem.half, spaced, problem.samples)
        launch(kernel, fft2d.launch_grid(problem.count, problem.B), (gx, gX, *numbers))
        return
    for some, gV in middles(problem):
        grid = two_pass.columns_grid(size[0], some)
        launch(columns_pass.columns_kernel(size[0], spaced, problem.samples), grid, (gx, gV, *numbers, some))
        last = numbers[1], some, size[0] // 2
        launch(rows_pass.rows_kernel(size[1]), two_pass.rows_grid(size, some), (gV, gX, *last))


def inverse(
    problem: Problem, launch: Launch, accumulate: bool, gX: Pointer, gy: Pointer, gbias: Pointer | None, *numbers: Any
) -> None:
    """Launch what makes planes of their spectra."""
    size, spaced = problem.size, problem.spaced
    if not middle.is_large(size):
        kernel = fft2d.inverse_kernel(size, problem.B, problem.half, spaced, accumulate, problem.samples)
        launch(kernel, fft2d.launch_grid(problem.count, problem.B), (gX, gy, gbias, *numbers))
        return
    for some, gV in middles(problem):
        first = numbers[1], some, size[0] // 2
        launch(rows_pass.inverse_rows_kernel(size[1]), two_pass.rows_grid(size, some), (gX, gV, *first))
        kernel = columns_pass.inverse_columns_kernel(size[0], spaced, accumulate, problem.samples)
        launch(kernel, two_pass.columns_grid(size[0], some), (gV, gy, gbias, *numbers, some))


def check_transform(problem: Problem, launch: Launch) -> None:
    """Run the transform; `launch` takes for each pointer the array and the view of it that the pointer points to."""
    rng = np.random.default_rng(problem.seed)
    base, view = problem.array()
    view[:] = stored(rng.standard_normal(view.shape), problem.samples)
    before = base.copy()
    gX = np.full((bins(problem.size), problem.pitch), np.nan + 0j, np.complex64)
    transform(problem, launch, Pointer(base, view), Pointer(gX, gX), *problem.numbers(view))
    close(gX[:, : problem.count], spectrum(problem.tiles(loaded(view, problem.samples))))
    assert np.isnan(gX[:, problem.count :]).all(), "wrote between bins"
    assert np.array_equal(base, before, equal_nan=True)


def check_inverse(problem: Problem, launch: Launch, has_bias: bool = False, beta: float = 0.0) -> None:
    """Run the inverse on spectra of random tiles; where beta is 0 the old y is NaN."""
    size, rng = problem.size, np.random.default_rng(problem.seed)
    tiles = rng.standard_normal((problem.count, *size))
    gX = np.full((bins(size), problem.pitch), np.nan + 0j, np.complex64)
    gX[:, : problem.count] = spectrum(tiles)
    bias = stored(rng.standard_normal(problem.C), problem.samples)
    base, view = problem.array()
    if beta:
        view[:] = stored(rng.standard_normal(view.shape), problem.samples)
    expected, added = loaded(base, problem.samples).astype(np.float64), loaded(bias, problem.samples)
    out = expected[tuple(slice(None, None, step) for step in problem.steps)]
    for tile, (plane, c, t, i, u, j) in zip(tiles, problem.windows(out), strict=True):
        old = plane[np.ix_(i, j)] if beta else 0
        plane[np.ix_(i, j)] = 1.5 * tile[np.ix_(t, u)] + (added[c] if has_bias else 0) + beta * old
    epilogue = Epilogue(1.5 / (2 * area(size)), beta)
    memory = Pointer(bias, bias) if has_bias else None
    spectrum_before = gX.copy()
    pointers = Pointer(gX, gX), Pointer(base, view), memory
    inverse(problem, launch, beta != 0, *pointers, *problem.numbers(view, has_bias), epilogue)
    got, held = loaded(base, problem.samples), ~np.isnan(expected)
    assert np.array_equal(~np.isnan(got), held), "wrote what is not a sample, or missed one"
    error, size, rounding = got[held] - expected[held], tile_size(tiles), UNIT[problem.samples] * np.abs(expected[held])
    assert np.all(np.abs(error) <= 3e-6 * size + rounding), "a sample is wrong"
    whole = max(np.linalg.norm(expected[held]), size * np.sqrt(held.sum()))
    assert np.linalg.norm(error) <= 2 * WORST * whole + np.linalg.norm(rounding)
    assert np.array_equal(gX, spectrum_before, equal_nan=True)
