"""Transforms with a side of 128 or 256, lane by lane, through maps of all kinds, against numpy.fft in float64."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transform_problem import Pointer, Problem, check_inverse, check_transform, transform

from numba_fftconv.cuda.memory import Memory
from numba_fftconv.cuda.middle import LANES, MOST, Middle, is_large, middles, plane_bytes, region_bytes
from numba_fftconv.cuda.simulator import run
from numba_fftconv.cuda.toolchain import Kernel
from numba_fftconv.geometry import PlaneMap
from numba_fftconv.integers import Size, bins


def launch(kernel: Kernel, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
    run(kernel, grid, tuple(Memory(x.view) if isinstance(x, Pointer) else x for x in arguments))


SEGMENTS = PlaneMap(-3, 100, 1, 28, 128, 2), PlaneMap(-1, 3, 1, 1, 4, 2)
APART = PlaneMap(-3, 0, 6, 0, 128, 1), PlaneMap(0, 0, 2, 0, 4, 1)
APART_IN_SEGMENTS = PlaneMap(-3, 121, 3, 7, 128, 4), PlaneMap(0, 0, 1, 0, 4, 1)
PROBLEMS = {
    "long columns": Problem((128, 4), 2, N=1, C=3, height=128, width=4),
    "longer columns": Problem((256, 2), 2, N=1, C=3, height=250, width=2),
    "long rows": Problem((4, 128), 2, N=1, C=3, height=3, width=128),
    "longer rows": Problem((2, 256), 2, N=1, C=5, height=2, width=200),
    "few columns": Problem((12, 128), 2, N=1, C=2, height=9, width=37),
    "segments": Problem((128, 4), 2, 2, 3, 200, 6, *SEGMENTS, steps=(1, 1, 2, -1)),
    "apart": Problem((128, 4), 2, 2, 2, 40, 4, *APART, spaced=True),
    "apart in segments": Problem((128, 4), 2, 2, 1, 150, 4, *APART_IN_SEGMENTS, spaced=True, first=1),
    "apart by an odd number": Problem(
        (256, 6), 2, 1, 3, 60, 3, PlaneMap(2, 0, 5, 0, 256, 1), PlaneMap(0, 0, 2, 0, 6, 1), spaced=True
    ),
    "halves": Problem((128, 4), 2, N=1, C=3, height=128, width=4, samples="float16"),
    "short columns of halves": Problem((4, 128), 2, N=1, C=3, height=3, width=128, samples="bfloat16"),
    "two chunks": Problem((128, 2), 2, N=9, C=5, height=20, width=2, first=1),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_both_ways(name: str) -> None:
    check_transform(PROBLEMS[name], launch)
    check_inverse(PROBLEMS[name], launch, has_bias=True)


@pytest.mark.parametrize("name", ["long columns", "long rows", "apart"])
def test_old_values_are_added(name: str) -> None:
    check_inverse(PROBLEMS[name], launch, has_bias=True, beta=-0.5)


@pytest.mark.parametrize("name", ["long columns", "long rows"])
def test_in_any_order_of_lanes(name: str, order: int | None) -> None:
    """A missing barrier shows."""
    check_transform(PROBLEMS[name], launch)
    check_inverse(PROBLEMS[name], launch)


def test_chunks_make_the_bits_of_the_whole() -> None:
    results = []
    for problem in (PROBLEMS["two chunks"], replace(PROBLEMS["two chunks"], middle_chunk=64)):
        _, view = problem.array()
        view[:] = np.random.default_rng(1).standard_normal(view.shape)
        gX = np.zeros((bins(problem.size), problem.pitch), np.complex64)
        transform(problem, launch, Pointer(view, view), Pointer(gX, gX), *problem.numbers(view))
        results.append(gX)
    assert np.array_equal(*results)


@st.composite
def axes(draw: st.DrawFn, T: int) -> tuple[PlaneMap, int]:
    """A map in which no sample lies in two segments, and an extent."""
    limit = draw(st.sampled_from((T, T, T - 1)) | st.integers(1, T))
    first = draw(st.integers(0, limit - 1)) if draw(st.booleans()) else 0
    spacing, segments = draw(st.sampled_from((1, 2, 3, 4, 6, 12, 17, 40))), draw(st.integers(1, 2))
    start = draw(st.integers(-T - 1, T + 1))
    return PlaneMap(start, draw(st.integers(limit - first, T + 2)), spacing, first, limit, segments), draw(
        st.integers(1, 2 * T // spacing + 1)
    )


@settings(max_examples=8)
@given(st.data(), st.sampled_from(((128, 2), (2, 128), (256, 2))), st.sampled_from((0.0, 1.5)))
def test_through_any_map(data: st.DataObject, size: Size, beta: float) -> None:
    (rows, height), (columns, width) = (data.draw(axes(T)) for T in size)
    steps = tuple(data.draw(st.tuples(*[st.sampled_from((1, 1, 2, -1))] * 4)))
    spaced = rows.spacing != 1 or columns.spacing != 1
    N, C = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    problem = Problem(size, 2, N, C, height, width, rows, columns, steps, spaced=spaced)
    check_transform(problem, launch)
    check_inverse(problem, launch, beta=beta)


# ---- chunks: integers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(2, 128), (128, 2), (256, 256), (64, 128)])
@pytest.mark.parametrize("count", [1, 31, 32, 33, 1000, 100_000])
def test_chunks_cover_all_planes_and_fit(size: Size, count: int) -> None:
    nbytes = region_bytes(size, count)
    assert is_large(size) and nbytes <= max(MOST, LANES * plane_bytes(size, size[1]))
    for width in (1, size[1] // 2, size[1]):
        made = list(middles(size, width, count, nbytes))
        assert made[0].first == 0 and made[-1].end == count
        for one, other in pairwise(made):
            assert one.end == other.first
        for one in made:
            assert isinstance(one, Middle) and one.first % LANES == 0 and one.pitch % 2 == 0
            assert one.end - one.first <= one.pitch and one.pitch * plane_bytes(size, width) <= nbytes
