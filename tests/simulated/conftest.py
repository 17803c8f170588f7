"""Tests of kernels as plain Python: collected only under NUMBA_ENABLE_CUDASIM=1, as tests/test_simulator.py runs them.

A test that names the fixture `order` runs with lanes in a drawn order, which shows a missing barrier, and in the full
set in the order of their numbers too. Each test starts with the scheduler in its own order.
"""

import pytest

from numba_fftconv.cuda.toolchain import SIMULATED

collect_ignore_glob = [] if SIMULATED else ["test_*.py"]


ORDERS = [pytest.param(None, id="in_order", marks=pytest.mark.slow), pytest.param(20261125, id="permuted")]


@pytest.fixture(scope="module", params=ORDERS)
def order(request: pytest.FixtureRequest) -> int | None:
    """The seed of the order of lanes."""
    return request.param


@pytest.fixture(autouse=True)
def _scheduler(request: pytest.FixtureRequest) -> None:
    from numba_fftconv.cuda import simulator

    simulator.install(permute=request.getfixturevalue("order") if "order" in request.fixturenames else None)
