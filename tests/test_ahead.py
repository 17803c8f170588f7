"""What a product asks for ahead of time: no result depends on it, so it is read off the kernel, run as Python."""

from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest

from numba_fftconv.cpu import product

ROWS, COLUMNS, BLOCKS, GROUPS, STEPS = 4, 6, 3, 2, product.DEPTH + 22
PLACES = {  # row, bin, block (of W: lane block of the contraction), group; no two places share a sum
    product.X_AT: (10**8, 10**7, 10**6, 10**5),
    product.Y_AT: (10**8, 10**7, 10**6, 10**5),
    product.W_AT: (10**7, 10**6, 7, 10**5),
}


class Slab(NamedTuple):
    """The addresses that a slab reads first and those that it asks for: of X[f], X[-f], W."""

    read: tuple[int, int, int]
    asked: tuple[int, int, int]


def slabs(monkeypatch: pytest.MonkeyPatch, swapped: bool) -> list[list[list[Slab]]]:
    """By row of bins and by group and part of the contraction, slabs in the order in which they are summed."""
    job = np.zeros(24, np.int64)
    for operand, pitches in PLACES.items():
        job[operand : operand + 5] = 0, *pitches
    job[[product.BLOCKS, product.GROUPS, product.STEPS, product.COUNT]] = BLOCKS, GROUPS, STEPS, 8
    job[[product.SWAPPED, product.ROWS, product.COLUMNS]] = swapped, ROWS, COLUMNS
    images, filters, sums = (np.zeros(1, np.float32) for _ in range(3))
    found: list[Slab] = []

    def keep(job: Any, steps: int, fresh: bool, images: Any, x: int, xm: int, filters: Any, w: int, *rest: Any) -> None:
        asked = rest[-1]  # after space, y and y_minus
        read = product.address(images, x), product.address(images, xm), product.address(filters, w)
        found.append(Slab(read, asked))

    def as_python(name: str, signature: Any, kernel: Callable[..., None]) -> Callable[..., None]:
        return kernel

    monkeypatch.setattr(product, "compiled", as_python)
    monkeypatch.setattr(product, "multiply_slab", keep)
    kernel = product.product_kernel.__wrapped__("float32")
    rows = []
    for ky in range(ROWS):
        found.clear()
        kernel(ky, ky + 1, images, filters, sums, job)
        rows.append([found[i :: GROUPS * 2] for i in range(GROUPS * 2)])
    return rows


@pytest.mark.parametrize("swapped", [False, True], ids=["forward", "input_grad"])
def test_what_is_asked_for_is_read_next(monkeypatch: pytest.MonkeyPatch, swapped: bool) -> None:
    """X of the next lane block or of the next bin, W of the next bin."""
    for row in slabs(monkeypatch, swapped):
        for part in row:
            assert len(part) in (BLOCKS * (COLUMNS // 2 + 1), BLOCKS * (COLUMNS // 2 - 1))
            for slab, following in pairwise(part):
                assert slab.asked[:2] == following.read[:2]
            of_bins = [list(group) for _, group in groupby(part, lambda slab: slab.read[2])]
            assert [len(group) for group in of_bins] == [BLOCKS] * (len(part) // BLOCKS)
            for group, following_bin in pairwise(of_bins):
                assert {slab.asked[2] for slab in group} == {following_bin[0].read[2]}
