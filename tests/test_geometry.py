"""The maps of a geometry drive overlap-save in float64 NumPy, which then gives what the definition gives."""

import itertools

import numpy as np
import pytest
import reference
from hypothesis import example, given
from hypothesis import strategies as st

from numba_fftconv import ConvGeometry, InvalidShapeError, options
from numba_fftconv.geometry import FFT_SIZES, Axis, PlaneMap

Problem = tuple[ConvGeometry, int]
Maps = tuple[PlaneMap, PlaneMap]


# ---- the pipeline that the maps describe, one tile at a time


def places(maps: Maps, segment: tuple[int, int], extents: tuple[int, ...]) -> tuple[tuple, tuple]:
    (ty, iy), (tx, ix) = (m.places(g, n) for m, g, n in zip(maps, segment, extents, strict=True))
    return (..., ty[:, None], tx), (..., iy[:, None], ix)


def load(array: np.ndarray, maps: Maps, segment: tuple[int, int], T: int) -> np.ndarray:
    tile = np.zeros((*array.shape[:-2], T, T))
    at, of = places(maps, segment, array.shape[-2:])
    tile[at] = array[of]
    return np.fft.rfft2(tile)


def store(spectrum: np.ndarray, array: np.ndarray, maps: Maps, segment: tuple[int, int], T: int) -> None:
    at, of = places(maps, segment, array.shape[-2:])
    assert np.isnan(array[of]).all(), "a sample is stored twice"
    array[of] = np.fft.irfft2(spectrum, (T, T))[at]


def both(geometry: ConvGeometry, name: str, T: int) -> Maps:
    return getattr(geometry.rows, name)(T), getattr(geometry.cols, name)(T)


def segments(maps: Maps) -> itertools.product:
    return itertools.product(*(range(m.segments) for m in maps))


def forward(geometry: ConvGeometry, T: int, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    ins, weights, outs = (both(geometry, name, T) for name in "xwy")
    result, W = np.full(geometry.output_shape, np.nan), load(w, weights, (0, 0), T)
    for segment in segments(outs):
        store(np.einsum("ncuv,kcuv->nkuv", load(x, ins, segment, T), W.conj()), result, outs, segment, T)
    return result


def input_grad(geometry: ConvGeometry, T: int, w: np.ndarray, dy: np.ndarray) -> np.ndarray:
    ins, weights, outs = (both(geometry, name, T) for name in ("dy_halo", "w", "dx"))
    result, W = np.full(geometry.input_shape, np.nan), load(w, weights, (0, 0), T)
    for segment in segments(outs):
        store(np.einsum("nkuv,kcuv->ncuv", load(dy, ins, segment, T), W), result, outs, segment, T)
    return result


def weight_grad(geometry: ConvGeometry, T: int, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    ins, grads, outs = (both(geometry, name, T) for name in "xyw")
    spectra = ((load(x, ins, segment, T), load(dy, grads, segment, T)) for segment in segments(ins))
    result = np.full(geometry.weight_shape, np.nan)
    store(sum(np.einsum("ncuv,nkuv->kcuv", X, D.conj()) for X, D in spectra), result, outs, (0, 0), T)
    return result


# ---- whole problems: everything at once, at the edges of T and of what a segment advances


@st.composite
def axes(draw: st.DrawFn, T: int) -> tuple[int, int, tuple[int, int], int, int]:
    """The extent, taps, padding, stride and dilation of one axis whose kernel fits T."""
    dilation, stride = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    taps = draw(st.integers(1, min(6, (T - 1) // dilation + 1)))
    reach, padding = (taps - 1) * dilation, draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
    least, advance = max(1, reach + 1 - sum(padding)), T - reach
    edges = st.sampled_from([least, T - 1, T, T + 1, T - padding[0], 2 * advance - 1, 2 * advance + 1])
    extent = draw(edges | st.integers(least, least + 3 * advance))
    return max(extent, least), taps, padding, stride, dilation


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    T = draw(st.sampled_from(FFT_SIZES[:12]))
    (H, R, rows, top, down), (W, S, cols, left, right) = draw(axes(T)), draw(axes(T))
    N, C, K = (draw(st.integers(1, 2)) for _ in range(3))
    return ConvGeometry.from_arguments((N, C, H, W), (K, C, R, S), (top, left), (rows, cols), (down, right)), T


def column(extent: int, taps: int, T: int, **options: tuple[int, int]) -> Problem:
    return ConvGeometry.from_arguments((1, 1, extent, 1), (1, 1, taps, 1), **options), T


@given(problems())
@example(column(100, 60, 64, stride=(7, 1)))  # stride 7 > T - reach = 5: one output in each segment
@example(column(90, 64, 64, stride=(3, 1), padding=(5, 0)))  # T - reach = 1
@example(column(70, 8, 64, dilation=(9, 1)))  # reach 63
@example(column(3, 3, 4, padding=(9, 0)))  # segments that hold zeros only
@example(column(10, 5, 10, padding=((0, 4), (0, 0))))  # as long as T, and its outputs reach past the end
@example(column(1, 1, 2))
def test_the_maps_make_the_three_passes(problem: Problem) -> None:
    geometry, T = problem
    options = geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    rng = np.random.default_rng(0)
    shapes = geometry.input_shape, geometry.weight_shape, geometry.output_shape
    x, w, dy = (rng.standard_normal(shape) for shape in shapes)
    for got, want in (
        (forward(geometry, T, x, w), reference.forward(x, w, *options)),
        (input_grad(geometry, T, w, dy), reference.input_grad(x.shape, w, dy, *options)),
        (weight_grad(geometry, T, x, dy), reference.weight_grad(x, w.shape, dy, *options)),
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-14 * T * T * np.sqrt(dy.size))


@given(problems())
def test_places_is_its_equation(problem: Problem) -> None:
    geometry, T = problem
    axis = geometry.rows
    extents = {"x": axis.extent, "w": axis.taps, "y": axis.outputs, "dy_halo": axis.outputs, "dx": axis.extent}
    for (name, extent), g in itertools.product(extents.items(), range(3)):
        m = getattr(axis, name)(T)
        t, i = np.meshgrid(np.arange(m.first, m.limit), np.arange(extent), indexing="ij")
        held = t + m.start + g * m.advance == i * m.spacing
        for got, want in zip(m.places(g, extent), (t[held], i[held]), strict=True):
            assert got.dtype == np.int64 and got.tolist() == want.tolist()


@given(problems())
def test_segments_store_every_sample_once_and_none_is_idle(problem: Problem) -> None:
    geometry, T = problem
    for axis in (geometry.rows, geometry.cols):
        for pass_name, m, extent in (
            ("forward", axis.y(T), axis.outputs),
            ("weight_grad", axis.y(T), axis.outputs),
            ("input_grad", axis.dx(T), axis.extent),
        ):
            assert m.segments == axis.segments(T, pass_name)
            stored = [i for g in range(m.segments) for i in m.places(g, extent)[1].tolist()]
            assert stored == list(range(extent))
            assert m.places(m.segments - 1, extent)[1].size


def test_one_segment_holds_the_kernel() -> None:
    axis = Axis(extent=1, taps=9, lo=4, hi=4, stride=1, dilation=1)
    assert axis.whole(10) and not axis.whole(8)


# ---- beyond 2**31


def test_maps_are_64_bit() -> None:
    extent = 3 * 2**33
    axis, T = Axis(extent=extent, taps=5, lo=2, hi=2, stride=3, dilation=4), 32
    y, dx = axis.y(T), axis.dx(T)
    assert (axis.outputs, axis.step(T)) == ((extent + 4 - 17) // 3 + 1, 18)
    assert (y.segments, dx.segments) == (-(-axis.outputs // 6), -(-extent // 16))
    t, i = y.places(y.segments - 2, axis.outputs)
    assert i.tolist() == [6 * (y.segments - 2) + n for n in range(6)] and t.tolist() == [0, 3, 6, 9, 12, 15]
    t, i = dx.places(dx.segments - 1, extent)
    assert i.tolist() == list(range(extent - 16, extent)) and t.tolist() == list(range(16, 32))
    t, i = axis.x(T).places(y.segments - 2, extent)
    assert i[0] == 18 * (y.segments - 2) - 2 > 2**34 and i.dtype == np.int64


def test_geometry_beyond_2_31_elements_is_exact() -> None:
    geometry = ConvGeometry.from_arguments((70_000, 3, 9, 2**32 + 1), (5, 3, 9, 1), stride=(1, 2))
    assert geometry.output_shape == (70_000, 5, 1, 2**31 + 1)


# ---- the caller's words


def test_fft_sizes_are_the_even_products() -> None:
    products = {2**a * 3**b * 5**c * 7**d for a in range(1, 7) for b in range(4) for c in range(3) for d in range(3)}
    assert (*sorted(n for n in products if n <= 64), 128, 256) == FFT_SIZES


@pytest.mark.parametrize(
    ("padding", "dilation", "pads"),
    [
        (0, 1, (0, 0, 0, 0)),
        (2, 1, (2, 2, 2, 2)),
        (np.int64(2), 1, (2, 2, 2, 2)),
        ((1, 3), 1, (1, 1, 3, 3)),
        (np.array([1, 3]), 1, (1, 1, 3, 3)),
        ([[1, 2], [3, 4]], 1, (1, 2, 3, 4)),
        (((0, 2), (3, 0)), 1, (0, 2, 3, 0)),
        ("valid", 1, (0, 0, 0, 0)),
        ("same", 1, (1, 2, 2, 3)),
        ("same", (3, 2), (4, 5, 5, 5)),
        ("same", (2, 3), (3, 3, 7, 8)),
    ],
)
def test_padding_forms(padding: object, dilation: object, pads: tuple[int, ...]) -> None:
    geometry = ConvGeometry.from_arguments([2, 3, 20, 21], (4, 3, 4, 6), padding=padding, dilation=dilation)
    assert (*geometry.padding[0], *geometry.padding[1]) == pads
    assert (geometry.output_shape == (2, 4, 20, 21)) == (str(padding) == "same")


class Size(tuple):
    """What torch.Size is."""


@pytest.mark.parametrize("value", [(1, 2), [1, 2], Size((1, 2)), np.array([1, 2]), range(1, 3)])
def test_sequences_have_items(value: object) -> None:
    assert options.items(value) == (1, 2)


@pytest.mark.parametrize("value", [
    {1, 2}, {1: 2, 3: 4}, {1: 2}.items(), "12", b"12", bytearray(b"12"), memoryview(b"12"), iter((1, 2)), np.array(1),
], ids=lambda value: type(value).__name__)
def test_what_has_no_order_or_no_numbers_has_no_items(value: object) -> None:
    assert options.items(value) == ()


def test_a_geometry_says_its_layer() -> None:
    shapes = (2, 6, 20, 21), (4, 3, 4, 6)
    layer = options.layer(*shapes, 2, [[1, 2], [3, 4]], np.array([1, 2]), np.int8(2))
    assert layer == (*shapes, (2, 2), ((1, 2), (3, 4)), (1, 2), 2)
    assert all(type(n) is int for n in (*layer.stride, *layer.dilation, layer.groups))
    assert ConvGeometry.from_arguments(*layer).layer == layer


@pytest.mark.parametrize(("value", "pair"), [(2, (2, 2)), ((2, 3), (2, 3)), ([2, 3], (2, 3)), (np.int32(2), (2, 2))])
@pytest.mark.parametrize("name", ["stride", "dilation"])
def test_a_number_stands_for_both_axes(name: str, value: object, pair: tuple[int, int]) -> None:
    geometry = ConvGeometry.from_arguments((1, 1, 9, 9), (1, 1, 3, 3), **{name: value})
    assert getattr(geometry, name) == pair


def test_shapes_without_a_batch() -> None:
    geometry = ConvGeometry.from_arguments((4, 9, 10), (6, 2, 3, 3), groups=2)
    assert (geometry.N, geometry.input_shape, geometry.output_shape) == (1, (4, 9, 10), (6, 7, 8))
    assert geometry.weight_shape == (6, 2, 3, 3)
    assert geometry != ConvGeometry.from_arguments((1, 4, 9, 10), (6, 2, 3, 3), groups=2)


def test_an_empty_batch_is_a_geometry() -> None:
    assert ConvGeometry.from_arguments((0, 3, 8, 8), (2, 3, 3, 3)).output_shape == (0, 2, 6, 6)


def test_a_geometry_is_a_key() -> None:
    plain = ConvGeometry.from_arguments((2, 3, 8, 8), (2, 3, 3, 3), padding=1)
    assert {plain: 1}[ConvGeometry.from_arguments([2, 3, 8, 8], np.array([2, 3, 3, 3]), padding="same")] == 1


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@given(problems(), st.sampled_from(["valid", "same", None]))
def test_output_shape_is_torchs(problem: Problem, word: str | None) -> None:
    torch = pytest.importorskip("torch")
    drawn, _ = problem
    stride = 1 if word == "same" else drawn.stride
    options = stride, word or (drawn.pad_top, drawn.pad_left), drawn.dilation
    x, w = (torch.empty(shape, device="meta") for shape in (drawn.input_shape, drawn.weight_shape))
    try:
        shape = ConvGeometry.from_arguments(x.shape, w.shape, *options).output_shape
    except InvalidShapeError:
        with pytest.raises(RuntimeError, match="greater than actual input"):
            torch.nn.functional.conv2d(x, w, None, *options)
    else:
        assert shape == torch.nn.functional.conv2d(x, w, None, *options).shape
