"""What each stage of a pass is held against: a copy of as many bytes, or the vendor's batched complex product.

A transform and an inverse read one array and write another: no less can be moved than a copy of as many bytes moves.
The multiply stage is one complex matrix product for each bin and group, which BLAS can compute too; where every channel
is a group of its own nothing is summed, and a copy is the bound again.

On a CPU both bounds are measured at the size of the stage, over and over with the same operands, so that a stage that
works in the cache is held against a copy in the cache. They are yardsticks, not limits: the copy's cannot know that
threads hand each other spectra in their own caches, and BLAS reads operands that a stage pads or reorders.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import yardstick

from numba_fftconv.integers import bins
from numba_fftconv.passes import PASSES

if TYPE_CHECKING:
    from numba_fftconv import ConvPlan

Shape = tuple[int, ...]
COMPLEX = {"float32": "complex64", "float64": "complex128"}


def product_shapes(plan: ConvPlan, pass_name: str) -> tuple[Shape, Shape] | None:
    """Shapes (batch, rows, depth) and (batch, depth, columns) of a pass's product; None where nothing is summed."""
    g, size = plan.geometry, plan.fft_size
    C, K = g.C // g.groups, g.K // g.groups
    rows, columns, depth = PASSES[pass_name].extents(g.windows(size, pass_name), C, K)
    batch = bins(size) * g.groups
    return ((batch, rows, depth), (batch, depth, columns)) if C > 1 else None


def transposed(pass_name: str) -> tuple[bool, bool]:
    """Whether the operands of the product lie transposed in the spectra, which hold images by channels by filters."""
    return pass_name == "weight_grad", pass_name == "forward"


@lru_cache(64)
def of_copy(nbytes: int) -> tuple[str, float]:
    name, seconds = yardstick.fastest(yardstick.copies(nbytes))
    return f"copy by {name}", seconds


@lru_cache(64)
def of_product(first: Shape, second: Shape, flipped: tuple[bool, bool], dtype: str) -> tuple[str, float]:
    def operand(shape: Shape, flip: bool) -> np.ndarray:
        batch, rows, columns = shape
        made = np.full((batch, columns, rows) if flip else shape, 1 + 1j, dtype)
        return made.swapaxes(1, 2) if flip else made

    name, seconds = yardstick.fastest(yardstick.products(operand(first, flipped[0]), operand(second, flipped[1])))
    return f"bmm by {name}", seconds


def of_stages(plan: ConvPlan, pass_name: str) -> dict[str, tuple[str, float]]:
    """By stage of a pass on a CPU, the name of its bound and the seconds."""
    shapes, bounds = product_shapes(plan, pass_name), {}
    for stage in plan.stages[pass_name]:
        if stage.name == "multiply" and shapes:
            bounds[stage.name] = of_product(*shapes, transposed(pass_name), COMPLEX[plan.dtype])
        else:
            bounds[stage.name] = of_copy(stage.bytes)
    return bounds
