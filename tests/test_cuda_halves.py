"""float16 and bfloat16 on a GPU: what conversions kernels are made of, that they cost no registers, and what they make.

Run by the PTX machine, from the code that Numba makes for sm_90; arrays of torch, CuPy and Numba are those of
fake_libraries.py.
"""

from typing import Any

import numpy as np
import pytest
from fake_driver import fixture_of_fake_driver  # noqa: F401
from fake_libraries import (
    CupyArray,
    Dtype,
    Gpu,
    Tensor,
    fixture_of_gpu,  # noqa: F401
    install_cupy,
    install_torch,
)
from machine_code import compiles, reads_code, report
from ptx_checks import launch
from strategies import Arrays, Problem
from test_halves import PATTERNS, hard_to_round, nearest, values
from transform_problem import UNIT, loaded, stored

from numba_fftconv import UnsupportedError, conv2d, conv2d_backward, inverse, transform
from numba_fftconv.cuda import arrays, fft2d, libraries
from numba_fftconv.cuda.intrinsics import place_sample, samples_of
from numba_fftconv.cuda.sums import Extents, sum_kernel
from numba_fftconv.cuda.toolchain import REALS, Kernel
from numba_fftconv.dtypes import HALVES, name_of, numpy_dtype, rounded, widened

pytestmark = compiles
both = pytest.mark.parametrize("dtype", HALVES)
THREADS = 1024


def copy_kernel(source: str, target: str) -> Kernel:
    """One sample a thread, from one dtype to another."""
    from numba import cuda, uint32, uint64

    load, store = samples_of(source).load, samples_of(target).store

    def copy(gx: Any, gy: Any) -> None:
        i = uint64(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
        store(gy, place_sample(gy, i), load(gx, place_sample(gx, i)))

    return Kernel(f"copy_{source}_{target}", copy, (samples_of(source).pointer, samples_of(target).pointer), THREADS, 0)


def copied(source: str, target: str, array: np.ndarray) -> np.ndarray:
    out = np.full(array.shape, 7, np.float32 if target == "float32" else np.uint16)
    launch(copy_kernel(source, target), (len(array) // THREADS, 1, 1), (array, out))
    return out


@both
def test_every_sample_is_loaded_and_stored_as_it_is(dtype: str) -> None:
    want = values(dtype)
    got, number = copied(dtype, "float32", PATTERNS), ~np.isnan(want)
    assert np.array_equal(got, want, equal_nan=True) and np.array_equal(np.signbit(got), PATTERNS >> 15 == 1)
    back = copied("float32", dtype, got)
    assert np.array_equal(back[number], PATTERNS[number]) and np.isnan(want[back[~number]]).all()


@both
def test_numbers_are_stored_as_the_nearest_sample(dtype: str) -> None:
    reals = hard_to_round(dtype)
    some = reals[:: max(1, len(reals) // 2**16)][: 2**16 // THREADS * THREADS]
    some = some[: len(some) // THREADS * THREADS].copy()
    assert np.array_equal(copied("float32", dtype, some), nearest(some, dtype))


@both
def test_sums_of_a_bias_gradient(dtype: str) -> None:
    """Added in float32: in a half 256 or 2048 plus one may be the same."""
    gy = stored(1 + np.random.default_rng(0).integers(-2, 3, (3, 2, 40, 37)), dtype)
    total = stored(np.full(2, np.nan), dtype)
    steps = (stride // gy.itemsize for stride in gy.strides)
    launch(sum_kernel(dtype), (2, 1, 1), (gy, total, Extents(3, 40, 37, *steps)))
    exact = loaded(gy, dtype).astype(np.float64).sum((0, 2, 3))
    assert np.array_equal(total, nearest(exact, dtype))


@reads_code
@both
@pytest.mark.parametrize("T, architecture", [(8, (8, 0)), (16, (9, 0))])
def test_a_conversion_a_sample_and_no_register_more(dtype: str, T: int, architecture: tuple[int, int]) -> None:
    size = T, T
    B = fft2d.tile_planes(size, 100_000)
    single = report(fft2d.transform_kernel(size, B), architecture)
    found = report(fft2d.transform_kernel(size, B, samples=dtype), architecture)
    assert found.registers <= single.registers and (found.stack, found.local) == (0, 0)
    assert found.count(r"LDG\.E\.U16") == 2 * T and found.count(r"LDG\.E$") == 0 and found.fp == single.fp
    assert found.total <= 1.06 * single.total
    assert dtype == "bfloat16" or found.count(r"HADD2\.F32") == 2 * T

    single = report(fft2d.inverse_kernel(size, B), architecture)
    found = report(fft2d.inverse_kernel(size, B, samples=dtype), architecture)
    assert found.registers <= single.registers and (found.stack, found.local) == (0, 0)
    assert found.count(r"STG\.E\.U16") == 2 * T and found.count(r"STG\.E$") == 0 and found.fp == single.fp
    assert found.count(r"F2FP\..*PACK_AB") == 2 * T
    assert found.total <= 1.08 * single.total


def test_names_tell_the_dtype() -> None:
    names = {fft2d.inverse_kernel((8, 8), 4, samples=dtype).name for dtype in UNIT}
    assert names == {"inverse_t8_b4", "inverse_t8_b4_f16", "inverse_t8_b4_bf16"}
    assert {sum_kernel(dtype).name for dtype in UNIT} == {"sum_planes", "sum_planes_f16", "sum_planes_bf16"}
    assert samples_of("float32").pointer is REALS


# ---- whole layers ----------------------------------------------------------------------------------------------------

LAYER = Problem(1, 1, 4, 4, 1, 2, 2, fft_size=4)  # whose product takes milliseconds, without a sum over channels


def rough(dtype: str) -> tuple[Arrays, np.ndarray, dict[str, np.ndarray]]:
    """Arrays and a bias in a half dtype, and what they make by the definition."""
    a, bias = Arrays(*(rounded(b, dtype) for b in LAYER.arrays())), rounded(LAYER.bias(), dtype)
    want = LAYER.expected(Arrays(*map(widened, a)))
    return a, bias, {**want, "forward": want["forward"] + widened(bias)[:, None, None]}


def is_near(got: np.ndarray, want: np.ndarray, dtype: str) -> bool:
    assert name_of(got.dtype) == dtype and got.shape == want.shape
    return bool((np.abs(widened(got) - want) <= 1.01 * UNIT[dtype] * np.abs(want) + 1e-5).all())


@both
def test_tensors_of_torch(dtype: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    install_torch(gpu, monkeypatch)
    a, bias, want = rough(dtype)
    x, w, dy, b = (Tensor(gpu.array(each).host, dtype=dtype) for each in (*a, bias))
    plan = LAYER.plan(device="cuda", dtype=dtype)
    y = conv2d(x, w, b, plan=plan)
    assert type(y) is Tensor and y.dtype == dtype and is_near(y.host, want["forward"], dtype)
    gradients = conv2d_backward(dy, x, w, plan=plan)
    sums = widened(a.dy).sum((0, 2, 3))
    for got, exact in zip(gradients, (want["input_grad"], want["weight_grad"], sums), strict=True):
        assert type(got) is Tensor and is_near(got.host, exact, dtype)
    turned = gpu.lying(np.ascontiguousarray(a.x.swapaxes(2, 3))).host.swapaxes(2, 3)
    out = Tensor(gpu.array(np.full(y.shape, 0xFFFF, np.uint16).view(numpy_dtype(dtype))).host, dtype=dtype)
    assert conv2d(Tensor(turned, dtype=dtype), w, b, plan=plan, out=out) is out
    assert np.array_equal(out.host.view(np.uint16), y.host.view(np.uint16))
    back = inverse(transform(x, 4), (4, 4), dtype=dtype)
    assert np.array_equal(back.host.view(np.uint16), x.host.view(np.uint16))


@both
def test_arrays_of_cupy(dtype: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA array interface calls a bfloat16 two bytes; the array itself knows better."""
    cupy = install_cupy(gpu, monkeypatch)
    monkeypatch.setattr(CupyArray, "dtype", Dtype(dtype), raising=False)
    a, bias, want = rough(dtype)
    y = conv2d(cupy.array(a.x), cupy.array(a.w), cupy.array(bias), plan=LAYER.plan(device="cuda", dtype=dtype))
    assert type(y) is CupyArray and is_near(y.host, want["forward"], dtype)


def test_arrays_of_numba(gpu: Gpu) -> None:
    a, _, want = rough("float16")
    w, dy = map(gpu.array, a[1:])
    plan = LAYER.plan(device="cuda", dtype="float16")
    spectral = plan.transform_weight(w)
    assert spectral.dtype == "float16" and spectral.array.dtype == np.complex64
    for weight in (w, spectral):
        assert is_near(plan.input_grad(dy, weight).host, want["input_grad"], "float16")
    with pytest.raises(UnsupportedError, match=r"would be of bfloat16: .* pass out"):
        libraries.NUMBA.empty((2, 2), "bfloat16", 0, 0)


def test_bfloat16_by_dlpack() -> None:
    """What cuda.core makes of it with ml_dtypes and without; the memory is that of a CPU, which nobody asks about."""
    torch = pytest.importorskip("torch")
    tensor = torch.arange(12.0).bfloat16().reshape(3, 4)
    got = arrays._dlpack_view(tensor.mT, lambda: "x is a tensor")
    assert name_of(got.dtype) == "bfloat16" and got.shape == (4, 3) and got.pointer == tensor.data_ptr()
    assert got.strides == (2, 8)
