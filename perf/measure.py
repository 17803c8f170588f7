"""One layer, one pass: check the result, warm up, time in turns with the peers.

A round gives every contestant one turn, within one process, so that whatever disturbs the machine disturbs all; a ratio
is one of medians over the same rounds. A turn begins with calls that are not timed: threads that slept while another
library ran need tens of milliseconds until the system gives each a core of its own again, and a network does not
change its library from layer to layer. What a turn is on a CPU and on a GPU stands in place.py and gpu.py.
"""

import gc
import statistics
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import ours
import peers
import torch
from layers import Layer
from machine import Gate, load_average
from place import SETTLE_SECONDS, TURN, Call, Place
from yardstick import Yardstick

from numba_fftconv import ConvPlan
from numba_fftconv.passes import PASSES

PROFILE_RUNS = 5
SAMPLE_IMAGES = 2
SAMPLE_GROUPS = 4
SAMPLE_FILTERS = 8
LOOSE = 1e-3


class WrongResultError(Exception):
    """Ours and a peer's results differ: nothing is timed."""


@dataclass(frozen=True)
class Effort:
    """How long a row may take: rounds, seconds over all rounds, seconds spent on waiting for a quiet machine."""

    rounds: int = 30
    seconds: float = 4.0
    patience: float = 5.0


def summarise(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "min": min(seconds), "samples": len(seconds)}


@dataclass
class Row:
    """What was measured of one pass of one layer; times in seconds, `bound` by the yardstick from flops and bytes.

    A stage's bound is a name and seconds. Stages' bounds, the host's seconds a call and peaks are those of a GPU.
    """

    layer: str
    problem: str
    pass_name: str
    fft_size: int
    flops: int
    bytes: int
    bound: float
    error: float
    tolerance: float
    ours: list[float] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    probes: dict[str, dict[str, float]] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    stage_bounds: dict[str, tuple[str, float]] = field(default_factory=dict)
    host: float | None = None
    peak_bytes: dict[str, int] = field(default_factory=dict)
    quiet_share: float = 0.0
    load_average: float | None = None

    @property
    def correct(self) -> bool:
        return self.error <= self.tolerance

    @property
    def median(self) -> float:
        return statistics.median(self.ours)

    @property
    def gflops(self) -> float:
        """The rate of the arithmetic that the plan says the pass needs."""
        return self.flops / self.median / 1e9

    @property
    def share_of_bound(self) -> float:
        return self.bound / self.median

    def ratio(self, peer: str) -> float:
        """How many times as long the peer takes: median over median."""
        return statistics.median(self.peers[peer]) / self.median

    def met(self, peer: str) -> bool | None:
        """Whether the promise is kept, None where there is none."""
        return self.ratio(peer) >= self.targets[peer] if peer in self.targets else None

    def record(self) -> dict[str, object]:
        """The row as it goes into a file, with the figures that follow from the samples."""
        times = {"ours": self.ours, **self.peers}
        derived = {
            "summary": {who: summarise(seconds) for who, seconds in times.items()},
            "ratios": {peer: {"ratio": self.ratio(peer), "met": self.met(peer)} for peer in self.peers},
            "gflops": self.gflops,
            "share_of_bound": self.share_of_bound,
        }
        return {**asdict(self), **derived}


def stage_times(plan: ConvPlan, pass_name: str, operands: tuple[Any, ...]) -> dict[str, float]:
    """Median seconds per stage as the plan's own profile reports them."""
    runs = [plan.profile(pass_name, *operands) for _ in range(PROFILE_RUNS)]
    return {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}


def tolerance(layer: Layer, plan: ConvPlan, pass_name: str) -> float:
    """The relative L2 error that the project allows: it grows with the root of the sum's length."""
    rows, cols = plan.segments["forward"]
    depth = {
        "forward": layer.C // layer.groups,
        "input_grad": layer.K // layer.groups,
        "weight_grad": layer.N * rows * cols,
    }[pass_name]
    return {"float32": 5e-7, "float64": 1e-14}[layer.dtype] * max(1.0, (depth / 256) ** 0.5)


def spread(count: int, total: int) -> np.ndarray:
    """At most `count` indices of `total`, first and last among them."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))


def sampled_error(layer: Layer, pass_name: str, arrays: peers.Arrays, result: np.ndarray, place: Place) -> float:
    """Relative L2 error against torch in float64, on a few images, groups and filters, first and last among them.

    All elements are compared with the peers' results, more loosely.
    """
    images = np.arange(layer.N) if pass_name == "weight_grad" else spread(SAMPLE_IMAGES, layer.N)
    groups = spread(SAMPLE_GROUPS, layer.groups)
    channels = np.arange(layer.C).reshape(layer.groups, -1)[groups].ravel()
    filters = np.arange(layer.K).reshape(layer.groups, -1)[groups].ravel()
    if pass_name != "input_grad" and layer.groups == 1:
        filters = filters[spread(SAMPLE_FILTERS, len(filters))]
    read, written = np.ix_(images, channels), np.ix_(images, filters)
    parts = (arrays["x"][read], arrays["w"][filters], arrays["dy"][written])
    tensors = [torch.as_tensor(place.put(part)).double() for part in parts]
    exact = place.numpy(peers.torch_call(replace(layer, groups=len(groups)), pass_name, *tensors))
    sample = result[{"forward": written, "input_grad": read, "weight_grad": filters}[pass_name]]
    return float(np.linalg.norm((sample - exact).ravel()) / np.linalg.norm(exact.ravel()))


def agree(result: Any, other: Any, loose: float) -> bool:
    """Whether every element agrees with a peer's, up to a loose bound in units of the result's own scale."""
    return bool(abs(result - other).max() <= loose * abs(result).max())


def probe(calls: peers.Settings, result: Any, loose: float, gate: Gate, place: Place) -> dict[str, float]:
    """The best call in one turn of each setting; its result must be ours."""
    best = {}
    for name, call in calls.items():
        if not agree(result, place.comparable(call()), loose):
            raise WrongResultError(f"{name} and numba_fftconv differ by more than {loose:g} of the largest element")
        best[name] = min(place.turn(call, gate))
    return best


def measure(layer: Layer, pass_name: str, effort: Effort, threads: int, yardstick: Yardstick, place: Place) -> Row:
    """One row of the table."""
    layer, plan, gate = place.promised(layer), ours.plan(layer, place.name), Gate(effort.patience)
    host_arrays = peers.operands(layer)
    arrays = {name: place.put(array) for name, array in host_arrays.items()}
    named = {"input": arrays["x"], "weight": arrays["w"], "grad_output": arrays["dy"]}
    operands = tuple(named[name] for name in PASSES[pass_name].operands)

    def call() -> Any:
        return ours.call(layer, pass_name, **arrays)

    result = call()
    row = Row(
        layer=layer.name,
        problem=layer.problem,
        pass_name=pass_name,
        fft_size=plan.fft_size,
        flops=plan.flops[pass_name],
        bytes=plan.bytes[pass_name],
        bound=yardstick.bound(plan.flops[pass_name], plan.bytes[pass_name], layer.dtype),
        error=sampled_error(layer, pass_name, host_arrays, place.numpy(result), place),
        tolerance=tolerance(layer, plan, pass_name),
    )

    contestants: dict[str, Call] = {}
    for peer, calls in place.settings(layer, pass_name, arrays, threads).items():
        row.probes[peer] = probe(calls, result, place.loose.get(peer, LOOSE), gate, place)
        row.settings[peer] = min(row.probes[peer], key=row.probes[peer].__getitem__)
        contestants[peer] = calls[row.settings[peer]]
        if (ratio := layer.target(pass_name, peer)) is not None:
            row.targets[peer] = ratio
    del result

    contestants = {"ours": call, **contestants}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    best = [place.clock(call), *(min(times.values()) for times in row.probes.values())]
    round_seconds = sum(SETTLE_SECONDS + max(SETTLE_SECONDS, TURN * seconds) for seconds in best)
    gc.collect()
    gc.disable()
    for _ in range(max(1, min(effort.rounds, int(effort.seconds / round_seconds)))):
        for name, contestant in contestants.items():
            samples[name] += place.turn(contestant, gate)
    gc.enable()

    row.ours = samples.pop("ours")
    row.peers = samples
    row.stages = stage_times(plan, pass_name, operands)
    place.complete(row, plan, yardstick, operands, contestants)
    row.quiet_share, row.load_average = round(gate.quiet_share, 3), load_average()
    return row
