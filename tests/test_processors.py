"""The same results where vectors are shorter: Numba is told to compile for lesser processors than this one."""
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from llvmlite import binding, ir
from numba import types

from numba_fftconv.cpu import tiles
from numba_fftconv.cpu.registers import TILES, Registers, Tile, registers_of
from numba_fftconv.cpu.vector import Emitter

NAMES = {
    "AVX2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+sse4.2,+popcnt,+bmi,+bmi2"},
    "SSE2": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"},
}
OUTPUTS = {"AVX2": 3, "SSE2": 1}
X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
# A processor of each kind: its registers, multiply-adds of a step, and how a vector looks that goes through the stack.
CODE = {
    "skylake-avx512": (X86, Registers(32, 64), 16, r"vfn?m(add|sub)\d+ps", r"\b[xyz]mm\d+.*\(%rsp\)|\(%rsp\).*[xyz]mm"),
    "haswell": (X86, Registers(16, 32), 24, r"vfn?m(add|sub)\d+ps", r"\b[xyz]mm\d+.*\(%rsp\)|\(%rsp\).*[xyz]mm"),
    "neoverse-n1": (ARM, Registers(32, 16), 32, r"fml[as]\t", r"\b[qv]\d+.*\[sp"),
    "x86-64": (X86, Registers(16, 16), 16, r"mulps", r"\bxmm\d+.*\(%rsp\)|\(%rsp\).*xmm"),
}
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from strategies import PASSES, Arrays, Problem, call
from numba_fftconv.cpu.samples import has_conversions
from numba_fftconv.cpu.tiles import OUTPUTS
from numba_fftconv.dtypes import HALVES, rounded, widened

assert OUTPUTS == int(sys.argv[2]), OUTPUTS
layers = [Problem(17, 5, 9, 14, 18, 3, 3, padding=1), Problem(40, 2, 8, 8, 3, 3, 3, dtype="float64")]
for problem in (*layers, Problem(2, 3, 70, 30, 2, 17, 3, fft_size=64)):
    plan, a = problem.plan(), problem.arrays()
    for name, want in problem.expected(a).items():
        error = np.linalg.norm(call(plan, a, name) - want) / np.linalg.norm(want)
        assert error <= problem.tolerance(plan, name), (problem, name, error)
problem = Problem(3, 2, 9, 21, 3, 3, 2, stride=(2, 1), padding=1)
for dtype in HALVES:
    rough = Arrays(*(rounded(a, dtype) for a in problem.arrays()))
    single = Arrays(*map(widened, rough))
    for name in PASSES:
        got, want = call(problem.plan(dtype=dtype), rough, name), rounded(call(problem.plan(), single, name), dtype)
        assert got.tobytes() == want.tobytes(), (dtype, name)
print("done", has_conversions())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of x86-64")
@pytest.mark.parametrize("name", NAMES)
def test_short_registers(name: str) -> None:
    """In a process of its own, because Numba reads the processor once."""
    command = [sys.executable, "-c", SCRIPT, os.path.dirname(__file__), str(OUTPUTS[name])]
    done = subprocess.run(
        command, env={**os.environ, **NAMES[name]}, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done False\n"), done.stderr


def test_registers_are_those_of_the_processor() -> None:
    haswell = "+sse2,+avx,+avx2,+fma,-avx512f"
    assert registers_of("x86_64", f"{haswell},+avx512f") == Registers(32, 64)
    assert registers_of("AMD64", haswell) == Registers(16, 32)
    assert registers_of("x86_64", "+sse2,-avx") == registers_of("riscv64", "") == Registers(16, 16)
    assert registers_of("aarch64", "+neon,+sve") == registers_of("arm64", "") == Registers(32, 16)


def sum_products(emit: Emitter, tile: Tile, arguments: list[Any]) -> None:
    """The loop of forward and input_grad."""
    x, w, y, span = arguments[:3], arguments[5:10], arguments[10:13], arguments[13:]
    tiles.sum_products(emit, tile.outputs, x, w, y, span, arguments[0])


def sum_pairs(emit: Emitter, tile: Tile, arguments: list[Any]) -> None:
    """The loop of weight_grad; a pair's lines follow those before."""
    x, d, data, steps = arguments[:4], arguments[5:9], arguments[10], arguments[13]
    pairs = [(emit.const(q * emit.count), emit.const(q * emit.count)) for q in range(tile.pairs)]
    for q, found in enumerate(tiles.sum_pairs(emit, pairs, x, d, steps)):
        emit.store(found, data, emit.const(q * emit.count))


def loop_of_a_tile(monkeypatch: pytest.MonkeyPatch, processor: str, sums: Callable[..., None]) -> list[str]:
    """The instructions of one step of a product, as LLVM compiles it for another processor."""
    triple, registers, _, multiply_add, _ = CODE[processor]
    tile = TILES[registers]
    monkeypatch.setattr(tiles, "APART", tile.apart)
    real, index = ir.FloatType(), ir.IntType(64)
    planes = real.as_pointer()
    kinds = [planes, *[index] * 4, planes, *[index] * 4, planes, *[index] * 3, ir.IntType(1)]  # x, w or d, y, steps
    module = ir.Module()
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    emit = Emitter(SimpleNamespace(get_value_type=lambda _: real), builder, types.float32)
    sums(emit, tile, list(function.args))
    builder.ret_void()

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    compiled = binding.parse_assembly(str(module))
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=processor, opt=3)
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(compiled, passes)
    blocks = re.split(r"\n(?=\.L\w+:)", machine.emit_assembly(compiled))
    return max(blocks, key=lambda block: len(re.findall(multiply_add, block))).splitlines()


@pytest.mark.parametrize("processor", CODE)
def test_sums_of_a_tile_stay_in_registers(monkeypatch: pytest.MonkeyPatch, processor: str) -> None:
    _, _, count, multiply_add, spill = CODE[processor]
    lines = loop_of_a_tile(monkeypatch, processor, sum_products)
    assert sum(bool(re.search(multiply_add, line)) for line in lines) == count
    assert not [line for line in lines if re.search(spill, line)]
    assert len(lines) <= 5 * count, "more than addresses, loads and multiply-adds"


@pytest.mark.parametrize("processor", CODE)
def test_sums_of_pairs_stay_in_registers(monkeypatch: pytest.MonkeyPatch, processor: str) -> None:
    """Four multiply-adds of half a line for each pair, at f and at -f."""
    _, registers, _, multiply_add, spill = CODE[processor]
    lines = loop_of_a_tile(monkeypatch, processor, sum_pairs)
    whole = 64 // registers.nbytes  # registers of a line
    assert sum(bool(re.search(multiply_add, line)) for line in lines) == TILES[registers].pairs * 4 * whole
    assert not [line for line in lines if re.search(spill, line)]
