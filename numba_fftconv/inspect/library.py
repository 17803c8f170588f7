"""The package's own kernels, each with its stage of a layer that stands for others.

The layer has 128 images of 64 channels and as many filters of 3 x 3, with a zero around planes of T - 2 samples a side:
a plane is one segment of T x T. Its flops and bytes are those of the plan (tuning.stages): spectra and arrays move once
each way. Sizes with a side of 128 or 256 take two kernels, of columns and of rows, and what lies between them moves
once each way as well.
"""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

from .. import tuning
from ..cpu.butterfly import flops
from ..cuda import columns_pass, fft2d, product, rows_pass
from ..cuda.middle import LANES, Middle, is_large, plane_bytes
from ..cuda.planes import AxisMap, Epilogue, Planes, Strides
from ..cuda.tensor_tiles import tiles_of
from ..errors import InvalidOptionError
from ..geometry import ConvGeometry
from ..gpus import Gpu
from ..integers import Size, bins
from ..options import FFT_SIZES
from ..options import precision as precision_of
from ..passes import named
from .report import Cost, Launch, Subject

IMAGES, TAPS, AROUND = 128, 3, 1
SIDES = tuple(T for T in FFT_SIZES if T >= 6)  # whose planes fill more than a half of T, as the kernels expect
FFT_SIZE: Size = (32, 32)
LARGE: Size = (128, 128)
CHANNELS, TILE, VEC, PASS, PRECISION = 64, "64x64", 2, "forward", "fp32"
MOST_CHANNELS = 4096
PLANES = (2, 4, 8, 16, 32)


class Choices(NamedTuple):
    """What chooses a specialisation; None where the library decides."""

    fft_size: Size | None = None
    channels: int = CHANNELS
    planes: int | None = None
    pass_name: str = PASS
    tile: str = TILE
    vec: int = VEC
    precision: str = PRECISION


def size_of(text: str) -> Size:
    """An fft_size as it is written on a command line.

    >>> size_of("32"), size_of("128x20")
    ((32, 32), (128, 20))
    """
    parts = text.split("x")
    if not all(part.isdecimal() for part in parts) or len(parts) > 2:
        raise InvalidOptionError(f"fft_size is {text!r}: it must be a length such as 32, or rows and columns: 128x20")
    return int(parts[0]), int(parts[-1])


def subject(name: str, choices: Choices, gpu: Gpu) -> Subject:
    """A kernel of the library as it runs on a GPU."""
    size = _size(name, choices.fft_size)
    if not 1 < choices.channels <= MOST_CHANNELS:
        raise InvalidOptionError(f"channels is {choices.channels}: it must be from 2 to {MOST_CHANNELS}")
    return KERNELS[name](size, choices, gpu)


def _size(name: str, asked: Size | None) -> Size:
    """The size as asked for, or the default; raises InvalidOptionError where the kernel has no such size."""
    size = asked or (LARGE if name in TWO_PASSES else FFT_SIZE)
    said = _said(size)
    for side in size:
        if side not in SIDES:
            raise InvalidOptionError(f"fft_size is {said}: a side must be one of {', '.join(map(str, SIDES))}")
    if name in TRANSFORMS and is_large(size):
        passes = " and ".join(kernel for kernel in TWO_PASSES if kernel.startswith(name))
        raise InvalidOptionError(f"fft_size is {said}, which takes two kernels: inspect {passes}")
    if name in TWO_PASSES and not is_large(size):
        raise InvalidOptionError(f"fft_size is {said}, which takes one kernel: inspect {name.split('-')[0]}")
    return size


def cost(name: str, size: Size, choices: Choices) -> Cost:
    """Of a kernel's stage in the layer above."""
    (R, C), channels, row = size, choices.channels, named(choices.pass_name)
    sides = R - 2 * AROUND, C - 2 * AROUND
    geometry = ConvGeometry.from_arguments((IMAGES, channels, *sides), (channels, channels, TAPS, TAPS), padding=AROUND)
    stage = {"transform": 0, "product": 2, "inverse": 3}[name.split("-")[0]]
    found = tuning.stages(geometry, "float32", size, row)[stage]
    if name not in TWO_PASSES:
        return Cost(found.flops, found.bytes, f"{found.name}: {found.shape}", choices.precision)
    planes, axis = IMAGES * channels, name.split("-")[1]
    between, spectrum = plane_bytes(size, sides[1]), tuning.spectrum_bytes(size, 4)
    of_columns = sides[1] * flops(R) // 2, 4 * sides[0] * sides[1] + between
    of_rows = R * flops(C) // 2, between + spectrum
    work, moved = of_columns if axis == "columns" else of_rows
    return Cost(planes * work, planes * moved, f"{axis} of {found.name}: {found.shape}")


# ---- the multiply stage ----------------------------------------------------------------------------------------------


def _product(size: Size, choices: Choices, gpu: Gpu) -> Subject:
    tiles = {str(config): config for config in tiles_of(precision_of(choices.precision, "float32"))}
    if choices.tile not in tiles:
        known = ", ".join(tiles)
        raise InvalidOptionError(f"tile is {choices.tile!r}: for {choices.precision} it must be one of {known}")
    if choices.vec not in (1, 2):
        raise InvalidOptionError(f"vec is {choices.vec}: it must be 1 or 2 complex values a copy")
    config, row = tiles[choices.tile], named(choices.pass_name)
    kernel = product.product_kernel(row.name, config, choices.vec)
    m, n, k = config.BM, config.BN, 2 * config.BK
    a, b = (m, k) if product.FORMS[row.name].a_kmajor else (k, m), (n, k)
    b = b if product.FORMS[row.name].b_kmajor else (k, n)
    shape = product.Shape(m, n, k, a[1], b[1], n, 1, 0)
    arrays = [np.zeros(extent, np.complex64) for extent in (a, b, (m, n))]
    arguments = *arrays, shape, product.Pitches(*(x.size for x in arrays))
    about = (
        f"multiply stage, {row.name}: a block of {config} from slabs of {config.BK}, {config.stages} in shared memory,"
        f" {config.own}, copies of {8 * choices.vec} bytes"
    )
    return Subject(kernel, about, _launch(kernel.threads, arguments), cost("product", size, choices))


# ---- transform and inverse -------------------------------------------------------------------------------------------


def _tile_planes(size: Size, asked: int | None, gpu: Gpu) -> int:
    """B as asked for, or as the engine takes it on this GPU."""
    most, threads = gpu.multiprocessor.block_shared, gpu.multiprocessor.block_threads
    if asked is None:
        return fft2d.tile_planes(size, most)
    fitting = [b for b in PLANES if fft2d.shared_bytes(size, b) <= most and fft2d.block_threads(size, b) <= threads]
    if asked not in fitting:
        known = ", ".join(map(str, fitting))
        raise InvalidOptionError(f"planes is {asked}: with T = {_said(size)} it must be one of {known} on {gpu.name}")
    return asked


def _transform(size: Size, choices: Choices, gpu: Gpu) -> Subject:
    B = _tile_planes(size, choices.planes, gpu)
    kernel, (x, X, *numbers) = fft2d.transform_kernel(size, B), _arguments(size, B)
    about = f"transform stage: {B} planes a block, real to complex, T = {_said(size)}"
    return Subject(kernel, about, _launch(kernel.threads, (x, X, *numbers)), cost("transform", size, choices))


def _inverse(size: Size, choices: Choices, gpu: Gpu) -> Subject:
    B = _tile_planes(size, choices.planes, gpu)
    kernel, (y, X, *numbers) = fft2d.inverse_kernel(size, B), _arguments(size, B)
    about = f"inverse stage: {B} planes a block, complex to real, T = {_said(size)}"
    arguments = X, y, None, *numbers, Epilogue(1 / (2 * prod(size)), 0.0)
    return Subject(kernel, about, _launch(kernel.threads, arguments), cost("inverse", size, choices))


def _said(size: Size) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def _arguments(size: Size, B: int) -> tuple[np.ndarray, np.ndarray, Planes, Strides, AxisMap, AxisMap]:
    """Of one block: planes that fill their tiles, their spectra, and the numbers that say where all lies."""
    R, C = size
    x, X = np.zeros((B, R, C), np.float32), np.zeros((bins(size), B), np.complex64)
    maps = [AxisMap(0, T, 1, 0, T) for T in size]
    return x, X, Planes(B, 0, B, R, C, 1, 1), Strides(B * R * C, R * C, C, 1, B), maps[0], maps[1]


def _launch(threads: int, arguments: tuple[object, ...]) -> Launch:
    return Launch((1, 1, 1), (threads, 1, 1), arguments)


# ---- the two passes of a large transform -----------------------------------------------------------------------------


def _pass(name: str) -> Callable[[Size, Choices, Gpu], Subject]:
    """One of the two kernels; the planes of its block are those of a warp of rows."""
    stage, axis = name.split("-")

    def made(size: Size, choices: Choices, gpu: Gpu) -> Subject:
        R, C = size
        x, X, *numbers = _arguments(size, LANES)
        strides = numbers[1]
        V = np.zeros((R // 2, C, LANES), np.complex64)
        middle, scale = Middle(C, LANES, 0, LANES), Epilogue(1 / (2 * R * C), 0.0)
        make, arguments = {
            "transform-columns": (columns_pass.columns_kernel, (x, V, *numbers, middle)),
            "transform-rows": (rows_pass.rows_kernel, (V, X, strides, middle, R // 2)),
            "inverse-rows": (rows_pass.inverse_rows_kernel, (X, V, strides, middle, R // 2)),
            "inverse-columns": (columns_pass.inverse_columns_kernel, (V, x, None, *numbers, scale, middle)),
        }[name]
        kernel = make(R if axis == "columns" else C)
        about = f"{stage} stage in two passes, that over {axis}: T = {_said(size)}"
        return Subject(kernel, about, _launch(kernel.threads, arguments), cost(name, size, choices))

    return made


TRANSFORMS = ("transform", "inverse")
TWO_PASSES = ("transform-columns", "transform-rows", "inverse-rows", "inverse-columns")
KERNELS: dict[str, Callable[[Size, Choices, Gpu], Subject]] = {
    "product": _product,
    "transform": _transform,
    "inverse": _inverse,
    **{name: _pass(name) for name in TWO_PASSES},
}
