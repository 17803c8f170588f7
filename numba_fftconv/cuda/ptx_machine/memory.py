"""Global memory of the machine: copies of arrays at addresses of their own, with forbidden bytes between.

It may be sparse: `Rows` puts the rows of an array so far apart that an index of them does not fit into 32 bits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...integers import round_up

GLOBAL = 0x7F0000000000  # the first address
GUARD = 256  # bytes after every array, at least, which nothing may touch


class Rows(NamedTuple):
    """An argument: pointer to the first row of an array [rows][...], whose rows begin `pitch` bytes apart."""

    array: np.ndarray
    pitch: int


class Memory:
    """Some arrays, in the order in which they were given; `addresses` says where each begins."""

    def __init__(self, arrays: Sequence[np.ndarray | Rows]) -> None:
        self.addresses: list[int] = []
        self.arrays = [array.array if isinstance(array, Rows) else array for array in arrays]
        pieces, lows, top = [], [], GLOBAL
        for array in arrays:
            self.addresses.append(top)
            rows, pitch = array if isinstance(array, Rows) else (array.reshape(1, -1), 0)
            for row in rows:
                pieces.append(row.reshape(-1).view(np.uint8))
                lows.append(top)
                top += pitch
            top = round_up(max(top, lows[-1] + pieces[-1].size) + GUARD, GUARD)
        sizes = np.array([piece.size for piece in pieces], np.int64)
        self.lows, self.starts = np.array(lows, np.int64), np.cumsum(sizes) - sizes
        self.highs = self.lows + sizes
        self.data = np.concatenate(pieces or [np.zeros(0, np.uint8)])

    def checked(self, address: np.ndarray, size: int) -> np.ndarray:
        """Indices into `data` of accesses of so many bytes, one row each; IndexError where there is no array."""
        owner = np.searchsorted(self.lows, address, "right") - 1
        outside = (owner < 0) | (address + size > self.highs[owner])
        if outside.any():
            raise IndexError(f"global address {address[outside.argmax()]:#x} outside of the arrays")
        return (address - self.lows[owner] + self.starts[owner])[:, None] + np.arange(size)

    def write_back(self) -> None:
        """What the program has stored goes to the arrays."""
        start = 0
        for array in self.arrays:
            array.reshape(-1).view(np.uint8)[:] = self.data[start : start + array.nbytes]
            start += array.nbytes
