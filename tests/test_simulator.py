"""Runs every file of tests/simulated in a process of its own: NUMBA_ENABLE_CUDASIM is read when Numba is imported."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted((HERE / "simulated").glob("test_*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_under_the_simulator(path: Path) -> None:
    pytest.importorskip("greenlet")
    command = [sys.executable, "-m", "pytest", str(path), "-q", "-p", "no:cacheprovider", "--color=no"]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    child = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)
    shown = child.stdout + child.stderr
    assert child.returncode == 0, shown
    passed = re.search(r"(\d+) passed", shown)
    assert passed and int(passed[1]) > 0, shown
