"""Work is shared evenly among any number of threads: claims are played by the tables of programs, without a thread."""

import itertools

import numpy as np
import pytest

from numba_fftconv import plan_conv2d, tuning
from numba_fftconv.cpu import product
from numba_fftconv.cpu.model import LONG_VECTORS, SHORT_VECTORS, CpuModel, CpuRates
from numba_fftconv.cpu.program import ARGUMENTS, HI, KERNEL, LO, MULTIPLY, program
from numba_fftconv.cpu.schedule import Schedule, Work, schedules
from numba_fftconv.integers import area, bins
from numba_fftconv.passes import PASSES

LAYERS = {
    "body": ((16, 64, 32, 32), (64, 64, 9, 9), 32),
    "image": ((1, 64, 32, 32), (64, 64, 9, 9), 16),
    "many": ((128, 128, 16, 16), (128, 128, 7, 7), 16),
    "plane": ((1, 1, 1024, 1024), (1, 1, 31, 31), 64),
    "depthwise": ((8, 96, 56, 56), (96, 1, 7, 7), 16),
}
LEAST = {1: 1, 2: 0.95, 3: 0.85, 4: 0.85, 8: 0.85, 16: 0.85, 32: 0.7, 64: 0.45}  # by threads: of an even share
# Where tasks take longer to begin, the model wants fewer of them.
RATES = {"long vectors": (LONG_VECTORS, LEAST), "short vectors": (SHORT_VECTORS, {**LEAST, 16: 0.75})}


def cost(work: Work, step: np.ndarray) -> float:
    """Flops of a step, roughly."""
    count = float(step[HI] - step[LO])
    if step[KERNEL] != MULTIPLY:
        return count * 160 * area(work.size)
    job = step[ARGUMENTS:]
    sums, groups = 2 * work.line * job[product.LINES], job[product.GROUPS] * job[product.STEPS] * job[product.COUNT]
    products = float(job[product.BLOCKS] * (sums if work.sums_lanes else groups))
    return count / work.size[0] * bins(work.size) * 16 * work.lanes * products


def efficiency(work: Work, threads: int, rates: CpuRates) -> float:
    """What threads do of what they could do in the time that the last one takes, where each claims a task when it is
    free and waits for the end of a stage, by the fastest schedule of the model."""
    def predicted(way: Schedule) -> float:
        return sum(stage.seconds for stage in CpuModel(work, way, rates).costs())

    way = min(schedules(work, threads), key=predicted)
    steps, tasks, stages, _ = program(work, way, (False, False))
    spent = whole = 0.0
    for begin, end in itertools.pairwise(stages):
        busy = np.zeros(threads)
        for task in range(begin, end):
            busy[busy.argmin()] += sum(cost(work, step) for step in steps[tasks[task]:tasks[task + 1]])
        spent, whole = spent + busy.max(), whole + busy.sum()
    return whole / (threads * spent)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("vectors", RATES)
def test_no_thread_is_idle_for_long(vectors: str, layer: str, name: str) -> None:
    x, w, T = LAYERS[layer]
    geometry = plan_conv2d(x, w, groups=x[1] // w[1]).geometry
    work = tuning.cpu_work(geometry, 4, (T, T), PASSES[name])
    rates, bounds = RATES[vectors]
    for threads, least in bounds.items():
        assert efficiency(work, threads, rates) >= least, threads
