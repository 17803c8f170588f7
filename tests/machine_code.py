"""What the machine code of a kernel is made of: registers, memory and instructions by class, read off its cubin."""

import importlib.util
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from numba_fftconv.cuda.toolchain import SIMULATED, Architecture, Kernel, build, is_numba_cuda

CLASSES = {
    "fp": ("FADD", "FMUL", "FFMA"),
    "ldg": ("LDG",),
    "stg": ("STG",),
    "lds": ("LDS",),
    "sts": ("STS",),
    "integer": ("IADD", "IMAD", "ISETP", "LEA", "LOP", "SHF", "IMNMX", "VIMNMX", "IABS", "UIADD", "UIMAD", "ULEA",
                "USHF", "ULOP", "UISETP", "SHL", "SHR", "VIADD", "UIADD3", "USEL", "SEL", "I2F", "F2I", "MUFU", "R2P"),
}  # fmt: skip


class Report(NamedTuple):
    """One row of the table; `mix` counts every opcode with its modifiers."""

    kernel: str
    threads: int
    registers: int
    shared: int
    fp: int
    ldg: int
    stg: int
    lds: int
    sts: int
    integer: int
    other: int
    total: int
    stack: int
    local: int
    mix: Counter[str]

    def count(self, pattern: str) -> int:
        """Instructions whose opcode and modifiers match a regular expression from the start."""
        return sum(n for name, n in self.mix.items() if re.match(pattern, name))


def tools() -> Path | None:
    """The folder of cuobjdump and nvdisasm among the installed wheels; None where they are missing."""
    found = importlib.util.find_spec("nvidia")
    for place in (found and found.submodule_search_locations) or ():
        folder = Path(place) / "cu13" / "bin"
        if (folder / "nvdisasm").exists() and (folder / "cuobjdump").exists():
            return folder
    return None


compiles = pytest.mark.skipif(SIMULATED or not is_numba_cuda(), reason="compiles with NVIDIA's numba-cuda")
reads_code = pytest.mark.skipif(tools() is None, reason="needs cuobjdump and nvdisasm")


def _run(tool: str, *arguments: str) -> str:
    folder = tools()
    assert folder is not None, "no nvdisasm among the wheels"
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [str(folder / tool), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


class Code(NamedTuple):
    """A compiled kernel, taken apart."""

    registers: int
    stack: int
    local: int
    instructions: list[str]  # opcodes with their modifiers
    loop: list[str]  # the innermost loop with most FFMA
    ptx: str


def read(kernel: Kernel, architecture: Architecture) -> Code:
    """Compile a kernel and take its cubin apart."""
    binary = build(kernel, architecture)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(binary.cubin)
        usage, code = _run("cuobjdump", "-res-usage", str(cubin)), _run("nvdisasm", "-c", str(cubin))
    sizes = {name: int(size) for name, size in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    names: list[str] = []
    labels: dict[str, int] = {}
    loops: list[list[str]] = []
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(names)
        elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*);", line):
            names.append(found[1])
            target = re.search(r"`\((\.L_x_\d+)\)", found[2])
            if found[1].startswith("BRA") and target and labels.get(target[1], len(names)) < len(names) - 1:
                loops.append(names[labels[target[1]] :])
    loop = max(loops, key=lambda body: count(body, "FFMA"), default=[])
    return Code(sizes["REG"], sizes["STACK"], sizes["LOCAL"], names, loop, binary.ptx)


def count(names: list[str], pattern: str) -> int:
    """Instructions whose opcode and modifiers match a regular expression from the start."""
    return sum(bool(re.match(pattern, name)) for name in names)


def report(kernel: Kernel, architecture: Architecture = (9, 0)) -> Report:
    """Compile a kernel and count."""
    code = read(kernel, architecture)
    mix = Counter(code.instructions)
    del mix["NOP"]
    counts = dict.fromkeys(CLASSES, 0)
    for name, n in mix.items():
        opcode = name.split(".")[0]
        for label, starts in CLASSES.items():
            if opcode.startswith(starts):
                counts[label] += n
                break
    total = sum(mix.values())
    other = total - sum(counts.values())
    return Report(
        kernel.name, kernel.threads, code.registers, kernel.shared_bytes, **counts, other=other, total=total,
        stack=code.stack, local=code.local, mix=mix,
    )  # fmt: skip


def table(reports: Iterable[Report]) -> str:
    """The rows as text."""
    names = [name for name in Report._fields if name not in ("stack", "local", "mix")]
    rows = [names] + [[str(getattr(row, name)) for name in names] for row in reports]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
