"""Two processes under torchrun: the weights of one process, and an error in time where one of the two dies."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

PROGRAM = "numba_fftconv.examples.train_ddp"
START = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", PROGRAM]
IN_TIME = 240  # seconds; a kernel that is not compiled yet takes some
HERE = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "CUDA_VISIBLE_DEVICES": ""}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*START, *words], capture_output=True, text=True, timeout=IN_TIME, env=HERE, check=False)


@pytest.mark.parametrize(("dtype", "most"), [("float64", 1e-12)])
def test_two_processes_come_to_the_weights_of_one(dtype: str, most: float) -> None:
    done = run("--check", "--steps", "6", "--dtype", dtype)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes on gloo: 6 steps" in done.stdout and "weights of the ranks: 0 apart" in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("weights of one process"))
    assert float(line.split()[4]) <= most and line.endswith("PASS")


@pytest.mark.parametrize("way", ["kill", pytest.param("raise", marks=pytest.mark.slow)])
def test_a_rank_that_dies_ends_all_with_an_error(way: str) -> None:
    done = run("--die-at-step", "2", "--die-by", way, "--timeout", "30", "--dtype", "float64")
    assert done.returncode != 0 and "PASS" not in done.stdout
    said = {"kill": "Signal 9 (SIGKILL)", "raise": "rank 1 dies at step 2, as it was told to"}[way]
    assert said in done.stderr, done.stderr


@pytest.mark.slow
def test_a_rank_that_hangs_ends_all_after_the_timeout() -> None:
    start = time.monotonic()
    done = run("--die-at-step", "2", "--die-by", "hang", "--timeout", "15")
    assert done.returncode != 0 and time.monotonic() - start >= 15
    assert "Timed out waiting 15000ms" in done.stderr, done.stderr


def test_alone_it_says_how_it_is_started() -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    bare = {name: value for name, value in HERE.items() if name not in names}
    done = subprocess.run([sys.executable, "-m", PROGRAM], capture_output=True, text=True, timeout=120, env=bare)
    assert done.returncode != 0 and "start it by torchrun" in done.stderr
