"""What only a GPU shows: layers of real size, and every kernel as the hardware runs it.

The first run compiles kernels for some minutes of one processor, on all that there are; the next finds them on disk.
"""

import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import product_problem
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_gpu import DEVICE, LAYOUTS, NEEDED, assert_same, of_torch, passes, tensor, tensors, torch
from strategies import PASSES, Arrays, Problem, Recorder, Scope, check_layer, problems

from numba_fftconv import plan_conv2d
from numba_fftconv.cuda import call as cuda_call
from numba_fftconv.cuda import cubins, driver, fft2d
from numba_fftconv.cuda.driver import UNASKED_SHARED_BYTES, At, Launch
from numba_fftconv.cuda.product import FORMS, product_kernel
from numba_fftconv.cuda.tensor_tiles import TENSOR_TILES
from numba_fftconv.cuda.tiles import TILES
from numba_fftconv.cuda.toolchain import Kernel
from numba_fftconv.dtypes import HALVES
from numba_fftconv.options import CODELET_SIZES

TENSOR = [tile for tiles in TENSOR_TILES.values() for tile in tiles]
DRAWN = (8, 12, 16, 64)  # transform lengths of drawn layers
SCOPE = Scope(fft_sizes=(8, 8, 12, 16, 16, 64))
pytestmark = NEEDED


# ---- compiling, by as many processes as there are processors


def compile_transform(device: driver.Device, name: str, T: int, half: bool, spaced: bool) -> None:
    kernel = getattr(fft2d, name)((T, T), fft2d.tile_planes((T, T), device.shared_bytes), half, spaced)
    cubins.binary(kernel, device.architecture)


def compile_product(device: driver.Device, pass_name: str, tile: int, vec: int) -> None:
    cubins.binary(product_kernel(pass_name, TILES[tile], vec), device.architecture)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """The kernels that most tests use are on disk."""
    forms = [(T, half, spaced) for T in CODELET_SIZES for half in (False, True) for spaced in (False, True)]
    needed = [form for form in forms[::-1] if not form[2] or form[0] in DRAWN]  # the longest compilations first
    names, products = ("transform_kernel", "inverse_kernel"), itertools.product(FORMS, range(len(TILES)), (1, 2))
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        device = driver.device(0)
        made = [pool.submit(compile_transform, device, name, *form) for form in needed for name in names]
        made += [pool.submit(compile_product, device, *form) for form in products]
        for each in made:
            each.result()


# ---- against the definition, and against torch in float64

PUBLISHED = {
    "L1": Problem(4, 3, 128, 128, 96, 11, 11, fft_size=None),
    "L2": Problem(4, 64, 64, 64, 64, 9, 9, fft_size=None),
    "L3": Problem(16, 128, 32, 32, 128, 9, 9, fft_size=None),
    "L4": Problem(32, 128, 16, 16, 128, 7, 7, fft_size=None),
    "L5": Problem(32, 384, 13, 13, 384, 3, 3, fft_size=None),
}
SIDES = {f"k{k}": Problem(8, 64, 64, 64, 64, k, k, padding=k // 2, fft_size=None) for k in range(3, 33, 4)}
OTHERS = {
    "strided": Problem(16, 3, 224, 224, 64, 11, 11, stride=4, padding=2, fft_size=None),
    "dilated": Problem(8, 32, 56, 56, 48, 5, 5, padding=4, dilation=2, fft_size=None),
    "grouped": Problem(16, 96, 27, 27, 128, 5, 5, padding=2, groups=4, fft_size=None),
    "depthwise": Problem(8, 128, 56, 56, 128, 31, 31, padding=15, groups=128, fft_size=None),
    "one image": Problem(1, 1, 1024, 1024, 1, 31, 31, batched=False, fft_size=None),
}
REAL = {**PUBLISHED, **SIDES, **OTHERS}


def check_relative(problem: Problem, record: Recorder, title: str) -> None:
    """The relative L2 error of each pass, against torch."""
    plan, a = problem.plan(device="cuda"), tensors(problem)
    got, want = passes(plan, a), of_torch(problem, a)
    for name in PASSES:
        error = float((got[name].double() - want[name]).norm() / want[name].norm())
        allowed = problem.tolerance(plan, name)
        record(f"{name}, {title}", error / allowed, f"T = {plan.fft_size}, {problem}")
        assert error <= allowed, f"{name}: relative error {error:.3g}, allowed {allowed:.3g} with T = {plan.fft_size}"


@pytest.mark.parametrize("name", REAL)
def test_layers_of_real_size(name: str, record_worst: Recorder) -> None:
    check_relative(REAL[name], record_worst, "GPU, real size")


@pytest.mark.parametrize("T", CODELET_SIZES)
def test_every_length(T: int, record_worst: Recorder) -> None:
    """In segments, and in one."""
    k = min(T, 3)
    for side in (max(1, T - k + 1), 2 * T + 1):
        check_relative(Problem(5, 6, side, side, 10, k, k, padding=1, fft_size=T), record_worst, "GPU, every T")


@pytest.mark.parametrize("size", [(128, 128), (256, 256), (128, 16), (8, 256), (256, 20), (2, 64), (48, 10)], ids=str)
def test_large_and_unequal_sizes(size: tuple[int, int], record_worst: Recorder) -> None:
    """In segments, and in one; spaced samples; kernels of as many taps as planes have samples."""
    k = tuple(max(1, T // 16) for T in size)
    for spread in (1, 2):
        sides = [spread * (T - taps + 1) + 1 for T, taps in zip(size, k, strict=True)]
        check_relative(Problem(3, 6, *sides, 10, *k, padding=1, fft_size=size), record_worst, "GPU, large and unequal")
    few = (1 if T < 4 else 2 for T in size)
    check_relative(Problem(3, 4, 90, 61, 6, *few, stride=2, dilation=3, fft_size=size), record_worst, "GPU, spaced")
    whole = [T // 2 + 1 for T in size]
    check_relative(Problem(40, 2, *whole, 3, *whole, fft_size=size), record_worst, "GPU, one sample a plane")


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("T", [16, 64, 128])
def test_halves_are_rounded_once(T: int, dtype: str) -> None:
    """The result has the bits of that of float32, rounded to the nearest."""
    problem, kind = Problem(5, 6, 2 * T + 1, T, 10, 3, 5, padding=1, fft_size=T), getattr(torch, dtype)
    halves = Arrays(*(array.to(kind) for array in tensors(problem)))
    reals = Arrays(*(array.float() for array in halves))
    got = passes(replace(problem, dtype=dtype).plan(device="cuda"), halves)
    want = passes(problem.plan(device="cuda"), reals)
    for name in PASSES:
        assert got[name].dtype == kind and torch.equal(got[name], want[name].to(kind)), name


def test_tuned_plans(tmp_path: Path) -> None:
    """What wins is read back, and changes no bit where the size is kept."""
    problem = Problem(16, 64, 32, 32, 64, 5, 5, padding=2, fft_size=None)
    plan, a, path = problem.plan(device="cuda"), tensors(problem), tmp_path / "tuning.json"
    same, best = plan.tune(keep_fft_size=True, store=None), plan.tune(store=path)
    assert same.fft_size == plan.fft_size and not problem.plan(device="cuda").kernels.tiles
    for name, got in passes(same, a).items():
        assert_same(got, passes(plan, a)[name], name)
    options = {**problem.options, "device": "cuda", "tuning": path}
    assert plan_conv2d(problem.x_shape, problem.w_shape, **options) == best
    for name, got in passes(best, a).items():
        want = of_torch(problem, a)[name]
        assert float((got.double() - want).norm() / want.norm()) < problem.tolerance(best, name), name


@settings(max_examples=100)
@given(problem=problems(dtypes=("float32",), scope=SCOPE), layouts=st.tuples(*4 * [st.sampled_from(LAYOUTS)]))
def test_drawn_layers(problem: Problem, layouts: tuple[str, ...], record_worst: Recorder) -> None:
    """By the doors, every operand and result lying as drawn, results over poison, operands left as they were."""
    plan = problem.plan(device="cuda")
    check_layer(problem, plan, layouts, record_worst, "GPU, drawn", tensor, lambda held: held.cpu().numpy())


def test_more_than_31_bits_of_samples() -> None:
    """Images at both ends, and about sample 2**31, against themselves alone."""
    N, side = 2**21 + 8, 32
    if torch.cuda.mem_get_info(DEVICE)[0] < 30e9:
        pytest.skip("needs 30 GB of free GPU memory")
    plan = plan_conv2d((N, 1, side, side), (1, 1, 3, 3), padding=1, device="cuda", workspace_limit=4 << 30)
    x, w = torch.randn(N, 1, side, side, device=DEVICE), torch.randn(1, 1, 3, 3, device=DEVICE)
    y = torch.full_like(x, torch.nan)
    some = torch.tensor([0, 1, N // 2, 2**21 - 1, 2**21, N - 1], device=DEVICE)
    for name, theirs in (("forward", "forward"), ("input_grad", "input_grad")):
        getattr(plan, name)(x, w, out=y)
        sample = Problem(len(some), 1, side, side, 1, 3, 3, padding=1)
        want = of_torch(sample, Arrays(x[some], w, x[some]))[theirs]
        assert float((y[some].double() - want).norm() / want.norm()) < sample.tolerance(plan, name)
        assert not y.isnan().any()


# ---- products alone, every tile


def launch(kernel: Kernel, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
    """Run a kernel on copies of the arrays among its arguments, and copy them back."""
    held = {f"{i}": (a, torch.from_numpy(a).to(DEVICE)) for i, a in enumerate(arguments) if isinstance(a, np.ndarray)}
    packed = [At(f"{i}") if f"{i}" in held else argument for i, argument in enumerate(arguments)]
    ready = Launch(kernel, grid, packed, driver.device(0))
    with driver.on(0):
        pointers = {name: there.data_ptr() for name, (_, there) in held.items()}
        ready.launch(torch.cuda.current_stream(DEVICE).cuda_stream, pointers)
    for here, there in held.values():
        here[...] = there.cpu().numpy()


@pytest.mark.parametrize("config", TILES, ids=str)
@pytest.mark.parametrize("pass_name", FORMS)
@pytest.mark.parametrize("odd", [0, 1], ids=["even", "odd"])
def test_every_tile(pass_name: str, config: Any, odd: int) -> None:
    """Several blocks, ragged on every side, groups, a sum that goes on, a depth of more slabs than are kept."""
    rows, columns, depth = 2 * config.BM - 2 - odd, 2 * config.BN - 4 + odd, config.BK * (config.stages + 1) - 2 + odd
    problem = product_problem.Problem(pass_name, rows, columns, depth, bins=3, groups=2, gap=2)
    for accumulate in (False, True):
        product_problem.check_product(launch, replace(problem, accumulate=accumulate), config)


@pytest.mark.parametrize("config", TENSOR, ids=lambda config: f"{config.precision}-{config}")
@pytest.mark.parametrize("pass_name", FORMS)
@pytest.mark.parametrize("odd", [0, 1], ids=["even", "odd"])
def test_every_tensor_tile(pass_name: str, config: Any, odd: int) -> None:
    """The same on tensor cores; how they round is for the test of accuracy."""
    test_every_tile(pass_name, config, odd)


@pytest.mark.parametrize("precision", TENSOR_TILES)
def test_sums_of_tensor_cores(precision: str) -> None:
    """Deep sums: the error of tf32x3 is at most that of fp32, and no precision loses more with the depth."""
    errors = {}
    for depth in (64, 4096):
        problem = product_problem.Problem("forward", 64, 64, depth)
        arrays = problem.arrays()
        exact, _ = problem.expected(*arrays)
        for config in (TENSOR_TILES[precision][0], TILES[3]):
            got = product_problem.multiply(launch, problem, config, arrays).reshape(exact.shape)
            errors[config.precision, depth] = np.linalg.norm(got - exact) / np.linalg.norm(exact)
        if precision == "tf32x3":
            assert errors[precision, depth] <= errors["fp32", depth]
    assert errors[precision, 4096] <= {"tf32x3": 6e-7, "bf16x3": 6e-6, "tf32": 4e-4}[precision]


@pytest.mark.parametrize("pass_name", FORMS)
def test_pointwise_products(pass_name: str) -> None:
    for rows, channels, multiplier in ((1, 1, 1), (33, 50, 3), (300, 257, 2)):
        for accumulate in (False, True):
            product_problem.check_pointwise(launch, pass_name, rows, channels, multiplier, accumulate)


# ---- shared memory that needs the driver's leave


def test_tiles_beyond_48_kilobytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """T = 64 with four planes a block; where a device has less, two planes give the same bits."""
    problem = Problem(3, 5, 100, 90, 7, 9, 9, padding=4, fft_size=64)
    plan, a, real = problem.plan(device="cuda"), tensors(problem), driver.device(0)
    want = passes(plan, a)
    small = replace(real, shared_bytes=UNASKED_SHARED_BYTES)
    planes = [fft2d.tile_planes((64, 64), device.shared_bytes) for device in (real, small)]
    assert planes == [4, 2] and fft2d.shared_bytes((64, 64), 4) > UNASKED_SHARED_BYTES
    monkeypatch.setattr(cuda_call, "device", lambda index: small)
    for name, got in passes(plan, a).items():
        assert_same(got, want[name], name)
