"""Where the layers run, and what the measurement must know of it: how operands get there, when a call is done.

A `Place` is the CPU; gpu.py derives the GPU from it. Nothing is imported here that starts threads, or that a user of
numba_fftconv would not have imported: first_call.py measures from here too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import libraries
import machine
import numpy as np
from layers import Layer

if TYPE_CHECKING:
    from peers import Arrays, Offers
    from row import Row
    from yardstick import Yardstick

    from numba_fftconv import ConvPlan

SETTLE_SECONDS = 0.06
TURN = 5
ISSUES = 50

Call = Callable[[], object]


class Place:
    """A CPU: operands are NumPy arrays, and a call that has returned is done."""

    name = "cpu"
    batch = 16  # images where a batch for GPUs is published
    dtypes: tuple[str, ...] = ("float32", "float64")
    readme_mark = "bench"
    first_call_limits: ClassVar[dict[str, float]] = {"cold": 4.0, "warm": 1.0}  # seconds
    disturbed = "something else ran during {} of {} rows: repeat on an idle machine"
    loose: ClassVar[dict[str, float]] = {}  # how far a peer may differ, where that is more than elsewhere

    def describe(self, threads: int) -> dict[str, Any]:
        """The heading of a result."""
        return machine.describe(threads)

    def title(self, about: dict[str, Any]) -> str:
        return f"{about['device']}, {about['threads']} thread{'s' * (about['threads'] > 1)}"

    def note(self, about: dict[str, Any]) -> str:
        """What is said under the table of README: what its figures mean and how they were measured."""
        versions = about["versions"]
        return (
            f"Milliseconds of numba_fftconv and how many times as long the fastest peer takes, and every peer with a"
            f" promise, which stands in brackets. Peers, each in its best setting: torch {versions['torch']} (oneDNN),"
            f" the same convolution composed of torch.fft, scipy {versions['scipy']} (`signal.oaconvolve`). Medians of"
            f" interleaved calls, weights transformed in every call, {self.title(about)}, numba {versions['numba']},"
            f" numpy {versions['numpy']}, {about['date'][:10]}."
        )

    def promised(self, layer: Layer) -> Layer:
        """The layer with the promises that hold here."""
        return layer

    def put(self, array: np.ndarray) -> Any:
        """The array as the calls here take it."""
        return array

    def numpy(self, result: Any) -> np.ndarray:
        """A result of a call here, ours or a peer's, as a NumPy array."""
        return np.asarray(result)

    def comparable(self, result: Any) -> Any:
        """A peer's result, so that it can be subtracted from ours."""
        return np.asarray(result)

    def offers(self, layer: Layer, pass_name: str, arrays: Arrays, threads: int) -> Offers:
        """Every peer that can compute the layer here, with its settings."""
        import peers

        return peers.offers(peers.CPU, layer, pass_name, arrays, threads)

    def yardstick(self) -> Yardstick:
        import yardstick

        return yardstick.measure()

    def finish(self) -> None:
        """Returns when everything that was called is done."""

    def clock(self, call: Call) -> float:
        """Seconds of one call; what it returns is freed after the clock has stopped."""
        start = time.perf_counter()
        result = call()
        self.finish()
        seconds = time.perf_counter() - start
        del result
        return seconds

    def settle(self, call: Call) -> int:
        """Calls for SETTLE_SECONDS, once where that is slow; how many calls of a turn are to be timed."""
        end = time.perf_counter() + SETTLE_SECONDS
        slow = self.clock(call) > SETTLE_SECONDS
        while time.perf_counter() < end:
            self.clock(call)
        return 1 if slow else TURN

    def turn(self, call: Call, gate: machine.Gate) -> list[float]:
        """Seconds of TURN calls after SETTLE_SECONDS of others, of one call after one other where that is slow."""
        gate.wait()
        return [self.clock(call) for _ in range(self.settle(call))]

    def issue(self, call: Call) -> float:
        """Median seconds until a call returns to the host."""
        return statistics.median(self.clock(call) for _ in range(ISSUES))

    def complete(
        self, row: Row, plan: ConvPlan, limits: Yardstick, operands: tuple[Any, ...], calls: dict[str, Call]
    ) -> None:
        """Adds to a row what is measured differently in each place, here the bounds of the stages.

        Operands are those of the plan's method of the pass.
        """
        import stage_bounds

        row.stage_bounds = stage_bounds.of_stages(plan, row.pass_name)

    def peaks(self, problems: list[tuple[Layer, str]], threads: int) -> list[dict[str, Any]]:
        """Bytes that a call takes at most, its result among them: by problem, contestant and setting."""
        import memory

        return memory.in_processes(problems, threads)


def at(name: str | None) -> Place:
    """The place of that name, 'cpu' or 'cuda'; None is the GPU where torch finds one."""
    torch = None if name == "cpu" else libraries.installed("torch")
    if torch and torch.cuda.is_available():
        import gpu

        return gpu.Gpu()
    if name in (None, "cpu"):
        return Place()
    found = f"torch {torch.__version__} finds no GPU" if torch else "torch, which is its clock, is not installed"
    raise ValueError(f"device is {name!r}, and {found}: give cpu, or install torch's CUDA build")
