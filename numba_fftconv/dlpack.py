"""Arrays as DLPack carries them from one library to another: read and shown wherever they lie, of bfloat16 too.

NumPy speaks DLPack of host memory and of its own dtypes. A capsule points to a struct that begins with where the memory
lies and what its samples are,

    byte    0     8            12         16          20             21    22     24
            data  device type  device id  dimensions  code of dtype  bits  lanes  shape ...

and where these few bytes say host memory, and unsigned integers instead of bfloat16, NumPy reads the capsules of others
and makes those for others, with its own code to keep memory alive and to let it go. No sample is touched or copied.

Example: a JAX array in CUDA memory is read as a NumPy array of the same addresses, which holds JAX's capsule.

Source: DLPack 1.0, dlpack.h and the Python specification.
"""

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .dtypes import BFLOAT16

CPU, CUDA = 1, 2  # device types
UNSIGNED, BFLOAT = 1, 4  # codes of dtypes
VERSION = (1, 0)  # the first whose capsules say that memory is read-only; NumPy takes older ones for that
BEFORE = {b"dltensor_versioned": 32, b"dltensor": 0}  # bytes before the struct, by the name of the capsule

_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_has_name = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)


class _Tensor(ctypes.Structure):
    """The beginning of DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("dimensions", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
    )  # fmt: skip


def _tensor(capsule: Any) -> _Tensor:
    name = next((name for name in BEFORE if _has_name(capsule, name)), b"dltensor")
    return _Tensor.from_address(_pointer(capsule, name) + BEFORE[name])


class _Exporter:
    """What NumPy takes a capsule from."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0

    def __dlpack__(self, **options: Any) -> Any:
        return self._capsule


def read(value: Any, **options: Any) -> np.ndarray:
    """The memory that a library shows, as NumPy describes it; `options` go to the library, such as a stream.

    >>> read(Shown(np.arange(3.0), (CUDA, 7)))
    array([0., 1., 2.])
    """
    try:
        capsule = value.__dlpack__(max_version=VERSION, **options)
    except TypeError:  # of a library from before versions
        capsule = value.__dlpack__(**options)
    tensor = _tensor(capsule)
    device, code = tensor.device_type, tensor.code
    is_bfloat16 = (code, tensor.bits) == (BFLOAT, 16)
    tensor.device_type, tensor.code = CPU, UNSIGNED if is_bfloat16 else code
    try:
        array = np.from_dlpack(_Exporter(capsule))
    finally:  # NumPy has read it; whoever lets the memory go finds what he wrote
        tensor.device_type, tensor.code = device, code
    return array.view(BFLOAT16) if is_bfloat16 else array


def taker(value: Any) -> Callable[[Any], Any] | None:
    """By which function the library of an array takes arrays of others, None where it has none.

    >>> taker(np.ones(3)) is np.from_dlpack, taker([1, 2])
    (True, None)
    """
    if hasattr(value, "__array_namespace__"):
        library = value.__array_namespace__()
    else:
        library = sys.modules.get(type(value).__module__.partition(".")[0])
    found: Callable[[Any], Any] | None = getattr(library, "from_dlpack", None)
    return found


class Shown:
    """An array as other libraries take it: `device` is DLPack's pair of type and number.

    `before`, of a GPU, is called with the stream that whoever takes the array will use, None where he names none.
    """

    def __init__(
        self, array: np.ndarray, device: tuple[int, int] = (CPU, 0), before: Callable[[Any], None] | None = None
    ) -> None:
        self._array, self._device, self._before = array, device, before

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
    ) -> Any:
        if dl_device not in (None, self._device) or copy:
            raise BufferError(f"memory of DLPack device {self._device} is shown as it lies, and not copied")
        if self._before is not None:
            self._before(stream)
        is_bfloat16 = self._array.dtype == BFLOAT16
        samples = self._array.view(np.uint16) if is_bfloat16 else self._array
        capsule = samples.__dlpack__(max_version=max_version)
        tensor = _tensor(capsule)
        tensor.device_type, tensor.device_id = self._device
        if is_bfloat16:
            tensor.code = BFLOAT
        return capsule
