"""What an array is here: read without a copy, checked, and given back in the library that it came from.

Whatever a caller passes is read as a NumPy array, of host memory or of addresses of a GPU (cuda/arrays.py), so that one
check of dtypes, shapes, strides and overlaps serves both; `device` says where it lies. An array of bfloat16, which
NumPy has not, is read as one of dtypes.BFLOAT16. No framework is imported: a caller who holds a tensor has imported its
library already, and sys.modules has it.
"""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import dlpack, dtypes
from .errors import (
    DeviceMismatchError,
    FFTConvError,
    InvalidOptionError,
    InvalidShapeError,
    InvalidTypeError,
    WorkspaceError,
)

ALIGNMENT = 64  # bytes: a cache line, and one AVX-512 vector
HOST_MEMORY = {dlpack.CPU, 3, 11}  # DLPack devices: CPU, and host memory pinned for CUDA or ROCm
CUDA_MEMORY = {dlpack.CUDA, 13}  # DLPack devices: CUDA, CUDA managed
OVERLAP_WORK = 10**6  # candidates tried before two interleaved arrays count as overlapping
NEW_ARRAY = "pass a writable array with memory of its own, such as numpy.empty makes"
ONE_DEVICE = "pass a dense array that lies on one device"
UNTRACED = "call this outside of jax.jit, jax.grad and jax.vmap, or through jax.pure_callback"
PLAIN_ARRAY = "it must be an array of NumPy, torch, CuPy, Numba or another library with DLPack"


def view(value: Any, name: str) -> np.ndarray:
    """An array wherever it lies: of host memory, or a DeviceArray."""
    if isinstance(value, np.ndarray) or not _on_gpu(value, name):
        return host(value, name)
    from .cuda import arrays as of_gpu

    if getattr(value, "requires_grad", False):
        raise _requires_grad(value, name)
    return of_gpu.view(value, name, lambda: f"{name} is a {_type_name(value)}")


def _on_gpu(value: Any, name: str) -> bool:
    if _is_torch(value):
        return bool(value.is_cuda)
    if hasattr(value, "__cuda_array_interface__") or type(value).__module__.startswith("numba.cuda.simulator."):
        return True
    try:
        return hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] in CUDA_MEMORY
    except Exception as error:  # whatever the caller's own class raises
        said = f"{name} is a {_type_name(value)} that cannot say where it lies, {error}"
        raise InvalidTypeError(f"{said}: {ONE_DEVICE}") from error


def check_devices(read: Mapping[str, Any]) -> None:
    """Raise DeviceMismatchError where arrays lie on different devices; a SpectralWeight is the plan's affair."""
    devices = {name: value.device for name, value in read.items() if isinstance(value, np.ndarray)}
    if len(set(devices.values())) > 1:
        said = ", ".join(f"{name} is on {device}" for name, device in devices.items())
        raise DeviceMismatchError(f"{said}: all arrays must be on one device, move them there")


def host(value: Any, name: str) -> np.ndarray:
    """A NumPy view of an array in host memory: of NumPy, torch or any library that speaks DLPack."""
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        array = np.asarray(value)
        return array.view(dtypes.BFLOAT16) if dtypes.is_bfloat16(array.dtype) else array
    said = f"{name} is a {_type_name(value)}"
    try:
        return _foreign(value, name, said)
    except FFTConvError:
        raise
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        of = f"{said} of dtype {value.dtype}" if hasattr(value, "dtype") else said
        raise InvalidTypeError(f"{of} that NumPy cannot read, {error}: pass dense {dtypes.ANY}") from error


def _foreign(value: Any, name: str, said: str) -> np.ndarray:
    """The same of what is no NumPy array; what a library raises where it is asked, it raises."""
    if _is_traced(value):
        raise InvalidTypeError(f"{said}, an array that JAX traces, which has no samples yet: {UNTRACED}")
    if isinstance(value, np.ma.MaskedArray) or not hasattr(value, "__dlpack_device__"):
        raise InvalidTypeError(f"{said}: {PLAIN_ARRAY}")
    if getattr(value, "requires_grad", False):
        raise _requires_grad(value, name)
    device = value.__dlpack_device__()[0]
    if device in HOST_MEMORY:
        # torch's own way refuses tensors negated or zero by a flag; DLPack would hand out their stored samples.
        return _of_torch(value) if _is_torch(value) else dlpack.read(value)
    raise InvalidTypeError(f"{said} on DLPack device {int(device)}: it must be in host memory or on a GPU of NVIDIA")


def _of_torch(tensor: Any) -> np.ndarray:
    """The view of a tensor in host memory; its own method knows no bfloat16."""
    torch = sys.modules["torch"]
    if tensor.dtype is not torch.bfloat16:
        memory: np.ndarray = tensor.numpy()
        return memory
    bits: np.ndarray = tensor.view(torch.int16).numpy()
    return bits.view(dtypes.BFLOAT16)


def dtype_name(value: np.ndarray, name: str) -> str:
    """The name of the dtype of an array, one of dtypes.py."""
    found = dtypes.NAMES.get(value.dtype)
    if found is None:
        raise InvalidTypeError(f"{name} has dtype {value.dtype}: it must be {dtypes.ANY}, of native byte order")
    return found


def fitting(value: Any, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array of exactly this shape and dtype."""
    array = view(value, name)
    found = dtypes.name_of(array.dtype)
    if found != dtype:
        raise InvalidTypeError(f"{name} has dtype {found}: it must be {dtype} here, to fit the other arrays")
    if array.shape != shape:
        raise InvalidShapeError(f"{name} has shape {array.shape}: it must be {shape} here")
    return array


def aligned(array: np.ndarray) -> np.ndarray:
    """An array to read, copied only where its samples are not aligned."""
    return array if _is_aligned(array) else array.copy()


def output(
    out: Any,
    shape: tuple[int, ...],
    dtype: str,
    inputs: Mapping[str, Any],
    empty: Callable[..., np.ndarray] | None = None,
) -> np.ndarray:
    """An array to write, of exactly this shape and dtype: new, or a view of `out`, which must not overlap `inputs`."""
    if out is None:
        try:
            return new(shape, dtype) if empty is None else empty(shape, dtype)
        except MemoryError as error:
            nbytes = math.prod(shape) * dtypes.numpy_dtype(dtype).itemsize
            raise no_memory(f"the result of shape {shape}", nbytes) from error
    array = fitting(out, "out", shape, dtype)
    check_devices({**inputs, "out": array})
    if not array.flags.writeable:
        raise InvalidOptionError(f"out is a read-only {_type_name(out)} of shape {shape}: {NEW_ARRAY}")
    check_aligned(array, "out")
    if _overlaps_itself(array):
        raise InvalidOptionError(f"{_said(array, 'out')} overlaps itself: {NEW_ARRAY}")
    refuse_overlap(array, "out", inputs)
    return array


def new(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A new array in host memory."""
    return np.empty(shape, dtypes.numpy_dtype(dtype))


def check_no_stream(stream: Any) -> None:
    """Raise InvalidOptionError where arrays in host memory are given a stream."""
    if stream is not None:
        raise InvalidOptionError(f"stream is {stream!r}: arrays on a CPU have no stream, leave it None")


def check_aligned(array: np.ndarray, name: str) -> None:
    """Raise InvalidOptionError where samples do not lie at multiples of their size."""
    if not _is_aligned(array):
        raise InvalidOptionError(
            f"{_said(array, name)} is not aligned to its {dtypes.name_of(array.dtype)} samples: {NEW_ARRAY}"
        )


def _said(array: np.ndarray, name: str) -> str:
    return f"{name} of shape {array.shape} and strides {array.strides} bytes"


def refuse_overlap(array: np.ndarray, name: str, others: Mapping[str, np.ndarray]) -> None:
    """Raise InvalidOptionError where an array to write shares memory with one of `others`."""
    for other_name, other in others.items():
        if _overlap(array, other):
            said = f"{name} of shape {array.shape} shares memory with {other_name} of shape {other.shape}"
            raise InvalidOptionError(f"{said}: {NEW_ARRAY}")


def like(result: np.ndarray | None, model: Any) -> Any:
    """`result`, if any, in the library of `model`, without a copy; NumPy's own where that library cannot take one."""
    if result is None:
        return result
    if isinstance(model, np.ndarray):
        return result.view(_bfloat16_of(model)) if result.dtype == dtypes.BFLOAT16 else result
    on_gpu: Any = result
    if hasattr(on_gpu, "owner"):
        return on_gpu.handed_over()
    if _is_torch(model):
        torch = sys.modules["torch"]
        if result.dtype == dtypes.BFLOAT16:
            return torch.from_numpy(result.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(result)
    take = dlpack.taker(model)
    if take is None:
        return result
    try:
        made = take(dlpack.Shown(result))
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        said = f"the library of {_type_name(model)} takes no {dtypes.name_of(result.dtype)}, which the result is of"
        raise InvalidTypeError(f"{said}, {error}: pass out, an array of NumPy or of another library") from error
    home = getattr(model, "device", None)  # of the devices of host memory, which JAX numbers, DLPack knows the first
    return made if home == getattr(made, "device", None) else made.to_device(home)


def _bfloat16_of(model: np.ndarray) -> np.dtype:
    """What a caller of NumPy calls bfloat16: as his own array does, or ml_dtypes where he has imported it."""
    if model.dtype == dtypes.BFLOAT16 or dtypes.is_bfloat16(model.dtype):
        return model.dtype
    named = sys.modules.get("ml_dtypes")
    return dtypes.BFLOAT16 if named is None else np.dtype(named.bfloat16)


def scratch(
    workspace: Any, nbytes: int, others: Mapping[str, Any], alignment: int = ALIGNMENT,
    name: str = "workspace", needed: str = "workspace_size",
) -> np.ndarray:  # fmt: skip
    """The caller's workspace as bytes from a boundary on; `nbytes`, which the plan calls `needed`, counts what that may
    cost."""
    array = view(workspace, name)
    check_devices({**others, name: array})
    refuse_overlap(array, name, others)
    if array.dtype.hasobject:
        raise InvalidTypeError(f"{name} has dtype {array.dtype}: it must hold plain numbers, such as uint8")
    if not (array.flags.writeable and array.flags.forc):
        said = f"{_said(array, name)} is read-only or not contiguous"
        raise InvalidOptionError(f"{said}: pass a new one, such as numpy.empty({nbytes}, 'uint8')")
    if array.nbytes < nbytes:
        raise WorkspaceError(f"{name} has {array.nbytes} bytes: this plan needs {nbytes}, its {needed}")
    return from_boundary(array.reshape(-1, order="A").view(np.uint8), alignment)


def from_boundary(space: np.ndarray, alignment: int = ALIGNMENT) -> np.ndarray:
    """What of some bytes lies beyond the first multiple of `alignment`, in whole multiples."""
    begin = -space.__array_interface__["data"][0] % alignment
    return space[begin : begin + (len(space) - begin) // alignment * alignment]


def no_memory(what: str, nbytes: int) -> WorkspaceError:
    return WorkspaceError(f"{what} takes {nbytes:,} bytes, which this machine does not give")


def _is_aligned(array: np.ndarray) -> bool:
    flags, itemsize = array.flags, array.itemsize
    return flags.aligned and (flags.forc or all(stride % itemsize == 0 for stride in array.strides))


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    if not np.may_share_memory(a, b):  # which compares their bounds alone
        return False
    try:
        return np.shares_memory(a, b, max_work=OVERLAP_WORK)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _overlaps_itself(array: np.ndarray) -> bool:
    """Whether two samples may lie on one place: an axis steps by less than the axes below it cover."""
    if array.flags.forc:
        return False
    covered = array.itemsize
    axes = zip((abs(stride) for stride in array.strides), array.shape, strict=True)
    for stride, extent in sorted(axis for axis in axes if axis[1] > 1):
        if stride < covered:
            return array.size > 0
        covered += stride * (extent - 1)
    return False


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_traced(value: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.core.Tracer)


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _requires_grad(value: Any, name: str) -> InvalidTypeError:
    said = f"{name} is a {_type_name(value)} that requires a gradient, which would be lost"
    return InvalidTypeError(f"{said}: pass {name}.detach(), or call numba_fftconv.torch.conv2d, which keeps it")
