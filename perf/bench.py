"""Measures numba_fftconv against torch and scipy, on a GPU where torch finds one: everything, into one JSON and plots.

    python perf/bench.py                        every part: layers, training, scaling, memory, launch, jit
    python perf/bench.py speed --readme         the promised layers; table and plot into README
    python perf/bench.py --quick                every part in a minute or two, rough
    python perf/bench.py 'fbfft/L[23]' --parts layers memory --passes forward --batch 8 --threads 1
    python perf/bench.py speed/k5 --parts jit   the wait for compilation, cold and from the disk cache
    python perf/bench.py fbfft --device cpu     on the CPU, GPU or not
    python perf/bench.py fbfft --precision tf32x3    ours on tensor cores; peers are as without

Results are checked before anything is timed; see parts.py for what a part is, measure.py for how rows are timed,
layers.py and scaling.py for what, report.py and plots.py for what comes out, place.py and gpu.py for the difference
that a device makes. What is not installed is told and left out: all of this runs with the package alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine
import place
import readme
import report
from layers import ALL_PASSES, PRECISIONS, PUBLISHED_BATCH, SETS, Layer, select

if TYPE_CHECKING:
    from parts import Run

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PARTS = ("layers", "training", "scaling", "memory", "launch", "jit")
POOLS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sets = f"names, patterns, {', '.join(SETS)}, all (all; quick: speed)"
    parser.add_argument("layers", nargs="*", help=sets)
    parser.add_argument("--list", action="store_true", help="print the chosen layers with their sources and stop")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="(all of them)")
    parser.add_argument("--passes", nargs="+", default=list(ALL_PASSES), choices=ALL_PASSES)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(cuda where torch finds a GPU, else cpu)")
    modes = "arithmetic of our products: fp32, tf32x3, bf16x3 or tf32; on a CPU all are fp32 (the dtype's own)"
    parser.add_argument("--precision", choices=PRECISIONS, help=modes)
    images = f"images where {PUBLISHED_BATCH} are published (16; cuda: {PUBLISHED_BATCH}; quick: 4)"
    parser.add_argument("--batch", type=int, help=images)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="for every library (2)")
    parser.add_argument("--rounds", type=int, help="at most so many rounds a row (30; quick: 2)")
    parser.add_argument("--seconds", type=float, help="at most so long over a row's rounds (4; quick: 0.3)")
    parser.add_argument("--patience", type=float, help="seconds a row may wait for a quiet machine (5; quick: 0)")
    parser.add_argument("--quick", action="store_true", help="small and rough: shows that it runs")
    parser.add_argument("--json", type=Path, default=HERE / "results", metavar="DIR", help="(perf/results)")
    between = "write table and plot between the markers of README.md, or of another file"
    parser.add_argument("--readme", type=Path, nargs="?", const=README, metavar="FILE", help=between)
    chosen = parser.parse_args(words)
    set_threads(chosen.threads)
    try:
        chosen.place = place.at(chosen.device)
    except ValueError as error:
        parser.error(str(error))
    quick = {"batch": 4, "rounds": 2, "seconds": 0.3, "patience": 0.0, "layers": ["speed"]}
    full = {"batch": chosen.place.batch, "rounds": 30, "seconds": 4.0, "patience": 5.0, "layers": ["all"]}
    for name, value in (quick if chosen.quick else full).items():
        if getattr(chosen, name) in (None, []):
            setattr(chosen, name, value)
    if chosen.batch < 1 or chosen.threads < 1 or chosen.rounds < 1:
        parser.error("--batch, --threads and --rounds are at least 1")
    if chosen.readme and "layers" not in chosen.parts:
        parser.error(f"--readme is a table of layers, and --parts are {' '.join(chosen.parts)}: add layers")
    if chosen.readme and chosen.quick and chosen.readme.resolve() == README.resolve():
        parser.error("README.md takes the figures of a full run: leave out --quick, or name a copy after --readme")
    chosen.words = chosen.layers
    try:
        chosen.layers = [_as_asked(layer, chosen) for layer in select(chosen.words)]
    except ValueError as error:
        parser.error(str(error))
    return chosen


def _as_asked(layer: Layer, chosen: argparse.Namespace) -> Layer:
    """With the batch and the precision of the command line."""
    layer = layer.at_batch(chosen.batch)
    return replace(layer, precision=chosen.precision) if layer.dtype == "float32" else layer


def set_threads(threads: int) -> None:
    """Sizes every pool of this process and its children, which read it when the libraries are imported."""
    for pool in POOLS:
        os.environ[pool] = str(threads)


def main() -> int:
    chosen = arguments()
    if chosen.list:
        for layer in chosen.layers:
            print(f"{layer.name:26} {layer.problem:52} {layer.source}")
        return 0
    from parts import Run

    here = chosen.place
    about = here.describe(chosen.threads)
    print(f"{here.title(about)}, load average {about['load_average']}, {about['date']}")
    run = Run(chosen)
    for part in PARTS:
        if part in chosen.parts:
            run.part(part)
    about["load_average_after"] = machine.load_average()
    drawn = save(chosen, about, run.figures)
    if chosen.readme and not run.right:
        print(f"{chosen.readme.name} is left as it was: a result is wrong")
    elif chosen.readme:
        write_readme(chosen, about, run, drawn)
    return 0 if run.right else 1


def save(chosen: argparse.Namespace, about: dict[str, Any], figures: dict[str, Any]) -> dict[str, Path]:
    """One JSON file and its plots for a device and a choice; the next run of the same choice replaces them."""
    words = [*chosen.words, about["device"]]
    words += [f"{chosen.threads}-threads"] if chosen.place.name == "cpu" else []
    words += [chosen.precision] if chosen.precision else []
    words += chosen.parts if set(chosen.parts) != set(PARTS) else []
    words += ["quick"] if chosen.quick else []
    asked = ("batch", "rounds", "seconds", "patience", "quick", "passes", "precision")
    options = {name: getattr(chosen, name) for name in asked}
    about = {**about, "title": chosen.place.title(about)}
    result = {"about": about, "options": options, "parts": chosen.parts, **figures}
    path = report.write_json(chosen.json, " ".join(words), result)
    try:
        import plots

        drawn = plots.draw(result, path)
    except ImportError as error:
        print(f"no plots: {error.name} is not installed")
        drawn = {}
    print("written: " + ", ".join(written.name for written in [path, *drawn.values()]))
    return drawn


def write_readme(chosen: argparse.Namespace, about: dict[str, Any], run: Run, drawn: dict[str, Path]) -> None:
    """Table, notes and the overview of the sweeps between the markers of this device."""
    text = readme.section(chosen.layers, run.rows, chosen.place.note(about), run.figures)
    if "sweeps forward" in drawn:
        words = "log-log plots of milliseconds against kernel size, image size, batch and channels"
        text += "\n\n" + readme.image(drawn["sweeps forward"], words, chosen.readme)
    readme.write(chosen.readme, text, chosen.place.readme_mark)


if __name__ == "__main__":
    sys.exit(main())
