"""Arrays in CUDA memory: read as they lie, and made in the caller's library, on its stream, by its allocator.

A `DeviceArray` is a NumPy array over addresses of a GPU: it knows shape, dtype, strides and overlaps as any NumPy array
does, and its samples are never touched by the host. In the simulator, device memory is host memory, and so is this.

An array that names the stream which fills it (CUDA array interface 3) is waited for by an event, and that stream waits
for what we do with it; the host waits for neither. No framework is imported: who holds a tensor has done so.

DLPack names no stream: who shows an array by it is told ours, and the array is held until ours is done with it. Results
lie in memory of Numba then, and their library takes them as arrays of its own.

Source: the CUDA array interface, version 3 (Numba's documentation); DLPack 1.0.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from functools import cache
from operator import index as as_index
from typing import Any

import numpy as np

from .. import dlpack, dtypes
from ..errors import DeviceMismatchError, InvalidOptionError, InvalidTypeError, UnsupportedError
from . import driver
from .libraries import CUPY, LEGACY, NUMBA, SIMULATOR, TORCH, Library
from .toolchain import SIMULATED

FLOATS = "float16, bfloat16 or float32"
STREAM_FORMS = "None, a stream of torch, CuPy, Numba or cuda.core, or a stream's handle as an int"


class DeviceArray(np.ndarray):
    """A view of CUDA memory.

    `owner` is the caller's array; `producer` the stream that fills it, where it names one; `taker`, of an array that is
    read by DLPack, the function by which its library takes others.
    """

    device: str = "cuda:0"  # type: ignore[assignment]  # NumPy types its own as "cpu" alone
    index: int = 0
    owner: Any = None
    library: Library
    producer: int | None = None
    taker: Callable[[Any], Any] | None = None

    __array_ufunc__ = None  # type: ignore[assignment]  # no arithmetic

    def __array_finalize__(self, whole: Any) -> None:
        """A part of an array is waited for as the whole is, and its owner lives as long."""
        if isinstance(whole, DeviceArray):
            self.__dict__.update(whole.__dict__)

    @property
    def pointer(self) -> int:
        """Address of the first sample."""
        address: int = self.__array_interface__["data"][0]
        return address

    @property
    def is_awaited(self) -> bool:
        """Whether the stream of a call may have to wait for it."""
        return self.producer is not None or isinstance(self.owner, tuple)

    def handed_over(self) -> Any:
        """A result as its caller gets it."""
        if self.taker is None:
            return self.owner
        return self.taker(dlpack.Shown(self, (dlpack.CUDA, self.index), self._let_wait))

    def _let_wait(self, stream: int | None) -> None:
        """Let whoever takes a result by DLPack wait for the stream that fills it; -1 stands for one who does not."""
        if self.producer is not None and stream != -1 and differ(self.producer, stream or LEGACY):
            driver.wait(stream or LEGACY, self.producer, self.index)

    def __repr__(self) -> str:
        return f"DeviceArray of shape {self.shape}, {self.dtype} on {self.device}"

    __str__ = __repr__


class _Addresses:
    """What NumPy makes an array of, without looking at the memory."""

    __slots__ = ("__array_interface__",)

    def __init__(self, pointer: int, shape: Any, strides: Any, typestr: str, read_only: bool) -> None:
        described = {"data": (pointer, read_only), "shape": shape, "strides": strides, "typestr": typestr, "version": 3}
        self.__array_interface__ = described


def _memory(pointer: int, shape: Any, strides: Any, dtype: np.dtype, read_only: bool) -> np.ndarray:
    """Memory as NumPy describes it; a record is described as bytes, and then called by its name."""
    described = np.asarray(_Addresses(pointer, shape, strides, dtype.str, read_only))
    return described.view(dtype) if dtype == dtypes.BFLOAT16 else described


def _made(value: np.ndarray, owner: Any, library: Library, index: int, producer: int | None = None) -> DeviceArray:
    view = value.view(DeviceArray)
    view.device, view.index, view.owner, view.library, view.producer = f"cuda:{index}", index, owner, library, producer
    return view


# ---- reading ---------------------------------------------------------------------------------------------------------


def view(value: Any, name: str, said: Callable[[], str]) -> DeviceArray:
    """An array of any library in CUDA memory; `said()` begins an error about it."""
    if not SIMULATED:
        try:
            driver.initialised()
        except UnsupportedError as error:
            raise UnsupportedError(f"{said()} in CUDA memory, but {error}") from None
    if SIMULATED and not hasattr(value, "__cuda_array_interface__"):
        return _made(value._ary, value, SIMULATOR, 0)
    if type(value).__module__.partition(".")[0] == "torch" or isinstance(value, _torch_tensor()):
        return _torch_view(value, name, said)
    return _dlpack_view(value, said) if is_by_dlpack(value) else _described_view(value, said)


def is_by_dlpack(value: Any) -> bool:
    """Whether an array is read by DLPack: wherever it can be, but for CuPy, whose interface names its stream."""
    return hasattr(value, "__dlpack__") and type(value).__module__.partition(".")[0] != "cupy"


def _torch_tensor() -> Any:
    return getattr(sys.modules.get("torch"), "Tensor", ())


def _torch_view(tensor: Any, name: str, said: Callable[[], str]) -> DeviceArray:
    torch = sys.modules["torch"]
    if tensor.layout is not torch.strided:
        raise InvalidTypeError(f"{said()} of layout {tensor.layout}: pass {name}.to_dense()")
    if tensor.is_neg() or tensor.is_conj():
        resolved = f"{name}.resolve_{'conj' if tensor.is_conj() else 'neg'}()"
        raise InvalidTypeError(f"{said()} that is negated or conjugated by a flag: pass {resolved}")
    dtype = _torch_dtype(tensor.dtype)
    if dtype is None:
        raise InvalidTypeError(f"{name} has dtype {tensor.dtype}: it must be {FLOATS} on a GPU")
    strides = None if tensor.is_contiguous() else tuple([stride * dtype.itemsize for stride in tensor.stride()])
    memory = _memory(tensor.data_ptr(), tuple(tensor.shape), strides, dtype, False)
    return _made(memory, tensor, TORCH, tensor.device.index)


@cache
def _torch_dtype(dtype: Any) -> np.dtype | None:
    """NumPy's dtype of the same name, BFLOAT16 of bfloat16; None where there is none."""
    try:
        return dtypes.numpy_dtype(str(dtype).rpartition(".")[2])
    except TypeError:
        return None


def _described_view(value: Any, said: Callable[[], str]) -> DeviceArray:
    """By the CUDA array interface."""
    described = value.__cuda_array_interface__
    if described.get("mask") is not None:
        raise InvalidTypeError(f"{said()} with a mask: pass its samples without it")
    pointer, read_only = described["data"]
    shape, strides = tuple(described["shape"]), described.get("strides")
    if not pointer and 0 not in shape:
        raise InvalidTypeError(f"{said()} of shape {shape} whose pointer is 0: pass an array that has memory")
    dtype = np.dtype(described["typestr"])
    if dtype.str[1:] == "V2" and dtypes.named(getattr(value, "dtype", None)) == "bfloat16":
        dtype = dtypes.BFLOAT16  # for which the interface has no word but two bytes
    memory = _memory(pointer, shape, strides, dtype, read_only)
    index = _device_of(pointer, said) if memory.size else driver.current()
    library = CUPY if type(value).__module__.partition(".")[0] == "cupy" else NUMBA
    return _made(memory, value, library, index, described.get("stream"))


def _device_of(pointer: int, said: Callable[[], str]) -> int:
    try:
        return driver.device_of(pointer)
    except InvalidTypeError as error:
        raise InvalidTypeError(f"{said()}, and {error}: pass an array in device memory") from None


def _dlpack_view(value: Any, said: Callable[[], str]) -> DeviceArray:
    try:
        seen = dlpack.read(value, stream=-1)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        of = f"{said()} of dtype {value.dtype}" if hasattr(value, "dtype") else said()
        raise InvalidTypeError(f"{of} that NumPy cannot read, {error}: pass dense {FLOATS}") from error
    made = _made(seen, value, NUMBA, int(value.__dlpack_device__()[1]))
    made.owner, made.taker = (value, seen), dlpack.taker(value)  # what was seen frees its capsule when it goes
    return made


# ---- streams ---------------------------------------------------------------------------------------------------------


def stream_of(stream: Any, first: DeviceArray) -> int:
    """The handle of the stream of a call: the caller's, else the current one of the library of its first array."""
    return first.library.stream(first.index) if stream is None else handle_of(stream, first.index)


def handle_of(stream: Any, index: int) -> int:
    """The handle of a caller's stream, which must be of the device."""
    handle = _handle(stream)
    if not SIMULATED:
        _check_named_device(stream, index)
        driver.check_stream(handle, index)
    return handle


def _check_named_device(stream: Any, index: int) -> None:
    """Raise where a stream of torch or CuPy names another device: the default streams of all have one handle."""
    named = getattr(stream, "device_index", getattr(stream, "device_id", None))
    if isinstance(named, int) and named not in (index, -1):  # which stands for none
        said = f"stream {stream!r} is of device {named}, the arrays are on device {index}"
        raise DeviceMismatchError(f"{said}: pass a stream of device {index}")


def _handle(stream: Any) -> int:
    if SIMULATED and type(stream).__module__.startswith("numba.cuda.simulator"):
        return 0
    try:
        if hasattr(stream, "__cuda_stream__"):
            protocol = stream.__cuda_stream__
            version, found = protocol() if callable(protocol) else protocol
            if version != 0:
                raise TypeError("a version that is not known here")
        else:
            named = next((name for name in ("cuda_stream", "ptr", "handle") if hasattr(stream, name)), None)
            found = getattr(stream, named) if named else stream
        found = getattr(found, "value", found)  # of ctypes, where None is 0
        handle = -1 if isinstance(found, bool) else as_index(0 if found is None else found)
    except Exception:  # whatever the caller's own class raises
        handle = -1
    if not 0 <= handle < 2**64:
        raise InvalidOptionError(f"stream is {stream!r}: it must be {STREAM_FORMS}")
    return handle


def begin(arrays: Iterable[DeviceArray], stream: int) -> None:
    """Let the stream wait for whoever fills the arrays."""
    for array in arrays:
        if array.producer is not None and differ(array.producer, stream):
            driver.wait(stream, array.producer, array.index)
        elif isinstance(array.owner, tuple):  # DLPack: who exports for a stream makes that stream wait
            array.owner[0].__dlpack__(stream=stream or LEGACY)


def end(arrays: Iterable[DeviceArray], stream: int) -> None:
    """Let whoever fills the arrays wait for the stream."""
    for array in arrays:
        if array.producer is not None and differ(array.producer, stream):
            driver.wait(array.producer, stream, array.index)
        elif isinstance(array.owner, tuple):
            _hold(array, stream)


_held: list[tuple[driver.Mark, Any]] = []  # marks in streams, and what is used before them
_holding = threading.Lock()


def _hold(array: DeviceArray, stream: int) -> None:
    """Keep an array that DLPack shows until a stream is done: its library, untold, might use its memory anew."""
    mark = driver.Mark(stream, array.index)
    with _holding:
        _held.append((mark, array.owner))
    _let_go()


def _let_go() -> None:
    """Drop the arrays that streams are done with."""
    with _holding:
        _held[:] = [held for held in _held if not held[0].is_past()]


def differ(producer: int, stream: int) -> bool:
    """Whether work on one stream may run before what is on another."""
    return not SIMULATED and (producer or LEGACY) != (stream or LEGACY)


# ---- memory ----------------------------------------------------------------------------------------------------------


def empty(shape: tuple[int, ...], dtype: str, like: DeviceArray, stream: int) -> DeviceArray:
    """A new array in the library, on the device and for the stream of a call."""
    bits = like.taker is not None and dtype == "bfloat16"  # which Numba cannot name, but DLPack
    made = like.library.empty(shape, "uint16" if bits else dtype, like.index, stream)
    result: Any = view(made, "result", lambda: "the result")
    if like.taker is not None:
        result.producer, result.taker = stream, like.taker
    return result.view(dtypes.BFLOAT16) if bits else result


_kept = threading.local()  # workspaces of this thread, where no library keeps freed memory for its next allocation
_generation = [0]


def workspace(nbytes: int, like: DeviceArray, stream: int) -> DeviceArray:
    """Bytes to work in, in the library and on the device and stream of a call."""
    return view(workspace_of(like.library, nbytes, like.index, stream), "workspace", lambda: "the workspace")


def workspace_of(library: Library, nbytes: int, index: int, stream: int) -> Any:
    """Bytes of the library's own pool, else kept by this thread, device and stream until `forget`."""
    if library in (TORCH, CUPY):
        return library.empty((nbytes,), "uint8", index, stream)
    if getattr(_kept, "generation", None) != _generation[0]:
        _kept.generation, _kept.arrays = _generation[0], {}
    size, kept = _kept.arrays.get((index, stream), (0, None))
    if kept is None or size < nbytes:
        _kept.arrays.pop((index, stream), None)
        kept = library.empty((nbytes,), "uint8", index, stream)
        _kept.arrays[index, stream] = nbytes, kept
    return kept


def forget() -> None:
    """Free the workspaces: those of this thread now, of other threads at their next call."""
    _generation[0] += 1
    _kept.__dict__.clear()
    _let_go()
