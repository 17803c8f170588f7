"""The public stages on a CPU: spectra and products by their definition, and layers made of them by the reference."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from stage_problem import ALLOWED, StageProblem, close, product, stage_problems

from numba_fftconv import (
    FFTConvError,
    InvalidOptionError,
    InvalidShapeError,
    InvalidTypeError,
    UnsupportedError,
    conv2d,
    frequencies,
    inverse,
    multiply,
    transform,
)
from numba_fftconv.options import FFT_SIZES

PLAIN = ((0, 0), (0, 0))
DTYPES = ("float32", "float64")
LENGTHS = (2, 4, 6, 8, 10, 14, 30, 64)


def waves(T: int) -> np.ndarray:
    """e^(-2 pi i (ky r + kx j) / T) as [f, r, j]."""
    ky, kx = frequencies(T).T[:, :, None, None]
    r, j = np.ogrid[:T, :T]
    return np.exp(-2j * np.pi * ((ky * r + kx * j) % T) / T)


def draw(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


# ---- the layout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", FFT_SIZES)
def test_every_frequency_or_its_conjugate_is_a_bin(T: int) -> None:
    bins = frequencies(T)
    assert bins.shape == (T * T // 2 + 2, 2) and bins.dtype.kind == "i"
    held = set(map(tuple, bins.tolist()))
    assert len(held) == len(bins)
    assert held | {(-ky % T, -kx % T) for ky, kx in held} == set(np.ndindex(T, T))


def test_frequencies_can_be_changed_by_their_owner() -> None:
    frequencies(4)[:] = 0
    assert frequencies(4).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
def test_a_spectrum_is_twice_the_transform_by_definition(T: int, dtype: str) -> None:
    planes = draw(2, 3, T, max(1, T - 3), dtype=dtype)
    want = 2 * np.einsum("frj,ncrj->fnc", waves(T)[:, :, : planes.shape[3]], planes.astype(np.float64))
    got = transform(planes, T)
    assert got.flags.c_contiguous and got.dtype == {"float32": "complex64", "float64": "complex128"}[dtype]
    close(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
def test_an_inverse_is_the_sum_of_all_waves(T: int, dtype: str) -> None:
    """A bin and the conjugate that it stands for; whatever the imaginary part of a bin that is real."""
    tiles, size = draw(3, 2, T, T, dtype="float64"), (T, max(1, T // 2))
    spectrum = 2 * np.einsum("frj,ncrj->fnc", waves(T), tiles)
    own = (frequencies(T) % (T // 2) == 0).all(1)
    twice = np.where(own, 1, 2)[:, None, None]
    want = np.einsum("fnc,frj->ncrj", twice * spectrum, waves(T).conj()).real / (2 * T * T)
    close(want, tiles)
    spectrum[own] += 5j
    got = inverse(spectrum.astype({"float32": "complex64", "float64": "complex128"}[dtype]), size)
    assert own.sum() == 4 and got.dtype == dtype
    close(got, want[:, :, : size[0], : size[1]], of=want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fft_size", [(2, 64), (64, 2), (32, 60), (128, 2), (2, 256), (128, 64), (256, 128)])
def test_tiles_of_unequal_sides(fft_size: tuple[int, int], dtype: str) -> None:
    rows, columns = fft_size
    planes = draw(2, 1, rows - 1, columns, dtype=dtype)
    ky, kx = frequencies(fft_size).T
    assert len(ky) == rows * columns // 2 + 2
    want = 2 * np.fft.fft2(planes.astype(np.float64), fft_size)[:, :, ky, kx]
    got = transform(planes, fft_size)
    close(got, np.moveaxis(want, -1, 0))
    close(inverse(got, planes.shape[2:], fft_size=fft_size), planes)


@given(
    T=st.sampled_from(FFT_SIZES), dtype=st.sampled_from(DTYPES), data=st.data(),
    rows=st.integers(1, 3), C=st.integers(1, 3),
)  # fmt: skip
def test_there_and_back(T: int, dtype: str, data: Any, rows: int, C: int) -> None:
    sides = st.sampled_from((1, T - 1, T)) | st.integers(1, T)
    planes, bias = draw(rows, C, data.draw(sides), data.draw(sides), dtype=dtype), draw(C, dtype=dtype)
    kept = planes.copy()
    close(inverse(transform(planes, T), planes.shape[2:]), planes)
    close(inverse(transform(planes, T), planes.shape[2:], bias=bias), planes + bias[:, None, None], of=(planes, bias))
    assert np.array_equal(planes, kept)


# ---- products --------------------------------------------------------------------------------------------------------


@given(stage_problems(dtypes=DTYPES))
def test_a_product_is_half_the_sum_over_what_is_contracted(problem: StageProblem) -> None:
    a, b, old = problem.operands()
    want = product(problem, a, b)
    close(multiply(a, b, problem.pass_name, groups=problem.groups), want, of=problem.size(a, b))
    out = np.full_like(old, np.nan)
    assert multiply(a, b, problem.pass_name, groups=problem.groups, out=out) is out
    close(out, want, of=problem.size(a, b))
    out[...] = old
    multiply(a, b, problem.pass_name, groups=problem.groups, out=out, accumulate=True)
    close(out, old + want, of=(problem.size(a, b), old))


LAYERS = {  # groups, x, w, T
    "one channel": (1, (1, 1, 5, 4), (1, 1, 3, 2), 6),
    "full": (1, (3, 4, 9, 12), (5, 4, 4, 3), 12),
    "longer than the planes": (1, (2, 3, 7, 8), (2, 3, 3, 3), 14),
    "groups": (2, (2, 6, 8, 8), (4, 3, 3, 5), 8),
    "depthwise": (4, (3, 4, 8, 6), (4, 1, 2, 6), 8),
    "depthwise, two filters a channel": (3, (2, 3, 8, 6), (6, 1, 3, 3), 8),
    "the kernel fills the plane": (1, (2, 2, 6, 6), (3, 2, 6, 6), 6),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_of_three_stages(layer: str, dtype: str) -> None:
    """All three passes by three transforms, against the loops over taps."""
    groups, x_shape, w_shape, T = LAYERS[layer]
    plane, kernel = (x_shape[2], x_shape[3]), (w_shape[2], w_shape[3])
    size = reference.outputs(plane, kernel, (1, 1), PLAIN, (1, 1))
    x, w, dy = draw(*x_shape, dtype=dtype), draw(*w_shape, dtype=dtype, seed=1), draw(x_shape[0], w_shape[0], *size)
    X, W, dY = (transform(planes.astype(dtype), T) for planes in (x, w, dy))
    options: Any = ((1, 1), PLAIN, (1, 1), groups)
    y = inverse(multiply(X, W, groups=groups), size)
    close(y, reference.forward(x, w, *options))
    dx = inverse(multiply(dY, W, "input_grad", groups=groups), plane)
    close(dx, reference.input_grad(x_shape, w, dy, *options))
    dw = inverse(multiply(X, dY, "weight_grad", groups=groups), kernel)
    close(dw, reference.weight_grad(x, w_shape, dy, *options))


def test_a_convolution_by_stages_is_conv2d() -> None:
    x, w, bias = draw(2, 3, 20, 17), draw(4, 3, 5, 5), draw(4)
    y = inverse(multiply(transform(x, 20), transform(w, 20)), (16, 13), bias=bias)
    close(y, conv2d(x, w, bias))


# ---- arrays ----------------------------------------------------------------------------------------------------------


def test_any_strides_are_read_and_written() -> None:
    planes = np.flip(draw(2, 3, 8, 6).transpose(1, 0, 3, 2), -1)
    spectrum = np.full((3, 2, 34), np.nan, "complex64").transpose(2, 0, 1)
    assert transform(planes, 8, out=spectrum) is spectrum
    assert np.array_equal(spectrum, transform(planes.copy(), 8))
    product = np.full((2, 34, 3), np.nan, "complex64").transpose(1, 2, 0)[:, :, ::-1]
    multiply(spectrum, spectrum[:, :2], out=product)
    assert np.array_equal(product, multiply(spectrum.copy(), spectrum[:, :2].copy()))
    back = np.full((3, 2, 6, 16), np.nan, "float32")[..., ::2]
    inverse(spectrum, (6, 8), out=back)
    assert np.array_equal(back, inverse(spectrum.copy(), (6, 8)))


def test_results_are_in_the_library_of_the_first_array() -> None:
    torch = pytest.importorskip("torch")
    x, w, bias = draw(2, 3, 6, 6), draw(4, 3, 3, 3), draw(4)
    X, W = transform(torch.from_numpy(x), 6), transform(torch.from_numpy(w), 6)
    y = inverse(multiply(X, W), (4, 4), bias=torch.from_numpy(bias))
    assert all(isinstance(made, torch.Tensor) for made in (X, W, y)) and X.dtype == torch.complex64
    close(y.numpy(), conv2d(x, w, bias))
    out = torch.full((10, 2, 3), float("nan"), dtype=torch.complex64)
    assert transform(torch.from_numpy(x[:, :, :4, :4].copy()), 4, out=out) is out and not out.isnan().any()


def test_an_empty_batch() -> None:
    X, W = transform(np.empty((0, 2, 5, 5), "f4"), 6), transform(draw(4, 2, 3, 3), 6)
    Y = multiply(X, W)
    assert X.shape == (20, 0, 2) and Y.shape == (20, 0, 4)
    assert inverse(Y, (3, 3), bias=draw(4)).shape == (0, 4, 3, 3)
    assert multiply(Y, W, "input_grad").shape == X.shape
    dW = multiply(X, Y, "weight_grad", out=np.full((20, 4, 2), np.nan, "c8"))
    assert not dW.any()


# ---- bad input -------------------------------------------------------------------------------------------------------

X, W = np.ones((34, 2, 6), "c8"), np.ones((34, 4, 3), "c8")  # of T = 8, in two groups
HELD = np.ones((34, 2, 6), "c8")


def spectrum(*shape: int, dtype: str = "c8") -> np.ndarray:
    return np.ones(shape, dtype)


BAD: dict[str, tuple[Callable[[], Any], type[FFTConvError], str]] = {
    "a list": (lambda: transform([[1.0]], 4), InvalidTypeError, "planes is a list"),
    "integers": (lambda: transform(np.ones((1, 1, 4, 4), int), 4), InvalidTypeError, "int64.*float32 or float64"),
    "three axes": (lambda: transform(draw(1, 4, 4), 4), InvalidShapeError, r"\(1, 4, 4\).*\[N, C, H, W\]"),
    "no columns": (lambda: transform(draw(1, 1, 4, 0), 4), InvalidShapeError, r"\(1, 1, 4, 0\).*samples"),
    "T below the planes": (lambda: transform(draw(1, 1, 9, 5), 8), InvalidOptionError, "planes of 9 x 5.*to 8 is 10"),
    "T of 11": (lambda: transform(draw(1, 1, 4, 4), 11), InvalidOptionError, "fft_size is 11.*nearest to 11 is 1[02]"),
    "T of 11 again": (lambda: frequencies(11), InvalidOptionError, "fft_size is 11.*nearest to 11 is 1[02]"),
    "no T": (lambda: frequencies("8"), InvalidOptionError, "fft_size is '8'"),
    "large planes": (lambda: transform(draw(1, 1, 257, 3), 64), UnsupportedError, "257 x 3.*at most 256.*windows"),
    "a stream": (lambda: transform(draw(1, 1, 4, 4), 4, stream=1), InvalidOptionError, "stream is 1.*leave it None"),
    "a stream of a product": (lambda: multiply(X, W, groups=2, stream=1), InvalidOptionError, "stream is 1"),
    "a stream of an inverse": (lambda: inverse(X, 2, stream=1), InvalidOptionError, "stream is 1"),
    "a real out": (
        lambda: transform(draw(2, 6, 8, 8), 8, out=spectrum(34, 2, 6, dtype="f4")), InvalidTypeError, "complex64 here",
    ),
    "an out of double precision": (
        lambda: transform(draw(2, 6, 8, 8), 8, out=spectrum(34, 2, 6, dtype="c16")), InvalidTypeError, "complex64 here",
    ),
    "an out of another shape": (
        lambda: transform(draw(2, 6, 8, 8), 8, out=spectrum(34, 6, 2)), InvalidShapeError, r"must be \(34, 2, 6\)",
    ),
    "bytes swapped": (lambda: inverse(X.astype(">c8"), 4), InvalidTypeError, ">c8"),
    "no spectrum": (lambda: inverse(draw(34, 2, 6), 4), InvalidTypeError, "float32: a spectrum is complex64"),
    "two axes": (lambda: inverse(spectrum(34, 2), 4), InvalidShapeError, r"\(34, 2\).*\[F, rows, columns\]"),
    "bins of no size": (lambda: inverse(spectrum(35, 2, 2), 4), InvalidShapeError, "35 bins.*square is 8 with 34"),
    "a size above T": (lambda: inverse(X, (4, 9)), InvalidOptionError, r"size is \(4, 9\).*8 x 8"),
    "no size": (lambda: inverse(X, 0), InvalidOptionError, "size is 0.*the least is 1"),
    "a bias of another length": (lambda: inverse(X, 4, bias=draw(2)), InvalidShapeError, r"bias.*\(6,\)"),
    "a bias of double precision": (
        lambda: inverse(X, 4, bias=draw(6, dtype="float64")), InvalidTypeError, "bias has dtype float64.*float32",
    ),
    "no pass": (lambda: multiply(X, W, "backward"), InvalidOptionError, "'backward'.*forward, input_grad, weight_grad"),
    "two dtypes": (lambda: multiply(X, W.astype("c16"), groups=2), InvalidTypeError, "complex64.*complex128"),
    "two sizes": (lambda: multiply(X, spectrum(20, 4, 3)), InvalidShapeError, "34 and 20 bins, .*one fft_size"),
    "groups": (lambda: multiply(X, W), InvalidShapeError, r"a, X,.*\[F, K, C/groups\], and groups=1.*groups=2 fits"),
    "groups that do not divide": (
        lambda: multiply(X, spectrum(34, 2, 4), "weight_grad", groups=4), InvalidShapeError, "groups=4.*groups=2 fits",
    ),
    "channels": (lambda: multiply(X, spectrum(34, 4, 5)), InvalidShapeError, "no number of groups fits"),
    "no groups": (lambda: multiply(X, W, groups=0), InvalidOptionError, "groups is 0"),
    "filters": (lambda: multiply(X, W, "input_grad"), InvalidShapeError, "K is 6 in dY and 4 in W"),
    "images": (lambda: multiply(X, W, "weight_grad"), InvalidShapeError, "m is 2 in X and 4 in dY"),
    "no filters": (lambda: multiply(X, spectrum(34, 0, 6)), InvalidShapeError, "no number of groups fits"),
    "nothing to add to": (
        lambda: multiply(X, W, groups=2, accumulate=True), InvalidOptionError, "accumulate is True without out",
    ),
    "out over an operand": (
        lambda: multiply(HELD, spectrum(34, 6, 6), out=HELD), InvalidOptionError, "out.*shares memory with a",
    ),
    "out that is read-only": (
        lambda: multiply(X, W, groups=2, out=np.broadcast_to(spectrum(1, 2, 4), (34, 2, 4))),
        InvalidOptionError, "read-only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str) -> None:
    call, error, words = BAD[what]
    with pytest.raises(error, match=f"(?s){words}"):
        call()
    assert (HELD == 1).all()


def test_frequencies_load_no_cuda() -> None:
    script = "import sys; from numba_fftconv import frequencies; frequencies(8); print('numba.cuda' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False"]


def test_what_is_allowed_is_near_the_error_of_float32() -> None:
    """The test of the tests: an error that a wrong scale or a lost bin would make is seen."""
    planes = draw(2, 3, 8, 8)
    changed = transform(planes, 8)
    changed[7] *= 1.001
    with pytest.raises(AssertionError):
        close(changed, transform(planes, 8))
    assert ALLOWED["float32"] <= 1e-6
