"""What a pass costs, and the choice of the transform lengths by it.

`stages` counts flops and bytes. An engine has a model of time: that of the CPU engine is cpu/model.py; that of a GPU is
a roofline, the larger of arithmetic and memory time of each stage by the figures of data sheets, of which nothing was
measured.

Source of the roofline: Williams, Waterman, Patterson, Communications of the ACM 52 (2009).
"""

from collections.abc import Collection
from functools import cache, lru_cache, partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from . import dtypes, gpus
from .cpu import schedule as cpu
from .cpu.butterfly import flops
from .cpu.fft2d import quarters
from .cpu.model import APART, Cost, CpuModel, direct_rate
from .cpu.schedule import Work, schedules, workspace_bytes
from .cuda import schedule as cuda
from .cuda import tensor_tiles
from .cuda.middle import is_large, plane_bytes, region_bytes
from .errors import WorkspaceError
from .geometry import Axis, ConvGeometry
from .integers import Size, bins, ceil_div
from .options import FFT_SIZES
from .passes import PASSES, Pass

FEW = 5  # lengths of each axis of which a plan tries unequal sides
MOST_WORKSPACE = 2**30  # bytes that a plan takes unasked, where it has the choice


class Stage(NamedTuple):
    """One stage of a pass: what it works on and what that costs."""

    name: str
    shape: str
    flops: int
    bytes: int


# ---- flops and bytes -------------------------------------------------------------------------------------------------


def stages(geometry: ConvGeometry, dtype: str, size: Size, row: Pass) -> list[Stage]:
    """The stages of a pass, with the flops and bytes that any engine needs: arrays and spectra move once each way."""
    g, windows, (rows, columns) = geometry, geometry.windows(size, row.name), size
    of_sample, of_spectrum = dtypes.numpy_dtype(dtype).itemsize, spectrum_bytes(size, itemsize(dtype))
    of_plane = (columns * flops(rows) + rows * flops(columns)) // 2  # two planes travel as one
    planes, names = planes_of(g, windows), (*row.operands, row.result)
    found = []
    for letter, role, name in zip(row.letters, ("transform", "transform", "inverse"), names, strict=True):
        moved = prod(g.shapes[name]) * of_sample + planes[name] * of_spectrum
        height, width = g.shapes[name][-2:]
        shape = f"{planes[name]:,} planes of {height} x {width} in tiles of {rows} x {columns}"
        found.append(Stage(f"{role} {letter.lower()}", shape, planes[name] * of_plane, moved))
    Kg, Cg = g.K // g.groups, g.C // g.groups
    m, n, depth = row.extents(windows, Cg, Kg)
    moved = sum(planes[name] for name in names) * of_spectrum
    product = f"{bins(size):,} bins x {g.groups} groups of {m:,} x {n:,}, {depth:,} deep in {row.contracted}"
    return [*found[:2], Stage("multiply", product, 8 * bins(size) * windows * g.pairs, moved), found[2]]


def planes_of(geometry: ConvGeometry, windows: int) -> dict[str, int]:
    """Planes of each array of a pass of so many windows."""
    g = geometry
    return {"input": windows * g.C, "weight": g.pairs, "output": windows * g.K, "grad_output": windows * g.K}


def itemsize(dtype: str) -> int:
    """Bytes of a real of the spectra of arrays of this dtype."""
    return np.dtype(dtypes.computed(dtype)).itemsize


def spectrum_bytes(size: Size, itemsize: int) -> int:
    """Of one plane: bins of two reals."""
    return 2 * bins(size) * itemsize


# ---- GPUs, on paper --------------------------------------------------------------------------------------------------


LAUNCH = 5e-6  # seconds from one kernel to the next
GPUS = {gpus.sm(gpu.architecture): gpu for gpu in reversed(gpus.GPUS)}  # the first of an architecture stands for it


def flops_of(gpu: gpus.Gpu, dtype: str) -> float:
    """Operations a second, outside tensor cores."""
    return {"float32": gpu.flops, "float64": gpu.double_flops}[dtypes.computed(dtype)]


def cost_on(gpu: gpus.Gpu, stage: Stage, dtype: str, precision: str = "fp32") -> Cost:
    on_tensor_cores = stage.name == "multiply" and precision in tensor_tiles.TENSOR_TILES
    rate = tensor_tiles.flops(precision, gpu) if on_tensor_cores else flops_of(gpu, dtype)
    arithmetic, memory = stage.flops / rate, stage.bytes / gpu.bandwidth
    return Cost(arithmetic, 0, LAUNCH) if arithmetic > memory else Cost(0, memory, LAUNCH)


@cache
def figures(architecture: tuple[int, int]) -> str:
    """The GPU of the table that stands for an architecture: the newest that is not newer."""
    return gpus.sm(max(gpu.architecture for gpu in GPUS.values() if gpu.architecture <= architecture))


# ---- choosing --------------------------------------------------------------------------------------------------------


class PassChoice(NamedTuple):
    """How one pass runs: its work and schedule as the engine sees them, workspace, and the cost of each stage."""

    work: Any
    schedule: Any
    workspace: int
    costs: tuple[Cost, ...]

    @property
    def seconds(self) -> float:
        return sum(cost.seconds for cost in self.costs)


class Choice(NamedTuple):
    """Transform lengths of rows and columns, and how each pass runs with them, by its name."""

    size: Size
    by_pass: dict[str, PassChoice]

    @property
    def passes(self) -> Collection[PassChoice]:
        return self.by_pass.values()

    @property
    def seconds(self) -> float:
        return sum(choice.seconds for choice in self.passes)

    @property
    def workspace(self) -> int:
        return max(choice.workspace for choice in self.passes)


def shares_dy(choice: Choice, whole: bool, device: str) -> bool:
    """Whether both gradients come from one spectrum of dy; `whole` where both cut it into the same segments."""
    of_input, of_weight = choice.by_pass["input_grad"], choice.by_pass["weight_grad"]
    engine = cpu if device == "cpu" else cuda
    return engine.shares_gradients(of_weight.work, whole, (of_input.schedule, of_weight.schedule))


def operand_bytes(choice: Choice, name: str, threads: int, device: str) -> int:
    """Bytes of the spectrum of a whole input or weight, in an array of its own."""
    work = choice.by_pass["forward"].work
    return cpu.spectrum_bytes(work, name, threads) if device == "cpu" else cuda.spectrum_bytes(work, name)


def kept(
    choice: Choice, allowed: Collection[str], limit: float, threads: int, device: str
) -> tuple[str, ...]:  # fmt: skip
    """Which of the allowed spectra of a forward pass its gradients read, within a limit of bytes: those first that save
    the most time for their size."""
    engine, of = cpu if device == "cpu" else cuda, choice.by_pass
    works, ways = ([getattr(each, what) for each in choice.passes] for what in ("work", "schedule"))
    saved = {"input": of["weight_grad"].costs[0].seconds, "weight": of["input_grad"].costs[1].seconds}
    size = {name: operand_bytes(choice, name, threads, device) for name in saved}
    least = APART if device == "cpu" else 0.0
    found: list[str] = []
    for name in sorted(engine.worth_keeping(works, ways), key=lambda name: size[name] / saved[name]):
        if name in allowed and saved[name] > least and sum(size[each] for each in found) + size[name] <= limit:
            found.append(name)
    return tuple(sorted(found))


def cpu_work(geometry: ConvGeometry, itemsize: int, size: Size, row: Pass) -> Work:
    """What the CPU engine needs to know of a pass to cut it into tasks, in the faster lanes."""
    works = cpu_works(geometry, itemsize, size, row)
    return works[0] if len(works) == 1 else min(works, key=_seconds_alone)


def cpu_works(geometry: ConvGeometry, itemsize: int, size: Size, row: Pass) -> list[Work]:
    """One pass in each kind of lanes that it can have."""
    g = geometry

    def extents(name: str, maps: str) -> Size:
        rows, columns = (axis.end(n) for axis, n in zip(g.maps(maps, size), g.shapes[name][-2:], strict=True))
        return quarters((rows, columns), size)

    first, second, result = map(extents, (*row.operands, row.result), row.maps)
    segments = prod(g.segments(size, row.name))
    work = Work(row.name, itemsize, size, max(1, g.N), g.C, g.K, g.groups, segments, (first, second, result))
    return [work, *work.exchanges()]


@lru_cache(4096)
def _seconds_alone(work: Work) -> float:
    """On one thread with all the memory it wants: the bits of a result depend on it, so no threads or limit may."""
    return min(choice.seconds for choice in _on_cpu(work, 1))


def choose(
    geometry: ConvGeometry, dtype: str, device: str, size: Size, limit: int | None, threads: int,
    precision: str = "fp32",
) -> Choice:  # fmt: skip
    """How the passes run fastest at a size within `limit` bytes of workspace; where nothing fits, in the least."""

    def fastest(row: Pass) -> PassChoice:
        if device != "cpu":
            ways = _on_gpu(geometry, dtype, device, size, row, precision)
        else:
            work = cpu_work(geometry, itemsize(dtype), size, row)
            ways = _on_cpu(work, threads) if limit is None else [*_on_cpu(work, threads), *_on_cpu(work, 1)]
        most = max(min(way.workspace for way in ways), MOST_WORKSPACE if limit is None else limit)
        return min((way for way in ways if way.workspace <= most), key=lambda way: way.seconds)

    return Choice(size, {name: fastest(row) for name, row in PASSES.items()})


def candidates(
    geometry: ConvGeometry, dtype: str, device: str, limit: int | None, threads: int, precision: str = "fp32"
) -> list[Choice]:
    """Sizes of tiles that hold the kernel and fit the limit, best first.

    Best is the least time of the three passes together without a limit: so the size, on which the bits of all results
    depend, is one for all of them, and a limit changes it only where no schedule at that size fits.
    """
    free = (choose(geometry, dtype, device, size, None, threads, precision) for size in sizes(geometry))
    ranked = sorted(free, key=lambda choice: choice.seconds)
    if limit is None:
        return ranked
    made = [choose(geometry, dtype, device, choice.size, limit, threads, precision) for choice in ranked]
    fitting = [choice for choice in made if choice.workspace <= limit]
    if not fitting:
        raise too_small(limit, min(choice.workspace for choice in made))
    return fitting


def sizes(geometry: ConvGeometry) -> list[Size]:
    """The sizes of tiles among which a plan chooses: all squares, and where rows and columns differ, unequal sides.

    Of those each axis has the FEW lengths that cover it with the fewest positions, segments and their overlap counted.

    >>> wide = ConvGeometry.from_arguments((1, 1, 1, 60), (1, 1, 1, 9))
    >>> (2, 60) in sizes(wide)
    True
    """
    axes = geometry.rows, geometry.cols
    held = [[T for T in FFT_SIZES if axis.reach < T] for axis in axes]
    found = [(T, T) for T in held[0] if T in held[1]]
    if geometry.rows != geometry.cols:
        rows, columns = (
            sorted(lengths, key=partial(_covered, axis))[:FEW] for axis, lengths in zip(axes, held, strict=True)
        )
        found += [(tall, wide) for tall in rows for wide in columns if tall != wide]
    return found


def _covered(axis: Axis, T: int) -> int:
    """Positions of all segments of the three passes; a shorter length is better where two cover as many."""
    return sum(axis.segments(T, name) for name in PASSES) * T


def too_small(limit: int, needed: int) -> WorkspaceError:
    return WorkspaceError(f"workspace_limit is {limit} bytes: the least that this layer can run in is {needed} bytes")


def direct_seconds(geometry: ConvGeometry, dtype: str, device: str, threads: int) -> float:
    """Time of one pass by the definition, at the rate that the multiply stage reaches."""
    g = geometry
    count = 2 * g.N * g.P * g.Q * g.pairs * g.R * g.S
    return count / (direct_rate(itemsize(dtype), threads) if device == "cpu" else flops_of(GPUS[device], dtype))


def _on_cpu(work: Work, threads: int) -> list[PassChoice]:
    """Every schedule with its price."""
    return [
        PassChoice(work, way, workspace_bytes(work, way), tuple(CpuModel(work, way).costs()))
        for way in schedules(work, threads)
    ]


def _launches(planes: int, size: Size) -> int:
    """Of a transform or an inverse: a large one has two for every chunk of planes that lies between its passes.

    >>> _launches(1000, (64, 64)), _launches(1000, (256, 256))
    (1, 4)
    """
    return 2 * ceil_div(planes * plane_bytes(size, size[1]), region_bytes(size, planes)) if is_large(size) else 1


def _on_gpu(
    geometry: ConvGeometry, dtype: str, device: str, size: Size, row: Pass, precision: str
) -> list[PassChoice]:
    """All windows at once, and ever smaller chunks of them: a chunk costs its launches again."""
    g, windows = geometry, geometry.windows(size, row.name)
    made, planes = stages(g, dtype, size, row), planes_of(g, windows)
    counts = [planes[name] for name in row.operands] + [0, planes[row.result]]  # the product transforms none
    if is_large(size):  # what lies between the passes is written and read again
        between = [2 * count * plane_bytes(size, size[1]) for count in counts]
        made = [stage._replace(bytes=stage.bytes + more) for stage, more in zip(made, between, strict=True)]
    costs = [cost_on(GPUS[device], stage, dtype, precision) for stage in made]
    launches = [_launches(count, size) if count else 1 for count in counts]
    costs = [cost._replace(begin=n * cost.begin) for cost, n in zip(costs, launches, strict=True)]
    work = cuda.Work(row.name, size, windows, g.C, g.K, g.groups, precision)
    return [
        PassChoice(
            work, way, cuda.workspace_bytes(work, way),
            tuple(cost._replace(begin=cost.begin * ceil_div(max(1, windows), way.chunk)) for cost in costs),
        )
        for way in cuda.schedules(work)
    ]  # fmt: skip
