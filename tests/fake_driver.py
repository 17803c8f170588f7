"""The CUDA driver as a test double: launches run the compiled kernels, on the memory of the host.

`FakeDriver` stands in for the module cuda.bindings.driver; the fixture `fake_driver` puts it there. It has two devices.
Device memory is host memory: what a test registers, or gets from `empty` and `array`, belongs to a device and lies at
its own address. A launch reads its parameters out of memory as a GPU does, each where kernelParams points, with the
sizes that the PTX names, and runs that PTX by cuda/ptx_machine: so a parameter that is packed wrongly, a symbol that is
not in the cubin, shared memory without leave or the wrong context fail as they would on a GPU. A launch is done when it
returns; what streams and events would have ordered stands in `log`.

    from fake_driver import FakeDriver, fixture_of_fake_driver  # noqa: F401

    def test_something(fake_driver: FakeDriver) -> None: ...
"""

import ctypes
import itertools
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.lib.array_utils import byte_bounds

from numba_fftconv.cuda import cubins, driver, ptx_machine
from numba_fftconv.dtypes import numpy_dtype

real = pytest.importorskip("cuda.bindings.driver")
E = real.CUresult
OK = E.CUDA_SUCCESS
UNASKED_SHARED_BYTES = 48 * 1024
DEFAULT_STREAMS = (0, 1, 2)
ALIGNMENT = 256  # of what cuMemAlloc returns


class Region(NamedTuple):
    """Bytes of an array that a device can reach."""

    low: int
    high: int
    device: int
    array: np.ndarray  # kept alive


class Mapped:
    """Global memory as ptx_machine wants it: some regions, each at its own address."""

    def __init__(self, regions: list[Region]) -> None:
        regions = sorted(regions)
        self.lows = np.array([region.low for region in regions], np.int64)
        self.highs = np.array([region.high for region in regions], np.int64)
        self.base, top = (regions[0].low, regions[-1].high) if regions else (0, 0)
        # Spans memory that is not ours too: `checked` lets no access there.
        self.data = np.frombuffer((ctypes.c_uint8 * (top - self.base)).from_address(self.base), np.uint8)

    def checked(self, address: np.ndarray, size: int) -> np.ndarray:
        owner = np.searchsorted(self.lows, address, "right") - 1
        if (owner < 0).any() or (address + size > self.highs[owner]).any():
            raise IndexError("global address outside of the arrays")
        return (address - self.base)[:, None] + np.arange(size)


class DeviceArray:
    """An array in device memory as other libraries show theirs; `host` is the same memory, seen by NumPy."""

    def __init__(self, host: np.ndarray, stream: int | None = None) -> None:
        self.host, self.stream = host, stream

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        shown = {name: self.host.__array_interface__[name] for name in ("shape", "typestr", "data", "strides")}
        return {**shown, "version": 3, "stream": self.stream}


@dataclass
class Loaded:
    """A kernel of a library."""

    symbol: str
    program: ptx_machine.Program
    most_threads: int
    architecture: tuple[int, int]
    shared_bytes: dict[int, int] = field(default_factory=dict)  # a device's leave


class Event(NamedTuple):
    """A line of the log: "launch" (symbol, grid, stream), "record" (event, stream) or "wait" (stream, event)."""

    what: str
    details: tuple[Any, ...]


class FakeDriver:
    """The functions of cuda.bindings.driver that the package calls; other names are those of the real module."""

    def __init__(self) -> None:
        self.started, self.version = OK, 13000  # what cuInit and cuDriverGetVersion say
        self.architectures = [(9, 0), (9, 0)]  # of the devices
        self.shared_bytes, self.multiprocessors = 232448, 132
        self.is_busy = False  # whether events have still to happen
        self.log: list[Event] = []
        self.regions: list[Region] = []
        self.streams: dict[int, int] = {}  # their devices
        self.events: dict[int, int] = {}
        self.libraries: dict[int, tuple[tuple[int, int], Any]] = {}
        self.kernels: dict[int, Loaded] = {}
        self._fault = ""
        self._handles = itertools.count(0x5000, 0x10)
        self._stack = threading.local()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("cu"):
            raise AttributeError(f"the fake driver has no {name}")
        return getattr(real, name)

    # ---- for tests

    def register(self, array: np.ndarray, device: int = 0) -> np.ndarray:
        """Makes the bytes from the first to the last of an array memory of a device."""
        if not array.size:
            return array
        low, high = byte_bounds(array)
        known = [region for region in self.regions if region.low < high and low < region.high]
        if not any(region.low <= low and high <= region.high and region.device == device for region in known):
            assert not known, "overlaps memory that is registered"
            self.regions.append(Region(low, high, device, array))
        return array

    def empty(self, shape: int | tuple[int, ...], dtype: Any = np.float32, device: int = 0) -> np.ndarray:
        """New memory of a device, aligned as a driver aligns it, every byte 0xFF: NaN."""
        dtype = numpy_dtype(dtype) if isinstance(dtype, str) else np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        whole = np.full(size + 2 * ALIGNMENT, 0xFF, np.uint8)
        start = -whole.ctypes.data % ALIGNMENT
        return self.register(whole[start : start + size].view(dtype).reshape(shape), device)

    def array(self, values: Any, device: int = 0, stream: int | None = None) -> DeviceArray:
        """A copy of an array in device memory, with the CUDA array interface."""
        values = np.asarray(values)
        host = self.empty(values.shape, values.dtype, device)
        host[...] = values
        return DeviceArray(host, stream)

    def stream(self, device: int = 0) -> int:
        """A new stream of a device."""
        handle = next(self._handles)
        self.streams[handle] = device
        return handle

    def launches(self) -> list[Event]:
        return [event for event in self.log if event.what == "launch"]

    # ---- initialisation and errors

    def cuInit(self, flags: int) -> tuple[Any]:
        return (self.started,)

    def cuDriverGetVersion(self) -> tuple[Any, int]:
        return OK, self.version

    def cuGetErrorString(self, status: Any) -> tuple[Any, bytes]:
        """Tells what the PTX machine said of a bad access, which a GPU does not know."""
        return OK, (self._fault or "words for it").encode()

    # ---- devices and contexts

    def cuDeviceGetCount(self) -> tuple[Any, int]:
        return OK, len(self.architectures)

    def cuDeviceGet(self, index: int) -> tuple[Any, Any]:
        return (OK, real.CUdevice(index)) if index < len(self.architectures) else (E.CUDA_ERROR_INVALID_DEVICE, None)

    def cuDeviceGetName(self, length: int, device: Any) -> tuple[Any, bytes]:
        return OK, f"Fake GPU {int(device)}".encode().ljust(length, b"\0")

    def cuDeviceGetAttribute(self, word: Any, device: Any) -> tuple[Any, int]:
        values = {
            "COMPUTE_CAPABILITY_MAJOR": self.architectures[int(device)][0],
            "COMPUTE_CAPABILITY_MINOR": self.architectures[int(device)][1],
            "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": self.shared_bytes,
            "MULTIPROCESSOR_COUNT": self.multiprocessors,
        }
        return OK, values[word.name.removeprefix("CU_DEVICE_ATTRIBUTE_")]

    def cuDevicePrimaryCtxRetain(self, device: Any) -> tuple[Any, Any]:
        return OK, real.CUcontext(0xC0 + int(device))

    @property
    def contexts(self) -> list[int]:
        """The context stack of this thread."""
        if not hasattr(self._stack, "held"):
            self._stack.held = []
        held: list[int] = self._stack.held
        return held

    def current(self) -> int | None:
        """The device of the current context."""
        return self.contexts[-1] - 0xC0 if self.contexts else None

    def cuCtxGetCurrent(self) -> tuple[Any, Any]:
        return OK, real.CUcontext(self.contexts[-1] if self.contexts else 0)

    def cuCtxGetDevice(self) -> tuple[Any, Any]:
        return (OK, real.CUdevice(self.current())) if self.contexts else (E.CUDA_ERROR_INVALID_CONTEXT, None)

    def cuCtxPushCurrent(self, context: Any) -> tuple[Any]:
        self.contexts.append(int(context))
        return (OK,)

    def cuCtxPopCurrent(self) -> tuple[Any, Any]:
        return (OK, self.contexts.pop()) if self.contexts else (E.CUDA_ERROR_INVALID_CONTEXT, None)

    def cuPointerGetAttribute(self, word: Any, pointer: int) -> tuple[Any, Any]:
        assert word == real.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        owners = [region.device for region in self.regions if region.low <= pointer < region.high]
        return (OK, owners[0]) if owners else (E.CUDA_ERROR_INVALID_VALUE, None)

    # ---- streams and events

    def _stream_device(self, stream: Any) -> int | None:
        return self.current() if int(stream) in DEFAULT_STREAMS else self.streams.get(int(stream))

    def cuStreamGetDevice(self, stream: int) -> tuple[Any, Any]:
        found = self._stream_device(stream)
        return (E.CUDA_ERROR_INVALID_HANDLE, None) if found is None else (OK, real.CUdevice(found))

    def cuEventCreate(self, flags: int) -> tuple[Any, Any]:
        device = self.current()
        if device is None:
            return E.CUDA_ERROR_INVALID_CONTEXT, None
        handle = next(self._handles)
        self.events[handle] = device
        return OK, real.CUevent(handle)

    def cuEventRecord(self, event: Any, stream: int) -> tuple[Any]:
        if self.events.get(int(event), -1) != self._stream_device(stream):
            return (E.CUDA_ERROR_INVALID_HANDLE,)
        self.log.append(Event("record", (int(event), stream)))
        return (OK,)

    def cuStreamWaitEvent(self, stream: int, event: Any, flags: int) -> tuple[Any]:
        if int(event) not in self.events or self._stream_device(stream) is None:
            return (E.CUDA_ERROR_INVALID_HANDLE,)
        self.log.append(Event("wait", (stream, int(event))))
        return (OK,)

    def cuEventQuery(self, event: Any) -> tuple[Any]:
        """A test says whether events have still to happen."""
        return (E.CUDA_ERROR_NOT_READY if self.is_busy else OK,)

    def cuEventSynchronize(self, event: Any) -> tuple[Any]:
        return (OK if int(event) in self.events else E.CUDA_ERROR_INVALID_HANDLE,)

    def cuEventElapsedTime(self, begin: Any, end: Any) -> tuple[Any, Any]:
        """A millisecond for each launch between the two."""
        recorded = {line.details[0]: place for place, line in enumerate(self.log) if line.what == "record"}
        between = self.log[recorded[int(begin)] : recorded[int(end)]]
        return OK, float(sum(line.what == "launch" for line in between))

    def cuEventDestroy(self, event: Any) -> tuple[Any]:
        return (OK if self.events.pop(int(event), None) is not None else E.CUDA_ERROR_INVALID_HANDLE,)

    # ---- kernels

    def cuLibraryLoadData(self, code: bytes, *options: Any) -> tuple[Any, Any]:
        """A cubin does not run here: the PTX that it was made of is what cubins.py remembers."""
        sources = [(key[1], made) for key, made in cubins._binaries.items() if made.cubin == code]
        if not sources or not code.startswith(b"\x7fELF"):
            return E.CUDA_ERROR_INVALID_IMAGE, None
        handle = next(self._handles)
        self.libraries[handle] = sources[0]
        return OK, real.CUlibrary(handle)

    def cuLibraryGetKernel(self, library: Any, name: bytes) -> tuple[Any, Any]:
        architecture, made = self.libraries[int(library)]
        if b"\0.text." + name + b"\0" not in made.cubin:  # the section of its instructions
            return E.CUDA_ERROR_NOT_FOUND, None
        bound = re.search(r"\.maxntid (\d+)", made.ptx)
        handle, most = next(self._handles), int(bound[1]) if bound else 1024
        self.kernels[handle] = Loaded(name.decode(), ptx_machine.Program(made.ptx), most, architecture)
        return OK, real.CUkernel(handle)

    def cuKernelSetAttribute(self, word: Any, value: int, kernel: Any, device: Any) -> tuple[Any]:
        assert word == real.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        if value > self.shared_bytes:
            return (E.CUDA_ERROR_INVALID_VALUE,)
        self.kernels[int(kernel)].shared_bytes[int(device)] = value
        return (OK,)

    def cuLaunchKernel(
        self, f: Any, gx: int, gy: int, gz: int, bx: int, by: int, bz: int,
        shared: int, stream: int, parameters: int, extra: int,
    ) -> tuple[Any]:  # fmt: skip
        device, kernel, grid = self.current(), self.kernels.get(int(f)), (gx, gy, gz)
        if device is None:
            return (E.CUDA_ERROR_INVALID_CONTEXT,)
        if kernel is None or self._stream_device(stream) != device:
            return (E.CUDA_ERROR_INVALID_HANDLE,)
        if kernel.architecture != self.architectures[device]:
            return (E.CUDA_ERROR_NO_BINARY_FOR_GPU,)
        in_limits = 0 < gx < 2**31 and 0 < gy < 2**16 and 0 < gz < 2**16 and 0 < bx <= kernel.most_threads
        if not in_limits or (by, bz, extra) != (1, 1, 0):
            return (E.CUDA_ERROR_INVALID_VALUE,)
        if shared > kernel.shared_bytes.get(device, UNASKED_SHARED_BYTES):
            return (E.CUDA_ERROR_INVALID_VALUE,)
        program = kernel.program
        places = (ctypes.c_uint64 * len(program.parameters)).from_address(parameters)
        packed = np.zeros(program.parameter_bytes, np.uint8)
        for place, (_, offset, size, _) in zip(places, program.parameters, strict=True):
            packed[offset : offset + size] = list(ctypes.string_at(place, size))
        self.log.append(Event("launch", (kernel.symbol, grid, stream)))
        self._fault = ""
        memory = Mapped([region for region in self.regions if region.device == device])
        try:
            ptx_machine.execute(program, grid, bx, shared, memory, packed)
        except (ptx_machine.AccessError, ptx_machine.AlignmentError) as error:
            self._fault = str(error)
            kind = E.CUDA_ERROR_ILLEGAL_ADDRESS if isinstance(error, IndexError) else E.CUDA_ERROR_MISALIGNED_ADDRESS
            return (kind,)
        return (OK,)


def _forget() -> None:
    """What the package has asked the driver once and keeps."""
    for value in vars(driver).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


@pytest.fixture(name="fake_driver")
def fixture_of_fake_driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """The driver of the package is a fake one, and knows of nothing before the test."""
    fake = FakeDriver()
    monkeypatch.setattr(driver, "bindings", lambda: fake)
    _forget()
    yield fake
    _forget()
