"""The error of each precision at depths from 64 to 4096: compiled products on the PTX machine against complex128.

The machine rounds the sums of an mma to nearest. Tensor cores are reported to round them towards zero: that is modelled
here, by putting it into the machine, and nobody has measured it. Errors are relative, in the Euclidean norm, and do not
depend on the tile: all tiles of a precision give the same bits.
"""

import itertools
from functools import cache
from typing import Any

import numpy as np
import ptx_checks
import pytest
from machine_code import compiles
from product_problem import Problem, multiply

from numba_fftconv.cuda.product import FORMS
from numba_fftconv.cuda.ptx_machine import table
from numba_fftconv.cuda.tensor_tiles import TensorConfig, valid
from numba_fftconv.cuda.tiles import SIMULATED_TILE

pytestmark = compiles

DEPTHS = (64, 512, 4096)
BOUNDS = {"tf32x3": 6e-7, "bf16x3": 6e-6, "tf32": 4e-4}  # at any of these depths, of sums rounded either way
TENSOR = {name: TensorConfig(name, 16, 16, 16, 16) for name in BOUNDS}  # of one warp


def towards_zero(exact: np.ndarray) -> np.ndarray:
    """The nearest float32 that is not larger in magnitude."""
    near = exact.astype(np.float32)
    return np.where(abs(near.astype(np.float64)) > abs(exact), np.nextafter(near, np.float32(0)), near)


def expected_chain(problem: Problem, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What fp32 gives, bit for bit: each sum a chain of multiply-adds, rounded after each."""
    x, w = a[0].astype(complex), b[0].conj().astype(complex).T  # (rows, depth), (depth, columns) of forward
    re = im = np.zeros((problem.rows, problem.columns), np.float32)
    for k in range(problem.depth):
        c, d = x[:, k : k + 1], w[k : k + 1]
        re = (re + c.real * d.real).astype(np.float32)
        re = (re - c.imag * d.imag).astype(np.float32)
        im = (im + c.real * d.imag).astype(np.float32)
        im = (im + c.imag * d.real).astype(np.float32)
    return np.float32(0.5) * (re + 1j * im).astype(np.complex64)


@cache
def error(precision: str, pass_name: str, depth: int, chopped: bool = False) -> float:
    problem = Problem(pass_name, 16, 16, depth)
    arrays = problem.arrays()
    exact, _ = problem.expected(*arrays)
    with pytest.MonkeyPatch.context() as patch:
        if chopped:
            patch.setattr(table, "sum_of_mma", towards_zero)
        if precision == "fp32":
            got = expected_chain(problem, *arrays[:2])
        else:
            got = multiply(ptx_checks.launch, problem, TENSOR[precision], arrays).reshape(exact.shape)
    return float(np.linalg.norm(got - exact) / np.linalg.norm(exact))


def test_the_tiles_are_valid() -> None:
    assert all(map(valid, TENSOR.values()))


def test_fp32_is_the_chain() -> None:
    problem = Problem("forward", 6, 10, 20)
    arrays = problem.arrays()
    got = multiply(ptx_checks.launch, problem, SIMULATED_TILE, arrays)
    np.testing.assert_array_equal(got, expected_chain(problem, *arrays[:2]).reshape(-1))


def cases(quick: tuple[int, ...]) -> list[Any]:
    """Every pass, depth and rounding; the quick ones are forward, rounded towards zero."""
    return [
        pytest.param(*case, marks=[] if case in {("forward", depth, True) for depth in quick} else [pytest.mark.slow])
        for case in itertools.product(FORMS, DEPTHS, (False, True))
    ]


@pytest.mark.parametrize("pass_name, depth, chopped", cases((64, 4096)))
def test_tf32x3_is_at_least_as_accurate_as_fp32(pass_name: str, depth: int, chopped: bool) -> None:
    assert error("tf32x3", pass_name, depth, chopped) <= error("fp32", "forward", depth)


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("pass_name, depth, chopped", cases((64, 512)))
def test_bounds(pass_name: str, depth: int, chopped: bool, precision: str) -> None:
    assert error(precision, pass_name, depth, chopped) < BOUNDS[precision]


def test_the_model_rounds_towards_zero() -> None:
    """The test of the tests: 2^24 + 1 lies between two numbers, and so do its negative and a third."""
    between = np.array([2.0**24 + 1, -(2.0**24) - 1, 2.0**24 + 3, 2.0])
    assert towards_zero(between).tolist() == [2.0**24, -(2.0**24), 2.0**24 + 2, 2.0]


@pytest.mark.parametrize("precision", TENSOR)
def test_nan_and_infinity_reach_what_they_would(precision: str) -> None:
    """NaN of any sign and payload spoils its row and nothing else. So does infinity, of which lo is NaN."""
    problem = Problem("forward", 16, 16, 16)
    a, b, y = problem.arrays()
    payloads = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000], np.uint32).view(np.float32)
    reals = a.view(np.float32)[0]  # real parts at even places
    reals[range(4), (0, 2, 9, 31)] = payloads
    reals[5, 6], reals[7, 9] = np.inf, -np.inf
    spoiled = np.array([True] * 4 + [False, True, False, True] + [False] * 8)
    got = multiply(ptx_checks.launch, problem, TENSOR[precision], (a, b, y)).reshape(y.shape)[0]
    assert not np.isfinite(got[spoiled]).any() and np.isfinite(got[~spoiled]).all()
    assert np.isnan(got[:4]).all()
