"""From a kernel to its machine code, and from the compiler's many lines of error to one."""

import re

from ..cuda import machine_code, toolchain
from ..cuda.machine_code import Code
from ..cuda.toolchain import Architecture, Kernel
from ..errors import InvalidOptionError

_NO_REASON = re.compile("Failed in|During:|File ")


def code_of(kernel: Kernel, architecture: Architecture) -> Code:
    """The machine code, with PTX that knows its lines, which changes no instruction.

    InvalidOptionError where the kernel does not compile, UnsupportedError where NVIDIA's tools are missing.
    """
    machine_code.require_tools()
    try:
        ptx = toolchain.compile_ptx(kernel, architecture, lines=True)
        cubin = toolchain.link(ptx, architecture)
    except Exception as error:  # of Numba, which has two families of them, of NVVM and of nvJitLink
        raise InvalidOptionError(f"{kernel.name} does not compile: {one_line(error)}") from error
    return machine_code.take_apart(cubin, ptx, architecture)


def one_line(error: BaseException) -> str:
    """The last line of an error that names another one, as the innermost reason; else the first that says something."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # colours
    lines = [line.strip() for line in text.splitlines()]
    named = [line for line in lines if re.match(r"\w+(Error|Exception): ", line)]
    said = [line for line in lines if line and not _NO_REASON.match(line)]
    return [type(error).__name__, *said[:1], *named][-1]
