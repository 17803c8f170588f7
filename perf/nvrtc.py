"""CUDA C++ kernels of src/ compiled by NVRTC, nvcc's compiler as a library: no GPU, no driver and no nvcc is needed.

Every kernel there is the twin of one of Numba's, and `expression` says which: the name of a kernel tells its
specialisation, an instantiation of a template says the same. So both take the same arguments on the same grid.

    >>> from numba_fftconv.cuda.fft2d import transform_kernel
    >>> expression(transform_kernel(32, 8))
    'transform<32, 8, false, false, 6>'
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from numba_fftconv.cuda import toolchain
from numba_fftconv.cuda.product import FORMS
from numba_fftconv.cuda.tiles import REGISTERS, TILES
from numba_fftconv.cuda.toolchain import Architecture, Binary, Kernel

SOURCES = Path(__file__).parents[1] / "src"
OPTIONS = ("-std=c++17", "-lineinfo")
FILES = {"transform": "transform.cu", "inverse": "transform.cu", "product": "product.cu"}
TRANSFORM = re.compile(r"(transform|inverse)_t(\d+)_b(\d+)(_half)?(_spaced)?(_accumulate)?")
PRODUCT = re.compile(r"product_(\d+x\d+)_(\w+)_v([12])")


def expression(kernel: Kernel) -> str:
    """The instantiation of a template of src/ that is the twin of a kernel of Numba's."""
    values: list[Any]
    if found := TRANSFORM.fullmatch(kernel.name):
        what, T, B, half, spaced, accumulate = found.groups()
        values = [int(T), int(B), bool(half), bool(spaced), *([bool(accumulate)] if what == "inverse" else [])]
    elif found := PRODUCT.fullmatch(kernel.name):
        what, form = "product", FORMS[found[2]]
        tile = next(tile for tile in TILES if str(tile) == found[1])
        values = [tile.BM, tile.BN, tile.TM, tile.TN, tile.BK, tile.stages]
        values += [form.a_kmajor, form.b_kmajor, form.conj_a, form.conj_b, int(found[3])]
    else:
        raise ValueError(f"{kernel.name} has no twin in src/: transforms, inverses and products of tiles have")
    return f"{what}<{', '.join(str(value).lower() for value in [*values, resident(kernel)])}>"


def resident(kernel: Kernel) -> int:
    """The blocks a multiprocessor that leave a thread the registers that Numba's compiler is held to."""
    if kernel.most_registers is None:
        return kernel.least_blocks
    return max(1, REGISTERS // (kernel.threads * kernel.most_registers))


@cache
def build(kernel: Kernel, architecture: Architecture) -> Binary:
    """The twin of a kernel for an architecture. What makes the cubin of PTX is the same for both."""
    wanted = expression(kernel)
    source = FILES[wanted.split("<")[0]]
    symbol, ptx = compile_ptx(source, wanted, architecture)
    return Binary(symbol, toolchain._link(ptx.encode(), architecture), ptx)


def compile_ptx(source: str, wanted: str, architecture: Architecture) -> tuple[str, str]:
    """Symbol and PTX of one instantiation of a template in a file of src/."""
    from cuda.bindings import nvrtc

    headers = sorted(SOURCES.glob("*.cuh"))
    texts, names = [path.read_bytes() for path in headers], [path.name.encode() for path in headers]
    text = (SOURCES / source).read_bytes()
    program = _checked(nvrtc.nvrtcCreateProgram(text, source.encode(), len(headers), texts, names))
    try:
        _checked(nvrtc.nvrtcAddNameExpression(program, wanted.encode()))
        options = [f"-arch=compute_{architecture[0]}{architecture[1]}", *OPTIONS]
        status = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if status[0]:
            raise RuntimeError(_text(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog))
        symbol = _checked(nvrtc.nvrtcGetLoweredName(program, wanted.encode())).decode()
        return symbol, _text(program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _text(program: Any, size: Any, get: Any) -> str:
    buffer = bytearray(_checked(size(program)))
    _checked(get(program, buffer))
    return buffer.rstrip(b"\0").decode()


def _checked(results: tuple[Any, ...]) -> Any:
    """What a call of NVRTC returns; its error as an exception."""
    status, *values = results
    if status:
        raise RuntimeError(f"NVRTC: {status.name}")
    return values[0] if values else None
