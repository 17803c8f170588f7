"""Block tiles of the product kernel: which exist, what a multiprocessor must have for them, and which one to take.

A block computes BM x BN elements of Y and a thread TM x TN of them, from slabs of BK steps of the contraction; STAGES
slabs of both operands lie in shared memory, one in use and the others on their way. One step of a block costs

    BM*BN complex multiply-adds of 4 FFMA each, of which a multiprocessor issues 128 a clock: BM*BN / 32 clocks,
    (BM + BN) complex values read from L2: (BM + BN) * 8 / 24 clocks,

so a tile of 64x64 takes 128 clocks to compute and 43 to fetch, one of 16x64 takes 32 and 27. Large tiles compute well
where rows and columns fill them; small ones waste less at ragged edges, and make blocks enough where bins are few.
"""

from dataclasses import dataclass

from ..gpus import MULTIPROCESSORS, WARP
from ..integers import ceil_div, round_up
from .occupancy import occupancy

COMPLEX_BYTES = 8
BLOCK_SHARED_BYTES = 48 * 1024  # of a block, without opting in to more
PAD = 2  # complex values at the end of a row that lies along the contraction
WARPS_TO_FILL = 8  # two a scheduler: with fewer, FFMA waits for its own results
MULTIPLY_ADDS_A_CLOCK = 32
L2_BYTES_A_CLOCK = 24  # of one multiprocessor, all of them reading
NOT_HIDDEN = 0.25  # of the shorter of computing and fetching; an estimate
# Registers that a thread may take, by the complex accumulators that it holds; the compiler is held to it.
REGISTER_BUDGET = {64: 238, 32: 128, 16: 96, 4: 64}


@dataclass(frozen=True)
class ProductConfig:
    """Tile of a block, tile of a thread, depth of a slab, slabs in shared memory."""

    BM: int
    BN: int
    TM: int
    TN: int
    BK: int
    stages: int

    @property
    def threads_across(self) -> int:
        return self.BN // self.TN

    @property
    def threads_down(self) -> int:
        return self.BM // self.TM

    @property
    def threads(self) -> int:
        return self.threads_across * self.threads_down

    @property
    def lanes_across(self) -> int:
        """Width of a warp's rectangle of threads: 8 wide and 4 tall, or 4 wide and 8 tall."""
        return 8 if self.threads_across % 8 == 0 else 4

    def shared_values(self, a_kmajor: bool, b_kmajor: bool) -> tuple[int, int]:
        """Complex values that one slab of A and one of B take, padding included."""
        a = self.BM * (self.BK + PAD) if a_kmajor else self.BK * self.BM
        b = self.BN * (self.BK + PAD) if b_kmajor else self.BK * self.BN
        return a, b

    def shared_bytes(self, a_kmajor: bool = True, b_kmajor: bool = True) -> int:
        """Shared memory of a block; most where both operands lie along the contraction, with padded rows."""
        return self.stages * sum(self.shared_values(a_kmajor, b_kmajor)) * COMPLEX_BYTES

    def copied_whole(self, extent: int) -> bool:
        """Whether threads, 1 or 2 values each, copy a slab of that many rows or columns in whole rounds."""
        shapes = [(rows, run // vec) for vec in (1, 2) for rows, run in ((extent, self.BK), (self.BK, extent))]
        return all(self.threads % across == 0 and rows % (self.threads // across) == 0 for rows, across in shapes)

    @property
    def resident(self) -> int:
        """Blocks that a multiprocessor of sm_90 holds at once."""
        registers = REGISTER_BUDGET[self.TM * self.TN]
        return occupancy(MULTIPROCESSORS[9, 0], self.threads, registers, self.shared_bytes()).blocks

    def __str__(self) -> str:
        return f"{self.BM}x{self.BN}"


TILES = (
    ProductConfig(128, 128, 8, 8, 8, 2),
    ProductConfig(128, 64, 8, 4, 8, 3),
    ProductConfig(64, 128, 8, 4, 8, 3),
    ProductConfig(64, 64, 8, 4, 8, 3),
    ProductConfig(32, 64, 8, 4, 16, 2),
    ProductConfig(32, 32, 4, 4, 16, 2),
    ProductConfig(16, 64, 4, 4, 16, 2),
    ProductConfig(64, 16, 4, 4, 16, 2),
)

SIMULATED_TILE = ProductConfig(8, 16, 2, 2, 8, 2)  # for the simulator, where a step of a thread takes a microsecond


def valid(config: ProductConfig) -> bool:
    """Whether the kernel can be built with a tile, each condition for the reason beside it."""
    down, across, lanes = config.threads_down, config.threads_across, config.lanes_across
    return (
        down * config.TM == config.BM  # threads tile the block
        and across * config.TN == config.BN
        and config.TM % 2 == 0  # a load of 128 bits takes two neighbours
        and config.TN % 2 == 0
        and config.BK % 4 == 0  # or two steps; and rows of BK + 2 values are an odd number of 16 bytes
        and across % lanes == 0  # warps are whole rectangles of threads
        and down % (WARP // lanes) == 0
        and config.threads <= 1024  # of a block
        and all(map(config.copied_whole, (config.BM, config.BN)))  # copies need no test for the last round
        and config.stages >= 2  # one slab in use, one on its way
        and config.TM * config.TN in REGISTER_BUDGET  # accumulators stay in registers
        and REGISTER_BUDGET[config.TM * config.TN] <= 255  # of a thread
        and config.shared_bytes() <= BLOCK_SHARED_BYTES  # no opting in
        and config.resident >= 1  # else no launch
    )


def choose_tile(rows: int, columns: int, depth: int, bins: int, multiprocessors: int = 132) -> ProductConfig:
    """The tile that costs least for bins products (groups counted) of rows x depth by depth x columns.

    >>> print(choose_tile(256, 512, 512, 2050), choose_tile(1, 256, 256, 546), choose_tile(64, 3, 1000, 546))
    128x128 16x64 64x16
    """
    return min(TILES, key=lambda config: cost(config, rows, columns, depth, bins, multiprocessors))


def cost(config: ProductConfig, rows: int, columns: int, depth: int, bins: int, multiprocessors: int) -> float:
    """Clocks that the busiest multiprocessor takes, by a model: padded work in whole blocks, and what L2 must give.

    The shorter of the two hides behind the longer but for a part of it.
    """
    down, across = ceil_div(rows, config.BM), ceil_div(columns, config.BN)
    steps = round_up(depth, config.BK)
    blocks = ceil_div(down * across * bins, multiprocessors)  # of the busiest
    warps = min(blocks, config.resident) * config.threads // WARP
    idle = max(1.0, WARPS_TO_FILL / warps)
    compute = blocks * config.BM * config.BN * steps / MULTIPLY_ADDS_A_CLOCK * idle / arithmetic_share(config)
    values = bins * (depth * (rows * across + columns * down) + rows * columns)
    fetch = values * COMPLEX_BYTES / (L2_BYTES_A_CLOCK * multiprocessors)
    return max(compute, fetch) + NOT_HIDDEN * min(compute, fetch)


def arithmetic_share(config: ProductConfig) -> float:
    """FFMA among the instructions of the loop: a thread's loads of 128 bits, and about 60 instructions a slab."""
    ffma = 4 * config.TM * config.TN * config.BK
    return ffma / (ffma + (config.TM + config.TN) * config.BK // 2 + 60)
