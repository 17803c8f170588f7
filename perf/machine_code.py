"""The table of machine code: what the compiler made of every CUDA kernel, read off cubins; needs no GPU and no driver.

    python perf/machine_code.py                                  every kernel for sm_90 and sm_80
    python perf/machine_code.py 'inverse_t64*' --sm 90           some of them
    python perf/machine_code.py --markdown --json figures.json   the condensed tables of WORKLOG.md besides, and a file

Transforms are those that the engine runs, with as many planes a block as the shared memory of the architecture holds;
products are of every tile, pass and width of copies, in every precision. `ffma` and `hmma` are the shares of FFMA and
of HMMA, what tensor cores do, in the innermost loop of a product.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from multiprocessing import get_context
from pathlib import Path

import machine

from numba_fftconv.cuda import columns_pass, fft2d, rows_pass
from numba_fftconv.cuda.machine_code import CLASSES, count, read
from numba_fftconv.cuda.pointwise import pointwise_kernel
from numba_fftconv.cuda.product import FORMS, product_kernel
from numba_fftconv.cuda.sums import sum_kernel
from numba_fftconv.cuda.tensor_tiles import TENSOR_TILES
from numba_fftconv.cuda.tiles import TILES
from numba_fftconv.cuda.toolchain import Kernel
from numba_fftconv.gpus import MULTIPROCESSORS
from numba_fftconv.options import CODELET_SIZES

MOST_SHARED = {sm: MULTIPROCESSORS[divmod(sm, 10)].block_shared for sm in (90, 80)}  # bytes that a block may have
PROCESSES = 2
UNEQUAL = [(2, 64), (32, 64), (64, 2)]
LARGE = (128, 256)
TENSOR = [config for of_one in TENSOR_TILES.values() for config in of_one]
# What the design expected on sm_90: registers of transform and inverse by T; of a tile, registers, loop, share of FFMA.
DESIGNED = {8: "32 / 31", 16: "48 / 50", 32: "80 / 80", 64: "156 / 152"}
DESIGNED_TILES = {
    "128x64": "128, 1141, 89.7%", "64x64": "128, 1154, 88.7%", "tf32x3_64x64": "126, 229, 21.0%",
    "bf16x3_128x64": "128, 249, 19.3%", "tf32_128x64": "120, 159, 20.1%",
}  # fmt: skip
COMPILERS = ("numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink")


@dataclass(frozen=True)
class Figures:
    """One row of the table; `loop` counts the instructions of a product's innermost loop, then its FFMA and HMMA."""

    sm: int
    kernel: str
    threads: int
    registers: int
    stack: int
    local: int
    shared: int
    fp: int
    integer: int
    total: int
    loop: int
    ffma: int
    hmma: int

    def cells(self) -> list[str]:
        """The row as text, the last two figures as shares of the loop."""
        shares = [f"{part / self.loop:.1%}" if part else "" for part in (self.ffma, self.hmma)]
        return [*(str(value) for value in list(asdict(self).values())[:-2]), *shares]


def kernels(sm: int) -> dict[str, Kernel]:
    """By name, every kernel that the tables hold for an architecture."""
    found: list[Kernel] = []
    for size in (*((T, T) for T in CODELET_SIZES), *UNEQUAL):
        B = fft2d.tile_planes(size, MOST_SHARED[sm])
        found += [fft2d.transform_kernel(size, B), fft2d.inverse_kernel(size, B)]
    for T in LARGE:
        found += [columns_pass.columns_kernel(T), rows_pass.rows_kernel(T)]
        found += [rows_pass.inverse_rows_kernel(T), columns_pass.inverse_columns_kernel(T)]
    found += [product_kernel(name, config, vec) for config in TILES for name in FORMS for vec in (1, 2)]
    found += [product_kernel(name, config, vec) for config in TENSOR for name in FORMS for vec in (1, 2)]
    found += [*(pointwise_kernel(name) for name in FORMS), sum_kernel()]
    return {kernel.name: kernel for kernel in found}


def figures(sm: int, name: str) -> Figures:
    """Compile a kernel and count."""
    kernel = kernels(sm)[name]
    code = read(kernel, divmod(sm, 10))
    fp = count(code.instructions, "FADD|FMUL|FFMA")
    integer = count(code.instructions, f"{CLASSES['integer']}|{CLASSES['convert']}")
    loop = code.loop if name.startswith("product") else []
    return Figures(
        sm, name, kernel.threads, code.registers, code.stack, code.local, kernel.shared_bytes, fp, integer,
        len(code.instructions), len(loop), count(loop, "FFMA"), count(loop, "HMMA"),
    )  # fmt: skip


def table(rows: Iterable[Figures]) -> str:
    """The rows in columns."""
    lines = [list(Figures.__dataclass_fields__), *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = [name == "kernel" for name in lines[0]]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if is_left else cell.rjust(w) for cell, w, is_left in zip(line, widths, left, strict=True)
        )
        for line in lines
    )


# ---- condensed -------------------------------------------------------------------------------------------------------


def span(values: Iterable[int]) -> str:
    """The least and the greatest."""
    found = sorted(values)
    return f"{found[0]} to {found[-1]}" if found[0] < found[-1] else str(found[0])


def markdown(rows: list[Figures]) -> str:
    """A line for each transform length and one for each tile, by architecture; spans over passes and widths."""
    found = {(row.sm, row.kernel): row for row in rows}
    lines = ["| sm | T, B | threads | shared | registers | designed | fp | integer | all |", "|---" * 9 + "|"]
    for sm in MOST_SHARED:
        for T in CODELET_SIZES:
            B = fft2d.tile_planes((T, T), MOST_SHARED[sm])
            pair = [found.get((sm, f"{what}_t{T}_b{B}")) for what in ("transform", "inverse")]
            both = [row for row in pair if row is not None]
            if len(both) == 2:
                names = ("registers", "fp", "integer", "total")
                cells = [" / ".join(str(getattr(row, name)) for row in both) for name in names]
                cells.insert(1, DESIGNED.get(T, "") if sm == 90 else "")
                shape = f"{T}, {B} | {both[0].threads} | {both[0].shared}"
                lines.append(f"| {sm} | {shape} | " + " | ".join(cells) + " |")
    lines += ["", "| sm | product | threads | registers | loop | FFMA or HMMA of it | designed |", "|---" * 7 + "|"]
    for sm in MOST_SHARED:
        for title in (*map(str, TILES), *(f"{config.precision}_{config}" for config in TENSOR), "pointwise"):
            tile = [row for row in rows if row.sm == sm and row.kernel.startswith(f"product_{title}_")]
            if tile:
                cells = [str(tile[0].threads), span(row.registers for row in tile), span(row.loop for row in tile)]
                shares = sorted((row.ffma + row.hmma) / row.loop for row in tile)
                cells += [f"{shares[0]:.1%} to {shares[-1]:.1%}", DESIGNED_TILES.get(title, "") if sm == 90 else ""]
                lines.append(f"| {sm} | {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", default=["*"], help="patterns of names (all)")
    parser.add_argument("--sm", nargs="+", type=int, default=list(MOST_SHARED), choices=MOST_SHARED)
    parser.add_argument("--markdown", action="store_true", help="print the condensed tables too")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every figure here")
    chosen = parser.parse_args()
    start = time.perf_counter()
    jobs = [(sm, name) for sm in chosen.sm for name in kernels(sm) if any(fnmatchcase(name, p) for p in chosen.kernels)]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(figures, *zip(*jobs, strict=True))) if jobs else []
    about = machine.describe(PROCESSES, packages=(*machine.PACKAGES, *COMPILERS))
    print(table(rows))
    print(f"{len(rows)} kernels in {time.perf_counter() - start:.0f} s, {about['date']}, {about['versions']}")
    unclean = [row.kernel for row in rows if row.stack or row.local]
    print(f"stack or local memory: {', '.join(unclean) or 'none'}")
    if chosen.markdown:
        print(markdown(rows))
    if chosen.json:
        figures_of_all = {"about": about, "kernels": [asdict(row) for row in rows]}
        chosen.json.write_text(json.dumps(figures_of_all, indent=1) + "\n")


if __name__ == "__main__":
    main()
