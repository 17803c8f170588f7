"""Does the cost model choose the right transform lengths? Every size that could be right is timed on the CPU.

    python perf/choose.py                       the promised layers, single images, planes with large kernels
    python perf/choose.py image-k9 plane-k31    some of them

A plan is made at every size that a plan chooses among and whose predicted time is at most PROMISING times the least.
The three passes of each are timed in turns, so that a disturbance meets all of them; a size counts with the sum of the
least seconds of its passes. `chosen / fastest` is to be at most 1.1 on an idle machine.
"""

from __future__ import annotations

import argparse
import time

import machine
import numpy as np
import peers
from layers import Layer, select

from numba_fftconv import ConvPlan, plan_conv2d, tuning
from numba_fftconv.cpu import threads
from numba_fftconv.integers import Size
from numba_fftconv.passes import PASSES

PROMISING = 2.5
TURNS, SECONDS = 30, 6.0  # of all sizes of a layer: at most so many turns, and begun within so long


def _layer(name: str, *figures: int) -> Layer:
    N, C, H, W, K, R, S = figures
    return Layer(f"choose/{name}", "ours", N, C, H, W, K, R, S)


EXTRA = (
    _layer("image-k9", 1, 64, 32, 32, 64, 9, 9),
    _layer("image-56-k5", 1, 64, 56, 56, 64, 5, 5),
    _layer("plane-k64", 1, 8, 512, 512, 8, 64, 64),
    _layer("plane-k128", 1, 8, 512, 512, 8, 128, 128),
    _layer("plane-k200", 1, 8, 512, 512, 8, 200, 200),
    _layer("row-k100", 4, 8, 1, 4096, 8, 1, 100),
    _layer("speech", 4, 1, 161, 700, 32, 5, 20),
)


def sizes(layer: Layer) -> tuple[Size, dict[Size, ConvPlan]]:
    """The size that a plan chooses, and the plans that may be as fast as its."""
    shapes = layer.input_shape, layer.weight_shape
    free = plan_conv2d(*shapes, dtype=layer.dtype, **layer.options)
    ranked = tuning.candidates(free.geometry, layer.dtype, "cpu", None, threads.thread_count())
    near = [choice.size for choice in ranked if choice.seconds <= PROMISING * ranked[0].seconds]
    plans = {size: plan_conv2d(*shapes, dtype=layer.dtype, fft_size=size, **layer.options) for size in near}
    return free.fft_size, plans


def timed(layer: Layer, plans: dict[Size, ConvPlan]) -> dict[Size, float]:
    """By size, the sum of the least seconds of each pass."""
    x, w, dy = peers.operands(layer).values()
    operands = {"forward": (x, w), "input_grad": (dy, w), "weight_grad": (x, dy)}
    out = {"forward": np.empty_like(dy), "input_grad": np.empty_like(x), "weight_grad": np.empty_like(w)}
    least = {(size, name): float("inf") for size in plans for name in PASSES}
    for plan in plans.values():  # compiles
        for name in PASSES:
            getattr(plan, name)(*operands[name], out=out[name])
    end = time.perf_counter() + SECONDS
    for _ in range(TURNS):
        for size, plan in plans.items():
            for name in PASSES:
                call = getattr(plan, name)
                call(*operands[name], out=out[name])
                start = time.perf_counter()
                call(*operands[name], out=out[name])
                least[size, name] = min(least[size, name], time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return {size: sum(least[size, name] for name in PASSES) for size in plans}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="(all)")
    names = parser.parse_args().names
    known = {layer.name.split("/")[1]: layer for layer in (*select(["speed"]), *EXTRA)}
    about = machine.describe(threads.thread_count())
    print(f"{about['device']}, {threads.thread_count()} threads, {about['date']}, {about['versions']}\n")
    print("| layer | problem | sizes | chosen | ms | fastest | ms | chosen / fastest |")
    print("|---" * 8 + "|")
    for name in names or known:
        layer = known[name]
        chosen, plans = sizes(layer)
        seconds = timed(layer, plans)
        best = min(seconds, key=seconds.__getitem__)
        told = [f"{size[0]} x {size[1]} | {seconds[size] * 1e3:.2f}" for size in (chosen, best)]
        ratio = seconds[chosen] / seconds[best]
        print(f"| {name} | {layer.problem} | {len(plans)} | {told[0]} | {told[1]} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
