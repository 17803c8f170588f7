"""What this machine can do at most: the rate of a copy and of a vendor's matrix product, measured in the same run.

On a CPU the libraries at hand compete, torch (MKL) and NumPy (OpenBLAS), and the fastest is the yardstick: which one
that is depends on the processor and on the shape. NumPy copies with one thread, which shows where it is alone. The GPU
measures its own (gpu.py).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import libraries
import numpy as np

COPY_BYTES = 1 << 27
GEMM_SIDE = 1536
CALLS, SECONDS = 8, 0.1  # calls of a yardstick, fewer where they take longer

Call = Callable[[], object]


@dataclass(frozen=True)
class Yardstick:
    """Bytes per second read and written by a copy, flops per second of a matrix product by dtype; who was fastest."""

    copy: float
    gemm: dict[str, float]
    by: dict[str, str] = field(default_factory=dict)

    def bound(self, flops: int, nbytes: int, dtype: str) -> float:
        """Seconds that the flops take at the product's rate or the bytes at the copy's, whichever is more."""
        return max(flops / self.gemm[dtype], nbytes / self.copy)


def fastest(calls: dict[str, Call]) -> tuple[str, float]:
    """Which call is fastest by the least of its seconds, and these."""
    best = {name: least(call) for name, call in calls.items()}
    name = min(best, key=best.__getitem__)
    return name, best[name]


def least(call: Call) -> float:
    """The least seconds of a few calls, after one that is not timed."""
    call()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while not times or (len(times) < CALLS and time.perf_counter() < end):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def copies(nbytes: int) -> dict[str, Call]:
    """Copies that read and write so many bytes together."""
    source = np.ones(max(1, nbytes // 8), np.float32)
    target = np.empty_like(source)
    calls: dict[str, Call] = {"NumPy": lambda: np.copyto(target, source)}
    if torch := libraries.installed("torch"):
        to, of = torch.from_numpy(target), torch.from_numpy(source)
        calls["torch"] = lambda: to.copy_(of)
    return calls


def products(a: np.ndarray, b: np.ndarray) -> dict[str, Call]:
    """Products of two matrices, or of as many as the first axis counts."""
    calls: dict[str, Call] = {"NumPy": lambda: np.matmul(a, b)}
    if torch := libraries.installed("torch"):
        first, second = torch.from_numpy(a), torch.from_numpy(b)
        calls["torch"] = lambda: torch.matmul(first, second)
    return calls


def measure() -> Yardstick:
    """Copies half of COPY_BYTES into the other half; multiplies square matrices."""
    by: dict[str, str] = {}
    gemm: dict[str, float] = {}
    by["copy"], seconds = fastest(copies(COPY_BYTES))
    for name in ("float32", "float64"):
        a: np.ndarray[Any, Any] = np.ones((GEMM_SIDE, GEMM_SIDE), name)
        by[name], product = fastest(products(a, a))
        gemm[name] = 2 * GEMM_SIDE**3 / product
    return Yardstick(COPY_BYTES / seconds, gemm, by)
