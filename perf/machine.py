"""What the timings ran on: processor, versions, and whether anybody else was using it."""

import os
import platform
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("numba", "llvmlite", "numpy", "scipy", "torch")


def processor() -> str:
    """The model name of the CPU as the system gives it, and its vectors: one name stands for several generations."""
    from numba_fftconv.cpu.registers import registers

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {8 * registers().nbytes}-bit vectors"


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """The version of Python and of every package that a figure depends on."""
    import numba_fftconv

    found = {"python": platform.python_version(), "numba_fftconv": numba_fftconv.__version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def load_average() -> float | None:
    """The load average of the last minute, None where the system keeps none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe(threads: int, packages: Iterable[str] = PACKAGES) -> dict[str, object]:
    """The heading of a result: device, versions, date, threads, load average."""
    return {
        "device": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "threads": threads,
        "versions": versions(packages),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": load_average(),
    }


class Gate:
    """Holds samples back until nothing else runs, for `patience` seconds in all; then lets them through, counting.

    The peer's own worker threads spin for a moment after a call: the gate waits for those too, so that no side is timed
    against the tail of the other.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.samples = 0
        self.quiet_samples = 0

    @staticmethod
    def quiet() -> bool:
        """True if this thread is the only one that runs on the machine, as far as the system tells."""
        try:
            return Path("/proc/loadavg").read_text().split()[3].split("/")[0] == "1"
        except OSError:
            return True

    def wait(self) -> bool:
        """Returns when the machine is quiet or patience has run out; says which."""
        start = time.perf_counter()
        while not (quiet := self.quiet()) and time.perf_counter() - start < self.patience:
            time.sleep(0.0005)
        self.patience = max(0.02, self.patience - (time.perf_counter() - start))
        self.samples += 1
        self.quiet_samples += quiet
        return quiet

    @property
    def quiet_share(self) -> float:
        return self.quiet_samples / max(1, self.samples)
