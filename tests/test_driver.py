"""Devices, streams and launches on the driver of fake_driver.py, which runs the kernels as they are compiled."""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import product_problem
import pytest
import transform_problem
from fake_driver import Event, FakeDriver, fixture_of_fake_driver  # noqa: F401
from machine_code import compiles
from numba import cuda, types, uint32, uint64

from numba_fftconv.cuda import driver, fft2d, toolchain
from numba_fftconv.cuda.driver import At, Device, Launch
from numba_fftconv.cuda.tiles import TILES
from numba_fftconv.cuda.toolchain import Kernel, namedtuple_type
from numba_fftconv.errors import (
    CudaError,
    DeviceMismatchError,
    InvalidOptionError,
    InvalidTypeError,
    UnsupportedError,
)
from numba_fftconv.geometry import PlaneMap

pytestmark = compiles


# ---- a small kernel with every type of argument


class Pair(NamedTuple):
    small: int
    large: int


def _echo(gy: Any, gz: Any, a: Any, b: Any, pair: Any, c: Any, d: Any) -> None:
    """Writes down its arguments; nothing through the second pointer, unless d is positive."""
    gy[uint64(0)] = types.int64(a)
    gy[uint64(1)] = types.int64(uint32(b))
    gy[uint64(2)] = pair.small
    gy[uint64(3)] = pair.large
    gy[uint64(4)] = c
    if d > types.float32(0):
        gz[uint64(0)] = d


INTEGERS = types.CPointer(types.int64)
REALS = types.CPointer(types.float32)
ECHO = Kernel(
    "echo",
    _echo,
    (INTEGERS, REALS, types.int32, types.uint32, namedtuple_type(Pair, types.int64), types.int64, types.float32),
    32,
    0,
)
NUMBERS = (-5, 2**32 - 2, Pair(-(2**40), 2**62), -(2**63), 0.1)


def echo(gy: At = At("y"), gz: At | None = At("z"), numbers: tuple[Any, ...] = NUMBERS, index: int = 0) -> Launch:  # noqa: B008
    return Launch(ECHO, (1, 1, 1), (gy, gz, *numbers), driver.device(index))


def addresses(**arrays: np.ndarray) -> dict[str, int]:
    return {name: array.ctypes.data for name, array in arrays.items()}


def run(fake: FakeDriver, kernel: Kernel, grid: tuple[int, int, int], arguments: tuple[Any, ...], stream: int) -> None:
    """Launch on device 1: arrays are named by their position; a transform_problem.Pointer points into its array."""
    found: dict[str, int] = {}
    packed: list[Any] = []
    for position, argument in enumerate(arguments):
        if isinstance(argument, np.ndarray | transform_problem.Pointer):
            base, view = (argument, argument) if isinstance(argument, np.ndarray) else argument
            fake.register(base, 1)
            found[f"array {position}"] = base.ctypes.data
            packed.append(At(f"array {position}", view.ctypes.data - base.ctypes.data))
        else:
            packed.append(argument)
    launch = Launch(kernel, grid, packed, driver.device(1))
    with driver.on(1):
        launch.launch(stream, found)


@pytest.fixture
def launch(fake_driver: FakeDriver) -> Callable[[Kernel, tuple[int, int, int], tuple[Any, ...]], None]:
    return lambda kernel, grid, arguments: run(fake_driver, kernel, grid, arguments, fake_driver.stream(1))


# ---- launches


def test_every_type_of_argument_arrives(fake_driver: FakeDriver) -> None:
    y, z = fake_driver.empty(5, np.int64), fake_driver.empty(1)
    with driver.on(0):
        echo().launch(0, addresses(y=y, z=z))
    assert y.tolist() == [-5, 2**32 - 2, -(2**40), 2**62, -(2**63)]
    assert z[0] == np.float32(0.1)


def test_a_launch_can_be_made_again_elsewhere(fake_driver: FakeDriver) -> None:
    """With other arrays, at an offset, in another stream: one call of the driver each."""
    first, second = fake_driver.empty(16, np.int64), fake_driver.empty(16, np.int64)
    ready, streams = echo(At("y", 24), None, (*NUMBERS[:-1], -1.0)), [fake_driver.stream(), 2]
    with driver.on(0):
        for y, stream in zip((first, second), streams, strict=True):
            ready.launch(stream, addresses(y=y))
    for y in (first, second):
        assert y[3:8].tolist() == [-5, 2**32 - 2, -(2**40), 2**62, -(2**63)]
        assert (np.delete(y, range(3, 8)) == -1).all(), "wrote elsewhere"
    assert [event.details[1:] for event in fake_driver.log] == [((1, 1, 1), stream) for stream in streams]
    assert "echo" in fake_driver.launches()[0].details[0]


def test_a_kernel_is_loaded_once_a_device(fake_driver: FakeDriver) -> None:
    for index in (0, 0, 1, 1):
        echo(index=index)
    assert len(fake_driver.libraries) == len(fake_driver.kernels) == 2


@pytest.mark.parametrize(
    "numbers",
    [
        (2**31, *NUMBERS[1:]),
        (0.5, *NUMBERS[1:]),
        (0, -1, *NUMBERS[2:]),
        (0, np.int64(-1), *NUMBERS[2:]),
        (0, 0, Pair(2**63, 0), 0, 0.0),
    ],
)
def test_a_number_that_does_not_fit_is_not_cut(fake_driver: FakeDriver, numbers: tuple[Any, ...]) -> None:
    with pytest.raises((OverflowError, TypeError)):
        echo(numbers=numbers)


MAP = PlaneMap(4, 6, 1, 0, 6, 2)
PROBLEMS = [
    transform_problem.Problem((8, 8), 4, N=2, C=3, height=8, width=7),
    transform_problem.Problem(
        (8, 8),
        4,
        N=2,
        C=1,
        height=13,
        width=12,
        rows=PlaneMap(-3, 5, 1, 2, 7, 3),
        columns=MAP,
        steps=(1, 2, -3, -2),
        first=2,
    ),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=["plain", "backwards"])
def test_transform_and_inverse(problem: transform_problem.Problem, launch: transform_problem.Launch) -> None:
    transform_problem.check_transform(problem, launch)
    transform_problem.check_inverse(problem, launch, has_bias=True)
    transform_problem.check_inverse(problem, launch)


@pytest.mark.parametrize("pass_name", product_problem.EQUATIONS)
def test_product(pass_name: str, launch: product_problem.Launch) -> None:
    problem = product_problem.Problem(pass_name, 5, 3, 9, bins=2, groups=2, gap=3)
    product_problem.check_product(launch, problem, TILES[5])


# ---- shared memory and grids


def test_much_shared_memory_is_asked_for(launch: transform_problem.Launch, fake_driver: FakeDriver) -> None:
    problem = transform_problem.Problem((32, 32), 16, N=1, C=3, height=31, width=32)
    assert fft2d.shared_bytes((32, 32), 16) > 48 * 1024
    transform_problem.check_transform(problem, launch)


def test_the_fake_refuses_what_was_not_asked_for(
    launch: transform_problem.Launch, fake_driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of the test above."""
    monkeypatch.setattr(driver, "UNASKED_SHARED_BYTES", 1 << 20)
    with pytest.raises(CudaError, match=r"launch of transform_t32_b16: CUDA_ERROR_INVALID_VALUE \(1\)"):
        transform_problem.check_transform(transform_problem.Problem((32, 32), 16, height=8, width=8), launch)


def test_more_shared_memory_than_there_is(fake_driver: FakeDriver) -> None:
    fake_driver.shared_bytes = 49152
    kernel = fft2d.transform_kernel((32, 32), 16)
    pattern = rf"transform_t32_b16 needs {kernel.shared_bytes} bytes .* device 1 \(Fake GPU 1\) has 49152"
    with pytest.raises(UnsupportedError, match=pattern):
        Launch(kernel, (1, 1, 1), (), driver.device(1))


@pytest.mark.parametrize("grid", [(2**31, 1, 1), (1, 65536, 1), (1, 1, 65536)])
def test_more_blocks_than_cuda_launches(fake_driver: FakeDriver, grid: tuple[int, int, int]) -> None:
    with pytest.raises(UnsupportedError, match=rf"echo on .*{max(grid)}.* at most \(2147483647, 65535, 65535\)"):
        Launch(ECHO, grid, (), driver.device(0))


# ---- launches that the driver refuses


def test_no_context_or_that_of_another_device(fake_driver: FakeDriver) -> None:
    ready, where = echo(), addresses(y=fake_driver.empty(5, np.int64), z=fake_driver.empty(1))
    with pytest.raises(CudaError, match="launch of echo: CUDA_ERROR_INVALID_CONTEXT"):
        ready.launch(0, where)
    with driver.on(1), pytest.raises(CudaError, match="CUDA_ERROR_INVALID_HANDLE"):
        ready.launch(fake_driver.stream(0), where)
    with driver.on(1), pytest.raises(CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        ready.launch(0, where)


def test_pointers_that_lead_elsewhere(fake_driver: FakeDriver) -> None:
    ready, y, z = echo(), fake_driver.empty(5, np.int64), fake_driver.empty(1)
    with driver.on(0):
        for wrong in (np.empty(5, np.int64), fake_driver.empty(5, np.int64, device=1), y[1:]):
            with pytest.raises(CudaError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS \(700\), .* outside of the arrays"):
                ready.launch(0, addresses(y=wrong, z=z))
        with pytest.raises(CudaError, match="CUDA_ERROR_MISALIGNED_ADDRESS"):
            ready.launch(0, {"y": y.ctypes.data + 4, "z": z.ctypes.data})
        with pytest.raises(CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            echo(gz=None).launch(0, addresses(y=y))


# ---- devices


def test_what_a_device_is(fake_driver: FakeDriver) -> None:
    assert driver.count() == 2
    assert driver.device(1) == Device(1, "Fake GPU 1", (9, 0), 132, 232448)
    assert driver.device(1) is driver.device(1) and len({driver.device(0), driver.device(1)}) == 2


def test_an_index_that_no_device_has(fake_driver: FakeDriver) -> None:
    for index in (2, -1):
        with pytest.raises(InvalidOptionError, match=f"device {index}: this machine has 2 CUDA devices, 0 to 1"):
            driver.device(index)
    del fake_driver.architectures[1]
    with pytest.raises(InvalidOptionError, match="device 1: there is only device 0"):
        driver.device(1)


def test_a_device_that_is_too_old(fake_driver: FakeDriver) -> None:
    fake_driver.architectures[1] = (7, 5)
    assert driver.device(0).architecture == (9, 0)
    for ask in (driver.device, driver._context):
        with pytest.raises(UnsupportedError, match=r"device 1 \(Fake GPU 1\) is sm_75: .*cp.async.* sm_80"):
            ask(1)


def test_a_driver_that_is_too_old(fake_driver: FakeDriver) -> None:
    fake_driver.version = 12090
    with pytest.raises(UnsupportedError, match=r"for CUDA 12\.9; CUDA 13 is needed: install 580"):
        driver.count()


def test_a_driver_that_finds_no_device(fake_driver: FakeDriver) -> None:
    fake_driver.started = fake_driver.CUresult.CUDA_ERROR_NO_DEVICE
    with pytest.raises(UnsupportedError, match=r"CUDA_ERROR_NO_DEVICE: install one .* array in host memory"):
        driver.count()


def test_no_driver(fake_driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As cuda.bindings fails without libcuda; nothing of it is kept."""

    def no_library(flags: int) -> None:
        raise RuntimeError('"cuda" is an NVIDIA driver library and can only be found via system search.')

    monkeypatch.setattr(fake_driver, "cuInit", no_library, raising=False)
    with pytest.raises(UnsupportedError, match=r"no NVIDIA driver on this machine: install one .* host memory"):
        driver.count()
    monkeypatch.undo()
    monkeypatch.setattr(driver, "bindings", lambda: fake_driver)
    assert driver.count() == 2


@pytest.mark.skipif(cuda.is_available(), reason="this machine has a GPU")
def test_the_real_bindings_on_a_machine_without_a_gpu() -> None:
    with pytest.raises(UnsupportedError, match="no NVIDIA driver"):
        driver.count()


def test_no_bindings(fake_driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'cuda'")

    monkeypatch.setattr(driver, "bindings", missing)
    with pytest.raises(UnsupportedError, match=r"bindings .* missing: pip install 'numba_fftconv\[cu13\]'"):
        driver.count()


def test_the_built_in_target_of_numba(fake_driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "is_numba_cuda", lambda: False)
    with pytest.raises(UnsupportedError, match=r"built-in target.* pip install 'numba_fftconv\[cu13\]'"):
        driver.count()


# ---- contexts, pointers, streams


def test_on_makes_a_device_current_and_restores(fake_driver: FakeDriver) -> None:
    assert driver.current() == 0
    with driver.on(1):
        assert driver.current() == 1
        with driver.on(1):  # nothing is pushed where it is current
            assert len(fake_driver.contexts) == 1
        with pytest.raises(KeyError), driver.on(0):
            assert driver.current() == 0
            raise KeyError
        assert driver.current() == 1
    assert fake_driver.contexts == []


def test_each_thread_has_its_own_device(fake_driver: FakeDriver) -> None:
    seen = []
    with driver.on(1):
        thread = threading.Thread(target=lambda: seen.append(driver.current()))
        thread.start()
        thread.join()
    assert seen == [0]


def test_pointers_belong_to_a_device(fake_driver: FakeDriver) -> None:
    array = fake_driver.array(np.arange(6), device=1)
    pointer = array.__cuda_array_interface__["data"][0]
    assert driver.device_of(pointer) == driver.device_of(pointer + 47) == 1
    with pytest.raises(InvalidTypeError, match=f"{pointer + 48:#x} points into no memory of a CUDA device"):
        driver.device_of(pointer + 48)


def test_streams_belong_to_a_device(fake_driver: FakeDriver) -> None:
    mine, theirs = fake_driver.stream(0), fake_driver.stream(1)
    for stream in (0, 1, 2, mine):
        driver.check_stream(stream, 0)
    with pytest.raises(DeviceMismatchError, match=f"stream {theirs:#x} is of device 1, the arrays .* device 0: pass"):
        driver.check_stream(theirs, 0)


def test_a_stream_waits_for_another(fake_driver: FakeDriver) -> None:
    """By an event that is recorded before it is waited for, and not left behind."""
    stream, producer = fake_driver.stream(1), fake_driver.stream(1)
    driver.wait(stream, producer, 1)
    record, wait = fake_driver.log
    assert (record.what, wait.what) == ("record", "wait")
    assert record.details == (wait.details[1], producer) and wait.details[0] == stream
    assert not fake_driver.events and fake_driver.contexts == []
    driver.wait(stream, stream, 1)
    assert len(fake_driver.log) == 2


def test_a_wait_that_fails_leaves_no_event(fake_driver: FakeDriver) -> None:
    with pytest.raises(CudaError, match="cuEventRecord: CUDA_ERROR_INVALID_HANDLE"):
        driver.wait(0, fake_driver.stream(1), 0)
    assert not fake_driver.events


def test_a_clock_times_what_lies_between_its_marks(fake_driver: FakeDriver) -> None:
    """In seconds, of which the double gives a thousandth to each launch; no event is left behind."""
    with driver.on(0), driver.Clock(0) as clock:
        clock.mark()
        fake_driver.log.append(Event("launch", ("kernel", (1, 1, 1), 0)))
        clock.mark()
    assert clock.seconds == [0.0, 1e-3] and not fake_driver.events
    with pytest.raises(ZeroDivisionError), driver.on(0), driver.Clock(0):
        print(1 / 0)
    assert not fake_driver.events
