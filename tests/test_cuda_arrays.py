"""Arrays of every library on a GPU: read as they lie, on whose stream, waited for, and where results are allocated.

The driver is that of fake_driver.py, the libraries those of fake_libraries.py.
"""

import gc
import threading
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_driver import DeviceArray, fixture_of_fake_driver  # noqa: F401
from fake_libraries import (
    CupyArray,
    Gpu,
    Jax,
    JaxArray,
    Made,
    Tensor,
    fixture_of_gpu,  # noqa: F401
    install_cupy,
    install_torch,
)
from machine_code import compiles
from numba.cuda.cudadrv.driver import Stream
from strategies import PASSES, Arrays, Problem, call, poisoned

from numba_fftconv import clear_cache, conv2d, conv2d_backward
from numba_fftconv.cuda import arrays
from numba_fftconv.dtypes import name_of, rounded, widened
from numba_fftconv.errors import CudaError, DeviceMismatchError, InvalidOptionError, InvalidTypeError

pytestmark = compiles

LAYER = Problem(1, 1, 4, 4, 1, 2, 2, fft_size=4)  # whose product takes milliseconds, without a sum over channels
X, W, DY = LAYER.arrays()
BIAS = LAYER.bias()
WANT = LAYER.expected(Arrays(X, W, DY))
Y = WANT["forward"] + BIAS[:, None, None]


def is_near(got: np.ndarray, want: np.ndarray) -> bool:
    return got.shape == want.shape and np.allclose(got, want, atol=1e-5)


def plan_on(device: str = "cuda", problem: Problem = LAYER) -> Any:
    return problem.plan(device=device)


def sizes(made: list[Made]) -> list[tuple[str, int, int]]:
    return [(each.dtype, each.device, each.stream) for each in made]


# ---- torch


def test_torch_results_come_from_its_pool_on_its_current_stream(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    current = gpu.driver.stream(1)
    install_torch(gpu, monkeypatch).current[1] = current
    x, w, dy, bias = (Tensor(gpu.array(a, device=1).host, 1) for a in (X, W, DY, BIAS))
    plan = plan_on("cuda:1")
    y = conv2d(x, w, bias, plan=plan)
    assert type(y) is Tensor and y.device.index == 1 and is_near(y.host, Y)
    assert sizes(gpu.made) == [("float32", 1, current), ("uint8", 1, current)]
    gradients = conv2d_backward(dy, x, w, plan=plan)
    for got, want in zip(gradients, (WANT["input_grad"], WANT["weight_grad"], DY.sum((0, 2, 3))), strict=True):
        assert type(got) is Tensor and is_near(got.host, want)
    assert gpu.streams == {current}
    assert gpu.made[-1].shape == (1,) and {made.stream for made in gpu.made} == {current}
    assert all(event.what == "launch" for event in gpu.driver.log), "torch orders its own streams"


@pytest.mark.parametrize("given", ["another", 0, 1])
def test_torch_allocates_for_the_stream_of_the_call(given: Any, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    streams, current = install_torch(gpu, monkeypatch), gpu.driver.stream()
    streams.current[0] = current
    handle = gpu.driver.stream() if given == "another" else given
    y = conv2d(Tensor(gpu.array(X).host), Tensor(gpu.array(W).host), plan=plan_on(), stream=handle)
    assert is_near(y.host, WANT["forward"]) and gpu.streams == {handle}
    under = 0 if given in (0, 1) else handle
    assert sizes(gpu.made) == [("float32", 0, under), ("uint8", 0, under)]
    assert streams.current[0] == current


def test_torch_tensors_of_any_stride_and_none(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    install_torch(gpu, monkeypatch)
    x = gpu.array(X.transpose(0, 1, 3, 2)).host.transpose(0, 1, 3, 2)
    out = Tensor(gpu.array(poisoned(LAYER, "forward")).host)
    assert conv2d(Tensor(x), Tensor(gpu.array(W).host), plan=plan_on(), out=out) is out
    assert is_near(out.host, WANT["forward"])
    nothing = Tensor(np.empty((0, 1, 4, 4), np.float32))
    assert conv2d(nothing, Tensor(gpu.array(W).host)).shape == (0, 1, 3, 3)


# ---- CuPy


def test_cupy_results_come_from_its_pool_on_its_current_stream(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy, current = install_cupy(gpu, monkeypatch), gpu.driver.stream(1)
    cupy.streams.current[1] = current
    y = conv2d(cupy.array(X, 1), cupy.array(W, 1), cupy.array(BIAS, 1), plan=plan_on("cuda:1"))
    assert type(y) is CupyArray and is_near(y.host, Y)
    assert sizes(gpu.made) == [("float32", 1, current), ("uint8", 1, current)]
    assert gpu.streams == {current} and all(event.what == "launch" for event in gpu.driver.log)


@pytest.mark.parametrize("given", ["another", 0, 1])
def test_cupy_allocates_for_the_stream_of_the_call(given: Any, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """And waits for the current one, which its arrays name."""
    cupy, current = install_cupy(gpu, monkeypatch), gpu.driver.stream()
    cupy.streams.current[0] = current
    handle = gpu.driver.stream() if given == "another" else given
    y = conv2d(cupy.array(X), cupy.array(W), plan=plan_on(), stream=handle)
    assert is_near(y.host, WANT["forward"]) and gpu.streams == {handle}
    under = 0 if given in (0, 1) else handle
    assert sizes(gpu.made) == [("float32", 0, under), ("uint8", 0, under)]
    first = [event.what for event in gpu.driver.log][:2]
    assert first == ["record", "wait"] and gpu.driver.log[0].details[1] == current


# ---- streams of every kind


def holder(**attributes: Any) -> Any:
    return lambda handle: SimpleNamespace(**{name: make(handle) for name, make in attributes.items()})


class Protocol:
    """A stream of cuda.core."""

    def __init__(self, handle: int) -> None:
        self.number = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.number


STREAMS = {
    "int": lambda handle: handle,
    "NumPy integer": np.int64,
    "torch": holder(cuda_stream=int),
    "CuPy": holder(ptr=int),
    "Numba": Stream,
    "a handle of ctypes": holder(handle=lambda number: SimpleNamespace(value=number)),
    "protocol": Protocol,
    "protocol beside others": holder(__cuda_stream__=lambda n: lambda: (0, n), ptr=lambda n: -1, handle=lambda n: -1),
    "protocol as an attribute": holder(__cuda_stream__=lambda number: (0, number)),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_streams_of_every_kind(kind: str, gpu: Gpu) -> None:
    handle = gpu.driver.stream()
    conv2d(gpu.array(X), gpu.array(W), plan=plan_on(), stream=STREAMS[kind](handle))
    assert gpu.streams == {handle} and {made.stream for made in gpu.made} == {handle}


BROKEN = {
    "version 1": holder(__cuda_stream__=lambda number: (1, number)),
    "no pair": holder(__cuda_stream__=lambda number: number),
    "three": holder(__cuda_stream__=lambda number: (0, number, 0)),
    "a float": holder(__cuda_stream__=lambda number: (0, float(number))),
    "closed": holder(__cuda_stream__=lambda number: lambda: 1 // 0),
    "no stream": holder(queue=int),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_stream(kind: str, gpu: Gpu) -> None:
    with pytest.raises(InvalidOptionError, match=r"stream is .*handle as an int"):
        conv2d(gpu.array(X), gpu.array(W), plan=plan_on(), stream=BROKEN[kind](gpu.driver.stream()))
    assert not gpu.driver.log


def test_default_streams_are_of_their_device(gpu: Gpu) -> None:
    """All have one handle; torch and CuPy say of which device an object is, CuPy -1 where it does not know."""
    x, w, plan = gpu.array(X, 1), gpu.array(W, 1), plan_on("cuda:1")
    for handle in (0, 1, 2):
        for word in ({"cuda_stream": handle, "device_index": 0}, {"ptr": handle, "device_id": 0}):
            with pytest.raises(DeviceMismatchError, match="of device 0, the arrays are on device 1"):
                plan.forward(x, w, stream=SimpleNamespace(**word))
        gpu.driver.log.clear()
        for word in ({"cuda_stream": handle, "device_index": 1}, {"ptr": handle, "device_id": -1}):
            assert is_near(plan.forward(x, w, stream=SimpleNamespace(**word)).host, WANT["forward"])
        assert gpu.streams == {handle}


def test_a_stream_of_another_device(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    install_torch(gpu, monkeypatch)
    x, w, there = Tensor(gpu.array(X).host), Tensor(gpu.array(W).host), gpu.driver.stream(1)
    for stream in (there, Protocol(there), SimpleNamespace(cuda_stream=there, device_index=1)):
        with pytest.raises(DeviceMismatchError, match="of device 1, the arrays are on device 0"):
            conv2d(x, w, plan=plan_on(), stream=stream)
    assert not gpu.driver.log


@pytest.mark.parametrize("null", [None, 0, holder(handle=lambda n: SimpleNamespace(value=None))(0)])
def test_the_default_stream(null: Any, gpu: Gpu) -> None:
    conv2d(gpu.array(X), gpu.array(W), plan=plan_on(), stream=null)
    assert gpu.streams == {0}


# ---- who waits for whom


@pytest.mark.parametrize("name", ["input", "weight", "bias", "out", "workspace"])
def test_an_array_with_a_stream_is_waited_for_and_waits(name: str, gpu: Gpu) -> None:
    """The kernels come after what its stream holds, and what its stream gets next after the kernels."""
    plan, stream, producer = plan_on(), gpu.driver.stream(), gpu.driver.stream()
    given = {"input": X, "weight": W, "bias": BIAS, "out": poisoned(LAYER, "forward")}
    given["workspace"] = np.zeros(plan.workspace_size + 8, np.uint8)
    conv2d(**{n: gpu.array(a, stream=producer if n == name else None) for n, a in given.items()}, stream=stream)
    log = gpu.driver.log
    assert [event.what for event in log] == ["record", "wait", *4 * ["launch"], "record", "wait"]
    for (recorded, waited), (of, to) in ((log[:2], (producer, stream)), (log[-2:], (stream, producer))):
        assert recorded.details == (waited.details[1], of) and waited.details[0] == to
    assert not gpu.driver.events


@pytest.mark.parametrize(("producer", "stream"), [(1, 0), (1, 1), (1, None), (2, 2), ("same", "same")])
def test_one_stream_does_not_wait_for_itself(producer: Any, stream: Any, gpu: Gpu) -> None:
    """0 and 1 are one stream: the CUDA array interface has no 0."""
    same = gpu.driver.stream()
    producer, stream = (same if given == "same" else given for given in (producer, stream))
    conv2d(gpu.array(X, stream=producer), gpu.array(W, stream=producer), plan=plan_on(), stream=stream)
    assert [event.what for event in gpu.driver.log] == 4 * ["launch"]


def test_a_stream_that_fills_an_array_and_is_gone(gpu: Gpu) -> None:
    with pytest.raises(CudaError, match="cuEventRecord: CUDA_ERROR_INVALID_HANDLE"):
        conv2d(gpu.array(X, stream=0x999), gpu.array(W), plan=plan_on())
    assert gpu.driver.log == []


class Exported:
    """An array that shows itself by DLPack alone, on device 1."""

    def __init__(self, host: np.ndarray, gpu: Gpu) -> None:
        self.host, self.gpu = gpu.driver.register(host, 1), gpu

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:
        self.gpu.driver.log.append(SimpleNamespace(what=f"export for {stream}", details=()))
        return self.host.__dlpack__(**options)


def test_arrays_by_dlpack(gpu: Gpu) -> None:
    """Read as they lie, without a wait; before a launch who exports them is told the stream of the call."""
    stream = gpu.driver.stream(1)
    x, w = Exported(X.transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2), gpu), Exported(W.copy(), gpu)
    out = Exported(poisoned(LAYER, "forward"), gpu)
    plan = plan_on("cuda:1")
    assert plan.forward(x, w, out=out, stream=stream) is out and is_near(out.host, WANT["forward"])
    exports = [*3 * ["export for -1"], *3 * [f"export for {stream}"]]
    assert [event.what for event in gpu.driver.log] == [*exports, *4 * ["launch"], *3 * ["record"]]
    assert {event.details[1] for event in gpu.driver.log[-3:]} == {stream}
    gpu.driver.log.clear()
    assert type(plan.forward(x, w)) is DeviceArray
    assert [event.what for event in gpu.driver.log[2:4]] == 2 * ["export for 1"]


# ---- a library like JAX, which has DLPack both ways


JAXLIKE = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])


@JAXLIKE
def test_results_are_taken_by_a_library_with_dlpack(dtype: str, gpu: Gpu) -> None:
    """Arrays of it come back, of its dtype, from all passes; what it does with them next waits for the call."""
    jax, stream = Jax(gpu), gpu.driver.stream(1)
    x, w, dy, bias = (rounded(a, dtype) for a in (X, W, DY, BIAS))
    problem = replace(LAYER, dtype=dtype)
    want = problem.expected(Arrays(*map(widened, (x, w, dy))))
    plan, near = plan_on("cuda:1", problem), 0.02 if dtype != "float32" else 1e-5
    given = [jax.array(a, 1) for a in (x, w, dy, bias)]
    results = {
        "forward": plan.forward(*given[:2], given[3], stream=stream),
        "input_grad": plan.input_grad(given[2], given[1], stream=stream),
        "weight_grad": plan.weight_grad(given[0], given[2], stream=stream),
    }
    want["forward"] = want["forward"] + widened(bias)[:, None, None]
    results["dx"], results["dw"], db = plan.backward(given[2], given[0], given[1], stream=stream)
    for name, got in results.items():
        exact = want[{"dx": "input_grad", "dw": "weight_grad"}.get(name, name)]
        assert type(got) is JaxArray and name_of(got.host.dtype) == dtype and got.device == 1, name
        assert got.shape == exact.shape and np.allclose(widened(got.host), exact, rtol=near, atol=near), name
    assert type(db) is JaxArray and np.allclose(widened(db.host), widened(dy).sum((0, 2, 3)), rtol=near, atol=near)
    assert gpu.streams == {stream}
    assert jax.waits == 6 * [(jax.ready, stream)], "the stream of the library waits for that of the call, each time"


def test_a_library_with_dlpack_is_read_so(gpu: Gpu) -> None:
    """Although it has the CUDA array interface, which names no stream; a call like one of Numba's is no repetition."""
    jax, plan = Jax(gpu), plan_on()
    alike = gpu.array(X), gpu.array(W)
    for array in alike:
        array.host.flags.writeable = False
    for _ in range(2):
        assert type(plan.forward(*alike)) is DeviceArray
    y = plan.forward(jax.array(X), jax.array(W))
    assert type(y) is JaxArray and is_near(y.host, WANT["forward"])
    assert jax.shown[-4:] == [-1, -1, 1, 1], "no wait where it is read, and before the launch the stream of the call"
    mixed = plan.forward(gpu.array(X), jax.array(W)), plan.forward(jax.array(X), gpu.array(W))
    assert [type(each) for each in mixed] == [DeviceArray, JaxArray]
    nothing = jax.array(np.empty((0, 1, 4, 4), np.float32))
    assert conv2d(nothing, jax.array(W)).shape == (0, 1, 3, 3)


def test_immutable_arrays_are_not_written(gpu: Gpu) -> None:
    """A capsule from before DLPack 1.0 does not say that it may be."""
    jax, plan = Jax(gpu), plan_on()
    out = jax.array(poisoned(LAYER, "forward"))
    with pytest.raises(InvalidOptionError, match=r"out is a read-only \S*JaxArray"):
        plan.forward(jax.array(X), jax.array(W), out=out)
    assert np.isnan(out.host).all() and not gpu.driver.log


def test_arrays_by_dlpack_are_held_until_the_stream_is_done(gpu: Gpu) -> None:
    """Their library, which is not told when, would give the memory to another array."""
    jax, plan = Jax(gpu), plan_on()
    x, w = jax.array(X), jax.array(W)
    gone, gpu.driver.is_busy = weakref.ref(x), True
    plan.forward(x, w)
    del x
    gc.collect()
    assert gone() is not None
    clear_cache()
    assert gone() is not None
    gpu.driver.is_busy = False
    clear_cache()
    gc.collect()
    assert gone() is None and not gpu.driver.events


def test_dtypes_that_numpy_has_not_are_named(gpu: Gpu) -> None:
    jax = Jax(gpu)
    with pytest.raises(InvalidTypeError, match=r"input is a \S*JaxArray of dtype float8_e4m3fn"):
        conv2d(jax.array(X.astype(np.uint8), dtype="float8_e4m3fn", code=10), jax.array(W))


def test_read_only_arrays_are_read(gpu: Gpu) -> None:
    x = gpu.array(X)
    x.host.flags.writeable = False
    assert is_near(conv2d(x, gpu.array(W), plan=plan_on()).host, WANT["forward"])


def test_an_empty_array_may_have_no_pointer(gpu: Gpu) -> None:
    shown = {"shape": (0, 1, 4, 4), "typestr": "<f4", "data": (0, False), "version": 3}
    nothing = SimpleNamespace(__cuda_array_interface__=shown)
    assert conv2d(nothing, gpu.array(W)).host.shape == (0, 1, 3, 3)


# ---- workspaces that are kept


def workspaces(gpu: Gpu) -> list[Made]:
    return [made for made in gpu.made if made.dtype == "uint8"]


def test_a_workspace_is_kept_for_each_device_stream_and_thread(gpu: Gpu) -> None:
    stream, there = gpu.driver.stream(), gpu.driver.stream(1)

    def run(stream: int, device: int = 0, problem: Problem = LAYER) -> None:
        a, plan = problem.arrays(), plan_on(f"cuda:{device}", problem)
        for name in PASSES:
            call(plan, Arrays(*(gpu.array(b, device) for b in a)), name, stream=stream)

    for arguments, count in (((0,), 1), ((0,), 1), ((stream,), 2), ((there, 1), 3), ((0, 0), 3)):
        run(*arguments)
        assert len(workspaces(gpu)) == count
    thread = threading.Thread(target=run, args=(0,))
    thread.start()
    thread.join()
    assert len(workspaces(gpu)) == 4
    larger = Problem(4, 8, 4, 4, 8, 2, 2, groups=8, fft_size=4)
    for problem, count in ((larger, 5), (LAYER, 5), (larger, 5)):
        run(0, problem=problem)
        assert len(workspaces(gpu)) == count


def test_clear_cache_frees_them(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this thread at once, those of another at its next call."""
    kept: list[weakref.ref[DeviceArray]] = []
    empty = gpu.empty

    def watched(shape: tuple[int, ...], dtype: str, index: int, stream: int) -> DeviceArray:
        made = empty(shape, dtype, index, stream)
        if dtype == "uint8":
            kept.append(weakref.ref(made))
        return made

    monkeypatch.setattr(arrays, "NUMBA", arrays.Library(lambda index: 0, watched))
    begin, cleared, done = threading.Barrier(2), threading.Event(), []

    def other() -> None:
        conv2d(gpu.array(X), gpu.array(W), plan=plan_on())
        begin.wait(60)
        cleared.wait()
        done.append(kept[1]() is not None)
        conv2d(gpu.array(X), gpu.array(W), plan=plan_on())
        gc.collect()
        done.append(kept[1]() is None)

    conv2d(gpu.array(X), gpu.array(W), plan=plan_on())
    thread = threading.Thread(target=other, daemon=True)  # which a failure here would leave waiting
    thread.start()
    begin.wait(60)
    assert len(kept) == 2 and kept[0]() is not None
    clear_cache()
    gc.collect()
    assert kept[0]() is None
    cleared.set()
    thread.join()
    assert done == [True, True] and len(kept) == 3
