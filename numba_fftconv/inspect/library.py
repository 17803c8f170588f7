"""The package's own kernels, each with its stage of a layer that stands for others.

The layer has 128 images of 64 channels and as many filters of 3 x 3, with a zero around planes of T - 2 samples a side:
a plane is one segment of T x T. Its flops and bytes are those of the plan (tuning.stages): spectra and arrays move once
each way.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .. import tuning
from ..cuda import fft2d, product
from ..cuda.planes import AxisMap, Epilogue, Planes, Strides
from ..cuda.tensor_tiles import tiles_of
from ..errors import InvalidOptionError
from ..geometry import ConvGeometry
from ..gpus import Gpu
from ..integers import bins
from ..options import CODELET_SIZES
from ..options import precision as precision_of
from ..passes import named
from .report import Cost, Launch, Subject

IMAGES, TAPS, AROUND = 128, 3, 1
SIZES = tuple(T for T in CODELET_SIZES if T >= 6)  # whose planes fill more than a half of T, as the kernels expect
FFT_SIZE, CHANNELS, TILE, VEC, PASS, PRECISION = 32, 64, "64x64", 2, "forward", "fp32"
MOST_CHANNELS = 4096
PLANES = (2, 4, 8, 16, 32)


class Choices(NamedTuple):
    """What chooses a specialisation; None where the library decides."""

    fft_size: int = FFT_SIZE
    channels: int = CHANNELS
    planes: int | None = None
    pass_name: str = PASS
    tile: str = TILE
    vec: int = VEC
    precision: str = PRECISION


def subject(name: str, choices: Choices, gpu: Gpu) -> Subject:
    """A kernel of the library as it runs on a GPU."""
    if choices.fft_size not in SIZES:
        raise InvalidOptionError(f"fft_size is {choices.fft_size}: it must be one of {', '.join(map(str, SIZES))}")
    if not 1 < choices.channels <= MOST_CHANNELS:
        raise InvalidOptionError(f"channels is {choices.channels}: it must be from 2 to {MOST_CHANNELS}")
    return KERNELS[name](choices, gpu)


def cost(name: str, choices: Choices) -> Cost:
    """Of a kernel's stage in the layer above."""
    T, C, row = choices.fft_size, choices.channels, named(choices.pass_name)
    side = T - 2 * AROUND
    geometry = ConvGeometry.from_arguments((IMAGES, C, side, side), (C, C, TAPS, TAPS), padding=AROUND)
    stage = {"transform": 0, "product": 2, "inverse": 3}[name]
    found = tuning.stages(geometry, "float32", (T, T), row)[stage]
    return Cost(found.flops, found.bytes, f"{found.name}: {found.shape}", choices.precision)


# ---- the multiply stage ----------------------------------------------------------------------------------------------


def _product(choices: Choices, gpu: Gpu) -> Subject:
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
    return Subject(kernel, about, _launch(kernel.threads, arguments), cost("product", choices))


# ---- transform and inverse -------------------------------------------------------------------------------------------


def _tile_planes(choices: Choices, gpu: Gpu) -> int:
    """B as asked for, or as the engine takes it on this GPU."""
    T, B, most = choices.fft_size, choices.planes, gpu.multiprocessor.block_shared
    if B is None:
        return fft2d.tile_planes((T, T), most)
    fitting = [
        b for b in PLANES if fft2d.shared_bytes((T, T), b) <= most and T * b // 2 <= gpu.multiprocessor.block_threads
    ]
    if B not in fitting:
        raise InvalidOptionError(
            f"planes is {B}: with T = {T} it must be one of {', '.join(map(str, fitting))} on {gpu.name}"
        )
    return B


def _transform(choices: Choices, gpu: Gpu) -> Subject:
    T, B = choices.fft_size, _tile_planes(choices, gpu)
    kernel, (x, X, *numbers) = fft2d.transform_kernel((T, T), B), _arguments(T, B)
    about = f"transform stage: {B} planes a block, real to complex, T = {T}"
    return Subject(kernel, about, _launch(kernel.threads, (x, X, *numbers)), cost("transform", choices))


def _inverse(choices: Choices, gpu: Gpu) -> Subject:
    T, B = choices.fft_size, _tile_planes(choices, gpu)
    kernel, (y, X, *numbers) = fft2d.inverse_kernel((T, T), B), _arguments(T, B)
    about = f"inverse stage: {B} planes a block, complex to real, T = {T}"
    arguments = X, y, None, *numbers, Epilogue(1 / (2 * T * T), 0.0)
    return Subject(kernel, about, _launch(kernel.threads, arguments), cost("inverse", choices))


def _arguments(T: int, B: int) -> tuple[np.ndarray, np.ndarray, Planes, Strides, AxisMap, AxisMap]:
    """Of one block: planes that fill their tiles, their spectra, and the numbers that say where all lies."""
    x, X = np.zeros((B, T, T), np.float32), np.zeros((bins((T, T)), B), np.complex64)
    whole = AxisMap(0, T, 1, 0, T)
    return x, X, Planes(B, 0, B, T, T, 1, 1), Strides(B * T * T, T * T, T, 1, B), whole, whole


def _launch(threads: int, arguments: tuple[object, ...]) -> Launch:
    return Launch((1, 1, 1), (threads, 1, 1), arguments)


KERNELS: dict[str, Callable[[Choices, Gpu], Subject]] = {
    "product": _product,
    "transform": _transform,
    "inverse": _inverse,
}
