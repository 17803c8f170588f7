"""Whole layers on the CUDA engine, in the simulator: every option at once, in all passes, against the definition.

The properties are those of the CPU engine's suite (test_passes, test_properties, test_same_bits), on layers small
enough for kernels that run lane by lane.
"""

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from numba import cuda
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray
from strategies import (
    LAYOUTS,
    PASSES,
    Arrays,
    Problem,
    Recorder,
    Scope,
    call,
    check_layer,
    each_layout,
    poisoned,
    problems,
    relaid,
)

from numba_fftconv import WorkspaceError, conv2d_backward, conv2d_input_grad
from numba_fftconv.cuda.schedule import schedules, workspace_bytes
from numba_fftconv.dtypes import HALVES, rounded, widened

SCOPE = Scope(
    dtypes=("float32",), fft_sizes=(4, 4, 6, 6, 8, None), channels=(1, 2, 3, 4, 5), batches=(1, 1, 2, 3, 5),
    multiplications=2e4, longest=14,
)  # fmt: skip
LAYERS = problems(scope=SCOPE)
EACH_LAYOUT = each_layout([layout for layout in LAYOUTS if layout != "unaligned"])
EXACT = 2e-6  # of float32, where a sum of a few hundred terms is compared with another


def on_device(array: np.ndarray) -> FakeCUDAArray:
    """The same memory as an array of Numba, whatever its strides."""
    return FakeCUDAArray(array)


def to_device(a: Arrays) -> Arrays:
    return Arrays(*map(on_device, a))


def fetched(array: Any) -> np.ndarray:
    assert isinstance(array, FakeCUDAArray)
    return array.copy_to_host()


def plan_of(problem: Problem, **options: Any) -> Any:
    return problem.plan(device="cuda", **options)


def passes(problem: Problem, **options: Any) -> dict[str, np.ndarray]:
    """The three passes by the plan."""
    plan, a = plan_of(problem, **options), to_device(problem.arrays())
    return {name: fetched(call(plan, a, name)) for name in PASSES}


def assert_same(got: np.ndarray, want: np.ndarray, what: str) -> None:
    assert got.shape == want.shape and got.tobytes() == want.tobytes(), f"{what}: other bits"


# ---- halves ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("problem", [
    Problem(2, 2, 7, 6, 3, 3, 2, stride=(1, 2), padding=1, fft_size=6),
    pytest.param(Problem(1, 1, 90, 3, 1, 70, 2, fft_size=(128, 4)), marks=pytest.mark.slow),  # in two passes
], ids=["small", "large"])  # fmt: skip
def test_a_pass_of_halves_is_that_of_float32_rounded(problem: Problem, dtype: str) -> None:
    """Bit for bit, a bias and its gradient too, and results with gaps and backward."""
    rough = Arrays(*(rounded(a, dtype) for a in problem.arrays()))
    single, bias = Arrays(*map(widened, rough)), rounded(problem.bias(), dtype)
    plans = plan_of(problem), plan_of(problem, dtype=dtype)
    want, got = (
        {**{name: fetched(call(plan, a, name)) for name in PASSES[1:]},
         "forward": fetched(plan.forward(a.x, a.w, on_device(b))),
         "bias_grad": fetched(plan.backward(a.dy, a.x, a.w, output_mask=(False, False, True))[2])}
        for plan, a, b in zip(plans, map(to_device, (single, rough)), (widened(bias), bias), strict=True)
    )  # fmt: skip
    for name, exact in want.items():
        assert_same(got[name], rounded(exact, dtype), f"{name} of {dtype}")
    for layout in ("gaps", "reversed", "channels last"):
        out = on_device(relaid(np.zeros_like(got["input_grad"]), layout))
        lying = to_device(Arrays(*(relaid(a, layout) for a in rough)))
        assert call(plans[1], lying, "input_grad", out=out) is out
        assert_same(fetched(out), got["input_grad"], layout)


# ---- against the definition ------------------------------------------------------------------------------------------

CORNERS = [
    Problem(1, 1, 1, 1, 1, 1, 1, fft_size=4),
    Problem(2, 1, 4, 4, 1, 4, 4, fft_size=4),
    Problem(1, 2, 17, 5, 3, 3, 1, stride=(3, 2), padding=((2, 5), (0, 3)), fft_size=4),
    Problem(3, 3, 11, 9, 6, 2, 3, stride=(2, 3), dilation=(3, 2), padding=((0, 2), (5, 1)), groups=3, fft_size=8),
    Problem(2, 4, 6, 7, 12, 3, 2, padding=(1, 0), groups=4, fft_size=6),
    Problem(2, 6, 6, 7, 6, 3, 2, padding=(1, 0), groups=2, fft_size=6),
    Problem(1, 2, 9, 12, 2, 3, 3, padding=1, batched=False, fft_size=14),
    Problem(1, 1, 20, 20, 1, 9, 9, padding=4, fft_size=32),
    Problem(3, 2, 1, 60, 3, 1, 9, fft_size=(2, 40)),
    Problem(1, 2, 6, 14, 2, 3, 5, fft_size=(6, 10)),
    Problem(1, 1, 40, 5, 1, 30, 2, dilation=(3, 2), padding=(60, 1), fft_size=(128, 8)),
    Problem(2, 1, 5, 150, 2, 2, 90, stride=(1, 2), fft_size=(4, 128)),
]
LARGE = [
    Problem(1, 1, 110, 100, 2, 100, 90, fft_size=128),
    Problem(2, 2, 1, 260, 3, 1, 200, fft_size=(2, 256)),
    Problem(1, 1, 161, 700, 1, 5, 20, fft_size=(32, 64)),
    Problem(1, 2, 130, 5, 2, 70, 2, padding=1, fft_size=(128, 4)),
]


def check(problem: Problem, layouts: tuple[str, str, str], record: Recorder) -> None:
    check_layer(problem, plan_of(problem), layouts, record, "CUDA", lambda a, lay: on_device(relaid(a, lay)), fetched)


@settings(max_examples=7)
@given(problem=LAYERS, layouts=EACH_LAYOUT)
def test_drawn_layers(problem: Problem, layouts: tuple[str, str, str], record_worst: Recorder, order: Any) -> None:
    check(problem, layouts, record_worst)


@pytest.mark.parametrize("problem", CORNERS, ids=lambda problem: problem.title)
def test_corners(problem: Problem, record_worst: Recorder) -> None:
    check(problem, ("contiguous", "contiguous", "contiguous"), record_worst)


@pytest.mark.slow
@pytest.mark.parametrize("problem", LARGE, ids=lambda problem: problem.title)
def test_large_kernels(problem: Problem, record_worst: Recorder) -> None:
    check(problem, ("contiguous", "contiguous", "contiguous"), record_worst)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout not in ("unaligned", "read only")])
def test_out_of_any_layout(layout: str) -> None:
    """A result is written where `out` has its samples and nowhere between them."""
    problem = Problem(2, 2, 7, 6, 3, 3, 2, padding=((1, 2), (1, 0)), stride=(1, 2), fft_size=4)
    plan, a, want = plan_of(problem), to_device(problem.arrays()), passes(problem)
    for name in PASSES:
        out = relaid(poisoned(problem, name), layout)
        held = out if out.base is None else out.base
        held[...] = np.nan
        given = on_device(out)
        assert call(plan, a, name, out=given) is given
        assert_same(np.ascontiguousarray(out), want[name], name)
        assert np.count_nonzero(~np.isnan(held)) == out.size


# ---- properties ------------------------------------------------------------------------------------------------------


@settings(max_examples=3)
@given(problem=LAYERS)
def test_the_gradients_are_adjoint_to_the_forward_pass(problem: Problem) -> None:
    """<conv(x, w), dy> = <x, input_grad(dy, w)> = <w, weight_grad(x, dy)>."""
    a, got = problem.arrays(), passes(problem)
    through_y, through_x, through_w = (
        float(np.vdot(b.astype(np.float64), got[name]))
        for b, name in ((a.dy, "forward"), (a.x, "input_grad"), (a.w, "weight_grad"))
    )
    size = float(np.linalg.norm(a.x) * np.linalg.norm(a.w) * np.linalg.norm(a.dy))
    assert abs(through_y - through_x) <= EXACT * size and abs(through_y - through_w) <= EXACT * size


@settings(max_examples=3)
@given(problem=LAYERS, name=st.sampled_from(PASSES), place=st.integers(0, 1), power=st.sampled_from((-20, -1, 3, 20)))
def test_a_power_of_two_scales_every_bit(problem: Problem, name: str, place: int, power: int) -> None:
    """Nothing but sums and products happens to a sample: no constant is added, no threshold applied."""
    operands = {"forward": ("x", "w"), "input_grad": ("dy", "w"), "weight_grad": ("x", "dy")}
    plan, a = plan_of(problem), problem.arrays()
    operand, scale = operands[name][place], np.float32(2.0**power)
    scaled = a._replace(**{operand: getattr(a, operand) * scale})
    want = fetched(call(plan, to_device(a), name)) * scale
    assert np.array_equal(fetched(call(plan, to_device(scaled), name)), want)


@settings(max_examples=3)
@given(problem=LAYERS)
def test_bias_is_added_to_every_output_of_its_filter(problem: Problem) -> None:
    plan, a, bias = plan_of(problem), to_device(problem.arrays()), problem.bias()
    without = fetched(plan.forward(a.x, a.w))
    wide = np.full((problem.K, 3), np.nan, np.float32)
    wide[:, 1] = bias
    for lying in (bias, wide[:, 1], bias[::-1].copy()[::-1]):
        got = fetched(plan.forward(a.x, a.w, on_device(lying)))
        rounding = 4 * np.finfo(np.float32).eps * (np.abs(without) + np.abs(bias[:, None, None]))
        assert (np.abs(got - (without.astype(np.float64) + bias[:, None, None])) <= rounding).all()


@settings(max_examples=3)
@given(problem=LAYERS, name=st.sampled_from(PASSES), place=st.integers(0, 1), data=st.data())
def test_what_is_not_finite_spoils_what_it_reaches(problem: Problem, name: str, place: int, data: Any) -> None:
    """At least the results that a direct convolution would spoil: a NaN in the data never goes unseen."""
    operand = {"forward": ("x", "w"), "input_grad": ("dy", "w"), "weight_grad": ("x", "dy")}[name][place]
    a, ones = problem.arrays(), Arrays(*(np.ones(b.shape) for b in problem.arrays()))
    marked, mark = getattr(a, operand), np.zeros_like(getattr(ones, operand))
    at = tuple(data.draw(st.integers(0, n - 1)) for n in marked.shape)
    marked[at], mark[at] = data.draw(st.sampled_from((np.nan, np.inf))), 1
    with np.errstate(all="ignore"):
        got = fetched(call(plan_of(problem), to_device(a), name))
    hit = problem.expected(ones._replace(**{operand: mark}))[name] > 0.5
    assert not np.isfinite(got[hit]).any(), f"{np.isfinite(got[hit]).sum()} of {hit.sum()} results look sound"


def test_an_empty_batch_gives_empty_results_and_zero_gradients() -> None:
    for groups in (1, 2, 4):
        problem = Problem(0, 4, 9, 9, 8, 3, 3, 1, 1, 1, groups, fft_size=4)
        plan, a = plan_of(problem), to_device(problem.arrays())
        for name in PASSES:
            out = poisoned(problem, name)
            call(plan, a, name, out=on_device(out))
            got = fetched(call(plan, a, name))
            assert got.shape == out.shape and np.array_equal(got, np.zeros_like(out)) and not out.any()
        dx, dw, db = map(fetched, plan.backward(a.dy, a.x, a.w))
        assert dx.shape == problem.x_shape and not dw.any() and np.array_equal(db, np.zeros(8))


# ---- the same bits ---------------------------------------------------------------------------------------------------


@settings(max_examples=3)
@given(problem=LAYERS, mask=st.tuples(st.booleans(), st.booleans(), st.booleans()), spectral=st.booleans())
def test_backward_gives_the_bits_of_the_single_calls(problem: Problem, mask: Any, spectral: bool) -> None:
    """Whether both gradients come from one spectrum of dy or not."""
    plan, a, want = plan_of(problem), to_device(problem.arrays()), passes(problem)
    if spectral:
        dx, dw, db = plan.backward(a.dy, plan.transform_input(a.x), plan.transform_weight(a.w), output_mask=mask)
    else:
        dx, dw, db = conv2d_backward(a.dy, a.x, a.w, **problem.options, plan=plan, output_mask=mask)
    for got, name, wanted in ((dx, "input_grad", mask[0]), (dw, "weight_grad", mask[1])):
        assert (got is not None) == wanted
        if got is not None:
            assert_same(fetched(got), want[name], name)
    assert (db is not None) == mask[2]
    if db is not None:
        dy = problem.arrays().dy
        axes = (0, 2, 3) if problem.batched else (1, 2)
        exact, size = dy.sum(axes, dtype=np.float64), np.abs(dy).sum(axes, dtype=np.float64)
        assert (np.abs(fetched(db) - exact) <= 4 * np.finfo(np.float32).eps * size).all()


@settings(max_examples=3)
@given(problem=LAYERS, offset=st.integers(0, 129))
def test_a_workspace_full_of_garbage(problem: Problem, offset: int) -> None:
    """Of exactly the size that the plan names, wherever it begins; the bytes around it are left alone."""
    plan, a, want = plan_of(problem), to_device(problem.arrays()), passes(problem)
    around = np.full(plan.workspace_size + 256, 0xFF, np.uint8)
    inside = slice(offset, offset + plan.workspace_size)
    for name in PASSES:
        around[:] = 0xFF  # which reads as NaN
        assert_same(fetched(call(plan, a, name, workspace=on_device(around[inside]))), want[name], name)
        around[inside] = 0xFF
        assert (around == 0xFF).all()


@settings(max_examples=3)
@given(problem=LAYERS)
def test_spectral_weight(problem: Problem) -> None:
    """Transformed once, used in both passes that read the weight; it holds no view of the weight."""
    plan, a, want = plan_of(problem), problem.arrays(), passes(problem)
    w = a.w.copy()
    spectral = plan.transform_weight(on_device(w))
    w[:] = np.nan
    assert spectral.device == "cuda:0"
    assert_same(fetched(plan.forward(on_device(a.x), spectral)), want["forward"], "forward")
    got = conv2d_input_grad(problem.x_shape, spectral, on_device(a.dy), **problem.options)
    assert_same(fetched(got), want["input_grad"], "input_grad")


CHUNKED = [
    Problem(5, 2, 5, 4, 3, 3, 2, padding=1, fft_size=4),
    Problem(7, 4, 4, 3, 4, 2, 2, groups=4, fft_size=4),
    pytest.param(Problem(6, 4, 5, 4, 2, 3, 3, padding=1, stride=(2, 1), groups=2, fft_size=6), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("problem", CHUNKED, ids=lambda problem: problem.title)
def test_every_chunk(problem: Problem) -> None:
    """Every size of chunks that the planner offers, among them some whose last chunk is smaller."""
    plan, a, want = plan_of(problem), to_device(problem.arrays()), passes(problem)
    for name in PASSES:
        choice = plan.choice.by_pass[name]
        for way in schedules(choice.work):
            smaller = choice._replace(schedule=way, workspace=workspace_bytes(choice.work, way))
            changed = replace(plan, choice=plan.choice._replace(by_pass={**plan.choice.by_pass, name: smaller}))
            assert_same(fetched(call(changed, a, name)), want[name], f"{name}, {way}")


@settings(max_examples=3, suppress_health_check=list(HealthCheck))
@given(problem=LAYERS, part=st.floats(0.4, 0.95))
def test_chunks_of_drawn_layers(problem: Problem, part: float) -> None:
    whole = plan_of(problem)
    try:
        plan = plan_of(problem, workspace_limit=int(part * whole.workspace_size))
    except WorkspaceError:
        reject()
    if plan.fft_size != whole.fft_size:
        reject()
    want = passes(problem)
    for name in PASSES:
        got = fetched(call(plan, to_device(problem.arrays()), name))
        assert_same(got, want[name], f"{name} in {plan.workspace_size} bytes")


def test_numbas_own_arrays_and_streams() -> None:
    """What cuda.to_device and cuda.device_array make, on a stream that is given."""
    problem = Problem(1, 1, 4, 4, 1, 2, 2, fft_size=4)
    plan, a, want = plan_of(problem), problem.arrays(), passes(problem)
    out = cuda.device_array(problem.y_shape, np.float32)
    assert plan.forward(cuda.to_device(a.x), cuda.to_device(a.w), out=out, stream=cuda.stream()) is out
    assert_same(out.copy_to_host(), want["forward"], "forward")
    again = pickle.loads(pickle.dumps(plan))  # programs, which hold locks, stay behind
    assert_same(fetched(again.forward(cuda.to_device(a.x), cuda.to_device(a.w))), want["forward"], "a copied plan")
    times = plan.profile("weight_grad", cuda.to_device(a.x), cuda.to_device(a.dy))
    assert list(times) == ["transform x", "transform dy", "multiply", "inverse dw"] and min(times.values()) > 0


# ---- precisions ------------------------------------------------------------------------------------------------------

ERRORS = {"tf32x3": 1e-6, "bf16x3": 2e-5, "tf32": 2e-3}  # of the largest sample


@pytest.mark.parametrize("precision", ERRORS)
def test_precisions(precision: str) -> None:
    """Near the definition and not nearer than they claim; a smaller workspace changes no bit."""
    problem = Problem(2, 4, 9, 9, 3, 3, 3, padding=1, fft_size=6)
    exact, got = passes(problem), passes(problem, precision=precision)
    for name in PASSES:
        error = abs(got[name] - exact[name]).max() / abs(exact[name]).max()
        assert error < ERRORS[precision], f"{name}: {error:.1e}"
        assert precision == "tf32x3" or error > ERRORS[precision] / 1000
    work = plan_of(problem, precision=precision).choice.by_pass["weight_grad"].work
    chunks = [way for way in schedules(work) if way.chunk < work.windows]
    assert chunks and all(way.chunk % 8 == 0 for way in chunks)
    limited = passes(problem, precision=precision, workspace_limit=workspace_bytes(work, chunks[-1]))
    for name in PASSES:
        assert_same(limited[name], got[name], name)
