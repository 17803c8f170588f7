"""Libraries of device arrays as test doubles, on the memory of fake_driver.py: Numba, torch, CuPy and JAX.

The fixture `gpu` is the fake driver with a Numba that allocates there, before anything was planned or kept for a GPU.
`install_torch` and `install_cupy` put the others where callers have imported them: as much of each as the package asks.
A `Jax` is asked for nothing by name.
"""

import contextlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from fake_driver import DeviceArray, FakeDriver, Region

from numba_fftconv import clear_cache, dlpack
from numba_fftconv.cuda import arrays
from numba_fftconv.dtypes import name_of


class Made(NamedTuple):
    """What a library was asked to allocate, on which device and for which stream."""

    shape: tuple[int, ...]
    dtype: str
    device: int
    stream: int


class Gpu:
    """A fake driver, arrays in its memory, and a list of what libraries have allocated there."""

    def __init__(self, fake: FakeDriver) -> None:
        self.driver = fake
        self.made: list[Made] = []
        self._nowhere = 1 << 46

    def array(self, values: Any, device: int = 0, stream: int | None = None) -> DeviceArray:
        return self.driver.array(values, device, stream)

    def lying(self, host: np.ndarray, device: int = 0) -> DeviceArray:
        """An array with its strides: its bytes become memory of the device."""
        return DeviceArray(self.driver.register(host, device))

    def addresses(self, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        """An array of any size, of which there are only the addresses: nothing that touches a sample can run."""
        size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        low, self._nowhere = self._nowhere, self._nowhere + size + 4096 & -4096
        self.driver.regions.append(Region(low, low + size, 0, np.empty(0)))
        described = {"shape": shape, "typestr": np.dtype(dtype).str, "data": (low, False), "version": 3}
        return SimpleNamespace(__cuda_array_interface__=described)

    def empty(self, shape: tuple[int, ...], dtype: str, index: int, stream: int) -> DeviceArray:
        """What Numba's library does for the package."""
        self.made.append(Made(shape, dtype, index, stream))
        return DeviceArray(self.driver.empty(shape, dtype, index))

    @property
    def launched(self) -> list[str]:
        """The functions of the kernels that were launched, in their order."""
        names = ("transform_kernel", "inverse_kernel", "product_kernel", "by_rows", "weight_grad", "sum_planes")
        symbols = [event.details[0] for event in self.driver.launches()]
        return [next(name for name in names if name in symbol) for symbol in symbols]

    @property
    def streams(self) -> set[int]:
        """The streams that kernels were launched on."""
        return {event.details[2] for event in self.driver.launches()}


@pytest.fixture(name="gpu")
def fixture_of_gpu(fake_driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    gpu = Gpu(fake_driver)
    monkeypatch.setattr(arrays, "NUMBA", arrays.Library(lambda index: 0, gpu.empty))
    clear_cache()  # plans hold kernels of the driver that was there before
    yield gpu
    clear_cache()


# ---- torch


class Dtype(str):
    """A dtype of torch prints itself with its module."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"torch.{super().__str__()}"


class Tensor:
    """A tensor on a GPU."""

    __module__ = "torch"
    is_cuda = True
    layout, requires_grad, negated, conjugated = "strided", False, False, False

    def __init__(self, host: np.ndarray, index: int = 0, dtype: str = "") -> None:
        self.host, self.shape = host, host.shape
        self.dtype, self.device = Dtype(dtype or name_of(host.dtype)), SimpleNamespace(index=index)

    def data_ptr(self) -> int:
        return self.host.ctypes.data if self.host.size else 0

    def stride(self) -> tuple[int, ...]:
        return tuple(stride // self.host.itemsize for stride in self.host.strides)

    def is_contiguous(self) -> bool:
        return self.host.flags.c_contiguous

    def is_neg(self) -> bool:
        return self.negated

    def is_conj(self) -> bool:
        return self.conjugated


class Streams:
    """The current stream of each device, and blocks in which it is another."""

    def __init__(self) -> None:
        self.current: dict[int, int] = {}

    @contextlib.contextmanager
    def using(self, index: int, handle: int) -> Iterator[None]:
        before, self.current[index] = self.current.get(index, 0), handle
        yield
        self.current[index] = before


def install_torch(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Streams:
    """A torch in whose memory pool results lie; the streams that it thinks current."""
    streams = Streams()

    def of(index: int, handle: int) -> Any:
        return SimpleNamespace(cuda_stream=handle, device_index=index)

    def empty(shape: tuple[int, ...], dtype: Dtype, device: tuple[str, int]) -> Tensor:
        kind, index = device
        assert kind == "cuda"
        name = str(dtype).removeprefix("torch.")
        gpu.made.append(Made(shape, name, index, streams.current.get(index, 0)))
        return Tensor(gpu.driver.empty(shape, name, index), index)

    cuda = SimpleNamespace(
        current_stream=lambda index: of(index, streams.current.get(index, 0)),
        default_stream=lambda index: of(index, 0),
        ExternalStream=lambda handle, device: of(device, handle),
        stream=lambda stream: streams.using(stream.device_index, stream.cuda_stream),
    )
    dtypes = {name: Dtype(name) for name in ("float16", "bfloat16", "float32", "uint8", "complex64")}
    module = SimpleNamespace(
        Tensor=Tensor, strided="strided", device=lambda kind, index: (kind, index), empty=empty, cuda=cuda, **dtypes
    )
    monkeypatch.setitem(sys.modules, "torch", module)
    return streams


# ---- CuPy


class CupyArray(DeviceArray):
    """An array that names the current stream as its own."""

    __module__ = "cupy"


class Cupy:
    """The module; `device` is the current one, and a null stream shows itself as 1 in the CUDA array interface."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.streams, self.device = gpu, Streams(), 0
        self.cuda = SimpleNamespace(
            Device=self._on,
            get_current_stream=lambda: SimpleNamespace(ptr=self.streams.current.get(self.device, 0)),
            Stream=self,
            ExternalStream=lambda handle: self.streams.using(self.device, handle),
        )

    @property
    def null(self) -> Any:
        return self.streams.using(self.device, 0)

    @contextlib.contextmanager
    def _on(self, index: int) -> Iterator[None]:
        before, self.device = self.device, index
        yield
        self.device = before

    def array(self, values: Any, device: int = 0) -> CupyArray:
        current = self.streams.current.get(device, 0)
        return CupyArray(self.gpu.array(values, device).host, current or 1)

    def empty(self, shape: tuple[int, ...], dtype: str) -> CupyArray:
        current = self.streams.current.get(self.device, 0)
        self.gpu.made.append(Made(shape, dtype, self.device, current))
        return CupyArray(self.gpu.driver.empty(shape, dtype, self.device), current or 1)


def install_cupy(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Cupy:
    module = Cupy(gpu)
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


# ---- JAX


class JaxArray:
    """An immutable array with DLPack from before 1.0, and of what it can name a CUDA array interface 2."""

    def __init__(self, jax: "Jax", host: np.ndarray, device: int, dtype: str = "", code: int | None = None) -> None:
        self.jax, self.host, self.device, self.code = jax, host, device, code
        self.shape, self.dtype = host.shape, dtype or name_of(host.dtype)

    def __array_namespace__(self) -> "Jax":
        return self.jax

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.host.dtype.kind == "V":
            raise AttributeError("not supported for BF16 buffers")
        shown = {name: self.host.__array_interface__[name] for name in ("shape", "typestr", "strides")}
        return {**shown, "data": (self.host.ctypes.data, True), "version": 2}

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        self.jax.shown.append(stream)
        capsule = dlpack.Shown(self.host, (2, self.device)).__dlpack__()
        if self.code is not None:
            dlpack._tensor(capsule).code = self.code
        return capsule


class Jax:
    """The namespace: it has made no memory, and takes what it is shown for a stream of its own."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.ready = gpu, gpu.driver.stream(1)
        self.shown: list[int | None] = []  # the streams that arrays were shown for

    def array(self, values: np.ndarray, device: int = 0, **dtype: Any) -> JaxArray:
        return JaxArray(self, self.gpu.array(values, device).host, device, **dtype)

    def from_dlpack(self, other: Any) -> JaxArray:
        kind, index = other.__dlpack_device__()
        assert kind == 2
        stream = self.ready if index == 1 else 1
        capsule = other.__dlpack__(stream=stream)
        tensor = dlpack._tensor(capsule)
        assert (tensor.device_type, tensor.device_id) == (kind, index)
        holder = SimpleNamespace(__dlpack__=lambda **options: capsule)
        return JaxArray(self, dlpack.read(holder), index)

    @property
    def waits(self) -> list[tuple[int, int]]:
        """(waiting, waited for): pairs of streams, of the events that were waited for."""
        recorded = {event.details[0]: event.details[1] for event in self.gpu.driver.log if event.what == "record"}
        return [(event.details[0], recorded[event.details[1]]) for event in self.gpu.driver.log if event.what == "wait"]
