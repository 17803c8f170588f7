"""Faults seeded into copies of the package, and the rings of tests that ought to notice them.

A fault is one place of one file, changed as a slip of the hand would change it. A ring is a selection of the suite's
own tests, the smallest that shows what the ring can see: pure Python, kernels as Python in the simulator, kernels as
the compiler makes them. `run` runs a ring against a copy, in a process of its own.

What a ring does not see, and why:

    pure Python    What a kernel does: barriers, conjugations, indices, stores. It runs none, and sees only the numbers
                   that a kernel is given, such as a map or a vector width.
    simulator      What is said to the compiler alone, such as the signs and vector stores of ffma.py: a twin in Python
                   runs in its place. An index that 32 bits cannot hold: its arrays are real memory, and small. An
                   access that is not aligned: to Python a pair is two values.
    machine code   None of these faults; but it compiles for seconds before it says so, and a wrong map comes to it as
                   an order like any other, which only a whole layer shows to be wrong.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numba_fftconv

PACKAGE = Path(numba_fftconv.__file__).parent
TESTS = Path(__file__).parent
MOST_SECONDS = 300  # of a ring
ENVIRONMENT = dict(os.environ)  # as it is now: pytest changes it with every test, while threads start rings


class Ring(NamedTuple):
    """`checks` are tests as pytest takes them, below the folder of the tests; all run up to the first that fails."""

    name: str
    checks: tuple[str, ...]
    simulates: bool = False


PYTHON, SIMULATOR, MACHINE_CODE = "pure Python", "simulator", "machine code"
RINGS = (
    Ring(PYTHON, (
        "test_product_config.py", "test_cuda_schedule.py", "test_geometry.py::test_the_maps_make_the_three_passes",
        "test_geometry.py::test_places_is_its_equation", "test_geometry.py::test_maps_are_64_bit",
    )),
    Ring(SIMULATOR, (
        "simulated/test_fft2d.py::test_round_trip",
        "simulated/test_fft2d.py::test_old_values_are_added_only_on_request",
        "simulated/test_fft2d.py::test_two_planes_of_a_pair_may_lie_in_different_segments",
        "simulated/test_product.py::test_narrow_copies_of_even_rows",
        "simulated/test_layers.py::test_corners[1x2x17x5 to 3, 3x1, T 4]",
    ), simulates=True),
    Ring(MACHINE_CODE, (
        "test_far_bins.py", "test_cuda_layers.py::test_against_the_definition[2x2x17x5 to 3, 3x1, T 4]",
        "test_product_code.py::test_hopper[input_grad-32x32-1]",
    )),
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """`old`, which stands once in a file of the package, becomes `new`.

    seen_by : the rings that fail, with a pattern of what they say.
    is_variant : of the fault before it, in another place.
    """

    name: str
    file: str
    old: str
    new: str
    seen_by: dict[str, str] = field(hash=False)
    is_variant: bool = False

    def __str__(self) -> str:
        return self.name


FAULTS = (
    Fault(
        "no barrier in the transform", "cuda/fft2d.py",
        "cuda.syncthreads()  # all columns",
        "# all columns",
        {SIMULATOR: "AssertionError.*nan", MACHINE_CODE: r"RaceError.*no barrier between.* at fft2d\.py.* at fft2d"},
    ),
    Fault(
        "no barrier in the product", "cuda/product.py",
        "cuda.syncthreads()  # copies into",
        "# copies into",
        {SIMULATOR: "error nan", MACHINE_CODE: r"RaceError.*no barrier between.* at product\.py.* at product"},
        is_variant=True,
    ),
    Fault(
        "a column too many of a plane", "cuda/planes.py",
        "return held and x < int32(planes.width), x",
        "return held and x <= int32(planes.width), x",
        {SIMULATOR: "IndexError: inverse", MACHINE_CODE: r"AccessError: fft2d\.py.* outside of the arrays"},
    ),
    Fault(
        "a position too early in the map of dx", "geometry.py",
        "PlaneMap(-self.reach, T - self.reach, 1, self.reach, T,",
        "PlaneMap(-self.reach, T - self.reach, 1, self.reach - 1, T,",
        {PYTHON: "a sample is stored twice", SIMULATOR: "input_grad: error", MACHINE_CODE: "input_grad: error"},
        is_variant=True,
    ),
    Fault(
        "the other operand of weight_grad conjugated", "cuda/product.py",
        "\"weight_grad\": Form(False, False, True, False,",
        "\"weight_grad\": Form(False, False, False, True,",
        {SIMULATOR: "'weight_grad'.*: error 1", MACHINE_CODE: "'weight_grad'.*: error 1"},
    ),
    Fault(
        "a sign of the product after the wrong operand", "cuda/ffma.py",
        "negated(builder, ar, conj_b)",
        "negated(builder, ar, conj_a)",
        {MACHINE_CODE: "'forward'.*: error"},
        is_variant=True,
    ),
    Fault(
        "the bin of a row of the transform cut to 32 bits", "cuda/fft2d.py",
        "store_c64(gX, f, z[i])",
        "store_c64(gX, uint64(uint32(f)), z[i])",
        {MACHINE_CODE: r"AccessError: fft2d\.py:\d+: st\.global\.v2\.f32.* outside of the arrays"},
    ),
    Fault(
        "the bin of A in the product cut to 32 bits", "cuda/product.py",
        "i64(f * pitches.a + group_a)",
        "i64(i32(f * pitches.a + group_a))",
        {MACHINE_CODE: r"AccessError: product\.py:\d+: cp\.async.* outside of the arrays"},
        is_variant=True,
    ),
    Fault(
        "stores in pairs where rows are odd", "cuda/accumulators.py",
        "together = 2 if wide and in_pairs(columns) else 1",
        "together = 2 if in_pairs(columns) else 1",
        {MACHINE_CODE: r"AlignmentError: product\.py:\d+: st\.global\.v4\.f32"},
    ),
    Fault(
        "copies in pairs where bins begin at odd places", "cuda/product.py",
        "(shape.lda, shape.ldb, shape.ldy), pitches, steps)",
        "(shape.lda, shape.ldb, shape.ldy), steps)",
        {PYTHON: "assert 2 == 1", MACHINE_CODE: r"AlignmentError: product\.py:\d+: cp\.async.*, 16,"},
        is_variant=True,
    ),
)  # fmt: skip


def copied(fault: Fault | None, folder: Path) -> Path:
    """Puts a copy of the package, with a fault or sound, into a folder that is to be its PYTHONPATH."""
    shutil.copytree(PACKAGE, folder / PACKAGE.name)
    if fault:
        path = folder / PACKAGE.name / fault.file
        text = path.read_text(encoding="utf-8")
        found = text.count(fault.old)
        if found != 1:
            said = f"{fault.name}: what it changes stands {found} times in {fault.file}"
            raise LookupError(f"{said}, and must stand there once; find the fault a new place")
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return folder


def run(ring: Ring, folder: Path) -> str:
    """What the first failure of a ring says in one line, with the package of that folder; "" where all tests pass."""
    checks = [str(TESTS / check) for check in ring.checks]
    environment = {
        **ENVIRONMENT,
        "PYTHONPATH": str(folder),
        "NUMBA_ENABLE_CUDASIM": str(int(ring.simulates)),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "CI": "1",  # the same examples in every run
        "COLUMNS": "500",
    }
    options = ["-x", "-q", "--tb=short", "--color=no", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *checks, *options]
    child = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=MOST_SECONDS, check=False
    )
    shown = child.stdout + child.stderr
    if child.returncode == 0 and re.search(r"^\d+ passed", shown, re.MULTILINE):
        return ""
    failed = re.search(r"^FAILED \S.*? - (?:\w+\.)*(\w+.*)$", shown, re.MULTILINE)
    if child.returncode != 1 or not failed:
        raise RuntimeError(f"the tests of the ring did not run:\n{shown}")
    return failed[1]
