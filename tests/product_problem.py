"""Random problems for the product kernels, laid out as the engine lays spectra out, and their definition in complex128.

Between the end of a bin and its pitch lies NaN: a kernel that reads it shows in the result, one that writes it in
`check`. So does an element of Y that nobody wrote.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from numba_fftconv.cuda import pointwise
from numba_fftconv.cuda.block_tile import BlockTile
from numba_fftconv.cuda.product import Pitches, Shape, grid, product_kernel, vector_width
from numba_fftconv.cuda.toolchain import Kernel

NAN = np.complex64(complex(np.nan, np.nan))
EQUATIONS = {"forward": "fmc,fkc->fmk", "input_grad": "fmk,fkc->fmc", "weight_grad": "fmk,fmc->fkc"}
TOLERANCE = 3e-7  # of the largest sum of magnitudes
TOLERANCES = {"fp32": TOLERANCE, "tf32x3": TOLERANCE, "bf16x3": 1e-5, "tf32": 5e-4}
Launch = Callable[[Kernel, tuple[int, int, int], tuple[Any, ...]], None]  # whatever runs a kernel


def bins_of(values: np.ndarray, gap: int) -> np.ndarray:
    """[bin][row][column] as a flat array with a gap of NaN behind every bin."""
    flat = np.full((len(values), values[0].size + gap), NAN, np.complex64)
    flat[:, : values[0].size] = values.reshape(len(values), -1)
    return flat.reshape(-1)


def random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@dataclass(frozen=True)
class Problem:
    """One product a bin and group; `gap` complex values of nothing behind each bin."""

    pass_name: str
    rows: int
    columns: int
    depth: int
    bins: int = 1
    groups: int = 1
    gap: int = 0
    accumulate: bool = False

    @property
    def extents(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Rows and columns of A, B and Y."""
        m, n, k, g = self.rows, self.columns, self.depth, self.groups
        return {
            "forward": ((m, g * k), (g * n, k), (m, g * n)),
            "input_grad": ((m, g * k), (g * k, n), (m, g * n)),
            "weight_grad": ((k, g * m), (k, g * n), (g * m, n)),
        }[self.pass_name]

    @property
    def shape(self) -> Shape:
        (_, lda), (_, ldb), (_, ldy) = self.extents
        return Shape(self.rows, self.columns, self.depth, lda, ldb, ldy, self.groups, int(self.accumulate))

    @property
    def pitches(self) -> Pitches:
        return Pitches(*(rows * columns + self.gap for rows, columns in self.extents))

    def arrays(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A, B and what Y holds before, each [bin][row][column]; Y is NaN where it is not added to."""
        rng = np.random.default_rng(seed)
        a, b, y = (random(rng, self.bins, *extent) for extent in self.extents)
        return a, b, y if self.accumulate else np.full_like(y, NAN)

    def groups_of(self, *arrays: np.ndarray) -> Iterator[list[np.ndarray]]:
        """Each group's part of A, B and Y."""
        axes = (2, 2, 1) if self.pass_name == "weight_grad" else (2, 1, 2)
        parts = (np.split(x, self.groups, axis) for x, axis in zip(arrays, axes, strict=True))
        yield from (list(of_one) for of_one in zip(*parts, strict=True))

    def expected(self, a: np.ndarray, b: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The definition, and the sum of magnitudes that its error is measured by."""
        values, sizes = np.zeros(y.shape, complex), np.zeros(y.shape)
        equation = EQUATIONS[self.pass_name]
        parts = zip(self.groups_of(a, b, values), self.groups_of(a, b, sizes), strict=True)
        for (x, w, value), (_, _, size) in parts:
            x, w = x.astype(complex), w.astype(complex)
            size[...] = np.einsum(equation, abs(x), abs(w)) / 2
            x, w = x.conj() if self.pass_name == "weight_grad" else x, w.conj() if self.pass_name == "forward" else w
            value[...] = np.einsum(equation, x, w) / 2
        if self.accumulate:
            values, sizes = values + y, sizes + abs(y)
        return values, sizes

    def check(self, got: np.ndarray, a: np.ndarray, b: np.ndarray, y: np.ndarray, precision: str = "fp32") -> None:
        """A flat result with its gaps against the definition."""
        bins = got.reshape(self.bins, -1)
        inside = y[0].size
        assert np.isnan(bins[:, inside:]).all(), f"{self}: written between the bins"
        values, sizes = self.expected(a, b, y)
        error = abs(bins[:, :inside].reshape(y.shape) - values).max() / sizes.max()
        assert error < TOLERANCES[precision], f"{self}: error {error:.2e} of the sum of magnitudes"


def multiply(
    launch: Launch, problem: Problem, config: BlockTile, arrays: tuple[np.ndarray, ...], vec: int | None = None
) -> np.ndarray:
    """Run a problem; the flat Y with its gaps."""
    flat = [bins_of(x, problem.gap) for x in arrays]
    before = [x.copy() for x in flat[:2]]
    widest = vector_width(problem.pass_name, problem.shape, problem.pitches, config.precision)
    assert vec is None or vec <= widest
    kernel = product_kernel(problem.pass_name, config, vec or widest)
    blocks = grid(config, problem.rows, problem.columns, problem.bins, problem.groups)
    launch(kernel, blocks, (*flat, problem.shape, problem.pitches))
    for x, y in zip(before, flat[:2], strict=True):
        np.testing.assert_array_equal(x, y)
    return flat[2]


def check_product(launch: Launch, problem: Problem, config: BlockTile, vec: int | None = None) -> None:
    arrays = problem.arrays()
    problem.check(multiply(launch, problem, config, arrays, vec), *arrays, config.precision)


def check_chunks(launch: Launch, config: BlockTile, cuts: tuple[int, ...]) -> None:
    """Chunks of m in weight_grad, each going on from twice what the last one stored, have the bits of the whole."""
    whole = Problem("weight_grad", 20, 18, 37)
    a, b, y = whole.arrays()
    once = multiply(launch, whole, config, (a, b, y))
    for first, last in itertools.pairwise((0, *cuts, 37)):
        part = Problem("weight_grad", 20, 18, last - first, accumulate=first > 0)
        y = multiply(launch, part, config, (a[:, first:last], b[:, first:last], y)).reshape(y.shape)
    np.testing.assert_array_equal(once.view(np.uint64), y.reshape(-1).view(np.uint64))


def check_pointwise(
    launch: Launch, pass_name: str, rows: int, channels: int, multiplier: int, accumulate: bool
) -> None:
    """One channel a group is the product with groups of depth, columns or rows of 1."""
    m, n, k = {
        "forward": (rows, multiplier, 1),
        "input_grad": (rows, 1, multiplier),
        "weight_grad": (multiplier, 1, rows),
    }[pass_name]
    problem = Problem(pass_name, m, n, k, 2, channels, gap=3, accumulate=accumulate)
    arrays = problem.arrays()
    flat = [bins_of(x, problem.gap) for x in arrays]
    shape = pointwise.Depthwise(rows, channels, multiplier, int(accumulate))
    blocks = pointwise.grid(pass_name, shape, 2)
    launch(pointwise.pointwise_kernel(pass_name), blocks, (*flat, shape, problem.pitches))
    problem.check(flat[2], *arrays)
