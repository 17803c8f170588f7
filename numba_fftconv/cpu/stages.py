"""The three stages on arrays in host memory, by numpy.fft: what a public spectrum is, in as few lines as say it.

The kernels of this folder keep planes in the lanes of vectors, a layout of their own; these are the frequency-major
spectra of the GPU, computed for whoever has none, and the definition that the kernels for one are tested against.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from .. import arrays, dtypes
from ..integers import Size, bin_order
from ..passes import Pass

# g is a group, c and k are its channels and filters.
PRODUCTS = {
    "forward": "fmgc,fgkc->fmgk",
    "input_grad": "fmgk,fgkc->fmgc",
    "weight_grad": "fmgc,fmgk->fgkc",
}


@cache
def _bins(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """The ky and the kx of all bins."""
    ky, kx = np.array(bin_order(size)).T
    return ky, kx


class Stages:
    """The stages of one call; what it is given has been checked."""

    def __init__(self, size: Size, read: Mapping[str, np.ndarray], stream: Any) -> None:
        arrays.check_no_stream(stream)
        self.size, self.read = size, read

    def output(self, out: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """`out`, checked, or a new array."""
        return arrays.output(out, shape, dtype, self.read)

    def transform(self, planes: np.ndarray, spectrum: np.ndarray) -> None:
        """Twice the discrete Fourier transform of every plane with zeros below and beside it."""
        ky, kx = _bins(self.size)
        reals = dtypes.widened(planes)
        half = np.fft.rfft2(reals, self.size[::-1], axes=(3, 2))  # [N, C, ky, kx], of ky the first half
        spectrum[...] = np.moveaxis(2 * half[:, :, ky, kx], -1, 0)

    def multiply(self, row: Pass, a: np.ndarray, b: np.ndarray, y: np.ndarray, groups: int, accumulate: bool) -> None:
        """Half the product of each bin: the product of two doubled spectra, doubled."""
        first, second = (
            _grouped(spectrum.conj() if letter == row.conjugated else spectrum, letter, groups)
            for spectrum, letter in zip((a, b), row.letters, strict=False)
        )
        product = np.einsum(PRODUCTS[row.name], first, second).reshape(y.shape) / 2
        np.add(y if accumulate else 0, product, out=y)

    def inverse(self, spectrum: np.ndarray, planes: np.ndarray, bias: np.ndarray | None) -> None:
        """The corner of every tile, plus a bias for every column of the spectrum."""
        (rows, columns), (ky, kx) = self.size, _bins(self.size)
        H, M = rows // 2, columns // 2
        half = np.empty((*spectrum.shape[1:], H + 1, columns), spectrum.dtype)
        half[:, :, ky, kx] = np.moveaxis(spectrum, 0, -1)
        half[:, :, ::H, M + 1 :] = half[:, :, ::H, M - 1 : 0 : -1].conj()  # the rest of these two rows
        corner = np.fft.irfft2(half, (columns, rows), axes=(3, 2))[:, :, : planes.shape[2], : planes.shape[3]] / 2
        corner += 0 if bias is None else dtypes.widened(bias)[:, None, None]
        planes[...] = dtypes.rounded(corner, dtypes.name_of(planes.dtype))


def _grouped(spectrum: np.ndarray, letter: str, groups: int) -> np.ndarray:
    """With an axis of groups, which own filters of a weight, and channels of all else."""
    bins, rows, columns = spectrum.shape
    if letter == "W":
        return spectrum.reshape(bins, groups, rows // groups, columns)
    return spectrum.reshape(bins, rows, groups, columns // groups)
