"""Bank conflicts and what a block moves: by rules worked out by hand, and on the addresses of compiled kernels."""

import numpy as np
import pytest
from machine_code import compiles, count, read, reads_code
from product_problem import Problem, multiply

from numba_fftconv.cuda import fft2d, ptx_machine
from numba_fftconv.cuda.banks import Banks, wavefronts
from numba_fftconv.cuda.counts import Counts
from numba_fftconv.cuda.machine_code import width
from numba_fftconv.cuda.ptx_machine import Instruction
from numba_fftconv.cuda.tiles import TILES
from numba_fftconv.gpus import find_gpu
from numba_fftconv.inspect import library

LANE = np.arange(32)


@pytest.mark.parametrize(
    "address, size, lanes, taken, ideal",
    [
        (4 * LANE, 4, LANE, 1, 1),
        (0 * LANE, 4, LANE, 1, 1),  # one word for all
        (4 * (LANE // 2), 4, LANE, 1, 1),
        (8 * LANE, 4, LANE, 2, 1),
        (4 * 32 * LANE, 4, LANE, 32, 1),
        (4 * 33 * LANE, 4, LANE, 1, 1),
        (LANE, 1, LANE, 1, 1),  # four lanes a word
        (128 * LANE, 1, LANE, 32, 1),
        (8 * LANE, 8, LANE, 2, 2),
        (8 * 16 * LANE, 8, LANE, 32, 2),
        (8 * 17 * LANE, 8, LANE, 2, 2),
        (8 * (LANE % 16) + 8 * (LANE // 16), 8, LANE, 2, 2),  # halves do not disturb one another
        (16 * LANE, 16, LANE, 4, 4),
        (32 * LANE, 16, LANE, 8, 4),
        (128 * LANE, 16, LANE, 32, 4),
        (80 * LANE, 16, LANE, 4, 4),  # an odd number of 16 bytes
        (4 * 32 * LANE[:5], 4, LANE[:5], 5, 1),
        (16 * LANE[:4], 16, LANE[:4], 1, 1),
        (4 * np.arange(64), 4, np.arange(64), 2, 2),  # two warps
        (0 * LANE[:2], 4, np.array([0, 40]), 2, 2),
    ],
)
def test_wavefronts(address: np.ndarray, size: int, lanes: np.ndarray, taken: int, ideal: int) -> None:
    assert wavefronts(address + 0x400, size, lanes) == (taken, ideal)


def access(watch: Banks, what: str, address: np.ndarray, size: int = 4) -> None:
    watch.access(Instruction((what, "shared", "f32"), (), None, "here:1"), "shared", address, size, LANE)


def test_halves_are_joined_as_the_compiler_joins_them() -> None:
    """A complex array that is read as floats, real parts first, in the order of PTX."""
    watch = Banks({"ld": 8})
    for half in (4, 0):
        for row in (0, 256):
            access(watch, "ld", 8 * LANE + row + half)
            access(watch, "st", 8 * LANE + row + half)
    assert {kind: (n.warps, n.wavefronts, n.ideal) for kind, n in watch.kinds.items()} == {
        "st.32": (4, 8, 4),
        "ld.64": (2, 4, 4),
    }
    assert set(watch.lines) == {("st.32", "here:1"), ("ld.64", "here:1")}


def test_what_is_no_half_is_counted_alone() -> None:
    watch = Banks({"ld": 8})
    access(watch, "ld", 8 * LANE)
    access(watch, "ld", 8 * LANE)  # the same again
    watch.step(Instruction(("bar", "sync"), (), None, ""), LANE >= 0)
    access(watch, "ld", 8 * LANE + 4)  # too late
    access(watch, "ld", 8 * LANE + 8)  # 8 bytes that are not aligned
    assert {kind: n.warps for kind, n in watch.kinds.items()} == {"ld.32": 4}


@compiles
@reads_code
@pytest.mark.parametrize("name", ["transform", "inverse"])
def test_transforms(name: str) -> None:
    """As many accesses as the machine code has; at T = 8 half a warp of columns spans two pairs of planes."""
    gpu = find_gpu()
    kernel, _, launch, _, _ = library.subject(name, library.Choices(fft_size=(8, 8)), gpu)
    assert launch is not None
    watch = Banks({"ld": 8, "st": 8})
    ptx_machine.run(kernel, launch.grid, launch.arguments, observer=watch)
    code, warps = read(kernel, gpu.architecture), kernel.threads // 32
    kinds, column = watch.kinds, "st.64" if name == "transform" else "ld.64"
    for kind, opcode in (("ld.64", r"LDS\.64"), ("st.64", r"STS\.64")):
        assert kinds[kind].warps == count(code.instructions, opcode) * warps
        assert kinds[kind].ratio == (2 if kind == column else 1)
    assert set(kinds) == {"ld.64", "st.64"}


@compiles
def test_product_reads_without_conflicts_and_moves_what_it_must() -> None:
    problem, config = Problem("input_grad", 64, 64, 16), TILES[3]
    banks, counts = Banks(), Counts()
    for watch in (banks, counts):
        multiply(lambda *launch, seen=watch: ptx_machine.run(*launch, observer=seen), problem, config, problem.arrays())
    assert banks.kinds["ld.128"].ratio == 1
    loads = (config.TM + config.TN) // 2 * 16  # of a thread
    assert banks.kinds["ld.128"].warps == loads * config.threads // 32
    moved = 8 * (64 * 16 + 16 * 64 + 64 * 64)
    assert counts.asked == counts.moved == counts.touched == moved
    assert counts.flops == 8 * 64 * 64 * 16 + 2 * 64 * 64  # and a half of each result


def test_sectors() -> None:
    """Floats 8 apart: 32 sectors, twice for two warps, of which 4 bytes each are asked for."""
    counts, thread = Counts(), np.arange(64)
    load = Instruction(("ld", "global", "f32"), (), None, "")
    counts.access(load, "global", 32 * (thread % 32), 4, thread)
    counts.access(load, "shared", 32 * (thread % 32), 4, thread)
    assert (counts.asked, counts.moved, counts.touched) == (256, 2048, 1024)
    counts.access(load._replace(words=("st", "global", "f32")), "global", 4 * LANE, 4, LANE)
    assert counts.touched == 1024 + 128


def test_flops() -> None:
    counts, active = Counts(), np.array([True] * 20 + [False] * 12)
    for words in (("fma", "rn", "f32"), ("add", "f32"), ("add", "s32"), ("mov", "f32"), ("rsqrt", "approx", "f32")):
        counts.step(Instruction(words, (), None, ""), active)
    assert counts.flops == 20 * (2 + 1 + 1)
    mma = "mma", "sync", "aligned", "m16n8k8", "row", "col", "f32", "tf32", "tf32", "f32"
    counts.step(Instruction(mma, (), None, ""), np.ones(64, np.bool_))
    assert counts.flops == 80 + 2 * 2 * 16 * 8 * 8


def test_widths() -> None:
    assert [width(name) for name in ("LDGSTS.E.BYPASS.128", "LDS.U16", "STL", "STG.E.S8")] == [16, 2, 4, 1]


def test_tile_of_t8_has_the_strides_that_conflict() -> None:
    """The reason for the 2.0 above: an odd stride of planes serves rows, and puts pairs 2 places of 16 apart."""
    assert 2 * fft2d.layout((8, 8), 32).plane % 16 == 2
