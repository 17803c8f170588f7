"""What tests of machine code need: marks for where it cannot be made or read, and a row a kernel for a table."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import pytest

from numba_fftconv.cuda.machine_code import Code, count, read, tools
from numba_fftconv.cuda.toolchain import SIMULATED, Architecture, Kernel, is_numba_cuda

__all__ = ["Code", "Report", "compiles", "count", "read", "reads_code", "report", "table"]

compiles = pytest.mark.skipif(SIMULATED or not is_numba_cuda(), reason="compiles with NVIDIA's numba-cuda")
reads_code = pytest.mark.skipif(tools() is None, reason="needs cuobjdump and nvdisasm")


class Report(NamedTuple):
    """One row of the table; `mix` counts every opcode with its modifiers."""

    kernel: str
    threads: int
    registers: int
    shared: int
    fp: int
    total: int
    stack: int
    local: int
    mix: Counter[str]

    def count(self, pattern: str) -> int:
        """Instructions whose opcode and modifiers match a regular expression from the start."""
        return count(self.mix.elements(), pattern)


def report(kernel: Kernel, architecture: Architecture = (9, 0)) -> Report:
    """Compile a kernel and count."""
    code = read(kernel, architecture)
    mix, fp = Counter(code.instructions), count(code.instructions, "FADD|FMUL|FFMA")
    return Report(
        kernel.name, kernel.threads, code.registers, kernel.shared_bytes, fp, len(code.instructions),
        code.stack, code.local, mix,
    )  # fmt: skip


def table(reports: Iterable[Report]) -> str:
    """The rows as text."""
    names = [name for name in Report._fields if name != "mix"]
    rows = [names] + [[str(getattr(row, name)) for name in names] for row in reports]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
