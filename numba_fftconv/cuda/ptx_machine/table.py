"""What each instruction of PTX computes, for all threads of a block at once: a table from its first word.

An instruction here reads registers and gives a value, one NumPy array with an element a thread (several for a vector
of destinations). Those that move data, wait or branch are the machine's own (block.py). Bits are kept as they
are: a register has no type, and an instruction reads it as its last word says, so that integers wrap at 32 and 64
bits, shifts beyond the width and divisions of negative numbers come out as on a GPU.

    add.s32  %r1, %r2, %r3      TABLE["add"] = Row(modifiers "rn", compute): reads both sources as int32, adds

What stands between the first word and the type must be among a row's modifiers: anything else is another instruction,
and refused by its name. Three things differ from a GPU, all in the last bits: `fma` rounds twice where its sum is not
exact in float64, the functions that a GPU approximates are exact here, and `mma` adds in float64.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...gpus import WARP
from .program import TYPES, Instruction, names_of

Values = np.ndarray | list[np.ndarray]


class Registers(Protocol):
    """What an instruction reads its sources from."""

    def read(self, name: str, kind: Any) -> np.ndarray: ...


class Row(NamedTuple):
    """An instruction: words that may stand between its first and its types, and what it computes."""

    modifiers: frozenset[str]
    compute: Callable[[Registers, Instruction], Values]


def _sources(block: Registers, instruction: Instruction) -> list[np.ndarray]:
    return [block.read(name, instruction.kind) for name in instruction.operands[1:]]


def _is_float(x: np.ndarray) -> bool:
    return x.dtype.kind == "f"


def _bits(x: np.ndarray) -> int:
    return 8 * x.dtype.itemsize


def _double(x: np.ndarray) -> np.ndarray:
    """Integers with twice the width; Python's own where 64 bits are not enough."""
    wider = {np.int32: np.int64, np.uint32: np.uint64, np.int16: np.int32, np.uint16: np.uint32}
    return x.astype(wider.get(x.dtype.type, object))


# ---- integers and float32 --------------------------------------------------------------------------------------------


def _plain(function: Callable[..., Any]) -> Callable[[Registers, Instruction], Values]:
    """All sources have the type of the last word."""
    return lambda block, instruction: function(*_sources(block, instruction))


def _divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Integers round towards zero, as in C."""
    return x / y if _is_float(x) else (x - np.fmod(x, y)) // y


def _multiply(block: Registers, instruction: Instruction) -> np.ndarray:
    """The low half of a product, its high half, or all of it."""
    x, y = (block.read(name, instruction.kind) for name in instruction.operands[1:3])
    if "hi" in instruction.words:
        return (_double(x) * _double(y) >> _bits(x)).astype(x.dtype)
    return _double(x) * _double(y) if "wide" in instruction.words else x * y


def _multiply_add(block: Registers, instruction: Instruction) -> np.ndarray:
    product = _multiply(block, instruction)
    return product + block.read(instruction.operands[3], product.dtype.type)


def _fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64) * y + z  # the product is exact
    return wide.astype(np.float32)


def _shift(left: bool) -> Callable[[Registers, Instruction], Values]:
    """By as many bits as an unsigned number says; by more than there are, nothing or the sign is left."""

    def shift(block: Registers, instruction: Instruction) -> np.ndarray:
        x, by = block.read(instruction.operands[1], instruction.kind), block.read(instruction.operands[2], np.uint32)
        within = np.minimum(by, _bits(x) - 1).astype(x.dtype)
        if left:
            return np.where(by < _bits(x), x << within, x.dtype.type(0))
        return np.where((by < _bits(x)) | (x < 0), x >> within, x.dtype.type(0))

    return shift


def _insert_field(block: Registers, instruction: Instruction) -> np.ndarray:
    """The low bits of one number, at a place and of a length that the last two operands say, into another."""
    part, whole = (block.read(name, instruction.kind) for name in instruction.operands[1:3])
    first, length = ((block.read(name, np.uint32) & 255).astype(instruction.kind) for name in instruction.operands[3:])
    one = instruction.kind(1)
    ones = np.where(length < _bits(whole), (one << length) - one, ~instruction.kind(0))
    return whole & ~(ones << first) | (part & ones) << first


def _permute(block: Registers, instruction: Instruction) -> np.ndarray:
    """Any four of the eight bytes of two numbers; of one whose selector has its bit 3 set, the sign alone."""
    low, high, select = (block.read(name, np.uint32).astype(np.uint64) for name in instruction.operands[1:4])
    eight, result = low | high << np.uint64(32), np.zeros_like(low)
    for i in range(4):
        chosen = select >> np.uint64(4 * i) & np.uint64(15)
        byte = eight >> (chosen & np.uint64(7)) * np.uint64(8) & np.uint64(0xFF)
        sign = np.where(byte & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
        result |= np.where(chosen & np.uint64(8), sign, byte) << np.uint64(8 * i)
    return result.astype(np.uint32)


# ---- comparisons, choices, conversions -------------------------------------------------------------------------------

COMPARE: dict[str, Callable[..., Any]] = {
    "eq": np.equal, "ne": lambda x, y: (x < y) | (x > y), "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "num": lambda x, y: (x == x) & (y == y), "nan": lambda x, y: (x != x) | (y != y),
    # true of NaN too
    "equ": lambda x, y: ~((x < y) | (x > y)), "neu": np.not_equal, "ltu": lambda x, y: ~(x >= y),
    "leu": lambda x, y: ~(x > y), "gtu": lambda x, y: ~(x <= y), "geu": lambda x, y: ~(x < y),
}  # fmt: skip
COMBINE: dict[str, Callable[..., Any]] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
ROUND: dict[str, Callable[..., Any]] = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}


def _compare(block: Registers, instruction: Instruction) -> np.ndarray:
    """A comparison, perhaps joined with a predicate."""
    x, y = (block.read(name, instruction.kind) for name in instruction.operands[1:3])
    result = COMPARE[instruction.words[1]](x, y)
    if instruction.words[2] in COMBINE:
        result = COMBINE[instruction.words[2]](result, block.read(instruction.operands[3], np.bool_))
    return result


def _choose(block: Registers, instruction: Instruction) -> np.ndarray:
    yes, no = (block.read(name, instruction.kind) for name in instruction.operands[1:3])
    return np.where(block.read(instruction.operands[3], np.bool_), yes, no)


def _convert(block: Registers, instruction: Instruction) -> np.ndarray:
    """From the last word's type to the one before it."""
    to, of = instruction.words[-2:]
    x = block.read(instruction.operands[1], TYPES[of])
    if to == "tf32":  # 13 bits fewer, ties away from zero
        return x.view(np.uint32) + np.uint32(0x1000) & np.uint32(0xFFFFE000)
    if to == "bf16":
        return _bf16(x).astype(np.uint16)
    if to == "f16" and _is_float(x):
        return np.where(np.isnan(x), 0x7FFF, x.astype(np.float16).view(np.uint16)).astype(np.uint16)
    if to == "bf16x2":
        return _bf16(x) << np.uint32(16) | _bf16(block.read(instruction.operands[2], np.float32))
    rounding = next((ROUND[word] for word in instruction.words if word in ROUND), None)
    kind = np.dtype(TYPES[to])
    if kind.kind == "f" or not _is_float(x):
        return (rounding(x) if rounding else x).astype(kind)
    whole, limits = rounding(x.astype(np.float64)), np.iinfo(kind)  # type: ignore[misc]  # of what does not fit, the limit
    fits = (whole >= limits.min) & (whole <= limits.max) & (whole < 2.0 ** (limits.bits - (limits.min < 0)))
    converted = np.where(fits, whole, 0).astype(kind)
    limit = np.where(whole > 0, limits.max, limits.min).astype(kind)
    return np.where(fits | np.isnan(x), converted, limit)


def _bf16(x: np.ndarray) -> np.ndarray:
    """The upper half of float32, to nearest, ties to even; every NaN is one."""
    bits = x.view(np.uint32).astype(np.uint64)
    near = (bits + np.uint64(0x7FFF) + (bits >> np.uint64(16) & np.uint64(1)) >> np.uint64(16)).astype(np.uint32)
    return np.where(np.isnan(x), np.uint32(0x7FFF), near)


def _move(block: Registers, instruction: Instruction) -> Values:
    """A register, or parts of one joined or taken apart, the lowest first."""
    to, of = instruction.operands
    if of.startswith("{"):
        names = names_of(of)
        part = f"u{np.dtype(instruction.kind).itemsize // len(names)}"
        return np.stack([block.read(name, np.dtype(part).type) for name in names], axis=1).view(instruction.kind)[:, 0]
    whole = block.read(of, instruction.kind)
    if to.startswith("{"):
        parts = whole[:, None].view(f"u{whole.itemsize // len(names_of(to))}")
        return list(np.ascontiguousarray(parts.T))
    return whole.copy()


# ---- matrices --------------------------------------------------------------------------------------------------------


def sum_of_mma(exact: np.ndarray) -> np.ndarray:
    """The float32 nearest to a sum; tensor cores are reported to round it towards zero (tests put that in place)."""
    return exact.astype(np.float32)


def _mma(block: Registers, instruction: Instruction) -> list[np.ndarray]:
    """D = A B + C of 16 x K by K x 8, spread over a warp: lane l holds rows l//4 and l//4 + 8, columns about l%4."""
    a, b, c = (names_of(operand) for operand in instruction.operands[1:])
    lane = np.arange(WARP)
    row, column = lane // 4, lane % 4
    half = "bf16" in instruction.words  # two values of K in a register

    def parts(name: str) -> list[np.ndarray]:
        bits = block.read(name, np.uint32).reshape(-1, WARP)
        if half:
            return [(bits << np.uint32(16)).view(np.float32), (bits & np.uint32(0xFFFF0000)).view(np.float32)]
        return [(bits & np.uint32(0xFFFFE000)).view(np.float32)]  # tf32: the last 13 bits do not count

    warps, depth = len(block.read(a[0], np.uint32)) // WARP, 16 if half else 8
    A, B, C = np.zeros((warps, 16, depth)), np.zeros((warps, depth, 8)), np.zeros((warps, 16, 8))
    for i, name in enumerate(a):
        for j, part in enumerate(parts(name)):
            A[:, row + i % 2 * 8, column * (1 + half) + j + i // 2 * depth // 2] = part
    for i, name in enumerate(b):
        for j, part in enumerate(parts(name)):
            B[:, column * (1 + half) + j + i * depth // 2, row] = part
    places = [(row + i // 2 * 8, 2 * column + i % 2) for i in range(4)]
    for name, place in zip(c, places, strict=True):
        C[:, *place] = block.read(name, np.float32).reshape(-1, WARP)
    D = sum_of_mma(A @ B + C)
    return [D[:, *place].reshape(-1) for place in places]


# ---- the table -------------------------------------------------------------------------------------------------------


def _row(modifiers: str, compute: Callable[[Registers, Instruction], Values]) -> Row:
    return Row(frozenset(modifiers.split()), compute)


def _both(of_integers: Callable[..., Any], of_floats: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: (of_floats if _is_float(values[0]) else of_integers)(*values)


def _approximated(function: Callable[..., Any]) -> Row:
    """A function that a GPU approximates, or rounds right with `rn`."""
    return _row("approx ftz rn", _plain(lambda x: function(x.astype(np.float64)).astype(np.float32)))


TABLE: dict[str, Row] = {
    "mov": _row("", _move),
    "cvta": _row("to global shared", _move),  # addresses are the same in every space
    "cvt": _row("rn rna " + " ".join([*ROUND, "tf32", "bf16", "bf16x2"]), _convert),
    "add": _row("rn", _plain(np.add)),
    "sub": _row("rn", _plain(np.subtract)),
    "neg": _row("", _plain(np.negative)),
    "abs": _row("", _plain(np.abs)),
    "min": _row("", _plain(_both(np.minimum, np.fmin))),  # of a number and NaN, the number
    "max": _row("", _plain(_both(np.maximum, np.fmax))),
    "mul": _row("rn lo hi wide", _multiply),
    "mad": _row("lo hi wide", _multiply_add),
    "fma": _row("rn", _plain(_fma)),
    "div": _row("rn", _plain(_divide)),
    "rem": _row("", _plain(np.fmod)),
    "and": _row("", _plain(np.bitwise_and)),
    "or": _row("", _plain(np.bitwise_or)),
    "xor": _row("", _plain(np.bitwise_xor)),
    "not": _row("", _plain(np.invert)),
    "shl": _row("", _shift(left=True)),
    "shr": _row("", _shift(left=False)),
    "bfi": _row("", _insert_field),
    "prmt": _row("", _permute),
    "setp": _row(" ".join([*COMPARE, *COMBINE]), _compare),
    "selp": _row("", _choose),
    "copysign": _row("", _plain(lambda sign, x: np.copysign(x, sign))),
    "rcp": _approximated(np.reciprocal),
    "sqrt": _approximated(np.sqrt),
    "rsqrt": _approximated(lambda x: 1 / np.sqrt(x)),
    "ex2": _approximated(np.exp2),
    "lg2": _approximated(np.log2),
    "sin": _approximated(np.sin),
    "cos": _approximated(np.cos),
    "tanh": _approximated(np.tanh),
    "mma": _row("sync aligned m16n8k8 m16n8k16 row col tf32 bf16", _mma),
}


def strange_words(instruction: Instruction, modifiers: frozenset[str]) -> list[str]:
    """The words of an instruction, after its first, that are neither a type nor among those of its row."""
    return [word for word in instruction.words[1:] if word not in modifiers and word not in TYPES]
