"""Runs every file of tests/simulated in a process of its own: NUMBA_ENABLE_CUDASIM is read when Numba is imported."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted((HERE / "simulated").glob("test_*.py"))
ENVIRONMENT = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}  # as it is now: pytest changes it while threads start runs
Child = subprocess.CompletedProcess[str]


def run(path: Path) -> Child:
    command = [sys.executable, "-m", "pytest", str(path), "-q", "-p", "no:cacheprovider", "--color=no"]
    return subprocess.run(command, cwd=HERE.parent, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def children(request: pytest.FixtureRequest) -> Iterator[dict[Path, Future[Child]]]:
    """The runs of the files that were chosen, as many at a time as there are cores."""
    chosen = dict.fromkeys(item.callspec.params["path"] for item in request.session.items if item.fspath == __file__)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {path: pool.submit(run, path) for path in chosen}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_under_the_simulator(path: Path, children: dict[Path, Future[Child]]) -> None:
    pytest.importorskip("greenlet")
    child = children[path].result()
    shown = child.stdout + child.stderr
    assert child.returncode == 0, shown
    passed = re.search(r"(\d+) passed", shown)
    assert passed and int(passed[1]) > 0, shown
