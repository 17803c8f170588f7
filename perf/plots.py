"""The plots of a run, as PNG files beside its JSON: sweeps as lines, layers, stages and memory as dots.

    python perf/plots.py perf/results/NAME.json     draws them again

Shaded is where ours takes longer than the best of the others, in the same run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

Array = np.ndarray
Result = Mapping[str, Any]
Dots = dict[str, dict[str, float]]  # by series, then by label on the vertical axis

COLOURS = {
    "ours": "#0b5394",
    "torch": "#e07b00",
    "torch.fft": "#3a9a3a",
    "scipy": "#8e5bb5",
    "torch tf32": "#c0392b",
    "cuDNN FFT": "#7f5539",
}
OTHERS = ("#2a6fbb", "#5fb3d9", "#c0392b", "#e0a000")
OURS = "numba_fftconv"
MARKERS = "osD^vPX*"
LOSES: dict[str, Any] = {"color": "#d62828", "alpha": 0.11, "linewidth": 0}
DPI = 110


def draw(result: Result, path: Path) -> dict[str, Path]:
    """Every plot that the parts of a run have figures for, by its name."""
    made: dict[str, Figure] = {}
    points = result.get("scaling", [])
    for pass_name in dict.fromkeys(point["pass_name"] for point in points):
        mine = [point for point in points if point["pass_name"] == pass_name]
        made[f"sweeps {pass_name}"] = sweeps(mine, result, pass_name)
    if rows := result.get("rows", []):
        made["stages"] = stages(rows, result)
        if any(row["peers"] for row in rows):
            made["layers"] = layers(rows, result)
    peaks = [record for record in result.get("memory", []) if any(least_peaks(record).values())]
    if peaks:
        made["memory"] = memory(peaks, result)
    drawn = {}
    for name, figure in made.items():
        drawn[name] = path.with_name(f"{path.stem}-{name.replace(' ', '-').replace('_', '-')}.png")
        figure.savefig(drawn[name], dpi=DPI)
        pyplot.close(figure)
    return drawn


# ---- sweeps ----------------------------------------------------------------------------------------------------------


def sweeps(points: list[Any], result: Result, pass_name: str) -> Figure:
    """A panel a sweep: milliseconds of every contestant against what varies, both logarithmic."""
    figure, grid = pyplot.subplots(2, 2, figsize=(11, 8.4), layout="constrained")
    for axes, (name, about) in zip(grid.flat, result["sweeps"].items(), strict=True):
        panel(axes, [point for point in points if point["sweep"] == name], about)
    figure.suptitle(f"{pass_name}: {result['about']['title']}", fontsize=13)
    legend(figure, loses=any(point["peers"] for point in points))
    return figure


def panel(axes: Axes, points: list[Any], about: Mapping[str, str]) -> None:
    """One sweep; bars are the quartiles of the samples."""
    values = [point["value"] for point in points]
    lines: dict[str, list[list[float]]] = {}
    for point in points:
        for who, samples in {"ours": point["ours"], **point["peers"]}.items():
            lines.setdefault(who, []).append([point["value"], *quartiles(samples)])
    for (who, found), marker in zip(lines.items(), MARKERS, strict=False):
        x, low, middle, high = np.array(found).T
        style: dict[str, Any] = {"color": colour(who, lines), "marker": marker, "markersize": 5, "label": label(who)}
        width = 2.2 if who == "ours" else 1.4
        axes.errorbar(x, middle, [middle - low, high - middle], linewidth=width, elinewidth=1, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    shade(axes, points)
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    plain_ticks(axes.yaxis)
    axes.set(xlabel=about["axis"], ylabel="time of a call, ms")
    axes.set_title(about["problem"], fontsize=11)
    axes.grid(which="major", alpha=0.35)
    axes.grid(which="minor", axis="y", alpha=0.12)


def quartiles(samples: list[float]) -> list[float]:
    """In milliseconds."""
    return [1e3 * value for value in (quantiles(samples, n=4) if len(samples) > 1 else samples * 3)]


def shade(axes: Axes, points: list[Any]) -> None:
    """Shades where the line of ours is above the lowest of the others; between points lines are straight."""
    both = [(p["value"], median(p["ours"]), min(median(s) for s in p["peers"].values())) for p in points if p["peers"]]
    if both:
        x, loses = losing(*np.array(both).T)
        axes.fill_between(x, 0, 1, where=loses, transform=axes.get_xaxis_transform(), **LOSES)


def losing(x: Array, ours: Array, best: Array) -> tuple[Array, Array]:
    """Values between the first and the last of x, and at which of them ours is above; lines as on logarithmic axes."""
    fine = np.linspace(np.log(x[0]), np.log(x[-1]), 2000)
    mine, least = (np.interp(fine, np.log(x), np.log(line)) for line in (ours, best))
    return np.exp(fine), mine > least


# ---- dots ------------------------------------------------------------------------------------------------------------


def layers(rows: list[Any], result: Result) -> Figure:
    """How many times as long each peer takes."""
    panels: dict[str, Dots] = {}
    for row in rows:
        for peer, found in row["ratios"].items():
            panels.setdefault(row["pass_name"], {}).setdefault(peer, {})[line(row)] = found["ratio"]
    return dots(panels, "time of the peer / time of ours", f"ratio to peers: {result['about']['title']}", one="loses")


def stages(rows: list[Any], result: Result) -> Figure:
    """The fraction of its bound that each stage reaches."""
    panels: dict[str, Dots] = {}
    for row in rows:
        for (name, spent), operand in zip(row["stages"].items(), ("first", "second", "", ""), strict=True):
            if name in row["stage_bounds"]:
                stage = f"{operand} {name.split()[0]}".strip()
                bound = row["stage_bounds"][name][1]
                panels.setdefault(row["pass_name"], {}).setdefault(stage, {})[line(row)] = bound / spent
    bounds = "time of a copy of as many bytes, or of the vendor's batched product, / time of the stage"
    return dots(panels, bounds, f"stages against their bounds: {result['about']['title']}", one="line")


def memory(records: list[Any], result: Result) -> Figure:
    """Megabytes of every contestant, each in its leanest setting."""
    panels: dict[str, Dots] = {}
    for record in records:
        for who, least in least_peaks(record).items():
            if least > 0:
                panels.setdefault(record["pass_name"], {}).setdefault(who, {})[line(record)] = least
    return dots(panels, "peak memory of a call, MB", f"memory beyond operands: {result['about']['title']}")


def least_peaks(record: Mapping[str, Any]) -> dict[str, float]:
    """Megabytes of each contestant that was measured."""
    return {who: min(by_setting.values()) / 1e6 for who, by_setting in record["peak_bytes"].items()}


def dots(panels: dict[str, Dots], axis: str, title: str, one: str = "") -> Figure:
    """A panel a pass side by side, a line a label, a dot a series; a line at one, if wanted, or all below it shaded."""
    labels = list(dict.fromkeys(name for panel in panels.values() for found in panel.values() for name in found))
    series = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    size = (2.4 + 3.4 * len(panels), 1.9 + 0.38 * len(labels))
    figure, grid = pyplot.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, (pass_name, panel) in zip(grid.flat, panels.items(), strict=True):
        for name, marker in zip(series, MARKERS, strict=False):
            found = panel.get(name, {})
            heights = [labels.index(label) for label in found]
            axes.plot(found.values(), heights, marker, color=colour(name, series), label=label(name), markersize=6)
        axes.set_xscale("log")
        left, right = axes.get_xlim()
        if one == "loses":
            left = min(left, 0.8)
            axes.axvspan(left, 1, **LOSES)
            axes.set_xlim(left, right)
        plain_ticks(axes.xaxis)
        if one and left < 1 < right:
            axes.axvline(1, color="black", linewidth=0.8)
        axes.set_title(pass_name, fontsize=11)
        axes.grid(which="major", alpha=0.35)
    grid[0, 0].set_yticks(range(len(labels)), labels, fontsize=8)
    grid[0, 0].set_ylim(len(labels) - 0.4, -0.6)
    grid[0, len(panels) // 2].set_xlabel(axis, fontsize=11)
    figure.suptitle(title, fontsize=13)
    legend(figure, one == "loses")
    return figure


# ---- both ------------------------------------------------------------------------------------------------------------


def legend(figure: Figure, loses: bool) -> None:
    """Every series of the panels once, and what the shade means, below all."""
    panels = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes]
    series: dict[str, Artist] = {name: handle for found in panels for handle, name in found}
    if loses:
        series[f"{OURS} takes longer than the best other"] = Patch(**LOSES)
    figure.legend(series.values(), series.keys(), loc="outside lower center", ncols=len(series), frameon=False)


def line(record: Mapping[str, Any]) -> str:
    """What stands at the left of a line of dots."""
    return f"{record['layer']}\n{record['problem']}"


def label(series: str) -> str:
    return OURS if series == "ours" else series


def plain_ticks(axis: Any) -> None:
    """Plain numbers at whole decades, and at 2 and 5 between them where there are few."""
    low, high = np.log10(axis.get_view_interval())
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    ticks = [step * 10.0**power for power in range(int(low) - 1, int(high) + 2) for step in steps]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if 10**low <= tick <= 10**high]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def colour(name: str, among: Iterable[str]) -> str:
    """A contestant's own colour, another for each series that has none."""
    rest = [other for other in among if other not in COLOURS]
    return COLOURS[name] if name in COLOURS else OTHERS[rest.index(name) % len(OTHERS)]


if __name__ == "__main__":
    json_path = Path(sys.argv[1])
    print(", ".join(str(made) for made in draw(json.loads(json_path.read_text()), json_path).values()))
