"""Bins that lie more than 2**31 complex values apart: kernels count them in 64 bits. No memory of that size is needed.

The machine's memory is sparse: a spectrum is a few rows of a bin each, and nothing between them. What the checks of the
other tests lay side by side is run with every bin so much further from the one before; an index that is cut to 32 bits,
signed or not, then falls outside of the arrays or on another bin.
"""

from typing import Any

import pytest
import transform_problem
from machine_code import compiles
from product_problem import Problem, check_pointwise, check_product
from transform_problem import Pointer, check_inverse, check_transform

from numba_fftconv.cuda import ptx_machine
from numba_fftconv.cuda.block_tile import COMPLEX_BYTES
from numba_fftconv.cuda.planes import Strides
from numba_fftconv.cuda.product import FORMS, Pitches
from numba_fftconv.cuda.ptx_machine import Rows
from numba_fftconv.cuda.tiles import TILES
from numba_fftconv.cuda.toolchain import Kernel

pytestmark = compiles

FURTHER = 2**31  # complex values, even: what may be copied in pairs still is


def launch_product(kernel: Kernel, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
    *spectra, shape, near = arguments
    far = Pitches(*(pitch + FURTHER for pitch in near))
    rows = [Rows(x.reshape(-1, a), COMPLEX_BYTES * b) for x, a, b in zip(spectra, near, far, strict=True)]
    ptx_machine.run(kernel, grid, (*rows, shape, far))


def launch_transform(kernel: Kernel, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
    near = next(argument.pitch for argument in arguments if isinstance(argument, Strides))

    def moved(argument: Any) -> Any:
        match argument:
            case Pointer(base) if base.dtype == "complex64":
                return Rows(base, COMPLEX_BYTES * (near + FURTHER))
            case Pointer(base):
                return base
            case Strides():
                return argument._replace(pitch=near + FURTHER)
        return argument

    ptx_machine.run(kernel, grid, tuple(map(moved, arguments)))


def test_transform_and_inverse() -> None:
    problem = transform_problem.Problem((8, 8), 4, N=1, C=3, height=7, width=6)
    check_transform(problem, launch_transform)
    check_inverse(problem, launch_transform)


@pytest.mark.parametrize("gap", [2, 3], ids=["pairs", "odd"])
@pytest.mark.parametrize("pass_name", FORMS)
def test_product(pass_name: str, gap: int) -> None:
    """Of even extents, which are copied in pairs unless bins begin at odd places."""
    check_product(launch_product, Problem(pass_name, 34, 6, 4, 3, 2, gap, accumulate=True), TILES[5])


@pytest.mark.parametrize("pass_name", FORMS)
def test_pointwise(pass_name: str) -> None:
    check_pointwise(launch_product, pass_name, 5, 4, 2, True)
