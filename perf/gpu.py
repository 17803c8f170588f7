"""The GPU as the place where layers run: torch's CUDA tensors, its stream, its clock, cuDNN and cuBLAS as peers.

A turn first makes the device busy with matrix products of some milliseconds, while the host queues all calls of the
turn behind them: so an event before and one after a call measure what the device takes, not what Python takes to say
so, which is reported apart as the host's time a call. The share of turns that were queued in time stands in the column
"quiet". Before each call a buffer of several times the second-level cache is read, so that every library finds its
operands in memory; read, not written, for lines to be written back would be charged to the call that is timed.

Nothing is synchronised between the events. TF32 is off but where a peer is named for it, cuDNN chooses its algorithms
by trial, and torch has both memory formats and both doors to its gradients to win with.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import machine
import memory
import numpy as np
import peers
import stage_bounds
import torch
from layers import Layer
from machine import Gate
from place import ISSUES, Call, Place
from yardstick import Yardstick

if TYPE_CHECKING:
    from row import Row

    from numba_fftconv import ConvPlan

DEVICE = "cuda"
PEERS = {
    "torch": "torch_peers.convolutions",
    "torch tf32": "torch_peers.with_tf32",
    "torch.fft": "torch_peers.fourier",
    "cuDNN FFT": "cudnn.settings",
}
PACKAGES = (*machine.PACKAGES, "numba-cuda", "cuda-bindings", "nvidia-nvvm", "nvidia-nvjitlink")
COPY_BYTES = 1 << 30
SIDE = 4096  # of the matrices that measure the device, and that hold it back
HOLDS = (1, 4, 16)  # products before a turn: more where they were not enough
CACHES = 4  # read before each call, in sizes of the second-level cache


class Gpu(Place):
    """The current CUDA device of torch."""

    name = "cuda"
    batch = 128
    dtypes = ("float32",)
    readme_mark = "bench-cuda"
    first_call_limits: ClassVar = {"cold": 10.0, "warm": 1.0}
    disturbed = "the host did not queue ahead of the device during {} of {} rows: those times are the host's too"
    loose: ClassVar = {"torch tf32": 1e-2}

    def __init__(self) -> None:
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.benchmark_limit = 0  # none: every algorithm is tried
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        cache = torch.cuda.get_device_properties(DEVICE).L2_cache_size
        self.other = torch.ones(CACHES * cache // 4, device=DEVICE)
        self.total = torch.empty((), device=DEVICE)
        self.square = torch.randn(SIDE, SIDE, device=DEVICE)
        self.product = torch.empty_like(self.square)

    # ---- place -------------------------------------------------------------------------------------------------------

    def describe(self, threads: int) -> dict[str, Any]:
        device = torch.cuda.get_device_properties(DEVICE)
        return {
            **machine.describe(threads, PACKAGES),
            "device": device.name,
            "host": machine.processor(),
            "architecture": f"sm_{device.major}{device.minor}",
            "multiprocessors": device.multi_processor_count,
            "memory": device.total_memory,
            "cache": device.L2_cache_size,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            **driver(),
        }

    def title(self, about: dict[str, Any]) -> str:
        return f"{about['device']}, driver {about['driver']}, torch's CUDA {about['cuda']}, cuDNN {about['cudnn']}"

    def note(self, about: dict[str, Any]) -> str:
        versions = about["versions"]
        return (
            f"Milliseconds of numba_fftconv and how many times as long the fastest peer in full precision takes, and"
            f" torch in TF32. Peers, each in its best setting: torch {versions['torch']} (cuDNN {about['cudnn']},"
            f" algorithms by trial), cuDNN's FFT algorithms where they take the layer, the same convolution composed of"
            f" torch.fft. Medians of interleaved calls by CUDA events, operands not in the cache, weights transformed"
            f" in every call, {about['device']}, driver {about['driver']}, numba-cuda {versions['numba-cuda']},"
            f" {about['date'][:10]}."
        )

    def promised(self, layer: Layer) -> Layer:
        return replace(layer, targets=())

    def put(self, array: np.ndarray) -> Any:
        return torch.from_numpy(array).to(DEVICE)

    def numpy(self, result: Any) -> np.ndarray:
        return result.cpu().numpy()

    def comparable(self, result: Any) -> Any:
        return result

    def offers(self, layer: Layer, pass_name: str, arrays: peers.Arrays, threads: int) -> peers.Offers:
        return peers.offers(PEERS, layer, pass_name, arrays, threads)

    # ---- clock -------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        torch.cuda.synchronize()

    def turn(self, call: Call, gate: Gate) -> list[float]:
        count = self.settle(call)
        for holds in HOLDS:
            seconds, ahead = self.queued(call, count, holds)
            if ahead:
                break
        gate.samples += 1
        gate.quiet_samples += ahead
        return seconds

    def queued(self, call: Call, count: int, holds: int) -> tuple[list[float], bool]:
        """Seconds of each of so many calls on the device, and whether all were queued before the first began."""
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
        for _ in range(holds):
            torch.mm(self.square, self.square, out=self.product)
        for start, stop in pairs:
            torch.sum(self.other, 0, out=self.total)  # reads all of it
            start.record()
            result = call()
            stop.record()
            del result  # its memory is used again in the order of the stream
        ahead = not pairs[0][0].query()
        self.finish()
        return [start.elapsed_time(stop) / 1e3 for start, stop in pairs], ahead

    def issue(self, call: Call) -> float:
        """Median seconds until a call returns to the host, the device idle before it."""
        times = []
        for _ in range(ISSUES):
            self.finish()
            start = time.perf_counter()
            result = call()
            times.append(time.perf_counter() - start)
            del result
        self.finish()
        return statistics.median(times)

    def peak(self, call: Call) -> int:
        """Bytes that a call takes of torch's memory at most, its result among them."""
        self.finish()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self.finish()
        return torch.cuda.max_memory_allocated() - before

    # ---- yardstick ---------------------------------------------------------------------------------------------------

    def best(self, call: Call) -> float:
        return min(self.turn(call, Gate(0.0)))

    def yardstick(self) -> Yardstick:
        """A copy of half of COPY_BYTES into the other half; products of square matrices."""
        source = torch.ones(COPY_BYTES // 8, device=DEVICE)
        target = torch.empty_like(source)
        gemm = {}
        for name in ("float32", "float64"):
            a = self.square.to(getattr(torch, name))
            gemm[name] = 2 * SIDE**3 / self.best(lambda a=a: torch.mm(a, a))
        return Yardstick(copy=COPY_BYTES / self.best(lambda: target.copy_(source)), gemm=gemm)

    def complete(
        self, row: Row, plan: ConvPlan, limits: Yardstick, operands: tuple[Any, ...], calls: dict[str, Call]
    ) -> None:
        """The bound of each stage, the host's time to issue a pass of a bound plan, the memory of every contestant.

        Transforms are held against a copy of as many bytes at the rate of one much larger than the cache, which stages
        of a small layer may well outrun; the product against cuBLAS with the same product, or where every channel is a
        group of its own, so that nothing is summed, against a copy too.
        """
        for stage in plan.stages[row.pass_name]:
            row.stage_bounds[stage.name] = ("copy", stage.bytes / limits.copy)
        product = batched_product(plan, row.pass_name)
        if product is not None:
            row.stage_bounds["multiply"] = ("cuBLAS", statistics.median(self.turn(product, Gate(0.0))))
            del product
        method = getattr(plan, row.pass_name)
        out = method(*operands)
        workspace = torch.empty(plan.workspace_size, dtype=torch.uint8, device=DEVICE)
        row.host = self.issue(lambda: method(*operands, out=out, workspace=workspace))
        row.peak_bytes = {name: self.peak(call) for name, call in calls.items()}

    def peaks(self, problems: list[tuple[Layer, str]], threads: int) -> list[dict[str, Any]]:
        return memory.in_process(problems, threads, self, self.peak)


def driver() -> dict[str, str]:
    """The driver, and what it lets the device draw and clock, by the tool that comes with it."""
    asked = {"driver": "driver_version", "power_limit": "power.limit", "most_clock": "clocks.max.sm"}
    command = ["nvidia-smi", f"--query-gpu={','.join(asked.values())}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(", ")
    except (OSError, subprocess.CalledProcessError, IndexError):
        said = ["unknown"] * len(asked)
    return dict(zip(asked, said, strict=False))


def batched_product(plan: ConvPlan, pass_name: str) -> Call | None:
    """cuBLAS's product for each bin and group of a pass, operands as they lie; None where a group has one channel."""
    shapes = stage_bounds.product_shapes(plan, pass_name)
    if shapes is None:
        return None
    dtype = getattr(torch, stage_bounds.COMPLEX[plan.dtype])
    operands = []
    for (batch, rows, columns), flip in zip(shapes, stage_bounds.transposed(pass_name), strict=True):
        lying = (batch, columns, rows) if flip else (batch, rows, columns)
        made = torch.randn(lying, dtype=dtype, device=DEVICE)
        operands.append(made.mT if flip else made)
    return lambda: torch.bmm(*operands)
