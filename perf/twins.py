"""A kernel of Numba's and its twin from src/ on a GPU: their times, in turns, and how far their results are apart.

Both read the same bytes of arguments: a launch tells where each parameter lies in them, fields of Numba's kernel one by
one, structs of the twin's as a whole. Between two marks of the GPU's clock lie LAUNCHES launches of one kernel; the two
take turns, and the medians of all turns but the first are reported. Operands do not fit into the second-level cache.
"""

import math
import statistics
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import nvrtc

from numba_fftconv.cuda import cubins, driver, fft2d, product, ptx_machine
from numba_fftconv.cuda.planes import AxisMap, Epilogue, Planes, Strides
from numba_fftconv.cuda.tiles import TILES
from numba_fftconv.cuda.toolchain import Binary, Kernel
from numba_fftconv.integers import bins

TURNS, LAUNCHES, STREAM = 11, 10, 0
SAMPLES = 1 << 24  # of all planes of a transform
EXTENT, PRODUCT_BINS = 384, 130  # rows, columns and depth of a product
CHANNELS = 64
Build = Callable[[Kernel, tuple[int, int]], Binary]


class Compared(NamedTuple):
    """Seconds of a launch, and the greatest difference as a part of the greatest value."""

    numba: float
    nvcc: float
    apart: float


class Placed(NamedTuple):
    """An array in the GPU's memory: its address, and a copy of what it holds."""

    address: int
    read: Callable[[], np.ndarray]


Put = Callable[[np.ndarray], Placed]


def memory() -> Put | None:
    """Puts arrays into the memory of the current GPU by a library that is installed: torch, else CuPy, else none."""
    if find_spec("torch"):
        import torch

        if torch.cuda.is_available():

            def by_torch(array: np.ndarray) -> Placed:
                tensor = torch.from_numpy(array).cuda()
                return Placed(tensor.data_ptr(), lambda: tensor.cpu().numpy())

            return by_torch
    if find_spec("cupy"):
        import cupy

        def by_cupy(array: np.ndarray) -> Placed:
            there = cupy.asarray(array)
            return Placed(there.data.ptr, there.get)

        return by_cupy
    return None


# ---- what is run -----------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A launch: arrays, of which the one at `result` is written, and None stand for pointers."""

    grid: tuple[int, int, int]
    arguments: tuple[Any, ...]
    result: int


def case(kernel: Kernel, samples: int = SAMPLES, extent: int = EXTENT, count: int = PRODUCT_BINS) -> Case:
    """A problem of its size for a kernel: so many samples of planes, or `count` bins of extent x extent x extent."""
    rng = np.random.default_rng(0)

    def spectrum(*shape: int) -> np.ndarray:
        return rng.standard_normal((*shape, 2), np.float32).view(np.complex64)[..., 0]

    if found := nvrtc.PRODUCT.fullmatch(kernel.name):
        tile = next(tile for tile in TILES if str(tile) == found[1])
        shape = product.Shape._make([*[extent] * 6, 1, 0])
        pitches = product.Pitches(*[extent * extent] * 3)
        operands = (spectrum(count, extent, extent) for _ in range(3))
        return Case(product.grid(tile, extent, extent, count), (*operands, shape, pitches), 2)
    match = nvrtc.TRANSFORM.fullmatch(kernel.name)
    assert match, kernel.name
    what, T, B, half, spaced, accumulate = match[1], int(match[2]), int(match[3]), *match.groups()[3:]
    side, spacing = T // 2 if half or spaced else T, 2 if spaced and not half else 1
    planes = max(CHANNELS, samples // side**2)
    numbers = (
        Planes(planes, 0, CHANNELS, side, side, 1, 1, has_bias=1),
        Strides(CHANNELS * side**2, side**2, side, 1, planes),
        AxisMap(0, 0, spacing, 0, T),
        AxisMap(0, 0, spacing, 0, T),
    )
    x, X = rng.standard_normal((planes, side, side), np.float32), spectrum(bins((T, T)), planes)
    grid = fft2d.launch_grid(planes, B)
    if what == "transform":
        return Case(grid, (x, X, *numbers), 1)
    bias, epilogue = rng.standard_normal(CHANNELS, np.float32), Epilogue(0.5 / T**2, 0.5 if accumulate else 0.0)
    return Case(grid, (X, x, bias, *numbers, epilogue), 1)


# ---- how it is run ---------------------------------------------------------------------------------------------------


class Launch:
    """A kernel of a binary on arguments that lie packed in memory of the host."""

    def __init__(self, kernel: Kernel, binary: Binary, of: Case, addresses: list[int], on: driver.Device) -> None:
        program, following = ptx_machine.Program(binary.ptx), iter(addresses)
        arguments = [next(following) if isinstance(x, np.ndarray) else x for x in of.arguments]
        self._packed = ptx_machine.pack(program, arguments)
        start = self._packed.ctypes.data
        self._places = np.array([start + parameter.offset for parameter in program.parameters], np.uint64)
        cubins._binaries[kernel, on.architecture] = binary
        shape = (*of.grid, kernel.threads, 1, 1, kernel.shared_bytes)
        self._arguments = (driver._loaded(kernel, on), *shape, STREAM, self._places.ctypes.data, 0)

    def __call__(self) -> None:
        driver._call("cuLaunchKernel", *self._arguments)


def compare(
    kernel: Kernel, on: driver.Device, put: Put, of: Case, builds: tuple[Build, Build], turns: int = TURNS
) -> Compared:
    """Run Numba's kernel and its twin, as the two functions build them, in turns."""
    twin = Kernel(f"{kernel.name}_nvcc", kernel.function, kernel.signature, kernel.threads, kernel.shared_bytes)
    arrays = [x for x in of.arguments if isinstance(x, np.ndarray)]
    with driver.on(on.index):
        placed = [[put(array) for array in arrays] for _ in builds]
        launches = [
            Launch(each, build(kernel, on.architecture), of, [array.address for array in theirs], on)
            for each, build, theirs in zip((kernel, twin), builds, placed, strict=True)
        ]
        for launch in launches:
            launch()
        ours, theirs = (each[of.result].read() for each in placed)
        seconds = list(zip(*turn(launches, turns), strict=True))
    numba, nvcc = (statistics.median(times[1:]) for times in seconds)
    return Compared(numba, nvcc, float(np.abs(ours - theirs).max() / np.abs(ours).max()))


def turn(launches: list[Launch], turns: int) -> Iterator[list[float]]:
    """Seconds of a launch of each, turn by turn."""
    for _ in range(turns):
        times = []
        for launch in launches:
            with driver.Clock(STREAM) as clock:
                for _ in range(LAUNCHES):
                    launch()
                clock.mark()
            times.append(math.fsum(clock.seconds) / LAUNCHES)
        yield times
