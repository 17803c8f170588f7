"""What all tests share: what the gpu marker skips, the Hypothesis profile, the worst errors in the terminal summary.

Compiled kernels go to the user's own disk cache, as in normal use: the second run of the suite compiles nothing.
"""
import os
from collections.abc import Callable

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

WORST: pytest.StashKey[dict[str, tuple[float, str]]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[WORST] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU of sm_80 or newer, and there is none"))


@pytest.fixture(scope="session")
def record_worst(pytestconfig: pytest.Config) -> Callable[[str, float, str], None]:
    """record_worst(title, fraction of the limit, case): the worst case under each title is printed after the run."""
    worst = pytestconfig.stash[WORST]

    def record(title: str, fraction: float, case: str) -> None:
        if title not in worst or not fraction <= worst[title][0]:
            worst[title] = fraction, case

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    worst = config.stash[WORST]
    if worst:
        terminalreporter.section("worst errors, as a part of what is allowed")
        for title, (fraction, case) in sorted(worst.items()):
            terminalreporter.write_line(f"{title:28} {fraction:6.1%}   {case}")
