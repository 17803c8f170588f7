"""A GPU as the engine needs it, through the CUDA driver API: devices, contexts, streams, launches.

Numba's own launch converts every argument at every call and allows no more than 48 KB of shared memory. Here a `Launch`
packs its arguments once and leaves two things open, the stream and where the arrays lie: one driver call each time.

Work is done in the primary context of a device, which is the one that PyTorch, CuPy and Numba use. Nothing waits for
the GPU, and nothing is loaded or initialised before the first call.
"""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types

from ..errors import CudaError, DeviceMismatchError, InvalidOptionError, InvalidTypeError, UnsupportedError
from ..gpus import GRID_LIMIT
from .cubins import binary
from .memory import as_passed, numpy_type
from .toolchain import Architecture, Kernel, require_numba_cuda

LEAST_ARCHITECTURE = (8, 0)
LEAST_VERSION = 13000  # as the driver counts it: cubins of CUDA 13
UNASKED_SHARED_BYTES = 48 * 1024  # more needs the driver's leave
MOST_BLOCKS = (2**31 - 1, GRID_LIMIT, GRID_LIMIT)
DEFAULT_STREAMS = (0, 1, 2)  # null, legacy and per thread: each device has its own


def bindings() -> Any:
    """The module whose functions are the driver API; the one place that names it."""
    from cuda.bindings import driver

    return driver


@cache
def initialised() -> Any:
    """The driver API, once it can be used."""
    install = "pip install 'numba_fftconv[cu13]'"
    require_numba_cuda()
    try:
        api = bindings()
    except ImportError as error:
        raise UnsupportedError(f"the Python bindings of the CUDA driver are missing: {install}") from error
    absent = "install one (580 or newer), or pass an array in host memory"
    try:
        (status,) = api.cuInit(0)
    except RuntimeError as error:  # the bindings look for libcuda at their first call
        raise UnsupportedError(f"no NVIDIA driver on this machine: {absent}") from error
    if status:
        raise UnsupportedError(f"no NVIDIA driver that works on this machine, cuInit says {status.name}: {absent}")
    _, version = api.cuDriverGetVersion()
    if version < LEAST_VERSION:
        found = f"{version // 1000}.{version % 1000 // 10}"
        raise UnsupportedError(f"the NVIDIA driver is one for CUDA {found}; CUDA 13 is needed: install 580 or newer")
    return api


def _call(name: str, *arguments: Any) -> Any:
    """A call of the driver API: what it returns, or a CudaError."""
    status, *results = getattr(initialised(), name)(*arguments)
    if status:
        raise _error(name, status)
    return results[0] if results else None


def _error(what: str, status: Any) -> CudaError:
    _, text = initialised().cuGetErrorString(status)
    return CudaError(f"{what}: {status.name} ({int(status)}), {text.decode() if text else 'unknown'}")


# ---- devices, contexts, streams --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """A GPU on which kernels of this package run."""

    index: int
    name: str
    architecture: Architecture
    multiprocessors: int
    shared_bytes: int  # the most that a block can have


def count() -> int:
    """The GPUs that the driver shows; without a driver an UnsupportedError that says what to install."""
    return int(_call("cuDeviceGetCount"))


@cache
def device(index: int) -> Device:
    """The GPU of that index, if kernels run on it."""
    there = count()
    if not 0 <= index < there:
        has = f"this machine has {there} CUDA devices, 0 to {there - 1}" if there > 1 else "there is only device 0"
        raise InvalidOptionError(f"device {index}: {has}")
    handle, words = _call("cuDeviceGet", index), initialised().CUdevice_attribute

    def attribute(word: str) -> int:
        return int(_call("cuDeviceGetAttribute", getattr(words, f"CU_DEVICE_ATTRIBUTE_{word}"), handle))

    name = _call("cuDeviceGetName", 256, handle).split(b"\0")[0].decode()
    architecture = attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")
    if architecture < LEAST_ARCHITECTURE:
        what = f"device {index} ({name}) is sm_{architecture[0]}{architecture[1]}"
        raise UnsupportedError(f"{what}: the kernels copy by cp.async, which needs sm_80 (Ampere) or newer")
    shared = attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
    return Device(index, name, architecture, attribute("MULTIPROCESSOR_COUNT"), shared)


@cache
def _context(index: int) -> Any:
    """The primary context, held as long as the process lives."""
    return _call("cuDevicePrimaryCtxRetain", _call("cuDeviceGet", device(index).index))


class on:
    """`with on(index):` makes the primary context of a device current to this thread, and then what was before."""

    __slots__ = ("_context", "_current", "_pushed")

    def __init__(self, index: int) -> None:
        self._context, self._current = _context(index), initialised().cuCtxGetCurrent

    def __enter__(self) -> None:
        status, now = self._current()
        self._pushed = bool(status) or now != self._context
        if self._pushed:
            _call("cuCtxPushCurrent", self._context)

    def __exit__(self, *error: object) -> None:
        if self._pushed:
            _call("cuCtxPopCurrent")


def current() -> int:
    """The index of the device that is current to this thread; 0 where none is."""
    return int(_call("cuCtxGetDevice")) if int(_call("cuCtxGetCurrent")) else 0


def device_of(pointer: int) -> int:
    """The index of the device whose memory a pointer points into."""
    api = initialised()
    status, index = api.cuPointerGetAttribute(api.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer)
    if status == api.CUresult.CUDA_ERROR_INVALID_VALUE:
        raise InvalidTypeError(f"the pointer {pointer:#x} points into no memory of a CUDA device")
    if status:
        raise _error("cuPointerGetAttribute", status)
    return int(index)


def check_stream(stream: int, index: int) -> None:
    """A stream that work on a device goes to must be a stream of that device."""
    if stream not in DEFAULT_STREAMS and (theirs := int(_call("cuStreamGetDevice", stream))) != index:
        message = f"stream {stream:#x} is of device {theirs}, the arrays are on device {index}"
        raise DeviceMismatchError(f"{message}: pass a stream of device {index}")


def wait(stream: int, producer: int, index: int) -> None:
    """Work that `stream` gets from now on begins after all that `producer` holds now; both are of the device."""
    if stream == producer:
        return
    with on(index):
        event = _call("cuEventCreate", initialised().CUevent_flags.CU_EVENT_DISABLE_TIMING)
        try:
            _call("cuEventRecord", event, producer)
            _call("cuStreamWaitEvent", stream, event, 0)
        finally:
            _call("cuEventDestroy", event)  # the driver keeps it until it has happened


class Mark:
    """A point in a stream: behind all that the stream holds now."""

    def __init__(self, stream: int, index: int) -> None:
        with on(index):
            self._event = _call("cuEventCreate", initialised().CUevent_flags.CU_EVENT_DISABLE_TIMING)
            _call("cuEventRecord", self._event, stream)

    def is_past(self) -> bool:
        """Whether the stream has come by; one that is captured in a graph never does."""
        (status,) = initialised().cuEventQuery(self._event)
        return not status

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # of a driver that is gone, or where no event was made
            initialised().cuEventDestroy(self._event)


class Clock:
    """Times what a stream does between marks: with Clock(stream) as clock: ... clock.mark() ...; then clock.seconds."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._events: list[Any] = []
        self.seconds: list[float] = []

    def __enter__(self) -> "Clock":
        self.mark()
        return self

    def mark(self) -> None:
        """The end of one span and the beginning of the next."""
        self._events.append(_call("cuEventCreate", 0))
        _call("cuEventRecord", self._events[-1], self._stream)

    def __exit__(self, kind: Any, *error: object) -> None:
        """Waits for the last mark; where the block raised, only lets go of the events."""
        try:
            if kind is None:
                _call("cuEventSynchronize", self._events[-1])
                spans = itertools.pairwise(self._events)
                self.seconds = [_call("cuEventElapsedTime", begin, end) / 1e3 for begin, end in spans]
        finally:
            for event in self._events:
                _call("cuEventDestroy", event)


# ---- launches --------------------------------------------------------------------------------------------------------


class At(NamedTuple):
    """Where a pointer points: so many bytes past the beginning of the array of that name."""

    name: str
    offset: int = 0


@cache
def _loaded(kernel: Kernel, on_device: Device) -> Any:
    """The driver's handle of a kernel, with leave for its shared memory. Loading it twice would do no harm."""
    code = binary(kernel, on_device.architecture)
    library = _call("cuLibraryLoadData", code.cubin, [], [], 0, [], [], 0)
    handle = _call("cuLibraryGetKernel", library, code.symbol.encode())
    if kernel.shared_bytes > UNASKED_SHARED_BYTES:
        word = initialised().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _call("cuKernelSetAttribute", word, kernel.shared_bytes, handle, _call("cuDeviceGet", on_device.index))
    return handle


def _flat(signature: Sequence[Any], arguments: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Types and values of the parameters: a NamedTuple is passed field by field."""
    pairs: list[tuple[Any, Any]] = []
    for kind, value in zip(signature, arguments, strict=True):
        is_tuple = isinstance(kind, types.NamedUniTuple)
        pairs += [(kind.dtype, field) for field in value] if is_tuple else [(kind, value)]
    return pairs


class Launch:
    """A kernel with its grid and its arguments, ready to be launched again and again.

    arguments: in the order of the kernel's signature, `At` or None (a null pointer) for pointers.
    """

    def __init__(self, kernel: Kernel, grid: tuple[int, int, int], arguments: Sequence[Any], on_device: Device) -> None:
        if kernel.shared_bytes > on_device.shared_bytes:
            needs = f"{kernel.name} needs {kernel.shared_bytes} bytes of shared memory a block"
            raise UnsupportedError(f"{needs}, device {on_device.index} ({on_device.name}) has {on_device.shared_bytes}")
        if any(blocks > most for blocks, most in zip(grid, MOST_BLOCKS, strict=True)):
            raise UnsupportedError(f"{kernel.name} on a grid of {grid} blocks: CUDA launches at most {MOST_BLOCKS}")
        parameters = _flat(kernel.signature, arguments)
        # The driver gets an array of addresses, one a parameter, and reads each parameter there: slots of 8 bytes.
        self._slots = np.zeros(len(parameters), np.uint64)
        self._places = self._slots.data  # which takes an int at once
        first = self._slots.ctypes.data
        self._addresses = np.arange(first, first + 8 * len(parameters), 8, dtype=np.uint64)
        self._pointers: list[tuple[int, str, int]] = []
        for slot, (kind, value) in enumerate(parameters):
            if not isinstance(kind, types.CPointer):
                self._slots[slot : slot + 1].view(numpy_type(kind))[0] = as_passed(kind, value)
            elif value is not None:
                self._pointers.append((slot, *value))
        self.kernel, self.grid, self.device = kernel, grid, on_device
        self._before = (_loaded(kernel, on_device), *grid, kernel.threads, 1, 1, kernel.shared_bytes)
        self._after = (self._addresses.ctypes.data, 0)
        self._launch = initialised().cuLaunchKernel

    def launch(self, stream: int, pointers: Mapping[str, int]) -> None:
        """Puts the kernel into a stream, the arrays being where `pointers` says."""
        self.pack(pointers)
        self.issue(stream)

    def pack(self, pointers: Mapping[str, int]) -> None:
        """Arguments of arrays that begin where `pointers` says.

        The caller holds a lock from here to `issue`: the slots are this object's own. They may be filled anew after
        that, which copies them.
        """
        for slot, name, offset in self._pointers:
            self._places[slot] = pointers[name] + offset

    def issue(self, stream: int) -> None:
        """Puts the kernel into a stream with the arguments as they are packed; the device is current (`on`)."""
        (status,) = self._launch(*self._before, stream, *self._after)
        if status:
            raise _error(f"launch of {self.kernel.name}", status)
