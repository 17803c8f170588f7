"""The error of every pass against float64, as a part of what is promised; the worst case is printed after the run.

Promised: a relative L2 error of at most 5e-7 * max(1, sqrt(depth / 256)) in float32 and 1e-14 times the same factor in
float64, where depth is the number of products that a bin sums. Planes m and m + L of a block of 2 L are the real and
the imaginary part of one complex plane and share its rounding: the error of each is relative to the larger of the two.
"""
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from strategies import PASSES, Arrays, Problem, Recorder, call, companions, work_of

DEPTHS = (1, 2, 3, 16, 64, 255, 256, 257, 1024, 4096)
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

BLOCK = 16  # planes of a block in float32
LAYER = Problem(33, 18, 6, 5, 20, 3, 3, padding=1)  # tiles of 8 hold whole planes
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


def of_the_larger(error: np.ndarray, size: np.ndarray, dtype: str) -> float:
    """The worst of some planes, along the first axis, relative to the larger of the two that travel together."""
    groups = companions(len(size), 1, dtype)
    return max(float((error[n] / size[group].max(0)).max()) for n, group in enumerate(groups))


def hold_planes(problem: Problem, name: str, operand: str, axis: int, order: str, record: Recorder) -> None:
    """Planes of an operand that differ in size along an axis: the worst of the result, relative to its pair."""
    plan, a = problem.plan(), problem.arrays()
    values = getattr(a, operand)
    scale = np.asarray(ORDERS[order](np.arange(values.shape[axis]))).astype(problem.dtype)
    a = a._replace(**{operand: values * np.expand_dims(scale, [n for n in range(4) if n != axis])})
    want = problem.expected(a)[name]
    error, size = (np.linalg.norm(b, axis=(2, 3)) for b in (call(plan, a, name) - want, want))
    if name == "weight_grad":  # pairs (k, c) as they lie in memory; exchanged, the lanes are the channels of x
        exchanged = work_of(plan, name).exchanged
        error, size = (b.T if exchanged else b.reshape(-1, 1) for b in (error, size))
    worst, limit = of_the_larger(error, size, problem.dtype), problem.tolerance(plan, name)
    case = f"{worst:.2e} of {limit:.2e}: {operand} {order}, T = {plan.fft_size}, {problem}"
    record(f"{name}, {problem.dtype}, planes", worst / limit, case)
    assert worst <= limit, case


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("name", "operand"), OPERANDS)
def test_planes_of_very_different_size(name: str, operand: str, order: str, dtype: str, record_worst: Recorder) -> None:
    """The error of each plane is relative to the larger of the two that travel together: images n and n + L of one
    channel, or in weight_grad two planes of the weight."""
    hold_planes(replace(LAYER, dtype=dtype), name, operand, OPERANDS[name, operand], order, record_worst)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("operand", ["x", "dy"])
def test_weight_planes_of_either_lanes(operand: str, order: str, dtype: str, record_worst: Recorder) -> None:
    """weight_grad with images in the lanes, where they are many, and with channels, where they are few."""
    many, few = (replace(LAYER, dtype=dtype, N=N, C=C, K=16) for N, C in ((300, 3), (2, 70)))
    lanes_are_channels = [work_of(problem.plan(), "weight_grad").exchanged for problem in (many, few)]
    assert lanes_are_channels == [False, True]
    for problem in (many, few):
        hold_planes(problem, "weight_grad", operand, 1, order, record_worst)


def test_weight_planes_of_a_line_that_is_not_full() -> None:
    """60 planes are 3 lines of 16 and one of 12: a plane without a companion travels with nothing larger than it."""
    problem = replace(LAYER, N=300, C=3)
    assert not work_of(problem.plan(), "weight_grad").exchanged
    hold_planes(problem, "weight_grad", "dy", 1, "alternating", lambda *_: None)
