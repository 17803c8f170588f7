"""One block of a program in PTX, all its threads side by side.

A thread is a lane of NumPy arrays. Those with the least program counter go on together, so that branches that part meet
again. A register is bits; shared memory begins as NaN, every byte 0xFF, and its races are found (races.py); data of a
cp.async arrives at the wait that covers its group and not before, so that a wait that is missing, or counts wrongly,
shows. A barrier that not all threads reach is an error, and so is a register that is read before it is written.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...gpus import WARP
from ...integers import round_up
from .program import Instruction, MachineError, Program, names_of
from .races import RaceError, Races
from .table import TABLE, Values, strange_words

SHARED = 0x400  # the first address of shared memory
CONSTANT = 0x10000  # of constant memory: a space of its own, as every address names its space

# Instructions that are the machine's own, with the words that may follow the first.
OWN: dict[str, frozenset[str]] = {
    "ld": frozenset(["param", "global", "shared", "const", "nc", "v2", "v4"]),
    "st": frozenset(["global", "shared", "v2", "v4"]),
    "cp": frozenset(["async", "cg", "ca", "shared", "global", "commit_group", "wait_group"]),
    "bar": frozenset(["sync"]),
    "barrier": frozenset(["sync", "aligned"]),
    "bra": frozenset(["uni"]),
    "ret": frozenset(["uni"]),
    "exit": frozenset(),
}


class AccessError(MachineError, IndexError):
    """An access outside of what there is."""


class AlignmentError(MachineError, ValueError):
    """An access at an address that its size does not divide."""


class BarrierError(MachineError):
    """A barrier that some threads do not reach, or reach elsewhere."""


class UnknownInstructionError(MachineError, NotImplementedError):
    """An instruction that this machine does not know."""


class Observer:
    """Sees what a program does; to be derived from."""

    def step(self, instruction: Instruction, active: np.ndarray) -> None:
        """An instruction is executed by the active threads, one bool each."""

    def access(self, instruction: Instruction, space: str, address: np.ndarray, size: int, thread: np.ndarray) -> None:
        """These threads access so many bytes each, at these addresses of "global", "shared" or "const" memory."""


class Addressed(Protocol):
    """Global memory: bytes, and the indices of those that accesses of `size` bytes meet, or IndexError."""

    data: np.ndarray

    def checked(self, address: np.ndarray, size: int) -> np.ndarray: ...


class Copied(NamedTuple):
    """What a cp.async brings: to which bytes of shared memory, whose, what."""

    instruction: Instruction
    byte: np.ndarray
    size: int
    thread: np.ndarray
    data: np.ndarray


class Launch(NamedTuple):
    """What all blocks of a launch share; `parameters` are bytes, `threads` those of a block on three axes."""

    program: Program
    grid: Sequence[int]
    threads: Sequence[int]
    shared_bytes: int
    memory: Addressed
    parameters: np.ndarray
    observer: Observer


class Block:
    """One block of threads in the middle of its run: what its registers and its shared memory hold."""

    def __init__(self, launch: Launch, place: Sequence[int]) -> None:
        self.program, self.memory, self.observer = launch.program, launch.memory, launch.observer
        self.parameters, threads = launch.parameters, launch.threads
        self.threads = threads[0] * threads[1] * threads[2]
        self.counter, self.waits = np.zeros(self.threads, np.int64), np.zeros(self.threads, np.bool_)
        self.registers: dict[str, np.ndarray] = {}
        self.symbols = dict.fromkeys(self.program.dynamic, SHARED)
        self.symbols |= {name: CONSTANT + place for name, place in self.program.constant_places.items()}
        top = SHARED + launch.shared_bytes
        for name, size in self.program.static.items():
            self.symbols[name] = round_up(top, 16)
            top = self.symbols[name] + size
        self.shared = np.full(top - SHARED, 0xFF, np.uint8)
        self.races = Races(len(self.shared))
        lane = np.arange(self.threads, dtype=np.uint32)
        z, y, x = (index.astype(np.uint32) for index in np.unravel_index(lane, tuple(reversed(threads))))
        self.special = {"%tid.x": x, "%tid.y": y, "%tid.z": z, "%laneid": lane % np.uint32(WARP)}
        for axis, at, extent, size in zip("xyz", place, launch.grid, threads, strict=True):
            self.special[f"%ctaid.{axis}"] = np.full_like(lane, at)
            self.special[f"%nctaid.{axis}"] = np.full_like(lane, extent)
            self.special[f"%ntid.{axis}"] = np.full_like(lane, size)
        self.special["%dynamic_smem_size"] = np.full_like(lane, launch.shared_bytes)
        self.open: list[Copied] = []
        self.groups: list[list[Copied]] = []

    # ---- registers

    def read(self, name: str, kind: Any) -> np.ndarray:
        """A register's bits as a type that is no wider, a literal, an address of shared memory."""
        if name in self.special:
            return self.special[name].astype(kind)
        if not name.startswith("%"):
            return np.full(self.threads, self.literal(name, kind))
        if name not in self.registers:
            raise MachineError(f"{name} is read before it is written")
        bits, size = self.registers[name], np.dtype(kind).itemsize
        return (bits if bits.itemsize == size else bits.astype(f"u{size}")).view(kind)

    def literal(self, name: str, kind: Any) -> Any:
        if name in self.symbols:
            return kind(self.symbols[name])
        if name.startswith("0f"):
            return np.array(int(name[2:], 16), np.uint32).view(kind)[()]
        bits = 8 * np.dtype(kind).itemsize
        return kind(int(name, 0)) if kind == np.bool_ else _integer(int(name, 0), bits).view(kind)

    def put(self, names: str, values: Values, active: np.ndarray) -> None:
        """Write a register, or several, of the active threads; a value narrower than its register is extended."""
        if isinstance(values, list):
            for name, value in zip(names_of(names), values, strict=True):
                self.put(name, value, active)
        elif names != "_":
            kind = self.program.registers.get(names) or self.program.registers[names.rstrip("0123456789")]
            if kind != np.bool_ and np.dtype(kind).itemsize != values.itemsize:
                signed = "i" if values.dtype.kind == "i" else "u"
                values = values.astype(f"{signed}{np.dtype(kind).itemsize}")
            bits = values if kind == np.bool_ else values.view(f"u{values.itemsize}")
            if names not in self.registers:
                self.registers[names] = ~np.zeros_like(bits)  # NaN, where nobody has written
            np.copyto(self.registers[names], bits, where=active, casting="no")

    # ---- control

    def run(self) -> None:
        """All threads to their end."""
        code, end = self.program.code, len(self.program.code)
        while True:
            at = int(np.where(self.waits, end, self.counter).min())
            if at == end:
                if not self.waits.any():
                    return
                self.meet()
                continue
            instruction, active = code[at], self.counter == at
            self.counter[active] += 1
            try:
                if instruction.predicate:
                    name, negated = instruction.predicate
                    active = active & (self.read(name, np.bool_) ^ negated)
                if active.any():
                    self.observer.step(instruction, active)
                    self.step(instruction, active)
            except RaceError:
                raise
            except MachineError as error:
                raise type(error)(f"{instruction}: {error}") from None
            except IndexError as error:
                raise AccessError(f"{instruction}: {error}") from None

    def meet(self) -> None:
        """Nobody can go on: all threads stand behind one barrier, or something is wrong."""
        places = [self.program.code[i - 1] for i in np.unique(self.counter[self.waits])]
        if len(places) > 1:
            raise BarrierError(f"some threads wait at {places[0]}, others at {places[1]}")
        if not self.waits.all():
            gone = int(np.argmin(self.waits))
            raise BarrierError(f"{places[0]}: thread {gone} has ended, and {self.waits.sum()} others wait")
        self.waits[:] = False
        self.races.barrier()

    def step(self, instruction: Instruction, active: np.ndarray) -> None:
        """One instruction of the active threads."""
        match instruction.words:
            case "bra", *_:
                self.counter[active] = self.program.labels[instruction.operands[0]]
            case "ret" | "exit", *_:
                self.counter[active] = len(self.program.code)
            case "bar" | "barrier", *_:
                self.waits |= active
            case "ld", "param", *_:
                self.put(instruction.operands[0], self.parameter(instruction), active)
            case "ld" | "st", *_:
                self.move(instruction, active)
            case "cp", "async", "commit_group" | "wait_group":
                self.wait(instruction, active)
            case "cp", *_:
                self.copy(instruction, active)
            case word, *_:
                if word == "mma" and len({*active.reshape(-1, WARP).sum(axis=1)} - {0, WARP}):
                    raise MachineError("some threads of a warp are elsewhere")
                self.put(instruction.operands[0], TABLE[word].compute(self, instruction), active)

    # ---- memory

    def address(self, text: str) -> np.ndarray:
        """Of [register], [register+number] or [symbol+number]."""
        base, _, offset = text.strip("[] ").partition("+")
        return self.read(base.strip(), np.uint64).astype(np.int64) + int(offset or 0)

    def parameter(self, instruction: Instruction) -> Values:
        name, _, offset = instruction.operands[1].strip("[] ").partition("+")
        start = next(p.offset for p in self.program.parameters if p.name == name.strip()) + int(offset or 0)
        count, size = _count(instruction), np.dtype(instruction.kind).itemsize
        values = self.parameters[start : start + count * size].view(instruction.kind)
        each = [np.full(self.threads, value) for value in values]
        return each if instruction.operands[0].startswith("{") else each[0]

    def bytes_at(
        self, instruction: Instruction, space: str, address: np.ndarray, size: int, thread: np.ndarray
    ) -> np.ndarray:
        """Indices of the bytes of an access, one row a thread, checked."""
        if (address % size).any():
            wrong = int((address % size).argmax())
            raise AlignmentError(
                f"thread {thread[wrong]} accesses {size} bytes of {space} memory at {address[wrong]:#x}, not aligned"
            )
        self.observer.access(instruction, space, address, size, thread)
        if space == "global":
            return self.memory.checked(address, size)
        first, extent = (SHARED, len(self.shared)) if space == "shared" else (CONSTANT, len(self.program.constants))
        outside = (address < first) | (address + size > first + extent)
        if outside.any():
            wrong = int(outside.argmax())
            raise AccessError(
                f"{space} address out of range: thread {thread[wrong]} accesses {size} bytes from"
                f" {address[wrong] - first} of {extent}"
            )
        return (address - first)[:, None] + np.arange(size)

    def move(self, instruction: Instruction, active: np.ndarray) -> None:
        """ld and st, of one value or a vector."""
        loads = instruction.words[0] == "ld"
        register, place = instruction.operands if loads else reversed(instruction.operands)
        space = next((word for word in ("global", "shared", "const") if word in instruction.words), None)
        if space is None:
            raise UnknownInstructionError("an access that may be to any memory: the compiler did not see which")
        kind, count = instruction.kind, _count(instruction)
        size, thread = count * np.dtype(kind).itemsize, np.flatnonzero(active)
        where = self.bytes_at(instruction, space, self.address(place)[active], size, thread)
        store = {"global": self.memory.data, "shared": self.shared, "const": self.program.constants}[space]
        if space == "shared":
            (self.races.read if loads else self.races.write)(instruction, where[:, 0], size, thread)
        if loads:
            found = np.zeros((count, self.threads), kind)
            found[:, active] = store[where].view(kind).T
            self.put(register, list(found) if register.startswith("{") else found[0], active)
        else:
            values = np.stack([self.read(name, kind)[active] for name in names_of(register)], axis=1)
            store[where] = np.ascontiguousarray(values).view(np.uint8).reshape(where.shape)

    def copy(self, instruction: Instruction, active: np.ndarray) -> None:
        """cp.async: its data waits in a group for the wait that delivers it; bytes beyond those to be read are zero."""
        to, source, size = instruction.operands[:3]
        nbytes, thread = int(size), np.flatnonzero(active)
        wanted = self.read(instruction.operands[3], np.uint32)[active] if len(instruction.operands) > 3 else None
        reads = np.full(len(thread), nbytes) if wanted is None else wanted
        if not np.isin(reads, (0, nbytes)).all():
            raise MachineError("a copy of a part; this machine knows whole copies and zeros")
        where = self.bytes_at(instruction, "shared", self.address(to)[active], nbytes, thread)
        self.races.copy(instruction, where[:, 0], nbytes, thread)
        data, some = np.zeros(where.shape, np.uint8), reads > 0
        found = self.bytes_at(instruction, "global", self.address(source)[active][some], nbytes, thread[some])
        data[some] = self.memory.data[found]
        self.open.append(Copied(instruction, where[:, 0], nbytes, thread, data))

    def wait(self, instruction: Instruction, active: np.ndarray) -> None:
        """Close a group of copies, or deliver all but the last so many."""
        if not active.all():
            raise MachineError("not all threads are here, and groups are counted as if all made the same")
        if "commit_group" in instruction.words:
            self.groups.append(self.open)
            self.open = []
            return
        while len(self.groups) > int(instruction.operands[0]):
            for copied in self.groups.pop(0):
                self.races.arrive(copied.instruction, copied.byte, copied.size, copied.thread)
                self.shared[copied.byte[:, None] + np.arange(copied.size)] = copied.data


def _count(instruction: Instruction) -> int:
    """Values of a vector."""
    return 4 if "v4" in instruction.words else 2 if "v2" in instruction.words else 1


def _integer(value: int, bits: int) -> np.ndarray:
    """The low bits of an integer, of any sign."""
    return np.array(value & ((1 << bits) - 1), f"u{bits // 8}")[()]


def refuse_unknown(program: Program) -> None:
    """Raise UnknownInstructionError where a program has an instruction that neither table knows."""
    for instruction in program.code:
        word = instruction.words[0]
        if word in OWN:
            strange = strange_words(instruction, OWN[word])
        else:
            strange = strange_words(instruction, TABLE[word].modifiers) if word in TABLE else [word]
        if strange:
            raise UnknownInstructionError(f"{instruction}: this machine does not know {'.'.join(strange)}")
