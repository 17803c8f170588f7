"""What a GPU or a kernel cannot do: less of it is used, or the call is refused before anything is launched.

Arrays of billions of samples are addresses alone (fake_libraries.py), or lie in files with holes.
"""

import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numba
import numpy as np
import pytest
from fake_driver import DeviceArray, fixture_of_fake_driver  # noqa: F401
from fake_libraries import Gpu, fixture_of_gpu  # noqa: F401
from machine_code import compiles
from strategies import Problem

from numba_fftconv import InvalidOptionError, UnsupportedError, clear_cache, conv2d, conv2d_backward, plan_conv2d
from numba_fftconv.cuda import cubins, driver, engine, fft2d, schedule
from numba_fftconv.cuda.engine import Lie
from numba_fftconv.cuda.planes import Planes, Strides
from numba_fftconv.cuda.schedule import MOST_WINDOWS, Multiply, Schedule, Spectrum, Transform, Work
from numba_fftconv.geometry import PlaneMap
from numba_fftconv.gpus import GRID_LIMIT

pytestmark = compiles

SMALL = Problem(1, 2, 6, 5, 2, 2, 2, groups=2, fft_size=8)


def on_gpu(gpu: Gpu, problem: Problem) -> tuple[DeviceArray, DeviceArray]:
    x, w, _ = problem.arrays()
    return gpu.array(x), gpu.array(w)


def is_right(got: Any, problem: Problem) -> bool:
    return bool(np.allclose(got.host, problem.expected(problem.arrays())["forward"], atol=1e-5))


# ---- devices


def test_a_device_that_is_too_old(gpu: Gpu) -> None:
    gpu.driver.architectures[0] = (7, 5)
    x, w = on_gpu(gpu, SMALL)
    for ask in (lambda: conv2d(x, w, groups=2), lambda: SMALL.plan(device="cuda")):
        with pytest.raises(UnsupportedError, match=r"device 0 \(Fake GPU 0\) is sm_75: .* sm_80"):
            ask()
    assert SMALL.plan(device="cuda:1").device == "cuda:1"


def test_a_device_that_is_not_there(gpu: Gpu) -> None:
    with pytest.raises(InvalidOptionError, match="device 2: this machine has 2 CUDA devices, 0 to 1"):
        SMALL.plan(device="cuda:2")


@pytest.mark.parametrize(("T", "shared_bytes", "B"), [(8, 232448, 32), (8, 6000, 16), (64, 232448, 4), (64, 49152, 2)])
def test_less_shared_memory_takes_fewer_planes_a_block(T: int, shared_bytes: int, B: int, gpu: Gpu) -> None:
    gpu.driver.shared_bytes = shared_bytes
    device = driver.device(0)
    step = Transform("input", "x", 0, Spectrum("workspace", 0, (T, T), 8, 3))
    lie = Lie.of(np.empty((8, 3, T, T), np.float32))
    (call,) = engine.calls([step], {"x": (PlaneMap(0, 0, 1, 0, T, 1),) * 2}, {"input": lie}, False, device)
    assert call.kernel.shared_bytes == fft2d.shared_bytes((T, T), B) <= shared_bytes
    assert call.grid == (-(-24 // B), 1, 1)


def test_little_shared_memory(gpu: Gpu) -> None:
    """Fewer planes a block are as right; where not even two fit, nothing is launched."""
    (x, w), want = on_gpu(gpu, SMALL), fft2d.shared_bytes((8, 8), 16)
    gpu.driver.shared_bytes = want
    plan = SMALL.plan(device="cuda")
    assert is_right(plan.forward(x, w), SMALL)
    gpu.driver.log.clear()
    gpu.driver.shared_bytes = fft2d.shared_bytes((8, 8), 2) - 1
    driver.device.cache_clear()
    clear_cache()
    plan = SMALL.plan(device="cuda")
    with pytest.raises(
        UnsupportedError, match=rf"transform_t8_b2\w* needs {fft2d.shared_bytes((8, 8), 2)} bytes of shared"
    ):
        plan.forward(x, w)
    assert gpu.driver.log == []


def test_numpy_too_new_is_refused_by_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its import, so that there is nothing to refuse here."""
    monkeypatch.setattr(np, "__version__", "2.6.0")
    with pytest.raises(ImportError, match=r"NumPy 2\.5 or less\. Got NumPy 2\.6"):
        numba._ensure_critical_deps()


def test_numpy_without_row_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """As NumPy 2.5 is: what numba-cuda asks for is lent to it."""
    if hasattr(np, "row_stack"):
        monkeypatch.delattr(np, "row_stack")
    made = cubins.build(fft2d.transform_kernel((4, 4), 2), (9, 0))
    assert made.cubin.startswith(b"\x7fELF") and not hasattr(np, "row_stack")


# ---- grids


def products(step: Multiply, gpu: Gpu) -> list[engine.Call]:
    return list(engine.calls([step], {}, {}, False, driver.device(0)))


def test_more_bins_and_groups_than_a_grid_has_are_several_launches(gpu: Gpu) -> None:
    """T = 4 has ten bins; each launch begins where the one before it ended, in all three spectra."""
    groups = 20_000
    x, w, y = (Spectrum(name, 0, (4, 4), rows, groups * 2) for name, rows in (("x", 3), ("w", 2), ("y", 3)))
    made = products(Multiply("forward", x, w, y, 3, 2, 2, groups), gpu)
    assert [call.grid[2] // groups for call in made] == [3, 3, 3, 1]
    for place, spectrum in enumerate((x, w, y)):
        assert [call.arguments[place].offset for call in made] == [8 * bin * spectrum.pitch for bin in (0, 3, 6, 9)]


def test_more_groups_than_a_grid_has(gpu: Gpu) -> None:
    with pytest.raises(UnsupportedError, match=r"70,000 groups of 2 channels: .* at most 65,535, and any number"):
        plan_conv2d((1, 140_000, 4, 4), (70_000, 2, 1, 1), groups=70_000, device="cuda")
    with pytest.raises(UnsupportedError, match="70,000 groups"):
        conv2d(gpu.addresses((1, 140_000, 4, 4)), gpu.addresses((70_000, 2, 1, 1)), groups=70_000)
    assert plan_conv2d((1, 70_000, 4, 4), (70_000, 1, 1, 1), groups=70_000, device="cuda").fft_size


def test_more_filters_than_a_grid_has(gpu: Gpu) -> None:
    """The product of the weight's gradient has a row a filter."""
    plan = plan_conv2d((1, 2, 3, 3), (9_000_000, 2, 2, 2), fft_size=4, device="cuda")
    dy, x, out = (gpu.addresses(plan.geometry.shapes[name]) for name in ("grad_output", "input", "weight"))
    space = gpu.addresses((plan.workspace_size,), "uint8")
    with pytest.raises(UnsupportedError, match=f"9000000 rows are .* at most {GRID_LIMIT}"):
        plan.weight_grad(x, dy, out=out, workspace=space)
    assert gpu.driver.log == []


def test_the_largest_chunk_fits_a_grid_of_the_smallest_tiles() -> None:
    chunk = next(schedule.schedules(Work("forward", (4, 4), 2**33, 1, 1, 1))).chunk
    assert chunk == MOST_WINDOWS and chunk % 2 == 0 and chunk // 16 <= GRID_LIMIT


# ---- counts


@pytest.mark.parametrize(
    ("input_shape", "weight_shape", "options", "words"),
    [
        ((1, 1, 2**31, 1), (1, 1, 1, 1), {}, r"input of shape \(1, 1, 2147483648, 1\)"),
        ((1, 1, 1, 2**31), (1, 1, 1, 1), {}, r"input of shape \(1, 1, 1, 2147483648\)"),
        ((1, 1, 4, 4), (1, 1, 1, 1), {"padding": ((0, 0), (2**31, 0)), "stride": (1, 2**31)}, "2,147,483"),
        ((1, 1, 4, 4), (1, 1, 1, 1), {"stride": 2**33}, r"output of shape \(1, 1, 1, 1\)"),
    ],
    ids=["rows", "columns", "padding", "stride"],
)
def test_an_axis_of_too_many_positions(
    input_shape: tuple[int, ...], weight_shape: tuple[int, ...], options: dict[str, Any], words: str, gpu: Gpu
) -> None:
    plan = plan_conv2d(input_shape, weight_shape, **options, fft_size=8, workspace_limit=10**8, device="cuda")
    x, w, y = (gpu.addresses(plan.geometry.shapes[name]) for name in ("input", "weight", "output"))
    with pytest.raises(UnsupportedError, match=f"{words}.*less than 2,147,483,648 on a GPU"):
        plan.forward(x, w, out=y, workspace=gpu.addresses((plan.workspace_size,), "uint8"))
    assert gpu.driver.log == []


def transform_of(windows: Iterable[int], axis: PlaneMap, lie: Lie) -> Iterator[engine.Call]:
    first, rows = windows
    step = Transform("input", "x", first, Spectrum("workspace", 0, (4, 4), rows, 1))
    return engine.calls([step], {"x": (axis, axis)}, {"input": lie}, False, driver.device(0))


def test_the_longest_axis_and_the_last_window(gpu: Gpu) -> None:
    """One more of either is too many."""
    lie, one = Lie((1, 1, 2**31 - 8, 1), (0, 0, 1, 1)), PlaneMap(0, 0, 1, 0, 4, 1)
    list(transform_of((0, 2), one, lie))
    with pytest.raises(UnsupportedError, match="an axis of 2,147,483,648 positions"):
        list(transform_of((0, 2), PlaneMap(-1, 0, 1, 0, 4, 1), lie))
    list(transform_of((2**32 - 2, 2), one, Lie((2**32, 1, 4, 4), (16, 16, 4, 1))))
    with pytest.raises(UnsupportedError, match=r"4,294,967,297 windows of \(4, 4\): .* plan it with a larger fft_size"):
        list(transform_of((2**32 - 1, 2), one, Lie((2**32 + 1, 1, 4, 4), (16, 16, 4, 1))))


def test_an_array_of_billions_of_samples(gpu: Gpu) -> None:
    """Every image is transformed once, in chunks, and strides are as long as they are."""
    plan = plan_conv2d((2**21, 3, 40, 40), (4, 3, 5, 5), fft_size=40, device="sm_90", workspace_limit=2**40)
    work = plan.choice.by_pass["forward"].work
    chunk = 2**19 - 2
    lies = {name: Lie.of(array) for name, array in lying(gpu, plan.geometry.shapes)}
    made = list(engine.calls(schedule.steps(work, Schedule(chunk)), plan.maps, lies, False, driver.device(0)))
    planes, strides = ([a for call in made if call.stage == "input" for a in call.arguments if isinstance(a, kind)]
                       for kind in (Planes, Strides))  # fmt: skip
    assert [p.first for p in planes] == [chunk * i for i in range(5)]
    assert sum(p.count for p in planes) == 3 * 2**21 and planes[-1].count == 3 * (2**21 - 4 * chunk)
    assert {s[:4] for s in strides} == {(4800, 1600, 40, 1)}
    assert 4800 * planes[-1].first > 2**33


def lying(gpu: Gpu, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
    for name in ("input", "weight", "output"):
        described = gpu.addresses(shapes[name]).__cuda_array_interface__
        yield name, np.asarray(type("Addresses", (), {"__array_interface__": described})())


def far_apart(gpu: Gpu, strides: tuple[int, ...], shape: tuple[int, ...]) -> DeviceArray:
    """An array whose samples lie so many bytes apart, in a file of which only their pages exist."""
    length = sum((extent - 1) * abs(stride) for extent, stride in zip(shape, strides, strict=True)) + 4
    with tempfile.TemporaryFile() as file:
        memory = gpu.driver.register(np.memmap(file, np.uint8, "w+", shape=(length,)))
    begin = sum((extent - 1) * -min(0, stride) for extent, stride in zip(shape, strides, strict=True))
    return DeviceArray(np.ndarray(shape, np.float32, memory, begin, strides))


def test_samples_gigabytes_apart(gpu: Gpu) -> None:
    """Kernels count them in 64 bits, forwards and backwards."""
    problem = Problem(2, 2, 4, 4, 2, 2, 2, groups=2, fft_size=4)
    plan, (x, w, _) = problem.plan(device="cuda"), problem.arrays()
    GB = 2**30
    far_x = far_apart(gpu, (9 * GB + 4, -(5 * GB), 4 * GB + 8, 64), x.shape)
    far_x.host[...] = x
    out = far_apart(gpu, (-(17 * GB), 3 * GB, 5 * GB + 4, 8), problem.y_shape)
    plan.forward(far_x, gpu.array(w), out=out)
    assert is_right(out, problem)


def test_a_pass_that_is_refused_lets_none_begin(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two gradients the second, and of a bias with gaps the layer after it."""
    problem = Problem(1, 2, 9, 4, 2, 2, 2, groups=2, fft_size=4)
    (x, w), dy = on_gpu(gpu, problem), gpu.array(problem.arrays().dy)
    steps = schedule.steps

    def refusing(work: Work, *rest: Any) -> Iterator[Any]:
        if work.pass_name != "input_grad":
            raise UnsupportedError("no")
        return steps(work, *rest)

    monkeypatch.setattr(schedule, "steps", refusing)
    plan = problem.plan(device="cuda")
    bias = DeviceArray(gpu.array(np.ones((2, 3), np.float32)).host[:, 1])
    for refused in (lambda: conv2d_backward(dy, x, w, groups=2, plan=plan), lambda: plan.forward(x, w, bias)):
        with pytest.raises(UnsupportedError, match="no"):
            refused()
    assert gpu.driver.log == []
