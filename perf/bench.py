"""Times numba_fftconv layer by layer against torch and scipy, on a GPU where torch finds one.

    python perf/bench.py                        every layer, every pass
    python perf/bench.py speed --readme         the promised ratios, table into README
    python perf/bench.py 'fbfft/L[23]' --passes forward --batch 8 --threads 1
    python perf/bench.py speed/k5 --first-call  the wait for compilation, cold and from the disk cache
    python perf/bench.py fbfft --device cpu     on the CPU, GPU or not

Results are checked before anything is timed; see measure.py for how, layers.py for what, report.py for what comes out,
place.py and gpu.py for the difference that a device makes.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine
import place
import report
from layers import ALL_PASSES, PUBLISHED_BATCH, SETS, Layer, select

if TYPE_CHECKING:
    from measure import Row
    from yardstick import Yardstick

HERE = Path(__file__).parent
POOLS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
BUSY_SHARE = 0.8


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="*", default=["all"], help=f"names, patterns, {', '.join(SETS)}, all")
    parser.add_argument("--list", action="store_true", help="print the chosen layers with their sources and stop")
    parser.add_argument("--passes", nargs="+", default=list(ALL_PASSES), choices=ALL_PASSES)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(cuda where torch finds a GPU, else cpu)")
    images = f"images where {PUBLISHED_BATCH} are published (16; cuda: {PUBLISHED_BATCH}; quick: 4)"
    parser.add_argument("--batch", type=int, help=images)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="for every library (2)")
    parser.add_argument("--rounds", type=int, help="at most so many rounds a row (30; quick: 3)")
    parser.add_argument("--seconds", type=float, help="at most so long over a row's rounds (4; quick: 0.5)")
    parser.add_argument("--patience", type=float, help="seconds a row may wait for a quiet machine (5; quick: 0)")
    parser.add_argument("--quick", action="store_true", help="small and rough: shows that it runs")
    parser.add_argument("--first-call", action="store_true", help="time first calls in fresh processes instead")
    parser.add_argument("--json", type=Path, default=HERE / "results", metavar="DIR", help="(perf/results)")
    parser.add_argument("--readme", action="store_true", help="write the table into README.md between its markers")
    chosen = parser.parse_args(words)
    set_threads(chosen.threads)
    try:
        chosen.place = place.at(chosen.device)
    except ValueError as error:
        parser.error(str(error))
    quick = {"batch": 4, "rounds": 3, "seconds": 0.5, "patience": 0.0}
    full = {"batch": chosen.place.batch, "rounds": 30, "seconds": 4.0, "patience": 5.0}
    for name, value in (quick if chosen.quick else full).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    if chosen.batch < 1 or chosen.threads < 1 or chosen.rounds < 1:
        parser.error("--batch, --threads and --rounds are at least 1")
    if chosen.readme and (chosen.quick or chosen.first_call):
        parser.error("--readme takes the figures of a full run: leave out --quick and --first-call")
    chosen.words = chosen.layers
    try:
        chosen.layers = [layer.at_batch(chosen.batch) for layer in select(chosen.words)]
    except ValueError as error:
        parser.error(str(error))
    return chosen


def set_threads(threads: int) -> None:
    """Sizes every pool of this process and its children, which read it when the libraries are imported."""
    for pool in POOLS:
        os.environ[pool] = str(threads)


def time_passes(chosen: argparse.Namespace) -> tuple[list[Row], Yardstick, bool]:
    """Measures and prints row by row; also says whether every result was right."""
    import measure
    import torch

    from numba_fftconv import UnsupportedError

    torch.set_num_threads(chosen.threads)
    effort = measure.Effort(chosen.rounds, chosen.seconds, chosen.patience)
    limits = chosen.place.yardstick()
    gemm = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in limits.gemm.items())
    print(f"bounds: copy {limits.copy / 1e9:.1f} GB/s, matrix product {gemm}")
    print(report.aligned(list(report.COLUMNS)))
    rows: list[Row] = []
    right = True
    for layer in chosen.layers:
        for pass_name in passes_of(chosen, layer):
            try:
                row = measure.measure(layer, pass_name, effort, chosen.threads, limits, chosen.place)
            except UnsupportedError as error:
                print(f"{layer.name:26} {pass_name:11} left out: {error}", flush=True)
                continue
            except measure.WrongResultError as error:
                print(f"{layer.name:26} {pass_name:11} WRONG: {error}", flush=True)
                right = False
                continue
            print("\n".join(report.lines(row)), flush=True)
            rows.append(row)
            right = right and row.correct
    return rows, limits, right


def passes_of(chosen: argparse.Namespace, layer: Layer) -> list[str]:
    return [name for name in layer.passes if name in chosen.passes]


def one_of_each_length(layers: list[Layer], rows: list[Row]) -> list[tuple[Layer, str]]:
    """The first layer and pass of each transform length, which has kernels of its own."""
    by_name = {layer.name: layer for layer in layers}
    by_length = {row.fft_size: (by_name[row.layer], row.pass_name) for row in reversed(rows)}
    return list(by_length.values())[::-1]


def time_first_calls(problems: list[tuple[Layer, str]], here: place.Place) -> list[dict[str, Any]]:
    """Prints and returns the seconds of first calls, cold and warm."""
    import first_call

    found: list[dict[str, Any]] = []
    for layer, pass_name in problems:
        runs = first_call.measure(layer, pass_name, here)
        found.append({"layer": layer.name, "problem": layer.problem, "pass_name": pass_name, **runs})
        for state, limit in here.first_call_limits.items():
            call, imported = runs[state]["call"], runs[state]["import"]
            verdict = "PASS" if call < limit else "MISS"
            line = f"first call, {state}: {call:6.2f} s (< {limit:g}) {verdict}, import {imported:.2f} s"
            print(f"{layer.name:26} {pass_name:11} {line}", flush=True)
    return found


def summary(rows: list[Row], here: place.Place) -> str:
    """How many promises were met and which were not, and whether the machine was quiet enough to tell."""
    promises = [(row, peer) for row in rows for peer in row.targets]
    missed = [(row, peer) for row, peer in promises if not row.met(peer)]
    said = [f"{len(promises) - len(missed)} of {len(promises)} targets met"]
    for row, peer in missed:
        said.append(f"MISS {row.layer} {row.pass_name}: {row.ratio(peer):.2f} < {row.targets[peer]:g} times {peer}")
    busy = [row for row in rows if row.quiet_share < BUSY_SHARE]
    if busy:
        said.append(f"warning: {here.disturbed.format(len(busy), len(rows))}")
    return "\n".join(said)


def main() -> int:
    chosen = arguments()
    if chosen.list:
        for layer in chosen.layers:
            print(f"{layer.name:26} {layer.problem:52} {layer.source}")
        return 0
    here = chosen.place
    about = here.describe(chosen.threads)
    print(f"{here.title(about)}, load average {about['load_average']}, {about['date']}")
    if chosen.first_call:
        layers = [layer for layer in chosen.layers if layer.dtype in here.dtypes]
        problems = [(layer, name) for layer in layers for name in passes_of(chosen, layer)]
        save(chosen, about, {"first_calls": time_first_calls(problems, here)})
        return 0

    rows, limits, right = time_passes(chosen)
    print(summary(rows, here))
    first_calls = time_first_calls(one_of_each_length(chosen.layers, rows), here) if chosen.readme else []
    about["load_average_after"] = machine.load_average()
    records = [row.record() for row in rows]
    save(chosen, about, {"yardstick": asdict(limits), "rows": records, "first_calls": first_calls})
    if chosen.readme and not right:
        print("README.md is left as it was: a result is wrong")
    elif chosen.readme:
        table = report.markdown(chosen.layers, rows, here.note(about), first_calls)
        report.write_readme(HERE.parent / "README.md", table, here.readme_mark)
    return 0 if right else 1


def save(chosen: argparse.Namespace, about: dict[str, Any], figures: dict[str, Any]) -> None:
    """One file for a device and a choice of layers; the next run of the same choice replaces it."""
    words = [*chosen.words, about["device"]]
    words += [f"{chosen.threads}-threads"] if chosen.place.name == "cpu" else []
    words += ["first-call"] if chosen.first_call else []
    words += ["quick"] if chosen.quick else []
    options = {name: getattr(chosen, name) for name in ("batch", "rounds", "seconds", "patience", "quick", "passes")}
    path = report.write_json(chosen.json, " ".join(words), {"about": about, "options": options, **figures})
    print(f"written: {path.name}")


if __name__ == "__main__":
    sys.exit(main())
