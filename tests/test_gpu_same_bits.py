"""However a GPU is asked for a result, it has the bits of the plain call; and so in a process that compiles nothing."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from on_gpu import DEVICE, NEEDED, assert_same, passes, tensors, torch
from strategies import PASSES, Problem, call

from numba_fftconv.cuda.schedule import schedules, workspace_bytes

pytestmark = NEEDED

SAME = [
    Problem(32, 64, 32, 32, 64, 5, 5, padding=2, fft_size=16),
    Problem(33, 24, 27, 29, 40, 3, 3, padding=1, stride=2, groups=4, fft_size=12),
    Problem(40, 64, 28, 28, 64, 7, 7, padding=3, groups=64, fft_size=36),
    Problem(50, 48, 13, 13, 50, 3, 3, padding=1, fft_size=16),
]
EACH = pytest.mark.parametrize("problem", SAME, ids=lambda problem: problem.title)


@EACH
def test_repeated_calls(problem: Problem) -> None:
    plan, a = problem.plan(device="cuda"), tensors(problem)
    want = passes(plan, a)
    for _ in range(20):
        for name, got in passes(plan, a).items():
            assert_same(got, want[name], name)


@EACH
def test_a_workspace_full_of_garbage(problem: Problem) -> None:
    """Of exactly the size that the plan names, wherever it begins; the bytes around it are left alone."""
    plan, a = problem.plan(device="cuda"), tensors(problem)
    want, size = passes(plan, a), plan.workspace_size
    for offset in (0, 1, 72):
        around = torch.full((size + 256,), 0xFF, dtype=torch.uint8, device=DEVICE)
        for name in PASSES:
            around.fill_(0xFF)  # which reads as NaN
            assert_same(call(plan, a, name, workspace=around[offset : offset + size]), want[name], name)
            assert (around[:offset] == 0xFF).all() and (around[offset + size :] == 0xFF).all()


@EACH
def test_every_chunk(problem: Problem) -> None:
    plan, a = problem.plan(device="cuda"), tensors(problem)
    want = passes(plan, a)
    for name in PASSES:
        choice = plan.choice.by_pass[name]
        for way in schedules(choice.work):
            smaller = choice._replace(schedule=way, workspace=workspace_bytes(choice.work, way))
            changed = replace(plan, choice=plan.choice._replace(by_pass={**plan.choice.by_pass, name: smaller}))
            assert_same(call(changed, a, name), want[name], f"{name}, {way}")


@EACH
def test_backward_and_spectral_weights(problem: Problem) -> None:
    plan, a = problem.plan(device="cuda"), tensors(problem)
    want, spectral = passes(plan, a), plan.transform_weight(a.w)
    for x, weight in ((a.x, a.w), (a.x, spectral), (plan.transform_input(a.x), spectral)):
        assert_same(plan.forward(x, weight), want["forward"], "forward")
        dx, dw, db = plan.backward(a.dy, x, weight)
        assert_same(dx, want["input_grad"], "input_grad")
        assert_same(dw, want["weight_grad"], "weight_grad")
        exact, size = (b.double().sum((0, 2, 3)) for b in (a.dy, a.dy.abs()))
        assert ((db - exact).abs() <= 4 * np.finfo(np.float32).eps * size).all()


@EACH
def test_a_graph_that_is_replayed(problem: Problem) -> None:
    """Captured once, it runs on whatever the same arrays hold later."""
    plan, a, other = problem.plan(device="cuda"), tensors(problem), tensors(replace(problem, seed=1))
    want = passes(plan, other)  # also binds the kernels, which cannot be captured
    dx_dw_db = plan.backward(other.dy, other.x, other.w)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got, gradients = passes(plan, a), plan.backward(a.dy, a.x, a.w)
    for array, values in zip(a, other, strict=True):
        array.copy_(values)
    graph.replay()
    for name in PASSES:
        assert_same(got[name], want[name], name)
    for gradient, wanted in zip(gradients, dx_dw_db, strict=True):
        assert_same(gradient, wanted, "backward")


@EACH
def test_another_stream(problem: Problem) -> None:
    """Given, and as the current one."""
    plan, a, side = problem.plan(device="cuda"), tensors(problem), torch.cuda.Stream(DEVICE)
    want = passes(plan, a)
    torch.cuda.synchronize()
    given = passes(plan, a, stream=side)
    with torch.cuda.stream(side):
        current = passes(plan, a)
    side.synchronize()
    for name in PASSES:
        assert_same(given[name], want[name], name)
        assert_same(current[name], want[name], name)


# ---- in processes of their own

SCRIPT = """
import hashlib, torch
from numba_fftconv import conv2d_backward, conv2d
from numba_fftconv.cuda import cubins
compiled, build = [], cubins.build
cubins.build = lambda *arguments: compiled.append(arguments) or build(*arguments)
torch.manual_seed(0)
dy, x, w = (torch.randn(shape).cuda() for shape in ((2, 4, 16, 16), (2, 3, 16, 16), (4, 3, 3, 3)))
made = conv2d(x, w, padding=1), *conv2d_backward(dy, x, w, padding=1)
print(len(compiled), hashlib.sha256(b"".join(result.cpu().numpy().tobytes() for result in made)).hexdigest())
"""


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    environment, said = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split())
    (compiled, bits), (compiled_again, same_bits) = said
    assert int(compiled) > 0 and compiled_again == "0"
    assert bits == same_bits
