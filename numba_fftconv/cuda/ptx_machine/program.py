"""A PTX module, read: the instructions of one kernel, each with the line of source that it was made of.

PTX is the assembly language that NVVM and nvcc make of a kernel, before a driver or nvJitLink makes machine code of it:

    @%p1 ld.global.v2.f32  {%f1, %f2}, [%rd3+8];
      |          |              |          `---- sources
      |          |              `---- destinations
      |          `---- words, the type last
      `---- predicate: threads in which it is false do nothing

Source: NVIDIA, Parallel Thread Execution ISA, chapters 4 (syntax) and 9 (instructions).
"""

import re
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from ...integers import round_up

TYPES: dict[str, Any] = {
    "pred": np.bool_, "b8": np.uint8, "u8": np.uint8, "s8": np.int8, "b16": np.uint16, "u16": np.uint16,
    "s16": np.int16, "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "b64": np.uint64, "u64": np.uint64,
    "s64": np.int64, "f16": np.float16, "f32": np.float32,
}  # fmt: skip
REGISTERS = TYPES | {"f64": np.uint64}  # a register may be declared and never used

_PARAMETER = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?")
_CONSTANT = re.compile(r"\.const\s+\.align\s+\d+\s+\.b8\s+([\w$]+)\[\d+\]\s*=\s*\{([\d,\s]*)\}")
_SHARED = re.compile(r"\.shared\s+\.align\s+\d+\s+\.b8\s+([\w$]+)\[(\d*)\]")
_REGISTER = re.compile(r"\.reg\s+\.(\w+)\s+(.*)")
_LABEL = re.compile(r"([$\w]+):\s*")
_STATEMENT = re.compile(r"(?:@(!?)([%\w]+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)
_OUTSIDE_BRACKETS = re.compile(r",(?![^{\[]*[}\]])")


class MachineError(Exception):
    """What stops the machine that runs a program; the message names the line of source."""


class Instruction(NamedTuple):
    """`vector` operands, {a, b}, stay one operand."""

    words: tuple[str, ...]
    operands: tuple[str, ...]
    predicate: tuple[str, bool] | None  # a register, and whether it is negated
    line: str  # "fft2d.py:258", "" where the module does not say

    @property
    def kind(self) -> Any:
        """The NumPy type that the last word names."""
        return TYPES[self.words[-1]]

    def __str__(self) -> str:
        text = f"{'.'.join(self.words)} {', '.join(self.operands)}".strip()
        return f"{self.line}: {text}" if self.line else text


class Parameter(NamedTuple):
    """Where an argument lies among the bytes of all."""

    name: str
    offset: int
    size: int
    is_struct: bool


class Program:
    """One kernel of a module: the one called `name`, or the only one.

    code : instructions. labels : indices into them. parameters : of `parameter_bytes` in all.
    registers : the NumPy type of a register, by its name without the number.
    constants : bytes of all arrays in constant memory. constant_places : where in them each begins.
    static : shared arrays by name, with their bytes. dynamic : names of the one whose size a launch says.
    """

    def __init__(self, ptx: str, name: str | None = None) -> None:
        ptx = re.sub(r"/\*.*?\*/|//[^\n]*", "", ptx, flags=re.DOTALL)
        entries = [entry for entry in re.finditer(r"\.entry\s+([\w$]+)\s*\(", ptx) if name in (None, entry[1])]
        if len(entries) != 1:
            raise ValueError(f"the module has {len(entries)} kernels{f' called {name}' if name else ''}, not one")
        self.name = entries[0][1]
        header, _, rest = ptx[entries[0].end() :].partition("{")
        self.parameters: list[Parameter] = []
        self.parameter_bytes = 0
        for align, kind, parameter, count in _PARAMETER.findall(header):
            self._add_parameter(parameter, np.dtype(TYPES[kind]).itemsize, int(align or 0), int(count or 0))
        self.constants, self.constant_places = np.zeros(0, np.uint8), dict[str, int]()
        for array, values in _CONSTANT.findall(ptx):
            start = round_up(len(self.constants), 16)
            self.constant_places[array] = start
            gap = np.zeros(start - len(self.constants), np.uint8)
            self.constants = np.concatenate([self.constants, gap, np.array(values.split(","), np.uint8)])
        shared = [(array, int(size or 0)) for array, size in _SHARED.findall(ptx)]
        self.static = {array: size for array, size in shared if size}
        self.dynamic = [array for array, size in shared if not size]
        files = {number: PurePath(path).name for number, path in re.findall(r'\.file\s+(\d+)\s+"(.*?)"', ptx)}
        self.code: list[Instruction] = []
        self.labels: dict[str, int] = {}
        self.registers: dict[str, Any] = {}
        self._read(_until_closed(rest), files)

    def _add_parameter(self, name: str, size: int, align: int, count: int) -> None:
        offset = round_up(self.parameter_bytes, align or size)
        self.parameters.append(Parameter(name, offset, size * (count or 1), bool(count)))
        self.parameter_bytes = offset + size * (count or 1)

    def _read(self, body: str, files: dict[str, str]) -> None:
        line = ""
        for text in body.splitlines():
            if location := re.match(r"\s*\.loc\s+(\d+)\s+(\d+)", text):
                line = f"{files[location[1]]}:{location[2]}" if location[2] != "0" else line
                continue
            for statement in text.split(";"):
                statement = statement.strip().lstrip("{} \t")
                while label := _LABEL.match(statement):
                    self.labels[label[1]] = len(self.code)
                    statement = statement[label.end() :]
                if register := _REGISTER.match(statement):
                    names = (re.sub(r"<\d+>", "", name).strip() for name in register[2].split(","))
                    self.registers |= dict.fromkeys(names, REGISTERS[register[1]])
                elif found := _STATEMENT.fullmatch(statement):
                    predicate = (found[2], bool(found[1])) if found[2] else None
                    operands = tuple(part.strip() for part in _OUTSIDE_BRACKETS.split(found[4]) if part.strip())
                    self.code.append(Instruction(tuple(found[3].split(".")), operands, predicate, line))


def names_of(vector: str) -> list[str]:
    """The registers of a vector operand, {a, b}; of another operand, itself."""
    return [name.strip() for name in vector.strip("{}").split(",")]


def _until_closed(text: str) -> str:
    """What stands before the brace that closes the one before the text."""
    depth = 1
    for brace in re.finditer(r"[{}]", text):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return text[: brace.start()]
    raise ValueError("the module ends within a kernel")
