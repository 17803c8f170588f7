"""The machine code of large transforms: registers, no local memory, accesses of full width, no bank conflicts.

Read off cubins that are made here for GPUs that are elsewhere; what they compute is tests/ptx_checks.py's affair.
"""

from functools import cache

import numpy as np
import pytest
from machine_code import compiles, count, read, reads_code
from transform_problem import Pointer, Problem, check_inverse, check_transform

from numba_fftconv.cuda import ptx_machine
from numba_fftconv.cuda.banks import Banks
from numba_fftconv.cuda.columns_pass import columns_kernel, inverse_columns_kernel
from numba_fftconv.cuda.machine_code import Code
from numba_fftconv.cuda.rows_pass import inverse_rows_kernel, rows_kernel
from numba_fftconv.cuda.toolchain import Architecture, Kernel

pytestmark = compiles

HOPPER, AMPERE = (9, 0), (8, 0)
REGISTERS = {128: 64, 256: 80}  # of four and of three blocks a multiprocessor; of two where spectra are written at 256
KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for T in (128, 256)
    for kernel in (columns_kernel(T), rows_kernel(T), inverse_rows_kernel(T), inverse_columns_kernel(T))
}
MORE: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        *(columns_kernel(T, True) for T in (64, 128, 256)),
        *(inverse_columns_kernel(T, True) for T in (64, 128, 256)),
        *(inverse_columns_kernel(T, False, True) for T in (2, 128, 256)),
        inverse_columns_kernel(128, True, True),
        inverse_columns_kernel(128, True, False, "bfloat16"),
        *(made(T) for T in (2, 64) for made in (columns_kernel, rows_kernel, inverse_rows_kernel)),
        *(inverse_columns_kernel(T) for T in (2, 64)),
    )
}


@cache
def code_of(name: str, architecture: Architecture) -> Code:
    return read((KERNELS | MORE)[name], architecture)


def check(name: str, architecture: Architecture) -> None:
    kernel, code = (KERNELS | MORE)[name], code_of(name, architecture)
    assert (code.stack, code.local, count(code.instructions, "LDL|STL")) == (0, 0, 0), "the column left the registers"
    assert count(code.instructions, r"D(ADD|MUL|FMA|SETP|MNMX)|F2F.*F64|I2F.*F64") == 0, "float64"
    assert count(code.instructions, r"(LD|ST)\.") == 0, "an access whose memory space the compiler did not see"
    assert count(code.instructions, "BAR") == (1 if kernel.shared_bytes else 0)
    assert code.registers * kernel.threads <= 65536
    T = int(name.split("_t")[1].split("_")[0])
    if T in REGISTERS:
        most = 128 if name == "transform_rows_t256" or "accumulate" in name or "bf16" in name else REGISTERS[T]
        most = 80 if name == "inverse_columns_t128_spaced" else most  # of three blocks
        assert code.registers <= most
    V = r"STG\.E\.128" if name.startswith("transform_columns") else r"LDG\.E\.128"
    if "columns" in name:  # two planes at a time; of a long column a thread has R1 or more frequencies, in pairs k, -k
        assert count(code.instructions, V) >= (T // 2 if T <= 64 else T // 16)


@reads_code
@pytest.mark.parametrize("name", KERNELS)
def test_code_is_as_it_was_designed(name: str) -> None:
    check(name, HOPPER)


@reads_code
@pytest.mark.slow
@pytest.mark.parametrize("architecture", [HOPPER, AMPERE], ids=["sm90", "sm80"])
@pytest.mark.parametrize("name", KERNELS | MORE)
def test_all_of_it_is(name: str, architecture: Architecture) -> None:
    check(name, architecture)


@pytest.mark.parametrize("size", [(128, 2), (2, 128)])
def test_shared_memory_has_no_conflicts(size: tuple[int, int]) -> None:
    """Nor races, which the machine looks for; a third plane is a pair alone."""
    watch = Banks({"ld": 8, "st": 8})

    def launch(kernel: Kernel, grid: tuple[int, int, int], arguments: tuple[object, ...]) -> None:
        plain = tuple(x.base if isinstance(x, Pointer) else x for x in arguments)
        ptx_machine.run(kernel, grid, plain, observer=watch)

    problem = Problem(size, 2, N=1, C=3, height=size[0], width=size[1])
    check_transform(problem, launch)
    check_inverse(problem, launch, has_bias=True)
    assert {kind: accesses.ratio for kind, accesses in watch.kinds.items()} == {"ld.64": 1, "st.64": 1}


def test_constants_of_the_machine_are_checked() -> None:
    """The test of the tests: twiddles beyond the table are seen."""
    kernel = columns_kernel(128)
    ptx = ptx_machine.ptx_of(kernel)
    assert ".const" in ptx
    problem = Problem((128, 2), 2, N=1, C=1, height=128, width=2)
    broken = ptx.replace("[1024] = {", "[64] = {")
    start = broken.index("[64] = {") + len("[64] = {")
    values = broken[start : broken.index("}", start)].split(",")
    broken = broken[:start] + ",".join(values[:64]) + broken[broken.index("}", start) :]

    def launch(kernel: Kernel, grid: tuple[int, int, int], arguments: tuple[object, ...]) -> None:
        plain = tuple(x.base if isinstance(x, Pointer) else x for x in arguments)
        ptx_machine.run(kernel, grid, plain, broken if kernel.name == "transform_columns_t128" else None)

    with pytest.raises(IndexError, match="const address out of range"):
        check_transform(problem, launch)


def test_sums_of_many_values_keep_their_accuracy() -> None:
    """Of a plane of ones every bin is 0 but the first; of one sample all are as large."""
    from ptx_checks import launch

    problem = Problem((2, 256), 2, N=1, C=2, height=2, width=256)
    _, view = problem.array()
    view[:] = 1
    view[0, 1] = 0
    view[0, 1, 1, 255] = 1
    from transform_problem import spectrum, transform

    gX = np.zeros((258, problem.pitch), np.complex64)
    transform(problem, launch, Pointer(view, view), Pointer(gX, gX), *problem.numbers(view))
    want = spectrum(problem.tiles(view))
    assert np.abs(gX[:, :2] - want).max() <= 1e-6 * 1024 and np.abs(want[:, 1]).min() > 1.9
