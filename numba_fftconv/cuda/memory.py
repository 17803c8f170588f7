"""Arguments of kernels: how a number is passed, and in the simulator what stands in for a raw pointer."""

from functools import cache
from operator import index
from typing import Any

import numpy as np
from numba import types
from numpy.lib.array_utils import byte_bounds

from .toolchain import COMPLEXES, REALS, SIXTEENS


class Memory:
    """Stands in for the pointer to the first element of an array: memory[i] is i elements further on, at any strides.

    Only what lies between the lowest and the highest byte of the array can be reached. An unsigned index is read as the
    signed number of 64 bits that it stands for.

    >>> backwards = Memory(np.arange(6, dtype=np.float32)[::-2])
    >>> float(backwards[0]), float(backwards[np.uint64(2**64 - 2)]), float(backwards.offset(-4)[1])
    (5.0, 3.0, 2.0)
    """

    __slots__ = ("_size", "origin", "view")

    def __init__(self, array: np.ndarray) -> None:
        first = array.__array_interface__["data"][0]
        low, high = byte_bounds(array) if array.size else (first, first)
        if any(stride % array.itemsize for stride in array.strides):
            raise ValueError(f"a pointer to {array.dtype} cannot walk strides of {array.strides} bytes")
        rising = array[tuple(slice(None, None, -1 if stride < 0 else 1) for stride in array.strides)]
        self._size = (high - low) // array.itemsize
        self.view = np.lib.stride_tricks.as_strided(rising, (self._size,), (array.itemsize,))  # by rising addresses
        self.origin = (first - low) // array.itemsize  # of index 0 in the view

    @classmethod
    def of(cls, workspace: np.ndarray, dtype: Any, byte_offset: int = 0, count: int | None = None) -> "Memory":
        """`count` elements, or all that fit, from a byte of a workspace, a one-dimensional array of bytes."""
        itemsize = np.dtype(dtype).itemsize
        fitting = (workspace.nbytes - byte_offset) // itemsize
        if byte_offset % itemsize or not 0 <= byte_offset <= workspace.nbytes or (count or 0) > fitting:
            what = f"{count} {np.dtype(dtype)} at byte {byte_offset}"
            raise ValueError(f"{what} of a workspace of {workspace.nbytes} bytes")
        length = (fitting if count is None else count) * itemsize
        return cls(workspace[byte_offset : byte_offset + length].view(dtype))

    @property
    def dtype(self) -> np.dtype:
        return self.view.dtype

    def offset(self, elements: int) -> "Memory":
        """The pointer that many elements further on, or back."""
        moved = Memory.__new__(Memory)
        moved._size, moved.view, moved.origin = self._size, self.view, self.origin + index(elements)
        return moved

    def _place(self, i: Any) -> int:
        i = index(i)
        if i >= 1 << 63:
            i -= 1 << 64
        place = i + self.origin
        if not 0 <= place < self._size:
            reach = f"[{-self.origin}, {self._size - self.origin})"
            raise IndexError(f"index {i} of a pointer to {self.dtype}, which reaches {reach}")
        return place

    def __getitem__(self, i: Any) -> Any:
        return self.view[self._place(i)]

    def __setitem__(self, i: Any, value: Any) -> None:
        self.view[self._place(i)] = value


_NOWHERE = Memory(np.empty(0, np.float32))
_POINTED = {REALS: np.dtype(np.float32), COMPLEXES: np.dtype(np.complex64), SIXTEENS: np.dtype(np.uint16)}


def as_passed(kind: Any, value: Any) -> Any:
    """An argument as the kernel sees it; a number that its type cannot hold is an OverflowError.

    Integers stay Python's: Numba widens 32-bit arithmetic to 64 bits, which they do and NumPy's scalars do not.
    """
    if isinstance(kind, types.CPointer):
        pointer = _NOWHERE if value is None else Memory(value) if isinstance(value, np.ndarray) else value
        if value is not None and kind in _POINTED and pointer.dtype != _POINTED[kind]:
            raise TypeError(f"a pointer to {_POINTED[kind]} was given {pointer.dtype}")
        return pointer
    if isinstance(kind, types.NamedUniTuple):
        return kind.instance_class(*(as_passed(kind.dtype, field) for field in value))
    if isinstance(kind, types.Integer):
        return int(numpy_type(kind)(index(value)))
    return numpy_type(kind)(value) if isinstance(kind, types.Number) else value


@cache
def numpy_type(kind: Any) -> Any:
    return getattr(np, kind.name)
