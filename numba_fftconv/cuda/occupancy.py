"""How many blocks a multiprocessor holds at once, and what keeps it from holding more. Integers only.

Blocks share four things; the scarcest decides:

    threads    no more are resident than 2048 (1536), so warps no more than 64 (48)
    blocks     nor blocks than 32 (24)
    registers  a warp takes them in units of 256. Each of the four quarters of a multiprocessor has a quarter of them,
               and holds whole warps
    shared     a block takes its own bytes and 1024 of the system, in units of 128

Example: 128 threads of 96 registers with 16 KB on sm_90. A warp takes 3072 registers, a quarter has 16384 and holds 5
warps, all hold 20, so 5 blocks; shared memory, 228 KB, would do for 13, threads for 16.

Source: NVIDIA, cuda_occupancy.h of the CUDA toolkit, which a test compiles and compares with.
"""

from dataclasses import dataclass

from ..gpus import WARP, Multiprocessor
from ..integers import ceil_div, round_up

QUARTERS = 4  # of a multiprocessor
REGISTER_UNIT = 256
SHARED_UNIT = 128


@dataclass(frozen=True)
class Occupancy:
    """Blocks that are resident at once, by what limits them."""

    limits: dict[str, int]
    block_warps: int
    most_warps: int

    @property
    def blocks(self) -> int:
        return min(self.limits.values())

    @property
    def limiter(self) -> str:
        """What would have to be spared for one block more; several things where they limit alike."""
        return " and ".join(what for what, blocks in self.limits.items() if blocks == self.blocks)

    @property
    def warps(self) -> int:
        return self.blocks * self.block_warps

    @property
    def share(self) -> float:
        """Of all warps that a multiprocessor can hold."""
        return self.warps / self.most_warps


def occupancy(multiprocessor: Multiprocessor, threads: int, registers: int, shared_bytes: int) -> Occupancy:
    """Of blocks with so many threads, registers a thread and bytes of shared memory, dynamic and static.

    >>> from numba_fftconv.gpus import MULTIPROCESSORS
    >>> found = occupancy(MULTIPROCESSORS[9, 0], threads=128, registers=96, shared_bytes=16384)
    >>> found.blocks, found.limiter, found.share
    (5, 'registers', 0.3125)
    """
    own, warps = multiprocessor, ceil_div(threads, WARP)
    limits = {
        "threads": own.warps // warps if threads <= own.block_threads else 0,
        "blocks": own.blocks,
        "registers": _by_registers(own, warps, registers),
        "shared memory": 0 if shared_bytes > own.block_shared else
        own.shared // round_up(shared_bytes + own.reserved, SHARED_UNIT),
    }  # fmt: skip
    return Occupancy(limits, warps, own.warps)


def _by_registers(own: Multiprocessor, warps: int, registers: int) -> int:
    """A block must also fit if its warps were dealt to the quarters in fours: a check that the hardware makes."""
    of_warp = round_up(max(1, registers) * WARP, REGISTER_UNIT)
    if registers > own.thread_registers or of_warp * round_up(warps, QUARTERS) > own.registers:
        return 0
    return own.registers // QUARTERS // of_warp * QUARTERS // warps
