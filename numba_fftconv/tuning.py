"""What a pass costs, and the choice of the transform length by it.

`stages` counts flops and bytes. An engine has a model of time: that of the CPU engine is cpu/model.py; that of a GPU is
a roofline, the larger of arithmetic and memory time of each stage by the figures of data sheets, of which nothing was
measured.

Source of the roofline: Williams, Waterman, Patterson, Communications of the ACM 52 (2009).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .cpu.butterfly import flops
from .cpu.fft2d import quarters
from .cpu.model import Cost, CpuModel, direct_rate
from .cpu.schedule import Schedule, Work, schedules, workspace_bytes
from .errors import WorkspaceError
from .geometry import FFT_SIZES, ConvGeometry
from .passes import PASSES, Pass

MOST_WORKSPACE = 2**30  # bytes that a plan takes unasked, where it has the choice


class Stage(NamedTuple):
    """One stage of a pass: what it works on and what that costs."""

    name: str
    shape: str
    flops: int
    bytes: int


# ---- flops and bytes -------------------------------------------------------------------------------------------------


def stages(geometry: ConvGeometry, itemsize: int, T: int, row: Pass) -> list[Stage]:
    """The stages of a pass, with the flops and bytes that any engine needs: arrays and spectra move once each way."""
    g = geometry
    rows, columns = (axis.segments(T, row.name) for axis in (g.rows, g.cols))
    windows, pairs = g.N * rows * columns, g.K * g.C // g.groups
    planes = {"x": windows * g.C, "dy": windows * g.K, "y": windows * g.K, "dx": windows * g.C, "w": pairs, "dw": pairs}
    sizes = {"x": (g.N * g.C, g.H, g.W), "y": (g.N * g.K, g.P, g.Q), "w": (pairs, g.R, g.S)}
    spectrum = (T * T + 4) * itemsize  # of one plane: bins of two reals, half of them for a real plane
    found = []
    for letter, role in zip(row.letters, ("transform", "transform", "inverse"), strict=True):
        name = letter[:-1] + letter[-1].lower()
        count, (samples, height, width) = planes[name], sizes[name[-1]]
        moved = samples * height * width * itemsize + count * spectrum
        shape = f"{count:,} planes of {height} x {width} in tiles of {T} x {T}"
        found.append(Stage(f"{role} {name}", shape, count * T * flops(T), moved))
    bins, sums = T * T // 2 + 2, windows * pairs
    m, n, depth = {
        "forward": (windows, g.K, g.C),
        "input_grad": (windows, g.C, g.K),
        "weight_grad": (g.K, g.C, windows),
    }[row.name]
    per_group = [count if row.name == "weight_grad" and count == windows else count // g.groups for count in (n, depth)]
    m = m // g.groups if row.name == "weight_grad" else m
    moved = sum(planes[stage.name.split()[1]] for stage in found) * spectrum
    product = f"{bins:,} bins x {g.groups} groups of {m:,} x {per_group[0]:,}, depth {per_group[1]:,}"
    return [*found[:2], Stage("multiply", product, 8 * bins * sums, moved), found[2]]


# ---- GPUs, on paper --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """Data sheet figures of a GPU: float32 and float64 flops per second outside tensor cores, bytes per second."""

    name: str
    float32: float
    float64: float
    memory: float
    launch: float = 5e-6  # seconds from one kernel to the next

    def cost(self, stage: Stage, dtype: str) -> Cost:
        arithmetic, memory = stage.flops / self.rate(dtype), stage.bytes / self.memory
        return Cost(arithmetic, 0, self.launch) if arithmetic > memory else Cost(0, memory, self.launch)

    def rate(self, dtype: str) -> float:
        return {"float32": self.float32, "float64": self.float64}[dtype]


GPUS = {
    "sm_80": Gpu("A100 80 GB SXM", 19.5e12, 9.7e12, 2.04e12),
    "sm_86": Gpu("A40", 37.4e12, 0.58e12, 0.696e12),
    "sm_89": Gpu("L40", 90.5e12, 1.41e12, 0.864e12),
    "sm_90": Gpu("H100 SXM", 66.9e12, 33.5e12, 3.35e12),
}


# ---- choosing --------------------------------------------------------------------------------------------------------


class PassChoice(NamedTuple):
    """How one pass runs: its work and schedule on the CPU engine, workspace, and the cost of each stage."""

    work: Work | None
    schedule: Schedule | None
    workspace: int
    costs: tuple[Cost, ...]

    @property
    def seconds(self) -> float:
        return sum(cost.seconds for cost in self.costs)


class Choice(NamedTuple):
    """A transform length and how each pass runs with it."""

    T: int
    passes: tuple[PassChoice, ...]

    @property
    def seconds(self) -> float:
        return sum(choice.seconds for choice in self.passes)

    @property
    def workspace(self) -> int:
        return max(choice.workspace for choice in self.passes)


def cpu_work(geometry: ConvGeometry, itemsize: int, T: int, row: Pass) -> Work:
    """What the CPU engine needs to know of a pass to cut it into tasks."""
    g, extents = geometry, []
    sizes = {"input": (g.H, g.W), "weight": (g.R, g.S), "output": (g.P, g.Q)}
    for name, maps in zip((*row.operands, row.result), row.maps, strict=True):
        size = sizes[name.removeprefix("grad_")]
        ends = (getattr(axis, maps)(T).end(n) for axis, n in zip((g.rows, g.cols), size, strict=True))
        extents.append(quarters(max(ends), T))
    segments = g.rows.segments(T, row.name) * g.cols.segments(T, row.name)
    work = Work(row.name, itemsize, T, max(1, g.N), g.C, g.K, g.groups, segments, (extents[0], extents[1], extents[2]))
    return min((work, *work.exchanges()), key=_seconds_alone)


@lru_cache(4096)
def _seconds_alone(work: Work) -> float:
    """On one thread with all the memory it wants: what the bits of a result depend on, no thread or limit may change."""
    return min(choice.seconds for choice in _on_cpu(work, 1))


def choose(geometry: ConvGeometry, dtype: str, device: str, T: int, limit: int | None, threads: int) -> Choice:
    """How the passes run fastest at T within `limit` bytes of workspace; where nothing fits, in the least."""

    def fastest(row: Pass) -> PassChoice:
        if device != "cpu":
            ways = _on_gpu(geometry, dtype, device, T, row)
        else:
            work = cpu_work(geometry, np.dtype(dtype).itemsize, T, row)
            ways = _on_cpu(work, threads) if limit is None else [*_on_cpu(work, threads), *_on_cpu(work, 1)]
        most = max(min(way.workspace for way in ways), MOST_WORKSPACE if limit is None else limit)
        return min((way for way in ways if way.workspace <= most), key=lambda way: way.seconds)

    return Choice(T, tuple(fastest(row) for row in PASSES.values()))


def candidates(
    geometry: ConvGeometry,
    dtype: str,
    device: str,
    limit: int | None,
    threads: int,
    passes: tuple[str, ...] = tuple(PASSES),
) -> list[Choice]:
    """Every transform length that holds the kernel and fits the limit, fastest in some passes first."""
    lengths = [T for T in FFT_SIZES if geometry.smallest_fft() <= T]
    made = [choose(geometry, dtype, device, T, limit, threads) for T in lengths]
    fitting = [choice for choice in made if limit is None or choice.workspace <= limit]
    if not fitting:
        raise too_small(limit, min(choice.workspace for choice in made))
    wanted = [list(PASSES).index(name) for name in passes]
    return sorted(fitting, key=lambda choice: sum(choice.passes[i].seconds for i in wanted))


def too_small(limit: int | None, needed: int) -> WorkspaceError:
    return WorkspaceError(f"workspace_limit is {limit} bytes: the least that this layer can run in is {needed} bytes")


def direct_seconds(geometry: ConvGeometry, dtype: str, device: str, threads: int) -> float:
    """Time of one pass by the definition, at the rate that the multiply stage reaches."""
    g = geometry
    count = 2 * g.N * g.P * g.Q * g.K * (g.C // g.groups) * g.R * g.S
    return count / (direct_rate(np.dtype(dtype).itemsize, threads) if device == "cpu" else GPUS[device].rate(dtype))


def _on_cpu(work: Work, threads: int) -> list[PassChoice]:
    """Every schedule with its price."""
    return [
        PassChoice(work, way, workspace_bytes(work, way), tuple(CpuModel(work, way).costs()))
        for way in schedules(work, threads)
    ]


def _on_gpu(geometry: ConvGeometry, dtype: str, device: str, T: int, row: Pass) -> list[PassChoice]:
    """All windows at once, and ever smaller chunks of them: the spectra of the weights stay, the others shrink."""
    found = stages(geometry, np.dtype(dtype).itemsize, T, row)
    spectrum = (T * T + 4) * np.dtype(dtype).itemsize
    windows = geometry.N * geometry.rows.segments(T, row.name) * geometry.cols.segments(T, row.name)
    fixed = geometry.K * geometry.C // geometry.groups * spectrum
    each = (geometry.C + geometry.K) * spectrum
    costs = tuple(GPUS[device].cost(stage, dtype) for stage in found)
    ways, chunk = [], max(1, windows)
    while True:
        turns = -(-windows // chunk)
        ways.append(
            PassChoice(
                None, None, fixed + chunk * each, tuple(cost._replace(begin=cost.begin * turns) for cost in costs)
            )
        )
        if chunk == 1:
            return ways
        chunk = -(-chunk // 2)
