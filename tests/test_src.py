"""The kernels of src/ in CUDA C++: they compile by NVRTC, take the arguments of Numba's kernels and give their results.

The PTX of both compilers runs on the machine of numba_fftconv.cuda.ptx_machine: no GPU, no driver, no nvcc.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import product_problem
import pytest
from fake_driver import FakeDriver, fixture_of_fake_driver  # noqa: F401
from gpu import has_gpu
from machine_code import compiles, reads_code
from transform_problem import IDENTITY, Pointer, Problem, check_inverse, check_transform

from numba_fftconv.cuda import driver, fft2d, ptx_machine
from numba_fftconv.cuda.planes import AxisMap, Epilogue, Planes, Strides
from numba_fftconv.cuda.product import FORMS, Pitches, Shape, product_kernel
from numba_fftconv.cuda.tiles import TILES
from numba_fftconv.cuda.toolchain import Kernel, build
from numba_fftconv.geometry import PlaneMap
from numba_fftconv.gpus import MULTIPROCESSORS

sys.path.append(str(Path(__file__).parents[1] / "perf"))
import nvrtc
import twins
import versus_nvcc


def has_nvrtc() -> bool:
    """Whether the library is there; it comes with numba-cuda[cu13]."""
    try:
        from cuda import pathfinder

        pathfinder.load_nvidia_dynamic_lib("nvrtc")
    except (ImportError, RuntimeError):
        return False
    return True


pytestmark = [compiles, pytest.mark.skipif(not has_nvrtc(), reason="needs NVRTC: pip install nvidia-cuda-nvrtc")]
SM = (9, 0)
KERNELS = versus_nvcc.kernels(MULTIPROCESSORS[SM].block_shared)


# ---- compiled --------------------------------------------------------------------------------------------------------


def test_every_kernel_compiles() -> None:
    with ThreadPoolExecutor(2) as pool:
        made = dict(zip(KERNELS, pool.map(lambda kernel: nvrtc.compile_ptx(kernel, SM), KERNELS.values()), strict=True))
    for name, (symbol, ptx) in made.items():
        assert f".entry {symbol}(" in ptx, name
        assert ".local" not in ptx and ".f64 %" not in ptx, f"{name} keeps an array in local memory, or has float64"
    assert {name.split("_")[0] for name in made} == {"transform", "inverse", "product"}


def test_other_kernels_have_no_twin() -> None:
    with pytest.raises(ValueError, match="pointwise_forward has no twin"):
        nvrtc.expression(Kernel("pointwise_forward", lambda: None, (), 32, 0))


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, number, source",
    [
        (Planes, "unsigned", "transform.cu"),
        (Strides, "long long", "transform.cu"),
        (AxisMap, "int", "transform.cu"),
        (Epilogue, "float", "transform.cu"),
        (Shape, "int", "product.cu"),
        (Pitches, "long long", "product.cu"),
    ],
)
def test_fields_of_a_struct_are_those_of_its_namedtuple(fields: Any, number: str, source: str) -> None:
    """By name, at full width: a kernel stores each field where the NamedTuple has it."""
    stores = " ".join(f"out[{i}] = all.{name};" for i, name in enumerate(fields._fields))
    probe = f'extern "C" __global__ void probe({fields.__name__} all, {number} *out) {{ {stores} }}\n'
    symbol, ptx = nvrtc.compile_text((nvrtc.SOURCES / source).read_text() + probe, source, "probe", SM)
    kind = {"unsigned": np.uint32, "int": np.int32, "long long": np.int64, "float": np.float32}[number]
    greatest = 2**24 if number == "float" else np.iinfo(kind).max
    values = fields(*(kind(greatest - i) for i in range(len(fields._fields))))
    out = np.zeros(len(values), kind)
    ptx_machine.run(Kernel(symbol, lambda: None, (), 1, 0), (1, 1, 1), (values, out), ptx)
    assert out.tolist() == list(values)


NUMBERS = Planes(*range(1, 9)), Strides(*range(-2, 3)), AxisMap(*range(5)), AxisMap(*range(-5, 0))


@pytest.mark.parametrize(
    "kernel, arguments",
    [
        (fft2d.transform_kernel((16, 16), 4), (1 << 40, 2 << 40, *NUMBERS)),
        (fft2d.inverse_kernel((16, 16), 4), (1 << 40, 2 << 40, 3 << 40, *NUMBERS, Epilogue(1.5, -0.5))),
        (product_kernel("forward", TILES[5], 2), (1 << 40, 2 << 40, 3 << 40, Shape(*range(8)), Pitches(7, 8, 9))),
    ],
    ids=lambda value: value.name if isinstance(value, Kernel) else "",
)
def test_both_kernels_take_the_same_bytes(kernel: Kernel, arguments: tuple[Any, ...]) -> None:
    texts = ptx_machine.ptx_of(kernel), nvrtc.compile_ptx(kernel, SM)[1]
    ours, theirs = (ptx_machine.pack(ptx_machine.Program(text), arguments) for text in texts)
    assert ours.tolist() == theirs.tolist()


# ---- results ---------------------------------------------------------------------------------------------------------


def launch(kernel: Kernel, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
    """Run the twin of a kernel."""
    plain = tuple(x.base if isinstance(x, Pointer) else x for x in arguments)
    ptx_machine.run(kernel, grid, plain, nvrtc.compile_ptx(kernel, SM)[1])


def launch_both(kernel: Kernel, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
    """Run the twin of a kernel, and the kernel on copies. Products have the same bits: each sum has one order.

    PTX leaves it to the assembler which products and sums of a transform are fused; the machine fuses as PTX says.
    """
    plain = tuple(x.base if isinstance(x, Pointer) else x for x in arguments)
    copies = tuple(x.copy() if isinstance(x, np.ndarray) else x for x in plain)
    launch(kernel, grid, plain)
    ptx_machine.run(kernel, grid, copies)
    for ours, theirs in zip(copies, plain, strict=True):
        if isinstance(ours, np.ndarray):
            close = 0 if kernel.name.startswith("product") else FUSED * np.nanmax(np.abs(ours))
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=close)


FUSED = 2e-7  # of the greatest value
SEGMENTS = PlaneMap(-3, 12, 1, 2, 14, 2), PlaneMap(4, 14, 1, 0, 14, 2)
SPACED = PlaneMap(-3, 14, 2, 1, 15, 2), PlaneMap(5, 13, 3, 0, 13, 2)
BOTH = [
    Problem((16, 16), 4, 2, 1, 25, 24, *SEGMENTS, steps=(1, 2, 3, 2), first=1),
    Problem((16, 16), 4, 1, 3, 15, 11, *SPACED, spaced=True),
    Problem((32, 32), 2, 1, 3, 31, 32),
]
ALONE = [
    Problem((8, 8), 4, 2, 3, 8, 7),
    Problem((16, 16), 16, 1, 5, 16, 13, steps=(1, 1, 2, 3)),
    Problem((16, 16), 4, 1, 3, 3, 4, PlaneMap(0, 0, 3, 0, 8, 1), PlaneMap(0, 0, 2, 0, 8, 1), half=True, spaced=True),
    Problem((32, 32), 8, 1, 9, 16, 11, half=True),
    Problem((64, 64), 2, 1, 1, 31, 61, PlaneMap(1, 0, 2, 3, 60, 1), IDENTITY, spaced=True),
]


def label(problem: Problem) -> str:
    return f"t{problem.size[0]}_b{problem.B}" + "_half" * problem.half + "_spaced" * problem.spaced


@pytest.mark.parametrize("problem", BOTH, ids=label)
def test_transforms_are_those_of_numba(problem: Problem) -> None:
    check_transform(problem, launch_both)
    check_inverse(problem, launch_both, has_bias=True)


def test_sums_with_old_values_are_those_of_numba() -> None:
    check_inverse(BOTH[0], launch_both, has_bias=True, beta=-0.5)


@pytest.mark.parametrize("problem", ALONE, ids=label)
def test_transforms(problem: Problem) -> None:
    check_transform(problem, launch)
    check_inverse(problem, launch, has_bias=True, beta=-0.5 if problem.half else 0.0)


# One value a copy and sums that go on; two, in groups and bins.
RAGGED = [(37, 35, 21, 1, 1, 1, True), (34, 6, 4, 2, 2, 2, False)]


@pytest.mark.parametrize("pass_name", FORMS)
@pytest.mark.parametrize("numbers", RAGGED, ids=["single", "pairs"])
def test_products_are_those_of_numba(pass_name: str, numbers: tuple[Any, ...]) -> None:
    product_problem.check_product(launch_both, product_problem.Problem(pass_name, *numbers), TILES[5])


@pytest.mark.parametrize("tile", range(len(TILES)), ids=lambda i: str(TILES[i]))
@pytest.mark.parametrize("pass_name", FORMS)
def test_products(pass_name: str, tile: int) -> None:
    """Edges on all sides, a depth of two slabs and a bit; two values a copy, or one and sums that go on, by turns."""
    config, odd = TILES[tile], (tile + list(FORMS).index(pass_name)) % 2
    rows, columns, depth = config.BM - 2, config.BN - 4, 2 * config.BK + 2 + odd
    problem = product_problem.Problem(pass_name, rows, columns, depth, gap=2, accumulate=bool(odd))
    product_problem.check_product(launch, problem, config)


# ---- the yardstick ---------------------------------------------------------------------------------------------------


@reads_code
def test_figures_of_a_pair() -> None:
    """What both sides must have in common: accesses, FFMA of the loop. And ratios are Numba over nvcc."""
    ours, theirs = versus_nvcc.compare("product_32x32_forward_v2", SM, by_nvcc=False)
    for made in (ours, theirs):
        assert made.ffma == 4 * 4 * 4 * 16 < made.loop < made.all
        assert made.stack == made.static == 0 and 8 <= made.blocks <= 11
        assert made.shareds == (0, 0, (4 + 4) * 16 // 2)
    assert ours.globals == theirs.globals
    text = versus_nvcc.table({"kernel": (ours, theirs)}).splitlines()
    assert text[3].split()[1] == f"{ours.registers / theirs.registers:.2f}"
    assert f"{ours.all} / {theirs.all}" in versus_nvcc.markdown({"kernel": (ours, theirs)})


@pytest.mark.parametrize("name", ["inverse_t16_b16_accumulate", "product_32x32_weight_grad_v2"])
def test_pairs_run_by_a_driver(name: str, fake_driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches as on a GPU; a clock that gives each a millisecond."""
    monkeypatch.setattr(twins, "LAUNCHES", 1)
    monkeypatch.setattr(twins, "CHANNELS", 3)

    def put(array: np.ndarray) -> twins.Placed:
        there = fake_driver.array(array).host
        return twins.Placed(there.ctypes.data, there.copy)

    of = twins.case(KERNELS[name], samples=1, extent=36, count=1)
    made = twins.compare(KERNELS[name], driver.device(0), put, of, (build, nvrtc.build), turns=2)
    assert (made.numba, made.nvcc) == (1e-3, 1e-3) and made.apart < FUSED
    ours, theirs = {event.details[0] for event in fake_driver.launches()}
    assert len(fake_driver.launches()) == 6 and ours != theirs


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_without_a_gpu_the_reason_is_said() -> None:
    said = versus_nvcc.on_gpu(["transform_t32_b8"], by_nvcc=False)
    assert said.startswith("Time and results are not compared: ") and "\n" not in said
