"""Runs the PTX of a kernel, as the compiler made it, on the CPU: no GPU, no driver.

What the simulator of Python cannot see shows here: integers cut to 32 bits, wrong literals, alignment, vector accesses,
arguments as they are passed. What is checked, of what is really compiled:

    every access        lies within one of the arrays given, at a multiple of its size       (memory.py)
    shared memory       begins as NaN, and has no races                                      (races.py)
    cp.async            brings its data at the wait that covers its group, not before        (block.py)
    barriers            are reached by all threads, at one place
    registers           are written before they are read
    instructions        are those of the table, and others are refused by their name         (table.py)

Every error names the instruction and its line. `run` takes a kernel and its arguments as a launch does:

    from numba_fftconv.cuda import fft2d, ptx_machine
    ptx_machine.run(fft2d.transform_kernel((16, 16), 16), grid, (x, X, planes, strides, rows, columns))
"""

from .block import AccessError, Addressed, AlignmentError, BarrierError, Observer, UnknownInstructionError
from .launch import execute, pack, ptx_of, run, start
from .memory import Memory, Rows
from .program import Instruction, MachineError, Program
from .races import RaceError

__all__ = [
    "AccessError", "Addressed", "AlignmentError", "BarrierError", "Instruction", "MachineError", "Memory", "Observer",
    "Program", "RaceError", "Rows", "UnknownInstructionError", "execute", "pack", "ptx_of", "run", "start",
]  # fmt: skip
