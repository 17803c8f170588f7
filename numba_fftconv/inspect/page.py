"""The figures of a kernel and of all kernels of the library as one page of HTML, its plots within it as SVG.

Roofline: each stage at its flops a byte, on the roof that it meets. Instructions: what each kernel is made of. Table:
what each takes. The page loads nothing from anywhere.
"""

import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from html import escape
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import no_collections
from ..cuda.banks import by_kind
from ..errors import UnsupportedError
from ..gpus import Gpu, sm
from . import library
from .library import Choices
from .report import Report, inspect
from .text import scaled, text

SIZES, TILES, CHANNELS = (8, 16, 32, 64), ("128x128", "128x64", "64x64", "16x64"), (16, 64, 256)
FAMILY = [(name, Choices(fft_size=(T, T))) for name in ("transform", "inverse") for T in SIZES] + [
    ("product", Choices(tile=tile)) for tile in TILES
]
COLORS = {
    "FFMA": "#1b6ca8", "FP32": "#63b3e4", "tensor": "#0b3c5d", "FP64": "#7b2d8b", "integer": "#f2a541",
    "convert": "#c9771b", "global": "#2e8b57", "shared": "#8fd0a5", "local": "#d7263d", "generic": "#f46197",
    "sync": "#6b7280", "branch": "#a8adb7", "other": "#dfe2e7",
}  # fmt: skip
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } svg { width: 100%; height: auto; }
pre { background: #f4f6f8; padding: 1rem; overflow-x: auto; font-size: 13px; line-height: 1.4; }
table { border-collapse: collapse; font-size: 14px; } .wide { overflow-x: auto; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #e1e5ea; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.this { background: #fff4dc; }
"""


def require_matplotlib() -> None:
    """Raise UnsupportedError where nothing can draw."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(f"--html needs matplotlib ({error}): pip install matplotlib") from error


def library_reports(gpu: Gpu) -> list[Report]:
    """The kernels of the library, compiled side by side."""
    processes = min(len(FAMILY), os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(_report, FAMILY, [gpu] * len(FAMILY)))


def _report(of: tuple[str, Choices], gpu: Gpu) -> Report:
    with no_collections():
        return inspect(library.subject(*of, gpu), gpu)


def write(path: Path, this: Report, others: Iterable[Report]) -> None:
    """Write the page of a kernel among others."""
    reports = [this, *(other for other in others if other.kernel != this.kernel)]
    gpu = this.gpu
    title = f"{this.kernel} on {gpu.name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<pre>{escape(text(this))}</pre>",
        "<h2>Roofline</h2>",
        f"<p>The stages of a layer of {library.IMAGES} images: filters of {library.TAPS}&#215;{library.TAPS},"
        " 64 channels and filters where nothing else is said. A stage lies on the roof that bounds it.</p>",
        _svg(roofline(gpu, this)),
        "<h2>Instructions</h2>",
        f"<p>What the machine code for {sm(gpu.architecture)} is made of.</p>",
        _svg(mixes(reports)),
        "<h2>Figures</h2>",
        f'<div class="wide">{table(reports)}</div>',
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(parts)
    page = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
    path.write_text(page, encoding="utf-8")


# ---- plots -----------------------------------------------------------------------------------------------------------


def roofline(gpu: Gpu, this: Report) -> Any:
    """A figure: the roofs of a GPU, and on them the stages of the library and this kernel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes: Any = figure.subplots()
    mine = this.roofline.intensity if this.roofline is not None and this.roofline.cost.flops else None
    low, high = min(0.5, (mine or 1) / 3), max(200.0, 10 * gpu.ridge, 3 * (mine or 1))

    def roof(intensity: Any) -> Any:
        return np.minimum(gpu.flops, intensity * gpu.bandwidth) / 1e12

    x = np.array([low, gpu.ridge, high])
    bottom, peak, top = roof(low) / 2, gpu.flops / 1e12, gpu.flops / 1e12 * 2
    axes.loglog(x, roof(x), color="#1f2933", lw=2)
    axes.fill_between(x, roof(x), top, color="#f1f3f5", lw=0)
    axes.text(high / 1.1, 1.12 * peak, f"{peak:.1f} TFLOP/s, float32", ha="right")
    axes.text(1.15 * low, 3 * roof(low), f"{gpu.bandwidth / 1e12:.2f} TB/s")
    axes.vlines(gpu.ridge, bottom, top, color="#9aa3ad", ls=":", lw=1)
    axes.text(gpu.ridge / 1.05, 1.12 * peak, f"ridge, {gpu.ridge:.1f} FLOP/B", color="#6b7280", ha="right")
    for name, color, points in _stages():
        places = np.array(list(points.values()))
        axes.plot(places, roof(places), "o", ms=7, color=color, zorder=3, label=name)
        for label, place in points.items():
            axes.annotate(label, (place, roof(place)), xytext=(7, -13), textcoords="offset points", color=color)
    if mine is not None:
        axes.plot(mine, roof(mine), "D", ms=13, mfc="none", mec="#d7263d", mew=2, ls="", label=this.kernel)
    axes.set(xlim=(low, high), ylim=(bottom, top), xlabel="arithmetic intensity, FLOP/B", ylabel="TFLOP/s at most",
             title=f"{gpu.name}: what memory and multiply-adds allow")  # fmt: skip
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(loc="lower right")
    axes.grid(which="major", alpha=0.25)
    return figure


def _stages() -> list[tuple[str, str, dict[str, float]]]:
    """Name, colour, and intensities by label; an inverse moves and computes what its transform does."""
    transforms = {str(T): library.cost("transform", (T, T), Choices()) for T in SIZES}
    products = {str(C): library.cost("product", library.FFT_SIZE, Choices(channels=C)) for C in CHANNELS}
    rows = ("transform and inverse, by T", "#2e8b57", transforms), ("product, by channels", "#1b6ca8", products)
    return [(name, color, {label: of.flops / of.bytes for label, of in costs.items()}) for name, color, costs in rows]


def mixes(reports: Sequence[Report]) -> Any:
    """A figure: a bar a kernel, its classes of instructions stacked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.6 + 0.34 * len(reports)), layout="constrained")
    axes: Any = figure.subplots()
    rows = [{name: n / len(report.code.instructions) for name, n in report.mix.items()} for report in reports]
    left = np.zeros(len(reports))
    for name, color in COLORS.items():
        share = np.array([100 * row[name] for row in rows])
        if share.any():
            axes.barh(range(len(reports)), share, left=left, color=color, label=name, height=0.72)
            for y, (width, start) in enumerate(zip(share, left, strict=True)):
                if width >= 6:
                    axes.text(start + width / 2, y, f"{width:.0f}", ha="center", va="center", fontsize=8,
                              color="white" if name in ("FFMA", "global", "tensor") else "#1f2933")  # fmt: skip
            left += share
    for y, report in enumerate(reports):
        axes.text(101, y, f"{len(report.code.instructions):,}", va="center", fontsize=9)
    axes.text(101, -0.85, "instructions", va="center", fontsize=9, color="#6b7280")
    axes.set_yticks(range(len(reports)), [report.kernel for report in reports])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="share of the instructions, %")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    return figure


def _svg(figure: Any) -> str:
    """A figure as SVG, from its tag on: HTML wants no declarations."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context({"svg.hashsalt": "numba_fftconv"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    drawn = out.getvalue()
    return drawn[drawn.index("<svg") :]


# ---- table -----------------------------------------------------------------------------------------------------------

HEADINGS = (
    "kernel", "threads", "registers", "local, B", "shared, B", "blocks / SM", "warps", "limited by", "instructions",
    "FFMA in loop", "wavefronts / ideal", "FLOP/B", "bound", "least time",
)  # fmt: skip


def table(reports: Sequence[Report]) -> str:
    """A row a kernel; the first is the one that is inspected."""
    lines = ["<table><thead><tr>" + "".join(f"<th>{name}</th>" for name in HEADINGS) + "</tr></thead><tbody>"]
    for number, report in enumerate(reports):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in _cells(report))
        lines.append(f"<tr>{cells}</tr>" if number else f'<tr class="this">{cells}</tr>')
    return "\n".join([*lines, "</tbody></table>"])


def _cells(report: Report) -> list[str]:
    code, held, roof = report.code, report.occupancy, report.roofline
    kinds = by_kind(report.banks or {}).values()
    ideal = sum(accesses.ideal for accesses in kinds)
    unknown = "?" if report.banks is None else "-"
    return [
        report.kernel, str(report.threads), str(code.registers), str(code.stack + code.local), f"{report.shared:,}",
        str(held.blocks), f"{held.share:.0%}", held.limiter, f"{len(code.instructions):,}",
        f"{report.loop_mix['FFMA'] / len(code.loop):.1%}" if code.loop else "-",
        f"{sum(accesses.wavefronts for accesses in kinds) / ideal:.2f}" if ideal else unknown,
        *([f"{roof.intensity:.3g}", roof.bound, f"{scaled(roof.seconds)}s"] if roof else ["?"] * 3),
    ]  # fmt: skip
