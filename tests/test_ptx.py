"""The compiled product kernels, run by the machine of ptx_machine.py, against complex128: no GPU, no driver."""

from functools import partial

import numpy as np
import pytest
from machine_code import compiles
from product_problem import Problem, bins_of, check_chunks, check_pointwise, check_product, multiply

from numba_fftconv.cuda import ptx_machine
from numba_fftconv.cuda.product import FORMS, product_kernel
from numba_fftconv.cuda.tiles import TILES, ProductConfig

pytestmark = compiles

T64, T32 = TILES[3], TILES[5]


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
    check_product(ptx_machine.run, Problem(pass_name, rows, columns, depth, bins, groups, gap, accumulate), config)


@pytest.mark.parametrize("config", [TILES[0], TILES[1], TILES[2], TILES[4], TILES[6], TILES[7]], ids=str)
@pytest.mark.parametrize("pass_name", FORMS)
def test_other_tiles(pass_name: str, config: ProductConfig) -> None:
    check_product(ptx_machine.run, Problem(pass_name, config.BM - 2, config.BN - 4, config.BK + 2, gap=2), config)


def test_a_depth_in_chunks_has_the_same_bits() -> None:
    check_chunks(ptx_machine.run, T32, (16, 19))


@pytest.mark.parametrize("pass_name", FORMS)
@pytest.mark.parametrize("multiplier, accumulate", [(1, False), (3, True)])
def test_pointwise(pass_name: str, multiplier: int, accumulate: bool) -> None:
    check_pointwise(ptx_machine.run, pass_name, 35, 50, multiplier, accumulate)


@pytest.mark.parametrize("config", TILES, ids=str)
@pytest.mark.parametrize("pass_name", FORMS)
def test_shared_loads_have_no_bank_conflicts(pass_name: str, config: ProductConfig) -> None:
    """Each quarter of a warp touches every group of four banks at one address at most."""
    quarters: list[set[int]] = []

    class Watch(ptx_machine.Observer):
        def access(
            self, instruction: ptx_machine.Instruction, space: str, address: np.ndarray, size: int, thread: np.ndarray
        ) -> None:
            if space == "shared" and instruction.words[0] == "ld":
                assert size == 16
                quarters.extend(set(quarter) for quarter in (address // 16).reshape(-1, 8).tolist())

    problem = Problem(pass_name, 2, 2, 2)
    multiply(partial(ptx_machine.run, observer=Watch()), problem, config, problem.arrays())
    assert quarters and all(len({at % 8 for at in quarter}) == len(quarter) for quarter in quarters)


def test_an_access_outside_is_seen() -> None:
    """The test of the tests: an array one row short."""
    problem = Problem("forward", 4, 4, 4)
    a, b, y = (bins_of(x, 0) for x in problem.arrays())
    kernel = product_kernel("forward", T32, 2)
    arguments = a[:-4].copy(), b, y, problem.shape, problem.pitches
    with pytest.raises(IndexError, match="outside of the arrays"):
        ptx_machine.run(kernel, (1, 1, 1), arguments)


def test_a_missing_wait_is_seen() -> None:
    problem = Problem("forward", 4, 4, 4)
    a, b, y = (bins_of(x, 0) for x in problem.arrays())
    kernel = product_kernel("forward", T32, 2)
    ptx = ptx_machine.ptx_of(kernel).replace("cp.async.wait_group 0", "cp.async.wait_group 9")
    with pytest.raises(ptx_machine.RaceError, match="no wait between: .* at cp.async.* at ld.shared"):
        ptx_machine.run(kernel, (1, 1, 1), (a, b, y, problem.shape, problem.pitches), ptx)
