"""Runs the PTX of a kernel, as the compiler made it, on the CPU: one block at a time, all its threads side by side.

A thread is a lane of NumPy arrays. Those with the least program counter go on together, so that branches that part meet
again. A register is kept as bits and read by the type that an instruction names. What the simulator of Python cannot
see shows here: integers cut to 32 bits, wrong literals, alignment, vector accesses, arguments as they are passed.

Every access is checked: it must lie within one of the arrays given and at a multiple of its size. Data of a cp.async
arrives in shared memory at the wait that covers its group and not before, so that a wait that is missing, or counts
wrongly, shows as a wrong result; shared memory begins as NaN. Races between the barriers are not modelled.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np

from numba_fftconv.cuda.toolchain import Kernel, build

TYPES: dict[str, Any] = {
    "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "b64": np.uint64, "u64": np.uint64, "s64": np.int64,
    "f32": np.float32, "b16": np.uint16, "u16": np.uint16, "s16": np.int16, "pred": np.bool_,
}  # fmt: skip
WIDER: dict[Any, Any] = {np.int32: np.int64, np.uint32: np.uint64}
GLOBAL, SHARED = 0x7F0000000000, 0x400  # first addresses
GUARD = 256  # bytes around every array, which nothing may touch

BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "min": np.minimum, "max": np.maximum, "div": np.floor_divide, "rem": np.remainder,
}  # fmt: skip
COMPARE: dict[str, Callable[..., Any]] = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "ltu": lambda x, y: ~(x >= y), "leu": lambda x, y: ~(x > y),  # true of NaN
    "gtu": lambda x, y: ~(x <= y), "geu": lambda x, y: ~(x < y),
}  # fmt: skip


def operands(text: str) -> list[str]:
    """Split at the commas that stand outside of brackets."""
    return [part.strip() for part in re.split(r",(?![^{\[]*[}\]])", text) if part.strip()]


class Program:
    """The one kernel of a PTX module: instructions (opcode parts, operands, predicate), labels, parameters, symbols."""

    def __init__(self, ptx: str) -> None:
        entry = re.search(r"\.entry\s+\S+?\((.*?)\)(.*?)\{(.*)\n\}", ptx, re.DOTALL)
        assert entry
        self.parameters = [(TYPES[kind], name) for kind, name in re.findall(r"\.param \.(\w+) ([\w$]+)", entry[1])]
        self.static = {name: int(size) for name, size in re.findall(r"\.shared \.align \d+ \.b8 (\w+)\[(\d+)\]", ptx)}
        self.dynamic = re.findall(r"\.extern \.shared \.align \d+ \.b8 (\w+)\[\]", ptx)
        self.code: list[tuple[list[str], list[str], tuple[str, bool] | None]] = []
        self.labels: dict[str, int] = {}
        for line in re.sub(r"//.*", "", entry[3]).splitlines():
            line = line.strip()
            if label := re.match(r"(\$\w+):", line):
                self.labels[label[1]] = len(self.code)
                line = line[label.end() :].strip()
            found = re.match(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*?);$", line)
            if found:
                predicate = (found[2], bool(found[1])) if found[2] else None
                self.code.append((found[3].split("."), operands(found[4]), predicate))


class Block:
    """One block of threads in the middle of its run."""

    def __init__(
        self,
        program: Program,
        place: tuple[int, ...],
        grid: tuple[int, ...],
        threads: int,
        shared_bytes: int,
        memory: "Addressed",
        values: dict[str, int],
    ) -> None:
        self.program, self.threads, self.memory, self.values = program, threads, memory, values
        self.registers: dict[str, np.ndarray] = {}
        self.symbols = dict.fromkeys(program.dynamic, SHARED)
        top = SHARED + shared_bytes
        for name, size in program.static.items():
            self.symbols[name], top = (top + 15) // 16 * 16, (top + 15) // 16 * 16 + size
        self.shared = np.full(top - SHARED, 0xFF, np.uint8)
        lane = np.arange(threads, dtype=np.uint32)
        self.special = {
            "%tid.x": lane,
            "%tid.y": 0 * lane,
            "%tid.z": 0 * lane,
            "%ntid.x": 0 * lane + np.uint32(threads),
        }
        for axis, at, extent in zip("xyz", place, grid, strict=True):
            self.special[f"%ctaid.{axis}"] = np.full(threads, at, np.uint32)
            self.special[f"%nctaid.{axis}"] = np.full(threads, extent, np.uint32)
        self.special["%dynamic_smem_size"] = np.full(threads, shared_bytes, np.uint32)
        self.open: list[tuple[np.ndarray, np.ndarray]] = []
        self.groups: list[list[tuple[np.ndarray, np.ndarray]]] = []

    def get(self, name: str, kind: Any) -> np.ndarray:
        """An operand of all threads, by its bits or, a literal, by its value."""
        if name in self.special:
            return self.special[name].astype(kind)
        if name.startswith("%"):
            bits = self.registers[name]
            return bits if bits.dtype == kind else bits.view(kind)
        return np.full(self.threads, self.literal(name, kind))

    @cache  # noqa: B019
    def literal(self, name: str, kind: Any) -> Any:
        if name in self.symbols:
            return kind(self.symbols[name])
        if name.startswith("0f"):
            return np.array(int(name[2:], 16), np.uint32).view(np.float32)[()]
        if kind == np.bool_:
            return np.bool_(int(name, 0))
        size = np.dtype(kind).itemsize
        return np.array(int(name, 0) & ((1 << 8 * size) - 1), f"u{size}").view(kind)[()]

    def put(self, name: str, value: np.ndarray, active: np.ndarray) -> None:
        if name.startswith("%rd") and value.dtype.itemsize == 4:  # a load extends by its type
            value = value.astype(WIDER[value.dtype.type])
        bits = value if value.dtype == np.bool_ else value.view(f"u{value.dtype.itemsize}")
        if name not in self.registers:
            self.registers[name] = np.zeros(self.threads, bits.dtype)
        np.copyto(self.registers[name], bits, where=active, casting="no")

    def address(self, text: str) -> np.ndarray:
        base, offset = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", text).groups()  # type: ignore[union-attr]
        if not base.startswith("%"):
            start = np.full(self.threads, self.symbols[base], np.int64)
        else:
            start = self.registers[base].astype(np.int64)
        return start + int(offset or 0)

    def bytes_at(self, space: str, address: np.ndarray, size: int) -> np.ndarray:
        """Indices of the bytes of an access, one row a thread, checked."""
        if (address % size).any():
            raise ValueError(f"{space} access of {size} bytes that are not aligned")
        if space == "global":
            return self.memory.checked(address, size)
        if (address < SHARED).any() or (address + size > SHARED + len(self.shared)).any():
            raise IndexError("shared address out of range")
        return (address - SHARED)[:, None] + np.arange(size)

    def run(self) -> None:
        code, end = self.program.code, len(self.program.code)
        counter = np.zeros(self.threads, np.int64)
        with np.errstate(all="ignore"):
            while (at := int(counter.min())) < end:
                active = counter == at
                op, arguments, predicate = code[at]
                if predicate:
                    active = active & (self.registers[predicate[0]] ^ predicate[1])
                counter[counter == at] += 1
                if op[0] == "bra":
                    counter[active] = self.program.labels[arguments[0]]
                elif op[0] == "ret":
                    counter[active] = end
                elif active.any():
                    self.step(op, arguments, active)

    def step(self, op: list[str], arguments: list[str], active: np.ndarray) -> None:
        if op[0] in ("ld", "st") and op[1] != "param":
            self.move(op, arguments, active)
        elif op[0] == "cp":
            self.copy(op, arguments, active)
        elif op[0] == "bar":
            assert active.all(), "a barrier that some threads do not reach"
        else:
            self.put(arguments[0], self.result(op, arguments), active)

    def result(self, op: list[str], arguments: list[str]) -> np.ndarray:
        """The value of an instruction on registers."""
        word, kind, given = op[0], TYPES[op[-1]], arguments[1:]
        if word == "ld":
            size = np.dtype(kind).itemsize
            bits = self.values[given[0].strip("[]")] & ((1 << 8 * size) - 1)
            return np.full(self.threads, bits, f"u{size}").view(kind)
        if word in ("mov", "cvta"):
            return self.get(given[0], kind).copy()
        if word == "cvt":
            return self.get(given[0], kind).astype(TYPES[op[-2]])
        if word == "setp":
            return COMPARE[op[1]](self.get(given[0], kind), self.get(given[1], kind))
        if word == "selp":
            return np.where(self.get(given[2], np.bool_), self.get(given[0], kind), self.get(given[1], kind))
        if word in ("shl", "shr"):
            x, by = self.get(given[0], kind), self.get(given[1], np.uint32).astype(kind)
            return x << by if word == "shl" else x >> by
        if word == "bfi":
            part, whole = self.get(given[0], kind), self.get(given[1], kind)
            first, bits = (int(self.get(x, np.uint32)[0]) for x in given[2:])
            mask = kind(((1 << bits) - 1) << first)
            return (whole & ~mask) | (part << kind(first)) & mask
        values = [self.get(x, kind) for x in given]
        if word in ("neg", "not"):
            return -values[0] if word == "neg" else ~values[0]
        if word == "fma":
            x, y, z = (v.astype(np.float64) for v in values)  # the product is exact
            return (x * y + z).astype(np.float32)
        if word in ("mul", "mad"):
            if op[1] == "wide":
                values[:2] = [v.astype(WIDER[kind]) for v in values[:2]]
                values[2:] = [self.get(x, WIDER[kind]) for x in given[2:]]
            product = values[0] * values[1]
            return product + values[2] if word == "mad" else product
        return BINARY[word](*values)

    def move(self, op: list[str], arguments: list[str], active: np.ndarray) -> None:
        """ld and st, of one value or a vector."""
        space, kind = "shared" if "shared" in op else "global", TYPES[op[-1]]
        names = arguments[0 if op[0] == "ld" else 1].strip("{} ").replace(" ", "").split(",")
        width = np.dtype(kind).itemsize
        where = self.bytes_at(space, self.address(arguments[1 if op[0] == "ld" else 0])[active], width * len(names))
        store = self.shared if space == "shared" else self.memory.data
        if op[0] == "ld":
            loaded = store[where].view(kind)
            for i, name in enumerate(names):
                whole = np.zeros(self.threads, kind)
                whole[active] = loaded[:, i]
                self.put(name, whole, active)
        else:
            values = np.stack([self.get(name, kind)[active] for name in names], axis=1)
            store[where] = np.ascontiguousarray(values).view(np.uint8).reshape(where.shape)

    def copy(self, op: list[str], arguments: list[str], active: np.ndarray) -> None:
        """cp.async: its data waits in a group for the wait that delivers it."""
        if "commit_group" in op or "wait_group" in op:
            assert active.all(), "groups are counted as if all threads made the same"
        if "commit_group" in op:
            self.groups.append(self.open)
            self.open = []
        elif "wait_group" in op:
            while len(self.groups) > int(arguments[0]):
                for where, data in self.groups.pop(0):
                    self.shared[where] = data
        else:
            size = int(arguments[2])
            wanted = self.get(arguments[3], np.uint32)[active]
            assert set(wanted.tolist()) <= {0, size}, "copies are whole or nothing"
            where = self.bytes_at("shared", self.address(arguments[0])[active], size)
            data = np.zeros(where.shape, np.uint8)
            source = self.address(arguments[1])[active][wanted > 0]
            data[wanted > 0] = self.memory.data[self.bytes_at("global", source, size)]
            self.open.append((where, data))


class Addressed(Protocol):
    """Global memory: bytes, and the indices of those that an access of `size` bytes at an address meets, checked."""

    data: np.ndarray

    def checked(self, address: np.ndarray, size: int) -> np.ndarray: ...


class Memory:
    """Global memory that holds copies of some arrays, with gaps of forbidden bytes between them."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.starts, top = [], GUARD
        for array in arrays:
            self.starts.append(top)
            top = (top + array.nbytes + GUARD + 255) // 256 * 256
        self.data = np.full(top, 0xFF, np.uint8)
        self.owner = np.full(top, -1, np.int32)
        for i, (start, array) in enumerate(zip(self.starts, arrays, strict=True)):
            self.data[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
            self.owner[start : start + array.nbytes] = i

    def checked(self, address: np.ndarray, size: int) -> np.ndarray:
        at = address - GLOBAL
        if (at < 0).any() or (at + size > len(self.data)).any():
            raise IndexError("global address out of range")
        if (self.owner[at] < 0).any() or (self.owner[at] != self.owner[at + size - 1]).any():
            raise IndexError("global address outside of the arrays")
        return at[:, None] + np.arange(size)


def execute(
    program: Program,
    grid: tuple[int, int, int],
    threads: int,
    shared_bytes: int,
    memory: Addressed,
    values: Sequence[int],
) -> None:
    """Run all blocks of a kernel on its parameters as bits: numbers, and addresses in the memory."""
    named = {name: value for (_, name), value in zip(program.parameters, values, strict=True)}
    for z in range(grid[2]):
        for y in range(grid[1]):
            for x in range(grid[0]):
                Block(program, (x, y, z), grid, threads, shared_bytes, memory, named).run()


@cache
def ptx_of(kernel: Kernel) -> str:
    """What is run: the code for sm_90."""
    return build(kernel, (9, 0)).ptx


def run(kernel: Kernel, grid: tuple[int, int, int], arguments: tuple[Any, ...], ptx: str | None = None) -> None:
    """Run a kernel, or `ptx` in its place: arrays are pointers to themselves, None is the null pointer, and NamedTuples
    are passed field by field."""
    flat: list[Any] = []
    for argument in arguments:
        flat += argument if isinstance(argument, tuple) else [argument]
    arrays = [x for x in flat if isinstance(x, np.ndarray)]
    memory = Memory(arrays)
    addresses = iter(memory.starts)
    values = [GLOBAL + next(addresses) if isinstance(x, np.ndarray) else _bits(x) for x in flat]
    program = Program(ptx_of(kernel) if ptx is None else ptx)
    execute(program, grid, kernel.threads, kernel.shared_bytes, memory, values)
    for start, array in zip(memory.starts, arrays, strict=True):
        array.reshape(-1).view(np.uint8)[:] = memory.data[start : start + array.nbytes]


def _bits(value: Any) -> int:
    """A number as a kernel gets it: floats are float32."""
    if isinstance(value, float | np.floating):
        return int(np.float32(value).view(np.uint32))
    return 0 if value is None else int(value)
