"""Arrays of every library on a real GPU: their types, their streams, what is refused, and what a profile says."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numba import cuda
from on_gpu import DEVICE, NEEDED, assert_same, passes, tensor, tensors, torch
from strategies import PASSES, Arrays, Problem, call

from numba_fftconv import (
    DeviceMismatchError,
    FFTConvError,
    InvalidOptionError,
    InvalidShapeError,
    InvalidTypeError,
    PlanMismatchError,
    UnsupportedError,
    WorkspaceError,
    conv2d,
    conv2d_backward,
    conv2d_input_grad,
    conv2d_weight_grad,
)

pytestmark = NEEDED

LAYER = Problem(4, 3, 20, 21, 5, 3, 3, padding=1, fft_size=16)
LARGE = Problem(32, 64, 64, 64, 64, 9, 9, fft_size=32)
HELD = 200_000_000  # clocks that a stream is held for: a tenth of a second, which no call takes


# ---- libraries


def of_torch(array: np.ndarray) -> Any:
    return tensor(array)


def of_cupy(array: np.ndarray) -> Any:
    return pytest.importorskip("cupy").asarray(array)


def of_numba(array: np.ndarray) -> Any:
    return cuda.to_device(array)


def on_host(array: Any) -> np.ndarray:
    """Samples of an array of any of these libraries."""
    for method in ("cpu", "get", "copy_to_host"):
        if hasattr(array, method):
            return np.asarray(getattr(array, method)())
    raise TypeError(f"{type(array)} is of no library that is known here")


LIBRARIES: dict[str, Callable[[np.ndarray], Any]] = {"torch": of_torch, "cupy": of_cupy, "numba": of_numba}
EACH_LIBRARY = pytest.mark.parametrize("put", LIBRARIES.values(), ids=LIBRARIES)


def wanted(problem: Problem = LAYER) -> dict[str, np.ndarray]:
    """The bits of the passes on tensors of torch."""
    return {name: on_host(y) for name, y in passes(problem.plan(device="cuda"), tensors(problem)).items()}


@EACH_LIBRARY
def test_results_are_of_the_callers_library(put: Callable[[np.ndarray], Any]) -> None:
    """Of all doors, and written into what is given."""
    x, w, dy = map(put, LAYER.arrays())
    want = wanted()
    rest = {**LAYER.options, "plan": LAYER.plan(device="cuda")}
    made = {
        "forward": conv2d(x, w, **rest),
        "input_grad": conv2d_input_grad(LAYER.x_shape, w, dy, **rest),
        "weight_grad": conv2d_weight_grad(x, LAYER.w_shape, dy, **rest),
    }
    dx, dw, db = conv2d_backward(dy, x, w, **rest)
    for name, result in (*made.items(), ("input_grad", dx), ("weight_grad", dw)):
        assert type(result) is type(x)
        assert np.array_equal(on_host(result), want[name]), name
    assert type(db) is type(x) and db.shape == (LAYER.K,)
    out = put(np.full(LAYER.y_shape, np.nan, np.float32))
    assert conv2d(x, w, **rest, out=out) is out
    assert np.array_equal(on_host(out), want["forward"])


@EACH_LIBRARY
def test_libraries_may_be_mixed(put: Callable[[np.ndarray], Any]) -> None:
    """The result is of the first array's; a view with gaps is read as it lies."""
    a, want = LAYER.arrays(), wanted()["forward"]
    for x, w in ((put(a.x), tensor(a.w, "gaps")), (tensor(a.x, "gaps"), put(a.w))):
        torch.cuda.synchronize()
        y = conv2d(x, w, **LAYER.options, plan=LAYER.plan(device="cuda"))
        assert type(y) is type(x) and np.array_equal(on_host(y), want)


@pytest.fixture
def jax(monkeypatch: pytest.MonkeyPatch) -> Any:
    """JAX with a GPU, of whose memory it leaves the rest to others."""
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    found = pytest.importorskip("jax")
    if found.default_backend() != "gpu":
        pytest.skip("needs JAX with CUDA")
    return found


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_results_of_jax(jax: Any, dtype: str) -> None:
    """Arrays of it from all passes, behind what fills its operands and before what it does with the results."""
    a, plan = LAYER.arrays(), replace(LAYER, dtype=dtype).plan(device="cuda")
    x, w, dy = (jax.numpy.asarray(b).astype(dtype) for b in a)
    of_torch = Arrays(*(tensor(b).to(getattr(torch, dtype)) for b in a))
    want = {name: y.float().cpu().numpy() for name, y in passes(plan, of_torch).items()}
    for _ in range(20):  # operands are made, used and dropped while the GPU is at work
        made = {
            "forward": plan.forward(x * 1, w * 1),
            "input_grad": plan.input_grad(dy * 1, w * 1),
            "weight_grad": plan.weight_grad(x * 1, dy * 1),
        }
        for name, result in made.items():
            assert isinstance(result, jax.Array) and result.dtype == dtype and result.devices() == x.devices()
            assert np.array_equal(np.asarray((result * 1).astype("float32")), want[name]), name
    out = jax.numpy.zeros(LAYER.y_shape, dtype)
    with pytest.raises(InvalidOptionError, match="read-only"):
        plan.forward(x, w, out=out)
    assert not np.asarray(out.astype("float32")).any()


def test_jax_and_torch_may_be_mixed(jax: Any) -> None:
    a, plan, want = LAYER.arrays(), LAYER.plan(device="cuda"), wanted()["forward"]
    y = plan.forward(jax.numpy.asarray(a.x), tensor(a.w))
    assert isinstance(y, jax.Array) and np.array_equal(np.asarray(y), want)
    y = plan.forward(tensor(a.x), jax.numpy.asarray(a.w))
    assert type(y) is torch.Tensor and np.array_equal(on_host(y), want)


# ---- graphs


def test_a_call_in_a_graph_of_torch() -> None:
    """As README has it: bound before, captured once, replayed on what the tensors hold then."""
    plan, a = LAYER.plan(device="cuda"), LAYER.arrays()
    x, w = tensor(np.zeros_like(a.x)), tensor(a.w)
    y = torch.empty(LAYER.y_shape, device=DEVICE)
    workspace = torch.empty(plan.workspace_size, dtype=torch.uint8, device=DEVICE)
    plan.forward(x, w, out=y, workspace=workspace)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan.forward(x, w, out=y, workspace=workspace)
    x.copy_(tensor(a.x))
    y.fill_(torch.nan)
    graph.replay()
    assert np.array_equal(on_host(y), wanted()["forward"])


def test_a_call_in_a_graph_of_cupy() -> None:
    cupy = pytest.importorskip("cupy")
    plan, a = LAYER.plan(device="cuda"), LAYER.arrays()
    x, w, y = cupy.zeros(a.x.shape, "float32"), cupy.asarray(a.w), cupy.empty(LAYER.y_shape, "float32")
    workspace = cupy.empty(plan.workspace_size, "uint8")
    plan.forward(x, w, out=y, workspace=workspace)
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        plan.forward(x, w, out=y, workspace=workspace)
        graph = stream.end_capture()
        x.set(a.x)
        graph.launch(stream)
    stream.synchronize()
    assert np.array_equal(y.get(), wanted()["forward"])


# ---- streams


def held_call(stream: Any, forward: Callable[[Any, Any], Any]) -> Any:
    """Forward of an input that is filled late on a stream of torch; the host must be back before that."""
    a = LAYER.arrays()
    x, w, late = tensor(np.full_like(a.x, np.nan)), tensor(a.w), tensor(a.x)
    forward(late, w)  # compiles and binds
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(HELD)
        x.copy_(late)
    y = forward(x, w)
    assert not stream.query(), "the host has waited for the GPU"
    stream.synchronize()
    return y


def test_the_current_stream_of_torch() -> None:
    plan, side = LAYER.plan(device="cuda"), torch.cuda.Stream(DEVICE)

    def forward(x: Any, w: Any) -> Any:
        with torch.cuda.stream(side):
            return plan.forward(x, w)

    assert np.array_equal(on_host(held_call(side, forward)), wanted()["forward"])


FORMS: dict[str, Callable[[Any], Any]] = {
    "torch": lambda stream: stream,
    "handle": lambda stream: stream.cuda_stream,
    "numba": lambda stream: cuda.external_stream(stream.cuda_stream),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_stream_that_is_given(form: Callable[[Any], Any]) -> None:
    plan, side = LAYER.plan(device="cuda"), torch.cuda.Stream(DEVICE)
    stream = form(side)
    y = held_call(side, lambda x, w: plan.forward(x, w, stream=stream))
    assert np.array_equal(on_host(y), wanted()["forward"])


def test_the_current_stream_of_cupy() -> None:
    cupy = pytest.importorskip("cupy")
    plan, stream = LAYER.plan(device="cuda"), cupy.cuda.Stream(non_blocking=True)
    side = torch.cuda.ExternalStream(stream.ptr, device=DEVICE)

    def forward(x: Any, w: Any) -> Any:
        with stream:
            return plan.forward(cupy.from_dlpack(x), cupy.from_dlpack(w))

    y = held_call(side, forward)
    assert type(y) is cupy.ndarray and np.array_equal(y.get(), wanted()["forward"])


class Filled:
    """An array that names the stream which fills it, by the CUDA array interface."""

    def __init__(self, array: Any, stream: Any) -> None:
        self.array = array
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "version": 3, "stream": stream.cuda_stream}


def test_whoever_fills_an_array_is_waited_for() -> None:
    """And waits for what is done with it: what it writes afterwards is not read."""
    plan, side = LAYER.plan(device="cuda"), torch.cuda.Stream(DEVICE)
    y = tensor(np.full(LAYER.y_shape, np.nan, np.float32))

    def forward(x: Any, w: Any) -> Any:
        plan.forward(Filled(x, side), w, out=y, stream=torch.cuda.current_stream(DEVICE))
        with torch.cuda.stream(side):
            x.fill_(torch.nan)
        return y

    a = LAYER.arrays()
    x, w, late = tensor(np.full_like(a.x, np.nan)), tensor(a.w), tensor(a.x)
    forward(tensor(a.x), w)  # compiles and binds
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(HELD)
        x.copy_(late)
    forward(x, w)
    torch.cuda.synchronize()
    assert np.array_equal(on_host(y), wanted()["forward"])


# ---- what is refused


def bad_calls(a: Arrays, host: Arrays) -> dict[str, tuple[type[FFTConvError], Callable[[], Any]]]:
    """By what is wrong: the error, and the call."""
    plan, once = LAYER.plan(device="cuda"), torch.ones((), device=DEVICE)
    y = torch.full(LAYER.y_shape, torch.nan, device=DEVICE)
    small = torch.empty(plan.workspace_size - 1, dtype=torch.uint8, device=DEVICE)
    return {
        "float64": (UnsupportedError, lambda: conv2d(a.x.double(), a.w.double())),
        "complex numbers": (InvalidTypeError, lambda: conv2d(a.x.to(torch.complex64), a.w)),
        "two halves": (InvalidTypeError, lambda: conv2d(a.x.half(), a.w.bfloat16())),
        "two dtypes": (InvalidTypeError, lambda: conv2d(a.x, a.w.double())),
        "rank": (InvalidShapeError, lambda: conv2d(a.x[0, 0], a.w)),
        "channels": (InvalidShapeError, lambda: conv2d(a.x, a.w[:, :2])),
        "shape of out": (InvalidShapeError, lambda: plan.forward(a.x, a.w, out=y[:2])),
        "shape and plan": (PlanMismatchError, lambda: plan.forward(a.x[:2], a.w)),
        "NumPy and torch": (DeviceMismatchError, lambda: conv2d(a.x, host.w)),
        "NumPy and a plan of the GPU": (PlanMismatchError, lambda: plan.forward(host.x, host.w)),
        "the GPU and a plan of the CPU": (PlanMismatchError, lambda: LAYER.plan().forward(a.x, a.w)),
        "out on the host": (DeviceMismatchError, lambda: plan.forward(a.x, a.w, out=np.empty(y.shape, np.float32))),
        "out overlaps itself": (InvalidOptionError, lambda: plan.input_grad(a.dy, a.w, out=once.expand(a.x.shape))),
        "workspace too small": (WorkspaceError, lambda: plan.forward(a.x, a.w, workspace=small)),
        "requires a gradient": (InvalidTypeError, lambda: conv2d(a.x.clone().requires_grad_(), a.w)),
        "a sparse tensor": (InvalidTypeError, lambda: conv2d(a.x.to_sparse(), a.w)),
        "no stream": (InvalidOptionError, lambda: plan.forward(a.x, a.w, stream="0")),
        "read-only": (InvalidOptionError, lambda: plan.forward(a.x, a.w, out=ReadOnly(y))),
    }


class ReadOnly:
    """An array that says it must not be written."""

    def __init__(self, array: Any) -> None:
        shown = array.__cuda_array_interface__
        self.array, self.__cuda_array_interface__ = array, {**shown, "data": (shown["data"][0], True)}


def test_a_good_call_after_each_error() -> None:
    """Errors change no operand, and leave nothing behind."""
    host, a, plan, want = LAYER.arrays(), tensors(LAYER), LAYER.plan(device="cuda"), wanted()
    for what, (error, bad) in bad_calls(a, host).items():
        with pytest.raises(FFTConvError) as raised:
            bad()
        assert type(raised.value) is error, f"{what}: {raised.value!r}"
        for before, after in zip(host, a, strict=True):
            assert np.array_equal(before, on_host(after)), what
        assert np.array_equal(on_host(plan.forward(a.x, a.w)), want["forward"]), what


def test_two_devices() -> None:
    """Each works beside the other; their arrays and streams do not mix."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs, and there is one")
    a, there, plan = tensors(LAYER), Arrays(*(b.to("cuda:1") for b in tensors(LAYER))), LAYER.plan(device="cuda")
    with pytest.raises(DeviceMismatchError, match=r"cuda:0.*cuda:1"):
        conv2d(a.x, there.w)
    with pytest.raises(DeviceMismatchError, match="stream"):
        plan.forward(a.x, a.w, stream=torch.cuda.Stream("cuda:1"))
    for name, got in passes(LAYER.plan(device="cuda:1"), there).items():
        assert got.device == there.x.device and np.array_equal(on_host(got), wanted()[name])
    assert torch.cuda.current_device() == 0


# ---- time


def seconds(run: Callable[[], Any]) -> float:
    """Of a call on the device, the best of some."""
    times = []
    for _ in range(5):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / 1e3)
    return min(times)


def test_the_stages_of_a_profile_sum_to_the_whole() -> None:
    plan, a = LARGE.plan(device="cuda"), tensors(LARGE)
    space = torch.empty(plan.workspace_size, dtype=torch.uint8, device=DEVICE)
    for name, result in passes(plan, a).items():
        whole = seconds(lambda name=name, out=result: call(plan, a, name, out=out, workspace=space))
        operands = {"forward": (a.x, a.w), "input_grad": (a.dy, a.w), "weight_grad": (a.x, a.dy)}[name]
        stages = min((plan.profile(name, *operands) for _ in range(5)), key=lambda spent: sum(spent.values()))
        assert all(spent > 0 for spent in stages.values())
        assert 0.7 < sum(stages.values()) / whole < 1.4, f"{name}: {stages} of {whole} s"


def test_the_host_is_back_long_before_the_device() -> None:
    """A hundred calls behind a held stream, not one of which waits."""
    plan, a = LAYER.plan(device="cuda"), tensors(LAYER)
    passes(plan, a)
    torch.cuda.synchronize()
    torch.cuda._sleep(HELD)
    start = time.perf_counter()
    for _ in range(100 // len(PASSES)):
        results = passes(plan, a)
    assert not torch.cuda.current_stream(DEVICE).query(), f"the host took {time.perf_counter() - start} s"
    for name, got in results.items():
        assert_same(got, passes(plan, a)[name], name)
