"""What lies between the two passes of a large transform: the half spectra V of columns. Integers only.

V[ky][j][p] is complex64: R/2 rows ky, the columns j that can hold samples, and planes p, so many at a time as MOST
bytes hold. Every chunk of planes costs two launches, which are nothing beside the time to move so much.

Example: tiles of 256 x 256: V of a plane is 256 KB, of the 512 planes of a chunk 128 MB.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ..integers import Size, ceil_div, round_up

LONGEST = 64  # of a transform that one thread makes; a size with a longer side takes two passes
LANES = 32  # planes that a warp of the pass over rows takes
MOST = 2**27  # bytes of V, which a GPU moves once in some 30 microseconds; a launch takes a few


class Middle(NamedTuple):
    """Which planes of a launch are in V, and how it lies; all uint32."""

    width: int  # columns j
    pitch: int  # values from a column to the next: an even number, so that two planes are 16 bytes at their place
    first: int  # plane of the launch that is plane 0 of V, an even number
    end: int  # the plane behind the last


class Region(NamedTuple):
    """Memory for V: bytes of an array."""

    array: str
    at: int
    nbytes: int

    @property
    def end(self) -> int:
        return self.at + self.nbytes


def is_large(size: Size) -> bool:
    """Whether a size takes two passes."""
    return max(size) > LONGEST


def plane_bytes(size: Size, width: int) -> int:
    """Bytes of V for a plane."""
    return 8 * (size[0] // 2) * width


def region_bytes(size: Size, planes: int) -> int:
    """Bytes that V takes of a workspace; none where there are no two passes.

    >>> region_bytes((64, 64), 1000), region_bytes((256, 256), 1000), region_bytes((2, 128), 40)
    (0, 134217728, 65536)
    """
    of_warp = LANES * plane_bytes(size, size[1])
    return min(max(MOST, of_warp), of_warp * ceil_div(planes, LANES)) if is_large(size) else 0


def middles(size: Size, width: int, count: int, nbytes: int) -> Iterator[Middle]:
    """Chunks of `count` planes, V of each in so many bytes: whole warps, so that no pair of planes is parted."""
    chunk = nbytes // (LANES * plane_bytes(size, width)) * LANES
    for first in range(0, count, chunk):
        end = min(count, first + chunk)
        yield Middle(width, round_up(end - first, LANES), first, end)
