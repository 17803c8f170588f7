"""What a block computes and moves, counted while its PTX runs: flops, bytes of global memory, and their sectors.

Global memory moves in sectors of 32 bytes. A warp that reads 32 neighbouring floats takes 4 of them, one that reads
floats far apart takes 32, of which it needs an eighth.

A flop is an addition, a multiplication or any other operation on float32; a multiply-add counts as two, an mma of
16 x 8 x K as 256 K.
"""

import numpy as np

from ..gpus import WARP
from .ptx_machine import Instruction, Observer

SECTOR = 32  # bytes
OPERATIONS = {"fma": 2} | dict.fromkeys(
    ("add", "sub", "mul", "div", "rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh"), 1
)


class Counts(Observer):
    """Watches blocks.

    flops : of all threads. asked : bytes that threads load and store. moved : bytes of the sectors that each warp's
    instruction takes. touched : bytes of the sectors that were accessed at all, read and written ones apart.
    """

    def __init__(self) -> None:
        self.flops = self.asked = self.moved = 0
        self._sectors: dict[bool, set[int]] = {True: set(), False: set()}

    @property
    def touched(self) -> int:
        return SECTOR * sum(map(len, self._sectors.values()))

    def step(self, instruction: Instruction, active: np.ndarray) -> None:
        words = instruction.words
        if words[0] == "mma":
            depth = next(int(word[6:]) for word in words if word.startswith("m16n8k"))
            self.flops += 2 * 16 * 8 * depth * int(active.sum()) // WARP
        elif words[-1] == "f32":
            self.flops += OPERATIONS.get(words[0], 0) * int(active.sum())

    def access(self, instruction: Instruction, space: str, address: np.ndarray, size: int, thread: np.ndarray) -> None:
        if space == "global":
            sector = address // SECTOR  # no access lies in two
            self.asked += size * len(address)
            self.moved += SECTOR * np.unique(np.stack([thread // WARP, sector]), axis=1).shape[1]
            self._sectors[instruction.words[0] == "st"].update(sector.tolist())
