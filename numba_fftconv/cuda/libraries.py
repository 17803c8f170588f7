"""The libraries whose arrays lie in CUDA memory: their current streams, and new arrays from their own memory.

    library            read by                    current stream                    memory
    torch              attributes of the tensor   torch.cuda.current_stream()       torch.empty
    CuPy               CUDA array interface       cupy.cuda.get_current_stream()    cupy.empty
    JAX, any other     DLPack                     the default stream                numba.cuda.device_array
    Numba, any other   CUDA array interface       the default stream                numba.cuda.device_array

Where both are spoken DLPack is, which tells its library the stream of a call: the interface of JAX names none. Results
in memory of Numba are taken by that library, if it can, as arrays of its own (`from_dlpack`). JAX holds three quarters
of a GPU's memory from its start; XLA_PYTHON_CLIENT_MEM_FRACTION in the environment leaves more for them.

No framework is imported: who holds a tensor has done so.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from numba import cuda
from numba.core import config

from ..dtypes import numpy_dtype
from ..errors import UnsupportedError

LEGACY, PER_THREAD = 1, 2  # default streams, as the CUDA array interface and the driver number them


class Library(NamedTuple):
    """What a library does for us: the current stream of a device, and new arrays (shape, dtype, device, stream)."""

    stream: Callable[[int], int]
    empty: Callable[[tuple[int, ...], str, int, int], Any]


def _torch_stream(index: int) -> int:
    handle: int = sys.modules["torch"].cuda.current_stream(index).cuda_stream
    return handle


def _torch_empty(shape: tuple[int, ...], dtype: str, index: int, stream: int) -> Any:
    torch = sys.modules["torch"]
    wanted = {"dtype": getattr(torch, dtype), "device": torch.device("cuda", index)}
    if stream == _torch_stream(index):
        return torch.empty(shape, **wanted)
    streams = torch.cuda
    other = streams.default_stream(index) if stream in (0, LEGACY) else streams.ExternalStream(stream, device=index)
    with streams.stream(other):
        return torch.empty(shape, **wanted)


def _cupy_stream(index: int) -> int:
    with sys.modules["cupy"].cuda.Device(index):
        handle: int = sys.modules["cupy"].cuda.get_current_stream().ptr
        return handle


def _cupy_empty(shape: tuple[int, ...], dtype: str, index: int, stream: int) -> Any:
    cupy = sys.modules["cupy"]
    with cupy.cuda.Device(index):
        if stream == cupy.cuda.get_current_stream().ptr:
            return cupy.empty(shape, dtype)
        with cupy.cuda.Stream.null if stream in (0, LEGACY) else cupy.cuda.ExternalStream(stream):
            return cupy.empty(shape, dtype)


def _numba_stream(index: int) -> int:
    return PER_THREAD if config.CUDA_PER_THREAD_DEFAULT_STREAM else 0


def _numba_empty(shape: tuple[int, ...], dtype: str, index: int, stream: int) -> Any:
    if dtype == "bfloat16":
        rule = "Numba's arrays have no such dtype, pass out, an array of the library that the others are of"
        raise UnsupportedError(f"the result of shape {shape} would be of bfloat16: {rule}")
    with cuda.gpus[index]:
        return cuda.device_array(shape, dtype)


TORCH = Library(_torch_stream, _torch_empty)
CUPY = Library(_cupy_stream, _cupy_empty)
NUMBA = Library(_numba_stream, _numba_empty)
SIMULATOR = Library(lambda index: 0, lambda shape, dtype, index, stream: cuda.device_array(shape, numpy_dtype(dtype)))
