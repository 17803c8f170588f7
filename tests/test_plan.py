"""Plans are inert, hashable and comparable, are made without a GPU, and print themselves as their schedule."""
import copy
import pickle
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import PASSES, Problem, call, poisoned, problems, result_shape

from numba_fftconv import (
    ConvPlan,
    InvalidOptionError,
    PlanMismatchError,
    WorkspaceError,
    conv2d,
    conv2d_backward,
    conv2d_input_grad,
    conv2d_weight_grad,
    plan_conv2d,
    tuning,
)
from numba_fftconv.cpu import threads
from numba_fftconv.cpu.schedule import Schedule, Work, shares_gradients, worth_keeping
from numba_fftconv.cuda import tensor_tiles
from numba_fftconv.options import FFT_SIZES

LAYER = Problem(16, 64, 32, 32, 64, 9, 9, padding=4, fft_size=None)
SMALL = Problem(20, 3, 13, 12, 5, 3, 3, padding=1, fft_size=16)


def numbers(text: str) -> list[float]:
    """The numbers of a text, with or without separators between thousands."""
    return [float(found.replace(",", "").replace("_", "")) for found in re.findall(r"\d[\d,_]*(?:\.\d+)?", text)]


def names(text: str, value: int) -> bool:
    """Whether a text holds a number: in full, or to three digits in units of powers of 1000 or 1024."""
    units = [base**power for base in (1000, 1024) for power in range(5)]
    return any(abs(number * unit - value) <= 6e-3 * value for number in numbers(text) for unit in units)


# ---- what a plan is


@settings(max_examples=100)
@given(problem=problems())
def test_equal_requests_make_equal_plans(problem: Problem) -> None:
    plan, again = problem.plan(), problem.plan()
    assert plan == again and hash(plan) == hash(again) and len({plan, again}) == 1
    written_out = replace(problem, stride=problem.resolved["stride"], padding=problem.resolved["padding"])
    assert written_out.plan() == plan
    assert problem.plan(fft_size=plan.fft_size) == plan or problem.fft_size is None


@pytest.mark.parametrize("change", [
    {"N": 21}, {"C": 4}, {"H": 14}, {"W": 13}, {"K": 6}, {"R": 2}, {"S": 2}, {"stride": 2}, {"padding": 0},
    {"dilation": (1, 2)}, {"dtype": "float64"}, {"fft_size": 20}, {"padding": ((1, 2), (1, 1))},
], ids=str)
def test_other_requests_make_other_plans(change: dict) -> None:
    assert replace(SMALL, **change).plan() != SMALL.plan()


def test_the_device_and_the_workspace_tell_plans_apart() -> None:
    plan = SMALL.plan()
    assert SMALL.plan(device="sm_90") != plan
    assert SMALL.plan(workspace_limit=plan.workspace_size) != plan
    assert plan != object() and plan != None  # noqa: E711


@pytest.mark.parametrize("name", ["fft_size", "geometry", "dtype", "workspace_size", "new_name"])
def test_plans_do_not_change(name: str) -> None:
    with pytest.raises((AttributeError, TypeError)):
        setattr(SMALL.plan(), name, 1)


def test_running_leaves_a_plan_as_it_was() -> None:
    plan = SMALL.plan()
    before = repr(plan), hash(plan), plan.explain(), plan.workspace_size
    for name in PASSES:
        call(plan, SMALL.arrays(), name)
    assert (repr(plan), hash(plan), plan.explain(), plan.workspace_size) == before


def test_plans_can_be_copied_and_sent() -> None:
    plan = SMALL.plan()
    for other in (copy.copy(plan), copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
        assert other == plan and hash(other) == hash(plan)
        assert np.array_equal(call(other, SMALL.arrays(), "forward"), call(plan, SMALL.arrays(), "forward"))


def test_planning_compiles_and_allocates_nothing() -> None:
    """A plan of a layer with terabytes of images is a matter of integers."""
    tracemalloc.start()
    plan = plan_conv2d((10**6, 512, 1024, 1024), (512, 512, 9, 9), padding=4, device="cpu")
    said = plan.explain()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said and plan.flops["forward"] > 10**15
    assert peak < 2**24


def test_planning_needs_no_gpu_and_starts_no_compiler() -> None:
    script = """
import sys, time
import numba_fftconv as n
start = time.perf_counter()
for device in ("cpu", "sm_90"):
    assert n.plan_conv2d((16, 64, 32, 32), (64, 64, 9, 9), padding=4, device=device).explain()
took = time.perf_counter() - start
assert took < 1, f"two plans took {took:.1f} s"
assert not any(name.startswith("numba.cuda.cudadrv") or name.startswith("cupy") for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# ---- what a plan says


@settings(max_examples=100)
@given(problem=problems())
def test_what_every_plan_knows(problem: Problem) -> None:
    plan = problem.plan()
    axes = plan.geometry.rows, plan.geometry.cols
    assert isinstance(plan, ConvPlan) and plan.dtype == problem.dtype and plan.device == "cpu"
    assert (plan.geometry.input_shape, plan.geometry.weight_shape, plan.geometry.output_shape) == tuple(
        result_shape(problem, name) for name in ("input_grad", "weight_grad", "forward")
    )
    assert all(T in FFT_SIZES and axis.reach < T for T, axis in zip(plan.fft_size, axes, strict=True))
    for known in (plan.segments, plan.flops, plan.bytes):
        assert set(known) == set(PASSES)
    for name in PASSES:
        assert plan.segments[name] == tuple(
            axis.segments(T, name) for T, axis in zip(plan.fft_size, axes, strict=True)
        )
        touched = sum(int(np.prod(result_shape(problem, each))) for each in PASSES) * np.dtype(problem.dtype).itemsize
        bins = np.prod(plan.fft_size) / 2 * np.prod(plan.segments[name])
        least = 6 * bins * problem.N * problem.C * problem.K / problem.groups
        assert plan.flops[name] >= least and isinstance(plan.flops[name], int)
        assert plan.bytes[name] >= touched * 0.99 and isinstance(plan.bytes[name], int)
    assert isinstance(plan.workspace_size, int) and plan.workspace_size >= 0
    said = plan.explain()
    assert isinstance(said, str) and "transforms of {} x {};".format(*plan.fft_size) in said


@pytest.mark.parametrize("device, dtype", [("cpu", "float32"), ("cpu", "float64"), ("sm_90", "float32")])
def test_explain_prints_the_schedule(device: str, dtype: str) -> None:
    """Sizes, segments, waste, shapes by stage, bytes, flops, workspace, predicted time, its bound, the rejected."""
    problem = replace(LAYER, dtype=dtype, H=70, W=50)
    plan = problem.plan(device=device)
    said = plan.explain()
    lower = said.lower()
    assert "transforms of {} x {};".format(*plan.fft_size) in said, said
    for word in (*PASSES, "segment", "waste", "transform", "multiply", "inverse", "byte", "flop", "workspace", "bound",
                 "predicted", "rejected", device, dtype):
        assert word in lower, f"no {word!r} in\n{said}"
    assert re.search(r"\d\s*(ns|us|µs|ms|s)\b", said), f"no time in\n{said}"
    assert "%" in said, f"no percentage of waste in\n{said}"
    for name in PASSES:
        rows, cols = plan.segments[name]
        assert re.search(rf"\b{rows}\s*[x×*]\s*{cols}\b", said), f"no {rows} x {cols} segments in\n{said}"  # noqa: RUF001
        for value in (plan.flops[name], plan.bytes[name]):
            assert names(said, value), f"no {value} of {name} in\n{said}"
    assert names(said, plan.workspace_size), f"no workspace of {plan.workspace_size} bytes in\n{said}"


def test_explain_says_what_each_product_is() -> None:
    """Groups of m x n, summed over the depth, by the roles of the letters: here the windows are as many as filters."""
    said = plan_conv2d((4, 4, 8, 8), (4, 2, 3, 3), groups=2, fft_size=16, device="cpu").explain()
    products = re.findall(r"multiply +(\d+ bins x .*?)  ", said)
    bins = "130 bins x 2 groups of"
    assert products == [f"{bins} 4 x 2, 2 deep in c", f"{bins} 4 x 2, 2 deep in k", f"{bins} 2 x 2, 4 deep in m"]
    said = plan_conv2d((5, 6, 8, 8), (12, 2, 3, 3), groups=3, fft_size=16, device="cpu").explain()
    products, bins = re.findall(r"multiply +(\d+ bins x .*?)  ", said), "130 bins x 3 groups of"
    assert products == [f"{bins} 5 x 4, 2 deep in c", f"{bins} 5 x 2, 4 deep in k", f"{bins} 4 x 2, 5 deep in m"]


@pytest.mark.parametrize("device", ["cpu", "sm_90"])
@pytest.mark.parametrize("problem", [LAYER, SMALL, replace(SMALL, H=90)], ids=lambda problem: problem.title)
def test_explain_says_which_spectra_are_shared(problem: Problem, device: str) -> None:
    plan = replace(problem, fft_size=None).plan(device=device)
    (line,) = [line for line in plan.explain().splitlines() if line.startswith("backward:")]
    assert ("transformed once" in line) is plan.shares_dy
    for name, size in plan.spectrum_size.items():
        assert (f"{name} ({size:,} bytes)" in line) is (name in plan.kept("all"))


def test_explain_says_what_is_summed_and_on_what() -> None:
    said = LAYER.plan(device="sm_90").explain()
    assert "H200" in said.splitlines()[0]
    for line in (
        "forward: Y = sum over c of X * conj W",
        "input_grad: dX = sum over k of dY * W",
        "weight_grad: dW = sum over m of X * conj dY",
    ):
        assert line in said.splitlines()


def test_explain_says_what_a_precision_is() -> None:
    """What it runs as, and what its products take by the rate of their tiles."""
    layer = (64, 64, 32, 32), (64, 64, 5, 5)

    def products(**options: Any) -> tuple[str, list[float]]:
        plan = plan_conv2d(*layer, fft_size=32, **options)
        return plan.explain(), [choice.costs[2].seconds for choice in plan.choice.passes]

    said, fp32 = products(device="sm_80")
    assert "precision fp32\n" in said
    for precision, factor in (("tf32x3", 2), ("bf16x3", 4), ("tf32", 6)):
        said, times = products(device="sm_80", precision=precision)
        assert f"precision {precision}: " in said and "tensor cores" in said and "faster" not in said
        assert all(one < other for one, other in zip(times, fp32, strict=True))
        assert tensor_tiles.flops(precision, tuning.GPUS["sm_80"]) > factor * tuning.GPUS["sm_80"].flops
    assert "fp32 is faster on L40S" in products(device="sm_89", precision="tf32x3")[0]
    assert "precision tf32x3, which runs as fp32 on a CPU" in products(precision="tf32x3")[0]
    depthwise = plan_conv2d((2, 4, 9, 9), (8, 1, 3, 3), groups=4, precision="tf32", device="sm_90")
    assert "runs as fp32 where a group has one channel" in depthwise.explain()


def test_explain_lists_what_was_rejected_with_its_cost() -> None:
    """At least three other sizes, each with a time, none below that of the chosen one."""
    plan = LAYER.plan()
    rejected = plan.explain().lower().partition("rejected")[2]
    others = {T for T in FFT_SIZES if plan.fft_size != (T, T) and re.search(rf"\b{T} x {T}\b", rejected)}
    assert len(others) >= 3, plan.explain()
    assert len(re.findall(r"\d\s*(?:ns|us|µs|ms|s)\b", rejected)) >= 3, plan.explain()


def test_a_chosen_length_is_listed_as_chosen() -> None:
    for T in (12, 20):
        plan = SMALL.plan(fft_size=T)
        assert plan.fft_size == (T, T) and f"transforms of {T} x {T};" in plan.explain()


def test_explain_owns_up_where_a_direct_sum_would_be_cheaper() -> None:
    """256 taps in a tile of 256 leave one output a side; a 1 x 1 kernel has nothing to transform for."""
    large = plan_conv2d((1, 1, 600, 600), (1, 1, 256, 256), device="cpu")
    pointwise = plan_conv2d((16, 64, 32, 32), (64, 64, 1, 1), device="cpu")
    assert re.search(r"direct\b.*\bcheaper|cheaper\b.*\bdirect", large.explain(), re.S | re.I), large.explain()
    assert re.search(r"direct\b.*\bcheaper|cheaper\b.*\bdirect", pointwise.explain(), re.S | re.I), pointwise.explain()
    assert not re.search(r"direct\b.*\bcheaper|cheaper\b.*\bdirect", LAYER.plan().explain(), re.S | re.I)


def test_the_model_prefers_what_fits() -> None:
    """32 samples and a kernel of 9 fit one tile of 36 or more; tiles of 64 would be mostly zeros."""
    plan = LAYER.plan()
    assert plan.segments["forward"] == (1, 1) and max(plan.fft_size) <= 42
    assert max(plan_conv2d((16, 64, 13, 13), (64, 64, 3, 3), padding=1, device="cpu").fft_size) <= 16
    assert min(plan_conv2d((1, 1, 1024, 1024), (1, 1, 31, 31), device="cpu").fft_size) >= 48


# ---- what may be asked for


@pytest.mark.parametrize("T", FFT_SIZES)
def test_every_length_can_be_planned(T: int) -> None:
    plan = plan_conv2d((2, 3, 40, 40), (4, 3, 2, 2), fft_size=T, device="cpu")
    assert plan.fft_size == (T, T)
    for form in ((T, T), [T, T], np.array([T, T]), np.array(T), np.int32(T)):
        assert plan_conv2d((2, 3, 40, 40), (4, 3, 2, 2), fft_size=form, device="cpu") == plan


@pytest.mark.parametrize("fft_size", [7, 11, 22, 65, 66, 0, -8, 9, 96, 257, 512])
def test_other_lengths_are_refused(fft_size: int) -> None:
    with pytest.raises(InvalidOptionError, match=f"fft_size is {fft_size}: .* the nearest to {fft_size} is"):
        SMALL.plan(fft_size=fft_size)


@pytest.mark.parametrize("name", [*PASSES, "backward", "transform_weight", "transform_input"])
def test_a_plan_for_a_gpu_can_be_read_but_not_run_here(name: str) -> None:
    problem = replace(SMALL, fft_size=None)
    plan, a = problem.plan(device="sm_90"), problem.arrays()
    assert plan.device == "sm_90" and {*plan.fft_size} <= {*FFT_SIZES} and "sm_90" in plan.explain()
    gradients = {"input_grad": (a.dy, a.w), "weight_grad": (a.x, a.dy), "backward": (a.dy, a.x, a.w)}
    operands = {"forward": (a.x, a.w), "transform_weight": (a.w,), "transform_input": (a.x,), **gradients}
    with pytest.raises(PlanMismatchError, match=r"device 'sm_90'.*'cpu'"):
        getattr(plan, name)(*operands[name])
    if name in PASSES:
        with pytest.raises(PlanMismatchError, match=r"device 'sm_90'.*'cpu'"):
            plan.profile(name, *operands[name])
    doors = {
        "forward": lambda: conv2d(a.x, a.w, plan=plan),
        "input_grad": lambda: conv2d_input_grad(a.x.shape, a.w, a.dy, plan=plan),
        "weight_grad": lambda: conv2d_weight_grad(a.x, a.w.shape, a.dy, plan=plan),
        "backward": lambda: conv2d_backward(a.dy, a.x, a.w, plan=plan),
    }
    if name in doors:
        with pytest.raises(PlanMismatchError, match=r"device 'sm_90'.*'cpu'"):
            doors[name]()


def test_the_default_device_is_the_cpu() -> None:
    """Whatever the machine has: this version has no other engine."""
    assert plan_conv2d((1, 1, 8, 8), (1, 1, 3, 3)).device == "cpu"


# ---- workspace


@pytest.mark.parametrize("name", PASSES)
def test_a_workspace_of_one_byte_less_is_refused(name: str) -> None:
    plan, a = SMALL.plan(), SMALL.arrays()
    out, short = poisoned(SMALL, name), np.full(plan.workspace_size - 1, 7, np.uint8)
    with pytest.raises(WorkspaceError) as caught:
        call(plan, a, name, out=out, workspace=short)
    assert str(plan.workspace_size) in str(caught.value) and str(len(short)) in str(caught.value)
    assert np.isnan(out).all() and (short == 7).all()


@settings(max_examples=60)
@given(problem=problems(), part=st.floats(0.01, 1.5))
def test_a_workspace_limit_holds_or_is_refused(problem: Problem, part: float) -> None:
    """A refusal names the limit and the least that works, and that works."""
    whole = problem.plan()
    limit = int(part * whole.workspace_size)
    try:
        plan = problem.plan(workspace_limit=limit, fft_size=whole.fft_size)
    except WorkspaceError as error:
        assert limit < whole.workspace_size and str(limit) in str(error)
        least = [int(n) for n in numbers(str(error)) if limit < n <= whole.workspace_size]
        assert least, f"{error} names no limit between {limit} and {whole.workspace_size}"
        assert problem.plan(workspace_limit=least[-1], fft_size=whole.fft_size).workspace_size <= least[-1]
    else:
        assert plan.workspace_size <= limit
        if limit >= whole.workspace_size:
            assert plan.workspace_size == whole.workspace_size


def test_a_limit_saves_memory_in_a_large_batch() -> None:
    problem = replace(LAYER, N=512, fft_size=40)
    whole = problem.plan().workspace_size
    assert problem.plan(workspace_limit=whole // 3).workspace_size <= whole // 3


@pytest.mark.parametrize("limit", [0, -1, 1.5, "1 GB", True])
def test_limits_that_make_no_sense(limit: object) -> None:
    with pytest.raises(InvalidOptionError, match=f"workspace_limit is {limit!r}"):
        SMALL.plan(workspace_limit=limit)


@pytest.mark.parametrize("limit", [2**30, np.int64(2**30), np.array(2**30), 2**70])
def test_limits_are_any_integers(limit: object) -> None:
    assert SMALL.plan(workspace_limit=limit).workspace_size == SMALL.plan().workspace_size


# ---- one transform length for a layer, however a pass of it is asked for

UNEVEN = [  # layers for whose passes, one by one, the model may choose different lengths
    Problem(64, 8, 30, 30, 8, 3, 3, fft_size=None),
    Problem(1, 24, 50, 50, 16, 5, 5, padding=1, fft_size=None),
    Problem(20, 3, 40, 40, 16, 5, 5, padding=2, fft_size=None),
    Problem(150, 6, 30, 10, 6, 2, 3, dilation=(2, 3), groups=2, dtype="float64", fft_size=None),
]
CHUNKED = [Problem(300, 2, 9, 9, 3, 3, 3, fft_size=None), UNEVEN[-1]]  # many images, so that a limit leaves a choice
EACH = pytest.mark.parametrize("problem", UNEVEN, ids=lambda problem: problem.title)


def door(problem: Problem, name: str, **keywords: Any) -> np.ndarray:
    """A pass by its function, without a plan unless one is given."""
    a, options = problem.arrays(), {**problem.options, **keywords}
    if name == "forward":
        return conv2d(a.x, options.pop("weight", a.w), **options)
    if name == "input_grad":
        return conv2d_input_grad(a.x.shape, options.pop("weight", a.w), a.dy, **options)
    return conv2d_weight_grad(a.x, a.w.shape, a.dy, **options)


def test_the_lengths_would_differ_by_pass() -> None:
    """The test of the test below."""
    best = {}
    for problem in UNEVEN:
        g, count = problem.plan().geometry, threads.thread_count()
        made = [tuning.choose(g, problem.dtype, "cpu", size, None, count) for size in tuning.sizes(g)]
        fastest = (min(made, key=lambda choice, name=name: choice.by_pass[name].seconds) for name in PASSES)
        best[problem.title] = [choice.size for choice in fastest]
    assert any(len(set(lengths)) > 1 for lengths in best.values()), best


@EACH
@pytest.mark.parametrize("name", PASSES)
def test_every_way_to_ask_gives_the_same_bits(problem: Problem, name: str) -> None:
    plan, a = problem.plan(), problem.arrays()
    want, workspace = call(plan, a, name), np.full(plan.workspace_size, 0xFF, np.uint8)
    assert want.tobytes() == door(problem, name).tobytes()
    assert want.tobytes() == door(problem, name, plan=plan).tobytes()
    assert want.tobytes() == door(problem, name, workspace=workspace).tobytes()
    if name != "weight_grad":
        assert want.tobytes() == door(problem, name, weight=plan.transform_weight(a.w)).tobytes()
    both = conv2d_backward(a.dy, a.x, a.w, **problem.options, workspace=workspace)
    if name != "forward":
        assert want.tobytes() == both[name == "weight_grad"].tobytes()


@pytest.mark.parametrize("problem", CHUNKED, ids=lambda problem: problem.title)
def test_a_limit_keeps_the_length_where_a_schedule_of_it_fits(problem: Problem) -> None:
    whole, a = problem.plan(), problem.arrays()
    kept, limit = [], whole.workspace_size
    while limit := limit * 4 // 5:
        try:
            same = problem.plan(workspace_limit=limit, fft_size=whole.fft_size)
        except WorkspaceError:
            break
        limited = problem.plan(workspace_limit=limit)
        assert limited == same and limited.workspace_size <= limit
        kept.append(limited)
    assert kept
    for name in PASSES:
        want = call(whole, a, name).tobytes()
        assert all(call(plan, a, name).tobytes() == want for plan in (kept[0], kept[-1]))


def test_a_limit_that_the_length_does_not_fit_takes_the_next_best() -> None:
    """The order is that of the time without a limit."""
    g, count = LAYER.plan().geometry, threads.thread_count()
    ranked = tuning.candidates(g, LAYER.dtype, "cpu", None, count)
    least = {choice.size: tuning.choose(g, LAYER.dtype, "cpu", choice.size, 1, count).workspace for choice in ranked}
    limit = least[ranked[0].size] - 1
    want = next(choice.size for choice in ranked if least[choice.size] <= limit)
    assert LAYER.plan(workspace_limit=limit).fft_size == want != ranked[0].size


@pytest.mark.parametrize("name", PASSES)
def test_nothing_is_allocated_where_out_and_workspace_are_given(name: str) -> None:
    problem = Problem(32, 8, 30, 30, 16, 3, 3, padding=1, fft_size=16)
    plan, a, out = problem.plan(), problem.arrays(), poisoned(problem, name)
    workspace = np.empty(plan.workspace_size, np.uint8)
    call(plan, a, name, out=out, workspace=workspace)
    tracemalloc.start()
    call(plan, a, name, out=out, workspace=workspace)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000, f"{peak} bytes, for an input of {a.x.nbytes}"


def test_a_plan_serves_its_own_shapes_only() -> None:
    plan, a = SMALL.plan(), SMALL.arrays()
    with pytest.raises(PlanMismatchError, match=r"19.*20|20.*19"):
        plan.forward(a.x[:19], a.w)
    with pytest.raises(PlanMismatchError, match="float64"):
        plan.forward(a.x.astype("float64"), a.w)
    with pytest.raises(PlanMismatchError, match=r"fft_size \(16, 16\) where the plan has \(20, 20\)"):
        SMALL.plan(fft_size=20).forward(a.x, plan.transform_weight(a.w))


# ---- spectra that are kept for the gradients


def layer_on_gpu(**options: Any) -> ConvPlan:
    return plan_conv2d((8, 16, 32, 32), (32, 16, 9, 9), **({"padding": 4, "device": "sm_90"} | options))


@pytest.mark.parametrize("save", ["none", "input", "weight", "all"])
def test_a_gpu_keeps_what_a_policy_allows(save: str) -> None:
    allowed = {"none": (), "all": ("input", "weight")}.get(save, (save,))
    assert layer_on_gpu().kept(save) == allowed


def test_a_limit_takes_first_what_saves_most_for_its_size() -> None:
    plan = layer_on_gpu()
    size, stages = plan.spectrum_size, plan.choice.by_pass
    saves = {"input": stages["weight_grad"].costs[0].seconds, "weight": stages["input_grad"].costs[1].seconds}
    best, other = sorted(size, key=lambda name: size[name] / saves[name])
    whole = sum(size.values())
    assert plan.kept("all", whole) == ("input", "weight")
    assert plan.kept("all", whole - 1) == (best,)
    assert plan.kept("all", size[best] - 1) == ((other,) if size[other] < size[best] else ())
    assert plan.kept("all", 0) == ()


def test_a_cpu_keeps_only_what_the_gradients_would_make_alike() -> None:
    """Channels in the lanes of weight_grad, weights that stay in one core's cache: they are not worth keeping."""
    size = (8, 8)
    forward, input_grad, weight_grad = (
        Work(name, 4, size, 40, 24, 24, 1, 1, (size, size, size)) for name in ("forward", "input_grad", "weight_grad")
    )
    (exchanged,) = weight_grad.exchanges()
    blocks = forward.image_blocks
    whole, apart = (Schedule("by_outputs", 2, blocks, 1, 8, share_weights=shared) for shared in (True, False))
    by_images, staged = Schedule("by_images", 2, blocks, 1, 8), Schedule("staged", 2, blocks, pair_lines=4)
    works = forward, input_grad, weight_grad
    assert worth_keeping(works, (whole, whole, staged)) == ("input", "weight")
    assert worth_keeping(works, (apart, whole, staged)) == worth_keeping(works, (whole, apart, staged)) == ("input",)
    assert worth_keeping((forward, input_grad, exchanged), (whole, whole, whole)) == ("weight",)
    assert worth_keeping(works, (by_images, by_images, staged)) == ("weight",)
    assert worth_keeping(works, (replace(whole, chunk=1), whole, staged)) == ("weight",)
    assert shares_gradients(weight_grad, True, (whole, staged)) and shares_gradients(weight_grad, True, (apart, staged))
    assert not shares_gradients(weight_grad, False, (whole, staged))
    assert not shares_gradients(weight_grad, True, (by_images, staged))
    assert not shares_gradients(weight_grad, True, (whole, replace(staged, chunk=1)))
    assert not shares_gradients(exchanged, True, (whole, whole))


@pytest.mark.parametrize("save", [None, "both", "INPUT", True, ("input",)])
def test_other_words_for_save_are_refused(save: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"save is .* none, input, weight, all"):
        SMALL.plan().kept(save)


@pytest.mark.parametrize("limit", [-1, 1.5, "1 GB"])
def test_other_limits_are_refused(limit: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"save_limit is"):
        SMALL.plan().kept("all", limit)


def test_a_spectrum_is_of_an_input_or_a_weight() -> None:
    plan = SMALL.plan()
    with pytest.raises(InvalidOptionError, match="name is 'bias': it must be one of input, weight"):
        plan.read_spectrum("bias", np.empty(10, np.uint8))
    with pytest.raises(WorkspaceError, match=r'spectrum has 10 bytes: .* its spectrum_size\["weight"\]'):
        plan.read_spectrum("weight", np.empty(10, np.uint8))
