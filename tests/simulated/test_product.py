"""The product kernels lane by lane in the simulator, against complex128."""

import itertools

import numpy as np
import pytest
from product_problem import (
    TOLERANCE,
    Problem,
    bins_of,
    check_chunks,
    check_pointwise,
    check_product,
    multiply,
    random,
)

from numba_fftconv.cuda import pointwise
from numba_fftconv.cuda.product import FORMS, Pitches, launches, product_kernel
from numba_fftconv.cuda.simulator import run
from numba_fftconv.cuda.tensor_tiles import TENSOR_TILES, TensorConfig
from numba_fftconv.cuda.tiles import TILES, ProductConfig

pytestmark = pytest.mark.usefixtures("order")

T64, T32 = TILES[3], TILES[5]
TENSOR32, TENSOR64 = (
    {name: next(tile for tile in tiles if str(tile) == size) for name, tiles in TENSOR_TILES.items()}
    for size in ("32x32", "64x64")
)


@pytest.mark.parametrize("config", TILES, ids=str)
@pytest.mark.parametrize("pass_name", FORMS)
@pytest.mark.parametrize("odd", [0, 1], ids=["even", "odd"])
def test_every_tile(pass_name: str, config: ProductConfig, odd: int) -> None:
    """One block, ragged on every side, a depth of more slabs than are kept."""
    depth = config.BK * (config.stages + 1) - 2 + odd
    check_product(run, Problem(pass_name, config.BM - 2 - odd, config.BN - 4 + odd, depth, gap=2), config)


@pytest.mark.parametrize("pass_name", FORMS)
@pytest.mark.parametrize(
    "rows, columns, depth",
    [(1, 1, 1), (2, 2, 2), (1, 34, 8), (33, 1, 17), (32, 32, 16), (34, 66, 15), (31, 33, 32), (65, 6, 3)],
)
def test_ragged(pass_name: str, rows: int, columns: int, depth: int) -> None:
    """Extents about a tile and a slab, several blocks and bins, pitches of odd and even gaps."""
    for gap, bins in ((0, 1), (3, 2), (4, 2)):
        check_product(run, Problem(pass_name, rows, columns, depth, bins, gap=gap), T32)


@pytest.mark.parametrize("pass_name", FORMS)
def test_narrow_copies_of_even_rows(pass_name: str) -> None:
    check_product(run, Problem(pass_name, 36, 34, 18, 2, gap=2), T32, vec=1)


@pytest.mark.parametrize("pass_name", FORMS)
@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("rows, columns, depth", [(4, 6, 10), (5, 3, 7), (34, 2, 18)])
def test_groups(pass_name: str, groups: int, rows: int, columns: int, depth: int) -> None:
    check_product(run, Problem(pass_name, rows, columns, depth, 2, groups, gap=6, accumulate=groups == 3), T32)


@pytest.mark.parametrize("pass_name", FORMS)
@pytest.mark.parametrize("config", [T64, T32], ids=str)
def test_sums_go_on(pass_name: str, config: ProductConfig) -> None:
    check_product(run, Problem(pass_name, 35, 33, 9, 2, gap=1, accumulate=True), config)


@pytest.mark.parametrize("cuts", [(16, 34), (1, 20), (7, 8)], ids=str)
def test_a_depth_in_chunks_has_the_same_bits(cuts: tuple[int, int]) -> None:
    """Wherever they are cut."""
    check_chunks(run, T32, cuts)


@pytest.mark.parametrize("config", TENSOR64.values(), ids=TENSOR64)
@pytest.mark.parametrize("pass_name", FORMS)
def test_large_tensor_tiles(pass_name: str, config: TensorConfig) -> None:
    check_product(run, Problem(pass_name, config.BM - 2, config.BN + 2, 34, gap=2), config)


@pytest.mark.parametrize("config", TENSOR32.values(), ids=TENSOR32)
@pytest.mark.parametrize("pass_name", FORMS)
@pytest.mark.parametrize("rows, columns, depth", [(1, 1, 1), (2, 34, 8), (33, 1, 17), (31, 33, 9)])
def test_ragged_on_tensor_cores(pass_name: str, config: TensorConfig, rows: int, columns: int, depth: int) -> None:
    check_product(run, Problem(pass_name, rows, columns, depth, 2, 2, gap=3, accumulate=depth == 9), config)


@pytest.mark.parametrize("config", TENSOR32.values(), ids=TENSOR32)
def test_a_depth_cut_between_slabs_has_the_same_bits(config: TensorConfig) -> None:
    """At multiples of 8 steps, as the schedule cuts it."""
    check_chunks(run, config, (16, 24))


@pytest.mark.parametrize("precision", TENSOR_TILES)
def test_tensor_tiles_agree_bit_by_bit(precision: str) -> None:
    problem = Problem("forward", 12, 14, 34)
    arrays = problem.arrays()
    results = [multiply(run, problem, config, arrays, vec) for config in TENSOR_TILES[precision] for vec in (1, 2)]
    for result in results[1:]:
        np.testing.assert_array_equal(results[0].view(np.uint64), result.view(np.uint64))


def test_tiles_agree_bit_by_bit() -> None:
    """Every element is summed in the same order whatever the tile."""
    problem = Problem("forward", 12, 14, 34)
    arrays = problem.arrays()
    configs = (TILES[1], T64, T32, *TILES[6:])
    results = [multiply(run, problem, config, arrays, vec) for config in configs for vec in (1, 2)]
    for result in results[1:]:
        np.testing.assert_array_equal(results[0].view(np.uint64), result.view(np.uint64))


def test_launches_cut_the_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches over some of the bins, each with pointers moved on, make up the product."""
    monkeypatch.setattr("numba_fftconv.cuda.product.GRID_LIMIT", 5)
    problem = Problem("input_grad", 5, 6, 4, bins=5, groups=2, gap=2)
    arrays = problem.arrays()
    a, b, y = (bins_of(x, problem.gap) for x in arrays)
    kernel = product_kernel("input_grad", T32, 2)
    for first, _, blocks in launches(T32, problem.rows, problem.columns, problem.bins, problem.groups):
        views = [x[first * pitch :] for x, pitch in zip((a, b, y), problem.pitches, strict=True)]
        run(kernel, blocks, (*views, problem.shape, problem.pitches))
    problem.check(y, *arrays)


@pytest.mark.parametrize("pass_name", FORMS)
@pytest.mark.parametrize("multiplier", [1, 2, 3])
@pytest.mark.parametrize("rows, channels", [(1, 1), (3, 5), (34, 4), (33, 50)])
@pytest.mark.parametrize("accumulate", [False, True])
def test_pointwise(pass_name: str, multiplier: int, rows: int, channels: int, accumulate: bool) -> None:
    check_pointwise(run, pass_name, rows, channels, multiplier, accumulate)


def test_pointwise_chunks_have_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    dy, x = random(rng, 11, 6), random(rng, 11, 3)
    kernel = pointwise.pointwise_kernel("weight_grad")

    def weights(cuts: tuple[int, ...]) -> np.ndarray:
        w = np.full(6, np.nan, np.complex64)
        for first, last in itertools.pairwise((0, *cuts, 11)):
            shape = pointwise.Depthwise(last - first, 3, 2, int(first > 0))
            arguments = dy[first:last].reshape(-1), x[first:last].reshape(-1), w, shape, Pitches(0, 0, 0)
            run(kernel, pointwise.grid("weight_grad", shape, 1), arguments)
        return w

    np.testing.assert_array_equal(weights(()).view(np.uint64), weights((3, 8)).view(np.uint64))


def test_the_definition_notices_a_wrong_sign() -> None:
    """The test of the tests."""
    problem = Problem("forward", 3, 4, 5)
    a, b, y = problem.arrays()
    wrong = multiply(run, problem, T32, (a, b.conj(), y))
    values, sizes = problem.expected(a, b, y)
    assert abs(wrong.reshape(y.shape) - values).max() > 1e4 * TOLERANCE * sizes.max()
