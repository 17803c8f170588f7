"""Some GPUs as numbers: what a multiprocessor has of each architecture, and how many, how fast, beside which memory.

    GPU          sm    SMs   boost MHz   GB/s   peak float32 = SMs * lanes * 2 flops * clock
    H200         90    132        1980   4800   66.9 TFLOP/s
    A100         80    108        1410   2039   19.5 TFLOP/s

Sources: NVIDIA's datasheets of H200, H100 (SXM), A100 (SXM, 80 GB), A40, L40S and GeForce RTX 4090; CUDA C++
Programming Guide, "Technical Specifications per Compute Capability"; its section "Arithmetic Instructions" for lanes.
"""

from dataclasses import dataclass
from typing import Any

from .errors import InvalidOptionError

WARP = 32
GRID_LIMIT = 65535  # blocks along y and z, of any GPU


@dataclass(frozen=True)
class Multiprocessor:
    """What blocks share; of threads, warps and blocks, the most that are resident at once. Bytes are bytes."""

    lanes: int  # multiply-adds of float32 a clock
    doubles: int  # and of float64, outside tensor cores
    shared: int
    block_shared: int  # of one block, once the driver is asked for it
    threads: int
    blocks: int
    registers: int = 65536
    thread_registers: int = 255
    block_threads: int = 1024
    reserved: int = 1024  # of shared memory, taken by the system from each block

    @property
    def warps(self) -> int:
        return self.threads // WARP


@dataclass(frozen=True)
class Gpu:
    """A GPU as its datasheet describes it."""

    name: str
    architecture: tuple[int, int]
    multiprocessors: int
    clock: float  # Hz, boost
    bandwidth: float  # bytes a second between its memory and the chip

    @property
    def multiprocessor(self) -> Multiprocessor:
        return MULTIPROCESSORS[self.architecture]

    @property
    def flops(self) -> float:
        """Float32 operations a second, two to a multiply-add; tensor cores do not count."""
        return 2.0 * self.multiprocessors * self.multiprocessor.lanes * self.clock

    @property
    def double_flops(self) -> float:
        """Float64 operations a second."""
        return self.flops * self.multiprocessor.doubles / self.multiprocessor.lanes

    @property
    def ridge(self) -> float:
        """Flops a byte at which computing takes as long as moving."""
        return self.flops / self.bandwidth


KB = 1024
MULTIPROCESSORS = {
    (8, 0): Multiprocessor(lanes=64, doubles=32, shared=164 * KB, block_shared=163 * KB, threads=2048, blocks=32),
    (8, 6): Multiprocessor(lanes=128, doubles=2, shared=100 * KB, block_shared=99 * KB, threads=1536, blocks=16),
    (8, 9): Multiprocessor(lanes=128, doubles=2, shared=100 * KB, block_shared=99 * KB, threads=1536, blocks=24),
    (9, 0): Multiprocessor(lanes=128, doubles=64, shared=228 * KB, block_shared=227 * KB, threads=2048, blocks=32),
}
GPUS = (
    Gpu("H200", (9, 0), 132, 1980e6, 4800e9),
    Gpu("H100", (9, 0), 132, 1980e6, 3350e9),
    Gpu("A100", (8, 0), 108, 1410e6, 2039e9),
    Gpu("A40", (8, 6), 84, 1740e6, 696e9),
    Gpu("L40S", (8, 9), 142, 2520e6, 864e9),
    Gpu("RTX 4090", (8, 9), 128, 2520e6, 1008e9),
)


def sm(architecture: tuple[int, int]) -> str:
    """How NVIDIA writes it.

    >>> sm((9, 0))
    'sm_90'
    """
    return f"sm_{architecture[0]}{architecture[1]}"


def find_gpu(gpu: Any = None, arch: Any = None) -> Gpu:
    """The GPU of a name, the first of an architecture, or H200.

    >>> find_gpu("rtx4090").name, find_gpu(arch="sm_80").name, find_gpu().name
    ('RTX 4090', 'A100', 'H200')
    """
    words = {_plain(each.name): each for each in GPUS}
    if gpu is not None and _plain(gpu) not in words:
        raise InvalidOptionError(f"gpu is {gpu!r}: it must be one of {', '.join(each.name for each in GPUS)}")
    first = {sm(each.architecture): each for each in reversed(GPUS)}
    if arch is not None and arch not in first:
        known = ", ".join(f"{name} ({each.name})" for name, each in sorted(first.items()))
        raise InvalidOptionError(f"arch is {arch!r}: it must be one of {known}")
    if gpu is None:
        return first[arch] if arch is not None else GPUS[0]
    found = words[_plain(gpu)]
    if arch not in (None, sm(found.architecture)):
        raise InvalidOptionError(f"gpu is {gpu!r} and arch {arch!r}: {found.name} is {sm(found.architecture)}")
    return found


def _plain(word: Any) -> str:
    return str(word).lower().replace(" ", "").replace("_", "")
