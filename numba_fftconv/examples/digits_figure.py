"""The picture of train_digits: losses over one another, how far they lie apart, and what the first layer has learnt.

Curves that coincide hide one another: each is drawn thinner than the one below it, so that all of them are seen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .run import Run

COLOURS = {"NumPy": "#f6bd60", "torch, FFTConv2d": "#2274a5", "torch, nn.Conv2d": "#1b1b1e"}
WIDTHS = {"NumPy": 5.0, "torch, FFTConv2d": 2.4, "torch, nn.Conv2d": 0.7}
FLOOR = 1e-17  # stands for a difference of zero
GREY = "#6b6b70"


def draw(runs: Sequence[Run], reference: str, path: Path) -> None:
    """Draw what came of training.

    Parameters
    ----------
    runs : of all learners.
    reference : name of the runs that the differences of the others are taken from, where there are any.
    path : of a PNG file, or any other that matplotlib writes.

    Raises
    ------
    OSError : the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.2), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(2.4, 1), hspace=0.03)
    left, right = halves[0].subplots(1, 2)
    longest = max(len(run.losses) for run in runs)
    shown = [run for run in runs if len(run.losses) == longest]
    _losses(left, [run for run in shown if run.dtype == shown[0].dtype])
    _differences(right, runs, reference)
    _kernels(halves[1], next((run for run in shown if "FFTConv2d" in run.name), shown[0]))
    figure.savefig(path, dpi=100)


def _losses(panel: Any, runs: Sequence[Run]) -> None:
    for run in runs:
        said = f"{run.name}: {run.accuracy:.1%} of the test digits"
        panel.semilogy(run.losses, color=COLOURS[run.name], linewidth=WIDTHS[run.name], label=said)
    panel.set_title(f"loss of each batch, {runs[0].dtype}")
    _plain(panel)
    panel.legend(frameon=False, loc="lower left")


def _differences(panel: Any, runs: Sequence[Run], reference: str) -> None:
    references = {run.dtype: run for run in runs if run.name == reference}
    for run in runs:
        if run.dtype in references and run.name != reference:
            apart = np.maximum(run.apart(references[run.dtype]), FLOOR)
            width = WIDTHS[run.name] / 2.4
            said = f"{run.name}, {run.dtype}"
            style = "-" if run.dtype == "float32" else ":"
            panel.semilogy(apart, style, color=COLOURS[run.name], linewidth=max(width, 1.3), label=said)
    panel.set_title(f"distance from the loss of {reference}")
    if references:
        for dtype in references:
            panel.axhline(np.finfo(dtype).eps, color=GREY, linewidth=0.8, linestyle="--")
            panel.annotate(
                f"rounding of {dtype}", (1, np.finfo(dtype).eps), (-2, -3), ("axes fraction", "data"), "offset points",
                ha="right", va="top", color=GREY, fontsize=8,
            )  # fmt: skip
        panel.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.3))
    _plain(panel)


def _plain(panel: Any) -> None:
    panel.set_xlabel("step")
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.margins(x=0.01)


def _kernels(part: Any, run: Run) -> None:
    part.suptitle(f"9x9 kernels of the first layer, learnt by {run.name} (blue below zero, red above)")
    limit = float(np.abs(run.kernels).max())
    for panel, kernel in zip(part.subplots(1, len(run.kernels)), run.kernels[:, 0], strict=True):
        panel.imshow(kernel, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_color("#c9c9ce")
