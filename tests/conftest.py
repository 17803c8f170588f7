"""What all tests share: what the gpu marker skips, the Hypothesis profile, the worst errors in the terminal summary.

Compiled kernels go to the user's own disk cache, as in normal use: the second run of the suite compiles nothing.
"""
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from gpu import has_gpu
from hypothesis import HealthCheck, settings

# A first example may compile kernels for seconds. With CI set every run draws the same examples; elsewhere each failure
# names the example and the blob that make it again, so that no database of past failures is needed.
settings.register_profile(
    "numba_fftconv",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("numba_fftconv")

Worst = dict[str, tuple[float, str]]
WORST: pytest.StashKey[Worst] = pytest.StashKey()


# Files that take minutes begin first, so that no processor waits for one of them at the end of pytest -n; test_ptx.py
# runs kernels that test_machine_code.py has compiled.
LONGEST = (
    "test_machine_code", "test_simulator", "test_passes", "test_mutations", "test_ptx", "test_cuda_layers",
    "test_torch_operator", "test_dask", "test_train_ddp", "test_bench", "test_train_digits",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.stash[WORST] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU of sm_80 or newer, and there is none"))


@pytest.fixture(scope="session")
def record_worst(pytestconfig: pytest.Config) -> Callable[[str, float, str], None]:
    """record_worst(title, fraction of the limit, case): the worst case under each title is printed after the run."""
    return partial(keep, pytestconfig.stash[WORST])


def keep(worst: Worst, title: str, fraction: float, case: str) -> None:
    if title not in worst or not fraction <= worst[title][0]:
        worst[title] = fraction, case


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that pytest -n has started tells the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["worst"] = session.config.stash[WORST]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file is the affair of one process: what its fixtures make is made once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for title, found in getattr(node, "workeroutput", {}).get("worst", {}).items():
        keep(node.config.stash[WORST], title, *found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    worst = config.stash[WORST]
    if worst:
        terminalreporter.section("worst errors, as a part of what is allowed")
        for title, (fraction, case) in sorted(worst.items()):
            terminalreporter.write_line(f"{title:28} {fraction:6.1%}   {case}")
