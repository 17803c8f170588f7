"""Arrays of every library, with any strides, are read as they lie, and results come back as what the caller uses."""

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_fftconv import (
    InvalidOptionError,
    conv2d,
    conv2d_backward,
    conv2d_input_grad,
    conv2d_weight_grad,
    plan_conv2d,
)
from numba_fftconv.arrays import aligned, host, like, output, scratch

# ---- libraries


class Foreign:
    """An array of a library that shares nothing with ours but DLPack."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __array_namespace__(self) -> SimpleNamespace:
        return SimpleNamespace(from_dlpack=lambda array: Foreign(np.from_dlpack(array)))


class Unversioned(Foreign):
    """The same before DLPack 1.0, when no capsule said whether it may be written."""

    def __dlpack__(self, stream: None = None) -> Any:
        return self.array.__dlpack__()


def torch_from_numpy(array: np.ndarray) -> Any:
    return pytest.importorskip("torch").from_numpy(array)


Library = Callable[[np.ndarray], Any]
LIBRARIES: dict[str, Library] = {"numpy": np.asarray, "torch": torch_from_numpy, "foreign": Foreign}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    return LIBRARIES[request.param]


# ---- doors


def random(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


X, W, DY, BIAS = random(2, 4, 9, 8), random(6, 2, 3, 3), random(2, 6, 5, 4), random(6)
OPTIONS = {"stride": 2, "padding": 1, "groups": 2}
Door = tuple[Callable[..., Any], tuple[np.ndarray, ...], tuple[int, ...]]
DOORS: dict[str, Door] = {
    "conv2d": (lambda x, w, b, **out: conv2d(x, w, b, **OPTIONS, **out), (X, W, BIAS), DY.shape),
    "conv2d_input_grad": (lambda w, dy, **out: conv2d_input_grad(X.shape, w, dy, **OPTIONS, **out), (W, DY), X.shape),
    "conv2d_weight_grad": (lambda x, dy, **out: conv2d_weight_grad(x, W.shape, dy, **OPTIONS, **out), (X, DY), W.shape),
}


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


def test_the_result_is_an_array_of_the_callers_library(door: Door, library: Library) -> None:
    call, arguments, shape = door
    before = [a.copy() for a in arguments]
    result = call(*map(library, arguments))
    assert type(result) is type(library(np.empty(0, "float32")))
    assert host(result, "result").shape == shape
    np.testing.assert_array_equal(host(result, "result"), call(*arguments))
    assert all(np.array_equal(a, b) for a, b in zip(arguments, before, strict=True))


def test_the_first_array_decides_the_library(door: Door) -> None:
    call, arguments, _ = door
    assert type(call(Foreign(arguments[0]), *arguments[1:])) is Foreign
    assert type(call(arguments[0], *map(Foreign, arguments[1:]))) is np.ndarray


def test_the_gradients_of_backward_are_in_the_callers_library(library: Library) -> None:
    grads = conv2d_backward(*map(library, (DY, X, W)), **OPTIONS)
    wanted = conv2d_input_grad(X.shape, W, DY, **OPTIONS), conv2d_weight_grad(X, W.shape, DY, **OPTIONS)
    for got, want in zip(grads, (*wanted, DY.sum((0, 2, 3))), strict=True):
        assert type(got) is type(library(want))
        np.testing.assert_allclose(host(got, "gradient"), want, rtol=1e-5, atol=1e-5)
    assert conv2d_backward(DY, X, W, **OPTIONS, output_mask=(False, False, True))[:2] == (None, None)


def test_out_is_written_and_returned(door: Door, library: Library) -> None:
    call, arguments, shape = door
    memory = np.full(shape, np.nan, "float32")
    out = library(memory)
    assert call(*map(library, arguments), out=out) is out
    np.testing.assert_array_equal(memory, call(*arguments))


def test_a_spectral_weight_leaves_the_library_to_the_gradient() -> None:
    plan = plan_conv2d(X.shape, W.shape, **OPTIONS, device="cpu")
    spectral = plan.transform_weight(W)
    assert type(conv2d_input_grad(X.shape, spectral, Foreign(DY), **OPTIONS)) is Foreign
    np.testing.assert_array_equal(conv2d(X, spectral, BIAS, plan=plan), conv2d(X, W, BIAS, plan=plan))


def test_a_plan_brings_the_options_that_are_left_out() -> None:
    plan = plan_conv2d(X.shape, W.shape, **OPTIONS, device="cpu")
    np.testing.assert_array_equal(conv2d(X, W, BIAS, plan=plan), plan.forward(X, W, BIAS))
    np.testing.assert_array_equal(conv2d(X, W, BIAS, stride=(2, 2), plan=plan), plan.forward(X, W, BIAS))
    np.testing.assert_array_equal(conv2d_input_grad(X.shape, W, DY, plan=plan), plan.input_grad(DY, W))


def test_no_framework_is_imported() -> None:
    code = (
        "import sys, numpy as np, numba_fftconv\n"
        "x = np.ones((1, 1, 4, 4), np.float32)\n"
        "numba_fftconv.conv2d(x, x)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'cupy', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- strides


def unaligned(array: np.ndarray) -> np.ndarray:
    memory = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    memory[...] = array
    return memory


def field(array: np.ndarray) -> np.ndarray:
    """The same samples as a field of records, with strides that are no multiple of a sample."""
    records = np.zeros(array.shape, np.dtype([("sample", array.dtype), ("mark", np.int16)]))
    records["sample"] = array
    return records["sample"]


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flipped": lambda a: np.flip(np.flip(a).copy()),
    "channels last": lambda a: np.moveaxis(np.moveaxis(a, -3, -1).copy(), -1, -3),
    "transposed": lambda a: a.T.copy().T,
    "every third": lambda a: np.repeat(a, 3, axis=-1)[..., ::3],
    "read-only": read_only,
    "unaligned": unaligned,
    "field": field,
}


@pytest.mark.parametrize("view", VIEWS)
def test_every_layout_gives_the_same_bits(door: Door, view: str) -> None:
    call, arguments, _ = door
    views = [VIEWS[view](a) if a.ndim == 4 else a for a in arguments]
    assert all(np.array_equal(v, a) for v, a in zip(views, arguments, strict=True))
    np.testing.assert_array_equal(call(*views), call(*arguments))


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (3,), (0, 1, 2, 3)])
def test_zero_strides_are_read(axes: tuple[int, ...]) -> None:
    one = X[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(4))]
    repeated = np.broadcast_to(one, X.shape)
    np.testing.assert_array_equal(conv2d(repeated, W, BIAS, **OPTIONS), conv2d(repeated.copy(), W, BIAS, **OPTIONS))


@given(st.permutations(range(4)), st.tuples(*[st.sampled_from([-3, -2, -1, 1, 2, 3])] * 4))
def test_any_strides_are_read_and_written(order: list[int], steps: tuple[int, ...]) -> None:
    def scattered(shape: tuple[int, ...]) -> np.ndarray:
        """NaN of this shape, its axes in another order of memory and each with its own step."""
        memory = np.full([shape[axis] * abs(steps[axis]) for axis in order], np.nan, "float32")
        return memory.transpose(np.argsort(order))[tuple(slice(None, None, step) for step in steps)]

    x, y = scattered(X.shape), scattered(DY.shape)
    x[...] = X
    conv2d(x, W, BIAS, **OPTIONS, out=y)
    np.testing.assert_array_equal(y, conv2d(X, W, BIAS, **OPTIONS))
    assert y.base is not None and np.isnan(y.base).sum() == y.base.size - y.size


@pytest.mark.parametrize("view", ["flipped", "channels last", "transposed", "every third", "read-only"])
def test_what_is_aligned_is_not_copied(view: str) -> None:
    array = VIEWS[view](X)
    assert aligned(array) is array


@pytest.mark.parametrize("view", ["unaligned", "field"])
def test_what_is_not_aligned_is_copied(view: str) -> None:
    read = aligned(VIEWS[view](X))
    assert read.flags.aligned and all(stride % 4 == 0 for stride in read.strides)
    np.testing.assert_array_equal(read, X)


# ---- memory


def test_host_shares_memory(library: Library) -> None:
    array = random(3, 4)
    view = host(library(array), "input")
    assert type(view) is np.ndarray and np.shares_memory(view, array) and view.flags.writeable


def test_like_shares_memory(library: Library) -> None:
    array = random(3, 4)
    made = like(array, library(np.empty(0, "float32")))
    assert np.shares_memory(host(made, "result"), array)


def test_an_unknown_library_gets_numpy() -> None:
    assert type(like(X, object())) is np.ndarray


def test_out_of_an_unversioned_exporter_is_read_only() -> None:
    assert np.array_equal(host(Unversioned(X), "input"), X)
    with pytest.raises(InvalidOptionError, match="read-only"):
        output(Unversioned(X.copy()), X.shape, "float32", {})


def test_interleaved_arrays_do_not_overlap() -> None:
    memory = np.empty((2, 6, 10), "float32")
    even, odd = memory[..., ::2], memory[..., 1::2]
    assert output(odd, odd.shape, "float32", {"input": even}) is not None
    with pytest.raises(InvalidOptionError, match="shares memory with input"):
        output(even, even.shape, "float32", {"input": memory})


@pytest.mark.parametrize("view", ["unaligned", "field"])
def test_out_must_not_overlap_what_is_copied(view: str) -> None:
    """An unaligned operand is read from a copy, and is not to be written all the same."""
    array = VIEWS[view](X)
    over = np.ndarray(DY.shape, "float32", array.base, offset=-array.base.ctypes.data % 4)
    with pytest.raises(InvalidOptionError, match="shares memory with input"):
        conv2d(array, W, **OPTIONS, out=over)


def test_new_output_without_out() -> None:
    made = output(None, (2, 3), "float64", {})
    assert made.shape == (2, 3) and made.dtype == np.float64 and made.flags.c_contiguous


def test_an_empty_out_may_have_any_strides() -> None:
    empty = np.broadcast_to(np.empty((0, 1), "float32"), (0, 5))
    empty.flags.writeable = True
    assert output(empty, (0, 5), "float32", {}).shape == (0, 5)


@pytest.mark.parametrize("offset", [0, 1, 63])
@pytest.mark.parametrize("nbytes", [64, 100, 4096])
def test_scratch_begins_at_a_cache_line(offset: int, nbytes: int) -> None:
    memory = np.zeros(offset + nbytes, np.uint8)
    work = scratch(memory[offset:], nbytes, {})
    assert work.dtype == np.uint8 and work.ndim == 1 and nbytes - 128 < len(work) <= nbytes and len(work) % 64 == 0
    assert not len(work) or work.ctypes.data % 64 == 0
    work[...] = 1
    assert memory.sum() == len(work) and not memory[:offset].any()


@pytest.mark.parametrize("shape", [(8, 32), (1, 8, 32)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_scratch_takes_any_contiguous_array(library: Library, shape: tuple[int, ...], order: Any) -> None:
    memory = np.zeros(shape, "float64", order=order)
    assert np.shares_memory(scratch(library(memory), memory.nbytes, {}), memory)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_empty_batch_gives_an_empty_result(library: Library, dtype: str) -> None:
    x, w, dy = np.empty((0, 4, 9, 8), dtype), W.astype(dtype), np.empty((0, 6, 5, 4), dtype)
    assert host(conv2d(library(x), library(w), **OPTIONS), "y").shape == dy.shape
    assert host(conv2d_input_grad(x.shape, library(w), library(dy), **OPTIONS), "dx").shape == x.shape
    dw = host(conv2d_weight_grad(library(x), w.shape, library(dy), **OPTIONS), "dw")
    assert dw.shape == w.shape and not dw.any()
