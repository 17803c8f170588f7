"""The public stages on arrays of a GPU, in the simulator, against those on a CPU, which have tests of their own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from numba import cuda
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray
from stage_problem import StageProblem, close, stage_problems

from numba_fftconv import (
    DeviceMismatchError,
    FFTConvError,
    InvalidOptionError,
    InvalidTypeError,
    UnsupportedError,
    clear_cache,
    inverse,
    multiply,
    plan_conv2d,
    transform,
)
from numba_fftconv.cuda import schedule, stages
from numba_fftconv.integers import Size

SHAPES: list[tuple[tuple[int, ...], int | Size]] = [  # of planes, and the size of tiles
    ((1, 1, 1, 1), 2),
    ((1, 1, 4, 3), 4),
    ((3, 5, 2, 4), 4),
    ((2, 3, 6, 1), 6),
    ((5, 1, 4, 8), 8),
    ((1, 2, 8, 8), 8),
    ((2, 3, 2, 9), (2, 10)),
    ((1, 3, 7, 3), (8, 4)),
    ((1, 3, 2, 100), (2, 128)),
]


def on_device(array: np.ndarray) -> FakeCUDAArray:
    """The same memory as an array of Numba, whatever its strides."""
    return FakeCUDAArray(array)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype("float32")


def complex_draw(*shape: int) -> np.ndarray:
    return draw(*shape) + 1j * draw(*shape, seed=1)


def poisoned(*shape: int, dtype: str = "complex64") -> tuple[np.ndarray, np.ndarray]:
    """An array of NaN with NaN before and behind it, and all of that."""
    size = int(np.prod(shape))
    around = np.full(size + 32, np.nan, dtype)
    return around[16 : 16 + size].reshape(shape), around


# ---- the stages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "T"), SHAPES)
@pytest.mark.parametrize("turned", [False, True])
def test_transform(shape: tuple[int, ...], T: Any, turned: bool, order: Any) -> None:
    """Of planes of any strides, into a spectrum without gaps and nowhere beside it."""
    planes = np.repeat(draw(*shape), 2, axis=1)[:, ::-2].swapaxes(2, 3) if turned else draw(*shape)
    T = T[::-1] if turned and isinstance(T, tuple) else T
    kept, want = planes.copy(), transform(planes, T)
    out, around = poisoned(*want.shape)
    given = on_device(out)
    assert transform(on_device(planes), T, out=given) is given
    close(out, want)
    assert np.count_nonzero(~np.isnan(around)) == want.size and np.array_equal(planes, kept)
    got = transform(on_device(planes), T)
    assert isinstance(got, FakeCUDAArray) and np.array_equal(got.copy_to_host(), out)


@pytest.mark.parametrize(("shape", "T"), SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_inverse(shape: tuple[int, ...], T: Any, has_bias: bool, order: Any) -> None:
    """Cropped, into planes of any strides; the imaginary part of bins that are real is not read."""
    size = T if isinstance(T, tuple) else (T, T)
    tiles, bias = draw(*shape[:2], *size), draw(shape[1]) if has_bias else None
    spectrum = transform(tiles, T)
    spectrum[0] += 7j
    want = inverse(spectrum, shape[2:], bias=bias, fft_size=size)
    out, around = poisoned(*shape[:3], 2 * shape[3], dtype="float32")
    given = on_device(out[..., ::-2])
    on_it: dict[str, Any] = {"fft_size": size} | ({} if bias is None else {"bias": on_device(bias)})
    assert inverse(on_device(spectrum), shape[2:], **on_it, out=given) is given
    close(out[..., ::-2], want, of=tiles)
    assert np.count_nonzero(~np.isnan(around)) == want.size
    assert np.array_equal(inverse(on_device(spectrum), shape[2:], **on_it).copy_to_host(), out[..., ::-2])


@settings(max_examples=25)
@given(problem=stage_problems(lengths=(2, 4, 4)))
def test_multiply(problem: StageProblem, order: Any) -> None:
    a, b, old = problem.operands()
    kept, name, groups = (a.copy(), b.copy()), problem.pass_name, problem.groups
    want = multiply(a, b, name, groups=groups)
    out, around = poisoned(*old.shape)
    given = on_device(out)
    assert multiply(on_device(a), on_device(b), name, groups=groups, out=given) is given
    close(out, want, of=problem.size(a, b))
    assert np.count_nonzero(~np.isnan(around)) == out.size
    fresh = multiply(on_device(a), on_device(b), name, groups=groups)
    assert isinstance(fresh, FakeCUDAArray) and np.array_equal(fresh.copy_to_host(), out)
    out[...] = old
    multiply(on_device(a), on_device(b), name, groups=groups, out=given, accumulate=True)
    close(out, old + want, of=(problem.size(a, b), old))
    assert np.array_equal(a, kept[0]) and np.array_equal(b, kept[1])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_layers_of_stages_have_the_bits_of_a_plan(groups: int) -> None:
    """Kernels, tiles and the order of sums are the same, whatever the pitch of a bin."""
    x, w, bias, dy = draw(3, 4, 6, 5), draw(4, 4 // groups, 3, 2), draw(4), draw(3, 4, 4, 4)
    plan = plan_conv2d(x.shape, w.shape, groups=groups, fft_size=6, device="cuda")
    gx, gw, gbias, gdy = map(on_device, (x, w, bias, dy))
    X, W, dY = (transform(planes, 6) for planes in (gx, gw, gdy))
    y = inverse(multiply(X, W, groups=groups), (4, 4), bias=gbias)
    dx = inverse(multiply(dY, W, "input_grad", groups=groups), (6, 5))
    dw = inverse(multiply(X, dY, "weight_grad", groups=groups), (3, 2))
    want = plan.forward(gx, gw, gbias), plan.input_grad(gdy, gw), plan.weight_grad(gx, gdy)
    for got, other in zip((y, dx, dw), want, strict=True):
        assert np.array_equal(got.copy_to_host(), other.copy_to_host())


def test_an_empty_batch() -> None:
    x, W = on_device(np.empty((0, 2, 3, 3), "f4")), on_device(complex_draw(10, 4, 2))
    X = transform(x, 4)
    Y = multiply(X, W)
    assert X.shape == (10, 0, 2) and Y.shape == (10, 0, 4) and inverse(Y, 2).shape == (0, 4, 2, 2)
    for groups in (1, 2):
        out, _ = poisoned(10, 4, 2 // groups)
        multiply(X, Y, "weight_grad", groups=groups, out=on_device(out))
        assert np.array_equal(out, np.zeros_like(out))
        out[...] = 3
        multiply(X, Y, "weight_grad", groups=groups, out=on_device(out), accumulate=True)
        assert (out == 3).all()


def test_a_program_is_bound_once() -> None:
    """For one shape and strides, whatever the arrays."""

    def misses() -> list[int]:
        return [stage.cache_info().misses for stage in (stages._transform, stages._multiply, stages._inverse)]

    def layers() -> None:
        for images in (1, 3):
            X, W = (transform(on_device(draw(*shape)), 4) for shape in ((images, 1, 4, 4), (1, 1, 2, 2)))
            inverse(multiply(X, W), 3)

    layers()
    before = misses()
    layers()
    assert misses() == before
    clear_cache()
    assert misses() == [0, 0, 0]


def test_numbas_own_arrays_and_streams() -> None:
    x = draw(1, 2, 3, 3)
    spectrum = transform(cuda.to_device(x), 4, stream=cuda.stream())
    back = inverse(spectrum, 3, stream=cuda.stream(), out=cuda.device_array(x.shape, np.float32))
    close(back.copy_to_host(), x)


# ---- bad input -------------------------------------------------------------------------------------------------------

X, W = complex_draw(10, 2, 4), complex_draw(10, 4, 4)
GX, GW = on_device(X), on_device(W)


def odd() -> np.ndarray:
    """A spectrum that begins 8 bytes past a multiple of 16."""
    return np.zeros(81, "c8")[1:].reshape(10, 2, 4)


BAD: dict[str, tuple[Callable[[], Any], type[FFTConvError], str]] = {
    "two devices": (lambda: multiply(GX, W), DeviceMismatchError, "a is on cuda:0, b is on cpu"),
    "a bias elsewhere": (lambda: inverse(GX, 2, bias=draw(4)), DeviceMismatchError, "bias is on cpu"),
    "an out elsewhere": (lambda: inverse(GX, 2, out=draw(2, 4, 2, 2)), DeviceMismatchError, "out is on cpu"),
    "planes in double precision": (
        lambda: transform(on_device(np.ones((1, 1, 4, 4))), 4), UnsupportedError,
        "planes has dtype float64: .*no double precision; on a CPU",
    ),
    "spectra in double precision": (
        lambda: inverse(on_device(X.astype("c16")), 4), UnsupportedError, "spectrum has dtype complex128.*CPU",
    ),
    "gaps in a": (lambda: multiply(on_device(X[:, :, ::-1]), GW), UnsupportedError, "a of shape.*C-contiguous copy"),
    "gaps in b": (lambda: multiply(GX, on_device(W.swapaxes(1, 2))), UnsupportedError, "b of shape.*C-contiguous"),
    "gaps in out": (
        lambda: multiply(GX, GW, out=on_device(complex_draw(10, 2, 8)[:, :, ::2])), UnsupportedError, "out of shape",
    ),
    "gaps in a bias": (lambda: inverse(GX, 2, bias=on_device(draw(8)[::2])), UnsupportedError, "bias of shape"),
    "a begins between": (lambda: multiply(on_device(odd()), GW), InvalidOptionError, "a of shape.*multiple of 16"),
    "out begins between": (
        lambda: multiply(GX, GW, out=on_device(odd())), InvalidOptionError, "out of shape.*multiple of 16",
    ),
    "out over an operand": (lambda: multiply(GX, GW, out=GX), InvalidOptionError, "shares memory with a"),
    "no stream": (lambda: transform(on_device(draw(1, 1, 2, 2)), 4, stream="s"), InvalidOptionError, "stream is 's'"),
    "a real spectrum": (lambda: inverse(on_device(draw(10, 2, 4)), 4), InvalidTypeError, "a spectrum is complex64"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str) -> None:
    call, error, words = BAD[what]
    before = X.copy(), W.copy()
    with pytest.raises(error, match=f"(?s){words}"):
        call()
    assert np.array_equal(X, before[0]) and np.array_equal(W, before[1])


def test_more_than_a_kernel_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes of a spectrum, and the rows of a grid."""
    monkeypatch.setattr(stages, "MOST_PLANES", 8)
    with pytest.raises(UnsupportedError, match=r"too many planes.*less than 8"):
        inverse(GX, 2)
    monkeypatch.undo()
    monkeypatch.setattr(stages, "MOST_WINDOWS", 1)
    with pytest.raises(UnsupportedError, match=r"2 images.*at most 1"):
        multiply(on_device(complex_draw(10, 2, 3)), on_device(complex_draw(10, 3, 3)))
    assert stages.MOST_PLANES == schedule.MOST_PLANES
