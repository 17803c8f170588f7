"""A launch on the machine: arguments become parameters and memory, blocks run in turn, arrays get what they stored."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from ..cubins import binary
from ..toolchain import Kernel, compile_ptx
from .block import Addressed, Block, Launch, Observer, refuse_unknown
from .memory import Memory, Rows
from .program import MachineError, Program

ARCHITECTURE = (9, 0)


def execute(
    program: Program,
    grid: Sequence[int],
    threads: int | Sequence[int],
    shared_bytes: int,
    memory: Addressed,
    parameters: np.ndarray,
    blocks: Iterable[Sequence[int]] | None = None,
    observer: Observer | None = None,
) -> None:
    """Run blocks of a kernel, all of the grid by default, on its parameters as bytes."""
    refuse_unknown(program)
    shape = (threads, 1, 1) if isinstance(threads, int) else threads
    if blocks is None:
        blocks = ((x, y, z) for z, y, x in product(*map(range, reversed(grid))))
    launch = Launch(program, grid, shape, shared_bytes, memory, parameters, observer or Observer())
    with np.errstate(all="ignore"):
        for place in blocks:
            Block(launch, place).run()


def pack(program: Program, arguments: Iterable[Any]) -> np.ndarray:
    """The parameters as bytes. A tuple is one struct, or as many parameters as it has fields; floats are float32."""
    packed, parameters = np.zeros(program.parameter_bytes, np.uint8), iter(program.parameters)
    for argument in arguments:
        fields = argument if isinstance(argument, tuple) else (argument,)
        parameter = next(parameters)
        if parameter.is_struct:
            size = parameter.size // len(fields)
            places = [(parameter.offset + i * size, size) for i in range(len(fields))]
        else:
            places = [(each.offset, each.size) for each in (parameter, *(next(parameters) for _ in fields[1:]))]
        for field, (offset, size) in zip(fields, places, strict=True):
            real = isinstance(field, float | np.floating)
            bits = int(np.float32(field).view(np.uint32)) if real else int(field or 0)
            packed[offset : offset + size] = list((bits % 2 ** (8 * size)).to_bytes(size, "little"))
    if left := list(parameters):
        raise ValueError(f"{len(left)} of {len(program.parameters)} parameters got no argument")
    return packed


@cache
def program_of(ptx: str) -> Program:
    """The one kernel of a module."""
    return Program(ptx)


@cache
def ptx_of(kernel: Kernel, lines: bool = False) -> str:
    """What is run: the code for sm_90 as a GPU gets it, or one that knows its lines."""
    return compile_ptx(kernel, ARCHITECTURE, lines=True) if lines else binary(kernel, ARCHITECTURE).ptx


def start(
    program: Program,
    grid: Sequence[int],
    threads: int | Sequence[int],
    shared_bytes: int,
    arguments: Sequence[Any],
    blocks: Sequence[Sequence[int]] | None = None,
    observer: Observer | None = None,
) -> Memory:
    """Run blocks on copies of the arrays among the arguments, which are those of `run`; what they leave in them."""
    flat = [x for argument in arguments for x in (argument if _is_struct(argument) else (argument,))]
    memory = Memory([x for x in flat if isinstance(x, np.ndarray | Rows)])
    addresses = iter(memory.addresses)

    def value(x: Any) -> Any:
        if _is_struct(x):
            return tuple(map(value, x))
        return next(addresses) if isinstance(x, np.ndarray | Rows) else x

    packed = pack(program, map(value, arguments))
    execute(program, grid, threads, shared_bytes, memory, packed, blocks, observer)
    return memory


def _is_struct(argument: Any) -> bool:
    return isinstance(argument, tuple) and not isinstance(argument, Rows)


def run(
    kernel: Kernel,
    grid: Sequence[int],
    arguments: Sequence[Any],
    ptx: str | None = None,
    *,
    blocks: Sequence[Sequence[int]] | None = None,
    observer: Observer | None = None,
) -> None:
    """Run a kernel, or `ptx` in its place, and leave in the arrays what it stored.

    Parameters
    ----------
    arguments : NumPy arrays, C-contiguous, and Rows, which are pointers to themselves; None, the null pointer; numbers,
        floats as float32; tuples of these, passed field by field or as a struct, as the program has it.
    blocks : which to run, as (x, y, z); all of the grid by default.

    Raises
    ------
    MachineError and its kinds, before anything is written to the arrays. What ships does not know its lines: an error
    is met again with them by a second run, of a build that does.
    """

    def launched(text: str) -> Memory:
        return start(program_of(text), grid, kernel.threads, kernel.shared_bytes, arguments, blocks, observer)

    try:
        memory = launched(ptx_of(kernel) if ptx is None else ptx)
    except MachineError:
        if ptx is None:
            launched(ptx_of(kernel, lines=True))
        raise  # what the build with lines does not meet
    memory.write_back()
