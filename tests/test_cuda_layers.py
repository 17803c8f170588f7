"""Whole layers on the CUDA engine as it is compiled: every kernel of a pass, bound and launched as on a GPU of sm_90.

The driver is that of fake_driver.py, which runs the PTX. Tiles, registers and grids are those of a real device of 132
multiprocessors; so layers are few and small. What every geometry does is tests/simulated/test_layers.py's affair.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_driver import DeviceArray, fixture_of_fake_driver  # noqa: F401
from fake_libraries import Gpu, fixture_of_gpu  # noqa: F401
from machine_code import compiles
from strategies import PASSES, Arrays, Problem, Recorder, call, poisoned, relaid

from numba_fftconv import conv2d, conv2d_backward, conv2d_input_grad, conv2d_weight_grad
from numba_fftconv.cuda.schedule import schedules, workspace_bytes
from numba_fftconv.integers import ceil_div

pytestmark = compiles

SINGLE = 3.0  # a lone sample may lie this many times further out than the root mean square that the tolerance bounds
SEGMENTS = Problem(2, 2, 17, 5, 3, 3, 1, stride=(3, 2), padding=((2, 5), (0, 3)), fft_size=4)
WHOLE = Problem(2, 4, 3, 4, 6, 2, 2, padding=((1, 0), (0, 0)), groups=2, fft_size=4)  # one segment holds a plane
DEPTHWISE = Problem(3, 3, 11, 9, 6, 2, 3, stride=(2, 3), dilation=(3, 2), padding=((0, 2), (5, 1)), groups=3)
LAYERS = [
    SEGMENTS,
    WHOLE,
    DEPTHWISE,
    Problem(1, 1, 1, 1, 1, 1, 1, fft_size=4),
    Problem(2, 2, 7, 6, 5, 3, 2, padding=1, fft_size=6),
    Problem(1, 3, 9, 12, 3, 3, 3, padding=1, batched=False, groups=3, fft_size=14),
    Problem(2, 1, 4, 9, 2, 3, 5, fft_size=(4, 10)),
]
MANY = Problem(33, 5, 4, 4, 70, 2, 2, fft_size=4)  # several tiles of the product, ragged, copied value by value
titled = {"ids": lambda problem: problem.title}


def plan_of(problem: Problem, **options: Any) -> Any:
    return problem.plan(device="cuda", **options)


def on_gpu(gpu: Gpu, a: Arrays, device: int = 0) -> Arrays:
    return Arrays(*(gpu.array(b, device) for b in a))


def fetched(array: Any) -> np.ndarray:
    assert isinstance(array, DeviceArray)
    return array.host


def passes(gpu: Gpu, problem: Problem) -> dict[str, np.ndarray]:
    """The three passes by the plan."""
    plan, a = plan_of(problem), on_gpu(gpu, problem.arrays())
    return {name: fetched(call(plan, a, name)) for name in PASSES}


def assert_same(got: np.ndarray, want: np.ndarray, what: str) -> None:
    assert got.shape == want.shape and got.tobytes() == want.tobytes(), f"{what}: other bits"


@pytest.mark.parametrize("problem", [*LAYERS, pytest.param(MANY, marks=pytest.mark.slow)], **titled)
def test_against_the_definition(problem: Problem, gpu: Gpu, record_worst: Recorder) -> None:
    """Through the doors, in memory of the caller's alone: no library allocates, and inputs stay as they were."""
    plan, a, bias = plan_of(problem), problem.arrays(), problem.bias()
    x, w, dy = on_gpu(gpu, a)
    on_device = gpu.array(bias)
    to = {name: gpu.array(poisoned(problem, name)) for name in PASSES}
    rest = {**problem.options, "plan": plan, "workspace": gpu.array(np.full(plan.workspace_size, 0xFF, np.uint8))}
    got = {
        "forward": conv2d(x, w, on_device, **rest, out=to["forward"]),
        "input_grad": conv2d_input_grad(problem.x_shape, w, dy, **rest, out=to["input_grad"]),
        "weight_grad": conv2d_weight_grad(x, problem.w_shape, dy, **rest, out=to["weight_grad"]),
    }
    want, size = problem.expected(a), problem.sizes(a, plan.fft_size)
    want["forward"] = want["forward"] + bias[:, None, None]
    for name in PASSES:
        assert got[name] is to[name]
        error = float(np.linalg.norm(to[name].host - want[name]))
        least = 1.0 if name == "forward" else 0.0  # the size of the bias
        allowed = SINGLE * problem.tolerance(plan, name) * float(np.linalg.norm(np.maximum(size[name], least)))
        record_worst(f"{name}, PTX", error / allowed, f"T = {plan.fft_size}, {problem}")
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"
    assert gpu.made == []
    for name, before, after in zip(("x", "w", "dy", "bias"), (*a, bias), (x, w, dy, on_device), strict=True):
        assert np.array_equal(before, after.host), f"{name} was changed"


@pytest.mark.parametrize("precision, error", [
    ("tf32x3", 1e-6),
    pytest.param("bf16x3", 1e-5, marks=pytest.mark.slow),
    pytest.param("tf32", 1e-3, marks=pytest.mark.slow),
])  # fmt: skip
def test_precisions(precision: str, error: float, gpu: Gpu) -> None:
    """On tensor cores, near the definition; a smaller workspace, in chunks of eight windows, changes no bit."""
    problem = Problem(10, 4, 4, 4, 6, 2, 2, fft_size=4)
    plan, a = plan_of(problem, precision=precision), problem.arrays()
    work = plan.choice.by_pass["weight_grad"].work
    limit = workspace_bytes(work, next(way for way in schedules(work) if way.chunk == 8))
    small = plan_of(problem, precision=precision, workspace_limit=limit)
    operands, want = on_gpu(gpu, a), problem.expected(a)
    for name in PASSES:
        got = fetched(call(plan, operands, name))
        assert np.linalg.norm(got - want[name]) <= error * np.linalg.norm(want[name]), name
        assert_same(fetched(call(small, operands, name)), got, name)
    kernels = {launch.kernel.name for program in plan.programs.values() for launch in program.calls}
    assert sum(f"product_{precision}_" in name for name in kernels) == 3


def test_arrays_as_they_lie(gpu: Gpu) -> None:
    """Operands and results; nothing is copied, and nothing is written between the samples of a result."""
    plan, a, want = plan_of(SEGMENTS), SEGMENTS.arrays(), passes(gpu, SEGMENTS)
    gpu.made.clear()
    for layout in ("gaps", "reversed", "channels last"):
        operands = Arrays(*(gpu.lying(relaid(b, layout)) for b in a))
        for name in PASSES:
            out = relaid(poisoned(SEGMENTS, name), layout)
            held = out if out.base is None else out.base
            held[...] = np.nan
            gpu.driver.register(held)
            given = DeviceArray(out)
            assert call(plan, operands, name, out=given) is given
            assert_same(np.ascontiguousarray(out), want[name], f"{name}, {layout}")
            assert np.count_nonzero(~np.isnan(held)) == out.size
    assert gpu.made == []


def test_bias_of_any_stride(gpu: Gpu) -> None:
    plan, (x, w, _), bias = plan_of(WHOLE), on_gpu(gpu, WHOLE.arrays()), WHOLE.bias()
    want = fetched(plan.forward(x, w, gpu.array(bias)))
    wide = np.full((WHOLE.K, 3), np.nan, np.float32)
    wide[:, 1] = bias
    for lying in (wide[:, 1], bias[::-1].copy()[::-1]):
        assert_same(fetched(plan.forward(x, w, gpu.lying(lying))), want, f"strides {lying.strides}")


@pytest.mark.parametrize("problem", [pytest.param(SEGMENTS, marks=pytest.mark.slow), DEPTHWISE], **titled)
def test_spectral_weight(problem: Problem, gpu: Gpu) -> None:
    """Transformed once, used in both passes that read the weight."""
    plan, a, want = plan_of(problem), on_gpu(gpu, problem.arrays()), passes(gpu, problem)
    spectral = plan.transform_weight(a.w)
    assert spectral.device == "cuda:0"
    a.w.host[...] = np.nan
    gpu.driver.log.clear()
    assert_same(fetched(plan.forward(a.x, spectral)), want["forward"], "forward")
    got = conv2d_input_grad(problem.x_shape, spectral, a.dy, **problem.options, plan=plan)
    assert_same(fetched(got), want["input_grad"], "input_grad")
    assert gpu.launched.count("transform_kernel") == 2, "the weight was transformed again"


@pytest.mark.parametrize("problem", [pytest.param(SEGMENTS, marks=pytest.mark.slow), WHOLE], **titled)
def test_spectral_input(problem: Problem, gpu: Gpu) -> None:
    """Transformed once, used in both passes that read the input; with the weight's, three transforms make a step."""
    plan, a, want = plan_of(problem), on_gpu(gpu, problem.arrays()), passes(gpu, problem)
    gpu.driver.log.clear()
    x, w = plan.transform_input(a.x), plan.transform_weight(a.w)
    assert x.device == w.device == "cuda:0"
    assert_same(fetched(plan.forward(x, w)), want["forward"], "forward")
    dx, dw, _ = plan.backward(a.dy, x, w)
    assert_same(fetched(dx), want["input_grad"], "dx")
    assert_same(fetched(dw), want["weight_grad"], "dw")
    assert gpu.launched.count("transform_kernel") == 2 + (1 if plan.shares_dy else 2)
    assert plan.shares_dy == (problem is WHOLE)


@pytest.mark.parametrize(("problem", "transforms"), [(WHOLE, 3), (DEPTHWISE, 4)], ids=["one dy", "two of dy"])
def test_backward(problem: Problem, transforms: int, gpu: Gpu) -> None:
    """The bits of the single calls, from one spectrum of dy where one segment holds a plane."""
    plan, a, want = plan_of(problem), on_gpu(gpu, problem.arrays()), passes(gpu, problem)
    gpu.driver.log.clear()
    dx, dw, db = conv2d_backward(a.dy, a.x, a.w, **problem.options, plan=plan)
    assert gpu.launched.count("transform_kernel") == transforms
    assert_same(fetched(dx), want["input_grad"], "input_grad")
    assert_same(fetched(dw), want["weight_grad"], "weight_grad")
    dy = a.dy.host
    exact, size = dy.sum((0, 2, 3), dtype=np.float64), np.abs(dy).sum((0, 2, 3), dtype=np.float64)
    assert (np.abs(fetched(db) - exact) <= 4 * np.finfo(np.float32).eps * size).all()


@pytest.mark.parametrize("problem", [SEGMENTS, pytest.param(DEPTHWISE, marks=pytest.mark.slow)], **titled)
def test_chunks(problem: Problem, gpu: Gpu) -> None:
    """Half of the windows at a time give the same bits."""
    plan, a, want = plan_of(problem), on_gpu(gpu, problem.arrays()), passes(gpu, problem)
    for name in PASSES:
        choice = plan.choice.by_pass[name]
        work, (whole, half, *_) = choice.work, schedules(choice.work)
        assert whole.chunk == work.windows > half.chunk
        chunked = choice._replace(schedule=half, workspace=workspace_bytes(work, half))
        changed = replace(plan, choice=plan.choice._replace(by_pass={**plan.choice.by_pass, name: chunked}))
        x = plan.transform_input(a.x)
        if name == "forward":
            assert_same(fetched(changed.forward(x, a.w)), want[name], "forward of a SpectralInput")
        elif name == "weight_grad":
            assert_same(fetched(changed.weight_grad(x, a.dy)), want[name], "weight_grad of a SpectralInput")
        gpu.driver.log.clear()
        assert_same(fetched(call(changed, a, name)), want[name], name)
        products = [kernel for kernel in gpu.launched if kernel not in ("transform_kernel", "inverse_kernel")]
        assert len(products) == ceil_div(work.windows, half.chunk)


def test_an_empty_batch(gpu: Gpu) -> None:
    problem = Problem(0, 2, 5, 5, 3, 2, 2, fft_size=4)
    plan, a = plan_of(problem), on_gpu(gpu, problem.arrays())
    assert fetched(plan.forward(a.x, a.w)).shape == problem.y_shape
    dx, dw, db = map(fetched, plan.backward(a.dy, a.x, a.w))
    assert dx.shape == problem.x_shape and not dw.any() and not db.any()


def test_the_second_call_binds_nothing(gpu: Gpu) -> None:
    """Other arrays of the same strides take the launches that there are, on whatever stream."""
    problem = Problem(1, 1, 4, 4, 1, 2, 2, fft_size=4)
    plan, first = plan_of(problem), on_gpu(gpu, problem.arrays())
    plan.forward(first.x, first.w)
    (program,) = plan.programs.values()
    loaded, stream, other = len(gpu.driver.kernels), gpu.driver.stream(), on_gpu(gpu, problem.arrays(seed=1))
    gpu.driver.log.clear()
    got = fetched(plan.forward(other.x, other.w, stream=stream))
    assert np.allclose(got, problem.expected(problem.arrays(seed=1))["forward"], atol=1e-5)
    assert list(plan.programs.values()) == [program] and len(gpu.driver.kernels) == loaded
    assert [event.what for event in gpu.driver.log] == ["launch"] * 4
    assert all(event.details[2] == stream for event in gpu.driver.log)


def test_the_second_device(gpu: Gpu) -> None:
    """A plan of its own, kernels in its context; the caller's context is current again afterwards."""
    problem = Problem(1, 1, 4, 4, 1, 2, 2, fft_size=4)
    a, stream = problem.arrays(), gpu.driver.stream(1)
    there = on_gpu(gpu, a, device=1)
    got = conv2d(there.x, there.w, stream=stream)
    assert np.allclose(fetched(got), problem.expected(a)["forward"], atol=1e-5)
    assert {(made.device, made.stream) for made in gpu.made} == {(1, stream)}
    assert gpu.driver.contexts == []
    assert problem.plan(device="cuda:1").device == "cuda:1" and plan_of(problem).device == "cuda:0"
