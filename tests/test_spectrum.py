"""The transform stage by itself: every bin against numpy.fft in float64, Parseval, and back to the samples.

    X[ky, kx] = sum_h sum_w x[h, w] e^(-2 pi i (ky h / rows + kx w / columns))

A spectrum lies [ky][kx][block][channel][line], a line L real parts and L imaginary parts. Of weights, filter k of a
unit is lane k mod L of block k div L, and kx ends at columns / 2. Of images, planes m and m + L of a block of 2 L are
the real and the imaginary part of one complex plane.
"""
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import PASSES, Problem, problems, relaid, work_of

from numba_fftconv import ConvPlan
from numba_fftconv.cpu import fft2d
from numba_fftconv.cpu.butterfly import Pair, fft, flops
from numba_fftconv.cpu.engine import Operand
from numba_fftconv.cpu.schedule import Spectrum, ceil_div
from numba_fftconv.cpu.vector import lanes
from numba_fftconv.integers import Size, area
from numba_fftconv.options import FFT_SIZES

MOST_TILES = 3000  # of an example, which numpy.fft transforms one by one
ROUNDING = 8.0  # units in the last place, of the norm of a tile: up to 3.3 were seen, those of numpy.fft included

FEW = settings(max_examples=22)


def close(got: np.ndarray, want: np.ndarray) -> bool:
    """Tile by tile, on the last two axes, to the rounding of the dtype of `got`."""
    unit = np.finfo(got.dtype).eps
    error, size = (np.linalg.norm(a, axis=(-2, -1)) for a in (got - want, want))
    return bool((error <= ROUNDING * unit * size).all())


def energy(tiles: np.ndarray) -> np.ndarray:
    squares = np.square(np.abs(np.ascontiguousarray(tiles, np.complex128)))
    return squares.reshape(*tiles.shape[:-2], -1).sum(-1)  # NumPy sums neighbours in memory pairwise


def bins(spectrum: Spectrum, space: np.ndarray) -> np.ndarray:
    """The complex values [block, channel, lane, ky, kx] of a spectrum in memory."""
    item, L = space.itemsize, spectrum.line // 2
    shape = spectrum.size[0], spectrum.columns, spectrum.blocks, spectrum.channels, 2, L
    pitches = spectrum.row_pitch, spectrum.bin_pitch, spectrum.block_pitch, spectrum.line, L, 1
    assert spectrum.at + sum((n - 1) * p for n, p in zip(shape, pitches, strict=True)) < len(space)
    parts = np.lib.stride_tricks.as_strided(space[spectrum.at:], shape, [item * pitch for pitch in pitches])
    return (parts[..., 0, :] + 1j * parts[..., 1, :]).transpose(2, 3, 4, 0, 1)


# ---- the codelet


@pytest.mark.parametrize("T", FFT_SIZES)
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_codelet_is_the_definition(T: int, sign: int) -> None:
    """On Python numbers, on pairs of reals, and with exact zeros that it leaves out."""
    rng = np.random.default_rng(T)
    x = rng.standard_normal(T) + 1j * rng.standard_normal(T)
    phase = np.outer(np.arange(T), np.arange(T)) % T
    for length in (T, T // 2, 1):
        part = [*map(complex, x[:length]), *[0] * (T - length)]
        want = np.exp(sign * 2j * np.pi * phase / T)[:, :length] @ x[:length]
        pairs = fft([value and Pair(value.real, value.imag) for value in part], sign)
        for got in (fft(part, sign), [complex(y.re, y.im) for y in pairs]):
            assert np.linalg.norm(got - want) <= 8 * np.finfo(float).eps * np.linalg.norm(want)


@pytest.mark.parametrize("T", FFT_SIZES)
def test_the_codelet_inverts_itself_and_keeps_the_energy(T: int) -> None:
    x = np.random.default_rng(T).standard_normal((T, 5)) @ np.array([1, 1j, 2, -1, 1 - 1j])
    y = np.array(fft(list(map(complex, x)), -1))
    assert energy(y[None]) == pytest.approx(T * energy(x[None]), rel=1e-14)
    assert np.allclose(fft(list(map(complex, y)), 1), T * x, rtol=0, atol=1e-13 * T)


def test_the_codelet_takes_the_operations_that_its_docstring_names() -> None:
    assert flops(32) == 456
    assert flops(32, real=True) < flops(32)


# ---- weights


def weight_tiles(problem: Problem, w: np.ndarray, size: Size) -> np.ndarray:
    """The weight, dilated and padded with zeros to the size of a tile."""
    tall, wide = problem.resolved["dilation"]
    tiles = np.zeros((*w.shape[:2], *size))
    tiles[..., :(problem.R - 1) * tall + 1:tall, :(problem.S - 1) * wide + 1:wide] = w
    return tiles


def of_weights(plan: ConvPlan, w: np.ndarray) -> np.ndarray:
    """The half spectra [k, c, ky, kx] of all filters; lanes without a filter are zero."""
    work = work_of(plan, "forward")
    got = bins(work.all_weights(), plan.transform_weight(w).array)
    k = np.arange(work.K)
    block, lane = k // work.unit * work.unit_blocks + k % work.unit // work.lanes, k % work.unit % work.lanes
    absent = np.ones((got.shape[0], got.shape[2]), bool)
    absent[block, lane] = False
    assert not got.transpose(0, 2, 1, 3, 4)[absent].any()
    return got[block, :, lane]


@FEW
@given(problem=problems())
def test_every_bin_of_a_weight(problem: Problem) -> None:
    plan, w = problem.plan(), problem.arrays().w
    (rows, columns), got = plan.fft_size, of_weights(plan, w)
    tiles = weight_tiles(problem, w, plan.fft_size)
    want = np.fft.fft2(tiles)
    whole = np.concatenate([got, np.conj(got[..., -np.arange(rows) % rows, columns // 2 - 1:0:-1])], axis=-1)
    assert whole.dtype == {"float32": np.complex64, "float64": np.complex128}[problem.dtype]
    assert close(whole, want)
    unit = np.finfo(whole.dtype).eps
    np.testing.assert_allclose(energy(whole), rows * columns * energy(tiles), rtol=2 * ROUNDING * unit)


# ---- images


def lane_tiles(operand: Operand, size: Size, exchanged: bool = False) -> np.ndarray:
    """The tiles [lane, channel]: lanes are (plane, segment), or where `exchanged` channels are."""
    (outer, channels, H, W), rows, columns = operand.array.shape, operand.rows, operand.columns
    tiles = np.zeros((outer, rows.segments, columns.segments, channels, *size), operand.array.dtype)
    for down, across in np.ndindex(rows.segments, columns.segments):
        (t, i), (u, j) = rows.places(down, H), columns.places(across, W)
        tiles[:, down, across][..., t[:, None], u] = operand.array[..., i[:, None], j]
    flat = tiles.reshape(-1, channels, *size)
    return flat.swapaxes(0, 1) if exchanged else flat


def packed(tiles: np.ndarray, L: int) -> np.ndarray:
    """Planes m and m + L of a block of 2 L as one complex plane: [block, channel, lane, row, column]."""
    count, channels, *size = tiles.shape
    blocks = ceil_div(count, 2 * L)
    full = np.zeros((blocks * 2 * L, channels, *size), tiles.dtype)
    full[:count] = tiles
    halves = full.reshape(blocks, 2, L, channels, *size)
    return (halves[:, 0] + 1j * halves[:, 1]).swapaxes(1, 2)


def transformed(operand: Operand, size: Size, extents: Size, exchanged: bool) -> tuple[Spectrum, np.ndarray]:
    """The spectrum of all planes of an operand in memory that was full of NaN; scratch lies behind it."""
    dtype = operand.array.dtype
    L = lanes(dtype.itemsize)
    segments = operand.rows.segments * operand.columns.segments
    count, channels = operand.array.shape[0] * segments, operand.array.shape[1]
    if exchanged:
        count, channels = channels, count
    blocks = ceil_div(count, 2 * L)
    spectrum = Spectrum(0, size, size[1], blocks, channels, 2 * L)
    space = np.full(spectrum.reals + fft2d.buffer_size(size, dtype.itemsize), np.nan, dtype)
    kernel = fft2d.transform_kernel(str(dtype), size, False, extents)
    kernel(0, blocks * channels, space, spectrum.reals, operand.planes(count, blocks, exchanged), where(spectrum))
    return spectrum, space


def where(spectrum: Spectrum) -> np.ndarray:
    return np.array([spectrum.at, spectrum.channels, spectrum.bin_pitch, spectrum.row_pitch, 0, 0])


@FEW
@given(problem=problems(), name=st.sampled_from(("x", "y", "dy_halo")), exchanged=st.booleans())
def test_every_bin_of_packed_planes(problem: Problem, name: str, exchanged: bool) -> None:
    plan, a = problem.plan(), problem.arrays()
    g, size, forward, input_grad = plan.geometry, plan.fft_size, work_of(plan, "forward"), work_of(plan, "input_grad")
    values = a.x if name == "x" else a.dy
    planes = values.reshape(problem.N, -1, *values.shape[-2:])
    operand = Operand(planes, *g.maps(name, size))
    assume(planes.shape[0] * planes.shape[1] * operand.rows.segments * operand.columns.segments <= MOST_TILES)
    extents = {"x": forward.extents[0], "y": forward.extents[2], "dy_halo": input_grad.extents[0]}[name]
    tiles = lane_tiles(operand, size, exchanged)
    want = packed(tiles, lanes(planes.itemsize))
    got = bins(*transformed(operand, size, extents, exchanged))
    assert close(got, np.fft.fft2(want))
    np.testing.assert_allclose(energy(got), area(size) * energy(want), rtol=2 * ROUNDING * np.finfo(got.dtype).eps)


# ---- and back


@FEW
@given(problem=problems(), name=st.sampled_from(PASSES[:2]), layout=st.sampled_from(("contiguous", "gaps")))
def test_the_inverse_writes_what_the_map_names_and_nothing_else(problem: Problem, name: str, layout: str) -> None:
    """Tiles of x back into the places of y, those of dy into dx, as a pass without a product would; with a bias."""
    plan, a = problem.plan(), problem.arrays()
    g, work, (rows, columns) = plan.geometry, work_of(plan, name), plan.fft_size
    read, written, values = ("x", "y", a.x) if name == "forward" else ("dy_halo", "dx", a.dy)
    planes = values.reshape(problem.N, -1, *values.shape[-2:])
    size = (g.P, g.Q) if name == "forward" else (g.H, g.W)
    operand = Operand(planes, *g.maps(read, plan.fft_size))
    maps = g.maps(written, plan.fft_size)
    assume(planes.shape[0] * planes.shape[1] * operand.rows.segments * operand.columns.segments <= MOST_TILES)
    spectrum, space = transformed(operand, plan.fft_size, work.extents[0], exchanged=False)
    bias = np.arange(1, 1 + planes.shape[1]).astype(planes.dtype)

    out = relaid(np.full((*planes.shape[:2], *size), np.nan, planes.dtype), layout)
    held = out if out.base is None else out.base
    held[...] = np.nan
    result = Operand(out, *maps, written=True)
    kernel = fft2d.inverse_kernel(str(out.dtype), plan.fft_size, work.extents[2])
    segments = maps[0].segments * maps[1].segments
    where_to = result.planes(problem.N * segments, spectrum.blocks)
    tasks = spectrum.blocks * spectrum.channels
    kernel(0, tasks, space, spectrum.reals, where_to, where(spectrum), bias, out.dtype.type(1 / (rows * columns)))

    tiles = lane_tiles(operand, plan.fft_size).astype(np.float64).reshape(
        problem.N, maps[0].segments, maps[1].segments, planes.shape[1], rows, columns
    )
    want, written_once = np.zeros(out.shape), np.zeros(out.shape, int)
    for down, across in np.ndindex(maps[0].segments, maps[1].segments):
        (t, i), (u, j) = maps[0].places(down, size[0]), maps[1].places(across, size[1])
        want[..., i[:, None], j] = tiles[:, down, across][..., t[:, None], u]
        written_once[..., i[:, None], j] += 1
    assert (written_once == 1).all() and np.count_nonzero(~np.isnan(held)) == out.size
    largest = np.linalg.norm(tiles, axis=(-2, -1)).max(initial=0) + (rows * columns) ** 0.5 * bias.max()
    assert np.abs(out - want - bias[:, None, None]).max() <= 4 * np.finfo(out.dtype).eps * largest


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_planes_of_pairs_go_and_come_back(dtype: str) -> None:
    """The lanes of a result of weight_grad, (filter, channel): 15 planes of a block of 16 or two of 8."""
    problem = Problem(300, 3, 6, 6, 5, 3, 2, dilation=(2, 3), padding=2, dtype=dtype)
    plan, w, size = problem.plan(), problem.arrays().w, (8, 8)
    work = work_of(plan, "weight_grad")
    assert not work.exchanged
    operand = Operand(w, *plan.geometry.maps("w", size))
    spectrum = work.packed(0, work.pair_lines, 1)
    space = np.full(spectrum.reals + fft2d.buffer_size(size, w.itemsize), np.nan, dtype)
    tasks = 0, work.pair_lines, space, spectrum.reals
    fft2d.transform_kernel(dtype, size, False, size)(*tasks, operand.planes_of_pairs(work.pair_lines), where(spectrum))
    want = packed(weight_tiles(problem, w, size).reshape(-1, 1, *size).astype(dtype), work.lanes)
    assert close(bins(spectrum, space), np.fft.fft2(want))
    out = relaid(np.full_like(w, np.nan), "gaps")
    back = operand._replace(array=out, written=True).planes_of_pairs(work.pair_lines)
    inverse = fft2d.inverse_kernel(dtype, size, work.extents[2])
    inverse(*tasks, back, where(spectrum), np.zeros(1, dtype), w.dtype.type(1 / 64))
    assert np.abs(out - w).max() <= 4 * np.finfo(dtype).eps * np.abs(w).max()
    assert np.count_nonzero(~np.isnan(out.base)) == out.size
