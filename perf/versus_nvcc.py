"""What Numba makes of a kernel beside what nvcc makes of its twin in CUDA C++ (src/): the price of Python, in figures.

    python perf/versus_nvcc.py                                every pair, for sm_90
    python perf/versus_nvcc.py 'transform_t32*' --sm 80       some of them, for another architecture
    python perf/versus_nvcc.py --nvcc                         nvcc in the place of NVRTC, with its own assembler
    python perf/versus_nvcc.py --markdown                     a table for WORKLOG.md, a line a pair

Read off cubins, so no GPU is needed. A third line gives ratios, Numba over nvcc: below 1 Numba's kernel takes less.
`global` and `shared` count accesses of 32, 64 and 128 bits, copies from one to the other with the first; `loop` is the
instructions of a product's innermost loop, FFMA its share; `blocks` how many a multiprocessor holds at once.
On a GPU of the library each pair also runs, in turns on the same arguments (twins.py).
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from fnmatch import fnmatchcase
from multiprocessing import get_context

import machine
import nvrtc
import twins

from numba_fftconv.cuda import driver, fft2d
from numba_fftconv.cuda.machine_code import Code, classes, count, take_apart, width
from numba_fftconv.cuda.occupancy import occupancy
from numba_fftconv.cuda.product import FORMS, product_kernel
from numba_fftconv.cuda.tiles import TILES
from numba_fftconv.cuda.toolchain import Architecture, Kernel, build
from numba_fftconv.errors import FFTConvError
from numba_fftconv.gpus import MULTIPROCESSORS

LENGTHS = (8, 16, 32, 64)  # src/ is for powers of two
FORMED = 32  # the length that is shown in every form
FORMS_OF_MAPS = ((False, False), (True, False), (False, True), (True, True))  # half, spaced
PROCESSES = 2
COMPILERS = ("numba", "numba-cuda", "nvidia-nvvm", "nvidia-cuda-nvrtc", "nvidia-nvjitlink")


@dataclass(frozen=True)
class Figures:
    """What a compiler made of a kernel."""

    registers: int
    stack: int  # bytes of a thread: what is spilled
    static: int  # bytes of shared memory, besides those of the launch
    all: int  # instructions
    fp: int
    integer: int
    globals: tuple[int, ...]  # by width
    shareds: tuple[int, ...]
    loop: int
    ffma: int  # of the loop
    blocks: int


TITLES = ("registers", "stack", "static", "all", "fp", "integer", "global", "shared", "loop", "FFMA", "blocks")
WIDTHS = (4, 8, 16)  # bytes of an access


def kernels(most_shared: int) -> dict[str, Kernel]:
    """By name, Numba's kernels that have a twin: transforms for blocks of so many bytes, products of every tile."""
    found = []
    for T in LENGTHS:
        B = fft2d.tile_planes((T, T), most_shared)
        for form in FORMS_OF_MAPS if T == FORMED else FORMS_OF_MAPS[:1]:
            found += [fft2d.transform_kernel((T, T), B, *form), fft2d.inverse_kernel((T, T), B, *form)]
        found.append(fft2d.inverse_kernel((T, T), B, accumulate=True))
    found += [product_kernel(name, tile, vec) for tile in TILES for name in FORMS for vec in (2, 1)]
    return {kernel.name: kernel for kernel in found}


def figures(code: Code, kernel: Kernel, architecture: Architecture) -> Figures:
    """Count."""
    of, names = classes(code.instructions), code.instructions
    loop = code.loop if kernel.name.startswith("product") else []
    shared = kernel.shared_bytes + code.shared
    held = occupancy(MULTIPROCESSORS[architecture], kernel.threads, code.registers, shared)
    return Figures(
        code.registers, code.stack + code.local, code.shared, len(names), of["FFMA"] + of["FP32"], of["integer"],
        by_width(names, "LDG(?!DEPBAR)|STG"), by_width(names, "LDS|STS"),
        len(loop), count(loop, "FFMA"), held.blocks,
    )  # fmt: skip


def by_width(names: list[str], pattern: str) -> tuple[int, ...]:
    """Accesses of each width among the opcodes that match."""
    found = [width(name) for name in names if count([name], pattern)]
    return tuple(found.count(nbytes) for nbytes in WIDTHS)


def compare(name: str, architecture: Architecture, by_nvcc: bool) -> tuple[Figures, Figures]:
    """Compile a pair and count: Numba's, nvcc's."""
    kernel = kernels(MULTIPROCESSORS[architecture].block_shared)[name]
    theirs = nvrtc.build_by_nvcc if by_nvcc else nvrtc.build
    made = build(kernel, architecture), theirs(kernel, architecture)
    codes = [take_apart(binary.cubin, binary.ptx, architecture) for binary in made]
    return figures(codes[0], kernel, architecture), figures(codes[1], kernel, architecture)


# ---- as text ---------------------------------------------------------------------------------------------------------


def cells(made: Figures) -> list[str]:
    """Widths are joined by strokes; the share of FFMA is a percentage."""
    words = ["/".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in astuple(made)]
    share = f"{made.ffma / made.loop:.1%}" if made.loop else ""
    return [*words[:8], words[8] if made.loop else "", share, words[10]]


def ratios(ours: Figures, theirs: Figures) -> list[str]:
    """Numba over nvcc, of what is one number."""
    pairs = zip(astuple(ours), astuple(theirs), strict=True)
    words = ["" if isinstance(a, tuple) or not b else f"{a / b:.2f}" for a, b in pairs]
    words[9] = f"{ours.ffma / ours.loop / (theirs.ffma / theirs.loop):.2f}" if ours.loop and theirs.loop else ""
    return words


def table(pairs: dict[str, tuple[Figures, Figures]]) -> str:
    """Three lines a pair."""
    lines = [["", "", *TITLES]]
    for name, (ours, theirs) in pairs.items():
        lines += [[name, "numba", *cells(ours)], ["", "nvcc", *cells(theirs)], ["", "ratio", *ratios(ours, theirs)]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    layout = "  ".join([f"{{:{w}}}" for w in widths[:2]] + [f"{{:>{w}}}" for w in widths[2:]])
    return "\n".join(layout.format(*line).rstrip() for line in lines)


def markdown(pairs: dict[str, tuple[Figures, Figures]]) -> str:
    """A line a pair, figures as Numba / nvcc; what is nothing everywhere is left out."""
    shown = [i for i, field in enumerate(fields(Figures)) if field.name not in ("stack", "static")]
    lines = ["| kernel | " + " | ".join(TITLES[i] for i in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for name, pair in pairs.items():
        both = [(a if a == b else f"{a} / {b}") for a, b in zip(*map(cells, pair), strict=True)]
        lines.append(f"| {name} | " + " | ".join(both[i] for i in shown) + " |")
    spills = [name for name, pair in pairs.items() if any(each.stack for each in pair)]
    return "\n".join([*lines, "", f"With a stack: {', '.join(spills) or 'none'}."])


def on_gpu(names: list[str], by_nvcc: bool) -> str:
    """Times of the pairs on GPU 0 and how far their results are apart, or why there are none."""
    try:
        gpu, put = driver.device(0), twins.memory()
    except FFTConvError as error:
        return f"Time and results are not compared: {error}."
    if put is None:
        return "Time and results are not compared: arrays get to the GPU by torch or CuPy, and neither is installed."
    builds = build, nvrtc.build_by_nvcc if by_nvcc else nvrtc.build
    found = kernels(gpu.shared_bytes)
    lines = [f"{gpu.name}: microseconds of Numba's and nvcc's kernel, their ratio, greatest difference of results"]
    for name in filter(found.__contains__, names):
        made = twins.compare(found[name], gpu, put, twins.case(found[name]), builds)
        times = f"{made.numba * 1e6:10.1f} {made.nvcc * 1e6:10.1f} {made.numba / made.nvcc:6.2f}"
        lines.append(f"{name:40}{times} {made.apart:9.1e}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", default=["*"], help="patterns of names (all)")
    parser.add_argument("--sm", type=int, default=90, choices=[10 * major + minor for major, minor in MULTIPROCESSORS])
    parser.add_argument("--nvcc", action="store_true", help="compile by nvcc")
    parser.add_argument("--markdown", action="store_true", help="print the table for WORKLOG.md")
    chosen = parser.parse_args()
    architecture = chosen.sm // 10, chosen.sm % 10
    every = kernels(MULTIPROCESSORS[architecture].block_shared)
    names = [name for name in every if any(fnmatchcase(name, pattern) for pattern in chosen.kernels)]
    if not names:
        examples = "transform_t32_b8 or product_64x64_forward_v2"
        sys.exit(f"no kernel with a twin in src/ is called {' or '.join(chosen.kernels)}; one is called {examples}")
    try:
        with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
            made = pool.map(compare, names, [architecture] * len(names), [chosen.nvcc] * len(names))
            pairs = dict(zip(names, made, strict=True))
    except FFTConvError as error:  # no disassembler, no numba-cuda
        sys.exit(str(error))
    print(markdown(pairs) if chosen.markdown else table(pairs))
    print(on_gpu(names, chosen.nvcc))
    about = machine.describe(PROCESSES, COMPILERS)
    print(f"{len(pairs)} pairs for sm_{chosen.sm}, {about['date']}, {about['versions']}")


if __name__ == "__main__":
    main()
