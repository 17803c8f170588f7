"""float16 and bfloat16: a pass of half arrays is the pass of the same numbers in float32, rounded once, bit for bit.

That pass is tested against the definition elsewhere; here one is, too, with the rounding in its bound.
"""
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from strategies import LAYOUTS, PASSES, SINGLE, Arrays, Problem, Scope, call, problems, relaid

from numba_fftconv import (
    InvalidTypeError,
    conv2d,
    conv2d_backward,
    frequencies,
    inverse,
    plan_conv2d,
    transform,
)
from numba_fftconv.cpu import samples
from numba_fftconv.dtypes import BFLOAT16, HALVES, is_bfloat16, name_of, named, numpy_dtype, rounded, widened

PATTERNS = np.arange(2**16, dtype=np.uint16)
SOME = Scope(("float32",), fft_sizes=(8, 8, 12), multiplications=1e6, longest=30)

both = pytest.mark.parametrize("dtype", HALVES)


def values(dtype: str) -> np.ndarray:
    """By its bits the number, in float64; of bfloat16 by the definition of binary floating point."""
    if dtype == "float16":
        return PATTERNS.view(np.float16).astype(np.float64)
    exponent, fraction = PATTERNS.astype(int) >> 7 & 255, PATTERNS & 127
    size = np.where(exponent == 0, np.ldexp(fraction / 128, -126), np.ldexp(1 + fraction / 128, exponent - 127))
    size = np.where(exponent == 255, np.where(fraction == 0, np.inf, np.nan), size)
    return np.where(PATTERNS >> 15, -size, size)


def nearest(x: np.ndarray, dtype: str) -> np.ndarray:
    """The bits that numbers are rounded to: of the nearest of all, and of two the even."""
    infinite = {"float16": 31 << 10, "bfloat16": 255 << 7}[dtype]
    known = values(dtype)[: infinite + 1].copy()
    known[-1] = 2 * known[-2] - known[-3]  # what would come next stands for infinity
    size = np.abs(x.astype(np.float64))
    low = np.clip(np.searchsorted(known, size, "right") - 1, 0, infinite - 1)
    below, above = size - known[low], known[low + 1] - size
    up = (above < below) | ((above == below) & (low % 2 == 1))
    return (np.signbit(x) * 0x8000 + low + up).astype(np.uint16)


def hard_to_round(dtype: str) -> np.ndarray:
    """float32: ties and their neighbours, all over the range and beyond it, and some bits drawn by lot."""
    known = values(dtype)
    finite = np.sort(known[np.isfinite(known)])
    step = finite[-1] - finite[-2]
    middles = np.concatenate([(finite[:-1] + finite[1:]) / 2, [finite[-1] + step / 2, -finite[-1] - step / 2]])
    with np.errstate(over="ignore"):
        middles = middles.astype(np.float32)
    drawn = np.random.default_rng(1).integers(0, 2**32, 10**5, np.uint32).view(np.float32)
    near = [np.nextafter(middles, np.float32(end)) for end in (-np.inf, np.inf)]
    found = np.concatenate([middles, *near, drawn, np.float32([0, -0.0, np.inf, -np.inf])])
    return found[~np.isnan(found)]


@njit
def load_all(kind: int, bits: np.ndarray, out: np.ndarray, count: int) -> None:
    """Samples to float32, so many at a time."""
    for first in range(0, len(out), count):
        samples.to_scratch(kind, bits.ctypes.data + 2 * first, out, first, min(count, len(out) - first))


@njit
def store_all(kind: int, reals: np.ndarray, out: np.ndarray, count: int) -> None:
    """And back."""
    for first in range(0, len(out), count):
        samples.to_plane(kind, reals, first, out.ctypes.data + 2 * first, min(count, len(out) - first))


@both
@pytest.mark.parametrize("count", [1, 2**16, 13])
def test_every_sample_is_loaded_and_stored_as_it_is(dtype: str, count: int) -> None:
    kind, want = samples.SAMPLES[dtype], values(dtype)
    loaded, stored = np.full(2**16, 7, np.float32), np.full(2**16, 7, np.uint16)
    load_all(kind, PATTERNS, loaded, count)
    assert np.array_equal(loaded, want, equal_nan=True) and np.array_equal(np.signbit(loaded), PATTERNS >> 15 == 1)
    store_all(kind, loaded, stored, count)
    number = ~np.isnan(want)
    assert np.array_equal(stored[number], PATTERNS[number])
    assert np.isnan(values(dtype)[stored[~number]]).all()


@both
@pytest.mark.parametrize("count", [1, 2**16])
def test_numbers_are_stored_as_the_nearest_sample(dtype: str, count: int) -> None:
    reals = hard_to_round(dtype)
    stored, want = np.full(len(reals), 7, np.uint16), nearest(reals, dtype)
    store_all(samples.SAMPLES[dtype], reals, stored, count)
    assert np.array_equal(stored, want)
    assert np.array_equal(rounded(reals, dtype).view(np.uint16), want)
    assert np.isnan(widened(rounded(np.float32([np.nan, -np.nan]), dtype))).all()
    assert np.array_equal(widened(PATTERNS.view(numpy_dtype(dtype))), values(dtype), equal_nan=True)


# ---- passes


def halves(a: Arrays, dtype: str) -> tuple[Arrays, Arrays]:
    """The arrays of a problem rounded to a half dtype, and the same numbers in float32."""
    rough = Arrays(*(rounded(b, dtype) for b in a))
    return rough, Arrays(*map(widened, rough))


def bits(array: Any) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint16)


@settings(max_examples=60)
@given(
    problem=problems(scope=SOME), dtype=st.sampled_from(HALVES), name=st.sampled_from(PASSES),
    layouts=st.tuples(*4 * [st.sampled_from(LAYOUTS)]),
)
def test_a_pass_of_halves_is_that_of_float32_rounded(
    problem: Problem, dtype: str, name: str, layouts: tuple[str, ...]
) -> None:
    rough, exact = halves(problem.arrays(), dtype)
    plan, half_plan = problem.plan(), dataclasses.replace(problem, dtype=dtype).plan()
    assert half_plan.fft_size == plan.fft_size and half_plan.workspace_size == plan.workspace_size
    want = rounded(call(plan, exact, name), dtype)
    out = relaid(np.full(want.shape, 0xFFFF, np.uint16).view(want.dtype), layouts[3])
    if layouts[3] in ("unaligned", "read only"):
        out = None
    lying = Arrays(*(relaid(b, layout) for b, layout in zip(rough, layouts, strict=False)))
    got = call(half_plan, lying, name, out=out)
    assert got is out or out is None
    assert got.dtype == want.dtype and np.array_equal(bits(got), bits(want))
    for before, after in zip(rough, lying, strict=True):
        assert np.array_equal(bits(before), bits(after))


@both
@pytest.mark.parametrize("scale", [1.0, 2.0**-12])
def test_halves_against_the_definition(dtype: str, scale: float) -> None:
    """The error of float32 and half a unit in the last place of the result; of the least ones half of 2**-24."""
    problem = Problem(9, 6, 17, 15, 10, 5, 4, stride=(2, 1), padding=2, groups=2, dtype=dtype, scales=(scale,))
    rough, exact = halves(Problem(**{**vars(problem), "dtype": "float32"}).arrays(), dtype)
    plan = problem.plan()
    want, size = problem.expected(exact), problem.sizes(exact, plan.fft_size)
    half_a_unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    for name in PASSES:
        got = widened(call(plan, rough, name))
        allowed = half_a_unit * np.abs(want[name]) + 20 * SINGLE * 5e-7 * size[name] + 2.0**-25
        assert (np.abs(got - want[name]) <= allowed).all()


@both
def test_small_integers_are_exact(dtype: str) -> None:
    """With a bias and in all three gradients: sums of at most 256 in size are numbers of both dtypes."""
    rng = np.random.default_rng(3)
    x, w, dy = (rng.integers(-1, 2, shape) for shape in ((2, 3, 9, 8), (4, 3, 3, 3), (2, 4, 7, 6)))
    bias = np.array([5, -7, 0, 100])
    rough = [rounded(a.astype(np.float32), dtype) for a in (x, w, dy, bias)]
    problem = Problem(2, 3, 9, 8, 4, 3, 3)
    want = problem.expected(Arrays(x, w, dy))
    y = conv2d(rough[0], rough[1], rough[3])
    dx, dw, db = conv2d_backward(rough[2], rough[0], rough[1])
    results = {
        "y": (y, want["forward"] + bias[:, None, None]), "dx": (dx, want["input_grad"]),
        "dw": (dw, want["weight_grad"]), "db": (db, dy.sum((0, 2, 3))),
    }
    for got, exact in results.values():
        assert name_of(got.dtype) == dtype
        assert np.array_equal(np.rint(widened(got)), exact) and np.abs(widened(got) - exact).max() < 2.0**-10


def test_what_is_too_large_is_infinite_and_nan_stays() -> None:
    x, w = np.zeros((2, 1, 6, 6), np.float16), np.full((1, 1, 1, 1), 2, np.float16)
    x[0, 0, 2, 3], x[0, 0, 4, 4], x[1, 0, 0, 0] = 60000, -40000, np.nan
    y = conv2d(x, w)
    assert y[0, 0, 2, 3] == np.inf and y[0, 0, 4, 4] == -np.inf
    assert np.isnan(y[1, 0, 0, 0])
    least = np.full((1, 1, 1, 1), 2.0**-24, np.float16)
    assert conv2d(least, np.ones_like(least))[0, 0, 0, 0] == least[0, 0, 0, 0]


@both
def test_plans_spectra_and_stages(dtype: str) -> None:
    plan, single = (plan_conv2d((2, 3, 9, 8), (4, 3, 3, 3), dtype=name, fft_size=12) for name in (dtype, "float32"))
    assert plan.dtype == dtype and plan.real == "float32" and plan.precision == "fp32"
    assert plan.explain().splitlines()[0].endswith(f"{dtype} on cpu")
    samples_of = sum(np.prod(plan.geometry.shapes[name]) for name in ("input", "weight", "output"))
    assert single.bytes["forward"] - plan.bytes["forward"] == 2 * samples_of
    rough, exact = halves(Problem(2, 3, 9, 8, 4, 3, 3).arrays(), dtype)
    weight = plan.transform_weight(rough.w)
    assert weight.dtype == dtype and np.array_equal(weight.array, single.transform_weight(exact.w).array)
    assert np.array_equal(bits(plan.forward(rough.x, weight)), bits(plan.forward(rough.x, rough.w)))
    with pytest.raises(InvalidTypeError, match=f"input has dtype {dtype}, weight has dtype float32: all arrays"):
        conv2d(rough.x, exact.w)
    with pytest.raises(InvalidTypeError, match=f"out has dtype float32: it must be {dtype} here"):
        plan.forward(rough.x, rough.w, out=np.empty((2, 4, 7, 6), np.float32))

    spectrum = transform(rough.x, 12)
    assert spectrum.dtype == np.complex64 and np.array_equal(spectrum, transform(exact.x, 12))
    added = rounded(np.float32([1, 2, 3]), dtype)
    back = inverse(spectrum, (9, 8), bias=added, dtype=dtype)
    assert np.array_equal(bits(back), bits(rounded(inverse(spectrum, (9, 8), bias=widened(added)), dtype)))
    with pytest.raises(InvalidTypeError, match="of a spectrum of complex128 it must be float64"):
        inverse(np.zeros((len(frequencies(8)), 1, 1), complex), (2, 2), dtype=dtype)


def test_bias_gradients_are_summed_before_they_are_rounded() -> None:
    """In halves 2048 + 1 is 2048."""
    dy = np.ones((5, 2, 32, 32), np.float16)
    _, _, db = conv2d_backward(dy, dy, np.ones((2, 2, 1, 1), np.float16), output_mask=(False, False, True))
    assert db.dtype == np.float16 and db.tolist() == [5120, 5120]
    rough = rounded(np.ones((5, 2, 32, 33), np.float32), "bfloat16")
    weight = rounded(np.ones((2, 2, 1, 1), np.float32), "bfloat16")
    assert widened(conv2d_backward(rough, rough, weight)[2]).tolist() == [5280, 5280]


# ---- libraries


@both
def test_tensors_of_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    problem = Problem(2, 3, 9, 8, 4, 3, 3, padding=1)
    rough, _ = halves(problem.arrays(), dtype)
    x, w, dy = (torch.tensor(widened(b)).to(kind) for b in rough)
    last = x.contiguous(memory_format=torch.channels_last)
    y = conv2d(last, w, padding=1)
    want = conv2d(rough.x, rough.w, padding=1)
    assert y.dtype is kind and np.array_equal(y.view(torch.int16).numpy().view(np.uint16), bits(want))
    out = torch.full(y.shape, torch.nan, dtype=kind)[:, :, :, :]
    assert conv2d(x, w, padding=1, out=out) is out and torch.equal(out, y)
    got, wanted = conv2d_backward(dy, x, w, padding=1), conv2d_backward(rough.dy, rough.x, rough.w, padding=1)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype is kind and np.array_equal(ours.view(torch.int16).numpy().view(np.uint16), bits(theirs))
    plan = plan_conv2d(x.shape, w.shape, dtype=kind, padding=1)
    assert plan.dtype == dtype and torch.equal(plan.forward(x, w), y)
    back = inverse(transform(x, 12), (9, 8), dtype=kind)
    assert torch.is_tensor(back) and back.dtype is kind and torch.equal(back, x)


def test_arrays_of_ml_dtypes() -> None:
    kind = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    assert is_bfloat16(kind) and named(kind) == named(kind.type) == "bfloat16"
    problem = Problem(2, 3, 9, 8, 4, 3, 3)
    x, w, dy = (b.astype(kind) for b in problem.arrays())
    y = conv2d(x[:, :, ::-1], w)
    assert y.dtype == kind and np.array_equal(bits(y), bits(conv2d(x.view(BFLOAT16)[:, :, ::-1], w.view(BFLOAT16))))
    out = np.zeros(y.shape, kind)
    assert conv2d(x, w, out=out) is out and np.array_equal(out.astype(np.float32), conv2d(x, w).astype(np.float32))
    assert all(gradient.dtype == kind for gradient in conv2d_backward(dy, x, w))
    assert plan_conv2d(x.shape, w.shape, dtype=kind.type).dtype == "bfloat16"
