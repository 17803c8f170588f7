"""The schedule of the CUDA engine: what lies where in the workspace, and that its steps cover a pass. Integers only."""

import itertools
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_fftconv import UnsupportedError, plan_conv2d, tuning
from numba_fftconv.cuda.schedule import (
    LINE_BYTES,
    MOST_WINDOWS,
    Inverse,
    Multiply,
    Schedule,
    Spectrum,
    Step,
    Transform,
    Work,
    both_gradients,
    schedules,
    shares_gradients,
    spectrum_of,
    steps,
    workspace_bytes,
    worth_keeping,
)
from numba_fftconv.integers import bins
from numba_fftconv.options import FFT_SIZES, PRECISIONS
from numba_fftconv.passes import PASSES as TABLE

PASSES = ("forward", "input_grad", "weight_grad")


@st.composite
def works(draw: st.DrawFn) -> Work:
    groups, Cg, Kg = (draw(st.integers(1, 5)) for _ in range(3))
    size = draw(st.sampled_from(FFT_SIZES)), draw(st.sampled_from(FFT_SIZES))
    windows, precision = draw(st.integers(0, 70)), draw(st.sampled_from(PRECISIONS["float32"]))
    return Work(draw(st.sampled_from(PASSES)), size, windows, groups * Cg, groups * Kg, groups, precision)


def spectra(step: Step) -> list[Spectrum]:
    """Those that a step touches."""
    return [step.a, step.b, step.y] if isinstance(step, Multiply) else [step.spectrum]


GIVEN = st.frozensets(st.sampled_from(("input", "weight")))


def is_inside(part: Spectrum, whole: Spectrum) -> bool:
    """Whether some rows of a spectrum lie there bin by bin."""
    begin, end = part.at - whole.at, part.at - whole.at + 8 * part.rows * part.columns
    return part.pitch == whole.pitch and part.columns == whole.columns and 0 <= begin <= end <= 8 * whole.pitch


@given(work=works(), given_spectra=GIVEN)
def test_spectra_lie_apart_and_within_the_workspace(work: Work, given_spectra: frozenset[str]) -> None:
    of_pass = given_spectra & set(TABLE[work.pass_name].operands)
    for way in schedules(work):
        held: dict[int, int] = {}
        for step in steps(work, way, of_pass):
            assert not isinstance(step, Transform) or step.operand not in of_pass
            for spectrum in spectra(step):
                if spectrum.array == "workspace":
                    held[spectrum.at] = max(held.get(spectrum.at, 0), spectrum.end)
                    assert spectrum.at % LINE_BYTES == 0 and spectrum.pitch >= spectrum.rows * spectrum.columns
                    assert spectrum.nbytes == 8 * spectrum.pitch * bins(work.size)
                else:
                    assert spectrum.array in of_pass and is_inside(spectrum, spectrum_of(work, spectrum.array))
        ends = sorted(held.items())
        for (_, end), (following, _) in itertools.pairwise(ends):
            assert end <= following
        assert not ends or ends[-1][1] + LINE_BYTES <= workspace_bytes(work, way)


@given(work=works())
def test_every_window_takes_part_once(work: Work) -> None:
    """In order, by chunks of even size but the last; what is read is transformed, what is multiplied is inverted."""
    for way in schedules(work):
        made = list(steps(work, way))
        products = [step for step in made if isinstance(step, Multiply)]
        first = 0
        for product in products:
            on_tensor_cores = work.precision != "fp32" and work.pass_name == "weight_grad"
            assert first % (8 if on_tensor_cores else 2) == 0 and product.precision == work.precision
            first += product.windows
        assert first == work.windows
        read = [step for step in made if isinstance(step, Transform)]
        written = [step for step in made if isinstance(step, Inverse)]
        if work.pass_name == "weight_grad":
            assert [p.accumulate for p in products] == [i > 0 for i in range(len(products))] and len(products) > 0
            assert [step.result for step in written] == ["dw"] and written[0].spectrum == products[-1].y
            for operand, maps in (("input", "x"), ("grad_output", "y")):
                rows = [step.spectrum.rows for step in read if (step.operand, step.maps) == (operand, maps)]
                assert sum(rows) == work.windows
        else:
            assert not any(product.accumulate for product in products)
            assert sum(step.operand == "weight" for step in read) == (work.windows > 0)
            for some in ([s for s in read if s.operand != "weight"], written):
                assert [s.first for s in some] == [sum(s.spectrum.rows for s in some[:i]) for i in range(len(some))]
                assert sum(s.spectrum.rows for s in some) == work.windows


@given(work=works())
def test_the_ways_shrink_down_to_few_windows(work: Work) -> None:
    ways = list(schedules(work))
    sizes = [workspace_bytes(work, way) for way in ways]
    assert ways[0].chunk == max(1, work.windows) and ways[-1].chunk <= work.granule
    assert sizes == sorted(sizes, reverse=True)
    assert work.granule in (2, 8) and all(way.chunk % work.granule == 0 for way in ways[1:])


@given(work=works(), given_spectra=GIVEN)
def test_both_gradients_fit_into_the_workspace_of_one(work: Work, given_spectra: frozenset[str]) -> None:
    """Each spectrum is read before another takes its place."""
    if not work.windows:
        return
    holds: dict[str, str] = {}
    holds |= {f"{name}+0": name for name in given_spectra}
    for step in both_gradients(work, given_spectra):
        places = [f"{spectrum.array}+{spectrum.at}" for spectrum in spectra(step)]
        whole = workspace_bytes(work, Schedule(work.windows))
        inside = [spectrum for spectrum in spectra(step) if spectrum.array == "workspace"]
        assert max(spectrum.end for spectrum in inside) + LINE_BYTES <= whole
        if isinstance(step, Transform):
            holds[places[0]] = step.operand
        elif isinstance(step, Inverse):
            assert holds[places[0]] == step.result
        else:
            operands = "grad_output", {"input_grad": "weight", "weight_grad": "input"}[step.pass_name]
            assert (holds[places[0]], holds[places[1]]) == operands and places[2] not in places[:2]
            holds[places[2]] = {"input_grad": "dx", "weight_grad": "dw"}[step.pass_name]


def test_gradients_share_a_spectrum_where_one_segment_and_one_chunk_hold_it() -> None:
    work, whole = Work("weight_grad", (8, 8), 6, 2, 2, 1), Schedule(6)
    assert shares_gradients(work, True, (whole, whole))
    assert not shares_gradients(work, False, (whole, whole))
    assert not shares_gradients(work, True, (whole, Schedule(4)))
    empty = Work("weight_grad", (8, 8), 0, 2, 2, 1)
    assert not shares_gradients(empty, True, (Schedule(1), Schedule(1)))


def test_what_is_made_in_chunks_is_not_worth_keeping() -> None:
    works = [Work(name, (8, 8), 6, 2, 2, 1) for name in PASSES]
    whole, half = Schedule(6), Schedule(4)
    assert worth_keeping(works, (whole, whole, whole)) == ("input", "weight")
    assert worth_keeping(works, (half, whole, whole)) == worth_keeping(works, (whole, whole, half)) == ("weight",)


def test_kernels_count_no_more_than_they_can() -> None:
    many = Work("forward", (8, 8), 2**33, 3, 4, 1)
    assert next(schedules(many)).chunk == MOST_WINDOWS
    wide = Work("forward", (8, 8), 2**20, 3000, 4, 1)
    chunk = next(schedules(wide)).chunk
    assert chunk % 2 == 0 and chunk * 3000 < 2**31 <= (chunk + 2) * 3000
    for C, K in ((2**30, 4), (4, 2**30), (2**16, 2**14)):
        with pytest.raises(UnsupportedError, match="1,073,741,8"):
            next(schedules(Work("forward", (8, 8), 2, C, K, 1)))


def test_a_plan_for_a_gpu_knows_its_workspace() -> None:
    """The three spectra of a pass, each bin in whole lines."""
    plan = plan_conv2d((16, 64, 32, 32), (64, 64, 9, 9), padding=4, device="sm_90", fft_size=40)
    images, weight = 8 * 16 * 64 * bins((40, 40)), 8 * 64 * 64 * bins((40, 40))
    assert plan.workspace_size == 2 * images + weight + LINE_BYTES
    limit = weight + images
    small = plan_conv2d(
        (16, 64, 32, 32), (64, 64, 9, 9), padding=4, device="sm_90", fft_size=40, workspace_limit=limit
    )
    assert small.workspace_size <= limit and "of 16 windows at a time" in small.explain()
    assert all(choice.workspace == workspace_bytes(choice.work, choice.schedule) for choice in small.choice.passes)
    assert prod(small.geometry.weight_shape) == 64 * 64 * 81


@pytest.mark.parametrize(
    "architecture, name",
    [((8, 0), "sm_80"), ((8, 7), "sm_86"), ((8, 9), "sm_89"), ((9, 0), "sm_90"), ((12, 1), "sm_90")],
)
def test_newer_gpus_are_priced_as_the_newest_known(architecture: tuple[int, int], name: str) -> None:
    assert tuning.figures(architecture) == name
