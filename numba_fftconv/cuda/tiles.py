"""Block tiles of the product kernel: which exist, what a multiprocessor must have for them, and which one to take.

A block computes BM x BN elements of Y and a thread TM x TN of them, from slabs of BK steps of the contraction; STAGES
slabs of both operands lie in shared memory, one in use and the others on their way. One step of a block costs

    BM*BN complex multiply-adds of 4 FFMA each, of which a multiprocessor issues 128 a clock: BM*BN / 32 clocks,
    (TM + TN) / 2 loads of 128 bits a thread, 4 clocks of shared memory a warp,
    (BM + BN) complex values read from L2: (BM + BN) * 8 / 24 clocks,

so a tile of 64x64 takes 128 clocks to compute, 96 to load and 43 to fetch; one of 64x8 takes 16, 24 and 24. Large tiles
compute well where rows and columns fill them. Thin ones are for few columns (C = 3) or few rows (N = 1), where memory
sets the pace and padding must not; a shallow one for a depth of few steps; small ones make blocks enough where bins are
few.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ..gpus import GPUS, GRID_LIMIT, WARP, Gpu
from ..integers import ceil_div
from .block_tile import BLOCK_SHARED_BYTES, COMPLEX_BYTES, BlockTile
from .occupancy import occupancy

PAD = 2  # complex values at the end of a row that lies along the contraction
# The model of time, in clocks. Estimates, but for counts of instructions.
FFMA_OF_A_MULTIPLY_ADD = 4
LOAD_CLOCKS = 4  # of shared memory, for 128 bits a lane
WARPS_TO_FILL = 8  # two a scheduler: with fewer, FFMA waits for its own results
L2_BYTES_A_CLOCK = 24  # of one multiprocessor, all of them reading
SLAB_INSTRUCTIONS, COPY_INSTRUCTIONS = 45, 4  # of a thread, as read off machine code: for a slab, for 16 bytes of it
BLOCK_CLOCKS = 1500  # from the launch of a block to its first slab, and from its last to its end
SLAB_LATENCY = 800  # from asking for a slab to having it
NOT_HIDDEN = 0.25  # of computing, fetching and waiting, but for the longest of them
# Registers that a thread may take, by the complex accumulators that it holds; the compiler is held to it.
REGISTER_BUDGET = {64: 238, 32: 128, 16: 96, 8: 80, 4: 64}


@dataclass(frozen=True)
class ProductConfig(BlockTile):
    """Tile of a block, tile of a thread, depth of a slab, slabs in shared memory."""

    BM: int
    BN: int
    TM: int
    TN: int
    BK: int
    stages: int
    precision = "fp32"  # no field

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

    @property
    def most_registers(self) -> int:
        return REGISTER_BUDGET[self.TM * self.TN]

    @property
    def own(self) -> str:
        return f"a thread of {self.TM}x{self.TN}"

    def pitch(self, extent: int, kmajor: bool) -> int:
        return self.BK + PAD if kmajor else extent

    def slab_clocks(self, gpu: Gpu) -> float:
        """Its instructions are issued, or its values given out of shared memory, whichever takes longer."""
        warps, loads = self.threads // WARP, (self.TM + self.TN) * self.BK // 2
        ffma = FFMA_OF_A_MULTIPLY_ADD * self.TM * self.TN * self.BK
        copies = (self.BM + self.BN) * self.BK // (2 * self.threads)
        others = loads + SLAB_INSTRUCTIONS + COPY_INSTRUCTIONS * copies
        a_clock = gpu.multiprocessor.lanes // WARP  # instructions of a warp
        return max(warps * (ffma + others) / a_clock, warps * loads * LOAD_CLOCKS)

    __str__ = BlockTile.__str__


TILES = (
    ProductConfig(128, 128, 8, 8, 8, 2),
    ProductConfig(128, 64, 8, 4, 8, 3),
    ProductConfig(64, 128, 8, 4, 8, 3),
    ProductConfig(64, 64, 8, 4, 8, 3),
    ProductConfig(32, 64, 8, 4, 16, 2),
    ProductConfig(32, 32, 4, 4, 16, 2),
    ProductConfig(16, 64, 4, 4, 16, 2),
    ProductConfig(64, 16, 4, 4, 16, 2),
    ProductConfig(64, 8, 4, 2, 16, 2),
    ProductConfig(8, 64, 2, 4, 16, 2),
    ProductConfig(16, 16, 4, 2, 16, 2),
    ProductConfig(64, 64, 8, 4, 4, 2),
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


def choose_tile(
    rows: int,
    columns: int,
    depth: int,
    bins: int,
    multiprocessors: int = 132,
    architecture: tuple[int, int] = (9, 0),
    tiles: Sequence[BlockTile] = TILES,
) -> BlockTile:
    """The tile of some that costs least for bins products (groups counted) of rows x depth by depth x columns.

    >>> print(choose_tile(256, 512, 512, 2050), choose_tile(1, 256, 256, 546), choose_tile(64, 3, 1000, 546))
    128x128 8x64 64x8
    """
    problem = rows, columns, depth, bins, multiprocessors, architecture
    launched = [config for config in tiles if ceil_div(rows, config.BM) <= GRID_LIMIT]
    return min(launched or tiles, key=lambda config: cost(config, *problem))


def cost(
    config: BlockTile,
    rows: int,
    columns: int,
    depth: int,
    bins: int,
    multiprocessors: int,
    architecture: tuple[int, int] = (9, 0),
) -> float:
    """Clocks that the busiest multiprocessor takes, by a model: the longest of three, and a part of the others.

    computing: its blocks, padded on every side, at the rate at which one slab is issued;
    fetching: what tiles read from L2 again and again, or what memory must give once;
    waiting: waves of resident blocks, none of which is done before its slabs have come one after the other.
    """
    gpu, slabs = _gpu(architecture), ceil_div(depth, config.BK)
    down, across = ceil_div(rows, config.BM), ceil_div(columns, config.BN)
    blocks = ceil_div(down * across * bins, multiprocessors)
    resident = _resident(config, gpu)
    of_slab, warps = config.slab_clocks(gpu), config.threads // WARP
    idle = max(1.0, WARPS_TO_FILL / (min(blocks, resident) * warps))
    compute = blocks * slabs * of_slab * idle
    wait = ceil_div(blocks, resident) * (BLOCK_CLOCKS + slabs * SLAB_LATENCY / (config.stages - 1))
    once = bins * (rows * columns + depth * (rows + columns))
    again = bins * (rows * columns + depth * (rows * across + columns * down))
    memory = gpu.bandwidth / gpu.clock * multiprocessors / gpu.multiprocessors  # bytes a clock
    fetch = COMPLEX_BYTES * max(once / memory, again / (L2_BYTES_A_CLOCK * multiprocessors))
    parts = compute, fetch, wait
    return max(parts) + NOT_HIDDEN * (sum(parts) - max(parts))


@cache
def _gpu(architecture: tuple[int, int]) -> Gpu:
    """The first of the table that is not newer; its figures stand for the architecture."""
    return max((gpu for gpu in GPUS if gpu.architecture <= architecture), key=lambda gpu: gpu.architecture)


@cache
def _resident(config: BlockTile, gpu: Gpu) -> int:
    held = occupancy(gpu.multiprocessor, config.threads, config.most_registers, config.shared_bytes())
    return max(1, held.blocks)
