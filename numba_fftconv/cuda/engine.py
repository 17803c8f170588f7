"""The CUDA engine: a pass as launches of kernels, bound once to a device and to how the arrays lie.

A program is the steps of a schedule with everything decided but addresses: kernels chosen, grids and scalars packed. It
is made at the first call for a layer and strides, and kept. To run it is to say where the arrays begin, and on which
stream; nothing waits for the GPU. In the simulator the same program runs on host memory.

An address is an array's name and bytes into it (driver.At). The names are those of the schedule: 'workspace' holds
spectra, and where a spectrum takes the place of a weight, it is 'weight'.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..dtypes import HALVES, name_of
from ..errors import UnsupportedError
from ..geometry import PlaneMap
from ..integers import Size, area, bins
from . import columns_pass, driver, fft2d, pointwise, product, rows_pass, simulator, two_pass
from .block_tile import BlockTile
from .driver import At, Device, Launch
from .kernels import MODELS, Kernels
from .memory import Memory
from .middle import Middle, is_large, middles
from .planes import AxisMap, Epilogue, Planes, Strides
from .schedule import Inverse, Multiply, Spectrum, Step, Transform
from .tensor_tiles import SIMULATED_TENSOR_TILES, tiles_of
from .tiles import SIMULATED_TILE, choose_tile
from .toolchain import SIMULATED, Kernel

Maps = tuple[PlaneMap, PlaneMap]  # of rows and of columns
MOST_POSITIONS = 2**31  # along an axis: kernels count them in 31 bits
MOST_WINDOWS = 2**32  # of a pass, in any number of chunks


class Lie(NamedTuple):
    """How an array of planes [outer, channel, row, column] lies in memory: shape, strides in samples, dtype."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    samples: str = "float32"

    @classmethod
    def of(cls, array: np.ndarray) -> "Lie":
        """Of an array in four dimensions, or in three, which is one image."""
        itemsize = array.itemsize
        strides = tuple([stride // itemsize for stride in array.strides])
        shape = array.shape if array.ndim == 4 else (1, *array.shape)
        return cls(shape, strides if array.ndim == 4 else (0, *strides), name_of(array.dtype))


class Call(NamedTuple):
    """One launch before it is bound to a device."""

    stage: str  # the operand that is transformed, 'multiply' or 'inverse'
    kernel: Kernel
    grid: tuple[int, int, int]
    arguments: tuple[Any, ...]  # as the kernel takes them, a pointer as At, or None for one that is not read


# ---- from steps to launches ------------------------------------------------------------------------------------------


def calls(
    steps: Iterable[Step], maps: Mapping[str, Maps], lies: Mapping[str, Lie], has_bias: bool, device: Device,
    kernels: Kernels = MODELS,
) -> Iterator[Call]:  # fmt: skip
    """The launches of some steps; `lies` of every array of planes that they name."""
    for step in steps:
        if isinstance(step, Multiply):
            yield from _multiply(step, device, kernels)
        elif isinstance(step, Transform):
            yield from _transform(step, maps[step.maps], lies[step.operand], device, kernels)
        else:
            biased = has_bias and step.result == "output"
            yield from _inverse(step, maps[step.maps], lies[step.result], biased, device, kernels)


def _transform(step: Transform, maps: Maps, lie: Lie, device: Device, kernels: Kernels) -> Iterator[Call]:
    """One launch, or two for each chunk of planes where the size is large."""
    form, numbers = _planes(step, maps, lie, device, kernels)
    x, spectrum, (R, C) = At(step.operand), _at(step.spectrum), form.size
    if not is_large(form.size):
        grid = fft2d.launch_grid(numbers[0].count, form.B)
        yield Call(step.operand, fft2d.transform_kernel(*form, samples=lie.samples), grid, (x, spectrum, *numbers))
    for V, middle in _middles(step, maps, lie, numbers):
        grids = two_pass.columns_grid(R, middle), two_pass.rows_grid(form.size, middle)
        columns, rows = columns_pass.columns_kernel(R, form.spaced, lie.samples), rows_pass.rows_kernel(C)
        yield Call(step.operand, columns, grids[0], (x, V, *numbers, middle))
        yield Call(step.operand, rows, grids[1], (V, spectrum, numbers[1], middle, R // 2))


def _inverse(
    step: Inverse, maps: Maps, lie: Lie, has_bias: bool, device: Device, kernels: Kernels
) -> Iterator[Call]:
    """The same the other way round."""
    form, numbers = _planes(step, maps, lie, device, kernels, has_bias)
    y, spectrum, (R, C) = At(step.result), _at(step.spectrum), form.size
    epilogue = Epilogue(1 / (2 * area(form.size)), 0)
    bias = At("bias") if has_bias else None
    if not is_large(form.size):
        grid = fft2d.launch_grid(numbers[0].count, form.B)
        kernel = fft2d.inverse_kernel(*form, samples=lie.samples)
        yield Call("inverse", kernel, grid, (spectrum, y, bias, *numbers, epilogue))
    for V, middle in _middles(step, maps, lie, numbers):
        grids = two_pass.rows_grid(form.size, middle), two_pass.columns_grid(R, middle)
        rows = rows_pass.inverse_rows_kernel(C)
        columns = columns_pass.inverse_columns_kernel(R, form.spaced, samples=lie.samples)
        yield Call("inverse", rows, grids[0], (spectrum, V, numbers[1], middle, R // 2))
        yield Call("inverse", columns, grids[1], (V, y, bias, *numbers, epilogue, middle))


def _middles(step: Transform | Inverse, maps: Maps, lie: Lie, numbers: tuple[Any, ...]) -> Iterator[tuple[At, Middle]]:
    """Of a large transform, the chunks of planes that go through V, and where it is."""
    if is_large(step.spectrum.size):
        assert step.middle is not None
        V = At(step.middle.array, step.middle.at)
        width = max(1, maps[1].end(lie.shape[-1]))
        for middle in middles(step.spectrum.size, width, numbers[0].count, step.middle.nbytes):
            yield V, middle


class _Form(NamedTuple):
    """What is known of a transform or an inverse at compile time."""

    size: Size
    B: int
    half: bool
    spaced: bool


def _planes(
    step: Transform | Inverse, maps: Maps, lie: Lie, device: Device, kernels: Kernels, has_bias: bool = False
) -> tuple[_Form, tuple[Planes, Strides, AxisMap, AxisMap]]:
    """The form of the kernel, and the arguments that both directions have."""
    size, (_, channels, height, width), (rows, columns) = step.spectrum.size, lie.shape, maps
    _check_counts(step, maps, lie)
    half = rows.end(height) <= size[0] // 2 and columns.end(width) <= size[1] // 2
    spaced = rows.spacing != 1 or columns.spacing != 1
    count, segments = step.spectrum.rows * channels, (rows.segments, columns.segments)
    planes = Planes(count, step.first, channels, height, width, *segments, int(has_bias))
    strides = Strides._make((*lie.strides, step.spectrum.pitch))
    B = 0 if is_large(size) else kernels.planes or fft2d.tile_planes(size, device.shared_bytes)
    form = _Form(size, B, half, spaced)
    return form, (planes, strides, AxisMap(*rows.numbers), AxisMap(*columns.numbers))


def _check_counts(step: Transform | Inverse, maps: Maps, lie: Lie) -> None:
    """Raise UnsupportedError where a kernel cannot count the positions along an axis, or the windows."""
    said = f"{step.operand if isinstance(step, Transform) else step.result} of shape {lie.shape}"
    for axis, extent, length in zip(maps, lie.shape[-2:], step.spectrum.size, strict=True):
        last_sample, last_window = (extent - 1) * axis.spacing - axis.start, (axis.segments - 1) * axis.advance
        furthest = max(axis.spacing, last_sample, last_window + axis.start) + 2 * length
        if furthest >= MOST_POSITIONS:
            what = f"an axis of {furthest:,} positions, with padding, stride and tiles"
            raise UnsupportedError(f"{said} has {what}: this version runs less than {MOST_POSITIONS:,} on a GPU")
    if (windows := step.first + step.spectrum.rows) > MOST_WINDOWS:
        longer = f"this version runs {MOST_WINDOWS:,} on a GPU, plan it with a larger fft_size"
        raise UnsupportedError(f"{said} has {windows:,} windows of {step.spectrum.size}: {longer}")


def _at(spectrum: Spectrum, first_bin: int = 0) -> At:
    return At(spectrum.array, spectrum.at + 8 * first_bin * spectrum.pitch)


def _multiply(step: Multiply, device: Device, kernels: Kernels) -> Iterator[Call]:
    """One launch, or several over parts of the bins; the pointwise form where each channel is a group of its own."""
    a, b, y, (rows, columns, depth) = step.a, step.b, step.y, step.extents
    whole, pitches = bins(y.size), product.Pitches(a.pitch, b.pitch, y.pitch)
    if step.Cg == 1:
        depthwise = pointwise.Depthwise(step.windows, step.groups, step.Kg, int(step.accumulate))
        kernel, grid = pointwise.pointwise_kernel(step.pass_name), pointwise.grid(step.pass_name, depthwise, whole)
        yield Call("multiply", kernel, grid, (_at(a), _at(b), _at(y), depthwise, pitches))
        return
    shape = product.Shape(rows, columns, depth, a.columns, b.columns, y.columns, step.groups, int(step.accumulate))
    on = whole * step.groups, device.multiprocessors, device.architecture
    chosen = kernels.tile(step.pass_name, tiles_of(step.precision))
    config = chosen or _tile(step.precision, (rows, columns, depth, *on))
    vec = product.vector_width(step.pass_name, shape, pitches, step.precision)
    kernel = product.product_kernel(step.pass_name, config, vec)
    for first, _, grid in product.launches(config, rows, columns, whole, step.groups):
        yield Call("multiply", kernel, grid, (_at(a, first), _at(b, first), _at(y, first), shape, pitches))


def _tile(precision: str, problem: tuple[int, int, int, int, int, tuple[int, int]]) -> BlockTile:
    """The tile of a product of so many rows, columns and steps, in so many bins, on a device."""
    if SIMULATED:
        return SIMULATED_TILE if precision == "fp32" else SIMULATED_TENSOR_TILES[precision]
    return choose_tile(*problem, tiles_of(precision))


# ---- running ---------------------------------------------------------------------------------------------------------


class Program:
    """Launches bound to a device, in order."""

    def __init__(self, calls: Iterable[Call], device: Device) -> None:
        self.device, self.calls = device, tuple(calls)
        self.lock = threading.Lock()  # of packed arguments, in which addresses change from call to call
        found = [argument.name for call in self.calls for argument in call.arguments if isinstance(argument, At)]
        self.names = tuple(dict.fromkeys(found))  # of its arrays
        self._packed: tuple[int, ...] = ()  # their addresses, as they stand in the arguments
        if not SIMULATED:
            self._on = driver.on(device.index)
            with self._on:
                self.launches = [Launch(call.kernel, call.grid, call.arguments, device) for call in self.calls]

    def run(self, arrays: Mapping[str, Any], stream: int) -> None:
        """Queue all launches on a stream; `arrays` are DeviceArrays by name."""
        if SIMULATED:
            for call in self.calls:
                _simulate(call, arrays)
            return
        self.launch(tuple([arrays[name].pointer for name in self.names]), stream)

    def launch(self, addresses: tuple[int, ...], stream: int) -> None:
        """The same of arrays that begin at these addresses, in the order of `names`."""
        with self.lock, self._on:
            self._pack(addresses)
            for launch in self.launches:
                launch.issue(stream)

    def _pack(self, addresses: tuple[int, ...]) -> None:
        """Arguments with these addresses; under the lock."""
        if addresses != self._packed:
            named = dict(zip(self.names, addresses, strict=True))
            for launch in self.launches:
                launch.pack(named)
            self._packed = addresses

    def profile(self, arrays: Mapping[str, Any], stream: int) -> dict[str, float]:
        """Run it and wait; seconds of each stage."""
        spent: dict[str, float] = {}
        if SIMULATED:
            for call in self.calls:
                start = time.perf_counter()
                _simulate(call, arrays)
                spent[call.stage] = spent.get(call.stage, 0.0) + time.perf_counter() - start
            return spent
        with self.lock, self._on, driver.Clock(stream) as clock:
            self._pack(tuple([arrays[name].pointer for name in self.names]))
            for launch in self.launches:
                launch.issue(stream)
                clock.mark()
        for call, seconds in zip(self.calls, clock.seconds, strict=True):
            spent[call.stage] = spent.get(call.stage, 0.0) + seconds
        return spent


def _simulate(call: Call, arrays: Mapping[str, Any]) -> None:
    """A launch on host memory: pointers to samples keep the array's strides, others count bytes into it."""

    def passed(argument: Any) -> Any:
        if not isinstance(argument, At):
            return argument
        array = np.asarray(arrays[argument.name])
        if array.dtype == np.float32:
            return Memory(array)
        if name_of(array.dtype) in HALVES:
            return Memory(array.view(np.uint16))
        return Memory.of(array.reshape(-1).view(np.uint8), np.complex64, argument.offset)

    simulator.run(call.kernel, call.grid, tuple(map(passed, call.arguments)))
