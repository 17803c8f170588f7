"""The error of every pass against float64, as a part of what is promised; the worst case is printed after the run.

Promised: a relative L2 error of at most 5e-7 * max(1, sqrt(depth / 256)) in float32 and 1e-14 times the same factor in
float64, where depth is the number of products that a bin sums. Two planes of a block of 16 are the real and imaginary
part of one complex plane and share its rounding: the error of each is relative to the larger of the two. Which two
these are is the engine's affair, so the tests take the largest of the block.
"""
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from strategies import Arrays, Problem, call

Recorder = Callable[[str, float, str], None]
PASSES = ("forward", "input_grad", "weight_grad")
DEPTHS = (1, 2, 3, 16, 64, 255, 256, 257, 1024, 4096)
BLOCK = 16
LARGE = 1e4


def hold(problem: Problem, name: str, a: Arrays, record: Recorder) -> None:
    """The relative L2 error of a whole result."""
    plan = problem.plan()
    got, want, limit = call(plan, a, name), problem.expected(a)[name], problem.tolerance(plan, name)
    error = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    case = f"{error:.2e} of {limit:.2e}: depth {problem.depth(plan, name)}, T = {plan.fft_size}, {problem}"
    record(f"{name}, {problem.dtype}", error / limit, case)
    assert error <= limit, case


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", PASSES)
def test_depths(name: str, depth: int, dtype: str, record_worst: Recorder) -> None:
    counts = {"forward": (3, depth, 5), "input_grad": (3, 5, depth), "weight_grad": (depth, 3, 5)}[name]
    problem = Problem(counts[0], counts[1], 6, 6, counts[2], 3, 3, padding=1, dtype=dtype, seed=depth)
    hold(problem, name, problem.arrays(), record_worst)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("T", [8, 14, 20, 64])
@pytest.mark.parametrize("name", PASSES)
def test_lengths(name: str, T: int, dtype: str, record_worst: Recorder) -> None:
    """Tiles filled to the edge, in one segment and in several."""
    for size, padding in ((T - 2, 1), (T + 5, 2)):
        problem = Problem(9, 4, size, size, 4, 5, 5, padding=padding, dtype=dtype, fft_size=T)
        hold(problem, name, problem.arrays(), record_worst)


@pytest.mark.parametrize("name", PASSES)
def test_a_kernel_as_long_as_the_transform(name: str, record_worst: Recorder) -> None:
    """Each segment then holds one output a side."""
    problem = Problem(2, 2, 20, 19, 2, 14, 14, padding=2, fft_size=14)
    hold(problem, name, problem.arrays(), record_worst)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PASSES)
def test_samples_of_one_sign(name: str, dtype: str, record_worst: Recorder) -> None:
    """As after a ReLU, and over a mean far from zero: the zero frequency outweighs all others."""
    problem = Problem(16, 16, 14, 14, 16, 3, 3, padding=1, dtype=dtype, fft_size=16)
    a = problem.arrays()
    hold(problem, name, Arrays(*(np.maximum(b, 0) for b in a)), record_worst)
    hold(problem, name, Arrays(*(b + b.dtype.type(10) for b in a)), record_worst)


# ---- planes of very different size

LAYER = Problem(33, 18, 7, 8, 20, 3, 3, padding=1)
OPERANDS = {  # by pass and operand: the axis along which its planes differ in size
    ("forward", "x"): 0,
    ("forward", "w"): 0,
    ("input_grad", "dy"): 0,
    ("input_grad", "w"): 1,
    ("weight_grad", "x"): 1,
    ("weight_grad", "dy"): 1,
}
ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "alternating": lambda i: LARGE ** (i % 2),
    "first half of each block": lambda i: LARGE ** (i % BLOCK < BLOCK // 2),
    "second half of each block": lambda i: LARGE ** (i % BLOCK >= BLOCK // 2),
    "first block": lambda i: LARGE ** (i < BLOCK),
    "one": lambda i: LARGE ** (i == 5),
    "graded": lambda i: LARGE ** (i % BLOCK / (BLOCK - 1)),
    "drawn": lambda i: LARGE ** np.random.default_rng(len(i)).random(len(i)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("name", "operand"), OPERANDS)
def test_planes_of_very_different_size(name: str, operand: str, order: str, dtype: str, record_worst: Recorder) -> None:
    """The error of each plane is relative to the largest of its block: 16 images of one channel, or in weight_grad 16
    planes of the weight as they lie in memory."""
    problem = replace(LAYER, dtype=dtype)
    plan, a = problem.plan(), problem.arrays()
    axis = OPERANDS[name, operand]
    values = getattr(a, operand)
    scale = np.asarray(ORDERS[order](np.arange(values.shape[axis]))).astype(dtype)
    a = a._replace(**{operand: values * np.expand_dims(scale, [n for n in range(4) if n != axis])})
    want = problem.expected(a)[name]
    error, size = (np.linalg.norm(b, axis=(2, 3)) for b in (call(plan, a, name) - want, want))
    if name == "weight_grad":
        error, size = error.reshape(-1, 1), size.reshape(-1, 1)
    starts = np.arange(0, len(size), BLOCK)
    largest = np.repeat(np.maximum.reduceat(size, starts, axis=0), BLOCK, axis=0)[:len(size)]
    worst, limit = float((error / largest).max()), problem.tolerance(plan, name)
    case = f"{worst:.2e} of {limit:.2e}: {operand} {order}, T = {plan.fft_size}, {problem}"
    record_worst(f"{name}, {dtype}, planes", worst / limit, case)
    assert worst <= limit, case
