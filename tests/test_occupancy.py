"""Blocks on a multiprocessor: as NVIDIA's own header counts them, and in figures worked out by hand."""

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from numba_fftconv.cuda.occupancy import occupancy
from numba_fftconv.errors import InvalidOptionError
from numba_fftconv.gpus import GPUS, MULTIPROCESSORS, find_gpu

HOPPER = MULTIPROCESSORS[9, 0]

PROGRAM = """
#include <string.h>
#include <cuda_occupancy.h>
int blocks(int major, int minor, int sm_threads, int sm_shared, int most_shared, int threads, int registers, int shared)
{
    struct cudaOccDeviceProp p; struct cudaOccFuncAttributes f; struct cudaOccDeviceState s; struct cudaOccResult r;
    memset(&p, 0, sizeof p); memset(&f, 0, sizeof f); memset(&s, 0, sizeof s);
    p.computeMajor = major; p.computeMinor = minor; p.maxThreadsPerBlock = 1024; p.warpSize = 32;
    p.maxThreadsPerMultiprocessor = sm_threads; p.regsPerBlock = p.regsPerMultiprocessor = 65536;
    p.sharedMemPerBlock = 49152; p.sharedMemPerMultiprocessor = sm_shared; p.sharedMemPerBlockOptin = most_shared;
    p.reservedSharedMemPerBlock = 1024; p.numSms = 1;
    f.maxThreadsPerBlock = 1024; f.numRegs = registers; f.maxDynamicSharedSizeBytes = most_shared;
    f.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN; s.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &f, &s, threads, shared)) return -1;
    return r.activeBlocksPerMultiprocessor;
}
"""


def header() -> Path | None:
    found = importlib.util.find_spec("nvidia")
    places = (found and found.submodule_search_locations) or ()
    return next((path for place in places for path in Path(place).glob("*/include/cuda_occupancy.h")), None)


@pytest.mark.skipif(not shutil.which("cc") or header() is None, reason="needs a C compiler and cuda_occupancy.h")
def test_as_nvidia_counts(tmp_path: Path) -> None:
    source, library, include = tmp_path / "occupancy.c", tmp_path / "occupancy.so", header()
    source.write_text(PROGRAM)
    assert include is not None
    subprocess.run(["cc", "-shared", "-fPIC", "-w", f"-I{include.parent}", "-o", library, source], check=True)
    theirs = ctypes.CDLL(str(library)).blocks
    compared = 0
    for (major, minor), own in MULTIPROCESSORS.items():
        for threads in (1, 32, 33, 64, 96, 128, 160, 256, 320, 512, 768, 992, 1024):
            for registers in (1, 16, 32, 33, 40, 48, 80, 96, 97, 128, 156, 160, 168, 232, 255):
                for shared in (0, 1, 127, 128, 8192, 16512, 30720, 33024, 46080, 49152, 66048, 98304, own.block_shared):
                    known = theirs(major, minor, own.threads, own.shared, own.block_shared, threads, registers, shared)
                    found = occupancy(own, threads, registers, shared)
                    assert found.blocks == known, (major, minor, threads, registers, shared, found)
                    compared += 1
    assert compared == len(MULTIPROCESSORS) * 13 * 15 * 13


@pytest.mark.parametrize(
    "threads, registers, shared, blocks, limiter",
    [
        (128, 32, 8192, 16, "threads and registers"),  # the transform at T = 8
        (128, 48, 16512, 10, "registers"),
        (128, 80, 33024, 6, "registers and shared memory"),
        (128, 156, 66048, 3, "registers and shared memory"),
        (256, 128, 46080, 2, "registers"),
        (32, 16, 0, 32, "blocks"),
        (32, 16, 227 * 1024, 1, "shared memory"),
        (32, 16, 227 * 1024 + 1, 0, "shared memory"),  # no launch
        (1025, 16, 0, 0, "threads"),
        (992, 66, 0, 0, "registers"),  # 31 warps of 2304 fit; 32 would not, and the hardware asks for 32
    ],
)
def test_on_hopper(threads: int, registers: int, shared: int, blocks: int, limiter: str) -> None:
    found = occupancy(HOPPER, threads, registers, shared)
    assert (found.blocks, found.limiter) == (blocks, limiter)
    assert found.share == blocks * -(-threads // 32) / 64


def test_gpus_have_the_peaks_of_their_datasheets() -> None:
    peaks = {gpu.name: round(gpu.flops / 1e12, 1) for gpu in GPUS}
    assert peaks == {"H200": 66.9, "H100": 66.9, "A100": 19.5, "A40": 37.4, "L40S": 91.6, "RTX 4090": 82.6}


def test_unknown_gpus() -> None:
    assert find_gpu(arch="sm_89").name == "L40S" and find_gpu("h100", "sm_90").name == "H100"
    with pytest.raises(InvalidOptionError, match=r"'sm_75'.*sm_80 \(A100\), sm_86 \(A40\), sm_89 \(L40S\), sm_90 \(H"):
        find_gpu(arch="sm_75")
    with pytest.raises(InvalidOptionError, match="'V100': it must be one of H200, H100, A100, A40, L40S, RTX 4090"):
        find_gpu("V100")
    with pytest.raises(InvalidOptionError, match="A100 is sm_80"):
        find_gpu("A100", "sm_90")
