"""The compiled kernels, run by the PTX machine against their definitions in double precision: no GPU, no driver.

ptx_checks.py says what is run, by two processes: the quick set here and in CI, the full one with `pytest -m slow`.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import ptx_checks
import pytest
from machine_code import compiles
from product_problem import Problem, bins_of, multiply

from numba_fftconv.cuda import ptx_machine
from numba_fftconv.cuda.banks import Banks
from numba_fftconv.cuda.product import FORMS, product_kernel
from numba_fftconv.cuda.tiles import TILES, ProductConfig

pytestmark = compiles

T32 = TILES[5]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """The checks of this run, by name."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    names = [item.callspec.params["check"] for item in items if item.originalname in ("test_quick", "test_full")]
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    try:
        yield {name: pool.submit(ptx_checks.run, name) for name in names}
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("check", ptx_checks.QUICK)
def test_quick(check: str, results: dict[str, Future[None]]) -> None:
    results[check].result()


@pytest.mark.slow
@pytest.mark.parametrize("check", ptx_checks.FULL)
def test_full(check: str, results: dict[str, Future[None]]) -> None:
    results[check].result()


@pytest.mark.parametrize("config", TILES, ids=str)
@pytest.mark.parametrize("pass_name", FORMS)
def test_products_have_no_bank_conflicts(pass_name: str, config: ProductConfig) -> None:
    """Neither where a warp loads a slab nor where it copies one; 16 bytes a lane in loads."""
    problem, watch = Problem(pass_name, config.BM, config.BN, config.BK), Banks()
    multiply(partial(ptx_machine.run, observer=watch), problem, config, problem.arrays())
    assert {kind: accesses.ratio for kind, accesses in watch.kinds.items()} == {"cp.async.128": 1, "ld.128": 1}


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
    with pytest.raises(ptx_machine.RaceError, match=r"no wait between: .* at cp.async.* at ld.shared"):
        ptx_machine.run(kernel, (1, 1, 1), (a, b, y, problem.shape, problem.pitches), ptx)
