"""Programs in PTX for the tests of the machine that runs them: one kernel, registers of every type declared."""

from typing import Any, NamedTuple

import numpy as np

from numba_fftconv.cuda import ptx_machine

THREADS = 64
RNG = np.random.default_rng(0)


class Shape(NamedTuple):
    """What a launch needs to know of a kernel."""

    threads: int = THREADS
    shared_bytes: int = 0


def module(parameters: str, body: str, head: str = "") -> str:
    """A module with one kernel; registers of every type are declared."""
    declared = "\n".join(
        f"\t.reg .{kind} %{prefix}<20>;"
        for kind, prefix in [("pred", "p"), ("b16", "h"), ("b32", "r"), ("b64", "d"), ("f32", "f")]
    )
    return (
        f".version 8.0\n.target sm_90\n.address_size 64\n{head}\n"
        f".visible .entry kernel({parameters})\n{{\n{declared}\n{body}\n\tret;\n}}\n"
    )


def run(ptx: str, *arguments: Any, threads: int = THREADS, shared_bytes: int = 0, **options: Any) -> None:
    ptx_machine.run(Shape(threads, shared_bytes), (1, 1, 1), arguments, ptx, **options)  # type: ignore[arg-type]
