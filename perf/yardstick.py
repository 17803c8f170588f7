"""What this machine can do at most: the rate of a copy and of a vendor's matrix product, measured in the same run."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

COPY_BYTES = 1 << 27
GEMM_SIDE = 1536
CALLS = 8


@dataclass(frozen=True)
class Yardstick:
    """Bytes per second read and written by a copy, flops per second of a matrix product by dtype."""

    copy: float
    gemm: dict[str, float]

    def bound(self, flops: int, nbytes: int, dtype: str) -> float:
        """Seconds that the flops take at the product's rate or the bytes at the copy's, whichever is more."""
        return max(flops / self.gemm[dtype], nbytes / self.copy)


def best(call: Callable[[], object]) -> float:
    """The least seconds of a few calls."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure() -> Yardstick:
    """Copies half of COPY_BYTES into the other half; multiplies square matrices."""
    source = torch.ones(COPY_BYTES // 8)
    target = torch.empty_like(source)
    gemm = {}
    for name in ("float32", "float64"):
        a = torch.ones(GEMM_SIDE, GEMM_SIDE, dtype=getattr(torch, name))
        gemm[name] = 2 * GEMM_SIDE**3 / best(lambda a=a: torch.mm(a, a))
    return Yardstick(copy=COPY_BYTES / best(lambda: target.copy_(source)), gemm=gemm)
