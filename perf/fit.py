"""Fits the rates of the CPU engine's cost model (numba_fftconv/cpu/model.py) to this machine.

    python perf/fit.py                 times every schedule of some layers at every transform length, prints the rates
    python perf/fit.py --quick         fewer layers and lengths: shows that it runs

The model is a sum of counts over rates, so it is linear in what is sought: the counts of a sample come from the model
itself, asked with one rate at a time, and non-negative least squares of relative errors finds the rest: once for each
pair of sizes of caches that a machine may have, of which that stays whose rates choose best. Copy what is printed into
model.py, with device and date.
"""

import argparse
import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import NamedTuple

import machine
import numpy as np
import peers
from layers import LAYERS
from scipy.optimize import nnls

from numba_fftconv import ConvPlan, InvalidOptionError, plan_conv2d, tuning
from numba_fftconv.cpu import engine, threads
from numba_fftconv.cpu.model import CPU, CpuModel, CpuRates
from numba_fftconv.cpu.schedule import Schedule, Work, schedules, workspace_bytes
from numba_fftconv.options import CODELET_SIZES
from numba_fftconv.passes import PASSES

SECONDS = ("call", "task", "stage")  # of the rates: those that are seconds, not operations or bytes a second
SOUGHT = [f.name for f in fields(CpuRates) if not f.name.endswith("_bytes")]
NAMES = (
    "speed/k3", "speed/k5", "speed/k9", "speed/plane-k31", "speed/image-k5", "speed/rgb-k5", "fbfft/L3", "fbfft/L4",
    "fbfft/L5", "alexnet/conv2", "depthwise/convnext-stage1", "depthwise/replknet-stage3",
)  # fmt: skip
CALLS, LONG = 5, 0.3  # calls of a sample; seconds after which two are enough
MOST_BYTES = 2**30
NEARNESS = 2  # power of (fastest / seconds) that weighs a sample
NEAR = [3 * 2**n for n in (17, 18, 19, 20)]  # bytes of spectra that a core's own cache may hold
SHARED = [2**22, 2**23, 3 * 2**22, 2**24, 3 * 2**23, 2**25]  # ... and the cache that cores share
PROMISING = 3  # times the least predicted time: what takes longer by the model as it is, is left out


class Sample(NamedTuple):
    layer: str
    pass_name: str
    T: int
    work: Work
    schedule: Schedule
    seconds: float


def samples(names: tuple[str, ...], lengths: tuple[int, ...], count: int) -> Iterator[Sample]:
    """The least of some calls for each promising way to run each pass of each layer at each length."""
    for layer in (layer.at_batch(16) for layer in LAYERS if layer.name in names):
        x, w, dy = peers.operands(layer).values()
        plans = {}
        for T in lengths:
            with contextlib.suppress(InvalidOptionError):  # too short for this kernel
                plans[T] = plan_conv2d(x.shape, w.shape, dtype=layer.dtype, fft_size=T, **layer.options)
        for name, operands in {"forward": (x, w, dy), "input_grad": (dy, w, x), "weight_grad": (x, dy, w)}.items():
            arrays = (*operands[:2], np.empty_like(operands[2]))
            works = {T: tuning.cpu_work(plan.geometry, x.itemsize, (T, T), PASSES[name]) for T, plan in plans.items()}
            ways = [(T, way) for T, work in works.items() for way in schedules(work, count)]
            guesses = [predicted(works[T], way, CPU) for T, way in ways]
            for (T, way), guess in zip(ways, guesses, strict=True):
                if guess <= PROMISING * min(guesses) and workspace_bytes(works[T], way) <= MOST_BYTES:
                    seconds = best(plans[T], name, works[T], way, arrays)
                    yield Sample(layer.name, name, T, works[T], way, seconds)


def predicted(work: Work, way: Schedule, rates: CpuRates) -> float:
    return sum(cost.seconds for cost in CpuModel(work, way, rates).costs())


def best(plan: ConvPlan, name: str, work: Work, way: Schedule, arrays: tuple[np.ndarray, ...]) -> float:
    """Seconds of one way to run a pass: the least of some calls, the first of which is not counted."""
    dtype = arrays[0].dtype
    operands = [engine.Operand(array, *plan.maps[maps]) for maps, array in zip(PASSES[name].maps, arrays, strict=True)]
    operands[2] = operands[2]._replace(written=True)
    nbytes = workspace_bytes(work, way)
    space = threads.memory(nbytes)[: nbytes // 64 * 64].view(dtype)
    times: list[float] = []
    while len(times) < 2 or (len(times) < CALLS and sum(times) < LONG):
        run = engine.Run.of_pass(work, way, *operands, space)
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def counts(sample: Sample, sizes: dict[str, int]) -> list[float]:
    """What the model multiplies with each sought number, for these sizes of caches: operations, bytes, calls."""
    nothing = CpuRates(**{name: 0.0 if name in SECONDS else math.inf for name in SOUGHT}, **sizes)
    found = []
    for name in SOUGHT:
        found.append(predicted(sample.work, sample.schedule, replace(nothing, **{name: 1.0})))
    return found


def by_pass(taken: list[Sample]) -> dict[tuple[str, str], list[Sample]]:
    found: dict[tuple[str, str], list[Sample]] = {}
    for sample in taken:
        found.setdefault((sample.layer, sample.pass_name), []).append(sample)
    return found


def fitted(taken: list[Sample], sizes: dict[str, int]) -> tuple[CpuRates, float]:
    """The rates for these sizes of caches, and the root mean square of the relative errors; what is near the fastest of
    its pass counts most."""
    least = {key: min(sample.seconds for sample in group) for key, group in by_pass(taken).items()}
    seconds = np.array([sample.seconds for sample in taken])
    weights = (np.array([least[sample.layer, sample.pass_name] for sample in taken]) / seconds) ** NEARNESS
    matrix = np.array([counts(sample, sizes) for sample in taken]) / seconds[:, None]
    weighted = matrix * weights[:, None]
    scale = np.linalg.norm(weighted, axis=0) + 1e-300
    solution = nnls(weighted / scale, weights)[0] / scale
    pairs = zip(SOUGHT, solution.tolist(), strict=True)
    values = {name: value if name in SECONDS else 1 / value if value else math.inf for name, value in pairs}
    return CpuRates(**values, **sizes), float(np.sqrt(np.mean((matrix @ solution - 1) ** 2)))


def losses(taken: list[Sample], rates: CpuRates) -> list[tuple[float, str]]:
    """By layer, how much slower its three passes are at the length and schedules of the model than at the fastest."""
    chosen: dict[tuple[str, int], list[Sample]] = {}
    fastest: dict[tuple[str, int], list[Sample]] = {}
    for group in by_pass(taken).values():
        for T in {sample.T for sample in group}:
            ways = [sample for sample in group if sample.T == T]
            key = ways[0].layer, T
            chosen.setdefault(key, []).append(min(ways, key=lambda s: predicted(s.work, s.schedule, rates)))
            fastest.setdefault(key, []).append(min(ways, key=lambda s: s.seconds))
    whole = [key for key, ways in chosen.items() if len(ways) == len(PASSES)]
    found = []
    for layer in dict.fromkeys(name for name, _ in whole):
        keys = [key for key in whole if key[0] == layer]
        model = min(keys, key=lambda key: sum(predicted(s.work, s.schedule, rates) for s in chosen[key]))
        best_key = min(keys, key=lambda key: sum(s.seconds for s in fastest[key]))
        times = [sum(s.seconds for s in ways) for ways in (chosen[model], fastest[best_key])]
        said = f"T = {model[1]} {times[0] * 1e3:.2f} ms, fastest T = {best_key[1]} {times[1] * 1e3:.2f} ms"
        found.append((times[0] / times[1] - 1, f"{layer}: {said}"))
    return sorted(found, reverse=True)


def average(lost: list[tuple[float, str]]) -> float:
    return sum(loss for loss, _ in lost) / len(lost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer layers and lengths")
    quick = parser.parse_args().quick
    names, lengths = (NAMES[4:6], (8, 16)) if quick else (NAMES, CODELET_SIZES)
    count = threads.thread_count()
    taken = list(samples(names, lengths, count))
    about = machine.describe(count)
    print(f"{about['device']}, {count} threads, {about['date']}, {len(taken)} samples, {about['versions']}")
    caches = [{"near_bytes": near, "shared_bytes": shared} for near in NEAR for shared in SHARED if near < shared]
    rates, error = min((fitted(taken, sizes) for sizes in caches), key=lambda found: average(losses(taken, found[0])))
    for title, these in (("as it is", CPU), ("fitted", rates)):
        lost = losses(taken, these)
        print(f"{title}: what the model chooses is {average(lost):.1%} slower than the fastest on the average; worst:")
        print(*(f"  {loss:.0%} {said}" for loss, said in lost[:6]), sep="\n")
    print(f"root mean square of relative errors {error:.0%}")
    print("CpuRates(" + ", ".join(f"{name}={getattr(rates, name):.3g}" for name in SOUGHT), end=", ")
    print(f"near_bytes={rates.near_bytes}, shared_bytes={rates.shared_bytes})")


if __name__ == "__main__":
    main()
