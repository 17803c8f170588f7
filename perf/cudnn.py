"""cuDNN's own convolutions by FFT as a peer: its two FFT algorithms, asked for by name.

torch lets cuDNN choose by trial and does not say what was chosen. The functions of cuDNN 9's C interface that take an
algorithm are called here by ctypes, in the library that torch has loaded, on torch's tensors, stream and memory; names,
numbers and the order of arguments are those of cudnn_graph.h, cudnn_ops.h and cudnn_cnn.h.

The three passes differ only in what they read and write, for cuDNN keeps one order of arguments throughout: what is
read, what is read second, the convolution, what is written. As in torch, result and workspace are allocated in every
call. An algorithm that cuDNN refuses for a layer is a setting whose call says so.
"""

from __future__ import annotations

import ctypes
import weakref
from ctypes import byref, c_float, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from layers import Layer
from peers import Arrays, Settings

LIBRARY = "libcudnn.so.9"
NCHW, FLOAT, CROSS_CORRELATION, FMA_MATH = 0, 0, 1, 3
NOT_SUPPORTED = range(3000, 4000)  # the general status and its reasons
MESSAGE_BYTES = 1024
ONE, ZERO = c_float(1), c_float(0)  # the result, and nothing of what lay there


@dataclass(frozen=True)
class Function:
    """A pass as cuDNN has it: its name, the arrays that it reads in order, the array like which it writes."""

    name: str
    reads: tuple[str, str]
    writes: str
    algorithms: dict[str, int]


FUNCTIONS = {
    "forward": Function("Forward", ("x", "w"), "dy", {"FFT": 4, "FFT_TILING": 5}),
    "input_grad": Function("BackwardData", ("w", "dy"), "x", {"FFT": 2, "FFT_TILING": 3}),
    "weight_grad": Function("BackwardFilter", ("x", "dy"), "w", {"FFT": 2, "FFT_TILING": 6}),
}

DESCRIPTORS = ("Tensor", "Filter", "Convolution")
ASKED = (*5 * [c_void_p], c_int, c_void_p)
RUN = (*7 * [c_void_p], c_int, c_void_p, c_size_t, *3 * [c_void_p])
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cudnnCreate": (c_void_p,),
    "cudnnSetStream": (c_void_p, c_void_p),
    **{f"cudnn{verb}{kind}Descriptor": (c_void_p,) for verb in ("Create", "Destroy") for kind in DESCRIPTORS},
    "cudnnSetTensor4dDescriptor": (c_void_p, *6 * [c_int]),
    "cudnnSetFilter4dDescriptor": (c_void_p, *6 * [c_int]),
    "cudnnSetConvolution2dDescriptor": (c_void_p, *8 * [c_int]),
    "cudnnSetConvolutionMathType": (c_void_p, c_int),
    "cudnnSetConvolutionGroupCount": (c_void_p, c_int),
    **{f"cudnnGetConvolution{function.name}WorkspaceSize": ASKED for function in FUNCTIONS.values()},
    **{f"cudnnConvolution{function.name}": RUN for function in FUNCTIONS.values()},
}


class CudnnError(RuntimeError):
    """A function of cuDNN returned an error."""


# ---- the library


def load() -> Any:
    return ctypes.CDLL(LIBRARY)


@cache
def library() -> Any:
    """cuDNN, its functions knowing what they take."""
    try:
        loaded = load()
    except OSError as error:
        raise ImportError(f"{LIBRARY} cannot be loaded: {error}", name=LIBRARY) from error
    for name, arguments in ARGUMENTS.items():
        getattr(loaded, name).argtypes = arguments
    loaded.cudnnGetErrorString.argtypes, loaded.cudnnGetErrorString.restype = (c_int,), ctypes.c_char_p
    loaded.cudnnGetLastErrorString.argtypes, loaded.cudnnGetLastErrorString.restype = (c_void_p, c_size_t), None
    return loaded


def call(name: str, *arguments: Any) -> None:
    """Calls a function of cuDNN; raises what it reports."""
    status = getattr(library(), name)(*arguments)
    if status:
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        library().cudnnGetLastErrorString(message, MESSAGE_BYTES)
        said = f"{name}: {library().cudnnGetErrorString(status).decode()}"
        reason = " ".join(message.value.decode(errors="replace").split())
        said += f", {reason}" if reason else ""
        raise CudnnError(f"not supported for this layer ({said})" if status in NOT_SUPPORTED else said)


@cache
def handle() -> c_void_p:
    """The process's handle, on the device that is torch's when it is first asked for."""
    made = c_void_p()
    call("cudnnCreate", byref(made))
    return made


def stream() -> int:
    return torch.cuda.current_stream().cuda_stream


class Descriptor:
    """A descriptor of cuDNN, destroyed with this object."""

    def __init__(self, kind: str, setter: str, *values: int) -> None:
        self.pointer = c_void_p()
        call(f"cudnnCreate{kind}Descriptor", byref(self.pointer))
        weakref.finalize(self, call, f"cudnnDestroy{kind}Descriptor", self.pointer).atexit = False
        call(setter, self.pointer, *values)


def described(name: str, shape: tuple[int, ...]) -> Descriptor:
    """The descriptor of x, w or dy."""
    if name == "w":
        return Descriptor("Filter", "cudnnSetFilter4dDescriptor", FLOAT, NCHW, *shape)
    return Descriptor("Tensor", "cudnnSetTensor4dDescriptor", NCHW, FLOAT, *shape)


# ---- a pass


class Convolution:
    """One pass of a layer by one algorithm; calling it returns the result."""

    def __init__(self, layer: Layer, pass_name: str, algorithm: int, arrays: Arrays) -> None:
        self.function, self.algorithm = FUNCTIONS[pass_name], algorithm
        self.read = [arrays[name] for name in self.function.reads]
        self.like = arrays[self.function.writes]
        names = (*self.function.reads, self.function.writes)
        self.first, self.second, self.result = (described(name, arrays[name].shape) for name in names)
        geometry = (*layer.padding, *layer.stride, 1, 1, CROSS_CORRELATION, FLOAT)
        self.convolution = Descriptor("Convolution", "cudnnSetConvolution2dDescriptor", *geometry)
        call("cudnnSetConvolutionGroupCount", self.convolution.pointer, layer.groups)
        call("cudnnSetConvolutionMathType", self.convolution.pointer, FMA_MATH)

    @cached_property
    def workspace_bytes(self) -> int:
        size = c_size_t()
        shapes = [each.pointer for each in (self.first, self.second, self.convolution, self.result)]
        call(f"cudnnGetConvolution{self.function.name}WorkspaceSize", handle(), *shapes, self.algorithm, byref(size))
        return size.value

    def __call__(self) -> torch.Tensor:
        workspace = torch.empty(self.workspace_bytes, dtype=torch.uint8, device=self.like.device)
        out, (first, second) = torch.empty_like(self.like), self.read
        call("cudnnSetStream", handle(), stream())
        reads = (self.first.pointer, first.data_ptr(), self.second.pointer, second.data_ptr())
        how = (self.convolution.pointer, self.algorithm, workspace.data_ptr(), self.workspace_bytes)
        writes = (self.result.pointer, out.data_ptr())
        call(f"cudnnConvolution{self.function.name}", handle(), byref(ONE), *reads, *how, byref(ZERO), *writes)
        return out


def settings(layer: Layer, pass_name: str, arrays: Arrays, threads: int) -> Settings:
    """cuDNN's FFT algorithms for a pass, in full float32; the arrays are torch's, in CUDA memory."""
    if layer.dtype != "float32":
        return {}
    held = {name: torch.as_tensor(arrays[name]).contiguous() for name in ("x", "w", "dy")}
    algorithms = FUNCTIONS[pass_name].algorithms
    return {name: Convolution(layer, pass_name, number, held) for name, number in algorithms.items()}
