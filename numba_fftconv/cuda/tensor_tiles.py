"""Block tiles of the products on tensor cores: which there are for each precision, and their rate by a model.

A warp computes WM x WN complex elements of Y, by fragments of 16 x 8; a block has as many warps as tile BM x BN. Slabs
have 8 steps always: that many are added in the tensor core before their sum goes to the float32 sums in registers, so
all tiles of a precision sum in the same order and give the same bits.

    slab of A, along the contraction    rows of 8 values, 64 bytes: 8 rows fill 4 wavefronts, nothing between them
    slab of A, across it                rows of BM + 2 values: steps 2t begin 4 groups of banks apart from one another

A product of two tf32 or bf16 numbers is exact in float32. A float32 number is the sum of two of them, hi and lo, to 22
or 16 bits, and the product of two is three: hi*lo' + lo*hi' + hi*hi'.

    precision   fragment    products   HMMA a warp and slab of WM x WN    error of a product
    tf32x3      m16n8k8     3          WM*WN*12/128                       2^-22
    bf16x3      m16n8k16    3          WM*WN*6/128                        2^-16
    tf32        m16n8k8     1          WM*WN*4/128                        2^-11

Rates are a model, of which nothing was measured: tensor cores have the rate of their datasheets, on sm_90 62 % of it,
which is what others report of mma.sync there, and a scheduler issues one instruction a clock.
"""

from dataclasses import dataclass
from typing import NamedTuple

from ..gpus import WARP, Gpu
from .block_tile import BLOCK_SHARED_BYTES, BlockTile
from .tiles import TILES

STEPS = 8  # of a slab
SCHEDULERS = 4
HMMA_CLOCKS = {(8, 0): 8.0, (8, 6): 16.0, (8, 9): 16.0, (9, 0): 7.0}  # of one tensor core, four a multiprocessor
HMMA = {"tf32x3": 12, "bf16x3": 6, "tf32": 4}  # of a fragment of 16 x 8 and a slab
OF_A_SLAB = 35  # copies, barrier, loop


class Others(NamedTuple):
    """Other instructions of the loop, as read off machine code."""

    fragment: float  # for 16 rows of A or 16 columns of B: loads, hi and lo, the forms of B
    sums: float  # for 16 x 8 sums that are fresh in each slab


OTHERS = {"tf32x3": Others(36, 8), "bf16x3": Others(38, 8), "tf32": Others(18, 0)}


@dataclass(frozen=True)
class TensorConfig(BlockTile):
    """Tile of a block, tile of a warp, slabs in shared memory; which precision it is for, and its registers."""

    precision: str
    BM: int
    BN: int
    WM: int
    WN: int
    stages: int = 3
    BK: int = STEPS

    @property
    def warps_across(self) -> int:
        return self.BN // self.WN

    @property
    def threads(self) -> int:
        return self.BM // self.WM * self.warps_across * WARP

    @property
    def most_registers(self) -> int:
        down, across = self.fragments
        return 128 if down * across <= 8 else 255  # two blocks of 256 threads, or one

    @property
    def fragments(self) -> tuple[int, int]:
        """Of 16 rows down and of 8 columns across a warp's tile."""
        return self.WM // 16, self.WN // 8

    def slab_clocks(self, gpu: Gpu) -> float:
        """Its mma are done by tensor cores, or its instructions issued, whichever takes longer."""
        down, across = self.fragments
        hmma, other = HMMA[self.precision] * down * across, OTHERS[self.precision]
        issued = hmma + other.fragment * (down + across / 2) + other.sums * down * across + OF_A_SLAB
        return max(HMMA_CLOCKS[gpu.architecture] * hmma, issued) * self.threads / WARP / SCHEDULERS

    @property
    def own(self) -> str:
        return f"a warp of {self.WM}x{self.WN} on tensor cores, {self.precision}"

    def pitch(self, extent: int, kmajor: bool) -> int:
        return STEPS if kmajor else extent + 2

    __str__ = BlockTile.__str__


TENSOR_TILES = {
    "tf32x3": (
        TensorConfig("tf32x3", 64, 64, 32, 16),
        TensorConfig("tf32x3", 32, 32, 32, 16),
        TensorConfig("tf32x3", 16, 64, 16, 32),
        TensorConfig("tf32x3", 64, 16, 32, 16),
    ),
    "bf16x3": (
        TensorConfig("bf16x3", 128, 64, 32, 32),
        TensorConfig("bf16x3", 64, 64, 32, 32),
        TensorConfig("bf16x3", 32, 32, 32, 16),
        TensorConfig("bf16x3", 16, 64, 16, 32),
        TensorConfig("bf16x3", 64, 16, 32, 16),
    ),
    "tf32": (
        TensorConfig("tf32", 128, 128, 64, 32, 2),
        TensorConfig("tf32", 128, 64, 32, 32),
        TensorConfig("tf32", 64, 64, 32, 32),
        TensorConfig("tf32", 32, 32, 32, 16),
        TensorConfig("tf32", 16, 64, 16, 32),
        TensorConfig("tf32", 64, 16, 32, 16),
    ),
}

SIMULATED_TENSOR_TILES = {name: TensorConfig(name, 16, 16, 16, 16) for name in TENSOR_TILES}  # of one warp


def flops(precision: str, gpu: Gpu) -> float:
    """Operations a second of the best tile, eight to a complex multiply-add, by the model.

    >>> from numba_fftconv.gpus import find_gpu
    >>> [round(flops(name, find_gpu("H200")) / 1e12) for name in TENSOR_TILES]
    [102, 204, 306]
    """
    of_tiles = (config.BM * config.BN * config.BK / config.slab_clocks(gpu) for config in TENSOR_TILES[precision])
    return 8 * gpu.multiprocessors * gpu.clock * max(of_tiles)


def tiles_of(precision: str) -> tuple[BlockTile, ...]:
    """The tiles that a precision may run in."""
    return TILES if precision == "fp32" else TENSOR_TILES[precision]


def valid(config: TensorConfig) -> bool:
    """Whether the kernel can be built with a tile, each condition for the reason beside it."""
    return (
        config.WM % 16 == 0  # fragments tile a warp
        and config.WN % 16 == 0  # and two of them share a load of 128 bits across the contraction
        and config.BM % config.WM == 0  # warps tile the block
        and config.BN % config.WN == 0
        and config.BK == STEPS
        and config.threads <= 1024  # of a block
        and all(map(config.copied_whole, (config.BM, config.BN)))  # copies need no test for the last round
        and config.stages >= 2  # one slab in use, one on its way
        and config.shared_bytes() <= BLOCK_SHARED_BYTES  # no opting in
        and config.resident >= 1  # else no launch
    )
