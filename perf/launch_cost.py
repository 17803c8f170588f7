"""What the host does in a call on a GPU: Python's microseconds, and the seconds that the first layer compiles.

It runs where there is no GPU. A driver that does nothing stands in for the real one, so the figures are those of our
own code: a real driver adds to each launch what it takes itself. Arrays are stand-ins as well: CPU tensors of torch
that say they are on a GPU, and objects with nothing but the CUDA array interface. The best of many short batches is
what the code takes; the median tells how busy the machine is.

    python perf/launch_cost.py           microseconds a call, and what a bound forward spends them on
    python perf/launch_cost.py --cold    kernels that the first layer compiles, into a cache that is empty
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from cuda.bindings import driver as api
from layers import Layer, select

from numba_fftconv import ConvPlan, conv2d, plan_conv2d
from numba_fftconv.cuda import arrays, cubins, driver, engine, repeat

LAYER, OTHER = select(["speed/k5"])[0], select(["speed/k9"])[0]
T = 32
LIMITS = {"bound forward": 40e-6, "cold": 10.0}  # seconds
BATCHES, CALLS = 400, 20
ATTRIBUTES = {"MAJOR": 9, "MINOR": 0, "OPTIN": 232448, "COUNT": 132}  # of an H100, by the last word of their names
Call = Callable[[], Any]


class IdleDriver:
    """The functions of the driver API that the package calls: each succeeds at once."""

    results: ClassVar[dict[str, tuple[Any, ...]]] = {
        "cuDriverGetVersion": (13000,),
        "cuDeviceGetCount": (1,),
        "cuDeviceGet": (api.CUdevice(0),),
        "cuDeviceGetName": (b"no GPU\0",),
        "cuDevicePrimaryCtxRetain": (api.CUcontext(1),),
        "cuCtxGetCurrent": (api.CUcontext(1),),
        "cuCtxGetDevice": (api.CUdevice(0),),
        "cuPointerGetAttribute": (0,),
        "cuLibraryLoadData": (api.CUlibrary(1),),
        "cuLibraryGetKernel": (api.CUkernel(1),),
        "cuInit": (),
        "cuKernelSetAttribute": (),
        "cuLaunchKernel": (),
    }

    def __init__(self) -> None:
        for name, results in self.results.items():
            answer = (api.CUresult.CUDA_SUCCESS, *results)
            setattr(self, name, lambda *arguments, answer=answer: answer)

    def __getattr__(self, name: str) -> Any:
        return getattr(api, name)

    def cuDeviceGetAttribute(self, word: Any, device: Any) -> tuple[Any, int]:
        return api.CUresult.CUDA_SUCCESS, ATTRIBUTES[word.name.rpartition("_")[2]]


# ---- arrays that say they are on a GPU -------------------------------------------------------------------------------


FIRST_GPU = torch.device("cuda", 0)


class Tensor(torch.Tensor):
    """A tensor of the CPU that says it is on a GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    is_cuda = property(lambda self: True)
    device = property(lambda self: FIRST_GPU)


class Described:
    """An array that has nothing but the CUDA array interface."""

    def __init__(self, host: np.ndarray) -> None:
        self.host = host
        shown = {"shape": host.shape, "typestr": host.dtype.str, "data": (host.ctypes.data, False)}
        self.__cuda_array_interface__ = {**shown, "strides": None, "version": 3, "stream": None}


def tensor(shape: tuple[int, ...], dtype: str = "float32", *where: int) -> Tensor:
    return torch.empty(shape, dtype=getattr(torch, dtype)).as_subclass(Tensor)


def described(shape: tuple[int, ...], dtype: str = "float32", *where: int) -> Described:
    return Described(np.empty(shape, dtype))


LIBRARIES = {"torch": tensor, "CUDA array interface": described}


def stand_in() -> None:
    """Puts the driver and the libraries of stand-ins in their places."""
    idle = IdleDriver()
    driver.bindings = lambda: idle
    arrays.TORCH = arrays.Library(lambda index: 0, tensor)
    arrays.NUMBA = arrays.Library(lambda index: 0, described)


# ---- calls -----------------------------------------------------------------------------------------------------------


def calls(layer: Layer, plan: ConvPlan, empty: Callable[..., Any]) -> dict[str, Call]:
    """What is timed, on arrays of one library."""
    x, w, dy = (empty(shape) for shape in (layer.input_shape, layer.weight_shape, layer.output_shape))
    y, dx, dw = (empty(shape) for shape in (layer.output_shape, layer.input_shape, layer.weight_shape))
    space = empty((plan.workspace_size,), "uint8")
    return {
        "bound forward": lambda: plan.forward(x, w, out=y, workspace=space),
        "bound input_grad": lambda: plan.input_grad(dy, w, out=dx, workspace=space),
        "bound weight_grad": lambda: plan.weight_grad(x, dy, out=dw, workspace=space),
        "forward": lambda: plan.forward(x, w),
        "input_grad": lambda: plan.input_grad(dy, w),
        "weight_grad": lambda: plan.weight_grad(x, dy),
        "backward": lambda: plan.backward(dy, x, w),
        "conv2d, no plan": lambda: conv2d(x, w, **layer.options),
    }


def seconds(call: Call) -> tuple[float, float]:
    """Of a call: the best of all batches, and their median."""
    call()
    times = []
    for _ in range(BATCHES):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        times.append((time.perf_counter() - start) / CALLS)
    return min(times), statistics.median(times)


class Split:
    """Seconds of a call by its parts: each part without the parts that it calls."""

    parts: ClassVar[tuple[tuple[str, Any, str], ...]] = (
        ("looking at arrays", repeat, "_look_at"),
        ("addresses", repeat.Repeat, "_in_order"),
        ("launches", engine.Program, "launch"),
        ("the rest", ConvPlan, "forward"),
    )

    def __init__(self) -> None:
        self.spent = {part: 0.0 for part, _, _ in self.parts}
        self.inner = [0.0]  # seconds of the parts that the present one has called

    @contextmanager
    def watching(self) -> Iterator[None]:
        kept = [(place, name, getattr(place, name)) for _, place, name in self.parts]
        for (part, place, name), (_, _, function) in zip(self.parts, kept, strict=True):
            setattr(place, name, self.timed(part, function))
        try:
            yield
        finally:
            for place, name, function in kept:
                setattr(place, name, function)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            self.inner.append(0.0)
            start = time.perf_counter()
            result = function(*arguments, **keywords)
            whole = time.perf_counter() - start
            self.spent[part] += whole - self.inner.pop()
            self.inner[-1] += whole
            return result

        return run


def split(call: Call) -> dict[str, float]:
    """Of the batch of calls that took least: seconds of a call by part."""
    best: dict[str, float] = {}
    for _ in range(BATCHES):
        watch = Split()
        with watch.watching():
            for _ in range(CALLS):
                call()
        if not best or sum(watch.spent.values()) < sum(best.values()):
            best = watch.spent
    return {part: spent / CALLS for part, spent in best.items()}


# ---- reports ---------------------------------------------------------------------------------------------------------


def plan_of(layer: Layer) -> ConvPlan:
    return plan_conv2d(layer.input_shape, layer.weight_shape, **layer.options, fft_size=T, device="cuda")


def report_calls() -> bool:
    """Microseconds of all calls; whether a bound forward is within its limit."""
    met, plan = True, plan_of(LAYER)
    for library, empty in LIBRARIES.items():
        offered = calls(LAYER, plan, empty)
        print(f"{LAYER.problem}, T = {T}, arrays of {library}: microseconds a call, best and median")
        for name, call in offered.items():
            best, median = seconds(call)
            print(f"    {name:24}{best * 1e6:8.1f}{median * 1e6:8.1f}")
            met &= best <= LIMITS.get(name, best)
        print("  of a bound forward, with what it takes to measure them")
        for part, spent in split(offered["bound forward"]).items():
            print(f"    {part:24}{spent * 1e6:8.1f}")
    return met


def report_cold() -> bool:
    """Seconds of the kernels that each call compiles; whether the first is within its limit, and the next free."""
    built: list[tuple[str, float]] = []
    build = cubins.build

    def timed(kernel: Any, architecture: Any) -> Any:
        start = time.perf_counter()
        made = build(kernel, architecture)
        built.append((kernel.name, time.perf_counter() - start))
        return made

    cubins.build = timed
    first, other = (calls(layer, plan_of(layer), tensor) for layer in (LAYER, OTHER))
    spent = {}
    for name, call in {
        f"first forward, {LAYER.problem}": first["bound forward"],
        f"forward of another layer, {OTHER.problem}": other["bound forward"],
        "first input_grad": first["bound input_grad"],
        "first weight_grad": first["bound weight_grad"],
        "first backward": first["backward"],
    }.items():
        built.clear()
        start = time.perf_counter()
        call()
        spent[name] = time.perf_counter() - start
        print(f"{name}: {spent[name]:.2f} s")
        for kernel, took in built:
            print(f"    {kernel:44}{took:6.2f} s")
    first_seconds, other_seconds = list(spent.values())[:2]
    return first_seconds <= LIMITS["cold"] and other_seconds <= LIMITS["cold"] / 100


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cold", action="store_true", help="what the first layer compiles, and for how long")
    arguments = parser.parse_args()
    stand_in()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.cold:
            os.environ["XDG_CACHE_HOME"] = folder
        met = report_cold() if arguments.cold else report_calls()
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
