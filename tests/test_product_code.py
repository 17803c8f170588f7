"""The machine code of the product kernels, for every tile, pass and width: read off cubins, no GPU needed."""

import dataclasses
import re
import subprocess
import sys

import pytest
from machine_code import Code, compiles, count, read, reads_code

from numba_fftconv.cuda.pointwise import pointwise_kernel
from numba_fftconv.cuda.product import FORMS, product_kernel
from numba_fftconv.cuda.tensor_tiles import HMMA, TENSOR_TILES, TensorConfig
from numba_fftconv.cuda.tiles import TILES, ProductConfig

pytestmark = [compiles, reads_code]

BY_PAIRS = [pytest.param(config, 2, id=f"{config}-2") for config in TILES]
FEW = (TILES[0], TILES[3], TILES[5])  # of which CI reads the code for all architectures and for single values as well
MARKS = {config: [] if config in FEW else [pytest.mark.slow] for config in TILES}
SINGLY = [pytest.param(config, 1, marks=MARKS[config], id=f"{config}-1") for config in TILES]
ON_AMPERE = [pytest.param(config, marks=MARKS[config], id=str(config)) for config in TILES]

# Registers that a thread may take for its accumulators. Beyond 255 the compiler spills, beyond the budget of tiles.py
# for 32 and 16 a multiprocessor holds a block fewer.
REGISTERS = {64: 238, 32: 128, 16: 96, 8: 80}  # by accumulators; a study of 64 took 230, one of 32 took 128
LEAST_SHARE = {64: 0.85, 32: 0.85, 16: 0.85, 8: 0.75}  # of FFMA in the loop; memory sets the pace of thin tiles
SHALLOW_SHARE = 0.8  # of slabs of 4 steps

# On tensor cores, by precision: the tile of the study before this, its registers, and the instructions of its loop;
# that of bf16x3 had 249 and no fresh sums, 64 additions a slab.
STUDIED = {"tf32x3": ("64x64", 126, 229), "bf16x3": ("128x64", 128, 249 + 64), "tf32": ("128x64", 120, 159)}
TENSOR = [config for of_one in TENSOR_TILES.values() for config in of_one]
QUICK = {("tf32x3", "forward"), ("bf16x3", "weight_grad"), ("tf32", "input_grad")}


def check_clean(code: Code, name: str, spilled: int = 0) -> None:
    """Nothing spilled but so many bytes, none of them in the loop; no local memory, generic access or float64."""
    assert code.stack <= spilled and code.local == 0, name
    assert count(code.instructions, "LDL|STL") <= spilled // 4 and count(code.loop, "LDL|STL") == 0, name
    forbidden = {op for op in code.instructions if re.match(r"LD\.|ST\.|LD$|ST$|D(ADD|MUL|FMA|SETP)|F2F\b", op)}
    assert not forbidden, f"{name}: {forbidden}"
    assert not re.search(r"^\s+(?:@\S+\s+)?[a-z][\w.]*\.f64", code.ptx, re.MULTILINE), name


@pytest.mark.parametrize("config, vec", BY_PAIRS + SINGLY)
@pytest.mark.parametrize("pass_name", FORMS)
def test_hopper(config: ProductConfig, pass_name: str, vec: int) -> None:
    kernel = product_kernel(pass_name, config, vec)
    code = read(kernel, (9, 0))
    check_clean(code, kernel.name)
    assert re.search(r"\.extern \.shared \.align 16 ", code.ptx), "vectors of 16 bytes want their alignment said"
    accumulators = config.TM * config.TN
    assert code.registers <= REGISTERS[accumulators], f"{kernel.name}: {code.registers} registers"
    assert count(code.loop, "FFMA") == 4 * accumulators * config.BK
    assert count(code.loop, r"LDS\.128") == (config.TM + config.TN) * config.BK // 2
    copies = (config.BM + config.BN) * config.BK // config.threads // vec
    assert count(code.loop, r"LDGSTS\..*128" if vec == 2 else r"LDGSTS\.E\.64") == copies
    assert count(code.loop, "LDG(?!STS|DEP)|STG|STS") == 0
    wide = vec == 2 and not FORMS[pass_name].b_kmajor
    assert count(code.instructions, r"STG\.E\.128" if wide else r"STG\.E\.64") == accumulators // (2 if wide else 1)
    share = count(code.loop, "FFMA") / len(code.loop)
    least = LEAST_SHARE[accumulators] if config.BK > 4 else SHALLOW_SHARE
    assert share >= least, f"{kernel.name}: {share:.1%} of {len(code.loop)} instructions are FFMA"


@pytest.mark.parametrize("config", ON_AMPERE)
@pytest.mark.parametrize("pass_name", FORMS)
def test_ampere(config: ProductConfig, pass_name: str) -> None:
    """The oldest architecture that has cp.async; shares are a matter of the newest."""
    kernel = product_kernel(pass_name, config, 2)
    code = read(kernel, (8, 0))
    check_clean(code, kernel.name)
    assert code.registers <= REGISTERS[config.TM * config.TN]
    assert count(code.instructions, r"LDGSTS\..*128") and count(code.instructions, r"LDS\.128")


def check_tensor(config: TensorConfig, pass_name: str, vec: int, architecture: tuple[int, int]) -> Code:
    """What holds of every tile on tensor cores, on every architecture."""
    kernel = product_kernel(pass_name, config, vec)
    code, (down, across) = read(kernel, architecture), config.fragments
    large = down * across == 8 and (config.precision, pass_name) == ("bf16x3", "weight_grad")
    check_clean(code, kernel.name, 8 if large and architecture == (8, 0) else 0)
    assert code.registers <= config.most_registers, f"{kernel.name}: {code.registers} registers"
    kind = r"HMMA\.16816\.F32\.BF16" if config.precision == "bf16x3" else r"HMMA\.1688\.F32\.TF32"
    assert count(code.loop, kind) == count(code.loop, "HMMA") == HMMA[config.precision] * down * across
    assert count(code.loop, r"LDS\.128") == count(code.loop, "LDS") == 2 * down + across
    copies = (config.BM + config.BN) * config.BK // config.threads // vec
    assert count(code.loop, r"LDGSTS\..*128" if vec == 2 else r"LDGSTS\.E\.64") == copies
    assert count(code.loop, "LDG(?!STS|DEP)|STG|STS") == 0
    sums = 4 * down * across
    assert count(code.instructions, r"STG\.E\.128" if vec == 2 else r"STG\.E\.64") == sums // vec
    return code


@pytest.mark.parametrize("precision, pass_name", [
    pytest.param(precision, name, marks=[] if (precision, name) in QUICK else [pytest.mark.slow])
    for precision in STUDIED for name in FORMS
])  # fmt: skip
def test_tensor_tiles_of_the_study(precision: str, pass_name: str) -> None:
    """No more registers and no longer a loop."""
    title, registers, loop = STUDIED[precision]
    config = next(config for config in TENSOR_TILES[precision] if str(config) == title)
    code = check_tensor(config, pass_name, 2, (9, 0))
    assert code.registers <= registers and len(code.loop) <= loop


@pytest.mark.slow
@pytest.mark.parametrize("config", TENSOR, ids=lambda config: f"{config.precision}-{config}")
@pytest.mark.parametrize("pass_name", FORMS)
@pytest.mark.parametrize("vec", [1, 2])
@pytest.mark.parametrize("architecture", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
def test_every_tensor_tile(config: TensorConfig, pass_name: str, vec: int, architecture: tuple[int, int]) -> None:
    check_tensor(config, pass_name, vec, architecture)


@pytest.mark.parametrize("pass_name", FORMS)
def test_pointwise(pass_name: str) -> None:
    """All accesses are 64 bits; the innermost loop has four rows on their way, two of them before its first FFMA."""
    code = read(pointwise_kernel(pass_name), (9, 0))
    check_clean(code, pass_name)
    assert code.registers <= 64  # eight blocks of 128 threads
    assert all(op == "LDG.E.64" for op in code.instructions if re.match("LDG(?!DEP)", op))
    assert all(op == "STG.E.64" for op in code.instructions if op.startswith("STG"))
    first = next(i for i, op in enumerate(code.loop) if op.startswith("FFMA"))
    assert count(code.loop, "LDG") >= 4 and count(code.loop[:first], "LDG") >= 2


def test_the_reader_sees_a_spill() -> None:
    """The test of the tests: with half of their registers the accumulators do not fit."""
    kernel = product_kernel("forward", TILES[3], 2)
    code = read(dataclasses.replace(kernel, most_registers=64), (9, 0))
    with pytest.raises(AssertionError):
        check_clean(code, kernel.name)


def test_compiling_twice_gives_the_same_code() -> None:
    """In two processes, but for the kernel's symbol and the order of Numba's own, which no instruction names."""
    script = (
        "import hashlib;from numba_fftconv.cuda import product,tiles,toolchain as t;"
        "b=t.build(product.product_kernel('forward',tiles.TILES[5],2),(9,0));"
        "code=[line for line in b.ptx.replace(b.symbol,'').splitlines() if 'NumbaEnv' not in line];"
        "print(hashlib.sha256('|'.join(code).encode()).hexdigest())"
    )
    digests = {subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(digests) == 1
