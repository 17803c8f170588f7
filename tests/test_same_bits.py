"""However a result is asked for, it has the bits of the plain call: no sum depends on chunks, threads or memory."""
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from strategies import PASSES, Problem, call, poisoned, problems

from numba_fftconv import ConvPlan, WorkspaceError, clear_cache, conv2d, conv2d_input_grad, passes
from numba_fftconv.cpu.engine import Run
from numba_fftconv.cpu.program import FIRST, KERNEL, SECOND
from numba_fftconv.cpu.schedule import Work, schedules, workspace_bytes
from numba_fftconv.tuning import cpu_works

LAYERS = [
    Problem(33, 9, 14, 13, 17, 3, 3, padding=1, fft_size=16),
    Problem(19, 2, 30, 41, 3, 5, 4, (2, 3), ((2, 0), (1, 4)), fft_size=16),
    Problem(1, 1, 90, 100, 1, 5, 5, padding=2, fft_size=16),
    Problem(1, 24, 14, 14, 16, 3, 3, padding=1, fft_size=16),
    Problem(40, 3, 14, 14, 8, 5, 5, fft_size=16),
    Problem(18, 12, 9, 9, 24, 3, 3, padding="same", groups=12, fft_size=12),
    Problem(50, 6, 10, 10, 6, 2, 3, dilation=(2, 3), groups=2, dtype="float64", fft_size=12),
    Problem(3, 70, 6, 6, 24, 3, 3, padding=1),
    Problem(300, 2, 9, 9, 3, 3, 3, fft_size=12),
]
MANY = (100, 100, 100, 100, 100, 400, 400, 100, 400)  # images enough to be worth chunks
CHUNKED = [replace(problem, N=N) for problem, N in zip(LAYERS, MANY, strict=True)]
EACH = pytest.mark.parametrize("problem", LAYERS, ids=lambda problem: problem.title)
EACH_CHUNKED = pytest.mark.parametrize("problem", CHUNKED, ids=lambda problem: problem.title)
FEW = settings(max_examples=18)


def garbage(nbytes: int) -> np.ndarray:
    """Bytes that read as NaN in either dtype."""
    return np.full(nbytes, 0xFF, np.uint8)


def plain(problem: Problem, plan: ConvPlan | None = None) -> dict[str, np.ndarray]:
    plan = problem.plan() if plan is None else plan
    return {name: call(plan, problem.arrays(), name) for name in PASSES}


def assert_same(got: np.ndarray, want: np.ndarray, what: str) -> None:
    """Bit for bit, signs of zeros included."""
    same = got.shape == want.shape and got.dtype == want.dtype and got.tobytes() == want.tobytes()
    assert same, f"{what}: {np.count_nonzero(got != want)} of {want.size} samples differ"


def digest(problem: Problem) -> str:
    """One line for the bits of all three passes."""
    results = plain(problem).values()
    return hashlib.sha256(b"".join(result.tobytes() for result in results)).hexdigest()


@EACH
def test_repeated_calls(problem: Problem) -> None:
    first = plain(problem)
    for _ in range(5):
        for name, result in plain(problem).items():
            assert_same(result, first[name], name)
    clear_cache()
    for name, result in plain(problem).items():
        assert_same(result, first[name], f"{name} after clear_cache")


@FEW
@given(problem=problems())
def test_out(problem: Problem) -> None:
    plan, a, want = problem.plan(), problem.arrays(), plain(problem)
    for name in PASSES:
        out = poisoned(problem, name)
        assert call(plan, a, name, out=out) is out
        assert_same(out, want[name], name)


def hold_garbage(problem: Problem, offset: int) -> None:
    """A workspace of exactly the size that the plan names, wherever it begins; the bytes around it are left alone."""
    plan, a, want = problem.plan(), problem.arrays(), plain(problem)
    for name in PASSES:
        around = garbage(plan.workspace_size + 256)
        around[:offset] = around[offset + plan.workspace_size:] = 0xA5
        workspace = around[offset:offset + plan.workspace_size]
        assert_same(call(plan, a, name, workspace=workspace), want[name], name)
        assert (around[:offset] == 0xA5).all() and (around[offset + plan.workspace_size:] == 0xA5).all()
        assert_same(call(plan, a, name, workspace=workspace), want[name], f"{name}, over what the last call left")
    workspace = garbage(plan.workspace_size)
    dx, dw, _ = plan.backward(a.dy, a.x, a.w, workspace=workspace)
    assert_same(dx, want["input_grad"], "backward, dx")
    assert_same(dw, want["weight_grad"], "backward, dw")


@FEW
@given(problem=problems(), offset=st.integers(0, 65))
def test_a_workspace_full_of_garbage(problem: Problem, offset: int) -> None:
    hold_garbage(problem, offset)


@EACH
def test_a_workspace_full_of_garbage_for_each_layer(problem: Problem) -> None:
    hold_garbage(problem, 7)


@FEW
@given(problem=problems())
def test_spectral_weight(problem: Problem) -> None:
    """Transformed once, used in both passes that read the weight, through the plan and through the doors."""
    plan, a, want = problem.plan(), problem.arrays(), plain(problem)
    w = a.w.copy()
    spectral = plan.transform_weight(w)
    w[:] = np.nan  # it holds no view of the weight
    assert (spectral.weight_shape, spectral.fft_size) == (problem.w_shape, plan.fft_size)
    doors = {**problem.options, "plan": plan}
    for _ in range(2):
        assert_same(plan.forward(a.x, spectral), want["forward"], "forward")
        assert_same(plan.input_grad(a.dy, spectral), want["input_grad"], "input_grad")
    assert_same(conv2d(a.x, spectral, **doors), want["forward"], "conv2d")
    assert_same(conv2d_input_grad(problem.x_shape, spectral, a.dy, **doors), want["input_grad"], "conv2d_input_grad")
    dx, dw, _ = plan.backward(a.dy, a.x, spectral, workspace=garbage(plan.workspace_size))
    assert_same(dx, want["input_grad"], "backward, dx")
    assert_same(dw, want["weight_grad"], "backward, dw")
    bias = problem.bias()
    assert_same(plan.forward(a.x, spectral, bias), plan.forward(a.x, a.w, bias), "forward with bias")


def hold_spectral_input(problem: Problem) -> None:
    """Transformed once, used in both passes that read the input, with a weight or its spectrum."""
    plan, a, want = problem.plan(), problem.arrays(), plain(problem)
    space = garbage(plan.spectrum_size["input"])
    spectral, weight = plan.transform_input(a.x, out=space), plan.transform_weight(a.w)
    assert np.shares_memory(spectral.array, space)
    for x in (spectral, plan.transform_input(a.x), plan.read_spectrum("input", space, a.x)):
        for w in (a.w, weight):
            assert_same(plan.forward(x, w), want["forward"], "forward")
        assert_same(plan.weight_grad(x, a.dy), want["weight_grad"], "weight_grad")
    for w in (a.w, weight):
        dx, dw, _ = plan.backward(a.dy, spectral, w, workspace=garbage(plan.workspace_size))
        assert_same(dx, want["input_grad"], "backward, dx")
        assert_same(dw, want["weight_grad"], "backward, dw")


@settings(max_examples=5)
@given(problem=problems())
def test_spectral_input(problem: Problem) -> None:
    hold_spectral_input(problem)


@EACH
def test_spectral_input_of_each_layer(problem: Problem) -> None:
    hold_spectral_input(problem)


@pytest.mark.parametrize("shared", [True, False])
def test_backward_transforms_dy_once_where_it_can(shared: bool) -> None:
    """The bits of the single calls; steps that transform dy are in the programs of one gradient or of both."""
    problem = Problem(70, 3, 9, 9, 5, 3, 3, padding=1, fft_size=12)
    plan, a = problem.plan(), problem.arrays()
    choices = dict(plan.choice.by_pass)
    for name, order in (("input_grad", "by_outputs" if shared else "by_images"), ("weight_grad", "staged")):
        work = works(problem, name)[0]
        way = next(way for way in schedules(work, plan.threads) if way.order == order)
        choices[name] = choices[name]._replace(work=work, schedule=way, workspace=workspace_bytes(work, way))
    plan = replace(plan, choice=plan.choice._replace(by_pass=choices))
    want = plain(problem, plan)
    assert plan.shares_dy is shared
    ran: list[Run] = []
    with mock.patch.object(Run, "__call__", lambda run: (ran.append(run), run.profile())):
        dx, dw, _ = plan.backward(a.dy, a.x, a.w, workspace=garbage(plan.workspace_size))
    assert_same(dx, want["input_grad"], "dx")
    assert_same(dw, want["weight_grad"], "dw")
    transforms = [{*run.program.steps[:, KERNEL]} & {FIRST, SECOND} for run in ran]
    assert transforms == [{FIRST, SECOND}, {FIRST} if shared else {FIRST, SECOND}]


@EACH
def test_a_spectral_weight_serves_other_batches(problem: Problem) -> None:
    """It belongs to a transform length and a weight, not to the images that it meets."""
    other = Problem(**{**vars(problem), "N": 3})
    spectral, a = problem.plan().transform_weight(problem.arrays().w), other.arrays()
    a = a._replace(w=problem.arrays().w)
    plan = other.plan()
    assert_same(plan.forward(a.x, spectral), plan.forward(a.x, a.w), "forward")
    assert_same(plan.input_grad(a.dy, spectral), plan.input_grad(a.dy, a.w), "input_grad")


def chunked_plans(problem: Problem) -> list[ConvPlan]:
    """Plans of ever smaller workspaces, down to the least that the planner accepts."""
    whole, plans = problem.plan(), []
    for part in (0.9, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05):
        limit = int(whole.workspace_size * part)
        try:
            plans.append(problem.plan(workspace_limit=limit))
        except WorkspaceError:
            break
        assert plans[-1].workspace_size <= limit < whole.workspace_size
    return plans


@EACH_CHUNKED
def test_chunks(problem: Problem) -> None:
    want, a, plans = plain(problem), problem.arrays(), chunked_plans(problem)
    for plan in plans:
        for name in PASSES:
            said = f"{name} in {plan.workspace_size} bytes"
            assert_same(call(plan, a, name), want[name], said)
            assert_same(call(plan, a, name, workspace=garbage(plan.workspace_size)), want[name], said)
        spectral = plan.transform_weight(a.w)
        assert_same(plan.forward(a.x, spectral), want["forward"], "forward of a SpectralWeight")
        assert_same(plan.input_grad(a.dy, spectral), want["input_grad"], "input_grad of a SpectralWeight")
        x = plan.transform_input(a.x)
        assert_same(plan.forward(x, a.w), want["forward"], "forward of a SpectralInput")
        dx, dw, _ = plan.backward(a.dy, x, spectral)
        assert_same(dx, want["input_grad"], "dx of spectra")
        assert_same(dw, want["weight_grad"], "dw of a SpectralInput")


def works(problem: Problem, name: str) -> list[Work]:
    """A pass in each kind of lanes that it can have."""
    plan = problem.plan()
    return cpu_works(plan.geometry, np.dtype(plan.dtype).itemsize, plan.fft_size, passes.PASSES[name])


def test_the_schedules_are_of_every_way() -> None:
    """Below, weight_grad runs in chunks with images in the lanes and with channels, and so do all orders."""
    cut = {
        (name, work.exchanged, schedule.order)
        for problem in CHUNKED for name in PASSES for work in works(problem, name) for schedule in schedules(work, 2)
        if schedule.chunk < work.image_blocks
    }
    ways = {("weight_grad", False, "staged"), ("weight_grad", True, "by_outputs"), ("forward", False, "by_outputs")}
    assert ways <= cut


@EACH_CHUNKED
@pytest.mark.parametrize("name", PASSES)
def test_every_schedule(problem: Problem, name: str) -> None:
    """Also those that the cost model chooses on no processor or for no limit."""
    plan, a = problem.plan(), problem.arrays()
    chosen = plan.choice.by_pass[name]
    assert chosen.work in works(problem, name)
    for work in works(problem, name):
        results = {call(plan, a, name).tobytes()} if work == chosen.work else set()
        for schedule in schedules(work, threads=2):
            choice = chosen._replace(work=work, schedule=schedule, workspace=workspace_bytes(work, schedule))
            by_pass = {**plan.choice.by_pass, name: choice}
            other = replace(plan, choice=plan.choice._replace(by_pass=by_pass))
            results.add(call(other, a, name, workspace=garbage(other.workspace_size)).tobytes())
        assert len(results) == 1


def test_most_layers_have_chunks() -> None:
    """What the layers of `test_chunks` need at least depends on the number of threads."""
    assert sum(bool(chunked_plans(problem)) for problem in CHUNKED) > len(CHUNKED) / 2


def test_chunks_are_small() -> None:
    """A batch of many blocks runs in less than half of the workspace, each pass in parts."""
    problem = LAYERS[-1]
    least = chunked_plans(problem)[-1]
    assert least.workspace_size < problem.plan().workspace_size / 2
    for choice in least.choice.by_pass.values():
        assert choice.work is not None and choice.schedule is not None
        assert min(choice.schedule.chunk, choice.schedule.piece) < choice.work.image_blocks, choice.schedule


@settings(FEW, suppress_health_check=list(HealthCheck))
@given(problem=problems(), part=st.floats(0.4, 0.95))
def test_chunks_of_drawn_layers(problem: Problem, part: float) -> None:
    """Forty that fit the limit: of those drawn one in four does, small batches have nothing to cut."""
    whole = problem.plan()
    try:
        plan = problem.plan(workspace_limit=int(part * whole.workspace_size), fft_size=whole.fft_size)
    except WorkspaceError:
        reject()
    want = plain(problem)
    for name in PASSES:
        assert_same(call(plan, problem.arrays(), name), want[name], f"{name} in {plan.workspace_size} bytes")


@pytest.mark.parametrize("threads", [1, 3, 8, pytest.param(16, marks=pytest.mark.slow)])
def test_any_number_of_threads(threads: int) -> None:
    """In a process of its own, because Numba reads the number once; more threads than cores included."""
    here = os.path.dirname(__file__)
    script = f"import sys; sys.path.insert(0, {here!r})\nimport test_same_bits as t\nprint(*map(t.digest, t.LAYERS))"
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
    run = partial(subprocess.run, capture_output=True, text=True, timeout=300, env=environment)
    child = run([sys.executable, "-c", script], check=False)
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == [digest(problem) for problem in LAYERS]
