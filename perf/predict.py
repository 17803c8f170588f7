"""What a GPU should take for the layers of fbfft, from the machine code of the kernels that a plan launches: a model.

    python perf/predict.py                        L1 to L5 on an H200, all passes, every precision, as Markdown
    python perf/predict.py --layers L3 --precision tf32x3

A plan is made for the architecture, its launches are listed as the engine makes them, and every kernel is compiled and
counted. A launch takes the longest of three times, none of which was measured:

    memory    the bytes of its stage, each array once, at 90 % of the datasheet's bandwidth and COPY of that
    issue     instructions of all warps, one a clock for each of four schedulers, at ISSUED of that
    tensor    mma instructions at the rate MMA_CLOCKS allows a quarter of a multiprocessor

times the share of a wave that the last one leaves idle. A run on a GPU confirms or refutes each row (bench.py --device
cuda): where they differ, the stage with the largest gap is what to look at. `direct` is the time of a direct sum in
float32 at DIRECT flops a second.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from layers import PRECISIONS, Layer, select

from numba_fftconv import ConvPlan, plan_conv2d
from numba_fftconv.cuda import driver, engine, schedule
from numba_fftconv.cuda.engine import Call, Lie
from numba_fftconv.cuda.machine_code import Code, classes, read
from numba_fftconv.cuda.occupancy import occupancy
from numba_fftconv.cuda.product import Shape
from numba_fftconv.cuda.tensor_tiles import tiles_of
from numba_fftconv.cuda.toolchain import Kernel
from numba_fftconv.gpus import WARP, Gpu, find_gpu, sm
from numba_fftconv.passes import PASSES

COPY = 0.85  # of the reachable bandwidth: what transforms are to reach
LOADED = 0.885  # of the boost clock: what arithmetic leaves of it, as published for boards of this class
REACHABLE = 0.9  # of the datasheet's bandwidth: what a device copy reaches
ISSUED = 0.9  # of the issue slots, where nothing else binds
SCHEDULERS = 4
MMA_CLOCKS = 6.4  # of a quarter of a multiprocessor for one mma.sync: 62 % of the peak, as published for Hopper
DIRECT = 45e12
COLUMNS = (
    "layer", "precision", "pass", "launch", "registers", "blocks, waves", "instructions a warp",
    "memory us", "issue us", "tensor us", "predicted", "direct / predicted",
)  # fmt: skip


class Predicted(NamedTuple):
    """One launch."""

    stage: str
    kernel: str
    registers: int
    blocks: int  # resident on a multiprocessor
    waves: float
    instructions: float  # of a warp
    memory: float
    issue: float
    tensor: float
    seconds: float

    @property
    def bound(self) -> str:
        return max((self.memory, "memory"), (self.issue, "issue"), (self.tensor, "tensor"))[1]


@cache
def code(kernel: Kernel, gpu: Gpu) -> Code:
    return read(kernel, gpu.architecture)


def launches(plan: ConvPlan, pass_name: str, gpu: Gpu) -> Iterator[Call]:
    """What the engine launches for a pass."""
    choice, g = plan.choice.by_pass[pass_name], plan.geometry
    device = driver.Device(0, gpu.name, gpu.architecture, gpu.multiprocessors, gpu.multiprocessor.block_shared)
    shapes = {name: shape if len(shape) == 4 else (1, *shape) for name, shape in g.shapes.items()}
    shapes |= {"dx": shapes["input"], "dw": shapes["weight"]}
    lies = {name: Lie(shape, strides(shape)) for name, shape in shapes.items()}
    yield from engine.calls(schedule.steps(choice.work, choice.schedule), plan.maps, lies, False, device)


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of an array without gaps."""
    found = [1]
    for extent in reversed(shape[1:]):
        found.append(found[-1] * extent)
    return tuple(reversed(found))


def executed(call: Call, compiled: Code) -> tuple[float, float]:
    """Instructions and mma of a warp: all of its code once, but the inner loop of a product for every slab.

    Of a transform the second branch of the first row counts too, though few warps take it.
    """
    mma = classes(compiled.instructions)["tensor"]
    depths = [argument.depth for argument in call.arguments if isinstance(argument, Shape)]
    if not depths:
        return len(compiled.instructions), mma
    slabs = -(-depths[0] // slab_steps(call.kernel))
    again, loop = slabs - 1, compiled.loop
    return len(compiled.instructions) + again * len(loop), mma + again * classes(loop)["tensor"]


def slab_steps(kernel: Kernel) -> int:
    """BK of a product."""
    tiles = (tile for precision in PRECISIONS for tile in tiles_of(precision))
    return next(tile.BK for tile in tiles if str(tile) in kernel.name.split("_"))


def predict(plan: ConvPlan, pass_name: str, gpu: Gpu) -> Iterator[Predicted]:
    """Every launch of a pass."""
    stages = {stage.name.split()[0] if stage.name[0] in "mi" else stage.name: stage for stage in plan.stages[pass_name]}
    row = PASSES[pass_name]
    letters = dict(zip(row.operands, row.letters, strict=False))
    found = list(launches(plan, pass_name, gpu))
    for call in found:
        key = f"transform {letters[call.stage].lower()}" if call.stage in letters else call.stage
        stage, compiled = stages[key], code(call.kernel, gpu)
        share = 1 / sum(other.stage == call.stage for other in found)
        held = occupancy(gpu.multiprocessor, call.kernel.threads, compiled.registers, call.kernel.shared_bytes).blocks
        blocks = call.grid[0] * call.grid[1] * call.grid[2]
        waves = blocks / (held * gpu.multiprocessors)
        instructions, mma = executed(call, compiled)
        warps = blocks * -(-call.kernel.threads // WARP)
        a_quarter = warps / (SCHEDULERS * gpu.multiprocessors) / (gpu.clock * LOADED)
        memory = share * stage.bytes / (gpu.bandwidth * REACHABLE * COPY)
        issue, tensor = a_quarter * instructions / ISSUED, a_quarter * mma * MMA_CLOCKS
        idle = -(-blocks // (held * gpu.multiprocessors)) / waves if waves > 1 and call.stage == "multiply" else 1.0
        seconds = max(memory, issue * idle, tensor * idle)
        yield Predicted(
            key, call.kernel.name, compiled.registers, held, waves, instructions, memory, issue, tensor, seconds
        )


def direct(layer: Layer) -> float:
    """Seconds of a direct sum."""
    N, K, P, Q = layer.output_shape
    return 2 * N * K * P * Q * (layer.C // layer.groups) * layer.R * layer.S / DIRECT


def tables(layers: Iterable[Layer], gpu: Gpu, precisions: Iterable[str]) -> Iterator[str]:
    """Lines of Markdown: a row a launch, and one for each pass as a whole."""
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|---" * len(COLUMNS) + "|"
    for layer in layers:
        for precision in precisions:
            plan = plan_conv2d(
                layer.input_shape, layer.weight_shape, **layer.options, precision=precision, device=sm(gpu.architecture)
            )
            for name in PASSES:
                rows = list(predict(plan, name, gpu))
                for row in rows:
                    yield (
                        f"| {layer.name.split('/')[1]} | {precision} | {name} | {row.kernel} | {row.registers}"
                        f" | {row.blocks}, {row.waves:.1f} | {row.instructions:.0f} | {row.memory * 1e6:.0f}"
                        f" | {row.issue * 1e6:.0f} | {row.tensor * 1e6:.0f}"
                        f" | {row.seconds * 1e6:.0f} us, {row.bound} | |"
                    )
                seconds = sum(row.seconds for row in rows)
                size = " x ".join(map(str, plan.fft_size))
                yield (
                    f"| {layer.name.split('/')[1]} | {precision} | {name} | all, {size} | | | | | | |"
                    f" {seconds * 1e3:.3f} ms | {direct(layer) / seconds:.1f} |"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gpu", default="H200")
    parser.add_argument("--layers", nargs="+", default=["L1", "L2", "L2-128", "L3", "L4", "L5"])
    parser.add_argument("--precision", nargs="+", default=list(PRECISIONS))
    chosen = parser.parse_args()
    known = {layer.name.split("/")[1]: layer for layer in select(["fbfft"])}
    known["L2-128"] = replace(known["L2"], name="fbfft/L2-128", K=128)  # as soumith/convnet-benchmarks has it
    layers = [known[name] for name in chosen.layers]
    for line in tables(layers, find_gpu(chosen.gpu), chosen.precision):
        print(line, flush=True)


if __name__ == "__main__":
    main()
