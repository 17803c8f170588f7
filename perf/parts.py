"""What a run consists of: each part measures, prints as it goes, and returns its figures for the one JSON file.

layers    the chosen layers in the chosen passes, with peers and stages
training  steps of training by torch: nets, and each chosen layer by each policy of keeping spectra
scaling   one layer varied in kernel, image, batch and channels
memory    peak memory of the chosen layers
launch    the smallest call
jit       first calls in new processes, one for each transform length among the chosen layers
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import first_call
import launch
import report
from layers import Layer
from machine import load_average
from scaling import SWEEPS

from numba_fftconv import UnsupportedError

if TYPE_CHECKING:
    from measure import Effort
    from row import Row
    from yardstick import Yardstick

Problem = tuple[Layer, str]
SCALING_SHARE = 4  # a point of a sweep takes so much less time than a row of the table


class Run:
    """One run of the benchmark: what was chosen, where it runs, what it has found so far."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen = chosen
        self.place = chosen.place
        self.rows: list[Row] = []
        self.right = True
        self.figures: dict[str, Any] = {}
        self.problems = [(layer, name) for layer in chosen.layers for name in layer.passes if name in chosen.passes]
        self._limits: Yardstick | None = None

    def part(self, name: str) -> None:
        """Runs a part by its name."""
        print(f"\n{name}", flush=True)
        getattr(self, name)()
        self.figures.setdefault("load_averages", {})[name] = load_average()

    @property
    def limits(self) -> Yardstick:
        """The yardstick, measured when it is first asked for."""
        if self._limits is None:
            self._limits = self.place.yardstick()
            self.figures["yardstick"] = asdict(self._limits)
            print(report.yardstick(self._limits))
        return self._limits

    def layers(self) -> None:
        self.rows = self._rows(self.problems, self._effort(1))
        self.figures["rows"] = [row.record() for row in self.rows]
        print(report.summary(self.rows, self.place))

    def training(self) -> None:
        import training
        from check import WrongResultError

        figures: dict[str, list[dict[str, Any]]] = {}
        self.figures["training"] = figures
        try:
            for kind, row in training.measured(self.place, self.chosen.layers, self._effort(1), self.chosen.quick):
                figures.setdefault(kind, []).append(row)
                print("\n".join(training.lines(kind, row)), flush=True)
        except WrongResultError as error:
            print(f"WRONG: {error}", flush=True)
            self.right = False
        if not figures:
            print("left out: torch is not installed")

    def scaling(self) -> None:
        chosen = self.chosen
        passes = chosen.passes[:1] if chosen.quick else chosen.passes
        points = [(sweep, value) for sweep in SWEEPS for value in (sweep.few if chosen.quick else sweep.values)]
        layers = [sweep.layer(value, chosen.batch) for sweep, value in points]
        where = {
            layer.name: {"sweep": sweep.name, "value": value}
            for layer, (sweep, value) in zip(layers, points, strict=True)
        }
        rows = self._rows([(layer, name) for layer in layers for name in passes], self._effort(SCALING_SHARE))
        self.figures["scaling"] = [{**where[row.layer], **row.record()} for row in rows]
        self.figures["sweeps"] = {
            sweep.name: {"axis": sweep.axis, "problem": sweep.problem.format(N=chosen.batch)} for sweep in SWEEPS
        }

    def memory(self) -> None:
        problems = self.problems[:1] if self.chosen.quick else self.problems
        self.figures["memory"] = self.place.peaks(problems, self.chosen.threads)
        print("\n".join(line for record in self.figures["memory"] for line in report.peaks(record)))

    def launch(self) -> None:
        self.figures["launch"] = launch.measure(self.place, self.chosen.threads, self.chosen.quick)
        print("\n".join(launch.lines(self.figures["launch"])))

    def jit(self) -> None:
        found: list[dict[str, Any]] = []
        for layer, pass_name in self._one_of_each_length():
            runs = first_call.measure(layer, pass_name, self.place)
            found.append({"layer": layer.name, "problem": layer.problem, "pass_name": pass_name, **runs})
            print("\n".join(report.first_call(found[-1], self.place.first_call_limits)), flush=True)
        self.figures["first_calls"] = found

    def _rows(self, problems: list[Problem], effort: Effort) -> list[Row]:
        """Measures and prints row by row."""
        import measure
        from check import WrongResultError

        limits = self.limits
        print(report.aligned(list(report.COLUMNS)))
        rows: list[Row] = []
        for layer, pass_name in problems:
            try:
                row = measure.measure(layer, pass_name, effort, self.chosen.threads, limits, self.place)
            except UnsupportedError as error:
                print(f"{layer.name:26} {pass_name:11} left out: {error}", flush=True)
                continue
            except WrongResultError as error:
                print(f"{layer.name:26} {pass_name:11} WRONG: {error}", flush=True)
                self.right = False
                continue
            print("\n".join(report.lines(row)), flush=True)
            rows.append(row)
            self.right = self.right and row.correct
        return rows

    def _effort(self, share: int) -> Effort:
        from measure import Effort

        chosen = self.chosen
        return Effort(chosen.rounds, chosen.seconds / share, chosen.patience / share)

    def _one_of_each_length(self) -> list[Problem]:
        """The first layer and pass of each transform length, which has kernels of its own; one if it is to be quick."""
        import ours

        can = [problem for problem in self.problems if problem[0].dtype in self.place.dtypes]
        by_length = {ours.plan(layer, self.place.name).fft_size: (layer, name) for layer, name in reversed(can)}
        return list(by_length.values())[::-1][: 1 if self.chosen.quick else None]
