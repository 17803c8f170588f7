"""The device functions lane by lane, in kernels of one block, against NumPy in float64."""

from typing import Any

import device_examples
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import complex64, cuda

from numba_fftconv import device

pytestmark = pytest.mark.usefixtures("order")

TILES = [(2, 2), (4, 6), (6, 2), (8, 4), (10, 2), (14, 4), (16, 8), (20, 2)]
WORST = 3e-7  # relative L2 error of all planes


def launch(kernel: Any, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
    kernel[grid, device_examples.THREADS, 0, device_examples.tile.shared_bytes](*arguments)


def planes(tile: device.Tile, seed: int = 0) -> np.ndarray:
    """One image that fills the tile."""
    size = tile.fft_size
    return np.random.default_rng(seed).standard_normal((1, tile.planes, size, size)).astype(np.float32)


def close(got: np.ndarray, expected: np.ndarray) -> None:
    assert np.linalg.norm(got - expected) <= WORST * np.linalg.norm(expected)


@pytest.mark.parametrize("T, B", TILES)
def test_rfft2_and_back(T: int, B: int) -> None:
    """Every bin of the rows 0 to T/2, and the planes again."""
    tile = device.make_tile(T, B)
    load, rfft2, irfft2, store, get_bin, place = (
        tile.load, tile.rfft2, tile.irfft2, tile.store, tile.bin, tile.row_place)  # fmt: skip

    @cuda.jit
    def there_and_back(x: Any, X: Any, y: Any) -> None:
        z = cuda.local.array(T, complex64)
        load(z, x, (0, 0), (0, 1), (0, 0))
        rfft2(z)
        row, plane = place()
        for kx in range(T):
            X[plane, row, kx] = get_bin(z, row, kx)
            if row == 0:
                X[plane, T // 2, kx] = get_bin(z, T // 2, kx)
        irfft2(z)
        store(z, y, (0, 0), (0, 1), (0, 0), (T, T))

    x = planes(tile)
    X, y = np.full((B, T // 2 + 1, T), np.nan, np.complex64), np.full_like(x, np.nan)
    there_and_back[1, tile.threads, 0, tile.shared_bytes](x, X, y)
    close(X, np.fft.fft2(x[0].astype(np.float64))[:, : T // 2 + 1])
    close(y, x)


@pytest.mark.parametrize("T, B", TILES)
@pytest.mark.parametrize("name", ["multiply", "multiply_add", "correlate", "correlate_add"])
def test_products(T: int, B: int, name: str) -> None:
    """Of two spectra, from which irfft2 makes planes; the sum begins with the spectrum of a third."""
    tile = device.make_tile(T, B)
    load, rfft2, product, irfft2, store = tile.load, tile.rfft2, getattr(tile, name), tile.irfft2, tile.store

    @cuda.jit
    def combine(a: Any, x: Any, w: Any, y: Any) -> None:
        s, z, f = cuda.local.array(T, complex64), cuda.local.array(T, complex64), cuda.local.array(T, complex64)
        load(s, a, (0, 0), (0, 1), (0, 0))
        rfft2(s)
        load(z, x, (0, 0), (0, 1), (0, 0))
        rfft2(z)
        load(f, w, (0, 0), (0, 1), (0, 0))
        rfft2(f)
        product(s, z, f)
        irfft2(s)
        store(s, y, (0, 0), (0, 1), (0, 0), (T, T))

    a, x, w = (planes(tile, seed) for seed in range(3))
    y = np.full_like(x, np.nan)
    combine[1, tile.threads, 0, tile.shared_bytes](a, x, w, y)
    A, X, W = (np.fft.fft2(planes.astype(np.float64)) for planes in (a, x, w))
    total = X * (W.conj() if name.startswith("correlate") else W) + (A if name.endswith("add") else 0)
    close(y, np.fft.ifft2(total).real)


def test_a_product_in_place() -> None:
    """s may be z or w, or both."""
    tile = device.make_tile(8, 2)
    load, rfft2, multiply, irfft2, store = tile.load, tile.rfft2, tile.multiply, tile.irfft2, tile.store

    @cuda.jit
    def square(x: Any, y: Any) -> None:
        z = cuda.local.array(8, complex64)
        load(z, x, (0, 0), (0, 1), (0, 0))
        rfft2(z)
        multiply(z, z, z)
        irfft2(z)
        store(z, y, (0, 0), (0, 1), (0, 0), (8, 8))

    x = planes(tile)
    y = np.full_like(x, np.nan)
    square[1, tile.threads, 0, tile.shared_bytes](x, y)
    close(y, np.fft.ifft2(np.fft.fft2(x.astype(np.float64)) ** 2).real)


def test_transforms_follow_one_another_in_any_order() -> None:
    """No thread writes to the tile while another still reads what the transform before has left there."""
    tile = device.make_tile(8, 4)
    load, rfft2, irfft2, store = tile.load, tile.rfft2, tile.irfft2, tile.store

    @cuda.jit
    def two(x: Any, w: Any, y: Any, v: Any) -> None:
        z, f = cuda.local.array(8, complex64), cuda.local.array(8, complex64)
        load(z, x, (0, 0), (0, 1), (0, 0))
        load(f, w, (0, 0), (0, 1), (0, 0))
        rfft2(z)
        rfft2(f)
        irfft2(z)
        irfft2(f)
        store(z, y, (0, 0), (0, 1), (0, 0), (8, 8))
        store(f, v, (0, 0), (0, 1), (0, 0), (8, 8))

    x, w = planes(tile, 1), planes(tile, 2)
    y, v = np.full_like(x, np.nan), np.full_like(x, np.nan)
    two[1, tile.threads, 0, tile.shared_bytes](x, w, y, v)
    close(y, x)
    close(v, w)


COPY = device.make_tile(6, planes=4)
load_copied, store_copied = COPY.load, COPY.store


@cuda.jit
def copy(x: Any, y: Any, first: Any, step: Any, corner: Any, to: Any, to_corner: Any, extent: Any) -> None:
    z = cuda.local.array(6, complex64)
    load_copied(z, x, first, step, corner)
    store_copied(z, y, to, (1, 0), to_corner, extent)


corners = st.tuples(st.integers(-8, 8), st.integers(-8, 8))


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    first=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    step=st.sampled_from([(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (-1, 0)]),
    corner=corners,
    to=st.tuples(st.integers(-2, 4), st.integers(0, 2)),
    to_corner=corners,
    extent=st.tuples(st.integers(0, 7), st.integers(0, 7)),
)
def test_load_and_store(shape: Any, first: Any, step: Any, corner: Any, to: Any, to_corner: Any, extent: Any) -> None:
    """Any planes from anywhere to anywhere, zeros where there are none, and nothing else written."""
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    y = np.full((4, 2, 7, 8), np.nan, np.float32)
    expected = y.copy()
    for b, r, j in np.ndindex(4, min(6, extent[0]), min(6, extent[1])):
        source = first[0] + b * step[0], first[1] + b * step[1], corner[0] + r, corner[1] + j
        target = to[0] + b, to[1], to_corner[0] + r, to_corner[1] + j
        if all(0 <= i < size for i, size in zip(target, y.shape, strict=True)):
            inside = all(0 <= i < size for i, size in zip(source, shape, strict=True))
            expected[target] = x[source] if inside else 0
    copy[1, COPY.threads](x, y, first, step, corner, to, to_corner, extent)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("T", [2, 12, 14, 64])
@pytest.mark.parametrize("inverse", [False, True])
def test_fft_of_an_array(T: int, inverse: bool) -> None:
    fft = device.make_fft(T, inverse)

    @cuda.jit
    def alone(x: Any, y: Any) -> None:
        z = cuda.local.array(T, complex64)
        for i in range(T):
            z[i] = x[i]
        fft(z)
        for i in range(T):
            y[i] = z[i]

    rng = np.random.default_rng(T)
    x = (rng.standard_normal(T) + 1j * rng.standard_normal(T)).astype(np.complex64)
    y = np.full_like(x, np.nan)
    alone[1, 1](x, y)
    close(y, np.fft.ifft(x) * T if inverse else np.fft.fft(x))


# ---- the examples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "N, C, K, plane, taps",
    [
        (1, 1, 1, (16, 16), (1, 1)),
        (2, 9, 11, (20, 13), (5, 3)),
        (1, 3, 8, (12, 12), (16, 16)),
        (1, 8, 2, (30, 9), (2, 7)),
    ],
)
def test_conv_bias_gelu(N: int, C: int, K: int, plane: tuple[int, int], taps: tuple[int, int]) -> None:
    """Channels and filters that fill their blocks or not, several windows, a kernel as large as the tile."""
    device_examples.check_conv_bias_gelu(launch, N, C, K, plane, taps)


@pytest.mark.parametrize("N, C, plane", [(1, 1, (16, 16)), (2, 8, (7, 16)), (1, 19, (16, 1))])
def test_power_spectrum(N: int, C: int, plane: tuple[int, int]) -> None:
    device_examples.check_power_spectrum(launch, N, C, plane)
