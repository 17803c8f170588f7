"""The device functions as they are compiled: machine code, interpreted PTX, bad arguments, what an import brings."""

import subprocess
import sys
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import pytest
from machine_code import compiles, reads_code, report
from numba import complex64, cuda, types

from numba_fftconv import InvalidOptionError
from numba_fftconv.cuda.toolchain import Kernel, is_numba_cuda

if is_numba_cuda():
    import device_examples

    from numba_fftconv import device
    from numba_fftconv.cuda import ptx_machine

TAKES = {"conv_bias_gelu": (4, 4, 1, 4, types.int64), "power_spectrum": (4, 3, types.float32)}  # axes of arrays


def compilable(kernel: Any, takes: tuple[Any, ...], threads: int, shared_bytes: int) -> Kernel:
    """A kernel of cuda.jit on contiguous arrays of float32 of so many axes, and numbers."""
    signature = tuple(types.Array(types.float32, kind, "C") if isinstance(kind, int) else kind for kind in takes)
    return Kernel(kernel.py_func.__name__, kernel.py_func, signature, threads, shared_bytes)


@cache
def example(name: str) -> Kernel:
    tile = device_examples.tile
    return compilable(getattr(device_examples, name), TAKES[name], tile.threads, tile.shared_bytes)


def round_trip(T: int, B: int) -> Kernel:
    tile = device.make_tile(T, B)
    load, rfft2, irfft2, store = tile.load, tile.rfft2, tile.irfft2, tile.store

    @cuda.jit
    def round_trip(x: Any, y: Any) -> None:
        z = cuda.local.array(T, complex64)
        load(z, x, (0, 0), (0, 1), (0, 0))
        rfft2(z)
        irfft2(z)
        store(z, y, (0, 0), (0, 1), (0, 0), (T, T))

    return compilable(round_trip, (4, 4), tile.threads, tile.shared_bytes)


def convolution(T: int, B: int) -> Kernel:
    """The kernel in the docstring of the module."""
    tile = device.make_tile(T, B)
    load, rfft2, multiply, irfft2, store = tile.load, tile.rfft2, tile.multiply, tile.irfft2, tile.store

    @cuda.jit
    def convolution(x: Any, w: Any, y: Any) -> None:
        z = cuda.local.array(T, complex64)
        f = cuda.local.array(T, complex64)
        n, c = cuda.blockIdx.y, cuda.blockIdx.x * B
        load(z, x, (n, c), (0, 1), (0, 0))
        rfft2(z)
        load(f, w, (0, c), (0, 1), (0, 0))
        rfft2(f)
        multiply(z, z, f)
        irfft2(z)
        store(z, y, (n, c), (0, 1), (0, 0), (T, T))

    return compilable(convolution, (4, 4, 4), tile.threads, tile.shared_bytes)


@compiles
@reads_code
@pytest.mark.parametrize(
    "make, arguments, barriers",
    [
        (example, ("conv_bias_gelu",), 6),
        (example, ("power_spectrum",), 3),
        (round_trip, (2, 4), 4),
        (round_trip, (32, 8), 4),
        (round_trip, (64, 2), 4),
        (convolution, (14, 8), 6),
        (convolution, (48, 4), 6),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_code_is_inlined_and_stays_in_registers(make: Any, arguments: Any, barriers: int) -> None:
    """Functions are inlined, columns stay in registers, nothing is float64, shared memory moves 64 bits at once."""
    found = report(make(*arguments))
    assert (found.stack, found.local, found.count("LDL|STL")) == (0, 0, 0), "an array left the registers"
    assert found.count("CALL") == 0
    assert found.count(r"D(ADD|MUL|FMA|SETP|MNMX)|F2F.*F64|I2F.*F64") == 0, "float64"
    assert found.count("BAR") == barriers, "two in each transform, and the kernel's own"
    assert found.count(r"(LD|ST)\.") == 0, "an access whose memory space the compiler did not see"
    assert found.count(r"LDS\.(64|128)") == found.count("LDS") and found.count(r"STS\.(64|128)") == found.count("STS")


# ---- run -------------------------------------------------------------------------------------------------------------


def flat(argument: Any) -> Any:
    """An array as a compiled kernel takes it: two pointers of its owner, sizes, data, shape and strides."""
    if not isinstance(argument, np.ndarray):
        return argument
    return (None, None, argument.size, argument.itemsize, argument, *argument.shape, *argument.strides)


def launch(kernel: Any, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
    ptx_machine.run(example(kernel.py_func.__name__), grid, tuple(flat(argument) for argument in arguments))


@compiles
@pytest.mark.parametrize("N, C, K, plane, taps", [(1, 1, 3, (16, 12), (1, 1)), (2, 9, 9, (13, 17), (4, 3))])
def test_conv_bias_gelu(N: int, C: int, K: int, plane: tuple[int, int], taps: tuple[int, int]) -> None:
    device_examples.check_conv_bias_gelu(launch, N, C, K, plane, taps)


@compiles
def test_power_spectrum() -> None:
    device_examples.check_power_spectrum(launch, 2, 11, (15, 9))


# ---- arguments and imports -------------------------------------------------------------------------------------------


@compiles
@pytest.mark.parametrize(
    "fft_size, planes, message",
    [
        (22, 4, "fft_size is 22: it must be an even product of 2, 3, 5, 7 up to 64; the nearest is 20"),
        (15, 4, "fft_size is 15: .* the nearest is 14"),
        (128, 4, "fft_size is 128: .* the nearest is 64"),
        (0, 4, "fft_size is 0: .* the nearest is 2"),
        ("16", 4, "fft_size is '16': '16' is not an integer"),
        (16.0, 4, "fft_size is 16.0: 16.0 is not an integer"),
        (16, 3, "planes is 3: it must be a positive even int up to 32, .* the nearest is 2"),
        (16, 0, "planes is 0: .* the nearest is 2"),
        (16, -4, "planes is -4: .* the nearest is 2"),
        (16, 34, "planes is 34: .* the nearest is 32"),
        (64, 4, "planes is 4: .* up to 2, which is what a block holds at fft_size 64; the nearest is 2"),
        (16, True, "planes is True: True is not an integer"),
        (16, None, "planes is None: None is not an integer, and it must be a positive even int"),
    ],
)
def test_arguments_that_do_not_work(fft_size: Any, planes: Any, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        device.make_tile(fft_size, planes)
    if message.startswith("fft_size"):
        with pytest.raises(InvalidOptionError, match=message):
            device.make_fft(fft_size)


@compiles
def test_what_an_error_proposes_works() -> None:
    for T in device.CODELET_SIZES:
        with pytest.raises(InvalidOptionError) as caught:
            device.make_tile(T, 10**6)
        tile = device.make_tile(T, int(str(caught.value).rpartition(" ")[2]))
        assert tile.threads == T * tile.planes // 2 <= 256 and tile.shared_bytes <= 48 * 1024
        assert tile is device.make_tile(np.int64(T), tile.planes)


@compiles
def test_every_device_function_has_its_contract() -> None:
    """In its docstring, where help() shows it."""
    tile = device.make_tile(8, 2)
    functions = [f.name for f in fields(tile) if f.type is Any or f.type == "Any"]
    assert len(functions) == 11
    for name in functions:
        text = " ".join((getattr(tile, name).__doc__ or "").split())
        for term in ("Called by", "Barriers", "hared memory", "" if name.endswith("place") else "Layout: "):
            assert term in text, f"{name} does not say: {term}"


def in_a_new_process(script: str, *options: str) -> str:
    command = [sys.executable, *options, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{script}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.strip()


def test_the_package_does_not_import_it() -> None:
    """It takes numba.cuda, which takes half a second."""
    loaded = in_a_new_process("import numba_fftconv; print('numba_fftconv.device' in sys.modules)")
    assert loaded == "False"


def test_numbas_own_cuda_target_is_refused() -> None:
    """Without site, Python does not see what puts numba-cuda in place of it."""
    script = """
import numba_fftconv
try:
    import numba_fftconv.device
except numba_fftconv.UnsupportedError as error:
    print(error)
"""
    said = in_a_new_process(script, "-S")
    assert "NVIDIA's numba-cuda is needed" in said and "pip install 'numba_fftconv[cu13]'" in said
