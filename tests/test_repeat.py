"""Calls like one before: the same bits by four launches and nothing else, and every check of the first call."""

from typing import Any

import numpy as np
import pytest
from fake_driver import fixture_of_fake_driver  # noqa: F401
from fake_libraries import Gpu, fixture_of_gpu  # noqa: F401
from machine_code import compiles
from strategies import Problem

from numba_fftconv import FFTConvError

pytestmark = compiles

LAYER = Problem(1, 1, 4, 4, 1, 2, 2, fft_size=4)
X, W, _ = LAYER.arrays()
HARMLESS = {"cuLaunchKernel", "cuCtxGetCurrent", "cuPointerGetAttribute", "cuCtxPushCurrent", "cuCtxPopCurrent"}


def counted(gpu: Gpu) -> list[str]:
    """The calls of the driver from now on, by name."""
    calls: list[str] = []
    for name in [name for name in dir(gpu.driver) if name.startswith("cu") and name != "current"]:
        if not callable(function := getattr(gpu.driver, name)):
            continue

        def call(*arguments: Any, name: str = name, function: Any = function) -> Any:
            calls.append(name)
            return function(*arguments)

        setattr(gpu.driver, name, call)
    return calls


def test_a_repeated_call_can_be_captured(gpu: Gpu) -> None:
    """Four launches; nothing is allocated, waited for or recorded; the bits of the first call, wherever arrays lie."""
    calls, plan = counted(gpu), LAYER.plan(device="cuda")
    first = np.array(plan.forward(gpu.array(X), gpu.array(W)).host)
    space = gpu.array(np.zeros(plan.workspace_size, np.uint8))
    for turn in range(3):
        x, w, y = gpu.array(X), gpu.array(W), gpu.array(np.full_like(first, np.nan))
        calls.clear()
        gpu.made.clear()
        assert plan.forward(x, w, out=y, workspace=space) is y
        assert np.array_equal(y.host, first)
        assert calls.count("cuLaunchKernel") == 4 and not gpu.made
        assert turn == 0 or set(calls) <= HARMLESS
    assert np.array_equal(plan.forward(gpu.array(X), gpu.array(W)).host, first) and len(gpu.made) == 1


@pytest.mark.parametrize("wrong", ["out over input", "out over workspace", "device", "stream", "misaligned"])
def test_every_check_is_made_again(wrong: str, gpu: Gpu) -> None:
    plan = LAYER.plan(device="cuda")
    x, w, y = gpu.array(X), gpu.array(W), gpu.array(np.zeros((1, 1, 3, 3), np.float32))
    space = gpu.array(np.zeros(plan.workspace_size, np.uint8))
    plan.forward(x, w, out=y, workspace=space)
    given: dict[str, Any] = {"out": y, "workspace": space}
    if wrong == "out over input":
        given["out"] = gpu.lying(x.host.reshape(-1)[:9].reshape(1, 1, 3, 3))
    elif wrong == "out over workspace":
        given["out"] = gpu.lying(space.host[:36].view(np.float32).reshape(1, 1, 3, 3))
    elif wrong == "device":
        w = gpu.array(W, 1)
    elif wrong == "stream":
        given["stream"] = gpu.driver.stream(1)
    else:
        odd = gpu.driver.empty(37, np.uint8)[1:]
        given["out"] = gpu.lying(odd.view(np.float32).reshape(1, 1, 3, 3))
    launched = len(gpu.driver.launches())
    with pytest.raises(FFTConvError):
        plan.forward(x, w, **given)
    assert len(gpu.driver.launches()) == launched


def test_streams_wait_in_a_repeated_call_too(gpu: Gpu) -> None:
    plan, stream, producer = LAYER.plan(device="cuda"), gpu.driver.stream(), gpu.driver.stream()
    x, w = gpu.array(X, stream=producer), gpu.array(W)
    for _ in range(2):
        gpu.driver.log.clear()
        plan.forward(x, w, stream=stream)
        assert [event.what for event in gpu.driver.log] == ["record", "wait", *4 * ["launch"], "record", "wait"]
