"""Convolutions of giant images held as dask arrays, chunk by chunk, each with a halo of its neighbours' samples.

    y[i, j] = sum over r, s of kernel[r, s] * x[i + (R-1)//2 - r, j + (S-1)//2 - s]

This is the convolution of mathematics and of scipy.signal: the kernel is turned by half a turn, and convolving the
unit impulse gives the kernel. `conv2d` is that of deep learning, which does not turn it: in the interior, `convolve` is
conv2d with kernel[::-1, ::-1]. scipy.ndimage.convolve turns it too, but where a side of the kernel is even, its centre
is R//2, one sample after that of scipy.signal.

A chunk needs R//2 rows before its own and (R-1)//2 after them. dask.array.map_overlap adds them from the neighbours,
numpy.pad at the border, and conv2d without padding then makes exactly the outputs of the chunk. dask has no halos of
unequal sides around a torus, so both sides get R//2 rows, and of an even kernel the block leaves its last row alone.
Chunks of one size make blocks of one size, at the border of the image too: one plan serves them, made once in each
process.

Worked example: 8192 x 8192 samples in chunks of 2048 x 2048, kernel 31 x 31: 16 blocks of 2078 x 2078, 3 % of whose
samples are read twice.

Few chunks are in memory at once, some rows of them, where each result is reduced or stored and the planes are no torus.
So halos are copies: dask cuts views, which keep whole chunks alive where it counts a few rows. And chunks at the border
pad themselves: the boundary that dask puts around the planes ties the first row to the last, and most of the image then
waits in memory.

Nothing is computed before dask is told to. A worker thread then calls conv2d, which uses all the threads that
NUMBA_NUM_THREADS allows; where there are as many worker threads as cores, start the workers with NUMBA_NUM_THREADS=1.
"""

import math
import operator
from numbers import Real
from typing import Any

import numpy as np

try:
    import dask.array as da
    from dask import delayed
    from dask.array.chunk import getitem
    from dask.highlevelgraph import HighLevelGraph
    from dask.layers import ArrayOverlapLayer
except ImportError as error:
    raise ImportError(f"numba_fftconv.dask needs dask, {error}: pip install 'numba_fftconv[dask]'") from error

from . import dtypes, options
from .api import conv2d
from .arrays import check_devices, view
from .errors import InvalidOptionError, InvalidShapeError, InvalidTypeError
from .geometry import ConvGeometry
from .integers import ceil_div

MODES = ("same", "valid")
BOUNDARIES: dict[str, dict[str, Any] | None] = {  # what numpy.pad is told; around a torus, dask finds the neighbours
    "none": {"constant_values": 0},
    "reflect": {"mode": "symmetric"},
    "periodic": None,
    "nearest": {"mode": "edge"},
}



def convolve(
    array: da.Array, kernel: Any, mode: str = "same", boundary: float | str = 0, *, precision: str | None = None
) -> da.Array:
    """Convolve every plane of a dask array with one kernel, lazily.

    Parameters
    ----------
    array : dask array [..., H, W] of float16, bfloat16, float32 or, on a CPU, float64, in chunks of NumPy or CuPy of
        any sizes. Empty chunks, and chunks with fewer rows or columns than the halo of R//2 or S//2 samples, are merged
        with their neighbours.
    kernel : array [R, S] of the same dtype and device, at most H x W and 256 a side; of NumPy, CuPy or dask.
    mode : 'same' for a result of the array's shape, centred as scipy.signal does it; 'valid' for [..., H-R+1, W-S+1],
        the samples that no boundary touches.
    boundary : what lies outside the planes: a number; 'none', which is 0; 'reflect' (c b a | a b c), 'periodic'
        (a b c | a b c) or 'nearest' (a a a | a b c). Mode 'valid' does not read it.
    precision : as in conv2d.

    Returns
    -------
    dask array of the same dtype, with chunks of the library of `array`.

    Raises
    ------
    InvalidTypeError, InvalidShapeError, InvalidOptionError, UnsupportedError, DeviceMismatchError
        Before anything is computed. What a chunk raises while it is computed, dask raises.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from numba_fftconv.dask import convolve
    >>> image = da.zeros((4, 6), chunks=3, dtype="float32")
    >>> image[1, 2] = 1
    >>> result = convolve(image, np.arange(9, dtype="float32").reshape(3, 3))
    >>> np.rint(result.compute()).astype(int) + 0
    array([[0, 0, 1, 2, 0, 0],
           [0, 3, 4, 5, 0, 0],
           [0, 6, 7, 8, 0, 0],
           [0, 0, 0, 0, 0, 0]])

    Source: scipy.signal.convolve2d; dask.array.map_overlap.
    """
    image, weight = _image(array), _kernel(kernel)
    _check_types(image, weight, precision)
    if not isinstance(mode, str) or mode not in MODES:
        raise InvalidOptionError(f"mode is {mode!r}: it must be 'same' or 'valid'")
    outside = _outside(boundary)
    (H, W), (R, S) = image.shape[-2:], weight.shape
    geometry = ConvGeometry.from_arguments((1, 1, H, W), (1, 1, R, S))
    halo = [ceil_div(axis.reach, 2) for axis in (geometry.rows, geometry.cols)]
    axes = (image.ndim - 2, image.ndim - 1)
    image = image.rechunk({axis: _chunks(image.chunks[axis], least) for axis, least in zip(axes, halo, strict=True)})
    pads = None if outside is None else {"halo": halo, "last": [n - 1 for n in image.numblocks[-2:]], **outside}
    around = "periodic" if pads is None else "none"
    result = _with_copied_halos(da.map_overlap(
        _convolve_chunk, image, depth=dict(zip(axes, halo, strict=True)), boundary=dict.fromkeys(axes, around),
        trim=False, meta=image._meta, kernel=delayed(weight[::-1, ::-1]), precision=precision, pads=pads,
    ))  # fmt: skip
    if mode == "same":
        return result
    return result[..., halo[0] : halo[0] + geometry.P, halo[1] : halo[1] + geometry.Q]


def _with_copied_halos(array: da.Array) -> da.Array:
    """The same array. dask.array.chunk.getitem, which slices dask arrays, copies what is less than half a chunk."""
    graph = array.dask
    layers = dict(graph.layers)
    for name, layer in layers.items():
        if isinstance(layer, ArrayOverlapLayer):
            layers[name] = {
                key: (getitem, *task[1:]) if task[0] is operator.getitem else task for key, task in layer.items()
            }
    return da.Array(HighLevelGraph(layers, graph.dependencies), array.name, array.chunks, meta=array._meta)


def _convolve_chunk(
    block: Any, kernel: Any, precision: str | None, pads: Any = None, block_id: tuple[int, ...] = ()
) -> Any:
    """The outputs of one chunk, from its samples and its halo and the turned kernel, in arrays of any library."""
    if pads is not None:
        block = _padded(block, block_id[-2:], **pads)
    R, S = kernel.shape
    H, W = block.shape[-2:]
    planes = block[..., : H - (R - 1) % 2, : W - (S - 1) % 2]  # an even kernel does not reach the end of the halo
    images = planes.reshape(-1, 1, *planes.shape[-2:])
    result = conv2d(images, kernel.reshape(1, 1, R, S), precision=precision)
    return result.reshape(*planes.shape[:-2], *result.shape[-2:])


def _padded(block: Any, place: tuple[int, ...], halo: list[int], last: list[int], **outside: Any) -> Any:
    """The block with the halo that no neighbour has given it."""
    sides = [((i == 0) * n, (i == end) * n) for i, n, end in zip(place, halo, last, strict=True)]
    return np.pad(block, [(0, 0)] * (block.ndim - 2) + sides, **outside) if np.any(sides) else block


# ---- what may be asked for -------------------------------------------------------------------------------------------


def _image(array: Any) -> da.Array:
    if not isinstance(array, da.Array):
        near = "pass dask.array.from_array(array), or call conv2d on an array in memory"
        raise InvalidTypeError(f"array is a {type(array).__name__}: it must be a dask array; {near}")
    _check_known(array, "array")
    if array.ndim < 2:
        raise InvalidShapeError(f"array has shape {array.shape}: it must be [..., H, W]")
    return array


def _kernel(kernel: Any) -> da.Array:
    """The kernel as one chunk: a task of its own, which a worker is sent once and not with every chunk."""
    if not isinstance(kernel, da.Array):
        held = view(kernel, "kernel")
        kernel = da.from_array(held if held.device == "cpu" else kernel, chunks=-1)
    _check_known(kernel, "kernel")
    if kernel.ndim != 2 or 0 in kernel.shape:
        raise InvalidShapeError(f"kernel has shape {kernel.shape}: it must be [R, S], one kernel for all planes")
    return kernel.rechunk(-1)


def _check_known(array: da.Array, name: str) -> None:
    if any(math.isnan(extent) for extent in array.shape):
        known = f"call {name}.compute_chunk_sizes() first"
        raise InvalidShapeError(f"{name} has shape {array.shape}, and its chunk sizes are unknown: {known}")


def _check_types(image: da.Array, kernel: da.Array, precision: str | None) -> None:
    """The two fit together, by what dask knows of their chunks."""
    found = {}
    for name, array in (("array", image), ("kernel", kernel)):
        found[name] = dtypes.named(array.dtype)
        if found[name] is None:
            parts, near = f"{name}.real and {name}.imag one by one", f"{name}.astype('float32')"
            passed = parts if array.dtype.kind == "c" else near
            raise InvalidTypeError(f"{name} has dtype {array.dtype}: it must be {dtypes.ANY}, pass {passed}")
    dtype = options.dtype(image.dtype)
    if found["kernel"] != dtype:
        said = f"array has dtype {dtype} and kernel has dtype {found['kernel']}"
        raise InvalidTypeError(f"{said}: they must have one dtype, pass kernel.astype('{dtype}')")
    chunks = {name: view(a._meta, f"a chunk of {name}") for name, a in (("array", image), ("kernel", kernel))}
    check_devices(chunks)
    if chunks["array"].device != "cpu":
        options.on_gpu(dtype)
    options.precision(precision, dtype)
    (H, W), (R, S) = image.shape[-2:], kernel.shape
    if R > H or S > W:
        raise InvalidShapeError(f"kernel is {R} x {S}, and the planes of array are {H} x {W}: it must not be larger")


def _outside(boundary: Any) -> dict[str, Any] | None:
    """What numpy.pad is told about the samples outside the planes, or None where they go round."""
    if isinstance(boundary, str) and boundary in BOUNDARIES:
        return BOUNDARIES[boundary]
    if isinstance(boundary, Real) and not isinstance(boundary, bool):
        return {"constant_values": boundary}
    rule = "it must be a number, 'none' (0), 'reflect', 'periodic' or 'nearest'"
    raise InvalidOptionError(f"boundary is {boundary!r}: {rule}")


def _chunks(sizes: tuple[int, ...], halo: int) -> tuple[int, ...]:
    """The chunks of an axis, none of them empty or thinner than the halo."""
    return da.overlap.ensure_minimum_chunksize(max(halo, 1), tuple(n for n in sizes if n))
