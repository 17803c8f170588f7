"""Bank conflicts of shared memory, counted from the addresses that a block really accesses.

Shared memory is 32 banks of 4-byte words; word w lies in bank w mod 32. In one wavefront each bank gives one word, to
as many lanes as ask for it. A wavefront moves 128 bytes, so it serves

    accesses of    4 bytes or fewer    8 bytes       16 bytes
    to             32 lanes            half a warp   a quarter of a warp

and takes as many turns as the busiest bank has different words to give. Without conflicts that is one turn for each of
these parts of a warp in which a lane is active.

The addresses come from PTX, whose accesses the compiler may join: two halves of an aligned 8 or 16 bytes, in a stretch
of code without branches. They are joined here as well, to no more than the widest access that the machine code has.

Example: 32 lanes read floats 32 apart: all from bank 0, 32 wavefronts where one is ideal. 33 apart, one.

Source: NVIDIA, CUDA C++ Programming Guide, "Shared Memory"; halves and quarters as NVIDIA's engineers describe them and
as profilers count them.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..gpus import WARP
from .ptx_machine import Instruction, Observer

BANKS, WORD = 32, 4
ENDS_A_STRETCH = ("bra", "bar", "barrier", "ret", "exit")


@dataclass
class Accesses:
    """Accesses of one kind: instructions of a warp, the wavefronts that they take, and those without any conflict."""

    warps: int = 0
    wavefronts: int = 0
    ideal: int = 0

    @property
    def ratio(self) -> float:
        """Wavefronts for each that is needed."""
        return self.wavefronts / self.ideal


def wavefronts(address: np.ndarray, size: int, thread: np.ndarray) -> tuple[int, int]:
    """Wavefronts of one instruction, its lanes `thread` accessing so many bytes at these addresses, and the ideal.

    >>> lane = np.arange(32)
    >>> wavefronts(4 * 32 * lane, 4, lane), wavefronts(4 * 33 * lane, 4, lane), wavefronts(8 * lane, 8, lane)
    ((32, 1), (1, 1), (2, 2))
    """
    lanes = WARP * WORD // max(size, WORD)
    words = address[:, None] // WORD + np.arange(max(1, size // WORD))
    parts = np.broadcast_to(thread[:, None] // lanes, words.shape)
    of_part, word = np.unique(np.stack([parts.ravel(), words.ravel()]), axis=1)
    present, place = np.unique(of_part, return_inverse=True)
    turns = np.bincount(place * BANKS + word % BANKS, minlength=len(present) * BANKS)
    return int(turns.reshape(-1, BANKS).max(axis=1).sum()), len(present)


Lines = dict[tuple[str, str], Accesses]  # by kind and line of source


def by_kind(lines: Lines) -> dict[str, Accesses]:
    """Sums over the lines of source."""
    found: dict[str, Accesses] = {}
    for (kind, _), one in lines.items():
        known = found.get(kind, Accesses())
        found[kind] = Accesses(known.warps + one.warps, known.wavefronts + one.wavefronts, known.ideal + one.ideal)
    return found


class Banks(Observer):
    """Watches blocks and counts their shared accesses, by kind ("ld.128") and by (kind, line of source).

    widest : bytes of the widest "ld" and "st" of shared memory in the machine code; without it nothing is joined.
    """

    def __init__(self, widest: Mapping[str, int] | None = None) -> None:
        self.widest = widest or {}
        self._counted: defaultdict[tuple[str, str], Accesses] = defaultdict(Accesses)
        self._halves: dict[tuple[str, int, bytes, bytes], tuple[str, np.ndarray, np.ndarray]] = {}

    @property
    def lines(self) -> Lines:
        self._count_halves()
        return dict(self._counted)

    @property
    def kinds(self) -> dict[str, Accesses]:
        return by_kind(self.lines)

    def step(self, instruction: Instruction, active: np.ndarray) -> None:
        if instruction.words[0] in ENDS_A_STRETCH:
            self._count_halves()

    def access(self, instruction: Instruction, space: str, address: np.ndarray, size: int, thread: np.ndarray) -> None:
        if space == "shared":
            what = "cp.async" if instruction.words[0] == "cp" else instruction.words[0]
            self._add(what, instruction.line, address, size, thread)

    def _add(self, what: str, line: str, address: np.ndarray, size: int, thread: np.ndarray) -> None:
        """Count an access, or keep it until its other half comes."""
        whole = address - address % (2 * size)
        key = what, size, thread.tobytes(), whole.tobytes()
        if 2 * size > self.widest.get(what, 0):
            self._count(what, line, address, size, thread)
        elif key not in self._halves:
            self._halves[key] = line, address, thread
        elif np.array_equal(self._halves[key][1], address):  # the same half again
            self._count(what, line, address, size, thread)
        else:
            del self._halves[key]
            self._add(what, line, whole, 2 * size, thread)

    def _count_halves(self) -> None:
        """No other half comes any more."""
        for (what, size, *_), (line, address, thread) in self._halves.items():
            self._count(what, line, address, size, thread)
        self._halves.clear()

    def _count(self, what: str, line: str, address: np.ndarray, size: int, thread: np.ndarray) -> None:
        accesses = self._counted[f"{what}.{8 * size}", line]
        taken, ideal = wavefronts(address, size, thread)
        accesses.warps += len(np.unique(thread // WARP))
        accesses.wavefronts += taken
        accesses.ideal += ideal
