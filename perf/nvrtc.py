"""The kernels of src/ compiled by nvcc's compiler: by NVRTC, which is a wheel, or by nvcc itself where it is installed.

Neither needs a GPU. Every kernel there is the twin of one of Numba's, and `expression` says which: the name of a kernel
tells its specialisation, an instantiation of a template says the same.

    transform_t32_b8            transform<32, 8, false, false, 6>
    product_64x64_forward_v2    product<64, 64, 8, 4, 8, 3, true, true, false, true, 2, 4>

The last number is of blocks that a multiprocessor shall hold, from which the compiler has its registers: what Numba's
kernel says, or what the registers leave that it is held to. PTX becomes a cubin by the same linker on both sides, so
that what differs is what the two compilers made of a source; nvcc brings an assembler of its own.
"""

import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from numba_fftconv.cuda.product import FORMS
from numba_fftconv.cuda.tiles import TILES
from numba_fftconv.cuda.toolchain import Architecture, Binary, Kernel, link
from numba_fftconv.gpus import MULTIPROCESSORS

SOURCES = Path(__file__).parents[1] / "src"
STANDARD = "-std=c++17"
TRANSFORM = re.compile(r"(transform|inverse)_t(\d+)_b(\d+)(_half)?(_spaced)?(_accumulate)?")
PRODUCT = re.compile(r"product_(\d+x\d+(?:x\d+)?)_(\w+)_v([12])")


# ---- which kernel of src/ --------------------------------------------------------------------------------------------


def expression(kernel: Kernel) -> str:
    """The instantiation of a template of src/ that is a kernel's twin.

    >>> from numba_fftconv.cuda.fft2d import transform_kernel
    >>> expression(transform_kernel((32, 32), 8))
    'transform<32, 8, false, false, 6>'
    """
    values: list[Any]
    if found := TRANSFORM.fullmatch(kernel.name):
        what, T, B, *flags = found.groups()
        values = [int(T), int(B), *map(bool, flags if what == "inverse" else flags[:2])]
    elif found := PRODUCT.fullmatch(kernel.name):
        what, form = "product", FORMS[found[2]]
        tile = {str(each): each for each in TILES}[found[1]]
        values = [tile.BM, tile.BN, tile.TM, tile.TN, tile.BK, tile.stages]
        values += [form.a_kmajor, form.b_kmajor, form.conj_a, form.conj_b, int(found[3])]
    else:
        raise ValueError(f"{kernel.name} has no twin in src/: transforms, inverses and products of tiles have one")
    return f"{what}<{', '.join(str(value).lower() for value in [*values, resident(kernel)])}>"


def resident(kernel: Kernel) -> int:
    """Blocks that a multiprocessor shall hold, or holds if threads have the registers that the kernel is held to."""
    if kernel.most_registers is None:
        return kernel.least_blocks
    return max(1, MULTIPROCESSORS[9, 0].registers // (kernel.threads * kernel.most_registers))


def source(wanted: str) -> Path:
    """The file that a template is in."""
    return SOURCES / ("product.cu" if wanted.startswith("product") else "transform.cu")


# ---- NVRTC -----------------------------------------------------------------------------------------------------------


def build(kernel: Kernel, architecture: Architecture) -> Binary:
    """The twin of a kernel for an architecture."""
    symbol, ptx = compile_ptx(kernel, architecture)
    return Binary(symbol, link(ptx, architecture), ptx)


@cache
def compile_ptx(kernel: Kernel, architecture: Architecture) -> tuple[str, str]:
    """Symbol and PTX of a kernel's twin."""
    wanted = expression(kernel)
    path = source(wanted)
    return compile_text(path.read_text(), path.name, wanted, architecture)


def compile_text(text: str, name: str, wanted: str, architecture: Architecture) -> tuple[str, str]:
    """Symbol and PTX of one kernel, or instantiation of a template, in a text that may include the headers of src/."""
    from cuda.bindings import nvrtc

    headers = sorted(SOURCES.glob("*.cuh"))
    contents, names = [path.read_bytes() for path in headers], [path.name.encode() for path in headers]
    program = _checked(nvrtc.nvrtcCreateProgram(text.encode(), name.encode(), len(headers), contents, names))
    try:
        _checked(nvrtc.nvrtcAddNameExpression(program, wanted.encode()))
        options = [f"-arch=compute_{architecture[0]}{architecture[1]}", STANDARD, "-lineinfo"]
        status, *_ = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if status:
            raise RuntimeError(f"{wanted}:\n{_text(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)}")
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


# ---- nvcc ------------------------------------------------------------------------------------------------------------


def build_by_nvcc(kernel: Kernel, architecture: Architecture) -> Binary:
    """The twin of a kernel as nvcc and its own assembler make it."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise SystemExit("--nvcc: there is no nvcc on PATH; without --nvcc its compiler runs as NVRTC, from a wheel")
    wanted = expression(kernel)
    with tempfile.TemporaryDirectory() as folder:
        text, ptx, cubin = (Path(folder) / f"kernel.{suffix}" for suffix in ("cu", "ptx", "cubin"))
        text.write_text(f'#include "{source(wanted).name}"\nauto wanted = {wanted};\n')
        options = [nvcc, STANDARD, f"-arch=sm_{architecture[0]}{architecture[1]}", "-I", str(SOURCES)]
        subprocess.run([*options, "-ptx", "-o", str(ptx), str(text)], check=True)
        subprocess.run([*options, "-cubin", "-o", str(cubin), str(ptx)], check=True)
        symbols = re.findall(r"\.entry (\w+)", ptx.read_text())
        return Binary(symbols[0], cubin.read_bytes(), ptx.read_text())
