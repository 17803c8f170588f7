"""The vector registers of the processor that Numba compiles for, and the tiles of the products that fill them.

LLVM splits a vector of 64 bytes (vector.py) wherever registers are shorter. Splitting costs no instruction, but a tile
whose sums do not all fit into registers reads and writes memory at each step, so how many outputs a tile has follows
from how many registers there are and how long they are:

    AVX-512   32 of 64 bytes      AVX, AVX2   16 of 32 bytes
    SSE       16 of 16 bytes      Arm         32 of 16 bytes
"""

import platform
from typing import NamedTuple

import numba
from llvmlite import binding

LINE_BYTES = 64


class Registers(NamedTuple):
    """How many vector registers there are, and the bytes of each."""

    number: int
    nbytes: int


def features() -> str:
    """What Numba compiles for, in LLVM's words: what it is told to, else the features of this processor."""
    named = numba.config.CPU_FEATURES
    return str(binding.get_host_cpu_features().flatten() if named is None else named)


def registers() -> Registers:
    """The registers of the processor that Numba compiles for; vectors of Arm beyond Neon are not made use of."""
    return registers_of(platform.machine(), features())


def hold_lines() -> bool:
    """Whether a register holds a whole line."""
    return registers().nbytes == LINE_BYTES


def registers_of(machine: str, features: str) -> Registers:
    """Those of a kind of machine with these features; of machines that we do not know, the least that is usual."""
    if machine.lower() in ("aarch64", "arm64"):
        return Registers(32, 16)
    has = {word[1:] for word in features.split(",") if word.startswith("+")}
    if "avx512f" in has:
        return Registers(32, LINE_BYTES)
    return Registers(16, 32 if "avx" in has else 16)


class Tile(NamedTuple):
    """What a product sums in registers: so many outputs at the bins f and -f, or so many pairs of planes. `apart` where
    sums of products with real and with imaginary parts are vectors of their own (tiles.py)."""

    outputs: int
    pairs: int
    apart: bool


# Where a register holds a whole line, an output takes 4 for its sums apart, each of which depends on itself once a
# step; 4 outputs are 16, beside the lines at f and -f and the broadcasts of W.
# Else a line is two halves, re and im, of h = 32 / bytes registers each, and an output takes 4 h for re and im of its
# sums at f and -f. Beside them live 2 h of a line and two broadcasts of W. A pair of planes takes 2 for its sums apart,
# else 2 h, and beside them 2 h of either line.
TILES = {
    Registers(32, 64): Tile(4, 8, True),
    Registers(16, 32): Tile(3, 4, False),  # 12 + 2 + 2; 8 + 4
    # 16 + 4 + 2; with 24 sums LLVM moves half of them around at each step; 16 + 8
    Registers(32, 16): Tile(2, 4, False),
    Registers(16, 16): Tile(1, 2, False),  # 8 + 4 + 2; 8 + 8
}


def one_piece() -> tuple[int, int]:
    """The longest transforms that are quickest in one piece, of which LLVM keeps some values in memory, and those of
    which half of the values are zero: longer ones are quicker in two levels."""
    return (64, 64) if hold_lines() else (32, 16)


def tile() -> Tile:
    """The tile that fills the registers of the processor that Numba compiles for."""
    return TILES[registers()]
