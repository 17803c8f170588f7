"""All that is known of a kernel before it runs: its machine code, occupancy, bank conflicts and place under the roofs.

Registers, memory and instructions are those of the cubin that a GPU would get. Bank conflicts and sectors are counted
while block (0, 0, 0) runs on the machine of cuda/ptx_machine. Flops and bytes are those of a stage by definition, each
array moved once, or what that block does times the blocks of a launch.

Roofline: a kernel of F flops and B bytes takes at least max(F / peak, B / bandwidth) seconds; the two are equal at the
ridge, peak / bandwidth flops a byte. Williams, Waterman, Patterson, Communications of the ACM 52 (2009).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..cuda import machine_code, ptx_machine, tensor_tiles
from ..cuda.banks import Banks, Lines
from ..cuda.counts import Counts
from ..cuda.machine_code import Code
from ..cuda.occupancy import Occupancy, occupancy
from ..cuda.toolchain import Kernel
from ..gpus import WARP, Gpu, sm
from .compiled import code_of

ACCESSES = "LDG(?!DEPBAR)|STG|LDS|STS|LDGSTS|LDL|STL|(LD|ST)[.]"
BLOCK = (0, 0, 0)
SCHEDULERS = 4  # of a multiprocessor
Widest = dict[str, int]


class Cost(NamedTuple):
    """What a launch computes and moves, and of which problem."""

    flops: int
    bytes: int
    problem: str
    precision: str = "fp32"  # of the arithmetic


class Launch(NamedTuple):
    """A launch whose first block can be run: arguments are those of ptx_machine.run."""

    grid: tuple[int, int, int]
    threads: tuple[int, int, int]
    arguments: Sequence[Any]


class Subject(NamedTuple):
    """A kernel to be inspected. A launch or its cost may be missing; `missing` then says what to give."""

    kernel: Kernel
    about: str
    launch: Launch | None
    cost: Cost | None
    missing: str = ""


@dataclass(frozen=True)
class Roofline:
    """A launch under the roofs of a GPU."""

    gpu: Gpu
    cost: Cost

    @property
    def peak(self) -> float:
        """Flops a second that its precision allows: of float32, or what a model has of mma.sync."""
        on_tensor_cores = self.cost.precision in tensor_tiles.TENSOR_TILES
        return tensor_tiles.flops(self.cost.precision, self.gpu) if on_tensor_cores else self.gpu.flops

    @property
    def ridge(self) -> float:
        """Flops a byte at which computing takes as long as moving."""
        return self.peak / self.gpu.bandwidth

    @property
    def intensity(self) -> float:
        """Flops a byte."""
        return self.cost.flops / max(1, self.cost.bytes)

    @property
    def bound(self) -> str:
        return "compute" if self.intensity > self.ridge else "memory"

    @property
    def seconds(self) -> float:
        """The least that the launch takes."""
        return max(self.cost.flops / self.peak, self.cost.bytes / self.gpu.bandwidth)

    @property
    def share_of_peak(self) -> float:
        """At most."""
        return self.cost.flops / self.seconds / self.peak if self.cost.flops else 0.0


@dataclass(frozen=True)
class Memory:
    """Bytes of global memory that one block accesses: those asked for, of all sectors moved, of different sectors."""

    asked: int
    moved: int
    touched: int


@dataclass(frozen=True)
class Report:
    """Figures of a kernel. `banks` and `memory` are of one block, and with `roofline` None where nothing could run."""

    kernel: str
    about: str
    gpu: Gpu
    threads: int
    static_shared: int
    dynamic_shared: int
    occupancy: Occupancy
    code: Code = field(repr=False)
    banks: Lines | None
    memory: Memory | None
    roofline: Roofline | None
    missing: str

    @property
    def shared(self) -> int:
        return self.static_shared + self.dynamic_shared

    @property
    def mix(self) -> dict[str, int]:
        """Instructions by class."""
        return machine_code.classes(self.code.instructions)

    @property
    def loop_mix(self) -> dict[str, int]:
        return machine_code.classes(self.code.loop)

    @property
    def widths(self) -> dict[str, int]:
        """Instructions that access memory, by opcode and bits of a lane: "LDS.128"."""
        names = (name for name in self.code.instructions if machine_code.count([name], ACCESSES))
        return dict(sorted(Counter(f"{name.split('.')[0]}.{8 * machine_code.width(name)}" for name in names).items()))

    @property
    def barriers(self) -> int:
        return machine_code.count(self.code.instructions, "BAR")

    @property
    def issue_share(self) -> float | None:
        """Of the float32 peak, what the inner loop can reach if each scheduler issues an instruction every clock."""
        share = machine_code.count(self.code.loop, "FFMA") / max(1, len(self.code.loop))
        return min(1.0, share * SCHEDULERS * WARP / self.gpu.multiprocessor.lanes) if share else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        code, found, roof = self.code, self.occupancy, self.roofline
        return {
            "kernel": self.kernel, "about": self.about, "gpu": self.gpu.name, "arch": sm(self.gpu.architecture),
            "threads": self.threads, "registers": code.registers, "stack_bytes": code.stack, "local_bytes": code.local,
            "shared_bytes": {"static": self.static_shared, "dynamic": self.dynamic_shared},
            "occupancy": {"blocks": found.blocks, "warps": found.warps, "most_warps": found.most_warps,
                          "limiter": found.limiter, "limits": found.limits},
            "instructions": {"all": len(code.instructions), "classes": self.mix},
            "loop": {"all": len(code.loop), "classes": self.loop_mix, "issue_share_of_peak": self.issue_share}
                    if code.loop else None,
            "accesses": self.widths, "barriers": self.barriers,
            "bank_conflicts": None if self.banks is None else [
                {"kind": kind, "line": line} | asdict(accesses) for (kind, line), accesses in self.banks.items()
            ],
            "block_bytes": None if self.memory is None else asdict(self.memory),
            "roofline": None if roof is None else {
                "problem": roof.cost.problem, "flops": roof.cost.flops, "bytes": roof.cost.bytes,
                "precision": roof.cost.precision, "peak_flops": roof.peak,
                "flops_per_byte": roof.intensity, "ridge_flops_per_byte": roof.ridge, "bound": roof.bound,
                "least_seconds": roof.seconds, "share_of_peak": roof.share_of_peak,
            },
            "missing": self.missing or None,
        }  # fmt: skip


class _Watch(ptx_machine.Observer):
    """Counts what a block accesses and computes."""

    def __init__(self, widest: Widest) -> None:
        self.banks, self.counts = Banks(widest), Counts()

    def step(self, instruction: ptx_machine.Instruction, active: np.ndarray) -> None:
        self.banks.step(instruction, active)
        self.counts.step(instruction, active)

    def access(
        self, instruction: ptx_machine.Instruction, space: str, address: np.ndarray, size: int, thread: np.ndarray
    ) -> None:
        self.banks.access(instruction, space, address, size, thread)
        self.counts.access(instruction, space, address, size, thread)


def inspect(subject: Subject, gpu: Gpu) -> Report:
    """Compile a kernel for a GPU and find out all there is to know; errors are those of `code_of`."""
    kernel, launch, cost, missing = subject.kernel, subject.launch, subject.cost, subject.missing
    code = code_of(kernel, gpu.architecture)
    held = occupancy(gpu.multiprocessor, kernel.threads, code.registers, kernel.shared_bytes + code.shared)
    banks = memory = None
    if launch is not None:
        watch = _Watch(_widest(code))
        try:
            program = ptx_machine.Program(code.ptx)
            ptx_machine.start(
                program, launch.grid, launch.threads, kernel.shared_bytes, launch.arguments, [BLOCK], watch
            )  # fmt: skip
        except ptx_machine.MachineError as error:
            missing = f"block (0, 0, 0) does not run: {error}"
        else:
            counts, blocks = watch.counts, prod(launch.grid)
            banks, memory = watch.banks.lines, Memory(counts.asked, counts.moved, counts.touched)
            if cost is None:
                of = f"block (0, 0, 0) times {blocks:,} blocks, each sector that it reads or writes moved once"
                cost = Cost(counts.flops * blocks, counts.touched * blocks, of)
    roofline = None if cost is None else Roofline(gpu, cost)
    return Report(
        kernel.name, subject.about, gpu, kernel.threads, code.shared, kernel.shared_bytes, held, code,
        banks, memory, roofline, missing,
    )  # fmt: skip


def _widest(code: Code) -> Widest:
    """Bytes of the widest load and store of shared memory."""
    of = {"ld": "LDS", "st": "STS"}
    names = {what: [n for n in code.instructions if n.startswith(opcode)] for what, opcode in of.items()}
    return {what: max(map(machine_code.width, found), default=0) for what, found in names.items()}
