"""Machine code, taken apart: registers, memory and instructions of a kernel, read off its cubin with NVIDIA's tools.

A cubin is all that a driver ever sees of a kernel, so what is counted here is what runs on a GPU; no GPU is needed.
`cuobjdump` says what a thread takes, `nvdisasm` prints SASS, a line an instruction:

    /*0a30*/              @!P0 LDG.E.64 R4, desc[UR8][R2.64+0x8] ;
                          |    `- the opcode with its modifiers: what is kept, and matched by regular expressions
                          `- a predicate

Opcodes: NVIDIA, CUDA Binary Utilities, section "Instruction Set Reference".
"""

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import UnsupportedError
from .cubins import binary
from .toolchain import Architecture, Kernel

# Classes of instructions, by expressions that match from an opcode's start; the first that matches has it.
CLASSES = {
    "FFMA": "FFMA",
    "FP32": "FADD|FMUL|FSETP|FSEL|FMNMX|FCHK",
    "tensor": r"[A-Z]G?MMA\b|UTC\w*MMA",
    "FP64": "D(ADD|MUL|FMA|SETP|SET|MNMX)|(F2F|I2F|F2I).*F64",
    "integer": "U?(IADD|IMAD|ISETP|LEA|LOP|SHF|SEL)|V?IMNMX|IABS|SHL|SHR|VIADD|R2P",
    "convert": "U?(I2F|F2I|F2F)|MUFU",  # and what the special function unit approximates
    "global": "LDG(?!DEPBAR)|STG|ATOMG|REDG?(?!UX)",
    "shared": "LDS|STS|ATOMS",
    "local": "LDL|STL",
    "generic": r"(LD|ST|ATOM)(\.|$)",  # accesses whose memory the compiler did not see
    "sync": "BAR|B(SSY|SYNC)|U?SYNCS|WARPSYNC|DEPBAR|LDGDEPBAR|MEMBAR",
    "branch": "BRA|BRX|JMP|CALL|RET|EXIT",
}
OTHER = "other"  # moves, constants, predicates, special registers
_COUNTED_BESIDES = 1024  # bytes of shared memory: the system's, which from sm_90 on cuobjdump adds to a kernel's own
_TOOLS = ("cuobjdump", "nvdisasm")

_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)(.*);")
_LABEL = re.compile(r"\s*(\.L_x_\d+):")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")


def count(names: Iterable[str], pattern: str) -> int:
    """Instructions whose opcode and modifiers match a regular expression from the start."""
    return sum(bool(re.match(pattern, name)) for name in names)


def classes(names: Iterable[str]) -> dict[str, int]:
    """How many instructions are of each class."""
    counts = dict.fromkeys([*CLASSES, OTHER], 0)
    for name in names:
        counts[next((label for label, pattern in CLASSES.items() if re.match(pattern, name)), OTHER)] += 1
    return counts


class Code(NamedTuple):
    """A compiled kernel. Instructions are opcodes with their modifiers, without what fills the last lines."""

    registers: int  # of a thread
    stack: int  # bytes of a thread: what is spilled, and arrays with indices that the compiler does not see
    local: int  # bytes of a thread, besides
    shared: int  # bytes of a block, but for dynamic ones
    instructions: list[str]
    loop: list[str]  # of the innermost loops the one with most FFMA, else the longest; empty where there is none
    ptx: str
    sass: str


def read(kernel: Kernel, architecture: Architecture) -> Code:
    """The machine code of a kernel as a GPU gets it."""
    made = binary(kernel, architecture)
    return take_apart(made.cubin, made.ptx, architecture)


def take_apart(cubin: bytes, ptx: str, architecture: Architecture) -> Code:
    """Read a cubin that was made of a PTX module; UnsupportedError where NVIDIA's tools are missing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage, sass = _run("cuobjdump", "-res-usage", str(path)), _run("nvdisasm", "-c", str(path))
    sizes = {name: int(size) for name, size in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    shared = max(0, sizes["SHARED"] - (_COUNTED_BESIDES if architecture >= (9, 0) else 0))
    names, loops = _instructions(sass)
    loop = max(loops, key=lambda body: (count(body, "FFMA"), len(body)), default=[])
    return Code(sizes["REG"], sizes["STACK"], sizes["LOCAL"], shared, names, loop, ptx, sass)


def _instructions(sass: str) -> tuple[list[str], list[list[str]]]:
    """All instructions, and those of each innermost loop: from where a branch goes back to, to that branch."""
    names: list[str] = []
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for line in sass.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(names)
        elif (found := _INSTRUCTION.match(line)) and found[2] != "NOP":
            names.append("NOP" if found[1] == "!PT" else found[2])  # predicated never to run, it still takes a slot
            target = _TARGET.search(found[3])
            if found[2].startswith("BRA") and target and labels.get(target[1], len(names)) < len(names) - 1:
                spans.append((labels[target[1]], len(names)))
    innermost = [(start, end) for start, end in spans if not any(_within(span, (start, end)) for span in spans)]
    return names, [names[start:end] for start, end in innermost]


def _within(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return inner != outer and outer[0] <= inner[0] and inner[1] <= outer[1]


def tools() -> Path | None:
    """The folder of cuobjdump and nvdisasm, among the installed wheels or on PATH; None where they are missing."""
    found = importlib.util.find_spec("nvidia")
    folders = [Path(place) / "cu13" / "bin" for place in (found and found.submodule_search_locations) or ()]
    folders += [Path(path).parent for path in [shutil.which("nvdisasm")] if path]
    return next((folder for folder in folders if all((folder / tool).exists() for tool in _TOOLS)), None)


def require_tools() -> Path:
    """The folder of the tools; UnsupportedError where they are missing."""
    folder = tools()
    if folder is None:
        wheels = " ".join(f"nvidia-cuda-{tool}" for tool in _TOOLS)
        raise UnsupportedError(f"{' and '.join(_TOOLS)} are not among the wheels, nor on PATH: pip install {wheels}")
    return folder


def _run(tool: str, *arguments: str) -> str:
    folder = require_tools()
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [str(folder / tool), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def width(name: str) -> int:
    """Bytes that a lane accesses, from an opcode.

    >>> width("LDS.128"), width("LDG.E.64.CONSTANT"), width("STG.E"), width("LDG.E.U8")
    (16, 8, 4, 1)
    """
    bits = next((word for word in name.split(".") if word in ("64", "128") or re.fullmatch(r"[US](8|16)", word)), "32")
    return int(bits.lstrip("US")) // 8
