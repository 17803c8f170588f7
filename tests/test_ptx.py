"""The compiled product kernels, run by the machine of ptx_machine.py, against complex128: no GPU, no driver."""

from functools import cache

import numpy as np
import ptx_machine
import pytest
from product_problem import Problem, bins_of

from numba_fftconv.cuda import pointwise
from numba_fftconv.cuda.product import FORMS, grid, product_kernel, vector_width
from numba_fftconv.cuda.tiles import TILES, ProductConfig
from numba_fftconv.cuda.toolchain import SIMULATED, Kernel, build, is_numba_cuda

pytestmark = pytest.mark.skipif(SIMULATED or not is_numba_cuda(), reason="compiles with NVIDIA's numba-cuda")

T64, T32 = TILES[3], TILES[5]


@cache
def ptx_of(kernel: Kernel) -> str:
    return build(kernel, (9, 0)).ptx


def multiply(problem: Problem, config: ProductConfig, arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    flat = [bins_of(x, problem.gap) for x in arrays]
    before = [x.copy() for x in flat[:2]]
    kernel = product_kernel(problem.pass_name, config, vector_width(problem.pass_name, problem.shape, problem.pitches))
    blocks = grid(config, problem.rows, problem.columns, problem.bins, problem.groups)
    ptx_machine.run(
        ptx_of(kernel), blocks, kernel.threads, kernel.shared_bytes, (*flat, problem.shape, problem.pitches)
    )
    for x, y in zip(before, flat[:2], strict=True):
        np.testing.assert_array_equal(x, y)
    return flat[2]


@pytest.mark.parametrize("config", [T64, T32], ids=str)
@pytest.mark.parametrize("pass_name", FORMS)
@pytest.mark.parametrize(
    "rows, columns, depth, bins, groups, gap, accumulate",
    [
        (70, 66, 38, 1, 1, 0, False),
        (37, 35, 21, 1, 1, 1, True),
        (5, 3, 9, 2, 2, 3, False),
        (34, 6, 4, 2, 2, 2, True),
        (1, 1, 1, 1, 1, 0, False),
    ],
)
def test_product(
    pass_name: str,
    config: ProductConfig,
    rows: int,
    columns: int,
    depth: int,
    bins: int,
    groups: int,
    gap: int,
    accumulate: bool,
) -> None:
    problem = Problem(pass_name, rows, columns, depth, bins, groups, gap, accumulate)
    arrays = problem.arrays()
    problem.check(multiply(problem, config, arrays), *arrays)


@pytest.mark.parametrize("config", [TILES[0], TILES[1], TILES[2], TILES[4], TILES[6], TILES[7]], ids=str)
@pytest.mark.parametrize("pass_name", FORMS)
def test_other_tiles(pass_name: str, config: ProductConfig) -> None:
    problem = Problem(pass_name, config.BM - 2, config.BN - 4, config.BK + 2, gap=2)
    arrays = problem.arrays()
    problem.check(multiply(problem, config, arrays), *arrays)


def test_a_depth_in_chunks_has_the_same_bits() -> None:
    a, b, y = Problem("weight_grad", 20, 18, 37).arrays()
    once = multiply(Problem("weight_grad", 20, 18, 37), T32, (a, b, y))
    for first, last in ((0, 16), (16, 19), (19, 37)):
        part = Problem("weight_grad", 20, 18, last - first, accumulate=first > 0)
        y = multiply(part, T32, (a[:, first:last], b[:, first:last], y)).reshape(y.shape)
    np.testing.assert_array_equal(once.view(np.uint64), y.reshape(-1).view(np.uint64))


@pytest.mark.parametrize("pass_name", FORMS)
@pytest.mark.parametrize("multiplier, accumulate", [(1, False), (3, True)])
def test_pointwise(pass_name: str, multiplier: int, accumulate: bool) -> None:
    rows, channels = 35, 50
    m, n, k = {
        "forward": (rows, multiplier, 1),
        "input_grad": (rows, 1, multiplier),
        "weight_grad": (multiplier, 1, rows),
    }[pass_name]
    problem = Problem(pass_name, m, n, k, 2, channels, gap=3, accumulate=accumulate)
    arrays = problem.arrays()
    flat = [bins_of(x, problem.gap) for x in arrays]
    shape = pointwise.Depthwise(rows, channels, multiplier, int(accumulate))
    kernel = pointwise.pointwise_kernel(pass_name)
    blocks = pointwise.grid(pass_name, shape, 2)
    ptx_machine.run(ptx_of(kernel), blocks, kernel.threads, 0, (*flat, shape, problem.pitches))
    problem.check(flat[2], *arrays)


@pytest.mark.parametrize("config", TILES, ids=str)
@pytest.mark.parametrize("pass_name", FORMS)
def test_shared_loads_have_no_bank_conflicts(
    pass_name: str, config: ProductConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each quarter of a warp touches every group of four banks at one address at most."""
    move, quarters = ptx_machine.Block.move, []

    def watch(block: ptx_machine.Block, op: list[str], arguments: list[str], active: np.ndarray) -> None:
        if op[:2] == ["ld", "shared"]:
            assert "v4" in op
            quarters.extend(set(quarter) for quarter in (block.address(arguments[1]) // 16).reshape(-1, 8).tolist())
        move(block, op, arguments, active)

    monkeypatch.setattr(ptx_machine.Block, "move", watch)
    problem = Problem(pass_name, 2, 2, 2)
    multiply(problem, config, problem.arrays())
    assert quarters and all(len({at % 8 for at in quarter}) == len(quarter) for quarter in quarters)


def test_an_access_outside_is_seen() -> None:
    """The test of the tests: an array one row short."""
    problem = Problem("forward", 4, 4, 4)
    a, b, y = (bins_of(x, 0) for x in problem.arrays())
    kernel = product_kernel("forward", T32, 2)
    arguments = a[:-4].copy(), b, y, problem.shape, problem.pitches
    with pytest.raises(IndexError, match="outside of the arrays"):
        ptx_machine.run(ptx_of(kernel), (1, 1, 1), kernel.threads, kernel.shared_bytes, arguments)


def test_a_missing_wait_is_seen() -> None:
    problem = Problem("forward", 4, 4, 4)
    a, b, y = (bins_of(x, 0) for x in problem.arrays())
    kernel = product_kernel("forward", T32, 2)
    ptx = ptx_of(kernel).replace("cp.async.wait_group 0", "cp.async.wait_group 9")
    ptx_machine.run(ptx, (1, 1, 1), kernel.threads, kernel.shared_bytes, (a, b, y, problem.shape, problem.pitches))
    assert np.isnan(y).all()
