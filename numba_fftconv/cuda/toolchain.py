"""From a Python function to the machine code of a kernel, with no GPU and no driver: Numba, NVVM, nvJitLink.

A `Kernel` is inert: a name that tells its specialisation, a function, the types of its arguments, its threads. `build`
makes its machine code for one architecture, by the same steps on every machine: Numba lowers the function to NVVM IR,
libNVVM makes PTX of it, nvJitLink a cubin, which is all that a driver ever sees. So what a test reads off the machine
code here is what runs on a GPU. Under NUMBA_ENABLE_CUDASIM=1 nothing is compiled: simulator.py runs the functions.

Numba's own disk cache is not used: it keys on the source of the kernel alone, needs a driver to look anything up, and a
closure over an intrinsic makes its key new in every process.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, types
from numba.core import config

from ..cache import no_collections
from ..errors import UnsupportedError

SIMULATED = bool(config.ENABLE_CUDASIM)
Architecture = tuple[int, int]  # compute capability; (8, 0) is the first with cp.async

# Arguments of kernels: a pointer is one parameter where an array would be seven, and no index of it wraps round.
REALS = types.CPointer(types.float32)
COMPLEXES = types.CPointer(types.complex64)
SIXTEENS = types.CPointer(types.uint16)  # to float16 or bfloat16


@dataclass(frozen=True)
class Kernel:
    """A kernel before compilation; `signature` holds the Numba types of its arguments."""

    name: str
    function: Callable[..., None]
    signature: tuple[Any, ...]
    threads: int
    shared_bytes: int  # of dynamic shared memory
    least_blocks: int = 1  # resident on a multiprocessor, for which the compiler saves registers
    most_registers: int | None = None  # of a thread: takes the place of least_blocks


class Binary(NamedTuple):
    """Machine code: the symbol of the kernel in a cubin, and the PTX that it was made of."""

    symbol: str
    cubin: bytes
    ptx: str


def device_function(function: Callable[..., Any]) -> Any:
    """A function that kernels call, always inlined by NVVM; in the simulator a plain call."""
    return cuda.jit(device=True)(function)


def namedtuple_type(fields: type[tuple], element: Any) -> Any:
    """The Numba type of a NamedTuple whose fields are all of one type: passed by value, read by name."""
    return types.NamedUniTuple(element, len(fields._fields), fields)  # type: ignore[attr-defined]


def build(kernel: Kernel, architecture: Architecture) -> Binary:
    """Compile a kernel for an architecture."""
    ptx = compile_ptx(kernel, architecture)
    symbol = next(line for line in ptx.splitlines() if ".entry" in line).split(".entry")[1].strip(" (\t")
    return Binary(symbol, link(ptx, architecture), ptx)


def compile_ptx(kernel: Kernel, architecture: Architecture, lines: bool = False) -> str:
    """The PTX of a kernel; with `lines` it says of which line of the kernel each instruction is."""
    with no_collections(), _as_if_on(architecture):
        ptx, _ = cuda.compile(
            kernel.function,
            types.void(*kernel.signature),
            cc=architecture,
            device=False,
            abi="numba",
            output="ptx",
            launch_bounds=(kernel.threads, kernel.least_blocks),
            lineinfo=lines,
        )
    if kernel.most_registers:  # which Numba says to the linker alone, and that does not listen beside launch bounds
        ptx = ptx.replace(f".minnctapersm {kernel.least_blocks}", f".maxnreg {kernel.most_registers}")
    return ptx


def link(ptx: str, architecture: Architecture) -> bytes:
    """The cubin of a PTX module, by nvJitLink: the driver's own compiler may be older than NVVM's PTX."""
    from cuda.bindings import nvjitlink

    text = ptx.encode()
    handle = nvjitlink.create(1, [f"-arch=sm_{architecture[0]}{architecture[1]}"])
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), "kernel")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        return bytes(cubin)
    finally:
        nvjitlink.destroy(handle)


_compiling = threading.RLock()


@contextlib.contextmanager
def _as_if_on(architecture: Architecture) -> Iterator[None]:
    """Numba asks the current device what to compile device functions for: answer for it, device or not.

    And numba-cuda 0.30 names numpy.row_stack, which NumPy 2.5 has no more, when it lowers its first function.
    """
    from numba.cuda import dispatcher

    answer = SimpleNamespace(compute_capability=architecture, id=0)
    with _compiling:
        theirs, dispatcher.get_current_device = dispatcher.get_current_device, lambda: answer
        borrowed = not hasattr(np, "row_stack")
        if borrowed:
            np.row_stack = np.vstack
        try:
            yield
        finally:
            dispatcher.get_current_device = theirs
            if borrowed:
                del np.row_stack


@cache
def is_numba_cuda() -> bool:
    """Whether numba.cuda is NVIDIA's numba-cuda; Numba's own old target stands in for it where that is missing."""
    return getattr(cuda, "implementation", "") == "NVIDIA" or SIMULATED


def require_numba_cuda() -> None:
    """Raise UnsupportedError where kernels have nothing that compiles them."""
    if not is_numba_cuda():
        found = "numba.cuda is Numba's built-in target, and NVIDIA's numba-cuda is needed"
        raise UnsupportedError(f"{found}: pip install 'numba_fftconv[cu13]'")
