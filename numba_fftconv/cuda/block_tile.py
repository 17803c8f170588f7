"""What block tiles of the product have in common, however a thread multiplies: extents, slabs, shared memory.

A block computes BM x BN elements of Y from slabs of BK steps of the contraction; `stages` slabs of both operands lie in
shared memory, one in use and the others on their way. A slab of A has BM rows of BK values where A lies along the
contraction (k-major), else BK rows of BM values; rows begin `pitch` values apart.
"""

import itertools

from ..gpus import MULTIPROCESSORS, Gpu
from .occupancy import occupancy

COMPLEX_BYTES = 8
BLOCK_SHARED_BYTES = 48 * 1024  # of a block, without opting in to more


class BlockTile:
    """A tile, to be derived from by frozen dataclasses."""

    precision: str
    BM: int
    BN: int
    BK: int
    stages: int

    @property
    def threads(self) -> int:
        """Of a block."""
        raise NotImplementedError

    @property
    def most_registers(self) -> int:
        """That a thread may take; the compiler is held to it."""
        raise NotImplementedError

    @property
    def own(self) -> str:
        """What a thread or a warp computes, in words."""
        raise NotImplementedError

    def pitch(self, extent: int, kmajor: bool) -> int:
        """Complex values from a row of a slab to the next, of an operand with so many rows or columns a block."""
        raise NotImplementedError

    def slab_clocks(self, gpu: Gpu) -> float:
        """Clocks in which a multiprocessor multiplies one slab of a block, others hiding what it waits for; a model."""
        raise NotImplementedError

    def shared_values(self, a_kmajor: bool, b_kmajor: bool) -> tuple[int, int]:
        """Complex values that one slab of A and one of B take, padding included."""
        operands = (self.BM, a_kmajor), (self.BN, b_kmajor)
        a, b = ((extent if kmajor else self.BK) * self.pitch(extent, kmajor) for extent, kmajor in operands)
        return a, b

    def shared_bytes(self, a_kmajor: bool | None = None, b_kmajor: bool | None = None) -> int:
        """Shared memory of a block, for operands of a form or the most that any takes."""
        forms = itertools.product(*((True, False) if of is None else (of,) for of in (a_kmajor, b_kmajor)))
        return self.stages * max(sum(self.shared_values(*form)) for form in forms) * COMPLEX_BYTES

    def copied_whole(self, extent: int) -> bool:
        """Whether threads, 1 or 2 values each, copy a slab of that many rows or columns in whole rounds."""
        shapes = [(rows, run // vec) for vec in (1, 2) for rows, run in ((extent, self.BK), (self.BK, extent))]
        return all(self.threads % across == 0 and rows % (self.threads // across) == 0 for rows, across in shapes)

    @property
    def resident(self) -> int:
        """Blocks that a multiprocessor of sm_90 holds at once."""
        return occupancy(MULTIPROCESSORS[9, 0], self.threads, self.most_registers, self.shared_bytes()).blocks

    def __str__(self) -> str:
        """Its size; of a shallow one its depth too."""
        return f"{self.BM}x{self.BN}" + (f"x{self.BK}" if self.BK < 8 else "")
