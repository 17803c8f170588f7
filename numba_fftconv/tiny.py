"""A tiny layer on the GPU kernels as plain Python: `python -m numba_fftconv demo --device sim`, on any machine.

Each thread of each block runs by itself, in Numba's CUDA simulator under the scheduler of cuda/simulator.py, once in
the order of their numbers and once in an order that is drawn anew at every barrier. The results are held against the
CPU engine and must have the same bits in both orders.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba.core import config

from .api import plan_conv2d
from .errors import FFTConvError

IMAGES, FILTERS = (2, 3, 9, 7), (4, 3, 3, 3)
OPTIONS: dict[str, Any] = {"padding": 1, "stride": (1, 2), "fft_size": 6}
MOST_ERROR = 1e-6  # relative L2
SEED = 20261125


def main() -> int:
    """Prints a line a pass; returns the exit code: 0 good, 1 too far off or other bits, 2 cannot run."""
    if not config.ENABLE_CUDASIM:  # which Numba reads when it is imported
        environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
        command = [sys.executable, "-m", "numba_fftconv", "demo", "--device", "sim"]
        return subprocess.run(command, env=environment, check=False).returncode
    try:
        return verdict(list(run()))
    except FFTConvError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2


class Row(NamedTuple):
    """What came of one pass: `error` is against the CPU engine, `same` whether the order of lanes changes no bit."""

    name: str
    launches: int
    threads: int
    seconds: float
    error: float
    same: bool


def verdict(rows: Sequence[Row]) -> int:
    """Prints the table; 0 if all is well, else 1."""
    options = ", ".join(f"{name} {value}" for name, value in OPTIONS.items())
    print(f"{IMAGES} to {FILTERS[0]} filters of {FILTERS[2]} x {FILTERS[3]}, {options}")
    print(f"{'pass':12} {'launches':>8} {'threads':>8} {'seconds':>8} {'error':>9}  bits in a drawn order of lanes")
    for row in rows:
        same = "the same" if row.same else "others"
        print(f"{row.name:12} {row.launches:8} {row.threads:8} {row.seconds:8.2f} {row.error:9.1e}  {same}")
    good = all(row.error <= MOST_ERROR and row.same for row in rows)
    rule = f"relative L2 error against the CPU engine at most {MOST_ERROR:g}, the same bits in any order"
    print(f"{rule}: {'PASS' if good else 'FAIL'}")
    return 0 if good else 1


def run() -> Iterator[Row]:
    """Each pass twice in the simulator, once on the CPU engine."""
    from numba import cuda

    from .cuda import simulator

    there, here = (plan_conv2d(IMAGES, FILTERS, device=device, **OPTIONS) for device in ("cuda", "cpu"))
    shapes, rng = here.geometry.shapes, np.random.default_rng(SEED)
    x, w, dy = (rng.standard_normal(shapes[name], np.float32) for name in ("input", "weight", "grad_output"))
    for name, operands in {"forward": (x, w), "input_grad": (dy, w), "weight_grad": (x, dy)}.items():
        results, seconds = [], 0.0
        for order in (None, SEED):
            simulator.install(permute=order)
            start = time.perf_counter()
            results.append(getattr(there, name)(*map(cuda.to_device, operands)).copy_to_host())
            seconds = seconds or time.perf_counter() - start
        want = getattr(here, name)(*operands)
        error = float(np.linalg.norm(results[0] - want) / np.linalg.norm(want))
        calls: Any = there.programs[next(key for key in there.programs if key[0] == name)].calls
        threads = sum(int(np.prod(call.grid)) * call.kernel.threads for call in calls)
        yield Row(name, len(calls), threads, seconds, error, results[0].tobytes() == results[1].tobytes())
