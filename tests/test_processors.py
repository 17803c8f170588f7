"""The same results where vectors are shorter: Numba is told to compile for lesser processors than this one."""
import os
import platform
import subprocess
import sys

import pytest

NAMES = {
    "AVX2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+sse4.2,+popcnt,+bmi,+bmi2"},
    "SSE2": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"},
}
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from strategies import Problem, call
from numba_fftconv.cpu.product import OUTPUTS

assert OUTPUTS == 1, OUTPUTS
for problem in (Problem(17, 5, 9, 14, 18, 3, 3, padding=1), Problem(40, 2, 8, 8, 3, 3, 3, dtype="float64")):
    plan, a = problem.plan(), problem.arrays()
    for name, want in problem.expected(a).items():
        error = np.linalg.norm(call(plan, a, name) - want) / np.linalg.norm(want)
        assert error <= problem.tolerance(plan, name), (problem, name, error)
print("done")
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of x86-64")
@pytest.mark.parametrize("name", NAMES)
def test_short_registers(name: str) -> None:
    """In a process of its own, because Numba reads the processor once."""
    command = [sys.executable, "-c", SCRIPT, os.path.dirname(__file__)]
    done = subprocess.run(
        command, env={**os.environ, **NAMES[name]}, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
